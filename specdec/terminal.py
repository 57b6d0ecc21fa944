"""What every script says to a person, and how: one-line problems, prose on stderr, JSON on stdout.

`rich` honours NO_COLOR by itself and drops styling when its stream is not a terminal.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path

from specdec.files import write_whole


class Problem(Exception):
    """Bad input or a missing means. The message is one line: what is wrong, then what to do."""


def say(message: str) -> None:
    """Prints one line of prose on stderr, so that stdout holds data alone."""
    print(message, file=sys.stderr, flush=True)


def console(stderr: bool = False):
    """rich's console; into a pipe it writes 120 columns wide, for rich's own 80 would fold the tables."""
    from rich.console import Console

    stream = Console(highlight=False, stderr=stderr)
    if not stream.is_terminal:
        stream.width = 120
    return stream


def put_json(value: object, target: str) -> None:
    """Writes `value` as JSON to the file `target`, or to stdout when `target` is "-"."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        write_whole(Path(target), text)


def run(main: Callable[[], int | None]) -> None:
    """Runs a script's `main` and turns the failures a user can mend into one line and exit status 1.

    Anything else is a bug of ours and keeps its traceback.
    """
    try:
        status = main() or 0
    except Problem as problem:
        say(f"error: {problem}")
        status = 1
    except BrokenPipeError:  # the reader of our stdout (head, less) left: not an error
        sys.stderr.close()
        status = 0
    except KeyboardInterrupt:
        say("stopped by Ctrl-C.")
        status = 130
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        say(f"error: cannot write {fault.filename or 'a file'}: {fault.strerror}. Free space or choose another path.")
        status = 1
    except RuntimeError as fault:
        # torch.OutOfMemoryError is a RuntimeError; naming it would import torch for every --help.
        if type(fault).__name__ != "OutOfMemoryError":
            raise
        say("error: the GPU is out of memory. Try a smaller pair, --quantization nf4, a smaller batch or fewer tokens.")
        status = 1
    sys.exit(status)
