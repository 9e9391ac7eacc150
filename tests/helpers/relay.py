"""A run that is cut now and then and goes on from a file, on the next backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from networks import to_device
from numpy.typing import NDArray

from gpu_npu import NPU, Area, Connectome, PlasticityRule, Settings, Snapshot
from gpu_npu.backends.base import BurstOutput, Platform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import COUNTERS


class Relay:
    """The Backend contract over an NPU that now and then is written to a file and goes on, from it, on the next backend."""

    def __init__(self, factories: Sequence[Callable[[], Platform]], path: Path, seed: int, p: float) -> None:
        self.factories, self.path, self.rng, self.p = factories, path, np.random.default_rng(seed), p
        self.cuts = 0

    def load(self, connectome: Connectome, shape: NetworkShape) -> Relay:
        capacities = {"neuron_capacity": shape.neuron_capacity, "synapse_capacity": shape.synapse_capacity}
        self.npu = NPU.from_connectome(connectome, fire_ledger_window=shape.ledger_window, backend=self.factories[0], **capacities)
        self.npu.reserve(delay=shape.longest_delay)
        self.asked = shape.neuron_capacity
        return self

    def close(self) -> None:
        self.npu.close()

    def cut(self) -> None:
        """Stop, and go on with the next backend. What that one would write is the same file."""
        before, self.cuts = self.npu, self.cuts + 1
        before.snapshot().write(self.path)
        before.close()
        written = self.path.read_bytes()
        self.npu = NPU.from_snapshot(Snapshot.read(self.path), backend=self.factories[self.cuts % len(self.factories)])
        self.npu.snapshot().write(self.path)
        assert self.path.read_bytes() == written

    @property
    def resident(self) -> Any:
        if self.rng.random() < self.p:
            self.cut()
        return self.npu._resident.open()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.resident, name)

    # What an NPU keeps itself goes through it.
    def burst(self, number: int) -> BurstOutput:
        if number % 7 == 1:  # and wherever else chance has it
            self.cut()
        assert self.resident and number == self.npu.burst_count + 1
        result = self.npu.process_burst()
        return BurstOutput(result.fired_neurons, tuple(getattr(result, name) for name in COUNTERS))

    def inject_device(self, *arrays: NDArray[Any]) -> None:
        backend = self.resident
        backend.inject_device(*(to_device(backend, array) for array in arrays))

    def set_power(self, neurons: NDArray[np.uint32]) -> None:
        self.npu.set_power_neurons(neurons)

    def set_settings(self, settings: Settings) -> None:
        self.npu.set_settings(settings)

    def set_area(self, area: int, flags: Area) -> None:
        self.npu.set_area(area, flags.psp_uniform, flags.mp_driven_psp, degeneration=flags.degeneration)

    def reserve(self, *, neuron_capacity: int, synapse_capacity: int, longest_delay: int = 1) -> None:
        self.npu.reserve(neuron_capacity, synapse_capacity)
        self.asked = max(self.asked, neuron_capacity)

    def read(self, field: str) -> NDArray[Any]:
        """Of the ids asked for: an NPU reserves some more."""
        return np.asarray(self.resident.read(field)[: self.asked])

    def add_rule(self, handle: int, rule: PlasticityRule, since: int) -> None:
        if handle not in self.npu.plasticity:  # those of the connectome are there already
            assert since == self.npu.burst_count and self.npu.register_plasticity(rule) == handle

    def remove_rule(self, handle: int) -> None:
        self.npu.unregister_plasticity(handle)

    def reset(self, state: dict[str, NDArray[Any]]) -> None:
        self.npu.reset()
        there = np.flatnonzero(self.npu._resident.open().read("created")).astype(np.uint32)
        for name, values in state.items():
            self.npu.set_parameter(name, there, values[there])
