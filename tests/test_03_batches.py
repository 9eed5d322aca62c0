"""Rung 3: which languages meet in a batch. This is the experiment.

Builds: xlt.Pairing, xlt.TrainingPairs, xlt.batches. Before: rung 2.
Run: pytest tests/test_03_batches.py
"""

from collections import Counter
from itertools import chain, islice

import pytest
import torch
from conftest import CORPUS, QUERIES, write_folder

from xlt import (
    BATCHINGS,
    Pairing,
    Row,
    TrainingPairs,
    batches,
    endless_groups,
    false_negatives,
    load_data,
)

LANGS = ["en", "de", "th"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve questions in three languages, one passage each."""
    corpus, queries, qrels = [], [], []
    for number in range(12):
        for lang in LANGS:
            row = {"lang": lang, "text": "t", "group": f"g{number}"}
            corpus.append(row | {"_id": f"p{number}.{lang}"})
            queries.append(row | {"_id": f"q{number}.{lang}"})
            for other in LANGS:
                qrels.append(f"q{number}.{lang}\tp{number}.{other}\t1")
    return load_data(write_folder(tmp_path_factory.mktemp("twelve"), corpus, queries, qrels))


def draw(data, batching, size=4, steps=60, langs=LANGS, **more):
    """All batches of a plan."""
    return list(batches(TrainingPairs(data, langs), batching, size, steps, **more))


def languages(data, batch):
    """(query language, passage language) of each row of a batch."""
    pairs = []
    for query, passage in zip(batch.queries, batch.passages, strict=True):
        pairs.append((data.queries[query].lang, data.passages[passage].lang))
    return pairs


def groups(data, batch):
    """The question of each row of a batch."""
    return [data.queries[query].group for query in batch.queries]


def positions(plan):
    """What two plans are compared by."""
    return [(batch.queries, batch.passages) for batch in plan]


# ---- pairs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairing", "allowed"),
    [
        (Pairing("mono", "de"), [("de", "de")]),
        (Pairing("mixed"), [("en", "en"), ("de", "de")]),
        (Pairing("cross"), [("en", "de"), ("de", "en")]),
    ],
)
def test_a_pairing_says_which_languages_may_meet(pairing, allowed):
    """Claim: mono is one language, mixed the same on both sides, cross two different ones.

    Number: of the four ordered pairs of English and German, by eye.
    Catches: mono that looks at one side only; mixed that allows everything.
    """
    meeting = []
    for query_lang in ("en", "de"):
        for passage_lang in ("en", "de"):
            if pairing.allows(query_lang, passage_lang):
                meeting.append((query_lang, passage_lang))
    assert meeting == allowed


def test_a_question_is_paired_in_the_languages_that_it_has(tmp_path):
    """Claim: queries and passages count separately, and training languages only.

    Number: asked in en and de, answered in de and th; German and English are trained on.
    Catches: the passage's languages taken for the query's; Thai, which is not trained on.
    """
    corpus = [
        {"_id": "p.de", "lang": "de", "text": "t"},
        {"_id": "p.th", "lang": "th", "text": "t"},
    ]
    queries = [
        {"_id": "q.en", "lang": "en", "text": "t", "group": "q"},
        {"_id": "q.de", "lang": "de", "text": "t", "group": "q"},
    ]
    qrels = ["q.en\tp.de\t1", "q.en\tp.th\t1", "q.de\tp.de\t1", "q.de\tp.th\t1"]
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    pairs = TrainingPairs(data, ["en", "de"])
    assert pairs.lang_pairs("q", Pairing("cross")) == [("en", "de")]
    assert pairs.lang_pairs("q", Pairing("mixed")) == [("de", "de")]


def test_what_answers_in_one_language_answers_in_all(tmp_path):
    """Claim: a query is paired with the passages of its translations too.

    Number: each query is judged in its own language alone, as in a monolingual data set.
    Catches: pairs read from the query's own row of the qrels, of which none is cross-lingual.
    """
    qrels = ["q1.en\ta.en\t1", "q1.de\ta.de\t1"]
    data = load_data(write_folder(tmp_path, CORPUS, QUERIES, qrels))
    pairs = TrainingPairs(data, ["en", "de"])
    assert pairs.lang_pairs("q1", Pairing("cross")) == [("en", "de"), ("de", "en")]


def test_all_queries_and_passages_of_a_question_are_drawn(tmp_path):
    """Claim: two wordings of a query and two gold passages each take their turn.

    Number: 40 batches of one row; all four combinations, each missed with chance (3/4)^40 = 1e-5.
    Catches: the first of each, always.
    """
    corpus = [{"_id": f"p{i}", "lang": "en", "text": "t", "group": "g"} for i in range(2)]
    queries = [{"_id": f"q{i}", "lang": "en", "text": "t", "group": "g"} for i in range(2)]
    qrels = ["q0\tp0\t1", "q0\tp1\t1", "q1\tp0\t1", "q1\tp1\t1"]
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    plan = draw(data, "en-en", size=1, steps=40, langs=["en"])
    combinations = {(batch.queries[0], batch.passages[0]) for batch in plan}
    assert combinations == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_shared_gold_sentences_are_masked_across_languages(tmp_path):
    """Claim: two questions with one English gold sentence are each other's false negatives.

    Number: q0 and q1 share e0 in English, their German gold differs, q2 shares nothing. In the
    batch q0 and q1 ask in German for English passages, q2 in English for its German one.
    Catches: masks that look at the query's own language only, or at query groups.
    """
    corpus = []
    for name in ("e0.en", "d0.de", "d1.de", "e2.en", "d2.de"):
        corpus.append({"_id": name, "lang": name[-2:], "text": "t"})
    gold = {"q0": ("e0.en", "d0.de"), "q1": ("e0.en", "d1.de"), "q2": ("e2.en", "d2.de")}
    queries, qrels = [], []
    for question, answers in gold.items():
        for lang, answer in zip(("en", "de"), answers, strict=True):  # each in its own alone
            queries.append({"_id": question + lang, "lang": lang, "text": "t", "group": question})
            qrels.append(f"{question}{lang}\t{answer}\t1")
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    rows = [Row("q0", "de", "en"), Row("q1", "de", "en"), Row("q2", "en", "de")]
    batch = TrainingPairs(data, ["en", "de"]).make_batch("cross", rows, torch.Generator())
    assert false_negatives(batch.gold, batch.passage_group).tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]


# ---- what all batchings have in common -----------------------------------------------------------


@pytest.mark.parametrize("batching", BATCHINGS)
def test_there_are_as_many_batches_and_rows_as_asked_for(data, batching):
    """Claim: exactly `steps` batches of `size` rows.

    Number: 7 and 5, neither of which divides 12.
    Catches: a short last batch; the end of the data taken for the end of the plan.
    """
    plan = draw(data, batching, size=5, steps=7)
    assert [len(batch.queries) for batch in plan] == [5] * 7
    assert [len(batch.passages) for batch in plan] == [5] * 7


@pytest.mark.parametrize("batching", BATCHINGS)
def test_each_passage_answers_its_query(data, batching):
    """Claim: row i of the passages is relevant to row i of the queries.

    Number: the qrels, for 240 rows.
    Catches: passages in another order than queries.
    """
    for batch in draw(data, batching):
        for query, passage in zip(batch.queries, batch.passages, strict=True):
            assert passage in data.qrels["train"][query]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_no_question_stands_twice_in_a_batch(data, batching):
    """Claim: also across the border of an epoch.

    Number: 5 does not divide 12, so every third batch or so crosses a border.
    Catches: the rest of one epoch meeting itself in the next.
    """
    for batch in draw(data, batching, size=5, steps=100):
        assert len(set(groups(data, batch))) == 5


def test_groups_that_are_left_over_come_first_in_the_next_epoch():
    """Claim: over two epochs each group stands twice, though batches cross the border.

    Number: five groups, batches of two: five batches are two epochs.
    Catches: the rest of an epoch dropped, so that a group is seen less often.
    """
    stream = endless_groups(["a", "b", "c", "d", "e"], 2, torch.Generator().manual_seed(0))
    counts = Counter(chain(*islice(stream, 5)))
    assert counts == {"a": 2, "b": 2, "c": 2, "d": 2, "e": 2}


def test_an_epoch_shows_every_question_once(data):
    """Claim: three batches of four are the twelve questions.

    Number: by eye.
    Catches: sampling with replacement.
    """
    first = draw(data, "en-en", steps=3)
    shown = groups(data, first[0]) + groups(data, first[1]) + groups(data, first[2])
    assert sorted(shown) == sorted(f"g{number}" for number in range(12))


def test_the_next_epoch_comes_in_another_order(data):
    """Claim: batches four to six hold other questions than one to three.

    Number: two orders of twelve are the same with chance 1/12!.
    Catches: one order, repeated.
    """
    plan = draw(data, "en-en", steps=6)
    orders = [groups(data, batch) for batch in plan]
    assert orders[:3] != orders[3:]


# ---- the five batchings --------------------------------------------------------------------------


def count_languages(data, plan):
    """How often each (query language, passage language) stands in the rows of a plan."""
    counts = Counter()
    for batch in plan:
        counts.update(languages(data, batch))
    return counts


def test_en_en_holds_english_alone(data):
    """Claim: as its name says.

    Number: 240 rows.
    Catches: any of the training languages on either side.
    """
    assert count_languages(data, draw(data, "en-en")) == {("en", "en"): 240}


def test_x_x_never_mixes_languages_in_a_pair(data):
    """Claim: query and passage are in one language, whichever.

    Number: all three languages in 240 rows.
    Catches: cross-lingual pairs.
    """
    counts = count_languages(data, draw(data, "x-x"))
    assert sorted(counts) == [("de", "de"), ("en", "en"), ("th", "th")]


def test_x_x_mixes_languages_in_a_batch(data):
    """Claim: most batches hold more than one language.

    Number: one language with chance 3 * (1/3)^4 = 1/27, so 57.8 of 60 are mixed; above 45.
    Catches: x-x-mono under the name of x-x.
    """
    mixed = [batch for batch in draw(data, "x-x") if len(set(languages(data, batch))) > 1]
    assert len(mixed) > 45


def test_x_x_mono_holds_one_language_a_batch(data):
    """Claim: all rows of a batch are in one language, on both sides.

    Number: 60 batches of one pair each.
    Catches: x-x under the name of x-x-mono; a language drawn for each row.
    """
    for batch in draw(data, "x-x-mono"):
        [(query_lang, passage_lang)] = set(languages(data, batch))
        assert query_lang == passage_lang


def test_x_x_mono_uses_all_languages_evenly(data):
    """Claim: uniform over languages.

    Number: 600 batches, 200 each; one sd is sqrt(600 * 1/3 * 2/3) = 11.5, 60 are five.
    Catches: a language that is never drawn; languages in proportion to something.
    """
    counts = Counter()
    for batch in draw(data, "x-x-mono", steps=600):
        counts[languages(data, batch)[0]] += 1
    assert len(counts) == 3
    assert max(abs(count - 200) for count in counts.values()) < 60, counts


def test_x_y_uses_every_pair_of_two_languages_evenly(data):
    """Claim: all six ordered pairs, none of a language with itself.

    Number: 1200 rows, 200 each; one sd is sqrt(1200 * 1/6 * 5/6) = 12.9, 65 are five.
    Catches: pairs of a language with itself; one direction only.
    """
    counts = count_languages(data, draw(data, "x-y", steps=300))
    assert sorted(counts) == [
        ("de", "en"),
        ("de", "th"),
        ("en", "de"),
        ("en", "th"),
        ("th", "de"),
        ("th", "en"),
    ]
    assert max(abs(count - 200) for count in counts.values()) < 65, counts


def test_hybrid_draws_monolingual_batches_with_probability_alpha(data):
    """Claim: alpha is the share of monolingual batches.

    Number: n 1000, alpha 0.3; five sd are 5 * sqrt(0.3 * 0.7 / 1000) = 0.073.
    Catches: alpha taken for the cross-lingual share (0.7).
    """
    kinds = Counter(batch.kind for batch in draw(data, "hybrid", steps=1000, alpha=0.3))
    assert sorted(kinds) == ["cross", "mono"]
    assert abs(kinds["mono"] / 1000 - 0.3) < 0.073


def test_hybrid_batches_are_what_their_kind_says(data):
    """Claim: a mono batch is in one language, a cross batch has two in each pair.

    Number: 60 batches, both kinds among them.
    Catches: the two kinds exchanged; a mix within a batch.
    """
    plan = draw(data, "hybrid")
    assert {batch.kind for batch in plan} == {"mono", "cross"}
    for batch in plan:
        pairs = set(languages(data, batch))
        if batch.kind == "mono":
            assert len(pairs) == 1
        for query_lang, passage_lang in pairs:
            assert (query_lang == passage_lang) == (batch.kind == "mono")


@pytest.mark.parametrize(("alpha", "parent"), [(1.0, "x-x-mono"), (0.0, "x-y")])
def test_hybrid_at_its_ends_is_its_parents_bit_for_bit(data, alpha, parent):
    """Claim: alpha 1 is x-x-mono, alpha 0 is x-y.

    Number: the positions of 60 batches.
    Catches: random numbers that only hybrid spends, with which its ends are other draws.
    """
    ours = draw(data, "hybrid", alpha=alpha)
    assert positions(ours) == positions(draw(data, parent))


def test_languages_that_a_question_lacks_are_not_drawn(tmp_path):
    """Claim: as in MLQA, where a question has two to seven languages.

    Number: a has English and German, b English and Thai, c English alone.
    Catches: a KeyError for b in German; c in a batch of two languages.
    """
    ids = ("a.en", "a.de", "b.en", "b.th", "c.en")
    corpus, queries, qrels = [], [], []
    for name in ids:
        row = {"_id": name, "lang": name[-2:], "text": "t"}
        corpus.append(row)
        queries.append(row | {"group": name[0]})
        qrels.append(f"{name}\t{name}\t1")
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    shown = set()
    for batch in draw(data, "x-y", steps=20, size=2):
        shown.update(groups(data, batch))
    assert shown == {"a", "b"}


# ---- seeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["en-en", "hybrid"])
def test_the_same_seed_repeats(data, batching):
    """Claim: a plan is a function of its arguments.

    Number: en-en draws an order and nothing else, hybrid draws all there is.
    Catches: torch's global generator, or the order of a set.
    """
    first = draw(data, batching, seed=5)
    torch.rand(100)
    assert positions(draw(data, batching, seed=5)) == positions(first)


def test_another_seed_gives_another_order(data):
    """Claim: the seed reaches the order of the questions.

    Number: en-en, which draws nothing else.
    Catches: a generator of the order that ignores the seed.
    """
    assert positions(draw(data, "en-en", seed=5)) != positions(draw(data, "en-en", seed=6))


def test_another_seed_gives_other_languages(data):
    """Claim: the seed reaches the languages, too.

    Number: the languages of 240 rows of x-y, which do not depend on the order of the questions,
    since each is there in all three.
    Catches: a generator of the languages that ignores the seed.
    """
    first = [languages(data, batch) for batch in draw(data, "x-y", seed=5)]
    assert [languages(data, batch) for batch in draw(data, "x-y", seed=6)] != first


def test_more_steps_begin_with_the_same_batches(data):
    """Claim: batch t depends on t, not on the number of steps, so that resuming can replay.

    Number: 10 of 50.
    Catches: languages drawn for the whole plan at once.
    """
    short, long = draw(data, "hybrid", steps=10), draw(data, "hybrid", steps=50)
    assert positions(short) == positions(long)[:10]


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batching", "alpha", "size", "message"),
    [
        ("y-x", 0.5, 4, "--batching 'y-x' is unknown. Take one of en-en, x-x"),
        ("hybrid", 1.5, 4, "--alpha 1.5: the share of monolingual batches is from 0 to 1"),
        ("hybrid", -0.5, 4, "--alpha -0.5"),
        ("hybrid", 0.5, 13, "--batch-size 13 is larger than the data: 12 pairs"),
    ],
)
def test_what_cannot_be_batched_is_refused_at_once(data, batching, alpha, size, message):
    """Claim: one sentence with the value, before the first batch is asked for.

    Number: `batches` is called and not iterated; 13 questions are one more than there are.
    Catches: an endless loop over too little data; a generator that fails at its first batch.
    """
    with pytest.raises(ValueError, match=message):
        batches(TrainingPairs(data, LANGS), batching, size, 1, alpha)


def test_one_language_cannot_be_paired_with_another(data):
    """Claim: English alone has no pair for x-y.

    Number: 0 pairs.
    Catches: a batch of English with English.
    """
    with pytest.raises(ValueError, match="larger than the data: 0 pairs fit x-y"):
        batches(TrainingPairs(data, ["en"]), "x-y", 4, 1)


def test_a_language_without_queries_is_refused(data):
    """Claim: the language and those that there are.

    Catches: a KeyError, or a language that is passed over.
    """
    with pytest.raises(ValueError, match=r"unknown language 'xx': queries are in \['de', 'en', 't"):
        TrainingPairs(data, ["en", "xx"])


def test_a_data_set_without_a_training_split_is_refused(data):
    """Claim: the missing file is named.

    Number: the folder has train and test.
    Catches: a KeyError.
    """
    with pytest.raises(ValueError, match="qrels/dev.tsv: no such file. Training needs it"):
        TrainingPairs(data, LANGS, split="dev")
