"""Where random numbers come from: keys, the generators that give them, and why none comes twice.

Every random number is a word of Threefry2x32, a cipher: 64 bits of key and 64 of counter give
64 bits that look independent for different inputs. So numbers are independent as long as no
input occurs twice, and that is a matter of bookkeeping:

==================  ==============  ======================================================
part of the input   bits            what it counts
==================  ==============  ======================================================
key, word 0         32              the seed: one for each generator
key, word 1         32              the draw: a generator counts up with every call of `next`
counter, word 0     32              the element of the tensor
counter, word 1     0 ... 7         the element's upper bits, for tensors of 2**32 and more
..                  8 ... 15        the round, where a draw needs several numbers an element
..                  16 ... 30       the worker, from the setting of that name
..                  31              whether a key is being derived (`fold_in`, `split`)
==================  ==============  ======================================================

- *Steps*: the draw is state of the compiled graph and counts on from step to step. It begins
  again after 2**32 draws.
- *Layers*: seeds that nobody chose are all different, for they walk through all of 32 bits
  before one returns. Who gives one seed to two layers, as in Keras, gets the same numbers twice.
- *Workers*: processes that train together run the same program from the same seeds and differ in
  the setting `worker`. Draws from a generator are their own then, and their states stay equal. A
  draw from an int does not look at it, so that initial weights are the same everywhere.
- *Derived keys* are words of the cipher themselves. Two of them, or one of them and a generator's
  key, are equal with a probability of 2**-64.
"""

from __future__ import annotations

import random as _python_random
from typing import Any

import numpy as np

from ..ir import sugar
from ..ir.errors import ArgumentError
from ..ir.graph import Value
from ..ir.op import get as _op
from ..ir.settings import current_settings
from ..ir.types import u32
from . import naming
from .operation import operation
from .ops.core import sizes, tensor
from .variable import Variable

_WORDS = 1 << 32
_STRIDE = 0x9E3779B9  # odd, so that its multiples walk through all words
_WORKER, _ROUND, _DERIVED = 16, 8, 1 << 31
ROUNDS = 250
"""A draw has so many rounds at most."""


class _Defaults:
    """Seeds that nobody chose, all different, and the generator of draws that name none."""

    def __init__(self, seed: int | None = None) -> None:
        self.next_seed = int(np.random.default_rng(seed).integers(_WORDS))
        self.generator = None if seed is None else SeedGenerator(seed)


def make_default_seed() -> int:
    """A seed for something that was given none; `set_random_seed` makes these repeatable.

    2**32 of them are different before one comes again.
    """
    seed = _defaults.next_seed
    _defaults.next_seed = (seed + _STRIDE) % _WORDS
    return seed


def set_random_seed(seed: int) -> None:
    """Make every later draw repeatable: ours, Python's `random` and NumPy's global generator.

    Parameters
    ----------
    seed : int
        In [0, 2**32).

    Raises
    ------
    ArgumentError
        If it is no such integer.
    """
    global _defaults
    seed = _word("set_random_seed", seed)
    _python_random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - Keras seeds the global generator that users draw from
    _defaults = _Defaults(seed)


def _word(name: str, seed: Any) -> int:
    is_int = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not is_int or not 0 <= seed < _WORDS:
        raise ArgumentError(f"{name}: seed must be an int in [0, 2**32), got {seed!r}")
    return int(seed)


def global_seed_generator() -> SeedGenerator:
    """The generator of draws that name no seed."""
    if _defaults.generator is None:
        _defaults.generator = SeedGenerator()
    return _defaults.generator


class SeedGenerator:
    """A source of keys that never gives the same one twice.

    Parameters
    ----------
    seed : int, optional
        In [0, 2**32); one that no other generator has by default.
    name : str, optional

    Attributes
    ----------
    state : Variable
        u32[2]: the seed and the number of keys given.
    """

    def __init__(self, seed: int | None = None, name: str | None = None, **kwargs: Any) -> None:
        if kwargs:
            raise ArgumentError(f"SeedGenerator: unknown arguments {', '.join(kwargs)}")
        self._initial_seed = _word("SeedGenerator", make_default_seed() if seed is None else seed)
        self.name = name or naming.auto_name("seed_generator")
        start = np.array([self._initial_seed, 0], np.uint32)
        with naming.name_scope(self.name):
            self.state = Variable(start, trainable=False, name="seed_generator_state")

    @property
    def seed(self) -> int:
        """The seed that this generator started from."""
        return self._initial_seed

    @operation
    def next(self, ordered: bool = True) -> Any:
        """The current key; the state counts up by one.

        On worker 0 the key is the state, u32[2]; on others a third word says which it is.
        """
        key = tensor(self.state)
        self.state.assign(sugar.binary("add", key, sugar.value(np.array([0, 1], np.uint32))))
        worker = current_settings().worker
        return in_stream(key, worker << _WORKER) if worker else key

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"seed": self._initial_seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SeedGenerator:
        return cls(**config)


_defaults = _Defaults()


# --- keys ------------------------------------------------------------------------------------


def draw_key(seed: Any = None) -> Value:
    """The key for one draw: from a generator, from an int (always the same), or global."""
    if seed is None:
        seed = global_seed_generator()
    if isinstance(seed, SeedGenerator):
        return seed.next()  # type: ignore[no-any-return]
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool):
        return sugar.value(np.array([int(seed) % _WORDS, 0], np.uint32))
    key = tensor(seed)
    if key.type not in (u32(2), u32(3)):
        raise ArgumentError(
            f"random: seed must be an int, a SeedGenerator or a key u32[2], got {key.type}"
        )
    return key


def in_stream(key: Value, stream: Any) -> Value:
    """The key with a number added to the upper word of the counters that it goes with."""
    stream = sugar.reshape(sugar.value(stream, u32), (1,))
    if key.shape == (2,):
        return _op("concat")(key, stream, axis=0)
    return _op("concat")(key[:2], key[2:] + stream, axis=0)


def in_round(key: Value, number: Any) -> Value:
    """The key for round `number` of a draw, below 256."""
    shift = sugar.value(_ROUND, u32)
    return in_stream(key, sugar.binary("shift_left", sugar.value(number, u32), shift))


def bits(key: Value, shape: Any) -> Value:
    """Random words of a key, u32."""
    return _op("rng_bits")(key, shape=sizes(shape))


@operation
def fold_in(seed: Any, data: Any) -> Any:
    """A key for each number, from one key: of an epoch, a device, an example.

    Parameters
    ----------
    seed : int, SeedGenerator or key
    data : int
        Below 2**31 - 1; or a scalar tensor of integers.

    Returns
    -------
    tensor
        u32[2], to be used as a seed.

    Examples
    --------
    >>> noise = random.normal((3,), seed=random.fold_in(seed=7, data=epoch))
    """
    if isinstance(data, int) and not 0 <= data < _DERIVED - 1:
        raise ArgumentError(f"fold_in: data must be in [0, 2**31 - 1), got {data}")
    number = sugar.binary("bit_and", sugar.value(data, u32), sugar.value(_DERIVED - 1, u32))
    derived = sugar.binary("bit_or", number, sugar.value(_DERIVED, u32))
    return bits(in_stream(_plain(draw_key(seed)), derived), (2,))


@operation
def split(seed: Any, num: int = 2) -> Any:
    """Several keys from one, u32[num, 2]; `seed` itself should not be used any more."""
    return bits(in_stream(_plain(draw_key(seed)), 2 * _DERIVED - 1), (num, 2))


def _plain(key: Value) -> Value:
    """A key of two words; one that says which worker it is for is folded."""
    return key if key.shape == (2,) else bits(in_stream(key, _DERIVED), (2,))
