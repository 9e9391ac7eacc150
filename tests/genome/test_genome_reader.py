"""Both forms of a genome, and genomes that are damaged: each a clear error."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared_data
from genomes import area, genome, hierarchical, rule

from gpu_npu.connectome import CapacityError, FileFormatError, NetworkError
from gpu_npu.genome import Grown, NetworkOptions, Report, grow, read_genome
from gpu_npu.genome.areas import AXES_OF, FLAT
from gpu_npu.genome.ids import area_id

LEARNS = {"plasticity_flag": True, "plasticity_constant": 1, "ltp_multiplier": 1, "ltd_multiplier": 1, "plasticity_window": 1}

GENOME = genome(
    {
        "cAAAAA": area((3, 2, 1), {"cBBBBB": [rule("projector", -2)]}, name="here", threshold=2.5, psp=7, uniform=True),
        "cBBBBB": area((3, 2, 2), name="there", per_voxel=2, leak=0.5, refractory=3),
    }
)


def put(key: str, value: Any) -> dict[str, Any]:
    """GENOME with one more flat key."""
    return {**GENOME, "blueprint": {**GENOME["blueprint"], key: value}}


def same(one: Grown, other: Grown) -> None:
    for table in ("neurons", "synapses"):
        for name in vars(getattr(one, table)):
            np.testing.assert_array_equal(getattr(getattr(one, table), name), getattr(getattr(other, table), name), err_msg=name)
    assert [(a.id, a.name, a.dimensions, a.psp) for a in one.areas] == [(a.id, a.name, a.dimensions, a.psp) for a in other.areas]


# -- what is read --------------------------------------------------------------------------------------------------
def test_a_small_genome() -> None:
    grown = grow(GENOME)
    assert len(grown.areas) == 7 + 2
    assert len(grown.neurons) == 7 + 6 + 24
    assert len(grown.synapses) == 12
    assert grown.synapses.inhibitory.all()
    assert set(grown.synapses.weight.tolist()) == {2.0} and set(grown.synapses.psp.tolist()) == {7.0}
    assert grown.report.warnings == []


@pytest.mark.parametrize("version", ["2.1", "3.0"])
def test_flat_and_hierarchical_are_one(version: str) -> None:
    same(grow(GENOME), grow(hierarchical(GENOME, version)))


def test_a_file_is_read_like_the_object_in_it(tmp_path: Path) -> None:
    path = tmp_path / "brain.genome"
    path.write_text(json.dumps(GENOME))
    same(grow(GENOME), grow(path))
    same(grow(GENOME), grow(str(path)))


def test_ids_in_base64() -> None:
    """As FEAGI saves version 3.0: flat, and areas by their 8 bytes."""
    names = {"cAAAAA": base64.b64encode(b"cAAAAA__").decode(), "cBBBBB": base64.b64encode(b"cBBBBB__").decode()}
    text = json.dumps(GENOME)
    for old, new in names.items():
        text = text.replace(old, new)
    same(grow(GENOME), grow({**json.loads(text), "version": "3.0", "genome_schema_version": 7}))


def test_a_real_genome_in_the_other_form() -> None:
    flat = json.loads((shared_data() / "genomes" / "essential_genome.json").read_text())
    areas: dict[str, dict[str, Any]] = {}
    for key, value in flat["blueprint"].items():
        _, name, _, short = key.split("-", 3)
        found = FLAT.get(short)
        if found is None:
            continue
        if len(AXES_OF[found.long]) > 1:
            areas.setdefault(name, {}).setdefault(found.long, [0] * len(AXES_OF[found.long]))[found.axis or 0] = value
        else:
            areas.setdefault(name, {})[found.long] = value
    same(grow(flat), grow({**flat, "version": "3.0", "blueprint": areas}))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_power", b"___power"),
        ("___pwr", b"___power"),
        ("_fatigue", b"___fatig"),
        ("___power", b"___power"),
        ("iic400", b"isvi\x49\0\0\0"),
        ("iv00TM", b"isvi\x79\0\0\0"),
        ("omot00", b"omot\x05\0\0\0"),
        ("o_mctl", b"co_mctl_"),
        ("i__acc", b"i__acc__"),
        ("C5Qfea", b"c5Qfea__"),
        ("tXXXXX", b"cXXXXX__"),
        ("M01U_D", b"m01U_D__"),
        ("cABCDEFG"[:8], b"cABCDEFG"),
        ("b21vdAUAAAA=", b"omot\x05\0\0\0"),
        ("short", None),
        ("", None),
        ("cäöüßx", None),
    ],
)
def test_ids(text: str, expected: bytes | None) -> None:
    assert area_id(text) == expected


def test_an_area_defined_twice() -> None:
    with pytest.raises(FileFormatError, match="'_power' and '___pwr' are one and the same"):
        grow(genome({"_power": area((1, 1, 1)), "___pwr": area((1, 1, 1))}))


def test_a_core_area_that_does_not_exist() -> None:
    with pytest.raises(FileFormatError, match="area '_left_': no core area has this id"):
        grow(genome({"_left_": area()}))


def test_an_id_of_another_length_is_left_out_and_said() -> None:
    grown = grow(genome({"cAAA": area()}))
    assert len(grown.neurons) == 7
    assert any("'cAAA' is left out" in line for line in grown.report.warnings)


def test_unknown_keys_are_reported_once() -> None:
    areas = {f"cAAAA{i}": area(**{"wizard-f": i, "snooze-i": 1}) for i in range(5)}
    report = grow(genome(areas)).report
    assert report.unknown_keys == {"wizard-f": 5} and report.ignored_keys == {"snooze-i": 5}
    assert [line for line in report.warnings if "wizard-f" in line] == ["wizard-f (5 areas) is not a key of an area; it has no effect"]
    odd = hierarchical(GENOME)
    odd["blueprint"]["cAAAAA"]["wizardry"] = {"deep": [1]}
    assert grow(odd).report.unknown_keys == {"wizardry": 1}


def test_keys_of_no_cortical_area_are_told() -> None:
    """As in genomes that FEAGI published, whose first key names the species."""
    odd = {"_____10b-_____s-__-__name-t": "smart_car", "cZZZZZ": {}, "note": 3}
    grown = grow({**GENOME, "blueprint": {**odd, **GENOME["blueprint"]}})
    same(grow(GENOME), grown)
    assert grown.report.foreign_keys == 3
    assert [line for line in grown.report.warnings if "_____10b" in line and "no cortical area" in line and line.startswith("3 keys")]
    assert len(grow({**GENOME, "blueprint": {"_____10b-_____s-__-__name-t": "smart_car"}}).areas) == 7


@pytest.mark.parametrize("version", ["2.0", "3.0"])
@pytest.mark.parametrize(
    ("destinations", "kept", "said"),
    [
        ([], 0, r"\[\] is no object of mappings"),
        ({"cBBBBB": "projector"}, 0, "'projector' is no list of rules"),
        ({"cBBBBB": ["projector", rule()]}, 12, "rule 0 is dropped, as FEAGI does: 'projector' is neither an object nor an array"),
    ],
)
def test_what_is_no_mapping_is_passed_over_as_feagi_does(version: str, destinations: Any, kept: int, said: str) -> None:
    odd = put("_____10c-cAAAAA-cx-dstmap-d", destinations)
    grown = grow(hierarchical(odd, version) if version == "3.0" else odd)
    assert (len(grown.synapses), grown.report.dropped_rules) == (kept, 1)
    assert any(re.search(said, line) for line in grown.report.warnings)


def test_null_and_what_nothing_depends_on_in_a_hierarchical_genome() -> None:
    odd = hierarchical(GENOME)
    odd["blueprint"]["cAAAAA"]["relative_coordinate"] = None
    odd["blueprint"]["cAAAAA"]["2d_coordinate"] = []
    grown = grow(odd)
    same(grow(GENOME), grown)
    assert grown.report.warnings == ["area 'cAAAAA', relative_coordinate: null, taken as if the key were absent"]


def test_snooze_in_its_spellings() -> None:
    def snooze(version: str, key: str) -> int:
        found = grow(genome({"cAAAAA": area((1, 1, 1), **{key: 4})}, version=version))
        return int(found.neurons.snooze_period.max())

    assert (snooze("2.0", "snooze-f"), snooze("2.0", "snooze-i"), snooze("3.0", "snooze-i")) == (4, 0, 4)


def test_null_is_as_absent_and_said() -> None:
    grown = grow(put("_____10c-cAAAAA-nx-fire_t-f", None))
    assert grown.neurons.threshold[grown.neurons.area == 7].tolist() == [2.5] * 6  # the key under cx stands
    assert any("null" in line for line in grown.report.warnings)
    assert grow(put("_____10c-cAAAAA-cx-2dcorx-i", None)).report.warnings == []


def test_zero_means_what_feagi_takes_it_for() -> None:
    grown = grow(genome({"cAAAAA": area((0, 2, 0), per_voxel=0, **{"fthlim-f": 0, "c_fr_c-i": 0})}))
    mine = grown.neurons.area == 7
    assert mine.sum() == 2
    assert set(grown.neurons.threshold_limit[mine].tolist()) == {float(np.finfo(np.float32).max)}
    assert set(grown.neurons.consecutive_fire_limit[mine].tolist()) == {65535}
    assert np.isinf(grown.connectome.neurons.threshold_limit).all()


def test_timestep() -> None:
    assert grow(GENOME).timestep == 0.025
    assert grow({**GENOME, "physiology": {"burst_delay": 0.5}}).timestep == 0.5
    for odd in (3, {"simulation_timestep": "fast"}, {"simulation_timestep": [1], "burst_delay": None}):
        grown = grow({**GENOME, "physiology": odd})
        assert grown.timestep == 0.025 and "passed over, as FEAGI does" in grown.report.warnings[0]
    with pytest.raises(FileFormatError, match="simulation_timestep: -1 is not a number of seconds"):
        grow({**GENOME, "physiology": {"simulation_timestep": -1}})


# -- damage --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file, not a JSON file"),
        (b"{", "not a JSON file, or cut short"),
        (b'{"version": "2.0", "blueprint": {"_____10c-cAAAAA-cx-___b', "not a JSON file, or cut short"),
        (b"\xff\xfe\x00", "not a JSON file"),
        (b"PK\x03\x04", "not a JSON file"),
        (b"[" * 10_000 + b"]" * 10_000, "nested"),
        (b'{"version": "2.0", "blueprint": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001, "nested"),
        (b"9" * 5000, "not a JSON file"),
        (b"[]", "is not a genome"),
        (b"null", "is not a genome"),
        (b"{}", "neither version nor genome_schema_version"),
        (b'{"version": "2.0"}', "no blueprint"),
        (b'{"version": "2.0", "blueprint": []}', "blueprint: .* is not an object"),
        (b'{"version": "1.0", "blueprint": {}}', "version: '1.0' is not"),
        (b'{"version": [], "blueprint": {}}', "version"),
        (b'{"genome_schema_version": 99, "blueprint": {}}', "genome_schema_version: 99"),
        (b'{"version": "2.0", "blueprint": {}, "neuron_morphologies": 3}', "neuron_morphologies: 3 is not an object"),
        (b'{"version": "2.0", "blueprint": {"cAAAAA": 3}}', "area 'cAAAAA': 3 is not an object"),
        (b'{"version": "2.0", "blueprint": {"cAAAAA": {"block_boundaries": [1, 2]}}}', "block_boundaries: .* a list of 3"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=f"broken.json: .*{said}") as error:
        grow(path)
    assert len(str(error.value)) < 1000


def test_every_cut_of_a_genome(tmp_path: Path) -> None:
    whole = json.dumps(GENOME).encode()
    for length in range(0, len(whole), 37):
        path = tmp_path / "cut.json"
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match="cut.json: (not a JSON file, or cut short|an empty file, not a JSON file)"):
            grow(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        grow(tmp_path / "none.json")


def test_objects_that_hold_themselves() -> None:
    loop: dict[str, Any] = dict(GENOME)
    loop["physiology"] = {"again": loop}
    with pytest.raises(FileFormatError, match="nested deeper than 128 levels, or in itself"):
        grow(loop)
    wide: list[Any] = []
    for _ in range(60):
        wide = [wide, wide]  # 2**60 lists to one who counts them all
    assert len(grow({**GENOME, "stats": {"wide": wide}}).neurons) == 37


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("___bbx-i", "3", "'3', where an integer of 0 to 4294967295 is needed"),
        ("___bbx-i", -1, "-1, where an integer of 0"),
        ("___bbx-i", 1.5, "1.5, where"),
        ("___bbx-i", True, "True, where"),
        ("___bbx-i", [3], r"\[3\], where"),
        ("___bbx-i", 10**400, "where an integer"),
        ("___bbx-i", float("nan"), "nan, where"),
        ("_n_cnt-i", {}, "{}, where"),
        ("fire_t-f", "high", "'high', where a finite number is needed"),
        ("fire_t-f", float("inf"), "inf, where a finite number"),
        ("fire_t-f", 1e39, r"1e\+39, where a finite number"),
        ("fire_t-f", False, "False, where"),
        ("refrac-i", 2.5, "2.5, where an integer"),
        ("snooze-f", 5.5, "5.5, where an integer"),
        ("pspuni-b", 1, "1, where true or false is needed"),
        ("mp_acc-b", "true", "'true', where true or false"),
        ("__name-t", 7, "7, where a string is needed"),
        ("dstmap-d", {"cBBBBB": [rule(psc="2")]}, "rule 0, postSynapticCurrent_multiplier: '2', where a finite number"),
        ("dstmap-d", {"cBBBBB": [rule(), rule(7)]}, "rule 1, morphology_id: 7, where a string"),
        ("dstmap-d", {"cBBBBB": [["projector", 1, 1, 0]]}, "rule 0, plasticity_flag: 0, where true or false"),
        ("dstmap-d", {"cBBBBB": [rule(plasticity_window=-1)]}, "rule 0, plasticity_window: -1"),
        ("dstmap-d", {"cBBBBB": [rule(synaptic_delay_bursts=[])]}, r"rule 0, synaptic_delay_bursts: \[\]"),
        ("dstmap-d", {"cBBBBB": [rule(synapse_attractivity=101)]}, "rule 0, synapse_attractivity: 101 is outside 0..100"),
        ("dstmap-d", {"cBBBBB": [rule(**LEARNS | {"plasticity_window": 70_000})]}, "rule 0, plasticity_window: 70000 is more than 65535"),
        ("dstmap-d", {"cBBBBB": [rule(**LEARNS, plasticity_eta=1e37)]}, r"rule 0, plasticity_eta: 1e\+37 is more than 1.32923e\+36"),
    ],
)
def test_wrong_values_name_key_area_and_value(key: str, value: Any, said: str) -> None:
    with pytest.raises(FileFormatError, match=f"area 'cAAAAA', _____10c-cAAAAA-cx-{key}.*{said}"):
        grow(put(f"_____10c-cAAAAA-cx-{key}", value))


def test_rules_that_feagi_drops_are_said() -> None:
    rules = [["projector", 1, 1], {"morphology_id": "projector"}, rule(plasticity_flag=True), rule()]
    report = grow(put("_____10c-cAAAAA-cx-dstmap-d", {"cBBBBB": rules})).report
    assert report.dropped_rules == 3
    said = "\n".join(report.warnings)
    assert "3 values where at least 4 are needed" in said
    assert "no postSynapticCurrent_multiplier, no plasticity_flag" in said and "no plasticity_window" in said


def test_16_bits() -> None:
    grown = grow(put("_____10c-cAAAAA-cx-refrac-i", 70_000))
    assert grown.neurons.refractory_period.max() == 70_000 % 65_536
    assert any("70000 is 4464" in line for line in grown.report.warnings)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"brain_regions": {"a": {"parent_region_id": "b"}, "b": {"parent_region_id": "a"}}}, "'a' -> 'b' -> 'a' is a cycle of 2"),
        ({"brain_regions": {"a": {"regions": ["a"]}}}, "brain_regions: 'a' -> 'a' is a cycle of 1"),
        ({"brain_regions": {"a": 3}}, "brain_regions, 'a': 3 is not an object"),
        (
            {"neuron_morphologies": {n: {"type": "composite", "parameters": {"mapper_morphology": m}} for n, m in ("pq", "qr", "rp")}},
            "mapper_morphology: 'p' -> 'q' -> 'r' -> 'p' is a cycle of 3",
        ),
    ],
)
def test_cycles(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(FileFormatError, match=said):
        grow({**GENOME, **sections})


def test_a_long_chain_of_regions_is_none() -> None:
    regions = {str(i): {"parent_region_id": str(i + 1)} for i in range(5000)}
    assert read_genome({**GENOME, "brain_regions": regions}, Report()).version == "2.0"
    regions["5000"] = {"parent_region_id": "0"}
    with pytest.raises(FileFormatError, match="is a cycle of 5,001"):
        grow({**GENOME, "brain_regions": regions})


def test_areas_that_map_to_each_other_are_no_trouble() -> None:
    to = {"cAAAAA": "cBBBBB", "cBBBBB": "cAAAAA", "cCCCCC": "cCCCCC"}
    assert len(grow(genome({name: area(to={other: [rule()]}) for name, other in to.items()})).synapses) == 24


def test_mappings_to_absent_areas() -> None:
    absent = put("_____10c-cAAAAA-cx-dstmap-d", {"cZZZZZ": [rule(), rule()], "_left_": [rule()], "cBBBBB": [rule()]})
    grown = grow(absent)
    assert len(grown.synapses) == 12 and grown.report.absent_targets == 3
    assert any("there is no area 'cZZZZZ'" in line for line in grown.report.warnings)
    assert sorted(m.rule.target_text for m in grown.mappings if m.target < 0) == ["_left_", "cZZZZZ", "cZZZZZ"]
    with pytest.raises(NetworkError, match=r"area cAAAAA \(here\): its mapping by projector goes to '.*', which is no area.*\(3 rules"):
        grow(absent, absent_targets="refuse")


# -- size ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dimensions", "per_voxel", "said"),
    [
        ((4_000_000_000, 4_000_000_000, 4_000_000_000), 4_000_000_000, "more than 1,073,741,824, the most"),
        ((1000, 1000, 1000), 1, "takes about 186.3 GiB, more than the limit of 8.0 GiB; the largest is area cAAAAA: 1000 x"),
        ((1, 1, 1), 2**31, "more than 1,073,741,824"),
    ],
)
def test_huge_areas_are_refused_with_the_estimate(dimensions: tuple[int, int, int], per_voxel: int, said: str) -> None:
    with pytest.raises(CapacityError, match=said):
        grow(genome({"cAAAAA": area(dimensions, per_voxel=per_voxel)}))


@pytest.mark.parametrize("morphology", ["every", "rotator_z"])
def test_huge_mappings_are_refused_with_the_estimate(morphology: str) -> None:
    every = {"every": {"type": "patterns", "parameters": {"patterns": [[["*", "*", "*"], ["*", "*", "*"]]]}}}
    big = genome({"cAAAAA": area((300, 300, 10), {"cBBBBB": [rule(morphology)]}), "cBBBBB": area((2, 2, 400_000))}, every)
    with pytest.raises(CapacityError, match=f"up to [0-9,]+ synapses takes .* largest mapping is cAAAAA -> cBBBBB by {morphology}:"):
        grow(big)


def test_the_memory_limit_is_the_callers() -> None:
    assert len(grow(GENOME, memory_limit=37 * 200 + 12 * 120).synapses) == 12
    with pytest.raises(CapacityError, match="up to 12 synapses"):
        grow(GENOME, memory_limit=37 * 200 + 12 * 120 - 1)
    with pytest.raises(CapacityError, match="37 neurons"):
        grow(GENOME, memory_limit=37 * 200 - 1)


@pytest.mark.parametrize("option", [{"bad_rules": "keep"}, {"absent_targets": ""}, {"seed": -1}, {"seed": True}])
def test_options_that_are_none(option: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=next(iter(option))):
        grow(GENOME, **option)


@pytest.mark.parametrize("option", [{"rules": "feagi-3"}, {"delays": "refuse"}])
def test_options_of_networks_that_are_none(option: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=next(iter(option.values()))):
        NetworkOptions(**option)
