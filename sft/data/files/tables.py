"""Parquet and Arrow (Feather): tables whose columns have a type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sft.errors import BadInput

MAGIC = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "Arrow stream",
}
"""By the bytes that a file begins with."""

ROWS_AT_ONCE = 1000


def rows(
    path: Path, kind: str, wanted: Callable[[list[str]], list[str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row with its number, from 1 on; of the columns only those that are `wanted`.

    Raises `BadInput` if the file cannot be read.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path, kind, wanted):
            batch.validate(full=True)  # offsets of a damaged file may lead anywhere
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                for row in batch.slice(start, ROWS_AT_ONCE).to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError, ValueError) as error:  # damaged, or text that is none
        reason = " ".join(str(error).split())
        raise BadInput(f"dataset.path: {path} cannot be read as {kind}: {reason}") from None


def _batches(path: Path, kind: str, wanted: Callable[[list[str]], list[str]]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "Parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=wanted(file.schema_arrow.names))
        return
    with pa.memory_map(str(path)) as source:
        if kind == "Arrow":
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = batches = pa.ipc.open_stream(source)
        columns = wanted(reader.schema.names)
        for batch in batches:
            yield batch.select(columns)
