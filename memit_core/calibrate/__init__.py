"""Hyperparameters for a model that has no preset, found on the model itself."""
