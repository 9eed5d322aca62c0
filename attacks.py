"""How a query is perturbed: its words, its letters, its embeddings; at random, at worst, certified.

    margin = best score of a relevant passage - best score of any other     (> 0: right at rank 1)

    Which city is the capital of France?       slots: words that may be changed, and their options
    What   town       seat                     edits: {(0, 5): "What", (6, 10): "town"}

    random     edits are drawn                 what an average perturbation costs
    greedy     the most important word first, its worst option, then the next: an adversary's cost
    certified  margin > 0 whatever the edits   a promise that no adversary can break

Embeddings are perturbed by noise instead, in a ball around each. An attack is a source of options
and a way to search among them: the table ATTACKS lists all.
Where to look next: `find_words` is what makes eleven languages work, `margins` is the goal,
`beam_search` the worst case over words, `pgd` the worst case over embeddings, `attack_queries`
runs them on all queries (but for `smoothed`, which is a retriever and changes no query).
evaluate.py ranks what comes out, train.py trains on the same edits and noise.
Left out on purpose: part-of-speech taggers, word segmenters, sentence encoders that judge fluency.
Differs from TextAttack: the goal is a ranking; all queries advance in lock-step, the texts of a
step are one batch, and a word is what the table says it is. Differs from Robust-XLT, which splits
on single spaces with case and punctuation attached: that finds 37.7 % of XQuAD-R's English question
words where this finds 59.3 %, and no word at all in Thai and Chinese.

Shapes: B queries of a chunk, T tokens, D embedding, Q queries, P passages, R relevant passages,
L languages, C texts that are scored, N texts that are drawn, V words of a vocabulary.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate, chain, combinations, compress, groupby, islice, product
from operator import attrgetter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from xlt import (
    DataSet,
    Encoder,
    Text,
    base_language,
    choose,
    eval_mode,
    generator,
    one_line,
    parse_json,
    quoted,
    read_lines,
)

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, Chinese characters
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
CAPITAL_NOUNS = {"de", "lb"}  # German and Luxembourgish
MOST_SCORES = 2**26  # at once: 256 MB
DOTLESS = {"tr", "az"}  # Turkish and Azerbaijani: the capital of their i is İ, that of ı is I

Words = Collection[str]  # as `lower` writes them; a table will do
Span = tuple[int, int]  # [start, end) in a text
Edits = dict[Span, str]  # what is put in the place of each span
Table = dict[str, list[str]]  # word, as `lower` writes it -> its replacements
Tables = dict[str, Table]  # language -> its table


# ---- 1. settings: "greedy:edits=2,k=4" is an attack ----------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The values that a setting may take: numbers by their bounds, words by choices."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()

    def broken_rule(self, value):
        """The rule that a value breaks, "" if none: -1.0 breaks "at least 0", where least is 0."""
        if self.choices:
            if value in self.choices:
                return ""
            return f"one of {', '.join(self.choices)}"
        if not -math.inf < value < math.inf:  # isfinite() cannot take 400 digits
            return "a finite number"
        if value < self.least:
            return f"at least {self.least:g}"
        if value <= self.above:
            return f"above {self.above:g}"
        if value > self.most:
            return f"at most {self.most:g}"
        if value >= self.below:
            return f"below {self.below:g}"
        return ""


def setting(default, **limits):
    """A dataclass field that knows its limits, in the words of Limits: `setting(8, least=1)`."""
    return field(default=default, metadata={"limits": Limits(**limits)})


def read_settings(start, text: str, keys: Collection[str], where: str):
    """A copy of the dataclass `start`, with the settings of a text such as "edits=2,k=4" in it.

    Only these keys may stand there. A value gets the type that the setting has in `start`.
    *Errors*: ValueError, beginning with `where`, for another key, one that stands twice, a value of
    another type or outside its limits.
    """
    limits = {entry.name: entry.metadata.get("limits") for entry in fields(start)}
    values = {}
    for assignment in text.split(","):
        if not assignment:
            continue
        key, _, word = assignment.partition("=")
        if key not in keys:
            options = ", ".join(keys) or "none"
            raise ValueError(f"{where}: no setting {quoted(key)}. There is {options}.")
        if key in values:
            raise ValueError(f"{where}: {key} is given twice. Leave one out.")
        kind = type(getattr(start, key))
        try:
            values[key] = kind(word)
        except ValueError:
            kind_of_number = f"no number of type {kind.__name__}"
            raise ValueError(f"{where}: {key} is {quoted(word)}, {kind_of_number}.") from None
        rule = limits[key].broken_rule(values[key])
        if rule:
            shown = quoted(word) if kind is str else one_line(word, 60)
            raise ValueError(f"{where}: {key} is {shown}; it is {rule}.")
    return replace(start, **values)


def settings_of(instance, start) -> dict:
    """The fields in which a dataclass differs from `start`, in their order."""
    changed = {}
    for entry in fields(instance):
        value = getattr(instance, entry.name)
        if value != getattr(start, entry.name):
            changed[entry.name] = value
    return changed


def settings_text(settings: dict) -> str:
    """Settings as they are written: {"edits": 2.0, "k": 4} -> "edits=2,k=4"."""
    assignments = []
    for key, value in settings.items():
        value = str(value).removesuffix(".0")  # not :g, which ends after six digits
        assignments.append(f"{key}={value}")
    return ",".join(assignments)


@dataclass(frozen=True)
class AttackKind:
    """What the name of an attack says."""

    source: str  # of the options: "nothing", "synonyms", "dictionary", "typos" or "embeddings"
    # "random": drawn; "beam": word by word, the worst ones are kept; "exact": all texts;
    # "gradient": uphill; "vote": many texts drawn, and the majority of their answers counts
    search: str
    keys: tuple[str, ...] = ()  # its settings: another one would do nothing
    defaults: dict = field(default_factory=dict)  # settings that differ from those of Attack


DRAWN = ("edits", "k")
SEARCHED = (*DRAWN, "width", "order", "budget")
IN_BALL = ("epsilon", "ball")
ATTACKS = {
    "identity": AttackKind("nothing", "random"),  # a test of ourselves: must change nothing at all
    "random": AttackKind("synonyms", "random", DRAWN),
    "greedy": AttackKind("synonyms", "beam", SEARCHED),
    "beam": AttackKind("synonyms", "beam", SEARCHED, {"width": 4}),
    "hotflip": AttackKind("synonyms", "beam", SEARCHED, {"order": "gradient"}),
    "exact": AttackKind("synonyms", "exact", (*SEARCHED, "limit")),
    "code-switch": AttackKind("dictionary", "random", DRAWN),
    "code-switch-greedy": AttackKind("dictionary", "beam", SEARCHED),
    "typos": AttackKind("typos", "random", DRAWN, {"edits": 1.0}),
    "typos-greedy": AttackKind("typos", "beam", SEARCHED, {"edits": 1.0}),
    "gaussian": AttackKind("embeddings", "random", IN_BALL),
    "uniform": AttackKind("embeddings", "random", IN_BALL),
    "fgm": AttackKind("embeddings", "gradient", (*IN_BALL, "norm")),
    "pgd": AttackKind(
        "embeddings", "gradient", (*IN_BALL, "norm", "steps", "step_size", "restarts")
    ),
    "smoothed": AttackKind("synonyms", "vote", (*DRAWN, "samples", "confidence")),
}


@dataclass(frozen=True)
class Attack:
    """An adversary and its strength."""

    name: str
    # of words
    # most words changed: a number from 1, a share below 1, 0: no bound. (`random` changes just so
    # many, and with 0 redraws each word freely)
    edits: float = setting(0.0, least=0)
    k: int = setting(8, least=1)  # most replacements a word (Robust-XLT's table holds at most 8)
    width: int = setting(1, least=1)  # texts kept a step; 1 is greedy
    order: str = setting("scores", choices=("scores", "gradient"))  # what says which word is first
    budget: int = setting(0, least=0)  # most texts encoded a query; 0 for no bound
    limit: int = setting(512, least=1)  # exact: most texts a query; beyond, beam search
    # of embeddings
    epsilon: float = setting(0.02, least=0)  # radius, in mean norms of a word embedding
    norm: str = setting("l2", choices=("l2", "max"))
    ball: str = setting("token", choices=("token", "sentence"))  # one a token, or one for all
    steps: int = setting(5, least=1)  # of pgd
    step_size: float = setting(0.25, above=0)  # of pgd, in units of epsilon
    restarts: int = setting(2, least=1)  # of pgd: the first from fgm's point, the others at random
    # of the smoothed retriever
    samples: int = setting(1000, least=1)  # texts drawn a query (CertDR's 1000)
    confidence: float = setting(0.99, above=0, below=1)  # that one query's certificate holds

    @property
    def kind(self):
        return ATTACKS[self.name]

    @property
    def settings(self):
        """What differs from the defaults of this attack."""
        return settings_of(self, Attack(self.name, **self.kind.defaults))

    @property
    def label(self):
        """The one way to write it, "greedy" or "greedy:edits=2": it names the random streams."""
        if not self.settings:
            return self.name
        return f"{self.name}:{settings_text(self.settings)}"

    @property
    def has_control(self):
        """Is this a worst case? Those are compared with random changes of the same size."""
        return self.kind.search in ("beam", "exact", "gradient")


def parse_attack(text: str) -> Attack:
    """An attack from its text, e.g. "pgd:epsilon=0.5,steps=10".

    *Errors*: ValueError for an unknown attack or setting and for a value out of range.
    """
    name, _, settings = text.partition(":")
    if name not in ATTACKS:
        raise ValueError(f"attack {quoted(name)} is unknown. Take one of {', '.join(ATTACKS)}.")
    start = Attack(name, **ATTACKS[name].defaults)
    return read_settings(start, settings, ATTACKS[name].keys, f"attack {quoted(text)}")


# ---- 2. words: find them, protect some, replace the others ---------------------------------------


def lower(text: str, lang: str = "") -> str:
    """The form in which words are compared: lower case and NFC, where é is one character.

    A capital becomes one character (str.lower() makes two of Turkish's İ); but a text may get
    shorter: J with a caron is two characters in NFC, ǰ is one.
    """
    text = unicodedata.normalize("NFC", text)
    if lang in DOTLESS:
        text = text.replace("I", "ı")  # its dotless one is another letter
    # SUBTLE: letter by letter; at the end of a word, str.lower() writes another Greek sigma
    text = "".join(char.lower() for char in text.replace("İ", "i"))
    return unicodedata.normalize("NFC", text)  # ǰ is one character, its capital is two


def in_word(char: str) -> bool:
    """Letters and digits make words, with the marks that stand on them (`is_mark`)."""
    return unicodedata.category(char)[0] in "LN"


def is_mark(char):
    """An accent, vowel sign or joiner, or a part of a Korean syllable: of the letter before it."""
    # SUBTLE: \w leaves out the vowel signs of Hindi and Thai and would cut words in two; so would
    # the joiners, ZWNJ and ZWJ, which Persian and Hindi write inside of a word
    is_joiner = char in "\u200c\u200d"
    is_syllable_part = "\u1160" <= char <= "\u11ff"
    return is_joiner or is_syllable_part or unicodedata.category(char)[0] == "M"


def has_number(word):
    """Does the word hold a digit, of any script?"""
    return any(unicodedata.category(char)[0] == "N" for char in word)


def is_unspaced(text: str) -> bool:
    """Does a character stand there whose script has no spaces between words?

    A key may match anywhere in such text, and the longest one wins. It is the script and not the
    language: the Latin word in a Chinese question has its borders still.
    """
    return UNSPACED.search(text) is not None


def starts_word(text, start):
    """May a word begin here?"""
    if is_mark(text[start]):
        return False
    base = start  # after the loop: right after the letter, or emoji, that the marks stand on
    while base > 0 and is_mark(text[base - 1]):
        base -= 1
    if base == 0 or not in_word(text[base - 1]):
        return True
    return is_unspaced(text[base - 1]) or is_unspaced(text[start])


def ends_word(text, end):
    """May a word end before this character?"""
    if end == len(text):
        return True
    # SUBTLE: in unspaced scripts too, a mark belongs to the letter before it
    if is_mark(text[end]):
        return False
    return not in_word(text[end]) or is_unspaced(text[end - 1 : end + 1])


def letters_of(word: str) -> list[str]:
    """Letters with the marks that stand on them: "ที่ไหน" -> ["ที่", "ไ", "ห", "น"]."""
    letters = []
    for char in word:
        if letters and is_mark(char):
            letters[-1] += char
        else:
            letters.append(char)
    return letters


def comparable(text, lang):
    """A text as `lower` writes it, and where each of its characters stands in the text itself.

    comparable("Cafe\u0301s", "fr") -> ("cafés", [0, 1, 2, 3, 5, 6])     the last: the end
    """
    form = lower(text, lang)
    if len(form) == len(text) and unicodedata.is_normalized("NFC", text):
        return form, range(len(text) + 1)  # letter by letter it would be the same, but slower
    forms, places = [], []
    place = 0
    for letter in letters_of(text):
        form = lower(letter, lang)
        forms.append(form)
        places += [place] * len(form)
        place += len(letter)
    return "".join(forms), [*places, place]


def longest_match(text, start, table, lengths):
    """Where the longest of the table's words that begins here ends; `start` if there is none."""
    for length in lengths:
        end = start + length
        if end <= len(text) and ends_word(text, end) and text[start:end] in table:
            return end
    return start


def find_words(text: str, table: Words, lang: str) -> list[Span]:
    """Spans of the table's words in the text, left to right, longest match first.

        find_words("Thủ đô của Pháp", {"thủ đô"}, "vi") -> [(0, 6)]

    A key may hold spaces; it is compared as `lower` writes it and, where the script has
    spaces, only between word borders. The spans are those of the text as it stands.
    """
    text, places = comparable(text, lang)
    # SUBTLE: lengths that occur; a key of 40,000 characters must not cost 40,000 look-ups a place
    lengths = sorted(set(map(len, table)), reverse=True)
    spans = []
    start = 0
    while start < len(text):
        next_start = start + 1
        if starts_word(text, start):
            end = longest_match(text, start, table, lengths)
            if end > start:
                spans.append((places[start], places[end]))
                next_start = end
        start = next_start
    return spans


def begins_in_word(letter):
    """Is this letter, with its marks, part of a word?"""
    return in_word(letter[0])


def words_of(text: str, lang: str) -> list[Span]:
    """Spans of words without a table; where no spaces are written, stretches of four letters."""
    spans = []
    start = 0
    # SUBTLE: letters, not characters: a mark stays with its letter, or with its emoji
    for are_words, run in groupby(letters_of(text), begins_in_word):
        letters = list(run)
        stretch = 4 if is_unspaced("".join(letters)) else len(letters)
        for i in range(0, len(letters), stretch):
            end = start + len("".join(letters[i : i + stretch]))
            if are_words:
                spans.append((start, end))
            start = end
    return spans


def match_case(word: str, other: str, lang: str) -> str:
    """The replacement, with a capital where the word has one.

    match_case("Big", "huge", "en") -> "Huge"
    """
    if not word[:1].isupper() or not other:
        return other
    if lang in DOTLESS and other[0] == "i":
        return "İ" + other[1:]
    return other[0].upper() + other[1:]


def substitute(text: str, edits: Edits) -> str:
    """Put the replacement of each span into the text; spans do not overlap."""
    for (start, end), other in sorted(edits.items(), reverse=True):  # from the right
        text = text[:start] + other + text[end:]
    return text


@dataclass(frozen=True)
class Slot:
    """A word of a text that may be changed, and what may be put in its place."""

    start: int
    end: int
    options: tuple[str, ...]

    @property
    def span(self) -> Span:
        return self.start, self.end


def table_slots(text, table, lang):
    """Every word of the table, protected or not, with its replacements in the word's case."""
    slots = []
    for start, end in find_words(text, table, lang):
        word = text[start:end]
        options = [match_case(word, other, lang) for other in table[lower(word, lang)]]
        slots.append(Slot(start, end, tuple(options)))
    return slots


def overlaps_any(span, others):
    """Does a span share a character with one of the others?"""
    return any(start < span[1] and span[0] < end for start, end in others)


def places_in(spans):
    """All places that spans cover: [(0, 2), (5, 6)] -> {0, 1, 5}."""
    places = set()
    for start, end in spans:
        places.update(range(start, end))
    return places


def all_have_capitals(text, lang):
    """Does every word have a capital, so that a capital does not tell a name?

    ALL CAPITALS, or Title Case as in "What Is the Capital of France?": five words or more, of which
    the second and all of more than three letters begin with a capital.
    """
    words = [text[start:end] for start, end in words_of(text, lang)]
    words = [word for word in words if not has_number(word)]
    if text.isupper():
        # SUBTLE: not so of NBA在哪, whose other words have no capitals to show
        return all(word[0].isupper() for word in words)
    longer = words[1:2] + [word for word in words if len(word) > 3]
    return len(words) >= 5 and all(word[0].isupper() for word in longer)


def is_name(text, start, lang):
    """Is this a capital letter that the beginning of the text does not explain?

    One that begins a later sentence counts as a name, too. In German a capital says nothing: every
    noun has one.
    """
    begins_text = not any(map(in_word, text[:start]))
    return text[start].isupper() and not begins_text and lang not in CAPITAL_NOUNS


def in_fixed(word, fixed):
    """Without spaces, a word of two letters or more that stands in a fixed word is part of it."""
    part = lower(word)
    return is_unspaced(word) and len(word) > 1 and any(part in key for key in fixed)


def find_slots(
    text: str, table: Table, lang: str, fixed: Words = frozenset(), k: int | None = None
) -> list[Slot]:
    """What may be changed: every word of the table but the protected ones, with its replacements.

        find_slots("a Big big lake", {"big": ["BIG", "huge", "vast"]}, "en", k=1)
            -> [Slot(6, 9, ("huge",))]

    Protected are numbers, names and `fixed` words, such as the answer's: with another one, another
    passage would be relevant. Where every word has a capital, names are not known and none is
    protected. A replacement that changes nothing, or case only, is none.
    *Units*: k replacements at most; None for all.
    """
    fixed_places = places_in(find_words(text, fixed, lang))
    names_show = not all_have_capitals(text, lang)
    slots = []
    for slot in table_slots(text, table, lang):
        word = text[slot.start : slot.end]
        if names_show and is_name(text, slot.start, lang) or has_number(word):
            continue
        is_apart = fixed_places.isdisjoint(range(slot.start, slot.end))
        if in_fixed(word, fixed) or not is_apart:
            continue
        distinct = dict.fromkeys(slot.options)
        options = [other for other in distinct if lower(other, lang) != lower(word, lang)]
        if options:
            slots.append(replace(slot, options=tuple(options[:k])))
    return slots


def blank_slots(text: str, table: Table) -> list[Slot]:
    """Slots as Robust-XLT cuts a text: at each blank, with case and punctuation, nothing protected.

        blank_slots("A film, a film", {"film": ["movie"]}) -> [Slot(10, 14, ("movie",))]

    *Source*: Huang et al. 2021, as coded; with `draw_freely` its random synonyms.
    """
    slots, start = [], 0
    for token in text.split(" "):
        end = start + len(token)
        if table.get(token):
            slots.append(Slot(start, end, tuple(table[token])))
        start = end + 1
    return slots


def answer_words(answer: str, table: Table, lang: str) -> set[str]:
    """The answer as a whole, the table's words in it, and its longer ones (no mere article)."""
    spans = [(0, len(answer)), *find_words(answer, table, lang)]
    words = {lower(answer[start:end], lang) for start, end in spans}
    if not is_unspaced(answer):
        every_word = [lower(answer[start:end], lang) for start, end in words_of(answer, lang)]
        words |= {word for word in every_word if len(word) > 3}
    return words


def draw_freely(slots: list[Slot], rng: Generator) -> Edits:
    """Redraw every word, uniformly from itself and its replacements.

        draw_freely([Slot(0, 3, ("huge", "vast"))], rng) -> {(0, 3): "vast"}, or {} for one in three

    *Source*: Robust-XLT (Huang et al. 2021, section 3.3), as coded.
    """
    edits = {}
    for slot in slots:
        other = choose([*slot.options, None], rng)  # None: the word stays
        if other is not None:
            edits[slot.span] = other
    return edits


def draw_edits(slots: list[Slot], count: int, rng: Generator) -> Edits:
    """So many words, or all if there are fewer, each really changed."""
    drawn = torch.randperm(len(slots), generator=rng)[:count].tolist()
    chosen = [slots[i] for i in sorted(drawn)]
    return {slot.span: choose(slot.options, rng) for slot in chosen}


def draw_translations(slots: list[Slot], share: float, rng: Generator) -> Edits:
    """Change each word with this probability, to any of its options: code-switched training texts.

    *Source*: CoSDA-ML (Qin et al. 2020).
    """
    is_switched = torch.rand(len(slots), generator=rng) < share
    switched = [slot for i, slot in enumerate(slots) if is_switched[i]]
    return {slot.span: choose(slot.options, rng) for slot in switched}


def redraw(text: str, table: Table, lang: str, rng: Generator) -> str:
    """`draw_freely` on every word of the table, protected or not: Robust-XLT's data augmentation.

    data/tiny_xlmr pre-trains on such texts.
    """
    return substitute(text, draw_freely(table_slots(text, table, lang), rng))


# ---- 3. tables: where the replacements of a word come from ---------------------------------------


def add_options(table, word, options):
    """Give a word of the table further replacements, each once."""
    present = table.setdefault(word, [])
    for option in options:
        if option not in present:
            present.append(option)


NO_LEMMAS = ("GAP!", "PSEUDOGAP!")  # Italian's wordnet: there is no word for this synset


def clean_lemma(lemma):
    """A lemma as it is written in a text; "" if it is none.

    clean_lemma(" pomme_de_terre ") -> "pomme de terre"
    clean_lemma("T形+的") -> "T形的"      Chinese wordnet: + stands between the parts of a word
    """
    lemma = re.sub(r"\([^()]*\)\s*$", "", lemma)  # tempo (meteorologia)
    if lemma in NO_LEMMAS or re.search(r"[][{}|]", lemma):  # [[eerste]], cour|cours
        return ""
    # SUBTLE: beside a Chinese character only; C++ keeps its own
    lemma = re.sub(r"(?<=[\u3400-\u9fff])\+|\+(?=[\u3400-\u9fff])", "", lemma)
    lemma = " ".join(lemma.replace("_", " ").split())
    if not any(map(in_word, lemma)):
        return ""
    return lemma


def read_wordnet(content, lang):
    """The words that share a synset, from the rows SYNSET<TAB>LANG:lemma<TAB>WORD of a wordnet.

        "7-n<TAB>fra:lemma<TAB>pomme_de_terre", "7-n<TAB>fra:lemma<TAB>patate"
            -> {"pomme de terre": ["patate"], "patate": ["pomme de terre"]}

    *Source*: the tab files of the Open Multilingual Wordnet (OMW); other rows are passed over.
    """
    synsets = {}
    for line in content.split("\n"):
        cells = line.split("\t")
        is_comment = line.startswith("#")
        if len(cells) == 3 and cells[1].endswith("lemma") and not is_comment:
            synsets.setdefault(cells[0], []).append(clean_lemma(cells[2]))
    if not synsets:
        raise ValueError("no row with synset, LANG:lemma, word. Give an OMW tab file.")
    table = {}
    for lemmas in synsets.values():
        words = [word for word in lemmas if word]
        for word in words:
            add_options(table, lower(word, lang), [other for other in words if other != word])
    return {word: options for word, options in table.items() if options}


def is_word(value):
    """A string, not empty."""
    return isinstance(value, str) and value != ""


def read_json_table(content, lang):
    """{"word": ["other", ...]}, our tables and Robust-XLT's, with the keys in lower case."""
    table = {}
    try:
        for word, others in parse_json(content).items():
            if not isinstance(others, list) or not all(map(is_word, others)):
                raise ValueError(f"{quoted(word)} has {quoted(others)}")
            lemmas = [clean_lemma(other) for other in others]
            key = lower(clean_lemma(word), lang)
            if key:
                table.setdefault(key, []).extend(lemma for lemma in lemmas if lemma)
    except ValueError as error:
        form = '{"word": ["other", ...]}'
        raise ValueError(f"not JSON of the form {form}: {error}") from None
    return table


def read_table(path: Path, lang: str) -> Table:
    """Replacements from a JSON file or from a wordnet's tab file.

    *Errors*: ValueError for a file that is missing or is neither.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such table. Give LANG=FILE with a .json or OMW .tab file.")
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".tab":
            return read_wordnet(content, lang)
        return read_json_table(content, lang)
    except ValueError as error:  # not UTF-8 is one, too
        raise ValueError(f"{path}: {error}") from None


def one_file_a_language(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """(code of a language, path) -> base language -> path.

    *Errors*: ValueError for what is no code, and for two files of one language.
    """
    path_of = {}
    for code, path in files:
        try:
            lang = base_language(code)
        except ValueError as error:
            raise ValueError(f"{one_line(str(path), 250)}: {error}") from None
        if lang in path_of:
            raise ValueError(f"{path}: {path_of[lang]} is of {lang!r}, too. Leave one out.")
        path_of[lang] = path
    return path_of


def read_synonyms(folder: Path, files: dict[str, str] | None = None) -> Tables:
    """lang -> table, from these files (lang -> path) or else from the data set's synonyms/."""
    if not files:
        paths = sorted((folder / "synonyms").glob("*.json"))
        files = one_file_a_language((path.stem, path) for path in paths)
    if not files:
        raise ValueError(f"{folder}/synonyms: no such folder. Give --table LANG=FILE.")
    return {lang: read_table(Path(path), lang) for lang, path in files.items()}


def read_dictionary(path: Path, langs: Collection[str] = ()) -> Tables:
    """lang -> word -> its words in all other languages, with English as the pivot.

        the row "en<TAB>de<TAB>dog<TAB>Hund" -> {"de": {"hund": ["dog"]}, "en": {"dog": ["Hund"]}}

    `langs` keeps these only: what a model is trained on must not hold words of its zero-shot
    languages. Words are cleaned as those of a table are, and what is no word is passed over.
    *Errors*: ValueError for a missing file, or a row with another number of columns.
    """
    row_format = "en<TAB>LANG<TAB>word<TAB>translation"
    if not path.is_file():
        raise ValueError(f"{path}: no such dictionary. Code-switching needs one: {row_format}.")
    concepts = {}  # English word -> lang -> its words
    for number, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) != 4 or not all(cells) or cells[0] not in ("en", "eng"):
            raise ValueError(f"{path}:{number}: {one_line(repr(line))} is not {row_format}.")
        _, code, *lemmas = cells
        try:
            lang = base_language(code)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        english, translation = map(clean_lemma, lemmas)
        if not (english and translation):  # such as "..."
            continue
        words = concepts.setdefault(english, {"en": [english]})
        words.setdefault(lang, []).append(translation)
    tables = {}
    for words in concepts.values():
        spoken = sorted(words)
        if langs:
            spoken = [lang for lang in spoken if lang in langs]
        for lang in spoken:
            others = list(chain(*[words[other] for other in spoken if other != lang]))
            for word in words[lang]:
                add_options(tables.setdefault(lang, {}), lower(word, lang), others)
    return tables


@torch.no_grad()
def mean_embeddings(words, encoder):
    """A word's embedding: the mean over its pieces, 0 if the tokenizer finds none. -> (words, D)"""
    rows = encoder.tokenizer(words, add_special_tokens=False)["input_ids"]
    means = []
    for row in rows:
        ids = torch.tensor(row, dtype=torch.long, device=encoder.device)
        pieces = encoder.word_embeddings(ids)  # (pieces, D)
        if row:
            means.append(pieces.mean(0))  # (pieces, D) -> (D,)
        else:
            means.append(pieces.sum(0))
    return torch.stack(means)


def neighbours(encoder: Encoder, texts: list[Text], k: int = 8) -> Tables:
    """Without any table: the k words nearest by the encoder's own word embeddings, by language.

    A word's neighbours come from the same texts. They need not be synonyms ("north" is near
    "south"): the answer may change, so take care.
    """
    words_in = {}  # lang -> words
    for text in texts:
        for start, end in words_of(text.text, text.lang):
            words = words_in.setdefault(text.lang, set())
            words.add(lower(text.text[start:end], text.lang))
    tables = {}
    for lang in sorted(words_in):
        words = sorted(words_in[lang])
        embeddings = mean_embeddings(words, encoder).float()  # (V, D)
        has_pieces = embeddings.any(dim=1).tolist()
        words = list(compress(words, has_pieces))
        unit = F.normalize(embeddings[has_pieces], dim=-1)  # (V, D)
        cosine = (unit @ unit.T).fill_diagonal_(-2)  # (V, D) @ (D, V) -> (V, V); never oneself
        nearest = cosine.topk(max(0, min(k, len(words) - 1))).indices.tolist()  # (V, V) -> (V, k)
        tables[lang] = {}
        for word, row in zip(words, nearest, strict=True):
            tables[lang][word] = [words[i] for i in row]
    return tables


# ---- 4. typos: the same edits from other options -------------------------------------------------

KEYBOARDS = (
    ("qwertyuiop", "asdfghjkl", "zxcvbnm"),
    ("йцукенгшщзхъ", "фывапролджэ", "ячсмитьбю"),
    (" ςερτυθιοπ", "ασδφγηξκλ", "ζχψωβνμ"),  # a blank: a key that holds no single letter
    ("ضصثقفغعهخحجد", "شسيبلاتنمكط", "ئءؤر ىةوزظ"),
)
TYPO_KINDS = ("insert", "delete", "substitute", "swap", "neighbour")


def keyboard_of(letter):
    """The rows of the keyboard that has this letter; () for Thai, Hindi, Chinese."""
    for rows in KEYBOARDS:
        if any(letter in row for row in rows):
            return rows
    return ()


def near_keys(letter):
    """The keys beside, above and below a letter; [] if we have no keyboard for it.

    q w e r        the rows lie askew: near_keys("s") -> ["a", "d", "w", "e", "z", "x"]
     a s d f
      z x c v
    """
    rows = ["", *keyboard_of(letter), ""]  # nothing above the first and below the last
    for y, row in enumerate(rows):
        x = row.find(letter)
        if x >= 0:
            left = max(0, x - 1)
            beside = row[left:x] + row[x + 1 : x + 2]
            above = rows[y - 1][x : x + 2]
            below = rows[y + 1][left : x + 1]
            return [key for key in beside + above + below if key != " "]
    return []


def typo(word: str, rng: Generator) -> str:
    """One of five edits: insert, delete or substitute a letter, swap two, hit a key beside it.

        typo("glow", generator(0, "typo")) -> "glop"

    Letters come from the keyboard of the word's first letter; where we have none, from the word
    itself. A letter that is no key, é too, has no key beside it. *Source*: Zhuang & Zuccon 2021.
    """
    letters = letters_of(word)
    first = unicodedata.normalize("NFD", word)[0].lower()  # é is typed on e's keyboard
    if unicodedata.name(first, "").startswith("LATIN"):
        first = "a"  # so are đ and ı, which Unicode does not take apart
    alphabet = "".join(keyboard_of(first)).replace(" ", "")
    if not alphabet:
        alphabet = list(dict.fromkeys(letters))
    kinds = list(TYPO_KINDS)
    while kinds:
        kind = choose(kinds, rng)
        i = choose(range(len(letters)), rng)
        letter = choose(alphabet, rng)
        beside = near_keys(letters[i][0].lower())
        changed = list(letters)
        if kind == "insert":
            changed.insert(i, letter)
        elif kind == "delete":
            del changed[i]
        elif kind == "substitute":
            changed[i] = letter
        elif kind == "swap" and i + 1 < len(letters):
            changed[i], changed[i + 1] = letters[i + 1], letters[i]
        elif kind == "neighbour" and beside:
            changed[i] = choose(beside, rng) + letters[i][1:]  # the marks stay
        if changed and changed != letters:
            return "".join(changed)
        kinds.remove(kind)  # it changes nothing at this letter: another kind
    return word


def typo_places(text: str, lang: str, fixed: Words = frozenset()) -> list[Span]:
    """Words of at least three letters, neither number nor `fixed`."""
    fixed_places = places_in(find_words(text, fixed, lang))
    places = []
    for start, end in words_of(text, lang):
        word = text[start:end]
        is_apart = fixed_places.isdisjoint(range(start, end))
        if len(letters_of(word)) >= 3 and not has_number(word) and is_apart:
            places.append((start, end))
    return places


def typo_slots(
    text: str, lang: str, rng: Generator, fixed: Words = frozenset(), k: int = 1
) -> list[Slot]:
    """The places with up to k typos each."""
    slots = []
    for start, end in typo_places(text, lang, fixed):
        word = text[start:end]
        typos = [typo(word, rng) for _ in range(k)]
        options = [other for other in dict.fromkeys(typos) if other != word]
        if options:
            slots.append(Slot(start, end, tuple(options)))
    return slots


# ---- 5. the goal: one margin a ranking -----------------------------------------------------------


@dataclass
class Pools:
    """All passages, sorted by language, and which of them answer which query."""

    p: Tensor  # (P + 1, D), encoded once; the last row, all 0, is what padding points at
    langs: list[str]  # L of them
    borders: list[int]  # L + 1: language i has the rows borders[i] to borders[i + 1] of p
    relevant: Tensor  # (Q, R) rows of p, padded with P
    gains: Tensor  # (Q, R) their relevance, padded with 0
    query_lang: Tensor  # (Q,) position of the query's language in langs, -1 if it is not there
    missing: Tensor  # (Q, M) relevance of passages that the corpus lacks, padded with 0
    left_out: Tensor  # (Q,) row of p that a query's rankings leave out, its own text; P for none

    def start_end(self, passage_lang: str) -> Span:
        """The rows of p in a language; "*" for all."""
        if passage_lang == "*":
            return 0, self.borders[-1]
        i = self.langs.index(passage_lang)
        return self.borders[i], self.borders[i + 1]


def own_texts(data, queries, row_of):
    """Rows of p of the passages that have a query's id, as in ArguAna; P where there is none."""
    position = {passage.id: i for i, passage in enumerate(data.passages)}
    rows = []
    for query in queries:
        passage = position.get(data.queries[query].id)
        rows.append(row_of.get(passage, len(row_of)))
    return rows


def make_pools(
    p: Tensor,
    data: DataSet,
    queries: list[int],
    passages: list[int],
    split: str,
    self_hits: bool = True,
) -> Pools:
    """Sort the passages (P, D) by language and look up the relevant ones of each query.

    Without `self_hits`, a passage that has a query's id is no candidate for it, as BEIR does. If it
    is relevant as well, it counts as one that is not there.
    """
    passage_langs = [data.passages[i].lang for i in passages]
    langs = sorted(set(passage_langs))
    borders = [0, *accumulate(passage_langs.count(lang) for lang in langs)]
    order = sorted(range(len(passages)), key=passage_langs.__getitem__)  # stable
    row_of = {passages[i]: row for row, i in enumerate(order)}
    rows_of_queries = []  # for each query: row of p -> relevance
    for query in queries:
        relevance = data.qrels[split][query]
        rows_of_queries.append({row_of[i]: relevance[i] for i in relevance if i in row_of})
    missing = data.missing.get(split, {})
    missing_gains = [list(missing.get(query, {}).values()) for query in queries]
    left_out = [len(passages)] * len(queries)
    if not self_hits:
        left_out = own_texts(data, queries, row_of)
        for rows, row, gains_lost in zip(rows_of_queries, left_out, missing_gains, strict=True):
            if row in rows:
                gains_lost.append(rows.pop(row))
    lost = [torch.tensor(gains_lost) for gains_lost in missing_gains]  # Q of (M_i,)
    width = max(1, max(map(len, rows_of_queries)))
    relevant = torch.full((len(queries), width), len(passages))  # (Q, R)
    gains = torch.zeros(len(queries), width)
    for i, rows in enumerate(rows_of_queries):
        relevant[i, : len(rows)] = torch.tensor(list(rows))
        gains[i, : len(rows)] = torch.tensor(list(rows.values()))
    number = {lang: i for i, lang in enumerate(langs)}
    query_langs = [data.queries[query].lang for query in queries]
    query_lang = torch.tensor([number.get(lang, -1) for lang in query_langs])  # (Q,)
    padded_p = p.new_zeros(len(p) + 1, p.shape[1])  # (P + 1, D)
    # Written there at once: p[order] would be one more copy of all
    torch.index_select(p, 0, torch.tensor(order), out=padded_p[:-1])
    padded_lost = pad_sequence(lost, batch_first=True)  # (Q, M)
    own = torch.tensor(left_out)  # (Q,)
    return Pools(padded_p, langs, borders, relevant, gains, query_lang, padded_lost, own)


@dataclass
class Best:
    """The best relevant and the best other passage of each pool, the pool of all languages last."""

    relevant_score: Tensor  # (C, L + 1), -inf where there is none
    relevant_row: Tensor  # (C, L + 1), row of p
    other_score: Tensor  # (C, L + 1)
    other_row: Tensor  # (C, L + 1)


def find_best_in_block(pools, v, rows):
    """`find_best` of so few texts that their scores (C, P + 1) fit into memory."""
    scores = v @ pools.p.to(v.device).T  # (C, D) @ (D, P + 1) -> (C, P + 1)
    relevant = pools.relevant[rows].to(v.device)  # (C, R)
    relevant_scores = scores.gather(1, relevant)  # (C, P + 1) -> (C, R)
    scores.scatter_(1, relevant, -math.inf)  # what is left are the others
    own = pools.left_out[rows, None].to(v.device)  # (C, 1)
    scores.scatter_(1, own, -math.inf)
    shape = len(v), len(pools.langs) + 1
    best = Best(
        scores.new_empty(shape),
        relevant.new_empty(shape),
        scores.new_empty(shape),
        relevant.new_empty(shape),
    )
    for i, lang in enumerate([*pools.langs, "*"]):
        start, end = pools.start_end(lang)
        outside = (relevant < start) | (relevant >= end)  # of this pool, as is the padding
        in_pool = relevant_scores.masked_fill(outside, -math.inf)  # (C, R)
        best.relevant_score[:, i], column = in_pool.max(1)  # (C, R) -> (C,)
        best.relevant_row[:, i] = relevant.gather(1, column[:, None])[:, 0]
        best.other_score[:, i], column = scores[:, start:end].max(1)  # (C, P) -> (C,)
        best.other_row[:, i] = start + column
    return best


def find_best(pools, v, rows):
    """The best passages for each text; as many texts at once as MOST_SCORES allows, 1024 at most.

    *Shapes*: v (C, D) the texts' vectors, rows (C,) the queries in whose place they stand.
    """
    size = max(1, min(1024, MOST_SCORES // len(pools.p)))
    blocks = []
    for v_block, row_block in zip(v.split(size), rows.split(size), strict=True):
        blocks.append(find_best_in_block(pools, v_block, row_block))
    return Best(
        torch.cat([best.relevant_score for best in blocks]),
        torch.cat([best.relevant_row for best in blocks]),
        torch.cat([best.other_score for best in blocks]),
        torch.cat([best.other_row for best in blocks]),
    )


@torch.no_grad()
def margins(pools: Pools, v: Tensor, rows: Tensor) -> Tensor:
    """Best relevant minus best other score, in each language's pool and in the pool of all.

    *Shapes*: v (C, D), rows (C,) -> (C, L + 1), the pool of all languages last.
    *Units*: cosine, -2 to 2, rounded to 1e-6 so that the shape of a batch decides nothing;
    NaN where nothing is relevant or nothing else is there.
    """
    best = find_best(pools, v, rows)
    exact = (best.relevant_score - best.other_score).cpu()  # (C, L + 1)
    exact[~exact.isfinite()] = math.nan
    return (exact * 1e6).round() / 1e6


def pools_of_view(query_lang, n_pools, view):
    """Which pools count: the query's own, the other languages', or all in one. -> (C, L + 1)"""
    pool = torch.arange(n_pools)  # (L + 1,)
    is_own = query_lang[:, None] == pool  # (C, 1) == (L + 1,) -> (C, L + 1)
    is_last = (pool == n_pools - 1).expand_as(is_own)
    if view == "mono":
        return is_own
    if view == "cross":
        return ~is_own & ~is_last
    return is_last


def view_margin(in_pools: Tensor, query_lang: Tensor, view: str) -> Tensor:
    """A view's margin: own language, mean over the others, all in one. (C, L + 1) -> (C,)"""
    counts = pools_of_view(query_lang, in_pools.shape[1], view)  # (C, L + 1) of bool
    return in_pools.masked_fill(~counts, math.nan).nanmean(1)


def directions(pools, v, rows, view):
    """The d with margin = v . d as long as the same passages stay best: relevant minus other one.

    So it is the margin's gradient with respect to v. In cross it is the mean over languages.
    *Shapes*: v (C, D), rows (C,) the queries in whose place the texts stand -> (C, D).
    """
    p = pools.p.to(v.device)
    best = find_best(pools, v.detach(), rows)
    margin = best.relevant_score - best.other_score  # (C, L + 1)
    in_view = pools_of_view(pools.query_lang[rows], margin.shape[1], view)
    counts = in_view.to(v.device) & margin.isfinite()
    weight = counts / counts.sum(1, keepdim=True).clamp(min=1)  # (C, L + 1), of a mean over pools
    differences = p[best.relevant_row] - p[best.other_row]  # (C, L + 1, D)
    # (C, L + 1), (C, L + 1, D) -> (C, D)
    return torch.einsum("cl,cld->cd", weight.to(p.dtype), differences)


# ---- 6. queries under attack: what is known of each, what a text in its place scores -------------


@dataclass
class AttackedQuery:
    """One query under attack in one view, and what has become of it."""

    query: int  # row of pools
    view: str  # "mono", "cross" or "pool"
    source: Text
    slots: list[Slot]  # where it could be changed; none: not attacked
    edits: Edits = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)  # distinct texts scored for it
    norm: float = 0.0  # mean L2 norm of the noise on a token, in mean norms of a word embedding
    exhaustive: bool = False  # every text within the bounds was tried
    worst: Tensor | None = None  # if exhaustive: its smallest margin in each pool (L + 1,)
    vector: Tensor | None = None  # (D,) under noise

    @property
    def attacked(self):
        """A query with nothing to replace was not attacked: it is no robust one."""
        return len(self.slots) > 0 or self.norm > 0

    @property
    def text(self) -> str:
        """The query as it is now."""
        return substitute(self.source.text, self.edits)

    @property
    def changed(self):
        return self.text != self.source.text or self.norm > 0

    def most_edits(self, bound):
        """How many words may change: a number, a share of the slots (rounded up), or all for 0."""
        if bound == 0:
            return len(self.slots)
        if bound < 1:
            bound = math.ceil(bound * len(self.slots) - 1e-9)
        return min(int(bound), len(self.slots))


def rows_of_views(items):
    """view -> positions of the items that are attacked in it."""
    rows = {}
    for i, item in enumerate(items):
        rows.setdefault(item.view, []).append(i)
    return rows


def bare_text(text):
    """A query that is nothing but its words, so that equal words are one text and encoded once."""
    return Text("", "", text, "")


# Characters a token of the encoder's query length: what stands beyond is not read. (In XLM-R's
# vocabulary a token holds 16 at most; long runs of blanks or of unknown letters, which are one
# token, are cut early)
CHARACTERS_A_TOKEN = 16


def readable_text(text, encoder):
    """The part of a query's text that the encoder can read, so that the rest costs nothing."""
    return text[: CHARACTERS_A_TOKEN * encoder.settings.query_length]


def readable_part(item, encoder):
    """An item whose text and slots end where the encoder's reading ends; often the item itself."""
    text = readable_text(item.source.text, encoder)
    if text == item.source.text:
        return item
    slots = [slot for slot in item.slots if slot.end <= len(text)]
    return replace(item, source=replace(item.source, text=text), slots=slots)


def encode_once(encoder, texts, bar=""):
    """Vectors of queries (texts, D); equal ones are encoded once and agree to the last bit."""
    texts = [replace(text, text=readable_text(text.text, encoder)) for text in texts]
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    return encoder.encode(distinct, "query", bar)[[row_of[text] for text in texts]]


class Scorer:
    """Scores texts in the place of queries; no text is scored twice.

    All pairs of a step are one batch, sorted by length: TextAttack goes query by query.
    *Shapes*: pairs of (AttackedQuery, text) -> margins in each pool (C, L + 1), in its view (C,).
    """

    def __init__(self, encoder: Encoder, pools: Pools, bar: str = ""):
        self.encoder, self.pools, self.bar = encoder, pools, bar
        self.margins = {}  # (query, text) -> (L + 1,)

    def __call__(self, pairs: list[tuple[AttackedQuery, str]]) -> tuple[Tensor, Tensor]:
        keys = [(item.query, text) for item, text in pairs]
        new_keys = [key for key in dict.fromkeys(keys) if key not in self.margins]
        for start in range(0, len(new_keys), 16384):  # so that memory does not grow with them
            self.add_margins(new_keys[start : start + 16384])
        for item, text in pairs:
            item.asked.add(text)
        in_pools = torch.stack([self.margins[key] for key in keys])  # (C, L + 1)
        query_lang = self.pools.query_lang[[query for query, _ in keys]]  # (C,)
        in_view = torch.empty(len(pairs))  # (C,)
        for view, rows in rows_of_views([item for item, _ in pairs]).items():
            in_view[rows] = view_margin(in_pools[rows], query_lang[rows], view)
        return in_pools, in_view

    def add_margins(self, keys):
        """Encode these (query, text) and remember their margins."""
        v = encode_once(self.encoder, [bare_text(text) for _, text in keys], self.bar)
        queries = torch.tensor([query for query, _ in keys])
        self.margins.update(zip(keys, margins(self.pools, v, queries), strict=True))


# ---- 7. search: word after word, or every text ---------------------------------------------------


@dataclass
class Trial:
    """A text that a search tries in the place of a query."""

    item: AttackedQuery
    edits: Edits
    margin: float = math.nan  # in the view of the item
    in_pools: Tensor | None = None  # (L + 1,) margin in each pool

    @property
    def text(self) -> str:
        return substitute(self.item.source.text, self.edits)


def score_trials(trials_of_items, scorer):
    """Write the margins of all the items' trials, scored as one batch."""
    trials = list(chain(*trials_of_items))
    if not trials:
        return
    in_pools, in_view = scorer([(trial.item, trial.text) for trial in trials])
    for trial, row, margin in zip(trials, in_pools, in_view.tolist(), strict=True):
        trial.in_pools, trial.margin = row, margin


def positions_by_value(values):
    """Positions, the smallest value first: [0.5, 0.1] -> [1, 0]."""
    return sorted(range(len(values)), key=values.__getitem__)


def leave_one_out(items, scorer, attack):
    """For each item the positions of its slots, first the one whose word the margin needs most.

    The margin is lowest without that word. Black box: scores alone. Slots for which the budget has
    no text come last, in the order of the text.
    """
    without = []  # for each item: its text without the word of slot 0, of slot 1, ...
    for item in items:
        slots = item.slots
        if attack.budget:
            slots = slots[: attack.budget // 2]  # half for the order, half for the search
        without.append([Trial(item, {slot.span: ""}) for slot in slots])
    score_trials(without, scorer)
    orders = []
    for item, trials in zip(items, without, strict=True):
        order = positions_by_value([trial.margin for trial in trials])
        orders.append(order + list(range(len(trials), len(item.slots))))
    return orders


def change_slot(beam, slot, attack):
    """Each text of a beam with each replacement of one slot, as edits and budget allow."""
    item = beam[0].item
    asked = set(item.asked)
    trials = []
    for kept in beam:
        if len(kept.edits) == item.most_edits(attack.edits):
            continue
        for option in slot.options:
            trial = Trial(item, kept.edits | {slot.span: option})
            asked.add(trial.text)
            if not attack.budget or len(asked) <= attack.budget:
                trials.append(trial)
    return trials


def beam_search(items, scorer, attack, orders):
    """Change word after word, each time to what hurts most; keep the `width` worst texts.

        "red big old", width 2, the slot of big first: its beam, with margins,
            start        .5 red big old
            big -> wide  .3 red wide old   .5 red big old

    `orders`: for each item its slots, the most important first. Keeping a word is always allowed,
    so more steps never help the retriever. All items advance in lock-step.
    """
    beams = [[Trial(item, {})] for item in items]
    score_trials(beams, scorer)
    for step in range(max(map(len, orders), default=0)):
        trials = [[] for _ in items]
        for i, order in enumerate(orders):
            if step < len(order):
                slot = items[i].slots[order[step]]
                trials[i] = change_slot(beams[i], slot, attack)
        score_trials(trials, scorer)
        for i, beam in enumerate(beams):
            # A stable sort: among equals the text that was in the beam, then the table's first word
            ranked = sorted(beam + trials[i], key=attrgetter("margin"))
            beams[i] = ranked[: attack.width]
    for item, beam in zip(items, beams, strict=True):
        item.edits = beam[0].edits


def every_trial(item, most):
    """Yield all texts with at most so many slots changed, those with fewer edits first."""
    for n in range(most + 1):
        for slots in combinations(item.slots, n):
            spans = [slot.span for slot in slots]
            for words in product(*[slot.options for slot in slots]):
                yield Trial(item, dict(zip(spans, words, strict=True)))


def enumerate_all(items, scorer, attack):
    """Try every text within the bounds where there are at most `limit`; return the other items.

    *Certificate*: the smallest margin in each pool. Above 0 it promises that no substitution of
    these words by these replacements, within these bounds, moves the best relevant passage from
    rank 1. It promises nothing about other words, replacements or passages.
    """
    limit = attack.limit
    if attack.budget:
        limit = min(limit, attack.budget)
    trials_of_items, others = [], []
    for item in items:
        trials = every_trial(item, item.most_edits(attack.edits))
        trials = list(islice(trials, limit + 1))  # one more than the limit is too many
        item.exhaustive = len(trials) <= limit
        if item.exhaustive:
            trials_of_items.append(trials)
        else:
            others.append(item)
    score_trials(trials_of_items, scorer)
    for trials in trials_of_items:
        item = trials[0].item
        item.worst = torch.stack([trial.in_pools for trial in trials]).amin(0)  # (L + 1,)
        item.edits = min(trials, key=attrgetter("margin")).edits  # the first: the fewest edits
    return others


# ---- 8. embeddings: noise in a ball --------------------------------------------------------------
# An objective is what an attack maximises, a function: embeddings (B, T, D) -> (B,)


@dataclass(frozen=True)
class Ball:
    """Where noise may be."""

    radius: float
    norm: str = "l2"  # or "max": a cube, no coordinate above the radius
    scope: str = "token"  # each token has a ball of its own, or the "sentence" has one


@dataclass(frozen=True)
class Climb:
    """How noise goes uphill."""

    steps: int
    step_size: float  # in radii
    restarts: int = 1


def mean_norm(encoder: Encoder) -> float:
    """Mean L2 norm of the encoder's word embeddings, the unit of every epsilon and sigma."""
    weight = encoder.word_table.detach()  # (V, D)
    return float(weight.float().norm(dim=1).mean())


def ball_radius(epsilon: float, norm: str, encoder: Encoder) -> float:
    """The radius of a ball, from units of mean norms to those of the embeddings.

    In the max norm it is a coordinate's share, so that the noise's L2 norm stays within epsilon.
    """
    radius = epsilon * mean_norm(encoder)
    if norm == "max":
        radius /= math.sqrt(encoder.word_table.shape[1])
    return radius


def noise_size(x, scope):
    """L2 norm of each token (B, T, 1), or of each sentence (B, 1, 1)."""
    if scope == "token":
        return x.norm(dim=-1, keepdim=True)
    return x.norm(dim=(1, 2), keepdim=True)


def project(delta: Tensor, ball: Ball) -> Tensor:
    """The nearest point of the ball: (3, 4) -> (0.6, 0.8) for radius 1; what lies inside stays."""
    if ball.norm == "max":
        return delta.clamp(-ball.radius, ball.radius)
    size = noise_size(delta, ball.scope)
    return delta * (ball.radius / size.clamp(min=max(ball.radius, 1e-12)))


def steepest(grad: Tensor, ball: Ball) -> Tensor:
    """The direction of norm 1 that raises the objective fastest; 0 where the gradient is 0."""
    if ball.norm == "max":
        return grad.sign()
    return grad / noise_size(grad, ball.scope).clamp(min=1e-12)


def draw_noise(n, dim, rng, radius, kind, scope):
    """The noise of one row with n places, see `random_noise`. -> (n, D)"""
    normal = torch.randn(n, dim, generator=rng)
    dimensions = dim  # of a ball
    shape = (n, 1)  # of the radii: one a token
    if scope == "sentence":
        dimensions, shape = max(1, n * dim), (1, 1)
    if kind == "gaussian":
        return normal * radius / math.sqrt(dimensions)
    on_sphere = normal / noise_size(normal[None], scope)[0].clamp(min=1e-12) * radius
    if kind == "sphere":
        return on_sphere
    # SUBTLE: most of a ball's volume is near its surface; a uniform radius would miss that
    return on_sphere * torch.rand(shape, generator=rng) ** (1 / dimensions)


def random_noise(
    places: Tensor, dim: int, rngs: list, radius: float, kind: str, scope: str = "token"
) -> Tensor:
    """Noise at these places, for each token, or for the sentence as one vector (nD for D).

        gaussian   radius / sqrt(D) * N(0, 1)                  mean squared norm radius^2, no bound
        uniform    radius * u^(1/D) * a random direction       at most the radius: in the L2 ball
        sphere     radius * a random direction                 exactly the radius

    *Shapes*: places (B, T), one generator a row -> (B, T, D). A row's noise depends on its
    generator and its length alone, not on the padding.
    *Source*: RS-RP of Huang et al. 2021: the form alone; distributions and radius are ours.
    """
    noise = torch.zeros(*places.shape, dim)  # (B, T) -> (B, T, D)
    for row, row_places, rng in zip(noise, places.cpu(), rngs, strict=True):
        row[row_places] = draw_noise(int(row_places.sum()), dim, rng, radius, kind, scope)
    return noise.to(places.device)


def gradient(objective, embeddings, delta, places):
    """Objective (B,) at embeddings + delta and its gradient (B, T, D), 0 outside the places."""
    delta = delta.detach().requires_grad_()
    value = objective(embeddings + delta)
    # SUBTLE: with respect to the input alone; the parameters' .grad stays as it was
    (grad,) = torch.autograd.grad(value.sum(), delta)
    return value.detach(), grad * places[..., None]


def fgm(objective, embeddings: Tensor, places: Tensor, ball: Ball) -> Tensor:
    """One step: delta = radius * g / ||g||, so that a linear objective gains radius * ||g||.

    *Source*: Miyato et al. 2017; with norm "max" it is FGSM.
    """
    _, grad = gradient(objective, embeddings, torch.zeros_like(embeddings), places)
    return ball.radius * steepest(grad, ball)


def step_uphill(delta, grad, ball, climb):
    """One step of `step_size` radii, projected back into the ball."""
    step = ball.radius * climb.step_size * steepest(grad, ball)
    return project(delta + step, ball).detach()


def random_start(places, dim, ball, rngs):
    """A random point of the ball. (B, T) -> (B, T, D)"""
    if ball.norm == "max":  # one cube whatever the scope; the noise goes as far as its corners
        noise = random_noise(places, dim, rngs, ball.radius * math.sqrt(dim), "uniform")
    else:
        noise = random_noise(places, dim, rngs, ball.radius, "uniform", ball.scope)
    return project(noise, ball)


def pgd(
    objective, embeddings: Tensor, places: Tensor, ball: Ball, climb: Climb, rngs: list
) -> Tensor:
    """Several smaller steps, each projected back, from several starts; the best point is kept.

    The first start is fgm's point, so that pgd never does less than fgm; the others are random.
    *Source*: Madry et al. 2018.
    """
    best_delta = torch.zeros_like(embeddings)
    best_value = torch.full(embeddings.shape[:1], -math.inf).to(embeddings)  # (B,)
    for restart in range(climb.restarts):
        if restart == 0:
            delta = fgm(objective, embeddings, places, ball)
        else:
            delta = random_start(places, embeddings.shape[-1], ball, rngs)
        # CHANGED vs fgm: steps, projection, the best is kept
        for _ in range(climb.steps + 1):  # judges the start, too; the last step is thrown away
            value, grad = gradient(objective, embeddings, delta, places)
            better = value > best_value  # (B,)
            best_value[better] = value[better]
            best_delta[better] = delta[better]
            delta = step_uphill(delta, grad, ball, climb)
    return best_delta


def freelb(
    objective, embeddings: Tensor, places: Tensor, ball: Ball, climb: Climb, rngs: list
) -> list[Tensor]:
    """The points that FreeLB trains on, all of them: a random one, then step by step uphill.

    *Source*: Zhu et al. 2020, algorithm 1; here the start is uniform in the whole L2 ball (in the
    max norm, in the L2 ball inside the cube).
    """
    dim = embeddings.shape[-1]
    delta = random_noise(places, dim, rngs, ball.radius, "uniform", ball.scope)
    points = [delta]
    for _ in range(climb.steps - 1):  # CHANGED vs pgd: one start, every point is kept
        _, grad = gradient(objective, embeddings, delta, places)
        delta = step_uphill(delta, grad, ball, climb)
        points.append(delta)
    return points


@dataclass(frozen=True)
class Chunk:
    """Some texts of similar length, as word embeddings."""

    rows: list[int]  # B positions in the list of texts
    batch: dict[str, Tensor]  # as of Encoder.pad
    embeddings: Tensor  # (B, T, D), without gradient
    places: Tensor  # (B, T), True where noise may be


def noise_places(encoder, batch):
    """Where noise may be: (B, T), True at words, <unk> and a prefix such as "Query:" among them."""
    special = set(encoder.tokenizer.all_special_ids) - {encoder.tokenizer.unk_token_id}
    special = torch.tensor(sorted(special), device=encoder.device)
    # SUBTLE: neither padding nor special tokens get noise
    return batch["attention_mask"].bool() & ~torch.isin(batch["input_ids"], special)


def embedding_chunks(
    encoder: Encoder, token_rows: list[dict], max_tokens: int = 4096
) -> Iterator[Chunk]:
    """Cut token rows (of Encoder.tokenize) into chunks of word embeddings, the shortest first.

    An attack runs without dropout: its loop over the chunks stands in `with eval_mode(encoder)`.
    """
    for rows in encoder.chunks(token_rows, max_tokens):
        batch = encoder.pad([token_rows[i] for i in rows])
        embeddings = encoder.word_embeddings(batch["input_ids"]).detach()  # (B, T) -> (B, T, D)
        yield Chunk(rows, batch, embeddings, noise_places(encoder, batch))


@dataclass(frozen=True)
class MarginObjective:
    """What an attack on a chunk's queries maximises: minus their margins. (B, T, D) -> (B,)"""

    items: list[AttackedQuery]
    chunk: Chunk
    encoder: Encoder
    pools: Pools

    def __call__(self, embeddings: Tensor) -> Tensor:
        v = self.encoder.from_embeddings(embeddings, self.chunk.batch)  # (B, T, D) -> (B, D)
        d = torch.empty_like(v)
        for view, rows in rows_of_views(self.items).items():
            queries = torch.tensor([self.items[i].query for i in rows])
            d[rows] = directions(self.pools, v[rows], queries, view)
        return -(v * d).sum(-1)  # (B, D) -> (B,)


def query_chunks(items, encoder):
    """Yield the clean queries in chunks: (Chunk, its items)."""
    token_rows = encoder.tokenize([item.source for item in items], "query")
    for chunk in embedding_chunks(encoder, token_rows):
        yield chunk, [items[i] for i in chunk.rows]


def add_noise(items, chunk, delta, encoder, unit):
    """Write each item's vector under noise, and the norm of its noise in these units."""
    with torch.no_grad():
        vectors = encoder.from_embeddings(chunk.embeddings + delta, chunk.batch)  # (B, D)
    total = noise_size(delta, "token").sum((1, 2))  # (B, T, 1) -> (B,)
    norms = total / chunk.places.sum(1).clamp(min=1) / unit
    for item, vector, norm in zip(items, vectors.cpu(), norms.tolist(), strict=True):
        item.vector, item.norm = vector, norm


def streams(items, attack, seed, *use):
    """One random stream an item and use; not of the view, so that all views see the same noise."""
    return [generator(seed, attack.label, item.source.id, *use) for item in items]


def find_noise(objective, chunk: Chunk, attack: Attack, radius: float, rngs: list) -> Tensor:
    """The noise of a chunk's texts under an attack on embeddings. -> (B, T, D)"""
    embeddings, places = chunk.embeddings, chunk.places
    if attack.name in ("gaussian", "uniform"):
        dim = embeddings.shape[-1]
        return random_noise(places, dim, rngs, radius, attack.name, attack.ball)
    ball = Ball(radius, attack.norm, attack.ball)
    if attack.name == "fgm":
        return fgm(objective, embeddings, places, ball)
    climb = Climb(attack.steps, attack.step_size, attack.restarts)
    return pgd(objective, embeddings, places, ball, climb, rngs)


def attack_embeddings(items, encoder, pools, attack, seed):
    """Noise on the word embeddings of each item's query."""
    unit = mean_norm(encoder)
    radius = ball_radius(attack.epsilon, attack.norm, encoder)
    with eval_mode(encoder):
        for chunk, members in query_chunks(items, encoder):
            objective = MarginObjective(members, chunk, encoder, pools)
            rngs = streams(members, attack, seed)
            delta = find_noise(objective, chunk, attack, radius, rngs)
            add_noise(members, chunk, delta, encoder, unit)


def control_embeddings(items, twins, encoder, attack, seed):
    """Noise in random directions, on each token of the mean norm of the twin's noise on a token.

    An item's twin is the same query in the same view under attack.
    """
    unit = mean_norm(encoder)
    with eval_mode(encoder):
        for chunk, members in query_chunks(items, encoder):
            dim = chunk.embeddings.shape[-1]
            # SUBTLE: a stream of its own, or the control would go the way of pgd's random start
            rngs = streams(members, attack, seed, "control")
            noise = random_noise(chunk.places, dim, rngs, unit, "sphere")
            # CHANGED vs attack_embeddings: each query has a radius of its own
            norms = torch.tensor([twins[i].norm for i in chunk.rows]).to(noise)  # (B,)
            add_noise(members, chunk, noise * norms[:, None, None], encoder, unit)


# ---- 9. HotFlip: the gradient of the embeddings says which word to change ------------------------

# Replacements of a word that the gradient proposes and the scores judge. (Any other attack with
# order=gradient asks the gradient for the order of the words alone, and keeps all replacements)
HOTFLIP_KEEPS = 2


def token_spans(text, encoder):
    """Where each token stands in the query's text: below 0 in the prefix, empty if special."""
    prefix = encoder.settings.query_prefix
    spans = encoder.tokenizer(prefix + text, return_offsets_mapping=True)["offset_mapping"]
    return [(start - len(prefix), end - len(prefix)) for start, end in spans]


def tokens_in(slot, spans):
    """The tokens that lie in a slot, at least in part."""
    tokens = []
    for token, (start, end) in enumerate(spans):
        if start < end and overlaps_any(slot.span, [(start, end)]):
            tokens.append(token)
    return tokens


def rank_slots(item, grad, embeddings, embedding_of, encoder, keep):
    """Keep each slot's `keep` best options; return the slots' positions, the best slot first.

    Best is the lowest estimate, of how much the margin changes:

        estimate = sum over the word's tokens t of grad_t . (mean embedding of the new word - e_t)

    *Shapes*: grad (of the margin), embeddings (T, D) of the query; embedding_of: option -> (D,).
    """
    spans = token_spans(item.source.text, encoder)[: len(grad)]  # the end of a long query is cut
    lowest = []  # of each slot: its best estimate
    for i, slot in enumerate(item.slots):
        tokens = tokens_in(slot, spans)
        estimates = {}
        for option in slot.options:
            change = embedding_of[option] - embeddings[tokens]  # (D,) - (tokens, D)
            estimates[option] = float((grad[tokens] * change).sum())
        ranked = sorted(slot.options, key=estimates.get)
        item.slots[i] = replace(slot, options=tuple(ranked[:keep]))
        lowest.append(estimates[ranked[0]])
    return positions_by_value(lowest)


def gradient_orders(items, encoder, pools, keep):
    """For each item the positions of its slots, first the one that the gradient promises most of.

    White box: it needs the gradient. One pass forward and back an item; in item.slots each slot
    keeps its `keep` best options (None: all).
    *Source*: HotFlip (Ebrahimi et al. 2018), here for words of several pieces.
    """
    if not encoder.tokenizer.is_fast:
        raise ValueError("order=gradient needs a fast tokenizer, for offsets. Take order=scores.")
    slots = chain(*[item.slots for item in items])
    options = sorted(set(chain(*[slot.options for slot in slots])))
    embedding_of = dict(zip(options, mean_embeddings(options, encoder), strict=True))
    orders = [[] for _ in items]
    with eval_mode(encoder):
        for chunk, members in query_chunks(items, encoder):
            objective = MarginObjective(members, chunk, encoder, pools)
            zero = torch.zeros_like(chunk.embeddings)
            _, grads = gradient(objective, chunk.embeddings, zero, chunk.places)  # (B, T, D)
            for i, grad, embeddings in zip(chunk.rows, grads, chunk.embeddings, strict=True):
                # SUBTLE: -grad is the margin's: the objective is minus the margin
                orders[i] = rank_slots(items[i], -grad, embeddings, embedding_of, encoder, keep)
    return orders


# ---- 10. certificates: the smoothed retriever, for sets too large to enumerate -------------------


def close_table(table: Table, lang: str) -> Table:
    """Let every replacement be replaced by its word too: SAFER's sets need words on both sides."""
    closed = {word: list(others) for word, others in table.items()}
    for word, others in table.items():
        for other in others:
            if lower(other, lang) != word:
                add_options(closed, lower(other, lang), [word])
    return closed


def draw_set(word, table, lang):
    """P_w: what a word may be redrawn as, itself among it."""
    return {lower(other, lang) for other in (word, *table.get(word, ()))}


def overlap(word: str, table: Table, lang: str = "") -> float:
    """q_w: how much of the draw of a word is shared, at worst, with the draw of a replacement.

    The two draws can be made to agree with probability q_w, so putting w' in the place of w moves
    the share of a vote by at most 1 - q_w.

        q_w = min over w' of |P_w & P_w'| / max(|P_w|, |P_w'|),     P_w = {w} and its replacements

        overlap("a", {"a": ["b", "c"], "b": ["a"], "c": ["a", "b"]}) -> 2/3     w' = b

    *Source*: SAFER (Ye et al. 2020), prop. 1, whose sets all have one size; the larger of two sizes
    keeps it a bound on the distance between the two uniform draws.
    """
    word_set = draw_set(word, table, lang)
    shares = []
    for other in word_set:
        other_set = draw_set(other, table, lang)
        shares.append(len(word_set & other_set) / max(len(word_set), len(other_set)))
    return min(shares)


def top_passages(pools: Pools, v: Tensor, rows: Tensor) -> Tensor:
    """Row of p at rank 1 in each language and, last, in all. (C, D) -> (C, L + 1)"""
    best = find_best(pools, v, rows)
    wins = best.relevant_score > best.other_score  # at a tie the one that is not relevant is first
    return torch.where(wins, best.relevant_row, best.other_row)


def majority(tops: Tensor, weights: list[int]) -> list[tuple[int, float]]:
    """Who wins the vote in each pool, and with which share. tops (N, L + 1) -> (passage, share)"""
    winners = []
    for column in tops.T.tolist():
        votes = Counter()
        for passage, weight in zip(column, weights, strict=True):
            votes[passage] += weight
        passage, count = votes.most_common(1)[0]
        winners.append((passage, count / sum(weights)))
    return winners


def certify(
    share: float, overlaps: list[float], edits: int, samples: int, confidence: float
) -> bool:
    """Does the majority survive any change of at most `edits` slots?

        share - sqrt(ln(1 / (1 - confidence)) / 2n) - (1 - product of the smallest q_w) > 1/2

    *Source*: SAFER, prop. 2; the error is Hoeffding's, one-sided, of one query's n samples (0: the
    share is exact). It promises, with this confidence, that the *smoothed* retriever answers with
    the same passage; not that the plain one does, nor that the passage is right.
    """
    error = 0.0
    if samples:
        error = math.sqrt(math.log(1 / (1 - confidence)) / (2 * samples))
    shared = math.prod(sorted(overlaps)[:edits])
    return share - error - (1 - shared) > 0.5


def drawn_words(word, options, lang):
    """What a slot's word is redrawn as: one spelling, the first, of each word in its `draw_set`."""
    spellings = {}
    for other in (word, *options):
        spellings.setdefault(lower(other, lang), other)
    return list(spellings.values())


def draw_texts(item, attack, seed):
    """Draw each slot's word anew, uniformly, `samples` times: text -> how often it was drawn."""
    text = item.source.text
    if not item.slots:
        return Counter([text])
    rng = generator(seed, attack.label, item.source.id)
    columns = []  # one a slot: the words drawn
    for slot in item.slots:
        words = drawn_words(text[slot.start : slot.end], slot.options, item.source.lang)
        picks = torch.randint(len(words), (attack.samples,), generator=rng)
        columns.append([words[pick] for pick in picks])
    spans = [slot.span for slot in item.slots]
    texts = Counter()
    for words, count in Counter(zip(*columns, strict=True)).items():
        edits = dict(zip(spans, words, strict=True))
        texts[substitute(text, edits)] += count
    return texts


def slot_overlaps(item, table):
    """q_w of each slot's word."""
    text, lang = item.source.text, item.source.lang
    words = [lower(text[slot.start : slot.end], lang) for slot in item.slots]
    return [overlap(word, table, lang) for word in words]


def smoothed(
    encoder: Encoder,
    pools: Pools,
    items: list[AttackedQuery],
    tables: Tables,
    attack: Attack,
    seed: int,
) -> Tensor:
    """The smoothed retriever on each item's query -> (items, 2, L + 1).

    [:, 0]: right at rank 1, [:, 1]: right and certified, in each pool.

    It draws each slot's word anew, uniformly, and answers with the passage that is at rank 1 most
    often. Its slots are those of the clean query, whatever an adversary puts there later.
    The same draws choose the majority and bound its share, as in SAFER (strictly, the bound wants
    draws of its own).
    *Shapes*: tables: lang -> closed table (`close_table`), the one that the slots were found with.
    """
    answers = torch.zeros(len(items), 2, len(pools.langs) + 1)
    for i, item in enumerate(items):
        counts = draw_texts(item, attack, seed)  # text -> how often it was drawn
        v = encode_once(encoder, [bare_text(text) for text in counts])  # (N, D)
        queries = torch.full((len(v),), item.query)  # (N,)
        tops = top_passages(pools, v, queries)  # (N, L + 1)
        relevant = pools.relevant[item.query].tolist()
        overlaps = slot_overlaps(item, tables.get(item.source.lang, {}))
        edits = item.most_edits(attack.edits)
        samples = attack.samples if item.slots else 0
        votes = majority(tops, list(counts.values()))
        for column, (passage, share) in enumerate(votes):
            if passage in relevant:
                safe = certify(share, overlaps, edits, samples, attack.confidence)
                answers[i, :, column] = torch.tensor([1.0, safe])
    return answers


# ---- 11. all queries of a split ------------------------------------------------------------------


def slots_of(text, attack, table, seed, fixed):
    """Where this attack may change a query, and to what."""
    fixed = {*fixed, *answer_words(text.answer, table, text.lang)}
    if attack.kind.source in ("nothing", "embeddings"):
        return []
    if attack.kind.source == "typos":
        rng = generator(seed, attack.label, text.id, "options")
        return typo_slots(text.text, text.lang, rng, fixed, attack.k)
    if attack.kind.search == "vote":
        # SUBTLE: evaluate.py cuts the table to k, then closes it; cut again its sets would differ
        return find_slots(text.text, table, text.lang, fixed)
    return find_slots(text.text, table, text.lang, fixed, attack.k)


def make_attacked(
    data: DataSet,
    queries: list[int],
    views: list[str],
    attack: Attack,
    tables: Tables,
    seed: int,
    fixed: Words = frozenset(),
) -> list[AttackedQuery]:
    """The queries that an attack is about to change: query by query, view by view.

    *Shapes*: tables: lang -> table, of the attack's source; `fixed` words stay as they are.
    """
    items = []
    for row, query in enumerate(queries):
        text = data.queries[query]
        slots = slots_of(text, attack, tables.get(text.lang, {}), seed, fixed)
        items += [AttackedQuery(row, view, text, list(slots)) for view in views]
    return items


def random_edits(items, attack, seed):
    """Redraw words: each one freely, or exactly as many as `edits` says."""
    for item in items:
        # SUBTLE: not of the view, so that all views see the same random query
        rng = generator(seed, attack.label, item.source.id)
        if attack.edits == 0:
            item.edits = draw_freely(item.slots, rng)
        else:
            item.edits = draw_edits(item.slots, item.most_edits(attack.edits), rng)


def search_edits(items, scorer, attack):
    """Search the edits of the smallest margin."""
    searched = [item for item in items if item.slots]
    if attack.kind.search == "exact":
        # Of all items: without a slot, it is the clean text that is certified
        searched = enumerate_all(items, scorer, attack)
    if not searched:
        return
    if attack.order == "scores":
        orders = leave_one_out(searched, scorer, attack)
    else:
        keep = HOTFLIP_KEEPS if attack.name == "hotflip" else None
        orders = gradient_orders(searched, scorer.encoder, scorer.pools, keep)
    beam_search(searched, scorer, attack, orders)


def worst_edits(items, scorer, attack):
    """`search_edits`, in the part of each text that the encoder reads."""
    parts = [readable_part(item, scorer.encoder) for item in items]
    search_edits(parts, scorer, attack)
    for item, part in zip(items, parts, strict=True):
        item.edits, item.asked = part.edits, part.asked
        item.exhaustive, item.worst = part.exhaustive, part.worst
        item.slots[: len(part.slots)] = part.slots  # HotFlip keeps some of their options


def vectors_now(items, encoder, attack, bar):
    """Vectors of the items' queries as the attack has left them (items, D)."""
    if attack.kind.source == "embeddings":
        return torch.stack([item.vector for item in items])
    return encode_once(encoder, [replace(item.source, text=item.text) for item in items], bar)


def attack_queries(
    items: list[AttackedQuery],
    encoder: Encoder,
    pools: Pools,
    attack: Attack,
    seed: int,
    bar: str = "",
) -> Tensor:
    """Attack every item -> its query's vectors (items, D); all else stands in the items."""
    assert attack.kind.search != "vote", f"{attack.name} changes no query: call smoothed()"
    if attack.kind.source == "embeddings":
        attack_embeddings(items, encoder, pools, attack, seed)
    elif attack.kind.search == "random":
        random_edits(items, attack, seed)
    else:
        worst_edits(items, Scorer(encoder, pools, bar), attack)
    return vectors_now(items, encoder, attack, bar)


def control_queries(
    items: list[AttackedQuery],
    twins: list[AttackedQuery],
    encoder: Encoder,
    attack: Attack,
    seed: int,
    bar: str = "",
) -> Tensor:
    """The control of a worst case: changes of the same size, drawn at random -> vectors (items, D).

    As many edits as each item's twin has, or noise of its norm; no ranking is looked at.
    """
    if attack.kind.source == "embeddings":
        control_embeddings(items, twins, encoder, attack, seed)
    else:
        for item, twin in zip(items, twins, strict=True):
            rng = generator(seed, attack.label, item.source.id, "control")
            slots = readable_part(item, encoder).slots  # where its twin was searched
            item.edits = draw_edits(slots, len(twin.edits), rng)
    return vectors_now(items, encoder, attack, bar)
