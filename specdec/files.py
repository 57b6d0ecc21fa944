"""JSON Lines files: one object a line, read with line numbers, written whole or row by row."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


class BadLine(ValueError):
    """A line that is not the object it should be; the message carries file and line number."""


def read_jsonl(path: str | Path, required: Iterable[str] = ()) -> Iterator[dict]:
    """Yields the object on every non-blank line of `path`.

    Raises:
        FileNotFoundError: no such file.
        BadLine: a line is not UTF-8, not a JSON object, or lacks a non-empty string for a key in `required`.
    """
    required = tuple(required)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as fault:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
                raise BadLine(f"{path}, line {number}: not JSON ({fault})") from None
            if not isinstance(row, dict):
                raise BadLine(f"{path}, line {number}: a JSON object is expected, found {type(row).__name__}")
            for key in required:
                if not isinstance(row.get(key), str) or not row[key].strip():
                    raise BadLine(f"{path}, line {number}: '{key}' is missing or empty")
            yield row


def to_line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes all rows or none."""
    write_whole(Path(path), "".join(to_line(row) for row in rows))


def append_jsonl(path: str | Path, row: dict) -> None:
    """Appends one row and hands it to the disk, so that a stopped run loses nothing that it reported."""
    with open(path, "a", encoding="utf-8") as out:
        out.write(to_line(row))
        out.flush()
        os.fsync(out.fileno())


def write_whole(path: Path, text: str) -> None:
    """Writes `text` to a temporary file beside `path`, then renames: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as out:
            out.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes 0600; a data file is for everyone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
