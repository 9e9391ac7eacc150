"""The barrier of a GPU, which no emulation runs: its text out of device.cuh, with a thread of the CPU for each block."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_npu.backends import kernels, toolchain
from gpu_npu.backends.kernels import Program

BEGIN = "__device__ __forceinline__ void grid_barrier(u64* arrived) {"

AROUND = r"""
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <unistd.h>
#include <vector>
typedef unsigned long long u64;
struct Index { unsigned x; };
thread_local Index threadIdx{0}, blockIdx{0};
Index gridDim{0};
#define __device__
#define __forceinline__ inline
#define FRESH(pointer) (std::this_thread::yield(), __atomic_load_n(pointer, __ATOMIC_RELAXED))
inline u64 atomicAdd(u64* p, u64 v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __syncthreads() {}
inline u64 device_clock() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }
inline void __trap() { std::printf("trap\n"); std::fflush(stdout); _exit(1); }
@BARRIER@
int main() {
    const unsigned rounds = 20;
    u64 arrived = 0, early = 0;
    for (unsigned blocks : {1u, 7u, 24u, 1u, 24u, 5u}) {  // launches, one after the other
        gridDim.x = blocks;
        std::vector<u64> came(rounds, 0);
        std::vector<std::thread> grid;
        for (unsigned b = 0; b < blocks; ++b)
            grid.emplace_back([&, b] {
                if (b == ABSENT) return;
                blockIdx.x = b;
                for (unsigned r = 0; r < rounds; ++r) {
                    atomicAdd(&came[r], 1);
                    grid_barrier(&arrived);
                    if (__atomic_load_n(&came[r], __ATOMIC_RELAXED) != blocks) atomicAdd(&early, 1);
                }
            });
        for (std::thread& block : grid) block.join();
    }
    std::printf("%llu blocks went on early\n", early);
    return early != 0;
}
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The barrier, compiled with these options."""
    if not (compiler := shutil.which("g++")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no g++")
    text = Program.of_project().sources["device.cuh"]
    barrier = BEGIN + text.split(BEGIN)[1].split("\n}\n")[0] + "\n}"
    (folder / "barrier.cpp").write_text(AROUND.replace("@BARRIER@", barrier))
    subprocess.run([compiler, "-std=c++20", "-O2", "-pthread", *options, "barrier.cpp", "-o", "barrier"], cwd=folder, check=True)
    return subprocess.run([folder / "barrier"], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("limit", [(), ("-DBARRIER_LIMIT=50000000000ull",)], ids=["for ever", "limited"])
def test_launches_of_any_grid_follow_each_other(limit: tuple[str, ...], tmp_path: Path) -> None:
    """A grid that comes after one of another size, as a large burst after an empty one, must meet too."""
    done = run(tmp_path, "-DABSENT=~0u", *limit)
    assert (done.returncode, done.stdout) == (0, "0 blocks went on early\n")


def test_a_block_that_never_comes_ends_the_launch_in_time(tmp_path: Path) -> None:
    done = run(tmp_path, "-DABSENT=3", "-DBARRIER_LIMIT=200000000ull")
    assert (done.returncode, done.stdout) == (1, "trap\n")


def test_who_validates_sets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = kernels.unit()
    monkeypatch.setattr(kernels, "BARRIER_SECONDS", 2.0)
    limited = kernels.unit()
    assert "BARRIER_LIMIT" not in usual
    assert limited == "#define BARRIER_LIMIT 2000000000ull\n" + usual
    if importlib.util.find_spec("nvidia"):
        assert toolchain.compile_cubin(Program.of_project().sources, limited, 90)[0]
