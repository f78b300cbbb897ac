"""Training: batches, losses, the train step, SFT, policy gradient, optimizers, checkpoints."""
