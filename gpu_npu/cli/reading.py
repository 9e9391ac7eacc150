"""Options that say how a file is read, where the file leaves that open."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def count_of_bytes(value: str) -> int:
    """A number of bytes: 4000000000, 4GB or 4GiB."""
    found = re.fullmatch(r"(\d{1,18})(?:([kMGT])(i?)B?)?", value.strip())
    if found is None:
        raise click.BadParameter(f"{value!r} is no number of bytes, such as 4000000000 or 4GiB")
    number, unit, binary = found.groups()
    return int(number) * int((1024 if binary else 1000) ** (" kMGT".index(unit) if unit else 0))


memory_limit_option = click.option(
    "--memory-limit",
    type=count_of_bytes,
    metavar="BYTES",
    help="Memory that reading the file may take, such as 16GiB.  [default: 1 GiB and 64 times the file, at most 3/4 of what is free]",
)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OPTIONS = (
    click.option("--column", multiple=True, metavar="ROLE=NAME", help="Column of edges: source, target, weight, sign, transmitter, type."),
    click.option("--unit", type=float, help="Weight that one unit of a synapse stands for.  [default: 1 for integers, else the finest]"),
    click.option("--clip", is_flag=True, help="Cut weights that do not fit, in place of refusing them."),
    click.option("--electrical", is_flag=True, help="Make two synapses of each electrical edge, in place of leaving it out."),
    click.option("--neurons", type=_FILE, help="Table of all neurons, in the order of their ids."),
    click.option("--annotations", type=_FILE, help="Table of what is known of neurons, joined by their ids."),
    click.option("--transmitter", multiple=True, metavar="NAME=SIGN", help="Sign of a transmitter; these replace the default table."),
    click.option("--areas-by", metavar="COLUMN", help="Column of the annotations that makes areas."),
    click.option("--transpose", is_flag=True, help="The columns of a matrix are the sources, not its rows."),
    click.option("--array", metavar="NAME", help="The matrix to take, of a file that has several."),
    memory_limit_option,
)
NAMES = ("column", "unit", "clip", "electrical", "neurons", "annotations", "transmitter", "areas_by", "transpose", "array")


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options; the command gets them as `reading`, the keyword arguments of `gpu_npu.io.load`."""

    @functools.wraps(command)
    def call(*args: Any, **values: Any) -> None:
        taken = {name: values.pop(name) for name in (*NAMES, "memory_limit")}
        command(*args, reading=_reading(taken), **values)

    made: Callable[..., None] = call
    for option in reversed(OPTIONS):
        made = option(made)
    return made


def _reading(values: dict[str, Any]) -> dict[str, Any]:
    columns = _pairs(values["column"], "--column", "ROLE=NAME")
    signs = {name: _sign(sign) for name, sign in _pairs(values["transmitter"], "--transmitter", "NAME=SIGN").items()}
    return {
        "columns": columns,
        "unit": values["unit"],
        "clip": values["clip"],
        "electrical": values["electrical"],
        "neurons": values["neurons"],
        "annotations": values["annotations"],
        "transmitters": signs or None,
        "areas": values["areas_by"],
        "transposed": values["transpose"],
        "array": values["array"],
        "memory_limit": values["memory_limit"],
    }


def files_read(reading: dict[str, Any]) -> list[tuple[str, Path]]:
    """The files that options name."""
    return [(f"--{name}", reading[name]) for name in ("neurons", "annotations") if reading[name] is not None]


def _pairs(texts: tuple[str, ...], option: str, form: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, value) in zip(texts, pairs, strict=True):
        if not (name and equals and value):
            raise click.BadParameter(f"{text!r}: {form} is expected", param_hint=option)
    return {name.strip(): value for name, _, value in pairs}


def _sign(text: str) -> int:
    try:
        return {"1": 1, "+1": 1, "-1": -1}[text.strip()]
    except KeyError:
        raise click.BadParameter(f"{text!r} is no sign; 1 excites, -1 inhibits", param_hint="--transmitter") from None
