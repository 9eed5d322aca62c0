"""Rung 15: several processes make one step, as one process makes it.

Builds: train.py, from `n_processes` to `sum_gradients`, and what the loop does about them.
Before: test_15_cached_step.py. Run: pytest tests/test_15_processes.py (-m slow: more of them)
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from gradients import CASES, main
from training_world import hashes, log_lines, write_encoder, write_world

import evaluate
import train

GRADIENTS = ROOT / "tests/gradients.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The world of training_world.py, its encoder in model/."""
    folder = write_world(tmp_path_factory.mktemp("world"))
    write_encoder(folder / "model")
    return folder


def torchrun(processes, *words, **more):
    """A program in several processes of one thread; what it did."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **more
    )


# ---- one step ------------------------------------------------------------------------------------


def check_same_steps(folder, processes, chunk_size, dropout):
    """Run all cases in one process and in several; compare."""
    out, threads = folder / f"{processes}.pt", torch.get_num_threads()
    main(folder, folder / "1.pt", chunk_size, dropout)
    torch.set_num_threads(threads)
    alone = torch.load(folder / "1.pt")
    result = torchrun(processes, GRADIENTS, folder, out, chunk_size, dropout)
    assert result.returncode == 0, result.stderr[-2000:]
    together = torch.load(out)
    assert len(together) == len(CASES)
    for case, expected in alone.items():
        actual = together[case]
        assert actual["loss"] == pytest.approx(expected["loss"], abs=2e-6), case
        assert actual["noise"] == pytest.approx(expected["noise"], rel=1e-5), case
        assert actual["edited"] == expected["edited"], case
        grads, size = expected["gradients"], 0.0
        assert actual["gradients"].keys() == grads.keys(), case
        for grad in grads.values():
            size = max(size, float(grad.abs().max()))
        for name, grad in grads.items():
            gap = float((actual["gradients"][name] - grad).abs().max())
            assert gap < 3e-6 * size, (case, name, gap / size)


def test_two_processes_have_the_gradient_of_one(folder):
    """Claim: of the loss over the whole batch, in every batching and robust method, with the same
    dropout (chunks of one text are the same), and the counts of edits and noise are those of one.

    Number: 3e-6 of the largest gradient. Catches: negatives of the own part of the batch alone;
    negatives without gradient; gradients that are averaged, half as large; noise by the place in a
    process; a word embedding that only the other process uses.
    """
    check_same_steps(folder, 2, 1, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, 4])
def test_more_processes_have_the_gradient_of_one(folder, processes):
    """Claim: as above, in other chunks, without dropout; eight pairs need not divide by three.

    Catches: what is right for two by chance, such as "the other one".
    """
    check_same_steps(folder, processes, 3, 0.0)


# ---- a run ---------------------------------------------------------------------------------------


def flags_of_run(folder, out, *more):
    """Six steps with noise, edits and dropout; a checkpoint after two and four."""
    argv = ["--model", folder / "model", "--data", folder, "--out", out, "--train-langs", "en"]
    argv += ["de", "--batching", "x-y", "--robust", "rs-rp:weight=0.5+typos:weight=0.3"]
    # Chunks of one text are the same in one process and in two, and so is their dropout
    argv += ["--batch-size", 8, "--chunk-size", 1, "--steps", 6, "--save-every", 2]
    return [*argv, "--log-every", 1, "--attacks", "clean", *more]


RUN = "x-y-rs-rp_weight=0.5+typos_weight=0.3-seed0"


@pytest.fixture(scope="module")
def together(folder):
    """A run of two processes: its folder, and what it printed."""
    result = torchrun(2, "train.py", *flags_of_run(folder, folder / "two"))
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / "two" / RUN, result


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one(folder, together):
    """Claim: the same lines in the log but for rounding, one writer, one table.

    Number: losses to 1e-3 after six steps of AdamW, whose first steps go by the sign of a gradient.
    Catches: other batches in the second process; two processes that write one log.
    """
    run, result = together
    train.main([str(word) for word in flags_of_run(folder, folder / "one")])
    one, two = log_lines(folder / "one" / RUN), log_lines(run)
    assert len(one) == len(two) == 6
    for line, other in zip(one, two, strict=True):
        assert other.keys() == line.keys()
        for name in ("step", "kind", "edited"):
            assert other[name] == line[name]
        for name in ("loss", "clean", "perturbed", "norm"):
            assert other[name] == pytest.approx(line[name], abs=1e-3)
    assert result.stdout.count("done: 1 runs") == 1
    assert result.stderr.count("run 1 of 1") == 1
    assert evaluate.read_manifest(run)["processes"] == 2


DYING = """
import os, signal, sys
import train

plain_step = train.training_step

def step_or_die(*args):
    if args[-1] == 5 and train.process_number() == int(os.environ["DIES"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain_step(*args)

train.training_step = step_or_die
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_dead_process_ends_all_and_the_run_resumes_to_the_same_bytes(
    folder, together, tmp_path, monkeypatch, dying
):
    """Claim: torchrun reports an error within a minute, nobody waits for the dead one; --resume in
    as many processes ends as the run that nothing has happened to.

    Number: killed in the fifth step, after the checkpoint of the fourth. Catches: a process that
    waits for ever; a checkpoint that the others do not read.
    """
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.setenv("DIES", str(dying))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    start = time.time()
    result = torchrun(2, tmp_path / "dying.py", *flags_of_run(folder, tmp_path), timeout=120)
    assert result.returncode != 0
    assert time.time() - start < 90
    assert str(-signal.SIGKILL) in result.stderr
    assert (tmp_path / RUN / "ckpt/state.pt").exists()
    result = torchrun(2, "train.py", *flags_of_run(folder, tmp_path, "--resume"))
    assert result.returncode == 0, result.stderr[-2000:]
    assert hashes(tmp_path / RUN) == hashes(together[0])
    assert log_lines(tmp_path / RUN) == log_lines(together[0])


@pytest.mark.slow
def test_what_all_processes_find_is_said_once(folder, tmp_path):
    """Claim: exit 1 and one line. Catches: a message from every process; one that hangs."""
    argv = flags_of_run(folder, tmp_path, "--train-langs", "en", "xx")
    result = torchrun(2, "train.py", *argv, timeout=120)
    assert result.returncode != 0
    assert result.stderr.count("train.py: unknown language 'xx'") == 1


def test_more_processes_than_gpus_are_refused(monkeypatch):
    """Claim: by the first process too, which alone prints it. Catches: two processes on one GPU,
    which NCCL hangs on; a refusal that nobody says."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--nproc-per-node 1, or --device cpu"):
        train.start_processes("cuda")
