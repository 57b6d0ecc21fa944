"""Putting an adapter on a draft: the one that was named, all of it, or one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from specdec import adapters, models
from specdec.terminal import Problem

LINEARS = ["q_proj", "down_proj"]


def save_adapter(folder: Path, draft: str, config, noise: float = 0.05) -> Path:
    """An adapter of any of PEFT's kinds with random weights."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(draft)
    model.name_or_path = model.config.name_or_path = draft
    tuned = get_peft_model(model, config)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += noise * torch.randn_like(parameter)
    tuned.save_pretrained(str(folder))
    return folder


def lora(**changes):
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "target_modules": LINEARS, "init_lora_weights": False, "task_type": "CAUSAL_LM"} | changes)


@pytest.fixture
def saved(tiny, tmp_path) -> Path:
    return save_adapter(tmp_path / "adapter", tiny.draft, lora())


def load(tiny, folder):
    return adapters.load_adapter(models.load_model(models.Model(tiny.draft)), folder, tiny.draft)


def change(folder: Path, edit) -> None:
    """Rewrites the adapter's tensors by `edit(tensors)`."""
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(edit(tensors) or tensors, file)


def kinds() -> dict:
    import peft

    common = {"target_modules": LINEARS, "task_type": "CAUSAL_LM"}
    return {
        "LORA": lora(),
        "DoRA": lora(use_dora=True),
        "LoRA of the embedding": lora(target_modules=["embed_tokens", "lm_head"]),
        "LoRA with whole layers": lora(modules_to_save=["norm"], bias="all"),
        "IA3": peft.IA3Config(feedforward_modules=["down_proj"], init_ia3_weights=False, **common),
        "LOHA": peft.LoHaConfig(r=4, **common),
        "LOKR": peft.LoKrConfig(r=4, **common),
        "OFT": peft.OFTConfig(oft_block_size=8, **common),
        "VERA": peft.VeraConfig(r=4, target_modules=["q_proj", "o_proj"], save_projection=False, task_type="CAUSAL_LM"),
        "LN_TUNING": peft.LNTuningConfig(target_modules=["input_layernorm"], task_type="CAUSAL_LM"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_changes_of_weights_are_merged(tiny, tmp_path, kind, monkeypatch):
    """The merged draft is the one that PEFT runs unmerged, and another one than the base. In float32 on every CPU."""
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    from peft import PeftModel

    folder = save_adapter(tmp_path, tiny.draft, kinds()[kind])
    merged, state = load(tiny, folder)
    attached = PeftModel.from_pretrained(models.load_model(models.Model(tiny.draft), dtype=torch.float32), folder).eval()
    base, tokens = models.load_model(models.Model(tiny.draft)), torch.arange(3, 40)[None]
    with torch.inference_mode():
        probs = [model(tokens).logits.float().softmax(-1) for model in (merged, attached, base)]
    near, far = (float((probs[0] - other).abs().sum(-1).mean()) for other in probs[1:])
    assert state == "merged" and near < 0.06 and far > near * 1.5


def merged_at_once(draft: str, folder: Path, dtype: torch.dtype) -> dict:
    """The weights of a draft that was held in float32 as a whole, merged, and rounded parameter by parameter."""
    from peft import PeftModel

    base = models.load_model(models.Model(draft), dtype=dtype).float()
    whole = PeftModel.from_pretrained(base, folder).eval().merge_and_unload(safe_merge=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in whole.parameters() if dtype == torch.bfloat16 else ():
        noise = torch.randint(0, 2**16, parameter.shape, dtype=torch.int32, generator=generator)
        bits = (parameter.data.view(torch.int32) + noise) & -(2**16)
        parameter.data = bits.view(torch.float32).bfloat16()
    return whole.state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["rank pattern", *kinds()])
def test_a_merge_in_turn_gives_the_bits_of_one_at_once(tiny, tmp_path, kind, dtype):
    config = lora(rank_pattern={"q_proj": 8}, use_rslora=True) if kind == "rank pattern" else kinds()[kind]
    folder = save_adapter(tmp_path, tiny.draft, config)
    merged, _ = adapters.load_adapter(models.load_model(models.Model(tiny.draft), dtype=dtype), folder, tiny.draft)
    expected = merged_at_once(tiny.draft, folder, dtype)
    found = merged.state_dict()
    assert found.keys() == expected.keys() and merged.dtype == dtype
    for name, value in expected.items():
        assert value.dtype == found[name].dtype and value.equal(found[name]), name


def test_one_matrix_at_a_time_is_held_in_float32(tiny, saved, monkeypatch):
    rounded, counts = adapters.round_stochastically, []

    def watched(parameters, dtype):
        def of_float32(found):
            known = []
            for parameter in found:
                known.append(parameter)
                counts.append(sum(other.dtype == torch.float32 for other in known))
                yield parameter

        rounded(of_float32(parameters), dtype)

    monkeypatch.setattr(adapters, "round_stochastically", watched)
    base = models.load_model(models.Model(tiny.draft), dtype=torch.bfloat16)
    adapters.load_adapter(base, saved, tiny.draft)
    assert sorted(set(counts)) == [0, 1] and sum(counts) == 4


@pytest.mark.parametrize(
    "changes, plain",
    [
        ({}, True),
        ({"use_rslora": True}, True),
        ({"use_dora": True}, False),
        ({"modules_to_save": ["norm"]}, False),
        ({"bias": "all"}, False),
        ({"init_lora_weights": "pissa"}, False),
    ],
)
def test_what_is_more_than_a_sum_in_matrices_is_no_plain_lora(changes, plain):
    assert adapters.is_plain_lora(lora(**changes)) == plain
    assert not adapters.is_plain_lora(kinds()["LOHA"])


def other_kinds() -> dict:
    import peft

    return {
        "PROMPT_TUNING": peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "PREFIX_TUNING": peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "P_TUNING": peft.PromptEncoderConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        "ADAPTION_PROMPT": peft.AdaptionPromptConfig(adapter_layers=1, adapter_len=3, task_type="CAUSAL_LM"),
        "POLY": peft.PolyConfig(r=4, n_tasks=1, n_skills=1, n_splits=1, target_modules=LINEARS, task_type="CAUSAL_LM"),
        "SEQ_CLS": lora(task_type="SEQ_CLS"),
    }


@pytest.mark.parametrize("kind", other_kinds())
def test_other_kinds_are_refused_by_name(tiny, tmp_path, kind):
    folder = save_adapter(tmp_path, tiny.draft, other_kinds()[kind])
    with pytest.raises(Problem, match=kind) as refused:
        load(tiny, folder)
    assert "\n" not in str(refused.value)


def test_missing_tensors_are_refused(tiny, saved):
    change(saved, lambda tensors: {name: value for name, value in tensors.items() if "layers.1" not in name})
    with pytest.raises(Problem, match="4 of its tensors are missing, 0 belong"):
        load(tiny, saved)


def test_tensors_of_another_model_are_refused(tiny, saved, recwarn):
    """Names that match nothing: PEFT alone would warn and decode with the base draft."""
    change(saved, lambda tensors: {name.replace("layers", "blocks"): value for name, value in tensors.items()})
    with pytest.raises(Problem, match="8 of its tensors are missing, 8 belong"):
        load(tiny, saved)
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)], "one line, not PEFT's page before it"


def test_tensors_of_another_shape_are_refused(tiny, saved):
    change(saved, lambda tensors: {name: value[:, :3].clone() for name, value in tensors.items()})
    with pytest.raises(Problem, match="does not load"):
        load(tiny, saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tiny, saved, value):
    def damage(tensors):
        next(iter(tensors.values()))[0, 0] = value

    change(saved, damage)
    with pytest.raises(Problem, match="not finite.*training failed"):
        load(tiny, saved)


def test_a_product_that_overflows_is_refused(tiny, saved):
    change(saved, lambda tensors: {name: value * 1e30 for name, value in tensors.items()})
    with pytest.raises(Problem, match="does not load"):
        load(tiny, saved)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_fine(tiny, saved, dtype, monkeypatch):
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)  # on every CPU
    expected = load(tiny, saved)[0]
    change(saved, lambda tensors: {name: value.to(dtype) for name, value in tensors.items()})
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        difference = (load(tiny, saved)[0](tokens).logits - expected(tokens).logits).abs().max()
    assert difference < 0.3


@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}/../draft"])
def test_the_same_folder_in_another_spelling(tiny, saved, spelling):
    loaded = adapters.load_adapter(models.load_model(models.Model(tiny.draft)), saved, spelling.format(tiny.draft))
    assert loaded[1] == "merged"


def test_a_folder_beside_it_is_another_base(tiny, saved, tmp_path):
    shutil.copytree(tiny.draft, tmp_path / "draft")
    with pytest.raises(Problem, match="was trained for"):
        adapters.load_adapter(models.load_model(models.Model(tiny.draft)), saved, str(tmp_path / "draft"))


def test_an_adapter_of_the_other_pair_is_refused_with_both_names(tiny, saved):
    config = saved / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": models.SMOLLM2.id}))
    with pytest.raises(Problem, match=f"{models.SMOLLM2.id}.*{models.QWEN_CODER_HALF.id}"):
        adapters.load_adapter(models.load_model(models.Model(tiny.draft)), saved, models.QWEN_CODER_HALF.id)


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}", '{"peft_type": "NONSENSE"}'])
def test_a_config_that_is_none(tiny, saved, content):
    (saved / "adapter_config.json").write_text(content)
    with pytest.raises(Problem):
        load(tiny, saved)
