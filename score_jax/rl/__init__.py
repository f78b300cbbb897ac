"""Policy gradient from verified prefixes: rewards, the loop, and alarms."""
