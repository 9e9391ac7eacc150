"""Networks on devices that run kernels."""

from gpu_npu.backends.executor.executor import Executor
from gpu_npu.backends.executor.platform import DevicePlatform
from gpu_npu.backends.executor.tuning import Tuning
from gpu_npu.backends.layout import STRATEGIES

__all__ = ["STRATEGIES", "DevicePlatform", "Executor", "Tuning"]
