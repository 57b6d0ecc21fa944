"""Code: prompts and training snippets cut from real source files under permissive licences, in thirteen languages.

    python -m domains.code --cache DIR    rebuilds the three files beside this one from pinned packages; prints counts

A prompt stops after a function's signature with its comment, after a comment block, or inside a line; `reference` is what the
file says next. Packages for testing and for training differ, and no eight lines in a row stand in two rows. The packages, and
which of their files are taken, are in code_packages.py; CODE_CARD.md says what was left out.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from domains.code_packages import APT, Package, Source, cached, pinned, read_sources
from specdec.files import BadLine, read_jsonl, write_jsonl
from specdec.terminal import Problem, run, say

HERE = Path(__file__).parent
GROUPS = {"high": "python cpp java", "medium": "lua haskell ruby", "low": "zig elixir ocaml", "other": "c go rust javascript"}
GROUP = {language: group for group, languages in GROUPS.items() for language in languages.split()}
KINDS = ["signature", "comment", "partial"]
PROMPTS = 40  # test prompts a language
SNIPPETS = {"high": 100, "medium": 30, "low": 10, "other": 30}  # training snippets a language, as the plan has them
BALANCED = 42  # a language: as many in all (546, the plan 540), spread evenly
PER_FILE, PER_PACKAGE, FILES = 4, 12, 100  # most rows a file, prompts a package, files a package
PROMPT, REFERENCE, SNIPPET = 1200, 600, 1500  # characters at most
SEED, SIMILAR = 42, 90  # random seed; of 100, by rapidfuzz


class Syntax(NamedTuple):  # regular expressions
    comment: str  # how a comment line begins
    block: tuple[str, str] | None  # how a block of comment begins and ends
    function: str  # how a function's signature begins
    opens: str | None  # how its last line ends; None: it goes on as far as lines are indented


SLASHES, STARS, BRACE = r"//", (r"/\*", r"\*/"), r"\{\s*$"
NOT_CONTROL = r"\s*(?!(?:if|else|for|while|switch|catch|return|do|try|case|new|throw)\b)"
SYNTAX = {
    "python": Syntax(r"#", (r'[rR]?"""', r'"""'), r"\s*(async )?def \w+\(", r":\s*$"),
    "cpp": Syntax(SLASHES, STARS, NOT_CONTROL + r"[\w:~<].*\(", BRACE),
    "java": Syntax(SLASHES, STARS, NOT_CONTROL + r"[\w<][^=;]*\(", BRACE),
    "lua": Syntax(r"--", (r"--\[=*\[", r"\]=*\]"), r"\s*(local )?function\b|\s*[\w.]+ = function\b", r"\)\s*$"),
    "haskell": Syntax(r"--+(\s|$)", (r"\{-(?!#)", r"-\}"), r"[a-z_][\w']*\s*::", None),
    "ruby": Syntax(r"#", None, r"\s*def [\w.?!=]+", r"[\w)?!]\s*$"),
    "zig": Syntax(SLASHES, None, r"\s*(pub |export |inline )*fn ", BRACE),
    "elixir": Syntax(r"#", (r'@(module|type)?doc\s+(~[sS])?"""', r'^"""'), r"\s*def(p|macro|macrop)?\s", r"\bdo\s*$"),
    "ocaml": Syntax(r"(?!)", (r"\(\*", r"\*\)"), r"\s*(let|and) (rec )?[a-z_][\w']* [^=]", r"(=|->|\bfunction)\s*$"),
    "c": Syntax(SLASHES, STARS, NOT_CONTROL + r"[A-Za-z_][\w\s*]*\(", BRACE),
    "go": Syntax(SLASHES, STARS, r"func\b", BRACE),
    "rust": Syntax(SLASHES, STARS, r"\s*(pub(\([a-z: ]+\))? )?((const|async|unsafe) )*fn ", BRACE),
    "javascript": Syntax(SLASHES, STARS, NOT_CONTROL + r"(.*\bfunction\b|.*=> *\{|(static |async |\*)*[\w$#]+ *\()", BRACE),
}
BESIDE = re.compile(r"\s*(@|#\[|template\b|static$|inline$)")  # may stand between a comment and its function
LEGAL = re.compile(r"copyright|licen[cs]e|spdx|all rights reserved", re.I)
ADDRESS = re.compile(
    r"://|\bwww\.|[\w.-]@[\w-]+\.\w|\w\.(com|org|net)\b(?![.(])|\b(crates|docs|hex|pkg|github|gitlab)\.\w{2,3}\b"
    r"|(^|[\s\"'`=(])/(home|root|work|tmp|Users)/"
)


# --- where a file is cut ------------------------------------------------------------------------------------------------


def comment_end(lines: list[str], number: int, syntax: Syntax) -> int | None:
    """The line after the comment that line `number` begins; None where it begins none, or code follows the comment."""
    text = lines[number].strip()
    begin = re.match(syntax.block[0], text) if syntax.block else None
    if syntax.block is None or begin is None:
        return number + 1 if re.match(syntax.comment, text) else None
    text = text[begin.end() :]
    for later in range(number, len(lines)):
        if later > number:
            text = lines[later].strip()
        if end := re.search(syntax.block[1], text):
            return None if text[end.end() :] else later + 1
    return None


def comment_blocks(lines: list[str], syntax: Syntax) -> list[tuple[int, int]]:
    """(first line, line after) of each run of lines that hold nothing but comment; Python's docstrings count."""
    blocks, number = [], 0
    while number < len(lines):
        first = number
        while number < len(lines) and (after := comment_end(lines, number, syntax)):
            number = after
        if number > first:
            blocks.append((first, number))
            continue
        number += 1
        if syntax is SYNTAX["python"] and lines[first].count('"""') % 2:  # a long text that is no docstring
            while number < len(lines) and '"""' not in lines[number]:
                number += 1
            number += 1
    return blocks


def signature_end(lines: list[str], number: int, syntax: Syntax) -> int | None:
    """The line after the signature that begins at line `number`, or None if no function's begins there."""
    if number >= len(lines) or not re.match(syntax.function, lines[number]):
        return None
    for last in range(number, min(number + 8, len(lines) - 1)):
        if syntax.opens is None:
            if not lines[last + 1].startswith((" ", "\t")):
                return last + 1
        elif re.search(syntax.opens, lines[last]):
            return last + 1
        elif lines[last].rstrip().endswith((";", "}")):
            return None
    return None


def cuts(lines: list[str], language: str, rng: random.Random) -> Iterator[tuple[str, int, int]]:
    """(kind, line, column): a prompt may end before that column of that line. Partial lines are drawn, eight a file."""
    syntax = SYNTAX[language]
    inside: set[int] = set()
    signatures = {signature_end(lines, number, syntax) for number in range(len(lines))} if language == "python" else set()
    for first, after in comment_blocks(lines, syntax):
        inside.update(range(first, after))
        function = next((number for number in range(after, len(lines)) if not BESIDE.match(lines[number])), after)
        end = signature_end(lines, function, syntax)
        if first in signatures:
            yield "signature", after, 0  # Python's docstring comes after
        elif end and language != "python":
            yield "signature", end, 0
        if first not in signatures and sum(map(len, lines[first:after])) >= 80:
            yield "comment", after, 0
    code = [number for number, line in enumerate(lines) if len(line.strip()) >= 25 and number not in inside]
    for number in rng.sample(code, min(8, len(code))):
        line = lines[number]
        middle = range(len(line) - len(line.lstrip()) + 8, len(line.rstrip()) - 6)
        if columns := [at for at in middle if line[at] == " " and line[at - 1] != " " and line[at + 1] != " "]:
            yield "partial", number, rng.choice(columns)


def clean(text: str) -> bool:
    """No address, no path of someone's machine, no licence text, no very long line."""
    return not ADDRESS.search(text) and not LEGAL.search(text) and max(map(len, text.split("\n"))) <= 200


def begins_paragraph(lines: list[str], number: int) -> bool:
    return bool(lines[number].strip()) and (number == 0 or not lines[number - 1].strip())


def prompt_at(lines: list[str], line: int, column: int) -> tuple[str, str] | None:
    """The prompt that ends there, of 5 to 25 lines, and its reference; None where the file does not allow them."""
    first = line
    while first > max(0, line - 25) and sum(len(text) + 1 for text in lines[first - 1 : line]) + column <= PROMPT:
        first -= 1
    first = next((number for number in range(first, line - 9) if begins_paragraph(lines, number)), first)
    while first < line and not lines[first].strip():
        first += 1
    prompt = "\n".join([*lines[first:line], lines[line][:column] if line < len(lines) else ""])
    reference = "\n".join(lines[line : line + 60])[column:][:REFERENCE]
    begins = len(reference.partition("\n")[0].strip()) >= 3  # not with an empty line or a lone bracket
    enough = sum(1 for text in lines[first:line] if text.strip()) >= 5 and len(reference) >= REFERENCE / 2
    return (prompt, reference) if begins and enough and clean(prompt + reference) else None


def snippets(lines: list[str], rng: random.Random) -> Iterator[tuple[int, str]]:
    """Stretches of a file that begin after an empty line, with the line they begin at, in a drawn order."""
    starts = [number for number in range(len(lines)) if begins_paragraph(lines, number)]
    for start in rng.sample(starts, len(starts)):
        text = "\n".join(lines[start : start + 200])[:SNIPPET]
        text = text[: text.rfind("\n") + 1].rstrip() + "\n"
        if len(text) >= SNIPPET / 2 and clean(text):
            yield start, text


# --- drawing the rows ---------------------------------------------------------------------------------------------------


def windows(text: str) -> set[str]:
    """Every eight lines in a row, without empty lines and indentation; a shorter text is one window."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return {"\n".join(lines[first : first + 8]) for first in range(max(1, len(lines) - 7))}


def pools_of(sources: list[Source], split: str, rng: random.Random) -> dict[tuple[str, str], list[tuple]]:
    """(source, line, texts) of all that may be cut, by kind and package, in a drawn order."""
    pools: dict = defaultdict(list)
    files: dict = defaultdict(list)
    for source in sources:
        files[source.package.name].append(source)
    for name, group in files.items():
        for source in rng.sample(group, min(FILES, len(group))):
            if split == "train":
                pools["snippet", name] += [(source, line, {"text": text}) for line, text in snippets(source.lines, rng)]
                continue
            for kind, line, column in cuts(source.lines, source.package.language, rng):
                if found := prompt_at(source.lines, line, column):
                    pools[kind, name].append((source, line, {"prompt": found[0], "reference": found[1]}))
    for pool in pools.values():
        rng.shuffle(pool)
    return pools


def draw(sources: list[Source], split: str, count: int, rng: random.Random, taken: set[str]) -> tuple[list[dict], int]:
    """`count` rows, fewer if the files hold no more, and the number of near-duplicates dropped.

    Each row is of the next kind and from the package that has given fewest so far. `taken` holds the windows of all rows.
    """
    pools, kinds = pools_of(sources, split, rng), KINDS if split == "test" else ["snippet"]
    packages = sorted({source.package.name for source in sources})
    most = count if split == "train" else max(PER_PACKAGE, math.ceil(count / len(packages)))
    rows: list[dict] = []
    texts_so_far: list[str] = []
    near: dict = defaultdict(list)  # (package, path) → the lines that rows of this file begin at
    given: Counter[str] = Counter()
    dropped = 0
    while len(rows) < count:
        turn = len(rows) % len(kinds)
        names = sorted((name for name in packages if given[name] < most), key=lambda name: given[name])
        queue = [(kind, name) for kind in kinds[turn:] + kinds[:turn] for name in names if pools[kind, name]]
        if not queue:
            break
        kind, name = queue[0]
        source, line, texts = pools[kind, name].pop()
        others, text = near[name, source.path], "".join(texts.values())
        if len(others) == PER_FILE or any(abs(line - other) < 30 for other in others):
            continue
        if is_near(text, texts_so_far, taken):
            dropped += 1
            continue
        taken |= windows(text)
        texts_so_far.append(text)
        others.append(line)
        given[name] += 1
        rows.append(row_of(source, kind, texts))
    return rows, dropped


def is_near(text: str, others: list[str], taken: set[str]) -> bool:
    """Whether eight of its lines in a row, or most of its characters, stand in another row."""
    from rapidfuzz import fuzz

    return bool(windows(text) & taken) or any(fuzz.ratio(text, other, score_cutoff=SIMILAR) for other in others)


def row_of(source: Source, kind: str, texts: dict[str, str]) -> dict:
    package = source.package
    return {
        **texts,
        "domain": "code",
        "query_type": package.language,  # what evaluation groups prompts by
        "language": package.language,
        "group": GROUP[package.language],
        "kind": kind,
        "package": package.name,
        "version": package.version,
        "licence": source.licence,
        "path": source.path,
        "source": package.client.replace("sdist", "pip"),
    }


def build(packages: list[Package], cache: Path, table: Path, seed: int = SEED) -> dict[str, list[dict]]:
    """The rows of the test file, the training file and the table of packages; `table` is the one of an earlier run."""
    known = {(row["package"], row["version"]): row for row in (read(table) if table.exists() else ())}
    digests = {key: row["archives"] for key, row in known.items()}
    seen: dict = defaultdict(set)
    sources: dict = defaultdict(list)
    for package, folder, archives in cached(packages, cache, digests):
        taken_files, left_out = read_sources(package, folder, seen[package.language])
        sources[package.language, package.split] += taken_files
        known[package.name, package.version] = {
            "package": package.name,
            "version": package.version,
            "source": package.client.replace("sdist", "pip"),
            "language": package.language,
            "split": package.split,
            "files": len(taken_files),
            "licences": Counter(source.licence for source in taken_files),
            "left_out": left_out,
            "archives": archives,
        }
    taken: set[str] = set()
    drawn: dict[str, list[list[dict]]] = {"test": [], "train": []}
    for language, split in dict.fromkeys((package.language, package.split) for package in packages):
        if not sources[language, split]:
            raise Problem(f"no {language} files to {split} with: connect to the packages' indexes ({APT}), or fill --cache.")
        count = PROMPTS if split == "test" else max(BALANCED, SNIPPETS[GROUP[language]])
        rows, dropped = draw(sources[language, split], split, count, random.Random(f"{seed} {language} {split}"), taken)
        if split == "train":
            rows = [{**row, "in_plan": number < SNIPPETS[GROUP[language]]} for number, row in enumerate(rows)]
        drawn[split].append(rows)
        given = Counter(row["package"] for row in rows)
        say(f"{language} {split}: {len(rows)} of {count} rows, {dropped} near-duplicates dropped, {dict(given)}")
    pins = [(package.name, package.version) for package in packages]
    return {
        "test": in_turns(drawn["test"]),
        "train": in_turns(drawn["train"]),
        "packages": [known[pin] for pin in pins if pin in known],
    }


def in_turns(lists: list[list[dict]]) -> list[dict]:
    """One row of each list, again and again: the first rows of a file are a sample of all languages."""
    return [row for turn in itertools.zip_longest(*lists) for row in turn if row]


# --- reading them -------------------------------------------------------------------------------------------------------


def read(file: Path) -> list[dict]:
    try:
        return list(read_jsonl(file, required=("package", "version", "language", "source")))
    except (FileNotFoundError, BadLine) as error:
        raise Problem(f"{error}. Rebuild it: python -m domains.code --cache DIR") from None


def rows_of(split: str, languages: Iterable[str] | None = None) -> list[dict]:
    """`test`: 40 prompts a language, each with what the file says next; or `train`. The languages take turns."""
    chosen = list(GROUP if languages is None else languages)
    if unknown := [name for name in chosen if name not in GROUP]:
        raise Problem(f"no such language: {', '.join(unknown)}. There are {', '.join(GROUP)}.")
    return [row for row in read(HERE / f"code_{split}.jsonl") if row["language"] in chosen]


def training_snippets(languages: Iterable[str] | None = None, mix: str = "plan") -> list[dict]:
    """The plan's mix (100 a language of the high group, 10 of the low one, 30 of the others) or `balanced` (42 of each)."""
    if mix not in ("plan", "balanced"):
        raise Problem(f"no such mix: {mix}. There are plan and balanced.")
    rows: list[dict] = []
    number: Counter[str] = Counter()
    for row in rows_of("train", languages):
        number[row["language"]] += 1
        if row["in_plan"] if mix == "plan" else number[row["language"]] <= BALANCED:
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, metavar="DIR", help="the archives; fetched where not there")
    parser.add_argument("--output-dir", type=Path, default=HERE, metavar="DIR", help="the files' folder (default: this one's)")
    parser.add_argument("--seed", type=int, default=SEED, help="random seed (default: %(default)s)")
    args = parser.parse_args()
    built = build(pinned(), args.cache, args.output_dir / "code_packages.jsonl", args.seed)
    for name, rows in built.items():
        write_jsonl(args.output_dir / f"code_{name}.jsonl", rows)
    left_out = sum((Counter(row["left_out"]) for row in built["packages"]), Counter())
    say(f"{sum(row['files'] for row in built['packages'])} files taken; left out: {dict(left_out.most_common())}")


if __name__ == "__main__":
    run(main)
