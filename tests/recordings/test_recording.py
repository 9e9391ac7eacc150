"""What a Recorder writes, and that it stays whole whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gpu_npu import NPU, BurstResult, Digest, FileFormatError, NetworkError
from gpu_npu.connectome import COUNTERS
from gpu_npu.connectome.generators import seed_example
from gpu_npu.recordings import Recorder, load_recording
from gpu_npu.recordings.npz import BUFFER


def burst(number: int, ids: object) -> BurstResult:
    fired = np.asarray(ids, np.uint32)
    return BurstResult(number, fired, len(fired), 1, 2, 3, 4, number)


def test_a_run(tmp_path: Path) -> None:
    path = tmp_path / "fired.npz"
    with NPU.from_connectome(seed_example(), backend="reference") as npu:
        npu.run(7)
        with Recorder(path) as recorder:
            run = npu.run(15, recorder, digest=True)
        recording = load_recording(path)
        assert recording.digest == recorder.hexdigest() == run.digest
        assert (recording.first_burst, recording.bursts) == (8, 15)
        for number, fired in npu.get_recent_history(15):
            assert np.array_equal(recording.fired_in(number), fired)
        for number in (7, 23):
            with pytest.raises(NetworkError, match="15 from burst 8 on"):
                recording.fired_in(number)
    assert recording.counters[:, list(COUNTERS).index("synaptic_injections")].sum() == run.synaptic_injections
    with np.load(path, allow_pickle=False) as content:
        assert sorted(content) == ["counters", "digest", "fired", "first_burst", "offset"]
        assert np.array_equal(content["fired"], recording.fired)
    assert zipfile.ZipFile(path).testzip() is None
    assert os.listdir(tmp_path) == ["fired.npz"]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0], [1], [5, 0, 3], [BUFFER // 4 - 1, 1, 1], [BUFFER // 4] * 3, [BUFFER // 2 + 1]])
def test_sizes_around_the_buffer(sizes: list[int], tmp_path: Path) -> None:
    digest = Digest()
    with Recorder(tmp_path / "r") as recorder:
        for i, size in enumerate(sizes):
            recorder(burst(i + 1, np.arange(size)))
            digest.update(i + 1, np.arange(size, dtype=np.uint32))
    recording = load_recording(tmp_path / "r")
    assert np.diff(recording.offset).tolist() == sizes
    assert all(np.array_equal(recording.fired_in(i + 1), np.arange(size)) for i, size in enumerate(sizes))
    assert recording.digest == digest.hexdigest()
    assert recording.counters[:, -1].tolist() == list(range(1, len(sizes) + 1))
    assert zipfile.ZipFile(tmp_path / "r").testzip() is None
    assert (tmp_path / "r").stat().st_size < 4 * sum(sizes) + 48 * len(sizes) + 4096


def test_many_bursts(tmp_path: Path) -> None:
    """More than are read back at a time."""
    with Recorder(tmp_path / "r") as recorder:
        for number in range(1, 40_001):
            recorder(burst(number, [number] * (number % 3)))
    recording = load_recording(tmp_path / "r")
    assert np.array_equal(np.diff(recording.offset), np.arange(1, 40_001) % 3)
    assert all(set(recording.fired_in(number)) <= {number} for number in range(1, 40_001, 97))
    assert np.array_equal(recording.counters[:, -1], np.arange(1, 40_001))


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_npu.recordings.counts.IN_MEMORY", 2**14)
    ids = np.arange(20_000, dtype=np.uint32)
    tracemalloc.start()
    try:
        with Recorder(tmp_path / "r") as recorder:
            for number in range(1, 1001):
                recorder(burst(number, ids))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "r").stat().st_size > 80_000_000
    assert peak < 8 * BUFFER


def test_it_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    path.write_text("what stood there")
    with pytest.raises(RuntimeError, match="early"), Recorder(path):
        raise RuntimeError("early")
    assert path.read_text() == "what stood there"
    with pytest.raises(RuntimeError, match="late"), Recorder(path) as recorder:
        recorder(burst(1, [4]))
        assert path.read_text() == "what stood there"
        raise RuntimeError("late")
    assert load_recording(path).fired.tolist() == [4]
    assert os.listdir(tmp_path) == ["r.npz"]
    recorder.close()
    with pytest.raises(NetworkError, match="closed"):
        recorder(burst(2, []))


def test_what_a_killed_recorder_left_is_taken_over(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from gpu_npu.npu.results import BurstResult
from gpu_npu.recordings import Recorder
import numpy as np
recorder = Recorder(sys.argv[1])
recorder(BurstResult(1, np.arange(9, dtype=np.uint32), 9, 1, 2, 3, 4, 5))
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "r.npz"], env=environment, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with Recorder(tmp_path / "r.npz") as recorder:
        with pytest.raises(OSError, match="another process is writing it") as caught:
            Recorder(tmp_path / "r.npz")
        assert caught.value.filename == str(tmp_path / "r.npz")
        recorder(burst(1, [4]))
    assert load_recording(tmp_path / "r.npz").fired.tolist() == [4]
    assert os.listdir(tmp_path) == ["r.npz"]


def test_a_finished_record_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    sync, replace = os.fsync, os.replace

    def synced(file: int) -> None:
        done.append(stat.S_ISDIR(os.fstat(file).st_mode))
        sync(file)

    def replaced(old: Path, new: Path) -> None:
        done.append(new.name)
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with Recorder(tmp_path / "r") as recorder:
        recorder(burst(1, [4]))
    assert done == [False, "r", True]


def test_bursts_follow_one_another(tmp_path: Path) -> None:
    with Recorder(tmp_path / "r") as recorder:
        recorder(burst(5, []))
        for number in (5, 7, 1):
            with pytest.raises(NetworkError, match=f"burst {number} does not follow burst 5"):
                recorder(burst(number, []))
        recorder(burst(6, [1]))
    assert load_recording(tmp_path / "r").bursts == 2


def test_paths_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "r", Path(os.devnull)):
        with pytest.raises(OSError) as caught:
            Recorder(path)
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_keeps_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 3 * BUFFER
    claim = os.posix_fallocate

    def small_disk(file: int, offset: int, length: int) -> None:
        if offset + length > limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        claim(file, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", small_disk)
    path, done = tmp_path / "r.npz", 0
    with Recorder(path) as recorder:
        with pytest.raises(OSError, match=r"No space left on device; \d+ bursts are recorded") as caught:
            for number in range(1, 1000):
                recorder(burst(number, np.arange(10_000)))
                done = number
        assert caught.value.filename == str(path)
        with pytest.raises(NetworkError, match="full"):
            recorder(burst(done + 1, []))
    recording = load_recording(path)
    assert recording.bursts == done > 10
    assert np.array_equal(recording.fired_in(done), np.arange(10_000))
    assert path.stat().st_size <= limit


def test_a_file_system_that_claims_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuses)
    with Recorder(tmp_path / "r") as recorder:
        recorder(burst(1, [2, 3]))
    assert load_recording(tmp_path / "r").fired.tolist() == [2, 3]


def test_files_that_are_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=[1])
    with pytest.raises(FileFormatError, match="'offset' is missing"):
        load_recording(tmp_path / "other.npz")
    with Recorder(tmp_path / "r.npz") as recorder:
        recorder(burst(1, [2, 3]))
    data = bytearray((tmp_path / "r.npz").read_bytes())
    data[data.index(b"\x02\0\0\0\x03\0\0\0")] ^= 1
    (tmp_path / "r.npz").write_bytes(data)
    with pytest.raises(FileFormatError, match="'fired' is corrupt"):
        load_recording(tmp_path / "r.npz")
    digest = {"counters": np.zeros((1, 5), np.int64), "first_burst": 1, "digest": "x", "fired": np.zeros(3, np.uint32)}
    np.savez(tmp_path / "short.npz", offset=np.array([0, 2]), **digest)
    with pytest.raises(FileFormatError, match="does not cut the 3 ids"):
        load_recording(tmp_path / "short.npz")
