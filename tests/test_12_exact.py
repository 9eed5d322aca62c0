"""Rung 12, part 1 of 2: an exact search tries every text; no other search may find a worse one.

Builds: attacks.every_trial, enumerate_all. Before: rungs 10, 11.
Run: pytest tests/test_12_exact.py
"""

import math
import time
from dataclasses import dataclass

import pytest
import torch
from bags import POOLS, World, make_item, make_world, pools_of

from attacks import (
    AttackedQuery,
    Pools,
    Scorer,
    attack_queries,
    beam_search,
    enumerate_all,
    every_trial,
    leave_one_out,
    parse_attack,
)

# ---- by hand -------------------------------------------------------------------------------------

ONE_TWO_THREE = {"a": ["x"], "b": ["x", "y"], "c": ["x", "y", "z"]}


def texts_within(edits):
    """All texts of "a b c" with at most so many edits."""
    item = make_item(0, "a b c", ONE_TWO_THREE)
    return [trial.text for trial in every_trial(item, edits)]


def test_with_one_edit_each_word_is_changed_alone():
    """Number: 1 + 1 + 2 + 3 texts, the clean one first. Catches: the clean text forgotten; one
    option a word.
    """
    assert texts_within(1) == ["a b c", "x b c", "a x c", "a y c", "a b x", "a b y", "a b z"]


def test_with_two_edits_each_pair_of_words_is_changed():
    """Number: 7 + 1 * 2 + 1 * 3 + 2 * 3, all different. Catches: neighbouring words only (15)."""
    texts = texts_within(2)
    assert len(texts) == 18
    assert len(set(texts)) == 18


def test_with_three_edits_all_combinations_are_there():
    """Number: (1 + 1) * (1 + 2) * (1 + 3). Catches: a bound that is one too small (18)."""
    texts = texts_within(3)
    assert len(texts) == 24
    assert texts[-1] == "x y z"


MARGINS = {  # "a b" with a -> x and b -> y, z: the margins in one language and in all
    "a b": (0.5, 0.5),
    "a y": (0.4, 0.1),
    "a z": (-0.1, 0.3),
    "x b": (0.2, 0.2),
    "x y": (0.3, -0.2),
    "x z": (0.1, 0.0),
}


def score_by_hand(pairs):
    """A Scorer that looks the margins up; the view is the pool of all."""
    rows = []
    for item, text in pairs:
        item.asked.add(text)
        rows.append(MARGINS[text])
    in_pools = torch.tensor(rows)
    return in_pools, in_pools[:, 1]


def enumerated(settings):
    """The query "a b" after an exact search with these settings."""
    item = make_item(0, "a b", {"a": ["x"], "b": ["y", "z"]})
    enumerate_all([item], score_by_hand, parse_attack(f"exact:{settings}"))
    return item


def test_without_a_bound_all_six_texts_are_tried():
    """Number: (1 + 1) * (1 + 2). Catches: texts with every word changed alone, 2."""
    item = enumerated("edits=0")
    assert item.asked == set(MARGINS)
    assert item.exhaustive


def test_each_pool_has_its_own_worst_text():
    """Number: -0.1 of "a z" in one language, -0.2 of "x y" in all. Catches: the margins of one text
    for all pools, (0.3, -0.2).
    """
    item = enumerated("edits=0")
    assert item.worst.tolist() == pytest.approx([-0.1, -0.2])


def test_the_edits_are_those_of_the_worst_text_in_the_view():
    """Number: "x y" in the pool of all. Catches: the last text; the first pool's worst, "a z"."""
    item = enumerated("edits=0")
    assert item.edits == {(0, 1): "x", (2, 3): "y"}


def test_a_bound_of_one_edit_is_kept():
    """Number: "x y" and "x z" are out of reach, so 0.1 of "a y" is the worst in all.

    Catches: the bound counted from 0; a certificate for more edits than were allowed.
    """
    item = enumerated("edits=1")
    assert item.asked == {"a b", "a y", "a z", "x b"}
    assert item.worst.tolist() == pytest.approx([-0.1, 0.1])
    assert item.edits == {(2, 3): "y"}


def test_a_bound_below_1_is_a_share_of_the_slots():
    """Number: half of two slots is one. Catches: 0.5 read as no edit at all."""
    item = enumerated("edits=0.5")
    assert item.edits == {(2, 3): "y"}


def test_as_many_texts_as_the_limit_says_are_tried():
    """Number: four texts with one edit, limit 4. Catches: < for <=."""
    assert enumerated("edits=1,limit=4").exhaustive


def test_one_text_above_the_limit_no_text_is_tried_and_nothing_promised():
    """Number: four texts with one edit, limit 3. Catches: a part's minimum as a certificate."""
    item = enumerated("edits=1,limit=3")
    assert not item.exhaustive
    assert item.worst is None
    assert item.asked == set()


def test_a_budget_bounds_the_enumeration_too():
    """Number: four texts, three may be encoded. Catches: a budget that only other searches keep."""
    assert not enumerated("edits=1,budget=3").exhaustive


def test_what_is_above_the_limit_is_handed_back():
    """Claim: these are searched by beam. Number: "a b" has 4 texts, "a" 2, and the limit is 3.

    Catches: all handed back, none, or the wrong ones.
    """
    table = {"a": ["x"], "b": ["y", "z"]}
    long, short = make_item(0, "a b", table), make_item(1, "a", table)

    def score(pairs):
        return torch.zeros(len(pairs), 2), torch.zeros(len(pairs))

    others = enumerate_all([long, short], score, parse_attack("exact:edits=1,limit=3"))
    assert others == [long]
    assert short.exhaustive


def test_among_equal_worst_texts_the_one_with_fewest_edits_is_kept():
    """Number: "a y z" and "x b c" are equally bad; the second changes one word, not two.

    Catches: the last of the equals, texts in the order of a product.
    """
    item = make_item(0, "a b c", {"a": ["x"], "b": ["y"], "c": ["z"]})

    def score(pairs):
        margins = [float(text not in ("a y z", "x b c")) for _, text in pairs]
        return torch.tensor([margins]).T, torch.tensor(margins)

    enumerate_all([item], score, parse_attack("exact"))
    assert item.edits == {(0, 1): "x"}


def test_enumeration_takes_the_time_of_the_texts_within_its_bounds():
    """Number: seven slots of eight options, one edit: 1 + 7 * 8 = 57 texts, in milliseconds.

    Catches: a walk through all 9^7 = 4.8 million combinations, seconds; at ten slots, hours.
    """
    table = {word: list("hijklmno") for word in "abcdefg"}
    item = make_item(0, "a b c d e f g", table)

    def score(pairs):
        item.asked.update(text for _, text in pairs)
        return torch.zeros(len(pairs), 2), torch.zeros(len(pairs))

    start = time.process_time()
    enumerate_all([item], score, parse_attack("exact:edits=1"))
    assert time.process_time() - start < 0.5
    assert len(item.asked) == 57


# ---- against other searches ----------------------------------------------------------------------

VIEWS = ["mono", "cross", "pool"]  # of the queries 0, 1, 2, and again
POOL_OF_VIEW = {"mono": "en", "cross": "de", "pool": "*"}  # all queries are English
RIVALS = ["random", "greedy", "beam", "backwards"]


@dataclass
class Duel:
    """200 queries after an exact search and after others, all within the same bound."""

    world: World
    pools: Pools
    edits: int
    exact: list[AttackedQuery]
    rivals: list[list[AttackedQuery]]  # for each of RIVALS its items

    def every_rival(self):
        """Yield the query, its exact item, and a rival's item of it."""
        for items in self.rivals:
            for query, rival in enumerate(items):
                yield query, self.exact[query], rival


def fresh_items(world):
    """The world's queries, not yet attacked, in the three views by turns."""
    items = []
    for row, text in enumerate(world.texts):
        items.append(make_item(row, text, world.table, VIEWS[row % 3]))
    return items


def search(world, pools, name, edits):
    """The items after a search; "backwards" is greedy with the least important word first."""
    items = fresh_items(world)
    if name != "backwards":
        attack_queries(items, world.bag, pools, parse_attack(f"{name}:edits={edits}"), 0)
        return items
    attack = parse_attack(f"greedy:edits={edits}")
    score = Scorer(world.bag, pools)
    orders = [order[::-1] for order in leave_one_out(items, score, attack)]
    beam_search(items, score, attack, orders)
    return items


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module", params=[1, 2, 4])
def duel(request, world):
    """All searches with at most 1, 2 or 4 edits; 4 are all words."""
    edits = request.param
    pools = pools_of(world.passages, world.passage_langs, world.gold)
    exact = search(world, pools, "exact", edits)
    rivals = [search(world, pools, name, edits) for name in RIVALS]
    return Duel(world, pools, edits, exact, rivals)


def new_text(item):
    """The text with its edits, put in word by word."""
    words, start = [], 0
    for word in item.source.text.split():
        end = start + len(word)
        words.append(item.edits.get((start, end), word))
        start = end + 1
    return " ".join(words)


def slow_margins(world, query, text):
    """In German, English and all."""
    return [world.margin(query, text, lang) for lang in POOLS]


def margin_in_view(world, item, text):
    """The margin that an item's search lowers."""
    return world.margin(item.query, text, POOL_OF_VIEW[item.view])


def test_the_certificate_is_the_smallest_margin_of_all_texts_within_reach(duel):
    """Claim: a slow loop's, to 2e-6, for margins are rounded to 1e-6; NaN where one is missing.

    Catches: combinations left out; the view's margin in the place of a pool's.
    """
    for query, item in enumerate(duel.exact):
        margins = []
        for text in duel.world.reachable(query, duel.edits):
            margins.append(slow_margins(duel.world, query, text))
        smallest = torch.tensor(margins).amin(0)
        assert item.exhaustive
        torch.testing.assert_close(item.worst, smallest, rtol=0, atol=2e-6, equal_nan=True)


def test_the_exact_search_reaches_the_worst_text_of_its_view(duel):
    """Claim: to 2e-6. Catches: the largest margin; the worst in another view."""
    checked = 0
    for query, item in enumerate(duel.exact):
        reachable = duel.world.reachable(query, duel.edits)
        margins = [margin_in_view(duel.world, item, text) for text in reachable]
        if not math.isnan(margins[0]):
            assert margin_in_view(duel.world, item, new_text(item)) <= min(margins) + 2e-6
            checked += 1
    assert checked > 150, "most margins are undefined"


def test_every_search_stays_within_reach(duel):
    """Claim: no rival has replacements or edits that the exact search did not try.

    Catches: one edit too many.
    """
    for query, _, rival in duel.every_rival():
        assert new_text(rival) in duel.world.reachable(query, duel.edits)


def test_no_search_goes_below_the_certificate(duel):
    """Claim: in no pool, by more than 2e-6. Catches: a certificate of a smaller bound, or of a part
    of the texts; a certificate taken from the search's own text.
    """
    not_the_worst = 0
    for query, exact, rival in duel.every_rival():
        margins = slow_margins(duel.world, query, new_text(rival))
        for margin, worst in zip(margins, exact.worst.tolist(), strict=True):
            assert math.isnan(worst) or margin >= worst - 2e-6
        not_the_worst += margins[2] > exact.worst[2] + 1e-3
    assert not_the_worst > 50, "all searches are exact here"


def test_no_search_breaks_what_is_certified(duel):
    """Claim: a margin above 0 is a promise. Number: some queries are certified and some not, and
    more than 30 were broken by a rival.

    Catches: a promise that is given for the clean text alone.
    """
    certified = broken = 0
    for _, exact, rival in duel.every_rival():
        worst = exact.worst[POOLS.index(POOL_OF_VIEW[exact.view])]
        margin = margin_in_view(duel.world, rival, new_text(rival))
        clean = margin_in_view(duel.world, rival, rival.source.text)
        if worst > 0:
            assert margin > 0
            certified += 1
        broken += margin <= 0 < clean
    assert 80 < certified < 720, f"{certified} of 800"
    assert broken > 30, "nothing was broken"


# ---- through attack_queries ----------------------------------------------------------------------


def test_a_query_with_nothing_to_replace_is_certified_as_it_is(world):
    """Claim: one text, the clean one. Catches: queries without slots left out of certified R@1."""
    pools = pools_of(world.passages, world.passage_langs, world.gold)
    item = make_item(3, world.texts[3], {})
    attack_queries([item], world.bag, pools, parse_attack("exact"), 0)
    assert item.exhaustive
    assert item.worst.tolist() == pytest.approx(slow_margins(world, 3, world.texts[3]), abs=2e-6)


def test_above_the_limit_a_query_is_searched_by_beam(world):
    """Claim: it gets edits, but no certificate. Catches: the query left clean, as if robust."""
    pools = pools_of(world.passages, world.passage_langs, world.gold)
    items = fresh_items(world)
    attack_queries(items, world.bag, pools, parse_attack("exact:limit=1"), 0)
    changed = sum(item.text != item.source.text for item in items)
    assert changed > 150, "the search did nothing"
    assert not any(item.exhaustive for item in items)
    assert all(item.worst is None for item in items)
