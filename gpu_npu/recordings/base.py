"""A recording in memory: what every format is written from and read into."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_npu.connectome import Annotations
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine

from .spikes import Spikes


@dataclass(frozen=True, repr=False)
class Recording(OneLine):
    """The fired neurons and the counters of consecutive bursts.

    Attributes
    ----------
    first_burst : number of the first burst (0 where there is none).
    offset : int64 (bursts + 1,); fired : uint32; burst first_burst + i is fired[offset[i]:offset[i + 1]].
    counters : int64 (bursts, 5), a column for each of COUNTERS.
    digest : SHA-256 (hex), as of `NPU.run`.
    annotations : labels and columns of the neurons, where the recorder was given them.
    """

    first_burst: int
    offset: NDArray[np.int64]
    fired: NDArray[np.uint32]
    counters: NDArray[np.int64]
    digest: str
    annotations: Annotations = field(default_factory=Annotations)

    @property
    def bursts(self) -> int:
        """How many bursts were recorded."""
        return len(self.offset) - 1

    def fired_in(self, burst: int) -> NDArray[np.uint32]:
        """Fired ids of a burst; NetworkError where it was not recorded."""
        i = burst - self.first_burst
        if not 0 <= i < self.bursts:
            raise NetworkError(f"burst {burst} was not recorded: there are {self.bursts:,} from burst {self.first_burst} on")
        return self.fired[self.offset[i] : self.offset[i + 1]]

    def spikes(self, ms: float = 1.0, name: str = "") -> Spikes:
        """The same as a table of one trial, which is written to .parquet, .csv or .h5. ms: duration of a burst."""
        burst = np.repeat(np.arange(self.first_burst, self.first_burst + self.bursts), np.diff(self.offset))
        return Spikes(burst, np.zeros(len(burst), np.int64), self.fired, ms, self.annotations, name)
