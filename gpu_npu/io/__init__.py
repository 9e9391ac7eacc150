"""Files in and out: a network in the project's own format, and connectomes given as CSR. No backend is known here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from numpy.typing import ArrayLike

from gpu_npu.connectome import Connectome, FileFormatError, NetworkError, SynapseSource

from .archive import Archive
from .csr import stream_csr
from .ids import each_once, parse_ids, read_ids
from .project import load_project, save, stream_project

__all__ = ["each_once", "load", "parse_ids", "read_ids", "save", "stream"]


def load(path: str | os.PathLike[str], **fields: ArrayLike) -> Connectome:
    """A network from a .npz file, of whichever of the two formats it is.

    - what `save` wrote: everything as it was; no `fields`.
    - CSR by source: `indptr` (n + 1), `indices` (targets), `count` (weights, 0..65535), `sign` (n, optional; negative:
      the neuron inhibits). Weights are uint16, every psp is 1; `fields` are neuron fields for all of its neurons.

    FileFormatError: truncated, corrupt, another format or version, or contents that are no network. OSError: not readable.
    """
    with Archive(Path(path)) as archive:
        if _is_project(archive, fields):
            return load_project(archive)
        network, synapses = stream_csr(archive, fields)
    network.reserve(synapses=synapses.total)
    for batch in synapses:
        network.synapses.append(batch)
    return network


def stream(path: str | os.PathLike[str], **fields: ArrayLike) -> tuple[Connectome, SynapseSource]:
    """The same in bounded memory: the network without its synapses, and a source that reads them from the file batch by
    batch, for `NPU.from_connectome(network, synapses=source)`. Removed synapses are passed over.

    Errors are those of `load`; what is wrong with the synapses is found while they are read, damage at the end of the first
    pass at the latest, before a burst could see it.
    """
    with Archive(Path(path)) as archive:
        return stream_project(archive) if _is_project(archive, fields) else stream_csr(archive, fields)


def _refuse_sparse(archive: Archive) -> None:
    """FileFormatError for a matrix of scipy.sparse.save_npz, whose 'format' is bytes."""
    if archive.array("format", ()).dtype.kind == "S":
        raise archive.error(
            "a sparse matrix of scipy.sparse.save_npz, which this release does not read; of a CSR matrix m with a row for each source, "
            "numpy.savez(FILE, indptr=m.indptr, indices=m.indices, count=m.data) makes a file that it reads"
        )


def _is_project(archive: Archive, fields: Mapping[str, ArrayLike]) -> bool:
    """Whether it is what `save` wrote; else it is CSR."""
    if "format" in archive:
        _refuse_sparse(archive)
        if fields:
            given = ", ".join(fields)
            raise NetworkError(f"{archive.path} holds the fields of its neurons, so {given} cannot be given", python="use write()")
        return True
    if "indptr" in archive:
        return False
    raise FileFormatError(
        f"{archive.path}: neither a network saved by this package (no array 'format') nor CSR (no array 'indptr'); it has: {archive.names}"
    )
