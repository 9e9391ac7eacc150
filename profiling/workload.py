"""What a profiler is started on: some bursts to warm up, unseen, then some that are annotated.

    python -m profiling.workload NETWORK [options]

NETWORK is "seed" (the built-in example), "random" (any size, exactly --fired neurons fire in each burst), or
a file that `gpu-npu run` takes. A profiler sees the build, the load, and --bursts bursts range by range, and can leave
out the rest by the range "burst" of the domain "gpu_npu". Prints the digest, which annotation does not change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import NEURON_FIELDS, NPU, Connectome, Digest, NpuError
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load
from profiling import bench_cpu


def field(text: str) -> tuple[str, int | float]:
    """FIELD=VALUE"""
    name, _, value = text.partition("=")
    if name not in NEURON_FIELDS:
        raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(NEURON_FIELDS)}")
    try:
        return name, float(value) if NEURON_FIELDS[name].dtype is np.float32 else int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not a value of {name}") from None


def parse(arguments: Sequence[str], program: str = "profiling.workload") -> argparse.Namespace:
    """The options; a wrong one ends the program with a line and status 2."""
    parser = argparse.ArgumentParser(
        prog=program, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("--bursts", type=int, default=20, help="annotated bursts (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=50, help="bursts before them (%(default)s)")
    parser.add_argument("--backend", choices=("cuda", "cpu", "reference"), default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--plain", action="store_true", help="annotate nothing, launch phase by phase: the package nvtx is not needed")
    parser.add_argument("--neurons", type=int, default=1_000_000, help="of a random network (%(default)s)")
    parser.add_argument("--degree", type=int, default=100, help="synapses leaving each of them (%(default)s)")
    parser.add_argument("--fired", type=int, default=10_000, help="of them that fire in each burst (%(default)s)")
    parser.add_argument("--set", type=field, action="append", default=[], metavar="FIELD=VALUE", help="a field of all neurons (CSR files)")
    parser.add_argument("--inject", type=Path, metavar="FILE", help=".npz with an array stim: ids to inject into before each burst")
    parser.add_argument("--potential", type=float, default=1.0, help="what is injected (%(default)s)")
    options = parser.parse_args(arguments)
    for file in (Path(options.network) if options.network not in ("seed", "random") else None, options.inject):
        if file is not None and not file.is_file():
            parser.error(f"there is no file {file}")
    if options.network == "random" and options.fired * bench_cpu.GROUPS > options.neurons:
        parser.error(f"--fired {options.fired}: at most a {bench_cpu.GROUPS}th of the neurons can fire in each burst")
    return options


def network(options: argparse.Namespace) -> tuple[Connectome, NDArray[np.uint32]]:
    """The network, and its power neurons beside those of power areas."""
    if options.network == "seed":
        return seed_example(), np.zeros(0, np.uint32)
    if options.network == "random":
        return bench_cpu.network(options.fired, neurons=options.neurons, degree=options.degree)
    return load(options.network, **dict(options.set)), np.zeros(0, np.uint32)


def run(options: argparse.Namespace) -> str:
    """Run it; the digest of the annotated bursts."""
    stimulus: NDArray[Any] = np.zeros(0, np.uint32)
    if options.inject is not None:
        with np.load(options.inject) as file:
            stimulus = file["stim"]
    connectome, power = network(options)
    with NPU.from_connectome(connectome, backend=options.backend, device=options.device, annotate=not options.plain) as npu:

        def bursts(count: int) -> str:
            digest = Digest()
            for _ in range(count):
                npu.inject(stimulus, options.potential)
                result = npu.process_burst()
                digest.update(result.burst, result.fired_neurons)
            return digest.hexdigest()

        npu.annotate(False)
        npu.set_power_neurons(power)
        bursts(options.warm_up)
        npu.annotate(not options.plain)
        npu.time_phases(options.plain)
        return bursts(options.bursts)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        print(run(parse(sys.argv[1:] if arguments is None else arguments)))
    except (NpuError, OSError, KeyError) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
