"""Plans and collects the 985 assistive-technology preference pairs that DPO trains on.

Seed 000 rotates disability × user × task so that a chat model writes varied pairs. Here the rotation is a seeded
plan of 985 requests covering all 504 cells, and two roads lead from the plan to `dpo_raw.jsonl`:

  an API      python data_generation.py --model gpt-4o-mini          (any OpenAI-compatible server by --base-url)
  a chat page python data_generation.py --export-prompts batches/    paste each file into an assistant, save its
              python data_generation.py --import-responses batches/  answer beside it as batch_NN.jsonl

Both append row by row and skip ids already answered, so a stopped run resumes where it was.
`clean_dataset.py` turns the raw file into `dpo_clean.jsonl`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from specdec.files import BadLine, append_jsonl, read_jsonl, write_whole
from specdec.terminal import Problem, run, say

# The seed's three lists, in its order.
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

# The seed found that query type decides, so every request carries one. A task admits one to three of them; the
# weights make recommendations the commonest type, as in the seed.
QUERY_TYPES_BY_TASK = {
    "tool recommendation": {"recommendation": 1},
    "comparison": {"recommendation": 1, "definitional": 1},
    "configuration": {"procedural": 2, "technical": 1},
    "troubleshooting": {"procedural": 1, "technical": 1},
    "standards compliance": {"definitional": 2, "technical": 1},
    "enterprise deployment": {"procedural": 2, "recommendation": 2, "technical": 1},
}
QUERY_TYPES = ("recommendation", "definitional", "procedural", "technical")

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
    """Returns `rows` requests in seeded order; no cell is asked n+1 times before every cell is asked n times.

    Target lengths scatter around the seed's means (555 and 281 characters), for real answers are not all one size.
    """
    chance = random.Random(seed)
    cells: list[tuple[str, str, str]] = []
    while len(cells) < rows:
        turn = list(itertools.product(DISABILITIES, USERS, TASKS))
        chance.shuffle(turn)
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
                query_type=chance.choices(list(types), list(types.values()))[0],
                form=chance.choice(FORMS),
                chosen_length=round(min(max(chance.gauss(555, 70), 400), 720) / 10) * 10,
                rejected_length=round(min(max(chance.gauss(281, 35), 200), 370) / 10) * 10,
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


def answered_ids(output: Path) -> set[str]:
    return {row["id"] for row in read_jsonl(output, required=("id",))} if output.exists() else set()


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


def import_batches(requests: dict[str, Request], directory: Path, output: Path) -> None:
    """Appends the answers in `directory` that `output` does not hold yet; reads every file before it writes one row."""
    files = sorted(directory.glob("batch_*.jsonl"))
    if not files:
        raise Problem(f"no batch_NN.jsonl in {directory}. Save the assistant's answers there first.")
    done, rows = answered_ids(output), []
    for file in files:
        for answer in read_jsonl(file, required=("id", "prompt", "chosen", "rejected")):
            if answer["id"] not in requests:
                raise Problem(f"{file}: id '{answer['id']}' is not in the plan. Use the --rows and --seed of the export.")
            if answer["id"] not in done:
                done.add(answer["id"])
                rows.append(raw_row(requests[answer["id"]], answer))
    for row in sorted(rows, key=lambda row: row["id"]):
        append_jsonl(output, row)
    say(f"imported {len(rows)} new rows into {output}; {len(requests) - len(done & set(requests))} requests are open.")


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


def ask_api(requests: list[Request], args: argparse.Namespace) -> None:
    """One structured-output call a request, `--concurrency` at a time; every answer is on disk before the next starts."""
    from openai import AuthenticationError, NotFoundError, OpenAI, OpenAIError
    from pydantic import BaseModel, Field, ValidationError
    from tqdm import tqdm

    class PreferencePair(BaseModel):
        prompt: str = Field(min_length=1)
        chosen: str = Field(min_length=1)
        rejected: str = Field(min_length=1)

    # A local server wants no key; the SDK wants some string.
    key = os.environ.get("OPENAI_API_KEY") or ("unused" if args.base_url else None)
    if key is None:
        raise Problem("OPENAI_API_KEY is not set. Export it, or name a local server by --base-url, or try --dry-run.")
    client = OpenAI(api_key=key, base_url=args.base_url, max_retries=5, timeout=args.timeout)

    def ask(request: Request):
        return client.chat.completions.parse(
            model=args.model,
            temperature=args.temperature,
            response_format=PreferencePair,
            max_tokens=800,
            messages=[{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": request.text()}],
        )

    sent = received = failed = 0
    pool = ThreadPoolExecutor(args.concurrency)
    try:
        pending = {pool.submit(ask, request): request for request in requests}
        for future in tqdm(as_completed(pending), total=len(pending), desc="pairs", unit="pair"):
            request = pending[future]
            try:
                answer = future.result()
                pair = answer.choices[0].message.parsed
                if pair is None:
                    raise ValueError("the model refused or gave no JSON")
            except (AuthenticationError, NotFoundError) as fault:  # the next 984 calls would fail the same way
                raise Problem(f"the server refused the call ({fault.status_code}). Check the key and --model.") from None
            except (OpenAIError, ValidationError, ValueError) as fault:
                failed += 1
                say(f"{request.id}: no pair ({type(fault).__name__}); it stays open for the next run")
                continue
            append_jsonl(args.output, raw_row(request, pair.model_dump()))
            if answer.usage:
                sent += answer.usage.prompt_tokens
                received += answer.usage.completion_tokens
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        cost = sent / 1e6 * args.price_in + received / 1e6 * args.price_out
        say(
            f"used {sent:,} prompt and {received:,} completion tokens"
            + (f", about ${cost:.2f}" if cost else "")
            + f"; {failed} failed. Run again to resume."
        )
    if failed:
        raise Problem(f"{failed} requests got no pair. Run the same command again to ask for these alone.")


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=985, help="pairs to plan (default 985, the seed's)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the plan (default 42)")
    parser.add_argument("--output", type=Path, default=Path("dpo_raw.jsonl"), help="raw rows, appended (default %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the first prompts; no key needed")
    parser.add_argument("--export-prompts", type=Path, metavar="DIR", help="write batches to paste into a chat assistant")
    parser.add_argument("--import-responses", type=Path, metavar="DIR", help="read the assistant's answers back")
    parser.add_argument("--batch-size", type=int, default=25, help="requests per exported batch (default 25)")
    parser.add_argument("--model", default="gpt-4o-mini", help="model name for the API (default %(default)s)")
    parser.add_argument("--base-url", help="any OpenAI-compatible server, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--concurrency", type=int, default=4, help="API calls in flight (default 4)")
    parser.add_argument("--temperature", type=float, default=0.9, help="sampling temperature (default 0.9)")
    parser.add_argument("--timeout", type=float, default=120, help="seconds to wait for one answer (default 120)")
    parser.add_argument("--price-in", type=float, default=0, help="USD per million prompt tokens, for the cost summary")
    parser.add_argument("--price-out", type=float, default=0, help="USD per million completion tokens")
    args = parser.parse_args()
    if args.rows < 1 or args.batch_size < 1 or args.concurrency < 1:
        raise Problem("--rows, --batch-size and --concurrency must be at least 1.")

    requests = plan_requests(args.rows, args.seed)
    try:
        if args.import_responses:
            return import_batches({request.id: request for request in requests}, args.import_responses, args.output)
        done = answered_ids(args.output)
    except BadLine as fault:
        raise Problem(f"{fault}. Mend that line and run again; nothing was written.") from None
    open_requests = [request for request in requests if request.id not in done]
    if args.dry_run:
        return print_plan(open_requests)
    if args.export_prompts:
        return export_batches(open_requests, args.export_prompts, args.batch_size)
    say(f"{len(done)} rows are there already; asking {args.model} for {len(open_requests)}")
    ask_api(open_requests, args)


if __name__ == "__main__":
    run(main)
