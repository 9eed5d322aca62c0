"""Rung 10: an adversary searches for the worst query.

Builds: sections 5 to 7, 9 and 11 of attacks.py. Before: rungs 1 and 9.
Run: pytest tests/test_10_search.py
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import attacks
from attacks import (
    AttackedQuery,
    Slot,
    attack_queries,
    control_queries,
    make_attacked,
    make_pools,
    margins,
    parse_attack,
    view_margin,
)
from xlt import DataSet, Encoder, Settings, Text, load_encoder

VIEWS = ["mono", "cross", "pool"]


# ---- the goal: one margin a ranking --------------------------------------------------------------


def make_data(query_langs, passage_langs, relevant):
    """Texts that are nothing but their languages. relevant: query -> passage -> relevance"""
    queries = [Text(f"q{i}", lang, "", "") for i, lang in enumerate(query_langs)]
    passages = [Text(f"p{i}", lang, "", "") for i, lang in enumerate(passage_langs)]
    return DataSet(Path(), queries, passages, {"test": relevant})


SCORES = [  # of five passages for the vector (1, 0)
    ("fr", 0.2),
    ("de", 0.5),
    ("fr", 0.9),
    ("de", 0.4),
    ("de", 0.1),
]
RELEVANT = {
    0: {3: 2.0, 0: 1.0, 5: 1.0},  # of a German query: de .4, fr .2 and one that no pool holds
    1: {2: 1.0},  # of a French one: fr .9
    2: {1: 1.0, 3: 1.0, 4: 1.0},  # of an Italian one: all that is German
}


@pytest.fixture
def five():
    """The pools of the five passages above, in German and French."""
    langs = [lang for lang, _ in SCORES]
    data = make_data(["de", "fr", "it"], [*langs, "fr"], RELEVANT)
    p = torch.tensor([[score, 1.0] for _, score in SCORES])
    queries, passages = [0, 1, 2], [0, 1, 2, 3, 4]
    return make_pools(p, data, queries, passages, "test")


def test_passages_are_sorted_by_language_and_the_last_row_is_padding(five):
    """Number: de .5, .4, .1, then fr .2, .9, each language in the order that was given.

    Catches: vectors that are left in their old order; no row for the padding.
    """
    first_column = five.p[:, 0].tolist()
    assert first_column == pytest.approx([0.5, 0.4, 0.1, 0.2, 0.9, 0.0])
    assert five.langs == ["de", "fr"]


def test_a_language_has_its_rows(five):
    """Number: three German ones, two French ones. Catches: padding as a French row."""
    assert five.start_end("de") == (0, 3)
    assert five.start_end("fr") == (3, 5)
    assert five.start_end("*") == (0, 5)


def test_the_relevant_passages_of_a_query_are_rows_of_the_sorted_ones(five):
    """Number: de .4 is row 1, fr .2 row 3, and row 5 is padding, of no gain.

    Catches: positions of the data set taken for rows; a passage outside of the pool.
    """
    german, french, italian = five.relevant.tolist()
    assert german == [1, 3, 5]
    assert french == [4, 5, 5]
    assert italian == [0, 1, 2]
    assert five.gains.tolist()[0] == [2, 1, 0]


def test_a_query_knows_the_place_of_its_language(five):
    """Number: no passage is Italian. Catches: a place in the languages of queries."""
    assert five.query_lang.tolist() == [0, 1, -1]


def margins_of(pools, query, x=1.0):
    """A query's margins when its vector is (x, 0)."""
    v = torch.tensor([[x, 0.0]])
    return margins(pools, v, torch.tensor([query]))[0].tolist()


def test_a_margin_is_the_best_relevant_minus_the_best_other_score(five):
    """Number: de .4 - .5, fr .2 - .9, and of all .4 - .9. To 1e-6.

    Catches: the sign; the worst or the mean of the two languages taken for the margin of all.
    """
    assert margins_of(five, 0) == pytest.approx([-0.1, -0.7, -0.5], abs=1e-6)


def test_there_is_no_margin_where_nothing_or_all_is_relevant(five):
    """Number: the French query has no German answer, the Italian one no German rival. But in the
    pool of all there are both: .9 - .5 and .5 - .9.

    Catches: infinity, with which a mean of margins says nothing.
    """
    nan = math.nan
    assert margins_of(five, 1) == pytest.approx([nan, 0.7, 0.4], abs=1e-6, nan_ok=True)
    assert margins_of(five, 2) == pytest.approx([nan, nan, -0.4], abs=1e-6, nan_ok=True)


def test_margins_are_rounded_to_six_decimals(five):
    """Number: .12345678 * (.4 - .9) is -.06172839, rounded -.061728, to 1e-8.

    Catches: no rounding (4e-7 off), by which the shape of a batch decides between equal texts.
    """
    assert margins_of(five, 0, 0.12345678)[-1] == pytest.approx(-0.061728, abs=1e-8)


@pytest.mark.parametrize(
    ("query_lang", "view", "expected"),
    [
        (1, "mono", 0.4),
        (1, "cross", 0.5),
        (1, "pool", 0.05),
        (2, "cross", 0.25),
        (-1, "mono", math.nan),
        (-1, "cross", 1.4 / 3),
    ],
)
def test_a_view_has_the_margin_of_its_languages(query_lang, view, expected):
    """Number: margins .1, .4, .9 by language, .05 in all: mono .4, cross (.1 + .9) / 2; for the
    last language (.1 + .4) / 2; in a language of no passages all three are cross.

    Catches: the pool of all counted as a language; -1 read as the last language.
    """
    rows = torch.tensor([[0.1, 0.4, 0.9, 0.05]])
    result = view_margin(rows, torch.tensor([query_lang]), view)
    assert result.tolist() == pytest.approx([expected], abs=1e-6, nan_ok=True)


def test_a_language_without_an_answer_has_no_say_in_the_cross_view():
    """Number: of .1, none and .9 the first two are cross: .1. Catches: NaN for all; a mean by 2."""
    rows = torch.tensor([[0.1, math.nan, 0.9, 0.05]])
    result = view_margin(rows, torch.tensor([2]), "cross")
    assert result.tolist() == pytest.approx([0.1])


def random_world(seed):
    """Twelve passages in three languages, out of order; six queries. -> data, p (P, D), v (Q, D)

    Query 0 has no English rival, query 1 no French answer, query 4 a language of no passage.
    """
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(12, generator=rng).tolist()
    langs = [["fr", "en", "de"][i % 3] for i in order]
    relevant = {}
    for query in range(6):
        count = int(torch.randint(1, 6, (), generator=rng))
        chosen = torch.randperm(12, generator=rng)[:count].tolist()
        if query == 0:
            chosen = [i for i in range(12) if langs[i] == "en"]
        if query == 1:
            chosen = [i for i in range(5) if langs[i] != "fr"]
        relevant[query] = dict.fromkeys(chosen, 1.0)
    data = make_data(["en", "de", "fr", "en", "it", "de"], langs, relevant)
    p = torch.randn(12, 5, generator=rng)
    v = torch.randn(6, 5, generator=rng)
    return data, p, v


def pools_of_all(data, p):
    """The pools of all queries and passages of a random world."""
    return make_pools(p, data, list(range(6)), list(range(12)), "test")


def dot(x, y):
    """The inner product, by hand."""
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def slow_margin(scores, langs, relevant, wanted):
    """Best relevant - best other score among the passages of the wanted languages, or NaN."""
    best_relevant, best_other = -math.inf, -math.inf
    for i, score in enumerate(scores):
        if langs[i] in wanted and i in relevant:
            best_relevant = max(best_relevant, score)
        elif langs[i] in wanted:
            best_other = max(best_other, score)
    margin = best_relevant - best_other
    return margin if math.isfinite(margin) else math.nan


@pytest.mark.parametrize("seed", range(10))
def test_margins_agree_with_nested_loops(seed):
    """Claim: in each language and in all, to 2e-6, as they are rounded. Number: 10 worlds.

    Catches: padding that is scored; vectors and queries out of step.
    """
    data, p, v = random_world(seed)
    langs = [passage.lang for passage in data.passages]
    rows = margins(pools_of_all(data, p), v, torch.arange(6)).tolist()
    for query, row in enumerate(rows):
        vector = v[query].tolist()
        scores = [dot(passage, vector) for passage in p.tolist()]
        relevant = data.qrels["test"][query]
        expected = []
        for wanted in ("de", "en", "fr", "de en fr"):
            expected.append(slow_margin(scores, langs, relevant, wanted.split()))
        assert row == pytest.approx(expected, abs=2e-6, nan_ok=True)


def test_a_text_has_the_same_margin_among_many():
    """Number: 1200 texts are more than one block of them. Catches: queries of another block."""
    data, p, v = random_world(0)
    pools, queries = pools_of_all(data, p), torch.arange(6)
    alone = margins(pools, v, queries)
    many = margins(pools, v.repeat(200, 1), queries.repeat(200))
    expected = alone.repeat(200, 1)
    assert torch.equal(many.isnan(), expected.isnan())
    assert (many - expected).nan_to_num(0).abs().max() < 2e-6


# ---- how much may be changed ---------------------------------------------------------------------


def query_of(n_slots):
    """A query with so many words that may be changed."""
    slots = [Slot(i, i + 1, ("x",)) for i in range(n_slots)]
    return AttackedQuery(0, "pool", Text("q", "en", "a" * n_slots, "q"), slots)


@pytest.mark.parametrize(
    ("bound", "count"),
    [
        (0, 3),
        (1, 1),
        (2, 2),
        (5, 3),
        (0.33, 1),
        (0.34, 2),
        (0.99, 3),
    ],
)
def test_a_bound_is_a_number_of_words_or_a_share_of_them(bound, count):
    """Number: of 3 words 0.34 is 1.02, rounded up to 2. Catches: 0 read as none; rounding down,
    by which a share of 1/4 changes nothing.
    """
    assert query_of(3).most_edits(bound) == count


def test_a_share_is_not_rounded_up_by_the_last_bit_of_a_float():
    """Number: 0.07 * 100 is 7.000000000000001. Catches: math.ceil alone, which gives 8."""
    assert query_of(100).most_edits(0.07) == 7


# ---- searches by hand ----------------------------------------------------------------------------

WEIGHTS = {
    "red": 0.1,
    "rose": 0.3,
    "rust": 0.5,
    "big": 0.0,
    "wide": 0.2,
    "old": 0.4,
    "aged": 1.0,
    "new": 0.0,
    "even": 0.4,
}
SWAPS = {"red": ["rose", "rust"], "big": ["wide"], "old": ["aged"]}


class Scales:
    """A fake encoder, which weighs words: a text is (1, sum of its weights). It keeps a list."""

    settings = Settings()

    def __init__(self):
        self.encoded = []

    def encode(self, texts, tower, bar=""):
        vectors = []
        for text in texts:
            self.encoded.append(text.text)
            words = text.text.split()
            vectors.append([1.0, sum(WEIGHTS[word] for word in words)])
        return torch.tensor(vectors)


@dataclass
class Search:
    """What an attack on "red big old" has found, and which texts it had encoded."""

    item: AttackedQuery
    encoded: list[str]


def red_big_old(answer=""):
    """A data set of one query and two passages, and their pools.

    The relevant passage is (1, 0), the other (0, 1): a text's margin is 1 - its weight.
    """
    data = make_data(["en"], ["en", "en"], {0: {0: 1.0}})
    data.queries[0] = Text("q", "en", "red big old", "q", answer=answer)
    return data, make_pools(torch.eye(2), data, [0], [0, 1], "test")


def search(attack_text, answer="", fixed=frozenset(), table=SWAPS):
    """Attack "red big old" in two views; all is English, so that they hold the same passages."""
    attack, encoder = parse_attack(attack_text), Scales()
    data, pools = red_big_old(answer)
    tables, views = {"en": table}, ["mono", "pool"]
    items = make_attacked(data, [0], views, attack, tables, 0, fixed)
    attack_queries(items, encoder, pools, attack, 0)
    mono, pool = items
    assert mono.text == pool.text
    assert mono.asked == pool.asked
    # The last one is the result, which is encoded once more to be ranked
    assert encoder.encoded[-1] == pool.text
    return Search(pool, encoder.encoded[:-1])


def test_greedy_changes_first_the_word_that_is_missed_most():
    """Number: 1 - .5 = .5; without red, big, old .6, .5 and .9: big is first. Its one option,
    wide, gives .3, and the one edit is spent (rust would give .1).

    Catches: the least important word first.
    """
    assert search("greedy:edits=1").item.text == "red wide old"


def test_greedy_goes_on_as_far_as_the_edits_reach():
    """Number: wide .3; then red: rose .1, rust -.1; then aged -.7. A share of .34 is two words.

    Catches: the first replacement that hurts, rose, instead of the worst; one word for all.
    """
    assert search("greedy:edits=0.34").item.text == "rust wide old"
    assert search("greedy").item.text == "rust wide aged"


def test_a_beam_of_two_finds_what_greedy_misses():
    """Number: {wide .3, nothing .5}, then from nothing rust, .1. Catches: a beam of one; one that
    keeps the best texts instead of the worst.
    """
    assert search("beam:edits=1,width=2").item.text == "rust big old"


def test_exact_finds_the_worst_text_of_all():
    """Number: with one edit aged, -.1, which neither finds; with two, rust and aged, -.5.

    Catches: greedy under another name.
    """
    assert search("exact:edits=1").item.text == "red big aged"
    assert search("exact:edits=2").item.text == "rust big aged"


@pytest.mark.parametrize("name", ["greedy", "beam", "exact"])
def test_a_word_is_kept_where_no_replacement_hurts(name):
    """Number: new weighs less than old, which helps, and even as much. Catches: a search that
    must change something; a tie that ends in an edit.
    """
    result = search(name, table={"old": ["new", "even"]})
    assert result.item.text == "red big old"
    assert result.item.attacked and not result.item.changed


def test_among_equals_the_first_replacement_wins():
    """Number: even and old weigh .4 both. Catches: the last of equals, or any of them."""
    assert search("greedy", table={"big": ["even", "old"]}).item.text == "red even old"
    assert search("greedy", table={"big": ["old", "even"]}).item.text == "red old old"


def test_identity_changes_nothing_and_asks_nothing():
    """Catches: a clean text that is encoded and counted as a call."""
    result = search("identity")
    assert result.item.text == "red big old"
    assert result.encoded == [] and not result.item.attacked


@pytest.mark.parametrize(
    ("attack_text", "calls"),
    [
        ("greedy:edits=1", 5),
        ("greedy:edits=2", 7),
        ("greedy", 8),
        ("beam:edits=1,width=2", 7),
        ("exact:edits=1", 5),
        ("exact:edits=2", 10),
        ("exact", 12),
    ],
)
def test_each_text_is_encoded_once(attack_text, calls):
    """Number: greedy asks for the query, three texts without a word, then 1 + 2 + 1 candidates, as
    far as its edits reach. exact: of 2, 1 and 1 options 1 + 4 texts, 5 more with two edits, 2 more
    with three.

    Catches: a text encoded once a view; a call that is not counted; candidates where no edit is
    left.
    """
    result = search(attack_text)
    assert len(result.encoded) == calls
    assert set(result.encoded) == result.item.asked


@pytest.mark.parametrize("name", ["greedy", "beam", "exact"])
def test_a_search_never_touches_a_protected_word(name):
    """Number: "Big" is the answer, "old" is fixed: red alone is left, and rust is its worst.

    Catches: protection that minds case, or that leave-one-out knows nothing of.
    """
    result = search(name, answer="Big", fixed=frozenset({"old"}))
    assert result.item.text == "rust big old"
    assert all(text.endswith(" big old") for text in result.encoded)


@pytest.mark.parametrize("name", ["greedy:", "beam:width=9,", "exact:"])
@pytest.mark.parametrize("budget", range(1, 9))
def test_a_budget_bounds_the_texts_encoded(name, budget):
    """Number: 1 to 8 texts; exact alone would take 12. Catches: leave-one-out left uncounted."""
    result = search(f"{name}budget={budget}")
    assert len(result.encoded) == len(result.item.asked) <= budget


@pytest.mark.parametrize("name", ["greedy:", "beam:width=9,", "exact:"])
def test_a_budget_leaves_something_for_the_search(name):
    """Number: of 4 texts one is the query, two are for the order, one is tried.

    Catches: all of it spent before a single word is changed.
    """
    assert search(f"{name}budget=4").item.changed


def test_exact_gives_way_to_a_beam_above_its_limit():
    """Number: 12 texts. Catches: < for <=; a search that is cut off and called exhaustive."""
    within, above = search("exact:limit=12"), search("exact:limit=11")
    assert within.item.exhaustive and not above.item.exhaustive
    assert len(within.encoded) == 12
    assert above.item.worst is None and len(above.encoded) == 8, "as many as greedy asks for"


@pytest.mark.parametrize(("attack_text", "least"), [("exact", -0.7), ("exact:edits=1", -0.1)])
def test_exact_knows_the_smallest_margin_of_each_pool(attack_text, least):
    """Number: rust wide aged, 1 - 1.7, and red big aged, 1 - 1.1, in English as in all.

    Catches: the margin of the clean text; texts beyond the bound of edits.
    """
    worst = search(attack_text).item.worst
    assert worst.tolist() == pytest.approx([least, least], abs=1e-6)


def test_a_scorer_encodes_no_text_twice():
    """Number: weights .7, .5 and .7 again. Catches: a text encoded for each item that asks."""
    data, pools = red_big_old()
    attack, tables = parse_attack("greedy"), {"en": SWAPS}
    mono, pool = make_attacked(data, [0], ["mono", "pool"], attack, tables, 0)
    encoder = Scales()
    score = attacks.Scorer(encoder, pools)
    pairs = [(mono, "red wide old"), (mono, "red big old"), (pool, "red wide old")]
    _, in_view = score(pairs)
    assert in_view.tolist() == pytest.approx([0.3, 0.5, 0.3], abs=1e-6)
    score(pairs)
    assert encoder.encoded == ["red wide old", "red big old"]
    assert pool.asked == {"red wide old"}


def test_a_gradient_needs_a_tokenizer_that_knows_positions():
    """Catches: an error from inside of the tokenizer, which names no remedy."""
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(is_fast=False), settings=Settings())
    attack = parse_attack("hotflip")
    with pytest.raises(ValueError, match="fast tokenizer.*Take order=scores"):
        attack_queries([query_of(3)], encoder, None, attack, 0)


# ---- searches on the bundled encoder -------------------------------------------------------------

LANGS = ["en", "de", "th"]


@dataclass
class World:
    """30 dev questions, those with the most replacements, against 441 facts in their languages."""

    data: DataSet
    encoder: Encoder
    queries: list[int]
    passages: list[int]
    p: torch.Tensor  # (P, D)
    tables: dict


@pytest.fixture(scope="module")
def world(minifacts):
    """The world above, its passages encoded once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches: beside another program much faster than two
    dev = sorted(minifacts.qrels["dev"])
    groups = {minifacts.queries[i].group for i in dev}
    passages, queries, tables = [], [], {}
    for i, passage in enumerate(minifacts.passages):
        if passage.lang in LANGS and passage.group in groups:
            passages.append(i)
    for lang in LANGS:
        path = ROOT / f"data/minifacts/synonyms/{lang}.json"
        tables[lang] = attacks.read_table(path, lang)
        n_options = {}  # question -> how much there is to choose from
        for i in dev:
            query = minifacts.queries[i]
            if (query.lang, query.form) == (lang, "question"):
                slots = attacks.find_slots(query.text, tables[lang], lang)
                n_options[i] = sum(len(slot.options) for slot in slots)
        queries += sorted(n_options, key=n_options.get, reverse=True)[:10]
    encoder = load_encoder(ROOT / "data/tiny_xlmr")
    p = encoder.encode([minifacts.passages[i] for i in passages], "passage")
    assert len(queries) == 30 and len(passages) == 441
    yield World(minifacts, encoder, queries, passages, p, tables)
    torch.set_num_threads(threads)


def pools_of(world, queries):
    """The pools of some of the world's queries."""
    return make_pools(world.p, world.data, queries, world.passages, "dev")


def attacked(world, attack_text, queries, views=("pool",), seed=0):
    """The queries after an attack."""
    attack = parse_attack(attack_text)
    items = make_attacked(world.data, queries, list(views), attack, world.tables, seed)
    attack_queries(items, world.encoder, pools_of(world, queries), attack, seed)
    return items


def controls(world, twins, attack_text, seed=0):
    """The controls of attacked queries, in the pool."""
    attack = parse_attack(attack_text)
    items = make_attacked(world.data, world.queries, ["pool"], attack, world.tables, seed)
    control_queries(items, twins, world.encoder, attack, seed)
    return items


def score_margin(world, item, scores):
    """Oracle: the margin of these scores of all passages in the view of an item, in loops."""
    best = {}
    for i, score in zip(world.passages, scores, strict=True):
        passage = world.data.passages[i]
        lang = "*" if item.view == "pool" else passage.lang
        key = passage.group == item.source.group, lang  # relevant if it states the question's fact
        best[key] = max(score, best.get(key, -math.inf))
    langs_in = {
        "mono": [item.source.lang],
        "cross": [lang for lang in LANGS if lang != item.source.lang],
        "pool": ["*"],
    }
    langs = langs_in[item.view]
    return fmean(best[True, lang] - best[False, lang] for lang in langs)


def margin(world, item, text):
    """Oracle: one text in one forward pass, scored in loops, rounded as `margins` are."""
    query = Text("", "", text, "")
    v = world.encoder.encode([query], "query")[0]
    scores = (world.p @ v).tolist()
    return round(score_margin(world, item, scores), 6)


def mean_margin(world, items):
    """The mean margin of the texts that an attack has left."""
    return fmean(margin(world, item, item.text) for item in items)


def put(item, edits):
    """The query with the word of slot n replaced by edits[n], from left to right."""
    source, text, end = item.source.text, "", 0
    for n, slot in enumerate(item.slots):
        old = source[slot.start : slot.end]
        text += source[end : slot.start] + edits.get(n, old)
        end = slot.end
    return text + source[end:]


def slow_greedy(world, item):
    """At most two edits, word after word, each text scored alone. -> (edits, margin)"""
    without = []
    for n in range(len(item.slots)):
        value = margin(world, item, put(item, {n: ""}))
        without.append((value, n))
    edits, least = {}, margin(world, item, item.source.text)
    for _, n in sorted(without):
        if len(edits) == 2:
            break
        worst_edits = edits
        for option in item.slots[n].options:
            trial = edits | {n: option}
            value = margin(world, item, put(item, trial))
            if value < least:
                worst_edits, least = trial, value
        edits = worst_edits
    return edits, least


@pytest.mark.parametrize("view", VIEWS)
def test_greedy_equals_a_loop_over_one_query_at_a_time(world, view):
    """Claim: the same text; or, where two margins are equal to 2e-6, one as bad. Number: 6 queries.

    Catches: another query's margin; the margin of another view; an edit kept though it helps.
    """
    count = 0
    for item in attacked(world, "greedy:edits=2", world.queries[::5], [view]):
        edits, least = slow_greedy(world, item)
        if item.text != put(item, edits):
            assert margin(world, item, item.text) == pytest.approx(least, abs=2e-6)
        count += len(edits) > 0
    assert count >= 5, "the attack did nothing"


@pytest.fixture(scope="module")
def greedy(world):
    """All queries after greedy's two edits at most."""
    return attacked(world, "greedy:edits=2", world.queries)


@pytest.fixture(scope="module")
def exact(world):
    """All queries after the worst two edits."""
    return attacked(world, "exact:edits=2,limit=9999", world.queries)


def test_greedy_hurts(world, greedy):
    """Claim: its mean margin is .02 below the clean one. Number: .08 clean, -.01 after it.

    Catches: a search that raises the margin.
    """
    clean = fmean(margin(world, item, item.source.text) for item in greedy)
    assert mean_margin(world, greedy) < clean - 0.02


@pytest.mark.parametrize("seed", range(3))
def test_greedy_hurts_more_than_as_many_random_edits(world, greedy, seed):
    """Claim: .01 below its control. Catches: a control that searches, or that is the attack."""
    control = controls(world, greedy, "greedy:edits=2", seed)
    assert mean_margin(world, greedy) < mean_margin(world, control) - 0.01


def test_a_beam_hurts_more_than_greedy(world, greedy):
    """Number: -.023 and -.011 on average. Catches: a beam that keeps the best texts."""
    beam = attacked(world, "beam:edits=2", world.queries)
    assert mean_margin(world, beam) < mean_margin(world, greedy) - 0.005


def test_exact_is_never_better_than_greedy(world, greedy, exact):
    """Claim: for each query, to 2e-6; and clearly worse for some. Number: more than 5 of 30.

    Catches: an enumeration that leaves texts out; exact that a limit cuts, which is greedy.
    """
    worse = 0
    for first, second in zip(exact, greedy, strict=True):
        assert first.exhaustive
        gain = margin(world, second, second.text) - margin(world, first, first.text)
        assert gain >= -2e-6
        worse += gain > 1e-4
    assert worse > 5, "exact is greedy"


def test_the_certificate_of_exact_is_the_margin_of_its_text(world, exact):
    """Claim: the smallest margin in the pool of all, the last one, is that of the text it found.

    Catches: the clean margins; those of the text that is worst in another pool.
    """
    for item in exact[::3]:
        least = margin(world, item, item.text)
        assert float(item.worst[-1]) == pytest.approx(least, abs=2e-6)


# ---- controls ------------------------------------------------------------------------------------


def test_a_control_has_as_many_edits_as_its_twin(world, greedy):
    """Claim: each of them really changes its word. Number: greedy made 0, 1 or 2 edits.

    Catches: two edits for all, which hurt more than the attack's one.
    """
    control = controls(world, greedy, "greedy:edits=2")
    assert {len(item.edits) for item in greedy} >= {1, 2}
    for item, twin in zip(control, greedy, strict=True):
        assert len(item.edits) == len(twin.edits)
        assert len(differing_slots(item)) == len(twin.edits)


def differing_slots(item):
    """The slots of an item whose word differs from its edit, in lower case."""
    slots = []
    for span, new in item.edits.items():
        start, end = span
        assert span in [slot.span for slot in item.slots]
        if item.source.text[start:end].lower() != new.lower():
            slots.append(span)
    return slots


def test_a_control_is_the_same_twice_and_another_with_another_seed(world, greedy):
    """Number: more than half of 30 texts differ. Catches: the seed left out; the attack itself as
    its control.
    """
    first = [item.text for item in controls(world, greedy, "greedy:edits=2")]
    assert first == [item.text for item in controls(world, greedy, "greedy:k=8,edits=2")]
    other = [item.text for item in controls(world, greedy, "greedy:edits=2", seed=1)]
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 15


def controls_of_twins(world, queries):
    """The texts of controls of four edits, for queries of the same eight words."""
    text = "abba cddc effe ghhg ijji kllk mnnm oppo"
    table = {word: ["x", "y", "z"] for word in text.split()}
    data = DataSet(Path(), [Text(f"q{i}", "en", text, "") for i in range(2)], [], {})
    attack = parse_attack("greedy")
    items = make_attacked(data, queries, ["pool"], attack, {"en": table}, 0)
    edits = {slot.span: "x" for slot in items[0].slots[:4]}
    twins = [replace(item, edits=edits) for item in items]
    control_queries(items, twins, world.encoder, attack, 0)
    return [item.text for item in items]


def test_each_query_has_a_control_of_its_own(world):
    """Number: of 70 * 3^4 texts two are equal by chance once in 5670; the second query alone has
    the same control. Catches: one stream for all queries; the same draw for all.
    """
    first, second = controls_of_twins(world, [0, 1])
    assert first != second
    assert controls_of_twins(world, [1]) == [second]


# ---- hotflip: the gradient proposes, the scores decide -------------------------------------------


@pytest.fixture(scope="module")
def hotflip(world):
    """All queries after HotFlip's two edits at most."""
    return attacked(world, "hotflip:edits=2", world.queries)


def test_hotflip_keeps_two_replacements_a_word(greedy, hotflip):
    """Number: 40 are dropped. Catches: words that the table does not hold; all kept."""
    dropped = 0
    for item, before in zip(hotflip, greedy, strict=True):
        for slot, full in zip(item.slots, before.slots, strict=True):
            assert slot.span == full.span
            assert len(slot.options) == min(2, len(full.options))
            assert set(slot.options) <= set(full.options)
            dropped += len(full.options) - len(slot.options)
    assert dropped == 40


def test_hotflip_decides_by_scores(world, hotflip):
    """Claim: no margin ends above the clean one. Catches: an estimate taken for the truth."""
    count = 0
    for item in hotflip:
        assert len(item.edits) <= 2
        fall = margin(world, item, item.source.text) - margin(world, item, item.text)
        assert fall >= -2e-6
        count += fall > 1e-3
    assert count > 15, "the attack did nothing"


def shifts(world, item, slot):
    """Each option's way from the slot's tokens to its own mean embedding. -> option -> (T, D)"""
    encoder, prefix = world.encoder, world.encoder.settings.query_prefix
    tokens = encoder.tokenizer(prefix + item.source.text, return_offsets_mapping=True)
    weight = encoder.model.get_input_embeddings().weight.detach()
    old = weight[tokens["input_ids"]]  # (T, D)
    ways = {}
    for option in slot.options:
        pieces = encoder.tokenizer(option, add_special_tokens=False)["input_ids"]
        new = weight[pieces].mean(0)  # (D,)
        way = torch.zeros_like(old)
        for t, (start, end) in enumerate(tokens["offset_mapping"]):
            inside = start < slot.end + len(prefix) and slot.start + len(prefix) < end
            if inside and start < end:
                way[t] = new - old[t]
        ways[option] = way
    return ways


def slope(world, item, way, step=0.02):
    """How fast the margin rises along a way of the word embeddings: a central difference."""
    encoder = world.encoder
    batch = encoder.pad(encoder.tokenize([item.source], "query"))
    embeddings = encoder.word_embeddings(batch["input_ids"])  # (1, T, D)
    values = []
    for side in (-step, step):
        v = encoder.from_embeddings(embeddings + side * way, batch)[0]
        values.append(score_margin(world, item, (world.p @ v).tolist()))
    return (values[1] - values[0]) / (2 * step)


@pytest.fixture(scope="module")
def slopes(world, greedy):
    """Of fifteen queries: position -> slot -> option -> slope."""
    slopes = {}
    with torch.no_grad():
        for i in range(0, 30, 2):
            slopes[i] = {}
            for slot in greedy[i].slots:
                ways = shifts(world, greedy[i], slot)
                by_option = {option: slope(world, greedy[i], way) for option, way in ways.items()}
                slopes[i][slot.span] = by_option
    return slopes


def test_hotflip_keeps_the_replacements_of_the_steepest_falls(hotflip, slopes):
    """Claim: towards each that it keeps, the margin falls at least as fast as towards one that it
    drops. Number: finite differences, to 1e-4 in units of margin; 15 queries.

    Catches: the sign of the gradient; the gradient of another token or of another query.
    """
    dropped = 0
    for i, by_slot in slopes.items():
        for slot in hotflip[i].slots:
            by_option = by_slot[slot.span]
            highest_kept = max(by_option[option] for option in slot.options)
            for option, value in by_option.items():
                if option not in slot.options:
                    dropped += 1
                    assert highest_kept <= value + 1e-4
    assert dropped > 15, "nothing was dropped"


def test_hotflip_changes_first_the_word_of_the_steepest_fall(world, hotflip, slopes):
    """Claim: its one edit falls on the first word, in order of the slopes, that can hurt at all.

    Number: 15 queries; for more than 3 it is not the first word of the question.
    Catches: words from left to right; the order of leave-one-out; a word's first piece alone.
    """
    queries = [world.queries[i] for i in slopes]
    items, not_the_first = attacked(world, "hotflip:edits=1", queries), 0
    for item, by_slot in zip(items, slopes.values(), strict=True):
        clean = margin(world, item, item.source.text)
        steepest = []
        for n, slot in enumerate(item.slots):
            hurts = min(margin(world, item, put(item, {n: option})) for option in slot.options)
            if hurts < clean:
                steepest.append((min(by_slot[slot.span].values()), slot.span))
        _, span = min(steepest)
        assert list(item.edits) == [span]
        not_the_first += span != item.slots[0].span
    assert not_the_first > 3


def test_greedy_by_gradient_keeps_all_replacements(world, greedy):
    """Claim: order=gradient of greedy orders words, and asks for no text without a word; only
    hotflip drops replacements. Catches: both do; a setting that is left unused.
    """
    items = attacked(world, "greedy:order=gradient", world.queries[:3])
    for item, before in zip(items, greedy[:3], strict=True):
        without = {put(item, {n: ""}) for n in range(len(item.slots))}
        assert without <= before.asked
        assert without.isdisjoint(item.asked)
        for slot, full in zip(item.slots, before.slots, strict=True):
            assert sorted(slot.options) == sorted(full.options)


@pytest.mark.parametrize("name", ["greedy", "beam", "hotflip", "random"])
def test_queries_without_a_slot_are_not_attacked(world, name):
    """Claim: they keep their text and are told apart from those that resisted. Number: no tables.

    Catches: a search over no words at all that crashes; robust because never attacked.
    """
    blank = replace(world, tables={})
    for item in attacked(blank, name, world.queries[:3]):
        assert item.text == item.source.text
        assert not item.attacked and not item.changed and item.edits == {}


def test_exact_tries_the_one_text_of_a_query_without_a_slot(world):
    """Claim: of one text, that is all: its certificate is the clean margin. Catches: no certificate
    for a query that no adversary of this kind can change.
    """
    blank = replace(world, tables={})
    for item in attacked(blank, "exact", world.queries[:3]):
        assert item.exhaustive and not item.attacked
        least = margin(world, item, item.text)
        assert float(item.worst[-1]) == pytest.approx(least, abs=2e-6)


# ---- long queries --------------------------------------------------------------------------------


def long_item(world, attack_text, text):
    """A long English question, not yet attacked, and an encoder that reads few tokens of it."""
    encoder = load_encoder(ROOT / "data/tiny_xlmr")
    encoder.settings = replace(encoder.settings, query_length=16)
    query = world.queries[0]
    data = replace(world.data, queries=list(world.data.queries))
    data.queries[query] = Text("long", "en", text, "g")
    attack = parse_attack(attack_text)
    (item,) = make_attacked(data, [query], ["pool"], attack, world.tables, 0)
    return item, encoder


def long_attack(world, attack_text, text):
    """That question after an attack."""
    item, encoder = long_item(world, attack_text, text)
    pools = pools_of(world, world.queries[:1])
    attack_queries([item], encoder, pools, parse_attack(attack_text), 0)
    return item


def long_control(world, attack_text, item):
    """The same question with as many random edits as the attacked `item` has."""
    twin, encoder = long_item(world, attack_text, item.source.text)
    attacks.control_queries([twin], [item], encoder, parse_attack(attack_text), 0)
    return twin


LONG = " ".join(f"which city begins to build first in {i}" for i in range(1000))


@pytest.mark.parametrize("attack_text", ["greedy", "hotflip", "beam:budget=40", "exact:limit=9"])
def test_what_the_encoder_does_not_read_costs_an_attack_nothing(world, attack_text, monkeypatch):
    """Claim: of a question of 38,000 characters the search tries what it tries of the first 256.

    Number: 16 tokens of 16 characters. A question of four times that length (so that the whole is
    affordable) gets the edits of a search that tries all of it. The control edits what is read.
    Catches: a text encoded once more for each word beyond the end (100,000 characters took 9 GB);
    a control beyond the end, which is the clean query.
    """
    item = long_attack(world, attack_text, LONG)
    first = long_attack(world, attack_text, LONG[:256])
    assert item.edits and item.edits == first.edits
    assert item.asked == first.asked
    assert max(map(len, item.asked)) < 400
    some = long_attack(world, attack_text, LONG[:1024])
    twin = long_control(world, attack_text, item)
    assert max(end for _, end in twin.edits) <= 256, "an edit that the encoder does not read"
    monkeypatch.setattr(attacks, "CHARACTERS_A_TOKEN", 10**6)
    whole = long_attack(world, attack_text, LONG[:1024])
    assert some.edits == whole.edits
    assert len(some.asked) <= len(whole.asked)


# ---- all queries at once -------------------------------------------------------------------------

SPECS = ["greedy:edits=2", "beam:budget=20", "hotflip", "exact:edits=1", "random", "typos"]


def outcomes(world, attack_text, queries, seed=0):
    """Text, encoder calls and edits of each query in each view."""
    items = attacked(world, attack_text, queries, VIEWS, seed)
    return [(item.text, item.asked, item.edits) for item in items]


@pytest.mark.parametrize("attack_text", SPECS)
def test_queries_in_lock_step_end_as_each_one_alone(world, attack_text):
    """Number: five queries, backwards, in three views. Catches: lock-step that mixes up items; one
    random stream for all; a budget that others spend.
    """
    queries = world.queries[::-6]
    together = outcomes(world, attack_text, queries)
    alone = []
    for query in queries:
        alone += outcomes(world, attack_text, [query])
    assert together == alone
    assert any(edits for _, _, edits in alone), "the attack did nothing"


@pytest.mark.parametrize("attack_text", SPECS)
def test_a_view_is_attacked_as_if_it_were_alone(world, attack_text):
    """Number: three queries. Catches: slots that the views share, so that HotFlip drops words of
    one view for the next; margins of another view.
    """
    queries, alone = world.queries[::-10], {}
    for view in VIEWS:
        for item in attacked(world, attack_text, queries, [view]):
            alone[item.query, view] = item.slots, item.text
    together = {}
    for item in attacked(world, attack_text, queries, VIEWS):
        together[item.query, item.view] = item.slots, item.text
    assert together == alone


@pytest.mark.parametrize("attack_text", SPECS)
def test_only_random_attacks_depend_on_the_seed(world, attack_text):
    """Catches: chance in a search, whose certificate nobody could repeat; a seed left unused."""
    queries = world.queries[::-6]
    is_random = attack_text in ("random", "typos")
    changes = outcomes(world, attack_text, queries, 1) != outcomes(world, attack_text, queries)
    assert changes == is_random


# ---- the encoder is handed back as it was --------------------------------------------------------


@pytest.fixture
def trained(world):
    """The world with an encoder in the middle of a training: dropout .5, each .grad all 7."""
    encoder = load_encoder(ROOT / "data/tiny_xlmr").train()
    for part in encoder.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    for weight in encoder.parameters():
        weight.grad = torch.full_like(weight, 7)
    return replace(world, encoder=encoder)


ATTACKS = pytest.mark.parametrize("name", ["greedy", "hotflip", "pgd"])


@ATTACKS
def test_an_attack_runs_without_dropout(world, trained, name):
    """Claim: the same text and, to 1e-6, the same vector as in eval mode. Number: 3 queries.

    Catches: an adversary that searches among random margins.
    """
    attack, queries = parse_attack(name), world.queries[::10]
    results = []
    for place in (world, trained):
        items = make_attacked(world.data, queries, ["pool"], attack, world.tables, 0)
        pools = pools_of(world, queries)
        vectors = attack_queries(items, place.encoder, pools, attack, 0)
        results.append(([item.text for item in items], vectors))
    (texts, vectors), (texts_in_training, vectors_in_training) = results
    assert texts == texts_in_training
    torch.testing.assert_close(vectors, vectors_in_training, rtol=0, atol=1e-6)


@ATTACKS
def test_an_attack_gives_the_training_mode_back(trained, name):
    """Catches: eval() without the way back, after which dropout is off for the rest of a run."""
    attacked(trained, name, trained.queries[::10])
    assert trained.encoder.training and trained.encoder.model.training


@ATTACKS
def test_an_attack_leaves_the_gradients_alone(trained, name):
    """Number: each .grad was 7. Catches: backward() in the place of autograd.grad, by which the
    next training step would go along the adversary's gradient.
    """
    attacked(trained, name, trained.queries[::10])
    for weight in trained.encoder.parameters():
        assert weight.requires_grad
        assert (weight.grad == 7).all()


# ---- the examples in the docstrings --------------------------------------------------------------


def says(thing, example):
    """Does the docstring hold this example, however its lines are broken?"""
    return " ".join(example.split()) in " ".join(thing.__doc__.split())


def test_the_example_of_an_order_is_true():
    """Number: typed from the docstring. Catches: one that the code has left behind."""
    assert says(attacks.positions_by_value, "[0.5, 0.1] -> [1, 0]")
    assert attacks.positions_by_value([0.5, 0.1]) == [1, 0]


def test_the_example_of_a_beam_is_true():
    """Number: weights .7 and .5, so that the margins are .3 and .5, the smaller one first.

    Catches: an example that the code has left behind.
    """
    assert says(attacks.beam_search, "start .5 red big old")
    assert says(attacks.beam_search, "big -> wide .3 red wide old .5 red big old")
    result = search("beam:width=2", table={"big": ["wide"]})
    assert result.item.text == "red wide old"
    _, pools = red_big_old()
    score = attacks.Scorer(Scales(), pools)
    _, in_view = score([(result.item, "red wide old"), (result.item, "red big old")])
    assert in_view.tolist() == pytest.approx([0.3, 0.5], abs=1e-6)


def test_the_examples_of_noise_and_certificates_are_true():
    """Number: typed from the docstrings. Catches: one that the code has left behind."""
    assert says(attacks.project, "(3, 4) -> (0.6, 0.8) for radius 1")
    delta = torch.tensor([[[3.0, 4.0]]])
    projected = attacks.project(delta, attacks.Ball(1.0)).flatten().tolist()
    assert projected == pytest.approx([0.6, 0.8], abs=1e-6)
    example = 'overlap("a", {"a": ["b", "c"], "b": ["a"], "c": ["a", "b"]}) -> 2/3'
    assert says(attacks.overlap, example)
    table = {"a": ["b", "c"], "b": ["a"], "c": ["a", "b"]}
    assert attacks.overlap("a", table) == pytest.approx(2 / 3)
