"""The student at work: the text protocol and the rollout loop."""
