"""What a run came to: the final table, the charts, and a browser of trajectories in one HTML file."""
