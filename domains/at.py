"""Assistive technology, the domain of study 0: who asks for what, the prompts it is measured on, and the names that matter.

An answer in this domain is worth something when it names a real tool, setting or standard. `named` finds those names by the
lists in at_names.txt, which were written for the 985 pairs of dpo_clean.jsonl; products they do not know are not found.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

HERE = Path(__file__).parent
EVALUATION_PROMPTS = tuple(HERE / f"{name}.jsonl" for name in ("study0", "at", "general"))  # no training prompt is near these

# The study's three lists, in its order.
DISABILITIES = (
    "low vision",
    "blindness",
    "motor impairment",
    "cognitive disability",
    "hearing impairment",
    "dyslexia",
    "ADHD",
    "ALS",
    "color blindness",
    "tremor",
    "multiple disabilities",
    "deafblindness",
)
USERS = ("end user", "developer", "IT admin", "teacher", "occupational therapist", "caregiver", "procurement officer")
TASKS = (
    "tool recommendation",
    "configuration",
    "troubleshooting",
    "standards compliance",
    "enterprise deployment",
    "comparison",
)
QUERY_TYPES = ("recommendation", "definitional", "procedural", "technical")

CATEGORIES = {"disability": DISABILITIES, "user_type": USERS, "task_type": TASKS, "query_type": QUERY_TYPES}

INSIDE = r"(?<=[\w,] )"  # not the first word of a sentence: there every word has a capital


def named(text: str) -> list[str]:
    """The tools and standards that `text` names, in the order of the lists."""
    return [name for patterns in names().values() for name, pattern in patterns.items() if pattern.search(text)]


@functools.cache
def names() -> dict[str, dict[str, re.Pattern]]:
    """ "tools" and "standards", each name → what finds it in a text."""
    lists: dict[str, list[str]] = {}
    for line in (HERE / "at_names.txt").read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"\[(\w+)\]", line)
        if heading:
            lists[heading[1]] = []
        elif lists:  # what stands above the first heading is a comment
            lists[next(reversed(lists))].append(line)
    return {kind: whole_words(" ".join(lines)) for kind, lines in lists.items()}


def whole_words(listed: str) -> dict[str, re.Pattern]:
    """Reads `Name`, `Name*` or `Name = regular expression`, separated by semicolons, into whole-word patterns.

    Capitals count, for Orca, Fusion and WAVE are words too. A starred name is so common a word (Zoom, Reminders) that
    it counts only inside a sentence; so does the spelling "Text size" of "Text Size".
    """
    patterns = {}
    for entry in filter(None, map(str.strip, listed.split(";"))):
        name, _, pattern = (part.strip() for part in entry.partition(" = "))
        if not pattern:
            literal = re.escape(name.rstrip("*"))
            sentence_case = re.sub(r"(?<= )[A-Z](?=[a-z])", lambda capital: capital[0].lower(), literal)
            pattern = INSIDE + literal if name.endswith("*") else f"{literal}|{INSIDE}{sentence_case}"
        patterns[name.rstrip("*")] = re.compile(rf"(?<![\w-])(?:{pattern})s?(?!\w)")
    return patterns
