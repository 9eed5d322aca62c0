"""Rung 6, large corpora: search in blocks, vectors kept on disk, half precision.

Checks: evaluate.rank_cells, score_rows, best_first, check_precision; xlt.VectorStore.
Before: test_06_evaluate. Run: pytest tests/test_06_scale.py
"""

import json
import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from pytest import approx

import attacks
import evaluate
from evaluate import best_first, check_precision, make_cells, rank_cells, score_rows
from xlt import (
    DataSet,
    Encoder,
    Settings,
    Text,
    VectorStore,
    load_encoder,
    read_record,
    write_record,
)

NAN = float("nan")
MODEL = ROOT / "data/tiny_xlmr"
BLOCKS = [(1, 1), (3, 3), (7, 7), (1, 7), (2048, 2048)]  # queries, passages


# ---- exact search in blocks ----------------------------------------------------------------------


def line_pools(scores, passage_langs, relevant, own=None):
    """One German query, (1, 0), and a passage (score, 1) for each score.

    own: position of the passage that is the query's own text.
    """
    passages = []
    for i, lang in enumerate(passage_langs):
        name = "q0" if i == own else f"p{i}"
        passages.append(Text(name, lang, "-", "-"))
    data = DataSet(Path("."), [Text("q0", "de", "-", "-")], passages, {"test": {}})
    data.qrels["test"][0] = dict.fromkeys(relevant, 1.0)
    p = torch.tensor([[score, 1.0] for score in scores])
    return attacks.make_pools(p, data, [0], list(range(len(passages))), "test", self_hits=False)


def pool_metrics(pools, passage_block):
    """Metrics of the one query in the pool of all, and in German alone."""
    cells = make_cells(np.array(["de"]), pools.langs)
    ranked = rank_cells(torch.tensor([[1.0, 0.0]]), pools, cells, "", 1, passage_block)
    rows = []
    for passage_lang in ("*", "de"):
        values = ranked["de", passage_lang]
        rows.append({metric: column[0] for metric, column in values.items()})
    return rows


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_a_tie_with_a_passage_of_another_block_is_lost(block):
    """Number: five passages score .5, the third is relevant: rank 5 of the pool, 3 of German.

    Catches: rivals of other blocks that are compared with >; those of other languages, forgotten.
    """
    pools = line_pools([0.5] * 5, ["de", "de", "de", "en", "en"], relevant=[2])
    in_pool, in_german = pool_metrics(pools, block)
    assert in_pool["first_rank"] == 5
    assert in_german["first_rank"] == 3


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_rivals_of_every_block_count(block):
    """Number: the relevant passages score .4 and .1. In German two others score more than .4, in
    English one: ranks 4 and 7 of the pool, and 3 and 5 of German.

    Catches: counts of the relevant passage's own block alone; of the last block alone; the other
    relevant passage, counted as a rival and as k.
    """
    scores = [0.9, 0.8, 0.4, 0.2, 0.1, 0.7, 0.3]
    pools = line_pools(scores, ["de"] * 5 + ["en"] * 2, relevant=[2, 4])
    in_pool, in_german = pool_metrics(pools, block)
    assert (in_pool["first_rank"], in_pool["rank_distance"]) == (4, 3)
    assert (in_german["first_rank"], in_german["rank_distance"]) == (3, 2)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_a_querys_own_text_is_no_rival_in_whatever_block(block):
    """Number: the own text scores .9, the relevant passage .4, another one .7: rank 2, in the pool
    of all; of the three candidates one is German, which is also the share of the top ten.

    Catches: a column counted from the first passage and not from the block's; rank 3; a top ten
    that holds the query itself.
    """
    pools = line_pools([0.9, 0.4, 0.7, 0.1], ["de", "de", "en", "en"], relevant=[1], own=0)
    in_pool, _ = pool_metrics(pools, block)
    assert in_pool["first_rank"] == 2
    assert in_pool["own_share@10"] == approx(1 / 3, abs=1e-12)


@pytest.mark.parametrize("block", [1, 4, 100])
def test_the_own_language_comes_first_where_the_tenth_place_is_tied(block):
    """Number: nine English passages score 1; then three English and two German ones tie at .5, of
    which one German passage is relevant: the tenth place is German.

    Catches: a place that depends on which block was first.
    """
    scores = [1.0] * 9 + [0.5] * 5
    pools = line_pools(scores, ["en"] * 12 + ["de"] * 2, relevant=[13])
    in_pool, _ = pool_metrics(pools, block)
    assert in_pool["own_share@10"] == approx(0.1, abs=1e-12)


LANGS = ["de", "en", "th"]


class Toy:
    """Passages in three languages and queries in four; vectors of whole numbers, which tie often.

    Every other query is the text of a passage, which is no candidate for it.
    """

    def __init__(self, seed):
        rng = random.Random(seed)
        self.passages, self.queries, self.relevance = [], [], {}
        for i in range(rng.randint(3, 40)):
            self.passages.append(Text(f"t{i}", rng.choice(LANGS), "-", "-"))
        for i in range(9):
            name = f"t{i}" if i % 2 else f"q{i}"
            self.queries.append(Text(name, rng.choice([*LANGS, "fr"]), "-", "-"))
            relevant = rng.sample(range(len(self.passages)), rng.randint(0, 3))
            self.relevance[i] = {passage: float(rng.randint(1, 3)) for passage in relevant}
        self.q = [[rng.randint(-1, 1) for _ in range(3)] for _ in self.queries]
        self.p = [[rng.randint(-1, 1) for _ in range(3)] for _ in self.passages]
        self.data = DataSet(Path("."), self.queries, self.passages, {"test": self.relevance})

    def pools(self):
        p, queries = torch.tensor(self.p).float(), list(range(len(self.queries)))
        passages = list(range(len(self.passages)))
        return attacks.make_pools(p, self.data, queries, passages, "test", self_hits=False)

    def ranked(self, *blocks):
        """What the code under test says."""
        pools = self.pools()
        langs = np.array([query.lang for query in self.queries])
        cells = make_cells(langs, pools.langs)
        return cells, rank_cells(torch.tensor(self.q).float(), pools, cells, "", *blocks)

    def candidates(self, query, passage_lang):
        """(score, is relevant, is in the query's language) of each, the best first."""
        rows = []
        for i, passage in enumerate(self.passages):
            if passage.id == self.queries[query].id or passage_lang not in ("*", passage.lang):
                continue
            score = sum(a * b for a, b in zip(self.q[query], self.p[i], strict=True))
            is_own = passage.lang == self.queries[query].lang
            rows.append((score, i in self.relevance[query], is_own))
        return sorted(rows, key=lambda row: (-row[0], row[1]))  # relevant ones lose every tie

    def oracle(self, query, passage_lang):
        """Ranks from a full sort: mAP (but for what is never found), first rank, distance."""
        ranks = []
        for rank, (_, is_relevant, _) in enumerate(self.candidates(query, passage_lang), 1):
            if is_relevant:
                ranks.append(rank)
        own_text_is_relevant = False
        for passage in self.relevance[query]:
            own_text_is_relevant |= self.passages[passage].id == self.queries[query].id
        total = len(ranks) + (own_text_is_relevant and passage_lang == "*")
        if not total:
            return {"mAP": NAN}
        precision = sum(k / rank for k, rank in enumerate(ranks, 1)) / total
        if not ranks:
            return {"mAP": precision, "first_rank": 0, "rank_distance": NAN}
        distance = max(ranks) - min(ranks) if len(ranks) > 1 else NAN
        return {"mAP": precision, "first_rank": ranks[0], "rank_distance": distance}

    def bias(self, query):
        """Share of the own language in the top ten, foreign rank, and who is preferred."""
        rows = self.candidates(query, "*")
        top = sorted(rows, key=lambda row: (-row[0], not row[2]))[:10]  # own ones win every tie
        share = sum(is_own for _, _, is_own in top) / len(top)
        foreign = [score for score, is_relevant, is_own in rows if is_relevant and not is_own]
        rank = NAN
        if foreign:
            rank = 1
            for score, is_relevant, is_own in rows:
                rank += score >= max(foreign) and (is_own or not is_relevant)
        _, is_right, is_own = min(rows, key=lambda row: (-row[0], row[1], not row[2]))
        values = {"own_share@10": share, "foreign_rank": rank, "own_preferred": NAN}
        values["right_own"] = float(is_right and is_own)
        values["right_foreign"] = float(is_right and not is_own)
        values["wrong_own"] = float(not is_right and is_own)
        values["wrong_foreign"] = float(not is_right and not is_own)
        own = [score for score, is_relevant, is_own in rows if is_relevant and is_own]
        if own and foreign:
            values["own_preferred"] = float(max(own) >= max(foreign))
        return values


@pytest.mark.parametrize("blocks", BLOCKS)
def test_search_in_blocks_agrees_with_a_full_sort(blocks):
    """Claim: ranks, mAP and language bias of every query in every cell, to 1e-9.

    Number: 20 worlds of 9 queries and 3 to 40 passages, 27 possible vectors, so that most tie.
    Catches: a block's columns taken for the corpus's; languages exchanged; a last block lost; an
    own text that counts; the top ten of the last block.
    """
    checked = Counter()
    for seed in range(20):
        toy = Toy(seed)
        cells, ranked = toy.ranked(*blocks)
        for cell in cells:
            for n, query in enumerate(cell.rows):
                expected = toy.oracle(query, cell.passage_lang)
                if cell.view == "pool":
                    expected |= toy.bias(query)
                for metric, value in expected.items():
                    ours = ranked[cell.langs][metric][n]
                    assert ours == approx(value, abs=1e-9, nan_ok=True), (seed, metric)
                    checked[metric] += not math.isnan(value)
    assert min(checked.values()) > 30, checked


@pytest.mark.parametrize("views", [["mono"], ["cross"], ["pool"], ["mono", "pool"]])
def test_some_views_are_ranked_as_they_are_among_all(views):
    """Claim: bit for bit. Number: five worlds.

    Catches: counts of the pool that are those of the languages of the other cells.
    """
    for seed in range(5):
        toy = Toy(seed)
        cells, together = toy.ranked()
        asked = [cell for cell in cells if cell.view in views]
        some = rank_cells(torch.tensor(toy.q).float(), toy.pools(), asked)
        for cell in asked:
            for metric, column in some[cell.langs].items():
                np.testing.assert_array_equal(column, together[cell.langs][metric])


@pytest.mark.parametrize("most", [1, 30, 2**24])
def test_the_scores_of_trec_files_are_those_of_nested_loops(most):
    """Number: whole numbers: exact. 1, 2 or all 9 queries at a time. Catches: rows exchanged."""
    toy = Toy(3)
    q, p = torch.tensor(toy.q).float(), torch.tensor(toy.p).float()
    rows = [row.tolist() for row in score_rows(q, p, most)]
    expected = []
    for query in toy.q:
        expected.append([sum(a * b for a, b in zip(query, row, strict=True)) for row in toy.p])
    assert rows == expected


@pytest.mark.parametrize("depth", [1, 3, 10, 50])
def test_the_best_passages_are_those_of_a_full_sort(depth):
    """Number: 30 passages of five scores, so that places are tied at every depth.

    Catches: ties at the last place in the order of the corpus, or all of them.
    """
    rng = random.Random(0)
    scores = [rng.randint(0, 4) / 4 for _ in range(30)]
    place = list(range(30))
    rng.shuffle(place)
    expected = sorted(range(30), key=lambda i: (-scores[i], place[i]))[:depth]
    best = best_first(np.array(scores, dtype=np.float32), np.array(place), depth)
    assert best.tolist() == expected


def test_margins_do_not_depend_on_how_many_texts_are_scored_at_once(monkeypatch):
    """Claim: exactly, of whole numbers. Number: 9 texts, at once and one by one.

    Catches: rows of the first block for all.
    """
    toy = Toy(3)
    pools, v = toy.pools(), torch.tensor(toy.q).float()
    together = attacks.margins(pools, v, torch.arange(9))
    alone = [attacks.margins(pools, v[i : i + 1], torch.tensor([i])) for i in range(9)]
    monkeypatch.setattr(attacks, "MOST_SCORES", 1)
    in_blocks = attacks.margins(pools, v, torch.arange(9))
    assert torch.equal(together.nan_to_num(9), torch.cat(alone).nan_to_num(9))
    assert torch.equal(together.nan_to_num(9), in_blocks.nan_to_num(9))


MEMORY = '''\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np, torch, attacks, evaluate

def peak():
    """In kB. Not ru_maxrss, which a child inherits from the process that started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

Q, P, D = 1000, 200_000, 32
generator = torch.Generator().manual_seed(0)
p, q = torch.randn(P + 1, D, generator=generator), torch.randn(Q, D, generator=generator)
relevant = torch.randint(P, (Q, 3), generator=generator)
german, none = torch.zeros(Q, dtype=int), torch.full((Q,), P)
gains, missing = torch.ones(Q, 3), torch.zeros(Q, 0)
pools = attacks.Pools(p, ["de", "en"], [0, P - 9, P], relevant, gains, german, missing, none)
cells = evaluate.make_cells(np.array(["de"] * Q), pools.langs)
torch.mm(q, p[:1000].T), torch.mm(q.double(), p[:1000].double().T)  # what the library needs
before = peak()
if sys.argv[2] == "rank":
    evaluate.rank_cells(q, pools, cells)
elif sys.argv[2] == "lir":
    evaluate.remove_language(q, pools, 1)
elif sys.argv[2] == "margins":
    attacks.margins(pools, q, torch.arange(Q))
else:
    for scores in evaluate.score_rows(q[:300], p[:-1]):
        evaluate.best_first(scores, np.arange(P), 1000)
print(peak() - before)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak stands in /proc")
@pytest.mark.parametrize(
    ("part", "most"), [("rank", 150), ("lir", 150), ("margins", 400), ("trec", 200)]
)
def test_memory_does_not_grow_with_queries_times_passages(part, most):
    """Number: the scores of 1,000 queries and 200,000 passages are 763 MB (300 queries, trec: 229);
    the vectors are 26 MB. `most` is in MB, the peak of a process beyond the one before the search.

    Catches: a matrix of all scores; a copy of all passages in fp64 for each block of queries.
    """
    command = [sys.executable, "-c", MEMORY, str(ROOT), part]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < most


# ---- vectors on disk -----------------------------------------------------------------------------


def texts_of(count):
    """English texts of one to three words."""
    return [
        Text(f"t{i}", "en", "word " * (i % 3) + str(i), "-", f"All of {i}.") for i in range(count)
    ]


@pytest.fixture
def forwards(monkeypatch):
    """The rows of every call of the encoder's forward pass."""
    calls, forward = [], Encoder.forward

    def counted(self, rows, *args, **more):
        calls.append(rows)
        return forward(self, rows, *args, **more)

    monkeypatch.setattr(Encoder, "forward", counted)
    return calls


@pytest.fixture
def cheap(monkeypatch):
    """An encoder in which a text's vector is the sum of its tokens; lists the sizes of blocks."""
    sizes = []

    def forward(self, rows, *args, **more):
        sizes.append(len(rows))
        return torch.tensor([[float(sum(row["input_ids"])), 1.0] for row in rows])

    monkeypatch.setattr(Encoder, "forward", forward)
    return sizes


def passages_in(calls, encoder):
    """How many of the encoded texts were passages."""
    count = 0
    for rows in calls:
        for row in rows:
            count += "Passage" in encoder.tokenizer.decode(row["input_ids"])
    return count


def test_a_second_attack_encodes_no_passage_again(folder, encoder, forwards):
    """Claim: of the first evaluation the passages are read, whatever is asked later; --out has its
    cache unasked. Number: four passages are encoded once; the attacks' queries each time.

    Catches: a cache that is written and not read; one key for the whole evaluation.
    """
    flags = [str(MODEL), "--data", str(folder), "--out", str(folder / "out")]
    assert evaluate.main(flags) == 0
    assert passages_in(forwards, encoder) == 4
    forwards.clear()
    assert evaluate.main([*flags, "--attacks", "clean", "typos"]) == 0
    assert evaluate.main([*flags, "--lir", "1"]) == 0
    assert len(forwards) > 0, "the attack encoded nothing"
    assert passages_in(forwards, encoder) == 0
    assert len(list((folder / "out/vectors").iterdir())) == 2  # queries, passages


def test_a_folder_for_vectors_can_be_shared(folder, encoder, forwards):
    """Claim: --cache, without any --out. Number: no forward pass at all the second time.

    Catches: a flag without effect; vectors that are kept only beside results.
    """
    flags = [str(MODEL), "--data", str(folder), "--cache", str(folder / "vectors")]
    assert evaluate.main(flags) == 0
    forwards.clear()
    assert evaluate.main([*flags, "--views", "mono"]) == 0
    assert forwards == []


def test_what_a_killed_process_has_left_is_taken_away(tmp_path, encoder):
    """Number: a file of two minutes ago goes; one of now may be another process's, and stays.

    Catches: half files that pile up; a file that is taken from under the one who writes it.
    """
    old, young = tmp_path / "a.1.tmp", tmp_path / "b.2.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 120,) * 2)
    VectorStore(tmp_path, encoder)
    assert not old.exists()
    assert young.exists()


def test_vectors_are_read_as_they_were(tmp_path, encoder, forwards):
    """Claim: bit for bit, and truncated texts are counted as before. Number: 50 texts.

    Catches: numbers rounded to half precision on disk; counts of what was encoded alone.
    """
    encoder.settings = Settings(query_length=8)
    plain = encoder.encode(texts_of(50), "query")
    cut = Counter(encoder.texts_cut)
    assert cut.total() > 0, "nothing was cut"
    store = VectorStore(tmp_path, encoder)
    written = encoder.encode(texts_of(50), "query", store=store)
    forwards.clear()
    encoder.texts_cut.clear()
    read = encoder.encode(texts_of(50), "query", store=store)
    assert forwards == []
    assert encoder.texts_cut == cut
    assert torch.equal(plain, written)
    assert torch.equal(plain, read)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "cls"},
        {"passage_prefix": "P: "},
        {"passage_length": 9},
        {"query_length": 9},
        {"context": True},
        {"precision": "bf16"},
    ],
)
def test_vectors_of_another_setting_are_not_found(tmp_path, encoder, forwards, change):
    """Claim: what gives other vectors has another key. Number: six changes, one at a time.

    Catches: a key of texts and weights alone.
    """
    texts = texts_of(5)
    encoder.encode(texts, "passage", store=VectorStore(tmp_path, encoder))
    other = load_encoder(MODEL, **change)
    forwards.clear()
    vectors = other.encode(texts, "passage", store=VectorStore(tmp_path, other))
    assert len(forwards) == 1
    assert torch.equal(vectors, other.encode(texts, "passage"))


def test_vectors_of_other_weights_texts_and_towers_are_not_found(tmp_path, encoder, forwards):
    """Number: one word, the order of two texts of one length, queries for passages of the same
    prefix, one weight. Catches: vectors of an earlier training, of yesterday's text, exchanged.
    """
    one, two, six = (Text(word, "en", word, "-") for word in "126")
    encoder.settings = Settings(query_prefix="", passage_prefix="")
    expected = encoder.encode([one, two], "passage")
    store = VectorStore(tmp_path, encoder)
    encoder.encode([one, two], "passage", store=store)
    forwards.clear()
    encoder.encode([one, six], "passage", store=store)
    turned = encoder.encode([two, one], "passage", store=store)
    assert torch.allclose(turned, expected.flip(0), atol=1e-6)
    encoder.encode([one, two], "query", store=store)
    assert len(forwards) == 3
    with torch.no_grad():
        next(encoder.model.parameters())[0, 0] += 1
    encoder.encode([one, two], "passage", store=VectorStore(tmp_path, encoder))
    assert len(forwards) == 4


def test_an_encoding_that_is_killed_goes_on_where_it_was(tmp_path, encoder, cheap, monkeypatch):
    """Number: 4,500 texts are blocks of 2,048, 2,048 and 404; the second one is killed. Then two
    are left. Catches: blocks that are written at the end; a block that is written unfinished.
    """
    texts, store = texts_of(4500), VectorStore(tmp_path, encoder)
    whole = encoder.encode(texts, "passage")
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "forward", die_at_second_call(Encoder.forward))
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(texts, "passage", store=store)
    assert len(list(tmp_path.iterdir())) == 1
    cheap.clear()
    resumed = encoder.encode(texts, "passage", store=store)
    assert cheap == [2048, 404]
    assert torch.equal(resumed, whole)


def die_at_second_call(forward):
    """A forward pass that is interrupted the second time."""
    calls = []

    def dying(*args, **more):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*args, **more)

    return dying


@pytest.mark.parametrize("damage", ["byte", "half", "empty"])
def test_a_damaged_file_is_told_and_encoded_once_more(tmp_path, encoder, capsys, damage):
    """Claim: the file is named, and whole afterwards. Number: the last byte; half; nothing left.

    Catches: another number in a vector, which nobody would see; a traceback.
    """
    store, texts = VectorStore(tmp_path, encoder), texts_of(5)
    expected = encoder.encode(texts, "query", store=store)
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    damaged = {"byte": content[:-1] + bytes([content[-1] ^ 1]), "half": content[:99], "empty": b""}
    path.write_bytes(damaged[damage])
    assert torch.equal(encoder.encode(texts, "query", store=store), expected)
    assert f"{path}: damaged; its texts are encoded once more" in capsys.readouterr().err
    assert path.read_bytes() == content
    encoder.encode(texts, "query", store=store)
    assert capsys.readouterr().err == ""


def test_two_processes_may_write_one_block_at_once(tmp_path, encoder, monkeypatch):
    """Number: the second one begins and ends while the first has written half.

    Catches: one name for both unfinished files, of which one replaces the other's.
    """
    store, rows, vectors = VectorStore(tmp_path, encoder), [{"input_ids": [1]}], torch.ones(1, 4)
    slow = []

    def write_slowly(path, content):
        slow.append(path)
        with open(path, "wb") as file:
            file.write(content[:9])
            file.flush()
            monkeypatch.undo()
            store.write("query", rows, vectors)
            assert torch.equal(store.read("query", rows), vectors)
            file.write(content[9:])

    monkeypatch.setattr(Path, "write_bytes", write_slowly)
    store.write("query", rows, vectors)
    assert torch.equal(store.read("query", rows), vectors)
    assert len(slow) == 1, "the second process never came in between"
    assert len(list(tmp_path.iterdir())) == 1


# ---- precision -----------------------------------------------------------------------------------


def test_results_of_two_precisions_do_not_share_a_file(folder, capsys):
    """Claim: metrics.json says which, and the other one is refused. Number: bf16 after fp32.

    Catches: attacked numbers of one precision beside clean ones of the other.
    """
    flags = [str(MODEL), "--data", str(folder), "--out"]
    assert evaluate.main([*flags, str(folder / "full")]) == 0
    assert evaluate.main([*flags, str(folder / "half"), "--precision", "bf16"]) == 0
    for name, precision in (("full", "fp32"), ("half", "bf16")):
        assert json.loads((folder / name / "metrics.json").read_text())["precision"] == precision
    assert evaluate.main([*flags, str(folder / "full"), "--precision", "bf16"]) == 1
    message = "holds results of another precision (fp32). Give another --out."
    assert message in capsys.readouterr().err


def test_older_results_are_of_fp32(folder, capsys):
    """Claim: a metrics.json without the key goes on as fp32, and is refused for bf16.

    Catches: a KeyError; results of bf16 added to it.
    """
    flags = [str(MODEL), "--data", str(folder), "--out", str(folder / "out")]
    assert evaluate.main(flags) == 0
    path = folder / "out/metrics.json"
    old = read_record(path, "")
    del old["precision"]
    write_record(path, old)
    assert evaluate.main([*flags, "--precision", "bf16"]) == 1
    assert "results of another precision (fp32)" in capsys.readouterr().err
    assert evaluate.main([*flags, "--attacks", "typos"]) == 0
    assert evaluate.read_metrics(path)["precision"] == "fp32"


def test_half_precision_that_is_not_there_is_refused(monkeypatch):
    """Claim: one line before the work; fp32 is everywhere. Number: a GPU of 2018, and "meta", which
    has no autocast. Catches: fp16's numbers under the name of bf16; a traceback of torch.
    """

    def is_supported(including_emulation=True):
        """Older GPUs only emulate it."""
        return including_emulation

    check_precision("cpu", "bf16")
    check_precision("meta", "fp32")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    with pytest.raises(
        ValueError, match="--precision bf16: cuda has none .GPUs have it .* Take fp32."
    ):
        check_precision("cuda", "bf16")
    with pytest.raises(ValueError, match="--precision bf16: meta has none .* Take fp32."):
        check_precision("meta", "bf16")


@pytest.mark.parametrize("half, notes", [(9e9, 1), (800e9, 0)])
def test_half_precision_that_is_slower_is_said(monkeypatch, capsys, half, notes):
    """Claim: a processor without instructions for bf16 gets one line, and does the work. Number: 9
    and 85 GFLOP/s, measured on one of 2021; 800 on one that has them. Catches: hours of waiting for
    what was meant to be faster; a line that is always there.
    """
    rates = {"bf16": half, "fp32": 85e9}
    monkeypatch.setattr(evaluate, "matmul_rate", lambda device, precision: rates[precision])
    check_precision("cpu", "fp32")
    assert capsys.readouterr().err == ""
    check_precision("cpu", "bf16")
    line = "--precision bf16: slower than fp32 here (9 against 85 GFLOP/s). Take fp32.\n"
    assert capsys.readouterr().err == notes * line
