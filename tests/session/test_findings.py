"""What a run tells of itself: nothing driven, nothing delivered, activity that feeds itself, input that is not used."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shared_data

from gpu_npu import Area, Connectome, Settings
from gpu_npu.cli import main
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save
from gpu_npu.session import Inject, Place, Power, Rate, Result, Schedule, run


def chain(**fields: Any) -> Connectome:
    """Ten neurons, of which each excites the next, the last none; threshold 1."""
    connectome = Connectome(10, 9, areas={1: Area("power", power=True)})
    connectome.add_neurons(10, **fields)
    connectome.add_synapses(np.arange(9), np.arange(1, 10), 2, 1)
    return connectome


def ran(connectome: Connectome, *stimuli: Any, bursts: int = 20) -> Result:
    return run(connectome, stimuli, bursts, Place("reference"))


def notes(connectome: Connectome, *stimuli: Any, bursts: int = 20) -> str:
    return "\n".join(map(str, ran(connectome, *stimuli, bursts=bursts).notes))


def test_a_run_in_order_is_told_nothing() -> None:
    assert notes(chain(), Inject("0", every=5)) == ""
    assert notes(chain(), Power("9")) == "nothing was delivered: none of the 9 synapses leaves a neuron that fired"
    assert notes(chain(), Power("9"), bursts=1) == ""  # what fires in the last burst delivers in the next


def test_nothing_fires() -> None:
    assert "nothing drives this network" in notes(chain())
    assert "nothing can fire: the network has no neurons" in notes(Connectome(0, 0))
    assert "the excitability of every neuron is 0" in notes(chain(excitability=0.0), Power("all"))
    assert "nothing fired: 40 times a neuron was driven (2 power neurons, by 1), and the lowest threshold is 50" in notes(
        chain(threshold=50.0), Power("0,1")
    )


def test_nothing_is_delivered() -> None:
    lonely = Connectome(3, 0)
    lonely.add_neurons(3)
    assert notes(lonely, Power("0")) == "nothing was delivered: the network has no synapses"


def test_stimuli_that_do_nothing() -> None:
    assert "stimulus 2 of 2 injects nothing: its rate is 0" in notes(chain(), Inject("0"), Rate("all", 0.0))
    assert "stimulus 1 of 1 changes nothing: it injects potentials of 0" in notes(chain(), Inject("0", 0.0))
    late = Schedule([1, 21, 90], [0, 0, 0])
    assert "2 of 3 scheduled injections are for bursts after burst 20, the last of this run" in notes(chain(), late)
    assert notes(chain(), late, bursts=90) == ""


def test_activity_that_feeds_itself_is_told() -> None:
    wild = fixed_out_degree(300, 20, seed=2, weight=(5, 9), threshold=1.0)
    assert "activity feeds itself: " in notes(wild, Rate("all", 0.01))
    assert notes(wild, Rate("all", 0.6)) == ""  # they are driven to
    assert notes(fixed_out_degree(300, 20, seed=2, weight=(5, 9), threshold=300.0), Rate("all", 0.01, 300.0)) == ""


def proposed(file: Path, label: str) -> list[str]:
    """The options that the table of a run proposes after a label."""
    out = CliRunner().invoke(main, ["run", str(file), "--bursts", "40", "--backend", "cpu"]).stdout
    note = " ".join(out[out.index("\nnote ") :].split())
    return shlex.split(note[note.index(label) + len(label) :])


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("threshold", [1.0, 40.0, 5000.0])
def test_the_proposed_options_make_a_network_fire_but_not_by_itself(tmp_path: Path, threshold: float, uniform: bool) -> None:
    areas = {0: Area(psp_uniform=uniform)}
    save(fixed_out_degree(1000, 30, seed=2, weight=(5, 30), psp=7, threshold=threshold, areas=areas), tmp_path / "net.npz")
    options = proposed(tmp_path / "net.npz", "; try ")
    assert _share(tmp_path / "net.npz", options) < 0.2


def test_the_proposed_options_on_the_fly_hemisphere() -> None:
    file = shared_data() / "flywire_right.npz"
    assert 0.01 < _share(file, proposed(file, "; try ")) < 0.2


def _share(file: Path, options: list[str]) -> float:
    """The share of neurons that fire in a burst, with options as they are proposed."""
    given = dict(zip(options[::2], options[1::2], strict=True))
    connectome = load(file)
    if "--threshold" in given:
        connectome.write("threshold", np.arange(connectome.neuron_count), float(given["--threshold"]))
    what, probability, potential = given["--rate"].split(":")
    result = run(connectome, [Rate(what, float(probability), float(potential))], 40, Place("cpu"))
    assert result.fired > 0 and not result.notes
    return result.fired / result.bursts / result.neurons


def test_options_without_effect_are_told(tmp_path: Path) -> None:
    quiet = chain()
    quiet.set_settings(Settings(power_amount=0.0))
    save(quiet, tmp_path / "net.npz")

    def told(*options: object) -> str:
        done = CliRunner().invoke(main, ["run", str(tmp_path / "net.npz"), "--bursts", "9", "--backend", "reference", *map(str, options)])
        assert done.exit_code == 0, done.output
        return done.stderr

    assert told("--inject", "0", "--every", 2, "--potential", 3) == ""
    assert told("--every", 2) == "Note: --every has no effect without --inject\n"
    assert told("--inject", "0:2", "--potential", 3) == "Note: --potential has no effect: each stimulus names its own\n"
    assert told("--inject", "0", "--seed", 3) == "Note: --seed has no effect: nothing in this run is random\n"
    assert told("--rate", "0:0.5", "--seed", 3) == ""
    assert told("--power", "0") == "Note: --power has no effect: the network's power amount is 0\n"
    late = told("--inject", "0", "--checkpoint-every", 10, "--checkpoint", tmp_path / "x.ckpt")
    assert late == "Note: --checkpoint-every 10 is more than the 9 bursts: one checkpoint is written, at the end\n"
