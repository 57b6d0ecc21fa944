"""Which models can be decoded with: a plain KV cache that can be cropped, refused in one line where there is none."""

import pytest
import torch
from conftest import small_model

from specdec.backend import CachedModel
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.vocabulary import VocabularyMap
from speculative_decode import Drafter, decode, prefill

IDS = set(range(64))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "phi3", "gemma2"])
def test_models_with_a_plain_cache(architecture):
    cached = CachedModel(small_model(architecture), IDS)
    assert cached.cache.get_seq_length() == 0 and cached.seconds == 0, "the check leaves nothing behind"


@pytest.mark.parametrize(
    "architecture", ["openai-gpt", "mamba", "rwkv", "recurrent_gemma", "jamba", "bamba", "lfm2", "minimax", "bert"]
)
def test_models_with_another_state_are_refused(architecture):
    model = small_model(architecture)
    with pytest.raises(Problem, match=type(model).__name__) as refused:
        CachedModel(model, IDS)
    assert "KV cache" in str(refused.value) and "\n" not in str(refused.value)


def test_a_state_beside_the_cache_is_refused():
    """What the module itself remembers is not taken back by a crop."""
    model, seen = small_model("llama"), []
    forward = model.forward

    def remembering(tokens, **options):
        out = forward(tokens, **options)
        seen.append(int(tokens.sum()))
        out.logits[..., 0] += 0.5 * len(seen)
        return out

    model.forward = remembering
    with pytest.raises(Problem, match="remembers tokens"):
        CachedModel(model, IDS)


def test_token_ids_beyond_the_rows_are_refused():
    with pytest.raises(Problem, match="id 64, the model only 64"):
        CachedModel(small_model("llama"), IDS | {64})


def test_logits_that_are_not_numbers_are_refused():
    model = small_model("llama")
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(Problem, match="not numbers"):
        CachedModel(model, IDS)


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_drafting_stops_at_the_drafts_own_context(temperature):
    """A draft of 24 learned positions: up to there it drafts, behind it every block is the verifier's one token."""
    verifier = CachedModel(small_model("llama"), IDS)
    ids = tuple(IDS)
    drafter = Drafter(CachedModel(small_model("gpt2", max_position_embeddings=24), IDS, context=24), same(ids), 64)
    prompt, settings = [3, 14, 15, 9, 2, 6], Settings(k=3, temperature=temperature, max_new_tokens=60)
    with torch.inference_mode():
        prefill(verifier, prompt, drafter)
        blocks = list(decode(verifier, prompt[-1], settings, frozenset(), torch.Generator().manual_seed(0), drafter))
    assert sum(len(block.tokens) for block in blocks) == 60
    read, drafted = len(prompt), [len(block.drafted) for block in blocks]
    assert drafted[0] == 3
    for block in blocks:
        room = max(24 - read + 1, 0)  # the last draft is sampled, not read
        assert len(block.drafted) == min(3, room, 3 if read < 60 else 0), read
        read += len(block.tokens)


def same(ids: tuple[int, ...]) -> VocabularyMap:
    return VocabularyMap("identical", ids, ids, lambda id: (id,))
