"""Rung 13: an encoder is trained on perturbed queries; with nothing to perturb it trains as before.

Builds: train.py ("robust training", `batch_losses`). Before: rungs 4, 9 and 11.
Run: pytest tests/test_13_robust.py
"""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, write_folder

import train
import xlt
from train import Method

SMALL = ["--train-langs", "en", "de", "--test-langs", "en", "de", "--attacks", "clean"]
SMALL += ["--steps", "6", "--batch-size", "8", "--save-every", "2", "--log-every", "1"]


@pytest.fixture(scope="module")
def small(tmp_path_factory, minifacts):
    """Sixteen questions in three languages; every second one is also answered by the next's passage."""
    groups = sorted({minifacts.queries[q].group for q in minifacts.qrels["train"]})[::60][:16]
    rows = lambda texts: [
        {"_id": t.id, "lang": t.lang, "text": t.text, "group": t.group, "answer": t.answer}
        for t in texts
        if t.group in groups and t.lang in ("en", "de", "th")
    ]
    corpus, queries, qrels = rows(minifacts.passages), rows(minifacts.queries), []
    for q in queries:
        n = groups.index(q["group"])
        gold = groups[n : n + 2] if n % 2 else groups[n : n + 1]
        qrels += [f"{q['_id']}\t{p['_id']}\t1" for p in corpus if p["group"] in gold]
    folder = write_folder(tmp_path_factory.mktemp("small"), corpus, queries, qrels)
    shutil.copytree(ROOT / "data/minifacts/synonyms", folder / "synonyms")
    shutil.copy(ROOT / "data/minifacts/dictionary.tsv", folder)
    # The bundled encoder has no dropout; with some, a state that is lost or disturbed shows
    shutil.copytree(ROOT / "data/tiny_xlmr", folder / "model")
    config = json.loads((folder / "model/config.json").read_text())
    (folder / "model/config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.1}))
    return folder


@pytest.fixture(scope="module")
def data(small):
    return xlt.load_data(small)


@pytest.fixture
def tiny(tmp_path):
    """One question in two languages; what may change is fast and big, all else must stay."""
    corpus = [
        {"_id": "p.en", "lang": "en", "text": "this town knows Rich since 1990 and is fast, big", "group": "a"},
        {"_id": "p.de", "lang": "de", "text": "die Stadt kennt Reich seit 1990, schnell, riesig", "group": "a"},
    ]
    queries = [
        {"_id": "q.en", "lang": "en", "text": "is town or Rich 1990 fast, big", "group": "a", "answer": "town"},
        {"_id": "q.de", "lang": "de", "text": "ist Stadt oder 1990 schnell, riesig", "group": "a", "answer": "Stadt"},
    ]
    qrels = [f"q.{a}\tp.{b}\t1" for a in ("en", "de") for b in ("en", "de")]
    write_folder(tmp_path, corpus, queries, qrels)
    english = {"fast": ["quick"], "big": ["large", "huge", "vast"]}
    english |= {"town": ["city"], "rich": ["poor"], "1990": ["1991"]}
    german = {"schnell": ["flink"], "riesig": ["enorm"], "stadt": ["ort"], "1990": ["1991"]}
    (tmp_path / "synonyms").mkdir()
    for lang, table in (("en", english), ("de", german)):
        (tmp_path / f"synonyms/{lang}.json").write_text(json.dumps(table))
    rows = [("de", "fast", "schnell"), ("de", "big", "riesig"), ("de", "town", "stadt")]
    rows += [("el", "fast", "γρήγορο"), ("vi", "fast", "nhanh"), ("el", "big", "μεγάλο"), ("vi", "big", "lớn")]
    rows += [("th", "big", "ใหญ่"), ("de", "rich", "arm"), ("de", "1990", "1991")]
    (tmp_path / "dictionary.tsv").write_text("".join("\t".join(("en", *row)) + "\n" for row in rows))
    return xlt.load_data(tmp_path)


def given(folder, out, robust, *more):
    model = folder / "model" if (folder / "model").exists() else ROOT / "data/tiny_xlmr"
    head = ["--data", str(folder), "--out", str(out), "--model", str(model), "--robust", *robust.split()]
    return [*head, *SMALL, *more]


def scene(data, robust="none", dropout=False, seed=0):
    """What one training step needs; without dropout two passes are equal."""
    flags = train.single_runs(train.parse(given(data.folder, "x", robust, "--seed", str(seed))))[0]
    encoder = xlt.load_encoder(flags["model"] if dropout else ROOT / "data/tiny_xlmr").train()
    plan = xlt.batches(xlt.Pairs(data, ["en", "de"]), "hybrid", 8, 9, 0.5, seed)
    tools = train.make_perturber(flags, data, encoder)
    return SimpleNamespace(encoder=encoder, data=data, batch=next(plan), flags=flags, tools=tools)


def step(s, number=1):
    return train.batch_losses(s.encoder, s.data, s.batch, s.flags, s.tools, number)[0]


def towers(s, hook=None):
    """Vectors of the batch's queries, with a hook, and passages: the test's own two lines."""
    texts = [s.data.queries[i] for i in s.batch.queries], [s.data.passages[i] for i in s.batch.passages]
    rows = [s.encoder.tokenize(t, kind) for t, kind in zip(texts, ("query", "passage"), strict=True)]
    return s.encoder(rows[0], perturb=hook), s.encoder(rows[1])


def slow_mask(s):
    """[i, j]: passage j answers query i as well, by the groups of the qrels, in loops."""
    gold = {}
    for q, relevant in s.data.qrels["train"].items():
        gold.setdefault(s.data.queries[q].group, set()).update(s.data.passages[p].group for p in relevant)
    who, what = s.batch.queries, s.batch.passages
    rows = [[s.data.passages[p].group in gold[s.data.queries[q].group] for p in what] for q in who]
    return torch.tensor(rows) & ~torch.eye(len(who), dtype=torch.bool)


def each_nce(q, p, mask, tau=0.05):
    """InfoNCE a row (B,), written out."""
    scores = (q @ p.T / tau).masked_fill(mask, -math.inf)
    return scores.logsumexp(1) - scores.diagonal()


def nce(q, p, mask):
    return each_nce(q, p, mask).mean()


def kl(a, b, q, p, mask):
    """KL from the perturbed to the clean softmax, over what is not masked, in loops."""
    new, old = ((x @ y.T / 0.05).masked_fill(mask, -math.inf).softmax(1) for x, y in ((a, b), (q, p)))
    rows, keep = range(len(a)), ~mask
    cells = [new[i, j] * (new[i, j] / old[i, j]).log() for i in rows for j in rows if keep[i, j]]
    return sum(cells) / len(a)


def spy(monkeypatch, name):
    """What train's function of this name returns from now on; for noise what its hooks add."""
    seen, real = [], getattr(train, name)

    def hooked(hook, words, batch, chunk):
        made = hook(words, batch, chunk)
        seen.append((tuple(chunk), batch, (made - words).detach()))
        return made

    def watched(*given):
        found = real(*given)
        if name == "noise":
            return [lambda *x, hook=hook: hooked(hook, *x) for hook in found]
        seen.append(found)
        return found

    monkeypatch.setattr(train, name, watched)
    return seen


def few_steps(data, methods, folder, seed=0):
    """Three steps of the real loop with dropout, logging each -> weights."""
    s = scene(data, dropout=True, seed=seed)
    s.tools.methods = methods
    plan = xlt.batches(xlt.Pairs(data, ["en", "de"]), "hybrid", 8, 3, 0.5, seed)
    folder.mkdir()
    args = SimpleNamespace(log_every=1, save_every=50)
    train.train(s.encoder, data, plan, s.flags | {"steps": 3}, folder, args, s.tools)
    return [w.detach().clone() for w in s.encoder.parameters()]


# ---- nothing to perturb: nothing changes ---------------------------------------------------------


def test_plain_training_is_info_nce_on_the_two_towers(data):
    """Claim: batch_losses of "none" is the formula, to 1e-6; its mask is that of the qrels.
    Number: gold groups overlap, so some rows are masked. Catches: a mask lost or transposed, tau.
    """
    s = scene(data)
    found, mask = train.batch_losses(s.encoder, s.data, s.batch, s.flags, s.tools)
    want = slow_mask(s)
    assert want.any() and not torch.equal(want, want.T) and torch.equal(mask, want)
    assert float(found["loss"]) == pytest.approx(float(nce(*towers(s), want)), abs=1e-6)
    assert set(found) == {"loss", "clean"}


def test_strength_0_and_weight_0_train_as_plain_bit_for_bit(data, tmp_path):
    """Claim: three real steps with dropout end in the same bits; sigma 0.1 or a new seed do not.
    Catches: a second pass that draws dropout, a batch drawn from the noise's stream, a probe that
    moves the random state.
    """
    plain = few_steps(data, [], tmp_path / "plain")
    same = lambda *methods, **how: all(
        map(torch.equal, plain, few_steps(data, [*methods], tmp_path / str(len(list(tmp_path.iterdir()))), **how))
    )
    zero = [Method("rs-rp", sigma=0), Method("adv", epsilon=0), Method("adv", epsilon=0, how="freelb")]
    zero += [Method(name, rate=0) for name in ("rs-da", "code-switch", "typos")]
    zero += [Method(name, weight=0) for name in ("rs-rp", "adv")]
    for method in zero:
        assert same(method), method
    assert same(*zero) and same(Method("rs-rp", sigma=0), Method("self-teaching"))
    assert not same(Method("rs-rp", sigma=0.1)) and not same(seed=1)


def test_a_hook_of_strength_0_gives_the_clean_vectors_bit_for_bit(data):
    """Claim: below the short-cut of Perturber.active too: Encoder.forward with dropout, the same
    random state. Catches: a search that draws dropout, that leaves eval mode on, noise + epsilon.
    """
    s = scene(data, dropout=True)
    mask = slow_mask(s)

    def vectors(method):
        torch.manual_seed(5)
        if not method:
            return [towers(s)[0]]
        p, found = towers(s)[1].detach(), []
        picks = lambda v, chunk: (v @ p.T)[:, 0]
        for hook in train.noise(s.encoder, method, s.tools, xlt.generator(0), picks):
            torch.manual_seed(5)
            found.append(towers(s, hook)[0])
        return found

    clean = vectors(None)[0]
    zero = [Method("rs-rp", sigma=0, noise=kind) for kind in ("gaussian", "uniform")]
    zero += [Method("adv", epsilon=0, how=how, ball=ball, norm=norm) for how, ball, norm in (
        ("fgm", "token", "l2"), ("pgd", "sentence", "l2"), ("freelb", "token", "max"))]  # fmt: skip
    for method in zero:
        assert all(torch.equal(v, clean) for v in vectors(method)), method
    assert s.encoder.training and mask.any()
    for method in (Method("rs-rp"), Method("adv")):
        assert (vectors(method)[0] - clean).abs().max() > 1e-3, "at strength 0.1 something changes"
    texts = [s.data.queries[i] for i in s.batch.queries]
    assert train.edit(texts, Method("typos", rate=0.0), s.tools, xlt.generator(0)) == texts
