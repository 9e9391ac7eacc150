"""Runs from Python: the same as the command line gives, to the digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gpu_npu import Area, CheckpointError, Connectome, NetworkError, NeuronIndexError
from gpu_npu.cli import main
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import save
from gpu_npu.recordings import load_recording
from gpu_npu.session import Inject, Place, Plan, Poisson, Power, Rate, Schedule, Session, neurons_of, resume, run

BACKENDS = ("reference", "cpu")


def network() -> Connectome:
    """200 neurons, of which the last 20 are an area named "eye"."""
    area = np.where(np.arange(200) < 180, 0, 3)
    return fixed_out_degree(200, 10, seed=1, weight=(1, 9), threshold=20.0, cortical_area=area, areas={3: Area("eye")})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(network(), "net.npz")
    np.savez("when.npz", burst=[5, 1, 5], neuron=[7, 8, 9], potential=[30, 40, 50])
    np.save("ids.npy", [1, 4])
    return tmp_path


def command(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["run", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


STIMULI = [
    Power("area:eye"),
    Inject("1,2,5-8", 15.0, every=3),
    Inject(Path("ids.npy"), 9.0),
    Rate("all", 0.05, 12.0),
    Poisson("area:3", 0.5, 3.0),
    Schedule([5, 1, 5], [7, 8, 9], [30, 40, 50]),
]
OPTIONS = ("--power", "area:eye", "--inject", "1,2,5-8:15", "--every", 3, "--rate", "all:0.05:12", "--poisson", "area:3:0.5:3")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command_line_and_python_give_one_digest(folder: Path, backend: str) -> None:
    place = Place(backend)
    told = command("net.npz", "--bursts", 40, *OPTIONS, "--schedule", "when.npz", "--record", "cli.npz", "--backend", backend)
    stimuli = [stimulus for stimulus in STIMULI if not isinstance(getattr(stimulus, "target", None), Path)]
    result = run(network(), stimuli, Plan(40, record=Path("python.npz")), place)
    assert (result.digest, result.fired, dict(result.counters)) == (told["digest"], told["fired"], {n: told[n] for n in result.counters})
    assert 0 < result.fired < 40 * 200 and result.backend == backend and result.timed == 40
    assert load_recording("cli.npz").digest == load_recording("python.npz").digest == result.digest
    assert result.percentile(50) is not None and result.rate and result.mean and result.phase_seconds is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_in_two_processes_is_that_of_one(folder: Path, backend: str) -> None:
    whole = run(network(), STIMULI, 30, Place(backend))
    stops = iter([False] * 3 + [True] * 9)
    plan = Plan(30, "net", Path("fired.npz"), Path("run.ckpt"), 7)
    with Session(plan, network(), STIMULI, Place(backend)) as session:
        session.go(lambda: next(stops))
        session.close()
        half = session.result()
    assert half.interrupted and 0 < half.bursts < 30 and half.record == "fired.*.npz"
    again = resume("run.ckpt", Place("reference"))
    assert (again.digest, again.fired, again.counters) == (whole.digest, whole.fired, whole.counters)
    assert (again.bursts, again.before, again.network) == (30, half.bursts, "net")
    assert "nothing was left to run" in str(resume("run.ckpt").notes[0])


def test_phases_are_timed_after_the_run_and_count_for_nothing(folder: Path) -> None:
    plan = Plan(12, checkpoint=Path("run.ckpt"), every=5)
    with Session(plan, network(), STIMULI, Place("reference")) as session:
        session.go()
        session.time_phases()
        session.close()
        result = session.result()
    assert result.phase_bursts == 12 and set(result.phase_seconds or {}) >= {"propagation", "dynamics"}
    assert result.digest == run(network(), STIMULI, 12, Place("reference")).digest
    assert Plan.resume(Path("run.ckpt")).first == 13


def test_targets(folder: Path) -> None:
    eye = list(range(180, 200))
    for target, ids in (
        ("all", list(range(200))),
        ("area:eye", eye),
        ("area:3", eye),
        ("3,1,5-7", [3, 1, 5, 6, 7]),
        ("ids.npy", [1, 4]),
        (Path("ids.npy"), [1, 4]),
        ([9, 2], [9, 2]),
        (np.arange(200) >= 180, eye),
        ("when.npz:neuron", [7, 8, 9]),
    ):
        assert neurons_of(network(), target).tolist() == ids
    for wrong, kind, said in (
        ("nose", NetworkError, "'nose': 'nose' is no id; WHAT is ids or labels like"),
        ("area:nose", NetworkError, r"'nose' is neither the id nor the name of an area \(eye\)"),
        ("area:77", NetworkError, "no neuron is in area 77"),
        ("1,2:5", NetworkError, "'1,2:5' has '5' after ids or labels like"),
        (np.arange(200) % 3, NetworkError, "neuron 0 is named 67 times; a list of ids names each neuron once.* 200 values name 3"),
        ("when.npz:burst", NetworkError, "when.npz: burst: neuron 5 is named 2 times"),
        ([200], NeuronIndexError, "200 is not a neuron id"),
    ):
        with pytest.raises(kind, match=said):
            neurons_of(network(), wrong)


def test_what_is_refused(folder: Path) -> None:
    for make, said in (
        (lambda: Rate("all", 1.5), "probability 1.5 is outside 0..1"),
        (lambda: Poisson("all", -1), "mean -1 is outside 0..1000"),
        (lambda: Inject("all", 1.0, every=0), "every: 0 is not an integer of 1 or more"),
        (lambda: run(network(), [Inject("all", float("inf"))]), "potential"),
        (lambda: run(network(), [Schedule([0], [1])]), "integers of 1 or more"),
        (lambda: Plan(0), "bursts: 0 is not an integer of 1 or more"),
        (lambda: Plan(checkpoint=Path("x")), "a file and a number of bursts"),
    ):
        with pytest.raises(NetworkError, match=said):
            make()
    with pytest.raises(CheckpointError):
        resume("net.npz")
    with pytest.raises(OSError, match=r"none"):
        run(network(), plan=Plan(1, record=Path("none/x.npz")), place=Place("reference"))
