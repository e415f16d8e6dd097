"""Native code through TVM, which is imported with this package."""

from .lean import import_tvm

import_tvm()
