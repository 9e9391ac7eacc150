"""SONATA circuits, held to libsonata; damaged ones are refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import libsonata
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_npu import Connectome, FileFormatError, NpuError
from gpu_npu.cli import main
from gpu_npu.io import load, stream
from gpu_npu.recordings import Spikes
from gpu_npu.session import Schedule


@pytest.fixture
def circuit() -> Path:
    return shared_data() / "files" / "sonata_300_pointneurons"


def test_a_circuit_of_point_neurons(circuit: Path) -> None:
    notes: list[str] = []
    network = load(circuit / "config.json", tell=notes.append)
    assert [area.name for area in network.areas.values()] == ["internal", "external"] and network.neuron_count == 400
    assert network.settings.contribution_scale == np.float32(0.1) and network.weight_dtype == np.uint16
    place = {"internal": 0, "external": 300}
    synapses, at = network.synapses, 0
    for source, kind in (("internal", "internal_internal"), ("external", "external_internal")):
        name = f"{source}_to_internal"
        edges = libsonata.EdgeStorage(str(circuit / "network" / f"{kind}_edges.h5")).open_population(name)
        every = libsonata.Selection([(0, edges.size)])
        part = slice(at, at + edges.size)
        assert (synapses.source[part] == edges.source_nodes(every) + np.uint64(place[source])).all()
        assert (synapses.target[part] == edges.target_nodes(every)).all()
        weight = edges.get_attribute("syn_weight", every)
        signed = synapses.weight[part].astype(np.int64) * np.where(synapses.inhibitory[part], -1, 1)
        assert np.abs(signed * 0.1 - weight).max() < 1e-9
        at += edges.size
    assert at == network.synapse_count
    inhibitory = network.annotations.select("ei", ("i",))
    assert set(np.flatnonzero(np.bincount(synapses.source[synapses.inhibitory], minlength=400)).tolist()) <= set(inhibitory.tolist())
    assert network.annotations.name(317) == "external/17"
    assert any("nest:iaf_psc_alpha are not computed" in note for note in notes) and any("delays" in note for note in notes)
    network.validate()


def test_a_circuit_streams(circuit: Path) -> None:
    network, synapses = stream(circuit / "circuit_config.json", tell=lambda text: None)
    assert (network.synapse_count, synapses.total, sum(len(batch) for batch in synapses)) == (0, 48_432, 48_432)


def small(folder: Path) -> Path:
    """A circuit of three nodes and two edges, whose weights are those of their types."""
    text = h5py.string_dtype()
    with h5py.File(folder / "nodes.h5", "w") as file:
        file["nodes/cells/node_type_id"] = [7, 7, 8]
    with h5py.File(folder / "edges.h5", "w") as file:
        for end, ids in (("source", [0, 2]), ("target", [1, 0])):
            file[f"edges/all/{end}_node_id"] = np.array(ids, np.uint64)
            file[f"edges/all/{end}_node_id"].attrs.create("node_population", "cells", dtype=text)
        file["edges/all/edge_type_id"] = [1, 2]
    (folder / "edge_types.csv").write_text("edge_type_id syn_weight\n1 0.5\n2 -2\n")
    networks = {
        "nodes": [{"nodes_file": "$HERE/nodes.h5", "node_types_file": None}],
        "edges": [{"edges_file": "${HERE}/edges.h5", "edge_types_file": "$HERE/edge_types.csv"}],
    }
    (folder / "circuit.json").write_text(json.dumps({"manifest": {"$HERE": "."}, "networks": networks}))
    return folder / "circuit.json"


def weights(network: Connectome) -> list[tuple[int, ...]]:
    synapses = network.synapses
    return list(zip(*(getattr(synapses, name).tolist() for name in ("source", "target", "weight", "inhibitory")), strict=True))


def test_weights_of_types(tmp_path: Path) -> None:
    assert weights(load(small(tmp_path), tell=lambda text: None)) == [(0, 1, 5, False), (2, 0, 20, True)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "nodes.h5").write_bytes(b"none"), "nodes.h5: no HDF5 file of SONATA"),
        (
            lambda folder: (folder / "circuit.json").write_text('{"networks": {"nodes": 3}, "network": 1}'),
            "circuit.json: it names no files of nodes",
        ),
        (lambda folder: (folder / "edge_types.csv").write_text("edge_type_id syn_weight\n1 much\n"), "edges all: .*much"),
        (lambda folder: set_ids(folder, [0, 3]), "edge 1: there is no node 3 in its population"),
    ],
)
def test_refused(change: object, said: str, tmp_path: Path) -> None:
    path = small(tmp_path)
    change(tmp_path)  # type: ignore[operator]
    with pytest.raises(FileFormatError, match=said):
        load(path, tell=lambda text: None)


def set_ids(folder: Path, ids: list[int]) -> None:
    with h5py.File(folder / "edges.h5", "r+") as file:
        file["edges/all/source_node_id"][:] = ids


FILES = ("nodes.h5", "edges.h5", "edge_types.csv", "circuit.json")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damaged_circuits_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, byte: int, cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = small(folder)
    content = bytearray((folder / name).read_bytes())
    at %= len(content)
    content[at] = byte
    (folder / name).write_bytes(content[:at] if cut else content)
    try:
        load(path, tell=lambda text: None)
    except (NpuError, OSError) as error:
        assert "\n" not in str(error)
    shutil.rmtree(folder)


def test_spikes_of_the_old_form_are_a_stimulus(circuit: Path) -> None:
    spikes = circuit / "inputs" / "external_spike_trains.h5"
    with h5py.File(spikes) as file:
        gids, times = file["spikes/gids"][:], file["spikes/timestamps"][:]
    network = load(circuit / "config.json", tell=lambda text: None, threshold=1.0)
    bound = Schedule.sonata(spikes, 1.0, 0.5, "external").bind(network, 0)
    pairs = sorted(zip((times / 0.5).astype(int) + 1, gids + 300, strict=True))
    assert sorted(pair for burst in range(1, 7000) for pair in zip([burst] * 99, bound.before(burst)[0].tolist(), strict=False)) == pairs
    with pytest.raises(FileFormatError, match="an old file, which does not say whose spikes it has; --population NAME says it"):
        Schedule.sonata(spikes)
    arguments = ["run", str(circuit / "config.json"), "--schedule", str(spikes), "--population", "external", "--bursts", "50", "--json"]
    result = CliRunner().invoke(main, [*arguments, "--threshold", "1", "--backend", "reference"])
    assert result.exit_code == 0 and json.loads(result.stdout)["sensory_injections"] == np.count_nonzero(times < 50)


WRONG: dict[str, np.ndarray] = {
    "real": np.array([0.5, np.nan]),
    "complex": np.array([1j, 2]),
    "text": np.array([b"a", b"b"]),
    "below 0": np.array([-1, 0]),
    "2^63": np.array([2**63, 0], np.uint64),
    "flat": np.array(1),
    "square": np.eye(2, dtype=int),
    "none": np.zeros(0, int),
    "three": np.arange(3),
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_arrays_of_other_types_are_refused_in_one_line(values: np.ndarray, tmp_path: Path) -> None:
    path, arrays = small(tmp_path), list[tuple[str, str]]()
    with h5py.File(tmp_path / "edges.h5", "r+") as file:
        for name, right in (("edge_group_id", [0, 0]), ("edge_group_index", [0, 1]), ("0/syn_weight", [1.5, -2.0])):
            file[f"edges/all/{name}"] = right
    for name in ("edges.h5", "nodes.h5"):
        with h5py.File(tmp_path / name) as file:
            file.visititems(lambda key, item, name=name: arrays.append((name, key)) if isinstance(item, h5py.Dataset) else None)  # type: ignore[misc]
    assert len(arrays) == 7
    for name, key in arrays:
        content = (tmp_path / name).read_bytes()
        with h5py.File(tmp_path / name, "r+") as file:
            attributes = dict(file[key].attrs)
            del file[key]
            file[key] = values
            for attribute, value in attributes.items():
                file[key].attrs[attribute] = value
        try:
            load(path, tell=lambda text: None)
        except NpuError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error)
        (tmp_path / name).write_bytes(content)
    assert weights(load(path, tell=lambda text: None)) == [(0, 1, 15, False), (2, 0, 20, True)]


@pytest.mark.parametrize("named", [True, 1, [], {"a": 1}])
def test_a_file_is_named_by_a_text(named: object, tmp_path: Path) -> None:
    """Or 1 would be the standard output, which is closed once it is read."""
    path = small(tmp_path)
    said = json.loads(path.read_text())
    said["networks"]["nodes"][0]["node_types_file"] = named
    path.write_text(json.dumps(said))
    with pytest.raises(FileFormatError, match="circuit.json: no circuit of SONATA that can be read"):
        load(path, tell=lambda text: None)
    os.fstat(1)


# -- as the Brain Modeling Toolkit writes them ---------------------------------------------------------------------
IDS = [30, 10, 20]


def of_bmtk(folder: Path) -> Path:
    """Paths from ${configdir}; nodes 30, 10, 20; edges in two groups, one with nsyns, one with syn_weight; sets of nodes, an input."""
    small(folder)
    with h5py.File(folder / "nodes.h5", "r+") as file:
        file["nodes/cells/node_id"] = np.array(IDS, np.uint64)
        file["nodes/cells/node_group_id"], file["nodes/cells/node_group_index"] = [0, 1, 0], np.array([1, 0, 0], np.uint64)
        file["nodes/cells/0/layer"] = np.array(["L4", "L2/3"], h5py.string_dtype())
        file["nodes/cells/0/ei"], file["nodes/cells/0/tuning"] = np.array([b"x", b"e"]), [0.5, 1.5]
        file["nodes/cells/1/column"] = [7]
    with h5py.File(folder / "edges.h5", "w") as file:
        for end, ids in (("source", [30, 20, 10]), ("target", [10, 30, 10])):
            file[f"edges/all/{end}_node_id"] = np.array(ids, np.uint64)
            file[f"edges/all/{end}_node_id"].attrs["node_population"] = "cells"
        file["edges/all/edge_type_id"] = np.array([100, 101, 100], np.uint32)
        file["edges/all/edge_group_id"] = np.array([0, 1, 0], np.uint16)
        file["edges/all/edge_group_index"] = np.array([1, 0, 0], np.uint32)
        file["edges/all/0/nsyns"] = np.array([4, 3], np.uint32)
        file["edges/all/1/syn_weight"] = [-1.5]
    (folder / "edge_types.csv").write_text("edge_type_id target_query delay syn_weight\n100 ei=='i' 2.0 2.5\n101 * 1.5 NULL\n")
    (folder / "node_types.csv").write_text("node_type_id ei model_template\n7 e nest:iaf_psc_alpha\n8 i nest:iaf_psc_alpha\n")
    nodes = {"nodes_file": "$NET/nodes.h5", "node_types_file": "$NET/node_types.csv"}
    edges = {"edges_file": "$NET/edges.h5", "edge_types_file": "$NET/edge_types.csv"}
    manifest = {"$BASE_DIR": "${configdir}", "$NET": "$BASE_DIR"}
    write = {
        "circuit.json": {"manifest": manifest, "networks": {"nodes": [nodes], "edges": [edges], "gap_juncs": []}},
        "simulation.json": {
            "manifest": manifest,
            "target_simulator": "NEST",
            "node_sets_file": "$BASE_DIR/sets.json",
            "inputs": {
                "in": {"input_type": "spikes", "module": "sonata", "input_file": "$NET/in.h5", "node_set": "first"},
                "clamp": {"input_type": "current_clamp", "module": "IClamp", "node_set": "all"},
            },
        },
        "sets.json": {
            "first": {"population": "cells", "node_id": [30]},
            "e": {"ei": "e"},
            "both": ["first", "e"],
            "odd": {"x": {"$gt": 3}},
        },
        "config.json": {"network": "${configdir}/circuit.json", "simulation": "${configdir}/simulation.json"},
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content))
    return folder / "config.json"


def test_a_circuit_as_bmtk_writes_it(tmp_path: Path) -> None:
    notes: list[str] = []
    network = load(of_bmtk(tmp_path), tell=notes.append)
    assert weights(network) == [(0, 1, 75, False), (2, 0, 15, True), (1, 1, 100, False)]
    assert [network.annotations.name(i) for i in range(3)] == ["cells/30", "cells/10", "cells/20"]
    columns = {name: network.annotations.columns[name].tolist() for name in ("layer", "ei", "column")}
    assert columns == {"layer": ["L2/3", "", "L4"], "ei": ["e", "e", "x"], "column": ["", "7", ""]}
    sets = {name: network.annotations.select(name, ("yes",)).tolist() for name in ("first", "e", "both")}
    assert sets == {"first": [0], "e": [0, 1], "both": [0, 1]}
    told = "\n".join(notes)
    assert f"'in' is taken by --schedule {tmp_path}/in.h5 --population cells" in told
    assert "its input 'clamp' is not taken: 'current_clamp' of 'IClamp'" in told and "the set of nodes 'odd' is left out" in told


def test_what_a_simulation_names_and_is_not_there(tmp_path: Path) -> None:
    path, notes = of_bmtk(tmp_path), list[str]()
    (tmp_path / "sets.json").unlink()
    assert load(path, tell=notes.append).synapse_count == 3 and any("sets.json is not there" in note for note in notes)
    with pytest.raises(FileFormatError, match=r"simulation.json: it names no files of nodes; give the configuration that names both"):
        load(tmp_path / "simulation.json")


def test_edges_without_weights_are_told(tmp_path: Path) -> None:
    path, notes = small(tmp_path), list[str]()
    (tmp_path / "edge_types.csv").write_text("edge_type_id syn_weight\n1 NULL\n2 NULL\n")
    assert weights(load(path, tell=notes.append)) == [(0, 1, 1, False), (2, 0, 1, False)]
    assert any("edges.h5, edges all: there is no syn_weight, so each is 1" in note for note in notes)
    assert not any("no syn_weight" in note for note in _notes(of_bmtk(tmp_path)))


def _notes(path: Path) -> list[str]:
    notes: list[str] = []
    load(path, tell=notes.append)
    return notes


@pytest.mark.parametrize("ids", [[1, 1, 2], [2**63, 1, 2]])
def test_ids_of_nodes_that_are_none(ids: list[int], tmp_path: Path) -> None:
    path = of_bmtk(tmp_path)
    with h5py.File(tmp_path / "nodes.h5", "r+") as file:
        file["nodes/cells/node_id"][:] = np.array(ids, np.uint64)
    with pytest.raises(FileFormatError, match="nodes.h5: node_id of 'cells': an id is there twice, or is below 0"):
        load(path)


def test_attributes_beyond_their_rows(tmp_path: Path) -> None:
    path = of_bmtk(tmp_path)
    with h5py.File(tmp_path / "nodes.h5", "r+") as file:
        file["nodes/cells/node_group_index"][:] = [2, 0, 0]
    with pytest.raises(FileFormatError, match="nodes.h5: cells: node_group_index goes beyond the 2 rows of 'ei' in group 0"):
        load(path)


def test_a_manifest_that_grows(tmp_path: Path) -> None:
    path = small(tmp_path)
    said = json.loads(path.read_text())
    said["manifest"] = {f"$A{i}": f"$A{i + 1}$A{i + 1}" for i in range(40)} | {"$HERE": "$A0"}
    path.write_text(json.dumps(said))
    with pytest.raises(FileFormatError, match="circuit.json: no configuration of SONATA: .*more than 4,096 characters"):
        load(path)


def test_spikes_have_the_ids_of_their_nodes(tmp_path: Path) -> None:
    network = load(of_bmtk(tmp_path), tell=lambda text: None)
    Spikes(np.array([1, 2]), np.zeros(2, np.int64), np.array([0, 2], np.uint32), 1.0, network.annotations).write(tmp_path / "out.h5")
    assert libsonata.SpikeReader(str(tmp_path / "out.h5"))["cells"].get() == [(30, 0.0), (20, 1.0)]
