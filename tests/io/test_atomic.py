"""Where files are written to, whose they are, and what a file system may refuse."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rights import NOBODY, as_nobody, open_folder

from gpu_npu import NPU, Connectome, Snapshot
from gpu_npu.connectome.generators import fixed_out_degree
from gpu_npu.io import load, save
from gpu_npu.io.atomic import UNFINISHED, Unfinished, replacing
from gpu_npu.io.outputs import check_outputs
from gpu_npu.recordings import Recorder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, modes and locks of POSIX")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")


def write_text(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"new")


def save_network(path: Path) -> None:
    save(Connectome(), path)


def write_snapshot(path: Path) -> None:
    with NPU.from_connectome(fixed_out_degree(4, 1, seed=0), backend="reference") as npu:
        npu.snapshot().write(path)


def record(path: Path) -> None:
    with Recorder(path):
        pass


WRITERS: list[Callable[[Path], None]] = [write_text, save_network, write_snapshot, record]
every_writer = pytest.mark.parametrize("write", WRITERS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- where a path leads ------------------------------------------------------------------------------------------------
@every_writer
def test_a_link_stays_and_the_file_it_leads_to_is_written(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(Path("far", "file"))
    write(tmp_path / "one")
    assert os.readlink(tmp_path / "one") == "two" and os.readlink(tmp_path / "two") == "far/file"
    assert (tmp_path / "far" / "file").read_bytes() not in (b"old", b"")
    assert os.listdir(tmp_path / "far") == ["file"] and len(os.listdir(tmp_path)) == 3


def test_a_link_to_nothing_is_where_the_file_appears(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    write_text(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "new").read_bytes() == b"new"
    (tmp_path / "astray").symlink_to(Path("nowhere", "new"))
    (tmp_path / "round").symlink_to("round")
    for name in ("astray", "round"):
        with pytest.raises(OSError) as caught:
            write_text(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert len(os.listdir(tmp_path)) == 4


@every_writer
@pytest.mark.parametrize("kind", ["folder", "named pipe", "socket", "device", "standard output"])
def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, kind: str, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reader = tmp_path / "out", -1
    if kind == "folder":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("out")
    elif kind == "device":
        path = Path("/dev/null")
    else:
        reader, writer = os.pipe()
        path = Path(f"/dev/fd/{writer}")
    before = path.stat()
    with pytest.raises(OSError, match="this is a (folder|named pipe|socket|device), not a file that could be replaced") as caught:
        write(path)
    assert caught.value.filename == str(path)
    assert isinstance(caught.value, IsADirectoryError) == (kind == "folder")
    assert os.path.samestat(before, path.stat())
    assert os.listdir(tmp_path) in ([], ["out"])
    if reader >= 0:
        os.close(reader)
        os.close(writer)


def test_an_open_file_that_was_removed_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "gone").open("wb") as file:
        (tmp_path / "gone").unlink()
        with pytest.raises(OSError):
            write_text(Path(f"/dev/fd/{file.fileno()}"))
    assert os.listdir(tmp_path) == []


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "a\0b", OSError), (tmp_path / ("x" * 300), OSError), (Path(""), IsADirectoryError)):
        with pytest.raises(kind) as caught:
            write_text(path)
        assert caught.value.filename == str(path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        write_text(tmp_path / "file" / "out")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("length", [243, 244, 255])
def test_names_as_long_as_they_may_be(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("ü" * (length // 2) + "x" * (length % 2))
    write_text(path)
    write_text(path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == [path.name]


# -- mode and owner ----------------------------------------------------------------------------------------------------
@every_writer
@pytest.mark.parametrize("before", [0o600, 0o640, 0o604, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, before: int, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(before)
    write(path)
    assert mode(path) == before and path.read_bytes() != b"old"


def test_an_unfinished_file_is_read_by_nobody_else_if_the_one_it_replaces_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    unfinished = Unfinished(path)
    assert mode(tmp_path / f".file{UNFINISHED}") == 0o600
    unfinished.discard()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_follows_the_umask(tmp_path: Path, mask: int) -> None:
    (tmp_path / f".file{UNFINISHED}").write_bytes(b"left by a killed process")
    (tmp_path / f".file{UNFINISHED}").chmod(0o777)
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file")
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o666 & ~mask


@needs_root
@every_writer
def test_a_replaced_file_keeps_its_owner(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, NOBODY, 12345)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, 12345)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_where_owners_cannot_be_given_the_group_gets_no_more_than_all(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another group's file: who was in it may no longer read what only it could read, and ours may neither."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o660)
    ours, real = os.getegid(), os.fstat

    def of_another_group(descriptor: int) -> os.stat_result:
        return os.stat_result((*real(descriptor)[:5], ours + 1, *real(descriptor)[6:]))

    def refuses(*_: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fchown", refuses)
    monkeypatch.setattr(os, "fstat", of_another_group)
    write_text(path)
    monkeypatch.undo()
    assert mode(path) == 0o600 and path.read_bytes() == b"new"


def test_where_modes_cannot_be_set_the_file_is_written_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)

    def refuses(*_: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "fchmod", refuses)
    write_text(path)
    assert mode(path) == 0o600 and path.read_bytes() == b"new"


@every_writer
def test_a_file_that_may_not_be_written_to_is_not_replaced(write: Callable[[Path], None]) -> None:
    with open_folder() as folder:
        path = folder / "file"
        with as_nobody():
            path.write_bytes(b"old")
            path.chmod(0o444)
            with pytest.raises(PermissionError) as caught:
                write(path)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"old" and os.listdir(folder) == ["file"]


@needs_root
def test_a_file_of_another_user_in_a_sticky_folder_is_refused_at_once() -> None:
    with open_folder() as folder:
        folder.chmod(0o1777)
        path = folder / "file"
        path.write_bytes(b"old")
        path.chmod(0o666)
        os.chown(path, 12345, 12345)
        with as_nobody(), pytest.raises(PermissionError, match="only its owner may replace it"):
            Unfinished(path)
        assert path.read_bytes() == b"old" and os.listdir(folder) == ["file"]


# -- what lies where an unfinished file would --------------------------------------------------------------------------
@pytest.mark.parametrize("laid", ["symbolic link", "link to nothing", "hard link", "named pipe", "folder", "another user's"])
def test_what_somebody_laid_there_is_neither_followed_nor_touched(tmp_path: Path, laid: str) -> None:
    target, beside, path = tmp_path / "precious", tmp_path / f".out{UNFINISHED}", tmp_path / "out"
    target.write_bytes(b"precious")
    if laid == "symbolic link":
        beside.symlink_to(target)
    elif laid == "link to nothing":
        beside.symlink_to(tmp_path / "nothing")
    elif laid == "hard link":
        os.link(target, beside)
    elif laid == "named pipe":
        os.mkfifo(beside)
    elif laid == "folder":
        beside.mkdir()
    else:
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")
        beside.write_bytes(b"another's")
        os.chown(beside, NOBODY, NOBODY)
    before = os.lstat(beside)
    write_text(path)
    assert path.read_bytes() == b"new" and not path.is_symlink() and path.stat().st_nlink == 1
    assert path.stat().st_uid == os.geteuid()
    assert target.read_bytes() == b"precious"
    assert os.path.samestat(before, os.lstat(beside))
    assert sorted(os.listdir(tmp_path)) == sorted({"out", "precious", beside.name})


def test_what_a_killed_process_left_is_not_written_into(tmp_path: Path) -> None:
    """It may be open elsewhere."""
    beside = tmp_path / f".out{UNFINISHED}"
    beside.write_bytes(b"left")
    with beside.open("rb") as left:
        write_text(tmp_path / "out")
        assert left.read() == b"left"
    assert os.listdir(tmp_path) == ["out"]


# -- file systems that are not the one at hand -------------------------------------------------------------------------
@every_writer
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks(tmp_path: Path, write: Callable[[Path], None], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    (tmp_path / f".out{UNFINISHED}").write_bytes(b"left")
    write(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    first = Unfinished(tmp_path / "out")
    write(tmp_path / "out")
    with pytest.raises(OSError, match="another process wrote it at the same time"):
        first.finish()
    first.discard()
    assert os.listdir(tmp_path) == ["out"]


def test_a_lock_that_fails_otherwise_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write_text(tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out") and os.listdir(tmp_path) == []


SYNC = [("file", errno.EINVAL), ("file", errno.ENOSYS), ("file", errno.EOPNOTSUPP)]
SYNC += [("folder", number) for number in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EROFS, errno.EOPNOTSUPP, errno.EACCES)]


@every_writer
@pytest.mark.parametrize(("what", "number"), SYNC)
def test_where_nothing_can_be_brought_to_the_disk(
    tmp_path: Path, write: Callable[[Path], None], what: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuses(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (what == "folder"):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuses)
    write(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_listed() -> None:
    """One may make files in it and go through it, no more."""
    with open_folder() as folder:
        folder.chmod(0o333)
        with as_nobody():
            write_text(folder / "out")
        folder.chmod(0o755)
        assert os.listdir(folder) == ["out"]


@every_writer
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_told_and_leaves_nothing(
    tmp_path: Path, write: Callable[[Path], None], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write(tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


@every_writer
def test_a_file_that_is_mounted_by_itself_is_written_over(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """As a file is into a container: nobody can rename onto it."""
    (tmp_path / "outside").write_bytes(b"old" * 10_000)
    (tmp_path / "inside").touch()
    mounted = subprocess.run(["mount", "--bind", tmp_path / "outside", tmp_path / "inside"], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        write(tmp_path / "inside")
        written = (tmp_path / "outside").read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["inside", "outside"]
    finally:
        subprocess.run(["umount", tmp_path / "inside"], check=True)
    write(tmp_path / "straight")
    assert written[:100] == (tmp_path / "straight").read_bytes()[:100] and len(written) == (tmp_path / "straight").stat().st_size


# -- inputs and outputs of one command ---------------------------------------------------------------------------------
def test_an_output_is_no_input_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("in")
    os.link("in", "hard")
    (tmp_path / "folder").mkdir()
    for name in ("in", "./in", "folder/../in", str(tmp_path / "in"), "link", "hard"):
        for first, second in ((name, "in"), ("in", name)):
            with pytest.raises(OSError, match="--out would write over NETWORK; name another file") as caught:
                check_outputs([("--out", Path(first))], [("NETWORK", Path(second))])
            assert caught.value.filename == str(Path(first))
    check_outputs([("--out", Path("new"))], [("NETWORK", Path("in"))])
    assert sorted(os.listdir()) == ["folder", "hard", "in", "link"] and Path("in").read_bytes() == b"precious"


def test_no_two_outputs_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("astray").symlink_to("new")
    for second in ("new", "./new", "astray"):
        with pytest.raises(OSError, match="--b would write over --a"):
            check_outputs([("--a", Path("new")), ("--b", Path(second))])
    check_outputs([("--a", Path("new")), ("--b", Path("newer"))])
    assert os.listdir() == ["astray"]


def test_an_unfinished_file_that_is_read_is_not_taken_over(tmp_path: Path) -> None:
    left = tmp_path / f".out{UNFINISHED}"
    left.write_bytes(b"what could be rescued")
    with pytest.raises(OSError, match="--out would write over NETWORK"):
        check_outputs([("--out", tmp_path / "out")], [("NETWORK", left)])
    assert left.read_bytes() == b"what could be rescued"


def test_what_cannot_be_written_is_found_before_anything_begins(tmp_path: Path) -> None:
    with Unfinished(tmp_path / "busy").file as file, pytest.raises(OSError, match="another process is writing it"):
        assert file.writable()
        check_outputs([("--out", tmp_path / "busy")])
    for path in (tmp_path, tmp_path / "no" / "out", Path("/dev/null")):
        with pytest.raises(OSError) as caught:
            check_outputs([("--out", path)])
        assert caught.value.filename == str(path)


def test_a_network_may_be_written_back_to_its_file(tmp_path: Path) -> None:
    """In Python what was read is in memory: this is no accident."""
    save(fixed_out_degree(4, 1, seed=0), tmp_path / "net.npz")
    save(load(tmp_path / "net.npz"), tmp_path / "net.npz")
    assert load(tmp_path / "net.npz").synapse_count == 4
    write_snapshot(tmp_path / "run.ckpt")
    Snapshot.read(tmp_path / "run.ckpt").write(tmp_path / "run.ckpt")
    assert Snapshot.read(tmp_path / "run.ckpt").burst == 0
