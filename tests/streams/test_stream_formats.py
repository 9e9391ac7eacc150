"""Frames: FEAGI's own library reads what is written here, and the other way round; what is damaged is refused."""

from __future__ import annotations

import re
import struct
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_tools import burst, need

from gpu_npu import NPU, Connectome, FrameError, MissingPackageError, NetworkError
from gpu_npu.extras import install_command
from gpu_npu.genome import grow
from gpu_npu.streams.feagi_format import FeagiFormat, unpack
from gpu_npu.streams.msgpack_format import MsgpackFormat
from gpu_npu.streams.places import Places, cortical_ids

IDS = (b"___power", b"iabc\0\x01\0\0", b"oabc\xff\x02\0\0", b"c0000003", b"mabcdefg", b"cabcdef\0")
COORDINATES = st.tuples(*[st.sampled_from([0, 1, 2, 255, 256, 2**31, 2**32 - 1])] * 3)
NEURONS = st.lists(st.tuples(st.integers(0, len(IDS) - 1), COORDINATES), max_size=30)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def pack(areas: list[tuple[bytes, Any, Any]], counter: int) -> bytes:
    """A container with one structure, written after the description: areas of (id, coordinates (n, 3), potentials)."""
    structure, body = b"\x0b\x01" + struct.pack("<H", len(areas)), b""
    for text, coordinates, potentials in areas:
        structure += text + struct.pack("<II", 4 + 16 * len(areas) + len(body), 16 * len(potentials))
        body += b"".join(struct.pack(f"<{len(column)}I", *column) for column in np.asarray(coordinates).T.tolist())
        body += struct.pack(f"<{len(potentials)}f", *potentials)
    return struct.pack("<BHB48xI", 4, counter, 1, len(structure) + len(body)) + structure + body


def network(neurons: list[tuple[int, tuple[int, int, int]]], *, spare: int = 0) -> Connectome:
    made = Connectome(len(neurons) + spare, 0)
    if neurons:
        made.add_neurons(len(neurons), cortical_area=[area for area, _ in neurons], coordinates=[place for _, place in neurons])
    return made


def library() -> Any:
    need("feagi_rust_py_libs")
    import feagi_rust_py_libs

    return feagi_rust_py_libs


def read_by_library(frame: bytes) -> tuple[int, list[dict[str, list[tuple[Any, ...]]]]]:
    """(counter, the voxels of each structure by area)."""
    container = library().data_serialization.FeagiByteContainer()
    container.load_bytes_and_verify(frame)
    structures = [container.try_create_new_struct_from_index(i) for i in range(container.number_contained_structures)]
    found = [{str(area): list(zip(*map(np.ndarray.tolist, arrays), strict=True)) for area, arrays in one.iter_full()} for one in structures]
    return container.increment_counter, found


def text_of(area: bytes) -> str:
    """As the library prints an id."""
    return str(library().data_structures.genomic.cortical_area.CorticalID.try_from_bytes(area).as_base_64())


def written_by_library(areas: dict[bytes, list[tuple[int, int, int, float]]], counter: int = 0) -> bytes:
    structures = library().data_structures
    xyzp, ids = structures.neurons_voxels.xyzp, structures.genomic.cortical_area.CorticalID
    mapped = xyzp.CorticalMappedXYZPNeuronVoxels()
    for area, voxels in areas.items():
        columns = [np.array([voxel[i] for voxel in voxels], np.uint32) for i in range(3)]
        potentials = np.array([voxel[3] for voxel in voxels], np.float32)
        mapped.insert(ids.try_from_bytes(area), xyzp.PyNeuronVoxelXYZPArrays.new_from_numpy(*columns, potentials))
    container = library().data_serialization.FeagiByteContainer()
    container.add_struct(mapped, counter)
    return bytes(container.copy_out_as_byte_vector())


@given(NEURONS, st.data())
def test_the_library_of_feagi_reads_what_we_write(neurons: list[tuple[int, tuple[int, int, int]]], data: st.DataObject) -> None:
    fired = sorted(data.draw(st.sets(st.integers(0, len(neurons) - 1)))) if neurons else []
    number = data.draw(st.integers(1, 2**40))
    frame = FeagiFormat(Places.of(network(neurons), dict(enumerate(IDS)))).encode(burst(number, fired))
    expected: dict[str, list[tuple[Any, ...]]] = {}
    for neuron in fired:
        area, place = neurons[neuron]
        expected.setdefault(text_of(IDS[area]), []).append((*place, 1.0))
    assert read_by_library(frame) == (number % 2**16, [expected])


@given(NEURONS, st.data())
def test_we_read_what_the_library_of_feagi_writes(neurons: list[tuple[int, tuple[int, int, int]]], data: st.DataObject) -> None:
    places = st.lists(st.tuples(st.sampled_from(neurons), FINITE), max_size=20) if neurons else st.just([])
    sent: dict[bytes, list[tuple[int, int, int, float]]] = {}
    for (area, place), potential in data.draw(places):
        sent.setdefault(IDS[area], []).append((*place, potential))
    frame = written_by_library(sent)
    stimulus = FeagiFormat(Places.of(network(neurons), dict(enumerate(IDS)))).decode(frame)
    last = {(IDS[area], *place): neuron for neuron, (area, place) in enumerate(neurons)}  # FEAGI finds the last at a place
    expected = sorted((last[area, x, y, z], np.float32(p)) for area, voxels in sent.items() for x, y, z, p in voxels)
    assert sorted(zip(stimulus.neurons.tolist(), stimulus.potentials, strict=True)) == expected
    assert stimulus.neurons.dtype == np.uint32 and stimulus.potentials.dtype == np.float32


@given(st.lists(st.tuples(st.sampled_from(IDS), st.lists(st.tuples(COORDINATES, FINITE), max_size=5)), max_size=5))
def test_what_is_packed_is_unpacked(areas: list[tuple[bytes, list[tuple[tuple[int, int, int], float]]]]) -> None:
    arrays = [
        (area, np.array([place for place, _ in voxels], np.uint32).reshape(-1, 3), np.array([p for _, p in voxels], np.float32))
        for area, voxels in areas
    ]
    for (area, places, potentials), found in zip(arrays, unpack(pack(arrays, 7)), strict=True):
        assert found[0] == area
        np.testing.assert_array_equal(found[1], places)
        np.testing.assert_array_equal(found[2], potentials)


SMALL = FeagiFormat(Places.of(network([(0, (1, 2, 3)), (3, (4, 5, 6)), (3, (0, 0, 0))]), dict(enumerate(IDS))))
ONE = np.ones(1, np.float32)
GOOD = pack([(IDS[0], np.array([[1, 2, 3]], np.uint32), ONE), (IDS[3], np.zeros((1, 3), np.uint32), ONE)], 1)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.binary(max_size=20))
def test_damaged_frames_are_refused_or_read_but_never_break_anything(at: int, byte: int, rest: bytes) -> None:
    for frame in (GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], GOOD[:at] + rest, rest):
        try:
            stimulus = SMALL.decode(frame)
        except FrameError as error:
            assert error.reason in ("malformed", "unknown")
        else:
            assert len(stimulus.neurons) == len(stimulus.potentials) and np.isfinite(stimulus.potentials).all()
            assert (stimulus.neurons < 3).all()


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_a_frame_cut_anywhere_is_malformed(at: int) -> None:
    with pytest.raises(FrameError) as refused:
        SMALL.decode(GOOD[:at])
    assert refused.value.reason == "malformed"


def head(count: int, *lengths: int) -> bytes:
    return struct.pack("<BHB48x", 4, 0, count) + b"".join(struct.pack("<I", length) for length in lengths)


def area(at: int, size: int) -> bytes:
    return struct.pack("<8sII", IDS[0], at, size)


@pytest.mark.parametrize(
    ("frame", "reason", "said"),
    [
        (b"\x03" + GOOD[1:], "malformed", "version 3"),
        (GOOD + b"\0", "malformed", "1 bytes after"),
        (head(1, 2**31), "malformed", "2147483648 bytes where 0"),
        (head(255), "malformed", "255 structures"),
        (head(1, 4) + b"\x01\x01{}", "malformed", "type 1"),
        (head(1, 3) + b"\x0b\x01\x01", "malformed", "head of a structure"),
        (head(1, 4) + b"\x0b\x01\xff\xff", "malformed", "65535 areas"),
        (head(1, 20) + b"\x0b\x01\x01\x00" + area(20, 2**31), "malformed", "2147483648 bytes at 20"),
        (head(1, 36) + b"\x0b\x01\x01\x00" + area(20, 8) + bytes(16), "malformed", "8 bytes at 20"),
        (head(1, 52) + b"\x0b\x01\x02\x00" + area(36, 16) + area(36, 16) + bytes(16), "malformed", "16 bytes at 36, where 52"),
        (pack([(b"cnothere", np.zeros((1, 3), np.uint32), np.ones(1, np.float32))], 0), "unknown", "cnothere"),
        (pack([(IDS[0], np.full((2, 3), 7, np.uint32), np.ones(2, np.float32))], 0), "unknown", "2 of 2 voxels"),
        (pack([(IDS[0], np.array([[1, 2, 3]], np.uint32), np.full(1, np.nan, np.float32))], 0), "malformed", "finite"),
    ],
)
def test_what_is_said_of_a_refused_frame(frame: bytes, reason: str, said: str) -> None:
    with pytest.raises(FrameError, match=said) as refused:
        SMALL.decode(frame)
    assert refused.value.reason == reason


def test_areas_of_a_frame_are_limited_over_all_its_structures() -> None:
    def empty(count: int) -> bytes:
        end = 4 + 16 * count
        return b"\x0b\x01" + struct.pack("<H", count) + area(end, 0) * count

    full, one = empty(0xFFFF), empty(1)
    assert len(SMALL.decode(head(1, len(full)) + full).neurons) == 0
    for structures in ([full, one], [one, full]):
        with pytest.raises(FrameError, match="more than 65,535 areas") as refused:
            SMALL.decode(head(2, *map(len, structures)) + b"".join(structures))
        assert refused.value.reason == "malformed"


def test_neurons_without_an_area_are_left_out_and_counted() -> None:
    made = network([(0, (0, 0, 0)), (9, (1, 1, 1)), (0, (2, 2, 2))], spare=1)
    format = FeagiFormat(Places.of(made, {0: IDS[0]}))
    (found,) = unpack(format.encode(burst(1, [0, 1, 2, 3, 70])))
    assert found[1].tolist() == [[0, 0, 0], [2, 2, 2]]
    assert format.left_out == 3  # of area 9, not created, and beyond the snapshot


def test_places_follow_the_npu() -> None:
    with NPU.from_connectome(network([(0, (0, 0, 0))], spare=1), backend="reference") as npu:
        before = Places.of(npu)
        npu.add_neurons(1, cortical_area=5, coordinates=(1, 1, 1))
        npu.delete_neuron(0)
        after = Places.of(npu)
    assert (before.ids, after.ids) == ((b"c0000000",), (b"c0000005",))
    assert after.find([(b"c0000005", np.ones((1, 3), np.uint32))]).tolist() == [1]
    with pytest.raises(FrameError, match="c0000000"):
        after.find([(b"c0000000", np.zeros((1, 3), np.uint32))])


def test_ids_come_from_the_genome() -> None:
    keys = ("___bbx-i", "___bby-i", "___bbz-i", "_n_cnt-i")
    blueprint = {f"_____10c-{area}-cx-{key}": 1 for area in ("_power", "i__inf") for key in keys}
    grown = grow({"version": "2.0", "genome_title": "t", "blueprint": blueprint, "neuron_morphologies": {}})
    ids = cortical_ids(grown)
    assert ids == {number: one.id for number, one in enumerate(grown.areas)}
    assert b"___power" in ids.values() and b"iinf\x01\0\0\0" in ids.values()


@pytest.mark.parametrize(("ids", "said"), [({0: b"short"}, "8 bytes"), ({0: IDS[0], 1: IDS[0]}, "share"), ({0: "c0000000"}, "8 bytes")])
def test_ids_that_are_none(ids: dict[int, Any], said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        Places.of(network([]), ids)


def test_an_area_number_that_gets_no_id() -> None:
    with pytest.raises(NetworkError, match="10000000"):
        Places.of(network([(10_000_000, (0, 0, 0))]))


# -- msgpack ---------------------------------------------------------------------------------------------------------
@given(st.sets(st.integers(0, 2**30)), st.integers(0, 2**63))
def test_a_burst_in_msgpack(fired: set[int], number: int) -> None:
    need("msgpack")
    import msgpack

    ids = sorted(fired)
    found = msgpack.unpackb(MsgpackFormat(1).encode(burst(number, ids)))
    assert found == {
        "burst": number,
        "ids": struct.pack(f"<{len(ids)}I", *ids),
        "power_injections": 1,
        "sensory_injections": 2,
        "synaptic_injections": 3,
        "neurons_processed": 4,
        "neurons_in_refractory": 5,
    }


@given(st.lists(st.tuples(st.integers(0, 99), FINITE)))
def test_a_stimulus_in_msgpack(sent: list[tuple[int, float]]) -> None:
    need("msgpack")
    import msgpack

    ids, potentials = [one for one, _ in sent], [one for _, one in sent]
    for written, expected in ((struct.pack(f"<{len(sent)}f", *potentials), potentials), (2.5, [2.5] * len(sent)), (3, [3.0] * len(sent))):
        stimulus = MsgpackFormat(100).decode(msgpack.packb({"ids": struct.pack(f"<{len(ids)}I", *ids), "potentials": written}))
        assert stimulus.neurons.tolist() == ids and stimulus.potentials.tolist() == [np.float32(one) for one in expected]
        assert stimulus.neurons.dtype == np.uint32 and stimulus.potentials.dtype == np.float32


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"ids": b"\0\0\0\0"}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": 1.0, "more": 1}, "malformed"),
        ({"ids": b"\0\0\0", "potentials": 1.0}, "malformed"),
        ({"ids": [0], "potentials": 1.0}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": b""}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": True}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": None}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": 1e300}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": float("nan")}, "malformed"),
        ({"ids": b"\0\0\0\0", "potentials": struct.pack("<f", float("inf"))}, "malformed"),
        ({"ids": b"\x0a\0\0\0", "potentials": 1.0}, "unknown"),
        ([], "malformed"),
        (None, "malformed"),
    ],
)
def test_stimuli_that_are_refused(found: object, reason: str) -> None:
    need("msgpack")
    import msgpack

    with pytest.raises(FrameError) as refused:
        MsgpackFormat(10).decode(msgpack.packb(found))
    assert refused.value.reason == reason


@given(st.binary(max_size=40))
def test_bytes_that_are_no_stimulus(frame: bytes) -> None:
    need("msgpack")
    with pytest.raises(FrameError):
        MsgpackFormat(2**32).decode(frame)


@pytest.mark.parametrize(
    "frame", [b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\xc0\xc0", b"\x91" * 100_000, b"\xd6\xff" + bytes(4)]
)
def test_msgpack_that_claims_too_much(frame: bytes) -> None:
    need("msgpack")
    with pytest.raises(FrameError):
        MsgpackFormat(10).decode(frame)


def full_tree(depth: int) -> bytes:
    """A map of two such maps, and so on."""
    tree = b"\x80"
    for _ in range(depth):
        tree = b"\x82\xa0" + tree + b"\xa1i" + tree
    return tree


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (b"\xdd" + struct.pack(">I", 2**20) + b"\x90" * 2**20, "a map of"),
        (b"\x82\xa3ids\xc4\x00\xaapotentials\xdd" + struct.pack(">I", 2**20) + b"\x90" * 2**20, "1048576"),
        (full_tree(18), "max_map_len"),
        (b"\x82\xa3ids\xc4\x00\xaapotentials\xc0\x00\x00", "2 bytes after the map"),
        (b"\x82\xa3ids\xc4\x00\xa3ids\x00", "a map of"),
        (b"\x82\x90\xc4\x00\xaapotentials\x00", "a map of"),
        (b"\x82\xa3ids\xc4\x00\xaapotentials\xc7\x00\x05", "potentials"),
    ],
)
def test_msgpack_of_many_containers_is_refused_before_they_are_made(frame: bytes, said: str) -> None:
    need("msgpack")
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=said) as refused:
            MsgpackFormat(10).decode(frame)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(frame) + 2**20
    finally:
        tracemalloc.stop()
    assert refused.value.reason == "malformed"


@pytest.mark.parametrize("head", [b"\x82", b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02"])
def test_a_map_of_two_however_it_is_written(head: bytes) -> None:
    need("msgpack")
    stimulus = MsgpackFormat(10).decode(head + b"\xaapotentials\x03\xa3ids\xc4\x04\x07\x00\x00\x00")
    assert (stimulus.neurons.tolist(), stimulus.potentials.tolist()) == ([7], [3.0])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(MissingPackageError, match=re.escape(install_command("stream"))):
        MsgpackFormat(1)
    monkeypatch.setitem(sys.modules, "websockets", None)
    from gpu_npu.streams.websocket import WebSocketSink, WebSocketSource

    for made in (WebSocketSink, WebSocketSource):
        with pytest.raises(MissingPackageError, match=re.escape(install_command("stream"))):
            made(SMALL)
