"""Networks to circuits of SONATA: nodes and edges in HDF5, their types in CSV, and the configuration that names them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import Indices
from gpu_npu.connectome import Connectome, SynapseArray
from gpu_npu.errors import NetworkError
from gpu_npu.objects import one_line

from .atomic import replacing
from .formats import missing

MAGIC, VERSION = 0x0A7A, (0, 1)
ENDINGS = ("_nodes.h5", "_edges.h5", "_node_types.csv", "_edge_types.csv")
"""Of the files beside a configuration."""


class Nodes(NamedTuple):
    """Where each neuron is: the number of its population, and its id in that."""

    names: list[str]
    population: Indices
    node: NDArray[np.uint64]

    def __repr__(self) -> str:
        return one_line(self)


def write_sonata(network: Connectome, path: Path) -> None:
    """A configuration at `path`, and beside it, under its name, NAME_nodes.h5, NAME_edges.h5, NAME_node_types.csv and
    NAME_edge_types.csv; those that are there are replaced. syn_weight is what a synapse delivers, below 0 where it inhibits.

    NetworkError: delays, which are bursts here and have no duration. MissingPackageError, OSError.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing(error, f"writing {path}", "sonata") from error
    if network.synapses.delay_range != (1, 1) and network.synapse_count:
        raise NetworkError(f"{path}: synapses have delays of several bursts, and those of SONATA are in ms; write .npz")
    nodes = _nodes(network)
    nodes_file, edges_file, node_types, edge_types = files = files_written(path)[1:]
    for file, write in ((nodes_file, _write_nodes), (edges_file, _write_edges)):
        with replacing(file) as content, h5py.File(content, "w") as hdf:
            hdf.attrs["magic"], hdf.attrs["version"] = np.uint32(MAGIC), np.array(VERSION, np.uint32)
            write(hdf, network, nodes)
    for file, text in ((node_types, "node_type_id model_type\n0 point_process\n"), (edge_types, "edge_type_id\n0\n")):
        with replacing(file) as content:
            content.write(text.encode())
    keys = ("nodes_file", "edges_file", "node_types_file", "edge_types_file")
    named = {key: f"$HERE/{file.name}" for key, file in zip(keys, files, strict=True)}
    parts = {kind: [{key: named[key] for key in (f"{kind}s_file", f"{kind}_types_file")}] for kind in ("node", "edge")}
    said = {"manifest": {"$HERE": "${configdir}"}, "networks": {f"{kind}s": files for kind, files in parts.items()}}
    with replacing(path) as content:
        content.write(f"{json.dumps(said, indent=2)}\n".encode())


def _nodes(network: Connectome) -> Nodes:
    """Populations are those of a column of this name, else there is one; nodes keep the ids of labels such as internal/17."""
    n, known = network.neuron_capacity, network.annotations
    column = np.full(n, "neurons", object)
    if "population" in known.columns:
        column[: len(known)] = known.columns["population"]
    said = [_safe(str(name)) or "neurons" for name in column.tolist()]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(said))}
    names, population = list(number_of), np.array([number_of[name] for name in said], np.int64)
    node = np.zeros(n, np.uint64)
    for number, name in enumerate(names):
        inside = np.flatnonzero(population == number)
        node[inside] = np.arange(len(inside))
        parts = [known.name(neuron).rpartition("/") for neuron in inside.tolist()]
        if all(of == name and one.isdecimal() for of, _, one in parts):
            node[inside] = [int(one) for _, _, one in parts]
    return Nodes(names, population, node)


def _safe(name: str) -> str:
    """A name in HDF5, where / and . lead elsewhere."""
    return re.sub(r"[/.]", "_", name)


def files_written(path: Path) -> list[Path]:
    """A configuration, and the files beside it."""
    return [path, *(path.with_name(path.stem + ending) for ending in ENDINGS)]


def _write_nodes(file: Any, network: Connectome, nodes: Nodes) -> None:
    known = network.annotations
    columns = {name: values for name, values in known.columns.items() if name not in ("population", "node_type_id")}
    if known.labels is not None:
        columns["label"] = known.labels.astype(np.str_)
    populations = file.create_group("nodes", track_order=True)
    for number, name in enumerate(nodes.names):
        inside = np.flatnonzero(nodes.population == number)
        group = populations.create_group(name)
        group["node_id"] = nodes.node[inside]
        for key, dtype in (("node_type_id", np.int64), ("node_group_id", np.uint32)):
            group[key] = np.zeros(len(inside), dtype)
        group["node_group_index"] = np.arange(len(inside), dtype=np.uint64)
        attributes = group.create_group("0")
        for key, values in columns.items():
            texts = [values[neuron] if neuron < len(values) else "" for neuron in inside.tolist()]
            attributes.create_dataset(
                _safe(key) if _safe(key) not in attributes else f"{_safe(key)}_", data=[text.encode() for text in texts], dtype=_text()
            )


def _text() -> Any:
    import h5py

    return h5py.string_dtype()


def _write_edges(file: Any, network: Connectome, nodes: Nodes) -> None:
    scale = float(str(np.float32(network.settings.contribution_scale)))  # 0.1 where that is the nearest of 32 bits
    populations, groups = file.create_group("edges", track_order=True), dict[tuple[int, int], Any]()
    for pair, source, target, weight in _by_population(network, nodes):
        if pair not in groups:
            groups[pair] = _edge_group(populations, *(nodes.names[number] for number in pair))
        group = groups[pair]
        first, count = len(group["edge_type_id"]), len(source)
        index = np.arange(first, first + count, dtype=np.uint64)
        none = np.zeros(count, np.int64)
        parts = {"source_node_id": source, "target_node_id": target, "edge_type_id": none, "edge_group_id": none}
        for name, values in {**parts, "edge_group_index": index, "0/syn_weight": weight * scale}.items():
            group[name].resize(first + count, axis=0)
            group[name][first:] = values


def _by_population(network: Connectome, nodes: Nodes) -> Iterator[tuple[tuple[int, int], NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Source and target population of some synapses, and of each its nodes and its signed weight."""
    synapses: SynapseArray = network.synapses
    for batch in synapses:
        weight = batch.weight.astype(np.float64) * batch.psp * np.where(batch.inhibitory, -1, 1)
        ends = nodes.population[batch.source], nodes.population[batch.target]
        for source in np.unique(ends[0]).tolist():
            for target in np.unique(ends[1][ends[0] == source]).tolist():
                of_it = (ends[0] == source) & (ends[1] == target)
                yield (source, target), nodes.node[batch.source[of_it]], nodes.node[batch.target[of_it]], weight[of_it]


def _edge_group(populations: Any, source: str, target: str) -> Any:
    group = populations.create_group(f"{source}_to_{target}")
    dtypes = {"source_node_id": "u8", "target_node_id": "u8", "edge_type_id": "i8", "edge_group_id": "u4", "edge_group_index": "u8"}
    for name, dtype in {**dtypes, "0/syn_weight": "f8"}.items():
        group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(2**16,))
    for name, population in (("source_node_id", source), ("target_node_id", target)):
        group[name].attrs["node_population"] = population
    return group
