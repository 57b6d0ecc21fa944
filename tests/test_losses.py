"""The losses against dense forms written again from their definitions, closed forms, and broken versions that must fail."""

from dataclasses import replace

import pytest
import torch

from specdec import losses
from specdec.losses import LOSSES, Targets, column_mask, overlap, shared_log_probs

torch.set_num_threads(1)

TEMPERATURE = 0.7
WIDTH = 11
UNSHARED = (4, 9)  # columns of the draft that the verifier lacks
SHARED = [column for column in range(WIDTH) if column not in UNSHARED]
DIVERGENCES = ("kl", "reverse_kl", "js", "tvd", "tvdpp", "tvdpp_position", "tvdpp_sampled", "lk_alpha", "lk_lambda")
SURROGATES = ("tvdpp", "tvdpp_position")  # only their gradient counts


# --- a small batch, and the dense forms ---------------------------------------------------------------------------------


def small_batch(positions: int = 6, listed: int = 5, seed: int = 0) -> tuple[torch.Tensor, Targets]:
    """Logits [N, V] and targets: mass .6 to .9 on shared tokens, a tail outside the list, one entry of padding.

    Token 0 is listed at every position, so that the padding entry's id 0 names it a second time.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(positions, WIDTH, generator=generator, dtype=torch.float64)
    logits = torch.randn(positions, WIDTH, generator=generator, dtype=torch.float64)
    p = noise[:, SHARED].mul(1.5).softmax(1) * torch.linspace(0.6, 0.9, positions, dtype=torch.float64)[:, None]
    first = p.clone()
    first[:, 0] = 1  # token 0 first, then the most probable others
    order = first.argsort(1, descending=True)[:, :listed]
    p_values = p.gather(1, order)
    p_ids = torch.tensor(SHARED)[order]
    padding = torch.zeros(positions, 1)
    rows = torch.arange(positions)
    tokens = p_ids[rows, rows % listed]
    tokens[rows == 2] = -1
    return logits, Targets(
        p_ids=torch.cat([p_ids, padding.long()], 1),
        p_values=torch.cat([p_values, padding.double()], 1),
        tokens=tokens,
        tail=p.sum(1) - p_values.sum(1),
    )


MASK = column_mask(SHARED, WIDTH)


def dense_q(logits: torch.Tensor) -> torch.Tensor:
    """q [N, V] written again: exponentials of logits / temperature over the shared columns, over their sum."""
    weights = (logits / TEMPERATURE).exp() * torch.isfinite(MASK)
    return weights / weights.sum(1, keepdim=True)


def dense_p(targets: Targets) -> torch.Tensor:
    """Raw p [N, V], 0 outside the list."""
    p = torch.zeros(len(targets.p_ids), WIDTH, dtype=torch.float64)
    return p.scatter_add(1, targets.p_ids, targets.p_values.double())


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p‖q) of each row, with 0 log 0 = 0."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


def dense_reverse_kl(q, p, targets):
    inside = p > 0
    total = p.sum(1) + targets.tail
    merged_q = torch.cat([q * inside, (q * ~inside).sum(1, keepdim=True)], 1)
    merged_p = torch.cat([p, targets.tail[:, None]], 1) / total[:, None]
    return divergence(merged_q, merged_p)


def dense_loss(name: str, logits: torch.Tensor, targets: Targets, fixed: torch.Tensor | None = None) -> torch.Tensor:
    """The loss from its definition over the whole vocabulary; what carries no gradient comes from the logits `fixed`."""
    q, p = dense_q(logits), dense_p(targets)
    fixed_q = dense_q(logits if fixed is None else fixed)
    normal = p / p.sum(1, keepdim=True)
    tv = 1 - torch.minimum(p, q).sum(1)
    fixed_alpha = torch.minimum(p, fixed_q).sum(1)
    m = (fixed_q * (p > fixed_q)).sum(1)
    if name == "nll":
        shared = targets.tokens >= 0
        values = -q.gather(1, targets.tokens.clamp(min=0)[:, None])[:, 0].log()[shared]
    elif name == "kl":
        values = divergence(normal, q)
    elif name == "reverse_kl":
        values = dense_reverse_kl(q, p, targets)
    elif name == "js":
        values = (divergence(normal, (normal + q) / 2) + divergence(q, (normal + q) / 2)) / 2
    elif name == "tvd":
        values = tv
    elif name == "tvdpp":
        mu = m.mean()
        values = tv / (mu * (1 - mu)).sqrt()
    elif name == "tvdpp_position":
        values = tv / (m * (1 - m)).sqrt()
    elif name == "lk_alpha":
        values = -(1 - tv).log()
    elif name == "lk_lambda":
        weight = (-3 * fixed_alpha).exp()
        values = weight * divergence(normal, q) + (1 - weight) * tv
    return values.mean()


def gradient(loss, logits: torch.Tensor, targets: Targets, log_probs=shared_log_probs, generator=None) -> torch.Tensor:
    """The gradient [N, V] of a loss at the draft's logits."""
    logits = logits.clone().requires_grad_()
    loss(log_probs(logits, MASK, TEMPERATURE), targets, generator).backward()
    return logits.grad


def check_value(name, loss, logits, targets, log_probs=shared_log_probs):
    value = loss(log_probs(logits, MASK, TEMPERATURE), targets)
    assert value == pytest.approx(dense_loss(name, logits, targets).item(), abs=1e-12), "value"


def check_gradient(name, loss, logits, targets, log_probs=shared_log_probs):
    """Autograd through the sparse form against central differences of the dense form."""
    step = 1e-6
    expected = torch.zeros_like(logits)
    for index in range(logits.numel()):
        moved = torch.zeros(logits.numel(), dtype=logits.dtype)
        moved[index] = step
        moved = moved.view_as(logits)
        rise = dense_loss(name, logits + moved, targets, logits) - dense_loss(name, logits - moved, targets, logits)
        expected.view(-1)[index] = rise / (2 * step)
    found = gradient(loss, logits, targets, log_probs)
    assert expected.abs().max() > 0.01
    assert torch.allclose(found, expected, atol=1e-8), "gradient"


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "tvdpp_sampled"])
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_are_those_of_the_dense_form(name, seed):
    logits, targets = small_batch(seed=seed)
    check_gradient(name, LOSSES[name], logits, targets)
    if name not in SURROGATES:
        check_value(name, LOSSES[name], logits, targets)


# --- broken versions: each must fail the checks that the right one passes --------------------------------------------------


def on_listed(values):
    """A loss from a function of (log q, q, raw p), each [N, M] with 0 in padding, to [N]."""
    return lambda log_q, targets, generator=None: values(*losses._at_listed(log_q, targets)).mean()


def changed_targets(loss, change):
    return lambda log_q, targets, generator=None: loss(log_q, change(targets), generator)


def normalised(p):
    return p / p.sum(1, keepdim=True)


def one_position_late(targets):
    return replace(
        targets,
        p_ids=targets.p_ids.roll(1, 0),
        p_values=targets.p_values.roll(1, 0),
        tokens=targets.tokens.roll(1),
        tail=targets.tail.roll(1),
    )


def temperature_forgotten(logits, mask, temperature):
    return shared_log_probs(logits, mask, 1.0)


def mask_forgotten(logits, mask, temperature):
    return (logits / temperature).log_softmax(1)


def padding_counted(log_q, targets, generator=None):
    """Reverse KL whose padding entries name token 0 a second time."""
    q = log_q.gather(1, targets.p_ids).exp()
    p = torch.cat([targets.p_values, targets.tail[:, None]], 1)
    p = normalised(p).clamp(min=losses.TINY)
    q = torch.cat([q, (1 - q.sum(1, keepdim=True)).clamp(min=1e-9)], 1)
    return (q * (q.log() - p.log())).sum(1).mean()


def policy_loss_without_rest(log_q, targets, generator=None):
    _, q, p = losses._at_listed(log_q, targets)
    reward = (p > q).double()
    mu = (q.detach() * reward).sum(1)
    return (-(q * (reward - mu[:, None])).sum(1) / losses._sigma(mu)).mean()


def lambda_with_gradient(log_q, targets, generator=None):
    alpha = losses._overlap(log_q, targets)
    weight = (-3 * alpha).exp()
    return (weight * losses._kl(log_q, targets) + (1 - weight) * (1 - alpha)).mean()


def log_of_the_mean(log_q, targets, generator=None):
    return -losses._overlap(log_q, targets).mean().log()


# Of the loss that it breaks: name, broken loss, how log q is made, and which checks it must fail.
BROKEN = {
    "p renormalised inside TV": (
        "tvd",
        on_listed(lambda log_q, q, p: 1 - torch.minimum(normalised(p), q).sum(1)),
        shared_log_probs,
        "vg",
    ),
    "p raw inside KL": ("kl", on_listed(lambda log_q, q, p: (torch.xlogy(p, p) - p * log_q).sum(1)), shared_log_probs, "vg"),
    "p and q swapped in KL": (
        "kl",
        on_listed(lambda log_q, q, p: (q * log_q - torch.xlogy(q, normalised(p))).sum(1)),
        shared_log_probs,
        "vg",
    ),
    "p and q swapped in TVD++": (
        "tvdpp_position",
        on_listed(lambda log_q, q, p: losses._expected_policy_loss(q, (p < q).double(), (q * (p < q)).sum(1).detach())),
        shared_log_probs,
        "g",
    ),
    "no rest outside the list in reverse KL": (
        "reverse_kl",
        on_listed(lambda log_q, q, p: torch.xlogy(q, q / normalised(p).clamp(min=1e-30)).sum(1)),
        shared_log_probs,
        "vg",
    ),
    "no rest outside the list in JS": (
        "js",
        on_listed(
            lambda log_q, q, p: (
                (
                    torch.xlogy(normalised(p), 2 * normalised(p) / (normalised(p) + q + 1e-30))
                    + torch.xlogy(q, 2 * q / (normalised(p) + q + 1e-30))
                ).sum(1)
                / 2
            )
        ),
        shared_log_probs,
        "vg",
    ),
    "no rest outside the list in TVD++": ("tvdpp_position", policy_loss_without_rest, shared_log_probs, "g"),
    "λ with a gradient": ("lk_lambda", lambda_with_gradient, shared_log_probs, "g"),
    "the logarithm of the mean overlap": ("lk_alpha", log_of_the_mean, shared_log_probs, "vg"),
    "padding entries counted": ("reverse_kl", padding_counted, shared_log_probs, "vg"),
    "a token that the draft lacks counted as token 0": (
        "nll",
        changed_targets(LOSSES["nll"], lambda targets: replace(targets, tokens=targets.tokens.clamp(min=0))),
        shared_log_probs,
        "vg",
    ),
}
for _name in LOSSES:
    if _name != "tvdpp_sampled":
        _checks = "g" if _name in SURROGATES else "vg"
        BROKEN[f"temperature forgotten, {_name}"] = (_name, LOSSES[_name], temperature_forgotten, _checks)
        BROKEN[f"mask of the shared columns forgotten, {_name}"] = (_name, LOSSES[_name], mask_forgotten, _checks)
        BROKEN[f"positions one off, {_name}"] = (
            _name,
            changed_targets(LOSSES[_name], one_position_late),
            shared_log_probs,
            _checks,
        )


@pytest.mark.parametrize("control", BROKEN)
def test_a_broken_version_fails(control):
    name, loss, log_probs, checks = BROKEN[control]
    logits, targets = small_batch()
    # Finite, so that it is the error that trips the check and not a NaN.
    assert loss(log_probs(logits, MASK, TEMPERATURE), targets).isfinite()
    assert gradient(loss, logits, targets, log_probs).isfinite().all()
    if "v" in checks:
        with pytest.raises(AssertionError, match="value"):
            check_value(name, loss, logits, targets, log_probs)
    if "g" in checks:
        with pytest.raises(AssertionError, match="gradient"):
            check_gradient(name, loss, logits, targets, log_probs)


# --- closed forms -------------------------------------------------------------------------------------------------------


def parts(logits, targets):
    """q, raw p [N, V], m [N] and each position's share of the mean."""
    q, p = dense_q(logits), dense_p(targets)
    m = (q * (p > q)).sum(1)
    return q, p, m, 1 / len(q)


def scaled_gradient(name, logits, targets):
    """The gradient at logits / temperature."""
    return gradient(LOSSES[name], logits, targets) * TEMPERATURE


def close(found, expected):
    return torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_gradient_of_tvd_in_closed_form():
    logits, targets = small_batch()
    q, p, m, share = parts(logits, targets)
    reward = (p > q).double()
    assert close(scaled_gradient("tvd", logits, targets), -q * (reward - m[:, None]) * share)
    assert not close(scaled_gradient("tvd", logits, targets), -q * reward * share), "the baseline m matters"
    assert not close(gradient(LOSSES["tvd"], logits, targets), -q * (reward - m[:, None]) * share), "the temperature matters"


def test_what_coincides_with_tvd_up_to_a_weight():
    """TVD++ over the batch is TV over one number; per position, and LK α, over a number of each position."""
    logits, targets = small_batch()
    q, p, m, share = parts(logits, targets)
    tv = scaled_gradient("tvd", logits, targets)
    mu = m.mean()
    assert close(scaled_gradient("tvdpp", logits, targets), tv / (mu * (1 - mu)).sqrt())
    assert close(scaled_gradient("tvdpp_position", logits, targets), tv / (m * (1 - m)).sqrt()[:, None])
    alpha = torch.minimum(p, q).sum(1)
    assert close(scaled_gradient("lk_alpha", logits, targets), tv / alpha[:, None])
    assert not close(scaled_gradient("lk_alpha", logits, targets), tv / alpha.mean())
    assert m.std() > 0.05 and alpha.std() > 0.05, "the weights differ between positions, or this test could not fail"


def test_sizes_of_the_gradients_stay_bounded():
    """Summed over a position's tokens: TV 2m(1 − m), TVD++ per position 2√(m(1 − m)) ≤ 1, LK α ≤ 2: no step explodes."""
    logits, targets = small_batch()
    _, _, m, share = parts(logits, targets)
    size = {
        name: (scaled_gradient(name, logits, targets) / share).abs().sum(1) for name in ("tvd", "tvdpp_position", "lk_alpha")
    }
    assert torch.allclose(size["tvd"], 2 * m * (1 - m))
    assert torch.allclose(size["tvdpp_position"], 2 * (m * (1 - m)).sqrt())
    assert (size["lk_alpha"] <= 2).all()


def test_gradients_of_kl_and_nll_in_closed_form():
    logits, targets = small_batch()
    q, p, _, share = parts(logits, targets)
    assert close(scaled_gradient("kl", logits, targets), (q - normalised(p)) * share)
    shared = (targets.tokens >= 0).double()[:, None]
    emitted = torch.nn.functional.one_hot(targets.tokens.clamp(min=0), WIDTH)
    assert close(scaled_gradient("nll", logits, targets), (q - emitted) * shared / shared.sum())


def test_nll_is_kl_on_average_over_the_verifiers_tokens_times_the_mass_that_is_shared():
    """A token that the draft lacks teaches nothing; kl renormalises p, as if there were none."""
    logits, targets = small_batch(positions=1)
    p = dense_p(targets)[0]
    kl = gradient(LOSSES["kl"], logits, targets)
    average = (1 - p.sum()) * gradient(LOSSES["nll"], logits, replace(targets, tokens=torch.tensor([-1])))
    for token in p.nonzero()[:, 0].tolist():
        average += p[token] * gradient(LOSSES["nll"], logits, replace(targets, tokens=torch.tensor([token])))
    assert p.sum() < 0.9 and close(average, p.sum() * kl) and not close(average, kl)


def test_at_a_certain_verifier_kl_nll_and_lk_alpha_are_one():
    """p(x) = 1: all three are −log q(x), and TV's gradient is theirs times q(x)."""
    logits, _ = small_batch()
    tokens = torch.tensor([0, 1, 2, 3, 5, 6])
    targets = Targets(tokens[:, None], torch.ones(6, 1, dtype=torch.float64), tokens)
    kl, nll, lk_alpha, tv = (scaled_gradient(name, logits, targets) for name in ("kl", "nll", "lk_alpha", "tvd"))
    assert close(kl, nll) and close(kl, lk_alpha)
    assert close(tv, kl * dense_q(logits).gather(1, tokens[:, None]))


def equal_distributions() -> tuple[torch.Tensor, Targets]:
    """Logits and full lists with p = q to the last bit."""
    logits, _ = small_batch()
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    ids = torch.tensor(SHARED).expand(len(logits), -1)
    p = log_q.exp().gather(1, ids)
    return logits, Targets(ids, p, ids[:, 0])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_vanishes_at_equal_distributions(name):
    """For TV and what derives from it the gradient 0 is one of the subgradients at the kink: all rewards tie at 0."""
    logits, targets = equal_distributions()
    generator = torch.Generator().manual_seed(0)
    value = LOSSES[name](shared_log_probs(logits, MASK, TEMPERATURE), targets, generator)
    assert abs(value) < 1e-12
    assert gradient(LOSSES[name], logits, targets, generator=generator).abs().max() < 1e-12
    elsewhere = logits.roll(1, 0)
    assert gradient(LOSSES[name], elsewhere, targets, generator=generator).abs().max() > 1e-3


def test_a_tie_is_no_reward():
    """r = 1{p > q} is strict: q = (.5, .5) and p = (.5, .3) have no token with p > q, so no gradient."""
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    log_q = logits.log_softmax(1)
    p = torch.tensor([[0.0, -0.2]], dtype=torch.float64) + log_q.detach().exp()
    LOSSES["tvd"](log_q, Targets(torch.tensor([[0, 1]]), p, torch.tensor([0]))).backward()
    assert logits.grad.abs().max() == 0


def test_tv_does_not_flatten_near_its_minimum():
    """A step of 1e-9 away from q = p: the gradients of the smooth divergences are as small, that of TV is not."""
    logits, targets = equal_distributions()
    moved = logits.clone()
    moved[:, 0] += 1e-9
    for name in ("kl", "reverse_kl", "js"):
        assert gradient(LOSSES[name], moved, targets).abs().max() < 1e-8
    for name in ("tvd", "lk_alpha", "lk_lambda", "tvdpp_position"):
        assert gradient(LOSSES[name], moved, targets).abs().max() > 1e-3


def test_lk_lambda_lies_between_its_parts_and_leaves_kl_as_the_overlap_grows():
    logits, targets = small_batch()
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    share_of_kl = []
    for position in range(len(logits)):
        one = Targets(targets.p_ids[[position]], targets.p_values[[position]], targets.tokens[[position]])
        kl, tv, mixed = (LOSSES[name](log_q[[position]], one) for name in ("kl", "tvd", "lk_lambda"))
        assert min(kl, tv) < mixed < max(kl, tv)
        share_of_kl.append((mixed - tv) / (kl - tv))
    order = overlap(log_q, targets).argsort()
    shares = torch.stack(share_of_kl)[order]
    assert (shares.diff() < 0).all()


# --- sampled TVD++ ------------------------------------------------------------------------------------------------------


def average_sampled_gradient(loss, copies: int = 4000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mean over copies of the batch, its standard error, and the gradient of `tvdpp`; each [N, V]."""
    logits, targets = small_batch(positions=4)
    exact = gradient(LOSSES["tvdpp"], logits, targets) * len(logits)
    many = Targets(targets.p_ids.repeat(copies, 1), targets.p_values.repeat(copies, 1), targets.tokens.repeat(copies))
    generator = torch.Generator().manual_seed(7)
    samples = gradient(loss, logits.repeat(copies, 1), many, generator=generator) * len(logits) * copies
    samples = samples.view(copies, len(logits), WIDTH)
    return samples.mean(0), samples.std(0) / copies**0.5, exact


def farthest(loss) -> float:
    """How many standard errors the mean gradient lies from that of `tvdpp`, over all entries at shared columns."""
    mean, error, exact = average_sampled_gradient(loss)
    assert (exact.abs() / error.clamp(min=1e-12)).max() > 20, "the samples are too few to see the gradient"
    return ((mean - exact).abs() / error)[:, SHARED].max().item()


def test_sampled_tvdpp_is_tvdpp_on_average():
    """36 entries, each within 5 standard errors: by the union bound a false alarm has probability below 36 · 6e-7 = 2e-5.

    The shared μ and σ move with the sample too, by a relative 1/√16,000 < 1 %, far below the 5 errors.
    """
    assert farthest(LOSSES["tvdpp_sampled"]) < 5


def sampled_without_sigma(log_q, targets, generator=None):
    return LOSSES["tvdpp_sampled"](log_q, targets, generator) / 2


def sampled_with_its_sign_turned(log_q, targets, generator=None):
    return -LOSSES["tvdpp_sampled"](log_q, targets, generator)


def sampled_from_p(log_q, targets, generator=None):
    """Off-policy: tokens of the verifier instead of the draft."""
    entry = targets.p_values.multinomial(1, generator=generator)
    p = targets.p_values.gather(1, entry)[:, 0]
    log_q = log_q.gather(1, targets.p_ids.gather(1, entry))[:, 0]
    reward = (p > log_q.exp()).double()
    return (-(reward - reward.mean()) / losses._sigma(reward.mean()) * log_q).mean()


@pytest.mark.parametrize("loss", [sampled_without_sigma, sampled_with_its_sign_turned, sampled_from_p])
def test_a_broken_sampled_version_is_far_off(loss):
    assert farthest(loss) > 5


def test_sampled_rewards_that_are_all_alike_teach_nothing():
    """μ is subtracted: with p above q everywhere (no distribution, but r = 1) the policy gradient is 0."""
    logits, targets = equal_distributions()
    targets = replace(targets, p_values=torch.ones_like(targets.p_values))
    assert gradient(LOSSES["tvdpp_sampled"], logits, targets, generator=torch.Generator().manual_seed(0)).abs().max() == 0


def test_sampling_follows_the_generator():
    logits, targets = small_batch()
    values = [
        LOSSES["tvdpp_sampled"](shared_log_probs(logits, MASK, TEMPERATURE), targets, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert values[0] == values[1] != values[2]


# --- lists, padding, numbers at the edge ----------------------------------------------------------------------------------


def test_overlap_and_the_bound_of_what_the_list_leaves_out():
    logits, targets = small_batch(listed=3)
    logits.requires_grad_()
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    q, _, full = dense_q(logits), dense_p(targets), small_batch(listed=len(SHARED))[1]
    true = torch.minimum(dense_p(full), q).sum(1)
    short = overlap(log_q, targets)
    assert not short.requires_grad
    assert torch.allclose(overlap(log_q, full), true)
    rest = 1 - (q * (dense_p(targets) > 0)).sum(1)
    assert (true - short > 0.001).any(), "the list leaves something out"
    assert (true - short >= 0).all() and (true - short <= torch.minimum(targets.tail, rest) + 1e-12).all()


def test_merging_the_rest_lowers_reverse_kl():
    logits, short = small_batch(listed=3)
    full = small_batch(listed=len(SHARED))[1]
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    assert LOSSES["reverse_kl"](log_q, short) < LOSSES["reverse_kl"](log_q, full)
    assert LOSSES["reverse_kl"](log_q, replace(short, tail=None)).isfinite()


def test_column_mask():
    mask = column_mask((0, 2), 4)
    assert mask.tolist() == [0, float("-inf"), 0, float("-inf")]
    assert shared_log_probs(torch.zeros(1, 4), mask, 1.0).exp().tolist() == [[0.5, 0, 0.5, 0]]


@pytest.mark.parametrize("name", LOSSES)
def test_more_padding_of_a_list_changes_nothing(name):
    """Entries whose id names a token that is not shared, at which log q is −∞."""
    logits, targets = small_batch()
    longer = replace(
        targets,
        p_ids=torch.nn.functional.pad(targets.p_ids, (0, 3), value=UNSHARED[0]),
        p_values=torch.nn.functional.pad(targets.p_values, (0, 3)),
    )
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    found, expected = (LOSSES[name](log_q, these, torch.Generator().manual_seed(3)) for these in (longer, targets))
    assert found == pytest.approx(expected.item(), abs=1e-12)
    slope, as_before = (
        gradient(LOSSES[name], logits, these, generator=torch.Generator().manual_seed(3)) for these in (longer, targets)
    )
    assert close(slope, as_before)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_in_half_and_single_precision(name, dtype):
    """Logits far apart, an empty list, p of a single token, and no stored tail."""
    logits = torch.zeros(4, WIDTH, dtype=dtype)
    logits[0, 0] = 300
    logits[1, 1] = -300
    logits[2, UNSHARED[0]] = 300
    p_values = torch.tensor([[0.0, 0.6], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    p_ids = torch.tensor([[0, 3], [1, 0], [4, 4], [2, 0]])
    targets = Targets(p_ids, p_values, torch.tensor([3, -1, -1, 2]))
    loss = LOSSES[name](shared_log_probs(logits, MASK, TEMPERATURE), targets, torch.Generator().manual_seed(0))
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert gradient(LOSSES[name], logits, targets, generator=torch.Generator().manual_seed(0)).isfinite().all()


def test_nll_is_the_mean_over_positions_whose_token_is_shared():
    logits, targets = small_batch()
    log_q = shared_log_probs(logits, MASK, TEMPERATURE)
    values = [-log_q[row, token] for row, token in enumerate(targets.tokens) if token >= 0]
    assert len(values) == len(logits) - 1
    assert LOSSES["nll"](log_q, targets) == pytest.approx((sum(values) / len(values)).item())


def test_nll_without_any_shared_token_is_zero():
    logits, targets = small_batch()
    none = replace(targets, tokens=torch.full_like(targets.tokens, -1))
    assert LOSSES["nll"](shared_log_probs(logits, MASK, TEMPERATURE), none) == 0
    assert gradient(LOSSES["nll"], logits, none).abs().max() == 0


def test_the_names_are_the_functions():
    assert LOSSES == {name: getattr(losses, name) for name in LOSSES} and len(LOSSES) == 10
