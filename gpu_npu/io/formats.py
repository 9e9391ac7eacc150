"""What a format of networks is, and how one is asked for. To add one, write a file that makes a `Format`, and name it in FORMATS
of `gpu_npu.io`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from gpu_npu.checks import check_callable, check_flag, check_kind, check_map, is_real, shown
from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.errors import FileFormatError, MissingPackageError, NetworkError
from gpu_npu.extras import install_command
from gpu_npu.objects import OneLine, one_line

from .budget import Budget

Fields = Mapping[str, ArrayLike]
"""Neuron fields that the caller gives, by name."""


@dataclass(frozen=True, repr=False)
class Reading(OneLine):
    """How a network is read, where its file leaves that open."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Of an edge list: "source", "target", "weight", "sign", "transmitter", "type" -> the name of the column, or its number from 1."""
    unit: float | None = None
    """The weight that one unit of a synapse stands for; None: 1 for integers, else the finest that fits."""
    clip: bool = False
    """Whether weights that do not fit are cut to the largest that does."""
    electrical: bool = False
    """Whether each electrical edge becomes two synapses, one in each direction; else they are left out."""
    neurons: Any = None
    """A file or a table with a row for each neuron, in the order of their ids: the only neurons that edges may name."""
    annotations: Any = None
    """A file or a table with rows by neuron; those of other neurons are left out."""
    transmitters: Any = None
    """Transmitter -> sign (1 excites, -1 inhibits), in place of the default."""
    areas: str | None = None
    """A column of the annotations that makes areas."""
    transposed: bool = False
    """Of a matrix: whether its columns are the sources, in place of its rows."""
    array: str | None = None
    """The name of the matrix in a file that holds several."""
    memory_limit: int | None = None
    """Bytes of memory that reading may take; None: by the size of the file and what is free (gpu_npu/io/budget.py)."""
    fields: Fields = field(default_factory=dict)
    """Neuron fields, each one value for all neurons or one for each."""
    watch: Callable[[int], object] = field(default=lambda rows: None)
    """Called with the rows of a table that were read so far, each time they are read from the beginning again."""
    tell: Callable[[str], object] = logging.getLogger("gpu_npu.io").warning
    """Called with each line that the reader of a network should know: what was taken for what, what was rounded or left out."""

    def __post_init__(self) -> None:
        """NetworkError: an option of another type."""
        for name in ("columns", "fields"):
            check_map(getattr(self, name), name)
        if self.transmitters is not None:
            check_map(self.transmitters, "transmitters")
        for role, column in self.columns.items():
            check_kind(column, str, f"columns: {role}")
        for name in ("areas", "array"):
            if getattr(self, name) is not None:
                check_kind(getattr(self, name), str, name)
        for name in ("clip", "electrical", "transposed"):
            check_flag(getattr(self, name), name)
        if self.unit is not None and not is_real(self.unit):
            raise NetworkError(f"unit: {shown(self.unit)} is not a real number")
        check_callable(self.tell, "tell")
        check_callable(self.watch, "watch")


class Given(NamedTuple):
    """What is to be read: a file, known by how it begins, or an object."""

    value: Any
    head: bytes = b""
    """The beginning of a file, unpacked where it is compressed."""
    packing: str | None = None
    """None, "gzip" or "zstd"."""

    def __repr__(self) -> str:
        return one_line(self)

    @property
    def is_file(self) -> bool:
        """Whether it is a path."""
        return isinstance(self.value, (str, os.PathLike))

    @property
    def path(self) -> Path:
        """Of a file."""
        return Path(self.value)

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.value) if self.is_file else f"this {type(self.value).__name__}"

    def error(self, what: object) -> FileFormatError:
        """A FileFormatError that names it."""
        return FileFormatError(f"{self.name}: {what}")


Stream = Callable[[Given, Reading], tuple[Connectome, SynapseSource]]


class Format(NamedTuple):
    """A kind of file or object that holds a network."""

    about: str
    """What it is, for messages, and by what it is told."""
    recognises: Callable[[Given], bool]
    stream: Stream
    """The network without its synapses, and a source that reads them from the file."""
    read: Callable[[Given, Reading], Connectome] | None = None
    """The whole network, where that is more than the network and the synapses of `stream`."""
    ended: Callable[[Connectome, Given, Reading], object] = lambda network, given, reading: None
    """Called with the network once it has the synapses of `stream`."""
    writes: Mapping[str, Callable[[Connectome, Path], None]] = {}
    """End of a file's name -> what writes a network so."""
    in_files: bool = True
    in_objects: bool = False
    """Whether files are of this format, and objects."""

    def __repr__(self) -> str:
        return one_line(self)

    def load(self, given: Given, reading: Reading) -> Connectome:
        """The whole network, in memory."""
        return self.read(given, reading) if self.read is not None else self._whole(*self.stream(given, reading), given, reading)

    def load_small(self, given: Given, reading: Reading, most: int) -> tuple[Connectome, SynapseSource | None]:
        """The same where there are at most so many synapses; else as `stream`, but where `read` is needed."""
        if self.read is not None:
            return self.read(given, reading), None
        network, synapses = self.stream(given, reading)
        return (network, synapses) if synapses.total > most else (self._whole(network, synapses, given, reading), None)

    def _whole(self, network: Connectome, synapses: SynapseSource, given: Given, reading: Reading) -> Connectome:
        if given.is_file:
            Budget.of(given.path, reading.memory_limit).take_network(network.neuron_capacity, synapses.total)
        network.reserve(synapses=synapses.total)
        for batch in synapses:
            network.synapses.append(batch)
        self.ended(network, given, reading)
        return network


def missing(error: ImportError, needed_by: str, extra: str = "tables") -> MissingPackageError:
    """The error of an optional package that is not installed."""
    return MissingPackageError(f"{needed_by} needs {error.name}, which is not installed: {install_command(extra)}")
