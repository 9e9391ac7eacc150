"""Reading .npz files that may be damaged: every failure is a FileFormatError that names the file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.errors import FileFormatError, problem_of

from .formats import Given
from .kinds import ARCHIVE, another

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError)
"""What zipfile and NumPy raise for damaged archives; NotImplementedError and RuntimeError come from flipped flag bits."""


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
        return f"; it has: {archive.names}"


class Column:
    """An array of one dimension in an archive, read piece by piece. The zip's CRC is checked with the last piece."""

    def __init__(self, archive: Archive, name: str, file: IO[bytes]) -> None:
        self._archive, self._name, self._file = archive, name, file
        try:
            headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, self.dtype = headers[np.lib.format.read_magic(file)](file)
        except (*_DAMAGE, KeyError) as error:
            raise self._corrupt(error) from error
        if self.dtype.hasobject:
            raise self._corrupt(f"{self.dtype} where numbers are needed")
        if len(shape) != 1:
            raise archive.error(f"array {name!r} has shape {shape}, not one dimension")
        self.length = int(shape[0])

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
    piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        return ", ".join(self.array_names) or "nothing"

    def error(self, what: object) -> FileFormatError:
        """A FileFormatError that names the file."""
        return FileFormatError(f"{self.path}: {problem_of(what) if isinstance(what, BaseException) else what}")

    def array(self, name: str, shape: tuple[int, ...] | None = None, dtype: Any = None) -> NDArray[Any]:
        """An array, of this shape and dtype where they are given; of any shape of one dimension where no shape is."""
        if name not in self:
            raise self.error(f"array {name!r} is missing; the file has: {self.names}")
        try:
            array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(self._zip.read(f"{name}.npy")), allow_pickle=False)
        except _DAMAGE as error:
            raise self.error(f"array {name!r} is corrupt: {error}") from error
        if dtype is not None and array.dtype != dtype:
            raise self.error(f"array {name!r} has dtype {array.dtype}, not {np.dtype(dtype)}")
        if (array.ndim != 1) if shape is None else (array.shape != shape):
            raise self.error(f"array {name!r} has shape {array.shape}, not {'one dimension' if shape is None else shape}")
        return array

    def column(self, name: str, length: int | None = None, dtype: Any = None) -> Column:
        """An array of one dimension to be read piece by piece, of this length and dtype where they are given."""
        if name not in self:
            raise self.error(f"array {name!r} is missing; the file has: {self.names}")
        try:
            file = self._zip.open(f"{name}.npy")
        except _DAMAGE as error:
            raise self.error(f"array {name!r} is corrupt: {error}") from error
        column = Column(self, name, file)
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
        return str(value)

    def integer(self, name: str) -> int:
        """An integer of 0 or more."""
        value = self.array(name, ())
        if value.dtype.kind not in "iu" or value < 0:
            raise self.error(f"{name!r} is {value!r}, not an integer of 0 or more")
        return int(value)
