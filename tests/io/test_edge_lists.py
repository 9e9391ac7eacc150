"""Edge lists as people have them become networks whose neurons are named by the ids of the file."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_npu import NPU, Connectome, FileFormatError, MissingPackageError, NetworkError, NpuError
from gpu_npu.io import load, save, stream, write

ROOTS = [720575940603266592, 2**63 + 5, 720575940603266593]
"""Two of them are the same as real numbers of 64 bits."""


def edges_of(network: Connectome) -> list[tuple[Any, ...]]:
    """(source, target, signed weight) of every synapse, ends by their labels, ascending."""
    labels, synapses = network.annotations.labels, network.synapses
    assert labels is not None
    signed = synapses.weight.astype(np.int64) * np.where(synapses.inhibitory, -1, 1)
    return sorted(zip(labels[synapses.source].tolist(), labels[synapses.target].tolist(), signed.tolist(), strict=True))


def text(tmp_path: Path, content: str, name: str = "edges.csv") -> Path:
    (tmp_path / name).write_text(content)
    return tmp_path / name


@pytest.fixture
def notes() -> list[str]:
    return []


# -- files as people published them --------------------------------------------------------------------------------
def test_the_fly_in_the_columns_of_the_published_model(notes: list[str]) -> None:
    files = shared_data() / "files"
    said = json.loads((files / "flywire_sample.json").read_text())
    network = load(files / "flywire_sample_connectivity.parquet", neurons=files / "flywire_sample_completeness.csv", tell=notes.append)
    codex = load(files / "flywire_sample_connections.csv.gz", annotations=files / "flywire_sample_neurons.csv", tell=notes.append)
    weights = network.synapses.weight.astype(np.int64)
    signed = weights * np.where(network.synapses.inhibitory, -1, 1)
    assert (network.neuron_count, network.synapse_count) == (said["neurons"], said["edges"])
    assert (weights.sum(), signed.sum(), weights.max()) == (said["sum_of_counts"], said["signed_sum"], said["largest_count"])
    assert edges_of(network) == edges_of(codex)
    table = pq.read_table(files / "flywire_sample_connectivity.parquet")
    labels = network.annotations.labels
    assert labels is not None and (labels[table["Presynaptic_Index"]] == table["Presynaptic_ID"].to_numpy().astype(np.uint64)).all()
    assert len(codex.annotations.select("stimulated", ("True",))) == said["stimulated"]
    assert any("source = 'Presynaptic_ID'" in note and "not used: 'Presynaptic_Index'" in note for note in notes)
    assert any("GABA and glutamate inhibit" in note for note in notes)


def test_the_worm_has_names_and_electrical_edges(notes: list[str]) -> None:
    path = shared_data() / "files" / "celegans_herm_edgelist.csv"
    network = load(path, tell=notes.append)
    labels = network.annotations.labels
    assert labels is not None and labels.dtype.kind == "U" and len(labels) == network.neuron_count == 448
    assert (np.char.strip(labels) == labels).all() and network.synapse_count == 7379 - 2698
    assert any("2,698 of 7,379 rows are electrical and are left out" in note for note in notes)
    assert load(path, electrical=True, tell=notes.append).synapse_count == 7379 + 2698


def test_fractions_become_integers_with_a_unit(notes: list[str]) -> None:
    network = load(shared_data() / "files" / "hemibrain_fractions_byid.csv", tell=notes.append)
    frame = pd.read_csv(shared_data() / "files" / "hemibrain_fractions_byid.csv")
    unit = network.settings.contribution_scale
    error = float(np.abs(network.synapses.weight * unit - frame["weightRelative"].to_numpy()).max())
    told = next(float(found[1]) for note in notes if (found := re.search(r"largest rounding error is (\S+)", note)))
    assert network.synapses.weight.dtype == np.uint16 and error < unit and abs(told - error) < 1e-7


# -- one network in every form -------------------------------------------------------------------------------------
FRAME = {"pre_root_id": [ROOTS[0], ROOTS[1], ROOTS[2]], "post_root_id": [ROOTS[1], ROOTS[0], ROOTS[1]], "syn_count": [5, 300, 7]}


def frame() -> pd.DataFrame:
    return pd.DataFrame({name: np.array(values, np.uint64) for name, values in FRAME.items()})


def as_text(separator: str) -> str:
    return "\n".join(separator.join(map(str, row)) for row in [FRAME, *zip(*FRAME.values(), strict=True)]) + "\n"


def tsv(tmp_path: Path) -> Any:
    return text(tmp_path, as_text("\t"), "edges.tsv")


def crlf(tmp_path: Path) -> Any:
    (tmp_path / "e").write_bytes(b"\xef\xbb\xbf# made by hand\r\n" + as_text(";").replace("\n", "\r\n").encode())
    return tmp_path / "e"


def zipped(tmp_path: Path) -> Any:
    (tmp_path / "edges").write_bytes(gzip.compress(as_text(",").encode()))
    return tmp_path / "edges"


def zstd(tmp_path: Path) -> Any:
    with pa.output_stream(str(tmp_path / "edges"), compression="zstd") as file:
        file.write(as_text(",").encode())
    return tmp_path / "edges"


def parquet(tmp_path: Path) -> Any:
    pq.write_table(pa.table(frame()), tmp_path / "edges", row_group_size=2)
    return tmp_path / "edges"


def feather(tmp_path: Path) -> Any:
    pf.write_feather(frame(), tmp_path / "edges", compression="zstd")
    return tmp_path / "edges"


def arrow_stream(tmp_path: Path) -> Any:
    table = pa.table(frame())
    with pa.ipc.new_stream(tmp_path / "edges", table.schema) as writer:
        writer.write_table(table)
    return tmp_path / "edges"


def zipped_sheet() -> bytes:
    with zipfile.ZipFile(content := io.BytesIO(), "w") as file:
        file.writestr("xl/workbook.xml", "<workbook/>")
    return content.getvalue()


MAKERS: dict[str, Callable[[Path], Any]] = {
    **{maker.__name__: maker for maker in (tsv, crlf, zipped, zstd, parquet, feather, arrow_stream)},
    "pandas": lambda tmp_path: frame(),
    "polars": lambda tmp_path: pl.DataFrame(FRAME, schema=dict.fromkeys(FRAME, pl.UInt64)),
    "arrow": lambda tmp_path: pa.table(frame()),
    "dict": lambda tmp_path: {name: np.array(values, np.uint64) for name, values in FRAME.items()},
    "structured array": lambda tmp_path: frame().to_records(index=False),
    "polars, lazy": lambda tmp_path: pl.DataFrame(FRAME, schema=dict.fromkeys(FRAME, pl.UInt64)).lazy(),
    "one reading": lambda tmp_path: pa.table(frame()).to_reader(),
    "arrays": lambda tmp_path: tuple(np.array(values, np.uint64) for values in FRAME.values()),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_every_form_gives_the_same_network(maker: Callable[[Path], Any], tmp_path: Path, notes: list[str]) -> None:
    network = load(maker(tmp_path), tell=notes.append)
    assert edges_of(network) == sorted(zip(*FRAME.values(), strict=True))
    assert network.weight_dtype == np.uint16 and network.settings.contribution_scale == 1
    network.validate()


def test_streamed_it_runs_as_loaded(tmp_path: Path, notes: list[str]) -> None:
    network, synapses = stream(parquet(tmp_path), threshold=2.0, tell=notes.append)
    assert network.synapse_count == 0 and synapses.total == 3
    digests = set()
    loaded = load(frame(), threshold=2.0, tell=notes.append)
    for made, more in ((network, synapses), (loaded, None)):
        with NPU.from_connectome(made, synapses=more, backend="reference") as npu:
            npu.inject([ROOTS[0]], 5.0)
            digests.add(npu.run(4, digest=True).digest)
    assert len(digests) == 1


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".feather"])
def test_written_edge_lists_come_back(ending: str, tmp_path: Path, notes: list[str]) -> None:
    network = load(text(tmp_path, "pre,post,weight\na b,c,-0.5\nc,a b,1.5\n"), tell=notes.append)
    write(network, tmp_path / f"again{ending}")
    again = load(tmp_path / f"again{ending}", tell=notes.append)
    assert edges_of(again) == edges_of(network) == [("a b", "c", -5), ("c", "a b", 15)]
    assert again.settings.contribution_scale == network.settings.contribution_scale == np.float32(0.1)
    with pytest.raises(NetworkError, match=r"whose name ends in \.npz, \.json, \.csv, \.parquet, \.feather"):
        write(network, tmp_path / "again.docx")


# -- labels --------------------------------------------------------------------------------------------------------
def test_labels_live_through_files_npus_and_snapshots(tmp_path: Path, notes: list[str]) -> None:
    names = load(text(tmp_path, "source,target,weight\nÄ1,b,2\nb,Ä1,300\n"), tell=notes.append)
    numbers = load(frame(), annotations={"root_id": np.array(ROOTS[:2], np.uint64), "side": np.array(["left", ""])}, tell=notes.append)
    for network, label in ((names, "b"), (numbers, ROOTS[1])):
        save(network, tmp_path / "network.npz")
        with NPU.from_connectome(load(tmp_path / "network.npz"), backend="reference") as npu:
            npu.force_fire([label])
            fired = npu.process_burst().fired_neurons
            assert npu.annotations.name(int(fired[0])) == str(label)
            npu.snapshot().write(tmp_path / "run.ckpt")
            again = NPU.from_snapshot(type(npu.snapshot()).read(tmp_path / "run.ckpt"), backend="reference")
            for kept in (npu.to_connectome(), again.to_connectome(), network.copy()):
                found = kept.annotations
                assert found.labels is not None and network.annotations.labels is not None
                assert (found.labels == network.annotations.labels).all() and found.labels.dtype == network.annotations.labels.dtype
                assert {name: values.tolist() for name, values in found.columns.items()} == {
                    name: values.tolist() for name, values in network.annotations.columns.items()
                }
            again.close()
            with pytest.raises(NetworkError, match=r"neurons: no neuron of this network has the label "):
                npu.inject(["nobody"] if network is names else [2**40], 1.0)


def test_what_is_no_network_says_what_to_call() -> None:
    with pytest.raises(NetworkError, match=r"a DataFrame is no Connectome; gpu_npu.io.load\(it\)"):
        NPU.from_connectome(frame())  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="a set is no network that is known here"):
        load({1, 2})


# -- what is refused -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Quelle;Ziel\n1;2\n", "which column is the source and which the target\\? it has 'Quelle', 'Ziel'; --column source=NAME"),
        ("1,2,3\n4,5,6\n", "none has a name; --column source=1 --column target=2"),
        ("pre,source,post\n1,2,3\n", "'pre' and 'source' may each be the source; --column source=pre"),
        ("pre,post,weight\n1,2,3\n3,4,abc\n", "row 2, column 'weight': 'abc' is not a number"),
        ("pre,post,weight\n1,2,nan\n", "row 1, column 'weight': 'nan' is not a finite number"),
        ("pre,post,weight\n1,2,\n", "row 1, column 'weight': '' is not a number"),
        ("pre,post,weight\n1,,3\n", "row 1, column 'post': '' is no id"),
        ("pre,post,weight\n1,2,3\n4,5\n", "line 3 has 2 cells, the first line 3: '4,5'"),
        ("pre,post,excitatory\n1,2,2\n", "row 1, column 'excitatory': '2' is no sign"),
        ("pre,post,weight,excitatory\n1,2,-2,1\n", "row 1, column 'excitatory': '-2' is a negative weight of an edge that excites"),
        ("pre,post,weight\n1,2,7\n1,2,0x1f\n", "row 2, column 'weight': '0x1f' is not a number"),
        ("pre,post\n1,NA\n", "row 1, column 'post': 'NA' is no id: it stands for a missing value"),
        ("pre,post\n3,a\n-1,b\n", "row 2, column 'pre': '-1' is no id, for it is below 0"),
        (
            "pre,post\n1,7.20575940603266e+17\n",
            "row 1, column 'post': '7.20575940603266e\\+17' is a real number, too coarse for such an id",
        ),
        ("pre,post\na,720575940603266592.0\n", "row 1, column 'post': '720575940603266592.0' is a real number, too coarse"),
        ('pre,post,weight\n1,2,"1,000"\n', "row 1, column 'weight': '1,000' is not a number, such as 1200 or 0.5"),
        ("pre,post,weight,weight\n1,2,3,4\n", "'weight' and 'weight' may each be the weight; --column weight=3"),
        ("pre   post\n1     2\n", "line 1 has several spaces between its cells: 'pre   post'; write one comma"),
        ("root_id,side\n1,left\n", "which column is the source and .*; a table of neurons is given as --annotations"),
        ("0,1,0,0,0,0,0\n", "none has a name; .*; a matrix is read from .npy, .npz and .mat"),
        ("1\n2\n", "text of one cell a line, '1'; an edge list has two or more, and a list of ids is taken by --inject FILE"),
        ("\n\n", "nothing but empty lines"),
        ("pre,post,weight\n1,2,1e300\n", "weights up to 1e\\+300 are beyond float32, in which potentials are; scale them"),
        ("pre,post,weight\n1,2,70000\n", "the largest weight is 70000, that is 70,000 units of 1, and 65,535 fit; --unit"),
    ],
)
def test_refused(content: str, said: str, tmp_path: Path, notes: list[str]) -> None:
    with pytest.raises((FileFormatError, NetworkError), match=f"edges.csv: .*{said}|edges.csv: {said}"):
        load(text(tmp_path, content), tell=notes.append)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("pre,post\nM\xfcller,2\n".encode("latin-1"), "line 2 is not UTF-8: 'Müller,2'; save the file as UTF-8"),
        (b"pre,post\n" + b"ab,cd\n" * 20000 + b"M\xfcller,2\n", "row 20,001, column 'pre': .* is not UTF-8; save the file as UTF-8"),
        ("pre,post\n1,2\n".encode("utf-16"), "text in UTF-16; save it as UTF-8"),
        (b"", "an empty file, not a network"),
        (b"\xd0\xcf\x11\xe0" + bytes(99), r"a file of Microsoft Office \(save its sheet as CSV\)"),
        (zipped_sheet(), "of an Excel workbook a sheet is saved as CSV"),
        (gzip.compress(as_text(",").encode(), mtime=0)[:-9], "after row 0: Truncated compressed stream"),
    ],
)
def test_refused_for_how_it_is_written(content: bytes, said: str, tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "edges.csv").write_bytes(content)
    with pytest.raises(FileFormatError, match=f"edges.csv: .*{said}") as caught:
        load(tmp_path / "edges.csv", tell=notes.append)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [bool, "datetime64[D]", "O"])
def test_columns_that_are_no_ids(kind: Any, notes: list[str]) -> None:
    ends = np.array([True, 1.5], "O") if kind == "O" else np.array([1, 0]).astype(kind)
    with pytest.raises(FileFormatError, match=r"row 1, column 'source': .* is no id, which is an integer or a name"):
        load((ends, np.array([1, 2])), tell=notes.append)


@pytest.mark.parametrize("content", ["pre,post\n", "pre,post"])
def test_a_table_without_rows_is_told(content: str, tmp_path: Path, notes: list[str]) -> None:
    assert load(text(tmp_path, content), tell=notes.append).neuron_count == 0
    assert any("it has no rows, so the network has no synapses" in note for note in notes)


def test_ids_written_as_real_numbers_join_those_written_as_integers(tmp_path: Path, notes: list[str]) -> None:
    path = text(tmp_path, "pre,post\n1.0,2.0\n2.0,3.000e+00\n")
    network = load(path, annotations={"id": np.array([1, 3]), "side": np.array(["left", "right"])}, tell=notes.append)
    assert edges_of(network) == [(1, 2, 1), (2, 3, 1)] and network.annotations.select("side", ("right",)).tolist() == [2]


def test_names_of_columns_in_a_comment(tmp_path: Path, notes: list[str]) -> None:
    np.savetxt(tmp_path / "edges.txt", [[1, 2, 3], [2, 1, 4]], header="pre post weight")
    assert edges_of(load(tmp_path / "edges.txt", tell=notes.append)) == [(1, 2, 3), (2, 1, 4)]


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["a", "b"]), pl.String])
def test_columns_of_few_words(kind: Any, notes: list[str]) -> None:
    table = pl.DataFrame({"pre": ["a", "b"], "post": ["b", "a"], "type": ["a", "b"]}, schema=dict.fromkeys(("pre", "post", "type"), kind))
    assert edges_of(load(table, tell=notes.append)) == [("a", "b", 1), ("b", "a", 1)]


@pytest.mark.parametrize("content", ["3\n1\n2\n9\n", "bodyId\n3\n1\n2\n9\n", "# mine\nneuronlist\n3\n1\n2\n9\n"])
def test_a_list_of_ids_alone_lists_the_neurons(content: str, tmp_path: Path, notes: list[str]) -> None:
    listed = text(tmp_path, content, "ids.txt")
    network = load(text(tmp_path, "pre,post\n1,2\n2,3\n"), neurons=listed, tell=notes.append)
    assert network.annotations.labels is not None and network.annotations.labels.tolist() == [3, 1, 2, 9]
    with pytest.raises(FileFormatError, match=r"ids.txt: row 2, column '\w+': 3 is listed for the second time; leave one row"):
        load(tmp_path / "edges.csv", neurons=text(tmp_path, "3\n3\n", "ids.txt"), tell=notes.append)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (pd.DataFrame({"pre": ["a", 1], "post": [1, 2]}), "this DataFrame: no table that Arrow can hold: Expected bytes"),
        (pd.DataFrame({"pre": [2**64, 1], "post": [1, 2]}), "this DataFrame: no table that Arrow can hold: Python int too large"),
        (pd.Series([1, 2]), "this Series: no table that Arrow can hold"),
        ([(1, 2, 3)], "a list is no network that is known here; these are: a matrix of NumPy .*; a dict, or a tuple"),
        (np.array([[0, np.nan], [1, 0]]), r"this ndarray: \[0, 1\] is nan, which is not a finite number"),
        (np.eye(2) * 1j, "this ndarray: a matrix of complex128, where numbers are needed"),
        (scipy.sparse.coo_array(np.eye(2) * 1j), "this coo_array: a matrix of complex128, where numbers are needed"),
    ],
)
def test_objects_that_are_refused(what: Any, said: str) -> None:
    with pytest.raises((NetworkError, FileFormatError), match=said) as caught:
        load(what)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colums": {}}, "'colums' is none of the options of reading .*columns.* nor of the fields of a neuron .*threshold"),
        ({"transmitters": "x"}, "transmitters: 'x' is no dict"),
        ({"columns": "pre"}, "columns: 'pre' is no dict"),
        ({"columns": {"source": 1}}, "columns: source: 1 is not a str"),
        ({"unit": "1"}, "unit: '1' is not a real number"),
        ({"clip": 1}, "clip: 1 is not True or False"),
        ({"areas": 3}, "areas: 3 is not a str"),
        ({"tell": 3}, "tell: 3 cannot be called"),
    ],
)
def test_options_of_other_types(options: dict[str, Any], said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        load(frame(), **options)


def test_rows_of_the_receiver_are_left_out(tmp_path: Path, notes: list[str]) -> None:
    rows = "ADAL,AIBL,S,2\nAIBL,ADAL,R,2\nADAL,AIBR,Sp,1\nAIBR,ADAL,Rp,1\nADAL,ADAR,EJ,1\nADAR,ADAL,EJ,1\n"
    network = load(text(tmp_path, f"Neuron 1,Neuron 2,Type,Nbr\n{rows}"), tell=notes.append)
    assert edges_of(network) == [("ADAL", "AIBL", 2), ("ADAL", "AIBR", 1)]
    assert any("2 of 6 rows are left out: they say from the receiver's side" in note for note in notes)
    assert load(text(tmp_path, f"pre,post,Type,n\n{rows}"), tell=notes.append).synapse_count == 4


def test_columns_named_by_options(tmp_path: Path, notes: list[str]) -> None:
    network = load(text(tmp_path, "Quelle;Ziel;Zahl\n1;2;3\n"), columns={"source": "Quelle", "target": "2"}, tell=notes.append)
    assert edges_of(network) == [(1, 2, 1)] and any("there is no weight, so each is 1" in note for note in notes)
    with pytest.raises(NetworkError, match="there is no column 'Gewicht'; it has 'Quelle'"):
        load(tmp_path / "edges.csv", columns={"weight": "Gewicht"}, tell=notes.append)


def test_weights_that_do_not_fit_are_made_to(tmp_path: Path, notes: list[str]) -> None:
    path = text(tmp_path, "pre,post,weight\n1,2,100000\n2,1,3\n")
    assert edges_of(load(path, clip=True, tell=notes.append)) == [(1, 2, 65535), (2, 1, 3)]
    assert "1 were cut to 65535" in notes[-1]
    assert edges_of(load(path, unit=10.0, tell=notes.append)) == [(1, 2, 10000), (2, 1, 0)]
    assert "the largest rounding error is 3; 1 became 0" in notes[-1]


def test_ids_keep_how_they_are_written(tmp_path: Path, notes: list[str]) -> None:
    assert edges_of(load(text(tmp_path, "pre,post\n007,7\n7,x\n"), tell=notes.append)) == [("007", "7", 1), ("7", "x", 1)]
    numbers = [0, 9, 10, 99, 10**18, 10**19 - 1, 10**19, 2**64 - 1]
    found = load(text(tmp_path, "pre,post\n" + "\n".join(f"{number},{number}" for number in numbers)), tell=notes.append)
    assert found.annotations.labels is not None and found.annotations.labels.tolist() == numbers
    for other in ("00", "0x1f", "+5"):
        assert edges_of(load(text(tmp_path, f"pre,post\n1,{other}\n"), tell=notes.append)) == [("1", other, 1)]
    with pytest.raises(FileFormatError, match="row 1, column 'source': .*too coarse for such an id"):
        load((np.array([7.2e17]), np.array([1.0])), tell=notes.append)


def test_transmitters_by_another_table(tmp_path: Path, notes: list[str]) -> None:
    path = text(tmp_path, "pre,post,nt_type\n1,2,GLUT\n2,1,GABA\n")
    assert edges_of(load(path, transmitters={"GABA": -1}, tell=notes.append)) == [(1, 2, 1), (2, 1, -1)]
    assert "not in the table, so they excite: 'GLUT'" in notes[-1]


def test_annotations_sign_select_and_make_areas(tmp_path: Path, notes: list[str]) -> None:
    about = text(tmp_path, "bodyId,nt,type\n2,gaba,B\n1,ach,A\n9,ach,C\n", "about.csv")
    edges = text(tmp_path, "bodyId_pre,bodyId_post,weight\n1,2,3\n2,1,4\n3,1,5\n")
    network = load(edges, annotations=about, areas="type", tell=notes.append)
    assert edges_of(network) == [(1, 2, 3), (2, 1, -4), (3, 1, 5)]
    assert [area.name for area in network.areas.values()] == ["", "A", "B"]
    assert any("of 2 of 3 neurons; 1 rows are of others" in note for note in notes)
    with pytest.raises(FileFormatError, match=r"row 3, column 'bodyId_pre': '3' is not in the list of neurons"):
        load(edges, neurons=about, tell=notes.append)
    with pytest.raises(NetworkError, match=r"none of its 1 ids in column 'id' is a neuron of the network; its first is 77"):
        load(edges, annotations={"id": np.array([77])}, tell=notes.append)


# -- matrices ------------------------------------------------------------------------------------------------------
def test_matrices(tmp_path: Path, notes: list[str]) -> None:
    dense = np.array([[0, 2, 0], [0, 0, -1], [0, 0, 0]])
    sparse = scipy.sparse.csr_array(dense)
    scipy.sparse.save_npz(tmp_path / "m.npz", sparse)
    np.save(tmp_path / "m.npy", dense)
    for what in (dense, sparse, sparse.tocoo(), tmp_path / "m.npz", tmp_path / "m.npy"):
        network = load(what, tell=notes.append)
        assert network.neuron_count == 3 and edges_of(network) == [(0, 1, 2), (1, 2, -1)]
        assert edges_of(load(what, transposed=True, tell=notes.append)) == [(1, 0, 2), (2, 1, -1)]
    with pytest.raises(NetworkError, match=r"a matrix of shape \(2, 3\); a square one"):
        load(np.zeros((2, 3)), tell=notes.append)


# -- whatever a file holds -----------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("01,;\t\n\r\"'#pre ostwigh-.e+\0ñ9_"), max_size=80))
def test_any_text_is_a_network_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "edges.csv"
    path.write_text("pre,post,weight\n" + content)
    try:
        load(path, tell=lambda text: None).validate()
    except NpuError as error:
        assert "\n" not in error.problem and str(path) in error.problem


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["parquet", "feather", "arrow_stream", "zipped", "zstd"]), st.data())
def test_damaged_files_are_refused(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    path = MAKERS[kind](tmp_path_factory.mktemp("fuzz"))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(4, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        load(path, tell=lambda text: None)
    except NpuError as error:
        assert "\n" not in error.problem and str(path) in error.problem


# -- graphs and MATLAB ---------------------------------------------------------------------------------------------
def test_graphs(tmp_path: Path, notes: list[str]) -> None:
    graph = nx.DiGraph()
    graph.add_node("lonely", kind="motor")
    graph.add_edge("a", "b", weight=3)
    graph.add_edge("b", "a", weight=-2)
    nx.write_graphml(graph, tmp_path / "graph.xml")
    for what in (graph, tmp_path / "graph.xml"):
        network = load(what, tell=notes.append)
        assert network.neuron_count == 3 and edges_of(network) == [("a", "b", 3), ("b", "a", -2)]
        lonely = network.annotations.select("kind", ("motor",))
        assert [network.annotations.name(int(neuron)) for neuron in lonely] == ["lonely"]
    both = load(nx.Graph([(1, 2), (2, 2)]), tell=notes.append)
    assert edges_of(both) == [(1, 2, 1), (2, 1, 1), (2, 2, 1)]
    (tmp_path / "graph.xml").write_text((tmp_path / "graph.xml").read_text()[:-30])
    with pytest.raises(FileFormatError, match="graph.xml: no GraphML that can be read"):
        load(tmp_path / "graph.xml", tell=notes.append)


def test_matrices_of_matlab(tmp_path: Path, notes: list[str]) -> None:
    matrix = np.array([[0, 0.5], [0.25, 0]])
    scipy.io.savemat(tmp_path / "one.mat", {"W": matrix, "names": ["a", "b"]})
    network = load(tmp_path / "one.mat", tell=notes.append)
    assert edges_of(network) == [(0, 1, 50), (1, 0, 25)] and network.settings.contribution_scale == np.float32(0.01)
    scipy.io.savemat(tmp_path / "two.mat", {"W": matrix, "A": scipy.sparse.csc_array(matrix)})
    with pytest.raises(FileFormatError, match=r"several square matrices \(.*\); --array NAME takes one"):
        load(tmp_path / "two.mat", tell=notes.append)
    assert edges_of(load(tmp_path / "two.mat", array="A", tell=notes.append)) == edges_of(network)
    content = (tmp_path / "one.mat").read_bytes()
    (tmp_path / "one.mat").write_bytes(content[:200])
    with pytest.raises(FileFormatError, match="one.mat: (damaged, or cut short|no square matrix)"):
        load(tmp_path / "one.mat", tell=notes.append)


def test_pairs_that_are_there_twice_are_told(tmp_path: Path, notes: list[str]) -> None:
    network = load(text(tmp_path, "pre,post,weight\n1,2,3\n2,1,4\n1,2,5\n"), tell=notes.append)
    assert edges_of(network) == [(1, 2, 3), (1, 2, 5), (2, 1, 4)]
    assert "1 rows name a pair of neurons that another row names" in notes[-1]


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "tables"), ("scipy", "matrices"), ("networkx", "matrices"), ("h5py", "sonata")])
def test_a_package_that_is_missing_is_told_with_what_installs_it(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text(tmp_path, "pre,post\n1,2\n", "pyarrow")
    scipy.sparse.save_npz(tmp_path / "scipy.npz", scipy.sparse.eye_array(2).tocsr())
    nx.write_graphml(nx.DiGraph([(1, 2)]), tmp_path / "networkx")
    (tmp_path / "nodes.h5").touch()
    text(tmp_path, '{"networks": {"nodes": [{"nodes_file": "nodes.h5"}]}}', "h5py")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}.*, which is not installed: .*\[{extra}\]"):
        load(tmp_path / ("scipy.npz" if package == "scipy" else package), tell=lambda text: None)
