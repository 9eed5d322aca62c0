"""Rung 11: noise on word embeddings stays in its ball, goes uphill, and leaves the rest alone.

Builds: attacks.py ("the goal", part 3). Before: rungs 0, 1. Run: pytest tests/test_11_embeddings.py
"""

import math
import random
from pathlib import Path

import pytest
import torch

import attacks
from attacks import fgm, gradient, make_pools, margins, parse_attack, pgd, project, random_noise
from xlt import DataSet, Text, generator

BALLS = [("l2", "token"), ("l2", "sentence"), ("max", "token")]
SPECS = ["gaussian:", "uniform:ball=sentence,", "fgm:", "pgd:ball=sentence,", "fgm:norm=max,"]


def reach(delta, norm, ball):
    """The largest length that the ball bounds: of a number, a token or a sentence."""
    squares = delta**2 if norm == "max" else (delta**2).sum(-1 if ball == "token" else (1, 2))
    return float(squares.max()) ** 0.5


def bumpy(seed):
    """A random objective with hills, words (4, 5, 3) and a mask with padding; float32."""
    rng = torch.Generator().manual_seed(seed)
    a, b, words = (torch.randn(n, generator=rng) for n in ((15, 16), 16, (4, 5, 3)))
    mask = torch.arange(5) < torch.tensor([[5], [3], [4], [1]])
    return lambda x: torch.sin(x.flatten(1) @ a.to(x)) @ b.to(x), words, mask


streams = lambda n: [generator(0, "x", i) for i in range(n)]
attacked = lambda scene, items, spec: attacks.attack_embeddings(
    items, *scene[:2], parse_attack(spec), 0
)


def test_noise_and_steps_keep_shape_and_dtype():
    """Claim: (B, T, D) in, the same out. Number: 4, 5, 3, all different. Catches: a wrong axis."""
    f, words, mask = bumpy(0)
    for norm, ball in BALLS:
        spec = parse_attack(f"pgd:steps=1,norm={norm},ball={ball}")
        found = [project(words, 0.5, norm, ball), attacks.steepest(words, norm, ball)]
        found += [fgm(f, words, mask, 0.5, norm, ball), pgd(f, words, mask, 0.5, spec, streams(4))]
        found += [random_noise(mask, 3, streams(4), 0.5, k, ball) for k in ("uniform", "gaussian")]
        assert all(x.shape == (4, 5, 3) and x.dtype == torch.float32 for x in found)


@pytest.mark.parametrize(
    ("tokens", "radius", "norm", "ball", "expected"),
    [
        ([(3.0, 4)], 1.0, "l2", "token", [0.6, 0.8]),  # norm 5: a fifth
        ([(0.3, 0.4)], 1.0, "l2", "token", [0.3, 0.4]),  # norm 0.5: inside
        ([(0.0, 0)], 1.0, "l2", "token", [0, 0]),
        ([(3.0, 4), (0, 0)], 0.0, "l2", "sentence", [0, 0, 0, 0]),
        ([(3.0, -0.2)], 0.5, "max", "token", [0.5, -0.2]),
        ([(3.0, 0), (0, 4)], 1.0, "l2", "token", [1, 0, 0, 1]),
        ([(3.0, 0), (0, 4)], 1.0, "l2", "sentence", [0.6, 0, 0, 0.8]),  # the sentence's norm is 5
    ],
)
def test_projection_finds_the_nearest_point_of_the_ball(tokens, radius, norm, ball, expected):
    """Claim: outside goes to the border, inside stays, 0 is no NaN, twice is once (1e-6, float32).

    Catches: dividing always ((0.3, 0.4) would become (0.6, 0.8)); 0 / 0; the batch as one ball.
    """
    once = project(torch.tensor([tokens, [(9.0, 9)] * len(tokens)]), radius, norm, ball)
    for found in (once, project(once, radius, norm, ball)):
        assert found[0].flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("g", "norm", "ball", "gain", "delta"),
    [
        ([(3.0, 4)], "l2", "token", 2.5, [0.3, 0.4]),  # 0.5 * ||g||
        ([(3.0, 4)], "max", "token", 3.5, [0.5, 0.5]),  # 0.5 * (3 + 4)
        ([(3.0, 0), (0, 4)], "l2", "token", 3.5, [0.5, 0, 0, 0.5]),  # two balls: 0.5 * (3 + 4)
        ([(3.0, 0), (0, 4)], "l2", "sentence", 2.5, [0.3, 0, 0, 0.4]),  # one ball: 0.5 * 5
    ],
)
def test_a_linear_objective_gains_epsilon_times_the_norm(g, norm, ball, gain, delta):
    """Claim: fgm and pgd both end at epsilon g / ||g||; the last token, masked, stays. To 1e-6.
    Number: g = (3, 4), epsilon 0.5 gains 2.5. Catches: sign flipped (-2.5), no normalisation
    (12.5), sign(g) in the L2 ball (3.5); pgd without projection, 5.2 epsilon away after 7 steps.
    """
    f = lambda words: (words * torch.tensor([*g, (5.0, 5)])).sum((1, 2))
    words, mask = torch.ones(1, len(g) + 1, 2), torch.tensor([[True] * len(g) + [False]])
    spec = parse_attack(f"pgd:norm={norm},ball={ball},steps=7,step_size=0.6,restarts=3")
    found = [fgm(f, words, mask, 0.5, norm, ball), pgd(f, words, mask, 0.5, spec, streams(1))]
    for d in found:
        assert float(f(words + d) - f(words)) == pytest.approx(gain, abs=1e-6)
        assert d.flatten().tolist() == pytest.approx([*delta, 0, 0], abs=1e-6)
    assert attacks.steepest(torch.zeros(1, 2, 2), norm, ball).eq(0).all(), "0 / 0 is no step"


def test_margins_are_rounded_to_six_decimals():
    """Number: relevant (1, 0), other (0, 1), v = (0.12345678, 0): 0.123457, to 1e-8.
    Catches: no rounding (2.2e-7 off): then the shape of a batch decides between equals.
    """
    texts = [Text("", "en", "", "")] * 2
    data = DataSet(Path(), texts, texts, {"test": {0: {0: 1.0}}})
    pools = make_pools(torch.eye(2), data, [0], [0, 1], "test")
    found = margins(pools, torch.tensor([[0.12345678, 0.0]]), torch.tensor([0]))
    assert found.flatten().tolist() == pytest.approx([0.123457] * 2, abs=1e-8)


def small_world(seed):
    """Twelve passages in three languages, out of order; six queries, one without English negative,
    one without French answer, one in a language without passages. -> data, p (P, D), v (Q, D)
    """
    rng, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    spoken = rng.sample(["fr", "en", "de"] * 4, 12)
    within = lambda *langs: [i for i, a in enumerate(spoken) if a in langs]
    gold = {q: rng.sample(range(12), rng.randint(1, 5)) for q in range(6)}
    gold |= {0: within("en"), 1: rng.sample(within("en", "de"), 3)}
    qrels = {"test": {q: dict.fromkeys(found, 1.0) for q, found in gold.items()}}
    asked = ["en", "de", "fr", "en", "it", "de"]
    texts = [[Text("", a, "", "") for a in langs] for langs in (asked, spoken)]
    p, v = torch.randn(12, 5, generator=noise), torch.randn(6, 5, generator=noise)
    return DataSet(Path(), *texts, qrels), p, v


def slow_margins(data, p, v, query):
    """{view or language: best relevant - best other}, in loops; NaN where one is missing."""
    score = [sum(a * b for a, b in zip(x, v.tolist(), strict=True)) for x in p.tolist()]
    found, relevant, own = {}, data.qrels["test"][query], data.queries[query].lang
    for lang in ("de", "en", "fr", "pool"):
        mine = [i for i, t in enumerate(data.passages) if lang in (t.lang, "pool")]
        good = [score[i] for i in mine if i in relevant]
        other = [score[i] for i in mine if i not in relevant]
        found[lang] = max(good) - max(other) if good and other else math.nan
    rest = [m for a, m in found.items() if a not in (own, "pool") and not math.isnan(m)]
    cross = sum(rest) / len(rest) if rest else math.nan
    return found | {"mono": found.get(own, math.nan), "cross": cross}


def test_margins_and_directions_agree_with_a_slow_loop():
    """Claim: margins in each language, all and each view, to 2e-6 (they are rounded); v . d is the
    view's margin, to 1e-5; NaN where nothing is relevant or nothing else is there. 20 worlds.
    Catches: cross as a mean over languages without an answer; an unknown language read as the last.
    """
    same = lambda a, b, atol: torch.testing.assert_close(a, b, rtol=0, atol=atol, equal_nan=True)
    for seed in range(20):
        data, p, v = small_world(seed)
        pools = make_pools(p, data, list(range(6)), list(range(12)), "test")
        want, rows = [slow_margins(data, p, v[q], q) for q in range(6)], torch.arange(6)
        found = margins(pools, v, rows, block=4)  # (Q, L + 1)
        same(found, torch.tensor([[w[a] for a in ("de", "en", "fr", "pool")] for w in want]), 2e-6)
        assert found[0, 1].isnan() and found[1, 2].isnan() and pools.langs == ["de", "en", "fr"]
        for view in ("mono", "cross", "pool"):
            slow = torch.tensor([w[view] for w in want])
            same(attacks.of_view(found, pools.own, view), slow, 2e-6)
            along = (v * attacks.directions(pools, v, rows, view)).sum(1)
            same(along[~slow.isnan()], slow[~slow.isnan()], 1e-5)


def test_the_gradient_agrees_with_finite_differences():
    """Claim: central differences of 1e-6 in float64, to 1e-6; 0 outside the mask.
    Catches: a gradient at the words instead of words + delta, a forgotten mask.
    """
    objective, words, mask = bumpy(3)
    words, delta = words.double(), torch.full((4, 5, 3), 0.3, dtype=torch.float64)
    value, grad = gradient(objective, words, delta, mask)
    torch.testing.assert_close(value, objective(words + 0.3))
    for b, t, d in mask[..., None].expand(4, 5, 3).nonzero().tolist():
        step = torch.zeros_like(words)
        step[b, t, d] = 1e-6
        rise = objective(words + 0.3 + step) - objective(words + 0.3 - step)
        assert float(grad[b, t, d]) == pytest.approx(float(rise[b]) / 2e-6, abs=1e-6)
    assert grad[~mask].eq(0).all()


def test_uniform_noise_passes_a_kolmogorov_smirnov_test():
    """Claim: in a ball, (radius)^D is uniform. Number: n = 20,000, false-alarm rate 1e-6."""
    stats, mask = pytest.importorskip("scipy.stats"), torch.ones(1, 20_000, dtype=torch.bool)
    noise = random_noise(mask, 8, streams(1), 2.0, "uniform")
    assert stats.kstest(((noise[0] / 2).norm(dim=1) ** 8).numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("ball", ["token", "sentence"])
def test_noise_has_the_norm_that_its_kind_promises(ball):
    """Number: radius 2, balls of D = 8 (a token, or a sentence of 2 x 4). Uniform: mean 2 * 8/9,
    deviation 2 sqrt(8/10 - 64/81) = .199. Gaussian: E norm^2 = 4, deviation 4 sqrt(2/8) = 2.
    Sphere: 2. n = 4000, 5 standard errors: false alarm 6e-7.
    Catches: the radius drawn uniformly (1.0), a cube (3.2), sigma without 1 / sqrt(D) (E 32).
    """
    mask = torch.ones(4000, 1 if ball == "token" else 2, dtype=torch.bool)
    draw = lambda kind: random_noise(mask, 8 // mask.shape[1], streams(1) * 4000, 2.0, kind, ball)
    norms = {kind: draw(kind).flatten(1).norm(dim=1) for kind in ("uniform", "sphere", "gaussian")}
    assert abs(norms["uniform"].mean() - 16 / 9) < 5 * 0.199 / 4000**0.5
    assert norms["uniform"].max() <= 2 + 1e-6 and (norms["sphere"] - 2).abs().max() < 1e-6
    assert abs((norms["gaussian"] ** 2).mean() - 4) < 5 * 2 / 4000**0.5, "gaussian"


@pytest.mark.parametrize("ball", ["token", "sentence"])
def test_the_noise_of_a_row_depends_on_its_own_stream_alone(ball):
    """Claim: bit for bit the same beside others and in a wider batch; a row without a place gets 0.
    Catches: one draw of the whole padded batch; 1 / 0 dimensions.
    """
    mask = torch.arange(6) < torch.tensor([[0], [6], [3]])
    for kind in ("gaussian", "uniform"):
        many = random_noise(mask, 4, streams(3), 1.0, kind, ball)
        one = random_noise(mask[2:, :3], 4, streams(3)[2:], 1.0, kind, ball)
        assert torch.equal(many[2, :3], one[0]) and many[~mask].eq(0).all()


@pytest.mark.parametrize(("norm", "ball"), BALLS)
def test_pgd_never_does_less_than_one_step_and_stays_in_the_ball(norm, ball):
    """Claim: over 40 hilly objectives, with steps that overshoot; both inside to 1e-6; the mask
    holds. Catches: the last point instead of the best, no projection, noise on padding.
    """
    spec, gains = parse_attack(f"pgd:norm={norm},ball={ball},step_size=1.5,steps=6"), []
    for seed in range(40):
        objective, words, mask = bumpy(seed)
        step = fgm(objective, words, mask, 0.4, norm, ball)
        more = pgd(objective, words, mask, 0.4, spec, streams(4))
        gains += (objective(words + more) - objective(words + step)).tolist()
        for delta in (step, more):
            assert reach(delta, norm, ball) <= 0.4 + 1e-6 and delta[~mask].eq(0).all()
    assert min(gains) >= -1e-6 and sorted(gains)[len(gains) // 2] > 0.01, "half gain by more steps"


@pytest.fixture
def scene(encoder, minifacts):
    """The encoder, pools, and a function that makes six items, en, de, th; of unequal lengths."""
    gold, asked = minifacts.qrels["test"], minifacts.queries
    queries = [q for a in ("en", "de", "th") for q in [q for q in gold if asked[q].lang == a][:2]]
    passages = sorted({*range(0, 19_000, 400), *(p for q in queries for p in gold[q])})
    p = encoder.encode([minifacts.passages[i] for i in passages], "passage")
    make = lambda: [attacks.Item(n, "pool", asked[q], []) for n, q in enumerate(queries)]
    return encoder, make_pools(p, minifacts, queries, passages, "test"), make


@pytest.mark.parametrize("spec", SPECS)
def test_no_noise_touches_padding_or_special_tokens(scene, spec):
    """Claim: all other tokens have noise, within the ball, in units of the mean embedding norm (to
    1e-5 of it). Number: XLM-R's <s>, <pad>, </s> are 0, 1, 2. Catches: attention_mask as the mask.
    """
    encoder, real, last, items = scene[0], scene[0].from_words, {}, scene[2]()
    keep = lambda words, batch: last.update({batch["input_ids"]: words.detach()})
    encoder.from_words = lambda words, batch: keep(words, batch) or real(words, batch)
    attacked(scene, items, spec + "epsilon=0.1")
    table, means = encoder.model.get_input_embeddings().weight.detach(), []
    radius = 0.1 * float((table.double() ** 2).sum(1).sqrt().mean())
    for ids, words in last.items():  # of each batch the last call
        delta = words - table[ids]
        assert torch.equal(delta.ne(0).any(-1), ids > 2)
        means += ((delta**2).sum(-1).sqrt().sum(1) / (ids > 2).sum(1) / radius * 0.1).tolist()
        ball = "sentence" if "sentence" in spec else "token"
        most = 128**0.5 * reach(delta, "max", ball) if "max" in spec else reach(delta, "l2", ball)
        assert spec == "gaussian:" or 0.5 < most / radius <= 1 + 1e-5
    assert any(ids.eq(1).any() for ids in last), "no batch was padded"
    assert sorted(item.norm for item in items) == pytest.approx(sorted(means), abs=1e-5)


def test_an_attack_runs_in_eval_mode_and_leaves_the_encoder_as_it_was(scene):
    """Claim: weights bit-equal, no .grad appears, one that is there stays, dropout plays no part.
    Catches: loss.backward(), which fills every parameter's .grad.
    """
    want, first = attacked(scene, scene[2](), "pgd:steps=2"), next(scene[0].parameters())
    for part in [x for x in scene[0].train().modules() if isinstance(x, torch.nn.Dropout)]:
        part.p = 0.5
    first.grad, before = torch.ones_like(first), [x.detach().clone() for x in scene[0].parameters()]
    assert torch.equal(attacked(scene, scene[2](), "pgd:steps=2"), want), "dropout"
    assert all(map(torch.equal, before, scene[0].parameters())) and first.grad.eq(1).all()
    assert all(x.requires_grad and (x.grad is None or x is first) for x in scene[0].parameters())


def test_an_attack_gives_the_training_mode_back(scene):
    """Claim: as Encoder.encode does. Catches: training on without dropout after an attack."""
    scene[0].train()
    attacked(scene, scene[2](), "fgm")
    assert scene[0].training


@pytest.mark.parametrize("name", ["gaussian", "uniform", "pgd"])
def test_an_item_gets_the_same_vector_alone_and_in_a_batch(scene, name):
    """Claim: to 1e-5 (float32 in other shapes); epsilon 0 gives the clean vectors bit for bit.
    Catches: noise drawn for the padded batch, a gradient averaged over it.
    """
    spec, items = f"{name}:steps=2,epsilon=", scene[2]()
    many = attacked(scene, items, spec + "0.5")
    clean = scene[0].encode([item.source for item in items], "query")
    assert torch.equal(attacked(scene, scene[2](), spec + "0"), clean)
    assert (many - clean).norm(dim=1).min() > 0.01, "the attack did nothing"
    for n in (1, 4):
        one = attacked(scene, scene[2]()[n : n + 1], spec + "0.5")[0]
        torch.testing.assert_close(one, many[n], rtol=0, atol=1e-5)


def test_a_worst_case_hurts_more_than_noise_of_its_norm(scene):
    """Claim: for every item pgd's margin <= fgm's < that of the control, whose norm is the same."""
    spec, items, control = "pgd:steps=2,epsilon=0.3", scene[2](), scene[2]()
    step, worst = attacked(scene, scene[2](), "fgm:epsilon=0.3"), attacked(scene, items, spec)
    noise = attacks.attack_embeddings(control, *scene[:2], parse_attack(spec), 0, items)
    assert [x.norm for x in control] == pytest.approx([x.norm for x in items], abs=1e-5)
    worst, step, noise = (margins(scene[1], v, torch.arange(6)) for v in (worst, step, noise))
    assert (worst <= step)[:, -1].all() and (step < noise - 0.01)[:, -1].all()
