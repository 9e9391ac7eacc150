"""Names for NumPy arrays by dtype, used in annotations of the whole package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
"""Indices into other arrays."""
Counts = NDArray[Any]
"""uint8 or uint16: weights or psps."""
