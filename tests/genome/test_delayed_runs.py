"""Runs of networks with delays that FEAGI recorded. It delivers the weight and psp of the burst of firing, gpu-npu those of the
burst of arrival: nothing else may differ."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data
from numpy.typing import NDArray

from gpu_npu import NPU, Connectome
from gpu_npu.genome import NetworkOptions, grow

ULPS = 2.0**-21
"""Relative: FEAGI sums float32 in an order that changes from start to start; its own potentials differ by up to 2.7e-7."""


class Run:
    """What FEAGI recorded of a network: ids that were forced, that fired with which potential, and potentials after a burst."""

    def __init__(self, name: str) -> None:
        with np.load(shared_data() / "feagi_reference" / f"{name}_run.npz") as file:
            self._arrays = {key: file[key] for key in file.files}
        self.first = int(self._arrays["first_burst"])
        self.last = self.first + int(self._arrays["bursts"]) - 1

    def forced(self, burst: int) -> NDArray[Any]:
        return self._arrays["stim_neuron"][self._arrays["stim_burst"] == burst]

    def fired(self, burst: int) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._by_id("fired", "mp", burst)

    def potentials(self, burst: int, neurons: int) -> NDArray[Any]:
        values = np.zeros(neurons, np.float32)
        ids, values_of_ids = self._by_id("mp", "value", burst)
        values[ids] = values_of_ids
        return values

    def _by_id(self, kind: str, column: str, burst: int) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = np.flatnonzero(self._arrays[f"{kind}_burst"] == burst)
        rows = rows[np.argsort(self._arrays[f"{kind}_neuron"][rows])]
        return self._arrays[f"{kind}_neuron"][rows], self._arrays[f"{kind}_{column}"][rows]


def synth_dyn(tmp_path: Path, rules: str) -> Connectome:
    path = tmp_path / "synth_dyn.json"
    path.write_bytes(gzip.decompress((shared_data() / "feagi_reference" / "synthetic" / "synth_dyn.json.gz").read_bytes()))
    return grow(path, NetworkOptions(rules=rules)).connectome


@pytest.mark.parametrize(
    ("name", "rules", "last", "spikes"),
    [
        ("synthetic/synth_dyn_int8", "feagi-2.6", 61, 5898),
        # From burst 5 on, mp-driven potentials that FEAGI does not clamp in this mode: gpu-npu does, in both.
        ("synthetic/synth_dyn", "feagi-2.6-fp32", 4, 381),
    ],
)
def test_fractions_and_delays(tmp_path: Path, name: str, rules: str, last: int, spikes: int) -> None:
    """The same neurons fire, with the same potentials as far as float32 sums have any."""
    run, network, seen = Run(name), synth_dyn(tmp_path, rules), 0
    with NPU.from_connectome(network, backend="reference") as npu:
        for burst in range(1, last + 1):
            npu.force_fire(run.forced(burst))
            fired = npu.process_burst().fired_neurons
            if burst < run.first:
                continue
            ids, potentials = run.fired(burst)
            np.testing.assert_array_equal(fired, ids, err_msg=f"burst {burst}")
            np.testing.assert_allclose(npu.fire_queue.potentials, potentials, rtol=ULPS, atol=0, err_msg=f"burst {burst}")
            state = npu.get_parameter("membrane_potential")
            np.testing.assert_allclose(state, run.potentials(burst, len(state)), rtol=ULPS, atol=0, err_msg=f"burst {burst}")
            seen += len(fired)
    assert seen == spikes


class Apart:
    """Neurons that may differ from FEAGI's: targets of spikes whose weight or psp changed under way, and of spikes of such
    neurons."""

    def __init__(self, npu: NPU) -> None:
        self._npu, self._synapses = npu, npu.to_connectome().synapses
        self.neurons = np.zeros(npu.neuron_capacity, np.bool_)
        self._past: dict[int, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = {}

    def arrive(self, burst: int) -> None:
        """Before a burst: what arrives in it, and has changed since it left."""
        synapses, values = self._synapses, self._values()
        for delay in np.unique(synapses.delay):
            fired, left, apart = self._past.get(burst - int(delay), (None, None, None))
            if fired is not None and left is not None and apart is not None:
                arrives = (synapses.delay == delay) & fired[synapses.source]
                changed = (values != left).any(axis=0) if delay > 1 else np.zeros(len(arrives), np.bool_)
                self.neurons[synapses.target[arrives & (changed | apart[synapses.source])]] = True
        self._past[burst] = np.zeros(len(self.neurons), np.bool_), values, self.neurons.copy()

    def leave(self, burst: int, *fired: NDArray[Any]) -> None:
        for ids in fired:
            self._past[burst][0][ids] = True

    def _values(self) -> NDArray[Any]:
        now = self._npu.to_connectome().synapses
        return np.stack([now.weight, now.psp])


@pytest.mark.parametrize(("name", "spikes"), [("plastic/delays_fp32", 258), ("plastic/plastic_net_fp32", 392)])
def test_values_that_change_under_way_are_the_only_difference(name: str, spikes: int) -> None:
    run, seen = Run(name), 0
    network = grow(shared_data() / "feagi_reference" / f"{name}.json", NetworkOptions(rules="feagi-2.6-fp32")).connectome
    with NPU.from_connectome(network, backend="reference") as npu:
        apart = Apart(npu)
        for burst in range(1, run.last + 1):
            npu.force_fire(run.forced(burst))
            apart.arrive(burst)
            fired = npu.process_burst().fired_neurons
            if burst < run.first:
                apart.leave(burst, fired)
                continue
            ids, potentials = run.fired(burst)
            apart.leave(burst, fired, ids)
            same, same_there = ~apart.neurons[fired], ~apart.neurons[ids]
            assert fired[same].tolist() == ids[same_there].tolist(), f"burst {burst}"
            here = npu.fire_queue.potentials[same]
            np.testing.assert_allclose(here, potentials[same_there], rtol=ULPS, atol=0, err_msg=f"burst {burst}")
            state = npu.get_parameter("membrane_potential")
            there = run.potentials(burst, len(state))
            np.testing.assert_allclose(state[~apart.neurons], there[~apart.neurons], rtol=ULPS, atol=0, err_msg=f"burst {burst}")
            seen += np.count_nonzero(same)
    assert seen == spikes
