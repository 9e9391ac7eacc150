"""An NPU that keeps going: bursts on a thread of their own, controlled, fed and read from any other."""

from gpu_npu.engine.engine import BurstEngine
from gpu_npu.engine.status import EngineStatus

__all__ = ["BurstEngine", "EngineStatus"]
