"""The burst engine: who does what, and when, as seen from other threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from platforms import running

from gpu_npu import (
    NPU,
    Area,
    BurstEngine,
    BurstResult,
    Connectome,
    Digest,
    EngineError,
    KernelError,
    NetworkError,
    NeuronIndexError,
)
from gpu_npu.backends.base import Platform
from gpu_npu.backends.reference import Reference, ReferencePlatform
from gpu_npu.connectome.generators import fixed_out_degree, seed_example
from gpu_npu.engine import calls
from gpu_npu.npu.snapshot import Snapshot
from gpu_npu.streams import Stimulus
from gpu_npu.timing import Pace

ROOT = Path(__file__).parents[2]


def ring(n: int = 8, **fields: Any) -> Connectome:
    """Each neuron makes the next one fire."""
    connectome = Connectome(n, n + 4, areas={5: Area("last")})
    connectome.add_neurons(n, **fields)
    connectome.add_synapses(np.arange(n), (np.arange(n) + 1) % n, 2, 1)
    return connectome


def lively() -> Connectome:
    return fixed_out_degree(200, 10, seed=3, weight=(1, 20), areas={0: Area(power=True)}, threshold=30.0, refractory_period=1)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def engine() -> Iterator[BurstEngine]:
    with BurstEngine(ring(), backend="reference") as engine:
        yield engine


class Collect:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.results: list[BurstResult] = []
        self.closed = 0

    def publish(self, result: BurstResult) -> None:
        self.results.append(result)

    def statistics(self) -> dict[str, int]:
        return {"sent": len(self.results)}

    def close(self) -> None:
        self.closed += 1

    @property
    def fired(self) -> list[list[int]]:
        return [result.fired_neurons.tolist() for result in self.results]


class Deliver:
    """A source of what it is given."""

    def __init__(self, *stimuli: Stimulus) -> None:
        self.waiting = list(stimuli)
        self.closed = 0

    def take(self) -> list[Stimulus]:
        taken, self.waiting = self.waiting, []
        return taken

    def statistics(self) -> dict[str, int]:
        return {"waiting": len(self.waiting)}

    def close(self) -> None:
        self.closed += 1


def test_bursts_of_an_engine_are_those_of_its_npu() -> None:
    """The digest of a run, with the engine's own NPU, with one handed in, and from a connectome manager."""
    bursts = 60
    with NPU.from_connectome(lively(), backend="reference") as npu:
        expected = npu.run(bursts, digest=True).digest
    network = lively()
    synapses = network.synapses
    columns = (synapses.source, synapses.target, synapses.weight, synapses.psp, synapses.inhibitory)
    manager = SimpleNamespace(
        neurons={i: {"threshold": 30.0, "refractory_period": 1} for i in range(200)},
        synapses=list(zip(*(column.tolist() for column in columns), strict=True)),
        neuron_count=200,
        synapse_capacity=2000,
    )
    handed_in = NPU.from_connectome(lively(), backend="reference")
    for source, options in ((lively(), {"backend": "reference"}), (handed_in, {}), (manager, {"backend": "reference"})):
        with BurstEngine(source, power_neurons=np.arange(200) if source is manager else None, **options) as engine:
            sink = Collect()
            engine.add_sink(sink)
            engine.step(bursts)
            digest = Digest()
            for result in sink.results:
                digest.update(result.burst, result.fired_neurons)
            assert digest.hexdigest() == expected
            assert sink.closed == 0
        assert sink.closed == 1
    assert handed_in.process_burst().burst == bursts + 1  # the caller's, and open
    handed_in.close()


def test_the_seed_example_keeps_its_pace() -> None:
    with BurstEngine(seed_example(), 100, backend="cpu") as engine:
        engine.step(3)
        began = time.monotonic()
        engine.start()
        until(lambda: engine.status().bursts + engine.status().missed >= 3 + 81)
        took = time.monotonic() - began
        engine.pause()
        status = engine.status()
    assert took > 0.79  # 80 periods after the first burst, which is due at once
    assert status.lateness_seconds.count == status.bursts - 3
    assert status.burst_seconds.count == status.bursts
    assert 0 < status.burst_seconds.p50 <= status.burst_seconds.p99 <= status.burst_seconds.p999 <= status.burst_seconds.max


def test_one_burst_at_a_time(engine: BurstEngine) -> None:
    assert engine.state == "paused"
    engine.force_fire([3])
    assert engine.process_burst().tolist() == [3]
    assert engine.step().fired_neurons.tolist() == [4]
    assert engine.step(3).fired_neurons.tolist() == [7]
    status = engine.status()
    assert (status.state, status.burst, status.bursts, status.fired, status.sensory_injections) == ("paused", 5, 5, 5, 0)
    assert status.synaptic_injections == 4
    assert status.lateness_seconds.count == 0
    for n in (0, -1, 1.5, True):
        with pytest.raises(NetworkError, match="is not an integer of 1 or more"):
            engine.step(n)  # type: ignore[arg-type]


def test_start_pause_resume(engine: BurstEngine) -> None:
    engine.start()
    engine.start()
    until(lambda: engine.status().bursts > 5)
    assert engine.state == "running"
    with pytest.raises(EngineError, match=r"the engine is running, and takes steps only while it is paused; pause\(\) it first"):
        engine.step()
    engine.pause()
    assert engine.state == "paused"
    paused_at = engine.status().bursts
    time.sleep(0.05)
    assert engine.status().bursts == paused_at
    assert engine.step().burst == paused_at + 1
    engine.frequency = 50
    engine.resume()
    until(lambda: engine.status().bursts >= paused_at + 4)
    assert engine.status().lateness_seconds.count >= 3
    assert engine.frequency == 50
    engine.pause()


def test_pausing_stops_a_wait_of_minutes() -> None:
    with BurstEngine(ring(), 0.01, backend="reference") as engine:
        engine.start()
        until(lambda: engine.status().bursts == 1)  # the first is due at once
        assert engine.submit(NPU.get_burst_count).result(timeout=10) == 1  # and the wait for the second is no obstacle
        engine.frequency = None
        until(lambda: engine.status().bursts > 10)
        engine.frequency = 0.01
        engine.pause()
        engine.start()
    assert engine.state == "stopped"


def test_the_end(engine: BurstEngine) -> None:
    sink, source = Collect(), Deliver()
    engine.add_sink(sink)
    engine.add_source(source)
    engine.start()
    until(lambda: len(sink.results) > 3)
    assert not engine.wait(0.001)
    engine.stop()
    engine.stop()
    assert engine.wait()
    assert (engine.state, sink.closed, source.closed) == ("stopped", 1, 1)
    assert engine.npu.burst_count == len(sink.results)  # the NPU is there to be looked at
    assert [result.burst for result in sink.results] == list(range(1, len(sink.results) + 1))
    calls: list[Callable[[], object]] = [
        engine.start,
        engine.pause,
        engine.step,
        engine.process_burst,
        lambda: engine.submit(NPU.reset),
        lambda: engine.inject([1], 1.0),
        lambda: engine.force_fire([1]),
        lambda: engine.add_sink(sink),
        lambda: engine.add_source(source),
        lambda: engine.subscribe(print),
    ]
    for call in calls:
        with pytest.raises(EngineError, match="the engine was stopped and does not start again; make a new BurstEngine"):
            call()
    engine.close()
    with pytest.raises(NetworkError, match="closed"):
        engine.npu.process_burst()


def test_what_was_submitted_before_the_end_is_done(engine: BurstEngine) -> None:
    begun, gate = threading.Event(), threading.Event()
    engine.submit(lambda npu: (begun.set(), gate.wait(30)))
    begun.wait(30)
    futures = [engine.submit(lambda npu, i: i, i) for i in range(5)]
    engine.stop(wait=False)
    gate.set()
    assert [future.result(timeout=10) for future in futures] == list(range(5))
    assert engine.wait(10)


def test_steps_that_the_end_cuts_off(engine: BurstEngine) -> None:
    told: list[str] = []

    def step() -> None:
        with pytest.raises(EngineError) as caught:
            engine.step(10**9)
        told.append(str(caught.value))

    thread = threading.Thread(target=step)
    thread.start()
    until(lambda: engine.status().bursts > 3)
    engine.stop()
    thread.join(10)
    assert told == ["the engine was stopped before this had its turn"]


class Leisurely(Reference):
    """A burst waits until it is told to end."""

    gate: threading.Semaphore
    begun: int

    @classmethod
    def engine(cls) -> BurstEngine:
        cls.gate, cls.begun = threading.Semaphore(0), 0
        return BurstEngine(ring(), backend=running(cls, ReferencePlatform()))

    def burst(self, number: int) -> Any:
        Leisurely.begun += 1
        assert self.gate.acquire(timeout=30)
        return super().burst(number)


@pytest.mark.parametrize(("done", "finished"), [(2, False), (4, True)])
def test_a_pause_waits_for_the_burst_at_hand_and_no_longer(done: int, finished: bool) -> None:
    """In the third burst of five, and in the last."""
    told: list[str] = []

    def step() -> None:
        try:
            told.append(str(engine.step(5).burst))
        except EngineError as error:
            told.append(str(error))

    with Leisurely.engine() as engine:
        stepping, pausing = threading.Thread(target=step), threading.Thread(target=engine.pause)
        stepping.start()
        Leisurely.gate.release(done)
        until(lambda: Leisurely.begun == done + 1)
        pausing.start()
        pausing.join(0.1)
        assert pausing.is_alive()
        Leisurely.gate.release()
        pausing.join(10)
        stepping.join(10)
        assert not pausing.is_alive() and not stepping.is_alive()
        assert told == ["5" if finished else "the engine was paused before the last of these 5 bursts"]
        assert engine.status().bursts == Leisurely.begun == done + 1
        Leisurely.gate.release(2)
        assert engine.step(2).burst == done + 3


def test_pauses_amid_many_steps_are_at_once(engine: BurstEngine) -> None:
    """The next burst begins the moment one ends, and still the pause comes between them; nothing is computed after it."""
    for _ in range(20):
        stepping = threading.Thread(target=lambda: pytest.raises(EngineError, engine.step, 10**9))
        before = engine.status().bursts
        stepping.start()
        until(lambda before=before: engine.status().bursts > before + 5)  # type: ignore[misc]
        engine.pause()
        paused_at = engine.status().bursts
        stepping.join(10)
        assert not stepping.is_alive()
        assert engine.submit(NPU.get_burst_count).result(10) == paused_at == engine.status().bursts


@pytest.mark.parametrize("frequency", [None, 100.0])
def test_a_frequency_set_while_a_deadline_is_served(frequency: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1000 Hz, in the moment after which the number of the next deadline is noted."""
    at, setters = Pace._at, list[threading.Thread]()
    with BurstEngine(ring(), 1000, backend="reference") as engine:

        def slow(pace: Pace, *arguments: int) -> int:
            if not setters and threading.current_thread() is engine._thread and engine.status().bursts > 300:
                setter = threading.Thread(target=setattr, args=(engine, "frequency", frequency))
                setter.start()
                setters.append(setter)
                setter.join(0.2)
            return at(pace, *arguments)

        serve = Pace.serve

        def served(pace: Pace, moment: int) -> tuple[int, int] | None:
            monkeypatch.setattr(Pace, "_at", slow)
            try:
                return serve(pace, moment)
            finally:
                monkeypatch.setattr(Pace, "_at", at)

        monkeypatch.setattr(Pace, "serve", served)
        engine.start()
        until(lambda: setters)
        setters[0].join(10)
        bursts = engine.status().bursts
        until(lambda: engine.status().bursts > bursts + 5, 1.5)  # 3 s of silence if deadline 301 of 100 Hz comes next
        assert (engine.state, engine.frequency) == ("running", frequency)


def test_edits_in_order_with_their_results_and_errors(engine: BurstEngine) -> None:
    engine.start()
    changed = engine.submit(NPU.update_weight, 0, 1, 9)
    nowhere = engine.submit(NPU.update_weight, 0, 5, 9)
    wrong = engine.submit(NPU.set_parameter, "threshold", [99], 1.0)
    odd = engine.submit(lambda npu: 1 // 0)
    weight = engine.submit(lambda npu: int(npu.outgoing_synapses([0]).weight[0]))
    again = engine.submit(NPU.update_weight, source=0, target=1, weight=7)
    last = engine.submit(lambda npu: int(npu.outgoing_synapses([0]).weight[0]))
    assert (changed.result(10), nowhere.result(10), weight.result(10), again.result(10), last.result(10)) == (True, False, 9, True, 7)
    with pytest.raises(NeuronIndexError, match="99 is not a neuron id"):
        wrong.result(10)
    with pytest.raises(ZeroDivisionError):
        odd.result(10)
    assert engine.state == "running"


def test_a_cancelled_call_is_not_made(engine: BurstEngine) -> None:
    begun, gate, made = threading.Event(), threading.Event(), []
    engine.submit(lambda npu: (begun.set(), gate.wait(30)))
    begun.wait(30)
    unwanted = engine.submit(lambda npu: made.append(1))
    assert unwanted.cancel()
    gate.set()
    assert engine.submit(lambda npu: 7).result(10) == 7
    assert made == []


def test_calls_from_many_threads_are_made_between_bursts() -> None:
    """No burst and no other call runs at the same time, and each thread's own calls keep their order."""
    inside: list[int] = []
    seen: dict[int, list[int]] = {i: [] for i in range(6)}

    def call(npu: NPU, who: int, what: int) -> None:
        assert not inside
        inside.append(who)
        seen[who].append(what)
        npu.inject([who], 0.5)
        inside.pop()

    with BurstEngine(ring(), backend="reference") as engine:
        sink = Collect()
        engine.add_sink(sink)

        def work(who: int) -> None:
            for future in [engine.submit(call, who, what) for what in range(100)]:
                future.result(30)

        engine.start()
        threads = [threading.Thread(target=work, args=(who,)) for who in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        engine.pause()
        engine.step()
    assert all(made == list(range(100)) for made in seen.values())
    assert sum(result.sensory_injections for result in sink.results) == 600


def test_input_of_any_thread_is_in_the_next_burst(engine: BurstEngine) -> None:
    sink = Collect()
    engine.add_sink(sink)
    source = Deliver(Stimulus(np.array([6], np.uint32), np.array([2.0], np.float32)))
    engine.inject([1, 2], [1.0, 0.5])
    engine.inject(2, 0.5)
    engine.force_fire([4])
    engine.add_source(source, "eye")
    assert engine.step().fired_neurons.tolist() == [1, 2, 4, 6]
    assert sink.results[0].sensory_injections == 4
    assert engine.step().fired_neurons.tolist() == [2, 3, 5, 7]
    assert engine.status().sources == {"eye": {"waiting": 0}}
    for arguments, error in ((([8], 1.0), NeuronIndexError), (([1], np.nan), NetworkError), (([1, 2, 3], [1.0, 2.0]), NetworkError)):
        with pytest.raises(error):
            engine.inject(*arguments)
    with pytest.raises(NeuronIndexError):
        engine.force_fire([-1])
    assert engine.status().sensory_injections == 4


def test_injected_arrays_are_copied(engine: BurstEngine) -> None:
    ids, potentials = np.array([1], np.uint32), np.array([5.0], np.float32)
    engine.inject(ids, potentials)
    ids[0], potentials[0] = 2, 0
    assert engine.step().fired_neurons.tolist() == [1]


def test_input_that_the_network_no_longer_takes_is_refused_and_counted() -> None:
    grown = NPU.from_connectome(ring(), backend="reference")
    grown.reserve(neurons=20)
    with grown, BurstEngine(grown) as engine:
        begun, gate = threading.Event(), threading.Event()
        engine.submit(lambda npu: (begun.set(), gate.wait(30)))
        begun.wait(30)
        engine.submit(NPU.reset, network=True)  # ids 8 to 19 are gone
        engine.inject([15], 1.0)
        engine.inject([3], 1.0)
        gate.set()
        engine.add_source(Deliver(Stimulus(np.array([12], np.uint32), np.array([1.0], np.float32))))
        assert engine.step().fired_neurons.tolist() == [3]
        assert engine.status().refused == 2


def test_what_waits_is_bounded(engine: BurstEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_STAGED", 10)
    engine.inject(np.arange(6), 1.0)
    engine.force_fire([1, 2, 3])
    with pytest.raises(EngineError, match="2 more potentials do not fit: 9 of 10 already wait for the next burst"):
        engine.inject([1, 2], 1.0)
    engine.inject([1], 1.0)
    engine.submit(NPU.get_burst_count).result(10)  # they are in the NPU now, and count
    with pytest.raises(EngineError, match="1 more potentials do not fit: 10 of 10"):
        engine.inject([1], 1.0)
    engine.step()
    engine.inject(np.arange(8), 1.0)

    monkeypatch.setattr(calls, "MOST_SUBMITTED", 3)
    begun, gate = threading.Event(), threading.Event()
    engine.submit(lambda npu: (begun.set(), gate.wait(30)))
    begun.wait(30)
    waiting = [engine.submit(NPU.get_burst_count) for _ in range(3)]
    with pytest.raises(EngineError, match="3 calls already wait for their turn between bursts"):
        engine.submit(NPU.get_burst_count)
    assert engine.status().waiting == 3
    gate.set()
    assert [future.result(10) for future in waiting] == [1, 1, 1]


@pytest.mark.parametrize("started", [False, True])
def test_injections_keep_no_call_from_its_turn(started: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into an engine that is paused or waits for minutes, more than may wait in the queue: they go on to the NPU."""
    monkeypatch.setattr(calls, "MOST_SUBMITTED", 20)
    with BurstEngine(ring(), 0.01, backend="reference") as engine:
        if started:
            engine.start()
            until(lambda: engine.status().bursts == 1)
        for _ in range(5):
            for _ in range(15):
                engine.inject([3], 0.25)
            until(lambda: engine.status().waiting < 10)
        engine.pause()
        assert engine.submit(NPU.get_burst_count).result(10) == started
        assert engine.checkpoint(tmp_path / "run.ckpt").result(10) == started
        assert engine.step().sensory_injections == 75


def test_injections_during_a_burst_keep_no_call_from_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_SUBMITTED", 20)
    with Leisurely.engine() as engine:
        engine.start()
        until(lambda: Leisurely.begun == 1)
        for _ in range(20):
            engine.inject([3], 0.25)
        with pytest.raises(EngineError, match="20 injections already wait for their turn between bursts"):
            engine.inject([3], 0.25)
        called = engine.submit(NPU.get_burst_count)
        threading.Timer(0.1, Leisurely.gate.release).start()
        engine.pause()
        assert called.result(10) == 1
        Leisurely.gate.release()
        assert engine.step().sensory_injections == 20


def test_a_callback_gets_every_burst_in_order(engine: BurstEngine) -> None:
    got: list[int] = []
    sink = engine.subscribe(lambda result: got.append(result.burst))
    engine.step(500)
    engine.stop()
    assert got == list(range(1, 501))
    assert sink.statistics() == {"sent": 500, "dropped": 0, "waiting": 0}
    assert engine.status().sinks == {"CallbackSink": {"sent": 500, "dropped": 0, "waiting": 0}}


def test_a_stalled_callback_slows_nothing(engine: BurstEngine) -> None:
    gate, got = threading.Event(), []

    def stall(result: BurstResult) -> None:
        gate.wait(30)
        got.append(result.burst)

    stalled = engine.subscribe(stall, capacity=10, name="stalled")
    other = Collect()
    engine.add_sink(other)
    engine.step(100)
    until(lambda: stalled.statistics()["waiting"] == 10)
    statistics = stalled.statistics()
    assert len(other.results) == 100
    assert statistics["dropped"] in (89, 90)  # one may have been taken up when the first was dropped
    gate.set()
    until(lambda: stalled.statistics()["waiting"] == 0)
    engine.remove(stalled)
    assert stalled.statistics() == {"sent": 100 - statistics["dropped"], "dropped": statistics["dropped"], "waiting": 0}
    assert got[:10] == list(range(1, 11))
    engine.step(5)
    assert len(other.results) == 105
    assert list(engine.status().sinks) == ["Collect"]


def test_a_callback_that_never_returns_does_not_keep_the_engine_open() -> None:
    gate = threading.Event()
    engine = BurstEngine(ring(), backend="reference")
    sink = engine.subscribe(lambda result: gate.wait(60))
    engine.step(5)
    began = time.monotonic()
    engine.close()
    assert time.monotonic() - began < 10
    assert sink.statistics()["dropped"] == 4
    gate.set()


def test_names_of_streams(engine: BurstEngine) -> None:
    for name in (None, None, "mine", None):
        engine.add_sink(Collect(), name)
    assert list(engine.status().sinks) == ["Collect", "Collect-2", "mine", "Collect-3"]
    with pytest.raises(NetworkError, match="name: 'mine' is already the name of such a stream"):
        engine.add_sink(Collect(), "mine")
    with pytest.raises(NetworkError, match="capacity: 0 is not an integer of 1 or more"):
        engine.subscribe(print, capacity=0)
    with pytest.raises(NetworkError, match="name"):
        engine.subscribe(print, name="mine")


def broken() -> Platform:
    return running(Broken, ReferencePlatform())


class Broken(Reference):
    """Its third burst does not work."""

    def burst(self, number: int) -> Any:
        if number == 3:
            raise KernelError("burst 3: the device is gone")
        return super().burst(number)


def broken_burst() -> tuple[BurstEngine, str]:
    return BurstEngine(ring(), backend=broken), "KernelError: burst 3: the device is gone"


def broken_sink() -> tuple[BurstEngine, str]:
    class Sink(Collect):
        def publish(self, result: BurstResult) -> None:
            if result.burst == 3:
                raise ValueError("no room")

    engine = BurstEngine(ring(), backend="reference")
    engine.add_sink(Sink())
    return engine, "ValueError: no room"


def broken_source() -> tuple[BurstEngine, str]:
    class Source(Deliver):
        def take(self) -> list[Stimulus]:
            raise OSError("no more")

    engine = BurstEngine(ring(), backend="reference")
    engine.add_source(Source())
    return engine, "OSError: no more"


def broken_callback() -> tuple[BurstEngine, str]:
    def callback(result: BurstResult) -> None:
        raise LookupError("never heard of")

    engine = BurstEngine(ring(), backend="reference")
    engine.subscribe(callback)
    return engine, "LookupError: never heard of"


@pytest.mark.parametrize("make", [broken_burst, broken_sink, broken_source, broken_callback])
def test_what_goes_wrong_ends_the_engine_and_is_told(make: Callable[[], tuple[BurstEngine, str]]) -> None:
    engine, told = make()
    other = Collect()
    engine.add_sink(other)
    engine.start()
    with pytest.raises(EngineError, match=f"the engine failed after burst [0-9,]+: {told}") as caught:
        engine.wait(30)
    assert f"{type(caught.value.__cause__).__name__}: {caught.value.__cause__}" == told
    status = engine.status()
    assert (status.state, status.error, other.closed) == ("failed", told, 1)
    computed = status.bursts
    assert engine.npu.burst_count - computed in (0, 1)  # 1: computed, and lost in a sink
    for call in (engine.start, engine.step, engine.pause, lambda: engine.submit(NPU.reset), lambda: engine.inject([1], 1.0)):
        with pytest.raises(EngineError, match=told):
            call()
    assert engine.status().bursts == computed
    with pytest.raises(EngineError, match=told), engine:
        assert engine.state == "failed"


def test_a_step_that_fails_says_so() -> None:
    with pytest.raises(EngineError, match="the engine failed after burst 2: KernelError"), BurstEngine(ring(), backend=broken) as engine:
        engine.step(5)


def test_an_error_of_the_block_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), BurstEngine(ring(), backend=broken) as engine:
        engine.start()
        until(lambda: engine.state == "failed")
        raise ZeroDivisionError


def test_options_that_do_not_fit() -> None:
    with NPU.from_connectome(ring(), backend="reference") as npu:
        with pytest.raises(NetworkError, match="backend, device: only an NPU that the engine makes takes options"):
            BurstEngine(npu, backend="cpu", device=0)
        with pytest.raises(NeuronIndexError):
            BurstEngine(npu, power_neurons=[77])
        assert npu.process_burst().burst == 1
    with pytest.raises(NetworkError, match="frequency: 0 is not within"):
        BurstEngine(ring(), 0)
    with pytest.raises(NetworkError, match="a object cannot be read as a network"):
        BurstEngine(object())  # type: ignore[arg-type]
    with BurstEngine(ring(), backend="reference") as engine, pytest.raises(NetworkError, match="frequency: -1"):
        engine.frequency = -1


class Slow(Reference):
    """A burst takes a while."""

    def burst(self, number: int) -> Any:
        time.sleep(0.03)
        return super().burst(number)


def test_overruns_are_counted_and_what_was_missed_is_skipped() -> None:
    with BurstEngine(ring(), 50, backend=running(Slow, ReferencePlatform())) as engine:  # 20 ms a period
        engine.start()
        until(lambda: engine.status().bursts >= 12)
        engine.pause()
        status = engine.status()
    assert status.overruns >= status.bursts - 2  # 30 ms always end after the next deadline
    assert status.missed >= 4  # and two of three deadlines are served at most
    assert status.burst_seconds.p50 >= 0.03


def test_an_edit_that_takes_too_long_is_an_overrun_too() -> None:
    with BurstEngine(ring(), 10, backend="reference") as engine:
        engine.start()
        until(lambda: engine.status().bursts == 1)
        before = engine.status()
        engine.submit(lambda npu: time.sleep(0.35)).result(10)
        until(lambda: engine.status().bursts > before.bursts + 3)
        after = engine.status()
    assert (before.overruns, before.missed) == (0, 0)
    assert after.overruns == 1  # and none of the bursts after it
    assert after.missed >= 2


def test_the_rate_is_of_the_last_second() -> None:
    with BurstEngine(ring(), 200, backend="reference") as engine:
        assert engine.status().bursts_per_second == 0
        engine.start()
        until(lambda: engine.status().bursts_per_second > 0)
        assert 20 < engine.status().bursts_per_second < 201
        engine.pause()
        assert engine.status().bursts_per_second == 0


def test_an_engine_that_is_left_running_ends_with_its_process() -> None:
    script = """
import atexit
from gpu_npu import NPU, BurstEngine
atexit.register(lambda: print(engine.state))  # the last of all to be called
npu = NPU(8, backend="reference")
npu.add_neurons(8)
engine = BurstEngine(npu)
engine.start()
while engine.status().bursts < 3:
    pass
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", script]
    assert subprocess.run(command, check=True, env=environment, timeout=60, stdout=subprocess.PIPE, text=True).stdout == "stopped\n"


def test_an_engine_that_ends_waits_for_its_checkpoint(tmp_path: Path) -> None:
    with BurstEngine(lively(), backend="reference") as engine:
        engine.start()
        until(lambda: engine.status().bursts > 20)
        written = engine.checkpoint(tmp_path / "run.ckpt")
        engine.stop()
        assert written.done()
        assert Snapshot.read(tmp_path / "run.ckpt").burst == written.result() > 20


def test_bursts_after_a_checkpoint_are_those_of_the_engine(tmp_path: Path) -> None:
    with BurstEngine(lively(), backend="reference") as engine:
        sink = Collect()
        engine.add_sink(sink)
        engine.step(20)
        engine.inject([7, 8], 50.0)
        assert engine.checkpoint(tmp_path / "run.ckpt", {"who": "me"}).result(30) == 20
        engine.step(30)
    snapshot = Snapshot.read(tmp_path / "run.ckpt")
    assert snapshot.notes == {"who": "me"}
    resumed = Collect()
    with NPU.from_snapshot(snapshot, backend="cpu") as npu, BurstEngine(npu) as engine:
        engine.add_sink(resumed)
        engine.step(30)
    assert resumed.results[0].sensory_injections == 2
    assert resumed.fired == sink.fired[20:]


def test_checkpoints_that_cannot_be_written(engine: BurstEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start()
    with pytest.raises(OSError, match="absent"):
        engine.checkpoint(tmp_path / "absent" / "run.ckpt").result(30)
    gate = threading.Event()
    monkeypatch.setattr(Snapshot, "write", lambda self, path: gate.wait(30))
    slow = engine.checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(EngineError, match="a checkpoint is still being written; wait for the future of the last"):
        engine.checkpoint(tmp_path / "run.ckpt")
    before = engine.status().bursts
    until(lambda: engine.status().bursts > before + 5)  # bursts do not wait for the disk
    gate.set()
    assert slow.result(30) >= 0
    monkeypatch.setattr(NPU, "snapshot", lambda self, notes: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        engine.checkpoint(tmp_path / "run.ckpt").result(30)
    with pytest.raises(ZeroDivisionError):
        engine.checkpoint(tmp_path / "run.ckpt").result(30)
    engine.stop()
    with pytest.raises(EngineError, match="the engine was stopped"):
        engine.checkpoint(tmp_path / "run.ckpt")


def test_many_injections_are_few_calls_of_the_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they came, around the calls between them."""
    made: list[tuple[str, int]] = []
    inject, force = NPU.inject, NPU.force_fire
    with BurstEngine(ring(), backend="reference") as engine:
        begun, gate = threading.Event(), threading.Event()
        engine.submit(lambda npu: (begun.set(), gate.wait(30)))
        begun.wait(30)
        for i in range(300):
            engine.inject([i % 8], 0.5)
            engine.force_fire([i % 2])
        between = engine.submit(NPU.get_burst_count)
        engine.inject([7], 0.25)
        monkeypatch.setattr(NPU, "inject", lambda npu, ids, potentials: (made.append(("inject", len(ids))), inject(npu, ids, potentials)))
        monkeypatch.setattr(NPU, "force_fire", lambda npu, ids: (made.append(("force", len(ids))), force(npu, ids)))
        gate.set()
        between.result(10)
        result = engine.step()
        assert made == [("inject", 300), ("force", 300), ("inject", 1)]
        assert (result.sensory_injections, result.fired_neurons.tolist()) == (301, list(range(8)))
