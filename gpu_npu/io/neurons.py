"""The neurons of an edge list: those that it names or those that are listed, with what tables of annotations say of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Flags, sorted_unique
from gpu_npu.connectome import Annotations, Area, Connectome, Settings
from gpu_npu.errors import CapacityError, FileFormatError, NetworkError
from gpu_npu.objects import OneLine

from . import arrow, columns
from .beginning import look
from .formats import Given, Reading
from .tables import ArraysTable, Place, Table, Words
from .transmitters import Signs
from .weights import Scale

LONGEST_TEXT = 256
"""Characters of a value of a column; columns with longer ones are left out."""


@dataclass(frozen=True, repr=False)
class Neurons(OneLine):
    """The neurons of a network that is read."""

    annotations: Annotations
    inhibits: Flags | None = None
    """By neuron, where a column of transmitters says it."""
    fields: dict[str, Any] = field(default_factory=dict)

    def network(self, scale: Scale, reading: Reading) -> Connectome:
        """A network of them, without synapses."""
        count = len(self.annotations)
        settings = Settings(contribution_scale=scale.unit)
        area, areas = self._areas(reading.areas)
        network = Connectome(count, weight_dtype=scale.dtype, settings=settings, areas=areas)
        network.add_neurons(count, **{"cortical_area": area, **reading.fields})
        network.set_annotations(self.annotations)
        return network

    def _areas(self, column: str | None) -> tuple[Any, dict[int, Area]]:
        """The area of each neuron, and names: one for each value of a column, ascending."""
        if column is None:
            return 0, {}
        if column not in self.annotations.columns:
            raise NetworkError(f"{column!r} is no column of the annotations: {', '.join(self.annotations.columns) or 'there are none'}")
        values, area = np.unique(self.annotations.columns[column], return_inverse=True)
        return area, {i: Area(name) for i, name in enumerate(values.tolist())}


def neurons_of(labels: NDArray[Any], reading: Reading, signed: bool) -> Neurons:
    """Those of an edge list that names these labels, or those of the list in `reading`, with their annotations.

    signed: whether the edges say whether they inhibit."""
    tables = [neuron_table(what, reading.memory_limit) for what in (reading.neurons, reading.annotations) if what is not None]
    if reading.neurons is not None:
        labels = _labels(tables[0])
    annotations, found = Annotations(labels), dict[str, NDArray[Any]]()
    for number, table in enumerate(tables):
        found |= _joined(table, annotations, reading, listed=number == 0 and reading.neurons is not None)
    annotations = Annotations(labels, found)
    return Neurons(annotations, None if signed else _inhibits(annotations, reading))


def _inhibits(annotations: Annotations, reading: Reading) -> Flags | None:
    names = [name for name in annotations.columns if columns.plain(name) in columns.EDGES["transmitter"]]
    if not names:
        return None
    texts, codes = np.unique(annotations.columns[names[0]], return_inverse=True)
    signs = Signs.of(reading)
    flags = signs.inhibitory(Words(codes, texts.tolist()))
    signs.tell(reading.tell, f"column {names[0]!r} of the neurons")
    return flags


def neuron_table(what: Any, memory_limit: int | None = None) -> Table:
    """The table of a file, of an object, or of a mapping of arrays. FileFormatError: there is none. CapacityError: it takes more
    than `memory_limit`, as of `Budget.of`."""
    if isinstance(what, Table):
        return what
    if isinstance(what, dict):
        return ArraysTable("the annotations", {name: np.asarray(values) for name, values in what.items()})
    given = look(what) if isinstance(what, (str, os.PathLike)) else Given(what)
    table = arrow.table_of(given, memory_limit) or (arrow.list_of(given, memory_limit) if given.is_file else None)
    if table is None:
        raise given.error("no table of neurons (CSV, TSV, Parquet, Feather, or an object that Arrow can read)")
    return table


def _id_column(table: Table) -> int:
    if len(table.names) == 1:
        return 0
    found = columns.find(table.names, {}, columns.NEURONS, table.name)
    if "neuron" not in found:
        raise FileFormatError(f"{table.name}: no column of ids; it has {', '.join(map(repr, table.names))}; call that of the ids 'id'")
    return found["neuron"]


def _labels(table: Table) -> NDArray[Any]:
    at = _id_column(table)
    labels: NDArray[Any] = table.column(at, "ids")
    if len(sorted_unique(labels)) != len(labels):
        _, first = np.unique(labels, return_index=True)
        again = np.setdiff1d(np.arange(len(labels)), first)[0]
        place = Place(table.name, table.names[at], 1)
        raise place.error(int(again), f"{labels[again].item()!r} is listed for the second time; leave one row for each neuron")
    if len(labels) > 2**30:
        raise CapacityError(f"{table.name}: {len(labels):,} neurons are more than {2**30:,}, the most that synapses can name")
    return labels


def _joined(table: Table, annotations: Annotations, reading: Reading, listed: bool) -> dict[str, NDArray[Any]]:
    """The columns of a table, a value for each neuron."""
    at = _id_column(table)
    labels = _labels(table)
    place = annotations.positions(labels)
    known = place >= 0
    if not listed:
        met, of = int(np.count_nonzero(known)), len(annotations)
        if not met and len(labels):
            raise NetworkError(
                f"{table.name}: none of its {len(labels):,} ids in column {table.names[at]!r} is a neuron of the network;"
                f" its first is {labels[0].item()!r}"
            )
        others = f"; {len(labels) - met:,} rows are of others" if met < len(labels) else ""
        reading.tell(f"{table.name}: annotations by {table.names[at]!r} of {met:,} of {of:,} neurons{others}")
    found = {}
    for number, name in enumerate(table.names):
        if number == at:
            continue
        texts = table.column(number, "words")
        if texts.dtype.itemsize > 4 * LONGEST_TEXT or any("\0" in text for text in texts.tolist()):
            reading.tell(f"{table.name}: column {name!r} is left out: it has texts of more than {LONGEST_TEXT} characters")
            continue
        values = np.zeros(len(annotations), texts.dtype)
        values[place[known]] = texts[known]
        found[name or f"column {number + 1}"] = values
    return found
