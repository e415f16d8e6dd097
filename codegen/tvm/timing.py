"""Programs that note when each of their calls began and ended.

    Loop(8, (Call("cell", ...),))   ->   Loop(8, (Stamp(+0), Call("cell", ...), Stamp(+16)))

The times lie in a block of their own, 32 bytes for each event and each step of the loops around
it. A loop of unknown length is one event, for nothing says how many times there are to note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .entry import Address, Branch, Call, Copy, Loop, Stamp, Statement, While

_STAMP = 16  # bytes of one time


@dataclass(frozen=True)
class Event:
    """A call, a copy or a loop of unknown length, once for each step of the loops around it.

    Attributes
    ----------
    name : str
        Of the kernel, or "copy" or "while".
    steps : tuple of int
        Lengths of the loops around it, the outermost first.
    offset : int
        Where in the log its times begin, in bytes.
    """

    name: str
    steps: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """How often it happens."""
        return math.prod(self.steps)

    def times(self, log: np.ndarray) -> np.ndarray:
        """Begin and end in nanoseconds of each time, i64 `[count, 2]`; zeros where it did not.

        Parameters
        ----------
        log : ndarray
            The block of times as bytes, which were 0 before the run.
        """
        stamps = log[self.offset : self.offset + 2 * _STAMP * self.count].view(np.int64)
        seconds, nanoseconds = stamps.reshape(self.count, 2, 2).transpose(2, 0, 1)
        return np.asarray(seconds * 1_000_000_000 + nanoseconds)


@dataclass
class Timed:
    """Statements with stamps, and what the stamps mean.

    Attributes
    ----------
    base : int
        Position of the log in the table of base pointers.
    """

    base: int
    statements: tuple[Statement, ...] = ()
    events: list[Event] = field(default_factory=list)
    nbytes: int = 0

    def all(self, statements: Sequence[Statement], steps: tuple[int, ...]) -> list[Statement]:
        """Statements inside of so many loops, with stamps."""
        return [each for statement in statements for each in self._one(statement, steps)]

    def _one(self, statement: Statement, steps: tuple[int, ...]) -> list[Statement]:
        if isinstance(statement, Loop):
            body = self.all(statement.body, (*steps, len(statement.steps)))
            return [replace(statement, body=tuple(body))]
        if isinstance(statement, Branch):
            then, otherwise = self.all(statement.then, steps), self.all(statement.otherwise, steps)
            return [Branch(statement.flag, tuple(then), tuple(otherwise))]
        assert isinstance(statement, Call | Copy | While)
        name = statement.kernel if isinstance(statement, Call) else type(statement).__name__.lower()
        event = Event(name, steps, self.nbytes)
        self.events.append(event)
        self.nbytes += 2 * _STAMP * event.count
        begin = Address(self.base, event.offset)
        for loop in range(len(steps)):
            begin = begin.stepped(loop, 2 * _STAMP * math.prod(steps[loop + 1 :]))
        return [Stamp(begin), statement, Stamp(begin.plus(_STAMP))]


def timed(statements: Sequence[Statement], base: int) -> Timed:
    """Put stamps around all that a program does.

    Parameters
    ----------
    statements : sequence of Statement
    base : int
        A free position in the table of base pointers, for the log.
    """
    found = Timed(base)
    found.statements = tuple(found.all(statements, ()))
    return found
