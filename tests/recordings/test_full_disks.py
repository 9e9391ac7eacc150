"""Whatever fills up while a run is recorded, what was recorded is there, whole."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rights import small_disk

from gpu_npu import BurstResult, Digest
from gpu_npu.io.atomic import scratch
from gpu_npu.recordings import Recorder, load_recording

SIZE = 2**22
"""Bytes of the disks that fill up."""


def burst(number: int, fired: int) -> BurstResult:
    ids = np.arange(number, number + fired, dtype=np.uint32)
    return BurstResult(number, ids, len(ids), 1, 2, 3, 4, number)


def few(number: int) -> int:
    """So few ids that the counts take most of the room."""
    return number % 3


def many(number: int) -> int:
    return 1000 + number % 7


def huge(number: int) -> int:
    """More than is gathered before it is written."""
    return 300_000


FIRED = [few, many, huge]


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """No file may become larger than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def record_until_full(path: Path, fired: Callable[[int], int]) -> int:
    """Record until a burst is refused; returns how many were recorded. The recorder is closed."""
    done = 0
    with Recorder(path) as recorder:
        with pytest.raises(OSError, match=r"; [0-9,]+ bursts are recorded") as caught:
            for number in range(1, 10**6):
                recorder(burst(number, fired(number)))
                done = number
        assert caught.value.filename == str(path) and f" {done:,} bursts" in str(caught.value)
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    return done


def check(path: Path, bursts: int, fired: Callable[[int], int]) -> None:
    """The file has these bursts, every id and counter and the digest of them."""
    recording, digest = load_recording(path), Digest()
    assert recording.bursts == bursts > 0
    assert np.diff(recording.offset).tolist() == [fired(number) for number in range(1, bursts + 1)]
    for number in range(1, bursts + 1):
        digest.update(number, burst(number, fired(number)).fired_neurons)
    assert recording.digest == digest.hexdigest()
    assert recording.counters.tolist() == [[2, 1, 3, 4, number] for number in range(1, bursts + 1)]


@pytest.fixture(autouse=True)
def counts_go_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sooner than they would."""
    monkeypatch.setattr("gpu_npu.recordings.counts.IN_MEMORY", 2**12)


def no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")


def test_temporary_files_lie_beside_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TMPDIR is full, or is not there; and they have no name that a killed process could leave."""
    no_temporary_folder(monkeypatch)
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "r")
    (tmp_path / "folder").mkdir()
    with Recorder(tmp_path / "link") as recorder:
        for number in range(1, 5001):
            recorder(burst(number, 2))
        assert os.listdir(tmp_path / "folder") == [".r.unfinished"]
    check(tmp_path / "link", 5000, lambda number: 2)


@pytest.mark.parametrize("fired", FIRED)
@pytest.mark.parametrize("claims", [True, False])
def test_a_file_that_may_not_grow(tmp_path: Path, fired: Callable[[int], int], claims: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the file system reserves room."""
    if not claims:
        monkeypatch.setattr(os, "posix_fallocate", refuses(errno.EOPNOTSUPP))
    with file_size(SIZE):
        done = record_until_full(tmp_path / "r", fired)
    check(tmp_path / "r", done, fired)
    assert (tmp_path / "r").stat().st_size > SIZE - 4 * fired(done + 1) - 60_000
    assert os.listdir(tmp_path) == ["r"]


@pytest.mark.parametrize("fired", FIRED)
@pytest.mark.parametrize("claims", [True, False])
def test_a_disk_that_fills_up(tmp_path: Path, fired: Callable[[int], int], claims: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not claims:
        monkeypatch.setattr(os, "posix_fallocate", refuses(errno.EOPNOTSUPP))
    with small_disk(tmp_path / "disk", SIZE) as disk:
        done = record_until_full(disk / "r", fired)
        check(disk / "r", done, fired)
        assert os.listdir(disk) == ["r"]


@pytest.mark.parametrize("fired", FIRED)
def test_a_disk_that_gives_less_than_it_said(tmp_path: Path, fired: Callable[[int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As copy-on-write file systems may: as many bursts as there is room for are kept, and their number is told."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    path, done = tmp_path / "r", 0
    with file_size(SIZE):
        recorder = Recorder(path)
        with pytest.raises(OSError, match=r"File too large; ([0-9,]+) of ([0-9,]+) bursts are recorded") as caught:
            try:
                for number in range(1, 10**5):
                    recorder(burst(number, fired(number)))
                    done = number
            except OSError:
                pass
            recorder.close()
    kept = int(str(caught.value).split("; ")[1].split(" of ")[0].replace(",", ""))
    assert done > kept > done // 2 or (fired is huge and kept == done - 1) and f" of {done:,} bursts" in str(caught.value)
    check(path, kept, fired)
    assert os.listdir(tmp_path) == ["r"]


@pytest.mark.parametrize("bursts", [0, 1])
def test_a_disk_that_takes_nothing_leaves_what_was_there(tmp_path: Path, bursts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    path = tmp_path / "r"
    path.write_bytes(b"what stood there")
    recorder = Recorder(path)
    for number in range(1, bursts + 1):
        recorder(burst(number, 1))
    with file_size(100), pytest.raises(OSError, match="File too large; no bursts are recorded") as caught:
        recorder.close()
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"what stood there" and os.listdir(tmp_path) == ["r"]


def test_a_folder_that_takes_no_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where inodes are used up: the counts in memory are those of the last bursts that are recorded."""
    monkeypatch.setattr("gpu_npu.recordings.counts.scratch", refuses(errno.ENOSPC))
    done = record_until_full(tmp_path / "r", few)
    check(tmp_path / "r", done, few)


def test_a_scratch_file_is_beside_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_temporary_folder(monkeypatch)
    with scratch(tmp_path / "r") as file:
        assert os.fstat(file.fileno()).st_dev == tmp_path.stat().st_dev
        assert os.fstat(file.fileno()).st_nlink == 0 and os.listdir(tmp_path) == []


def refuses(number: int) -> Callable[..., None]:
    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refusing
