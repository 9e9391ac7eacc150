"""Edge lists (source, target, weight, ...) become networks: whoever is named is a neuron, in the order of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Flags, sorted_unique
from gpu_npu.connectome import Connectome, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import MAX_NEURONS, CountType
from gpu_npu.errors import CapacityError, NetworkError
from gpu_npu.objects import OneLine, described, one_line

from . import arrow, columns
from .edgefiles import write_csv, write_feather, write_parquet
from .formats import Format, Given, Reading
from .neurons import Neurons, neurons_of
from .tables import ArraysTable, Kind, Place, Table, Words
from .transmitters import Signs
from .weights import LARGEST, Rounding, Scale, Survey

ELECTRICAL = ("electrical", "electric", "gapjunction", "gap", "ej", "gj")
"""Types of edges that have no direction, as `columns.plain` writes them."""
RECEIVED = ("r", "rp", "receive", "received")
"""Types of edges, in tables of `Neuron 1` and `Neuron 2`, that say again what the sender's row says, from the receiver's side."""
KINDS: dict[str, Kind] = {"source": "ids", "target": "ids", "weight": "numbers", "sign": "numbers", "transmitter": "words", "type": "words"}


class Rows(NamedTuple):
    """Edges as they stand in the file."""

    source: NDArray[np.uint64] | Words
    target: NDArray[np.uint64] | Words
    weight: NDArray[Any]
    inhibitory: Flags | None
    """None: neither a sign nor a transmitter says it."""
    electrical: Flags | None
    received: Flags | None
    """Rows that are left out, as others say the same."""
    first: int
    """Number of the first row, from 1."""

    def __repr__(self) -> str:
        return one_line(self)


class EdgeList:
    """A table of edges, with a known column for each role."""

    def __init__(self, table: Table, reading: Reading, signs: Signs) -> None:
        self.table, self.reading, self.signs = table, reading, signs
        self.found = columns.find(table.names, reading.columns, columns.EDGES, table.name)
        columns.needed(self.found, table.names, table.name, "source", "target")
        self.roles = [role for role in KINDS if role in self.found]

    def __repr__(self) -> str:
        return described(self, self.table.name)

    def tell(self) -> None:
        """Which column was taken for what."""
        names = self.table.names
        taken = ", ".join(f"{role} = {names[i]!r}" for role, i in self.found.items() if role != "delay")
        unused = [repr(name) for i, name in enumerate(names) if i not in self.found.values()]
        weight = "" if "weight" in self.found else "; there is no weight, so each is 1"
        self.reading.tell(f"{self.table.name}: {taken}{weight}" + (f"; not used: {', '.join(unused)}" if unused else ""))
        if "delay" in self.found:
            delay = names[self.found["delay"]]
            self.reading.tell(f"{self.table.name}: the delays in {delay!r} are not kept: a spike arrives in the next burst")

    def rows(self, *roles: str) -> Iterator[Rows]:
        """All rows, or of the columns of these roles alone; the others are then empty."""
        wanted = [role for role in self.roles if not roles or role in roles]
        first = 1
        for batch in self.table.batches([(self.found[role], KINDS[role]) for role in wanted]):
            parts = dict(zip(wanted, batch, strict=True))
            n = len(batch[0].codes if isinstance(batch[0], Words) else batch[0])
            weight = parts["weight"] if "weight" in parts else np.ones(n, np.int64)
            electrical = received = None
            if "type" in parts:
                electrical = _is_one_of(parts["type"], ELECTRICAL)
                received = _is_one_of(parts["type"], RECEIVED) if self._told_by_both else None
            source, target = (parts.get(role, np.zeros(0, np.uint64)) for role in ("source", "target"))
            yield Rows(source, target, weight, self._inhibitory(parts, weight, first), electrical, received, first)
            first += n
            self.reading.watch(first - 1)

    @property
    def _told_by_both(self) -> bool:
        """Whether sender and receiver have a row each, as in the table of Varshney et al. 2011, whose types say whose it is."""
        return columns.plain(self.table.names[self.found["source"]]) == "neuron1"

    def kept(self, rows: Rows) -> Flags | None:
        """Which rows become synapses; None: all."""
        left = [flags for flags in (None if self.reading.electrical else rows.electrical, rows.received) if flags is not None]
        return ~np.logical_or.reduce(left) if left else None

    def _inhibitory(self, parts: Mapping[str, Any], weight: NDArray[Any], first: int) -> Flags | None:
        negative: Flags = weight < 0
        if "sign" in parts:
            sign = parts["sign"]
            place = Place(self.table.name, self.table.names[self.found["sign"]], first)
            place.check(~np.isin(sign, (-1, 0, 1)), sign, "is no sign, which is 1, -1 or 0, true or false")
            inhibits = sign <= 0 if "excit" in place.column.lower() else sign < 0
        elif "transmitter" in parts:
            inhibits = self.signs.inhibitory(parts["transmitter"])
            place = Place(self.table.name, self.table.names[self.found["transmitter"]], first)
        else:
            return negative if negative.any() else None
        place.check(negative & ~inhibits, weight, "is a negative weight of an edge that excites by its sign or transmitter")
        flags: Flags = inhibits
        return flags


class EdgeSynapses(SynapseSource):
    """The edges of a table as synapses, read anew each time."""

    def __init__(self, edges: EdgeList, neurons: Neurons, scale: Scale, total: int) -> None:
        self._edges, self._neurons, self._scale, self._total = edges, neurons, scale, total

    @property
    def total(self) -> int:
        return self._total

    @property
    def weight_dtype(self) -> CountType:
        return self._scale.dtype

    @property
    def psp_dtype(self) -> CountType:
        return np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        edges, names = self._edges, self._edges.table.names
        for rows in edges.rows():
            ends = []
            for role in ("source", "target"):
                ids: NDArray[np.uint64] | Words = getattr(rows, role)
                found = self._positions(ids)
                if (found < 0).any():
                    place = Place(edges.table.name, names[edges.found[role]], rows.first)
                    shown = ids.array() if isinstance(ids, Words) else ids
                    place.check(found < 0, shown, "is not in the list of neurons; leave the list out, or give it as --annotations")
                ends.append(found.astype(np.uint32))
            source, target = ends
            inhibitory = rows.inhibitory
            if inhibitory is None:
                inhibitory = np.zeros(len(source), np.bool_) if self._neurons.inhibits is None else self._neurons.inhibits[source]
            batch = SynapseBatch.of(
                source=source,
                target=target,
                weight=self._scale.units(rows.weight),
                psp=np.ones(len(source), np.uint8),
                inhibitory=inhibitory,
            )
            kept = edges.kept(rows)
            parts = [batch if kept is None else batch.take(kept)]
            if rows.electrical is not None and edges.reading.electrical:
                both = batch.take(rows.electrical)
                parts.append(replace(both, source=both.target, target=both.source))
            yield SynapseBatch.concatenate(parts)

    def _positions(self, ids: NDArray[np.uint64] | Words) -> NDArray[np.int64]:
        """The neuron of each id; of names, each is looked up once."""
        positions = self._neurons.annotations.positions
        return positions(np.array(ids.texts, np.str_))[ids.codes] if isinstance(ids, Words) else positions(ids)


def stream_edges(table: Table, reading: Reading) -> tuple[Connectome, SynapseSource]:
    """The neurons of an edge list, and its edges as a source of synapses. Memory: a batch, and the labels.

    Errors: FileFormatError and NetworkError, naming the row and the column; CapacityError: more than MAX_NEURONS labels.
    """
    edges = EdgeList(table, reading, Signs.of(reading))
    edges.tell()
    survey, found = Survey(), _Counts()
    labels = _surveyed(edges, survey, found)
    neurons = neurons_of(labels, reading, "sign" in edges.found or "transmitter" in edges.found or survey.negative > 0)
    scale = survey.scale(reading, table.name)
    rounding = Rounding(scale)
    if scale.unit != 1 or survey.largest > LARGEST:
        for part in edges.rows("weight", "type"):
            rounding.add(_of(part.weight, edges.kept(part)))
    rounding.tell(reading.tell, table.name)
    edges.signs.tell(reading.tell, table.name)
    found.tell(edges)
    return neurons.network(scale, reading), EdgeSynapses(edges, neurons, scale, found.kept + reading.electrical * found.electrical)


@dataclass(repr=False)
class _Counts(OneLine):
    """Rows of an edge list."""

    rows: int = 0
    kept: int = 0
    electrical: int = 0
    received: int = 0

    def tell(self, edges: EdgeList) -> None:
        """What is not as it stands in the table."""
        tell, name = edges.reading.tell, edges.table.name
        if not self.rows:
            tell(f"{name}: it has no rows, so the network has no synapses")
        if self.electrical:
            two = edges.reading.electrical
            done = "are two synapses each, one a direction" if two else "are left out; --electrical makes two synapses of each"
            tell(f"{name}: {self.electrical:,} of {self.rows:,} rows are electrical and {done}")
        if self.received:
            tell(f"{name}: {self.received:,} of {self.rows:,} rows are left out: they say from the receiver's side what others say")


def _surveyed(edges: EdgeList, survey: Survey, found: _Counts) -> NDArray[Any]:
    """All labels, ascending."""
    labels: NDArray[Any] = np.zeros(0, np.uint64)
    for rows in edges.rows():
        for ids in (rows.source, rows.target):
            if isinstance(ids, Words):
                edges.table.check_texts(ids.texts, len(ids.texts))
        ends = (np.array(ids.texts, np.str_) if isinstance(ids, Words) else ids for ids in (rows.source, rows.target))
        parts = [labels, *map(sorted_unique, ends)]
        if len({part.dtype.kind for part in parts if len(part)}) > 1:
            parts = [part.astype(np.str_) for part in parts]
        labels = sorted_unique(np.concatenate([part for part in parts if len(part)] or parts[:1]))
        edges.table.check_bytes(labels.nbytes, f"{len(labels):,} labels")
        if len(labels) > MAX_NEURONS:
            raise CapacityError(f"{edges.table.name}: more than {MAX_NEURONS:,} neurons, the most that synapses can name")
        weight = _of(rows.weight, edges.kept(rows))
        survey.add(weight)
        found.rows += len(rows.weight)
        found.kept += len(weight)
        found.electrical += 0 if rows.electrical is None else int(np.count_nonzero(rows.electrical))
        found.received += 0 if rows.received is None else int(np.count_nonzero(rows.received))
    return labels


def _of(values: NDArray[Any], kept: Flags | None) -> NDArray[Any]:
    return values if kept is None else values[kept]


def _is_one_of(types: Words, known: tuple[str, ...]) -> Flags:
    flags: Flags = np.array([columns.plain(text) in known for text in types.texts] or [False], np.bool_)
    return flags[types.codes]


def _table(given: Given, memory_limit: int | None) -> Table:
    table = _arrays(given) if _is_arrays(given) else arrow.table_of(given, memory_limit)
    if table is None:
        raise given.error("no table")
    return table


def _is_arrays(given: Given) -> bool:
    value = given.value
    if isinstance(value, np.ndarray):
        return value.dtype.names is not None
    return isinstance(value, Mapping) or (isinstance(value, tuple) and 2 <= len(value) <= 4)


def _arrays(given: Given) -> Table:
    if isinstance(given.value, np.ndarray):
        return ArraysTable(given.name, {name: given.value[name] for name in given.value.dtype.names or ()})
    if isinstance(given.value, Mapping):
        return ArraysTable(given.name, {str(name): np.asarray(values) for name, values in given.value.items()})
    try:
        arrays = [np.asarray(part) for part in given.value]
    except ValueError as error:
        raise NetworkError(f"{given.name} is no (source, target, weight) of arrays: {error}") from error
    return ArraysTable("(source, target, weight)", dict(zip(("source", "target", "weight", "sign"), arrays, strict=False)))


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    return stream_edges(_table(given, reading.memory_limit), reading)


def _tell_repeated(network: Connectome, given: Given, reading: Reading) -> None:
    """Pairs that are there twice."""
    synapses = network.synapses
    pairs = (synapses.source.astype(np.uint64) << np.uint64(32)) | synapses.target
    again = len(pairs) - len(sorted_unique(pairs))
    if again:
        reading.tell(f"{given.name}: {again:,} rows name a pair of neurons that another row names; they are synapses of their own")


EDGES = Format(
    "an edge list (CSV, TSV, Parquet, Feather; a table of pandas, polars or Arrow; a dict, or a tuple source, target, weight, of arrays)",
    lambda given: _is_arrays(given) or arrow.is_table(given),
    _stream,
    ended=_tell_repeated,
    in_objects=True,
    writes={".csv": write_csv, ".parquet": write_parquet, ".feather": write_feather},
)
