"""Models: layer graphs, stacks and subclasses, with their training."""

from .model import Functional, Model
from .sequential import Sequential

__all__ = ["Functional", "Model", "Sequential"]
