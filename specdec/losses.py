"""Ten losses by which the draft q learns from the verifier p, all called as `loss(log_q, targets, generator)`.

Both sides are given at N aligned positions, in the draft's token ids, at the decoding temperature:

  log_q    [N, V]  log of the q that is sampled: softmax of logits / temperature over the shared tokens
  targets          the verifier's side: the M most probable shared tokens of each position, see `Targets`

The verifier's mass on tokens that the draft lacks can never be proposed. "Raw p" leaves it missing (its sum is below 1),
which is what acceptance needs: the total variation and LK losses use raw p. "Renormalised p" sums to 1 over the listed
tokens, which is what a divergence needs: only KL, reverse KL and JS use it.

Outside the list p is treated as 0. With t the verifier's mass on shared tokens outside the list, and s on the list:
the overlap is too small by at most min(t, the draft's mass outside the list); the renormalised p is t / (s + t) away,
in total variation, from the p renormalised over all shared tokens.

With r(x) = 1 where p(x) > q(x), 0 elsewhere, and m = Σ_x q(x) r(x), the gradient at the scaled logits of one position:

  kl              q − p                     nll             q − the verifier's token
  reverse_kl      q (log q/p − KL(q‖p))     js              q (log q/μ − KL(q‖μ)) / 2, with μ = (p + q) / 2
  tvd             q (m − r)                 tvdpp           tvd / σ, one σ for the whole batch
  lk_alpha        tvd / overlap             tvdpp_position  tvd / √(m (1 − m))
  lk_lambda       λ kl + (1 − λ) tvd        tvdpp_sampled   as tvdpp, on average over the sampled tokens

nll is kl on average over the verifier's tokens only where the draft has them all. With c = s + t, the verifier's mass on shared
tokens, its token is shared with probability c and left out otherwise, so the gradient is on average Σ p (q − token) =
c (q − p / c), the sum over shared tokens: c times that of kl, which renormalises p to p / c. So a position at which the draft
lacks much of p counts for less in nll, and for as much as any other in kl.

The sizes of tvd's gradient at the tokens sum to 2 m (1 − m). It vanishes where q lacks what p has (m → 0), and where almost all
of q lies on tokens of which p has more (m → 1), as where p is nearly one token and q has it. To be close is not enough: it does
not shrink on the way to q = p, as that of kl does.

Torch is not imported at the top, so that a command can list the names of `LOSSES` quickly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ETA = 3.0  # of lk_lambda, as in Samarin et al. 2026, arXiv 2602.23881
VARIANCE_FLOOR = 1e-6  # of the reward: there the gradient's entries sum to .002 at most, after the division by σ
REST_FLOOR = 1e-4  # p of all tokens outside the list, at least, in reverse_kl
TINY = 1e-37  # keeps log and division finite in float32


@dataclass(frozen=True)
class Targets:
    """The verifier at N positions, in the draft's ids; positions of padding are left out.

    p_ids: [N, M] int64, the listed tokens: shared by both vocabularies, distinct within a position.
    p_values: [N, M] float, their raw probabilities. Value 0 marks a padding entry, whatever its id.
    tokens: [N] int64, the token that the verifier emitted, or −1 where the draft lacks it.
    tail: [N] float, an upper bound of the verifier's mass on shared tokens outside the list: all of its mass outside the
        list as it was stored, on shared tokens or not. Only reverse_kl reads it.
    """

    p_ids: Tensor
    p_values: Tensor
    tokens: Tensor
    tail: Tensor | None = None


# --- q ----------------------------------------------------------------------------------------------------------------


def column_mask(shared_ids: Sequence[int], width: int) -> Tensor:
    """[width] float32: 0 in the draft's columns that name a shared token, −inf in all others."""
    import torch

    mask = torch.full((width,), float("-inf"))
    mask[torch.as_tensor(shared_ids)] = 0.0
    return mask


def shared_log_probs(logits: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """log q [N, V] of the draft's logits [N, V]: −inf outside the shared tokens; float32 unless the logits are float64.

    Token-Level Intersection (Timor et al. 2025, arXiv 2502.05202). The mask is added over all columns, because the
    backward pass of indexing the shared columns is several times slower.
    """
    logits = logits if logits.element_size() >= 4 else logits.float()
    return (logits / temperature + mask.to(logits.dtype)).log_softmax(-1)


def overlap(log_q: Tensor, targets: Targets) -> Tensor:
    """Σ_x min(p(x), q(x)) at each position, [N], without a gradient: the probability that a draft token is accepted.

    Leviathan et al. 2023, arXiv 2211.17192, theorem 3.5 with lemma 3.3. Raw p; the true overlap is larger by at most
    the verifier's mass on shared tokens outside the list.
    """
    return _overlap(log_q.detach(), targets)


# --- parts of the losses ----------------------------------------------------------------------------------------------


def _at_listed(log_q: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """log q, q and raw p at the listed tokens, each [N, M], and 0 in padding entries."""
    p = targets.p_values.to(log_q.dtype)
    padding = p == 0  # its id may be that of a listed token, or of one that is not shared (log q = −inf)
    log_q = log_q.gather(1, targets.p_ids).masked_fill(padding, 0.0)
    return log_q, log_q.exp().masked_fill(padding, 0.0), p


def _renormalised(p: Tensor, tail: Tensor | None = None) -> Tensor:
    """p [N, M] over the sum of the listed tokens, and of the tail [N] where it is given; all 0 stays 0."""
    total = p.sum(1) if tail is None else p.sum(1) + tail
    return p / total.clamp(min=TINY)[:, None]


def _log(p: Tensor) -> Tensor:
    """log p, but −85 where p is 0: then it is multiplied by 0, or its gradient is 0."""
    return p.clamp(min=TINY).log()


def _overlap(log_q: Tensor, targets: Targets) -> Tensor:
    """Σ_x min(p(x), q(x)) at each position, [N]; where p = q its gradient is that of p, which is 0."""
    _, q, p = _at_listed(log_q, targets)
    return q.where(p > q, p).sum(1)  # Leviathan et al. 2023, arXiv 2211.17192, theorem 3.5 with lemma 3.3


def _kl(log_q: Tensor, targets: Targets) -> Tensor:
    """KL(p‖q) at each position, [N]."""
    log_q, _, p = _at_listed(log_q, targets)
    p = _renormalised(p)
    return (p * (_log(p) - log_q)).sum(1)  # Σ p log(p / q), arXiv 2503.07807


def _sigma(mu: Tensor) -> Tensor:
    """The standard deviation of a reward that is 0 or 1 and has mean μ; any shape."""
    return (mu * (1 - mu)).clamp(min=VARIANCE_FLOOR).sqrt()  # σ of TVD++, arXiv 2403.00858: E[r²] = E[r] = μ


def _expected_policy_loss(q: Tensor, reward: Tensor, mu: Tensor) -> Tensor:
    """−Σ_x q(x) (r(x) − μ) / σ over the whole vocabulary, [N]; q and reward [N, M], μ [N] or [1].

    Its value says nothing (at μ = m it is 0): only its gradient counts. Outside the list r is 0.
    """
    listed = (q * (reward - mu[:, None])).sum(1)
    rest = (1 - q.sum(1)) * (0 - mu)
    return -(listed + rest) / _sigma(mu)  # −Σ q (r − μ) / σ, arXiv 2403.00858


# --- the losses -------------------------------------------------------------------------------------------------------


def kl(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """Forward KL(p‖q), p renormalised: the mean over positions, a scalar; log_q [N, V].

    The white-box distillation loss that Hong et al. 2025 (arXiv 2503.07807) found best.
    """
    return _kl(log_q, targets).mean()


def reverse_kl(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """Reverse KL(q‖p), p renormalised: the mean over positions, a scalar; log_q [N, V].

    One of the divergences of DistillSpec (Zhou et al. 2023, arXiv 2310.08461). It is infinite if p = 0 where q > 0, so
    all tokens outside the list are merged into one: q has what is left of 1, p has the stored tail, renormalised with the
    list, and at least `REST_FLOOR`. Merging can only lower a KL, so with the exact tail, above the floor, this is a lower
    bound of the full one. With the floor in use, at q = p on the full list it and its gradient are still 0, and it can fall
    below 0 by at most the floor.
    """
    log_q, q, p = _at_listed(log_q, targets)
    tail = q.new_zeros(len(q)) if targets.tail is None else targets.tail.to(q.dtype)
    q_rest = 1 - q.sum(1)
    p_rest = (tail / (p.sum(1) + tail).clamp(min=TINY)).clamp(min=REST_FLOOR)
    listed = (q * (log_q - _log(_renormalised(p, tail)))).sum(1)  # Σ q log(q / p), arXiv 2310.08461
    # Rounding can leave q_rest at ±1e-7 where it is 0; below 1e-9 its logarithm, and so its gradient, stays bounded.
    rest = q_rest * (q_rest.clamp(min=1e-9).log() - p_rest.log())
    return (listed + rest).mean()


def js(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """Jensen-Shannon divergence, p renormalised: the mean over positions, a scalar from 0 to log 2; log_q [N, V].

    (KL(p‖μ) + KL(q‖μ)) / 2 with μ = (p + q) / 2: Lin 1991, "Divergence measures based on the Shannon entropy"; used by
    DistillSpec (arXiv 2310.08461). Where p = 0 the second KL is q log 2, so the tokens outside the list are summed
    exactly.
    """
    log_q, q, p = _at_listed(log_q, targets)
    p = _renormalised(p)
    log_middle = _log((p + q) / 2)
    listed = p * (_log(p) - log_middle) + q * (log_q - log_middle)  # Lin 1991
    rest = (1 - q.sum(1)) * math.log(2)
    return ((listed.sum(1) + rest) / 2).mean()


def tvd(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """Total variation 1 − Σ min(p, q), raw p: the mean over positions, a scalar; log_q [N, V].

    Goel et al. 2024, arXiv 2403.00858. It has a kink at q = p, so its gradient does not shrink on the way there, unless p is
    nearly one token; at a tie r = 0, so at q = p itself it is 0.
    """
    return (1 - _overlap(log_q, targets)).mean()  # Leviathan et al. 2023, arXiv 2211.17192, lemma 3.3


def tvdpp(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """TVD++ with the exact sum over the vocabulary, raw p: a scalar whose gradient counts, not its value; log_q [N, V].

    Goel et al. 2024, arXiv 2403.00858: E_{x∼q}[−(r(x) − μ) / σ · ∇ log q(x)], with μ and σ over the batch. Since
    Σ ∇q = 0, μ cancels: the gradient is that of `tvd` divided by σ.
    """
    _, q, p = _at_listed(log_q, targets)
    reward = (p > q).to(q.dtype)  # r(x) = 1{p(x) > q(x)}, arXiv 2403.00858
    mu = (q.detach() * reward).sum(1).mean()[None]
    return _expected_policy_loss(q, reward, mu).mean()


def tvdpp_position(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """TVD++ with μ and σ of each position, raw p: a scalar whose gradient counts, not its value; log_q [N, V].

    Ours, after Goel et al. 2024 (arXiv 2403.00858): the gradient of `tvd` at each position over √(m (1 − m)).
    """
    _, q, p = _at_listed(log_q, targets)
    reward = (p > q).to(q.dtype)  # r(x) = 1{p(x) > q(x)}, arXiv 2403.00858
    mu = (q.detach() * reward).sum(1)
    return _expected_policy_loss(q, reward, mu).mean()


def tvdpp_sampled(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """TVD++ with one token sampled from q at each position, raw p: a scalar whose gradient counts; log_q [N, V].

    Goel et al. 2024, arXiv 2403.00858, as a policy gradient: μ and σ are those of the N sampled rewards. On average its
    gradient is that of `tvdpp`, up to a relative error of the order of 1/N, because each reward is part of its own μ.
    """
    sampled = log_q.detach().exp().multinomial(1, generator=generator)
    p = (targets.p_values * (targets.p_ids == sampled)).sum(1).to(log_q.dtype)
    log_q = log_q.gather(1, sampled)[:, 0]
    reward = (p > log_q.detach().exp()).to(log_q.dtype)  # r(x) = 1{p(x) > q(x)}, arXiv 2403.00858
    mu = reward.mean()
    advantage = (reward - mu) / _sigma(mu)  # TVD++ replaces r by (r − μ) / σ, arXiv 2403.00858
    return (-advantage * log_q).mean()


def lk_alpha(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """−log Σ min(p, q), raw p: the mean over positions, a scalar; log_q [N, V].

    L_α of Samarin et al. 2026, arXiv 2602.23881. The mean of the logarithms: the logarithm of the mean would have the
    gradient of `tvd` over one number for the whole batch. Where the overlap is 0 (an empty list), it is 85 without gradient.
    """
    return -_log(_overlap(log_q, targets)).mean()  # L_α, arXiv 2602.23881


def lk_lambda(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """λ KL + (1 − λ) TV with λ = exp(−η overlap) at each position: the mean over positions, a scalar; log_q [N, V].

    L_λ of Samarin et al. 2026, arXiv 2602.23881, with η = 3. λ carries no gradient. KL renormalises p, TV does not.
    """
    alpha = _overlap(log_q, targets)
    weight = (-ETA * alpha.detach()).exp()  # λ = exp(−η · stop_gradient(α)), arXiv 2602.23881
    return (weight * _kl(log_q, targets) + (1 - weight) * (1 - alpha)).mean()  # L_λ, arXiv 2602.23881


def nll(log_q: Tensor, targets: Targets, generator: torch.Generator | None = None) -> Tensor:
    """−log q of the verifier's own token, no p needed: the mean over positions, a scalar; log_q [N, V].

    The black-box loss of Hong et al. 2025 (arXiv 2503.07807). A position whose token the draft lacks is left out; 0 where
    none is left.
    """
    shared = targets.tokens >= 0
    log_q = log_q.gather(1, targets.tokens.clamp(min=0)[:, None])[:, 0].masked_fill(~shared, 0.0)
    return -log_q.sum() / shared.sum().clamp(min=1)  # −log q(the verifier's token), arXiv 2503.07807


LOSSES = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "tvd": tvd,
    "tvdpp": tvdpp,
    "tvdpp_position": tvdpp_position,
    "tvdpp_sampled": tvdpp_sampled,
    "lk_alpha": lk_alpha,
    "lk_lambda": lk_lambda,
    "nll": nll,
}
