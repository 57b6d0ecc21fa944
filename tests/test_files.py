"""Reading names the bad line; writing leaves the old file or the new one, and never destroys what a path stands for."""

import errno
import json
import os
import stat
import threading

import pytest

from specdec import files
from specdec.files import BadLine, append_jsonl, read_jsonl, to_json, try_folder, try_output, write_jsonl, write_whole

ROW = {"prompt": "Überschrift 😀"}


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\r\n{"a": 2}\r\n',
        b'\n{"a": 1}\n  \n{"a": 2}',
        b'\xef\xbb\xbf\n{"a": 1}\n{"a": 2}\n',
    ],
    ids=["byte order mark", "Windows lines", "empty lines, no last newline", "mark on an empty line"],
)
def test_read(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert list(read_jsonl(tmp_path / "x")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "line, words",
    [
        (b"{broken", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\\ud83d"}', "lone surrogate"),
        (b'{"a": ["x", {"b\\udc00": 1}]}', "lone surrogate"),
        (b"[" * 100_000, "nested too deep"),
        (b"[1]", "found list"),
        (b'{"b": "x"}', "'a' is missing"),
        (b'{"a": " "}', "'a' is missing or empty"),
    ],
)
def test_bad_line_is_named(tmp_path, line, words):
    (tmp_path / "x").write_bytes(b'{"a": "good"}\n' + line)
    with pytest.raises(BadLine, match=f"x, line 2: .*{words}"):
        list(read_jsonl(tmp_path / "x", required=("a",)))


def test_a_pair_of_surrogates_is_a_character(tmp_path):
    (tmp_path / "x").write_bytes(b'{"a": "\\ud83d\\ude00"}')
    assert list(read_jsonl(tmp_path / "x")) == [{"a": "😀"}]


def test_reading_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError):
        list(read_jsonl(tmp_path))


# --- writing whole ----------------------------------------------------------------------------------------------------


def test_numbers_that_json_lacks_become_null():
    value = {"nan": float("nan"), "list": [float("inf"), (1.5, -float("inf"))], "text": "NaN"}
    assert json.loads(to_json(value)) == {"nan": None, "list": [None, [1.5, None]], "text": "NaN"}


def test_half_a_character_is_kept_as_its_escape(tmp_path):
    write_jsonl(tmp_path / "x", [{"a": "b\udc80"}])
    assert json.loads((tmp_path / "x").read_text()) == {"a": "b\udc80"}


def test_a_link_is_written_through(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to("real")
    write_whole(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    (tmp_path / "open").symlink_to(tmp_path / "folder" / "later")  # leads nowhere yet
    write_whole(tmp_path / "open", "new")
    assert (tmp_path / "folder" / "later").read_text() == "new"


def test_a_device_stays_a_device():
    write_whole("/dev/null", "text")
    append_jsonl("/dev/null", ROW)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_is_written_to(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    text = "x" * 300_000  # more than a pipe takes at once
    for write in (lambda: write_whole(pipe, text), lambda: append_jsonl(pipe, {"a": text})):
        reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
        reader.start()
        write()
        reader.join()
    assert received == [text, json.dumps({"a": text}) + "\n"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_umask_and_modes(tmp_path):
    former = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", "text")
        append_jsonl(tmp_path / "rows", ROW)
    finally:
        os.umask(former)
    assert mode(tmp_path / "new") == mode(tmp_path / "rows") == 0o640
    (tmp_path / "new").chmod(0o604)
    write_whole(tmp_path / "new", "other text")
    assert mode(tmp_path / "new") == 0o604


def test_longest_file_name(tmp_path):
    write_whole(tmp_path / ("x" * 255), "text")
    assert (tmp_path / ("x" * 255)).read_text() == "text"


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")

    def full(_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "x", "new")
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "x")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"], "no temporary file is left"


# --- appending --------------------------------------------------------------------------------------------------------


def test_rows_are_never_glued(tmp_path):
    (tmp_path / "x").write_text('{"a": 1}')
    append_jsonl(tmp_path / "x", {"a": 2})
    append_jsonl(tmp_path / "x", {"a": 3})
    assert (tmp_path / "x").read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'


def test_a_missing_folder_is_made(tmp_path):
    append_jsonl(tmp_path / "a" / "rows", ROW)
    write_jsonl(tmp_path / "b" / "c" / "rows", [ROW])
    assert list(read_jsonl(tmp_path / "a" / "rows")) == list(read_jsonl(tmp_path / "b" / "c" / "rows")) == [ROW]


def test_half_a_row_is_taken_back(tmp_path):
    """A limit on the file's size stands for the full disk: both let a write through in part."""
    import resource
    import signal

    append_jsonl(tmp_path / "x", ROW)
    before = (tmp_path / "x").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        with pytest.raises(OSError):
            append_jsonl(tmp_path / "x", ROW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert (tmp_path / "x").read_bytes() == before


# --- before the work --------------------------------------------------------------------------------------------------


def test_outputs_that_can_be_written_are_left_alone(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    for path in ("file", "link", "new", "missing/folder/new"):
        try_output(tmp_path / path)
    try_output("/dev/null")
    try_folder(tmp_path)
    try_folder(tmp_path / "missing" / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"] and (tmp_path / "file").read_text() == "old"


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for trial, path, number in (
        (try_output, tmp_path, errno.EISDIR),
        (try_output, tmp_path / "file" / "x", errno.ENOTDIR),
        (try_output, tmp_path / "loop", errno.ELOOP),
        (try_output, tmp_path / ("x" * 256), errno.ENAMETOOLONG),
        (try_folder, tmp_path / "file", errno.ENOTDIR),
    ):
        with pytest.raises(OSError) as error:
            trial(path)
        assert error.value.errno == number


def test_write_protection(tmp_path, monkeypatch):
    """Told by the system and not by the bits alone: root may write what the bits forbid, and nobody a read-only disk."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(files.os, "access", lambda path, _: False)
    with pytest.raises(PermissionError):
        try_output(tmp_path / "file")
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "file", "text")

    def read_only(dir):
        raise OSError(errno.EROFS, "read-only", str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", read_only)
    for trial in (try_output, try_folder):
        with pytest.raises(OSError) as error:
            trial(tmp_path / "new")
        assert error.value.errno == errno.EROFS and error.value.filename == str(tmp_path / "new")
