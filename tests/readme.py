"""Write the README's result tables from a study, so that no number in it is typed by hand.

    python tests/readme.py runs/report.json            -> data/minifacts/study.json -> README.md
    python tests/readme.py search.json --search        -> data/minifacts/search.json -> README.md
    python tests/readme.py                             the shipped studies -> README.md

A study is what train.py and evaluate.py write with --report, beside the page, as .json; examples,
training curves and manifests stay out of the repository, their commands are in the README.
test_08_repository.py checks that README.md holds exactly what this writes.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import train
from data.report.page import MARKS, digits, pair

STUDY, SEARCH = (ROOT / f"data/minifacts/{name}.json" for name in ("study", "search"))
KEPT = ("question", "answer", "about", "recipes", "attacks", "table", "comparisons", "strength", "bias", "robust_r1")
SEARCHED = ("about", "recipes", "attacks", "table")
ROBUST = ("none", "rs-rp", "rs-da", "adv", "code-switch", "rs-da+self-teaching")
BATCHES = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")
SHORT = {"greedy:edits=2": "greedy", "pgd:steps=3,restarts=1": "PGD"}
# Elmahdy et al. 2024, XLM-R on XQuAD-R: mono, cross, pool mAP, rank distance (read in the paper)
PUBLISHED = {
    "x-x-mono": (".792", ".674", ".548", "410"),
    "x-y": (".755", ".700", ".593", "295"),
    "hybrid": (".798", ".705", ".593", "287"),
}


def reduce(study: dict, kept=KEPT) -> dict:
    """What the repository keeps of a study; numbers to six decimals."""
    keep = {key: study[key] for key in kept}
    keep["seconds"] = sum(run["seconds"] for run in study["runs"])
    keep["commits"] = sorted({run["commit"][:7] for run in study["runs"]})
    return json.loads(json.dumps(keep), parse_float=lambda text: round(float(text), 6))


def lines(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


class Cells:
    """The numbers of a study: (recipe, attack, languages, column) -> ".463 ±.004"."""

    def __init__(self, study: dict):
        self.study, self.rows = study, {}
        for row in study["table"]:
            self.rows[row["recipe"], row["attack"], row["langs"]] = row

    def __call__(self, recipe: str, attack: str, column: str, langs: str = "all", marks=True) -> str:
        row = self.rows.get((recipe, attack, langs))
        if row is None or column not in row["cells"]:
            return "-"
        mark = MARKS.get(row["marks"].get(column), "") if marks else ""
        return pair(row["cells"][column], column) + mark

    def luck(self, column: str) -> str:
        view, _, metric = column.partition(" ")
        return digits(self.study["about"]["chance"][view].get(metric), column)

    def seeds(self, recipe: str) -> str:
        return str(self.rows[recipe, "clean", "all"]["n"])


def first_table(study: dict) -> str:
    """The first screen: one row a batching, clean and attacked, the published row beside it."""
    cell = Cells(study)
    columns = [("mono mAP", "clean", "all"), ("cross mAP", "clean", "all"), ("pool mAP", "clean", "all")]
    columns += [("pool mAP", "clean", "untrained"), ("pool rank_distance", "clean", "all")]
    columns += [("mono mAP", "greedy:edits=2", "all"), ("pool mAP", "greedy:edits=2", "all")]
    head = ["batches", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
    head += ["attacked: mono", "attacked: pool", "paper: mono", "cross", "pool", "rank distance"]
    rows = []
    for name in BATCHES:
        texts = [cell(f"{name}-none", attack, column, langs, False) for column, attack, langs in columns]
        if name == "en-en":  # its untrained languages are ten others: not the column's two
            texts[3] = "-"
        rows.append([name, *texts, *PUBLISHED.get(name, ("-",) * 4)])
    luck = [cell.luck(column) for column, _, _ in columns]
    return lines(head, [*rows, ["chance", *luck, *("-",) * 4]])


def full_table(study: dict) -> str:
    """Plain recipes, clean, by set of languages."""
    cell, columns = Cells(study), [c for c in study["table"][0]["cells"]]
    rows = [
        [name, cell.seeds(f"{name}-none"), langs, *(cell(f"{name}-none", "clean", c, langs, False) for c in columns)]
        for name in BATCHES for langs in ("all", "trained", "untrained")
    ]  # fmt: skip
    rows.append(["chance", "", "all", *map(cell.luck, columns)])
    return lines(["batches", "n", "languages", *(c.replace("_", " ") for c in columns)], rows)


def robust_table(study: dict) -> str:
    """Recipes by attacks, for pool mAP, mono R@1 and the untrained languages; minutes of training."""
    cell, found = Cells(study), []
    names = [a for a in study["attacks"] if ":control" not in a and not a.startswith("lir:")]
    known = [f"{batch}-{robust}" for batch in BATCHES for robust in ROBUST]
    recipes = [name for name in known if (name, names[-1], "all") in cell.rows]
    for column, langs, title in (
        ("pool mAP", "all", "pool mAP"), ("mono R@1", "all", "mono R@1"),
        ("pool mAP", "untrained", "pool mAP, el and vi (never trained on)"),
    ):  # fmt: skip
        rows = []
        for name in recipes:
            minutes = digits(cell.rows[name, "clean", "all"]["minutes"], "minutes")
            rows.append([name, cell.seeds(name), *(cell(name, a, column, langs) for a in names), minutes])
        rows.append(["chance", "", *[cell.luck(column)] * len(names), ""])
        found.append(lines([f"**{title}**", "n", *(SHORT.get(a, a) for a in names), "minutes"], rows))
    return "\n\n".join(found)


def attack_rows(study: dict) -> str:
    """One row a plain batching and attack: what is left of mAP, what was broken, at which size."""
    cell = Cells(study)
    size = {(r["recipe"], r["attack"]): r for r in study["strength"]}
    rows = []
    for name in BATCHES:
        for attack in [a for a in study["attacks"] if (f"{name}-none", a, "all") in cell.rows]:
            s = size.get((f"{name}-none", attack), {})
            broken = [digits(s.get(f"broken_{view}")) for view in ("mono", "pool")]
            amount = digits(s.get("edits") or s.get("norm")) if s else "-"
            columns = [cell(f"{name}-none", attack, f"{view} mAP", "all", False) for view in ("mono", "pool")]
            rows.append([name, attack, *columns, *broken, amount, digits(s.get("least_changed"))])
    return lines(["batches", "attack", "mono mAP", "pool mAP", "broken: mono", "pool", "size", "least changed"], rows)


def search_table(study: dict) -> str:
    """Settings of robust training on dev: one seed, hybrid batches; the mean decides."""
    cell = Cells(study)
    names = [a for a in study["attacks"] if ":control" not in a]
    rows = []
    for name in sorted(study["recipes"], key=lambda n: n.removeprefix("hybrid-")):
        found = [cell.rows[name, a, "all"]["cells"]["pool mAP"][0] for a in names]
        texts = [cell(name, a, "pool mAP", "all", False) for a in names]
        rest = [cell(name, "clean", "mono mAP", "all", False), cell(name, "clean", "pool mAP", "untrained", False)]
        text = re.sub(f"({'|'.join(train.METHODS)})_", r"\1:", name.removeprefix("hybrid-"))
        rows.append([f"`{text}`", *texts, digits(sum(found) / len(found)), *rest])
    head = ["--robust", *(SHORT.get(a, a) for a in names), "mean", "mono, clean", "untrained, clean"]
    return lines(head, rows)


def said(study: dict) -> str:
    """The generated sentences."""
    return "\n".join(f"- {text}" for text in study["answer"])


def blocks() -> dict[str, str]:
    """Name of a marked block in the README -> its text."""
    study, search = (json.loads(path.read_text(encoding="utf-8")) for path in (STUDY, SEARCH))
    return {
        "first": first_table(study), "full": full_table(study), "robust": robust_table(study),
        "attacks": attack_rows(study), "answer": said(study), "search": search_table(search),
    }  # fmt: skip


def fill(text: str) -> str:
    """The README with every marked block replaced: <!-- first --> ... <!-- end -->."""
    for name, content in blocks().items():
        pattern = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"README.md: no block <!-- {name} --> ... <!-- end -->")
        text = pattern.sub(lambda m, new=content: m[1] + new + m[2], text)
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        search = "--search" in sys.argv
        study = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        study, target = reduce(study, SEARCHED if search else KEPT), SEARCH if search else STUDY
        target.write_text(json.dumps(study, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8")
