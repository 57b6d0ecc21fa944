"""The benchmark on tiny models: whole, interrupted, with peers missing, and where the draft is the verifier itself."""

import json
import multiprocessing
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from test_adapters_loading import lora, save_adapter

import benchmark_decoding
from specdec import llama_cpp, machine, openvino, speed
from specdec.models import PAIRS, Model
from specdec.terminal import Problem
from specdec.theory import tokens_per_block

RATES = {"bytes_per_second": 1e9, "multiply_adds_per_second": {"float32": 1e9, "bfloat16": 1e9, "int8": 1e9}}


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')
    return file


@pytest.fixture
def in_this_process(monkeypatch):
    """A new process has to import torch first; one test below starts some."""

    def measured(task):
        answers = []
        benchmark_decoding.work(task, SimpleNamespace(send=answers.append))
        return iter(answers[:-1])

    monkeypatch.setattr(benchmark_decoding, "measured", measured)
    monkeypatch.setattr(benchmark_decoding, "machine_rates", lambda: RATES)


def call(cli, tiny, prompts, *arguments, draft=None, peers=("transformers",)):
    pair = ["--draft", draft or tiny.draft, "--verifier", tiny.verifier]
    options = ("--prompts", prompts, "--k", 1, 3, "--max-new-tokens", 6, "--peers", *peers)
    return cli(benchmark_decoding, *pair, *options, *arguments)


def decodings(result, peer):
    return [(row["draft"], row["k"]) for row in result["summary"] if row["peer"] == peer]


def test_every_peer_has_a_process_of_its_own(cli, tiny, prompts, tmp_path, monkeypatch):
    """Real processes: their rows arrive, what cannot be measured says why, and nobody inherits another's memory."""
    hold = bytearray(2**30)  # a peer that inherited this process's peak would have more
    hold[::4096] = b"1" * (2**30 // 4096)
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    out = tmp_path / "out.json"
    peers = ("int8=2", "generate", "llama.cpp")
    status, table, err = call(cli, tiny, prompts, "--limit", 2, "--lengths", 20, 90, "--json", out, peers=peers)
    result = json.loads(out.read_text())
    assert status == 0 and "int8, base, K=2" in table, err
    assert decodings(result, "int8") == [(None, 0), ("base", 2)] and decodings(result, "generate") == [(None, 0)]
    assert result["about"]["llama.cpp"] == {"not_measured": "not installed"} and "llama.cpp: not installed" in table
    assert len(result["rows"]) == 2 * 3 and result["interrupted"] is False
    for row in result["summary"]:
        assert row["tokens_per_second"] > 0 and row["over_llama_cpp"] is None and row["over_generate"] > 0
    for row in result["rows"]:
        assert 0 < row["first_token_seconds"] <= row["seconds"]
    for peer in ("int8", "generate"):
        assert 0 < result["about"][peer]["memory"][-1]["peak_bytes"] < 2**30
    assert list(result["about"]["int8"]["long"]["step_seconds"]) == ["90", "20"]
    assert result["about"]["machine"]["bytes_per_second"] > 1e8
    assert len(hold) == 2**30


def test_every_draft_at_every_length(cli, tiny, prompts, tmp_path, in_this_process):
    adapter = save_adapter(tmp_path / "adapter", tiny.draft, lora())
    drafts = ("--drafts", "base", f"tuned={adapter}")
    status, out, err = call(cli, tiny, prompts, *drafts, "--json", "-", peers=("generate", "packed", "transformers", "int8=2"))
    assert status == 0, err
    result = json.loads(out)
    by_k = [(draft, k) for draft in ("base", "tuned") for k in (1, 3)]
    assert decodings(result, "transformers") == [(None, 0), *by_k]
    assert decodings(result, "int8") == [(None, 0), ("base", 2), ("tuned", 2)]
    assert result["conditions"]["prompts"] == 3 and len(result["rows"]) == 3 * (2 + 5 + 3)
    for row in result["summary"][2:]:
        parts = row["seconds_per_block"]
        assert parts["verify"] > 0 and (parts["draft"] > 0) == bool(row["k"]) and row["floor_per_block"]["verify"] > 0
        assert row["over_no_draft"] == 1 if row["k"] == 0 else row["predicted_from_blocks"] > 0


def test_a_draft_that_is_the_verifier(cli, tiny, prompts, in_this_process):
    """α = 1: all drafts are accepted, and theory's tokens per block have their limit."""
    assert tokens_per_block(1.0, 4) == 5 and tokens_per_block(0.0, 4) == 1
    assert tokens_per_block(0.8, 4) == pytest.approx((1 - 0.8**5) / (1 - 0.8))
    status, out, err = call(cli, tiny, prompts, "--json", "-", draft=tiny.verifier)
    assert status == 0, err
    for row in json.loads(out)["summary"][1:]:
        assert row["expected_acceptance"] == pytest.approx(1, abs=0.01)
        assert row["predicted_from_alpha"] > 0


def test_ratios_are_of_the_same_prompt():
    def row(peer, prompt, speed, draft=None, k=0):
        return {"peer": peer, "draft": draft, "k": k, "prompt": prompt, "tokens_per_second": speed, "first_token_seconds": 1.0}

    rows = [row("llama.cpp", "a", 10), row("llama.cpp", "b", 40), row("generate", "a", 5), row("generate", "b", 10)]
    rows += [row("generate", "c", 99)]
    summary = {found["peer"]: found for found in speed.summarize_rows(rows, {})}
    assert summary["generate"]["over_llama_cpp"] == pytest.approx((0.5 + 0.25) / 2)
    assert summary["llama.cpp"]["over_generate"] == 3 and summary["generate"]["tokens_per_second"] == 10


def test_what_was_measured_before_a_stop_is_kept(cli, tiny, prompts, tmp_path, monkeypatch, in_this_process):
    """Ctrl-C and SIGTERM both arrive as KeyboardInterrupt."""
    whole = benchmark_decoding.measured

    def stopped(task):
        for number, message in enumerate(whole(task)):
            if task.peer == "int8" and number == 3:
                raise KeyboardInterrupt
            yield message

    monkeypatch.setattr(benchmark_decoding, "measured", stopped)
    peers = ("transformers=1", "int8=1")
    status, out, err = call(cli, tiny, prompts, "--json", tmp_path / "out.json", peers=peers)
    result = json.loads((tmp_path / "out.json").read_text())
    assert status == 130 and "8 texts were measured" in err and "transformers, base, K=1" in out
    assert len(result["rows"]) == 8 and result["interrupted"] and decodings(result, "int8") == [(None, 0), ("base", 1)]


def test_a_peer_that_dies_says_so_and_the_others_go_on(cli, tiny, prompts, tmp_path, monkeypatch, in_this_process):
    whole = benchmark_decoding.measured

    def one_refuses(task):
        if task.peer == "int8":
            raise Problem("no FBGEMM here.")
        return whole(task)

    real = benchmark_decoding.WORK
    monkeypatch.setattr(benchmark_decoding, "WORK", real | {"int8": one_refuses})
    status, out, err = call(cli, tiny, prompts, "--json", tmp_path / "out.json", peers=("int8=1", "generate"))
    assert status == 0 and "int8 was not measured: no FBGEMM here." in err and "int8: no FBGEMM here." in out
    status, _, err = call(cli, tiny, prompts, peers=("int8=1",))
    assert status == 1 and err.splitlines()[-1] == "error: nothing could be measured: no FBGEMM here."


def dies(task):
    yield "about", {"memory": []}
    os._exit(9)


def goes_on(task):
    yield "about", {"memory": []}
    time.sleep(600)


@pytest.fixture
def odd_task(monkeypatch):
    """`odd_task(work)`: a task for a peer that does this, in a real process."""
    context = multiprocessing.get_context("fork")  # a spawned process would not know such a peer
    monkeypatch.setattr(benchmark_decoding.multiprocessing, "get_context", lambda kind: context)

    def make(work):
        monkeypatch.setitem(benchmark_decoding.WORK, "odd", work)
        return benchmark_decoding.Task("odd", PAIRS["smollm2-qwen"], [], (), {}, 2, 0, 1)

    return make


def test_a_process_that_ends_early(odd_task):
    """As one does that the system kills for its memory."""
    found = list(benchmark_decoding.measured(odd_task(dies)))
    assert found == [("about", {"memory": []}), ("about", {"not_measured": "its process ended early (exit status 9)"})]


def test_no_process_is_left_behind(odd_task):
    """After Ctrl-C the parent asks for no more."""
    found = benchmark_decoding.measured(odd_task(goes_on))
    assert next(found) == ("about", {"memory": []}) and len(multiprocessing.active_children()) == 1
    found.close()
    assert multiprocessing.active_children() == []


def test_a_reader_who_leaves_takes_no_result_along(cli, tiny, prompts, tmp_path, monkeypatch, in_this_process):
    def gone(result):
        raise BrokenPipeError

    monkeypatch.setattr(benchmark_decoding, "print_result", gone)
    status, _, _ = call(cli, tiny, prompts, "--json", tmp_path / "out.json")
    assert status == 0 and json.loads((tmp_path / "out.json").read_text())["interrupted"] is False


@pytest.mark.parametrize(
    "arguments, fragment",
    [
        (["--max-new-tokens", "1"], "at least 2"),
        (["--llama-cpp", "no-such.gguf"], "no GGUF file"),
        (["--llama-cpp-draft", "no/such"], "none is known for a model of that name"),
        (["--json", "/dev/null/out.json"], "cannot write"),
        (["--peers", "int8", "vllm"], "each once, of generate"),
        (["--peers", "int8=0"], "each once, of generate"),
        (["--drafts", "tuned"], "not of the form"),
    ],
)
def test_bad_input_is_found_before_the_work(cli, tiny, prompts, arguments, fragment):
    status, out, err = call(cli, tiny, prompts, *arguments)
    assert status == 1 and out == "" and fragment in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("more, needed", [([], "606"), (["--lengths", "700"], "700")])
def test_a_prompt_that_does_not_fit_is_found_before_the_first_is_measured(cli, tiny, prompts, tmp_path, more, needed):
    earlier = tmp_path / "out.json"
    earlier.write_text("an earlier benchmark")
    if not more:
        prompts.write_text(json.dumps({"prompt": "word " * 600}) + "\n")
    status, _, err = call(cli, tiny, prompts, "--json", earlier, *more)
    assert earlier.read_text() == "an earlier benchmark"
    assert status == 1 and "exceeds the context of 512" in err and "transformers …" not in err
    assert not more or f"{needed} in all" in err


# --- llama.cpp --------------------------------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """llama.cpp's server as the benchmark sees it: a text in pieces, then its times."""

    asked: list = []

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        timings = {"prompt_ms": 250.0, "predicted_per_token_ms": 40.0} | self.server.drafts
        pieces = [{"content": "a", "stop": False}, {"content": "", "stop": True, "tokens_predicted": 7, "timings": timings}]
        self.send_response(200)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nobody listens
    running = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    running.drafts = {}
    Answers.asked = []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.listening_address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: True)
    monkeypatch.setattr(llama_cpp, "installed_version", lambda: "1.2.3")
    monkeypatch.setattr(llama_cpp, "start_server", lambda *arguments: running)
    yield running
    running.shutdown()


def test_llama_cpp_without_a_draft_and_with_one(cli, tiny, prompts, tmp_path, in_this_process, server):
    """With the same tokens and the same distribution; a draft that it does not use is no row."""
    files = [tmp_path / "verifier.gguf", tmp_path / "small.gguf"]
    for file in files:
        file.write_bytes(b"GGUF")
    options = ("--llama-cpp", files[0], "--llama-cpp-draft", files[1], "--lengths", 20, 40, "--json", "-")
    status, out, err = call(cli, tiny, prompts, *options, peers=("llama.cpp=1,2", "generate"))
    assert status == 0, err
    result = json.loads(out)
    assert decodings(result, "llama.cpp") == [(None, 0)] and not decodings(result, "llama.cpp, drafted")
    assert "does not draft with small.gguf" in result["about"]["llama.cpp, drafted"]["not_measured"]
    assert result["about"]["llama.cpp"]["version"] == "1.2.3" and result["about"]["llama.cpp"]["file"] == "verifier.gguf"
    assert result["about"]["llama.cpp"]["long"]["step_seconds"] == {"20": 0.04, "40": 0.04}
    assert result["rows"][0]["tokens"] == 7 and result["summary"][1]["over_llama_cpp"] > 0
    asked = Answers.asked[1]
    assert asked["samplers"] == ["temperature"] and asked["temperature"] == 0.7 and asked["n_predict"] == 6
    assert all(isinstance(token, int) for token in asked["prompt"])

    server.drafts = {"draft_n": 4, "draft_n_accepted": 2}
    status, out, err = call(cli, tiny, prompts, *options, peers=("llama.cpp=1,2",))
    result = json.loads(out)
    assert decodings(result, "llama.cpp, drafted") == [("small", 1), ("small", 2)], err
    assert [row.get("acceptance_rate") for row in result["summary"]] == [0.5, 0.5, 0.5]
    assert result["about"]["llama.cpp, drafted"]["rule"] == "probabilistic" and "rule" not in result["about"]["llama.cpp"]


def fake_xllamacpp(draft):
    """As much of the package as a server's parameters need; a server is its own parameters."""

    def params():
        speculative = SimpleNamespace(draft=draft, types=[])
        return SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace(), speculative=speculative)

    kinds = SimpleNamespace(COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE="simple")
    return SimpleNamespace(CommonParams=params, Server=lambda made: made, common_speculative_type=kinds)


def test_llama_cpp_keeps_a_draft_by_our_rule(tmp_path, monkeypatch):
    """And says so where the one that is installed cannot; without a draft nothing is asked of it."""
    monkeypatch.setattr(llama_cpp, "installed_version", lambda: "1.2.3")
    parts = {"mparams": SimpleNamespace(), "cpuparams": SimpleNamespace()}
    monkeypatch.setitem(sys.modules, "xllamacpp", fake_xllamacpp(SimpleNamespace(**parts, probabilistic=False)))
    made = llama_cpp.start_server(tmp_path / "p.gguf", 64, 1, tmp_path / "q.gguf", 3)
    assert made.speculative.draft.probabilistic is True and made.speculative.draft.n_max == 3
    monkeypatch.setitem(sys.modules, "xllamacpp", fake_xllamacpp(SimpleNamespace(**parts)))
    with pytest.raises(Problem, match="xllamacpp 1.2.3 has no probabilistic drafts. Install requirements-peers.txt"):
        llama_cpp.start_server(tmp_path / "p.gguf", 64, 1, tmp_path / "q.gguf", 3)
    assert llama_cpp.start_server(tmp_path / "p.gguf", 64, 1).speculative.types == []


def test_a_gguf_file_is_the_one_given_the_one_kept_or_none(tmp_path, monkeypatch):
    from specdec import weights

    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    assert llama_cpp.gguf_of(Model("some/model"), tmp_path) == tmp_path
    with pytest.raises(Problem, match="no GGUF file is known for some/model"):
        llama_cpp.gguf_of(Model("some/model"), None)
    sha256 = "f8d6dd1d5e2a5a8e3c7f1c2f8a7f3c1d" * 2
    pinned = weights.GgufFile("repo", "main", "model.gguf", 4, sha256, ())
    kept = tmp_path / "wheels" / sha256[:12] / "model.gguf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"GGUF")
    with pytest.raises(Problem, match="not the file it should be"):
        llama_cpp.gguf_of(Model("some/model", gguf=pinned), None)
    monkeypatch.setattr(llama_cpp, "fetch_gguf", lambda gguf: tmp_path / "fetched")
    assert llama_cpp.gguf_of(Model("some/model", gguf=pinned), None) == tmp_path / "fetched"
    kept.write_bytes(b"GGUF")
    monkeypatch.setattr(llama_cpp, "check_digest", lambda path, digest: None)
    assert llama_cpp.gguf_of(Model("some/model", gguf=pinned), None) == kept


def test_llama_cpp_asks_no_torch():
    """Its process is llama.cpp's alone, or its memory would be that of torch too."""
    import subprocess

    code = "import sys, benchmark_decoding; print(*sorted({'torch', 'transformers'} & sys.modules.keys()))"
    loaded = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""


# --- the floor --------------------------------------------------------------------------------------------------------


def test_a_pass_takes_at_least_its_reading_or_its_products():
    rates = {"bytes_per_second": 100.0, "multiply_adds_per_second": {"int8": 1000.0}}
    weights = {"count": 500, "bytes": 1, "products": 2, "dtype": "int8"}
    assert speed.pass_floor(weights, 1, rates) == 5.0, "500 bytes at 100 a second"
    assert speed.pass_floor(weights, 10, rates) == 10.0, "500 · 2 · 10 multiply-adds at 1000 a second"
    draft = weights | {"count": 100, "products": 1}
    assert speed.block_floor(draft, weights, 9, rates) == {"draft": 9 * 1.0, "verify": 10.0}
    assert speed.block_floor(None, weights, 0, rates) == {"draft": 0.0, "verify": 5.0}


def test_weights_are_counted(tiny):
    """The embedding is looked up, not multiplied with; of the output layer the rows that are computed."""
    layers, width, rows = 2, 48, 300
    in_layer = 4 * width * width + 3 * width * 2 * width
    assert machine.multiplied_weights(Model(tiny.verifier)) == layers * in_layer + rows * width
    assert machine.multiplied_weights(Model(tiny.verifier), 100) == layers * in_layer + 100 * width


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "SIZE", 256)
    monkeypatch.setattr(machine, "READ", 2**20)
    rates = machine.machine_rates()
    assert rates["bytes_per_second"] > 0
    assert rates["multiply_adds_per_second"].keys() >= {"float32", "int8"}
    assert all(rate > 0 for rate in rates["multiply_adds_per_second"].values())


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def fake_genai(reads=True):
    """As much of the package as the benchmark needs: a text of three tokens, and its times."""

    class Pipeline:
        asked: list = []

        def __init__(self, file, device, **options):
            if not reads:
                raise RuntimeError("Check 'known' failed\n unsupported quantization: 20\n")

        def generate(self, ids, config):
            self.asked.append((ids, config))
            times = {"get_ttft": lambda: SimpleNamespace(mean=0.5), "get_tpot": lambda: SimpleNamespace(mean=40.0)}
            return SimpleNamespace(tokens=[[1, 2, 3]], perf_metrics=SimpleNamespace(**times))

    return SimpleNamespace(LLMPipeline=Pipeline, GenerationConfig=SimpleNamespace)


@pytest.fixture
def genai(monkeypatch):
    """`genai()` puts the package in place; `genai(False)` one that cannot read the file."""
    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    monkeypatch.setattr(openvino, "installed_version", lambda: "1.2.3")
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Tensor=lambda array: array.tolist()))

    def install(reads=True):
        package = fake_genai(reads)
        monkeypatch.setitem(sys.modules, "openvino_genai", package)
        return package.LLMPipeline

    return install


def test_openvino_with_the_same_tokens_and_the_same_distribution(cli, tiny, prompts, tmp_path, in_this_process, genai):
    pipeline = genai()
    file = tmp_path / "verifier.gguf"
    file.write_bytes(b"GGUF")
    options = ("--llama-cpp", file, "--llama-cpp-draft", file, "--lengths", 20, 40, "--json", "-")
    status, out, err = call(cli, tiny, prompts, *options, peers=("openvino=1,2",))
    result = json.loads(out)
    assert status == 0 and decodings(result, "openvino") == [(None, 0)] and len(result["summary"]) == 1, err
    assert result["about"]["openvino"]["version"] == "1.2.3"
    assert result["about"]["openvino"]["long"]["step_seconds"] == {"20": 0.04, "40": 0.04}
    assert [row["tokens"] for row in result["rows"]] == [3, 3, 3]
    ids, config = pipeline.asked[1]
    assert (config.temperature, config.top_p, config.top_k, config.max_new_tokens) == (0.7, 1.0, 0, 6)
    assert len(ids) == 1 and all(isinstance(token, int) for token in ids[0])


def test_openvino_that_is_not_there_or_cannot_read_the_file(cli, tiny, prompts, tmp_path, in_this_process, genai, monkeypatch):
    genai(reads=False)
    file = tmp_path / "verifier.gguf"
    file.write_bytes(b"GGUF")
    options = ("--llama-cpp", file, "--json", tmp_path / "out.json")
    status, out, err = call(cli, tiny, prompts, *options, peers=("openvino", "generate"))
    assert status == 0 and "openvino: OpenVINO GenAI 1.2.3 does not read verifier.gguf: unsupported quantization: 20" in out, (
        err
    )
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    status, out, err = call(cli, tiny, prompts, *options, peers=("openvino", "generate"))
    assert status == 0 and "openvino: not installed" in out, err
