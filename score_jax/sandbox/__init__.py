"""The Python that an agent's code runs in, kept apart from the machine."""
