"""Rung 16: from single queries to a study: kept once, paired by seed, told with the right sign.

Builds: evaluate.py, its study. Before: rungs 6, 10, 14, 15. Run: pytest tests/test_16_study.py
"""

import io
import json
import math
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from statistics import fmean, stdev
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import QRELS, ROOT, write_folder

import evaluate
import train
from attacks import Item
from xlt import Text, load_data

MODEL, NAN, IDS, VIEWS = ROOT / "data/tiny_xlmr", float("nan"), [0, 1, 2, 3], evaluate.VIEWS


def test_language_bias_agrees_by_hand_and_with_a_full_sort():
    """Number: passage 2 (.7) is the first foreign answer after 0 (own), 1 and 3 (tied): rank 4. 300
    pools. Catches: own answers left out, ties won (3), padding read as passage 0, share of ten."""
    bias = lambda *x: [v.tolist() for v in evaluate.language_bias(*map(torch.tensor, x)).values()]
    relevant, rng = [[0, 2, 4, -1], [3, -1, -1, -1]], np.random.default_rng(3)
    found = bias([[0.9, 0.8, 0.7, 0.7, 0.1]] * 2, relevant, [0, 0, 1, 1, 2], [0, 1])
    np.testing.assert_allclose(found, [[0.4, 0.4], [4, NAN]])
    for size in rng.integers(1, 26, 300).tolist():
        row = np.float32(rng.choice([0.0, 0.25, 0.5, *rng.random(9)], size)).tolist()
        own, *spoken = rng.integers(0, 3, size + 1).tolist()
        chosen = rng.permutation(size)[: rng.integers(1, 5)].tolist()
        foreign = {j for j in chosen if spoken[j] != own}
        order = sorted(range(size), key=lambda j: (-row[j], j in foreign))
        rank = next((i for i, j in enumerate(order, 1) if j in foreign), NAN)
        (share,), found = bias([row], [[*chosen, -1]], spoken, [own])
        np.testing.assert_equal(found, [rank])
        if size <= 10 or row[order[9]] > row[order[10]]:  # else a tie leaves the share open
            assert share == pytest.approx(fmean(spoken[j] == own for j in order[:10]))


def test_geometry_agrees_with_loops_and_sees_the_whole_file(tmp_path):
    """Number: of 3,000 passages the last 1,000 lie opposite: log(5/9 + 4/9 e^-8) = -.5875. Catches:
    a distance for its square, kinds of answers exchanged, 0 of the first 2,000 passages."""
    data = load_data(write_folder(tmp_path, qrels=[r for r in QRELS if "a.de" not in r]))
    q, p = torch.randn(2, 4, 5, generator=torch.manual_seed(1)) / 2
    gap = lambda a, b: math.fsum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))
    near, gaps = [math.exp(-2 * gap(p[i], p[j])) for i in IDS for j in range(i)], {}
    for a, b in ((a, b) for a, row in data.qrels["test"].items() for b in row):
        kind = "same" if data.queries[a].lang == data.passages[b].lang else "other"
        gaps.setdefault(f"alignment_{kind}", []).append(gap(q[a], p[b]))
    expected = {k: fmean(v) for k, v in gaps.items()} | {"uniformity": math.log(fmean(near))}
    assert evaluate.geometry(q, p, data, IDS, IDS, "test") == pytest.approx(expected, abs=6e-5)
    p = torch.tensor([[1.0, 0.0]] * 2000 + [[-1.0, 0.0]] * 1000)
    found = evaluate.geometry(p[:1], p, data, [], range(3000), "test")
    assert [*found.values()] == [None, None, pytest.approx(-0.5875, abs=2e-3)]


def test_lir_takes_each_language_out_of_its_own_vectors(tmp_path):
    """Number: (1, 0, 1.1), (0, 1, 1.1) have the main direction (1, 1, 2.2); (.5, -.5, 0) is left,
    5/6 becomes 1. Catches: one C for all, queries, lengths left as they were, changed inputs."""
    data = load_data(write_folder(tmp_path))
    v = torch.tensor([[1, 0, 1.1, 0], [1, 0, 0, 1.1], [0, 1, 1.1, 0], [0, 1, 0, 1.1]])
    bare = lambda ids, r: evaluate.remove_language(v, v[ids], data, IDS, ids, r)
    rank = lambda q, p: evaluate.rank_queries(q, p, data, IDS, IDS, "test", ["en", "de"])["*"]
    before, (q, p), unit = v.clone(), bare(IDS, 1), v / math.sqrt(2.21)
    assert rank(v, v)["mAP"].mean() == pytest.approx(5 / 6) and rank(q, p)["mAP"].mean() == 1
    expected = torch.tensor([[1.0, -1, 0, 0]] * 2 + [[-1, 1, 0, 0]] * 2) / math.sqrt(2)
    english = bare([0, 2], 1)[0][1::2], unit[1::2]
    for found, hoped in [(q, expected), (p, expected), english, *((x, unit) for x in bare(IDS, 0))]:
        np.testing.assert_allclose(found, hoped, atol=1e-6)
    assert torch.equal(v, before)


def test_single_queries_agree_with_loops_and_with_the_records():
    """Number: three languages, two pools; two queries have no answer in German, so 1 and 0 other
    pools. Catches: the own pool in cross, NaN that spreads or counts as 0, columns exchanged."""
    rng, own = np.random.default_rng(0), np.array(["en", "de", "en", "fr"])
    found = {p: {m: rng.random(4) for m in evaluate.METRICS} for p in ("de", "en", "*")}
    found["de"]["mAP"][[2, 3]] = found["en"]["mAP"][3] = NAN
    each = evaluate.each_query(found, own, "x")
    for name, i in product(evaluate.KEPT, IDS):
        at = {pool: float(found[pool][name][i]) for pool in found}
        others = [at[a] for a in ("de", "en") if a != own[i] and not math.isnan(at[a])]
        cells = at.get(own[i], NAN), fmean(others or [NAN]), at["*"]
        for view, value in zip(VIEWS, cells, strict=True):
            assert each[f"x|{view}|{name}"][i] == pytest.approx(value, abs=1e-6, nan_ok=True)
    data = SimpleNamespace(queries=[Text("", x, "", "") for x in own])
    for row in [r for r in evaluate.records(found, data, IDS, "x") if r["query_lang"] != "fr"]:
        values = each[f"x|{row['view']}|mAP"][own == row["query_lang"]]  # fr: of two other pools
        assert row["mAP"] == pytest.approx(fmean(values[~np.isnan(values)].tolist()), abs=2e-6)


def run(*flags, program=evaluate):
    """The program's exit code, stdout and stderr."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        return program.main([str(flag) for flag in flags]), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two batchings, two seeds, two steps each, on the world of four sentences."""
    data = write_folder(tmp_path_factory.mktemp("data"))
    flags = ["--data", data, "--out", data / "runs", "--train-langs", "en", "de", "--seed", 0, 1]
    flags += ["--attacks", "typos", "--steps", 2, "--batch-size", 2, "--batching", "hybrid", "x-y"]
    assert run(*flags, program=train)[0] == 0
    return SimpleNamespace(data=data, flags=flags, runs=sorted((data / "runs").iterdir()))


def test_what_is_there_is_not_computed_again(trained, tmp_path):
    """Number: typos, again; the worst, again; all without .npz, typos without .json: same bytes;
    complete runs, none. Catches: work done twice, records or words lost, stale queries, dates."""
    files = [tmp_path / "metrics.npz", tmp_path / "metrics.json"]
    done, seen, worst = [], [], ["typos-greedy"]
    flags = [MODEL, "--data", trained.data, "--out", tmp_path, "--attacks", "clean", "typos"]
    with mock.patch.object(evaluate, "evaluate", wraps=evaluate.evaluate) as spy:
        for n, more in enumerate(([], [], worst, worst, worst, [])):
            if n > 3:
                files[n - 4].unlink()
            assert run(*flags, *more)[0] == 0
            done.append([x.label for call in spy.call_args_list for x in call.args[6].specs])
            seen.append([file.read_bytes() for file in files])
            spy.reset_mock()
        assert run(*trained.flags, program=train)[0] == 0 and not spy.called
    assert done == [["typos"], [], worst, [], ["typos", *worst], ["typos"]]
    assert seen[0] == seen[1] == seen[5] and seen[2] == seen[3] == seen[4]
    for name in ("results", "words"):
        first, second = (json.loads(seen[i][1])[name] for i in (0, 2))
        assert second[: len(first)] == first and len(second) > len(first) > 0


def test_the_words_that_broke_most_and_the_deepest_fall_are_kept():
    """Number: rose stands in four queries that were right, in one twice, and breaks two of them.
    Catches: an edit for a query, queries wrong before, capitals, two edits to 9 for one to 8."""
    red, big = (2, 5, "rose"), (6, 9, "wide")
    rows = [
        ("A red car", [red], 1, 2), ("a Red car", [(2, 5, "Rose")], 1, 8), ("a red", [red], 1, 1),
        ("a red big", [red, big], 7, 9), ("a old big", [(2, 5, "aged"), big], 1, 9),
        ("a bad big", [big], 1, 1), ("a new", [(2, 5, "novel")], 1, 3), ("a b", [], 1, 2),
        ("a red red", [red, (6, 9, "rose")], 1, 1),
    ]  # fmt: skip
    edits = [{edit[:2]: edit[2] for edit in row[1]} for row in rows]
    items = [Item(0, "", Text("", "en", r[0], ""), [], "", e) for r, e in zip(rows, edits)]
    ranks = [{"*": {"first_rank": np.array([row[k] for row in rows])}} for k in (2, 3)]
    world = SimpleNamespace(clean=ranks[0], about={"words": [], "examples": []})
    evaluate.broken_words(world, items, ranks[1], "x", "pool")
    (e,), found = world.about["examples"], [list(w.values())[3:] for w in world.about["words"]]
    (start, end, new), text = *e["edits"], e["text"]
    assert text[:start] + new + text[end:] == "a Rose car" and (e["before"], e["after"]) == (1, 8)
    assert found == [["red", "rose", 2, 4], ["big", "wide", 1, 2], ["new", "novel", 1, 1]]


def test_questions_pair_hybrid_with_each_batching_and_robust_with_plain():
    """Claim: hybrid first wherever it stands, robust on equal batches, models in their order.
    Number: 2 to 5 recipes. Catches: a pair turned around or of two differences, no pair at all."""
    about = lambda name: dict(zip(("batching", "robust"), name.split(":") if ":" in name else ()))
    pairs = lambda names: [f"{a} > {b}" for _, a, b in evaluate.questions(
        {name: [about(name)] for name in names.split()})]
    assert pairs("x-y:none hybrid:none x-y:adv hybrid:adv x-x:none") == [
        "hybrid:none > x-y:none", "hybrid:none > x-x:none", "hybrid:adv > x-y:adv",
        "x-y:adv > x-y:none", "hybrid:adv > hybrid:none",
    ]  # fmt: skip
    assert pairs("x-y:none hybrid0.3:none") == ["hybrid0.3:none > x-y:none"]
    assert pairs("x-y:adv x-y:none x-x:no") == ["x-y:adv > x-y:none"]
    assert pairs("x-y:adv hybrid:none") == ["x-y:adv > hybrid:none"]
    assert pairs("b a c") == ["b > a", "b > c"]


def test_runs_that_cannot_be_compared_are_refused_and_variants_named_apart(trained, tmp_path):
    """Number: x-y with two sets of flags; run.json with one value changed; a model without --out.
    Catches: a mean over two learning rates or splits, half a training, yesterday's texts."""
    row = {"recipe": "x-y", "variant": "v", "folder": "f", "split": "test", "langs": ["en"]}
    runs = [row | {"seed": 3}, row | {"seed": 1}, row | {"seed": 3, "variant": "w"}]
    assert evaluate.named_runs(runs) == {"x-y (v)": [runs[1], runs[0]], "x-y (w)": [runs[2]]}
    for key in ("seed", "data_sha256", "split", "langs", "limit"):
        with pytest.raises(ValueError, match=f"seed 3 is given twice|x/run: another {key} than f"):
            evaluate.named_runs([*runs, row | {"seed": 9, "folder": "x/run", key: 3}])
    folder, report = shutil.copytree(trained.runs[0], tmp_path / "run"), tmp_path / "x.html"
    about = json.loads((folder / "run.json").read_text())
    for path, key, message in (
        (folder, "complete", "/run: this run is not complete. Finish it with train.py"),
        (folder, "eval_data_sha256", "/run: made with another version of"),
        (MODEL, "", "--report needs the single queries: give --out"),
    ):
        (folder / "run.json").write_text(json.dumps(about | {key: False}))
        code, _, err = run(path, "--data", trained.data, "--report", report)
        assert code == 1 and message in err and not report.exists()


# Planted runs: recipe -> attack -> what is added to mAP in mono, cross, pool (None: not attacked)
LANGS, E1, E2, G, NO = ["de", "en"], "greedy:edits=1", "greedy:edits=2", "greedy", None
SEEDS = {"hybrid:none": (2, 0, 1), "x-y:none": (7, 1, 0, 2), "hybrid:rs-da": (0, 1, 2)}
MIXED = (0.3, 0.05, -0.1)  # of seeds 0, 1, 2: certain about these, but not about others
PLANTED = {
    "x-y:none": {"clean": (0, 0, 0), E2: (-0.1, -0.1, -0.15), E1: (-0.05, NO, -0.08),
                 G: (NO, NO, -0.2), f"{E2}<00000002": (NO, NO, -0.12)},
    "hybrid:none": {"clean": (0.05, MIXED, 0), E2: (-0.1, -0.1, -0.1), E1: (-0.05, NO, -0.05),
                    G: (NO, NO, -0.25), f"{E2}:control": (NO, NO, 0)},
    "hybrid:rs-da": {"clean": (0.05, MIXED, -0.03), E2: (-0.1, -0.1, -0.06), G: (NO, NO, -0.25)},
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """PLANTED, 40 questions in two languages: its study; of each run ap, and what is right (Q,)."""
    rng, runs, ap, right = np.random.default_rng(0), [], {}, {}
    level = np.repeat(rng.normal(0.5, 0.2, 40), 2) + rng.normal(0, 0.05, 80)
    for recipe, seed in ((name, seed) for name in SEEDS for seed in SEEDS[name]):
        each = {"id": np.arange(80), "group": np.arange(80) // 2, "lang": LANGS * 40}
        rows, folder = [], tmp_path_factory.mktemp("run")
        for (attack, shifts), (k, view) in product(PLANTED[recipe].items(), enumerate(VIEWS)):
            if shifts[k] is not NO:
                shift = 0.1 * seed + (MIXED[seed] if shifts[k] is MIXED else shifts[k])
                v = np.float32(level + shift + rng.normal(0, 0.02, 80))
                key, hit = (recipe, seed, attack, view), np.roll(v > 0.5, len(attack))
                ap[key], right[key] = v.tolist(), hit.tolist()
                each |= {f"{attack}|{view}|mAP": v, f"{attack}|{view}|R@1": hit / (k + 1)}
                for i, mean in enumerate(fmean(v[i::2].tolist()) for i in (0, 1)):
                    row = {"mAP": mean, "own_share@10": mean, "foreign_rank": 9 * mean}
                    row |= {"query_lang": LANGS[i], "passage_lang": LANGS[i - k] if k < 2 else "*"}
                    rows.append(row | {"attack": attack, "view": view})
        np.savez(folder / "metrics.npz", **each)
        word = {"attack": E2, "view": "pool", "lang": "de", "old": "a", "new": "b", "used": 3}
        runs.append({
            **dict(zip(("batching", "robust"), recipe.split(":"))), "recipe": recipe, "seed": seed,
            "folder": folder, "file": "metrics.json", "split": "test", "data": "d", "langs": LANGS,
            "train_langs": ["en"], "model_sha256": f"{len(runs):08x}0", "results": rows,
            "own_share": {"de": 0.25, "en": 0.35}, "n_queries": 80, "n_passages": 9,
            "geometry": {"alignment_same": seed, "alignment_other": None}, "versions": {},
            "words": [word | {"broken": seed + 1}, word | {"view": "mono", "broken": 9}], "chance": {},
        })  # fmt: skip
    def mean_sd(recipe, attack, view, some=slice(None)):  # over the recipe's seeds
        each = [fmean(ap[recipe, seed, attack, view][some]) for seed in SEEDS[recipe]]
        return [pytest.approx(fmean(each), abs=1e-6), pytest.approx(stdev(each), abs=1e-6)]
    return SimpleNamespace(ap=ap, right=right, mean_sd=mean_sd, **evaluate.make_study(runs))


def test_planted_differences_are_found_with_their_sign_and_no_others(study):
    """Number: PLANTED; x-y's seed 7 has no partner; 597 times the least p of 10,000 rounds is .06.
    Catches: seeds paired by place, b - a, attacked - clean, Holm a question, p, interval alone."""
    of = lambda row, x, a: fmean(sum(study.ap[row[x], s, a, row["view"]]) / 80 for s in (0, 1, 2))
    found, p, hits = set(), sorted(row["p"] for row in study.comparisons), iter([1])
    for row in study.comparisons:
        (attack, view), lost = (row["attack"], row["view"]), row["metric"] == "mAP lost"
        gap = of(row, "a", attack) - of(row, "b", attack)
        gap = of(row, "a", "clean") - of(row, "b", "clean") - gap if lost else gap
        holm = max(min(1, (len(p) - k) * x) for k, x in enumerate(p) if x <= row["p"])
        apart = not row["low"] <= 0 <= row["high"]
        assert (row["n_seeds"], row["n_groups"]) == (3, 40) and row["low"] < gap < row["high"]
        assert (row["difference"], row["holm"]) == pytest.approx((gap, holm), abs=1e-6)
        assert row["significant"] == (holm < 0.05 and apart)
        mark = " lost" * lost + (" -", " +")[gap > 0] * apart
        found |= {f"{row['question'][:6].strip()} {attack} {view}{mark}"} if holm < 0.05 else set()
    assert found == {
        "hybrid clean mono +", "hybrid clean cross", f"hybrid {E2} cross lost",
        f"hybrid {G} pool -", f"hybrid {G} pool lost +", "rs-da clean pool -", f"rs-da {E2} pool +",
        *(f"hybrid {a} {x}" for a in (E1, E2) for x in ("pool +", "mono lost +", "pool lost -")),
    }  # fmt: skip
    least = lambda *_, rounds: {"p": next(hits, 400) / (rounds + 1), "low": 0.1, "high": 0.2}
    scores = mock.MagicMock(return_value=np.ones(2), groups={a: [{"seed": 0}] for a in "ab"})
    with mock.patch.object(evaluate, "compare", least):
        rows = evaluate.make_comparisons(scores, ["clean", *map(str, range(99))])
    assert [row["significant"] for row in rows] == [True] + [False] * 596


def test_sentences_and_marks_say_above_below_and_undecided(study):
    """Claim: robust rows are marked against plain, plain ones against hybrid. Number: PLANTED.
    Catches: a loss told as a gain, marks turned around or beside a part of the languages."""
    cut = r" \(?[+-]?\d\.\d+ \[[^]]*\]\)?| significant|Lost.*?, |Hybrid.*?, |loses "
    assert [re.sub(cut, "", text) for text in study.answer] == [
        "Clean: hybrid is above x-y by in mono; no difference in cross or the pool.",
        f"Under {E2}: hybrid is above x-y by in the pool; no difference in mono or cross.",
        f"Under {E1}: hybrid is above x-y by in the pool; no difference in mono.",
        f"Under {G}: hybrid is below x-y by in the pool.",
        f"pool: what hybrid is above what x-y by in {G}, and below it by in {E2} and in {E1}.",
        f"pool: rs-da is above plain training by in {E2} and below it by in clean; no difference in {G}.",
    ]
    names = lambda row: " ".join(row[key] for key in ("recipe", "attack", "langs"))
    assert {f"{names(row)} {x} {row['marks'][x]}" for row in study.table for x in row["marks"]} == {
        "x-y:none clean all mono mAP -", f"x-y:none {E2} all pool mAP -",
        f"x-y:none {E1} all pool mAP -", f"x-y:none {G} all pool mAP +",
        "hybrid:rs-da clean all pool mAP -", f"hybrid:rs-da {E2} all pool mAP +",
    }  # fmt: skip


def test_every_other_part_of_the_page_agrees_with_loops(study):
    """Number: 0, 1, 2 edits, though 2 ran first; the first seed broke 1. Catches: R@1 = 1 for right,
    the worst mean, a transposed matrix, mono words, a limit that the first recipe uses up."""
    some = {"all": slice(None), "trained": slice(1, None, 2), "untrained": slice(0, None, 2)}
    for row, name in ((r, name) for r in study.table for name in r["cells"]):
        about = row["recipe"], row["attack"], name.split()[0], some[row["langs"]]
        assert row["cells"][name] == study.mean_sd(*about)
    (curve,), plain = study.curves, ["hybrid:none", "x-y:none"]
    assert [(s["recipe"], len(s["points"])) for s in curve["series"]] == [(x, 3) for x in plain]
    for s, n in product(curve["series"], (0, 1, 2)):
        assert s["points"][n] == [n, *study.mean_sd(s["recipe"], ("clean", E1, E2)[n], "pool")]
    assert [r["view"] for r in study.robust_r1] == ["mono", "pool", "mono", "pool", "pool"]
    for row in study.robust_r1:
        at = lambda s, attack, row=row: (row["recipe"], s, attack, row["view"])
        met = [attack for attack in ("clean", E1, E2, G) if at(0, attack) in study.right]
        for key, names in (("clean", met[:1]), ("robust", met)):
            each = [[study.right[at(s, attack)] for attack in names] for s in SEEDS[row["recipe"]]]
            each = [fmean(all(query) for query in zip(*one)) for one in each]
            assert row[key] == pytest.approx([fmean(each), stdev(each)])
    assert [(m["recipe"], m["attack"]) for m in study.matrices] == [*product(plain, ("clean", E2))]
    for m, i, j in product(study.matrices, (0, 1), (0, 1)):
        about = m["recipe"], m["attack"], "mono" if i == j else "cross", slice(i, None, 2)
        assert m["values"][i][j] == study.mean_sd(*about)[0]
    for recipe, attack, row in ((r["recipe"], r["attack"], r) for r in study.bias):
        mean, _ = study.mean_sd(recipe, attack, "pool")
        assert row["own_share@10"] == mean and row["foreign_rank"] / 9 == mean
        assert row["expected_share"] == pytest.approx(0.3) and "alignment_other" not in row
        assert row.get("alignment_same") == {"clean": fmean(SEEDS[recipe])}.get(attack)
    assert [(w["broken"], w["used"]) for w in study.words] == [(1, 3)] and len(study.bias) == 11
    mean, _ = study.mean_sd("x-y:none", f"{E2}<00000002", "pool")  # from hybrid's seed 1
    assert [list(t.values()) for t in study.transfer] == [[E2, "pool", *plain, mean]]
    rows = [{"attack": n // 2, "view": "", "query_lang": 0, "passage_lang": n % 2, "mAP": 1}
            for n in range(18)]  # fmt: skip
    found = evaluate.matrices({"a": [{"results": rows}], "b": [{"results": rows}]}, range(9))
    assert {m["recipe"] for m in found} == {"a", "b"}


def test_the_report_says_what_the_runs_say(trained, tmp_path):
    """Claim: four files, means over the seeds' metrics.json. Number: 2 recipes, 2 attacks, 2 rows.
    Catches: a seed left out; "typos@3", no attack; one language, with nothing in cross."""
    base, path = [*trained.runs, "--data", trained.data, "--report"], tmp_path / "x.json"
    code, out, _ = run(*base, tmp_path / "x.html")
    assert code == 0 and {p.suffix for p in tmp_path.iterdir()} == {".html", ".json", ".md", ".tex"}
    said, made = json.loads(path.read_text()), [(f / "metrics.json") for f in trained.runs]
    made = [(f.parent.name[:-6], r) for f in made for r in json.loads(f.read_text())["results"]]
    for row, name in ((r, x) for r in said["table"] if r["langs"] == "all" for x in r["cells"]):
        about, metric = (row["recipe"], row["attack"], name.split()[0]), name.split()[1]
        each = [r[metric] for recipe, r in made if (recipe, r["attack"], r["view"]) == about]
        assert row["cells"][name][0] == pytest.approx(fmean(each)) and len(each) == 4
    assert len(said["table"]) == 8 and all(f"- {text}" in out for text in said["answer"])
    for flags in (["--attacks", "typos", "--attack-seed", 3], ["--langs", "en"]):
        assert "evaluate.py:" not in run(*base, path, *flags, "--out", tmp_path / flags[0])[2]
