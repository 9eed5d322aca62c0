"""Evaluate encoders on retrieval: vectors -> ranks of the relevant passages -> metrics -> a table.

    scores = q @ p.T                                         (Q, D) @ (D, P) -> (Q, P)
    rank_k = k + number of non-relevant passages that score at least as high as the k-th relevant
    AP     = mean over the R relevant passages of k / rank_k

One encode serves three views: `mono` (candidates in the query's language), `cross` (in one other
language, for every pair of languages) and `pool` (candidates in all languages at once; every
translation is relevant).
Where to look next: `relevant_ranks` is all of the evaluation, `records` is what metrics.json holds,
study.py compares many of them.
Left out on purpose: approximate search, full rankings in memory, a metrics library.
Differs from common practice: non-relevant passages win every tie; scores are summed in fp64 and
rounded to fp32, so that neither a constant scorer nor another block size can change a metric.

Shapes: Q queries, P passages, R relevant passages of a query (padded), D embedding.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import attacks
from xlt import (
    DataSet,
    Encoder,
    Help,
    all_langs,
    cut_texts,
    load_data,
    load_encoder,
    versions,
    weights_hash,
    write_json,
)

VIEWS = ("mono", "cross", "pool")
METRICS = ("mAP", "mAP@20", "R@1", "R@10", "MRR@10", "nDCG@10", "rank_distance")
IN_POOL = ("own_share@10", "foreign_rank")  # of the pool of all languages alone
KEPT = ("mAP", "R@1", "R@10", "rank_distance")  # of every single query, for paired statistics
TIES = "non-relevant passages first; scores summed in fp64, rounded to fp32"
# One screen of results: the hybrid-batch paper's columns (R@1 in the pool could not exceed 1/11)
COLUMNS = (
    ("mono", "mAP"), ("cross", "mAP"), ("pool", "mAP"), ("mono", "R@1"), ("cross", "R@1"),
    ("pool", "R@10"), ("pool", "rank_distance"),
)  # fmt: skip


# ---- flags ---------------------------------------------------------------------------------------


def parse(argv=None):
    """The flags of evaluate.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=Help
    )
    add = parser.add_argument
    # fmt: off
    add("models", nargs="+", type=Path, metavar="MODEL|RUN",
        help="Hugging Face folder, or a run of train.py")
    add("--data", type=Path, default=Path("data/minifacts"), help="folder (DESIGN: one format)")
    add("--split", choices=("train", "dev", "test"), default="test",
        help="which qrels; select on dev, report test")
    add("--langs", nargs="+", metavar="LANG", help="of queries and passages (default: all)")
    add("--limit", type=int, default=0, metavar="N",
        help="only the first N questions, in all languages: a quick look (default: all)")
    add("--views", nargs="+", choices=VIEWS, default=list(VIEWS),
        help="candidates: own, one other, all languages")
    add("--context", action="store_true", default=None,
        help="encode passages with their paragraph, as LAReQA")
    add("--device", default="auto", help="torch device; auto: cuda if there is one, else cpu")
    add("--lir", nargs="*", type=int, default=[], metavar="R",
        help="also without the R main directions of each language (Yang et al. 2021: 1)")
    add("--out", type=Path, help="folder of metrics.json (default: the run's; none for a model)")
    add("--trec", type=Path, metavar="DIR", help="also write run.trec and qrels.trec")
    # the adversary
    add("--attacks", nargs="+", default=["clean"], metavar="NAME[:KEY=VALUE,...]",
        help="e.g. clean greedy:edits=2 pgd:epsilon=0.1; names and keys: attacks.py, top")
    add("--table", nargs="+", default=[], metavar="LANG=FILE",
        help="replacements: .json or OMW .tab, or neighbours (default: the data's synonyms/)")
    add("--protect", type=Path, metavar="FILE", help="words that no attack replaces, one a line")
    add("--attack-views", nargs="+", choices=VIEWS, default=(),
        help="views that are attacked (default: all of --views)")
    add("--attack-seed", type=int, default=0, metavar="S", help="of all that is drawn")
    add("--show", type=int, default=0, metavar="N", help="list N queries an attack, changes marked")
    add("--attack-out", type=Path, metavar="DIR", help="freeze attacked queries as data sets")
    # fmt: on
    args = parser.parse_args(argv)
    if any(r < 0 for r in args.lir):
        parser.error("--lir: the number of directions taken out is at least 0")
    return args


# ---- ranks ---------------------------------------------------------------------------------------


def relevant_ranks(scores: Tensor, relevant: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of each query's relevant passages, best first, without sorting the passages.

        rank_k = k + #{non-relevant passages that score >= the k-th best relevant one}

    *Shapes*: scores (Q, P), relevant (Q, R) positions padded with -1, gains (Q, R) -> ranks (Q, R)
    from 1, padded with 0, and the gains in the same order. The padding comes last.
    *Source*: trec_eval's ranks, but pessimistic among ties (PITFALLS.md 18).
    """
    real = relevant >= 0
    own = scores.gather(1, relevant.clamp(min=0)).masked_fill(~real, -math.inf)  # (Q, R)
    # Among relevant passages that tie, the smaller gain first: pessimistic for nDCG as well
    order = torch.argsort(gains, dim=1, stable=True)
    by_score = torch.argsort(own.gather(1, order), dim=1, descending=True, stable=True)
    order = order.gather(1, by_score)  # (Q, R)
    own, real, gains = own.gather(1, order), real.gather(1, order), gains.gather(1, order)
    columns, wide = [], scores.numpy()
    for k in range(own.shape[1]):  # R passes over the scores, with numpy: torch counts 6 x slower
        bar = own[:, k : k + 1]  # (Q, 1)
        above = torch.from_numpy(np.count_nonzero(wide >= bar.numpy(), axis=1))  # (Q, P) -> (Q,)
        columns.append(k + 1 + above - ((own >= bar) & real).sum(1))
    ranks = torch.stack(columns, dim=1)  # (Q, R)
    return ranks.masked_fill(~real, 0), gains.masked_fill(~real, 0)


def measure(ranks: np.ndarray, gains: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each query from the ranks of its relevant passages.

    *Shapes*: ranks, gains (Q, R), padded with 0 at the end -> (Q,) a metric; NaN where nothing is
    relevant.
    *Units*: all in [0, 1] but rank_distance (ranks; NaN with fewer than two relevant passages). mAP
    is uncut, mAP@20 sums to rank 20 and still divides by all R relevant ones; R@k is recall: with
    11 relevant passages R@10 cannot exceed 10/11; nDCG@10 has linear gains.
    *Source*: trec_eval's map, map_cut, recall, recip_rank, ndcg_cut; rank distance: Elmahdy et al.
    2024.
    """
    count = (ranks > 0).sum(1)  # (Q,)
    safe, hit = np.maximum(ranks, 1), ranks > 0
    precision = np.where(hit, (np.arange(ranks.shape[1]) + 1) / safe, 0.0)  # k / rank_k
    ten = hit & (ranks <= 10)
    ideal = -np.sort(-gains, axis=1)[:, :10]
    ideal = (ideal / np.log2(np.arange(2, ideal.shape[1] + 2))).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 -> NaN: nothing is relevant
        found = {
            "mAP": precision.sum(1) / count,
            "mAP@20": np.where(ranks <= 20, precision, 0.0).sum(1) / count,
            "R@1": (hit & (ranks <= 1)).sum(1) / count,
            "R@10": ten.sum(1) / count,
            "MRR@10": np.where(ten[:, 0], 1 / safe[:, 0], 0.0) * count / count,
            "nDCG@10": np.where(ten, gains / np.log2(safe + 1), 0.0).sum(1) / ideal,
        }
    distance = ranks.max(1) - np.where(hit, ranks, ranks.max(initial=0)).min(1)
    found["first_rank"] = ranks[:, 0].astype(float)  # of the best relevant passage
    return found | {"rank_distance": np.where(count > 1, distance, np.nan)}


def language_bias(scores: Tensor, relevant: Tensor, spoken: Tensor, own: Tensor) -> dict:
    """How a query's own language fares in the pool of all: share of the top ten, foreign rank.

    *Shapes*: scores (Q, P), relevant (Q, R) padded with -1, spoken (P,) and own (Q,) languages as
    numbers -> (Q,) each. Without any bias the share is the language's share of the pool, or 1/11
    where all eleven translations lead.
    *Units*: foreign_rank: rank of the first relevant passage in another language, NaN without any.
    """
    top = scores.topk(min(10, scores.shape[1]), dim=1).indices  # (Q, 10)
    share = (spoken[top] == own[:, None]).double().mean(1)
    at = relevant.clamp(min=0)
    foreign = (relevant >= 0) & (spoken[at] != own[:, None])  # (Q, R)
    mine = scores.gather(1, at).masked_fill(~foreign, -math.inf)  # (Q, R)
    bar = mine.amax(1, keepdim=True)  # (Q, 1)
    rank = 1 + (scores >= bar).sum(1) - (mine >= bar).sum(1)
    rank = rank.double().masked_fill(~foreign.any(1), math.nan)
    return {"own_share@10": share.numpy(), "foreign_rank": rank.numpy()}


def relevant_table(
    data: DataSet, queries: list[int], where: dict[int, int], split: str
) -> tuple[Tensor, Tensor]:
    """The relevant passages of each query in a pool; `where`: passage -> column of the pool.

    *Shapes*: -> columns (Q, R) padded with -1, gains (Q, R).
    """
    rows = [[(where[p], s) for p, s in data.qrels[split][q].items() if p in where] for q in queries]
    width = max(1, max(map(len, rows)))
    columns = [[c for c, _ in row] + [-1] * (width - len(row)) for row in rows]
    gains = [[s for _, s in row] + [0.0] * (width - len(row)) for row in rows]
    return torch.tensor(columns), torch.tensor(gains)


def rank_queries(
    q: Tensor, p: Tensor, data: DataSet, queries: list[int], passages: list[int], split: str,
    langs: list[str], block: int = 512, views=VIEWS,
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Metrics of every query against the views' pools: each language's passages, and "*" for all.

    Without `cross`, a query meets its own language's passages alone; NaN stands in other pools.
    *Shapes*: q (Q, D) of `queries`, p (P, D) of `passages` -> pool -> metric -> (Q,).
    """
    pools = {"*": list(range(len(passages)))} if "pool" in views else {}
    for lang in langs if set(views) - {"pool"} else ():
        columns = [i for i, x in enumerate(passages) if data.passages[x].lang == lang]
        pools |= {lang: columns} if columns else {}
    tables = {
        name: relevant_table(data, queries, {passages[c]: i for i, c in enumerate(columns)}, split)
        for name, columns in pools.items()
    }
    index = {name: torch.tensor(columns) for name, columns in pools.items()}
    found, bias = {name: [] for name in pools}, []
    number = {lang: i for i, lang in enumerate(all_langs(data))}
    spoken = torch.tensor([number[data.passages[p].lang] for p in passages])  # (P,)
    own = torch.tensor([number[data.queries[q].lang] for q in queries])  # (Q,)
    wide = p.double().T.contiguous()  # (D, P)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        asked = {data.queries[i].lang for i in queries[rows]}
        for name, (relevant, gains) in tables.items():
            relevant, gains = relevant[rows], gains[rows]
            if name != "*" and name not in asked and "cross" not in views:
                relevant = torch.full_like(relevant, -1)  # nobody asks: nothing is relevant
            # SUBTLE: an fp32 product depends on the shape of the block; fp64, rounded, does not
            idle = name != "*" and not (relevant >= 0).any()
            columns = wide[:, :1] if idle else wide[:, index[name]]
            part = (q[rows].double() @ columns).float()  # (block, D) @ (D, P) -> (block, P)
            ranks = relevant_ranks(part, relevant, gains)
            found[name].append([t.numpy() for t in ranks])
            if name == "*":
                bias.append(language_bias(part, relevant, spoken, own[rows]))
    join = lambda parts: (np.concatenate(x) for x in zip(*parts, strict=True))
    made = {name: measure(*join(parts)) for name, parts in found.items()}
    for key in bias[0] if bias else ():
        made["*"][key] = np.concatenate([part[key] for part in bias])
    return made


def chance(passages: int, relevant: int) -> dict[str, float]:
    """Expected metrics of a random ranking.

        E[AP] = H_P / P + (R - 1) (P - H_P) / (P (P - 1)),   H_P = 1 + 1/2 + ... + 1/P

    *Units*: counts of candidates and of relevant ones among them. Derived: a passage at rank i is
    relevant with probability R / P, and then i's precision is (1 + (i - 1)(R - 1) / (P - 1)) / i.
    """
    harmonic = sum(1 / i for i in range(1, passages + 1))
    ap = harmonic / passages
    if passages > 1:
        ap += (relevant - 1) * (passages - harmonic) / (passages * (passages - 1))
    # The expected gap between the smallest and the largest of R ranks drawn from P
    gap = (passages + 1) * (relevant - 1) / (relevant + 1)
    return {"mAP": ap, "R@1": 1 / passages, "R@10": min(1.0, 10 / passages), "rank_distance": gap}


def chance_of_views(data: DataSet, queries: list[int], passages: list[int], split: str) -> dict:
    """Expected metrics of a random ranking, averaged over the queries of each view."""
    size = Counter(data.passages[p].lang for p in passages)
    within, cases = set(passages), {view: Counter() for view in VIEWS}
    for query in queries:
        relevant = Counter(data.passages[p].lang for p in data.qrels[split][query] if p in within)
        for lang, count in relevant.items():
            view = "mono" if lang == data.queries[query].lang else "cross"
            cases[view][size[lang], count] += 1
        if relevant:
            cases["pool"][len(passages), relevant.total()] += 1
    found = {}
    for view, counts in cases.items():  # few distinct (candidates, relevant) pairs, many queries
        each = [(chance(*case), n / counts.total()) for case, n in counts.items()]
        found[view] = {m: sum(c[m] * share for c, share in each) for m in (each and each[0][0])}
    return found


# ---- records -------------------------------------------------------------------------------------


def encode_split(encoder: Encoder, data: DataSet, split: str, langs: list[str], limit: int = 0):
    """Encode the split's queries, of the first `limit` groups if not 0, and all passages.

    *Shapes*: -> positions of queries (Q) and passages (P), q (Q, D), p (P, D).
    *Errors*: ValueError for a split or a language that the data has not, or vectors not finite.
    """
    if split not in data.qrels:
        have = sorted(data.qrels)
        raise ValueError(f"{data.folder}/qrels/{split}.tsv: no such file. There is {have}.")
    if unknown := sorted(set(langs) - set(all_langs(data))):
        raise ValueError(f"--langs {unknown[0]}: {data.folder} has {all_langs(data)}.")
    queries = [q for q in sorted(data.qrels[split]) if data.queries[q].lang in langs]
    if limit:
        first = sorted({data.queries[q].group for q in queries})[:limit]
        queries = [q for q in queries if data.queries[q].group in set(first)]
    passages = [i for i, p in enumerate(data.passages) if p.lang in langs]
    if not queries or not passages:
        raise ValueError(f"{data.folder}, {split}: no query or no passage in {langs}. Add --langs.")
    bar = lambda name: lambda blocks: tqdm(blocks, desc=name, disable=None, leave=False)
    q = encoder.encode([data.queries[i] for i in queries], "query", bar("queries"))
    p = encoder.encode([data.passages[i] for i in passages], "passage", bar("passages"))
    if not (q.isfinite().all() and p.isfinite().all()):
        raise ValueError("the encoder gave vectors that are not finite. Train with a smaller --lr.")
    return queries, passages, q, p


def records(found: dict, data: DataSet, queries: list[int], attack: str, views=VIEWS) -> list[dict]:
    """Per-query metrics -> means over queries: one record a (view, query lang, passage lang).

    A query without a relevant passage in a pool is left out there and counted as `n_left_out`.
    """
    rows, own = [], np.array([data.queries[q].lang for q in queries])
    for query_lang in sorted(set(own)):
        for pool in sorted(found):
            view = "pool" if pool == "*" else "mono" if pool == query_lang else "cross"
            if view not in views:
                continue
            mine = own == query_lang
            valid = mine & ~np.isnan(found[pool]["mAP"])
            row = {"attack": attack, "view": view, "query_lang": query_lang, "passage_lang": pool}
            row |= {"n_queries": int(valid.sum()), "n_left_out": int((mine & ~valid).sum())}
            for name in (*METRICS, *(m for m in IN_POOL if m in found[pool])):
                values = found[pool][name][valid]
                values = values[~np.isnan(values)]
                row[name] = round(float(values.mean()), 6) if len(values) else None
            rows.append(row)
    return rows


def nan_mean(values: np.ndarray, axis=None) -> np.ndarray:
    """The mean of what is not NaN; NaN, without a warning, where nothing is left."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def each_query(found: dict, own: np.ndarray, attack: str, views=VIEWS) -> dict[str, np.ndarray]:
    """Per-query metrics -> "attack|view|metric" -> (Q,) for metrics.npz; cross: mean over pools.

    *Shapes*: own (Q,) languages of the queries.
    """
    rows = {}
    for view in views:
        for name in KEPT:
            columns = {pool: content[name] for pool, content in found.items() if pool != "*"}
            if view == "pool":
                values = found["*"][name]
            elif view == "mono":
                values = np.full(len(own), np.nan)
                for pool, column in columns.items():
                    values[own == pool] = column[own == pool]
            else:
                others = [np.where(own == pool, np.nan, c) for pool, c in columns.items()]
                values = nan_mean(np.stack(others), axis=0)
            rows[f"{attack}|{view}|{name}"] = values.astype(np.float32)
    return rows


def own_share(data: DataSet, passages: list[int]) -> dict[str, float]:
    """Each language's share of the pool: what a ranking that is blind to language would show."""
    spoken = Counter(data.passages[i].lang for i in passages)
    return {lang: round(n / len(passages), 6) for lang, n in sorted(spoken.items())}


def remove_language(q: Tensor, p: Tensor, data, queries, passages, r: int) -> tuple[Tensor, Tensor]:
    """LIR: take the r main directions of each language out of its vectors, then normalise again.

        e <- e - C C^T e,     C: the first r left singular vectors of the language's passages (D, P)

    A language without passages stays as it is. *Source*: Yang et al. 2021, section 3; they fit C
    on other text, here it is the pool itself, without any label.
    """
    q, p = q.double().clone(), p.double().clone()
    spoken = np.array([data.passages[i].lang for i in passages])
    asked = np.array([data.queries[i].lang for i in queries])
    for lang in sorted(set(spoken)):
        mine = torch.from_numpy(spoken == lang)
        c = torch.linalg.svd(p[mine].T @ p[mine])[0][:, :r]  # (D, D) -> (D, r)
        for vectors, own in ((p, mine), (q, torch.from_numpy(asked == lang))):
            vectors[own] -= vectors[own] @ c @ c.T  # (n, D)
    q, p = (torch.nn.functional.normalize(x, dim=1).float() for x in (q, p))
    return q, p


def evaluate(
    encoder: Encoder, data: DataSet, split: str = "test", langs: list[str] | None = None,
    views=VIEWS, trec: Path | None = None, adversary: "Adversary | None" = None, lir=(),
    limit: int = 0,
) -> tuple[dict, dict]:  # fmt: skip
    """Everything that metrics.json holds, but the names of model and run; and metrics.npz."""
    encoder.truncated.clear(), encoder.seen.clear()
    langs = langs or all_langs(data)
    queries, passages, q, p = encode_split(encoder, data, split, langs, limit)
    rank = lambda q, p: rank_queries(q, p, data, queries, passages, split, langs)
    found = rank(q, p)
    if trec:
        write_trec(trec, q, p, data, queries, passages, split)
    results = records(found, data, queries, "clean", views)
    each = {key: np.array([getattr(data.queries[i], key) for i in queries])
            for key in ("id", "group", "lang")}  # fmt: skip
    each |= each_query(found, each["lang"], "clean", views)
    for r in lir:
        bare = rank(*remove_language(q, p, data, queries, passages, r))
        results += records(bare, data, queries, f"lir:r={r}", views)
        each |= each_query(bare, each["lang"], f"lir:r={r}", views)
    about = {"examples": []}
    if adversary:
        pools = attacks.make_pools(p, data, queries, passages, split)
        shown = adversary.views or views
        world = World(encoder, data, split, queries, passages, p, pools, found, langs, shown)
        world.each, world.about = each, about
        for spec in adversary.specs:
            rows = under_attack(world, adversary, spec)
            results += [row | {"table": adversary.mark(spec)} for row in rows]
    return identity(encoder, data, split, langs, limit) | {
        "n_queries": len(queries), "n_passages": len(passages),
        "ties": TIES, "versions": versions(), "dropped": dict(data.dropped),
        "truncated": cut_texts(encoder), "chance": chance_of_views(data, queries, passages, split),
        **about,
        "own_share": own_share(data, passages),
        "results": results,
    }, each  # fmt: skip


def identity(encoder: Encoder, data: DataSet, split: str, langs, limit: int) -> dict:
    """What a metrics.json is about: results of anything else do not belong into it."""
    some = {"limit": limit} if limit else {}
    return some | {
        "model_sha256": weights_hash(encoder), "settings": vars(encoder.settings),
        "data": str(data.folder), "data_sha256": data.sha256, "split": split,
        "langs": sorted(langs or all_langs(data)),
    }  # fmt: skip


# ---- under attack --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adversary:
    """What the flags say about attacks."""

    specs: list[attacks.Attack]
    tables: dict  # source of options -> lang -> word -> replacements
    fixed: frozenset = frozenset()  # words that nobody replaces
    seed: int = 0
    show: int = 0
    out: Path | None = None
    views: tuple = ()  # which to attack; none: all that are evaluated

    def label(self, spec: attacks.Attack) -> str:
        return spec.label + (f"@{self.seed}" if self.seed else "")

    def mark(self, spec: attacks.Attack) -> str:
        """The hash of table and protected words: what a label does not say."""
        table = self.tables.get(attacks.ATTACKS[spec.name][0], {})
        return hashlib.sha256(json.dumps([table, sorted(self.fixed)]).encode()).hexdigest()[:8]


@dataclass
class World:
    """A split, encoded once: what all attacks on it share."""

    encoder: Encoder
    data: DataSet
    split: str
    queries: list[int]
    passages: list[int]
    p: Tensor  # (P, D)
    pools: attacks.Pools
    clean: dict  # pool -> metric -> (Q,), before any attack
    langs: list[str]
    views: list[str]
    each: dict = field(default_factory=dict)  # metrics.npz so far
    about: dict = field(default_factory=dict)  # words and examples so far


def make_adversary(args, data: DataSet, encoder: Encoder) -> Adversary | None:
    """Parse --attacks and open the tables that they need.

    *Errors*: ValueError for an unknown attack or setting, or a table that is missing or broken.
    """
    specs = [attacks.parse_attack(text) for text in dict.fromkeys(args.attacks) if text != "clean"]
    if not specs:
        return None
    sources, tables = {attacks.ATTACKS[spec.name][0] for spec in specs}, {}
    if "synonyms" in sources and args.table == ["neighbours"]:
        tables["synonyms"] = attacks.neighbours(encoder, data.queries)
    elif "synonyms" in sources:
        given = dict(text.partition("=")[::2] for text in args.table)
        tables["synonyms"] = attacks.read_synonyms(data.folder, given)
    if "dictionary" in sources:
        tables["dictionary"] = attacks.read_dictionary(data.folder / "dictionary.tsv")
    fixed = args.protect.read_text(encoding="utf-8").split("\n") if args.protect else []
    words, ways = [word.strip() for word in fixed if word.strip()], ("", "tr")  # Turkish I is ı
    fixed = frozenset(attacks.lower(word, lang) for word in words for lang in ways)
    rest = args.attack_seed, args.show, args.attack_out, args.attack_views
    return Adversary(specs, tables, fixed, *rest)


def under_attack(world: World, adversary: Adversary, spec: attacks.Attack) -> list[dict]:
    """The records of one attack and of its control; prints what it could not reach."""
    source, search = attacks.ATTACKS[spec.name]
    table = adversary.tables.get(source, {})
    if search == "vote":
        cut = {a: {w: others[: spec.k] for w, others in t.items()} for a, t in table.items()}
        table = {a: attacks.close_table(t, a) for a, t in cut.items()}
    make = lambda views: attacks.make_items(
        world.data, world.queries, views, spec, table, adversary.seed, adversary.fixed
    )
    label = adversary.label(spec)
    asked = Counter(world.data.queries[q].lang for q in world.queries)
    left = ", ".join(f"{n} {lang}" for lang, n in sorted(asked.items()) if lang not in table)
    if source in ("synonyms", "dictionary") and left:
        print(f"{label}: no table, so not attacked: {left} queries", file=sys.stderr)
    if adversary.out and (source == "embeddings" or search == "vote"):
        print(f"{label}: changes no text, so --attack-out has nothing to write", file=sys.stderr)
    if search == "vote":
        return vote_records(world, make(["pool"]), table, spec, adversary, label)
    items, bar = make(world.views), lambda rows: tqdm(rows, desc=label, disable=None, leave=False)
    args = (world.encoder, world.pools, spec, adversary.seed, bar)
    v = attacks.run(items, *args)
    rows = attacked_records(world, items, v, label)
    if search in ("beam", "exact", "gradient"):
        control = make(world.views)
        v = attacks.run(control, *args, items)
        rows += attacked_records(world, control, v, f"{label}:control")
    for k, view in enumerate(world.views):
        part = items[k :: len(world.views)]
        if adversary.out and source != "embeddings":
            freeze(adversary.out / f"{label}-{view}", world, part, view, spec, label)
        for item in [x for x in part if x.changed and x.edits][: adversary.show]:
            print(f"{label} {view} {item.source.id}: {marked(item)}")
    return rows


def attacked_records(world: World, items: list, v: Tensor, label: str) -> list[dict]:
    """Records of the attacked queries; `items` and v (items, D) alternate between the views.

    n_right: attacked queries that were right at rank 1 before, the denominator of n_broken. A query
    with nothing to replace is not among them. certified R@1: exhaustive search found no way.
    """
    rows, data = [], world.data
    for k, view in enumerate(world.views):
        mine, q = items[k :: len(world.views)], v[k :: len(world.views)]
        found = rank_queries(
            q, world.p, data, world.queries, world.passages, world.split, world.langs, views=[view]
        )
        world.each |= each_query(found, world.each["lang"], label, [view])
        if view == "pool" and not label.endswith(":control"):
            deepest_falls(world, mine, found, label, view)
        for row in records(found, data, world.queries, label, [view]):
            pool = row["passage_lang"]
            own = [i for i, item in enumerate(mine) if item.source.lang == row["query_lang"]]
            before, after = world.clean[pool]["R@1"][own], found[pool]["R@1"][own]
            part, hit = [mine[i] for i in own], np.array([mine[i].attacked for i in own])
            column = -1 if pool == "*" else world.pools.langs.index(pool)
            row |= {
                "n_attacked": int(hit.sum()), "n_changed": sum(x.changed for x in part),
                "n_right": int(((before > 0) & hit).sum()),
                "n_broken": int(((before > 0) & hit & ~(after > 0)).sum()),
                "edits": round(sum(len(x.edits) for x in part) / len(part), 4),
                "norm": round(sum(x.norm for x in part) / len(part), 4),
                "calls": round(sum(len(x.asked) for x in part) / len(part), 2),
            }  # fmt: skip
            if any(x.worst is not None for x in part):
                # A query without a slot stays as it is: its worst margin is the clean one
                safe = [bool(x.worst is not None and x.worst[column] > 0) for x in part]
                row["certified R@1"] = round(float(np.where(safe, before, 0.0).mean()), 6)
                row["n_exhaustive"] = sum(x.exhaustive for x in part)
            rows.append(row)
    return rows


def deepest_falls(world: World, items: list, found: dict, label: str, view: str) -> None:
    """Note an example of each language for the report."""
    examples = {}
    for n, item in enumerate(items):
        lang = item.source.lang
        pool = {"mono": lang, "pool": "*"}.get(view)
        if not item.edits or pool not in found:  # cross: eleven answers a query, no single rank
            continue
        before, after = (int(x[pool]["first_rank"][n]) for x in (world.clean, found))
        # Of each language the broken query with the fewest edits that falls the deepest
        best = (-len(item.edits), after)
        if before == 1 < after and best > examples.get(lang, ((-99, 0), None))[0]:
            edits = [[*span, new] for span, new in sorted(item.edits.items())]
            examples[lang] = best, {
                "attack": label, "view": view, "lang": lang, "id": item.source.id,
                "text": item.source.text, "edits": edits, "answer": item.source.answer,
                "before": before, "after": after,
            }  # fmt: skip
    world.about["examples"] += [example for _, example in examples.values()]


def vote_records(world: World, items: list, table, spec, adversary, label: str) -> list[dict]:
    """The smoothed retriever: R@1 of its majority answer, and the part of it that is certified."""
    # (Q, 2, L + 1): right, certified
    found = attacks.smoothed(world.encoder, world.pools, items, table, spec, adversary.seed)
    columns = dict(zip([*world.pools.langs, "*"], found.permute(2, 0, 1).numpy(), strict=True))
    # R@1 of a right answer: 1 / (number of relevant passages), as in every other record
    starts, mine = [*world.pools.starts, 0], world.pools.relevant  # (Q, R)
    borders = {a: starts[i : i + 2] for i, a in enumerate(world.pools.langs)}
    borders["*"] = [0, starts[-2]]
    counts = {a: ((mine >= low) & (mine < high)).sum(1) for a, (low, high) in borders.items()}
    one = {pool: (1 / n.clamp(min=1)).numpy() for pool, n in counts.items()}
    made = {pool: dict.fromkeys(METRICS, np.full(len(items), np.nan)) for pool in world.clean}
    for pool, content in made.items():
        content["mAP"] = world.clean[pool]["mAP"] * 0  # NaN where nothing is relevant
        content["R@1"] = columns[pool][:, 0] * one[pool] + content["mAP"]
    rows = records(made, world.data, world.queries, label, world.views)
    for row in rows:
        own = [i for i, item in enumerate(items) if item.source.lang == row["query_lang"]]
        pool, row["mAP"] = row["passage_lang"], None  # only the first rank is voted on
        row["certified R@1"] = round(float((columns[pool][own, 1] * one[pool][own]).mean()), 6)
        row["n_attacked"] = sum(items[i].attacked for i in own)
    return rows


def marked(item) -> str:
    """The query with its changed words as [old→new]."""
    text = item.source.text
    edits = {s: f"[{text[slice(*s)]}→{other}]" for s, other in item.edits.items()}
    return attacks.substitute(text, edits)


def freeze(folder: Path, world: World, items: list, view: str, spec, label: str) -> None:
    """Write attacked queries as a data set folder (corpus, queries, qrels) with attack.json."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    data, split = world.data, world.split
    shutil.copyfile(data.folder / "corpus.jsonl", folder / "corpus.jsonl")
    lines, qrels = [], ["query-id\tcorpus-id\tscore"]
    for q, item in zip(world.queries, items, strict=True):
        row = {"_id": item.source.id, "lang": item.source.lang, "text": item.text}
        row |= {"group": item.source.group, "answer": item.source.answer, "clean": item.source.text}
        edits = [[*span, new] for span, new in item.edits.items()]
        row |= {"slots": len(item.slots), "edits": edits}
        lines.append(json.dumps({k: v for k, v in row.items() if v}, ensure_ascii=False))
        for p, s in data.qrels[split][q].items():
            qrels.append(f"{item.source.id}\t{data.passages[p].id}\t{s:g}")
    content = "".join(line + "\n" for line in lines).encode()
    (folder / "queries.jsonl").write_bytes(content)
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    write_json(folder / "attack.json", {
        "label": label, "view": view, "split": split, "attack": vars(spec),
        "sha256": hashlib.sha256(content).hexdigest(), "data_sha256": data.sha256,
        "model_sha256": weights_hash(world.encoder),
    })  # fmt: skip


# ---- files ---------------------------------------------------------------------------------------


def metrics_name(data: DataSet, own: str, split: str) -> str:
    """metrics.json for the test split of the data that a run is about, else a name that says so."""
    if split == "test" and data.folder.resolve() == Path(own).resolve():
        return "metrics.json"
    return f"metrics-{data.folder.resolve().name}-{split}.json"


def check_same(path: Path, new: dict) -> dict:
    """The content of a metrics.json, or {} if there is none.

    *Errors*: ValueError if it is about another model, data set, split, setting or languages.
    """
    if not path.exists():
        return {}
    old = json.loads(path.read_text(encoding="utf-8"))
    for key in ("model_sha256", "data_sha256", "split", "settings", "langs", "limit"):
        if old.get(key) != new.get(key):
            was = f"another {key} ({old.get(key)})"
            raise ValueError(f"{path}: holds results of {was}. Give another --out.")
    return old


def add_metrics(path: Path, new: dict, each: dict[str, np.ndarray]) -> dict:
    """Write metrics.json and metrics.npz, or add to them: other attacks and views stay."""
    old = check_same(path, new)
    key = lambda r: (r["attack"], r["view"], r["query_lang"], r["passage_lang"])
    merged = {key(r): r for rows in (old.get("results", ()), new["results"]) for r in rows}
    new["results"] = list(merged.values())  # a new record takes the place of the old one
    done = {(r["attack"], r["view"]) for r in new.get("examples", ())}
    for name in ("examples",):
        kept = [r for r in old.get(name, ()) if (r["attack"], r["view"]) not in done]
        new[name] = kept + new.get(name, [])
    beside = path.with_suffix(".npz")
    known = dict(np.load(beside)) if old and beside.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = beside.with_name(beside.name + ".tmp")
    with open(aside, "wb") as out:
        np.savez_compressed(out, **known | each)
    os.replace(aside, beside)  # first: records without their queries would count as complete
    write_json(path, new)
    return new


def is_there(path: Path, old: dict, label: str, views) -> bool:
    """Does this metrics.json hold an attack in these views already, single queries included?"""
    beside = path.with_suffix(".npz")
    if not old or not beside.exists():
        return False
    names, told = set(np.load(beside).files), {r["attack"] for r in old["results"]}
    voted = label.startswith("smoothed")  # one rank only: no single queries
    return label in told and (voted or all(f"{label}|{v}|{KEPT[0]}" in names for v in views))


def write_trec(folder: Path, q, p, data, queries, passages, split, depth: int = 1000) -> None:
    """Write run.trec (the best `depth` passages, by (-score, id)) and qrels.trec for trec_eval.

    *Shapes*: q (Q, D) of `queries`, p (P, D) of `passages`.
    *Errors*: ValueError for an id with blanks: the format separates by them.
    """
    ids = np.array([data.passages[i].id for i in passages])
    names = [data.queries[i].id for i in queries]
    if bad := [name for name in (*ids, *names) if len(name.split()) != 1]:
        raise ValueError(f"--trec: the id {str(bad[0])!r} holds blanks. Rename it.")
    folder.mkdir(parents=True, exist_ok=True)
    place, wide = np.argsort(np.argsort(ids)), p.double()  # a number that orders like the id
    with open(folder / "run.trec", "w", encoding="utf-8", newline="\n") as run:
        for name, vector in zip(names, q.double(), strict=True):
            scores = (wide @ vector).float().numpy()  # (P, D) @ (D,) -> (P,)
            best = np.lexsort((place, -scores))[:depth]
            lines = (f"{name} Q0 {ids[i]} {k} {scores[i]:.9g} xlt\n" for k, i in enumerate(best, 1))
            run.writelines(lines)
    pool = set(passages)
    with open(folder / "qrels.trec", "w", encoding="utf-8", newline="\n") as out:
        for name, query in zip(names, queries, strict=True):
            found = [(i, s) for i, s in data.qrels[split][query].items() if i in pool]
            out.writelines(f"{name} 0 {data.passages[i].id} {s:g}\n" for i, s in found)


# ---- tables --------------------------------------------------------------------------------------


def summarise(results: list[dict], langs: list[str] | None = None, attack: str = "clean") -> dict:
    """Macro-average over languages (each record counts once): (view, metric) -> value or None.

    `langs` keeps the records whose query language is among them; None keeps all.
    """
    values = defaultdict(list)
    for row in results:
        if row["attack"] == attack and (langs is None or row["query_lang"] in langs):
            for name in METRICS:
                if row.get(name) is not None:
                    values[row["view"], name].append(row[name])
    return {key: sum(v) / len(v) for key, v in values.items()}


def align(lines: list[list[str]]) -> str:
    """Rows of cells -> a Markdown table with aligned columns."""
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (" | ".join(map(str.ljust, line, width)) for line in lines)
    return "\n".join(f"| {row} |" for row in rows)


DIGITS = {"rank_distance": 0, "foreign_rank": 1, "minutes": 1, "seconds": 0}  # all others 3


def digits(value, metric: str = "") -> str:
    """A number as all tables print it: .463, -.012, 1496 for a rank distance, "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    places = DIGITS.get(metric.rpartition(" ")[2], 3)
    text = f"{round(value, places) + 0.0:.{places}f}"  # + 0.0: no "-.000"
    return re.sub(r"^(-?)0\.", r"\1.", text)  # SUBTLE: replace("0.", ".") turns 10.5 into 1.5


def pair(value, metric: str = "") -> str:
    """[mean, standard deviation] or a bare number -> ".463 ±.004", ".463", "-"."""
    mean, spread = value if isinstance(value, (list, tuple)) else (value, None)
    text, more = digits(mean, metric), digits(spread, metric)
    return text if "-" in (text, more) else f"{text} ±{more}"


def mean_sd(values) -> list[float | None]:
    """[mean, standard deviation over seeds], None where there is none."""
    values = [v for v in values if v is not None and not math.isnan(v)]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return [float(np.mean(values)) if values else None, spread]


def cell(values: list[float], metric: str) -> str:
    """Mean, and the standard deviation if there are several seeds."""
    return pair(mean_sd(values), metric)


def named_runs(runs: list[dict]) -> dict[str, list[dict]]:
    """Runs of one recipe together, by seed; with other flags it gets a name of its own.

    *Errors*: ValueError for a seed that is there twice, or runs of other data, split or languages.
    """
    groups = defaultdict(list)
    for run in runs:
        groups[run["recipe"], run.get("variant", "")].append(run)
        for key in ("data_sha256", "split", "langs", "limit"):
            if run.get(key) != runs[0].get(key):
                raise ValueError(f"{run['folder']}: another {key} than {runs[0]['folder']}.")
    often, found = Counter(recipe for recipe, _ in groups), {}
    for (recipe, variant), members in groups.items():
        seeds = [member["seed"] for member in members]
        if len(set(seeds)) < len(seeds):
            twice = max(seeds, key=seeds.count)
            raise ValueError(f"{recipe}: seed {twice} is given twice. Leave one out.")
        name = recipe if often[recipe] == 1 else f"{recipe} ({variant})"
        found[name] = sorted(members, key=lambda m: m["seed"] or 0)
    return found


def language_sets(run: dict) -> list[tuple[str, list[str] | None]]:
    """All query languages, those trained on, and the others, as far as there are any."""
    trained = run.get("train_langs")
    untrained = [a for a in run["langs"] if trained and a not in trained]
    sets = [("all", None)] + ([("trained", trained)] if trained else [])
    return sets + ([("untrained", untrained)] if untrained else [])


def table(runs: list[dict]) -> str:
    """A Markdown table: one row a recipe and set of languages, mean over seeds; chance below.

    *Units*: `runs` are metrics.json objects with "recipe", "seed" and, if known, "train_langs".
    """
    head = ["recipe", "n", "languages"]
    head += [f"{view} {name.replace('_', ' ')}" for view, name in COLUMNS]
    lines = [head, ["---"] * len(head)]
    for recipe, members in named_runs(runs).items():
        names = dict.fromkeys(r["attack"] for member in members for r in member["results"])
        for attack, (label, langs) in itertools.product(names, language_sets(members[0])):
            sums = [summarise(m["results"], langs, attack) for m in members]
            cells = [cell([s.get(c) for s in sums], c[1]) for c in COLUMNS]
            name = recipe if attack == "clean" else f"{recipe}, {attack}"
            lines.append([name, str(len(members)), label, *cells])
    luck = runs[0]["chance"]
    lines.append(["chance", "", "all"] + [cell([luck[v].get(m)], m) for v, m in COLUMNS])
    return align(lines)


def attack_table(runs: list[dict]) -> str:
    """A Markdown table of what each attack did: of the queries that were right, how many it broke.

    *Units*: sums over seeds and languages; edits, norm and calls are means a query; `least changed`
    is the smallest share of really changed queries in a language, so that none passes for robust.
    """
    lines = []
    for run in runs:
        groups = defaultdict(list)
        for row in run["results"]:
            if "n_attacked" in row:
                groups[row["attack"], row["view"]].append(row)
        for (attack, view), rows in groups.items():
            total = lambda key, rows=rows: sum(row.get(key) or 0 for row in rows)
            edits, norm, calls = (total(key) / len(rows) for key in ("edits", "norm", "calls"))
            count, right = total("n_queries"), total("n_right")
            name = run["recipe"] if run["seed"] is None else f"{run['recipe']} {run['seed']}"
            cells = [name, attack, view, f"{total('n_broken')} of {right}" if right else "-"]
            cells += [f"{total('n_broken') / right:.3f}" if right else "-", f"{edits:.2f}"]
            share = {r["query_lang"]: r.get("n_changed", 0) / (r["n_queries"] or 1) for r in rows}
            least, spared = min(share, key=share.get), count - total("n_attacked")
            cells += [f"{norm:.2f}", f"{calls:.1f}", f"{spared}", f"{least} {share[least]:.2f}"]
            safe = [row["certified R@1"] for row in rows if row.get("certified R@1") is not None]
            lines.append([*cells, f"{sum(safe) / len(safe):.3f}" if safe else "-"])
    head = "run|attack|view|broken of right|success|edits|norm|calls|not attacked|least changed"
    return align([f"{head}|certified R@1".split("|"), ["---"] * 11, *lines]) if lines else ""


# ---- the program ---------------------------------------------------------------------------------


def about_run(run: dict) -> dict:
    """What the table needs to know about a run, from its manifest."""
    flags = run["flags"]
    told = ("seed", "device", "batching", "alpha", "robust")  # the recipe tells the last three
    rest = {k: v for k, v in flags.items() if k not in told}
    # Code-switching shows words of all training languages to en-en as well
    alone = flags["batching"] == "en-en" and "code-switch" not in flags.get("robust", "none")
    seen = ["en"] if alone else flags["train_langs"]
    about = {"recipe": run["recipe"], "seed": flags["seed"], "train_langs": seen}
    about |= {"trained_on": run["eval_data_sha256"], "robust": flags.get("robust", "none")}
    about["batching"] = run["recipe"].removesuffix("-" + about["robust"].replace(":", "_"))
    return about | {"variant": hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:8]}


def open_run(path: Path) -> tuple[Path, dict, str]:
    """A run or a model -> (folder of the weights, what the table needs, the run's own data)."""
    if not (path / "run.json").exists():
        return path, {"recipe": str(path), "seed": None, "train_langs": None}, ""
    run = json.loads((path / "run.json").read_text(encoding="utf-8"))
    if not run.get("complete"):
        raise ValueError(f"{path}: this run is not complete. Finish it with train.py --resume.")
    return path / "model", about_run(run), run["flags"]["eval_data"] or run["flags"]["data"]


def evaluate_path(path: Path, data: DataSet, args) -> dict:
    """Evaluate one model or run as the flags say; write its metrics.json and metrics.npz.

    What is there already, of the same weights and data, is not computed again (but for
    --trec, --show and --attack-out, which want something written).
    *Errors*: ValueError for a run that is not complete, or was made with other data.
    """
    folder, about, own = open_run(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    changes = {"context": True} if args.context else {}
    encoder = load_encoder(folder, device if args.device == "auto" else args.device, **changes)
    several = len(args.models) > 1
    home = args.out / path.name if args.out and several else args.out or (path if own else None)
    name = metrics_name(data, own or data.folder, args.split)
    if own and Path(own).resolve() == data.folder.resolve() and about["trained_on"] != data.sha256:
        raise ValueError(
            f"{path}: made with another version of {own}. Train it anew (--overwrite)."
        )
    adversary, old, wants = make_adversary(args, data, encoder), {}, bool(args.trec)
    if home:  # before the work, not after it
        old = check_same(home / name, identity(encoder, data, args.split, args.langs, args.limit))
        tables = {row["attack"]: row.get("table") for row in old.get("results", ())}
        for spec in adversary.specs if adversary else ():
            label, mark = adversary.label(spec), adversary.mark(spec)
            if tables.get(label, mark) != mark:
                raise ValueError(f"{home / name}: {label} is of another --table. Give an --out.")
    there = lambda label, views: is_there(home / name, old, label, views) if home else False
    if adversary:
        wants = wants or bool(adversary.show or adversary.out)
        views = adversary.views or args.views
        left = [s for s in adversary.specs if wants or not there(adversary.label(s), views)]
        adversary = replace(adversary, specs=left)
    left = adversary and adversary.specs
    lir = [r for r in args.lir if not there(f"lir:r={r}", args.views)]
    about["model"] = "model" if own else str(folder)
    # Of this machine: not written
    where = {"folder": str(home or ""), "file": name, "run": str(path) if own else ""}
    if there("clean", args.views) and not (left or lir or wants):
        return old | about | where
    trec = args.trec / path.name if args.trec and several else args.trec
    found, each = evaluate(
        encoder, data, args.split, args.langs, args.views, trec, adversary, lir, args.limit
    )
    found = about | found
    return (add_metrics(home / name, found, each) if home else found) | where


def read_metrics(path: Path, name: str) -> dict:
    """The metrics.json of a run, with what a study needs to know of the run."""
    _, about, _ = open_run(path)
    if not (path / name).exists():
        raise ValueError(f"{path}: no {name}. Evaluate it first.")
    return json.loads((path / name).read_text(encoding="utf-8")) | about | {
        "folder": str(path), "file": name, "run": str(path)
    }  # fmt: skip


def main(argv=None) -> int:
    """Evaluate every model, write metrics.json, print one table. Exit 0 done, 1 failed, 2 usage."""
    args = parse(argv)
    try:
        data = load_data(args.data)
        runs = [evaluate_path(path, data, args) for path in args.models]
        print(table(runs))
        print("\n" + done + "\n" if (done := attack_table(runs)) else "", end="")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    count = f"{runs[0]['n_queries']} queries, {runs[0]['n_passages']} passages"
    print(f"{args.split} of {args.data}: {count}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
