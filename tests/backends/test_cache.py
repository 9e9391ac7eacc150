"""Compiled kernels come from folders that nobody else writes, and whatever is wrong with folders and compilers has a way out."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpu_npu import NPU
from gpu_npu.backends import toolchain
from gpu_npu.backends.toolchain import CpuBuild, cache, compiler, gxx, prebuilt
from gpu_npu.backends.toolchain.private import Folder
from gpu_npu.cli import main
from gpu_npu.errors import BackendUnavailableError, KernelError

SOURCES = {"one.cu": 'extern "C" __global__ void one(unsigned* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = 41 + 1; }\n'}
UNIT = '#include "one.cu"\n'
PLANTED = "int npu_launch, npu_guard, npu_body_one, npu_signature_one, planted; const char* npu_error() { return nullptr; }"
SOMEBODY = 12345
ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files to others")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="users and permissions of POSIX"),
    pytest.mark.skipif(shutil.which("g++") is None and not os.environ.get("CI"), reason="needs g++"),
]


def load(comment: str = "") -> CpuBuild:
    return toolchain.load_cpu({"one.cu": SOURCES["one.cu"] + comment}, UNIT, ["one"])


def is_planted(build: CpuBuild) -> bool:
    return hasattr(build.library, "planted")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of SOURCES, as g++ makes it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("good")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        load()
        (path,) = (folder / "gpu-npu").iterdir()
    return path


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder, a folder for temporary files, and a quick compiler, that nobody else uses."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    temporary = functools.cache(cache._temporary.__wrapped__)
    monkeypatch.setattr(cache, "_temporary", temporary)
    fake(tmp_path, monkeypatch, f"cp {good} kernels.so")
    yield
    if temporary.cache_info().currsize:
        temporary().cleanup()


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiling: str, probing: str = "echo gcc version 9.9.9") -> None:
    """A compiler in shell: what it does when it is asked for its version, and when it compiles."""
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-E*) {probing} ;; *) {compiling} ;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """The user's cache folder."""
    return tmp_path / "home" / "gpu-npu"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library that loads as well as ours, made by somebody else."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.cpp").write_text(f'extern "C" {{ {PLANTED} }}')
    subprocess.run(["g++", "-shared", "-fPIC", "planted.cpp", "-o", "planted.so"], cwd=folder, check=True)
    return (folder / "planted.so").read_bytes()


@pytest.fixture
def entry(users: Path, planted: bytes) -> Path:
    """The planted library where ours is looked for, and everything as it is if it were our own."""
    load()
    (ours,) = users.iterdir()
    ours.unlink()
    path = users / cache.name_of(ours.name.split("-")[0], ".so", planted)
    path.write_bytes(planted)
    path.chmod(0o600)
    return path


# -- who may have written it ---------------------------------------------------------------------------------------
def test_what_is_ours_is_loaded(entry: Path) -> None:
    """Else the tests below would show nothing."""
    assert is_planted(load())


FOREIGN: dict[str, tuple[Callable[[Path], object], bool]] = {  # what is wrong -> (how it comes about, whether it is the folder)
    "the folder is somebody's": (lambda entry: os.chown(entry.parent, SOMEBODY, -1), True),
    "others write in the folder": (lambda entry: entry.parent.chmod(0o777), True),
    "others write in the sticky folder": (lambda entry: entry.parent.chmod(0o1777), True),
    "the group writes in the folder": (lambda entry: entry.parent.chmod(0o770), True),
    "the entry is somebody's": (lambda entry: os.chown(entry, SOMEBODY, -1), False),
    "others write the entry": (lambda entry: entry.chmod(0o646), False),
    "the group writes the entry": (lambda entry: entry.chmod(0o660), False),
    "the entry is a link": (lambda entry: entry.symlink_to(entry.rename(entry.parent.parent / "elsewhere.so")), False),
    "the entry is a pipe": (lambda entry: (entry.unlink(), os.mkfifo(entry)), False),
    "the entry is a folder": (lambda entry: (entry.unlink(), entry.mkdir()), False),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_others_may_have_written_is_not_loaded(what: str, entry: Path, good: Path) -> None:
    spoil, folder = FOREIGN[what]
    if "somebody" in what and os.geteuid() != 0:
        pytest.skip("only root gives files to others")
    spoil(entry)
    build = load()
    assert not is_planted(build)
    assert (", for this process alone (" in build.origin) == folder
    if folder:
        assert str(entry.parent) in build.origin
        assert "belongs to user 12345" in build.origin or "can be written by others (mode 1" in build.origin or "(mode 7" in build.origin
        assert entry.exists(), "a folder of others is left as it is"
        assert str(entry.parent) in cache.where()
    else:
        assert [path.read_bytes() for path in entry.parent.iterdir() if path.is_file()] == [good.read_bytes()]


@ROOT
def test_root_with_the_home_folder_of_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made in it that its owner could not remove, and nothing is loaded from it."""
    (tmp_path / "somebody").mkdir()
    os.chown(tmp_path / "somebody", SOMEBODY, SOMEBODY)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert f"{tmp_path / 'somebody'}: belongs to user {SOMEBODY}, and this process runs as 0" in load().origin
    assert not list((tmp_path / "somebody").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a folder that is held open has a path on Linux")
def test_a_folder_that_is_exchanged_after_the_check(users: Path, tmp_path: Path, planted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    users.parent.rename(tmp_path / "moved")  # what was loaded once by a path would not be opened again
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "moved"))
    users, find = tmp_path / "moved" / "gpu-npu", cache.find

    def exchange(folder: Folder, key: str, suffix: str) -> str | None:
        name = find(folder, key, suffix)
        assert name
        users.rename(users.parent / "aside")
        users.mkdir()
        (users / name).write_bytes(planted)
        return name

    monkeypatch.setattr(cache, "find", exchange)
    assert not is_planted(load())


def test_a_place_for_temporary_files_that_others_control(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody had put a folder of his in the place of ours."""
    users.parent.mkdir()
    users.write_text("in the way")
    mkdtemp = tempfile.mkdtemp

    def open_to_all(*args: Any, **options: Any) -> str:
        path = mkdtemp(*args, **options)
        os.chmod(path, 0o777)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", open_to_all)
    refused = r"gpu-npu: File exists; .*/temporary/gpu-npu-\w+: can be written by others \(mode 777"
    with pytest.raises(BackendUnavailableError, match=refused):
        load()


def test_cubins_too(users: Path) -> None:
    """One that others may have written counts as not there."""
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"ours")
        return b"ours"

    users.mkdir(parents=True)
    users.chmod(0o700)
    path = users / cache.name_of("key", ".cubin", b"planted")
    path.write_bytes(b"planted")
    path.chmod(0o600)
    assert cache.kept("key", ".cubin", make) == b"planted"
    path.chmod(0o666)
    assert cache.kept("key", ".cubin", make) == b"ours"
    assert not path.exists()
    assert cache.kept("key", ".cubin", make) == b"ours"
    assert len(made) == 1
    users.chmod(0o777)
    path.write_bytes(b"planted")
    assert cache.kept("key", ".cubin", make) == b"ours"
    assert len(made) == 2


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o777])
def test_whatever_the_umask(mask: int, users: Path) -> None:
    """What is made, only its user writes; none of it lies open for a moment while it is compiled."""
    before = os.umask(mask)
    try:
        assert "alone" not in load().origin
    finally:
        os.umask(before)
    (path,) = users.iterdir()
    assert stat.S_IMODE(users.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


# -- folders that cannot be used -----------------------------------------------------------------------------------
def full(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Nothing more can be written to these folders."""
    write = Folder.write

    def refuse(self: Folder, name: str, data: bytes) -> None:
        if any(folder in self.path.parents or folder == self.path for folder in folders):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", refuse)


def test_a_full_cache_folder(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, users)
    origin = load().origin
    assert origin.startswith("compiled, compiler 9.9.9 -march=native, for this process alone (")
    assert f"{users}: No space left on device" in origin
    assert cache.kept("key", ".cubin", lambda: b"cubin") == b"cubin"


def test_a_compiler_that_finds_no_room(users: Path, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words tell a full disk from kernels that do not compile; what it writes lies in the folder of the build."""
    words = 'echo "$TMPDIR/x.s: No space left on device" >&2; exit 1'
    fake(tmp_path, monkeypatch, f"case $PWD in {users}*) {words} ;; *) cp {good} kernels.so ;; esac")
    origin = load().origin
    assert f"{users}: No space left on device" in origin
    assert not list(users.iterdir())


def test_full_everywhere(users: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, tmp_path)
    full_disk = "No space left on device"
    told = rf"{users}: {full_disk}; {tmp_path}/temporary/gpu-npu-\w+: {full_disk}\): name a folder .*XDG_CACHE_HOME"
    with pytest.raises(BackendUnavailableError, match=told):
        load()
    assert cache.kept("key", ".cubin", lambda: b"cubin") == b"cubin"


def test_a_folder_whose_programs_may_not_run(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, tried = gxx._open, []

    def mapped(path: str, kernels: Any) -> Any:
        place = os.path.realpath(path)
        tried.append(place)
        if place.startswith(str(users)):
            raise OSError(f"{path}: failed to map segment from shared object")
        return opened(path, kernels)

    monkeypatch.setattr(gxx, "_open", mapped)
    assert f"for this process alone ({users}: " in load().origin
    assert not list(users.iterdir())
    assert len(tried) == 2
    load()
    assert len(tried) == 3, "the second time it is found at once"


@ROOT
@pytest.mark.skipif(shutil.which("mount") is None, reason="mount")
@pytest.mark.parametrize("options", ["noexec", "size=32k"])
def test_real_file_systems(options: str, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX")
    users.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,{options}", "tmpfs", users], check=False, capture_output=True).returncode:
        pytest.skip("this root may not mount")
    try:
        build = load(f"// {options}")  # one of the same bytes may be loaded already
        words = "failed to map segment from shared object" if options == "noexec" else "No space left on device"
        assert f"for this process alone ({users}: {words})" in build.origin
        assert build.library.npu_launch(0, None) == 0
        assert not list(users.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", users], check=True)


def test_a_temporary_folder_that_was_tidied_away(users: Path) -> None:
    users.parent.mkdir()
    users.write_text("in the way")
    load()
    shutil.rmtree(cache._temporary().name)
    assert "alone" in load().origin


@pytest.mark.parametrize("name", ["relative", "", "~"])
def test_a_cache_folder_that_is_not_absolute_is_ignored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG specification says; nothing is read or made where the process happens to be."""
    monkeypatch.setenv("XDG_CACHE_HOME", name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "temporary")
    assert cache.where() == str(tmp_path / ".cache" / "gpu-npu")
    monkeypatch.setenv("HOME", "relative")
    assert "for this process alone (the user's cache folder: the home folder 'relative' is not an absolute path)" in cache.where()
    assert [path.name[:8] for path in (tmp_path / "temporary").iterdir()] == ["gpu-npu-"]


def test_paths_that_are_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    try:
        assert load().origin.encode()
    except BackendUnavailableError as error:  # a file system that takes no such names
        assert "\\xff" in str(error)
    assert f"{tmp_path}/\\xff\\xfe/gpu-npu" in cache.where().encode().decode()


# -- compilers -----------------------------------------------------------------------------------------------------
def garbage(tmp_path: Path) -> str:
    (tmp_path / "garbage").write_bytes(b"\x00\xff neither a program nor a script")
    (tmp_path / "garbage").chmod(0o755)
    return str(tmp_path / "garbage")


BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "a name that is nowhere": (lambda _: "no-such-compiler", "'no-such-compiler' is not a program on the PATH"),
    "an unbalanced quote": (lambda _: "g++ 'x", "CXX=g[+][+] 'x is not a command .No closing quotation."),
    "no UTF-8": (lambda _: os.fsdecode(b"g\xff+"), r"'g\\xff[+]' is not a program"),
    "a folder": (str, "is not a program on the PATH"),
    "no program": (garbage, "garbage cannot be run .Exec format error"),
    "a program that fails": (lambda _: "false", "/false does not work .it says: nothing"),
    "an option that is not known": (lambda _: "g++ --no-such-option", "does not work .it says: .*no-such-option"),
    "a program that is no compiler": (lambda _: "true", "/true says that it compiled the kernels, and made no library"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cxx_names(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of one line with a way out; "auto" goes on with the reference and says why."""
    value, words = BAD[what]
    monkeypatch.setenv("CXX", value(tmp_path))
    monkeypatch.setattr(prebuilt, "folder", lambda: tmp_path)
    with pytest.raises((BackendUnavailableError, KernelError), match=f"{words}.*install g") as caught:
        load()
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
    with NPU(10, backend="auto") as npu:
        assert npu.backend == "reference"
        assert "not cpu: " in npu.backend_reason
        npu.backend_reason.encode()
    told = CliRunner().invoke(main, ["run", "seed", "--bursts", "1", "--backend", "cpu"])
    assert told.exit_code == (9 if isinstance(caught.value, KernelError) else 8)
    assert len(told.stderr.splitlines()) == 1


HANGS = {
    "a process": "exec sleep 600",
    "a process of a process": "sleep 600",
    "it never stops talking": "while :; do echo talking; done",
    "it reads": "cat; exec sleep 600",
    "it says nothing more": "exec >/dev/null 2>&1; sleep 600",
}


def alive(group: str) -> list[str]:
    """What Linux says of the processes of a group that are not dead."""
    told = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            told.append(path.read_text().rpartition(")")[2].split())
    return [" ".join(words) for words in told if words[2] == group and words[0] != "Z"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("compiling", [False, True], ids=["asked", "compiling"])
@pytest.mark.parametrize("how", HANGS)
def test_a_compiler_that_hangs(how: str, compiling: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gxx if compiling else compiler, "COMPILE_SECONDS" if compiling else "ANSWER_SECONDS", 1)
    record = f"echo $$ > {tmp_path}/pid; {HANGS[how]}"
    fake(tmp_path, monkeypatch, record if compiling else "exit 1", "echo gcc version 9.9.9" if compiling else record)
    with pytest.raises(BackendUnavailableError, match="did not end within 1 s: install g"):
        load()
    group = (tmp_path / "pid").read_text().strip()
    deadline = time.monotonic() + 10
    while left := alive(group):
        assert time.monotonic() < deadline, left


def test_a_compiler_that_leaves_somebody_behind(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the server of a compiler cache, which keeps the pipe open."""
    fake(tmp_path, monkeypatch, f"cp {good} kernels.so; sleep 20 & echo $! > {tmp_path}/pid")
    assert load().library.npu_launch(0, None) == 0
    os.kill(int((tmp_path / "pid").read_text()), 15)


MADE = {
    "nothing": ("true", KernelError, "made no library"),
    "garbage": ("printf garbage > kernels.so", KernelError, "made no library"),
    "an empty file": (": > kernels.so", KernelError, "made no library"),
    "a cut library": ("head -c 9000 {good} > kernels.so", KernelError, "made no library"),
    "a folder": ("mkdir kernels.so", BackendUnavailableError, "{users}: Is a directory"),
    "a library of something else": ("echo 'int x;' | g++ -shared -x c++ - -o kernels.so", KernelError, "the library has no npu_error"),
    "words that are no text": ("printf '\\377\\376 no text\\n' >&2; exit 1", KernelError, "do not compile .*\n.* no text"),
}


@pytest.mark.parametrize("what", MADE)
def test_what_a_compiler_makes(what: str, users: Path, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, error, words = MADE[what]
    fake(tmp_path, monkeypatch, script.format(good=good))
    with pytest.raises(error, match=words.format(users=users)):
        load()
    assert [path.suffix for path in users.iterdir()] in ([], [""]), "nothing is kept of it"


def test_a_compiler_of_another_language_in_another_folder(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is named by a relative path, on a machine that speaks German: it is asked in English."""
    fake(tmp_path, monkeypatch, f"cp {good} kernels.so", 'test "$LC_ALL" = C && echo gcc version 7.7.7 || echo gcc-Version 7.7.7')
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("CXX", "./compiler")
    monkeypatch.chdir(tmp_path)
    assert load().origin == "compiled, compiler 7.7.7 -march=native"


def test_what_killed_builds_left_goes_after_an_hour(tmp_path: Path) -> None:
    tmp_path = tmp_path / "cache"
    tmp_path.mkdir(mode=0o700)
    for name in ("building-old", "building-new", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "unit.cpp").write_text("")
    (tmp_path / "building-file").write_text("")
    for name in ("building-old", "building-file", "kept"):
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    with Folder.open(tmp_path) as folder, folder.workshop({"a": "b"}):
        assert len(folder.names()) == 3 and {"building-new", "kept"} < set(folder.names())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["building-new", "kept"]
