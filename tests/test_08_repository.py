"""Rung 8: the repository keeps its promises: imports, names, README and pages of results.

Before: all other rungs. Run: pytest tests/test_08_repository.py
"""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import bench
import numpy as np
import pytest
from conftest import ROOT, write_folder
from pair_results import gain_table, pair_blocks
from pair_results import search_table as pair_search_table
from readme import (
    EXAMPLE,
    GREEDY,
    REAL,
    SHOW,
    STUDY,
    attacked_text,
    differs,
    fill,
    form_means,
    goal_names,
    loses,
    lost_sentence,
    make_certificates,
    pages,
    printed_line,
    read,
    run_quickstart,
)
from results import keep_studies, named_paths, results_blocks, settings_of

import attacks
import train
from evaluate import CLEAN, Condition, array_name
from pairs import GAP

MODULES = ("xlt", "attacks", "evaluate", "study", "train", "pairs")  # each may use those before it
PAGES = (
    "README.md",
    "data/minifacts/results.md",
    "tests/bench.md",
    "data/xquad_r/results.md",
    "data/xnli/results.md",
)
README, RESULTS, SPEED, REAL_TEXT, PAIRS = [
    (ROOT / page).read_text(encoding="utf-8") for page in PAGES
]
PROGRAMS = [ROOT / f"{name}.py" for name in MODULES]
PROGRAMS += sorted((ROOT / "data").glob("*/prepare.py")) + sorted((ROOT / "data").glob("*.py"))
PYTHON = [*PROGRAMS, *sorted((ROOT / "tests").glob("*.py"))]


def imported(path):
    """The modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_downwards_only(name):
    """Claim: xlt <- attacks <- evaluate <- study <- train <- pairs. Catches: a cycle, a room upstairs."""
    later = set(MODULES[MODULES.index(name) :])
    assert not imported(ROOT / f"{name}.py") & later


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_from_the_data_folder(name):
    """Claim: data/ holds data and the scripts that prepare them. Catches: a page drawn in data/."""
    assert not any(module.split(".")[0] == "data" for module in imported(ROOT / f"{name}.py"))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.name)
def test_no_lambda_has_a_name(path):
    """Claim: a function that is called by name is a def, with a docstring or a comment.

    Catches: f = lambda x: ..., a lambda in a dict.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign):
            assert not isinstance(node.value, ast.Lambda), f"line {node.lineno}"
        if isinstance(node, ast.Dict):
            assert not any(isinstance(value, ast.Lambda) for value in node.values), node.lineno


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.parent.name + "/" + path.name)
def test_lines_have_at_most_100_columns(path):
    """Number: two windows side by side. (Tests hold sentences of many scripts: not here.)"""
    assert max(len(line) for line in path.read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_a_docstring(name):
    """Claim: whatever a reader can call says what it does. Catches: a function without a word."""
    tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def test_importing_a_module_prints_nothing_and_seeds_nothing():
    """Claim: importing runs nothing. Catches: a parser or a seed at module level."""
    code = "import torch; seed = torch.initial_seed(); "
    code += f"import {', '.join(MODULES)}; assert torch.initial_seed() == seed"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == ""


def seconds_of(*command):
    """How long Python takes for this, the better of two times, and what it printed."""
    times = []
    for _ in range(2):
        start = time.time()
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True
        )
        times.append(time.time() - start)
    return min(times), done.stdout


@pytest.fixture(scope="module")
def torch_alone():
    """Seconds of importing torch."""
    return seconds_of("-c", "import torch")[0]


@pytest.mark.parametrize("name", ["train", "evaluate", "study", "pairs"])
def test_help_answers_in_time(name, torch_alone):
    """Number: importing torch and half as much again; transformers, which only loading a model
    needs, would take as long as torch. Catches: its import at the top of a file."""
    seconds, printed = seconds_of(ROOT / f"{name}.py", "--help")
    assert seconds < 1.5 * torch_alone
    assert "usage:" in printed


@pytest.mark.parametrize("name", ["train", "evaluate", "study", "pairs"])
def test_an_interrupted_import_leaves_no_traceback(name, tmp_path):
    """Number: a torch whose import sends the signal of Ctrl-C; the process ends by it, as a shell
    shows in 130. Catches: forty lines of import machinery."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, ROOT / f"{name}.py", "--help"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


# ---- what the pages say --------------------------------------------------------------------------


def written():
    """(page, name of a block in it, its text): what readme.py, results.py, pair_results.py write."""
    blocks = []
    for path, contents in pages().items():
        page = path.relative_to(ROOT).as_posix()
        blocks += [(page, name, content) for name, content in contents.items()]
    blocks += [(PAGES[3], name, content) for name, content in results_blocks().items()]
    blocks += [(PAGES[4], name, content) for name, content in pair_blocks().items()]
    return blocks


@pytest.mark.parametrize("page", PAGES)
def test_the_numbers_of_a_page_are_those_of_the_records(page):
    """Claim: no number between its markers is typed by hand. Catches: an edited or outdated table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    contents = {name: content for other, name, content in written() if other == page}
    assert contents
    assert fill(text, contents) == text


@pytest.mark.parametrize(
    ("page", "content"),
    [(page, content) for page, _, content in written()],
    ids=[f"{page}-{name}" for page, name, _ in written()],
)
def test_every_generated_block_stands_on_its_page(page, content):
    """Claim: and has something in it. Catches: a marker that was deleted, an empty table."""
    assert len(content) > 60
    assert content in (ROOT / page).read_text(encoding="utf-8")


def test_a_page_keeps_what_stands_between_its_blocks():
    """Number: an empty block and a full one; then a block without its end. Catches: the text between
    two blocks taken for the old content of the first.
    """
    page = "<!-- a -->\n<!-- end -->\nkept\n<!-- b -->\nold\n<!-- end -->\n"
    filled = fill(page, {"a": "new", "b": "newer"})
    assert filled == "<!-- a -->\nnew\n<!-- end -->\nkept\n<!-- b -->\nnewer\n<!-- end -->\n"
    with pytest.raises(ValueError, match="no block <!-- a -->"):
        fill(page.replace("<!-- end -->\nkept", "kept"), {"a": "new"})


@pytest.mark.parametrize("arguments", [["x.json", "--serach"], ["--forms"], ["--search"]])
def test_a_mistyped_flag_overwrites_no_record(arguments):
    """Catches: a search written over the study; a record of no runs."""
    command = [sys.executable, "tests/readme.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("readme.py: ")


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_without_its_writer(page):
    """Claim: each marker on a page names something that is generated for it.

    Catches: a block that was renamed in tests/readme.py, whose old numbers stay for ever.
    """
    marks = re.findall(r"<!-- (.+?) -->", (ROOT / page).read_text(encoding="utf-8"))
    assert set(marks) - {"end"} == {name for other, name, _ in written() if other == page}


@pytest.mark.parametrize(
    ("page", "study"),
    [(RESULTS, read(STUDY)), (REAL_TEXT, read(REAL)["clean"])],
    ids=["bundled", "real text"],
)
def test_what_was_read_by_hand_was_read_in_this_study(page, study):
    """Claim: what is typed about the tables of a page names the commits of the study it was read in.

    Catches: tables of a new study under the sentences about the old one. Read them again, then name
    the new commits.
    """
    (commits,) = re.findall(r"study of commits ([0-9a-f, ]+)[.:]", page.replace("\n", " "))
    assert commits.split(", ") == study["commits"]


def test_whatever_is_said_of_real_text_names_the_four_bits():
    """Claim: wherever its numbers stand, the page says of which weights. Catches: a table that
    seems to be about the published encoder."""
    for page in (README, SPEED, REAL_TEXT):
        assert "4-bit weights" in page


def test_the_first_screen_holds_what_a_visitor_needs():
    """Number: 62 lines, which a browser shows on one page; 200 for all: ten minutes' reading.
    Catches: a front door that is built up, chapter by chapter, until nobody finds the answer."""
    lines = README.splitlines()
    screen = "\n".join(lines[:62])
    marks = ["\n> How does hybrid-batch", "<!-- answer -->", "<!-- real -->", "<!-- example -->"]
    marks += ["python train.py", "python -m pytest", "**The catch.**"]
    places = [screen.find(mark) for mark in marks]
    assert -1 not in places
    assert places == sorted(places)
    assert len(lines) <= 200


@pytest.mark.parametrize("page", PAGES[:3])
def test_lines_of_pages_have_at_most_130_columns(page):
    """Number: an editor's window; rows of tables cannot be broken. Catches: endless lines."""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        assert line.startswith("|") or len(line) <= 130, line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page):
    """Claim: whatever a page points at is there. Catches: a page that moved."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert ((ROOT / page).parent / link).is_file(), link


def test_a_comparison_is_told_by_its_sign_and_its_significance():
    """Number: by hand; the bounds of a difference below 0 change places when it is told as a size.

    Catches: "-.020 below", the lower bound as the upper one, a difference that is none.
    """
    row = {"difference": 0.05, "low": 0.04, "high": 0.07, "significant": True}
    assert differs(row, "x-y") == "is .050 [.040, .070] above x-y"
    assert loses(row, "x-y") == ".050 [.040, .070] more than x-y"
    row = {"difference": -0.02, "low": -0.03, "high": -0.015, "significant": True}
    assert differs(row, "x-y") == "is .020 [.015, .030] below x-y"
    assert loses(row, "x-y") == ".020 [.015, .030] less than x-y"
    row = {"difference": -0.0004, "low": -0.02, "high": 0.01, "significant": False}
    assert differs(row, "x-y") == "does not differ significantly from x-y (+.000 [-.020, .010])"


def test_the_verdict_on_hybrid_batches_follows_the_comparisons():
    """Number: what is lost to the attack, hybrid against each parent, planted as less, as more and
    as no difference.

    Catches: a verdict that stays what it was when the study is measured anew; "more robust" where
    one parent loses less.
    """
    study = read(STUDY)
    verdicts = {}
    for planted in ((-0.02, -0.02), (-0.02, 0.0), (-0.02, 0.02), (0.0, -0.02), (0.02, 0.02)):
        for row in study["comparisons"]:
            if row["metric"] == "mAP lost" and row["b"] in ("x-x-mono-none", "x-y-none"):
                row["difference"] = planted[row["b"] == "x-y-none"]
                row["significant"] = row["difference"] != 0
        verdicts[planted] = lost_sentence(study, GREEDY, "Here")
    assert "more robust than both" in verdicts[-0.02, -0.02]
    assert "more robust than one of their parents" in verdicts[-0.02, 0.0]
    assert "more robust than one of their parents" in verdicts[0.0, -0.02]
    assert "no gain in robustness" in verdicts[-0.02, 0.02]
    assert "no sign" in verdicts[0.02, 0.02]


def test_queries_are_averaged_by_their_form(tmp_path):
    """Number: by hand; two German questions and one English, so that each language counts once.

    Catches: the mean over queries, the other form's queries, the pool's value for mono.
    """
    arrays = {
        "id": np.array(["q1.de", "q2.de", "q1.en", "q1s.de", "q1s.en"]),
        "lang": np.array(["de", "de", "en", "de", "en"]),
    }
    for condition in (CLEAN, GREEDY):
        arrays[array_name(condition, "mono", "mAP")] = np.array([0.2, 0.4, 0.9, 0.1, 0.3])
        arrays[array_name(condition, "pool", "mAP")] = np.array([0.1, 0.1, 0.3, 0.0, 0.1])
    np.savez(tmp_path / "metrics.npz", **arrays)
    forms = dict.fromkeys(["q1.de", "q2.de", "q1.en"], "question")
    forms |= dict.fromkeys(["q1s.de", "q1s.en"], "short")
    means = form_means(tmp_path, forms)
    assert means["question|mono|clean"] == pytest.approx((0.3 + 0.9) / 2)
    assert means["short|mono|greedy"] == pytest.approx(0.2)
    assert means["question|pool|greedy"] == pytest.approx(0.2)


def test_certificates_are_those_of_mono():
    """Number: two languages, by hand; the pool's record and the control's are none of them.

    Catches: a mean over views, what an attack leaves taken for what is certified.
    """
    exact = Condition("exact").fields()
    records = [
        exact | {"view": "mono", "R@1": 0.4, "certified R@1": 0.3},
        exact | {"view": "mono", "R@1": 0.2, "certified R@1": 0.2},
        exact | {"view": "pool", "R@1": 0.9, "certified R@1": 0.9},
        exact | {"view": "mono", "R@1": 0.9, "control": True},
    ]
    assert make_certificates({"results": records}) == [
        {"attack": "exact", "R@1": pytest.approx(0.3), "certified": pytest.approx(0.25)}
    ]


def test_a_gain_of_pairs_is_bold_where_it_is_significant():
    """Number: by hand. Catches: bold everywhere, a setting in another's column, rows that meet."""
    row = CLEAN.fields() | {"a": "adv", "low": 0.005, "high": 0.03, "significant": True}
    standard = row | {"view": "standard", "difference": 0.02}
    attacked = row | Condition("typos").fields() | {"view": "standard", "difference": 0.01}
    gap = row | {"view": GAP, "difference": -0.001, "low": -0.01, "significant": False}
    table = gain_table({"comparisons": [standard, gap, attacked]}).splitlines()
    assert table[0] == f"| --robust | condition | standard | generalized | {GAP} |"
    assert table[2] == "| `adv` | clean | **+.020 [.005, .030]** | - | -.001 [-.010, .030] |"
    assert table[3] == "| `adv` | typos | **+.010 [.005, .030]** | - | - |"


def test_a_search_shows_every_look_at_dev():
    """Number: by hand; a run that was stopped has no later looks. Catches: looks that move up."""
    runs = [
        {"robust": "none", "seed": 0, "looks": {"50": 0.4, "100": 0.5}},
        {"robust": "adv", "seed": 1, "looks": {"100": 0.333}},
    ]
    table = pair_search_table(runs).splitlines()
    assert table[0] == "| --robust | seed | step 50 | step 100 |"
    assert table[2:] == ["| `none` | 0 | .400 | .500 |", "| `adv` | 1 | - | .333 |"]


def test_a_setting_of_the_search_is_told_by_all_that_differs():
    """Number: by hand. Catches: a symmetric or robust run told as a plain one."""
    flags = {"data": "mlqa_r", "batching": "hybrid", "alpha": 0.25, "symmetric": True}
    flags |= {"robust": "rs-rp", "batch_size": 64, "steps": 40, "lr": 2e-5, "tau": 0.01}
    told = settings_of(flags | {"precision": "fp32"})
    assert told[:3] == ["mlqa_r", "hybrid, alpha .25, symmetric, rs-rp", "64"]
    assert told[3:] == ["40", "2e-05", "0.01", "fp32"]
    assert settings_of({}) == ["as it is", "-", "-", "-", "-", "-", "-"]


def test_a_row_of_the_goal_is_told_by_its_own_settings(tmp_path, monkeypatch):
    """Number: by hand; two recipes of one variant, one of them without an alpha. Catches: both rows
    under the settings of the last; a robust run told as a plain one.
    """
    monkeypatch.setattr("readme.GOAL", tmp_path)
    flags = {"batching": "hybrid", "alpha": 0.25, "steps": 120, "symmetric": False}
    runs = {"hybrid0.25-none": flags | {"robust": "none"}}
    runs["x-y-adv"] = flags | {"batching": "x-y", "alpha": None, "symmetric": True, "robust": "adv"}
    for name, of_run in runs.items():
        content = {"flags": of_run, "origin": {"recipe": name, "variant": "1a2b"}}
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(content), encoding="utf-8")
    recipes = [{"name": name, "variant": "1a2b", "suffix": ""} for name in runs]
    assert goal_names({"recipes": recipes}) == {
        "hybrid0.25-none": "hybrid, alpha .25, 120 steps",
        "x-y-adv": "x-y, symmetric, adv, 120 steps",
    }


def test_a_study_that_is_not_given_stays(tmp_path, monkeypatch):
    """Number: two studies, one of them written anew. Catches: the search on dev lost, of which no
    records are kept, when somebody writes the page; a name that nothing reads.
    """
    kept = tmp_path / "study.json"
    kept.write_text('{"clean": {"old": 1}, "robust": {"old": 2}}', encoding="utf-8")
    monkeypatch.setattr("results.REAL", kept)
    monkeypatch.setattr("results.STUDY_KEYS", ())
    new = tmp_path / "clean.study.json"
    new.write_text('{"runs": [], "matrices": [0.5]}', encoding="utf-8")
    keep_studies(named_paths([f"clean={new}"]))
    assert read(kept)["robust"] == {"old": 2}
    assert read(kept)["clean"]["matrices"] == [0.5]
    for mistyped in ("klean=x", "clean"):
        with pytest.raises(ValueError, match=f"{mistyped}: give NAME=FILE, a NAME of clean, "):
            named_paths([mistyped])


def test_an_example_is_told_as_it_was_attacked():
    """Number: by hand, two edits of unequal lengths. Catches: the second edit at the place of the
    first, the line of q1 for q11."""
    example = {"id": "q1.de", "text": "Was frisst der Biber?", "edits": [[0, 3, "Welches"]]}
    example["edits"].append([4, 10, "isst"])
    assert attacked_text(example) == "Welches isst der Biber?"
    assert printed_line(example, "a q11.de: x\nb q1.de: y\n") == "b q1.de: y"


def test_the_attacked_query_of_the_readme_is_what_its_command_prints(tmp_path):
    """Claim: the README shows a line of the command above it, and the fall that metrics.json holds.

    Catches: an example from another corpus or encoder: `python tests/readme.py --example`.
    """
    told = read(EXAMPLE)
    assert f"python evaluate.py {SHOW}\n" in README
    printed = check("evaluate.py", *shlex.split(SHOW), "--out", tmp_path)
    assert told["printed"] in printed.splitlines()
    examples = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["examples"]
    (example,) = [example for example in examples if example["lang"] == "de"]
    assert f" {example['id']}: " in told["printed"]
    assert (example["before"], example["after"]) == (told["before"], told["after"])


def test_the_python_of_the_readme_runs_and_prints_what_stands_below_it():
    """Claim: ten lines, from the repository's root. Catches: a function that was renamed."""
    assert run_quickstart() == read(EXAMPLE)["quickstart"]


@pytest.mark.parametrize("name", [*(f"{name}.py" for name in MODULES), "tests/"])
def test_the_readme_counts_the_lines_of_each_file(name):
    """Claim: the table of files is true to within a twentieth. Catches: a count nobody updated."""
    paths = [ROOT / name]
    if name == "tests/":
        paths = sorted((ROOT / name).glob("*.py"))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    (told,) = re.findall(rf"^\| `{re.escape(name)}` \| (\d+) \|", README, re.MULTILINE)
    assert abs(int(told) - lines) <= lines / 20


def test_the_readme_counts_the_tests(request):
    """Claim: it says how many pass, to within a twentieth; only where all were collected.

    Catches: a number of last winter.
    """
    (told,) = re.findall(r"some ([\d,]+) tests", README)
    collected = request.session.testscollected
    if collected < 2000:
        pytest.skip("a part of the lab course")
    assert abs(int(told.replace(",", "")) - collected) <= collected / 20


def test_the_readme_has_the_two_commands_and_ci_runs_exactly_them():
    """Claim: what CI runs is what a user is told. Catches: a set-up step that only CI knows."""
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    for command in ("python train.py", "python -m pytest"):
        line = f"pip install -r requirements.txt && {command}"
        assert line in README
        assert line in ci


# ---- every command of the pages runs -------------------------------------------------------------


def readme_commands():
    """Every `python` or `torchrun` line of the pages' shell blocks, without comments."""
    commands = []
    for block in re.findall(
        r"```(?:sh|bash)\n(.*?)```", README + RESULTS + SPEED + REAL_TEXT + PAIRS, re.DOTALL
    ):
        for line in block.replace("\\\n", " ").splitlines():
            command = line.split("#")[0].strip().split("&&")[-1].strip()
            if command.startswith(("python ", "torchrun ")):
                commands.append(command)
    return sorted(set(commands))


def commands_of(program, start="python"):
    """The pages' calls of one program, without "python PROGRAM"."""
    start = f"{start} {program}"
    return [command[len(start) :] for command in readme_commands() if command.startswith(start)]


def check(program, *words):
    """Run a program of the repository; its exit code must be 0. What it prints."""
    command = [sys.executable, program, *[str(word) for word in words]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_middle_values(words):
    """Of a flag's long list of values the first and the last: a small product."""
    kept = []
    for i, word in enumerate(words):
        neighbours = words[i - 1 : i + 2]
        if len(neighbours) < 3 or any(neighbour.startswith("--") for neighbour in neighbours):
            kept.append(word)
    return kept


# What a command names and what a fresh clone has in its place
SHIPPED = {
    "xlm-roberta-base": "data/tiny_xlmr",
    "data/e5_small": "data/tiny_xlmr",
    "data/e5_noise": "data/tiny_xlmr",
    "data/mlqa_r": "data/minifacts",
    "data/xquad_r": "data/minifacts",
    "runs/xnli": "data/minifacts",
    "runs/words": "data/minifacts",
}


@pytest.mark.parametrize("line", commands_of("data/"))
def test_every_prepare_command_of_the_pages_names_a_program(line):
    """Claim: it is there and has these flags. (Most of them fetch something: not here.)

    Catches: a folder that was renamed, a flag that is gone.
    """
    program, *words = shlex.split(f"data/{line}")
    command = [sys.executable, program, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for word in words:
        assert not word.startswith("--") or word in done.stdout


@pytest.mark.parametrize("line", commands_of("train.py"))
def test_every_training_command_of_the_pages_can_be_parsed(line):
    """Claim: each flag and each of its values is known. Catches: a method or an attack renamed."""
    args = train.parse(shlex.split(line))
    assert train.single_runs(args)
    for text in args.attacks or ["clean"]:
        assert text == "clean" or attacks.parse_attack(text)


@pytest.fixture(scope="module")
def small_world(minifacts, tmp_path_factory):
    """Some facts of each split of the bundled world, so that a command takes seconds to load it."""
    folder = tmp_path_factory.mktemp("small")
    kept_groups, lines_of = set(), {}
    for split, n_facts in (("train", 60), ("dev", 15), ("test", 15)):
        queries = sorted(minifacts.qrels[split])
        groups = sorted({minifacts.queries[i].group for i in queries})[:n_facts]
        kept_groups |= set(groups)
        lines_of[split] = []
        for i in queries:
            if minifacts.queries[i].group not in groups:
                continue
            for j in minifacts.qrels[split][i]:
                lines_of[split].append(f"{minifacts.queries[i].id}\t{minifacts.passages[j].id}\t1")
    rows = {"passages": [], "queries": []}
    for name, kept in rows.items():
        for text in getattr(minifacts, name):
            if text.group in kept_groups:
                row = asdict(text)
                kept.append({"_id": row.pop("id"), **row})
    for split, lines in lines_of.items():
        write_folder(folder, rows["passages"], rows["queries"], lines, [split])
    shutil.copytree(ROOT / "data/minifacts/synonyms", folder / "synonyms")
    shutil.copy(ROOT / "data/minifacts/dictionary.tsv", folder)
    return folder


@pytest.mark.parametrize("line", [c for c in commands_of("train.py") if " search" not in c])
def test_every_training_command_of_the_pages_runs(line, small_world, tmp_path):
    """Claim: exit 0, in smoke settings. Catches: a flag that is gone.

    (The search differs from the study in settings alone, which the test above has parsed.)
    """
    words = [word for word in shlex.split(line) if word != "--resume"]
    words = [SHIPPED.get(word, word) for word in words]
    small = ["--data", small_world, "--eval-data", small_world, "--out", tmp_path]
    check("train.py", *without_middle_values(words), "--smoke", *small)


@pytest.mark.slow
@pytest.mark.parametrize("line", commands_of("", "torchrun"))
def test_every_command_in_several_processes_runs(line, tmp_path):
    """Claim: exit 0, in smoke settings. Catches: processes that wait for each other."""
    words = ["-m", "torch.distributed.run", "--standalone", *shlex.split(line)]
    check(*words, "--smoke", "--out", tmp_path, "--attacks", "clean")


@pytest.mark.parametrize("line", commands_of("tests/bench.py"))
def test_every_benchmark_of_the_readme_can_be_parsed(line):
    """Claim: each flag and row is known. (Rung 20 runs a small one.)"""
    assert bench.parse(shlex.split(line)).rows


@pytest.fixture(scope="module")
def smoke_runs(small_world, tmp_path_factory):
    """Two tiny runs for study.py."""
    out = tmp_path_factory.mktemp("runs")
    flags = ["--batching", "x-y", "hybrid", "--attacks", "clean", "--data", small_world]
    check("train.py", "--smoke", "--out", out, *flags)
    return sorted(out.iterdir())


@pytest.mark.parametrize("line", commands_of("study.py"))
def test_every_study_command_of_the_pages_runs(line, smoke_runs, tmp_path):
    """Claim: exit 0, and the report is written. Catches: a flag that is gone."""
    words = shlex.split(line)
    first_flag = min(i for i, word in enumerate(words) if word.startswith("--"))
    flags = [word for word in words[first_flag:] if "metrics" not in word]
    flags[flags.index("--report") + 1] = str(tmp_path / "report.html")
    check("study.py", *smoke_runs, *flags)
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("line", [c for c in commands_of("evaluate.py") if c.strip() != SHOW])
def test_every_evaluation_command_of_the_pages_runs(line, small_world, tmp_path):
    """Claim: exit 0, on twelve questions of two languages. (The attacked query has its own test.)"""
    words = [word.replace("vectors", str(tmp_path / "vectors")) for word in shlex.split(line)]
    words = [SHIPPED.get(word, word) for word in words]
    first_flag = min(i for i, word in enumerate(words) if word.startswith("--"))
    small = ["--data", small_world, "--langs", "en", "el", "--limit", "12", "--out", tmp_path]
    check("evaluate.py", "data/tiny_xlmr", *words[first_flag:], *small)


@pytest.mark.parametrize("line", commands_of("pairs.py"))
def test_every_command_for_pairs_of_the_readme_runs(line, tmp_path):
    """Claim: exit 0, in smoke settings and two languages. Catches: a flag or a method that is gone."""
    words = [SHIPPED.get(word, word) for word in shlex.split(line)]
    words = without_middle_values(words)
    check("pairs.py", *words, "--smoke", "--test-langs", "en", "el", "--out", tmp_path)


@pytest.mark.parametrize("line", commands_of("tests/readme.py"))
def test_every_command_that_writes_a_page_names_records(line):
    """Claim: known flags only, and runs or a record beside them. Catches: a flag misspelt."""
    words = shlex.split(line)
    flags = [word for word in words if word.startswith("--")]
    assert set(flags) <= {"--search", "--forms", "--certificates", "--example"}
    assert len(flags) <= 1
    for word in set(words) - set(flags):
        assert word.startswith("runs/") or word.endswith(".json")


def test_the_bundled_world_can_be_written_again(tmp_path):
    """Claim: data/minifacts/prepare.py runs. (test_05 compares its bytes.)"""
    check("data/minifacts/prepare.py", "--out", tmp_path)
