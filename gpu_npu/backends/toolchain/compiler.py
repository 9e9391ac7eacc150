"""The C++ compiler: $CXX or g++, found, asked who it is, and run so that whatever it does ends."""

from __future__ import annotations

import functools
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from gpu_npu.backends.toolchain.private import reason, shown
from gpu_npu.errors import BackendUnavailableError

ANSWER_SECONDS, COMPILE_SECONDS = 60, 900
"""How long a compiler may take to say who it is, and to compile; a busy machine takes 20 times as long as an idle one."""
MOST_WORDS = 2**20
"""Bytes of what a compiler says that are kept."""
WAYS_OUT = (
    "install g++ (apt install g++, dnf install gcc-c++), name a C++20 compiler in the environment variable CXX, "
    "or install a wheel that brings the kernels compiled (`make wheel` in a clone makes it, for Linux x86-64)"
)


def compiler() -> tuple[list[str], str]:
    """The command, and what tells its version, its target and the CPU features that -march=native stands for.

    BackendUnavailableError where there is none, or what CXX names is none.
    """
    named = os.environ.get("CXX", "")
    try:
        command = shlex.split(named) or ["g++"]
    except ValueError as problem:
        raise BackendUnavailableError(f"CXX={shown(named)} is not a command ({problem}): {WAYS_OUT}") from problem
    program = shutil.which(command[0])
    if program is None:
        raise BackendUnavailableError(
            f"the CPU kernels need a C++20 compiler and '{shown(command[0])}' is not a program on the PATH: {WAYS_OUT}"
        )
    command[0] = os.path.abspath(program)  # it is run in another folder
    return command, _version(tuple(command))


def about() -> str:
    """Where the compiler is and the first line of what it says of its version, for people."""
    command, _ = compiler()
    _, words = run([*command, "--version"], ANSWER_SECONDS)
    return f"{shown(command[0])}, {(words.splitlines() or ['version unknown'])[0]}"


@functools.cache
def _version(command: tuple[str, ...]) -> str:
    status, words = run([*command, "-march=native", "-E", "-v", "-x", "c++", os.devnull], ANSWER_SECONDS)
    if status:
        lines = [line.strip()[:200] for line in words.splitlines() if line.strip()] or ["nothing"]
        said = next((line for line in lines if "error" in line), lines[-1])
        raise BackendUnavailableError(f"the C++ compiler {shown(shlex.join(command))} does not work (it says: {said}): {WAYS_OUT}")
    return words


def run(command: Sequence[str], seconds: float, folder: str | None = None) -> tuple[int, str]:
    """(exit status, words of stdout and stderr) of a compiler, in English, with temporary files in the current folder.

    It reads nothing, what it writes only this user may read, and its words are cut at MOST_WORDS.
    BackendUnavailableError where it cannot be run or does not end in time; it and what it started are killed then.
    """
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": "."}
    name = shown(shlex.join(command[:1]))
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder, env=environment, start_new_session=True, umask=0o077,
        )  # fmt: skip
    except (OSError, ValueError) as problem:
        raise BackendUnavailableError(f"the C++ compiler {name} cannot be run ({reason(problem)}): {WAYS_OUT}") from problem
    with process:
        try:
            deadline = time.monotonic() + seconds
            assert process.stdout is not None
            words = _listen(process, process.stdout, deadline)
            status = process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise BackendUnavailableError(f"the C++ compiler {name} did not end within {seconds} s: {WAYS_OUT}") from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return status, words.decode(errors="replace")


def _listen(process: subprocess.Popen[bytes], pipe: IO[bytes], deadline: float) -> bytes:
    """What a process says until it ends, or nobody can say more, or the deadline."""
    words = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(0.1):
                piece = os.read(pipe.fileno(), 2**16)
                if not piece:
                    break
                words += piece[: MOST_WORDS - len(words)]
            elif process.poll() is not None:
                break
    return bytes(words)
