"""What a run needs on chips that are not at hand: its programs, compiled ahead of time, memory and time."""
