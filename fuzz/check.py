"""One graph on all variants, against what the oracle says that they must give."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..ir.errors import HornfelsError
from ..ir.graph import Graph
from ..ir.settings import settings
from .arrays import arrays_for
from .numerics import Expected, Sharpness, Undefined, expect
from .variants import Variant, lacks


@dataclass(frozen=True)
class Failure:
    """Something wrong with a graph.

    Attributes
    ----------
    kind : str
        ``value`` (a wrong number), ``error`` (an exception), ``crash`` (the process died),
        ``timeout``, ``oracle`` (the oracle itself raises) or ``generate``.
    variant : Variant
    text : str
        What happened, in a line.
    signature : str
        Equal for failures that are likely the same.
    detail : str
        The traceback, if any.
    """

    kind: str
    variant: Variant
    text: str
    signature: str = ""
    detail: str = ""

    def is_like(self, other: Failure) -> bool:
        """Whether a smaller graph that fails so shows the same fault."""
        return (self.kind, self.variant, self.signature) == (
            other.kind, other.variant, other.signature)  # fmt: skip


@dataclass
class Verdict:
    """What a graph did on all variants."""

    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # by backend: the op that it lacks
    sharpness: Sharpness = field(default_factory=Sharpness)
    undefined: str = ""
    ran: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Verdict:
        failures = [Failure(**{**f, "variant": Variant(**f["variant"])}) for f in data["failures"]]
        sharpness = Sharpness(**data["sharpness"])
        return Verdict(**{**data, "failures": failures, "sharpness": sharpness})


def check(
    graph: Graph,
    seed: int,
    variants: Sequence[Variant],
    steps: int,
    *,
    threads: int = 1,
    numbers: bool = True,
    arrays: Mapping[str, np.ndarray] | None = None,
    began: Callable[[Variant], None] = lambda variant: None,
) -> Verdict:
    """Run a graph on all variants.

    Parameters
    ----------
    seed : int
        Of the arrays, see `arrays_for`.
    numbers : bool
        Whether to compare them; without, only errors and crashes are found, sooner.
    arrays : mapping of str to array, optional
        Inputs and state, instead of those of the seed.
    began : callable
        Told what runs next, so that a crash can be blamed.
    """
    verdict = Verdict()
    arrays = arrays_for(graph, seed) if arrays is None else arrays
    expected = Expected([], [])
    began(Variant("oracle"))
    try:
        if numbers:
            expected = expect(graph, arrays, steps, seed)
    except Undefined as undefined:
        verdict.undefined = str(undefined)
        return verdict
    except Exception as error:  # noqa: BLE001 - whatever the oracle raises is what we look for
        verdict.failures.append(_failure("oracle", Variant("oracle"), error))
        return verdict
    verdict.sharpness = expected.sharpness
    for variant in variants:
        missing = lacks(graph, variant.backend)
        if missing:
            verdict.skipped[variant.backend] = missing
            continue
        began(variant)
        try:
            with settings(num_threads=threads):
                found = variant.run(graph, arrays, steps)
        except Exception as error:  # noqa: BLE001
            verdict.failures.append(_failure("error", variant, error))
        else:
            verdict.ran += 1
            difference = expected.compare(found)
            if difference:
                text = f"{difference.name} of step {difference.step} {difference.text}"
                verdict.failures.append(Failure("value", variant, text))
    return verdict


def _failure(kind: str, variant: Variant, error: Exception) -> Failure:
    message = error.message if isinstance(error, HornfelsError) else str(error)
    text = f"{type(error).__name__}: {message.strip().splitlines()[0] if message.strip() else ''}"
    detail = "".join(traceback.format_exception(error)[-12:])
    return Failure(kind, variant, text[:400], signature_of(text), detail[-4000:])


def signature_of(text: str) -> str:
    """A message without its numbers and names of values."""
    return re.sub(r"[\d.]+|%\S+|'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "", text)[:80]
