"""Cross-lingual retrieval in one file: folder -> texts -> tokens -> vectors -> scores -> loss.

    q = encoder("Query: Was ist die Hauptstadt Frankreichs?")       (B, D), length 1
    p = encoder("Passage: The capital of France is Paris.")         (B, D), length 1
    loss = -log softmax(q @ p.T / tau) on the diagonal              InfoNCE over the batch

Where to look next: `info_nce` is the formula, `batches` is the experiment (which languages meet in
a batch), `Encoder` is the model. train.py puts the three together, evaluate.py ranks the vectors.
Left out on purpose: approximate search, learned pooling, a registry of losses, mined negatives.
Differs from the papers: false negatives are masked by gold group (the papers name no mask); the
temperature is fixed at tau, where LAReQA learns a scale and the hybrid-batch paper names none.

Shapes: B batch, T tokens, D embedding, Q queries, P passages, K gold groups of a query.
"""

import argparse
import hashlib
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

SPLITS = ("train", "dev", "test")
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")


# ---- random streams ------------------------------------------------------------------------------


def derive_seed(seed: int, *names) -> int:
    """The seed of one named stream: the hash of (seed, names), so that no stream disturbs another.

    *Units*: 0 to 2**63 - 1. The same on every machine (Python's own hash() is not).
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """A CPU generator for one named stream, e.g. generator(0, "batches")."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


# ---- data: one folder, one format ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a passage; `group` ties translations together, `context` is the paragraph."""

    id: str
    lang: str
    text: str
    group: str
    context: str = ""
    answer: str = ""


@dataclass
class DataSet:
    """Queries, passages and, for each split, which passage answers which query (by position)."""

    folder: Path
    queries: list[Text]
    passages: list[Text]
    qrels: dict[str, dict[int, dict[int, float]]]  # split -> query -> passage -> relevance > 0
    sha256: str = ""
    dropped: Counter = field(default_factory=Counter)  # split -> qrels rows of score 0

    def langs(self) -> list[str]:
        """Languages of the passages, sorted."""
        return sorted({p.lang for p in self.passages})


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, split at "\\n" alone.

    *Errors*: ValueError for a file that is missing or not UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Run the data set's prepare.py.")
    # SUBTLE: not splitlines(): texts hold U+2028 and other characters that it takes for line ends
    with open(path, encoding="utf-8", newline="\n") as lines:
        try:
            yield from ((n, x.rstrip("\r\n")) for n, x in enumerate(lines, 1) if x.strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from None


def read_text(line: str) -> Text:
    """One line of corpus.jsonl or queries.jsonl.

    *Errors*: ValueError says what is wrong and what to do.
    """
    try:
        row = dict(json.loads(line))
    except (ValueError, TypeError) as error:  # TypeError: a list or a number is JSON, but no object
        raise ValueError(f"no JSON object ({error}). Write one a line.") from None
    for key in ("_id", "text"):
        if key not in row:
            raise ValueError(f'"{key}" is missing. Every line needs "_id" and "text".')
    texts = ("_id", "lang", "text", "title", "context", "group", "answer")
    if wrong := [key for key in texts if not isinstance(row.get(key, ""), str)]:
        raise ValueError(f'"{wrong[0]}" is {row[wrong[0]]!r}, not a string. Put it in quotes.')
    title, lang = row.get("title", ""), row.get("lang", "und")
    text = f"{title} {row['text']}" if title else row["text"]  # as BEIR encodes a titled passage
    if not text.strip():
        raise ValueError('"text" is empty. Give it words or delete the line.')
    if not re.fullmatch("[a-z]{2,3}(-[a-z]+)*", lang):
        raise ValueError(f'unknown language {lang!r}. Write a lower-case ISO code such as "de".')
    group = row.get("group") or row["_id"]
    return Text(row["_id"], lang, text, group, row.get("context", ""), row.get("answer", ""))


def read_texts(path: Path) -> list[Text]:
    """Read corpus.jsonl or queries.jsonl.

    *Errors*: ValueError with file, line, value and remedy.
    """
    texts, seen = [], {}
    for number, line in read_lines(path):
        try:
            text = read_text(line)
            if text.id in seen:
                raise ValueError(f"duplicate id {text.id!r}, see line {seen[text.id]}. Rename it.")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error} Row: {line[:120]}") from None
        seen[text.id] = number
        texts.append(text)
    if not texts:
        raise ValueError(f"{path}: no rows. The file is empty; run the folder's prepare.py again.")
    return texts


def read_qrels(path: Path, query_at: dict, passage_at: dict) -> tuple[dict, int]:
    """Read qrels/SPLIT.tsv: query -> passage -> score; rows of score 0 are only counted."""
    found, dropped = {}, 0
    for number, line in read_lines(path):
        if number == 1 and line.startswith("query-id\t"):
            continue
        try:
            query, passage, score = line.split("\t")
            value = float(score)
        except ValueError:
            shown = f"{path}:{number}: {line!r}"
            raise ValueError(f"{shown} is not query-id, corpus-id, score with tabs.") from None
        for name, table, key in (("queries", query_at, query), ("corpus", passage_at, passage)):
            if key not in table:
                raise ValueError(f"{path}:{number}: unknown id {key!r}. Add it to {name}.jsonl.")
        row = found.setdefault(query_at[query], {})
        if passage_at[passage] in row:
            raise ValueError(f"{path}:{number}: {query!r}, {passage!r} stands twice. Delete a row.")
        if value > 0:
            row[passage_at[passage]] = value
        dropped += value <= 0
    return found, dropped


def load_data(folder: str | Path) -> DataSet:
    """Load a data set folder (BEIR's layout plus language and group).

    *Errors*: ValueError for anything that is missing, broken or inconsistent, with file and line.
    *Source*: BEIR (Thakur et al. 2021) for the layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. --data takes one such as data/minifacts.")
    queries, passages = (read_texts(folder / f"{name}.jsonl") for name in ("queries", "corpus"))
    # SUBTLE: a query and a passage may share an id, so each has its own table
    query_at = {t.id: i for i, t in enumerate(queries)}
    passage_at = {t.id: i for i, t in enumerate(passages)}
    paths = [folder / "qrels" / f"{split}.tsv" for split in SPLITS]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise ValueError(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv. Run prepare.py.")
    data, digest = DataSet(folder, queries, passages, {}), hashlib.sha256()
    for path in paths:
        data.qrels[path.stem], data.dropped[path.stem] = read_qrels(path, query_at, passage_at)
    for path in [folder / "corpus.jsonl", folder / "queries.jsonl", *paths]:
        digest.update(path.read_bytes())
    data.sha256 = digest.hexdigest()
    return data


# ---- the encoder ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How texts become vectors; saved beside the weights: other settings give other vectors."""

    pooling: str = "mean"  # or "cls"
    query_prefix: str = "Query: "  # the hybrid-batch paper's prefixes
    passage_prefix: str = "Passage: "
    query_length: int = 96  # tokens with special ones; XTREME's values for LAReQA
    passage_length: int = 256
    context: bool = False  # encode a passage as the pair (sentence, paragraph), as LAReQA does


def length_chunks(lengths: list[int], max_tokens: int = 8192, waste: float = 1.5) -> list[list]:
    """Cut positions, shortest first, into chunks of similar length, so that padding costs little.

    *Units*: max_tokens bounds rows x longest of a chunk, `waste` its longest / shortest (plus 4).
    """
    chunks = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        longest = lengths[i]
        fits = chunks and (len(chunks[-1]) + 1) * longest <= max_tokens
        if fits and longest <= waste * lengths[chunks[-1][0]] + 4:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks


class Encoder(nn.Module):
    """Any Hugging Face encoder with pooling and normalisation: texts in, unit vectors out."""

    def __init__(self, model: nn.Module, tokenizer, settings: Settings = Settings()):
        super().__init__()
        if settings.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling {settings.pooling!r} is unknown. Take mean or cls.")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"{tokenizer.name_or_path!r} has no padding token. Take an encoder's.")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.truncated = Counter()  # (kind, lang) -> texts that lost their end
        self.seen = Counter()  # (kind, lang) -> texts tokenized

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tokenize(self, texts: list[Text], kind: str) -> list[dict[str, list[int]]]:
        """Texts -> unpadded token rows with prefix and special tokens; truncation is counted.

        *Units*: kind is "query" or "passage"; settings.context makes a passage a pair (below).
        """
        s, tokenizer = self.settings, self.tokenizer
        is_query = kind == "query"
        prefix, limit = (
            (s.query_prefix, s.query_length) if is_query else (s.passage_prefix, s.passage_length)
        )
        first = [prefix + t.text for t in texts]
        second = [t.context for t in texts] if s.context and not is_query else None
        tokenizer.model_max_length = 10**9  # no warnings: we cut and count by ourselves
        how = {"return_token_type_ids": "token_type_ids" in tokenizer.model_input_names}
        how["return_attention_mask"] = False
        full = tokenizer(first, second, **how)
        rows = [{k: full[k][i] for k in full} for i in range(len(texts))]
        for i in [i for i, row in enumerate(rows) if len(row["input_ids"]) > limit]:
            # Only the paragraph is cut, unless the sentence is too long by itself
            pair = second and len(tokenizer(first[i])["input_ids"]) + 3 < limit
            how |= {"truncation": "only_second" if pair else True, "max_length": limit}
            rows[i] = dict(tokenizer(first[i], second[i] if pair else None, **how))
            self.truncated[kind, texts[i].lang] += 1
        self.seen.update((kind, t.lang) for t in texts)
        return rows

    def pad(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Token rows -> tensors (B, T) padded to the longest row, with the attention mask."""
        lengths = [len(row["input_ids"]) for row in rows]
        longest = max(lengths)
        fill = dict.fromkeys(rows[0], 0) | {"input_ids": self.tokenizer.pad_token_id}
        batch = {k: [r[k] + [v] * (longest - len(r[k])) for r in rows] for k, v in fill.items()}
        # SUBTLE: from the lengths; XLM-R pads with id 1, so `ids != 0` would not be a mask
        batch["attention_mask"] = [[1] * n + [0] * (longest - n) for n in lengths]
        return {k: torch.tensor(v, device=self.device) for k, v in batch.items()}

    def words(self, ids: Tensor) -> Tensor:
        """Word embeddings, before positions are added: where noise enters. (B, T) -> (B, T, D)"""
        return self.model.get_input_embeddings()(ids)

    def from_words(self, words: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> unit vectors. (B, T, D) -> (B, D)

        The model numbers positions 0..T-1 from its padding id on, as it does for right-padded ids.
        """
        extra = {k: v for k, v in batch.items() if k != "input_ids"}  # mask, and token types if any
        hidden = self.model(inputs_embeds=words, **extra).last_hidden_state  # (B, T, D)
        pooled = pool(hidden, extra["attention_mask"], self.settings.pooling)  # (B, D)
        return F.normalize(pooled, dim=-1)

    def forward(self, rows: list[dict[str, list[int]]], max_tokens: int = 8192, perturb=None):
        """Token rows -> unit vectors (B, D), with gradient, in length-sorted chunks.

        A 300-token text then pads its own chunk only; the gradient is that of the whole batch.
        perturb(words, batch, chunk) -> words may add noise. *Source*: PITFALLS.md 7.
        """
        chunks, vectors = length_chunks([len(r["input_ids"]) for r in rows], max_tokens), []
        for chunk in chunks:
            batch = self.pad([rows[i] for i in chunk])
            words = self.words(batch["input_ids"])  # (b, T) -> (b, T, D)
            words = perturb(words, batch, chunk) if perturb else words
            vectors.append(self.from_words(words, batch).float())
        back = torch.tensor([i for chunk in chunks for i in chunk], device=self.device).argsort()
        return torch.cat(vectors)[back]  # (B, D), in the order of `rows`

    @torch.no_grad()
    def encode(self, texts: list[Text], kind: str, progress=lambda rows: rows) -> Tensor:
        """Texts -> unit vectors (B, D) on the CPU, in eval mode, without gradient.

        `progress` wraps the list of blocks, e.g. tqdm.
        """
        was_training = self.training
        self.eval()
        rows = self.tokenize(texts, kind)
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]["input_ids"]), i))
        blocks = [order[i : i + 2048] for i in range(0, len(order), 2048)]
        vectors = [self([rows[i] for i in block]).cpu() for block in progress(blocks)]
        self.train(was_training)
        return torch.cat(vectors)[torch.tensor(order).argsort()]  # (B, D)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Token states -> one vector a text: the mean over real tokens, or the first token.

    *Shapes*: hidden (B, T, D), mask (B, T) of 0 and 1 -> (B, D).
    """
    if pooling == "cls":
        return hidden[:, 0]  # (B, T, D) -> (B, D)
    weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, T) -> (B, T, 1)
    return (hidden * weight).sum(1) / weight.sum(1)  # (B, T, D) -> (B, D)


# ---- scores and loss -----------------------------------------------------------------------------


def false_negatives(gold: Tensor, group: Tensor) -> Tensor:
    """True at [i, j], i != j, where passage j of the batch answers query i as well.

    *Shapes*: gold (B, K) the groups that answer query i, padded with -1; group (B,) of passage j ->
    (B, B).
    *Source*: PITFALLS.md 1: at batch 128 about 11 % of XQuAD-R's English rows hold one.
    """
    known = (gold.unsqueeze(2) == group).any(1)  # (B, K, 1) == (B,) -> (B, K, B) -> (B, B)
    return known.fill_diagonal_(False)


def info_nce(
    q: Tensor, p: Tensor, tau: float, mask: Tensor | None = None, symmetric: bool = False
) -> Tensor:
    """InfoNCE: cross-entropy of query i picking passage i among all passages of the batch.

        L = mean_i [ -s_ii / tau + log sum_{j not masked} exp(s_ij / tau) ],   s = q @ p.T

    *Shapes*: q, p (B, D); mask (B, B), True where j is a false negative of i -> scalar.
    *Units*: tau > 0 divides the scores; a "scale" elsewhere is 1 / tau. A row whose negatives are
    all masked adds 0. `symmetric` averages with the loss of passages picking queries.
    *Errors*: ValueError for tau <= 0.
    *Source*: van den Oord et al. 2018, eq. 4, with in-batch negatives.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it divides the scores and must be above 0, e.g. 0.05.")
    # In fp32 whatever the encoder's precision: 16 bits are too few for -inf and log-sum-exp
    scores = q.float() @ p.float().T / tau  # (B, D) @ (D, B) -> (B, B)
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    target = torch.arange(len(q), device=q.device)
    loss = F.cross_entropy(scores, target)
    if symmetric:
        # SUBTLE: mask[i, j] is about query i and passage j; transposed it masks the other direction
        loss = (loss + F.cross_entropy(scores.T, target)) / 2
    return loss


# ---- how a batch is composed ---------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Positions of B queries and their passages, and what is needed to mask false negatives."""

    kind: str  # "mono" (one language), "mixed" (same-language pairs) or "cross"
    queries: list[int]
    passages: list[int]
    gold: Tensor  # (B, K)
    group: Tensor  # (B,)


class Pairs:
    """Training pairs: the queries and passages that a group has in each language."""

    def __init__(self, data: DataSet, langs: list[str], split: str = "train"):
        if split not in data.qrels:
            raise ValueError(f"{data.folder}/qrels/{split}.tsv: no such file. Training needs it.")
        known = {data.queries[q].lang for q in data.qrels[split]}
        if unknown := sorted(set(langs) - known):
            raise ValueError(f"unknown language {unknown[0]!r}: queries are in {sorted(known)}.")
        self.langs, self.queries, self.passages, gold = list(langs), {}, {}, {}
        for query, relevant in data.qrels[split].items():
            group, lang = data.queries[query].group, data.queries[query].lang
            # What answers the question in one language is gold for it in all
            gold.setdefault(group, set()).update(data.passages[p].group for p in relevant)
            self.queries.setdefault(group, {}).setdefault(lang, []).append(query)
            passages = self.passages.setdefault(group, {})
            for p in relevant:
                passages.setdefault(data.passages[p].lang, {})[p] = True  # a dict is an ordered set
        number = {name: i for i, name in enumerate(sorted({p.group for p in data.passages}))}
        self.group_of = torch.tensor([number[p.group] for p in data.passages])  # (P,)
        self.gold_of = {g: sorted(number[x] for x in names) for g, names in gold.items()}

    def ways(self, group: str, fits) -> list[tuple[str, str]]:
        """(query language, passage language) of a group's pairs for which fits(a, b) is true."""
        ours = [[a for a in self.langs if a in x[group]] for x in (self.queries, self.passages)]
        return [(a, b) for a in ours[0] for b in ours[1] if fits(a, b)]

    def batch(self, kind: str, rows: list[tuple[str, str, str]], rng: torch.Generator) -> Batch:
        """Rows of (group, query language, passage language) -> a batch."""
        queries = [choose(self.queries[g][a], rng) for g, a, _ in rows]
        passages = [choose(list(self.passages[g][b]), rng) for g, _, b in rows]
        gold = [self.gold_of[g] for g, _, _ in rows]
        width = max(map(len, gold))
        padded = torch.tensor([row + [-1] * (width - len(row)) for row in gold])  # (B, K)
        return Batch(kind, queries, passages, padded, self.group_of[passages])


def choose(items: list, rng: torch.Generator):
    """One item, uniformly."""
    return items[int(torch.randint(len(items), (), generator=rng))]


def stream(groups: list[str], size: int, rng: torch.Generator) -> Iterator[list[str]]:
    """Endless batches of `size` groups: every epoch in a new order, no group twice in a batch."""
    waiting = []
    while True:
        if len(waiting) < size:
            order = [groups[i] for i in torch.randperm(len(groups), generator=rng)]
            # SUBTLE: the rest of the last epoch goes first, its groups last in the new one, or a
            # batch across the border could hold a question twice, as its own false negative
            rest = set(waiting)
            waiting += [g for g in order if g not in rest] + [g for g in order if g in rest]
        yield waiting[:size]
        waiting = waiting[size:]


def batches(
    pairs: Pairs, batching: str, size: int, steps: int, alpha: float = 0.5, seed: int = 0
) -> Iterator[Batch]:
    """Yield exactly `steps` batches, a function of the arguments alone: resuming can replay.

        en-en      English queries with English passages
        x-x        each pair in one language, languages mixed inside the batch
        x-x-mono   one language for the whole batch, drawn uniformly
        x-y        query and passage in different languages, languages mixed
        hybrid     with probability alpha an x-x-mono batch, otherwise an x-y batch

    *Units*: alpha in [0, 1], the share of monolingual batches.
    *Errors*: ValueError, at once, for an unknown batching, alpha, or too little data for one batch.
    *Source*: LAReQA (Roy et al. 2020, section 4); hybrid: Elmahdy et al. 2024, section 3.
    """
    if batching not in BATCHINGS:
        raise ValueError(f"--batching {batching!r} is unknown. Take one of {', '.join(BATCHINGS)}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha {alpha}: the share of monolingual batches is from 0 to 1.")
    langs = ["en"] if batching == "en-en" else pairs.langs
    share = {"hybrid": alpha, "x-x": 0.0, "x-y": 0.0}.get(batching, 1.0)  # of one-language batches
    fits = {lang: lambda a, b, lang=lang: a == b == lang for lang in langs if share > 0}
    if share < 1:
        fits["mixed"] = (lambda a, b: a == b) if batching == "x-x" else (lambda a, b: a != b)
    orders = {}
    for name, fit in fits.items():
        groups = sorted(g for g in pairs.queries if pairs.ways(g, fit))
        if len(groups) < size:
            raise ValueError(
                f"--batch-size {size} is larger than the data: {len(groups)} pairs fit {batching} "
                f"({name}) in the training languages {pairs.langs}."
            )
        orders[name] = stream(groups, size, generator(seed, "order", name))
    draw = generator(seed, "batches")

    def plan():
        for _ in range(steps):
            # One draw a step whatever the batching: alpha 1 and 0 are x-x-mono and x-y bit for bit
            mono = float(torch.rand((), generator=draw)) < share
            name = choose(langs, draw) if mono else "mixed"
            rows = [(g, *choose(pairs.ways(g, fits[name]), draw)) for g in next(orders[name])]
            kind = "mono" if mono else "mixed" if batching == "x-x" else "cross"
            yield pairs.batch(kind, rows, draw)

    return plan()


# ---- loading and saving --------------------------------------------------------------------------


def load_encoder(path: str | Path, device: str = "cpu", **changes) -> Encoder:
    """Open a Hugging Face encoder (folder or name) with the settings saved beside it, if any.

    `changes` override single settings.
    *Errors*: ValueError for a folder without model or tokenizer, weights that are missing, lengths
    that the model has no positions for, and XLM checkpoints that want a language id a token.
    """
    folder = Path(path)
    for name, needed in (("config.json", "a model"), ("tokenizer_config.json", "a tokenizer")):
        if folder.is_dir() and not (folder / name).exists():
            raise ValueError(f"{folder}: no {name}. --model takes a folder that holds {needed}.")
    logging.set_verbosity_error()  # missing weights are refused below: no report, no bars
    logging.disable_progress_bar()
    try:
        how = {"dtype": torch.float32, "output_loading_info": True}
        model, info = AutoModel.from_pretrained(path, **how)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--model {path}: no folder and no hub name that opens. {error}") from None
    # SUBTLE: weights that a checkpoint lacks are drawn at random: no two loads would be alike
    model.pooler = None
    if missing := sorted(k for k in info["missing_keys"] if not k.startswith("pooler.")):
        raise ValueError(f"--model {path}: the checkpoint lacks {missing[:3]}. It is incomplete.")
    saved = json.loads((folder / "xlt.json").read_text()) if (folder / "xlt.json").exists() else {}
    settings, config = Settings(**(saved | changes)), model.config
    room = config.max_position_embeddings
    room -= config.pad_token_id + 1 if "roberta" in config.model_type else 0
    if max(settings.query_length, settings.passage_length) > room:
        raise ValueError(f"--model {path}: texts have at most {room} tokens. Take smaller lengths.")
    if getattr(config, "use_lang_emb", False):
        raise ValueError(f"--model {path}: wants a language id a token. Take one without.")
    return Encoder(model, tokenizer, settings).to(device)


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write weights, tokenizer, settings; SentenceTransformer(folder) then gives our vectors.

    (But for longer queries than query_length: it knows the passage's length alone; and `context`.)
    """
    folder, s = Path(folder), encoder.settings
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.model_max_length = s.passage_length
    encoder.tokenizer.save_pretrained(folder)
    prompts = {"query": s.query_prefix, "passage": s.passage_prefix}
    kind, size = "sentence_transformers.models", encoder.model.config.hidden_size
    stages = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    numbered = [(i, path, f"{kind}.{name}") for i, (path, name) in enumerate(stages)]
    for name, content in {
        "xlt.json": vars(s),
        "modules.json": [{"idx": i, "name": str(i), "path": p, "type": t} for i, p, t in numbered],
        "sentence_bert_config.json": {"max_seq_length": s.passage_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"embedding_dimension": size, "pooling_mode": s.pooling},
        "2_Normalize/config.json": {},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


# ---- what every program needs ---------------------------------------------------------------------


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, but for flags that are off or say themselves what happens without."""

    def _get_help_string(self, action):
        empty = action.default in (None, False, [], ())
        return action.help if empty else super()._get_help_string(action)


def all_langs(data: DataSet) -> list[str]:
    """Languages of queries or passages: in Mewsli-X, say, they are not the same."""
    return sorted({text.lang for text in (*data.queries, *data.passages)})


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 of the weights, which name a model better than its path."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What the numbers depend on besides our code."""
    mine = {"python": platform.python_version(), "torch": torch.__version__}
    return mine | {"numpy": np.__version__, "transformers": transformers.__version__}


def cut_texts(encoder: Encoder) -> dict[str, str]:
    """How many texts lost their end, of how many, by side and language."""
    cut = sorted(encoder.truncated.items())
    return {f"{kind} {lang}": f"{n} of {encoder.seen[kind, lang]}" for (kind, lang), n in cut}


def write_json(path: Path, content: dict) -> None:
    """Write aside and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)
