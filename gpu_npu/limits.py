"""What this process may take of its machine: CPUs and memory, by affinity and by Linux's control groups of both versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from gpu_npu.errors import BackendUnavailableError

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where control groups are mounted, and which ones this process is in."""
MEMINFO = Path("/proc/meminfo")


def cpu_workers() -> tuple[int, str]:
    """(threads that can run at once for longer, why they are fewer than the cores or "").

    The cores of the affinity mask, or the quota of CPU time rounded down, at least 1: one thread more than the quota pays
    for would be stopped for a part of every period (0.1 s, as a rule), and a burst waits for its slowest worker.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(), default=float(cores))
    if quota >= cores:
        return cores, ""
    return max(int(quota), 1), f" (a quota of {quota:g} CPU{'s' if quota > 1 else ''} on {cores} cores)"


def host_memory() -> tuple[int, int]:
    """(free, total) bytes of this machine or of the control groups that limit this process, whichever is less.

    BackendUnavailableError where the system does not tell.
    """
    free, total = _machine_memory()
    for folder in _groups("memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            free = min(free, max(limit - used + _reclaimable(folder), 0))
            total = min(total, limit)
    return min(free, total), total


def _machine_memory() -> tuple[int, int]:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemAvailable"], sizes["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        if not hasattr(os, "sysconf"):
            raise BackendUnavailableError(f"how much memory there is cannot be asked on {platform.system()}") from None
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups that this controller limits this process by: its own, and those above it."""
    for line in _text(OWN).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            mounts = [GROUPS, GROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = [GROUPS / controllers, GROUPS / controller]
        else:
            continue
        for mount in mounts:
            # A group that the mount does not show, as in some containers, has no files here; the mount's own are looked at.
            inside = mount / path.lstrip("/") if ".." not in path else mount
            yield from (folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount))


def _quotas() -> Iterator[float]:
    """CPUs that each group pays for."""
    for folder in _groups("cpu"):
        words = _text(folder / "cpu.max").split() or [
            *_text(folder / "cpu.cfs_quota_us").split(),
            *_text(folder / "cpu.cfs_period_us").split(),
        ]
        if len(words) == 2 and all(word.isdigit() and int(word) for word in words):  # "max" or -1: no quota
            yield int(words[0]) / int(words[1])


def _reclaimable(folder: Path) -> int:
    """Bytes of file contents that the kernel gives up when memory is asked for."""
    words = _text(folder / "memory.stat").split()
    facts = dict(zip(words[::2], words[1::2], strict=False))
    number = facts.get("total_inactive_file", facts.get("inactive_file", ""))
    return int(number) if number.isdigit() else 0


def _number(*paths: Path) -> int | None:
    """What the first of these files that is there says, if it is a number."""
    text = next((text for path in paths if (text := _text(path).strip())), "")
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
