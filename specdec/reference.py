"""transformers' own `generate` under the same distribution as ours: the yardstick for exactness and for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specdec.sampling import warp

if TYPE_CHECKING:
    from specdec.engine import Engine
    from specdec.sampling import Settings


def use_plain_sampling(model) -> None:
    """Takes away the generation config that the model ships: `generate` fills whatever a config leaves open from it, and a
    repetition penalty or a min-p of its own would make another distribution than p."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def generate_options(engine: Engine, settings: Settings, **options) -> dict:
    """What makes `generate` sample from the same p as our loop: `generate(ids, **generate_options(engine, settings))`.

    Its own top-p may keep other ones of equally probable tokens than ours does, so with top-p it is given our function
    instead. Temperature and top-k mean the same in both. `options` go into the generation config; see `use_plain_sampling`.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    def by_our_warp(ids, scores):
        return warp(scores, settings)

    ours = settings.top_p < 1
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0 if ours else settings.temperature,
        top_k=0 if ours else settings.top_k,
        top_p=1.0,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=sorted(engine.stop),
        pad_token_id=min(engine.stop),
        suppress_tokens=engine.verifier.unnamed.tolist() or None,
        **options,
    )
    return {"generation_config": config, "logits_processor": LogitsProcessorList([by_our_warp] if ours else [])}


def assistance(engine: Engine, assistant, settings: Settings) -> dict:
    """The options with which `generate` is assisted by a draft model, K tokens at a time."""
    assistant.generation_config.num_assistant_tokens = settings.k
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0
    if engine.shared.verdict == "identical":
        return {"assistant_model": assistant}
    return {"assistant_model": assistant, "tokenizer": engine.tokenizer, "assistant_tokenizer": engine.draft_tokenizer}
