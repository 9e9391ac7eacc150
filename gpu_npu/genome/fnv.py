"""FNV-1a of 64 bits, `h = (h ^ byte) * P mod 2**64` for each byte in turn, without a step of Python for each byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

OFFSET = 0xCBF29CE484222325
PRIME = 0x100000001B3
LANES = 512
BLOCK = 2**18
"""Bytes taken at once: what is worked on stays in the cache."""

_MASK = 2**64 - 1


def fnv1a64(data: Any) -> int:
    """The hash of `data`, an object with a buffer of bytes.

    The xor reaches the low byte alone: h ^ b = h + d with d = (low ^ b) - low, so that
        h after n bytes = h * P**n + d[0] * P**n + d[1] * P**(n - 1) + ... + d[n - 1] * P,
    a dot product, once the low bytes are known; `_mixed` finds those.
    """
    array = np.frombuffer(data, np.uint8)
    h = OFFSET
    steps = BLOCK // LANES
    weights = _powers(PRIME, steps)[::-1]  # P**steps ... P
    for start in range(0, len(array) // LANES * LANES, BLOCK):
        block = array[start : start + BLOCK]
        steps = len(block) // LANES
        # (time, lane): the lanes, stretches of the block one after the other, are worked on side by side
        columns = np.ascontiguousarray(block[: steps * LANES].reshape(LANES, steps).T)
        mixed = _mixed(columns, h & 255)
        change = np.subtract(mixed, mixed ^ columns, dtype=np.int64).view(np.uint64)
        lanes = np.einsum("tl,t->l", change, weights[-steps:])
        stretch = pow(PRIME, steps, 2**64)
        for lane in lanes.tolist():
            h = (h * stretch + lane) & _MASK
    for byte in array[len(array) // LANES * LANES :].tolist():
        h = (h ^ byte) * PRIME & _MASK
    return h


def _mixed(columns: NDArray[np.uint8], low: int) -> NDArray[np.uint8]:
    """low[n] ^ byte[n] for all n, where low[n + 1] = (low[n] ^ byte[n]) * P mod 256 and low[0] is given.

    P is odd, so bit k of the product is bit k of low ^ byte, changed by lower bits alone: with the bits below known, bit k
    of all low[n] is a running xor. Eight of those, each along the lanes and then from lane to lane, give the bytes.
    """
    mixed = np.zeros_like(columns)
    factor = np.uint8(PRIME & 255)
    for k in range(8):
        bit = np.uint8(1 << k)
        running = mixed * factor
        running ^= columns
        running &= bit
        reach = 1
        while reach < len(running):  # bitwise_xor.accumulate(axis=0) in log2(steps) sweeps, which is a tenth of its time
            running[reach:] ^= running[:-reach]
            reach *= 2
        lanes = np.empty(columns.shape[1], np.uint8)
        lanes[0] = low & bit
        np.bitwise_xor.accumulate(running[-1, :-1], out=lanes[1:])
        lanes[1:] ^= lanes[0]
        mixed[0] |= lanes ^ (columns[0] & bit)
        mixed[1:] |= (running[:-1] ^ lanes) ^ (columns[1:] & bit)
    return mixed


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base ** 1 ... base ** count, mod 2**64."""
    powers = np.empty(count, np.uint64)
    power = 1
    for i in range(count):
        power = power * base & _MASK
        powers[i] = power
    return powers
