"""Bursts that the device computes on its own: the same as one by one, whatever the ring holds and when launches end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, assert_bits, load_case
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_npu import NPU, NetworkError, NpuError
from gpu_npu.backends.base import Backend, Platform
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Tuning, bursts
from gpu_npu.connectome import STATE_FIELDS, Connectome
from gpu_npu.connectome.generators import fixed_out_degree

RINGS = ((1, 0), (2, 1), (3, 40), (7, 1000), None)


def network(seed: int, neurons: int = 150) -> Connectome:
    synapses: dict[str, Any] = {"weight": (1, 40), "psp": (1, 9), "inhibitory_fraction": 0.3}
    return fixed_out_degree(neurons, 12, seed=seed, **synapses, threshold=120.0, refractory_period=seed % 3, leak_coefficient=0.25)


def prepare(npu: NPU, seed: int, bursts: int) -> None:
    """Stimulus of every kind: staged, scheduled in several calls and for equal neurons, forced, power; some of it never met."""
    rng = np.random.default_rng(seed)
    size = npu.neuron_capacity
    npu.set_power_neurons(rng.integers(0, size, 4))
    npu.set_power_amount(70.0)
    npu.inject(rng.integers(0, size, 5), 130.0)
    npu.force_fire(rng.integers(0, size, 2))
    for _ in range(3):
        count = int(rng.integers(0, 60))
        when = npu.burst_count + 1 + rng.integers(0, bursts + 3, count)
        npu.schedule(when, rng.integers(0, size, count), rng.normal(100, 60, count))
        npu.schedule_force(when[::5], rng.integers(0, size, len(when[::5])))
    npu.schedule(npu.burst_count + 2, [3, 3, 7, 3], [1.0, 0.1, 50.0, 1e-3])
    npu.schedule_force(npu.burst_count + 2, [3, 3])


def everything(npu: NPU) -> list[Any]:
    """All that can be seen of an NPU between two bursts."""
    queues = [(queue.neurons.tolist(), queue.potentials.tolist()) for queue in (npu.fire_queue, npu.previous_fire_queue)]
    candidates = npu.fire_candidate_list
    state = [npu.get_parameter(name).tolist() for name in STATE_FIELDS]
    history = [(burst, ids.tolist()) for burst, ids in npu.fire_ledger]
    return [npu.burst_count, queues, candidates.neurons.tolist(), candidates.potentials.tolist(), state, history]


def results_of(npu: NPU, seed: int, spans: list[int], *, one_by_one: bool) -> list[Any]:
    """What bursts and what is left behind, with edits between spans."""
    seen: list[Any] = []

    def note(result: Any) -> None:
        counters = (result.sensory_injections, result.power_injections, result.synaptic_injections)
        seen.append((result.burst, result.fired_neurons.tolist(), *counters, result.neurons_processed, result.neurons_in_refractory))

    for span in spans:
        prepare(npu, seed + span, span)
        run = npu.run(span, callback=note, digest=True) if one_by_one else npu.run(span, watch=note, digest=True)
        assert run.fired_counts.tolist() == [len(entry[1]) for entry in seen[len(seen) - span :]]
        assert (np.diff(run.clock) >= 0).all()
        seen += [run.digest, run.first_burst, run.synaptic_injections, everything(npu)]
        npu.add_synapses([span, 1, 2], [4, 5, span], 30, 9)
        npu.remove_synapses([1], [5])
    return seen


@pytest.mark.parametrize("ring", RINGS, ids=str)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**20), spans=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_a_run_is_its_bursts(ring: tuple[int, int], seed: int, spans: list[int]) -> None:
    def seen(backend: Backend | str, one_by_one: bool) -> list[Any]:
        with NPU.from_connectome(network(seed), backend=backend, synapse_capacity=3000) as npu:
            return results_of(npu, seed, spans, one_by_one=one_by_one)

    devices: list[Callable[[], Any]] = [CpuDevice, lambda: EmulatedDevice(block=96, blocks=2, seed=seed)]
    expected = seen("reference", one_by_one=True)
    for device in devices:
        assert seen(DevicePlatform(device(), Tuning(ring=ring)), one_by_one=False) == expected


@pytest.mark.parametrize("name", CASES)
def test_golden_cases_in_runs(name: str, backend_factory: Callable[[], Platform]) -> None:
    """Operations are done between runs; what is injected and forced in one is scheduled before it."""
    case = load_case(name)
    stops = [burst for burst in range(1, case.bursts + 1) if case.operations(burst)] + [case.bursts + 1]
    fired: list[Any] = []
    with NPU.from_connectome(case.connectome, backend=backend_factory) as npu:
        npu.set_power_neurons(case.data["in_power"])
        for stop in stops:
            for burst in range(npu.burst_count + 1, stop):
                npu.schedule(burst, *case.injections(burst))
                npu.schedule_force(burst, case.forced(burst))
            npu.run(stop - npu.burst_count - 1, watch=lambda result: fired.append(result.fired_neurons.tolist()))
            if npu.burst_count:
                assert_bits(npu.fire_queue.potentials, case.fired(npu.burst_count)[1], f"burst {npu.burst_count}")
            for operation, arguments, answer in case.operations(stop) if stop <= case.bursts else ():
                if operation == "set_parameter":
                    field, neuron, value = arguments
                    npu.set_parameter(field, [neuron], [value])
                else:
                    assert getattr(npu, operation)(*arguments) == answer, (stop, operation, arguments)
        state = {field: npu.get_parameter(field) for field in STATE_FIELDS}
        weights = npu.synapse_array.weight
    assert fired == [case.fired(burst)[0].tolist() for burst in range(1, case.bursts + 1)]
    for field, values in state.items():
        assert_bits(values, case.data[f"end_{field}"], f"{field} at the end")
    np.testing.assert_array_equal(weights, case.final_synapses()[2])


def test_on_every_backend(backend_factory: Callable[[], Platform]) -> None:
    with NPU.from_connectome(network(5), backend=backend_factory, synapse_capacity=3000) as npu:
        seen = results_of(npu, 5, [40, 3], one_by_one=False)
    with NPU.from_connectome(network(5), backend="reference", synapse_capacity=3000) as npu:
        assert seen == results_of(npu, 5, [40, 3], one_by_one=True)


def test_a_launch_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time at all each launch computes one burst; the run goes on with the next."""
    with NPU.from_connectome(network(1), backend=DevicePlatform(CpuDevice())) as npu:
        expected = npu.run(50, digest=True).digest
        npu.reset()
        monkeypatch.setattr(bursts, "LAUNCH_NANOSECONDS", 0)
        chunks = [len(chunk) for chunk in npu._chunks(50)]
        npu.reset()
        assert npu.run(50, digest=True).digest == expected
    assert chunks == [1] * 50


def test_who_watches_slowly_holds_the_device_up_and_loses_nothing() -> None:
    device = EmulatedDevice(block=32)
    with NPU.from_connectome(network(2), backend=DevicePlatform(device, Tuning(ring=(5, 10_000)))) as npu:
        chunks = npu._chunks(100)
        first = next(chunks)
        assert (first.first, len(first)) == (1, 5)
        device.wait()
        assert npu.burst_count == 5  # what was read
        assert int(npu._resident.backend._bursts.fetched("control", 1)[0]) == 15  # type: ignore[union-attr]
        assert [chunk.first for chunk in chunks] == list(range(6, 100, 5))
        assert npu.burst_count == 100


def test_who_leaves_early_finds_the_bursts_done() -> None:
    def watch(result: Any) -> None:
        if result.burst == 7:
            raise ZeroDivisionError

    with NPU.from_connectome(network(3), backend=DevicePlatform(CpuDevice(), Tuning(ring=(5, 10_000)))) as npu:
        prepare(npu, 3, 50)
        with pytest.raises(ZeroDivisionError):
            npu.run(100, watch=watch)
        done = npu.burst_count
        assert 11 < done <= 21  # the chunk of burst 7, and two more on their way
        found = everything(npu)
        digest = npu.run(10, digest=True).digest
    with NPU.from_connectome(network(3), backend="reference") as npu:
        prepare(npu, 3, 50)
        npu.run(done)
        assert found == everything(npu)
        assert npu.run(10, digest=True).digest == digest


def test_who_watches_may_not_touch() -> None:
    with NPU.from_connectome(network(4), backend=DevicePlatform(CpuDevice())) as npu:
        with pytest.raises(NetworkError, match="in the middle of a call of this thread.*pass run\\(\\) a callback"):
            npu.run(5, watch=lambda result: npu.inject([1], 1.0))
        npu.inject([1], 1.0)
        assert npu.run(1).bursts == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, [1], 1.0), "bursts: burst 0 cannot be scheduled: it must come after the last burst, 0, and before"),
        (([1, 2**62], [1, 2], 1.0), "bursts: burst 4611686018427387904 cannot be scheduled"),
        (
            ([1, 2, 3], [1, 2], 1.0),
            r"bursts: an array of int64 of shape \(3,\), where one burst number for all, or one for each of 2 neurons is needed",
        ),
        ((1.5, [1], 1.0), r"bursts: an array of float64 of shape \(\)"),
        ((1, [150], 1.0), "150"),
        ((1, [1], float("nan")), "nan"),
    ],
)
def test_a_schedule_that_cannot_be(arguments: tuple[Any, ...], message: str) -> None:
    with NPU.from_connectome(network(6), backend="reference") as npu, pytest.raises(NpuError, match=message):
        npu.schedule(*arguments)


def test_a_schedule_longer_than_the_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows one after the other, cut by items, by bursts, and at gaps."""
    monkeypatch.setattr("gpu_npu.backends.executor.schedule.WINDOW_ITEMS", 20)
    monkeypatch.setattr("gpu_npu.backends.executor.schedule.WINDOW_BURSTS", 6)
    rng = np.random.default_rng(1)
    when = np.concatenate((rng.integers(1, 60, 150), rng.integers(200, 230, 60), np.full(50, 300)))
    who = rng.integers(0, 150, len(when))
    digests = []
    for backend in (DevicePlatform(CpuDevice()), DevicePlatform(EmulatedDevice(block=64)), "reference"):
        with NPU.from_connectome(network(7), backend=backend) as npu:
            npu.schedule(when, who, 130.0)
            digests.append([npu.run(n, digest=True).digest for n in (10, 100, 195)])
            npu.schedule(400, [1, 2], 500.0)
            npu.reset()
            assert npu.run(400).fired_total == 0
    assert digests[0] == digests[1] == digests[2]


def test_other_threads_go_on_while_the_device_computes() -> None:
    """The interpreter is not held during a launch."""
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=tick)
    with NPU.from_connectome(network(8, 2000), backend=DevicePlatform(CpuDevice(workers=1), Tuning(ring=(10**6, 0)))) as npu:
        thread.start()
        npu.run(20_000)
        stop.set()
        thread.join()
    assert ticks > 3
