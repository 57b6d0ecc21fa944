"""Tiny models and tokenizers on disk, and a way to run a script as a user would without a new process."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PHI3 = Path(__file__).resolve().parents[2] / "shared" / "phi3"  # the real tokenizers, where this checkout has them

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "What screen reader works best for blind users? NVDA reads aloud what the screen shows.",
    "Captions help Deaf colleagues follow a meeting; a braille display shows them line by line.",
]


def pytest_configure(config):
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits


RUNS_MODELS = {"tiny", "smollm2", "phi3"}  # fixtures behind which a model runs
WHOLE_FILES = {"test_exactness", "test_backend", "test_adapters_loading"}  # they build their models themselves


def pytest_collection_modifyitems(items):
    """Marks every test that runs a model: `-m "not model"` leaves what takes seconds and needs no weights."""
    for item in items:
        if RUNS_MODELS & set(item.fixturenames) or item.module.__name__ in WHOLE_FILES:
            item.add_marker("model")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No test asks the network; the hub counts as unreachable."""
    from specdec import weights

    monkeypatch.setattr(weights, "_hub_answers", False)


def tiny_tokenizer(vocabulary: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def save_tiny_llama(folder: Path, tokenizer, seed: int, width: int = 32, rows: int | None = None) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows or len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small_model(architecture: str, **changes):
    """A random model of 64 tokens in float32, of any of transformers' causal architectures."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "initializer_range": 0.3,
        "sliding_window": 5,
    }
    own = {
        "jamba": {"num_experts": 2},
        "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8},
        "rwkv": {"attention_hidden_size": 32},
    }.get(architecture, {})
    config = AutoConfig.for_model(architecture, **sizes | own | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> SimpleNamespace:
    """Folders of a draft, a verifier of the same vocabulary, and a verifier of an overlapping one."""
    root = tmp_path_factory.mktemp("tiny")
    same, larger = tiny_tokenizer(300), tiny_tokenizer(330)
    return SimpleNamespace(
        draft=save_tiny_llama(root / "draft", same, 0),
        verifier=save_tiny_llama(root / "verifier", same, 1, width=48),
        overlapping=save_tiny_llama(root / "overlapping", larger, 2, width=48, rows=352),
    )


@pytest.fixture
def cli(monkeypatch, capsys):
    """`cli(module, *arguments)` → (exit status, stdout, stderr). Anything but a clean exit fails the test."""
    from specdec.terminal import run

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # `python -m pytest` is not the command of a result
        with pytest.raises(SystemExit) as end:
            run(module.main)
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return call
