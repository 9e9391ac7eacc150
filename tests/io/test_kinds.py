"""What a file is, is told by its content, whatever it is called."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gpu_npu import NPU, CheckpointError, Connectome, FileFormatError, NetworkError, Snapshot
from gpu_npu.genome import grow, read_export
from gpu_npu.io import kinds as k
from gpu_npu.io import load, save, stream
from gpu_npu.io.kinds import kind_of


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One file of each kind, none with a name that says so."""
    connectome = Connectome(2, 1)
    connectome.add_neurons(2)
    save(connectome, tmp_path / "network")
    with NPU.from_connectome(connectome, backend="reference") as npu:
        npu.snapshot().write(tmp_path / "checkpoint")
    text = json.dumps({"version": "2.0", "blueprint": {}})
    (tmp_path / "genome").write_text(text)
    (tmp_path / "genome-bom").write_bytes(b"\xef\xbb\xbf\r\n " + text.encode())
    (tmp_path / "genome-utf16").write_text(text, encoding="utf-16")
    (tmp_path / "gzip").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "empty").touch()
    (tmp_path / "export").write_bytes(b"FEAGI\3\0\0\0")
    np.save(tmp_path / "array.npy", [1, 2])
    (tmp_path / "text").write_text("[project]\n")
    return tmp_path


def test_kinds(files: Path) -> None:
    expected = {"network": k.ARCHIVE, "checkpoint": k.CHECKPOINT, "export": k.EXPORT}
    expected |= {"array.npy": k.ARRAY, "empty": k.EMPTY, "text": k.UNKNOWN}
    expected |= dict.fromkeys(("genome", "genome-bom", "genome-utf16"), k.GENOME)
    assert {name: kind_of(files / name) for name in expected} == expected
    assert "gzip" in kind_of(files / "gzip").about
    for name in ("genome", "genome-bom", "genome-utf16"):
        assert len(grow(files / name).neurons) == 7
    with pytest.raises(IsADirectoryError):
        kind_of(files)
    with pytest.raises(FileNotFoundError):
        kind_of(files / "nothing")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("checkpoint", "a checkpoint of a run, not a network; gpu_npu.Snapshot.read reads it"),
        ("array.npy", r".*a matrix of shape \(2,\)"),
        ("gzip", r"a file compressed by gzip \(unpack it first\), not a network"),
        ("empty", "an empty file, not a network"),
        ("text", "none of the networks that are read"),
    ],
)
def test_another_kind_than_a_network_is_named(files: Path, name: str, said: str) -> None:
    for read in (load, stream):
        with pytest.raises((FileFormatError, NetworkError), match=f"{re.escape(str(files / name))}: {said}"):
            read(files / name)


def test_another_kind_than_a_genome_an_export_or_a_checkpoint_is_named(files: Path) -> None:
    with pytest.raises(FileFormatError, match=r"network: a .npz file, not a JSON file: .*; gpu_npu.io.load reads networks"):
        grow(files / "network")
    with pytest.raises(FileFormatError, match=r"genome: a JSON file, not a connectome that FEAGI exported: .*; gpu_npu.genome.grow"):
        read_export(files / "genome")
    with pytest.raises(CheckpointError, match=r"network: a .npz file, not a checkpoint of a run: .*; gpu_npu.io.load reads networks"):
        Snapshot.read(files / "network")


def test_a_genome_is_read_as_any_network_is(files: Path) -> None:
    assert load(files / "genome").neuron_count == 7
    network, synapses = stream(files / "genome-bom", tell=lambda text: None)
    assert network.neuron_count == 7 and synapses.total == 0


def test_a_sparse_matrix_of_scipy_and_what_it_is_made_of(tmp_path: Path) -> None:
    """As scipy.sparse.save_npz writes it."""
    matrix = {"indices": np.array([1], np.int32), "indptr": np.array([0, 1, 1], np.int32), "data": np.array([3.0])}
    np.savez(tmp_path / "matrix.npz", format=np.array(b"csr"), shape=np.array([2, 2]), **matrix)
    network = load(tmp_path / "matrix.npz", tell=lambda text: None)
    assert network.neuron_count == 2 and network.synapses.weight.tolist() == [3]
    np.savez(tmp_path / "as-said.npz", indptr=matrix["indptr"], indices=matrix["indices"], count=matrix["data"].astype(int))
    assert load(tmp_path / "as-said.npz").synapse_count == 1
