"""Write the README's result tables from a study, so that no number in it is typed by hand.

    python tests/readme.py runs/report.study.json      -> data/minifacts/study.json -> README.md
    python tests/readme.py search.study.json --search  -> data/minifacts/search.json -> README.md
    python tests/readme.py                             the shipped records -> README.md

A study is what study.py writes with --report, beside the page, as .study.json; examples, matrices
and manifests stay out of the repository, their commands are in the README. tests/bench.json is what
bench.py writes with --json.
test_08_repository.py checks that README.md holds exactly what this writes.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import table_cells

from evaluate import CLEAN, Condition, condition_of, number
from study import COLUMNS, cell_text, pair_text

STUDY = ROOT / "data/minifacts/study.json"
SEARCH = ROOT / "data/minifacts/search.json"
REAL = ROOT / "data/xquad_r/study.json"  # of results.py
BENCH = ROOT / "tests/bench.json"
STUDY_KEYS = (
    "question",
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
ROBUST = ("none", "rs-rp", "rs-da", "adv", "code-switch", "rs-da+self-teaching")
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


def first_table(study: dict) -> str:
    """The first screen: a row a batching, clean and attacked, the published row beside it."""
    cells, rows = Cells(study), []
    head = ["batches", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
    head += ["attacked: mono", "attacked: pool"]
    head += ["paper: mono", "cross", "pool", "rank distance"]
    for batching in BATCHINGS:
        recipe = f"{batching}-none"
        row = [batching, *(cells.text(recipe, view) for view in ("mono", "cross", "pool"))]
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


def real_table(study: dict) -> str:
    """XQuAD-R: the encoder as it is, with LIR, and trained; the paper's hybrid row and chance."""
    cells, rows = Cells(study), []
    (start,) = [recipe["name"] for recipe in study["recipes"] if recipe["batching"] is None]
    lines = [("as it is", start, CLEAN), ("as it is, LIR", start, LIR)]
    for batching in BATCHINGS:
        if cells.has(f"{batching}-none", CLEAN):
            lines.append((batching, f"{batching}-none", CLEAN))
    for name, recipe, condition in lines:
        row = [name, cells.seeds(recipe)]
        row += [cells.text(recipe, view, condition=condition) for view in ("mono", "cross", "pool")]
        row.append(cells.text(recipe, "pool", condition=condition, langs="untrained"))
        rows.append([*row, cells.text(recipe, "pool", "rank_distance", condition)])
    *maps, distance = PUBLISHED["hybrid"]
    rows.append(["paper: XLM-R, hybrid", "1", *maps, "-", distance])
    luck = [cells.luck(view) for view in ("mono", "cross", "pool", "pool")]
    rows.append(["chance", "", *luck, cells.luck("pool", "rank_distance")])
    head = ["batches", "n", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
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
    """Settings of robust training on dev: one seed, hybrid batches; the mean decides."""
    cells, rows = Cells(study), []
    conditions = [condition for condition in cells.conditions if not condition.control]
    for recipe in sorted(study["recipes"], key=robust_of):
        name = recipe["name"]
        values = [cells.rows[name, c, "all"]["cells"]["pool"]["mAP"][0] for c in conditions]
        texts = [number(value) for value in [*values, sum(values) / len(values)]]
        texts += [cells.text(name, "mono"), cells.text(name, "pool", langs="untrained")]
        rows.append([f"`{recipe['robust']}`", *texts])
    names = [short_name(condition) for condition in conditions]
    head = ["--robust", *names, "mean", "mono, clean", "untrained, clean"]
    return table_text(head, rows)


def answer_list(study: dict) -> str:
    """The generated sentences."""
    return "\n".join(f"- {text}" for text in study["answer"])


def bench_table(bench: dict) -> str:
    """What bench.py measured: a row a comparison; the costs of robust steps have their own place."""
    rows = [row for row in bench["rows"] if not row["row"].startswith("robust-")]
    head = ["row", "ours", "theirs", "ratio (least to most, n)", "goal", "reached?"]
    return table_text(head, [table_cells(row) for row in rows])


def machine_text(bench: dict) -> str:
    """On what it was measured."""
    return ", ".join(f"{name} {value}" for name, value in bench["machine"].items())


def cost_text(bench: dict) -> str:
    """What a robust step costs: "rs-rp 1.02, rs-da 1.17"."""
    texts = []
    for row in bench["rows"]:
        if row["row"].startswith("robust-"):
            texts.append(f"{row['row'].removeprefix('robust-')} {row['ratio']:.2f}")
    return ", ".join(texts) + "."


def blocks() -> dict[str, str]:
    """Name of a marked block in the README -> its text."""
    study = json.loads(STUDY.read_text(encoding="utf-8"))
    search = json.loads(SEARCH.read_text(encoding="utf-8"))
    bench = json.loads(BENCH.read_text(encoding="utf-8"))
    return {
        "real": real_table(json.loads(REAL.read_text(encoding="utf-8"))["clean"]),
        "first": first_table(study),
        "full": full_table(study),
        "robust": robust_tables(study),
        "attacks": attack_table(study),
        "answer": answer_list(study),
        "search": search_table(search),
        "bench": bench_table(bench),
        "machine": machine_text(bench),
        "cost": cost_text(bench),
    }


def fill(text: str, contents: dict[str, str]) -> str:
    """A page with every marked block replaced: <!-- first --> ... <!-- end -->."""
    for name, content in contents.items():
        start, end = f"<!-- {name} -->\n", "\n<!-- end -->"
        before, _, rest = text.partition(start)
        old, _, after = rest.partition(end)
        if before + start + old + end + after != text:
            raise ValueError(f"no block <!-- {name} --> ... <!-- end -->")
        text = before + start + content + end + after
    return text


def keep(path: Path, target: Path, keys: tuple) -> None:
    """Write what the repository keeps of the study in `path`."""
    study = reduce(json.loads(path.read_text(encoding="utf-8")), keys)
    text = json.dumps(study, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    if "--search" in sys.argv:
        keep(Path(sys.argv[1]), SEARCH, SEARCH_KEYS)
    elif len(sys.argv) > 1:
        keep(Path(sys.argv[1]), STUDY, STUDY_KEYS)
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8"), blocks()), encoding="utf-8")
