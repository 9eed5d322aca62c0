"""Keep what a page needs of finished runs of pairs.py, so that no number in it is typed by hand.

    python tests/pair_results.py data/paws_x runs/pairs-*    -> data/paws_x/pairs.json
    python tests/pair_results.py                             pairs.json of each folder -> its page

Kept of a run are the accuracies of all language pairs and, for each test pair, the share of them in
which it is right: what the tables and the statistics of pairs.py read.
test_08_repository.py checks that each page holds exactly what this writes.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
from readme import fill, rounded, table_text

import pairs
from evaluate import CLEAN, condition_of, number
from xlt import read_record

PAGES = {"data/paws_x": "results.md"}  # folder with pairs.json -> its page


def kept_run(folder: Path) -> dict:
    """What is kept of one run."""
    metrics = pairs.read_metrics(folder)
    manifest = read_record(folder / "run.json", "Train it.")
    names = ("robust", "seed", "train_lang", "langs", "n_pairs", "results")
    kept = {name: metrics[name] for name in names}
    kept["arrays"] = {name: values.tolist() for name, values in metrics["arrays"].items()}
    kept["seconds"] = manifest["seconds_training"]
    kept["commit"] = manifest["commit"][:7]
    return rounded(kept)


def keep(target: Path, folders: list[Path]) -> None:
    """Write target/pairs.json."""
    runs = [kept_run(folder) for folder in folders]
    text = json.dumps({"runs": runs}, ensure_ascii=False, separators=(",", ":"))
    (target / "pairs.json").write_text(text + "\n", encoding="utf-8")


def read_runs(folder: Path) -> list[dict]:
    """The runs of a folder's pairs.json, as `compare_recipes` and `results_rows` take them."""
    runs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))["runs"]
    for run in runs:
        run["arrays"] = {name: np.array(values) for name, values in run["arrays"].items()}
    return runs


def matrix_table(matrix: dict) -> str:
    """Accuracy of each language of sentence 1 (down) and of sentence 2 (across)."""
    rows = []
    for lang, values in zip(matrix["langs"], matrix["values"], strict=True):
        rows.append([lang, *map(number, values)])
    return table_text([f"**{matrix['recipe']}**", *matrix["langs"]], rows)


def page_blocks(runs: list[dict]) -> dict[str, str]:
    """Name of a marked block -> its text."""
    head, *rows = pairs.results_rows(runs)
    sentences = pairs.answer(pairs.compare_recipes(runs))
    matrices = [m for m in pairs.mean_matrices(runs) if condition_of(m) == CLEAN]
    return {
        "pairs table": table_text(head, rows),
        "pairs answer": "\n".join(f"- {text}" for text in sentences),
        "pairs matrices": "\n\n".join(matrix_table(matrix) for matrix in matrices),
    }


def main() -> None:
    """Keep the runs that are given, then fill all pages."""
    if len(sys.argv) > 2:
        target, *folders = sys.argv[1:]
        keep(ROOT / target, [Path(folder) for folder in folders])
    for name, page_name in PAGES.items():
        page = ROOT / name / page_name
        content = page_blocks(read_runs(ROOT / name))
        page.write_text(fill(page.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
