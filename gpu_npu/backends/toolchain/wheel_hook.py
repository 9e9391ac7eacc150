"""Build hook of hatchling, off unless HATCH_BUILD_HOOK_ENABLE_CUSTOM is set (`make wheel`): prebuilt CPU libraries in the wheel.

Not part of an installed package.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrebuiltLibraries(BuildHookInterface):  # type: ignore[misc]
    """Compiles the flat CPU library for each level of prebuilt.LEVELS and makes the wheel one for Linux x86-64."""

    def dependencies(self) -> list[str]:
        return ["numpy>=2.0"]  # the kernels' generated header is made from NumPy dtypes

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from gpu_npu.backends.kernels import Program
        from gpu_npu.backends.toolchain import prebuild_cpu, prebuilt

        if not prebuilt.possible():
            raise OSError("prebuilt CPU libraries are for Linux x86-64; leave HATCH_BUILD_HOOK_ENABLE_CUSTOM out for a wheel without them")
        self._folder = tempfile.TemporaryDirectory(prefix="gpu-npu-wheel-")
        program = Program.of_project()
        for level in prebuilt.LEVELS:
            path = prebuild_cpu(program.sources, program.unit, program.kernels, level, Path(self._folder.name))
            build_data["force_include"][str(path)] = f"gpu_npu/{prebuilt.folder().name}/{path.name}"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._folder.cleanup()
