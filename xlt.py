"""Cross-lingual retrieval in one file: folder -> texts -> tokens -> vectors -> scores -> loss.

    q = encoder(encoder.tokenize(queries, "query"))       "Query: Was ist ...?"   -> (B, D)
    p = encoder(encoder.tokenize(passages, "passage"))    "Passage: Paris is ..." -> (B, D)
    loss = -log softmax(q @ p.T / tau) on the diagonal    InfoNCE over the batch

Where to look next: `Encoder` is the model, `info_nce` is the formula, `batches` is the experiment
(which languages meet in a batch). train.py looks up the texts of a batch, encodes them as above
and steps; evaluate.py ranks the vectors.
Left out on purpose: approximate search, learned pooling, a registry of losses, mined negatives.
Differs from the papers: false negatives are masked by gold group (the papers name no mask); the
temperature is fixed at tau, where LAReQA learns a scale and the hybrid-batch paper names none.

Shapes: B batch (b of a chunk), T tokens (t of one text), D embedding, Q queries, P passages, K gold
groups of a query. A position is a place in the data set's list of queries or of passages.
"""

import argparse
import hashlib
import json
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

SPLITS = ("train", "dev", "test")
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")


# ---- what every program needs --------------------------------------------------------------------


def derive_seed(seed: int, *names) -> int:
    """The seed of one named stream: the hash of (seed, names), so that no stream disturbs another.

    *Units*: 0 to 2**63 - 1. The same on every machine (Python's own hash() is not).
    """
    text = "/".join(str(part) for part in (seed, *names))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names) -> torch.Generator:
    """A CPU generator for one named stream, e.g. generator(0, "batches")."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def choose(items: list, rng: torch.Generator):
    """One item, uniformly."""
    return items[int(torch.randint(len(items), (), generator=rng))]


def write_json(path: Path, content: dict) -> None:
    """Write aside and rename, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def versions() -> dict[str, str]:
    """What the numbers depend on besides our code."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its build, which metadata leaves out
        "numpy": metadata.version("numpy"),
        "transformers": metadata.version("transformers"),
    }


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag, but not None, False or nothing."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


# ---- data: one folder, one format ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A query or a passage: the fields are those in the table of `load_data`, below, but for the
    title, which is in `text` already."""

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
    # split -> position of the query -> position of the passage -> relevance > 0
    qrels: dict[str, dict[int, dict[int, float]]]
    sha256: str = ""
    dropped: dict[str, int] = field(default_factory=dict)  # split -> qrels rows of score 0


def all_langs(data: DataSet) -> list[str]:
    """Languages of the queries or of the passages (in Mewsli-X, say, queries have others)."""
    return sorted({text.lang for text in (*data.queries, *data.passages)})


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, split at "\\n" alone; blank lines are passed over.

    *Errors*: ValueError for a file that is missing or not UTF-8.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Run the data set's prepare.py.")
    # SUBTLE: not splitlines(): texts hold U+2028 and other characters that it takes for line ends
    with open(path, encoding="utf-8", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
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
    wrong = [key for key in texts if not isinstance(row.get(key, ""), str)]
    if wrong:
        raise ValueError(f'"{wrong[0]}" is {row[wrong[0]]!r}, not a string. Put it in quotes.')
    text = row["text"]
    if row.get("title"):
        text = f"{row['title']} {text}"  # as BEIR encodes a titled passage
    if not text.strip():
        raise ValueError('"text" is empty. Give it words or delete the line.')
    lang = row.get("lang", "und")
    if not re.fullmatch("[a-z]{2,3}(-[a-z]+)*", lang):
        raise ValueError(f'unknown language {lang!r}. Write a lower-case ISO code such as "de".')
    group = row.get("group")
    if not group:
        group = row["_id"]
    return Text(row["_id"], lang, text, group, row.get("context", ""), row.get("answer", ""))


def read_texts(path: Path) -> list[Text]:
    """Read corpus.jsonl or queries.jsonl.

    *Errors*: ValueError with file, line, value and remedy.
    """
    texts, line_of = [], {}
    for number, line in read_lines(path):
        try:
            text = read_text(line)
            if text.id in line_of:
                first_line = line_of[text.id]
                raise ValueError(f"duplicate id {text.id!r}, see line {first_line}. Rename it.")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error} Row: {line[:120]}") from None
        line_of[text.id] = number
        texts.append(text)
    if not texts:
        raise ValueError(f"{path}: no rows. The file is empty; run the folder's prepare.py again.")
    return texts


def read_qrels(
    path: Path, query_at: dict[str, int], passage_at: dict[str, int]
) -> tuple[dict[int, dict[int, float]], int]:
    """Read qrels/SPLIT.tsv -> (query -> passage -> relevance, how many rows had the score 0)."""
    qrels, dropped, pairs = {}, 0, set()
    for number, line in read_lines(path):
        if number == 1 and line.startswith("query-id\t"):
            continue
        where = f"{path}:{number}"
        try:
            query, passage, score = line.split("\t")
            relevance = float(score)
        except ValueError:
            wanted = "query-id, corpus-id, score with tabs"
            raise ValueError(f"{where}: {line!r} is not {wanted}.") from None
        if query not in query_at:
            raise ValueError(f"{where}: unknown id {query!r}. Add it to queries.jsonl.")
        if passage not in passage_at:
            raise ValueError(f"{where}: unknown id {passage!r}. Add it to corpus.jsonl.")
        if (query, passage) in pairs:
            raise ValueError(f"{where}: {query!r}, {passage!r} stands twice. Delete a row.")
        pairs.add((query, passage))
        relevant = qrels.setdefault(query_at[query], {})
        if relevance > 0:
            relevant[passage_at[passage]] = relevance
        else:
            dropped += 1
    return qrels, dropped


def load_data(folder: str | Path) -> DataSet:
    """Load a data set folder: BEIR's layout plus language and group.

        corpus.jsonl       {"_id": "p12.de", "lang": "de", "text": "Paris ist ...", "group": "p12"}
        queries.jsonl      {"_id": "q7.de", "lang": "de", "text": "Was ist ...?", "group": "q7"}
        qrels/SPLIT.tsv    query-id  corpus-id  score       with tabs; SPLIT is train, dev or test

    Of a row of the first two files:

        _id       unique in its file; a query and a passage may share one
        text      what is encoded
        title     optional, put before the text
        lang      optional, ISO 639 in lower case ("de", "zh"); "und" without
        group     optional, the same for all translations of one text; the id without
        context   optional, the paragraph around a passage
        answer    optional, the words of a query's answer, which no attack replaces

    A score above 0 says "relevant", 0 is counted and dropped. Beside these files may lie
    synonyms/LANG.json {"word": ["replacement", ...]} and dictionary.tsv (en LANG word translation),
    which attacks.py reads.
    *Errors*: ValueError for anything that is missing, broken or inconsistent, with file and line.
    *Source*: BEIR (Thakur et al. 2021) for the layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. --data takes one such as data/minifacts.")
    data = DataSet(
        folder, read_texts(folder / "queries.jsonl"), read_texts(folder / "corpus.jsonl"), {}
    )
    # A query and a passage may share an id, so each has its own table
    query_at = {text.id: i for i, text in enumerate(data.queries)}
    passage_at = {text.id: i for i, text in enumerate(data.passages)}
    digest = hashlib.sha256((folder / "corpus.jsonl").read_bytes())
    digest.update((folder / "queries.jsonl").read_bytes())
    for split in SPLITS:
        path = folder / "qrels" / f"{split}.tsv"
        if path.exists():
            data.qrels[split], data.dropped[split] = read_qrels(path, query_at, passage_at)
            digest.update(path.read_bytes())
    if not data.qrels:
        raise ValueError(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv. Run prepare.py.")
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


USUAL = Settings()


def length_chunks(lengths: list[int], max_tokens: int = 8192, waste: float = 1.5) -> list[list]:
    """Positions, shortest text first, in chunks of similar length, so that padding costs little.

        length_chunks([3, 50, 4, 5]) -> [[0, 2, 3], [1]]

    *Units*: in a chunk, texts * longest <= max_tokens and longest <= waste * shortest + 4 (so that
    very short texts share one).
    """
    chunks = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        fits = False
        if chunks:
            shortest = lengths[chunks[-1][0]]
            tokens = (len(chunks[-1]) + 1) * lengths[i]
            fits = tokens <= max_tokens and lengths[i] <= waste * shortest + 4
        if fits:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks


def pool_tokens(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Token states -> one vector a text: the mean over real tokens, or the first token.

    *Shapes*: hidden (B, T, D), attention_mask (B, T) of 0 and 1 -> (B, D).
    """
    if pooling == "cls":
        return hidden[:, 0]  # (B, T, D) -> (B, D)
    weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, T) -> (B, T, 1)
    return (hidden * weight).sum(1) / weight.sum(1)  # (B, T, D) -> (B, D)


@contextmanager
def eval_mode(encoder: nn.Module):
    """No dropout inside the `with`; afterwards the encoder is as it was, also after an error."""
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)


class Encoder(nn.Module):
    """Any Hugging Face encoder with pooling and normalisation: texts in, unit vectors out.

    A `tower` is "query" or "passage": one model, but each has its own prefix and length.
    """

    def __init__(self, model, tokenizer, settings: Settings = USUAL, precision: str = "fp32"):
        super().__init__()
        if settings.pooling not in ("mean", "cls"):
            raise ValueError(f"pooling {settings.pooling!r} is unknown. Take mean or cls.")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"{tokenizer.name_or_path!r} has no padding token. Take an encoder's.")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.precision = precision  # of the forward pass: "fp32", or "bf16" by autocast
        # (tower, lang) -> texts that lost their end, of all texts, each time one is tokenized
        self.texts_cut, self.texts_seen = Counter(), Counter()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tokenize(self, texts: list[Text], tower: str) -> list[dict[str, list[int]]]:
        """Texts -> unpadded token rows with prefix and special tokens; truncation is counted.

        With settings.context a passage is the pair (sentence, paragraph).
        """
        prefix, limit = self.settings.passage_prefix, self.settings.passage_length
        if tower == "query":
            prefix, limit = self.settings.query_prefix, self.settings.query_length
        sentences = [prefix + text.text for text in texts]
        paragraphs = None
        if self.settings.context and tower == "passage":
            paragraphs = [text.context for text in texts]
        self.tokenizer.model_max_length = 10**9  # no warnings: we cut and count by ourselves
        columns = self._call_tokenizer(sentences, paragraphs)
        rows = []
        for i, text in enumerate(texts):
            row = {name: column[i] for name, column in columns.items()}
            if len(row["input_ids"]) > limit:
                paragraph = None
                if paragraphs:
                    paragraph = paragraphs[i]
                row = self._cut(sentences[i], paragraph, limit)
                self.texts_cut[tower, text.lang] += 1
            self.texts_seen[tower, text.lang] += 1
            rows.append(row)
        return rows

    def _call_tokenizer(self, sentences, paragraphs, **more) -> dict:
        """The tokenizer's columns, of one text or of many: input ids, and token types if any."""
        types = "token_type_ids" in self.tokenizer.model_input_names
        return dict(
            self.tokenizer(
                sentences,
                paragraphs,
                return_token_type_ids=types,
                return_attention_mask=False,
                **more,
            )
        )

    def _cut(self, sentence: str, paragraph: str | None, limit: int) -> dict[str, list[int]]:
        """The first `limit` tokens: only the paragraph is cut, unless the sentence is too long."""
        whole = len(self.tokenizer(sentence)["input_ids"])
        if paragraph and whole + 3 < limit:  # two special tokens more, and some of the paragraph
            return self._call_tokenizer(
                sentence, paragraph, truncation="only_second", max_length=limit
            )
        return self._call_tokenizer(sentence, None, truncation=True, max_length=limit)

    def pad(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Token rows -> tensors (B, T) padded to the longest row, with the attention mask."""
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {}  # name -> B lists of T numbers
        for name in rows[0]:
            filler = 0
            if name == "input_ids":
                filler = self.tokenizer.pad_token_id
            batch[name] = [row[name] + [filler] * (longest - len(row[name])) for row in rows]
        # SUBTLE: from the lengths; XLM-R pads with id 1, so `ids != 0` would not be a mask
        lengths = [len(row["input_ids"]) for row in rows]
        batch["attention_mask"] = [[1] * n + [0] * (longest - n) for n in lengths]
        return {name: torch.tensor(lists, device=self.device) for name, lists in batch.items()}

    def word_embeddings(self, ids: Tensor) -> Tensor:
        """Token ids -> word embeddings, before positions are added: where noise enters.

        *Shapes*: (B, T) -> (B, T, D).
        """
        return self.model.get_input_embeddings()(ids)

    def from_embeddings(self, embeddings: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> unit vectors. (B, T, D) -> (B, D)

        Half precision ends here: what follows, scores and losses, is fp32. Given embeddings, the
        model cannot see which tokens are padding and numbers positions 0..T-1; for texts that are
        padded on the right that is what it does with ids as well.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "input_ids"}
        is_half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            hidden = self.model(inputs_embeds=embeddings, **inputs).last_hidden_state  # (B, T, D)
        pooled = pool_tokens(hidden.float(), batch["attention_mask"], self.settings.pooling)
        return F.normalize(pooled, dim=-1)  # (B, D)

    def forward(
        self, rows: list[dict], noise: list[Tensor] | None = None, max_tokens: int = 8192
    ) -> Tensor:
        """Token rows -> unit vectors (B, D), with gradient, in length-sorted chunks.

        A 300-token text then pads its own chunk only. All chunks stay in the graph, so the gradient
        is that of the whole batch: this saves padding, not memory.
        *Shapes*: noise holds one (t, D) tensor a row, t its tokens, added to the word embeddings.
        """
        vectors, order = [], []
        for chunk in length_chunks([len(row["input_ids"]) for row in rows], max_tokens):
            batch = self.pad([rows[i] for i in chunk])
            embeddings = self.word_embeddings(batch["input_ids"])  # (b, T) -> (b, T, D)
            if noise is not None:
                padded = pad_sequence([noise[i] for i in chunk], batch_first=True)  # (b, T, D)
                embeddings = embeddings + padded
            vectors.append(self.from_embeddings(embeddings, batch))  # (b, D)
            order += chunk
        back = torch.tensor(order, device=self.device).argsort()  # undoes the order
        return torch.cat(vectors)[back]  # (B, D), in the order of `rows`

    @torch.no_grad()
    def encode(self, texts: list[Text], tower: str, bar: str = "") -> Tensor:
        """Texts -> unit vectors (B, D) on the CPU, in eval mode, without gradient.

        `bar` names a progress bar on a terminal; "" shows none.
        """
        rows = self.tokenize(texts, tower)
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i]["input_ids"]), i))
        # Blocks, which `forward` cuts into chunks: they bound what the device holds at once
        starts = range(0, len(order), 2048)
        disable = None if bar else True  # tqdm: None is off unless on a terminal
        vectors = []
        with eval_mode(self):
            for start in tqdm(starts, desc=bar, disable=disable, leave=False):
                block = [rows[i] for i in order[start : start + 2048]]
                vectors.append(self(block).cpu())
        return torch.cat(vectors)[torch.tensor(order).argsort()]  # (B, D)


def truncated_texts(encoder: Encoder) -> list[dict]:
    """How many texts lost their end, by tower and language: [{"tower": "query", "cut": 3, ...}]."""
    rows = []
    for (tower, lang), cut in sorted(encoder.texts_cut.items()):
        total = encoder.texts_seen[tower, lang]
        rows.append({"tower": tower, "lang": lang, "cut": cut, "of": total})
    return rows


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 of the weights, which name a model better than its path."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- scores and loss -----------------------------------------------------------------------------


def false_negatives(gold: Tensor, passage_group: Tensor) -> Tensor:
    """True at [i, j], i != j, where passage j of the batch answers query i as well.

    *Shapes*: gold (B, K) the groups that answer query i, padded with -1; passage_group (B,) ->
    (B, B). K is mostly 1: the translations of a passage are one group.
    It matters: 51 to 75 % of XQuAD-R's questions share their gold sentence with another one, and in
    a batch of 128 English pairs 11 % of the queries meet such a passage.
    """
    answers = gold.unsqueeze(2) == passage_group  # (B, K, 1) == (B,) -> (B, K, B)
    return answers.any(1).fill_diagonal_(False)  # (B, K, B) -> (B, B)


def info_nce(
    q: Tensor, p: Tensor, tau: float, mask: Tensor | None = None, symmetric: bool = False
) -> Tensor:
    """InfoNCE: cross-entropy of query i picking passage i among all passages of the batch.

        L = mean_i [ -s_ii / tau + log sum_{j not masked} exp(s_ij / tau) ],   s = q @ p.T

    *Shapes*: q, p (B, D); mask (B, B), True where j is a false negative of i, never on the
    diagonal -> scalar.
    *Units*: tau > 0 divides the scores; a "scale" elsewhere is 1 / tau. A row whose negatives are
    all masked adds 0. `symmetric` averages with the loss of passages picking queries.
    *Errors*: ValueError for tau <= 0.
    *Source*: van den Oord et al. 2018, eq. 4, with in-batch negatives.
    """
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it divides the scores and must be above 0, e.g. 0.05.")
    # In fp32 whatever is given: 16 bits are too few for -inf and log-sum-exp
    scores = q.float() @ p.float().T / tau  # (B, D) @ (D, B) -> (B, B)
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    target = torch.arange(len(q), device=q.device)
    loss = F.cross_entropy(scores, target)
    if symmetric:
        # SUBTLE: mask[i, j] is about query i and passage j; the transposed scores carry it along
        loss = (loss + F.cross_entropy(scores.T, target)) / 2
    return loss


# ---- how a batch is composed ---------------------------------------------------------------------


@dataclass(frozen=True)
class Pairing:
    """Which languages a query and its passage may have in a batch."""

    kind: str  # see `allows`
    lang: str = ""  # of "mono" alone

    def allows(self, query_lang: str, passage_lang: str) -> bool:
        if self.kind == "mono":  # all of the batch in one language
            return query_lang == passage_lang == self.lang
        if self.kind == "mixed":  # each pair in one language, which may be another in the next row
            return query_lang == passage_lang
        return query_lang != passage_lang  # "cross"


@dataclass(frozen=True)
class Row:
    """One pair of a batch, before its texts are drawn."""

    question: str
    query_lang: str
    passage_lang: str


@dataclass(frozen=True)
class Batch:
    """Positions of B queries and their passages, and what is needed to mask false negatives.

    Groups of passages are numbered in the order of their names.
    """

    kind: str  # of its pairing: "mono", "mixed" or "cross"
    queries: list[int]  # B positions
    passages: list[int]  # B positions, each answers the query in the same place
    gold: Tensor  # (B, K) the groups that answer each query, padded with -1
    passage_group: Tensor  # (B,) each passage's group


class TrainingPairs:
    """The queries and passages that each question has in each language.

    A question is a group of queries, known by the group's name; its answers are groups of passages.
    *Errors*: ValueError for a data set without the split, or a language that no query has.
    """

    def __init__(self, data: DataSet, langs: list[str], split: str = "train"):
        if split not in data.qrels:
            raise ValueError(f"{data.folder}/qrels/{split}.tsv: no such file. Training needs it.")
        spoken = {data.queries[query].lang for query in data.qrels[split]}
        for lang in langs:
            if lang not in spoken:
                raise ValueError(f"unknown language {lang!r}: queries are in {sorted(spoken)}.")
        self.langs = list(langs)
        self.queries = {}  # question -> lang -> positions of queries
        self.passages = {}  # question -> lang -> positions of passages that answer it
        self.gold = {}  # question -> numbers of the passage groups that answer it, in any language
        names = sorted({passage.group for passage in data.passages})
        number = {name: i for i, name in enumerate(names)}
        self.group_number = torch.tensor([number[p.group] for p in data.passages])  # (P,)
        for query, relevant in data.qrels[split].items():
            question, lang = data.queries[query].group, data.queries[query].lang
            self.queries.setdefault(question, {}).setdefault(lang, []).append(query)
            by_lang = self.passages.setdefault(question, {})
            answers = self.gold.setdefault(question, set())
            for passage in relevant:
                # What answers the question in one language is gold for it in all
                answers.add(number[data.passages[passage].group])
                positions = by_lang.setdefault(data.passages[passage].lang, [])
                if passage not in positions:
                    positions.append(passage)

    def lang_pairs(self, question: str, pairing: Pairing) -> list[tuple[str, str]]:
        """(query language, passage language) of the question's pairs that the pairing allows."""
        pairs = []
        for query_lang in self.langs:
            for passage_lang in self.langs:
                asked = query_lang in self.queries[question]
                answered = passage_lang in self.passages[question]
                if asked and answered and pairing.allows(query_lang, passage_lang):
                    pairs.append((query_lang, passage_lang))
        return pairs

    def make_batch(self, kind: str, rows: list[Row], rng: torch.Generator) -> Batch:
        """Draw a query and a passage for each row (a question may have several in a language)."""
        queries = [choose(self.queries[row.question][row.query_lang], rng) for row in rows]
        passages = [choose(self.passages[row.question][row.passage_lang], rng) for row in rows]
        gold = [torch.tensor(sorted(self.gold[row.question])) for row in rows]  # B of (K_i,)
        padded = pad_sequence(gold, batch_first=True, padding_value=-1)  # (B, K), K the longest
        passage_group = self.group_number[passages]  # (P,) -> (B,)
        return Batch(kind, queries, passages, padded, passage_group)


def endless_groups(groups: list[str], size: int, rng: torch.Generator) -> Iterator[list[str]]:
    """Batches of `size` groups without end: every epoch in a new order, no group twice in a batch.

    size 3, [a, b] are left of one epoch, the next order is [a, d, c, b]: a b d | c a b, and not
    a b a | d c b.
    """
    waiting = []  # groups in the order in which they will be used
    while True:
        if len(waiting) < size:
            order = [groups[i] for i in torch.randperm(len(groups), generator=rng)]
            # SUBTLE: the rest of the last epoch goes first, its groups last in the new one, or a
            # batch across the border could hold a question twice, as its own false negative
            rest = set(waiting)
            waiting += [group for group in order if group not in rest]
            waiting += [group for group in order if group in rest]
        yield waiting[:size]
        waiting = waiting[size:]


def batches(
    pairs: TrainingPairs, batching: str, size: int, steps: int, alpha: float = 0.5, seed: int = 0
) -> Iterator[Batch]:
    """Yield exactly `steps` batches, a function of the arguments alone: resuming can replay.

        batching   share of "mono" batches         the others
        en-en      1, English
        x-x        0                               "mixed": each pair in one language
        x-x-mono   1, language drawn uniformly
        x-y        0                               "cross": query and passage in two languages
        hybrid     alpha, as x-x-mono              "cross", as x-y

    *Units*: alpha in [0, 1].
    *Errors*: ValueError, at once, for an unknown batching, alpha, or too little data for one batch.
    *Source*: LAReQA (Roy et al. 2020, section 4); hybrid: Elmahdy et al. 2024, section 3.
    """
    if batching not in BATCHINGS:
        raise ValueError(f"--batching {batching!r} is unknown. Take one of {', '.join(BATCHINGS)}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha {alpha}: the share of monolingual batches is from 0 to 1.")
    mono_share = {"en-en": 1.0, "x-x": 0.0, "x-x-mono": 1.0, "x-y": 0.0, "hybrid": alpha}[batching]
    mono_langs, others = pairs.langs, Pairing("cross")
    if batching == "en-en":
        mono_langs = ["en"]
    if batching == "x-x":
        others = Pairing("mixed")
    pairings = []
    if mono_share > 0:
        pairings += [Pairing("mono", lang) for lang in mono_langs]
    if mono_share < 1:
        pairings.append(others)

    orders = {}  # pairing -> an endless stream of questions
    for pairing in pairings:
        questions = sorted(name for name in pairs.queries if pairs.lang_pairs(name, pairing))
        count = len(questions)
        if count < size:
            raise ValueError(
                f"--batch-size {size} is larger than the data: {count} pairs fit {batching} "
                f"({pairing.kind} {pairing.lang}) in the training languages {pairs.langs}."
            )
        # ("mixed" is but the stream's name, of x-y too: x-x and x-y go through the same order)
        order_rng = generator(seed, "order", pairing.lang or "mixed")
        orders[pairing] = endless_groups(questions, size, order_rng)

    rng = generator(seed, "batches")

    def draw_batches():  # a function of its own, so that the errors above come at once
        for _ in range(steps):
            # Drawn even where the share is 0 or 1, so that hybrid with alpha 1 (0) uses the
            # generator as x-x-mono (x-y) does: the same batches, bit for bit
            pairing = others
            if float(torch.rand((), generator=rng)) < mono_share:
                pairing = Pairing("mono", choose(mono_langs, rng))
            rows = []
            for question in next(orders[pairing]):
                query_lang, passage_lang = choose(pairs.lang_pairs(question, pairing), rng)
                rows.append(Row(question, query_lang, passage_lang))
            yield pairs.make_batch(pairing.kind, rows, rng)

    return draw_batches()


# ---- loading and saving --------------------------------------------------------------------------


def room_for_tokens(config) -> int:
    """How many tokens the model has positions for."""
    room = config.max_position_embeddings
    if "roberta" in config.model_type:
        room -= config.pad_token_id + 1  # it numbers positions from there on
    return room


def load_encoder(
    path: str | Path, device: str = "cpu", precision: str = "fp32", **changes
) -> Encoder:
    """Open a Hugging Face encoder (folder or name) with the settings saved beside it, if any.

    `changes` override single settings.
    *Errors*: ValueError for a folder without model or tokenizer, weights that are missing, lengths
    that the model has no positions for, and XLM checkpoints that want a language id for each token.
    """
    # Imported here: it takes longer than all the rest, and --help does without
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    folder = Path(path)
    for name, needed in (("config.json", "a model"), ("tokenizer_config.json", "a tokenizer")):
        if folder.is_dir() and not (folder / name).exists():
            raise ValueError(f"{folder}: no {name}. --model takes a folder that holds {needed}.")
    logging.set_verbosity_error()  # missing weights are refused below: no report, no bars
    logging.disable_progress_bar()
    try:
        model, info = AutoModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--model {path}: no folder and no hub name that opens. {error}") from None
    model.pooler = None  # we pool by ourselves
    # SUBTLE: weights that a checkpoint lacks are drawn at random: no two loads would be alike
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"--model {path}: the checkpoint lacks {missing[:3]}. It is incomplete.")
    saved = {}
    if (folder / "xlt.json").exists():
        saved = json.loads((folder / "xlt.json").read_text(encoding="utf-8"))
    settings = Settings(**(saved | changes))
    room = room_for_tokens(model.config)
    if max(settings.query_length, settings.passage_length) > room:
        raise ValueError(f"--model {path}: texts have at most {room} tokens. Take smaller lengths.")
    if getattr(model.config, "use_lang_emb", False):
        raise ValueError(f"--model {path}: wants a language id for each token. Take one without.")
    return Encoder(model, tokenizer, settings, precision).to(device)


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write weights, tokenizer, settings; SentenceTransformer(folder) then gives our vectors.

    But for two things: it cuts queries at passage_length, too, and it does not know `context`.
    """
    folder, settings = Path(folder), encoder.settings
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.model_max_length = settings.passage_length
    encoder.tokenizer.save_pretrained(folder)
    kind = "sentence_transformers.models"
    stages = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{kind}.Normalize"},
    ]
    prompts = {"query": settings.query_prefix, "passage": settings.passage_prefix}
    size = encoder.model.config.hidden_size
    files = {
        "xlt.json": vars(settings),
        "modules.json": stages,
        "sentence_bert_config.json": {
            "max_seq_length": settings.passage_length,
            "do_lower_case": False,
        },
        "config_sentence_transformers.json": {"prompts": prompts, "similarity_fn_name": "cosine"},
        "1_Pooling/config.json": {"embedding_dimension": size, "pooling_mode": settings.pooling},
        "2_Normalize/config.json": {},
    }
    for name, content in files.items():
        write_json(folder / name, content)
