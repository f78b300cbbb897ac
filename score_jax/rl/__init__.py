"""Policy gradient from verified prefixes: rewards, the training loop, and alarms."""
