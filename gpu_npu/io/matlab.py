"""Matrices in files of MATLAB (level 5, as save writes without -v7.3), read here: scipy's reader ends the process where a file is damaged.

Format: "MAT-File Format", mathworks.com, chapter "Level 5 MAT-Files". A file is a header and elements, each a tag (type, bytes)
and its data; a variable is an element of elements, and may be compressed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.errors import FileFormatError
from gpu_npu.objects import OneLine, one_line

from .budget import Budget
from .formats import Format, Given, Reading
from .sparse import Entries, stream_matrix

HEADER = 128
"""Bytes."""
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element -> dtype of its data."""
MATRIX, COMPRESSED = 14, 15
SPARSE, NUMERIC = 5, range(6, 16)
"""Classes of variables that may be matrices of numbers; the others are cells, structures, objects and texts."""
COMPLEX = 0x0800


class Element(NamedTuple):
    """A piece of a file."""

    kind: int
    data: memoryview

    def __repr__(self) -> str:
        return one_line(self)


@dataclass(frozen=True, repr=False)
class Variables(OneLine):
    """The variables of a file. FileFormatError: damaged. CapacityError: they unpack to more than the budget has."""

    given: Given
    budget: Budget
    order: str
    """"<" or ">", as struct has them."""

    @classmethod
    def of(cls, given: Given, reading: Reading) -> Variables:
        """Those of a file; FileFormatError where it is of another version."""
        if given.head.startswith(b"MATLAB 7.3"):
            raise given.error("a file of MATLAB's version 7.3; in MATLAB, save(file, 'name', '-v7') writes one that is read")
        order = {b"IM": "<", b"MI": ">"}.get(given.head[HEADER - 2 : HEADER])
        if order is None:
            raise given.error("damaged, or cut short: its header does not end with the order of bytes")
        return cls(given, Budget.of(given.path, reading.memory_limit), order)

    def matrices(self) -> Iterator[tuple[str, NDArray[Any] | Entries | None]]:
        """Name and value of each variable; None where it is no matrix of real numbers."""
        with Path(self.given.path).open("rb") as file:
            content = memoryview(self.budget.read(file, "the file"))
        for element in self._elements(content[HEADER:]):
            if element.kind == COMPRESSED:
                element = next(self._elements(memoryview(self._unpacked(element.data))), element)
            if element.kind == MATRIX and len(element.data):
                yield self._matrix(list(self._elements(element.data)))

    def _unpacked(self, data: memoryview) -> bytes:
        unpacker = zlib.decompressobj()
        try:
            found = unpacker.decompress(data, self.budget.limit - self.budget.taken + 1)
        except zlib.error as error:
            raise self._damaged(str(error)) from error
        self.budget.take(len(found), "a variable")
        if not unpacker.eof:
            raise self._damaged("a compressed variable without its end")
        return found

    def _elements(self, data: memoryview) -> Iterator[Element]:
        at = 0
        while at + 8 <= len(data):
            kind, size = struct.unpack_from(f"{self.order}II", data, at)
            small = kind >> 16
            if small:
                kind, size, begin, end = kind & 0xFFFF, small, at + 4, at + 8
            else:
                begin = at + 8
                end = begin + (size if kind == COMPRESSED else -(-size // 8) * 8)
            if begin + size > len(data) or (small and size > 4):
                raise self._damaged(f"an element of {size:,} bytes, where {len(data) - begin:,} are left")
            yield Element(kind, data[begin : begin + size])
            at = end

    def _matrix(self, parts: list[Element]) -> tuple[str, NDArray[Any] | Entries | None]:
        if len(parts) < 3:
            raise self._damaged("a variable without flags, a shape and a name")
        flags, shape = self._numbers(parts[0]), tuple(self._numbers(parts[1]).tolist())
        name, kind = bytes(parts[2].data).decode("latin-1"), int(flags[0]) & 0xFF if len(flags) else 0
        if (kind != SPARSE and kind not in NUMERIC) or int(flags[0]) & COMPLEX or len(shape) != 2:
            return name, None
        if min(shape) < 0:
            raise self._damaged(f"{name}: a matrix of shape {shape}")
        values = [self._numbers(part) for part in parts[3:]]
        if kind == SPARSE:
            return name, self._sparse(name, shape, values)
        if not values or len(values[0]) != shape[0] * shape[1]:
            raise self._damaged(f"{name}: {len(values[0]) if values else 0:,} values for a matrix of shape {shape}")
        return name, values[0].reshape(shape, order="F")

    def _sparse(self, name: str, shape: tuple[int, ...], values: list[NDArray[Any]]) -> Entries:
        """A matrix whose columns are listed: rows, where each column begins, values."""
        if len(values) != 3:
            raise self._damaged(f"{name}: a sparse matrix of {len(values)} arrays, where 3 are needed")
        row, begin, data = values
        count = int(begin[-1]) if len(begin) else -1
        rises = len(begin) == shape[1] + 1 and begin[0] == 0 and bool((begin[1:] >= begin[:-1]).all())
        if not rises or not count <= min(len(row), len(data)) or (count and not 0 <= row[:count].min() <= row[:count].max() < shape[0]):
            raise self._damaged(f"{name}: its rows and columns are not those of a sparse matrix of shape {shape}")
        self.budget.take(16 * count, "its entries")
        column = np.repeat(np.arange(shape[1]), begin[1:] - begin[:-1])
        return Entries(shape, row[:count].astype(np.int64), column, data[:count])

    def _numbers(self, element: Element) -> NDArray[Any]:
        if element.kind not in NUMBERS:
            raise self._damaged(f"an element of type {element.kind}, where numbers are needed")
        dtype = np.dtype(f"{self.order}{NUMBERS[element.kind]}")
        if len(element.data) % dtype.itemsize:
            raise self._damaged(f"{len(element.data):,} bytes of {dtype}")
        found = np.frombuffer(element.data, dtype)
        return found.astype(dtype.newbyteorder("="), copy=False)

    def _damaged(self, what: str) -> FileFormatError:
        return self.given.error(f"damaged, or cut short: {what:.200}")


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    found = dict(Variables.of(given, reading).matrices())
    wanted = {name: value for name, value in found.items() if reading.array in (None, name)}
    square = {name: value for name, value in wanted.items() if value is not None and value.shape[0] == value.shape[1] > 1}
    if len(square) != 1:
        which = "no square matrix" if not square else f"several square matrices ({', '.join(square)}); --array NAME takes one of them"
        which += "" if reading.array is None else f" of the name {reading.array!r}"
        raise given.error(f"{which}; it has: {', '.join(found) or 'nothing'}")
    ((name, matrix),) = square.items()
    return stream_matrix(matrix, f"{given.name}, {name}", reading)


MATLAB = Format("a .mat file of MATLAB", lambda given: given.head.startswith(b"MATLAB "), _stream)
