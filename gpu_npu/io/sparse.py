"""Matrices of weights: scipy.sparse as objects and as save_npz writes them, and dense ones of NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.errors import FileFormatError, NetworkError
from gpu_npu.objects import one_line

from .archive import Archive, has_array, read_npy
from .edges import stream_edges
from .formats import Format, Given, Reading, missing
from .tables import ArraysTable


class Entries(NamedTuple):
    """A sparse matrix: row, column and value of each entry."""

    shape: tuple[int, ...]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    data: NDArray[Any]

    def __repr__(self) -> str:
        return one_line(self)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.data.dtype


def stream_matrix(matrix: Any, name: str, reading: Reading) -> tuple[Connectome, SynapseSource]:
    """The network of a square matrix, dense or of scipy.sparse: a neuron for each row, a synapse for each item that is not 0.

    NetworkError: not square, not of numbers. FileFormatError: a value that is no weight.
    """
    shape = tuple(matrix.shape)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise NetworkError(f"{name}: a matrix of shape {shape}; a square one has a row and a column for each neuron")
    if np.dtype(matrix.dtype).kind not in "iufb":
        raise NetworkError(f"{name}: a matrix of {matrix.dtype}, where numbers are needed")
    row, column, weight = _entries(matrix)
    bad = ~np.isfinite(weight)
    if bad.any():
        at = int(np.argmax(bad))
        raise FileFormatError(f"{name}: [{row[at]}, {column[at]}] is {weight[at]}, which is not a finite number")
    source, target = (column, row) if reading.transposed else (row, column)
    axis = "columns" if reading.transposed else "rows"
    reading.tell(f"{name}: {shape[0]:,} neurons; {axis} are the sources (--transpose turns that)")
    table = ArraysTable(name, {"source": source, "target": target, "weight": weight})
    every = ArraysTable("the rows of the matrix", {"id": np.arange(shape[0])})
    quiet = replace(reading, tell=lambda text: None if text.startswith(f"{name}: source") else reading.tell(text))
    return stream_edges(table, replace(quiet, columns={}, neurons=reading.neurons or every))


def _entries(matrix: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Row, column and value of what is not 0."""
    if isinstance(matrix, np.ndarray):
        row, column = np.nonzero(matrix)
        return row, column, matrix[row, column]
    entries = matrix if isinstance(matrix, Entries) else matrix.tocoo()
    keep = entries.data != 0
    return entries.row[keep].astype(np.int64), entries.col[keep].astype(np.int64), entries.data[keep]


def _sparse_file(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    try:
        import scipy.sparse
    except ImportError as error:
        raise missing(error, f"reading {given.name}", "matrices") from error
    with Archive(given.path, reading.memory_limit) as archive:
        archive.check_all()
    try:
        matrix = scipy.sparse.load_npz(given.path)
        matrix.check_format(full_check=True) if hasattr(matrix, "check_format") else None
        return stream_matrix(matrix, given.name, reading)
    except (ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError) as error:
        if isinstance(error, NetworkError):
            raise
        raise given.error(f"no matrix of scipy.sparse.save_npz that can be read: {error}") from error


def _dense_file(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    return stream_matrix(read_npy(given.path, reading.memory_limit), given.name, reading)


def _is_sparse_file(given: Given) -> bool:
    if not has_array(given, "format"):
        return False
    with Archive(given.path) as archive:
        return archive.array("format", ()).dtype.kind == "S"


def _is_object(given: Given) -> bool:
    sparse = hasattr(given.value, "tocoo") and hasattr(given.value, "shape")
    return not given.is_file and (sparse or (isinstance(given.value, np.ndarray) and given.value.dtype.names is None))


def _object(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    return stream_matrix(given.value, given.name, reading)


SPARSE = Format("a matrix of scipy.sparse.save_npz (array 'format' of bytes)", _is_sparse_file, _sparse_file)
DENSE = Format("a matrix in a .npy file", lambda given: given.head.startswith(b"\x93NUMPY"), _dense_file)
MATRIX = Format("a matrix of NumPy or scipy.sparse", _is_object, _object, in_files=False, in_objects=True)
