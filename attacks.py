"""How a query is perturbed: its words, its letters, its embeddings; at random, at worst, certified.

    margin = best score of a relevant passage - best score of any other   (> 0: right at rank 1)
    random     E  margin(q')      q' drawn from the neighbourhood of q
    greedy     ~  min margin(q')  word by word, the worst replacement each time
    certified  :  margin(q') > 0 for every q' of the neighbourhood

A neighbourhood is a set of replacements a word (synonyms, typos, other languages) or a ball around
the word embeddings. An attack is where the options come from and how they are searched: ATTACKS.
Where to look next: `find_words` is what makes eleven languages work, `margins` is the goal,
`beam_search` the worst case over words, `pgd` the worst case over embeddings, `attack` runs it all.
Left out on purpose: part-of-speech taggers, segmenters, sentence encoders that judge fluency.
Differs from TextAttack: the goal is a ranking; all queries advance in lock-step, the candidates of
a step are one batch, and a word is what the table says it is. From Robust-XLT: it splits on single
spaces with case and punctuation attached, which finds 37.7 % of XQuAD-R's English question words
where this finds 59.3 % (PAPERS.md, 1), and no word at all in Thai and Chinese.

Shapes: B batch, T tokens, D embedding, Q queries, C candidates, P passages, L languages.
"""

import itertools
import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from xlt import DataSet, Encoder, Text, choose, generator, length_chunks

# Written without spaces between words: a key may match anywhere, the longest one wins
UNSPACED = {"zh", "th", "ja", "km", "lo", "my"}

# name -> where the options of a word come from, how they are searched
ATTACKS = {
    "identity": ("nothing", "random"),  # the control that must change nothing at all
    "random": ("synonyms", "random"),
    "greedy": ("synonyms", "beam"),
    "beam": ("synonyms", "beam"),
    "hotflip": ("synonyms", "beam"),
    "exact": ("synonyms", "exact"),
    "code-switch": ("dictionary", "random"),
    "code-switch-greedy": ("dictionary", "beam"),
    "typos": ("typos", "random"),
    "typos-greedy": ("typos", "beam"),
    "gaussian": ("embeddings", "random"),
    "uniform": ("embeddings", "random"),
    "fgm": ("embeddings", "gradient"),
    "pgd": ("embeddings", "gradient"),
    "smoothed": ("synonyms", "vote"),
}


@dataclass(frozen=True)
class Attack:
    """An adversary and its strength, as text "greedy:edits=2,k=4"; `label` names its records."""

    name: str
    label: str
    edits: float = 0.0  # most words changed: a number, a share if below 1, 0 for no bound
    k: int = 8  # most replacements a word (Robust-XLT's table holds at most 8)
    width: int = 1  # texts kept a step; 1 is greedy
    order: str = "scores"  # which word first: leave-one-out "scores", or one "gradient" pass
    budget: int = 0  # most texts encoded a query; 0 for no bound
    limit: int = 512  # exact: most combinations
    epsilon: float = 0.02  # radius, in mean norms of a word embedding; gaussian: expected norm
    norm: str = "l2"  # or "max"
    ball: str = "token"  # each token has its own, or the "sentence" has one
    steps: int = 5  # of pgd
    step_size: float = 0.25  # of pgd, in units of epsilon
    restarts: int = 2  # of pgd: the first from fgm's point, the others at random
    samples: int = 1000  # smoothed: substitutions drawn a query (CertDR's 1000)
    confidence: float = 0.99  # smoothed: that one query's certificate holds


def change(found, settings: str, known: Collection[str], where: str):
    """A dataclass with the settings of a text such as "edits=2,k=4".

    *Errors*: ValueError, beginning with `where`, for an unknown setting or a value of another type.
    """
    seen = set()
    for part in filter(None, settings.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise ValueError(f"{where}: no setting {key!r}. There is {', '.join(known)}.")
        if key in seen:
            raise ValueError(f"{where}: {key} is given twice. Leave one out.")
        seen.add(key)
        try:
            found = replace(found, **{key: type(vars(found)[key])(value)})
        except ValueError:
            raise ValueError(f"{where}: {key} is {value!r}, no number.") from None
    return found


def parse_attack(text: str) -> Attack:
    """ "pgd:epsilon=0.5,steps=10" -> Attack.

    *Errors*: ValueError for an unknown attack or setting and for a value out of range.
    """
    name, _, rest = text.partition(":")
    if name not in ATTACKS:
        raise ValueError(f"attack {name!r} is unknown. Take one of {', '.join(ATTACKS)}.")
    values = {"hotflip": {"order": "gradient"}, "beam": {"width": 4}, "typos": {"edits": 1}}
    values["typos-greedy"] = values["typos"]
    found = replace(Attack(name, text), **values.get(name, {}))
    known = [key for key in vars(found) if key not in ("name", "label")]
    found = change(found, rest, known, f"attack {text!r}")
    words = {"order": ("scores", "gradient"), "norm": ("l2", "max"), "ball": ("token", "sentence")}
    for key, allowed in words.items():
        if getattr(found, key) not in allowed:
            raise ValueError(f"attack {text!r}: {key} is one of {', '.join(allowed)}.")
    least = dict.fromkeys(("k", "width", "limit", "steps", "restarts", "samples"), 1)
    least |= {"edits": 0, "budget": 0, "epsilon": 0}
    for key, low in least.items():
        if not low <= getattr(found, key) < math.inf:
            raise ValueError(f"attack {text!r}: {key} is at least {low}.")
    if found.norm == "max" and name not in ("fgm", "pgd"):
        raise ValueError(f"attack {text!r}: norm=max is for fgm and pgd; {name} draws in l2.")
    if not 0 < found.confidence < 1 or not 0 < found.step_size < math.inf:
        raise ValueError(f"attack {text!r}: 0 < confidence < 1 and step_size > 0, please.")
    return found


# ---- 1. words: find them, protect some, replace the others ---------------------------------------


def lower(text: str, lang: str = "") -> str:
    """Lower case of the same length: Turkish's dotted I would become two characters."""
    text = text.replace("I", "ı") if lang == "tr" else text  # and its dotless one is another letter
    return "".join(c.lower() if len(c.lower()) == 1 else "i" for c in text)


def in_word(char: str) -> bool:
    """Letters, combining marks and digits make words."""
    # SUBTLE: \\w leaves out the vowel signs of Hindi and Thai and would cut words in two
    return unicodedata.category(char)[0] in "LMN"


def find_words(text: str, table: Collection[str], lang: str) -> list[tuple[int, int]]:
    """Spans [start, end) of the table's words in the text, left to right, longest match first.

    A key may hold spaces (Vietnamese "thủ đô"); it is compared in lower case and, where the
    language writes spaces, only between word borders.
    """
    low, spans, at = lower(text, lang), [], 0
    longest = max(map(len, table), default=0)
    while at < len(low):
        border = lang in UNSPACED or at == 0 or not in_word(low[at - 1])
        for end in range(min(len(low), at + longest), at, -1) if border else ():
            closed = lang in UNSPACED or end == len(low) or not in_word(low[end])
            # SUBTLE: in unspaced scripts too, a mark belongs to the letter before it
            split = end < len(low) and unicodedata.category(low[end])[0] == "M"
            if closed and not split and low[at:end] in table:
                spans.append((at, end))
                at = end - 1
                break
        at += 1
    return spans


def match_case(word: str, other: str, lang: str) -> str:
    """The replacement with a capital where the word has one."""
    if not word[:1].isupper() or not other:
        return other
    return ("İ" if lang == "tr" and other[0] == "i" else other[0].upper()) + other[1:]


def substitute(text: str, edits: dict[tuple[int, int], str]) -> str:
    """Put the replacement of each span into the text; spans do not overlap."""
    for (start, end), other in sorted(edits.items(), reverse=True):  # from the right
        text = text[:start] + other + text[end:]
    return text


def draw(slots: list, edits: int | None, rng: torch.Generator) -> dict[tuple[int, int], str]:
    """Random edits. None: Robust-XLT's rule; a number: so many words, each really changed.

    *Source*: Huang et al. 2021, section 3.3, as coded: uniform from the word and its replacements.
    """
    if edits is None:
        picks = [(start, end, choose([*options, None], rng)) for start, end, options in slots]
        return {(start, end): other for start, end, other in picks if other is not None}
    order = torch.randperm(len(slots), generator=rng)[:edits].tolist()
    return {slots[i][:2]: choose(slots[i][2], rng) for i in sorted(order)}


def redraw(text: str, table: dict[str, list[str]], lang: str, rng: torch.Generator) -> str:
    """Redraw every word of the table, protected or not, uniformly from itself and its replacements.

    *Source*: Robust-XLT's data augmentation (Huang et al. 2021, section 3.3), as coded.
    """
    edits = {}
    for start, end in find_words(text, table, lang):
        other = choose([*table[lower(text[start:end], lang)], None], rng)
        if other is not None:
            edits[start, end] = match_case(text[start], other, lang)
    return substitute(text, edits)


def find_slots(
    text: str, table: dict, lang: str, fixed: frozenset = frozenset(), k: int = 10**9
) -> list[tuple[int, int, list[str]]]:
    """What may be changed: (start, end, replacements) of every word but the protected ones.

    Protected are numbers, names (a capital that no sentence begin explains; German writes one on
    every noun, there it says nothing) and `fixed` words, such as the answer's: with another one
    another passage would be relevant. A replacement that changes nothing, or case only, is none.
    """
    found, kept = [], find_words(text, fixed, lang)
    for start, end in find_words(text, table, lang):
        word, first = text[start:end], not any(map(in_word, text[:start]))
        name = word[0].isupper() and not first and lang != "de"
        number = any(unicodedata.category(c)[0] == "N" for c in word)
        # Without spaces, a word of two letters or more that stands in the answer is the answer's
        part = lang in UNSPACED and end - start > 1 and any(lower(word) in f for f in fixed)
        if name or number or part or any(a < end and start < b for a, b in kept):
            continue
        options = [match_case(word, other, lang) for other in table[lower(word, lang)]]
        options = [o for o in dict.fromkeys(options) if lower(o, lang) != lower(word, lang)][:k]
        if options:
            found.append((start, end, options))
    return found


def answer_words(answer: str, table: dict, lang: str) -> set[str]:
    """The answer as a whole, the table's words in it, and its longer ones (no mere article)."""
    parts = [] if lang in UNSPACED else words_of(answer, lang)
    parts = [part for part in parts if part[1] - part[0] > 3] + find_words(answer, table, lang)
    return {lower(part, lang) for part in (answer, *(answer[a:b] for a, b in parts))}


def words_of(text: str, lang: str) -> list[tuple[int, int]]:
    """Spans of words without a table; where no spaces are written, stretches of four letters."""
    spans, start = [], None
    for at, char in enumerate([*text, " "]):
        if in_word(char) and start is None:
            start = at
        elif not in_word(char) and start is not None:
            cuts = [start + i for i in range(at - start)]
            # SUBTLE: a mark stays with its letter
            cuts = [i for i in cuts if unicodedata.category(text[i])[0] != "M" or i == start]
            cuts = cuts[::4] if lang in UNSPACED else cuts[:1]
            spans += zip(cuts, [*cuts[1:], at], strict=True)
            start = None
    return spans


def read_table(path: Path, lang: str) -> dict[str, list[str]]:
    """Replacements from {"word": [...]} JSON (ours, counter-fitted) or a wordnet's tab file (OMW).

    *Errors*: ValueError for a file that is missing or is neither.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table. Give LANG=FILE with a .json or OMW .tab file.")
    try:
        content, table = path.read_text(encoding="utf-8"), {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    if path.suffix == ".tab":
        cells = [line.split("\t") for line in content.split("\n") if not line.startswith("#")]
        synsets = defaultdict(list)
        for row in cells:
            if len(row) == 3 and row[1].split(":")[-1] == "lemma":
                synsets[row[0]].append(row[2].replace("_", " "))
        for words in synsets.values():
            for word in words:
                table.setdefault(lower(word, lang), []).extend(w for w in words if w != word)
        if not synsets:
            raise ValueError(f"{path}: no row with synset, LANG:lemma, word. Give an OMW tab file.")
        return {word: list(dict.fromkeys(others)) for word, others in table.items() if others}
    try:
        rows = json.loads(content)
        for word, others in rows.items():
            if not isinstance(others, list) or not all(isinstance(o, str) and o for o in others):
                raise ValueError(f"{word!r} has {others!r}")
            table.setdefault(lower(word, lang), []).extend(others)
    except (ValueError, AttributeError) as error:
        want = '{"word": ["other", ...]}'
        raise ValueError(f"{path}: not JSON of the form {want}: {error}") from None
    return table


def read_synonyms(
    folder: Path, files: dict[str, str] | None = None
) -> dict[str, dict[str, list[str]]]:
    """lang -> word -> replacements, from these files or else the data set's synonyms/."""
    files = files or {path.stem: path for path in sorted((folder / "synonyms").glob("*.json"))}
    if not files:
        raise ValueError(f"{folder}/synonyms: no such folder. Give --table LANG=FILE.")
    return {lang: read_table(Path(path), lang) for lang, path in files.items()}


def neighbours(encoder: Encoder, texts: list[Text], k: int = 8) -> dict[str, dict[str, list[str]]]:
    """Without any table: the k words nearest by the encoder's own word embeddings, by language.

    A word's embedding is the mean over its pieces; its neighbours come from the same texts. They
    need not be synonyms ("north" is near "south"): the answer may change, so take care.
    """
    tables = {}
    for lang in sorted({t.lang for t in texts if any(map(in_word, t.text))}):
        own = [t.text for t in texts if t.lang == lang]
        words = sorted({lower(t[a:b], lang) for t in own for a, b in words_of(t, lang)})
        rows = encoder.tokenizer(words, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            wide = [encoder.words(torch.tensor(r, device=encoder.device)).mean(0) for r in rows]
        wide = F.normalize(torch.stack(wide).float(), dim=-1)  # (V, D)
        near = (wide @ wide.T).fill_diagonal_(-2).topk(min(k, len(words) - 1)).indices.tolist()
        tables[lang] = {w: [words[j] for j in row] for w, row in zip(words, near, strict=True)}
    return tables


# ---- 2. code-switching and typos: the same edits from other options ------------------------------


def read_dictionary(path: Path, langs: Collection[str] = ()) -> dict[str, dict[str, list[str]]]:
    """dictionary.tsv (en, LANG, word, translation) -> lang -> word -> its words in all other ones.

    English is the pivot between two other languages. `langs` keeps these only: what a model is
    trained on must not hold words of its zero-shot languages.
    *Errors*: ValueError for a missing file, or a row with another number of columns.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such dictionary. Code-switching needs one: see DESIGN, 3.")
    concepts = defaultdict(dict)  # English word -> lang -> word
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        cells = line.split("\t")
        if line and (len(cells) != 4 or not all(cells) or cells[0] != "en"):
            raise ValueError(f"{path}:{number}: {line!r} is not en, LANG, word, translation.")
        if line:
            concepts[cells[2]] |= {"en": cells[2], cells[1]: cells[3]}
    if langs:
        concepts = {w: {a: x for a, x in r.items() if a in langs} for w, r in concepts.items()}
    tables = defaultdict(lambda: defaultdict(list))
    for row in concepts.values():
        for lang, word in row.items():
            others = [row[a] for a in sorted(row) if a != lang]
            known = tables[lang][lower(word, lang)]
            known += [o for o in dict.fromkeys(others) if o not in known]
    return {lang: dict(table) for lang, table in tables.items()}


KEYBOARDS = (
    ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    (" ςερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ"),  # a blank: a key that holds no single letter
    ("ضصثقفغعهخحجد", "شسيبلاتنمكط", "ئءؤر ىةوزظ"),
)
EDITS = ("insert", "delete", "substitute", "swap", "neighbour")


def letters_of(word: str) -> list[str]:
    """Letters with the marks that stand on them: an edit never splits the two."""
    found = []
    for char in word:
        if found and unicodedata.category(char)[0] == "M":
            found[-1] += char
        else:
            found.append(char)
    return found


def near_keys(char: str) -> list[str]:
    """The keys beside, above and below on the letter's keyboard; [] if we have none for it."""
    for rows in KEYBOARDS:
        for y, row in enumerate(rows):
            if (x := row.find(char)) >= 0:
                near = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))  # rows lie askew
                beside = [(y + j, x + i) for j, i in near]
                found = [rows[j][i] for j, i in beside if 0 <= j < 3 and 0 <= i < len(rows[j])]
                return [key for key in found if key != " "]
    return []


def typo(word: str, rng: torch.Generator) -> str:
    """One of five edits: insert, delete or substitute a letter, swap two, hit a key beside it.

    Letters come from the word's keyboard; where we have none (Thai, Hindi, Chinese), from the word
    itself, and the key beside is left out. *Source*: Zhuang & Zuccon 2021.
    """
    parts, edits = letters_of(word), list(EDITS)
    own = next((rows for rows in KEYBOARDS if any(word[0].lower() in row for row in rows)), None)
    letters = list("".join(own).replace(" ", "")) if own else list(dict.fromkeys(parts))
    while edits:
        edit, at = choose(edits, rng), int(torch.randint(len(parts), (), generator=rng))
        letter, beside = choose(letters, rng), near_keys(parts[at][0].lower())
        new = list(parts)
        if edit == "insert":
            new.insert(at, letter)
        elif edit == "delete":
            del new[at]
        elif edit == "substitute":
            new[at] = letter
        elif edit == "swap" and at + 1 < len(parts):
            new[at : at + 2] = new[at + 1], new[at]
        elif edit == "neighbour" and beside:
            new[at] = choose(beside, rng) + parts[at][1:]  # the marks stay
        if new and new != parts:
            return "".join(new)
        edits.remove(edit)  # it changes nothing here: another one
    return word


def typo_places(text: str, lang: str, fixed=frozenset()) -> list[tuple[int, int]]:
    """Words of at least three letters, neither number nor `fixed`."""
    found, kept = [], find_words(text, fixed, lang)
    for start, end in words_of(text, lang):
        word, free = text[start:end], not any(a < end and start < b for a, b in kept)
        number = any(unicodedata.category(c)[0] == "N" for c in word)
        if len(letters_of(word)) >= 3 and free and not number:
            found.append((start, end))
    return found


def typo_slots(text: str, lang: str, rng: torch.Generator, fixed=frozenset(), k: int = 1) -> list:
    """The places with up to k typos each."""
    found = []
    for start, end in typo_places(text, lang, fixed):
        options = dict.fromkeys(typo(text[start:end], rng) for _ in range(k))
        options.pop(text[start:end], None)
        if options:
            found.append((start, end, list(options)))
    return found


def augment(t: Text, slots: list, source: str, rng: torch.Generator, words: float = 0.5) -> dict:
    """The edits of one text to train on: what the attacks of this source draw.

        synonyms     every word uniformly from itself and its replacements (Robust-XLT)
        dictionary   every word with probability `words`, any of its translations (CoSDA-ML)
        typos        one word, one edit (Zhuang & Zuccon 2021)

    *Shapes*: slots as of `find_slots`, or of `typo_places`.
    """
    if source == "synonyms":
        return draw(slots, None, rng)
    if source == "typos":
        start, end = choose(slots, rng)
        return {(start, end): typo(t.text[start:end], rng)}
    switched = (torch.rand(len(slots), generator=rng) < words).tolist()
    return {s[:2]: choose(s[2], rng) for s, yes in zip(slots, switched, strict=True) if yes}


# ---- the goal: one margin a ranking --------------------------------------------------------------


@dataclass
class Pools:
    """All passages, sorted by language, and which of them answer which query."""

    p: Tensor  # (P + 1, D), encoded once; the last row, all 0, is what padding points at
    langs: list[str]  # L of them
    starts: list[int]  # L + 1 borders: language i holds the passages starts[i] to starts[i + 1]
    relevant: Tensor  # (Q, R) rows of p, padded with P (the number of passages)
    own: Tensor  # (Q,) position of the query's language in langs, -1 if there is none


def make_pools(
    p: Tensor, data: DataSet, queries: list[int], passages: list[int], split: str
) -> Pools:
    """Sort the passages (P, D) by language and look up the relevant ones of each query."""
    spoken = [data.passages[i].lang for i in passages]
    order = sorted(range(len(passages)), key=lambda i: spoken[i])  # stable
    langs = sorted(set(spoken))
    counts = Counter(spoken)
    starts = [0, *itertools.accumulate(counts[lang] for lang in langs)]
    row = {passages[i]: n for n, i in enumerate(order)}
    found = [[row[x] for x in data.qrels[split][q] if x in row] for q in queries]
    width = max(1, max(map(len, found)))
    relevant = torch.tensor([r + [len(order)] * (width - len(r)) for r in found])
    own = [langs.index(a) if a in langs else -1 for a in (data.queries[q].lang for q in queries)]
    p = F.pad(p[torch.tensor(order)], (0, 0, 0, 1))
    return Pools(p, langs, starts, relevant, torch.tensor(own))


def best(pools: Pools, v: Tensor, rows: Tensor):
    """Best relevant and best other score in each language, and who has it: four times (C, L)."""
    p, mine = pools.p.to(v.device), pools.relevant[rows].to(v.device)  # (P + 1, D), (C, R)
    starts = torch.tensor(pools.starts, device=v.device)
    scores = v @ p.T  # (C, D) @ (D, P + 1) -> (C, P + 1)
    spoken = torch.bucketize(mine, starts[1:], right=True)[..., None]  # (C, R, 1), L for padding
    each = torch.arange(len(pools.langs), device=v.device)
    spread = scores.gather(1, mine)[..., None].masked_fill(spoken != each, -math.inf)  # (C, R, L)
    good, who = spread.max(1)
    scores.scatter_(1, mine, -math.inf)  # what is left are the others
    cuts = itertools.pairwise(pools.starts)
    other, foe = zip(*(scores[:, a:b].max(1) for a, b in cuts), strict=True)
    return good, torch.stack(other, 1), mine.gather(1, who), torch.stack(foe, 1) + starts[:-1]


@torch.no_grad()
def margins(pools: Pools, v: Tensor, rows: Tensor, block: int = 1024) -> Tensor:
    """Best relevant minus best other score, in each language's pool and in the pool of all.

    *Shapes*: v (C, D), rows (C,) of pools -> (C, L + 1), the pool of all languages last.
    *Units*: cosine, -2 to 2, rounded to 1e-6 so that the shape of a batch decides nothing;
    NaN where nothing is relevant or nothing else is there.
    """
    parts = []
    for i in range(0, len(v), block):
        good, other, _, _ = best(pools, v[i : i + block], rows[i : i + block])
        good = torch.cat([good, good.amax(1, keepdim=True)], 1)  # (C, L + 1)
        other = torch.cat([other, other.amax(1, keepdim=True)], 1)
        parts.append((good - other).cpu())
    each = torch.cat(parts) if parts else torch.empty(0, len(pools.langs) + 1)
    return each.masked_fill(~each.isfinite(), math.nan).mul(1e6).round().div(1e6)


def is_own(own: Tensor, langs: int) -> Tensor:
    """Which language is the query's own; none for -1. (C,) -> (C, L) of bool"""
    return F.one_hot(own + 1, langs + 1)[:, 1:].bool()


def of_view(each: Tensor, own: Tensor, view: str) -> Tensor:
    """A view's margin: own language, mean over the others, all in one. (C, L + 1) -> (C,)"""
    if view == "pool":
        return each[:, -1]
    each = each[:, :-1]
    mine = is_own(own, each.shape[1]).to(each.device)  # (C, L)
    return each.masked_fill(~mine if view == "mono" else mine, math.nan).nanmean(1)


def directions(pools: Pools, v: Tensor, rows: Tensor, view: str) -> Tensor:
    """The d with margin = v . d near v: best relevant minus best other passage. -> (C, D)"""
    p = pools.p.to(v.device)
    good, other, who, foe = best(pools, v.detach(), rows)
    mine = is_own(pools.own[rows], good.shape[1]).to(v.device)  # (C, L)
    if view == "pool":
        who, foe = (w.gather(1, s.argmax(1, keepdim=True)) for s, w in ((good, who), (other, foe)))
        return p[who[:, 0]] - p[foe[:, 0]]
    counts = (mine if view == "mono" else ~mine) & good.isfinite() & other.isfinite()  # (C, L)
    weight = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("cl,cld->cd", weight.to(p.dtype), p[who] - p[foe])


# ---- search: at random, word by word, all combinations -------------------------------------------


@dataclass
class Item:
    """One query under attack in one view, and what has become of it."""

    query: int  # row of pools
    view: str
    source: Text
    slots: list  # (start, end, replacements): where it could be changed; none: not attacked
    text: str = ""
    edits: dict[tuple[int, int], str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # texts encoded for it: its encoder calls
    norm: float = 0.0  # mean L2 norm of the noise on a token, in mean norms of a word embedding
    exhaustive: bool = False  # every combination within the bounds was tried
    worst: Tensor | None = None  # then: its smallest margin in each pool (L + 1,)

    @property
    def attacked(self) -> bool:
        """A query with nothing to replace was not attacked: it is no robust one."""
        return bool(self.slots) or self.norm > 0

    @property
    def changed(self) -> bool:
        return self.norm > 0 or (bool(self.text) and self.text != self.source.text)

    def most(self, edits: float) -> int:
        """How many words may change: a number, a share of the slots (rounded up), or all."""
        bound = math.ceil(edits * len(self.slots) - 1e-9) if edits < 1 else int(edits)
        return min(bound, len(self.slots)) if edits else len(self.slots)


def scorer(encoder: Encoder, pools: Pools, progress=lambda rows: rows):
    """A function: (item, text) pairs -> margins in each pool (C, L + 1), in the item's view (C,).

    All pairs of a step are one batch: each distinct text is encoded once, sorted by length.
    *Source*: PITFALLS.md 15; what TextAttack does one query at a time.
    """
    known = {}  # (query, text) -> margins (L + 1,)

    def score(pairs: list[tuple[Item, str]]) -> tuple[Tensor, Tensor]:
        keys = [(item.query, text) for item, text in pairs]
        new = [key for key in dict.fromkeys(keys) if key not in known]
        for start in range(0, len(new), 16384):  # so that memory does not grow with the search
            part = new[start : start + 16384]
            at = {text: i for i, text in enumerate(dict.fromkeys(text for _, text in part))}
            v = encoder.encode([Text("", "", text, "") for text in at], "query", progress)
            where, rows = [at[text] for _, text in part], torch.tensor([q for q, _ in part])
            known.update(zip(part, margins(pools, v[where], rows), strict=True))
        for item, text in pairs:
            item.asked.add(text)
        each, own = torch.stack([known[key] for key in keys]), pools.own[[q for q, _ in keys]]
        in_view = torch.full((len(pairs),), math.nan)
        for view in {item.view for item, _ in pairs}:
            at = torch.tensor([i for i, (item, _) in enumerate(pairs) if item.view == view])
            in_view[at] = of_view(each[at], own[at], view)
        return each, in_view

    return score


def beam_search(items: list[Item], score, attack: Attack, orders: list[list[int]]) -> None:
    """Change word after word, each time to what hurts most; keep the `width` worst texts.

    `orders`: for each item its slots, the most important first. Keeping a word is always allowed,
    so more steps never help the retriever. All items advance in lock-step.
    """
    if not items:
        return
    start = score([(item, item.source.text) for item in items])[1].tolist()
    beams = [[(margin, {})] for margin in start]
    for step in range(max(map(len, orders))):
        jobs = []  # (which item, edits, text)
        for i, item in enumerate(items):
            if step >= len(orders[i]):
                continue
            (begin, end, options), seen = item.slots[orders[i][step]], set(item.asked)
            for edits in [e for _, e in beams[i] if len(e) < item.most(attack.edits)]:
                for other in options:
                    tried = edits | {(begin, end): other}
                    text = substitute(item.source.text, tried)
                    seen.add(text)
                    if not attack.budget or len(seen) <= attack.budget:
                        jobs.append((i, tried, text))
        if jobs:
            found = score([(items[i], text) for i, _, text in jobs])[1].tolist()
            for (i, tried, _), margin in zip(jobs, found, strict=True):
                beams[i].append((margin, tried))
        # A stable sort: among equals fewer edits, then the table's first word
        beams = [sorted(beam, key=lambda x: x[0])[: attack.width] for beam in beams]
    for item, beam in zip(items, beams, strict=True):
        item.edits = beam[0][1]


def leave_one_out(items: list[Item], score, attack: Attack) -> list[list[int]]:
    """Each item's slots, first the one whose word the margin misses most. Black box: scores."""
    jobs = [(item, n) for item in items for n in range(len(item.slots))]
    if attack.budget:  # half for the order, half for the search
        jobs = [(item, n) for item, n in jobs if n < attack.budget // 2]
    cut = [(item, substitute(item.source.text, {item.slots[n][:2]: ""})) for item, n in jobs]
    found, drops = score(cut)[1].tolist() if cut else [], defaultdict(list)
    for (item, n), margin in zip(jobs, found, strict=True):
        drops[id(item)].append((margin, n))
    return [
        [n for _, n in sorted(drops[id(item)])] + list(range(len(drops[id(item)]), len(item.slots)))
        for item in items
    ]


def noise_places(encoder: Encoder, batch: dict[str, Tensor]) -> Tensor:
    """Where noise may be: (B, T), True at words, <unk> among them; not at special tokens."""
    names = ("bos", "eos", "cls", "sep", "pad")
    ids = {getattr(encoder.tokenizer, f"{name}_token_id") for name in names} - {None}
    special = torch.tensor(sorted(ids), device=encoder.device)
    # SUBTLE: neither padding nor special tokens get noise (mt-dnn's do)
    return batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special)


def passes(items: list[Item], encoder: Encoder, pools: Pools, max_tokens: int = 4096):
    """Yield (items, words (B, T, D), where noise may be (B, T), objective) in length-sorted chunks.

    objective(words) -> (B,) is minus the margin: what an attack raises. Attacks run in eval mode.
    """
    was_training = encoder.training
    encoder.eval()
    rows = encoder.tokenize([item.source for item in items], "query")
    try:
        for chunk in length_chunks([len(row["input_ids"]) for row in rows], max_tokens):
            part, batch = [items[i] for i in chunk], encoder.pad([rows[i] for i in chunk])
            mask = noise_places(encoder, batch)
            at, views = torch.tensor([item.query for item in part]), [item.view for item in part]

            def objective(words, batch=batch, at=at, views=views, keep=None):
                v = encoder.from_words(words, batch).float()  # (B, T, D) -> (B, D)
                if keep is not None:
                    keep.extend(v)
                d = torch.empty_like(v)
                for view in set(views):
                    own = torch.tensor([x == view for x in views])
                    d[own] = directions(pools, v[own], at[own], view)
                return -(v * d).sum(-1)

            yield part, encoder.words(batch["input_ids"]).detach(), mask, objective
    finally:
        encoder.train(was_training)


def first_order(items: list[Item], encoder: Encoder, pools: Pools, keep: int) -> list[list[int]]:
    """HotFlip: the gradient estimates what each replacement does to the margin; sort by that.

        estimate = sum over the word's tokens t of g_t . (mean embedding of the new word - e_t)

    Keeps the `keep` best replacements of a slot (0: all). One pass forward and back an item.
    *Source*: Ebrahimi et al. 2018, for words of several pieces.
    """
    if not encoder.tokenizer.is_fast:
        raise ValueError("order=gradient needs a fast tokenizer, for offsets. Take order=scores.")
    others = list(dict.fromkeys(o for item in items for slot in item.slots for o in slot[2]))
    pieces = encoder.tokenizer(others or ["-"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        new = [encoder.words(torch.tensor(ids, device=encoder.device)).mean(0) for ids in pieces]
    new, orders = dict(zip(others, new, strict=False)), {}
    prefix = encoder.settings.query_prefix
    for part, words, _, objective in passes(items, encoder, pools):
        x = words.clone().requires_grad_()
        # SUBTLE: with respect to the input alone; the parameters' .grad stays as it was
        grads = -torch.autograd.grad(objective(x).sum(), x)[0]  # (B, T, D), of the margin
        texts = [prefix + item.source.text for item in part]
        spans = encoder.tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
        for item, grad, old, offsets in zip(part, grads, words, spans, strict=True):
            ranked = []
            for n, (start, end, options) in enumerate(item.slots):
                start, end, offsets = start + len(prefix), end + len(prefix), offsets[: len(old)]
                at = [t for t, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
                change = {o: float((grad[at] * (new[o] - old[at])).sum()) for o in options}
                options = sorted(options, key=change.get)[: keep or None]
                item.slots[n] = (*item.slots[n][:2], options)
                ranked.append((min(change.values()), n))
            orders[id(item)] = [n for _, n in sorted(ranked)]
    return [orders[id(item)] for item in items]


def enumerate_all(items: list[Item], score, attack: Attack) -> list[Item]:
    """Try every combination within the bounds where there are at most `limit`; return the others.

    *Certificate*: the smallest margin in each pool. Above 0 it promises that no substitution of
    these words by these replacements, within these bounds, moves the best relevant passage from
    rank 1. It promises nothing about other words, replacements or passages.
    """
    left, jobs, lowest = [], [], {}
    for item in items:
        most = item.most(attack.edits)
        ways = [1] + [0] * most  # ways[n]: combinations that change n words
        for _, _, options in item.slots:
            ways = [w + (ways[n - 1] * len(options) if n else 0) for n, w in enumerate(ways)]
        item.exhaustive = sum(ways) <= min(attack.limit, attack.budget or math.inf)
        if not item.exhaustive:
            left.append(item)
            continue
        for n in range(most + 1):  # fewer edits first
            for slots in itertools.combinations(item.slots, n):
                for picks in itertools.product(*(options for _, _, options in slots)):
                    edits = {slot[:2]: other for slot, other in zip(slots, picks, strict=True)}
                    jobs.append((item, edits, substitute(item.source.text, edits)))
    each, found = score([(item, text) for item, _, text in jobs]) if jobs else ((), ())
    for (item, edits, _), row, margin in zip(jobs, each, map(float, found), strict=True):
        item.worst = row if item.worst is None else torch.minimum(item.worst, row)
        if margin < lowest.get(id(item), math.inf):
            lowest[id(item)], item.edits = margin, edits
    return left


# ---- 3. embeddings -------------------------------------------------------------------------------


def mean_norm(encoder: Encoder) -> float:
    """Mean L2 norm of the encoder's word embeddings, the unit of every epsilon and sigma."""
    return float(encoder.model.get_input_embeddings().weight.detach().float().norm(dim=1).mean())


def size(x: Tensor, ball: str) -> Tensor:
    """L2 norm of each token (B, T, 1), or of each sentence (B, 1, 1)."""
    return x.norm(dim=-1 if ball == "token" else (1, 2), keepdim=True)


def project(delta: Tensor, radius: float, norm: str = "l2", ball: str = "token") -> Tensor:
    """The nearest point of the ball: (3, 4) -> (0.6, 0.8) for radius 1; what lies inside stays."""
    if norm == "max":
        return delta.clamp(-radius, radius)
    return delta * (radius / size(delta, ball).clamp(min=max(radius, 1e-12)))


def random_noise(mask: Tensor, dim: int, rngs: list, radius: float, kind: str, ball: str = "token"):
    """Noise at the places of the mask, of norm `radius`: expected, largest, or exactly (sphere).

        gaussian: radius / sqrt(D) * N(0, 1)      uniform: radius * u^(1/D) * a random direction

    *Shapes*: mask (B, T), one generator a row -> (B, T, D). A row's noise depends on its generator
    and its length alone, not on the padding.
    *Source*: RS-RP of Huang et al. 2021 (form); uniform in the ball, not in the cube.
    """
    noise = torch.zeros(*mask.shape, dim)
    for row, places, rng in zip(noise, mask.cpu(), rngs, strict=True):
        n = int(places.sum())
        draw = torch.randn(n, dim, generator=rng)
        free = max(1, dim if ball == "token" else n * dim)  # dimensions of the ball
        if kind == "gaussian":
            row[places] = draw * radius / math.sqrt(free)
        else:
            u = torch.rand((n, 1) if ball == "token" else (1, 1), generator=rng) ** (1 / free)
            u = 1 if kind == "sphere" else u
            row[places] = draw / size(draw[None], ball)[0].clamp(min=1e-12) * radius * u
    return noise.to(mask.device)


def steepest(grad: Tensor, norm: str, ball: str) -> Tensor:
    """The direction of norm 1 that raises the objective fastest; 0 where the gradient is 0."""
    return grad.sign() if norm == "max" else grad / size(grad, ball).clamp(min=1e-12)


def gradient(objective, words: Tensor, delta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Objective (B,) at words + delta and its gradient (B, T, D) there, 0 outside the mask."""
    delta = delta.detach().requires_grad_()
    value = objective(words + delta)
    return value.detach(), torch.autograd.grad(value.sum(), delta)[0] * mask[..., None]


def fgm(objective, words, mask, radius, norm="l2", ball="token") -> Tensor:
    """One step: delta = radius * g / ||g||, so that a linear objective gains radius * ||g||.

    *Source*: Miyato et al. 2017; with norm "max" it is FGSM.
    """
    _, grad = gradient(objective, words, torch.zeros_like(words), mask)
    return radius * steepest(grad, norm, ball)


def ascend(delta: Tensor, grad: Tensor, radius: float, attack: Attack) -> Tensor:
    """One step of `step_size` radii uphill, projected back into the ball."""
    step = radius * attack.step_size * steepest(grad, attack.norm, attack.ball)
    return project(delta + step, radius, attack.norm, attack.ball).detach()


def freelb(objective, words, mask, radius, attack: Attack, rngs: list, delta=None) -> Tensor:
    """The next point of FreeLB, which trains on every one: at random first, then a step uphill.

    *Source*: Zhu et al. 2020, algorithm 1; here the start is uniform in the whole L2 ball (in the
    max norm, in the L2 ball inside the cube).
    """
    if delta is None:
        return random_noise(mask, words.shape[-1], rngs, radius, "uniform", attack.ball)
    return ascend(delta, gradient(objective, words, delta, mask)[1], radius, attack)


def pgd(objective, words, mask, radius, attack: Attack, rngs: list) -> Tensor:
    """Several smaller steps, each projected back, from several starts; the best point is kept.

    The first start is fgm's point, so that pgd never does less than fgm; the others are random.
    *Source*: Madry et al. 2018.
    """
    norm, ball = attack.norm, attack.ball
    best_delta, best_value = torch.zeros_like(words), torch.full((len(words),), -math.inf)
    for restart in range(attack.restarts):
        if restart == 0:
            delta = fgm(objective, words, mask, radius, norm, ball)
        else:
            # The cube of the max norm reaches sqrt(D) times as far as its ball
            wide = radius * (math.sqrt(words.shape[-1]) if norm == "max" else 1)
            start = random_noise(mask, words.shape[-1], rngs, wide, "uniform", ball)
            delta = project(start, radius, norm, ball)
        for step in range(attack.steps + 1):  # CHANGED vs fgm: steps, projection, the best is kept
            value, grad = gradient(objective, words, delta, mask)
            better = value.cpu() > best_value
            best_value[better] = value.cpu()[better]
            best_delta[better] = delta[better]
            delta = ascend(delta, grad, radius, attack)
    return best_delta


def attack_embeddings(items, encoder, pools, attack: Attack, seed: int, like=None) -> Tensor:
    """Noise on the word embeddings of each item's query -> its vectors (items, D).

    `like`: noise of the same norm as these items', in random directions.
    """
    unit = mean_norm(encoder)
    dim = encoder.model.get_input_embeddings().weight.shape[1]
    # In the max norm a coordinate's share, so that the L2 norm stays within epsilon
    radius = attack.epsilon * unit / (math.sqrt(dim) if attack.norm == "max" else 1)
    vectors, twin = {}, dict(zip(map(id, items), like or (), strict=False))
    for part, words, mask, objective in passes(items, encoder, pools):
        kept, rngs = [], [generator(seed, attack.label, item.source.id) for item in part]
        if like:
            norms = torch.tensor([twin[id(item)].norm for item in part])[:, None, None].to(words)
            delta = random_noise(mask, dim, rngs, unit, "sphere") * norms
        elif attack.name == "fgm":
            delta = fgm(objective, words, mask, radius, attack.norm, attack.ball)
        elif attack.name == "pgd":
            delta = pgd(objective, words, mask, radius, attack, rngs)
        else:
            delta = random_noise(mask, dim, rngs, radius, attack.name, attack.ball)
        with torch.no_grad():
            objective(words + delta, keep=kept)
        used = size(delta, "token")[..., 0].sum(1) / mask.sum(1).clamp(min=1) / unit  # (B,)
        for item, v, norm in zip(part, kept, used.tolist(), strict=True):
            vectors[id(item)], item.norm = v, norm
    return torch.stack([vectors[id(item)] for item in items])


# ---- 4. certificates -----------------------------------------------------------------------------
# The exact one is `enumerate_all`; the smoothed one is for sets too large to enumerate.


def close_table(table: dict[str, list[str]], lang: str) -> dict[str, list[str]]:
    """Let every replacement be replaced by its word too: SAFER's sets need words on both sides."""
    both = {word: list(others) for word, others in table.items()}
    for word, others in table.items():
        for other in others:
            both.setdefault(lower(other, lang), []).append(word)
    return {w: [o for o in dict.fromkeys(others) if o != w] for w, others in both.items()}


def overlap(word: str, table: dict[str, list[str]], lang: str = "") -> float:
    """q_w: how much of the draw of a word is shared, at worst, with the draw of a replacement.

        q_w = min over w' of |P_w & P_w'| / max(|P_w|, |P_w'|),     P_w = {w} and its replacements

    *Source*: SAFER (Ye et al. 2020), prop. 1, whose sets all have one size; the larger of two sizes
    keeps it a bound on the distance between the two uniform draws.
    """
    draws = lambda word: {lower(other, lang) for other in (word, *table.get(word, ()))}
    own = draws(word)
    sets = [draws(other) for other in own]
    return min(len(own & s) / max(len(own), len(s)) for s in sets)


def top_passages(pools: Pools, v: Tensor, rows: Tensor) -> Tensor:
    """Row of p at rank 1 in each language and, last, in all. (C, D) -> (C, L + 1)"""
    good, other, who, foe = best(pools, v, rows)
    first = lambda score, at: at.gather(1, score.argmax(1, keepdim=True))
    who, foe = torch.cat([who, first(good, who)], 1), torch.cat([foe, first(other, foe)], 1)
    wins = good > other  # at a tie the one that is not relevant comes first
    return torch.where(torch.cat([wins, good.amax(1, True) > other.amax(1, True)], 1), who, foe)


def majority(tops: Tensor, weights: list[int]) -> list[tuple[int, float]]:
    """Who wins the vote in each pool, and with which share. tops (N, L + 1) -> (passage, share)"""
    votes = [Counter() for _ in range(tops.shape[1])]
    for weight, row in zip(weights, tops.tolist(), strict=True):
        for vote, passage in zip(votes, row, strict=True):
            vote[passage] += weight
    total = sum(weights)
    return [(passage, n / total) for vote in votes for passage, n in vote.most_common(1)]


def certify(
    share: float, overlaps: list[float], edits: int, samples: int, confidence: float
) -> bool:
    """Does the majority survive any change of at most `edits` slots?

        share - sqrt(ln(1 / (1 - confidence)) / 2n) - (1 - product of the smallest q_w) > 1/2

    *Source*: SAFER, prop. 2; the error is Hoeffding's, one-sided, of one query's n samples (0: the
    share is exact). It promises, with this confidence, that the *smoothed* retriever answers with
    the same passage; not that the plain one does, nor that the passage is right.
    """
    error = math.sqrt(math.log(1 / (1 - confidence)) / (2 * samples)) if samples else 0.0
    return share - error - (1 - math.prod(sorted(overlaps)[:edits])) > 0.5


def fill_slots(item: Item, combination: tuple[int, ...]) -> str:
    """The query with slot i's word (0) or its n-th replacement (n)."""
    picks = zip(item.slots, combination, strict=True)
    return substitute(item.source.text, {s[:2]: s[2][n - 1] for s, n in picks if n})


def smoothed(
    encoder: Encoder, pools: Pools, items: list[Item], tables: dict, attack: Attack, seed: int
) -> Tensor:
    """The smoothed retriever on each item's query -> (items, 2, L + 1): right at rank 1, certified.

    It draws each slot's word anew, uniformly, and answers with the passage that is at rank 1 most
    often. Its slots are those of the clean query, whatever an adversary puts there later.
    The same draws choose the majority and bound its share, as in SAFER: strictly, two events.
    *Shapes*: tables: lang -> closed table (`close_table`), the one that the slots were found with.
    """
    drawn = []  # for each item: combination of replacements -> times it was drawn
    for item in items:
        rng = generator(seed, attack.label, item.source.id)
        sizes = [len(options) + 1 for _, _, options in item.slots]
        picks = [torch.randint(n, (attack.samples,), generator=rng).tolist() for n in sizes]
        drawn.append(Counter(zip(*picks, strict=True)) or Counter([()]))
    texts = [[fill_slots(item, c) for c in draws] for item, draws in zip(items, drawn, strict=True)]
    at = {text: i for i, text in enumerate(dict.fromkeys(itertools.chain(*texts)))}
    v = encoder.encode([Text("", "", text, "") for text in at], "query")
    found = torch.zeros(len(items), 2, len(pools.langs) + 1)
    for i, (item, counts) in enumerate(zip(items, drawn, strict=True)):
        rows = torch.full((len(counts),), item.query)
        tops = top_passages(pools, v[[at[text] for text in texts[i]]], rows)
        words, lang = [item.source.text[a:b] for a, b, _ in item.slots], item.source.lang
        bounds = [overlap(lower(word, lang), tables.get(lang, {}), lang) for word in words]
        relevant = set(pools.relevant[item.query].tolist())
        strength = item.most(attack.edits), attack.samples if item.slots else 0, attack.confidence
        for column, (passage, share) in enumerate(majority(tops, list(counts.values()))):
            safe = certify(share, bounds, *strength)
            found[i, :, column] = torch.tensor([passage in relevant, passage in relevant and safe])
    return found


# ---- all queries of a split ----------------------------------------------------------------------


def make_items(
    data: DataSet, queries: list[int], views: list[str], attack: Attack, tables: dict, seed: int,
    fixed: frozenset = frozenset(),
) -> list[Item]:  # fmt: skip
    """One item a view and query, with the places where this attack may change it."""
    items = []
    for row, q in enumerate(queries):
        t, (source, search) = data.queries[q], ATTACKS[attack.name]
        keep = fixed | answer_words(t.answer, tables.get(t.lang, {}), t.lang)
        if source == "typos":
            rng = generator(seed, attack.label, t.id, "options")
            slots = typo_slots(t.text, t.lang, rng, keep, attack.k)
        else:
            table = {} if source == "nothing" else tables.get(t.lang, {})
            # SUBTLE: a closed table was cut to k before it was closed; cut again its sets differ
            slots = find_slots(t.text, table, t.lang, keep, 10**9 if search == "vote" else attack.k)
        items += [Item(row, view, t, list(slots)) for view in views]
    return items


def attack_words(items: list[Item], encoder: Encoder, pools: Pools, attack: Attack, seed: int,
                 progress=lambda rows: rows, like: list[Item] | None = None) -> None:  # fmt: skip
    """Write the perturbed text of each item; `like`: as many edits as these, drawn at random."""
    search = "random" if like else ATTACKS[attack.name][1]
    if search == "random":
        for n, item in enumerate(items):
            # SUBTLE: not of the view, so that all views see the same random query
            rng = generator(seed, attack.label, item.source.id, *(["control"] if like else []))
            count = item.most(attack.edits) if attack.edits else None
            item.edits = draw(item.slots, len(like[n].edits) if like else count, rng)
    else:
        score, left = scorer(encoder, pools, progress), [item for item in items if item.slots]
        if search == "exact":  # also of queries without a slot: their one combination is the clean
            left = enumerate_all(items, score, attack)
        if attack.order == "gradient":
            orders = first_order(left, encoder, pools, 2 if attack.name == "hotflip" else 0)
        else:
            orders = leave_one_out(left, score, attack)
        beam_search(left, score, attack, orders)
    for item in items:
        item.text = substitute(item.source.text, item.edits)


def run(items: list[Item], encoder: Encoder, pools: Pools, attack: Attack, seed: int,
        progress=lambda rows: rows, like: list[Item] | None = None) -> Tensor:  # fmt: skip
    """Attack every item -> its query's vectors (items, D); all else stands in the items.

    `like`: the control, at random with the same number of edits or the same norm of noise.
    """
    if ATTACKS[attack.name][0] == "embeddings":
        return attack_embeddings(items, encoder, pools, attack, seed, like)
    attack_words(items, encoder, pools, attack, seed, progress, like)
    # Each text once: the same text has the same vector in every view, to the last bit
    at = {}
    rows = [at.setdefault((item.source.id, item.text), len(at)) for item in items]
    first = {row: item for row, item in zip(reversed(rows), reversed(items), strict=True)}
    texts = [replace(first[row].source, text=first[row].text) for row in range(len(at))]
    return encoder.encode(texts, "query", progress)[torch.tensor(rows)]
