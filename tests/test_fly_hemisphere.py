"""A real network: the right hemisphere of a fly's brain, one digest from every backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from conftest import shared_data

from gpu_npu import NPU
from gpu_npu.backends.base import Backend
from gpu_npu.io import load

THRESHOLD, LEAK, REFRACTORY = 60.0, 0.25, 2
"""With these about 1.4 % of the neurons fire in a burst while the gustatory inputs are driven."""
DIGEST = "f05946baf347b852f7e76cf1407fd72505d21c647940d4604d781bb94fd02761"
"""Of the first 1,000 bursts."""


def run_fly(factory: Callable[[], Backend], bursts: int) -> tuple[str, np.ndarray]:
    """Digest, and fired neurons of each burst; the stimulus drives its neurons to threshold in every burst."""
    folder = shared_data()
    connectome = load(folder / "flywire_right.npz", threshold=THRESHOLD, leak_coefficient=LEAK, refractory_period=REFRACTORY)
    with np.load(folder / "flyref_right_gust.npz") as file:
        stimulus = file["stim"].astype(np.uint32)
    with NPU.from_connectome(connectome, backend=factory()) as npu:
        npu.inject(stimulus, THRESHOLD)
        result = npu.run(bursts, lambda _: npu.inject(stimulus, THRESHOLD))
    return result.digest, result.fired_counts


def test_a_thousand_bursts(backend_factory: Callable[[], Backend]) -> None:
    digest, counts = run_fly(backend_factory, 1000)
    assert digest == DIGEST
    assert 300 < counts[50:].min() <= counts[50:].max() < 3000  # neither nothing nor everything of 66,658
