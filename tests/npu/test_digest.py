"""The digest of a run, and the SHA-256 that can be taken up again."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_npu import Digest, NetworkError
from gpu_npu.npu import sha256
from gpu_npu.npu.sha256 import Sha256


@pytest.fixture(params=["as found", "python"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashed by libcrypto, where there is one, and in Python."""
    if request.param == "python":
        monkeypatch.setattr(sha256, "_libcrypto", lambda: None)


@pytest.mark.usefixtures("blocks")
def test_it_is_sha_256_of_every_length() -> None:
    data = np.random.default_rng(0).bytes(300)
    for length in range(301):
        one = Sha256()
        one.update(data[:length])
        assert one.hexdigest() == hashlib.sha256(data[:length]).hexdigest()


@given(parts=st.lists(st.binary(max_size=200), max_size=8), cut=st.integers(0, 8))
def test_it_goes_on_from_its_state(parts: list[bytes], cut: int) -> None:
    ours, theirs = Sha256(), hashlib.sha256()
    for number, part in enumerate(parts):
        if number == cut:
            ours = Sha256(ours.state())
        ours.update(part)
        theirs.update(part)
        assert ours.hexdigest() == theirs.hexdigest()


def test_libcrypto_is_used_where_hashlib_uses_it() -> None:
    """Or else a long run with checkpoints is slow."""
    import _hashlib

    assert bool(sha256._libcrypto()) or not hasattr(_hashlib, "__file__")


def test_a_libcrypto_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sha256._libcrypto.cache_clear()
    try:
        with monkeypatch.context() as patched:
            patched.setattr(sha256, "_libraries", lambda: ["libnothing.so.0", "libc.so.6"])
            assert sha256._libcrypto() is None
            sha256._libcrypto.cache_clear()
            patched.undo()
            patched.setattr(sha256, "_compress_with", lambda begin, update: lambda words, data: words)
            assert sha256._libcrypto() is None
    finally:
        sha256._libcrypto.cache_clear()


@pytest.mark.parametrize("state", [b"", bytes(39), bytes(41), bytes(32) + b"\1" + bytes(7)])
def test_no_state_is_refused(state: bytes) -> None:
    with pytest.raises(NetworkError, match=f"^{len(state)} bytes are not the state of a SHA-256"):
        Sha256(state)


def test_a_digest_goes_on_in_another() -> None:
    plain, first = Digest(), Digest(resumable=True)
    for burst in (1, 2):
        for digest in (plain, first):
            digest.update(burst, np.arange(100, dtype=np.uint32))
    second = Digest(state=first.state())
    for digest in (plain, second):
        digest.update(3, np.zeros(0, np.uint32))
    assert second.hexdigest() == plain.hexdigest() and len(second.state()) < 40 + 64
    with pytest.raises(NetworkError, match=r"; Digest\(resumable=True\) does"):
        plain.state()
