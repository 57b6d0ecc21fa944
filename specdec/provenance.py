"""What a result says of itself: the command that made it, its conditions, the machine and the code.

A JSON result holds the keys of `provenance`. A row file begins with a header row of the same keys and a run_id; its rows carry
that run_id. A command that resumes a file adds a header row of its own, so every row names the machine that measured it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path

from specdec.files import BadLine, append_jsonl, read_jsonl, to_line

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")


def command() -> str:
    """The command as typed, paths relative to the repository; of a path outside it the last name alone."""
    module = getattr(sys.modules["__main__"], "__spec__", None)  # set by `python -m NAME`
    script = ["-m", module.name] if module else [portable(sys.argv[0])]
    return "python " + shlex.join([*script, *map(portable, sys.argv[1:])])


def portable(argument: str) -> str:
    """An argument, or the value behind its "=", as a path relative to the repository if it is an absolute one inside it."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    inside = path.resolve().is_relative_to(ROOT)
    return f"{option}{equals}{path.resolve().relative_to(ROOT) if inside else path.name}"


def provenance(conditions: dict) -> dict:
    return {"command": command(), "conditions": conditions, "environment": environment()}


def start_rows(file: Path, conditions: dict, **more) -> str:
    """Appends the header row of this process to a row file and returns the run_id that its rows carry.

    `more` goes into the header beside the conditions: what is worth knowing of the run, and may differ when it is resumed.
    """
    header = {**provenance(conditions), **more}
    begun = len(read_headers(file)) if file.exists() else 0
    identity = json.dumps([begun, header], sort_keys=True, default=str)
    run_id = hashlib.sha256(identity.encode()).hexdigest()[:8]
    append_jsonl(file, {"run_id": run_id, **header})
    return run_id


def is_header(row: dict) -> bool:
    return {"run_id", "command", "conditions", "environment"} <= row.keys()


def read_headers(file: Path) -> dict[str, dict]:
    """run_id → header of a row file."""
    return read_row_file(file)[0]


def read_row_file(file: Path, required: Iterable[str] = ()) -> tuple[dict[str, dict], list[dict]]:
    """(run_id → header, the other rows) of a row file.

    Raises:
        FileNotFoundError: no such file.
        BadLine: a line is not a JSON object, or a row that is no header lacks a non-empty string for a key in `required`.
    """
    headers: dict[str, dict] = {}
    rows = []
    for number, row in enumerate(read_jsonl(file), start=1):
        if is_header(row):
            headers[row["run_id"]] = row
            continue
        for key in required:
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise BadLine(f"{file}, row {number}: '{key}' is missing or empty")
        rows.append(row)
    return headers, rows


class Share:
    """One process's part in the work of several, which write one row file (torchrun and accelerate launch set RANK and
    WORLD_SIZE). Each appends to a file of its own; `join` puts the rows into the file proper, in the order of one process,
    also those that a killed run left behind, but for the row that it was writing. A process alone writes to the file itself.
    """

    def __init__(self, file: Path):
        self.whole, self.file = file, file
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1:
            self.file = file.with_name(f"{file.name}.{self.rank}")

    def of(self, work: list) -> list:
        return work[self.rank :: self.world]

    def join(self) -> None:
        """Waits for the others; then the first process joins the files, and the others wait for that."""
        self._wait()
        beside = sorted(self.whole.parent.glob(f"{glob.escape(self.whole.name)}.*"))
        parts = [file for file in beside if file.suffix[1:].isdecimal()]  # no copy of the user's, such as .2026-11-26 or .1.bak
        if self.rank == 0 and parts:
            for part in parts:
                _cut_half_row(part)
            written = set(map(to_line, read_jsonl(self.whole))) if self.whole.exists() else set()
            found = [read_row_file(part) for part in parts]
            rows = [header for headers, _ in found for header in headers.values()]
            for turn in zip_longest(*(own for _, own in found)):
                rows += [row for row in turn if row]
            for row in rows:
                if to_line(row) not in written:  # every process has the same header; a killed join wrote some rows
                    append_jsonl(self.whole, row)
                    written.add(to_line(row))
            for part in parts:
                part.unlink()
        self._wait()

    def _wait(self) -> None:
        if self.world > 1:
            import torch
            from torch import distributed

            if not distributed.is_initialized():
                if torch.cuda.is_available():
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
                distributed.init_process_group("gloo", timeout=timedelta(days=7))  # one share may take longer than another
            distributed.barrier()


def _cut_half_row(file: Path) -> None:
    """Takes away what stands behind the last whole line: a killed process was writing it."""
    os.truncate(file, file.read_bytes().rfind(b"\n") + 1)


def environment() -> dict:
    """Versions, hardware and git commit, JSON-ready; names no host, user or path.

    threads and gpu are torch's, and null for a command that computes nothing with torch and never imported it.
    """
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_properties(0) if torch and torch.cuda.is_available() else None
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch else None,
        "gpu": gpu and {"name": gpu.name, "bytes": gpu.total_memory},
        "platform": f"{sys.platform} {platform.machine()}",
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_code": bool(_git("status", "--porcelain", "--", "*.py", "requirements*.txt")),  # results are being written
    }


def peak_memory_bytes() -> dict:
    """Peak resident memory of this process, and peak allocated memory of the GPU if there is one."""
    import resource

    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return {
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "gpu": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # a download without git history
        return None
