"""Ids of cortical areas: 8 bytes, written as 12 characters of base64, or as the texts of older genomes."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from gpu_npu.errors import FileFormatError


@dataclass(frozen=True)
class CoreArea:
    """An area that every brain has, whether its genome names it or not."""

    id: bytes
    name: str
    position: tuple[int, int, int]


POWER = b"___power"
CORE_AREAS = (
    CoreArea(b"___death", "Death", (0, 0, -20)),
    CoreArea(POWER, "Brain_Power", (0, 0, -20)),
    CoreArea(b"___fatig", "Fatigue", (0, 0, -30)),
    CoreArea(b"___pain_", "Pain", (0, 0, -40)),
    CoreArea(b"___pleas", "Pleasure", (0, 0, -50)),
    CoreArea(b"___fear_", "Fear", (0, 0, -60)),
    CoreArea(b"___hope_", "Hope", (0, 0, -70)),
)
"""In the order of the engine's index."""
KINDS = {"_": "core", "i": "sensory", "o": "motor", "c": "custom", "m": "memory"}
"""First letter of an id -> kind of the area."""

_CORE_IDS = {area.id for area in CORE_AREAS}
_VISION = ("BL", "BM", "BR", "ML", "_C", "MR", "TL", "TM", "TR")
_LEGACY = {
    "_power": POWER,
    "___pwr": POWER,
    "_death": b"___death",
    "_fatigue": b"___fatig",
    "omot00": b"omot\x05\0\0\0",
    "o__mot": b"omot\x05\0\0\0",
    "ogaz00": b"ogaz\x02\0\0\0",
    "o_spos": b"opos\x0b\0\0\0",
    "i__pro": b"ipro\x01\0\0\0",
    "i__inf": b"iinf\x01\0\0\0",
    "i__bat": b"ibat\x01\0\0\0",
    "i__acc": b"i__acc__",
    **{f"iic{unit}00": b"isvi" + bytes((9 + 16 * unit, 0, 0, 0)) for unit in range(9)},
    **{f"iv00{part}": b"isvi" + bytes((9 + 16 * unit, 0, 0, 0)) for unit, part in enumerate(_VISION)},
}


def area_id(text: str) -> bytes | None:
    """The id that a genome's text names; None for a text that cannot be one (FEAGI passes such an area over).

    FileFormatError: a core area that does not exist.
    """
    found = _LEGACY.get(text) or _decoded(text)
    if found is None:
        if not text.isascii() or len(text) not in (6, 8):
            return None
        first = text[0]
        if len(text) == 6 and first in "io":
            found = f"c{text}_".encode()
        else:
            kind = first if first in KINDS else "m" if first == "M" else "c"
            found = (kind + text[1:]).ljust(8, "_").encode()
    if found[:1] == b"_" and found not in _CORE_IDS:
        known = ", ".join(area.id.decode() for area in CORE_AREAS)
        raise FileFormatError(f"area {text!r}: no core area has this id; those are {known}, and other ids begin with c, m, i or o")
    return found


def _decoded(text: str) -> bytes | None:
    """12 characters of base64 with 8 bytes in them."""
    if len(text) != 12:
        return None
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == 8 and chr(found[0]) in KINDS else None


def base64_id(area: bytes) -> str:
    """As FEAGI prints it; areas are sorted by this text."""
    return base64.b64encode(area).decode()


def readable_id(area: bytes) -> str:
    """The bytes as text, those that are no characters escaped."""
    return repr(area)[2:-1]
