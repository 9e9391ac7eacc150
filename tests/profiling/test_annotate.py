"""Annotation: which ranges a profiler gets to see, with a recorder in the place of nvtx, and once with nvtx itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import BackendFactory
from platforms import running

from gpu_npu import NPU, BackendUnavailableError, CapacityError, Connectome, KernelError, NetworkError, annotate
from gpu_npu.backends.base import PHASES, BurstOutput
from gpu_npu.backends.reference import Reference, ReferencePlatform
from gpu_npu.cli import EXIT_STATUS, main
from gpu_npu.connectome.generators import fixed_out_degree, seed_example


class Recorder(ModuleType):
    """What Ranges uses of nvtx. `events`: (depth, name, payload), a mark with its name in brackets."""

    def __init__(self) -> None:
        super().__init__("nvtx")
        self.domains: list[str] = []
        self.events: list[tuple[int, str, int]] = []
        self.depth = 0

    def get_domain(self, name: str) -> Recorder:
        self.domains.append(name)
        return self

    def get_event_attributes(self, *, message: str, payload: int) -> tuple[str, int]:
        assert type(message) is str and type(payload) is int
        return message, payload

    def push_range(self, event: tuple[str, int]) -> None:
        self.events.append((self.depth, *event))
        self.depth += 1

    def pop_range(self) -> None:
        self.depth -= 1
        assert self.depth >= 0

    def mark(self, event: tuple[str, int]) -> None:
        self.events.append((self.depth, f"[{event[0]}]", event[1]))

    def take(self) -> list[tuple[int, str, int]]:
        """What happened since the last look; everything that was pushed has been popped."""
        assert self.depth == 0
        events, self.events = self.events, []
        return events


@pytest.fixture
def nvtx(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "nvtx", recorder)
    return recorder


def chain() -> Connectome:
    """0 -> 1 -> 2"""
    network = Connectome(4, 8)
    network.add_neurons(3, threshold=1.0)
    network.add_synapses([0, 1], [1, 2], 1, 1)
    return network


def burst(number: int, fired: int) -> list[tuple[int, str, int]]:
    return [(0, "burst", number), *((1, phase, number) for phase in PHASES), (1, "[fired]", fired)]


def test_a_life_range_by_range(backend_factory: BackendFactory, nvtx: Recorder) -> None:
    npu = NPU.from_connectome(chain(), backend=backend_factory, annotate=True)
    assert nvtx.domains == ["gpu_npu"]
    assert nvtx.take() == [(0, "build", 0), (0, "load", 0)]

    npu.inject([0], 5.0)
    assert npu.process_burst().neuron_count == 1
    assert nvtx.take() == burst(1, 1)
    npu.inject([0, 2], 5.0)
    assert npu.process_burst().neuron_count == 3
    assert nvtx.take() == burst(2, 3)

    npu.add_synapse(2, 0, 1, 1)  # waits on the host
    assert nvtx.take() == []
    npu.process_burst([0])
    assert nvtx.take() == [(0, "edit add_synapse", 2), (0, "edit set_power_neurons", 2), *burst(3, 3)]

    npu.update_weight(2, 0, 3)
    npu.add_neuron(threshold=2.0)
    npu.set_parameter("threshold", [0], 3.0)
    npu.rebuild_indexes()
    assert nvtx.take() == [
        (0, f"edit {name}", 3) for name in ("update_weights", "add_neurons", "set_parameter", "rebuild_indexes")
    ]
    npu.get_parameter("threshold")
    npu.to_connectome()
    assert len(npu.fire_queue.neurons) == npu.get_fire_history(3).size
    assert len(npu.neuron_array.threshold) == 4
    assert nvtx.take() == [
        (0, f"transfer {name}", 3) for name in ("get_parameter", "to_connectome", "queue", "fired_in", "read")
    ]
    npu.close()


def test_on_and_off_at_any_time(backend_factory: BackendFactory, nvtx: Recorder) -> None:
    npu = NPU.from_connectome(chain(), backend=backend_factory)
    npu.process_burst([0])
    npu.annotate(False)
    assert nvtx.take() == [] and nvtx.domains == []
    npu.annotate(True)
    npu.annotate(True)
    npu.process_burst([0])
    assert nvtx.take() == burst(2, 2)
    assert nvtx.domains == ["gpu_npu"]
    npu.reset(network=True)
    assert nvtx.take() == [(0, "edit reset", 2), (1, "build", 2), (1, "load", 2)]
    npu.set_power_neurons([0])
    npu.process_burst()
    assert nvtx.take() == [(0, "edit set_power_neurons", 0), *burst(1, 1)]
    npu.annotate(False)
    npu.process_burst()
    npu.rebuild_indexes()
    assert nvtx.take() == []
    npu.close()


def test_two_npus_know_nothing_of_each_other(nvtx: Recorder) -> None:
    with NPU.from_connectome(chain(), backend="reference") as quiet, NPU.from_connectome(chain(), backend="reference", annotate=True):
        nvtx.take()
        quiet.process_burst([0])
        quiet.delete_neuron(2)
        assert nvtx.take() == []


@pytest.mark.parametrize("timed", [False, True])
def test_results_are_the_same(backend_factory: BackendFactory, nvtx: Recorder, timed: bool) -> None:
    def digest(on: bool) -> tuple[str, int]:
        network = fixed_out_degree(300, 20, seed=3, weight=(1, 9), psp=(1, 9), threshold=60.0)
        with NPU.from_connectome(network, backend=backend_factory, annotate=on) as npu:
            npu.time_phases(on and timed)
            npu.set_power_neurons(np.arange(0, 300, 7))

            def edit(result: Any) -> None:
                npu.inject([result.burst, 9, 9], [30.0, 2.0, -1.0])
                npu.force_fire([result.burst * 3])
                npu.remove_synapses(npu.outgoing_synapses([result.burst]).source[:1], npu.outgoing_synapses([result.burst]).target[:1])

            result = npu.run(12, edit, digest=True)
            assert sum(result.fired_counts) > 500
            assert (npu.phase_seconds is not None) == (on and timed)
            return result.digest, result.synaptic_injections

    assert digest(True) == digest(False)
    assert nvtx.take()


def test_time_covers_the_phases_that_are_shown(nvtx: Recorder) -> None:
    with NPU.from_connectome(seed_example(), backend="cpu", annotate=True) as npu:
        npu.time_phases(True)
        npu.run(3)
        seconds = npu.phase_seconds
        assert seconds is not None and tuple(seconds) == PHASES and all(value > 0 for value in seconds.values())


class Failing(Reference):
    """A backend in whose phase something fails."""

    def burst(self, number: int) -> BurstOutput:
        with self._phases.phase("injection", number):
            pass
        with self._phases.phase("propagation", number):
            raise KernelError("lost")


def test_a_failing_phase_leaves_nothing_open(nvtx: Recorder) -> None:
    npu = NPU.from_connectome(chain(), backend=running(Failing, ReferencePlatform()), annotate=True)
    nvtx.take()
    npu.time_phases(True)
    with pytest.raises(KernelError, match="lost"):
        npu.process_burst()
    assert nvtx.take() == [(0, "burst", 1), (1, "injection", 1), (1, "propagation", 1)]
    seconds = npu.phase_seconds
    assert seconds is not None and seconds["propagation"] == 0
    assert npu.burst_count == 0


def test_errors_of_edits_leave_nothing_open(backend_factory: BackendFactory, nvtx: Recorder) -> None:
    with NPU.from_connectome(chain(), backend=backend_factory, annotate=True) as npu:
        nvtx.take()
        with pytest.raises(CapacityError):
            npu.add_neurons(9)
        with pytest.raises(NetworkError):
            npu.get_parameter("weight")
        with pytest.raises(NetworkError):
            npu.set_parameter("npu", [0], 1)
        assert nvtx.take() == [(0, "edit add_neurons", 0), (0, "transfer get_parameter", 0), (0, "edit set_parameter", 0)]


def test_a_build_or_load_that_fails_leaves_nothing_open(nvtx: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise KernelError("no")

    with pytest.raises(KernelError):
        NPU.from_connectome(chain(), backend=fail, annotate=True)
    assert nvtx.take() == [(0, "build", 0)]
    failing = ReferencePlatform()
    monkeypatch.setattr(failing, "load", fail)
    with pytest.raises(KernelError):
        NPU.from_connectome(chain(), backend=failing, annotate=True)
    assert nvtx.take() == [(0, "build", 0), (0, "load", 0)]


def test_without_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(BackendUnavailableError, match=r"nvtx.*install .nvtx>=0.2.13"):
        NPU(4, annotate=True, backend="reference")
    with NPU.from_connectome(chain(), backend="reference") as npu:
        with pytest.raises(BackendUnavailableError, match="nvtx"):
            npu.annotate(True)
        npu.annotate(False)
        assert npu.process_burst([0]).neuron_count == 1  # nothing was half switched on


def test_the_command_line(nvtx: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ["run", "seed", "--bursts", "2", "--backend", "reference", "--quiet"]
    assert CliRunner().invoke(main, run).exit_code == 0
    assert nvtx.take() == []
    assert CliRunner().invoke(main, [*run, "--nvtx"]).exit_code == 0
    seen = [(name, number) for depth, name, number in nvtx.take() if depth == 0]
    assert seen[:2] == [("build", 0), ("load", 0)]
    assert [number for name, number in seen if name == "chunk"] == [1, 2]
    assert [number for name, number in seen if name == "burst"] == [3, 4]  # those that are timed phase by phase
    monkeypatch.setitem(sys.modules, "nvtx", None)
    refused = CliRunner().invoke(main, [*run, "--nvtx"])
    assert refused.exit_code == EXIT_STATUS[BackendUnavailableError]
    assert re.fullmatch(r"Error: annotation needs nvtx.*\n", refused.output)


def test_off_a_burst_does_not_come_near_it(backend_factory: BackendFactory) -> None:
    """No range, no context manager, no way round by phases: what costs nothing is not called."""
    called: set[tuple[str, str]] = set()

    def watch(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.add((Path(frame.f_code.co_filename).name, frame.f_code.co_name))

    with NPU.from_connectome(chain(), backend=backend_factory) as npu:
        reference = npu.backend == "reference"  # its phases are always apart
        npu.set_power_neurons([0])
        npu.process_burst()
        sys.setprofile(watch)
        try:
            npu.process_burst()
        finally:
            sys.setprofile(None)
    assert ("bursts.py", "process_burst") in called
    names = {name for _, name in called}
    assert not names & {"range", "mark", "_range", "_annotated_burst", "_launch_apart"}
    assert not any(file in ("annotate.py", "nvtx.py") for file, _ in called)
    if not reference:
        assert "_phase" not in names


def test_nvtx_itself_takes_what_we_give(tmp_path: Path) -> None:
    """The real package in a process of its own, with a library attached to it as a profiler is."""
    library, log = tmp_path / "recorder.so", tmp_path / "events"
    source = Path(__file__).with_name("nvtx_recorder.cpp")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    script = """
from gpu_npu import NPU
npu = NPU(2, backend="reference", annotate=True)
npu.add_neurons(2)
npu.process_burst([1])
npu.annotate(False)
npu.process_burst([1])
"""
    environment = {**os.environ, "NVTX_INJECTION64_PATH": str(library), "NVTX_EVENTS": str(log)}
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env=environment, cwd=Path(__file__).parents[2], timeout=120)
    phases = [line for phase in PHASES for line in (f"push gpu_npu {phase} 1", "pop gpu_npu")]
    assert log.read_text().splitlines() == [
        *("push gpu_npu build 0", "pop gpu_npu", "push gpu_npu load 0", "pop gpu_npu"),
        *("push gpu_npu edit add_neurons 0", "pop gpu_npu", "push gpu_npu edit set_power_neurons 0", "pop gpu_npu"),
        *("push gpu_npu burst 1", *phases, "mark gpu_npu fired 1", "pop gpu_npu"),
    ]


def test_the_ranges_are_told_where_they_are_made() -> None:
    told = annotate.__doc__ or ""
    assert all(name in told for name in (*PHASES, "build", "load", "burst", "fired", "edit", "transfer"))
