"""Experiments: activated and silenced neurons, trials, rates, and spikes in the files that others read."""

from __future__ import annotations

from pathlib import Path

import libsonata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from gpu_npu import Annotations, Connectome, Digest, NetworkError
from gpu_npu.cli import main
from gpu_npu.io import save
from gpu_npu.recordings import load_recording
from gpu_npu.session import Experiment, Place, Plan, Poisson, experiment, run, silenced

HERE = Place("reference")
ROOTS = np.array([720575940603266592 + 7 * i for i in range(6)], np.uint64)


def chain() -> Connectome:
    """Each neuron makes the next one fire."""
    network = Connectome(6, 6)
    network.add_neurons(6, threshold=1.0)
    network.add_synapses(np.arange(5), np.arange(1, 6), 2, 1)
    network.set_annotations(Annotations(ROOTS, {"side": np.array(["left", "left", "left", "right", "right", "right"])}))
    return network


def test_a_trial_is_a_run_with_its_seed() -> None:
    plan = Experiment(((ROOTS[:2], 200.0),), bursts=60, trials=3, ms=2.0)
    found = experiment(chain(), plan, HERE)
    digests = []
    for trial in range(3):
        network = chain()
        network.set_settings(type(network.settings)(random_seed=trial))
        digest = Digest()
        for burst in range(1, 61):
            of_it = (found.spikes.trial == trial) & (found.spikes.burst == burst)
            digest.update(burst, found.spikes.neuron[of_it])
        digests.append(digest.hexdigest())
        assert digests[-1] == run(network, [Poisson(ROOTS[:2], 0.4)], Plan(60), HERE).digest
    assert len(set(digests)) == 3
    spikes = np.bincount(found.spikes.neuron, minlength=6)
    assert np.allclose(found.rates, spikes / (3 * 60 * 2e-3))
    assert found.rate_by("side") == pytest.approx({"left": found.rates[:3].mean(), "right": found.rates[3:].mean()})
    with pytest.raises(NetworkError, match="'colour' is no column of this network's neurons; its columns: side"):
        found.rate_by("colour")


def test_silenced_neurons_fire_and_deliver_nothing() -> None:
    plan = Experiment((("side=left", 300.0),), (ROOTS[2:3],), bursts=50)
    found = experiment(chain(), plan, HERE)
    assert found.rates[2] > 0 and not found.rates[3:].any()
    network = chain()
    assert silenced(network, ("index:0-1",)).synapse_count == 3 and network.synapse_count == 5


@pytest.mark.parametrize("bad", [{"trials": 0}, {"bursts": 0}, {"ms": 0.0}, {"ms": float("inf")}])
def test_what_is_no_experiment(bad: dict[str, float]) -> None:
    with pytest.raises(NetworkError, match=next(iter(bad))):
        Experiment(**bad)  # type: ignore[arg-type]


def test_files_of_spikes(tmp_path: Path) -> None:
    found = experiment(chain(), Experiment(((ROOTS[:1], 100.0),), bursts=80, trials=2, ms=0.5, name="sugar"), HERE)
    for ending, read in ((".parquet", pd.read_parquet), (".csv", pd.read_csv)):
        found.spikes.write(tmp_path / f"spikes{ending}")
        frame = read(tmp_path / f"spikes{ending}")
        assert list(frame.columns) == ["t", "trial", "flywire_id", "exp_name"] and frame["flywire_id"].dtype == np.int64
        assert np.allclose(frame["t"], (found.spikes.burst - 1) * 0.5e-3) and (frame["trial"] == found.spikes.trial).all()
        assert (frame["flywire_id"] == ROOTS[found.spikes.neuron].astype(np.int64)).all() and set(frame["exp_name"]) == {"sugar"}
    with pytest.raises(NetworkError, match="a file of SONATA holds one trial"):
        found.spikes.write(tmp_path / "spikes.h5")
    with pytest.raises(NetworkError, match=r"whose name ends in \.parquet, \.csv, \.h5"):
        found.spikes.write(tmp_path / "spikes.txt")
    one = experiment(chain(), Experiment(((ROOTS[:1], 100.0),), bursts=80, ms=0.5), HERE)
    one.spikes.write(tmp_path / "spikes.h5")
    spikes = libsonata.SpikeReader(str(tmp_path / "spikes.h5"))["neurons"].get()
    assert [node for node, _ in spikes] == one.spikes.neuron.tolist()
    assert np.allclose([t for _, t in spikes], (one.spikes.burst - 1) * 0.5)


def test_one_command(tmp_path: Path) -> None:
    save(chain(), tmp_path / "chain.npz")
    label, common = str(ROOTS[2]), ["experiment", str(tmp_path / "chain.npz"), "--backend", "reference", "--bursts", "50"]
    rates = str(tmp_path / "rates.csv")
    result = CliRunner().invoke(main, [*common, "--activate", "side=left:300", "--silence", label, "--rates", rates, "--by", "side"])
    assert result.exit_code == 0, result.output
    assert "experiment: 1 trials of 50 bursts of 1 ms on reference" in result.stdout
    frame = pd.read_csv(rates)
    assert set(frame["flywire_id"]) == set(ROOTS[:3].astype(np.int64))
    wrong = CliRunner().invoke(main, [*common, "--activate", "side=up:300"])
    assert wrong.exit_code == 2 and "no neuron has side=up; there are: left, right" in wrong.stderr
    run_of_it = CliRunner().invoke(main, ["run", *common[1:], "--inject", f"{ROOTS[0]}:5", "--silence", "all", "--json"])
    assert run_of_it.exit_code == 0 and '"fired": 50,' in run_of_it.stdout


@pytest.mark.parametrize("every", [None, 20])
def test_records_keep_labels(every: int | None, tmp_path: Path) -> None:
    plan = Plan(40, record=tmp_path / "fired.npz", checkpoint=None if every is None else tmp_path / "run.ckpt", every=every)
    run(chain(), [Poisson(ROOTS[:1], 0.5)], plan, HERE)
    for path in tmp_path.glob("fired*.npz"):
        known = load_recording(path).annotations
        assert known.labels is not None and (known.labels == ROOTS).all()
        assert known.select("side", ("left",)).tolist() == [0, 1, 2]
    assert len(list(tmp_path.glob("fired*.npz"))) == (1 if every is None else 2)


def test_records_become_tables_of_spikes(tmp_path: Path) -> None:
    result = run(chain(), [Poisson(ROOTS[:1], 0.5)], Plan(40, record=tmp_path / "fired.npz"), HERE)
    recording = load_recording(tmp_path / "fired.npz")
    recording.spikes(2.0, "sugar").write(tmp_path / "spikes.parquet")
    frame = pd.read_parquet(tmp_path / "spikes.parquet")
    assert len(frame) == result.fired and set(frame["exp_name"]) == {"sugar"}
    for burst in range(1, 41):
        there = frame[np.isclose(frame["t"], (burst - 1) * 2e-3)]
        assert there["flywire_id"].tolist() == ROOTS[recording.fired_in(burst)].tolist()
    often = frame["flywire_id"].value_counts()
    assert {one.name: one.fired for one in result.most_active} == {str(root): count for root, count in often.items()}
