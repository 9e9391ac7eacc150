"""A real network: the right hemisphere of a fly's brain, one digest from every backend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import shared_data

from gpu_npu import NPU
from gpu_npu.backends.base import Platform
from gpu_npu.io import load

THRESHOLD, LEAK, REFRACTORY = 60.0, 0.25, 2
"""With these about 1.4 % of the neurons fire in a burst while the gustatory inputs are driven."""
DIGESTS = {
    20: "09169809b80a08b799602819f2cec8ef60b5ef973e922388c38e92e8e3479773",
    1000: "f05946baf347b852f7e76cf1407fd72505d21c647940d4604d781bb94fd02761",
}
"""Of the first so many bursts."""


def run_fly(factory: Callable[[], Platform], bursts: int) -> tuple[str, np.ndarray]:
    """Digest, and fired neurons of each burst; the stimulus drives its neurons to threshold in every burst."""
    folder = shared_data()
    connectome = load(folder / "flywire_right.npz", threshold=THRESHOLD, leak_coefficient=LEAK, refractory_period=REFRACTORY)
    with np.load(folder / "flyref_right_gust.npz") as file:
        stimulus = file["stim"].astype(np.uint32)
    with NPU.from_connectome(connectome, backend=factory()) as npu:
        when = np.repeat(np.arange(1, bursts + 1), len(stimulus))
        npu.schedule(when, np.tile(stimulus, bursts), THRESHOLD)
        result = npu.run(bursts, digest=True)
    return result.digest, result.fired_counts


def test_the_first_bursts(backend_factory: Callable[[], Platform]) -> None:
    """A thousand, and twenty where each takes long."""
    bursts = 20 if backend_factory().name == "emulated" else 1000
    digest, counts = run_fly(backend_factory, bursts)
    assert digest == DIGESTS[bursts]
    assert 300 < counts[10:].min() <= counts[10:].max() < 3000  # neither nothing nor everything of 66,658


@pytest.mark.long
def test_a_thousand_bursts(backend_factory: Callable[[], Platform]) -> None:
    assert run_fly(backend_factory, 1000)[0] == DIGESTS[1000]
