"""What a draft writes by itself is counted as the verifier's stored texts are."""

import json
import shutil

import count_calls
from specdec.files import write_jsonl


def test_what_a_draft_writes_by_itself(cli, tmp_path, tiny, monkeypatch):
    """The verifier's stored texts and the draft's own are counted alike; one seed gives one text."""
    verifier = shutil.copytree(tiny.verifier, tmp_path / "verifier")
    (verifier / "chat_template.jinja").write_text(
        "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    tools = [{"type": "function", "function": {"name": "leaf", "parameters": {"required": ["color"]}}}]
    header = {"run_id": "a", "command": "x", "conditions": {"verifier": str(verifier)}, "environment": {}}
    row = {"prompt": "Leaves", "tools": tools, "query_type": "live_irrelevance", "token_ids": [5, 6, 7], "seed": 1}
    row |= {"temperature": 0.7, "top_p": 1.0}
    file = tmp_path / "answers.jsonl"
    write_jsonl(file, [header, {**row, "run_id": "a"}, {**row, "prompt": "Trees", "run_id": "a"}])
    asked = ("--draft", tiny.draft, "--verifier", verifier, "--answers", file)
    found = []
    for name in ("one.json", "two.json"):
        status, out, err = cli(count_calls, *asked, "--json", tmp_path / name)
        assert status == 0, err
        written = json.loads((tmp_path / name).read_text())
        found.append(written["found"])
    assert written["conditions"]["no_tool_fits"] == 2
    assert out.splitlines()[1] == "base: of 2 texts 0 parse as calls, 0 to a given tool as it requires"
    assert found[0] == found[1] and len(found[0]["base"]["own"]) == 2
    draw = count_calls.Drafter.propose
    drawn = iter([draw])  # the first text alone

    def interrupted(self, *args):
        try:
            return next(drawn)(self, *args)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(count_calls.Drafter, "propose", interrupted)
    status, _, _ = cli(count_calls, *asked, "--json", tmp_path / "stopped.json")
    kept = json.loads((tmp_path / "stopped.json").read_text())["found"]
    assert status == 130 and kept["base"]["own"] == found[0]["base"]["own"][:1] and kept["base"]["texts"] == 1
    monkeypatch.undo()
    call = '{"name": "leaf", "arguments": {"color": "green"}}'
    rows = [{"tools": tools}, {"tools": tools}, {"tools": tools}]
    texts = [call, '{"name": "leaf", "arguments": {}}', "Leaves are green."]
    assert count_calls.counted(texts, rows) == {"texts": 3, "parse": 2, "fitting": 1}
    write_jsonl(file, [header, {**{name: value for name, value in row.items() if name != "tools"}, "run_id": "a"}])
    status, _, err = cli(count_calls, *asked)
    assert status == 1 and "to a prompt with tools" in err
