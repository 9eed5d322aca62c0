"""Fine-tune an encoder for cross-lingual retrieval: flags -> runs/NAME, and a table over all runs.

    views    what a batch has to be encoded as: its passages, its queries, and for each --robust
             method m its perturbed queries (edited texts, or noise on their word embeddings)
    vectors  q, p, q_m = encode(views)                      (B, D) each, in length-sorted chunks
    losses   (1 - sum w_m) InfoNCE(q, p) + sum [ w_m InfoNCE(q_m, p) + c KL(scores of q_m | of q) ]
    backward to the vectors, then chunk by chunk to the weights; each chunk may be encoded again for
             that (--chunk-size), or by another process (torchrun)
    clip, AdamW                                             linear warm-up and decay

Where to look next: `training_step` is all but the last line above, `training_loop` the last;
`edit_text`, `random_noise` and `worst_noise` are how a query is perturbed. xlt.py holds batches,
encoder and loss, attacks.py the searches and word lists. study.py makes the table that is printed
at the end.
Left out on purpose: a Trainer class, callbacks, experiment trackers, config files, early stopping.
Differs from the papers: the hybrid-batch paper trains 100 pairs a step at 3e-5 on XLM-R; the
bundled encoder is a thousandth of its size, so its learning rate is larger. Robust-XLT perturbs
both inputs of a classifier; here the query is perturbed, as the adversary does (perturb=both).

    python train.py                                         hybrid batches, bundled world, one seed
    python train.py --batching x-y hybrid --seed 0 1 2      six runs, one table with mean and spread
    python train.py --robust none rs-da rs-da+self-teaching adv:how=pgd,epsilon=0.1
    torchrun --nproc-per-node 2 train.py --chunk-size 32    two processes share each batch

Shapes: B pairs of a batch, V views, b texts of a chunk, T tokens (t of one text), D embedding, U
different token ids. A position is a place in the data set's list of queries or of passages; a tower
is "query" or "passage".
"""

import argparse
import io
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path

try:
    import resource
except ImportError:  # Windows does not say how much memory a process has used
    resource = None

if __name__ == "__main__":  # Ctrl-C while torch is imported: an end without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import attacks
import evaluate
import study
import xlt
from attacks import Ball, Climb, setting
from xlt import BATCHINGS, Batch, DataSet, Encoder, Text, TrainingPairs, false_negatives, info_nce

HERE = Path(__file__).parent
# The hybrid-batch paper's training languages; el and vi are never trained on: they are the
# zero-shot test
TRAIN_LANGS = ["en", "ar", "zh", "de", "es", "ru", "th", "tr", "hi"]


# ---- robust methods: what --robust can say -------------------------------------------------------


@dataclass(frozen=True)
class MethodKind:
    """What a method perturbs, and which settings of `Method` it has."""

    source: str  # of its edits, as in attacks.ATTACKS; "embeddings": noise; "": a loss alone
    keys: tuple[str, ...]


WORDS = ("weight", "perturb", "rate", "copies")
METHODS = {
    "rs-rp": MethodKind("embeddings", ("weight", "perturb", "sigma", "noise")),
    "rs-da": MethodKind("synonyms", (*WORDS, "cut")),
    "adv": MethodKind(
        "embeddings",
        ("weight", "perturb", "how", "epsilon", "norm", "ball", "steps", "step_size"),
    ),
    "code-switch": MethodKind("dictionary", (*WORDS, "words")),
    "typos": MethodKind("typos", WORDS),
    "self-teaching": MethodKind("", ("weight",)),
}


@dataclass(frozen=True)
class Method:
    """One perturbation to train on, as text "adv:how=pgd,epsilon=0.05"; papers' values in brackets.

    A setting is a dataclass field that knows its limits. METHODS says which method has which.
    """

    name: str
    # Share of the loss, the rest stays clean (papers: 1); of self-teaching: the KL's factor.
    # Joined methods divide it by their number, unless it is given
    weight: float = setting(0.5, least=0)
    perturb: str = setting("query", choices=("query", "both"))  # towers; Robust-XLT: both
    rate: float = setting(1.0, above=0, most=1)  # share of texts edited (Zhuang & Zuccon: 0.5)
    words: float = setting(0.5, above=0, most=1)  # code-switch: of the words (CoSDA-ML .4 to .9)
    copies: int = setting(0, least=0)  # fixed copies a text (Robust-XLT: 10, 3); 0: drawn anew
    cut: str = setting(
        "words", choices=("words", "blanks")
    )  # rs-da: as `find_slots`, as Robust-XLT
    # sigma and epsilon are in units of the mean L2 norm of the word embeddings in the model
    sigma: float = setting(1.0, above=0)  # rs-rp: norm of the noise on a token
    noise: str = setting("gaussian", choices=("gaussian", "uniform"))  # uniform: in the ball
    how: str = setting("fgm", choices=("fgm", "pgd", "freelb"))  # freelb: trains on all points
    epsilon: float = setting(0.1, above=0)  # adv: radius
    norm: str = setting("l2", choices=("l2", "max"))
    ball: str = setting("token", choices=("token", "sentence"))  # FreeLB, Miyato et al.: sentence
    steps: int = setting(3, least=1)  # of pgd and freelb (FreeLB: 2 to 3)
    step_size: float = setting(0.5, above=0)  # of pgd and freelb, in radii

    @property
    def source(self) -> str:
        return METHODS[self.name].source

    @property
    def n_points(self) -> int:
        """How many perturbations of a text it trains on."""
        if self.name == "adv" and self.how == "freelb":
            return self.steps
        return 1

    @property
    def towers(self) -> tuple[str, ...]:
        if self.perturb == "both":
            return ("query", "passage")
        return ("query",)


@dataclass(frozen=True)
class Robust:
    """All that one --robust asks for: perturbations, and c, the factor of self-teaching's KL."""

    methods: tuple[Method, ...] = ()
    consistency: float = 0.0

    @property
    def clean_share(self) -> float:
        """What the perturbations leave to the clean loss."""
        return 1.0 - sum(method.weight for method in self.methods)

    @property
    def needs_clean_queries(self) -> bool:
        # Worst-case noise on passages follows the gradient of the loss with the clean queries
        climbs = any(m.name == "adv" and m.perturb == "both" for m in self.methods)
        return self.clean_share > 1e-9 or self.consistency > 0 or climbs

    @property
    def needs_clean_passages(self) -> bool:
        return self.needs_clean_queries or any(m.perturb == "query" for m in self.methods)


def parse_robust(text: str) -> Robust:
    """What --robust says, part by part; "none" has no method.

        adv                        weight .5, clean loss .5
        rs-da+typos                weights .25 and .25: the usual .5 over their number
        adv+self-teaching          weight 0, c = .5: clean loss and KL alone, as CharacterBERT-DR
        adv:weight=.3+self-teaching:weight=2      .7 clean, .3 adv, 2 KL

    *Errors*: ValueError for an unknown name or setting and for what cannot be combined.
    """
    if text == "none":
        return Robust()
    where = f"--robust {xlt.one_line(text)}"
    parts = [part.partition(":") for part in text.split("+")]
    names = [name for name, _, _ in parts]
    for name in names:
        if name not in METHODS:
            options = ", ".join(METHODS)
            raise ValueError(f"{where}: {xlt.quoted(name)} is unknown. Take none or of {options}.")
    if len(set(names)) < len(names) or names == ["self-teaching"]:
        example = "rs-da+self-teaching"
        raise ValueError(
            f"{where}: join different methods, one of them a perturbation, e.g. {example}."
        )
    teaching = "self-teaching" in names
    methods, consistency = [], 0.0
    for name, _, settings in parts:
        start = Method(name)
        if name == "self-teaching":
            method = attacks.read_settings(start, settings, METHODS[name].keys, where)
            consistency = method.weight
            continue
        if teaching:  # by the KL alone
            start = replace(start, weight=0.0)
        else:
            start = replace(start, weight=start.weight / len(names))
        method = attacks.read_settings(start, settings, METHODS[name].keys, where)
        if method.weight == 0 and not teaching:
            raise ValueError(f"{where}: with weight 0 {name} does nothing. Raise it, or drop it.")
        methods.append(method)
    if teaching and consistency == 0:
        raise ValueError(f"{where}: with weight 0 self-teaching does nothing. Drop it.")
    total = sum(method.weight for method in methods)
    if total > 1 + 1e-9:
        raise ValueError(f"{where}: the weights sum to {total:g}; they are shares of the loss.")
    return Robust(tuple(methods), consistency)


# ---- flags ---------------------------------------------------------------------------------------


# What a run is trained on is known by its hash wherever it lies; the table is no part of training
NOT_TRAINED = ("device", "model", "data", "eval_data", "eval_split", "test_langs")
# In run.json: all that training depends on beside the flags
INPUTS = ("data_sha256", "init_sha256", "tokenizer_sha256", "config_sha256", "settings")


@dataclass(frozen=True)
class RunFlags:
    """The flags of one run, as run.json holds them; what they mean stands in `parse`."""

    model: str
    data: str
    eval_data: str | None
    eval_split: str
    train_langs: list[str]
    test_langs: list[str] | None
    batching: str
    alpha: float | None  # None: matters to hybrid alone
    tau: float
    symmetric: bool
    keep_false_negatives: bool
    robust: str
    batch_size: int
    chunk_size: int
    freeze_words: bool
    steps: int
    lr: float
    weight_decay: float
    warmup: float
    clip: float
    seed: int
    pooling: str | None
    query_length: int | None
    passage_length: int | None
    context: bool | None
    device: str
    precision: str

    @property
    def recipe(self) -> str:
        """A run's name without its seed: hybrid-none, hybrid0.3-adv_epsilon=0.15."""
        return study.recipe_name(self.batching, self.alpha, self.robust)

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.steps)

    @property
    def trained(self) -> dict:
        """The flags that training depends on; data and model are known by their hashes."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_TRAINED}

    def origin(self, inputs: dict) -> dict:
        """What metrics.json says of the run; `variant` is a hash of all else that was trained on.

        train_langs are the languages that the model has seen: en-en has seen English alone, but for
        the words of all training languages that code-switching shows it.
        """
        origin = {name: getattr(self, name) for name in ("batching", "alpha", "robust", "seed")}
        rest = {name: value for name, value in self.trained.items() if name not in origin}
        seen = self.train_langs
        methods = parse_robust(self.robust).methods
        if self.batching == "en-en" and all(m.name != "code-switch" for m in methods):
            seen = ["en"]
        variant = xlt.content_hash([rest, inputs])[:8]
        return {"recipe": self.recipe, **origin, "train_langs": seen, "variant": variant}


def parse(argv=None) -> argparse.Namespace:
    """The flags of train.py; --batching, --alpha, --robust and --seed take several values."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=xlt.Help
    )
    # fmt: off
    add = parser.add_argument_group("model and data").add_argument
    add("--model", default=str(HERE / "data/tiny_xlmr"), help="Hugging Face folder or name")
    add("--data", type=Path, default=HERE / "data/minifacts",
        help="data set folder with qrels/train.tsv (its format: load_data in xlt.py)")
    add("--eval-data", type=Path, help="data set folder of the table (default: --data)")
    add("--eval-split", default="test", choices=["dev", "test"],
        help="split of the table; select on dev, report test")
    add("--strict", action="store_true", help="refuse what is superfluous in data, else left out")
    add("--train-langs", nargs="+", default=TRAIN_LANGS, type=xlt.language_flag, metavar="LANG",
        help="training languages; the hybrid-batch paper's: without el and vi")
    add("--test-langs", nargs="+", type=xlt.language_flag, metavar="LANG",
        help="of the table (default: all)")
    add("--attacks", nargs="+", metavar="NAME[:KEY=VALUE,...]",
        help="of the table (default: random greedy:edits=2, if the data have synonyms/); names "
             "and keys: attacks.py, top")
    add("--attack-views", nargs="+", default=["mono", "pool"], metavar="VIEW",
        choices=evaluate.VIEWS, help="views attacked, of mono, cross, pool")
    add("--lir", nargs="+", type=int, default=[], metavar="R",
        help="also without R main directions of each language (Yang et al. 2021: 1)")
    add("--centre", action="store_true", help="also without the mean vector of each language")

    add = parser.add_argument_group("batches and loss").add_argument
    add("--batching", nargs="+", default=["hybrid"], choices=BATCHINGS, metavar="NAME",
        help=f"languages that meet in a batch: {', '.join(BATCHINGS)} (LAReQA; Elmahdy)")
    add("--alpha", nargs="+", type=float, default=[0.5], metavar="A",
        help="hybrid: share of monolingual batches, 0 to 1 (paper: 0.5)")
    add("--tau", type=float, default=0.05, help="temperature, > 0; divides the cosine")
    add("--symmetric", action="store_true", help="also let each passage pick its query")
    add("--keep-false-negatives", action="store_true", help="do not mask them")

    add = parser.add_argument_group("robust training").add_argument
    add("--robust", nargs="+", default=["none"], metavar="NAME[:KEY=VALUE,...][+NAME]",
        help=f"perturbations to train on: none or of {', '.join(METHODS)}; + joins several in one "
             "run; keys: Method in train.py, e.g. rs-rp:sigma=0.5")

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch-size", type=int, default=100, metavar="B",
        help="pairs a step (paper: 100), B - 1 negatives; accumulation adds none")
    add("--chunk-size", type=int, default=0, metavar="C",
        help="texts in memory at once, of 64 tokens each (longer ones: fewer): the same gradient, "
             "half as slow again (GradCache); 0: all")
    add("--freeze-words", action="store_true",
        help="do not train the word embeddings, most of a small multilingual model's weights")
    add("--steps", type=int, default=150, metavar="N", help="optimiser steps")
    add("--lr", type=float, default=1e-3, help="peak, of AdamW (paper, XLM-R: 3e-5)")
    add("--weight-decay", type=float, default=1e-2, help="AdamW's (paper: 1e-2)")
    add("--warmup", type=float, default=0.1, help="share of steps, from 0 to below 1")
    add("--clip", type=float, default=1.0, help="largest L2 norm of the gradient")
    add("--seed", nargs="+", type=int, default=[0], metavar="S",
        help="of order, languages, noise and dropout")

    add = parser.add_argument_group("encoder").add_argument
    add("--pooling", choices=["mean", "cls"], help="default: as saved, else mean")
    add("--query-length", type=int, help="tokens (default: as saved, else 96; XTREME)")
    add("--passage-length", type=int, help="tokens (default: as saved, else 256; XTREME)")
    add("--context", action="store_true", default=None,
        help="encode passages with their paragraph, as LAReQA")

    add = parser.add_argument_group("machine and files").add_argument
    add("--device", default="auto", help="torch device; auto: cuda if there is one")
    add("--precision", choices=["fp32", "bf16"], default="fp32",
        help="of the forward pass in training; weights, loss and AdamW are fp32. bf16 is faster "
            "where the device has instructions for it, else slower")
    add("--out", type=xlt.output_folder, default=Path("runs"), help="folder of the runs' folders")
    add("--save-every", type=int, default=50, help="steps between checkpoints")
    add("--log-every", type=int, default=25, help="steps between lines of the log")
    add("--resume", action="store_true", help="continue interrupted runs, bit for bit")
    add("--overwrite", action="store_true", help="start over, also complete runs")
    add("--smoke", action="store_true",
        help="one seed, four small steps, 12 questions, two languages: does it work?")
    # fmt: on
    args = parser.parse_args(argv)
    for name in ("steps", "batch_size", "lr", "tau", "clip", "save_every", "log_every"):
        if not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    if args.chunk_size < 0:
        parser.error(f"--chunk-size {args.chunk_size}: must be at least 1, or 0 for all texts")
    if not 0 <= args.weight_decay < math.inf:
        parser.error(f"--weight-decay {args.weight_decay}: must be at least 0")
    for flag in ("train_langs", "test_langs", "attack_views"):
        xlt.refuse_twice(parser, flag, getattr(args, flag))
    if not 0 <= args.warmup < 1:
        parser.error(f"--warmup {args.warmup}: a share of the steps, from 0 to below 1")
    for name in ("query_length", "passage_length"):
        if getattr(args, name) is not None and getattr(args, name) < 2:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: at least 2 tokens")
    for r in args.lir:
        if r < 1:
            parser.error("--lir: the number of directions taken out is at least 1")
    for alpha in args.alpha:
        if not 0 <= alpha <= 1:
            parser.error(f"--alpha {alpha}: the share of monolingual batches is from 0 to 1")
    return args


def single_runs(args: argparse.Namespace) -> list[RunFlags]:
    """The product of --batching, --alpha, --robust and --seed: the flags of each run.

    Alpha matters to hybrid alone, so x-y with two alphas is one run.
    *Errors*: ValueError for an unknown or impossible --robust.
    """
    for text in args.robust:
        parse_robust(text)
    # For now with the lists of --batching, --alpha, --robust and --seed
    common = {flag.name: getattr(args, flag.name) for flag in fields(RunFlags)}
    common["device"] = evaluate.pick_device(args.device)
    for name in ("model", "data", "eval_data"):
        if common[name] is not None and Path(common[name]).exists():  # else a name on the hub
            common[name] = str(Path(common[name]).resolve())
    seeds = args.seed
    if args.smoke:
        seeds = args.seed[:1]
        common |= {"steps": min(args.steps, 4), "batch_size": min(args.batch_size, 8)}
        if args.test_langs is None:
            common["test_langs"] = args.train_langs[:2]
    runs = []
    # Seeds outermost: whenever one stops, all recipes have about as many of them
    for seed, batching, alpha, robust in itertools.product(
        seeds, args.batching, args.alpha, args.robust
    ):
        if batching != "hybrid":
            alpha = None
        several = {"seed": seed, "batching": batching, "alpha": alpha, "robust": robust}
        flags = RunFlags(**(common | several))
        if flags not in runs:
            runs.append(flags)
    return runs


def derive(flags, pairs, encoder):
    """Everything that follows from the flags and the data, for run.json."""
    langs, robust = flags.train_langs, parse_robust(flags.robust)
    if flags.batching == "en-en":
        langs = ["en"]
    # Questions that are asked in one of these languages
    groups = sum(not queries.keys().isdisjoint(langs) for queries in pairs.queries.values())
    return {
        "groups": groups,
        "warmup_steps": flags.warmup_steps,
        "epochs": round(flags.steps * flags.batch_size / groups, 2),
        # The same in all runs that are compared, or the optimiser is what is measured: with this
        # ratio constant, robustness stays almost constant (arXiv 2006.11604)
        "lr_per_pair": flags.lr / flags.batch_size,
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
        "robust": [asdict(method) for method in robust.methods],
        "self_teaching": robust.consistency,
        "embedding_norm": round(attacks.mean_norm(encoder), 4),  # the unit of sigma and epsilon
    }


# ---- how a text is perturbed ---------------------------------------------------------------------
# What is drawn for a text depends on (seed, method, step, tower, text id) alone: not on its place
# in the batch, in a chunk or on a machine.


@dataclass
class EditCounts:
    """What the perturbations did; the first five since the last line of the log."""

    texts: int = 0
    edited: int = 0  # texts that really changed
    edits: int = 0  # words
    tokens: int = 0  # with noise
    norm: float = 0.0  # sum of the norms of their noise, in mean norms of a word embedding
    # Of the whole run: language -> texts, language -> texts that really changed
    texts_of: dict[str, int] = field(default_factory=dict)
    edited_of: dict[str, int] = field(default_factory=dict)

    def add_text(self, lang, changed, edits):
        self.texts += 1
        self.edited += changed
        self.edits += edits
        self.texts_of[lang] = self.texts_of.get(lang, 0) + 1
        self.edited_of[lang] = self.edited_of.get(lang, 0) + changed

    def start_line(self):
        self.texts, self.edited, self.edits, self.tokens, self.norm = 0, 0, 0, 0, 0.0


@dataclass
class Perturber:
    """What the perturbations of one run need."""

    robust: Robust
    seed: int
    data: DataSet
    unit: float  # mean norm of a word embedding before training
    tables: dict[str, dict] = field(default_factory=dict)  # source -> lang -> word -> replacements
    answers: dict[int, set[str]] = field(default_factory=dict)  # passage -> its queries' answers
    # (source, cut, tower, position) -> where this text may be edited
    slot_cache: dict[tuple, list] = field(default_factory=dict)
    counts: EditCounts = field(default_factory=EditCounts)

    def text(self, tower, position):
        if tower == "query":
            return self.data.queries[position]
        return self.data.passages[position]

    def rng(self, method, step, tower, position):
        text_id = self.text(tower, position).id
        return xlt.generator(self.seed, "perturb", method.name, step, tower, text_id)

    def slots(self, source, tower, position, cut="words"):
        """Where a text may be edited (spans for typos, else slots); looked up once."""
        key = source, cut, tower, position
        if key not in self.slot_cache:
            text = self.text(tower, position)
            table = self.tables.get(source, {}).get(text.lang, {})
            answers = {text.answer}
            if tower == "passage":
                answers = self.answers.get(position, set())
            fixed = set()
            for answer in sorted(answers):
                fixed |= attacks.answer_words(answer, table, text.lang)
            if source == "typos":
                self.slot_cache[key] = attacks.typo_places(text.text, text.lang, fixed)
            elif cut == "blanks":
                self.slot_cache[key] = attacks.blank_slots(text.text, table)
            else:
                self.slot_cache[key] = attacks.find_slots(text.text, table, text.lang, fixed)
        return self.slot_cache[key]


def make_perturber(flags: RunFlags, data: DataSet, encoder: Encoder | None = None) -> Perturber:
    """Open the tables that --robust needs; without encoder only to see whether all is there.

    Code-switching draws words of the training languages alone, or el and vi were no zero-shot test.
    *Errors*: ValueError for a missing table, or where no training text has a replaceable word.
    """
    unit = 1.0
    if encoder is not None:
        unit = attacks.mean_norm(encoder)
    perturber = Perturber(parse_robust(flags.robust), flags.seed, data, unit)
    sources = {method.source for method in perturber.robust.methods} - {"embeddings"}
    if "synonyms" in sources:
        perturber.tables["synonyms"] = attacks.read_synonyms(data.folder)
    if "dictionary" in sources:
        path = data.folder / "dictionary.tsv"
        perturber.tables["dictionary"] = attacks.read_dictionary(path, flags.train_langs)
    langs = flags.train_langs
    if flags.batching == "en-en":
        langs = ["en"]
    queries = []  # positions of training queries in these languages
    for position, relevant in data.qrels["train"].items():
        query = data.queries[position]
        if query.lang in langs:
            queries.append(position)
        for passage in relevant:
            if query.answer and data.passages[passage].lang == query.lang:
                perturber.answers.setdefault(passage, set()).add(query.answer)
    for method in perturber.robust.methods:
        if method.source == "embeddings":
            continue
        source, cut = method.source, method.cut
        if not any(perturber.slots(source, "query", position, cut) for position in queries):
            raise ValueError(
                f"--robust {flags.robust}: no training query in {langs} has a word that {source} "
                f"could replace. Add words to {data.folder}'s synonyms/ or dictionary.tsv."
            )
    return perturber


def draw_edits(text, slots, method, rng):
    """The edits of one text to train on: (start, end) -> replacement.

    rs-da          every word uniformly from itself and its replacements (Robust-XLT)
    code-switch    every word with probability `words`, any of its translations (CoSDA-ML)
    typos          one word, one edit (Zhuang & Zuccon 2021)
    """
    if method.name == "typos":
        start, end = xlt.choose(slots, rng)
        return {(start, end): attacks.typo(text[start:end], rng)}
    if method.name == "code-switch":
        return attacks.draw_translations(slots, method.words, rng)
    return attacks.draw_freely(slots, rng)


def edit_text(perturber: Perturber, method: Method, step: int, tower: str, position: int) -> Text:
    """A text with its edits of this step; counted."""
    text = perturber.text(tower, position)
    slots = perturber.slots(method.source, tower, position, method.cut)
    rng = perturber.rng(method, step, tower, position)
    chosen = float(torch.rand((), generator=rng)) < method.rate
    edit_rng = rng
    if method.copies:  # Robust-XLT: one of a few copies that are always the same
        # Not of the tower: of a pair with one id the k-th copies come together
        number_rng = xlt.generator(perturber.seed, "copy", method.name, step, text.id)
        copy = int(torch.randint(method.copies, (), generator=number_rng))
        edit_rng = xlt.generator(perturber.seed, "copy", method.name, tower, text.id, copy)
    edits = {}
    if chosen and slots:
        edits = draw_edits(text.text, slots, method, edit_rng)
    edited = attacks.substitute(text.text, edits)
    perturber.counts.add_text(text.lang, edited != text.text, len(edits))
    return replace(text, text=edited)


@dataclass(frozen=True)
class RowLoss:
    """InfoNCE of some rows of the batch, one by one: the objective that `worst_noise` maximises.

    (Each row picks from the other tower; with --symmetric the loss has the other direction, too.)
    """

    others: Tensor  # (B, D) the step's clean vectors of the other tower, without gradient
    tau: float
    mask: Tensor | None  # (B, B), True where the other tower's row is a false negative

    def __call__(self, v: Tensor, rows: list[int]) -> Tensor:
        """v (b, D), which are `rows` of the batch -> losses (b,)."""
        scores = v @ self.others.T / self.tau  # (b, D) @ (D, B) -> (b, B)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask[rows], -math.inf)  # (B, B) -> (b, B)
        return F.cross_entropy(scores, torch.tensor(rows, device=v.device), reduction="none")


def random_noise(encoder, token_rows, method, unit, rngs):
    """rs-rp: random noise on every word of every text.

    *Shapes*: one generator a text -> one (t, D) tensor a text. *Units*: unit: mean norm of a word.
    """
    noise = [None] * len(token_rows)
    for chunk in attacks.embedding_chunks(encoder, token_rows):
        dim, chunk_rngs = chunk.embeddings.shape[-1], [rngs[row] for row in chunk.rows]
        radius = method.sigma * unit
        delta = attacks.random_noise(chunk.places, dim, chunk_rngs, radius, method.noise)
        for row, of_text in zip(chunk.rows, delta, strict=True):
            noise[row] = of_text[: len(token_rows[row]["input_ids"])]  # (T, D) -> (t, D)
    return noise


def worst_noise(
    encoder: Encoder, token_rows: list, method: Method, unit: float, row_loss: RowLoss, rngs: list,
    batch_rows: list[int],
) -> list[list[Tensor]]:  # fmt: skip
    """adv: the noise in a ball that raises each text's loss the most.

    The search runs in eval mode, so that it draws no dropout, and with respect to the noise alone.
    *Shapes*: batch_rows: each text's row in the batch -> the points, one of fgm and pgd, `steps` of
    freelb (a random start, then steps - 1 moves uphill); a point is one (t, D) tensor a text.
    """
    ball = Ball(method.epsilon * unit, method.norm, method.ball)
    if method.norm == "max":
        # A bound for each coordinate, so that a token's L2 norm is at most epsilon
        dim = encoder.word_table.shape[1]
        ball = replace(ball, radius=ball.radius / math.sqrt(dim))
    climb = Climb(method.steps, method.step_size)  # pgd: from fgm's point alone, nothing is drawn
    points = [[None] * len(token_rows) for _ in range(method.n_points)]
    with xlt.eval_mode(encoder):
        for chunk in attacks.embedding_chunks(encoder, token_rows):

            def objective(embeddings, chunk=chunk):  # bound now: the loop moves on
                v = encoder.from_embeddings(embeddings, chunk.batch)  # (b, T, D) -> (b, D)
                return row_loss(v, [batch_rows[row] for row in chunk.rows])

            chunk_rngs = [rngs[row] for row in chunk.rows]
            search = objective, chunk.embeddings, chunk.places, ball
            if method.how == "fgm":
                deltas = [attacks.fgm(*search)]
            elif method.how == "pgd":
                deltas = [attacks.pgd(*search, climb, chunk_rngs)]
            else:
                deltas = attacks.freelb(*search, climb, chunk_rngs)
            for point, delta in zip(points, deltas, strict=True):
                for row, of_text in zip(chunk.rows, delta, strict=True):
                    point[row] = of_text[: len(token_rows[row]["input_ids"])]  # (T, D) -> (t, D)
    return points


# ---- several processes: each encodes its part of a batch, all see all of its vectors -------------
# Every process draws the same batches, edits and noise, and makes the same update: what travels is
# the vectors, so that the loss is over the whole batch, and the gradient of the weights.


def n_processes() -> int:
    """How many torchrun has started; 1 without it."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return 1


def process_number() -> int:
    """Which of them this is; 0 writes and prints."""
    if n_processes() > 1:
        return dist.get_rank()
    return 0


def start_processes(device: str) -> None:
    """Meet the other processes of torchrun, if it has started this one.

    If one dies, torchrun ends them all; nobody waits long for another but while it evaluates.
    *Errors*: ValueError for more processes than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return
    backend = "gloo"
    if device == "cuda":
        backend, gpus = "nccl", torch.cuda.device_count()
        here = int(os.environ["LOCAL_WORLD_SIZE"])  # processes on this machine
        if here > gpus:  # all of them find it: the first one has to say it
            remedy = f"Take --nproc-per-node {gpus}, or --device cpu."
            raise ValueError(f"torchrun: {here} processes on this machine, {gpus} GPUs. {remedy}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=timedelta(days=7))


def sum_over_processes(tensor: Tensor) -> None:
    """Replace a tensor by its sum over all processes."""
    if n_processes() > 1:
        dist.all_reduce(tensor)


def from_first_process(value):
    """The first process's value, in all of them; waits for it."""
    values = [value]
    if n_processes() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def sum_gradients(encoder: Encoder, ids: Tensor) -> None:
    """Add up the gradients of all processes, in one message.

    Of the word embeddings, most of the weights, only the rows of the step's token ids travel.
    *Shapes*: ids (U,), each once, the same in all processes.
    """
    if n_processes() == 1:
        return
    weights = [weight for weight in encoder.parameters() if weight.requires_grad]
    words = encoder.word_table
    parts = []  # one a weight
    for weight in weights:
        grad = weight.grad
        if grad is None:  # of a process that has had no text
            grad = torch.zeros_like(weight)
        parts.append(grad[ids] if weight is words else grad)
    flat = torch.cat([part.flatten() for part in parts])
    sum_over_processes(flat)
    sums = flat.split([part.numel() for part in parts])
    for weight, part, total in zip(weights, parts, sums, strict=True):
        if weight is words:
            weight.grad[ids] = total.view_as(part)
        elif weight.grad is not None or total.any():  # else a weight that nothing uses
            weight.grad = total.view_as(part).clone()


# ---- what a step encodes: views, cut into chunks, shared among processes -------------------------


@dataclass
class View:
    """What one forward pass encodes: the texts of one tower, clean or under one method.

    (Not one of evaluate.py's views, which are sets of candidates.)
    """

    tower: str  # "query" or "passage"
    rows: list[dict]  # B token rows
    # B tensors (t, D), added to the word embeddings; None where another process encodes the text
    noise: list[Tensor | None] | None = None
    method: Method | None = None  # None: clean
    point: int = 0  # which one of the method's points
    points: int = 1  # how many it has: several of FreeLB


@dataclass(frozen=True)
class PlannedChunk:
    """Texts of similar length, of all views, that are encoded together."""

    places: list[int]  # number of the view * B + row of the batch
    seed: int  # of its dropout
    tokens: int  # with padding


@dataclass
class Encoded:
    """Some views' vectors, on their way from the encoder to the loss and back."""

    views: list[View]
    chunks: list[PlannedChunk]  # of this process
    outputs: list[Tensor]  # (b, D), a chunk, with its graph; none if chunks are encoded twice
    vectors: Tensor  # (V * B, D), of all processes, a leaf of the graph

    def by_view(self) -> list[Tensor]:
        """V times (B, D)."""
        if not self.views:
            return []
        return list(self.vectors.chunk(len(self.views)))


def plan_chunks(encoder: Encoder, views: list[View], seed: int, *stream) -> list[PlannedChunk]:
    """Cut the texts of all views into chunks, the same ones in every process."""
    rows = [row for view in views for row in view.rows]  # V * B
    lengths = [len(row["input_ids"]) for row in rows]
    most = 8192
    if n_processes() > 1:  # some for each, or they could not have about as much to do
        most = min(most, math.ceil(sum(lengths) / (4 * n_processes())))
    chunks = []
    for number, places in enumerate(encoder.chunks(rows, most)):
        tokens = len(places) * max(lengths[place] for place in places)
        chunk_seed = xlt.derive_seed(seed, "dropout", *stream, number)
        chunks.append(PlannedChunk(places, chunk_seed, tokens))
    return chunks


def own_chunks(chunks: list[PlannedChunk]) -> list[PlannedChunk]:
    """This process's chunks: the largest go first, each to the one that has least to do."""
    loads = [0] * n_processes()
    own = []
    for chunk in sorted(chunks, key=lambda chunk: -chunk.tokens):
        process = loads.index(min(loads))
        loads[process] += chunk.tokens
        if process == process_number():
            own.append(chunk)
    return own


# ---- gradient caching: a batch of any size in the memory of a chunk ------------------------------
#
#     vectors = encode(chunks)                  without graph, or with it if nothing is cached
#     loss(vectors).backward()                  -> d loss / d vectors, (B, D): small
#     for each chunk: encode it with graph, vectors_of_chunk.backward(d loss / d vectors_of_chunk)
#
# The chain rule: the loss depends on a weight through the vectors alone. A chunk's dropout has a
# seed of its own, so that the second encoding is the first one again. (Gao et al. 2021, GradCache)


def encode_planned(encoder: Encoder, views: list[View], chunk: PlannedChunk) -> Tensor:
    """The vectors (b, D) of one chunk's texts: the same ones however often it is called."""
    batch_size = len(views[0].rows)
    rows, noise = [], []
    for place in chunk.places:
        view, row = views[place // batch_size], place % batch_size
        rows.append(view.rows[row])
        noise.append(view.noise[row] if view.noise else None)
    torch.manual_seed(chunk.seed)
    if all(of_text is None for of_text in noise):
        return encoder.encode_chunk(rows)
    dim = encoder.word_table.shape[1]
    for i, row in enumerate(rows):
        if noise[i] is None:  # a clean text beside noisy ones
            noise[i] = torch.zeros(len(row["input_ids"]), dim, device=encoder.device)
    return encoder.encode_chunk(rows, noise)


def encode_views(encoder: Encoder, views: list[View], chunks: list[PlannedChunk]) -> Encoded:
    """Encode this process's chunks, gather the vectors of all."""
    outputs = []
    with torch.set_grad_enabled(encoder.chunk_size == 0):
        for chunk in chunks:
            outputs.append(encode_planned(encoder, views, chunk))  # (b, D)
    size = encoder.model.config.hidden_size
    vectors = torch.zeros(sum(len(view.rows) for view in views), size, device=encoder.device)
    for chunk, output in zip(chunks, outputs, strict=True):
        vectors[chunk.places] = output.detach()
    sum_over_processes(vectors)  # zeros of the others and the rows of one
    if encoder.chunk_size:
        outputs = []
    return Encoded(views, chunks, outputs, vectors.requires_grad_())


def backward_views(encoder: Encoder, encoded: Encoded) -> None:
    """From the gradient of the vectors to that of the weights, chunk by chunk."""
    for number, chunk in enumerate(encoded.chunks):
        if encoded.outputs:
            output = encoded.outputs[number]
        else:
            output = encode_planned(encoder, encoded.views, chunk)  # (b, D)
        output.backward(encoded.vectors.grad[chunk.places])


# ---- one training step: views -> vectors -> losses -> backward -----------------------------------


@dataclass
class Losses:
    """The losses of one step, scalars; None: not computed, since no part of the loss needs it."""

    loss: Tensor  # what training goes down
    clean: Tensor | None = None
    perturbed: Tensor | None = None  # mean over methods
    consistency: Tensor | None = None  # mean over methods


def clean_views(encoder, batch, perturber):
    """The passages and queries as they are, as far as a loss or a method looks at them."""
    towers = []
    if perturber.robust.needs_clean_passages:
        towers.append("passage")
    if perturber.robust.needs_clean_queries:
        towers.append("query")
    views = []
    for tower in towers:
        texts = [perturber.text(tower, position) for position in batch.positions(tower)]
        views.append(View(tower, encoder.tokenize(texts, tower)))
    return views


def perturbed_views(encoder, batch, perturber, step):
    """The queries (or both towers) once more for each method; FreeLB's once for each point.

    Edited texts are complete, noise comes with `add_noise`.
    """
    views = []
    for method in perturber.robust.methods:
        for tower in method.towers:
            positions = batch.positions(tower)
            if method.source == "embeddings":
                texts = [perturber.text(tower, i) for i in positions]
            else:
                texts = [edit_text(perturber, method, step, tower, i) for i in positions]
            rows = encoder.tokenize(texts, tower)
            for point in range(method.n_points):
                views.append(View(tower, rows, None, method, point, method.n_points))
    return views


def noise_counts(noise, device="cpu"):
    """How many tokens of some texts have noise, and the sum of its norms. (2,)

    *Shapes*: noise: one (t, D) tensor a text.
    """
    counts = torch.zeros(2, device=device)
    for of_text in noise:
        norms = of_text.norm(dim=1)  # (t, D) -> (t,)
        counts += torch.stack([(norms > 0).sum(), norms.sum()])
    return counts


def add_noise(encoder, batch, perturber, step, row_losses, views, chunks):
    """Find the noise of those texts that this process encodes (in `chunks`), and count it."""
    size = len(batch.queries)
    counts = torch.zeros(2, device=encoder.device)  # tokens with noise, sum of its norms
    places = sorted(place for chunk in chunks for place in chunk.places)
    for method in perturber.robust.methods:
        if method.source != "embeddings":
            continue
        for tower in method.towers:
            numbers = []  # of the method's views of this tower, one a point
            for number, view in enumerate(views):
                if view.method == method and view.tower == tower:
                    numbers.append(number)
            own_places = [place for place in places if place // size in numbers]
            # A text's points are found together, whichever of them this process encodes
            batch_rows = sorted({place % size for place in own_places})
            token_rows = [views[numbers[0]].rows[row] for row in batch_rows]
            positions = batch.positions(tower)
            rngs = [perturber.rng(method, step, tower, positions[row]) for row in batch_rows]
            if method.name == "rs-rp":
                noise_of_points = [random_noise(encoder, token_rows, method, perturber.unit, rngs)]
            else:
                noise_of_points = worst_noise(
                    encoder, token_rows, method, perturber.unit, row_losses[tower], rngs, batch_rows
                )
            for number, noise in zip(numbers, noise_of_points, strict=True):
                views[number].noise = [None] * size
                for row, of_text in zip(batch_rows, noise, strict=True):
                    views[number].noise[row] = of_text
            own_noise = [views[place // size].noise[place % size] for place in own_places]
            counts += noise_counts(own_noise, encoder.device)
    sum_over_processes(counts)
    perturber.counts.tokens += int(counts[0])
    perturber.counts.norm += float(counts[1]) / perturber.unit


def self_teaching(q2: Tensor, p2: Tensor, q: Tensor, p: Tensor, tau: float, mask=None) -> Tensor:
    """KL between perturbed scores (the student) and clean ones (the teacher, without gradient).

        KL(P' | P) = sum_j P'_j (log P'_j - log P_j),   P' = softmax(q2 @ p2.T / tau)

    Mean over queries.

    *Shapes*: q2, p2 perturbed, q, p clean (B, D); mask (B, B) of false negatives -> scalar >= 0.
    *Source*: Zhuang & Zuccon 2022, over the passages of the batch.
    """
    student = q2 @ p2.T / tau  # (B, D) @ (D, B) -> (B, B)
    teacher = (q @ p.T / tau).detach()  # (B, D) @ (D, B) -> (B, B)
    if mask is not None:  # SUBTLE: not -inf, whose difference is NaN; exp(-1e9) is 0 just as well
        student, teacher = student.masked_fill(mask, -1e9), teacher.masked_fill(mask, -1e9)
    student, teacher = student.log_softmax(1), teacher.log_softmax(1)
    return (student.exp() * (student - teacher)).sum(1).mean()  # (B, B) -> (B,) -> ()


def vectors_of(views, vectors, tower, method=None, point=0):
    """The vectors (B, D) of one of the views, or None if it is not among them."""
    for view, v in zip(views, vectors, strict=True):
        if (view.tower, view.method, view.point) == (tower, method, point):
            return v
    return None


def step_losses(
    views: list[View], vectors: list[Tensor], robust: Robust, flags: RunFlags, mask: Tensor | None
) -> Losses:
    """The formula of this file, a pure function of the vectors.

        loss = (1 - sum_m w_m) InfoNCE(q, p)
               + sum_m [ w_m InfoNCE(q_m, p_m) + c KL(scores of q_m, p_m | scores of q, p) ]

    m runs over the perturbations; a method with several points enters by their mean, and p_m is p
    where only the query is perturbed.
    *Shapes*: vectors (B, D), one a view; mask (B, B) of false negatives, or None.
    """
    q, p = vectors_of(views, vectors, "query"), vectors_of(views, vectors, "passage")
    losses = Losses(loss=0.0)
    if q is not None:
        losses.clean = info_nce(q, p, flags.tau, mask, flags.symmetric)
        losses.loss = robust.clean_share * losses.clean
    perturbed, kls = [], []
    for view, q2 in zip(views, vectors, strict=True):
        if view.method is None or view.tower == "passage":
            continue  # perturbed passages come with their queries, just below
        p2 = vectors_of(views, vectors, "passage", view.method, view.point)
        if p2 is None:
            p2 = p
        perturbed.append(info_nce(q2, p2, flags.tau, mask, flags.symmetric) / view.points)
        losses.loss = losses.loss + view.method.weight * perturbed[-1]
        if robust.consistency:
            kls.append(self_teaching(q2, p2, q, p, flags.tau, mask) / view.points)
            losses.loss = losses.loss + robust.consistency * kls[-1]
    if perturbed:
        losses.perturbed = sum(perturbed) / len(robust.methods)
    if kls:
        losses.consistency = sum(kls) / len(robust.methods)
    return losses


def worst_case_losses(views, vectors, tau, mask):
    """tower -> what worst-case noise on it raises: InfoNCE against the other tower's clean vectors.

    *Shapes*: vectors (B, D), one a view; mask (B, B) of queries by passages, or None.
    """
    row_losses = {}
    q, p = vectors_of(views, vectors, "query"), vectors_of(views, vectors, "passage")
    if p is not None:
        row_losses["query"] = RowLoss(p.detach(), tau, mask)
    if q is not None:
        transposed = None if mask is None else mask.T
        row_losses["passage"] = RowLoss(q.detach(), tau, transposed)
    return row_losses


@dataclass
class StepReport:
    """What there is to say about a step."""

    losses: Losses
    wrong_negatives: Tensor  # (B, B), also where --keep-false-negatives does not mask them
    tokens: int  # of all views
    padded_tokens: int  # with padding


def training_step(
    encoder: Encoder, batch: Batch, flags: RunFlags, perturber: Perturber, step: int = 0
) -> StepReport:
    """One batch: views -> vectors -> losses -> gradients, which lie in the weights' .grad."""
    wrong_negatives = false_negatives(batch.gold, batch.passage_group).to(encoder.device)
    mask = wrong_negatives
    if flags.keep_false_negatives:
        mask = None
    views = clean_views(encoder, batch, perturber)
    plan = plan_chunks(encoder, views, flags.seed, step, "clean")
    clean = encode_views(encoder, views, own_chunks(plan))
    # The lines down to the gap are for robust training; without it they run on empty lists.
    # Worst-case noise looks at the clean vectors
    row_losses = worst_case_losses(clean.views, clean.by_view(), flags.tau, mask)
    views = perturbed_views(encoder, batch, perturber, step)
    perturbed_plan = plan_chunks(encoder, views, flags.seed, step, "perturbed")
    own = own_chunks(perturbed_plan)
    add_noise(encoder, batch, perturber, step, row_losses, views, own)
    perturbed = encode_views(encoder, views, own)

    all_views = clean.views + perturbed.views
    vectors = clean.by_view() + perturbed.by_view()
    losses = step_losses(all_views, vectors, perturber.robust, flags, mask)
    losses.loss.backward()  # as far as the vectors
    for encoded in (clean, perturbed):
        backward_views(encoder, encoded)

    lengths = [len(row["input_ids"]) for view in all_views for row in view.rows]
    ids = {number for view in all_views for row in view.rows for number in row["input_ids"]}
    sum_gradients(encoder, torch.tensor(sorted(ids), device=encoder.device))
    padded = sum(chunk.tokens for chunk in plan + perturbed_plan)
    return StepReport(losses, wrong_negatives, sum(lengths), padded)


# ---- one update: clip, AdamW, take the gradients away --------------------------------------------


def make_optimizer(encoder: Encoder, flags: RunFlags) -> torch.optim.Optimizer:
    """AdamW; and how the encoder is trained: chunks, words frozen or not, texts remembered."""
    encoder.chunk_size, encoder.remembered = flags.chunk_size, {}
    words = encoder.model.get_input_embeddings()
    if flags.freeze_words:
        words.weight.requires_grad_(False)
    elif isinstance(words, torch.nn.Embedding):
        # A chunk's gradient holds the rows of its own words, not a quarter of a million
        words.sparse = True
    zero_gradients(encoder)
    return torch.optim.AdamW(
        [weight for weight in encoder.parameters() if weight.requires_grad],
        lr=flags.lr,
        weight_decay=flags.weight_decay,
        fused=True,
    )


def zero_gradients(encoder: Encoder) -> None:
    """No gradients; the word embeddings have zeros, to which `backward` adds the rows of words."""
    words = encoder.word_table
    for weight in encoder.parameters():
        if weight is words and weight.requires_grad and weight.grad is not None:
            weight.grad.zero_()
        elif weight is words and weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
        else:
            weight.grad = None


def update(encoder: Encoder, optimizer: torch.optim.Optimizer, clip: float) -> Tensor:
    """Clip the gradients, step, take them away. -> their norm; if it is not finite, no step."""
    grad_norm = torch.nn.utils.clip_grad_norm_(encoder.parameters(), clip)
    if grad_norm.isfinite():
        optimizer.step()
    zero_gradients(encoder)
    return grad_norm


# ---- state: nothing is lost ----------------------------------------------------------------------


@dataclass
class BatchCounts:
    """What the batches of a run held."""

    rows: int = 0
    masked_rows: int = 0  # with at least one false negative
    batches: dict[str, int] = field(default_factory=dict)  # kind -> batches
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)  # query lang -> passage lang

    def add(self, batch: Batch, data: DataSet, wrong_negatives: Tensor) -> None:
        self.rows += len(batch.queries)
        self.masked_rows += int(wrong_negatives.any(1).sum())
        self.batches[batch.kind] = self.batches.get(batch.kind, 0) + 1
        for query, passage in zip(batch.queries, batch.passages, strict=True):
            row = self.pairs.setdefault(data.queries[query].lang, {})
            lang = data.passages[passage].lang
            row[lang] = row.get(lang, 0) + 1


@dataclass
class LoopState:
    """Where a training loop is: with weights and optimizer all that resuming needs.

    Batches, noise and dropout need no state: they are functions of the flags and the step alone.
    """

    step: int = 0
    log_bytes: int = 0  # of log.jsonl; what comes after will be written again
    seconds: float = 0.0
    # Since the last line of the log, whose seconds are line_seconds
    tokens: int = 0
    padded_tokens: int = 0
    line_seconds: float = 0.0
    batch_counts: BatchCounts = field(default_factory=BatchCounts)
    edit_counts: EditCounts = field(default_factory=EditCounts)


def save_checkpoint(folder, encoder, optimizer, state, run_id=""):
    """Write the resume state aside, flush it to the disk, then rename: never half a file.

    run_id tells the run, by all that it depends on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "run_id": run_id,
        "encoder": encoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loop": asdict(state),
        "texts_cut": dict(encoder.texts_cut),
        "texts_seen": dict(encoder.texts_seen),
    }
    aside = folder / "state.pt.tmp"
    with xlt.writing(folder / "state.pt"):
        with open(aside, "wb") as out:
            torch.save(content, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, folder / "state.pt")


def read_checkpoint(path):
    """The content of state.pt.

    *Errors*: ValueError for a file that is damaged, or holds more than tensors and plain values.
    """
    try:
        # The file is a zip archive with a checksum for each part, which torch.load does not check
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        # Tensors and plain values only: opening a checkpoint runs no code
        return torch.load(path, weights_only=True, map_location="cpu")
    # A damaged file ends in ten kinds of exceptions
    except Exception as error:  # noqa: BLE001
        reason = str(error).split("\n")[0][:100]
        raise ValueError(f"{path}: does not open ({reason}). Start over: --overwrite.") from None


def load_checkpoint(folder, encoder, optimizer, run_id=""):
    """Put everything back as it was, if there is a checkpoint; return the loop's own state.

    *Errors*: ValueError for a file that is damaged, or of another run.
    """
    path = folder / "state.pt"
    if not path.exists():
        return LoopState()
    content = read_checkpoint(path)
    if not isinstance(content, dict) or content.get("run_id") != run_id:
        raise ValueError(f"{path}: of another run, or of an older train.py. Use --overwrite.")
    encoder.load_state_dict(content["encoder"])
    optimizer.load_state_dict(content["optimizer"])
    # SUBTLE: not update(), which adds: pairs.py comes here again with what it has counted
    encoder.texts_cut = Counter(content["texts_cut"])
    encoder.texts_seen = Counter(content["texts_seen"])
    state = LoopState(**content["loop"])
    state.batch_counts = BatchCounts(**content["loop"]["batch_counts"])
    state.edit_counts = EditCounts(**content["loop"]["edit_counts"])
    return state


def prepare_folder(folder, manifest, resume, overwrite):
    """Look at what is in a run's folder: "done", "resume" or "new".

    *Errors*: ValueError for a folder of other flags, data or starting weights, an interrupted run
    without --resume, or a folder that is no run.
    """
    remedy = "Give another --out, or --overwrite to start over."
    if not (folder / "run.json").exists():
        names = {path.name for path in folder.glob("*")}
        if names - {"lock", "run.json.tmp"}:  # what a run killed in its first moment leaves
            raise ValueError(f"{folder}: not empty, and no run (no run.json). Give another --out.")
        return "new"
    old = evaluate.read_manifest(folder)
    if overwrite:
        return "new"
    for name, value in manifest["flags"].items():
        was = old["flags"].get(name)
        if name not in NOT_TRAINED and was != value:
            flag = name.replace("_", "-")
            raise ValueError(f"{folder} was made with --{flag} {was}, not {value}. {remedy}")
    for name in (*INPUTS, "eval_data_sha256", "tables_sha256"):
        if old[name] != manifest[name]:
            raise ValueError(f"{folder} was made with another {name}: files have changed. {remedy}")
    if old["complete"]:
        return "done"
    if not resume:
        raise ValueError(f"{folder} is not complete. Continue it with --resume, or --overwrite it.")
    if (folder / "ckpt/state.pt").exists():
        for name in ("threads", "processes", "versions"):
            if old[name] != manifest[name]:
                change = f"{name} were {old[name]}, are {manifest[name]}"
                print(f"{folder}: {change}; the last digits may differ", file=sys.stderr)
        return "resume"
    return "new"


def start_folder(folder, manifest):
    """Write run.json and take away what an earlier run left; files of other names stay.

    Wherever this is interrupted, run.json says which run it is and that it is not complete.
    """
    shutil.rmtree(folder / "ckpt", ignore_errors=True)
    xlt.write_record(folder / "run.json", manifest)
    (folder / "model/config.json").unlink(missing_ok=True)  # a rest of a model does not open
    shutil.rmtree(folder / "model", ignore_errors=True)
    shutil.rmtree(folder / "vectors", ignore_errors=True)  # those of the model before
    for path in (folder / "log.jsonl", *folder.glob("metrics*")):
        path.unlink(missing_ok=True)


# ---- the training loop ---------------------------------------------------------------------------


def lr_factor(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate after `step` steps: linear up over `warmup`, then down to 0.

    10 steps, 2 of them warm-up, after 0 to 9 steps: 1/2, 1, 8/8, 7/8, 6/8, ... 1/8.
    """
    up = (step + 1) / max(1, warmup)
    down = (steps - step) / max(1, steps - warmup)
    return min(up, down, 1.0)


def log_line(step, kind, losses, grad_norm, lr):
    """One line of log.jsonl, all but the counts of edits and the seconds."""
    line = {"step": step, "loss": round(losses.loss.item(), 4), "kind": kind}
    line |= {"grad_norm": round(grad_norm, 3), "lr": lr}
    if losses.perturbed is not None:
        for name in ("clean", "perturbed", "consistency"):
            value = getattr(losses, name)
            if value is not None:
                line[name] = round(value.item(), 4)
    return line


def edit_columns(counts):
    """What the perturbations did since the last line of the log.

    *Units*: edited: share of the texts that really changed; edits: words a text; norm: of the noise
    on a token, in mean norms of a word embedding.
    """
    columns = {}
    if counts.texts:
        columns["edited"] = round(counts.edited / counts.texts, 3)
        columns["edits"] = round(counts.edits / counts.texts, 3)
    if counts.tokens:
        columns["norm"] = round(counts.norm / counts.tokens, 4)
    return columns


def speed_columns(state, seconds, flops_a_token, limit):
    """Speed since the last line of the log; sets its counts back to 0.

    *Units*: padding: share of all encoded tokens; tokens_per_s: without padding; mfu (model FLOPs
    utilisation): FLOP/s of these tokens over `limit`, those of plain matrix products; what
    worst-case noise encodes on its way is not counted. peak_gb: memory of the whole run so far.
    """
    columns = {"padding": round(1 - state.tokens / state.padded_tokens, 3)}
    rate = state.tokens / max(1e-9, seconds - state.line_seconds)
    columns |= {"tokens_per_s": round(rate), "mfu": round(rate * flops_a_token / limit, 3)}
    columns["peak_gb"] = round(peak_memory() / 1e9, 2)
    state.tokens, state.padded_tokens, state.line_seconds = 0, 0, seconds
    return columns


def matrix_weights(encoder):
    """How many weights a token is multiplied with: all but the embeddings, which are looked up."""
    count = sum(weight.numel() for weight in encoder.parameters())
    for module in encoder.modules():
        if isinstance(module, torch.nn.Embedding):
            count -= module.weight.numel()
    return count


def peak_memory():
    """The most memory that this process has used so far: of the GPU if it uses one. In bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_line(log, run, steps, line):
    """One line of the log: as JSON into the file, aligned on the screen, the same values."""
    with xlt.writing(log.name):
        log.write(json.dumps(line) + "\n")
        log.flush()
    left = line["seconds"] / line["step"] * (steps - line["step"])
    text = (
        f"{run} step {line['step']:5d}/{steps}  loss {line['loss']:7.4f}  {line['kind']:5}  "
        f"grad {line['grad_norm']:6.2f}  lr {line['lr']:.1e}  {line['seconds']:5.0f} s  "
        f"ETA {left:4.0f} s"
    )
    for name in ("clean", "perturbed", "consistency", "edited", "edits", "norm"):
        if name in line:
            text += f"  {name} {line[name]:g}"
    text += (
        f"  tokens/s {line['tokens_per_s']}  padding {line['padding']:.2f}  mfu {line['mfu']:.2f}  "
        f"peak {line['peak_gb']:.1f} GB"
    )
    tqdm.write(text, file=sys.stderr)


def open_log(path):
    """log.jsonl, to be added to; of all processes but the first nobody reads it."""
    if process_number() > 0:
        return io.StringIO()
    return open(path, "a", encoding="utf-8")


def training_loop(
    encoder: Encoder, plan: Iterator[Batch], flags: RunFlags, perturber: Perturber, folder: Path,
    log_every: int = 25, save_every: int = 50, run_id: str = "", until: int | None = None,
    take_step: Callable[..., StepReport] = training_step,
) -> LoopState:  # fmt: skip
    """Train from the start or from the checkpoint in folder/ckpt; lines go to folder/log.jsonl.

    Stops after step `until`, if there is one, and leaves a checkpoint, from which the next call
    goes on. pairs.py takes steps of its own.
    *Errors*: FloatingPointError for a loss that is not finite; the last checkpoint stays.
    """
    if until is None:
        until = flags.steps
    optimizer = make_optimizer(encoder, flags)
    state = load_checkpoint(folder / "ckpt", encoder, optimizer, run_id)
    perturber.counts = state.edit_counts  # one object: what is counted stands in the checkpoints
    first_step, start = state.step, time.time() - state.seconds  # as if there had been no pause
    flops_a_token = 6 * matrix_weights(encoder)  # 2 forward, 4 back
    limit = n_processes() * evaluate.matmul_rate(flags.device, flags.precision)
    encoder.train()
    with (
        open_log(folder / "log.jsonl") as log,
        tqdm(total=flags.steps, initial=first_step, desc=folder.name, disable=None) as bar,
    ):
        # What was logged after the checkpoint comes once more. SUBTLE: a log that somebody cut or
        # deleted is shorter, and truncate() would fill it up with NUL bytes
        log.truncate(min(state.log_bytes, log.seek(0, os.SEEK_END)))
        log.seek(0, os.SEEK_END)
        for step, batch in enumerate(plan, 1):
            if step <= first_step:
                continue  # replay: which batch comes when is a function of the flags alone
            if step > until:
                break
            lr = flags.lr * lr_factor(step - 1, flags.steps, flags.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            report = take_step(encoder, batch, flags, perturber, step)
            losses = report.losses
            grad_norm = update(encoder, optimizer, flags.clip)
            if not (losses.loss.isfinite() and grad_norm.isfinite()):
                raise FloatingPointError(
                    f"{folder}: the loss is {losses.loss.item()}, its gradient {grad_norm.item()}, "
                    f"at step {step}. The last checkpoint stays; try an --lr below {flags.lr:g}."
                )
            state.step = step
            state.tokens += report.tokens
            state.padded_tokens += report.padded_tokens
            state.batch_counts.add(batch, perturber.data, report.wrong_negatives)
            bar.update()
            if step % log_every == 0 or step == flags.steps:
                line = log_line(step, batch.kind, losses, grad_norm.item(), lr)
                line |= edit_columns(perturber.counts)
                seconds = time.time() - start
                line["seconds"] = round(seconds, 1)
                line |= speed_columns(state, seconds, flops_a_token, limit)
                if process_number() == 0:
                    write_line(log, folder.name, flags.steps, line)
                perturber.counts.start_line()
            if (step % save_every == 0 or step == until) and step < flags.steps:
                state.log_bytes, state.seconds = log.tell(), time.time() - start
                if process_number() == 0:
                    save_checkpoint(folder / "ckpt", encoder, optimizer, state, run_id)
    state.seconds = time.time() - start
    return state


# ---- one run, all runs ---------------------------------------------------------------------------


def commit():
    """The commit of this code, or "unknown" outside a checkout and where there is no git."""
    command = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"


def train_run(folder, state, manifest, encoder, perturber, flags, args):
    """Train one run, "new" or to "resume"; leave model/ and a complete run.json."""
    run_id = xlt.content_hash([flags.trained, [manifest[name] for name in INPUTS]])
    pairs = TrainingPairs(perturber.data, flags.train_langs)
    alpha = 0.0 if flags.alpha is None else flags.alpha
    plan = xlt.batches(pairs, flags.batching, flags.batch_size, flags.steps, alpha, flags.seed)
    manifest["derived"] = derive(flags, pairs, encoder)
    if state == "new" and process_number() == 0:
        start_folder(folder, manifest)
    from_first_process(None)  # the others wait: there may be an old checkpoint
    print(json.dumps({folder.name: manifest}, default=str), file=sys.stderr)
    every = args.log_every, args.save_every
    loop = training_loop(
        encoder, plan, flags, perturber, folder, *every, run_id, take_step=training_step
    )
    if process_number() > 0:
        return
    counts, edits = loop.batch_counts, loop.edit_counts
    edited = {lang: edits.edited_of[lang] / texts for lang, texts in edits.texts_of.items()}
    manifest |= {
        "seconds_training": round(loop.seconds, 1),
        "counts": asdict(counts),
        "false_negative_rate": round(counts.masked_rows / counts.rows, 4),
        "edited_share": {lang: round(share, 3) for lang, share in sorted(edited.items())},
        "truncated": xlt.truncated_texts(encoder),
        "model_sha256": xlt.weights_hash(encoder),
        "complete": True,
    }
    xlt.save_encoder(encoder, folder / "model")
    xlt.write_record(folder / "run.json", manifest)
    print(
        f"{folder.name}: {manifest['seconds_training']} s training, "
        f"{100 * manifest['false_negative_rate']:.1f} % of the rows held a false negative",
        file=sys.stderr,
    )


def train_and_evaluate(flags, args, data, eval_data, options):
    """Train one run unless it is complete, evaluate what is missing (in the first process)."""
    folder = args.out / f"{flags.recipe}-seed{flags.seed}"
    if args.smoke:
        folder = args.out / f"{folder.name}-smoke"
    changes = {}
    for name in ("pooling", "query_length", "passage_length", "context"):
        if getattr(flags, name) is not None:
            changes[name] = getattr(flags, name)
    encoder = xlt.load_encoder(flags.model, flags.device, flags.precision, hub=True, **changes)
    xlt.check_known(encoder, xlt.texts_in(data, flags.train_langs))
    perturber = make_perturber(flags, data, encoder)
    inputs = {"data_sha256": data.sha256, "init_sha256": xlt.weights_hash(encoder)}
    inputs |= xlt.encoder_hashes(encoder) | {"settings": vars(encoder.settings)}
    manifest = {
        "flags": asdict(flags),
        "origin": flags.origin(inputs),
        "complete": False,
        "commit": commit(),
        **inputs,
        "eval_data_sha256": eval_data.sha256,
        "tables_sha256": xlt.content_hash(perturber.tables),
        "versions": xlt.versions(),
        "threads": torch.get_num_threads(),
        "processes": n_processes(),
    }
    is_first = process_number() == 0
    with xlt.locked(folder) if is_first else nullcontext():
        state = None
        if is_first:
            state = prepare_folder(folder, manifest, args.resume, args.overwrite)
        state = from_first_process(state)
        if state == "done":
            print(f"{folder}: complete, skipped (--overwrite starts over)", file=sys.stderr)
        else:
            train_run(folder, state, manifest, encoder, perturber, flags, args)
        if not is_first:
            return None
        shutil.rmtree(folder / "ckpt", ignore_errors=True)  # the run is complete
        return evaluate.evaluate_folder(folder, eval_data, options, folder, flags.device)


def table_options(args, runs, eval_data):
    """How every run is evaluated; looks whether the attacks' tables are there."""
    texts = args.attacks
    if texts is None:
        texts = ["clean"]
        if any((eval_data.folder / "synonyms").glob("*.json")):
            texts += ["random", "greedy:edits=2"]
    options = evaluate.Options(
        split=args.eval_split,
        langs=runs[0].test_langs,
        limit=12 if args.smoke else 0,
        lir=args.lir,
        centre=args.centre,
        attacks=evaluate.parse_attacks(texts),
        attack_views=args.attack_views,
    )
    evaluate.open_adversary(options, eval_data, None)  # a missing table is an error now
    return options


def is_out_of_memory(error):
    """Did torch or Python find no room? (There is no one kind of exception for it.)"""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "t allocate memory" in str(error)


def memory_remedy(flags):
    """Which flag to lower when memory is out, and by how much."""
    if flags.chunk_size == 0:
        size = max(1, min(32, flags.batch_size // 2))
        return f"Add --chunk-size {size}: the same gradient with {size} texts in memory at once."
    if flags.chunk_size > 1:
        return f"Take --chunk-size {flags.chunk_size // 2} and not {flags.chunk_size}."
    return "Take --freeze-words, fewer tokens a text (see --help) or a smaller model."


def explain(error, flags):
    """One line on what went wrong, and what to do."""
    text = str(error)
    if is_out_of_memory(error):
        first_line = text.split("\n")[0][:150]
        text = f"out of memory ({first_line}). {memory_remedy(flags)}"
    if n_processes() > 1 and not isinstance(error, ValueError):  # which all of them find
        text = f"process {process_number()} of {n_processes()}: {text}"
    return text


def run_all(args, runs):
    """Look whether everything is there, then train and evaluate run after run; print the table."""
    threads = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    print(f"{threads}: loading {args.data}", file=sys.stderr, flush=True)
    data = xlt.load_data(args.data, args.strict)
    eval_data = xlt.load_data(args.eval_data, args.strict) if args.eval_data else data
    for line in dict.fromkeys(data.left_out.lines() + eval_data.left_out.lines()):
        print(line, file=sys.stderr)
    # What a run will miss is said now, not hours later
    pairs = TrainingPairs(data, args.train_langs)
    evaluate.check_split(eval_data, args.eval_split, args.test_langs or [])
    options = table_options(args, runs, eval_data)
    for flags in runs:
        if flags.seed == runs[0].seed:  # the others differ in the seed alone
            make_perturber(flags, data)  # ValueError for a missing table
            xlt.batches(pairs, flags.batching, flags.batch_size, 1)  # ... for too few pairs
    evaluated, seconds = [], []
    for number, flags in enumerate(runs):
        text = f"run {number + 1} of {len(runs)}: {flags.recipe}, seed {flags.seed}"
        if seconds:  # of the last few: runs that were complete already took no time
            left = statistics.median(seconds[-5:]) * (len(runs) - number)
            text += f"; about {left / 60:.0f} min left"
        print(text, file=sys.stderr, flush=True)
        start = time.time()
        evaluated.append(train_and_evaluate(flags, args, data, eval_data, options))
        seconds.append(time.time() - start)
    if process_number() == 0:
        study.print_tables(evaluated)
        print(f"done: {len(runs)} runs in {args.out}, {args.eval_split} of {eval_data.folder}")


def main(argv=None) -> int:
    """Run everything that the flags ask for, print one table.

    Exit 0 done, 1 failed, 2 wrong usage.
    """
    args = parse(argv)
    xlt.escape_what_cannot_be_shown()
    try:
        runs = single_runs(args)
        evaluate.parse_attacks(args.attacks or [])
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        evaluate.check_device(runs[0].device)
        evaluate.check_precision(runs[0].device, runs[0].precision)
        start_processes(runs[0].device)
        # The first process speaks for all, and that of each machine when files are missing there
        with redirect_stderr(io.StringIO()) if process_number() > 0 else nullcontext():
            run_all(args, runs)
    except (ValueError, FloatingPointError, OSError, RuntimeError, MemoryError) as error:
        speaks = os.environ.get("LOCAL_RANK", "0") == "0"
        if speaks or not isinstance(error, (ValueError, FloatingPointError)):
            print(f"train.py: {explain(error, runs[0])}", file=sys.stderr)
        return 1
    if n_processes() > 1:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("train.py: interrupted. Continue with --resume.", file=sys.stderr)
        sys.exit(130)
