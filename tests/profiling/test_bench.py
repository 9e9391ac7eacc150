"""The benchmarks: what they time is right, what is wrong is not timed, and two results are compared as they should be."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES
from platforms import running

from gpu_npu.backends.base import PHASES, Backend
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.executor import Executor
from gpu_npu.backends.toolchain import compile_cubin, parameter_sizes, usage
from gpu_npu.connectome import BackendUnavailableError
from profiling import bench, compare, probe, small_run, workloads
from profiling.suite import CHECKED_BURSTS, Suite, limit, rounded

Report = dict[str, Any]


def run(path: Path, *arguments: str) -> tuple[int, Report]:
    status = bench.main(["--backend", "cpu", "--quick", "--json", str(path), *arguments])
    return status, json.loads(path.read_text())


# -- networks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("neurons, degree", [(64, 4), (1000, 30), (5, 9)])
def test_a_silent_network(neurons: int, degree: int) -> None:
    with workloads.silent(neurons, degree, spare=7).on("reference") as npu:
        assert (npu.get_synapse_count(), npu.synapse_capacity) == (neurons * degree, neurons * degree + 7)
        np.testing.assert_array_equal(np.bincount(npu.outgoing_synapses(np.arange(neurons)).source), np.full(neurons, degree))
        npu.inject(np.arange(neurons), 1e6)
        assert npu.run(5).fired_total == 0


@pytest.mark.parametrize("fired", [1, 10, 20, 34, 50, 51, 100])
def test_exactly_so_many_fire_and_other_ones_in_turn(fired: int) -> None:
    with workloads.silent(100, 20).on("reference") as npu:
        workloads.arm(npu, 30)
        npu.run(3)
        groups = workloads.arm(npu, fired)  # whoever was armed before is silent again
        results: list[set[int]] = []
        run = npu.run(3 * groups, lambda result: results.append(set(result.fired_neurons.tolist())))
        assert run.first_burst == 1
        assert run.fired_counts.tolist() == [fired] * (3 * groups)
        assert groups == {1: 5, 10: 5, 20: 5, 34: 2, 50: 2, 51: 1, 100: 1}[fired]
        assert results[:groups] == results[groups : 2 * groups]
        assert len(set.union(*results)) == fired * groups


def test_golden_cases_are_found_by_the_command_alone() -> None:
    """Where pytest has put no folder of helpers on the path."""
    script = "from profiling.bench import golden; print(golden('reference', None, ['plain']))"
    environment = {**os.environ, "PYTHONPATH": str(workloads.ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=workloads.ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


# -- the suite ---------------------------------------------------------------------------------------------------------
def test_a_workload_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(tmp_path / "new" / "b.json", "--only", "latency", "--only", "edits", "--budget", "2", "--commit", "abc")
    assert status == 0
    assert report["golden"] == {"cases": len(CASES), "passed": True}
    assert report["complete"] is True
    assert (report["backend"], report["commit"], report["quick"]) == ("cpu", "abc", True)
    assert set(report) >= {"device", "driver", "cuda", "cupy", "date", "kernel_digest", "numpy", "python", "machine"}
    first, injected, edits = report["workloads"]
    assert (first["name"], first["neurons"], first["synapses"], first["fired"], first["agrees_with"]) == (
        "latency",
        64,
        256,
        4,
        "reference",
    )
    with workloads.silent(64, 4).on("reference") as npu:
        workloads.arm(npu, 4)
        assert first["digest"] == npu.run(CHECKED_BURSTS, digest=True).digest
        npu.run(5)
        assert first["events"] == npu.process_burst().synaptic_injections == 16
    assert 0 < first["burst"]["p50_us"] <= first["burst"]["p99_us"]
    assert min(first["burst"]["first_us"], first["burst"]["again_us"]) <= first["burst"]["p50_us"]
    assert first["events_per_s"] == pytest.approx(16e6 / first["run"]["p50_us"])
    assert 0 < first["run"]["stamp_p50_us"] <= first["run"]["stamp_p99_us"]
    assert first["times_limit"] == pytest.approx(first["run"]["p50_us"] / first["limit_us"])
    assert {"copy", "red_u32 random", "red_u64 rows"} < {rate["probe"] for rate in report["rates"]}
    assert list(first["phases_us"]) == list(PHASES)
    assert first["bytes_per_synapse"] == first["memory"]["rows"] / 256
    assert "run" not in injected
    assert set(edits["edits_per_s"]) == {f"{name} {batch}" for name in ("add", "reweight", "remove") for batch in bench.BATCHES}
    assert edits["edits_per_s"]["add 1000"] == pytest.approx(1e9 / edits["edit_us"]["add 1000"])
    told = capsys.readouterr().out
    assert "latency" in told and "remove 100000" in told


def test_every_workload_has_a_name_a_share_and_a_line() -> None:
    sizes = {f"size-{neurons}" for neurons in (10_000, 100_000, 1_000_000, 10_000_000)}
    assert {"seed", "latency", "fly", "synthetic-0.00156", "synthetic-0.05", "million", "activity", "edits", *sizes} == set(bench.WORKLOADS)
    for work, share in bench.WORKLOADS.values():
        assert work.__doc__ and share > 0


@pytest.mark.long
def test_the_whole_suite(tmp_path: Path) -> None:
    status, report = run(tmp_path / "b.json")
    assert status == 0
    assert {row["workload"] for row in report["workloads"] if row["status"] == "ran"} >= set(bench.WORKLOADS) - {"fly"}
    activity = [row["fired"] / row["neurons"] for row in report["workloads"] if row["workload"] == "activity"]
    assert activity == [pytest.approx(part) for part in bench.ACTIVITIES]


def test_a_strategy_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(bench, "golden", lambda *_: 0)
    monkeypatch.setattr(bench, "measured_rates", lambda *_: RATES)
    platform = workloads.DevicePlatform

    def noting(device: Any, tuning: Any) -> Any:
        asked.append(tuning.propagation)
        return platform(device, tuning)

    monkeypatch.setattr(workloads, "DevicePlatform", noting)
    status, report = run(tmp_path / "b.json", "--only", "latency", "--budget", "1", "--strategy", "rows")
    assert (status, report["strategy"], report["workloads"][0]["agrees_with"]) == (0, "rows", "reference")
    assert asked[-1] == "rows"


class Liar(Executor):
    """Fires one neuron less in burst 7, at each of its runs or at every second one."""

    always = True
    seen = 0
    run = Backend.run  # burst by burst

    def burst(self, number: int) -> Any:
        out = super().burst(number)
        if number == 7:
            Liar.seen += 1
            if self.always or Liar.seen % 2:
                return type(out)(out.fired[1:], *(getattr(out, name) for name in list(out.__dataclass_fields__)[1:]))
        return out


@pytest.mark.parametrize("always, said", [(True, "fires other neurons than reference"), (False, "when they are run again")])
def test_what_is_wrong_is_not_timed(always: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = workloads.maker

    def lying(backend: str, device: int | None = None, strategy: str | None = None) -> Callable[[], Any]:
        return right(backend, device) if backend == "reference" else lambda: running(Liar, right(backend, device)())

    monkeypatch.setattr(workloads, "maker", lying)
    monkeypatch.setattr(Liar, "always", always)
    monkeypatch.setattr(Liar, "seen", 0)
    monkeypatch.setattr(bench, "golden", lambda *_: 0)
    monkeypatch.setattr(bench, "measured_rates", lambda *_: RATES)
    status, report = run(tmp_path / "b.json", "--only", "latency", "--only", "edits", "--budget", "2")
    assert status == 1
    row, other = report["workloads"]
    assert row["status"] == "failed" and said in row["problem"] and "burst" not in row
    assert other["status"] == "ran"  # the others are still of use


def test_nothing_is_timed_where_a_golden_case_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = workloads.maker
    monkeypatch.setattr(workloads, "maker", lambda *_: lambda: running(Liar, right("cpu")()))
    monkeypatch.setattr(bench, "measured_rates", lambda *_: RATES)
    status, report = run(tmp_path / "b.json", "--only", "latency")
    assert status == 1
    assert report["golden"]["passed"] is False and "burst 7" in report["golden"]["problem"]
    assert report["workloads"] == [] and not report["complete"]


def test_what_there_is_no_data_for_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "golden", lambda *_: 0)
    monkeypatch.setattr(bench, "measured_rates", lambda *_: RATES)
    status, report = run(tmp_path / "b.json", "--only", "fly", "--data", str(tmp_path))
    assert status == 0
    assert report["workloads"][0]["status"] == "skipped" and "flywire_right.npz" in report["workloads"][0]["problem"]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise BackendUnavailableError("there is none")

    monkeypatch.setattr("gpu_npu.backends.devices.cuda.CudaDevice", fail)
    assert bench.main(["--json", str(tmp_path / "b.json")]) == 2
    assert capsys.readouterr().err == "Error: there is none\n" and not list(tmp_path.iterdir())


def test_sizes_follow_time_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = [10**12]
    device = types.SimpleNamespace(free_and_total=lambda: (free[0], 10**12), close=lambda: None)
    monkeypatch.setattr(workloads, "open_device", lambda *_: device)
    suite = Suite("cpu", None, False, 100, tmp_path, [], seconds_a_synapse=1e-7, share=10)
    assert suite.synapses(7, 10**9) == 50_000_000  # 60 % of the share, 100 ns a synapse
    assert suite.synapses(7, 3000) == 2000
    free[0] = 160_000
    assert suite.synapses(7, 10**9) == 5000  # 80 % of the memory, 16 bytes a synapse
    suite.share = 0.0
    assert suite.synapses(7, 10**9) == 0
    suite.whole = True
    assert suite.synapses(7, 10**9) == 5000  # whatever the time
    suite.quick = True
    assert suite.synapses(7, 10**9) == 5
    free[0] = 50
    assert suite.synapses(7, 10**9) == 2


def test_what_a_synapse_takes_is_measured_before_sizes_are_chosen(tmp_path: Path) -> None:
    suite = Suite("cpu", None, False, 100, tmp_path, [], share=1e9)
    assert suite.synapses(7, 1000) == 1000
    guess = suite.seconds_a_synapse
    assert 0 < guess < 1e-3
    with suite.loaded(lambda: workloads.silent(10, 1), {}):
        assert suite.seconds_a_synapse == guess  # so small a network takes longer a synapse


RATES: list[Report] = [
    {"probe": "red_u64 random", "megabytes": 0.5, "additions_per_s": 2e11},
    {"probe": "red_u64 random", "megabytes": 8, "additions_per_s": 1e11},
    {"probe": "red_u32 rows", "megabytes": 8, "additions_per_s": 1.2e11},
    {"probe": "red_u32 merge", "megabytes": 8, "additions_per_s": 9e11},
    {"probe": "copy", "megabytes": 8, "gigabytes_per_s": 1000.0},
]


@pytest.mark.parametrize(
    "neurons, events, microseconds, red",
    [
        (0, 0, 10, 2e11),
        (65_536, 120_000, 10 + 1 + 4.194304, 2e11),  # 0.5 MB of accumulators
        (65_537, 120_000, 10 + 120_000 / 72e3 + 4.194368, 1.2e11),  # a byte more: the next footprint measured, its best order
        (10_000_000, 0, 10 + 640, 1.2e11),  # more than any
    ],
)
def test_what_a_burst_may_take(neurons: int, events: float, microseconds: float, red: float) -> None:
    may, rate = limit({"neurons": neurons, "events": events}, RATES)
    assert may == pytest.approx(microseconds) and rate == red


def test_rates_are_of_a_whole_file_or_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rates.json"
    rows = [{**rate, "status": "ran"} for rate in RATES]
    file.write_text(json.dumps({"rows": [*rows, {"probe": "graph", "status": "unavailable", "problem": "none"}]}))
    assert bench.measured_rates("cpu", None, True, file) == rows
    measured = bench.measured_rates("cpu", None, True, None)
    assert measured[-1]["probe"] == "copy" and len(measured) == 15
    monkeypatch.setattr(probe, "run", lambda *_, **__: ["measured"])
    file.write_text(json.dumps({"rows": rows[:3]}))  # it was cut short
    for there in (file, tmp_path / "none"):
        assert bench.measured_rates("cpu", None, True, there) == ["measured"]


@pytest.mark.parametrize("count, down", [(0, 0), (1, 1), (4, 2), (5, 5), (9, 5), (10, 10), (19, 10), (20, 20), (999, 500)])
def test_rounded(count: int, down: int) -> None:
    assert rounded(count) == down


# -- the comparison ----------------------------------------------------------------------------------------------------
def report(**changes: Any) -> Report:
    row = {"name": "w", "status": "ran", "neurons": 10, "synapses": 100, "fired": 1.0, "digest": "d", "events_per_s": 1e9}
    row |= {"burst": {"p50_us": 100.0, "p99_us": 120.0, "noise": 0.02}, "bytes_per_synapse": 6.0, "load_s": 1.0} | changes.pop("row", {})
    return {"commit": "c", "date": "t", "backend": "cuda", "device": "GPU", "workloads": [row], **changes}


def compared(tmp_path: Path, before: Report, after: Report, *arguments: str) -> int:
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file, content in zip(files, (before, after), strict=True):
        file.write_text(json.dumps(content))
    return compare.main([*map(str, files), *arguments])


def test_changes_are_marked_beyond_the_limit() -> None:
    faster = report(row={"burst": {"p50_us": 80.0, "p99_us": 125.0, "noise": 0.01}, "events_per_s": 8e8})
    found = {change.figure: (round(change.ratio, 3), change.mark) for change in compare.changes(report(), faster, 0.1)}
    assert found == {
        "burst.p50_us": (1.25, "!!"),
        "burst.p99_us": (0.96, ""),
        "events_per_s": (0.8, "!"),
        "bytes_per_synapse": (1.0, ""),
        "load_s": (1.0, ""),
    }
    noisy = report(row={"burst": {"p50_us": 80.0, "p99_us": 125.0, "noise": 0.2}})
    assert {change.figure: change.mark for change in compare.changes(report(), noisy, 0.1)}["burst.p50_us"] == "!"
    assert {change.figure: change.mark for change in compare.changes(report(), faster, 0.3)}["burst.p50_us"] == ""


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, report(), report(device="GPU Y", row={"synapses": 200})) == 0
    told = capsys.readouterr().out
    assert "device: GPU before, GPU Y after" in told and "w is not compared: other synapses" in told and "p50" not in told
    assert compared(tmp_path, report(), report(row={"digest": "e"})) == 1
    assert "w fires other neurons than before" in capsys.readouterr().out
    assert compared(tmp_path, report(), report(row={"status": "failed"})) == 1
    assert "w ran before and does not any more" in capsys.readouterr().out
    assert compared(tmp_path, {"benchmarks": report()}, report()) == 0
    assert "burst.p50_us" in capsys.readouterr().out
    assert compared(tmp_path, {"x": 1}, report()) == 2
    assert "before.json has no workloads" in capsys.readouterr().err


# -- the probe, the small run -------------------------------------------------------------------------------------------
@pytest.fixture(params=["cpu", "emulated"])
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    opened = workloads.open_device(request.param, program=probe.program())
    yield opened
    opened.close()


def test_the_probe(device: Any) -> None:
    saved: list[int] = []
    rows = probe.run(device, quick=True, budget=0.5, save=lambda rows: saved.append(len(rows)))
    names = [row["probe"] for row in rows]
    assert saved == list(range(1, len(rows) + 1))  # each as it comes
    assert list(dict.fromkeys(names)) == list(probe.PREDICTED)  # all, the most important first
    assert [row["megabytes"] for row in rows if row["probe"] == "red_u64 rows"] == [0.5, 2, 8]
    for row in rows:
        if row["probe"] == "graph":
            assert (row["status"], row["problem"], probe.figure(row)) == ("unavailable", "this device has no graphs", None)
        else:
            found = probe.figure(row)
            assert row["status"] == "ran" and found is not None and found[1] > 0
        assert "predicted_h200" not in row  # of a GPU alone


def test_every_footprint_has_a_prediction() -> None:
    class Gpu:
        name = "cuda"

        def free_and_total(self) -> tuple[int, int]:
            return 2**40, 2**40

    wanted = [(name, size) for name, size, _ in probe.probes(Gpu(), quick=False)]  # type: ignore[arg-type]
    assert {(name, size) for name, sizes in probe.PREDICTED.items() for size in sizes} == set(wanted)
    assert all(size in probe.MEGABYTES for name, size in wanted if size is not None)


def test_the_notes_say_where_each_prediction_comes_from() -> None:
    notes = (workloads.ROOT / "profiling" / "NOTES.md").read_text(encoding="utf-8")
    for name in probe.PREDICTED:
        assert name.split()[0] in notes, name


PLANTED = {
    "red": ("atomicAdd(sums + place(i, n, row), (T)1);", "if (i != 5) atomicAdd(sums + place(i, n, row), (T)1);"),
    "shared": ("T* at = slice + __umulhi(mixed(i), n);", "if (i == 5) continue; T* at = slice + __umulhi(mixed(i), n);"),
    "meet": ("grid_barrier(arrived);", "for (u64 t = device_clock(); blockIdx.x && !i && device_clock() < t + 1000000;) {}"),
    "count_launches": ("told[0] = total[0] += 1;", "told[0] = total[0] = 1;"),
    "told": ("= (u32)i + 1;", "= (u32)i;"),
    "clock": ("readings[i] = device_clock();", "readings[i] = 7;"),
    "read": ("if (i + k * step < quads)", "if (i + k * step < quads - 1)"),
    "copy": ("i < quads; i += thread_count()) ((Quad*)out)", "i < quads - 1; i += thread_count()) ((Quad*)out)"),
}


@pytest.fixture(scope="module")
def planted() -> Iterator[CpuDevice]:
    """A device on which every probe does a little less than it says."""
    program = probe.program()
    text = program.sources["probe.cu"]
    for right, wrong in PLANTED.values():
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    opened = CpuDevice(workers=2, program=type(program)({**program.sources, "probe.cu": text}, program.unit, program.kernels))
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PLANTED)
def test_a_probe_that_does_not_do_its_work_is_no_rate(name: str, planted: CpuDevice) -> None:
    probes = {"meet": probe.barrier, "count_launches": probe.launch_time}
    for wanted, _, probed in probe.probes(planted, quick=True):
        probes.setdefault(wanted.partition("_")[0].partition(" ")[0], probed)
    with pytest.raises(bench.Wrong):
        probes[name](planted, 0.01)


def test_where_the_probe_adds() -> None:
    """One behind the other: each place the same; at random: few places left out; in rows: each of 1,024 ranges the same."""
    device, count = workloads.open_device("cpu", program=probe.program()), 2**17
    for order, row in probe.ORDERS.items():
        sums = device.alloc(count, np.uint32)
        args = (sums, np.uint32(count), np.uint32(row), np.uint64(8 * count))
        device.launch([Launch("red_u32", args)])
        host = device.fetched(sums, count)
        if order == "merge":
            assert (host == 8).all()
            continue
        assert 0.99 < np.count_nonzero(host) / count <= 1 and host.max() < 40
        if order == "rows":
            assert (host.reshape(row, -1).sum(axis=1) == 8 * count // row).all()
    device.close()


def test_the_probe_s_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    assert probe.main(["--backend", "cpu", "--quick", "--budget", "0.2", "--commit", "abc", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert (report["benchmark"], report["commit"], len(report["rows"])) == ("probe", "abc", 26)
    told = capsys.readouterr().out
    assert "G additions/s" in told and "unavailable" in told


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="NVRTC is not installed")
@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_the_probe_compiles_for_gpus(architecture: int) -> None:
    program = probe.program()
    cubin, log = compile_cubin(program.sources, program.unit, architecture)
    sizes = {"1": 1, "2": 2, "4": 4, "8": 8}
    for name, sized in parameter_sizes(cubin).items():
        assert sized == tuple(8 if code.startswith("*") else sizes[code[1]] for code in program.kernels[name].arguments)
    assert set(parameter_sizes(cubin)) == set(program.kernels)
    assert not any(found.spill_loads or found.spill_stores for found in usage(log).values())


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_the_small_run(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert small_run.main(["--backend", backend]) == 0
    assert capsys.readouterr().out == "2 golden cases, and 79 bursts with edits and plasticity, are right\n"


def test_the_small_run_sees_a_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = workloads.maker
    monkeypatch.setattr(bench, "golden", lambda *_: 2)
    monkeypatch.setattr(workloads, "maker", lambda name, *_: right(name) if name == "reference" else lambda: running(Liar, right("cpu")()))
    assert small_run.main(["--backend", "cpu"]) == 1
    assert "other spikes or another state" in capsys.readouterr().err


def test_the_small_run_meets_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_npu.backends import kernels

    launched: set[str] = set()
    launch = CpuDevice.launch

    def noting(device: CpuDevice, launches: Any) -> None:
        launched.update(one.kernel for one in launches)
        launch(device, launches)

    monkeypatch.setattr(CpuDevice, "launch", noting)
    assert small_run.main(["--backend", "cpu"]) == 0
    never = set(kernels.kernels()) - launched
    # Injection from the device is a GPU's alone; of what propagation chooses only tests and benchmarks ask.
    assert never <= {"check_injection", "choice_of_propagation"}, never


def test_the_file_of_figures_is_no_input_and_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before anything is measured."""
    rates = tmp_path / "rates.json"
    rates.write_text("{}")
    for arguments, told in (
        (["--rates", str(rates), "--json", str(rates)], "rates.json: --json would write over --rates"),
        (["--json", str(tmp_path)], "this is a folder"),
        (["--json", "/dev/null"], "this is a device"),
    ):
        with pytest.raises(SystemExit) as caught:
            bench.main(arguments)
        assert caught.value.code == 2 and told in capsys.readouterr().err
    assert rates.read_text() == "{}"
    workloads.write(rates, {"a": 1})
    assert json.loads(rates.read_text()) == {"a": 1} and [path.name for path in tmp_path.iterdir()] == ["rates.json"]
