"""Many metrics.json -> differences with intervals -> tables, the answer in sentences, one page."""

import argparse
import html
import itertools
import json
import math
import re
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import NormalDist
from string import Template

import numpy as np

from evaluate import (
    COLUMNS,
    KEPT,
    VIEWS,
    align,
    digits,
    language_sets,
    mean_sd,
    named_runs,
    pair,
    read_metrics,
    summarise,
    table,
)
from xlt import Help, write_json

# ---- statistics: is the difference real? ---------------------------------------------------------
# S seeds, Q queries, G groups, N resamples. A group is a question in all its languages: they share
# the answer and most mistakes, so they are one observation and not eleven.


def by_group(values: np.ndarray, groups) -> np.ndarray:
    """Mean of a per-query metric over the queries of each group; groups are sorted by name.

    *Shapes*: values (Q,) or (S, Q), groups (Q,) -> (G,) or (S, G). NaN (nothing relevant) is left
    out; a group of only NaN is NaN.
    *Errors*: ValueError if there is not one group a query.
    """
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    if values.shape[-1:] != groups.shape:
        raise ValueError(f"values {values.shape}, groups {groups.shape}: give each query a group.")
    member = (groups[:, None] == np.unique(groups)).astype(float)  # (Q, G)
    real = ~np.isnan(values)
    count = real @ member  # (S, Q) @ (Q, G) -> (S, G)
    return np.where(count, np.where(real, values, 0) @ member / np.maximum(count, 1), np.nan)


def widening(n: int, level: float = 0.95) -> float:
    """The factor by which a percentile interval from n units is too narrow.

        sqrt(n / (n - 1)) * t_{n-1} / z        n = 3: 2.69, n = 5: 1.58, n = 200: 1.01

    The root: deviations from a mean fitted to them are too small. t for z: their size is uncertain.
    *Source*: Hesterberg 2015, "narrowness bias"; he moves the percentiles, we the deviations.
    """
    angle = np.linspace(0, math.pi / 2, 10_001)  # t = sqrt(n - 1) tan(angle), so that
    density = np.cos(angle) ** (n - 2)  # t's density is this: a quantile without scipy
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])  # trapezia
    t = math.sqrt(n - 1) * math.tan(np.interp(level, area / area[-1], angle))
    return math.sqrt(n / (n - 1)) * t / NormalDist().inv_cdf((1 + level) / 2)


def bootstrap(
    difference: np.ndarray, rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean difference if other seeds and other questions had been drawn.

        difference[s, g] = mean + seed[s] + group[g] + rest[s, g];  resample s and g, crossed

    *Shapes*: (S, G), paired by seed and group. S = 1: about other questions for this one seed.
    *Errors*: ValueError for NaN, or fewer than two groups.
    *Source*: Owen 2007, the pigeonhole bootstrap. It counts `rest` three times and few units too
    little; so we widen both, and the seeds only by what `rest` does not explain. Simulated with
    normal effects, S 1 to 5, G 30 and 200, it covers the truth in .93 to .99 of cases (plain: .82).
    """
    if difference.ndim != 2 or difference.shape[1] < 2 or not np.isfinite(difference).all():
        raise ValueError(f"{difference.shape}: need (seeds, at least 2 groups), none of them NaN.")
    seeds, groups = difference.shape
    mean = difference.mean()
    seed = difference.mean(1, keepdims=True) - mean  # (S, 1)
    group = difference.mean(0, keepdims=True) - mean  # (1, G)
    rest = difference - mean - seed - group  # (S, G)
    if seeds > 1:
        noise = (rest**2).sum() / (groups - 1) / groups  # the part of seed ** 2 that is rest's
        net = max(0.0, 1 - noise / max((seed**2).sum(), 1e-30))
        seed = seed * math.sqrt(net) * widening(seeds, level)
    wide = mean + seed + group * widening(groups, level) + rest
    # How often each unit is drawn, in place of the draws: one product instead of N copies
    s = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds  # (N, S)
    g = rng.multinomial(groups, np.full(groups, 1 / groups), resamples) / groups  # (N, G)
    means = (s * (g @ wide.T)).sum(1)  # (N, G) @ (G, S) -> (N, S) -> (N,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def randomisation_test(
    difference: np.ndarray, rng: np.random.Generator, rounds: int = 10_000, exact: int = 12
) -> float:
    """How often chance alone gives a mean difference this large, on either side.

        p = share of sign patterns with |mean_g(sign_g * d_g)| >= |mean_g(d_g)|

    Recipes that do not differ may be swapped for a question, in all its seeds and languages at
    once. These seeds are taken as given: if seeds add as much noise as questions, p <= .05 comes
    by chance in .15 of cases. Call a difference real only if the interval excludes 0 as well.
    *Shapes*: (S, G). *Units*: p in (0, 1]; up to `exact` groups all 2^G patterns are counted, else
    (hits + 1) / (rounds + 1): the pattern seen is one of them. *Source*: Smucker et al. 2007.
    """
    d = difference.mean(0)  # (S, G) -> (G,)
    if len(d) <= exact:
        flip = np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1  # (2^G, G), the bits
    else:
        flip = rng.integers(0, 2, (rounds, len(d)), dtype=np.int8)  # (rounds, G)
    means = np.abs((1 - 2 * flip) @ d) / len(d)
    # SUBTLE: equal means differ in their last bits; without the slack rounding breaks the tie
    hits = int((means >= abs(d.mean()) - 1e-9 * np.abs(d).mean()).sum())
    return hits / len(flip) if len(d) <= exact else (hits + 1) / (rounds + 1)


def holm(p_values) -> list[float]:
    """p values of m tests, adjusted so that the chance of any false alarm stays at the level.

        adjusted_(i) = max over j <= i of min(1, (m - j + 1) * p_(j)),   p_(1) <= ... <= p_(m)

    *Source*: Holm 1979.
    """
    p = np.asarray(p_values, dtype=float)
    assert ((p >= 0) & (p <= 1)).all(), p  # NaN fails as well
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(np.minimum(1, p[order] * (len(p) - np.arange(len(p)))))
    return steps[np.argsort(order)].tolist()  # back into the order given


def compare(a, b, groups, rng, resamples: int = 2000, rounds: int = 10_000) -> dict:
    """Recipe a minus recipe b: mean over groups and seeds, its interval and its p value.

    *Shapes*: a, b (S, Q), the same seeds and queries in the same order; groups (Q,). A query that
    is NaN in one leaves both; a group that is NaN for one seed leaves all.
    *Errors*: ValueError for unequal shapes, or fewer than two groups.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape}: give both the same seeds and queries, (S, Q).")
    d = by_group(a - b, groups)  # (S, G); differences first: a pair is one query of one seed
    d = d[:, ~np.isnan(d).any(0)]
    low, high = bootstrap(d, rng, resamples)
    return {
        "difference": float(d.mean()), "low": low, "high": high,
        "p": randomisation_test(d, rng, rounds), "n_seeds": d.shape[0], "n_groups": d.shape[1],
    }  # fmt: skip


# ---- comparisons and the answer

def sentence(subject: str, other: str, cells: list[dict]) -> str:
    """What comparisons of two recipes say, in one sentence; `below` states absolute differences."""
    assert cells, "nothing to say"
    said = {"above": [], "below": [], "open": []}
    number = lambda x, form=".3f": format(round(x, 3) + 0.0, form)  # + 0.0: no "-0.000"
    for cell in cells:
        d, low, high = cell["difference"], cell["low"], cell["high"]
        place = "the pool" if cell["where"] == "pool" else cell["where"]
        if cell["significant"] and d:
            low, high = (low, high) if d > 0 else (-high, -low)
            text = f"{number(abs(d))} [{number(low)}, {number(high)}] in {place}"
            said["above" if d > 0 else "below"].append(text)
        else:
            said["open"].append(f"{place} ({number(d, '+.3f')} [{number(low)}, {number(high)}])")
    join = lambda some, word: f" {word} ".join(filter(None, [", ".join(some[:-1]), some[-1]]))
    if len(said["open"]) == len(cells):
        open_cells = join(said["open"], "or")
        return f"{subject} does not differ significantly from {other} in {open_cells}."
    found = [w for w in ("above", "below") if said[w]]
    names = [other, "it"]
    claims = [f"{w} {name} by {join(said[w], 'and')}" for w, name in zip(found, names)]
    # A comma where a list of its own stands on either side of "and"
    text = (", and " if any(len(said[w]) > 1 for w in found) else " and ").join(claims)
    tail = f"; no significant difference in {join(said['open'], 'or')}" if said["open"] else ""
    return f"{subject} is {text}{tail}."


QUESTION = (
    "How does hybrid-batch training affect the robustness of the encoder against adversarial "
    "queries in zero-shot cross-lingual retrieval, compared with contrastive training on "
    "monolingual or cross-lingual batches?"
)


NOTE = (
    "Differences are in mAP. Means over seeds, macro-averaged over the queries' languages. "
    "Intervals: bootstrap over seeds "
    "and questions (the translations of a question are one unit). p: paired randomisation test "
    "over questions, Holm's correction over all comparisons of this page. Significant: both agree."
)


def questions(groups: dict[str, list[dict]]) -> list[tuple[str, str, str]]:
    """What is compared: (question, recipe a, recipe b).

    Hybrid against each other batching with the same robust training, and each robust training
    against none on the same batches. Without such pairs, the first recipe against each other one.
    """
    variants, found = defaultdict(dict), []  # other flags: never in one comparison
    for name, members in groups.items():
        key = members[0].get("batching"), members[0].get("robust")
        variants[members[0].get("variant", "")][key] = name
    for named in variants.values():
        batchings, robusts = (list(dict.fromkeys(key[i] for key in named)) for i in (0, 1))
        hybrid = next((b for b in batchings if b and b.startswith("hybrid")), batchings[0])
        found += [
            (f"{hybrid} against {b}, {r}", named[hybrid, r], named[b, r])
            for r in robusts for b in batchings
            if b != hybrid and (hybrid, r) in named and (b, r) in named
        ]  # fmt: skip
        found += [
            (f"{r} against none, {b}", named[b, r], named[b, "none"])
            for b in batchings for r in robusts
            if r != "none" and (b, r) in named and (b, "none") in named
        ]  # fmt: skip
    names = list(groups)
    return found or [(f"{names[0]} against {b}", names[0], b) for b in names[1:]]


class Scores:
    """The single queries of all runs: (recipe, attack, view, metric) -> (S, Q), read once."""

    def __init__(self, groups: dict[str, list[dict]]):
        self.groups, self.files, self.known = groups, {}, {}
        for members in groups.values():
            for run in members:
                path = Path(run["folder"]) / run["file"]
                if not path.with_suffix(".npz").exists():
                    raise ValueError(f"{path.parent}: no {path.stem}.npz. Evaluate it once more.")
                self.files[id(run)] = np.load(path.with_suffix(".npz"))
        first = next(iter(self.files.values()))
        self.ids, self.lang = first["id"], first["lang"]
        self.group = np.unique(first["group"], return_inverse=True)[1]  # (Q,)

    def runs(self, name: str, seeds=None) -> list[dict]:
        return [r for r in self.groups[name] if seeds is None or r["seed"] in seeds]

    def has(self, name: str, attack: str, view: str, seeds=None) -> bool:
        """Did every run meet this attack in this view, where at least two groups have an answer?"""
        key = f"{attack}|{view}|{KEPT[0]}"
        if not all(key in self.files[id(run)].files for run in self.runs(name, seeds)):
            return False
        known = np.isfinite(self(name, attack, view, KEPT[0], seeds)).all(0)  # (S, Q) -> (Q,)
        return len(set(self.group[known])) > 1

    def __call__(self, name: str, attack: str, view: str, metric: str, seeds=None) -> np.ndarray:
        rows, key = [], f"{attack}|{view}|{metric}"
        for run in self.runs(name, seeds):
            if (id(run), key) not in self.known:
                file = self.files[id(run)]
                if not np.array_equal(file["id"], self.ids):
                    raise ValueError(f"{run['folder']}: other queries. Evaluate it once more.")
                self.known[id(run), key] = file[key]
            rows.append(self.known[id(run), key])
        return np.stack(rows)  # (S, Q)


def make_comparisons(scores: Scores, names: list[str]) -> list[dict]:
    """Every question under every attack and view, paired by seed and group; Holm over all of them.

    Besides mAP, between batchings also what an attack takes away: mAP lost = clean - attacked.
    Significant: the adjusted p is below .05 (about these seeds) and the interval, which also
    resamples the seeds, leaves out 0.
    """
    jobs = []
    for question, a, b in questions(scores.groups):
        seeds = {run["seed"] for run in scores.groups[a]} & {r["seed"] for r in scores.groups[b]}
        for attack, view in itertools.product(names if seeds else (), VIEWS):
            if scores.has(a, attack, view, seeds) and scores.has(b, attack, view, seeds):
                job = {"question": question, "a": a, "b": b, "attack": attack, "view": view}
                jobs.append((job | {"metric": "mAP"}, seeds))
                if attack != "clean" and "against none" not in question:
                    jobs.append((job | {"metric": "mAP lost"}, seeds))
    rounds = max(10_000, 40 * len(jobs))  # or the smallest p possible could not survive Holm
    rng, found = np.random.default_rng(0), []
    for job, seeds in jobs:
        pair = []
        for name in (job["a"], job["b"]):
            values = scores(name, job["attack"], job["view"], "mAP", seeds)
            if job["metric"] == "mAP lost":
                values = scores(name, "clean", job["view"], "mAP", seeds) - values
            pair.append(values)
        found.append(job | compare(*pair, scores.group, rng, rounds=rounds))
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        apart = row["low"] > 0 or row["high"] < 0
        row |= {"holm": p, "significant": bool(p < 0.05 and apart)}
    return found


def answer(comparisons: list[dict], groups: dict[str, list[dict]]) -> list[str]:
    """The comparisons in sentences: batchings without robust training, then robust training."""
    short = lambda name, key: groups[name][0].get(key) or name
    cells = lambda rows, where: [row | {"where": row[where]} for row in rows]
    by_question, said = defaultdict(list), []
    for row in comparisons:
        by_question[row["question"], row["metric"]].append(row)
    ends = [question.rpartition(", ")[2] for question, _ in by_question if "none," not in question]
    first = "none" if "none" in ends or not ends else ends[0]  # the training that is told
    for (question, metric), rows in by_question.items():
        a, b, about = rows[0]["a"], rows[0]["b"], question.rpartition(", ")[2]
        if "against none" in question:
            pool = [row for row in rows if row["view"] == "pool"]
            hybrid = groups[a][0].get("batching", "").startswith("hybrid")
            if hybrid and pool:
                text = sentence(short(a, "robust"), "plain training", cells(pool, "attack"))
                said.append(f"{about.capitalize()} batches, pool: {text}")
        elif metric == "mAP" and about in (first, question):
            for attack in dict.fromkeys(row["attack"] for row in rows):
                own = [row for row in rows if row["attack"] == attack]
                text = sentence(short(a, "batching"), short(b, "batching"), cells(own, "view"))
                said.append(("Clean: " if attack == "clean" else f"Under {attack}: ") + text)
        elif about in (first, question):
            pool = [row for row in rows if row["view"] == "pool"]
            if pool:
                lost = (f"what {short(name, 'batching')} loses" for name in (a, b))
                text = sentence(*lost, cells(pool, "attack"))
                said.append(f"Lost to the attack, pool: {text}")
    if any(row["n_seeds"] == 1 for row in comparisons):
        said.append("One seed only: the intervals speak of other questions, not of other seeds.")
    return said


# ---- tables


def study_table(groups: dict, names: list[str], comparisons: list[dict], minutes: dict) -> list:
    """Rows of the report's main table; marks: above or below plain training, or hybrid's for it."""
    marks, found = defaultdict(dict), []
    for row in comparisons:
        if row["significant"] and row["metric"] == "mAP":
            up, robust = row["difference"] > 0, "against none" in row["question"]
            name = row["a"] if robust else row["b"] if row["question"].endswith(", none") else None
            marks[name, row["attack"]][f"{row['view']} mAP"] = "+" if up == robust else "-"
    for (name, runs), attack in itertools.product(groups.items(), names):
        members = [run for run in runs if any(r["attack"] == attack for r in run["results"])]
        for label, langs in language_sets(runs[0]) if members else ():
            sums = [summarise(m["results"], langs, attack) for m in members]
            cells = {f"{v} {m}": mean_sd([s.get((v, m)) for s in sums]) for v, m in COLUMNS}
            if any(mean is not None for mean, _ in cells.values()):
                found.append({
                    "recipe": name, "attack": attack, "langs": label, "n": len(members),
                    "cells": {k: c for k, c in cells.items() if c[0] is not None},
                    "marks": marks[name, attack] if langs is None else {},
                    "minutes": minutes.get(name),
                })  # fmt: skip
    return found


def robust_r1(scores: Scores, names: list[str]) -> list[dict]:
    """R@1 clean, and of the queries that stay right under all attacks at once."""
    found = []
    for name, view in itertools.product(scores.groups, ("mono", "pool")):
        met = {n: [a for a in names if scores.has(n, a, view)] for n in scores.groups}
        rich = [n for n, own in met.items() if len(own) > 2]  # others were not attacked
        suite = [a for a in names if all(a in met[n] for n in rich)]  # one for all of them
        if name in rich and len(suite) > 2:
            ranks = np.stack([scores(name, a, view, "R@1") for a in suite])  # (A, S, Q)
            right = ranks[..., ~np.isnan(ranks).any((0, 1))] > 0
            found.append({
                "recipe": name, "view": view, "clean": mean_sd(right[suite.index("clean")].mean(1)),
                "robust": mean_sd(right.all(0).mean(1)), "attacks": len(suite) - 1,
            })  # fmt: skip
    return found


def strength_rows(groups: dict, names: list[str]) -> list[dict]:
    """What each attack did: share of the right queries that it broke, its size, what it changed.

    *Units*: means over seeds and languages, in the pool unless a name says mono; least_changed: the
    smallest share of really changed queries in a language, so that none passes for robust.
    """
    found = []
    for (recipe, members), attack in itertools.product(groups.items(), names):
        met = [[r for r in run["results"] if r["attack"] == attack] for run in members]
        row = {"recipe": recipe, "attack": attack, "n": sum(map(bool, met))}
        by_view = defaultdict(list)
        for r in [r for rows in met for r in rows if "n_broken" in r]:
            by_view[r["view"]].append(r)
        for view in ("mono", "pool"):
            right = sum(r["n_right"] for r in by_view[view])
            broken = sum(r["n_broken"] for r in by_view[view])
            row[f"broken_{view}"] = broken / right if right else None
        mine = by_view["pool"] or by_view["mono"]
        for key in ("edits", "norm", "calls") if mine else ():
            row[key] = sum(r[key] for r in mine) / len(mine)
        share = [r["n_changed"] / r["n_queries"] for r in mine if r["n_queries"]]
        found += [row | {"least_changed": min(share)}] if share else []
    return found


def bias_rows(groups: dict, names: list[str]) -> list[dict]:
    """The query's own language in the pool, clean and attacked."""
    found = []
    for (recipe, members), attack in itertools.product(groups.items(), names):
        columns = defaultdict(list)
        for run in members:
            rows = [r for r in run["results"] if (r["attack"], r["view"]) == (attack, "pool")]
            for key in ("own_share@10", "foreign_rank", "rank_distance") if rows else ():
                values = [r[key] for r in rows if r.get(key) is not None]
                columns[key] += [sum(values) / len(values)] if values else []
            share = [run["own_share"].get(r["query_lang"], 0.0) for r in rows]
            columns["expected_share"] += [sum(share) / len(share)] if share else []
        if columns["foreign_rank"]:
            means = {key: mean_sd(values)[0] for key, values in columns.items() if values}
            found.append(
                {"recipe": recipe, "attack": attack, "n": len(columns["rank_distance"])} | means
            )
    return found


def matrices(groups: dict, names: list[str], most: int = 3) -> list[dict]:
    """mAP of query language by passage language, of the plain recipes, where an attack saw all."""
    found = []
    plain = [n for n, members in groups.items() if members[0].get("robust", "none") == "none"]
    for recipe, attack in itertools.product(plain, names):
        values = defaultdict(list)
        met = [m for m in groups[recipe] if any(r["attack"] == attack for r in m["results"])]
        for row in [r for run in met for r in run["results"]]:
            if row["attack"] == attack and row["view"] != "pool" and row["mAP"] is not None:
                values[row["query_lang"], row["passage_lang"]].append(row["mAP"])
        langs = sorted({a for a, _ in values})
        shown = sum(row["recipe"] == recipe for row in found)
        if any(a != b for a, b in values) and shown < most:
            mean = lambda a, b, v=values: mean_sd(v[a, b])[0] if (a, b) in v else None
            found.append({"recipe": recipe, "attack": attack, "n": len(met), "metric": "mAP",
                          "langs": langs,
                          "values": [[mean(a, b) for b in langs] for a in langs]})  # fmt: skip
    return found


def examples_of(groups: dict, reference: str) -> list[dict]:
    """Attacked queries of the reference's first seed."""
    shown, seen = [], Counter()
    for e in groups[reference][0].get("examples", ()):
        first = not seen or e["attack"] in list(seen)[:1]
        if e["view"] == "pool" and seen[e["attack"]] < (11 if first else 3):
            seen[e["attack"]] += 1
            shown.append(e | {"recipe": reference})
    return shown


def manifest_of(run: dict) -> dict:
    """What a report says of a run: its manifest, in short."""
    path = Path(run.get("run") or run["folder"]) / "run.json"
    if not path.exists():
        return {"folder": run["folder"]}
    about = json.loads(path.read_text(encoding="utf-8"))
    keys = ("commit", "data_sha256", "versions", "flags")
    return {"folder": run["folder"], "seed": run["seed"], "device": about["flags"]["device"],
            "seconds": about["seconds_training"], **{k: about[k] for k in keys}}  # fmt: skip


def repeat(manifests: list[dict]) -> list[str]:
    """A command for each recipe; flags that are no defaults stand in the runs' manifests."""
    seeds = defaultdict(list)
    for m in manifests:
        f = m["flags"]
        alpha = "" if f.get("alpha") in (None, 0.5) else f" --alpha {f['alpha']:g}"
        text = (
            f"python train.py --batching {f['batching']}{alpha} --robust {f.get('robust', 'none')}"
        )
        seeds[text].append(f["seed"])
    return [f"{text} --seed {' '.join(map(str, some))}" for text, some in seeds.items()]


# ---- the report: numbers and plain tables --------------------------------------------------------

MARKS = {"+": "▲", "-": "▼"}  # significantly above, below the baseline


def main_rows(study: dict) -> list[list[str]]:
    """The main table as text, head first: one row a recipe, attack and set of languages; chance."""
    metrics = list(dict.fromkeys(name for row in study["table"] for name in row["cells"]))
    head = ["recipe", "attack", "languages", "n", *(m.replace("_", " ") for m in metrics)]
    lines = [[*head, "minutes"]]
    for row in study["table"]:
        marks = row.get("marks") or {}
        texts = [pair(row["cells"].get(m), m) + MARKS.get(marks.get(m), "") for m in metrics]
        about = [row["recipe"], row["attack"], row["langs"], str(row.get("n", "-"))]
        lines.append([*about, *texts, digits(row.get("minutes"), "minutes")])
    if "chance" in study.get("about", {}):
        texts = [digits(chance_at(study, m), m) for m in metrics]
        lines.append(["chance", "-", "all", "-", *texts, "-"])
    return lines


def chance_at(study: dict, column: str) -> float | None:
    """What a random ranking gets in a column such as "pool mAP"."""
    view, _, metric = column.partition(" ")
    return study.get("about", {}).get("chance", {}).get(view, {}).get(metric)


def comparison_rows(study: dict) -> list[list[str]]:
    """The comparisons as text, head first."""
    head = "question|a|b|attack|view|metric|a - b|95 % interval|p|p (Holm)|significant|seeds|groups"
    lines = [head.split("|")]
    small = lambda p: "<.001" if p is not None and p < 0.001 else digits(p)
    for c in study.get("comparisons") or ():
        m = c["metric"]
        texts = [c["question"], c["a"], c["b"], c["attack"], c["view"], m.replace("_", " ")]
        texts += [digits(c["difference"], m), f"{digits(c['low'], m)} to {digits(c['high'], m)}"]
        texts += [small(c.get("p")), small(c.get("holm")), "yes" if c["significant"] else "no"]
        lines.append(texts + [str(c.get(k, "-")) for k in ("n_seeds", "n_groups")])
    return lines


def markdown(study: dict) -> str:
    """The main table and the comparisons in Markdown, for a README or an issue."""
    plain = lambda text: re.sub(r"([\\`*_|<>&\[\]])", r"\\\1", " ".join(text.split()))
    tables = [[[*map(plain, row)] for row in f(study)] for f in (main_rows, comparison_rows)]
    found = [align([t[0], ["---"] * len(t[0]), *t[1:]]) for t in tables if t[1:]]
    return "\n\n".join(found) + "\n"


# ---- the report: elements ------------------------------------------------------------------------

RIGHT_TO_LEFT = ("ar", "fa", "he", "ur")
SHADES = ((247, 251, 255), (158, 202, 225), (49, 130, 189), (8, 48, 107))  # RGB, low to high


def safe(text) -> str:
    """Text as XML can hold it: escaped, and no control characters."""
    legal = re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(text))
    return html.escape(legal)


def tag(name: str, *content: str, **attributes) -> str:
    """An element; content is markup. Attributes are text: `class_` is class, None is left out."""
    pairs = [(k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None]
    inside = "".join(f' {key}="{safe(value)}"' for key, value in pairs)
    return f"<{name}{inside}>{''.join(content)}</{name}>"


def speech(markup: str, lang: str, name: str = "span", **attributes) -> str:
    """Foreign text, escaped before, with its language and its direction."""
    arabic = re.search("[\u0590-\u08ff]", markup)  # SUBTLE: "+33" alone would turn into "33+"
    side = "rtl" if arabic and lang.split("-")[0] in RIGHT_TO_LEFT else "ltr"
    return tag(name, markup, lang=lang, dir=side, **attributes)


def signed(text: str) -> str:
    """A number whose mark, if any, has its own place: numbers stay below each other."""
    bare = text.rstrip("▲▼")
    kind = {"▲": "sign up", "▼": "sign down"}.get(text[len(bare) :], "sign")
    return safe(bare) + tag("span", text[len(bare) :], class_=kind)


def grid(caption: str, head: list[str], rows: list, kind: str = "w1") -> str:
    """A table in a box that scrolls by itself. Cells are markup; a lone string heads a group.

    The first k columns of kind "wk" hold words, the others numbers.
    """
    lines = []
    for row in rows:
        if isinstance(row, str):
            wide = tag("th", tag("span", row), colspan=len(head), scope="colgroup")
            lines.append(tag("tr", wide, class_="group"))
        else:
            cells = [tag("td", cell) for cell in row[1:]]
            lines.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = tag("table", top, tag("tbody", *lines), class_=kind)
    return tag("figure", tag("figcaption", caption), tag("div", body, class_="wide", tabindex="0"))


def shade(share: float) -> str:
    """CSS of a heat map's cell: its colour, and black or white ink, whichever has more contrast.

    contrast = (L + .05) / .05 in black, 1.05 / (L + .05) in white; equal, 4.58, at L = .179.
    *Source*: WCAG 2.2, relative luminance and contrast ratio (4.5 asked for).
    """
    place = min(max(share, 0), 1) * (len(SHADES) - 1)
    k = min(int(place), len(SHADES) - 2)
    rgb = [round(a + (b - a) * (place - k)) for a, b in zip(SHADES[k], SHADES[k + 1], strict=True)]
    r, g, b = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb)
    ink = "#000" if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 else "#fff"
    return f"background:rgb({rgb[0]},{rgb[1]},{rgb[2]});color:{ink}"


def heats(maps: list, metric: str) -> str:
    """Heat maps [(caption, names down, names across, values)] on one scale, which stands above.

    *Shapes*: values (down, across); None where unknown.
    """
    every = [v for *_, values in maps for row in values for v in row if v is not None] or [0]
    low, width = min(every), max(every) - min(every)
    box = lambda v: tag("span", digits(v, metric), style=None if v is None else ink(v))
    ink = lambda v: shade((v - low) / (width or 1))
    found = []
    for caption, down, across, values in maps:
        upright = " turn" * (max(map(len, across)) > 3)
        rows = [[safe(n), *map(box, row)] for n, row in zip(down, values, strict=True)]
        head = ["", *(tag("span", safe(name)) for name in across)]
        found.append(grid(caption, head, rows, "heat" + upright))
    legend = [box(low + width * k / 4) for k in range(5)]
    return tag("p", *legend, class_="scale") + tag("div", *found, class_="many")


def ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high], with labels."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    values = [k * step for k in range(first, last + 1)]
    return [(v, re.sub(r"^(-?)0\.", r"\1.", f"{v:.6g}")) for v in values]


def strip(low: float, high: float, bar=(None,), dots=(), labels: bool = False) -> str:
    """One row of a forest plot: a bar (from, to), dots [(value, filled)], ticks, a line at zero."""
    x = lambda v: f"{14 + 212 * (v - low) / ((high - low) or 1):.1f}"
    marks = []
    for t, label in ticks(low, high):
        kind = "rule" if abs(t) > 1e-12 else "zero"
        marks.append(tag("line", x1=x(t), x2=x(t), y1=18 if labels else 0, y2=22, class_=kind))
        marks += [tag("text", label, x=x(t), y=13, text_anchor="middle")] * labels
    if None not in bar:
        marks.append(tag("line", x1=x(bar[0]), x2=x(bar[1]), y1=11, y2=11, class_="bar"))
    for value, filled in dots:
        if value is not None:
            kind = "dot" if filled else "dot hollow"
            marks.append(tag("circle", cx=x(value), cy=11, r=4, class_=kind))
    return tag("svg", *marks, viewBox="0 0 240 22", class_="strip", aria_hidden="true")


# ---- the report: its parts, each "" without data -------------------------------------------------

# One table each: recipes down, attacks across; every other number is in the table behind them
MAIN = (("pool mAP", "all"), ("mono mAP", "all"), ("cross mAP", "all"), ("pool mAP", "untrained"))


def part_answer(study: dict) -> str:
    """The answer in sentences, and what it rests on."""
    about = study.get("about", {})
    said = [tag("p", safe(sentence)) for sentence in study.get("answer") or ()]
    forms = {"data": "{}", "split": "{} split", "n_queries": "{:,} queries"}
    forms |= {"n_passages": "{:,} passages", "n_groups": "{:,} groups"}
    facts = [form.format(about[k]) for k, form in forms.items() if about.get(k) is not None]
    facts += ["languages " + " ".join(names) for names in [about.get("languages")] if names]
    facts += [f"{name} {version}" for name, version in about.get("versions", {}).items()]
    notes = [tag("p", safe(t), class_="note") for t in (", ".join(facts), about.get("note")) if t]
    return tag("div", *said, class_="said") * bool(said) + "".join(notes)


def part_table(study: dict) -> str:
    """Recipes down, attacks across, a table a metric; every number in a long table behind them."""
    rank = {name: k for k, name in enumerate([*study["recipes"], *study["attacks"]])}
    order = lambda names: sorted(dict.fromkeys(names), key=lambda n: rank.get(n, len(rank)))
    found = []
    for metric, langs in MAIN:
        rows = [r for r in study["table"] if r["langs"] == langs and metric in r["cells"]]
        recipes, attacks = order(r["recipe"] for r in rows), order(r["attack"] for r in rows)
        texts = {}
        for r in rows:
            mark = MARKS.get((r.get("marks") or {}).get(metric), "")
            texts[r["recipe"], r["attack"]] = pair(r["cells"][metric], metric) + mark
        lines = [[safe(n), *(signed(texts.get((n, a), "-")) for a in attacks)] for n in recipes]
        lines.append(["chance", *[signed(digits(chance_at(study, metric), metric))] * len(attacks)])
        counts = sorted({r.get("n", 1) for r in rows})
        seeds = " to ".join(map(str, dict.fromkeys(counts[:1] + counts[-1:])))
        title = tag("b", safe(metric)) + f", queries of {langs} languages, n = {seeds} seeds"
        found += [grid(title, ["recipe", *map(safe, attacks)], lines)] * bool(rows)
    return "".join(found) * bool(study["table"])


def forests(rows: list) -> str:
    """A forest plot a metric, drawn in the rows of its table, grouped by attack and view."""
    found = []
    for metric in dict.fromkeys(c["metric"] for c, _ in rows):
        mine = [row for row in rows if row[0]["metric"] == metric]
        ends = [c[k] for c, _ in mine for k in ("low", "difference", "high") if c[k] is not None]
        span, groups = (min([0, *ends]), max([0, *ends])), {}
        for c, t in mine:
            dot, strong = [(c["difference"], c["significant"])], "b" if c["significant"] else "span"
            plot = strip(*span, (c["low"], c["high"]), dot)
            name = safe(t[0]) + tag("small", safe(f"{t[1]} minus {t[2]}"))
            cells = [name, tag(strong, safe(t[6])), plot, *map(safe, t[7:10] + t[11:])]
            groups.setdefault(safe(f"{c['attack']}, {c['view']}"), []).append(cells)
        lines = [line for group, members in groups.items() for line in (group, *members)]
        rest = ["95 % interval", "p", "p (Holm)", "seeds", "groups"]
        head = ["comparison", "a - b", strip(*span, labels=True), *rest]
        found.append(grid(tag("b", safe(metric.replace("_", " "))), head, lines, "w1 forest"))
    return "".join(found)


def part_comparisons(study: dict) -> str:
    """Forest plots: batchings under plain training in sight, the many others behind a click."""
    rows = list(zip(study.get("comparisons") or (), comparison_rows(study)[1:], strict=True))
    first = [row for row in rows if row[0]["question"].endswith(", none")] or rows
    rest = [row for row in rows if row not in first]
    more = tag("details", tag("summary", f"{len(rest)} more: robust training"), forests(rest))
    return forests(first) + more * bool(rest)


def part_matrices(study: dict) -> str:
    """Heat maps of query language by passage language, one scale a metric."""
    maps = {}
    for m in study.get("matrices") or ():
        seeds = f", n = {m['n']}" if m.get("n") else ""
        caption = tag("b", safe(m["recipe"])) + safe(f", {m['attack']}, {m['metric']}{seeds}")
        maps.setdefault(m["metric"], []).append((caption, m["langs"], m["langs"], m["values"]))
    return "".join(heats(group, metric) for metric, group in maps.items())


def columns(rows: list[dict], caption: str) -> str:
    """A table of recipes and attacks; columns: whatever numbers the rows hold."""
    names = dict.fromkeys(k for r in rows for k, v in r.items() if v is not None)
    names = [name for name in names if name not in ("recipe", "attack")]
    line = lambda r: [safe(r["recipe"]), safe(r["attack"]), *(pair(r.get(k), k) for k in names)]
    head = ["recipe", "attack", *(safe(name.replace("_", " ")) for name in names)]
    return grid(tag("b", safe(caption)), head, [*map(line, rows)], "w2") * bool(rows)


def part_bias(study: dict) -> str:
    """Does the pool prefer the query's own language?"""
    return columns(study.get("bias") or [], "Pool")


def part_strength(study: dict) -> str:
    """What each attack changed and broke."""
    return columns(study.get("strength") or [], "Attacked queries")


def part_robust(study: dict) -> str:
    """R@1 that no attack of the suite breaks."""
    groups = {}
    for r in study.get("robust_r1") or ():
        ends = [(r[key] or [None])[0] for key in ("robust", "clean")]
        plot = strip(0, 1, ends, [(ends[1], False), (ends[0], True)])
        cells = [safe(r["recipe"]), pair(r["clean"]), pair(r["robust"]), plot]
        groups.setdefault(r["view"], []).append(cells)
    lines = [line for group, members in groups.items() for line in (safe(group), *members)]
    head = ["recipe", "clean (ring)", "robust (dot)", strip(0, 1, labels=True)]
    return grid(tag("b", "R@1") + ", clean and robust", head, lines, "w1 forest") if lines else ""


def change(old: str, new: str) -> str:
    """A word taken out and the word put in, which may be of another script."""
    gone, come = tag("del", safe(old)) * bool(old), tag("ins", safe(new), dir="auto") * bool(new)
    return gone + come


def part_examples(study: dict) -> str:
    """Attacked queries, every edit marked in its place."""
    found = []
    for e in study.get("examples") or ():
        at, pieces = 0, []
        for start, end, new in sorted(e["edits"]):
            assert at <= start <= end, f"{e['id']}: edits overlap: {e['edits']}"
            pieces += [safe(e["text"][at:start]), change(e["text"][start:end], new)]
            at = end
        text = speech("".join(pieces) + safe(e["text"][at:]), e["lang"], "p", class_="query")
        rank = "\xa0→\xa0".join(str(e.get(k) or "-") for k in ("before", "after"))
        about = ", ".join(e[key] for key in ("id", "view", "attack", "recipe"))
        answer = ["; answer: ", speech(safe(e["answer"]), e["lang"])] if e.get("answer") else []
        below = tag("p", f"{safe(about)}; rank\xa0{rank}", *answer, class_="note")
        found.append(tag("article", text, below))
    return "".join(found)


def part_runs(study: dict) -> str:
    """Manifests of the runs, and the commands that give every number again."""
    flat = lambda d: " ".join(f"{k}={v}" for k, v in (d or {}).items())
    keys, lines = ("name", "commit", "device", "versions", "flags", "data_sha256", "seed"), []
    for r in study.get("runs") or ():
        found = [flat(r[k]) if isinstance(r.get(k), dict) else r.get(k, "-") for k in keys]
        found[5] = found[5][:12]
        lines.append([*map(safe, found), digits(r.get("seconds"), "seconds")])
    table = grid(
        "One row a run", [*(k.replace("_", " ") for k in keys), "seconds"], lines, "w6 runs"
    )
    commands = tag("pre", safe("\n".join(study.get("commands") or ())))
    runs = tag("details", tag("summary", f"{len(lines)} runs"), table)
    return runs * bool(lines) + commands * bool(study.get("commands"))


def render(study: dict, template: str) -> str:
    """The study as one HTML page without script or outside reference; the frame is page.html.

    The frame holds the prose: a <section> and a line of the contents for each part. What has no
    data is cut out of both; CSS counts what is left.
    *Errors*: ValueError for a frame that has no place for a part.
    """
    parts = {
        "answer": part_answer, "table": part_table, "comparisons": part_comparisons,
        "matrices": part_matrices, "bias": part_bias, "strength": part_strength,
        "robust": part_robust, "examples": part_examples, "runs": part_runs,
    }  # fmt: skip
    if lost := [name for name in parts if f"${name}" not in template]:
        raise ValueError(f"page.html: no place for {lost}. Write ${lost[0]} in a section.")
    found = {name: part(study) for name, part in parts.items()}
    for name in [name for name, content in found.items() if not content]:
        template = re.sub(rf'<li><a href="#{name}">.*?</li>\s*', "", template)
        template = re.sub(rf'(?s)<section id="{name}">.*?</section>\s*', "", template)
    rule = study.get("about", {}).get("baseline_rule", "the baseline")
    found |= {"title": safe(study["question"]), "baseline": safe(rule)}
    return Template(template).substitute(found)


# ---- the study


def make_study(runs: list[dict], command: str = "") -> dict:
    """Everything that the report says, from finished runs; what page.py draws.

    *Errors*: ValueError for runs that cannot be compared.
    """
    groups = named_runs(runs)
    labels = [r["attack"] for run in runs for r in run["results"]]
    every = [*dict.fromkeys(labels)]
    without = [a for a in every if a.startswith("lir:")]
    names = [a for a in every if not a.endswith(":control") and a not in without]
    plain = [n for n, m in groups.items() if m[0].get("robust") == "none"] or [*groups]
    plain = [n for n in plain if n.startswith("hybrid")] or plain
    scores, manifests, minutes = Scores(groups), [], {}
    for name, members in groups.items():
        each = [m | {"name": Path(m["folder"]).name} for m in map(manifest_of, members)]
        manifests += [m for m in each if "flags" in m]
        spent = [m["seconds"] / 60 for m in each if m.get("seconds")]
        minutes[name] = float(np.median(spent)) if spent else None
    comparisons = make_comparisons(scores, names) if len(groups) > 1 else []
    first = runs[0]
    return {
        "question": QUESTION, "answer": answer(comparisons, groups),
        "about": {
            "data": Path(first["data"]).name, "split": first["split"], "languages": first["langs"],
            "n_queries": first["n_queries"], "n_passages": first["n_passages"],
            "n_groups": len(set(scores.group.tolist())), "versions": first["versions"],
            "chance": first["chance"], "note": NOTE,
            "baseline_rule": "plain training on the same batches (plain rows: hybrid batches)",
        },
        "recipes": list(groups), "attacks": every,
        "table": study_table(groups, every, comparisons, minutes), "comparisons": comparisons,
        "matrices": matrices(groups, names), "bias": bias_rows(groups, [*names, *without]),
        "strength": strength_rows(groups, every),
        "robust_r1": robust_r1(scores, names), "examples": examples_of(groups, plain[0]),
        "runs": manifests, "commands": [command] * bool(command) + repeat(manifests),
    }  # fmt: skip


def write_report(path: Path, study: dict) -> None:
    """report.html, and beside it the same numbers as .md and .json."""
    frame = (Path(__file__).parent / "data/report/page.html").read_text(encoding="utf-8")
    write_json(path.with_suffix(".json"), study)
    for suffix, content in (
        (".html", render(study, frame)), (".md", markdown(study)),
    ):  # fmt: skip
        path.with_suffix(suffix).write_text(content, encoding="utf-8")


def conclude(runs: list[dict], report: Path | None) -> None:
    """Print the answer in sentences if there is something to compare, and write the report."""
    kept = [run for run in runs if run["folder"]]
    if len(kept) < len(runs):
        if report:
            raise ValueError("--report needs the single queries: give --out to keep them.")
        print("no comparison: --out would keep the single queries it needs", file=sys.stderr)
        return
    if report or len({run["recipe"] for run in runs}) > 1:
        study = make_study(runs, shlex.join(["python", *sys.argv]))
        print("".join(f"\n- {text}" for text in study["answer"]) + "\n" * bool(study["answer"]))
        if report:
            write_report(report, study)
            print(f"{report}, and .md, .json beside it", file=sys.stderr)


def main(argv=None) -> int:
    """Compare runs that evaluate.py has measured. Exit 0 done, 1 failed, 2 usage."""
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(description=first, allow_abbrev=False, formatter_class=Help)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run of train.py")
    parser.add_argument("--metrics", default="metrics.json", help="file of each run")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help=".md, .json beside")
    args = parser.parse_args(argv)
    try:
        runs = [read_metrics(path, args.metrics) for path in args.runs]
        print(table(runs))
        conclude(runs, args.report)
    except (ValueError, OSError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
