"""Whole networks on the emulated device, equal to the reference or not: python bursts.py SANITIZER [BUG [WIDE]]

Run in a process of its own under a sanitizer by test_sanitized.py. BUG is a key of BUGS: an edit of the kernel sources
that the tests must see. WIDE runs more networks, block sizes and schedules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import golden_cases
import numpy as np
from networks import FEAGI, PLASTIC, SWITCHES, Plan, agree

from gpu_npu import NPU, PairRule, PlasticityRule, WindowRule
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform, Tuning
from gpu_npu.backends.kernels import Program
from gpu_npu.backends.reference import ReferencePlatform
from gpu_npu.connectome.generators import fixed_out_degree


@dataclass(frozen=True)
class Bug:
    """One occurrence of `right` in `file` becomes `wrong`."""

    file: str
    right: str
    wrong: str


BUGS: Mapping[str, Bug] = {
    "an addition to an accumulator that is not atomic": Bug("device.cuh", "atomicAdd((u64*)p, (u64)v);", "*p += v;"),
    "the last synapse of a row is left out": Bug(
        "deliver.cuh", "lane_id() < total && !(target[u]", "lane_id() + 1 < total && !(target[u]"
    ),
    "no barrier before the cells of a slice are merged": Bug(
        "slices.cuh", "        __syncthreads();\n        for (u32 i = threadIdx.x; i < span; i += blockDim.x) {",
        "        for (u32 i = threadIdx.x; i < span; i += blockDim.x) {",
    ),
    "an addition to a cell that is not atomic": Bug(
        "slices.cuh", "u32 old = atomicAdd(cell, (u32)by),", "u32 old = (*cell += by) - by,"
    ),
    "no barrier between the warps' sums and their use": Bug(
        "archival.cu", "    __syncthreads();\n    u32 start = sum[0]", "    u32 start = sum[0]"
    ),
    "dynamics does not wait for propagation": Bug(
        "burst.cu",
        "propagate<!PLAIN>(base, burst);\n        grid_barrier(base.control + CONTROL_ARRIVED);",
        "propagate<!PLAIN>(base, burst);",
    ),
    "the next burst does not wait for archival": Bug(
        "burst.cu",
        "inject_scheduled(at_burst<!PLAIN>(base, burst), burst);\n        grid_barrier(base.control + CONTROL_ARRIVED);\n    }\n    if",
        "inject_scheduled(at_burst<!PLAIN>(base, burst), burst);\n    }\n    if",
    ),
    "no barrier before shared counters are added to": Bug("dynamics.cu", "total[c] = 0;\n    __syncthreads();", "total[c] = 0;"),
    "a slot of a row is claimed by an addition that is not atomic": Bug(
        "building.cu", "slot = atomicAdd(&row->length, 1u);", "slot = row->length++;"
    ),
    "visits do not wait for their plan": Bug(
        "burst.cu",
        "plan(at_burst<!PLAIN>(base, burst));\n            grid_barrier(base.control + CONTROL_ARRIVED);",
        "plan(at_burst<!PLAIN>(base, burst));",
    ),
    "a synapse is visited from both of its ends": Bug(
        "plasticity.cu", "in.source[k] & SYNAPSE_REMOVED || is_visited(s, i)", "in.source[k] & SYNAPSE_REMOVED"
    ),
    "a row is squeezed without waiting for its readers": Bug("indexing.cu", "__syncwarp();  // in place, a slot", "// in place, a slot"),
}


def program_with(bug: str) -> Program:
    """The project's kernels, with this bug in them ("" for none)."""
    right = Program.of_project()
    if not bug:
        return right
    plan = BUGS[bug]
    text = right.sources[plan.file]
    if text.count(plan.right) != 1:
        raise SystemExit(f"{plan.file} has {plan.right!r} {text.count(plan.right)} times; the planted bug needs it once")
    return Program({**right.sources, plan.file: text.replace(plan.right, plan.wrong)}, right.unit, right.kernels)


def networks(wide: bool) -> Iterator[Plan]:
    """Small networks with every switch, and some with a few."""
    yield Plan(1, 33, 5, 4, 40, 4, frozenset(SWITCHES))
    yield Plan(2, 64, 0, 10, 300, 4, frozenset(SWITCHES) - {"nonuniform", "resets", "settings_changes"})
    yield Plan(3, 40, 2, 6, 40, 5, frozenset({*SWITCHES, PLASTIC}))
    yield Plan(3, 33, 2, 8, 40, 5, frozenset({*SWITCHES, PLASTIC, FEAGI} - {"settings_changes"}))  # float32 beside columns
    for seed in range(30 if wide else 0):
        yield Plan(100 + seed, (31, 33, 257, 0, 1)[seed % 5], seed % 3, 4, (0, 300, 1000)[seed % 3], 5, frozenset(SWITCHES[seed % 3 :: 2]))


def run_digest(backend: Any, *rules: PlasticityRule) -> str:
    """Many bursts in few launches, with a schedule and a ring that is full now and then."""
    network = fixed_out_degree(100, 9, seed=4, weight=(1, 40), psp=(1, 9), inhibitory_fraction=0.3, threshold=110.0)
    with NPU.from_connectome(network, backend=backend) as npu:
        for rule in rules:
            npu.register_plasticity(rule)
        npu.schedule(np.arange(1, 13), np.arange(12), 500.0)
        npu.schedule([2, 2, 6], [7, 7, 7], 60.0)
        npu.schedule_force(3, [5, 90])
        return npu.run(14, digest=True).digest


def main(sanitizer: str, bug: str = "", wide: str = "") -> None:
    program = program_with(bug)
    shapes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"block": 64, "seed": 1}, {}),
        ({"block": 96, "seed": 2}, {"propagation": "owned", "packed": False}),
        ({"block": 64, "blocks": 5, "seed": 3, "shared": 256}, {"propagation": "slices", "heavy_row": 7}),
    ]
    if wide:
        shapes += [({"block": block, "seed": block, "cache_bytes": 512}, {"packed": block % 64 == 0}) for block in (32, 256, 1024)]
        shapes += [({"block": 256, "blocks": 7, "seed": 4, "shared": 4096}, {"propagation": "slices", "heavy_row": 40})]
    if bug:  # first where it lies: slices.cuh runs where propagation is "slices"
        shapes.sort(key=lambda shape: f"{shape[1].get('propagation')}.cuh" != BUGS[bug].file)
    for device, options in shapes:

        def backend(device: dict[str, Any] = device, options: dict[str, Any] = options) -> DevicePlatform:
            return DevicePlatform(EmulatedDevice(**device, sanitize=sanitizer, program=program), Tuning(**options))

        for name in ("edits", "edge_forced_feagi_2_6", *(golden_cases.CASES if wide else ())):
            golden_cases.run_case(golden_cases.load_case(name), backend())
        options["ring"] = (6, 150)
        for rules in ((), (WindowRule(0, 0, 2, 9, 5), PairRule(0, 0, 30.0, 20.0, 3.0, 3.0, pairing="all"))):
            assert run_digest(backend(), *rules) == run_digest("reference", *rules), "other neurons fired in a run"
        for plan in networks(bool(wide)):
            agree(plan, backend(), ReferencePlatform())
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
