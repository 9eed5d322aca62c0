"""Study finished runs: what evaluate.py measured -> statistics, an answer in sentences, one page.

    d[s, g] = mAP of recipe a - mAP of recipe b, of seed s on question g (mean over its languages)
    mean of d -> interval (bootstrap) and p (sign flips, Holm) -> "hybrid is above x-y by ..."

    run folder -> Evaluated (metrics.json) -> Recipe (all its seeds) -> Measured (one condition)
               -> a row of a table;  two recipes -> Comparison -> a part of a sentence

Where to look next: `compare` is the statistics, `make_comparisons` what is compared with what,
`answer` the sentences, `make_study` everything that the page and its .json hold.
Left out on purpose: scipy, pandas, a plotting library, scripts in the page.
Differs from the papers: they print one seed without an interval. Here two recipes are compared
question by question, and a difference counts only if it holds for other questions and other seeds.

Shapes: S seeds, Q queries, G groups (a question in all its languages), N resamples, A conditions
(clean and the attacks of a suite).
"""

import argparse
import html
import math
import re
import shlex
import signal
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from statistics import NormalDist
from string import Template

if __name__ == "__main__":  # Ctrl-C while torch is imported: an end without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np

import xlt
from evaluate import (
    CLEAN,
    VIEWS,
    Condition,
    Evaluated,
    array_name,
    condition_of,
    conditions_of,
    markdown_table,
    mean_of,
    number,
    read_arrays,
    read_evaluated,
    read_finished,
)

# One screen of results: the hybrid-batch paper's columns (R@1 in the pool could not exceed 1/11)
COLUMNS = (
    ("mono", "mAP"), ("cross", "mAP"), ("pool", "mAP"), ("mono", "R@1"), ("cross", "R@1"),
    ("pool", "R@10"), ("pool", "rank_distance"),
)  # fmt: skip
QUESTION = (
    "How does hybrid-batch training affect the robustness of the encoder against adversarial "
    "queries in zero-shot cross-lingual retrieval, compared with contrastive training on "
    "monolingual or cross-lingual batches?"
)
NOTE = (
    "Differences are in mAP. Means over seeds, macro-averaged over the queries' languages. "
    "Intervals: bootstrap over seeds and questions (the translations of a question are one unit). "
    "p: paired randomisation test over questions, Holm's correction over all comparisons of this "
    "page. Significant: both agree."
)
ONE_SEED = "One seed only: the intervals speak of other questions, not of other seeds."
FRAME = Path(__file__).parent / "data/report/frame.html"  # head and colours of every page
BODY = FRAME.with_name("page.html")  # the prose of this one: a <section> for each part
SIGNATURE = "written by study.py as a report"  # in each file of a report, which may then replace it
PARENTS = ("x-x-mono", "x-y")  # what hybrid batches are mixed from
MARKS = {"+": "▲", "-": "▼", "": ""}  # significantly above, below; neither
# Columns of two tables, and keys of their rows
PREFERRED = ("own_preferred", "right_own", "right_foreign", "wrong_own", "wrong_foreign")
BIAS = ("own_share@10", "expected_share", "foreign_rank", "rank_distance", *PREFERRED)
STRENGTH = ("broken_mono", "broken_pool", "edits", "norm", "calls", "least_changed")


# ---- statistics: is the difference real? ---------------------------------------------------------
# The translations of a question share its answer and most mistakes: one observation, not eleven.


def by_group(values: np.ndarray, groups) -> np.ndarray:
    """Mean of a per-query metric over the queries of each group; groups are sorted by name.

    by_group([.9, .2, .3], ["b", "a", "b"]) -> [.2, .6]

    *Shapes*: values (Q,) or (S, Q), groups (Q,) -> (G,) or (S, G). NaN (nothing relevant) is left
    out; a group of only NaN is NaN.
    *Errors*: ValueError if there is not one group a query.
    """
    values = np.asarray(values, dtype=float)
    groups = np.asarray(groups)
    if values.shape[-1:] != groups.shape:
        raise ValueError(f"values {values.shape}, groups {groups.shape}: give each query a group.")
    member = (groups[:, None] == np.unique(groups)).astype(float)  # (Q, G)
    real = ~np.isnan(values)
    total = np.where(real, values, 0) @ member  # (S, Q) @ (Q, G) -> (S, G)
    count = real @ member  # (S, G)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def widening(n: int, level: float = 0.95) -> float:
    """The factor by which a percentile interval from n units is too narrow: widen deviations by it.

        sqrt(n / (n - 1)) * t_{n-1} / z        n = 3: 2.69, n = 5: 1.58, n = 200: 1.01

    The root: deviations from a mean fitted to them are too small. t for z: their size is uncertain.
    *Source*: Hesterberg 2015, "narrowness bias"; he moves the percentiles, we the deviations.
    """
    # If the density of angle is proportional to cos(angle) ** (n - 2), then
    # t = sqrt(n - 1) tan(angle) has Student's distribution: no scipy needed. Integrated from 0
    # only: by symmetry the area up to an angle, over all, is P(|t| below it)
    angle = np.linspace(0, math.pi / 2, 10_001)
    density = np.cos(angle) ** (n - 2)
    area = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])  # sum of trapezia
    quantile = np.interp(level, area / area[-1], angle)
    t = math.sqrt(n - 1) * math.tan(quantile)
    z = NormalDist().inv_cdf((1 + level) / 2)
    return math.sqrt(n / (n - 1)) * t / z


def bootstrap(
    difference: np.ndarray, rng: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Interval (low, high) of the mean difference if other seeds and questions had been drawn.

        difference[s, g] = mean + seed[s] + group[g] + rest[s, g];  resample s and g, crossed

    *Shapes*: (S, G), paired by seed and group. S = 1: about other questions for this one seed.
    *Errors*: ValueError for NaN, or fewer than two groups.
    *Source*: Owen 2007, the pigeonhole bootstrap. Few units make it too narrow, so both effects are
    widened. But means of seeds differ even where seeds have no effect, by the rest in them: that
    share is taken out of seed[s], since resampling the rest brings it back. Simulated with normal
    effects, S 1 to 5, G 30 and 200, it covers the truth in .93 to .99 of cases (plain: .82).
    """
    if difference.ndim != 2 or difference.shape[1] < 2 or not np.isfinite(difference).all():
        raise ValueError(f"{difference.shape}: need (seeds, at least 2 groups), none of them NaN.")
    n_seeds, n_groups = difference.shape
    mean = difference.mean()
    seed = difference.mean(1, keepdims=True) - mean  # (S, 1)
    group = difference.mean(0, keepdims=True) - mean  # (1, G)
    rest = difference - mean - seed - group  # (S, G)
    if n_seeds > 1:
        # What the rest alone adds to sum(seed ** 2): (S - 1) / G times the variance of the rest,
        # which is sum(rest ** 2) / ((S - 1) (G - 1))
        from_rest = (rest**2).sum() / (n_groups - 1) / n_groups
        net_share = max(0.0, 1 - from_rest / max((seed**2).sum(), 1e-30))
        seed = seed * math.sqrt(net_share) * widening(n_seeds, level)
    widened = mean + seed + group * widening(n_groups, level) + rest  # (S, G)
    # How often each unit is drawn, in place of the draws: one product instead of N copies
    s = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), resamples) / n_seeds  # (N, S)
    g = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), resamples) / n_groups  # (N, G)
    means = (s * (g @ widened.T)).sum(1)  # (N, G) @ (G, S) -> (N, S) -> (N,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def randomisation_test(
    difference: np.ndarray, rng: np.random.Generator, rounds: int = 10_000, exact: int = 12
) -> float:
    """How often chance alone gives a mean difference this large, on either side.

        p = share of sign patterns with |mean_g(sign_g * d_g)| >= |mean_g(d_g)|

    Recipes that do not differ may be swapped for a question, in all its seeds and languages at
    once. With fewer than 6 groups p cannot be below .05. These seeds are taken as given: if seeds
    add as much noise as questions, p <= .05 comes by chance in .15 of cases. Call a difference real
    only if the interval excludes 0 as well.
    *Shapes*: (S, G). *Units*: p in (0, 1]; up to `exact` groups all 2^G patterns are counted, else
    (hits + 1) / (rounds + 1): the pattern seen is one of them.
    *Source*: Smucker et al. 2007.
    """
    d = difference.mean(0)  # (S, G) -> (G,)
    groups = len(d)
    if groups <= exact:
        flip = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1  # (2^G, G), the bits
    else:
        flip = rng.integers(0, 2, (rounds, groups), dtype=np.int8)  # (rounds, G)
    means = np.abs((1 - 2 * flip) @ d) / groups  # signs +1, -1: (rounds, G) @ (G,) -> (rounds,)
    # SUBTLE: equal means differ in their last bits; without the slack rounding breaks the tie
    slack = 1e-9 * np.abs(d).mean()
    hits = int((means >= abs(d.mean()) - slack).sum())
    if groups <= exact:
        return hits / len(flip)
    return (hits + 1) / (rounds + 1)


def holm(p_values) -> list[float]:
    """p values of m tests, adjusted so that the chance of any false alarm stays at the level.

        adjusted_(i) = max over j <= i of min(1, (m - j + 1) * p_(j)),   p_(1) <= ... <= p_(m)

    holm([.04, .01, .03]) -> [.06, .03, .06]

    *Source*: Holm 1979.
    """
    p = np.asarray(p_values, dtype=float)
    assert ((p >= 0) & (p <= 1)).all(), p  # NaN fails as well
    order = np.argsort(p, kind="stable")
    tests_left = len(p) - np.arange(len(p))  # m, m - 1, ..., 1
    steps = np.minimum(1, p[order] * tests_left)
    steps = np.maximum.accumulate(steps)
    return steps[np.argsort(order)].tolist()  # back into the order given


@dataclass(frozen=True)
class Difference:
    """Recipe a minus recipe b: the mean, its 95 % interval [low, high] and its p value."""

    difference: float
    low: float
    high: float
    p: float
    n_seeds: int
    n_groups: int


def compare(a, b, groups, rng, resamples: int = 2000, rounds: int = 10_000) -> Difference:
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
    p = randomisation_test(d, rng, rounds)
    seeds, n_groups = d.shape
    return Difference(float(d.mean()), low, high, p, seeds, n_groups)


# ---- recipes: the runs of one training setting ---------------------------------------------------


def batching_name(batching: str, alpha: float | None) -> str:
    """("hybrid", .3) -> "hybrid0.3"; the usual alpha, .5, and none at all are not told."""
    if alpha is None or alpha == 0.5:
        return batching
    return f"{batching}{alpha:g}"


def recipe_name(batching: str, alpha: float | None, robust: str) -> str:
    """("hybrid", .5, "adv:epsilon=0.1") -> "hybrid-adv_epsilon=0.1": no colon in a file's name."""
    return f"{batching_name(batching, alpha)}-{robust.replace(':', '_')}"


@dataclass
class Recipe:
    """One training setting and its runs, one a seed; a model that is no run is a recipe as well."""

    name: str
    batching: str | None  # None, as alpha and robust, if it is no run
    alpha: float | None
    robust: str | None
    variant: str  # hash of all other flags
    runs: list[Evaluated]  # by seed
    suffix: str = ""  # of its name, " (1a2b3c4d)", where there are runs of other flags as well

    @property
    def seeds(self):
        """[0, 1, 2], or [None] for a model."""
        return [run.metrics["seed"] for run in self.runs]

    @property
    def batches(self):
        """What sentences call it: "hybrid0.3", or the name of a model."""
        if self.batching is None:
            return self.name
        return batching_name(self.batching, self.alpha)

    def record(self):
        """As the study's .json holds it: without the runs."""
        record = vars(self).copy()
        del record["runs"]
        return record


def check_alike(run, first):
    """Refuse, with a ValueError, a run that was evaluated on something else than the first one."""
    for key in ("data_sha256", "split", "langs", "limit", "form", "no_self_hits", "precision"):
        if run.metrics[key] != first.metrics[key]:
            raise ValueError(f"{run.path}: another {key} than {first.path}. Evaluate them alike.")


def seed_of(run):
    """What the runs of a recipe are sorted by; a model that is no run has no seed."""
    seed = run.metrics["seed"]
    return 0 if seed is None else seed


def recipes_of(evaluated: list[Evaluated]) -> dict[str, Recipe]:
    """Recipes by name, each with its runs by seed.

    Runs of the same name but other flags are recipes of their own: "x-y-none (1a2b3c4d)".
    *Errors*: ValueError for a seed that is there twice, or runs of other data, split or languages.
    """
    members = defaultdict(list)  # (recipe, variant) -> its runs
    for run in evaluated:
        check_alike(run, evaluated[0])
        members[run.metrics["recipe"], run.metrics["variant"]].append(run)
    n_variants = Counter(name for name, _ in members)
    recipes = {}
    for (name, variant), runs in members.items():
        suffix = f" ({variant})" if n_variants[name] > 1 else ""
        name += suffix
        runs.sort(key=seed_of)
        first = runs[0].metrics
        recipe = Recipe(
            name, first["batching"], first["alpha"], first["robust"], variant, runs, suffix
        )
        for seed, times in Counter(recipe.seeds).items():
            if times > 1:
                raise ValueError(f"{name}: seed {seed} is given twice. Leave one out.")
        recipes[name] = recipe
    return recipes


@dataclass
class Measured:
    """What the runs of one recipe recorded under one condition."""

    recipe: Recipe
    condition: Condition
    by_run: list[list[dict]]  # records of each run that met the condition

    def records(self):
        """Those of all runs."""
        return list(chain(*self.by_run))

    def row(self):
        """How every row about it begins in the study's .json."""
        return {"recipe": self.recipe.name, **self.condition.fields(), "n": len(self.by_run)}


def all_measured(recipes: dict[str, Recipe]) -> list[Measured]:
    """Everything that was recorded, a recipe after the other, a condition after the other."""
    measured = []
    for recipe in recipes.values():
        by_condition = defaultdict(list)  # condition -> records of each run
        for run in recipe.runs:
            records_of_run = defaultdict(list)
            for record in run.metrics["results"]:
                records_of_run[condition_of(record)].append(record)
            for condition, records in records_of_run.items():
                by_condition[condition].append(records)
        for condition, by_run in by_condition.items():
            measured.append(Measured(recipe, condition, by_run))
    return measured


# ---- single queries ------------------------------------------------------------------------------


def open_queries(run):
    """The arrays in metrics.npz, beside metrics.json; none, and a warning, without this file."""
    path = run.path.with_suffix(".npz")
    if not path.exists():
        print(f"{path}: no such file, so no comparison with this run", file=sys.stderr)
        return {}
    arrays = read_arrays(path)
    shapes = {values.shape for values in arrays.values()}
    if len(shapes) > 1 or not {"id", "group"} <= arrays.keys():
        raise ValueError(f"{path}: lacks the queries' names. Delete it and evaluate once more.")
    return arrays


class QueryScores:
    """The metrics of every single query, in arrays (S, Q): a row a seed, a column a query.

    *Errors*: ValueError for runs with other queries.
    """

    def __init__(self, recipes: dict[str, Recipe]):
        self.files = {}  # (recipe's name, seed) -> arrays of this run
        ids, groups = None, []
        for recipe in recipes.values():
            for run in recipe.runs:
                arrays = open_queries(run)
                self.files[recipe.name, run.metrics["seed"]] = arrays
                if not arrays:
                    continue
                if ids is None:
                    ids, groups = arrays["id"], arrays["group"]
                if not np.array_equal(arrays["id"], ids):
                    raise ValueError(f"{run.path}: other queries. Evaluate this run once more.")
        self.group = np.unique(groups, return_inverse=True)[1]  # (Q,)

    def arrays(self, recipe: Recipe, seeds) -> list[dict]:
        """Those of each seed. A model that is no run has no seed, and the same ones for all."""
        if recipe.batching is None:
            seeds = recipe.seeds * len(seeds)
        return [self.files[recipe.name, seed] for seed in seeds]

    def values(self, recipe: Recipe, seeds, condition: Condition, view, metric) -> np.ndarray:
        """-> (S, Q), in the order of `seeds`."""
        name = array_name(condition, view, metric)
        return np.stack([arrays[name] for arrays in self.arrays(recipe, seeds)])

    def has(self, recipe: Recipe, seeds, condition: Condition, view, metric="mAP") -> bool:
        """Did all these seeds meet this condition, with an answer in at least two groups?"""
        name = array_name(condition, view, metric)
        if not all(name in arrays for arrays in self.arrays(recipe, seeds)):
            return False
        values = self.values(recipe, seeds, condition, view, metric)
        defined = np.isfinite(values).all(0)  # (S, Q) -> (Q,)
        return len(np.unique(self.group[defined])) > 1


# ---- comparisons ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Recipe a minus recipe b under one condition in one view.

    kind "batching": two batchings with the same robust training, `fixed`;
    kind "robust": a robust training against none, both with the batching `fixed`;
    kind "training": a run with robust training `fixed` against a model as it is;
    kind "recipe": the first recipe against each other one, where there is no such pair (models
    that are no runs, say); `fixed` is "".
    metric "mAP", or "mAP lost" to the attack: clean minus attacked.
    """

    kind: str
    a: str
    b: str
    fixed: str
    # Known from plan_comparisons on
    condition: Condition = CLEAN
    view: str = ""
    metric: str = "mAP"
    # Known from make_comparisons on
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    holm: float = math.nan  # p after Holm's correction
    significant: bool = False
    n_seeds: int = 0
    n_groups: int = 0

    def record(self):
        """As the study's .json holds it: the condition as fields of its own."""
        record = vars(self) | self.condition.fields()
        del record["condition"]
        return record


def pairs_alike(recipes):
    """What is compared among recipes of one variant: batchings first, then robust training."""
    names = {(recipe.batches, recipe.robust): recipe.name for recipe in recipes}
    # Each once, in the order of the recipes
    batchings = list(dict.fromkeys(recipe.batches for recipe in recipes))
    robusts = list(dict.fromkeys(recipe.robust for recipe in recipes))
    hybrids = [name for name in batchings if name.startswith("hybrid")]
    reference = [*hybrids, *batchings][0]  # hybrid, if there is any
    pairs = []
    for robust in robusts:
        for other in batchings:
            a, b = names.get((reference, robust)), names.get((other, robust))
            if a and b and a != b:
                pairs.append(Comparison("batching", a, b, robust))
    for batching in batchings:
        for robust in robusts:
            a, b = names.get((batching, robust)), names.get((batching, "none"))
            if a and b and a != b:
                pairs.append(Comparison("robust", a, b, batching))
    return pairs


def pairs_of(recipes):
    """What is compared, without a condition, a view or numbers yet.

    hybrid-none, x-y-none, hybrid-adv -> hybrid-none against x-y-none (kind batching, fixed none),
                                         hybrid-adv against hybrid-none (kind robust, fixed hybrid)
    and each of them against a model that is no run (kind training)
    """
    variants = defaultdict(list)
    for recipe in recipes.values():
        if recipe.batching is not None:
            variants[recipe.variant].append(recipe)
    pairs = []
    for alike in variants.values():
        pairs += pairs_alike(alike)
    for start in recipes.values():
        for alike in variants.values():
            if start.batching is None:
                pairs += [Comparison("training", a.name, start.name, a.robust) for a in alike]
    if pairs:
        return pairs
    first, *others = recipes.values()
    alike = [other for other in others if other.variant == first.variant]
    return [Comparison("recipe", first.name, other.name, "") for other in alike]


def shared_seeds(a, b):
    """The seeds that both recipes have: what can be paired. A model is paired with all runs."""
    if b.batching is None and a.batching is not None:
        return a.seeds
    return [seed for seed in a.seeds if seed in b.seeds]


def plan_comparisons(recipes, scores, conditions):
    """Every pair under every condition and view that both have met, still without numbers."""
    plan = []
    for pair in pairs_of(recipes):
        a, b = recipes[pair.a], recipes[pair.b]
        seeds = shared_seeds(a, b)
        if not seeds:
            continue
        for condition in conditions:
            for view in VIEWS:
                if not all(scores.has(recipe, seeds, condition, view) for recipe in (a, b)):
                    continue
                plan.append(replace(pair, condition=condition, view=view))
                # (What robust training saves is told by the attacked mAP itself)
                if condition.attack != "clean" and pair.kind != "robust":
                    plan.append(replace(plan[-1], metric="mAP lost"))
    return plan


def compared_values(recipe, seeds, comparison, scores):
    """What is compared of one recipe: mAP, or clean mAP minus attacked mAP. -> (S, Q)"""
    values = scores.values(recipe, seeds, comparison.condition, comparison.view, "mAP")
    if comparison.metric == "mAP":
        return values
    return scores.values(recipe, seeds, CLEAN, comparison.view, "mAP") - values


def judged(plan: list[Comparison], differences: list[Difference]) -> list[Comparison]:
    """The planned comparisons with their numbers; Holm's correction over all of them.

    Significant: the adjusted p is below .05 (about these seeds) and the interval, which also
    resamples the seeds, leaves out 0.
    """
    comparisons = []
    all_adjusted = holm([difference.p for difference in differences])
    for comparison, difference, adjusted in zip(plan, differences, all_adjusted, strict=True):
        numbers = vars(difference) | {"holm": adjusted}
        excludes_zero = difference.low > 0 or difference.high < 0
        significant = adjusted < 0.05 and excludes_zero
        comparisons.append(replace(comparison, **numbers, significant=significant))
    return comparisons


def make_comparisons(
    recipes: dict[str, Recipe], scores: QueryScores, conditions: list[Condition]
) -> list[Comparison]:
    """All comparisons, paired by seed and group."""
    plan = plan_comparisons(recipes, scores, conditions)
    # The smallest p possible, about 1 / rounds, times the number of tests must be below .05
    rounds = max(10_000, 40 * len(plan))
    rng = np.random.default_rng(0)
    differences = []
    for comparison in plan:
        a, b = recipes[comparison.a], recipes[comparison.b]
        seeds = shared_seeds(a, b)
        a_values = compared_values(a, seeds, comparison, scores)
        b_values = compared_values(b, seeds, comparison, scores)
        differences.append(compare(a_values, b_values, scores.group, rng, rounds=rounds))
    return judged(plan, differences)


# ---- the answer in sentences ---------------------------------------------------------------------


def decimals(value):
    """Three decimals, and never "-0.000"."""
    return f"{round(value, 3) + 0.0:.3f}"


def bounds(low, high):
    """(.012, .03) -> "[0.012, 0.030]"."""
    return f"[{decimals(low)}, {decimals(high)}]"


def enumeration(items, word):
    """(["a", "b", "c"], "or") -> "a, b or c"."""
    *others, last = items
    if not others:
        return last
    return f"{', '.join(others)} {word} {last}"


def sentence(subject: str, other: str, places: dict[str, Comparison]) -> str:
    """What comparisons of two recipes say: the differences that are significant, then the others.

    ("hybrid", "x-y", {"mono": .02 above, "cross": .01 below, "the pool": not significant}) ->
    hybrid is above x-y by 0.020 [0.012, 0.030] in mono and below it by 0.010 [0.004, 0.016] in
    cross; no significant difference in the pool (+0.001 [-0.004, 0.006]).
    """
    assert places, "nothing to say"
    above, below, undecided = [], [], []
    for place, c in places.items():
        if not c.significant or c.difference == 0:
            difference = f"{round(c.difference, 3) + 0.0:+.3f}"
            undecided.append(f"{place} ({difference} {bounds(c.low, c.high)})")
        elif c.difference > 0:
            above.append(f"{decimals(c.difference)} {bounds(c.low, c.high)} in {place}")
        else:  # told as an absolute value: low and high change places
            below.append(f"{decimals(-c.difference)} {bounds(-c.high, -c.low)} in {place}")
    if not above and not below:
        places_text = enumeration(undecided, "or")
        return f"{subject} does not differ significantly from {other} in {places_text}."
    if above and below:
        joint = " and "
        if len(above) > 1 or len(below) > 1:  # a list of its own stands on a side of this "and"
            joint = ", and "
        higher, lower = enumeration(above, "and"), enumeration(below, "and")
        text = f"{subject} is above {other} by {higher}{joint}below it by {lower}"
    elif above:
        text = f"{subject} is above {other} by {enumeration(above, 'and')}"
    else:
        text = f"{subject} is below {other} by {enumeration(below, 'and')}"
    if undecided:
        text += f"; no significant difference in {enumeration(undecided, 'or')}"
    return f"{text}."


def in_pool(comparisons, metric):
    """Those of one metric in the pool, by the condition's name for people."""
    places = {}
    for comparison in comparisons:
        if comparison.view == "pool" and comparison.metric == metric:
            places[comparison.condition.label] = comparison
    return places


def batching_sentences(comparisons, a, b):
    """Two batchings: a sentence a condition, and one on what the attacks take away."""
    subject, other = a.batches + a.suffix, b.batches + b.suffix
    training = comparisons[0].fixed
    if comparisons[0].kind == "recipe":  # they may differ in more than their batches
        subject, other = a.name, b.name
    elif training != "none":
        subject = f"{subject} with {training}"
        if b.batching is not None:  # not of a model as it is
            other = f"{other} with {training}"
    by_condition = defaultdict(dict)  # condition -> place -> comparison
    for comparison in comparisons:
        if comparison.metric == "mAP":
            place = "the pool" if comparison.view == "pool" else comparison.view
            by_condition[comparison.condition][place] = comparison
    sentences = []
    for condition, places in by_condition.items():
        start = "Clean"
        if condition.without_language:
            start = f"With {condition.label}"
        elif condition != CLEAN:
            start = f"Under {condition.label}"
        sentences.append(f"{start}: {sentence(subject, other, places)}")
    lost = in_pool(comparisons, "mAP lost")
    if lost:
        text = sentence(f"what {subject} loses", f"what {other} loses", lost)
        sentences.append(f"Lost to the attack, pool: {text}")
    return sentences


def answer(comparisons: list[Comparison], recipes: dict[str, Recipe]) -> list[str]:
    """The comparisons in sentences: batchings without robust training, then robust training.

    Of robust training only what it does to hybrid batches is told, in the pool; with a model as it
    is, only hybrid batches are compared.
    """
    by_pair = defaultdict(list)  # (a, b) -> comparisons
    for comparison in comparisons:
        by_pair[comparison.a, comparison.b].append(comparison)
    trainings = [c.fixed for c in comparisons if c.kind == "batching"]
    if not trainings:  # with a model as it is, only hybrid batches are told
        of_model = [c for c in comparisons if c.kind == "training"]
        trainings = [c.fixed for c in of_model if recipes[c.a].batches.startswith("hybrid")]
    # Batchings were compared at every robust training; they are told at one: none, or the first
    told = "none"
    if trainings and told not in trainings:
        told = trainings[0]
    sentences = []
    for (a, b), members in by_pair.items():
        kind, fixed = members[0].kind, members[0].fixed
        if kind == "robust":
            places = in_pool(members, "mAP")
            if fixed.startswith("hybrid") and places:
                robust = recipes[a].robust + recipes[a].suffix
                text = sentence(robust, "plain training", places)
                sentences.append(f"{fixed.capitalize()} batches, pool: {text}")
        elif kind == "training" and not recipes[a].batches.startswith("hybrid"):
            continue
        elif fixed == told or kind == "recipe":
            sentences += batching_sentences(members, recipes[a], recipes[b])
    if any(comparison.n_seeds == 1 for comparison in comparisons):
        sentences.append(ONE_SEED)
    return sentences


def against_parents(comparisons: list[Comparison], recipes) -> dict[str, list[Comparison]]:
    """Plain hybrid batches against each plain parent: "x-x-mono" -> comparisons, "x-y" -> ...

    A parent's name has the suffix of its recipe: runs of other flags are parents of their own.
    """
    members = defaultdict(list)
    for c in comparisons:
        parent = recipes[c.b].batching
        of_hybrid = c.kind == "batching" and recipes[c.a].batching == "hybrid"
        if of_hybrid and c.fixed == "none" and parent in PARENTS:
            members[parent + recipes[c.b].suffix].append(c)
    return members


def attacks_sentence(members: dict[str, list[Comparison]]) -> str:
    """How often hybrid is above and below its parents under attack, in the pool; "" without any."""
    parts, losses, attacks = [], [], set()
    for parent, comparisons in members.items():
        attacked = [c for c in comparisons if c.condition.attack != "clean" and c.view == "pool"]
        attacks.update(c.condition for c in attacked)
        above = sum(c.significant and c.difference > 0 for c in attacked if c.metric == "mAP")
        below = sum(c.significant and c.difference < 0 for c in attacked if c.metric == "mAP")
        parts.append(f"above {parent} in {above} and below it in {below}")
        lost = [c for c in attacked if c.metric == "mAP lost"]
        more = sum(c.significant and c.difference > 0 for c in lost)
        less = sum(c.significant and c.difference < 0 for c in lost)
        losses.append(f"{more} take more mAP from it than from {parent} and {less} less")
    if not attacks:
        return ""
    return (
        f"Under {len(attacks)} attacks, in the pool: hybrid is significantly {', '.join(parts)}. "
        f"Of the attacks, {'; '.join(losses)}."
    )


def summary(comparisons: list[Comparison], recipes: dict[str, Recipe]) -> list[str]:
    """Three sentences: plain hybrid batches against their parents, clean, then attacked.

    Without such runs the first three of `answer`.
    """
    members = against_parents(comparisons, recipes)
    sentences = []
    for of_parent in members.values():
        clean = [c for c in of_parent if c.condition == CLEAN]
        if clean:
            a, b = recipes[clean[0].a], recipes[clean[0].b]
            sentences += batching_sentences(clean, a, b)
    sentences.append(attacks_sentence(members))
    sentences = [text for text in sentences if text]
    return sentences or answer(comparisons, recipes)[:3]


# ---- tables: rows of numbers ---------------------------------------------------------------------
# A row is a dict, as the .json holds it: "recipe", Condition.fields(), "n" seeds, and its numbers.


def mean_sd(values) -> list[float | None]:
    """[mean, standard deviation over seeds], None where there is none. None and NaN are left out.

    mean_sd([.4, .6]) -> [.5, .1414]; mean_sd([.4, None]) -> [.4, None]
    """
    values = np.array(values, dtype=float)  # None becomes NaN
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return [None, None]
    if len(values) == 1:
        return [float(values[0]), None]
    return [float(values.mean()), float(values.std(ddof=1))]


def mean(values) -> float | None:
    """The mean of those that are not None."""
    return mean_sd(values)[0]


def marks_of(comparisons):
    """(recipe, condition) -> view -> "+" or "-": significantly above or below its baseline in mAP.

    The baseline of robust training is plain training on the same batches, that of another
    batching is hybrid, both plain.
    """
    marks = defaultdict(dict)
    for c in comparisons:
        if not c.significant or c.metric != "mAP":
            continue
        if c.kind == "robust":
            marks[c.a, c.condition][c.view] = "+" if c.difference > 0 else "-"
        elif c.kind == "batching" and c.fixed == "none":
            # a is the baseline and b is marked: a minus b above 0 means that b is below
            marks[c.b, c.condition][c.view] = "-" if c.difference > 0 else "+"
    return marks


def manifest_of(run):
    """What the report says of a run, from its run.json."""
    manifest = read_finished(run.run)
    flags = manifest["flags"]
    return {
        "name": run.run.name,
        "seed": flags["seed"],
        "device": flags["device"],
        "seconds": manifest["seconds_training"],
        "commit": manifest["commit"],
        "data_sha256": manifest["data_sha256"],
        "versions": manifest["versions"],
        "flags": flags,
    }


def minutes_of(recipe):
    """Median minutes of training; None for a model that is no run."""
    seconds = [manifest_of(run)["seconds"] for run in recipe.runs if run.run is not None]
    if not seconds:
        return None
    return float(np.median(seconds)) / 60


def language_sets(langs: list[str], trained: list[str] | None) -> dict[str, list[str]]:
    """All query languages, those trained on, and the others, as far as there are any."""
    sets = {"all": langs}
    if trained:
        sets["trained"] = trained
        sets["untrained"] = [lang for lang in langs if lang not in trained]
    return sets


def trained_langs(measured):
    """Name of a recipe -> the languages that it was trained on.

    A model that is no run is shown beside them, by the languages of the first recipe that is one.
    """
    trained = {}
    for one in measured:
        trained[one.recipe.name] = one.recipe.runs[0].metrics["train_langs"]
    first = next(filter(None, trained.values()), None)
    return {name: langs or first for name, langs in trained.items()}


def cells_of(by_run):
    """view -> metric -> [mean, sd] for COLUMNS, from the records of each run.

    A run's number is the mean over its records: each language counts once.
    """
    cells = defaultdict(dict)
    for view, metric in COLUMNS:
        values = []
        for records in by_run:
            in_view = [record for record in records if record["view"] == view]
            values.append(mean_of(in_view, metric))
        cells[view][metric] = mean_sd(values)
    return cells


def main_rows(measured, comparisons):
    """A row a recipe, condition and set of query languages ("all", "trained", "untrained").

    Beside what all rows have: "langs", "cells" as of `cells_of`, "minutes" of training, and for all
    languages "marks" as of `marks_of`.
    """
    marks, rows = marks_of(comparisons), []
    trained = trained_langs(measured)
    for one in measured:
        minutes = minutes_of(one.recipe)
        all_langs = one.recipe.runs[0].metrics["langs"]
        for label, langs in language_sets(all_langs, trained[one.recipe.name]).items():
            by_run = []
            for records in one.by_run:
                by_run.append([record for record in records if record["query_lang"] in langs])
            if not any(by_run):
                continue
            row = one.row() | {"langs": label, "cells": cells_of(by_run), "marks": {}}
            if label == "all":
                row["marks"] = marks[one.recipe.name, one.condition]
            rows.append(row | {"minutes": minutes})
    return rows


def strength_rows(measured):
    """What each attack did, a row a recipe and attack, of the numbers of STRENGTH.

    *Units*: broken: share of the attacked queries that were right before and are not after; the
    others are means over seeds and languages, of the pool if it was attacked. least_changed: the
    smallest share of really changed queries in a language, so that none passes for robust.
    """
    rows = []
    for one in measured:
        attacked = defaultdict(list)  # view -> records
        for record in one.records():
            if "n_broken" in record and record["n_queries"]:
                attacked[record["view"]].append(record)
        row = one.row()
        for view in ("mono", "pool"):
            right = sum(record["n_right"] for record in attacked[view])
            broken = sum(record["n_broken"] for record in attacked[view])
            row[f"broken_{view}"] = broken / right if right else None
        records = attacked["pool"]
        if not records:
            records = attacked["mono"]
        if not records:
            continue
        for key in ("edits", "norm", "calls"):
            row[key] = mean_of(records, key)
        row["least_changed"] = min(record["n_changed"] / record["n_queries"] for record in records)
        rows.append(row)
    return rows


def bias_rows(measured):
    """Does the pool of all languages prefer the query's own? A row a recipe and condition, of BIAS.

    "expected_share": what a model without a preference would give the query's own language.
    """
    rows = []
    for one in measured:
        records = [record for record in one.records() if record["view"] == "pool"]
        shares = one.recipe.runs[0].metrics["own_share"]  # language -> share of the pool
        row = one.row()
        row["expected_share"] = mean([shares.get(record["query_lang"], 0.0) for record in records])
        for key in ("own_share@10", "foreign_rank", "rank_distance", *PREFERRED):
            row[key] = mean_of(records, key)
        if row["foreign_rank"] is not None:
            rows.append(row)
    return rows


def matrices(measured, most=3):
    """mAP of each query language (down) by each passage language (across), of plain recipes.

    "metric", "langs" and "values" (langs, langs); at most `most` a recipe, of conditions that met
    `cross`.
    """
    maps, shown = [], Counter()
    for one in measured:
        values = defaultdict(list)  # (query language, passage language) -> mAP of each run
        for record in one.records():
            # Mono is the diagonal; the smoothed retriever has no mAP
            if record["view"] != "pool" and record["mAP"] is not None:
                values[record["query_lang"], record["passage_lang"]].append(record["mAP"])
        met_cross = any(a != b for a, b in values)
        plain = one.recipe.robust in (None, "none")
        if met_cross and plain and shown[one.recipe.name] < most:
            shown[one.recipe.name] += 1
            langs = sorted({query_lang for query_lang, _ in values})
            lines = []
            for query_lang in langs:
                lines.append([mean(values[query_lang, passage_lang]) for passage_lang in langs])
            maps.append(one.row() | {"metric": "mAP", "langs": langs, "values": lines})
    return maps


def robust_row(recipe, scores, suite, view):
    """Share of queries whose first passage is right: clean, and under the whole suite. [mean, sd]

    Not the R@1 of the records, a recall: of eleven relevant passages it gives the first one 1/11.
    """
    recall = [scores.values(recipe, recipe.seeds, c, view, "R@1") for c in suite]
    recall = np.stack(recall)  # (A, S, Q)
    answered = ~np.isnan(recall).any((0, 1))  # (Q,)
    right = recall[..., answered] > 0  # (A, S, Q)
    return {
        "recipe": recipe.name,
        "view": view,
        "n": len(recipe.runs),
        "attacks": len(suite) - 1,
        "clean": mean_sd(right[suite.index(CLEAN)].mean(1)),  # (S, Q) -> (S,)
        "robust": mean_sd(right.all(0).mean(1)),
    }


def robust_rows(recipes, scores, conditions):
    """A row a recipe and view. All recipes that met clean and two attacks share one suite.

    LIR and centring are no attacks. Records that hold no single queries have no such row.
    """
    conditions = [condition for condition in conditions if not condition.without_language]
    rows = []
    for view in ("mono", "pool"):
        suite, attacked = conditions, []
        for recipe in recipes.values():
            seeds = recipe.seeds
            met = [c for c in conditions if scores.has(recipe, seeds, c, view, "R@1")]
            if len(met) > 2:  # clean and two attacks
                attacked.append(recipe)
                suite = [condition for condition in suite if condition in met]
        if len(suite) > 2:
            rows += [robust_row(recipe, scores, suite, view) for recipe in attacked]
    return rows


def examples_of(recipe):
    """Attacked queries of the pool: of the first seed and the first attack, one a language."""
    examples = [e for e in recipe.runs[0].metrics["examples"] if e["view"] == "pool"]
    first = conditions_of(examples)[:1]
    return [e | {"recipe": recipe.name} for e in examples if condition_of(e) in first]


# ---- tables: text, for the terminal, the .md file and the page -----------------------------------


def pair_text(pair, metric=""):
    """[mean, standard deviation] -> ".463 ±.004"; [.463, None] -> ".463"; [None, None] -> "-"."""
    text, spread = number(pair[0], metric), number(pair[1], metric)
    if pair[0] is None or pair[1] is None:
        return text
    return f"{text} ±{spread}"


def cell_text(row, view, metric):
    """A number of the main table with its mark: ".313 ±.004▼"."""
    text = pair_text(row["cells"][view][metric], metric)
    if metric == "mAP":
        text += MARKS[row["marks"].get(view, "")]
    return text


def main_table(rows, chance):
    """`main_rows` as text, head first; the last row is a random ranking."""
    head = ["recipe", "condition", "languages", "n"]
    head += [f"{view} {metric.replace('_', ' ')}" for view, metric in COLUMNS]
    table = [[*head, "minutes"]]
    for row in rows:
        cells = [cell_text(row, view, metric) for view, metric in COLUMNS]
        minutes = number(row["minutes"], "minutes")
        label = condition_of(row).label
        table.append([row["recipe"], label, row["langs"], str(row["n"]), *cells, minutes])
    luck = [number(chance[view].get(metric), metric) for view, metric in COLUMNS]
    table.append(["chance", "", "all", "", *luck, ""])
    return table


def key_table(rows, keys):
    """Rows of a recipe and a condition as text, head first; a column for each of `keys`."""
    table = [["recipe", "condition", "n", *(key.replace("_", " ") for key in keys)]]
    for row in rows:
        numbers = [number(row.get(key), key) for key in keys]  # an older study lacks some
        table.append([row["recipe"], condition_of(row).label, str(row["n"]), *numbers])
    return table


def p_text(p):
    """.0123 -> ".012", .0001 -> "<.001"."""
    return "<.001" if p < 0.001 else number(p)


def interval_text(row):
    """The interval of a comparison: ".012 to .030"."""
    return f"{number(row['low'])} to {number(row['high'])}"


def comparison_table(rows):
    """The comparisons as text, head first."""
    head = ["a", "b", "condition", "view", "metric", "a - b", "95 % interval", "p", "p (Holm)"]
    table = [[*head, "significant", "seeds", "groups"]]
    for row in rows:
        line = [row["a"], row["b"], condition_of(row).label, row["view"], row["metric"]]
        line += [number(row["difference"]), interval_text(row)]
        line += [p_text(row["p"]), p_text(row["holm"]), "yes" if row["significant"] else "no"]
        table.append([*line, str(row["n_seeds"]), str(row["n_groups"])])
    return table


# ---- the study -----------------------------------------------------------------------------------


def command_of(recipe):
    """How to train it again; flags that are no defaults stand in the runs' manifests."""
    command = ["python", "train.py", "--batching", recipe.batching]
    if recipe.alpha not in (None, 0.5):
        command += ["--alpha", f"{recipe.alpha:g}"]
    command += ["--robust", recipe.robust, "--seed", *map(str, recipe.seeds)]
    return shlex.join(command)


def reference_of(recipes):
    """The recipe whose attacked queries are shown: plain hybrid, or what comes closest."""
    plain = [recipe for recipe in recipes.values() if recipe.robust == "none"]
    hybrid = [recipe for recipe in plain if recipe.batching == "hybrid"]
    return [*hybrid, *plain, *recipes.values()][0]


def make_study(evaluated: list[Evaluated], command: str = "") -> dict:
    """Everything that the report says, as its .json holds it. `command` is what made it.

    *Errors*: ValueError for runs that cannot be compared.
    """
    recipes = recipes_of(evaluated)
    measured = all_measured(recipes)
    conditions = list(dict.fromkeys(one.condition for one in measured))
    compared = [condition for condition in conditions if not condition.control]
    scores = QueryScores(recipes)
    comparisons = []
    if len(recipes) > 1:
        comparisons = make_comparisons(recipes, scores, compared)
    trained = [recipe for recipe in recipes.values() if recipe.batching is not None]
    commands = [command_of(recipe) for recipe in trained]
    if command:
        commands.insert(0, command)
    first = evaluated[0].metrics
    return {
        "question": QUESTION,
        "summary": summary(comparisons, recipes),
        "answer": answer(comparisons, recipes),
        "about": {
            "data": Path(first["data"]).name,
            "split": first["split"],
            "languages": first["langs"],
            "n_queries": first["n_queries"],
            "n_passages": first["n_passages"],
            "n_groups": len(np.unique(scores.group)),
            "versions": first["versions"],
            "chance": first["chance"],
            "note": NOTE,
        },
        "recipes": [recipe.record() for recipe in recipes.values()],
        "conditions": [condition.fields() for condition in conditions],
        "table": main_rows(measured, comparisons),
        "comparisons": [comparison.record() for comparison in comparisons],
        "matrices": matrices([one for one in measured if one.condition in compared]),
        "bias": bias_rows([one for one in measured if not one.condition.control]),
        "strength": strength_rows(measured),
        "robust_r1": robust_rows(recipes, scores, compared),
        "examples": examples_of(reference_of(recipes)),
        "runs": [manifest_of(run) for run in evaluated if run.run is not None],
        "commands": commands,
    }


# ---- the page: elements --------------------------------------------------------------------------
# What is put into markup is a number, a word of this file, or text that went through `safe`.

RIGHT_TO_LEFT = ("ar", "fa", "he", "ur")
PALE, DARK = (247, 251, 255), (8, 48, 107)  # RGB of the lowest and the highest number of a heat map


def safe(text):
    """Text as XML can hold it: escaped, and no control characters. "a < b" -> "a &lt; b"."""
    legal = re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return html.escape(legal)


def speech(markup, lang):
    """Foreign text, already escaped, with its language and its direction."""
    direction = "ltr"
    # SUBTLE: "+33", the answer to an Arabic question, has no Arabic letter: it would become "33+"
    if lang.split("-")[0] in RIGHT_TO_LEFT and re.search("[\u0590-\u08ff]", markup):
        direction = "rtl"
    return f'<span lang="{safe(lang)}" dir="{direction}">{markup}</span>'


def table_row(cells):
    """A row from markup; its first cell names it."""
    first, *others = cells
    others = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr><th scope="row">{first}</th>{others}</tr>'


def grid(caption, head, rows, kind):
    """A table in a box that scrolls by itself; `rows` are <tr> elements.

    The first k columns of kind "wk" hold words and start at the left, the others hold numbers.
    """
    head = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(rows)
    return (
        f'<figure><figcaption>{caption}</figcaption><div class="wide" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></figure>\n"
    )


def text_grid(caption, table, kind):
    """A table of text, head first; "" if it has no rows."""
    head, *lines = table
    if not lines:
        return ""
    rows = []
    for line in lines:
        rows.append(table_row([safe(cell) for cell in line]))
    return grid(caption, [safe(cell) for cell in head], rows, kind)


def folded(title, markup):
    """Markup behind a click."""
    return f"<details><summary>{title}</summary>{markup}</details>"


def light(channel):
    """An 8-bit colour channel as linear light in [0, 1]. *Source*: sRGB, as WCAG 2.2 cites it."""
    if channel <= 10:
        return channel / 255 / 12.92
    return ((channel / 255 + 0.055) / 1.055) ** 2.4


def shade(share):
    """CSS of a heat map's cell: its colour, and black or white ink, whichever has more contrast.

        contrast = (L + .05) / .05 in black, 1.05 / (L + .05) in white; equal, 4.58, at L = .179

    *Units*: share of the way from the lowest to the highest number, in [0, 1].
    *Source*: WCAG 2.2, relative luminance L and contrast ratio (4.5 asked for).
    """
    r, g, b = [round(low + (high - low) * share) for low, high in zip(PALE, DARK, strict=True)]
    luminance = 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b)
    ink = "#000" if luminance > 0.179 else "#fff"
    return f"background:rgb({r},{g},{b});color:{ink}"


def heat_cell(value, low, high):
    """A number on its colour."""
    if value is None:
        return "<span>-</span>"
    share = (value - low) / (high - low) if high > low else 0
    return f'<span style="{shade(share)}">{number(value)}</span>'


@dataclass(frozen=True)
class Scale:
    """The values from low to high, laid out on a forest plot 240 units wide."""

    low: float
    high: float

    def x(self, value):
        """The place of a value, from 14 to 226."""
        share = (value - self.low) / (self.high - self.low)
        return round(14 + 212 * share, 1)

    def ticks(self):
        """About four round numbers: a step of 1, 2 or 5 times a power of ten. [-.02, 0, .02]"""
        least = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= least * 0.999)
        first = math.ceil(self.low / step - 1e-6)
        last = math.floor(self.high / step + 1e-6)
        return [k * step for k in range(first, last + 1)]


def strip(scale, top, marks):
    """One row of a forest plot: marks over a line at each tick, from `top` to the lower end."""
    lines = ""
    for tick in scale.ticks():
        x, kind = scale.x(tick), "rule"
        if tick == 0:
            kind = "zero"
        lines += f'<line x1="{x}" x2="{x}" y1="{top}" y2="22" class="{kind}"/>'
    return f'<svg viewBox="0 0 240 22" class="strip" aria-hidden="true">{lines}{marks}</svg>'


def axis(scale):
    """The row with the ticks' labels."""
    labels = ""
    for tick in scale.ticks():
        labels += f'<text x="{scale.x(tick)}" y="13" text-anchor="middle">{tick:g}</text>'
    return strip(scale, 18, labels)


def interval_bar(row, scale):
    """The interval of one comparison and a dot, which is a ring if it is not significant."""
    low, middle, high = [scale.x(row[key]) for key in ("low", "difference", "high")]
    kind = "dot" if row["significant"] else "dot hollow"
    bar = f'<line x1="{low}" x2="{high}" y1="11" y2="11" class="bar"/>'
    dot = f'<circle cx="{middle}" cy="11" r="4" class="{kind}"/>'
    return strip(scale, 0, bar + dot)


# ---- the page: its parts, each "" without data ---------------------------------------------------

# One table of mAP each, recipes down, conditions across: (view, query languages)
PAGE_TABLES = (("pool", "all"), ("mono", "all"), ("cross", "all"), ("pool", "untrained"))


def map_table(rows, view):
    """mAP in one view as text: recipes down, conditions across."""
    texts = defaultdict(dict)  # recipe -> condition -> text
    seeds, conditions = defaultdict(set), []  # not every seed may have met every attack
    for row in rows:
        recipe, condition = row["recipe"], condition_of(row)
        texts[recipe][condition] = cell_text(row, view, "mAP")
        seeds[recipe].add(row["n"])
        if condition not in conditions:
            conditions.append(condition)
    table = [["recipe", "n", *(condition.label for condition in conditions)]]
    for recipe, cells in texts.items():
        n = enumeration([str(count) for count in sorted(seeds[recipe])], "or")
        table.append([recipe, n, *(cells.get(c, "-") for c in conditions)])
    return table


def part_table(study):
    """A table for each of PAGE_TABLES."""
    markup = ""
    for view, langs in PAGE_TABLES:
        rows = [row for row in study["table"] if row["langs"] == langs]
        rows = [row for row in rows if row["cells"][view]["mAP"][0] is not None]
        luck = number(study["about"]["chance"][view].get("mAP"))
        caption = f"<b>{view} mAP</b>, queries of {langs} languages; a random ranking has {luck}"
        markup += text_grid(caption, map_table(rows, view), "w9")
    return markup


def forest(metric, rows):
    """The comparisons of one metric, drawn in the rows of their table."""
    low = min(0, *(row["low"] for row in rows))
    high = max(0, *(row["high"] for row in rows))
    scale = Scale(low, high if high > low else low + 1)
    head = ["a minus b", axis(scale), "difference", "95 % interval", "p (Holm)", "seeds"]
    lines = []
    for row in rows:
        names = safe(f"{row['a']} minus {row['b']}")
        where = safe(f"{condition_of(row).label}, {row['view']}")
        difference = number(row["difference"])
        if row["significant"]:
            difference = f"<b>{difference}</b>"
        numbers = [difference, interval_text(row), safe(p_text(row["holm"])), str(row["n_seeds"])]
        name = f"{names}<small>{where}</small>"
        lines.append(table_row([name, interval_bar(row, scale), *numbers]))
    return grid(f"<b>{metric}</b>", head, lines, "w1 forest")


def forests(rows):
    """A forest plot a metric."""
    by_metric = defaultdict(list)
    for row in rows:
        by_metric[row["metric"]].append(row)
    return "".join(forest(metric, members) for metric, members in by_metric.items())


def parent_rows(study, view):
    """mAP of plain hybrid batches minus each plain parent: condition -> parent -> comparison."""
    batchings, suffixes = {}, {}  # of plain recipes, by name
    for recipe in study["recipes"]:
        if recipe["robust"] == "none":
            batchings[recipe["name"]] = recipe["batching"]
            suffixes[recipe["name"]] = recipe["suffix"]
    rows = defaultdict(dict)
    for row in study["comparisons"]:
        parent = batchings.get(row["b"])
        of_hybrid = row["kind"] == "batching" and batchings.get(row["a"]) == "hybrid"
        if of_hybrid and parent in PARENTS and (row["view"], row["metric"]) == (view, "mAP"):
            # As `against_parents` names it: runs of other flags are parents of their own
            rows[condition_of(row)][parent + suffixes[row["b"]]] = row
    return rows


def picture(study, view):
    """Hybrid minus each parent, a row a condition: dots with intervals, all on one scale."""
    rows = parent_rows(study, view)
    drawn = [row for of_condition in rows.values() for row in of_condition.values()]
    if not drawn:
        return ""
    low = min(0, *(row["low"] for row in drawn))
    high = max(0, *(row["high"] for row in drawn))
    scale = Scale(low, high if high > low else low + 1)
    names = set()
    for comparison_of in rows.values():
        names.update(comparison_of)
    parents = sorted(names)
    head = [f"minus {name}{axis(scale)}" for name in parents]
    lines = []
    for condition, found in rows.items():
        cells = [""] * len(parents)
        for place, name in enumerate(parents):
            if name in found:
                cells[place] = interval_bar(found[name], scale)
        lines.append(table_row([safe(condition.label), *cells]))
    where = {"pool": "in the pool of all languages", "mono": "within a language"}[view]
    caption = f"<b>mAP {where}</b>: right of the line, hybrid batches are better"
    return grid(caption, ["hybrid", *head], lines, "forest duel")


def part_answer(study):
    """What carries the answer: pictures, three sentences; all others behind a click."""
    basis = study["about"]
    versions = [f"{name} {version}" for name, version in basis["versions"].items()]
    facts = [
        f"{basis['data']}, {basis['split']} split",
        f"{basis['n_queries']:,} queries of {basis['n_groups']:,} questions",
        f"{basis['n_passages']:,} passages",
        "languages " + " ".join(basis["languages"]),
        *versions,
    ]
    markup = picture(study, "pool") + picture(study, "mono")
    sentences = "".join(f"<p>{safe(text)}</p>" for text in study["summary"])
    if sentences:
        markup += f'<div class="answer">{sentences}</div>'
    notes = [", ".join(facts), basis["note"]]
    if ONE_SEED in study["answer"]:
        notes.insert(0, ONE_SEED)  # in sight, whatever stands behind the click
    for note in notes:
        markup += f'<p class="note">{safe(note)}</p>'
    in_sight = [*study["summary"], ONE_SEED]
    others = [text for text in study["answer"] if text not in in_sight]
    if others:
        paragraphs = "".join(f"<p>{safe(text)}</p>" for text in others)
        plural = "s" if len(others) > 1 else ""
        markup += folded(f"{len(others)} more sentence{plural}", paragraphs)
    return markup


def part_comparisons(study):
    """Batchings under plain training in sight, the many others behind a click."""
    in_sight, behind = [], []
    for row in study["comparisons"]:
        if row["kind"] == "batching" and row["fixed"] == "none":
            in_sight.append(row)
        else:
            behind.append(row)
    if not in_sight:
        return forests(behind)
    markup = forests(in_sight)
    if behind:
        what = "robust training"
        if any(row["kind"] == "training" for row in behind):
            what = "models as they are, robust training"
        markup += folded(f"{len(behind)} more: {what}", forests(behind))
    return markup


def part_matrices(study):
    """Heat maps of query language by passage language, all on one scale."""
    values = []
    for matrix in study["matrices"]:
        for line in matrix["values"]:
            values += [value for value in line if value is not None]
    low, high = min(values, default=0), max(values, default=0)
    markup = ""
    for matrix in study["matrices"]:
        langs = [safe(lang) for lang in matrix["langs"]]
        rows = []
        for lang, line in zip(langs, matrix["values"], strict=True):
            cells = [heat_cell(value, low, high) for value in line]
            rows.append(table_row([lang, *cells]))
        label = safe(condition_of(matrix).label)
        what = f"{safe(matrix['metric'])}, n = {matrix['n']}"
        caption = f"<b>{safe(matrix['recipe'])}</b>, {label}, {what}"
        markup += grid(caption, ["", *langs], rows, "heat")
    return f'<div class="many">{markup}</div>' if markup else ""


def part_bias(study):
    """Does the pool prefer the query's own language?"""
    return text_grid("<b>Pool</b>", key_table(study["bias"], BIAS), "w2")


def part_strength(study):
    """What each attack changed and broke."""
    return text_grid("<b>Attacked queries</b>", key_table(study["strength"], STRENGTH), "w2")


def part_robust(study):
    """Share of queries whose first passage is right, clean and under every attack of the suite."""
    table = [["recipe", "view", "n", "attacks", "clean", "robust"]]
    for row in study["robust_r1"]:
        counts = [str(row["n"]), str(row["attacks"])]
        recalls = [pair_text(row["clean"]), pair_text(row["robust"])]
        table.append([row["recipe"], row["view"], *counts, *recalls])
    return text_grid("<b>First passage is right</b>, share of queries", table, "w2")


def marked_query(example):
    """The query with every edit in its place: what was taken out, then what was put in.

    "a red code", [[2, 5, "blue"]] -> a <del>red</del><ins>blue</ins> code
    """
    text, place, markup = example["text"], 0, ""
    for start, end, new in sorted(example["edits"]):
        assert place <= start <= end, f"{example['id']}: edits overlap: {example['edits']}"
        markup += safe(text[place:start])
        if end > start:
            markup += f"<del>{safe(text[start:end])}</del>"
        if new:  # it may be of another script
            markup += f'<ins dir="auto">{safe(new)}</ins>'
        place = end
    return markup + safe(text[place:])


def part_examples(study):
    """Attacked queries with what happened to their rank."""
    markup = ""
    for example in study["examples"]:
        query = speech(marked_query(example), example["lang"])
        facts = [example["id"], example["view"], condition_of(example).label, example["recipe"]]
        note = f"{', '.join(facts)}; rank {example['before']} → {example['after']}"
        note = safe(note)
        if example["answer"]:
            note += "; answer: " + speech(safe(example["answer"]), example["lang"])
        markup += f'<article><p class="query">{query}</p><p class="note">{note}</p></article>\n'
    return markup


def part_runs(study):
    """Manifests of the runs, and the commands that give every number again."""
    table = [["run", "commit", "device", "data", "flags", "seed", "seconds"]]
    for run in study["runs"]:
        flags = " ".join(f"{key}={value}" for key, value in run["flags"].items())
        names = [run["name"], run["commit"], run["device"], run["data_sha256"][:12], flags]
        table.append([*names, str(run["seed"]), number(run["seconds"], "seconds")])
    markup = ""
    if study["runs"]:
        markup = folded(f"{len(study['runs'])} runs", text_grid("One row a run", table, "w5 runs"))
    commands = safe("\n".join(study["commands"]))
    if commands:
        markup += f"<pre>{commands}</pre>"
    return markup


PARTS = {
    "answer": part_answer,
    "table": part_table,
    "comparisons": part_comparisons,
    "matrices": part_matrices,
    "bias": part_bias,
    "strength": part_strength,
    "robust": part_robust,
    "examples": part_examples,
    "runs": part_runs,
}


def render_page(title: str, body: str, parts: dict[str, str]) -> str:
    """One HTML page without script or outside reference: frame.html around a body.

    The body holds the prose: a <section> and a line of the contents for each part. What has no
    markup is cut out of both.
    *Errors*: ValueError for a body that has no place for a part.
    """
    for name, markup in parts.items():
        if f"${name}" not in body:
            raise ValueError(f"data/report: no place for {name}. Write ${name} in a section.")
        if not markup:
            body = re.sub(rf'<li><a href="#{name}">.*?</li>\s*', "", body)
            body = re.sub(rf'(?s)<section id="{name}">.*?</section>\s*', "", body)
    frame = Template(FRAME.read_text(encoding="utf-8"))
    return frame.substitute(title=safe(title), body=Template(body).substitute(parts))


def render(study: dict, body: str) -> str:
    """The study as a page; the body is that of page.html."""
    parts = {name: part(study) for name, part in PARTS.items()}
    return render_page(study["question"], body, parts)


# ---- the program ---------------------------------------------------------------------------------


def report_files(path):
    """report.html and its companions: report.study.json, report.study.md."""
    return [path, path.with_suffix(".study.json"), path.with_suffix(".study.md")]


def check_report(path: Path) -> None:
    """Before the work: can the report be written there, and is nobody else's file in its place?

    *Errors*: ValueError for a name without .html, or a file that no report left there.
    """
    if path.suffix != ".html" or path.name.startswith("-"):
        raise ValueError(f"--report {path}: the page's name ends in .html, e.g. report.html.")
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"--report {path}: {path.parent} is no folder. Give another name.")
    for file in report_files(path):
        if not file.exists():
            continue
        if not file.is_file() or SIGNATURE.encode() not in file.read_bytes():
            raise ValueError(f"{file}: no report of study.py. Give --report another name.")


def write_report(path: Path, study: dict) -> None:
    """report.html, and beside it the numbers as .study.json, the two large tables as .study.md."""
    check_report(path)
    html_file, json_file, markdown_file = report_files(path)
    xlt.write_json(json_file, study | {"made_by": SIGNATURE})
    comment = f"<!-- {SIGNATURE} -->\n"
    xlt.write_file(html_file, render(study, BODY.read_text(encoding="utf-8")) + comment)
    tables = [markdown_table(main_table(study["table"], study["about"]["chance"]))]
    if study["comparisons"]:
        tables.append(markdown_table(comparison_table(study["comparisons"])))
    xlt.write_file(markdown_file, "\n\n".join([*tables, comment]))


def print_study(study: dict) -> None:
    """The main table, what the attacks did, and the answer, on stdout."""
    print(markdown_table(main_table(study["table"], study["about"]["chance"])))
    if study["strength"]:
        print("\n" + markdown_table(key_table(study["strength"], STRENGTH)))
    if study["answer"]:
        print("\n" + "\n".join(f"- {text}" for text in study["answer"]))


def print_tables(evaluated: list[Evaluated]) -> None:
    """What train.py prints last: the tables, and the answer if there is something to compare."""
    print_study(make_study(evaluated))


def parse(argv=None) -> argparse.Namespace:
    """The flags of study.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=xlt.Help
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN",
        help="folder of a run, or of what evaluate.py --out wrote",
    )  # fmt: skip
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write the page; FILE.study.md and FILE.study.json beside it",
    )
    parser.add_argument("--metrics", default="metrics.json", help="the file in each folder")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Compare runs that are evaluated. Exit 0 done, 1 failed, 2 wrong usage."""
    args = parse(argv)
    xlt.escape_what_cannot_be_shown()
    try:
        if args.report:
            check_report(args.report)
        evaluated = [read_evaluated(folder, args.metrics) for folder in args.runs]
        study = make_study(evaluated, shlex.join(["python", *sys.argv]))
        print_study(study)
        if args.report:
            write_report(args.report, study)
            print(f"{args.report}, and .study.md, .study.json beside it", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"study.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
