"""What a script says: one line for what the user can act on, a traceback for what is ours; results stay whatever happens."""

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from specdec import terminal
from specdec.files import BadLine
from specdec.terminal import Problem, check_outputs, console, one_line, put_json, run

ROOT = Path(__file__).resolve().parents[1]


def script(body: str, **options) -> subprocess.Popen:
    """A process whose `main` is `body`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"import os, sys, time\nfrom specdec.terminal import Problem, put_json, run\ndef main():\n{lines}run(main)\n"
    environment = {**os.environ, "PYTHONUNBUFFERED": "", **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes)


def finished(body: str, **options) -> tuple[int, bytes, str]:
    process = script(body, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.decode(errors="replace")


# --- run --------------------------------------------------------------------------------------------------------------


def test_one_line_for_what_a_user_can_act_on(capsys):
    class OutOfMemoryError(RuntimeError):
        """As torch's is named."""

    for error, words in (
        (Problem("no such pair. Name another."), "no such pair. Name another."),
        (BadLine("x, line 2: not JSON"), "x, line 2: not JSON"),
        (FileNotFoundError(errno.ENOENT, "", "x.jsonl"), "x.jsonl: no such file"),
        (IsADirectoryError(errno.EISDIR, "", "folder"), "folder: a folder, where a file is meant"),
        (NotADirectoryError(errno.ENOTDIR, "", "x/y"), "x/y: a file stands where a folder is meant"),
        (PermissionError(errno.EACCES, "", "x"), "x: no permission"),
        (OSError(errno.EROFS, "", "x"), "x: nothing can be written there"),
        (OSError(errno.ENOSPC, ""), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OutOfMemoryError("CUDA"), "the GPU is out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
    ):

        def main(error=error):
            raise error

        with pytest.raises(SystemExit) as end:
            run(main)
        err = capsys.readouterr().err
        assert end.value.code == 1 and words in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("ours"), OSError("no errno"), KeyError("ours")])
def test_errors_of_ours_keep_their_traceback(error):
    def main():
        raise error

    assert one_line(error) is None
    with pytest.raises(type(error)):
        run(main)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_let_a_script_save_what_it_has(number, status, tmp_path):
    body = f"""\
try:
    print("working", flush=True)
    time.sleep(60)
finally:
    put_json([1], {str(tmp_path / "partial.json")!r})"""
    process = script(body)
    assert process.stdout.readline() == b"working\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status and err.decode().startswith("stopped by") and err.count(b"\n") == 1
    assert json.loads((tmp_path / "partial.json").read_text()) == [1]


def test_nohup_is_respected():
    process = script(
        "print('working', flush=True)\ntime.sleep(1)", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        run(lambda: 0)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("lines, status", [(2, 3), (100_000, 0)], ids=["fits the buffer", "does not"])
def test_a_reader_that_leaves(lines, status):
    process = script(f"time.sleep(0.5)\nfor line in range({lines}):\n    print('line', line)\nreturn 3")
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == status and err == b""


def test_a_full_disk_behind_stdout():
    with open("/dev/full", "w") as full:
        status, _, err = finished("print('text')", stdout=full)
    assert status == 1 and "the disk is full" in err and err.count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stdout_that_cannot_say_everything(encoding):
    body = "print('café ’ 😀 \\udc80')\nprint('é’', file=sys.stderr)\nput_json({'a': 'é 😀'}, '-')"
    status, out, err = finished(body, env={"PYTHONIOENCODING": encoding})
    text, _, data = out.decode(encoding).partition("\n")
    assert status == 0 and "Traceback" not in err and text.startswith("caf") and text.endswith("?")
    assert json.loads(data) == {"a": "é 😀"}, "data is escaped, never replaced"


def test_closed_streams():
    assert finished("print('text')\nreturn 3", preexec_fn=lambda: os.close(1))[0] == 3
    assert finished("os.close(2)\nraise Problem('nobody hears')")[0] == 1


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_are_tried_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_outputs(None, "-", "/dev/null", "/dev/null", tmp_path / "a" / "new", folders=(None, tmp_path / "b"))
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    for files, folders, inputs, words in (
        ([tmp_path], [], [], "a folder, where a file is meant"),
        ([tmp_path / "file" / "x"], [], [], "a file stands where a folder is meant"),
        ([], [tmp_path / "file"], [], "a file stands where a folder is meant"),
        ([tmp_path / "file", tmp_path / "." / "link"], [], [], "another output of this command"),
        ([f"{tmp_path}/a/../new", tmp_path / "new"], [], [], "another output of this command"),
        ([tmp_path / "link"], [], [tmp_path / "file"], "it is the input"),
    ):
        with pytest.raises(Problem, match=words):
            check_outputs(*files, folders=folders, inputs=inputs)


def test_json_to_the_device_stdout_joins_what_is_printed(capsys):
    put_json({"a": 1}, "/dev/stdout")
    assert json.loads(capsys.readouterr().out) == {"a": 1}


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, good, values, bad",
    [
        (terminal.random_seed, ["0", "4294967295"], [0, 4294967295], ["-1", "4294967296", "1.5", "x", "9" * 5000]),
        (terminal.positive_int, ["1", "985"], [1, 985], ["0", "-3", "2.0", ""]),
        (terminal.positive_float, ["0.1", "1e3"], [0.1, 1000.0], ["0", "-1", "nan", "inf", "x"]),
        (terminal.float_from_zero, ["0", "2"], [0.0, 2.0], ["-0.1", "nan", "inf"]),
        (terminal.utf8, ["Grüße 😀", ""], ["Grüße 😀", ""], ["\udc80"]),
    ],
)
def test_argument_types(kind, good, values, bad):
    assert [kind(text) for text in good] == values
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


# --- console ----------------------------------------------------------------------------------------------------------


def test_width_of_a_pipe(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == 120
    monkeypatch.setenv("COLUMNS", "40")
    assert console().width == 40
