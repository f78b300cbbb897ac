"""Batches, losses, the two train steps, the optimiser, checkpoints."""
