"""The teacher at work: demonstrate, locate the earliest error, correct it, reward."""
