"""Rung 11, part 2 of 5: the goal of every attack, one margin a ranking.

Builds: attacks.make_pools, margins, view_margin, directions, MarginObjective. Before: rung 0.
Run: pytest tests/test_11_goal.py
"""

import math
import random
from dataclasses import dataclass

import pytest
import torch
from bags import pools_of

from attacks import (
    AttackedQuery,
    Chunk,
    MarginObjective,
    Pools,
    directions,
    margins,
    view_margin,
)
from xlt import Text

LANGS = ["de", "en", "fr"]
VIEWS = ["mono", "cross", "pool"]


@dataclass
class Scene:
    """Passages and queries as vectors, for the slow loops and as Pools."""

    passage_langs: list[str]
    query_langs: list[str]
    gold: list[set[int]]  # of each query, the positions of its relevant passages
    p: torch.Tensor  # (P, D)
    pools: Pools


def make_scene(passage_langs, query_langs, gold, p):
    pools = pools_of(p, passage_langs, gold, query_langs)
    return Scene(passage_langs, query_langs, gold, p, pools)


# ---- by hand -------------------------------------------------------------------------------------


def scene_by_hand():
    """One English query; passages out of order: en, de, en, de; the first two are relevant."""
    p = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    return make_scene(["en", "de", "en", "de"], ["en"], [{0, 1}], p)


def test_a_margin_is_the_best_relevant_minus_the_best_other_score():
    """Number: v = (1, 0) scores the first numbers. German 0.6 - 0.8, English 1 - 0, all 1 - 0.8.

    Catches: passages left in the order of the data; the pool of all as one of the languages'.
    """
    by_pool = margins(scene_by_hand().pools, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert by_pool.tolist() == [pytest.approx([-0.2, 1.0, 0.2], abs=1e-6)]


def test_a_direction_leads_from_the_best_other_to_the_best_relevant_passage():
    """Number: in the pool (1, 0) - (0.8, 0.6). Catches: the sign; the best of German alone."""
    v, rows = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    d = directions(scene_by_hand().pools, v, rows, "pool")
    assert d.tolist() == [pytest.approx([0.2, -0.6], abs=1e-6)]


def test_a_margin_is_rounded_to_six_decimals():
    """Number: 0.12345678 becomes 0.123457, to 1e-8. Catches: no rounding, 2.2e-7 off: then the
    shape of a batch decides between equals.
    """
    scene = make_scene(["en", "en"], ["en"], [{0}], torch.eye(2))
    v = torch.tensor([[0.12345678, 0.0]])
    by_pool = margins(scene.pools, v, torch.tensor([0]))
    assert by_pool.tolist() == [pytest.approx([0.123457, 0.123457], abs=1e-8)]


def test_there_is_no_margin_without_a_relevant_or_without_another_passage():
    """Claim: NaN, not infinity. Number: de has a relevant passage alone, fr another one alone.

    Catches: -inf, which would make the mean over languages -inf, too.
    """
    scene = make_scene(["de", "fr"], ["en"], [{0}], torch.eye(2))
    by_pool = margins(scene.pools, torch.tensor([[0.7, 0.5]]), torch.tensor([0]))
    de, fr, pool = by_pool[0].tolist()
    assert math.isnan(de)
    assert math.isnan(fr)
    assert pool == pytest.approx(0.2, abs=1e-6)


THREE_MARGINS = torch.tensor([[0.1, 0.2, 0.6, 0.05]])  # de, en, fr, all


def test_mono_is_the_margin_in_the_query_s_own_language():
    """Number: language 1 is English. Catches: the mean of the others, 0.35."""
    margin = view_margin(THREE_MARGINS, torch.tensor([1]), "mono")
    assert margin.item() == pytest.approx(0.2)


def test_cross_is_the_mean_margin_over_the_other_languages():
    """Number: (0.1 + 0.6) / 2. Catches: the own language among them, 0.3; the pool too, 0.25."""
    margin = view_margin(THREE_MARGINS, torch.tensor([1]), "cross")
    assert margin.item() == pytest.approx(0.35)


def test_cross_leaves_out_a_language_without_a_margin():
    """Number: without fr, 0.1 / 1. Catches: NaN; NaN counted as 0, 0.05."""
    by_pool = torch.tensor([[0.1, 0.2, math.nan, 0.05]])
    margin = view_margin(by_pool, torch.tensor([1]), "cross")
    assert margin.item() == pytest.approx(0.1)


def test_a_language_without_passages_is_foreign_to_all():
    """Number: -1, no language: mono is NaN, cross (0.1 + 0.2 + 0.6) / 3 = 0.3.

    Catches: -1 read as the last language: mono 0.6, cross 0.15.
    """
    unknown = torch.tensor([-1])
    assert view_margin(THREE_MARGINS, unknown, "mono").isnan()
    assert view_margin(THREE_MARGINS, unknown, "cross").item() == pytest.approx(0.3)


# ---- by slow loops -------------------------------------------------------------------------------


def random_scene(seed):
    """Twelve passages, out of order; six queries: 0 has no other passage in English, 1 no
    relevant one in French, 4 is Italian, as no passage is.
    """
    rng = random.Random(seed)
    passage_langs = rng.sample(LANGS * 4, 12)
    english, not_french = set(), []
    for i, lang in enumerate(passage_langs):
        if lang == "en":
            english.add(i)
        if lang != "fr":
            not_french.append(i)
    gold = [english, set(rng.sample(not_french, 3))]
    for _ in range(4):
        gold.append(set(rng.sample(range(12), rng.randint(1, 5))))
    p = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed))
    query_langs = ["en", "de", "fr", "en", "it", "de"]
    return make_scene(passage_langs, query_langs, gold, p)


def query_vectors(seed):
    """Six random vectors (6, 5)."""
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1000 + seed))


def slow_margin(scene, query, v, langs):
    """Best relevant minus best other score among the passages of these languages, or NaN."""
    relevant, others = [], []
    for i, passage in enumerate(scene.p.tolist()):
        if scene.passage_langs[i] not in langs:
            continue
        score = sum(a * b for a, b in zip(passage, v, strict=True))
        if i in scene.gold[query]:
            relevant.append(score)
        else:
            others.append(score)
    if not relevant or not others:
        return math.nan
    return max(relevant) - max(others)


def slow_view(scene, query, v, view):
    """A view's margin by its definition; NaN where there is none."""
    own_lang = scene.query_langs[query]
    if view == "pool":
        return slow_margin(scene, query, v, LANGS)
    if view == "mono":
        return slow_margin(scene, query, v, [own_lang])
    defined = []
    for lang in LANGS:
        margin = slow_margin(scene, query, v, [lang])
        if lang != own_lang and not math.isnan(margin):
            defined.append(margin)
    if not defined:
        return math.nan
    return sum(defined) / len(defined)


def slow_margins(scene, vectors):
    """All margins of all queries, as attacks.margins has them: de, en, fr, all."""
    table = []
    for query, v in enumerate(vectors.tolist()):
        row = [slow_margin(scene, query, v, [lang]) for lang in LANGS]
        row.append(slow_margin(scene, query, v, LANGS))
        table.append(row)
    return torch.tensor(table)


def slow_views(scene, vectors, view):
    """The view's margins of all queries."""
    values = []
    for query, v in enumerate(vectors.tolist()):
        values.append(slow_view(scene, query, v, view))
    return torch.tensor(values)


def assert_near(actual, expected, tolerance):
    """Equal to so much, NaN where NaN is due."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("seed", range(20))
def test_margins_agree_with_a_slow_loop(seed):
    """Claim: to 2e-6, for they are rounded to 1e-6. Catches: a passage lost at the
    border of two languages; a language without an answer read as a score of 0.
    """
    scene, v = random_scene(seed), query_vectors(seed)
    by_pool = margins(scene.pools, v, torch.arange(6))
    assert_near(by_pool, slow_margins(scene, v), 2e-6)
    assert by_pool[0, 1].isnan(), "query 0 has no other passage in English"
    assert by_pool[1, 2].isnan(), "query 1 has no relevant passage in French"


def test_a_thousand_texts_are_scored_in_blocks_and_none_is_lost():
    """Number: 1200 texts, more than a block of 1024; text i stands in the place of query i % 6.

    Catches: the last block left out, or scored with the first block's queries.
    """
    scene, v = random_scene(0), query_vectors(0)
    by_pool = margins(scene.pools, v.repeat(200, 1), torch.arange(6).repeat(200))
    assert_near(by_pool, slow_margins(scene, v).repeat(200, 1), 2e-6)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", range(10))
def test_the_margin_of_a_view_agrees_with_a_slow_loop(seed, view):
    """Claim: to 2e-6. Catches: cross as a mean over languages without an answer."""
    scene, v = random_scene(seed), query_vectors(seed)
    by_pool = margins(scene.pools, v, torch.arange(6))
    in_view = view_margin(by_pool, scene.pools.query_lang, view)
    assert_near(in_view, slow_views(scene, v, view), 2e-6)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("seed", range(10))
def test_a_vector_along_its_direction_has_the_view_s_margin(seed, view):
    """Claim: v . d = margin, to 1e-5 (float32 sums); where there is none, d is 0.

    Catches: cross as a sum over languages; a language without an answer in the mean; NaN.
    """
    scene, v = random_scene(seed), query_vectors(seed)
    d = directions(scene.pools, v, torch.arange(6), view)
    expected = slow_views(scene, v, view).nan_to_num(0.0)
    assert_near((v * d).sum(1), expected, 1e-5)


# ---- the objective: what an attack on embeddings raises ------------------------------------------

MIXED_VIEWS = ["pool", "mono", "cross", "pool", "mono", "cross"]


class FirstToken:
    """An encoder that returns its first token."""

    def from_embeddings(self, embeddings, batch):
        return embeddings[:, 0]  # (B, T, D) -> (B, D)


def make_objective(scene):
    """The objective for the queries 5, 4, ... 0, each in a view of MIXED_VIEWS."""
    items = []
    for query, view in zip(range(5, -1, -1), MIXED_VIEWS, strict=True):
        items.append(AttackedQuery(query, view, Text("", "", "", ""), []))
    nothing = torch.zeros(6, 2, 5)
    chunk = Chunk(list(range(6)), {}, nothing, torch.ones(6, 2, dtype=torch.bool))
    return MarginObjective(items, chunk, FirstToken(), scene.pools)


def slow_objective(scene, row, v):
    """Minus the margin of the query and view in this row; 0 where there is none."""
    margin = slow_view(scene, 5 - row, v, MIXED_VIEWS[row])
    if math.isnan(margin):
        return 0.0
    return -margin


@pytest.mark.parametrize("seed", range(10))
def test_the_objective_is_minus_the_margin_of_each_query_in_its_own_view(seed):
    """Claim: to 1e-5, with views and queries mixed in one batch. Number: row 1, the Italian query
    in mono, has no margin and is 0.

    Catches: the sign; one view for all; the row of the batch taken for the query's.
    """
    scene, v = random_scene(seed), query_vectors(seed)
    embeddings = torch.stack([v, torch.zeros(6, 5)], 1)  # twice (6, 5) -> (6, 2, 5)
    values = make_objective(scene)(embeddings).tolist()
    for row, vector in enumerate(v.tolist()):
        expected = slow_objective(scene, row, vector)
        assert values[row] == pytest.approx(expected, abs=1e-5)
    assert values[1] == 0.0


def test_the_slope_of_the_objective_agrees_with_finite_differences_of_the_slow_loop():
    """Number: the margin is linear but for kinks, so (f(v + h) - f(v - h)) / 2h is exact but for
    rounding; h = 1e-4, to 1e-5. Catches: vectors that are cut off from the embeddings.
    """
    scene, v = random_scene(1), query_vectors(1)
    embeddings = torch.stack([v, torch.zeros(6, 5)], 1).requires_grad_()
    make_objective(scene)(embeddings).sum().backward()
    for row, vector in enumerate(v.tolist()):
        for i in range(5):
            up, down = list(vector), list(vector)
            up[i] += 1e-4
            down[i] -= 1e-4
            rise = slow_objective(scene, row, up) - slow_objective(scene, row, down)
            slope = embeddings.grad[row, 0, i].item()
            assert slope == pytest.approx(rise / 2e-4, abs=1e-5)
