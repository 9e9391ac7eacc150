"""Runs of plastic networks that FEAGI recorded: what fires, potentials, counts, countdowns and weights, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BackendFactory, shared_data
from numpy.typing import NDArray

from gpu_npu import NPU, Connectome, FeagiRule, Snapshot
from gpu_npu.genome import NetworkOptions, grow
from gpu_npu.session.findings import bounds_reached

STATE = {"mp": "membrane_potential", "refr": "refractory_countdown", "cfc": "consecutive_fire_count"}


def rows(run: dict[str, NDArray[Any]], kind: str, key: str, burst: int) -> tuple[NDArray[Any], NDArray[Any]]:
    here = np.flatnonzero(run[f"{kind}_burst"] == burst)
    here = here[np.argsort(run[f"{kind}_{key}"][here])]
    return run[f"{kind}_{key}"][here], run[f"{kind}_{'mp' if kind == 'fired' else 'value'}"][here]


@pytest.mark.parametrize(("name", "weights"), [("plastic_windows", 3519), ("plastic_parameters", 1002), ("plastic_pairs_fp32", 2191)])
def test_weights_are_those_of_feagi(backend_factory: BackendFactory, tmp_path: Path, name: str, weights: int) -> None:
    """Every weight that changed and every other, burst by burst; a checkpoint in the middle goes on here. Potentials of the pairs
    are left out: some of their synapses have delays, and psps that degenerate."""
    path = shared_data() / "feagi_reference" / "plastic" / f"{name}.json"
    with np.load(path.with_suffix(".npz")) as file, np.load(path.parent / f"{name}_run.npz") as recorded:
        expected, run = file["s_weight"].copy(), {key: recorded[key] for key in recorded.files}
    delays = "one" if name == "plastic_pairs_fp32" else "keep"  # kernels have one delay; firing and weights are the same
    brain = grow(path, NetworkOptions("feagi-2.6-fp32", delays))
    changed, middle = 0, int(run["bursts"]) // 2
    npu = NPU.from_connectome(brain.connectome, backend=backend_factory())
    for burst in range(1, int(run["first_burst"]) + int(run["bursts"])):
        if burst == middle:
            npu.snapshot().write(tmp_path / "run")
            npu.close()
            npu = NPU.from_snapshot(Snapshot.read(tmp_path / "run"), backend=backend_factory())
        forced = run["stim_neuron"][run["stim_burst"] == burst]
        if len(forced):
            npu.force_fire(forced)
        fired = npu.process_burst().fired_neurons
        if burst < int(run["first_burst"]):
            continue
        ids, potentials = rows(run, "fired", "neuron", burst)
        np.testing.assert_array_equal(fired, ids, err_msg=f"burst {burst}")
        if name != "plastic_pairs_fp32":
            np.testing.assert_array_equal(npu.fire_queue.potentials, potentials, err_msg=f"burst {burst}")
        for kind, field in STATE.items() if name != "plastic_pairs_fp32" else ():
            ids, values = rows(run, kind, "neuron", burst)
            state = npu.get_parameter(field)
            wanted = np.zeros_like(state)
            wanted[ids] = values
            np.testing.assert_array_equal(state, wanted, err_msg=f"{field}, burst {burst}")
        ids, values = rows(run, "weight", "synapse", burst)
        expected[ids] = values
        changed += len(ids)
        np.testing.assert_array_equal(npu.synapse_array.weight, expected, err_msg=f"burst {burst}")
    npu.close()
    assert changed == weights


def test_a_bound_that_sums_need_is_told_when_it_is_reached() -> None:
    for keeps_sums, bursts, told in ((True, 3, 1), (True, 1, 0), (False, 3, 0)):
        network = Connectome(2, 1, weight_dtype=np.float32, plasticity=[FeagiRule(0, 1, 1, 0.5, 0, 3, keeps_sums)])
        network.add_neurons(2, threshold=1e30, cortical_area=[0, 1])
        network.add_synapses(0, 1, 1.75, 1)
        with NPU.from_connectome(network, backend="reference") as npu:
            for _ in range(bursts):
                npu.force_fire([0, 1])
                npu.process_burst()
            notes = list(bounds_reached(npu))
        assert len(notes) == told
        assert not told or str(notes[0]).startswith("1 plastic synapses have the largest weight that sums have room for, 3;")
