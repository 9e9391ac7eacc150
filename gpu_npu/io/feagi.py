"""FEAGI's files among the others: what reads them is a room above this one, so it is looked up when such a file is met."""

from __future__ import annotations

import importlib

from gpu_npu.connectome import Connectome, SynapseArray, SynapseSource

from .formats import Format, Given, Reading
from .kinds import BEFORE_JSON


def _is_feagi(given: Given) -> bool:
    return given.is_file and given.packing is None and (given.head.startswith(b"FEAGI") or given.head.lstrip(BEFORE_JSON).startswith(b"{"))


def _load(given: Given, reading: Reading) -> Connectome:
    genome = importlib.import_module("gpu_npu.genome")
    made = (genome.read_export if given.head.startswith(b"FEAGI") else genome.grow)(given.path, memory_limit=reading.memory_limit)
    for warning in made.report.warnings:
        reading.tell(f"{given.name}: {warning}")
    network: Connectome = made.connectome
    for name, values in reading.fields.items():
        network.write(name, network.neurons.valid, values)
    return network


def _stream(given: Given, reading: Reading) -> tuple[Connectome, SynapseSource]:
    network = _load(given, reading)
    synapses = network.synapses
    network.synapses = SynapseArray(0, network.neuron_capacity, network.weight_dtype, network.psp_dtype, network.delay_dtype)
    return network, synapses


FEAGI = Format("a FEAGI genome or connectome", _is_feagi, _stream, _load)
