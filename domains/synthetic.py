"""Queries that a verifier wrote: the system prompts under which it writes them, and what makes one unusable.

Magpie (Xu et al. 2024, arXiv 2406.08464): a chat model that reads the opening of a user turn, and no query, goes on with a
query. A system prompt that names the domain makes it one of the domain. `generate_queries.py` draws them; `select` is what
stands between a draw and a training prompt. It is all in English, as the three domains are.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from pathlib import Path

from domains.leaks import near_pairs
from specdec.terminal import Problem

HERE = Path(__file__).parent
SYSTEM = {
    "at": "You answer questions about assistive technology: screen readers, magnifiers, captions, braille displays, switches, "
    "eye tracking, accessible settings and the standards behind them. Disabled people, their families, teachers, developers "
    "and IT staff ask you.",
    "biology": "You answer questions about biology: cells, genetics, evolution, physiology, ecology, plants, microbes and work "
    "in the laboratory. Students, teachers and researchers ask you.",
    "function_calling": "You are an assistant that fulfils requests of users by calling the functions below.",
    "general": "You are a helpful assistant. People of all ages ask you about everyday life, work, science and culture.",
}
# The domain's queries come with tools: those of a training file's rows, whose queries stay unread.
TOOLS = {"function_calling": HERE / "function_calling_users.jsonl"}

CHARACTERS = (12, 600)
TURN_MARKS = re.compile(r"<\|[^|<>\s]*\|>|</?tool_(call|response)>|</?s>|\[/?INST\]|^(user|assistant|system):", re.I | re.M)
ASSISTANT = re.compile(
    r"^\W*(sure|certainly|of course|absolutely|here('s| is| are) (the|a|an|some|your)|as an ai|i'm sorry|i am sorry|"
    r"thank you for|((hi|hello)\W+)?(how|what) (can|may|could) i (help|assist|do for) you)\b|```",
    re.I,
)
QUESTION = re.compile(
    r"\?|\b(what|which|why|how|whether)\b|(^|[.!:;,]\s)(who|whose|whom|when|where|is|are|was|were|do|does|did|can|could|should|"
    r"would|will|has|have|any)\b",
    re.I,
)
REQUEST = re.compile(
    r"\b(please|pls|i('d| would) (like|love)|i (want|need)|we (want|need)|looking for|trying to|wondering|help|advice|not sure|"
    r"struggling|curious|don't (know|understand|get)|walk me|tell me|show me|vs)\b"
    r"|(^|[.!:;,]\s+|\band )\W*(add|advise|analy[sz]e|arrange|assign|book|build|buy|calculate|change|check|choose|close|"
    r"compare|compute|construct|convert|create|deduce|define|delete|describe|design|determine|discuss|display|distinguish|draw|"
    r"estimate|evaluate|explain|extract|fetch|fill|find|generate|get|give|identify|implement|install|interpret|justify|"
    r"let|list|look|make|name|open|order|outline|parse|perform|pick|plan|play|plot|predict|propose|prove|provide|put|"
    r"query|recommend|remind|remove|reserve|retrieve|run|schedule|search|send|set|show|sketch|solve|sort|start|state|stop|"
    r"suggest|summari[sz]e|teach|tell|translate|turn|update|use|write)\b",
    re.I,
)
KEYWORDS = 15  # "good free simulator for crossing fruit flies online": few words and no full stop are a query too
ENGLISH = frozenset("the of to for and what how is are do does can my you i in with on it this that me from".split())
FOREIGN = frozenset(
    "le la les des est et une pour dans que qui der das und ist ein eine nicht mit wie el los del una para por como il di che "
    "per non een het van voor niet de um para com não".split()
)


def language_is_english(text: str) -> bool:
    """By letters and by small words: enough to find Chinese and the larger European languages, no more."""
    letters = [letter for letter in text if letter.isalpha()]
    if sum(letter.isascii() for letter in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    return sum(word in FOREIGN for word in words) <= sum(word in ENGLISH for word in words)


def is_query(text: str) -> bool:
    """Whether a user asks for something here. By words: of the prompts in this folder it keeps 19 of 20, and of the openings
    of news and stories it drops most (tests/test_domain_synthetic.py has both shares)."""
    if ASSISTANT.search(text):
        return False
    keywords = len(text.split()) <= KEYWORDS and not text.rstrip().endswith((".", "!", ":"))
    return keywords or bool(QUESTION.search(text) or REQUEST.search(text))


def text_error(draw: dict) -> str | None:
    """Why a draw is no query by its own text, or None.

    Args:
        draw: `prompt`, and `ended` (the turn came to its end) and `special` (the verifier's tokenizer finds a token of its own
            in the text, which would be read as the end of a turn or a call).
    """
    text = draw["prompt"]
    if draw["special"] or TURN_MARKS.search(text):
        return "leaked control tokens"
    if len(text) < CHARACTERS[0]:
        return "too short"
    if not draw["ended"] or len(text) > CHARACTERS[1]:
        return "too long"
    if not language_is_english(text):
        return "wrong language"
    return None if is_query(text) else "not a question or request"


def select(draws: list[dict], evaluation_prompts: list[str]) -> tuple[list[dict], Counter[str]]:
    """The usable draws in their order, and how many each filter dropped.

    Raises:
        Problem: none is usable; it names the filter that took most.
    """
    dropped: Counter[str] = Counter()
    fit = []
    for draw in draws:
        error = text_error(draw)
        if error:
            dropped[error] += 1
        else:
            fit.append(draw)
    prompts = [draw["prompt"] for draw in fit]
    reasons = {left: "near an evaluation prompt" for left, _ in near_pairs(prompts, evaluation_prompts)}
    for first, second in near_pairs(prompts, prompts):
        if first < second and first not in reasons:
            reasons.setdefault(second, "near another query")
    dropped.update(reasons.values())
    usable = [draw for number, draw in enumerate(fit) if number not in reasons]
    if draws and not usable:
        most, count = dropped.most_common(1)[0]
        raise Problem(
            f"none of {len(draws)} draws is usable, {count} of them for: {most}. "
            "Read the draws, then change --system, --temperature or --top-p."
        )
    return usable, dropped


def mix(prompts: list[str]) -> dict:
    """What came: lengths in characters, first words (a topic's shadow), and how many are questions."""
    lengths = sorted(map(len, prompts))
    first = Counter(" ".join(re.findall(r"[\w']+", prompt.lower())[:2]) for prompt in prompts)
    words = Counter(word for prompt in prompts for word in {*re.findall(r"[a-z]{5,}", prompt.lower())})
    return {
        "prompts": len(prompts),
        "characters": {"shortest": lengths[0], "median": statistics.median(lengths), "longest": lengths[-1]},
        "questions": sum("?" in prompt for prompt in prompts),
        "first two words": dict(first.most_common(12)),
        "words of five letters or more, by prompts": dict(words.most_common(20)),
    }
