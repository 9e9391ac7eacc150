"""Python in a process of its own under a sanitizer, for kernels built with the same one."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

LIBRARIES = {"address,undefined": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Python keeps memory until it ends; its own allocator would hide the rest.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=66",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "exitcode=66:halt_on_error=1:report_signal_unsafe=0",
    "PYTHONMALLOC": "malloc",
    "OPENBLAS_NUM_THREADS": "1",
}


def run_sanitized(kind: str, arguments: Sequence[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `python <arguments>` under a sanitizer: "address,undefined" or "thread" (what devices take as `sanitize`).

    A report ends in a return code other than 0 and is in `stderr`. Skips where the compiler has no such library, fails
    there in CI.
    """
    library = ""
    if shutil.which("g++"):
        library = subprocess.run(["g++", f"-print-file-name={LIBRARIES[kind]}"], capture_output=True, text=True, check=False).stdout.strip()
    if not Path(library).is_absolute():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"g++ brings no {LIBRARIES[kind]}")
    tests = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(str(folder) for folder in (tests.parent, tests / "helpers", tests / "kernels"))
    environment = {**os.environ, **OPTIONS, "LD_PRELOAD": library, "PYTHONPATH": path}
    # TSan wants its shadow memory where address space randomisation of some kernels puts libraries.
    fixed = ["setarch", platform.machine(), "-R"] if kind == "thread" and shutil.which("setarch") else []
    line = [*fixed, sys.executable, *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=timeout)
