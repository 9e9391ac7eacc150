"""One contract, all devices; then what each device has of its own."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import subprocess
import sys
import time
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import TOY, WIDE, program

from gpu_npu.backends.devices import cuda
from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.cuda import CudaDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.backends.executor import DevicePlatform
from gpu_npu.backends.layout import STATE_DTYPE
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.backends.toolchain import driver
from gpu_npu.connectome import Connectome
from gpu_npu.errors import BackendUnavailableError, DeviceMemoryError, KernelError, NetworkError

MAKERS: dict[str, Callable[[], Device]] = {
    "cpu-1": lambda: CpuDevice(workers=1, program=program()),
    "cpu-2": lambda: CpuDevice(workers=2, program=program()),
    "emulated": lambda: EmulatedDevice(program=program()),
    "emulated-shuffled": lambda: EmulatedDevice(block=96, blocks=5, seed=3, program=program()),
    "emulated-at-once": lambda: EmulatedDevice(asynchronous=False, program=program()),
    "cuda": lambda: CudaDevice(program=program()),
}


@pytest.fixture(params=MAKERS)
def device(request: pytest.FixtureRequest, gpu_mode: str) -> Device:
    if request.param != "cuda":
        return MAKERS[request.param]()
    if gpu_mode == "never":
        pytest.skip("--gpu=never")
    try:
        return MAKERS["cuda"]()
    except BackendUnavailableError as error:
        if gpu_mode == "require":
            raise
        pytest.skip(f"no GPU: {error}")


def put(device: Device, host: Any) -> Any:
    array = device.alloc(host.size, host.dtype)
    device.upload(array, host)
    return array


def get(device: Device, array: Any) -> Any:
    host = np.empty(array.size, array.dtype)
    device.download(array, host)
    device.wait()
    return host


def numbers(count: int, first: int = 0) -> Any:
    return np.arange(first, first + count, dtype=np.uint32)


# -- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.uint16, np.uint32, np.uint64, np.int64, np.float32, TOY])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_arrays_start_as_zeros(device: Device, dtype: Any, count: int) -> None:
    array = device.alloc(count, dtype)
    assert (array.size, array.dtype, array.nbytes) == (count, np.dtype(dtype), count * np.dtype(dtype).itemsize)
    assert device.allocated == array.nbytes
    assert get(device, array).tobytes() == bytes(array.nbytes)
    assert count == 0 or device.address(array) % 64 == 0
    device.free(array)
    assert device.allocated == 0


def test_transfers(device: Device) -> None:
    a, b = put(device, numbers(10)), device.alloc(6, np.uint32)
    device.upload(a, numbers(3, 100), at=4)
    device.copy(b, 1, a, 3, 4)
    device.copy(a, 0, a, 8, 2)
    part = np.zeros(2, np.uint32)
    device.download(b, part, at=2)
    device.upload(a, numbers(0), at=10)
    device.copy(b, 6, a, 10, 0)
    assert get(device, b).tolist() == [0, 3, 100, 101, 102, 0]
    assert get(device, a).tolist() == [8, 9, 2, 3, 100, 101, 102, 7, 8, 9]
    assert part.tolist() == [100, 101]
    device.zero(a)
    assert not get(device, a).any()


def test_memory_that_kernels_write_and_the_host_reads(device: Device) -> None:
    """What two launches leave in two mapped arrays, each looked at when its own launch is over."""
    pairs = [device.mapped(5, np.uint32) for _ in range(2)]
    assert all(host.tolist() == [0] * 5 for _, host in pairs)
    marks = []
    for times, (array, _) in enumerate(pairs, 1):
        device.launch([Launch("increment", (array, np.uint64(5)))] * times)
        marks.append(device.mark())
    for times, (mark, (_, host)) in enumerate(zip(marks, pairs, strict=True), 1):
        device.wait(mark)
        assert host.tolist() == [times] * 5
    device.wait(marks[0])  # once more


def test_arrays_of_a_moment(device: Device) -> None:
    """Uploaded, allocated and fetched; what is empty among them; all are given back, however the moment ends."""
    before = device.allocated
    pairs, nothing = np.arange(6, dtype=np.uint16).reshape(3, 2), np.zeros(0, np.float32)
    with device.scratch() as scratch:
        array, empty, *more = scratch.uploaded(pairs), scratch.uploaded(nothing), *scratch.alloc_all([(3, np.uint8), (0, np.uint64)])
        assert device.fetched(array, 3, 2).tolist() == [2, 3, 4]
        assert device.fetched(empty, 0).size == 0
        assert [one.nbytes for one in more] == [3, 0]
        assert device.allocated == before + 12 + 3
    assert device.allocated == before
    with pytest.raises(DeviceMemoryError), device.scratch() as scratch:
        scratch.uploaded(pairs)
        scratch.alloc(2**60, np.uint8)
    assert device.allocated == before
    kept = device.alloc(3, np.uint8)
    device.release(kept, None)
    assert device.allocated == before


def test_launches_run_in_order_and_see_each_other(device: Device) -> None:
    values = put(device, numbers(3000))
    one = Launch("increment", (values, np.uint64(3000)))
    device.launch([one, one, Launch("increment", (values, np.uint64(10)), single=True), one])
    device.launch([])
    device.launch((one,))
    expected = numbers(3000) + 4
    expected[:10] += 1
    assert np.array_equal(get(device, values), expected)


def test_a_launch_sees_what_all_threads_of_the_one_before_wrote(device: Device) -> None:
    """Every thread reads what its neighbour, on another worker, wrote in the launch before."""
    n, rounds = 64, 300
    a, b = put(device, numbers(n)), device.alloc(n, np.uint32)
    there, back = Launch("neighbour", (a, b, np.uint64(n))), Launch("neighbour", (b, a, np.uint64(n)))
    alone = Launch("neighbour", (b, a, np.uint64(n)), single=True)
    device.launch([there, back, there, alone] * (rounds // 4))
    assert np.array_equal(get(device, a), (numbers(n) + rounds) % n + rounds)


def test_values_are_read_at_the_launch(device: Device) -> None:
    """A Launch is made once; what its arrays hold may change from launch to launch."""
    source, out = put(device, numbers(100)), device.alloc(100, np.uint32)
    toy, add = np.zeros(1, TOY), np.array([7], np.uint32)
    toy["n"], toy["in"], toy["out"], toy["scale"] = 100, device.address(source), device.address(out), 1
    launch = Launch("by_value", (toy, add, np.float32(2), np.uint64(1 << 32)))
    device.launch([launch])
    add[0], toy["n"] = 1000, 50
    device.launch([launch])
    add[0], toy["n"] = 5, 0
    assert get(device, out).tolist() == [*range(1003, 1053), *range(60, 110)]


def test_null_pointers(device: Device) -> None:
    out, something = device.alloc(1, np.uint8), device.alloc(1, np.uint32)
    device.launch([Launch("is_null", (None, out))])
    assert get(device, out)[0] == 1
    device.launch([Launch("is_null", (something, out))])
    assert get(device, out)[0] == 0


def test_single_is_one_block(device: Device) -> None:
    out = device.alloc(2, np.uint32)
    device.launch([Launch("extent", (out,), single=True)])
    assert get(device, out)[0] == 1


def test_bytes_take_any_array(device: Device) -> None:
    device.launch([Launch("is_null", (None, device.alloc(4, np.bool_))), Launch("is_null", (None, device.alloc(2, np.float32)))])
    device.wait()


def test_subnormal_numbers_are_kept(device: Device) -> None:
    tiny, half = np.full(100, 2e-39, np.float32), np.full(100, 0.5, np.float32)
    out = device.alloc(100, np.float32)
    device.launch([Launch("multiply", (put(device, tiny), put(device, half), out, np.uint64(100)))])
    assert (get(device, out) == np.float32(1e-39)).all()


@pytest.mark.parametrize(
    ("kernel", "arguments", "message"),
    [
        ("nothing", lambda d: (), "there is no kernel 'nothing'"),
        ("increment", lambda d: (d.alloc(3, "u4"),), "increment takes 2 arguments, not 1"),
        ("increment", lambda d: (d.alloc(3, "f4"), np.uint64(3)), r"argument 0: the kernel takes \*u4 \(8 bytes\), not .*float32"),
        ("increment", lambda d: (d.alloc(3, "u4"), np.uint32(3)), r"argument 1: the kernel takes u8 \(8 bytes\), not uint32"),
        ("increment", lambda d: (d.alloc(3, "u4"), 3), "argument 1: the kernel takes u8"),
        ("increment", lambda d: (d.alloc(3, "u4"), np.int64(3)), "argument 1: the kernel takes u8"),
        ("increment", lambda d: (d.alloc(3, "u4"), np.zeros(2, np.uint64)), "argument 1: the kernel takes u8"),
        ("increment", lambda d: (d.alloc(3, "u4"), None), "argument 1: the kernel takes u8"),
        ("increment", lambda d: (np.zeros(3, np.uint32), np.uint64(3)), "argument 0: the kernel takes"),
        ("by_value", lambda d: (np.zeros(1, "u8,u8"), np.uint32(0), np.float32(0), np.uint64(0)), r"argument 0: the kernel takes state \("),
        ("by_value", lambda d: (np.zeros(1, TOY), np.uint32(0), np.uint32(0), np.uint64(0)), "argument 2: the kernel takes f4"),
    ],
)
def test_arguments_are_checked_before_anything_runs(device: Device, kernel: str, arguments: Any, message: str) -> None:
    values = put(device, numbers(3))
    with pytest.raises(KernelError, match=message):
        device.launch([Launch("increment", (values, np.uint64(3))), Launch(kernel, arguments(device))])
    assert get(device, values).tolist() == [0, 1, 2]


def test_freed_and_foreign_arrays_are_refused(device: Device) -> None:
    array = device.alloc(3, np.uint32)
    launch = Launch("increment", (array, np.uint64(3)))
    device.launch([launch])  # remembered, and forgotten when the array goes
    device.free(array)
    for use in (
        lambda: device.launch([launch]),
        lambda: device.free(array),
        lambda: device.address(array),
        lambda: device.zero(array),
        lambda: device.upload(array, numbers(3)),
        lambda: device.download(np.zeros(3, np.uint32), numbers(3)),
    ):
        with pytest.raises(KernelError):
            use()


def test_transfers_are_checked(device: Device) -> None:
    a, b = device.alloc(5, np.uint32), device.alloc(5, np.float32)
    frozen = numbers(3)
    frozen.flags.writeable = False
    for use, message in (
        (lambda: device.upload(a, numbers(3), at=3), "items 3 to 6 of an array of 5"),
        (lambda: device.upload(a, numbers(3), at=-1), "items -1 to 2"),
        (lambda: device.upload(a, np.zeros(3, np.float32)), "transfer between uint32 and host float32"),
        (lambda: device.download(a, numbers(10)[::2]), "contiguous: False"),
        (lambda: device.download(a, frozen), "read-only"),
        (lambda: device.copy(a, 0, b, 0, 3), "copy from float32 to uint32"),
        (lambda: device.copy(a, 0, a, 2, 3), "the ranges overlap"),
        (lambda: device.copy(a, 4, a, 0, 2), "items 4 to 6 of an array of 5"),
    ):
        with pytest.raises(KernelError, match=message):
            use()
    assert not get(device, a).any()


def test_more_memory_than_there_is(device: Device) -> None:
    before = device.allocated
    free, total = device.free_and_total()
    assert 0 < free <= total
    with pytest.raises(DeviceMemoryError, match=rf"{2**60:,} bytes needed, [\d,]+ free"):
        device.alloc(2**58, np.uint32)
    assert device.allocated == before


def test_views_for_users(device: Device) -> None:
    array = put(device, numbers(10))
    view = device.view(array, 2, 5)
    device.wait()
    if device.name == "cuda":
        assert view.get().tolist() == [2, 3, 4, 5, 6]
    else:
        assert np.from_dlpack(view).tolist() == [2, 3, 4, 5, 6]
    with pytest.raises(KernelError):
        device.view(array, 8, 3)


def test_arrays_on_the_device_are_adopted(device: Device) -> None:
    view = device.view(put(device, numbers(10)), 3, 4)
    device.wait()
    adopted = device.adopt(view, np.uint32)
    copy = device.alloc(4, np.uint32)
    device.copy(copy, 0, adopted, 0, 4)
    assert get(device, copy).tolist() == [3, 4, 5, 6]
    with pytest.raises(NetworkError, match="uint32"):
        device.adopt(view, np.float32)
    assert device.adopt([1, 2], np.uint32) is None


def test_host_arrays_are_adopted_by_the_cpu_alone(device: Device) -> None:
    host = numbers(3)
    adopted = device.adopt(host, np.uint32)
    if device.name != "cpu":
        assert adopted is None
        return
    device.launch([Launch("increment", (adopted, np.uint64(3)))])
    assert host.tolist() == [1, 2, 3]


def test_close(device: Device) -> None:
    device.alloc(10, np.uint32)
    device.close()
    assert device.allocated == 0


# -- the emulated device ---------------------------------------------------------------------------------------------


def test_nothing_happens_before_wait() -> None:
    device = EmulatedDevice(program=program())
    host = numbers(4)
    array = put(device, host)
    host[:] = 50  # too early: the upload has not read it yet
    back = np.zeros(4, np.uint32)
    device.launch([Launch("increment", (array, np.uint64(4)))])
    device.download(array, back)
    assert (back == 0xCDCDCDCD).all()
    device.wait()
    assert back.tolist() == [51] * 4


def test_at_once_means_at_once() -> None:
    device = EmulatedDevice(asynchronous=False, program=program())
    host = numbers(4)
    array = put(device, host)
    host[:] = 50
    back = np.zeros(4, np.uint32)
    device.download(array, back)
    assert back.tolist() == [0, 1, 2, 3]


def test_what_is_queued_may_use_an_array_that_was_freed() -> None:
    device = EmulatedDevice(program=program())
    array, back = put(device, numbers(4)), np.zeros(4, np.uint32)
    device.download(array, back)
    device.free(array)
    device.wait()
    assert back.tolist() == [0, 1, 2, 3]


def test_memory_limit() -> None:
    device = EmulatedDevice(memory_limit=1000, program=program())
    first = device.alloc(100, np.uint64)
    with pytest.raises(DeviceMemoryError, match="208 bytes needed, 200 free"):
        device.alloc(26, np.uint64)
    device.free(first)
    device.alloc(125, np.uint64)


@pytest.mark.parametrize(("kernel", "side"), [("out_of_bounds", "after"), ("before_the_start", "before")])
def test_writes_outside_an_array_are_seen(kernel: str, side: str) -> None:
    device = EmulatedDevice(block=32, blocks=1, program=program())
    device.launch([Launch(kernel, (device.alloc(31, np.uint32),))])
    with pytest.raises(KernelError, match=f"something wrote {side} an array of 31 uint32"):
        device.wait()


def test_views_of_other_devices_are_host_memory_or_refused() -> None:
    one, other = EmulatedDevice(program=program()), EmulatedDevice(program=program())
    with pytest.raises(KernelError, match="not an array of this device"):
        other.adopt(one.view(one.alloc(3, np.uint32), 0, 3), np.uint32)


# -- the CPU device --------------------------------------------------------------------------------------------------


def test_the_table_of_kernels_must_be_what_was_compiled() -> None:
    wrong = program()
    kernels = dict(wrong.kernels)
    kernels["increment"] = type(kernels["increment"])("increment", "toy.cu", 128, False, ("*u4", "u4"))
    with pytest.raises(KernelError, match=r"increment takes \['\*u4', 'u8'\], and the table of kernels says"):
        CpuDevice(program=type(wrong)(wrong.sources, wrong.unit, kernels))


def test_workers() -> None:
    with pytest.raises(NetworkError, match="workers=0"):
        CpuDevice(workers=0, program=program())
    assert "3 workers" in CpuDevice(workers=3, program=program()).description


def test_pools_grow_and_shrink_between_launches() -> None:
    devices = [CpuDevice(workers=workers, program=program()) for workers in (2, 5, 1, 3)]
    arrays = [device.alloc(50, np.uint32) for device in devices]
    for _ in range(200):
        for device, array in zip(devices, arrays, strict=True):
            one = Launch("increment", (array, np.uint64(50)))
            device.launch([one, Launch("increment", (array, np.uint64(50)), single=True), one])
    for device, array in zip(devices, arrays, strict=True):
        assert (get(device, array) == 600).all()


FORKED = """
import os, sys
import numpy as np
from toy import program
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.devices.cpu import CpuDevice
device = CpuDevice(workers=2, program=program())
array = device.alloc(1000, np.uint32)
launch = [Launch("increment", (array, np.uint64(1000)))]
device.launch(launch)
child = os.fork()
device.launch(launch)
good = (array == 2).all()
if not child:
    os._exit(0 if good else 3)
sys.exit(not good or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# A library built with -ffast-math turns subnormals off in the thread that loads it; threads inherit that.
FLUSHED = """
import ctypes, subprocess, sys
import numpy as np
open(sys.argv[1] + "/fast.c", "w").write("int nothing;")
subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-ffast-math", sys.argv[1] + "/fast.c", "-o", sys.argv[1] + "/fast.so"], check=True)
from toy import program
from gpu_npu.backends.devices.base import Launch
from gpu_npu.backends.devices.cpu import CpuDevice
ctypes.CDLL(sys.argv[1] + "/fast.so")
tiny, half = np.full(100, 2_000_000, np.uint32).view(np.float32), np.full(100, 0.5, np.float32)
bits = lambda x: x.view(np.uint32)
assert not bits(tiny * half).any(), "the flush is not on: this test tests nothing"
device = CpuDevice(workers=2, program=program())
a, b, out = (device.alloc(100, np.float32) for _ in range(3))
device.upload(a, tiny)
device.upload(b, half)
device.launch([Launch("multiply", (a, b, out, np.uint64(100)))])
assert (bits(out) == 1_000_000).all()
assert not bits(tiny * half).any(), "the caller's mode was changed"
"""


@pytest.mark.parametrize("script", [FORKED, FLUSHED], ids=["after a fork", "with subnormals flushed in the caller"])
def test_workers_in_hard_places(script: str, tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[1] / "helpers"
    lines = f"import sys; sys.path[:0] = [{str(folder.parents[1])!r}, {str(folder)!r}]\n" + script
    done = subprocess.run([sys.executable, "-c", lines, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# -- the CUDA device, without a GPU ----------------------------------------------------------------------------------


def test_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for version, gpus, words in (
        ((13, 1), ("a GPU",), r"CUDA needs CuPy, .*: .* install --editable '.*\[cuda13\]'$"),
        ((12, 4), ("a GPU",), r"CUDA needs CuPy, .*: .* install --editable '.*\[cuda12\]'$"),
        ((11, 8), ("a GPU",), "knows CUDA 11.8, and 12 is the least that is supported: update the driver$"),
        ((13, 1), (), "no GPU can be used: CUDA finds none"),
        (None, (), "^there is no NVIDIA driver on this machine: install one first, or choose another backend$"),
    ):
        answer = None if version is None else (version, gpus)
        monkeypatch.setattr(driver, "ask", lambda answer=answer: answer)
        with pytest.raises(BackendUnavailableError, match=words):
            CudaDevice()


class FakeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class FakeMemory:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def __add__(self, offset: int) -> FakeMemory:
        return FakeMemory(self.ptr + offset)


class FakeCupy(types.ModuleType):
    """The part of CuPy that the device uses; writes down every call."""

    def __init__(self, *, driver: int = 13000, count: int | FakeError = 2) -> None:
        super().__init__("cupy")
        self.calls: list[tuple[Any, ...]] = []
        self.current = [0]
        self.stream = types.SimpleNamespace(ptr=77)

        def note(name: str, result: Any = None) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self.calls.append((name, self.current[-1], *args))
                return result

            return call

        def devices() -> int:
            if isinstance(count, FakeError):
                raise count
            return count

        class Switch:
            def __init__(switch, index: int) -> None:
                switch.index = index

            def __enter__(switch) -> None:
                self.current.append(switch.index)

            def __exit__(switch, *_: object) -> None:
                self.current.pop()

        class Module:
            def load(module, cubin: bytes) -> None:
                self.calls.append(("load", self.current[-1], cubin[:4]))

            def get_function(module, name: str) -> Any:
                function = note(f"run {name}")
                function.ptr = name  # type: ignore[attr-defined]
                return function

        class OutOfMemoryError(MemoryError):
            pass

        def event(*, disable_timing: bool) -> Any:
            assert disable_timing
            return types.SimpleNamespace(record=note("record"), synchronize=note("synchronise event"))

        addresses = iter(range(4096, 10**9, 4096))
        runtime = types.SimpleNamespace(
            CUDARuntimeError=FakeError, driverGetVersion=lambda: driver, runtimeGetVersion=lambda: 13020, getDeviceCount=devices,
            getDevice=lambda: self.current[-1], memGetInfo=lambda: (10**9, 2 * 10**9), memcpyHostToDevice=1, memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3, memcpyAsync=note("memcpy"), memsetAsync=note("memset"), streamSynchronize=note("synchronise"),
            getDeviceProperties=lambda index: {
                "major": 9, "minor": 0, "name": b"Fake", "multiProcessorCount": 132, "sharedMemPerBlockOptin": 232448,
                "l2CacheSize": 62914560,
            },
        )  # fmt: skip
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Switch, Event=event, get_current_stream=lambda: self.stream,
            driver=types.SimpleNamespace(
                CUDADriverError=FakeError, occupancyMaxActiveBlocksPerMultiprocessor=lambda ptr, block, shared: 1 if shared else 4,
                CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES=1, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                funcGetAttribute=lambda attribute, ptr: 448, funcSetAttribute=note("attribute"),
            ),
            function=types.SimpleNamespace(Module=Module, CPointer=int),
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            alloc=lambda nbytes: FakeMemory(next(addresses)), alloc_pinned_memory=bytearray,
        )  # fmt: skip
        self.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 500)
        self.ndarray = note("ndarray", "a view")


def lies_at(address: int, dtype: str) -> Any:
    """The argument of a launch."""
    return np.frombuffer(ctypes.string_at(address, np.dtype(dtype).itemsize), dtype)[0]


def with_fake(monkeypatch: pytest.MonkeyPatch, **options: Any) -> FakeCupy:
    fake = FakeCupy(**options)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"driver": 0}, "there is no NVIDIA driver"),
        ({"driver": 12040}, r"knows CUDA 12\.4 and this CuPy is for CUDA 13: update the driver, or .* install --editable .*\[cuda12\]'"),
        ({"count": FakeError(35)}, "status 35; update the NVIDIA driver"),
        ({"count": FakeError(100)}, "status 100; check nvidia-smi"),
        ({"count": FakeError(999)}, "CUDA does not start: status 999"),
        ({"count": 0}, "CUDA finds none"),
        ({"count": 2}, "there is no GPU 2: this machine has 2, numbered from 0"),
    ],
)
def test_cuda_says_why_it_does_not_start(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str) -> None:
    with_fake(monkeypatch, **options)
    with pytest.raises(BackendUnavailableError, match=message):
        CudaDevice(2, program=program())


def test_each_cuda_method_is_one_call_on_the_callers_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_fake(monkeypatch)
    device = CudaDevice(1, program=program())
    # 227 KiB a block, less what wide kernels use by themselves
    assert [fake.calls.pop(1) for _ in WIDE] == [("attribute", 1, name, 8, 232000) for name in program().kernels if name in WIDE]
    assert device.description == "GPU 1, Fake, compute capability 9.0"
    assert device.free_and_total() == (10**9 + 500, 2 * 10**9)
    a, b = device.alloc(10, np.uint32), device.alloc(10, np.uint32)
    fake.stream.ptr = 88
    host = numbers(3)
    device.upload(a, host, at=2)
    device.copy(b, 1, a, 5, 4)
    device.download(b, host, at=1)
    toy = np.zeros(1, TOY)
    launches = [
        Launch("by_value", (toy, np.uint32(5), np.array([2], np.float32), np.uint64(9))),
        Launch("increment", (a, np.uint64(10)), single=True),
        Launch("is_null", (None, b)),
        Launch("dynamic_shared_out_of_bounds", (b,)),
    ]
    device.launch(launches)
    device.wait()
    assert device.view(b, 2, 3) == "a view"
    calls = fake.calls
    assert calls[:3] == [("load", 1, b"\x7fELF"), ("memset", 1, 4096, 0, 40, 77), ("memset", 1, 8192, 0, 40, 77)]
    assert calls[3:6] == [
        ("memcpy", 1, 4096 + 8, host.ctypes.data, 12, 1, 88),
        ("memcpy", 1, 8192 + 4, 4096 + 20, 16, 3, 88),
        ("memcpy", 1, host.ctypes.data, 8192 + 4, 12, 2, 88),
    ]
    assert [call[5:] for call in calls[6:10]] == [(0, None, False)] * 3 + [(232000, None, True)]
    assert calls.pop(9)[:4] == ("run dynamic_shared_out_of_bounds", 1, (132,), (128,))
    assert [call[:4] for call in calls[6:9]] == [
        ("run by_value", 1, (4 * 132,), (128,)),
        ("run increment", 1, (1,), (128,)),
        ("run is_null", 1, (4 * 132,), (128,)),
    ]
    assert calls[6][4][0] == toy.ctypes.data  # read where it lies
    assert [lies_at(*each) for each in zip(calls[6][4][1:], ("u4", "f4", "u8"), strict=True)] == [5, 2.0, 9]
    assert [lies_at(address, "u8") for address in (*calls[7][4], *calls[8][4])] == [4096, 10, 0, 8192]
    assert calls[9] == ("synchronise", 1, 88)
    assert calls[10][:4] == ("ndarray", 0, (3,), np.uint32)
    assert calls[10][4].ptr == 8192 + 8
    array, host = device.mapped(5, np.float32)
    assert (array.address, array.size, host.tolist()) == (host.ctypes.data, 5, [0.0] * 5)
    device.wait(device.mark())
    assert calls[11:] == [("record", 1, fake.stream), ("synchronise event", 1)]


def test_cuda_checks_arguments_by_the_cubin(monkeypatch: pytest.MonkeyPatch) -> None:
    with_fake(monkeypatch)
    device = CudaDevice(0, program=program())
    with pytest.raises(KernelError, match=rf"by_value, argument 0: the kernel takes state \({TOY.itemsize} bytes\), not ndarray"):
        device.launch([Launch("by_value", (np.zeros(1, "u8"), np.uint32(0), np.float32(0), np.uint64(0)))])


def test_what_cuda_refuses_is_a_kernel_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_fake(monkeypatch)
    device = CudaDevice(0, program=program())

    def lost(stream: int) -> None:
        raise FakeError(700)

    fake.cuda.runtime.streamSynchronize = lost
    with pytest.raises(KernelError, match="GPU 0, Fake.*: status 700"):
        device.wait()


def test_cuda_memory_that_runs_out_late(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_fake(monkeypatch)
    device = CudaDevice(0, program=program())

    def out(nbytes: int) -> None:
        raise fake.cuda.memory.OutOfMemoryError

    fake.cuda.alloc = out
    with pytest.raises(DeviceMemoryError, match="400 bytes needed"):
        device.alloc(100, np.uint32)
    assert device.allocated == 0


def test_cuda_memory_comes_back_when_a_load_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even while somebody looks at the error, whose traceback holds what was being loaded."""
    fake = with_fake(monkeypatch)
    device = CudaDevice(0, program=program())
    given, alloc = [], fake.cuda.alloc

    def few(nbytes: int) -> Any:
        if len(given) == 20:
            raise fake.cuda.memory.OutOfMemoryError
        memory = alloc(nbytes)
        given.append(weakref.ref(memory))
        return memory

    fake.cuda.alloc = few
    network = Connectome(5, 5)
    with pytest.raises(DeviceMemoryError) as caught:
        DevicePlatform(device).load(network, NetworkShape.of(network))
    gc.collect()
    assert caught.value.__traceback__ is not None and len(given) == 20
    assert [memory() for memory in given] == [None] * 20
    assert device.allocated == 0


def test_cupy_takes_what_the_device_passes() -> None:
    """CuPy's own conversion of kernel arguments, as far as it goes without a GPU: a wrong type is a TypeError there."""
    function_module = pytest.importorskip("cupy.cuda.function", reason="CuPy is not installed")
    from cupy.cuda import runtime

    function = function_module.Function.__new__(function_module.Function)
    stream = types.SimpleNamespace(ptr=0)
    with pytest.raises(TypeError, match="Unsupported type"):
        function((1,), (1,), ("a pointer",), 0, stream)
    if int(runtime.driverGetVersion()) == 0:
        state, few = np.zeros(1, STATE_DTYPE), np.zeros(1, np.uint64)
        pointers = tuple(function_module.CPointer(value.ctypes.data) for value in (state, few, np.zeros(1, np.float32)))

        def seconds(values: tuple[Any, ...]) -> float:
            """Down to what CUDA refuses."""
            times = []
            for _ in range(200):
                start = time.perf_counter()
                with contextlib.suppress(runtime.CUDARuntimeError):
                    function((1,), (1,), values, 0, stream)
                times.append(time.perf_counter() - start)
            return min(times)

        with pytest.raises(runtime.CUDARuntimeError):
            function((1,), (1,), pointers, 0, stream)
        assert seconds(pointers) < 10e-6 < seconds((state, few))
    assert all(hasattr(runtime, name) for name in ("memcpyAsync", "memsetAsync", "streamSynchronize", "memGetInfo", "getDeviceProperties"))
    assert cuda.DLPACK_CUDA == (2, 13)
