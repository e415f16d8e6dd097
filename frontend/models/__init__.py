"""Models: layer graphs, stacks and subclasses, with their training."""

from .config import clone_model, model_from_json
from .model import Functional, Model
from .sequential import Sequential

__all__ = ["Functional", "Model", "Sequential", "clone_model", "model_from_json"]
