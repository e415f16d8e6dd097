"""The exact bytes of the plans of whole training steps, so that a change that needs more shows."""

from __future__ import annotations

import pytest
from packing import lower_bound

import hornfels as hf
from hornfels.benchmarks.models import BENCH_MODELS
from hornfels.passes import memory
from hornfels.passes.pipeline import make_plan, optimize

PEAKS = {
    "mlp": 1_867_840,
    "cnn": 25_057_856,
    "resnet": 149_093_568,
    "lstm": 47_649_856,
    "transformer": 152_081_472,
    "gru-text": 39_614_528,
}
"""Bytes of the arena for a step of the model's own batch size; less may be noted here."""


@pytest.mark.parametrize(("name", "peak"), PEAKS.items())
def test_a_training_step_needs_no_more_than_it_did(name, peak, monkeypatch):
    bounds, pack = [], memory.pack

    def note(buffers):
        bounds.append(lower_bound(buffers))
        return pack(buffers)

    monkeypatch.setattr(memory, "pack", note)
    model = BENCH_MODELS[name]
    built = model.build(hf)
    graph, _ = built.trace("train", built.declared_types("train"))
    plan = make_plan(optimize(graph.specialize({"N": model.batch_size})))
    assert plan.arena_bytes <= peak
    assert plan.arena_bytes == min(bounds[-2:])  # the better of two orders; no byte is lost in gaps
    assert plan.prepared_bytes == 0
    assert not plan.copies
    assert all(plan.slots[new] == plan.slots[old] for old, new in plan.graph.updates)
