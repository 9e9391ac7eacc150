"""What objects of the package say of themselves, and which of them cannot be copied."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import fields
from typing import Any, ClassVar, NoReturn

import numpy as np

LONGEST = 240
"""Characters of a repr."""
_ITEM = 60
"""Of one value in it."""


def brief(value: object) -> str:
    """A value in a few words: an array by dtype and shape, what holds many things by their number."""
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    if isinstance(value, Sized) and not isinstance(value, (str, bytes)) and len(value) > 4:
        return f"<{len(value):,} in a {type(value).__name__}>"
    if type(value) in (tuple, list):
        return f"({', '.join(map(brief, value))})"  # type: ignore[call-overload]
    text = " ".join(repr(value).split())
    return text if len(text) <= _ITEM else f"{text[:_ITEM]}..."


def one_line(thing: Any) -> str:
    """The repr of a dataclass or a named tuple, short whatever it holds."""
    names = getattr(thing, "_fields", None) or [field.name for field in fields(thing) if field.repr]
    text = f"{type(thing).__name__}({', '.join(f'{name}={brief(getattr(thing, name))}' for name in names)})"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...)"


class OneLine:
    """A dataclass, made with repr=False, whose repr is that of `one_line`."""

    def __repr__(self) -> str:
        return one_line(self)


class Unique:
    """Something that has a device, a thread, a socket or a file, so copy() and pickle refuse it."""

    instead: ClassVar[str] = "make another one"
    """What to do in place of a copy."""

    def __reduce__(self) -> NoReturn:
        has = "it has a device, a thread or a file of its own"
        raise TypeError(f"{type(self).__name__} cannot be copied or pickled: {has}; {self.instead}")


def described(thing: object, about: Any) -> str:
    """The repr of something that is no plain value: its class and a line about it."""
    text = f"{type(thing).__name__}: {about}"
    return f"<{text}>" if len(text) <= LONGEST else f"<{text[:LONGEST]}...>"
