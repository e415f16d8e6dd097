"""Constants, counting and random bits."""

from __future__ import annotations

import numpy as np
import pytest

from hornfels.ir import REGISTRY, Builder, evaluate, symbol
from hornfels.ir.ops.constant import threefry
from hornfels.ir.types import bf16, f32, i32, u32

N = symbol("N")


def bits(key: tuple[int, int], *shape: int) -> np.ndarray:
    (drawn,) = REGISTRY["rng_bits"].evaluate(np.asarray(key, np.uint32), shape=shape)
    return drawn


def test_bits_are_word_0_of_the_flat_index() -> None:
    drawn = bits((0x13198A2E, 0x03707344), 3, 5)
    key = np.asarray([0x13198A2E, 0x03707344], np.uint64)
    for i, word in enumerate(drawn.reshape(-1)):
        assert word == threefry(key, np.asarray([i, 0], np.uint64))[0]


def test_bits_depend_on_the_key_and_not_on_the_shape() -> None:
    np.testing.assert_array_equal(bits((1, 2), 12), bits((1, 2), 3, 4).reshape(-1))
    np.testing.assert_array_equal(bits((1, 2), 5), bits((1, 2), 12)[:5])
    assert not np.any(bits((1, 2), 12) == bits((1, 3), 12))
    assert not np.any(bits((1, 2), 12) == bits((2, 2), 12))


def test_bits_look_random() -> None:
    """Every bit is set half of the time: 65536 draws deviate by 6 sigma (0.012) never."""
    drawn = bits((42, 7), 65536)
    share = np.asarray([np.mean((drawn >> bit) & 1) for bit in range(32)])
    assert np.all(np.abs(share - 0.5) < 0.012)
    uniform = drawn / 2**32
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 0.024
    assert len(np.unique(drawn)) > 65000


def test_iota_counts_along_its_axis() -> None:
    op = REGISTRY["iota"]
    assert op.evaluate(shape=(2, 3), axis=1, dtype=i32)[0].tolist() == [[0, 1, 2]] * 2
    assert op.evaluate(shape=(2, 3), axis=0, dtype=f32)[0].tolist() == [[0] * 3, [1] * 3]
    assert op.infer(shape=(N, 3), axis=0, dtype=bf16) == (bf16(N, 3),)


def test_dimension_size_of_a_symbol_is_known_at_run_time() -> None:
    with Builder() as b:
        x = b.input("x", f32(N, 3))
        graph = b.finish({"n": REGISTRY["dimension_size"](x, axis=0)})
    found = evaluate(graph, {"x": np.zeros((5, 3), np.float32)}).outputs["n"]
    assert found == 5
    assert found.dtype == np.int32


@pytest.mark.parametrize("key", [f32(2), u32(), u32(2, 1)])
def test_other_keys_are_refused(key: object) -> None:
    with pytest.raises(TypeError, match=r"key must be u32\[2\] or u32\[3\], got"):
        REGISTRY["rng_bits"].infer(key, shape=(3,))
