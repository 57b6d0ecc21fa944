"""transformers' own `generate` under the same distribution as ours: the yardstick for exactness and for speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from specdec.engine import Engine
    from specdec.sampling import Settings


def use_plain_sampling(model) -> None:
    """Takes away the generation config that the model ships: `generate` fills whatever a config leaves open from it, and a
    repetition penalty or a min-p of its own would make another distribution than p."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def generation_config(engine: Engine, settings: Settings, **options) -> GenerationConfig:
    """What tells `generate` to sample from the same p as our loop; see `use_plain_sampling`."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=sorted(engine.stop),
        pad_token_id=min(engine.stop),
        suppress_tokens=engine.verifier.unnamed.tolist() or None,
        **options,
    )


def assistance(engine: Engine, assistant, settings: Settings) -> dict:
    """The options with which `generate` is assisted by a draft model, K tokens at a time."""
    assistant.generation_config.num_assistant_tokens = settings.k
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0
    if engine.shared.verdict == "identical":
        return {"assistant_model": assistant}
    return {"assistant_model": assistant, "tokenizer": engine.tokenizer, "assistant_tokenizer": engine.draft_tokenizer}
