"""Write the README's result tables from records, so that no number in it is typed by hand.

    python tests/readme.py runs      runs/*/metrics.json -> data/minifacts/results.jsonl -> README.md
    python tests/readme.py runs attacked  the same of attacked runs, which evaluate.py wrote there
    python tests/readme.py           data/minifacts/results.jsonl -> README.md

test_08_repository.py checks that README.md holds exactly what this writes.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evaluate import METRICS, cell, summarise, table

RECORDS = ROOT / "data/minifacts/results.jsonl"
ATTACKED = ROOT / "data/minifacts/attacks.jsonl"  # the same of attacked runs, several attacks each
COUNTS = ("n_queries", "n_attacked", "n_changed", "n_right", "n_broken")
MEANS = ("edits", "norm", "calls", "certified R@1")
ORDER = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")
# Elmahdy et al. 2024, XLM-R on XQuAD-R: mono, cross, pool mAP, rank distance (read in the paper)
PUBLISHED = {
    "x-x-mono": (".792", ".674", ".548", "410"),
    "x-y": (".755", ".700", ".593", "295"),
    "hybrid": (".798", ".705", ".593", "287"),
}


def reduce(run: dict) -> dict:
    """One run's metrics.json without the 11 x 11 matrix: cross averaged over passage languages."""
    values = defaultdict(list)
    for row in run["results"]:
        values[row["attack"], row["view"], row["query_lang"]].append(row)
    rows = []
    for (attack, view, lang), members in values.items():
        row = {"attack": attack, "view": view, "query_lang": lang}
        for name in (*METRICS, *MEANS):
            found = [m[name] for m in members if m.get(name) is not None]
            if found or name in METRICS:
                row[name] = round(sum(found) / len(found), 5) if found else None
        row |= {name: sum(m[name] for m in members) for name in COUNTS if name in members[0]}
        rows.append(row)
    keep = ("recipe", "seed", "train_langs", "langs", "split", "data_sha256", "chance", "versions")
    return {key: run[key] for key in keep} | {"results": rows}


def first_table(runs: list[dict]) -> str:
    """The first screen: one row a batching, the published row beside it."""
    head = ["batches", "mono mAP", "cross mAP", "pool mAP", "pool, untrained", "rank distance"]
    head += ["paper: mono", "cross", "pool", "rank distance"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    everything = {a for run in runs for a in run["train_langs"]}
    untrained = [a for a in runs[0]["langs"] if a not in everything]  # el and vi, in every row
    for name in ORDER:
        members = [run for run in runs if run["recipe"] == f"{name}-none"]
        sums = [summarise(run["results"]) for run in members]
        rest = [summarise(run["results"], untrained) for run in members]
        cells = [cell([s[view, "mAP"] for s in sums], "mAP") for view in ("mono", "cross", "pool")]
        cells.append(cell([s["pool", "mAP"] for s in rest], "mAP"))
        cells.append(cell([s["pool", "rank_distance"] for s in sums], "rank_distance"))
        lines.append(f"| {name} | " + " | ".join([*cells, *PUBLISHED.get(name, ("-",) * 4)]) + " |")
    luck = runs[0]["chance"]
    cells = [cell([luck[view]["mAP"]], "mAP") for view in ("mono", "cross", "pool", "pool")]
    cells.append(cell([luck["pool"]["rank_distance"]], "rank_distance"))
    return "\n".join([*lines, "| chance | " + " | ".join(cells) + " | - | - | - | - |"])


def of_attack(run: dict, attack: str, untrained: list[str]) -> list[float | None]:
    """One run under one attack -> the numbers of its row, None where there is none."""
    rows = [r for r in run["results"] if r["attack"] == attack]
    everywhere, rest = summarise(rows, None, attack), summarise(rows, untrained, attack)

    def mean(view, key):
        values = [r[key] for r in rows if r["view"] == view and r.get(key) is not None]
        return sum(values) / len(values) if values else None

    def broken(view):
        bad, right = (sum(r.get(key, 0) for r in rows if r["view"] == view) for key in COUNTS[-1:-3:-1])
        return bad / right if right else None

    found = [everywhere.get((view, "mAP")) for view in ("mono", "cross", "pool")]
    found += [rest.get(("pool", "mAP")), broken("mono"), broken("pool")]
    return [*found, mean("pool", "edits") or mean("pool", "norm")]


def attack_rows(runs: list[dict]) -> str:
    """One row a batching and attack: what is left of mAP, and how many right queries it broke."""
    head = ["batches", "attack", "n", "mono mAP", "cross mAP", "pool mAP", "pool, untrained"]
    head += ["broken: mono", "pool", "size"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    untrained = [a for a in runs[0]["langs"] if a not in runs[0]["train_langs"]]
    for name in [n for n in ORDER if any(run["recipe"] == f"{n}-none" for run in runs)]:
        members = [run for run in runs if run["recipe"] == f"{name}-none"]
        for attack in dict.fromkeys(row["attack"] for row in members[0]["results"]):
            numbers = [of_attack(run, attack, untrained) for run in members]
            cells = [cell(list(column), "mAP") for column in zip(*numbers, strict=True)]
            lines.append("| " + " | ".join([name, attack, str(len(members)), *cells]) + " |")
    return "\n".join(lines)


def blocks() -> dict[str, str]:
    """Name of a marked block in the README -> its text."""
    runs, attacked = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (RECORDS, ATTACKED)
    )
    return {"first": first_table(runs), "full": table(runs), "attacks": attack_rows(attacked)}


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
        paths = [p for name in ORDER for p in sorted(Path(sys.argv[1]).glob(f"{name}-none-*/metrics.json"))]
        runs = [reduce(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        path = ATTACKED if "attacked" in sys.argv else RECORDS
        for run in runs if path == RECORDS else ():
            run["results"] = [row for row in run["results"] if row["attack"] == "clean"]
        runs = [run for run in runs if path == RECORDS or len(run["results"]) > 3 * len(run["langs"])]
        path.write_text("".join(json.dumps(r) + "\n" for r in runs), encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8")
