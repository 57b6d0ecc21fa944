"""The int8 backend: near the float32 model, the same bits whatever the block, exact in texts; and controls that must fail."""

import copy
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from conftest import small_model
from test_exactness import Case, agreement, settings

import check_exactness
import speculative_decode
from specdec import int8, int8_pass
from specdec.engine import Engine
from specdec.int8 import Int8Model, packed
from specdec.models import Model, Pair
from specdec.terminal import Problem
from speculative_decode import decode, prefill


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def on_the_grid(architecture: str, **changes):
    """A random model whose matrices int8 holds exactly: what differs then comes from the activations."""
    model = small_model(architecture, **{"sliding_window": None} | changes)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight.copy_((module.weight / scale).round() * scale)
            if module.bias is not None:
                module.bias.normal_()
    return model


def overlap(logits, others) -> float:
    return float(torch.minimum(logits.softmax(-1), others.softmax(-1)).sum(-1).mean())


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("parts, vnni, least", [(1, False, 0.9), (2, False, 0.999), (1, True, 0.95), (2, True, 0.97)])
def test_logits_are_those_of_transformers(architecture, parts, vnni, least, monkeypatch):
    """With VNNI 8 bits, and before down and the output layer two parts; without it 7 bits, which AVX2 can add up."""
    if vnni and not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no VNNI: products of 8 bits would exceed 16")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    model, ids = on_the_grid(architecture), torch.randint(0, 64, (300,), generator=torch.Generator().manual_seed(0))
    expected = model(ids[None, :128]).logits[0]
    ours = Int8Model(model, range(64), parts=parts)
    assert overlap(ours.feed(ids[:128].tolist(), keep=128), expected) > least


def test_a_block_is_single_tokens_to_the_bit():
    """Also across the pieces of a long prompt, the growth of the cache, and a drop."""
    model = Int8Model(small_model("qwen2", sliding_window=None, max_position_embeddings=512), range(64))
    ids = torch.randint(0, 64, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    singles = torch.cat([model.feed([id]) for id in ids])
    model.start()
    assert model.feed(ids, keep=300).equal(singles)
    for width in (2, 3, 5, 9):
        model.drop(width)
        assert model.feed([7] * width, keep=width).shape == (width, 64)
        model.drop(width)
        assert model.feed(ids[-width:], keep=width).equal(singles[-width:])


@pytest.mark.parametrize("architecture, parts", [("llama", 1), ("qwen2", 2)])
def test_the_translated_pass_has_the_bits_of_python(architecture, parts, monkeypatch):
    """Again and again, for torch optimizes what it has seen a few times."""
    model = small_model(architecture, sliding_window=None)
    ids = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    found = []
    for translate in (int8_pass.compiled, lambda: int8_pass.read):
        monkeypatch.setattr(int8_pass, "compiled", translate)
        ours = Int8Model(copy.deepcopy(model), range(64), parts=parts)
        passes = [ids[:9], *([id] for id in ids[9:20]), *(ids[start : start + 5] for start in range(20, 40, 5))]
        found.append(torch.cat([ours.feed(tokens, keep=len(tokens)) for tokens in passes]))
    assert found[0].equal(found[1]) and len(found[0]) == 40


@pytest.mark.parametrize("width", [8960, 11008])
def test_silu_of_a_token_does_not_depend_on_the_pass(width):
    """torch's own, on the whole pass, fails here with AVX2 and several threads."""
    threads = torch.get_num_threads()
    gate = torch.randn(8, 2 * width, generator=torch.Generator().manual_seed(0)).chunk(2, -1)[0]
    try:
        for number in (1, 4, 6, 8):
            torch.set_num_threads(number)
            singles = torch.cat([int8_pass.silu_by_token(row[None]) for row in gate])
            assert int8_pass.silu_by_token(gate).equal(singles), number
    finally:
        torch.set_num_threads(threads)


def test_rows_that_are_never_sampled_are_minus_infinity():
    model = Int8Model(small_model("llama", sliding_window=None), [5, 9, 12])
    logits = model.feed([1, 2])
    assert logits[0, [5, 9, 12]].isfinite().all() and int(logits.isfinite().sum()) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_in_pieces_is_packing_at_once(dtype):
    """The same bits for layers that are packed one below the other and for rows picked from the output layer."""
    generator = torch.Generator().manual_seed(0)
    tall, short = (torch.randn(height, 24, generator=generator).to(dtype) for height in (1100, 7))
    rows = torch.randperm(1100, generator=generator)[:700].sort().values
    for found, whole in ((packed([tall, short]), torch.cat([tall, short])), (packed([tall], rows), tall[rows])):
        scales = whole.float().abs().amax(1) / 127
        weight, _ = torch.ops.quantized.linear_unpack(found)
        assert weight.q_per_channel_scales().float().equal(scales)
        assert weight.int_repr().equal((whole.float() / scales[:, None]).round().to(torch.int8))
    assert tall[0].equal(torch.randn(1100, 24, generator=torch.Generator().manual_seed(0)).to(dtype)[0]), "not written to"


def test_nothing_holds_a_matrix_that_is_packed(monkeypatch):
    """A name left on one keeps its mapped file in memory: 0.4 GiB for the output layer of the default verifier."""
    model = small_model("llama", sliding_window=None)
    held = [weakref.ref(parameter) for parameter in model.parameters() if parameter.dim() == 2]
    embedding = weakref.ref(model.model.embed_tokens.weight)
    alive = []

    def count():
        alive.append(sum(matrix() is not None for matrix in held if matrix() is not embedding()))

    monkeypatch.setattr(int8, "give_back_freed_memory", count)
    Int8Model(model, range(64))
    assert alive == [7, 0], "those of the second layer, then none"


def test_the_embedding_does_not_keep_the_file_of_other_weights():
    """A loaded matrix is a window on its file's memory: of SmolLM2's, 256 MB, the embedding is a fifth."""
    model = small_model("llama", sliding_window=None)
    file = torch.randn(1000, 32)
    model.model.embed_tokens.weight.data = file[:64]
    assert Int8Model(model, range(64)).embedding.untyped_storage().nbytes() == 64 * 32 * 4
    alone = torch.randn(64, 32)
    assert int8.own(alone) is alone, "no copy of what is not shared"


def test_the_widest_matrix_is_packed_first(monkeypatch):
    """While it is packed it is held three times; last of all that was the peak of the whole process."""
    made = []
    pack = int8.packed_linears

    def note(linears, *arguments):
        made.append(max(len(linear.weight) for linear in linears))
        return pack(linears, *arguments)

    monkeypatch.setattr(int8, "packed_linears", note)
    Int8Model(small_model("llama", sliding_window=None, vocab_size=512), range(512))
    assert made[0] == max(made) == 512 and len(made) == 1 + 2 * 4


@pytest.mark.parametrize(
    "architecture, changes, part",
    [
        ("phi3", {}, "its architecture, phi3"),
        ("llama", {"hidden_act": "gelu"}, "its activation, gelu"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5}, "sliding_attention"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "its dynamic positions"),
    ],
)
def test_a_model_that_cannot_run_names_the_part(architecture, changes, part):
    with pytest.raises(Problem, match=part) as refused:
        Int8Model(small_model(architecture, **{"sliding_window": None} | changes), range(64))
    assert "\n" not in str(refused.value) and "--backend transformers" in str(refused.value)


def test_other_bad_models(monkeypatch):
    with pytest.raises(Problem, match="id 64, the model only 64"):
        Int8Model(small_model("llama", sliding_window=None), range(65))
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"):
        model = small_model("llama", sliding_window=None)
        model.get_parameter(name).data[0, 0] = float("nan")
        with pytest.raises(Problem, match="not finite"):
            Int8Model(model, range(64))
    model = small_model("llama", sliding_window=None)
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(Problem, match="not numbers"):
        Int8Model(model, range(64))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(Problem, match="x86 with AVX2"):
        Int8Model(small_model("llama", sliding_window=None), range(64))


@pytest.mark.parametrize("verifier", ["verifier", "overlapping"])
def test_the_engine_loads_both_models(tiny, verifier):
    engine = Engine(Pair("custom", Model(tiny.draft), Model(getattr(tiny, verifier)), backend="int8"))
    draft, state = engine.load_draft()
    assert isinstance(engine.verifier, Int8Model) and isinstance(draft, Int8Model) and state == "none"
    assert draft.rows.tolist() == sorted(engine.shared.draft_ids), "only tokens that can be proposed"
    with pytest.raises(Problem, match="transformers' own model"):
        engine.verifier.model.generate()


def test_the_scripts_run_on_it(cli, tiny, tmp_path):
    """benchmark_decoding.py too: tests/test_benchmark.py."""
    pair = ["--draft", tiny.draft, "--verifier", tiny.overlapping, "--backend", "int8"]
    out = tmp_path / "out.json"
    status, table, err = cli(check_exactness, *pair, "--samples", 20, "--k", 2, "--temperature", 0.1)
    assert status == 0 and "plain" in table or "nothing to test" in err, err
    status, _, err = cli(speculative_decode, *pair, "--prompt", "one", "--max-new-tokens", 4, "--json", out)
    assert status == 0 and json.loads(out.read_text())["pair"]["backend"] == "int8", err


# --- texts ------------------------------------------------------------------------------------------------------------


class AlwaysOne:
    """A draft that proposes token 1 with probability 1: lossless like any other, and every block holds that token."""

    model = SimpleNamespace(seconds=0.0)

    def start(self, prompt):
        pass

    def propose(self, k, settings, stop, generator):
        return torch.ones(k, dtype=torch.long), torch.eye(4)[[1] * k]

    def settle(self, drafted, accepted, next_token):
        pass


class Int8Case(Case):
    """A verifier of four tokens; the states of token 1 are far larger than the others', as some are in real models."""

    def __init__(self):
        super().__init__()
        model = small_model("llama", vocab_size=4, sliding_window=None)
        model.model.embed_tokens.weight[0] = torch.randn(32)  # the row of the padding token is zero
        model.model.embed_tokens.weight[:, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # a direction of token 1's own
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[:, 0] *= 200
            layer.mlp.down_proj.weight[0] = layer.self_attn.o_proj.weight[0] = 0
        self.prompt = [0, 3, 2]
        self.int8 = Int8Model(model, range(4), parts=1)
        self.verifier_model = self  # whose logits are enumerated

    def logits(self, history):
        self.int8.start()
        return [self.int8.feed([token]) for token in history][-1][0]

    def run(self, settings, stop=frozenset(), seed=0, samples=400):
        drafter, generator = AlwaysOne(), torch.Generator().manual_seed(seed)
        for _ in range(samples):
            prefill(self.int8, self.prompt, drafter)
            yield list(decode(self.int8, self.prompt[-1], settings, stop, generator, drafter))


def one_scale_a_batch(states, matrix, bias, parts, levels):
    """`linear` with one step for all tokens of the pass, as FBGEMM would choose it by itself."""
    step = states.abs().amax().clamp(min=1e-20) / levels
    return int8_pass.product(states / step, matrix, levels) * step + (0 if bias is None else bias)


def test_texts_are_the_verifiers():
    assert agreement(Int8Case(), settings(3)) > 1e-3


def test_one_scale_a_batch_is_caught(monkeypatch):
    monkeypatch.setattr(int8_pass, "compiled", lambda: int8_pass.read)
    case = Int8Case()
    monkeypatch.setattr(int8_pass, "linear", one_scale_a_batch)
    assert agreement(case, settings(3)) < 1e-3
    with pytest.raises(Problem, match="the text would depend on K"):
        Int8Model(small_model("llama", sliding_window=None), range(64))
