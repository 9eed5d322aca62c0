"""Cross-lingual retrieval in one file: folder -> texts -> tokens -> vectors -> scores -> loss.

    q = encoder(encoder.tokenize(queries, "query"))       "Query: Was ist ...?"   -> (B, D)
    p = encoder(encoder.tokenize(passages, "passage"))    "Passage: Paris is ..." -> (B, D)
    mask = false_negatives(batch.gold, batch.passage_group)   passages that answer others' queries
    loss = -log softmax(q @ p.T / tau) on the diagonal    InfoNCE over the batch, but for the mask

Where to look next: `Encoder` is the model, `info_nce` is the formula, `batches` is the experiment
(which languages meet in a batch). There the lecture ends; what follows are files, flags and other
people's models, for the day on which you bring your own. train.py looks up the texts of a batch,
encodes them as above and steps; evaluate.py ranks the vectors.
Left out on purpose: approximate search, learned pooling, a registry of losses, mined negatives.
Differs from the papers: false negatives are masked by gold group (the papers name no mask); the
temperature is fixed at tau, where LAReQA learns a scale and the hybrid-batch paper names none.

Shapes: B batch (b of a chunk), T tokens (t of one text), D embedding, Q queries, P passages, K gold
groups of a query. A position is a place in the data set's list of queries or of passages.
"""

import argparse
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

SPLITS = ("train", "dev", "test")
POOLINGS = ("mean", "cls")
BATCHINGS = ("en-en", "x-x", "x-x-mono", "x-y", "hybrid")


# ---- random numbers ------------------------------------------------------------------------------


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


# ---- values in messages --------------------------------------------------------------------------


def one_line(text: str, most: int = 120) -> str:
    """The beginning of a text for a message: what a terminal would obey is shown, not sent."""
    shown = text[:most]
    if shown.isprintable():
        return shown
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
    return shown[:most]  # a NUL is shown in four characters


def quoted(value) -> str:
    """An id or another value for a message, in quotes: "q7.de" -> "'q7.de'"."""
    return one_line(repr(value), 60)


# ---- languages: one code for each ----------------------------------------------------------------


# Each language's ISO 639-1 code, then its codes of three letters (ISO 639-2 and -3), those of its
# standard varieties and outdated ones
ISO_639 = """
aa aar, ab abk, ae ave, af afr, ak aka, am amh, an arg, ar ara arb, as asm, av ava, ay
aym ayr, az azb aze azj, ba bak, be bel, bg bul, bh bih, bi bis, bm bam, bn ben, bo bod
tib, br bre, bs bos, ca cat, ce che, ch cha, co cos, cr cre, cs ces cze, cu chu, cv chv,
cy cym wel, da dan, de deu ger, dv div, dz dzo, ee ewe, el ell gre, en eng, eo epo, es
spa, et ekk est, eu baq eus, fa fas per pes prs, ff ful, fi fin, fj fij, fo fao, fr fra
fre, fy fry, ga gle, gd gla, gl glg, gn grn gug, gu guj, gv glv, ha hau, he heb iw, hi
hin, ho hmo, hr hrv, ht hat, hu hun, hy arm hye, hz her, ia ina, id in ind, ie ile, ig
ibo, ii iii, ik ipk, io ido, is ice isl, it ita, iu iku, ja jpn, jv jav, ka geo kat, kg
kon, ki kik, kj kua, kk kaz, kl kal, km khm, kn kan, ko kor, kr kau, ks kas, ku kmr kur,
kv kom, kw cor, ky kir, la lat, lb ltz, lg lug, li lim, ln lin, lo lao, lt lit, lu lub,
lv lav lvs, mg mlg plt, mh mah, mi mao mri, mk mac mkd, ml mal, mn khk mon, mr mar, ms
may msa zsm, mt mlt, my bur mya, na nau, nb nob, nd nde, ne nep npi, ng ndo, nl dut nld,
nn nno, no nor, nr nbl, nv nav, ny nya, oc oci, oj oji, om gaz orm, or ori ory, os oss,
pa pan, pi pli, pl pol, ps pbt pus, pt por, qu que quy, rm roh, rn run, ro ron rum, ru
rus, rw kin, sa san, sc srd, sd snd, se sme, sg sag, sh hbs, si sin, sk slk slo, sl slv,
sm smo, sn sna, so som, sq alb als sqi, sr srp, ss ssw, st sot, su sun, sv swe, sw swa
swh, ta tam, te tel, tg tgk, th tha, ti tir, tk tuk, tl tgl, tn tsn, to ton, tr tur, ts
tso, tt tat, tw twi, ty tah, ug uig, uk ukr, ur urd, uz uzb uzn, ve ven, vi vie, vo vol,
wa wln, wo wol, xh xho, yi ji ydd yid, yo yor, za zha, zh chi cmn hak nan wuu yue zho,
zu zul
"""


def short_codes() -> dict[str, str]:
    """Every other code of a language -> its ISO 639-1 code."""
    short_of = {}
    for entry in ISO_639.replace("\n", " ").split(","):
        short, *others = entry.split()
        short_of |= dict.fromkeys(others, short)
    return short_of


SHORT_CODES = short_codes()


def base_language(code: str) -> str:
    """One code a language: ISO 639-1 where it has one, without script, region and variety.

        "de", "DE", "deu", "de_AT", "deu_Latn" -> "de"        "zh-Hans", "cmn", "yue" -> "zh"

    *Errors*: ValueError for what is no code.
    """
    first, *suffixes = code.lower().replace("_", "-").split("-")
    is_code = re.fullmatch("[a-z]{2,3}", first)
    if not is_code or not all(re.fullmatch("[a-z0-9]+", suffix) for suffix in suffixes):
        raise ValueError(f'unknown language {quoted(code)}. Write an ISO 639 code such as "de".')
    return SHORT_CODES.get(first, first)


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
    form: str = ""


@dataclass
class Superfluous:
    """Rows that a data set can do without: left out and counted by kind, or refused if `strict`."""

    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)  # kind -> rows
    first: dict[str, str] = field(default_factory=dict)  # kind -> what is wrong with its first row

    def add(self, kind: str, problem: str) -> None:
        if self.strict:
            raise ValueError(problem)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, problem)

    def lines(self) -> list[str]:
        """For people, one line a kind."""
        return [f"left out: {self.counts[kind]} {kind}. {self.first[kind]}" for kind in self.counts]


@dataclass
class DataSet:
    """Queries, passages and, for each split, which passage answers which query (by position)."""

    folder: Path
    queries: list[Text]
    passages: list[Text]
    # split -> position of the query -> position of the passage -> relevance > 0
    qrels: dict[str, dict[int, dict[int, float]]]
    sha256: str = ""
    dropped: dict[str, int] = field(default_factory=dict)  # split -> qrels rows of score 0 or below
    # split -> position of the query -> id of a relevant passage that is not there -> relevance > 0
    missing: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    left_out: Superfluous = field(default_factory=Superfluous)


def texts_in(data: DataSet, langs: list[str]) -> list[Text]:
    """Queries and passages in these languages."""
    return [text for text in (*data.queries, *data.passages) if text.lang in langs]


def all_langs(data: DataSet) -> list[str]:
    """Languages of the queries or of the passages (in Mewsli-X, say, queries have others)."""
    return sorted({text.lang for text in (*data.queries, *data.passages)})


def refuse_pointer(path: Path) -> None:
    """Refuse, with a ValueError, the note that git-lfs leaves in the place of a large file."""
    with open(path, "rb") as file:
        is_pointer = file.read(40).startswith(b"version https://git-lfs")
    if is_pointer:
        remedy = "Fetch the file itself: git lfs pull."
        raise ValueError(f"{path}: a pointer of git-lfs, not the content. {remedy}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file, split at "\\n" alone; blank lines are passed over.

    *Errors*: ValueError for a file that is missing, not UTF-8, or has the line ends of old Macs.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Put it there, or run the data set's prepare.py.")
    refuse_pointer(path)
    # SUBTLE: not splitlines(): texts hold U+2028 and other characters that it takes for line ends.
    # utf-8-sig: some editors put a byte order mark before the first line
    with open(path, encoding="utf-8-sig", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, 1):
                line = line.rstrip("\r\n")
                if "\r" in line:
                    raise ValueError(f'{path}:{number}: lines end in "\\r". Let them end in "\\n".')
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error}). Convert the file to UTF-8.") from None


def parse_json(text: str, kind: type = dict) -> dict | list:
    """The object (or list) that a JSON text holds.

    *Errors*: ValueError for anything else, a key that stands twice, and half a character, which
    could neither be tokenized nor written.
    """

    def object_without_twins(pairs):
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise ValueError(f'"{one_line(key, 60)}" stands twice')
        return dict(pairs)

    wanted = {dict: "object", list: "list"}[kind]
    try:
        content = json.loads(text, object_pairs_hook=object_without_twins)
    except (ValueError, RecursionError) as error:  # thousands of brackets
        raise ValueError(f"no JSON {wanted} ({one_line(str(error))})") from None
    if type(content) is not kind:
        raise ValueError(f"no JSON {wanted} (but other JSON)")
    # SUBTLE: "\\ud83d\\ude00" is a character, and only a half that is left after decoding is wrong
    if re.search(r"\\u[dD][89a-fA-F]", text):
        half = re.search("[\ud800-\udfff]", json.dumps(content, ensure_ascii=False))
        if half:
            raise ValueError(f"holds {half[0]!a}, half of a surrogate pair")
    return content


def check_string(row: dict, key: str) -> None:
    """Refuse, with a ValueError, a value that is no string."""
    value = row.get(key, "")
    if type(value) is not str:
        raise ValueError(f'"{key}" is {quoted(value)}, not a string. Write one, in quotes.')


def read_text(line: str) -> Text:
    """One line of corpus.jsonl or queries.jsonl.

    *Errors*: ValueError says what is wrong and what to do.
    """
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{error}. Write a JSON object a line, each key once.") from None
    row = {key: value for key, value in row.items() if value is not None}
    if row.get("title"):
        row.setdefault("text", "")  # a title says enough
    for key in ("_id", "text"):
        if key not in row:
            raise ValueError(f'"{key}" is missing. Every line needs "_id" and "text".')
    for key in ("_id", "lang", "text", "title", "context", "group", "answer", "form"):
        check_string(row, key)
    if "language" in row and "lang" not in row:
        remedy = 'Call it "lang", with a code such as "de", or rename it if it is another.'
        raise ValueError(f'"language" is no key of a text. {remedy}')
    text = row["text"]
    if row.get("title"):
        text = f"{row['title']} {text}"  # as BEIR encodes a titled passage
    lang = "und"
    if row.get("lang"):
        lang = base_language(row["lang"])
    group = row.get("group")
    if not group:
        group = row["_id"]
    others = {name: row.get(name, "") for name in ("context", "answer", "form")}
    return Text(row["_id"], lang, text, group, **others)


def has_words(text: str) -> bool:
    """Is there more than blanks, accents that stand on nothing, and what no one sees?"""
    for char in text:
        category = unicodedata.category(char)
        if category[0] not in "ZM" and category not in ("Cc", "Cf"):
            return True
    return False


def read_texts(path: Path, superfluous: Superfluous) -> list[Text]:
    """Read corpus.jsonl or queries.jsonl, without texts that are empty or stand there twice.

    *Errors*: ValueError with file, line, value and remedy; one id with two texts, say.
    """
    texts, line_of = {}, {}  # id -> text, id -> line
    for number, line in read_lines(path):
        where, row = f"{path}:{number}", f"Row: {one_line(line)}"
        try:
            text = read_text(line)
        except ValueError as error:
            raise ValueError(f"{where}: {error} {row}") from None
        if not has_words(text.text):
            problem = f'{where}: "text" is empty. Give it words or delete the line. {row}'
            superfluous.add("texts without words", problem)
            continue
        if text.id in line_of:
            twice = f"duplicate id {quoted(text.id)}, see line {line_of[text.id]}."
            if texts[text.id] != text:
                raise ValueError(f"{where}: {twice} Rename it. {row}")
            superfluous.add("texts that stand twice", f"{where}: {twice} Delete it. {row}")
            continue
        texts[text.id], line_of[text.id] = text, number
    if not texts:
        raise ValueError(f"{path}: no rows. Write a JSON object a line, or run prepare.py again.")
    return list(texts.values())


@dataclass
class Judgements:
    """The rows of one qrels file."""

    qrels: dict[int, dict[int, float]] = field(default_factory=dict)  # query -> passage -> above 0
    missing: dict[int, dict[str, float]] = field(default_factory=dict)  # DataSet.missing of a split
    zeros: int = 0  # rows of score 0 or below
    rows: int = 0


def read_relevance(score: str) -> float:
    """A score of a qrels file.

    *Units*: 0 or a size from 1e-6 to 1e6; the sign may be minus, which is "not relevant" as well.
    *Errors*: ValueError for anything else, also "nan", "1_0" and "1e400", which float() takes.
    """
    if not re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", score.strip()):
        raise ValueError(f"the score {quoted(score)} is no number")
    relevance = float(score)
    if relevance != 0 and not 1e-6 <= abs(relevance) <= 1e6:
        raise ValueError(f"the score {quoted(score)} is too large or too small")
    return relevance


def is_header(line: str, query_at: dict[str, int]) -> bool:
    """Is the first line of a qrels file its head, whatever the columns are called?

    "query_id  doc_id     relevance" -> True     no number at the end, no query "query_id"
    "query-id  p1         1"         -> False    a number at the end
    "q1        p1         yes"       -> False    q1 is a query: a row, which read_relevance refuses
    "query-id  corpus-id  score"     -> True     the usual head, even if a query is called so
    """
    cells = line.split("\t")
    try:
        float(cells[-1])
    except ValueError:
        is_usual = line.startswith("query-id\tcorpus-id\t")
        return len(cells) == 3 and (is_usual or cells[0] not in query_at)
    return False


def read_qrels(
    path: Path,
    query_at: dict[str, int],
    passage_at: dict[str, int],
    superfluous: Superfluous,
) -> Judgements:
    """Read qrels/SPLIT.tsv.

    *Errors*: ValueError for a row that is none, a pair with two scores, or no row at all.
    """
    judgements, scores = Judgements(), {}  # scores: (query, passage) -> relevance
    for place, (number, line) in enumerate(read_lines(path)):
        if place == 0 and is_header(line, query_at):
            continue
        where = f"{path}:{number}"
        cells = line.split("\t")
        if len(cells) != 3:
            wanted = "query-id, corpus-id, score with tabs"
            raise ValueError(f"{where}: {one_line(repr(line))} is not {wanted}.")
        query, passage, score = cells
        try:
            relevance = read_relevance(score)
        except ValueError as error:
            raise ValueError(f"{where}: {error}. Write 1, or how relevant it is.") from None
        judgements.rows += 1
        if (query, passage) in scores:
            twice = f"{where}: {quoted(query)}, {quoted(passage)} stands twice"
            if scores[query, passage] != relevance:
                raise ValueError(f"{twice}, with two scores. Delete a row.")
            superfluous.add("qrels rows that stand twice", f"{twice}. Delete a row.")
            continue
        scores[query, passage] = relevance
        if query not in query_at:
            problem = f"{where}: unknown id {quoted(query)}. Add it to queries.jsonl, with a text."
            superfluous.add("qrels rows of a query that is not there", problem)
            continue
        position = query_at[query]
        relevant = judgements.qrels.setdefault(position, {})
        if passage not in passage_at:
            problem = f"{where}: unknown id {quoted(passage)}. Add it to corpus.jsonl, with a text."
            superfluous.add("qrels rows of a passage that is not there", problem)
            if relevance > 0:
                judgements.missing.setdefault(position, {})[passage] = relevance
        elif relevance > 0:
            relevant[passage_at[passage]] = relevance
        else:
            judgements.zeros += 1
    if not judgements.rows:
        raise ValueError(f"{path}: no rows. Write query-id, corpus-id, score, or delete the file.")
    if judgements.missing and not any(judgements.qrels.values()):
        raise ValueError(f"{path}: none of its relevant passages is in corpus.jsonl. Do ids match?")
    return judgements


def load_data(folder: str | Path, strict: bool = False) -> DataSet:
    """Load a data set folder: BEIR's layout plus language and group.

        corpus.jsonl       {"_id": "p12.de", "lang": "de", "text": "Paris ist ...", "group": "p12"}
        queries.jsonl      {"_id": "q7.de", "lang": "de", "text": "Was ist ...?", "group": "q7"}
        qrels/SPLIT.tsv    query-id  corpus-id  score       with tabs; SPLIT is train, dev or test

    Of a row of the first two files, where null is the same as no key:

        _id       unique in its file; a query and a passage may share one
        text      what is encoded
        title     optional, put before the text
        lang      optional, a code that `base_language` reads ("de", "zh-Hans"); "und" without
        group     optional, the same for all translations of one text; the id without
        context   optional, the paragraph around a passage
        answer    optional, the words of a query's answer, which no attack replaces
        form      optional, a kind of query, such as "short"; `evaluate.py --form` takes one kind

    A score above 0 says "relevant", others are counted and dropped. Beside these files may lie
    synonyms/LANG.json {"word": ["replacement", ...]} and dictionary.tsv (en LANG word translation),
    which attacks.py reads.
    Rows that say nothing (empty texts, the same row again, qrels of texts that are not there) are
    left out and counted; `strict` refuses them. But a query whose relevant passage is not there is
    measured all the same: that passage counts as one that is never found (`DataSet.missing`).
    *Errors*: ValueError for anything that is missing, broken or inconsistent, with file and line.
    *Source*: BEIR (Thakur et al. 2021) for the layout.
    """
    folder, superfluous = Path(folder), Superfluous(strict)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. --data takes one such as data/minifacts.")
    queries = read_texts(folder / "queries.jsonl", superfluous)
    passages = read_texts(folder / "corpus.jsonl", superfluous)
    data = DataSet(folder, queries, passages, {}, left_out=superfluous)
    # A query and a passage may share an id, so each has its own table
    query_at = {text.id: i for i, text in enumerate(data.queries)}
    passage_at = {text.id: i for i, text in enumerate(data.passages)}
    digest = hashlib.sha256((folder / "corpus.jsonl").read_bytes())
    digest.update((folder / "queries.jsonl").read_bytes())
    paths = [folder / "qrels" / f"{split}.tsv" for split in SPLITS]
    paths = [path for path in paths if path.exists()]
    for path in paths:
        judgements = read_qrels(path, query_at, passage_at, superfluous)
        digest.update(path.read_bytes())
        if judgements.qrels:  # of a sampled folder, a split may be without any of its queries
            data.qrels[path.stem] = judgements.qrels
            data.missing[path.stem] = judgements.missing
            data.dropped[path.stem] = judgements.zeros
    if not paths:
        remedy = "Write query-id, corpus-id, score with tabs into one, or run prepare.py."
        raise ValueError(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv. {remedy}")
    if not data.qrels:
        fault = "none of their queries is in queries.jsonl"
        raise ValueError(f"{folder}/qrels: {fault}. Do ids match?")
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


def cheapest_cuts(lengths: list[int], overhead: int) -> list[tuple[int, int]]:
    """Cut sorted lengths into parts where that costs least: (start, end) of each part.

        cost of a part = texts * longest + overhead

    The least cost up to an end is that up to the best start of its last part, and that part.
    """
    # A part may end where the next text is longer: its border is the number of texts before it
    borders = [0]
    for count in range(1, len(lengths) + 1):
        if count == len(lengths) or lengths[count] > lengths[count - 1]:
            borders.append(count)
    cheapest = {0: 0}  # border -> least cost of all texts before it
    start_of = {}  # border -> where the last part before it then starts
    for number, end in enumerate(borders[1:], 1):
        costs = []
        for start in borders[:number]:
            costs.append((cheapest[start] + (end - start) * lengths[end - 1] + overhead, start))
        cheapest[end], start_of[end] = min(costs)
    cuts, end = [], len(lengths)
    while end:
        cuts.append((start_of[end], end))
        end = start_of[end]
    return cuts[::-1]


def length_chunks(
    lengths: list[int], max_tokens: int = 8192, max_texts: int = 0, overhead: int = 64
) -> list[list[int]]:
    """Positions, shortest text first, cut into chunks of similar length where that costs least.

        cost of a chunk = texts * longest + overhead
        length_chunks([3, 50, 4, 5]) -> [[0, 2, 3], [1]]          15 + 50 + 2 * 64, in one 200 + 64

    *Units*: tokens; a chunk of several holds at most max_tokens, padding included, and at most
    max_texts texts (0: any number). With overhead 0 a chunk has one length.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    chunks = []
    for start, end in cheapest_cuts([lengths[i] for i in order], overhead):
        most = max(1, max_tokens // max(1, lengths[order[end - 1]]))
        if max_texts:
            most = min(most, max_texts)
        pieces = math.ceil((end - start) / most)  # of as many texts each, as far as that goes
        for piece in range(pieces):
            first = start + (end - start) * piece // pieces
            last = start + (end - start) * (piece + 1) // pieces
            chunks.append(order[first:last])
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
        if settings.pooling not in POOLINGS:
            raise ValueError(f"pooling {settings.pooling!r} is unknown. Take mean or cls.")
        if tokenizer.pad_token_id is None:
            remedy = "Take an encoder's, or name one in tokenizer_config.json."
            raise ValueError(f"{tokenizer.name_or_path!r} has no padding token. {remedy}")
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.precision = precision  # of the forward pass: "fp32", or "bf16" by autocast
        self.one_length = False  # chunks without padding, for a model that does not mask it (FNet)
        # 0: any number. Else a chunk holds at most so many texts, and 64 times as many tokens
        self.chunk_size = 0
        # (tower, text) -> its token row, and whether it was cut; None: texts are not remembered
        self.remembered = None
        # (tower, lang) -> texts that were asked for, remembered or not; those that lost their end
        self.texts_seen, self.texts_cut = Counter(), Counter()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def tokenize(self, texts: list[Text], tower: str) -> list[dict[str, list[int]]]:
        """Texts -> unpadded token rows with prefix and special tokens; truncation is counted.

        With settings.context a passage is the pair (sentence, paragraph). Training has them
        remembered, so that an epoch tokenizes no text that the one before it had.
        """
        known = self.remembered
        if known is None:
            known = {}
        elif len(known) > 200_000:  # about half a GB
            known.clear()
        new_texts = [text for text in dict.fromkeys(texts) if (tower, text) not in known]
        if new_texts:
            for text, row in zip(new_texts, self._token_rows(new_texts, tower), strict=True):
                known[tower, text] = row
        rows = []
        for text in texts:
            row, is_cut = known[tower, text]
            self.texts_seen[tower, text.lang] += 1
            if is_cut:
                self.texts_cut[tower, text.lang] += 1
            rows.append(row)
        return rows

    def _token_rows(self, texts: list[Text], tower: str) -> list[tuple[dict[str, list[int]], bool]]:
        """The token row of each text, and whether it lost its end."""
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
        for i, sentence in enumerate(sentences):
            row = {name: column[i] for name, column in columns.items()}
            paragraph = None
            if paragraphs:
                paragraph = paragraphs[i]
            if paragraph == "":  # a sentence alone, and no pair with nothing
                row = self._call_tokenizer(sentence, None)
            is_cut = len(row["input_ids"]) > limit
            if is_cut:
                row = self._cut(sentence, paragraph, limit)
            rows.append((row, is_cut))
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
        tensors = {name: torch.tensor(lists) for name, lists in batch.items()}
        if self.device.type == "cuda":  # copied while the GPU still computes what came before
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}

    def chunks(self, rows: list[dict], max_tokens: int = 8192) -> list[list[int]]:
        """Positions of token rows in chunks (`length_chunks`), of one length each if need be."""
        lengths = [len(row["input_ids"]) for row in rows]
        # What a chunk costs beside its tokens, in tokens: on two CPU cores 32 to 128 are best;
        # OPEN: on a GPU, which waits for Python, not measured
        overhead = 64
        if self.device.type != "cpu":
            overhead = 2048
        if self.one_length:
            overhead = 0
        if self.chunk_size:  # or so many of the longest texts would make one chunk far too heavy
            max_tokens = min(max_tokens, 64 * self.chunk_size)
        return length_chunks(lengths, max_tokens, self.chunk_size, overhead)

    @property
    def word_table(self) -> nn.Parameter:
        """The embedding of every token id, (V, D); in small multilingual models most weights."""
        return self.model.get_input_embeddings().weight

    def word_embeddings(self, ids: Tensor) -> Tensor:
        """Token ids -> word embeddings, before positions are added: where noise enters.

        *Shapes*: (B, T) -> (B, T, D).
        """
        return self.model.get_input_embeddings()(ids)

    def hidden_states(self, embeddings: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> the last layer's state of every token. (B, T, D) -> (B, T, D)

        Half precision ends here: what follows, scores and losses, is fp32. Without ids the model
        cannot tell padding when it numbers positions (it still has the attention mask) and numbers
        all T in order; where texts are padded on the right, their tokens get the same numbers.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "input_ids"}
        is_half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_half):
            hidden = self.model(inputs_embeds=embeddings, **inputs).last_hidden_state
        return hidden.float()

    def from_embeddings(self, embeddings: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Word embeddings -> unit vectors. (B, T, D) -> (B, D)"""
        hidden = self.hidden_states(embeddings, batch)  # (B, T, D)
        pooled = pool_tokens(hidden, batch["attention_mask"], self.settings.pooling)
        return F.normalize(pooled, dim=-1)  # (B, D)

    def encode_chunk(self, rows: list[dict], noise: list[Tensor] | None = None) -> Tensor:
        """Token rows, padded to the longest of them -> unit vectors (B, D), with gradient.

        *Shapes*: noise holds one (t, D) tensor a row, t its tokens, added to the word embeddings.
        """
        batch = self.pad(rows)
        embeddings = self.word_embeddings(batch["input_ids"])  # (B, T) -> (B, T, D)
        if noise is not None:
            embeddings = embeddings + pad_sequence(noise, batch_first=True)  # (B, T, D)
        return self.from_embeddings(embeddings, batch)  # (B, D)

    def forward(
        self, rows: list[dict], noise: list[Tensor] | None = None, max_tokens: int = 8192
    ) -> Tensor:
        """Token rows -> unit vectors (B, D), with gradient, in length-sorted chunks.

        A 300-token text then pads its own chunk only. All chunks stay in the graph, so the gradient
        is that of the whole batch: this saves padding, not memory.
        *Shapes*: noise holds one (t, D) tensor a row, t its tokens, added to the word embeddings.
        """
        vectors, order = [], []
        for chunk in self.chunks(rows, max_tokens):
            noise_of_chunk = None
            if noise is not None:
                noise_of_chunk = [noise[i] for i in chunk]
            vectors.append(self.encode_chunk([rows[i] for i in chunk], noise_of_chunk))  # (b, D)
            order += chunk
        back = torch.tensor(order, device=self.device).argsort()  # undoes the order
        return torch.cat(vectors)[back]  # (B, D), in the order of `rows`

    @torch.no_grad()
    def encode(self, texts: list[Text], tower: str, bar: str = "", store=None) -> Tensor:
        """Texts -> unit vectors (B, D) on the CPU, in eval mode, without gradient.

        `bar` names a progress bar on a terminal; "" shows none. A `store` (`VectorStore`) keeps
        each block on disk as soon as it is finished, and what it has already is not encoded again.
        """
        if not texts:
            raise ValueError("encode: no texts. Give at least one.")
        # Sorted by characters, nearly the order by tokens: for that one, all texts would have to be
        # tokenized first and kept. Now no more than a block's tokens are in memory
        sizes = [len(text.text) for text in texts]
        if self.settings.context:
            sizes = [len(text.text) + len(text.context) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: (sizes[i], i))
        # Blocks, which `forward` cuts into chunks: they bound the vectors that the device holds
        starts = range(0, len(order), 2048)
        disable = None if bar else True  # tqdm: None is off unless on a terminal
        vectors = None  # (B, D), all blocks write into it: no second copy of a large corpus
        with eval_mode(self):
            for start in tqdm(starts, desc=bar, disable=disable, leave=False):
                places = order[start : start + 2048]
                rows = self.tokenize([texts[i] for i in places], tower)
                block = self._encode_block(rows, tower, store)  # (b, D)
                if vectors is None:
                    vectors = block.new_empty(len(texts), block.shape[1])
                vectors[places] = block
        return vectors

    def _encode_block(self, rows, tower, store):
        """Token rows -> vectors (b, D) on the CPU: those of the store, or new ones."""
        vectors = None
        if store is not None:
            vectors = store.read(tower, rows)
        if vectors is None:
            vectors = self(rows).cpu()
            if store is not None:
                store.write(tower, rows, vectors)
        return vectors


def truncated_texts(encoder: Encoder) -> list[dict]:
    """How many texts lost their end, by tower and language: [{"tower": "query", "cut": 3, ...}]."""
    rows = []
    for (tower, lang), cut in sorted(encoder.texts_cut.items()):
        total = encoder.texts_seen[tower, lang]
        rows.append({"tower": tower, "lang": lang, "cut": cut, "of": total})
    return rows


# ---- scores and loss -----------------------------------------------------------------------------


def false_negatives(gold: Tensor, passage_group: Tensor) -> Tensor:
    """True at [i, j], i != j, where passage j of the batch answers query i as well.

    *Shapes*: gold (B, K) the groups that answer query i, padded with -1; passage_group (B,) ->
    (B, B). K is 1 where the translations of a passage are one group (data/minifacts), the number of
    languages that answer where they are not (MLQA-R: 2 to 4).
    It matters where questions share gold sentences: 52 to 75 % of XQuAD-R's do, and in a batch of
    128 English pairs of it 11 % of the queries would meet such a passage; few of MLQA-R's do.
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
    *Errors*: ValueError for tau <= 0 or without end.
    *Source*: van den Oord et al. 2018, eq. 4, with in-batch negatives.
    """
    if not 0 < tau < math.inf:
        raise ValueError(f"tau is {tau}; it divides the scores and must be above 0, e.g. 0.05.")
    # In fp32 whatever is given: 16 bits are too few for a sum of exponentials
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

    def positions(self, tower: str) -> list[int]:
        """Of the queries or of the passages."""
        if tower == "query":
            return self.queries
        return self.passages


class TrainingPairs:
    """The queries and passages that each question has in each language.

    A question is a group of queries, known by the group's name; its answers are groups of passages.
    *Errors*: ValueError for a data set without the split, or a language that no query has.
    """

    def __init__(self, data: DataSet, langs: list[str], split: str = "train"):
        if split not in data.qrels:
            path = data.folder / "qrels" / f"{split}.tsv"
            fault = "none of its queries is there" if path.exists() else "no such file"
            raise ValueError(f"{path}: {fault}. Training needs it.")
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
        count = len(questions)  # each gives one pair a batch
        if count < size:
            raise ValueError(
                f"--batch-size {size} is larger than the data: {count} pairs fit {batching} "
                f"({pairing.kind} {pairing.lang}) in the training languages {pairs.langs}."
            )
        # Both pairings without a language, "mixed" and "cross", take the stream "mixed": where the
        # same questions fit both, x-x and x-y ask them in one order and differ in languages alone
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


# ---- files: never half of one, and whole when they are read back ---------------------------------


def without_nan(value):
    """The same content with None for numbers that JSON has not: NaN and the infinite ones."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def writing(path: str | Path):
    """Inside the `with` a file is written by whatever library.

    *Errors*: OSError that names the file and says what to do.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's error is a RuntimeError
        remedy = "Make room or give rights, then repeat the command (train.py: with --resume)."
        raise OSError(f"{path}: cannot be written ({str(error)[:150]}). {remedy}") from None


@contextmanager
def written_aside(path: Path, tag: str = ""):
    """Inside the `with` another file is written, which then takes the place of `path`.

    So no reader ever sees half a file. Two processes that may write it at once need two tags.
    """
    aside = path.with_name(f"{path.name}{tag}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)


def write_file(path: Path, text: str) -> None:
    """A text file, never half of one."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """A JSON file, never half of one."""
    write_file(path, json.dumps(without_nan(content), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, kind: type = dict, remedy: str = "Fetch it again.") -> dict | list:
    """The object (or list) in a JSON file.

    *Errors*: ValueError with the file and the remedy.
    """
    refuse_pointer(path)
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), kind)
    except ValueError as error:  # not UTF-8, too
        raise ValueError(f"{path}: {error}. {remedy}") from None


def content_hash(content) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_record(path: Path, content: dict) -> None:
    """A JSON object that a program will read back, with a checksum of itself."""
    content = without_nan(content)
    write_json(path, content | {"checksum": content_hash(content)})


def read_record(path: Path, remedy: str) -> dict:
    """What `write_record` wrote, without the checksum.

    *Errors*: ValueError with the file and the remedy for whatever has changed in it since.
    """
    content = read_json(path, dict, remedy)
    checksum = content.pop("checksum", None)
    if checksum is None:
        raise ValueError(f"{path}: of another program or an older version. {remedy}")
    if checksum != content_hash(content):
        raise ValueError(f"{path}: damaged or changed by hand (its checksum differs). {remedy}")
    return content


@contextmanager
def locked(folder: Path):
    """Inside the `with` no other process writes into this folder; its file `lock` says who does.

    A lock among our own programs, and none where the file system or Windows has no such locks. The
    system lets go of it when a process ends, however it ends: a file that a killed one left behind
    holds nobody up.
    *Errors*: ValueError with the process's id and host.
    """
    read_only = folder.exists() and not os.access(folder, os.W_OK)
    if fcntl is None or read_only:  # nobody can lock, or nobody can write
        yield
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink == 0:  # its owner took it away just now
                raise BlockingIOError
        except BlockingIOError:
            file.seek(0)
            owner = file.read(200).strip() or "a process that is just ending"
            raise ValueError(f"{folder}: in use by {owner}. Wait for it, or end it.") from None
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


# ---- what every program needs --------------------------------------------------------------------


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of each flag, but not None, False or nothing."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def language_flag(text: str) -> str:
    """`base_language` for argparse, whose own message would not say what is wrong."""
    try:
        return base_language(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def refuse_twice(parser: argparse.ArgumentParser, flag: str, values: list | None) -> None:
    """Exit with wrong usage where a flag has one value twice."""
    for value, count in Counter(values or []).items():
        if count > 1:
            parser.error(f"--{flag.replace('_', '-')}: {value} is given twice. Leave one out.")


def output_folder(text: str) -> Path:
    """The value of a flag such as --out; the folder need not be there yet.

    *Errors*: ArgumentTypeError where no folder can be made, before any work.
    """
    path = Path(text)
    if text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text} looks like a flag. Write ./{text} for it.")
    parents = (path, *path.absolute().parents)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # it can be made, or what is above it is refused below
    except OSError as error:  # a name too long, or a folder that may not be searched
        problem = f"{one_line(text)}: {error.strerror}. Give another folder."
        raise argparse.ArgumentTypeError(problem) from None
    there = next(parent for parent in parents if parent.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is no folder. Give the name of a folder.")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{there} cannot be written to. Give another folder.")
    return path


def escape_what_cannot_be_shown() -> None:
    """Print "\\u2192" for an arrow where the terminal has only ASCII, instead of an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def versions() -> dict[str, str]:
    """What the numbers depend on besides our code."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its build, which metadata leaves out
        "numpy": metadata.version("numpy"),
        "transformers": metadata.version("transformers"),
    }


# ---- a model's settings: ours, or those of sentence-transformers ---------------------------------


@dataclass(frozen=True)
class Stored:
    """Settings that stand in one place: pooling "cls" in 1_Pooling/config.json."""

    source: str
    values: dict


def model_file(path: str | Path, name: str) -> Path | None:
    """A file of a model, which is a folder here or a name on the hub; None if it has none."""
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        path,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def library_stages(path: str | Path) -> dict[str, str]:
    """The stages of a sentence-transformers model and the folders of each; {} if it is none.

        library_stages("e5") -> {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Norm.."}

    *Errors*: ValueError for a stage that we do not compute, such as Dense.
    """
    file = model_file(path, "modules.json")
    if file is None:
        return {}
    stages = {}
    for stage in read_json(file, list):
        try:
            kind, part = stage["type"].rpartition(".")[2], stage["path"]
            if not re.fullmatch(r"[\w.-]{0,99}", part) or part == "..":
                raise ValueError
        except (TypeError, KeyError, AttributeError, ValueError):
            problem = 'without "type" and "path", a folder in this one'
            raise ValueError(f"{file}: {quoted(stage)} is {problem}.") from None
        stages[kind] = part
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(
                f"{file}: the model has a stage {quoted(kind)}, which is not computed here: its "
                "vectors would be others. Take a model of Transformer, Pooling and Normalize."
            )
    return stages


def library_pooling(file: Path) -> str:
    """The pooling in 1_Pooling/config.json, in the words of `Settings` where we have it."""
    content = read_json(file)
    if content.get("include_prompt") is False:
        raise ValueError(f"{file}: include_prompt is false; prompts are always pooled here.")
    names = [content["pooling_mode"]] if "pooling_mode" in content else []
    if not names:
        for key, value in content.items():
            if key.startswith("pooling_mode_") and value:
                names.append(key.removeprefix("pooling_mode_").removesuffix("_tokens"))
    # Divided by sqrt(T) or by T: once normalised it is the same vector
    ours = {"cls_token": "cls", "mean_sqrt_len": "mean", "mean_sqrt_len_tokens": "mean"}
    return "+".join(ours.get(str(name), str(name)) for name in names) or "mean"


def library_prompts(file: Path, normalized: bool) -> dict[str, str]:
    """The prefixes in config_sentence_transformers.json; a tower without one has the default's.

    *Errors*: ValueError for a similarity that is not the cosine, with which we rank.
    """
    content = read_json(file)
    similarity = content.get("similarity_fn_name") or "cosine"
    same_order = ("cosine", "dot", "euclidean") if normalized else ("cosine",)
    if similarity not in same_order:
        stage = "with" if normalized else "without"
        raise ValueError(
            f"{file}: the model's similarity is {quoted(similarity)} {stage} a Normalize stage; "
            "vectors are compared by their cosine here. Take a model of the cosine."
        )
    prompts = content.get("prompts") or {}
    if type(prompts) is not dict:
        raise ValueError(f"{file}: prompts are {quoted(prompts)}, not names with texts.")
    default = prompts.get(str(content.get("default_prompt_name")), "")
    prefixes = {"query_prefix": prompts.get("query", default), "passage_prefix": default}
    for name in ("document", "passage", "corpus"):  # the library takes the first that is there
        if name in prompts:
            prefixes["passage_prefix"] = prompts[name]
            break
    return prefixes


def library_lengths(file: Path) -> dict[str, int]:
    """The length in sentence_bert_config.json, which holds for queries and passages."""
    content = read_json(file)
    if content.get("do_lower_case"):
        raise ValueError(
            f"{file}: do_lower_case is true; texts are encoded as they are here. Set it to false "
            "if the tokenizer writes lower case by itself."
        )
    length = content.get("max_seq_length")
    if length is None:
        return {}
    return {"query_length": length, "passage_length": length}


def library_length_files(path: str | Path, stages: dict[str, str]) -> list[Stored]:
    """The length in the files of versions before 6, else that of the tokenizer (version 6).

    What comes later in the list wins, and these files come after the tokenizer's.
    """
    part = Path(stages.get("Transformer", ""))
    names = ["sentence_bert_config.json"]
    stored = []
    if stages:
        name = (part / "tokenizer_config.json").as_posix()
        file = model_file(path, name)
        length = read_json(file).get("model_max_length") if file is not None else None
        if type(length) is int and length < 10**6:  # 10**30 stands for "none"
            stored.append(Stored(name, {"query_length": length, "passage_length": length}))
        for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"):
            names.append(f"sentence_{kind}_config.json")
    for name in names:
        place = (part / name).as_posix()
        file = model_file(path, place)
        if file is not None:
            stored.append(Stored(place, library_lengths(file)))
            break
    return stored


def library_settings(path: str | Path) -> list[Stored]:
    """What sentence-transformers' files say of pooling, prefixes and lengths."""
    stages = library_stages(path)
    stored = []
    if stages:  # no prompts: the library then puts nothing before a text
        stored.append(Stored("modules.json", {"query_prefix": "", "passage_prefix": ""}))
    name = (Path(stages.get("Pooling", "1_Pooling")) / "config.json").as_posix()
    file = model_file(path, name)
    if file is not None:
        stored.append(Stored(name, {"pooling": library_pooling(file)}))
    name = "config_sentence_transformers.json"
    file = model_file(path, name)
    if file is not None:
        stored.append(Stored(name, library_prompts(file, "Normalize" in stages)))
    return stored + library_length_files(path, stages)


def choose_settings(path: str | Path, flags: dict, room: int | None = None) -> Settings:
    """Settings of a model: of the flags, else xlt.json, else sentence-transformers, else default.

    Default lengths are cut to the model's `room` for tokens; those that somebody chose are not.
    One line on stderr says which value is from where, unless all are of xlt.json.
    *Errors*: ValueError for a value of another type or out of range, with the file it is from.
    """
    defaults = asdict(Settings())
    if room is not None:
        for name in ("query_length", "passage_length"):
            defaults[name] = min(defaults[name], room)
    stored = [Stored("default", defaults), *library_settings(path)]
    file = model_file(path, "xlt.json")
    if file is not None:
        stored.append(Stored("xlt.json", read_json(file)))
    values, source_of = {}, {}
    for place in (*stored, Stored("flag", flags)):  # what comes later wins
        for name, value in place.values.items():
            if name not in defaults:
                raise ValueError(
                    f"{path}: {place.source}: unknown setting {quoted(name)}. Delete it."
                )
            values[name], source_of[name] = value, place.source
    for name, value in values.items():
        where = f"{path}: {name.replace('_', ' ')} {quoted(value)} (of {source_of[name]})"
        wanted = type(defaults[name])
        if type(value) is not wanted:
            raise ValueError(f"{where} is no {wanted.__name__}. Correct it.")
        if name == "pooling" and value not in POOLINGS:
            raise ValueError(f"{where} is unknown. Take mean or cls.")
        if wanted is int and value < 1:
            raise ValueError(f"{where}: a text has at least one token. Take a larger length.")
    texts_of = {}  # source -> its settings
    for name, value in values.items():
        texts_of.setdefault(source_of[name], []).append(f"{name} {value!r}")
    report = [f"of {source}: {', '.join(texts)}" for source, texts in texts_of.items()]
    if list(texts_of) != ["xlt.json"]:
        print(f"{path}: {'; '.join(report)}", file=sys.stderr)
    return Settings(**values)


# ---- loading and saving a model ------------------------------------------------------------------


def check_place(path: str | Path, hub: bool) -> None:
    """Refuse, without asking a hub, what is no folder; names are taken where `hub` is true.

    "xlm-roberta-base" and "intfloat/e5" are names, "./e5" and "a/b/c" are not, and neither is
    "runs/e5" where there is a folder "runs".
    """
    if Path(path).is_dir():
        return
    part = r"[A-Za-z0-9][\w.-]*"
    is_name = re.fullmatch(f"{part}(/{part})?", str(path)) is not None
    parent = Path(path).parent
    if parent != Path(".") and parent.exists():
        is_name = False
    if hub and is_name and not Path(path).exists():
        return
    remedy = "Give a folder with a model."
    if is_name and not hub:
        remedy += " Names on the hub are for --model of train.py."
    raise ValueError(f"--model {path}: no such folder. {remedy}")


TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model")
WEIGHT_FILES = ("*.safetensors", "*.bin")


def file_names(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The files of these patterns; of a name on the hub none is known."""
    names = []
    for pattern in patterns:
        names += sorted(file.name for file in folder.glob(pattern))
    return names


def listed(folder: Path, patterns: tuple[str, ...]) -> str:
    """The same for a message: "model.safetensors"."""
    if not folder.is_dir():
        return "on the hub"
    return one_line(", ".join(file_names(folder, patterns))) or f"no {' or '.join(patterns)}"


def check_files(folder: Path) -> None:
    """Refuse a folder without model or tokenizer, and files that stand for others.

    *Errors*: ValueError for what is missing, and for pointers of git-lfs.
    """
    needed = "--model takes a folder that holds"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json. {needed} a model.")
    if not file_names(folder, TOKENIZER_FILES):
        raise ValueError(f"{folder}: no tokenizer_config.json. {needed} a tokenizer.")
    for file in sorted(folder.iterdir()):
        if not (file.is_file() or file.is_dir()):
            name = one_line(str(file), 250)
            raise ValueError(f"{name}: a pipe or a broken link, no file. Put the file there.")
        if file.is_file():
            refuse_pointer(file)


@contextmanager
def opening(path: str | Path, failure: str):
    """Whatever the library raises inside becomes a ValueError of one line with the path."""
    try:
        yield
    # Every kind, from KeyError to the library's own and its backends'
    except Exception as error:  # noqa: BLE001
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = one_line(reason, 160).rstrip(". ")
        remedy = "Fetch the model again, or take another."
        if re.search("sentencepiece|tiktoken|protobuf", reason):
            remedy = "Its tokenizer needs: pip install sentencepiece protobuf."
        raise ValueError(f"--model {path}: {failure}. {reason}. {remedy}") from None


def check_numbers(file: Path) -> None:
    """Refuse a config.json whose numbers no encoder has, before a library counts up to one of them.

    *Units*: at most 1e7, labels 1e4 (each gets a name); XLM-V has 1e6 pieces.
    *Errors*: ValueError with the file, also for what is no JSON.
    """
    for key, value in read_json(file).items():
        most = 10**4 if key == "num_labels" else 10**7
        if type(value) is int and value > most:
            raise ValueError(f"{file}: {quoted(key)} is {quoted(value)}. Write at most {most}.")


def open_config(path: str | Path, part: str):
    """config.json of an encoder, before anything is built from it.

    `part`, here and below: the folder of the Transformer stage in that of the model, "" for itself.
    *Errors*: ValueError for a decoder beside the encoder, language ids, or too many layers.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    file = model_file(path, (Path(part) / "config.json").as_posix())
    if file is not None:
        check_numbers(file)
    with opening(path, "config.json does not open"):
        config = AutoConfig.from_pretrained(path, subfolder=part, trust_remote_code=False)
    kind, where = config.model_type, f"--model {path}: config.json"
    if config.is_encoder_decoder and type(config) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        raise ValueError(f"{where}: {kind} has a decoder, too. Take an encoder.")
    if getattr(config, "use_lang_emb", False) and getattr(config, "n_langs", 2) > 1:
        raise ValueError(f"{where}: wants a language id for each token. Take one without.")
    layers = getattr(config, "num_hidden_layers", 1)
    if isinstance(layers, int) and not 1 <= layers <= 200:
        raise ValueError(f"{where}: {layers} layers. Write 1 to 200.")
    return config


def check_size(path: str | Path, part: str, opener, config) -> None:
    """Refuse a config.json that makes no model, or one for which the folder has too few weights.

    SUBTLE: what a checkpoint lacks would be made up, and memory taken for it; on the device "meta"
    a model has shapes and no numbers.
    *Units*: no format has more than four numbers in a byte.
    *Errors*: ValueError with both sizes.
    """
    with opening(path, "config.json describes no model"), torch.device("meta"):
        model = opener.from_config(config, trust_remote_code=False)
    numbers = sum(weight.numel() for weight in model.parameters())
    folder = Path(path) / part
    size = sum((folder / name).stat().st_size for name in file_names(folder, WEIGHT_FILES))
    if size and numbers > 4 * size:
        files = listed(folder, WEIGHT_FILES)
        both = f"{numbers:.1e} numbers by config.json, {size:.1e} bytes in {files}"
        raise ValueError(f"--model {path}: {both}. They are of two models, or one is damaged.")


def check_weights(where: str, model, info: dict) -> None:
    """Refuse weights that are not those of the model that config.json describes (a pooler or a
    head beside it is nothing to us).

    SUBTLE: weights that a checkpoint lacks are drawn at random: no two loads would be alike. Layers
    above num_hidden_layers are left out without a word.
    *Errors*: ValueError names the weights; also for NaN, and for numbers beyond fp16's largest.
    """
    for name, stored_shape, shape in sorted(info["mismatched_keys"]):
        raise ValueError(
            f"{where}: {name} is {tuple(stored_shape)} in the checkpoint and "
            f"{tuple(shape)} by config.json. They are of two models."
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    superfluous = sorted(info["unexpected_keys"])
    if superfluous and len(missing) > len(model.state_dict()) / 2:
        raise ValueError(
            f"{where}: a checkpoint of another kind than {type(model).__name__}: it lacks "
            f"{missing[0]!r} and holds {superfluous[:1]}. Take a plain encoder."
        )
    if missing:
        remedy = "It is incomplete, or config.json describes more than it holds."
        raise ValueError(f"{where}: the checkpoint lacks {missing[:3]}. {remedy}")
    # A layer too many has the names of ours but for its number: encoder.layer.12.output.dense.bias
    # is an encoder.layer.#.output.dense.bias, as we have; a head's bias is not
    numbers = re.compile(r"\d+")
    our_names = {numbers.sub("#", key) for key in model.state_dict()}
    for key in superfluous:
        plain = key.removeprefix(f"{model.base_model_prefix}.")
        if numbers.sub("#", plain) in our_names and numbers.search(plain):
            remedy = "Set num_hidden_layers in config.json to what the checkpoint has."
            raise ValueError(f"{where}: {key} would be left out. {remedy}")
    for name, weight in model.named_parameters():
        low, high = weight.aminmax()
        if not -65504 <= low <= high <= 65504:  # fp16's largest number; NaN is in no range
            raise ValueError(f"{where}: {name} is from {low:g} to {high:g}: damaged.")


def open_weights(path: str | Path, part: str, config):
    """The model with its weights, in fp32.

    *Errors*: ValueError for a file that does not open, or weights that are not config.json's.
    """
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    opener = AutoModel
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        opener = AutoModelForTextEncoding  # of T5 the encoder alone, of others the same model
    check_size(path, part, opener, config)
    files = listed(Path(path) / part, WEIGHT_FILES)
    with opening(path, f"the weights do not open ({files})"):
        model, info = opener.from_pretrained(
            path,
            subfolder=part,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_weights refuses them and says which
        )
    model.pooler = nn.Identity()  # we pool by ourselves
    check_weights(f"--model {path}: {files}", model, info)
    return model


def open_tokenizer(path: str | Path, part: str, model):
    """Open the tokenizer, with config.json's padding token if it has none; refuse another model's.

    Its ids and the rows of embeddings tell. Embeddings are often padded to a round number (mT5: 12
    rows more, mDeBERTa: 898), so only a tokenizer of less than half the rows is another's.
    *Errors*: ValueError for an id without a row, or rows without tokens.
    """
    from transformers import AutoTokenizer

    files = listed(Path(path) / part, TOKENIZER_FILES)
    with opening(path, f"the tokenizer does not open ({files})"):
        tokenizer = AutoTokenizer.from_pretrained(path, subfolder=part, trust_remote_code=False)
        tokenizer("a \ue000")  # some open and cannot do it: no character is \ue000
    with opening(path, "config.json: it has no word embeddings"):
        rows = model.get_input_embeddings().weight.shape[0]
    padding = getattr(model.config, "pad_token_id", None)
    if tokenizer.pad_token_id is None and padding is not None:  # a tokenizer.json alone has none
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    sizes = f"the tokenizer's ids end at {largest}, the model has {rows} embeddings"
    remedy = "Take the tokenizer that belongs to the weights."
    if largest >= rows:
        raise ValueError(f"--model {path}: {files}: {sizes}: too few. {remedy}")
    if largest + 1 < rows / 2:
        fault = "the vocabulary is missing or another model's"
        raise ValueError(f"--model {path}: {files}: {sizes}: {fault}. {remedy}")
    return tokenizer


def room_for_tokens(model) -> int | None:
    """How many tokens the model has positions for; None without a limit (T5, XLNet)."""
    room = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(room, int) or room < 1:
        return None
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            room -= padding + 1  # positions are numbered from there on (XLM-R, MPNet)
            break
    window = getattr(model.config, "attention_window", None)
    if window:  # Longformer pads to whole windows
        room -= room % max(window)
    return room


def check_lengths(path: str | Path, encoder: Encoder) -> None:
    """Refuse lengths that the model has no positions for, or that leave nothing of a text."""
    settings, room = encoder.settings, room_for_tokens(encoder.model)
    places = "by flag, or in xlt.json or sentence_bert_config.json"
    for tower in ("query", "passage"):
        length = getattr(settings, f"{tower}_length")
        if room is not None and length > room:
            raise ValueError(
                f"--model {path}: --{tower}-length {quoted(length)}: texts have at most {room} "
                f"tokens. Take smaller lengths {places}."
            )
        prefix = len(encoder.tokenizer(getattr(settings, f"{tower}_prefix"))["input_ids"])
        if length <= prefix:
            raise ValueError(
                f"--model {path}: --{tower}-length {length}: prefix and special tokens take "
                f"{prefix}. Take a larger length {places}."
            )


def probe_rows(encoder: Encoder) -> list[dict]:
    """Token rows of a short text and of a longer one, which any tokenizer can read."""
    columns = encoder._call_tokenizer(["1", "1 2 3 4 5 6 7 8"], None)
    return [{name: column[i] for name, column in columns.items()} for i in range(2)]


@torch.no_grad()
def vectors_of_ids(encoder: Encoder, batch: dict[str, Tensor]) -> Tensor:
    """Vectors as the library makes them, of token ids. (B, D)"""
    hidden = encoder.model(**batch).last_hidden_state  # (B, T, D)
    pooled = pool_tokens(hidden, batch["attention_mask"], encoder.settings.pooling)  # (B, D)
    return F.normalize(pooled, dim=-1)


@torch.no_grad()
def vectors_of_embeddings(encoder: Encoder, batch: dict[str, Tensor]) -> Tensor:
    """Vectors as we make them, of word embeddings. (B, D)"""
    return encoder.from_embeddings(encoder.word_embeddings(batch["input_ids"]), batch)


def check_vectors(encoder: Encoder) -> None:
    """Refuse a model whose vectors are none, or others than the library's.

    *Errors*: ValueError for vectors of no length, as zeros in the place of weights give, and for a
    model that adds no positions to word embeddings (ESM).
    """
    for row in probe_rows(encoder):
        batch = encoder.pad([row])
        with eval_mode(encoder):
            vector = vectors_of_embeddings(encoder, batch)  # (1, D)
            expected = vectors_of_ids(encoder, batch)  # (1, D)
        length = float(vector.norm())
        if not abs(length - 1) < 1e-3:  # NaN is none, too
            raise ValueError(f"a vector has the length {length:g} and not 1")
        if not torch.allclose(vector, expected, atol=1e-3):
            raise ValueError("other vectors for word embeddings than for token ids")


def padding_matters(encoder: Encoder) -> bool:
    """Does a text get another vector when it is padded? In a model without a mask (FNet) it does.

    *Units*: 3e-5 of a unit vector; rounding gives 1e-6, Nystromformer 3e-4, FNet 0.4.
    """
    rows = probe_rows(encoder)
    with eval_mode(encoder):
        padded = vectors_of_embeddings(encoder, encoder.pad(rows))[0]
        alone = vectors_of_embeddings(encoder, encoder.pad(rows[:1]))[0]
    return float((padded - alone).abs().max()) > 3e-5


def load_encoder(
    path: str | Path, device: str = "cpu", precision: str = "fp32", hub: bool = False, **flags
) -> Encoder:
    """Open a Hugging Face encoder, a folder (or, with `hub`, a name), with its settings.

    A setting is taken from the first of these places that has it, and stderr says from which:

        flags                    of this call
        xlt.json                 of `save_encoder`
        sentence-transformers    1_Pooling/config.json, config_sentence_transformers.json (prompts),
                                 sentence_bert_config.json (length, else the tokenizer's);
                                 modules.json without prompts says that there is no prefix
        default                  `Settings`

    Vectors are normalised always. A model that does not mask padding is given chunks of one length.
    *Errors*: ValueError with the path for whatever does not open, weights or tokenizer that are not
    the model's, settings and lengths that it cannot have, stages such as Dense, and XLM checkpoints
    that want a language id for each token.
    """
    check_place(path, hub)
    part = library_stages(path).get("Transformer", "")
    if Path(path).is_dir():
        check_files(Path(path) / part)
    # Imported here: it takes longer than all the rest, and --help does without
    from transformers.utils import logging

    logging.set_verbosity_error()  # what is wrong with weights is refused: no report, no bars
    logging.disable_progress_bar()
    config = open_config(path, part)
    model = open_weights(path, part, config)
    tokenizer = open_tokenizer(path, part, model)
    encoder = Encoder(model, tokenizer, choose_settings(path, flags, room_for_tokens(model)))
    check_lengths(path, encoder)
    files = listed(Path(path) / part, WEIGHT_FILES)
    with opening(path, f"no vectors come of word embeddings (config.json, {files})"):
        check_vectors(encoder)
        encoder.one_length = padding_matters(encoder)
    encoder.precision = precision  # SUBTLE: not earlier; in bf16 padding moves every vector a bit
    return encoder.to(device)


def check_known(encoder: Encoder, texts: list[Text], sample: int = 50) -> None:
    """Refuse a tokenizer that knows few of the texts; warn of each language of which that is true.

    *Units*: share of <unk> among the tokens, blanks left out, of up to `sample` texts a language.
    *Errors*: ValueError if it is above one half over all languages.
    """
    unknown = encoder.tokenizer.unk_token_id
    if unknown is None:  # a vocabulary of bytes knows everything
        return
    vocabulary = encoder.tokenizer.get_vocab()
    blanks = {number for token, number in vocabulary.items() if not token.strip("▁")}
    texts_of = {}
    for text in texts:
        texts_of.setdefault(text.lang, []).append(text.text)
    n_unknown, n_tokens = Counter(), Counter()
    for lang, all_of_lang in texts_of.items():
        step = max(1, len(all_of_lang) // sample)
        chosen = all_of_lang[::step][:sample]
        for ids in encoder.tokenizer(chosen, add_special_tokens=False)["input_ids"]:
            n_tokens[lang] += sum(number not in blanks for number in ids)
            n_unknown[lang] += ids.count(unknown)
    name = encoder.tokenizer.name_or_path
    share = n_unknown.total() / max(1, n_tokens.total())
    if share > 0.5:
        raise ValueError(
            f"{name}: {100 * share:.0f} % of the tokens are unknown to the tokenizer "
            f"({', '.join(sorted(texts_of))}). Its vocabulary is missing or of other languages."
        )
    for lang, tokens in n_tokens.items():
        if n_unknown[lang] > 0.5 * tokens:
            text = f"{100 * n_unknown[lang] / tokens:.0f} % of the tokens of {lang}"
            print(f"{name}: warning: {text} are unknown to the tokenizer", file=sys.stderr)


def weights_hash(encoder: Encoder) -> str:
    """SHA-256 of the weights, which name a model better than its path."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoder_hashes(encoder: Encoder) -> dict[str, str]:
    """What makes the same weights give other vectors: SHA-256 of the tokenizer, of config.json."""
    # The fakes of the lab course have neither
    tokenizer, model = getattr(encoder, "tokenizer", None), getattr(encoder, "model", None)
    vocabulary, config = {}, {}
    if getattr(tokenizer, "is_fast", False):
        vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
        for name in ("truncation", "padding", "version"):  # these change as we use it
            vocabulary.pop(name, None)
    elif hasattr(tokenizer, "get_vocab"):
        vocabulary = tokenizer.get_vocab()
    # Two settings that to_str() leaves out: the end at which texts are cut off, and whether "<s>"
    # in a text is read as text and not as the special token
    for name, usual in (("truncation_side", "right"), ("split_special_tokens", False)):
        if getattr(tokenizer, name, usual) != usual:
            vocabulary |= {name: getattr(tokenizer, name)}
    if hasattr(model, "config"):
        # What differs from the defaults: a version of transformers may have more of them
        config = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype"):
        config.pop(name, None)
    return {"tokenizer_sha256": content_hash(vocabulary), "config_sha256": content_hash(config)}


class VectorStore:
    """Vectors on disk: a folder with one file for each block of texts that was encoded.

        name of a file = SHA-256 of all that its vectors depend on
        its content    = SHA-256 of the numbers (32 bytes), then the numbers, (b, D) of float32

    So an encoding that was killed goes on where it was, a second one reads everything, and vectors
    of another model, text or setting are never found. The folder may be deleted at any time.
    """

    def __init__(self, folder: Path, encoder: Encoder):
        self.folder = folder
        for path in folder.glob("*.tmp"):
            with suppress(FileNotFoundError):  # another process has finished it just now
                if time.time() - path.stat().st_mtime > 60:  # one that was killed has left it
                    path.unlink()
        self.encoder_hash = content_hash(
            {
                "model_sha256": weights_hash(encoder),
                **encoder_hashes(encoder),
                "settings": vars(encoder.settings),
                "precision": encoder.precision,
                "device": encoder.device.type,  # another one, as another version, has other digits
                "versions": versions(),
            }
        )

    def path(self, tower: str, rows: list[dict]) -> Path:
        """The file of a block. Token rows are the texts as they are encoded: with prefix, cut."""
        return self.folder / content_hash([self.encoder_hash, tower, rows])

    def read(self, tower: str, rows: list[dict]) -> Tensor | None:
        """The vectors of a block (b, D), None if they are not there; says if they are damaged."""
        path = self.path(tower, rows)
        if not path.is_file():
            return None
        content = path.read_bytes()
        checksum, numbers = content[:32], content[32:]
        if hashlib.sha256(numbers).digest() != checksum:
            print(f"{path}: damaged; its texts are encoded once more", file=sys.stderr)
            return None
        return torch.frombuffer(bytearray(numbers), dtype=torch.float32).view(len(rows), -1)

    def write(self, tower: str, rows: list[dict], vectors: Tensor) -> None:
        """Keep the vectors of a block; two processes may write the same one at once."""
        numbers = vectors.contiguous().numpy().tobytes()
        with written_aside(self.path(tower, rows), f".{secrets.token_hex(4)}") as aside:
            aside.write_bytes(hashlib.sha256(numbers).digest() + numbers)


MODEL_README = """\
---
library_name: sentence-transformers
---
An encoder for cross-lingual retrieval. A query begins with {query_prefix!r}, a passage with
{passage_prefix!r}; a text's vector is pooled from its tokens ({pooling}) and has length 1.

Made with transformers {version}. AutoModel and SentenceTransformer open it from transformers 5 on;
version 4 refuses the class that its tokenizer_config.json may name, TokenizersBackend.
"""


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write weights, tokenizer, settings; SentenceTransformer(folder) then gives our vectors.

    But for three things: it cuts queries at passage_length, too, does not know `context`, and pads
    the texts of a model that does not mask padding.
    """
    folder, settings = Path(folder), encoder.settings
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
    if "readme.md" not in {file.name.lower() for file in folder.iterdir()}:  # one's own stays
        version = versions()["transformers"]
        write_file(folder / "README.md", MODEL_README.format(version=version, **vars(settings)))
    encoder._call_tokenizer("", None)  # or its file would say how it cut the last text
    encoder.tokenizer.model_max_length = settings.passage_length
    with writing(folder):
        try:
            encoder.tokenizer.save_pretrained(folder)
        except Exception as error:  # noqa: BLE001  (its library has no kind of its own)
            raise OSError(str(error)) from None
        # The weights come last: a new folder that is not complete does not open, least of all
        # with other settings than these
        encoder.model.save_pretrained(folder)
