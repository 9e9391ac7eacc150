"""The timeline of some bursts with Nsight Systems: a report to open in its window, and tables of it on the terminal.

    python -m profiling.nsys_timeline [--output FILE] [--dry-run] NETWORK [options of profiling.workload]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from profiling import tool

PROFILE = ("--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-memory-usage=true", "--force-overwrite=true")
REPORTS = ("nvtx_pushpop_sum", "nvtx_gpu_proj_sum", "nvtx_kern_sum", "cuda_gpu_kern_sum", "cuda_gpu_mem_time_sum", "cuda_api_sum")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = tool.parser("profiling.nsys_timeline", __doc__, "timeline")
    options, rest = parser.parse_known_args(arguments)
    profile = ["nsys", "profile", *PROFILE, f"--output={options.output}", *tool.target(parser.prog, rest)]
    stats = ["nsys", "stats", f"--report={','.join(REPORTS)}", "--force-export=true", f"{options.output}.nsys-rep"]
    return tool.run([profile, stats], dry_run=options.dry_run)


if __name__ == "__main__":
    sys.exit(main())
