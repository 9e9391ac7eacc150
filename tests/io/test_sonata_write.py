"""Networks as circuits of SONATA: libsonata and the package's own reader read what was written."""

from __future__ import annotations

import os
from pathlib import Path

import libsonata
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import shared_data

from gpu_npu import Annotations, Connectome, NetworkError
from gpu_npu.cli import main
from gpu_npu.io import load, write


def quiet(path: Path) -> Connectome:
    return load(path, tell=lambda text: None)


def signed(network: Connectome) -> list[tuple[int, int, float]]:
    """Source, target and what is delivered, in an order that the file does not keep."""
    synapses, scale = network.synapses, float(str(np.float32(network.settings.contribution_scale)))
    weight = synapses.weight * synapses.psp.astype(np.int64) * np.where(synapses.inhibitory, -1, 1) * scale
    return sorted(zip(synapses.source.tolist(), synapses.target.tolist(), weight.round(9).tolist(), strict=True))


def test_a_circuit_comes_back(tmp_path: Path) -> None:
    circuit = quiet(shared_data() / "files" / "sonata_300_pointneurons" / "circuit_config.json")
    write(circuit, tmp_path / "again.json")
    again = quiet(tmp_path / "again.json")
    assert signed(again) == signed(circuit) and again.settings.contribution_scale == circuit.settings.contribution_scale
    assert again.annotations.labels is not None and (again.annotations.labels == circuit.annotations.labels).all()
    assert (again.annotations.columns["ei"] == circuit.annotations.columns["ei"]).all()
    assert [area.name for area in again.areas.values()] == ["internal", "external"]


def test_what_libsonata_reads(tmp_path: Path) -> None:
    network = Connectome(4, weight_dtype=np.uint16)
    network.add_neurons(4)
    network.reserve(synapses=3)
    network.add_synapses([0, 3, 1], [1, 0, 1], [300, 2, 5], [1, 2, 1], [False, True, False])
    network.set_annotations(Annotations(np.array([2**63, 7, 5, 9], np.uint64), {"side": np.array(["left", "", "right", "ö"])}))
    write(network, tmp_path / "net.json")
    nodes = libsonata.NodeStorage(str(tmp_path / "net_nodes.h5")).open_population("neurons")
    assert nodes.size == 4 and nodes.get_attribute("side", nodes.select_all()).tolist() == ["left", "", "right", "ö"]
    assert nodes.get_attribute("label", nodes.select_all()).tolist() == [str(2**63), "7", "5", "9"]
    edges = libsonata.EdgeStorage(str(tmp_path / "net_edges.h5")).open_population("neurons_to_neurons")
    every = edges.select_all()
    assert (edges.source, edges.target, edges.size) == ("neurons", "neurons", 3)
    assert edges.source_nodes(every).tolist() == [0, 3, 1] and edges.target_nodes(every).tolist() == [1, 0, 1]
    assert edges.get_attribute("syn_weight", every).tolist() == [300, -4, 5]
    assert signed(quiet(tmp_path / "net.json")) == signed(network)


def test_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edges.csv").write_text("pre,post,weight\na,b,0.5\nb,a,-1.5\n")
    result = CliRunner().invoke(main, ["convert", "edges.csv", "-o", "net.json"])
    assert result.exit_code == 0, result.output
    written = {"net.json", "net_nodes.h5", "net_edges.h5", "net_node_types.csv", "net_edge_types.csv"}
    assert set(os.listdir()) == {"edges.csv", *written}
    again = quiet(Path("net.json"))
    assert signed(again) == [(0, 1, 0.5), (1, 0, -1.5)] and again.annotations.columns["label"].tolist() == ["a", "b"]


def test_an_output_that_is_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net_edges.h5").write_text("pre,post\na,b\n")  # whatever it is called, it is an edge list
    result = CliRunner().invoke(main, ["convert", "net_edges.h5", "-o", "net.json"])
    assert result.exit_code != 0 and "net_edges.h5" in result.stderr and os.listdir() == ["net_edges.h5"]


def test_names_that_hdf5_cannot_have(tmp_path: Path) -> None:
    network = Connectome(3, 1)
    network.add_neurons(3)
    network.add_synapses([0], [1], 1, 1)
    columns = {"population": ["L2/3", "L4", ""], "a/b": ["x", "", ""], "a.b": ["y", "", ""]}
    network.set_annotations(Annotations(None, {name: np.array(values) for name, values in columns.items()}))
    write(network, tmp_path / "net.json")
    again = quiet(tmp_path / "net.json")
    assert again.annotations.columns["population"].tolist() == ["L2_3", "L4", "neurons"] and signed(again) == signed(network)
    assert again.annotations.columns["a_b"].tolist() == ["x", "", ""] and again.annotations.columns["a_b_"].tolist() == ["y", "", ""]


def test_delays_are_refused(tmp_path: Path) -> None:
    network = Connectome(2, 1)
    network.add_neurons(2)
    network.add_synapses([0], [1], 1, 1, delay=3)
    with pytest.raises(NetworkError, match="net.json: synapses have delays of several bursts, and those of SONATA are in ms"):
        write(network, tmp_path / "net.json")
    assert not os.listdir(tmp_path)
