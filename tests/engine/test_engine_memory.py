"""An engine that stays up does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, threading
import numpy as np
from gpu_npu import NPU, Area, BurstEngine
from gpu_npu.connectome.generators import fixed_out_degree

bursts = int(sys.argv[1])
network = fixed_out_degree(200, 10, seed=3, weight=(1, 20), areas={0: Area(power=True)}, threshold=30.0, refractory_period=1)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

stalled = threading.Event()
with BurstEngine(network, backend="cpu", synapse_capacity=4000) as engine:
    heard = engine.subscribe(lambda result: None, name="heard")
    engine.subscribe(lambda result: stalled.wait(), capacity=100, name="stalled")

    def work(npu):
        npu.update_weight(0, 1, npu.burst_count % 20)
        npu.set_parameter("threshold", [5], 20.0 + npu.burst_count % 7)

    begin = None
    while engine.status().bursts < bursts:
        for _ in range(50):
            engine.inject([1, 2, 3], 2.0)
            engine.submit(work)
            engine.step(40)
        engine.status()
        if begin is None and engine.status().bursts >= bursts // 5:
            begin = resident()
    end = resident()
    stalled.set()
    sinks = engine.status().sinks
assert sinks["stalled"]["dropped"] >= bursts - 200, sinks
print(end - begin, begin)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("bursts", [10_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_memory_is_flat(bursts: int) -> None:
    """With input, edits, a callback that keeps up and one that stalls: after a fifth of the bursts, half a megabyte at most."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(bursts)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr
    grown, before = map(int, done.stdout.split())
    print(f"\n{bursts:,} bursts: {grown:,} bytes more than {before:,}")
    assert grown <= 2**19
