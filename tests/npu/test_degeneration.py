"""Psps that fall as neurons fire: what is read, what a checkpoint keeps, what a reset leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BackendFactory

from gpu_npu import NPU
from gpu_npu.connectome import Area, Connectome, NetworkError
from gpu_npu.npu.snapshot import Snapshot


def network() -> Connectome:
    """Two areas degenerate; some rows have one psp, others one a synapse."""
    rng = np.random.default_rng(0)
    connectome = Connectome(20, 100, psp_dtype=np.float32, areas={1: Area(degeneration=0.3), 2: Area(degeneration=2)})
    connectome.add_neurons(20, cortical_area=rng.integers(0, 3, 20), threshold=20)
    ends, psp = rng.integers(0, 20, (2, 80)), rng.random(20).astype(np.float32) * 10
    connectome.add_synapses(*ends, rng.integers(0, 9, 80), np.where(ends[0] % 3 == 0, rng.random(80) * 9, psp[ends[0]]))
    return connectome


def run(first: Any, second: Any, path: Path) -> list[Any]:
    """What ten bursts leave, with a checkpoint in the middle, taken up by `second`, unless that is None; and a reset."""
    npu, told = NPU.from_connectome(network(), backend=first), list[Any]()
    for burst in range(10):
        if second is not None and burst == 5:
            npu.snapshot().write(path)
            npu.close()
            npu = NPU.from_snapshot(Snapshot.read(path), backend=second)
        npu.force_fire(np.unique([burst % 20, burst * 7 % 20]))
        told += [npu.process_burst().fired_neurons, npu.get_parameter("membrane_potential"), npu.to_connectome().synapses.psp.copy()]
    npu.reset()
    told.append(npu.to_connectome().synapses.psp.copy())
    npu.close()
    return told


def test_a_checkpoint_goes_on_anywhere(backend_factory: BackendFactory, tmp_path: Path) -> None:
    expected = run("reference", None, tmp_path / "none")
    np.testing.assert_array_equal(expected[-1], expected[-2])  # a reset keeps what was read before it
    assert (expected[-1] < expected[2]).any()
    for first, second in ((backend_factory(), None), (backend_factory(), "reference"), ("reference", backend_factory())):
        for found, wanted in zip(run(first, second, tmp_path / "checkpoint"), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_what_is_read_has_fallen_and_what_is_delivered_has_not() -> None:
    connectome = Connectome(2, 1, psp_dtype=np.float32, areas={0: Area(degeneration=0.75)})
    connectome.add_neurons(2, threshold=100)
    connectome.add_synapse(0, 1, 2, 1)
    with NPU.from_connectome(connectome, backend="reference") as npu:
        read, delivered = [], []
        for _ in range(4):
            npu.force_fire([0])
            npu.process_burst()
            read.append(float(npu.outgoing_synapses([0]).psp[0]))
            delivered.append(float(npu.get_parameter("membrane_potential")[1]))
    assert read == [0.25, 0, 0, 0] and delivered == [0, 2, 2.5, 2.5]


def test_whole_psps_cannot_fall() -> None:
    connectome = Connectome(2, 1)
    with pytest.raises(NetworkError, match="degeneration: 0.5 in a network whose psps are uint8"):
        connectome.set_area(0, Area(degeneration=0.5))
    with NPU.from_connectome(connectome, backend="reference") as npu, pytest.raises(NetworkError, match="psps are uint8"):
        npu.set_area(0, degeneration=0.5)
    with pytest.raises(NetworkError, match="degeneration: -1 is below 0"):
        Area(degeneration=-1)
