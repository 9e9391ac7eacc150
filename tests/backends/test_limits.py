"""How many workers and how much memory: what control groups of either version allow, at every level."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_npu import BackendUnavailableError, limits
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.limits import cpu_workers, host_memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores and 16 GiB, of which 12 are free, and no control groups."""
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "OWN", tmp_path / "own")
    monkeypatch.setattr(limits, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    write(tmp_path / "meminfo", f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {12 * 2**20} kB")
    return tmp_path / "cgroup"


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def within(groups: Path, *lines: str) -> None:
    write(groups.parent / "own", "\n".join(lines))


def test_no_control_groups(groups: Path) -> None:
    assert cpu_workers() == (8, "")
    assert host_memory() == (12 * GIB, 16 * GIB)


@pytest.mark.parametrize(
    ("quota", "workers"),
    [
        ("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("1000 100000", 1), ("299000 100000", 2), ("799999 100000", 7),
        ("800000 100000", 8), ("1600000 100000", 8), ("max 100000", 8), ("30000 10000", 3),
        ("0 0", 8), ("200000", 8), ("nonsense", 8), ("", 8),
    ],
)  # fmt: skip
def test_a_quota_of_version_2(quota: str, workers: int, groups: Path) -> None:
    within(groups, "0::/")
    write(groups / "cpu.max", quota)
    assert cpu_workers()[0] == workers
    assert ("quota" in cpu_workers()[1]) == (workers < 8)


@pytest.mark.parametrize("level", ["", "pods", "pods/pod1", "pods/pod1/main"])
def test_every_level_up_to_the_root_counts(level: str, groups: Path) -> None:
    within(groups, "0::/pods/pod1/main")
    for folder in ("pods", "pods/pod1", "pods/pod1/main"):
        write(groups / folder / "cpu.max", "600000 100000")
        write(groups / folder / "memory.max", "max")
        write(groups / folder / "memory.current", 5 * GIB)
    write(groups / "pods" / "other" / "cpu.max", "100000 100000")
    write(groups / level / "cpu.max", "350000 100000")
    write(groups / level / "memory.max", 8 * GIB)
    write(groups / level / "memory.current", 5 * GIB)
    assert cpu_workers() == (3, " (a quota of 3.5 CPUs on 8 cores)")
    assert host_memory() == (3 * GIB, 8 * GIB)


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("folder", ["", "docker/abc"])
def test_a_quota_of_version_1(mount: str, folder: str, groups: Path) -> None:
    """Also where the container sees its own group as the root of the mount, under a name that is not there."""
    within(groups, "4:memory:/docker/abc", f"2:{mount}:/docker/abc", "1:name=systemd:/docker/abc", "0::/docker/abc")
    write(groups / mount / "cpu.cfs_quota_us", -1)
    write(groups / mount / "cpu.cfs_period_us", 100000)
    assert cpu_workers() == (8, "")
    write(groups / mount / folder / "cpu.cfs_quota_us", 250000)
    write(groups / mount / folder / "cpu.cfs_period_us", 100000)
    write(groups / "memory" / "memory.limit_in_bytes", 2**63 - 4096)
    write(groups / "memory" / "memory.usage_in_bytes", 0)
    assert host_memory() == (12 * GIB, 16 * GIB)
    write(groups / "memory" / folder / "memory.limit_in_bytes", 4 * GIB)
    write(groups / "memory" / folder / "memory.usage_in_bytes", 3 * GIB)
    assert cpu_workers() == (2, " (a quota of 2.5 CPUs on 8 cores)")
    assert host_memory() == (GIB, 4 * GIB)


def test_both_versions_at_once(groups: Path) -> None:
    within(groups, "1:cpu:/a", "0::/b")
    write(groups / "cpu" / "a" / "cpu.cfs_quota_us", 500000)
    write(groups / "cpu" / "a" / "cpu.cfs_period_us", 100000)
    write(groups / "unified" / "b" / "cpu.max", "400000 100000")
    assert cpu_workers()[0] == 4


def test_a_group_outside_of_what_is_mounted(groups: Path) -> None:
    within(groups, "0::/../../elsewhere")
    write(groups / "cpu.max", "200000 100000")
    write(groups.parent / "cpu.max", "100000 100000")
    assert cpu_workers()[0] == 2


def test_affinity_below_the_quota(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within(groups, "0::/")
    write(groups / "cpu.max", "400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert cpu_workers() == (2, "")


def test_files_that_are_cached_are_free_memory(groups: Path) -> None:
    within(groups, "0::/")
    write(groups / "memory.max", 8 * GIB)
    write(groups / "memory.current", 8 * GIB)
    assert host_memory() == (0, 8 * GIB)
    write(groups / "memory.stat", f"anon 1\ninactive_file {6 * GIB}\nactive_file 7")
    assert host_memory() == (6 * GIB, 8 * GIB)


def test_a_system_that_does_not_tell(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(groups.parent / "meminfo", "MemTotal: nonsense")
    free, total = host_memory()
    assert free == total > 0
    monkeypatch.delattr(os, "sysconf")
    with pytest.raises(BackendUnavailableError, match="how much memory there is cannot be asked"):
        host_memory()


def test_the_backend_says_so(groups: Path) -> None:
    within(groups, "0::/")
    write(groups / "cpu.max", "150000 100000")
    assert ", 1 worker (a quota of 1.5 CPUs on 8 cores), " in CpuDevice().description
    assert ", 3 workers, " in CpuDevice(workers=3).description


@pytest.mark.skipif(sys.platform != "linux", reason="threads begin with a stack of RLIMIT_STACK on Linux")
def test_where_no_thread_can_be_started_fewer_work() -> None:
    """A stack of 64 TiB stands for a limit on processes: the system starts no thread. The run goes on, on the one there is."""
    script = (
        "from gpu_npu import NPU\n"
        "from gpu_npu.backends.devices.cpu import CpuDevice\n"
        "from gpu_npu.backends.executor import DevicePlatform\n"
        "from gpu_npu.doctor import small_network\n"
        "device = CpuDevice(workers=3)\n"
        "with NPU.from_connectome(small_network(), backend=DevicePlatform(device)) as npu:\n"
        "    npu.inject(range(40), 3.5)\n"
        "    print(npu.run(5).bursts, device.description)\n"
    )
    _, most = resource.getrlimit(resource.RLIMIT_STACK)
    if most != resource.RLIM_INFINITY:
        pytest.skip("the limit on stacks cannot be raised")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (2**46, most)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("5 CPU ") and "1 worker (the system starts no more threads: 3 were asked for)" in done.stdout
