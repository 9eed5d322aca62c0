"""Rung 4: a program is killed at any moment, its command is repeated, and nothing is lost.

Checks: the order in which train.py, evaluate.py and study.py change files. A kill between two
changes leaves what the first of them made, so one kill before each change sees every state; half
written files come beside it. Before: test_04_train.py. Run: pytest -m slow tests/test_04_kills.py
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import CORPUS, QUERIES, ROOT, write_folder
from training_world import hashes, log_lines, write_encoder

import evaluate
import study
import train
import xlt

pytestmark = pytest.mark.slow

ROBUST = "rs-da:weight=0.4+adv:weight=0.4,how=pgd"
RUN = "hybrid-rs-da_weight=0.4+adv_weight=0.4,how=pgd-seed0"
KILLS = 10  # of those at random moments


# ---- a process that runs our programs in forks, and kills them -----------------------------------

PROGRAMS = {"train": train, "evaluate": evaluate, "study": study}
# Events of Python's audit hooks, and which of their arguments is the open folder that a path starts
# from (shutil.rmtree works that way). open() is seen to separately
FOLDER_ARGUMENT = {"os.rename": 2, "os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killer:
    """An audit hook that ends this process with SIGKILL before one change of a folder's files.

    Opening a file for writing counts twice: before it, and when half of the file is written.
    """

    def __init__(self, folder: str, kill_at: int):
        self.folder, self.kill_at = os.path.join(folder, ""), kill_at
        self.count = 0

    def is_now(self):
        self.count += 1
        return self.count == self.kill_at

    def change(self):
        if self.is_now():
            os.kill(os.getpid(), signal.SIGKILL)

    def open(self, path, flags):
        self.change()
        if self.is_now():
            self.kill_at = 0  # or this open would come here, too
            with open(path, "wb" if flags & os.O_TRUNC else "ab") as file:
                file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, event, arguments):
        is_open = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if not (is_open or event in FOLDER_ARGUMENT) or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        if not is_open and arguments[FOLDER_ARGUMENT[event]] != -1:
            path = os.path.join(f"/proc/self/fd/{arguments[FOLDER_ARGUMENT[event]]}", path)
        # The folder itself may be what is made or renamed, so its parent is looked up
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not path.startswith(self.folder) or (event == "os.mkdir" and os.path.exists(path)):
            return
        if is_open:
            self.open(path, arguments[2])
        else:
            self.change()


def watch_safetensors(killer):
    """Weights are written in Rust, which no audit hook sees."""
    import safetensors.torch

    serialize_file = safetensors.torch.serialize_file

    def watched(tensors, file, **more):
        killer("open", (file, "w", os.O_WRONLY | os.O_TRUNC))
        return serialize_file(tensors, file, **more)

    safetensors.torch.serialize_file = watched


def run_in_child(order):
    """What a fork does: a program of ours, its screen into a file."""
    screen = os.open(order["screen"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(screen, 1)
    os.dup2(screen, 2)
    killer = Killer(order["folder"], order["kill_at"])
    watch_safetensors(killer)
    sys.addaudithook(killer)
    code = PROGRAMS[order["program"]].main(order["flags"])
    sys.stdout.flush()
    os._exit(code)


def serve():
    """Read orders, one a line; run each in a fork; answer with its exit code, -9 for a kill.

    Imports take seconds and a fork none. One thread: a fork has but the one that called it.
    """
    torch.set_num_threads(1)
    xlt.load_encoder(ROOT / "data/tiny_xlmr")  # what the library imports late
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                run_in_child(order)
            os._exit(99)
        if order["seconds"] is not None:
            time.sleep(order["seconds"])
            os.kill(child, signal.SIGKILL)  # it is there until we wait for it
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


class Server:
    """The process in which `serve` runs."""

    def __init__(self, folder):
        self.screen = folder / "screen.txt"
        call = [sys.executable, "-c", "import test_04_kills; test_04_kills.serve()"]
        pipe, place = subprocess.PIPE, ROOT / "tests"
        self.process = subprocess.Popen(call, cwd=place, stdin=pipe, stdout=pipe, text=True)

    def run(self, program, flags, folder, kill_at=0, seconds=None):
        """Run a program; kill it before change `kill_at` in the folder (0: never), or in time."""
        order = {"program": program, "flags": flags, "kill_at": kill_at, "seconds": seconds}
        order |= {"folder": str(folder.resolve()), "screen": str(self.screen)}
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def finish(self, program, flags, folder):
        """Run a program to its end, which has to be a good one."""
        assert self.run(program, flags, folder) == 0, self.screen.read_text()[-2000:]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server for all tests of this file; torch has one thread here, too."""
    one, threads = Server(tmp_path_factory.mktemp("server")), torch.get_num_threads()
    torch.set_num_threads(1)
    yield one
    torch.set_num_threads(threads)
    one.process.stdin.close()
    one.process.wait()


# ---- what is run, and what has to come out -------------------------------------------------------


SYNONYMS = {"en": {"capital": ["town"], "eat": ["devour"]}, "de": {"fressen": ["mampfen"]}}


def write_small_encoder(folder):
    """The encoder of training_world.py with those tokens alone that the world's texts can have.

    It opens in a third of the time, and it is opened some hundred times.
    """
    from transformers import XLMRobertaConfig, XLMRobertaModel

    write_encoder(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    letters = set("▁:QueryPassage")
    for row in [*CORPUS, *QUERIES]:
        letters |= set(row["text"])
    pieces = tokenizer["model"]["vocab"]  # [token, log-probability]; the first five are special
    pieces = pieces[:5] + [piece for piece in pieces[5:] if set(piece[0]) <= letters]
    tokenizer["model"]["vocab"] = pieces[:300]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = XLMRobertaConfig.from_pretrained(folder, vocab_size=len(pieces[:300]))
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The world of four sentences with synonyms, and an encoder in model/."""
    folder = write_folder(tmp_path_factory.mktemp("world"))
    (folder / "synonyms").mkdir()
    for lang, table in SYNONYMS.items():
        (folder / "synonyms" / f"{lang}.json").write_text(json.dumps(table))
    write_small_encoder(folder / "model")
    return folder


def command(world, out, *more):
    """The flags of a small robust run that is evaluated under attack."""
    flags = ["--data", str(world), "--model", str(world / "model"), "--out", str(out)]
    flags += ["--train-langs", "en", "de", "--robust", ROBUST, "--batch-size", "2"]
    flags += ["--steps", "3", "--save-every", "1", "--log-every", "1"]
    flags += ["--attacks", "clean", "random", "greedy:edits=1", "--attack-views", "pool"]
    return [*flags, *more]


# A run that trains for longer than it loads
LONGER = ["--steps", "12", "--save-every", "2"]


def result(run):
    """All that a run comes to, but for the seconds it took."""
    manifest = json.loads((run / "run.json").read_text())
    del manifest["seconds_training"], manifest["checksum"]
    return {"files": hashes(run), "log": log_lines(run), "run.json": manifest}


def file_contents(folder):
    """Name -> content of every file in a folder."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents[path.relative_to(folder).as_posix()] = path.read_bytes()
    return contents


def kill_before_each_change(server, program, flags, folder, start):
    """Run a program again and again, killed before change 1, 2, 3, ...; yields after each kill.

    `start` makes what is there before the program runs. Ends when the program does.
    """
    for number in range(1, 1000):
        shutil.rmtree(folder, ignore_errors=True)
        start()
        code = server.run(program, flags, folder, kill_at=number)
        if code == 0:
            return
        assert code == -signal.SIGKILL, server.screen.read_text()[-2000:]
        yield number


# ---- kills at random moments ---------------------------------------------------------------------


def call_train(flags, seconds=None):
    """`python train.py`, killed after so many seconds unless it has ended by then; its exit code."""
    call = [sys.executable, "train.py", *flags]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(call, cwd=ROOT, env=environment, **quiet) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
    return process.returncode


def test_a_run_killed_at_a_random_moment_ends_as_if_it_had_not_been(server, world, tmp_path):
    """Claim: repeated with --resume the command gives the same bytes, and no file is left over.

    Number: 10 runs, each killed once, at a random moment of another tenth of the time that the
    whole program takes. Catches: whatever the order of writes gets wrong for more than a moment.
    """
    begin = time.monotonic()
    assert call_train(command(world, tmp_path / "whole", *LONGER)) == 0
    whole_seconds = time.monotonic() - begin
    goal, rng, runs_begun = result(tmp_path / "whole" / RUN), random.Random(0), 0
    for tenth in range(KILLS):
        out = tmp_path / str(tenth)
        moment = (tenth + rng.random()) / KILLS * whole_seconds
        code = call_train(command(world, out, *LONGER), moment)
        assert code in (-signal.SIGKILL, 0)  # 0: this time it was faster
        runs_begun += (out / RUN / "run.json").exists()
        server.finish("train", command(world, out, *LONGER, "--resume"), out)
        assert result(out / RUN) == goal, f"killed after {moment:.1f} of {whole_seconds:.1f} s"
    assert runs_begun >= 2, "all kills came while torch was imported"


def test_a_run_killed_ten_times_in_a_row_ends_as_if_it_had_not_been(server, world, tmp_path):
    """Claim: a run that is killed while it resumes is resumed again; a run that ended is looked at,
    and the next one begins.

    Number: 10 kills, in a tenth to a half of the time that the whole program takes without its
    imports. Catches: a resume that loses something on its way to the next checkpoint.
    """
    begin = time.monotonic()
    server.finish("train", command(world, tmp_path / "whole", *LONGER), tmp_path)
    whole_seconds = time.monotonic() - begin
    goal, rng, number, kills = result(tmp_path / "whole" / RUN), random.Random(0), 0, 0
    while kills < KILLS:
        flags = command(world, tmp_path / str(number), *LONGER, "--resume")
        moment = rng.uniform(0.1, 0.5) * whole_seconds
        code = server.run("train", flags, tmp_path, seconds=moment)
        if code == -signal.SIGKILL:
            kills += 1
        else:
            assert code == 0, server.screen.read_text()[-2000:]
            assert result(tmp_path / str(number) / RUN) == goal
            number += 1
    server.finish("train", flags, tmp_path)
    assert result(tmp_path / str(number) / RUN) == goal


# ---- a kill before each change -------------------------------------------------------------------


def check_model(folder, models, is_complete):
    """After a kill: model/ does not open, or it does with the right weights and settings.

    models: hash of the weights -> settings.
    """
    try:
        encoder = xlt.load_encoder(folder)
    except ValueError:
        assert not is_complete, f"{folder} does not open"
        return
    assert models[xlt.weights_hash(encoder)] == vars(encoder.settings)


def is_finished(run):
    """Does run.json say so?"""
    return (run / "run.json").exists() and evaluate.read_manifest(run)["complete"]


def check_files(run):
    """After a kill: what has its final name is whole."""
    if (run / "run.json").exists():
        evaluate.read_manifest(run)
    if (run / "ckpt/state.pt").exists():
        train.read_checkpoint(run / "ckpt/state.pt")
    if (run / "metrics.json").exists():
        evaluate.read_metrics(run / "metrics.json")
        assert (run / "metrics.npz").exists(), "records without their single queries"
    if (run / "metrics.npz").exists():
        evaluate.read_arrays(run / "metrics.npz")


def test_a_run_killed_before_any_change_of_a_file_ends_as_if_it_had_not_been(
    server, world, tmp_path
):
    """Claim: as above, for every state that a kill can leave; and no state passes for more than it
    is: files are whole, model/ opens with the right weights and settings or not at all.

    Number: 3 steps with 2 checkpoints, --query-length 30, so that settings differ from the usual.
    Catches: writing in place; run.json complete before the model; records before their arrays; a
    checkpoint that goes before run.json is complete.
    """
    out, more = tmp_path / "killed", ["--query-length", "30"]
    server.finish("train", command(world, tmp_path / "whole", *more), tmp_path)
    goal, kills, has_checkpoint = result(tmp_path / "whole" / RUN), 0, False
    models = {goal["run.json"]["model_sha256"]: goal["run.json"]["settings"]}
    flags = command(world, out, *more)
    for number in kill_before_each_change(server, "train", flags, out, out.mkdir):
        check_files(out / RUN)
        was_there, has_checkpoint = has_checkpoint, (out / RUN / "ckpt/state.pt").exists()
        if was_there and not has_checkpoint:
            assert is_finished(out / RUN), "the training is lost"
            has_checkpoint = True
        check_model(out / RUN / "model", models, is_finished(out / RUN))
        server.finish("train", [*flags, "--resume"], out)
        assert result(out / RUN) == goal, f"killed before change {number}"
        kills += 1
    assert kills > 50, "the changes were not seen"


@pytest.fixture(scope="module")
def trained(server, world, tmp_path_factory):
    """The folder of a run that was never killed."""
    out = tmp_path_factory.mktemp("trained")
    server.finish("train", command(world, out), out)
    return out / RUN


@pytest.fixture(scope="module")
def old(server, world, tmp_path_factory):
    """The folder of a run of the same name with other settings, 2 steps more, and a second table."""
    out = tmp_path_factory.mktemp("old")
    more = ["--steps", "5", "--lr", "0.01", "--query-length", "30"]
    server.finish("train", command(world, out, *more), out)
    shutil.copy(out / RUN / "metrics.json", out / RUN / "metrics-other-test.json")
    return out / RUN


def test_a_run_killed_while_it_overwrites_another_ends_as_if_it_had_been_the_first(
    server, world, trained, old, tmp_path
):
    """Claim: repeated with --overwrite the command ends well; nothing of the old run stays. Until
    then the folder is the old run, whole, or one that is not complete and that no table takes.

    Number: kills until run.json and the lock are alone; from there on it is a run like the first.
    Catches: an old model, log or table under the new run's name; files removed before run.json says
    so; a model that lost its settings first, and opens with the usual ones.
    """
    out, goal = tmp_path / "killed", result(trained)
    flags, kills = command(world, out, "--overwrite"), 0
    models = {}  # hash of weights -> settings
    for run in (trained, old):
        manifest = evaluate.read_manifest(run)
        models[manifest["model_sha256"]] = manifest["settings"]

    def start():
        shutil.copytree(old, out / RUN)

    for number in kill_before_each_change(server, "train", flags, out, start):
        check_model(out / RUN / "model", models, is_finished(out / RUN))
        if not is_finished(out / RUN) and (out / RUN / "metrics.json").exists():
            assert study.main([str(out / RUN)]) == 1
        nothing_old = {path.name for path in (out / RUN).iterdir()} == {"run.json", "lock"}
        server.finish("train", flags, out)
        assert result(out / RUN) == goal, f"killed before change {number}"
        kills += 1
        if nothing_old:
            break
    assert kills > 20, "the changes were not seen"


def check_old_or_new(folder, old, new):
    """After a kill: every file is the old one or the new one, but for those written aside."""
    for name, content in file_contents(folder).items():
        if not name.endswith((".tmp", "lock")):
            assert content in (old.get(name), new.get(name)), f"{name} is neither old nor new"


def check_program(server, program, flags, folder, start):
    """Kill a program before each change; each time repeat its command; returns how many kills."""
    start()
    old, kills = file_contents(folder), 0
    server.finish(program, flags, folder)
    new = file_contents(folder)
    for number in kill_before_each_change(server, program, flags, folder, start):
        check_old_or_new(folder, old, new)
        server.finish(program, flags, folder)
        assert file_contents(folder) == new, f"killed before change {number}"
        kills += 1
    return kills


def test_an_evaluation_killed_before_any_change_of_a_file_ends_as_if_it_had_not_been(
    server, world, trained, tmp_path
):
    """Claim: the same command writes all that it would have written: records and single queries
    beside those of the training, frozen queries, files for trec_eval. No file is ever half.

    Catches: a folder of frozen queries that is taken for somebody else's, since the kill came before
    its attack.json; a run.trec that ends in the middle; records whose arrays are older.
    """
    out = tmp_path / "killed"
    flags = [str(out / RUN), "--data", str(world), "--device", "cpu"]
    flags += ["--attacks", "clean", "greedy:edits=2", "typos", "--attack-views", "pool"]
    flags += ["--attack-out", str(out / "frozen"), "--trec", str(out / "trec")]

    def start():
        shutil.copytree(trained, out / RUN)

    assert check_program(server, "evaluate", flags, out, start) > 40, "the changes were not seen"
    names = {path.name for path in (out / "frozen").iterdir()}
    assert names == {"greedy_edits=2-pool", "typos-pool"}


def test_a_report_killed_before_any_change_of_a_file_can_be_written_again(
    server, trained, old, tmp_path
):
    """Claim: over an older report, too. Number: three files, each opened (before it, half written)
    and renamed: 9 kills. Catches: half a page; a page without its mark, which nobody may replace.
    """
    page, older = tmp_path / "pages/report.html", tmp_path / "older/report.html"
    server.finish("study", [str(old), "--report", str(older)], tmp_path)
    flags = [str(trained), "--report", str(page)]

    def start():
        shutil.copytree(older.parent, page.parent)

    assert check_program(server, "study", flags, page.parent, start) == 9
