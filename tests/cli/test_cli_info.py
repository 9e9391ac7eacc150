"""gpu-npu info and example, and the JSON of run."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import shared_data

from gpu_npu import NPU, Area, Connectome, PairRule, Rules, Settings, WindowRule
from gpu_npu.cli import main
from gpu_npu.cli.networks import EXAMPLES
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load, save


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts(*arguments: object) -> dict[str, Any]:
    result = invoke(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    content: dict[str, Any] = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Six ids, of which one is deleted and one never created; four synapses, of which one is removed."""
    settings = Settings(Rules(potential_floor=-2.0), power_amount=3.0, random_seed=5)
    connectome = Connectome(6, 10, weight_dtype=np.uint16, areas={2: Area("eyes", power=True), 9: Area("empty")}, settings=settings)
    connectome.add_neurons(5, cortical_area=[0, 2, 2, 7, 7], threshold=[1, 2, 3, 4, 50])
    connectome.add_synapses([0, 0, 1, 3], [1, 2, 1, 0], [10, 20, 300, 5], [1, 2, 3, 3], [True, True, False, False])
    assert connectome.remove_synapses([3], [0]).all()
    connectome.delete_neurons([4])
    save(connectome, tmp_path / "net.npz")
    return tmp_path / "net.npz"


def test_what_a_network_holds(file: Path) -> None:
    told = facts("info", file, "--backend", "reference")
    assert (told["neurons"], told["neuron_capacity"], told["synapses"], told["synapse_capacity"]) == (4, 6, 3, 10)
    assert told["out_degree"] == {"min": 0, "median": 0.5, "mean": 0.75, "max": 2}
    assert told["in_degree"] == {"min": 0, "median": 0.5, "mean": 0.75, "max": 2}
    assert told["self_loops"] == 1
    assert told["weight"] == {"dtype": "uint16", "min": 10, "median": 20.0, "mean": 110.0, "max": 300}
    assert told["psp"] == {"dtype": "uint8", "min": 1, "median": 2.0, "mean": 2.0, "max": 3, "sources_with_several": 1}
    assert told["delay"] == {"dtype": "uint8", "min": 1, "median": 1.0, "mean": 1.0, "max": 1}
    assert told["inhibitory_share"] == pytest.approx(2 / 3)
    assert [(area["id"], area["name"], area["neurons"]) for area in told["areas"]] == [
        (0, "", 1), (2, "eyes", 2), (7, "", 1), (9, "empty", 0),
    ]  # fmt: skip
    assert told["power_neurons"] == 2
    assert told["threshold"]["max"] == 4
    assert told["rules"] == {
        "refractory_clock": "candidate", "rectify_input": False, "potential_floor": -2.0, "potential_ceiling": None, "reset": "all",
        "mp_driven_rounding": True,
    }  # fmt: skip
    assert told["settings"] == {"contribution_scale": 1.0, "power_amount": 3.0, "random_seed": 5}
    text = invoke("info", file, "--backend", "reference").stdout
    for line in ("eyes: 2 neurons, power", "10 to 300, median 20", "1 sources have several", "66.7% inhibitory"):
        assert line in text
    assert re.search("^fits +yes", text, re.MULTILINE)


def test_the_plasticity_of_a_network(file: Path) -> None:
    connectome = load(file)
    connectome.set_plasticity([WindowRule(2, 0, 3, 5, 1), PairRule(0, 2, 0.5, 0.25, 20, 30, w_max=900)])
    save(connectome, file)
    assert [(rule["rule"], rule["source_area"], rule["target_area"]) for rule in facts("info", file)["plasticity"]] == [
        ("window", 2, 0), ("pair", 0, 2),
    ]  # fmt: skip
    note = "what plasticity rules take is not counted"
    assert note not in " ".join(invoke("info", "small").stdout.split())
    text = " ".join(invoke("info", file).stdout.split())
    assert note in text
    assert "plasticity eyes -> 0: window rule, window 3, plus 5, minus 1" in text
    assert "plasticity 0 -> eyes: pair rule, a_plus 0.5, a_minus 0.25, tau_plus 20.0, tau_minus 30.0, pairing nearest" in text


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_info_before_run_is_what_run_uses(file: Path, backend: str) -> None:
    for network in (file, "seed", "small"):
        said, used = facts("info", network, "--backend", backend)["memory"], facts("run", network, "--backend", backend, "--bursts", 20)
        assert said["backend"] == used["backend"] == backend
        assert said["backend_reason"] == used["backend_reason"]
        assert said["pieces"] == used["memory"]
        assert said["bytes"] == used["memory_bytes"] <= used["memory_bytes_at_end"]
        assert said["fits"] is True


def test_info_of_the_fly_hemisphere() -> None:
    told = facts("info", shared_data() / "flywire_right.npz", "--backend", "cpu")
    assert (told["neurons"], told["synapses"]) == (66_658, 1_231_192)
    assert (told["in_degree"]["max"], told["out_degree"]["max"], told["weight"]["max"]) == (2799, 2739, 2058)
    assert told["psp"]["sources_with_several"] == 0


def test_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.backends.devices.cpu.host_memory", lambda: (1000, 2000))
    result = invoke("info", "small", "--backend", "cpu")
    assert result.exit_code == 0
    assert re.search("^fits +NO", result.stdout, re.MULTILINE)
    assert "1,000 bytes of 2,000" in result.stdout


def test_many_areas_are_not_all_shown(tmp_path: Path) -> None:
    connectome = Connectome(300, 0)
    connectome.add_neurons(300, cortical_area=np.arange(300))
    save(connectome, tmp_path / "n.npz")
    assert "and 280 more" in invoke("info", tmp_path / "n.npz", "--backend", "reference").stdout
    assert len(facts("info", tmp_path / "n.npz", "--backend", "reference")["areas"]) == 300


@pytest.mark.parametrize("connectome", [Connectome(0, 0), Connectome(4, 4)])
def test_networks_of_nothing(connectome: Connectome, tmp_path: Path) -> None:
    save(connectome, tmp_path / "n.npz")
    for backend in ("cpu", "reference"):
        assert facts("info", tmp_path / "n.npz", "--backend", backend)["out_degree"]["mean"] is None
        assert invoke("info", tmp_path / "n.npz", "--backend", backend).exit_code == 0
        assert facts("run", tmp_path / "n.npz", "--backend", backend, "--bursts", 2)["fired"] == 0
        assert invoke("run", tmp_path / "n.npz", "--backend", backend, "--bursts", 2).exit_code == 0


def test_info_of_what_is_no_network(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    save(seed_example(), tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:1_000_000])
    for name, status in (("text.npz", 3), ("cut.npz", 3), ("none.npz", 2), (".", 11)):
        for command in ("info", "run"):
            result = invoke(command, tmp_path / name)
            assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (status, "", 1), result.output


def test_examples(tmp_path: Path) -> None:
    listed = invoke("example").stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(EXAMPLES) == ["seed", "small", "random-1m"]
    for name in ("seed", "small"):
        result = invoke("example", name, "-o", tmp_path / f"{name}.npz")
        assert (result.exit_code, result.stderr) == (0, "")
        assert f"gpu-npu run {tmp_path}" in result.stdout
        connectome = load(tmp_path / f"{name}.npz")
        assert f"{connectome.neuron_count:,} neurons, {connectome.synapse_count:,} synapses" in EXAMPLES[name].about
        with NPU.from_connectome(connectome, backend="cpu") as npu:
            assert facts("run", name, "--bursts", 300, "--backend", "cpu")["digest"] == npu.run(300, digest=True).digest
            assert npu.process_burst().neuron_count > 50  # alive
    for arguments, status in ((("nothing",), 2), (("seed",), 2), (("-o", "x"), 2), (("small", "-o", tmp_path / "no" / "x"), 11)):
        result = invoke("example", *arguments)
        assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (status, "", 1)


@pytest.mark.long
def test_the_large_example() -> None:
    connectome = EXAMPLES["random-1m"].make()
    assert f"{connectome.neuron_count:,} neurons, {connectome.synapse_count:,} synapses" in EXAMPLES["random-1m"].about
    with NPU.from_connectome(connectome, backend="cpu") as npu:
        assert npu.run(200).fired_counts[-1] > 50_000


def test_the_json_of_run(file: Path, tmp_path: Path) -> None:
    told = facts("run", file, "--bursts", 12, "--backend", "reference", "--record", tmp_path / "r.npz", "--targets")
    assert list(told) == [
        "version", "network", "backend", "backend_reason", "seed", "neurons", "synapses", "memory_bytes", "memory", "memory_bytes_at_end",
        "load_seconds",
        "bursts_asked", "bursts", "bursts_before", "interrupted", "fired", "most_active",
        "sensory_injections", "power_injections", "synaptic_injections", "neurons_processed",
        "neurons_in_refractory", "seconds", "bursts_per_second", "burst_seconds", "synaptic_per_second",
        "phase_bursts", "phase_seconds", "targets", "record", "checkpoint", "digest", "notes",
    ]  # fmt: skip
    with NPU.from_connectome(load(file), backend="reference") as npu:
        run = npu.run(12, digest=True)
    assert (told["digest"], told["fired"], told["synaptic_injections"]) == (run.digest, run.fired_total, run.synaptic_injections)
    assert (told["bursts"], told["interrupted"], told["seed"], told["power_injections"]) == (12, False, 5, 24)
    assert told["burst_seconds"]["mean"] == pytest.approx(told["seconds"] / 12)
    assert told["burst_seconds"]["p50"] <= told["burst_seconds"]["p99"]
    assert told["phase_bursts"] == 12
    assert told["targets"]["propagation"] == {
        "below_seconds": 0.0005,
        "seconds": told["phase_seconds"]["propagation"],
        "met": told["phase_seconds"]["propagation"] < 0.0005,
    }
    assert told["targets"]["rate"]["hertz"] == pytest.approx(12 / told["seconds"])


def test_targets_that_are_missed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("gpu_npu.cli.table")
    monkeypatch.setattr(module, "TARGETS", {"propagation": 1e-12, "dynamics": 1e3, "burst": 1e-12})
    monkeypatch.setattr(module, "TARGET_HZ", 1e12)
    told = invoke("run", "small", "--bursts", 5, "--backend", "reference", "--targets").stdout
    verdicts = {line.split()[0]: "NOT met" in line for line in told.split("\n\n")[1].splitlines()[1:]}
    assert "5 further bursts, phase by phase" in told
    assert verdicts == {"propagation": True, "dynamics": False, "burst": True, "bursts/s": True}


def test_targets_are_graded_where_they_are_asked_for_alone() -> None:
    assert " met" not in invoke("run", "small", "--bursts", 5, "--backend", "reference").stdout
    assert facts("run", "small", "--bursts", 2, "--backend", "reference")["targets"] is None


def test_quiet_and_json() -> None:
    assert invoke("run", "small", "--bursts", 2, "--backend", "reference", "--quiet").output == ""
    assert facts("run", "small", "--bursts", 2, "--backend", "reference", "--quiet")["bursts"] == 2


def test_what_nothing_drives_is_told(tmp_path: Path) -> None:
    connectome = Connectome(10, 0)
    connectome.add_neurons(10)
    save(connectome, tmp_path / "n.npz")
    assert "nothing drives this network" in invoke("run", tmp_path / "n.npz", "--bursts", 3, "--backend", "reference").stdout
    for driven in (("--power", 1), ("--inject", "1:0.001"), ("--rate", "all:0")):
        assert "nothing drives" not in invoke("run", tmp_path / "n.npz", "--bursts", 3, "--backend", "reference", *driven).stdout


def test_help_without_a_command() -> None:
    for arguments in ((), ("--help",), ("-h",)):
        result = invoke(*arguments)
        assert result.exit_code == 0
        assert "Exit status: 0 done;" in result.stdout
