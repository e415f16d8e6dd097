"""The errors that Hornfels raises for input that it refuses."""

from __future__ import annotations

from typing import Any


class HornfelsError(Exception):
    """Base of every error that Hornfels raises on purpose.

    `where` (a layer and a source line) and `hint` (a cure) are appended to the message once
    they are known; see `at`.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def at(self, where: str) -> HornfelsError:
        """Remember where the error arose, unless a place nearer to it is known already."""
        self.where = self.where or where
        return self

    def __str__(self) -> str:
        text = self.message
        if self.where:
            text += f"\n  in {self.where}"
        if self.hint:
            text += f"\n  hint: {self.hint}"
        return text


class ShapeError(HornfelsError, ValueError):
    """A shape, rank or axis is not what an operation needs."""


class OpenSizeError(ShapeError):
    """A size that the trace leaves open stands where a number is needed."""


class DTypeError(HornfelsError, TypeError):
    """A dtype is not what an operation needs."""


class ArgumentError(HornfelsError, ValueError):
    """An argument (a name, an option, a number of inputs) is not one of the legal ones."""


class LabelError(HornfelsError, ValueError):
    """A label is not one of the classes."""


class GradientError(HornfelsError, ValueError):
    """A gradient was asked for that does not exist."""


class VerifyError(HornfelsError, ValueError):
    """A graph breaks a rule of the IR."""


class ParseError(HornfelsError, ValueError):
    """A text is no graph; the message names the line."""


class PassError(HornfelsError, RuntimeError):
    """A pass failed or returned a graph that does not verify; `rewrite` is what it was at."""

    rewrite: Any = None


class LoweringError(HornfelsError, RuntimeError):
    """A backend or a target cannot express a graph."""


class MemoryBudgetError(HornfelsError, MemoryError):
    """A step does not fit its memory budget; `minimum` is the bytes that it needs at least."""

    def __init__(self, message: str, *, minimum: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.minimum = minimum


class BackendError(HornfelsError, RuntimeError):
    """A backend is unknown, or what it needs is not installed."""


class FileError(HornfelsError, OSError):
    """A file cannot be written where it was asked for."""


class CheckpointError(HornfelsError, RuntimeError):
    """A file of weights is damaged or does not fit the model."""


class FuzzError(HornfelsError, RuntimeError):
    """Backends or passes disagree about a graph."""
