"""Networks in the project's own files: back exactly, and never from a damaged file."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu.connectome import (
    NEURON_FIELDS,
    SYNAPSE_FIELDS,
    Area,
    Connectome,
    FileFormatError,
    NetworkError,
    PairRule,
    Rules,
    Settings,
    WindowRule,
)
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save


def example() -> Connectome:
    """Everything that a file must keep: gaps, deletions, removals, spare capacity, u16, areas, infinite and finite bounds."""
    network = Connectome(
        9,
        20,
        weight_dtype=np.uint16,
        settings=Settings(Rules("burst", True, 0.1, 255.0), 1 / 65025, -2.5, 2**32 - 1),
        areas={2**32 - 1: Area("sight", psp_uniform=False), 0: Area("Großhirn", mp_driven_psp=True, power=True)},
        plasticity=[WindowRule(0, 2**32 - 1, 3, 65535, 0), PairRule(1, 1, 0.1, 1 / 3, 20, 33.3, "all", "multiplicative", 2, 900)],
    )
    network.create_neurons([1, 5], threshold=[0.1, -3], coordinates=[(1, 2, 3), (4, 5, 2**32 - 1)], cortical_area=[0, 2**32 - 1])
    network.add_neurons(4, membrane_potential=[1, 2, 3, 4], threshold_limit=9, mp_charge_accumulation=[0, 1, 0, 1], refractory_countdown=7)
    network.delete_neurons([5, 0])
    network.add_synapses([1, 1, 8, 5], [1, 1, 0, 8], [1, 65535, 3, 300], [0, 255, 1, 2], [1, 0, 1, 0])
    network.remove_synapses(1, 1)
    return network


def held(network: Connectome) -> list[Any]:
    arrays = (*network.neurons.arrays(), *(array[: network.synapses.count] for array in network.synapses.arrays()))
    return [
        *((array.dtype, array.shape, array.tobytes()) for array in arrays),
        *(network.neuron_capacity, network.synapse_capacity, dict(network.areas), network.settings, network.plasticity),
    ]


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with some arrays replaced, or left out (None)."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "network.npz"
    save(example(), path)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_round_trip(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "no suffix"
    save(example(), str(path), compressed=compressed)
    again = load(path)
    assert held(again) == held(example()) and not again.frozen
    assert again.add_neuron() == example().add_neuron()
    with zipfile.ZipFile(path) as archive:
        kinds = {info.compress_type for info in archive.infolist()}
    assert kinds == {zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED}
    assert os.listdir(tmp_path) == ["no suffix"]


@pytest.mark.parametrize("rules", [Rules(), Rules.preset("feagi-2.6"), Rules.preset("feagi-2.6-fp32")])
def test_rules_come_back(tmp_path: Path, rules: Rules) -> None:
    network = Connectome(settings=Settings(rules))
    save(network, tmp_path / "empty.npz")
    with np.load(tmp_path / "empty.npz", allow_pickle=False) as file:
        json.loads(str(file["settings"]), parse_constant=pytest.fail)  # plain JSON, no Infinity
    assert held(load(tmp_path / "empty.npz")) == held(network)


def test_a_frozen_network_is_saved(tmp_path: Path) -> None:
    network = example()
    network.freeze()
    save(network, tmp_path / "frozen.npz")
    assert held(load(tmp_path / "frozen.npz")) == held(network)


def test_what_could_not_be_loaded_is_not_saved(saved: Path) -> None:
    network = example()
    network.neurons.threshold[3] = np.nan
    before = saved.read_bytes()
    with pytest.raises(NetworkError, match=r"threshold\[3\]: nan"):
        save(network, saved)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_alone(saved: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(OSError, match="No space"):
        save(Connectome(), saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


def test_fields_are_refused(saved: Path) -> None:
    with pytest.raises(NetworkError, match="fields of its neurons, so threshold, leak_coefficient cannot be given"):
        load(saved, threshold=1, leak_coefficient=0.5)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.npz")


def test_another_file(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    for content in (b"", b"text", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match=r"other\.npz: (not a \.npz file, or cut short|an empty file|text of one cell a line)"):
            load(path)
    np.savez(path, spikes=[1, 2])
    with pytest.raises(FileFormatError, match=r"other\.npz: none of the networks that are read: .*; CSR .*; it has: spikes"):
        load(path)


def test_truncated_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 97):
        saved.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"network\.npz: "):
            load(saved)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_is_seen_or_does_no_harm(tmp_path: Path, compressed: bool) -> None:
    """Zip headers hold bytes that nobody reads (times, attributes); everything else is guarded."""
    path = tmp_path / "flipped.npz"
    save(example(), path, compressed=compressed)
    whole, wanted = path.read_bytes(), held(example())
    seen = 0
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        try:
            again = load(path)
        except FileFormatError as error:
            assert str(path) in str(error)
            seen += 1
        else:
            assert held(again) == wanted
    assert seen > len(whole) // 7 // 2


def test_a_flipped_bit_in_an_array_is_named(saved: Path) -> None:
    whole = saved.read_bytes()
    weights = example().synapses.weight.tobytes()
    i = whole.index(weights, whole.index(b"synapse_weight.npy"))
    saved.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
    with pytest.raises(FileFormatError, match=r"network\.npz: array 'synapse_weight' is corrupt: .*CRC"):
        load(saved)


def arrays_of_a_file() -> list[str]:
    """The six single values first."""
    singles = ["version", "neuron_capacity", "synapse_capacity", "areas", "settings", "plasticity", "neuron_valid", "neuron_created"]
    parts = (*SYNAPSE_FIELDS, "valid")
    return [*singles, *(f"neuron_{name}" for name in NEURON_FIELDS), *(f"synapse_{name}" for name in parts)]


@pytest.mark.parametrize("name", arrays_of_a_file())
def test_a_missing_array_is_named(saved: Path, name: str) -> None:
    with pytest.raises(FileFormatError, match=f"array '{name}' is missing; the file has: format, "):
        load(rewritten(saved, **{name: None}))


@pytest.mark.parametrize("name", arrays_of_a_file()[6:])
def test_a_wrong_dtype_or_length_is_named(saved: Path, name: str) -> None:
    with np.load(saved) as file:
        good = file[name]
    with pytest.raises(FileFormatError, match=rf"network\.npz: .*{name.removeprefix('synapse_')}.*float64"):
        load(rewritten(saved, **{name: good.astype(np.float64)}))
    with pytest.raises(FileFormatError, match=r"network\.npz: array '(synapse|neuron)_.*has shape"):
        load(rewritten(saved, **{name: good[:-1]}))


WINDOW = '[{"rule": "window", "source_area": 0, "target_area": 1, "window": 3, "plus": 1, "minus": 1}]'


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "feagi"}, "format 'feagi' is not 'gpu_npu network'"),
        ({"format": 1}, "'format' has dtype int64, not a string"),
        ({"version": 1}, "version 1 of the format, and this release reads versions 2 and 3"),
        ({"version": 1.0}, r"'version' is array\(1\.\)"),
        ({"neuron_capacity": -1}, r"'neuron_capacity' is array\(-1\)"),
        ({"neuron_capacity": 10}, r"array 'neuron_.*' has shape \(9,\), not \(10,\)"),
        ({"synapse_capacity": 3}, "4 synapses are more than 'synapse_capacity' 3"),
        ({"synapse_source": np.zeros((4, 1), np.uint32)}, r"'synapse_source' has shape \(4, 1\), not one dimension"),
        ({"synapse_source": np.array([1, 1, 8, 9], np.uint32)}, "source of synapse 3: 9 is not a neuron id; .* 0 to 8$"),
        ({"synapse_target": np.array([1, 90210, 8, 9], np.uint32)}, "target of synapse 1: 90210 is not a neuron id; .* 0 to 8$"),
        ({"neuron_threshold": np.array([0, 1, np.nan] * 3, np.float32)}, r"threshold\[2\]: nan is not a finite"),
        ({"neuron_excitability": np.full(9, 2, np.float32)}, r"excitability\[0\]: 2.0 is outside 0..1"),
        ({"neuron_valid": np.ones(9, np.bool_)}, "neuron 6 is valid but was never created"),
        ({"synapse_inhibitory": np.full(4, 2, np.uint8).view(np.bool_)}, r"inhibitory\[0\]: 2 where 0 or 1"),
        ({"areas": "{"}, "'areas' cannot be read"),
        ({"areas": '{"x": {}}'}, "'areas' cannot be read.*'x'"),
        ({"areas": '{"1": {"colour": 1}}'}, "'areas' cannot be read.*colour"),
        ({"areas": '{"-1": {}}'}, "area -1 is not"),
        ({"areas": '{"1": {"power": 3}}'}, "power: 3 is not True or False"),
        ({"areas": 7}, "'areas' has dtype int64, not a string"),
        ({"settings": "[]"}, "'settings' cannot be read"),
        ({"settings": "{}"}, "'settings' cannot be read.*rules"),
        ({"settings": '{"rules": {"refractory_clock": "sun"}}'}, "refractory_clock: 'sun'"),
        ({"settings": '{"rules": {}, "random_seed": -1}'}, "random_seed: -1"),
        ({"plasticity": "7"}, "'plasticity' cannot be read"),
        ({"plasticity": "[7]"}, "'plasticity' cannot be read"),
        ({"plasticity": "[{}]"}, "'plasticity' cannot be read.*rule"),
        ({"plasticity": '[{"rule": "hebb"}]'}, "'hebb' is not one of window, pair"),
        ({"plasticity": '[{"rule": "window", "window": 1}]'}, "'plasticity' cannot be read.*source_area"),
        ({"plasticity": WINDOW.replace(": 3,", ": 0,")}, r"window: 0 is outside 1\.\.65535"),
        ({"neuron_threshold": np.array([None] * 9, object)}, "'neuron_threshold' is corrupt: Object arrays cannot be loaded"),
    ],
)
def test_contents_that_are_no_network(saved: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FileFormatError, match=rf"network\.npz: .*{message}"):
        load(rewritten(saved, **changes))


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(0, 4))
def test_random_networks_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, neurons: int, degree: int) -> None:
    path = tmp_path_factory.getbasetemp() / "random.npz"
    network = fixed_out_degree(neurons, degree, seed=seed, weight=(0, 300), psp=(0, 255), threshold=seed)
    save(network, path)
    assert held(load(path)) == held(network)
