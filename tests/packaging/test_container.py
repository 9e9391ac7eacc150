"""The container is built, whole, and what it is for works in it: by buildah, on a system that debootstrap installs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from build_container import Images, base_images, dockerfile, missing, stages, this_suite

from gpu_npu import NPU
from gpu_npu.connectome.generators import seed_example

NAME = "gpu-npu"
BURSTS = 50
FOLDER, OPTIONS = os.environ.get("CONTAINER_FOLDER"), shlex.split(os.environ.get("CONTAINER_OPTIONS", ""))
"""Where images are kept between runs, and options of buildah, such as --volume for the packages of a machine without a network."""


def test_what_stands_in_for_what() -> None:
    assert base_images() == ["ubuntu:24.04", "nvidia/cuda:13.1.1-runtime-ubuntu24.04"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """With the image built from the Dockerfile."""
    if problem := missing():
        pytest.skip(problem)
    images = Images(Path(FOLDER) if FOLDER else tmp_path_factory.mktemp("container"))
    try:
        images.make_base(this_suite(), None)
    except subprocess.CalledProcessError as problem:
        if problem.cmd[0] != "debootstrap" or os.environ.get("CI"):
            raise
        pytest.skip(f"debootstrap finds no packages: {problem}")
    built = images.build(NAME, OPTIONS)
    assert built.returncode == 0, f"{built.stdout[-8000:]}\n{built.stderr[-8000:]}"
    return images


@pytest.mark.long
def test_the_image_says_how_it_is_run(images: Images) -> None:
    facts = images.configuration(NAME)
    assert (facts["User"], facts["Entrypoint"], facts["Cmd"], facts["WorkingDir"]) == ("10001", ["gpu-npu"], ["--help"], "/data")
    assert facts["Healthcheck"]["Test"] == ["CMD", "gpu-npu", "doctor"]


@pytest.mark.long
def test_a_network_runs_in_it(images: Images) -> None:
    """By the library in the wheel, with the spikes that it has here, as a user who is not root and has a cache of his own."""
    done = images.run(NAME, "gpu-npu", "run", "seed", "--bursts", str(BURSTS), "--backend", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    with NPU.from_connectome(seed_example(), backend="cpu") as npu:
        assert facts["digest"] == npu.run(BURSTS, digest=True).digest
    assert "prebuilt x86-64-v" in done.stdout
    no_compiler = " && ".join(f"! command -v {tool}" for tool in ("g++", "cc", "make"))
    done = images.run(NAME, "sh", "-c", f"test $(id -u) = 10001 && test -w /data && test -w ~/.cache/gpu-npu && {no_compiler}")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_its_health_check(images: Images) -> None:
    done = images.run(NAME, "gpu-npu", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["healthy"]
    assert facts["machine"]["cupy"].startswith("cupy-cuda13x ")
    assert facts["machine"]["nvrtc"].startswith("/opt/gpu-npu/lib/")
    assert facts["machine"]["cache"] == "/home/npu/.cache/gpu-npu"


@pytest.mark.long
def test_the_stage_for_profiling(images: Images, tmp_path: Path) -> None:
    """On top of the image that was built. NVIDIA's packages are not in every system: then it ends where it asks for them."""
    first = re.search(r"(?m)^ARG CUDA=.*$", dockerfile())
    assert first
    (tmp_path / "Dockerfile").write_text(f"{first[0]}\nFROM localhost/{NAME} AS runtime\n{stages()['profile']}")
    built = images.build(f"{NAME}:profile", OPTIONS, file=tmp_path / "Dockerfile")
    if built.returncode == 0:
        assert images.configuration(f"{NAME}:profile")["User"] == "10001"
    else:
        assert "Unable to locate package cuda-nsight-systems-13-1" in built.stderr
        assert "Unable to locate package cuda-nsight-compute-13-1" in built.stderr
