"""The benchmarks: what they time is right, what is wrong is not timed, and two results are compared as they should be."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import CASES, LEARNING_BACKENDS, PLASTIC_CASES

from gpu_npu import NPU
from gpu_npu.backends.base import PHASES
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.toolchain import compile_cubin, parameter_sizes
from gpu_npu.connectome import BackendUnavailableError
from profiling import bench, compare, probe, small_run, workloads

Report = dict[str, Any]


def run(path: Path, *arguments: str) -> tuple[int, Report]:
    status = bench.main(["--backend", "cpu", "--quick", "--json", str(path), *arguments])
    return status, json.loads(path.read_text())


# -- networks ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("neurons, degree", [(64, 4), (1000, 30), (5, 9)])
def test_a_silent_network(neurons: int, degree: int) -> None:
    connectome = workloads.silent(neurons, degree)
    synapses, real = connectome.synapses, min(degree, neurons)
    assert connectome.synapse_count == neurons * real
    np.testing.assert_array_equal(synapses.source, np.repeat(np.arange(neurons), real))
    rows = synapses.target.reshape(neurons, real).astype(np.int64)
    assert (np.diff(rows, axis=1) > 0).all()  # no parallel synapses, sorted
    with NPU.from_connectome(connectome, backend="reference") as npu:
        npu.inject(np.arange(neurons), 1e6)
        assert npu.run(5).fired_total == 0


def test_rows_made_in_parts_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(np.random.Generator):
        calls = 0

        def integers(self, *args: Any, **kwargs: Any) -> Any:
            Small.calls += 1
            return super().integers(*args, **kwargs)

    monkeypatch.setattr(np.random, "Generator", Small)
    monkeypatch.setattr(workloads, "SYNAPSES_AT_A_TIME", 70)
    connectome = workloads.silent(100, 10)
    assert Small.calls == 4 * 15
    np.testing.assert_array_equal(np.bincount(connectome.synapses.source), np.full(100, 10))


@pytest.mark.parametrize("fired", [1, 10, 20, 34, 50, 51, 100])
def test_exactly_so_many_fire_and_other_ones_in_turn(fired: int) -> None:
    with NPU.from_connectome(workloads.silent(100, 20), backend="reference") as npu:
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


# -- the suite ---------------------------------------------------------------------------------------------------------
def test_a_workload_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(tmp_path / "new" / "b.json", "--only", "latency", "--only", "edits", "--budget", "2", "--commit", "abc")
    assert status == 0
    assert report["golden"] == {"cases": len(CASES) + (len(PLASTIC_CASES) if "cpu" in LEARNING_BACKENDS else 0), "passed": True}
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
    with NPU.from_connectome(workloads.silent(64, 4), backend="reference") as npu:
        workloads.arm(npu, 4)
        assert first["digest"] == npu.run(bench.CHECKED_BURSTS).digest
        npu.run(5)
        assert first["events"] == npu.process_burst().synaptic_injections == 16
    assert 0 < first["burst"]["p50_us"] <= first["burst"]["p99_us"]
    assert min(first["burst"]["first_us"], first["burst"]["again_us"]) <= first["burst"]["p50_us"]
    assert first["events_per_s"] == pytest.approx(16e6 / first["run"]["p50_us"])
    assert list(first["phases_us"]) == list(PHASES)
    assert first["bytes_per_synapse"] == first["memory"]["rows"] / 256
    assert "run" not in injected
    assert set(edits["edits_per_s"]) == {f"{name} {batch}" for name in ("add", "reweight", "remove") for batch in bench.BATCHES}
    assert edits["edits_per_s"]["add 1000"] == pytest.approx(1e9 / edits["edit_us"]["add 1000"])
    told = capsys.readouterr().out
    assert "latency" in told and "remove 100000" in told


def test_every_workload_has_a_name_a_share_and_a_line() -> None:
    assert {"seed", "latency", "fly", "synthetic-0.00156", "synthetic-0.05", "million", "activity", "size-10000000", "edits"} <= set(
        bench.WORKLOADS
    )
    for work, share in bench.WORKLOADS.values():
        assert work.__doc__ and share > 0


@pytest.mark.long
def test_the_whole_suite(tmp_path: Path) -> None:
    status, report = run(tmp_path / "b.json")
    assert status == 0
    assert {row["workload"] for row in report["workloads"] if row["status"] == "ran"} >= set(bench.WORKLOADS) - {"fly"}
    activity = [row["fired"] / row["neurons"] for row in report["workloads"] if row["workload"] == "activity"]
    assert activity == [pytest.approx(part) for part in bench.ACTIVITIES]


class Liar(workloads.Executor):
    """Fires one neuron less in burst 7, at each of its runs or at every second one."""

    always = True
    seen = 0

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

    def lying(backend: str, device: int | None = None) -> Callable[[], Any]:
        return right(backend, device) if backend == "reference" else lambda: Liar(workloads.open_device(backend, device))

    monkeypatch.setattr(workloads, "maker", lying)
    monkeypatch.setattr(Liar, "always", always)
    monkeypatch.setattr(Liar, "seen", 0)
    monkeypatch.setattr(bench, "golden", lambda *_: 0)
    status, report = run(tmp_path / "b.json", "--only", "latency", "--only", "edits", "--budget", "2")
    assert status == 1
    row, other = report["workloads"]
    assert row["status"] == "failed" and said in row["problem"] and "burst" not in row
    assert other["status"] == "ran"  # the others are still of use


def test_nothing_is_timed_where_a_golden_case_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = workloads.maker
    monkeypatch.setattr(workloads, "maker", lambda *_: lambda: Liar(right("cpu")()._device))
    status, report = run(tmp_path / "b.json", "--only", "latency")
    assert status == 1
    assert report["golden"]["passed"] is False and "burst 7" in report["golden"]["problem"]
    assert report["workloads"] == [] and not report["complete"]


def test_what_there_is_no_data_for_is_skipped(tmp_path: Path) -> None:
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
    suite = bench.Suite("cpu", None, False, 100, tmp_path, seconds_a_synapse=1e-7, share=10)
    monkeypatch.setattr(bench, "host_memory", lambda: (10**12, 10**12))
    assert suite.synapses(7, 10**9) == 50_000_000  # 60 % of the share, 100 ns a synapse
    assert suite.synapses(7, 3000) == 2000
    monkeypatch.setattr(bench, "host_memory", lambda: (400_000, 10**12))
    assert suite.synapses(7, 10**9) == 5000
    suite.quick = True
    assert suite.synapses(7, 10**9) == 5
    suite.share = 0.0
    assert suite.synapses(7, 10**9) == 0


@pytest.mark.parametrize("count, down", [(0, 0), (1, 1), (4, 2), (5, 5), (9, 5), (10, 10), (19, 10), (20, 20), (999, 500)])
def test_rounded(count: int, down: int) -> None:
    assert bench.rounded(count) == down


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
    rows = probe.run(device, quick=True, budget=0.5)
    assert [row["megabytes"] for row in rows if row["probe"] == "red_u64 rows"] == [0.5, 2, 8]
    assert all(row.get("gigabytes_per_s", 0) > 0 or row["additions_per_s"] > 0 for row in rows)
    assert {row["probe"] for row in rows} == {"copy", *(f"red_u{bits} {order}" for bits in (32, 64) for order in ("random", "rows"))}


@pytest.mark.parametrize("kernel, right, wrong", [("red_u32", "1u);", "i == 5 ? 0u : 1u);"), ("copy", "quads)) (", "quads - 1)) (")])
def test_a_probe_that_does_not_do_its_work_is_no_rate(kernel: str, right: str, wrong: str) -> None:
    program = probe.program()
    text = program.sources["probe.cu"]
    assert text.count(right) == 1
    bad = type(program)({"probe.cu": text.replace(right, wrong)}, program.unit, program.kernels)
    with pytest.raises(bench.Wrong):
        probe.run(workloads.open_device("cpu", program=bad), quick=True, budget=0.1)


def test_where_the_probe_adds() -> None:
    """Anywhere at random: few places are left out; in rows: each of 1,024 ranges gets the same."""
    device, count = workloads.open_device("cpu", program=probe.program()), 2**17
    for row in (1, probe.ROW):
        sums = device.alloc(count, np.uint32)
        args = (sums, np.uint32(count), np.uint32(row), np.uint64(8 * count))
        device.launch([Launch("red_u32", args)])
        host = np.empty(count, np.uint32)
        device.download(sums, host)
        device.wait()
        assert 0.99 < np.count_nonzero(host) / count <= 1 and host.max() < 40
        if row > 1:
            assert (host.reshape(row, -1).sum(axis=1) == 8 * count // row).all()
    device.close()


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is None, reason="NVRTC is not installed")
@pytest.mark.parametrize("architecture", [75, 90, 120])
def test_the_probe_compiles_for_gpus(architecture: int) -> None:
    program = probe.program()
    cubin, _ = compile_cubin(program.sources, program.unit, architecture)
    assert parameter_sizes(cubin) == {"copy_memory": (8, 8, 8), "red_u32": (8, 4, 4, 8), "red_u64": (8, 4, 4, 8)}


@pytest.mark.parametrize("backend", ["cpu", "emulated"])
def test_the_small_run(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert small_run.main(["--backend", backend]) == 0
    assert capsys.readouterr().out == "2 golden cases, and 24 bursts with edits, are right\n"


def test_the_small_run_sees_a_difference(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = workloads.maker
    monkeypatch.setattr(bench, "golden", lambda *_: 2)
    monkeypatch.setattr(
        workloads, "maker", lambda name, _=None: right(name) if name == "reference" else lambda: Liar(right("cpu")()._device)
    )
    assert small_run.main(["--backend", "cpu"]) == 1
    assert "other spikes or another state" in capsys.readouterr().err


def test_the_small_run_meets_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_npu.backends import kernels
    from gpu_npu.backends.devices.cpu import CpuDevice

    launched: set[str] = set()
    launch = CpuDevice.launch

    def noting(device: CpuDevice, launches: Any) -> None:
        launched.update(one.kernel for one in launches)
        launch(device, launches)

    monkeypatch.setattr(CpuDevice, "launch", noting)
    assert small_run.main(["--backend", "cpu"]) == 0
    never = set(kernels.kernels()) - launched
    # The CPU takes propagate_owned, a GPU the other; injection from the device is a GPU's alone.
    assert never <= {"propagate_rows", "check_injection"}, never
