"""The code domain: licences and files left out and counted, where a file is cut, what the shipped files hold."""

import io
import json
import random
import re
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from domains import code, code_packages
from domains.code_packages import Package, left_out_for, licence_rules, permissive, pinned, read_sources
from specdec.terminal import Problem

COPYRIGHT = """Format: machine-readable

Files: *
License: Expat

Files: src/gpl/*
License: GPL-3+
"""


def lua_file(word: str, functions: int = 12) -> str:
    """A file of functions that no other `word` shares a line with."""
    parts = [f"local {word} = {{}}\n"]
    for number in range(functions):
        parts.append(
            f"-- Adds {word} number {number} to the running total of the {word} table that is kept here,\n"
            f"-- and gives back the {word} total that it came to in step {number}.\n"
            f"function {word}.step_{number}(total, amount)\n"
            f"  local {word}_sum_{number} = total + amount * {number}\n"
            f"  if {word}_sum_{number} > {number} then\n"
            f"    {word}.last = {word}_sum_{number}\n"
            f"  end\n"
            f"  return {word}_sum_{number}\n"
            f"end\n"
        )
    return "\n".join(parts) + f"\nreturn {word}\n"


def put_source(cache: Path, package: Package, files: dict[str, str], metadata: tuple[str, str]) -> Path:
    """The package's folder in the cache: one archive, its files under a wrapping folder."""
    folder = cache / f"{package.client}-{package.name}-{package.version}"
    folder.mkdir(parents=True)
    with tarfile.open(folder / f"{package.name}.tar.gz", "w:gz") as archive:
        for path, text in {**files, metadata[0]: metadata[1]}.items():
            member = tarfile.TarInfo(f"wrapper/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return folder


PINS = "lua test apt one==1 two==1\nlua train npm three==1"


@pytest.fixture
def cache(tmp_path):
    one, two, three = pinned(PINS)
    put_source(
        tmp_path / "cache",
        one,
        {"src/ash.lua": lua_file("ash"), "src/elm.lua": lua_file("elm")},
        ("debian/copyright", COPYRIGHT),
    )
    put_source(
        tmp_path / "cache",
        two,
        {"src/oak.lua": lua_file("oak"), "src/gpl/yew.lua": lua_file("yew")},
        ("debian/copyright", COPYRIGHT),
    )
    put_source(tmp_path / "cache", three, {"lib/fir.lua": lua_file("fir", 40)}, ("package.json", '{"license": "ISC"}'))
    return tmp_path / "cache"


def build(cache: Path, pins: str = PINS) -> dict[str, list[dict]]:
    return code.build(pinned(pins), cache, cache.parent / "code_packages.jsonl")


# --- licences and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "licence"),
    [
        ("Expat", "MIT"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("MIT OR GPL-2.0-or-later", "MIT"),
        ("BSD License", "BSD"),
        ("GPL-2+ or BSD-2-clause", "BSD-2-Clause"),
        ("Expat and BSD-3-clause", "MIT AND BSD-3-Clause"),
        ("(MIT)", "MIT"),
        ("MIT/Apache-2.0", "MIT"),
        ("Expat and GPL-2", None),
        ("GPL-3+", None),
        ("MPL-2.0", None),
        ("none named", None),
        ("", None),
    ],
)
def test_a_licence_counts_only_when_all_it_asks_is_permissive(expression, licence):
    assert permissive(expression) == licence


def test_metadata_name_the_licence():
    assert licence_rules("npm", b'{"license": "MIT"}') == [("*", "MIT")]
    assert licence_rules("npm", b"{}") == [("*", "none named")]
    assert licence_rules("pip", b"Name: x\nLicense-Expression: ISC\n") == [("*", "ISC")]
    assert licence_rules("pip", b"License: -\nClassifier: License :: OSI Approved :: BSD License\n") == [("*", "BSD License")]
    assert licence_rules("apt", COPYRIGHT.encode()) == [("*", "Expat"), ("src/gpl/*", "GPL-3+")]


def test_other_licences_are_left_out_and_counted(tmp_path):
    package = Package("lua", "test", "apt", "one", "1")
    folder = put_source(
        tmp_path,
        package,
        {
            "src/ash.lua": lua_file("ash"),
            "src/gpl/yew.lua": lua_file("yew"),
            "src/elm.lua": "-- under the GNU General Public thing\n" + lua_file("elm"),
            "src/oak.lua": "-- SPDX-License-Identifier: MPL-2.0\n" + lua_file("oak"),
            "src/fir.lua": "-- SPDX-License-Identifier: ISC OR GPL-2.0\n" + lua_file("fir"),
        },
        ("debian/copyright", COPYRIGHT),
    )
    sources, left_out = read_sources(package, folder, set())
    assert [(source.path, source.licence) for source in sources] == [("src/ash.lua", "MIT"), ("src/fir.lua", "ISC")]
    assert left_out == {"licence: GPL-3+": 1, "licence: GNU General Public": 1, "licence: MPL-2.0": 1}


def test_a_package_that_names_no_licence_is_left_out(tmp_path):
    package = Package("lua", "test", "apt", "one", "1")
    folder = put_source(tmp_path, package, {"src/ash.lua": lua_file("ash")}, ("debian/control", "Source: one\n"))
    assert read_sources(package, folder, set()) == ([], {"licence: none named": 1})


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("src/a.js", "x();\n" * 40, None),
        ("third_party/a.js", "x();\n" * 40, "vendored"),
        ("node_modules/b/a.js", "x();\n" * 40, "vendored"),
        ("test/a.js", "x();\n" * 40, "tests, examples, packaging"),
        ("src/a.test.js", "x();\n" * 40, "tests, examples, packaging"),
        ("src/contest.js", "x();\n" * 40, None),
        ("src/vendors.js", "x();\n" * 40, None),
        ("dist/a.js", "x();\n" * 40, "generated"),
        ("src/a.js", "// DO NOT EDIT\n" + "x();\n" * 40, "generated"),
        ("src/a.js", "x();\n" * 39 + "y" * 500, "minified, or with very long lines"),
        ("src/a.js", "0x12, 345, 678,\n" * 40, "a table of numbers"),
        ("src/a.js", "x();\n" * 9, "under 30 lines"),
        ("src/a.js", "x('\ufffd');\n" * 40, "not UTF-8"),
    ],
)
def test_files_that_nobody_wrote_are_left_out(path, text, reason):
    assert left_out_for(path, text) == reason


def test_the_same_file_in_another_package_is_a_duplicate(tmp_path):
    seen: set[str] = set()
    for name, expected in ("one", {}), ("two", {"duplicate": 1}):
        package = Package("lua", "test", "npm", name, "1")
        spaces = "\n" if name == "two" else ""  # white space does not make it another file
        folder = put_source(tmp_path, package, {"a.lua": lua_file("ash") + spaces}, ("package.json", '{"license": "MIT"}'))
        assert read_sources(package, folder, seen)[1] == expected


def test_a_wheel_is_read_too(tmp_path):
    package = Package("python", "test", "pip", "one", "1")
    folder = tmp_path / "pip-one-1"
    folder.mkdir()
    with zipfile.ZipFile(folder / "one-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("one/a.py", "value = 'text'\n" * 40)
        wheel.writestr("one/binary.so", b"\0")
        wheel.writestr("one-1.dist-info/METADATA", "Name: one\nLicense-Expression: MIT\n")
    assert [source.path for source in read_sources(package, folder, set())[0]] == ["one/a.py"]


# --- cuts ---------------------------------------------------------------------------------------------------------------

C_FILE = """int unrelated(void) { return 0; }

/* Adds the two numbers, and says what they come to, which is never more than the limit that was set before. */
static int add(int first,
               int second)
{
    /* Never more than the limit, for the callers of this function rely on it everywhere. */
    if (first > second) {
        return second;
    }
    int total = first + second;  /* the limit is looked at later, by the one who called */
    return total;
}
"""
PYTHON_FILE = '''TEXT = """
# not a comment, though it begins like one and is as long as one that would be taken for a prompt is
def not_a_function():
    """


def add(first, second):
    """Adds the two numbers.

    What they come to is not checked.
    """
    return first + second
'''


def places(text: str, language: str, kind: str) -> list[str]:
    """The line before each cut of that kind."""
    lines = text.split("\n")
    return [lines[line - 1] for found, line, _ in code.cuts(lines, language, random.Random(0)) if found == kind]


def test_cuts_of_c():
    assert places(C_FILE, "c", "signature") == ["{"]  # and not after `if (first > second) {`, which a comment precedes too
    assert [place.strip()[:6] for place in places(C_FILE, "c", "comment")] == ["/* Add", "/* Nev"]  # not the one beside code


def test_cuts_of_python():
    assert places(PYTHON_FILE, "python", "signature") == ['    """']
    assert places(PYTHON_FILE, "python", "comment") == []
    assert "# not a comment" in PYTHON_FILE  # the negative control would be taken, were it not inside a text:
    assert len(places(PYTHON_FILE.replace('TEXT = """', ""), "python", "comment")) == 1


SIGNATURES = {  # → is where the prompt ends
    "cpp": "// Gives it back.\ntemplate <class T>\nint size(const T& all) {\n→  return 1;\n}\n",
    "java": "/** Gives it back. */\n@Override\npublic int size() {\n→  return 1;\n}\n",
    "lua": "-- Gives it back.\nlocal function size(all)\n→  return #all\nend\n",
    "haskell": "-- | Gives it back.\nsize :: Show a\n     => [a] -> Int\n→size = length\n",
    "ruby": "# Gives it back.\ndef size(all)\n→  all.length\nend\n",
    "zig": "/// Gives it back.\npub fn size(all: []u8) usize {\n→    return all.len;\n}\n",
    "elixir": '@doc """\nGives it back.\n"""\n@spec size(list) :: integer\ndef size(all) do\n→  length(all)\nend\n',
    "ocaml": "(** Gives it back. *)\nlet size all =\n→  List.length all\n",
    "go": "// Size gives it back.\nfunc Size(all []int) int {\n→\treturn len(all)\n}\n",
    "rust": "/// Gives it back.\n#[inline]\npub fn size(all: &[u8]) -> usize {\n→    all.len()\n}\n",
    "javascript": "// Gives it back.\nexport function size (all) {\n→  return all.length\n}\n",
}


@pytest.mark.parametrize("language", SIGNATURES)
def test_a_signature_is_found_in_every_language(language):
    prompt, reference = SIGNATURES[language].split("→")
    lines = (prompt + reference).split("\n")
    ends = [line for kind, line, _ in code.cuts(lines, language, random.Random(0)) if kind == "signature"]
    assert ends == [prompt.count("\n")]
    assert places("\n".join(lines[1:]), language, "signature") == []  # without its comment it is not taken


def test_a_partial_line_ends_inside_code_and_never_with_a_space():
    lines = C_FILE.split("\n")
    drawn = [(line, column) for kind, line, column in code.cuts(lines, "c", random.Random(1)) if kind == "partial"]
    assert drawn
    for line, column in drawn:
        assert not lines[line].lstrip().startswith("/*")
        assert lines[line][column] == " " and lines[line][column - 1] != " " and lines[line][:column].strip()


def test_prompt_and_reference_are_one_stretch_of_the_file():
    text = lua_file("ash")
    lines, kinds = text.split("\n"), Counter()
    for kind, line, column in code.cuts(lines, "lua", random.Random(2)):
        if found := code.prompt_at(lines, line, column):
            prompt, reference = found
            kinds[kind] += 1
            assert prompt + reference in text
            assert len(prompt) <= code.PROMPT and 5 <= prompt.count("\n") <= 25
            assert prompt.endswith("\n") != (kind == "partial")
    assert set(kinds) == set(code.KINDS)


def test_no_prompt_at_the_edges_of_a_file_nor_before_an_empty_line():
    lines = lua_file("ash").split("\n")
    assert code.prompt_at(lines, 2, 0) is None  # too little before
    assert code.prompt_at(lines, len(lines), 0) is None  # nothing after
    empty = lines.index("", 30)
    assert code.prompt_at(lines, empty, 0) is None
    assert code.prompt_at(lines, empty + 1, 0) is not None


@pytest.mark.parametrize(
    "text", ["see https:" + "//a.b", "mail me@example.net", "at example.org", "Copyright 2020", "open('/home/me')", "x" * 201]
)
def test_addresses_machines_and_licence_texts_are_not_taken(text):
    assert not code.clean(text)
    assert code.clean("value = self.communicate(1)  # import org.apache, std.io, a @decorator")


# --- the build ----------------------------------------------------------------------------------------------------------


def test_build_keeps_packages_apart_and_can_be_repeated(cache):
    built = build(cache)
    assert {row["package"] for row in built["test"]} == {"one", "two"}
    assert {row["package"] for row in built["train"]} == {"three"}
    assert Counter(row["kind"] for row in built["test"]).keys() == set(code.KINDS)
    assert max(Counter((row["package"], row["path"]) for row in built["test"]).values()) <= code.PER_FILE
    assert built == build(cache)
    table = {row["package"]: row for row in built["packages"]}
    assert table["two"]["left_out"] == {"licence: GPL-3+": 1} and table["two"]["licences"] == {"MIT": 1}
    assert len(table["one"]["archives"]["one.tar.gz"]) == 64


def test_near_duplicates_are_dropped(tmp_path):
    def draw(texts):
        sources = [
            code.Source(Package("lua", "train", "npm", "one", "1"), f"{number}.lua", "MIT", text.split("\n"))
            for number, text in enumerate(texts)
        ]
        return code.draw(sources, "train", 100, random.Random(0), set())

    copy = lua_file("ash").replace("local ash = {}", "local ash = {} -- a copy, changed in its first line")
    alone, dropped = draw([lua_file("ash")])
    both, more_dropped = draw([lua_file("ash"), copy])
    apart, _ = draw([lua_file("ash"), lua_file("elm")])
    assert more_dropped > dropped and len(both) < len(apart)
    taken = set()
    for row in both:
        assert not code.windows(row["text"]) & taken
        taken |= code.windows(row["text"])


def test_an_unreachable_index_is_named_and_the_cache_used(cache, monkeypatch, capsys):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(code_packages.subprocess, "run", fail)
    built = build(cache, PINS + "\nlua train sdist four==2.0")
    assert built["test"] and built["train"]
    assert "four==2.0 (sdist)" in capsys.readouterr().err
    with pytest.raises(Problem, match="no zig files to test with.*indexes"):
        build(cache, PINS + "\nzig test pip five==1")
    monkeypatch.setattr(code_packages.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError("npm")))
    build(cache, PINS + "\nlua train npm six==1")
    assert "six==1 (npm)" in capsys.readouterr().err


def test_an_archive_is_fetched_once_by_its_client(cache, monkeypatch):
    commands = []

    def fetch(command, cwd, **_):
        commands.append(command)
        package = Package("lua", "train", "npm", "four", "1")
        folder = put_source(cwd, package, {"lib/box.lua": lua_file("box", 40)}, ("package.json", '{"license": "MIT"}'))
        (folder / "four.tar.gz").rename(cwd / "four-1.tgz")
        folder.rmdir()
        (cwd / "four-1.dsc").write_text("no archive")

    monkeypatch.setattr(code_packages.subprocess, "run", fetch)
    for _ in range(2):
        built = build(cache, PINS + "\nlua train npm four==1")
    assert len(commands) == 1 and commands[0][:2] == ["npm", "pack"] and commands[0][-1] == "four@1"
    assert {row["package"] for row in built["train"]} == {"three", "four"}
    assert list(built["packages"][-1]["archives"]) == ["four-1.tgz"]


def test_another_archive_than_the_recorded_one_is_refused(cache):
    built = build(cache)
    code.write_jsonl(cache.parent / "code_packages.jsonl", built["packages"])
    build(cache)
    (cache / "apt-two-1" / "two.tar.gz").write_bytes(b"another")
    with pytest.raises(Problem, match="recorded for two: remove it"):
        build(cache)
    (cache.parent / "code_packages.jsonl").unlink()
    with pytest.raises(Problem, match="two.tar.gz is damaged"):
        build(cache)


def test_main_writes_the_three_files(cache, cli, monkeypatch):
    monkeypatch.setattr(code, "pinned", lambda: pinned(PINS))
    target = cache.parent / "data"
    status, out, err = cli(code, "--cache", cache, "--output-dir", target)
    assert (status, out) == (0, "")
    assert "licence: GPL-3+" in err and "lua test:" in err
    assert sorted(file.name for file in target.iterdir()) == ["code_packages.jsonl", "code_test.jsonl", "code_train.jsonl"]
    monkeypatch.setattr(code, "pinned", lambda: pinned("zig test apt none==1"))
    monkeypatch.setattr(code_packages, "fetch", lambda *_: (_ for _ in ()).throw(OSError()))
    status, _, err = cli(code, "--cache", cache, "--output-dir", target)
    assert status == 1 and err.count("error:") == 1 and "no zig files" in err


# --- the shipped files --------------------------------------------------------------------------------------------------

LISTED = ("code_test.jsonl", "code_train.jsonl", "code_packages.jsonl")


def test_the_shipped_counts():
    prompts, snippets = code.rows_of("test"), code.training_snippets()
    assert Counter(row["language"] for row in prompts) == dict.fromkeys(code.GROUP, code.PROMPTS)
    assert all(row["query_type"] == row["language"] for row in prompts), "so that evaluation groups by language"
    assert Counter(row["language"] for row in snippets) == {name: code.SNIPPETS[group] for name, group in code.GROUP.items()}
    balanced = code.training_snippets(mix="balanced")
    assert Counter(row["language"] for row in balanced) == dict.fromkeys(code.GROUP, code.BALANCED)
    kinds = Counter((row["language"], row["kind"]) for row in prompts)
    assert set(kinds.values()) == {13, 14}
    for row in prompts:
        assert len(row["prompt"]) <= code.PROMPT and row["reference"] and row["domain"] == "code"
        assert row["group"] == code.GROUP[row["language"]] and row["source"] in ("pip", "npm", "apt")
    assert sum((code.HERE / name).stat().st_size for name in LISTED) < 2_500_000


def test_the_shipped_rows_keep_test_and_training_apart():
    prompts, snippets = code.rows_of("test"), code.rows_of("train")
    assert not {row["package"] for row in prompts} & {row["package"] for row in snippets}
    windows: Counter = Counter()
    for row in prompts + snippets:
        windows.update(code.windows(row.get("text") or row["prompt"] + row["reference"]))
    assert max(windows.values()) == 1


def test_the_shipped_packages_are_the_pinned_ones():
    table = [json.loads(line) for line in (code.HERE / "code_packages.jsonl").read_text().splitlines()]
    assert [(row["language"], row["split"], row["package"], row["version"]) for row in table] == [
        (package.language, package.split, package.name, package.version) for package in pinned()
    ]
    used = {(row["package"], row["version"], row["licence"]) for row in code.rows_of("test") + code.rows_of("train")}
    for row in table:
        assert row["archives"] and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in row["archives"].values())
        assert all(part in code_packages.LICENCES for licence in row["licences"] for part in licence.split(" AND "))
    assert used <= {(row["package"], row["version"], licence) for row in table for licence in row["licences"]}
    languages = Counter(row["language"] for row in table)
    assert languages.pop("elixir") == 2 and min(languages.values()) >= 6 and languages.keys() == code.GROUP.keys() - {"elixir"}


def test_the_shipped_texts_hold_no_address_and_no_path_of_a_machine():
    for row in code.rows_of("test") + code.rows_of("train"):
        assert code.clean(row.get("text") or row["prompt"] + row["reference"])
        assert not row["path"].startswith("/")
    for name in (*LISTED, "code.py", "code_packages.py", "CODE_CARD.md"):
        text = (code.HERE / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<!r\"):/" + r"/\w", text)
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/\w", text)


def test_reading_asks_for_what_there_is(monkeypatch, tmp_path):
    assert {row["language"] for row in code.rows_of("test", ["zig", "c"])} == {"zig", "c"}
    assert code.rows_of("test", []) == []
    with pytest.raises(Problem, match="no such language: cobol"):
        code.rows_of("test", ["cobol"])
    with pytest.raises(Problem, match="no such mix: even"):
        code.training_snippets(mix="even")
    monkeypatch.setattr(code, "HERE", tmp_path)
    with pytest.raises(Problem, match="Rebuild it"):
        code.rows_of("test")


def test_the_card_counts_what_is_shipped():
    card = (code.HERE / "CODE_CARD.md").read_text(encoding="utf-8")
    table = code.read(code.HERE / "code_packages.jsonl")
    assert f"# {len(code.rows_of('test'))} code prompts and {len(code.rows_of('train'))} training snippets" in card
    packages = Counter((row["language"], row["split"]) for row in table)
    for language, group in code.GROUP.items():
        drawn = len(code.rows_of("train", [language]))
        assert (
            f"| {language} | {group} | {packages[language, 'test']} | {packages[language, 'train']} | {code.PROMPTS} | "
            f"{code.SNIPPETS[group]} | {drawn} |"
        ) in card
    left_out = Counter()
    for row in table:
        left_out.update(row["left_out"])
    files = sum(row["files"] for row in table)
    assert f"Of {files + left_out.total():,} files of these languages in the packages, {files:,} may be cut" in card
    by_licence = {reason: count for reason, count in left_out.items() if reason.startswith("licence: ")}
    assert f"| {sum(by_licence.values())} | a licence that" in card
    for reason in left_out.keys() - by_licence.keys():
        assert f"| {left_out[reason]:,} | {reason}" in card
