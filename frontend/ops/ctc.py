"""Connectionist temporal classification (Graves et al., 2006): its loss, and decoding.

A sequence of labels is aligned to a longer one of frames: every label lasts one or more frames,
and between any two labels there may be frames of a blank, which must be between equal ones.
"""

from __future__ import annotations

from typing import Any

from ...ir import sugar
from ...ir.builder import Builder
from ...ir.errors import ArgumentError, ShapeError
from ...ir.graph import Value
from ...ir.op import get as primitive
from ...ir.types import boolean, f32, f64, i32
from ..operation import operation
from .activation import log_softmax_of
from .core import floating, tensor

_IMPOSSIBLE = -1e5
"""The logarithm of a probability of 0, with room for sums."""


def _scores(op: str, x: Any) -> Value:
    """`(batch, frames, classes)` in f32 or f64."""
    x = floating(x)
    if x.ndim != 3:
        raise ShapeError(f"{op}: scores must have shape (batch, frames, classes), got {x.type}")
    return x if x.dtype == f64 else sugar.cast(x, f32)


def _either(a: Value, b: Value) -> Value:
    """`log(exp(a) + exp(b))` of finite numbers."""
    high, low = sugar.binary("maximum", a, b), sugar.binary("minimum", a, b)
    return high + sugar.unary("log1p", sugar.unary("exp", low - high))


def _moved(x: Value, by: int, fill: float) -> Value:
    """Columns moved to the right."""
    return primitive("pad")(x, low=(0, by), high=(0, -by), interior=(0, 0), value=fill)


def _along_frames(x: Value) -> Value:
    return sugar.transpose(x, (1, 0, *range(2, x.ndim)))


def _is_frame(lengths: Value, frames: int) -> Value:
    """`(frames, batch)`: whether a frame belongs to its sequence."""
    number = primitive("iota")(shape=(frames, lengths.shape[0]), axis=0, dtype=i32)
    return number < lengths


# --- loss ------------------------------------------------------------------------------------


@operation
def ctc_loss(
    target: Any, output: Any, target_length: Any, output_length: Any, mask_index: int = 0
) -> Any:
    """`-log` of the probability of the labels, summed over all alignments to the frames.

    Parameters
    ----------
    target : tensor of integers, shape `(batch, labels)`
    output : tensor, shape `(batch, frames, classes)`
        Logits.
    target_length, output_length : vectors of integers
        How many of the labels and frames of each sequence count.
    mask_index : int
        The class that is the blank.

    Returns
    -------
    tensor of shape `(batch,)`
    """
    logits = _scores("ctc_loss", output)
    labels = sugar.cast(tensor(target), i32)
    label_count, frame_count = (sugar.cast(tensor(v), i32) for v in (target_length, output_length))
    if labels.ndim != 2 or labels.shape[0] != logits.shape[0]:
        raise ShapeError(
            f"ctc_loss: target must have shape (batch, labels), got {labels.type} for {logits.type}"
        )
    blank = mask_index % int(logits.shape[2])
    states = _with_blanks(labels, blank)
    emitted = _along_frames(_chosen(log_softmax_of(logits, -1), states))
    skips = _may_skip(states, blank)
    last = _last_scores(emitted, _is_frame(frame_count, int(logits.shape[1])), skips)
    ends = 2 * label_count
    total = _either(_at(last, ends), sugar.select(ends > 0, _at(last, ends - 1), _IMPOSSIBLE))
    return -total


def _with_blanks(labels: Value, blank: int) -> Value:
    """Blank, label, blank, label, ..., blank: what the frames go through."""
    return primitive("pad")(labels, low=(0, 1), high=(0, 1), interior=(0, 1), value=float(blank))


def _chosen(logs: Value, states: Value) -> Value:
    """For every frame the score of each state's class: a product with the one-hot classes."""
    classes = logs.shape[2]
    batch, count = states.shape
    number = primitive("iota")(shape=(batch, classes, count), axis=1, dtype=i32)
    hot = sugar.binary("equal", number, sugar.reshape(states, (batch, 1, count)))
    return sugar.matmul(logs, sugar.cast(hot, logs.dtype))


def _may_skip(states: Value, blank: int) -> Value:
    """Where the blank before may be left out: at labels that differ from the one before."""
    earlier = _moved(states, 2, float(blank))
    return sugar.binary("not_equal", states, blank) & sugar.binary("not_equal", states, earlier)


def _last_scores(emitted: Value, is_frame: Value, skips: Value) -> Value:
    """The logarithm of the probability to be in each state after the last frame."""
    frames, batch, count = emitted.shape
    first = sugar.full((batch, 1), 0.0, emitted.dtype)
    rest = sugar.full((batch, count - 1), _IMPOSSIBLE, emitted.dtype)
    start = primitive("concat")(first, rest, axis=1)  # before all frames: as if in a first blank
    with Builder("ctc_step") as builder:
        state = builder.input("state", start.type)
        now = builder.input("emitted", emitted.type.with_shape(emitted.shape[1:]))
        counts = builder.input("is_frame", boolean(batch))
        skip = builder.input("skips", skips.type)
        reached = _either(state, _moved(state, 1, _IMPOSSIBLE))
        jumped = sugar.select(skip, _moved(state, 2, _IMPOSSIBLE), _IMPOSSIBLE)
        after = sugar.binary("maximum", _either(reached, jumped) + now, 10 * _IMPOSSIBLE)
        kept = sugar.select(sugar.reshape(counts, (batch, 1)), after, state)
        body = builder.finish({"state": kept})
    return primitive("scan")(
        start, emitted, is_frame, skips, body=body, carry=1, stacked=2, length=frames
    )


def _at(rows: Value, index: Value) -> Value:
    """One element of each row."""
    at = sugar.reshape(sugar.binary("maximum", index, 0), (-1, 1))
    return sugar.reshape(primitive("take_along")(rows, at, axis=1), (-1,))


# --- decoding --------------------------------------------------------------------------------


@operation
def ctc_decode(
    inputs: Any, sequence_lengths: Any, strategy: str = "greedy", beam_width: int = 100,
    top_paths: int = 1, merge_repeated: bool = True, mask_index: int | None = 0,
) -> Any:  # fmt: skip
    """The most probable labels of frames.

    Parameters
    ----------
    inputs : tensor, shape `(batch, frames, classes)`
        Logits.
    sequence_lengths : vector of integers
        How many frames of each sequence count.
    strategy : str
        `greedy`: the best class of each frame; `beam_search`: the best sequences of labels,
        each summed over its alignments.
    beam_width : int
        How many sequences the search keeps.
    top_paths : int
        How many sequences `beam_search` returns.
    merge_repeated : bool
        Whether `greedy` takes equal classes of neighbouring frames for one label.
    mask_index : int or None
        The class that is the blank; None is the last one.

    Returns
    -------
    tuple of tensors
        Labels `(top_paths, batch, frames)`, followed by -1; and `(batch, 1)` with minus the sum
        of the best logits (`greedy`), or `(batch, top_paths)` logarithms of probabilities.
    """
    x = _scores("ctc_decode", inputs)
    lengths = sugar.cast(tensor(sequence_lengths), i32)
    blank = int(x.shape[2]) - 1 if mask_index is None else mask_index % int(x.shape[2])
    if strategy == "greedy":
        return _greedy(x, lengths, merge_repeated, blank)
    if strategy == "beam_search":
        return _beam_search(x, lengths, int(beam_width), int(top_paths), blank)
    raise ArgumentError(f"ctc_decode: strategy must be greedy or beam_search, got {strategy!r}")


def _greedy(x: Value, lengths: Value, merge: bool, blank: int) -> tuple[Value, Value]:
    batch, frames, _ = x.shape
    counts = sugar.transpose(_is_frame(lengths, int(frames)))
    best = sugar.select(counts, primitive("argmax")(x, axis=2), blank)
    score = sugar.select(counts, sugar.reduce("reduce_max", x, 2), 0)
    if merge:
        again = sugar.binary("equal", best, _moved(best, 1, -1.0))
        best = sugar.select(again, blank, best)
    is_blank = sugar.binary("equal", best, blank)
    number = primitive("iota")(shape=(batch, frames), axis=1, dtype=i32)
    order = primitive("argsort")(sugar.select(is_blank, frames, number), axis=1, descending=False)
    labels = primitive("take_along")(sugar.select(is_blank, -1, best), order, axis=1)
    total = -sugar.reduce("reduce_sum", score, 1, keepdims=True)
    return sugar.reshape(labels, (1, batch, frames)), total


_DEAD = -1e30
"""The score of a place in the beam that holds no sequence."""


def _beam_search(
    x: Value, lengths: Value, width: int, count: int, blank: int
) -> tuple[Value, Value]:
    """Prefix beam search (Graves and Jaitly, 2014).

    Each kept sequence has two scores: of the alignments that end with a blank, and of those
    that end with its last label.
    """
    batch, frames, classes = (int(d) for d in x.shape)
    logs = _along_frames(log_softmax_of(x, -1))
    alive = primitive("iota")(shape=(batch, width), axis=1, dtype=i32) < 1
    with_blank = sugar.select(alive, sugar.value(0.0, x.dtype), sugar.value(_DEAD, x.dtype))
    with_label = sugar.full((batch, width), _DEAD, x.dtype)
    paths = sugar.full((batch, width, frames), -1, i32)
    sizes = sugar.full((batch, width), 0, i32)
    state = (paths, sizes, with_blank, with_label)
    with Builder("beam_step") as builder:
        old = tuple(builder.input(f"state_{i}", v.type) for i, v in enumerate(state))
        now = builder.input("logs", logs.type.with_shape((batch, classes)))
        counts = builder.input("is_frame", boolean(batch))
        found = _beam_step(*old, now, blank)
        chosen = [
            sugar.select(sugar.reshape(counts, (batch, *(1,) * (a.ndim - 1))), a, b)
            for a, b in zip(found, old, strict=True)
        ]
        body = builder.finish({f"state_{i}": v for i, v in enumerate(chosen)})
    paths, _, with_blank, with_label = primitive("scan").all(
        *state, logs, _is_frame(lengths, frames), body=body, carry=4, stacked=2, length=frames
    )
    total, best = primitive("top_k").all(_either(with_blank, with_label), k=min(count, width))
    labels = _of_beams(paths, best)
    return sugar.transpose(labels, (1, 0, 2)), total


def _of_beams(x: Value, beams: Value) -> Value:
    """The rows of `(batch, width, ...)` that `(batch, n)` names."""
    at = sugar.reshape(beams, (*beams.shape, *(1,) * (x.ndim - 2)))
    at = sugar.broadcast_to(at, (*beams.shape, *x.shape[2:]))
    return primitive("take_along")(x, at, axis=1)


def _beam_step(
    paths: Value, sizes: Value, with_blank: Value, with_label: Value, logs: Value, blank: int
) -> tuple[Value, ...]:
    """One frame: sequences stay as they are or grow by a label; the best are kept."""
    batch, width, frames = (int(d) for d in paths.shape)
    classes = int(logs.shape[1])
    last = _last_labels(paths, sizes)
    total = _either(with_blank, with_label)
    stays_blank = total + logs[:, blank : blank + 1]
    of_last = primitive("take_along")(logs, sugar.binary("maximum", last, 0), axis=1)
    stays_label = sugar.select(last >= 0, with_label + of_last, _DEAD)
    number = primitive("iota")(shape=(batch, width, classes), axis=2, dtype=i32)
    same = sugar.binary("equal", number, sugar.reshape(last, (batch, width, 1)))
    before = sugar.select(same, with_blank[:, :, None], total[:, :, None])
    grown = sugar.select(sugar.binary("equal", number, blank), _DEAD, before + logs[:, None, :])
    merged, grown = _merge(paths, sizes, last, grown, number)
    stays_label = _either(stays_label, merged)
    candidates = primitive("concat")(
        _either(stays_blank, stays_label), sugar.reshape(grown, (batch, width * classes)), axis=1
    )
    score, place = primitive("top_k").all(candidates, k=width)
    grows = place >= width
    extra = sugar.select(grows, place - width, 0)
    parent = sugar.select(grows, sugar.floor_divide(extra, classes), place)
    label = sugar.binary("remainder", extra, classes)
    kept_paths, kept_sizes = _of_beams(paths, parent), _of_beams(sizes, parent)
    position = primitive("iota")(shape=(batch, width, frames), axis=2, dtype=i32)
    added = sugar.binary("equal", position, kept_sizes[:, :, None]) & grows[:, :, None]
    return (
        sugar.select(added, label[:, :, None], kept_paths),
        sugar.select(grows, kept_sizes + 1, kept_sizes),
        sugar.select(grows, _DEAD, _of_beams(stays_blank, parent)),
        sugar.select(grows, score, _of_beams(stays_label, parent)),
    )


def _last_labels(paths: Value, sizes: Value) -> Value:
    """`(batch, width)`: the last label, -1 of an empty sequence."""
    at = sugar.binary("maximum", sizes - 1, 0)[:, :, None]
    found = primitive("take_along")(paths, at, axis=2)
    return sugar.select(sizes > 0, found[:, :, 0], -1)


def _merge(
    paths: Value, sizes: Value, last: Value, grown: Value, number: Value
) -> tuple[Value, Value]:
    """Where a sequence grows into another kept one: what that gains, and the rest."""
    batch, width, frames = (int(d) for d in paths.shape)
    child, parent = paths[:, :, None, :], paths[:, None, :, :]
    position = primitive("iota")(shape=(batch, width, width, frames), axis=3, dtype=i32)
    inside = position < sizes[:, None, :, None]
    equal = sugar.binary("equal", child, parent) | sugar.unary("logical_not", inside)
    grows = sugar.binary("equal", sizes[:, :, None], sizes[:, None, :] + 1)
    is_child = grows & sugar.reduce("reduce_all", equal, 3)  # [batch, child, parent]
    label = sugar.broadcast_to(sugar.binary("maximum", last, 0)[:, None, :], (batch, width, width))
    gains = primitive("take_along")(grown, label, axis=2)  # [batch, parent, child]
    gains = sugar.select(is_child, sugar.transpose(gains, (0, 2, 1)), _DEAD)
    gained = sugar.reduce("reduce_max", gains, 2)  # a sequence has one parent
    hit = sugar.binary("equal", number[:, None, :, :], last[:, :, None, None])
    taken = sugar.reduce("reduce_any", hit & is_child[..., None], 1)
    return gained, sugar.select(taken, _DEAD, grown)


__all__ = ["ctc_decode", "ctc_loss"]
