"""Reading and writing files by position, and room on the disk that is taken before it is needed."""

from __future__ import annotations

import errno
import os
from typing import IO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write answers where a disk, a quota or the size of a file is used up."""
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_ZEROS = bytes(2**16)


def write_at(file: IO[bytes], data: bytes | bytearray, at: int) -> None:
    """Write all of `data` at an offset of an unbuffered file. OSError: a part may be written; it can be done once more."""
    file.seek(at)
    with memoryview(data) as left:
        while left:
            left = left[file.write(left) :]


def read_at(file: IO[bytes], size: int, at: int) -> bytes:
    """So many bytes at an offset of an unbuffered file, fewer where it ends."""
    file.seek(at)
    data = bytearray()
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return bytes(data)


def claim(file: IO[bytes], have: int, want: int) -> None:
    """Let a file, of which `have` bytes are on the disk, have `want` bytes there, so that writing them does not fail for want
    of room. Where the system cannot reserve room, zeros are written. OSError: there is no room."""
    try:
        os.posix_fallocate(file.fileno(), have, want - have)
        return
    except AttributeError:  # not on this system
        pass
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    for at in range(have, want, len(_ZEROS)):
        write_at(file, _ZEROS[: want - at], at)
