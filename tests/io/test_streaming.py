"""Networks read from files batch by batch: the same as read whole, in bounded memory, damage seen before a burst."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Connectome, FileFormatError, NetworkError, SynapseBatch
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save, stream

MODULES = ("gpu_npu.io.csr", "gpu_npu.io.project")


@pytest.fixture(params=[1, 7, 1_000])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Synapses read at a time."""
    for module in MODULES:
        monkeypatch.setattr(f"{module}.SYNAPSES_AT_A_TIME", request.param)
    return int(request.param)


def network() -> Connectome:
    """Some synapses are removed, one neuron is deleted, and there is room for more."""
    connectome = fixed_out_degree(40, 6, seed=1, weight=(1, 300), psp=(1, 9), threshold=np.arange(40))
    connectome.reserve(neurons=50, synapses=400)
    synapses = connectome.synapses
    connectome.remove_synapses(synapses.source[::9], synapses.target[::9])
    connectome.delete_neurons([3])
    return connectome


def arrays(batch: SynapseBatch) -> list[list[Any]]:
    return [[array.dtype, *array.tolist()] for array in batch.columns()]


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_saved(tmp_path: Path, piece: int, compressed: bool) -> None:
    path = tmp_path / "network.npz"
    save(network(), path, compressed=compressed)
    bare, synapses = stream(path)
    whole = load(path)
    assert bare.synapse_count == bare.synapse_capacity == 0
    assert synapses.total == whole.synapse_count == 240 - 27
    for one, other in zip(bare.neurons.arrays(), whole.neurons.arrays(), strict=True):
        np.testing.assert_array_equal(one, other)
    for _ in range(2):
        batches = list(synapses)
        assert max(map(len, batches)) <= piece
        assert arrays(SynapseBatch.concatenate(batches)) == arrays(whole.synapses.batch())
    with NPU.from_connectome(bare, synapses=synapses, backend="cpu") as npu, NPU.from_connectome(whole, backend="reference") as reference:
        for each in (npu, reference):
            each.set_power_neurons(np.arange(10))
            each.set_power_amount(100.0)
        assert npu.run(10, digest=True).digest == reference.run(10, digest=True).digest


def csr(tmp_path: Path, **changes: Any) -> Path:
    """Some sources have no synapse, some many; the last has one."""
    rng = np.random.default_rng(2)
    degree = rng.choice([0, 0, 1, 5, 40], 30)
    degree[-1] = 1
    count = int(degree.sum())
    good = {
        "indptr": np.concatenate(([0], np.cumsum(degree))),
        "indices": rng.integers(0, 30, count),
        "count": rng.integers(0, 65536, count),
        "sign": np.where(np.arange(30) % 3 == 0, -1, 1),
    }
    np.savez(tmp_path / "edges.npz", **(good | {name: change(good[name]) for name, change in changes.items()}))
    return tmp_path / "edges.npz"


def test_csr(tmp_path: Path, piece: int) -> None:
    path = csr(tmp_path)
    with np.load(path) as file:
        degree, target, weight, sign = np.diff(file["indptr"]), file["indices"], file["count"], file["sign"]
    bare, synapses = stream(path, threshold=7)
    assert (bare.neurons.threshold == 7).all() and bare.neuron_count == 30 and bare.synapse_count == 0
    batch = SynapseBatch.concatenate(synapses)
    np.testing.assert_array_equal(batch.source, np.repeat(np.arange(30), degree))
    np.testing.assert_array_equal(batch.target, target)
    np.testing.assert_array_equal(batch.weight, weight)
    np.testing.assert_array_equal(batch.inhibitory, np.repeat(sign < 0, degree))
    assert (batch.psp == 1).all()
    assert arrays(batch) == arrays(load(path, threshold=7).synapses.batch())


def test_what_is_wrong_with_synapses_is_found_while_they_are_read(tmp_path: Path, piece: int) -> None:
    def last(value: int) -> Any:
        return lambda array: np.concatenate((array[:-1], [value]))

    for changes, message in (
        ({"indices": last(30)}, r"indices\[\d+\] = 30 is outside 0..29"),
        ({"count": last(65536)}, r"count\[\d+\] = 65536 is outside 0..65535"),
    ):
        bare, synapses = stream(csr(tmp_path, **changes))
        with pytest.raises(FileFormatError, match=rf"edges\.npz: {message}"):
            NPU.from_connectome(bare, synapses=synapses, backend="cpu")


def test_fields_of_a_saved_network(tmp_path: Path) -> None:
    save(network(), tmp_path / "network.npz")
    with pytest.raises(NetworkError, match="holds the fields of its neurons, so threshold cannot be given"):
        stream(tmp_path / "network.npz", threshold=3)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_seen_in_the_first_pass(tmp_path: Path, compressed: bool) -> None:
    """Any flipped bit of the synapses, by the CRC if by nothing else: no NPU is made of it."""
    path = tmp_path / "network.npz"
    save(network(), path, compressed=compressed)
    sound = path.read_bytes()
    seen = 0
    for at in np.random.default_rng(0).integers(0, len(sound), 150).tolist():
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        try:
            bare, synapses = stream(path)
            batches = list(synapses)
        except FileFormatError:
            seen += 1
            continue
        path.write_bytes(sound)
        assert arrays(SynapseBatch.concatenate(batches)) == arrays(SynapseBatch.concatenate(stream(path)[1]))
    assert seen > 50


PEAK = """
import resource, sys
import numpy as np
from gpu_npu import NPU, Connectome
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.connectome.generators import RandomSynapses, fixed_out_degree
from gpu_npu.io import save, stream

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

what, path, degree = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "write":
    save(fixed_out_degree(100_000, degree, seed=1, weight=(1, 9), psp=(1, 9)), path)
    sys.exit()
if what == "generate":
    source = RandomSynapses(100_000, degree, seed=1, weight=(1, 9), psp=(1, 9))
    bare = Connectome(100_000)
    bare.add_neurons(100_000)
else:
    bare, source = stream(path)
device = CpuDevice(workers=1)
before = peak()
npu = NPU.from_connectome(bare, synapses=source, backend=DevicePlatform(device))
assert npu.get_synapse_count() == 100_000 * degree
print(peak() - before - sum(npu.memory().values()))
"""


def host_bytes(what: str, path: Path, degree: int) -> int:
    """What a load takes of the host beside what stays on the (CPU) device, at its peak."""
    done = subprocess.run([sys.executable, "-c", PEAK, what, str(path), str(degree)], capture_output=True, text=True, check=True)
    return int(done.stdout or 0)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
def test_memory_of_a_load_does_not_grow_with_the_synapses(tmp_path: Path) -> None:
    """10 M and 20 M synapses, from a file and generated: the same memory beside the rows, far below 12 bytes a synapse."""
    for what in ("stream", "generate"):
        taken = {}
        for degree in (100, 200):
            if what == "stream":
                host_bytes("write", tmp_path / "network.npz", degree)
            taken[degree] = host_bytes(what, tmp_path / "network.npz", degree)
        print(f"\n{what}: {taken[100]:,} bytes beside 10 M synapses, {taken[200]:,} beside 20 M")
        assert taken[200] < 1.25 * taken[100]
        assert taken[200] < 12 * 20_000_000
