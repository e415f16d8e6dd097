"""The measured models by name, each written once over any namespace that speaks Keras.

`BENCH_MODELS["cnn"].build(keras)` and `BENCH_MODELS["cnn"].build(hornfels)` give the same model.
"""

from __future__ import annotations

from .bench_model import BenchModel
from .large_models import LARGE_MODELS
from .small_models import SMALL_MODELS

BENCH_MODELS: dict[str, BenchModel] = {m.name: m for m in (*SMALL_MODELS, *LARGE_MODELS)}
SETS: dict[str, tuple[str, ...]] = {
    "small": tuple(m.name for m in SMALL_MODELS),
    "large": tuple(m.name for m in LARGE_MODELS),
    "all": tuple(BENCH_MODELS),
}
"""Names that stand for several models."""
