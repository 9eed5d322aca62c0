"""Keep of finished runs what their statistics need, small enough for the repository.

    python tests/records.py data/xquad_r/records runs/*
    python study.py data/xquad_r/records/* --report FILE.html     the statistics again, by anyone

A run of 13,090 queries leaves 2 MB of single queries. Its comparisons read one number a question,
condition and view: the mean over the question's translations (`by_group` in study.py). So this
writes, for each run, metrics.npz with a row a question, metrics.json without examples (they quote
the data set) and run.json. Weights, checkpoints and logs stay where they are.

    python tests/records.py --search FILE.json search/*/* --metrics metrics-dev-dev.json

writes one row a run instead: its flags, and the means of the clean records and of LIR's.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from evaluate import Evaluated, condition_of, mean_of, read_arrays, read_evaluated, read_manifest
from study import COLUMNS, by_group
from xlt import write_json, write_record

# Flags of a search that are shown; the others are the same for all its runs
SHOWN = (
    "batching", "alpha", "robust", "steps", "lr", "tau", "batch_size", "symmetric", "seed",
    "precision",
)  # fmt: skip


# ---- a study's records ---------------------------------------------------------------------------


def by_question(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of metrics.npz with a row a question instead of a query: numbers and mAP.

    *Shapes*: (Q,) -> (G,); questions are sorted by name and numbered, NaN where nothing is relevant.
    """
    numbers = np.arange(len(np.unique(arrays["group"])))
    kept = {"id": numbers, "group": numbers}
    for name, values in arrays.items():
        if name.endswith("|mAP"):
            kept[name] = by_group(values, arrays["group"]).astype(np.float32)
    return kept


def without_home(content: dict, names) -> dict:
    """The same with paths cut to their last two parts: /home/me/xlt/data/e5_small -> data/e5_small."""
    shortened = {}
    for name in names:
        if content.get(name):
            shortened[name] = "/".join(Path(content[name]).parts[-2:])
    return content | shortened


def keep(run: Evaluated, folder: Path) -> None:
    """Write a run's records into folder/RUN.

    *Errors*: ValueError for a run that lacks its single queries.
    """
    arrays = by_question(read_arrays(run.path.with_suffix(".npz")))
    target = folder / run.path.parent.name
    target.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target / "metrics.npz", **arrays)
    metrics = without_home(run.metrics, ("model", "data", "recipe"))
    write_record(target / "metrics.json", metrics | {"examples": []})
    if run.run is not None:
        manifest = read_manifest(run.run)
        flags = without_home(manifest["flags"], ("model", "data", "eval_data"))
        write_record(target / "run.json", manifest | {"flags": flags})


# ---- a search's rows -----------------------------------------------------------------------------


def search_row(run: Evaluated) -> dict:
    """Flags and means of one run: {"flags": {...}, "clean": {"mono mAP": ...}, "LIR r=1": ...}."""
    flags = {}
    if run.run is not None:
        flags = read_manifest(run.run)["flags"]
    by_condition = {}
    for record in run.metrics["results"]:
        by_condition.setdefault(condition_of(record).label, []).append(record)
    row = {"flags": {name: flags[name] for name in SHOWN if name in flags}}
    if "data" in flags:
        row["flags"]["data"] = Path(flags["data"]).name
    for label, records in by_condition.items():
        means = {}
        for view, metric in COLUMNS:
            in_view = [record for record in records if record["view"] == view]
            mean = mean_of(in_view, metric)
            if mean is not None:  # a view may not have been measured
                means[f"{view} {metric}"] = round(mean, 6)
        row[label] = means
    return row


# ---- the program ---------------------------------------------------------------------------------


def main(argv=None) -> int:
    """Keep all runs that are given. Exit 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("target", type=Path, help="folder of the records; with --search a file")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--metrics", default="metrics.json", help="the file in each run's folder")
    parser.add_argument("--search", action="store_true", help="a row a run")
    args = parser.parse_args(argv)
    try:
        evaluated = []
        for folder in args.runs:
            name, is_run = args.metrics, (folder / "run.json").exists()
            if not is_run and not (folder / name).exists():  # a model that is no run
                name = "metrics.json"
            evaluated.append(read_evaluated(folder, name))
        if args.search:
            write_json(args.target, {"rows": [search_row(run) for run in evaluated]})
            return 0
        names = [folder.name for folder in args.runs]
        if len(set(names)) < len(names):
            raise ValueError(f"{names}: two folders of one name. Rename one.")
        for run in evaluated:
            keep(run, args.target)
    except (ValueError, OSError) as error:
        print(f"records.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
