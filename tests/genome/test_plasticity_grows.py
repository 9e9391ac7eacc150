"""Plastic mapping rules become FeagiRules as FEAGI registers them; what it does not apply, and what that takes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data
from genomes import area, genome, rule
from numpy.typing import NDArray

from gpu_npu import FeagiRule
from gpu_npu.genome import Grown, grow
from gpu_npu.genome.plasticity import feagi_rules
from gpu_npu.genome.report import Report

NETWORKS = ("plastic_windows", "plastic_parameters", "plastic_pairs_fp32", "plastic_net_fp32")


def recorded(name: str) -> tuple[Path, dict[str, NDArray[Any]]]:
    path = shared_data() / "feagi_reference" / "plastic" / f"{name}.json"
    with np.load(path.with_suffix(".npz")) as file:
        return path, {key: file[key] for key in file.files}


def rules(brain: Grown) -> dict[tuple[str, str], FeagiRule]:
    found = feagi_rules(brain.areas, brain.mappings, Report())
    return {(brain.areas[rule.source_area].text, brain.areas[rule.target_area].text): rule for rule in found}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_grows_is_what_feagi_grew(name: str) -> None:
    """Ends, types and delays of all synapses: mappings that are lost to a bad plastic rule are lost here."""
    path, expected = recorded(name)
    synapses = grow(path).synapses
    for theirs, ours in {"s_src": "source", "s_dst": "target", "s_type": "inhibitory", "s_delay": "delay", "s_psp0": "psp"}.items():
        np.testing.assert_array_equal(getattr(synapses, ours).astype(expected[theirs].dtype), expected[theirs], err_msg=ours)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parameters_are_those_of_feagi(name: str) -> None:
    """Of every pair of areas the last plastic rule that it holds, unless that is frozen."""
    path, expected = recorded(name)
    found = rules(grow(path))
    steps = {}
    last: dict[tuple[str, str], int] = {}
    lost = {"cS0005__", "cS0006__", "cS0025__"} if name == "plastic_parameters" else set()  # FEAGI lists them, and makes no synapses
    for i in np.lexsort((expected["m_rule"], expected["m_dst"], expected["m_src"])):
        source, target = (str(expected["a_text"][expected[f"m_{end}"][i]]) for end in ("src", "dst"))
        if expected["m_plastic"][i] and source not in lost and not (source == "cS0023__" and name == "plastic_parameters"):
            last[source, target] = int(i)
    for pair, i in last.items():
        eta, constant = expected["m_eta"][i], int(expected["m_const"][i])
        up, down = (np.float32(np.clip(constant * int(expected[f"m_{end}"][i]), 0, 255)) * eta for end in ("ltp", "ltd"))
        most = None if expected["m_max_weight"][i] > 3e38 else float(expected["m_max_weight"][i])
        if not expected["m_frozen"][i] and (up or down or most is not None):
            steps[pair] = expected["m_window"][i], up, down, most
    assert {pair: (one.window, one.up, one.down, one.max_weight) for pair, one in found.items()} == steps


def said(**keys: object) -> str:
    """The warnings about a plastic rule with these keys, between two areas."""
    plastic = {"plasticity_flag": True, "plasticity_constant": 1, "ltp_multiplier": 1, "ltd_multiplier": 1, "plasticity_window": 1}
    to = {"cBBBBB": [rule(**plastic | keys)], "cCCCCC": [rule()]}
    return "\n".join(grow(genome({"cAAAAA": area(to=to), "cBBBBB": area(), "cCCCCC": area()})).report.warnings)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ltp_multiplier": 128}, "ltp_multiplier 128 is outside -128..127; it makes no synapses"),
        ({"ltd_multiplier": -129.5}, "ltd_multiplier -129.5 is outside"),
        ({"plasticity_constant": "much"}, "plasticity_constant 'much' is no number"),
        ({"plasticity_window": 0.9}, "plasticity_window is 0"),
    ],
)
def test_a_bad_plastic_rule_takes_the_rest_of_its_area_with_it(keys: dict[str, object], message: str) -> None:
    assert message in said(**keys) and "lost here: cCCCCC by projector" in said(**keys)


def test_what_is_not_computed_is_told() -> None:
    assert "cAAAAA -> cBBBBB" in said(plasticity_mode="rstdp") and "left out" in said(plasticity_mode="rstdp")
    assert "'modulators' is not a key of a rule" in said(modulators=[1])
    assert "without a max_weight in FEAGI" in said() and "max_weight" not in said(plasticity_frozen=True) + said(plasticity_mode="off")
