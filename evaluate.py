"""Evaluate an encoder on retrieval: vectors -> ranks of the relevant passages -> metrics.json.

    scores = q @ p.T                                         (Q, D) @ (D, P) -> (Q, P)
    rank_k = k + number of non-relevant passages that score at least as high as the k-th relevant
    AP     = mean over the R relevant passages of k / rank_k

One encode serves three views: `mono` (candidates in the query's language), `cross` (in one other
language, for every pair of languages) and `pool` (candidates in all languages at once; the data's
qrels list every translation of an answer). A cell is the queries of one language against one such
set of candidates; it gives one record, clean and under each attack. An attack replaces the vectors
of the queries, in each view by itself; passages stay.
Where to look next: `count_others` is the search, exact and in blocks, `relevant_ranks` makes ranks
of it, `make_record` is what metrics.json holds, `attack_split` is an attack from words to records.
study.py compares many metrics.json.
Left out on purpose: approximate search, full rankings in memory, a metrics library.
Differs from common practice: non-relevant passages win every tie; scores are summed in fp64 and
rounded to fp32, so that neither a constant scorer nor another block size can change a metric.

Shapes: Q queries, P passages, R relevant passages of a query (padded), D embedding, L languages,
n queries of a cell, b of a block of them, m passages of a block.
"""

import argparse
import hashlib
import json
import math
import re
import shutil
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C while torch is imported: an end without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import attacks
from attacks import Attack, Pools
from xlt import (
    POOLINGS,
    DataSet,
    Encoder,
    Help,
    Settings,
    VectorStore,
    all_langs,
    check_known,
    encoder_hashes,
    escape_what_cannot_be_shown,
    language_flag,
    load_data,
    load_encoder,
    locked,
    output_folder,
    read_lines,
    read_record,
    refuse_twice,
    texts_in,
    truncated_texts,
    versions,
    weights_hash,
    write_file,
    write_record,
    written_aside,
)

VIEWS = ("mono", "cross", "pool")
# R@k is recall: of 11 relevant passages the first alone gives R@1 = 1/11. "Right" is R@1 > 0
METRICS = ("mAP", "mAP@20", "R@1", "R@10", "MRR@10", "nDCG@10", "rank_distance")
# Of the pool of all languages alone; the last five: what stands first there (`first_passage`)
IN_POOL = (
    "own_share@10", "foreign_rank", "own_preferred",
    "right_own", "right_foreign", "wrong_own", "wrong_foreign",
)  # fmt: skip
KEPT = ("mAP", "R@1", "R@10", "rank_distance")  # of every single query, for paired statistics
TIES = "non-relevant passages first; scores summed in fp64, rounded to fp32"
# What is left of a unit vector below this length is rounding of fp32 and has no direction
NO_LENGTH = 1e-5
# Digits after the point; all other columns, study.py's too, have 3
DIGITS = {"rank_distance": 0, "foreign_rank": 1, "minutes": 1, "seconds": 0}
# What metrics.json says of a run, from its run.json. recipe: the run's name without its seed;
# variant: a hash of all other flags, the data and the model it started from
ORIGIN = ("recipe", "batching", "alpha", "robust", "seed", "train_langs", "variant")
# Keys of metrics.json that results must share to stand in one file
IDENTITY = (
    "model_sha256", "tokenizer_sha256", "config_sha256", "data_sha256", "split", "settings",
    "langs", "limit", "form", "no_self_hits", "precision",
)  # fmt: skip
# Values of keys that older files lack, from before there was a choice
BEFORE = {"precision": "fp32", "form": ""}
HERE = Path(__file__).parent


# ---- ranks and metrics ---------------------------------------------------------------------------


def exact_scores(q: Tensor, p: Tensor) -> Tensor:
    """Scores, summed in fp64 and rounded to fp32. (n, D), (m, D) -> (n, m)"""
    # SUBTLE: an fp32 product depends on the shape of the block; fp64, rounded, does not
    return (q.double() @ p.double().T).float()


def relevant_ranks(hits: Tensor, above: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of each query's relevant passages, best first.

        scores [.9, .7, .7, .2, .5], relevant 1 and 4: hits .7 and .5, above 2 and 2 -> ranks 3, 4

    (the .7 of passage 2, which is not relevant, goes before that of passage 1).
    *Shapes*: hits (Q, R) scores of the relevant passages, padded with -inf; above (Q, R) how many
    others score at least as high; gains (Q, R) -> ranks (Q, R) from 1, padded with 0, and the gains
    in the same order. The padding comes last.
    *Source*: trec_eval's ranks, but pessimistic among ties, where a constant scorer could gain.
    """
    # By score; the sorts are stable, so among equal scores the smaller gain comes first, which is
    # pessimistic for nDCG as well
    by_gain = torch.argsort(gains, dim=1, stable=True)
    by_score = torch.argsort(hits.gather(1, by_gain), dim=1, descending=True, stable=True)
    order = by_gain.gather(1, by_score)  # (Q, R)
    padding = hits.gather(1, order) == -math.inf
    k = torch.arange(1, hits.shape[1] + 1)  # (R,)
    ranks = k + above.gather(1, order)
    return ranks.masked_fill(padding, 0), gains.gather(1, order).masked_fill(padding, 0)


def measure(ranks: np.ndarray, gains: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each query from the ranks of its relevant passages.

        ranks 1 and 3, and a third one never found: AP = (1/1 + 2/3) / 3 = .5556

    *Shapes*: ranks (Q, R) ascending, gains (Q, R), both padded with 0 at the end -> metric -> (Q,);
    NaN where nothing is relevant. A gain with rank 0 is of a relevant passage that cannot be found.
    *Units*: all in [0, 1] but rank_distance and first_rank (ranks). mAP is uncut, mAP@20 sums to
    rank 20 and still divides by all R relevant ones; R@k is recall: with 11 relevant passages R@10
    cannot exceed 10/11; nDCG@10 has linear gains; rank_distance, the largest minus the smallest
    rank, is NaN with fewer than two relevant passages.
    *Source*: trec_eval's map, map_cut, recall, recip_rank, ndcg_cut; rank distance: Elmahdy et al.
    2024.
    """
    real = ranks > 0
    count = (gains > 0).sum(1)  # (Q,) those that cannot be found, too
    safe_ranks = np.maximum(ranks, 1)  # of the padding too: no division by 0
    k = np.arange(1, ranks.shape[1] + 1)  # (R,)
    precision = np.where(real, k / safe_ranks, 0.0)  # k / rank_k
    in_ten = real & (ranks <= 10)
    gain_at_ten = np.where(in_ten, gains / np.log2(safe_ranks + 1), 0.0).sum(1)
    best_gains = -np.sort(-gains, axis=1)  # (Q, R)
    ideal = (best_gains / np.log2(k + 1))[:, :10].sum(1)
    first = np.where(in_ten[:, 0], 1 / safe_ranks[:, 0], 0.0)
    distance = ranks.max(1) - ranks[:, 0]  # the largest minus the smallest; padding is 0, and last
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 -> NaN: nothing is relevant
        return {
            "mAP": precision.sum(1) / count,
            "mAP@20": np.where(ranks <= 20, precision, 0.0).sum(1) / count,
            "R@1": (real & (ranks <= 1)).sum(1) / count,
            "R@10": in_ten.sum(1) / count,
            "MRR@10": np.where(count > 0, first, np.nan),
            "nDCG@10": gain_at_ten / ideal,
            "rank_distance": np.where(real.sum(1) > 1, distance, np.nan),
            "first_rank": ranks[:, 0].astype(float),  # of the best relevant passage
        }


def language_bias(
    hits: Tensor, is_own: Tensor, above: Tensor, own_best: Tensor, foreign_best: Tensor
) -> dict[str, np.ndarray]:
    """How the queries' own language fares in the pool of all: share of the top ten, foreign rank.

    *Shapes*: hits (Q, R) scores of the relevant passages, padded with -inf; is_own (Q, R) which of
    them are in the query's language; above (Q, R) how many others score at least as high; own_best
    (Q, 10) the best scores of others in the query's language, foreign_best (Q, 10) in another one,
    padded with -inf -> (Q,) each.
    *Units*: own_share@10 in [0, 1]. A ranking without bias has the language's share of the pool;
    one that puts all eleven translations first has 1/11. At a tie the own language comes first.
    foreign_rank: rank of the first relevant passage in another language, NaN without any.
    """
    own_hits = hits.masked_fill(~is_own, -math.inf)
    foreign_hits = hits.masked_fill(is_own, -math.inf)
    scores = torch.cat([own_best, own_hits, foreign_best, foreign_hits], dim=1)  # (Q, 20 + 2 R)
    top = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :10]  # (Q, 10)
    is_candidate = scores.gather(1, top) > -math.inf
    own_columns = own_best.shape[1] + own_hits.shape[1]
    own_in_top = is_candidate & (top < own_columns)
    share = own_in_top.sum(1).double() / is_candidate.sum(1)  # (Q, 10) -> (Q,)
    # Before the best foreign hit stand the others and the own hits that score at least as high
    best, column = foreign_hits.max(1, keepdim=True)  # (Q, R) -> (Q, 1)
    rank = 1 + above.gather(1, column) + (own_hits >= best).sum(1, keepdim=True)
    rank = rank.double().masked_fill(best == -math.inf, math.nan)
    return {"own_share@10": share.numpy(), "foreign_rank": rank[:, 0].numpy()}


def first_passage(
    hits: Tensor, is_own: Tensor, own_best: Tensor, foreign_best: Tensor
) -> dict[str, np.ndarray]:
    """Who is preferred in the pool of all: what stands first, and which translation of the answer.

        a query in German; first in the ranking stands
        right_own        the German answer
        right_foreign    its translation
        wrong_own        another German passage
        wrong_foreign    another one, not German

        own_preferred    1: the German answer stands before all its translations; 0: after one

    *Shapes*: as in `language_bias` -> (Q,) each, 0 or 1; exactly one of the first four is 1.
    own_preferred is NaN without a relevant passage in the query's language and one in another.
    *Units*: at a tie wrong comes before right, then the own language before others.
    *Source*: MLAIRE (Jang et al. 2026): its four cases of a first passage; the mean of
    own_preferred is its language preference rate.
    """
    own_hit = hits.masked_fill(~is_own, -math.inf).max(1).values  # (Q, R) -> (Q,)
    foreign_hit = hits.masked_fill(is_own, -math.inf).max(1).values
    own_other, foreign_other = own_best.max(1).values, foreign_best.max(1).values  # (Q, 10) -> (Q,)
    kinds = {  # in the order in which they stand at a tie
        "wrong_own": own_other,
        "wrong_foreign": foreign_other,
        "right_own": own_hit,
        "right_foreign": foreign_hit,
    }
    first = torch.stack(list(kinds.values())).argmax(0)  # (4, Q) -> (Q,): the earlier one at a tie
    values = {}
    for number, kind in enumerate(kinds):
        values[kind] = (first == number).double().numpy()
    preferred = (own_hit >= foreign_hit).double()
    lacks_one = torch.minimum(own_hit, foreign_hit) == -math.inf
    values["own_preferred"] = preferred.masked_fill(lacks_one, math.nan).numpy()
    return values


@lru_cache  # thousands of queries have a few numbers of passages
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
    # The expected difference between the smallest and the largest of R ranks drawn from P
    distance = (passages + 1) * (relevant - 1) / (relevant + 1)
    return {
        "mAP": ap,
        "R@1": 1 / passages,  # of each relevant passage, however many there are
        "R@10": min(1.0, 10 / passages),
        "rank_distance": distance,
    }


# ---- cells: which queries meet which passages ----------------------------------------------------


# (query language, passage language) -> metric -> (n,) values of the queries of this cell
Ranked = dict[tuple[str, str], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Cell:
    """The queries of one language against one set of candidates: what a record is about."""

    view: str
    query_lang: str
    passage_lang: str  # "*": all languages
    rows: np.ndarray  # (n,) which of the split's queries

    @property
    def langs(self):
        return self.query_lang, self.passage_lang


def make_cells(query_langs, passage_langs, views=VIEWS):
    """All cells of these views. query_langs (Q,)"""
    cells = []
    for query_lang in sorted(set(query_langs.tolist())):
        rows = np.flatnonzero(query_langs == query_lang)
        for passage_lang in [*passage_langs, "*"]:
            view = "cross"
            if passage_lang == "*":
                view = "pool"
            elif passage_lang == query_lang:
                view = "mono"
            if view in views:
                cells.append(Cell(view, query_lang, passage_lang, rows))
    return cells


def column_of(pools, cell):
    """Which of attacks.py's L + 1 pools (each language's passages, then all) a cell ranks."""
    return [*pools.langs, "*"].index(cell.passage_lang)


def count_relevant(pools, cell):
    """How many of a cell's candidates are relevant to each of its queries. -> (n,)"""
    start, end = pools.start_end(cell.passage_lang)
    relevant = pools.relevant[cell.rows]  # (n, R), padded with P, which is outside
    return ((relevant >= start) & (relevant < end)).sum(1)


def missing_gains(pools, cell):
    """Relevance of passages that the corpus lacks, where they would be candidates. (n, M)

    Their language is not known: unless there is but one, they count in the pool of all alone.
    """
    if cell.passage_lang == "*" or len(pools.langs) == 1:
        return pools.missing[cell.rows]
    return torch.zeros(len(cell.rows), 0)


# ---- exact search: one pass over the passages, in blocks -----------------------------------------


@dataclass
class Counts:
    """What the ranks and the language bias of b queries in one language follow from.

    The others are the candidates that are not relevant.
    """

    hits: Tensor  # (b, R) scores of the relevant passages, -inf for the padding
    lang: Tensor  # (b, R) number of their language in pools.langs; L for the padding
    above_in_lang: Tensor  # (b, R) others of that language that score at least as high
    above_in_pool: Tensor  # (b, R) others of all languages
    own_best: Tensor  # (b, 10) best scores of others in the query's language, padded with -inf
    foreign_best: Tensor  # (b, 10) of those in other languages


def relevant_scores(q, relevant, p):
    """Scores of the relevant passages, -inf for the padding. (b, D), (b, R), (P + 1, D) -> (b, R)

    Column by column: few queries have as many relevant passages as the one that has most.
    """
    scores = torch.full(relevant.shape, -math.inf)
    for k in range(relevant.shape[1]):
        rows = (relevant[:, k] < len(p) - 1).nonzero()[:, 0]  # queries with k + 1 of them
        passages = p[relevant[rows, k]]  # (n, D)
        scores[rows, k] = (q[rows].double() * passages.double()).sum(1).float()
    return scores


def other_scores(q, p, first, excluded):
    """Scores of the passages p, rows of pools.p from `first` on; -inf for those `excluded`.

    *Shapes*: q (b, D), p (m, D), excluded (b, N) rows of pools.p -> (b, m).
    """
    scores = exact_scores(q, p)
    columns = excluded - first
    query, place = torch.nonzero((columns >= 0) & (columns < len(p)), as_tuple=True)
    scores[query, columns[query, place]] = -math.inf
    return scores


def best_ten(best, sorted_scores):
    """The ten best of the scores so far and new ones. (b, 10), (b, m) -> (b, 10)"""
    return torch.cat([best, sorted_scores[:, -10:]], dim=1).topk(10, dim=1).values


def count_others(
    q: Tensor, pools: Pools, rows: np.ndarray, langs: list[str], block: int = 1024
) -> Counts:
    """Count the others above each relevant passage, in one pass over the passages of `langs`.

        counts in a block: sort its scores, then search each relevant passage's place by bisection
        counts in a language, in the pool: the sums over their blocks

    The memory is that of a block of scores, however many passages there are.
    *Shapes*: q (b, D), rows (b,) their rows in pools; all in one language.
    """
    q = q.double()  # here and not in every block of passages
    relevant = pools.relevant[rows]  # (b, R)
    hits = relevant_scores(q, relevant, pools.p)
    lang_of = torch.bucketize(relevant, torch.tensor(pools.borders), right=True) - 1  # (b, R)
    zeros, nothing = torch.zeros_like(relevant), torch.full((len(rows), 10), -math.inf)
    counts = Counts(hits, lang_of, zeros, zeros.clone(), nothing, nothing)
    # No others: the relevant passages, and the query's own text (--no-self-hits). (b, R + 1)
    excluded = torch.cat([relevant, pools.left_out[rows, None]], dim=1)
    query_lang = int(pools.query_lang[rows[0]])
    for lang in langs:
        number, (start, end) = pools.langs.index(lang), pools.start_end(lang)
        in_lang = lang_of == number
        for first in range(start, end, block):
            passages = pools.p[first : min(first + block, end)]  # (m, D)
            scores = other_scores(q, passages, first, excluded)  # (b, m)
            scores.numpy().sort(axis=1)  # in place; torch's sort takes ten times as long
            above = len(passages) - torch.searchsorted(scores, hits)  # (b, R): scores >= hit
            counts.above_in_pool += above
            counts.above_in_lang += above * in_lang
            if number == query_lang:
                counts.own_best = best_ten(counts.own_best, scores)
            else:
                counts.foreign_best = best_ten(counts.foreign_best, scores)
    return counts


def measure_cell(counts: Counts, pools: Pools, cell: Cell) -> dict[str, np.ndarray]:
    """Metrics of a cell, whose queries are those of the counts: metric -> (b,)."""
    hits, above = counts.hits, counts.above_in_pool
    if cell.passage_lang != "*":
        is_outside = counts.lang != pools.langs.index(cell.passage_lang)
        hits, above = hits.masked_fill(is_outside, -math.inf), counts.above_in_lang
    ranks, gains = relevant_ranks(hits, above, pools.gains[cell.rows])
    never_found = missing_gains(pools, cell)
    ranks = F.pad(ranks, (0, never_found.shape[1]))  # (b, R) -> (b, R + M), rank 0
    values = measure(ranks.numpy(), torch.cat([gains, never_found], dim=1).numpy())
    if cell.view == "pool":
        is_own = counts.lang == pools.query_lang[cell.rows, None]
        values |= language_bias(hits, is_own, above, counts.own_best, counts.foreign_best)
        values |= first_passage(hits, is_own, counts.own_best, counts.foreign_best)
    return values


def all_finite(vectors):
    """Is there no NaN and nothing infinite?  (isfinite() would take as much memory again.)"""
    return all(math.isfinite(end) for end in vectors.aminmax())


def rank_cells(
    q: Tensor,
    pools: Pools,
    cells: list[Cell],
    label: str = "clean",
    query_block: int = 2048,
    passage_block: int = 1024,
) -> Ranked:
    """Rank every cell; `label` says what the queries went through.

    A query meets every passage once, whatever its cells. No block size changes a metric.
    *Shapes*: q (Q, D), all queries of the split.
    *Errors*: ValueError for vectors that are not finite: NaN compares false and would rank first.
    """
    if not (all_finite(q) and all_finite(pools.p)):
        remedy = "Take less noise, or train with a smaller --lr."
        raise ValueError(f"{label}: the encoder gave vectors that are not finite. {remedy}")
    cells_of = defaultdict(list)  # query language -> its cells, which share their rows
    for cell in cells:
        cells_of[cell.query_lang].append(cell)
    count = sum(len(of_lang[0].rows) for of_lang in cells_of.values())
    parts = {cell.langs: defaultdict(list) for cell in cells}  # metric -> its blocks
    with tqdm(total=count, desc=f"{label}: rank", delay=2, disable=None, leave=False) as bar:
        for of_lang in cells_of.values():
            rows = of_lang[0].rows
            langs = [cell.passage_lang for cell in of_lang]
            if "*" in langs:
                langs = pools.langs
            for first in range(0, len(rows), query_block):
                block = rows[first : first + query_block]
                counts = count_others(q[block], pools, block, langs, passage_block)
                for cell in of_lang:
                    values = measure_cell(counts, pools, replace(cell, rows=block))
                    for metric, column in values.items():
                        parts[cell.langs][metric].append(column)
                bar.update(len(block))
    ranked = {}
    for pair, columns_of in parts.items():
        ranked[pair] = {metric: np.concatenate(columns) for metric, columns in columns_of.items()}
    return ranked


# ---- a split, encoded once -----------------------------------------------------------------------


@dataclass
class Split:
    """One split of a data set, encoded once: what clean ranking and every attack share."""

    encoder: Encoder
    data: DataSet
    name: str
    queries: list[int]  # Q positions in data.queries
    passages: list[int]  # P positions in data.passages, sorted by language
    q: Tensor  # (Q, D)
    # pools.p (P + 1, D): the passages' vectors, and a row of 0 that the padding of pools.relevant,
    # which is P, points at
    pools: Pools
    views: Sequence[str]
    cells: list[Cell]  # of these views; one may have none (cross, where there is one language)
    clean: Ranked  # before any attack

    def query_column(self, name):
        """One field of every query, e.g. "lang". (Q,)"""
        texts = [self.data.queries[i] for i in self.queries]
        return np.array([getattr(text, name) for text in texts])


def check_split(data, split, langs):
    """Refuse, with a ValueError, a split or a language that the data set has not."""
    if split not in data.qrels:
        path, there = data.folder / "qrels" / f"{split}.tsv", sorted(data.qrels)
        fault = "none of its queries is in queries.jsonl" if path.exists() else "no such file"
        raise ValueError(f"{path}: {fault}. There is {there}.")
    known = all_langs(data)
    for lang in langs:
        if lang not in known:
            raise ValueError(f"unknown language {lang!r}: {data.folder} has {known}.")


def select_queries(
    data: DataSet, split: str, langs: list[str], limit: int = 0, form: str = ""
) -> list[int]:
    """Positions of a split's queries in these languages, sorted.

    limit: only those of the first `limit` groups by name; 0: all. form: only those of this form.
    *Errors*: ValueError for a split, a language or a form that the data has not.
    """
    check_split(data, split, langs)
    queries = [i for i in sorted(data.qrels[split]) if data.queries[i].lang in langs]
    if form:
        forms = sorted({data.queries[i].form for i in queries})
        queries = [i for i in queries if data.queries[i].form == form]
        if not queries:
            raise ValueError(f"--form {form!r}: no query of {data.folder} is. There are {forms}.")
    if limit:
        groups = sorted({data.queries[i].group for i in queries})
        first_groups = set(groups[:limit])
        queries = [i for i in queries if data.queries[i].group in first_groups]
    return queries


def encode_split(
    encoder: Encoder,
    data: DataSet,
    split: str,
    queries: list[int],
    langs: list[str],
    views=VIEWS,
    self_hits: bool = True,
    store: VectorStore | None = None,
) -> Split:
    """Encode queries of a split and all passages in these languages; rank.

    Without `self_hits`, a passage that has a query's id is no candidate for that query. What the
    store has is read, not encoded.
    *Errors*: ValueError without queries or passages, or vectors not finite.
    """
    passages = [i for i, passage in enumerate(data.passages) if passage.lang in langs]
    # SUBTLE: the order of make_pools, so that passages[i] is row i of pools.p (`write_trec`)
    passages.sort(key=lambda i: data.passages[i].lang)
    if not queries or not passages:
        raise ValueError(f"{data.folder}, {split}: no query or no passage in {langs}. Add --langs.")
    q = encoder.encode([data.queries[i] for i in queries], "query", "queries", store)
    p = encoder.encode([data.passages[i] for i in passages], "passage", "passages", store)
    pools = attacks.make_pools(p, data, queries, passages, split, self_hits)
    query_langs = np.array([data.queries[i].lang for i in queries])
    cells = make_cells(query_langs, pools.langs, views)
    for view in views:
        if not any(cell.view == view for cell in cells):
            print(f"--views {view}: nothing to rank in the languages {langs}", file=sys.stderr)
    clean = rank_cells(q, pools, cells)
    return Split(encoder, data, split, queries, passages, q, pools, views, cells, clean)


def chance_of_query(passages, found, lost):
    """`chance` of a query with `found` relevant candidates and `lost` relevant passages elsewhere.

    A lost one counts as never found. {} if there are neither: the query has no metrics. As in
    `measure`, there is no rank distance with fewer than two candidates that are relevant.
    """
    if found + lost == 0:
        return {}
    if found == 0:
        return {"mAP": 0.0, "R@1": 0.0, "R@10": 0.0}
    luck, share = chance(passages, found), found / (found + lost)
    shares = {metric: luck[metric] * share for metric in ("mAP", "R@1", "R@10")}
    if found > 1:
        shares["rank_distance"] = luck["rank_distance"]
    return shares


def chance_of_views(pools, cells):
    """Expected metrics of a random ranking, averaged over the queries of each view."""
    values = {view: defaultdict(list) for view in VIEWS}  # view -> metric -> one value a query
    for cell in cells:
        start, end = pools.start_end(cell.passage_lang)
        left_out = pools.left_out[cell.rows]  # (n,) row of the query's own text, P for none
        passages = end - start - ((left_out >= start) & (left_out < end)).int()  # (n,)
        found = count_relevant(pools, cell)  # (n,)
        lost = (missing_gains(pools, cell) > 0).sum(1)  # (n,)
        counts = zip(passages.tolist(), found.tolist(), lost.tolist(), strict=True)
        for query_passages, query_found, query_lost in counts:
            luck = chance_of_query(query_passages, query_found, query_lost)
            for metric, value in luck.items():
                values[cell.view][metric].append(value)
    means = {}
    for view, metrics in values.items():
        means[view] = {metric: sum(column) / len(column) for metric, column in metrics.items()}
    return means


def main_directions(vectors, mean, r):
    """The first r eigenvectors of X^T X, X (N, D) the vectors minus `mean`, (D,) or 0. (D, r)

    r = 0, which is centring alone, gives (D, 0): nothing to take out.
    """
    size = vectors.shape[1]
    squares = torch.zeros(size, size, dtype=torch.float64)
    for block in vectors.split(8192):
        rest = block.double() - mean
        squares += rest.T @ rest  # (D, N) @ (N, D) -> (D, D)
    # X^T X is symmetric: its singular vectors are its eigenvectors, the largest value first
    return torch.linalg.svd(squares)[0][:, :r]


def unit_or_zero(vectors):
    """Vectors of length 1. Those shorter than NO_LENGTH become 0: all scores of such a query tie.

    *Shapes*: (N, D) -> (N, D).
    """
    lengths = vectors.norm(dim=1, keepdim=True)  # (N, 1)
    return F.normalize(vectors, dim=1).masked_fill(lengths < NO_LENGTH, 0).float()


def take_out(vectors, mean, c):
    """Vectors without mean (D,) and directions c (D, r), of length 1 again. (N, D)"""
    rest = vectors.double() - mean
    return unit_or_zero(rest - rest @ c @ c.T)


def remove_language(
    q: Tensor, pools: Pools, r: int = 0, centred: bool = False
) -> tuple[Tensor, Pools]:
    """Take out of each language's vectors what they have in common, then normalise again.

        LIR          e <- e - C C^T e     C (D, r): the first r eigenvectors of X^T X,
        centring     e <- e - m           m (D,): the mean of X

    X (P, D) are the passages of one language. Nothing is trained and no label is read. Queries in a
    language without passages keep their direction.
    *Shapes*: q (Q, D).
    *Errors*: ValueError for r >= D, which leaves nothing.
    *Source*: LIR: Yang et al. 2021, section 3; they fit C on other text, here it is the pool
    itself. Centring: Shift, 2026. With both, C is fitted after the mean is out.
    """
    size = q.shape[1]
    if r >= size:
        raise ValueError(f"--lir {r}: vectors have {size} directions. Take {size - 1} at most.")
    new_q = unit_or_zero(q.double())
    new_p = torch.zeros(pools.p.shape)  # (P + 1, D), its last row stays 0
    for i, lang in enumerate(pools.langs):
        start, end = pools.start_end(lang)
        mean = torch.zeros(size, dtype=torch.float64)
        if centred:
            mean = pools.p[start:end].mean(0, dtype=torch.float64)
        c = main_directions(pools.p[start:end], mean, r)
        for rows in torch.arange(start, end).split(8192):
            new_p[rows] = take_out(pools.p[rows], mean, c)
        queries = torch.nonzero(pools.query_lang == i)[:, 0]
        new_q[queries] = take_out(q[queries], mean, c)
    return new_q, replace(pools, p=new_p)


# ---- records: what metrics.json holds ------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What the queries went through before they were ranked; its fields stand in every record."""

    attack: str = "clean"
    settings: tuple = ()  # (key, value) pairs that differ from the attack's defaults
    control: bool = False  # at random, with as many edits or noise of the same norm
    attack_seed: int = 0
    # What `remove_language` took out of the vectors; the attack is "clean" then
    lir: int = 0
    centred: bool = False

    @property
    def without_language(self) -> bool:
        return self.lir > 0 or self.centred

    def fields(self) -> dict:
        return asdict(self) | {"settings": dict(self.settings)}

    @property
    def label(self) -> str:
        """For people: "clean", "greedy:edits=2, control", "LIR r=1"."""
        if self.lir:
            return f"LIR r={self.lir}"
        if self.centred:
            return "centring"
        text = self.attack
        if self.settings:
            text += ":" + attacks.settings_text(dict(self.settings))
        if self.control:
            text += ", control"
        if self.attack_seed:
            text += f", attack seed {self.attack_seed}"
        return text


CLEAN = Condition()


def condition_of(record: dict) -> Condition:
    """The condition that a record's fields tell."""
    settings = tuple(record["settings"].items())
    names = ("attack", "control", "attack_seed", "lir")
    told = {name: record[name] for name in names}
    centred = record.get("centred", False)  # older files do not say
    return Condition(settings=settings, centred=centred, **told)


def conditions_of(records: list[dict]) -> list[Condition]:
    """Every condition once, in the order of the records."""
    return list(dict.fromkeys(condition_of(record) for record in records))


def array_name(condition, view, metric):
    """The name of an array in metrics.npz."""
    return f"{condition.label}|{view}|{metric}"


def nan_mean(values):
    """The mean of what is not NaN, to six decimals; None where nothing is left."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    return round(float(values.mean()), 6)


def make_record(condition, cell, values):
    """Means over a cell's queries; those without a relevant passage there are n_left_out.

    *Shapes*: values: metric -> (n,).
    """
    valid = ~np.isnan(values["R@1"])
    record = condition.fields() | {
        "view": cell.view,
        "query_lang": cell.query_lang,
        "passage_lang": cell.passage_lang,
        "n_queries": int(valid.sum()),
        "n_left_out": int((~valid).sum()),
    }
    for metric in (*METRICS, *IN_POOL):
        if metric in values:
            record[metric] = nan_mean(values[metric][valid])
    return record


def single_queries(split, condition, views, ranked):
    """Metrics of every single query, for metrics.npz; in cross the mean over passage languages.

    *Shapes*: -> array_name -> (Q,), NaN where nothing is relevant.
    """
    arrays = {}
    for view in views:
        for metric in KEPT:
            total, terms = np.zeros(len(split.queries)), np.zeros(len(split.queries))
            for cell in split.cells:
                if cell.view != view:
                    continue
                values = ranked[cell.langs][metric]
                real = ~np.isnan(values)
                total[cell.rows[real]] += values[real]
                terms[cell.rows[real]] += 1
            with np.errstate(invalid="ignore"):
                mean = total / terms  # 0 / 0 -> NaN
            arrays[array_name(condition, view, metric)] = mean.astype(np.float32)
    return arrays


@dataclass
class Results:
    """What an evaluation has so far: the parts of metrics.json and metrics.npz that grow."""

    records: list[dict] = field(default_factory=list)
    examples: list[dict] = field(default_factory=list)  # attacked queries, for people
    arrays: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (Q,)

    def add(self, more: "Results") -> None:
        self.records += more.records
        self.examples += more.examples
        self.arrays |= more.arrays


# ---- under attack --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What to evaluate: the flags of evaluate.py; train.py fills them in by itself."""

    split: str = "test"
    langs: list[str] | None = None  # None: all
    limit: int = 0
    form: str = ""  # none: queries of all forms
    views: Sequence[str] = VIEWS
    lir: Sequence[int] = ()
    centre: bool = False
    attacks: Sequence[Attack] = ()
    attack_views: Sequence[str] = ()  # none: all of `views`
    attack_seed: int = 0
    table: Sequence[str] = ()  # texts such as "de=FILE", or "neighbours"
    protect: Path | None = None
    show: int = 0
    attack_out: Path | None = None
    trec: Path | None = None
    no_self_hits: bool = False
    precision: str = "fp32"  # of the encoder's forward pass
    cache: Path | None = None  # folder of the vectors of passages and clean queries

    def condition(self, attack: Attack) -> Condition:
        settings = tuple(attack.settings.items())
        return Condition(attack.name, settings, attack_seed=self.attack_seed)

    @property
    def without_language(self) -> list[Condition]:
        """The conditions in which `remove_language` takes something out of the vectors."""
        conditions = [Condition(lir=r) for r in self.lir]
        if self.centre:
            conditions.append(Condition(centred=True))
        return conditions

    @property
    def attacked_views(self) -> list[str]:
        """Those of `attack_views` that are among `views`, each once."""
        attacked = self.attack_views or self.views
        return [view for view in self.views if view in attacked]


@dataclass(frozen=True)
class Adversary:
    """What to evaluate (`options`, also where nothing is attacked) and the attacks' word lists."""

    options: Options
    tables: dict[str, dict]  # source of replacements -> lang -> word -> replacements
    fixed: frozenset[str]  # words that nobody replaces

    def table_of(self, attack):
        return self.tables.get(attack.kind.source, {})

    def hash_of(self, attack):
        """Eight digits for the table and the protected words that an attack uses."""
        content = json.dumps([self.table_of(attack), sorted(self.fixed)])
        return hashlib.sha256(content.encode()).hexdigest()[:8]


def open_adversary(options: Options, data: DataSet, encoder: Encoder | None) -> Adversary:
    """Open the tables that the attacks need; without encoder only to see whether all is there.

    *Errors*: ValueError for a table that is missing or broken.
    """
    sources = {attack.kind.source for attack in options.attacks}
    tables = {}
    if "synonyms" in sources:
        if list(options.table) == ["neighbours"]:
            if encoder is not None:
                tables["synonyms"] = attacks.neighbours(encoder, data.queries)
        else:
            files = []
            for text in options.table:
                lang, _, file = text.partition("=")
                files.append((lang, Path(file)))
            tables["synonyms"] = attacks.read_synonyms(
                data.folder, attacks.one_file_a_language(files)
            )
    if "dictionary" in sources:
        tables["dictionary"] = attacks.read_dictionary(data.folder / "dictionary.tsv")
    fixed = set()
    if options.protect:
        for _, line in read_lines(options.protect):
            # Words are compared in lower case, and Turkish has one of its own
            fixed.add(attacks.lower(line.strip()))
            fixed.add(attacks.lower(line.strip(), "tr"))
    return Adversary(options, tables, frozenset(fixed))


def make_targets(split, adversary, attack, views, table):
    """A target, an AttackedQuery of attacks.py, for every query in each view, not yet attacked.

    *Shapes*: table: lang -> word -> replacements.
    """
    seed, fixed = adversary.options.attack_seed, adversary.fixed
    return attacks.make_attacked(split.data, split.queries, views, attack, table, seed, fixed)


def changes_text(attack):
    """Does it work on words (`identity`, too)? If not, --attack-out has nothing to write."""
    return attack.kind.source != "embeddings" and attack.kind.search != "vote"


def warn_of_limits(split, attack, condition, table, options):
    """Say on stderr which queries an attack cannot reach, and that --attack-out stays empty."""
    counts = Counter(split.query_column("lang").tolist())
    left = [f"{counts[lang]} {lang}" for lang in sorted(counts) if lang not in table]
    if attack.kind.source in ("synonyms", "dictionary") and left:
        queries = ", ".join(left)
        text = f"no table (--table LANG=FILE), so not attacked: {queries} queries"
        print(f"{condition.label}: {text}", file=sys.stderr)
    if options.attack_out and not changes_text(attack):
        text = "changes no text, so --attack-out has nothing to write"
        print(f"{condition.label}: {text}", file=sys.stderr)


def success_counts(targets, before, after):
    """What an attack did to a cell; queries without a relevant passage there do not count.

    n_right: attacked queries that were right at rank 1 before, the denominator of n_broken. A query
    with nothing to replace is not among them.
    *Shapes*: R@1 before and after (n,). *Units*: edits, norm and calls are means a query.
    """
    valid = ~np.isnan(before)
    targets = [target for target, real in zip(targets, valid, strict=True) if real]
    attacked = np.array([target.attacked for target in targets], dtype=bool)
    right = (before[valid] > 0) & attacked
    broken = right & ~(after[valid] > 0)
    count = max(1, len(targets))
    return {
        "n_attacked": int(attacked.sum()),
        "n_changed": sum(target.changed for target in targets),
        "n_right": int(right.sum()),
        "n_broken": int(broken.sum()),
        "edits": round(sum(len(target.edits) for target in targets) / count, 4),
        "norm": round(sum(target.norm for target in targets) / count, 4),
        "calls": round(sum(len(target.asked) for target in targets) / count, 2),
    }


def certified_counts(targets, before, column):
    """certified R@1: the right answers that an exhaustive search found no way to break.

    *Shapes*: R@1 before (n,); column of the candidates in a target's worst margins (L + 1,).
    """
    safe = []
    for target in targets:
        # (Of a query with nothing to replace, attacks.py says that the clean margin is its worst)
        # SUBTLE: NaN, where all candidates are relevant: no margin, nothing to break, and not <= 0
        safe.append(target.worst is not None and not bool(target.worst[column] <= 0))
    kept = np.where(safe, before, before * 0)  # NaN stays NaN: nothing is relevant
    return {
        "certified R@1": nan_mean(kept),
        "n_exhaustive": sum(targets[i].exhaustive for i in np.flatnonzero(~np.isnan(before))),
    }


def edit_list(target):
    """The edits as JSON holds them: [[start, end, replacement], ...]."""
    return [[start, end, other] for (start, end), other in sorted(target.edits.items())]


def deepest_fall(condition, cell, targets, before, after):
    """An example for people: of the broken queries with the fewest edits the one that falls most.

    *Shapes*: before, after: metric -> (n,).
    """
    fallen = []  # (edits, minus the rank after, place in the cell)
    for i, target in enumerate(targets):
        rank_after = after["first_rank"][i]
        if target.edits and before["first_rank"][i] == 1 and rank_after > 1:
            fallen.append((len(target.edits), -int(rank_after), i))
    if not fallen:
        return []
    _, minus_rank, i = min(fallen)
    target = targets[i]
    example = condition.fields() | {"view": cell.view, "lang": cell.query_lang}
    example |= {
        "id": target.source.id,
        "text": target.source.text,
        "edits": edit_list(target),
        "answer": target.source.answer,
        "before": 1,
        "after": -minus_rank,
    }
    return [example]


def rank_attacked(split, targets, v, condition):
    """Rank attacked queries, view by view. In cross a query has one text against all languages.

    *Shapes*: v (targets, D); the targets of a view stand in the order of the split's queries.
    """
    results = Results()
    for view in dict.fromkeys(target.view for target in targets):
        positions = [i for i, target in enumerate(targets) if target.view == view]
        cells = [cell for cell in split.cells if cell.view == view]
        ranked = rank_cells(v[positions], split.pools, cells, condition.label)
        results.arrays |= single_queries(split, condition, [view], ranked)
        for cell in cells:
            of_cell = [targets[positions[row]] for row in cell.rows]
            before, after = split.clean[cell.langs], ranked[cell.langs]
            record = make_record(condition, cell, after)
            record |= success_counts(of_cell, before["R@1"], after["R@1"])
            if any(target.worst is not None for target in of_cell):
                column = column_of(split.pools, cell)
                record |= certified_counts(of_cell, before["R@1"], column)
            results.records.append(record)
            if view == "pool" and not condition.control:
                results.examples += deepest_fall(condition, cell, of_cell, before, after)
    return results


def vote_split(split, adversary, attack, condition):
    """The smoothed retriever: R@1 of its majority answer, and the part of it that is certified."""
    closed = {}
    for lang, table in adversary.table_of(attack).items():
        cut = {word: others[: attack.k] for word, others in table.items()}
        closed[lang] = attacks.close_table(cut, lang)
    targets = make_targets(split, adversary, attack, ["pool"], closed)
    seed = adversary.options.attack_seed
    votes = attacks.smoothed(split.encoder, split.pools, targets, closed, attack, seed)
    right_votes, safe_votes = votes.numpy().transpose(1, 0, 2)  # (Q, 2, L + 1) -> 2 x (Q, L + 1)
    results, table_hash = Results(), adversary.hash_of(attack)
    for cell in split.cells:
        if cell.view not in adversary.options.attacked_views:
            continue
        lost = missing_gains(split.pools, cell) > 0  # (n, M)
        relevant = (count_relevant(split.pools, cell) + lost.sum(1)).numpy()  # (n,)
        # R@1 of a right answer: 1 / (number of relevant passages), as in every other record
        share = 1 / np.where(relevant > 0, relevant, np.nan)
        column = column_of(split.pools, cell)
        # The vote is on the first rank alone
        values = dict.fromkeys(METRICS, np.full(len(cell.rows), np.nan))
        values["R@1"] = right_votes[cell.rows, column] * share
        record = make_record(condition, cell, values)
        record["certified R@1"] = nan_mean(safe_votes[cell.rows, column] * share)
        record["n_attacked"] = sum(targets[row].attacked for row in cell.rows[relevant > 0])
        record["table"] = table_hash
        results.records.append(record)
    return results


def marked(target):
    """The query with its changed words as [old→new]."""
    text = target.source.text
    edits = {}
    for (start, end), other in target.edits.items():
        edits[start, end] = f"[{text[start:end]}→{other}]"
    return attacks.substitute(text, edits)


def folder_name(condition):
    """A condition as part of a file's name."""
    return re.sub(r"[^\w.=,-]+", "_", condition.label)


def judgements_of(data, split, query):
    """(id of a relevant passage, relevance): also those that the corpus lacks."""
    relevant = data.qrels[split][query]
    present = [(data.passages[passage].id, gain) for passage, gain in relevant.items()]
    missing = data.missing.get(split, {}).get(query, {})
    return [*present, *missing.items()]


def frozen_folder(options, condition, view):
    """Where the attacked queries of a condition and view are written."""
    return options.attack_out / f"{folder_name(condition)}-{view}"


def describe_frozen(encoder, data, adversary, attack, view):
    """What attack.json says: all that the attacked queries depend on."""
    options = adversary.options
    hashes = {"data_sha256": data.sha256, "model_sha256": weights_hash(encoder)}
    about = {"view": view, "split": options.split, "table": adversary.hash_of(attack)}
    about |= {"langs": sorted(options.langs or all_langs(data)), "limit": options.limit}
    about |= {"precision": encoder.precision, "form": options.form}
    about |= {"encoder": vars(encoder.settings), "no_self_hits": options.no_self_hits}
    about |= encoder_hashes(encoder)
    return options.condition(attack).fields() | about | hashes


def check_frozen(encoder, data, adversary):
    """Before the work: does --attack-out hold other queries, which would be lost?

    *Errors*: ValueError for a folder of another model, data set or attack, or of something else.
    """
    options = adversary.options
    for attack in filter(changes_text, options.attacks):
        for view in options.attacked_views:
            folder = frozen_folder(options, options.condition(attack), view)
            if not folder.exists():
                continue
            names = {path.name for path in folder.iterdir()}
            if names <= {"attack.json.tmp"}:  # what an evaluation killed in that moment leaves
                continue
            text = f"{folder}: there are files that are no attacked queries"
            if not (folder / "attack.json").exists():
                raise ValueError(f"{text}. Give another --attack-out.")
            old = BEFORE | read_record(folder / "attack.json", "Give another --attack-out.")
            for key, value in describe_frozen(encoder, data, adversary, attack, view).items():
                if key not in old:
                    text = f"{folder}: attack.json does not say its {key}: an older evaluate.py's"
                    raise ValueError(f"{text}. Give another --attack-out.")
                if old[key] != value:
                    text = f"{folder}: holds queries of another {key} ({old[key]})"
                    raise ValueError(f"{text[:200]}. Give another --attack-out.")


def freeze(folder, split, targets, described):
    """Write attacked queries as a data set folder that --data opens (all passages), attack.json.

    queries.jsonl keeps what paired comparisons need beside the attacked text: the clean one, the
    edits, and how many words could have been changed (slots; without any it was not attacked).
    """
    write_record(folder / "attack.json", described)  # first: from now on the folder is known
    data = split.data
    with written_aside(folder / "corpus.jsonl") as aside:
        shutil.copyfile(data.folder / "corpus.jsonl", aside)
    lines, qrels = [], ["query-id\tcorpus-id\tscore\n"]
    for query, target in zip(split.queries, targets, strict=True):
        source = target.source
        row = {"_id": source.id, "lang": source.lang, "text": target.text, "group": source.group}
        row |= {"answer": source.answer, "form": source.form, "clean": source.text}
        row |= {"slots": len(target.slots), "edits": edit_list(target)}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        judgements = judgements_of(data, split.name, query)
        if not judgements:  # judged, and nothing is relevant: it stays in the split
            judgements = [(data.passages[0].id, 0)]
        for passage, relevance in judgements:
            score = str(relevance).removesuffix(".0")  # all digits: 0.12345678, 1
            qrels.append(f"{source.id}\t{passage}\t{score}\n")
    write_file(folder / "queries.jsonl", "".join(lines))
    write_file(folder / "qrels" / f"{split.name}.tsv", "".join(qrels))  # last: without, no data set


def attack_split(split, adversary, attack):
    """One attack and its control: queries -> perturbed queries -> vectors -> ranks -> records."""
    options = adversary.options
    condition, views = options.condition(attack), options.attacked_views
    if not views:
        print(f"{condition.label}: none of --attack-views is among --views", file=sys.stderr)
        return Results()
    table = adversary.table_of(attack)
    warn_of_limits(split, attack, condition, table, options)
    if attack.kind.search == "vote":
        return vote_split(split, adversary, attack, condition)
    targets = make_targets(split, adversary, attack, views, table)
    seed, bar = options.attack_seed, condition.label  # which names a progress bar
    v = attacks.attack_queries(targets, split.encoder, split.pools, attack, seed, bar)
    results = rank_attacked(split, targets, v, condition)
    for view in views:
        in_view = [target for target in targets if target.view == view]
        if options.attack_out and changes_text(attack):
            described = describe_frozen(split.encoder, split.data, adversary, attack, view)
            freeze(frozen_folder(options, condition, view), split, in_view, described)
        shown = [target for target in in_view if target.changed and target.edits]
        for target in shown[: options.show]:
            print(f"{condition.label} {view} {target.source.id}: {marked(target)}")
    if attack.has_control:
        controls = make_targets(split, adversary, attack, views, table)
        v = attacks.control_queries(controls, targets, split.encoder, attack, seed, bar)
        results.add(rank_attacked(split, controls, v, replace(condition, control=True)))
    table_hash = adversary.hash_of(attack)
    for record in results.records:
        record["table"] = table_hash
    return results


# ---- one encoder, one split ----------------------------------------------------------------------


def check_whole_relevances(data, split):
    """Refuse, with a ValueError, relevances that trec_eval would cut to whole numbers."""
    for query in data.qrels.get(split, {}):
        for passage, relevance in judgements_of(data, split, query):
            if relevance != int(relevance):
                pair = f"{data.queries[query].id!r}, {passage!r}"
                remedy = "trec_eval reads whole numbers. Multiply the scores"
                raise ValueError(f"--trec: {relevance:g} is the score of {pair}; {remedy}.")


def score_rows(q, p, most=2**24):
    """Yield the scores of one query after the other, (P,), computed for a few queries at once.

    In memory are at most `most` scores, 64 MB, and those of the block before.
    """
    for q_block in q.split(max(1, min(512, most // len(p)))):
        scores = torch.empty(len(q_block), len(p))  # (b, P)
        for first in range(0, len(p), 2048):
            passages = p[first : first + 2048]  # (m, D)
            scores[:, first : first + 2048] = exact_scores(q_block, passages)
        yield from scores.numpy()


def best_first(scores, place, depth):
    """The best `depth` columns, by (-score, place). (P,), (P,) -> (depth,)"""
    columns = np.arange(len(scores))
    if len(scores) > depth:  # only those that are as good as the last one have to be sorted
        least = np.partition(scores, -depth)[-depth]
        columns = np.flatnonzero(scores >= least)
    order = np.lexsort((place[columns], -scores[columns]))
    return columns[order][:depth]


def write_trec(folder, split, depth=1000):
    """Write run.trec (the best `depth` passages, by (-score, id)) and qrels.trec for trec_eval.

    *Errors*: ValueError for an id with blanks: the format separates by them.
    """
    data = split.data
    ids = np.array([data.passages[i].id for i in split.passages])
    names = [data.queries[i].id for i in split.queries]
    for name in (*ids.tolist(), *names):
        if len(name.split()) != 1:
            raise ValueError(f"--trec: the id {name!r} holds blanks. Rename it.")
    place = np.argsort(np.argsort(ids))  # a number that orders like the id
    unix = {"encoding": "utf-8", "newline": "\n"}
    with written_aside(folder / "run.trec") as aside, open(aside, "w", **unix) as run:
        left_out = split.pools.left_out.tolist()
        rows = score_rows(split.q, split.pools.p[:-1])
        for name, own, scores in zip(names, left_out, rows, strict=True):
            order = best_first(scores, place, depth + 1)
            order = order[order != own][:depth]
            ranked = enumerate(order, 1)
            run.writelines(f"{name} Q0 {ids[i]} {k} {scores[i]:.9g} xlt\n" for k, i in ranked)
    outside = {passage.id for passage in data.passages} - set(ids.tolist())  # of other --langs
    with written_aside(folder / "qrels.trec") as aside, open(aside, "w", **unix) as out:
        for name, query in zip(names, split.queries, strict=True):
            for passage, relevance in judgements_of(data, split.name, query):
                if passage not in outside:
                    out.write(f"{name} 0 {passage} {int(relevance)}\n")


def identity(encoder, data, options):
    """What a metrics.json is about: results of anything else do not belong into it."""
    return {
        "model_sha256": weights_hash(encoder),
        **encoder_hashes(encoder),
        "settings": vars(encoder.settings),
        "data": str(data.folder),
        "data_sha256": data.sha256,
        "split": options.split,
        "langs": sorted(options.langs or all_langs(data)),
        "limit": options.limit,
        "form": options.form,
        "no_self_hits": options.no_self_hits,
        "precision": encoder.precision,
    }


def rank_unattacked(split, condition, ranked):
    """The queries as they are: records and single queries."""
    records = [make_record(condition, cell, ranked[cell.langs]) for cell in split.cells]
    return Results(records, [], single_queries(split, condition, split.views, ranked))


def evaluate(
    encoder: Encoder, data: DataSet, adversary: Adversary
) -> tuple[dict, dict[str, np.ndarray]]:
    """Everything that metrics.json holds, but the names of model and run; and metrics.npz."""
    options = adversary.options
    encoder.texts_cut.clear()
    encoder.texts_seen.clear()
    langs = options.langs or all_langs(data)
    if options.trec:
        check_whole_relevances(data, options.split)
    store = None
    if options.cache:
        store = VectorStore(options.cache, encoder)
    self_hits = not options.no_self_hits
    queries = select_queries(data, options.split, langs, options.limit, options.form)
    split = encode_split(
        encoder, data, options.split, queries, langs, options.views, self_hits, store
    )
    if options.trec:
        write_trec(options.trec, split)
    truncated = truncated_texts(encoder)  # before attacks encode other texts
    results = Results()
    for name in ("id", "group", "lang"):
        results.arrays[name] = split.query_column(name)
    results.add(rank_unattacked(split, CLEAN, split.clean))
    for condition in options.without_language:
        cleaned = remove_language(split.q, split.pools, condition.lir, condition.centred)
        ranked = rank_cells(*cleaned, split.cells, condition.label)
        results.add(rank_unattacked(split, condition, ranked))
    for attack in options.attacks:
        results.add(attack_split(split, adversary, attack))
    shares = {}  # of the pool: what a ranking that is blind to language would show
    for lang in split.pools.langs:
        start, end = split.pools.start_end(lang)
        shares[lang] = round((end - start) / len(split.passages), 6)
    metrics = identity(encoder, data, options) | {
        "n_queries": len(split.queries),
        "n_passages": len(split.passages),
        "ties": TIES,
        "versions": versions(),
        "dropped": data.dropped,
        "left_out": data.left_out.counts,
        "truncated": truncated,
        "chance": chance_of_views(split.pools, split.cells),
        "own_share": shares,
        "examples": results.examples,
        "results": results.records,
    }
    return metrics, results.arrays


# ---- files ---------------------------------------------------------------------------------------


@dataclass
class Evaluated:
    """The content of one metrics.json, and where it lies."""

    metrics: dict
    path: Path | None = None  # of metrics.json; None: not written
    run: Path | None = None  # the folder of train.py's run, if the model is one


def read_metrics(path: Path) -> dict:
    """A metrics.json, as it was written.

    *Errors*: ValueError for a file that is damaged, or of a much older evaluate.py.
    """
    return BEFORE | read_record(path, "Delete it and evaluate once more.")


def read_evaluated(folder: Path, name: str = "metrics.json") -> Evaluated:
    """Read what an earlier evaluation left in a folder.

    *Errors*: ValueError without that file.
    """
    path, run = folder / name, None
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Evaluate {folder} first: python evaluate.py.")
    if (folder / "run.json").exists():
        run = folder
    return Evaluated(read_metrics(path), path, run)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz file; plain numbers and strings, nothing that opening it would run.

    *Errors*: ValueError for a file that is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            # Each array has a checksum, their list has none: it ends with their number
            if len(file.files) != int.from_bytes(path.read_bytes()[-12:-10], "little"):
                raise ValueError("an array is missing")
            return {name: file[name] for name in file.files}
    # A damaged zip file ends in ten kinds of exceptions
    except Exception as error:  # noqa: BLE001
        remedy = "Delete it and evaluate once more."
        raise ValueError(f"{path}: does not open ({str(error)[:100]}). {remedy}") from None


def read_manifest(folder: Path) -> dict:
    """run.json of a run of train.py, complete or not.

    *Errors*: ValueError for a file that is damaged, or of another program.
    """
    return read_record(folder / "run.json", "Give another folder, or delete this one.")


def metrics_name(data, run_data_sha256, split):
    """metrics.json for the test split of the data that a run is about, else a name that says so."""
    if split == "test" and data.sha256 == run_data_sha256:
        return "metrics.json"
    return f"metrics-{data.folder.resolve().name}-{split}.json"


def metrics_file(out, data, run_data_sha256, split):
    """Where results go: into a file of the same data, also if these had another name then."""
    file = out / metrics_name(data, run_data_sha256, split)
    if file.exists() or file.name == "metrics.json":
        return file
    for other in sorted(out.glob(f"metrics-*-{split}.json")):
        if read_metrics(other)["data_sha256"] == data.sha256:
            return other
    return file


def check_same(path, new):
    """The content of a metrics.json, or {} if there is none.

    *Errors*: ValueError if it is about another model, data set, split, setting or languages.
    """
    if not path.exists():
        return {}
    old = read_metrics(path)
    for key in IDENTITY:
        if old[key] != new[key]:
            was = f"another {key} ({old.get(key)})"
            raise ValueError(f"{path}: holds results of {was}. Give another --out.")
    return old


def record_key(record):
    """What makes two records the same measurement."""
    cell = record["view"], record.get("query_lang"), record.get("passage_lang")
    return condition_of(record), *cell


def add_metrics(path, new, arrays):
    """Write metrics.json and metrics.npz, or add to them: other attacks and views stay."""
    old = check_same(path, new)
    merged = {record_key(record): record for record in old.get("results", [])}
    merged |= {record_key(record): record for record in new["results"]}
    measured = {(condition_of(record), record["view"]) for record in new["results"]}
    examples = []  # old ones, of what was not measured again
    for example in old.get("examples", []):
        if (condition_of(example), example["view"]) not in measured:
            examples.append(example)
    new["results"], new["examples"] = list(merged.values()), examples + new["examples"]
    for view, metrics in old.get("chance", {}).items():
        if not new["chance"][view]:  # not among these --views
            new["chance"][view] = metrics
    beside = path.with_suffix(".npz")
    if old and beside.exists():
        arrays = read_arrays(beside) | arrays
    with written_aside(beside) as aside, open(aside, "wb") as out:
        np.savez_compressed(out, **arrays)
    write_record(path, new)
    return new


def is_measured(path, old, condition, views):
    """Does this metrics.json hold a condition in these views already, single queries included?"""
    beside = path.with_suffix(".npz")
    if not old or not beside.exists():
        return False
    recorded = {record["view"] for record in old["results"] if condition_of(record) == condition}
    kind, kept = attacks.ATTACKS.get(condition.attack), condition
    if kind is not None and kind.search == "vote":
        kept = CLEAN  # a vote is on one rank, without single queries: what was there to rank?
    arrays = read_arrays(beside)
    for view in views:
        values = arrays.get(array_name(kept, view, KEPT[0]))
        if values is None:
            return False
        # English alone has no cross; else the last evaluation was killed between the two files
        if view not in recorded and not np.isnan(values).all():
            return False
    return True


# ---- tables --------------------------------------------------------------------------------------


def number(value: float | None, metric: str = "") -> str:
    """A number as all tables print it: .463, -.012, 1496 for a rank distance, "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = DIGITS.get(metric, 3)
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-.000"
    return re.sub(r"^(-?)0\.", r"\1.", text)  # SUBTLE: replace("0.", ".") turns 10.5 into 1.5


def markdown_table(rows: list[list[str]]) -> str:
    """Rows of cells, the head first -> a Markdown table with aligned columns."""
    head, *rest = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rest]
    widths = []
    for column in zip(*lines, strict=True):
        widths.append(max(len(cell) for cell in column))
    texts = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        texts.append("| " + " | ".join(cells) + " |")
    return "\n".join(texts)


def model_name(metrics):
    """How the table calls an encoder: its recipe and seed, or its path."""
    if metrics["seed"] is None:
        return metrics["recipe"]
    return f"{metrics['recipe']} {metrics['seed']}"


def mean_of(records, key):
    """The mean over those records that have it."""
    values = [record[key] for record in records if record.get(key) is not None]
    return sum(values) / len(values) if values else None


def attack_cells(records):
    """What an attack did in one view, from "broken of right" to "least changed"."""
    if "n_broken" not in records[0]:
        return ["-"] * 5
    right = sum(record["n_right"] for record in records)
    broken = sum(record["n_broken"] for record in records)
    spared = sum(record["n_queries"] - record["n_attacked"] for record in records)
    changed = {}
    for record in records:
        if record["n_queries"]:  # 0: nothing is relevant there
            share = record["n_changed"] / record["n_queries"]
            lang = record["query_lang"]
            changed[lang] = min(share, changed.get(lang, 1.0))  # in cross it has ten records
    least_changed = "-"
    if changed:
        least = min(changed, key=changed.get)
        least_changed = f"{least} {number(changed[least])}"
    sizes = [number(mean_of(records, key)) for key in ("edits", "norm")]
    return [f"{broken} of {right}", *sizes, str(spared), least_changed]


def results_table(evaluated):
    """A Markdown table: one row an encoder, condition and view; a random ranking below.

    *Units*: means over query languages (and passage languages, in cross); broken: of the queries
    that were right before an attack, in cross once for each passage language. `least changed` is
    the smallest share of really changed queries in a language, so that none passes for robust.
    """
    head = ["model", "condition", "view", *(metric.replace("_", " ") for metric in METRICS)]
    head += ["broken of right", "edits", "norm", "not attacked", "least changed"]
    rows = [[*head, "certified R@1"]]
    for one in evaluated:
        by_view = defaultdict(list)
        for record in one.metrics["results"]:
            by_view[condition_of(record), record["view"]].append(record)
        for (condition, view), records in by_view.items():
            cells = [number(mean_of(records, metric), metric) for metric in METRICS]
            certified = number(mean_of(records, "certified R@1"))
            names = [model_name(one.metrics), condition.label, view]
            rows.append([*names, *cells, *attack_cells(records), certified])
    for view, metrics in evaluated[0].metrics["chance"].items():
        if not metrics:  # not among these --views
            continue
        cells = [number(metrics.get(metric), metric) for metric in METRICS]
        empty = [""] * (len(rows[0]) - 3 - len(METRICS))
        rows.append(["chance", "", view, *cells, *empty])
    return markdown_table(rows)


# ---- the program ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """What there is to know about a model before it is opened."""

    weights: Path
    origin: dict  # the first keys of metrics.json: recipe, seed, languages trained on, ...
    run: Path | None = None  # its folder, if train.py made it
    run_data: str = ""  # the data set that a run is about
    run_data_sha256: str = ""
    sha256: str = ""  # of the weights that a run ended with


def read_finished(folder: Path) -> dict:
    """run.json of a run that is complete.

    *Errors*: ValueError for one that is not.
    """
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise ValueError(f"{folder}: this run is not complete. Finish it with train.py --resume.")
    return manifest


def open_model(path: Path) -> Model:
    """A run of train.py, or any model.

    *Errors*: ValueError for a run that is not complete.
    """
    if not (path / "run.json").exists():
        origin = dict.fromkeys(ORIGIN) | {"recipe": str(path), "variant": "", "model": str(path)}
        return Model(path, origin)
    manifest = read_finished(path)
    origin = {key: manifest["origin"][key] for key in ORIGIN} | {"model": "model"}
    run_data = manifest["flags"]["eval_data"] or manifest["flags"]["data"]
    hashes = manifest["eval_data_sha256"], manifest["model_sha256"]
    return Model(path / "model", origin, path, run_data, *hashes)


def check_tables(file, old, adversary):
    """Refuse, before the work, an attack whose word lists were others the last time."""
    tables = {}
    for record in old.get("results", []):
        tables[condition_of(record)] = record.get("table")
    for attack in adversary.options.attacks:
        condition = adversary.options.condition(attack)
        if condition in tables and tables[condition] != adversary.hash_of(attack):
            text = f"{condition.label} is of another --table"
            raise ValueError(f"{file}: {text}. Give an --out.")


def evaluate_folder(
    path: Path, data: DataSet, options: Options, out: Path | None, device: str, **changes
) -> Evaluated:
    """Evaluate one model or run; write metrics.json and metrics.npz into the folder `out`, if any.

    What is there already, of the same weights and data, is not computed again (but for --trec,
    --show and --attack-out, which want something written). Vectors are kept in options.cache, or
    in `out`/vectors. `changes`: settings of the encoder.
    *Errors*: ValueError for a run that is not complete, or was made with other data.
    """
    model = open_model(path)
    if out and not options.cache:
        options = replace(options, cache=out / "vectors")
    is_run_data = Path(model.run_data).resolve() == data.folder.resolve()
    if model.run and is_run_data and model.run_data_sha256 != data.sha256:
        again = "Train it anew (--overwrite)."
        raise ValueError(f"{path}: made with another version of {model.run_data}. {again}")
    encoder = load_encoder(model.weights, device, options.precision, **changes)
    if model.sha256 and model.sha256 != weights_hash(encoder):
        text = "not the weights that this run ended with"
        raise ValueError(f"{model.weights}: {text}. Bring them back, or train anew (--overwrite).")
    check_known(encoder, texts_in(data, options.langs or all_langs(data)))
    adversary = open_adversary(options, data, encoder)
    if options.attack_out:
        check_frozen(encoder, data, adversary)
    if out is None:
        metrics, _ = evaluate(encoder, data, adversary)
        return Evaluated(model.origin | metrics, None, model.run)

    file = metrics_file(out, data, model.run_data_sha256 or data.sha256, options.split)
    old = check_same(file, identity(encoder, data, options))  # before the work, not after it
    check_tables(file, old, adversary)
    if not (options.trec or options.show or options.attack_out):
        new_attacks = []
        for attack in options.attacks:
            if not is_measured(file, old, options.condition(attack), options.attacked_views):
                new_attacks.append(attack)
        unattacked = []  # conditions that need no attack and are not measured yet
        for condition in [CLEAN, *options.without_language]:
            if not is_measured(file, old, condition, options.views):
                unattacked.append(condition)
        if not (unattacked or new_attacks):
            return Evaluated(old, file, model.run)
        new_lir = [condition.lir for condition in unattacked if condition.lir]
        centre = any(condition.centred for condition in unattacked)
        options = replace(options, attacks=new_attacks, lir=new_lir, centre=centre)
        adversary = replace(adversary, options=options)
    metrics, arrays = evaluate(encoder, data, adversary)
    return Evaluated(add_metrics(file, model.origin | metrics, arrays), file, model.run)


def parse(argv=None) -> argparse.Namespace:
    """The flags of evaluate.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=Help
    )
    add = parser.add_argument
    # fmt: off
    add("models", nargs="+", type=Path, metavar="MODEL|RUN",
        help="Hugging Face folder, or a run of train.py")
    add("--data", type=Path, default=HERE / "data/minifacts",
        help="data set folder (its format: load_data in xlt.py)")
    add("--split", choices=("train", "dev", "test"), default="test",
        help="which qrels; select on dev, report test")
    add("--strict", action="store_true", help="refuse what is superfluous in --data, else left out")
    add("--langs", nargs="+", type=language_flag, metavar="LANG",
        help="of queries and passages (default: all)")
    add("--limit", type=int, default=0, metavar="N",
        help="only the first N questions, in all languages: a quick look; 0 for all")
    add("--form", default="", metavar="NAME",
        help='only queries whose "form" in queries.jsonl is this, e.g. short (default: all)')
    add("--no-self-hits", action="store_true",
        help="a passage with a query's id is no candidate for it, as in BEIR (ArguAna)")
    add("--views", nargs="+", choices=VIEWS, default=list(VIEWS),
        help="candidates: own, one other, all languages")
    add("--device", default="auto", help="torch device; auto: cuda if there is one, else cpu")
    add("--precision", choices=["fp32", "bf16"], default="fp32",
        help="of the forward pass; bf16 by autocast. Vectors, scores and statistics are fp32")
    add("--cache", type=output_folder, metavar="DIR",
        help="keep vectors of passages and clean queries here, so that another attack encodes no "
        "passage again and a killed encoding goes on; may be deleted at any time (default: the "
        "folder vectors in --out or in the run; without both, none)")
    add("--lir", nargs="+", type=int, default=[], metavar="R",
        help="also without the R main directions of each language (Yang et al. 2021: 1)")
    add("--centre", action="store_true", help="also without the mean vector of each language")
    add("--out", type=output_folder,
        help="folder of metrics.json (default: the run's; none for a model)")
    add("--trec", type=output_folder, metavar="DIR", help="also write run.trec and qrels.trec")
    # the encoder: settings of which a flag is not given are as saved (load_encoder in xlt.py)
    add("--pooling", choices=POOLINGS, help="default: as saved, else mean")
    add("--query-prefix", metavar="TEXT", help='default: as saved, else "Query: "')
    add("--passage-prefix", metavar="TEXT", help='default: as saved, else "Passage: "')
    add("--query-length", type=int, metavar="N", help="tokens (default: as saved, else 96)")
    add("--passage-length", type=int, metavar="N", help="tokens (default: as saved, else 256)")
    add("--context", action="store_true", default=None,
        help="encode passages with their paragraph, as LAReQA")
    # the adversary
    add("--attacks", nargs="+", default=["clean"], metavar="NAME[:KEY=VALUE,...]",
        help="e.g. clean greedy:edits=2 pgd:epsilon=0.1; names and keys: attacks.py, top")
    add("--table", nargs="+", default=[], metavar="LANG=FILE",
        help="replacements: .json or OMW .tab, or neighbours (default: the data's synonyms/)")
    add("--protect", type=Path, metavar="FILE", help="words that no attack replaces, one a line")
    add("--attack-views", nargs="+", choices=VIEWS, default=[],
        help="views that are attacked (default: all of --views)")
    add("--attack-seed", type=int, default=0, metavar="S", help="of all that is drawn")
    add("--show", type=int, default=0, metavar="N", help="list N queries an attack, changes marked")
    add("--attack-out", type=output_folder, metavar="DIR",
        help="freeze attacked queries as data sets, which --data opens")
    # fmt: on
    args = parser.parse_args(argv)
    for r in args.lir:
        if r < 1:
            parser.error("--lir: the number of directions taken out is at least 1")
    for flag in ("limit", "show"):
        if getattr(args, flag) < 0:
            parser.error(f"--{flag} {getattr(args, flag)}: must be at least 0")
    for flag in ("views", "attack_views", "langs"):
        refuse_twice(parser, flag, getattr(args, flag))
    for name in ("query_length", "passage_length"):
        if getattr(args, name) is not None and getattr(args, name) < 2:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 2 tokens")
    return args


def parse_attacks(texts: list[str]) -> list[Attack]:
    """Each attack once; "clean" is none.

    *Errors*: ValueError for an unknown attack or setting.
    """
    parsed = [attacks.parse_attack(text) for text in texts if text != "clean"]
    return list(dict.fromkeys(parsed))


def options_of(args):
    """The flags as an evaluation wants them."""
    values = {option.name: getattr(args, option.name) for option in fields(Options)}
    return Options(**(values | {"attacks": parse_attacks(args.attacks)}))


def changes_of(args):
    """The flags that change settings of the encoder."""
    changes = {}
    for setting in fields(Settings):
        value = getattr(args, setting.name)
        if value is not None:
            changes[setting.name] = value
    return changes


def pick_device(name):
    """ "auto" is cuda if there is one, else cpu."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def own_folders(args, path):
    """Flag -> where one model's files go: the flag's folder, or in it one of the model's name.

    *Errors*: ValueError for two models of one name, of which the second would replace the first.
    """
    folders = {name: getattr(args, name) for name in ("out", "trec", "attack_out")}
    if len(args.models) == 1:
        return folders
    names = [model.resolve().name for model in args.models]
    for flag, folder in folders.items():
        if folder is None:
            continue
        if names.count(path.resolve().name) > 1:
            flag = flag.replace("_", "-")
            raise ValueError(f"--{flag}: two models are named {path.name}. Evaluate one at a time.")
        folders[flag] = folder / path.resolve().name
    return folders


def check_device(name: str) -> None:
    """Refuse, before the work, a device that is not there.

    *Errors*: ValueError with torch's reason.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without it
        reason = str(error).split("\n")[0][:150]
        raise ValueError(f"--device {name}: not there ({reason}). Take auto or cpu.") from None


def matmul_rate(device: str, precision: str) -> float:
    """What plain matrix products reach on this device, in FLOP/s: the median of five."""
    size = 1024 if torch.device(device).type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # item() waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def check_precision(device: str, precision: str) -> None:
    """Refuse, before the work, half precision that the device lacks; say so where it is slower.

    A processor without instructions for bf16 converts every number: on one of 2021 that is seven
    times slower than fp32.
    *Errors*: ValueError with the reason.
    """
    if precision == "fp32":
        return
    kind, reason = torch.device(device).type, ""
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        reason = "GPUs have it from compute capability 8.0 on"
    else:
        try:
            with torch.autocast(kind, torch.bfloat16):
                if not torch.is_autocast_enabled(kind):
                    reason = "torch has no autocast there"
        except RuntimeError as error:
            reason = str(error).split("\n")[0][:150]
    if reason:
        raise ValueError(f"--precision {precision}: {device} has none ({reason}). Take fp32.")
    if kind == "cpu":
        half, full = matmul_rate(device, "bf16") / 1e9, matmul_rate(device, "fp32") / 1e9
        if half < full:
            text = f"slower than fp32 here ({half:.0f} against {full:.0f} GFLOP/s). Take fp32."
            print(f"--precision bf16: {text}", file=sys.stderr)


def main(argv=None) -> int:
    """Evaluate every model, write metrics.json, print one table. Exit 0 done, 1 failed, 2 usage."""
    args = parse(argv)
    escape_what_cannot_be_shown()
    changes, evaluated = changes_of(args), []
    try:
        check_device(pick_device(args.device))
        check_precision(pick_device(args.device), args.precision)
        options, data = options_of(args), load_data(args.data, args.strict)
        for line in data.left_out.lines():
            print(line, file=sys.stderr)
        for path in args.models:
            folders = own_folders(args, path)
            out = folders.pop("out")
            if out is None and (path / "run.json").exists():
                out = path
            own_options, device = replace(options, **folders), pick_device(args.device)
            with locked(out) if out else nullcontext():
                evaluated.append(evaluate_folder(path, data, own_options, out, device, **changes))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 1
    print(results_table(evaluated))
    first = evaluated[0].metrics
    count = f"{first['n_queries']} queries, {first['n_passages']} passages"
    print(f"{args.split} of {args.data}: {count}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
