"""The decoder (Flax NNX), its configuration, and its weights: loading, sharding, adapters, saving."""
