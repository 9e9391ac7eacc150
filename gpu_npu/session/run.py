"""A run: bursts of a network with its stimuli, what is written of it, and what it adds up to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from gpu_npu import NPU, BurstResult, CheckpointError, Connectome, Digest, Snapshot
from gpu_npu.arrays import F32, I64, U32
from gpu_npu.checks import check_integer, check_kind, check_map, check_path
from gpu_npu.connectome import COUNTERS, SynapseSource
from gpu_npu.errors import NetworkError
from gpu_npu.io.outputs import Named, check_outputs
from gpu_npu.objects import OneLine, Unique, described, one_line
from gpu_npu.recordings import Recorder

from .activity import Activity, most_active
from .checkpoints import Checkpoints, Parts, files_of_parts, noted
from .findings import Totals, bounds_reached, findings
from .result import Note, Result
from .stimuli import Stimuli, Stimulus

PHASE_BURSTS, PHASE_SECONDS = 100, 2.0
"""The separate stretch in which phases are timed: so many bursts, or so long."""
TIMES_KEPT = 2**20
"""Bursts whose times the percentiles are made from, the last ones."""
STRETCH_SECONDS, STRETCH_ITEMS, LONGEST_STRETCH = 0.1, 2**18, 4096
"""Bursts between two looks at the host: for so long, with so many injections, so many."""
BY_NEURON = "fired_by_neuron"
"""The array of a checkpoint that says how often each neuron fired: (neuron_capacity,) int64."""
Stop = Callable[[], bool]
"""Asked between stretches: whether the run is to end."""
Progress = Callable[[int], object]
"""Called with the bursts that are done."""


@dataclass(frozen=True)
class Place:
    """Where and how a network is loaded; the arguments of `NPU.from_connectome`."""

    backend: str = "auto"
    device: int | None = None
    fire_ledger_window: int = 20
    """Bursts of history kept; a run that is resumed has that of its checkpoint."""
    annotate: bool = False


@dataclass(frozen=True, repr=False)
class Plan(OneLine):
    """What a run is to be, apart from its network and its stimuli."""

    bursts: int = 1000
    """Of the whole run, those before it was resumed among them."""
    name: str = ""
    """Of the network."""
    record: Path | None = None
    """File for the fired ids of every burst; in parts, FILE.<first burst>.npz, where there are checkpoints."""
    checkpoint: Path | None = None
    """File for checkpoints, every `every` bursts and at the end."""
    every: int | None = None
    resumed: Snapshot | None = None
    """What the run goes on from; see `resume`."""
    begun: Mapping[str, Any] = field(default_factory=dict)
    """What an earlier process noted of this run."""
    source: Path | None = None
    """The file of `resumed`."""

    def __post_init__(self) -> None:
        check_integer(self.bursts, "bursts", 1)
        check_map(self.begun, "begun"), check_kind(self.name, str, "name")
        for what in ("record", "checkpoint", "source"):
            if getattr(self, what) is not None:
                object.__setattr__(self, what, check_path(getattr(self, what), what))
        if self.resumed is not None:
            check_kind(self.resumed, Snapshot, "resumed")
        if (self.checkpoint is None) != (self.every is None):
            raise NetworkError(f"checkpoint {self.checkpoint!s}, every {self.every}: checkpoints need a file and a number of bursts")
        if self.every is not None:
            check_integer(self.every, "every", 1)
        if self.bursts < self.behind:
            raise NetworkError(f"bursts: {self.bursts:,} are less than the {self.behind:,} that the run has behind it")

    @classmethod
    def resume(cls, path: str | os.PathLike[str], *, memory_limit: int | None = None) -> Plan:
        """To go on from a checkpoint with the bursts, the record and the checkpoints the run was begun with; or from a
        checkpoint of anything else. CheckpointError, OSError."""
        path = check_path(path)
        snapshot = Snapshot.read(path, memory_limit=memory_limit)
        begun = noted(path, snapshot)
        record = Path(begun["record"]) if begun.get("record") else None
        name, every = str(begun.get("network", path.name)), begun.get("every")
        checkpoint = None if every is None else path
        return cls(int(begun.get("asked", 1000)), name, record, checkpoint, every, snapshot, begun, path)

    @property
    def behind(self) -> int:
        """Bursts that the run has behind it."""
        return int(self.begun.get("bursts", 0))

    @property
    def first(self) -> int:
        """The number of the next burst."""
        return 1 if self.resumed is None else self.resumed.burst + 1

    @property
    def in_parts(self) -> bool:
        """Whether the record is in parts."""
        return self.checkpoint is not None or self.resumed is not None

    def outputs(self) -> list[Named]:
        """The files that the run writes, as the command line names them. A checkpoint may replace the one that the run goes on
        from; then it is no output that could destroy anything."""
        records = [] if self.record is None else files_of_parts(self.record, self.first) if self.in_parts else [self.record]
        found: list[Named] = [("--record", path) for path in records]
        if self.checkpoint is not None and (self.source is None or self.checkpoint.resolve() != self.source.resolve()):
            found.append(("--checkpoint", self.checkpoint))
        return found

    def stimuli(self) -> Stimuli:
        """Those that the run was begun with. CheckpointError."""
        if self.resumed is None:
            return Stimuli()
        try:
            return Stimuli.read(self.begun.get("stimuli", []), self.resumed.extra)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.source}: its notes of stimuli cannot be read: {error!r}") from error

    def fired_by_neuron(self, network: Connectome) -> I64:
        """How often each neuron fired before. CheckpointError."""
        none: I64 = np.zeros(network.neuron_capacity, np.int64)
        if self.resumed is None or not self.begun:
            return none
        found = self.resumed.extra.get(BY_NEURON)
        if found is None or found.shape != none.shape or found.dtype != none.dtype:
            raise CheckpointError(f"{self.source}: it lacks the array {BY_NEURON!r} of {len(none):,} int64")
        return found.copy()


class _Stretch(NamedTuple):
    """So many bursts, and what is injected in them, item by item: into which neuron in which burst."""

    bursts: int
    burst: I64
    neuron: U32
    potential: F32

    def __repr__(self) -> str:
        return one_line(self)


class Session(Unique):
    """A run under way.

        with Session(Plan(500, record=Path("fired.npz")), network, [Poisson("all", 0.1)]) as session:
            session.go()
            session.close()
            print(session.result().fired)

    What cannot be written ends the run, or is told to `tell` where it is a checkpoint; `failure` has it.
    """

    def __init__(
        self,
        plan: Plan,
        network: Connectome,
        stimuli: Iterable[Stimulus] = (),
        place: Place | None = None,
        tell: Callable[[OSError], object] = lambda _: None,
        synapses: SynapseSource | None = None,
    ) -> None:
        """Load the network, which a plan that resumes has in its snapshot, and open what is written.

        synapses: more of them, read batch by batch, as of `NPU.from_connectome`. tell: called where a checkpoint cannot be
        written. Errors: those of `Stimuli.bind`, `NPU.from_connectome`, `check_outputs` and `Recorder`.
        """
        check_kind(network, Connectome, "network")
        begin, place, begun = time.perf_counter(), Place() if place is None else check_kind(place, Place, "place"), plan.begun
        self.plan, self._network, self._stack = plan, network, ExitStack()
        self._sources = (network.synapses, *(() if synapses is None else (synapses,)))
        self._stimuli = Stimuli.bind(network, stimuli) if plan.resumed is None else plan.stimuli()
        check_outputs(plan.outputs())
        with ExitStack() as stack:
            self._checkpoints: Checkpoints | None = None
            if plan.checkpoint is not None and plan.every is not None:
                self._checkpoints = stack.enter_context(Checkpoints(plan.checkpoint, plan.every, tell))
            self._recorder: Recorder | Parts | None = None
            if plan.record is not None:
                known = network.annotations
                self._recorder = Parts(plan.record, plan.first, known) if plan.in_parts else Recorder(plan.record, known)
                stack.enter_context(self._recorder)
            self._npu = stack.enter_context(_loaded(plan, network, synapses, self._stimuli, place))
            self._stack = stack.pop_all()
        self.bursts = self._written = plan.behind
        """Of the whole run so far; and when the last checkpoint was begun."""
        self.failure: OSError | None = None
        """Why a file could not be written."""
        self.interrupted = False
        self._fired, self._fired_last = int(begun.get("fired", 0)), 0
        self._activity = Activity(begun.get("columns"), int(begun.get("column_bursts", 1)), self.bursts)
        self._fired_by_neuron = plan.fired_by_neuron(network)
        self._counters = {name: int(begun.get("counters", {}).get(name, 0)) for name in COUNTERS}
        self._digest = Digest(resumable=plan.checkpoint is not None, state=bytes.fromhex(begun["digest"]) if begun else None)
        self._seconds, self._synaptic = 0.0, 0
        self._times = np.zeros(max(min(plan.bursts - plan.behind, TIMES_KEPT), 0))
        self._phases: dict[str, float] | None = None
        self._phase_bursts = 0
        self._memory = self._npu.memory()
        self._memory_at_end = sum(self._memory.values())
        self._load_seconds = time.perf_counter() - begin

    def __repr__(self) -> str:
        return described(self, f"{self.bursts:,} of {self.plan.bursts:,} bursts of {self.plan.name or 'a network'}")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def go(self, stop: Stop = lambda: False, progress: Progress = lambda _: None) -> None:
        """All bursts, or those before a stop, in stretches that the device computes on its own: short enough that a stop is
        heard within a tenth of a second."""
        try:
            self._go(stop, progress)
        except OSError as error:  # the disk is full: what was recorded is kept, what was done is told
            if self._recorder is None:
                raise
            self.failure = error
        self.interrupted = stop()
        self._memory_at_end = sum(self._npu.memory().values())

    def _go(self, stop: Stop, progress: Progress) -> None:
        length = 1
        while self.bursts < self.plan.bursts and not stop():
            begin = time.perf_counter()
            self._stretch(min(length, self._to_next_checkpoint()))
            took = time.perf_counter() - begin
            if took < STRETCH_SECONDS / 4:
                length = min(2 * length, LONGEST_STRETCH)
            elif took > STRETCH_SECONDS:
                length = max(length // 2, 1)
            if self.plan.every is not None and self.bursts % self.plan.every == 0:
                self._checkpoint()
            progress(self.bursts)

    def _to_next_checkpoint(self) -> int:
        left, every = self.plan.bursts - self.bursts, self.plan.every
        return left if every is None else min(left, every - self.bursts % every)

    @property
    def _timed(self) -> int:
        """Bursts of this process."""
        return self.bursts - self.plan.behind

    def _stretch(self, most: int) -> None:
        """The next bursts, at most so many: their time is from the stimulus at hand to the fired ids at hand."""
        stretch = self._injected(most)
        watched = 0.0

        def watch(result: BurstResult) -> None:
            nonlocal watched
            begin = time.perf_counter()
            self._note(result)
            watched += time.perf_counter() - begin

        start = time.perf_counter()
        if len(stretch.burst):
            self._npu.schedule(stretch.burst, stretch.neuron, stretch.potential)
        result = self._npu.run(stretch.bursts, watch=watch)
        seconds = time.perf_counter() - start - watched
        self._synaptic += result.synaptic_injections
        apart = np.diff(result.clock) * 1e-9
        self._seconds += max(seconds, float(apart.sum()))
        # The first burst of a stretch has no other before it: it has the rest of the time.
        times = np.concatenate(([max(seconds - float(apart.sum()), 0.0)], apart))
        self._times[np.arange(self._timed - len(times), self._timed) % len(self._times)] = times

    def _injected(self, most: int) -> _Stretch:
        """What is injected in the next bursts: as many of them as their stimulus leaves room for."""
        neuron, potential, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.float32)], list[int]()
        count, bursts, first = 0, 0, self._npu.burst_count + 1
        while bursts < most and (count < STRETCH_ITEMS or not bursts):
            before = count
            for neurons, potentials in self._stimuli.before(first + bursts):
                neuron.append(neurons)
                potential.append(potentials)
                count += len(neurons)
            counts.append(count - before)
            bursts += 1
        return _Stretch(bursts, np.repeat(np.arange(first, first + bursts), counts), np.concatenate(neuron), np.concatenate(potential))

    def _note(self, result: BurstResult) -> None:
        """One burst more."""
        if self._recorder is not None:
            self._recorder(result)
        self._digest.update(result.burst, result.fired_neurons)
        self._activity.add(result.neuron_count)
        self._fired_last = result.neuron_count
        self._fired += result.neuron_count
        self._fired_by_neuron[result.fired_neurons] += 1
        for name in COUNTERS:
            self._counters[name] += getattr(result, name)
        self.bursts += 1

    def _checkpoint(self) -> None:
        """Begin to write one, with all that another process needs to go on."""
        if self._checkpoints is None:
            return
        if isinstance(self._recorder, Parts):
            self._recorder.cut()
        stimuli, arrays = self._stimuli.written()
        note = {
            "network": self.plan.name,
            "asked": self.plan.bursts,
            "bursts": self.bursts,
            "fired": self._fired,
            "columns": list(self._activity.counts),
            "column_bursts": self._activity.width,
            "counters": dict(self._counters),  # they go on while this is written
            "digest": self._digest.state().hex(),
            "stimuli": stimuli,
            "every": self.plan.every,
            "record": None if self._recorder is None else str(self._recorder.path),
        }
        self._checkpoints.take(self._npu, note, {**arrays, BY_NEURON: self._fired_by_neuron.copy()})
        self._written = self.bursts

    def last_checkpoint(self) -> None:
        """Write the checkpoint of the end, if there are checkpoints and nothing has failed, and wait until it is on the disk."""
        if self._checkpoints is not None and self.failure is None:
            if self.bursts != self._written:
                self._checkpoint()
            self._checkpoints.wait()
            self.failure = self._checkpoints.error

    def time_phases(self, stop: Stop = lambda: False, progress: Progress = lambda _: None) -> None:
        """Further bursts after the run, timed phase by phase; they count for nothing else, so the checkpoint of the end is
        written before them."""
        self.last_checkpoint()
        most = min(self._timed, PHASE_BURSTS)
        end = time.perf_counter() + PHASE_SECONDS
        self._npu.time_phases(True)
        while self._phase_bursts < most and not stop() and time.perf_counter() < end:
            for neurons, potentials in self._stimuli.before(self._npu.burst_count + 1):
                self._npu.inject(neurons, potentials)
            self._npu.process_burst()
            self._phase_bursts += 1
            progress(self._phase_bursts)
        if self._phase_bursts:
            self._phases = {phase: total / self._phase_bursts for phase, total in (self._npu.phase_seconds or {}).items()}
        self._npu.time_phases(False)

    def close(self) -> None:
        """Write the checkpoint of the end, and end the record; what fails is `failure`."""
        self.last_checkpoint()
        if self._recorder is not None:
            try:
                self._recorder.close()
            except OSError as error:
                self.failure = self.failure or error

    def result(self) -> Result:
        """What the run has added up to."""
        npu, recorder = self._npu, self._recorder
        return Result(
            network=self.plan.name,
            backend=npu.backend,
            backend_reason=npu.backend_reason,
            seed=npu.settings.random_seed,
            neurons=npu.get_neuron_count(),
            synapses=npu.get_synapse_count(),
            memory=self._memory,
            memory_at_end=self._memory_at_end,
            load_seconds=self._load_seconds,
            asked=self.plan.bursts,
            bursts=self.bursts,
            before=self.plan.behind,
            interrupted=self.interrupted,
            fired=self._fired,
            counters=dict(self._counters),
            seconds=self._seconds,
            synaptic=self._synaptic,
            times=self._times[: self._timed].copy(),
            phase_bursts=self._phase_bursts,
            phase_seconds=self._phases,
            activity=self._activity,
            most_active=most_active(self._fired_by_neuron, self._network.annotations),
            record=recorder.pattern if isinstance(recorder, Parts) else None if recorder is None else str(recorder.path),
            checkpoint=self.plan.checkpoint,
            digest=self._digest.hexdigest(),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[Note, ...]:
        if self.plan.begun and not self._timed:
            return (Note(f"nothing was left to run: all {self.bursts:,} bursts were behind the checkpoint"),)
        driven = self._counters["sensory_injections"] + self._counters["power_injections"]
        power = self._npu.statistics()["power_neurons"]
        totals = Totals(self.bursts, self._fired, self._fired_last, driven, self._counters["synaptic_injections"], power)
        return (*findings(self._network, self._sources, self._stimuli, totals, self._activity), *bounds_reached(self._npu))


def _loaded(plan: Plan, network: Connectome, synapses: SynapseSource | None, stimuli: Stimuli, place: Place) -> NPU:
    """The network, or the snapshot to go on from, in an NPU."""
    if plan.resumed is not None:
        return NPU.from_snapshot(plan.resumed, backend=place.backend, device=place.device, annotate=place.annotate)
    npu = NPU.from_connectome(
        network,
        synapses=synapses,
        fire_ledger_window=place.fire_ledger_window,
        backend=place.backend,
        device=place.device,
        annotate=place.annotate,
    )
    npu.set_power_neurons(stimuli.power)
    return npu


def run(network: Connectome, stimuli: Iterable[Stimulus] = (), plan: Plan | int = 1000, place: Place | None = None) -> Result:
    """Run a network with its stimuli; plan: what is recorded and checkpointed, or the number of bursts alone.

    The same as `gpu-npu run` does, to the digest. OSError: a file could not be written. Other errors: those of `Session`.
    """
    return _run(plan if isinstance(plan, Plan) else Plan(plan), network, stimuli, place)


def resume(path: Path | str, place: Place | None = None) -> Result:
    """Go on from a checkpoint as the run was begun, to its end. Errors: those of `run`, and CheckpointError."""
    plan = Plan.resume(path)
    assert plan.resumed is not None
    return _run(plan, plan.resumed.network, (), place)


def _run(plan: Plan, network: Connectome, stimuli: Iterable[Stimulus], place: Place | None) -> Result:
    with Session(plan, network, stimuli, place) as session:
        session.go()
        session.close()
        if session.failure is not None:
            raise session.failure
        return session.result()
