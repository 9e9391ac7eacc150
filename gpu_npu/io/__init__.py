"""Files and objects in and out: networks in the project's own format, edge lists, matrices. No backend is known here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from gpu_npu.checks import check_integer, check_kind, check_path
from gpu_npu.connectome import NEURON_FIELDS, Connectome, FileFormatError, NetworkError, SynapseSource

from .archive import has_arrays
from .arrow import why_no_table
from .beginning import look
from .csr import CSR
from .edges import EDGES
from .feagi import FEAGI
from .formats import Format, Given, Reading
from .graphs import GRAPH, GRAPHML
from .ids import each_once, parse_ids, read_ids
from .kinds import ARCHIVE, EMPTY, UNKNOWN, kind_of
from .matlab import MATLAB
from .project import PROJECT, save
from .sonata import SONATA
from .sparse import DENSE, MATRIX, SPARSE

__all__ = ["Reading", "each_once", "load", "load_small", "parse_ids", "read_ids", "save", "stream", "write", "writer_of"]


FORMATS = (SPARSE, PROJECT, CSR, DENSE, MATRIX, GRAPH, GRAPHML, MATLAB, SONATA, FEAGI, EDGES)
"""The first that recognises a file or an object reads it."""
_OPTIONS = {field.name for field in fields_of(Reading)} - {"fields"}


def load(what: Any, **options: Any) -> Connectome:
    """A network from a file or an object, of whichever format of FORMATS it is.

    - a .npz that `save` wrote: everything as it was; no neuron fields.
    - an edge list: CSV, TSV (also .gz and .zst), Parquet, Feather, a table of pandas, polars or Arrow, or a tuple of arrays
      (source, target, weight). Ids of the file are labels.
    - a matrix: scipy.sparse, NumPy, save_npz, .npy; its rows are the sources.
    - a circuit of SONATA: the configuration (JSON) that names its files.
    - a graph of networkx or GraphML, or the square matrix of a .mat file.
    - a FEAGI genome, which is grown, or a connectome that FEAGI exported.
    - CSR by source (.npz): `indptr` (n + 1), `indices` (targets), `count` (weights, 0..65535), `sign` (n, optional; negative:
      the neuron inhibits). Weights are uint16, every psp is 1; further arrays of n values are annotations.

    options: those of `Reading` by name, or neuron fields, such as threshold=20.0.
    FileFormatError: truncated, corrupt, of another format or version, or contents that are no network; the message names the row
    and the column. NetworkError: what does not fit, with the option that makes it fit. MissingPackageError. OSError: not readable.
    """
    given, reading = _given(what), _reading(options)
    return _format_of(given).load(given, reading)


def stream(what: Any, **options: Any) -> tuple[Connectome, SynapseSource]:
    """The same in bounded memory: the network without its synapses, and a source that reads them from the file batch by
    batch, for `NPU.from_connectome(network, synapses=source)`. Removed synapses are passed over.

    Errors are those of `load`; what is wrong with the synapses is found while they are read, damage at the end of the first
    pass at the latest, before a burst could see it.
    """
    given, reading = _given(what), _reading(options)
    return _format_of(given).stream(given, reading)


def load_small(what: Any, most: int, **options: Any) -> tuple[Connectome, SynapseSource | None]:
    """As `load`, and None, where a network has at most so many synapses or its format is no list of them; else as `stream`."""
    most, given, reading = check_integer(most, "most"), _given(what), _reading(options)
    return _format_of(given).load_small(given, reading, most)


def write(network: Connectome, path: str | os.PathLike[str]) -> None:
    """A network to a file, in the format that the end of its name says. NetworkError: no format is written so. OSError."""
    check_kind(network, Connectome, "network")
    writer_of(path)(network, Path(path))


def writer_of(path: str | os.PathLike[str]) -> Callable[[Connectome, Path], None]:
    """What writes a network to this file. NetworkError: nothing does."""
    written = {ending: write for format in FORMATS for ending, write in format.writes.items()}
    found = written.get(check_path(path).suffix.lower())
    if found is None:
        raise NetworkError(f"{path}: a network is written to a file whose name ends in {', '.join(written)}")
    return found


def _given(what: Any) -> Given:
    return look(what) if isinstance(what, (str, os.PathLike)) else Given(what)


def _reading(options: dict[str, Any]) -> Reading:
    for name in options:
        if name not in _OPTIONS and name not in NEURON_FIELDS:
            known = f"options of reading ({', '.join(sorted(_OPTIONS))}) nor of the fields of a neuron ({', '.join(NEURON_FIELDS)})"
            raise NetworkError(f"{name!r} is none of the {known}")
    own = {name: value for name, value in options.items() if name in _OPTIONS}
    return Reading(**own, fields={name: value for name, value in options.items() if name not in _OPTIONS})


def _format_of(given: Given) -> Format:
    found = next((format for format in FORMATS if format.recognises(given)), None)
    if found is not None:
        return found
    known = "; ".join(format.about for format in FORMATS if (format.in_files if given.is_file else format.in_objects))
    if not given.is_file:
        raise NetworkError(f"a {type(given.value).__name__} is no network that is known here; these are: {known}")
    kind = kind_of(given.path)
    if kind not in (UNKNOWN, ARCHIVE):
        raise FileFormatError(f"{given.name}: {kind.about}, not a network", python="" if kind is EMPTY else kind.way_out)
    problem = why_no_table(given)
    raise given.error(problem) if problem else given.error(f"none of the networks that are read: {known}" + has_arrays(given))
