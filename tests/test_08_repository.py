"""Rung 8: the repository keeps its promises: sizes, imports, README.

Before: all other rungs. Run: pytest tests/test_08_repository.py
"""

import ast
import itertools
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from readme import blocks, fill

import attacks
import train

# Lines a file may have (DESIGN.md 2); a larger number needs its reason beside it
BUDGETS = {
    "xlt.py": 550, "data/minifacts/prepare.py": 350, "data/xquad_r/prepare.py": 200,
    # 500 was planned. Four families (words, letters, embeddings, certificates), each with a random
    # and a worst case, tables in three formats and one goal for rankings took more
    "attacks.py": 1050,
    # 550 was planned before six ways of robust training, joined at will, had their flags, refusals,
    # step and log; how a text or an embedding is perturbed stands in attacks.py all the same
    "train.py": 870,
    # 600 was planned before attacks, controls, frozen queries and transfer had their records (800),
    # and before the statistics (150), the study (420), and language bias, LIR, geometry (130)
    "evaluate.py": 1630,
    # The page: tables, heat maps, forest plot and curves without any plotting library
    "data/report/page.py": 510,
    # 200, and a tokenizer of our own: the trainer of `tokenizers` gives other scores in each run
    "data/tiny_xlmr/prepare.py": 250,
}  # fmt: skip
FUNCTIONS = {"train": 100}  # the training loop; every other function 60
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = [*(ROOT / name for name in BUDGETS), *sorted((ROOT / "tests").glob("*.py"))]


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: p.name)
def test_files_and_functions_keep_to_their_budgets(path):
    """Claim: size is a feature. Number: the budgets above, tests 350, lines of 100 columns."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= BUDGETS.get(path.relative_to(ROOT).as_posix(), 350)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTIONS.get(node.name, 60), f"{node.name}: {length} lines"
    if path.parent.name != "tests":  # tests hold sentences of many scripts
        assert max(map(len, lines)) <= 100


def test_modules_import_downwards_only():
    """Claim: xlt uses none of ours, attacks may use xlt, evaluate both, train all. Catches: a cycle."""
    allowed = {"xlt": set(), "attacks": {"xlt"}, "evaluate": {"xlt", "attacks"}}
    allowed["train"] = {"xlt", "attacks", "evaluate"}
    for name, below in allowed.items():
        nodes = list(ast.walk(ast.parse((ROOT / f"{name}.py").read_text())))
        found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
        assert found & set(allowed) <= below, name


def test_importing_a_module_prints_nothing_and_seeds_nothing():
    """Claim: importing runs nothing. Catches: a parser or a seed at module level."""
    code = "import torch; a = torch.initial_seed(); import xlt, attacks, evaluate, train; "
    code += "assert torch.initial_seed() == a"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr == ""


def test_the_tables_of_the_readme_are_those_of_the_records():
    """Claim: no number of the tables is typed by hand. Catches: an edited or outdated table."""
    assert fill(README) == README
    assert all(block in README for block in blocks().values())


def commands():
    """Every `python ...` line of the README's shell blocks, comments and pip left out."""
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.split("#")[0].strip().split("&&")[-1].strip()
            if line.startswith("python "):
                yield line


def test_the_readme_has_the_two_commands_and_ci_runs_exactly_them():
    """Claim: what CI runs is what a user is told. Catches: a set-up step that only CI knows."""
    ci = (ROOT / ".ci/run").read_text().splitlines()
    for line in ("pip install -r requirements.txt && python train.py", "pip install -r requirements.txt && python -m pytest"):
        assert line in README and line in ci


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_of_the_readme_runs(line, tmp_path):
    """Claim: each exits 0, the long ones in smoke settings. Catches: a flag that is gone."""
    program, *rest = shlex.split(line)[1:]
    heavy = ("-m", "tests/readme.py", "tests/bench.py", "data/tiny_xlmr/prepare.py")
    if program in heavy or "xquad_r" in line or " search" in line:
        pytest.skip("runs elsewhere, takes minutes, or needs files that are not shipped (the search: flags as in the study)")
    if program == "train.py":
        args = train.parse(rest)  # all values are read; of a long list the first and the last are run
        assert train.single_runs(args) and all(map(attacks.parse_attack, (args.attacks or ["clean"])[1:]))
        words, rest = [r for r in rest if r != "--resume"], []
        for k, word in enumerate(words):
            around = words[k - 1 : k + 2]
            inside = len(around) == 3 and not any(w.startswith("--") for w in around)
            rest += [] if inside else [word]
        rest += ["--smoke", "--out", str(tmp_path)]
    elif program == "evaluate.py":
        flags = list(itertools.dropwhile(lambda word: not word.startswith("--"), rest))
        if "--report" in flags:
            flags[flags.index("--report") + 1] = str(tmp_path / "report.html")
        small = ["--langs", "en", "el", "--limit", "12", "--out", str(tmp_path)]
        rest = ["data/tiny_xlmr", *small, *flags]
    elif program == "data/minifacts/prepare.py" and "--check" not in rest:
        rest = ["--out", str(tmp_path)]
    done = subprocess.run([sys.executable, program, *rest], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
