"""Keep what a page needs of finished runs of pairs.py, so that no number in it is typed by hand.

    python tests/pair_results.py data/xnli runs/pairs-*     -> data/xnli/pairs.json
    python tests/pair_results.py                            pairs.json of each folder -> its page

Kept are the rows of the table, the comparisons' sentences and the matrices of pairs.py --report.
test_08_repository.py checks that each page holds exactly what this writes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from readme import fill, rounded, table_text

import pairs
from evaluate import CLEAN, condition_of, number
from study import mean
from xlt import read_record, write_json

PAGES = {  # folder with pairs.json -> the page of its blocks
    "data/xnli": ROOT / "data/xnli/results.md",
    "data/minifacts": ROOT / "data/minifacts/results.md",
}


def keep(target: Path, folders: list[Path]) -> None:
    """Write target/pairs.json."""
    runs = [pairs.read_metrics(folder) for folder in folders]
    manifests = [read_record(folder / "run.json", "Train it.") for folder in folders]
    head, *rows = pairs.results_rows(runs)
    matrices = [m for m in pairs.mean_matrices(runs) if condition_of(m) == CLEAN]
    kept = {
        "pairs": runs[0]["n_pairs"],
        "langs": runs[0]["langs"],
        "seeds": sorted({run["seed"] for run in runs}),
        "commits": sorted({manifest["commit"][:7] for manifest in manifests}),
        "seconds": round(mean([manifest["seconds_training"] for manifest in manifests])),
        "head": head,
        "rows": rows,
        "sentences": pairs.answer(pairs.compare_recipes(runs)),
        "matrices": rounded(matrices),
    }
    write_json(target / "pairs.json", kept)


def matrix_table(matrix: dict) -> str:
    """Accuracy of each language of sentence 1 (down) and of sentence 2 (across)."""
    rows = []
    for lang, values in zip(matrix["langs"], matrix["values"], strict=True):
        rows.append([lang, *map(number, values)])
    return table_text([f"**{matrix['recipe']}**", *matrix["langs"]], rows)


def page_blocks(folder: str) -> dict[str, str]:
    """Name of a marked block -> its text, from the folder's pairs.json."""
    kept = read_record(ROOT / folder / "pairs.json", "Give the runs, too.")
    made = (
        f"{kept['pairs']:,} test pairs in {len(kept['langs'])} languages, {len(kept['seeds'])} "
        f"seeds, {kept['seconds']} s of training a run; commit {', '.join(kept['commits'])}."
    )
    return {
        "pairs made": made,
        "pairs table": table_text(kept["head"], kept["rows"]),
        "pairs answer": "\n".join(f"- {text}" for text in kept["sentences"]),
        "pairs matrices": "\n\n".join(matrix_table(matrix) for matrix in kept["matrices"]),
    }


def main() -> None:
    """Keep the runs that are given, then fill all pages."""
    if len(sys.argv) > 2:
        target, *folders = sys.argv[1:]
        keep(ROOT / target, [Path(folder) for folder in folders])
    for folder, page in PAGES.items():
        if (ROOT / folder / "pairs.json").exists():
            page.write_text(
                fill(page.read_text(encoding="utf-8"), page_blocks(folder)), encoding="utf-8"
            )


if __name__ == "__main__":
    main()
