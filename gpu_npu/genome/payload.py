"""The payload of FEAGI's exports: vectors of neurons and synapses, names of areas, and the genome.

A vector is a u64 count and the items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome.fields import MAX_NEURONS
from gpu_npu.objects import OneLine

from .container import Reader, json_object

Table = Mapping[str, NDArray[Any]]

LARGEST_GENOME = 2**24
NEURON_VECTORS: dict[str, str] = {
    "membrane_potential": "<f4",
    "threshold": "<f4",
    "leak_coefficient": "<f4",
    "resting_potential": "<f4",
    "neuron_type": "<i4",
    "refractory_period": "<u2",
    "refractory_countdown": "<u2",
    "excitability": "<f4",
    "cortical_area": "<u4",
    "coordinates": "<u4",  # x, y, z of each
    "valid": "|u1",
}
LATER_NEURON_VECTORS: dict[str, str] = {  # of version 3; any may be empty
    "threshold_limit": "<f4",
    "consecutive_fire_count": "<u2",
    "consecutive_fire_limit": "<u2",
    "snooze_period": "<u2",
    "mp_charge_accumulation": "|u1",
}


@dataclass(repr=False)
class Payload(OneLine):
    """The payload as it is in the file."""

    version: int
    neurons: dict[str, NDArray[Any]]
    synapses: dict[str, NDArray[Any]]
    area_ids: dict[int, str]
    burst: int
    power_amount: float
    genome: str | None = None
    blueprint: dict[str, Any] | None = None
    plastic_mappings: int = 0
    memory_neurons: int = 0

    @classmethod
    def read(cls, reader: Reader, container: int) -> Payload:
        version = reader.integer("I", "version of the payload")
        known = (1,) if container >= 3 else (1, 2)
        if version not in known:
            raise reader.error(f"version {version} of the payload; this release reads {' and '.join(map(str, known))} in such a container")
        later = container >= 3
        neurons = _neuron_vectors(reader, later)
        synapses = _synapse_vectors(reader, later)
        area_ids: dict[int, str] = {}
        for _ in range(reader.entries(12, "names of areas")):
            index = reader.integer("I", "index of an area")
            if index in area_ids:
                raise reader.error(f"area {index} is named twice: {area_ids[index]!r} and {reader.text('name of an area')!r}")
            area_ids[index] = reader.text("name of an area")
        payload = cls(version, neurons, synapses, area_ids, reader.integer("Q", "burst count"), reader.real("power amount"))
        reader.take(8, "fire ledger window")
        reader.take(8, "time stamp")
        for what in ("description", "source"):
            reader.text(what)
        for _ in range(reader.entries(16, "tags")):
            reader.text("name of a tag")
            reader.text("tag")
        if later:
            payload._read_later(reader)
        return payload

    def _read_later(self, reader: Reader) -> None:
        """What version 3 adds: how much was saved, the genome, and lists of what is memory and what is plastic."""
        mode = reader.integer("I", "persist mode")
        if mode == 1:
            raise reader.error("a 'lite' export, which holds only what differs from its genome; let FEAGI save the whole connectome (full)")
        if mode:
            raise reader.error(f"persist mode {mode} is neither full (0) nor lite (1)")
        if reader.bools(np.frombuffer(reader.take(1, "mark of a genome"), np.uint8), "mark of a genome")[0]:
            self.genome = reader.text("genome", LARGEST_GENOME)
            self.blueprint = json_object(reader.path, self.genome.encode(), "genome").get("blueprint")
            if not isinstance(self.blueprint, dict):
                raise reader.error(f"the genome's 'blueprint' is {type(self.blueprint).__name__}, not an object")
        for _ in range(reader.entries(8, "memory areas")):
            reader.text("memory area")
        self.plastic_mappings = reader.entries(16, "plastic mappings")
        for _ in range(2 * self.plastic_mappings):
            reader.text("area of a plastic mapping")
        for _ in range(reader.entries(8, "brain regions")):
            reader.text("brain region")
        self.memory_neurons = reader.entries(1, "long-term memory neurons")
        # They, their replay frames and what newer releases may add end the file; the network has no place for them.


def _neuron_vectors(reader: Reader, later: bool) -> dict[str, NDArray[Any]]:
    count, capacity = reader.integer("Q", "count of neurons"), reader.integer("Q", "capacity of neurons")
    if count > MAX_NEURONS:
        raise reader.error(f"{count:,} neurons are more than {MAX_NEURONS:,}, the most that a network can have")
    vectors = {name: reader.vector(dtype, f"neurons' {name}") for name, dtype in NEURON_VECTORS.items()}
    if later:
        found = {name: reader.vector(dtype, f"neurons' {name}") for name, dtype in LATER_NEURON_VECTORS.items()}
        vectors |= {name: vector for name, vector in found.items() if len(vector) or not count}
    _check_lengths(reader, vectors, count, capacity, "neurons'")
    vectors["coordinates"] = vectors["coordinates"].reshape(-1, 3)
    for name in {"valid", "mp_charge_accumulation"} & vectors.keys():
        reader.bools(vectors[name], f"neurons' {name}")
    return {name: vector[:count] for name, vector in vectors.items()}


def _synapse_vectors(reader: Reader, later: bool) -> dict[str, NDArray[Any]]:
    count, capacity = reader.integer("Q", "count of synapses"), reader.integer("Q", "capacity of synapses")
    amount = "<f4" if later else "|u1"
    vectors = {name: reader.vector("<u4", f"synapses' {name}") for name in ("source", "target")}
    vectors |= {name: reader.vector(amount, f"synapses' {name}") for name in ("weight", "psp")}
    vectors["type"] = reader.vector("|u1", "synapses' type")
    delay = reader.vector("|u1", "synapses' delay") if later else np.zeros(0, np.uint8)
    vectors["valid"] = reader.flags("synapses' valid")
    for i in range(reader.entries(12, "index entries")):  # source -> slots: what the vectors say already
        reader.take(4, "source of an index entry")
        reader.take(8 * reader.entries(8, f"index entry {i:,}"), "index entry")
    optional = {"delay": delay}
    if later:
        optional["edge_flags"] = reader.vector("|u1", "synapses' edge flags")
        optional["eligibility"] = reader.vector("<f4", "synapses' eligibility traces")
    vectors |= {name: vector for name, vector in optional.items() if len(vector)}
    _check_lengths(reader, vectors, count, capacity, "synapses'")
    vectors = {name: vector[:count] for name, vector in vectors.items()}
    return {"delay": np.ones(count, np.uint8), **vectors}


def _check_lengths(reader: Reader, vectors: Table, count: int, capacity: int, whose: str) -> None:
    """One length for all, that of what is used or of all that was reserved."""
    length = len(vectors["valid"])
    if not count <= length or capacity < count:
        raise reader.error(f"{whose} vectors have {length:,} items and a capacity of {capacity:,} for a count of {count:,}")
    for name, vector in vectors.items():
        wanted = 3 * length if name == "coordinates" else length
        if len(vector) != wanted:
            raise reader.error(f"{whose} {name} has {len(vector):,} items, where {wanted:,} are needed for {length:,} of 'valid'")
