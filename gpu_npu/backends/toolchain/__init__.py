"""Compilers for the kernels: g++ for the CPU builds, NVRTC for cubins; what they make is cached on disk."""

from gpu_npu.backends.toolchain.gxx import CpuBuild, Flavour, cpu_headers, load_cpu, prebuild_cpu
from gpu_npu.backends.toolchain.nvrtc import ARCHITECTURES, KernelUsage, compile_cubin, parameter_sizes, usage

__all__ = [
    "ARCHITECTURES",
    "CpuBuild",
    "Flavour",
    "KernelUsage",
    "compile_cubin",
    "cpu_headers",
    "load_cpu",
    "parameter_sizes",
    "prebuild_cpu",
    "usage",
]
