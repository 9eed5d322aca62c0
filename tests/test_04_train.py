"""Rung 4: flags become a trained encoder, and nothing is ever lost.

Builds: train.py. Before: rungs 1 to 3. Run: pytest tests/test_04_train.py
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, write_folder

import train
import xlt

LANGS = ["en", "de", "th"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Forty questions of the bundled world in three languages, trained and tested on."""
    data = xlt.load_data(ROOT / "data/minifacts")
    groups = sorted({data.queries[q].group for q in data.qrels["train"]})[::30][:40]
    rows = lambda texts: [
        {"_id": t.id, "lang": t.lang, "text": t.text, "group": t.group}
        for t in texts
        if t.group in groups and t.lang in LANGS
    ]
    corpus, queries = rows(data.passages), rows(data.queries)
    by_group = {}
    for row in corpus:
        by_group.setdefault(row["group"], []).append(row["_id"])
    qrels = [f"{q['_id']}\t{p}\t1" for q in queries for p in by_group[q["group"]]]
    folder = write_folder(tmp_path_factory.mktemp("small"), corpus, queries, qrels)
    # The bundled encoder has no dropout; with some, a seed or a state that is lost shows
    shutil.copytree(ROOT / "data/tiny_xlmr", folder / "model")
    config = json.loads((folder / "model/config.json").read_text())
    (folder / "model/config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.1}))
    return folder


def flags(small, out, *more):
    given = ["--data", str(small), "--out", str(out), "--train-langs", "en", "de"]
    given += ["--model", str(small / "model")]
    return [*given, "--steps", "6", "--batch-size", "8", "--save-every", "2", *more]


def fingerprint(folder):
    """Hashes of what a run leaves, but the manifest: it holds seconds."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("run.json", "log.jsonl"))
    found = {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
    lines = [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]
    return found | {"log": [{k: v for k, v in x.items() if k != "seconds"} for x in lines]}


def test_the_learning_rate_rises_and_falls_linearly():
    """Number: 10 steps, 2 of warm-up: 1/2, 1, then (10 - t) / 8: 1, 7/8 ... 1/8. Catches: off by one."""
    found = [train.rate(t, 10, 2) for t in range(10)]
    assert found == [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert train.rate(0, 10, 0) == 1.0


def test_batchings_in_the_help_are_those_of_xlt():
    """Claim: the flag is parsed before torch is imported, so the names stand twice."""
    assert train.BATCHINGS == xlt.BATCHINGS


def test_several_values_run_as_a_product_without_repeats():
    """Number: hybrid x 2 alphas + x-y once, 2 seeds: 6 runs, a seed after the other: whenever a study
    stops, its recipes have about as many seeds. Catches: x-y twice for two alphas."""
    given = ["--batching", "hybrid", "x-y", "--alpha", "0.5", "0.3", "--seed", "0", "1"]
    runs = train.single_runs(train.parse(given))
    names = [f"{train.recipe(r)}-seed{r['seed']}" for r in runs]
    assert names == [
        "hybrid-none-seed0", "hybrid0.3-none-seed0", "x-y-none-seed0",
        "hybrid-none-seed1", "hybrid0.3-none-seed1", "x-y-none-seed1",
    ]  # fmt: skip


def test_training_lowers_the_loss_and_the_manifest_can_repeat_it(small, tmp_path, capsys):
    """Claim: loss falls by a third in 30 steps; flags, counts and rates are written; a table is printed."""
    assert train.main(flags(small, tmp_path, "--steps", "30", "--log-every", "1")) == 0
    out = capsys.readouterr().out
    assert "hybrid-none" in out and "chance" in out and out.rstrip().split("\n")[-1].startswith("done: 1 runs")
    folder = tmp_path / "hybrid-none-seed0"
    losses = [json.loads(x)["loss"] for x in (folder / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 30 and sum(losses[-5:]) < 0.67 * sum(losses[:5])
    run = json.loads((folder / "run.json").read_text())
    assert run["complete"] and run["flags"]["seed"] == 0 and run["flags"]["alpha"] == 0.5
    counts = run["counts"]
    assert counts["mono batches"] + counts["cross batches"] == 30 and counts["rows"] == 240
    assert sum(n for key, n in counts.items() if ">" in key) == 240
    assert run["derived"]["lr_per_pair"] == pytest.approx(1e-3 / 8)
    assert not (folder / "ckpt").exists() and (folder / "metrics.json").exists()


def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(small, tmp_path):
    """Claim: model, metrics and log are equal. Catches: an unseeded dropout or a time in metrics.json."""
    found = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert train.main(flags(small, tmp_path / name, "--seed", seed)) == 0
        found.append(fingerprint(tmp_path / name / f"hybrid-none-seed{seed}"))
    assert found[0] == found[1]
    assert found[0]["model/model.safetensors"] != found[2]["model/model.safetensors"]


def command(small, out, *more):
    return [sys.executable, str(ROOT / "train.py"), *flags(small, out, "--steps", "14", *more)]


@pytest.mark.parametrize("kill_after", [2, 6])
def test_a_killed_run_resumes_to_the_same_bytes(small, tmp_path, kill_after):
    """Claim: SIGKILL after a checkpoint, then --resume: model, metrics and log as if nothing happened.

    Catches: generators that are not restored, log lines written twice, half a checkpoint.
    """
    assert train.main(flags(small, tmp_path / "whole", "--steps", "14", "--log-every", "1")) == 0
    process = subprocess.Popen(command(small, tmp_path / "cut", "--log-every", "1"), stderr=subprocess.DEVNULL)
    state = tmp_path / "cut/hybrid-none-seed0/ckpt/state.pt"
    log = tmp_path / "cut/hybrid-none-seed0/log.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None:
        if state.exists() and log.exists() and len(log.read_text().splitlines()) >= kill_after:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (log.parent / "metrics.json").exists(), "the run was over before it was killed"
    assert train.main(flags(small, tmp_path / "cut", "--steps", "14", "--log-every", "1", "--resume")) == 0
    assert fingerprint(log.parent) == fingerprint(tmp_path / "whole/hybrid-none-seed0")


def test_a_finished_run_is_skipped_and_never_overwritten_unasked(small, tmp_path, capsys):
    """Claim: the same command prints the table again and trains nothing; --overwrite trains."""
    assert train.main(flags(small, tmp_path)) == 0
    path = tmp_path / "hybrid-none-seed0/model/model.safetensors"
    before = path.stat().st_mtime_ns
    assert train.main(flags(small, tmp_path)) == 0
    assert path.stat().st_mtime_ns == before and "complete, skipped" in capsys.readouterr().err
    assert train.main(flags(small, tmp_path, "--lr", "1e-4")) == 1
    assert "was made with --lr 0.001, not 0.0001" in capsys.readouterr().err
    assert path.stat().st_mtime_ns == before
    assert train.main(flags(small, tmp_path, "--overwrite")) == 0
    assert path.stat().st_mtime_ns != before


def test_a_run_of_other_data_is_neither_continued_nor_shown(small, tmp_path, capsys):
    """Claim: refused with both hashes, the folder stays. Catches: old results for a new corpus."""
    assert train.main(flags(small, tmp_path)) == 0
    manifest = tmp_path / "hybrid-none-seed0/run.json"
    run = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(run | {"data_sha256": "0" * 64}))
    assert train.main(flags(small, tmp_path, "--resume")) == 1
    assert "another data_sha256" in capsys.readouterr().err
    assert (manifest.parent / "metrics.json").exists()


def test_an_interrupted_run_asks_for_resume(small, tmp_path, capsys):
    """Claim: a folder without the end is neither continued nor deleted unasked."""
    assert train.main(flags(small, tmp_path)) == 0
    manifest = tmp_path / "hybrid-none-seed0/run.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    assert train.main(flags(small, tmp_path)) == 1
    assert "Continue it with --resume" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(small, tmp_path, capsys, monkeypatch):
    """Claim: exit 1, the step and a remedy are named, the last good state stays. Number: step 5."""
    calls, real = [], train.batch_losses

    def broken(*arguments):
        calls.append(1)
        found, mask = real(*arguments)
        return found | {"loss": found["loss"] * (float("nan") if len(calls) == 5 else 1)}, mask

    monkeypatch.setattr(train, "batch_losses", broken)
    assert train.main(flags(small, tmp_path)) == 1
    assert "the loss is nan" in (error := capsys.readouterr().err) and "at step 5" in error
    state = torch.load(tmp_path / "hybrid-none-seed0/ckpt/state.pt", weights_only=False)
    assert state["step"] == 4 and all(t.isfinite().all() for t in state["model"].values())


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--data", "nowhere"], 1, "no such folder"),
        (["--batch-size", "1000"], 1, "--batch-size 1000 is larger than the data: 40 pairs"),
        (["--train-langs", "en", "xx"], 1, "unknown language 'xx'"),
        (["--tau", "0"], 2, "--tau 0.0: must be above 0"),
        (["--log-every", "0"], 2, "--log-every 0: must be above 0"),
        (["--warmup", "1"], 2, "--warmup 1.0"),
        (["--alpha", "2"], 2, "--alpha 2.0"),
        (["--device", "foo"], 1, "foo"),
        (["--passage-length", "1000"], 1, "at most 512 tokens"),
        (["--batching", "y-x"], 2, "invalid choice: 'y-x'"),
        (["--bat", "x-y"], 2, "unrecognized arguments"),
    ],
)
def test_impossible_flags_are_refused_with_their_exit_code(small, tmp_path, capsys, more, code, message):
    """Claim: one sentence, 1 or 2. Catches: abbreviations, tracebacks, an endless loop."""
    try:
        found = train.main(flags(small, tmp_path, *more))
    except SystemExit as stop:
        found = stop.code
    assert found == code and message in capsys.readouterr().err


def test_help_answers_before_torch_is_imported():
    """Number: 2 seconds at most, torch alone takes longer on the machine this was written on."""
    start = time.time()
    for program in ("train.py", "evaluate.py"):
        done = subprocess.run([sys.executable, ROOT / program, "--help"], capture_output=True, text=True, check=True)
        assert "--data" in done.stdout
    assert time.time() - start < 4


def test_scores_and_losses_are_fp32_when_the_encoder_runs_in_bf16(small, encoder):
    """Claim: to the last bit info_nce of the same vectors. Catches: the loss inside autocast, whose
    product of scores has 8 bits: at tau 0.05 the logits are then off by up to 0.1 (PITFALLS 3)."""
    data, kept, real = xlt.load_data(small), [], encoder.forward
    batch = next(xlt.batches(xlt.Pairs(data, LANGS), "x-y", 8, 1))
    encoder.forward = lambda *a, **k: kept.append(real(*a, **k)) or kept[-1]
    given = vars(train.parse(["--precision", "bf16"]))
    for robust, n in (("none", 2), ("rs-da:weight=0.5+self-teaching", 3)):
        tools, kept[:] = train.make_perturber(given | {"robust": "none", "batching": "x-y", "seed": 0}, data), []
        tools.methods, tools.tables = train.parse_robust(robust), {"synonyms": {}}
        found, mask = train.batch_losses(encoder, data, batch, given, tools)
        p, q = kept[:2]
        clean = xlt.info_nce(q, p, 0.05, mask)
        assert len(kept) == n and found["clean"].equal(clean)
        if n == 3:  # without a word to replace the third is the second, in other chunks maybe
            gap = train.self_teaching(kept[2], p, q, p, 0.05, mask)
            worse = xlt.info_nce(kept[2], p, 0.05, mask)
            assert found["loss"].equal(0.5 * clean + 0.5 * worse + 0.5 * gap)
