"""JSON Lines files: one object a line, read with line numbers, written whole or row by row."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: JSON can spell it (\ud83d), UTF-8 cannot hold it


class BadLine(ValueError):
    """A line that is not the object it should be; the message carries file and line number."""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_jsonl(path: str | Path, required: Iterable[str] = ()) -> Iterator[dict]:
    """Yields the object on every non-blank line of `path`. A byte order mark, which Windows editors write, is skipped.

    Raises:
        OSError: no such file, a folder, no permission.
        BadLine: a line is not UTF-8, not a JSON object, holds half a character, or lacks a non-empty string for a key in
            `required`.
    """
    required = tuple(required)
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                row = parse_line(line)
            except ValueError as error:
                raise BadLine(f"{path}, line {number}: {error}") from None
            for key in required:
                if not isinstance(row.get(key), str) or not row[key].strip():
                    raise BadLine(f"{path}, line {number}: '{key}' is missing or empty")
            yield row


def parse_line(line: bytes) -> dict:
    """Raises ValueError, which says what is wrong with the line."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("UTF-16, where UTF-8 is expected")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from None
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deep") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected, found {type(row).__name__}")
    if "\\u" in text and LONE_SURROGATE.search(json.dumps(row, ensure_ascii=False)):
        raise ValueError("half a character (a lone surrogate such as \\ud83d), which no text can hold")
    return row


# --- writing ----------------------------------------------------------------------------------------------------------


def to_json(value: object, indent: int | None = None, ascii_only: bool = False) -> str:
    """JSON of `value`. NaN and the infinities become null: JSON has no such numbers, and strict readers refuse the file."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    except ValueError:  # a number that is not finite, somewhere; rare, so only then is the value copied
        return json.dumps(_finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _finite(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def to_bytes(text: str) -> bytes:
    """UTF-8. Half a character becomes its escape (\\udc80), which JSON reads back: a result is not lost for one byte."""
    return text.encode("utf-8", "backslashreplace")


def to_line(row: dict) -> str:
    return to_json(row) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes all rows or none."""
    write_whole(path, "".join(to_line(row) for row in rows))


def append_jsonl(path: str | Path, row: dict) -> None:
    """Appends one row by one write and hands it to the disk: a stopped run loses nothing that it reported.

    A file whose last line has no end (an editor's, or a copy that broke off) gets one first, so that no two rows are glued.
    A missing folder is made. Raises OSError that names `path`; on a full disk the file is as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        line = to_bytes(to_line(row))
        if _lacks_last_newline(path):
            line = b"\n" + line
        with open(path, "ab", buffering=0) as out:
            _write_row(out, line)
    except OSError as error:
        raise _named(error, path) from None


def _lacks_last_newline(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:  # a pipe or a device has no last line to look at
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _write_row(out, line: bytes) -> None:
    regular = stat.S_ISREG(os.fstat(out.fileno()).st_mode)
    before = os.fstat(out.fileno()).st_size
    written = out.write(line)
    if written == len(line) and regular:
        os.fsync(out.fileno())
    elif regular:  # the disk took a part of it: half a row is no row
        os.ftruncate(out.fileno(), before)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    while written < len(line):  # a pipe may take a long row in parts
        written += out.write(line[written:])


def write_whole(path: str | Path, text: str) -> None:
    """Writes `text` to a temporary file beside `path`, then renames: readers see the old file or the new one, never half.

    A symlink stays and what it points to is replaced; a pipe or a device is written to. An existing file keeps its mode, a
    new one gets what the umask leaves. A missing folder is made. Raises OSError that names `path`; the old file is there.
    """
    try:
        if is_special(path):
            with open(path, "wb", buffering=0) as out:
                _write_row(out, to_bytes(text))
        else:
            _replace(Path(os.path.realpath(path)), to_bytes(text))
    except OSError as error:
        raise _named(error, path) from None


def _replace(path: Path, data: bytes) -> None:
    try_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less what the umask takes away
    try:
        with os.fdopen(handle, "wb") as out:
            if path.exists():
                os.fchmod(handle, stat.S_IMODE(path.stat().st_mode))
            out.write(data)
            out.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def is_special(path: str | Path) -> bool:
    """A device, a pipe or a socket, also through symlinks: something to write to, never to replace."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _named(error: OSError, path: str | Path) -> OSError:
    """The error with the name that the user gave, not that of a temporary file."""
    if isinstance(error, BrokenPipeError):
        return error
    return OSError(error.errno, error.strerror, str(path))


# --- before the work: can it be written at its end? -------------------------------------------------------------------


def try_output(path: str | Path) -> None:
    """Raises the OSError that writing a file at `path` would end in. Changes nothing, and a missing folder is fine."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not os.access(path, os.W_OK):  # a rename would replace a write-protected file all the same
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if is_special(path):
        return
    real = Path(os.path.realpath(path))
    if real.is_symlink():  # links that lead in a circle
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    _try_folder(real.parent, path)


def try_folder(path: str | Path) -> None:
    """The same for a folder that is to hold files."""
    _try_folder(Path(os.path.realpath(path)), Path(path))


def _try_folder(folder: Path, given: Path) -> None:
    """A nameless file is made in the folder, or where the folder would be made: permission bits alone do not tell (root)."""
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _named(error, given) from None
