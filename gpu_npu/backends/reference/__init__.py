"""The reference: plain NumPy, slow and obviously right."""

from gpu_npu.backends.reference.platform import ReferencePlatform
from gpu_npu.backends.reference.reference import Reference

__all__ = ["Reference", "ReferencePlatform"]
