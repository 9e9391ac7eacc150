"""What changes the speed and the memory of a network on a device, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_npu.backends.layout import HEAVY_ROW


@dataclass(frozen=True)
class Tuning:
    """Choices that no result depends on.

    propagation : its strategy, one of STRATEGIES; None: what suits the device.
    packed : whether arrivals may be counted inside the accumulators.
    heavy_row : a row of more synapses is the work of several warps.
    ring : bursts and fired ids that a launch may compute before the host looks at them; None: by the number of neurons.
    """

    propagation: str | None = None
    packed: bool = True
    heavy_row: int = HEAVY_ROW
    ring: tuple[int, int] | None = None
