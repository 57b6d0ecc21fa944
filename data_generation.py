"""Plans and collects the 985 assistive-technology preference pairs that DPO trains on.

The study rotates disability × user × task so that a chat model writes varied pairs. Here the rotation is a plan of 985
requests in random order that covers all 504 cells, and there are two ways from the plan to `dpo_raw.jsonl`:

  an API      python data_generation.py --model gpt-4o-mini          (any OpenAI-compatible server by --base-url)
  a chat page python data_generation.py --export-prompts batches/    paste each file into an assistant, save its
              python data_generation.py --import-responses batches/  answer beside it as batch_NN.jsonl

Both append row by row and skip ids already answered, so a stopped run resumes where it was. A request that gets no pair
stays open; what would fail for every request (no credit, a refused key or parameter) stops the run with the server's words.
`clean_dataset.py` turns the raw file into `dpo_clean.jsonl`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import queue
import random
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from domains.at import CATEGORIES, DISABILITIES, TASKS, USERS
from specdec.files import BadLine, append_jsonl, parse_line, read_jsonl, write_whole
from specdec.terminal import (
    Problem,
    check_outputs,
    float_from_zero,
    positive_float,
    positive_int,
    random_seed,
    run,
    say,
)

# The study found that query type decides, so every request carries one. A task admits one to three of them; the
# weights make recommendations the commonest type, as in the study.
QUERY_TYPES_BY_TASK = {
    "tool recommendation": {"recommendation": 1},
    "comparison": {"recommendation": 1, "definitional": 1},
    "configuration": {"procedural": 2, "technical": 1},
    "troubleshooting": {"procedural": 1, "technical": 1},
    "standards compliance": {"definitional": 2, "technical": 1},
    "enterprise deployment": {"procedural": 2, "recommendation": 2, "technical": 1},
}
# How the prompt is put. Without this a language model opens every prompt with "What is the best".
FORMS = (
    "a plain one-sentence question",
    "two sentences: the situation first, then the question",
    "typed into a search box: under nine words, no question mark",
    "an imperative request that opens with an unusual verb",
    "a chat message in lower case with relaxed punctuation",
    "a formal request as in a work e-mail, without greeting or signature",
    "first person, naming one's own device, operating system or app",
    "on behalf of somebody else, who is described in a few words",
    "a question with a hard constraint (budget, no admin rights, offline, shared device, deadline)",
    "an either/or question that names two options",
    "a complaint or symptom report that implies the question",
    "a follow-up that says what was already tried",
    "about one named app, file type, web page, device or course",
    "a yes/no question that also asks why",
)

INSTRUCTIONS = """\
You write training data about assistive technology (AT). Each request below names a disability, who asks, the kind of \
task, the query type, the form of the prompt and two target lengths. Think about what that one person would really \
ask, then write three fields.

prompt: what the person types. Follow the form. It need not name the disability or the role when the situation shows \
it. Do not reuse the sentence frame of another prompt.

chosen: the answer an experienced AT specialist gives. It names at least one real tool, setting or standard clause, \
right for that platform, and says what to do with it. Name WCAG, EN 301 549, Section 508 or another standard where it \
matters, and only there. No invented product, version, menu path or clause number; where a fact may age, say it so \
that it stays true ("recent versions", "check the current licence"). Correctness beats colour.

rejected: the answer of a polite generalist who knows no AT. It is plausible, calm and vague; it names no specific \
tool, setting or clause, and nothing in it is plainly wrong.

query types: recommendation = which tool or option; definitional = what something is, means or requires, or how two \
things differ; procedural = the steps to do something; technical = code, markup, APIs, configuration values or why \
something fails.

Style: write to the person in the language disability communities ask for (blind user, autistic student, wheelchair \
user, person with ALS, Deaf signer; never "suffers from", "confined to", "special needs"). Plain prose, no Markdown, \
no lists, no line breaks, no "as an AI". Vary the openings of chosen and of rejected: never start two of them with \
the same three words. Meet each target length in characters within about 12 percent."""

RESPONSE_FORMAT = """\
Answer every request, one by one, in order. Reply with one JSON object a line and nothing else:
{"id": "…", "prompt": "…", "chosen": "…", "rejected": "…"}"""


@dataclass(frozen=True)
class Request:
    """One cell of the rotation with its query type, form and target lengths in characters."""

    id: str
    disability: str
    user_type: str
    task_type: str
    query_type: str
    form: str
    chosen_length: int
    rejected_length: int

    def text(self) -> str:
        return (
            f"[{self.id}] disability: {self.disability}; asked by: {self.user_type}; task: {self.task_type}; "
            f"query type: {self.query_type}\n  form: {self.form}\n"
            f"  lengths: chosen {self.chosen_length} characters, rejected {self.rejected_length} characters"
        )


def plan_requests(rows: int = 985, seed: int = 42) -> list[Request]:
    """Returns `rows` requests in the order that `seed` draws; no cell is asked n+1 times before every cell is asked n times.

    Target lengths scatter around the study's means (555 and 281 characters), for real answers are not all one size.
    """
    draw = random.Random(seed)
    cells: list[tuple[str, str, str]] = []
    while len(cells) < rows:
        turn = list(itertools.product(DISABILITIES, USERS, TASKS))
        draw.shuffle(turn)
        cells += turn
    requests = []
    for number, (disability, user, task) in enumerate(cells[:rows], start=1):
        types = QUERY_TYPES_BY_TASK[task]
        requests.append(
            Request(
                id=f"at-{number:04d}",
                disability=disability,
                user_type=user,
                task_type=task,
                query_type=draw.choices(list(types), list(types.values()))[0],
                form=draw.choice(FORMS),
                chosen_length=round(min(max(draw.gauss(555, 70), 400), 720) / 10) * 10,
                rejected_length=round(min(max(draw.gauss(281, 35), 200), 370) / 10) * 10,
            )
        )
    return requests


def raw_row(request: Request, answer: dict) -> dict:
    """Joins an answer to what the plan knows of its request; the key order is the file's."""
    return {
        "id": request.id,
        "prompt": answer["prompt"],
        "chosen": answer["chosen"],
        "rejected": answer["rejected"],
        "disability": request.disability,
        "user_type": request.user_type,
        "task_type": request.task_type,
        "query_type": request.query_type,
    }


def answered_ids(output: Path, plan: dict[str, Request]) -> set[str]:
    """The ids that `output` holds. Raises Problem where one of them stands for another request in this plan."""
    if not output.is_file():
        return set()
    ids = set()
    for row in read_jsonl(output, required=("id",)):
        request = plan.get(row["id"])
        if request and any(row.get(field) != getattr(request, field) for field in CATEGORIES):
            raise Problem(
                f"{output}: '{row['id']}' is of another plan. Use the --rows and --seed of its plan, or another --output."
            )
        ids.add(row["id"])
    return ids


def export_batches(requests: list[Request], directory: Path, batch_size: int) -> None:
    """Writes batch_01.md, batch_02.md, … each a whole prompt for a chat assistant."""
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    for number, batch in enumerate(batches, start=1):
        parts = [INSTRUCTIONS, RESPONSE_FORMAT, *(request.text() for request in batch)]
        write_whole(directory / f"batch_{number:02d}.md", "\n\n".join(parts) + "\n")
    say(
        f"wrote {len(batches)} batches of up to {batch_size} requests to {directory}. "
        f"Save each answer beside its batch as batch_NN.jsonl, then run --import-responses {directory}."
    )


def import_batches(plan: dict[str, Request], directory: Path, output: Path) -> None:
    """Appends the answers in `directory` that `output` does not hold yet; reads every file before it writes one row."""
    files = sorted(directory.glob("batch_*.jsonl"))
    if not files:
        raise Problem(f"no batch_NN.jsonl in {directory}. Save the assistant's answers there first.")
    done, rows = answered_ids(output, plan), []
    for file in files:
        for answer in read_jsonl(file, required=("id", "prompt", "chosen", "rejected")):
            if answer["id"] not in plan:
                raise Problem(f"{file}: id '{answer['id']}' is not in the plan. Use the --rows and --seed of the export.")
            if answer["id"] not in done:
                done.add(answer["id"])
                rows.append(raw_row(plan[answer["id"]], answer))
    for row in sorted(rows, key=lambda row: row["id"]):
        append_jsonl(output, row)
    say(f"imported {len(rows)} new rows into {output}; {len(plan.keys() - done)} requests are open.")


def print_plan(requests: list[Request]) -> None:
    """The dry run: what would be asked, how much of it, and the first prompts; needs no key and no network."""
    say(f"{len(requests)} requests, one API call each")
    for name in ("disability", "user_type", "task_type", "query_type"):
        counts = Counter(getattr(request, name) for request in requests)
        say(f"{name}: " + ", ".join(f"{value} {count}" for value, count in counts.most_common()))
    # About four characters a token in English prose, and the instructions travel with every call.
    sent = sum(len(INSTRUCTIONS) + len(request.text()) for request in requests) // 4
    received = sum(100 + request.chosen_length + request.rejected_length for request in requests) // 4
    say(f"estimated tokens: {sent:,} sent, {received:,} received")
    print(INSTRUCTIONS, *(request.text() for request in requests[:3]), sep="\n\n")


# --- asking a server --------------------------------------------------------------------------------------------------

PAIR = {"prompt": {"type": "string"}, "chosen": {"type": "string"}, "rejected": {"type": "string"}}
PAIR_SCHEMA = {"type": "object", "properties": PAIR, "required": list(PAIR), "additionalProperties": False}
RESPONSE_SCHEMA = {"type": "json_schema", "json_schema": {"name": "preference_pair", "strict": True, "schema": PAIR_SCHEMA}}

FAILURES_IN_A_ROW = 20  # so many requests without a pair, one after the other: the next ones would get none either
REFUSALS = (401, 402, 403, 404, 405)  # the key, the credit, the model or the address: the same for every request
BAD_REQUESTS = (400, 422)
UNREACHABLE = ("ConnectError", "UnsupportedProtocol", "LocalProtocolError", "ProxyError")  # of the SDK's HTTP library


class NoPair(Exception):
    """A server's answer without a pair in it; the message says why, in the server's words where it has any."""


def read_answer(text: str) -> tuple[dict, int, int]:
    """Returns the pair, and the tokens sent and received, of a chat completion. Raises NoPair."""
    try:
        body = json.loads(text)
        if body.get("error"):  # some servers send an error with status 200
            raise NoPair(server_words(body["error"]))
        choice = body["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise NoPair(f"no chat completion but: {server_words(text)}") from None
    if choice.get("finish_reason") == "length":
        raise NoPair("cut off at --max-tokens")
    if not isinstance(content, str):
        raise NoPair(server_words(choice["message"].get("refusal") or "an answer without text"))
    usage = body.get("usage") or {}
    return read_pair(content), usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0


def read_pair(content: str) -> dict[str, str]:
    try:
        pair = parse_line(content.encode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise NoPair(f"the model's text is no pair: {error}") from None
    for field in PAIR:
        if not isinstance(pair.get(field), str) or not pair[field].strip():
            raise NoPair(f"the model's pair has no '{field}'")
    return {field: pair[field] for field in PAIR}


def server_words(body: object) -> str:
    """One line of what the server says, out of an error object, a page of HTML or plain text."""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or json.dumps(body)
    text = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", str(body), flags=re.DOTALL)
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words[:300] or "(nothing)"


def explain(error: Exception) -> str:
    """Why a call failed, in the words of the server or of the network."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return f"the server answers {error.status_code}: {server_words(error.body or error.response.text)}"
    if isinstance(error, APIConnectionError):
        return f"{error.message.rstrip('.')} ({server_words(error.__cause__)})"
    return server_words(error) if str(error) else type(error).__name__


def concerns_every_request(error: Exception, answered: int) -> bool:
    """Would the next call fail in the same way? All calls have the same key, model and parameters, and differ in one text.

    Hence a request that the server calls bad is the parameters' if nothing was answered yet, and that one text's later, or
    where a filter refused it. A rate limit passes; an exhausted credit, which has the same status, does not.
    """
    from openai import APIConnectionError, APIStatusError, OpenAIError

    if not isinstance(error, OpenAIError | NoPair):  # nothing was sent
        return answered == 0
    if isinstance(error, APIConnectionError):
        return type(error.__cause__).__name__ in UNREACHABLE
    if not isinstance(error, APIStatusError):
        return False
    if error.status_code in BAD_REQUESTS:
        return answered == 0 and error.code != "content_filter"
    return error.status_code in REFUSALS or "insufficient_quota" in (error.code, error.type)


class Collector:
    """Asks for pairs, several calls at a time, and puts each on disk as it arrives."""

    def __init__(self, client, args: argparse.Namespace, bar):
        self.client, self.args, self.bar = client, args, bar
        self.answered = self.sent = self.received = 0
        self.failed: set[str] = set()
        self.in_a_row = 0

    def ask(self, request: Request, retries: int) -> str:
        limit = {"max_tokens": self.args.max_tokens} if self.args.max_tokens else {}
        answer = self.client.with_options(max_retries=retries).chat.completions.with_raw_response.create(
            model=self.args.model,
            temperature=self.args.temperature,
            response_format=RESPONSE_SCHEMA,
            messages=[{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": request.text()}],
            **limit,
        )
        return answer.text

    def collect(self, requests: list[Request], threads: int, retries: int) -> None:
        """Stopped by an error or by Ctrl-C it starts no further call, but waits for those under way: they are paid for."""
        todo = deque(requests)
        outcomes: queue.SimpleQueue = queue.SimpleQueue()

        def work() -> None:
            while todo:
                try:
                    request = todo.popleft()
                except IndexError:  # another thread took the last one
                    return
                try:
                    outcomes.put((request, self.ask(request, retries)))
                except Exception as error:
                    if concerns_every_request(error, answered=1):  # the reader hears of it later, and a call has a price
                        todo.clear()
                    outcomes.put((request, error))

        # Daemons: a second Ctrl-C leaves at once, and Python does not wait for them.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(requests)))]
        try:
            for worker in workers:
                worker.start()  # waits until the thread runs, and Ctrl-C may come in that wait: its call is under way then
            for request, outcome in arrivals(workers, outcomes):
                self.take(request, outcome)
        except BaseException:
            todo.clear()
            if any(worker.is_alive() for worker in workers):
                self.say("stopping; waiting for the answers under way (Ctrl-C leaves them)")
            for request, outcome in arrivals(workers, outcomes):
                with contextlib.suppress(Problem):
                    self.take(request, outcome)
            raise

    def take(self, request: Request, outcome: str | Exception) -> None:
        """Raises Problem where the run is to stop."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            pair, sent, received = read_answer(outcome)
        except Exception as error:
            self.count_failure(request, error)
        else:
            append_jsonl(self.args.output, raw_row(request, pair))
            self.answered += 1
            self.sent += sent
            self.received += received
            self.failed.discard(request.id)
            self.in_a_row = 0
        self.bar.n = self.answered + len(self.failed)
        self.bar.refresh()

    def count_failure(self, request: Request, error: Exception) -> None:
        reason = explain(error).replace(self.client.api_key, "(the key)")
        if concerns_every_request(error, self.answered):
            raise Problem(
                f"{reason.rstrip('.')}. Every request would fail like this: check the key, --base-url, --model and the options."
            )
        self.say(f"{request.id}: no pair: {reason}")
        self.failed.add(request.id)
        self.in_a_row += 1
        if self.in_a_row >= FAILURES_IN_A_ROW:
            raise Problem(
                f"{self.in_a_row} requests in a row got no pair, the last one: {reason.rstrip('.')}. Try another --model."
            )

    def say(self, message: str) -> None:
        """On a line of its own, above the bar."""
        self.bar.write(message, file=sys.stderr)

    def summary(self) -> str:
        cost = self.sent / 1e6 * self.args.price_in + self.received / 1e6 * self.args.price_out
        price = f", about ${cost:.2f}" if cost else ""
        return (
            f"got {self.answered} pairs for {self.sent:,} prompt and {self.received:,} completion tokens{price}; "
            f"{len(self.failed)} requests failed. Run again to resume."
        )


def arrivals(workers: list[threading.Thread], outcomes: queue.SimpleQueue) -> Iterator[tuple[Request, str | Exception]]:
    while any(worker.is_alive() for worker in workers) or not outcomes.empty():
        with contextlib.suppress(queue.Empty):
            yield outcomes.get(timeout=0.1)


def ask_api(requests: list[Request], args: argparse.Namespace) -> None:
    """One structured-output call a request, the first one alone: it tells whether the server talks to us at all."""
    from openai import OpenAI
    from tqdm import tqdm

    # A local server wants no key; the SDK wants some string.
    key = os.environ.get("OPENAI_API_KEY", "").strip() or ("unused" if args.base_url else None)
    if key is None:
        raise Problem("OPENAI_API_KEY is not set. Export it, or name a local server by --base-url, or try --dry-run.")
    if not (key.isascii() and key.isprintable()):
        raise Problem("OPENAI_API_KEY holds a character that no key has. Copy it again.")
    bar = tqdm(total=len(requests), desc="pairs", unit="pair")
    collector = Collector(OpenAI(api_key=key, base_url=args.base_url, timeout=args.timeout), args, bar)
    try:
        collector.collect(requests[:1], threads=1, retries=0)
        rest = [request for request in requests if request.id in collector.failed] + requests[1:]
        collector.collect(rest, args.concurrency, args.retries)
    finally:
        bar.close()
        say(collector.summary())
    if collector.failed:
        raise Problem(f"{len(collector.failed)} requests got no pair. Run the same command again to ask for these alone.")


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive_int, default=985, help="pairs to plan (default 985, the study's)")
    parser.add_argument("--seed", type=random_seed, default=42, help="random seed of the plan (default 42)")
    parser.add_argument("--output", type=Path, default=Path("dpo_raw.jsonl"), help="raw rows, appended (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the first prompts; no key needed")
    parser.add_argument("--export-prompts", type=Path, metavar="DIR", help="write batches to paste into a chat assistant")
    parser.add_argument("--import-responses", type=Path, metavar="DIR", help="read the assistant's answers back")
    parser.add_argument("--batch-size", type=positive_int, default=25, help="requests per exported batch (default 25)")
    parser.add_argument("--model", default="gpt-4o-mini", help="model name for the API (default %(default)s)")
    parser.add_argument("--base-url", help="any OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--concurrency", type=positive_int, default=4, help="API calls in flight (default 4)")
    parser.add_argument("--temperature", type=float_from_zero, default=0.9, help="sampling temperature (default 0.9)")
    parser.add_argument("--max-tokens", type=int, default=800, help="longest answer; 0 sends no limit (default 800)")
    parser.add_argument("--timeout", type=positive_float, default=120, help="seconds to wait for one answer (default 120)")
    parser.add_argument("--retries", type=int, default=5, help="tries again after a rate limit or a lost call (default 5)")
    parser.add_argument("--price-in", type=float_from_zero, default=0, help="USD per million prompt tokens, for the summary")
    parser.add_argument("--price-out", type=float_from_zero, default=0, help="USD per million completion tokens")
    args = parser.parse_args()
    if args.rows > 9999:
        raise Problem("--rows can be 9999 at most: the ids have four digits.")
    if args.max_tokens < 0 or args.retries < 0:
        raise Problem("--max-tokens and --retries must be at least 0.")

    plan = {request.id: request for request in plan_requests(args.rows, args.seed)}
    if not args.dry_run:
        check_outputs(args.output, folders=[args.export_prompts])
    try:
        if args.import_responses:
            return import_batches(plan, args.import_responses, args.output)
        done = answered_ids(args.output, plan)
    except BadLine as error:
        raise Problem(f"{error}. Correct that line and run again; nothing was written.") from None
    open_requests = [request for request in plan.values() if request.id not in done]
    if args.dry_run:
        return print_plan(open_requests)
    if not open_requests:
        return say(f"{args.output} holds all {len(plan)} pairs already; nothing is left to ask.")
    if args.export_prompts:
        return export_batches(open_requests, args.export_prompts, args.batch_size)
    say(f"{len(done)} rows are there already; asking {args.model} for {len(open_requests)}")
    return ask_api(open_requests, args)


if __name__ == "__main__":
    run(main)
