"""An n-gram table of the verifier's stored answers as a draft: the cheap rival of a tuned model.

It is named where an adapter's folder is named: `trigram=answers.jsonl`, or with the longest n-gram, `bigram=answers.jsonl:2`.
Its tokens are the verifier's own, so it reads the verifier's prompt; it proposes only tokens that stand in those answers. It
learns nothing from the prompt or from what is decoded.

The table counts tokens that were sampled at the answers' temperature, and is then drawn from like any other draft: q is its
distribution after the run's own temperature, top-k and top-p, and its likeliest token at temperature 0.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.answers import prompted_answers
from specdec.terminal import Problem
from specdec.vocabulary import VocabularyMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LONGEST = 3  # tokens of an n-gram, unless the name says another number


class NgramModel:
    """Draws the next token from counts of what followed the last tokens: a `specdec.backend.Backend`.

    `shared` maps its tokens, those of the texts, to themselves: the vocabulary of a Drafter of this model.
    """

    context: int | None = None  # it reads the last tokens alone, however long the text is

    def __init__(self, texts: list[tuple[list[int], list[int]]], n: int, rows: int, device: torch.device):
        """Counts the n-grams of `texts`.

        Args:
            texts: (prompt, answer) of the verifier's answers, in its ids. The prompt's last tokens are contexts of the
                answer's first; it is not counted itself.
            n: tokens of the longest n-gram, 1 or more.
            rows: width of the verifier's logits, and of these.

        Raises:
            Problem: a token that the verifier has no row for.
        """
        import torch

        self.n, self.rows, self.device = n, rows, device
        counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)  # up to n − 1 tokens → the tokens that followed
        for prompt, text in texts:
            before = prompt[len(prompt) - min(n - 1, len(prompt)) :]  # n − 1 tokens, or fewer
            history = before + text
            for position in range(len(before), len(history)):
                for length in range(min(n - 1, position) + 1):
                    counts[tuple(history[position - length : position])][history[position]] += 1
        seen = sorted(counts[()])
        if seen[-1] >= rows:
            raise Problem(
                f"an answer has the token {seen[-1]}, the verifier only {rows} logits rows. Name answers of this verifier."
            )
        column = {token: number for number, token in enumerate(seen)}
        self.seen = torch.tensor(seen)
        self.unigram = torch.tensor([counts[()][token] for token in seen]) / counts[()].total()
        self.followed = {}  # context h → the columns of what followed, c(h w) / (c(h) + T(h)), T(h) / (c(h) + T(h))
        for context, found in counts.items():
            total = found.total() + len(found)
            columns = torch.tensor([column[token] for token in found])
            self.followed[context] = columns, torch.tensor(list(found.values())) / total, len(found) / total
        self.shared = VocabularyMap("identical", tuple(seen), tuple(seen), lambda id: (id,))
        self.start()

    def start(self) -> None:
        """Forgets what was read, not what was counted."""
        self.history: list[int] = []
        self.seconds = 0.0

    def feed(self, tokens: list[int], keep: int = 1) -> Tensor:
        """Reads `tokens`; returns the logits [keep, V] after the last `keep` of them, whose softmax is the distribution."""
        import torch

        started = time.perf_counter()
        self.history += tokens
        logits = torch.full((keep, self.rows), float("-inf"))
        for row, end in enumerate(range(len(self.history) - keep + 1, len(self.history) + 1)):
            logits[row].scatter_(0, self.seen, self.probs(self.history[max(end - self.n + 1, 0) : end]).log())
        logits = logits.to(self.device)
        self.seconds += time.perf_counter() - started
        return logits

    def drop(self, count: int) -> None:
        """Forgets the last `count` tokens read."""
        if count:
            del self.history[-count:]

    def has_room(self, count: int) -> bool:
        return True

    def probs(self, last: list[int]) -> Tensor:
        """The distribution [S] over the S tokens of the texts, after the last n − 1 tokens or fewer.

        Interpolated with all shorter contexts by Witten-Bell smoothing (Witten and Bell 1991, method C; as a recursion in
        Chen and Goodman 1998, TR-10-98): P(w | h) = (c(h w) + T(h) P(w | h')) / (c(h) + T(h)), where h' is h without its
        first token, c(h) how often h was followed and T(h) by how many different tokens. After a context that never
        occurred, P(w | h) = P(w | h'). The recursion ends at relative frequencies: no token that is unseen gets anything.
        """
        probs = self.unigram
        for length in range(1, len(last) + 1):
            found = self.followed.get(tuple(last[-length:]))
            if found is None:
                break  # a longer one never occurred either
            columns, weights, rest = found
            probs = (rest * probs).index_add_(0, columns, weights)  # P(w | h), as above
        return probs


# --- named by an answers file -----------------------------------------------------------------------------------------


def table_of(path: str | Path | None) -> tuple[Path, int] | None:
    """(answers file, n) where `path` names a table (FILE.jsonl or FILE.jsonl:N), None where it names an adapter or nothing."""
    named = re.fullmatch(r"(.+\.jsonl)(?::([1-9]))?", str(path))
    return (Path(named[1]), int(named[2] or LONGEST)) if named else None


def table_answers(file: Path, verifier: str) -> tuple[list[dict], dict]:
    """The answers in `file`, and how their prompts were written: `specdec.answers.prompted_answers`.

    Raises:
        Problem: they are of another verifier, there are none, or one of them is damaged.
    """
    rows, prompted = prompted_answers(file, verifier=verifier)
    if not rows:
        raise Problem(f"{file} holds no answers. Make them with generate_answers.py.")
    for number, row in enumerate(rows, start=1):
        if not all(type(token) is int and token >= 0 for token in row["token_ids"]):
            raise Problem(f"{file}: answer {number} has token_ids that are none. Generate the answers again.")
    return rows, prompted


def table_digest(file: Path, n: int) -> str:
    """What a table was counted from: the first 12 hexadecimal digits of the file's sha256, and n."""
    try:
        return f"{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}:{n}"
    except FileNotFoundError:
        raise Problem(f"no answers at {file}. Make them with generate_answers.py --output {file}.") from None
