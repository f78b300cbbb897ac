"""The decoder (Flax NNX), its configuration, and weights in and out."""
