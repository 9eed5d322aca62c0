"""Cross-lingual retrieval in one file: data set folder -> texts -> tokens -> vectors -> scores -> loss.

    q = encoder("Query: Was ist die Hauptstadt Frankreichs?")       (B, D), length 1
    p = encoder("Passage: The capital of France is Paris.")         (B, D), length 1
    loss = -log softmax(q @ p.T / tau) on the diagonal              InfoNCE over the batch

Where to look next: `info_nce` is the formula, `batches` is the experiment (which languages meet in a batch),
`Encoder` is the model. train.py puts the three together, evaluate.py ranks with the vectors.
Left out on purpose: approximate search, learned pooling, a registry of losses, negatives mined from an index.
Differs from the papers: false negatives are masked by gold group (LAReQA and the hybrid-batch paper keep them);
the temperature is fixed at tau, where LAReQA learns a scale; the hybrid-batch paper names none.

Shapes: B batch, T tokens, D embedding, Q queries, P passages, K gold groups of a query.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

SPLITS = ("train", "dev", "test")
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")


# ---- random streams ----------------------------------------------------------------------------------


def derive_seed(seed: int, *names) -> int:
    """A seed for one named stream: the hash of (seed, names), so that streams do not disturb each other.

    *Units*: 0 to 2**63 - 1. The same on every machine (Python's own hash() is not).
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """A CPU generator for one named stream, e.g. generator(0, "batches")."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


# ---- data: one folder, one format --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a passage. `group` ties translations together; `context` is a passage's paragraph."""

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
    dropped: Counter = field(
        default_factory=Counter
    )  # nothing is skipped silently: what, how often

    def langs(self) -> list[str]:
        """Languages of the passages, sorted."""
        return sorted({p.lang for p in self.passages})


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, split at "\\n" alone. *Errors*: ValueError names the file."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file. A data set folder holds corpus.jsonl, queries.jsonl and qrels/."
        )
    with open(
        path, encoding="utf-8", newline="\n"
    ) as lines:  # not splitlines(): texts hold U+2028 and the like
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from None


def read_texts(path: Path) -> list[Text]:
    """Read corpus.jsonl or queries.jsonl; a BEIR title is put before the text.

    *Errors*: ValueError with file, line, value and remedy for broken JSON, a missing key, an empty text, a
    duplicate id or a language that is not a lower-case code.
    """
    texts, seen = [], {}
    for number, line in read_lines(path):
        where, shown = f"{path}:{number}:", line[:120]
        try:
            row = dict(json.loads(line))
        except (ValueError, TypeError) as error:  # also a list or a number, which is no object
            raise ValueError(
                f"{where} no JSON object ({error}). One a line. Line: {shown}"
            ) from None
        for key in ("_id", "text"):
            if key not in row:
                raise ValueError(
                    f'{where} "{key}" is missing. Every line needs "_id" and "text". Row: {shown}'
                )
        for key, value in row.items():
            if key in (
                "_id",
                "lang",
                "text",
                "title",
                "context",
                "group",
                "answer",
            ) and not isinstance(value, str):
                raise ValueError(
                    f'{where} "{key}" is {value!r}, not a string. Put it in quotes. Row: {shown}'
                )
        text = f"{row.get('title', '')} {row['text']}".strip()
        lang = row.get("lang", "und")
        if not text:
            raise ValueError(
                f'{where} "text" is empty. Give it words or delete the line. Row: {shown}'
            )
        if not (lang.isascii() and lang.replace("-", "").isalpha() and lang == lang.lower()):
            raise ValueError(
                f'{where} unknown language {lang!r}. Write a lower-case code: "de". Row: {shown}'
            )
        if row["_id"] in seen:
            raise ValueError(
                f"{where} duplicate id {row['_id']!r}, first on line {seen[row['_id']]}. Rename one."
            )
        seen[row["_id"]] = number
        group = row.get("group") or row["_id"]
        texts.append(
            Text(row["_id"], lang, text, group, row.get("context", ""), row.get("answer", ""))
        )
    if not texts:
        raise ValueError(f"{path}: no rows. The file is empty; run the folder's prepare.py again.")
    return texts


def read_qrels(path: Path, query_at: dict, passage_at: dict) -> tuple[dict, Counter]:
    """Read qrels/SPLIT.tsv into query -> passage -> score; rows of score 0 are judged irrelevant and counted."""
    found, dropped = {}, Counter()
    for number, line in read_lines(path):
        cells = line.split("\t")
        if number == 1 and cells[0] == "query-id":
            continue
        where = f"{path}:{number}:"
        if len(cells) != 3:
            raise ValueError(
                f"{where} {len(cells)} cells, needs query-id, corpus-id, score with tabs. Line: {line!r}"
            )
        query, passage, score = cells
        for name, table, key in (
            ("queries.jsonl", query_at, query),
            ("corpus.jsonl", passage_at, passage),
        ):
            if key not in table:
                raise ValueError(
                    f"{where} unknown id {key!r}. Add it to {name} or delete this row."
                )
        try:
            value = float(score)
        except ValueError:
            raise ValueError(
                f"{where} score {score!r} is not a number. Write 1 for relevant."
            ) from None
        row = found.setdefault(query_at[query], {})
        if passage_at[passage] in row:
            raise ValueError(
                f"{where} the pair {query!r}, {passage!r} is listed twice. Delete one row."
            )
        if value > 0:
            row[passage_at[passage]] = value
        else:
            dropped["qrels rows of score 0"] += 1
    return found, dropped


def load_data(folder: str | Path) -> DataSet:
    """Load a data set folder (BEIR's layout plus language and group).

    *Errors*: ValueError for anything that is missing, broken or inconsistent, with file and line.
    *Source*: BEIR (Thakur et al. 2021) for the layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder. --data takes a data set folder such as data/minifacts."
        )
    queries, passages = (read_texts(folder / f"{name}.jsonl") for name in ("queries", "corpus"))
    # SUBTLE: a query and a passage may share an id, so each has its own table
    query_at = {t.id: i for i, t in enumerate(queries)}
    passage_at = {t.id: i for i, t in enumerate(passages)}
    paths = [folder / "qrels" / f"{split}.tsv" for split in SPLITS]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise ValueError(
            f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv. Run {folder}/prepare.py."
        )
    data, digest = DataSet(folder, queries, passages, {}), hashlib.sha256()
    for path in paths:
        data.qrels[path.stem], dropped = read_qrels(path, query_at, passage_at)
        data.dropped += dropped
    for path in [folder / "corpus.jsonl", folder / "queries.jsonl", *paths]:
        digest.update(path.read_bytes())
    data.sha256 = digest.hexdigest()
    return data


# ---- the encoder -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How texts become vectors; saved beside the weights, because other settings give other vectors."""

    pooling: str = "mean"  # or "cls"
    query_prefix: str = "Query: "  # the hybrid-batch paper's prefixes
    passage_prefix: str = "Passage: "
    query_length: int = 96  # tokens with special ones; XTREME's values for LAReQA
    passage_length: int = 256
    context: bool = False  # encode a passage as the pair (sentence, paragraph), as LAReQA does


def length_chunks(
    lengths: list[int], max_tokens: int = 8192, waste: float = 1.5
) -> list[list[int]]:
    """Cut positions, shortest text first, into chunks of similar length, so that padding costs little.

    *Units*: max_tokens bounds rows x longest of a chunk; `waste` bounds longest / shortest (plus 4 tokens).
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
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path!r} has no padding token. Take an encoder's."
            )
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.truncated = Counter()  # (kind, lang) -> texts that lost their end
        self.seen = Counter()  # (kind, lang) -> texts tokenized

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tokenize(self, texts: list[Text], kind: str) -> list[dict[str, list[int]]]:
        """Texts -> unpadded token rows, prefix and special tokens included; truncation is counted a language.

        *Units*: kind is "query" or "passage". With settings.context a passage is the pair sentence, paragraph,
        and only the paragraph is cut.
        """
        s = self.settings
        prefix, limit = (
            (s.query_prefix, s.query_length)
            if kind == "query"
            else (s.passage_prefix, s.passage_length)
        )
        first = [prefix + t.text for t in texts]
        second = [t.context for t in texts] if s.context and kind == "passage" else None
        self.tokenizer.model_max_length = 10**9  # no warnings: we cut and count by ourselves
        types = "token_type_ids" in self.tokenizer.model_input_names
        full = self.tokenizer(
            first, second, return_token_type_ids=types, return_attention_mask=False
        )
        rows = [{k: full[k][i] for k in full} for i in range(len(texts))]
        long = [i for i, row in enumerate(rows) if len(row["input_ids"]) > limit]
        for i in long:
            # A sentence that is too long by itself is cut too; else only the paragraph is
            pair = second is not None and len(self.tokenizer(first[i])["input_ids"]) + 3 < limit
            cut = self.tokenizer(
                first[i],
                second[i] if pair else None,
                max_length=limit,
                return_token_type_ids=types,
                truncation="only_second" if pair else True,
                return_attention_mask=False,
            )
            rows[i] = dict(cut)
            self.truncated[kind, texts[i].lang] += 1
        self.seen.update((kind, t.lang) for t in texts)
        return rows

    def pad(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Token rows -> tensors (B, T) padded to the longest row, with the attention mask."""
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {key: 0 for key in rows[0]} | {"input_ids": self.tokenizer.pad_token_id}
        batch = {
            k: [row[k] + [v] * (longest - len(row[k])) for row in rows] for k, v in fill.items()
        }
        # SUBTLE: from the lengths; XLM-R pads with id 1, so `ids != 0` would not be a mask
        batch["attention_mask"] = [
            [1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows
        ]
        return {k: torch.tensor(v, device=self.device) for k, v in batch.items()}

    def words(self, ids: Tensor) -> Tensor:
        """Word embeddings, before positions are added: where noise enters. (B, T) -> (B, T, D)"""
        return self.model.get_input_embeddings()(ids)

    def from_words(self, words: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> unit vectors. (B, T, D) -> (B, D)

        The model numbers positions 0..T-1 from its padding id on, as it does for right-padded ids.
        """
        mask = batch["attention_mask"]  # (B, T)
        extra = {k: v for k, v in batch.items() if k == "token_type_ids"}
        hidden = self.model(
            inputs_embeds=words, attention_mask=mask, **extra
        ).last_hidden_state  # (B, T, D)
        return F.normalize(pool(hidden, mask, self.settings.pooling), dim=-1)  # (B, D)

    def forward(self, rows: list[dict[str, list[int]]], max_tokens: int = 8192) -> Tensor:
        """Token rows -> unit vectors (B, D), with gradient, in length-sorted chunks.

        A 300-token text then pads its own chunk only (PITFALLS: 3.7 times as fast on mixed lengths). The
        gradient is that of one forward pass; only dropout is drawn in another order.
        """
        chunks = length_chunks([len(row["input_ids"]) for row in rows], max_tokens)
        vectors = []
        for chunk in chunks:
            batch = self.pad([rows[i] for i in chunk])
            vectors.append(self.from_words(self.words(batch["input_ids"]), batch).float())
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


# ---- scores and loss ---------------------------------------------------------------------------------


def false_negatives(gold: Tensor, group: Tensor) -> Tensor:
    """Which in-batch passages answer another row's query: True at [i, j], i != j, never on the diagonal.

    *Shapes*: gold (B, K) the groups that answer query i, padded with -1; group (B,) of passage j -> (B, B).
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
    *Units*: tau > 0 divides the scores; a "scale" elsewhere is 1 / tau. A row whose negatives are all masked
    adds 0. `symmetric` averages with the loss of passages picking queries.
    *Errors*: ValueError for tau <= 0.
    *Source*: van den Oord et al. 2018, eq. 4, with in-batch negatives.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it divides the scores and must be above 0, e.g. 0.05.")
    scores = (
        q.float() @ p.float().T / tau
    )  # (B, D) @ (D, B) -> (B, B); fp32, or -inf and log-sum-exp overflow
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    target = torch.arange(len(q), device=q.device)
    loss = F.cross_entropy(scores, target)
    if symmetric:
        # SUBTLE: mask[i, j] says "query i, passage j"; transposed it says the same of row j, column i
        loss = (loss + F.cross_entropy(scores.T, target)) / 2
    return loss


# ---- how a batch is composed -------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Positions of B queries and their passages, and what is needed to mask false negatives."""

    kind: str  # "mono" or "cross"
    queries: list[int]
    passages: list[int]
    gold: Tensor  # (B, K)
    group: Tensor  # (B,)


class Pairs:
    """Training pairs by group and language: which query and which passages a group has in each language."""

    def __init__(self, data: DataSet, langs: list[str], split: str = "train"):
        if split not in data.qrels:
            raise ValueError(
                f"{data.folder}/qrels/{split}.tsv: no such file. Training needs this split."
            )
        if unknown := sorted(set(langs) - {q.lang for q in data.queries}):
            raise ValueError(
                f"unknown language {unknown[0]!r}: {data.folder} has queries in {data.langs()}."
            )
        self.queries, self.passages, gold = {}, {}, {}  # group -> lang -> positions
        for query, relevant in data.qrels[split].items():
            group, lang = data.queries[query].group, data.queries[query].lang
            # Gold across languages: what answers the question in one language answers it in all
            gold.setdefault(group, set()).update(data.passages[p].group for p in relevant)
            if lang in langs:
                self.queries.setdefault(group, {}).setdefault(lang, []).append(query)
            for passage in relevant:
                if data.passages[passage].lang in langs:
                    where = self.passages.setdefault(group, {}).setdefault(
                        data.passages[passage].lang, []
                    )
                    where.append(passage) if passage not in where else None
        number = {name: i for i, name in enumerate(sorted({p.group for p in data.passages}))}
        self.group_of = torch.tensor([number[p.group] for p in data.passages])  # (P,)
        self.gold_of = {g: sorted(number[x] for x in names) for g, names in gold.items()}
        self.group_name = [q.group for q in data.queries]
        self.langs = list(langs)

    def groups(self, query_lang: str | None = None, passage_lang: str | None = None) -> list[str]:
        """Sorted groups that have a query and a passage in these languages (None: in any two that differ)."""
        if query_lang:
            wanted = ((g, self.queries[g], self.passages.get(g, {})) for g in self.queries)
            return sorted(g for g, q, p in wanted if query_lang in q and passage_lang in p)
        return sorted(
            g
            for g in self.queries
            if any(a != b for a in self.queries[g] for b in self.passages.get(g, ()))
        )

    def batch(self, kind: str, rows: list[tuple[str, str, str]], rng: torch.Generator) -> Batch:
        """Rows of (group, query language, passage language) -> a batch; ties between passages are drawn."""
        queries = [choose(self.queries[g][a], rng) for g, a, _ in rows]
        passages = [choose(self.passages[g][b], rng) for g, _, b in rows]
        gold = [self.gold_of[g] for g, _, _ in rows]
        width = max(map(len, gold))
        padded = torch.tensor([row + [-1] * (width - len(row)) for row in gold])  # (B, K)
        return Batch(kind, queries, passages, padded, self.group_of[passages])


def choose(items: list, rng: torch.Generator):
    """One item, uniformly; a single item costs no random number."""
    return items[0] if len(items) == 1 else items[int(torch.randint(len(items), (), generator=rng))]


def stream(groups: list[str], size: int, rng: torch.Generator) -> Iterator[list[str]]:
    """Endless batches of `size` groups: every epoch in a new order, no group twice in a batch.

    *Errors*: ValueError if there are fewer groups than a batch holds.
    """
    if len(groups) < size:
        raise ValueError(
            f"--batch-size {size} is larger than the data: {len(groups)} pairs. Take a smaller one."
        )
    waiting = []
    while True:
        while len(waiting) < size:
            order = [groups[i] for i in torch.randperm(len(groups), generator=rng)]
            # SUBTLE: what is left of the last epoch goes first; its groups move back in the new one, or a batch
            # on the border could hold a question twice, as its own false negative
            left = set(waiting)
            waiting += [g for g in order if g not in left] + [g for g in order if g in left]
        yield waiting[:size]
        waiting = waiting[size:]


def batches(
    pairs: Pairs, batching: str, size: int, steps: int, alpha: float = 0.5, seed: int = 0
) -> Iterator[Batch]:
    """Yield exactly `steps` batches; batch t depends on the arguments and t alone, so resuming can replay.

        en-en      English queries with English passages
        x-x        each pair in one language, languages mixed inside the batch
        x-x-mono   one language for the whole batch, drawn uniformly
        x-y        query and passage in different languages, languages mixed
        hybrid     with probability alpha an x-x-mono batch, otherwise an x-y batch

    *Units*: alpha in [0, 1], the share of monolingual batches.
    *Errors*: ValueError for an unknown batching, alpha out of range, or too little data for one batch.
    *Source*: LAReQA (Roy et al. 2020, section 4); hybrid: Elmahdy et al. 2024, section 3.
    """
    if batching not in BATCHINGS:
        raise ValueError(f"--batching {batching!r} is unknown. Take one of {', '.join(BATCHINGS)}.")
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"--alpha {alpha} is no probability. It is the share of monolingual batches, 0 to 1."
        )
    langs = ["en"] if batching == "en-en" else pairs.langs
    if batching in ("x-y", "hybrid") and len(langs) < 2:
        raise ValueError(f"--batching {batching} needs two training languages, has {langs}.")
    draw = generator(seed, "batches")
    same = {a: pairs.groups(a, a) for a in langs}
    anywhere = sorted({g for groups in same.values() for g in groups})
    mono = {a: stream(same[a], size, generator(seed, "order", a)) for a in langs}
    mixed = stream(anywhere, size, generator(seed, "order", "mixed"))
    cross = stream(pairs.groups(), size, generator(seed, "order", "cross"))
    for _ in range(steps):
        # One draw a step whatever the batching, so that alpha 0 and 1 are x-y and x-x-mono bit for bit
        is_mono = float(torch.rand((), generator=draw)) < {"hybrid": alpha, "x-y": 0}.get(
            batching, 1
        )
        if batching == "x-x":
            rows = []
            for g in next(mixed):
                lang = choose(
                    [a for a in langs if a in pairs.queries[g] and a in pairs.passages.get(g, ())],
                    draw,
                )
                rows.append((g, lang, lang))
        elif is_mono:
            lang = choose(langs, draw)
            rows = [(g, lang, lang) for g in next(mono[lang])]
        else:
            rows = []
            for g in next(cross):
                ways = [(a, b) for a in pairs.queries[g] for b in pairs.passages[g] if a != b]
                rows.append((g, *choose(ways, draw)))
        yield pairs.batch("mono" if is_mono else "cross", rows, draw)


# ---- loading and saving ------------------------------------------------------------------------------


def load_encoder(path: str | Path, device: str = "cpu", **changes) -> Encoder:
    """Open a Hugging Face encoder (folder or name) with the settings saved beside it, if any.

    `changes` override single settings. *Errors*: ValueError for a folder without model or tokenizer.
    """
    folder = Path(path)
    for name, needed in (("config.json", "a model"), ("tokenizer_config.json", "a tokenizer")):
        if folder.is_dir() and not (folder / name).exists():
            raise ValueError(
                f"{folder}: no {name}. --model takes a folder with {needed}, as save_pretrained writes."
            )
    logging.set_verbosity_error()  # the weights' report and bars are ours to give or to leave out
    logging.disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except OSError as error:
        raise ValueError(f"--model {path}: cannot be opened. Give a folder or a hub name. {error}") from None
    # SUBTLE: a pooler that the checkpoint lacks is drawn at random, so no two saved models would be alike
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    saved = json.loads((folder / "xlt.json").read_text()) if (folder / "xlt.json").exists() else {}
    return Encoder(model, tokenizer, Settings(**(saved | changes))).to(device)


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write weights, tokenizer, settings and the files with which SentenceTransformer gives our vectors."""
    folder, s = Path(folder), encoder.settings
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.model_max_length = s.passage_length
    encoder.tokenizer.save_pretrained(folder)
    prompts = {"query": s.query_prefix, "passage": s.passage_prefix}
    pooling = {"embedding_dimension": encoder.model.config.hidden_size, "pooling_mode": s.pooling}
    kind = "sentence_transformers.models"
    stages = [
        ("0", "", "Transformer"),
        ("1", "1_Pooling", "Pooling"),
        ("2", "2_Normalize", "Normalize"),
    ]
    modules = [{"idx": int(i), "name": i, "path": p, "type": f"{kind}.{t}"} for i, p, t in stages]
    for name, content in {
        "xlt.json": vars(s),
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": s.passage_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": prompts, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": pooling,
        "2_Normalize/config.json": {},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
