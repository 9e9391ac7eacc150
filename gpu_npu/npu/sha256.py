"""SHA-256 whose state can be written down and taken up again in another process; hashlib's cannot.

The blocks are hashed by libcrypto, which Python's own hashlib uses, where it is found and gives what hashlib gives; else
in Python, a hundred times slower. Both are FIPS 180-4.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable

from gpu_npu.errors import NetworkError
from gpu_npu.objects import described

BLOCK = 64
"""Bytes that are hashed together."""
_STATE = struct.Struct("<32sQ")
_MASK = 0xFFFFFFFF
_CONTEXT = 112
"""Bytes of libcrypto's SHA256_CTX, which begins with the eight words; declared in openssl/sha.h."""

Compress = Callable[[tuple[int, ...], bytes], tuple[int, ...]]
"""(eight words, whole blocks) -> the eight words after them."""


class Sha256:
    """As hashlib.sha256, with `state()`; `Sha256(state)` goes on from there."""

    def __init__(self, state: bytes | None = None) -> None:
        self._compress = _libcrypto() or compress
        if state is None:
            self._words, self._length, self._rest = START, 0, b""
            return
        words, self._length = _STATE.unpack_from(state) if len(state) >= _STATE.size else (b"", -1)
        self._rest = state[_STATE.size :]
        if self._length < 0 or len(self._rest) != self._length % BLOCK:
            raise NetworkError(
                f"{len(state)} bytes are not the state of a SHA-256, which has 40 and those that do not yet fill a block of {BLOCK}"
            )
        self._words = struct.unpack(">8I", words)

    def __repr__(self) -> str:
        return described(self, self.hexdigest())

    def update(self, data: bytes) -> None:
        """Append bytes."""
        self._length += len(data)
        data = self._rest + data
        whole = len(data) // BLOCK * BLOCK
        if whole:
            self._words = self._compress(self._words, data[:whole])
        self._rest = data[whole:]

    def state(self) -> bytes:
        """The eight words (big endian, as in the digest), the length in bytes (u64, little endian), the bytes that wait for a
        whole block."""
        return _STATE.pack(struct.pack(">8I", *self._words), self._length) + self._rest

    def hexdigest(self) -> str:
        """The digest of what was appended so far."""
        padding = b"\x80" + bytes(-(self._length + 9) % BLOCK) + struct.pack(">Q", 8 * self._length)
        return struct.pack(">8I", *self._compress(self._words, self._rest + padding)).hex()


def compress(words: tuple[int, ...], blocks: bytes) -> tuple[int, ...]:
    """In Python."""
    for (block,) in struct.iter_unpack(f"{BLOCK}s", blocks):
        w = list(struct.unpack(">16I", block))
        for t in range(16, 64):
            x, y = w[t - 15], w[t - 2]
            small0 = _right(x, 7) ^ _right(x, 18) ^ (x >> 3)
            small1 = _right(y, 17) ^ _right(y, 19) ^ (y >> 10)
            w.append((w[t - 16] + small0 + w[t - 7] + small1) & _MASK)
        a, b, c, d, e, f, g, h = words
        for k, x in zip(ROUND, w, strict=True):
            large1 = _right(e, 6) ^ _right(e, 11) ^ _right(e, 25)
            first = h + large1 + ((e & f) ^ (~e & g)) + k + x
            large0 = _right(a, 2) ^ _right(a, 13) ^ _right(a, 22)
            second = large0 + ((a & b) ^ (a & c) ^ (b & c))
            a, b, c, d, e, f, g, h = (first + second) & _MASK, a, b, c, (d + first) & _MASK, e, f, g
        words = tuple((old + new) & _MASK for old, new in zip(words, (a, b, c, d, e, f, g, h), strict=True))
    return words


def _right(x: int, by: int) -> int:
    """Rotated, in the low 32 bits; what stands above them is masked away from the sums."""
    return (x >> by) | (x << (32 - by))


def _primes(count: int) -> list[int]:
    found: list[int] = []
    n = 2
    while len(found) < count:
        if all(n % p for p in found):
            found.append(n)
        n += 1
    return found


def _root_bits(n: int, power: int) -> int:
    """The first 32 bits behind the point of a square or cube root."""
    scaled, low, high = n << 32 * power, 0, n << 32
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**power <= scaled else (low, middle - 1)
    return low & _MASK


START = tuple(_root_bits(p, 2) for p in _primes(8))
ROUND = tuple(_root_bits(p, 3) for p in _primes(64))


@functools.cache
def _libcrypto() -> Compress | None:
    """By the first libcrypto that proves itself."""
    for library in _libraries():
        try:
            crypto = ctypes.CDLL(library)
            begin, update = crypto.SHA256_Init, crypto.SHA256_Update
        except (OSError, AttributeError):
            continue
        begin.argtypes, update.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        with_library = _compress_with(begin, update)
        sample = bytes(range(192))
        if with_library(START, sample) == compress(START, sample):
            return with_library
    return None


def _libraries() -> list[str]:
    """Where libcrypto may be: in what hashlib has loaded, or by its name."""
    try:
        import _hashlib
    except ImportError:  # a Python without OpenSSL
        return ["libcrypto.so.3"]
    return [*filter(None, [getattr(_hashlib, "__file__", None)]), "libcrypto.so.3"]


def _compress_with(begin: Callable[..., int], update: Callable[..., int]) -> Compress:
    def with_library(words: tuple[int, ...], blocks: bytes) -> tuple[int, ...]:
        context = ctypes.create_string_buffer(2 * _CONTEXT)
        begin(context)
        struct.pack_into("=8I", context, 0, *words)
        update(context, blocks, len(blocks))
        return struct.unpack_from("=8I", context)

    return with_library
