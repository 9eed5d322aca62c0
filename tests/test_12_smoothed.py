"""Rung 12, part 2 of 2: the smoothed retriever answers by vote, and its certificates hold.

Builds: attacks.close_table, overlap, top_passages, majority, certify, smoothed.
Before: rung 10, part 1. Run: pytest tests/test_12_smoothed.py
"""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bags import Bag, make_item, make_world, pools_of

from attacks import (
    certify,
    close_table,
    draw_set,
    draw_texts,
    majority,
    make_attacked,
    overlap,
    parse_attack,
    smoothed,
    top_passages,
)
from xlt import DataSet, Text

# ---- overlap and closed tables -------------------------------------------------------------------

CLOSED = {"a": ["b", "c"], "b": ["a"], "c": ["a", "b"]}  # P_a = {a, b, c} = P_c, P_b = {a, b}


def test_the_overlap_is_that_of_the_worst_replacement():
    """Number: q_a = min(3/3 for a, 2/3 for b, 3/3 for c). Catches: the best, 1, or the mean."""
    assert overlap("a", CLOSED) == pytest.approx(2 / 3)


def test_the_overlap_is_a_share_of_the_larger_set():
    """Number: q_b = 2/3 for a. Catches: a share of the word's own set, 2/2: a promise that does
    not hold.
    """
    assert overlap("b", CLOSED) == pytest.approx(2 / 3)


def test_a_word_without_replacements_overlaps_fully():
    """Number: P_w = {w}, 1/1. Catches: 0, as if nothing were known."""
    assert overlap("alone", CLOSED) == 1.0


def test_replacements_that_do_not_lead_back_overlap_little():
    """Number: b and c have themselves alone, 1/3. Catches: b's set taken for a's."""
    assert overlap("a", {"a": ["b", "c"]}) == pytest.approx(1 / 3)


def test_the_overlap_does_not_look_at_case():
    """Number: "B" is b: P_a = {a, b} = P_b. Catches: two words in one, 1/2."""
    assert overlap("a", {"a": ["B"], "b": ["A"]}) == 1.0


def test_spellings_of_one_word_are_drawn_as_one():
    """Claim: as in its set, so a slot's draw is uniform over {big, huge}. Number: "huge" is spelt in
    three ways, "big" in one; of 4000 texts half are "huge", with deviation 32, and 160 is five.

    Catches: a draw over four spellings, whose share of "huge" (3/4) the overlap knows nothing of.
    """
    item = make_item(0, "big", {"big": ["huge", "Huge", "HUGE"]})
    texts = draw_texts(item, parse_attack("smoothed:samples=4000"), 0)
    assert set(texts) == {"big", "huge"} == draw_set("big", {"big": ["huge", "Huge"]}, "en")
    assert abs(texts["huge"] - 2000) < 160


ONE_WAY = {"big": ["large", "huge"], "large": ["big"], "city": ["Rome"]}


def test_a_closed_table_leads_back_from_every_replacement():
    """Number: huge -> big, Rome -> city are new, with keys in lower case. Catches: big twice."""
    closed = close_table(ONE_WAY, "en")
    assert closed == {
        "big": ["large", "huge"],
        "large": ["big"],
        "city": ["Rome"],
        "huge": ["big"],
        "rome": ["city"],
    }


def test_closing_a_table_leaves_the_given_one_alone():
    """Claim: the attacks use it as it is. Catches: lists that both tables share."""
    table = {"big": ["large"], "large": ["vast"]}
    closed = close_table(table, "en")
    assert closed["large"] == ["vast", "big"]
    assert table == {"big": ["large"], "large": ["vast"]}


# ---- the vote ------------------------------------------------------------------------------------


def test_the_majority_counts_how_often_a_text_was_drawn():
    """Number: 0, 1, 1 with weights 3, 1, 1: 0 has 3/5. Catches: no weights: 1 with 2/3."""
    winners = majority(torch.tensor([[0], [1], [1]]), [3, 1, 1])
    assert winners == [(0, pytest.approx(0.6))]


def test_each_pool_has_its_own_vote():
    """Number: 7 with 3/4 in one, 5 with 2/4 + 1/4 in the other. Catches: one winner for all."""
    tops = torch.tensor([[7, 5], [8, 5], [7, 6]])
    assert majority(tops, [2, 1, 1]) == [(7, 0.75), (5, 0.75)]


def test_the_top_passages_are_found_in_each_language_and_in_all():
    """Number: v = (1, 0) scores 0.6, 0.8 in German (rows 0, 1), 0.7 in English (row 2); only row 0
    is relevant. Catches: the best relevant passage for the top one.
    """
    pools = pools_of([[0.6, 0.8], [0.8, 0.6], [0.7, 0.7]], ["de", "de", "en"], [{0}])
    tops = top_passages(pools, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert tops.tolist() == [[1, 2, 1]]


def test_a_tie_goes_to_the_passage_that_is_not_relevant():
    """Number: German (1, 0) is relevant, English (1, 0) is not: the pool's top is row 1.

    Catches: the first language wins a tie, and a margin of 0 counts as right.
    """
    pools = pools_of([[1.0, 0.0], [1.0, 0.0]], ["de", "en"], [{0}])
    tops = top_passages(pools, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert tops.tolist() == [[0, 1, 1]]


# ---- the certificate by hand ---------------------------------------------------------------------
# n = 1000 draws, confidence 0.99: the error is sqrt(ln(1 / 0.01) / 2000) = 0.04799

OVERLAPS = [0.9, 0.6, 0.8]


def test_a_certificate_needs_more_than_half_after_all_is_subtracted():
    """Number: 0.95 - 0.048 - (1 - 0.6) = 0.502. Catches: an error of both sides, ln(2 / 0.01):
    0.0515, which leaves 0.4985.
    """
    assert certify(0.95, OVERLAPS, 1, 1000, 0.99)


def test_a_share_that_falls_below_half_is_not_certified():
    """Number: 0.945 - 0.048 - 0.4 = 0.497. Catches: no error, 0.545; the first overlap, 0.797."""
    assert not certify(0.945, OVERLAPS, 1, 1000, 0.99)


def test_two_edits_multiply_the_two_smallest_overlaps():
    """Number: 1 - (1 - 0.6 * 0.8) = 0.48. Catches: 0.6 alone; the first two, 0.54."""
    assert not certify(1.0, OVERLAPS, 2, 0, 0.99)


def test_half_is_no_majority():
    """Number: 0.75 - (1 - 0.75) = 1/2, all exact in binary. Catches: >= for >."""
    assert not certify(0.75, [0.75], 1, 0, 0.99)


def test_a_little_more_than_half_is_a_majority():
    """Number: 0.8125 - 0.25 = 9/16, with fewer slots than edits. Catches: 0.75^3 for one slot."""
    assert certify(0.8125, [0.75], 3, 0, 0.99)


# ---- all draws and all adversaries of a small world ----------------------------------------------


@pytest.fixture(scope="module")
def world():
    return make_world()


def slow_overlaps(world, text):
    """SAFER's q_w of each word by its definition; the larger of two sets is below the line."""
    overlaps = []
    for word in text.split():
        word_set = set(world.draws(word))
        shares = []
        for other in word_set:
            other_set = set(world.draws(other))
            shared = [w for w in word_set if w in other_set]
            shares.append(len(shared) / max(len(word_set), len(other_set)))
        overlaps.append(min(shares))
    return overlaps


def winner(votes):
    """The passage with most votes, and its share."""
    passage = max(votes, key=votes.get)
    return passage, votes[passage]


def test_overlaps_agree_with_a_slow_loop(world):
    """Claim: for all words of 200 queries. Catches: see the overlaps by hand."""
    for text in world.texts:
        overlaps = [overlap(word, world.table, "en") for word in text.split()]
        assert overlaps == pytest.approx(slow_overlaps(world, text))


@dataclass
class Promise:
    """A query of the smoothed retriever, all draws enumerated, and its worst adversary."""

    share: float  # of the clean query's majority
    least: float  # of the same passage, under the worst adversary
    overlaps: list[float]
    certified: bool


@pytest.fixture(scope="module", params=[1, 2])
def edits(request):
    return request.param


@pytest.fixture(scope="module")
def promises(edits, world):
    """Of all queries, against every adversary of one edit or two."""
    promises = []
    for query, text in enumerate(world.texts):
        passage, share = winner(world.vote(text))
        shares = []
        for other in world.reachable(query, edits):
            shares.append(world.vote(other)[passage])
        overlaps = [overlap(word, world.table, "en") for word in text.split()]
        certified = certify(share, overlaps, edits, 0, 0.99)
        promises.append(Promise(share, min(shares), overlaps, certified))
    return promises


def test_no_adversary_takes_more_votes_than_the_bound_allows(promises, edits):
    """Claim: share - (1 - product of the smallest overlaps) <= least, for every query, certified or
    not. Catches: overlaps as a share of the word's own set.
    """
    for promise in promises:
        smallest = sorted(promise.overlaps)[:edits]
        bound = promise.share - (1 - math.prod(smallest))
        assert promise.least >= bound - 1e-9


def test_no_adversary_breaks_a_certified_majority(promises):
    """Claim: it keeps more than half of the draws. Number: some of 200 are certified, some not.

    Catches: the largest overlaps for the smallest; one overlap fewer than edits; none subtracted.
    """
    certified = 0
    for promise in promises:
        if promise.certified:
            assert promise.least > 0.5
            certified += 1
    assert 20 < certified < 180, f"{certified} of 200: vacuous"


# ---- the smoothed retriever ----------------------------------------------------------------------


@dataclass
class Flags:
    """What the smoothed retriever says of 200 queries, in the pool of all."""

    answers: torch.Tensor  # (200, 2, 3): right, certified; in German, English, all
    right: list[bool]
    certified: list[bool]


@pytest.fixture(scope="module")
def flags(world):
    """With 1000 draws a query, against one edit."""
    items = []
    for row, text in enumerate(world.texts):
        items.append(make_item(row, text, world.table))
    pools = pools_of(world.passages, world.passage_langs, world.gold)
    attack = parse_attack("smoothed:edits=1,samples=1000")
    answers = smoothed(world.bag, pools, items, {"en": world.table}, attack, 0)
    right, certified = answers[:, :, 2].bool().T.tolist()
    return Flags(answers, right, certified)


def test_there_are_two_answers_a_query_and_pool(flags):
    """Number: 200 queries; right, certified; de, en, all. Catches: one answer for all pools."""
    assert flags.answers.shape == (200, 2, 3)
    assert flags.answers.unique().tolist() == [0.0, 1.0]
    assert not torch.equal(flags.answers[:, 0, 0], flags.answers[:, 0, 2])


def test_what_is_certified_is_right(flags):
    """Claim: in every pool. Catches: a promise that a wrong passage stays at rank 1."""
    right, certified = flags.answers[:, 0], flags.answers[:, 1]
    assert (certified <= right).all()
    assert certified.sum() > 20, "nothing is certified"


def test_a_certified_query_stays_right_under_every_adversary(flags, world):
    """Claim: with all draws of the changed query counted. Number: more queries are robust than are
    certified, for the bound is not tight. Catches: a promise about a wrong passage.
    """
    robust = 0
    for query in range(200):
        winners = []
        for text in world.reachable(query, 1):
            winners.append(winner(world.vote(text))[0])
        stays_right = all(passage in world.gold[query] for passage in winners)
        assert stays_right or not flags.certified[query]
        robust += stays_right
    assert 20 < sum(flags.certified) < robust < sum(flags.right)


def test_a_clear_vote_decides_whether_a_query_is_right(flags, world):
    """Number: n = 1000 draws, so a share is off by 5 * 0.5 / sqrt(1000) = 0.08 with 6e-7 at most:
    from 0.58 on the exact winner wins. Catches: the clean text's top passage; biased draws.
    """
    clear = unlike_plain = 0
    for query, text in enumerate(world.texts):
        passage, share = winner(world.vote(text))
        if share > 0.58:
            assert flags.right[query] == (passage in world.gold[query])
            clear += 1
            unlike_plain += passage != world.top(text)
    assert clear > 100
    assert unlike_plain > 5, "the plain retriever would do as well"


def test_a_clear_bound_decides_whether_a_query_is_certified(flags, world):
    """Number: the exact share - 0.048 - (1 - smallest overlap) - 1/2; where it is further from 0
    than 0.08 (see above), the flag is known. Catches: a certificate for no edit; a promise about a
    wrong passage; the overlaps of another query.
    """
    clear = 0
    for query, text in enumerate(world.texts):
        passage, share = winner(world.vote(text))
        left = share - 0.04799 - (1 - min(slow_overlaps(world, text))) - 0.5
        if abs(left) > 0.08:
            is_right = passage in world.gold[query]
            assert flags.certified[query] == (left > 0 and is_right)
            clear += 1
    assert clear > 100


def test_without_slots_a_query_is_certified_if_it_is_right(world):
    """Claim: there is one text and no error of sampling. Number: with 2 samples the error would be
    1.07. Catches: an error that is subtracted all the same.
    """
    bare = [make_item(row, text, {}) for row, text in enumerate(world.texts)]
    pools = pools_of(world.passages, world.passage_langs, world.gold)
    answers = smoothed(world.bag, pools, bare, {}, parse_attack("smoothed:samples=2"), 0)
    expected = []
    for text, relevant in zip(world.texts, world.gold, strict=True):
        expected.append(float(world.top(text) in relevant))
    right, certified = answers[:, :, 2].T.tolist()
    assert right == expected
    assert certified == expected


def test_the_certificate_counts_the_replacements_that_are_drawn():
    """Number: a -> b, c and b -> c, d, closed: P_a = {a, b, c}, P_b = {a, b, c, d}, q_a = 3/4. The
    text "a a" is safe from two edits: 1 - 0.048 - (1 - 9/16) = 0.514. So "b b" must be right: it
    is, for 9/16 of its draws hold no d, the one bad word.

    Catches: slots that cut the closed table to k = 2 again: b is drawn from {b, c, d}, 4/9 of the
    draws hold no d, and "b b" is wrong against the promise.
    """
    bag = Bag({"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [1.0, 0.0], "d": [0.0, 9.0]})
    queries = [Text("a a", "en", "a a", ""), Text("b b", "en", "b b", "")]
    data = DataSet(Path(), queries, [], {})
    tables = {"en": close_table({"a": ["b", "c"], "b": ["c", "d"]}, "en")}
    attack = parse_attack("smoothed:k=2,edits=2")
    items = make_attacked(data, [0, 1], ["pool"], attack, tables, 0)
    pools = pools_of([[1.0, 0.0], [0.0, 1.0]], ["en", "en"], [{0}, {0}])
    answers = smoothed(bag, pools, items, tables, attack, 0)
    certified, right = answers[0, 1, 1], answers[1, 0, 1]
    assert certified == 1.0
    assert right == 1.0
