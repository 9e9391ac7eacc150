"""What a file may cost is known before it is spent: small files that ask for much, in every reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_npu import NPU, CapacityError, CheckpointError, FileFormatError, NetworkError, Snapshot
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.genome import grow, read_export
from gpu_npu.io import load, read_ids, save, stream
from gpu_npu.io.budget import GROWTH, SMALL, Budget, allowance
from gpu_npu.io.sealed import Sealed, write_sealed
from gpu_npu.io.strict_json import parse_json
from gpu_npu.recordings import load_recording

MIB = 2**20


@contextmanager
def cheap(most: int = 16 * MIB, seconds: float = 5.0) -> Iterator[None]:
    """What is done inside takes no more bytes and processor time."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
        assert time.process_time() - began < seconds
    finally:
        tracemalloc.stop()


def zeros(path: Path, method: int, **arrays: tuple[tuple[int, ...], str]) -> Path:
    """A .npz of zeros, name -> (shape, dtype), packed by this method."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, (shape, dtype) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})
                left = int(np.prod(shape)) * np.dtype(dtype).itemsize
                for at in range(0, left, MIB):
                    member.write(bytes(min(MIB, left - at)))
    return path


READERS: list[Callable[[Path], Any]] = [load, stream, load_recording, lambda path: read_ids(path, 10)]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_deflate_is_unpacked(tmp_path: Path, method: int, reader: Callable[[Path], Any]) -> None:
    names = ("indptr", "indices", "count", "offset", "stim")
    path = zeros(tmp_path / "packed.npz", method, **dict.fromkeys(names, ((2**18,), "<i8")))
    with cheap(), pytest.raises(FileFormatError, match="is compressed by .*, by deflate, is read"):
        reader(path)


@pytest.mark.parametrize("reader", [load, stream])
def test_an_array_is_counted_before_it_is_made(tmp_path: Path, reader: Callable[..., Any]) -> None:
    path = zeros(tmp_path / "deflated.npz", zipfile.ZIP_DEFLATED, indptr=((8 * MIB,), "<i8"), indices=((0,), "<i4"), count=((0,), "<u2"))
    with cheap(), pytest.raises(CapacityError, match=r"deflated\.npz: array 'indptr' .* takes about 67,108,864 bytes"):
        reader(path, memory_limit=60 * MIB)


def test_the_network_is_counted_too(tmp_path: Path) -> None:
    path = zeros(tmp_path / "wide.npz", zipfile.ZIP_DEFLATED, indptr=((MIB,), "<i8"), indices=((0,), "<i4"), count=((0,), "<u2"))
    with cheap(64 * MIB), pytest.raises(CapacityError, match=r"1,048,575 neurons .*; memory_limit=\d+ allows it"):
        load(path, memory_limit=100 * MIB)
    assert load(path, memory_limit=400 * MIB).neuron_count == MIB - 1


def test_synapses_are_counted_where_they_are_held(tmp_path: Path) -> None:
    n = MIB
    with (tmp_path / "many.npz").open("wb") as file:
        np.savez_compressed(file, indptr=np.array([0, n]), indices=np.zeros(n, np.uint8), count=np.ones(n, np.uint8))
    with pytest.raises(CapacityError, match="1,048,576 synapses"):
        load(tmp_path / "many.npz", memory_limit=32 * MIB)
    network, synapses = stream(tmp_path / "many.npz", memory_limit=32 * MIB)  # they stay in the file
    assert network.neuron_count == 1 and synapses.total == n


@pytest.mark.parametrize("capacity", [2**40, 2**62, 2**63 + 1])
def test_reserved_capacities_are_counted(tmp_path: Path, capacity: int) -> None:
    save(fixed_out_degree(10, 2, seed=0), tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as archive:
        arrays = {**archive, "synapse_capacity": np.array(capacity, np.uint64)}
    with (tmp_path / "network.npz").open("wb") as file:
        np.savez(file, **arrays)
    error, message = (CapacityError, "room for .* synapses") if capacity < 2**62 else (FileFormatError, "which no machine holds")
    with cheap(), pytest.raises(error, match=message):
        load(tmp_path / "network.npz")


def test_arrays_and_their_headers_belong_together(tmp_path: Path) -> None:
    """What NumPy would allocate before it reads an item."""
    for shape in ("(1152921504606846976,)", "(True,)", "(-1,)", "(2.0,)", "(4, 1)" + "(" * 90, "((1,),)", "None"):
        with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
            text = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
            archive.writestr("indptr.npy", b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(24))
        with cheap(), pytest.raises(FileFormatError, match="array 'indptr' is corrupt"):
            load(tmp_path / "odd.npz")


def test_a_small_file_may_take_a_gibibyte_and_a_large_one_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.io.budget.host_memory", lambda: (2**40, 2**40))
    assert allowance(1000) == SMALL + 1000 * GROWTH
    monkeypatch.setattr("gpu_npu.io.budget.host_memory", lambda: (1000 * MIB, 2**40))
    assert allowance(1000) == 750 * MIB


def test_a_budget_adds_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    budget = Budget.of(tmp_path / "file", 100)
    budget.take(60, "the first")
    with pytest.raises(CapacityError, match=r"the second takes about 41 bytes .* 60 bytes before it; .*memory_limit=101 allows it"):
        budget.take(41, "the second")
    budget.take(40, "what fits")
    with pytest.raises(NetworkError, match="memory_limit: -1 is not an integer of 0 or more"):
        Budget.of(tmp_path / "file", -1)


def test_a_file_without_end_is_not_read_to_it() -> None:
    with cheap(3 * MIB), pytest.raises(CapacityError, match="the genome takes"):
        grow("/dev/zero", memory_limit=MIB)


# -- genomes -------------------------------------------------------------------------------------------------------
def genome(vectors: list[list[int]], size: int, rules: int = 1) -> dict[str, Any]:
    """Two areas of size x 1 x 1, each with rules to the other."""
    rule = {"morphology_id": "m", "morphology_scalar": [1, 1, 1], "postSynapticCurrent_multiplier": 1, "plasticity_flag": False}
    blueprint: dict[str, Any] = {}
    for here, there in (("c00000", "c00001"), ("c00001", "c00000")):
        values = {"cx-__name-t": here, "cx-___bbx-i": size, "cx-___bby-i": 1, "cx-___bbz-i": 1, "cx-dstmap-d": {there: [rule] * rules}}
        blueprint |= {f"_____10c-{here}-{key}": value for key, value in values.items()}
    return {
        "version": "2.0",
        "blueprint": blueprint,
        "neuron_morphologies": {"m": {"type": "vectors", "parameters": {"vectors": vectors}}},
    }


def test_a_genome_is_counted_before_it_is_grown(tmp_path: Path) -> None:
    many = tmp_path / "many.json"
    many.write_text(json.dumps(genome([[i, 0, 0] for i in range(700)], 20_000_000)))
    with cheap(), pytest.raises(CapacityError, match="growing 40,000,007 neurons takes about"):
        grow(many)
    with cheap(), pytest.raises(CapacityError, match=r"growing 40,000,007 neurons and up to 27,999,510,700 synapses"):
        grow(many, memory_limit=2**35)


def test_a_genome_is_planned_in_the_time_of_its_size(tmp_path: Path) -> None:
    """Vectors that make nothing cost time all the same."""
    (tmp_path / "genome.json").write_text(json.dumps(genome([[2**30 + i, 0, 0] for i in range(2000)], 10, rules=2000)))
    with cheap(100 * MIB), pytest.raises(CapacityError, match=r"4,000 mapping rules apply 8,000,000 vectors and patterns"):
        grow(tmp_path / "genome.json")


# -- JSON ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1e400", "-1e999", "[NaN]", "Infinity", "1" * 5000, "{", '"\\ud800'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(text)


@pytest.mark.parametrize("reader", [load, grow, read_export])
def test_deep_json_is_an_error_of_the_file(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path, deep = tmp_path / "deep", "[" * 10_000
    if reader == grow:
        path.write_text('{"version": "2.0", "blueprint": ' + deep)
    elif reader == load:
        save(fixed_out_degree(10, 2, seed=0), path)
        with np.load(path) as archive:
            arrays = {**archive, "settings": np.array(deep)}
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        path.write_bytes(b"FEAGI" + (3).to_bytes(4, "little") + bytes(9) + len(deep).to_bytes(4, "little") + deep.encode())
    with pytest.raises(FileFormatError, match="nested too deep"):
        reader(path)


@pytest.mark.parametrize("name", ["settings", "areas", "plasticity", "notes", "rules_since"])
@pytest.mark.parametrize("text", ["[" * 10_000, '{"1": 1e400}', "[[0, 1e400]]", "3", "null", '"a"', "[3]", "[[]]"])
def test_json_in_a_checkpoint(tmp_path: Path, name: str, text: str) -> None:
    NPU.from_connectome(fixed_out_degree(10, 2, seed=0), backend="reference").snapshot().write(tmp_path / "run.ckpt")
    with Sealed(tmp_path / "run.ckpt") as file:
        arrays = {array: file.array(array, file._places[array][1]) for array in file.names("")}
        values = {**file._values, name: text}
    write_sealed(tmp_path / "run.ckpt", values, arrays)
    with pytest.raises(CheckpointError, match=r"run\.ckpt: "):
        Snapshot.read(tmp_path / "run.ckpt")


@pytest.mark.parametrize("burst", [2**62, 2**63 - 1, 2**64, 10**30])
def test_a_checkpoint_of_a_burst_that_no_run_reaches(tmp_path: Path, burst: int) -> None:
    NPU.from_connectome(fixed_out_degree(10, 2, seed=0), backend="reference").snapshot().write(tmp_path / "run.ckpt")
    with Sealed(tmp_path / "run.ckpt") as file:
        arrays = {array: file.array(array, file._places[array][1]) for array in file.names("")}
        values = {**file._values, "burst": burst, "fire_ledger_window": 1}
    arrays |= {"ledger_offset": np.zeros(2, np.int64)}
    write_sealed(tmp_path / "run.ckpt", values, arrays)
    with pytest.raises(CheckpointError, match="burst"):
        Snapshot.read(tmp_path / "run.ckpt")


# -- tables --------------------------------------------------------------------------------------------------------
def table(path: Path, rows: int, long: bool = False) -> Path:
    """An edge list of many equal rows that packs well; `long`: one of its names has 256 characters, the others are short."""
    pa = pytest.importorskip("pyarrow")
    lines = b"source,target\n" + (b"x" * 256 + b",y\n" if long else b"")
    if path.suffix in (".gz", ".zst"):
        with pa.output_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[path.suffix]) as file:
            file.write(lines + (b"".join(b"a%d,b\n" % i for i in range(rows)) if long else b"1,2\n" * rows))
        return path
    some = pa.table({"source": np.zeros(2**18, np.uint32), "target": np.ones(2**18, np.uint32)})
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, some.schema, compression="zstd") as writer:
            for _ in range(rows // 2**18):
                writer.write_table(some)
    else:
        with pa.ipc.new_file(str(path), some.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            for _ in range(rows // 2**18):
                writer.write_table(some)
    return path


@pytest.mark.parametrize("reader", [load, stream])
@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".parquet", ".feather"])
def test_a_table_is_counted(tmp_path: Path, ending: str, reader: Callable[..., Any]) -> None:
    path = table(tmp_path / f"edges{ending}", 2**20)
    assert path.stat().st_size < 300_000
    with pytest.raises(CapacityError, match=r"edges\..* (rows|unpacks to).* memory_limit=.* allows it"):
        reader(path, memory_limit=32 * MIB)


def test_what_a_compressed_text_unpacks_to_is_counted(tmp_path: Path) -> None:
    """Also where it has no rows."""
    pa = pytest.importorskip("pyarrow")
    with pa.output_stream(str(tmp_path / "wide.csv.gz"), compression="gzip") as file:
        file.write(b"source,target,note\n" + (b"1,2," + b"z" * 10**6 + b"\n") * 100)
    with pytest.raises(CapacityError, match="what it unpacks to"):
        load(tmp_path / "wide.csv.gz", memory_limit=64 * MIB)


def test_one_long_name_does_not_make_all_names_long(tmp_path: Path) -> None:
    path = table(tmp_path / "names.csv.gz", 30_000, long=True)
    with pytest.raises(CapacityError, match="of up to 256 characters"):
        load(path, memory_limit=64 * MIB)
    assert load(path).neuron_count == 30_003


@pytest.mark.parametrize("what", ["node_type_id", "source_node_id", "chunk"])
def test_arrays_of_hdf5_that_nothing_holds_are_counted(tmp_path: Path, what: str) -> None:
    h5py = pytest.importorskip("h5py")
    size = dict.fromkeys(("node_type_id", "source_node_id", "chunk"), 3) | {what: 2**36}
    with h5py.File(tmp_path / "nodes.h5", "w") as file:
        file.create_dataset("nodes/all/node_type_id", (size["node_type_id"],), "u1", chunks=(2**20,), maxshape=(None,))
    with h5py.File(tmp_path / "edges.h5", "w") as file:
        for end in ("source_node_id", "target_node_id"):
            chunk = 2**31 if what == "chunk" else 2**20
            ids = file.create_dataset(f"edges/all/{end}", (size["source_node_id"],), "u1", chunks=(chunk,), maxshape=(None,))
            ids.attrs["node_population"] = "all"
    networks = {"nodes": [{"nodes_file": "nodes.h5"}], "edges": [{"edges_file": "edges.h5"}]}
    (tmp_path / "circuit.json").write_text(json.dumps({"networks": networks}))
    with cheap(), pytest.raises(CapacityError, match=r"(nodes|edges)\.h5: .* allows it"):
        load(tmp_path / "circuit.json")


@pytest.mark.long
@pytest.mark.parametrize("ending", [".csv.gz", ".csv.zst", ".parquet", ".feather"])
def test_a_table_takes_no_more_than_it_may(tmp_path: Path, ending: str) -> None:
    """A small file that unpacks to more than any memory limit ends within 2 GiB and, on an idle machine, within 10 s."""
    path = table(tmp_path / f"edges{ending}", 2**28 if ending in (".parquet", ".feather") else 2**27)
    code = f"from gpu_npu.io import load; load({str(path)!r})"
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"CapacityError" in process.stderr.read()
        _, _, used = os.wait4(process.pid, 0)
    assert used.ru_maxrss < 2**21
    assert time.monotonic() - began < 30
