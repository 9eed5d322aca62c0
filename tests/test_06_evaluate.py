"""Rung 6: vectors become ranks, ranks become metrics, metrics a file that one can trust.

Checks: evaluate.py without its attacks. Before: rungs 0 and 1.
Run: pytest tests/test_06_evaluate.py
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CORPUS, QRELS, QUERIES, ROOT, write_folder
from pytest import approx
from torch import nn

import attacks
import evaluate
from evaluate import (
    CLEAN,
    METRICS,
    VIEWS,
    Condition,
    Options,
    add_metrics,
    array_name,
    chance,
    condition_of,
    encode_split,
    language_bias,
    make_cells,
    measure,
    rank_cells,
    relevant_ranks,
    remove_language,
    select_queries,
)
from xlt import DataSet, Settings, Text, load_data, load_encoder, write_record

NAN = float("nan")
MODEL = ROOT / "data/tiny_xlmr"


class FakeEncoder:
    """An encoder that looks the vector of a text up by its tower and id."""

    def __init__(self, vectors):
        self.vectors = vectors  # (tower, id) -> D numbers
        self.settings, self.precision, self.device = Settings(), "fp32", torch.device("cpu")
        self.tokenizer = SimpleNamespace(unk_token_id=None)  # nothing is unknown to it
        self.texts_cut, self.texts_seen = Counter(), Counter()
        self.model = nn.Linear(1, 1)  # weights whose hash names the model
        nn.init.ones_(self.model.weight)
        nn.init.ones_(self.model.bias)

    def encode(self, texts, tower, bar="", store=None):
        rows = [self.vectors[tower, text.id] for text in texts]
        return torch.tensor(rows, dtype=torch.float32)


def encoder_of(data, query_vectors, passage_vectors):
    """A fake encoder for a data set's queries and passages, in their order."""
    vectors = {}
    for text, vector in zip(data.queries, query_vectors, strict=True):
        vectors["query", text.id] = vector
    for text, vector in zip(data.passages, passage_vectors, strict=True):
        vectors["passage", text.id] = vector
    return FakeEncoder(vectors)


def evaluate_clean(encoder, data, **options):
    """What metrics.json and metrics.npz hold without any attack."""
    adversary = evaluate.open_adversary(Options(**options), data, encoder)
    return evaluate.evaluate(encoder, data, adversary)


def biased_vectors(strength):
    """Vectors of a.en, a.de, b.en, b.de; conftest's four queries come in the same order."""
    return [  # meaning a, meaning b, English, German
        [1, 0, strength, 0],
        [1, 0, 0, strength],
        [0, 1, strength, 0],
        [0, 1, 0, strength],
    ]


def biased_encoder(data, strength):
    """A model with a language bias for the world of four sentences."""
    vectors = biased_vectors(strength)
    return encoder_of(data, vectors, vectors)


def evaluate_biased(folder, strength, **options):
    """metrics.json and metrics.npz of that model."""
    data = load_data(folder)
    return evaluate_clean(biased_encoder(data, strength), data, **options)


def find_record(metrics, view, query_lang, passage_lang):
    """The only record of a cell."""
    cell = (view, query_lang, passage_lang)
    records = []
    for record in metrics["results"]:
        if (record["view"], record["query_lang"], record["passage_lang"]) == cell:
            records.append(record)
    assert len(records) == 1
    return records[0]


# ---- ranks ---------------------------------------------------------------------------------------


def counts_of(scores, relevant, gains, passage_lang, query_lang):
    """What the search counts for one query, (1), and its pools; vectors have one dimension, the
    score. relevant: passages, -1 for padding.
    """
    order = sorted(range(len(scores)), key=passage_lang.__getitem__)  # pools are sorted
    row_of = {passage: row for row, passage in enumerate([*order, -1])}
    langs = sorted(set(passage_lang))
    borders = [sum(lang < other for lang in passage_lang) for other in langs] + [len(scores)]
    number = langs.index(query_lang) if query_lang in langs else -1
    p = torch.tensor([[scores[i]] for i in order] + [[0.0]])
    rows = torch.tensor([[row_of[passage] for passage in relevant]])
    nothing, outside = torch.zeros(1, 0), torch.tensor([len(scores)])
    pools = attacks.Pools(
        p, langs, borders, rows, torch.tensor([gains]), torch.tensor([number]), nothing, outside
    )
    return pools, evaluate.count_others(torch.ones(1, 1), pools, np.array([0]), langs)


def ranks_of(scores, relevant, gains=None):
    """Ranks of one query's relevant passages, and their gains in the same order."""
    if gains is None:
        gains = [1.0] * len(relevant)
    pools, counts = counts_of(scores, relevant, gains, [0] * len(scores), 0)
    ranks, sorted_gains = relevant_ranks(counts.hits, counts.above_in_pool, pools.gains)
    return ranks[0].tolist(), sorted_gains[0].tolist()


def test_ranks_come_best_first_whatever_the_order_of_the_relevant_passages():
    """Number: by eye: passages 1 (.2) and 2 (.7) are relevant and have the ranks 4 and 2.

    Catches: ranks in the order of the qrels, with which precision k / rank_k is wrong.
    """
    ranks, _ = ranks_of([0.9, 0.2, 0.7, 0.5], relevant=[1, 2])
    assert ranks == [2, 4]


def test_a_constant_scorer_gets_the_worst_ranks_among_its_ties():
    """Number: five passages, two relevant, all scores 0: ranks 4 and 5, so MRR is 1/4 and not 1.

    Catches: ties in favour of the relevant passage (a library once gave 1.0).
    """
    ranks, _ = ranks_of([0.0] * 5, relevant=[1, 3])
    assert ranks == [4, 5]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_ties_do_not_depend_on_where_the_relevant_passage_stands(position):
    """Number: one of three tied passages is relevant: rank 3, in the first column and in the last.

    Catches: a stable sort that lets the first column win.
    """
    ranks, _ = ranks_of([1.0] * 3, [position])
    assert ranks == [3]


def test_among_relevant_passages_that_tie_the_smaller_gain_goes_first():
    """Number: gains 3 and 1 at one score: the order 1, 3 is the worse one for nDCG.

    Catches: an nDCG that profits from a tie.
    """
    ranks, gains = ranks_of([0.5, 0.5, 0.1], [0, 1], gains=[3.0, 1.0])
    assert ranks == [1, 2]
    assert gains == [1.0, 3.0]


def test_padding_has_rank_zero_and_comes_last():
    """Number: passage 1 (.2) is third. Catches: -1 read as the last passage (.9) or the first."""
    ranks, gains = ranks_of([0.5, 0.2, 0.9], [-1, 1, -1], gains=[0.0, 2.0, 0.0])
    assert ranks == [3, 0, 0]
    assert gains == [2.0, 0.0, 0.0]


# ---- metrics -------------------------------------------------------------------------------------


def metrics_of(ranks, gains=None):
    """Every metric of one query, from the ranks of its relevant passages (0: padding)."""
    if gains is None:
        gains = [float(rank > 0) for rank in ranks]
    columns = measure(np.array([ranks]), np.array([gains]))
    return {metric: column[0] for metric, column in columns.items()}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mAP", (1 / 1 + 2 / 3 + 3 / 1000) / 3),
        ("mAP@20", (1 / 1 + 2 / 3) / 3),
        ("R@1", 1 / 3),
        ("R@10", 2 / 3),
        ("MRR@10", 1.0),
        ("rank_distance", 999),
        ("first_rank", 1),
    ],
)
def test_metrics_of_ranks_1_and_3_and_1000(metric, expected):
    """Number: three relevant passages; AP is .5566, cut at rank 20 it is .5556.

    Catches: division by the hits that were found, .8333; R@1 of 1 for one of three.
    """
    values = metrics_of([1, 3, 1000])
    assert values[metric] == approx(expected, abs=1e-9)


def test_ndcg_of_a_hand_example():
    """Number: gain 1 at rank 2 and gain 3 at rank 5; the best order has 3 at 1 and 1 at 2:
    (1 / log2 3 + 3 / log2 6) / (3 / log2 2 + 1 / log2 3) = 1.791489 / 3.630930 = .493397.

    Catches: exponential gains, .4375; an ideal order of ones, 1.0984; the log of the rank itself.
    """
    values = metrics_of([2, 5], gains=[1.0, 3.0])
    assert values["nDCG@10"] == approx(0.493397, abs=1e-6)


def test_the_ideal_order_of_ndcg_has_ten_places():
    """Number: eleven relevant passages at ranks 1 to 11 are the best order there is: nDCG 1.

    Catches: eleven places in the ideal and ten in the sum, .9422.
    """
    values = metrics_of(list(range(1, 12)))
    assert values["nDCG@10"] == approx(1.0, abs=1e-12)


def test_mrr_is_zero_when_the_first_hit_lies_below_rank_ten():
    """Number: rank 11. Catches: 1/11, an MRR without its cut."""
    assert metrics_of([11, 12])["MRR@10"] == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_of_a_query_without_relevant_passage_is_nan(metric):
    """Claim: NaN, not 0: the mean leaves it out. Catches: a query that nobody could get right."""
    assert math.isnan(metrics_of([0, 0])[metric])


def test_the_rank_distance_of_a_single_relevant_passage_is_nan():
    """Claim: it has no distance. Catches: 0, which pulls the mean down; 3, that to the padding."""
    assert math.isnan(metrics_of([3, 0])["rank_distance"])


def hits_of(scores, gains):
    """Ranks and gains of the relevant passages after a full sort in which they lose every tie.

    scores: passage -> score; gains: relevant passage -> gain.
    """
    order = sorted(scores, key=lambda passage: (-scores[passage], gains.get(passage, 0)))
    hits, sorted_gains = [], []
    for rank, passage in enumerate(order, 1):
        if passage in gains:
            hits.append(rank)
            sorted_gains.append(gains[passage])
    return hits, sorted_gains


def oracle(scores, gains):
    """Every metric of one query, from a full sort and loops."""
    if not gains:
        return dict.fromkeys(METRICS, NAN)
    hits, sorted_gains = hits_of(scores, gains)
    metrics = dict.fromkeys(METRICS, 0.0)
    gained = best = 0.0
    for i, rank in enumerate(hits):
        metrics["mAP"] += (i + 1) / rank / len(hits)
        if rank <= 20:
            metrics["mAP@20"] += (i + 1) / rank / len(hits)
        if rank <= 10:
            metrics["R@10"] += 1 / len(hits)
            gained += sorted_gains[i] / math.log2(rank + 1)
    for i, gain in enumerate(sorted(gains.values(), reverse=True)):
        if i < 10:
            best += gain / math.log2(i + 2)
    metrics["nDCG@10"] = gained / best
    if hits[0] == 1:
        metrics["R@1"] = 1 / len(hits)
    if hits[0] <= 10:
        metrics["MRR@10"] = 1 / hits[0]
    metrics["rank_distance"] = NAN
    if len(hits) > 1:
        metrics["rank_distance"] = hits[-1] - hits[0]
    return metrics


@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_a_full_sort_of_random_rankings_with_ties(seed):
    """Claim: seven metrics, to 1e-9: the scores are exact, metrics are float64.

    Number: 100 rankings a seed of 2 to 60 passages, gains 1 to 3, scores of four values, padding.
    Catches: ties won, cuts at 9 or 11, gains that do not follow their passages.
    """
    rng = random.Random(seed)
    for _ in range(100):
        size = rng.randint(2, 60)
        scores = [rng.randint(0, 3) / 4 for _ in range(size)]
        count = rng.randint(1, min(size, 12))
        relevant = rng.sample(range(size), count)
        gains = [float(rng.randint(1, 3)) for _ in relevant]
        expected = oracle(dict(enumerate(scores)), dict(zip(relevant, gains, strict=True)))
        ranks, sorted_gains = ranks_of(scores, [*relevant, -1], [*gains, 0.0])
        values = metrics_of(ranks, sorted_gains)
        for metric in METRICS:
            assert values[metric] == approx(expected[metric], abs=1e-9, nan_ok=True), metric


# ---- chance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(7, 1), (12, 4), (30, 11)])
@pytest.mark.parametrize("metric", ["mAP", "R@1", "R@10", "rank_distance"])
def test_chance_is_what_random_rankings_give(sizes, metric):
    """Number: 20,000 shuffles; 5 standard errors of their mean, a false alarm in 1.7 million.

    Catches: R / P in the place of E[AP], which is higher; a gap between two neighbouring ranks.
    """
    passages, relevant = sizes
    expected = chance(passages, relevant)[metric]
    if relevant == 1 and metric == "rank_distance":
        assert expected == 0  # of one rank
        return
    rng = np.random.default_rng(0)
    shuffled = np.argsort(rng.random((20_000, passages)), axis=1)  # (20000, P)
    ranks = np.sort(shuffled[:, :relevant] + 1, axis=1)  # (20000, R)
    drawn = measure(ranks, np.ones(ranks.shape))[metric]
    error = drawn.std() / math.sqrt(20_000)
    assert abs(drawn.mean() - expected) < 5 * error + 1e-12


def evaluate_uneven(folder, qrels):
    """Three English and two German passages, and a model to which all are alike."""
    corpus = [*CORPUS, {"_id": "c.en", "lang": "en", "text": "Snow is white."}]
    data = load_data(write_folder(folder, corpus, QUERIES, qrels))
    encoder = encoder_of(data, [[1.0]] * 4, [[1.0]] * 5)
    metrics, _ = evaluate_clean(encoder, data)
    return metrics


@pytest.mark.parametrize(
    ("view", "metric", "expected"),
    [
        ("mono", "R@1", (1 / 3 + 1 / 2) / 2),
        ("cross", "R@1", 1 / 2),
        ("pool", "R@1", 1 / 5),
        ("pool", "mAP", (0.728333 + 0.456667) / 2),
        ("pool", "rank_distance", 3.0),
    ],
)
def test_chance_of_a_view_is_the_mean_over_its_queries(tmp_path, view, metric, expected):
    """Number: q1.en has two relevant passages of three in English and one of two in German; q1.de
    one in German and none in English, so that cross is q1.en's alone. With H_5 = 2.283333 the AP of
    R = 3 is 2.283333 / 5 + 2 (5 - 2.283333) / 20 = .728333, of R = 1 it is .456667. The rank
    distance is q1.en's, 6 * 2 / 4: one rank has none.

    Catches: candidates of the other language; a query that counts where it has nothing to find.
    """
    qrels = ["q1.en\ta.en\t1", "q1.en\tb.en\t1", "q1.en\ta.de\t1", "q1.de\ta.de\t1"]
    metrics = evaluate_uneven(tmp_path, qrels)
    assert metrics["chance"][view][metric] == approx(expected, abs=1e-6)


def test_a_languages_share_of_the_pool_is_what_a_blind_ranking_shows(tmp_path):
    """Number: 3 of 5 passages are English. Catches: a share of the queries or of the languages."""
    metrics = evaluate_uneven(tmp_path, QRELS)
    assert metrics["own_share"] == {"de": 0.4, "en": 0.6}


# ---- language bias -------------------------------------------------------------------------------


def bias_of(scores, relevant, passage_lang, query_lang):
    """Share of the top ten and foreign rank of one query."""
    rows = bias_rows(scores, relevant, passage_lang, query_lang)
    bias = language_bias(*rows)
    return bias["own_share@10"].item(), bias["foreign_rank"].item()


def bias_rows(scores, relevant, passage_lang, query_lang):
    """What `language_bias` is given for one query, its arguments in their order."""
    gains = [1.0] * len(relevant)
    pools, counts = counts_of(scores, relevant, gains, passage_lang, query_lang)
    is_own = counts.lang == pools.query_lang[:, None]
    return counts.hits, is_own, counts.above_in_pool, counts.own_best, counts.foreign_best


def preferred(scores, relevant, passage_lang, query_lang):
    """What stands first for one query, and whether its own language's answer is preferred."""
    rows = bias_rows(scores, relevant, passage_lang, query_lang)
    hits, is_own, _, own_best, foreign_best = rows
    values = evaluate.first_passage(hits, is_own, own_best, foreign_best)
    (kind,) = [name for name in KINDS if values[name].item() == 1]
    return kind, values["own_preferred"].item()


def test_the_foreign_rank_is_that_of_the_first_relevant_passage_in_another_language():
    """Number: passages 0 (.9), 2 (.7) and 4 (.1) are relevant, 0 is in the query's language. Before
    2 stand 0, 1 (.8) and 3, which ties with it: rank 4.

    Catches: the rank of 0 (1), own answers passed over or ties won (3), padding read as passage 0.
    """
    scores = [0.9, 0.8, 0.7, 0.7, 0.1]
    langs = [0, 0, 1, 1, 2]
    _, rank = bias_of(scores, [0, 2, 4, -1], langs, query_lang=0)
    assert rank == 4


def test_padding_is_no_foreign_passage():
    """Number: passage 0 (.9) is foreign and not relevant, 1 (.8) is relevant and foreign: rank 2.

    Catches: the padding -1 read as passage 0, rank 1.
    """
    _, rank = bias_of([0.9, 0.8, 0.7], [1, -1], [0, 0, 1], query_lang=1)
    assert rank == 2


def test_the_foreign_rank_is_nan_where_no_relevant_passage_is_foreign():
    """Number: the only relevant passage is in the query's language. Catches: the rank of -inf."""
    _, rank = bias_of([0.9, 0.8, 0.7], [1, -1], [1, 0, 1], query_lang=0)
    assert math.isnan(rank)


def test_the_own_share_is_that_of_the_ten_best():
    """Number: of twelve passages the best three and the last two are in the query's language: 3/10.

    Catches: a share of all passages, 5/12.
    """
    scores = [12.0 - i for i in range(12)]
    langs = [1] * 3 + [0] * 7 + [1] * 2
    share, _ = bias_of(scores, [0, 3], langs, query_lang=1)
    assert share == approx(0.3, abs=1e-12)


def test_the_own_share_of_a_small_pool_is_a_share_of_what_is_there():
    """Number: 2 of 5 passages. Catches: division by ten."""
    share, _ = bias_of([0.5, 0.4, 0.3, 0.2, 0.1], [0], [2, 2, 0, 0, 1], query_lang=2)
    assert share == approx(0.4, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_foreign_rank_agrees_with_a_full_sort(seed):
    """Claim: exactly. Number: 60 pools a seed of 1 to 25 passages in three languages, 12 scores.

    Catches: own answers that lose a tie with a foreign one; ties won.
    """
    rng = random.Random(seed)
    for _ in range(60):
        size = rng.randint(1, 25)
        langs = [rng.randint(0, 2) for _ in range(size)]
        scores = [rng.randint(0, 11) / 4 for _ in range(size)]
        relevant = rng.sample(range(size), min(size, 4))
        foreign = {passage: 1.0 for passage in relevant if langs[passage] != 2}
        # Relevant passages in the query's language are like the others here: they win every tie
        hits, _ = hits_of(dict(enumerate(scores)), foreign)
        _, rank = bias_of(scores, [*relevant, -1], langs, query_lang=2)
        assert rank == approx(min(hits, default=NAN), abs=0, nan_ok=True)


KINDS = ("right_own", "right_foreign", "wrong_own", "wrong_foreign")


@pytest.mark.parametrize(
    ("scores", "kind", "own_preferred"),
    [
        ([0.9, 0.8, 0.1, 0.2], "right_own", 1),
        ([0.8, 0.9, 0.1, 0.2], "right_foreign", 0),
        ([0.8, 0.7, 0.9, 0.2], "wrong_own", 1),
        ([0.7, 0.8, 0.2, 0.9], "wrong_foreign", 0),
        ([0.9, 0.9, 0.1, 0.2], "right_own", 1),
        ([0.9, 0.8, 0.9, 0.2], "wrong_own", 1),
        ([0.9, 0.8, 0.9, 0.9], "wrong_own", 1),
        ([0.9, 0.8, 0.1, 0.9], "wrong_foreign", 1),
    ],
)
def test_what_stands_first_is_one_of_four_kinds(scores, kind, own_preferred):
    """Number: passages 0 and 1 are the answer in the query's language and its translation, 2 and 3
    are wrong in its language and in another; by eye. The last four tie: wrong ones go first, then
    the own language.

    Catches: own and foreign exchanged; a tie that is won; two kinds at once; a preference told by
    the first passage instead of the first relevant one.
    """
    assert preferred(scores, [0, 1], [0, 1, 0, 1], query_lang=0) == (kind, own_preferred)


def test_nothing_is_preferred_where_an_answer_has_no_translation():
    """Number: the only relevant passage is in the query's language, and no other passage is.

    Catches: -inf of what is not there compared with a score: a preference of 1 for all.
    """
    kind, own_preferred = preferred([0.9, 0.8, 0.7], [0], [0, 1, 1], query_lang=0)
    assert kind == "right_own"
    assert math.isnan(own_preferred)


# ---- cells and views -----------------------------------------------------------------------------


@pytest.mark.parametrize(("strength", "expected"), [(0.9, 1.0), (1.1, 5 / 6)])
def test_a_language_bias_lowers_the_map_of_the_pool(folder, strength, expected):
    """Number: at .9 both translations lead: AP 1. At 1.1 the other meaning in the query's language
    (score 1.21) comes between them (2.21 and 1): AP (1 + 2/3) / 2 = 5/6.

    Catches: a pool of one language; one relevant passage where there are two.
    """
    metrics, _ = evaluate_biased(folder, strength)
    record = find_record(metrics, "pool", "en", "*")
    assert record["mAP"] == approx(expected, abs=1e-6)


@pytest.mark.parametrize("cell", [("mono", "de", "de"), ("cross", "de", "en")])
def test_a_language_bias_leaves_pools_of_one_language_alone(folder, cell):
    """Number: at 1.1 all candidates have the same language part: AP 1.

    Catches: candidates of all languages in mono or cross.
    """
    metrics, _ = evaluate_biased(folder, 1.1)
    assert find_record(metrics, *cell)["mAP"] == 1.0


def test_the_rank_distance_is_of_the_pool_alone(folder):
    """Number: at 1.1 the translations have the ranks 1 and 3 of the pool; elsewhere there is one.

    Catches: NaN in metrics.json, which is not JSON; 0 in mono and cross.
    """
    metrics, _ = evaluate_biased(folder, 1.1)
    distances = {record["view"]: record["rank_distance"] for record in metrics["results"]}
    assert distances == {"mono": None, "cross": None, "pool": 2.0}


def test_every_pair_of_languages_is_a_cell():
    """Number: queries in Thai and English, passages in German and English: by eye.

    Catches: a mono cell without candidates for Thai; rows of another language.
    """
    cells = make_cells(np.array(["th", "en", "en"]), ["de", "en"])
    rows = [(cell.view, *cell.langs, cell.rows.tolist()) for cell in cells]
    assert rows == [
        ("cross", "en", "de", [1, 2]),
        ("mono", "en", "en", [1, 2]),
        ("pool", "en", "*", [1, 2]),
        ("cross", "th", "de", [0]),
        ("cross", "th", "en", [0]),
        ("pool", "th", "*", [0]),
    ]


def test_views_that_were_not_asked_for_have_no_cell():
    """Number: the pool alone: one cell a query language. Catches: --views without effect."""
    cells = make_cells(np.array(["th", "en"]), ["de", "en"], views=["pool"])
    assert [cell.langs for cell in cells] == [("en", "*"), ("th", "*")]


@pytest.mark.parametrize(
    ("view", "passage_lang", "n_queries", "n_left_out"),
    [
        ("cross", "de", 1, 1),
        ("mono", "en", 2, 0),
    ],
)
def test_a_query_without_relevant_passage_in_a_cell_is_left_out_and_counted(
    tmp_path, view, passage_lang, n_queries, n_left_out
):
    """Number: q1 has no German passage, q2 has one; in English both have one; all are right.

    Catches: a query that counts as wrong where nothing is to be found.
    """
    qrels = [row for row in QRELS if "\ta.de\t" not in row]
    write_folder(tmp_path, qrels=qrels)
    metrics, _ = evaluate_biased(tmp_path, 0.5)
    record = find_record(metrics, view, "en", passage_lang)
    assert (record["n_queries"], record["n_left_out"]) == (n_queries, n_left_out)
    assert record["mAP"] == 1.0


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("mAP", 1 / 2), ("R@1", 1 / 4), ("R@10", 1 / 2), ("nDCG@10", 0.6367), ("MRR@10", 1.0)],
)
def test_a_relevant_passage_that_is_not_there_is_never_found(tmp_path, metric, expected):
    """Claim: it counts in R and in the ideal ranking.

    Number: q1.en has two answers, at ranks 1 and 2 at strength .5, and two that are not there, of
    relevance 1 each: AP = (1/1 + 2/2) / 4; nDCG = (1 + .6309) / (1 + .6309 + .5 + .4307) = .6367.
    Catches: recall 1 of a sampled corpus; a passage that only dilutes nDCG.
    """
    write_folder(tmp_path, qrels=[*QRELS[:2], "q1.en\tx\t1", "q1.en\ty\t1"])
    metrics, _ = evaluate_biased(tmp_path, 0.5)
    assert find_record(metrics, "pool", "en", "*")[metric] == approx(expected, abs=1e-4)


def test_a_missing_passage_has_no_language(tmp_path):
    """Claim: in several languages it counts in the pool of all alone, in one in its pool, too.

    Number: q1.en has one English answer of one; in an English corpus, of two.
    Catches: an AP of 1/2 in every language, ten of which never had that passage.
    """
    missing = "q1.en\tx\t1"
    write_folder(tmp_path, qrels=[QRELS[0], missing])
    metrics, _ = evaluate_biased(tmp_path, 0.5)
    assert find_record(metrics, "mono", "en", "en")["mAP"] == 1.0
    assert find_record(metrics, "pool", "en", "*")["mAP"] == 0.5
    metrics, _ = evaluate_biased(tmp_path, 0.5, langs=["en"])
    assert find_record(metrics, "mono", "en", "en")["mAP"] == 0.5


def test_only_the_languages_asked_for_must_be_known(tmp_path, capsys):
    """Number: the bundled tokenizer knows English and no Amharic, of which there are 20 passages.

    Catches: a model of one language that cannot be evaluated on a folder of eleven.
    """
    amharic = [{"_id": f"am{i}", "lang": "am", "text": "ሰላም ለዓለም " * 9} for i in range(20)]
    write_folder(tmp_path, [*CORPUS, *amharic])
    flags = [str(ROOT / "data/tiny_xlmr"), "--data", str(tmp_path), "--device", "cpu"]
    assert evaluate.main([*flags, "--langs", "en", "de"]) == 0
    assert "unknown to the tokenizer" not in capsys.readouterr().err
    assert evaluate.main(flags) == 1
    assert "tokens are unknown to the tokenizer" in capsys.readouterr().err


def test_a_view_without_candidates_is_told(tmp_path, capsys):
    """Number: of English alone there is no cross, and of both languages there is.

    Catches: an empty column, and nobody knows why.
    """
    write_folder(tmp_path)
    evaluate_biased(tmp_path, 0.5, langs=["en"])
    assert "--views cross: nothing to rank in the languages ['en']" in capsys.readouterr().err
    evaluate_biased(tmp_path, 0.5)
    assert "nothing to rank" not in capsys.readouterr().err


def test_chance_knows_what_cannot_be_found(tmp_path):
    """Number: one answer of two is among four passages: R@1 by chance is 1/2 of 1/4.

    Catches: a chance above what the best ranking could reach.
    """
    write_folder(tmp_path, qrels=[QRELS[0], "q1.en\tx\t1"])
    metrics, _ = evaluate_biased(tmp_path, 0.5)
    assert metrics["chance"]["pool"]["R@1"] == 0.125


def write_self_hits(folder):
    """ArguAna's way: every query is a passage, and has its counter-argument as its answer."""
    corpus = [{"_id": name, "text": name} for name in "abc"]
    queries = [{"_id": "a", "text": "a"}, {"_id": "z", "text": "z"}]
    return load_data(write_folder(folder, corpus, queries, ["a\tb\t1", "z\ta\t1"]))


SELF_VECTORS = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]  # of a, b, c


@pytest.mark.parametrize(
    ("no_self_hits", "expected", "chance_at_1"),
    [(False, 0.75, 1 / 3), (True, 1.0, (1 / 2 + 1 / 3) / 2)],
)
def test_self_hits_can_be_left_out(tmp_path, no_self_hits, expected, chance_at_1):
    """Claim: a query's own text is no candidate for it, and still is one for the others.

    Number: query a finds passage a first, then b, its answer: AP 1/2, or 1 without; z finds a: 1.
    By chance a has two candidates then, z three. Catches: the passage taken out of the corpus, so
    that z finds nothing.
    """
    data = write_self_hits(tmp_path)
    encoder = encoder_of(data, SELF_VECTORS[:1] * 2, SELF_VECTORS)
    metrics, _ = evaluate_clean(encoder, data, no_self_hits=no_self_hits)
    assert find_record(metrics, "pool", "und", "*")["mAP"] == expected
    assert metrics.get("no_self_hits", False) == no_self_hits
    assert metrics["chance"]["pool"]["R@1"] == approx(chance_at_1)


def test_an_adversary_does_not_aim_at_self_hits(tmp_path):
    """Claim: the margin is against the best other candidate. Number: b scores .8, c scores 0; with
    the own text 1.

    Catches: an attack that calls a query broken because it finds itself.
    """
    data = write_self_hits(tmp_path)
    p, q = torch.tensor(SELF_VECTORS), torch.tensor(SELF_VECTORS[:1])
    margins = []
    for self_hits in (True, False):
        pools = attacks.make_pools(p, data, [0, 1], [0, 1, 2], "test", self_hits)
        margins.append(attacks.margins(pools, q, torch.tensor([0]))[0, -1].item())
    assert margins == approx([-0.2, 0.8], abs=1e-6)


def test_trec_files_know_what_is_missing_and_what_is_left_out(tmp_path):
    """Claim: trec_eval counts as we do. Number: a is not in a's run; x is in the qrels.

    Catches: a recall of 1 from files of a corpus that lacks an answer.
    """
    data = write_self_hits(tmp_path)
    data.missing["test"] = {0: {"x": 1.0}}
    encoder = encoder_of(data, SELF_VECTORS[:1] * 2, SELF_VECTORS)
    evaluate_clean(encoder, data, no_self_hits=True, trec=tmp_path / "trec")
    run = (tmp_path / "trec/run.trec").read_text().splitlines()
    assert [line.split()[2] for line in run if line.startswith("a ")] == ["b", "c"]
    assert (tmp_path / "trec/qrels.trec").read_text() == "a 0 b 1\na 0 x 1\nz 0 a 1\n"


def test_a_query_and_a_passage_may_share_an_id(tmp_path):
    """Number: query x0 is answered by passage x0, and so on; a one-hot encoder is perfect: AP 1.

    Catches: equal ids removed from the ranking, as BEIR does.
    """
    corpus = [row | {"_id": f"x{i}"} for i, row in enumerate(CORPUS)]
    queries = [row | {"_id": f"x{i}"} for i, row in enumerate(QUERIES)]
    qrels = [f"x{i}\tx{i}\t1" for i in range(4)]
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    one_hot = np.eye(4).tolist()
    _, arrays = evaluate_clean(encoder_of(data, one_hot, one_hot), data)
    assert arrays[array_name(CLEAN, "pool", "mAP")].tolist() == [1.0] * 4


@dataclass
class World:
    """A data set without a folder, and vectors for its texts."""

    data: DataSet
    query_vectors: list
    passage_vectors: list

    def encoder(self):
        return encoder_of(self.data, self.query_vectors, self.passage_vectors)

    def score(self, query, passage):
        total = 0.0
        for i, value in enumerate(self.query_vectors[query]):
            total += value * self.passage_vectors[passage][i]
        return total

    def oracle(self, query, passage_lang):
        """Every metric of a query among the passages of a language ("*": of all)."""
        relevance = self.data.qrels["test"][query]
        scores, gains = {}, {}
        for i, passage in enumerate(self.data.passages):
            if passage_lang in ("*", passage.lang):
                scores[i] = self.score(query, i)
                if i in relevance:
                    gains[i] = relevance[i]
        return oracle(scores, gains)


PASSAGE_LANGS = ["th"] * 4 + ["de"] * 3 + ["en"] * 5 + ["th"] * 2
QUERY_LANGS = ["th", "en", "fr", "en", "de", "th", "en"]


def random_world(seed, values=(-1, 0, 1)):
    """Passages in three languages, unsorted; queries in one more, French; what is relevant is
    drawn, so that some have nothing in a language. Of whole numbers scores are exact and tie often.
    """
    rng = random.Random(seed)
    passages, queries, qrels = [], [], {}
    for i, lang in enumerate(PASSAGE_LANGS):
        passages.append(Text(f"p{i}", lang, "-", "-"))
    for i, lang in enumerate(QUERY_LANGS):
        queries.append(Text(f"q{i}", lang, "-", f"g{i}"))
        relevant = rng.sample(range(len(passages)), rng.randint(0, 5))
        qrels[i] = {passage: float(rng.randint(1, 3)) for passage in relevant}
    query_vectors = [rng.choices(values, k=3) for _ in queries]
    passage_vectors = [rng.choices(values, k=3) for _ in passages]
    data = DataSet(Path("."), queries, passages, {"test": qrels})
    return World(data, query_vectors, passage_vectors)


@pytest.mark.parametrize("view", VIEWS)
def test_every_cell_agrees_with_nested_loops(view):
    """Claim: seven metrics of every single query, to 1e-9. Number: 20 worlds of 7 queries and 14
    passages in three languages.

    Catches: columns of another language, gains that do not move with their passages, queries of
    another cell, ties won.
    """
    defined = 0
    for seed in range(20):
        world = random_world(seed)
        langs = ["de", "en", "fr", "th"]
        queries = select_queries(world.data, "test", langs)
        split = encode_split(world.encoder(), world.data, "test", queries, langs)
        for cell in split.cells:
            if cell.view != view:
                continue
            values = rank_cells(split.q, split.pools, [cell])[cell.langs]
            for n, query in enumerate(cell.rows):
                expected = world.oracle(query, cell.passage_lang)
                for metric in METRICS:
                    value = values[metric][n]
                    assert value == approx(expected[metric], abs=1e-9, nan_ok=True)
                    defined += not math.isnan(value)
    assert defined > 300, "nothing was relevant"


def close_passages():
    """300 passages that differ by 3e-7, so that rounding decides their order; 60 queries."""
    rng = torch.Generator().manual_seed(0)
    passages, queries, qrels = [], [], {}
    for i in range(300):
        passages.append(Text(f"p{i}", ["de", "en", "th"][i % 3], "-", "-"))
    for i in range(60):
        queries.append(Text(f"q{i}", "de", "-", "-"))
        qrels[i] = dict.fromkeys([3 * i, 3 * i + 1, 3 * i + 2], 1.0)
    noise = torch.randn(300, 128, generator=rng)
    p = torch.randn(1, 128, generator=rng) + 3e-7 * noise  # (P, D)
    q = torch.randn(60, 128, generator=rng)  # (Q, D)
    data = DataSet(Path("."), queries, passages, {"test": qrels})
    return q, attacks.make_pools(p, data, list(range(60)), list(range(300)), "test")


@pytest.mark.parametrize("blocks", [(1, 2048), (7, 7), (512, 1), (3, 3), (512, 99)])
@pytest.mark.parametrize("passage_lang", ["de", "*"])
def test_the_block_size_changes_no_metric(blocks, passage_lang):
    """Claim: bit for bit what one block of all queries and passages of a language gives.

    Number: of 60 queries and 100 passages a language: 1, 3, 7 and 99.
    Catches: fp32 products, which depend on the shape of the block; a last block that is left out.
    """
    q, pools = close_passages()
    for cell in make_cells(np.array(["de"] * 60), pools.langs):
        if cell.passage_lang == passage_lang:
            whole = rank_cells(q, pools, [cell])[cell.langs]
            parts = rank_cells(q, pools, [cell], "", *blocks)[cell.langs]
    assert whole["first_rank"].max() > 50, "nothing was left to rounding"
    for metric in whole:
        np.testing.assert_array_equal(whole[metric], parts[metric])


# ---- single queries ------------------------------------------------------------------------------

# Where each of QUERY_LANGS looks for its answers; there is no French passage
CELLS = {
    "mono": {"de": ["de"], "en": ["en"], "fr": [], "th": ["th"]},
    "cross": {"de": ["en", "th"], "en": ["de", "th"], "fr": ["de", "en", "th"], "th": ["de", "en"]},
    "pool": {"de": ["*"], "en": ["*"], "fr": ["*"], "th": ["*"]},
}


@pytest.mark.parametrize("metric", evaluate.KEPT)
@pytest.mark.parametrize("view", VIEWS)
def test_metrics_of_single_queries_agree_with_nested_loops(view, metric):
    """Claim: in mono and pool a query has one cell, in cross the mean over those languages where it
    has something to find; NaN if there is none. Float32, so to 1e-6.

    Number: seven queries in four languages.
    Catches: the own language in cross, NaN that spreads or counts as 0, rows exchanged.
    """
    world = random_world(12)
    _, arrays = evaluate_clean(world.encoder(), world.data)
    array = arrays[array_name(CLEAN, view, metric)]
    for query, lang in enumerate(QUERY_LANGS):
        values = []
        for passage_lang in CELLS[view][lang]:
            value = world.oracle(query, passage_lang)[metric]
            if not math.isnan(value):
                values.append(value)
        expected = fmean(values) if values else NAN
        assert array[query] == approx(expected, rel=1e-6, nan_ok=True)


def test_a_record_is_the_mean_over_its_queries():
    """Number: English in the pool are the queries 1, 3 and 6; one of them has nothing to find.

    Catches: a sum divided by all queries; records of other rows.
    """
    world = random_world(12)
    metrics, _ = evaluate_clean(world.encoder(), world.data)
    record = find_record(metrics, "pool", "en", "*")
    values = [world.oracle(query, "*")["mAP"] for query in (1, 3, 6)]
    values = [value for value in values if not math.isnan(value)]
    assert record["n_queries"] == len(values) == 2
    assert record["mAP"] == approx(fmean(values), abs=1e-6)


def test_the_arrays_name_the_queries_that_their_rows_stand_for(folder):
    """Claim: id, group and language, in the order of every other array: pairing needs them.

    Number: by eye. Catches: groups in the place of ids, with which translations cannot be told.
    """
    _, arrays = evaluate_biased(folder, 1.1)
    assert arrays["id"].tolist() == ["q1.en", "q1.de", "q2.en", "q2.de"]
    assert arrays["group"].tolist() == ["q1", "q1", "q2", "q2"]
    assert arrays["lang"].tolist() == ["en", "de", "en", "de"]


# ---- LIR -----------------------------------------------------------------------------------------


def lir_world(folder, langs):
    """Vectors of the queries at strength 1.1, and pools of the passages in these languages."""
    data = load_data(folder)
    passages = []
    for i, passage in enumerate(data.passages):
        if passage.lang in langs:
            passages.append(i)
    vectors = torch.tensor(biased_vectors(1.1))
    return vectors, attacks.make_pools(vectors[passages], data, range(4), passages, "test")


def test_lir_takes_the_main_direction_out_and_normalises(folder):
    """Number: English has (1, 0, 1.1) and (0, 1, 1.1), main direction (1, 1, 2.2). Half their
    difference is left, (.5, -.5, 0) and (-.5, .5, 0), of length .7071; with length 1 again it is
    (.7071, -.7071, 0).

    Catches: one direction for all languages; passages alone; vectors left at length .7071.
    """
    q, pools = lir_world(folder, ["de", "en"])
    new_q, new_pools = remove_language(q, pools, 1)
    h = math.sqrt(0.5)
    a = [h, -h, 0, 0]
    b = [-h, h, 0, 0]
    np.testing.assert_allclose(new_q, [a, a, b, b], atol=1e-6)
    passages = new_pools.p[:-1]  # German, then English; the last row is for padding
    np.testing.assert_allclose(passages, [a, b, a, b], atol=1e-6)


def test_lir_takes_the_language_bias_out(folder):
    """Number: 5/6 becomes 1: the bias was all that stood between the translations.

    Catches: an LIR that is computed and not ranked; the clean records replaced by it.
    """
    metrics, _ = evaluate_biased(folder, 1.1, views=["pool"], lir=[1])
    values = [(record["lir"], record["mAP"]) for record in metrics["results"]]
    biased = approx(5 / 6, abs=1e-6)
    assert values == [(0, biased), (0, biased), (1, 1.0), (1, 1.0)]


def test_lir_only_normalises_a_language_without_passages(folder):
    """Number: with English passages alone German queries keep their direction; their length was
    sqrt(1 + 1.21).

    Catches: -1, "not in the pool", read as the last language.
    """
    q, pools = lir_world(folder, ["en"])
    new_q, _ = remove_language(q, pools, 1)
    german = [1, 3]
    expected = q[german] / math.sqrt(2.21)
    np.testing.assert_allclose(new_q[german], expected, atol=1e-6)


def test_lir_leaves_what_it_was_given_alone(folder):
    """Claim: attacks go on with the vectors as they were. Catches: a subtraction in place."""
    q, pools = lir_world(folder, ["de", "en"])
    q, pools.p = q.double(), pools.p.double()  # as they are computed with
    q_before, p_before = q.clone(), pools.p.clone()
    remove_language(q, pools, 1, centred=True)
    assert torch.equal(q, q_before)
    assert torch.equal(pools.p, p_before)


def test_lir_of_all_directions_is_refused(folder):
    """Number: D is 4. Catches: rounding noise, normalised and ranked: a mAP of 1.000."""
    q, pools = lir_world(folder, ["de", "en"])
    with pytest.raises(ValueError, match="--lir 4: vectors have 4 directions. Take 3 at most"):
        remove_language(q, pools, 4)


def test_vectors_that_lir_leaves_no_length_lose_every_tie(folder):
    """Claim: a model that gives all texts one vector has no direction left; the worst ranks follow.

    Number: vectors alike but for fp32's rounding; two of four passages are relevant, at ranks 3 and
    4: AP = (1/3 + 2/4) / 2.
    Catches: the rounding, blown up to length 1: identical texts would find each other.
    """
    data = load_data(folder)
    noise = 1e-7 * torch.eye(4)
    vectors = (torch.ones(4, 4) / 2 + noise).tolist()
    metrics, _ = evaluate_clean(encoder_of(data, vectors, vectors), data, views=["pool"], lir=[1])
    values = [record["mAP"] for record in metrics["results"] if record["lir"] == 1]
    assert values == approx([5 / 12, 5 / 12], abs=1e-6)


def test_centring_takes_the_mean_out_and_normalises(folder):
    """Number: English has (1, 0, 1.1) and (0, 1, 1.1), mean (.5, .5, 1.1). (.5, -.5, 0) and its
    opposite are left, of length .7071. Here it is what LIR leaves, too.

    Catches: the mean of all languages; of passages for themselves and of queries for themselves;
    vectors left at length .7071.
    """
    q, pools = lir_world(folder, ["de", "en"])
    q[0] = q[1]  # other queries have another mean
    new_q, new_pools = remove_language(q, pools, centred=True)
    h = math.sqrt(0.5)
    a, b = [h, -h, 0, 0], [-h, h, 0, 0]
    np.testing.assert_allclose(new_pools.p[:-1], [a, b, a, b], atol=1e-6)
    np.testing.assert_allclose(new_q[1:], [a, b, b], atol=1e-6)


def test_centring_is_another_thing_than_lir():
    """Number: passages (1, 0), (.6, .8) and (0, 1) of one language have the mean (.5333, .6). Of
    (0, 1) there is left (-.5333, .4), with length 1 (-.8, .6).

    Catches: the direction of the mean taken out instead of the mean, which leaves (-.747, .664).
    """
    p = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    empty = torch.zeros(1, 0)
    pools = attacks.Pools(
        p, ["de"], [0, 3], torch.tensor([[0]]), torch.ones(1, 1), torch.tensor([0]), empty,
        torch.tensor([3]),
    )  # fmt: skip
    _, centred = remove_language(torch.tensor([[1.0, 0.0]]), pools, centred=True)
    np.testing.assert_allclose(centred.p[2], [-0.8, 0.6], atol=1e-6)


def test_centring_is_recorded_beside_clean_and_lir(folder):
    """Number: 5/6 becomes 1 under both. Catches: the flag lost on its way; a record that calls
    itself clean."""
    metrics, _ = evaluate_biased(folder, 1.1, views=["pool"], lir=[1], centre=True)
    values = []
    for record in metrics["results"]:
        if record["query_lang"] == "en":
            values.append((record["lir"], record["centred"], record["mAP"]))
    assert values == [(0, False, approx(5 / 6, abs=1e-6)), (1, False, 1.0), (0, True, 1.0)]


# ---- what is evaluated ---------------------------------------------------------------------------


def test_a_limit_takes_the_first_questions_in_all_their_languages(folder):
    """Number: one question: q1 in English and German. Catches: the first query alone."""
    metrics, arrays = evaluate_biased(folder, 1.1, limit=1)
    assert arrays["id"].tolist() == ["q1.en", "q1.de"]
    assert metrics["n_queries"] == 2


def test_a_limit_leaves_the_pool_as_large_as_it_is(folder):
    """Number: all four passages. Catches: a quick look at a task that is easier."""
    metrics, _ = evaluate_biased(folder, 1.1, limit=1)
    assert metrics["n_passages"] == 4


def test_a_form_takes_its_queries_and_leaves_the_pool(folder):
    """Number: q1's two queries are short; all four passages stay. Catches: queries without a form
    taken as well; passages that have none left out.
    """
    path = folder / "queries.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["group"] == "q1":
            row["form"] = "short"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    metrics, arrays = evaluate_biased(folder, 1.1, form="short")
    assert arrays["id"].tolist() == ["q1.en", "q1.de"]
    assert metrics["form"] == "short"
    assert metrics["n_passages"] == 4
    with pytest.raises(ValueError, match=r"--form 'long': .* There are \['', 'short'\]"):
        evaluate_biased(folder, 1.1, form="long")


def test_languages_bound_queries_and_passages(folder):
    """Number: German alone: two queries, two passages. Catches: a pool of all languages still."""
    metrics, arrays = evaluate_biased(folder, 1.1, langs=["de"])
    assert arrays["lang"].tolist() == ["de", "de"]
    assert metrics["n_passages"] == 2
    assert metrics["langs"] == ["de"]


def test_vectors_that_are_not_finite_are_refused(folder):
    """Claim: NaN stops the evaluation. Catches: NaN scores, which compare false and rank first."""
    with pytest.raises(ValueError, match="not finite"):
        evaluate_biased(folder, NAN)


def test_vectors_that_an_attack_makes_not_finite_are_refused_by_its_name(folder):
    """Claim: noise of 1e38 ends the evaluation.

    Number: sums of its squares are beyond fp32. Catches: NaN that ranks first: a mAP of 1.000.
    """
    encoder, data = load_encoder(MODEL), load_data(folder)
    attack = attacks.parse_attack("gaussian:epsilon=1e38")
    with pytest.raises(ValueError, match="gaussian:epsilon=1e.38: the encoder gave .* not finite"):
        evaluate_clean(encoder, data, attacks=[attack])


def test_the_metrics_of_one_passage_are_json(tmp_path, monkeypatch):
    """Claim: no NaN among what is to be written. Number: one query, one passage, six attacks.

    Catches: margins against no other passage, NaN, which `write_record` would turn into null.
    """
    written = []
    monkeypatch.setattr(evaluate, "write_record", lambda path, content: written.append(content))
    write_folder(tmp_path, CORPUS[:1], QUERIES[:1], QRELS[:1])
    names = ["clean", "typos-greedy", "greedy", "exact", "fgm", "uniform", "smoothed:samples=9"]
    flags = ["--data", str(tmp_path), "--table", "neighbours", "--lir", "1"]
    assert evaluate.main([str(MODEL), "--out", str(tmp_path), *flags, "--attacks", *names]) == 0
    assert len(written) == 1
    json.dumps(written, allow_nan=False)


def test_settings_of_the_encoder_are_part_of_the_result(folder):
    """Claim: other lengths give another content. Catches: results known by a path alone."""
    data = load_data(folder)
    encoder = biased_encoder(data, 1.1)
    encoder.settings = Settings(query_length=9)
    metrics, _ = evaluate_clean(encoder, data)
    assert metrics["settings"]["query_length"] == 9


# ---- conditions ----------------------------------------------------------------------------------

TWO_EDITS = (("edits", 2.0),)
LABELS = [
    ("clean", Condition()),
    ("greedy", Condition("greedy")),
    ("greedy:edits=2,k=4", Condition("greedy", (*TWO_EDITS, ("k", 4)))),
    ("greedy:edits=2, control", Condition("greedy", TWO_EDITS, control=True)),
    ("typos, attack seed 3", Condition("typos", attack_seed=3)),
    ("beam:edits=2, control, attack seed 3", Condition("beam", TWO_EDITS, True, 3)),
    ("LIR r=2", Condition(lir=2)),
    ("centring", Condition(centred=True)),
]


@pytest.mark.parametrize(("label", "condition"), LABELS)
def test_a_record_says_in_fields_what_its_queries_went_through(label, condition):
    """Claim: fields() and condition_of are inverse, through JSON and among a record's other keys.

    Number: the table above. Catches: a field that is left out; settings that become lists.
    """
    record = condition.fields() | {"view": "pool", "mAP": 0.5}
    assert condition_of(json.loads(json.dumps(record))) == condition


@pytest.mark.parametrize(("label", "condition"), LABELS)
def test_the_label_of_a_condition_is_for_people(label, condition):
    """Number: the table above, by hand. Catches: "edits=2.0"; a control that nobody can tell."""
    assert condition.label == label


def conditions_of_attacks(texts):
    """The conditions of attacks, with and without control, under two seeds."""
    conditions = []
    for text in texts:
        attack = attacks.parse_attack(text)
        for seed in (0, 3):
            condition = Options(attack_seed=seed).condition(attack)
            conditions.append(condition)
            conditions.append(replace(condition, control=True))
    return conditions


def test_different_conditions_never_share_an_array():
    """Number: clean, LIR with r 1 and 12, six attacks with and without control and seed, centring: 28.

    Catches: a control that overwrites its attack; LIR that overwrites the clean queries.
    """
    texts = ["greedy", "greedy:edits=2", "greedy:edits=0.2", "greedy:k=2", "random", "pgd:norm=max"]
    conditions = [CLEAN, Condition(lir=1), Condition(lir=12), Condition(centred=True)]
    conditions += conditions_of_attacks(texts)
    names = [array_name(condition, "pool", "mAP") for condition in conditions]
    assert len(set(conditions)) == 28
    assert len(set(names)) == 28


def test_conditions_that_differ_in_the_seventh_digit_do_not_share_an_array():
    """Number: two radii, .1234567 and .1234568. Catches: labels with six digits of a number."""
    conditions = conditions_of_attacks(["pgd:epsilon=0.1234567", "pgd:epsilon=0.1234568"])
    names = [array_name(condition, "pool", "mAP") for condition in conditions]
    assert len(set(conditions)) == 8
    assert len(set(names)) == 8


def test_a_language_without_an_answer_is_not_the_least_changed():
    """Number: no German query has an answer in this view; 3 of 4 English ones were changed.

    Catches: "de .000", as if nothing had been changed in German.
    """
    record = {"n_right": 2, "n_broken": 1, "edits": 1.0, "norm": None}
    german = record | {"query_lang": "de", "n_queries": 0, "n_attacked": 0, "n_changed": 0}
    english = record | {"query_lang": "en", "n_queries": 4, "n_attacked": 3, "n_changed": 3}
    assert evaluate.attack_cells([german, english])[-1] == "en .750"
    assert evaluate.attack_cells([german])[-1] == "-"


# ---- metrics.json --------------------------------------------------------------------------------

GREEDY = Condition("greedy")
IDENTITY = {
    "model_sha256": "m",
    "tokenizer_sha256": "v",
    "config_sha256": "c",
    "data_sha256": "d",
    "split": "test",
    "settings": {},
    "langs": ["en"],
    "limit": 0,
    "form": "",
    "no_self_hits": False,
    "precision": "fp32",
}


def small_record(condition, value, view="mono", passage_lang="en"):
    """A record with one metric."""
    cell = {"view": view, "query_lang": "en", "passage_lang": passage_lang}
    return condition.fields() | cell | {"mAP": value}


def add(path, records, arrays=None, **changes):
    """Add records to a metrics.json; return what it holds then."""
    if arrays is None:
        arrays = {}
    new = {"results": records, "examples": [], "chance": {}}
    add_metrics(path, IDENTITY | new | changes, arrays)
    return json.loads(path.read_text())


@pytest.fixture
def path(tmp_path):
    """Where metrics.json is written."""
    return tmp_path / "metrics.json"


def test_another_attack_adds_its_records(path):
    """Number: clean, then greedy: both are there, in this order. Catches: the last run alone."""
    add(path, [small_record(CLEAN, 0)])
    metrics = add(path, [small_record(GREEDY, 1)])
    assert metrics["results"] == [small_record(CLEAN, 0), small_record(GREEDY, 1)]


def test_a_new_record_takes_the_place_of_the_old_one(path):
    """Number: clean 0, greedy 1, clean 2: two records, the second clean one first.

    Catches: two records of one measurement, of which a reader takes the mean.
    """
    add(path, [small_record(CLEAN, 0)])
    add(path, [small_record(GREEDY, 1)])
    metrics = add(path, [small_record(CLEAN, 2)])
    assert metrics["results"] == [small_record(CLEAN, 2), small_record(GREEDY, 1)]


@pytest.mark.parametrize(
    "other",
    [
        small_record(Condition("greedy", TWO_EDITS), 5),
        small_record(Condition("greedy", control=True), 5),
        small_record(Condition("greedy", attack_seed=1), 5),
        small_record(GREEDY, 5, view="pool"),
        small_record(GREEDY, 5, passage_lang="de"),
        small_record(GREEDY, 5) | {"query_lang": "de"},
    ],
)
def test_a_record_that_differs_in_one_field_is_another_one(path, other):
    """Number: strength, control, seed, view, both languages. Catches: a key without one of them."""
    add(path, [small_record(GREEDY, 1)])
    metrics = add(path, [other])
    assert metrics["results"] == [small_record(GREEDY, 1), other]


def test_single_queries_are_added_as_well(path):
    """Number: clean 0, greedy 1, clean 2: the second clean array and the old greedy one.

    Catches: records whose single queries are gone, so that nothing can be paired.
    """
    add(path, [], {"clean": np.array([0])})
    add(path, [], {"greedy": np.array([1])})
    add(path, [], {"clean": np.array([2])})
    arrays = dict(np.load(path.with_suffix(".npz")))
    assert arrays == {"clean": [2], "greedy": [1]}


def test_single_queries_without_records_are_not_taken_over(path):
    """Claim: a metrics.npz without its metrics.json is of nobody knows what.

    Catches: stale queries of another model that are paired with new ones.
    """
    beside = path.with_suffix(".npz")
    np.savez(beside, stale=np.array([1]))
    add(path, [], {"clean": np.array([2])})
    assert np.load(beside).files == ["clean"]


def test_records_are_not_written_when_their_queries_are_not(path, monkeypatch):
    """Claim: the arrays come first. Catches: a full disk that leaves records which count as
    complete and have no single queries."""

    def fail(*args, **arrays):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        add(path, [small_record(CLEAN, 0)])
    assert not path.exists()


@pytest.mark.parametrize("key", list(IDENTITY))
def test_results_of_anything_else_are_refused_and_the_old_file_stays(path, key):
    """Claim: the message names what differs: one of model, data, split, settings, languages, limit.

    Catches: silent overwriting, and a mean over two models or data sets.
    """
    add(path, [small_record(CLEAN, 0)])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"results of another {key}"):
        add(path, [small_record(CLEAN, 1)], **{key: "another"})
    assert path.read_bytes() == before


def test_examples_are_replaced_with_the_records_of_their_condition_and_view(path):
    """Number: examples of greedy in pool and mono and of beam; then greedy in the pool is measured
    again and has no example. Catches: an example of a record that is not there any more; examples
    of another view or attack lost.
    """
    examples = [
        GREEDY.fields() | {"view": "pool"},
        GREEDY.fields() | {"view": "mono"},
        Condition("beam").fields() | {"view": "pool"},
    ]
    add(path, [], examples=examples)
    metrics = add(path, [small_record(GREEDY, 1, "pool")])
    assert metrics["examples"] == examples[1:]


def test_chance_of_a_view_stays_when_another_view_is_added(folder, path, monkeypatch):
    """Number: R@1 by chance is 1/4 in the pool of four; afterwards mono is evaluated.

    Catches: a table with attacked numbers of the pool and no chance beside them.
    """
    data = load_data(folder)
    monkeypatch.setattr(evaluate, "load_encoder", lambda *_: biased_encoder(data, 1.1))
    for options in (Options(views=["pool"]), Options(views=["mono"])):
        evaluate.evaluate_folder(MODEL, data, options, path.parent, "cpu")
    metrics = json.loads(path.read_text())
    assert metrics["chance"]["pool"]["R@1"] == 0.25


@pytest.mark.parametrize(
    ("split", "run_data", "expected"),
    [
        ("test", "d1", "metrics.json"),
        ("dev", "d1", "metrics-xquad_r-dev.json"),
        ("test", "d2", "metrics-xquad_r-test.json"),
    ],
)
def test_only_the_test_split_of_the_runs_data_is_metrics_json(split, run_data, expected):
    """Number: three cases by hand. Catches: numbers of another data set under the main name."""
    data = DataSet(Path("data/xquad_r"), [], [], {}, sha256="d1")
    assert evaluate.metrics_name(data, run_data, split) == expected


def test_data_of_another_name_go_on_in_the_same_file(path):
    """Claim: data are known by their hash. Catches: a second file after `mv data other`."""
    add(path.with_name("metrics-old-dev.json"), [], split="dev")
    for sha256, name in (("d", "metrics-old-dev.json"), ("e", "metrics-new-dev.json")):
        data = DataSet(Path("new"), [], [], {}, sha256=sha256)
        assert evaluate.metrics_file(path.parent, data, "", "dev").name == name


def test_a_folder_without_metrics_is_refused(tmp_path):
    """Claim: the message names the file and what to do. Catches: a FileNotFoundError."""
    with pytest.raises(ValueError, match="metrics.json: no such file. Evaluate"):
        evaluate.read_evaluated(tmp_path)


def write_run(run, **changes):
    """A run.json of train.py, as far as evaluate.py reads it."""
    run.mkdir()
    origin, flags = dict.fromkeys(evaluate.ORIGIN), {"data": "", "eval_data": ""}
    manifest = {"complete": True, "origin": origin, "flags": flags}
    manifest |= {"eval_data_sha256": "x", "model_sha256": "x"}
    write_record(run / "run.json", manifest | changes)
    return run


def test_a_run_that_is_not_complete_is_refused(folder):
    """Claim: the message says how to finish it. Catches: metrics of half a training."""
    run = write_run(folder / "run", complete=False)
    with pytest.raises(ValueError, match="this run is not complete. Finish it"):
        evaluate.evaluate_folder(run, load_data(folder), Options(), None, "cpu")


def test_a_run_of_another_version_of_its_data_is_refused(folder):
    """Number: its data is this folder, but of the hash "x". Catches: questions of yesterday."""
    flags = {"data": str(folder), "eval_data": ""}
    run = write_run(folder / "run", flags=flags)
    with pytest.raises(ValueError, match="made with another version of"):
        evaluate.evaluate_folder(run, load_data(folder), Options(), None, "cpu")


# ---- TREC files ----------------------------------------------------------------------------------


def test_a_trec_run_is_sorted_by_score_and_ties_by_id(folder):
    """Number: with strength 1, q1.de scores a.de 2, a.en and b.de 1, b.en 0.

    Catches: ties in the order of the pool, German first; ranks from 0; the worst first.
    """
    evaluate_biased(folder, 1.0, trec=folder / "trec")
    lines = (folder / "trec/run.trec").read_text().splitlines()
    assert [line for line in lines if line.startswith("q1.de")] == [
        "q1.de Q0 a.de 1 2 xlt",
        "q1.de Q0 a.en 2 1 xlt",
        "q1.de Q0 b.de 3 1 xlt",
        "q1.de Q0 b.en 4 0 xlt",
    ]


def test_trec_qrels_hold_what_can_be_found(folder):
    """Number: in English alone each query has one relevant passage. Catches: German passages that
    are not in the pool and cost half of the recall."""
    evaluate_biased(folder, 1.0, trec=folder / "trec", langs=["en"])
    qrels = (folder / "trec/qrels.trec").read_text()
    assert qrels == "q1.en 0 a.en 1\nq2.en 0 b.en 1\n"


def trec_hits(folder):
    """query -> ranks of its relevant passages, best first, from the two files."""
    rank_of, hits = {}, {}
    for line in (folder / "run.trec").read_text().splitlines():
        query, _, passage, rank, *_ = line.split()
        rank_of[query, passage] = int(rank)
    for line in (folder / "qrels.trec").read_text().splitlines():
        query, _, passage, _ = line.split()
        hits.setdefault(query, []).append(rank_of[query, passage])
    return {query: sorted(ranks) for query, ranks in hits.items()}


@pytest.mark.parametrize("lang", ["de", "en", "fr", "th"])
def test_average_precision_of_the_trec_files_is_that_of_the_records(tmp_path, lang):
    """Claim: what trec_eval would say is what metrics.json says, to 1e-6. Number: the pool of 14
    passages, scores without ties (trec_eval breaks them in its own way).

    Catches: another pool or another order in the files.
    """
    world = random_world(3, values=[math.sqrt(i) for i in range(99)])
    metrics, _ = evaluate_clean(world.encoder(), world.data, trec=tmp_path)
    hits = trec_hits(tmp_path)
    precisions = []
    for query in world.data.queries:
        if query.lang == lang and query.id in hits:
            ranks = hits[query.id]
            precisions.append(fmean((i + 1) / rank for i, rank in enumerate(ranks)))
    record = find_record(metrics, "pool", lang, "*")
    assert record["mAP"] == approx(fmean(precisions), abs=1e-6)


def test_fractional_relevances_are_refused_for_trec(tmp_path):
    """Claim: before the work. Catches: 0.5, which trec_eval reads as 0."""
    write_folder(tmp_path, qrels=["q1.en\ta.en\t0.5"])
    with pytest.raises(ValueError, match="0.5 is the score of 'q1.en', 'a.en'; trec_eval reads"):
        evaluate_biased(tmp_path, 1.0, trec=tmp_path / "trec")


def test_ids_with_blanks_are_refused_for_trec(tmp_path):
    """Claim: the format separates by blanks. Catches: a file that trec_eval reads wrongly."""
    corpus = [CORPUS[0] | {"_id": "a en"}, *CORPUS[1:]]
    qrels = [row.replace("a.en", "a en") for row in QRELS]
    write_folder(tmp_path, corpus, QUERIES, qrels)
    with pytest.raises(ValueError, match="the id 'a en' holds blanks"):
        evaluate_biased(tmp_path, 1.0, trec=tmp_path / "trec")


# ---- numbers and the program ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "metric", "expected"),
    [
        (0.4634, "mAP", ".463"),
        (-0.0123, "", "-.012"),
        (-0.0001, "", ".000"),
        (1.0, "R@1", "1.000"),
        (1495.6, "rank_distance", "1496"),
        (10.54, "foreign_rank", "10.5"),
        (None, "mAP", "-"),
        (NAN, "mAP", "-"),
    ],
)
def test_tables_print_numbers_in_one_way(value, metric, expected):
    """Number: by hand. Catches: "-.000"; the 0 of 10.5 taken for one before the point."""
    assert evaluate.number(value, metric) == expected


def test_a_markdown_table_is_aligned():
    """Number: two columns, by hand. Catches: no rule below the head; widths of the head alone."""
    text = evaluate.markdown_table([["a", "mAP"], ["hybrid", ".5"]])
    assert text.splitlines() == [
        "| a      | mAP |",
        "| ---    | --- |",
        "| hybrid | .5  |",
    ]


def test_the_program_evaluates_the_bundled_model(folder, capsys):
    """Claim: it says what it evaluated, and metrics.json and metrics.npz lie in --out.

    Number: four queries, four passages, six cells. Catches: a program that writes nothing.
    """
    out = folder / "out"
    flags = ["--data", str(folder), "--out", str(out)]
    assert evaluate.main([str(MODEL), *flags]) == 0
    assert "4 queries, 4 passages" in capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(metrics["results"]) == 6
    assert len(np.load(out / "metrics.npz")["id"]) == 4


def test_flags_change_the_settings_of_the_encoder(folder):
    """Claim: each flag of a setting reaches metrics.json; the others stay as saved.

    Number: five flags, each off what the bundled model has; an empty prefix is a prefix.
    Catches: an empty text taken for a flag that was not given.
    """
    flags = ["--data", str(folder), "--out", str(folder / "out"), "--views", "mono"]
    flags += ["--pooling", "cls", "--query-prefix", "", "--passage-prefix", "p: "]
    flags += ["--query-length", "40", "--passage-length", "50"]
    assert evaluate.main([str(MODEL), *flags]) == 0
    settings = json.loads((folder / "out/metrics.json").read_text())["settings"]
    assert Settings(**settings) == Settings("cls", "", "p: ", 40, 50, False)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("nowhere --data FOLDER", 1, "--model nowhere: no such folder"),
        ("MODEL --data nowhere", 1, "no such folder"),
        ("MODEL --data FOLDER --langs xx", 1, "unknown language 'xx'"),
        ("MODEL --data FOLDER --split dev", 1, "dev.tsv: no such file"),
        ("MODEL --data FOLDER --split exam", 2, "invalid choice: 'exam'"),
        ("MODEL --data FOLDER --lir 0", 2, "at least 1"),
        ("MODEL --data FOLDER --limit -1", 2, "--limit -1: must be at least 0"),
        ("MODEL --data FOLDER --langs en eng", 2, "--langs: en is given twice"),
        ("MODEL --data FOLDER --langs German", 2, "unknown language 'German'. Write"),
        ("MODEL --data FOLDER --views pool pool", 2, "--views: pool is given twice"),
        ("MODEL --data FOLDER --attack-views pool pool", 2, "--attack-views: pool is given twice"),
        ("MODEL --data FOLDER --attacks greedy --table en=a en_US=b", 1, "b: a is of 'en', too"),
        ("MODEL --data FOLDER --query-length 1", 2, "--query-length 1: at least 2 tokens"),
        ("MODEL --data FOLDER --query-length 5", 1, "prefix and special tokens take 5"),
        ("MODEL --data FOLDER --device cuda:99", 1, "--device cuda:99: not there ("),
        (
            "MODEL --data FOLDER --device meta --precision bf16",
            1,
            "--precision bf16: meta has none",
        ),
        ("MODEL --data FOLDER --precision fp16", 2, "invalid choice: 'fp16'"),
        ("MODEL --data FOLDER --pooling max", 2, "invalid choice: 'max'"),
        ("", 2, "required"),
    ],
)
def test_wrong_input_exits_with_its_code_and_one_sentence(folder, capsys, flags, code, message):
    """Claim: 1 failed while running, 2 wrong usage. Catches: tracebacks, and 0 after a failure."""
    flags = flags.replace("MODEL", str(MODEL)).replace("FOLDER", str(folder))
    try:
        result = evaluate.main(flags.split())
    except SystemExit as stop:
        result = stop.code
    assert result == code
    assert message in capsys.readouterr().err


def test_an_array_that_damage_hides_is_missed(tmp_path):
    """Number: byte 32 of an entry in a zip file's list is the length of its comment; 64 of them
    cover the next entry. Catches: two of three arrays, each whole by its own checksum.
    """
    path = tmp_path / "metrics.npz"
    np.savez_compressed(path, id=np.arange(3), group=np.arange(3), mono=np.ones(3))
    assert sorted(evaluate.read_arrays(path)) == ["group", "id", "mono"]
    content = bytearray(path.read_bytes())
    last = content.rfind(b"PK\x01\x02")
    content[content.rfind(b"PK\x01\x02", 0, last) + 32] = 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match="metrics.npz: does not open .an array is missing"):
        evaluate.read_arrays(path)


def test_protected_words_that_are_not_utf8_are_refused_by_name(folder, capsys):
    """Number: ß is one byte in Latin-1. Catches: an error that names no file."""
    (folder / "words.txt").write_bytes("Stra\xdfe\n".encode("latin-1"))
    flags = ["--data", str(folder), "--protect", str(folder / "words.txt")]
    assert evaluate.main([str(MODEL), *flags]) == 1
    assert "words.txt: not UTF-8" in capsys.readouterr().err


def test_the_program_says_what_it_left_out_unless_it_is_strict(tmp_path, capsys):
    """Claim: one line a kind, and the count in metrics.json; --strict fails.

    Number: one empty text. Catches: rows that are left out without a word.
    """
    write_folder(tmp_path, [*CORPUS, {"_id": "x", "text": ""}])
    flags = [str(MODEL), "--data", str(tmp_path), "--out", str(tmp_path)]
    assert evaluate.main([*flags, "--strict"]) == 1
    assert evaluate.main(flags) == 0
    assert "left out: 1 texts without words. " in capsys.readouterr().err
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["left_out"] == {"texts without words": 1}
