"""How fast this project is, and beside whom: one table of ratios, each measured in one run.

    python tests/bench.py --json bench.json     # all rows but the long ones, medians of five turns
    python tests/bench.py --rows train-fp32 "metrics*" --model DIR      # DIR: multilingual-e5-small
    python tests/bench.py --all                 # also those that take many minutes

    ratio = ours / theirs of one quantity, in turns: ours, theirs, ours, theirs, ...

A row is a function with two sides; its docstring says what is timed on each and what is not.
Where to look next: `our_step` and `their_step` are what the training rows compare, ROWS has all
rows and goals. A goal that is missed is a result (exit code 0); a row whose two sides do different
things, or that breaks, has failed (1).
Left out on purpose: quality (study.py), and loading. A peer that is not installed leaves its row
open, which says how to install it. Without XQuAD-R the texts are random words, as many as its texts
have tokens; without an encoder the weights are random. A step computes as much either way.
"""

import argparse
import fnmatch
import importlib
import itertools
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
# percent of the texts have at most so many. Sentences: passages of MLQA-R, up to 3,000 a language
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
    gpu_batch: int = 256
    cached_batch: int = 128
    large_batch: int = 4096
    robust_batch: int = 100
    chunk: int = 64
    layers: int = 6  # of the encoder of random weights
    width: int = 384
    pairs: int = 2048  # synthetic ones, to draw batches from
    product: int = 2048  # rows and columns of the matrices that say what a machine can do
    gpu_product: int = 8192
    questions: int = 1190  # each in 11 languages, as XQuAD-R
    passages: int = 13014
    ranked: int = 1000  # queries against pytrec_eval and ranx, and candidates of each
    searched: int = 1_000_000
    attacked: int = 40
    steps: int = 4  # of one process


SMOKE = Sizes(
    batch=8, gpu_batch=8, cached_batch=16, large_batch=64, robust_batch=16, chunk=8, layers=1,
    width=48, pairs=128, product=128, gpu_product=128, questions=20, passages=220, ranked=50,
    searched=50_000, attacked=4, steps=2,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every row is given."""

    sizes: Sizes
    repeats: int
    model: Path  # a folder that load_encoder and SentenceTransformer open alike
    data: Path | None  # XQuAD-R as a data folder
    smoke: bool


# ---- turns, results, peers -----------------------------------------------------------------------


class Open(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Result:
    """One quantity of both sides, one value a turn."""

    unit: str
    ours: list[float]
    theirs: list[float]
    note: str = ""


@dataclass
class Turns:
    """Seconds of both sides, one value a turn, and what they gave in the last one."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    our_value: object = None
    their_value: object = None

    def rates(self, amount: float, note: str = "", unit: str = "queries/s") -> Result:
        return Result(unit, rates(amount, self.ours), rates(amount, self.theirs), note)


def peer(module: str):
    """Import another library, or leave the row open."""
    try:
        return importlib.import_module(module)
    except (ImportError, LookupError) as error:  # LookupError: nltk's data are missing
        reason = " ".join(str(error).split())[:80]
        raise Open(f"{module}: {reason}; pip install {PEERS[module]}") from None


def timed(function: Callable, turn: int) -> tuple[float, object]:
    """Seconds of one call, with what it leaves a GPU to do, and its value."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = function(turn)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, value


def take_turns(ours: Callable, theirs: Callable, repeats: int) -> Turns:
    """Time both sides, turn about; turn 0 warms up and does not count."""
    turns = Turns()
    for turn in range(repeats + 1):
        our_seconds, turns.our_value = timed(ours, turn)
        their_seconds, turns.their_value = timed(theirs, turn)
        if turn > 0:
            turns.ours.append(our_seconds)
            turns.theirs.append(their_seconds)
    return turns


def rates(amount: float, seconds: list[float]) -> list[float]:
    """So much a second, of each turn."""
    return [amount / s for s in seconds]


def ratios(result: Result) -> list[float]:
    """Of each turn: what slows the machine down for a minute slows both sides."""
    return [ours / theirs for ours, theirs in zip(result.ours, result.theirs, strict=True)]


def square_matrices(size: int, precision: str, device="cpu") -> tuple[Tensor, Tensor]:
    """What says how fast a machine multiplies: their product takes 2 size^3 operations."""
    left = torch.randn(size, size, device=device, dtype=DTYPES[precision])
    return left, torch.randn(size, size, device=device, dtype=DTYPES[precision])


def multiply_five_times(left, right, turn):
    """One product alone is short, and noisy. (N, N) @ (N, N) -> (N, N)"""
    for _ in range(5):
        left @ right


def memory_bytes(name: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process, from Linux's /proc.

    SUBTLE: not getrusage's ru_maxrss, which begins at that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        raise Open("memory is read from Linux's /proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines():  # "VmRSS:    1234 kB"
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise Open(f"/proc/self/status has no {name}")


# ---- what is trained: an encoder, texts, a batch for each turn -----------------------------------


@dataclass
class Scene:
    """What our training step takes."""

    encoder: xlt.Encoder
    data: xlt.DataSet
    flags: train.RunFlags
    perturber: train.Perturber
    optimizer: torch.optim.Optimizer
    batches: list[xlt.Batch]

    def texts(self, turn: int) -> tuple[list[xlt.Text], list[xlt.Text]]:
        """Queries and passages of a batch."""
        batch = self.batches[turn]
        queries = [self.data.queries[i] for i in batch.queries]
        return queries, [self.data.passages[i] for i in batch.passages]


def save_random_model(folder: Path, layers: int, width: int, words: int | None = None) -> None:
    """An encoder of XLM-R's shape and random weights, 12 heads, with the bundled tokenizer."""
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaModel

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/tiny_xlmr")
    config = XLMRobertaConfig(
        vocab_size=words or len(tokenizer),
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
    xlt.save_encoder(xlt.Encoder(model, tokenizer, xlt.Settings(query_length=256)), folder)


def single_words(tokenizer, most: int = 200) -> list[str]:
    """Words of one token each, so that the length of a text can be chosen."""
    words = []
    for token in sorted(tokenizer.get_vocab()):
        word = token[1:]
        is_word = token[0] == "▁" and word.isascii() and word.isalpha()
        if is_word and len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1:
            words.append(word)
            if len(words) == most:
                break
    return words


def lengths_like(quantiles: list[int], n: int) -> np.ndarray:
    """n lengths with these quantiles: n = 2 takes those at 25 and at 75 percent."""
    percent = 100 * (np.arange(n) + 0.5) / n
    return np.interp(percent, PERCENT, quantiles).round().astype(int)


def random_texts(encoder, tower: str, quantiles, n: int) -> list[xlt.Text]:
    """n texts of random words with chosen numbers of tokens, in random order."""
    words, rng = single_words(encoder.tokenizer), xlt.generator(0, "bench", tower)
    one_word = encoder.tokenize([xlt.Text("", "en", words[0], "")], tower)[0]
    around = len(one_word["input_ids"]) - 1  # prefix and special tokens
    lengths, texts = lengths_like(quantiles, n), []
    for i, place in enumerate(torch.randperm(n, generator=rng).tolist()):
        count = max(1, int(lengths[place]) - around)
        chosen = torch.randint(len(words), (count,), generator=rng).tolist()
        text = " ".join(words[word] for word in chosen)
        texts.append(xlt.Text(f"{tower}{i}", "en", text, f"g{i}"))
    return texts


def random_data(encoder: xlt.Encoder, lengths: str, n: int) -> xlt.DataSet:
    """n pairs whose texts are as long as LENGTHS says."""
    of_queries, of_passages = LENGTHS[lengths]
    queries = random_texts(encoder, "query", of_queries, n)
    passages = random_texts(encoder, "passage", of_passages, n)
    return xlt.DataSet(ROOT, queries, passages, {"test": {i: {i: 1.0} for i in range(n)}})


def draw_batches(data: xlt.DataSet, size: int, n: int) -> list[xlt.Batch]:
    """n batches of pairs, no two passages of a group in one: there is nothing to mask."""
    pairs = [(query, p) for query, relevant in data.qrels["test"].items() for p in relevant]
    groups = {data.passages[p].group for _, p in pairs}
    if len(groups) < size:
        raise ValueError(f"{data.folder}: {len(groups)} groups of passages for a batch of {size}.")
    order = torch.randperm(len(pairs), generator=xlt.generator(0, "bench")).tolist()
    stream, batches, own = itertools.cycle(order), [], torch.arange(size)
    for _ in range(n):
        chosen = {}  # group -> pair
        while len(chosen) < size:
            query, passage = pairs[next(stream)]
            chosen.setdefault(data.passages[passage].group, (query, passage))
        queries, passages = zip(*chosen.values(), strict=True)
        batches.append(xlt.Batch("mixed", list(queries), list(passages), own[:, None], own))
    return batches


def training_flags(**changes) -> train.RunFlags:
    """train.py's usual flags but for the changes."""
    flags = train.single_runs(train.parse([]))[0]
    return replace(flags, **({"lr": 3e-5} | changes))


def open_scene(bench: Bench, precision: str, lengths: str, size: int, device="cpu") -> Scene:
    """The encoder in train mode, and a batch a turn: of XQuAD-R where it is there and is meant."""
    encoder = xlt.load_encoder(bench.model, device, precision).train()
    if lengths == "xquad" and bench.data is not None:
        data = xlt.load_data(bench.data)
    else:
        data = random_data(encoder, lengths, max(size, bench.sizes.pairs))
    flags = training_flags(precision=precision, batch_size=size)
    perturber = train.Perturber(train.parse_robust("none"), 0, data, 1.0)
    optimizer = train.make_optimizer(encoder, flags)
    batches = draw_batches(data, size, bench.repeats + 1)
    return Scene(encoder, data, flags, perturber, optimizer, batches)


def our_gradient(scene: Scene, turn: int) -> float:
    """Tokenization, forward and backward pass of ours -> the loss."""
    scene.encoder.chunk_size = scene.flags.chunk_size
    batch = scene.batches[turn]
    report = train.training_step(scene.encoder, batch, scene.flags, scene.perturber, turn)
    return report.losses.loss.item()


def our_step(scene: Scene, turn: int) -> None:
    """One whole training step of ours."""
    our_gradient(scene, turn)
    train.update(scene.encoder, scene.optimizer, scene.flags.clip)


# ---- the same step of sentence-transformers ------------------------------------------------------


@dataclass
class Library:
    """The same model, opened by sentence-transformers, and what its training step takes."""

    scene: Scene
    model: torch.nn.Module
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    precision: str


def open_library(bench: Bench, scene: Scene) -> Library:
    """SentenceTransformer with MultipleNegativesRankingLoss, scale 1 / tau."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(str(bench.model), device=str(scene.encoder.device)).train()
    loss = MultipleNegativesRankingLoss(model, scale=1 / scene.flags.tau)
    flags = scene.flags
    optimizer = torch.optim.AdamW(model.parameters(), lr=flags.lr, weight_decay=flags.weight_decay)
    return Library(scene, model, loss, optimizer, scene.encoder.precision)


def their_gradient(library: Library, turn: int) -> float:
    """Tokenization, forward and backward pass, as their Trainer goes through them -> the loss."""
    settings, device = library.scene.encoder.settings, library.scene.encoder.device
    queries, passages = library.scene.texts(turn)
    prompted = [(settings.query_prefix, queries), (settings.passage_prefix, passages)]
    columns = []
    for prompt, texts in prompted:
        column = library.model.preprocess([text.text for text in texts], prompt=prompt)
        for name, value in column.items():
            if isinstance(value, Tensor):
                column[name] = value.to(device)
        columns.append(column)
    with torch.autocast(device.type, torch.bfloat16, enabled=library.precision == "bf16"):
        loss = library.loss(columns, None)
    loss.backward()
    return float(loss.detach())


def their_step(library: Library, turn: int) -> None:
    """One whole training step of theirs."""
    their_gradient(library, turn)
    torch.nn.utils.clip_grad_norm_(library.model.parameters(), library.scene.flags.clip)
    library.optimizer.step()
    library.optimizer.zero_grad()


def largest_difference(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Largest relative difference of a parameter's gradient: |ours - theirs| / |theirs|.

    Left out are those below 1e-4 of the norm of all: softmax does not feel the keys' bias, whose
    gradient is rounding alone.
    *Errors*: ValueError for a parameter that only one side trains.
    """
    our_grads = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    their_grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    if our_grads.keys() != their_grads.keys():
        names = sorted(our_grads.keys() ^ their_grads.keys())
        raise ValueError(f"only one side has a gradient of {', '.join(names[:3])}.")
    total = torch.stack([grad.norm() for grad in their_grads.values()]).norm()
    gaps = [torch.tensor(0.0)]
    for name, grad in their_grads.items():
        if not grad.norm() < 1e-4 * total:  # NaN is compared, too
            gaps.append(((our_grads[name] - grad).norm() / grad.norm()).cpu())
    return float(torch.stack(gaps).max())  # unlike Python's, torch's max keeps a NaN


def check_same(library: Library) -> str:
    """Refuse two steps with different losses or gradients (fp32, no dropout). -> note

    *Errors*: ValueError, which fails the row.
    """
    encoder, model, precision = library.scene.encoder, library.model, library.precision
    encoder.eval()
    model.eval()
    encoder.precision = library.precision = "fp32"
    ours, theirs = our_gradient(library.scene, 0), their_gradient(library, 0)
    difference = largest_difference(encoder.model, model[0].auto_model)
    encoder.precision = library.precision = precision
    train.zero_gradients(encoder.train())
    model.train().zero_grad()
    note = f"losses {ours:.6f} and {theirs:.6f}, gradients differ by {difference:.1e}"
    if not (abs(ours - theirs) < 1e-4 * abs(theirs) and difference < 1e-4):
        raise ValueError(f"{note}: the ratio would compare two things.")
    return note


# ---- rows: a training step -----------------------------------------------------------------------


def time_training(bench: Bench, precision: str, lengths: str) -> Result:
    """Training pairs a second.

    Timed on both sides, on the same batches: tokenization, forward and backward pass in train mode
    (dropout on), clipping, AdamW, zero_grad. Not timed: drawing the batches. Both have the same
    weights, prefixes, tau and mean pooling, and show the same loss and gradient before the clock
    runs. bf16 is autocast; ours computes scores and loss in fp32, theirs under autocast.
    """
    peer("sentence_transformers")
    return compare_steps(bench, open_scene(bench, precision, lengths, bench.sizes.batch))


def compare_steps(bench, scene):
    """Our step and theirs in turns."""
    library = open_library(bench, scene)
    note = check_same(library)
    turns = take_turns(partial(our_step, scene), partial(their_step, library), bench.repeats)
    return turns.rates(scene.flags.batch_size, note, "pairs/s")


def step_operations(parameters: int, tokens: int) -> int:
    """What a step has to compute: 2 for a weight and a token forward, 4 backward."""
    return 6 * parameters * tokens


def time_share(bench: Bench, precision: str, frozen: bool) -> Result:
    """Share of the machine's rate of matrix multiplication that our whole step reaches.

    Ours: 6 x (parameters without embeddings) x (real tokens) / seconds of all of `our_step`.
    Theirs: plain products of 2048 x 2048 in the same precision. Attention's own products and the
    embeddings are no work here, but take time. frozen: word embeddings are not trained.
    """
    scene = open_scene(bench, precision, "xquad", bench.sizes.batch)
    if frozen:
        scene.flags = replace(scene.flags, freeze_words=True)
        scene.optimizer = train.make_optimizer(scene.encoder, scene.flags)
    return compare_with_product(bench, scene, bench.sizes.product)


def compare_with_product(bench, scene, size):
    """Our step and plain products in turns."""
    parameters = 0
    for name, parameter in scene.encoder.model.named_parameters():
        if not name.startswith("embeddings."):
            parameters += parameter.numel()
    matrices = square_matrices(size, scene.encoder.precision, scene.encoder.device)
    products = partial(multiply_five_times, *matrices)
    turns = take_turns(partial(our_step, scene), products, bench.repeats)
    ours = []
    for turn, seconds in enumerate(turns.ours, 1):
        queries, passages = scene.texts(turn)
        rows = scene.encoder.tokenize(queries, "query")
        rows += scene.encoder.tokenize(passages, "passage")
        tokens = sum(len(row["input_ids"]) for row in rows)
        ours.append(step_operations(parameters, tokens) / 1e9 / seconds)
    theirs = rates(5 * 2 * size**3 / 1e9, turns.theirs)
    return Result("GFLOP/s", ours, theirs, f"{parameters / 1e6:.2f} million parameters")


def time_caching(bench: Bench) -> Result:
    """Seconds of a step with gradient caching, over those of a plain one on the same batch.

    Both sides: all of `our_step`, one encoder.
    """
    chunked = training_flags(batch_size=bench.sizes.cached_batch, chunk_size=bench.sizes.chunk)
    plain = open_scene(bench, "fp32", "xquad", bench.sizes.cached_batch)
    plain.flags = replace(chunked, chunk_size=0)
    cached = replace(plain, flags=chunked)
    turns = take_turns(partial(our_step, cached), partial(our_step, plain), bench.repeats)
    return Result("s", turns.ours, turns.theirs)


def measure_caching_memory(bench: Bench) -> Result:
    """Peak memory of one cached step of a large batch, over that of a small one, equal chunks.

    Each in a process of its own, from its start: Python, weights, AdamW, one `our_step`. Texts are
    synthetic (XQuAD-R has too few for 4096). Once: it does not scatter.
    """
    sizes = bench.sizes
    large = run_worker(bench, "memory", sizes.large_batch)
    small = run_worker(bench, "memory", sizes.cached_batch)
    return Result("MB", [large], [small], f"batch {sizes.large_batch} and {sizes.cached_batch}")


def memory_worker(bench, size):
    """Megabytes that one cached step needs at most."""
    scene = open_scene(replace(bench, repeats=0, data=None), "fp32", "xquad", size)
    scene.flags = training_flags(batch_size=size, chunk_size=bench.sizes.chunk)
    our_step(scene, 0)
    return memory_bytes("VmHWM") / 1e6


# ---- rows: metrics -------------------------------------------------------------------------------


def hand_made_pools(p: Tensor, borders: list[int], relevant: Tensor, lang: Tensor) -> attacks.Pools:
    """Pools of languages l00, l01, ...; every relevance is 1. p (P + 1, D), relevant (Q, R)"""
    langs = [f"l{i:02}" for i in range(len(borders) - 1)]
    nothing, left_out = torch.zeros(len(lang), 0), torch.full((len(lang),), len(p) - 1)
    gains = torch.ones(relevant.shape)
    return attacks.Pools(
        p, langs, borders, relevant, gains, query_lang=lang, missing=nothing, left_out=left_out
    )


def make_vectors(
    questions: int, passages: int, dim=384, n_langs=11
) -> tuple[Tensor, attacks.Pools]:
    """Unit vectors of a meaning and noise; a question is answered once in each language."""
    rng = xlt.generator(0, "bench", "vectors")
    meanings = torch.randn(questions, dim, generator=rng)
    borders = [passages * i // n_langs for i in range(n_langs + 1)]
    parts, relevant = [], []
    for start, end in itertools.pairwise(borders):
        count = end - start
        parts.append(meanings[torch.arange(count) % questions])
        relevant.append(start + torch.arange(questions) % count)
    p = torch.cat(parts) + 2 * torch.randn(passages, dim, generator=rng)
    q = meanings.repeat(n_langs, 1) + 2 * torch.randn(n_langs * questions, dim, generator=rng)
    padded = F.pad(F.normalize(p, dim=1), (0, 0, 0, 1))  # (P, D) -> (P + 1, D)
    rows = torch.stack(relevant, dim=1).repeat(n_langs, 1)  # (Q, 11)
    lang = torch.arange(n_langs).repeat_interleave(questions)  # (Q,)
    return F.normalize(q, dim=1), hand_made_pools(padded, borders, rows, lang)


def rank_ours(q: Tensor, pools: attacks.Pools, turn=0, views=evaluate.VIEWS) -> evaluate.Ranked:
    """All metrics of all cells, from vectors."""
    query_langs = np.array(pools.langs)[pools.query_lang.numpy()]
    return evaluate.rank_cells(q, pools, evaluate.make_cells(query_langs, pools.langs, views))


class GivenVectors:
    """A model for sentence-transformers' evaluator, which has encoded the queries already."""

    def __init__(self, q):
        self.q = q

    def encode_query(self, texts, **_):
        return self.q


def time_metrics(bench: Bench) -> Result:
    """Queries a second, from vectors to metrics: 13,090 queries, 13,014 passages, D = 384.

    Ours: cells, scores and all metrics in three views (own language, each other one, all), over
    whole rankings. Theirs: compute_metrices of InformationRetrievalEvaluator, scores and metrics of
    the best 100 in the pool of all alone, with its usual cutoffs. Not timed: encoding, making ids.
    R@10, MRR@10 and nDCG@10 of the pool must agree to 1e-4.
    """
    peer("sentence_transformers")
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import dot_score

    q, pools = make_vectors(bench.sizes.questions, bench.sizes.passages)
    relevant = {}
    for i, rows in enumerate(pools.relevant.tolist()):
        relevant[f"q{i}"] = {f"p{row}" for row in rows}
    passages = {f"p{row}": "" for row in range(len(pools.p) - 1)}
    evaluator = InformationRetrievalEvaluator(
        dict.fromkeys(relevant, ""), passages, relevant, score_functions={"dot": dot_score}
    )

    def theirs(turn):
        return evaluator.compute_metrices(GivenVectors(q), corpus_embeddings=pools.p[:-1])["dot"]

    turns = take_turns(partial(rank_ours, q, pools), theirs, bench.repeats)
    our_means, their_means = {}, {}
    for metric, name in (("R@10", "recall@k"), ("MRR@10", "mrr@k"), ("nDCG@10", "ndcg@k")):
        cells = []
        for (_, passage_lang), values in turns.our_value.items():
            if passage_lang == "*":
                cells.append(values[metric])
        our_means[metric] = np.concatenate(cells).mean()
        their_means[metric] = turns.their_value[name][10]
    return turns.rates(len(q), check_means(our_means, their_means, 1e-4))


def check_means(ours: dict, theirs: dict, tolerance: float) -> str:
    """Refuse rankings whose metrics differ. -> note"""
    for metric, value in ours.items():
        if not abs(value - theirs[metric]) < tolerance:
            raise ValueError(f"{metric} is {value:.7f} and {theirs[metric]:.7f}: different things.")
    return ", ".join(f"{metric} {value:.4f}" for metric, value in ours.items())


def time_metrics_product(bench: Bench) -> Result:
    """Seconds of our side of the row metrics, over those of one fp32 product of its scores.

    Theirs: (13,090, 384) @ (384, 13,014), and nothing else.
    """
    q, pools = make_vectors(bench.sizes.questions, bench.sizes.passages)

    def product(turn):
        return q @ pools.p[:-1].T  # (Q, D) @ (D, P) -> (Q, P)

    turns = take_turns(partial(rank_ours, q, pools), product, bench.repeats)
    return Result("s", turns.ours, turns.theirs)


LOST = 2.0  # relevance of one more passage, which nobody has found


def make_rankings(n: int) -> tuple[Tensor, Tensor]:
    """Distinct scores (n, n) and gains 1 to 3 of the first eleven columns, which tend to be high."""
    rng = xlt.generator(0, "bench", "rankings")
    noise = torch.rand(n, n, generator=rng)
    noise[:, :11] += torch.rand(n, 1, generator=rng) / 2
    scores = noise.argsort(1).argsort(1).float()  # whole numbers: the place from behind
    return scores, torch.randint(1, 4, (n, 11), generator=rng).float()


def measure_ours(scores: Tensor, gains: Tensor, turn: int) -> dict[str, float]:
    """Means of four metrics, from scores (all eight are computed)."""
    hits, others = scores[:, : gains.shape[1]], scores[:, gains.shape[1] :].clone()  # (Q, 11)
    others.numpy().sort(axis=1)
    above = others.shape[1] - torch.searchsorted(others, hits.contiguous())  # (Q, 11)
    ranks, gains = evaluate.relevant_ranks(hits, above, gains)
    ranks, gains = F.pad(ranks, (0, 1)), F.pad(gains, (0, 1), value=LOST)  # (Q, 12)
    values = evaluate.measure(ranks.numpy(), gains.numpy())
    return {metric: values[metric].mean() for metric in ("mAP", "R@10", "MRR@10", "nDCG@10")}


def time_pytrec(bench: Bench) -> Result:
    """Queries a second from scores to mAP, R@10, MRR@10, nDCG@10: 1,000 queries, the best 1,000.

    Ours: a sort, as count_others does it, relevant_ranks and measure. Theirs: scores to the
    dictionaries that pytrec_eval takes, its evaluate, means. Not timed: ids, its qrels. Values must
    agree to 1e-6. Conventions: trec_eval does not cut recip_rank, which is cut here; among ties it
    goes by id, ours is pessimistic (there are none here). Gains of nDCG are linear in both.
    """
    pytrec_eval = peer("pytrec_eval")
    scores, gains = make_rankings(bench.sizes.ranked)
    names, qrels = [f"p{i}" for i in range(len(scores))], {}
    for i, of_query in enumerate(gains.int().tolist()):
        qrels[f"q{i}"] = {"lost": int(LOST)} | dict(zip(names, of_query, strict=False))
    metrics = {"map", "recall.10", "recip_rank", "ndcg_cut.10"}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, metrics)

    def theirs(turn):
        run = {}
        for i, of_query in enumerate(scores.tolist()):
            run[f"q{i}"] = dict(zip(names, of_query, strict=True))
        values = evaluator.evaluate(run).values()
        first = np.array([value["recip_rank"] for value in values])
        means = {"MRR@10": np.where(first >= 0.1, first, 0.0).mean()}  # cut at rank 10
        for metric, name in (("mAP", "map"), ("R@10", "recall_10"), ("nDCG@10", "ndcg_cut_10")):
            means[metric] = np.mean([value[name] for value in values])
        return means

    turns = take_turns(partial(measure_ours, scores, gains), theirs, bench.repeats)
    return turns.rates(len(scores), check_means(turns.our_value, turns.their_value, 1e-6))


def time_ranx(bench: Bench) -> Result:
    """As the row metrics-pytrec, beside ranx and its compiled functions.

    Theirs: the scores sorted and stacked to the arrays that ranx takes (its dictionaries are
    slower), its evaluate. Not timed: compilation (in the turn that warms up), its qrels.
    Conventions: none differs; its mrr@10 is cut, its gains are linear.
    """
    ranx = peer("ranx")
    scores, gains = make_rankings(bench.sizes.ranked)
    columns = torch.arange(12).expand(len(gains), 12).clone()
    columns[:, 11] = len(scores)  # no candidate has this number
    all_gains, order = F.pad(gains, (0, 1), value=LOST).sort(dim=1, descending=True)  # (Q, 12)
    qrels = torch.stack([columns.gather(1, order), all_gains], dim=2).double().numpy()
    names = {"mAP": "map", "R@10": "recall@10", "MRR@10": "mrr@10", "nDCG@10": "ndcg@10"}

    def theirs(turn):
        sorted_scores, ranking = scores.sort(dim=1, descending=True)  # (Q, P)
        run = torch.stack([ranking, sorted_scores], dim=2).double().numpy()  # (Q, P, 2)
        means = ranx.evaluate(qrels, run, list(names.values()))
        return {metric: means[name] for metric, name in names.items()}

    turns = take_turns(partial(measure_ours, scores, gains), theirs, bench.repeats)
    return turns.rates(len(scores), check_means(turns.our_value, turns.their_value, 1e-6))


def measure_search_memory(bench: Bench) -> Result:
    """Gigabytes beside the vectors while 1,000 queries are ranked in a million passages, D = 384.

    Ours: the peak during rank_cells, pool of all, in a process of its own, minus what it held
    before (vectors, libraries). Theirs: the half gigabyte that is allowed. Once.
    """
    used = run_worker(bench, "search", bench.sizes.searched)
    return Result("GB", [used], [0.5], f"{bench.sizes.searched} passages")


def search_worker(bench, passages):
    """Gigabytes that ranking needs beside the vectors."""
    p = torch.randn(passages + 1, 384)
    for block in p.split(10_000):
        block /= block.norm(dim=1, keepdim=True)  # in place: no second copy
    p[-1] = 0
    queries = bench.sizes.ranked
    lang = torch.zeros(queries, dtype=torch.long)
    pools = hand_made_pools(p, [0, passages], torch.arange(queries)[:, None], lang)
    q = p[:queries].clone()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins here
    before = memory_bytes("VmRSS")
    rank_ours(q, pools, views=["pool"])
    return (memory_bytes("VmHWM") - before) / 1e9


# ---- rows: an attack's candidates ----------------------------------------------------------------


@dataclass
class Siege:
    """Dev queries of the bundled world under a greedy attack, and the texts to score for each."""

    encoder: xlt.Encoder  # the bundled one
    pools: attacks.Pools
    items: list[attacks.AttackedQuery]
    texts: list[list[str]]  # of each query: itself, and each of its single replacements
    tables: attacks.Tables


def candidates(item: attacks.AttackedQuery) -> list[str]:
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


def score_ours(siege: Siege, turn: int) -> Tensor:
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
        self.model, self.scored = siege.encoder.model, 0  # TextAttack asks a model for its .model
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


def score_padded(siege: Siege, model: Padded, turn: int) -> Tensor:
    """The candidates of one query after the other -> margins in the pool of all."""
    margins = []
    for item, texts_of_item in zip(siege.items, siege.texts, strict=True):
        model.aim(item)
        other, relevant = model(texts_of_item).T
        margins.append(relevant - other)
    return torch.cat(margins)


def time_attack(bench: Bench) -> Result:
    """Candidates that a greedy attack scores a second, beside one query at a time, padded.

    Ours: attacks.Scorer, all queries at once, each distinct text once, sorted by length. Theirs, as
    TextAttack and OpenAttack do it: one query after the other, its candidates one batch padded to
    512 tokens (what TextAttack takes for XLM-R). Bundled model and world; the margins must agree.
    Not timed: encoding the passages, looking words up.
    """
    siege = make_siege(bench.sizes.attacked)
    padded = partial(score_padded, siege, Padded(siege))
    turns = take_turns(partial(score_ours, siege), padded, bench.repeats)
    gap = float((turns.our_value - turns.their_value).abs().max())
    if not gap < 1e-4:
        raise ValueError(f"the two ways differ by {gap:.1e} in a margin: different things.")
    return turns.rates(len(turns.our_value), f"margins agree to {gap:.0e}", "scores/s")


def time_textattack(bench: Bench) -> Result:
    """As the row attack, beside TextAttack itself on the same queries.

    Theirs: its greedy search (leave-one-out, then the best replacement) over our word lists, with
    the padded model, whose (best other, best relevant) it sees as two classes. It stops when a
    query is broken, skips one that is wrong from the start, and finds its own words: it scores
    other candidates than ours, and only the rate compares. Its searching is timed, ours is not.
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

    def theirs(turn):
        model.scored = 0
        for item in siege.items:
            swap.lang = item.source.lang
            model.aim(item)
            attack.clear_cache()  # the same text has another score for another query
            attack.attack(item.source.text, 1)

    turns = take_turns(partial(score_ours, siege), theirs, bench.repeats)
    ours = rates(len(turns.our_value), turns.ours)
    return Result("scores/s", ours, rates(model.scored, turns.theirs))


# ---- rows: what a robust step costs --------------------------------------------------------------

METHODS = (
    "rs-rp", "rs-rp:weight=1", "rs-da", "rs-da:perturb=both", "code-switch", "typos", "adv:weight=1",
    "adv", "adv:how=pgd,steps=2", "adv:how=pgd", "adv:how=freelb,steps=2", "adv:how=freelb",
    "rs-da+self-teaching",
)  # fmt: skip


def time_robust(bench: Bench, method: str) -> Result:
    """Seconds of a robust step, forward and back, over those of a plain one on the same batch.

    Both: hybrid batches of 100 pairs, bundled world and encoder; edits are timed, clipping and AdamW
    are not, nor the looking up of words: a run has done it once for each text. Tokenization is not
    timed either: the first round has met all texts. A run tokenizes newly edited ones.
    """
    flags = training_flags(batch_size=bench.sizes.robust_batch)
    robust_flags = replace(flags, robust=method)
    data = xlt.load_data(ROOT / "data/minifacts")
    encoder = xlt.load_encoder(ROOT / "data/tiny_xlmr").train()
    pairs = xlt.TrainingPairs(data, flags.train_langs)
    batches = list(xlt.batches(pairs, "hybrid", flags.batch_size, bench.repeats + 1))
    perturber = train.make_perturber(flags, data, encoder)
    plain = Scene(encoder, data, flags, perturber, train.make_optimizer(encoder, flags), batches)
    perturber = train.make_perturber(robust_flags, data, encoder)
    robust = replace(plain, flags=robust_flags, perturber=perturber)
    for turn in range(len(batches)):
        our_gradient(robust, turn)  # looks the words up, and tokenizes
    turns = take_turns(partial(our_gradient, robust), partial(our_gradient, plain), bench.repeats)
    return Result("s", turns.ours, turns.theirs)


# ---- rows: two processes -------------------------------------------------------------------------


def time_processes(bench: Bench) -> Result:
    """Steps a second of two processes of one thread, over one process of two threads.

    The same batches, shared or whole; torchrun and gloo, as on two GPUs. Timed, in the processes:
    whole steps but the first, medians. Not timed: their start. A launch of each is a turn.
    """
    ours, theirs = [], []
    for _ in range(bench.repeats):
        ours.append(run_worker(bench, "steps", bench.sizes.batch, processes=2))
        theirs.append(run_worker(bench, "steps", bench.sizes.batch))
    return Result("steps/s", ours, theirs)


def steps_worker(bench, size):
    """Steps a second, of this process or of all together; None but in the first process."""
    train.start_processes("cpu")
    scene = open_scene(replace(bench, repeats=bench.sizes.steps), "fp32", "xquad", size)
    seconds = [timed(partial(our_step, scene), turn)[0] for turn in range(len(scene.batches))]
    if train.process_number() > 0:
        return None
    return 1 / median(seconds[1:])


WORKERS = {"memory": memory_worker, "search": search_worker, "steps": steps_worker}


def run_worker(bench: Bench, name: str, number: int, processes: int = 1) -> float:
    """Run one of WORKERS in a process of its own, or in several that share its threads."""
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    command += [__file__, "--worker", name, str(number), "--model", str(bench.model)]
    if bench.data is not None:
        command += ["--data", str(bench.data)]
    if bench.smoke:
        command.append("--smoke")
    threads = max(1, torch.get_num_threads() // processes)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"worker {name}: {lines[-1][:200]}")
    return float(done.stdout.split()[-1])


# ---- rows: a GPU ---------------------------------------------------------------------------------


def open_gpu_scene(bench: Bench, folder: Path) -> tuple[Bench, Scene]:
    """XLM-R-base's shape with random weights on the GPU, lengths of XQuAD-R cut at 32 and 160."""
    if not torch.cuda.is_available():
        raise Open("no GPU here")
    save_random_model(folder / "base", layers=12, width=768, words=250_002)
    bench = replace(bench, model=folder / "base")
    return bench, open_scene(bench, "bf16", "gpu", bench.sizes.gpu_batch, "cuda")


def time_gpu_training(bench: Bench) -> Result:
    """As the row train-bf16: XLM-R-base's shape, batches of 256 pairs."""
    with tempfile.TemporaryDirectory() as folder:
        gpu_bench, scene = open_gpu_scene(bench, Path(folder))
        peer("sentence_transformers")
        return compare_steps(gpu_bench, scene)


def time_gpu_share(bench: Bench) -> Result:
    """As the row share-bf16, of the row gpu-train's step: model FLOP utilisation, real tokens.

    Theirs: products of 8192 x 8192, as 2048 is too small for a GPU to show what it can do.
    """
    with tempfile.TemporaryDirectory() as folder:
        gpu_bench, scene = open_gpu_scene(bench, Path(folder))
        return compare_with_product(gpu_bench, scene, bench.sizes.gpu_product)


# ---- all rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table: how it is measured, and what is hoped for."""

    name: str
    measure: Callable  # (bench, **settings) -> Result
    settings: dict = field(default_factory=dict)
    goal: float | None = None
    sign: str = ">="
    floor: float | None = None  # less than the goal, and enough
    is_long: bool = False  # only when named, or with --all


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
    names = [row.name for row in ROWS]
    chosen = set()
    for pattern in patterns:
        named = fnmatch.filter(names, pattern)
        if not named:
            raise ValueError(f"--rows {pattern}: no such row. Take of {', '.join(names)}.")
        chosen.update(named)
    if not patterns:
        return [row for row in ROWS if all_rows or not row.is_long]
    return [row for row in ROWS if row.name in chosen]


def verdict(row: Row, ratio: float) -> str:
    """What became of the goal, in a word."""
    if row.goal is None:
        return ""
    if row.sign == "<=":
        return "yes" if ratio <= row.goal else "no"
    if ratio >= row.goal:
        return "yes"
    if row.floor is not None and ratio >= row.floor:
        return "almost"
    return "no"


def measure_row(row: Row, bench: Bench) -> dict:
    """The row's record for --json; its status is measured, open or failed."""
    goal = {"goal": row.goal, "sign": row.sign, "floor": row.floor}
    record = {"row": row.name, "status": "measured", **goal}
    try:
        result = row.measure(bench, **row.settings)
    except Open as reason:
        return record | {"status": "open", "note": str(reason)}
    except Exception as error:  # noqa: BLE001  (a row that breaks must not cost the others)
        return record | {"status": "failed", "note": f"{type(error).__name__}: {error}"}
    values = sorted(ratios(result))
    record |= {"ratio": median(values), "least": values[0], "most": values[-1], "n": len(values)}
    return record | {"reached": verdict(row, record["ratio"])} | asdict(result)


def table_cells(record: dict) -> list[str]:
    """One line of the table."""
    goal = ""
    if record["goal"] is not None:
        goal = f"{record['sign']} {record['goal']:g}"
    if record["floor"] is not None:
        goal += f" (at least {record['floor']:g})"
    if record["status"] != "measured":
        return [record["row"], "", "", "", goal, f"{record['status']}: {record['note']}"]
    sides = [f"{median(record[side]):.4g} {record['unit']}" for side in ("ours", "theirs")]
    span = f"{record['least']:.2f} to {record['most']:.2f}, {record['n']}"
    return [record["row"], *sides, f"{record['ratio']:.2f} ({span})", goal, record["reached"]]


def describe_machine(bench: Bench, model: Path | None) -> dict:
    """What every number depends on, as --json holds it."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "model": str(model or "random weights")}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    machine["texts"] = str(bench.data or "random words, XQuAD-R's lengths")
    size = bench.sizes.product
    for precision in DTYPES:
        products = partial(multiply_five_times, *square_matrices(size, precision))
        seconds = take_turns(products, products, bench.repeats).ours
        rate = 5 * 2 * size**3 / 1e9 / median(seconds)
        machine[f"GFLOP/s of a {precision} product"] = round(rate, 1)
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
    add("--model", type=Path, metavar="DIR", help="Hugging Face folder (default: data/e5_small, if "
        "it is there, else random weights, 6 layers x 384)")
    add("--data", type=Path, metavar="DIR", help="XQuAD-R as a data folder (default: data/xquad_r, "
        "if its corpus.jsonl is there, else random words)")
    add("--smoke", action="store_true", help="tiny, one turn: does every row run?")
    add("--worker", nargs=2, help=argparse.SUPPRESS)  # of run_worker: name, number
    # fmt: on
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: at least 1")
    if args.data is None and (ROOT / "data/xquad_r/corpus.jsonl").exists():
        args.data = ROOT / "data/xquad_r"
    if args.model is None and (ROOT / "data/e5_small/config.json").exists():
        args.model = ROOT / "data/e5_small"
    try:
        args.rows = choose_rows(args.rows, args.all)
    except ValueError as error:
        parser.error(str(error))
    return args


def open_bench(args, folder: Path) -> Bench:
    """Write the model so that both sides open one folder, and cut both towers at 256 tokens."""
    sizes, repeats, model = Sizes(), args.repeats, folder / "model"
    if args.smoke:
        sizes, repeats = SMOKE, 1
    if args.worker:  # its --model is the folder that is made here
        model = args.model
    elif args.model is None:
        save_random_model(model, sizes.layers, sizes.width)
    else:
        model.mkdir()
        encoder = xlt.load_encoder(args.model, query_length=256, passage_length=256)
        xlt.save_encoder(encoder, model)
    return Bench(sizes, repeats, model, args.data, args.smoke)


def main(argv=None) -> int:
    """Measure and print. Exit 0 done, whatever the goals; 1 a row failed; 2 usage."""
    args, records = parse(argv), []
    with tempfile.TemporaryDirectory() as folder:
        try:
            bench = open_bench(args, Path(folder))
        except (ValueError, OSError) as error:
            print(f"bench.py: {error}", file=sys.stderr)
            return 1
        if args.worker:
            value = WORKERS[args.worker[0]](bench, int(args.worker[1]))
            if value is not None:
                print(value)
            return 0
        machine = describe_machine(bench, args.model)
        for row in args.rows:
            records.append(measure_row(row, bench))
            line = " | ".join([*table_cells(records[-1]), records[-1]["note"]])
            print(line, file=sys.stderr, flush=True)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    head = ["row", "ours", "theirs", "ratio (least to most, n)", "goal", "reached?"]
    print(evaluate.markdown_table([head, *map(table_cells, records)]))
    if args.json:
        xlt.write_json(args.json, {"machine": machine, "rows": records})
    return int(any(record["status"] == "failed" for record in records))


if __name__ == "__main__":
    sys.exit(main())
