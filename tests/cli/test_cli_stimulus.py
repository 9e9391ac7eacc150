"""What the options of `run` inject, by what then fires in a network whose neurons fire when anything reaches them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gpu_npu import Area, Connectome, Settings
from gpu_npu.cli import main
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import save
from gpu_npu.recordings import Recording, load_recording
from gpu_npu.session import Poisson
from gpu_npu.session.stimuli import Stimuli

SIGMAS = 5.5
"""A normal variate is farther out once in 26 million draws; the seeds here are fixed anyway."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """1,000 neurons without synapses, threshold 1, half of them in area 4, named "left"; number 999 is deleted."""
    connectome = Connectome(1000, 0, areas={4: Area("left")}, settings=Settings(random_seed=11))
    connectome.add_neurons(1000, cortical_area=np.where(np.arange(1000) < 500, 4, 0))
    connectome.delete_neurons([999])
    save(connectome, tmp_path / "plain.npz")
    return tmp_path / "plain.npz"


def record(file: Path, *arguments: object, bursts: int = 50, backend: str = "reference") -> Recording:
    out = file.with_name("fired.npz")
    options = ["--bursts", bursts, "--backend", backend, "--record", out, "--quiet", *arguments]
    result = CliRunner().invoke(main, ["run", str(file), *map(str, options)])
    assert (result.exit_code, result.output) == (0, "")
    return load_recording(out)


def test_rates(file: Path) -> None:
    recording = record(file, "--rate", "area:left:0.3", bursts=100)
    assert recording.fired.max() < 500
    share, n = len(recording.fired) / 50_000, 50_000
    assert abs(share - 0.3) < SIGMAS * math.sqrt(0.3 * 0.7 / n)
    each = np.bincount(recording.fired, minlength=500)
    assert np.abs(each - 30).max() < SIGMAS * math.sqrt(100 * 0.3 * 0.7)
    # Variance between bursts is that of independent draws.
    counts = np.diff(recording.offset)
    assert 0.5 < counts.var() / (500 * 0.3 * 0.7) < 1.7
    assert len(record(file, "--rate", "all:0").fired) == 0
    assert len(record(file, "--rate", "all:1", bursts=3).fired) == 3 * 999
    assert len(record(file, "--rate", "1,2:1:0.4", bursts=3).fired) == 2  # 0.4 + 0.4 + 0.4, once
    assert record(file, "--rate", "1,2:1", "--potential", 0.5, bursts=4).counters[:, 0].tolist() == [2, 2, 2, 2]


def test_poisson_numbers_of_impulses(file: Path) -> None:
    connectome = Connectome(20_000, 0, settings=Settings(random_seed=3))
    connectome.add_neurons(20_000)
    for mean in (0.02, 1.0, 7.5, 400.0):
        stimuli = Stimuli.bind(connectome, [Poisson("all", mean, 0.5)])
        numbers = np.zeros(20_000)
        for neurons, potentials in stimuli.before(9):
            numbers[neurons] = potentials / 0.5
        assert np.array_equal(numbers, np.round(numbers))
        assert abs(numbers.mean() - mean) < SIGMAS * math.sqrt(mean / 20_000)
        fourth = mean + 3 * mean**2  # central moment: the spread of a sample variance
        assert abs(numbers.var() - mean) < SIGMAS * math.sqrt((fourth - mean**2) / 20_000)
        assert abs((numbers == 0).mean() - math.exp(-mean)) <= SIGMAS * math.sqrt(math.exp(-mean) / 20_000)
    assert len(record(file, "--poisson", "all:0").fired) == 0
    assert len(record(file, "--poisson", "all:1000", bursts=2).fired) == 2 * 999


def test_what_is_drawn_depends_on_the_seed_alone(file: Path) -> None:
    arguments = ("--rate", "all:0.1", "--poisson", "area:4:0.1")
    first = record(file, *arguments)
    assert record(file, *arguments, backend="cpu").digest == first.digest
    assert record(file, *arguments, "--seed", 11).digest == first.digest  # the file's own
    assert record(file, *arguments, "--seed", 12).digest != first.digest
    shorter = record(file, *arguments, bursts=20)
    assert np.array_equal(first.fired[: first.offset[20]], shorter.fired)
    assert len({tuple(first.fired_in(burst)) for burst in range(1, 51)}) == 50
    twice = record(file, "--rate", "all:0.1", "--rate", "all:0.1")
    assert len(twice.fired) > 1.5 * len(record(file, "--rate", "all:0.1").fired)  # two stimuli draw apart


def test_the_numbers_drawn_stay_what_they_are(file: Path) -> None:
    assert record(file, "--rate", "0,1,2,3,4,5,6,7:0.5", bursts=3).fired.tolist() == [4, 6, 7, 2, 4, 5, 6, 1, 2, 3, 4]


def test_the_seed_is_the_network_s(file: Path, tmp_path: Path) -> None:
    connectome = fixed_out_degree(400, 0, seed=1, excitability=0.5)
    save(connectome, tmp_path / "drawn.npz")

    def fired(*arguments: object) -> list[int]:
        return record(tmp_path / "drawn.npz", "--inject", "all:5", *arguments, bursts=4).fired.tolist()

    assert fired() == fired("--seed", 0) != fired("--seed", 1)
    facts = json.loads(CliRunner().invoke(main, ["run", str(file), "--bursts", "1", "--json", "--backend", "reference"]).stdout)
    assert facts["seed"] == 11


def test_schedules(file: Path, tmp_path: Path) -> None:
    def schedule(**arrays: Any) -> Path:
        np.savez(tmp_path / "schedule.npz", **arrays)
        return tmp_path / "schedule.npz"

    def fired(path: Path, *arguments: object) -> list[list[int]]:
        recording = record(file, "--schedule", path, *arguments, bursts=4)
        return [recording.fired_in(burst).tolist() for burst in range(1, 5)]

    assert fired(schedule(burst=[3, 1, 3, 9], neuron=[7, 5, 6, 1])) == [[5], [], [6, 7], []]
    assert fired(schedule(burst=[1, 2, 2], neuron=[7, 7, 8], potential=[0.5, 0.5, 0.9])) == [[], [7], [], []]
    assert fired(schedule(burst=[1, 2], neuron=[7, 8]), "--potential", 0.9) == [[], [], [], []]
    assert fired(schedule(burst=np.zeros(0, np.int64), neuron=np.zeros(0, np.int64))) == [[], [], [], []]
    both = fired(schedule(burst=[2], neuron=[7]), "--inject", "3", "--every", 3)
    assert both == [[3], [7], [], [3]]
    for wrong, status in (
        ({"burst": [0], "neuron": [1]}, 3),
        ({"burst": [-4], "neuron": [1]}, 3),
        ({"burst": np.array([2**63], np.uint64), "neuron": [1]}, 3),
        ({"burst": [1.0], "neuron": [1]}, 3),
        ({"burst": [1, 2], "neuron": [1]}, 3),
        ({"neuron": [1]}, 3),
        ({"burst": [1], "neuron": [1000]}, 5),
        ({"burst": [1], "neuron": [-1]}, 5),
        ({"burst": [1], "neuron": [1], "potential": [np.inf]}, 4),
    ):
        result = CliRunner().invoke(main, ["run", str(file), "--schedule", str(schedule(**wrong)), "--backend", "reference"])
        assert (result.exit_code, len(result.stderr.splitlines())) == (status, 1), result.output
        assert "schedule.npz" in result.stderr


def test_who(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fired(what: object) -> list[int]:
        ids = record(file, "--inject", what, bursts=1).fired.tolist()
        assert record(file, "--power", str(what).removesuffix(":2"), bursts=1).fired.tolist() == ids
        return ids

    assert fired("5,3,4") == [3, 4, 5]
    assert fired("area:4") == fired("area:left") == fired("area:left:2") == list(range(500))
    assert fired("area:0") == list(range(500, 999))
    assert fired("all:2") == list(range(999))
    monkeypatch.chdir(tmp_path)
    np.save("ids.npy", [9, 8])
    np.savez("two.npz", a=[1], b=[2, 3])
    np.savez("odd:name.npz", c=[6])
    assert fired("ids.npy") == fired("ids.npy:2") == [8, 9]
    assert fired("two.npz:b") == fired("two.npz:b:2") == [2, 3]
    assert fired("odd:name.npz") == fired("odd:name.npz:c:2") == [6]
    assert fired("4-6,1") == fired("1,4-6:2") == [1, 4, 5, 6]
    Path("list.txt").write_text("\ufeff# of the eye\r\n7 # left\r\n\r\n3-4, 9\r\n", encoding="utf-8")
    assert fired("list.txt") == fired("list.txt:2") == [3, 4, 7, 9]
    np.save("mask.npy", np.arange(1000) % 500 == 3)
    assert fired("mask.npy") == [3, 503]


@pytest.mark.parametrize(
    ("option", "text", "status", "message"),
    [
        ("--inject", "1,,2", 2, "'' is no id; WHAT is ids"),
        ("--inject", "", 2, "'' is no id; WHAT is ids"),
        ("--inject", "1:2:3", 2, "WHAT[:POTENTIAL] is expected"),
        ("--inject", "1:inf", 2, "not a potential"),
        ("--inject", "1:1e39", 4, "float32"),
        ("--inject", "-1", 5, "-1 is not a neuron id"),
        ("--inject", "1000", 5, "1000 is not a neuron id"),
        ("--inject", "9" * 30, 5, "looks like a label"),
        (
            "--inject",
            "720575940379810000",
            5,
            "looks like a label, such as the root id of a data set; the ids of this network are 0 to 999",
        ),
        ("--inject", "990-1000", 5, "1000 is not a neuron id"),
        ("--inject", "9-5", 2, "the range 9-5 goes down; write 5-9"),
        ("--inject", "5-", 2, "'5-' is no id"),
        ("--inject", "no.txt", 11, "no.txt: No such file"),
        ("--power", "all:1", 2, "WHAT is expected"),
        ("--power", "area:right", 2, "neither the id nor the name of an area (left)"),
        ("--power", "area:77", 4, "no neuron is in area 77"),
        ("--rate", "all", 2, "WHAT:P[:POTENTIAL] is expected"),
        ("--rate", "all:1.5", 2, "outside 0..1"),
        ("--rate", "all:-0.5", 2, "outside 0..1"),
        ("--rate", "all:nan", 2, "not a number"),
        ("--poisson", "all:-1", 2, "outside 0..1000"),
        ("--poisson", "all:1e9", 2, "outside 0..1000"),
        ("--schedule", "no.npz", 11, "no.npz: No such file"),
        ("--seed", "-1", 2, "-1"),
        ("--bursts", "-1", 2, "-1"),
    ],
)
def test_what_is_refused(file: Path, option: str, text: str, status: int, message: str) -> None:
    result = CliRunner().invoke(main, ["run", str(file), "--backend", "reference", option, text])
    assert result.exit_code == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert "reserve" not in result.stderr and "np." not in result.stderr  # advice for Python helps nobody here
