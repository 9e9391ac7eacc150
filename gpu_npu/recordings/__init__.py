"""What fired, burst by burst, in files: written in bounded memory while bursts go on, and read again.

with Recorder("fired.npz") as recorder:
    npu.run(100_000, recorder)
print(load_recording("fired.npz").fired_in(17))
"""

from __future__ import annotations

from .base import Recording
from .npz import Recorder, load_recording
from .spikes import Spikes

__all__ = ["Recorder", "Recording", "Spikes", "load_recording"]
