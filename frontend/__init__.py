"""The language: Keras' names for models, layers, ops, losses, metrics and optimizers."""
