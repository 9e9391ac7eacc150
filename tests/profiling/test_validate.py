"""The validation, without a GPU: a planted bug turns it red, nothing that did not run counts, and every end is told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_cases import CASES

from gpu_npu import doctor
from gpu_npu.doctor import Validation
from profiling import validate, workload, workloads
from profiling.validate import Job, Report

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = "settle<TOGETHER>(1.0f - leak)", "settle<TOGETHER>(1.0f + leak)"
"""The leak of a potential, and its opposite."""
GOLDEN = len(CASES)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    work = tmp_path / "work"
    work.mkdir()
    return Job("cuda", tmp_path / "data", "abc", {**os.environ, "PYTHONPATH": str(ROOT)}, work)


# -- the tests, really run ---------------------------------------------------------------------------------------------
def validated(root: Path, out: Path, *arguments: str) -> tuple[int, Report]:
    command = [sys.executable, "-m", "profiling.validate", "--backend", "cpu", "--commit", "abc", "--out", str(out), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # a copy has no shared data beside it
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env={**environment, "PYTHONPATH": str(root)})
    (path,) = out.glob("*.json")
    assert path.name.startswith("rehearsal-") and path.name.endswith("-abc.json"), done.stderr
    return done.returncode, json.loads(path.read_text())


def test_a_bug_planted_in_a_kernel_turns_it_red(tmp_path: Path) -> None:
    """The real command in a copy of the repository, first as it is, then with one operation of the arithmetic changed."""
    root = tmp_path / "copy"
    for folder in ("gpu_npu", "kernels", "profiling", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", root)
    few = ("--only", "tests", "--budget", "500", *(f"--tests={file}" for file in validate.NEEDED_TESTS))
    status, report = validated(root, tmp_path / "right", *few)
    tests = report["stages"]["tests"]
    assert status == 1  # as nothing else was run
    assert (tests["status"], tests["failed"], report["ok"]) == ("ran", 0, False)
    assert report["tests"]["files"]["tests/golden/test_golden.py"]["passed"] == GOLDEN
    assert tests["passed"] > 100

    physics = root / "kernels" / "physics.cuh"
    text = physics.read_text()
    assert text.count(RIGHT) == 1
    physics.write_text(text.replace(RIGHT, WRONG))
    status, report = validated(root, tmp_path / "wrong", *few)
    tests = report["stages"]["tests"]
    assert status == 1
    assert (tests["status"], report["ok"], report["passed"]) == ("failed", False, False)
    assert tests["failed"] == len(report["tests"]["failures"]) > 10
    assert any(name.startswith("tests/golden/test_golden.py::test_case[cpu-") for name in report["tests"]["failures"])


def test_every_test_that_takes_a_backend_is_taken_once_for_cuda() -> None:
    """By name: all of [cuda...] and no others, of which the files that are needed have some."""
    base = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not long", "-p", "no:cacheprovider"]
    select = ["-p", "profiling.selection", "--only-backend=cuda", *validate.test_files()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([*base, *select], cwd=ROOT, capture_output=True, text=True, env=environment, check=True).stdout
    chosen = {line for line in out.splitlines() if "::" in line}
    assert len(chosen) > 100
    assert all("[cuda" in name or "-cuda" in name for name in chosen)
    for file in validate.NEEDED_TESTS:
        assert any(name.startswith(f"{file}::") for name in chosen), file
    out = subprocess.run([*base, "tests"], cwd=ROOT, capture_output=True, text=True, env=environment).stdout
    everything = {line for line in out.splitlines() if "::" in line and ("[cuda]" in line or "[cuda-" in line)}
    assert everything <= chosen


def test_no_test_is_no_success(job: Job) -> None:
    none = Job("abacus", job.data, job.commit, job.environment, job.work)
    verdict, brought = validate.tests(none, 100)
    assert (verdict["status"], verdict["passed"]) == ("failed", 0)
    assert brought["tests"]["files"] == {}


def test_a_file_in_which_nothing_ran_is_no_success(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "test_files", lambda: ["tests/golden/test_golden.py"])
    verdict, _ = validate.tests(Job("cpu", job.data, job.commit, job.environment, job.work), 100)
    assert (verdict["status"], verdict["exit"], verdict["passed"]) == ("failed", 0, GOLDEN)
    assert verdict["problem"] == f"no test passed in {', '.join(validate.NEEDED_TESTS[1:])}"


def test_a_gpu_that_is_not_there_fails(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "test_files", lambda: ["tests/golden/test_golden.py"])
    hidden = Job(job.backend, job.data, job.commit, {**job.environment, "CUDA_VISIBLE_DEVICES": "-1"}, job.work)
    verdict, brought = validate.tests(hidden, 100)
    assert (verdict["status"], verdict["passed"], verdict["skipped"]) == ("failed", 0, 0)
    assert verdict["failed"] == len(brought["tests"]["failures"]) == GOLDEN


def outcomes(folder: Path, *options: str) -> dict[str, str]:
    path = folder / "outcomes"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "profiling.selection", "--only-backend=cpu", f"--outcomes={path}", *options, "."]
    subprocess.run(command, cwd=folder, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return {one["test"].rpartition("::")[2]: one["outcome"] for one in map(json.loads, path.read_text().splitlines())}


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_outcomes_are_written_as_they_come(workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("""
import os, pytest
@pytest.fixture
def broken(): raise ValueError
@pytest.mark.parametrize("b", ["cpu", "cpu-2", "cuda", "cpus", 7])
def test_kind(b): pass
@pytest.mark.parametrize("b", ["cpu"])
def test_fails(b): assert 0
@pytest.mark.parametrize("b", ["cpu"])
def test_skips(b): pytest.skip("no")
@pytest.mark.parametrize("b", ["cpu"])
def test_error(b, broken): pass
@pytest.mark.xfail
@pytest.mark.parametrize("b", ["cpu"])
def test_known(b): assert 0
def test_no_backend(): assert 0
""")
    expected = {"test_kind[cpu]": "passed", "test_kind[cpu-2]": "passed", "test_fails[cpu]": "failed", "test_skips[cpu]": "skipped"}
    expected |= {"test_error[cpu]": "failed", "test_known[cpu]": "passed"}
    assert outcomes(tmp_path, *workers) == expected
    (tmp_path / "test_unreadable.py").write_text("import nothing_of_the_kind")
    assert outcomes(tmp_path, "--continue-on-collection-errors", *workers) == {**expected, "test_unreadable.py": "failed"}


# -- processes ---------------------------------------------------------------------------------------------------------
def test_a_time_limit_ends_all_that_was_started(tmp_path: Path) -> None:
    late = tmp_path / "late"
    start = time.perf_counter()
    done = validate.execute(["sh", "-c", f"(sleep 2; touch {late}) & echo begun; sleep 60"], 0.5, os.environ)
    assert (done.status, done.output) == (None, "begun\n")
    verdict = done.verdict(0.5)
    assert verdict["status"] == "failed" and "not done" in verdict["problem"] and verdict["tail"] == "begun\n"
    time.sleep(max(0.0, start + 2.5 - time.perf_counter()))
    assert not late.exists()
    done = validate.execute(["sh", "-c", "echo out; echo error >&2; exit 3"], 60, os.environ)
    assert (done.status, done.output, done.verdict(60)["status"]) == (3, "out\nerror\n", "failed")


def stand_in(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool on PATH that notes its arguments and then does this."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" > {folder}/arguments\n{text}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "arguments"


@pytest.mark.parametrize(
    "text, status, red, problem",
    [
        ("echo '========= ERROR SUMMARY: 0 errors'", "ran", None, None),
        ("echo '========= ERROR SUMMARY: 3 errors'; exit 86", "failed", True, "racecheck found something"),
        ("echo '========= ERROR SUMMARY: 0 errors'; exit 1", "failed", True, "the run under it failed"),
        ("true", "failed", None, "compute-sanitizer said nothing"),
        ("echo '========= Error: Device not supported'; exit 1", "unavailable", None, "compute-sanitizer cannot work on this machine"),
        ("sleep 60", "failed", None, "not done after its 1 s"),
    ],
)
def test_what_a_sanitizer_says(
    text: str, status: str, red: bool | None, problem: str | None, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = stand_in(tmp_path / "bin", "compute-sanitizer", text, monkeypatch)
    verdict, _ = validate.sanitizer("racecheck")(job, 1)
    assert (verdict["status"], verdict.get("red"), verdict.get("problem")) == (status, red, problem)
    assert arguments.read_text().startswith("--tool=racecheck --error-exitcode=86 ")
    assert arguments.read_text().endswith(" -m profiling.small_run --backend=cuda\n")


RAW = """==PROF== Connected to process 1
0f3a2b
"ID","Process ID","Kernel Name","gpu__time_duration.sum","lts__t_sectors_op_red.sum"
"","","","ns","sector"
"0","1","propagate_rows(State)","1,000.5","10"
"1","1","propagate_rows(State)","3,000.5","n/a"
"2","1","propagate_rows(State)","2,000.5","30"
"3","1","scan_fired(State)","7","1"
"""


def test_counters_are_read(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = stand_in(tmp_path / "bin", "ncu", f"cat <<'END'\n{RAW}END", monkeypatch)
    verdict, brought = validate.metrics(job, 60)
    assert verdict["status"] == "ran"
    told = brought["metrics"]
    assert told["propagate_rows"]["gpu__time_duration.sum"] == {"unit": "ns", "median": 2000.5}
    assert told["propagate_rows"]["launches"] == 3
    assert told["propagate_rows"]["lts__t_sectors_op_red.sum"]["median"] == 10
    assert told["scan_fired"]["gpu__time_duration.sum"]["median"] == 7
    assert [(row["kernel"], row["us"]) for row in brought["kernels"]] == [("propagate_rows", 2.0005), ("scan_fired", 0.007)]
    given = arguments.read_text()
    assert "--clock-control=none" in given and "|run_bursts|" in given and "nvtx" not in given
    assert "--section=WarpStateStats" in given and "--print-units=base" in given
    assert workload.parse(validate.NCU_NETWORK).plain  # it needs no package nvtx
    for text, status in (("true", "failed"), ("echo ERR_NVGPUCTRPERM; exit 1", "unavailable"), ("exit 4", "failed")):
        stand_in(tmp_path / "bin", "ncu", text, monkeypatch)
        assert validate.metrics(job, 60)[0]["status"] == status


def test_tools_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(validate, "PLACES", (str(tmp_path / "cuda"), str(tmp_path / "nsight")))
    assert validate.tool("ncu") is None
    assert validate.metrics(job, 1)[0]["status"] == validate.sanitizer("memcheck")(job, 1)[0]["status"] == "unavailable"
    for place in ("nsight/2024.1/ncu", "nsight/2025.3/ncu", "cuda/compute-sanitizer"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    assert validate.tool("ncu") == str(tmp_path / "nsight/2025.3/ncu")
    assert validate.tool("compute-sanitizer") == str(tmp_path / "cuda/compute-sanitizer")


def test_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in validate.environment(None)
    assert validate.environment(2)["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-x")
    assert validate.environment(1)["CUDA_VISIBLE_DEVICES"] == "GPU-x"
    assert validate.environment(None)["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


# -- what the end says -------------------------------------------------------------------------------------------------
FACTS = {"device": "GPU 0, X", "date": "2031-05-01T10:00:00Z", "commit": "abc1234", "kernel_digest": doctor.kernel_digest()}
RATES = {
    "rows": [{"probe": "copy", "megabytes": 8, "gigabytes_per_s": 1000.0}, {"probe": "red_u32", "megabytes": 8, "additions_per_s": 1e11}]
}
IN_RUN = {"p50_us": 30.0, "stamp_p50_us": 30.0, "stamp_p99_us": 60.0}
TIMED = {
    "workloads": [
        {"name": "w", "neurons": 1000, "events": 6000, "burst": {"p50_us": 10.1}},
        {"name": "x", "neurons": 1000, "events": 6000, "burst": {"p50_us": 40.0}, "run": IN_RUN},
        {"name": "edits", "neurons": 1},
    ]
}


def stage(status: str, brought: Report | None = None, **more: Any) -> tuple[Callable[..., Any], float]:
    return lambda *_: ({"status": status, "seconds": 1.0, "tail": "", "passed": 1, "failed": 0, "skipped": 0, **more}, brought or {}), 1


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str = "cuda", **changed: Any) -> tuple[int, Path, Report]:
    stages = {name: stage("ran") for name in validate.STAGES}
    stages |= {"rates": stage("ran", {"rates": RATES}), "benchmarks": stage("ran", {"benchmarks": TIMED}), **changed}
    monkeypatch.setattr(validate, "STAGES", stages)
    monkeypatch.setattr(workloads, "facts", lambda *_: dict(FACTS))
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    status = validate.main(["--backend", backend, "--out", str(out)])
    (path,) = out.iterdir()
    return status, path, json.loads(path.read_text())


def test_what_passed_is_known_to_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    status, path, report = run(tmp_path, monkeypatch)
    assert (status, report["passed"], report["rehearsal"], path.name) == (0, True, False, "validate-20310501T100000Z-abc1234.json")
    assert doctor.last_validation((path.parent,)) == Validation("GPU 0, X", "2031-05-01T10:00:00Z", "abc1234")
    assert report["benchmarks"] == TIMED
    limit, slow = report["limits"]
    assert (slow["within"], slow["p99_over_p50"], slow["steady"]) == (False, 2.0, False)
    assert limit["limit_us"] == pytest.approx(10 + 0.1 + 0.064)  # events / (0.6 RED), 64 bytes a neuron over the copy rate
    assert limit["within"] is True
    out = capsys.readouterr().out
    assert "w: 10.1 us, within its limit" in out
    assert "x: 30.0 us, NOT within its limit of 10.2; p99 2.00 times p50, NOT steady" in out


def test_a_rehearsal_is_never_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, path, report = run(tmp_path, monkeypatch, "cpu")
    assert (status, report["ok"], report["passed"], report["rehearsal"]) == (0, True, False, True)
    assert doctor.last_validation((path.parent,)) == Validation()
    path.rename(path.with_name("validate-1.json"))
    assert doctor.last_validation((path.parent,)) == Validation()


@pytest.mark.parametrize("does", ["import time; time.sleep(60)", "import os; os.abort()"])
def test_a_stage_that_hangs_or_crashes_ends_at_its_limit(does: str, job: Job) -> None:
    """Every stage of the first call but the one of rates does as it should; the next ones have their time."""

    def bad(job: Job, limit: float) -> Any:
        return validate.execute([sys.executable, "-c", does], limit, job.environment).verdict(limit), {}

    plan = {name: stage("ran") for name in validate.FIRST} | {"rates": (bad, 1)}
    report: Report = {"stages": {}}
    assert not validate.validate(report, job, plan, 5, lambda: None, lambda _: None, stop=True)
    told = {name: one["status"] for name, one in report["stages"].items()}
    assert told == {name: "failed" if name == "rates" else "ran" for name in validate.FIRST}


def test_a_call_ends_at_the_first_wrong_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {name: stage("ran") for name in validate.FIRST} | {"tests": stage("failed", failed=1)}
    monkeypatch.setattr(validate, "CALLS", {"first": (plan, 10.0)})
    monkeypatch.setattr(workloads, "facts", lambda *_: dict(FACTS))
    assert validate.main(["--call", "first", "--out", str(tmp_path)]) == 1
    (path,) = tmp_path.iterdir()
    told = {name: one["status"] for name, one in json.loads(path.read_text())["stages"].items()}
    assert told == {"opens": "ran", "tests": "failed", "rates": "left out", "benchmarks": "left out", "strategies": "left out"}


def test_the_first_call_is_never_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {name: stage("ran") for name in validate.FIRST}
    monkeypatch.setattr(validate, "CALLS", {"first": (plan, 10.0), "second": ({name: stage("ran") for name in validate.SECOND}, 10.0)})
    monkeypatch.setattr(workloads, "facts", lambda *_: dict(FACTS))
    for call, passed in (("first", False), ("second", True)):
        assert validate.main(["--call", call, "--out", str(tmp_path / call)]) == 0
        (path,) = (tmp_path / call).iterdir()
        assert json.loads(path.read_text())["passed"] is passed
    assert set(validate.SECOND) == set(validate.STAGES)


def test_warnings_of_the_devices_python_are_let_through(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def execute(command: list[str], *_: Any) -> validate.Done:
        commands.append(command)
        return validate.Done(int("error" in command), 1.0, "DeprecationWarning: old" if "error" in command else "")

    monkeypatch.setattr(validate, "execute", execute)
    verdict, _ = validate.opens(job, 10)
    assert verdict["status"] == "ran" and "DeprecationWarning: old" in verdict["problem"]
    validate.first_tests(job, 10)
    assert [command[1:3] for command in commands[:2]] == [["-W", "error"], ["-W", "default"]]
    assert "default" in commands[2]


def test_a_part_that_says_nothing_has_failed(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that is cut short keeps what it had written; one that writes nothing did not run."""
    monkeypatch.setattr(validate, "execute", lambda *_: validate.Done(0, 1.0, ""))
    assert validate.program("bench", "benchmarks")(job, 10)[0]["status"] == "failed"
    (job.work / "benchmarks.json").write_text('{"workloads": []}')
    assert validate.program("bench", "benchmarks")(job, 10) == (
        {"status": "ran", "exit": 0, "seconds": 1.0, "tail": ""},
        {"benchmarks": {"workloads": []}},
    )
    monkeypatch.setattr(validate, "execute", lambda *_: validate.Done(None, 1.0, ""))
    verdict, brought = validate.program("bench", "benchmarks")(job, 10)
    assert verdict["status"] == "failed" and brought


def test_a_device_number_is_for_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--backend", "cpu", "--device", "0"], ["--device", "-1"]):
        with pytest.raises(SystemExit) as left:
            validate.main(arguments)
        assert left.value.code == 2 and "the number of a GPU" in capsys.readouterr().err
