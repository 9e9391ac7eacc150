"""Edits, bursts, rules, refusals for want of memory, signals and resumes in any order: at all times as on the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty import FaultyCpu

from gpu_npu import NPU, DeviceMemoryError, FeagiRule, NpuError, PairRule, PlasticityRule, WindowRule
from gpu_npu.backends.executor import DevicePlatform, Tuning, incoming, rows
from gpu_npu.connectome.generators import fixed_out_degree

Edit = Callable[[NPU], object]
Random = np.random.Generator
STEPS = 100


def some(rng: Random, npu: NPU, most: int) -> Any:
    return rng.choice(npu.neuron_capacity, int(rng.integers(1, most)), replace=False)


def created(rng: Random, npu: NPU, most: int) -> Any:
    return rng.permutation(np.flatnonzero(npu._resident.ready().read("created")))[: rng.integers(1, most)]


def pairs(rng: Random, npu: NPU, most: int) -> Any:
    """Ends of some synapses, one of them perhaps several times."""
    synapses = npu.synapse_array
    at = rng.integers(0, max(len(synapses.source), 1), int(rng.integers(1, most)))[: len(synapses.source)]
    return synapses.source[at].copy(), synapses.target[at].copy()


def added(rng: Random, npu: NPU) -> Edit:
    count = min(int(rng.choice([1, 10, 60, 300])), npu.synapse_capacity - npu.get_synapse_count())
    source, target = rng.integers(0, npu.neuron_capacity, (2, count))
    weight, psp = rng.integers(0, 100, count), rng.integers(0, 9, count) if rng.random() < 0.5 else 4
    return lambda npu: npu.add_synapses(source, target, weight, psp)


def a_rule(rng: Random, npu: NPU) -> Edit:
    source, target = rng.integers(0, 4, 2).tolist()
    rule: PlasticityRule = WindowRule(source, target, int(rng.choice([1, 2, 3, 7])), int(rng.integers(4)), int(rng.integers(3)))
    if npu.plasticity and isinstance(next(iter(npu.plasticity.values())), FeagiRule) or (not npu.plasticity and rng.random() < 0.5):
        top = float(rng.integers(255)) if rng.random() < 0.5 else None
        rule = FeagiRule(source, target, int(rng.choice([1, 2, 3, 7, 80])), float(rng.integers(9)), float(rng.integers(5)), top)
    elif rng.random() < 0.5:
        pairing: Any = rng.choice(["all", "nearest"])
        rule = PairRule(source, target, float(rng.choice([5.0, 0.3])), 3.0, float(rng.choice([1.5, 20.0])), 1.5, pairing=str(pairing))
    return lambda npu: npu.register_plasticity(rule) if len(npu.plasticity) < 5 else None


def no_rule(rng: Random, npu: NPU) -> Edit:
    handles = list(npu.plasticity)
    handle = handles[int(rng.integers(len(handles)))] if handles else None
    return lambda npu: handle is not None and npu.unregister_plasticity(handle)


def one_field(rng: Random, npu: NPU) -> Edit:
    ids, area, threshold = created(rng, npu, 40), int(rng.integers(4)), float(rng.choice([50.0, 250.0, 900.0]))
    return lambda npu: npu.set_parameter("cortical_area", ids, area) if threshold < 100 else npu.set_parameter("threshold", ids, threshold)


def staged(rng: Random, npu: NPU) -> Edit:
    ids, what, late = some(rng, npu, 60), int(rng.integers(4)), int(rng.integers(1, 6))
    calls: list[Edit] = [
        lambda npu: npu.inject(np.tile(ids, 3), 500.0),
        lambda npu: npu.force_fire(ids),
        lambda npu: npu.schedule(npu.burst_count + late, ids, 400.0),
        lambda npu: npu.schedule_force(npu.burst_count + late, ids),
    ]
    return calls[what]


def flags(rng: Random, npu: NPU) -> Edit:
    area, driven, power = int(rng.integers(4)), bool(rng.random() < 0.3), bool(rng.random() < 0.2)
    return lambda npu: npu.set_area(area, mp_driven_psp=driven, power=power)


def moved(rng: Random, npu: NPU) -> Edit:
    before, after = rng.integers(0, 4, 2).tolist()
    return lambda npu: npu.set_area_parameter("cortical_area", before, after)


def removed(rng: Random, npu: NPU) -> Edit:
    ends = pairs(rng, npu, 40)
    return lambda npu: npu.remove_synapses(*ends).tolist()


def reweighted(rng: Random, npu: NPU) -> Edit:
    ends, weight = pairs(rng, npu, 40), int(rng.integers(200))
    return lambda npu: npu.update_weights(*ends, weight).tolist()


def driven(rng: Random, npu: NPU) -> Edit:
    ids = some(rng, npu, 20)
    return lambda npu: npu.set_power_neurons(ids)


def born(rng: Random, npu: NPU) -> Edit:
    count, area = min(int(rng.integers(1, 5)), int(np.count_nonzero(~npu._resident.created()))), int(rng.integers(4))
    return lambda npu: npu.add_neurons(count, cortical_area=area, threshold=100.0).tolist()


def gone(rng: Random, npu: NPU) -> Edit:
    ids = some(rng, npu, 4)
    return lambda npu: npu.delete_neurons(ids).tolist()


def grown(rng: Random, npu: NPU) -> Edit:
    neurons, synapses = npu.neuron_capacity + int(rng.choice([0, 1, 40])), npu.synapse_capacity + int(rng.choice([0, 100, 1_000]))
    return lambda npu: npu.reserve(neurons=neurons, synapses=synapses)


def whole(rng: Random, npu: NPU) -> Edit:
    return NPU.rebuild_indexes if rng.random() < 0.7 else NPU.reset


EDITS = (added, removed, reweighted, a_rule, a_rule, no_rule, one_field, staged, staged, flags, moved, driven, born, gone, grown, whole)


def attempt(edit: Edit, npu: NPU) -> object:
    """What it returns, or the kind of error where it is not allowed."""
    try:
        return edit(npu)
    except DeviceMemoryError:
        raise
    except NpuError as problem:
        return type(problem)


def check(seed: int, folder: Path) -> tuple[int, int]:
    """Some steps of a random network; how many refusals and signals there were."""
    rng, refusals, signals = np.random.default_rng(seed), 0, 0
    neurons = int(rng.choice([40, 120, 300]))
    network = fixed_out_degree(
        neurons, int(rng.choice([3, 9, 25])), seed=seed, weight=(1, 60), psp=(1, 9), threshold=300.0, cortical_area=np.arange(neurons) % 3
    )
    choices: dict[str, Any] = {
        "propagation": str(rng.choice(["owned", "rows", "blocked", "slices"])),
        "heavy_row": int(rng.choice([8, 16, 4096])),
        "ring": (int(rng.choice([2, 5, 100])), int(rng.choice([20, 150, 10_000]))),
    }
    device = FaultyCpu(workers=1)
    room = {"neuron_capacity": neurons + 30, "synapse_capacity": network.synapse_count + int(rng.choice([0, 200, 3_000]))}
    npu = NPU.from_connectome(network, backend=DevicePlatform(device, Tuning(**choices)), **room)
    reference = NPU.from_connectome(network, backend="reference", **room)

    def same(where: str) -> None:
        files = folder / "ours", folder / "theirs"
        for one, file in zip((npu, reference), files, strict=True):
            one.snapshot().write(file)
        assert files[0].read_bytes() == files[1].read_bytes(), f"seed {seed}, {where}"

    def catch_up() -> None:
        while reference.burst_count < npu.burst_count:
            reference.process_burst()

    for step in range(STEPS):
        where = f"step {step}"
        if rng.random() < 0.4:
            bursts = int(rng.integers(1, 25))
            device.left = int(rng.integers(40)) if rng.random() < 0.2 else None
            if device.left is None and rng.random() < 0.2:
                npu._resident.set_power(npu._resident.power())
                npu._resident.ready()
                if not npu._resident.open()._plasticity.stale:  # type: ignore[attr-defined]  # tables are being made: not for signals
                    device.after = int(rng.integers(12))
            try:
                npu.process_burst() if bursts < 8 else npu.run(bursts)
            except DeviceMemoryError:
                refusals += 1
            except KeyboardInterrupt:
                signals += 1
            finally:
                device.left = device.after = None
            catch_up()
            np.testing.assert_array_equal(npu.fire_queue.neurons, reference.fire_queue.neurons, err_msg=f"seed {seed}, {where}")
        elif rng.random() < 0.03:
            same(where)
            snapshots = npu.snapshot(), reference.snapshot()
            npu.close()
            device = FaultyCpu(workers=1)
            npu = NPU.from_snapshot(snapshots[1], backend=DevicePlatform(device, Tuning(**choices)))
            reference = NPU.from_snapshot(snapshots[0], backend="reference")
        else:
            edit = EDITS[int(rng.integers(len(EDITS)))](rng, reference)
            told: list[Any] = []
            for one in (npu, reference):
                device.left = int(rng.integers(30)) if one is npu and rng.random() < 0.4 else None
                try:
                    told.append(attempt(edit, one))
                except DeviceMemoryError:
                    refusals += 1
                    device.left = None
                    if rng.random() < 0.3:
                        same(f"{where}, refused")
                finally:
                    device.left = None
            if len(told) == 1:  # refused: once more, with memory enough
                told.insert(0, attempt(edit, npu))
            assert told[0] == told[1] or isinstance(told[0], PlasticityRule), f"seed {seed}, {where}: {told}"
    same("the end")
    npu.close()
    return refusals, signals


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.RowStore, "CHUNK", 150)
    monkeypatch.setattr(incoming, "MAX_TAIL", 6)


def test_a_few_networks(small_pieces: None, tmp_path: Path) -> None:
    refusals = [check(seed, tmp_path)[0] for seed in range(12)]
    assert sum(map(bool, refusals)) >= 9, f"few networks were refused anything: {refusals}"


@pytest.mark.long
def test_a_thousand_networks(small_pieces: None, tmp_path: Path) -> None:
    told = np.array([check(seed, tmp_path) for seed in range(1_000)])
    assert (told.sum(axis=0) > 1_000).all()
