"""Rung 3: which languages meet in a batch. This is the experiment.

Builds: xlt.Pairs, xlt.batches. Before: rung 2. Run: pytest tests/test_03_batches.py
"""

from collections import Counter

import pytest
import torch
from conftest import write_folder

from xlt import BATCHINGS, Pairs, batches, false_negatives, load_data

LANGS = ["en", "de", "th"]


@pytest.fixture
def data(tmp_path):
    """Twelve questions in three languages, one passage each."""
    ids = [(n, a) for n in range(12) for a in LANGS]
    corpus = [{"_id": f"p{n}.{a}", "lang": a, "text": "t", "group": f"g{n}"} for n, a in ids]
    queries = [{"_id": f"q{n}.{a}", "lang": a, "text": "t", "group": f"g{n}"} for n, a in ids]
    qrels = [f"q{n}.{a}\tp{n}.{b}\t1" for n in range(12) for a in LANGS for b in LANGS]
    return load_data(write_folder(tmp_path, corpus, queries, qrels))


def languages(data, batch):
    return [
        (data.queries[q].lang, data.passages[p].lang)
        for q, p in zip(batch.queries, batch.passages, strict=True)
    ]


def plan(data, batching, steps=60, size=4, langs=LANGS, **more):
    return list(batches(Pairs(data, langs), batching, size, steps, **more))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_batch_holds_pairs_that_belong_together(data, batching):
    """Claim: as many steps and rows as asked for, each passage answers its query. Catches: a shifted zip."""
    found = plan(data, batching)
    assert len(found) == 60
    for batch in found:
        assert len(batch.queries) == 4
        for q, p in zip(batch.queries, batch.passages, strict=True):
            assert p in data.qrels["train"][q]
        assert len({data.queries[q].group for q in batch.queries}) == 4, "a question twice in a batch"


def test_en_en_holds_english_alone(data):
    """Claim: as its name says. Catches: the language of the passage drawn freely."""
    assert {pair for b in plan(data, "en-en") for pair in languages(data, b)} == {("en", "en")}


def test_x_x_mixes_languages_in_the_batch_but_never_in_a_pair(data):
    """Claim: pairs are monolingual, most batches are not. Number: P(one language) = 3 * (1/3)^4 = 1/27."""
    found = [languages(data, b) for b in plan(data, "x-x")]
    assert all(a == b for pairs in found for a, b in pairs)
    assert sum(len(set(pairs)) > 1 for pairs in found) > 45, "60 * 26/27 = 57.8 expected"


def test_x_x_mono_holds_one_language_a_batch_and_uses_all_of_them(data):
    """Claim: uniform over languages. Number: 600 batches, 200 each, +-60 is 5 standard deviations."""
    found = [set(languages(data, b)) for b in plan(data, "x-x-mono", steps=600)]
    assert all(len(pairs) == 1 for pairs in found)
    counts = Counter(pair for pairs in found for pair in pairs)
    assert len(counts) == 3 and all(abs(n - 200) < 60 for n in counts.values()), counts


def test_x_y_never_pairs_a_language_with_itself_and_uses_every_other_pair(data):
    """Claim: all six ordered pairs, evenly. Number: 1200 rows, 200 each, +-65 is 5 standard deviations."""
    counts = Counter(pair for b in plan(data, "x-y", steps=300) for pair in languages(data, b))
    assert len(counts) == 6 and all(a != b for a, b in counts), counts
    assert all(abs(n - 200) < 65 for n in counts.values()), counts


def test_hybrid_draws_monolingual_batches_with_probability_alpha(data):
    """Claim: alpha is the share of mono batches. Number: n 1000, alpha 0.3, 5 sd = 0.073.

    Catches: alpha taken for the cross-lingual share (0.7).
    """
    found = plan(data, "hybrid", steps=1000, alpha=0.3)
    assert abs(sum(b.kind == "mono" for b in found) / 1000 - 0.3) < 0.073
    for batch in found:
        pairs = set(languages(data, batch))
        assert (len(pairs) == 1) if batch.kind == "mono" else all(a != b for a, b in pairs)


def test_hybrid_at_alpha_one_and_zero_is_its_parents_bit_for_bit(data):
    """Claim: alpha 1 is x-x-mono, alpha 0 is x-y. Catches: random numbers spent differently."""
    for alpha, parent in ((1.0, "x-x-mono"), (0.0, "x-y")):
        ours, theirs = plan(data, "hybrid", alpha=alpha), plan(data, parent)
        assert [(b.queries, b.passages) for b in ours] == [(b.queries, b.passages) for b in theirs]


def test_an_epoch_shows_every_question_once_and_the_next_one_in_another_order(data):
    """Claim: 12 questions in batches of 4: three batches an epoch. Catches: sampling with replacement."""
    found = [[data.queries[q].group for q in b.queries] for b in plan(data, "en-en", steps=6)]
    first, second = ([g for batch in part for g in batch] for part in (found[:3], found[3:]))
    assert sorted(first) == sorted(second) == sorted({f"g{n}" for n in range(12)})
    assert first != second


def test_no_question_stands_twice_in_a_batch_across_the_border_of_an_epoch(data):
    """Claim: also when 5 does not divide 12. Catches: the rest of one epoch meeting itself in the next."""
    for batch in plan(data, "x-y", steps=100, size=5):
        assert len({data.queries[q].group for q in batch.queries}) == 5


def test_the_same_seed_repeats_and_another_seed_differs(data):
    """Claim: both directions, for the order (en-en draws nothing else) and for all draws together.

    Catches: a generator that ignores its seed (PITFALLS 8).
    """
    for batching in ("en-en", "hybrid"):
        runs = [[(b.queries, b.passages) for b in plan(data, batching, seed=s)] for s in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]


def test_more_steps_begin_with_the_same_batches(data):
    """Claim: batch t depends on t, not on the number of steps, so that a resumed run can replay."""
    short, long = plan(data, "hybrid", steps=10), plan(data, "hybrid", steps=50)
    assert [b.queries for b in short] == [b.queries for b in long[:10]]


def test_shared_gold_sentences_are_masked_across_languages(tmp_path):
    """Claim: two questions with one English gold sentence are false negatives in any language pair.

    Number: q0 and q1 share e0 in English; their German gold differs. q0 de x q1 en's passage is masked.
    Catches: masks that look at text, at the query's own language, or at query groups.
    """
    corpus = [{"_id": i, "lang": i[-2:], "text": "t"} for i in ("e0.en", "d0.de", "d1.de", "e2.en", "d2.de")]
    queries = [{"_id": f"q{n}.{a}", "lang": a, "text": "t", "group": f"q{n}"} for n in range(3) for a in ("en", "de")]
    gold = {0: ("e0.en", "d0.de"), 1: ("e0.en", "d1.de"), 2: ("e2.en", "d2.de")}
    qrels = [f"q{n}.{a}\t{p}\t1" for n in range(3) for a in ("en", "de") for p in gold[n]]
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    pairs = Pairs(data, ["en", "de"])
    batch = pairs.batch("cross", [("q0", "de", "en"), ("q1", "de", "en"), ("q2", "en", "de")], torch.Generator())
    expected = [[False, True, False], [True, False, False], [False, False, False]]
    assert false_negatives(batch.gold, batch.group).tolist() == expected


def test_languages_that_a_question_lacks_are_not_drawn(tmp_path):
    """Claim: as in MLQA, where a question has 2 to 7 languages. Catches: KeyError, or a skipped row."""
    corpus = [{"_id": i, "lang": i[-2:], "text": "t"} for i in ("a.en", "a.de", "b.en", "b.th", "c.en")]
    queries = [{"_id": f"q{i}", "lang": i[-2:], "text": "t", "group": i[0]} for i in ("a.en", "a.de", "b.en", "b.th", "c.en")]
    qrels = [f"q{i}\t{j}\t1" for i in ("a.en", "a.de", "b.en", "b.th", "c.en") for j in
             ("a.en", "a.de", "b.en", "b.th", "c.en") if i[0] == j[0]]  # fmt: skip
    data = load_data(write_folder(tmp_path, corpus, queries, qrels))
    found = plan(data, "x-y", steps=20, size=2)
    assert {data.queries[q].group for b in found for q in b.queries} == {"a", "b"}, "c has one language"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batching": "y-x"}, "'y-x' is unknown"),
        ({"alpha": 1.5}, "--alpha 1.5"),
        ({"size": 13}, "--batch-size 13 is larger than the data: 12 pairs"),
        ({"langs": ["en", "xx"]}, "unknown language 'xx'"),
        ({"langs": ["en"], "batching": "x-y"}, "larger than the data: 0 pairs"),
    ],
)
def test_what_cannot_be_batched_is_refused(data, arguments, message):
    """Claim: one sentence with the value. Catches: an endless loop over too little data."""
    with pytest.raises(ValueError, match=message):
        plan(data, **({"batching": "hybrid"} | arguments))
