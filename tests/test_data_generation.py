"""The plan of requests, and both ways from it to the raw file; the API's bad days by a server on loopback."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import data_generation
from data_generation import plan_requests
from domains.at import CATEGORIES, DISABILITIES, TASKS, USERS
from specdec.files import read_jsonl, write_jsonl

SHIPPED = Path(__file__).resolve().parents[1] / "dpo_clean.jsonl"


def test_plan_covers_the_rotation_evenly():
    plan = plan_requests()
    cells = Counter((request.disability, request.user_type, request.task_type) for request in plan)
    assert len(plan) == 985 and len(cells) == len(DISABILITIES) * len(USERS) * len(TASKS) == 504
    assert max(cells.values()) - min(cells.values()) <= 1
    assert plan == plan_requests() != plan_requests(seed=1)


def test_shipped_rows_follow_the_plan():
    plan = {request.id: request for request in plan_requests()}
    for entry in read_jsonl(SHIPPED):
        request = plan[entry["id"]]
        assert all(entry[field] == getattr(request, field) for field in CATEGORIES)


def answers(count: int) -> list[dict]:
    return [
        {"id": f"at-{number:04d}", **{key: f"{key} {number}" for key in ("prompt", "chosen", "rejected")}}
        for number in range(1, count + 1)
    ]


def test_export_import_and_resume(cli, tmp_path):
    raw, folder = tmp_path / "raw.jsonl", tmp_path / "batches"
    options = ("--rows", 6, "--output", raw, "--batch-size", 4)
    assert cli(data_generation, "--export-prompts", folder, *options)[0] == 0
    assert [path.name for path in sorted(folder.iterdir())] == ["batch_01.md", "batch_02.md"]
    write_jsonl(folder / "batch_01.jsonl", answers(4))
    assert "2 requests are open" in cli(data_generation, "--import-responses", folder, *options)[2]
    assert "imported 0 new rows" in cli(data_generation, "--import-responses", folder, *options)[2]
    assert cli(data_generation, "--export-prompts", tmp_path / "more", *options)[0] == 0
    assert "at-0005" in (tmp_path / "more" / "batch_01.md").read_text()
    assert [entry["id"] for entry in read_jsonl(raw)] == [f"at-{number:04d}" for number in range(1, 5)]


@pytest.mark.parametrize(
    "line, fragment",
    [
        ("{oops", "line 2"),
        ('{"id": "at-0002", "prompt": "a", "chosen": "", "rejected": "c"}', "line 2: 'chosen'"),
        ('{"id": "at-9999", "prompt": "a", "chosen": "b", "rejected": "c"}', "not in the plan"),
    ],
)
def test_bad_answers_import_nothing(cli, tmp_path, line, fragment):
    (tmp_path / "batch_01.jsonl").write_text(json.dumps(answers(1)[0]) + "\n" + line + "\n")
    status, _, err = cli(data_generation, "--import-responses", tmp_path, "--output", tmp_path / "raw.jsonl")
    assert status == 1 and fragment in err and not (tmp_path / "raw.jsonl").exists()


def test_dry_run_needs_no_key(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    output = ("--output", tmp_path / "raw.jsonl")
    status, out, err = cli(data_generation, "--dry-run", *output)
    assert status == 0 and "985 requests" in err and "at-0001" in out and "estimated tokens" in err
    status, _, err = cli(data_generation, *output)
    assert status == 1 and "OPENAI_API_KEY" in err


def test_another_plan_is_refused(cli, tmp_path):
    """The rows of a plan with another random seed have the same ids, and stand for other requests."""
    raw, folder = tmp_path / "raw.jsonl", tmp_path / "batches"
    write_jsonl(folder / "batch_01.jsonl", answers(6))
    assert cli(data_generation, "--import-responses", folder, "--rows", 6, "--output", raw)[0] == 0
    before = raw.read_bytes()
    for options in (("--import-responses", folder), ("--export-prompts", tmp_path / "more"), ("--dry-run",)):
        status, _, err = cli(data_generation, *options, "--rows", 6, "--seed", 1, "--output", raw)
        assert status == 1 and "is of another plan" in err
    assert raw.read_bytes() == before and not (tmp_path / "more").exists()
    status, _, err = cli(data_generation, "--rows", 6, "--output", raw)
    assert status == 0 and "nothing is left to ask" in err


@pytest.mark.parametrize(
    "option, value, status",
    [
        ("--seed", -1, 2),
        ("--seed", 2**64, 2),
        ("--rows", 0, 2),
        ("--rows", 10_000, 1),
        ("--batch-size", 0, 2),
        ("--concurrency", 0, 2),
        ("--temperature", "nan", 2),
        ("--timeout", 0, 2),
        ("--price-in", -1, 2),
        ("--max-tokens", -1, 1),
        ("--retries", -1, 1),
        ("--output", ".", 1),
        ("--export-prompts", "file", 1),
        ("--import-responses", "missing", 1),
    ],
)
def test_options_are_refused(cli, tmp_path, monkeypatch, option, value, status):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    end, out, err = cli(data_generation, option, value)
    assert end == status and "error:" in err and not out and [path.name for path in tmp_path.iterdir()] == ["file"]


# --- a server ---------------------------------------------------------------------------------------------------------

PAIR = {"prompt": "What reads aloud?", "chosen": "NVDA does.", "rejected": "Some programs do."}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def completion(content: str | None = json.dumps(PAIR), finish: str = "stop", **changes) -> dict:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE, **changes}


def refusal(message: str, **fields) -> dict:
    return {"error": {"message": message, **fields}}


class Server(http.server.ThreadingHTTPServer):
    """Gives `answers`, each (status, body), in their order, then the last one for ever; None drops the connection."""

    daemon_threads = True

    def __init__(self, *answers, wait: float = 0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.wait, self.calls = answers, wait, []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def options(self, output: Path, rows: int = 4) -> tuple:
        url = f"http://127.0.0.1:{self.server_port}/v1"
        return ("--rows", rows, "--output", output, "--base-url", url, "--retries", 0, "--concurrency", 1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.calls.append(request)
            number = len(self.server.calls)
        answer = self.server.answers[min(number, len(self.server.answers)) - 1]
        if number > 1:
            time.sleep(self.server.wait)
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """`serve(*answers)` starts a server for this test."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    servers = []

    def start(*answers, **options) -> Server:
        servers.append(Server(*answers, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


GOOD = (200, completion())


def test_pairs_arrive_with_their_requests(cli, serve, tmp_path):
    raw = tmp_path / "raw.jsonl"
    server = serve(GOOD)
    status, _, err = cli(data_generation, *server.options(raw), "--concurrency", 3, "--price-in", 1e6, "--price-out", 2e6)
    assert status == 0 and "got 4 pairs for 40 prompt and 20 completion tokens, about $80.00; 0 requests failed" in err
    rows = {row["id"]: row for row in read_jsonl(raw)}
    assert list(sorted(rows)) == ["at-0001", "at-0002", "at-0003", "at-0004"]
    for request in plan_requests(4):
        assert {field: rows[request.id][field] for field in PAIR} == PAIR
        assert rows[request.id]["disability"] == request.disability
    sent = server.calls[0]
    assert sent["max_tokens"] == 800 and sent["temperature"] == 0.9 and sent["response_format"]["type"] == "json_schema"
    assert sorted(call["messages"][1]["content"][:9] for call in server.calls) == [f"[{id}]" for id in sorted(rows)]


def test_no_limit_is_sent_for_zero(cli, serve, tmp_path):
    """Newer models refuse the parameter."""
    server = serve(GOOD)
    assert cli(data_generation, *server.options(tmp_path / "raw.jsonl"), "--max-tokens", 0)[0] == 0
    assert "max_tokens" not in server.calls[0]


@pytest.mark.parametrize(
    "answer, words",
    [
        ((200, completion(choices=[])), "no chat completion"),
        ((200, completion(choices=None)), "no chat completion"),
        ((200, completion(choices=[{"index": 0, "message": None}])), "no chat completion"),
        ((200, completion(None)), "an answer without text"),
        ((200, completion("")), "no pair"),
        ((200, completion("Sure! Here it is.")), "not JSON"),
        ((200, completion("[1]")), "found list"),
        ((200, completion(json.dumps({**PAIR, "chosen": " "}))), "no 'chosen'"),
        ((200, completion(json.dumps({**PAIR, "prompt": 7}))), "no 'prompt'"),
        ((200, completion(json.dumps({**PAIR, "prompt": "\ud83d"}))), "lone surrogate"),
        ((200, completion(json.dumps(PAIR)[:40], finish="length")), "cut off at --max-tokens"),
        ((200, refusal("The model is loading")), "The model is loading"),
        ((200, {"error": "The model is loading"}), "The model is loading"),
        ((200, None), "no chat completion"),
        ((200, []), "no chat completion"),
        ((200, "<html><style>p {}</style><h1>Sign in</h1> to the \x1b[31mwifi</html>"), "Sign in to the [31mwifi"),
        ((200, ""), "no chat completion"),
        ((400, refusal("This prompt is too long")), "400: This prompt is too long"),
        ((429, refusal("Slow down", code="rate_limit_exceeded")), "429: Slow down"),
        ((500, "<html>Bad gateway</html>"), "500: Bad gateway"),
        (None, "Connection error"),
    ],
)
def test_a_bad_answer_is_that_request_alone(cli, serve, tmp_path, answer, words):
    raw = tmp_path / "raw.jsonl"
    server = serve(GOOD, answer, GOOD)
    status, _, err = cli(data_generation, *server.options(raw))
    assert status == 1 and "at-0002: no pair" in err and words in err and "Traceback" not in err
    assert "got 3 pairs" in err and "1 requests failed" in err and "\x1b[31m" not in err
    assert [row["id"] for row in read_jsonl(raw)] == ["at-0001", "at-0003", "at-0004"]
    status, _, err = cli(data_generation, *server.options(raw))
    assert status == 0 and len(server.calls) == 5 and len(list(read_jsonl(raw))) == 4


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}])
def test_servers_that_count_nothing(cli, serve, tmp_path, usage):
    server = serve((200, completion(usage=usage)))
    status, _, err = cli(data_generation, *server.options(tmp_path / "raw.jsonl"))
    assert status == 0 and "got 4 pairs for 0 prompt" in err


def test_a_first_call_that_fails_for_itself_is_made_again(cli, serve, tmp_path):
    for bad in ((503, refusal("busy")), (400, refusal("filtered", code="content_filter")), (200, completion(None))):
        raw = tmp_path / f"{bad[0]}.jsonl"
        server = serve(bad, GOOD)
        assert cli(data_generation, *server.options(raw))[0] == 0 and len(server.calls) == 5


STOPS = [
    ((400, refusal("Unsupported parameter: 'max_tokens' is not supported.")), "Unsupported parameter: 'max_tokens'"),
    ((401, refusal("Incorrect key sk-secret")), "401: Incorrect key (the key)"),
    ((402, refusal("Insufficient Balance")), "402: Insufficient Balance"),
    ((403, {"detail": "Country not supported"}), "403: Country not supported"),
    ((404, refusal("The model does not exist")), "404: The model does not exist"),
    ((405, "<html><h1>Not allowed</h1></html>"), "405: Not allowed"),
    ((422, {"detail": [{"loc": ["body"], "msg": "Extra inputs are not permitted"}]}), "Extra inputs are not permitted"),
    ((429, refusal("You exceeded your current quota", code="insufficient_quota")), "You exceeded your current quota"),
]


@pytest.mark.parametrize("answer, words", STOPS)
def test_what_concerns_every_request_stops_at_once(cli, serve, tmp_path, answer, words):
    raw = tmp_path / "raw.jsonl"
    server = serve(answer)
    status, out, err = cli(data_generation, *server.options(raw, rows=985), "--retries", 5)
    assert status == 1 and words in err and len(server.calls) == 1 and not raw.exists()
    assert err.count("error:") == 1 and "sk-secret" not in out + err


@pytest.mark.parametrize("busy", [0.0, 0.3])
def test_credit_that_ends_in_the_middle(cli, serve, tmp_path, monkeypatch, busy):
    """No thread asks on, also where the main one is slow to hear of the refusal."""
    take = data_generation.Collector.take

    def late(self, request, outcome):
        time.sleep(busy)
        take(self, request, outcome)

    monkeypatch.setattr(data_generation.Collector, "take", late)
    raw = tmp_path / "raw.jsonl"
    server = serve(GOOD, GOOD, (402, refusal("Insufficient Balance")))
    status, _, err = cli(data_generation, *server.options(raw, rows=985))
    assert status == 1 and "Insufficient Balance" in err and "got 2 pairs" in err
    assert len(server.calls) <= 4 and len(list(read_jsonl(raw))) == 2


def test_nobody_listens(cli, serve, tmp_path):
    server = serve(GOOD)
    options = server.options(tmp_path / "raw.jsonl", rows=985)
    server.shutdown()
    server.server_close()
    status, _, err = cli(data_generation, *options)
    assert status == 1 and "refused" in err and "no pair" not in err
    status, _, err = cli(data_generation, *options, "--base-url", "127.0.0.1:8000/v1")
    assert status == 1 and "protocol" in err and "no pair" not in err


def test_twenty_failures_in_a_row_stop(cli, serve, tmp_path):
    server = serve((200, "<html>Sign in</html>"))
    status, _, err = cli(data_generation, *server.options(tmp_path / "raw.jsonl", rows=985))
    assert status == 1 and "20 requests in a row got no pair, the last one: no chat completion but: Sign in" in err
    assert 20 <= len(server.calls) <= 22


def test_a_key_that_is_none(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secrét")
    status, _, err = cli(data_generation, "--output", tmp_path / "raw.jsonl")
    assert status == 1 and "holds a character that no key has" in err and "sk-" not in err


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_answers_under_way_are_kept(serve, tmp_path, number, status):
    """Three calls are under way when the signal comes: they are paid for, so they are waited for; no other one starts."""
    raw = tmp_path / "raw.jsonl"
    process, server = started(serve, raw, wait=5)  # longer than a busy machine takes to hear the signal
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == status and "waiting for the answers under way" in err
    assert "got 4 pairs" in err and len(server.calls) == 4 and len(list(read_jsonl(raw))) == 4


def test_ctrl_c_while_the_calls_start_keeps_them_too(tmp_path, monkeypatch):
    """`Thread.start` waits until its thread runs; a call is under way before that wait is over."""

    class Slow(data_generation.Collector):
        def ask(self, request, retries):
            time.sleep(0.3)
            return json.dumps(completion())

    class Interrupted(threading.Thread):
        def start(self):
            super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(data_generation.threading, "Thread", Interrupted)
    args = SimpleNamespace(output=tmp_path / "raw.jsonl")
    collector = Slow(None, args, SimpleNamespace(n=0, refresh=lambda: None, write=lambda *_, **__: None))
    with pytest.raises(KeyboardInterrupt):
        collector.collect(plan_requests()[:3], threads=3, retries=0)
    assert len(list(read_jsonl(args.output))) == 1


def test_a_second_signal_does_not_wait(serve, tmp_path):
    raw = tmp_path / "raw.jsonl"
    process, _ = started(serve, raw, wait=30)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == 130 and "got 1 pairs" in err and len(list(read_jsonl(raw))) == 1


def started(serve, raw: Path, wait: float) -> tuple[subprocess.Popen, Server]:
    """A process whose first call was answered and that waits for three more."""
    server = serve(GOOD, wait=wait)
    options = [str(option) for option in (*server.options(raw, rows=985), "--concurrency", 3)]
    process = subprocess.Popen(
        [sys.executable, data_generation.__file__, *options], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    deadline = time.monotonic() + 60
    while len(server.calls) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process, server
