"""Rung 13: queries under attack become records, counts and folders that one can check again.

Checks: evaluate.py, "under attack", and what it computes and keeps.
Before: rungs 6, 9, 10 and 12. Run: pytest tests/test_13_attacked.py
"""

import io
import json
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QRELS, QUERIES, ROOT, write_folder
from pytest import approx

import attacks
import evaluate
from attacks import AttackedQuery, Slot
from evaluate import CLEAN, METRICS, VIEWS, Cell, Condition, condition_of
from xlt import Encoder, Text, load_data, load_encoder, write_record

NAN = float("nan")
MODEL = ROOT / "data/tiny_xlmr"
IDENTITY, GREEDY = Condition("identity"), Condition("greedy")
EXACT, RANDOM = Condition("exact", (("limit", 60),)), Condition("random", (("edits", 2.0),))


@dataclass
class Run:
    """What a call of evaluate.py did."""

    code: int
    out: str
    err: str
    metrics: dict  # the content of metrics.json

    def records(self, condition):
        """(view, query language, passage language) -> record, of one condition."""
        records = {}
        for record in self.metrics["results"]:
            if condition_of(record) == condition:
                cell = record["view"], record["query_lang"], record["passage_lang"]
                assert cell not in records, "a record stands twice"
                records[cell] = record
        return records


def run(data, *flags, out=None):
    """Run evaluate.py with the bundled model; without `out` the results go to data/out."""
    if out is None:
        out = data / "out"
    arguments = [MODEL, "--data", data, "--out", out, *flags]
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as errors:
        code = evaluate.main([str(argument) for argument in arguments])
    metrics = {}
    if (out / "metrics.json").exists():
        metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return Run(code, printed.getvalue(), errors.getvalue(), metrics)


def read_rows(path):
    """The rows of a JSON lines file."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


# ---- counts by hand ------------------------------------------------------------------------------

RED, BIG = Slot(2, 5, ("rose",)), Slot(6, 9, ("wide", "vast"))


def target_of(text, edits=None, slots=(RED,)):
    """A query after an attack that made these edits, (start, end) -> new word."""
    if edits is None:
        edits = {}
    return AttackedQuery(0, "pool", Text("", "en", text, ""), list(slots), edits=edits)


# R@1 before and after: broken, still right, always wrong, nothing to replace, nothing to find
BEFORE = np.array([0.5, 1.0, 0.0, 0.5, NAN])
AFTER = np.array([0.0, 1.0, 0.0, 0.0, NAN])


def attacked_targets():
    """Their queries: 1, 2, 0, 0 and 1 words changed, 3, 2, 1, 0 and 9 texts encoded."""
    both = {RED.span: "rose", BIG.span: "wide"}
    targets = [
        target_of("a red big car", {RED.span: "rose"}),
        target_of("a red big cat", both, slots=[RED, BIG]),
        target_of("a red hat"),
        target_of("a hat", slots=[]),
        target_of("a red cap", {RED.span: "rose"}),
    ]
    for target, calls in zip(targets, (3, 2, 1, 0, 9), strict=True):
        target.asked = set(map(str, range(calls)))
    return targets


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("n_attacked", 3),
        ("n_changed", 2),
        ("n_right", 2),
        ("n_broken", 1),
        ("edits", 3 / 4),
        ("calls", 6 / 4),
        ("norm", 0.0),
    ],
)
def test_counts_are_over_the_queries_that_have_something_to_find(key, expected):
    """Number: the five queries above. The first three are attacked, two of them were right, one is
    broken; the fourth is not attacked, whatever became of it; the last one does not count.

    Catches: the last one among the attacked (4), the changed (3), in edits (4/5) and calls (15/5);
    the third or fourth among the broken (2), the fourth among the right (3).
    """
    counts = evaluate.success_counts(attacked_targets(), BEFORE, AFTER)
    assert counts[key] == expected


def test_a_query_under_noise_is_attacked_and_changed_without_any_edit():
    """Number: a norm of .5 and one of 0: their mean is .25. Catches: noise that counts as none."""
    noisy = replace(target_of("a red hat", slots=[]), norm=0.5)
    calm = target_of("a red cat", slots=[])
    counts = evaluate.success_counts([noisy, calm], np.ones(2), np.ones(2))
    assert (counts["n_attacked"], counts["n_changed"], counts["norm"]) == (1, 1, 0.25)


def searched_target(exhaustive, margins):
    """A query that exact has searched; margins: the worst of each pool, None if it gave up."""
    worst = None
    if margins:
        worst = torch.tensor(margins)
    return replace(target_of("a red hat"), exhaustive=exhaustive, worst=worst)


# Worst margins in German, English and the pool
SEARCHED = [
    searched_target(True, [0.3, 0.2, 0.1]),
    searched_target(True, [0.3, -0.2, -0.2]),
    searched_target(False, None),
    searched_target(True, [0.3, 0.0, NAN]),
]


@pytest.mark.parametrize(("column", "expected"), [(0, 0.75), (1, 0.25), (2, 0.5)])
def test_certified_recall_counts_right_answers_whose_worst_margin_is_above_zero(column, expected):
    """Number: of four right queries three are safe in German, one in English (a margin of 0 is lost
    to a tie) and two in the pool, the last of them because all candidates are relevant (NaN).

    Catches: another pool's margin, >= 0, a search that gave up; an answer that nothing can break.
    """
    counts = evaluate.certified_counts(SEARCHED, np.ones(4), column)
    assert counts["certified R@1"] == expected


def test_certified_recall_is_a_recall():
    """Number: with two relevant passages a right answer has R@1 = 1/2: (1/2 + 0 + 0) / 3, the last
    query has nothing to find and is left out.

    Catches: certified R@1 above R@1; NaN that counts as 0, 1/8.
    """
    before = np.array([0.5, 0.5, 0.5, NAN])
    counts = evaluate.certified_counts(SEARCHED, before, column=2)
    assert counts["certified R@1"] == approx(0.5 / 3, abs=1e-6)


def test_the_queries_that_were_searched_exhaustively_are_counted():
    """Number: three of four. Catches: a certified R@1 of .25 that a limit has made, and no hint."""
    counts = evaluate.certified_counts(SEARCHED, np.ones(4), column=0)
    assert counts["n_exhaustive"] == 3


def test_a_query_with_nothing_to_find_is_not_counted_as_searched():
    """Number: of the three the last one has nothing to find. Catches: n_exhaustive > n_queries."""
    before = np.array([1.0, 1.0, 1.0, NAN])
    counts = evaluate.certified_counts(SEARCHED, before, column=0)
    assert counts["n_exhaustive"] == 2


# ---- an example for people -----------------------------------------------------------------------


def example_of(targets, before, after):
    """The examples of a cell, from the first ranks before and after."""
    cell = Cell("pool", "en", "*", np.arange(len(targets)))
    ranks = [{"first_rank": np.array(column, dtype=float)} for column in (before, after)]
    return evaluate.deepest_fall(GREEDY, cell, targets, *ranks)


ROSE, WIDE = {RED.span: "rose"}, {BIG.span: "wide"}


def test_the_example_is_the_deepest_fall():
    """Number: one edit each; from rank 1 to 2, 8 and 3. Catches: the first; the smallest fall."""
    targets = [target_of(text, ROSE) for text in ("a red car", "a red cat", "a red hat")]
    (example,) = example_of(targets, [1, 1, 1], [2, 8, 3])
    assert example["text"] == "a red cat"
    assert (example["before"], example["after"]) == (1, 8)


def test_an_example_with_fewer_edits_goes_before_a_deeper_fall():
    """Number: two edits to rank 9, one to rank 8. Catches: an example that nobody understands."""
    targets = [target_of("a red big car", ROSE | WIDE), target_of("a red big cat", ROSE)]
    (example,) = example_of(targets, [1, 1], [9, 8])
    assert example["text"] == "a red big cat"


@pytest.mark.parametrize(("before", "after"), [(2, 9), (1, 1), (0, 0)])
def test_what_was_not_broken_is_no_example(before, after):
    """Number: wrong before; right afterwards; nothing to find. Catches: a fall from rank 2."""
    targets = [target_of("a red car", ROSE)]
    assert example_of(targets, [before], [after]) == []


def test_a_query_without_edits_is_no_example():
    """Claim: under noise there is nothing to show. Catches: a text that did not change."""
    assert example_of([target_of("a red car")], [1], [8]) == []


def test_an_example_says_where_it_comes_from_and_what_was_changed():
    """Number: by hand. Catches: edits that do not fit the text; an example without its attack."""
    target = target_of("a red big car", ROSE | WIDE)
    (example,) = example_of([target], [1], [8])
    assert condition_of(example) == GREEDY
    assert (example["view"], example["lang"]) == ("pool", "en")
    assert example["edits"] == [[2, 5, "rose"], [6, 9, "wide"]]


def test_changed_words_are_marked_for_people():
    """Number: by hand. Catches: spans that move when an earlier word becomes longer."""
    target = target_of("a red big car", ROSE | {BIG.span: "vast"})
    assert evaluate.marked(target) == "a [red→rose] [big→vast] car"


# ---- a story: attacks on three languages, of which Thai has no table -----------------------------


@dataclass
class Story:
    """14 questions in three languages against 147 facts; the same --out, three times."""

    folder: Path
    clean: Run
    first: Run  # identity, greedy, exact
    again: Run  # random, and greedy once more
    towers: list  # what the second run encoded, call by call: "query" or "passage"


def write_story(folder, minifacts):
    """Dev facts in English, German and Thai; no Thai synonyms."""
    dev = sorted({minifacts.queries[query].group for query in minifacts.qrels["dev"]})
    texts = {}
    for name, groups in (("passages", dev), ("queries", dev[:14])):
        texts[name] = []
        for text in getattr(minifacts, name):
            is_short = text.form == "short"
            if text.group in groups and text.lang in ("en", "de", "th") and not is_short:
                row = {"_id": text.id, "lang": text.lang, "text": text.text}
                row |= {"group": text.group, "answer": text.answer, "form": "question"}
                texts[name].append(row)
    qrels = []
    for query in texts["queries"]:
        for passage in texts["passages"]:
            if passage["group"] == query["group"]:
                qrels.append(f"{query['_id']}\t{passage['_id']}\t1")
    write_folder(folder, texts["passages"], texts["queries"], qrels, ["test"])
    (folder / "synonyms").mkdir()
    for lang in ("en", "de"):
        shutil.copy(ROOT / f"data/minifacts/synonyms/{lang}.json", folder / "synonyms")


@pytest.fixture(scope="module")
def story(minifacts, tmp_path_factory):
    """Run it once for all tests of this part."""
    folder = tmp_path_factory.mktemp("story")
    write_story(folder, minifacts)
    towers, encode = [], Encoder.encode

    def note_tower(encoder, texts, tower, *more):
        towers.append(tower)
        return encode(encoder, texts, tower, *more)

    clean = run(folder)
    attack_flags = ["--attacks", "identity", "greedy", "exact:limit=60"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "encode", note_tower)
        first = run(folder, *attack_flags, "--attack-out", folder / "frozen")
    again = run(folder, "--attacks", "random:edits=2", "greedy")
    return Story(folder, clean, first, again, towers)


def control_of(condition):
    return replace(condition, control=True)


CONTROLS = [control_of(GREEDY), control_of(EXACT)]


@pytest.mark.parametrize("condition", [CLEAN, IDENTITY, GREEDY, EXACT, *CONTROLS])
def test_every_condition_has_a_record_for_every_cell(story, condition):
    """Number: three languages have 3 + 6 + 3 cells. Catches: a view that is not attacked."""
    assert len(story.first.records(condition)) == 12


def test_worst_cases_have_a_control_and_random_attacks_have_none(story):
    """Number: clean, identity, greedy, exact and two controls. Catches: a control of identity."""
    conditions = {condition_of(record) for record in story.first.metrics["results"]}
    assert conditions == {CLEAN, IDENTITY, GREEDY, EXACT, *CONTROLS}


def test_later_runs_add_records_and_change_none(story):
    """Number: 12 clean records, then 72, then 84 in all, each of the earlier ones in its place.

    Catches: records that a second run of greedy moves, doubles or drops.
    """
    clean, first, again = (
        step.metrics["results"] for step in (story.clean, story.first, story.again)
    )
    assert (len(clean), len(first), len(again)) == (12, 72, 84)
    assert first[:12] == clean
    assert again[:72] == first


def test_passages_are_encoded_once_for_all_attacks(story):
    """Claim: only queries change. Catches: a pool that is encoded for every attack or view."""
    assert story.towers.count("passage") == 1
    assert story.towers.count("query") > 10


@pytest.mark.parametrize("metric", METRICS)
def test_identity_has_exactly_the_clean_metrics(story, metric):
    """Claim: an attack that changes nothing measures nothing. Catches: another order of queries in
    vectors and cells. (Vectors of another view are equal here: the frozen folders tell them.)"""
    clean, identity = story.first.records(CLEAN), story.first.records(IDENTITY)
    assert {cell: record[metric] for cell, record in identity.items()} == {
        cell: record[metric] for cell, record in clean.items()
    }


def test_identity_counts_nothing(story):
    """Claim: no query is attacked. Catches: queries that pass for robust."""
    keys = ["n_attacked", "n_changed", "n_right", "n_broken", "edits", "norm", "calls"]
    for record in story.first.records(IDENTITY).values():
        assert [record[key] for key in keys] == [0] * 7


@pytest.mark.parametrize("condition", [GREEDY, EXACT, *CONTROLS])
def test_the_right_before_are_those_of_the_clean_recall(story, condition):
    """Number: 14 queries with one relevant passage, all of them attacked: n_right = 14 R@1.

    Catches: R@1 of another pool or of other queries.
    """
    clean = story.first.records(CLEAN)
    for cell, record in story.first.records(condition).items():
        if record["query_lang"] != "th" and record["view"] != "pool":
            assert record["n_attacked"] == 14
            assert record["n_right"] == round(14 * clean[cell]["R@1"])


@pytest.mark.parametrize("condition", [GREEDY, EXACT, *CONTROLS])
def test_what_is_not_broken_is_right_afterwards(story, condition):
    """Number: with one relevant passage a query n_right - n_broken of 14 are right at least.

    Catches: ranks before taken for those after.
    """
    broken = 0
    for record in story.first.records(condition).values():
        broken += record["n_broken"]
        kept, right = record["n_right"] - record["n_broken"], round(14 * record["R@1"])
        if record["view"] != "pool":
            assert kept <= right
        # A search keeps the clean text where nothing is worse: it repairs no answer
        if record["view"] == "mono" and record["query_lang"] != "th" and not condition.control:
            assert kept == right
    assert broken > 3, "the attack did nothing"


@pytest.mark.parametrize("condition", [GREEDY, EXACT, *CONTROLS])
def test_a_language_without_table_is_not_attacked_and_stays_as_it_is(story, condition):
    """Number: Thai: 0 of 14. Catches: a robust Thai; another query's vector in its place."""
    clean = story.first.records(CLEAN)
    for cell, record in story.first.records(condition).items():
        if record["query_lang"] == "th":
            assert (record["n_attacked"], record["n_changed"], record["n_right"]) == (0, 0, 0)
            assert record["mAP"] == clean[cell]["mAP"]


def test_a_language_without_table_is_told(story):
    """Number: 14 Thai queries. Catches: a mean that holds a third of clean queries, in silence."""
    lines = story.first.err.split("\n")
    assert "greedy: no table (--table LANG=FILE), so not attacked: 14 th queries" in lines


@pytest.mark.parametrize("condition", [GREEDY, EXACT])
def test_a_control_has_as_many_edits_as_its_worst_case(story, condition):
    """Claim: query by query, so in every cell's mean. Catches: a control with all words changed,
    or with none."""
    worst = story.first.records(condition)
    control = story.first.records(control_of(condition))
    for cell, record in control.items():
        assert record["edits"] == worst[cell]["edits"]
        assert (record["edits"] > 1) == (record["query_lang"] != "th")


@pytest.mark.parametrize(
    ("cell", "more"),
    [
        (("mono", "en", "en"), 0.08),
        (("mono", "de", "de"), 0.08),
        (("pool", "en", "*"), 0.015),
        (("pool", "de", "*"), 0.03),
    ],
)
def test_the_worst_case_hurts_more_than_its_control(story, cell, more):
    """Number: mAP of greedy is .086, .083, .019 and .036 below its control's.

    Catches: vectors of the two exchanged.
    """
    worst = story.first.records(GREEDY)[cell]
    control = story.first.records(control_of(GREEDY))[cell]
    assert worst["mAP"] < control["mAP"] - more


@pytest.mark.parametrize("condition", [GREEDY, EXACT, *CONTROLS, RANDOM])
def test_no_attack_breaks_what_is_certified(story, condition):
    """Claim: within the table's words the certificate of exact holds against all of them.

    Catches: a certificate for another pool; queries that were not searched counted as safe.
    """
    certified = story.first.records(EXACT)
    for cell, record in story.again.records(condition).items():
        assert certified[cell]["certified R@1"] <= record["R@1"]


def test_what_cannot_be_changed_is_certified_if_it_is_right(story):
    """Number: Thai has no table: certified R@1 = R@1, in every cell; all 14 are searched.

    Catches: certificates for attacked queries alone.
    """
    for record in story.first.records(EXACT).values():
        if record["query_lang"] == "th":
            assert record["certified R@1"] == record["R@1"] > 0
            assert record["n_exhaustive"] == 14


def test_only_exact_certifies(story):
    """Claim: a search that may have missed something promises nothing. Catches: greedy's worst
    text taken for the worst; a certified control."""
    certified = set()
    for record in story.first.metrics["results"]:
        if "certified R@1" in record:
            certified.add(condition_of(record))
    assert certified == {EXACT}


# ---- frozen folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_frozen_folder_opens_as_data_and_has_the_attacked_metrics(story, view, tmp_path):
    """Claim: on the same model every metric of the attacked view, to the last digit.

    Catches: another view's queries, queries without their edits, qrels that do not fit.
    """
    opened = run(story.folder / f"frozen/greedy-{view}", out=tmp_path)
    attacked = story.first.records(GREEDY)
    for cell, record in opened.records(CLEAN).items():
        if record["view"] == view:
            for metric in METRICS:
                assert record[metric] == attacked[cell][metric], metric


def test_frozen_texts_are_the_clean_ones_with_their_edits(story):
    """Claim: put into the clean text from the right, the edits give the attacked one.

    Catches: spans of the attacked text; a clean text that was overwritten.
    """
    clean = {text.id: text.text for text in load_data(story.folder).queries}
    changed = 0
    for row in read_rows(story.folder / "frozen/greedy-pool/queries.jsonl"):
        assert row["clean"] == clean[row["_id"]]
        text = row["clean"]
        for start, end, new in reversed(row["edits"]):
            text = text[:start] + new + text[end:]
        assert row["text"] == text
        changed += text != row["clean"]
    assert changed > 20, "the attack did nothing"


def test_a_frozen_folder_keeps_all_that_is_known_of_a_query(story):
    """Claim: languages, groups and answers too: who freezes again must not attack the answer.

    Catches: a field that is left out and then has its default.
    """
    texts = {text.id: text for text in load_data(story.folder).queries}
    frozen = load_data(story.folder / "frozen/greedy-mono").queries
    assert len(frozen) == 42
    for text in frozen:
        original = texts[text.id]
        assert text == replace(original, text=text.text)


def test_a_frozen_folder_says_what_was_done_to_it(story):
    """Claim: the condition in fields, the view, the split; the data and model that it comes from.

    Catches: a label that has to be read back; a transfer that nobody can tell from an attack.
    """
    about = json.loads((story.folder / "frozen/greedy-cross/attack.json").read_text())
    assert condition_of(about) == GREEDY
    assert (about["view"], about["split"]) == ("cross", "test")
    for key in ("data_sha256", "model_sha256", "tokenizer_sha256", "no_self_hits"):
        assert about[key] == story.first.metrics[key]
    assert about["encoder"]["query_prefix"] == story.first.metrics["settings"]["query_prefix"]


def read_qrels(folder):
    """query id -> ids of its relevant passages."""
    relevant = {}
    for line in (folder / "qrels/test.tsv").read_text().split("\n")[1:]:
        if line:
            query, passage, _ = line.split("\t")
            relevant.setdefault(query, set()).add(passage)
    return relevant


def is_right(scores, relevant, candidates):
    """Is a relevant passage at rank 1? scores: passage id -> score. Others win every tie."""
    best_relevant = best_other = -2.0
    for passage in candidates:
        if passage in relevant:
            best_relevant = max(best_relevant, scores[passage])
        else:
            best_other = max(best_other, scores[passage])
    return best_relevant > best_other


@dataclass
class FrozenView:
    """A frozen folder, its clean and attacked texts scored by the bundled model."""

    rows: list  # of queries.jsonl
    passages: list  # of corpus.jsonl
    relevant: dict
    clean: list  # for each row: passage id -> score
    attacked: list

    def candidates(self, passage_lang):
        """Ids of the passages of a cell."""
        ids = []
        for passage in self.passages:
            if passage_lang in ("*", passage["lang"]):
                ids.append(passage["_id"])
        return ids


def score_frozen(folder):
    """Open a frozen folder without any help of evaluate.py."""
    rows, passages = read_rows(folder / "queries.jsonl"), read_rows(folder / "corpus.jsonl")
    encoder = load_encoder(MODEL)
    p = encoder.encode([Text("", "en", row["text"], "") for row in passages], "passage")
    scored = []
    for key in ("clean", "text"):
        q = encoder.encode([Text("", "en", row[key], "") for row in rows], "query")
        products = q.double() @ p.double().T  # (Q, D) @ (D, P) -> (Q, P)
        scored.append([])
        for line in products.float().tolist():
            ids = [passage["_id"] for passage in passages]
            scored[-1].append(dict(zip(ids, line, strict=True)))
    return FrozenView(rows, passages, read_qrels(folder), *scored)


@pytest.mark.parametrize("view", VIEWS)
def test_counts_can_be_recomputed_from_the_frozen_folder_alone(story, view):
    """Claim: attacked is who has slots, right who was at rank 1 with the clean text, broken who is
    not any more: for every cell the counts of the records.

    Catches: slots that are left out; clean texts of another view; right counted afterwards.
    """
    frozen = score_frozen(story.folder / f"frozen/greedy-{view}")
    broken = 0
    for cell, record in story.first.records(GREEDY).items():
        if record["view"] != view:
            continue
        candidates = frozen.candidates(record["passage_lang"])
        counts = {"n_attacked": 0, "n_right": 0, "n_broken": 0}
        for i, row in enumerate(frozen.rows):
            if row["lang"] != record["query_lang"] or row["slots"] == 0:
                continue
            relevant = frozen.relevant[row["_id"]]
            right = is_right(frozen.clean[i], relevant, candidates)
            counts["n_attacked"] += 1
            counts["n_right"] += right
            if right and not is_right(frozen.attacked[i], relevant, candidates):
                counts["n_broken"] += 1
        assert counts == {key: record[key] for key in counts}, cell
        broken += counts["n_broken"]
    assert broken >= 3, "the attack did nothing"


def test_examples_are_frozen_texts_with_the_rank_that_they_fell_to(story):
    """Claim: of each language under greedy in the pool; the rank, 1 + the others that score at
    least as high as the best relevant passage, is counted here.

    Catches: another query's rank; a rank in a pool of one language; edits of another view.
    """
    frozen = score_frozen(story.folder / "frozen/greedy-pool")
    langs = []
    for example in story.first.metrics["examples"]:
        if condition_of(example) != GREEDY:
            continue
        (i,) = [i for i, row in enumerate(frozen.rows) if row["_id"] == example["id"]]
        assert example["edits"] == frozen.rows[i]["edits"]
        scores, relevant = frozen.attacked[i], frozen.relevant[example["id"]]
        best = max(scores[passage] for passage in relevant)
        others = [passage for passage in scores if passage not in relevant]
        rank = 1 + sum(scores[passage] >= best for passage in others)
        assert (example["before"], example["after"]) == (1, rank)
        langs.append(example["lang"])
    assert langs == ["de", "en"]


def test_only_worst_cases_have_examples_and_their_controls_have_none(story):
    """Number: greedy and exact broke something in the pool. Catches: a random change shown as what
    an adversary finds."""
    conditions = {condition_of(example) for example in story.first.metrics["examples"]}
    assert conditions == {GREEDY, EXACT}


# ---- what cannot be attacked ---------------------------------------------------------------------


def write_table(folder, **tables):
    """Tables as files; the flags that name them. tables: lang -> word -> replacements."""
    flags = ["--table"]
    for lang, table in tables.items():
        path = folder / f"{lang}.json"
        path.write_text(json.dumps(table))
        flags.append(f"{lang}={path}")
    return flags


@pytest.mark.parametrize(("lang", "n_attacked"), [("en", 1), ("de", 0)])
def test_a_query_with_nothing_to_replace_is_not_attacked(folder, lang, n_attacked):
    """Number: one of two English questions holds "capital", German has no table.

    Catches: robust because never attacked.
    """
    table = write_table(folder, en={"capital": ["seat"]})
    attacked = run(folder, "--attacks", "random:edits=1", *table)
    for record in attacked.records(Condition("random", (("edits", 1.0),))).values():
        if record["query_lang"] == lang:
            assert record["n_attacked"] == record["n_changed"] == n_attacked
            assert record["n_right"] <= n_attacked


def column_of_table(printed, condition, view, name):
    """A cell of the printed table."""
    lines = [line for line in printed.split("\n") if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    head = rows[0]
    for row in rows:
        if condition in row and view in row:
            return row[head.index(name)]
    return None


@pytest.mark.parametrize("view", ["mono", "pool"])
def test_the_table_says_how_many_were_not_attacked(folder, view):
    """Number: three of four, as above. Catches: a success rate of all queries."""
    table = write_table(folder, en={"capital": ["seat"]})
    attacked = run(folder, "--attacks", "random:edits=1", *table)
    assert column_of_table(attacked.out, "random:edits=1", view, "not attacked") == "3"


def test_protected_words_are_not_attacked(folder):
    """Number: with "Capital" in the list nothing is left. Catches: protection that minds case or
    blanks."""
    (folder / "words").write_text("cats\n Capital \n\n")
    table = write_table(folder, en={"capital": ["seat"]})
    attacked = run(folder, "--attacks", "greedy", *table, "--protect", folder / "words")
    counts = [record["n_attacked"] for record in attacked.records(GREEDY).values()]
    assert counts == [0] * 6


@pytest.mark.parametrize(("count", "expected"), [(1, 3), (9, 6)])
def test_changed_queries_are_shown_up_to_a_number_in_each_view(folder, count, expected):
    """Number: two queries are changed in three views. Catches: unchanged ones; views left out."""
    table = write_table(folder, en={"capital": ["seat"], "cats": ["dogs"]})
    attacked = run(folder, "--attacks", "random:edits=1", *table, "--show", count)
    lines = attacked.out.split("\n")
    shown = [line for line in lines if line.startswith("random:edits=1 ")]
    assert len(shown) == expected
    assert "random:edits=1 pool q1.en: What is the [capital→seat]?" in shown


def test_noise_changes_no_text_and_freezes_nothing(folder):
    """Claim: it is said, and no folder is written. Catches: clean queries in an attack's folder."""
    attacked = run(folder, "--attacks", "fgm", "--attack-out", folder / "frozen")
    assert "fgm: changes no text, so --attack-out has nothing to write" in attacked.err
    assert not (folder / "frozen").exists()


def test_noise_attacks_every_query_and_its_control_has_its_norm(folder):
    """Number: fgm goes to the border of its ball, .02 mean norms on every token; so two queries a
    language are attacked in every cell. Catches: noise that counts as no attack; a control without.
    """
    attacked = run(folder, "--attacks", "fgm")
    for condition in (Condition("fgm"), Condition("fgm", control=True)):
        records = attacked.records(condition)
        assert len(records) == 6, condition
        for record in records.values():
            assert record["n_attacked"] == record["n_changed"] == 2
            assert record["norm"] == approx(0.02, abs=1e-4)


# q1.en has one relevant passage, q2.en two; q1.de none in English, q2.de none in English
UNEVEN = ["q1.en\ta.en\t1", "q2.en\tb.en\t1", "q2.en\tb.de\t1", "q1.de\ta.de\t1", "q2.de\tb.de\t1"]
WORDS = {
    "en": {"capital": ["seat"], "eat": ["like"]},
    "de": {"hauptstadt": ["Metropole"], "fressen": ["essen"]},
}


def run_uneven(folder, attack):
    """An attack that can change every query, where not every cell has something to find."""
    write_folder(folder, qrels=UNEVEN)
    return run(folder, "--attacks", attack, *write_table(folder, **WORDS))


N_QUERIES = {
    ("mono", "en", "en"): 2,
    ("cross", "en", "de"): 1,
    ("pool", "en", "*"): 2,
    ("mono", "de", "de"): 2,
    ("cross", "de", "en"): 0,
    ("pool", "de", "*"): 2,
}


@pytest.mark.parametrize("key", ["n_queries", "n_attacked", "n_changed"])
def test_only_queries_with_something_to_find_count_in_a_cell(folder, key):
    """Number: the table above: in cross q1.en has nothing, both German queries have nothing.

    Catches: division by an empty cell; attacked queries that nobody could get right.
    """
    attacked = run_uneven(folder, "random:edits=1")
    records = attacked.records(Condition("random", (("edits", 1.0),)))
    assert {cell: record[key] for cell, record in records.items()} == N_QUERIES


def test_only_queries_with_something_to_find_are_searched_in_a_cell(folder):
    """Number: as above, of exact. Catches: more searched queries than there are."""
    attacked = run_uneven(folder, "exact")
    records = attacked.records(Condition("exact"))
    assert {cell: record["n_exhaustive"] for cell, record in records.items()} == N_QUERIES


def test_the_certified_recall_of_an_uneven_cell_stays_below_its_recall(folder):
    """Number: for q2.en a right answer counts 1/2; where nothing is to be found there is none.

    Catches: 1 for a certified query of two relevant passages.
    """
    attacked = run_uneven(folder, "exact")
    records = attacked.records(Condition("exact"))
    assert records["cross", "de", "en"]["certified R@1"] is None
    assert records["pool", "en", "*"]["R@1"] > 0
    for cell, count in N_QUERIES.items():
        if count:
            assert records[cell]["certified R@1"] <= records[cell]["R@1"]


# ---- the smoothed retriever ----------------------------------------------------------------------

# Of q1.en, q1.de, q2.en, q2.de: right at rank 1 in German, English and the pool; certified there
RIGHT = [[0, 1, 1], [1, 0, 0], [1, 1, 1], [1, 0, 1]]
SAFE = [[0, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]]


@pytest.fixture
def smoothed_records(folder, monkeypatch):
    """Records of the smoothed retriever, with those votes, in the uneven world."""
    votes = torch.tensor([RIGHT, SAFE], dtype=torch.float32).transpose(0, 1)  # (Q, 2, L + 1)
    monkeypatch.setattr(attacks, "smoothed", lambda *_: votes)
    return run_uneven(folder, "smoothed").records(Condition("smoothed"))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (("mono", "en", "en"), (1.0, 0.5)),
        (("cross", "en", "de"), (1.0, 1.0)),
        (("pool", "en", "*"), (0.75, 0.5)),
        (("mono", "de", "de"), (1.0, 0.5)),
        (("cross", "de", "en"), (None, None)),
        (("pool", "de", "*"), (0.5, 0.5)),
    ],
)
def test_votes_are_counted_as_recall(smoothed_records, cell, expected):
    """Number: the pool of English: q1.en 1 of 1, q2.en 1 of 2 relevant passages: R@1 .75, certified
    (1 + 0) / 2. In cross q1.en has nothing to find. Catches: 1 for q2.en; columns exchanged; rows
    of German; queries with nothing to find that count as wrong.
    """
    record = smoothed_records[cell]
    assert (record["R@1"], record["certified R@1"]) == expected


def test_a_vote_has_no_other_metric_than_recall_at_1(smoothed_records):
    """Claim: it knows rank 1 alone. Catches: an mAP of NaN, or of who was right."""
    for record in smoothed_records.values():
        others = [record[metric] for metric in METRICS if metric != "R@1"]
        assert others == [None] * 6


def test_a_vote_counts_only_queries_with_something_to_find(smoothed_records):
    """Number: all have a word to redraw. Catches: more attacked queries than there are."""
    counts = {cell: record["n_attacked"] for cell, record in smoothed_records.items()}
    assert counts == N_QUERIES


# ---- views and languages -------------------------------------------------------------------------


def test_views_may_be_attacked_in_part(folder):
    """Number: clean in six cells, attacked in the two pools. Catches: --attack-views without
    effect; clean records that are left out."""
    attacked = run(folder, "--attacks", "typos", "--attack-views", "pool")
    assert len(attacked.records(CLEAN)) == 6
    typos = attacked.records(Condition("typos"))
    assert list(typos) == [("pool", "de", "*"), ("pool", "en", "*")]


@pytest.mark.parametrize("flags", ["--langs en", "--views pool --attack-views mono"])
def test_a_view_without_cells_is_passed_over(folder, flags):
    """Number: one language has no cross; mono is not among the views. Catches: a program that ends
    with "max() arg is an empty sequence"."""
    assert run(folder, "--attacks", "typos", *flags.split()).code == 0


def test_single_queries_have_a_row_for_every_query_of_the_split(tmp_path):
    """Number: the fifth query is Thai and has no Thai passage: NaN in mono, as in the clean array.

    Catches: arrays of four and five rows that cannot be paired.
    """
    thai = {"_id": "q2.th", "lang": "th", "text": "แมวกินอะไร", "group": "q2"}
    write_folder(tmp_path, queries=[*QUERIES, thai], qrels=[*QRELS, "q2.th\tb.en\t1"])
    run(tmp_path, "--attacks", "typos")
    arrays = np.load(tmp_path / "out/metrics.npz")
    assert len(arrays["clean|mono|mAP"]) == 5
    assert len(arrays["typos|mono|mAP"]) == 5


# ---- tables and other refusals -------------------------------------------------------------------


def test_another_table_is_refused_before_the_work(folder, monkeypatch):
    """Claim: records of one table are neither replaced by those of another nor mixed with them.

    Catches: records known by the attack alone.
    """
    table = write_table(folder, en={"capital": ["seat"]})
    first = run(folder, "--attacks", "random", *table)
    monkeypatch.setattr(Encoder, "encode", None)  # no work
    table = write_table(folder, en={"capital": ["town"]})
    second = run(folder, "--attacks", "random", *table)
    assert second.code == 1
    assert "random is of another --table" in second.err
    assert second.metrics == first.metrics


def test_another_list_of_protected_words_is_another_table(folder):
    """Number: a list without effect is one, too. Catches: a hash of the table alone."""
    table = write_table(folder, en={"capital": ["seat"]})
    (folder / "words").write_text("cats\n")
    run(folder, "--attacks", "random", *table)
    second = run(folder, "--attacks", "random", *table, "--protect", folder / "words")
    assert "random is of another --table" in second.err


def test_the_same_table_from_another_file_is_no_other_table(folder):
    """Claim: the content counts. Catches: a hash of paths, other on every machine."""
    table = write_table(folder, en={"capital": ["seat"]})
    run(folder, "--attacks", "random", *table)
    (folder / "moved").mkdir()
    table = write_table(folder / "moved", en={"capital": ["seat"]})
    assert run(folder, "--attacks", "random", *table).code == 0


def test_a_frozen_folder_that_was_changed_is_other_data(story, tmp_path):
    """Number: one blank more. Catches: results of another text beside those of the frozen one."""
    frozen = shutil.copytree(story.folder / "frozen/greedy-mono", tmp_path / "frozen")
    assert run(frozen, "--views", "mono").code == 0
    path = frozen / "queries.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("?", " ?", 1), encoding="utf-8")
    again = run(frozen, "--views", "mono")
    assert again.code == 1
    assert "holds results of another data_sha256" in again.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("gredy", "attack 'gredy' is unknown"),
        ("pgd:epsilon=-1", "epsilon is -1; it is at least 0"),
        ("greedy:hue=2", "no setting 'hue'"),
        ("greedy", "Give --table LANG=FILE"),
        ("code-switch", "no such dictionary"),
        ("greedy --table en=x.json", "x.json: no such table"),
        ("greedy --table en=DIR/corpus.jsonl", "corpus.jsonl: not JSON"),
        ("greedy --table en=DIR/latin1.json", "latin1.json: "),
        ("typos --protect x.txt", "x.txt"),
    ],
)
def test_wrong_input_is_one_clear_sentence(folder, flags, message):
    """Claim: exit code 1 and one line that names the culprit. Catches: tracebacks; an error without
    its file."""
    (folder / "latin1.json").write_bytes('{"Stra\xdfe": ["Weg"]}'.encode("latin-1"))
    flags = flags.replace("DIR", str(folder)).split()
    refused = run(folder, "--attacks", *flags)
    assert refused.code == 1
    assert refused.err.startswith("evaluate.py: ")
    assert refused.err.count("\n") == 1
    assert message in refused.err


# ---- what is there is not computed again ---------------------------------------------------------


@pytest.fixture
def work(monkeypatch):
    """What was done: "passages" whenever they are encoded, and the label of every attack."""
    done = []
    encode, attack_queries = Encoder.encode, attacks.attack_queries

    def note_encoding(encoder, texts, tower, *more):
        if tower == "passage":
            done.append("passages")
        return encode(encoder, texts, tower, *more)

    def note_attack(items, encoder, pools, attack, *more):
        done.append(attack.label)
        return attack_queries(items, encoder, pools, attack, *more)

    monkeypatch.setattr(Encoder, "encode", note_encoding)
    monkeypatch.setattr(attacks, "attack_queries", note_attack)
    return done


def kill(*args):
    raise KeyboardInterrupt


@pytest.fixture
def measured(folder, work):
    """The world of four sentences, evaluated under typos; what was done is forgotten."""
    run(folder, "--attacks", "typos")
    assert work == ["passages", "typos"]
    work.clear()
    return folder


def read_out(folder):
    """The bytes of both files."""
    return [(folder / f"out/metrics.{suffix}").read_bytes() for suffix in ("json", "npz")]


def written_at(folder):
    """When both files were written."""
    paths = [folder / f"out/metrics.{suffix}" for suffix in ("json", "npz")]
    return [path.stat().st_mtime_ns for path in paths]


def test_a_second_run_computes_nothing_and_changes_no_byte(measured, work):
    """Claim: the program only reads. Catches: work done twice; files that are written again."""
    before, times = read_out(measured), written_at(measured)
    assert run(measured, "--attacks", "typos").code == 0
    assert work == []
    assert read_out(measured) == before
    assert written_at(measured) == times


def test_a_second_run_prints_the_same_table(measured):
    """Claim: it shows what is there. Catches: a table of what was computed this time, nothing."""
    first, second = run(measured, "--attacks", "typos"), run(measured)
    assert "| typos" in first.out
    assert first.out == second.out


def test_a_new_attack_is_computed_alone(measured, work):
    """Claim: typos is not repeated, its records stay. Catches: work done twice."""
    before = run(measured).metrics["results"]
    after = run(measured, "--attacks", "typos", "typos-greedy").metrics["results"]
    assert work == ["passages", "typos-greedy"]
    assert after[: len(before)] == before
    assert len(after) > len(before)


@pytest.mark.parametrize(
    "flags", ["typos:edits=2", "typos --attack-seed 3", "typos --attack-seed 3 --attack-views mono"]
)
def test_other_settings_or_another_seed_are_another_attack(measured, work, flags):
    """Claim: they are computed, and what was there stays. Catches: an attack known by its name."""
    before = run(measured).metrics["results"]
    after = run(measured, "--attacks", *flags.split()).metrics["results"]
    assert len(work) == 2
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_a_view_that_was_not_attacked_is_computed(folder, work):
    """Number: mono, then mono and pool. Catches: an attack that counts as done in all views."""
    flags = ["--attacks", "typos", "--attack-views", "mono"]
    run(folder, *flags)
    after = run(folder, *flags, "pool")
    assert work == ["passages", "typos"] * 2
    assert {record["view"] for record in after.records(Condition("typos")).values()} == {
        "mono",
        "pool",
    }


def test_records_without_their_single_queries_are_computed_again(measured, work):
    """Number: metrics.npz is gone; then both files are as they were, byte for byte.

    Catches: records that can never be paired; dates in the files.
    """
    before = read_out(measured)
    (measured / "out/metrics.npz").unlink()
    run(measured, "--attacks", "typos")
    assert work == ["passages", "typos"]
    assert read_out(measured) == before


def test_single_queries_without_their_records_are_computed_again(measured, work):
    """Number: metrics.json is gone, and metrics.npz holds one attack more than is asked for.

    Catches: stale queries; records that are lost because the arrays are there.
    """
    before = read_out(measured)
    run(measured, "--attacks", "typos-greedy")
    (measured / "out/metrics.json").unlink()
    run(measured, "--attacks", "typos")
    assert work[-2:] == ["passages", "typos"]
    assert read_out(measured) == before


def test_an_attack_that_was_written_by_half_is_computed_again(measured, work, monkeypatch):
    """Claim: whichever of the two files is written first, a kill before the second loses nothing.

    Catches: single queries that stand for records which were never written.
    """
    flags = ["--attacks", "typos", "typos-greedy"]
    with monkeypatch.context() as killed:
        killed.setattr(evaluate, "write_record", kill)
        with pytest.raises(KeyboardInterrupt):
            run(measured, *flags)
    done = run(measured, *flags)
    assert work == ["passages", "typos-greedy"] * 2
    assert len(done.records(Condition("typos-greedy"))) == 6


def test_a_view_that_is_not_asked_for_is_not_attacked(folder, work):
    """Number: mono is not among the views at first; asked for, it has its two cells.

    Catches: arrays of NaN that pass for an attack.
    """
    run(folder, "--attacks", "typos", "--views", "pool", "--attack-views", "mono", "pool")
    assert not any(name.startswith("typos|mono") for name in np.load(folder / "out/metrics.npz"))
    after = run(folder, "--attacks", "typos", "--views", "mono")
    assert work == ["passages", "typos"] * 2
    cells = [cell for cell in after.records(Condition("typos")) if cell[0] == "mono"]
    assert len(cells) == 2


def test_attacked_vectors_that_are_not_finite_are_refused(folder, monkeypatch):
    """Claim: exit code 1. Catches: NaN scores of attacked queries, which compare false: rank 1."""
    attack_queries = attacks.attack_queries

    def spoil(*args):
        return attack_queries(*args) * NAN

    monkeypatch.setattr(attacks, "attack_queries", spoil)
    refused = run(folder, "--attacks", "typos")
    assert refused.code == 1
    assert "not finite" in refused.err


@pytest.mark.parametrize("flag", ["--trec", "--attack-out"])
def test_what_is_to_be_written_is_computed_again(measured, work, flag):
    """Claim: the files are there afterwards. Catches: a flag without effect on the second day."""
    run(measured, "--attacks", "typos", flag, measured / "files")
    assert work == ["passages", "typos"]
    assert list((measured / "files").iterdir())


def test_an_arrow_is_shown_where_the_terminal_has_ascii_alone(measured, monkeypatch):
    """Claim: "\\u2192" in place of the arrow. Catches: UnicodeEncodeError after the work."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    flags = ["--langs", "en", "de", "--attacks", "typos", "--show", "1"]
    code = evaluate.main([str(MODEL), "--data", str(measured), *flags])
    screen.seek(0)
    assert code == 0
    assert "\\u2192" in screen.read()


def test_a_query_without_relevant_passages_stays_in_the_frozen_split(folder):
    """Number: q1.de is judged, with a score of 0; q2.en has .12345678. Catches: one query less, so
    that nothing can be paired; a relevance of six digits."""
    qrels = ["q1.en\ta.en\t1", "q1.de\ta.de\t0", "q2.en\tb.en\t0.12345678"]
    write_folder(folder, qrels=qrels)
    flags = ["--attacks", "random:edits=1", *write_table(folder, **WORDS)]
    assert run(folder, *flags, "--attack-out", folder / "frozen").code == 0
    before, after = load_data(folder), load_data(folder / "frozen/random_edits=1-pool")
    assert after.qrels["test"] == {
        i: before.qrels["test"][query] for i, query in enumerate(before.qrels["test"])
    }
    assert len(after.qrels["test"]) == 3


def test_views_that_were_not_asked_for_have_no_row_of_chance(folder):
    """Number: the pool alone. Catches: rows of dashes for mono and cross."""
    printed = run(folder, "--views", "pool").out
    lines = [line for line in printed.splitlines() if "chance" in line]
    assert len(lines) == 1
    assert "pool" in lines[0]


def test_frozen_queries_are_not_lost_to_those_of_another_attack(folder):
    """Number: greedy on all languages, then on English alone, into one folder: refused, and the
    first one's queries are there. The same call again is none of these.

    Catches: half of the queries replaced by a second call.
    """
    table, frozen = write_table(folder, **WORDS), folder / "frozen"
    flags = ["--attacks", "greedy", *table, "--attack-out", frozen]
    run(folder, *flags)
    before = (frozen / "greedy-pool/queries.jsonl").read_bytes()
    second = run(folder, *flags, "--langs", "en", "--out", folder / "other")
    assert second.code == 1
    assert "holds queries of another langs" in second.err
    assert (frozen / "greedy-pool/queries.jsonl").read_bytes() == before
    assert run(folder, *flags).code == 0


def test_queries_frozen_by_an_older_program_are_not_called_others(folder):
    """Number: attack.json without the encoder's settings. Catches: "of another encoder (None)"."""
    flags = ["--attacks", "typos", "--attack-out", folder / "frozen"]
    run(folder, *flags)
    file = folder / "frozen/typos-pool/attack.json"
    about = json.loads(file.read_text())
    write_record(file, {key: about[key] for key in about if key not in ("encoder", "checksum")})
    answer = run(folder, *flags, "--out", folder / "other")
    assert answer.code == 1
    assert "does not say its encoder: an older evaluate.py's" in answer.err


def test_attacked_queries_replace_no_other_files(folder):
    """Claim: refused before the work. Catches: a data set of somebody's that is overwritten."""
    other = folder / "frozen/typos-pool"
    other.mkdir(parents=True)
    (other / "queries.jsonl").write_text("all my work")
    answer = run(folder, "--attacks", "typos", "--attack-out", folder / "frozen")
    assert answer.code == 1
    assert "no attacked queries" in answer.err
    assert (other / "queries.jsonl").read_text() == "all my work"


def test_records_without_their_files_are_measured_again(measured, work):
    """Claim: killed between metrics.npz and metrics.json, typos has arrays and no records.

    Catches: an attack that counts as measured and is in no table.
    """
    path = next(measured.rglob("metrics.json"))
    metrics = evaluate.read_metrics(path)
    metrics["results"] = [r for r in metrics["results"] if r["attack"] != "typos"]
    write_record(path, metrics)
    assert len(run(measured, "--attacks", "typos").records(Condition("typos"))) > 0
    assert work == ["passages", "typos"]


def test_what_is_to_be_shown_is_computed_again(measured):
    """Number: four queries in three views. Catches: --show without effect on the second day."""
    assert run(measured, "--attacks", "typos", "--show", 9).out.count("→") == 12


def test_lir_is_not_computed_again(measured, work):
    """Number: r 1, again, r 2. Catches: LIR known as clean, so that r 2 is never computed."""
    run(measured, "--lir", 1)
    run(measured, "--lir", 1)
    assert work == ["passages"]
    last = run(measured, "--lir", 1, 2)
    assert work == ["passages"] * 2
    assert len(last.records(Condition(lir=2))) == 6


def test_centring_is_not_computed_again(measured, work):
    """Number: centring, again, with LIR. Catches: centring known as clean or as LIR."""
    run(measured, "--centre")
    run(measured, "--centre")
    assert work == ["passages"]
    last = run(measured, "--centre", "--lir", 1)
    assert work == ["passages"] * 2
    assert len(last.records(Condition(centred=True))) == 6


def test_a_vote_is_not_computed_again(folder, work):
    """Claim: it has no single queries, and needs none. Catches: hours of votes every time."""
    table = write_table(folder, **WORDS)
    flags = ["--attacks", "smoothed:samples=9", *table]
    run(folder, *flags)
    work.clear()
    assert run(folder, *flags).code == 0
    assert work == []


def test_a_vote_is_computed_in_views_that_come_later(folder, work):
    """Number: the pool, then mono too. Catches: mono left out, since it was not ranked before."""
    table = write_table(folder, **WORDS)
    vote = ["--attacks", "smoothed:samples=9", *table]
    run(folder, "--views", "pool", *vote)
    later = run(folder, "--views", "mono", "pool", *vote)
    records = later.records(Condition("smoothed", (("samples", 9),)))
    assert {view for view, _, _ in records} == {"mono", "pool"}


def test_a_vote_in_a_single_language_is_not_computed_again(folder, work):
    """Number: English alone has no cross. Catches: a vote that can never be complete."""
    table = write_table(folder, **WORDS)
    flags = ["--langs", "en", "--attacks", "smoothed:samples=9", *table]
    run(folder, *flags)
    work.clear()
    run(folder, *flags)
    assert work == []


def test_a_single_language_is_not_computed_again(folder, work):
    """Number: English alone has no cross. Catches: a view that can never be complete."""
    run(folder, "--langs", "en")
    work.clear()
    run(folder, "--langs", "en")
    assert work == []
