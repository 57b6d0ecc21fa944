"""What every script says to a person, and how: one-line problems, prose on stderr, JSON on stdout.

`rich` honours NO_COLOR by itself and drops styling when its stream is not a terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from specdec.files import BadLine, is_special, to_json, try_folder, try_output, write_whole

SEEDS = 2**32  # random seeds are below it: NumPy's limit, the lowest of the libraries that take one

REMEDIES = {
    errno.ENOENT: "no such file or folder. Check the path.",
    errno.EISDIR: "a folder, where a file is meant. Name a file.",
    errno.ENOTDIR: "a file stands where a folder is meant. Name another path.",
    errno.EEXIST: "a file stands where a folder is meant. Name another path.",
    errno.EACCES: "no permission. Choose another path, or change who may use it.",
    errno.EPERM: "no permission. Choose another path, or change who may use it.",
    errno.EROFS: "nothing can be written there (read-only). Choose another path.",
    errno.ENOSPC: "the disk is full. Free space, then run again.",
    errno.EDQUOT: "the disk quota is used up. Free space, then run again.",
    errno.EFBIG: "the file would be larger than is allowed here (ulimit -f).",
    errno.EBUSY: "in use by the system, so it cannot be replaced. Choose another path.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
    errno.ELOOP: "the symbolic links lead in a circle. Choose another path.",
    errno.ENXIO: "it cannot be opened as a file. Choose another path.",
}


class Problem(Exception):
    """Bad input or a missing means. The message is one line: what is wrong, then what to do."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP. Raised in `main` as Ctrl-C is, so that what saves partial results then does so now."""


# --- speaking ---------------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    """Prints one line of prose on stderr, so that stdout holds data alone."""
    print(message, file=sys.stderr, flush=True)


def console(stderr: bool = False):
    """rich's console; into a pipe it writes 120 columns wide, for rich's own 80 would fold the tables.

    An exported COLUMNS is obeyed, in a pipe too: it is how a braille line or a test asks for narrow text.
    """
    from rich.console import Console

    stream = Console(highlight=False, stderr=stderr)
    if not stream.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        stream.width = 120
    return stream


def put_json(value: object, target: str) -> None:
    """Writes `value` as JSON to the file `target`, or to stdout when `target` is "-". NaN and infinity become null.

    A script calls it before it prints, so that a reader of its text who leaves takes no result along.
    """
    if target in ("-", "/dev/stdout"):
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        sys.stdout.write(to_json(value, indent=2, ascii_only=not unicode) + "\n")
    else:
        write_whole(target, to_json(value, indent=2) + "\n")


# --- arguments --------------------------------------------------------------------------------------------------------


def check_outputs(
    *files: str | Path | None, folders: Iterable[str | Path | None] = (), inputs: Iterable[str | Path] = ()
) -> None:
    """Called before the work: can its results be written? None and "-" (stdout) pass, a missing parent will be made.

    Raises:
        Problem: a folder is named where a file is meant, or the reverse; the place is read-only or not ours; one file is named
            for two outputs; an output is one of `inputs`, also by another spelling or through a symlink.
    """
    taken = {os.path.realpath(path): f"it is the input {path}" for path in inputs}
    for file in files:
        if file is None or str(file) == "-":
            continue
        _attempt(try_output, file)
        real = os.path.realpath(file)
        if real in taken and not is_special(file):
            raise Problem(f"cannot write {file}: {taken[real]}. Name another file.")
        taken[real] = f"another output of this command goes to {file}"
    for folder in folders:
        if folder is not None:
            _attempt(try_folder, folder)


def _attempt(trial: Callable[[str | Path], None], path: str | Path) -> None:
    try:
        trial(path)
    except OSError as error:
        raise Problem(f"cannot write {path}: {REMEDIES.get(error.errno or 0, error.strerror)}") from None


def _number(text: str, kind: type, good: Callable[[float], bool], meant: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"{text}: {meant} is expected")
    return value


def random_seed(text: str) -> int:
    """An argparse type, as are the next four."""
    return _number(text, int, lambda value: 0 <= value < SEEDS, f"an integer from 0 to {SEEDS - 1}")


def positive_int(text: str) -> int:
    return _number(text, int, lambda value: value >= 1, "an integer of at least 1")


def positive_float(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def float_from_zero(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number of at least 0")


def utf8(text: str) -> str:
    """Text typed on the command line. Bytes that are not UTF-8 reach Python as lone surrogates, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("the text is not UTF-8. Set the terminal to UTF-8, or read it from a file") from None
    return text


# --- running ----------------------------------------------------------------------------------------------------------


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's `main`, turns what a user can act on into one line, and exits.

    Status 0 or what `main` returns; 1 after a problem; 130, 143 or 129 after Ctrl-C, SIGTERM or SIGHUP. A reader of stdout who
    leaves (head, less) ends `main` quietly. Anything else is an error of ours and keeps its traceback.
    """
    restore = catch_signals()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?", not a traceback
    status: int | str | None = 0
    message = None
    try:
        status = main() or 0
        flush_stdout()
    except BrokenPipeError:
        pass
    except SystemExit as end:  # argparse's
        status = end.code
    except KeyboardInterrupt as stop:
        status, message = stopped(stop)
    except Exception as error:
        status, message = 1, one_line(error)
        if message is None:
            raise
    finally:
        restore()
    try:
        flush_stdout()
    except OSError:  # nobody reads any more, or the disk is full
        silence(sys.stdout)
    try:
        if message:
            say(message)
    except OSError:
        silence(sys.stderr)
    sys.exit(status)


def catch_signals() -> Callable[[], None]:
    """SIGTERM and SIGHUP raise Terminated from now on. Returns what puts the former handlers back."""
    if threading.current_thread() is not threading.main_thread():  # Python delivers signals to the main thread alone
        return lambda: None

    def terminate(number: int, _frame) -> None:
        raise Terminated(number)

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in former.items():
        if handler == signal.SIG_DFL:  # nohup has SIGHUP ignored, and so it stays
            signal.signal(number, terminate)

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    return restore


def stopped(stop: KeyboardInterrupt) -> tuple[int, str]:
    """The exit status that shells expect, and what to say."""
    if isinstance(stop, Terminated):
        number = signal.Signals(stop.args[0])
        return 128 + number, f"stopped by {number.name}."
    return 130, "stopped by Ctrl-C."


def one_line(error: Exception) -> str | None:
    """What to tell the user, or None where the error is ours."""
    text = str(error)
    if isinstance(error, Problem):
        return f"error: {text}"
    if isinstance(error, BadLine):
        return f"error: {text}. Correct that line, then run again."
    # torch.OutOfMemoryError is a RuntimeError; naming it would import torch for every --help.
    if type(error).__name__ == "OutOfMemoryError":
        return "error: the GPU is out of memory. Try a smaller pair, --quantization nf4, a smaller batch or fewer tokens."
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return "error: out of memory. Try a smaller pair, a smaller batch or fewer tokens, or close other programs."
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"error: {error.filename or 'output'}: {REMEDIES[error.errno]}"
    if "No space left on device" in text:  # safetensors and torch wrap the system's error in one of their own
        return f"error: {REMEDIES[errno.ENOSPC]}"
    return None


def flush_stdout() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def silence(stream) -> None:
    """Sends what is left in the stream's buffer to nowhere; Python would try again at exit, and complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or no real stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
