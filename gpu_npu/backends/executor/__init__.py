"""Networks on devices that run kernels."""

from gpu_npu.backends.executor.executor import Executor
from gpu_npu.backends.executor.platform import DevicePlatform
from gpu_npu.backends.executor.tuning import Tuning

__all__ = ["DevicePlatform", "Executor", "Tuning"]
