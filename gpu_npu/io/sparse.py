"""Matrices of scipy.sparse.save_npz, which are recognised and refused."""

from __future__ import annotations

from typing import NoReturn

from .archive import Archive
from .formats import Fields, Format


def _is_sparse(archive: Archive) -> bool:
    return "format" in archive and archive.array("format", ()).dtype.kind == "S"


def _refuse(archive: Archive, fields: Fields) -> NoReturn:
    raise archive.error(
        "a sparse matrix of scipy.sparse.save_npz, which this release does not read; of a CSR matrix m with a row for each source, "
        "numpy.savez(FILE, indptr=m.indptr, indices=m.indices, count=m.data) makes a file that it reads"
    )


SPARSE = Format("a matrix of scipy.sparse.save_npz (array 'format' of bytes)", _is_sparse, _refuse, _refuse)
