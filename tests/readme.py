"""Write tables and sentences of three pages from records, so that no number is typed by hand.

    python tests/readme.py runs/report.study.json      -> data/minifacts/study.json
    python tests/readme.py search.study.json --search  -> data/minifacts/search.json
    python tests/readme.py RUNS --forms                -> data/minifacts/forms.json
    python tests/readme.py metrics.json --certificates -> data/minifacts/certificates.json
    python tests/readme.py --example                   -> data/minifacts/example.json
    python tests/readme.py                             the shipped records

Each of them then fills README.md, data/minifacts/results.md and tests/bench.md, where blocks are
marked: <!-- name --> ... <!-- end -->.
A study is what study.py writes with --report, beside the page, as .study.json; examples, matrices
and manifests stay out of the repository. RUNS are folders of train.py, metrics.json is of
evaluate.py with attacks that certify. The example is one attacked query of the bundled encoder.
tests/bench.json is what bench.py writes with --json.
test_08_repository.py checks that the pages hold exactly what this writes.
"""

import io
import json
import shlex
import subprocess
import sys
import tempfile
import textwrap
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from bench import step_operations, table_cells

import evaluate
from evaluate import CLEAN, Condition, array_name, condition_of, mean_of, number, read_arrays
from study import COLUMNS, cell_text, enumeration, mean, mean_sd, pair_text
from xlt import Text, load_data, load_encoder

README = ROOT / "README.md"
RESULTS = ROOT / "data/minifacts/results.md"
SPEED = ROOT / "tests/bench.md"
STUDY = ROOT / "data/minifacts/study.json"
SEARCH = ROOT / "data/minifacts/search.json"
RATES = ROOT / "data/minifacts/rates.json"  # of records.py
FORMS = ROOT / "data/minifacts/forms.json"
CERTIFICATES = ROOT / "data/minifacts/certificates.json"
PAIRS = ROOT / "data/minifacts/pairs.json"  # of pair_results.py, as the next one
REAL_PAIRS = ROOT / "data/xnli/pairs.json"
EXAMPLE = ROOT / "data/minifacts/example.json"
REAL = ROOT / "data/xquad_r/study.json"  # of results.py
GOAL = ROOT / "data/xquad_r/records/goal"
BENCH = ROOT / "tests/bench.json"
STUDY_KEYS = (
    "question",
    "summary",
    "answer",
    "about",
    "recipes",
    "conditions",
    "table",
    "comparisons",
    "strength",
    "bias",
    "robust_r1",
)
SEARCH_KEYS = ("about", "recipes", "conditions", "table")
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")
ROBUST = ("none", "rs-rp", "rs-da", "adv", "code-switch", "typos", "rs-da+self-teaching")
GREEDY = Condition("greedy", settings=(("edits", 2),))
LIR = Condition(lir=1)
PGD = Condition("pgd", settings=(("steps", 3), ("restarts", 1)))
SHORT = {GREEDY: "greedy", PGD: "PGD"}  # names of columns
# Elmahdy et al. 2024, XLM-R on XQuAD-R: mono, cross, pool mAP, rank distance (read in the paper)
PUBLISHED = {
    "x-x-mono": [".792", ".674", ".548", "410"],
    "x-y": [".755", ".700", ".593", "295"],
    "hybrid": [".798", ".705", ".593", "287"],
}
VIEWS = ("mono", "cross", "pool")
# The attacked query of the README: German questions, German and English passages
SHOW = (
    "data/tiny_xlmr --langs de en --views pool --form question --attacks greedy:edits=1 --limit 60 "
    "--show 120"
)
ATTACK_NAMES = {GREEDY: "up to two words a question replaced by the synonyms that hurt most"}
WHAT_ROBUST_DOES = {
    "rs-rp": "random noise on the word embeddings",
    "rs-da": "random synonyms",
    "adv": "worst-case noise on the word embeddings",
    "code-switch": "words of other languages",
    "typos": "typing errors",
    "rs-da+self-teaching": "random synonyms and the scores of the unchanged question",
}


# ---- records -------------------------------------------------------------------------------------


def reduce(study: dict, keys: tuple) -> dict:
    """What the repository keeps of a study; numbers to six decimals."""
    kept = {key: study[key] for key in keys}
    kept["seconds"] = sum(run["seconds"] for run in study["runs"])
    kept["commits"] = sorted({run["commit"][:7] for run in study["runs"]})
    return rounded(kept)


def rounded(content):
    """The same content, each float in it to six decimals."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    if isinstance(content, float):
        return round(content, 6)
    return content


def read(path: Path) -> dict:
    """A record of the repository."""
    return json.loads(path.read_text(encoding="utf-8"))


# ---- texts ---------------------------------------------------------------------------------------


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 130 columns; of a list's item, those after the first stand
    further right."""
    return textwrap.fill(
        text, 130, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def table_text(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, without aligned columns."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short_name(condition: Condition) -> str:
    """The head of a column: "greedy", "typos"."""
    return SHORT.get(condition, condition.label)


class Cells:
    """The numbers of a study's main table, by recipe, condition and languages."""

    def __init__(self, study: dict):
        self.chance = study["about"]["chance"]
        self.conditions = [condition_of(fields) for fields in study["conditions"]]
        self.rows = {}
        for row in study["table"]:
            self.rows[row["recipe"], condition_of(row), row["langs"]] = row

    def has(self, recipe: str, condition: Condition) -> bool:
        return (recipe, condition, "all") in self.rows

    def text(self, recipe: str, view: str, metric="mAP", condition=CLEAN, langs="all") -> str:
        """ ".463 ±.004", or "-" where nothing was measured."""
        row = self.rows.get((recipe, condition, langs))
        if row is None:
            return "-"
        return pair_text(row["cells"][view][metric], metric)

    def marked(self, recipe: str, view: str, metric: str, condition, langs: str) -> str:
        """The same with its mark: ".463 ±.004▼"."""
        return cell_text(self.rows[recipe, condition, langs], view, metric)

    def luck(self, view: str, metric="mAP") -> str:
        return number(self.chance[view][metric], metric)

    def seeds(self, recipe: str) -> str:
        return str(self.rows[recipe, CLEAN, "all"]["n"])


# ---- data/minifacts/results.md -------------------------------------------------------------------


def first_table(study: dict) -> str:
    """A row a batching, clean and attacked, the published row beside it."""
    cells, rows = Cells(study), []
    head = ["batches", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
    head += ["attacked: mono", "attacked: pool"]
    head += ["paper: mono", "cross", "pool", "rank distance"]
    for batching in BATCHINGS:
        recipe = f"{batching}-none"
        row = [batching, *(cells.text(recipe, view) for view in VIEWS)]
        if batching == "en-en":  # its untrained languages are ten others: not the column's two
            row.append("-")
        else:
            row.append(cells.text(recipe, "pool", langs="untrained"))
        row.append(cells.text(recipe, "pool", "rank_distance"))
        row += [cells.text(recipe, view, condition=GREEDY) for view in ("mono", "pool")]
        rows.append(row + PUBLISHED.get(batching, ["-"] * 4))
    luck = [cells.luck(view) for view in ("mono", "cross", "pool", "pool")]
    luck += [cells.luck("pool", "rank_distance"), cells.luck("mono"), cells.luck("pool")]
    rows.append(["chance", *luck, *["-"] * 4])
    return table_text(head, rows)


def full_table(study: dict) -> str:
    """Plain recipes, clean, by set of languages."""
    cells, rows = Cells(study), []
    names = [f"{view} {metric.replace('_', ' ')}" for view, metric in COLUMNS]
    for batching in BATCHINGS:
        recipe = f"{batching}-none"
        for langs in ("all", "trained", "untrained"):
            texts = [cells.text(recipe, view, metric, langs=langs) for view, metric in COLUMNS]
            rows.append([batching, cells.seeds(recipe), langs, *texts])
    luck = [cells.luck(view, metric) for view, metric in COLUMNS]
    rows.append(["chance", "", "all", *luck])
    return table_text(["batches", "n", "languages", *names], rows)


def recipes_by_attacks(cells: Cells, title: str, view: str, metric: str, langs: str) -> str:
    """Every attacked recipe under every attack, in one metric; minutes of training."""
    conditions = [condition for condition in cells.conditions if not condition.control]
    conditions = [condition for condition in conditions if not condition.without_language]
    rows = []
    for batching in BATCHINGS:
        for robust in ROBUST:
            recipe = f"{batching}-{robust}"
            if not cells.has(recipe, conditions[-1]):
                continue
            texts = [cells.marked(recipe, view, metric, c, langs) for c in conditions]
            minutes = number(cells.rows[recipe, CLEAN, "all"]["minutes"], "minutes")
            rows.append([recipe, cells.seeds(recipe), *texts, minutes])
    rows.append(["chance", "", *[cells.luck(view, metric)] * len(conditions), ""])
    names = [short_name(condition) for condition in conditions]
    return table_text([f"**{title}**", "n", *names, "minutes"], rows)


def robust_tables(study: dict) -> str:
    """Recipes by attacks, for pool mAP, mono R@1 and the untrained languages."""
    cells = Cells(study)
    tables = [
        recipes_by_attacks(cells, "pool mAP", "pool", "mAP", "all"),
        recipes_by_attacks(cells, "mono R@1", "mono", "R@1", "all"),
    ]
    title = "pool mAP, el and vi (never trained on)"
    tables.append(recipes_by_attacks(cells, title, "pool", "mAP", "untrained"))
    return "\n\n".join(tables)


def attack_table(study: dict) -> str:
    """A row a plain batching and condition: what is left of mAP, what was broken, at which size."""
    cells, strength, rows = Cells(study), {}, []
    for row in study["strength"]:
        strength[row["recipe"], condition_of(row)] = row
    for batching in BATCHINGS:
        recipe = f"{batching}-none"
        for condition in cells.conditions:
            if not cells.has(recipe, condition):
                continue
            line = [batching, condition.label]
            line += [cells.text(recipe, view, condition=condition) for view in ("mono", "pool")]
            attacked = strength.get((recipe, condition))
            if attacked is None:
                rows.append([*line, "-", "-", "-", "-"])
                continue
            size = attacked["edits"]
            if not size:  # noise has no edits
                size = attacked["norm"]
            numbers = [attacked["broken_mono"], attacked["broken_pool"], size]
            rows.append([*line, *map(number, numbers), number(attacked["least_changed"])])
    head = ["batches", "attack", "mono mAP", "pool mAP", "broken: mono", "pool", "size"]
    return table_text([*head, "least changed"], rows)


def robust_of(recipe: dict) -> str:
    """What the search's rows are sorted by."""
    return recipe["robust"]


def search_table(study: dict) -> str:
    """Settings of robust training on dev: one seed, hybrid batches, pool mAP; the mean decides."""
    cells, rows = Cells(study), []
    conditions = []
    for condition in cells.conditions:
        if not (condition.control or condition.without_language):
            conditions.append(condition)
    has_untrained = any(langs == "untrained" for _, _, langs in cells.rows)
    for recipe in sorted(study["recipes"], key=robust_of):
        name = recipe["name"]
        values = [cells.rows[name, c, "all"]["cells"]["pool"]["mAP"][0] for c in conditions]
        texts = [number(value) for value in [*values, sum(values) / len(values)]]
        texts.append(cells.text(name, "mono"))
        if has_untrained:
            texts.append(cells.text(name, "pool", langs="untrained"))
        rows.append([f"`{recipe['robust']}`", *texts])
    names = [short_name(condition) for condition in conditions]
    head = ["--robust", *names, "mean", "mono, clean"]
    if has_untrained:
        head.append("untrained, clean")
    return table_text(head, rows)


def rate_table(record: dict) -> str:
    """Learning rates on dev: one seed, plain training, clean pool mAP."""
    maps = {}
    for row in record["rows"]:
        maps[row["flags"]["batching"], row["flags"]["lr"]] = row["clean"]["pool mAP"]
    rates = sorted({rate for _, rate in maps})
    rows = []
    for batching in BATCHINGS:
        if (batching, rates[0]) in maps:
            rows.append([batching, *(number(maps[batching, rate]) for rate in rates)])
    return table_text(["batches", *(f"`--lr {rate:g}`" for rate in rates)], rows)


def answer_list(study: dict) -> str:
    """The generated sentences."""
    return "\n".join(wrapped(f"- {text}", "  ") for text in study["answer"])


def size_text(study: dict) -> str:
    """Of what the tables speak: questions, passages, seeds, versions."""
    about, cells = study["about"], Cells(study)
    seeds = {cells.seeds(recipe["name"]) for recipe in study["recipes"]}
    text = (
        f"Held-out facts of the bundled world, split {about['split']}: {about['n_groups']} "
        f"questions in {len(about['languages'])} languages, {about['n_passages']:,} passages. "
        f"Mean ± standard deviation over {enumeration(sorted(seeds), 'or')} seeds. Two CPU cores, "
        f"torch {about['versions']['torch']}, transformers {about['versions']['transformers']}."
    )
    return wrapped(text)


def made_text(study: dict, search: dict) -> str:
    """What the study took, and where its runs come from."""
    cells = Cells(study)
    runs = sum(int(cells.seeds(recipe["name"])) for recipe in study["recipes"])
    significant = sum(row["significant"] for row in study["comparisons"])
    text = (
        f"The study: {runs} runs, {study['seconds'] / 3600:.1f} core hours of training, "
        f"{len(study['comparisons'])} comparisons, {significant} of them significant; run commits "
        f"{', '.join(study['commits'])}. The search: {len(search['recipes'])} runs, "
        f"{search['seconds'] / 3600:.1f} core hours, run commits {', '.join(search['commits'])}."
    )
    return wrapped(text)


def own_share_text(study: dict) -> str:
    """How far each batching keeps to the query's language."""
    shares = {}
    for row in study["bias"]:
        if condition_of(row) == CLEAN:
            shares[row["recipe"]] = row
    texts = [f"{b} {number(shares[f'{b}-none']['own_share@10'])}" for b in BATCHINGS]
    blind = number(shares["hybrid-none"]["expected_share"])
    text = f"In the query's own language are, of the first ten in the pool: {', '.join(texts)}"
    return wrapped(f"{text}; of a ranking that is blind to language, {blind}.")


class Expected:
    """Rows "what was expected, by whom, what was measured, does its direction hold?", judged by the means."""

    def __init__(self, study: dict):
        self.cells = Cells(study)
        self.rows = []

    def mean(self, recipe: str, view: str, metric="mAP", condition=CLEAN, langs="all") -> float:
        return self.cells.rows[recipe, condition, langs]["cells"][view][metric][0]

    def add(self, claim: str, source: str, measured: list[tuple[str, float]], metric="mAP"):
        """The claim holds if the measured values do not fall from the first to the last."""
        values = [value for _, value in measured]
        holds = "no"
        if values == sorted(values):
            holds = "yes"
        texts = [f"{name} {number(value, metric)}" for name, value in measured]
        self.rows.append([claim, source, ", ".join(texts), holds])

    def order(self, batchings: list[str], source: str, view: str, metric="mAP"):
        """From the least to the most."""
        measured = [(b, self.mean(f"{b}-none", view, metric)) for b in batchings]
        name = metric.replace("_", " ")
        self.add(f"{' <= '.join(batchings)} in {view} {name}", source, measured, metric)


def expected_table(study: dict) -> str:
    """What the papers and our pilot led us to expect."""
    expected = Expected(study)
    expected.order(["x-x", "en-en", "x-x-mono", "x-y"], "LAReQA", "pool")
    for view in VIEWS:
        parents = [(b, expected.mean(f"{b}-none", view)) for b in ("x-x-mono", "x-y")]
        better = max(parents, key=lambda pair: pair[1])
        hybrid = ("hybrid", expected.mean("hybrid-none", view))
        claim = f"hybrid at least as good as its better parent in {view} mAP"
        expected.add(claim, "hybrid-batch paper", [better, hybrid])
    expected.order(["x-y", "x-x-mono"], "hybrid-batch paper", "mono")
    distances = ["hybrid", "x-y", "x-x-mono"]
    expected.order(distances, "hybrid-batch paper", "pool", "rank_distance")
    for claim, source, plain, robust, condition, langs in (
        ("clean", "our pilot, .83 to .84", "hybrid-none", "hybrid-rs-da", CLEAN, "all"),
        ("greedy", "our pilot, .72 to .80", "hybrid-none", "hybrid-rs-da", GREEDY, "all"),
        ("clean", "our pilot, .24 to .32", "x-x-mono-none", "x-x-mono-rs-rp", CLEAN, "untrained"),
    ):
        measured = []
        for recipe in (plain, robust):
            measured.append((recipe, expected.mean(recipe, "pool", "mAP", condition, langs)))
        name = robust.removeprefix(plain.removesuffix("none"))
        expected.add(f"{name} lifts pool mAP, {claim}, languages: {langs}", source, measured)
    return table_text(["expected", "by", "measured", "direction holds?"], expected.rows)


def robust_r1_table(study: dict) -> str:
    """R@1 of queries that stay right clean and under every attack."""
    by_recipe = {}
    for row in study["robust_r1"]:
        by_recipe[row["recipe"], row["view"]] = row
    rows = []
    for batching in BATCHINGS:
        for robust in ROBUST:
            recipe = f"{batching}-{robust}"
            if (recipe, "pool") not in by_recipe:
                continue
            texts = []
            for view in ("mono", "pool"):
                row = by_recipe[recipe, view]
                texts += [pair_text(row["clean"], "R@1"), pair_text(row["robust"], "R@1")]
            rows.append([recipe, *texts])
    head = ["recipe", "mono R@1", "mono, under all attacks", "right in the pool"]
    return table_text([*head, "pool, under all attacks"], rows)


def form_means(folder: Path, forms: dict[str, str]) -> dict[str, float]:
    """One run's mAP by form of query: "short|pool|greedy" -> mean over the languages' means.

    `forms` tells the form of each query by its id.
    """
    arrays = read_arrays(folder / "metrics.npz")
    form = np.array([forms[name] for name in arrays["id"]])
    means = {}
    for one in sorted(set(form)):
        for view in ("mono", "pool"):
            for condition in (CLEAN, GREEDY):
                values = arrays[array_name(condition, view, "mAP")]
                of_langs = []
                for lang in sorted(set(arrays["lang"])):
                    asked = (form == one) & (arrays["lang"] == lang)
                    of_langs.append(values[asked].mean())
                means[f"{one}|{view}|{short_name(condition)}"] = mean(of_langs)
    return means


def make_forms(folders: list[Path]) -> dict:
    """Recipe -> column of form_means -> [mean, standard deviation] over its seeds."""
    forms = {query.id: query.form for query in load_data(ROOT / "data/minifacts").queries}
    by_recipe = defaultdict(list)
    for folder in folders:
        recipe = read(folder / "metrics.json")["recipe"]
        by_recipe[recipe].append(form_means(folder, forms))
    made = {}
    for recipe, runs in by_recipe.items():
        made[recipe] = {name: mean_sd([run[name] for run in runs]) for name in runs[0]}
    return rounded(made)


def form_table(made: dict) -> str:
    """A row a batching and form of query."""
    columns = ["mono|clean", "pool|clean", "mono|greedy", "pool|greedy"]
    rows = []
    for batching in BATCHINGS:
        cells = made.get(f"{batching}-none")
        if cells is None:
            continue
        for form in ("question", "short"):
            texts = [pair_text(cells[f"{form}|{column}"]) for column in columns]
            rows.append([batching, form, *texts])
    head = ["mono mAP", "pool mAP", "greedy: mono", "greedy: pool"]
    return table_text(["batches", "form", *head], rows)


def make_certificates(metrics: dict) -> list[dict]:
    """A row an attack of metrics.json: mono R@1 that is left, and the part of it that is certified."""
    by_condition = defaultdict(list)
    for record in metrics["results"]:
        if record["view"] == "mono" and not record["control"]:
            by_condition[condition_of(record)].append(record)
    rows = []
    for condition, records in by_condition.items():
        certified = mean_of(records, "certified R@1")
        row = {"attack": condition.label, "R@1": mean_of(records, "R@1"), "certified": certified}
        rows.append(row)
    return rounded(rows)


def certificate_table(rows: list[dict]) -> str:
    """The same as a table."""
    lines = []
    for row in rows:
        lines.append([f"`{row['attack']}`", number(row["R@1"]), number(row["certified"])])
    return table_text(["attack", "mono R@1", "certified"], lines)


def cost_text(bench: dict) -> str:
    """What a robust step costs: "rs-rp 1.02, rs-da 1.17"."""
    texts = []
    for row in bench["rows"]:
        if row["row"].startswith("robust-"):
            texts.append(f"{row['row'].removeprefix('robust-')} {row['ratio']:.2f}")
    return wrapped(", ".join(texts) + ".")


# ---- tests/bench.md ------------------------------------------------------------------------------


def bench_table(bench: dict) -> str:
    """What bench.py measured: a row a comparison; the costs of robust steps have their own place."""
    rows = [row for row in bench["rows"] if not row["row"].startswith("robust-")]
    head = ["row", "ours", "theirs", "ratio (least to most, n)", "goal", "reached?"]
    return table_text(head, [table_cells(row) for row in rows])


def machine_text(bench: dict) -> str:
    """On what it was measured."""
    return wrapped(", ".join(f"{name} {value}" for name, value in bench["machine"].items()) + ".")


# ---- README.md: the answer -----------------------------------------------------------------------


def interval(low: float, high: float) -> str:
    """ "[-.001, .029]"."""
    return f"[{number(low)}, {number(high)}]"


def interval_of(row: dict) -> str:
    """A difference with its sign: "+.011 [-.001, .029]"."""
    difference = number(row["difference"])
    if not difference.startswith("-"):
        difference = "+" + difference
    return f"{difference} {interval(row['low'], row['high'])}"


def differs(row: dict, other: str) -> str:
    """A comparison as the rest of a sentence: "is .112 [.102, .120] above x-x-mono"."""
    low, high = row["low"], row["high"]
    if not row["significant"]:
        return f"does not differ significantly from {other} ({interval_of(row)})"
    if row["difference"] > 0:
        return f"is {number(row['difference'])} {interval(low, high)} above {other}"
    return f"is {number(-row['difference'])} {interval(-high, -low)} below {other}"


def comparison(study: dict, other: str, condition: Condition, metric: str = "mAP") -> dict:
    """Hybrid batches against others in the pool, without robust training."""
    for row in study["comparisons"]:
        pair = (row["a"], row["b"], row["view"], row["metric"], row["fixed"])
        wanted = ("hybrid-none", f"{other}-none", "pool", metric, "none")
        if pair == wanted and condition_of(row) == condition:
            return row
    raise ValueError(f"no comparison of hybrid with {other}: {condition.label}, {metric}")


def clean_sentence(study: dict) -> str:
    """Hybrid against its parents, and what is left of it when language is taken out."""
    mono = differs(comparison(study, "x-x-mono", CLEAN), "x-x-mono")
    cross = differs(comparison(study, "x-y", CLEAN), "x-y")
    row = comparison(study, "x-x-mono", LIR)
    left = f"it {differs(row, 'x-x-mono')}"
    if not row["significant"]:
        left = f"hybrid and x-x-mono no longer differ significantly there ({interval_of(row)})"
    return (
        f"Real text, not attacked: **in pool mAP, hybrid {mono}** and {cross}. When LIR has taken "
        f"each language's main direction out of the vectors, without any training, {left}."
    )


def loses(row: dict, other: str) -> str:
    """The same of what an attack takes: ".019 [.013, .024] more than x-x-mono"."""
    low, high = row["low"], row["high"]
    if not row["significant"]:
        return f"not significantly ({interval_of(row)}) more or less than {other}"
    if row["difference"] > 0:
        return f"{number(row['difference'])} {interval(low, high)} more than {other}"
    return f"{number(-row['difference'])} {interval(-high, -low)} less than {other}"


def lost_sentence(study: dict, condition: Condition, where: str) -> str:
    """What an attack takes from hybrid batches and from their parents: the question's answer."""
    mono = comparison(study, "x-x-mono", condition, "mAP lost")
    cross = comparison(study, "x-y", condition, "mAP lost")
    less = [row["significant"] and row["difference"] < 0 for row in (mono, cross)]
    more = [row["significant"] and row["difference"] > 0 for row in (mono, cross)]
    verdict = "no sign that hybrid batches make the encoder more robust"
    if all(less):
        verdict = "hybrid batches make the encoder more robust than both parents do"
    elif any(less) and any(more):
        verdict = "hybrid batches are no gain in robustness"
    elif any(less):
        verdict = "hybrid batches make the encoder more robust than one of their parents does"
    cells = Cells(study)
    clean = cells.rows["hybrid-none", CLEAN, "all"]["cells"]["pool"]["mAP"][0]
    attacked = cells.rows["hybrid-none", condition, "all"]["cells"]["pool"]["mAP"][0]
    level = differs(comparison(study, "x-x-mono", condition), "x-x-mono")
    return (
        f"{where}, attacked ({ATTACK_NAMES.get(condition, condition.label)}): **{verdict}**. "
        f"Hybrid's pool mAP falls from {number(clean)} to {number(attacked)}: "
        f"{loses(mono, 'x-x-mono')}'s and {loses(cross, 'x-y')}'s. Attacked, it {level}."
    )


def real_attack_sentence(study: dict) -> str:
    """Real text: how often hybrid differs from its parents. Counted, for one attack can be chosen."""
    n_groups, seeds = study["about"]["n_groups"], Cells(study).seeds("hybrid-none")
    return f"Real text, {n_groups} questions, seeds: {seeds}. {study['summary'][-1]}"


def robust_sentence(study: dict) -> str:
    """The robust training that helps hybrid batches most under the attack."""
    rows = []
    for row in study["comparisons"]:
        place = (row["kind"], row["fixed"], row["view"], row["metric"])
        in_place = place == ("robust", "hybrid", "pool", "mAP")
        is_gain = row["significant"] and row["difference"] > 0
        if in_place and condition_of(row) == GREEDY and is_gain:
            rows.append(row)
    if not rows:
        return "In the bundled world no robust training helps hybrid batches significantly."
    best = max(rows, key=lambda row: row["difference"])
    method = best["a"].removeprefix("hybrid-")
    gain = differs(best, "plain training")
    return (
        f"In the bundled world **training on {WHAT_ROBUST_DOES[method]} helps** (`--robust "
        f"{method}`): under the same attack it {gain}."
    )


def short_answer(world: dict, real: dict) -> str:
    """The answer in three items: real text, the bundled world, robust training."""
    attacked = "On real text, attacks are not measured yet."
    if "attacked" in real:
        attacked = real_attack_sentence(real["attacked"])
    seeds = Cells(world).seeds("hybrid-none")
    items = [
        clean_sentence(real["clean"]),
        lost_sentence(world, GREEDY, f"The bundled world, {seeds} seeds") + " " + attacked,
        robust_sentence(world),
    ]
    return "\n".join(wrapped(f"{i}. {text}", "   ") for i, text in enumerate(items, 1))


# ---- README.md: the table ------------------------------------------------------------------------


def told_batches(flags: dict) -> str:
    """A run's batches, loss and robust training: "hybrid, alpha .25, symmetric, rs-rp"."""
    words = [flags["batching"]]
    if flags["alpha"] not in (None, 0.5):
        words.append(f"alpha {flags['alpha']:g}".replace(" 0.", " ."))
    if flags["symmetric"]:
        words.append("symmetric")
    if flags["robust"] != "none":
        words.append(flags["robust"])
    return ", ".join(words)


def goal_names(study: dict) -> dict[str, str]:
    """Recipe of the goal's study -> its settings: "hybrid, alpha .25, 120 steps"."""
    settings = {}
    for path in sorted(GOAL.glob("*/run.json")):
        run = read(path)
        flags, origin = run["flags"], run["origin"]
        told = f"{told_batches(flags)}, {flags['steps']} steps"
        settings[origin["recipe"], origin["variant"]] = told
    names = {}
    for recipe in study["recipes"]:
        name = recipe["name"].removesuffix(recipe["suffix"])
        names[recipe["name"]] = settings[name, recipe["variant"]]
    return names


def real_table(study: dict, goal: dict) -> str:
    """The encoder as it is, with LIR, three batchings, and what the search on dev ended with."""
    (start,) = [recipe["name"] for recipe in study["recipes"] if recipe["batching"] is None]
    cells = Cells(study)
    lines = [("as it is", cells, start, CLEAN), ("as it is, LIR", cells, start, LIR)]
    for batching in BATCHINGS:
        if cells.has(f"{batching}-none", CLEAN):
            lines.append((batching, cells, f"{batching}-none", CLEAN))
    for recipe, name in goal_names(goal).items():
        lines.append((name, Cells(goal), recipe, CLEAN))
    rows = []
    for name, cells, recipe, condition in lines:
        row = [name, *(cells.text(recipe, view, condition=condition) for view in VIEWS)]
        row.append(cells.text(recipe, "pool", condition=condition, langs="untrained"))
        rows.append([*row, cells.text(recipe, "pool", "rank_distance", condition)])
    head = ["batches", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
    return table_text(head, rows)


def beside_text(study: dict) -> str:
    """What the table was measured on; the published row and chance beside it."""
    about, cells = study["about"], Cells(study)
    luck = [cells.luck(view) for view in VIEWS] + [cells.luck("pool", "rank_distance")]
    text = (
        f"XQuAD-R: {about['n_groups']:,} questions in {len(about['languages'])} languages "
        f"({about['n_queries']:,} queries), {about['n_passages']:,} sentences. Mean ± standard "
        f"deviation over {cells.seeds('hybrid-none')} seeds; last row: the setting that did best on "
        f"MLQA-R's dev, one seed. The paper's XLM-R with hybrid batches, "
        f"one seed: {', '.join(PUBLISHED['hybrid'][:3])}, rank distance {PUBLISHED['hybrid'][3]}; "
        f"chance: {', '.join(luck[:3])}, rank distance {luck[3]}."
    )
    return wrapped(text)


# ---- README.md: one attacked query, and ten lines of Python --------------------------------------


def first_passage(data, encoder, question: str, langs: list[str]) -> str:
    """What the encoder ranks first, in English."""
    passages = [passage for passage in data.passages if passage.lang in langs]
    query = Text(id="query", lang="", text=question, group="")
    scores = encoder.encode([query], "query") @ encoder.encode(passages, "passage").T
    best = passages[int(scores.argmax())]
    of_group = [passage for passage in data.passages if passage.group == best.group]
    (english,) = [passage.text for passage in of_group if passage.lang == "en"]
    return english


def attacked_text(example: dict) -> str:
    """An example of metrics.json, with its edits made."""
    text = example["text"]
    for start, end, other in reversed(example["edits"]):
        text = text[:start] + other + text[end:]
    return text


def printed_line(example: dict, printed: str) -> str:
    """The line of --show about an example of metrics.json."""
    (line,) = [line for line in printed.splitlines() if f" {example['id']}: " in line]
    return line


def make_example() -> dict:
    """Run the README's command and keep, of its German queries, the one that it tells about."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(printed):
            assert evaluate.main([*shlex.split(SHOW), "--out", folder]) == 0
        examples = read(Path(folder) / "metrics.json")["examples"]
    (example,) = [example for example in examples if example["lang"] == "de"]
    data, encoder = load_data(ROOT / "data/minifacts"), load_encoder(ROOT / "data/tiny_xlmr")
    question = example["id"].removesuffix(".de")
    (english,) = [query.text for query in data.queries if query.id == f"{question}.en"]
    return {
        "printed": printed_line(example, printed.getvalue()),
        "english": english,
        "before": example["before"],
        "after": example["after"],
        "first_before": first_passage(data, encoder, example["text"], ["de", "en"]),
        "first_after": first_passage(data, encoder, attacked_text(example), ["de", "en"]),
        "quickstart": run_quickstart(),
    }


def quickstart_code() -> str:
    """The README's Python block."""
    text = README.read_text(encoding="utf-8")
    return text.partition("```python\n")[2].partition("```")[0]


def run_quickstart() -> str:
    """What it prints."""
    command = [sys.executable, "-c", quickstart_code()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n")


def example_text(example: dict) -> str:
    """The command, what it prints, and what it means in English."""
    text = (
        f'In English: "{example["english"]}" One synonym, and the best right answer falls from rank '
        f'{example["before"]} to rank {example["after"]}: first stood "{example["first_before"]}", '
        f'now stands "{example["first_after"]}"'
    )
    command = f"python evaluate.py {SHOW}"
    return f"```sh\n{command}\n#   {example['printed']}\n```\n{wrapped(text)}"


def quickstart_output(example: dict) -> str:
    """As a block of text."""
    return f"```text\n{example['quickstart']}\n```"


# ---- README.md: sentence pairs -------------------------------------------------------------------


def rs_da_gains(record: dict) -> str:
    """Random synonyms minus plain training, clean: "+.035 [...] in one language, ... in two"."""
    gains = {}  # setting -> robust minus plain
    for row in record["comparisons"]:
        if row["a"].startswith("rs-da") and condition_of(row) == CLEAN:
            gains[row["view"]] = interval_of(row)
    return f"{gains['standard']} in one language, {gains['generalized']} in two"


def pairs_text(bundled: dict, real: dict) -> str:
    """What pairs.py does, and what random synonyms gain on clean pairs."""
    text = (
        "**Sentence pairs**: `pairs.py` classifies two sentences, trained in English, tested in every "
        "mixture of two languages, with the same attacks and robust training. Accuracy of `--robust "
        "rs-da` (random synonyms) minus plain training: on bundled pairs, written from these "
        f"synonyms, {rs_da_gains(bundled)}; on a small part of XNLI, {rs_da_gains(real)}; Robust-XLT "
        "claims .016 to .021 ([results](data/xnli/results.md))."
    )
    return wrapped(text)


# ---- README.md: time and memory of XLM-R-base ----------------------------------------------------

LAYERS = 12  # of both encoders
WIDTHS = {"e5": 384, "xlmr": 768}
WEIGHTS = {"e5": 118e6, "xlmr": 278e6}  # with the word embeddings
FLOATS = 4  # for each weight: itself, its gradient, AdamW's two moments
BYTES = 4  # of a float in fp32
XQUAD_PAIRS = 13_090  # queries, and about as many passages
PAPER_PAIRS = 100  # a step of the hybrid-batch paper


def layer_weights(width: int) -> int:
    """Weights of one layer's matrices: 4 of attention, 2 four times as wide."""
    return 4 * width**2 + 2 * width * 4 * width


def xlmr_text(bench: dict) -> str:
    """What XLM-R-base takes on the benchmark's machine, from what multilingual-e5-small took."""
    rows = {row["row"]: row for row in bench["rows"]}
    larger = layer_weights(WIDTHS["xlmr"]) / layer_weights(WIDTHS["e5"])
    fp32 = median(rows["train-fp32"]["ours"]) / larger
    bf16 = median(rows["train-bf16"]["ours"]) / larger
    minutes = 1000 * PAPER_PAIRS / bf16 / 60
    # a pass forward is a third of a step
    xquad_minutes = XQUAD_PAIRS / (3 * fp32) / 60
    held = {name: weights * FLOATS * BYTES / 1e9 for name, weights in WEIGHTS.items()}  # GB
    e5_peak = rows["cache-memory"]["theirs"][0] / 1000  # GB, of a whole step in chunks of 64 texts
    wider = WIDTHS["xlmr"] / WIDTHS["e5"]
    memory = held["xlmr"] + (e5_peak - held["e5"]) * wider  # what is no weight grows with the width
    operations = step_operations(LAYERS * layer_weights(WIDTHS["xlmr"]), 1) / 1e9
    text = (
        f"**Time and memory of XLM-R-base**, derived, not measured: it has {larger:.0f} times the "
        f"matrices of multilingual-e5-small ({operations:.2f} GFLOP a token), so by the benchmark's "
        f"[rates](tests/bench.md) `train-*`, divided by that, two CPU cores train {fp32:.1f} pairs "
        f"a second in fp32 and {bf16:.1f} in bf16 (if they have instructions for it): "
        f"{minutes / 60:.1f} hours for 1,000 steps of {PAPER_PAIRS} pairs. XQuAD-R, at a third of a "
        f"step's work, takes {xquad_minutes:.0f} minutes. With `--chunk-size 64`: "
        f"{held['xlmr']:.1f} GB for weights, gradient and AdamW's moments, {memory:.0f} GB in all "
        f"(row `cache-memory`)."
    )
    return wrapped(text)


# ---- the pages -----------------------------------------------------------------------------------


def pages() -> dict[Path, dict[str, str]]:
    """Page -> name of a marked block in it -> its text."""
    study, search, bench = read(STUDY), read(SEARCH), read(BENCH)
    real, example = read(REAL), read(EXAMPLE)
    return {
        README: {
            "answer": short_answer(study, real),
            "real": real_table(real["clean"], real["goal"]),
            "beside": beside_text(real["clean"]),
            "example": example_text(example),
            "pairs": pairs_text(read(PAIRS), read(REAL_PAIRS)),
            "xlmr": xlmr_text(bench),
            "quickstart": quickstart_output(example),
        },
        RESULTS: {
            "size": size_text(study),
            "first": first_table(study),
            "answer": answer_list(study),
            "expected": expected_table(study),
            "full": full_table(study),
            "own-share": own_share_text(study),
            "robust": robust_tables(study),
            "robust-r1": robust_r1_table(study),
            "forms": form_table(read(FORMS)),
            "certificates": certificate_table(read(CERTIFICATES)),
            "cost": cost_text(bench),
            "machine": machine_text(bench),
            "search": search_table(search),
            "rates": rate_table(read(RATES)),
            "attacks": attack_table(study),
            "made": made_text(study, search),
        },
        SPEED: {"bench": bench_table(bench), "machine": machine_text(bench)},
    }


def fill(text: str, contents: dict[str, str]) -> str:
    """A page with every marked block replaced: <!-- first --> ... <!-- end -->."""
    for name, content in contents.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, opened, rest = text.partition(start)
        old, closed, after = rest.partition(end)
        if not opened or not closed or "<!-- " in old:  # the end of another block
            raise ValueError(f"no block <!-- {name} --> ... <!-- end -->")
        text = before + start + content + "\n" + end + after
    return text


def keep(content, target: Path) -> None:
    """Write a record of the repository, in one line."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Keep what is given, if anything is; then fill all pages."""
    paths = [Path(word) for word in sys.argv[1:] if not word.startswith("--")]
    flags = [word for word in sys.argv[1:] if word.startswith("--")]
    if len(flags) > 1 or not set(flags) <= {"--example", "--forms", "--certificates", "--search"}:
        sys.exit(f"readme.py: {' '.join(flags)}: one of the flags in the docstring, or none.")
    if flags and flags != ["--example"] and not paths:
        sys.exit(f"readme.py: {flags[0]} needs a file or folders.")
    if "--example" in sys.argv:
        kept = json.dumps(make_example(), ensure_ascii=False, indent=1)
        EXAMPLE.write_text(kept + "\n", encoding="utf-8")
    elif "--forms" in sys.argv:
        keep(make_forms(paths), FORMS)
    elif "--certificates" in sys.argv:
        keep(make_certificates(read(paths[0])), CERTIFICATES)
    elif "--search" in sys.argv:
        keep(reduce(read(paths[0]), SEARCH_KEYS), SEARCH)
    elif paths:
        keep(reduce(read(paths[0]), STUDY_KEYS), STUDY)
    for page, contents in pages().items():
        page.write_text(fill(page.read_text(encoding="utf-8"), contents), encoding="utf-8")


if __name__ == "__main__":
    main()
