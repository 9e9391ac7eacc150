"""Other engines beside ours: they fire the same neurons, and one that does not, or is not there, is told."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profiling import engines, workloads
from profiling.libraries import PERIOD, Arrays, Ids, Network, OurRun

BURSTS = 40
ROUNDS = engines.ROUNDS + 1


@pytest.fixture
def network() -> Network:
    return Network.random(700, 20)


def by_hand(network: Network, bursts: int) -> list[Ids]:
    """The model in Python's integers, synapse by synapse."""
    potential, countdown = [int(value) for value in network.potential], [0] * network.neurons
    driven, fired, recorded = set(network.driven.tolist()), [], []
    for _ in range(bursts):
        arriving = [int(network.amount) if j in driven else 0 for j in range(network.neurons)]
        for i in fired:
            for j, weight in zip(network.target[i].tolist(), network.weight[i].tolist(), strict=True):
                arriving[j] += -weight if i % 2 else weight
        fired = []
        for j in range(network.neurons):
            if countdown[j]:
                countdown[j] -= 1
                continue
            potential[j] = max(potential[j] + arriving[j], 0)
            if potential[j] >= network.threshold:
                potential[j], countdown[j] = 0, PERIOD
                fired.append(j)
        recorded.append(np.array(fired, np.uint32))
    return recorded


def test_the_model_is_what_it_says(network: Network) -> None:
    expected = by_hand(network, BURSTS)
    assert min(map(len, expected)) > 0 and 5 < np.mean(list(map(len, expected))) < 70  # neither silent nor a storm
    for backend in ("reference", "cpu"):
        subject = OurRun(network, workloads.maker(backend))
        assert engines.digest(subject.run(BURSTS)) == engines.digest(expected)
        subject.close()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("name", engines.contenders("cpu", None))
def test_every_engine_fires_the_same(name: str, network: Network, tmp_path: Path) -> None:
    needed = {"gpu-npu": "numpy", "genn": "pygenn"}.get(library := name.split()[0], library)
    if find_spec(needed) is None:
        if needed == "scipy" and os.environ.get("CI"):
            pytest.fail("SciPy is not installed")
        pytest.skip(f"{needed} is not installed")
    expected = by_hand(network, 2 * BURSTS)
    engine = engines.contenders("cpu", None)[name](network, max(map(len, expected)), BURSTS, tmp_path)
    for part in (expected[:BURSTS], expected[BURSTS:]):
        assert engines.digest(engine.run(BURSTS)) == engines.digest(part)
    engine.close()


def test_sums_that_are_not_exact_are_refused(network: Network) -> None:
    with pytest.raises(ValueError, match="not exact in float32"):
        Network(**{**vars(network), "threshold": 2.0**24}).connectome  # noqa: B018


class Wrong(Arrays):
    """Leaves one neuron out of its third round."""

    rounds = 0

    def run(self, bursts: int) -> list[Ids]:
        fired = super().run(bursts)
        self.rounds += 1
        if self.rounds == 3:
            fired[0] = fired[0][1:]
        return fired


def absent(*_: Any) -> Any:
    raise ModuleNotFoundError("No module named 'beside'")


def broken(*_: Any) -> Any:
    raise RuntimeError("not on this machine")


def test_what_is_wrong_absent_or_broken_is_told_and_the_rest_is_timed(network: Network) -> None:
    ours = workloads.maker("reference")
    makers: dict[str, Any] = {
        "ours": lambda network, *_: OurRun(network, ours),
        "wrong": lambda network, *_: Wrong(network, np, None),
        "absent": absent,
        "broken": broken,
        "numpy": lambda network, *_: Arrays(network, np, None),
    }
    told = engines.compare(network, makers, 10, 60)
    rows = {row["engine"]: row for row in told["engines"]}
    assert [rows[name]["status"] for name in makers] == ["ran", "failed", "unavailable", "failed", "ran"]
    assert rows["wrong"]["problem"] == "fires other neurons, in round 3 or before" and "us_per_burst" not in rows["wrong"]
    assert "No module named 'beside'" in rows["absent"]["problem"] and "not on this machine" in rows["broken"]["problem"]
    assert rows["ours"]["times_ours"] == 1 and rows["ours"]["rounds"] == rows["numpy"]["rounds"] == engines.ROUNDS
    assert rows["numpy"]["times_ours"] == pytest.approx(rows["numpy"]["us_per_burst"] / rows["ours"]["us_per_burst"])
    fired = by_hand(network, 10 * ROUNDS)[10:]
    assert told["fired"] == np.mean(list(map(len, fired))) and told["events"] == 20 * told["fired"]
    assert rows["numpy"]["events_per_s"] == pytest.approx(1e6 * told["events"] / rows["numpy"]["us_per_burst"])


def test_an_engine_that_takes_too_long_keeps_what_it_did(network: Network) -> None:
    makers: dict[str, Any] = {"slow": lambda network, *_: Arrays(network, np, None)}
    (row,) = engines.compare(network, makers, 10, 1e-9)["engines"]
    assert (row["status"], row["rounds"]) == ("ran", 1)


def test_the_file_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(engines, "SIZES", {"small": (500, 10, 10), "smaller": (300, 10, 10)})
    path = tmp_path / "e.json"
    arguments = ["--backend", "cpu", "--commit", "abc", "--only", "numpy", "--only", "tor", "--json", str(path)]
    assert engines.main(arguments) == 0
    report = json.loads(path.read_text())
    assert [network["name"] for network in report["networks"]] == ["small", "smaller"]
    assert [row["engine"] for row in report["networks"][0]["engines"]] == [
        "gpu-npu run", "gpu-npu process_burst", "numpy rows", "torch product", "torch rows",
    ]  # fmt: skip
    assert report["libraries"]["numpy"] == np.__version__ and report["commit"] == "abc" and report["device"].startswith("CPU")
    assert "numpy rows" in capsys.readouterr().out
