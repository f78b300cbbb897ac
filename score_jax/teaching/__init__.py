"""The teacher: demonstrate, locate the earliest error, correct it."""
