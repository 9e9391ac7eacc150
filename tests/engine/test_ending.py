"""Leaving an engine is clean, whatever callbacks, sources and sinks do meanwhile; an error of their own is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, Area, BurstEngine, BurstResult, EngineError
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.streams import Stimulus
from gpu_npu.streams import callbacks as callbacks_module

ROUNDS = 8


def lively() -> BurstEngine:
    network = fixed_out_degree(50, 5, seed=3, weight=(1, 20), areas={0: Area(power=True)}, threshold=30.0)
    return BurstEngine(network, backend="reference")


class Stream:
    """A sink and a source that does something in everything that is asked of it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.acted = act, 0

    def _act(self) -> None:
        self.acted += 1
        self.act()

    def publish(self, result: BurstResult) -> None:
        self._act()

    def take(self) -> list[Stimulus]:
        self._act()
        return [Stimulus(np.zeros(1, np.uint32), np.ones(1, np.float32))]

    def statistics(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._act()


def checkpoint(engine: BurstEngine, path: Path) -> None:
    try:
        engine.checkpoint(path)
    except EngineError as error:
        if "still being written" not in str(error):
            raise


ANYWHERE: dict[str, Callable[[BurstEngine, Path], object]] = {
    "inject": lambda engine, path: engine.inject(np.arange(20), 5.0),
    "force_fire": lambda engine, path: engine.force_fire([1]),
    "submit": lambda engine, path: engine.submit(NPU.inject, [1], 1.0),
    "edit": lambda engine, path: engine.submit(NPU.add_synapse, 1, 2, 3, 4),
    "start": lambda engine, path: engine.start(),
    "frequency": lambda engine, path: setattr(engine, "frequency", None),
    "status": lambda engine, path: engine.status(),
    "stop": lambda engine, path: engine.stop(wait=False),
    "checkpoint": lambda engine, path: checkpoint(engine, path / "run.ckpt"),
    "the NPU": lambda engine, path: engine.npu.inject([1], 1.0),
}
ON_ANOTHER_THREAD: dict[str, Callable[[BurstEngine, Path], object]] = {
    **ANYWHERE,
    "result": lambda engine, path: engine.submit(NPU.get_synapse_count).result(),
    "pause and start": lambda engine, path: (engine.pause(), engine.start()),  # type: ignore[func-returns-value]
    "pause and step": lambda engine, path: (engine.pause(), engine.step(), engine.start()),  # type: ignore[func-returns-value]
    "another": lambda engine, path: engine.remove(engine.subscribe(lambda result: None)),
}


@pytest.mark.parametrize("action", ON_ANOTHER_THREAD)
def test_callbacks(action: str, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        with lively() as engine:
            called = threading.Event()

            def callback(result: BurstResult, engine: BurstEngine = engine, called: threading.Event = called) -> None:
                called.set()
                ON_ANOTHER_THREAD[action](engine, tmp_path)

            for _ in range(1 if "step" in action else 3):
                engine.subscribe(callback, capacity=10**6)
            engine.start()
            assert called.wait(30)
            time.sleep(0.005)
        assert (engine.state, engine.error) == ("stopped", None)


@pytest.mark.parametrize("action", ANYWHERE)
@pytest.mark.parametrize("where", ["sink", "source"])
def test_streams(where: str, action: str, tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        with lively() as engine:
            stream = Stream(lambda engine=engine: ANYWHERE[action](engine, tmp_path))  # type: ignore[misc]
            engine.add_sink(stream) if where == "sink" else engine.add_source(stream)
            engine.start()
            time.sleep(0.005)
        assert (engine.state, engine.error, stream.acted > 0) == ("stopped", None, True)


def test_a_callback_that_injects_gets_every_burst_until_the_end() -> None:
    """Meeting the end keeps it from no result."""
    seen: list[int] = []
    with lively() as engine:

        def callback(result: BurstResult) -> None:
            time.sleep(0.001)
            engine.inject(result.fired_neurons[:20], 5.0)
            seen.append(result.burst)

        engine.subscribe(callback, capacity=10**6)
        engine.step(100)
    assert seen == list(range(1, 101))
    assert engine.status().refused > 0


def test_a_callback_may_wait_for_the_end() -> None:
    with lively() as engine:
        engine.subscribe(lambda result: engine.stop())
        engine.start()
        while engine.state == "running":
            time.sleep(0.001)
    assert (engine.state, engine.error) == ("stopped", None)


def test_what_was_accepted_before_the_end_is_in_the_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what came after the last look at the queue."""
    with lively() as made:
        npu = NPU.from_connectome(made.npu.to_connectome(), backend="reference")
    engine, answers = BurstEngine(npu), list[bool]()
    apply = engine._calls.apply

    def applied() -> int:
        refused = apply()
        if len(answers) < 2:
            answers.append(engine.inject([1, 2], 1.0))
            engine.stop(wait=False)
        return refused

    monkeypatch.setattr(engine._calls, "apply", applied)
    engine.submit(NPU.get_synapse_count).result()
    engine.stop()
    assert (answers, engine.status().refused) == ([True, False], 1)
    assert npu.process_burst().sensory_injections == 2


def own(engine: BurstEngine, result: BurstResult) -> None:
    raise ZeroDivisionError("its own")


def made_of_the_end(engine: BurstEngine, result: BurstResult) -> None:
    try:
        while True:
            engine.submit(NPU.get_synapse_count).result()
    except EngineError as error:
        raise ZeroDivisionError("its own") from error


def of_another(engine: BurstEngine, result: BurstResult) -> None:
    with lively() as other:
        pass
    other.start()


@pytest.mark.parametrize("fault", [own, made_of_the_end, of_another])
def test_an_error_of_its_own_is_told(fault: Callable[[BurstEngine, BurstResult], None]) -> None:
    told = "the engine was stopped" if fault is of_another else "its own"
    with pytest.raises(EngineError, match=f"the engine failed after burst .*{told}"), lively() as engine:
        engine.subscribe(lambda result: fault(engine, result))
        engine.step()
        time.sleep(0.05)


def test_an_error_of_last_words_is_told() -> None:
    """While the engine waits for its callbacks."""
    with pytest.raises(EngineError, match="its own"), lively() as engine:

        def callback(result: BurstResult) -> None:
            while not engine._stopping:
                time.sleep(0.001)
            time.sleep(0.05)
            own(engine, result)

        engine.subscribe(callback)
        engine.step()


def test_an_error_after_the_end_is_told_by_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks_module, "LAST_WORDS", 0.01)
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    over = threading.Event()

    def callback(result: BurstResult) -> None:
        assert over.wait(30)
        raise ZeroDivisionError("its own")

    with lively() as engine:
        sink = engine.subscribe(callback)
        engine.step()
    over.set()
    sink._thread.join(30)
    assert [type(args.exc_value) for args in told] == [ZeroDivisionError]
    assert engine.state == "stopped"


def test_who_waits_is_let_go_before_streams_are_closed() -> None:
    """A callback that waits for a burst does not hold up the end for its last words."""
    with lively() as engine:
        engine.subscribe(lambda result: engine.step(10**9))
        engine.step()
        time.sleep(0.05)
        begun = time.monotonic()
    assert time.monotonic() - begun < callbacks_module.LAST_WORDS / 2
