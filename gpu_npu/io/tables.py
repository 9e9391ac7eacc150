"""Tables of columns, read batch by batch and more than once, whatever holds them; every fault names its row and column."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu_npu.checks import is_integer
from gpu_npu.errors import CapacityError, FileFormatError
from gpu_npu.objects import described, one_line

from .budget import SYNAPSE_BYTES, gib

Kind = Literal["ids", "numbers", "words"]
"""How a column is read: ids are uint64 or Words, numbers int64 or float64, words codes and the texts that they stand for."""
ROWS_AT_A_TIME = 2**20
EXACT = 2**53
"""From here on a real number stands for several integers."""


class Words(NamedTuple):
    """A column of texts, each of them kept once, or a few times."""

    codes: NDArray[np.int64]
    texts: list[str]

    def __repr__(self) -> str:
        return one_line(self)

    def array(self) -> NDArray[Any]:
        """The text of each row."""
        return np.array(self.texts or [""], np.str_)[self.codes]


class Place(NamedTuple):
    """Where in a table a batch of a column is, for messages."""

    table: str
    column: str
    first: int
    """The row of its first value, from 1; the header is no row."""

    def __repr__(self) -> str:
        return one_line(self)

    def error(self, at: int, what: str) -> FileFormatError:
        """A fault of the value at this place in the batch."""
        return FileFormatError(f"{self.table}: row {self.first + at:,}, column {self.column!r}: {what}")

    def check(self, bad: Any, values: Any, what: str) -> None:
        """FileFormatError for the first bad value."""
        if bad.any():
            at = int(np.argmax(bad))
            raise self.error(at, f"{str(values[at])!r:.60} {what}")


class Table(ABC):
    """Columns by name; names may be there twice, or empty."""

    name: str
    names: Sequence[str]
    limit: float = inf
    """Bytes of memory that it may take."""

    def __repr__(self) -> str:
        return described(self, f"{self.name}: {', '.join(self.names)}")

    @abstractmethod
    def batches(self, wanted: Sequence[tuple[int, Kind]]) -> Iterator[list[Any]]:
        """Columns by their numbers, each in the form of its kind, batch by batch. FileFormatError: a value that is not of its kind."""

    def check_texts(self, texts: Sequence[str], count: int) -> None:
        """CapacityError where so many of these texts, each as long as the longest in an array, are more than is held beside other
        such arrays."""
        longest = max(map(len, texts), default=0)
        self.check_bytes(4 * count * longest, f"{count:,} texts of up to {longest:,} characters")

    def check_bytes(self, nbytes: int, what: str) -> None:
        """CapacityError where these are more than a quarter of the limit."""
        if 4 * nbytes > self.limit:
            raise CapacityError(
                f"{self.name}: {what} take about {gib(4 * nbytes)} of memory; this file may take {gib(int(self.limit))}",
                python=f"memory_limit={4 * nbytes} allows it",
            )

    def column(self, number: int, kind: Kind) -> Any:
        """All of one column."""
        parts = []
        for (batch,) in self.batches([(number, kind)]):
            if isinstance(batch, Words):
                self.check_texts(batch.texts, len(batch.codes))
            parts.append(batch.array() if isinstance(batch, Words) else batch)
        if kind == "words":
            return np.concatenate([np.zeros(0, np.str_), *parts])
        if len({part.dtype.kind for part in parts}) > 1 and kind == "ids":
            parts = [part.astype(np.str_) for part in parts]
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


class ArraysTable(Table):
    """Arrays of one dimension and of one length."""

    def __init__(self, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
        self.name, self.names, self._arrays = name, list(columns), list(columns.values())
        lengths = {array.shape for array in self._arrays}
        if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
            raise FileFormatError(f"{name}: columns of the shapes {sorted(lengths)}; all must be flat and of one length")

    def batches(self, wanted: Sequence[tuple[int, Kind]]) -> Iterator[list[Any]]:
        for first in range(0, len(self._arrays[0]), ROWS_AT_A_TIME):
            rows = slice(first, first + ROWS_AT_A_TIME)
            yield [READERS[kind](self._arrays[i][rows], Place(self.name, self.names[i], first + 1)) for i, kind in wanted]


class ArrowTable(Table):
    """What pyarrow reads. opened(columns): record batches that have these columns, by their numbers, in this order."""

    def __init__(self, name: str, names: Sequence[str], opened: Callable[[Sequence[int]], Iterable[Any]]) -> None:
        self.name, self.names, self._opened = name, list(names), opened

    def batches(self, wanted: Sequence[tuple[int, Kind]]) -> Iterator[list[Any]]:
        import pyarrow

        first = 1
        try:
            for batch in self._opened([i for i, _ in wanted]):
                if batch.num_rows:
                    yield [_read(batch.column(at), kind, Place(self.name, self.names[i], first)) for at, (i, kind) in enumerate(wanted)]
                first += batch.num_rows
                if (first - 1) * SYNAPSE_BYTES > self.limit:
                    raise CapacityError(
                        f"{self.name}: more than {first - 1:,} rows; this file may take {gib(int(self.limit))} of memory,"
                        f" {SYNAPSE_BYTES} bytes for each row",
                        python="memory_limit=... allows it",
                    )
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            if isinstance(error, FileFormatError | FileNotFoundError | PermissionError):
                raise
            raise FileFormatError(f"{self.name}: after row {first - 1:,}: {' '.join(str(error).split()):.200}") from error


def _read(column: Any, kind: Kind, place: Place) -> Any:
    """A column of Arrow in the form of its kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        words = column.dictionary.cast(pa.string()) if pa.types.is_string_view(column.type.value_type) else column.dictionary
        column = pa.DictionaryArray.from_arrays(column.indices, words).dictionary_decode()  # no views: Arrow cannot decode these
    if pa.types.is_null(column.type) or (kind != "words" and column.null_count):
        place.check(pc.is_null(column, nan_is_null=True).to_numpy(zero_copy_only=False), [""] * len(column), "is no value: it is missing")
    if kind == "words" and not _is_text(column.type):
        column = column.cast(pa.string())
    if _is_text(column.type):
        numbers = None if kind == "words" else _numbers_in(column, kind)
        if numbers is not None:
            return READERS[kind](numbers, place)
        column = _trimmed(column, place)
        if kind != "numbers":
            coded = pc.fill_null(column, "").dictionary_encode()
            words = Words(coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist())
            return words if kind == "words" else _named(words, place)
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return READERS[kind](column.to_numpy(zero_copy_only=False), place)


def _numbers_in(column: Any, kind: Kind) -> NDArray[Any] | None:
    """A column of texts as numbers; None: some of them are none, or, of ids, are written in another way than NumPy does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "numbers" and any(pc.any(pc.match_substring(column, letter)).as_py() for letter in "xX"):
        return None  # Arrow takes 0x1f for 31
    for dtype in (pa.uint64(),) if kind == "ids" else (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            numbers: NDArray[Any] = column.cast(dtype).to_numpy(zero_copy_only=False)
            if kind != "ids" or bool((pc.binary_length(column).to_numpy() == np.searchsorted(POWERS, numbers, side="right") + 1).all()):
                return numbers
    return None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in tests)


def _trimmed(column: Any, place: Place) -> Any:
    """A column of texts without white space at their ends. FileFormatError: one that is not UTF-8."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = column.cast(pa.string())
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        place.check(np.array([value is not None and not _is_utf8(value) for value in raw]), raw, "is not UTF-8; save the file as UTF-8")
        raise
    return pc.utf8_trim_whitespace(column)


def _ids(values: NDArray[Any], place: Place) -> NDArray[Any] | Words:
    if values.dtype.kind == "f":
        place.check(~np.isfinite(values) | (values != np.rint(values)), values, "is no id, which is an integer or a name")
        place.check(np.abs(values) >= EXACT, values, TOO_COARSE)
        values = values.astype(np.int64)
    if values.dtype.kind in "iu":
        place.check(values < 0, values, "is no id, for it is below 0")
        return values.astype(np.uint64)
    if values.dtype.kind not in "USO":
        raise place.error(0, f"{str(values[0])!r:.60} is no id, which is an integer or a name")
    items = values.tolist()
    place.check(np.array([not _is_name(item) for item in items], np.bool_), items, "is no id, which is an integer or a name")
    codes: dict[str, int] = {}
    at = np.array([codes.setdefault(_text(item), len(codes)) for item in items], np.int64)
    return _named(Words(at, list(codes)), place)


def _named(words: Words, place: Place) -> NDArray[np.uint64] | Words:
    """Names as ids: numbers, where all of them are written as such; FileFormatError: one that is none. Most need one look alone."""
    texts, wrong = [text.strip() for text in words.texts], dict[int, str]()
    for i, text in enumerate(texts):
        if not text or text[0] in "-0123456789" or len(text) > LONGEST_NAME or text in MISSING or "\0" in text:
            texts[i], problem = _written(text)
            if problem:
                wrong[i] = problem
    if wrong:
        at = int(np.argmax(np.isin(words.codes, list(wrong))))
        raise place.error(at, f"{words.texts[words.codes[at]]!r:.60} {wrong[int(words.codes[at])]}")
    numbers = _numbers_of(texts)
    return Words(words.codes, texts) if numbers is None else numbers[words.codes]


def _written(text: str) -> tuple[str, str]:
    """The name that a text is, as integers are written where it is one (2.0 is 2), and what is wrong with it."""
    if text in MISSING:
        return text, "is no id: it stands for a missing value"
    if len(text) > LONGEST_NAME or "\0" in text:
        return text, f"is no id: a name has 1 to {LONGEST_NAME} characters, none of them of code 0"
    number = _NUMBER.fullmatch(text)
    if number is None:
        return text, ""
    if number["minus"]:
        return text, "is no id, for it is below 0"
    if not (number["point"] or number["power"]):
        return text, ""
    value = float(text)
    if value >= EXACT:
        return text, TOO_COARSE
    return str(int(value)) if value.is_integer() else text, ""


def _numbers_of(texts: list[str]) -> NDArray[np.uint64] | None:
    """Texts as numbers of 64 bits, where all of them are written as such and none is written in another way."""
    try:
        numbers = np.array([int(text) for text in texts], np.uint64)
    except (ValueError, OverflowError):
        return None
    return numbers if [str(number) for number in numbers.tolist()] == texts else None


def _numbers(values: NDArray[Any], place: Place) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    if values.dtype.kind in "iu":
        place.check(values > np.iinfo(np.int64).max, values, "is larger than any weight")
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        words = [_truth.get(_text(value).strip().lower(), _text(value)) for value in values.tolist()]
        place.check(np.array([not _is_real(word) for word in words], np.bool_), words, "is not a number, such as 1200 or 0.5")
        values = np.array([float(word) for word in words])
    place.check(~np.isfinite(values), values, "is not a finite number")
    return values.astype(np.float64)


def _words(values: NDArray[Any], place: Place) -> Words:
    texts, codes = np.unique(np.char.strip(np.array([_text(value) for value in values.tolist()], np.str_)), return_inverse=True)
    return Words(codes, texts.tolist())


READERS: dict[Kind, Callable[[NDArray[Any], Place], Any]] = {"ids": _ids, "numbers": _numbers, "words": _words}
LONGEST_NAME = 256
MISSING = {"", "#N/A", "#NA", "-NaN", "-nan", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "none", "null"}
"""Texts that tables have where a value is missing, as pandas reads them."""
POWERS = np.uint64(10) ** np.arange(1, 20, dtype=np.uint64)
"""Of ten: how many digits a number has."""
TOO_COARSE = "is a real number, too coarse for such an id; keep ids as integers or text"
_NUMBER = re.compile(r"(?P<minus>-)?\d+(?P<point>\.\d*)?(?P<power>[eE][+-]\d+)?")
_truth = {"true": "1", "false": "0"}


def _text(value: Any) -> str:
    return "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes)) or is_integer(value)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_real(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
