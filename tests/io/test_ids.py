"""Ids in files of every kind that people have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import Annotations, FileFormatError, NetworkError, NeuronIndexError
from gpu_npu.io import ids as ids_of_files
from gpu_npu.io import parse_ids, read_ids


def test_lists_and_ranges() -> None:
    ids = parse_ids("7, 2,5-8,0", 10)
    assert ids.dtype == np.uint32 and ids.tolist() == [7, 2, 5, 6, 7, 8, 0]
    assert parse_ids("9-9", 10).tolist() == [9]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", NetworkError, "'' is no id"),
        ("1,,2", NetworkError, "'' is no id"),
        ("1-2-3", NetworkError, "'1-2-3' is no id"),
        ("1.5", NetworkError, "'1.5' is no id"),
        ("nan", NetworkError, "'nan' is no id"),
        ("9" * 5000, NetworkError, "is no id"),
        ("8-4", NetworkError, "the range 8-4 goes down; write 4-8"),
        ("5-10", NeuronIndexError, "10 is not a neuron id; the ids of this network are 0 to 9"),
        ("0-99999999999999999999", NeuronIndexError, "looks like a label"),
        ("-3", NeuronIndexError, "-3 is not a neuron id"),
    ],
)
def test_lists_that_are_none(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^ids: .*{message}"):
        parse_ids(text, 10)


def _saved(path: Path, write: Any) -> Path:
    write(path)
    return path


IDS = np.array([4, 2, 7])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("lines.txt", lambda p: p.write_text("4\n2\n7\n")),
        ("commented", lambda p: p.write_text("# ids\n\n4 # first\n2\n  7")),
        ("windows.csv", lambda p: p.write_bytes("\ufeff4,2,7\r\n".encode())),
        ("ranges.txt", lambda p: p.write_text("4; 2-2\t7-7")),
        ("numpy.txt", lambda p: np.savetxt(p, IDS)),
        ("integers.txt", lambda p: np.savetxt(p, IDS, fmt="%d", header="of the eye")),
        ("list.json", lambda p: p.write_text(json.dumps(IDS.tolist(), indent=1))),
        ("array.npy", lambda p: np.save(p, IDS)),
        ("named.npz", lambda p: np.savez(p, stim=IDS, other=[1])),
        ("one.npz", lambda p: np.savez_compressed(p, neurons=IDS)),
    ],
)
def test_files_of_ids(tmp_path: Path, name: str, write: Any) -> None:
    ids = read_ids(_saved(tmp_path / name, write), 10)
    assert ids.dtype == np.uint32 and ids.tolist() == [4, 2, 7]


def test_files_of_masks(tmp_path: Path) -> None:
    mask = np.array([True, False, True, False])
    path = _saved(tmp_path / "mask.npy", lambda p: np.save(p, mask))
    assert read_ids(path, 4).tolist() == [0, 2]
    with pytest.raises(NetworkError, match="mask.npy: a mask of 4 booleans; a mask has one for each of the 5 ids"):
        read_ids(path, 5)
    assert read_ids(_saved(tmp_path / "a.npz", lambda p: np.savez(p, a=mask, b=[1])), 4, "a").tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "write", "error", "message"),
    [
        (
            "code.py",
            lambda p: p.write_text("# a script\nimport numpy\n"),
            FileFormatError,
            "code.py, line 2: 'import' is no id; a file of ids is",
        ),
        ("table.csv", lambda p: p.write_text("root_id,side\n1,left\n"), FileFormatError, "table.csv, line 1: 'root_id' is no id"),
        ("labels.txt", lambda p: p.write_text("3\n720575940379810000\n"), NeuronIndexError, "labels.txt, line 2: .* looks like a label"),
        ("noise", lambda p: p.write_bytes(b"\x80\x81\xff" * 9), FileFormatError, "noise: not a file of ids: neither .npy, .npz nor text"),
        ("cut.npy", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), FileFormatError, "cut.npy: not a readable array of ids"),
        ("text.npz", lambda p: p.write_text("1\n"), FileFormatError, "text.npz: not a .npz file"),
        ("real.npy", lambda p: np.save(p, [0.5]), NetworkError, "real.npy: dtype float64 .first value 0.5. where integer ids"),
        ("none.npz", lambda p: np.savez(p, a=[1], b=[2]), FileFormatError, "which array holds the ids.*name one"),
    ],
)
def test_files_that_hold_no_ids(tmp_path: Path, name: str, write: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_ids(_saved(tmp_path / name, write), 10)


def test_a_key_needs_an_npz(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"ids.txt: it is no .npz file, so it has no array 'a'"):
        read_ids(_saved(tmp_path / "ids.txt", lambda p: p.write_text("1")), 10, "a")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("codes.npy", lambda path: np.save(path, [3, 1, 3, 3])),
        ("codes.npz", lambda path: np.savez(path, stim=[3, 1, 3, 3])),
        ("codes.txt", lambda path: path.write_text("3 1\n2-4 # twice\n3\n")),
    ],
)
def test_a_column_of_codes_is_no_list_of_ids(tmp_path: Path, name: str, write: Callable[[Path], object]) -> None:
    with pytest.raises(NetworkError, match=rf"{name}.*: neuron 3 is named 3 times; a list of ids names each neuron once, and these [0-9]"):
        read_ids(_saved(tmp_path / name, write), 10)


# -- labels --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("labels", [np.array(["a", "b", "c"]), np.array([7, 2**63, 5], np.uint64)])
def test_labels_of_a_file_are_looked_up_together(labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search a line takes twenty times as long."""
    looked, find = list[int](), Annotations.positions
    monkeypatch.setattr(Annotations, "positions", lambda self, wanted: looked.append(len(wanted)) or find(self, wanted))
    path = tmp_path / "ids.txt"
    path.write_text(f"{labels[2]}\n# none\n\n{labels[0]}  # the first\n")
    assert read_ids(path, 3, labels=Annotations(labels)).tolist() == [2, 0] and looked == [2]
    path.write_text(f"{labels[2]}\n{labels[0]}\n99\n")
    with pytest.raises(FileFormatError, match="ids.txt, line 3: no neuron of this network has the label '?99'?"):
        read_ids(path, 3, labels=Annotations(labels))
    path.write_text("")
    assert not len(read_ids(path, 3, labels=Annotations(labels)))


@pytest.mark.parametrize("labels", [None, Annotations(np.array([7, 8, 9], np.uint64))])
def test_lists_that_are_too_long(labels: Annotations | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_of_files, "SPARE", 10)
    (tmp_path / "ids.txt").write_text(f"{0 if labels is None else 7}\n" * 17)
    with pytest.raises(FileFormatError, match="ids.txt, line 17: with [07] more than 16 ids, in a network that has 3"):
        read_ids(tmp_path / "ids.txt", 3, labels=labels)


def test_labels_with_spaces_have_a_line_each(tmp_path: Path) -> None:
    labels = Annotations(np.array(["MBON01 (y5B'2a)", "a, b", "c#1"]))
    (tmp_path / "ids.txt").write_text("c#1\n\n  a, b \nMBON01 (y5B'2a)\n")
    assert read_ids(tmp_path / "ids.txt", 3, labels=labels).tolist() == [2, 1, 0]
    assert parse_ids("a, b", 3, labels=labels).tolist() == [1]
    assert parse_ids("c#1, MBON01 (y5B'2a)", 3, labels=labels).tolist() == [2, 0]
