"""Teachers: they demonstrate, locate the earliest error and correct it; and the leak guard and judges they use."""
