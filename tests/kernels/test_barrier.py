"""The barrier of a GPU, which no emulation runs: its text out of device.cuh, with a thread of the CPU for each block."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpu_npu.backends.kernels import Program

BEGIN = "__device__ __forceinline__ void grid_barrier(u64* arrived) {"

AROUND = r"""
#include <atomic>
#include <cstdio>
#include <thread>
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


def test_launches_of_any_grid_follow_each_other(tmp_path: Path) -> None:
    """A grid that comes after one of another size, as a large burst after an empty one, must meet too."""
    if not (compiler := shutil.which("g++")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no g++")
    text = Program.of_project().sources["device.cuh"]
    barrier = BEGIN + text.split(BEGIN)[1].split("\n}\n")[0] + "\n}"
    (tmp_path / "barrier.cpp").write_text(AROUND.replace("@BARRIER@", barrier))
    subprocess.run([compiler, "-std=c++20", "-O2", "-pthread", "barrier.cpp", "-o", "barrier"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "barrier"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "0 blocks went on early\n")
