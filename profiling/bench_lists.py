"""A list of edges in Parquet to the rows of the cpu backend, beside what pyarrow takes to read the file and to sort its ids.

    python -m profiling.bench_lists [--rows N] [--rounds N] [--json FILE]

20 M rows between 140,000 neurons with 64-bit ids, as many as the fly's. Three take turns, each in a process of its own, so that its
largest resident memory is its own: `stream` and `NPU.from_connectome`; pyarrow, which reads the file and sorts each of its two
columns of ids (`pyarrow.compute.sort_indices`); and pyarrow with the sort of NumPy, which is faster. Ratios alone mean anything on
a shared machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu import NPU
from gpu_npu.io import stream
from gpu_npu.limits import cpu_workers
from profiling.workloads import check_output, write

NEURONS, AT_ONCE = 140_000, 10**6
COLUMNS = ("pre_root_id", "post_root_id", "syn_count")


def make(path: Path, rows: int) -> None:
    """A file of so many edges, in no order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = np.random.default_rng(0)
    ids = 720575940000000000 + np.sort(draw.choice(2**40, NEURONS, replace=False))
    schema = pa.schema([(COLUMNS[0], pa.int64()), (COLUMNS[1], pa.int64()), (COLUMNS[2], pa.int32())])
    with pq.ParquetWriter(path, schema) as file:
        for first in range(0, rows, AT_ONCE):
            n = min(AT_ONCE, rows - first)
            columns = (ids[draw.integers(0, NEURONS, n)], ids[draw.integers(0, NEURONS, n)], draw.geometric(0.1, n).astype(np.int32))
            file.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema))


def ours(path: Path) -> None:
    """To built rows."""
    network, synapses = stream(path, tell=lambda text: None)
    with NPU.from_connectome(network, synapses=synapses, backend="cpu") as npu:
        if npu.get_synapse_count() != synapses.total:
            raise SystemExit("synapses are missing")


def pyarrow(path: Path) -> None:
    """Read, and each column of ids sorted."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for name in COLUMNS[:2]:
        pc.sort_indices(table[name])


def pyarrow_numpy(path: Path) -> None:
    """The same, with NumPy's sort."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for name in COLUMNS[:2]:
        np.sort(table[name].to_numpy())


CONTENDERS: dict[str, Callable[[Path], None]] = {"ours": ours, "pyarrow": pyarrow, "pyarrow, NumPy's sort": pyarrow_numpy}


def timed(contender: str, path: Path) -> tuple[float, int]:
    """Seconds, and the bytes that were resident at most, with those of Python and its packages."""
    begun = time.perf_counter()
    CONTENDERS[contender](path)
    return time.perf_counter() - begun, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(path: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """All contenders, turn by turn; packages are imported and kernels loaded by a small file first."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in CONTENDERS}
    small = path.with_name("small.parquet")
    make(small, 1000)
    for _ in range(rounds):
        for name, results in found.items():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                pool.apply(timed, (name, small))
                results.append(pool.apply(timed, (name, path)))
    return {
        name: {
            "seconds": statistics.median(seconds for seconds, _ in results),
            "all_seconds": [seconds for seconds, _ in results],
            "resident_bytes": max(size for _, size in results),
        }
        for name, results in found.items()
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    check_output(parser, options.json)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edges.parquet"
        make(path, options.rows)
        found, size = measure(path, options.rounds), path.stat().st_size
    for name, figures in found.items():
        print(f"{name}: {figures['seconds']:.2f} s, {figures['resident_bytes'] / 2**20:,.0f} MiB resident at most")
    over = {name: found["ours"]["seconds"] / figures["seconds"] for name, figures in found.items() if name != "ours"}
    print(", ".join(f"{ratio:.2f} times {name}" for name, ratio in over.items()))
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        facts = {"machine": platform.machine(), "cores": cpu_workers()[0], "python": platform.python_version(), "numpy": np.__version__}
        facts |= {"pyarrow": version("pyarrow"), "commit": commit, "date": time.strftime("%Y-%m-%d"), "rounds": options.rounds}
        facts |= {"rows": options.rows, "neurons": NEURONS, "file_bytes": size}
        write(options.json, {"benchmark": "an edge list to rows", **facts, "contenders": found, "ours_over": over})
    return 0


if __name__ == "__main__":
    sys.exit(main())
