"""`memory_budget`: what users say, what they get, and what is refused."""

import numpy as np
import pytest

import hornfels as hf
from hornfels import layers
from hornfels.ir.errors import ArgumentError, BackendError, MemoryBudgetError
from hornfels.runtime.executable import parse_bytes


@pytest.mark.parametrize(
    ("amount", "nbytes"),
    [(1, 1), ("1", 1), ("2kB", 2000), ("1.5 KiB", 1536), ("3mb", 3_000_000), ("1GiB", 1 << 30),
     (" 2 TB ", 2 * 10**12), ("7 B", 7)],
)  # fmt: skip
def test_amounts_of_memory(amount, nbytes):
    assert parse_bytes(amount) == nbytes


@pytest.mark.parametrize("amount", [0, -5, "", "much", "1.5", "0.2 B", "5 GHz", "1e9"])
def test_what_is_no_amount_of_memory(amount):
    if amount == "1.5":
        assert parse_bytes(amount) == 1
        return
    with pytest.raises(ArgumentError, match="memory_budget must be a number of bytes"):
        parse_bytes(amount)


def deep_model():
    hf.utils.set_random_seed(3)
    model = hf.Sequential([layers.Input((16, 16, 8))])
    for _ in range(6):
        model.add(layers.Conv2D(8, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(3))
    model.compile("sgd", "mse")
    return model


def losses(**options):
    rng = np.random.default_rng(1)
    x, y = rng.random((16, 16, 16, 8), np.float32), rng.random((16, 3), np.float32)
    fast = hf.compile(deep_model(), **options)
    found = [fast.train_on_batch(x, y) for _ in range(3)]
    step = fast.step("train", {"x": hf.ir.types.type_of(x), "y": hf.ir.types.type_of(y)})
    return found, step.executable(16)


def total(executable):
    graph = executable.graph
    values = (*graph.inputs, *graph.state, *graph.outputs)
    constants = sum(array.nbytes for array in executable.plan.constants)
    return sum(v.type.nbytes for v in values) + constants + executable.peak_bytes


def test_a_step_fits_its_budget_and_computes_the_same():
    expected, free = losses()
    budget = total(free) * 4 // 5
    found, fitted = losses(memory_budget=budget)
    assert total(fitted) <= budget < total(free)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert "optimization_barrier" in str(fitted.graph)
    assert "optimization_barrier" not in str(free.graph)


def test_a_budget_that_is_too_small_names_one_that_is_not():
    with pytest.raises(MemoryBudgetError, match="the memory budget is 1000") as caught:
        losses(memory_budget="1 kB")
    minimum = caught.value.minimum
    _, fitted = losses(memory_budget=int(minimum * 1.02))
    assert total(fitted) <= minimum * 1.02


def test_models_take_a_budget_when_they_are_compiled():
    model = deep_model()
    model.compile("sgd", "mse", memory_budget="10 kB")
    with pytest.raises(MemoryBudgetError):
        model.fit(np.zeros((16, 16, 16, 8)), np.zeros((16, 3)), batch_size=16, verbose=0)


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_other_backends_have_no_budget(backend):
    with pytest.raises(BackendError, match=f'backend "{backend}" knows no memory budget'):
        hf.compile(deep_model(), backend=backend, memory_budget="1GB")


def test_functions_take_a_budget():
    square = hf.compile(lambda x: x * x, [((8,), "float32")], memory_budget="1 MB")
    np.testing.assert_array_equal(square(np.arange(8, dtype=np.float32)), np.arange(8.0) ** 2)
