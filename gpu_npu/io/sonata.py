"""SONATA circuits: populations of nodes and edges in HDF5, their types in CSV, named by a configuration in JSON. h5py reads them.

Specification: github.com/AllenInstitute/sonata, docs/SONATA_DEVELOPER_GUIDE.md.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import I64, sorted_unique
from gpu_npu.connectome import Annotations, Area, Connectome, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import MAX_NEURONS, CountType
from gpu_npu.errors import CapacityError, FileFormatError, NpuError
from gpu_npu.objects import one_line

from .budget import Budget
from .formats import Format, Given, Reading, missing
from .kinds import BEFORE_JSON
from .neurons import LONGEST_TEXT
from .sonata_config import Configuration, inputs_told, members, read_configuration
from .sonata_write import write_sonata
from .weights import Rounding, Scale, Survey

EDGES_AT_A_TIME = 2**20
_HDF5 = b"\x89HDF\r\n\x1a\n"


class Population(NamedTuple):
    """Nodes of one population: their ids in the network begin at `first`."""

    name: str
    first: int
    ids: I64
    """Of its nodes, in their order."""
    columns: Mapping[str, NDArray[Any]]

    def __repr__(self) -> str:
        return one_line(self)

    @property
    def size(self) -> int:
        """Nodes."""
        return len(self.ids)


class EdgePopulation(NamedTuple):
    """Edges of one population, in their file."""

    path: Path
    name: str
    source: Population
    target: Population
    size: int
    types: Mapping[int, Mapping[str, str]]
    weighted: bool
    """Whether an edge or a type has a syn_weight; else each is 1."""

    def __repr__(self) -> str:
        return one_line(self)

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.path}, edges {self.name}"


class Circuit(NamedTuple):
    """What a configuration names."""

    nodes: dict[str, Population]
    edges: list[EdgePopulation]
    delays: bool
    """Whether some edges have delays."""
    said: Configuration

    def __repr__(self) -> str:
        return one_line(self)


def read_circuit(path: Path, memory_limit: int | None = None) -> Circuit:
    """The populations of a circuit or of a simulation. FileFormatError: no such file, or one that is damaged. CapacityError: one of
    its files takes more than `memory_limit`, as of `Budget.of`. OSError."""
    found = read_configuration(path)
    nodes: dict[str, Population] = {}
    try:
        for entry in found.networks["nodes"]:
            _read_nodes(Path(entry["nodes_file"]), _types(entry.get("node_types_file")), nodes, memory_limit)
        edges, delays = list[EdgePopulation](), False
        for entry in found.networks["edges"]:
            if entry.get("enabled", True):
                types = _types(entry.get("edge_types_file"))
                delays |= any("delay" in row for row in types.values())
                edges += _read_edges(Path(entry["edges_file"]), types, nodes, memory_limit)
        return Circuit(nodes, edges, delays, found)
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: no circuit of SONATA that can be read: {error!r:.200}") from error


def _types(path: Any) -> dict[int, dict[str, str]]:
    """The rows of a table of types by their id; what is NULL is left out."""
    if path is None:
        return {}
    if not isinstance(path, str):
        raise TypeError(f"{path!r} is no name of a file")
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=" ", skipinitialspace=True))
        key = next(name for name in rows[0] if name.endswith("type_id")) if rows else ""
        return {int(row[key]): {name: value for name, value in row.items() if name and value and value != "NULL"} for row in rows}
    except (UnicodeDecodeError, csv.Error, ValueError, TypeError, StopIteration) as error:
        raise FileFormatError(f"{path}: no table of types, whose cells have spaces between them: {error!r:.120}") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to be read. FileFormatError: whatever h5py met inside it. MissingPackageError, OSError."""
    try:
        import h5py
    except ImportError as error:
        raise missing(error, f"reading {path}", "sonata") from error
    path.open("rb").close()  # the system's own error where it cannot be
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, NpuError):
            raise
        raise FileFormatError(f"{path}: no HDF5 file of SONATA that can be read: {' '.join(str(error).split()):.150}") from error


def _all(dataset: Any, budget: Budget) -> NDArray[Any]:
    """All values of an array, counted before they are read: a file of HDF5 may say any size, and hold nothing of it."""
    _check_chunks(dataset, budget)
    budget.take(dataset.nbytes, f"array {dataset.name} of shape {dataset.shape}")
    values: NDArray[Any] = dataset[:]
    return values


def _check_chunks(dataset: Any, budget: Budget) -> None:
    """CapacityError where a piece, which is unpacked as one, is more than the budget has."""
    piece = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    budget.take(piece, f"a piece of array {dataset.name}")
    budget.taken -= piece


def _read_nodes(path: Path, types: Mapping[int, Mapping[str, str]], nodes: dict[str, Population], memory_limit: int | None) -> None:
    budget = Budget.of(path, memory_limit)
    with opened(path) as file:
        for name, group in file["nodes"].items():
            if name in nodes:
                raise FileFormatError(f"{path}: the population {name!r} is there twice")
            type_ids = whole(_all(group["node_type_id"], budget), f"{path}: node_type_id of {name!r}")
            count = len(type_ids)
            budget.take_network(count, 0)
            first = sum(one.size for one in nodes.values())
            if first + count > MAX_NEURONS:
                raise CapacityError(f"{path}: {first + count:,} nodes are more than {MAX_NEURONS:,}, the most that synapses can name")
            ids = whole(_all(group["node_id"], budget), f"{path}: node_id of {name!r}", count) if "node_id" in group else np.arange(count)
            if len(sorted_unique(ids)) < count or (count and int(ids.min()) < 0):
                raise FileFormatError(f"{path}: node_id of {name!r}: an id is there twice, or is below 0 or above 63 bits")
            columns = _columns_of(types, type_ids)
            for key, texts in _attributes(group, count, f"{path}: {name}", budget).items():
                columns[key] = np.where(texts == "", columns[key], texts) if key in columns else texts
            nodes[name] = Population(name, first, ids, columns)


def _columns_of(types: Mapping[int, Mapping[str, str]], type_ids: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the types say of each node, as text."""
    used, code = np.unique(type_ids, return_inverse=True)
    names = ["node_type_id", *dict.fromkeys(name for row in types.values() for name in row if name != "node_type_id")]
    found = {}
    for name in names:
        texts = np.array([str(one) if name == "node_type_id" else types.get(one, {}).get(name, "") for one in used.tolist()], np.str_)
        found[name] = texts[code] if len(used) else np.zeros(0, np.str_)
    return found


def _attributes(group: Any, count: int, label: str, budget: Budget) -> dict[str, NDArray[Any]]:
    """What a file says of each node by itself, as text: of its groups, the arrays of texts and of integers."""
    if "node_group_id" not in group:
        return {}
    groups, index = (whole(_all(group[key], budget), f"{label}: {key}", count) for key in ("node_group_id", "node_group_index"))
    found: dict[str, list[str]] = {}
    for number in (one for one in sorted_unique(groups).tolist() if str(one) in group):
        nodes = np.flatnonzero(groups == number)
        for name, values in group[str(number)].items():
            if getattr(values, "ndim", 0) != 1 or values.dtype.kind not in "iuSO":
                continue
            texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in _all(values, budget).tolist()]
            if not 0 <= index[nodes].min() <= index[nodes].max() < len(texts):
                raise FileFormatError(f"{label}: node_group_index goes beyond the {len(texts):,} rows of {name!r} in group {number}")
            column = found.setdefault(name, [""] * count)
            for node, at in zip(nodes.tolist(), index[nodes].tolist(), strict=True):
                column[node] = texts[at]
    kept = {name: texts for name, texts in found.items() if max(map(len, texts)) <= LONGEST_TEXT and not any("\0" in one for one in texts)}
    return {name: np.array(texts, np.str_) for name, texts in kept.items()}


def _read_edges(
    path: Path, types: Mapping[int, Mapping[str, str]], nodes: Mapping[str, Population], memory_limit: int | None
) -> Iterator[EdgePopulation]:
    budget = Budget.of(path, memory_limit)
    with opened(path) as file:
        for name, group in file["edges"].items():
            ends = []
            for end in ("source_node_id", "target_node_id"):
                population = group[end].attrs.get("node_population", "")
                population = population.decode() if isinstance(population, bytes) else str(population)
                if population not in nodes:
                    raise FileFormatError(f"{path}: {end} of {name!r} are of the population {population!r}; there are {', '.join(nodes)}")
                ends.append(nodes[population])
            if group["source_node_id"].shape != group["target_node_id"].shape or group["source_node_id"].ndim != 1:
                raise FileFormatError(f"{path}: {name!r} has not as many sources as targets")
            budget.take_network(0, len(group["source_node_id"]))
            group.visititems(lambda _, found: _check_chunks(found, budget) if hasattr(found, "chunks") else None)
            weighted = any("syn_weight" in one for one in (*types.values(), *(part for part in group.values() if hasattr(part, "keys"))))
            yield EdgePopulation(path, name, ends[0], ends[1], len(group["source_node_id"]), types, weighted)


class SonataSynapses(SynapseSource):
    """The edges of a circuit, read anew each time."""

    def __init__(self, circuit: Circuit, scale: Scale) -> None:
        self._circuit, self._scale = circuit, scale

    @property
    def total(self) -> int:
        return sum(edges.size for edges in self._circuit.edges)

    @property
    def weight_dtype(self) -> CountType:
        return self._scale.dtype

    @property
    def psp_dtype(self) -> CountType:
        return np.uint8

    def __iter__(self) -> Iterator[SynapseBatch]:
        for edges in self._circuit.edges:
            for source, target, weight in edge_batches(edges):
                yield SynapseBatch.of(
                    source=(source + edges.source.first).astype(np.uint32),
                    target=(target + edges.target.first).astype(np.uint32),
                    weight=self._scale.units(weight),
                    psp=np.ones(len(source), np.uint8),
                    inhibitory=weight < 0,
                )


def edge_batches(edges: EdgePopulation) -> Iterator[tuple[I64, I64, NDArray[np.float64]]]:
    """Source and target by their ids in the populations, and syn_weight, of the edge or of its type. FileFormatError."""
    with opened(edges.path) as file:
        group = file["edges"][edges.name]
        find = [Annotations(population.ids.astype(np.uint64)).positions for population in (edges.source, edges.target)]
        for first in range(0, edges.size, EDGES_AT_A_TIME):
            rows = slice(first, min(first + EDGES_AT_A_TIME, edges.size))
            sources = _ids(_integers(edges, group, "source_node_id", rows), find[0], edges, first)
            targets = _ids(_integers(edges, group, "target_node_id", rows), find[1], edges, first)
            yield sources, targets, _weights(edges, group, rows)


def _integers(edges: EdgePopulation, group: Any, name: str, rows: slice) -> I64:
    """Some rows of an array. FileFormatError: it is not of integers, or not of all edges."""
    return whole(group[name][rows], f"{edges.label}: {name}", rows.stop - rows.start)


def whole(values: NDArray[Any], what: str, count: int | None = None) -> I64:
    """Integers of a file; those above 63 bits are negative here. count: how many there must be. FileFormatError: other values."""
    if values.dtype.kind not in "iu" or values.ndim != 1 or count not in (None, len(values)):
        raise FileFormatError(
            f"{what}: {values.dtype} of shape {values.shape}, where {'' if count is None else f'{count:,} '}integers are needed"
        )
    return values.astype(np.int64)


def _ids(ids: I64, find: Callable[[I64], I64], edges: EdgePopulation, first: int) -> I64:
    """The places of nodes in their population."""
    place = find(ids)
    if (place < 0).any():
        at = int(np.argmax(place < 0))
        raise FileFormatError(f"{edges.label}: edge {first + at:,}: there is no node {ids[at]} in its population")
    return place


def _weights(edges: EdgePopulation, group: Any, rows: slice) -> NDArray[np.float64]:
    """syn_weight times nsyns, the synapses that an edge stands for, as bmtk has it for point neurons."""
    weight = _values(edges, group, rows, "syn_weight") * _values(edges, group, rows, "nsyns")
    bad = ~np.isfinite(weight)
    if bad.any():
        raise FileFormatError(f"{edges.label}: edge {rows.start + int(np.argmax(bad)):,}: its syn_weight is no finite number")
    return weight


def _values(edges: EdgePopulation, group: Any, rows: slice, name: str) -> NDArray[np.float64]:
    """An attribute of edges: that of the edge, else that of its type, else 1."""
    count = rows.stop - rows.start
    none: I64 = np.zeros(count, np.int64)
    kind = _integers(edges, group, "edge_type_id", rows) if "edge_type_id" in group else none
    used, code = np.unique(kind, return_inverse=True)
    values = np.array([_number(edges.types.get(one, {}).get(name, "1"), name, edges) for one in used.tolist()] or [1.0])[code]
    groups = _integers(edges, group, "edge_group_id", rows) if "edge_group_id" in group else none
    for number in sorted_unique(groups).tolist():
        if str(number) in group and name in group[str(number)]:
            of_it = groups == number
            at = _integers(edges, group, "edge_group_index", rows)[of_it]
            values[of_it] = _of_group(edges, group[str(number)][name], name, at)
    return values


def _of_group(edges: EdgePopulation, values: Any, name: str, at: I64) -> NDArray[Any]:
    """Values of the edges of a group by their index in it; what lies between the first and the last of them is read."""
    first, last = int(at.min()), int(at.max())
    if len(values) > edges.size:
        raise FileFormatError(f"{edges.label}: a group of {len(values):,} rows, where there are {edges.size:,} edges in all")
    if first < 0 or last >= len(values):
        raise FileFormatError(f"{edges.label}: edge_group_index {first if first < 0 else last} is none of the {len(values):,} of its group")
    found: NDArray[Any] = values[first : last + 1]
    if found.dtype.kind not in "iuf" or found.ndim != 1:
        raise FileFormatError(f"{edges.label}: {name}: {found.dtype} of shape {found.shape}, where numbers are needed")
    return found[at - first]


def _number(text: str, name: str, edges: EdgePopulation) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise FileFormatError(f"{edges.label}: the {name} of a type is {text!r}, no number") from error


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    circuit = read_circuit(given.path, reading.memory_limit)
    survey = Survey()
    for edges in circuit.edges:
        for _, _, weight in edge_batches(edges):
            survey.add(weight)
    scale = survey.scale(reading, given.name)
    rounding = Rounding(scale)
    for edges in circuit.edges:
        for _, _, weight in edge_batches(edges):
            rounding.add(weight)
    populations = ", ".join(f"{one.name} ({one.size:,} nodes)" for one in circuit.nodes.values())
    reading.tell(f"{given.name}: {populations}; {', '.join(f'{one.name} ({one.size:,} edges)' for one in circuit.edges) or 'no edges'}")
    rounding.tell(reading.tell, given.name)
    _tell_what_is_left_out(circuit, given.name, reading)
    return _network(circuit, scale, reading), SonataSynapses(circuit, scale)


def _tell_what_is_left_out(circuit: Circuit, name: str, reading: Reading) -> None:
    templates = [one.columns["model_template"].tolist() for one in circuit.nodes.values() if "model_template" in one.columns]
    models = sorted({model for found in templates for model in found} - {""})
    if models:
        reading.tell(f"{name}: the neuron models {', '.join(models)} are not computed: neurons are those of bursts, at their defaults")
    for text in (*(f"{file} is not there" for file in circuit.said.missing), *inputs_told(circuit.said)):
        reading.tell(f"{name}: {text}")
    for edges in (one for one in circuit.edges if not one.weighted):
        reading.tell(f"{edges.label}: there is no syn_weight, so each is 1")
    if circuit.delays:
        reading.tell(f"{name}: the delays of its edges are not kept: a spike arrives in the next burst")


def _network(circuit: Circuit, scale: Scale, reading: Reading) -> Connectome:
    populations = list(circuit.nodes.values())
    count = sum(one.size for one in populations)
    areas = {number: Area(one.name) for number, one in enumerate(populations)}
    network = Connectome(count, weight_dtype=scale.dtype, settings=Settings(contribution_scale=scale.unit), areas=areas)
    number = np.repeat(np.arange(len(populations)), [one.size for one in populations])
    network.add_neurons(count, **{"cortical_area": number, **reading.fields})
    names = list(dict.fromkeys(name for one in populations for name in one.columns))
    columns = {
        name: np.concatenate([one.columns.get(name, np.zeros(one.size, np.str_)) for one in populations] or [np.zeros(0, np.str_)])
        for name in names
    }
    labels = np.array([f"{one.name}/{node}" for one in populations for node in one.ids.tolist()], np.str_)
    population = np.array([one.name for one in populations] or [""], np.str_)[number]
    columns = {"population": population, **columns}
    network.set_annotations(Annotations(labels, {**columns, **_node_sets(circuit, columns, reading)}))
    return network


def _node_sets(circuit: Circuit, columns: Mapping[str, NDArray[Any]], reading: Reading) -> dict[str, NDArray[np.str_]]:
    """A column for each set of nodes: "yes" where a node is in it."""
    ids = np.concatenate([np.zeros(0, np.str_), *(one.ids.astype(np.str_) for one in circuit.nodes.values())])
    found, names = dict[str, NDArray[np.str_]](), list[str]()
    for name in circuit.said.node_sets:
        inside = members(name, circuit.said.node_sets, {**columns, "node_id": ids})
        if inside is None or name in columns:
            reading.tell(
                f"the set of nodes {name!r} is left out: " + ("its rule is not known" if inside is None else "a column has its name")
            )
            continue
        found[name] = np.where(inside, "yes", "")
        names.append(f"{name} ({np.count_nonzero(inside):,} nodes)")
    if names:
        reading.tell(f"sets of nodes are columns, named as in {next(iter(found))}=yes: {', '.join(names)}")
    return found


def read_spikes(path: Path, population: str | None = None) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Labels of nodes (`population/17`) and times in ms of a file of spikes, by time. Old files (gids) name no population.

    FileFormatError: no such file, or whose nodes they are is open. MissingPackageError, OSError.
    """
    with opened(path) as file:
        group, key = file["spikes"], "gids"
        if key not in group:
            names = [name for name in group if "timestamps" in group[name]]
            if population is None and len(names) == 1:
                population = names[0]
            if population not in names:
                raise FileFormatError(f"{path}: spikes of the populations {', '.join(names) or 'none'}; name one of them with --population")
            group, key = group[population], "node_ids"
        if population is None:
            raise FileFormatError(f"{path}: an old file, which does not say whose spikes it has; --population NAME says it")
        budget = Budget.of(path)
        times = _all(group["timestamps"], budget)
        if times.dtype.kind not in "iuf" or times.ndim != 1:
            raise FileFormatError(f"{path}: timestamps: {times.dtype} of shape {times.shape}, where numbers are needed")
        nodes, times = whole(_all(group[key], budget), f"{path}: {key}", len(times)), times.astype(np.float64)
        bad = ~(np.isfinite(times) & (times >= 0))
        if bad.any():
            raise FileFormatError(f"{path}: spike {int(np.argmax(bad)):,} is at {times[bad][0]:g} ms, and times begin at 0")
    order = np.argsort(times, kind="stable")
    return np.array([f"{population}/{node}" for node in nodes[order].tolist()], np.str_), times[order]


def _is_sonata(given: Given) -> bool:
    if not given.is_file or not given.head.lstrip(BEFORE_JSON).startswith(b"{"):
        return False
    simulation = (b'"network"', b'"target_simulator"', b'"node_sets_file"')
    return b'"nodes_file"' in given.head or (any(key in given.head for key in simulation) and b'"blueprint"' not in given.head)


SONATA = Format("a circuit of SONATA (its configuration in JSON)", _is_sonata, _stream, writes={".json": write_sonata})
