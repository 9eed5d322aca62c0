"""Rung 12: a certificate is a promise; no adversary within its bounds may break it.

Builds: attacks.py, part 4. Before: rungs 10, 11. Run: pytest tests/test_12_certificates.py
"""

import math
import random
import time
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch

import attacks
from attacks import Item, attack_words, certify, close_table, enumerate_all, overlap, parse_attack
from xlt import DataSet, Text, generator

SPOKEN = ["en", "de"] * 5


class Bag:
    """A fake encoder: the unit mean of its words' vectors, `known` or random; each text alone."""

    def __init__(self, known=()):
        self.known, self.texts = dict(known), {}

    def vector(self, text):
        for word in [w for w in text.split() if w not in self.known]:
            own, slot = (torch.randn(4, generator=generator(0, w)) for w in (word, word[:-1]))
            self.known[word] = 0.7 * own + slot  # 12b0: query 12, slot b, word 0
        if text not in self.texts:
            v = torch.stack([self.known[w] for w in text.split()]).sum(0)
            self.texts[text] = torch.nn.functional.normalize(v, dim=0)
        return self.texts[text]

    def encode(self, texts, kind, progress=None):
        return torch.stack([self.vector(t.text) for t in texts])


def item(row, text, table):
    """An item whose slots are the words of the table; spans counted blank by blank."""
    slots, at = [], 0
    for word in text.split():
        slots += [(at, at + len(word), list(table[word]))] if word in table else []
        at += len(word) + 1
    return Item(row, "pool", Text(f"q{row}", "en", text, ""), slots)


def pools(p, spoken, gold):
    """Pools of English queries; spoken[j] is the language of passage j, gold[q] answers q."""
    texts = [[Text("", a, "", "") for a in langs] for langs in (["en"] * len(gold), spoken)]
    data = DataSet(Path(), *texts, {"test": {q: dict.fromkeys(x, 1.0) for q, x in enumerate(gold)}})
    return attacks.make_pools(p, data, [*range(len(gold))], [*range(len(p))], "test")


class World:
    """200 queries of 3 or 4 words, each from a class of 2 to 4: a clique, where all are synonyms of
    all, or a star, where they are of the first alone. Ten passages in two languages.
    """

    def __init__(self, seed=0):
        rng, self.bag, links, self.texts = random.Random(seed), Bag(), {}, []
        self.p = torch.nn.functional.normalize(torch.randn(10, 4, generator=generator(seed)), dim=1)
        for i in range(200):
            words = []
            for slot in "abcd"[: rng.choice([3, 3, 4])]:
                group = [f"{i}{slot}{k}" for k in range(rng.randint(2, 4))]
                linked = group[: rng.choice([1, 4])]  # the star's centre, or the whole clique
                links |= {w: [o for o in group if o != w] for w in linked}
                words.append(rng.choice(group))
            self.texts.append(" ".join(words))
        self.table, self.gold = close_table(links, "en"), []
        self.items = lambda: [item(i, text, self.table) for i, text in enumerate(self.texts)]
        self.draws = lambda word: [word, *self.table[word]]
        for text in self.texts:  # mostly right: the best passage of each language is relevant
            best = [self.top(text, lang) for lang in ("de", "en")]
            self.gold.append(set(best) if rng.random() < 0.8 else set(rng.sample(range(10), 2)))
        self.pools = pools(self.p, SPOKEN, self.gold)

    def top(self, text, lang="*"):
        """The passage at rank 1, among the data's; in a language or in all."""
        scores = (self.p @ self.bag.vector(text)).tolist()
        return max((s, j) for j, s in enumerate(scores) if lang in (SPOKEN[j], "*"))[1]

    def margins(self, q, text):
        """In de, en and all: best relevant - best other score; NaN where one is missing."""
        scores, found = list(enumerate((self.p @ self.bag.vector(text)).tolist())), []
        for lang in ("de", "en", "*"):
            mine = [(j in self.gold[q], s) for j, s in scores if lang in (SPOKEN[j], "*")]
            good, other = ([s for right, s in mine if right is x] for x in (True, False))
            found.append(max(good) - max(other) if good else math.nan)
        return found

    def reachable(self, q, edits):
        """Every text that replaces at most so many words of the query, itself the first."""
        words = self.texts[q].split()
        ways = product(*map(self.draws, words))
        return [" ".join(c) for c in ways if sum(map(str.__ne__, words, c)) <= edits]

    def vote(self, text):
        """The smoothed retriever's exact answers: passage -> share of all draws of the slots."""
        texts = [" ".join(c) for c in product(*map(self.draws, text.split()))]
        return {top: n / len(texts) for top, n in Counter(map(self.top, texts)).items()}

    def overlaps(self, text):
        """SAFER's q_w by the definition, with the larger of the two sets below the line."""
        sets = [[set(self.draws(o)) for o in self.draws(w)] for w in text.split()]  # w's own first
        return [min(len(s[0] & t) / max(len(s[0]), len(t)) for t in s) for s in sets]


@pytest.fixture(scope="module")
def world():
    return World()


def test_the_overlap_is_taken_from_the_worst_replacement_and_the_larger_set():
    """Number: P_a = {a, b, c}, P_b = {b, a}, P_c = {c, a, b}: q_a = min(3/3, 2/3, 3/3) = 2/3 and
    q_b = min(2/2, 2/3) = 2/3; a word without replacements 1. Closing matters: with P_c = {c} it is
    1/3. Catches: |P_w| below the line (q_b = 1, a promise that does not hold), the best w'.
    """
    table = {"a": ["b", "c"], "b": ["a"], "c": ["a", "b"]}
    assert overlap("a", table) == pytest.approx(2 / 3) == overlap("b", table)
    assert overlap("alone", table) == 1 and overlap("a", {"a": ["b", "c"]}) == pytest.approx(1 / 3)


def test_a_closed_table_has_words_on_both_sides():
    """Number: big -> large, huge; large -> big; lower-case keys. Catches: big twice in large's."""
    table = {"big": ["large", "huge"], "large": ["big"], "city": ["Rome"]}
    assert close_table(table, "en") == table | {"huge": ["big"], "rome": ["city"]}
    assert table["large"] == ["big"] and len(table) == 3, "the given table stays"


def test_the_majority_counts_weights_in_each_pool():
    """Number: 0, 1, 1 with weights 3, 1, 1: 0 has 3/5 (unweighted, 1 has 2/3). 5, 5, 6: 4/5."""
    found = attacks.majority(torch.tensor([[0, 5], [1, 5], [1, 6]]), [3, 1, 1])
    assert found == [(0, pytest.approx(0.6)), (5, pytest.approx(0.8))]


@pytest.mark.parametrize(
    ("share", "overlaps", "edits", "samples", "safe"),
    [
        (0.95, [0.9, 0.6, 0.8], 1, 1000, True),  # .95 - .0480 - .4 = .502; two-sided error: .4985
        (0.945, [0.9, 0.6, 0.8], 1, 1000, False),  # .497
        (1.0, [0.9, 0.6, 0.8], 2, 0, False),  # .6 * .8 = .48; .6 alone or .9 * .8 would do
        (0.75, [0.75], 1, 0, False),  # .75 - .25 = 1/2: a tie is no majority
        (0.8125, [0.75], 3, 0, True),  # 1/16 more
    ],
)
def test_a_certificate_subtracts_error_and_overlaps(share, overlaps, edits, samples, safe):
    """Number: error sqrt(ln(1 / 0.01) / 2000) = .047985. Catches: ln(2 / .01), .0515; >= 1/2."""
    assert certify(share, overlaps, edits, samples, 0.99) is safe


def test_a_tie_for_rank_1_goes_to_the_other_passage_across_languages_too():
    """Number: the query (1, 0); relevant de (1, 0), other en (1, 0): de's top is 0, en's and the
    pool's 1. Catches: the first language wins a tie, so that a margin of 0 counts as right.
    """
    both = pools(torch.tensor([[1.0, 0], [1, 0]]), ["de", "en"], [[0]])
    found = attacks.top_passages(both, torch.tensor([[1.0, 0]]), torch.tensor([0]))
    assert found.tolist() == [[0, 1, 1]]


# "a b" with a -> x and b -> y, z: the margin in a language's pool and in the pool of all
BY_HAND = {"a b": (0.5, 0.5), "a y": (0.4, 0.1), "a z": (-0.1, 0.3),
           "x b": (0.2, 0.2), "x y": (0.3, -0.2), "x z": (0.1, 0.0)}  # fmt: skip


def by_hand(pairs):
    for x, text in pairs:
        x.asked.add(text)
    each = torch.tensor([BY_HAND.get(text, (0.5, 0.5)) for _, text in pairs])
    return each, each[:, -1]


@pytest.mark.parametrize(
    ("edits", "ways", "worst", "changed"),
    [
        ("0", 6, [-0.1, -0.2], {(0, 1): "x", (2, 3): "y"}),  # no bound
        ("1", 4, [-0.1, 0.1], {(2, 3): "y"}),  # not "x y"
        ("0.5", 4, [-0.1, 0.1], {(2, 3): "y"}),  # half of two slots
    ],
)
def test_enumeration_finds_the_worst_within_its_bounds(edits, ways, worst, changed):
    """Number: 2 * 3 = 6 texts, 1 + 1 + 2 = 4 with one edit; each pool has its own worst text.
    Catches: a bound ignored, `limit` off by one, one minimum for all pools.
    """
    one, spec = item(0, "a b", {"a": ["x"], "b": ["y", "z"]}), f"exact:edits={edits},limit="
    assert enumerate_all([one], by_hand, parse_attack(f"{spec}{ways - 1}")) == [one]
    assert not one.exhaustive and one.worst is None and not one.asked and not one.edits
    assert enumerate_all([one], by_hand, parse_attack(f"{spec}{ways}")) == []
    assert one.exhaustive and len(one.asked) == ways and one.edits == changed
    assert one.worst.tolist() == pytest.approx(worst)


def test_among_equal_worst_texts_the_one_with_fewest_edits_is_kept():
    """Number: "a y z" and "x b c" are equally bad; the second changes one word, not two."""
    one, worst = item(0, "a b c", {"a": ["x"], "b": ["y"], "c": ["z"]}), ("a y z", "x b c")
    score = lambda pairs: [torch.tensor([text not in worst for _, text in pairs]) * 1.0] * 2
    enumerate_all([one], score, parse_attack("exact"))
    assert one.edits == {(0, 1): "x"}


def test_enumeration_takes_the_time_of_the_combinations_within_its_bounds():
    """Number: six slots of eight options, one edit: 1 + 6 * 8 = 49 texts, in milliseconds.
    Catches: walking through all 9^6 = 531,441 combinations, 1 s here; at ten slots it never ends.
    """
    one = item(0, "a b c d e f", {w: list("ghijklmn") for w in "abcdef"})
    start = time.process_time()
    enumerate_all([one], by_hand, parse_attack("exact:edits=1"))
    assert len(one.asked) == 49 and time.process_time() - start < 0.2


@pytest.mark.parametrize("edits", [1, 2, 4])
def test_no_search_contradicts_the_exact_certificate(world, edits):
    """Claim: for 200 queries the worst margins are a slow loop's, to 2e-6 (margins are rounded to
    1e-6), and none of four searches goes below them; in the view none does worse than exact does.
    Catches: combinations left out; replacements of one search that another does not have.
    """
    bound, items = f":edits={edits}", world.items()
    attack_words(items, world.bag, world.pools, parse_attack("exact" + bound), 0)
    for q, x in enumerate(items):
        slow = torch.tensor([world.margins(q, text) for text in world.reachable(q, edits)])
        torch.testing.assert_close(x.worst, slow.amin(0), rtol=0, atol=2e-6, equal_nan=True)
        assert x.exhaustive and world.margins(q, x.text)[-1] <= slow[:, -1].min() + 2e-6
    safe, broken, missed = [bool(x.worst[-1] > 0) for x in items], 0, 0
    for name in ("random", "greedy", "beam", "backwards"):
        rivals, spec = world.items(), parse_attack(name.replace("backwards", "greedy") + bound)
        attack_words(rivals, world.bag, world.pools, spec, 0)
        if name == "backwards":  # the least important word first
            score = attacks.scorer(world.bag, world.pools)
            orders = [order[::-1] for order in attacks.leave_one_out(rivals, score, spec)]
            attacks.beam_search(rivals, score, spec, orders)
        for q, x in enumerate(rivals):
            text = attacks.substitute(x.source.text, x.edits)
            found, least = world.margins(q, text), items[q].worst.tolist()
            assert not any(a < b - 2e-6 for a, b in zip(found, least, strict=True)), (name, text)
            broken += found[-1] <= 0 < world.margins(q, x.source.text)[-1]
            missed += found[-1] > least[-1] + 1e-3
            assert text in world.reachable(q, edits) and (not safe[q] or found[-1] > 0)
    assert 20 < sum(safe) < 180 and broken > 50 and missed > 50, "nothing to contradict"


@pytest.mark.parametrize("edits", [1, 2])
def test_no_adversary_contradicts_the_smoothed_certificate(world, edits):
    """Claim: for 200 queries and every adversary of so many edits, all draws enumerated: where
    `certify` says so, the majority stays; its bound on the share holds for all queries.
    Catches: overlaps over |P_w|, the largest overlaps instead of the smallest.
    """
    certified = 0
    for q, text in enumerate(world.texts):
        passage, share = max(world.vote(text).items(), key=lambda x: x[1])
        overlaps = [overlap(word, world.table, "en") for word in text.split()]
        assert overlaps == pytest.approx(world.overlaps(text))
        safe = certify(share, overlaps, edits, 0, 0.99)
        least = min(world.vote(t).get(passage, 0) for t in world.reachable(q, edits))
        assert least > 0.5 or not safe, text
        assert least >= share - 1 + math.prod(sorted(overlaps)[:edits]) - 1e-9
        certified += safe
    assert 20 < certified < 180, f"{certified} of 200: vacuous"


def test_the_flags_of_the_smoothed_retriever_are_promises_that_hold(world):
    """Claim: certified <= right; a certified query stays right under every adversary of one edit.
    Number: n = 1000, error .047985; beyond 5 standard errors of a share, 5 * .5 / sqrt(1000) = .08,
    both flags are the exact ones (false alarm 6e-7). Catches: a promise about a wrong passage.
    """
    spec, robust = parse_attack("smoothed:edits=1,samples=1000"), []
    found = attacks.smoothed(world.bag, world.pools, world.items(), {"en": world.table}, spec, 0)
    assert found.shape == (200, 2, 3) and (found[:, 1] <= found[:, 0]).all()
    for q, text in enumerate(world.texts):
        votes = [world.vote(t) for t in world.reachable(q, 1)]
        robust.append(all(max(v, key=v.get) in world.gold[q] for v in votes))
        passage, share = max(world.vote(text).items(), key=lambda x: x[1])
        left = share - 0.047985 - (1 - min(world.overlaps(text))) - 0.5
        right, safe = found[q, :, -1].tolist()
        assert robust[q] >= safe and (share < 0.58 or right == (passage in world.gold[q])), text
        assert abs(left) < 0.08 or safe == (left > 0 and passage in world.gold[q])
    assert 20 < found[:, 1, -1].sum() <= sum(robust) < found[:, 0, -1].sum(), "certified R@1"
    bare = [item(q, text, {}) for q, text in enumerate(world.texts)]  # one text: no error (1.07)
    two = parse_attack("smoothed:samples=2")
    want = [float(world.top(t) in gold) for t, gold in zip(world.texts, world.gold, strict=True)]
    plain = attacks.smoothed(world.bag, world.pools, bare, {}, two, 0)[..., -1]
    assert plain.T.tolist() == [want, want], "without slots certified is right"


def test_the_certificate_counts_the_replacements_that_are_drawn():
    """Number: a -> b, c and b -> c, d; closed, P_a = {a, b, c}, P_b = {a, b, c, d}: q_a = 3/4, and
    1 - 9/16 < 1/2 - .048. If k = 2 cuts P_b to {b, c, d}, the overlap is 2/3, and of "b b" only
    4/9 of the draws are without d, the one bad word. Catches: `find_slots` cutting a closed table.
    """
    bag = Bag({w: torch.tensor([1.0, 0]) for w in "abc"} | {"d": torch.tensor([0, 9.0])})
    data = DataSet(Path(), [Text(t, "en", t, "") for t in ("a a", "b b")], [], {})
    tables = {"en": close_table({"a": ["b", "c"], "b": ["c", "d"]}, "en")}
    spec = parse_attack("smoothed:k=2,edits=2")
    items = attacks.make_items(data, [0, 1], ["pool"], spec, tables, 0)
    two = pools(torch.eye(2), ["en", "en"], [[0], [0]])
    found = attacks.smoothed(bag, two, items, tables, spec, 0)[..., -1]
    assert found[0, 1] <= found[1, 0], "certified for a a, yet b b, two edits away, is wrong"
