"""The laws of the package's structure, held by walking its syntax trees."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gpu_npu"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of a file wherever it stands, relative ones resolved; name "" for `import module`."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((module, alias.name) for alias in node.names)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def ids(path: Path) -> str:
    return name_of(path)


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 15
    assert ("gpu_npu.connectome.settings", "Area") in set(imports(PACKAGE / "connectome" / "sums.py"))


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_only_the_cuda_device_imports_cupy(path: Path) -> None:
    users = {module for module, _ in imports(path) if within(module, "cupy", "cupyx", "cupy_backends")}
    assert not users or path == PACKAGE / "backends" / "devices" / "cuda.py"


def test_importing_the_package_needs_numpy_alone() -> None:
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {*sys.stdlib_module_names, "numpy", "gpu_npu"}:
            raise ModuleNotFoundError(f"import gpu_npu wanted {name}")
sys.meta_path.insert(0, Block())
import gpu_npu, gpu_npu.io, gpu_npu.connectome.generators
npu = gpu_npu.NPU(2, 1, backend="reference")
npu.add_neurons(2)
assert npu.process_burst([0]).neuron_count == 1
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT, env=environment, timeout=120)


GROUND = ("gpu_npu.arrays", "gpu_npu.checks", "gpu_npu.errors", "gpu_npu.objects", "gpu_npu.extras", "gpu_npu.limits")
"""What every room may import."""

ROOMS = {
    "gpu_npu.errors": "",
    "gpu_npu.arrays": "",
    "gpu_npu.objects": "",
    "gpu_npu.checks": "",
    "gpu_npu.extras": "",
    "gpu_npu.limits": "",
    "gpu_npu.connectome": "",
    "gpu_npu.io": "connectome",
    "gpu_npu.genome": "connectome io",
    "gpu_npu.annotate": "",
    "gpu_npu.timing": "",
    "gpu_npu.backends": "",
    "gpu_npu.backends.shape": "connectome",
    "gpu_npu.backends.flight": "",
    "gpu_npu.backends.base": "annotate connectome backends.shape backends.flight",
    "gpu_npu.backends.scheduled": "backends.flight",
    "gpu_npu.backends.layout": "connectome backends.shape",
    "gpu_npu.backends.memory": "connectome backends.shape backends.layout",
    "gpu_npu.backends.kernel_limits": "connectome backends.shape",
    "gpu_npu.backends.kernels": "backends.layout",
    "gpu_npu.backends.toolchain": "backends.kernels",
    "gpu_npu.backends.devices": "backends.kernels backends.toolchain",
    "gpu_npu.backends.executor": "connectome backends.shape backends.flight backends.base backends.scheduled backends.layout"
    " backends.memory backends.kernel_limits backends.devices",
    "gpu_npu.backends.reference": "connectome backends.shape backends.flight backends.base backends.scheduled",
    "gpu_npu.backends.select": "connectome backends.shape backends.base backends.memory backends.kernel_limits backends.devices"
    " backends.executor backends.reference",
    "gpu_npu.npu.sha256": "",
    "gpu_npu.npu.results": "npu.sha256 connectome",
    "gpu_npu.npu.snapshot": "connectome io backends.flight",
    "gpu_npu.npu.sizing": "connectome backends.shape backends.select",
    "gpu_npu.npu": "annotate connectome npu.results npu.snapshot npu.sizing backends.base backends.select backends.shape",
    "gpu_npu.doctor": "connectome npu backends.kernels backends.toolchain",
    "gpu_npu.recordings": "connectome io npu.results",
    "gpu_npu.streams": "connectome genome npu",
    "gpu_npu.engine": "connectome io timing npu streams",
    "gpu_npu": "connectome npu engine",
    "gpu_npu.session": "gpu_npu connectome io recordings",
    "gpu_npu.service": "gpu_npu timing npu streams",
    "gpu_npu.cli": "gpu_npu connectome io genome npu.snapshot npu.sizing doctor recordings streams session service",
    "gpu_npu.__main__": "cli",
    "profiling": "gpu_npu connectome io doctor backends.base backends.kernels backends.toolchain backends.devices backends.executor"
    " backends.reference",
}
"""Room -> what it may import of the package beside the ground floor and itself, from the ground up: a row names rows above
it alone, so no room looks upward. "gpu_npu" is the package's public names. A backend is known by its contract (base, shape) and
by who chooses one (select); what a device is, backends and profiling alone know."""


def full(name: str) -> str:
    return name if name == "gpu_npu" else f"gpu_npu.{name}"


def room_of(module: str) -> str:
    return max((room for room in ROOMS if module == room or (room != "gpu_npu" and within(module, room))), key=len, default="")


def modules_of(imported: tuple[str, str]) -> str:
    """The module of the package that an import reads: `from package import module` reads the module."""
    module, name = imported
    return f"{module}.{name}" if f"{module}.{name}" in NAMES else module


PROFILING = sorted((ROOT / "profiling").glob("*.py"))
NAMES = {name_of(path): path for path in (*MODULES, *PROFILING)}
READS = {
    name: {found for found in map(modules_of, imports(path)) if within(found, "gpu_npu", "profiling")} for name, path in NAMES.items()
}
"""Module -> the modules of the project that it imports, wherever in its text."""


PLATFORMS = {"Platform", "DevicePlatform", "ReferencePlatform", "Tuning", "STRATEGIES"}
DEVICES = {"Device", "CpuDevice", "CudaDevice", "EmulatedDevice", "Launch"}
PROGRAMS = {"Program", "Kernel", "BLOCKS", "kernels", "toolchain"}
"""What profiling knows beside public names: what a platform, a device and a program are, and what compiles one."""


@pytest.mark.parametrize("path", PROFILING, ids=ids)
def test_profiling_knows_platforms_devices_and_programs(path: Path) -> None:
    assert {name for module, name in imports(path) if within(module, "gpu_npu.backends")} <= PLATFORMS | DEVICES | PROGRAMS


@pytest.mark.parametrize("module", NAMES)
def test_a_room_imports_what_its_law_names(module: str) -> None:
    room = room_of(module)
    assert room, f"{module} is in no room; give it a row in ROOMS"
    allowed = [full(name) for name in ROOMS[room].split()]
    for found in sorted(READS[module]):
        public = found == "gpu_npu" and "gpu_npu" in allowed
        below = within(found, *GROUND, *(name for name in allowed if name != "gpu_npu"))
        assert public or below or room_of(found) == room, f"{module} imports {found}"


def test_no_room_looks_upward() -> None:
    rooms = list(ROOMS)
    for place, (room, names) in enumerate(ROOMS.items()):
        for name in names.split():
            assert room_of(full(name)) in rooms[:place], f"{room} may not import {name}, which is above it"


def test_imports_make_no_circle() -> None:
    left = {module: reads & set(NAMES) - {module} for module, reads in READS.items()}
    while free := [module for module, reads in left.items() if not reads & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"circles among {sorted(left)}"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) not in GROUND], ids=ids)
def test_exceptions_dtypes_and_checks_of_numbers_have_one_home(path: Path) -> None:
    tree = ast.parse(path.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [node.name for node in classes if any(ast.unparse(base).endswith("Error") for base in node.bases)]
    calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"]
    assert not [call for call in calls if call.endswith(("bool)", "bool_))", "np.integer))", "np.floating))"))]
    assigned = {ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)}
    assert not assigned & {f"NDArray[np.{dtype}]" for dtype in ("uint8", "uint16", "uint32", "uint64", "int64", "float32", "bool_", "intp")}


def test_the_npu_has_no_clock_thread_or_file() -> None:
    forbidden = ("time", "datetime", "threading", "asyncio", "multiprocessing", "concurrent", "os", "io", "pathlib", "shutil")
    a_lock = {("threading", "RLock"), ("threading", "get_ident")}
    files = [file for file in (PACKAGE / "npu").glob("*.py") if file.name != "snapshot.py"]  # which becomes a file
    assert len(files) > 8
    for file in files:
        assert not [module for module, name in imports(file) if within(module, *forbidden) and (module, name) not in a_lock]
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ("open", "print", "input")]


OUTSIDE = ("cli", "engine", "recordings", "service", "session", "streams", "timing")
AROUND = [*PROFILING, *(path for path in MODULES if within(name_of(path), *map(full, OUTSIDE)))]
"""What is built on the NPU."""


@pytest.mark.parametrize("path", AROUND, ids=ids)
def test_what_is_built_on_the_npu_uses_public_names_alone(path: Path) -> None:
    assert len(AROUND) > 10
    assert not [name for module, name in imports(path) if within(module, "gpu_npu") and name.startswith("_")]
    attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    reached = [node.value for node in attributes if node.attr.startswith("_") and not node.attr.endswith("__")]
    assert [ast.unparse(value) for value in reached if ast.unparse(value) not in ("self", "cls", "super()")] == []


MAY_LOOK_AT_THE_CLOCK = {
    "gpu_npu.timing": "the clock of the engine",
    "gpu_npu.cli": "what a user waits for",
    "gpu_npu.session.run": "a run tells how long its bursts took, and listens for its end every tenth of a second",
    "gpu_npu.service.server": "waits for its socket",
    "gpu_npu.streams.connections": "holds floods up; no burst depends on it",
    "gpu_npu.backends": "phases are timed where they run",
}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_there_is_one_clock(path: Path) -> None:
    clocks = [module for module, _ in imports(path) if within(module, "time", "datetime", "sched")]
    assert not clocks or within(name_of(path), *MAY_LOOK_AT_THE_CLOCK)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_global_state_and_nothing_done_at_import(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for statement in tree.body:
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        guard = isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        assert docstring or guard or isinstance(statement, allowed), f"line {statement.lineno}: {ast.unparse(statement)[:80]}"


MAY_ASK_THE_ENVIRONMENT = {
    "gpu_npu.backends.toolchain": "where compilers and the cache of built kernels are; what they compute is the same",
}


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_environment_variable_changes_a_result(path: Path) -> None:
    attributes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    asks = [node for node in attributes if node.attr in ("environ", "getenv")]
    assert not asks or within(name_of(path), *MAY_ASK_THE_ENVIRONMENT)


MAY_WRITE_FILES = {
    "gpu_npu.io.atomic": "where every file is opened that is written",
    "gpu_npu.backends.toolchain": "the cache of built kernels, and the compiler's folder",
}


WRITERS = ("tempfile.", "shutil.copy", "shutil.move", "os.open", "os.fdopen", "os.replace", "os.rename", "os.link", "os.mk")
WRITING_METHODS = ("write_text", "write_bytes", "tofile", "memmap", "touch", "mkdir", "rename", "symlink_to", "hardlink_to")


def writes(call: ast.Call) -> bool:
    """Whether a call opens a file for writing, makes or renames one."""
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    if function.startswith(WRITERS) or name in WRITING_METHODS:
        return True
    if name in ("save", "savez", "savez_compressed", "savetxt") and function.startswith("np."):
        return ast.unparse(call.args[0]) != "file"
    modes = [*call.args[: 2 if function == "open" else 1], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return name == "open" and any(isinstance(m, ast.Constant) and set(str(m.value)) & set("wax+") and len(str(m.value)) < 4 for m in modes)


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_files_are_written_in_one_place(path: Path) -> None:
    """So that no output escapes its rule. What `replacing` and its like have opened may be written to anywhere."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    found = [f"line {call.lineno}: {ast.unparse(call)[:80]}" for call in calls if writes(call)]
    assert not found or within(name_of(path), *MAY_WRITE_FILES)


def test_what_writes_is_seen() -> None:
    for line in ("open(p, 'w')", "open(p, mode='ab')", "p.open('r+b')", "os.open(p, 1)", "np.save(path, a)", "p.write_text(t)"):
        call = ast.parse(line, mode="eval").body
        assert isinstance(call, ast.Call) and writes(call)
