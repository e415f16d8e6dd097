"""Operations on arrays, symbolic tensors and traced values, with Keras' names and arguments.

>>> ops.add([1.0, 2.0], 3.0)                 # arrays: evaluated at once
array([4., 5.], dtype=float32)
"""

from . import activation as _activation
from . import arithmetic as _arithmetic
from . import attention as _attention
from . import autodiff as _autodiff
from . import complex as _complex
from . import control as _control
from . import convolution as _convolution
from . import core as _core
from . import creation as _creation
from . import crossentropy as _crossentropy
from . import ctc as _ctc
from . import diagonals as _diagonals
from . import einsum as _einsum
from . import fourier as _fourier
from . import image as image
from . import indexing as _indexing
from . import integers as _integers
from . import joining as _joining
from . import linalg as _linalg
from . import nan as _nan
from . import nn as nn
from . import normalization as _normalization
from . import numpy as numpy
from . import padding as _padding
from . import products as _products
from . import reduce as _reduce
from . import scatter as _scatter
from . import shapes as _shapes
from . import sorting as _sorting
from . import spatial as _spatial
from . import special as _special
from . import statistics as _statistics
from . import vectorizing as _vectorizing
from . import windows as _windows
from .activation import *  # noqa: F403
from .arithmetic import *  # noqa: F403
from .attention import *  # noqa: F403
from .autodiff import *  # noqa: F403
from .complex import *  # noqa: F403
from .control import *  # noqa: F403
from .convolution import *  # noqa: F403
from .core import *  # noqa: F403
from .creation import *  # noqa: F403
from .crossentropy import *  # noqa: F403
from .ctc import *  # noqa: F403
from .diagonals import *  # noqa: F403
from .einsum import *  # noqa: F403
from .fourier import *  # noqa: F403
from .indexing import *  # noqa: F403
from .integers import *  # noqa: F403
from .joining import *  # noqa: F403
from .linalg import *  # noqa: F403
from .nan import *  # noqa: F403
from .normalization import *  # noqa: F403
from .padding import *  # noqa: F403
from .products import *  # noqa: F403
from .reduce import *  # noqa: F403
from .scatter import *  # noqa: F403
from .shapes import *  # noqa: F403
from .sorting import *  # noqa: F403
from .spatial import *  # noqa: F403
from .special import *  # noqa: F403
from .statistics import *  # noqa: F403
from .vectorizing import *  # noqa: F403
from .windows import *  # noqa: F403

_FAMILIES = (
    _activation, _arithmetic, _attention, _autodiff, _complex, _control, _convolution, _core,
    _creation, _crossentropy, _ctc, _diagonals, _einsum, _fourier, _indexing, _integers,
    _joining, _linalg, _nan, _normalization, _padding, _products, _reduce, _scatter, _shapes,
    _sorting, _spatial, _special, _statistics, _vectorizing, _windows,
)  # fmt: skip

__all__ = sorted({name for family in _FAMILIES for name in family.__all__})
