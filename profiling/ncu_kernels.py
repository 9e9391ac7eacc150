"""The kernels of some bursts one by one with Nsight Compute: how close each comes to what the GPU can do, and why not.

    python -m profiling.ncu_kernels [--phase PHASE] [--full] [--output FILE] [--dry-run] NETWORK [options of profiling.workload]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from profiling import tool

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats")
METRICS = (
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_sector_hit_rate.pct",
    "lts__t_sectors_op_read.sum",
    "lts__t_sectors_op_write.sum",
    "lts__t_sectors_op_red.sum",  # atomic additions whose result nobody reads: propagation, counters
    "lts__t_sectors_op_atom.sum",
)
STATE = ("--cache-control=none", "--clock-control=none")
"""The network of one burst is still in L2 in the next, so caches stay as they are; clocks are held, so that runs compare."""
PHASES = ("injection", "propagation", "dynamics", "archival")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = tool.parser("profiling.ncu_kernels", __doc__, "kernels")
    parser.add_argument("--phase", choices=PHASES, help="the kernels of this phase alone")
    parser.add_argument("--full", action="store_true", help="every section (many more passes)")
    options, rest = parser.parse_known_args(arguments)
    where = f"gpu_npu@{options.phase or 'burst'}/"  # with a slash behind: a range pushed and popped
    what = ["--set=full"] if options.full else [f"--section={name}" for name in SECTIONS]
    what.append(f"--metrics={','.join(METRICS)}")
    report = [f"--export={options.output}", "--force-overwrite"]
    profile = ["ncu", "--nvtx", f"--nvtx-include={where}", *what, *STATE, *report, *tool.target(parser.prog, rest)]
    show = ["ncu", f"--import={options.output}.ncu-rep", "--page=details", "--print-summary=per-kernel"]
    return tool.run([profile, show], dry_run=options.dry_run)


if __name__ == "__main__":
    sys.exit(main())
