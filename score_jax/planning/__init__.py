"""What a run needs on chips that are not at hand: its programs, compiled ahead of time, and what is resident when."""
