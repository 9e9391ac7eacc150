"""The CPU builds keep CUDA's promises, and the emulated one finds what breaks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sanitized import run_sanitized
from toy import TOY, program

from gpu_npu.backends.devices.base import Device, Launch
from gpu_npu.backends.devices.cpu import CpuDevice
from gpu_npu.backends.devices.emulated import EmulatedDevice
from gpu_npu.errors import KernelError

ONE_WARP = {"block": 32, "blocks": 1}
SHAPES = ({"block": 32, "blocks": 1, "workers": 1}, {"block": 64, "blocks": 3}, {"block": 96, "blocks": 7}, {"block": 1024, "blocks": 2})
SEEDS = (0, 1, 2, 12345)


def emulated(**options: Any) -> EmulatedDevice:
    return EmulatedDevice(program=program(), **options)


def run(device: Device, kernel: str, *args: Any) -> list[Any]:
    """Launch with host arrays (copied to the device and back) and scalars; the arrays as the kernel left them."""
    on_device = [device.alloc(a.size, a.dtype) if isinstance(a, np.ndarray) else a for a in args]
    for array, host in zip(on_device, args, strict=True):
        if isinstance(host, np.ndarray):
            device.upload(array, host)
    device.launch([Launch(kernel, tuple(on_device))])
    results = [np.empty_like(a) for a in args if isinstance(a, np.ndarray)]
    for result, array in zip(results, (a for a, h in zip(on_device, args, strict=True) if isinstance(h, np.ndarray)), strict=True):
        device.download(array, result)
    device.wait()
    return results


@pytest.fixture(params=[None, *SHAPES], ids=lambda shape: "flat" if shape is None else f"{shape['blocks']}x{shape['block']}")
def devices(request: pytest.FixtureRequest) -> list[Device]:
    """The flat build with 1 and 2 workers, or one shape of the emulated build under several schedules."""
    if request.param is None:
        return [CpuDevice(workers=workers, program=program()) for workers in (1, 2, 5)]
    return [emulated(seed=seed, **request.param) for seed in SEEDS]


def test_atomics(devices: list[Device]) -> None:
    values = np.random.default_rng(1).integers(1, 1000, 3000, dtype=np.uint32)
    values[77] = 3
    wide = values.astype(np.uint64) << np.uint64(32) | values

    def expected(v: np.ndarray[Any, Any]) -> list[int]:
        assert v.dtype.kind in "iu"
        first = v.dtype.type(-1 if v.dtype.kind == "i" else np.iinfo(v.dtype).max)
        three = v[77]
        bits = np.bitwise_or.reduce(v), np.bitwise_and.reduce(v, initial=first), np.bitwise_xor.reduce(v)
        return [v.sum(dtype=v.dtype), *bits, v.min(), v.max(), three, v.sum(dtype=v.dtype)]

    for device in devices:
        cells = [np.zeros(8, dtype) for dtype in (np.int32, np.uint32, np.uint64)]
        for cell in cells:
            cell[2] = cell[4] = np.iinfo(cell.dtype).max
        cells[0][2] = -1
        i, u, _, __ = run(device, "atomics", *cells[:2], cells[2], values, np.uint64(values.size))
        wide_cells = run(device, "atomics", *cells[:2], cells[2], values, np.uint64(values.size))[2]
        assert i.tolist() == expected(values.astype(np.int32))
        assert u.tolist() == expected(values)
        exchanged = wide_cells[6]  # the 64-bit value is never 3
        assert exchanged == 0
        assert [x for k, x in enumerate(wide_cells.tolist()) if k != 6] == [x for k, x in enumerate(expected(wide)) if k != 6]


def test_intrinsics(devices: list[Device]) -> None:
    (out,) = run(devices[0], "intrinsics", np.zeros(21, np.uint32))
    float_bits = [int(np.float32(x).view(np.uint32)) for x in (1.0, -(2**62) - 1, 2**64 - 1)]
    expected = [8, 20, 5, 25, 41, 23, 3, 7, float_bits[0], 5, 4, float_bits[1], float_bits[2], 2, 0, 2**32 - 1, 2**31, 2, 7, 8, 6]
    assert out.tolist() == expected


def test_a_scan_over_warps_and_blocks(devices: list[Device]) -> None:
    n = 5000
    flag = (np.random.default_rng(2).random(n) < 0.3).astype(np.uint32)
    for device in devices:
        _, out, count = run(device, "block_scan", flag, np.full(n, 2**32 - 1, np.uint32), np.zeros(1, np.uint32), np.uint64(n))
        assert np.array_equal(np.sort(out[: count[0]]), np.flatnonzero(flag))
        assert (out[count[0] :] == 2**32 - 1).all()


def test_no_fused_multiply_add(devices: list[Device]) -> None:
    a, b, c = np.random.default_rng(3).random((3, 4000), dtype=np.float32)
    out = run(devices[0], "multiply_add", a, b, -c, np.zeros(4000, np.float32), np.uint64(4000))[3]
    assert np.array_equal(out, a * b - c)


@pytest.mark.parametrize("seed", SEEDS)
def test_warps(seed: int) -> None:
    values = np.arange(256, dtype=np.int32)
    _, sums = run(emulated(block=128, blocks=2, seed=seed), "warp_sums", values, np.zeros(8, np.int32))
    assert np.array_equal(sums, values.reshape(8, 32).sum(1))

    lane = np.arange(32)
    out = run(emulated(**ONE_WARP, seed=seed), "shuffles", np.zeros(256, np.int32))[0].reshape(32, 8).T
    assert (out[0] == 5).all()
    assert np.array_equal(out[1], lane // 8 * 8 + 3)
    assert np.array_equal(out[2], np.where(lane >= 3, lane - 3, lane))
    assert np.array_equal(out[3], np.where(lane % 16 + 3 < 16, lane + 3, lane))
    assert np.array_equal(out[4], lane ^ 9)
    assert (out[5].view(np.uint32) == sum(1 << i for i in range(0, 32, 3))).all()
    assert (out[6] == 1).all()
    assert (out[7] == 3).all()

    (halves,) = run(emulated(**ONE_WARP, seed=seed), "divergent_halves", np.zeros(32, np.int32))
    assert (halves[:16] == 30).all()
    assert halves[16:].tolist() == [1000 + sum(i ^ d for d in (8, 4, 2, 1)) for i in range(16, 32)]


@pytest.mark.parametrize("seed", SEEDS)
def test_threads_that_left_hold_no_barrier(seed: int) -> None:
    (out,) = run(emulated(block=64, blocks=1, seed=seed), "early_exit", np.zeros(64, np.int32))
    assert np.array_equal(out[:40], 39 - np.arange(40) + 100 * 20 + 10000)
    assert not out[40:].any()


def test_schedules() -> None:
    """0 is index order; a seed is a schedule that can be had again; another seed, and another launch, is another one."""

    def orders(seed: int) -> list[list[int]]:
        device = emulated(block=256, blocks=1, seed=seed)
        return [run(device, "order_of_threads", np.zeros(1, np.uint32), np.zeros(256, np.uint32))[1].tolist() for _ in range(2)]

    assert orders(0) == [list(range(256))] * 2
    assert orders(1) == orders(1)
    assert len({tuple(order) for seed in (0, 1, 2) for order in orders(seed)}) == 5
    assert sorted(orders(1)[0]) == list(range(256))


@pytest.mark.parametrize("seed", [0, 5])
def test_all_blocks_meet(seed: int) -> None:
    """Blocks of a wide kernel live at once, each on a thread of its own, and see what all wrote before they met."""
    device = EmulatedDevice(block=40, blocks=3, seed=seed, program=program())
    cell, seen, arrived = device.alloc(50, np.uint32), device.alloc(150, np.uint32), device.alloc(1, np.uint64)
    device.launch([Launch("meet_in_rounds", (cell, seen, arrived, np.uint64(50)))] * 2)
    assert (device.fetched(cell, 50) == 2 * 120).all()
    assert (device.fetched(seen, 150) == 2 * 120).all()


def test_a_block_that_never_comes_holds_nobody() -> None:
    device = EmulatedDevice(block=32, blocks=3, program=program())
    out, arrived = device.alloc(1, np.uint32), device.alloc(1, np.uint64)
    device.launch([Launch("deadlock_of_one_block", (out, arrived))])
    with pytest.raises(KernelError, match="deadlock in block 1: 32 of 32 threads never finish"):
        device.wait()


def test_a_deadlock_is_reported_and_leaves_the_device_usable() -> None:
    device = emulated(**ONE_WARP)
    with pytest.raises(KernelError, match=r"deadlock in block 0: 32 of 32 threads never finish; thread \d+ waits at __\w+;"):
        run(device, "deadlock", np.zeros(1, np.int32))
    test_warps(0)
    assert (run(device, "increment", np.zeros(9, np.uint32), np.uint64(9))[0] == 1).all()


def test_a_thread_outside_its_own_mask_is_reported() -> None:
    with pytest.raises(KernelError, match=r"__ballot_sync: thread \d+ is not named in its own mask"):
        run(emulated(**ONE_WARP), "wrong_mask", np.zeros(32, np.int32))


@pytest.mark.parametrize("shared", [0, 40, 4096])
def test_dynamic_shared_memory(shared: int) -> None:
    """As long as the device says, a block's own, and not zero at first."""
    values = np.random.default_rng(4).integers(0, 1000, 3000, dtype=np.uint32)
    for shape in SHAPES:
        device = emulated(shared=shared, seed=1, **shape)
        _, counts, nbytes = run(device, "shared_histogram", values, np.zeros(1024, np.uint32), np.zeros(1, np.uint32), np.uint64(3000))
        assert nbytes[0] == shared
        expected = np.bincount(values % max(shared // 4, 1), minlength=1024) if shared else np.zeros(1024)
        assert np.array_equal(counts, expected)


def planted(sanitizer: str, case: str, bug: int = 0) -> tuple[int, str]:
    done = run_sanitized(sanitizer, [str(Path(__file__).with_name("planted.py")), sanitizer, case, str(bug)])
    return done.returncode, done.stderr


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_are_content_with_right_kernels(sanitizer: str) -> None:
    code, report = planted(sanitizer, "clean")
    assert (code, report) == (0, "")


@pytest.mark.parametrize(
    ("case", "bug"),
    [("missing_atomic", 0), ("missing_atomic_between_blocks", 0), ("scan", 1), ("scan", 2), ("scan", 3)],
)
def test_tsan_finds_missing_atomics_and_barriers(case: str, bug: int) -> None:
    code, report = planted("thread", case, bug)
    assert code == 66
    assert "WARNING: ThreadSanitizer: data race" in report
    assert "toy.cu" in report


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("out_of_bounds", "AddressSanitizer: use-after-poison"),
        ("before_the_start", "AddressSanitizer: use-after-poison"),
        ("shared_out_of_bounds", "runtime error: index 8 out of bounds"),
        ("dynamic_shared_out_of_bounds", "AddressSanitizer: heap-buffer-overflow"),
    ],
)
def test_asan_finds_accesses_out_of_bounds(case: str, message: str) -> None:
    code, report = planted("address,undefined", case)
    assert code != 0
    assert message in report
    assert "toy.cu" in report


def test_struct_arguments() -> None:
    """A struct of hundreds of bytes goes by value in both builds."""
    for device in (CpuDevice(workers=2, program=program()), emulated()):
        source, out = device.alloc(100, np.uint32), device.alloc(100, np.uint32)
        device.upload(source, np.arange(100, dtype=np.uint32))
        toy = np.zeros(1, TOY)
        toy["n"], toy["scale"], toy["in"], toy["out"] = 100, 2.0, device.address(source), device.address(out)
        device.launch([Launch("by_value", (toy, np.uint32(5), np.float32(10), np.uint64(3 << 32)))])
        host = np.empty(100, np.uint32)
        device.download(out, host)
        device.wait()
        assert np.array_equal(host, np.arange(100) + 28)
