"""The results of a run: the final table, the charts, and a browser of trajectories in one HTML file."""
