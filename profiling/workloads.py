"""The networks that are timed, made so that what happens in a burst is known exactly; and what they are timed on.

A network is silent until it is armed: then groups of power neurons take turns, so that exactly as many neurons fire in each
burst as was asked for, other ones than in the burst before, and the rows of several fired sets are read in rotation.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu import NPU, Connectome, Settings, SynapseSource
from gpu_npu.backends.base import Platform
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.executor import DevicePlatform, Tuning
from gpu_npu.backends.kernels import Program
from gpu_npu.connectome.generators import RandomSynapses
from gpu_npu.doctor import cuda_driver, kernel_digest
from gpu_npu.io.atomic import replacing
from gpu_npu.io.outputs import check_outputs
from gpu_npu.limits import cpu_workers

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("cuda", "cpu", "emulated", "reference")
GROUPS = 5
"""Of power neurons; fewer where more than a fifth of the neurons fire at once."""
UNREACHABLE = 1e9
"""A threshold that no potential comes near; as a negative one, a threshold that every potential reaches."""
INHIBITORY = 0.3
"""Probability of a neuron that its synapses inhibit."""


class Wrong(Exception):
    """A result that is not what it must be; nothing of it is worth timing."""


def write(path: Path, content: dict[str, Any]) -> None:
    """A file that is always whole."""
    with replacing(path) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def check_output(parser: ArgumentParser, path: Path | None, *inputs: tuple[str, Path | None]) -> None:
    """End with one line where the file of --json cannot be written, or is one of these inputs. Its folder is made."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_outputs([("--json", path)], [(name, file) for name, file in inputs if file is not None])
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


# -- what runs -----------------------------------------------------------------------------------------------------
def open_device(backend: str, device: int | None = None, program: Program | None = None) -> Device:
    """The device below a backend; BackendUnavailableError where it cannot be had."""
    if backend == "cuda":
        from gpu_npu.backends.devices.cuda import CudaDevice

        return CudaDevice(device, program=program)
    if backend == "emulated":
        from gpu_npu.backends.devices.emulated import EmulatedDevice

        return EmulatedDevice(block=64, seed=1, program=program)
    from gpu_npu.backends.devices.cpu import CpuDevice

    return CpuDevice(program=program)


def maker(backend: str, device: int | None = None, strategy: str | None = None) -> Callable[[], Platform]:
    """Makes new platforms of this kind. strategy: of propagation (layout.STRATEGIES); None: what suits the device."""
    if backend == "reference":
        from gpu_npu.backends.reference import ReferencePlatform

        return ReferencePlatform
    return lambda: DevicePlatform(open_device(backend, device), Tuning(propagation=strategy))


def facts(backend: str, device: int | None = None, commit: str | None = None) -> dict[str, Any]:
    """What a result is worth nothing without. commit: where there is no repository to ask."""
    opened = maker(backend, device)()
    description = opened.description
    opened.close()
    driver = cuda_driver()
    cupy = [found for found in importlib.metadata.distributions() if str(found.metadata["Name"]).lower().startswith("cupy")]
    return {
        "backend": backend,
        "device": description,
        "driver": driver.release if driver else None,
        "cuda": "{}.{}".format(*driver.cuda) if driver else None,
        "cupy": ", ".join(f"{found.metadata['Name']} {found.version}" for found in cupy) or None,
        "commit": commit or _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel_digest": kernel_digest(),
        "machine": f"{platform.system()} {platform.machine()}, {cpu_workers()[0]} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _commit() -> str:
    """The commit that is checked out, "-dirty" behind it where files differ from it; "unknown" without a repository."""
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return asked.stdout.strip() or "unknown"


# -- networks ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Network:
    """Neurons, with synapses of their own or of a source, and room for `spare` more."""

    connectome: Connectome
    synapses: SynapseSource | None = None
    spare: int = 0

    def on(self, backend: str | Callable[[], Platform]) -> NPU:
        """An NPU that has it."""
        count = self.connectome.synapse_count + (0 if self.synapses is None else self.synapses.total)
        return NPU.from_connectome(self.connectome, synapses=self.synapses, synapse_capacity=count + self.spare, backend=backend)


def silent(neurons: int, degree: int, *, each_psp: bool = True, spare: int = 0, seed: int = 0) -> Network:
    """`degree` synapses leave every neuron, to neurons drawn uniformly; nothing fires. No host holds the synapses.

    each_psp: psps are drawn synapse by synapse; else they are 1. spare: synapses that can still be added.
    """
    connectome = Connectome(neurons, 0, settings=Settings(power_amount=1.0))
    connectome.add_neurons(neurons, threshold=UNREACHABLE, leak_coefficient=0.25)
    psp = (1, 255) if each_psp else 1
    synapses = RandomSynapses(neurons, degree, seed=seed, inhibitory_fraction=INHIBITORY, weight=(1, 255), psp=psp)
    return Network(connectome, synapses, spare)


def arm(npu: NPU, fired: int, seed: int = 0, groups: int = GROUPS) -> int:
    """Let exactly so many neurons of a silent network fire in each burst, from burst 1 on: groups of them in turn. After how
    many bursts the fired sets repeat."""
    neurons = npu.neuron_capacity
    groups = max(1, min(groups, neurons // max(fired, 1)))
    everyone = np.arange(neurons, dtype=np.uint32)
    power = np.random.default_rng(seed).permutation(everyone)[: fired * groups]
    threshold: NDArray[np.float32] = np.full(neurons, UNREACHABLE, np.float32)
    period, countdown = (np.zeros(neurons, np.uint16) for _ in range(2))
    threshold[power] = -UNREACHABLE
    period[power] = groups - 1
    countdown[power] = np.repeat(np.arange(groups), fired)
    npu.reset()
    npu.set_parameter("threshold", everyone, threshold)
    npu.set_parameter("refractory_period", everyone, period)
    npu.set_parameter("refractory_countdown", everyone, countdown)
    npu.set_power_neurons(power)
    return groups
