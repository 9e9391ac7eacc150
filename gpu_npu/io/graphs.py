"""Graphs of networkx and GraphML."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import numpy as np

from gpu_npu.connectome import Connectome, SynapseSource
from gpu_npu.errors import NetworkError

from .budget import Budget
from .edges import stream_edges
from .formats import Format, Given, Reading, missing
from .tables import ArraysTable

GRAPHML_BYTES = 40
"""Memory for each byte of a file, as text, elements of XML and a graph."""


def stream_graph(graph: Any, name: str, reading: Reading) -> tuple[Connectome, SynapseSource]:
    """The network of a graph of networkx: a neuron for each node, whose attributes are its annotations; a synapse for each edge, or
    two where edges have no direction."""
    ends = [(source, target, data) for source, target, data in graph.edges(data=True)]
    if not graph.is_directed():
        ends += [(target, source, data) for source, target, data in ends if source != target]
        reading.tell(f"{name}: its edges have no direction, so each is two synapses")
    attributes = list(dict.fromkeys(key for _, _, data in ends for key in data))
    if any(key in ("source", "target") for key in attributes):
        raise NetworkError(f"{name}: an attribute of edges is called 'source' or 'target', as their ends are; rename it")
    columns: dict[str, Any] = {"source": _nodes([one for one, _, _ in ends]), "target": _nodes([one for _, one, _ in ends])}
    for key in attributes:
        default = 1 if key == "weight" else ""
        columns[key] = np.array([data.get(key, default) for _, _, data in ends])
    known = list(dict.fromkeys(key for _, data in graph.nodes(data=True) for key in data))
    nodes: dict[str, Any] = {"node id": _nodes(list(graph.nodes))}
    for key in known:
        nodes[f"{key}" if key.lower() not in ("id", "node id") else f"{key} (attribute)"] = np.array(
            [str(data.get(key, "")) for _, data in graph.nodes(data=True)], np.str_
        )
    listed = reading.neurons if reading.neurons is not None else ArraysTable(f"the nodes of {name}", nodes)
    return stream_edges(ArraysTable(name, columns), replace(reading, neurons=listed))


def _nodes(nodes: list[Any]) -> Any:
    """Nodes as ids: integers, or their texts."""
    if all(type(node) is int and 0 <= node < 2**64 for node in nodes):
        return np.array(nodes, np.uint64)
    return np.array([str(node) for node in nodes], np.str_)


def _graph(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    return stream_graph(given.value, given.name, reading)


def _graphml(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    try:
        import networkx
    except ImportError as error:
        raise missing(error, f"reading {given.name}", "matrices") from error
    budget = Budget.of(given.path, reading.memory_limit)
    budget.take(given.path.stat().st_size * GRAPHML_BYTES, "the graph")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            graph = networkx.read_graphml(given.path)
    except (ET.ParseError, networkx.NetworkXException, LookupError, ValueError, TypeError, AttributeError) as error:
        raise given.error(f"no GraphML that can be read: {' '.join(str(error).split()):.200}") from error
    for text in dict.fromkeys(str(warning.message) for warning in warned):
        reading.tell(f"{given.name}: {text:.200}")
    return stream_graph(graph, given.name, reading)


def _is_graph(given: Given) -> bool:
    return all(hasattr(given.value, name) for name in ("nodes", "edges", "is_directed", "adj"))


GRAPH = Format("a graph of networkx", _is_graph, _graph, in_files=False, in_objects=True)
GRAPHML = Format("a GraphML file", lambda given: b"<graphml" in given.head[:4096], _graphml)
