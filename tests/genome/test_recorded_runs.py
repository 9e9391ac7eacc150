"""Grown brains run as FEAGI ran them: the recorded bursts, and one digest on all backends."""

from __future__ import annotations

from typing import Any

import numpy as np
from conftest import BackendFactory, shared_data
from numpy.typing import NDArray

from gpu_npu import NPU
from gpu_npu.genome import Grown, NetworkOptions, grow

DIGESTS = {
    100: "0503408eefa633acf25b67b10717c427e0e1bc91b61147d3bd994f89c7137a76",
    1000: "e0f8681d2ce840304338ee67fa7068a53c26106ec5eb082c477642cecb8781ed",
}
"""Of the first so many bursts of the essential genome under "feagi-2.6"."""


def grown(name: str, rules: str) -> Grown:
    """Of the public genomes, or of the recorded networks where the name has a folder."""
    path = f"feagi_reference/{name}" if "/" in name else f"genomes/{name}_genome"
    return grow(shared_data() / f"{path}.json", NetworkOptions(rules=rules))


class Recording:
    """A recorded run: what fired, with which potential, and the state after each burst."""

    STATE = {"mp": "membrane_potential", "refr": "refractory_countdown", "cfc": "consecutive_fire_count"}

    def __init__(self, name: str) -> None:
        with np.load(shared_data() / "feagi_reference" / f"{name if '/' in name else name + '_genome'}_run.npz") as file:
            self.arrays = {key: file[key] for key in file.files}
        self.first, self.bursts = int(self.arrays["first_burst"]), int(self.arrays["bursts"])

    def at(self, kind: str, burst: int, *columns: str) -> list[NDArray[Any]]:
        """Columns of one burst, by ascending neuron id."""
        rows = np.flatnonzero(self.arrays[f"{kind}_burst"] == burst)
        rows = rows[np.argsort(self.arrays[f"{kind}_neuron"][rows], kind="stable")]
        return [self.arrays[f"{kind}_{column}"][rows] for column in columns]

    def psps(self, burst: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Synapses, in canonical order, whose psp changed in a burst, and what it then was."""
        rows = self.arrays["psp_burst"] == burst
        return self.arrays["psp_synapse"][rows], self.arrays["psp_value"][rows]


def follow(name: str, factory: BackendFactory, tolerance: float) -> int:
    """Run with the recorded stimuli and hold every burst to the recording; returns how many spikes there were."""
    recording, brain = Recording(name), grown(name, "feagi-2.6-fp32")
    counted = brain.neurons.consecutive_fire_limit != 65535  # the fires of others are told in some recordings alone
    counted |= not counted[recording.arrays["cfc_neuron"]].all()
    spikes = 0
    with NPU.from_connectome(brain.connectome, backend=factory()) as npu:
        for burst in range(1, recording.first + recording.bursts):
            (forced,) = recording.at("stim", burst, "neuron")
            if len(forced):
                npu.force_fire(forced)
            fired = npu.process_burst().fired_neurons
            if burst < recording.first:
                continue
            ids, potentials = recording.at("fired", burst, "neuron", "mp")
            np.testing.assert_array_equal(fired, ids, err_msg=f"burst {burst}")
            if "fired_x" in recording.arrays:
                voxel = np.stack(recording.at("fired", burst, "x", "y", "z"), axis=1)
                np.testing.assert_array_equal(npu.fire_queue.coordinates, voxel, err_msg=f"burst {burst}")
            np.testing.assert_allclose(npu.fire_queue.potentials, potentials, rtol=tolerance, atol=0, err_msg=f"burst {burst}")
            spikes += len(fired)
            changed, values = recording.psps(burst)
            if len(changed):
                np.testing.assert_array_equal(npu.to_connectome().synapses.psp[changed], values, err_msg=f"psps, burst {burst}")
            for kind, field in recording.STATE.items():
                ids, values = recording.at(kind, burst, "neuron", "value")
                state = npu.get_parameter(field)
                if kind == "cfc":
                    state = np.where(counted, state, 0)
                expected = np.zeros_like(state)
                expected[ids] = values
                np.testing.assert_allclose(state, expected, rtol=tolerance, atol=0, err_msg=f"{field}, burst {burst}")
    return spikes


def test_the_essential_run_is_equal_burst_by_burst(backend_factory: BackendFactory) -> None:
    assert follow("essential", backend_factory, tolerance=0) > 500


def test_a_forced_neuron_keeps_its_potential_until_it_was_a_candidate(backend_factory: BackendFactory) -> None:
    """Forced in burst 3 and no candidate in 4, it has in 5 what it kept; reset always, it would fire there."""
    assert follow("plastic/reset_after_forced", backend_factory, tolerance=0) == 9


def test_the_community_run_is_equal_burst_by_burst(backend_factory: BackendFactory) -> None:
    """Its power area degenerates: psps fall from 500 to 499.99, 499.98 and so on."""
    assert follow("community_learning", backend_factory, tolerance=0) == 8349


def test_the_seeds_own_test(backend_factory: BackendFactory) -> None:
    """essential_genome.json, 1,000 bursts (100 where each takes long): the power area drives, and the recorded stimuli come
    again every 60 bursts."""
    brain, recording = grown("essential", "feagi-2.6"), Recording("essential")
    stimuli = [recording.at("stim", recording.first + burst, "neuron")[0] for burst in range(recording.bursts)]
    with NPU.from_connectome(brain.connectome, backend=backend_factory()) as npu:
        bursts = 100 if npu.backend == "emulated" else 1000
        for burst in range(2, bursts + 1):
            npu.schedule_force(burst, stimuli[(burst - 1) % len(stimuli)])
        result = npu.run(bursts, digest=True)
    assert result.fired_counts.min() >= 1  # the power neuron
    assert result.fired_counts.mean() > 9
    assert result.digest == DIGESTS[bursts]


def test_the_power_area_fires_by_itself() -> None:
    """In every fourth burst it is stopped by its limit of three fires in a row."""
    with NPU.from_connectome(grown("barebones", "feagi-2.6").connectome, backend="reference") as npu:
        assert npu.run(8).fired_counts.tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
