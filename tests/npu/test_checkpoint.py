"""A run that is checkpointed and taken up again, on whatever backend, is the run that never stopped."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EMULATED, BackendFactory, cpu_backend, emulated_backend, reference_backend
from golden_cases import CASES, load_case, run_case
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Plan, agree, plans
from relay import Relay

from gpu_npu import (
    NEURON_FIELDS,
    NPU,
    Area,
    CheckpointError,
    Connectome,
    CustomRule,
    NetworkError,
    PairRule,
    Settings,
    WindowRule,
)
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io.atomic import replacing
from gpu_npu.io.sealed import Sealed, write_sealed
from gpu_npu.npu.snapshot import Snapshot

KINDS: dict[str, BackendFactory] = {
    "reference": reference_backend,
    "cpu": cpu_backend,
    **{name: lambda options=options: emulated_backend(*options) for name, options in EMULATED.items()},
}
cuda = pytest.mark.parametrize("backend_factory", ["cuda"], indirect=True)


# -- any network, any script, cut anywhere -----------------------------------------------------------------------------
def relayed(plan: Plan, order: list[str], p: float, path: Path) -> int:
    relay = Relay([KINDS[name] for name in order], path, plan.seed, p)
    agree(plan, relay, ReferencePlatform())
    return relay.cuts


orders, chances = st.permutations(list(KINDS)), st.sampled_from((0.02, 0.1))


@settings(max_examples=12)
@given(plan=plans(), order=orders, p=chances)
def test_random_networks(plan: Plan, order: list[str], p: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    relayed(plan, order, p, tmp_path_factory.getbasetemp() / "relay.ckpt")


@pytest.mark.long
def test_a_thousand_random_networks(tmp_path: Path) -> None:
    """New ones at every run."""
    cuts = []

    @settings(max_examples=1000, derandomize=False, print_blob=True)
    @given(plan=plans(), order=orders, p=chances)
    def look(plan: Plan, order: list[str], p: float) -> None:
        cuts.append(relayed(plan, order, p, tmp_path / "relay.ckpt"))

    look()
    assert sum(cuts) > 1000


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str, tmp_path: Path) -> None:
    relay = Relay(list(KINDS.values()), tmp_path / "run.ckpt", 1, 0.02)
    run_case(load_case(name), relay)
    assert relay.cuts
    relay.close()


# -- what an NPU keeps -------------------------------------------------------------------------------------------------
def small_npu(backend: Any = "reference", **options: Any) -> NPU:
    """A little of everything that a checkpoint holds."""
    network = Connectome(40, 300, weight_dtype=np.uint16, areas={3: Area("drive", power=True), 5: Area(psp_uniform=False)})
    rng = np.random.default_rng(5)
    areas, potentials = rng.choice([3, 5, 9], 30), 300 * rng.random(30)
    network.add_neurons(30, threshold=400.0, leak_coefficient=0.25, refractory_period=2, cortical_area=areas, membrane_potential=potentials)
    network.set_settings(Settings(power_amount=150.0))
    network.add_synapses(*rng.integers(0, 30, (2, 200)), rng.integers(0, 300, 200), 1, rng.random(200) < 0.2)
    npu = NPU.from_connectome(network, fire_ledger_window=3, backend=backend, **options)
    npu.set_power_neurons([1, 2])
    return npu


def stir(npu: NPU) -> None:
    """Edits and stimuli of all kinds, with bursts between them."""
    npu.run(3)
    npu.delete_neurons([4, 7])
    npu.set_neuron_mapping({33: 5, 38: 9})
    npu.set_parameter("membrane_potential", [33, 12], [0.5, 1.5])
    npu.remove_synapses(*(npu.synapse_array.source[:9], npu.synapse_array.target[:9]))
    for _ in range(4):
        npu.add_synapse(33, 12, 5, 1)  # parallel ones, of which the oldest changes
    npu.update_weight(33, 12, 260)
    npu.run(2)
    npu.inject([20, 8, 20], [300.0, 1e8, 0.25])
    npu.inject([8, 20], [-1e8, 1e-5])
    npu.inject([8], 0.7)  # in another order they would add up to 0
    npu.force_fire([30, 9, 9])
    coming = npu.burst_count + np.array([1, 1, 1, 4, 2, 4, 400])
    npu.schedule(coming, [20, 20, 3, 3, 3, 3, 3], [1e-3, 500.0, 5.0, 0.1, 7.0, 900.0, 1.0])
    npu.schedule(coming[3], [3, 3], [1e-3, 2.0])
    npu.schedule_force(coming[3:5], [11, 12])
    npu.add_synapse(20, 21, 7, 1)  # still on its way to the backend


def everything(npu: NPU) -> tuple[Any, ...]:
    """What a user can see of an NPU."""
    fields = {name: npu.get_parameter(name).tolist() for name in NEURON_FIELDS}
    numbers = {name: value for name, value in npu.statistics().items() if not name.startswith(("bytes", "rows", "compactions", "growths"))}
    synapses = npu.synapse_array
    queues = [(q.neurons.tolist(), q.potentials.tolist()) for q in (npu.fire_queue, npu.previous_fire_queue)]
    candidates = npu.fire_candidate_list
    history = [(burst, ids.tolist()) for burst, ids in npu.get_recent_history(3)]
    columns = [synapses.source.tolist(), synapses.target.tolist(), synapses.weight.tolist(), synapses.inhibitory.tolist()]
    rest = (npu.settings, dict(npu.areas), candidates.neurons.tolist(), candidates.potentials.tolist())
    return fields, numbers, queues, history, columns, rest


def resumed(npu: NPU, path: Path, backend: Any = "reference") -> NPU:
    npu.snapshot().write(path)
    return NPU.from_snapshot(Snapshot.read(path), backend=backend)


def check_that_it_goes_on(path: Path, first: Any, second: Any) -> None:
    npu = small_npu(first)
    stir(npu)
    again, written = resumed(npu, path, second), path.read_bytes()
    again.snapshot().write(path)
    assert path.read_bytes() == written and everything(again) == everything(npu)
    for _ in range(10):
        assert again.run(1, digest=True).digest == npu.run(1, digest=True).digest and everything(again) == everything(npu)
    assert 0 < npu.fire_queue.neurons.size < 25
    assert again.add_neurons(2).tolist() == npu.add_neurons(2).tolist()
    for one in (npu, again):
        one.reset()
    assert everything(again) == everything(npu)
    assert again.run(10, digest=True).digest == npu.run(10, digest=True).digest
    for one in (npu, again):
        one.close()


@pytest.mark.parametrize("second", KINDS)
def test_all_that_a_user_sees_is_there_again(second: str, tmp_path: Path) -> None:
    check_that_it_goes_on(tmp_path / "run.ckpt", KINDS["cpu"], KINDS[second])


@cuda
def test_from_and_to_a_gpu(backend_factory: BackendFactory, tmp_path: Path) -> None:
    check_that_it_goes_on(tmp_path / "run.ckpt", KINDS["cpu"], backend_factory)
    check_that_it_goes_on(tmp_path / "run.ckpt", backend_factory, KINDS["reference"])


def test_a_snapshot_is_a_copy(backend_factory: BackendFactory, tmp_path: Path) -> None:
    npu = small_npu(backend_factory)
    stir(npu)
    snapshot = npu.snapshot(notes={"who": "I", "n": [1, 2.5, None]}, extra={"mine": np.arange(3.0)})
    snapshot.write(tmp_path / "before")
    stir(npu)
    npu.close()
    snapshot.write(tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    read = Snapshot.read(tmp_path / "after")
    assert read.notes == {"who": "I", "n": [1, 2.5, None]} and read.extra["mine"].tolist() == [0, 1, 2] and read.burst == 5


def test_one_snapshot_serves_two_runs(backend_factory: BackendFactory, tmp_path: Path) -> None:
    npu = small_npu(backend_factory)
    stir(npu)
    snapshot = npu.snapshot()
    digests = []
    for _ in range(2):
        with NPU.from_snapshot(snapshot, backend=backend_factory) as again:
            digests.append(again.run(5, digest=True).digest)
            again.reset()
            again.add_neurons(1, membrane_potential=0.5)
    assert digests == [npu.run(5, digest=True).digest] * 2
    npu.close()


def test_a_network_as_first_loaded_is_not_in_a_checkpoint(tmp_path: Path) -> None:
    again = resumed(small_npu(), tmp_path / "run.ckpt")
    with pytest.raises(NetworkError, match="goes on from a snapshot, so it has no connectome to go back to"):
        again.reset(network=True)


def test_nothing_at_all_can_be_checkpointed(backend_factory: BackendFactory, tmp_path: Path) -> None:
    with NPU(0, 0, backend=backend_factory) as npu, resumed(npu, tmp_path / "run.ckpt", backend_factory) as again:
        assert again.run(2, digest=True).digest == npu.run(2, digest=True).digest


@pytest.mark.parametrize("kind", KINDS)
def test_what_rules_remember_is_there_again(kind: str, tmp_path: Path) -> None:
    """Cut before every burst, while rules of both kinds come and go."""
    npu, relay = small_npu(), small_npu(KINDS[kind])
    for burst in range(30):
        for one in (npu, relay):
            if burst in (0, 11):
                one.register_plasticity(WindowRule(3, 5, 3, 2, 1))
            if burst in (4, 17):
                one.register_plasticity(PairRule(5, 9, 3.3, 2.2, 4.0, 7.5, pairing="all" if burst == 4 else "nearest"))
            if burst == 14:
                one.unregister_plasticity(1)
            if burst == 20:
                one.reset()
            if burst == 23:
                one.update_weights(*(one.synapse_array.source[:5], one.synapse_array.target[:5]), 9)
            one.inject(np.arange(30), 450.0 * (np.arange(30) % 4 == burst % 4))
        relay = resumed(relay, tmp_path / "run.ckpt", KINDS[kind])
        assert relay.run(1, digest=True).digest == npu.run(1, digest=True).digest
        assert relay.plasticity == npu.plasticity and everything(relay) == everything(npu)
    assert npu.snapshot().flight.learning.residues.any() and list(npu.plasticity) == [0, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("returns", ["at once", "after a burst"])
@pytest.mark.parametrize("leaves", ["the targets", "the sources", "the rule", "the only rule"])
def test_cut_where_synapses_have_just_left_a_rule(leaves: str, returns: str, kind: str, tmp_path: Path) -> None:
    """Their residues go with the next burst; if they are in a rule again before it, they stay."""

    def rule(target: int) -> PairRule:
        return PairRule(0, target, 1.3, 3.7, 1.5, 1.5, pairing="all")

    area = {"the targets": 1, "the sources": 0}.get(leaves)

    def leave(npu: NPU) -> object:
        return npu.unregister_plasticity(0) if area is None else npu.set_area_parameter("cortical_area", area, 5)

    def come_back(npu: NPU) -> object:
        return npu.register_plasticity(rule(1)) if area is None else npu.set_area_parameter("cortical_area", 5, area)

    def fire(npu: NPU, bursts: int) -> None:
        for burst in range(bursts):
            npu.force_fire(np.arange(burst % 2, 120, 2))
            npu.process_burst()

    network = fixed_out_degree(120, 9, seed=3, weight=(1, 60), psp=(1, 9), threshold=300.0, cortical_area=np.arange(120) % 3)
    with NPU.from_connectome(network, backend="reference") as npu, NPU.from_connectome(network, backend=KINDS[kind]) as first:
        for one in (npu, first):
            one.register_plasticity(rule(1))
            if leaves != "the only rule":
                one.register_plasticity(rule(2))
            fire(one, 6)
            leave(one)
        assert npu.synapse_residues().any()
        with resumed(first, tmp_path / "run.ckpt", KINDS[kind]) as again:
            assert everything(again) == everything(npu)
            for one in (npu, again):
                if returns == "after a burst":
                    fire(one, 1)
                come_back(one)
            np.testing.assert_array_equal(again.synapse_residues(), npu.synapse_residues())
            for one in (npu, again):
                fire(one, 9)
            assert everything(again) == everything(npu)
            np.testing.assert_array_equal(again.synapse_residues(), npu.synapse_residues())


def test_a_rule_written_in_python_is_refused() -> None:
    class Nothing(CustomRule):
        def apply(self, burst: int, synapses: Any, weight: Any, source_fired: Any, target_fired: Any) -> Any:
            return weight

    npu = small_npu()
    npu.register_plasticity(Nothing(3, 5))
    with pytest.raises(NetworkError, match=r"rule 0 is a CustomRule, which keeps its state to itself; unregister_plasticity\(0\)"):
        npu.snapshot()


# -- files that are not right ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    npu, path = small_npu(), tmp_path_factory.mktemp("good") / "run.ckpt"
    stir(npu)
    npu.snapshot({"note": 1}, {"array": np.arange(5)}).write(path)
    Snapshot.read(path)
    return path.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        Snapshot.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_every_flipped_bit_is_noticed(good: bytes, tmp_path: Path) -> None:
    """Every bit of the first 64 bytes and of the seal, and one of every sixth byte between."""
    path, random = tmp_path / "run.ckpt", np.random.default_rng(0)
    bits = [*range(64 * 8), *range(len(good) * 8 - 256, len(good) * 8)]
    between = np.arange(64, len(good) - 32, 6)
    bits += (between * 8 + random.integers(0, 8, len(between))).tolist()
    for bit in bits:
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        refused(path, bytes(changed))


def test_every_truncation_is_noticed(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    for length in (*range(200), *range(200, len(good) - 200, 37), *range(len(good) - 200, len(good))):
        refused(path, good[:length])
    refused(path, good + b"\0")


def test_the_errors_say_what_is_wrong(good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    assert "not a checkpoint" in refused(path, b"") and "not a checkpoint" in refused(path, b"PK" + good[2:])
    assert "version 1 of the format, and this release reads versions 2 and 3" in refused(path, good[:8] + b"\1" + good[9:])
    assert "truncated: it has" in refused(path, good[:-1])
    assert "not what was written" in refused(path, good + good)
    assert "corrupt: its SHA-256" in refused(path, good[:2000] + b"?" + good[2001:])
    with pytest.raises(FileNotFoundError):
        Snapshot.read(tmp_path / "nothing.ckpt")
    with pytest.raises(IsADirectoryError):
        Snapshot.read(tmp_path)


def test_a_well_sealed_file_with_nonsense_in_it_is_refused(good: bytes, tmp_path: Path) -> None:
    """Somebody who can compute a SHA-256 gets no further: what is read is checked as any other input."""
    path = tmp_path / "run.ckpt"
    path.write_bytes(good)
    with Sealed(path) as file:
        values = {name: file._value(name) for name in file._values}
        arrays = {name: file.array(name, file._places[name][1]) for name in file._places}

    def wrong(what: str, **changes: Any) -> None:
        new = {name: value for name, value in {**values, **arrays, **changes}.items() if value is not None}
        write_sealed(
            path,
            {name: value for name, value in new.items() if not isinstance(value, np.ndarray)},
            {name: value for name, value in new.items() if isinstance(value, np.ndarray)},
        )
        with pytest.raises(CheckpointError, match=what):
            Snapshot.read(path)

    one, ids = np.ones(1, np.float32), np.array([40], np.uint32)
    wrong("fired.0.: 40 is not a neuron id", fired_neuron=ids, fired_potential=one)
    wrong("staged.0.: 40 is not a neuron id", staged_neuron=ids, staged_potential=one)
    wrong("staged.0.: nan is not a finite float32", staged_neuron=ids - 1, staged_potential=one * np.nan)
    wrong("staged: 1 potentials for 0 ids", staged_neuron=ids[:0], staged_potential=one)
    wrong("forced: its ids do not ascend", forced=np.array([3, 3], np.uint32))
    wrong("power_neurons: its ids do not ascend", power_neurons=np.array([3, 2], np.uint32))
    wrong("the ledger has 3 bursts; with a window of 4 it has 4 after burst 5", fire_ledger_window=4)
    wrong("the ledger has 3 bursts; with a window of 3 it has 1 after burst 1", burst=1)
    wrong("the ledger ends with other ids", fired_neuron=ids - 1, fired_potential=one)
    wrong("0 earlier fire queues, where delays up to 4 have 2", longest_delay=4)
    wrong("longest_delay: 0 is not|longest_delay: 0 is outside", longest_delay=0)
    wrong("value 'longest_delay' is missing", longest_delay=None)
    wrong("array 'synapse_delay' is missing", synapse_delay=None)
    queue: dict[str, Any] = {"earlier_offset": np.array([0, 1]), "earlier_neuron": ids, "earlier_potential": one}
    wrong("earlier.0..0.: 40 is not a neuron id", **queue, longest_delay=3)
    wrong("'earlier_offset' does not cut", earlier_offset=np.array([0, 1]), earlier_neuron=ids)
    wrong("the ledger ends with other ids", earlier_offset=np.array([0, 0]), longest_delay=3)
    wrong("'ledger_offset' does not cut", ledger_offset=np.array([0, 5, 1, 2], np.int64))
    wrong("'burst' is -1, not an integer", burst=-1)
    wrong("value 'burst' is missing", burst=None)
    wrong("array 'forced' is missing", forced=None)
    wrong("array 'forced' has dtype <i8", forced=np.zeros(0, np.int64))
    wrong("array 'neuron_threshold' has shape", neuron_threshold=np.zeros(3, np.float32))
    wrong("settings' cannot be read", settings="{}")
    wrong("neuron 0 is valid but was never created", neuron_created=np.zeros(40, np.bool_))
    wrong("scheduled: its bursts do not ascend, or are not after burst 5", scheduled_burst=np.arange(5, 16, dtype=np.uint64))
    wrong("scheduled: a potential is infinite", scheduled_potential=np.full(11, np.inf, np.float32))
    wrong("scheduled.0.: 40 is not a neuron id", scheduled_neuron=ids.repeat(11))
    wrong("'notes' cannot be read", notes="{")
    wrong("rules with the handles .0., for 0 rules", rules_since="[[0, 0]]")
    wrong("run: 1 values for 0 ids of a network with 0 rules", run=np.ones(1, np.uint16))
    wrong("delivered.0.: .* is held back, of a synapse that no FeagiRule acts on", delivered=arrays["synapse_weight"] ^ 1)
    wrong("residues: 1 for [0-9]+ synapses", residues=np.ones(1, np.int16))


def test_a_file_of_version_2_goes_on(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of delays, and each is 1."""
    path = tmp_path / "run.ckpt"
    path.write_bytes(good)
    with Sealed(path) as file:
        values = {name: file._value(name) for name in file._values if name != "longest_delay"}
        late = ("earlier_", "synapse_delay")
        arrays = {name: file.array(name, file._places[name][1]) for name in file._places if not name.startswith(late)}
    monkeypatch.setattr("gpu_npu.io.sealed.VERSION", 2)
    write_sealed(tmp_path / "old.ckpt", values, arrays)
    digests = []
    for one in (path, tmp_path / "old.ckpt"):
        with NPU.from_snapshot(Snapshot.read(one), backend="cpu") as npu:
            digests.append(npu.run(20, digest=True).digest)
    assert digests[0] == digests[1] and Snapshot.read(tmp_path / "old.ckpt").longest_delay == 1


# -- folders and disks that are not right ------------------------------------------------------------------------------
def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    npu, path = small_npu(), tmp_path / "run.ckpt"
    npu.snapshot().write(path)
    before = path.read_bytes()
    npu.run(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            npu.snapshot().write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run.ckpt"]
    npu.snapshot().write(path)
    assert Snapshot.read(path).burst == 1


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder in which this process can make nothing, though it be root's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.ckpt").write_bytes(b"good")
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_read_only_folder_is_told(read_only_folder: Path) -> None:
    npu = small_npu()
    with pytest.raises(PermissionError) as caught:
        npu.snapshot().write(read_only_folder / "run.ckpt")
    assert caught.value.filename == str(read_only_folder / "run.ckpt")
    assert (read_only_folder / "run.ckpt").read_bytes() == b"good" and len(os.listdir(read_only_folder)) == 1
    assert npu.run(1).bursts == 1


def test_a_folder_that_is_not_there_and_a_folder_in_the_way(tmp_path: Path) -> None:
    snapshot = small_npu().snapshot()
    with pytest.raises(FileNotFoundError):
        snapshot.write(tmp_path / "no" / "run.ckpt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        snapshot.write(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path, snapshot = tmp_path / "run.ckpt", small_npu().snapshot()
    with replacing(path) as file:
        file.write(b"first")
        with pytest.raises(OSError, match="another process is writing it"):
            snapshot.write(path)
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["run.ckpt"]


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    path, snapshot = tmp_path / "run.ckpt", small_npu().snapshot()
    (tmp_path / ".run.ckpt.unfinished").write_bytes(b"half" * 100_000)
    snapshot.write(path)
    assert Snapshot.read(path).burst == 0 and os.listdir(tmp_path) == ["run.ckpt"]
