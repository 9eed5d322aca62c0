"""Write data/xnli/results.md from runs of pairs.py, so that no number in it is typed by hand.

    python tests/pair_results.py data/xnli RUNS       -> data/xnli/pairs.json
    python tests/pair_results.py data/minifacts RUNS  -> data/minifacts/pairs.json
    python tests/pair_results.py --search RUNS        -> data/minifacts/pair_search.json
    python tests/pair_results.py                      the shipped records

Each of them then fills the page, where blocks are marked: <!-- xnli table --> ... <!-- end -->.
README's sentence on pairs is tests/readme.py's: run it afterwards.
RUNS are folders of pairs.py. Kept are the rows of the table that it prints, its comparisons, and
the matrices of clean pairs; of a search, which may have been stopped, its looks at dev.
test_08_repository.py checks that the page holds exactly what this writes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from readme import fill, interval_of, keep, read, rounded, table_text, wrapped

import pairs
from evaluate import CLEAN, condition_of, number
from study import enumeration, mean
from xlt import read_record

PAGE = ROOT / "data/xnli/results.md"
SEARCH = ROOT / "data/minifacts/pair_search.json"
FOLDERS = ("xnli", "minifacts")  # of data/, in the order of the page


def place_of(run: dict) -> tuple:
    """Plain training first, then by name and seed, in whatever order the folders are given."""
    return run["robust"] != "none", run["robust"], run["seed"]


def record_of(folders: list[Path]) -> dict:
    """What the repository keeps of runs of pairs.py on the same pairs."""
    runs = [pairs.read_metrics(folder) for folder in folders]
    runs.sort(key=place_of)
    manifests = [read_record(folder / "run.json", "Train it.") for folder in folders]
    head, *rows = pairs.results_rows(runs)
    plain = [matrix for matrix in pairs.mean_matrices(runs) if matrix["recipe"] == "none"]
    return {
        "n_pairs": runs[0]["n_pairs"],
        "langs": runs[0]["langs"],
        "seeds": sorted({run["seed"] for run in runs}),
        "commits": sorted({manifest["commit"][:7] for manifest in manifests}),
        "seconds": mean([manifest["seconds_training"] for manifest in manifests]),
        "head": head,
        "rows": rows,
        "comparisons": [comparison.record() for comparison in pairs.compare_recipes(runs)],
        "matrices": [matrix for matrix in plain if condition_of(matrix) == CLEAN],
    }


def search_record(folders: list[Path]) -> list[dict]:
    """The looks at dev of runs: accuracy by the step after which it was had."""
    kept = []
    for folder in folders:
        manifest = read_record(folder / "run.json", "Train it.")
        looks = {str(choice["step"]): choice["accuracy"] for choice in manifest["choices"]}
        flags = manifest["flags"]
        kept.append({"robust": flags["robust"], "seed": flags["seed"], "looks": looks})
    return kept


# ---- texts ---------------------------------------------------------------------------------------


def basis_text(record: dict) -> str:
    """Which pairs, languages, seeds and commits a folder's tables are about."""
    seeds = enumeration([str(seed) for seed in record["seeds"]], "and")
    word = "seed" if len(record["seeds"]) == 1 else "seeds"
    text = (
        f"{record['n_pairs']:,} test pairs in {len(record['langs'])} languages; {word} {seeds}; "
        f"{record['seconds']:.0f} s of training a run, one thread; run commits "
        f"{', '.join(record['commits'])}."
    )
    return wrapped(text)


def gain_table(record: dict) -> str:
    """Robust minus plain training, a row a recipe and condition; bold is significant."""
    rows = {}  # (recipe, condition) -> setting -> cell
    for row in record["comparisons"]:
        text = interval_of(row)
        if row["significant"]:
            text = f"**{text}**"
        rows.setdefault((row["a"], condition_of(row).label), {})[row["view"]] = text
    table = []
    for (recipe, condition), cells in rows.items():
        table.append([f"`{recipe}`", condition, *(cells.get(name, "-") for name in pairs.SETTINGS)])
    return table_text(["--robust", "condition", *pairs.SETTINGS], table)


def search_table(runs: list[dict]) -> str:
    """Accuracy on dev, a row a run, a column a look; "-" after a run was stopped."""
    steps = sorted({int(step) for run in runs for step in run["looks"]})
    rows = []
    for run in runs:
        looks = [number(run["looks"].get(str(step))) for step in steps]
        rows.append([f"`{run['robust']}`", str(run["seed"]), *looks])
    return table_text(["--robust", "seed", *(f"step {step}" for step in steps)], rows)


def matrix_table(record: dict) -> str:
    """Accuracy of plain training: language of sentence 1 down, of sentence 2 across."""
    (matrix,) = record["matrices"]
    rows = []
    for lang, values in zip(matrix["langs"], matrix["values"], strict=True):
        rows.append([lang, *map(number, values)])
    return table_text(["", *matrix["langs"]], rows)


def pair_blocks() -> dict[str, str]:
    """Name of a marked block of the page -> its text."""
    contents = {}
    for name in FOLDERS:
        record = read(ROOT / "data" / name / "pairs.json")
        contents[f"{name} made"] = basis_text(record)
        contents[f"{name} table"] = table_text(record["head"], record["rows"])
        contents[f"{name} gains"] = gain_table(record)
        contents[f"{name} matrix"] = matrix_table(record)
    contents["search"] = search_table(read(SEARCH))
    return contents


def main() -> None:
    """Keep the runs that are given, if any are; then fill the page."""
    if len(sys.argv) == 2:
        raise SystemExit("Give the folders of runs, too, or nothing at all.")
    if len(sys.argv) > 2:
        target, *names = sys.argv[1:]
        folders = [Path(name) for name in names]
        if target == "--search":
            keep(rounded(search_record(folders)), SEARCH)
        else:
            keep(rounded(record_of(folders)), ROOT / target / "pairs.json")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), pair_blocks()), encoding="utf-8")


if __name__ == "__main__":
    main()
