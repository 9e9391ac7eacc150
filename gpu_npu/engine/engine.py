"""BurstEngine: an NPU that keeps going. It is the only clock: bursts happen on its thread, at a frequency or as fast as
it goes, and everything else (edits, sensory input, subscribers) is arranged around them.

    turn     what was submitted and injected, in order; the wait for the deadline
    burst    sources -> inject -> process_burst
    publish  sinks
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from numpy.typing import ArrayLike

from gpu_npu.arrays import U32
from gpu_npu.checks import check_ids, check_integer, check_potentials
from gpu_npu.connectome import Connectome
from gpu_npu.engine.calls import Call, Calls, Injection, Steps, stage
from gpu_npu.engine.checkpoints import CheckpointWriter
from gpu_npu.engine.status import Counts, EngineStatus, State
from gpu_npu.engine.streams import Streams
from gpu_npu.errors import EngineError, NetworkError, problem_of
from gpu_npu.io.manager import Manager, connectome_of
from gpu_npu.npu import NPU
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import Unique, described
from gpu_npu.streams.base import Sink, Source
from gpu_npu.streams.callbacks import CallbackSink
from gpu_npu.timing import SECOND, Histogram, Pace, check_frequency, now

P = ParamSpec("P")
T = TypeVar("T")


class BurstEngine(Unique):
    """Bursts of a network, on a thread of their own, controlled from any other.

    Parameters
    ----------
    source : an NPU; or a Connectome; or an object with `neurons` (id -> neuron), `synapses`, `neuron_count` and
        `synapse_capacity`, see `gpu_npu.io.manager`. An NPU that is handed in belongs to the engine until it has
        stopped and is not closed by it; otherwise the engine makes one, and `close` closes it.
    frequency : bursts a second, 0.01 to 1e6; None or infinity: as fast as it goes. `frequency` can be set at any time.
    power_neurons : as in `NPU.set_power_neurons`.
    npu_options : of `NPU.from_connectome`, where the engine makes the NPU: backend, device, fire_ledger_window, ...

    A new engine is paused: `start` lets it run, `step` computes single bursts. All methods may be called from any thread.
    What waits for the burst thread (`step`, `pause`, `stop`, the result of a future) must not be waited for on it.

    What goes wrong in a burst, a sink, a source or a callback ends the engine: no further burst is computed, streams are
    closed, the state is "failed", `error` holds the exception; `wait` and leaving a `with` block raise it. What goes
    wrong in something submitted goes to its future, and the engine goes on.

    The end may come at any moment of what streams and callbacks do. An injection that meets it is counted as refused, as no
    burst will take it; any other call that meets it is an EngineError, which is no failure of the engine if it comes back
    to it from a stream or a callback.
    """

    instead = "engine.checkpoint(path) writes its run to a file"

    def __init__(
        self,
        source: NPU | Connectome | Manager,
        frequency: float | None = None,
        *,
        power_neurons: ArrayLike | None = None,
        **npu_options: Any,
    ) -> None:
        self._pace = Pace(check_frequency(frequency))
        if isinstance(source, NPU):
            if npu_options:
                raise NetworkError(
                    f"{', '.join(npu_options)}: only an NPU that the engine makes takes options, and this one was handed in; leave them out"
                )
            self.npu, self._owned = source, False
        else:
            connectome = source if isinstance(source, Connectome) else connectome_of(source)
            self.npu, self._owned = NPU.from_connectome(connectome, **npu_options), True
        """The NPU. While the engine lives, it is touched by what is submitted alone; once stopped, it is the caller's."""
        try:
            if power_neurons is not None:
                self.npu.set_power_neurons(power_neurons)
        except BaseException:
            self._release()
            raise
        self.error: BaseException | None = None
        """What ended a failed engine."""
        self._condition = threading.Condition()
        self._calls = Calls(self.npu, self._condition)
        self._streams = Streams(self._unless_ended)
        self._checkpoints = CheckpointWriter()
        self._counts = Counts(self.npu.burst_count)
        self._stepping: Steps | None = None
        """Whose burst is under way; None where it has a pace."""
        self._running = self._stopping = self._bursting = self._ended = False
        self._thread = threading.Thread(target=self._live, name="gpu-npu burst", daemon=True)
        atexit.register(self.stop)  # an interpreter that ends must not find the thread in a kernel
        self._thread.start()

    # -- control -------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Run, from now on: the first burst is due at once. Does nothing where it runs."""
        with self._condition:
            self._check_alive()
            if not self._running:
                self._running = True
                self._pace.restart()
                self._counts.restart_rate()
                self._condition.notify_all()

    resume = start

    def pause(self) -> None:
        """No further bursts; returns after the one at hand (on the burst thread: at once). A `step` of more is cut off there."""
        with self._condition:
            self._check_alive()
            self._running = False
            self._counts.restart_rate()
            finishes = self._bursting and self._stepping is not None and self._stepping.left == 1
            cut = self._calls.cut_steps(self._stepping if finishes else None)
            self._condition.notify_all()
            try:
                if threading.current_thread() is not self._thread:
                    at_hand = self._counts.bursts
                    self._condition.wait_for(lambda: not self._bursting or self._counts.bursts != at_hand)
            finally:
                for steps in cut:
                    if steps.future.set_running_or_notify_cancel():
                        steps.future.set_exception(EngineError(f"the engine was paused before the last of these {steps.n:,} bursts"))

    def step(self, n: int = 1) -> BurstResult:
        """Compute n bursts of a paused engine, without a pace; returns the result of the last.

        EngineError where the engine is running, and where it is paused again, stops or fails before the last.
        """
        return self.submit_steps(n).result()

    def submit_steps(self, n: int = 1) -> Future[BurstResult]:
        """As `step`, without waiting: the future has the result. If it is cancelled, the burst at hand is the last of them."""
        steps = Steps(check_integer(n, "n", 1))
        with self._condition:
            self._check_alive()
            if self._running:
                raise EngineError("the engine is running, and takes steps only while it is paused", python="pause() it first")
            self._calls.step(steps)
            self._condition.notify_all()
        return steps.future

    def process_burst(self) -> U32:
        """Compute one burst of a paused engine; returns what fired."""
        return self.step().fired_neurons

    def stop(self, wait: bool = True) -> None:
        """The end: what was submitted is still applied, the burst at hand finished, streams are closed.

        Stopping twice is no error. wait=False, needed in a callback, returns before that is done.
        """
        with self._condition:
            self._stopping = True
            self._running = False
            self._condition.notify_all()
        if wait and threading.current_thread() is not self._thread:
            self._thread.join()

    def fail(self, error: BaseException) -> None:
        """The end, because of this error: for streams that find something wrong on a thread of their own. The first error
        stays. One that comes when the engine has ended is raised again."""
        if self._is_end(error):
            return
        with self._condition:
            if self._ended:
                raise error
            self.error = self.error or error
        self.stop(wait=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the engine has ended, at most so many seconds; says whether it has. EngineError if it failed."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self.error is not None:
            raise self._over("")
        return True

    def close(self) -> None:
        """Stop, and close the NPU if the engine made it."""
        self.stop()
        self._release()

    def __repr__(self) -> str:
        pace = "as fast as it goes" if self.frequency is None else f"{self.frequency:g} Hz"
        return described(self, f"{self.state}, {pace}, burst {self._counts.burst:,}, of {self.npu!r}")

    def __enter__(self) -> BurstEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if kind is None:
            self.wait()

    def _release(self) -> None:
        if self._owned:
            self.npu.close()

    def _check_alive(self) -> None:
        if self._stopping or self._ended:
            raise self._over("the engine was stopped and does not start again", python="make a new BurstEngine")

    def _over(self, stopped: str, python: str = "") -> EngineError:
        """The error of a call that meets the end: the failure, or that it was stopped."""
        if self.error is None:
            return EngineError(stopped, python=python, ended=self)
        why = f"{type(self.error).__name__}: {problem_of(self.error)}"
        failed = EngineError(f"the engine failed after burst {self._counts.burst:,}: {why}", ended=self)
        failed.__cause__ = self.error
        return failed

    def _is_end(self, error: BaseException) -> bool:
        return isinstance(error, EngineError) and error.ended is self

    # -- facts ---------------------------------------------------------------------------------------------------
    @property
    def state(self) -> State:
        """As in `EngineStatus`."""
        if self._ended:
            return "stopped" if self.error is None else "failed"
        return "running" if self._running else "paused"

    @property
    def burst_times(self) -> Histogram:
        """Times of bursts, from taking the sensory input to the fired ids at hand."""
        return self._counts.burst_times

    @property
    def lateness(self) -> Histogram:
        """How late bursts at a frequency began."""
        return self._counts.lateness

    @property
    def frequency(self) -> float | None:
        """The target in Hz; None is as fast as it goes. Setting it takes effect at once."""
        return self._pace.frequency

    @frequency.setter
    def frequency(self, frequency: float | None) -> None:
        wanted = check_frequency(frequency)
        with self._condition:
            self._pace.change(wanted)
            self._condition.notify_all()

    def status(self) -> EngineStatus:
        """How it goes; never waits for a burst."""
        counts, streams = self._counts, self._streams.statistics()
        times, lateness = counts.burst_times.summary(), counts.lateness.summary()
        with self._condition:  # held for a moment only: the burst thread needs it
            return EngineStatus(
                state=self.state,
                frequency=self.frequency,
                burst=counts.burst,
                bursts=counts.bursts,
                fired=counts.fired,
                sensory_injections=counts.sensory_injections,
                synaptic_injections=counts.synaptic_injections,
                bursts_per_second=counts.rate(self.frequency),
                burst_seconds=times,
                lateness_seconds=lateness,
                overruns=counts.overruns,
                missed=counts.missed,
                refused=counts.refused,
                waiting=len(self._calls),
                error=None if self.error is None else f"{type(self.error).__name__}: {problem_of(self.error)}",
                **streams,
            )

    # -- what happens between bursts -----------------------------------------------------------------------------
    def submit(self, function: Callable[Concatenate[NPU, P], T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call function(npu, ...) between two bursts: `engine.submit(NPU.update_weight, 3, 4, 17)`.

        Calls are made in the order of submission, injections among them, at once where no burst is under way. The
        future has the result or the error. EngineError where too many wait, and where the engine ends before its turn.
        """
        future: Future[T] = Future()
        with self._condition:
            self._check_alive()
            self._calls.submit(Call(function, args, kwargs, future))
            self._condition.notify_all()
        return future

    def inject(self, neurons: ArrayLike, potentials: ArrayLike) -> bool:
        """Stage external potential for the next burst: ids, and one potential or one for each. As `NPU.inject`, which
        checks the same; here the check is made at once, and copies the arrays. False where the end of the engine came first."""
        ids = check_ids(neurons, self.npu.neuron_capacity, find=self.npu.annotations.finder)
        return self._inject((ids, check_potentials(potentials, len(ids))))

    def force_fire(self, neurons: ArrayLike) -> bool:
        """Stage neurons to fire in the next burst whatever their potential; as `NPU.force_fire`. False as for `inject`."""
        return self._inject((check_ids(neurons, self.npu.neuron_capacity, find=self.npu.annotations.finder), None))

    def _inject(self, injection: Injection) -> bool:
        with self._condition:
            if self._stopping and not self._ended:
                self._counts.refused += 1
                return False
            self._check_alive()
            self._calls.inject(injection)
            if self._calls.pressing:
                self._condition.notify_all()
        return True

    def checkpoint(self, path: str | os.PathLike[str], notes: Mapping[str, Any] | None = None) -> Future[int]:
        """Write the run to a file, from which `NPU.from_snapshot` goes on; the future has the number of the last burst in it.

        The snapshot is taken between two bursts, in the order of submission, and written on a thread of its own while
        bursts go on; an engine that ends waits for it. The future's error is an OSError where it cannot be written (what
        was at `path` stays), or one of `NPU.snapshot`. EngineError where one is still being written.
        """
        with self._condition:
            return self._checkpoints.write(self.submit, path, notes)

    # -- streams -------------------------------------------------------------------------------------------------
    def add_sink(self, sink: Sink, name: str | None = None) -> None:
        """Publish every burst from the next one on; the engine closes the sink. The name is for statistics."""
        with self._condition:
            self._check_alive()
            self._streams.add_sink(sink, name)

    def add_source(self, source: Source, name: str | None = None) -> None:
        """Take sensory input before every burst from the next one on; the engine closes the source."""
        with self._condition:
            self._check_alive()
            self._streams.add_source(source, name)

    def remove(self, stream: Sink | Source) -> None:
        """Take a sink or source out and close it, between two bursts."""

        def take_out(npu: NPU) -> None:
            with self._condition:
                self._streams.remove(stream)

        self.submit(take_out).result()
        stream.close()

    def subscribe(self, callback: Callable[[BurstResult], object], *, capacity: int = 1024, name: str | None = None) -> CallbackSink:
        """Call callback(result) after every burst, on a thread of its own. A slow callback slows no burst: `capacity`
        results wait for it, and what comes beyond is dropped and counted. `remove` ends it.

        What must happen before the next burst belongs into a Sink, whose `publish` runs on the burst thread.
        """
        sink = CallbackSink(callback, self.fail, capacity)
        try:
            self.add_sink(sink, name)
        except BaseException:
            sink.close()
            raise
        return sink

    # -- the burst thread ----------------------------------------------------------------------------------------
    def _live(self) -> None:
        try:
            while (began := self._turn()) is not None:
                self._burst(began)
        except BaseException as error:  # whatever it is, the engine has ended and says why
            self.fail(error)
        self._end()

    def _turn(self) -> int | None:
        """Between two bursts, until the moment in which the next one begins; None: it is time to end."""
        punctual = due = False
        """Whether nothing was under way when the deadline came; whether it has come."""
        while True:
            refused = self._calls.apply()
            with self._condition:
                self._counts.refused += refused
                if self._stopping:
                    if self._calls:  # nothing more comes
                        continue
                    return None
                if self._running or self._calls.next_steps():
                    free = self._pace.frequency is None or self._calls.steps or self._pace.first
                    remaining = 0 if free else self._pace.remaining()
                    if remaining <= 0:
                        if self._calls and not due:  # what was there before the burst was due is in it; what comes later is not waited for
                            due = True
                            continue
                        self._counts.overruns += not (free or punctual)
                        return self._begin()
                    if not self._calls.pressing:
                        self._condition.wait(remaining / SECOND)
                        punctual = not self._calls.pressing and self._pace.remaining() <= 0
                elif not self._calls.pressing:
                    self._condition.wait()

    def _begin(self) -> int:
        """Here, where the condition is held, because pace and steps may be changed at any other moment."""
        began = now()
        self._bursting = True
        self._stepping = self._calls.steps[0] if self._calls.steps else None
        if self._stepping is None and (served := self._pace.serve(began)):
            self._counts.serve(*served)
        return began

    def _burst(self, began: int) -> None:
        refused = stage(self.npu, self._streams.take())
        result = self.npu.process_burst()
        ended = now()
        self._counts.burst_times.record(ended - began)
        self._streams.publish(result)
        done: Future[BurstResult] | None = None
        with self._condition:
            self._counts.refused += refused
            self._calls.burst_done()
            self._counts.add(result, ended)
            if self._stepping is not None:
                done = self._calls.stepped(self._stepping)
            self._bursting = False
            self._condition.notify_all()
        if done is not None and done.set_running_or_notify_cancel():
            done.set_result(result)

    def _unless_ended(self, call: Callable[[], T]) -> T | None:
        """What a stream does on the burst thread; None where that met the end of the engine."""
        try:
            return call()
        except EngineError as error:
            if not self._is_end(error):
                raise
            return None

    def _end(self) -> None:
        """On the burst thread: nobody waits in vain, and nothing stays open."""
        with self._condition:
            self._bursting = False
            waiting = self._calls.clear()
            self._condition.notify_all()
        for future in waiting:  # before streams are closed, as callbacks may be waiting too
            if future.set_running_or_notify_cancel():
                future.set_exception(self._over("the engine was stopped before this had its turn"))
        self._streams.close(self.fail)
        self._checkpoints.close()
        with self._condition:
            self._ended = True
        atexit.unregister(self.stop)
