"""What an action reaches: the Python that an agent's code runs in, and the search it can call from there."""
