"""Files of matrices and graphs that are damaged, or were made to be: the package's errors and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpu_npu import CapacityError, FileFormatError, NetworkError, NpuError
from gpu_npu.io import load

MATRIX = np.array([[0, 2.5, 0], [0, 0, -1], [3, 0, 0]])
TOKENS = [b"", b"nan", b"inf", b"-1", b"1e999", b"\0", b"\xff", b"<", b"&lt;", b"string", b"undirected", b"99999999999999999999"]


def graphml(path: Path) -> None:
    graph = nx.DiGraph([("a", "b", {"weight": 3.5, "kind": "x"}), ("b", "a", {"weight": 2.0})])
    graph.add_node("lonely", kind="motor")
    nx.write_graphml(graph, path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    **{
        f"save_npz {form}": lambda path, form=form: scipy.sparse.save_npz(
            path, scipy.sparse.csr_array(MATRIX).asformat(form), form == "csr"
        )
        for form in ("csr", "csc", "coo", "bsr", "dia")
    },
    "npy": lambda path: np.save(path, MATRIX),
    "mat": lambda path: scipy.io.savemat(path, {"W": MATRIX, "names": ["a", "b"], "one": {"x": 1}}),
    "mat compressed": lambda path: scipy.io.savemat(path, {"W": MATRIX}, do_compression=True),
    "mat sparse": lambda path: scipy.io.savemat(path, {"W": scipy.sparse.csc_array(MATRIX)}),
    "graphml": graphml,
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    contents = {}
    for name, write in WRITERS.items():
        path = folder / ("file" + (".npz" if "npz" in name else ".npy" if name == "npy" else ".mat" if "mat" in name else ".xml"))
        write(path)
        contents[name] = path.read_bytes()
    return contents


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.floats(0, 1, exclude_max=True), st.sampled_from(TOKENS), st.integers(0, 12), st.booleans())
@example("mat", 0.03, b"\xff", 4, False)
def test_damage(
    originals: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, where: float, token: bytes, gone: int, cut: bool
) -> None:
    content = originals[kind]
    at = int(where * len(content))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[:at] if cut else content[:at] + token + content[at + gone :])
    try:
        load(path, tell=lambda text: None).validate()
    except NpuError as error:
        assert "\n" not in error.problem and str(path) in error.problem


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.floats(0, 1, exclude_max=True), st.integers(0, 255))
def test_one_byte(originals: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, kind: str, where: float, byte: int) -> None:
    content = bytearray(originals[kind])
    content[int(where * len(content))] = byte
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        load(path, tell=lambda text: None).validate()
    except NpuError as error:
        assert "\n" not in error.problem and str(path) in error.problem


# -- MATLAB, which is read here and held to scipy ------------------------------------------------------------------
def synapses_of(what: Any) -> list[tuple[Any, ...]]:
    network = load(what, tell=lambda text: None)
    found = network.synapses
    return sorted(zip(*(getattr(found, name).tolist() for name in ("source", "target", "weight", "inhibitory")), strict=True))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_matrices_of_matlab_are_those_that_scipy_reads(dtype: str, compressed: bool, tmp_path: Path) -> None:
    path, draw = tmp_path / "m.mat", np.random.default_rng(0)
    for matrix in (draw.integers(0, 100, (7, 7)).astype(dtype), np.eye(2).astype(dtype)):
        scipy.io.savemat(path, {"A": matrix, "text": "no", "row": [1, 2]}, do_compression=compressed)
        assert synapses_of(path) == synapses_of(scipy.io.loadmat(path)["A"])
        if dtype in ("f8", "?"):
            scipy.io.savemat(path, {"A": scipy.sparse.csc_array(matrix)}, do_compression=compressed)
            assert synapses_of(path) == synapses_of(scipy.sparse.csc_array(scipy.io.loadmat(path)["A"]))


def big_endian(*shape: int) -> bytes:
    """A variable A of zeros but for its last value, which is 5, in the order of bytes of old machines."""
    parts = [(6, struct.pack(">II", 6, 0)), (5, struct.pack(">ii", *shape)), (1, b"A" + bytes(7))]
    parts.append((9, bytes(8 * (shape[0] * shape[1] - 1)) + struct.pack(">d", 5)))
    body = b"".join(struct.pack(">II", kind, 1 if kind == 1 else len(data)) + data for kind, data in parts)
    return b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(body)) + body


def test_the_order_of_bytes_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.mat").write_bytes(big_endian(2, 2))
    assert (scipy.io.loadmat(tmp_path / "m.mat")["A"] == [[0, 0], [0, 5]]).all() and synapses_of(tmp_path / "m.mat") == [(1, 1, 5, False)]


def test_a_variable_that_unpacks_to_more_than_memory_allows(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "m.mat", {"A": np.zeros((2000, 2000))}, do_compression=True)
    with pytest.raises(CapacityError, match=r"m.mat: a variable takes about .* of memory"):
        load(tmp_path / "m.mat", memory_limit=2**20)


def test_matlab_says_what_it_has(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "m.mat", {"A": np.eye(2), "c": np.eye(2) * 1j, "text": "no"})
    with pytest.raises(FileFormatError, match="no square matrix of the name 'c'; it has: A, c, text"):
        load(tmp_path / "m.mat", array="c")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512))
    with pytest.raises(FileFormatError, match="version 7.3; in MATLAB, save"):
        load(tmp_path / "new.mat")


@pytest.mark.parametrize("weight", [1e300, 1e-300, -1e298])
def test_weights_that_float32_cannot_hold_are_told(weight: float) -> None:
    with pytest.raises(NetworkError, match=r"this ndarray: weights up to .* are beyond float32, in which potentials are; scale them"):
        load(np.array([[0, weight / 3], [weight, 0]]), tell=lambda text: None)


@pytest.mark.parametrize("unit", [0.0, -1.0, float("nan"), float("inf"), 1e-60])
def test_units_that_are_none(unit: float) -> None:
    with pytest.raises(NetworkError, match="the unit .* is no weight above 0 that float32 has"):
        load(np.eye(2), unit=unit, tell=lambda text: None)


def test_small_weights_are_no_integers() -> None:
    """Conductances in siemens: each is nearly 0, and none is."""
    network = load(np.array([[0, 2.5e-10], [1e-9, 0]]), tell=lambda text: None)
    assert np.allclose(network.synapses.weight * np.float64(network.settings.contribution_scale), [2.5e-10, 1e-9], rtol=1e-4, atol=0)


def test_what_networkx_warns_of_is_told(tmp_path: Path) -> None:
    graphml(tmp_path / "graph.xml")
    text = (tmp_path / "graph.xml").read_text()
    (tmp_path / "graph.xml").write_text(text.replace('attr.type="string"', "", 1))
    notes: list[str] = []
    load(tmp_path / "graph.xml", tell=notes.append)
    assert any("No key type for id" in note for note in notes)
