"""Rung 10: an adversary searches for the worst query, and the table says what it did.

Builds: attacks.py ("the goal", "search", `run`) and evaluate.py ("under attack"). Before: rungs 1, 6
and 9. Run: pytest tests/test_10_attacks.py
"""

import contextlib
import io
import json
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from conftest import QRELS, ROOT, write_folder

import attacks
import evaluate
from xlt import DataSet, Encoder, Text, load_data, load_encoder

MODEL, LANGS, VIEWS = ROOT / "data/tiny_xlmr", ["en", "de", "th"], evaluate.VIEWS


@pytest.fixture(scope="module")
def world(minifacts):
    """60 dev queries in three languages against the dev and test facts: 1125 passages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches: beside another program 0.3 s instead of 8.3 s
    texts, encoder = minifacts.passages, load_encoder(MODEL)
    held = {minifacts.queries[q].group for s in ("dev", "test") for q in minifacts.qrels[s]}
    passages = [i for i, t in enumerate(texts) if t.lang in LANGS and t.group in held]
    dev = sorted(minifacts.qrels["dev"])
    queries = [q for a in LANGS for q in [q for q in dev if minifacts.queries[q].lang == a][:20]]
    names = {"data": minifacts, "encoder": encoder, "passages": passages, "queries": queries}
    files = {a: minifacts.folder / f"synonyms/{a}.json" for a in LANGS}
    tables = {a: attacks.read_table(file, a) for a, file in files.items()}
    p = encoder.encode([texts[i] for i in passages], "passage")
    yield SimpleNamespace(**names, tables=tables, p=p)
    torch.set_num_threads(threads)


def attacked(world, text, queries=None, views=("pool",), seed=0, like=None):
    """The items of the world's queries (or of these) after the attack."""
    spec, queries = attacks.parse_attack(text), queries or world.queries
    pools = attacks.make_pools(world.p, world.data, queries, world.passages, "dev")
    items = attacks.make_items(world.data, queries, list(views), spec, world.tables, seed)
    attacks.run(items, world.encoder, pools, spec, seed, like=like)
    return items


def margin(world, item, text=None):
    """Oracle: one text, one forward pass, its scores in a loop: best relevant - best other."""
    text, top = item.text if text is None else text, {}
    v = world.encoder.encode([Text("", "", text, "")], "query")[0]
    for i, score in zip(world.passages, (world.p @ v).tolist(), strict=True):
        t = world.data.passages[i]  # a passage is relevant if it states the question's fact
        top[t.group == item.source.group, t.lang] = max(
            score, top.get((t.group == item.source.group, t.lang), -2)
        )
    if item.view == "pool":
        return round(max(top[True, a] for a in LANGS) - max(top[False, a] for a in LANGS), 6)
    mine = [a for a in LANGS if (a == item.source.lang) == (item.view == "mono")]
    return round(fmean(top[True, a] - top[False, a] for a in mine), 6)


def put(item, edits):
    """The item's query with the word of slot n replaced by edits[n]; slots stand left to right."""
    source, text, at = item.source.text, "", 0
    for n, (start, end, _) in enumerate(item.slots):
        text, at = text + source[at:start] + edits.get(n, source[start:end]), end
    return text + source[at:]


# ---- searches whose result can be worked out by hand ---------------------------------------------

WEIGHTS = {"red": 0.1, "rose": 0.3, "rust": 0.5, "big": 0, "wide": 0.2, "old": 0.4, "aged": 1}
SWAPS = {"red": ["rose", "rust"], "big": ["wide"], "old": ["aged"]}


def by_hand(text, answer="", fixed=frozenset()):
    """ "red big old" under attack in two views -> its item, and all texts that were encoded.

    A fake encoder: (1, sum of the words' weights). Against (1, 0) and (0, 1) the margin is 1 - sum.
    """
    query, calls = Text("q", "en", "red big old", "q", answer=answer), []
    passages = [Text("good", "en", "-", "q"), Text("bad", "en", "-", "b")]
    data = DataSet(Path(), [query], passages, {"test": {0: {0: 1.0}}})

    def encode(texts, kind, *rest):
        calls.extend(t.text for t in texts)
        return torch.tensor([[1, sum(WEIGHTS[w] for w in t.text.split())] for t in texts])

    pools, spec = attacks.make_pools(torch.eye(2), data, [0], [0, 1], "test"), attacks.parse_attack(text)
    items = attacks.make_items(data, [0], ["mono", "pool"], spec, {"en": SWAPS}, 0, fixed)
    attacks.attack_words(items, SimpleNamespace(encode=encode), pools, spec, 0)
    assert items[0].text == items[1].text, "one language: both views hold the same passages"
    return items[1], calls


@pytest.mark.parametrize(
    ("spec", "text", "calls"),
    [
        ("greedy:edits=1", "red wide old", 5),
        ("beam:edits=1,width=2", "rust big old", 7),
        ("exact:edits=1", "red big aged", 5),
        ("greedy", "rust wide aged", 8),
        ("identity", "red big old", 0),
    ],
)
def test_searches_end_where_the_hand_computation_ends(spec, text, calls):
    """Number: without red, big, old the margins are .6, .5, .9, so big comes first: wide gives .3 and
    greedy's one edit is spent. Two beams {wide .3, nothing .5} then find rust, .1, and forget nothing;
    only all combinations find aged, -.1. Calls: the query, three without a word, the candidates.
    Catches: the least important word first; a beam of one; a text encoded twice, or once a view;
    identity that edits.
    """
    item, encoded = by_hand(spec)
    assert item.text == text
    assert len(encoded) == len(set(encoded)) == len(item.asked) == calls


@pytest.mark.parametrize(("edits", "most"), [("2", 2), ("0.34", 2), ("0.33", 1), ("9", 3), ("0", 3)])
def test_edits_bound_the_words_that_change(edits, most):
    """Number: .34 of three words is 1.02, so two; .33 is one; 0 is no bound. Every edit hurts here, so
    the bound is reached. Catches: a share rounded down; random picks that change nothing.
    """
    for name in ("greedy", "exact", "beam") + (("random",) if edits != "0" else ()):
        words = by_hand(f"{name}:edits={edits}")[0].text.split()
        assert sum(a != b for a, b in zip(words, ("red", "big", "old"), strict=True)) == most


@pytest.mark.parametrize("name", ["greedy:", "beam:width=9,", "exact:"])
def test_the_budget_bounds_the_texts_encoded(name):
    """Claim: at most so many distinct texts, counted where they are encoded. Number: 1 to 8; exact
    alone would take 12. Catches: leave-one-out not counted; a search that never asks its budget.
    """
    for budget in range(1, 9):
        item, calls = by_hand(f"{name}budget={budget}")
        assert len(set(calls)) == len(item.asked) <= budget
    assert item.text != "red big old", "the attack did nothing"


def test_the_answer_and_given_words_are_never_edited():
    """Number: "Big" answers and "old" is given: red alone may change. Catches: an answer compared with
    its case; a protected word that leave-one-out still takes away.
    """
    for spec in ("greedy", "beam", "exact", "random:edits=3"):
        item, calls = by_hand(spec, "Big", frozenset({"old"}))
        assert item.text in ("rose big old", "rust big old"), spec
        assert all(text.endswith(" big old") for text in calls)


# ---- searches on real sentences ------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_greedy_equals_a_loop_over_one_query_at_a_time(world, view):
    """Claim: the text of leave-one-out, then word by word the worst replacement, each scored alone.
    Number: two queries a language, two edits. Catches: margins of another query or view, a batch
    whose rows come back in another order, an edit kept though it helps.
    """
    changed = 0
    for item in attacked(world, "greedy:edits=2", world.queries[::10], [view]):
        score = lambda edits, item=item: margin(world, item, put(item, edits))
        order = sorted((score({n: ""}), n) for n in range(len(item.slots)))
        edits, least = {}, score({})
        for _, n in order:
            tries = [(score(edits | {n: o}), j) for j, o in enumerate(item.slots[n][2])]
            if len(edits) < 2 and min(tries)[0] < least:
                least, j = min(tries)
                edits |= {n: item.slots[n][2][j]}
        assert item.text == put(item, edits)
        changed += len(edits) > 0
    assert changed >= 4, "the attack did nothing"


@pytest.fixture(scope="module")
def greedy(world):
    return attacked(world, "greedy:edits=2")


def test_greedy_does_more_harm_than_random_at_the_same_number_of_edits(world, greedy):
    """Claim: its mean margin over 60 queries is below that of three random controls with, query by
    query, as many edits. Number: by .01; it is .04 below the clean one. Catches: a search that
    maximises; a control with fewer edits.
    """
    hurt = fmean(margin(world, x) for x in greedy)
    assert hurt < fmean(margin(world, x, x.source.text) for x in greedy) - 0.02, "it did nothing"
    for seed in range(3):
        control = attacked(world, "greedy:edits=2", seed=seed, like=greedy)
        assert [len(x.edits) for x in control] == [len(x.edits) for x in greedy]
        assert all((x.text != x.source.text) == bool(x.edits) for x in control)
        assert hurt < fmean(margin(world, x) for x in control) - 0.01


def test_beam_and_exact_never_do_less_harm_than_greedy(world, greedy):
    """Claim: beam on average, exact for each query. Number: two edits, some hundred combinations.
    Catches: exact that a limit cuts or that changes one word only; a beam that keeps the best.
    """
    beam, exact = (attacked(world, f"{name}:edits=2") for name in ("beam", "exact"))
    first, wide, all_ways = ([margin(world, x) for x in items] for items in (greedy, beam, exact))
    assert fmean(wide) < fmean(first) and all(x.exhaustive for x in exact)
    assert all(a <= b + 2e-6 for a, b in zip(all_ways, first, strict=True))
    assert sum(a < b - 1e-4 for a, b in zip(all_ways, first, strict=True)) > 5, "exact is greedy"


def test_hotflip_proposes_by_gradient_and_decides_by_scores(world, greedy):
    """Claim: at most two replacements a slot are left, those hurt more than the others, and no query
    ends above its clean margin. Number: single replacements of two slots a query, mean difference
    .001. Catches: the gradient's sign; an estimate taken for the truth.
    """
    changes, fell = {True: [], False: []}, 0
    for before, item in zip(greedy, attacked(world, "hotflip:edits=2"), strict=True):
        clean, now = margin(world, item, item.source.text), margin(world, item)
        for n, (slot, old) in enumerate(zip(item.slots, before.slots, strict=True)):
            assert len(slot[2]) == min(2, len(old[2])) and set(slot[2]) <= set(old[2])
            for o in old[2] if n < 2 else ():
                changes[o in slot[2]].append(margin(world, item, put(before, {n: o})) - clean)
        assert now <= clean and len(item.edits) <= 2
        fell += now < clean - 1e-3
    assert len(changes[False]) > 40 and fmean(changes[True]) < fmean(changes[False]) - 0.001
    assert fell > 30, "the attack did nothing"


@pytest.mark.parametrize("spec", ["greedy:edits=2", "beam:budget=20", "hotflip", "random"])
def test_a_batch_gives_what_one_query_at_a_time_gives(world, spec):
    """Claim: texts and calls are equal. Number: nine queries, three views. Catches: lock-step that
    mixes up items, a budget or a threshold that leaks from one query to the next (PITFALLS 16).
    """
    queries = world.queries[::7]
    together = attacked(world, spec, queries, VIEWS)
    alone = [x for q in queries for x in attacked(world, spec, [q], VIEWS)]
    assert [(x.text, x.asked) for x in together] == [(x.text, x.asked) for x in alone]
    assert any(x.changed for x in together), "the attack did nothing"


@pytest.mark.parametrize("spec", ["random:edits=2", "random:k=3", "typos:edits=2"])
def test_a_perturbation_depends_on_seed_label_and_query_alone(world, spec):
    """Claim: reversed, every third query, in another view: the same text. Number: 20 of 60 differ at
    least with another seed or label. Catches: one generator for all queries; the order as a seed.
    """
    text = lambda *how, **more: {x.source.id: x.text for x in attacked(world, *how, **more)}
    base, part = text(spec), text(spec, world.queries[1::3], ["mono"])
    assert text(spec, world.queries[::-1]) == base and part.items() < base.items()
    for other in (text(spec, seed=1), text(spec + ",samples=9")):
        assert sum(other[name] != base[name] for name in base) > 20


@pytest.mark.parametrize("spec", ["greedy", "hotflip", "pgd"])
def test_attacks_leave_training_mode_and_gradients_alone(world, spec):
    """Claim: they run without dropout and hand the encoder back as it was. Number: dropout .5, each
    .grad all 7. Catches: backward() instead of autograd.grad; eval() without the way back.
    """
    encoder, queries = load_encoder(MODEL).train(), world.queries[::15]
    for part in [m for m in encoder.modules() if isinstance(m, torch.nn.Dropout)]:
        part.p = 0.5
    for weight in encoder.parameters():
        weight.grad = torch.full_like(weight, 7)
    found = attacked(SimpleNamespace(**vars(world) | {"encoder": encoder}), spec, queries)
    assert [x.text for x in found] == [x.text for x in attacked(world, spec, queries)]
    assert all((w.grad == 7).all() and w.requires_grad for w in encoder.parameters())
    assert encoder.training and encoder.model.training


# ---- evaluate.py --attacks -----------------------------------------------------------------------


def run(folder, *flags):
    """evaluate.py's main -> exit code, stdout, stderr, and the records that stand in folder/out by
    (attack, view, query language, passage language).
    """
    out, err, rows = io.StringIO(), io.StringIO(), []
    flags = [str(MODEL), "--data", str(folder), "--out", str(folder / "out"), *map(str, flags)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = evaluate.main(flags)
        except SystemExit as stop:
            code = stop.code
    for file in (folder / "out").glob("*.json"):
        rows = json.loads(file.read_text())["results"]
    found = {tuple(r[k] for k in ("attack", "view", "query_lang", "passage_lang")): r for r in rows}
    assert len(found) == len(rows), "a record stands twice"
    return code, out.getvalue(), err.getvalue(), found


def scores(rows, attack):
    """All metrics of an attack's records, by view and languages."""
    return {k[1:]: [r[m] for m in evaluate.METRICS] for k, r in rows.items() if k[0] == attack}


@pytest.fixture(scope="module")
def story(world, tmp_path_factory):
    """Four calls on 60 queries without a Thai table: the records after each, and what was encoded."""
    folder, data, calls, real = tmp_path_factory.mktemp("data"), world.data, [], Encoder.encode
    pairs = [(q, p) for q in world.queries for p in data.qrels["dev"][q] if p in world.passages]
    qrels = [f"{data.queries[q].id}\t{data.passages[p].id}\t1" for q, p in pairs]
    texts = [[data.passages[i] for i in world.passages], [data.queries[q] for q in world.queries]]
    row = lambda t: {"_id": t.id, "lang": t.lang, "text": t.text, "group": t.group}
    write_folder(folder, *[[row(t) for t in side] for side in texts], qrels, ["test"])
    shutil.copytree(data.folder / "synonyms", folder / "synonyms")
    (folder / "synonyms/th.json").unlink()
    greedy, frozen, clean = "greedy:edits=2", folder / "frozen", run(folder)[3]
    with pytest.MonkeyPatch.context() as patch:
        note = lambda self, texts, kind, *rest: calls.append(kind) or real(self, texts, kind, *rest)
        patch.setattr(Encoder, "encode", note)
        flags = ["--attacks", "clean", "identity", greedy, "exact:edits=2", "--attack-out", frozen]
        first, second = run(folder, *flags), run(folder, "--attacks", "random:edits=2", greedy)
    moved = run(folder, "--attacked-queries", frozen)[3]
    assert "greedy:edits=2: no table for some languages; queries not attacked: th 20" in first[2]
    rows = {"clean": clean, "first": first[3], "second": second[3], "moved": moved}
    return SimpleNamespace(folder=folder, calls=calls, **rows)


def test_attacks_add_records_and_overwrite_none(story):
    """Number: three languages have 3 + 6 + 3 records an attack. Greedy and exact bring a control,
    identity none; greedy again gives equal records. Catches: clean records that an attack moves.
    """
    names = {"clean", "identity", "greedy:edits=2", "exact:edits=2"}
    names |= {"greedy:edits=2:control", "exact:edits=2:control"}
    assert {len(scores(story.moved, key[0])) for key in story.moved} == {12}
    assert {key[0] for key in story.first} == names
    assert {key[0] for key in story.second} == names | {"random:edits=2"}
    assert story.clean.items() <= story.first.items() <= story.second.items() <= story.moved.items()


def test_passages_are_encoded_once_for_all_attacks(story):
    """Number: two programs, two calls among more than twenty. Catches: one an attack or a view."""
    assert story.calls.count("passage") == 2 and len(story.calls) > 20


def test_identity_has_exactly_the_clean_metrics(story):
    """Claim: equal to the last digit, nobody attacked or changed. Catches: a control that is none."""
    assert scores(story.first, "identity") == scores(story.first, "clean")
    rows = [row for key, row in story.first.items() if key[0] == "identity"]
    names = ("n_attacked", "n_changed", "n_right", "n_broken", "edits", "calls")
    assert not any(row[name] for row in rows for name in names)


def test_the_counts_agree_with_the_metrics_around_them(story):
    """Claim: broken <= right <= attacked; right is the clean R@1 where all were attacked; who is not
    broken is right after it. Number: 20 queries a language, no table for Thai. Catches: counts of
    another language or pool; a control with other edits; Thai called robust.
    """
    for (name, *key), row in story.first.items():
        clean = story.first["clean", *key]
        if name not in ("clean", "identity"):
            assert row["n_broken"] <= row["n_right"] <= row["n_attacked"] <= row["n_queries"] == 20
            assert row["edits"] == story.first[name.replace(":control", ""), *key]["edits"] <= 2
            if key[1] == "th":
                assert row["n_attacked"] == 0 and row["mAP"] == clean["mAP"]
            elif key[0] != "pool":  # one relevant passage a query
                assert row["n_attacked"] == 20 and row["n_right"] == round(20 * clean["R@1"])
                assert row["n_right"] - row["n_broken"] <= round(20 * row["R@1"])
            if name == "greedy:edits=2" and key[1] != "th" and key[0] == "pool":
                assert row["mAP"] < clean["mAP"] - 0.02 and row["n_broken"], "it did nothing"


def test_frozen_queries_open_as_data_and_repeat_the_attack(story):
    """Claim: on the same model all metrics are equal, and so is the number broken. Number: greedy and
    exact, three views. Catches: another view's queries; a transfer whose success is never counted.
    """
    clean = {t.id: t.text for t in load_data(story.folder).queries}
    for name in ("greedy:edits=2", "exact:edits=2"):
        frozen = load_data(story.folder / f"frozen/{name}-pool").queries
        rows = {key[1:]: row for key, row in story.first.items() if key[0] == name}
        changed = sum(rows["pool", a, "*"]["n_changed"] for a in LANGS)
        assert sum(clean[t.id] != t.text for t in frozen) == changed > 30
        (label,) = {key[0] for key in story.moved if key[0].startswith(name + "<")}
        assert scores(story.moved, label) == scores(story.first, name)
        for key, row in rows.items():
            assert story.moved[label, *key]["n_broken"] == row["n_broken"]


def test_changed_frozen_queries_are_refused(story, tmp_path):
    """Number: one space. Catches: a published attack that somebody edited."""
    shutil.copytree(story.folder / "frozen/greedy:edits=2-mono", tmp_path / "mono")
    file = tmp_path / "mono/queries.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("?", " ?", 1), encoding="utf-8")
    code, _, err, _ = run(story.folder, "--attacked-queries", tmp_path)
    assert code == 1 and "not what attack.json says" in err


@pytest.fixture
def capital(folder):
    """The world of four sentences, where one English word can be replaced."""
    (folder / "synonyms").mkdir()
    (folder / "synonyms/en.json").write_text('{"capital": ["seat"]}')
    return folder


def test_queries_with_nothing_to_replace_are_not_attacked(capital):
    """Number: of two English questions one holds "capital", German has no table: 3 of 4 are not
    attacked, and the denominator is 1 at most. Catches: queries without a slot that pass as robust.
    """
    code, out, err, rows = run(capital, "--attacks", "random:edits=1", "--show", "9")
    assert code == 0 and "queries not attacked: de 2" in err
    assert "\nrandom:edits=1 pool q1.en: What is the [capital→seat]?\n" in "\n" + out
    assert out.count("→") == 3, "one query in three views"
    counts = {key[2]: (r["n_attacked"], r["n_changed"]) for key, r in rows.items() if "n_right" in r}
    assert counts == {"en": (1, 1), "de": (0, 0)}
    assert all(r["n_right"] <= 1 for key, r in rows.items() if "n_right" in r)
    (line,) = [line.split("|") for line in out.split("\n") if "| pool" in line]
    assert line[9].strip() == "3" and line[10].strip() == "de 0.00"


def test_words_of_the_protect_file_stay(capital):
    """Number: the only word that could change. Catches: a list compared with its case or line end."""
    (capital / "words").write_text("cats\n Capital \n")
    _, out, _, rows = run(capital, "--attacks", "greedy", "--protect", capital / "words", "--show", "9")
    assert "→" not in out and not any(row.get("n_attacked") for row in rows.values())
    assert len(scores(rows, "greedy")) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["gredy"], "attack 'gredy' is unknown"),
        (["pgd:epsilon=-1"], "epsilon is at least 0"),
        (["greedy:colour=2"], "no setting 'colour'"),
        (["greedy"], "Give --table LANG=FILE"),
        (["code-switch"], "no such dictionary"),
        (["greedy", "--table", "en=nowhere.json"], "nowhere.json: no such table"),
        (["greedy", "--table", "en=FOLDER/qrels/test.tsv"], "test.tsv: not JSON"),
        (["greedy", "--table", "en=FOLDER/latin1.json"], "latin1.json: "),
        (["typos", "--protect", "nowhere.txt"], "nowhere.txt"),
        (["clean", "--attacked-queries", "nowhere"], "no */attack.json"),
        (["clean", "--attacked-queries", "FOLDER/frozen"], "english"),
    ],
)
def test_wrong_input_is_one_clear_sentence(folder, flags, message):
    """Claim: exit code 1 and one line that names the culprit. Number: "english" is frozen with --langs
    en and lacks the German queries. Catches: tracebacks; an error without its file; a silent clean run.
    """
    (folder / "latin1.json").write_bytes('{"Stra\xdfe": ["Weg"]}'.encode("latin-1"))
    if message == "english":
        flags[-1:] = [folder / "frozen"]
        run(folder, "--langs", "en", "--attacks", "typos", "--attack-out", folder / "frozen")
        shutil.rmtree(folder / "out")
    flags = [str(flag).replace("FOLDER", str(folder)) for flag in flags]
    code, _, err, _ = run(folder, "--attacks", *flags)
    assert code == 1 and err.startswith("evaluate.py: ") and err.count("\n") == 1 and message in err


def test_an_empty_or_uneven_view_stops_nothing(capital):
    """Number: q1 has one English relevant passage, q2 two, the German ones none in English. Catches:
    division by the queries of an empty view; a certified R@1 above R@1, which is 1 for q1 and at most
    1/2 for q2 in the pool.
    """
    qrels = [row for row in QRELS if not row.startswith("q1") or row == "q1.en\ta.en\t1"]
    qrels = [row for row in qrels if row not in ("q2.de\tb.en\t1",)] + ["q1.de\ta.de\t1"]
    write_folder(capital, qrels=qrels)
    code, _, _, rows = run(capital, "--attacks", "exact")
    assert code == 0 and rows["exact", "cross", "de", "en"]["n_queries"] == 0
    assert all(r["certified R@1"] <= r["R@1"] for r in rows.values() if r.get("R@1") and "n_right" in r)
