"""Rung 13: an encoder is trained on perturbed queries; with nothing to perturb it trains as before.

Builds: train.py ("robust training"). Before: rungs 4, 9, 11. Run: pytest tests/test_13_robust.py
"""

import functools
import json
import math
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, write_folder

import train
import xlt
from train import Method, parse_robust

SMALL = "--train-langs en de --test-langs en de --attacks clean --batch-size 8 --steps 6 --save-every 2 --log-every 3"
folders = lambda data, out: ["--data", str(data.folder), "--out", str(out), "--model", str(data.folder / "model")]
command = lambda data, out, *robust: [*folders(data, out), *SMALL.split(), "--robust", *robust]


@pytest.fixture(scope="module")
def data(tmp_path_factory, minifacts):
    """Sixteen questions in two languages; every second is also answered by the next one's passage."""
    groups = sorted({minifacts.queries[q].group for q in minifacts.qrels["train"]})[::60][:16]
    row = lambda t: {"_id": t.id} | {k: getattr(t, k) for k in ("lang", "text", "group", "answer")}
    keep = lambda texts: [row(t) for t in texts if t.group in groups and t.lang in ("en", "de")]
    corpus, queries = keep(minifacts.passages), keep(minifacts.queries)
    gold = {g: groups[n : n + 1 + n % 2] for n, g in enumerate(groups)}
    qrels = [f"{q['_id']}\t{p['_id']}\t1" for q in queries for p in corpus if p["group"] in gold[q["group"]]]
    folder = write_folder(tmp_path_factory.mktemp("small"), corpus, queries, qrels)
    shutil.copytree(ROOT / "data/minifacts/synonyms", folder / "synonyms")
    shutil.copy(ROOT / "data/minifacts/dictionary.tsv", folder)
    shutil.copytree(ROOT / "data/tiny_xlmr", folder / "model")
    # The bundled encoder has no dropout; with some, a state that is lost or disturbed shows
    config = json.loads((ROOT / "data/tiny_xlmr/config.json").read_text()) | {"hidden_dropout_prob": 0.1}
    (folder / "model/config.json").write_text(json.dumps(config))
    return xlt.load_data(folder)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """robust -> the folder of a complete run; each is trained once."""
    out = tmp_path_factory.mktemp("whole")
    run = functools.cache(lambda robust: train.main(command(data, out, robust)))
    return lambda robust: out / f"hybrid-{robust.replace(':', '_')}-seed{run(robust)}"  # exit code 0


@pytest.fixture
def tiny(tmp_path):
    """A query, its passage, a function: text, robust, n -> its words, edited n times; the last two may change."""
    row = lambda id, text, answer="": {"_id": id, "lang": id[2:], "text": text, "group": "a", "answer": answer}
    queries = [row("q.en", "is town or Rich 1990 fast, big", "town"), row("q.de", "wie", "fast")]  # German
    corpus = [row("p.en", "this town knows Rich since 1990 and is fast, big")]
    write_folder(tmp_path, corpus, queries, ["q.en\tp.en\t1", "q.de\tp.en\t1"])
    table = {"fast": ["quick"], "big": ["large", "huge", "vast"], "town": ["city"], "rich": ["poor"], "1990": ["1991"]}
    (tmp_path / "synonyms").mkdir()
    (tmp_path / "synonyms/en.json").write_text(json.dumps(table))
    rows = "de fast schnell,de big riesig,de town stadt,de rich arm,de 1990 1991,el big μεγάλο,vi fast nhanh,th big ใหญ่"
    (tmp_path / "dictionary.tsv").write_text("".join(f"en {x}\n".replace(" ", "\t") for x in rows.split(",")))
    data, flags = xlt.load_data(tmp_path), {"seed": 0, "batching": "x-y", "train_langs": ["en", "de"]}
    tools = lambda robust: train.make_perturber(flags | {"robust": robust}, data)
    edit = lambda t, how, n: train.edit([t] * n, parse_robust(how)[0], tools(how), xlt.generator(1))
    return data.queries[0], data.passages[0], lambda *x: [t.text.split() for t in edit(*x)]


def scene(data, robust="none", dropout=False):
    """What one training step needs; without dropout two passes are equal."""
    flags = train.single_runs(train.parse(command(data, "x", robust)))[0]
    encoder = xlt.load_encoder(flags["model"] if dropout else ROOT / "data/tiny_xlmr").train()
    plan = lambda: xlt.batches(xlt.Pairs(data, ["en", "de"]), "hybrid", 8, 3)
    tools = train.make_perturber(flags, data, encoder)
    return SimpleNamespace(encoder=encoder, data=data, batch=next(plan()), flags=flags, plan=plan, tools=tools)


def towers(s, hook=None):
    """Vectors of the batch's queries, with a hook, and passages."""
    q, p = [s.data.queries[i] for i in s.batch.queries], [s.data.passages[i] for i in s.batch.passages]
    p = s.encoder(s.encoder.tokenize(p, "passage"))  # first, as in training: dropout is drawn in order
    return s.encoder(s.encoder.tokenize(q, "query"), perturb=hook), p


def slow_mask(s):
    """[i, j]: passage j answers query i as well, by the groups of its qrels."""
    group = lambda p: s.data.passages[p].group
    gold = [{*map(group, s.data.qrels["train"][q])} for q in s.batch.queries]
    return torch.tensor([[group(p) in g for p in s.batch.passages] for g in gold]).fill_diagonal_(False)


step = lambda s, number=1: train.batch_losses(s.encoder, s.data, s.batch, s.flags, s.tools, number)[0]
row_of = lambda tensors: torch.cat([x.detach().flatten() for x in tensors])
scores = lambda q, p, mask, tau=0.05: (q @ p.T / tau).masked_fill(mask, -1e9)
nce = lambda *x: F.cross_entropy(scores(*x), torch.arange(len(x[0])), reduction="none")  # (B,)
soft = lambda *x: scores(*x).log_softmax(1)
kl = lambda new, old: F.kl_div(soft(*old), soft(*new), log_target=True, reduction="batchmean")  # of (q, p, mask)


def spy(monkeypatch, name):
    """From now on (arguments, result) of train's function; of noise ((chunk, batch), what it adds)."""
    seen, real = [], getattr(train, name)
    keep = lambda key, made: seen.append((key, made)) or made
    hooked = lambda hook: lambda w, b, c: w + keep((tuple(c), b), (hook(w, b, c) - w).detach())
    hooks = lambda *given: [hooked(hook) for hook in real(*given)]
    monkeypatch.setattr(train, name, hooks if name == "noise" else lambda *given: keep(given, real(*given)))
    return seen


def few_steps(data, folder, *methods):
    """Three steps of the real loop with dropout, each logged -> weights."""
    s, args = scene(data, dropout=True), SimpleNamespace(log_every=1, save_every=50)
    s.tools.methods = methods
    train.train(s.encoder, data, s.plan(), s.flags | {"steps": 3}, folder, args, s.tools)
    return row_of(s.encoder.parameters())


def test_strength_0_and_weight_0_train_as_plain_bit_for_bit(data, tmp_path, monkeypatch):
    """Claim: three real steps with dropout end in the same bits; with sigma 0.1 not, but on the same batches.
    Catches: a second pass that draws dropout; a probe, or noise, that moves the random state."""
    zero = [Method("rs-rp", sigma=0), Method("adv", epsilon=0, how="freelb"), Method("rs-rp", weight=0)]
    zero += [Method("adv", weight=0), *(Method(name, rate=0) for name in ("rs-da", "code-switch", "typos"))]
    seen, plain = spy(monkeypatch, "count_batch"), few_steps(data, tmp_path)
    for methods in (*([m] for m in zero), zero, [zero[0], Method("self-teaching")]):
        assert torch.equal(few_steps(data, tmp_path, *methods), plain), methods
    assert not torch.equal(few_steps(data, tmp_path, Method("rs-rp"), Method("typos")), plain)
    plan = [(given[1].queries, given[1].passages) for given, _ in seen]
    assert plan == plan[:3] * (len(plan) // 3) and plan[0] != plan[1]


def test_a_hook_of_strength_0_gives_the_clean_vectors_bit_for_bit(data):
    """Claim: below the short-cut of Perturber.active too: Encoder.forward with dropout, from one random
    state. Catches: a search that draws dropout or leaves eval mode on."""
    s = scene(data, dropout=True)
    vectors = lambda hook: torch.manual_seed(5) and towers(s, hook)[0]
    zero = [Method("rs-rp", sigma=0), Method("adv", epsilon=0), Method("adv", epsilon=0, how="pgd", ball="sentence")]
    for method in [*zero, Method("adv", epsilon=0, how="freelb", norm="max"), Method("rs-rp"), Method("adv")]:
        for hook in train.noise(s.encoder, method, s.tools, xlt.generator(0), lambda v, chunk: v[:, 0]):
            assert torch.equal(vectors(hook), vectors(None)) == (not method.strength) and s.encoder.training, method


def test_a_probe_leaves_no_trace(data):
    """Claim: it gives the plain loss; no .grad appears, one that is there stays; the random state and the
    counts of texts (run.json's "truncated") stay. Catches: loss.backward(), dropout drawn twice."""
    s = scene(data, "rs-rp", dropout=True)
    first, *others = s.encoder.parameters()
    first.grad, before = torch.ones_like(first), torch.get_rng_state()
    loss, seconds = train.probe(s.encoder, s.data, s.batch, s.flags)
    assert first.grad.eq(1).all() and all(w.grad is None for w in others) and seconds > 0
    assert torch.equal(torch.get_rng_state(), before) and not s.tools.done
    assert loss == pytest.approx(nce(*towers(s), slow_mask(s)).mean().item(), abs=1e-6)
    assert sum(s.encoder.seen.values()) == 16, "the probe's texts are counted beside those of towers"


@pytest.mark.parametrize(("robust", "clean", "shares", "c"), [
    ("none", 1, [], 0), ("rs-rp:weight=0.3", 0.7, [0.3], 0), ("adv:weight=0.2", 0.8, [0.2], 0),
    ("rs-da+rs-rp", 0, [0.5, 0.5], 0), ("rs-rp:perturb=both", 0, [1], 0), ("rs-rp+self-teaching:weight=3", 1, [0], 3),
    ("adv:how=freelb,weight=0.4,perturb=both+typos:weight=0.1+self-teaching:weight=2", 0.5, [0.4, 0.1], 2),
])  # fmt: skip
def test_the_loss_is_the_weighted_sum_of_its_parts(data, monkeypatch, robust, clean, shares, c):
    """Claim: each part recomputed from its vectors, to 1e-5 (float32 sums); "none" is InfoNCE. Number: two share
    equally, self-teaching adds KL to the clean loss, freelb's points enter by their mean. Catches: clean + perturbed
    without shares; clean passages under both; KL times the share; a transposed mask (it is asymmetric)."""
    s = scene(data, robust)
    seen, (q, p), mask = spy(monkeypatch, "perturbed"), towers(s), slow_mask(s)
    found, want = step(s), clean * nce(q, p, mask).mean()
    for weight, (given, points) in zip(shares, seen, strict=True):
        for kind in given[5] if given[2].name == "adv" else ():  # what adv raises: each tower picks from the other
            v, rows = {"query": (q, nce(q, p, mask)), "passage": (p, nce(p, q, mask.T))}[kind]
            torch.testing.assert_close(given[5][kind](v.flip(0), [*range(8)][::-1]), rows.flip(0))
        for a, b in [(a, p if b is None else b) for a, b in points]:
            want = want + (weight * nce(a, b, mask).mean() + c * kl((a, b, mask), (q, p, mask))) / len(points)
    assert found["loss"].item() == pytest.approx(want.item(), abs=1e-5) and not torch.equal(mask, mask.T)
    assert ("clean" in found, "consistency" in found) == (clean > 0, c > 0)


@pytest.mark.parametrize(("steps", "ball"), [(1, "token"), (3, "token"), (3, "sentence")])
def test_freelb_takes_the_mean_gradient_over_points_of_the_ball(data, monkeypatch, steps, ball):
    """Claim: the first point is random, each next half a radius uphill, projected; the weights' gradient is
    the mean of those at each point, one by one, to 1e-5 of the largest. K = 1: that of the random start.
    Number: tau 0.5, else rows have no gradient but rounding. Catches: a sum, the last point, descent, another row."""
    s = scene(data, f"adv:how=freelb,epsilon=0.3,weight=1,steps={steps},step_size=0.5,ball={ball}")
    s.flags["tau"], seen, mask, p = 0.5, spy(monkeypatch, "noise"), slow_mask(s), towers(s)[1]
    step(s)["loss"].backward()
    n, unit = len(seen) // steps, s.encoder.model.embeddings.word_embeddings.weight.norm(dim=1).mean()
    long = lambda x: x.norm(dim=-1 if ball == "token" else (1, 2), keepdim=True).clamp(min=1e-9)
    rng, radius, want, due = xlt.generator(0, "noise", "adv", 1), 0.3 * unit.item(), 0.0, {}
    for part in (seen[k * n : k * n + n] for k in range(steps)):
        points = {chunk: delta.requires_grad_() for (chunk, _), delta in part}
        rows = nce(towers(s, lambda w, _, chunk, at=points: w + at[tuple(chunk)])[0], p, mask, 0.5)
        slopes = torch.autograd.grad(rows.mean(), [*points.values(), *s.encoder.parameters()], retain_graph=True)
        want = want + row_of(slopes[n:]) / steps
        for ((chunk, batch), delta), g in zip(part, slopes[:n], strict=True):
            free, g = batch["input_ids"] > 2, g * (batch["input_ids"] > 2)[..., None]
            start = train.attacks.random_noise(free, 128, [rng] * len(chunk), radius, "uniform", ball)
            torch.testing.assert_close(delta, due.get(chunk, start), rtol=0, atol=1e-4 * radius)
            due[chunk] = (far := delta.detach() + 0.5 * radius * g / long(g)) * (radius / long(far)).clamp(max=1)
            assert long(delta).max() <= radius * (1 + 1e-4)
    assert (row_of(w.grad for w in s.encoder.parameters()) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.parametrize("how", ["fgm", "pgd", "freelb"])
def test_training_meets_a_worst_case_and_not_noise(data, monkeypatch, how):
    """Claim: at adv's (last) point the loss is 0.1 above the clean one and above that at random noise with
    each token's norm. Catches: descent; noise where the worst case was asked for."""
    s = scene(data, f"adv:how={how},epsilon=0.3")
    seen, (q, p), mask, _ = spy(monkeypatch, "noise"), towers(s), slow_mask(s), torch.manual_seed(7)
    step(s)
    worst = {chunk: delta for (chunk, _), delta in seen}  # of each chunk the last
    noise = {c: F.normalize(torch.randn_like(d), dim=-1) * d.norm(dim=-1, keepdim=True) for c, d in worst.items()}
    moved = [towers(s, lambda w, _, c, at=at: w + at[tuple(c)])[0] for at in (noise, worst)]
    clean, random, attacked = (nce(v, p, mask).mean().item() for v in (q, *moved))
    assert attacked > max(clean, random) + 0.1, (clean, random, attacked)


def test_self_teaching_is_the_kl_from_perturbed_to_clean_scores():
    """Number: tau 0.5, scores tau ln(P). Row 1: P' = (1/2, 1/2), P = (1/4, 3/4), the third masked: (ln 2 + ln 2/3) / 2
    = ln(4/3) / 2. Row 2: equal, 0. Row 3: P' = (1/4, 1/4, 1/2), P = (1/8, 1/8, 3/4): as row 1. Mean: ln(4/3) / 3. Equal
    scores: no slope, 1e-6. Catches: the other direction (0.087), no tau or mask, NaN of -inf, a teacher that learns."""
    log = lambda *rows: torch.tensor([[math.log(x) / 2 for x in row] for row in rows]).T.requires_grad_()
    student, one = log((1 / 2, 1 / 2, 9), (1 / 3, 1 / 2, 1 / 6), (1 / 4, 1 / 4, 1 / 2)), torch.eye(3).requires_grad_()
    teacher, mask = log((1 / 4, 3 / 4, 2), (1 / 3, 1 / 2, 1 / 6), (1 / 8, 1 / 8, 3 / 4)), torch.ones(3, 3).triu(2).bool()
    found = train.self_teaching(torch.eye(3), student, one, teacher, 0.5, mask)
    found.backward()
    assert found.item() == pytest.approx(math.log(4 / 3) / 3, abs=1e-6)
    assert teacher.grad is None and one.grad is None and student.grad[2, 0] == 0 < student.grad.abs().max()
    none = train.self_teaching(one, student, one, student, 0.5, mask)
    assert none.item() == 0 and torch.autograd.grad(none, student)[0].abs().max() < 1e-6


@pytest.mark.parametrize("robust", ["rs-rp:noise=uniform", "adv:how=fgm", "adv:how=pgd,ball=sentence", "adv:steps=2,how=freelb"])
def test_noise_touches_no_padding_and_no_special_token_in_both_towers(data, monkeypatch, robust):
    """Number: XLM-R's <s>, <pad>, </s> are 0, 1, 2. Catches: attention_mask as the mask, one tower."""
    s, seen = scene(data, robust + ",perturb=both"), spy(monkeypatch, "noise")
    step(s)
    assert all(torch.equal(d.ne(0).any(-1), b["input_ids"] > 2) for (_, b), d in seen)
    assert any(b["input_ids"].eq(1).any() for (_, b), _ in seen), "no batch was padded"
    assert sum(len(chunk) for (chunk, _), _ in seen) == 16 * (2 if "freelb" in robust else 1)


@pytest.mark.parametrize("robust", ["rs-rp", "rs-da", "code-switch", "typos", "adv:how=freelb"])
def test_a_perturbation_is_a_function_of_seed_and_step(data, monkeypatch, robust):
    """Catches: noise drawn once, so each step has the same; a stream carried on, so resuming differs."""
    s, seen = scene(data, robust), spy(monkeypatch, "perturbed")
    for s.tools.seed, number in ((0, 1), (0, 1), (0, 2), (1, 1)):
        step(s, number)
    first, *others = (points[0][0] for _, points in seen)
    assert [torch.equal(first, v) for v in others] == [True, False, False]


@pytest.mark.parametrize(("robust", "shares"), [
    ("rs-da:rate=1", {"quick,": 1 / 2, "large": 1 / 4, "huge": 1 / 4, "vast": 1 / 4, "any": 7 / 8}),
    ("rs-da:rate=0.2", {"quick,": 0.1, "large": 0.05, "huge": 0.05, "vast": 0.05, "any": 0.175}),
    ("code-switch:rate=1,words=0.3", {"schnell,": 0.3, "riesig": 0.3, "any": 0.51}), ("typos:rate=0.5", {"any": 0.5}),
    ("typos:rate=0.1", {"any": 0.1}),
])  # fmt: skip
def test_words_change_as_often_as_promised_and_to_no_others(tiny, robust, shares):
    """Number: n synonyms, P(change) = n / (n + 1), as Robust-XLT: fast 1/2, big 3/4 in quarters, any 1 - 1/8;
    code-switch 1 - 0.7^2. 4000 draws, 5 standard errors: false alarm 6e-7 each. Catches: always another word,
    one draw for both words, a share of texts for one of words; el, vi and th, which are not trained on."""
    found, old = tiny[2](tiny[0], robust, 4000), tiny[0].text.split()
    for word, p in shares.items():
        n = sum(words != old if word == "any" else word in words for words in found)
        assert abs(n / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5, word
    assert "typos" in robust or {w for words in found for w in words} == {*old, *shares} - {"any"}


@pytest.mark.parametrize("name", ["rs-da", "code-switch", "typos"])
def test_names_numbers_and_answers_stay_in_queries_and_passages(tiny, name):
    """Claim: of 300 draws only what may change does; the answers of a passage's queries in its language stay. A typo
    changes one word of 3 letters or more, also a name. Catches: answers of the passage, which has none; new copies."""
    for text in tiny[:2]:
        found, old = tiny[2](text, f"{name}:rate=1", 300), text.text.split()
        changed = [{w for w, new in zip(old, words, strict=True) if w != new} for words in found]
        free = {*old} - {"town", "1990", "is", "or"} if name == "typos" else {"fast,", "big"}
        assert set.union(*changed) == free and (name != "typos" or {*map(len, changed)} == {1})
        copies = {" ".join(words) for words in tiny[2](text, f"{name}:rate=1,copies=2", 60)}
        assert len(copies) <= 2 < len({*map(tuple, found)}) and (len(copies) == 2 or name != "typos")


@pytest.mark.parametrize("robust", ["rs-da+rs-rp:sigma=0.1", "adv:how=freelb"])
def test_an_interrupted_robust_run_resumes_to_the_same_bytes(data, whole, tmp_path, monkeypatch, robust):
    """Claim: stopped in step 4, after the checkpoint of step 2 and the line of step 3; model and log are those
    of a whole run, as are a second one's. Catches: a stream that starts over, edits counted twice or lost."""
    real, goal = train.batch_losses, whole(robust)
    stopped = lambda *x: real(*x) if x[-1] != 4 else signal.raise_signal(signal.SIGINT)
    log = lambda folder: [json.loads(x) | {"seconds": 0, "cost": 0} for x in (folder / "log.jsonl").open()]
    left = lambda folder: (log(folder), (folder / "model/model.safetensors").read_bytes())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "batch_losses", stopped)
        train.main(command(data, tmp_path / "cut", robust))
    for name, more in (("cut", ["--resume"]), ("again", [])):
        assert train.main(command(data, tmp_path / name, robust, *more)) == 0
        assert left(tmp_path / name / goal.name) == left(goal), name


@pytest.mark.parametrize(("robust", "more", "langs"), [
    ("none", "", None), ("rs-da+rs-rp:sigma=0.1", "clean perturbed cost edited edits norm", {"en", "de"}),
    ("adv:how=freelb", "clean perturbed cost norm", set()),
    ("typos+self-teaching", "clean perturbed cost edited edits consistency", {"en", "de"}),
])  # fmt: skip
def test_a_robust_run_logs_what_it_does_and_costs(whole, robust, more, langs):
    """Claim: the keys that apply and no others; run.json has cost, edit rates by language, the same batches.
    Number: a Gaussian of norm 0.1 on > 100 tokens: 0.1 +- 0.004, 5 standard errors of 0.1 / 16."""
    run, plain = (json.loads((whole(x) / "run.json").read_text()) for x in (robust, "none"))
    for line in map(json.loads, (whole(robust) / "log.jsonl").read_text().splitlines()):
        assert {*line} - {"step", "loss", "kind", "grad_norm", "lr", "seconds"} == {*more.split()}
        assert all(line[k] > 0 for k in more.split()) and line.get("edited", 0) <= 1
        assert "rs-rp" not in robust or abs(line["norm"] - 0.1) < 0.004
    assert ("cost" in run, {*run["edit_rate"]} if "edit_rate" in run else None) == (bool(more), langs)
    assert run["counts"] == plain["counts"]


def test_flags_are_written_into_the_recipe_and_do_not_override_it():
    """Catches: the flag's sigma over the text's; flags of one method given to another."""
    robust = ["none", "rs-da+rs-rp:sigma=0.3", "adv:how=pgd", "typos:rate=1+self-teaching"]
    more = ["--perturb", "both", "--sigma", "0.2", "--epsilon", "0.4", "--rate", "0.5", "--copies", "3"]
    runs = train.single_runs(train.parse(["--robust", *robust, *more]))
    assert [train.recipe(r) for r in runs] == [
        "hybrid-none", "hybrid-rs-da_perturb=both,rate=0.5,copies=3+rs-rp_sigma=0.3,perturb=both",
        "hybrid-adv_how=pgd,perturb=both,epsilon=0.4", "hybrid-typos_rate=1,perturb=both,copies=3+self-teaching",
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "robust", "message"), [
    (2, "adv --epsilon 0", "with epsilon 0 adv does nothing. Raise it, or drop it"), (2, "rs-rp:sigma=0", "sigma 0"),
    (2, "typos --rate 0", "with rate 0"), (2, "code-switch:words=0", "does nothing"), (2, "adv:how=fast", "how is one of fgm"),
    (2, "self-teaching", "join different methods"), (2, "rs-da+rs-da", "join different methods"),
    (2, "none+rs-da", "'none' is unknown"), (2, "fgm", "'fgm' is unknown. Take none or of rs-rp, rs-da"),
    (2, "rs-rp:epsilon=1", "no setting 'epsilon'. There is weight"), (2, "rs-rp:weight=0", "with weight 0 rs-rp does nothing"),
    (2, "rs-da:weight=0.7+rs-rp:weight=0.7", "weights sum to 1.4"), (2, "rs-da:copies=1.5", "is '1.5', no number"),
    (2, "rs-da:rate=1.5", "rate is 1.5; it is at least 0 and at most 1"), (2, "rs-rp:sigma=nan", "sigma is nan"),
    (2, "adv:steps=0", "steps is 0; it is at least 1"), (2, "typos --copies -1", "copies is -1"),
    (2, "rs-rp+rs-da:weight=0", "with weight 0 rs-da does nothing"), (2, "rs-rp:sigma=1,sigma=2", "sigma is given twice"),
    (2, "none --sigma 1", "--sigma: no method"),
    (2, "rs-rp:perturb=passage", "perturb is one of query, both"), (1, "none code-switch", "no such dictionary"),
    (1, "none rs-da", "no training query in ['en', 'de'] has a word that synonyms could replace. Add"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused_before_training(folder, tmp_path, capsys, code, robust, message):
    """Claim: one sentence, 1 or 2, nothing written, not even by "none" before it. This world has no dictionary
    and no word of its table. Catches: a run that calls itself robust and trains plainly."""
    (folder / "synonyms").mkdir()
    (folder / "synonyms/en.json").write_text('{"zebra": ["horse"]}')
    found = train.main(command(SimpleNamespace(folder=folder), tmp_path / "out", *robust.split()))
    assert found == code and message in capsys.readouterr().err and not (tmp_path / "out").exists()
