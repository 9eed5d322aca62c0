"""Fine-tune an encoder for cross-lingual retrieval: flags -> runs/NAME, and a table over all runs.

    for batch in batches(pairs, batching, ...):         which languages meet: the experiment
        q, p = encoder(queries), encoder(passages)      (B, D), (B, D)
        loss = info_nce(q, p, tau, mask)                false negatives masked by gold group
        loss += w * info_nce(q', p, tau, mask)          --robust: q' is a perturbed q
        loss.backward(); clip; step; schedule           AdamW, linear warm-up and decay

Where to look next: `train` is the loop above, `batch_losses` is the step (plain and robust), and
`derive` is everything that follows from the flags. xlt.py holds batches, encoder and loss,
attacks.py the perturbations. evaluate.py makes the table that is printed at the end.
Left out on purpose: a Trainer class, callbacks, experiment trackers, config files, early stopping.
Differs from the papers: the hybrid-batch paper trains 100 pairs a step at 3e-5 on XLM-R; the
bundled encoder is a thousandth of its size, so its learning rate is larger. Robust-XLT perturbs
both inputs of a classifier; here the query is perturbed, as the adversary does (perturb=both).

    python train.py                                         hybrid batches, bundled world, one seed
    python train.py --batching x-y hybrid --seed 0 1 2      six runs, one table with mean and spread
    python train.py --robust none rs-da rs-da+self-teaching adv:how=pgd,epsilon=0.1
"""

import argparse
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

import attacks
import evaluate
import study
import xlt
from xlt import BATCHINGS, Encoder, Help, Pairs, batches, false_negatives, info_nce

HERE = Path(__file__).parent
# The hybrid-batch paper's training languages; el and vi are never trained on: they are the
# zero-shot test
TRAIN_LANGS = ["en", "ar", "zh", "de", "es", "ru", "th", "tr", "hi"]
# --robust: name -> its own settings beside weight and perturb, and where its edits come from
METHODS = {
    "rs-rp": ("sigma", "noise"),
    "rs-da": ("rate", "copies"),
    "adv": ("how", "epsilon", "norm", "ball", "steps", "step_size"),
    "code-switch": ("rate", "words", "copies"),
    "typos": ("rate", "copies"),
    "self-teaching": (),
}
SOURCES = {"rs-da": "synonyms", "code-switch": "dictionary", "typos": "typos"}
ROBUST_KEYS = ("clean", "perturbed", "consistency", "edited", "edits", "norm")  # of the log


# ---- flags ---------------------------------------------------------------------------------------

# fmt: off
FLAGS = {
    "model and data": {
        "--model": {"default": str(HERE / "data/tiny_xlmr"), "help": "Hugging Face folder or name"},
        "--data": {"type": Path, "default": HERE / "data/minifacts",
                   "help": "data set folder with qrels/train.tsv"},
        "--eval-data": {"type": Path, "help": "data set folder of the table (default: --data)"},
        "--eval-split": {"default": "test", "choices": ["dev", "test"],
                         "help": "split of the table; select on dev, report test"},
        "--train-langs": {"nargs": "+", "default": TRAIN_LANGS, "metavar": "LANG",
            "help": "training languages; the hybrid-batch paper's: without el and vi"},
        "--test-langs": {"nargs": "+", "metavar": "LANG", "help": "of the table (default: all)"},
        "--attacks": {"nargs": "+", "metavar": "NAME[:KEY=VALUE,...]",
            "help": "of the table (default: random greedy:edits=2, if the data have synonyms/); "
                    "names and keys: attacks.py, top"},
        "--attack-views": {"nargs": "+", "default": ["mono", "pool"], "metavar": "VIEW",
            "choices": ["mono", "cross", "pool"], "help": "views attacked, of mono, cross, pool"},
        "--lir": {"nargs": "*", "type": int, "default": [], "metavar": "R",
                  "help": "also without R main directions of each language (Yang et al. 2021: 1)"},
        "--report": {"type": Path, "metavar": "FILE.html",
                     "help": "write what the runs say: .html, and .md, .tex, .json beside"},
    },
    "batches and loss": {
        "--batching": {"nargs": "+", "default": ["hybrid"], "choices": BATCHINGS, "metavar": "NAME",
            "help": f"languages that meet in a batch: {', '.join(BATCHINGS)} (LAReQA; Elmahdy)"},
        "--alpha": {"nargs": "+", "type": float, "default": [0.5], "metavar": "A",
                    "help": "hybrid: share of monolingual batches, 0 to 1 (paper: 0.5)"},
        "--tau": {"type": float, "default": 0.05, "help": "temperature, > 0; divides the cosine"},
        "--symmetric": {"action": "store_true", "help": "also let each passage pick its query"},
        "--keep-false-negatives": {"action": "store_true", "help": "do not mask them"},
    },
    "robust training": {
        "--robust": {"nargs": "+", "default": ["none"], "metavar": "NAME[:KEY=VALUE,...][+NAME]",
            "help": f"perturbations to train on: none or of {', '.join(METHODS)}; + joins several "
                    "in one run; keys: Method in train.py."},
    },
    "optimisation": {
        "--batch-size": {"type": int, "default": 100, "metavar": "B",
            "help": "pairs a step (paper: 100), B - 1 negatives; accumulation adds none"},
        "--steps": {"type": int, "default": 150, "metavar": "N", "help": "optimiser steps"},
        "--lr": {"type": float, "default": 1e-3, "help": "peak, of AdamW (paper, XLM-R: 3e-5)"},
        "--weight-decay": {"type": float, "default": 1e-2, "help": "AdamW's (paper: 1e-2)"},
        "--warmup": {"type": float, "default": 0.1, "help": "share of steps, from 0 to below 1"},
        "--clip": {"type": float, "default": 1.0, "help": "largest L2 norm of the gradient"},
        "--seed": {"nargs": "+", "type": int, "default": [0], "metavar": "S",
                   "help": "of order, languages, noise and dropout"},
    },
    "encoder": {
        "--pooling": {"choices": ["mean", "cls"], "help": "default: as saved, else mean"},
        "--query-length": {"type": int, "help": "tokens (default: as saved, else 96; XTREME)"},
        "--passage-length": {"type": int, "help": "tokens (default: as saved, else 256; XTREME)"},
        "--context": {"action": "store_true", "default": None,
                      "help": "encode passages with their paragraph, as LAReQA"},
    },
    "machine and files": {
        "--device": {"default": "auto", "help": "torch device; auto: cuda if there is one"},
        "--precision": {"choices": ["fp32", "bf16"], "default": "fp32",
                        "help": "of the forward pass; the loss is fp32"},
        "--out": {"type": Path, "default": Path("runs"), "help": "folder of the runs' folders"},
        "--save-every": {"type": int, "default": 50, "help": "steps between checkpoints"},
        "--log-every": {"type": int, "default": 25, "help": "steps between lines of the log"},
        "--resume": {"action": "store_true", "help": "continue interrupted runs, bit for bit"},
        "--overwrite": {"action": "store_true", "help": "start over, also complete runs"},
        "--smoke": {"action": "store_true",
            "help": "one seed, four small steps, 12 questions, two languages: does it work?"},
    },
}
# fmt: on


def parse(argv=None) -> argparse.Namespace:
    """The flags of train.py; --batching, --alpha, --robust and --seed take several values."""
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(description=first, allow_abbrev=False, formatter_class=Help)
    for name, flags in FLAGS.items():
        group = parser.add_argument_group(name)
        for flag, how in flags.items():
            group.add_argument(flag, **how)
    args = parser.parse_args(argv)
    for name in ("steps", "batch_size", "lr", "tau", "clip", "save_every", "log_every"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup {args.warmup}: a share of the steps, from 0 to below 1")
    if any(r < 0 for r in args.lir):
        parser.error("--lir: the number of directions taken out is at least 0")
    if wrong := [alpha for alpha in args.alpha if not 0 <= alpha <= 1]:
        parser.error(f"--alpha {wrong[0]}: the share of monolingual batches is from 0 to 1")
    return args



@dataclass(frozen=True)
class Method:
    """One perturbation to train on, as text "adv:how=pgd,epsilon=0.05".

    The defaults were chosen on dev (README, robust training); the papers' values stand beside.
    """

    name: str
    weight: float = 1.0  # share of its loss; the clean loss has the rest. self-teaching: of the KL
    perturb: str = "query"  # or "both" towers, as Robust-XLT
    rate: float = 1.0  # share of the texts that are edited (Robust-XLT: all; typos: 0.5)
    words: float = 0.5  # code-switch: share of a text's words (CoSDA-ML: 0.4 to 0.9)
    copies: int = 0  # fixed copies a text; 0: drawn anew each step
    sigma: float = 1.0  # rs-rp: norm of the noise on a token, in mean norms of a word embedding
    noise: str = "gaussian"  # or "uniform", in the ball
    how: str = "fgm"  # adv: one step; or pgd, its best point, from fgm's; or freelb, all points
    epsilon: float = 0.1  # adv: radius, in mean norms of a word embedding
    norm: str = "l2"
    ball: str = "token"  # or "sentence", as in FreeLB and Miyato et al.
    steps: int = 3  # of pgd and freelb (FreeLB: 2 to 3)
    step_size: float = 0.5  # of pgd and freelb, in radii

    @property
    def strength(self) -> float:
        """At 0 it changes nothing."""
        words = self.words if self.name == "code-switch" else 1.0
        return {"rs-rp": self.sigma, "adv": self.epsilon}.get(self.name, self.rate * words)


# What keeps a part of the training clean; beside self-teaching the clean loss is there anyway
DEFAULTS = {
    "adv": {"weight": 0.5}, "code-switch": {"weight": 0.5}, "rs-da": {"rate": 0.5},
    "typos": {"rate": 0.5},
}  # fmt: skip


def parse_robust(text: str) -> list[Method]:
    """ "rs-da+self-teaching:weight=2" -> its methods; [] for "none".

    Several perturbations have their usual weights over their number. Beside self-teaching they
    enter by the KL alone, unless they are given a weight, as in CharacterBERT-DR.
    *Errors*: ValueError for an unknown name or setting and for what cannot be combined.
    """
    names = [part.partition(":")[0] for part in text.split("+")]
    if names == ["none"]:
        return []
    if unknown := [name for name in names if name not in METHODS]:
        known = ", ".join(METHODS)
        raise ValueError(f"--robust {text}: {unknown[0]!r} is unknown. Take none or of {known}.")
    if len(set(names)) < len(names) or names == ["self-teaching"]:
        raise ValueError(
            f"--robust {text}: join different methods, one of them a perturbation, e.g. "
            "rs-da+self-teaching."
        )
    teach, count, found = "self-teaching" in names, len(names) - ("self-teaching" in names), []
    for name, part in zip(names, text.split("+"), strict=True):
        usual = {"weight": 0.0 if teach else 1.0} | ({} if teach else DEFAULTS.get(name, {}))
        usual["weight"] = 0.5 if name == "self-teaching" else usual["weight"] / count
        method = replace(Method(name), **usual)
        known = ["weight", *(["perturb"] if name != "self-teaching" else []), *METHODS[name]]
        found.append(attacks.change(method, part.partition(":")[2], known, f"--robust {text}"))
    check_methods(found, text)
    return found


def check_methods(methods: list[Method], text: str) -> None:
    """Refuse settings out of range, with a sentence that says what to do."""
    teach = any(m.name == "self-teaching" for m in methods)
    where, allowed = f"--robust {text}", {
        "perturb": ("query", "both"), "noise": ("gaussian", "uniform"), "norm": ("l2", "max"),
        "how": ("fgm", "pgd", "freelb"), "ball": ("token", "sentence"),
    }  # fmt: skip
    for m in methods:
        for key, values in allowed.items():
            if getattr(m, key) not in values:
                raise ValueError(f"{where}: {key} is one of {', '.join(values)}.")
        low = {"sigma": 0, "epsilon": 0, "rate": 0, "words": 0, "step_size": 0, "steps": 1}
        high = {"rate": 1.0, "words": 1.0}
        for key, least in (low | {"copies": 0, "weight": 0}).items():
            value, most = getattr(m, key), high.get(key, math.inf)
            if not (least <= value <= most and value < math.inf):
                upto = f" and at most {most:g}" if most < math.inf else ""
                raise ValueError(f"{where}: {key} is {value:g}; it is at least {least}{upto}.")
        if not m.strength:
            key = {"rs-rp": "sigma", "adv": "epsilon"}.get(m.name, "rate")
            key = "words" if m.name == "code-switch" and m.rate else key
            raise ValueError(f"{where}: with {key} 0 {m.name} does nothing. Raise it, or drop it.")
        if not (m.weight or (teach and m.name != "self-teaching")):
            raise ValueError(f"{where}: with weight 0 {m.name} does nothing. Raise it, or drop it.")
    shares = [m.weight for m in methods if m.name != "self-teaching"]
    if sum(shares) > 1 + 1e-9:
        raise ValueError(
            f"{where}: the weights sum to {sum(shares):g}; they are shares of the loss."
        )


def single_runs(args: argparse.Namespace) -> list[dict]:
    """The product of --batching, --alpha, --robust and --seed: the flags of each run.

    Alpha matters to hybrid alone, so x-y with two alphas is one run.
    """
    several = ("batching", "alpha", "robust", "seed")
    # These do not change what is trained
    machine = ("out", "resume", "overwrite", "smoke", "save_every", "log_every", "attacks",
               "attack_views", "lir")  # fmt: skip
    common = {k: v for k, v in vars(args).items() if k not in (*several, *machine)}
    if args.device == "auto":
        common["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    common |= {k: str(v.resolve()) for k, v in common.items() if isinstance(v, Path)}
    if Path(args.model).exists():  # else a name on the hub
        common["model"] = str(Path(args.model).resolve())
    if args.smoke:
        common |= {"steps": min(args.steps, 4), "batch_size": min(args.batch_size, 8)}
        common["test_langs"] = args.test_langs or args.train_langs[:2]
    runs, seeds = [], args.seed[:1] if args.smoke else args.seed
    for text in args.robust:
        parse_robust(text)  # refused before the first run
    # Seeds outermost: whenever one stops, all recipes have about as many of them
    for seed, *each in itertools.product(seeds, args.batching, args.alpha, args.robust):
        flags = common | dict(zip(several, (*each, seed), strict=True))
        flags["alpha"] = flags["alpha"] if flags["batching"] == "hybrid" else None
        if flags not in runs:
            runs.append(flags)
    return runs


def recipe(flags: dict) -> str:
    """What distinguishes a run but its seed: hybrid-none, hybrid0.3-adv_epsilon=0.1."""
    alpha = "" if flags["alpha"] in (None, 0.5) else f"{flags['alpha']:g}"
    robust = flags.get("robust", "none").replace(":", "_")  # a colon is no good in a file's name
    return f"{flags['batching']}{alpha}-{robust}"


def derive(flags: dict, pairs: Pairs, encoder: Encoder) -> dict:
    """Everything that follows from the flags and the data."""
    return {
        "groups": len(pairs.queries), "warmup_steps": round(flags["warmup"] * flags["steps"]),
        "epochs": round(flags["steps"] * flags["batch_size"] / len(pairs.queries), 2),
        # Kept when batchings are compared, or the optimiser is what is measured (2006.11604)
        "lr_per_pair": flags["lr"] / flags["batch_size"],
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "robust": [vars(method) for method in parse_robust(flags["robust"])],
        "embedding_norm": round(attacks.mean_norm(encoder), 4),  # the unit of sigma and epsilon
    }  # fmt: skip


# ---- state: nothing is lost ----------------------------------------------------------------------


def save_checkpoint(folder: Path, modules: dict, state: dict) -> None:
    """Write the resume state aside, flush it to the disk, then rename: never half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    content = state | {name: module.state_dict() for name, module in modules.items()}
    content |= {"random": torch.get_rng_state(), "random_cuda": cuda}  # dropout draws from these
    aside = folder / "state.pt.tmp"
    with open(aside, "wb") as out:
        torch.save(content, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, folder / "state.pt")


def load_checkpoint(folder: Path, modules: dict) -> dict:
    """Put everything back as it was, if there is a checkpoint; return the loop's own state."""
    state = {"step": 0, "counts": Counter(), "logged": 0, "seconds": 0.0}
    state |= {name: Counter() for name in ("truncated", "seen", "done", "total")}
    if not (folder / "state.pt").exists():
        return state
    content = torch.load(folder / "state.pt", weights_only=False, map_location="cpu")
    for name, module in modules.items():
        module.load_state_dict(content[name])
    torch.set_rng_state(content["random"])
    if content["random_cuda"]:
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return {name: content[name] for name in state}


def prepare_folder(folder: Path, manifest: dict, args: argparse.Namespace) -> str:
    """Look at what is in a run's folder: "done", "resume" or "new".

    *Errors*: ValueError for a folder of other flags, data or starting weights, an interrupted run
    without --resume, or a folder that is no run.
    """
    remedy = "Give another --out, or --overwrite to start over."
    if args.overwrite and folder.exists():
        shutil.rmtree(folder)
    if not (folder / "run.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: not empty, and no run (no run.json). {remedy}")
        return "new"
    old = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for name, value in manifest["flags"].items():
        if name != "device" and old["flags"].get(name) != value:
            flag, was = name.replace("_", "-"), old["flags"].get(name)
            raise ValueError(f"{folder} was made with --{flag} {was}, not {value}. {remedy}")
    for name in ("data_sha256", "eval_data_sha256", "init_sha256"):
        if old.get(name) != manifest[name]:
            raise ValueError(f"{folder} was made with another {name}: files have changed. {remedy}")
    if old.get("complete"):
        return "done"
    if not args.resume:
        raise ValueError(f"{folder} is not complete. Continue it with --resume, or --overwrite it.")
    return "resume" if (folder / "ckpt/state.pt").exists() else "new"


# ---- robust training: how a batch is perturbed ---------------------------------------------------


@dataclass
class Perturber:
    """What the perturbations of one run need, and what they have done since the last log line."""

    methods: list[Method]
    seed: int
    unit: float  # mean norm of a word embedding before training
    tables: dict = field(default_factory=dict)  # source -> lang -> word -> replacements
    answers: dict = field(default_factory=dict)  # id(text) -> answers that stay as they are
    slots: dict = field(default_factory=dict)  # (source, id(text)) -> where it may be edited
    done: Counter = field(default_factory=Counter)
    total: Counter = field(default_factory=Counter)  # texts and edited ones of the run, by language

    @property
    def consistency(self) -> float:
        """The weight of self-teaching's KL."""
        return sum(m.weight for m in self.methods if m.name == "self-teaching")

    @property
    def active(self) -> list[Method]:
        """The perturbations that change something: at strength 0 training is plain, bit for bit."""
        found = [m for m in self.methods if m.name != "self-teaching" and m.strength]
        return [m for m in found if m.weight or self.consistency]

    def of(self, t: xlt.Text, source: str) -> list:
        """Where a text may be edited; found once."""
        key = source, id(t)
        if key not in self.slots:
            table, fixed = self.tables.get(source, {}).get(t.lang, {}), set()
            for answer in self.answers.get(id(t), (t.answer,)):
                fixed |= attacks.answer_words(answer, table, t.lang)
            if source == "typos":
                self.slots[key] = attacks.typo_places(t.text, t.lang, fixed)
            else:
                self.slots[key] = attacks.find_slots(t.text, table, t.lang, fixed)
        return self.slots[key]


def make_perturber(flags: dict, data: xlt.DataSet, encoder: Encoder | None = None) -> Perturber:
    """Open the tables that --robust needs; without encoder only to see whether all is there.

    Code-switching draws words of the training languages alone, or el and vi were no zero-shot test.
    *Errors*: ValueError for a missing table, or where no training text has a replaceable word.
    """
    methods = parse_robust(flags["robust"])
    made = Perturber(methods, flags["seed"], attacks.mean_norm(encoder) if encoder else 1.0)
    sources = {SOURCES[m.name] for m in methods if m.name in SOURCES}
    langs = ["en"] if flags["batching"] == "en-en" else flags["train_langs"]
    if "synonyms" in sources:
        made.tables["synonyms"] = attacks.read_synonyms(data.folder)
    if "dictionary" in sources:
        made.tables["dictionary"] = attacks.read_dictionary(
            data.folder / "dictionary.tsv", flags["train_langs"]
        )
    for q, relevant in data.qrels["train"].items():
        asked = data.queries[q]
        for p in relevant:
            if asked.answer and data.passages[p].lang == asked.lang:
                made.answers.setdefault(id(data.passages[p]), []).append(asked.answer)
    for source in sorted(sources):
        asked = (data.queries[q] for q in data.qrels["train"])
        if not any(made.of(t, source) for t in asked if t.lang in langs):
            raise ValueError(
                f"--robust {flags['robust']}: no training query in {langs} has a word that "
                f"{source} could replace. Add words to {data.folder}'s synonyms/ or dictionary.tsv."
            )
    return made


def edit(texts: list[xlt.Text], method: Method, tools: Perturber, rng) -> list[xlt.Text]:
    """rs-da, code-switch, typos: the texts with their edits of this step."""
    edited, source = [], SOURCES[method.name]
    for t in texts:
        slots = tools.of(t, source)
        chosen = float(torch.rand((), generator=rng)) < method.rate
        own = rng
        if method.copies:  # Robust-XLT: one of a few copies that are always the same
            copy = int(torch.randint(method.copies, (), generator=rng))
            own = xlt.generator(tools.seed, "copies", method.name, t.id, copy)
        edits = attacks.augment(t, slots, source, own, method.words) if chosen and slots else {}
        text = attacks.substitute(t.text, edits)
        tools.done.update({"texts": 1, "edited": text != t.text, "edits": len(edits)})
        tools.total.update({f"texts {t.lang}": 1, f"edited {t.lang}": text != t.text})
        edited.append(replace(t, text=text))
    return edited


def noise(encoder: Encoder, method: Method, tools: Perturber, rng, picks) -> list:
    """rs-rp, adv: functions (words, batch, chunk) -> words with noise; freelb has one a step.

    picks(v, chunk) -> (b,) is the loss of these rows, which adv raises; the search for the worst
    noise runs in eval mode, so that it draws no dropout, and leaves the parameters' .grad alone.
    """
    spec = attacks.Attack(method.how, "", norm=method.norm, ball=method.ball, steps=method.steps,
                          step_size=method.step_size, restarts=1)  # fmt: skip
    dim = encoder.model.get_input_embeddings().weight.shape[1]
    radius = method.epsilon * tools.unit / (dim**0.5 if method.norm == "max" else 1)
    points = {}  # freelb: chunk -> where it is now

    def perturb(words, batch, chunk):
        mask, rngs = attacks.noise_places(encoder, batch), [rng] * len(chunk)
        if method.name == "rs-rp":
            wide = method.sigma * tools.unit
            delta = attacks.random_noise(mask, dim, rngs, wide, method.noise)
        else:
            args = (
                lambda w: picks(encoder.from_words(w, batch).float(), chunk),
                words.detach(),
                mask,
            )
            was_training = encoder.training
            encoder.eval()
            if method.how == "fgm":
                delta = attacks.fgm(*args, radius, method.norm, method.ball)
            elif method.how == "pgd":
                delta = attacks.pgd(*args, radius, spec, rngs)
            else:
                delta = attacks.freelb(*args, radius, spec, rngs, points.get(tuple(chunk)))
            points[tuple(chunk)] = delta
            encoder.train(was_training)
        size = attacks.size(delta, "token")[..., 0] / tools.unit  # (b, T)
        tools.done.update({"norm": float(size.sum()), "tokens": int(mask.sum())})
        return words + delta  # (b, T, D)

    return [perturb] * (method.steps if method.how == "freelb" and method.name == "adv" else 1)


def perturbed(encoder, texts: dict, method: Method, tools: Perturber, step: int, losses) -> list:
    """A batch under one method -> [(q', p'), ...]; p' is None unless both towers are perturbed.

    losses[kind](v, chunk) -> (b,): what these rows lose when they pick from the other tower.
    """
    # Derived, not carried on: resuming needs no state, and batches are not disturbed
    rng, found = xlt.generator(tools.seed, "noise", method.name, step), []
    for kind in losses:
        mine, hooks = texts[kind], [None]
        if method.name in SOURCES:
            mine = edit(mine, method, tools, rng)
        else:
            hooks = noise(encoder, method, tools, rng, losses[kind])
        rows = encoder.tokenize(mine, kind)
        found.append([encoder(rows, perturb=hook) for hook in hooks])  # (B, D) each
    return list(zip(*found, strict=True)) if len(losses) > 1 else [(q, None) for q in found[0]]


def self_teaching(q2, p2, q, p, tau: float, mask=None) -> torch.Tensor:
    """KL from the perturbed scores to the clean ones, which get no gradient: mean over queries.

        KL(P' | P) = sum_j P'_j (log P'_j - log P_j),   P' = softmax(q2 @ p2.T / tau)

    *Shapes*: q2, p2 perturbed, q, p clean (B, D); mask (B, B) of false negatives -> scalar >= 0.
    *Source*: Zhuang & Zuccon 2022, over the passages of the batch.
    """
    student, teacher = q2.float() @ p2.float().T / tau, (q.float() @ p.float().T / tau).detach()
    if mask is not None:  # SUBTLE: not -inf, whose difference is NaN; exp(-1e9) is 0 just as well
        student, teacher = student.masked_fill(mask, -1e9), teacher.masked_fill(mask, -1e9)
    student, teacher = student.log_softmax(1), teacher.log_softmax(1)  # (B, B)
    return (student.exp() * (student - teacher)).sum(1).mean()  # (B, B) -> (B,) -> ()


# ---- training ------------------------------------------------------------------------------------


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: linear up over `warmup` steps, linear down to 0."""
    return min((step + 1) / max(1, warmup), (steps - step) / max(1, steps - warmup), 1.0)


def row_loss(v, chunk, others, tau: float, mask=None) -> torch.Tensor:
    """InfoNCE of some rows of the batch, one by one: what worst-case noise on them raises.

    *Shapes*: v (b, D), chunk its b rows of the batch, others (B, D), mask (B, B) -> (b,).
    """
    scores = v @ others.detach().T / tau  # (b, D) @ (D, B) -> (b, B)
    if mask is not None:
        scores = scores.masked_fill(mask[chunk], -math.inf)
    return F.cross_entropy(scores, torch.tensor(chunk, device=v.device), reduction="none")


def batch_losses(
    encoder: Encoder, data, batch, flags: dict, tools: Perturber, step: int = 0
) -> tuple[dict, torch.Tensor]:
    """One batch -> (losses by name, mask of false negatives). The formula of this file.

        loss = (1 - sum_m w_m) InfoNCE(q, p) + sum_m [ w_m InfoNCE(q_m, p_m) + c KL(q_m | q) ]

    m runs over the perturbations; plain training has none. What nobody needs is not computed.
    """
    tau, methods, c = flags["tau"], tools.active, tools.consistency
    share = 1.0 - sum(m.weight for m in methods)
    clean = share > 1e-9 or c or any((m.name, m.perturb) == ("adv", "both") for m in methods)
    texts = {"query": [data.queries[i] for i in batch.queries]}
    texts["passage"] = [data.passages[i] for i in batch.passages]
    mask = false_negatives(batch.gold, batch.group).to(encoder.device)  # (B, B)
    used = None if flags["keep_false_negatives"] else mask
    # Scores and losses in fp32, whatever the precision of the forward pass
    exact = torch.autocast(encoder.device.type, enabled=False)
    nce = exact(partial(info_nce, tau=tau, mask=used, symmetric=flags["symmetric"]))
    with torch.autocast(encoder.device.type, torch.bfloat16, enabled=flags["precision"] == "bf16"):
        found, q, p = {"loss": 0.0}, None, None
        if clean or any(m.perturb == "query" for m in methods):
            p = encoder(encoder.tokenize(texts["passage"], "passage"))  # (B, D)
        if clean:
            q = encoder(encoder.tokenize(texts["query"], "query"))  # (B, D)
            found["clean"] = nce(q, p)
            found["loss"] = share * found["clean"]
        # CHANGED vs plain training: each perturbation has queries (or both towers) of its own
        for m in methods:
            losses = {"query": exact(partial(row_loss, others=p, tau=tau, mask=used))}
            if m.perturb == "both":
                back = used if used is None else used.T
                losses["passage"] = exact(partial(row_loss, others=q, tau=tau, mask=back))
            points = perturbed(encoder, texts, m, tools, step, losses)  # freelb: several, the mean
            points = [(a, p if b is None else b) for a, b in points]
            worse = sum(nce(a, b) for a, b in points) / len(points)
            found["loss"] = found["loss"] + m.weight * worse
            found["perturbed"] = found.get("perturbed", 0.0) + worse.detach() / len(methods)
            if c:
                kl = exact(partial(self_teaching, q=q, p=p, tau=tau, mask=used))
                gap = sum(kl(a, b) for a, b in points) / len(points)
                found["loss"] = found["loss"] + c * gap
                found["consistency"] = found.get("consistency", 0.0) + gap.detach() / len(methods)
    return found, mask


def log_line(found: dict, tools: Perturber) -> dict:
    """What robust training adds to a line of the log; counts since the last one are cleared.

    *Units*: edited: share of the texts that really changed; edits: words a text; norm: of the noise
    on a token, in mean norms of a word embedding.
    """
    losses = ("clean", "perturbed", "consistency")
    line = {k: round(float(found[k]), 4) for k in losses if k in found}
    done = tools.done
    if done["texts"]:
        line |= {k: round(done[k] / done["texts"], 3) for k in ("edited", "edits")}
    if done["tokens"]:
        line["norm"] = round(done["norm"] / done["tokens"], 4)
    done.clear()
    return line


def count_batch(counts: Counter, batch, mask: torch.Tensor, data) -> None:
    """Add one batch to the counts: rows by language pair, batches by kind, rows that are masked."""
    rows = zip(batch.queries, batch.passages, strict=True)
    counts.update(f"{data.queries[a].lang}>{data.passages[b].lang}" for a, b in rows)
    counts.update({f"{batch.kind} batches": 1, "rows": len(batch.queries)})
    counts.update({"masked rows": int(mask.any(1).sum())})


def report(log, name: str, steps: int, line: dict) -> None:
    """One line of the log: as JSON into the file, aligned on the screen, the same values."""
    log.write(json.dumps(line) + "\n")
    log.flush()
    eta = line["seconds"] / line["step"] * (steps - line["step"])
    tqdm.write(
        f"{name} step {line['step']:5d}/{steps}  loss {line['loss']:7.4f}  {line['kind']:5}  "
        f"grad {line['grad_norm']:6.2f}  lr {line['lr']:.1e}  {line['seconds']:5.0f} s  "
        f"ETA {eta:4.0f} s" + "".join(f"  {k} {line[k]:g}" for k in ROBUST_KEYS if k in line),
        file=sys.stderr,
    )


def train(
    encoder: Encoder, data: xlt.DataSet, plan, flags: dict, folder: Path, args, tools: Perturber
) -> dict:
    """Run the training loop; return counts. Checkpoints go to ckpt/, lines to log.jsonl.

    *Errors*: FloatingPointError for a loss that is not finite; the last checkpoint stays.
    """
    steps, warmup = flags["steps"], round(flags["warmup"] * flags["steps"])
    how = {"lr": flags["lr"], "weight_decay": flags["weight_decay"]}
    optimizer = torch.optim.AdamW(encoder.parameters(), **how)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, warmup))
    torch.manual_seed(xlt.derive_seed(flags["seed"], "dropout"))
    modules = {"model": encoder, "optimizer": optimizer, "schedule": schedule}
    state = load_checkpoint(folder / "ckpt", modules)
    encoder.truncated, encoder.seen = state["truncated"], state["seen"]
    tools.done, tools.total = state["done"], state["total"]
    encoder.train()
    start = time.time() - state["seconds"]
    show = {"desc": folder.name, "disable": None, "leave": False}  # a bar on a terminal only
    with (
        open(folder / "log.jsonl", "a", encoding="utf-8") as log,
        tqdm(total=steps, initial=state["step"], **show) as bar,
    ):
        log.truncate(state["logged"])  # lines after the checkpoint will be written again
        log.seek(0, os.SEEK_END)
        for step, batch in enumerate(plan, 1):
            if step <= state["step"]:
                continue  # replay: which batch comes when is a function of the seed alone
            logged = step % args.log_every == 0 or step == steps
            found, mask = batch_losses(encoder, data, batch, flags, tools, step)
            loss = found["loss"]
            loss.backward()
            value = loss.item()  # waits for a GPU
            norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), flags["clip"])
            if not (loss.isfinite() and norm.isfinite()):
                raise FloatingPointError(
                    f"{folder}: the loss is {value}, its gradient {norm.item()}, at step "
                    f"{step}. The last checkpoint stays; try an --lr below {flags['lr']:g}."
                )
            line = {"step": step, "loss": round(value, 4), "kind": batch.kind}
            line |= {"grad_norm": round(norm.item(), 3), "lr": schedule.get_last_lr()[0]}
            if logged and tools.methods:
                line |= log_line(found, tools)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            count_batch(state["counts"], batch, mask, data)
            bar.update()
            if logged:
                report(log, folder.name, steps, line | {"seconds": round(time.time() - start, 1)})
            if step % args.save_every == 0 and step < steps:
                state |= {"step": step, "logged": log.tell(), "seconds": time.time() - start}
                save_checkpoint(folder / "ckpt", modules, state)
    made = {"seconds_training": round(time.time() - start, 1)}
    if tools.methods:
        rates = {k[6:]: tools.total[f"edited {k[6:]}"] / n for k, n in tools.total.items()
                 if k.startswith("texts ")}  # fmt: skip
        made["edit_rate"] = {lang: round(rates[lang], 3) for lang in sorted(rates)}
    return made | {"counts": dict(sorted(state["counts"].items()))}


# ---- one run, all runs ---------------------------------------------------------------------------


def commit() -> str:
    """The commit of this code, or "unknown" outside a checkout."""
    found = subprocess.run(
        ["git", "-C", HERE, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def run(flags: dict, args: argparse.Namespace, data, eval_data) -> dict:
    """Train one run unless it is complete, evaluate what is missing; return its metrics.json."""
    name = f"{recipe(flags)}-seed{flags['seed']}" + ("-smoke" if args.smoke else "")
    folder = args.out / name
    keys = ("pooling", "query_length", "passage_length", "context")
    changes = {k: flags[k] for k in keys if flags[k] is not None}
    encoder = xlt.load_encoder(flags["model"], flags["device"], **changes)
    manifest = {"flags": flags, "recipe": recipe(flags), "complete": False, "commit": commit()}
    manifest |= {"data_sha256": data.sha256, "eval_data_sha256": eval_data.sha256}
    manifest |= {"init_sha256": xlt.weights_hash(encoder), "versions": xlt.versions()}
    state = prepare_folder(folder, manifest, args)
    if state == "done":
        print(f"{folder}: complete, skipped (--overwrite starts over)", file=sys.stderr)
    else:
        fit(folder, state, manifest, encoder, data, args)
    how = evaluate.parse([str(folder), "--data", str(eval_data.folder)])
    how.split, how.langs, how.device = flags["eval_split"], flags["test_langs"], flags["device"]
    how.attacks, how.attack_views, how.lir = args.attacks, args.attack_views, args.lir
    how.limit = 12 if args.smoke else 0
    return evaluate.evaluate_path(folder, eval_data, how)


def fit(folder: Path, state: str, manifest: dict, encoder: Encoder, data, args) -> None:
    """Train one run from the start or from its checkpoint; leave model/ and a complete run.json."""
    flags = manifest["flags"]
    pairs, tools = Pairs(data, flags["train_langs"]), make_perturber(flags, data, encoder)
    plan = batches(pairs, *(flags[k] for k in ("batching", "batch_size", "steps")),
                   flags["alpha"] or 0.0, flags["seed"])  # fmt: skip
    manifest |= {"derived": derive(flags, pairs, encoder), "settings": vars(encoder.settings)}
    manifest |= {"threads": torch.get_num_threads()}
    if state == "new":
        shutil.rmtree(folder, ignore_errors=True)
        xlt.write_json(folder / "run.json", manifest)
    print(json.dumps({folder.name: manifest}, default=str), file=sys.stderr)
    manifest |= train(encoder, data, plan, flags, folder, args, tools)
    counts = manifest["counts"]
    manifest["false_negative_rate"] = round(counts["masked rows"] / counts["rows"], 4)
    manifest["truncated"] = xlt.cut_texts(encoder)
    xlt.save_encoder(encoder, folder / "model")
    manifest["complete"] = True
    xlt.write_json(folder / "run.json", manifest)
    shutil.rmtree(folder / "ckpt", ignore_errors=True)  # the run is complete: nothing to resume
    print(
        f"{folder.name}: {manifest['seconds_training']} s training, "
        f"{100 * manifest['false_negative_rate']:.1f} % of the rows held a false negative",
        file=sys.stderr,
    )


def main(argv=None) -> int:
    """Run everything that the flags ask for, print one table.

    Exit 0 done, 1 failed, 2 wrong usage.
    """
    args = parse(argv)
    try:
        runs = single_runs(args)
        for text in set(args.attacks or ()) - {"clean"}:
            attacks.parse_attack(text)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: loading {args.data}",
        file=sys.stderr,
        flush=True,
    )
    try:
        data = xlt.load_data(args.data)
        eval_data = xlt.load_data(args.eval_data) if args.eval_data else data
        for flags in {(f["batching"], f["robust"]): f for f in runs}.values():
            make_perturber(flags, data)  # what a run will miss is said now, not hours later
        Pairs(data, args.train_langs)  # refuses data without training pairs, unknown languages
        found, spent = [], []
        if args.attacks is None:
            known = any((eval_data.folder / "synonyms").glob("*.json"))
            args.attacks = ["clean", *(["random", "greedy:edits=2"] if known else [])]
        how = evaluate.parse(["-", "--attacks", *args.attacks])
        evaluate.make_adversary(how, eval_data, None)  # its tables, too
        for number, flags in enumerate(runs):
            # The last few: what was complete before took no time
            left = statistics.median(spent[-5:] or [0]) * (len(runs) - number)
            eta, start = f"; about {left / 60:.0f} min left" if number else "", time.time()
            print(f"run {number + 1} of {len(runs)}: {recipe(flags)}, seed {flags['seed']}{eta}",
                  file=sys.stderr, flush=True)  # fmt: skip
            found.append(run(flags, args, data, eval_data))
            spent.append(time.time() - start)
        print(evaluate.table(found))
        study.conclude(found, None)
    except (ValueError, FloatingPointError, OSError, RuntimeError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    print(f"done: {len(found)} runs in {args.out}, {args.eval_split} of {eval_data.folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("train.py: interrupted. Continue with --resume.", file=sys.stderr)
        sys.exit(130)
