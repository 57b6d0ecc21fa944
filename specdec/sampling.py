"""How a token is drawn: the settings, their options at the terminal, and the distribution that they make of logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from specdec.terminal import Problem

if TYPE_CHECKING:
    import argparse

    import torch
    from torch import Tensor

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-6, 1e6  # beyond them float32 logits overflow, or all tokens are equal


@dataclass(frozen=True)
class Settings:
    k: int = 4  # draft length K
    temperature: float = 0.7  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_new_tokens: int = 200
    stop_below: float = 0.0  # the draft stops behind a token whose q is below it; 0: never


def as_conditions(settings: Settings) -> dict:
    """The settings as a header keeps them; `stop_below` only where it is in use, for older rows do not know it."""
    found = asdict(settings)
    return found if settings.stop_below else {name: value for name, value in found.items() if name != "stop_below"}


def to_probs(logits: Tensor, settings: Settings) -> Tensor:
    """Turns logits [n, V] into the float32 distributions [n, V] that are sampled; temperature above 0."""
    return warp(logits, settings).softmax(-1)


def warp(logits: Tensor, settings: Settings) -> Tensor:
    """Temperature, then top-k, then top-p: float32 logits [n, V], with −inf for the tokens that are left out.

    Top-p keeps the smallest set of most probable tokens whose mass reaches p, the boundary token included
    (Holtzman et al. 2020, arXiv 1904.09751, equation 2). Of tokens that are equally probable it takes those of the lower
    id first, however many rows are sorted at once. Top-k keeps all that equal its last one. `specdec.reference` hands this
    function to transformers' `generate`, whose own top-p may keep others of them.
    """
    logits = logits.float() / settings.temperature
    if settings.top_k:
        smallest_kept = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if settings.top_p < 1:
        ordered, order = logits.sort(descending=True, stable=True)
        probs = ordered.softmax(-1)
        mass_before = probs.cumsum(-1) - probs
        dropped = (mass_before >= settings.top_p).scatter(-1, order, mass_before >= settings.top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits


def draw(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws a token id [1] with a probability in proportion to its weight; `weights` [V] need not sum to 1."""
    return draw_each(weights[None], [generator])


def draw_each(weights: Tensor, generators: list[torch.Generator | None]) -> Tensor:
    """Draws a token id for every row of `weights` [B, V], each by its own generator; ids [B].

    It is the first whose cumulative weight exceeds a uniform share of the whole, so one of weight 0 is never drawn. Added up in
    float64, for a vocabulary's worth of float32 roundings would shift it. torch.multinomial draws an exponential number for
    every token instead, which for a large vocabulary takes longer than all else in a block outside the models.
    """
    import torch

    cumulative = weights.cumsum(-1, dtype=torch.float64)
    device = weights.device
    shares = torch.cat([torch.rand(1, generator=one, dtype=torch.float64, device=device) for one in generators])
    return torch.searchsorted(cumulative, shares[:, None] * cumulative[:, -1:], right=True).flatten()


def add_sampling_arguments(parser: argparse.ArgumentParser, k_type=int, k_help: str = "draft length K (default 4)") -> None:
    """The options that `read_settings` reads."""
    parser.add_argument("--k", type=k_type, default=4, help=k_help)
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default 0.7)")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k most probable tokens (default 0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the most probable tokens of this mass (default 1: all)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="(default 200)")
    parser.add_argument(
        "--stop-below",
        type=float,
        default=0.0,
        metavar="Q",
        help="end a draft behind a token whose q is below Q, which is verified too (default 0: always K tokens)",
    )


def read_settings(args: argparse.Namespace) -> Settings:
    """The settings of `add_sampling_arguments`.

    Raises:
        Problem: one of them is out of its range.
    """
    settings = Settings(args.k, args.temperature, args.top_k, args.top_p, args.max_new_tokens, args.stop_below)
    check_settings(settings)
    return settings


def check_settings(settings: Settings) -> None:
    """Raises Problem if one of the settings is out of its range; a NaN is in none."""
    lowest, highest = LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE
    checks = (
        (settings.k >= 1, "--k must be at least 1; --mode verifier decodes without a draft."),
        (
            settings.temperature == 0 or lowest <= settings.temperature <= highest,
            f"--temperature must be 0 (greedy) or between {lowest:g} and {highest:g}, not {settings.temperature:g}.",
        ),
        (settings.top_k >= 0, "--top-k must be 0 (off) or more."),
        (0 < settings.top_p <= 1, "--top-p must lie in (0, 1]; 1 turns it off."),
        (settings.max_new_tokens >= 1, "--max-new-tokens must be at least 1."),
        (0 <= settings.stop_below <= 1, "--stop-below must lie in [0, 1]; 0 turns it off."),
        (
            settings.temperature > 0 or not settings.stop_below,
            "--stop-below needs a temperature above 0: a greedy draft is sure of every token.",
        ),
    )
    for fine, message in checks:
        if not fine:
            raise Problem(message)
