"""Operations on arrays, symbolic tensors and traced values, with Keras' names and arguments.

>>> ops.add([1.0, 2.0], 3.0)                 # arrays: evaluated at once
array([4., 5.], dtype=float32)
"""

from . import arithmetic as _arithmetic
from . import array as _array
from . import convolution as _convolution
from . import core as _core
from . import nn as _nn
from . import reduce as _reduce
from .arithmetic import *  # noqa: F403
from .array import *  # noqa: F403
from .convolution import *  # noqa: F403
from .core import *  # noqa: F403
from .nn import *  # noqa: F403
from .reduce import *  # noqa: F403

__all__ = sorted(
    {
        name
        for module in (_arithmetic, _array, _convolution, _core, _nn, _reduce)
        for name in module.__all__
    }
)
