"""Where the files of domains/code.py come from: pinned packages, their licences, and which of their files are taken.

Packages are fetched by their own clients, pip, npm and apt, into a cache; nothing is installed and no build script is run.
A package serves one language and one split, so that no package stands on both sides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from email import message_from_string
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from specdec.terminal import Problem, say

# language, split, client, name==version …  `sdist` is pip's source archive; apt's versions are Debian's, see APT below.
PACKAGES = """
python test pip attrs==26.1.0 werkzeug==3.1.9 networkx==3.6.1 httpx==0.28.1 rich==15.0.0
python train pip flask==3.1.3 fastapi==0.163.2 pytest==9.2.0 sympy==1.14.0 boltons==26.2.0 marshmallow==4.4.0
cpp test apt leveldb==1.23-4 yaml-cpp==0.8.0+dfsg-7 box2d==2.4.1-3 simdjson==3.0.1-1 google-glog==0.6.0-2
cpp train apt abseil==20240722.0-4 spdlog==1:1.15.2+ds-2 catch2==3.7.1-0.5 double-conversion==3.2.1-1 benchmark==1.9.1-1
cpp train apt snappy==1.1.9-3 pugixml==1.13-0.2
java test apt libgoogle-gson-java==2.10.1-1 guava-libraries==32.0.1-1 jsoup==1.15.3-1 commons-io==2.19.0-1 picocli==4.6.2-2
java train apt libcommons-compress-java==1.27.1-2 mockito==3.3.0-2 jackson-core==2.14.1-2~deb12u1 zxing==3.4.1+ds-1
java train apt libcommons-lang3-java==3.12.0-2+deb12u1 libcommons-codec-java==1.15-1
lua test apt rspamd==3.12.1-1 luarocks==3.8.0+dfsg1-1 vis==0.8-1 tarantool==2.6.0-1.2
lua train apt neovim==0.7.2-7 luajit==2.1.0~beta3+git20220320+dfsg-4.1+deb12u1 love==11.4-1
lua train npm @rbxts/cmdr==1.12.1
haskell test apt haskell-aeson==2.1.2.1-6 haskell-megaparsec==9.5.0-1 haskell-lens==5.2.3-2 haskell-warp==3.3.31-2
haskell test apt haskell-brick==0.68.1-1
haskell train apt haskell-conduit==1.3.6-1 haskell-yesod-core==1.6.24.0-1 haskell-attoparsec==0.14.4-4 haskell-shake==0.19.7-1
haskell train apt haskell-servant-server==0.19.1-1 haskell-unordered-containers==0.2.20-3
ruby test apt puma==5.6.5-3+deb12u1 ruby-nokogiri==1.18.2+dfsg-1 passenger==6.0.26+ds-1.1 grpc==1.51.1-3
ruby train apt rails==2:6.1.7.10+dfsg-1~deb12u2 ruby3.3==3.3.8-2 subversion==1.14.2-4+deb12u1
ruby train npm react-native==0.76.0 expo-modules-autolinking==58.0.4
zig test pip ziglang==0.16.0
zig test sdist zttp==0.0.35 zsasa==0.11.0 vapoursynth-vszip==23.1.0 zigfitsio==0.2.0
zig train sdist zuvloop==0.0.17 saltare==1.13.0 secretsweeper==0.2.0
zig train npm zigar-compiler==0.15.2
zig train pip pyz3==0.11.0
elixir test apt elixir-lang==1.14.0.dfsg-2
elixir train apt elixir-earmark-parser==1.4.46-1
ocaml test apt lwt==5.6.1-1 cmdliner==1.1.1-1 ppxlib==0.27.0-2 yojson==2.0.2-2 ounit==2.2.6-1
ocaml train apt ocaml-dune==3.17.2-1 janest-base==0.15.1-1 ocaml-odoc==2.1.1+dfsg-2 ocaml-alcotest==1.6.0-1
c test apt libuv1==1.50.0-2 jansson==2.14-2 lua5.4==5.4.7-1 tmux==3.5a-3 hiredis==1.2.0-6
c train apt lz4==1.10.0-4 libyaml==0.2.5-2 cmark==0.30.2-6 quickjs==2025.04.26-1 json-c==0.16-2 bearssl==0.6+dfsg.1-3
go test apt golang-github-spf13-cobra==1.8.1-1 golang-github-gorilla-mux==1.8.1-1 golang-logrus==1.9.0-1
go test apt golang-golang-x-net==1:0.27.0-2 golang-github-yuin-goldmark==1.7.4-1
go train apt golang-github-spf13-viper==1.10.1-1 golang-github-urfave-cli==1.22.9-2 golang-golang-x-text==0.22.0-1
go train apt golang-golang-x-tools==1:0.25.0+ds-1 golang-gopkg-yaml.v3==3.0.1-3
rust test sdist ruff==0.17.5 tokenizers==0.23.3 maturin==1.16.0 granian==2.8.7 pydantic-core==2.50.4
rust train sdist cryptography==50.0.2 rpds-py==2026.9.1 whenever==0.11.0 prek==0.5.10
rust train apt sccache==0.10.0-4
javascript test npm express==5.3.0 fastify==5.12.8 eslint==10.15.0 undici==8.12.4 ws==8.23.0
javascript train npm webpack==5.112.2 mocha==12.0.3 koa==3.2.1 @hapi/hapi==21.4.10 pino==10.4.0 knex==3.3.0
"""
APT = "apt needs deb-src lines for Debian bookworm, trixie and forky, then `apt-get update`"

LICENCES = {  # the permissive ones, by the names that packages give them; every other name is left out and counted
    "MIT": "mit expat x11",
    "Apache-2.0": "apache-2.0 apache-2 apache apache-software asl-2.0",
    "ISC": "isc",
    "BSD-2-Clause": "bsd-2-clause bsd-2 bsd2",
    "BSD-3-Clause": "bsd-3-clause bsd-3 bsd3 new-bsd",
    "BSD": "bsd",
    "PSF-2.0": "psf-2.0 psf python-2.0 python-software-foundation",
    "Zlib": "zlib",
    "Unlicense": "unlicense",
    "BSL-1.0": "bsl-1.0 boost-1.0 boost",
    "CC0-1.0": "cc0-1.0 cc0",
    "0BSD": "0bsd",
}
PERMISSIVE = {name: licence for licence, names in LICENCES.items() for name in names.split()}
OWN_LICENCE = re.compile(
    r"SPDX-License-Identifier: *([\w.+-]+(?: (?:OR|AND|WITH) [\w.+-]+)*)"
    r"|((?:GNU \w* ?General|Mozilla|Eclipse) Public)"
)

ENDINGS = {
    "python": ".py",
    "cpp": ".cc .cpp .cxx .hpp .h",
    "java": ".java",
    "lua": ".lua",
    "haskell": ".hs",
    "ruby": ".rb",
    "zig": ".zig",
    "elixir": ".ex .exs",
    "ocaml": ".ml",
    "c": ".c",
    "go": ".go",
    "rust": ".rs",
    "javascript": ".js .mjs .cjs",
}
METADATA = {
    "apt": r"^debian/copyright$",
    "npm": r"^package\.json$",
    "pip": r"^[^/]+\.dist-info/METADATA$",
    "sdist": r"^PKG-INFO$",
}
VENDORED = re.compile(r"(^|/)(third[-_]?party|_?vendor(ed)?|node_modules|externals?|extern|deps|bundled|contrib|subprojects)/")
TESTS = re.compile(
    r"(^|/)(tests?|testing|[\w-]+[-_]tests?|testdata|testsuite|specs?|fixtures?|__tests__|examples?|samples?"
    r"|demos?|bench\w*|debian)/|(^|/)(test[-_.][^/]*|[^/]*[-_.](test|tests|spec|bench)\.\w+|conftest\.py)$"
)
GENERATED_PATH = re.compile(r"(^|/)(dist|generated|gen)/|\.min\.\w+$|\.pb\.\w+$|[._]generated\.")
GENERATED = re.compile(r"do not edit|auto-?generated|@generated|automatically generated|generated (by|from)|__esModule", re.I)


class Package(NamedTuple):
    language: str
    split: str
    client: str
    name: str
    version: str


class Source(NamedTuple):
    package: Package
    path: str
    licence: str
    lines: list[str]


def pinned(text: str = PACKAGES) -> list[Package]:
    packages = []
    for line in text.strip().split("\n"):
        language, split, client, *pins = line.split()
        packages += [Package(language, split, client, *pin.rsplit("==", 1)) for pin in pins]
    return packages


# --- archives -----------------------------------------------------------------------------------------------------------

NO_BUILD = '''"""Answers for an sdist's build script, which pip would run only to learn its name: the archive is all we want."""
import os
from email import message_from_string
from pathlib import Path

for prefix in ("PEP517", "_PYPROJECT_HOOKS"):
    if prefix + "_BUILD_BACKEND" in os.environ:
        os.environ[prefix + "_BUILD_BACKEND"] = "sitecustomize"
        os.environ.pop(prefix + "_BACKEND_PATH", None)


def prepare_metadata_for_build_wheel(folder, config_settings=None):
    metadata = Path("PKG-INFO").read_bytes()
    fields = message_from_string(metadata.decode())
    target = Path(folder, f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info")
    target.mkdir()
    (target / "METADATA").write_bytes(metadata)
    return target.name
'''


def fetch(package: Package, folder: Path) -> None:
    """Downloads the package's archives into `folder`. Raises SubprocessError or OSError."""
    pin = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python", "--retries=1", pin]
    command = {
        "pip": [*pip, "--only-binary=:all:", "--platform=manylinux2014_x86_64"],
        "sdist": [*pip, "--no-binary=:all:", "--no-build-isolation"],
        "npm": ["npm", "pack", "--silent", "--fetch-retries=0", pin.replace("==", "@")],
        "apt": ["apt-get", "source", "--download-only", "-qq", pin.replace("==", "=")],
    }[package.client]
    with tempfile.TemporaryDirectory(dir=folder.parent) as here:
        got, hook = Path(here, "got"), Path(here, "hook")
        got.mkdir()
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(NO_BUILD)
        path = {"PYTHONPATH": str(hook.resolve())} if package.client == "sdist" else {}
        subprocess.run(command, cwd=got, check=True, capture_output=True, timeout=600, env={**os.environ, **path})
        for file in got.iterdir():
            if not re.search(r"\.(whl|tgz|zip|tar\.\w+)$", file.name):
                file.unlink()
        got.rename(folder)


def cached(packages: list[Package], cache: Path, known: dict[tuple[str, str], dict]) -> Iterator[tuple[Package, Path, dict]]:
    """Each package that the cache has or that can be fetched, with its folder and digests; then names the missing ones."""
    missing = []
    cache.mkdir(parents=True, exist_ok=True)
    for package in packages:
        folder = cache / re.sub(r"[^\w.+-]", "_", f"{package.client}-{package.name}-{package.version}")
        if not folder.is_dir():
            try:
                fetch(package, folder)
            except (subprocess.SubprocessError, OSError):
                missing.append(f"{package.name}=={package.version} ({package.client})")
                continue
        digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
        if known.get((package.name, package.version), digests) != digests:
            raise Problem(f"{folder} does not hold the archives recorded for {package.name}: remove it and run again.")
        yield package, folder, digests
    if missing:
        say(f"missing, its index is unreachable or no longer has it ({APT}): {', '.join(missing)}. Going on with the others.")


def read_archive(file: Path, wanted: re.Pattern) -> Iterator[tuple[str, bytes]]:
    """The wanted files in an archive by their path, without the folder that wraps a source archive."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for path in filter(wanted.search, archive.namelist()):
                    yield path, archive.read(path)
            return
        with tarfile.open(file) as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                path = path if path.startswith("debian/") else path.partition("/")[2]
                if member.isfile() and wanted.search(path) and (content := archive.extractfile(member)):
                    yield path, content.read()
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise Problem(f"{file} is damaged ({error}): remove its folder and run again.") from None


# --- which files are taken ----------------------------------------------------------------------------------------------


def permissive(expression: str) -> str | None:
    """The licence to go by in an expression such as "Expat and BSD-3-clause" or "MIT or GPL-2+"; None if there is none."""
    text = re.sub(r",? version |\b(the|licen[cs]e)\b|[()\"]", " ", f" {expression.lower()} ")
    for choice in re.split(r"\s+or\s+|\s*/\s*", text):
        names = ["-".join(name.split()) for name in re.split(r"\s+and\s+|,", choice)]
        if all(name in PERMISSIVE for name in names):
            return " AND ".join(dict.fromkeys(PERMISSIVE[name] for name in names))
    return None


def licence_rules(client: str, data: bytes) -> list[tuple[str, str]]:
    """(pattern of paths, licence expression) from a package's metadata; of the patterns that fit a path the last counts."""
    text = data.decode("utf-8", "replace")
    if client == "npm":
        return [("*", str(json.loads(text).get("license", "none named")))]
    if client != "apt":
        fields = message_from_string(text)
        classifiers = [name.rpartition(" :: ")[2] for name in fields.get_all("Classifier", []) if name.startswith("License ::")]
        named = (fields.get("License") or "none named").strip().split("\n")[0]
        return [("*", fields.get("License-Expression") or (named if permissive(named) else " and ".join(classifiers) or named))]
    rules = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields = message_from_string(paragraph.strip() + "\n")
        expression = (fields.get("License") or "").strip().split("\n")[0]
        rules += [(pattern, expression) for pattern in (fields.get("Files") or "").replace(",", " ").split()]
    return rules


def licence_of(path: str, text: str, rules: list[tuple[str, str]]) -> str:
    """The expression that holds for a file: its own head's, else that of the last rule for its path."""
    if own := OWN_LICENCE.search(text[:3000]):
        return own[1] or own[2]
    return next((expression for pattern, expression in reversed(rules) if fnmatchcase(path, pattern)), "none named")


def left_out_for(path: str, text: str) -> str | None:
    """Why a file is not taken, whatever its licence, or None."""
    if VENDORED.search(path.lower()):
        return "vendored"
    if TESTS.search(path.lower()):
        return "tests, examples, packaging"
    if GENERATED_PATH.search(path.lower()) or GENERATED.search(text[:1500]):
        return "generated"
    if "\ufffd" in text:
        return "not UTF-8"
    lengths = [len(line) for line in text.split("\n") if line.strip()]
    if len(lengths) < 30:
        return "under 30 lines"
    if max(lengths) > 400 or sum(lengths) > 100 * len(lengths):
        return "minified, or with very long lines"
    if sum(map(str.isdigit, text)) > sum(lengths) / 5:
        return "a table of numbers"
    return None


def read_sources(package: Package, folder: Path, seen: set[str]) -> tuple[list[Source], Counter]:
    """The files of a package that may be cut, and how many were left out for which reason. `seen`: digests of texts."""
    metadata = re.compile(METADATA[package.client])
    endings = tuple(ENDINGS[package.language].split())
    wanted = re.compile("|".join([metadata.pattern, *(re.escape(ending) + "$" for ending in endings)]))
    rules, texts, sources = [], {}, []
    left_out: Counter[str] = Counter()
    for archive in sorted(folder.iterdir()):
        for path, data in read_archive(archive, wanted):
            if metadata.search(path):
                rules = licence_rules(package.client, data)
            else:
                texts[path] = data.decode("utf-8", "replace").replace("\r\n", "\n")
    for path, text in sorted(texts.items()):
        expression = licence_of(path, text, rules)
        licence = permissive(expression)
        digest = hashlib.sha256("".join(text.split()).encode()).hexdigest()
        reason = left_out_for(path, text) or (None if licence else f"licence: {expression}")
        reason = reason or ("duplicate" if digest in seen else None)
        if reason or not licence:
            left_out[reason or ""] += 1
        else:
            seen.add(digest)
            sources.append(Source(package, path, licence, text.split("\n")))
    return sources, left_out
