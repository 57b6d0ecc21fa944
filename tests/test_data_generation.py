"""The plan of requests, and both roads from it to the raw file."""

import json
from collections import Counter
from pathlib import Path

import pytest

import data_generation
from clean_dataset import CATEGORIES
from data_generation import DISABILITIES, TASKS, USERS, plan_requests
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


def test_refused_key_is_never_printed(cli, tmp_path, monkeypatch):
    """A server that answers 401: one line, no key, nothing written."""
    import http.server
    import threading

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "bad key sk-secret"}}')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    status, out, err = cli(
        data_generation,
        "--rows",
        3,
        "--output",
        tmp_path / "raw.jsonl",
        "--base-url",
        f"http://127.0.0.1:{server.server_port}/v1",
    )
    server.shutdown()
    assert status == 1 and "401" in err and "sk-secret" not in out + err and not (tmp_path / "raw.jsonl").exists()
