"""Rung 4: flags become a trained encoder, and nothing is ever lost.

Builds: train.py, all but its robust methods. Before: rungs 1 to 3. The runs are those of
training_world.py: sixteen questions, an encoder of one layer with dropout.
Run: pytest tests/test_04_train.py
"""

import contextlib
import io
import json
import math
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from training_world import hashes, log_lines, run_until_killed, write_encoder, write_world

import evaluate
import study
import train
import xlt

RUN = "hybrid-none-seed0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder that holds the data set, and the encoder in model/."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_encoder(folder / "model")
    return folder


def command(world, out, *more):
    """The flags of a small run; what is in `more` comes last and wins."""
    flags = ["--data", str(world), "--model", str(world / "model"), "--out", str(out)]
    flags += ["--train-langs", "en", "de", "--attacks", "clean"]
    flags += ["--batch-size", "8", "--steps", "6", "--save-every", "2", "--log-every", "1"]
    return [*flags, *more]


# A longer run, with queries so short that some lose their end, which run.json counts
LONGER = ["--steps", "12", "--save-every", "4", "--query-length", "9"]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """The folder of the longer run, never interrupted."""
    out = tmp_path_factory.mktemp("whole")
    assert train.main(command(world, out, *LONGER)) == 0
    return out / RUN


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The folder of a run of 80 steps, and what it printed."""
    out, screen = tmp_path_factory.mktemp("trained"), io.StringIO()
    flags = ["--steps", "80", "--lr", "0.01", "--save-every", "1000"]
    with contextlib.redirect_stdout(screen):
        assert train.main(command(world, out, *flags)) == 0
    return out / RUN, screen.getvalue()


def read_json(path):
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def run_flags(*argv):
    """The flags of each run that a command line asks for."""
    return train.single_runs(train.parse(list(argv)))


# ---- flags -> runs -------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_linearly():
    """Claim: up over the warm-up, down to the last step, which still learns.

    Number: 10 steps, 2 of warm-up: 1/2, 1, then (10 - t) / 8 for t = 2 ... 9.
    Catches: a rise from 0, which wastes the first step; a fall that reaches 0 a step too early.
    """
    factors = [train.lr_factor(step, 10, 2) for step in range(10)]
    assert factors == [1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]


def test_without_warm_up_the_first_step_has_the_whole_learning_rate():
    """Claim: --warmup 0 divides nothing by 0. Number: (10 - 0) / 10 = 1, then 9/10.

    Catches: step / warmup without the case 0.
    """
    assert [train.lr_factor(step, 10, 0) for step in (0, 1)] == [1, 9 / 10]


def test_several_values_run_as_a_product_with_the_seeds_outermost():
    """Claim: a seed after the other, so that a study that is stopped has as many seeds of each.

    Number: 2 batchings x 2 seeds. Catches: seeds innermost.
    """
    runs = run_flags("--batching", "x-y", "x-x", "--seed", "3", "1")
    names = [f"{run.recipe}-seed{run.seed}" for run in runs]
    assert names == ["x-y-none-seed3", "x-x-none-seed3", "x-y-none-seed1", "x-x-none-seed1"]


def test_two_alphas_are_one_run_where_alpha_means_nothing():
    """Claim: hybrid runs once for each alpha, x-y once. Catches: x-y trained twice."""
    runs = run_flags("--batching", "hybrid", "x-y", "--alpha", "0.5", "0.3")
    assert [run.recipe for run in runs] == ["hybrid-none", "hybrid0.3-none", "x-y-none"]
    assert [run.alpha for run in runs] == [0.5, 0.3, None]


def test_smoke_makes_one_small_run():
    """Claim: the first seed alone, 4 steps of 8 pairs, two languages in the table.

    Catches: all seeds; a table over eleven languages, which takes longer than the training.
    """
    (run,) = run_flags("--smoke", "--seed", "5", "6", "--train-langs", "en", "de", "th")
    assert (run.seed, run.steps, run.batch_size, run.test_langs) == (5, 4, 8, ["en", "de"])


def test_smoke_makes_no_run_longer_than_asked():
    """Claim: 2 steps stay 2. Catches: 4 steps whatever --steps says."""
    (run,) = run_flags("--smoke", "--steps", "2", "--batch-size", "3")
    assert (run.steps, run.batch_size) == (2, 3)


def test_the_help_can_be_printed(capsys):
    """Claim: argparse can format every help text. Catches: a "%" in one of them."""
    with pytest.raises(SystemExit) as stop:
        train.parse(["--help"])
    assert stop.value.code == 0
    assert "--keep-false-negatives" in capsys.readouterr().out


def test_the_variant_tells_runs_of_another_learning_rate_apart():
    """Claim: runs that are no repeats of each other never stand in one comparison.

    Catches: a hash of the recipe alone.
    """
    (first,), (second,) = run_flags("--lr", "0.001"), run_flags("--lr", "0.002")
    assert first.recipe == second.recipe
    assert first.origin({})["variant"] != second.origin({})["variant"]


def test_the_variant_is_the_same_for_all_seeds_recipes_and_devices():
    """Claim: seeds are repeats, recipes are what is compared, a device computes the same.

    Catches: the hash of all flags, which would leave nothing to compare.
    """
    flags = ["--batching", "x-y", "hybrid", "--alpha", "0.3", "--seed", "0", "1"]
    flags += ["--robust", "none", "rs-rp"]
    runs = run_flags(*flags, "--device", "cpu") + run_flags("--device", "meta")
    assert len(runs) == 9
    assert len({run.origin({})["variant"] for run in runs}) == 1


REFUSED = [
    (["--data", "nowhere"], 1, "no such folder"),
    (["--batch-size", "1000"], 1, "--batch-size 1000 is larger than the data: 16 pairs"),
    (["--train-langs", "en", "xx"], 1, "unknown language 'xx'"),
    (["--eval-split", "dev"], 1, "qrels/dev.tsv: no such file"),
    (["--test-langs", "en", "xx"], 1, "unknown language 'xx'"),
    (["--device", "foo"], 1, "--device foo: not there"),
    (["--passage-length", "1000"], 1, "at most 512 tokens"),
    (["--attacks", "foo"], 2, "attack 'foo' is unknown"),
    (["--out=-x"], 2, "-x looks like a flag"),
    (["--out", __file__], 2, "is no folder"),
    (["--out", "a" * 300], 2, "File name too long. Give another folder"),
    (["--lir"], 2, "--lir: expected at least one argument"),
    (["--tau", "0"], 2, "--tau 0.0: must be above 0"),
    (["--tau", "inf"], 2, "--tau inf: must be above 0"),
    (["--lr", "nan"], 2, "--lr nan: must be above 0"),
    (["--weight-decay", "nan"], 2, "--weight-decay nan: must be at least 0"),
    (["--train-langs", "en", "en"], 2, "--train-langs: en is given twice"),
    (["--train-langs", "en", "eng_Latn"], 2, "--train-langs: en is given twice"),
    (["--test-langs", "German"], 2, "unknown language 'German'. Write an ISO 639 code"),
    (["--attack-views", "pool", "pool"], 2, "--attack-views: pool is given twice"),
    (["--log-every", "0"], 2, "--log-every 0: must be above 0"),
    (["--warmup", "1"], 2, "--warmup 1.0"),
    (["--alpha", "0.5", "2"], 2, "--alpha 2.0"),
    (["--lir", "0"], 2, "at least 1"),
    (["--batching", "y-x"], 2, "invalid choice: 'y-x'"),
    (["--bat", "x-y"], 2, "unrecognized arguments"),
]


@pytest.mark.parametrize(("more", "code", "message"), REFUSED)
def test_impossible_flags_are_refused(world, tmp_path, capsys, more, code, message):
    """Claim: before any training, in a sentence; 2 for a flag that is wrong by itself, else 1.

    Catches: a check that is left out or comes after hours; tracebacks; abbreviated flags.
    """
    try:
        answer = train.main(command(world, tmp_path, *more))
    except SystemExit as stop:  # argparse's way
        answer = stop.code
    assert answer == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("log.jsonl"))


# ---- one run -------------------------------------------------------------------------------------


def test_training_lowers_the_loss(trained):
    """Number: an encoder that knows nothing picks one of 8 passages: ln 8 = 2.08 at the start.

    80 steps end near 0.1; below ln 2, a choice of two, is asked. Catches: a gradient that is not
    taken, weights that are not stepped, a learning rate of 0.
    """
    losses = [line["loss"] for line in log_lines(trained[0])]
    assert sum(losses[:5]) / 5 == pytest.approx(math.log(8), abs=0.3)
    assert sum(losses[-5:]) / 5 < math.log(2)


def test_the_model_that_is_saved_is_the_trained_one(trained):
    """Number: it is asked what it was trained on; chance has a mAP of 0.24 within a language.

    Catches: weights saved, or the table made, before the training.
    """
    records = read_json(trained[0] / "metrics.json")["results"]
    within = [record["mAP"] for record in records if record["view"] == "mono"]
    assert len(within) == 2
    assert min(within) > 0.8


def test_a_line_of_the_log_holds_the_step_the_loss_and_its_gradient(trained):
    """Claim: a plain run has these keys and no others; the learning rate is the step's.

    Number: 80 steps, 8 of warm-up at 0.01: step 1 has 1/8 of it. Catches: the next step's rate.
    """
    lines = log_lines(trained[0])
    assert [line["step"] for line in lines] == list(range(1, 81))
    assert {*lines[0]} == {"step", "loss", "kind", "grad_norm", "lr", "padding"}
    assert lines[0]["lr"] == pytest.approx(0.01 / 8)
    assert {line["kind"] for line in lines} == {"mono", "cross"}


def test_lines_come_every_so_many_steps_and_at_the_end(world, tmp_path):
    """Number: 6 steps, a line every 4: steps 4 and 6. Catches: a run whose end is not logged."""
    assert train.main(command(world, tmp_path, "--log-every", "4")) == 0
    assert [line["step"] for line in log_lines(tmp_path / RUN)] == [4, 6]


def test_the_manifest_holds_the_flags_and_what_follows_from_them(trained):
    """Number: 80 steps of 8 pairs over 16 questions are 40 epochs; 0.01 / 8 pairs; 10 % warm-up.

    Catches: epochs over queries, which are twice as many.
    """
    run = read_json(trained[0] / "run.json")
    assert run["complete"]
    assert (run["flags"]["steps"], run["flags"]["lr"], run["flags"]["alpha"]) == (80, 0.01, 0.5)
    derived = run["derived"]
    assert (derived["groups"], derived["epochs"], derived["warmup_steps"]) == (16, 40, 8)
    assert derived["lr_per_pair"] == pytest.approx(0.00125)


def test_questions_that_are_never_asked_make_no_epoch(world):
    """Number: of 16 questions, four are asked in English alone: 12 in German, 16 in English.

    Catches: epochs over all questions of the data set, whatever is trained on.
    """
    data = xlt.load_data(world)
    asked = {query.group for query in data.queries if query.lang == "de"}
    for query in list(data.qrels["train"]):
        text = data.queries[query]
        if text.lang == "de" and text.group in sorted(asked)[:4]:
            del data.qrels["train"][query]
    encoder = xlt.load_encoder(world / "model")
    for langs, batching, groups in (("de", "x-x", 12), ("en", "x-x", 16), ("en de", "en-en", 16)):
        argv = ["--train-langs", *langs.split(), "--batching", batching]
        (flags,) = train.single_runs(train.parse(argv))
        pairs = xlt.TrainingPairs(data, flags.train_langs)
        assert train.derive(flags, pairs, encoder)["groups"] == groups


def test_the_manifest_counts_what_the_batches_held(trained):
    """Claim: batches, rows and pairs of languages add up. Number: 80 steps of 8 pairs.

    Catches: counts of the last batch alone; a batch counted twice.
    """
    counts = read_json(trained[0] / "run.json")["counts"]
    assert counts["rows"] == 640
    assert counts["batches"]["mono"] + counts["batches"]["cross"] == 80
    of_en, of_de = counts["pairs"]["en"], counts["pairs"]["de"]
    within = of_en["en"] + of_de["de"]
    across = of_en["de"] + of_de["en"]
    assert within == 8 * counts["batches"]["mono"]
    assert across == 8 * counts["batches"]["cross"]


def test_a_row_with_two_false_negatives_counts_once():
    """Number: of three rows the first has two false negatives, the second one: 2 masked rows.

    Query languages stand before passage languages. Catches: pairs counted; passage before query.
    """
    texts = [xlt.Text(str(i), lang, "x", "g") for i, lang in enumerate(("en", "de", "th"))]
    data = xlt.DataSet(Path(), texts, texts, {})
    batch = xlt.Batch("cross", [0, 0, 1], [1, 1, 2], torch.zeros(3, 1), torch.zeros(3))
    wrong = torch.tensor([[False, True, True], [True, False, False], [False, False, False]])
    counts = train.BatchCounts()
    counts.add(batch, data, wrong)
    assert (counts.rows, counts.masked_rows, counts.batches) == (3, 2, {"cross": 1})
    assert counts.pairs == {"en": {"de": 2}, "de": {"th": 1}}


def test_the_screen_ends_with_a_table_and_what_was_done(trained):
    """Claim: the recipe and chance stand in the table; the last line says how many runs.

    Catches: a table of no runs.
    """
    folder, screen = trained
    assert "| hybrid-none |" in screen
    assert "| chance " in screen
    assert screen.rstrip().split("\n")[-1].startswith(f"done: 1 runs in {folder.parent}")


def test_a_complete_run_leaves_no_checkpoint(whole):
    """Claim: model/, metrics.json and the log stay. Catches: optimizer states that fill a disk."""
    names = {path.name for path in whole.iterdir()}
    assert names == {"model", "run.json", "log.jsonl", "metrics.json", "metrics.npz", "vectors"}


def test_english_batches_say_that_english_alone_was_trained_on(world, tmp_path):
    """Claim: metrics.json names ["en"], whatever --train-langs: German is then a zero-shot test.

    Catches: German among the trained languages of the table.
    """
    assert train.main(command(world, tmp_path, "--batching", "en-en", "--steps", "1")) == 0
    run = tmp_path / "en-en-none-seed0"
    assert read_json(run / "metrics.json")["train_langs"] == ["en"]
    assert read_json(run / "run.json")["flags"]["train_langs"] == ["en", "de"]


# ---- nothing is lost -----------------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes(world, whole, tmp_path):
    """Claim: model, metrics and log are equal. Catches: an unseeded dropout, a time in a file."""
    assert train.main(command(world, tmp_path, *LONGER)) == 0
    assert hashes(tmp_path / RUN) == hashes(whole)
    assert log_lines(tmp_path / RUN) == log_lines(whole)


def test_another_seed_gives_another_model(world, whole, tmp_path):
    """Claim: a spread over seeds is one. Catches: a seed that nobody reads."""
    assert train.main(command(world, tmp_path, *LONGER, "--seed", "1")) == 0
    other = hashes(tmp_path / "hybrid-none-seed1")
    name = "model/model.safetensors"
    assert other[name] != hashes(whole)[name]


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """A run that got SIGKILL at the begin of step 7, after the checkpoint of step 4."""
    out = tmp_path_factory.mktemp("killed")
    assert run_until_killed(7, command(world, out, *LONGER)) == -signal.SIGKILL
    return out / RUN


@pytest.fixture(scope="module")
def resumed(world, killed, tmp_path_factory):
    """The killed run, continued to its end."""
    out = tmp_path_factory.mktemp("resumed")
    shutil.copytree(killed, out / RUN)
    assert train.main(command(world, out, *LONGER, "--resume")) == 0
    return out / RUN


def test_a_killed_run_resumes_to_the_same_bytes(whole, resumed):
    """Claim: model and metrics are as if nothing had happened.

    Catches: a dropout stream, an optimizer or batches that start over.
    """
    assert hashes(resumed) == hashes(whole)


def test_a_resumed_run_writes_no_line_twice(whole, killed, resumed):
    """Number: the killed run logged 6 steps, of which 5 and 6 come again after the checkpoint.

    Catches: a log that is only appended to, one that starts over.
    """
    assert len(log_lines(killed)) == 6
    assert log_lines(resumed) == log_lines(whole)


def test_a_resumed_run_counts_as_a_whole_one(whole, resumed):
    """Claim: run.json agrees but for the seconds: batches, pairs, texts that lost their end.

    Catches: counts of the steps after the resume alone.
    """
    manifest, goal = evaluate.read_manifest(resumed), evaluate.read_manifest(whole)
    assert goal["truncated"], "no query was too long"
    del manifest["seconds_training"], goal["seconds_training"]
    assert manifest == goal


def tiny_state():
    """What a checkpoint holds: a model, its optimizer, where the loop is."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 3)
    model.texts_cut, model.texts_seen = {("query", "en"): 1}, {("query", "en"): 5}
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    return model, optimizer, train.LoopState(step=4)


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    """Claim: if the disk is full, the old one stays. Catches: writing over it."""
    model, optimizer, state = tiny_state()
    train.save_checkpoint(tmp_path, model, optimizer, state)
    before = (tmp_path / "state.pt").read_bytes()

    def fill_the_disk(content, out):
        out.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        train.save_checkpoint(tmp_path, model, optimizer, train.LoopState(step=8))
    assert (tmp_path / "state.pt").read_bytes() == before


class Trap:
    """A pickled object that leaves a file behind when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    """Claim: a state.pt from elsewhere may hold tensors and plain values, nothing that runs.

    The first lines show that the trap works. Catches: weights_only=False.
    """
    model, optimizer, _ = tiny_state()
    torch.save({"encoder": Trap(tmp_path / "sprung")}, tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap is none"
    (tmp_path / "sprung").unlink()
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        train.load_checkpoint(tmp_path, model, optimizer)
    assert not (tmp_path / "sprung").exists()


def test_a_batching_without_enough_pairs_stops_all_runs_before_the_first(world, tmp_path, capsys):
    """Number: two languages give x-y its pairs, English alone does not. Catches: an error at night.

    (en-en, the first run, could be trained.)
    """
    flags = ["--train-langs", "en", "--batching", "en-en", "x-y", "--batch-size", "2"]
    assert train.main(command(world, tmp_path, *flags)) == 1
    assert "larger than the data: 0 pairs fit x-y" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_does_not_open_is_refused_in_a_sentence(world, killed, tmp_path, capsys):
    """Claim: exit 1, no traceback; the folder stays. Catches: an error of pickle's own class."""
    shutil.copytree(killed, tmp_path / RUN)
    torch.save({"encoder": Trap(tmp_path / "sprung")}, tmp_path / RUN / "ckpt/state.pt")
    assert train.main(command(world, tmp_path, *LONGER, "--resume")) == 1
    assert "state.pt" in capsys.readouterr().err
    assert (tmp_path / RUN / "ckpt/state.pt").exists()


def test_a_loss_that_is_not_finite_stops_the_run(world, tmp_path, capsys, monkeypatch):
    """Claim: exit 1 with the step and a remedy; the checkpoint before it stays, and is sound.

    Number: NaN at step 4, which is saved after; the checkpoint before it is of step 2. Catches: a
    NaN that is stepped and then saved.
    """
    plain_step = train.training_step

    def step_or_nan(*args):
        report = plain_step(*args)
        if args[-1] == 4:
            report.losses.loss = report.losses.loss * float("nan")
            for weight in args[0].parameters():
                if weight.grad is not None:
                    weight.grad.fill_(float("nan"))
        return report

    monkeypatch.setattr(train, "training_step", step_or_nan)
    assert train.main(command(world, tmp_path)) == 1
    error = capsys.readouterr().err
    assert "the loss is nan" in error
    assert "at step 4" in error
    state = torch.load(tmp_path / RUN / "ckpt/state.pt", weights_only=True)
    assert state["loop"]["step"] == 2
    assert all(weight.isfinite().all() for weight in state["encoder"].values())


# ---- a folder that is there already --------------------------------------------------------------


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of a complete run, in tmp_path."""
    shutil.copytree(whole, tmp_path / RUN)
    return tmp_path / RUN


def forbid_training(monkeypatch):
    """From now on a training step is an error."""

    def no_step(*args):
        raise AssertionError("it trains")

    monkeypatch.setattr(train, "training_step", no_step)


def test_a_finished_run_is_skipped(world, finished, tmp_path, monkeypatch, capsys):
    """Claim: the same command prints the table again and trains nothing.

    Catches: a day of training that starts over because a command was repeated.
    """
    forbid_training(monkeypatch)
    assert train.main(command(world, tmp_path, *LONGER)) == 0
    screen = capsys.readouterr()
    assert "complete, skipped" in screen.err
    assert "| hybrid-none |" in screen.out


def test_a_run_of_other_flags_stays_as_it_is(world, finished, tmp_path, capsys):
    """Claim: refused with the flag and both values. Catches: one run's flags, another's weights."""
    before = hashes(finished)
    assert train.main(command(world, tmp_path, *LONGER, "--lr", "1e-4")) == 1
    assert "was made with --lr 0.001, not 0.0001" in capsys.readouterr().err
    assert hashes(finished) == before


def test_overwrite_starts_over(world, finished, tmp_path):
    """Claim: only if asked. Catches: --overwrite that skips, or that keeps the old lines."""
    assert train.main(command(world, tmp_path, "--steps", "2", "--overwrite")) == 0
    assert len(log_lines(finished)) == 2
    assert read_json(finished / "run.json")["flags"]["steps"] == 2


HASHES = {
    "data_sha256": "d1",
    "eval_data_sha256": "e1",
    "init_sha256": "i1",
    "tokenizer_sha256": "v1",
    "config_sha256": "c1",
    "tables_sha256": "t1",
}
FLAGS = {"lr": 0.001, "query_length": 9, "device": "cpu"}
ORIGIN = dict.fromkeys(evaluate.ORIGIN)
MANIFEST = {"flags": FLAGS, "origin": ORIGIN, "complete": False, "settings": {}, **HASHES}
MANIFEST |= {"threads": 1, "processes": 1, "versions": {"torch": "2"}}


def write_run(folder, **changes):
    """A folder with a run.json that says what MANIFEST says, but for the changes."""
    folder.mkdir()
    xlt.write_record(folder / "run.json", MANIFEST | changes)
    return folder


def test_a_run_on_another_device_is_the_same_run(tmp_path):
    """Claim: what began on a GPU may be shown on a CPU. Catches: all flags compared."""
    flags = MANIFEST["flags"] | {"device": "cuda"}
    folder = write_run(tmp_path / "run", flags=flags, complete=True)
    assert train.prepare_folder(folder, MANIFEST, False, False) == "done"


@pytest.mark.parametrize("name", HASHES)
def test_a_run_of_other_data_or_weights_is_refused(tmp_path, name):
    """Claim: neither continued nor shown, not with --resume. Catches: old results, new corpus."""
    folder = write_run(tmp_path / "run", complete=True, **{name: "other"})
    with pytest.raises(ValueError, match=f"another {name}"):
        train.prepare_folder(folder, MANIFEST, True, False)


def test_an_interrupted_run_asks_for_resume(tmp_path):
    """Claim: neither continued nor deleted unasked. Catches: a run that starts over silently."""
    folder = write_run(tmp_path / "run", complete=False)
    with pytest.raises(ValueError, match="Continue it with --resume"):
        train.prepare_folder(folder, MANIFEST, False, False)


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    """Claim: --resume is for any run that is not complete. Catches: state.pt opened unseen."""
    folder = write_run(tmp_path / "run", complete=False)
    assert train.prepare_folder(folder, MANIFEST, True, False) == "new"
    (folder / "ckpt").mkdir()
    (folder / "ckpt/state.pt").touch()
    assert train.prepare_folder(folder, MANIFEST, True, False) == "resume"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, overwrite):
    """Claim: nobody's files are deleted for a name, even with --overwrite.

    Catches: a folder emptied for a new run.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="not empty, and no run"):
        train.prepare_folder(folder, MANIFEST, True, overwrite)
    assert (folder / "thesis.tex").exists()


def test_a_run_killed_before_its_first_file_was_there_begins_anew(tmp_path):
    """Number: run.json.tmp, not yet renamed, and the lock. Catches: a folder that is refused for
    good, since it is not empty and has no run.json.
    """
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json.tmp").write_text('{"fla')
    (folder / "lock").touch()
    assert train.prepare_folder(folder, MANIFEST, True, False) == "new"


def test_another_programs_run_json_is_not_overwritten(tmp_path):
    """Claim: not with --overwrite either. Catches: a folder emptied because of a file's name."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"command": "npm start"}')
    with pytest.raises(ValueError, match=r"run\.json: of another program"):
        train.prepare_folder(folder, MANIFEST, False, True)


def test_overwrite_leaves_what_is_not_the_runs(world, finished, tmp_path):
    """Claim: notes beside the model stay. Catches: the whole folder removed."""
    (finished / "notes.md").write_text("all my work")
    assert train.main(command(world, tmp_path, "--steps", "2", "--overwrite")) == 0
    assert (finished / "notes.md").read_text() == "all my work"


def test_a_log_that_was_deleted_is_not_filled_up(world, killed, tmp_path):
    """Number: the checkpoint is of step 4 of 12; steps 5 to 12 are logged.

    Catches: NUL bytes in place of the lines that are gone.
    """
    shutil.copytree(killed, tmp_path / RUN)
    (tmp_path / RUN / "log.jsonl").unlink()
    assert train.main(command(world, tmp_path, *LONGER, "--resume")) == 0
    assert [line["step"] for line in log_lines(tmp_path / RUN)] == list(range(5, 13))


LOCKS = """
import sys, time
from pathlib import Path
import xlt

with xlt.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other_process(tmp_path):
    """Another process, which has locked tmp_path / RUN."""
    call = [sys.executable, "-c", LOCKS, str(tmp_path / RUN)]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_two_processes_cannot_train_one_run(world, tmp_path, capsys, other_process):
    """Claim: the second is refused with the first one's id. Catches: two logs in one file."""
    assert train.main(command(world, tmp_path)) == 1
    assert f"in use by process {other_process.pid} on " in capsys.readouterr().err
    assert not (tmp_path / RUN / "run.json").exists()


def test_a_lock_of_a_killed_process_holds_nobody_up(world, tmp_path, other_process):
    """Claim: the file is still there, its process is not. Catches: a lock to be deleted by hand."""
    other_process.kill()
    other_process.wait()
    assert (tmp_path / RUN / "lock").exists()
    assert train.main(command(world, tmp_path, "--steps", "2")) == 0
    assert not (tmp_path / RUN / "lock").exists()


def moved(world, tmp_path):
    """A copy of data and model elsewhere, under another name."""
    return Path(shutil.copytree(world, tmp_path / "moved"))


def test_a_run_goes_on_when_data_and_model_have_moved(world, killed, whole, tmp_path):
    """Claim: the same bytes, in the same folder; only metrics.json names the folder of the data.

    Catches: a run that is known by absolute paths, and can never be finished after `mv`.
    """
    shutil.copytree(killed, tmp_path / RUN)
    elsewhere = moved(world, tmp_path)
    assert train.main(command(elsewhere, tmp_path, *LONGER, "--resume")) == 0
    resumed, goal = hashes(tmp_path / RUN), hashes(whole)
    assert resumed.pop("metrics.json") != goal.pop("metrics.json")
    assert resumed == goal
    metrics = evaluate.read_metrics(tmp_path / RUN / "metrics.json")
    expected = evaluate.read_metrics(whole / "metrics.json")
    assert metrics | {"data": str(world)} == expected


def test_a_moved_run_is_evaluated_in_the_same_files(world, finished, tmp_path, capsys):
    """Claim: evaluate.py finds all in metrics.json. Catches: a second file beside it."""
    names = sorted(path.name for path in finished.iterdir())
    elsewhere = moved(world, tmp_path)
    flags = [str(finished), "--data", str(elsewhere), "--langs", "de", "en"]
    assert evaluate.main(flags) == 0
    assert sorted(path.name for path in finished.iterdir()) == names


@pytest.mark.parametrize("name", ["eval_split", "test_langs", "eval_data", "data", "model"])
def test_what_is_not_trained_on_is_no_other_run(tmp_path, name):
    """Claim: the table's split and languages, and where data lie, may change after training.

    Catches: a day of training again for a table of fewer languages.
    """
    folder = write_run(tmp_path / "run", flags=FLAGS | {name: "other"}, complete=True)
    manifest = MANIFEST | {"flags": FLAGS | {name: "this"}}
    assert train.prepare_folder(folder, manifest, False, False) == "done"


def test_the_variant_knows_data_by_hash_and_not_by_path(world, tmp_path):
    """Claim: runs on a copy of the data are repeats, runs on other data are not.

    Catches: seeds of two machines that stand in the table as two recipes.
    """
    (here,), (there,) = run_flags("--data", str(world)), run_flags("--data", str(tmp_path))
    assert here.data != there.data
    first, second = here.origin({"data_sha256": "d1"}), there.origin({"data_sha256": "d1"})
    assert first == second
    assert first["variant"] != here.origin({"data_sha256": "d2"})["variant"]


def test_changed_synonyms_are_another_run(world, tmp_path, capsys):
    """Claim: what words are replaced by is trained on. Number: another word, after the end.

    Catches: old weights that pass for those of the new table.
    """
    elsewhere = moved(world, tmp_path)
    flags = command(elsewhere, tmp_path, "--steps", "2", "--robust", "rs-da")
    assert train.main(flags) == 0
    (elsewhere / "synonyms/en.json").write_text('{"small": ["mini"]}')
    assert train.main(flags) == 1
    assert "made with another tables_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "change", "name"),
    [
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "tokenizer_sha256"),
        ("config.json", {"hidden_dropout_prob": 0.2}, "config_sha256"),
        ("xlt.json", {"query_prefix": "Q "}, "settings"),
    ],
)
def test_another_file_of_the_model_is_another_run(
    world, finished, tmp_path, capsys, file, change, name
):
    """Claim: the same weights give other vectors. Catches: a hash of the weights alone."""
    elsewhere = moved(world, tmp_path)
    path, content = elsewhere / "model" / file, {}
    if path.exists():
        content = read_json(path)
    path.write_text(json.dumps(content | change))
    assert train.main(command(elsewhere, tmp_path, *LONGER)) == 1
    assert f"made with another {name}" in capsys.readouterr().err


def test_weights_that_changed_after_training_are_refused(world, finished, whole, tmp_path, capsys):
    """Number: one value is another. Catches: numbers of weights that nobody trained."""
    from safetensors.torch import load_file, save_file

    path = finished / "model/model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    assert train.main(command(world, tmp_path, *LONGER)) == 1
    assert "not the weights that this run ended with" in capsys.readouterr().err


def test_another_number_of_threads_is_told_on_resume(tmp_path, capsys):
    """Claim: a warning, since sums may round otherwise; no refusal. Number: 4, now 1."""
    folder = write_run(tmp_path / "run", threads=4)
    (folder / "ckpt").mkdir()
    (folder / "ckpt/state.pt").touch()
    assert train.prepare_folder(folder, MANIFEST, True, False) == "resume"
    assert "threads were 4, are 1" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(world, killed, tmp_path, capsys):
    """Number: seed 1 gets the checkpoint of seed 0, whose shapes are the same.

    Catches: one run's weights under another one's name.
    """
    other = tmp_path / "hybrid-none-seed1"
    assert run_until_killed(7, command(world, tmp_path, *LONGER, "--seed", "1")) == -signal.SIGKILL
    shutil.copy(killed / "ckpt/state.pt", other / "ckpt/state.pt")
    assert train.main(command(world, tmp_path, *LONGER, "--seed", "1", "--resume")) == 1
    assert "state.pt: of another run" in capsys.readouterr().err


@pytest.mark.parametrize("place", range(9))
def test_a_checkpoint_with_a_wrong_bit_is_refused(killed, tmp_path, place):
    """Number: one bit, at a ninth, two ninths, ... of the file. Catches: weights that are off by a
    power of two, and train on."""
    content = bytearray((killed / "ckpt/state.pt").read_bytes())
    content[(place * len(content) // 9) + 200] ^= 64
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.pt: does not open"):
        train.read_checkpoint(tmp_path / "state.pt")


# ---- damage: one line that names the file --------------------------------------------------------

DAMAGES = ("empty", "half", "zeros", "a list", "not UTF-8", "brackets", "of another program", "bit")


def damage_file(path, damage):
    """Replace a file by what a full disk, a crash or another program leaves there."""
    content = path.read_bytes()
    bit = bytearray(content)
    bit[len(bit) // 3] ^= 1  # in JSON another digit or letter, which parses still
    contents = {
        "bit": bytes(bit),
        "empty": b"",
        "half": content[: len(content) // 2],
        "zeros": bytes(len(content)),
        "a list": b"[[]]",
        "not UTF-8": b"\xff" + content,
        "brackets": b"[" * 100_000,
        "of another program": b'{"results": [1], "flags": 3}',
    }
    path.write_bytes(contents[damage])


def one_line(error, program):
    """What the program said at the end: one line, not too long."""
    (line,) = [line for line in error.splitlines() if line.startswith(program)]
    assert len(line) < 400
    return line


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "metrics.json", "metrics.npz"])
def test_a_damaged_file_is_named_in_one_line(world, finished, tmp_path, capsys, name, damage):
    """Claim: exit 1 in train.py and in study.py. Catches: tracebacks of json, zip and numpy."""
    file = finished / name
    damage_file(file, damage)
    assert train.main(command(world, tmp_path, *LONGER)) == 1
    assert str(file) in one_line(capsys.readouterr().err, "train.py: ")
    assert study.main([str(finished)]) == 1
    assert str(file) in one_line(capsys.readouterr().err, "study.py: ")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_in_one_line(world, killed, tmp_path, capsys, damage):
    """Claim: exit 1. Catches: zip errors, and EOFError without a word."""
    shutil.copytree(killed, tmp_path / RUN)
    file = tmp_path / RUN / "ckpt/state.pt"
    damage_file(file, damage)
    assert train.main(command(world, tmp_path, *LONGER, "--resume")) == 1
    assert f"{file}: does not open" in one_line(capsys.readouterr().err, "train.py: ")


def test_arrays_that_run_code_are_refused_and_not_run(tmp_path):
    """Claim: metrics.npz holds numbers and strings. Catches: allow_pickle=True."""
    np.savez(tmp_path / "metrics.npz", id=np.array([Trap(tmp_path / "sprung")], dtype=object))
    with pytest.raises(ValueError, match=r"metrics\.npz: does not open"):
        evaluate.read_arrays(tmp_path / "metrics.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kilobytes", [1000, 1500])
def test_a_full_disk_is_told_with_the_file(world, tmp_path, kilobytes):
    """Number: the tokenizer has 1.07 MB, the weights 2. Neither library's error is an OSError.

    Catches: a traceback, an error without the name of the file.
    """
    run = f"ulimit -f {kilobytes}; exec " + shlex.join([sys.executable, "train.py"])
    call = run + " " + shlex.join(command(world, tmp_path, "--save-every", "100"))
    answer = subprocess.run(["bash", "-c", call], cwd=ROOT, capture_output=True, check=False)
    assert answer.returncode == 1
    line = one_line(answer.stderr.decode(), "train.py: ")
    assert f"{tmp_path / RUN / 'model'}: cannot be written" in line


@pytest.mark.parametrize("program", [train, evaluate])
def test_a_device_that_is_not_there_is_refused_before_the_work(world, tmp_path, capsys, program):
    """Number: the 100th GPU. Catches: an AssertionError of torch, with its traceback."""
    flags = command(world, tmp_path, "--device", "cuda:99")
    if program is evaluate:
        flags = [str(world / "model"), "--data", str(world), "--device", "cuda:99"]
    assert program.main(flags) == 1
    assert "--device cuda:99: not there" in capsys.readouterr().err


def test_data_without_a_training_split_are_refused(world, tmp_path, capsys):
    """Number: XQuAD-R has test alone. Catches: KeyError: 'train'."""
    elsewhere = moved(world, tmp_path)
    (elsewhere / "qrels/train.tsv").unlink()
    for robust in ("none", "rs-da"):
        flags = command(elsewhere, tmp_path / "runs", "--robust", robust)
        assert train.main(flags) == 1
        assert "train.tsv: no such file. Training needs it." in capsys.readouterr().err


def test_training_needs_no_git(monkeypatch):
    """Number: no program can be found. Catches: FileNotFoundError: 'git'."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert train.commit() == "unknown"


def test_files_are_utf8_whatever_the_locale(world, tmp_path):
    """Claim: in the C locale, with ASCII for everything, a run and its table come out all the same.

    Catches: open() without encoding, which reads "Bär" by the locale.
    """
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    call = [sys.executable, "train.py", *command(world, tmp_path, "--steps", "1")]
    environment = os.environ | c_locale | {"PYTHONIOENCODING": "ascii"}
    answer = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr


# ---- precision -----------------------------------------------------------------------------------


def texts_of(batch, data):
    """The queries and the passages of a batch."""
    queries = [data.queries[i] for i in batch.queries]
    passages = [data.passages[i] for i in batch.passages]
    return queries, passages


def test_scores_and_loss_are_fp32_when_the_encoder_runs_in_bf16(world, encoder):
    """Claim: the loss is the cross-entropy of the step's own vectors, taken in fp32.

    Number: at tau 0.05 a score of 8 bits is off by up to 0.04; 1e-6 is asked. Catches: the loss
    inside autocast.
    """
    data = xlt.load_data(world)
    (flags,) = run_flags("--train-langs", "en", "de", "--tau", "0.05")
    batch = next(xlt.batches(xlt.TrainingPairs(data, ["en", "de"]), "x-y", 8, 1))
    encoder.precision = "bf16"
    perturber = train.make_perturber(flags, data, encoder)
    report = train.training_step(encoder, batch, flags, perturber)
    # In bf16 a vector depends on its padding: chunks are to be those of the step
    views = train.clean_views(encoder, batch, perturber)
    plan = train.plan_chunks(encoder, views, 0)
    p, q = train.encode_views(encoder, views, plan).by_view()
    scores = (q @ p.T / 0.05).masked_fill(report.wrong_negatives, -math.inf)
    expected = F.cross_entropy(scores, torch.arange(8)).item()
    assert report.losses.loss.dtype == torch.float32
    assert report.losses.loss.item() == pytest.approx(expected, abs=1e-6)
    encoder.precision = "fp32"
    exact = encoder(views[1].rows)
    assert (q - exact).abs().max() > 1e-4, "the encoder did not run in bf16"
