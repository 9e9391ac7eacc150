"""Everything there is to know from a machine with a GPU, in one command and one file.

    python -m profiling.validate [--call first|second] [--device N] [--budget SECONDS] [--out FOLDER] [--data FOLDER] [--commit TEXT]

Stages: the tests that take a backend, on CUDA alone; compute-sanitizer's four tools over a small run; the rates of the
device; the benchmarks; what plasticity costs; Nsight Compute's metrics of the kernels; other engines beside ours. Each
stage is a process of its own with a share of the time that is left, ends as ran, failed or unavailable, and is in the file
as soon as it ends:

    FOLDER/validate-DATE-COMMIT.json

which `gpu-npu doctor` reads. The exit status is 0 where tests, rates and benchmarks ran and no sanitizer found anything,
else 1, and 2 where the device cannot be opened; `passed` is true only where it is 0 on CUDA and without --tests. Of a
stage that was cut short the file has what it had come to.
Where a machine is at hand for minutes, two calls do it. The first (190 s) sees that the device opens, runs the tests of devices
and the golden cases, and measures the rates, the networks that matter most, and each strategy of propagation; what it shows can
be mended before the second (400 s), which is all stages, the most important ones first. Both end at the first wrong result.
With --backend cpu or emulated all of it is rehearsed without a GPU: the file is named rehearsal-..., and is never passed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_npu import NpuError
from gpu_npu.backends import kernels
from gpu_npu.limits import cpu_workers
from profiling import ncu_kernels, workloads
from profiling.suite import limit
from profiling.workloads import ROOT, write

Report = dict[str, Any]
TAIL = 4000
"""Characters of output that are kept."""
NEEDED_TESTS = tuple(
    f"tests/{file}.py" for file in ("golden/test_golden", "agreement/test_agreement", "npu/test_npu", "backends/test_devices")
)
"""Files of which a test must have passed on the backend: nothing that ran is no success."""
FIRST_TESTS = ("tests/backends/test_devices.py", "tests/golden/test_golden.py")
STEADY = 1.5
BARRIER_SECONDS = 2.0
"""After which a launch whose blocks wait for one another ends as an error, in the first call."""
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 86
"""Exit status of compute-sanitizer where it found something, told apart from one of the program."""
PLACES = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-compute")
"""Where NVIDIA's tools are when they are not on PATH."""
NCU_NETWORK = ("random", "--neurons", "1000000", "--degree", "100", "--fired", "10000", "--warm-up", "6", "--bursts", "6", "--plain")
NCU_LAUNCHES = ("--launch-skip=3", "--launch-count=24")
"""Launches of a burst's kernels that are left out, and looked at: of the bursts to warm up, one launch each, the last ones."""


@dataclass(frozen=True)
class Job:
    """What stages need: the backend, where things are, the environment of every process."""

    backend: str
    data: Path
    commit: str
    environment: Mapping[str, str]
    work: Path
    """For files between a stage and its process."""

    @property
    def lenient(self) -> Path:
        """This file is there where Python of the device warns of something as CuPy is imported: tests then do not fail for it."""
        return self.work / "lenient"

    files: Sequence[str] = ()
    """Of tests; none: all that take a backend."""


@dataclass(frozen=True)
class Done:
    """How a process ended. status None: at its time limit, with everything it had started."""

    status: int | None
    seconds: float
    output: str

    def verdict(self, limit: float) -> Report:
        tail = {"seconds": round(self.seconds, 2), "tail": self.output[-TAIL:]}
        if self.status is None:
            return {"status": "failed", "problem": f"not done after its {limit:.0f} s", **tail}
        return {"status": "ran" if self.status == 0 else "failed", "exit": self.status, **tail}


def execute(command: Sequence[str], limit: float, environment: Mapping[str, str]) -> Done:
    """Run a command for at most `limit` seconds; output and errors are kept together."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as kept:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=kept,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status: int | None = None
        try:
            status = process.wait(max(limit, 0.1))
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it left behind
            process.wait()
        kept.seek(0)
        return Done(status, time.perf_counter() - start, kept.read().decode(errors="replace"))


def tool(name: str) -> str | None:
    """Where one of NVIDIA's tools is."""
    if found := shutil.which(name):
        return found
    for place in map(Path, PLACES):
        for path in sorted([place / name, *place.glob(f"*/{name}")], reverse=True):
            if os.access(path, os.X_OK) and path.is_file():
                return str(path)
    return None


def missing(name: str) -> Report:
    return {"status": "unavailable", "seconds": 0.0, "problem": f"{name} is neither on PATH nor in {', '.join(PLACES)}"}


# -- the stages: each returns what is to be said of it, and what it brings to the report --------------------------------
Outcome = tuple[Report, Report]


def test_files() -> list[str]:
    """The files with tests that take a backend."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    return [str(path.relative_to(ROOT)) for path, text in texts.items() if re.search(r"backend_factory|device_factory|gpu_mode", text)]


def opens(job: Job, limit: float) -> Outcome:
    """A small network runs; where that fails for a warning, once more with warnings let through."""
    run = ["-m", "profiling.small_run", f"--backend={job.backend}", f"--barrier-seconds={BARRIER_SECONDS}"]
    first = execute([sys.executable, "-W", "error", *run], limit, job.environment)
    if not first.status:
        return first.verdict(limit), {}
    job.lenient.touch()
    done = execute([sys.executable, "-W", "default", *run], limit - first.seconds, job.environment)
    return done.verdict(limit) | {"problem": f"with warnings as errors: {first.output[-TAIL:]}"}, {}


def tests(job: Job, limit: float) -> Outcome:
    """Every test that takes a backend, on this backend alone."""
    return run_tests(job, limit, job.files or test_files(), NEEDED_TESTS)


def first_tests(job: Job, limit: float) -> Outcome:
    """Those that say first what is wrong."""
    return run_tests(job, limit, FIRST_TESTS, FIRST_TESTS, f"--barrier-seconds={BARRIER_SECONDS}")


def run_tests(job: Job, limit: float, files: Sequence[str], needed: Sequence[str], *options: str) -> Outcome:
    """The tests of these files, of which some must pass in each of those that are needed."""
    outcomes = job.work / "outcomes"
    workers = min(4, cpu_workers()[0] // 2)
    parallel = ["-p", "xdist.plugin", f"-n{workers}"] if workers > 1 and importlib.util.find_spec("xdist") else []
    select = ["-p", "profiling.selection", f"--only-backend={job.backend}", f"--outcomes={outcomes}", "-m", "not long", *options]
    gpu = "--gpu=require" if job.backend == "cuda" else "--gpu=never"
    plain = {**job.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever else is installed has no say
    quiet = ["-q", "-ra", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    warnings = ["-W", "default"] if job.lenient.exists() else []
    done = execute([sys.executable, "-m", "pytest", *select, gpu, *quiet, *warnings, *parallel, *files], limit, plain)
    verdict = done.verdict(limit)
    by_test: dict[str, Report] = {}
    if outcomes.is_file():
        for one in map(json.loads, outcomes.read_text(encoding="utf-8").splitlines()):
            if one["test"] not in by_test or by_test[one["test"]]["outcome"] != "failed":  # a failure behind a test that passed counts
                by_test[one["test"]] = one
    by_file: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in by_test.values():
        by_file[one["file"]][one["outcome"]] += 1
    failed = [name for name, one in by_test.items() if one["outcome"] == "failed"]
    total = sum(by_file.values(), collections.Counter())
    counts = {kind: total[kind] for kind in ("passed", "failed", "skipped")}
    empty = [name for name in needed if name not in by_file or not by_file[name]["passed"]]
    if verdict["status"] == "ran" and (empty or failed):
        problem = f"no test passed in {', '.join(empty)}" if empty else f"{len(failed)} tests failed"
        verdict |= {"status": "failed", "problem": problem}
    return {**verdict, **counts}, {"tests": {**counts, "files": {name: dict(count) for name, count in by_file.items()}, "failures": failed}}


def sanitizer(name: str) -> Callable[[Job, float], Outcome]:
    def stage(job: Job, limit: float) -> Outcome:
        path = tool("compute-sanitizer")
        if path is None or job.backend != "cuda":
            return missing("compute-sanitizer") if path is None else {"status": "unavailable", "seconds": 0.0, "problem": "no GPU"}, {}
        command = [path, f"--tool={name}", f"--error-exitcode={FOUND}", "--target-processes=all"]
        done = execute([*command, sys.executable, "-m", "profiling.small_run", f"--backend={job.backend}"], limit, job.environment)
        verdict = done.verdict(limit)
        summary = re.findall(r"={5,} (\w+ SUMMARY: .*)", done.output)
        verdict["summary"] = summary[-1] if summary else None
        if verdict["status"] == "failed" and re.search(r"Device not supported|failed to initialize", done.output, re.I):
            return {**verdict, "status": "unavailable", "problem": "compute-sanitizer cannot work on this machine"}, {}
        if done.status == 0 and not summary:
            return {**verdict, "status": "failed", "problem": "compute-sanitizer said nothing"}, {}
        if done.status:  # neither success nor the time limit
            problem = f"{name} found something" if done.status == FOUND else "the run under it failed"
            verdict |= {"red": True, "problem": problem}
        return verdict, {}

    return stage


def program(module: str, key: str, *options: str) -> Callable[[Job, float], Outcome]:
    """A stage that is a module of profiling which writes a file of its own."""

    def stage(job: Job, limit: float) -> Outcome:
        path = job.work / f"{key}.json"
        command = [sys.executable, "-m", f"profiling.{module}", f"--backend={job.backend}", f"--commit={job.commit}", f"--json={path}"]
        command += [option.format(data=job.data, work=job.work, budget=0.75 * limit) for option in options]
        if job.backend != "cuda":
            command.append("--quick")
        verdict = execute(command, limit, job.environment).verdict(limit)
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if verdict["status"] == "ran" and report is None:
            verdict |= {"status": "failed", "problem": "nothing was written"}
        return verdict, {} if report is None else {key: report}

    return stage


def metrics(job: Job, limit: float) -> Outcome:
    """What Nsight Compute's counters say of a burst's kernels: the table, and the median of each metric by kernel."""
    path = tool("ncu")
    if path is None or job.backend != "cuda":
        return missing("ncu") if path is None else {"status": "unavailable", "seconds": 0.0, "problem": "no GPU"}, {}
    names = "|".join(name for name, kernel in kernels.kernels().items() if kernel.file not in ("indexing.cu", "parameters.cu"))
    what = [f"--kernel-name=regex:^({names})$", *NCU_LAUNCHES, f"--metrics={','.join(ncu_kernels.METRICS)}"]
    what += [f"--section={name}" for name in ncu_kernels.SECTIONS]
    command = [path, *what, *ncu_kernels.STATE, *ncu_kernels.RAW, sys.executable, "-m", "profiling.workload", *NCU_NETWORK]
    done = execute(command, limit, job.environment)
    verdict = done.verdict(limit)
    found = ncu_kernels.raw_page(done.output)
    if verdict["status"] == "ran" and not found:
        verdict |= {"status": "failed", "problem": "ncu named no kernel"}
    if verdict["status"] == "failed" and re.search(r"ERR_NVGPUCTRPERM|Failed to initialize|LibraryNotLoaded", done.output):
        verdict |= {"status": "unavailable", "problem": "the counters cannot be read on this machine"}
    return verdict, {"kernels": ncu_kernels.figures(found), "metrics": found} if found else {}


def strategies(job: Job, limit: float) -> Outcome:
    """Each strategy of propagation forced in turn, where many synapses deliver: what the chooser chooses among."""
    verdict: Report = {"status": "ran", "seconds": 0.0, "tail": ""}
    brought: Report = {}
    names = ("rows", "slices", "blocked")
    for number, name in enumerate(names):
        left = (limit - verdict["seconds"]) / (len(names) - number)
        forced = f"--strategy={name}", "--only=size-1000000", "--budget={budget}", "--rates={work}/rates.json"
        one, report = program("bench", f"strategy {name}", *forced)(job, left)
        worse = one["status"] == "failed"
        verdict = {**(one if worse else verdict), "seconds": verdict["seconds"] + one["seconds"]}
        brought |= report
    return verdict, brought


Stage = Callable[[Job, float], Outcome]
Plan = Mapping[str, tuple[Stage, float]]
"""Name -> stage, and its share of the time; what it leaves goes to those behind it."""
STAGES: dict[str, tuple[Stage, float]] = {
    "tests": (tests, 30),
    **{name: (sanitizer(name), 6) for name in SANITIZERS},
    "rates": (program("probe", "rates", "--budget={budget}"), 7),
    "benchmarks": (program("bench", "benchmarks", "--budget={budget}", "--data={data}", "--rates={work}/rates.json"), 32),
    "plasticity": (program("bench_plasticity", "plasticity", "--budget={budget}"), 9),
    "metrics": (metrics, 7),
    "engines": (program("engines", "engines", "--budget={budget}"), 10),
}
FIRST: dict[str, tuple[Stage, float]] = {
    "opens": (opens, 15),
    "tests": (first_tests, 45),
    "rates": (program("probe", "rates", "--budget={budget}"), 20),
    "benchmarks": (
        program(
            "bench",
            "benchmarks",
            "--budget={budget}",
            "--data={data}",
            "--rates={work}/rates.json",
            *(f"--only={name}" for name in ("seed", "latency", "fly", "million", "synthetic-0.00156")),
        ),
        70,
    ),
    "strategies": (strategies, 40),
}
SECOND = ("tests", "memcheck", "racecheck", "rates", "benchmarks", "metrics", "plasticity", "engines", "initcheck", "synccheck")
CALLS: Mapping[str, tuple[Plan, float]] = {"first": (FIRST, 190.0), "second": ({name: STAGES[name] for name in SECOND}, 400.0)}
"""Call -> its stages, and the seconds for all of them."""
WRONG = ("opens", "tests", "memcheck", "racecheck", "benchmarks")
"""Stages that find wrong results: in a call nothing is measured after one of them has failed."""
MUST_RUN = ("tests", "rates", "benchmarks")


# -- all of them ---------------------------------------------------------------------------------------------------------
def environment(device: int | None) -> dict[str, str]:
    """That of every stage: the repository is importable, and GPU `device` is the only one, number 0."""
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    if device is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        changed["CUDA_VISIBLE_DEVICES"] = visible[device] if visible != [""] and device < len(visible) else str(device)
    return changed


def validate(
    report: Report, job: Job, plan: Plan, budget: float, save: Callable[[], None], say: Callable[[str], None], *, stop: bool = False
) -> bool:
    """Run the stages, saving after each; whether all that must run ran, and nothing failed. stop: at the first wrong result."""
    end = time.perf_counter() + budget
    names = list(plan)
    for number, name in enumerate(names):
        stage, share = plan[name]
        limit = max(0.0, end - time.perf_counter()) * share / sum(plan[later][1] for later in names[number:])
        report["stages"][name] = {"status": "running", "limit": round(limit, 1)}
        save()
        verdict, brought = stage(job, limit)
        report["stages"][name] |= verdict
        report |= brought
        report["ok"] = ok(report["stages"])
        if "rates" in report and report.get("benchmarks", {}).get("workloads"):
            report["limits"] = limits(report)
        save()
        detail = verdict.get("problem") or verdict.get("summary") or ""
        if name == "tests":
            detail = f"{verdict['passed']} passed, {verdict['failed']} failed, {verdict['skipped']} skipped. {detail}"
        say(f"{name}: {verdict['status']} in {verdict['seconds']:.1f} s. {detail}".rstrip())
        if verdict["status"] == "failed":
            say(verdict["tail"])
            if stop and name in WRONG:
                report["stages"] |= {later: {"status": "left out"} for later in names[number + 1 :]}
                save()
                break
    for one in report.get("limits", []):
        spread = f"; p99 {one['p99_over_p50']:.2f} times p50{'' if one['steady'] else ', NOT steady'}" if "steady" in one else ""
        within = "within" if one["within"] else "NOT within"
        say(f"{one['name']}: {one['took_us']:,.1f} us, {within} its limit of {one['limit_us']:,.1f}{spread}")
    return ok(report["stages"])


def ok(stages: Mapping[str, Report]) -> bool:
    """Whether all that must run ran, and no sanitizer ended with anything but success."""
    ran = {name for name, stage in stages.items() if stage["status"] == "ran"}
    return ran.issuperset(MUST_RUN) and not any(stages[name].get("red") for name in SANITIZERS if name in stages)


def limits(report: Report) -> list[Report]:
    """For each workload the microseconds a burst may take by the rates measured in this run, and what it took; and whether the
    slowest of a hundred bursts of equal work takes at most STEADY times as long as the median one."""
    told = []
    for row in report["benchmarks"]["workloads"]:
        if "burst" in row:
            may, red = limit(row, report["rates"]["rows"])
            took = row.get("run", row["burst"])["p50_us"]
            one = {"name": row["name"], "limit_us": may, "took_us": took, "within": took <= may, "red_per_s": red}
            if run := row.get("run"):
                spread = run["stamp_p99_us"] / run["stamp_p50_us"]
                one |= {"p99_over_p50": spread, "steady": spread <= STEADY}
            told.append(one)
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m profiling.validate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backend", choices=("cuda", "cpu", "emulated"), default="cuda", help="(%(default)s) others rehearse")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--call", choices=tuple(CALLS), help="of two on a machine that is at hand for minutes")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for all stages (540; 190 for the first call, 400 for the second)")
    parser.add_argument("--out", type=Path, default=ROOT / "profiling" / "results", metavar="FOLDER", help="(profiling/results)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the fly hemisphere")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--only", action="append", choices=tuple(STAGES), metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--tests", action="append", default=[], metavar="FILE", help="these files, not all tests that take a backend")
    options = parser.parse_args(arguments)
    if options.device is not None and (options.device < 0 or options.backend != "cuda"):
        parser.error(f"--device {options.device}: the number of a GPU, 0 or more, with --backend cuda")
    if options.call and options.only:
        parser.error(f"--only takes stages out of all of them, and --call {options.call} says which; leave one out")
    plan, budget = CALLS[options.call] if options.call else ({name: STAGES[name] for name in options.only or STAGES}, 540.0)
    budget = budget if options.budget is None else options.budget
    try:
        facts = workloads.facts(options.backend, options.device, options.commit)
    except NpuError as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    kind = "validate" if options.backend == "cuda" else "rehearsal"
    stamp = re.sub(r"[^0-9TZ]", "", facts["date"])
    path = options.out / f"{kind}-{stamp}-{facts['commit'][:12]}.json"
    report: Report = {"benchmark": "validation", "rehearsal": kind != "validate", "passed": False, **facts, "ok": False, "stages": {}}

    options.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        report["passed"] = report["ok"] and not report["rehearsal"] and not options.tests and options.call != "first"
        write(path, report)

    with tempfile.TemporaryDirectory() as work:
        job = Job(options.backend, options.data.resolve(), facts["commit"], environment(options.device), Path(work), options.tests)
        say = functools.partial(print, flush=True)
        good = validate(report, job, plan, budget, save, say, stop=options.call is not None)
    what = "rehearsed on" if report["rehearsal"] else "validated on"
    print(f"{'OK' if good else 'NOT OK'}: {what} {facts['device']}; written to {path}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
