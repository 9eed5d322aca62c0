"""How fast this project is, and beside whom: one table of ratios, each measured in one run.

    python tests/bench.py --json bench.json        # all rows but the long ones, medians of five
    python tests/bench.py --rows train-fp32 "metrics*" --model /path/to/multilingual-e5-small
    python tests/bench.py --all                    # also those that take many minutes

    ratio = ours / theirs of one quantity, in turns: ours, theirs, ours, theirs, ...

A row is a function with two sides; its docstring says what is timed on each and what is not.
Where to look next: `our_step` and `their_step` are what the training rows compare, ROWS lists all
rows with their goals, `main` measures them.
Left out on purpose: quality (study.py), loading, and a peer that is not installed, whose row is
open and says how to install it. A missed goal is a result: the exit code is 0.
Where the data or the encoder are not there, texts have the lengths of XQuAD-R (LENGTHS, below) and
weights are random: neither changes what a step has to compute.
"""

import argparse
import fnmatch
import importlib
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import attacks
import evaluate
import train
import xlt

PEERS = {  # module -> how it is installed
    "sentence_transformers": "sentence-transformers==6.2.0",
    "pytrec_eval": "pytrec-eval-terrier",
    "ranx": "ranx",
    "textattack": "textattack",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# ---- lengths and sizes ---------------------------------------------------------------------------

# Tokens of a text with its prefix and the special ones, tokenizer of multilingual-e5-small: so many
# percent of the texts have at most so many. Sentences are the passages of MLQA-R, 7 languages.
PERCENT = [0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9, 100]
XQUAD_QUERY = [8, 11, 13, 15, 16, 18, 19, 20, 22, 23, 25, 29, 32, 39, 48, 84]
XQUAD_PASSAGE = [5, 11, 18, 22, 27, 32, 36, 41, 46, 52, 61, 74, 88, 135, 232, 256]  # cut at 256
MLQA_SENTENCE = [5, 11, 16, 19, 24, 28, 31, 35, 39, 45, 52, 65, 78, 101, 101, 101]  # cut at 101
LENGTHS = {  # name -> of queries, of passages
    "xquad": (XQUAD_QUERY, XQUAD_PASSAGE),
    "sentences": (MLQA_SENTENCE, MLQA_SENTENCE),
    "gpu": (np.minimum(XQUAD_QUERY, 32), np.minimum(XQUAD_PASSAGE, 160)),
}


@dataclass(frozen=True)
class Sizes:
    """How large the work of a row is."""

    batch: int = 64
    layers: int = 6  # of the encoder of random weights
    width: int = 384
    pairs: int = 2048  # texts to draw batches from
    product: int = 2048  # rows and columns of the matrices that say what the machine can do
    cached_batch: int = 128
    large_batch: int = 4096
    chunk: int = 32
    questions: int = 1190  # each in 11 languages, as XQuAD-R
    passages: int = 13014
    ranked: int = 1000  # queries of the rows against pytrec_eval and ranx, and their candidates
    searched: int = 1_000_000
    attacked: int = 40
    robust_batch: int = 100
    steps: int = 8  # of each process


SMOKE = Sizes(
    batch=8, layers=1, width=48, pairs=128, product=128, cached_batch=16, large_batch=64, chunk=8,
    questions=20, passages=220, ranked=50, searched=50_000, attacked=4, robust_batch=16, steps=2,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every row is given."""

    sizes: Sizes
    repeats: int
    model: Path  # a folder that load_encoder and SentenceTransformer both open
    data: Path | None  # XQuAD-R as a data folder
    smoke: bool


# ---- results -------------------------------------------------------------------------------------


class Open(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Result:
    """One quantity on both sides, one value a turn."""

    unit: str
    ours: list[float]
    theirs: list[float]
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each turn: what slows the machine down for a minute slows both sides."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]


@dataclass(frozen=True)
class Row:
    """A line of the table: how it is measured, and what is hoped for."""

    name: str
    measure: object  # function of Bench and the settings -> Result
    settings: dict = field(default_factory=dict)
    goal: float | None = None
    sign: str = ">="
    floor: float | None = None  # less than the goal, and still enough
    is_long: bool = False  # only when named, or with --all

    def reached(self, ratio: float) -> str:
        """What became of the goal, in a word."""
        if self.goal is None:
            return ""
        if self.sign == "<=":
            return "yes" if ratio <= self.goal else "no"
        if ratio >= self.goal:
            return "yes"
        if self.floor is not None and ratio >= self.floor:
            return "almost"
        return "no"

    @property
    def goal_text(self) -> str:
        if self.goal is None:
            return ""
        if self.floor is not None:
            return f"{self.sign} {self.goal:g} (at least {self.floor:g})"
        return f"{self.sign} {self.goal:g}"


def peer(module: str):
    """Import another library, or leave the row open."""
    try:
        return importlib.import_module(module)
    except (ImportError, LookupError) as error:  # LookupError: nltk's data are missing
        reason = " ".join(str(error).split())[:80]
        raise Open(f"{module}: {reason}. pip install {PEERS[module]}") from None


def seconds_of(function, turn: int) -> float:
    """The time of one call, with what it has left to do on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(turn)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(ours, theirs, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of both sides, turn about; the first turn warms up and does not count."""
    seconds_ours, seconds_theirs = [], []
    for turn in range(repeats + 1):
        first = seconds_of(ours, turn)
        second = seconds_of(theirs, turn)
        if turn > 0:
            seconds_ours.append(first)
            seconds_theirs.append(second)
    return seconds_ours, seconds_theirs


def rates(amount: float, seconds: list[float]) -> list[float]:
    """So much a second, of each turn."""
    return [amount / s for s in seconds]


def product_of(size: int, precision: str, device: str = "cpu"):
    """A function that multiplies two square matrices, and the operations that it takes."""
    left = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    right = torch.randn(size, size, device=device, dtype=DTYPES[precision])

    def multiply(turn):
        return left @ right  # (N, N) @ (N, N) -> (N, N)

    return multiply, 2 * size**3


def peak_memory() -> int:
    """Bytes that this process had at most. Linux alone.

    SUBTLE: not getrusage's ru_maxrss, which a process inherits from the one that started it.
    """
    return status_bytes("VmHWM")


def status_bytes(name):
    """One line of Linux's /proc/self/status, e.g. "VmRSS:   1234 kB"."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise Open(f"/proc/self/status has no {name}")


# ---- what is trained: one encoder, one list of batches -------------------------------------------


@dataclass
class Scene:
    """What our training step takes."""

    encoder: xlt.Encoder
    data: xlt.DataSet
    flags: train.RunFlags
    perturber: train.Perturber
    optimizer: torch.optim.Optimizer | None
    batches: list[xlt.Batch]

    def batch(self, turn: int) -> xlt.Batch:
        return self.batches[turn % len(self.batches)]


def save_random_model(folder: Path, layers: int, width: int, rows: int | None = None) -> None:
    """An encoder of XLM-R's shape and random weights, 12 heads, with the bundled tokenizer."""
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/tiny_xlmr")
    config = XLMRobertaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    torch.manual_seed(0)
    model = XLMRobertaModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True)
    xlt.save_encoder(xlt.Encoder(model, tokenizer), folder)


def short_words(tokenizer) -> list[str]:
    """A thousand words of one token each, so that the length of a text can be chosen."""
    words = []
    for token in sorted(tokenizer.get_vocab()):
        word = token[1:]
        if token[0] != "▁" or not (word.isascii() and word.isalpha()):
            continue
        if len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1:
            words.append(word)
        if len(words) == 1000:
            break
    return words


def lengths_like(quantiles, n: int) -> np.ndarray:
    """n lengths with these quantiles: n = 2 takes those at 25 and at 75 percent."""
    at = 100 * (np.arange(n) + 0.5) / n
    return np.interp(at, PERCENT, quantiles).round().astype(int)


def make_texts(encoder, tower, quantiles, n):
    """Texts of random words with chosen numbers of tokens, in random order."""
    prefix = encoder.settings.query_prefix if tower == "query" else encoder.settings.passage_prefix
    words, rng = short_words(encoder.tokenizer), xlt.generator(0, "bench", tower)
    around = len(encoder.tokenizer(prefix + words[0])["input_ids"]) - 1
    lengths, texts = lengths_like(quantiles, n), []
    for i in torch.randperm(n, generator=rng).tolist():
        count = max(1, int(lengths[i]) - around)
        chosen = torch.randint(len(words), (count,), generator=rng).tolist()
        text = " ".join(words[word] for word in chosen)
        texts.append(xlt.Text(f"{tower}{len(texts)}", "en", text, f"g{len(texts)}"))
    return texts


def synthetic_data(encoder, lengths: str, n: int) -> xlt.DataSet:
    """n pairs whose texts are as long as LENGTHS says."""
    of_queries, of_passages = LENGTHS[lengths]
    queries = make_texts(encoder, "query", of_queries, n)
    passages = make_texts(encoder, "passage", of_passages, n)
    qrels = {"test": {i: {i: 1.0} for i in range(n)}}
    return xlt.DataSet(ROOT, queries, passages, qrels)


def draw_batches(data: xlt.DataSet, size: int, n: int) -> list[xlt.Batch]:
    """n batches of pairs, no two passages of a group in one: there is nothing to mask."""
    pairs = [(query, p) for query, relevant in data.qrels["test"].items() for p in relevant]
    groups = {passage.group for passage in data.passages}
    if len(groups) < size:
        raise ValueError(f"{data.folder}: {len(groups)} groups of passages, the batch has {size}.")
    order = torch.randperm(len(pairs), generator=xlt.generator(0, "bench"))
    stream, batches = itertools.cycle(order.tolist()), []
    for _ in range(n):
        chosen = {}  # group -> pair
        while len(chosen) < size:
            pair = pairs[next(stream)]
            chosen.setdefault(data.passages[pair[1]].group, pair)
        queries = [query for query, _ in chosen.values()]
        passages = [passage for _, passage in chosen.values()]
        own = torch.arange(size)
        batches.append(xlt.Batch("mixed", queries, passages, own[:, None], own))
    return batches


def training_flags(**changes) -> train.RunFlags:
    """train.py's own flags but for the changes; a row is open until train.py has them."""
    flags = train.single_runs(train.parse([]))[0]
    for name in changes:
        if not hasattr(flags, name):
            raise Open(f"train.py has no {name}")
    return replace(flags, **({"lr": 3e-5} | changes))


def make_optimizer(parameters, flags):
    """AdamW for both sides, as training_loop makes it."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=flags.lr, weight_decay=flags.weight_decay)


def open_scene(
    bench: Bench, precision: str, lengths: str, size: int, device="cpu", frozen=False
) -> Scene:
    """The encoder in train mode and a batch for each turn: XQuAD-R's where it is there."""
    # Both towers are cut at one length, as sentence-transformers does it
    encoder = xlt.load_encoder(
        bench.model, device, precision, query_length=256, passage_length=256
    ).train()
    encoder.model.get_input_embeddings().weight.requires_grad_(not frozen)
    if lengths == "xquad" and bench.data is not None and size < 1000:
        data = xlt.load_data(bench.data)
    else:
        data = synthetic_data(encoder, lengths, max(size, bench.sizes.pairs))
    flags = training_flags(precision=precision, batch_size=size)
    perturber = train.Perturber(train.parse_robust("none"), 0, data, 1.0)
    optimizer = make_optimizer(encoder.parameters(), flags)
    batches = draw_batches(data, size, bench.repeats + 1)
    return Scene(encoder, data, flags, perturber, optimizer, batches)


def our_gradient(scene: Scene, batch: xlt.Batch) -> float:
    """Our forward and backward pass, with tokenization -> the loss."""
    losses, _ = train.training_step(scene.encoder, batch, scene.flags, scene.perturber, 0)
    if not hasattr(train, "update"):  # SWITCH: goes, as soon as training_step goes backward itself
        losses.loss.backward()
    return float(losses.loss)


def our_step(scene: Scene, batch: xlt.Batch) -> float:
    """One whole training step of ours -> the loss."""
    loss = our_gradient(scene, batch)
    if hasattr(train, "update"):
        train.update(scene.encoder, scene.optimizer, scene.flags.clip)
        return loss
    # SWITCH: with train.update in train.py, the lines from here on go
    torch.nn.utils.clip_grad_norm_(scene.encoder.parameters(), scene.flags.clip)
    scene.optimizer.step()
    scene.optimizer.zero_grad()
    return loss


# ---- the same step of sentence-transformers ------------------------------------------------------


@dataclass
class Library:
    """The same model, opened by sentence-transformers, and what its training step takes."""

    model: object
    loss: object
    optimizer: torch.optim.Optimizer
    precision: str


def open_library(bench: Bench, scene: Scene) -> Library:
    """SentenceTransformer with MultipleNegativesRankingLoss, scale 1 / tau."""
    peer("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(bench.model), device=str(scene.encoder.device)).train()
    model.max_seq_length = scene.encoder.settings.passage_length
    loss = MultipleNegativesRankingLoss(model, scale=1 / scene.flags.tau)
    optimizer = make_optimizer(model.parameters(), scene.flags)
    return Library(model, loss, optimizer, scene.encoder.precision)


def their_gradient(library: Library, scene: Scene, batch: xlt.Batch) -> float:
    """Their forward and backward pass, with tokenization, as their Trainer does it -> the loss."""
    settings, device = scene.encoder.settings, scene.encoder.device
    queries = [scene.data.queries[i].text for i in batch.queries]
    passages = [scene.data.passages[i].text for i in batch.passages]
    columns = [
        library.model.preprocess(queries, prompt=settings.query_prefix),
        library.model.preprocess(passages, prompt=settings.passage_prefix),
    ]
    for column in columns:
        for name, value in column.items():
            if isinstance(value, Tensor):
                column[name] = value.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=library.precision == "bf16"):
        loss = library.loss(columns, None)
    loss.backward()
    return float(loss)


def their_step(library: Library, scene: Scene, batch: xlt.Batch) -> float:
    """One whole training step of theirs -> the loss."""
    loss = their_gradient(library, scene, batch)
    torch.nn.utils.clip_grad_norm_(library.model.parameters(), scene.flags.clip)
    library.optimizer.step()
    library.optimizer.zero_grad()
    return loss


def gradients(model) -> dict[str, Tensor]:
    """Name of a parameter -> its gradient."""
    named = model.named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter's gradient: |ours - theirs| / |theirs|.

    Left out is a parameter with less than 1e-4 of the norm of all: the keys' bias, which softmax
    does not feel, has rounding alone for a gradient.
    """
    if ours.keys() != theirs.keys():
        names = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(f"only one side has a gradient of {names[:3]}: different things.")
    total = torch.stack([grad.norm() for grad in theirs.values()]).norm()
    largest = 0.0
    for name, grad in theirs.items():
        if grad.norm() >= 1e-4 * total:
            largest = max(largest, float((ours[name] - grad).norm() / grad.norm()))
    return largest


def check_same(scene: Scene, library: Library) -> str:
    """Refuse to compare two steps with different losses or gradients (fp32, no dropout).

    *Errors*: ValueError, which fails the row.
    """
    batch, precision = scene.batch(0), scene.encoder.precision
    scene.encoder.precision, library.precision = "fp32", "fp32"
    scene.encoder.eval()
    library.model.eval()
    ours, theirs = our_gradient(scene, batch), their_gradient(library, scene, batch)
    difference = largest_difference(
        gradients(scene.encoder.model), gradients(library.model[0].auto_model)
    )
    scene.encoder.zero_grad()
    library.model.zero_grad()
    scene.encoder.precision, library.precision = precision, precision
    scene.encoder.train()
    library.model.train()
    text = f"loss {ours:.5f} and {theirs:.5f}, gradients differ by {difference:.0e}"
    if not (abs(ours - theirs) < 1e-4 * abs(theirs) and difference < 1e-4):
        raise ValueError(f"{text}: the ratio would compare two things.")
    return text


# ---- rows: a training step -----------------------------------------------------------------------


def time_training(bench: Bench, precision: str, lengths: str) -> Result:
    """Training pairs a second.

    Timed on both sides, on the same batches: tokenization, forward and backward pass in train mode
    (dropout on), clipping, AdamW, zero_grad. Not timed: reading and drawing the batches. Both have
    the same weights, prefixes, tau and mean pooling, and before the clock runs the same loss and
    gradient. bf16 is autocast; ours computes scores and loss in fp32, theirs under autocast.
    """
    scene = open_scene(bench, precision, lengths, bench.sizes.batch)
    return compare_training(bench, scene)


def compare_training(bench, scene):
    """Both steps in turns."""
    library = open_library(bench, scene)
    note = check_same(scene, library)

    def ours(turn):
        our_step(scene, scene.batch(turn))

    def theirs(turn):
        their_step(library, scene, scene.batch(turn))

    seconds = take_turns(ours, theirs, bench.repeats)
    size = scene.flags.batch_size
    return Result("pairs/s", rates(size, seconds[0]), rates(size, seconds[1]), note)


def real_tokens(scene: Scene, batch: xlt.Batch) -> int:
    """Tokens of a batch without padding, both towers."""
    queries = [scene.data.queries[i] for i in batch.queries]
    passages = [scene.data.passages[i] for i in batch.passages]
    rows = scene.encoder.tokenize(queries, "query") + scene.encoder.tokenize(passages, "passage")
    return sum(len(row["input_ids"]) for row in rows)


def model_operations(parameters: int, tokens: int) -> int:
    """What a step has to compute: 2 for a weight and token forward, 4 backward."""
    return 6 * parameters * tokens


def time_share(bench: Bench, precision: str, frozen: bool, lengths="xquad") -> Result:
    """Share of the machine's rate at matrix multiplication that our whole step reaches.

    Ours: 6 x (parameters without embeddings) x (real tokens) / seconds of `our_step`, all of it
    timed as in train-*. Theirs: one product of 2048 x 2048 matrices in the same precision.
    Not counted as work, so that the share is an understatement: attention's products, embeddings,
    AdamW. frozen: the word embeddings are not trained.
    """
    scene = open_scene(bench, precision, lengths, bench.sizes.batch, frozen=frozen)
    return compare_share(bench, scene)


def compare_share(bench, scene):
    """Our step and the plain product in turns."""
    device = scene.encoder.device
    multiply, operations = product_of(bench.sizes.product, scene.encoder.precision, str(device))
    parameters = 0
    for name, parameter in scene.encoder.model.named_parameters():
        if not name.startswith("embeddings."):
            parameters += parameter.numel()

    def ours(turn):
        our_step(scene, scene.batch(turn))

    def five_products(turn):  # one alone is short, and noisy
        for _ in range(5):
            multiply(turn)

    seconds, limits = take_turns(ours, five_products, bench.repeats)
    done = []
    for turn, s in enumerate(seconds, 1):
        done.append(model_operations(parameters, real_tokens(scene, scene.batch(turn))) / s / 1e9)
    limit = rates(5 * operations / 1e9, limits)
    return Result("GFLOP/s", done, limit, f"{parameters / 1e6:.1f} million parameters")


# ---- rows: gradient caching ----------------------------------------------------------------------


def with_caching(scene: Scene, chunk: int) -> Scene:
    """The same scene, its gradient cached in chunks of so many texts."""
    flags = training_flags(batch_size=scene.flags.batch_size, chunk_size=chunk)
    return replace(scene, flags=flags)


def time_caching(bench: Bench) -> Result:
    """Seconds of a step with gradient caching, over those of a plain one on the same batch.

    Both sides are `our_step`, all of it, on one encoder. Not timed: nothing is left out.
    """
    plain = open_scene(bench, "fp32", "xquad", bench.sizes.cached_batch)
    cached = with_caching(plain, bench.sizes.chunk)

    def ours(turn):
        our_step(cached, cached.batch(turn))

    def theirs(turn):
        our_step(plain, plain.batch(turn))

    return Result("s", *take_turns(ours, theirs, bench.repeats))


def measure_caching_memory(bench: Bench) -> Result:
    """Peak memory of one step of a large batch, over that of a small one with the same chunks.

    Each in a process of its own, from its start: Python, weights, AdamW, one `our_step`. Texts are
    synthetic on both sides (XQuAD-R has too few for 4096). Measured once: it does not scatter.
    """
    training_flags(chunk_size=bench.sizes.chunk)
    sizes = bench.sizes
    large = run_worker(bench, "memory", sizes.large_batch, sizes.chunk)
    small = run_worker(bench, "memory", sizes.cached_batch, sizes.chunk)
    return Result("MB", [large], [small], f"batch {sizes.large_batch} and {sizes.cached_batch}")


def memory_worker(bench, size, chunk):
    """Megabytes that one step needs at most."""
    scene = open_scene(replace(bench, repeats=0, data=None), "fp32", "xquad", size)
    scene = with_caching(scene, chunk)
    our_step(scene, scene.batch(0))
    return peak_memory() / 1e6


# ---- rows: metrics -------------------------------------------------------------------------------


@dataclass
class Vectors:
    """Queries and passages of 11 languages as unit vectors; one passage a language is relevant."""

    q: Tensor  # (Q, D)
    query_langs: np.ndarray  # (Q,)
    pools: attacks.Pools


def make_vectors(questions: int, passages: int, dim: int = 384, n_langs: int = 11) -> Vectors:
    """Vectors of a meaning and noise: question i is answered by passage i of each language."""
    rng = xlt.generator(0, "bench", "vectors")
    meanings = torch.randn(questions, dim, generator=rng)
    langs = [f"l{i:02}" for i in range(n_langs)]
    counts = [len(range(i, passages, n_langs)) for i in range(n_langs)]  # passages of a language
    borders = [0, *itertools.accumulate(counts)]
    parts, relevant = [], []
    for start, count in zip(borders, counts, strict=False):
        answered = torch.arange(count) % questions  # (P,) of this language
        parts.append(meanings[answered] + 2 * torch.randn(count, dim, generator=rng))
        relevant.append(start + torch.arange(questions) % count)
    noise = torch.randn(n_langs * questions, dim, generator=rng)
    q = F.normalize(meanings.repeat(n_langs, 1) + 2 * noise, dim=1)  # (Q, D), by language
    p = F.pad(F.normalize(torch.cat(parts), dim=1), (0, 0, 0, 1))  # (P + 1, D)
    rows = torch.stack(relevant, dim=1).repeat(n_langs, 1)  # (Q, 11)
    numbers = torch.arange(n_langs).repeat_interleave(questions)  # (Q,)
    left_out = torch.full((len(q),), passages)
    missing = torch.zeros(len(q), 0)
    gains = torch.ones(rows.shape)
    pools = attacks.Pools(p, langs, borders, rows, gains, numbers, missing, left_out)
    return Vectors(q, np.array(langs)[numbers.numpy()], pools)


def rank_ours(vectors: Vectors, views=evaluate.VIEWS) -> evaluate.Ranked:
    """All metrics of all cells, from vectors."""
    cells = evaluate.make_cells(vectors.query_langs, vectors.pools.langs, views)
    return evaluate.rank_cells(vectors.q, vectors.pools, cells)


class GivenVectors:
    """A model for sentence-transformers' evaluator, which has encoded the queries already."""

    def __init__(self, q):
        self.q = q

    def encode_query(self, texts, **_):
        return self.q


def time_metrics(bench: Bench) -> Result:
    """Queries a second, from vectors to metrics, 13,090 queries and 13,014 passages.

    Ours: cells, scores and all metrics of three views (own language, each other one, all), over
    the whole ranking. Theirs: compute_metrices of InformationRetrievalEvaluator, scores and metrics
    of the best 100 in the pool of all alone, with its usual cutoffs and ties by id.
    Not timed: encoding, and ids. Before, R@10, MRR@10 and nDCG@10 of the pool must agree.
    """
    peer("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import dot_score

    vectors = make_vectors(bench.sizes.questions, bench.sizes.passages)
    p = vectors.pools.p[:-1]
    ids_of_queries = {f"q{i}": "" for i in range(len(vectors.q))}
    ids_of_passages = {f"p{i}": "" for i in range(len(p))}
    relevant = {}
    for i, rows in enumerate(vectors.pools.relevant.tolist()):
        relevant[f"q{i}"] = {f"p{row}" for row in rows}
    evaluator = InformationRetrievalEvaluator(
        ids_of_queries, ids_of_passages, relevant, score_functions={"dot": dot_score}
    )
    values = {}

    def ours(turn):
        values["ours"] = rank_ours(vectors)

    def theirs(turn):
        model = GivenVectors(vectors.q)
        values["theirs"] = evaluator.compute_metrices(model, corpus_embeddings=p)["dot"]

    seconds = take_turns(ours, theirs, bench.repeats)
    note = check_metrics(values["ours"], values["theirs"])
    n = len(vectors.q)
    return Result("queries/s", rates(n, seconds[0]), rates(n, seconds[1]), note)


def check_metrics(ranked, theirs):
    """Refuse to compare rankings that differ."""
    parts = []
    for metric, name in (("R@10", "recall@k"), ("MRR@10", "mrr@k"), ("nDCG@10", "ndcg@k")):
        columns = [values[metric] for (_, lang), values in ranked.items() if lang == "*"]
        value = float(np.concatenate(columns).mean())
        if not abs(value - theirs[name][10]) < 1e-4:
            raise ValueError(f"{metric} is {value:.5f} and {theirs[name][10]:.5f}.")
        parts.append(f"{metric} {value:.3f}")
    return "both: " + ", ".join(parts)


def time_metrics_product(bench: Bench) -> Result:
    """Seconds of all our metrics as in the row metrics, over those of one fp32 product.

    Theirs: q @ p.T once, (13,090, 384) by (384, 13,014), and nothing else.
    """
    vectors = make_vectors(bench.sizes.questions, bench.sizes.passages)
    p = vectors.pools.p[:-1]

    def ours(turn):
        rank_ours(vectors)

    def theirs(turn):
        vectors.q @ p.T  # (Q, D) @ (D, P) -> (Q, P)

    return Result("s", *take_turns(ours, theirs, bench.repeats))


@dataclass
class Rankings:
    """Scores of the same candidates for everybody; relevance is 1 to 3, one passage is missing."""

    scores: Tensor  # (Q, P) distinct whole numbers
    relevant: Tensor  # (Q, 11) columns
    gains: Tensor  # (Q, 11)
    lost: Tensor  # (Q, 1) gain of a relevant passage that nobody has found


def make_rankings(n: int) -> Rankings:
    """n queries with n candidates each; relevant ones tend to the front."""
    rng = xlt.generator(0, "bench", "rankings")
    noise = torch.rand(n, n, generator=rng)
    noise[:, :11] += torch.rand(n, 1, generator=rng) / 2
    scores = noise.argsort(1).argsort(1).float()  # (Q, P): its place from behind
    gains = torch.randint(1, 4, (n, 11), generator=rng).float()
    relevant = torch.arange(11).expand(n, 11)
    return Rankings(scores, relevant, gains, torch.full((n, 1), 2.0))


def measure_ours(rankings: Rankings) -> dict[str, float]:
    """Means of our metrics, from scores."""
    ranks, gains = evaluate.relevant_ranks(rankings.scores, rankings.relevant, rankings.gains)
    ranks, gains = F.pad(ranks, (0, 1)), torch.cat([gains, rankings.lost], dim=1)  # (Q, 12)
    values = evaluate.measure(ranks.numpy(), gains.numpy())
    return {metric: float(values[metric].mean()) for metric in ("mAP", "R@10", "MRR@10", "nDCG@10")}


def time_pytrec(bench: Bench) -> Result:
    """Queries a second, from scores to mAP, R@10, MRR@10, nDCG@10; 1,000 x the best 1,000.

    Ours: relevant_ranks and measure, on tensors; all eight metrics. Theirs: scores to the
    dictionary of dictionaries that pytrec_eval takes, its evaluate, means. Not timed: strings of
    ids, and pytrec_eval's qrels, read once. Values must agree to 1e-6. Conventions: trec_eval does
    not cut recip_rank, which is cut here at 10; among ties it goes by id, ours is pessimistic
    (there are none here); gains in nDCG are linear in both.
    """
    pytrec_eval = peer("pytrec_eval")
    rankings = make_rankings(bench.sizes.ranked)
    names = [f"p{i}" for i in range(rankings.scores.shape[1])]
    qrels = {}
    for i, gains in enumerate(rankings.gains.int().tolist()):
        qrels[f"q{i}"] = dict(zip(names, gains, strict=False)) | {"lost": 2}
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {"map", "recall.10", "recip_rank", "ndcg_cut.10"}
    )
    values = {}

    def ours(turn):
        values["ours"] = measure_ours(rankings)

    def theirs(turn):
        run = {}
        for i, scores in enumerate(rankings.scores.tolist()):
            run[f"q{i}"] = dict(zip(names, scores, strict=True))
        of_queries = evaluator.evaluate(run).values()
        first = np.array([of_query["recip_rank"] for of_query in of_queries])
        values["theirs"] = {
            "mAP": np.mean([of_query["map"] for of_query in of_queries]),
            "R@10": np.mean([of_query["recall_10"] for of_query in of_queries]),
            "MRR@10": np.where(first >= 0.1, first, 0.0).mean(),  # cut at rank 10
            "nDCG@10": np.mean([of_query["ndcg_cut_10"] for of_query in of_queries]),
        }

    return compare_measures(bench, ours, theirs, values)


def time_ranx(bench: Bench) -> Result:
    """Queries a second, as metrics-pytrec, against ranx and its compiled functions.

    Theirs: the scores sorted and stacked to the arrays that ranx takes (faster than its
    dictionaries), its evaluate. Not timed: its compilation (in the turn that warms up), its qrels.
    Conventions: none differs; ranx's mrr@10 is cut, its ndcg has linear gains.
    """
    ranx = peer("ranx")
    rankings = make_rankings(bench.sizes.ranked)
    n = len(rankings.scores)
    columns = F.pad(rankings.relevant, (0, 1), value=n)  # (Q, 12): n is the one that is lost
    gains = torch.cat([rankings.gains, rankings.lost], dim=1)  # (Q, 12)
    order = gains.argsort(dim=1, descending=True)  # ranx wants the largest gain first
    qrels = torch.stack([columns.gather(1, order), gains.gather(1, order)], dim=2)  # (Q, 12, 2)
    qrels, scores = qrels.double().numpy(), rankings.scores.double().numpy()
    names = {"mAP": "map", "R@10": "recall@10", "MRR@10": "mrr@10", "nDCG@10": "ndcg@10"}
    values = {}

    def ours(turn):
        values["ours"] = measure_ours(rankings)

    def theirs(turn):
        ranking = np.argsort(-scores, axis=1)  # (Q, P) columns, best first
        sorted_scores = np.take_along_axis(scores, ranking, axis=1)
        run = np.stack([ranking.astype(float), sorted_scores], axis=2)  # (Q, P, 2)
        means = ranx.evaluate(qrels, run, list(names.values()))
        values["theirs"] = {metric: means[name] for metric, name in names.items()}

    return compare_measures(bench, ours, theirs, values)


def compare_measures(bench, ours, theirs, values):
    """Both sides in turns, and their means to 1e-6."""
    seconds = take_turns(ours, theirs, bench.repeats)
    for metric, value in values["ours"].items():
        other = values["theirs"][metric]
        if not abs(value - other) < 1e-6:
            raise ValueError(f"{metric} is {value:.7f} and {other:.7f}.")
    n = bench.sizes.ranked
    note = ", ".join(f"{metric} {value:.4f}" for metric, value in values["ours"].items())
    return Result("queries/s", rates(n, seconds[0]), rates(n, seconds[1]), note)


def measure_search_memory(bench: Bench) -> Result:
    """Gigabytes beyond the vectors while 1,000 queries are ranked in a million passages, D = 384.

    Ours: the peak during rank_cells, pool of all, in a process of its own, minus what it held
    before (vectors, libraries). Theirs: half a gigabyte, which is allowed. Measured once.
    """
    used = run_worker(bench, "search", bench.sizes.searched, bench.sizes.ranked)
    return Result("GB", [used], [0.5], f"{bench.sizes.searched} passages")


def search_worker(bench, passages, queries):
    """Gigabytes that a search needs beside its vectors."""
    p = torch.randn(passages + 1, 384)
    for block in p.split(10_000):
        block /= block.norm(dim=1, keepdim=True)  # in place: no second copy
    p[-1] = 0
    rows = torch.arange(queries)
    relevant, numbers = rows[:, None], torch.zeros(queries, dtype=torch.long)
    gains, missing = torch.ones(queries, 1), torch.zeros(queries, 0)
    left_out = torch.full((queries,), passages)
    pools = attacks.Pools(p, ["en"], [0, passages], relevant, gains, numbers, missing, left_out)
    vectors = Vectors(p[:queries].clone(), np.array(["en"] * queries), pools)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins here
    before = status_bytes("VmRSS")
    rank_ours(vectors, ["pool"])
    return (peak_memory() - before) / 1e9


# ---- rows: an attack's candidates ----------------------------------------------------------------


@dataclass
class Siege:
    """Dev queries of the bundled world under a greedy attack, and the texts to score for each."""

    encoder: xlt.Encoder  # the bundled one
    pools: attacks.Pools
    items: list[attacks.AttackedQuery]
    texts: list[list[str]]  # of each query: itself, and each of its single replacements
    tables: dict

    @property
    def count(self) -> int:
        return sum(len(texts_of_item) for texts_of_item in self.texts)


def candidates(item) -> list[str]:
    """The query and each of its single replacements, each once."""
    texts = [item.source.text]
    for slot in item.slots:
        for option in slot.options:
            texts.append(attacks.substitute(item.source.text, {slot.span: option}))
    return list(dict.fromkeys(texts))


def make_siege(n: int) -> Siege:
    """About n queries from the first to the last: they are sorted by language."""
    data = xlt.load_data(ROOT / "data/minifacts")
    encoder = xlt.load_encoder(ROOT / "data/tiny_xlmr").eval()
    p = encoder.encode(data.passages, "passage")
    queries = sorted(data.qrels["dev"])
    queries = queries[:: max(1, len(queries) // n)][:n]
    pools = attacks.make_pools(p, data, queries, list(range(len(p))), "dev")
    tables, greedy = attacks.read_synonyms(data.folder), attacks.parse_attack("greedy")
    items = attacks.make_attacked(data, queries, ["pool"], greedy, tables, 0)
    return Siege(encoder, pools, items, [candidates(item) for item in items], tables)


def score_ours(siege: Siege) -> Tensor:
    """All candidates of all queries as one step of a search -> margins in the pool of all."""
    score = attacks.Scorer(siege.encoder, siege.pools)  # a new one: nothing is scored yet
    pairs = []
    for item, texts_of_item in zip(siege.items, siege.texts, strict=True):
        pairs += [(item, text) for text in texts_of_item]
    return score(pairs)[0][:, -1]


class Padded:
    """A model as TextAttack wraps it: texts of one query -> (C, 2) best other and best relevant."""

    def __init__(self, siege: Siege, length: int = 512):
        self.encoder, self.pools, self.p = siege.encoder, siege.pools, siege.pools.p[:-1]
        self.length = min(length, xlt.room_for_tokens(siege.encoder.model))
        self.scored = 0
        self.relevant = None  # (P,) of bool, of the query under attack

    def aim(self, item):
        """Take this query's relevant passages."""
        rows = self.pools.relevant[item.query]
        self.relevant = torch.zeros(len(self.p), dtype=torch.bool)
        self.relevant[rows[rows < len(self.p)]] = True

    @torch.no_grad()
    def __call__(self, texts):
        encoder = self.encoder
        self.scored += len(texts)
        encoder.tokenizer.model_max_length = self.length
        batch = encoder.tokenizer(
            [encoder.settings.query_prefix + text for text in texts],
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.length,
        )
        hidden = encoder.model(**batch).last_hidden_state  # (C, T, D)
        pooled = xlt.pool_tokens(hidden, batch["attention_mask"], encoder.settings.pooling)
        scores = F.normalize(pooled, dim=-1) @ self.p.T  # (C, D) @ (D, P) -> (C, P)
        relevant, other = scores[:, self.relevant], scores[:, ~self.relevant]
        return torch.stack([other.amax(1), relevant.amax(1)], 1)


def score_padded(model: Padded, siege: Siege) -> Tensor:
    """The candidates of one query after the other -> margins in the pool of all."""
    margins = []
    for item, texts_of_item in zip(siege.items, siege.texts, strict=True):
        model.aim(item)
        other, relevant = model(texts_of_item).T
        margins.append(relevant - other)
    return torch.cat(margins)


def time_attack(bench: Bench) -> Result:
    """Candidates that a greedy attack scores a second, against one query at a time, padded.

    Ours: attacks.Scorer, all queries at once, each distinct text once, sorted by length. Theirs, as
    TextAttack and OpenAttack do it: one query after the other, its candidates one batch padded to
    512 tokens (what TextAttack takes for XLM-R). Same bundled model, queries and passages, and the
    same margins. Not timed: loading, encoding the passages, looking words up.
    """
    siege = make_siege(bench.sizes.attacked)
    model, margins = Padded(siege), {}

    def ours(turn):
        margins["ours"] = score_ours(siege)

    def theirs(turn):
        margins["theirs"] = score_padded(model, siege)

    seconds = take_turns(ours, theirs, bench.repeats)
    gap = float((margins["ours"] - margins["theirs"]).abs().max())
    if not gap < 1e-4:
        raise ValueError(f"the two ways differ by {gap:.1e} in a margin: different things.")
    ours_rate, theirs_rate = rates(siege.count, seconds[0]), rates(siege.count, seconds[1])
    return Result("scores/s", ours_rate, theirs_rate, f"margins agree to {gap:.0e}")


def time_textattack(bench: Bench) -> Result:
    """As the row attack, against TextAttack itself on the same queries.

    Theirs: its greedy search (leave-one-out, then the best replacement) over our word table, with
    the padded model, whose (best other, best relevant) it sees as two classes. It stops when a
    query is broken, skips one that is wrong from the start, and finds its own words: it scores
    other candidates than ours, and only the rate compares. Timed with its own search around them.
    """
    textattack = peer("textattack")
    constraints = importlib.import_module("textattack.constraints.pre_transformation")
    siege = make_siege(bench.sizes.attacked)

    class Swap(textattack.transformations.WordSwap):
        lang = ""

        def _get_replacement_words(self, word):
            return siege.tables.get(self.lang, {}).get(word.lower(), [])

    swap, model = Swap(), Padded(siege)
    goal = textattack.goal_functions.UntargetedClassification(model)
    search = textattack.search_methods.GreedyWordSwapWIR(wir_method="delete")
    attack = textattack.Attack(goal, [constraints.RepeatModification()], swap, search)

    def ours(turn):
        score_ours(siege)

    def theirs(turn):
        model.scored = 0
        for item in siege.items:
            swap.lang = item.source.lang
            model.aim(item)
            attack.clear_cache()  # the same text has another score for another query
            attack.attack(item.source.text, 1)

    seconds = take_turns(ours, theirs, bench.repeats)
    return Result("scores/s", rates(siege.count, seconds[0]), rates(model.scored, seconds[1]))


# ---- rows: what a robust step costs --------------------------------------------------------------

METHODS = (
    "rs-rp", "rs-da", "code-switch", "typos", "adv:weight=1", "adv", "adv:how=pgd,steps=2",
    "adv:how=pgd", "adv:how=freelb,steps=2", "adv:how=freelb", "rs-da+self-teaching",
    "rs-da:perturb=both",
)  # fmt: skip


def time_robust(bench: Bench, method: str) -> Result:
    """Seconds of a robust step, forward and back, over those of a plain one on the same batch.

    Both: hybrid batches of 100 pairs, bundled world and encoder, tokenization and edits included;
    clipping and AdamW are not. The same for every method. Replaceable words are looked up in all
    of a batch before, as in a run after its first epoch.
    """
    flags = replace(training_flags(), batch_size=bench.sizes.robust_batch)
    data = xlt.load_data(ROOT / "data/minifacts")
    encoder = xlt.load_encoder(ROOT / "data/tiny_xlmr").train()
    pairs = xlt.TrainingPairs(data, flags.train_langs)
    batches = list(xlt.batches(pairs, "hybrid", flags.batch_size, bench.repeats + 1))
    perturber = train.make_perturber(flags, data, encoder)
    plain = Scene(encoder, data, flags, perturber, None, batches)
    robust_flags = replace(flags, robust=method)
    perturber = train.make_perturber(robust_flags, data, encoder)
    robust = replace(plain, flags=robust_flags, perturber=perturber)
    for method_of_run in perturber.robust.methods:
        for batch in batches:
            look_up(perturber, method_of_run, batch)

    def ours(turn):
        encoder.zero_grad()
        our_gradient(robust, batches[turn])

    def theirs(turn):
        encoder.zero_grad()
        our_gradient(plain, batches[turn])

    return Result("s", *take_turns(ours, theirs, bench.repeats))


def look_up(perturber, method, batch):
    """Find the replaceable words of a batch, once."""
    if method.source in ("", "embeddings"):
        return
    positions = {"query": batch.queries, "passage": batch.passages}
    for tower in method.towers:
        for position in positions[tower]:
            perturber.slots(method.source, tower, position)


# ---- rows: two processes -------------------------------------------------------------------------


def time_processes(bench: Bench) -> Result:
    """Steps a second of two processes of one thread, over one process of two threads.

    The same batch, by halves or whole; torchrun and gloo, as on two GPUs. Timed in the processes:
    their steps after the first. Not timed: their start. One launch each a turn.
    """
    ours, theirs = [], []
    for _ in range(bench.repeats):
        ours.append(run_worker(bench, "steps", bench.sizes.batch, processes=2))
        theirs.append(run_worker(bench, "steps", bench.sizes.batch, processes=1))
    return Result("steps/s", ours, theirs, "STAND-IN for the distributed step, see SWITCH")


def steps_worker(bench, size):
    """Steps a second of this process and the others together (median)."""
    is_distributed = "RANK" in os.environ
    if is_distributed:
        torch.distributed.init_process_group("gloo")
    scene = open_scene(replace(bench, repeats=bench.sizes.steps), "fp32", "xquad", size)
    seconds = []
    for batch in scene.batches:
        start = time.perf_counter()
        if is_distributed:
            distributed_step(scene, batch)
        else:
            our_step(scene, batch)
        seconds.append(time.perf_counter() - start)
    rate = 1 / median(seconds[1:])  # the first warms up
    if is_distributed:
        rank = torch.distributed.get_rank()
        torch.distributed.destroy_process_group()
        if rank > 0:
            return None
    return rate


def distributed_step(scene: Scene, batch: xlt.Batch) -> None:
    """SWITCH: here the worker calls train.py's distributed step on the whole batch.

    Until then a stand-in: each process takes its share with its own negatives alone, and gradients
    are averaged. It costs what the real one costs, but for gathering the vectors.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = slice(rank, None, world)
    share = xlt.Batch(
        batch.kind, batch.queries[own], batch.passages[own], batch.gold[own],
        batch.passage_group[own],
    )  # fmt: skip
    our_gradient(scene, share)
    for parameter in scene.encoder.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world
    scene.optimizer.step()
    scene.optimizer.zero_grad()


# ---- rows: a GPU ---------------------------------------------------------------------------------


def open_gpu_scene(bench: Bench, folder: Path) -> tuple[Bench, Scene]:
    """XLM-R-base's shape with random weights on the GPU, batches of 256."""
    if not torch.cuda.is_available():
        raise Open("no GPU here")
    save_random_model(folder / "base", layers=12, width=768, rows=250_002)
    bench = replace(bench, model=folder / "base", data=None)
    size = bench.sizes.batch if bench.smoke else 256
    return bench, open_scene(bench, "bf16", "gpu", size, "cuda")


def time_gpu_training(bench: Bench) -> Result:
    """As train-bf16, on a GPU: XLM-R-base's shape, 256 pairs, lengths of XQuAD-R cut at 32 / 160."""
    with tempfile.TemporaryDirectory() as folder:
        return compare_training(*open_gpu_scene(bench, Path(folder)))


def time_gpu_share(bench: Bench) -> Result:
    """As share-bf16, on a GPU, with what gpu-train trains: model FLOP utilisation."""
    with tempfile.TemporaryDirectory() as folder:
        gpu_bench, scene = open_gpu_scene(bench, Path(folder))
        if not bench.smoke:  # 2048 is too small for a GPU to show what it can do
            gpu_bench = replace(gpu_bench, sizes=replace(bench.sizes, product=8192))
        return compare_share(gpu_bench, scene)


# ---- workers: rows that need a process of their own ----------------------------------------------


def worker_line(bench, name, numbers, processes):
    """The command of a worker, and its environment."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        command += ["--master-port", "0"]  # any that is free
    command += [__file__, "--worker", name, *map(str, numbers), "--model", str(bench.model)]
    if bench.data is not None:
        command += ["--data", str(bench.data)]
    if bench.smoke:
        command.append("--smoke")
    threads = max(1, torch.get_num_threads() // processes)
    return command, os.environ | {"OMP_NUM_THREADS": str(threads)}


def run_worker(bench: Bench, name: str, *numbers: int, processes: int = 1) -> float:
    """Run one of WORKERS in a process of its own, or in several -> its number."""
    command, environment = worker_line(bench, name, numbers, processes)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"worker {name}: {lines[-1][:200]}")
    return float(done.stdout.split()[-1])


WORKERS = {"memory": memory_worker, "search": search_worker, "steps": steps_worker}

# ---- all rows ------------------------------------------------------------------------------------

# fmt: off
ROWS = [
    Row("train-fp32", time_training, {"precision": "fp32", "lengths": "xquad"}, 4.5, floor=3.8),
    Row("train-bf16", time_training, {"precision": "bf16", "lengths": "xquad"}, 2.5, floor=1.8),
    Row("train-fp32-sentences", time_training, {"precision": "fp32", "lengths": "sentences"}, 2.0),
    Row("train-bf16-sentences", time_training, {"precision": "bf16", "lengths": "sentences"}, 2.5),
    Row("share-fp32", time_share, {"precision": "fp32", "frozen": False}, 0.75),
    Row("share-bf16", time_share, {"precision": "bf16", "frozen": False}, 0.60),
    Row("share-fp32-frozen", time_share, {"precision": "fp32", "frozen": True}, 0.75),
    Row("share-bf16-frozen", time_share, {"precision": "bf16", "frozen": True}, 0.60),
    Row("cache-time", time_caching, goal=1.4, sign="<="),
    Row("cache-memory", measure_caching_memory, goal=1.2, sign="<=", is_long=True),
    Row("metrics", time_metrics, goal=5.0),
    Row("metrics-product", time_metrics_product, goal=3.0, sign="<="),
    Row("metrics-pytrec", time_pytrec),
    Row("metrics-ranx", time_ranx),
    Row("search-memory", measure_search_memory, goal=1.0, sign="<=", is_long=True),
    Row("attack", time_attack, goal=20.0),
    Row("attack-textattack", time_textattack, goal=20.0),
    *[Row(f"robust-{method}", time_robust, {"method": method}) for method in METHODS],
    Row("processes", time_processes, goal=0.9),
    Row("gpu-train", time_gpu_training, goal=1.5),
    Row("gpu-mfu", time_gpu_share, goal=0.4),
]
# fmt: on


def choose_rows(patterns: list[str], all_rows: bool) -> list[Row]:
    """The rows that a pattern names; without any, those that are not long.

    *Errors*: ValueError for a pattern that names none.
    """
    if not patterns:
        return [row for row in ROWS if all_rows or not row.is_long]
    for pattern in patterns:
        if not fnmatch.filter([row.name for row in ROWS], pattern):
            names = ", ".join(row.name for row in ROWS)
            raise ValueError(f"--rows {pattern}: there is no such row. Take of {names}.")
    chosen = []
    for row in ROWS:
        if any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns):
            chosen.append(row)
    return chosen


def measure_row(row: Row, bench: Bench) -> dict:
    """The row's record for --json; its status is measured, open or failed."""
    record = {"name": row.name, "status": "measured", "goal": row.goal_text}
    try:
        result = row.measure(bench, **row.settings)
    except Open as reason:
        return record | {"status": "open", "note": str(reason)}
    except Exception as error:  # one row that fails must not cost the others
        return record | {"status": "failed", "note": f"{type(error).__name__}: {error}"}
    ratios = sorted(result.ratios)
    ratio = median(ratios)
    summary = {
        "ratio": ratio,
        "least": ratios[0],
        "most": ratios[-1],
        "n": len(ratios),
        "reached": row.reached(ratio),
    }
    return record | summary | asdict(result)


def table_cells(record: dict) -> list[str]:
    """One line of the table."""
    if record["status"] != "measured":
        return [record["name"], "", "", "", record["goal"], f"{record['status']}: {record['note']}"]
    ours, theirs = median(record["ours"]), median(record["theirs"])
    span = f"{record['least']:.2f} to {record['most']:.2f}, {record['n']}"
    return [
        record["name"],
        f"{ours:.4g} {record['unit']}",
        f"{theirs:.4g} {record['unit']}",
        f"{record['ratio']:.2f} ({span})",
        record["goal"],
        record["reached"],
    ]


def describe_machine(bench: Bench) -> dict:
    """What every number depends on."""
    machine = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "model": str(bench.model),
        "texts": str(bench.data or "synthetic, of XQuAD-R's lengths"),
    }
    for precision in DTYPES:
        multiply, operations = product_of(bench.sizes.product, precision)
        seconds, _ = take_turns(multiply, multiply, bench.repeats)
        machine[f"product {precision}, GFLOP/s"] = round(operations / median(seconds) / 1e9, 1)
    return machine | xlt.versions()


# ---- the program ---------------------------------------------------------------------------------


def parse(argv=None):
    """The flags of bench.py."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False, formatter_class=xlt.Help
    )
    add = parser.add_argument
    # fmt: off
    add("--rows", nargs="+", default=[], metavar="NAME", help='e.g. metrics "train-*"')
    add("--all", action="store_true", help="also the rows that take many minutes")
    add("--repeats", type=int, default=5, metavar="N", help="turns a row, at least 1; 5 to report")
    add("--json", type=Path, metavar="FILE", help="write the records")
    add("--model", type=Path, help="Hugging Face folder (default: data/e5_small, if it is "
        "there, else random weights of 6 layers x 384)")
    add("--data", type=Path, help="XQuAD-R as a data folder (default: data/xquad_r, if its "
        "corpus.jsonl is there, else synthetic texts)")
    add("--smoke", action="store_true", help="tiny, one turn: does every row run?")
    add("--worker", nargs="+", help=argparse.SUPPRESS)  # run_worker's
    # fmt: on
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: at least 1")
    try:
        args.rows = choose_rows(args.rows, args.all)
    except ValueError as error:
        parser.error(str(error))
    return args


def open_bench(args, folder: Path) -> Bench:
    """Choose model and data, and write the model so that both sides open the same folder."""
    sizes, repeats = Sizes(), args.repeats
    if args.smoke:
        sizes, repeats = SMOKE, 1
    data, model = args.data, args.model
    if data is None and (ROOT / "data/xquad_r/corpus.jsonl").exists():
        data = ROOT / "data/xquad_r"
    if model is None and (ROOT / "data/e5_small").exists():
        model = ROOT / "data/e5_small"
    if model is None:
        model = folder / "random"
        save_random_model(model, sizes.layers, sizes.width)
    elif not args.worker:
        source, model = model, folder / "model"
        model.mkdir()
        xlt.save_encoder(xlt.load_encoder(source), model)
    return Bench(sizes, repeats, model, data, args.smoke)


def main(argv=None) -> int:
    """Measure and print. Exit 0 done, whatever the goals; 1 a row failed; 2 usage."""
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            bench = open_bench(args, Path(folder))
            if args.worker:
                name, *numbers = args.worker
                print(WORKERS[name](bench, *map(int, numbers)))
                return 0
            machine = describe_machine(bench)
        except (ValueError, OSError) as error:
            print(f"bench.py: {error}", file=sys.stderr)
            return 1
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        records = []
        for row in args.rows:
            records.append(measure_row(row, bench))
            print(" | ".join(table_cells(records[-1])), file=sys.stderr, flush=True)
    head = ["row", "ours", "theirs", "ratio (least to most, n)", "goal", "reached?"]
    print(evaluate.markdown_table([head, *map(table_cells, records)]))
    if args.json:
        xlt.write_json(args.json, {"machine": machine, "rows": records})
    return int(any(record["status"] == "failed" for record in records))


if __name__ == "__main__":
    sys.exit(main())
