"""Signs that a policy gradient is going wrong, before a run is wasted."""
