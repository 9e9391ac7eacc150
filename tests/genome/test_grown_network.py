"""What becomes of the tables in the network: flags, units, clamps, and that a saved brain is the same brain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data
from genomes import area, genome, rule

from gpu_npu import NPU
from gpu_npu.connectome import NEURON_FIELDS, SYNAPSE_FIELDS, Connectome, NetworkError, Rules
from gpu_npu.genome import NetworkOptions, grow
from gpu_npu.io import load, save


def assert_equal(one: Connectome, other: Connectome) -> None:
    for name in (*NEURON_FIELDS, "valid", "created"):
        np.testing.assert_array_equal(one.neurons[name], other.neurons[name], err_msg=name)
    for name in (*SYNAPSE_FIELDS, "valid"):
        np.testing.assert_array_equal(getattr(one.synapses, name), getattr(other.synapses, name), err_msg=name)
    assert one.synapses.weight.dtype == other.synapses.weight.dtype and one.synapses.psp.dtype == other.synapses.psp.dtype
    assert dict(one.areas) == dict(other.areas)
    assert one.settings == other.settings


def test_areas_and_their_flags() -> None:
    brain = grow(genome({"cAAAAA": area(name="eye", uniform=True), "cBBBBB": area(driven=True), "_power": area((1, 1, 1), name="Power")}))
    found = {area.name: area for area in brain.connectome.areas.values()}
    assert found["eye"].psp_uniform and not found["eye"].mp_driven_psp and not found["eye"].power
    assert not found["cBBBBB__"].psp_uniform and found["cBBBBB__"].mp_driven_psp
    assert [name for name, area in found.items() if area.power] == ["Power"]
    ids = brain.connectome.neurons.cortical_area
    assert [brain.areas[i].neuron_count for i in range(len(brain.areas))] == np.bincount(ids).tolist()


@pytest.mark.parametrize("rules", ["feagi-2.6", "feagi-2.6-fp32"])
def test_rules(rules: str) -> None:
    assert grow(genome({}), NetworkOptions(rules=rules)).connectome.settings.rules == Rules.preset(rules)


def test_the_default_rules_are_feagis() -> None:
    assert grow(genome({})).connectome.settings.rules == Rules.preset("feagi-2.6")


def test_leaks_and_excitabilities_are_brought_into_range() -> None:
    areas = {"cAAAAA": area((1, 1, 1), leak=10), "cBBBBB": area((1, 1, 2), leak=-5), "cCCCCC": area((1, 1, 1), **{"excite-f": 50})}
    brain = grow(genome(areas))
    assert brain.neurons.leak_coefficient[7:].tolist() == [10, -5, -5, 0]
    assert brain.connectome.neurons.leak_coefficient[7:].tolist() == [1, 0, 0, 0]
    assert brain.neurons.excitability[-1] == 50 and brain.connectome.neurons.excitability[-1] == 1
    assert brain.report.leaks_clamped == 3
    assert "1 neurons have a leak coefficient above 1 (up to 10), taken as 1" in brain.report.warnings
    assert "2 neurons have a leak coefficient below 0 (down to -5), taken as 0" in brain.report.warnings


def test_a_negative_psp_turns_the_type() -> None:
    areas = {"cAAAAA": area((1, 1, 1), {"cBBBBB": [rule(psc=2), rule(psc=-3)]}, psp=-7), "cBBBBB": area((1, 1, 1))}
    brain = grow(genome(areas))
    assert sorted(zip(brain.synapses.weight, brain.synapses.psp, brain.synapses.inhibitory, strict=True)) == [(2, -7, False), (3, -7, True)]
    synapses = brain.connectome.synapses
    assert sorted(zip(synapses.weight, synapses.psp, synapses.inhibitory, strict=True)) == [(2, 7, True), (3, 7, False)]
    assert brain.report.negative_psps == 2


def test_delays() -> None:
    late = genome({"cAAAAA": area(to={"cBBBBB": [rule(synaptic_delay_bursts=4), rule()]}), "cBBBBB": area()})
    brain = grow(late)
    assert np.bincount(brain.synapses.delay).tolist() == [0, 8, 0, 0, 8]
    assert brain.report.delayed_synapses == 8
    assert brain.connectome.synapses.delay.tolist() == brain.synapses.delay.tolist() and not brain.report.warnings
    prompt = grow(late, NetworkOptions(delays="one"))
    assert prompt.connectome.synapses.delay_range == (1, 1)
    assert "8 synapses have a delay above one burst, the longest 4; they are taken as one" in prompt.report.warnings


def test_fractions_stay_float32() -> None:
    areas = {"cAAAAA": area((1, 1, 1), {"cBBBBB": [rule(psc=0.4), rule(psc=-3)]}, psp=2.7), "cBBBBB": area((1, 1, 1))}
    network = grow(genome(areas)).connectome
    assert network.weight_dtype is network.psp_dtype is np.float32 and network.settings.contribution_scale == 1
    assert network.synapses.psp.tolist() == [np.float32(2.7)] * 2
    assert sorted(network.synapses.weight.tolist()) == [np.float32(0.4), 3]


def test_a_weight_beyond_16_bits_is_a_float_too_and_what_cannot_be_summed_is_refused() -> None:
    def grown(weight: float) -> Connectome:
        to = {"cBBBBB": [rule(psc=1), rule(psc=weight)]}
        return grow(genome({"cAAAAA": area((1, 1, 2), to, psp=2), "cBBBBB": area((1, 1, 2))})).connectome

    assert grown(65535).weight_dtype is np.uint16
    network = grown(1e6)
    assert network.weight_dtype is np.float32 and network.psp_dtype is np.uint8 and network.synapses.weight.max() == 1e6
    with pytest.raises(NetworkError, match=r"weight 2000000000\.0 \* psp 2\.0 = 4000000000\.0 is not below"):
        grown(2e9)


@pytest.mark.parametrize(("rules", "expected"), [("feagi-2.6", [0, 3, 255, 255]), ("feagi-2.6-fp32", [-5, 3, 300, 1e9])])
def test_thresholds_are_brought_into_what_potentials_can_be(rules: str, expected: list[float]) -> None:
    limits = {"fthlim-f": 0}, {"fthlim-f": 200}, {"fthlim-f": 255}, {"fthlim-f": 900}
    names = [f"c{letter * 5}" for letter in "ABCD"]
    areas = {
        name: area((1, 1, 1), threshold=threshold, **limit) for name, threshold, limit in zip(names, (-5, 3, 300, 1e9), limits, strict=True)
    }
    brain = grow(genome(areas), NetworkOptions(rules=rules))
    ids = [int(np.flatnonzero(brain.neurons.threshold == np.float32(threshold))[0]) for threshold in (-5, 3, 300, 1e9)]
    neurons, cut = brain.connectome.neurons, rules == "feagi-2.6"
    assert neurons.threshold[ids].tolist() == expected
    assert neurons.threshold_limit[ids].tolist() == ([np.inf, 200, 255, 255] if cut else [np.inf, 200, 255, 900])
    assert (brain.report.thresholds_clamped, brain.report.threshold_limits_clamped) == ((3, 1) if cut else (0, 0))
    assert ("3 neurons have a threshold outside 0..255 (-5 to 1e+09), brought into it" in brain.report.warnings) == cut
    assert brain.neurons.threshold[ids].tolist() == [-5, 3, 300, 1e9]


def test_every_parameter_arrives() -> None:
    keys = ("fire_t-f", "fthlim-f", "leak_c-f", "refrac-i", "excite-f", "c_fr_c-i", "snooze-f", "mp_acc-b")
    values = dict(zip(keys, (7, 9, 0.25, 3, 0.5, 5, 6, True), strict=True))
    neurons = grow(genome({"cAAAAA": area((1, 1, 1), **values)})).connectome.neurons
    fields = ("threshold", "threshold_limit", "leak_coefficient", "refractory_period", "excitability", "consecutive_fire_limit")
    found = [neurons[name][7].item() for name in (*fields, "snooze_period", "mp_charge_accumulation")]
    assert found == list(values.values())


def test_which_neuron_of_a_voxel() -> None:
    """Every neuron of the source's voxel, the last one of the target's; from corner to corner the first."""
    areas = {
        "cAAAAA": area((2, 1, 1), {"cBBBBB": [rule()], "cCCCCC": [rule("first_to_last")]}, per_voxel=2),
        "cBBBBB": area((2, 1, 1), per_voxel=3),
        "cCCCCC": area((2, 1, 1), per_voxel=3),
    }
    synapses = grow(genome(areas)).synapses
    a, b, c = 7, 11, 17
    expected = [(a, b + 2), (a, c + 3), (a + 1, b + 2), (a + 1, c + 3), (a + 2, b + 5), (a + 3, b + 5)]
    assert list(zip(synapses.source.tolist(), synapses.target.tolist(), strict=True)) == expected


def test_thresholds_depend_on_the_place() -> None:
    """In float32, x before y before z."""
    brain = grow(genome({"cAAAAA": area((50, 7, 3), threshold=1.3, **{"ftincx-f": 0.1, "ftincy-f": 0.7, "ftincz-f": -100.1})}))
    f = np.float32
    expected = [
        f(f(f(1.3) + f(f(x) * f(0.1))) + f(f(y) * f(0.7))) + f(f(z) * f(-100.1)) for x in range(50) for y in range(7) for z in range(3)
    ]
    assert brain.neurons.threshold[7:].tolist() == [float(value) for value in expected]
    with pytest.raises(NetworkError, match="area cAAAAA: firing_threshold 3e.38 with increments"):
        grow(genome({"cAAAAA": area((2, 2, 2), threshold=3e38, **{"ftincx-f": 3e38})}))


def test_what_happens_at_run_time_is_said() -> None:
    plastic = rule(plasticity_flag=True, plasticity_constant=0.5, ltp_multiplier=2, ltd_multiplier=3, plasticity_window=4)
    areas = {
        "cAAAAA": area(to={"cBBBBB": [plastic], "mMMMMM": [rule("episodic_memory")]}, driven=True, **{"de_gen-f": 0.01}),
        "cBBBBB": area(**{"de_gen-f": 0.5}),
        "mMMMMM": area(),
    }
    brain = grow(genome(areas))
    (mapping,) = (m for m in brain.mappings if m.plastic)
    assert (mapping.rule.constant, mapping.rule.ltp, mapping.rule.ltd, mapping.rule.window, mapping.synapses) == (0.5, 2, 3, 4, 8)
    said = "\n".join(brain.report.warnings)
    (memory,) = (one.title for one in brain.areas if "MMMMM" in one.title)
    assert sorted(area.degeneration for area in brain.connectome.areas.values())[-2:] == [0, np.float32(0.01)]
    for part in (
        f"1 areas are memories, and form no patterns here as they do in FEAGI: {memory}\n",
        "episodic_memory makes no synapses",
        "1 areas deliver the potential",
    ):
        assert part in said


def test_progress() -> None:
    heard: list[tuple[str, int, int]] = []
    grow(genome({"cAAAAA": area(to={"cAAAAA": [rule(), rule()]})}), progress=lambda *step: heard.append(step))
    assert heard == [("neurons", 0, 15), ("neurons", 15, 15), ("mappings", 1, 2), ("mappings", 2, 2)]


@pytest.mark.parametrize("name", ["barebones", "essential", "community_learning"])
def test_a_saved_brain_is_the_same(name: str, tmp_path: Path) -> None:
    grown = grow(shared_data() / "genomes" / f"{name}_genome.json").connectome
    save(grown, tmp_path / "brain.npz")
    again = load(tmp_path / "brain.npz")
    assert_equal(grown, again)
    assert sum(area.power for area in again.areas.values()) == 1
    assert len({area.name for area in again.areas.values()}) > 5


def test_a_grown_brain_can_be_edited_and_saved(tmp_path: Path) -> None:
    grown = grow(shared_data() / "genomes" / "essential_genome.json")
    with NPU.from_connectome(grown.connectome, synapse_capacity=2000, backend="reference") as npu:
        npu.add_synapse(4, 100, 3, 9)
        npu.set_area_parameter("threshold", 7, 4.5)
        edited = npu.to_connectome()
    save(edited, tmp_path / "edited.npz")
    again = load(tmp_path / "edited.npz")
    assert_equal(edited, again)
    assert again.synapse_count == len(grown.synapses) + 1
    assert {area.name for area in again.areas.values()} == {area.name or area.text for area in grown.areas}
