"""Rung 20: a benchmark compares two ways to do one thing, in turns, and says what it lacks.

Builds: bench.py. Before: rungs 6, 10 and 14. Run: pytest tests/test_20_bench.py
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.testing import assert_allclose

sys.path.insert(0, str(ROOT / "tests"))

import bench

import xlt

# Imports nothing of the peers: where they are installed, they are as if they were not
WITHOUT_PEERS = """
import runpy, sys
for name in ("sentence_transformers", "pytrec_eval", "ranx", "textattack"):
    sys.modules[name] = None
sys.argv = ["bench.py", *sys.argv[1:]]
runpy.run_path({path!r}, run_name="__main__")
"""


# ---- ratios by hand ------------------------------------------------------------------------------


def test_a_ratio_is_taken_within_each_turn():
    """Number: 6 / 2, 3 / 3 and 8 / 2 are 3, 1 and 4.

    Catches: theirs over ours (1/3, 1, 1/4), each of ours over the median of theirs (3, 1.5, 4).
    """
    result = bench.Result("s", [6.0, 3.0, 8.0], [2.0, 3.0, 2.0])
    assert_allclose(bench.ratios(result), [3, 1, 4])


def measure_by_hand(bench_of_row):
    """A row that measures nothing."""
    return bench.Result("s", [6.0, 3.0, 8.0], [2.0, 3.0, 2.0])


def test_a_record_holds_the_median_of_the_ratios_and_their_span():
    """Number: of 3, 1 and 4 the median is 3. Catches: their mean (2.67), least for most."""
    record = bench.measure_row(bench.Row("by-hand", measure_by_hand, goal=2.0), None)
    assert (record["ratio"], record["least"], record["most"], record["n"]) == (3, 1, 4, 3)
    assert (record["status"], record["reached"]) == ("measured", "yes")


def test_a_rate_is_an_amount_over_seconds():
    """Number: 64 pairs in 2 s and in .5 s: 32 and 128 a second. Catches: s / amount."""
    assert_allclose(bench.rates(64, [2.0, 0.5]), [32, 128])


def test_a_step_takes_six_operations_a_weight_and_token():
    """Number: 7 weights, 5 tokens: 2 * 35 forward, 4 * 35 backward, 210. Catches: forward alone."""
    assert bench.step_operations(7, 5) == 210


@pytest.mark.parametrize(
    ("sign", "ratio", "expected"),
    [(">=", 4.5, "yes"), (">=", 3.9, "almost"), (">=", 3.7, "no"), ("<=", 4.4, "yes")],
)
def test_a_goal_is_reached_almost_reached_or_missed(sign, ratio, expected):
    """Number: the goal is 4.5, 3.8 is enough. Catches: a limit taken for a goal to exceed."""
    row = bench.Row("by-hand", measure_by_hand, goal=4.5, sign=sign, floor=3.8)
    assert bench.verdict(row, ratio) == expected


def test_a_limit_that_is_exceeded_is_missed():
    """Number: 1.41 is more than 1.4. Catches: ">=" for "<="."""
    assert bench.verdict(bench.Row("by-hand", measure_by_hand, goal=1.4, sign="<="), 1.41) == "no"


def test_the_sides_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    """Number: two repeats are three turns; turn n takes n seconds here: 1 and 2 a side.

    Catches: all of ours, then theirs; the turn that warms up counted, the last one not.
    """
    monkeypatch.setattr(bench, "timed", lambda side, turn: (float(turn), side(turn)))
    calls = []

    def ours(turn):
        calls.append(f"ours {turn}")
        return "mine"

    def theirs(turn):
        calls.append(f"theirs {turn}")

    turns = bench.take_turns(ours, theirs, 2)
    assert calls == ["ours 0", "theirs 0", "ours 1", "theirs 1", "ours 2", "theirs 2"]
    assert (turns.ours, turns.theirs, turns.our_value) == ([1, 2], [1, 2], "mine")


# ---- what is compared is the same ----------------------------------------------------------------


def linear_with(weight, bias):
    """A layer of two inputs and one output with given gradients."""
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([weight]), torch.tensor(bias)
    return layer


def test_gradients_differ_by_the_largest_difference_of_a_parameter():
    """Number: (3, 4.1) against (3, 4) is .1 / 5 = .02 of the weight, 2.2 against 2 is .1 of the
    bias: .1. Catches: the first parameter alone (.02), an absolute difference (.2)."""
    ours, theirs = linear_with([3.0, 4.1], [2.2]), linear_with([3.0, 4.0], [2.0])
    assert_allclose(bench.largest_difference(ours, theirs), 0.1, atol=1e-6)


def test_a_gradient_of_rounding_alone_is_not_compared():
    """Claim: 1e-9 against 2e-9 beside a norm of 5 says nothing. Catches: a difference of .5."""
    ours, theirs = linear_with([3.0, 4.0], [1e-9]), linear_with([3.0, 4.0], [2e-9])
    assert bench.largest_difference(ours, theirs) == 0


@pytest.mark.parametrize("sides", ["ours", "theirs"])
def test_a_gradient_that_is_not_a_number_equals_none(sides):
    """Catches: Python's max, which passes a NaN over: 0, "the same gradient"."""
    good, bad = [3.0, 4.0], [float("nan"), 4.0]
    ours = linear_with(bad if sides == "ours" else good, [1.0])
    theirs = linear_with(bad if sides == "theirs" else good, [1.0])
    assert np.isnan(bench.largest_difference(ours, theirs))


def test_a_parameter_that_one_side_alone_trains_is_refused():
    """Catches: frozen word embeddings on one side, which would make it faster."""
    ours, theirs = linear_with([3.0, 4.0], [1.0]), linear_with([3.0, 4.0], [1.0])
    theirs.bias.grad = None
    with pytest.raises(ValueError, match="only one side has a gradient of bias"):
        bench.largest_difference(ours, theirs)


def test_metrics_that_differ_are_refused():
    """Number: .50 and .51 with a tolerance of 1e-4. Catches: two rankings in one ratio."""
    with pytest.raises(ValueError, match="mAP is 0.5000000 and 0.5100000"):
        bench.check_means({"mAP": 0.5}, {"mAP": 0.51}, 1e-4)


# ---- texts and batches ---------------------------------------------------------------------------


def test_lengths_follow_the_quantiles():
    """Number: of two, one is at 25 % and one at 75 %: XQuAD-R's queries have 17 (between 16 at 20 %
    and 18 at 30 %) and 24 there (23 at 70 %, 25 at 80 %). Catches: 0 % and 100 % (8 and 84)."""
    assert bench.lengths_like(bench.XQUAD_QUERY, 2).tolist() == [17, 24]


def test_random_texts_have_the_lengths_that_are_asked_for():
    """Number: four texts at 12.5, 37.5, 62.5 and 87.5 % of a straight line from 20 to 120.

    Catches: a prefix that is not counted, words of two tokens.
    """
    encoder = xlt.load_encoder(ROOT / "data/tiny_xlmr")
    line = [20 + percent for percent in bench.PERCENT]
    texts = bench.random_texts(encoder, "passage", line, 4)
    rows = encoder.tokenize(texts, "passage")
    expected = np.round(np.array([32.5, 57.5, 82.5, 107.5]))
    assert sorted(len(row["input_ids"]) for row in rows) == expected.tolist()


def test_a_batch_has_no_two_passages_of_a_group():
    """Claim: the other side masks no false negatives, so there may be none.

    Number: 6 passages in 3 groups, batches of 3. Catches: pairs drawn as they come.
    """
    queries = [xlt.Text(f"q{i}", "en", "?", f"q{i}") for i in range(6)]
    passages = [xlt.Text(f"p{i}", "en", ".", f"g{i % 3}") for i in range(6)]
    data = xlt.DataSet(Path(), queries, passages, {"test": {i: {i: 1.0} for i in range(6)}})
    batches = bench.draw_batches(data, 3, 20)
    assert len(batches) == 20
    for batch in batches:
        assert {i % 3 for i in batch.passages} == {0, 1, 2}
        assert batch.queries == batch.passages
    with pytest.raises(ValueError, match="3 groups of passages for a batch of 4"):
        bench.draw_batches(data, 4, 1)


# ---- the program ---------------------------------------------------------------------------------


def run_without_peers(*arguments):
    """bench.py --smoke in a process that cannot import the other libraries."""
    code = WITHOUT_PEERS.format(path=str(ROOT / "tests/bench.py"))
    command = [sys.executable, "-c", code, "--smoke", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # two wait for each other on a busy machine
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_smoke_writes_a_finite_ratio_a_row_and_says_how_to_install_a_peer(tmp_path):
    """Claim: rows without peers are measured, the others are open, and the exit code is 0.

    Catches: a missing library that fails the run, or is passed over in silence.
    """
    file, measured = tmp_path / "bench.json", ["metrics-product", "share-fp32"]
    peers = {
        "train-fp32": "pip install sentence-transformers==6.2.0",
        "metrics-pytrec": "pip install pytrec-eval-terrier",
        "metrics-ranx": "pip install ranx",
        "attack-textattack": "pip install textattack",
    }
    done = run_without_peers("--json", str(file), "--rows", *measured, *peers, "gpu-mfu")
    assert done.returncode == 0, done.stderr
    records = {record["row"]: record for record in json.loads(file.read_text())["rows"]}
    assert set(records) == {*measured, *peers, "gpu-mfu"}
    for name in measured:
        assert records[name]["status"] == "measured", records[name]
        assert math.isfinite(records[name]["ratio"]) and records[name]["ratio"] > 0
    for name, command in peers.items():
        assert records[name]["status"] == "open"
        assert command in records[name]["note"]
        assert command in done.stdout
    if not torch.cuda.is_available():
        assert "open: no GPU here" in done.stdout


def break_down(bench_of_row):
    """A row with a bug."""
    raise RuntimeError("the two differ")


def test_a_row_that_breaks_has_failed_and_the_run_exits_with_1(monkeypatch, capsys):
    """Claim: the others are measured all the same. Catches: a traceback, exit code 0."""
    rows = [bench.Row("broken", break_down), bench.Row("sound", measure_by_hand)]
    monkeypatch.setattr(bench, "ROWS", rows)
    assert bench.main(["--smoke"]) == 1
    table = capsys.readouterr().out
    assert "failed: RuntimeError: the two differ" in table
    assert "3.00 (1.00 to 4.00, 3)" in table


def test_a_row_that_does_not_exist_is_a_usage_error(capsys):
    """Catches: an empty table for a typing error."""
    with pytest.raises(SystemExit) as error:
        bench.main(["--rows", "trian-fp32"])
    assert error.value.code == 2
    assert "--rows trian-fp32: no such row" in capsys.readouterr().err


def test_a_pattern_names_rows_and_long_ones_want_to_be_named():
    """Number: "cache-*" names two, the one long. Catches: half an hour that nobody asked for."""
    assert [row.name for row in bench.choose_rows(["cache-*"], False)] == [
        "cache-time",
        "cache-memory",
    ]
    assert "cache-memory" not in [row.name for row in bench.choose_rows([], False)]
    assert "cache-memory" in [row.name for row in bench.choose_rows([], True)]
