"""Fetches synonyms and a dictionary for the eleven languages of XQuAD-R, and keeps the good ones.

    OMW                       MUSE                           counter-fitted, English alone
    both in one synset        one English word is both       each is a neighbour of the other
                    \\_____________________|_______________________/
                     two of them agree: synonyms/LANG.json

As published, these sources offer "have -> birth", "在 -> 是", "had -> took": the question becomes
another one, and an attack blames the model for it. So no source is believed alone. The rules:

    1. A word is plain: letters of the language's script, no blank, two or more; in Thai four; in
       Vietnamese two syllables, with a blank; in Chinese the simplified characters.
    2. It is no function word: it stands in 1 % of its language's questions at most, and so do the
       English words that it translates. OMW has nouns, verbs, adjectives and adverbs alone.
    3. It is no fragment: a word that stands inside of a longer one in some question is no key.
    4. The replacement is no inflection or spelling of the same word, and not of another class.
    5. Two witnesses agree: a synset that has both; each English word that translates both (those
       with the same three first letters are one); a Chinese character, Vietnamese syllable or
       Thai word in common. For English: a synset or neighbours on both sides, and three
       dictionaries or more.
    6. They have one sense: the English words that they share are half of those of either. With a
       single one, neither has more than three synsets; without any that translates either, one.
       For English: two thirds of the dictionaries that know both agree.

Where to look next: readme.md here says how good the result is, ../fetch.py has the downloads,
attacks.py reads what is written.
Left out on purpose: inflecting a replacement. A lemma in the place of a plural breaks the grammar
and seldom the meaning.
Differs from Robust-XLT, which takes the counter-fitted neighbours as they are, and English alone.
"""

import argparse
import json
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from attacks import (
    Slot,
    Table,
    answer_words,
    clean_lemma,
    find_slots,
    find_words,
    is_mark,
    letters_of,
    lower,
    read_synonyms,
    substitute,
)
from data.fetch import SourceError, download, expect, publish, read_json, run
from xlt import Superfluous, Text, choose, generator, one_line, read_lines, read_texts

# ---- what was published --------------------------------------------------------------------------

MUSE_URL = "https://dl.fbaipublicfiles.com/arrival/dictionaries"
OMW_COMMIT = "291d2c211b767ff10c17a7eea22d521577001ff6"
OMW_URL = f"https://raw.githubusercontent.com/omwn/omw-data/{OMW_COMMIT}/wns/wikt"
NEIGHBOURS_COMMIT = "175cddb89c4e86c7152d0175db8f824f7f4e6bad"
NEIGHBOURS_URL = f"https://raw.githubusercontent.com/uclanlp/Robust-XLT/{NEIGHBOURS_COMMIT}"
NEIGHBOURS = "counterfitted_neighbors.json"
REMEDY = (
    f"Download {OMW_URL}/wn-wikt-LLL.tab to DIR/omw, {NEIGHBOURS_URL}/{NEIGHBOURS} to"
    f" DIR/counterfitted, {MUSE_URL}/en-LANG.txt to DIR/muse, change nothing, pass DIR as --source."
)
OMW_CODES = {  # languages of XQuAD-R
    "ar": "arb",
    "de": "deu",
    "el": "ell",
    "en": "eng",
    "es": "spa",
    "hi": "hin",
    "ru": "rus",
    "th": "tha",
    "tr": "tur",
    "vi": "vie",
    "zh": "cmn",
}
PUBLISHED_PAIRS = {  # of MUSE, where word and translation differ
    "ar": 31129,
    "de": 53193,
    "el": 45373,
    "es": 51041,
    "hi": 30726,
    "ru": 48880,
    "th": 9341,
    "tr": 28504,
    "vi": 6997,
    "zh": 21473,
}

# ---- the numbers of the rules --------------------------------------------------------------------

MOST_QUESTIONS = 0.01  # share of a language's questions; a word of more is no content word
MOST_REPLACEMENTS = 8  # a word, as in Robust-XLT's table
MOST_SENSES = 3  # synsets of a word, if just one English word tells what it means
FEWEST_DICTIONARIES = 3  # English: that translate both words by one
FEWEST_LETTERS = {"th": 4}  # of a word; 2 elsewhere
UNINFLECTED = ("th", "vi", "zh")
SCRIPTS = {  # how the Unicode names of their letters begin
    "ar": "ARABIC",
    "el": "GREEK",
    "hi": "DEVANAGARI",
    "ru": "CYRILLIC",
    "th": "THAI",
    "zh": "CJK",
}

Pair = tuple[str, str]  # two words as `lower` writes them, in their order


# ---- 1. reading ----------------------------------------------------------------------------------


@dataclass
class Lexicon:
    """What the sources say of one language's words, each as `lower` writes it."""

    lang: str
    synsets: dict[str, set[str]] = field(default_factory=dict)  # word -> ids
    # word -> those words of other languages that translate it, each with its language
    translations: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    neighbours: dict[str, set[str]] = field(default_factory=dict)  # English, counter-fitted
    spelling: dict[str, str] = field(default_factory=dict)  # word -> as it is written: hund -> Hund

    @property
    def words(self):
        """Every word that some source knows."""
        return self.synsets.keys() | self.translations.keys()


def lines_of(path: Path):
    """(place for a message, line) of a text file.

    *Errors*: SourceError for a file that is missing or no text.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    try:
        for number, line in read_lines(path):
            yield f"{path}:{number}", line
    except ValueError as error:
        raise SourceError(str(error).rstrip(".")) from error


def read_wordnet(path: Path, lexicon: Lexicon) -> None:
    """Add the synsets of a tab file of OMW; rows of other kinds than lemmas are passed over.

    *Errors*: SourceError for a row without three columns, and for a file without lemmas.
    """
    kind = f"{OMW_CODES[lexicon.lang]}:lemma"
    for where, line in lines_of(path):
        if line.startswith("#"):
            continue
        cells = line.split("\t")
        expect(where, f"columns of {one_line(line)!r}", 3, len(cells))
        synset, row_kind, lemma = cells
        lemma = clean_lemma(lemma)
        if row_kind == kind and lemma:
            word = lower(lemma, lexicon.lang)
            lexicon.synsets.setdefault(word, set()).add(synset)
            lexicon.spelling.setdefault(word, lemma)  # of Essen and essen the first row's
    if not lexicon.synsets:
        raise SourceError(f"{path}: has no row of the kind {kind}")


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(English word, translation) of a dictionary of MUSE, without those that are the same: names.

    *Errors*: SourceError for a row without two columns.
    """
    pairs = []
    for where, line in lines_of(path):
        cells = line.split()  # a blank or a TAB
        expect(where, f"columns of {one_line(line)!r}", 2, len(cells))
        if cells[0] != cells[1]:
            pairs.append((cells[0], cells[1]))
    return pairs


def dictionary_file(folder: Path, lang: str) -> Path:
    """en-LANG.txt, as published, or en-LANG.tsv."""
    table = folder / f"en-{lang}.tsv"
    if table.exists():
        return table
    return folder / f"en-{lang}.txt"


def read_neighbours(path: Path) -> dict[str, set[str]]:
    """word -> its counter-fitted neighbours.

    *Errors*: SourceError for what is not JSON of the form {"word": ["other", ...]}.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise SourceError(f"{path}: is no JSON object")
    neighbours = {}
    for word, others in content.items():
        if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
            raise SourceError(f"{path}: {word!r} must have a list of words")
        neighbours[lower(word)] = {lower(other) for other in others}
    return neighbours


def read_lexica(
    source: Path, langs: list[str], dictionaries: dict[str, list[Pair]]
) -> dict[str, Lexicon]:
    """lang -> lexicon, from omw/ and counterfitted/ and the dictionaries that were read."""
    lexica = {lang: Lexicon(lang) for lang in langs}
    for lang, lexicon in lexica.items():
        read_wordnet(source / "omw" / f"wn-wikt-{OMW_CODES[lang]}.tab", lexicon)
    english = lexica["en"]
    english.neighbours = read_neighbours(source / "counterfitted" / NEIGHBOURS)
    for lang, pairs in dictionaries.items():
        for english_word, translation in pairs:
            word = lower(translation, lang)
            english_word = lower(english_word)
            lexica[lang].translations.setdefault(word, set()).add(("en", english_word))
            english.translations.setdefault(english_word, set()).add((lang, word))
    return lexica


# ---- 2. which words may be replaced at all -------------------------------------------------------


def is_plain(word: str, lang: str) -> bool:
    """Letters of the language's script alone, and enough of them.

    Two letters; in Thai, four, since shorter words stand inside of others; in Vietnamese, two
    syllables, since most single ones are a part of a word. Chinese is the simplified one.
    """
    script = SCRIPTS.get(lang, "LATIN")
    syllables = word.split(" ")
    if len(letters_of(word)) < FEWEST_LETTERS.get(lang, 2):
        return False
    if (len(syllables) > 1) != (lang == "vi"):
        return False
    for char in "".join(syllables):
        is_letter = char.isalpha() and unicodedata.name(char, "").startswith(script)
        if not (is_letter or is_mark(char)):
            return False
    return lang != "zh" or is_simplified(word)


def is_simplified(word: str) -> bool:
    """Are all characters among those of GB 2312, the list of simplified Chinese of 1980?"""
    try:
        word.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def bare(word: str, lang: str) -> str:
    """A word without accents, and in Arabic without article and the endings of adjectives.

    bare("größer", "de") -> "grosser"
    """
    word = word.replace("ß", "ss")
    if lang == "ar":
        word = word.removeprefix("ال").removesuffix("ة").removesuffix("ي")
    letters = unicodedata.normalize("NFD", word)
    return "".join(char for char in letters if not is_mark(char))


def is_variant(word: str, other: str, lang: str) -> bool:
    """Is it an inflection or a spelling of the same word, as far as the letters tell?

    True for "control" and "controlling", where four letters at most follow; for "lose" and
    "losing", where the first three or more are the same and three at most are left of either
    """
    first, second = sorted((bare(word, lang), bare(other, lang)), key=len)
    if first == second:
        return True
    if lang in UNINFLECTED:
        return False
    if second.startswith(first) and len(second) - len(first) <= 4:
        return True
    shared = 0
    for letter, other_letter in zip(first, second, strict=False):
        if letter != other_letter:
            break
        shared += 1
    return shared >= max(3, len(second) - 3)


def words_in(questions: list[Text], words: Collection[str]) -> set[str]:
    """Those of the words whose letters occur in the questions: the others need no search."""
    text = "\n".join(lower(question.text, question.lang) for question in questions)
    return {word for word in words if word in text}


def frequent_words(questions: list[Text], words: set[str]) -> set[str]:
    """Those of the words that stand in more than 1 % of the questions, of one language."""
    words = words_in(questions, words)
    counts = Counter()
    for question in questions:
        spans = find_words(question.text, words, question.lang)
        counts.update({lower(question.text[start:end], question.lang) for start, end in spans})
    most = MOST_QUESTIONS * len(questions)
    return {word for word, count in counts.items() if count > most}


def content_words(lexicon: Lexicon, questions: list[Text], frequent_english: set[str]) -> set[str]:
    """The plain words of a lexicon that are frequent neither here nor in English."""
    frequent = frequent_words(questions, lexicon.words)
    functions = {("en", word) for word in frequent_english}
    words = set()
    for word in lexicon.words - frequent:
        translates_one = not functions.isdisjoint(lexicon.translations.get(word, ()))
        if is_plain(word, lexicon.lang) and not translates_one:
            words.add(word)
    return words


def fragments(questions: list[Text], keys: set[str], words: set[str]) -> set[str]:
    """Keys that stand, in some question, inside of a longer word of the language.

    หมา (dog) in ความหมาย (meaning)
    """
    keys, words = words_in(questions, keys), words_in(questions, words)
    inside = set()
    for question in questions:
        text, lang = question.text, question.lang
        longer = find_words(text, words, lang)
        for start, end in find_words(text, keys, lang):
            for left, right in longer:
                if left <= start and end <= right and right - left > end - start:
                    inside.add(lower(text[start:end], lang))
    return inside


# ---- 3. which of them mean the same --------------------------------------------------------------


def candidates(lexicon: Lexicon, words: set[str]) -> set[Pair]:
    """Pairs of words that a synset, a translation or a neighbour brings together."""
    groups = {}  # synset or translation -> words
    for word in words:
        for synset in lexicon.synsets.get(word, ()):
            groups.setdefault(synset, set()).add(word)
        for translation in lexicon.translations.get(word, ()):
            groups.setdefault(translation, set()).add(word)
    pairs = set()
    for group in groups.values():
        pairs.update(combinations(sorted(group), 2))
    for word, others in lexicon.neighbours.items():
        for other in others:
            if word in words and other in words:
                pairs.add((min(word, other), max(word, other)))
    return pairs


def share_a_part(word: str, other: str, lang: str) -> bool:
    """Is a Chinese character, a Vietnamese syllable or all of a Thai word in the other one, too?"""
    if lang == "zh":
        return not set(word).isdisjoint(other)
    if lang == "vi":
        return not set(word.split()).isdisjoint(other.split())
    if lang == "th":
        return word in other or other in word
    return False


def differ_in_class(word: str, other: str, lexicon: Lexicon) -> bool:
    """Is one a noun, say, and the other none? An id ends in its class: 00006032-a, an adjective."""
    classes = {synset[-1] for synset in lexicon.synsets.get(word, ())}
    other_classes = {synset[-1] for synset in lexicon.synsets.get(other, ())}
    return bool(classes) and bool(other_classes) and classes.isdisjoint(other_classes)


def agree(word: str, other: str, lexicon: Lexicon) -> int:
    """How many witnesses say that two words mean the same; 0 for less than two, or other senses.

    Not for English. {season, seasons} are one English word and {begin, start} are two: it is the
    first three letters that count.
    """
    synsets = lexicon.synsets.get(word, set())
    other_synsets = lexicon.synsets.get(other, set())
    translations = lexicon.translations.get(word, set())
    other_translations = lexicon.translations.get(other, set())
    shared = translations & other_translations
    english_words = {english[:3] for _, english in shared}
    most_senses = max(len(synsets), len(other_synsets))
    # Rule 6. No English word in common: one synset each, and the same one. The next line then asks
    # that neither has an English word at all; the second witness is a part, in zh, vi and th alone
    if not shared and (most_senses > 1 or not synsets & other_synsets):
        return 0
    # Half of the English words of each, or more, are in common
    if 2 * len(shared) < max(len(translations), len(other_translations)):
        return 0
    # One English word says little about words of many senses
    if len(english_words) == 1 and most_senses > MOST_SENSES:
        return 0
    # Rule 5: the witnesses
    count = len(english_words)
    if synsets & other_synsets:
        count += 1
    if share_a_part(word, other, lexicon.lang):
        count += 1
    if count < 2:
        return 0
    return count


def agree_in_english(word: str, other: str, english: Lexicon) -> int:
    """How many dictionaries say that two words mean the same; 0 if they are few, or alone.

    Beside them: a synset of both, or each word is a counter-fitted neighbour of the other one.
    """
    share_synset = english.synsets.get(word, set()) & english.synsets.get(other, set())
    is_neighbour = other in english.neighbours.get(word, ())
    are_neighbours = is_neighbour and word in english.neighbours.get(other, ())
    if not share_synset and not are_neighbours:
        return 0
    translations = english.translations.get(word, set())
    other_translations = english.translations.get(other, set())
    agreeing = {lang for lang, _ in translations & other_translations}
    of_word = {lang for lang, _ in translations}
    of_both = of_word & {lang for lang, _ in other_translations}
    if len(agreeing) < FEWEST_DICTIONARIES or 3 * len(agreeing) < 2 * len(of_both):
        return 0
    return len(agreeing)


def synonyms(lexicon: Lexicon, questions: list[Text], frequent_english: set[str]) -> Table:
    """word -> replacements, those with the most witnesses first."""
    words = content_words(lexicon, questions, frequent_english)
    counts = {}  # word -> replacement -> witnesses
    for word, other in candidates(lexicon, words):
        if is_variant(word, other, lexicon.lang) or differ_in_class(word, other, lexicon):
            continue
        if lexicon.lang == "en":
            count = agree_in_english(word, other, lexicon)
        else:
            count = agree(word, other, lexicon)
        if count > 0:
            counts.setdefault(word, {})[other] = count
            counts.setdefault(other, {})[word] = count
    keys = set(counts)
    inside = fragments(questions, keys, lexicon.words)
    while inside:  # a key that goes may have hidden a shorter one
        keys -= inside
        inside = fragments(questions, keys, lexicon.words)
    table = {}
    for word in sorted(keys):
        ranked = sorted(counts[word], key=lambda other: (-counts[word][other], other))
        best = ranked[:MOST_REPLACEMENTS]
        table[word] = [lexicon.spelling.get(other, other) for other in best]
    return table


# ---- 4. how much of the folder it reaches --------------------------------------------------------


def slots_of(question: Text, table: Table) -> list[Slot]:
    """The words of a question that an attack may replace, without the answer's."""
    fixed = answer_words(question.answer, table, question.lang)
    return find_slots(question.text, table, question.lang, fixed)


def coverage_line(questions: list[Text], table: Table, lang: str) -> str:
    """words, replacements, share of questions with a replaceable word, such words a question."""
    present = words_in(questions, table.keys())
    occurring = {word: table[word] for word in present}  # the same slots, found faster
    counts = [len(slots_of(question, occurring)) for question in questions]
    reached = sum(count > 0 for count in counts) / max(1, len(counts))
    mean = sum(counts) / max(1, len(counts))
    replacements = sum(map(len, table.values()))
    return (
        f"{lang}: {len(table)} words, {replacements} replacements;"
        f" {len(questions)} questions, {reached:.1%} have a replaceable word, {mean:.2f} a question"
    )


def sample_lines(questions: list[Text], table: Table, lang: str, n: int, seed: int) -> list[str]:
    """n questions, each with one word and its replacement, all drawn: to read them.

    What is the [town -> city]'s oldest church?
    """
    rng = generator(seed, "sample", lang)
    reachable = [question for question in questions if slots_of(question, table)]
    lines = []
    while reachable and len(lines) < n:
        question = choose(reachable, rng)
        reachable.remove(question)
        slot = choose(slots_of(question, table), rng)
        word = question.text[slot.start : slot.end]
        change = f"[{word} -> {choose(slot.options, rng)}]"
        lines.append(f"{lang}: {one_line(substitute(question.text, {slot.span: change}), 400)}")
    return lines


# ---- 5. the files --------------------------------------------------------------------------------


def read_questions(folder: Path) -> dict[str, list[Text]]:
    """lang -> the questions of a data-set folder.

    *Errors*: ValueError for a folder without queries.jsonl, or with rows that are none.
    """
    questions = {}
    for question in read_texts(folder / "queries.jsonl", Superfluous()):
        questions.setdefault(question.lang, []).append(question)
    return questions


def fetch(folder: Path) -> Path:
    """Fetch all files into omw/, counterfitted/ and muse/ of a folder and return it."""
    for name in ("omw", "counterfitted", "muse"):
        (folder / name).mkdir()
    for code in OMW_CODES.values():
        name = f"wn-wikt-{code}.tab"
        download(f"{OMW_URL}/{name}", folder / "omw" / name)
    download(f"{NEIGHBOURS_URL}/{NEIGHBOURS}", folder / "counterfitted" / NEIGHBOURS)
    for lang in PUBLISHED_PAIRS:
        download(f"{MUSE_URL}/en-{lang}.txt", folder / "muse" / f"en-{lang}.txt")
    return folder


def read_dictionaries(folder: Path) -> dict[str, list[Pair]]:
    """lang -> its pairs with English.

    *Errors*: SourceError for a number of pairs that is not the published one.
    """
    dictionaries = {}
    for lang, published in PUBLISHED_PAIRS.items():
        path = dictionary_file(folder, lang)
        dictionaries[lang] = read_pairs(path)
        expect(path, "pairs of different words", published, len(dictionaries[lang]))
    return dictionaries


def build(source: Path, questions: dict[str, list[Text]]) -> dict[str, list[str]]:
    """File name -> lines, for a data set's folder; prints what the tables reach.

    *Errors*: SourceError for what is missing or not as published.
    """
    dictionaries = read_dictionaries(source / "muse")
    lexica = read_lexica(source, list(OMW_CODES), dictionaries)
    frequent_english = frequent_words(questions.get("en", []), lexica["en"].words)
    files = {}
    for lang, lexicon in lexica.items():
        asked = questions.get(lang, [])
        table = synonyms(lexicon, asked, frequent_english)
        print(coverage_line(asked, table, lang), flush=True)
        files[f"synonyms/{lang}.json"] = [json.dumps(table, ensure_ascii=False, indent=0)]
    rows = []
    for lang, pairs in dictionaries.items():
        rows += [f"en\t{lang}\t{word}\t{translation}" for word, translation in pairs]
    print(f"dictionary: {len(rows)} pairs")
    return files | {"dictionary.tsv": rows}


def prepare(source: Path | None, into: Path) -> None:
    """Fetch or read, choose, measure, write."""
    questions = read_questions(into)
    with tempfile.TemporaryDirectory() as folder:  # the download goes, whatever happens
        if source is None:
            source = fetch(Path(folder))
        publish(into, build(source, questions))
    print(f"wrote {into}/synonyms and {into}/dictionary.tsv")


def print_sample(folder: Path, n: int, seed: int) -> None:
    """n replaced questions of each language that has a table."""
    tables = read_synonyms(folder)
    questions = read_questions(folder)
    for lang, table in tables.items():
        for line in sample_lines(questions.get(lang, []), table, lang, n, seed):
            print(line)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(description="Synonyms and a dictionary", allow_abbrev=False)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--into", type=Path, metavar="DIR", required=True, help="data-set folder with queries")
    add("--source", type=Path, metavar="DIR", help="holds omw, counterfitted, muse; or fetch them")
    # to read what the tables do
    add("--sample", type=int, metavar="N", default=0, help="print N replaced questions a language")
    add("--seed", type=int, default=0, help="which ones, from 0")
    args = parser.parse_args(argv)
    if args.source and not args.source.is_dir():
        parser.error(f"--source {args.source} is not a folder. Give the one that holds omw")
    if args.sample < 0:
        parser.error(f"--sample {args.sample} is negative. Give a number of questions")
    if args.sample:
        return run(partial(print_sample, args.into, args.sample, args.seed), REMEDY)
    return run(partial(prepare, args.source, args.into), REMEDY)


if __name__ == "__main__":
    sys.exit(main())
