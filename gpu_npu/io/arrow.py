"""Edge lists as tables: CSV and TSV, Parquet, Feather and Arrow files, tables of pandas, polars and Arrow. pyarrow reads them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

from gpu_npu.errors import FileFormatError
from gpu_npu.objects import described

from .budget import SYNAPSE_BYTES, Budget
from .formats import Given, missing
from .tables import ROWS_AT_A_TIME, ArrowTable, Table

DELIMITERS = (",", "\t", ";", "|", " ")
PREAMBLE = "#"
"""Lines that begin so, before the header, are comments."""


def table_of(given: Given, memory_limit: int | None = None) -> Table | None:
    """The table that a file or an object is; None: it is none. memory_limit: as of `Budget.of`. FileFormatError, CapacityError,
    MissingPackageError, OSError."""
    table = _table_of(given, memory_limit)
    return _limited(table, given, memory_limit) if table is not None and given.is_file else table


def _limited(table: Table, given: Given, memory_limit: int | None) -> Table:
    table.limit = Budget.of(given.path, memory_limit).limit
    return table


def _table_of(given: Given, memory_limit: int | None) -> Table | None:
    try:
        if not given.is_file:
            return _stream_table(given) if is_table(given) else None
        if given.packing is None and given.head.startswith(b"PAR1"):
            return _parquet(given, memory_limit)
        if given.packing is None and given.head.startswith((b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")):
            return _feather(given)
        return _delimited(given, memory_limit) if is_text(given) else None
    except ImportError as error:
        raise missing(error, f"reading {given.name}") from error


def is_table(given: Given) -> bool:
    """Whether `table_of` reads it."""
    if not given.is_file:
        return hasattr(given.value, "__arrow_c_stream__") or _is_lazy(given.value)
    return (given.packing is None and given.head.startswith((b"PAR1", b"ARROW1", b"FEA1", b"\xff\xff\xff\xff"))) or is_text(given)


def is_text(given: Given) -> bool:
    """Whether a file is text whose first line has more than one cell."""
    lines = _lines(given)
    return bool(lines) and not _is_markup(lines[0]) and delimiter_of(_header(lines)) is not None


def list_of(given: Given, memory_limit: int | None = None) -> Table | None:
    """The table of a text of one cell a line; None: it is none. Its column is called "id", unless the first line is a name."""
    lines = _lines(given)
    if not lines or _is_markup(lines[0]) or not _header(lines).strip():
        return None
    try:
        return _limited(_delimited(given, memory_limit), given, memory_limit)
    except ImportError as error:
        raise missing(error, f"reading {given.name}") from error


def _is_lazy(value: Any) -> bool:
    """Whether it is a table that polars has not computed yet."""
    return hasattr(value, "collect_schema") and hasattr(value, "collect")


def why_no_table(given: Given) -> str | None:
    """What is wrong with a text that is no table; None: it is no text."""
    if given.head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16; save it as UTF-8"
    if b"\0" in given.head:
        return None
    lines = _lines(given)
    if not lines:
        lines = given.head.decode("latin-1").splitlines()
        wrong = next((i for i, line in enumerate(lines, 1) if not line.isprintable() or not line.isascii()), 0)
        printable = all(line.replace("\t", " ").isprintable() for line in lines)
        return f"line {wrong:,} is not UTF-8: {lines[wrong - 1]!r:.60}; save the file as UTF-8" if printable and wrong else None
    if _is_markup(next(filter(str.strip, lines), "")):
        return None
    if not _header(lines).strip():
        return "text without a table: it begins with an empty line" if any(map(str.strip, lines)) else "nothing but empty lines"
    return f"text of one cell a line, {_header(lines)!r:.40}; an edge list has two or more, and a list of ids is taken by --inject FILE"


def _is_markup(line: str) -> bool:
    return line.lstrip().startswith(("{", "<", "["))


def _lines(given: Given) -> list[str]:
    """The lines at the beginning of a text, none where it is no text."""
    if b"\0" in given.head:
        return []
    try:
        text = given.head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(given.head) - 4:
            return []
        text = given.head[: error.start].decode("utf-8-sig")
    return text.splitlines()


def _header(lines: Sequence[str]) -> str:
    return next((line for line in lines if not line.startswith(PREAMBLE)), "")


def delimiter_of(line: str) -> str | None:
    """What stands between the cells of a line."""
    parts = {delimiter: len(next(csv.reader([line], delimiter=delimiter), ())) for delimiter in DELIMITERS}
    return next((delimiter for delimiter in DELIMITERS if parts[delimiter] > 1), None)


class _Unpacked:
    """A compressed file as it is unpacked, counted. CapacityError: it is more than the budget has."""

    closed = False

    def __init__(self, file: Any, budget: Budget) -> None:
        self._file, self._budget = file, budget

    def __repr__(self) -> str:
        return described(self, self._budget)

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._file.read(size)
        self._budget.take(len(data), "what it unpacks to")
        return data

    def close(self) -> None:
        """It is read to its end."""
        self.closed = True


def _delimited(given: Given, memory_limit: int | None) -> Table:
    import pyarrow as pa
    import pyarrow.csv as pc

    lines = _lines(given)
    skipped = next(i for i, line in enumerate(lines) if not line.startswith(PREAMBLE))
    delimiter = delimiter_of(lines[skipped])
    names = _cells(lines[skipped], delimiter)
    if delimiter == " " and "" in names:
        raise given.error(f"line {skipped + 1:,} has several spaces between its cells: {lines[skipped]!r:.60}; write one comma, or one tab")
    has_header = not all(_is_number(name) for name in names if name)
    names = ["id"] if len(names) == 1 and not has_header else names
    shown = (
        names
        if has_header or names == ["id"]
        else _commented(lines[:skipped], delimiter, len(names)) or [str(i) for i in range(1, len(names) + 1)]
    )

    def opened(columns: Sequence[int]) -> Iterator[Any]:
        wrong: list[Any] = []

        def refuse(row: Any) -> str:
            wrong.append(row)
            return "error"

        numbers = [str(i) for i in range(len(names))]
        wanted = list(dict.fromkeys(numbers[i] for i in columns))
        try:
            with (
                pa.input_stream(str(given.path), compression=given.packing) as file,
                pc.open_csv(
                    file if given.packing is None else _Unpacked(file, Budget.of(given.path, memory_limit)),
                    pc.ReadOptions(
                        use_threads=False, column_names=numbers, skip_rows=skipped + has_header, block_size=2**24, encoding="utf8"
                    ),
                    pc.ParseOptions(delimiter=delimiter or ",", newlines_in_values=False, invalid_row_handler=refuse),
                    pc.ConvertOptions(
                        column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False, check_utf8=False
                    ),
                ) as reader,
            ):
                for batch in reader:
                    yield batch.select([numbers[i] for i in columns])
        except pa.ArrowInvalid as error:
            if wrong:
                row = wrong[0]
                place = "a row" if row.number is None else f"line {row.number:,}"
                raise FileFormatError(
                    f"{given.name}: {place} has {row.actual_columns} cells, the first line {row.expected_columns}: {row.text!r:.80}"
                ) from error
            if not any(text in str(error) for text in ("Empty CSV file", "Could not skip initial")):  # they say that there are no rows
                raise

    return ArrowTable(given.name, shown, opened)


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter or ","))]


def _commented(comments: Sequence[str], delimiter: str | None, count: int) -> list[str] | None:
    """The names of so many columns, where the last comment has them, as of numpy.savetxt."""
    names = _cells(comments[-1].lstrip(f"{PREAMBLE} "), delimiter) if comments else []
    return names if len(names) == count and not any(map(_is_number, names)) else None


def _parquet(given: Given, memory_limit: int | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(given.path) as file:
            names = [field.name for field in file.schema_arrow]
            said = file.metadata
            sizes = [said.row_group(i).total_byte_size for i in range(said.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(given, error) from error
    budget = Budget.of(given.path, memory_limit)
    budget.take(said.num_rows * SYNAPSE_BYTES, f"a table of {said.num_rows:,} rows")
    Budget.of(given.path, memory_limit).take(max(sizes, default=0), "the largest group of its rows")

    def opened(columns: Sequence[int]) -> Iterator[Any]:
        with pq.ParquetFile(given.path, pre_buffer=False) as file:
            wanted = [names[i] for i in columns]
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=list(dict.fromkeys(wanted))):
                yield batch.select(wanted)

    return ArrowTable(given.name, names, opened)


def _feather(given: Given) -> Table:
    import pyarrow as pa
    import pyarrow.feather as pf

    try:
        if given.head.startswith(b"ARROW1"):
            with pa.ipc.open_file(pa.memory_map(str(given.path))) as file:
                names = file.schema.names
        elif given.head.startswith(b"FEA1"):
            return _of_table(given, pf.read_table(given.path, memory_map=True))
        else:
            with pa.ipc.open_stream(str(given.path)) as file:
                names = file.schema.names
    except (pa.ArrowException, OSError) as error:
        raise _damaged(given, error) from error

    def opened(columns: Sequence[int]) -> Iterator[Any]:
        if given.head.startswith(b"ARROW1"):
            with pa.ipc.open_file(pa.memory_map(str(given.path))) as file:
                yield from (file.get_batch(i).select(list(columns)) for i in range(file.num_record_batches))
        else:
            with pa.ipc.open_stream(str(given.path)) as file:
                yield from (batch.select(list(columns)) for batch in file)

    return ArrowTable(given.name, names, opened)


def _stream_table(given: Given) -> Table:
    import pyarrow as pa

    try:
        return _of_table(given, pa.table(given.value.collect() if _is_lazy(given.value) else given.value))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(" ".join(map(str, error.args)).split())
        raise given.error(f"no table that Arrow can hold: {reason:.200}") from error


def _of_table(given: Given, table: Any) -> Table:
    return ArrowTable(given.name, table.column_names, lambda columns: table.select(list(columns)).to_batches(ROWS_AT_A_TIME))


def _damaged(given: Given, error: Exception) -> FileFormatError:
    if isinstance(error, FileNotFoundError | PermissionError):
        raise error
    return given.error(f"damaged, or cut short: {' '.join(str(error).split()):.200}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
