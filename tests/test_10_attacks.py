"""Rung 10: an adversary searches for the worst query, and the table says what it did.

Builds: attacks.py ("the goal", "search", `run`) and evaluate.py ("under attack"). Before: rungs
1, 6 and 9. Run: pytest tests/test_10_attacks.py
"""

import contextlib
import io
import json
import shutil
from statistics import fmean
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import ROOT, write_folder

import attacks
import evaluate
from xlt import DataSet, Encoder, Text, load_data, load_encoder

MODEL, LANGS, VIEWS = ROOT / "data/tiny_xlmr", ["en", "de", "th"], evaluate.VIEWS
TABLES = ROOT / "data/minifacts/synonyms"
WEIGHTS = {"red": 0.1, "rose": 0.3, "rust": 0.5, "big": 0, "wide": 0.2, "old": 0.4, "aged": 1}
SWAPS = {"red": ["rose", "rust"], "big": ["wide"], "old": ["aged"]}


def by_hand(text, answer="", fixed=frozenset()):
    """Attack "red big old" with a fake encoder: (1, sum of weights) against (1, 0) and (0, 1)."""
    spec, calls = attacks.parse_attack(text), []
    query = Text("q", "en", "red big old", "q", answer=answer)
    passages = [Text("good", "en", "-", "q"), Text("bad", "en", "-", "b")]
    data = DataSet(ROOT, [query], passages, {"test": {0: {0: 1}}})
    total = lambda text: sum(WEIGHTS[word] for word in text.split())
    encode = lambda texts, *_: (
        calls.extend(t.text for t in texts) or torch.tensor([[1, total(t.text)] for t in texts])
    )
    pools = attacks.make_pools(torch.eye(2), data, [0], [0, 1], "test")
    items = attacks.make_items(data, [0], ["mono", "pool"], spec, {"en": SWAPS}, 0, fixed)
    attacks.attack_words(items, SimpleNamespace(encode=encode), pools, spec, 0)
    assert items[0].text == items[1].text, "one language: both views hold the same passages"
    return items[1], calls


@pytest.mark.parametrize(("spec", "text", "calls"), [
    ("greedy:edits=1", "red wide old", 5), ("greedy:edits=0.33", "red wide old", 5),
    ("greedy:edits=0.34", "rust wide old", 7), ("greedy", "rust wide aged", 8),
    ("beam:edits=1,width=2", "rust big old", 7), ("exact:edits=1", "red big aged", 5),
    ("exact:edits=0.34", "rust big aged", 10), ("identity", "red big old", 0),
])  # fmt: skip
def test_searches_end_where_the_hand_computation_ends_and_spare_protected_words(spec, text, calls):
    """Number: the margin is 1 - sum; without red, big, old .6, .5, .9, so big is first: wide, .3,
    and greedy's one edit is spent. Two beams {wide .3, nothing .5} then find rust, .1; only exact
    finds aged, -.1. A share of .33 is one of three words, .34 two. Calls: the query, three without
    a word, candidates. Then "Big" answers and "old" is given. Catches: the least important word
    first; a beam of one; a text encoded twice, or once a view; protection that minds case.
    """
    item, encoded = by_hand(spec)
    assert item.text == text
    assert len(encoded) == len(set(encoded)) == len(item.asked) == calls
    item, encoded = by_hand(spec, "Big", frozenset({"old"}))
    assert item.text == ("rust big old" if calls else text)
    assert all(text.endswith(" big old") for text in encoded)


@pytest.mark.parametrize("name", ["greedy:", "beam:width=9,", "exact:"])
def test_the_budget_bounds_the_texts_encoded(name):
    """Number: 1 to 8 distinct texts; exact would take 12. Catches: leave-one-out left uncounted."""
    for budget in range(1, 9):
        item, calls = by_hand(f"{name}budget={budget}")
        assert len(set(calls)) == len(item.asked) <= budget
    assert item.text != "red big old", "the attack did nothing"


@pytest.fixture(scope="module")
def world(minifacts):
    """60 dev queries in three languages against 1125 dev and test facts; greedy's items."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches: beside another program 0.3 s instead of 8.3 s
    found = SimpleNamespace(data=minifacts, encoder=load_encoder(MODEL))
    texts, dev, known = minifacts.passages, sorted(minifacts.qrels["dev"]), minifacts.queries
    held = {known[q].group for q in (*dev, *minifacts.qrels["test"])}
    found.passages = [i for i, t in enumerate(texts) if t.lang in LANGS and t.group in held]
    found.queries = [q for a in LANGS for q in [x for x in dev if known[x].lang == a][:20]]
    found.tables = {a: attacks.read_table(TABLES / f"{a}.json", a) for a in LANGS}
    found.p = found.encoder.encode([texts[i] for i in found.passages], "passage")
    found.greedy = attacked(found, "greedy:edits=2")
    yield found
    torch.set_num_threads(threads)


def attacked(world, text, queries=None, views=("pool",), seed=0, like=None):
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
        t = world.data.passages[i]  # relevant if it states the question's fact
        key = t.group == item.source.group, "*" if item.view == "pool" else t.lang
        top[key] = max(score, top.get(key, -2))
    pools = {a for _, a in top if a == "*" or (a == item.source.lang) == (item.view == "mono")}
    return round(fmean(top[True, a] - top[False, a] for a in pools), 6)


def put(item, edits):
    """The item's query with the word of slot n replaced by edits[n], left to right."""
    source, text, at = item.source.text, "", 0
    for n, (start, end, _) in enumerate(item.slots):
        text, at = text + source[at:start] + edits.get(n, source[start:end]), end
    return text + source[at:]


def test_greedy_equals_a_loop_over_one_query_at_a_time(world):
    """Claim: leave-one-out's order, then word by word the worst, each text scored alone. Number: 2
    queries a language, three views. Catches: another query's margin; an edit kept though it helps.
    """
    changed = 0
    for item in attacked(world, "greedy:edits=2", world.queries[::10], VIEWS):
        score = lambda edits, item=item: margin(world, item, put(item, edits))
        edits, least = {}, score({})
        for _, n in sorted((score({n: ""}), n) for n in range(len(item.slots))):
            tries = [(score(edits | {n: o}), j) for j, o in enumerate(item.slots[n][2])]
            if len(edits) < 2 and min(tries)[0] < least:
                least, j = min(tries)
                edits |= {n: item.slots[n][2][j]}
        assert item.text == put(item, edits) or abs(margin(world, item) - least) < 2e-6  # a tie
        changed += len(edits) > 0
    assert changed >= 12, "the attack did nothing"


def test_harm_grows_from_random_to_greedy_to_beam_to_exact(world):
    """Claim: greedy's mean margin is .02 below the clean one, .01 below random's with as many edits
    a query, above beam's; exact's is never above greedy's. Number: 60 queries, two edits. Catches:
    a search that maximises; idle controls; exact that a limit cuts; a beam that keeps the best.
    """
    greedy, score = world.greedy, lambda items: [margin(world, x) for x in items]
    beam, exact = (attacked(world, f"{name}:edits=2,limit=9999") for name in ("beam", "exact"))
    first, every = score(greedy), score(exact)
    assert fmean(first) < fmean(margin(world, x, x.source.text) for x in greedy) - 0.02
    for seed in range(3):
        control = attacked(world, "greedy:edits=2", seed=seed, like=greedy)
        assert [len(x.edits) for x in control] == [len(x.edits) for x in greedy]
        assert all((x.text != x.source.text) == bool(x.edits) for x in control)
        assert fmean(first) < fmean(score(control)) - 0.01
    assert fmean(score(beam)) < fmean(first) and all(x.exhaustive for x in exact)
    assert all(a <= b + 2e-6 for a, b in zip(every, first, strict=True))
    assert sum(a < b - 1e-4 for a, b in zip(every, first, strict=True)) > 5, "exact is greedy"


def test_hotflip_proposes_by_gradient_and_decides_by_scores(world):
    """Claim: a slot keeps two replacements, which hurt more than the others (alone, mean .001); no
    margin ends above the clean one. Catches: the gradient's sign; an estimate taken for the truth.
    """
    changes, fell = {True: [], False: []}, 0
    for before, item in zip(world.greedy, attacked(world, "hotflip:edits=2"), strict=True):
        clean, now = margin(world, item, item.source.text), margin(world, item)
        for n, (slot, old) in enumerate(zip(item.slots, before.slots, strict=True)):
            assert len(slot[2]) == min(2, len(old[2])) and set(slot[2]) <= set(old[2])
            for o in old[2] if n < 2 else ():
                changes[o in slot[2]].append(margin(world, item, put(before, {n: o})) - clean)
        assert now <= clean + 2e-6 and len(item.edits) <= 2
        fell += now < clean - 1e-3
    assert len(changes[False]) > 40 and fmean(changes[True]) < fmean(changes[False]) - 0.001
    assert fell > 30, "the attack did nothing"


@pytest.mark.parametrize("spec", ["greedy", "beam:budget=20", "hotflip", "random", "typos"])
def test_a_shuffled_batch_gives_what_each_query_gives_alone(world, spec):
    """Claim: text and calls depend on query, label and, at random, seed. Number: nine, backwards,
    three views. Catches: lock-step that mixes up items; one generator for all; budgets that leak.
    """
    some = world.queries[::-7]
    found = lambda queries, *seed: [
        (x.text, x.asked, x.changed) for x in attacked(world, spec, queries, VIEWS, *seed)
    ]
    alone = [x for q in some for x in found([q])]
    assert found(some) == alone and any(changed for *_, changed in alone)
    assert (found(some, 1) != alone) == (spec in ("random", "typos"))


@pytest.mark.parametrize("spec", ["greedy", "hotflip", "pgd"])
def test_attacks_leave_training_mode_and_gradients_alone(world, spec):
    """Claim: they run without dropout and hand the encoder back as it was. Number: dropout .5, each
    .grad all 7. Catches: backward() instead of autograd.grad; eval() without the way back.
    """
    encoder, queries = load_encoder(MODEL).train(), world.queries[::15]
    encoder.apply(lambda part: setattr(part, "p", 0.5))
    for weight in encoder.parameters():
        weight.grad = torch.full_like(weight, 7)
    found = attacked(SimpleNamespace(**vars(world) | {"encoder": encoder}), spec, queries)
    assert [x.text for x in found] == [x.text for x in attacked(world, spec, queries)]
    assert all((w.grad == 7).all() and w.requires_grad for w in encoder.parameters())
    assert encoder.training and encoder.model.training


def run(folder, *flags):
    """evaluate.py: exit code, stdout, stderr, folder/out's records by (attack, view, languages)."""
    out, err, files = io.StringIO(), io.StringIO(), (folder / "out").glob("*.json")
    flags = [MODEL, "--data", folder, "--out", folder / "out", *flags]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = evaluate.main([str(flag) for flag in flags])
    rows = [row for file in files for row in json.loads(file.read_text())["results"]]
    found = {(r["attack"], r["view"], r["query_lang"], r["passage_lang"]): r for r in rows}
    assert len(found) == len(rows), "a record stands twice"
    return code, out.getvalue(), err.getvalue(), found


def pick(rows, attack, names=evaluate.METRICS):
    """These values of an attack's records, by view and languages."""
    return {k[1:]: [r[name] for name in names] for k, r in rows.items() if k[0] == attack}


@pytest.fixture(scope="module")
def story(world, tmp_path_factory):
    """Four runs on 60 queries without a Thai table: the records after each, encoder calls."""
    folder, data = tmp_path_factory.mktemp("data"), world.data
    pairs = [(q, p) for q in world.queries for p in data.qrels["dev"][q] if p in world.passages]
    qrels = [f"{data.queries[q].id}\t{data.passages[p].id}\t1" for q, p in pairs]
    texts = [data.passages[i] for i in world.passages], [data.queries[q] for q in world.queries]
    row = lambda t: {"_id": t.id, "lang": t.lang, "text": t.text, "group": t.group}
    write_folder(folder, *([row(t) for t in side] for side in texts), qrels, ["test"])
    shutil.copytree(TABLES, folder / "synonyms")
    (folder / "synonyms/th.json").unlink()
    clean, flags = run(folder)[3], ["--attacks", "identity", "greedy:edits=2", "exact:edits=2"]
    with mock.patch.object(Encoder, "encode", autospec=True, side_effect=Encoder.encode) as spy:
        _, _, err, first = run(folder, *flags, "--attack-out", folder / "frozen")
    assert any("not attacked" in line and "20 th" in line for line in err.split("\n")), err
    again = run(folder, "--attacks", "random:edits=2", "greedy:edits=2")[3]
    moved = run(folder, "--attacked-queries", folder / "frozen")[3]
    rows = {"clean": clean, "first": first, "again": again, "moved": moved}
    calls = [call.args[2] for call in spy.call_args_list]  # "query" or "passage"
    return SimpleNamespace(folder=folder, calls=calls, **rows)


def test_attacks_add_records_and_overwrite_none(story):
    """Number: three languages have 3 + 6 + 3 records an attack; greedy and exact bring a control,
    identity exactly the clean metrics; passages are encoded once. Catches: moved clean records.
    """
    names = {"clean", "identity", "greedy:edits=2", "exact:edits=2"}
    names |= {f"{name}:control" for name in names if "=" in name}
    assert {key[0] for key in story.first} == names
    assert {key[0] for key in story.again} == names | {"random:edits=2"}
    assert all(len(pick(story.moved, key[0])) == 12 for key in story.moved)
    assert story.clean.items() <= story.first.items() <= story.again.items() <= story.moved.items()
    assert story.calls.count("passage") == 1 and story.calls.count("query") > 10
    assert pick(story.first, "identity") == pick(story.first, "clean")
    counts = pick(story.first, "identity", ["n_attacked", "n_changed", "n_right", "edits", "calls"])
    assert not any(map(any, counts.values()))


def test_the_counts_agree_with_the_metrics_around_them(story):
    """Claim: right is the clean R@1 where all were attacked; who is not broken is right after it.
    Number: 20 queries a language, no Thai table. Catches: another pool's counts; a robust Thai.
    """
    for (name, *key), row in story.first.items():
        clean, attack = story.clean["clean", *key], name.removesuffix(":control")
        if attack not in ("clean", "identity"):
            assert row["n_broken"] <= row["n_right"] <= row["n_attacked"] <= row["n_queries"] == 20
            assert row["edits"] == story.first[attack, *key]["edits"] <= 2
            if key[1] == "th":
                assert row["n_attacked"] == 0 and row["mAP"] == clean["mAP"]
            elif key[0] != "pool":  # one relevant passage a query
                assert row["n_attacked"] == 20 and row["n_right"] == round(20 * clean["R@1"])
                assert row["n_right"] - row["n_broken"] <= round(20 * row["R@1"])
            elif name == attack:
                assert row["mAP"] < clean["mAP"] - 0.02 and row["n_broken"], "it did nothing"


def test_frozen_queries_open_as_data_and_repeat_the_attack(story, tmp_path):
    """Claim: on the same model metrics and the number broken are equal; a changed file is refused.
    Number: one space. Catches: another view's queries; a transfer that counts no success.
    """
    name, clean = "greedy:edits=2", {t.id: t.text for t in load_data(story.folder).queries}
    texts = load_data(story.folder / f"frozen/{name}-pool").queries
    assert len(texts) == 60 and sum(clean[t.id] != t.text for t in texts) > 30
    shutil.copytree(story.folder / f"frozen/{name}-mono", tmp_path / "mono")
    file = tmp_path / "mono/queries.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("?", " ?", 1), encoding="utf-8")
    code, _, err, _ = run(story.folder, "--attacked-queries", tmp_path)
    assert code == 1 and "queries.jsonl" in err and "Freeze it again" in err
    (label,) = {key[0] for key in story.moved if key[0].startswith(name + "<")}
    assert pick(story.moved, label) == pick(story.first, name)
    assert pick(story.moved, label, ["n_broken"]) == pick(story.first, name, ["n_broken"])


def test_queries_with_nothing_to_replace_are_not_attacked(folder):
    """Number: one of two English questions holds "capital", German has no table: three of four are
    not attacked; with the word protected, none is. Catches: robust because never attacked.
    """
    (folder / "table.json").write_text('{"capital": ["seat"]}')
    (folder / "words").write_text("cats\n Capital \n")
    flags = ["--table", f"en={folder}/table.json", "--show", "9", "--attacks"]
    _, out, err, rows = run(folder, *flags, "random:edits=1")
    assert any("not attacked" in line and "2 de" in line for line in err.split("\n")), err
    assert "random:edits=1 pool q1.en: What is the [capital→seat]?" in out.split("\n")
    assert out.count("→") == 3, "one query in three views"
    counts = pick(rows, "random:edits=1", ["n_attacked", "n_changed", "n_right"])
    assert all(v[:2] == ([1, 1] if k[1] == "en" else [0, 0]) for k, v in counts.items())
    assert all(right <= done for done, _, right in counts.values())
    (line,) = [x.split("|") for x in out.split("\n") if "| random:edits=1 | pool" in x]
    assert line[9].strip() == "3", "the table's column: not attacked"
    rows = run(folder, *flags, "greedy", "--protect", folder / "words")[3]
    assert list(pick(rows, "greedy", ["n_attacked"]).values()) == [[0]] * 6


@pytest.mark.parametrize(("flags", "message"), [
    ("gredy", "attack 'gredy' is unknown"), ("pgd:epsilon=-1", "epsilon is at least 0"),
    ("greedy:hue=2", "no setting 'hue'"), ("greedy", "Give --table LANG=FILE"),
    ("code-switch", "no such dictionary"), ("greedy --table en=x.json", "x.json: no such table"),
    ("greedy --table en=DIR/corpus.jsonl", "corpus.jsonl: not JSON"),
    ("greedy --table en=DIR/latin1.json", "latin1.json: "), ("typos --protect x.txt", "x.txt"),
    ("clean --attacked-queries DIR/qrels", "no */attack.json"),
    ("clean --attacked-queries DIR/english", "english"),
])  # fmt: skip
def test_wrong_input_is_one_clear_sentence(folder, flags, message):
    """Claim: exit code 1 and one line that names the culprit. Number: "english" was frozen with
    --langs en and lacks the German queries. Catches: tracebacks; an error without its file.
    """
    (folder / "latin1.json").write_bytes('{"Stra\xdfe": ["Weg"]}'.encode("latin-1"))
    if message == "english":
        run(folder, "--langs", "en", "--attacks", "typos", "--attack-out", folder / "english")
        shutil.rmtree(folder / "out")
    flags = [flag.replace("DIR", str(folder)) for flag in flags.split()]
    code, _, err, _ = run(folder, "--attacks", *flags)
    assert code == 1 and err.startswith("evaluate.py: ") and err.count("\n") == 1 and message in err


def test_an_empty_or_uneven_view_is_reported_all_the_same(folder):
    """Number: q1.en has one relevant passage, q2.en two, q1.de none in English. Catches: division
    by the queries of an empty view; a certified R@1 above R@1, which for q2.en is 1/2 at most.
    """
    pairs = ("q1.en a.en", "q2.en b.en", "q2.en b.de", "q1.de a.de", "q2.de b.de")
    write_folder(folder, qrels=["\t".join([*pair.split(), "1"]) for pair in pairs])
    code, _, _, rows = run(folder, "--attacks", "exact", "--table", f"en={TABLES}/en.json")
    found = pick(rows, "exact", ["n_queries", "R@1", "certified R@1"])
    assert code == 0 and found["cross", "de", "en"][0] == 0 and found["pool", "en", "*"][1] > 0
    assert all(safe <= right for n, right, safe in found.values() if n)
