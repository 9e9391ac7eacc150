"""Genomes on the command line: grown by grow, accepted wherever a network is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import shared_data

from gpu_npu import NPU
from gpu_npu.cli import main
from gpu_npu.genome import grow
from gpu_npu.io import load


def call(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_grow_writes_a_network_with_its_areas(tmp_path: Path) -> None:
    genome = shared_data() / "genomes" / "essential_genome.json"
    status, out, err = call("grow", genome, "-o", tmp_path / "brain.npz")
    assert status == 0
    assert "55,363 neurons in 30 areas, 1,552 synapses" in out
    assert "leak coefficient above 1 (up to 10), taken as 1" in err
    brain = load(tmp_path / "brain.npz")
    assert brain.neuron_count == 55_363
    assert {area.name for area in brain.areas.values()} >= {"Brain_Power", "vision_LL", "Motor Output"}
    assert sum(area.power for area in brain.areas.values()) == 1
    assert "nothing drives this network: no synapse leaves its power area" in err and "--seed" not in err
    assert "--seed has no effect" in call("grow", genome, "-o", tmp_path / "brain.npz", "--seed", "3")[2]


def test_a_genome_is_a_network_for_info_and_run(tmp_path: Path) -> None:
    genome = shared_data() / "genomes" / "essential_genome.json"
    status, out, _ = call("info", genome, "--json")
    facts = json.loads(out)
    assert (status, facts["neurons"], facts["synapses"], len(facts["areas"])) == (0, 55_363, 1_552, 30)
    assert sum(mapping["synapses"] for mapping in facts["mappings"]) == 1_552
    assert "vision_LM -> backward: 768 synapses" in call("info", genome)[1]
    grown, from_file = (
        json.loads(call("run", network, "--bursts", "50", "--json", "--backend", "reference")[1])
        for network in (genome, tmp_path / "brain.npz" if call("grow", genome, "-o", tmp_path / "brain.npz")[0] == 0 else "")
    )
    assert grown["digest"] == from_file["digest"]
    assert grown["fired"] == 50  # the power neuron
    assert grown["notes"] == ["nothing was delivered: none of the 1,552 synapses leaves a neuron that fired"]


def test_an_export_is_a_network() -> None:
    pytest.importorskip("lz4")
    status, out, _ = call("info", shared_data() / "feagi_reference" / "essential.connectome", "--json")
    facts = json.loads(out)
    assert (status, facts["neurons"], facts["synapses"]) == (0, 55_363, 1_552)


@pytest.mark.parametrize("command", [["grow", "-o", "never.npz"], ["run"], ["info"]])
def test_a_damaged_genome_is_one_line(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text('{"genome_id": "x", "blueprint": {"_____10c-')
    status, out, err = call(command[0], path, *command[1:])
    assert (status, out) == (3, "")
    assert err.startswith("Error: ")
    assert "cut.json" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["BRAIN.JSON", "brain", "brain.genome", "brain.npz"])
def test_a_genome_is_told_by_its_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes((shared_data() / "genomes" / "barebones_genome.json").read_bytes())
    assert json.loads(call("info", path, "--json")[1])["neurons"] == grow(path).connectome.neuron_count


def test_a_network_is_told_by_its_content(tmp_path: Path) -> None:
    status, _, _ = call("example", "small", "-o", tmp_path / "small.json")
    assert status == 0
    assert json.loads(call("info", tmp_path / "small.json", "--json")[1])["neurons"] == 1000
    status, _, err = call("grow", tmp_path / "small.json", "-o", tmp_path / "never.npz")
    assert status == 3 and "small.json: a .npz file, not a JSON file" in err
    with NPU.from_connectome(load(tmp_path / "small.json"), backend="reference") as npu:
        npu.snapshot().write(tmp_path / "run.npz")
    status, _, err = call("run", tmp_path / "run.npz")
    assert status == 2 and f"is a checkpoint of a run; --resume {tmp_path / 'run.npz'} goes on from it" in err
