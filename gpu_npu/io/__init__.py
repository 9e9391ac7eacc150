"""Files in and out: a network in the project's own format, and connectomes given as CSR. No backend is known here."""

from __future__ import annotations

import os
from pathlib import Path

from numpy.typing import ArrayLike

from gpu_npu.connectome import Connectome, FileFormatError, NetworkError

from .archive import Archive
from .csr import load_csr
from .project import load_project, save

__all__ = ["load", "save"]


def load(path: str | os.PathLike[str], **fields: ArrayLike) -> Connectome:
    """A network from a .npz file, of whichever of the two formats it is.

    - what `save` wrote: everything as it was; no `fields`.
    - CSR by source: `indptr` (n + 1), `indices` (targets), `count` (weights, 0..65535), `sign` (n, optional; negative:
      the neuron inhibits). Weights are uint16, every psp is 1; `fields` are neuron fields for all of its neurons.

    FileFormatError: truncated, corrupt, another format or version, or contents that are no network. OSError: not readable.
    """
    with Archive(Path(path)) as archive:
        if "format" in archive:
            if fields:
                raise NetworkError(f"{path} holds its neurons' fields; {', '.join(fields)} can be given for CSR files only, use write()")
            return load_project(archive)
        if "indptr" in archive:
            return load_csr(archive, fields)
        raise FileFormatError(
            f"{path}: neither a network saved by this package (no array 'format') nor CSR (no array 'indptr'); it has: {archive.names}"
        )
