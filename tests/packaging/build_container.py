"""Builds the Dockerfile without an engine and without a registry: python tests/packaging/build_container.py FOLDER [options of buildah bud]

As root, with buildah and debootstrap. Both images that the Dockerfile begins with are stood in for by the one system that
debootstrap installs, so CUDA's runtime libraries are not in it; the rest is what the Dockerfile says. Everything lies in
FOLDER, images too; --suite and --mirror are debootstrap's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "debootstrap", "mount")
OF_THE_MACHINE = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""How pip reaches an index from here: lent to the build where it is there, and not kept in an image."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def stages() -> dict[str, str]:
    """Name -> text of each stage of the Dockerfile; the last one, which is built by default, has no name."""
    parts = re.split(r"(?m)^(?=FROM )", dockerfile())[1:]
    return {part.split("\n")[0].partition(" AS ")[2]: part for part in parts}


def base_images() -> list[str]:
    """The images that the Dockerfile begins with: FROM lines that name no stage of its own."""
    text = dockerfile()
    values = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)", text))
    names = [re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], name) for name in re.findall(r"(?m)^FROM (\S+)", text)]
    return [name for name in names if ":" in name]


class Images:
    """Images in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def buildah(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of buildah and what it said. subprocess.CalledProcessError where it fails and `check`."""
        environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
        where = ["--root", str(self._folder / "images"), "--runroot", str(self._folder / "run"), "--storage-driver", "vfs"]
        return subprocess.run(["buildah", *where, *words], env=environment, text=True, check=check, capture_output=True)

    def make_base(self, suite: str, mirror: str | None) -> None:
        """Install a system and name it as each image that the Dockerfile begins with. Nothing where that was done before."""
        first, *others = base_images()
        if self.buildah("inspect", "--type", "image", f"localhost/{first}", check=False).returncode == 0:
            return
        system = self._folder / "system"
        if not (system / "usr").is_dir():
            fetched = ["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, str(system), *([mirror] if mirror else [])]
            subprocess.run(fetched, check=True, stdout=subprocess.DEVNULL)
        container = self.buildah("from", "scratch").stdout.strip()
        place = self.buildah("mount", container).stdout.strip()
        subprocess.run(["cp", "--archive", f"{system}/.", place], check=True)
        self.buildah("umount", container)
        self.buildah("config", "--env", f"PATH={PATH}", "--cmd", "/bin/sh", container)
        self.buildah("commit", "--format", "docker", "--rm", container, f"localhost/{first}")
        for name in others:
            self.buildah("tag", f"localhost/{first}", f"localhost/{name}")

    def build(self, name: str, options: Sequence[str] = (), *, file: Path = ROOT / "Dockerfile") -> subprocess.CompletedProcess[str]:
        """Build a Dockerfile, with the repository as its context. The format is Docker's: OCI's has no HEALTHCHECK."""
        lent = [word for path in OF_THE_MACHINE if Path(path).exists() for word in ("--volume", f"{path}:{path}:ro")]
        line = ["bud", "--format", "docker", "--pull-never", "--tag", name, "--file", str(file), *lent, *options, str(ROOT)]
        return self.buildah(*line, check=False)

    def configuration(self, name: str) -> dict[str, Any]:
        """What an image says of itself: user, entry point, health check."""
        facts: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", name).stdout)["Docker"]["config"]
        return facts

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in a new container of an image, as the user that the image names."""
        container = self.buildah("from", "--pull-never", name).stdout.strip()
        try:
            return self.buildah("run", container, "--", *words, check=False)
        finally:
            self.buildah("rm", container)


def missing() -> str:
    """What stands in the way of a build here; "" where nothing does."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "only root installs a system into a folder"
    return ", ".join(f"{tool} is not installed" for tool in TOOLS if shutil.which(tool) is None)


def this_suite() -> str:
    """The release of this machine, as debootstrap names it."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", default=this_suite())
    parser.add_argument("--mirror")
    arguments, options = parser.parse_known_args()
    if problem := missing():
        parser.exit(1, f"{problem}\n")
    images = Images(arguments.folder.resolve())
    images.make_base(arguments.suite, arguments.mirror)
    built = images.build("gpu-npu", options)
    print(built.stdout, built.stderr, sep="\n")
    if built.returncode:
        parser.exit(built.returncode)
    for command in (["id", "-u"], ["gpu-npu", "doctor"], ["gpu-npu", "run", "seed", "--bursts", "100"]):
        print(images.run("gpu-npu", *command).stdout)


if __name__ == "__main__":
    main()
