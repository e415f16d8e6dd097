"""The memory that programs work in: blocks of it, and an arena that programs share."""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from dataclasses import dataclass

import numpy as np

from ..codegen.native.fork import renew_in_children

ALIGNMENT = 64
"""Kernels assume memory that begins at multiples of so many bytes."""
_OWN_PAGES = 1 << 20
"""Blocks of so many bytes are pages of their own, which go back to the system with the block."""
_HUGE = 1 << 22
"""Blocks of so many bytes may be made of huge pages, as arrays of NumPy are."""


def address_of(array: np.ndarray) -> int:
    """Where an array's memory begins."""
    address: int = array.__array_interface__["data"][0]
    return address


def align(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Block:
    """Bytes that begin at a multiple of `ALIGNMENT`; what they hold at first is not determined.

    Parameters
    ----------
    nbytes : int

    Attributes
    ----------
    bytes : ndarray
        u8[nbytes].
    address : int
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        whole = _pages(nbytes) if nbytes >= _OWN_PAGES and hasattr(mmap, "MAP_PRIVATE") else None
        if whole is None:
            whole = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = -address_of(whole) % ALIGNMENT
        self.bytes = whole[start : start + nbytes]
        self.address = address_of(whole) + start


def _pages(nbytes: int) -> np.ndarray:
    pages = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


@dataclass(eq=False)
class Claim:
    """What a program needs of an arena.

    Attributes
    ----------
    nbytes : int
        For what a run computes and forgets.
    kept_bytes : int
        For what is computed once and kept between runs.
    reads : frozenset of str
        The state that decides what is kept.
    writes : frozenset of str
        The state that a run changes.
    kept_at : int or None
        Where in the arena that lies; None if the place was given to something else.
    """

    nbytes: int
    kept_bytes: int = 0
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    kept_at: int | None = None


class Arena:
    """One block of memory for several programs, of which one runs at a time.

    It is as large as the program asks for that needs most: the others work in the same bytes.
    What a program keeps between its runs lies behind what the others work in, where it can. But a
    training step may overwrite what a prediction keeps of the weights: that is out of date when
    the step is done.

    Attributes
    ----------
    lock : threading.Lock
        Held while a program works in the arena.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._block = Block(0)
        self._floor = 0  # programs that change nothing work below
        self._last: weakref.ref[Claim] | None = None
        self._claims: weakref.WeakSet[Claim] = weakref.WeakSet()  # those that keep something
        renew_in_children(self)

    @property
    def nbytes(self) -> int:
        """The bytes that are there."""
        return self._block.nbytes

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._block.address

    def make_room(self, claim: Claim) -> bool:
        """Get a program's memory ready for a run; the caller holds `lock`.

        Returns whether the arena still holds what the program keeps.
        """
        if self._last is not None and self._last() is claim:
            return True
        self._last = None  # unless all goes well
        self._overwrite(claim)
        is_there = claim.kept_at is not None or not claim.kept_bytes
        if is_there:
            self._grow(claim.nbytes)
        else:
            self._floor = max(self._floor, align(claim.nbytes))
            self._claims.add(claim)
            self._grow(self._gap(claim.kept_bytes) + claim.kept_bytes)
            claim.kept_at = self._gap(claim.kept_bytes)
        self._last = weakref.ref(claim)
        return is_there

    def put(self, claim: Claim, byte: int) -> None:
        """Set the first byte of what a program keeps."""
        assert claim.kept_at is not None
        self._block.bytes[claim.kept_at] = byte

    def _gap(self, nbytes: int) -> int:
        """The first place above the floor for so many bytes to keep."""
        at = self._floor
        taken = ((c.kept_at, c.kept_bytes) for c in self._claims if c.kept_at is not None)
        for start, size in sorted(taken):
            if at + nbytes <= start:
                break
            at = max(at, align(start + size))
        return at

    def _overwrite(self, claim: Claim) -> None:
        """Give the place of what others keep to a program, if it works there."""
        for other in self._claims:
            if other.kept_at is not None and other.kept_at < claim.nbytes:
                other.kept_at = None
                if claim.writes.isdisjoint(other.reads):  # it shall lie elsewhere next time
                    self._floor = max(self._floor, align(claim.nbytes))

    def _grow(self, nbytes: int) -> None:
        """Have at least so many bytes; what was kept is lost if it must be a new block."""
        if self._block.nbytes >= nbytes:
            return
        for claim in self._claims:
            claim.kept_at = None
        room_for_all = self._floor + sum(align(claim.kept_bytes) for claim in self._claims)
        self._block = Block(0)  # not two at a time
        self._block = Block(max(nbytes, room_for_all))

    def forked(self) -> None:
        """Have a lock that no thread of the parent process holds."""
        self.lock = threading.Lock()
