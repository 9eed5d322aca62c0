"""Rung 6: vectors become ranks, ranks metrics, metrics a table that one can trust.

Builds: evaluate.py. Before: rungs 0 and 1. Run: pytest tests/test_06_evaluate.py
"""

import dataclasses
import json
import math
import random

import numpy as np
import pytest
import torch
from conftest import CORPUS, QRELS, QUERIES, write_folder

import evaluate
from evaluate import chance, measure, rank_queries, records, relevant_ranks, table
from xlt import load_data


def oracle(scores, gains):
    """Rank by a full sort, ties against us, and every metric in loops. gains: passage -> gain > 0."""
    order = sorted(range(len(scores)), key=lambda j: (-scores[j], gains.get(j, 0)))
    hits = [i + 1 for i, j in enumerate(order) if j in gains]
    ap = lambda cut: sum((k + 1) / r for k, r in enumerate(hits) if r <= cut) / len(hits)
    dcg = sum(gains.get(j, 0) / math.log2(i + 2) for i, j in enumerate(order[:10]))
    best = sorted(gains.values(), reverse=True)[:10]
    return {
        "mAP": ap(10**9), "mAP@20": ap(20),
        "R@1": sum(r <= 1 for r in hits) / len(hits),
        "R@10": sum(r <= 10 for r in hits) / len(hits),
        "MRR@10": 1 / hits[0] if hits[0] <= 10 else 0.0,
        "nDCG@10": dcg / sum(g / math.log2(i + 2) for i, g in enumerate(best)),
        "rank_distance": hits[-1] - hits[0] if len(hits) > 1 else None,
    }  # fmt: skip


def one(scores, relevant, gains=None):
    """Ranks of one query's relevant passages."""
    gains = gains or [1.0] * len(relevant)
    return relevant_ranks(torch.tensor([scores]), torch.tensor([relevant]), torch.tensor([gains]))


def test_average_precision_divides_by_all_relevant_passages():
    """Number: hits at ranks 1 and 3, a third relevant one at 1000: (1/1 + 2/3 + 3/1000) / 3 = 0.5566.

    Catches: dividing by the hits found in the top 20, 0.8333.
    """
    found = measure(np.array([[1, 3, 1000]]), np.ones((1, 3)))
    assert found["mAP"][0] == pytest.approx((1 + 2 / 3 + 3 / 1000) / 3)
    assert found["mAP@20"][0] == pytest.approx((1 + 2 / 3) / 3)
    assert found["R@10"][0] == pytest.approx(2 / 3) and found["rank_distance"][0] == 999


def test_a_constant_scorer_gets_the_worst_rank_among_its_ties():
    """Number: five passages, two relevant, all scores 0: ranks 4 and 5, so MRR@10 is 1/4, not 1.

    Catches: ties in favour of the relevant passage (MTEB once gave 1.0).
    """
    ranks, _ = one([0.0] * 5, [1, 3])
    assert ranks.tolist() == [[4, 5]]


def test_ties_do_not_depend_on_where_the_relevant_passage_stands():
    """Claim: first or last column, the rank is the same. Number: one of three tied: rank 3."""
    assert one([1.0, 1.0, 1.0], [0])[0].item() == one([1.0, 1.0, 1.0], [2])[0].item() == 3


def test_metrics_agree_with_a_full_sort_on_1000_random_rankings_with_ties():
    """Claim: seven metrics, sizes 2 to 60, graded gains, scores from few values, padding, to 1e-9."""
    rng = random.Random(7)
    for _ in range(1000):
        size = rng.randint(2, 60)
        scores = [rng.choice([0.0, 0.25, 0.5, 1.0, rng.random()]) for _ in range(size)]
        chosen = rng.sample(range(size), rng.randint(1, min(size, 12)))
        gains = {j: float(rng.choice([1, 1, 2, 3])) for j in chosen}
        row = [*chosen, -1, -1]
        weights = [*gains.values(), 0.0, 0.0]
        expected = oracle(torch.tensor(scores).tolist(), gains)
        ranks, ordered = one(scores, row, weights)
        found = measure(ranks.numpy(), ordered.numpy())
        for name, value in expected.items():
            got = float(found[name][0])
            assert math.isnan(got) if value is None else got == pytest.approx(value, abs=1e-6), name


@pytest.fixture
def world(tmp_path):
    """Two meanings, two languages; vectors are [meaning, strength * language]."""
    data = load_data(write_folder(tmp_path))
    everything = list(range(4))

    def vectors(strength):
        rows = [[1.0, 0, strength, 0], [1, 0, 0, strength], [0, 1, strength, 0], [0, 1, 0, strength]]
        return torch.tensor(rows)

    return data, everything, vectors


@pytest.mark.parametrize(("strength", "expected"), [(0.9, 1.0), (1.1, 5 / 6)])
def test_language_bias_in_four_vectors(world, strength, expected):
    """Number: at 0.9 both translations lead: AP 1. At 1.1 the other meaning of the own language
    (score 1.21) comes between them (2.21 and 1): AP (1 + 2/3) / 2 = 5/6. Mono stays 1.
    """
    data, ids, vectors = world
    found = rank_queries(vectors(strength), vectors(strength), data, ids, ids, "test", ["en", "de"])
    rows = records(found, data, ids, "clean")
    value = {(r["view"], r["query_lang"], r["passage_lang"]): r["mAP"] for r in rows}
    assert value["pool", "en", "*"] == pytest.approx(expected, abs=1e-6)
    assert value["mono", "de", "de"] == 1.0 and value["cross", "de", "en"] == 1.0
    assert len(rows) == 6  # two languages x (two pools of one language + the pool of all)


def test_views_hold_one_relevant_passage_a_language_and_all_in_the_pool(world):
    """Claim: rank distance is of the pool alone. Number: 1.1: ranks 1 and 3, distance 2."""
    data, ids, vectors = world
    found = rank_queries(vectors(1.1), vectors(1.1), data, ids, ids, "test", ["en", "de"])
    rows = records(found, data, ids, "clean")
    distance = {r["view"]: r["rank_distance"] for r in rows}
    assert distance == {"mono": None, "cross": None, "pool": 2.0}
    assert all(r["n_queries"] == 2 and r["n_left_out"] == 0 for r in rows)


def test_the_block_size_changes_no_rank(minifacts):
    """Claim: blocks of 1, 7 and 512 give equal metrics, bit for bit. Number: passages that differ by
    3e-7, so that rounding decides their order. Catches: fp32 products, which depend on the block.
    """
    rng = torch.Generator().manual_seed(0)
    queries = sorted(minifacts.qrels["test"])[:60]
    passages = list(range(0, len(minifacts.passages), 3))
    base, noise = torch.randn(1, 128, generator=rng), torch.randn(len(passages), 128, generator=rng)
    p = torch.nn.functional.normalize(base + 3e-7 * noise, dim=1)
    q = torch.nn.functional.normalize(torch.randn(len(queries), 128, generator=rng), dim=1)
    langs = minifacts.langs()
    runs = [rank_queries(q, p, minifacts, queries, passages, "test", langs, b) for b in (1, 7, 512)]
    for other in runs[1:]:
        for pool in runs[0]:
            for name in runs[0][pool]:
                np.testing.assert_array_equal(runs[0][pool][name], other[pool][name])


def test_a_query_without_relevant_passage_in_a_view_is_counted(tmp_path):
    """Claim: left out there, counted, kept elsewhere. Number: q1 has no German passage."""
    qrels = [row for row in QRELS if "\ta.de\t" not in row]
    data = load_data(write_folder(tmp_path, qrels=qrels))
    eye = torch.eye(4)
    found = rank_queries(eye, eye, data, list(range(4)), list(range(4)), "test", ["en", "de"])
    rows = {(r["query_lang"], r["passage_lang"]): r for r in records(found, data, list(range(4)), "clean")}
    assert (rows["en", "de"]["n_queries"], rows["en", "de"]["n_left_out"]) == (1, 1)
    assert (rows["en", "en"]["n_queries"], rows["en", "en"]["n_left_out"]) == (2, 0)


def test_a_query_and_a_passage_may_share_an_id(tmp_path):
    """Claim: a perfect run scores 1.0 then too. Catches: BEIR's removal of equal ids (0.90, PITFALLS 19)."""
    corpus = [dict(row, _id=f"x{i}") for i, row in enumerate(CORPUS)]
    queries = [dict(row, _id=f"x{i}") for i, row in enumerate(QUERIES)]
    data = load_data(write_folder(tmp_path, corpus, queries, [f"x{i}\tx{i}\t1" for i in range(4)]))
    eye = torch.eye(4)
    found = rank_queries(eye, eye, data, list(range(4)), list(range(4)), "test", ["en", "de"])
    assert found["*"]["mAP"].tolist() == [1.0] * 4


@pytest.mark.parametrize(("passages", "relevant"), [(7, 1), (12, 4), (30, 11)])
def test_chance_is_what_random_rankings_give(passages, relevant):
    """Claim: the closed forms agree with 40,000 shuffles. Number: 5 standard errors of each mean."""
    rng = np.random.default_rng(0)
    ranks = np.argsort(rng.random((40_000, passages)), axis=1)[:, :relevant] + 1
    found = measure(np.sort(ranks, axis=1), np.ones((40_000, relevant)))
    for name, value in chance(passages, relevant).items():
        drawn = found[name]
        if np.isnan(drawn).all():
            assert value == 0  # one relevant passage has no distance
            continue
        assert abs(drawn.mean() - value) < 5 * drawn.std() / 200 + 1e-12, name


def run_object(recipe, seed, value, langs=("de", "en")):
    row = dict.fromkeys(evaluate.METRICS, value)
    rows = [{"attack": "clean", "view": "mono", "query_lang": a, "passage_lang": a} | row for a in langs]
    luck = {view: {} for view in evaluate.VIEWS}
    return {"recipe": recipe, "seed": seed, "train_langs": ["en"], "langs": list(langs), "results": rows, "chance": luck}


def test_the_table_averages_seeds_and_separates_untrained_languages():
    """Number: seeds .2 and .4: mean .300, sample standard deviation .141 (with n - 1; .100 with n)."""
    runs = [run_object("x-y-none", 0, 0.2), run_object("x-y-none", 1, 0.4)]
    runs[0]["results"][0]["mAP"] = 0.6  # German, untrained: seeds .6 and .4
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in table(runs).split("\n")]
    assert rows[0][:4] == ["recipe", "n", "languages", "mono mAP"]
    assert rows[3] == ["x-y-none", "2", "trained", ".300 ±.141", "-", "-", ".300 ±.141", "-", "-", "-"]
    assert rows[4][2:4] == ["untrained", ".500 ±.141"]
    assert rows[2][2:4] == ["all", ".400 ±.000"], "macro-average: (.6 + .2) / 2 and (.4 + .4) / 2"


def test_evaluating_writes_metrics_and_trec_files_that_agree(encoder, tmp_path, capsys):
    """Claim: AP recomputed from run.trec and qrels.trec is what metrics.json says. Number: 4 queries."""
    (tmp_path / "data").mkdir()
    write_folder(tmp_path / "data")
    model = evaluate.Path(evaluate.__file__).parent / "data/tiny_xlmr"
    arguments = [str(model), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert evaluate.main([*arguments, "--trec", str(tmp_path / "trec")]) == 0
    assert "pool mAP" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    gold, run = {}, {}
    for line in (tmp_path / "trec/qrels.trec").read_text().splitlines():
        query, _, passage, _ = line.split()
        gold.setdefault(query, set()).add(passage)
    for line in (tmp_path / "trec/run.trec").read_text().splitlines():
        query, _, passage, rank, _, _ = line.split()
        run.setdefault(query, []).append(passage)
        assert len(run[query]) == int(rank)
    ap = {
        q: sum((k + 1) / r for k, r in enumerate(i + 1 for i, p in enumerate(run[q]) if p in gold[q])) / len(gold[q])
        for q in gold
    }
    for lang in ("en", "de"):
        row = next(r for r in found["results"] if r["view"] == "pool" and r["query_lang"] == lang)
        assert row["mAP"] == pytest.approx((ap[f"q1.{lang}"] + ap[f"q2.{lang}"]) / 2, abs=1e-6)


def test_metrics_of_another_data_set_are_not_mixed_in(tmp_path):
    """Claim: refused with the field that differs; the old file stays. Catches: silent overwriting."""
    new = {"model_sha256": "m", "data_sha256": "d", "split": "test", "settings": {}, "langs": ["en"], "results": []}
    evaluate.add_metrics(tmp_path / "metrics.json", dict(new), {})
    with pytest.raises(ValueError, match="results of another data_sha256"):
        evaluate.add_metrics(tmp_path / "metrics.json", new | {"data_sha256": "e"}, {})
    assert json.loads((tmp_path / "metrics.json").read_text())["data_sha256"] == "d"


def test_another_table_is_refused_before_the_work(folder, tmp_path):
    """Claim: records of one table are not overwritten by those of another, nor their words mixed.
    Catches: records named by the attack alone, so that a second table replaces the first."""
    model = str(evaluate.Path(evaluate.__file__).parent / "data/tiny_xlmr")
    for name, word in (("a", "seat"), ("b", "town")):
        (folder / f"{name}.json").write_text(json.dumps({"capital": [word]}))
    flags = [model, "--data", str(folder), "--out", str(tmp_path / "out"), "--attacks", "random"]
    assert evaluate.main([*flags, "--table", f"en={folder}/a.json"]) == 0
    before = (tmp_path / "out/metrics.json").read_text()
    assert evaluate.main([*flags, "--table", f"en={folder}/b.json"]) == 1
    assert (tmp_path / "out/metrics.json").read_text() == before
    assert evaluate.main([*flags, "--table", f"en={folder}/a.json"]) == 0


def test_another_attack_adds_its_records(tmp_path):
    """Claim: records are replaced by key, in their place, and otherwise kept; so are the single
    queries. Number: clean twice, greedy once: two; the second clean one counts."""
    base = {"model_sha256": "m", "data_sha256": "d", "split": "test", "settings": {}, "langs": ["en"]}
    row = {"view": "mono", "query_lang": "en", "passage_lang": "en"}
    for n, attack in enumerate(("clean", "greedy", "clean")):
        records = [row | {"attack": attack, "mAP": n}]
        found = evaluate.add_metrics(tmp_path / "m.json", base | {"results": records}, {attack: np.array([n])})
    assert [(r["attack"], r["mAP"]) for r in found["results"]] == [("clean", 2), ("greedy", 1)]
    assert {name: values.tolist() for name, values in np.load(tmp_path / "m.npz").items()} == {"clean": [2], "greedy": [1]}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "no folder and no hub name"),
        (["MODEL", "--data", "nowhere"], 1, "no such folder"),
        (["MODEL", "--langs", "xx"], 1, "--langs xx"),
        (["MODEL", "--split", "dev"], 1, "dev.tsv: no such file"),
        (["MODEL", "--split", "exam"], 2, "invalid choice: 'exam'"),
        ([], 2, "required"),
    ],
)
def test_wrong_input_exits_with_its_code_and_one_sentence(folder, capsys, arguments, code, message):
    """Claim: 1 failed while running, 2 wrong usage. Catches: tracebacks, and 0 after a failure."""
    model = str(evaluate.Path(evaluate.__file__).parent / "data/tiny_xlmr")
    arguments = [model if a == "MODEL" else a for a in arguments]
    if arguments and "--data" not in arguments:
        arguments += ["--data", str(folder)]
    try:
        found = evaluate.main(arguments)
    except SystemExit as stop:
        found = stop.code
    assert found == code and message in capsys.readouterr().err


def test_vectors_that_are_not_finite_are_refused(encoder, folder):
    """Claim: NaN stops the evaluation. Catches: NaN scores, which compare false and rank first."""
    with torch.no_grad():
        next(encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        evaluate.evaluate(encoder, load_data(folder))


def test_settings_of_the_encoder_are_part_of_the_result(encoder, folder):
    """Claim: other lengths give another record. Catches: a cache keyed by the path alone (PITFALLS 22)."""
    encoder.settings = dataclasses.replace(encoder.settings, query_length=9)
    assert evaluate.evaluate(encoder, load_data(folder))[0]["settings"]["query_length"] == 9
