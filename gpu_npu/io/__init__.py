"""Files in and out: a network in the project's own format, and connectomes given as CSR. No backend is known here."""

from __future__ import annotations

import os
from pathlib import Path

from numpy.typing import ArrayLike

from gpu_npu.connectome import Connectome, FileFormatError, SynapseSource

from .archive import Archive
from .csr import CSR
from .formats import Format
from .ids import each_once, parse_ids, read_ids
from .project import PROJECT, save
from .sparse import SPARSE

__all__ = ["each_once", "load", "parse_ids", "read_ids", "save", "stream"]


FORMATS = (SPARSE, PROJECT, CSR)
"""The first that recognises a file reads it."""


def load(path: str | os.PathLike[str], **fields: ArrayLike) -> Connectome:
    """A network from a .npz file, of whichever of the two formats it is.

    - what `save` wrote: everything as it was; no `fields`.
    - CSR by source: `indptr` (n + 1), `indices` (targets), `count` (weights, 0..65535), `sign` (n, optional; negative:
      the neuron inhibits). Weights are uint16, every psp is 1; `fields` are neuron fields for all of its neurons.

    FileFormatError: truncated, corrupt, another format or version, or contents that are no network. OSError: not readable.
    """
    with Archive(Path(path)) as archive:
        return _format_of(archive).load(archive, fields)


def stream(path: str | os.PathLike[str], **fields: ArrayLike) -> tuple[Connectome, SynapseSource]:
    """The same in bounded memory: the network without its synapses, and a source that reads them from the file batch by
    batch, for `NPU.from_connectome(network, synapses=source)`. Removed synapses are passed over.

    Errors are those of `load`; what is wrong with the synapses is found while they are read, damage at the end of the first
    pass at the latest, before a burst could see it.
    """
    with Archive(Path(path)) as archive:
        return _format_of(archive).stream(archive, fields)


def _format_of(archive: Archive) -> Format:
    found = next((format for format in FORMATS if format.recognises(archive)), None)
    if found is None:
        known = ", nor ".join(format.about for format in FORMATS)
        raise FileFormatError(f"{archive.path}: neither {known}; it has: {archive.names}")
    return found
