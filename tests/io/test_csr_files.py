"""Connectomes in CSR, as data sets are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data

from gpu_npu.connectome import NEURON_FIELDS, FileFormatError, NetworkError
from gpu_npu.io import load

GOOD: dict[str, Any] = {
    "indptr": np.array([0, 2, 2, 3], np.int32),
    "indices": np.array([2, 0, 2], np.int32),
    "count": np.array([5, 2058, 65535], np.uint16),
    "sign": np.array([-1, 1, 1], np.int8),
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "edges.npz"
    np.savez(path, **{name: array for name, array in (GOOD | changes).items() if array is not None})
    return path


def test_csr(tmp_path: Path) -> None:
    network = load(written(tmp_path), threshold=[1, 2, 3], leak_coefficient=0.5)
    synapses = network.synapses
    assert synapses.source.tolist() == [0, 0, 2] and synapses.target.tolist() == [2, 0, 2]
    assert synapses.weight.tolist() == [5, 2058, 65535] and synapses.weight.dtype == np.uint16
    assert synapses.psp.tolist() == [1, 1, 1] and synapses.psp.dtype == np.uint8
    assert synapses.inhibitory.tolist() == [True, True, False] and synapses.valid.all()
    assert network.neuron_count == network.neuron_capacity == 3 and network.synapse_capacity == 3
    assert network.neurons.threshold.tolist() == [1, 2, 3] and network.neurons.leak_coefficient.tolist() == [0.5] * 3
    network.validate()


def test_defaults_and_no_signs(tmp_path: Path) -> None:
    network = load(written(tmp_path, sign=None, indptr=np.array([0, 2, 2, 3], np.uint64)))
    assert not network.synapses.inhibitory.any()
    for name, field in NEURON_FIELDS.items():
        assert (network.neurons[name] == field.default).all()


def test_no_neurons(tmp_path: Path) -> None:
    none = np.zeros(0, np.int32)
    assert load(written(tmp_path, indptr=np.zeros(1, np.int32), indices=none, count=none, sign=none)).neuron_capacity == 0


def test_fields_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="threshold: 2 values for 3"):
        load(written(tmp_path), threshold=[1, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"indptr": [0, 3, 2, 3]}, r"indptr\[2\] = 2 is below indptr\[1\] = 3"),
        ({"indptr": np.array([0, 3, 2, 3], np.uint32)}, r"indptr\[2\] = 2 is below indptr\[1\] = 3"),
        ({"indptr": [1, 2, 2, 3]}, "'indptr' goes from 1 to 3; it must go from 0 to 3"),
        ({"indptr": [0, 2, 2, 4]}, "'indptr' goes from 0 to 4; it must go from 0 to 3"),
        ({"indptr": np.zeros(0, np.int64)}, "'indptr' goes nowhere"),
        ({"indptr": [0.0, 2, 2, 3]}, "'indptr' has dtype float64, not integers"),
        ({"indptr": [[0, 2, 2, 3]]}, r"'indptr' has shape \(1, 4\), not one dimension"),
        ({"indices": [2, 3, 2]}, r"indices\[1\] = 3 is outside 0..2"),
        ({"indices": [2, 0, -1]}, r"indices\[2\] = -1 is outside 0..2"),
        ({"indices": None}, "array 'indices' is missing"),
        ({"count": None}, "array 'count' is missing"),
        ({"count": [5, 6]}, "'count' has 2 values for 3 of 'indices'"),
        ({"count": [5, 65536, 6]}, r"count\[1\] = 65536 is outside 0..65535"),
        ({"count": [5, 6, -1]}, r"count\[2\] = -1 is outside"),
        ({"count": [5.0, 6, 1]}, "'count' has dtype float64"),
        ({"sign": [1, -1]}, "'sign' has 2 values for 3 neurons"),
        ({"sign": [1, -1, 0.5]}, "'sign' has dtype float64"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FileFormatError, match=rf"edges\.npz: .*{message}"):
        load(written(tmp_path, **changes))


def test_truncated(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FileFormatError, match=r"edges\.npz: not a \.npz file, or cut short"):
        load(path)


def test_flywire() -> None:
    """The fly hemisphere: as many neurons, edges and synapses as its description says."""
    path = shared_data() / "flywire_right.npz"
    network = load(path, threshold=20)
    assert (network.neuron_count, network.synapse_count) == (66_658, 1_231_192)
    synapses = network.synapses
    assert int(synapses.weight.sum(dtype=np.int64)) == 15_196_728 and synapses.weight.max() == 2058
    with np.load(path, allow_pickle=False) as file:
        sign, indptr, indices = file["sign"], file["indptr"], file["indices"]
    assert (synapses.inhibitory == (sign < 0)[synapses.source]).all() and 0.2 < (sign < 0).mean() < 0.35
    assert (np.bincount(synapses.source, minlength=66_658) == np.diff(indptr)).all() and (synapses.target == indices).all()
    assert np.bincount(synapses.target).max() == 2799 and np.bincount(synapses.source).max() == 2739
    network.validate()
