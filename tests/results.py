"""Write the marked blocks of data/xquad_r/results.md from records, so that none is typed by hand.

    python tests/results.py clean=clean.study.json noise=noise.study.json    -> study.json, page
    python tests/results.py                                                  study.json -> page

The studies are what study.py writes with --report: clean, attacked, fp32, noise and goal from the
records of that name in data/xquad_r/records, robust from the search of robust training's settings
on MLQA-R's dev. Those that are not given stay as they are. The search of the other settings is
data/xquad_r/search.json, of tests/records.py --search.
test_08_repository.py checks that the blocks hold exactly what this writes. The text between them is
by hand: read it again after every new study.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import readme
from readme import (
    BATCHINGS,
    LIR,
    PUBLISHED,
    REAL,
    STUDY_KEYS,
    VIEWS,
    Cells,
    fill,
    reduce,
    short_name,
    table_text,
)

from evaluate import CLEAN, Condition, condition_of, number
from study import PREFERRED, batching_name, interval_text, p_text

FOLDER = ROOT / "data/xquad_r"
STUDIES = ("clean", "attacked", "robust", "fp32", "noise", "goal")
CENTRED = Condition(centred=True)
# The conditions without attack: what was taken out of the vectors of each language
TAKEN_OUT = {CLEAN: "-", LIR: "LIR, r = 1", CENTRED: "centring"}


def short_recipe(study: dict, name: str) -> str:
    """ "as it is" for the encoder that was not trained, "hybrid", "hybrid, adv:epsilon=0.02"."""
    (recipe,) = [recipe for recipe in study["recipes"] if recipe["name"] == name]
    if recipe["batching"] is None:
        return "as it is"
    batching = batching_name(recipe["batching"], recipe["alpha"]) + recipe["suffix"]
    if recipe["robust"] == "none":
        return batching
    return f"{batching}, {recipe['robust']}"


def recipes_in_order(study: dict) -> list[str]:
    """Names: the encoder as it is, then batchings in the house's order, plain ones first."""

    def place(recipe):
        """What they are sorted by."""
        if recipe["batching"] is None:
            return -1, 0, ""
        return BATCHINGS.index(recipe["batching"]), recipe["robust"] != "none", recipe["robust"]

    return [recipe["name"] for recipe in sorted(study["recipes"], key=place)]


# ---- clean ---------------------------------------------------------------------------------------


CLEAN_COLUMNS = (  # n: seeds
    "batches", "taken out", "n", "mono mAP", "cross mAP", "pool mAP", "pool, trained",
    "pool, untrained", "rank distance",
)  # fmt: skip


def clean_rows(study: dict, names: dict[str, str] | None = None) -> list[list[str]]:
    """Every recipe as it is, with LIR and with centring; columns: CLEAN_COLUMNS.

    names: recipe -> what it is called here, if not by its batches.
    """
    cells, rows = Cells(study), []
    short_names = {recipe: short_recipe(study, recipe) for recipe in recipes_in_order(study)}
    names = short_names | (names or {})
    for recipe in recipes_in_order(study):
        for condition, taken_out in TAKEN_OUT.items():
            if not cells.has(recipe, condition):
                continue
            row = [names[recipe], taken_out, cells.seeds(recipe)]
            row += [cells.text(recipe, view, condition=condition) for view in VIEWS]
            for langs in ("trained", "untrained"):
                row.append(cells.text(recipe, "pool", condition=condition, langs=langs))
            rows.append([*row, cells.text(recipe, "pool", "rank_distance", condition)])
    return rows


def published_row(batching: str) -> list[str]:
    """What the paper says of XLM-R with such batches; columns: CLEAN_COLUMNS."""
    *maps, distance = PUBLISHED[batching]
    return [f"paper, XLM-R: {batching}", "-", "1", *maps, "-", "-", distance]


def clean_table(study: dict) -> str:
    """The study's rows; the paper's and chance below."""
    cells, rows = Cells(study), clean_rows(study)
    rows += [published_row(batching) for batching in PUBLISHED]
    luck = [cells.luck(view) for view in VIEWS]
    rows.append(["chance", "-", "", *luck, "-", "-", cells.luck("pool", "rank_distance")])
    return table_text(CLEAN_COLUMNS, rows)


def preferred_table(study: dict) -> str:
    """Who is preferred in the pool: shares of the first passages, and the preference rate."""
    rows = []
    for recipe in recipes_in_order(study):
        for row in study["bias"]:
            condition = condition_of(row)
            if row["recipe"] == recipe and condition in TAKEN_OUT:
                numbers = [number(row[key], key) for key in (*PREFERRED, "own_share@10")]
                numbers.append(number(row["foreign_rank"], "foreign_rank"))
                rows.append([short_recipe(study, recipe), TAKEN_OUT[condition], *numbers])
    columns = [key.replace("_", " ") for key in (*PREFERRED, "own_share@10", "foreign_rank")]
    return table_text(["batches", "taken out", *columns], rows)


def difference_table(study: dict) -> str:
    """Comparisons without attack of plain recipes, with intervals and Holm's p."""
    rows = []
    for row in study["comparisons"]:
        condition = condition_of(row)
        # fixed is what a and b share: "none", no robust training, where batchings are compared
        if condition not in TAKEN_OUT or row["fixed"] != "none":
            continue
        names = [short_recipe(study, row["a"]), short_recipe(study, row["b"])]
        significant = "yes" if row["significant"] else "no"
        numbers = [number(row["difference"]), interval_text(row), p_text(row["holm"]), significant]
        rows.append([*names, TAKEN_OUT[condition], row["view"], *numbers])
    head = ["a", "b", "taken out", "view", "a - b", "95 % interval", "p (Holm)", "significant"]
    return table_text(head, rows)


def matrix_tables(study: dict) -> str:
    """mAP of each query language (down) in each passage language (across), as it is and hybrid."""
    tables = []
    for matrix in study["matrices"]:
        name = short_recipe(study, matrix["recipe"])
        if condition_of(matrix) != CLEAN or name not in ("as it is", "hybrid"):
            continue
        rows = []
        for lang, values in zip(matrix["langs"], matrix["values"], strict=True):
            rows.append([lang, *map(number, values)])
        tables.append(table_text([f"**{name}**", *matrix["langs"]], rows))
    return "\n\n".join(tables)


# ---- attacked ------------------------------------------------------------------------------------


def attacks_of(study: dict) -> list[Condition]:
    """The attacks of the study; of the controls only greedy's, as many edits at random."""
    attacks = []
    for condition in Cells(study).conditions:
        is_wanted = not condition.control or condition.attack == "greedy"
        if condition.attack != "clean" and is_wanted:
            attacks.append(condition)
    return attacks


def attack_name(condition: Condition) -> str:
    """The head of a column."""
    if condition.control:
        return "random, as many edits"
    return short_name(condition)


def attacked_table(study: dict) -> str:
    """mAP of the pool, clean and under each attack; a row a recipe."""
    cells, rows = Cells(study), []
    attacks = attacks_of(study)
    for recipe in recipes_in_order(study):
        row = [short_recipe(study, recipe), cells.seeds(recipe), cells.text(recipe, "pool")]
        row += [cells.text(recipe, "pool", condition=condition) for condition in attacks]
        rows.append(row)
    return table_text(["batches", "n", "clean", *map(attack_name, attacks)], rows)


def broken_table(study: dict) -> str:
    """Of the pool's right first passages, the share that is wrong after the attack."""
    broken, rows = {}, []
    for row in study["strength"]:
        broken[row["recipe"], condition_of(row)] = row["broken_pool"]
    attacks = attacks_of(study)
    for recipe in recipes_in_order(study):
        shares = [number(broken.get((recipe, condition))) for condition in attacks]
        rows.append([short_recipe(study, recipe), *shares])
    return table_text(["batches", *map(attack_name, attacks)], rows)


# ---- the search ----------------------------------------------------------------------------------


SETTINGS = ("data", "batches", "batch size", "steps", "lr", "tau", "precision")


def mean_of_views(row: dict) -> float:
    """What decides: the mean of mono, cross and pool mAP."""
    clean = row["clean"]
    return (clean["mono mAP"] + clean["cross mAP"] + clean["pool mAP"]) / 3


def settings_of(flags: dict) -> list[str]:
    """What one run of the search was trained with, in the columns of SETTINGS."""
    if not flags:
        return ["as it is", *["-"] * (len(SETTINGS) - 1)]
    numbers = [f"{flags[name]:g}" for name in ("batch_size", "steps", "lr", "tau")]
    return [flags["data"], readme.told_batches(flags), *numbers, flags["precision"]]


def search_table(search: dict) -> str:
    """Settings on MLQA-R's dev, one seed each; the best mean of the three views first."""
    rows = []
    for row in sorted(search["rows"], key=mean_of_views, reverse=True):
        clean, lir = row["clean"], "-"
        if LIR.label in row:
            lir = number(row[LIR.label]["pool mAP"])
        maps = [number(clean[f"{view} mAP"]) for view in VIEWS]
        distance = number(clean["pool rank_distance"], "rank_distance")
        mean = number(mean_of_views(row))
        rows.append([*settings_of(row["flags"]), *maps, mean, distance, lir])
    measured = ["mono mAP", "cross mAP", "pool mAP", "mean", "rank distance", "pool with LIR"]
    return table_text([*SETTINGS, *measured], rows)


def goal_table(study: dict) -> str:
    """What the search on dev ended with, on the test questions, beside the paper's best row."""
    rows = clean_rows(study, readme.goal_names(study))
    return table_text(CLEAN_COLUMNS, [*rows, published_row("hybrid")])


# ---- the page ------------------------------------------------------------------------------------


def answer_list(study: dict) -> str:
    """The generated sentences; the encoder's path is called what it is."""
    sentences = []
    for text in study["answer"]:
        for recipe in study["recipes"]:
            if recipe["batching"] is None:
                text = text.replace(recipe["name"], "the encoder as it is")
        sentences.append(f"- {text}")
    return "\n".join(sentences)


def results_blocks() -> dict[str, str]:
    """Name of a marked block in results.md -> its text."""
    studies = json.loads(REAL.read_text(encoding="utf-8"))
    search = json.loads((FOLDER / "search.json").read_text(encoding="utf-8"))
    clean, attacked = studies["clean"], studies["attacked"]
    return {
        "answer": answer_list(clean),
        "clean": clean_table(clean),
        "preferred": preferred_table(clean),
        "differences": difference_table(clean),
        "matrices": matrix_tables(clean),
        "search": search_table(search),
        "attacked answer": answer_list(attacked),
        "attacked": attacked_table(attacked),
        "broken": broken_table(attacked),
        "robust search": readme.search_table(studies["robust"]),
        "fp32": table_text(CLEAN_COLUMNS, clean_rows(studies["fp32"])),
        "fp32 answer": answer_list(studies["fp32"]),
        "noise": table_text(CLEAN_COLUMNS, clean_rows(studies["noise"])),
        "noise answer": answer_list(studies["noise"]),
        "goal": goal_table(studies["goal"]),
    }


def keep_studies(paths: dict[str, Path]) -> None:
    """Write what the repository keeps of the studies that are given; the others stay."""
    studies = json.loads(REAL.read_text(encoding="utf-8"))
    for name, path in paths.items():
        study = json.loads(path.read_text(encoding="utf-8"))
        studies[name] = reduce(study, (*STUDY_KEYS, "matrices"))
    studies = {name: studies[name] for name in STUDIES if name in studies}
    text = json.dumps(studies, ensure_ascii=False, separators=(",", ":"))
    REAL.write_text(text + "\n", encoding="utf-8")


def named_paths(arguments: list[str]) -> dict[str, Path]:
    """ "clean=FILE" -> {"clean": FILE}.

    *Errors*: ValueError for a name that is none of STUDIES.
    """
    paths = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        if name not in STUDIES or not path:
            raise ValueError(f"{argument}: give NAME=FILE, a NAME of {', '.join(STUDIES)}.")
        paths[name] = Path(path)
    return paths


if __name__ == "__main__":
    keep_studies(named_paths(sys.argv[1:]))
    page = FOLDER / "results.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), results_blocks()), encoding="utf-8")
