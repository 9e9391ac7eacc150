"""What an NPU promises to threads: one call at a time, each whole; who waits comes next; nothing that was accepted is lost."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Area, NetworkError
from gpu_npu.connectome import CustomRule, WindowRule
from gpu_npu.connectome.generators import fixed_out_degree

BACKENDS = ("reference", "cpu")
PATIENCE = 60.0
"""Seconds after which something hangs."""


def network_of(backend: str, neurons: int = 200) -> NPU:
    npu = NPU.from_connectome(fixed_out_degree(neurons, 5, seed=1), backend=backend, neuron_capacity=neurons + 100, synapse_capacity=50_000)
    npu.set_power_neurons(np.arange(0, neurons, 7))
    npu.run(3)
    return npu


def together(*tasks: Callable[[], Any]) -> list[Any]:
    """Each on a thread of its own, begun at once; what they return."""
    begin = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        begin.wait(PATIENCE)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(run, task) for task in tasks]]


@contextmanager
def held(npu: NPU) -> Iterator[None]:
    """Inside, another thread is in the middle of a run."""
    inside, over = threading.Event(), threading.Event()

    def watch(result: object) -> None:
        inside.set()
        assert over.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(npu.run, 1, watch=watch)
        assert inside.wait(PATIENCE)
        try:
            yield
        finally:
            over.set()
        run.result(PATIENCE)


CALLS: dict[str, Callable[[NPU], Any]] = {
    "add_neuron": lambda npu: npu.add_neuron(),
    "add_neurons": lambda npu: npu.add_neurons(1),
    "add_synapse": lambda npu: npu.add_synapse(1, 2, 3, 4),
    "add_synapses": lambda npu: npu.add_synapses([1], [2], [3], [4]),
    "areas": lambda npu: npu.areas,
    "annotate": lambda npu: npu.annotate(False),
    "delete_neuron": lambda npu: npu.delete_neuron(9),
    "delete_neurons": lambda npu: npu.delete_neurons([8]),
    "fire_candidate_list": lambda npu: npu.fire_candidate_list,
    "fire_queue": lambda npu: npu.fire_queue,
    "fired_on_device": lambda npu: npu.fired_on_device(),
    "force_fire": lambda npu: npu.force_fire([3]),
    "get_fire_history": lambda npu: npu.get_fire_history(npu.burst_count),
    "get_parameter": lambda npu: npu.get_parameter("threshold"),
    "get_recent_history": lambda npu: npu.get_recent_history(3),
    "get_synapse_count": lambda npu: npu.get_synapse_count(),
    "incoming_synapses": lambda npu: npu.incoming_synapses([3]),
    "inject": lambda npu: npu.inject([3], 1.0),
    "memory": lambda npu: npu.memory(),
    "neurons_at": lambda npu: npu.neurons_at([0, 0, 0]),
    "neurons_in_area": lambda npu: npu.neurons_in_area(0),
    "outgoing_synapses": lambda npu: npu.outgoing_synapses([3]),
    "phase_seconds": lambda npu: npu.phase_seconds,
    "previous_fire_queue": lambda npu: npu.previous_fire_queue,
    "process_burst": lambda npu: npu.process_burst(),
    "rebuild_indexes": lambda npu: npu.rebuild_indexes(),
    "remove_synapse": lambda npu: npu.remove_synapse(1, 2),
    "remove_synapses": lambda npu: npu.remove_synapses([1], [3]),
    "register_plasticity": lambda npu: npu.unregister_plasticity(npu.register_plasticity(WindowRule(0, 0, 2, 1, 1))),
    "reserve": lambda npu: npu.reserve(synapses=npu.synapse_capacity + 100),
    "run": lambda npu: npu.run(2),
    "schedule": lambda npu: npu.schedule(2**40, [1], 1.0),
    "schedule_force": lambda npu: npu.schedule_force(2**40, [1]),
    "set_area": lambda npu: npu.set_area(1, name="one"),
    "set_area_parameter": lambda npu: npu.set_area_parameter("threshold", 0, 2.0),
    "set_neuron_mapping": lambda npu: npu.set_neuron_mapping({5: 1}),
    "set_parameter": lambda npu: npu.set_parameter("threshold", [5], 2.0),
    "set_power_amount": lambda npu: npu.set_power_amount(2.0),
    "set_power_neurons": lambda npu: npu.set_power_neurons([1, 2]),
    "set_settings": lambda npu: npu.set_settings(npu.settings),
    "snapshot": lambda npu: npu.snapshot(),
    "statistics": lambda npu: npu.statistics(),
    "synapse_array": lambda npu: npu.synapse_array,
    "synapse_residues": lambda npu: npu.synapse_residues(),
    "time_phases": lambda npu: npu.time_phases(False),
    "to_connectome": lambda npu: npu.to_connectome(),
    "update_delay": lambda npu: npu.update_delay(1, 2, 1),
    "update_delays": lambda npu: npu.update_delays([1], [2], [1]),
    "update_synapse_weight": lambda npu: npu.update_synapse_weight(1, 2, 3),
    "update_weight": lambda npu: npu.update_weight(1, 2, 3),
    "update_weights": lambda npu: npu.update_weights([1], [2], [3]),
    "the neuron array": lambda npu: npu.neuron_array.threshold,
    "the fire ledger": lambda npu: npu.fire_ledger[npu.burst_count],
    "the fire ledger's last": lambda npu: npu.fire_ledger.recent(2),
}
"""A call of each, that may be made again and again."""

ENDINGS: dict[str, Callable[[NPU], Any]] = {
    "close": lambda npu: npu.close(),
    "__exit__": lambda npu: npu.__exit__(None, None, None),
    "reset": lambda npu: npu.reset(network=True),
    "unregister_plasticity": lambda npu: npu.unregister_plasticity(0),
}

FACTS: dict[str, Callable[[NPU], Any]] = {
    "annotations": lambda npu: npu.annotations,
    "backend": lambda npu: npu.backend,
    "backend_reason": lambda npu: npu.backend_reason,
    "burst_count": lambda npu: npu.burst_count,
    "fire_ledger": lambda npu: npu.fire_ledger.bursts,
    "get_burst_count": lambda npu: npu.get_burst_count(),
    "get_neuron_count": lambda npu: npu.get_neuron_count(),
    "neuron_array": lambda npu: npu.neuron_array.capacity,
    "neuron_capacity": lambda npu: npu.neuron_capacity,
    "plasticity": lambda npu: dict(npu.plasticity),
    "power_amount": lambda npu: npu.power_amount,
    "settings": lambda npu: npu.settings,
    "synapse_capacity": lambda npu: npu.synapse_capacity,
    "__repr__": repr,
}
"""What never waits."""

MAKERS = {"from_connectome", "from_snapshot"}


def test_every_public_name_is_known_here() -> None:
    public = {name for name in dir(NPU) if not name.startswith("_")}
    assert public - MAKERS - {"instead"} <= {*CALLS, *ENDINGS, *FACTS}


@pytest.mark.parametrize("name", [*CALLS, *ENDINGS])
def test_a_call_waits_for_the_run_of_another_thread(name: str) -> None:
    npu = network_of("reference", 20)
    npu.register_plasticity(WindowRule(2, 2, 2, 1, 1))
    with ThreadPoolExecutor(1) as pool:
        with held(npu):
            call = pool.submit((CALLS | ENDINGS)[name], npu)
            time.sleep(0.02)
            assert not call.done()
        call.result(PATIENCE)


def test_facts_never_wait() -> None:
    npu = network_of("reference", 20)
    with held(npu):
        for fact in FACTS.values():
            together(lambda fact=fact: fact(npu))  # type: ignore[misc]


@pytest.mark.parametrize("name", [*CALLS, *ENDINGS])
def test_who_watches_gets_an_error_whatever_is_called(name: str) -> None:
    npu = network_of("reference", 20)
    with pytest.raises(NetworkError, match="in the middle of a call of this thread"):
        npu.run(5, watch=lambda result: (CALLS | ENDINGS)[name](npu))
    npu.process_burst()


@pytest.mark.parametrize("backend", BACKENDS)
def test_bursts_of_two_threads_are_all_computed_once(backend: str) -> None:
    with network_of(backend) as npu:
        numbers = together(*[lambda: [npu.process_burst().burst for _ in range(150)]] * 2)
        assert sorted(sum(numbers, [])) == list(range(4, 304))
        assert npu.burst_count == 303


@pytest.mark.parametrize("backend", BACKENDS)
def test_injections_beside_bursts_are_all_counted(backend: str) -> None:
    over = threading.Event()

    def bursts(npu: NPU) -> int:
        total = 0
        while not over.is_set():
            total += npu.process_burst([]).sensory_injections
        return total + npu.process_burst([]).sensory_injections

    def inject(npu: NPU) -> None:
        try:
            for _ in range(2_000):
                npu.inject(np.arange(100), 0.001)
        finally:
            over.set()

    with network_of(backend) as npu:
        counted, _ = together(lambda: bursts(npu), lambda: inject(npu))
    assert counted == 200_000


def test_who_waits_comes_next() -> None:
    """However fast the other thread calls again."""
    with network_of("reference", 20) as npu, ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            waiting: list[Any] = []

            def watch(result: object, waiting: list[Any] = waiting) -> None:
                waiting.append(pool.submit(npu.process_burst))
                time.sleep(0.02)  # it stands at the door by now

            npu.run(1, watch=watch)
            last = npu.burst_count
            for _ in range(20):
                npu.process_burst()
            assert waiting[0].result(PATIENCE).burst == last + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_growing_beside_bursts(backend: str) -> None:
    with network_of(backend) as npu:
        together(
            lambda: [npu.process_burst() for _ in range(200)],
            lambda: [npu.reserve(neurons=300 + i, synapses=50_000 + 100 * i) for i in range(40)],
        )
        assert npu.burst_count == 203
        assert npu.neuron_capacity >= 339


@pytest.mark.parametrize("backend", BACKENDS)
def test_edits_beside_runs(backend: str) -> None:
    with network_of(backend) as npu:
        before = npu.get_synapse_count()
        together(
            lambda: [npu.run(20) for _ in range(10)],
            lambda: [npu.add_synapse(i % 200, (i + 1) % 200, 1, 1) for i in range(2_000)],
            lambda: [npu.add_synapses([i % 200], [i % 100], 1, 1) for i in range(200)],
        )
        assert (npu.burst_count, npu.get_synapse_count()) == (203, before + 2_200)


@pytest.mark.parametrize("backend", BACKENDS)
def test_history_beside_bursts_is_of_one_moment(backend: str) -> None:
    over = threading.Event()

    def look(npu: NPU) -> None:
        try:
            for _ in range(200):
                bursts = [burst for burst, _ in npu.get_recent_history(20)]
                assert bursts == list(range(bursts[0], max(0, bursts[0] - 20), -1))
                npu.fire_queue.in_area(0)
        finally:
            over.set()

    def burst(npu: NPU) -> None:
        while not over.is_set():
            npu.process_burst()

    with network_of(backend) as npu:
        together(lambda: look(npu), lambda: burst(npu))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_call_beside_any(backend: str, seed: int) -> None:
    away = {"get_fire_history", "the fire ledger"}  # the last burst may have left the window
    calls = [(name, call) for name, call in (CALLS | FACTS).items() if name not in away]
    with network_of(backend) as npu:

        def hammer(seed: int) -> tuple[int, int]:
            rng, bursts, added = random.Random(seed), 0, 0
            for name, call in rng.choices(calls, k=120):
                result = call(npu)
                bursts += {"process_burst": 1, "run": 2}.get(name, 0)
                added += name in ("add_synapse", "add_synapses")
                added -= name == "remove_synapse" and result
                added -= name == "remove_synapses" and int(result[0])
            return bursts, added

        npu.delete_neurons([8, 9])  # with synapses, so that later deletions change no count
        before = npu.get_synapse_count()
        done = together(lambda: hammer(2 * seed), lambda: hammer(2 * seed + 1))
        assert npu.burst_count == 3 + sum(bursts for bursts, _ in done)
        assert npu.get_synapse_count() == before + sum(added for _, added in done)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_beside_anything(backend: str) -> None:
    for call in CALLS.values():
        npu, closed = network_of(backend, 20), threading.Event()

        def hammer(npu: NPU = npu, call: Callable[[NPU], Any] = call, closed: threading.Event = closed) -> None:
            last = False
            while not last:
                last = closed.is_set()
                try:
                    call(npu)
                except NetworkError as error:
                    assert "closed" in str(error)

        def close(npu: NPU = npu, closed: threading.Event = closed) -> None:
            time.sleep(0.002)
            npu.close()
            closed.set()

        together(hammer, close)
        assert "closed" in repr(npu)


def test_a_callback_may_call_while_others_wait() -> None:
    npu = network_of("reference", 20)
    with ThreadPoolExecutor(2) as pool:
        waiting: list[Any] = []

        def callback(result: object) -> None:
            if not waiting:
                waiting.extend(pool.submit(npu.process_burst) for _ in range(2))
                time.sleep(0.05)
            npu.inject([1], 1.0)
            npu.run(1)

        npu.run(3, callback)
        assert sorted(future.result(PATIENCE).burst for future in waiting) == [10, 11]


def test_an_error_in_one_thread_holds_up_no_other() -> None:
    npu = network_of("reference", 20)

    def fail(result: object) -> None:
        raise ZeroDivisionError

    for how in ("watch", "callback"):
        with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
            pool.submit(lambda how=how: npu.run(2, **{how: fail})).result(PATIENCE)  # type: ignore[misc]
        npu.process_burst()


def test_a_rule_may_not_touch_the_npu_in_the_middle_of_a_burst() -> None:
    npu = network_of("reference", 20)

    class Meddles(CustomRule):
        def apply(self, *args: Any) -> Any:
            npu.process_burst()

    npu.register_plasticity(Meddles(0, 0))
    with pytest.raises(NetworkError, match="plasticity rule"):
        npu.process_burst()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
@pytest.mark.parametrize("contended", [False, True])
def test_a_signal_at_any_moment_leaves_no_lock_taken(contended: bool) -> None:
    npu = network_of("reference", 20)
    over, struck = threading.Event(), 0

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def beside() -> None:
        while not over.is_set():
            npu.get_parameter("threshold")

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(beside) if contended else None
            try:
                for i in range(300):
                    try:
                        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00001 * (i % 40))
                        while True:
                            npu.get_synapse_count()
                    except KeyboardInterrupt:
                        struck += 1
            finally:
                over.set()
            if other is not None:
                other.result(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert struck == 300
    together(npu.process_burst)  # by another thread, so that a lock that is still held would hang


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
def test_a_signal_ends_a_wait() -> None:
    npu = network_of("reference", 20)

    def strike(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with held(npu):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                npu.process_burst()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert npu.process_burst().burst == 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signals here")
def test_a_signal_handler_may_call_while_its_thread_waits() -> None:
    npu = network_of("reference", 20)
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(npu.process_burst().burst))
    release = threading.Timer(0.2, lambda: over.set())
    over, inside = threading.Event(), threading.Event()

    def watch(result: object) -> None:
        inside.set()
        over.wait(PATIENCE)

    try:
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(npu.run, 1, watch=watch)
            assert inside.wait(PATIENCE)
            release.start()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            burst = npu.process_burst().burst
            run.result(PATIENCE)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted([burst, *seen]) == [5, 6]


def test_areas_and_rules_that_were_looked_up_stay_as_they_were() -> None:
    npu = network_of("reference", 20)
    areas, rules = npu.areas, npu.plasticity
    npu.set_area(7, power=True)
    npu.register_plasticity(WindowRule(0, 0, 2, 1, 1))
    assert (7 in areas, len(rules)) == (False, 0)
    assert npu.areas[7] == Area(power=True)
