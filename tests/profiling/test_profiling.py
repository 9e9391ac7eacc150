"""The scripts that start profilers, as far as that goes without a GPU: what they would run, and that it runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gpu_npu import NPU, Digest
from gpu_npu.backends.base import PHASES
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load
from profiling import ncu_kernels, nsys_timeline, tool, workload

ROOT = Path(__file__).parents[2]
README = (ROOT / "profiling" / "README.md").read_text(encoding="utf-8")
SMALL = ("--backend", "reference", "--bursts", "3", "--warm-up", "2")


def test_nsys_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert nsys_timeline.main(["--dry-run", "--output", "my report", "random", "--neurons", "5000", "--fired", "10"]) == 0
    profile, stats = capsys.readouterr().out.splitlines()
    assert profile == (
        "nsys profile --trace=cuda,nvtx --sample=none --cpuctxsw=none --cuda-memory-usage=true --force-overwrite=true "
        f"'--output=my report' {shlex.quote(sys.executable)} -m profiling.workload random --neurons 5000 --fired 10"
    )
    assert stats == (
        "nsys stats --report=nvtx_pushpop_sum,nvtx_gpu_proj_sum,nvtx_kern_sum,cuda_gpu_kern_sum,cuda_gpu_mem_time_sum,cuda_api_sum "
        "--force-export=true 'my report.nsys-rep'"
    )


def test_ncu_command_lines(capsys: pytest.CaptureFixture[str]) -> None:
    sections = "--section=SpeedOfLight --section=MemoryWorkloadAnalysis --section=Occupancy --section=LaunchStats --section=WarpStateStats"
    end = f"--export=kernels --force-overwrite {shlex.quote(sys.executable)} -m profiling.workload seed --device 1"
    assert ncu_kernels.main(["--dry-run", "seed", "--device", "1"]) == 0
    profile, show = capsys.readouterr().out.splitlines()
    assert profile.startswith(f"ncu --nvtx --nvtx-include=gpu_npu@burst/ {sections} --metrics=gpu__time_duration.sum,dram__bytes_read.sum,")
    assert profile.endswith(f" --cache-control=none --clock-control=none {end}")
    assert show == "ncu --import=kernels.ncu-rep --csv --page=raw --print-units=base"
    assert ncu_kernels.main(["--dry-run", "--phase", "propagation", "--full", "seed", "--device", "1"]) == 0
    profile = capsys.readouterr().out.splitlines()[0]
    assert profile.startswith("ncu --nvtx --nvtx-include=gpu_npu@propagation/ --set=full --metrics=")
    assert profile.endswith(end)
    assert set(ncu_kernels.PHASES) == set(PHASES) - {"transfer"}  # no kernel there


STALLED = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
NAMES = (
    "ID", "Kernel Name", "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum", "launch__registers_per_thread",
    "sm__warps_active.avg.pct_of_peak_sustained_active", "sm__maximum_warps_per_active_cycle_pct",
    "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    *map(STALLED.format, ("long_scoreboard", "lg_throttle", "selected", "wait", "barrier", "long_scoreboard_not_issued")),
)  # fmt: skip
UNITS = ("", "", "nsecond", "byte", "byte", "register/thread", "%", "%", "%", *6 * ("",))
LAUNCHES = (
    ("0", "scan(State)", "900", "1,000", "0", "20", "10", "25", "3.5", "1", "0", "1", "2", "0.5", "0"),
    ("1", "deliver(State)", "50,000", "8,000,000", "2,000,000", "40", "60.4", "75", "81", "9.5", "30", "1", "2", "0.25", "99"),
    ("2", "deliver(State)", "52,000", "8,000,000", "2,000,000", "40", "60.4", "75", "83", "9.5", "30", "1", "2", "0.25", "99"),
)


def raw() -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line) for line in (NAMES, UNITS, *LAUNCHES)) + "\n"


def test_the_table_of_kernels() -> None:
    first, second = ncu_kernels.figures(ncu_kernels.raw_page(f"==PROF== before\n{raw()}"))
    assert (first["kernel"], first["launches"], first["us"], first["dram_bytes"]) == ("deliver", 2, 50.0, 10e6)
    assert (first["registers"], first["occupancy_pct"], first["possible_occupancy_pct"], first["memory_pct"]) == (40, 60.4, 75, 81)
    assert first["compute_pct"] is None  # what ncu did not say
    assert list(first["stalls"].items()) == [("lg_throttle", 30), ("long_scoreboard", 9.5), ("wait", 2)]
    assert (second["kernel"], second["us"], list(second["stalls"])[0]) == ("scan", 0.9, "wait")
    assert ncu_kernels.figures({}) == [] == list(ncu_kernels.raw_page("nothing"))


def test_ncu_s_report_is_told_as_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page").write_text(raw())
    stand_in = tmp_path / "ncu"
    stand_in.write_text(f'#!/bin/sh\ncase "$1" in --import=*) cat {tmp_path}/page;; esac\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert ncu_kernels.main(["seed"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"deliver .* 50\.00 .* 10\.00 .* 81\.0 .* 40 .* 60 of 75 .* lg throttle 30\.0", told)
    (tmp_path / "page").write_text("==WARNING== No kernels were profiled.\n")
    assert ncu_kernels.main(["seed"]) == 1
    assert "names no kernel" in capsys.readouterr().err


@pytest.mark.parametrize("script", [nsys_timeline, ncu_kernels])
def test_without_the_tool(script: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert script.main(["seed"]) == tool.NOT_FOUND == 127  # type: ignore[attr-defined]
    out, error = capfd.readouterr()
    assert not out and re.fullmatch(r"Error: (nsys|ncu) is not on PATH: .*\n", error)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nothing.npz"], "there is no file nothing.npz"),
        (["seed", "--inject", "nothing.npz"], "there is no file nothing.npz"),
        (["seed", "--bursts", "few"], "--bursts"),
        (["seed", "--set", "treshold=3"], "'treshold' is not one of"),
        (["seed", "--set", "refractory_period=2.5"], "'2.5' is not a value of refractory_period"),
        (["random", "--neurons", "100", "--fired", "21"], "--fired 21"),
        (["seed", "--phase", "dynamics"], "--phase"),
        ([], "NETWORK"),
    ],
)
def test_a_wrong_option_never_reaches_the_profiler(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        nsys_timeline.main(["--dry-run", *arguments])
    assert left.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_tool_gets_what_was_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for nsys that notes its arguments, and fails at the second command or the first."""
    stand_in = tmp_path / "nsys"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/noted\n[ "$1" = profile ]\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert nsys_timeline.main(["seed"]) == 1  # the status of the second
    assert [line.split()[0] for line in (tmp_path / "noted").read_text().splitlines()] == ["profile", "stats"]
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/noted\nexit 9\n')
    assert nsys_timeline.main(["seed"]) == 9  # and no stats of a report that is not there
    assert len((tmp_path / "noted").read_text().splitlines()) == 3


def test_the_workload_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert workload.main(["seed", *SMALL]) == 0
    with NPU.from_connectome(seed_example(), backend="reference") as npu:
        npu.run(2)
        assert capsys.readouterr().out == npu.run(3, digest=True).digest + "\n"


def test_the_workload_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, stimulus = tmp_path / "net.npz", tmp_path / "stim.npz"
    np.savez(file, indptr=[0, 2, 3, 3], indices=[1, 2, 2], count=[5, 5, 5], sign=[1, 1, -1])
    np.savez(stimulus, stim=np.array([0, 1]))
    given = ["--set", "threshold=3.5", "--set", "refractory_period=1", "--inject", str(stimulus), "--potential", "4"]
    assert workload.main([str(file), *given, *SMALL]) == 0
    digest = Digest()
    with NPU.from_connectome(load(file, threshold=3.5, refractory_period=1), backend="reference") as npu:
        for burst in range(1, 6):
            npu.inject([0, 1], 4.0)
            result = npu.process_burst()
            if burst > 2:
                digest.update(result.burst, result.fired_neurons)
        assert npu.fire_ledger[5].size > 0
    assert capsys.readouterr().out == digest.hexdigest() + "\n"


def test_an_exact_number_fires_in_a_random_network(capsys: pytest.CaptureFixture[str]) -> None:
    connectome, power = workload.network(workload.parse(["random", "--neurons", "500", "--degree", "5", "--fired", "20"]))
    with NPU.from_connectome(connectome, backend="reference") as npu:
        npu.set_power_neurons(power)
        assert npu.run(12).fired_counts.tolist() == [20] * 12


def test_errors_of_the_workload_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.npz"
    file.write_bytes(b"no archive")
    assert workload.main([str(file), *SMALL]) == 1
    assert re.fullmatch(r"Error: .*\n", capsys.readouterr().err)


def test_the_scripts_start_as_the_readme_says() -> None:
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S) for line in block.splitlines()]
    shown = [shlex.split(line)[1:] for line in lines if line.startswith("python -m profiling.")]
    assert len(shown) == 4
    for command in shown:
        at = 2  # behind -m MODULE
        dry = [sys.executable, *command[:at], "--dry-run", *command[at:]]
        assert len(subprocess.run(dry, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()) == 2
    inside = re.findall(r"-m (profiling\.\w+) --output /reports/\w+ (.*)$", README, re.M)
    assert [module for module, _ in inside] == ["profiling.nsys_timeline", "profiling.ncu_kernels"]


def test_the_readme_names_what_there_is() -> None:
    for module in re.findall(r"profiling\.(\w+)", README):
        assert (ROOT / "profiling" / f"{module}.py").is_file(), module
    for metric in re.findall(r"`((?:dram|lts)__[\w.]+)`", README):
        assert metric in ncu_kernels.METRICS, metric
    for phase in PHASES:
        assert f"`{phase}`" in README
    dockerfile = ROOT / "Dockerfile"
    if dockerfile.is_file():
        stages = re.findall(r"^FROM .* AS (\S+)", dockerfile.read_text(encoding="utf-8"), re.M | re.I)
        assert set(re.findall(r"--target (\S+)", README)) <= set(stages)
