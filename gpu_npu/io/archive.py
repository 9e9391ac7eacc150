"""Reading .npz files that may be damaged: every failure is a FileFormatError that names the file."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import FileFormatError, problem_of

from .budget import Budget
from .formats import Given
from .kinds import ARCHIVE, another

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)
"""What zipfile and NumPy raise for damaged archives; NotImplementedError and RuntimeError come from flipped flag bits."""


_BAD_HEADER = (*_DAMAGE, KeyError, TypeError, OverflowError, AttributeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError)
"""And of a header of .npy that was made up: it is an expression of Python."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Of compression. The others unpack a few hundred bytes to gigabytes, and NumPy writes none of them."""
PIECE = 2**20
"""Bytes."""


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether in Fortran's order, dtype) of a .npy of `size` bytes, seen to be numbers or text that fill it."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = headers[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if not dtype.itemsize or any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{dtype} of shape {shape}, where numbers are needed")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{size - file.tell():,} bytes for {dtype} of shape {shape}")
    return shape, fortran, dtype


def read_npy(path: Path, memory_limit: int | None = None, what: str = "array") -> NDArray[Any]:
    """The array in a .npy file. FileFormatError: damaged. CapacityError: it takes more than `memory_limit`, as of `Budget.of`."""
    budget = Budget.of(path, memory_limit)
    with path.open("rb") as file:
        try:
            shape, fortran, dtype = _header(file, os.fstat(file.fileno()).st_size)
        except _BAD_HEADER as error:
            raise FileFormatError(f"{path}: not a readable {what}: {error}") from error
        budget.take(math.prod(shape) * dtype.itemsize, f"an array of shape {shape}")
        return np.fromfile(file, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")


def has_array(given: Given, *names: str) -> bool:
    """Whether this is a .npz file that has all of these arrays. FileFormatError: it begins as one, and is damaged."""
    if not given.is_file or not given.head.startswith(b"PK"):
        return False
    with Archive(given.path) as archive:
        return all(name in archive for name in names)


def has_arrays(given: Given) -> str:
    """What a .npz file has, for messages; nothing of other files."""
    if not given.head.startswith(b"PK"):
        return ""
    with Archive(given.path) as archive:
        return f"; it has: {archive.names}" + (" (of an Excel workbook a sheet is saved as CSV)" if "xl/" in archive.names else "")


class Column:
    """An array of one dimension in an archive, read piece by piece. The zip's CRC is checked with the last piece."""

    def __init__(self, archive: Archive, name: str) -> None:
        self._archive, self._name = archive, name
        self._file, shape, _, self.dtype = archive.open_array(name)
        if len(shape) != 1:
            raise archive.error(f"array {name!r} has shape {shape}, not one dimension")
        self.length = shape[0]

    def read(self, count: int) -> NDArray[Any]:
        """The next `count` items."""
        try:
            data = self._file.read(count * self.dtype.itemsize)
            array: NDArray[Any] = np.frombuffer(data, self.dtype, count)
        except _DAMAGE as error:
            raise self._corrupt(error) from error
        if self.dtype == np.bool_ and array.size and int(array.view(np.uint8).max()) > 1:
            raise self._corrupt("a boolean that is neither 0 nor 1")
        return array

    def _corrupt(self, what: object) -> FileFormatError:
        return self._archive.error(f"array {self._name!r} is corrupt: {what}")


class Archive:
    """The arrays of a .npz file by name, each read whole, so that the zip's CRC is checked before a byte is believed; or
    piece by piece. What they take of memory is counted before it is taken.

    memory_limit: as of `Budget.of`. CapacityError: more than that.
    """

    def __init__(self, path: Path, memory_limit: int | None = None) -> None:
        self.path = path
        self.budget = Budget.of(path, memory_limit)
        self._file = path.open("rb")
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as error:
            self._file.close()
            raise another(path, ARCHIVE, error) from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._zip.namelist()

    @property
    def array_names(self) -> list[str]:
        """The names of all arrays."""
        return [name.removesuffix(".npy") for name in self._zip.namelist()]

    @property
    def names(self) -> str:
        """The names of all arrays, for messages."""
        return f"{', '.join(self.array_names):.2000}" or "nothing"

    def error(self, what: object) -> FileFormatError:
        """A FileFormatError that names the file."""
        return FileFormatError(f"{self.path}: {problem_of(what) if isinstance(what, BaseException) else what}")

    def open_array(self, name: str) -> tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]:
        """(the items as a file, shape, whether they lie in Fortran's order, dtype), seen to belong together."""
        if name not in self:
            raise self.error(f"array {name!r} is missing; the file has: {self.names}")
        info = self._zip.getinfo(f"{name}.npy")
        if info.compress_type not in METHODS:
            method = zipfile.compressor_names.get(info.compress_type, info.compress_type)  # type: ignore[attr-defined]
            raise self.error(f"array {name!r} is compressed by {method}; numpy.savez_compressed, by deflate, is read")
        try:
            file = self._zip.open(info)
            shape, fortran, dtype = _header(file, info.file_size)
        except _BAD_HEADER as error:
            raise self.error(f"array {name!r} is corrupt: {error}") from error
        return file, shape, fortran, dtype

    def check_all(self) -> None:
        """See that every array can be opened and that all together may be held: for a reader that is not of this package."""
        for name in self.array_names:
            _, shape, _, dtype = self.open_array(name)
            self.budget.take(math.prod(shape) * dtype.itemsize, f"array {name!r} of shape {shape}")

    def array(self, name: str, shape: tuple[int, ...] | None = None, dtype: Any = None) -> NDArray[Any]:
        """An array, of this shape and dtype where they are given; of any shape of one dimension where no shape is."""
        file, found, fortran, code = self.open_array(name)
        if dtype is not None and code != dtype:
            raise self.error(f"array {name!r} has dtype {code}, not {np.dtype(dtype)}")
        if (len(found) != 1) if shape is None else (found != shape):
            raise self.error(f"array {name!r} has shape {found}, not {'one dimension' if shape is None else shape}")
        size = math.prod(found) * code.itemsize
        self.budget.take(size, f"array {name!r} of shape {found}")
        data = np.empty(size, np.uint8)
        try:
            for at in range(0, size, PIECE):
                piece = file.read(min(PIECE, size - at))
                data[at : at + PIECE] = np.frombuffer(piece, np.uint8, min(PIECE, size - at))
            file.read(1)  # an empty array has a CRC too
        except _DAMAGE as error:
            raise self.error(f"array {name!r} is corrupt: {error}") from error
        return data.view(code).reshape(found, order="F" if fortran else "C")

    def column(self, name: str, length: int | None = None, dtype: Any = None) -> Column:
        """An array of one dimension to be read piece by piece, of this length and dtype where they are given."""
        column = Column(self, name)
        if dtype is not None and column.dtype != dtype:
            raise self.error(f"array {name!r} has dtype {column.dtype}, not {np.dtype(dtype)}")
        if length is not None and column.length != length:
            raise self.error(f"array {name!r} has shape {(column.length,)}, not {(length,)}")
        return column

    def text(self, name: str) -> str:
        """A string."""
        value = self.array(name, ())
        if value.dtype.kind != "U":
            raise self.error(f"{name!r} has dtype {value.dtype}, not a string")
        self.budget.take_json(value.itemsize // 4, repr(name))
        return str(value)

    def integer(self, name: str) -> int:
        """An integer of 0 or more."""
        value = self.array(name, ())
        if value.dtype.kind not in "iu" or value < 0:
            raise self.error(f"{name!r} is {value!r}, not an integer of 0 or more")
        return int(value)
