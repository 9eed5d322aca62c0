"""minifacts: a parallel question-answering corpus in 11 languages, from a hand-written lexicon.

    facts.tsv            france  capital  paris            entity, relation, value
    LANG/terms.tsv       france  Frankreich  Frankreichs   a name and its inflected forms
    LANG/wordings.tsv    country.capital  q  "Wie heißt die Hauptstadt {e.gen}?"
      -> queries.jsonl   "Wie heißt die Hauptstadt Frankreichs?"   one a fact and language, in
                                                                   training one a wording
                         "Hauptstadt Frankreich"                   one a fact and language
      -> corpus.jsonl    "Die Hauptstadt Frankreichs ist Paris."   one a fact and language

Where to look next: lexicon/ is the source, `render` fills a wording, `render_language` makes all
texts of a language, `check_sentences` and `check_words` say what a good world is.
Left out on purpose: random numbers. Every choice (split, wording, order) is a hash of a name.

    python data/minifacts/prepare.py                          write the data-set folder (15 seconds)
    python data/minifacts/prepare.py --check de --sample 9    check German, print nine facts
"""

import argparse
import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from attacks import find_words, lower, match_case
from xlt import SPLITS

LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
# A language's letters must be in its script; symbols such as Fe and .fr are constants and exempt
SCRIPTS = {  # the others are written in Latin letters
    "ar": "ARABIC",
    "el": "GREEK",
    "hi": "DEVANAGARI",
    "ru": "CYRILLIC",
    "th": "THAI",
    "zh": "CJK",
}
STATEMENT_ENDS = {"hi": "।", "th": "", "zh": "。"}  # elsewhere "."
QUESTION_ENDS = {"ar": "؟", "el": ";", "th": "", "zh": "？"}  # elsewhere "?"
SHARES = {"test": 0.125, "dev": 0.08}  # of the facts of each relation, rounded, at least one
# Kinds of wordings, and how many of each a relation and language have: questions, statements, and
# short queries as people type them: "capital of France"
MIN_WORDINGS = {"q": 3, "s": 3, "k": 1}
MIN_SYNONYMS = 150  # words of a language with a replacement, and words with a translation
MIN_FILLERS = 4  # words of a language that a filler may stand by
# Relations whose entities have proper names: no words for a dictionary
PROPER_NAMES = ("country", "city", "planet", "invention", "book", "month")

SLOT = re.compile(r"\{([ev])(?:\.(\w+))?\}")  # {e} or {e.gen}
# [e.g m:был|*:была]: by the entity's column g, its gender: был where that holds m, else была
CHOICE = re.compile(r"\[([ev])(?:\.(\w+))? ([^\]]*)\]")


class Fact(NamedTuple):
    id: str  # entity.relation, the group that ties all languages together
    entity: str  # a term id
    relation: str  # domain.relation
    value: str  # a term id, or =constant, or #number
    split: str = ""


class Lexicon(NamedTuple):
    lang: str
    terms: dict[str, dict[str, str]]  # id -> column -> form
    wordings: dict[tuple[str, str], list[str]]  # (relation, "q", "s" or "k") -> templates
    synonyms: dict[str, list[str]]  # word -> replacements
    fillers: dict[str, list[str]]  # "which" -> ["exactly which"]; no synonyms: see readme.md
    words: dict[str, str]  # English word -> translation


# ---- reading the lexicon -------------------------------------------------------------------------


def stable_hash(*names) -> int:
    """A number that is the same on every machine (Python's own hash() is not).

    *Units*: 0 to 2**64 - 1.
    """
    text = "/".join(str(name) for name in names)
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big")


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a tab-separated file without comments and empty lines.

    *Errors*: ValueError for a file that is missing.
    """
    if not path.exists():
        raise ValueError(
            f"{path}: no such file. Every language needs it: see data/minifacts/readme.md"
        )
    text = path.read_text(encoding="utf-8")
    # SUBTLE: not splitlines(): it would also cut at U+2028 and friends inside a text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [cell.strip() for cell in line.split("\t")]


def held_out_splits(count):
    """The splits that facts of a relation are held out for: 16 facts -> test, test, dev."""
    splits = []
    for split, share in SHARES.items():
        splits += [split] * max(1, round(share * count))
    return splits


def assign_splits(facts):
    """Give every fact its split; the entity of a held-out fact stays in training."""
    by_relation = {}
    for fact in facts:
        by_relation.setdefault(fact.relation, []).append(fact)
    in_training = Counter(fact.entity for fact in facts)  # its facts that are not held out so far
    split_of = {}
    for members in by_relation.values():
        wanted = held_out_splits(len(members))
        hashes = {fact: stable_hash(fact.id) for fact in members}
        for fact in sorted(members, key=hashes.get):
            # SUBTLE: an entity keeps one fact in training, or the test asks for an unknown name
            if wanted and in_training[fact.entity] > 1:
                split_of[fact] = wanted.pop(0)
                in_training[fact.entity] -= 1
    return [fact._replace(split=split_of.get(fact, "train")) for fact in facts]


def read_facts(path: Path = HERE / "lexicon" / "facts.tsv") -> list[Fact]:
    """Read the domain tables and give every fact its split.

        @ country   capital   phone
        france      paris     =+33     -> france.capital, france.phone

    *Errors*: ValueError for a ragged row or an entity that is listed twice.
    """
    facts = []
    entities = set()
    domain, relations = "", []
    for number, cells in read_rows(path):
        entity, *values = cells
        if entity.startswith("@"):
            domain, relations = entity[1:].strip(), values
            continue
        if len(values) != len(relations) or entity in entities:
            raise ValueError(f"{path}:{number}: {entity!r} stands twice or has not {relations}.")
        entities.add(entity)
        for relation, value in zip(relations, values, strict=True):
            if value != "-":  # "-" marks a fact that is disputed, unstable or not unique
                facts.append(Fact(f"{entity}.{relation}", entity, f"{domain}.{relation}", value))
    return assign_splits(facts)


def read_terms(path):
    """Term id -> column -> form; an empty cell repeats the first column."""
    table = list(read_rows(path))
    _, header = table[0]
    columns = header[1:]
    terms = {}
    for number, (term, *forms) in table[1:]:
        if term in terms or not forms or not forms[0] or len(forms) > len(columns):
            raise ValueError(f"{path}:{number}: {term!r} is double, empty or too wide.")
        terms[term] = dict.fromkeys(columns, forms[0])
        for column, form in zip(columns, forms, strict=False):  # short rows end in empty cells
            if form:
                terms[term][column] = form
    return terms


def read_wordings(path):
    """(relation, kind) -> its templates."""
    wordings = {}
    for number, cells in read_rows(path):
        if len(cells) != 3 or cells[1] not in MIN_WORDINGS:
            raise ValueError(f"{path}:{number}: {cells} is not relation, q|s|k, text.")
        relation, kind, template = cells
        wordings.setdefault((relation, kind), []).append(template)
    return wordings


def read_synonyms(path):
    """Word -> its replacements."""
    synonyms = {}
    for number, (word, *replacements) in read_rows(path):
        if word in synonyms:
            raise ValueError(f"{path}:{number}: {word!r} stands twice.")
        synonyms[word] = [replacement for replacement in replacements if replacement]
    return synonyms


def read_words(path):
    """English word -> its translation."""
    words = {}
    for number, cells in read_rows(path):
        if len(cells) != 2 or cells[0] in words:
            raise ValueError(f"{path}:{number}: {cells} is not word, translation, or stands twice.")
        words[cells[0]] = cells[1]
    return words


def read_lexicon(lang: str) -> Lexicon:
    """Read one language's files.

    *Errors*: ValueError for a file that is missing, and for a row that says nothing or too much.
    """
    folder = HERE / "lexicon" / lang
    terms = read_terms(folder / "terms.tsv")
    wordings = read_wordings(folder / "wordings.tsv")
    synonyms = read_synonyms(folder / "synonyms.tsv")
    fillers = read_synonyms(folder / "fillers.tsv")
    words = {}
    if lang != "en":
        words = read_words(folder / "words.tsv")
    return Lexicon(lang, terms, wordings, synonyms, fillers, words)


# ---- from a template to a sentence ---------------------------------------------------------------


def first_form(forms):
    """A term's form in the first column."""
    return next(iter(forms.values()))


def slot_text(slot: str, column: str | None, fact: Fact, lexicon: Lexicon) -> str:
    """What stands in a slot: a constant as it is, else a form of the entity or the value.

        slot_text("e", "gen", FRANCE_CAPITAL, GERMAN) -> "Frankreichs"     no column: the first

    *Errors*: ValueError for a term or a column that the lexicon lacks.
    """
    term = fact.value
    if slot == "e":
        term = fact.entity
    if term[0] in "=#":
        return term[1:]
    forms = lexicon.terms.get(term, {})
    if forms and not column:
        return first_form(forms)
    if column not in forms:
        raise ValueError(f"{lexicon.lang}/terms.tsv: {term!r} has no column {column!r}.")
    return forms[column]


def capitalize(text, lang):
    """A capital at the first letter or digit, e.g. behind an opening "¿"."""
    start = 0
    while start < len(text) and not text[start].isalnum():
        start += 1
    return text[:start] + match_case("A", text[start:], lang)


def fill(template: str, fact: Fact, lexicon: Lexicon) -> str:
    """Fill one wording for one fact; its first letter stays as it is.

        {e} {v}            first column of entity and value        {e.gen}  another column
        [e.g m:был|*:была]  the text whose key is that column's content; * is the rest

    *Errors*: ValueError that names language, relation, template and the slot that cannot be filled.
    """

    def fill_choice(match):
        slot, column, content = match.groups()
        options = dict(option.split(":", 1) for option in content.split("|"))
        key = slot_text(slot, column, fact, lexicon)
        if key in options:
            return options[key]
        if "*" in options:
            return options["*"]
        raise ValueError(f"{lexicon.lang} {fact.id}: {key!r} has no choice in {template!r}")

    def fill_slot(match):
        slot, column = match.groups()
        return slot_text(slot, column, fact, lexicon)

    text = CHOICE.sub(fill_choice, template)  # first: an option may hold a slot
    return SLOT.sub(fill_slot, text)


def render(template: str, fact: Fact, lexicon: Lexicon) -> str:
    """`fill`, with a capital at the beginning."""
    return capitalize(fill(template, fact, lexicon), lexicon.lang)


def sentences(fact: Fact, kind: str, lexicon: Lexicon) -> list[str]:
    """All wordings for this fact and language, rotated by a hash: b, c, a."""
    templates = lexicon.wordings[fact.relation, kind]
    start = stable_hash(fact.id, kind, lexicon.lang) % len(templates)
    return [render(text, fact, lexicon) for text in templates[start:] + templates[:start]]


def sentence(fact: Fact, kind: str, lexicon: Lexicon) -> str:
    """The first of `sentences`: the one that is used, but for a training fact's questions."""
    return sentences(fact, kind, lexicon)[0]


def short_query(fact: Fact, lexicon: Lexicon) -> str:
    """What people type into a search box, without a capital at the beginning."""
    (template,) = lexicon.wordings[fact.relation, "k"]
    return fill(template, fact, lexicon)


def paragraph(fact, entity_facts, statement_of, lang):
    """The statements about the fact's entity that stand around its own, in an order of hashes."""
    # SUBTLE: a training fact's paragraph must not tell a held-out one: it holds the entity's
    # training facts alone, that of a test fact those and the entity's other test facts
    told = [other for other in entity_facts if other.split in ("train", fact.split)]
    hashes = {other: stable_hash("order", other.id, lang) for other in told}
    blank = " "
    if lang == "zh":
        blank = ""
    return blank.join(statement_of[other] for other in sorted(told, key=hashes.get))


def query_ids(number: int, fact: Fact, lang: str) -> list[str]:
    """The ids of a fact's queries in one language: its questions', then that of the short query.

    A training fact is asked in all wordings: q7.de, q7b.de, q7c.de, k7.de. Another: q7.de, k7.de.
    """
    suffixes = [""]
    if fact.split == "train":
        suffixes = ["", "b", "c"]
    return [f"q{number}{suffix}.{lang}" for suffix in suffixes] + [f"k{number}.{lang}"]


def query_rows(number, fact, lexicon):
    """A fact's rows of queries.jsonl in one language."""
    ids = query_ids(number, fact, lexicon.lang)
    questions = sentences(fact, "q", lexicon)[: len(ids) - 1]
    rows = []
    for query_id, text in zip(ids, [*questions, short_query(fact, lexicon)], strict=True):
        form = "short" if query_id.startswith("k") else "question"
        row = {
            "_id": query_id,
            "lang": lexicon.lang,
            "text": text,
            "group": fact.id,
            "answer": slot_text("v", "", fact, lexicon),
            "form": form,
        }
        rows.append(row)
    return rows


def render_language(facts: list[Fact], lexicon: Lexicon) -> tuple[list[dict], list[dict]]:
    """One language's rows of corpus.jsonl and of queries.jsonl, in the order of the facts."""
    lang = lexicon.lang
    statement_of = {fact: sentence(fact, "s", lexicon) for fact in facts}
    by_entity = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    passages = []
    queries = []
    for number, fact in enumerate(facts):
        passage = {
            "_id": f"p{number}.{lang}",
            "lang": lang,
            "text": statement_of[fact],
            "context": paragraph(fact, by_entity[fact.entity], statement_of, lang),
            "group": fact.id,
        }
        passages.append(passage)
        queries += query_rows(number, fact, lexicon)
    return passages, queries


# ---- what a good world is ------------------------------------------------------------------------


def foreign_letters(text, lang):
    """The letters of a text that are not in the language's script."""
    script = SCRIPTS.get(lang, "LATIN")
    letters = [char for char in text if char.isalpha()]
    return [char for char in letters if not unicodedata.name(char, "?").startswith(script)]


def check_slots(template, fact, kind, lang):
    """A query names the entity, a statement entity and value; choices come on top of that."""
    expected = ["e"]
    if kind == "s":
        expected = ["e", "v"]
    outside = re.sub(r"\[[^\]]*\]", "", template)
    slots = sorted(re.findall(r"\{([ev])[.\w]*\}", outside))
    if slots != expected:
        yield f"{lang} {fact.relation} {kind}: slots {slots} in {template!r}"


def check_text(text, fact, kind, lang):
    """A text is in its script, has all slots filled, no double blank, and ends as it should."""
    end = STATEMENT_ENDS.get(lang, ".")
    if kind == "q":
        end = QUESTION_ENDS.get(lang, "?")
    if kind == "k":
        end = ""
        if text[-1] in ".?;؟？。।":
            yield f"{lang} {fact.id}: a short query ends in {text[-1]!r}: {text!r}"
    without_symbol = text
    if fact.value[0] == "=":
        without_symbol = text.replace(fact.value[1:], "")  # it is the same in every script
    letters = foreign_letters(without_symbol, lang)
    if letters or re.search(r"[{}\[\]|]|  ", text) or not text.endswith(end):
        yield f"{lang} {fact.id}: letters {letters}, a {{, blanks or no {end!r}: {text!r}"


def check_sentences(facts: list[Fact], lexicon: Lexicon) -> Iterator[str]:
    """Render every wording of every fact; yield what is wrong with it."""
    lang = lexicon.lang
    asker_of = {}  # question -> id of the first fact that asks it
    for fact in facts:
        for kind, wanted in MIN_WORDINGS.items():
            templates = lexicon.wordings.get((fact.relation, kind), [])
            if len(templates) < wanted:
                yield f"{lang} {fact.relation} {kind}: {len(templates)} wordings, needs {wanted}"
            for template in templates:
                yield from check_slots(template, fact, kind, lang)
                try:
                    text = fill(template, fact, lexicon)
                except ValueError as error:
                    yield str(error)
                    continue
                yield from check_text(text, fact, kind, lang)
                if kind != "s" and asker_of.setdefault(text, fact.id) != fact.id:
                    yield f"{lang}: {text!r} asks for {asker_of[text]} and for {fact.id}"


def spell_choices(match):
    """All options of a choice, without their keys: "[e.g m:был|*:была]" -> " был была"."""
    return re.sub(r"(?:^|\|)[^:|]*:", " ", match[3])


def fixed_text(template):
    """A template's words without its slots, choices spelled out: for looking up synonyms."""
    text = CHOICE.sub(spell_choices, template)
    return re.sub(r"\{[^}]*\}", " | ", text)  # a bar, so that no word is found across a slot


def occurs(word, texts, lang):
    """Does one of the texts hold the word as a whole?"""
    for text in texts:
        # The first condition is cheap, and mostly false
        if word in text and find_words(text, {word}, lang):
            return True
    return False


@dataclass(frozen=True)
class Lowered:
    """What the synonyms of a language are looked up in, in lower case."""

    templates: list[str]
    names: set[str]  # all forms of all terms
    entity_names: set[str]  # of the entities among them


def lower_all(facts, lexicon):
    """The language's templates and names in lower case."""
    lang = lexicon.lang
    templates = [lower(fixed_text(text), lang) for text in chain(*lexicon.wordings.values())]
    entities = {fact.entity for fact in facts}
    names = set()
    entity_names = set()
    for term, forms in lexicon.terms.items():
        lowered_forms = [lower(form, lang) for form in forms.values()]
        names.update(lowered_forms)
        if term in entities:
            entity_names.update(lowered_forms)
    return Lowered(templates, names, entity_names)


def check_replaced(what, word, replacements, lang, lowered):
    """Yield what is wrong with one word of the synonyms or of the fillers."""
    repeats = len(set(replacements)) < len(replacements)
    if not replacements or word in replacements or word != lower(word, lang) or repeats:
        yield f"{lang} {what} {word!r}: not lower case, or bad replacements {replacements}"
    if not occurs(word, lowered.templates, lang):
        yield f"{lang} {what} {word!r} occurs in no wording"
    if word in lowered.names or occurs(word, lowered.entity_names, lang):
        yield f"{lang} {what} {word!r} is part of a name or a value"
    letters = foreign_letters("".join(replacements), lang)
    if letters:
        yield f"{lang} {what} {word!r}: foreign letters {letters}"


def check_fillers(lexicon, lowered):
    """Yield what is wrong with the fillers of one language; a filler is no synonym, too."""
    lang = lexicon.lang
    if len(lexicon.fillers) < MIN_FILLERS:
        yield f"{lang}: {len(lexicon.fillers)} words with a filler, needs {MIN_FILLERS}"
    for word, replacements in lexicon.fillers.items():
        yield from check_replaced("filler", word, replacements, lang, lowered)
        both = set(replacements) & set(lexicon.synonyms.get(word, []))
        if both:
            yield f"{lang} filler {word!r}: {sorted(both)} are synonyms, too"


def check_words(facts: list[Fact], lexicon: Lexicon) -> Iterator[str]:
    """Yield what is wrong with synonyms, fillers and dictionary words of one language."""
    lang = lexicon.lang
    if len(lexicon.synonyms) < MIN_SYNONYMS:
        yield f"{lang}: {len(lexicon.synonyms)} synonyms, needs {MIN_SYNONYMS}"
    lowered = lower_all(facts, lexicon)
    for word, replacements in lexicon.synonyms.items():
        yield from check_replaced("synonym", word, replacements, lang, lowered)
    replacements = list(chain(*lexicon.synonyms.values()))
    unseen = sum(not occurs(lower(word, lang), lowered.templates, lang) for word in replacements)
    if unseen < 0.6 * len(replacements):
        yield f"{lang}: only {unseen} of {len(replacements)} replacements occur in no wording"
    yield from check_fillers(lexicon, lowered)
    if lang != "en" and len(lexicon.words) < MIN_SYNONYMS:
        yield f"{lang}: {len(lexicon.words)} words, needs {MIN_SYNONYMS}"


def verify(facts: list[Fact], lexicon: Lexicon) -> list[str]:
    """All that is wrong with one language, as sentences; an empty list is a good language."""
    english = {cells[0] for _, cells in read_rows(HERE / "lexicon" / "en" / "terms.tsv")}
    english.discard("id")  # of the header
    problems = []
    for term in sorted(english ^ set(lexicon.terms)):
        problems.append(f"{lexicon.lang}: {term!r} is missing in terms.tsv or in en/terms.tsv")
    problems += check_sentences(facts, lexicon)
    problems += check_words(facts, lexicon)
    return list(dict.fromkeys(problems))


# ---- writing the data-set folder -----------------------------------------------------------------


def common_nouns(facts, english):
    """English name -> entity, for names that are words: "tiger", but not "France"."""
    entities_of = {}
    for fact in facts:
        if not fact.relation.startswith(PROPER_NAMES):
            name = english.terms[fact.entity]["name"]
            entities_of.setdefault(name, set()).add(fact.entity)
    nouns = {}
    for name, entities in entities_of.items():
        is_homonym = len(entities) > 1
        if name.islower() and " " not in name and not is_homonym:
            nouns[name] = entities.pop()
    return nouns


def dictionary_lines(facts, lexicons):
    """English word -> word of another language: question words, and names that are common nouns."""
    nouns = common_nouns(facts, lexicons["en"])
    lines = []
    for lang in LANGS:
        if lang == "en":
            continue
        table = dict(lexicons[lang].words)
        for noun, entity in nouns.items():
            table.setdefault(noun, first_form(lexicons[lang].terms[entity]))
        for word, translation in sorted(table.items()):
            if word != translation:
                lines.append(f"en\t{lang}\t{word}\t{translation}\n")
    return lines


def qrels_lines(facts, split):
    """Each query of the split, in each language, is answered by its fact in every language.

    Of a training fact's further wordings and short query only the answer in their own language is
    listed: training knows the others by the group, and 470,000 lines are saved.
    """
    lines = ["query-id\tcorpus-id\tscore\n"]
    for number, fact in enumerate(facts):
        if fact.split != split:
            continue
        for query_lang in LANGS:
            for position, query_id in enumerate(query_ids(number, fact, query_lang)):
                passage_langs = LANGS
                if split == "train" and position > 0:
                    passage_langs = [query_lang]
                for passage_lang in passage_langs:
                    lines.append(f"{query_id}\tp{number}.{passage_lang}\t1\n")
    return lines


def json_lines(rows):
    """One row a line, unescaped: a reader sees Thai."""
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def world_size(facts):
    """What the readme tells: facts of each split, and how many of everything there are."""
    counts = Counter(fact.split for fact in facts)
    size = {split: counts[split] for split in SPLITS}
    size["domains"] = len({fact.relation.split(".")[0] for fact in facts})
    size["entities"] = len({fact.entity for fact in facts})
    size["relations"] = len({fact.relation for fact in facts})
    size["facts"] = len({fact.id for fact in facts})
    return size


def world_files(facts: list[Fact], lexicons: dict[str, Lexicon]) -> dict[str, list[str]]:
    """The data-set folder: file name -> its lines."""
    corpus = []
    queries = []
    files = {"corpus.jsonl": corpus, "queries.jsonl": queries}
    files["dictionary.tsv"] = dictionary_lines(facts, lexicons)
    for lang, lexicon in lexicons.items():
        passage_rows, query_rows = render_language(facts, lexicon)
        corpus += json_lines(passage_rows)
        queries += json_lines(query_rows)
        for folder, table in (("synonyms", lexicon.synonyms), ("fillers", lexicon.fillers)):
            text = json.dumps(table, ensure_ascii=False, indent=1, sort_keys=True)
            files[f"{folder}/{lang}.json"] = [text, "\n"]
    for split in SPLITS:
        files[f"qrels/{split}.tsv"] = qrels_lines(facts, split)
    return files


def write(out: Path) -> dict[str, int]:
    """Read the lexicon, verify it, write the folder; return the size of the world.

    *Errors*: ValueError with what is wrong, in all languages; then nothing is written.
    """
    facts = read_facts()
    lexicons = {lang: read_lexicon(lang) for lang in LANGS}
    problems = []
    for lexicon in lexicons.values():
        problems += verify(facts, lexicon)
    if problems:
        raise ValueError("\n".join([*problems[:50], f"{len(problems)} problems in lexicon/"]))
    for name, lines in world_files(facts, lexicons).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return world_size(facts)


def print_check(lang, sample):
    """Print some facts of a good language, or what is wrong with it -> the number of problems."""
    facts = read_facts()
    lexicon = read_lexicon(lang)
    problems = verify(facts, lexicon)
    if not problems:
        hashes = {fact: stable_hash(sample, fact.id) for fact in facts}
        for fact in sorted(facts, key=hashes.get)[:sample]:
            question = sentence(fact, "q", lexicon)
            statement = sentence(fact, "s", lexicon)
            print(fact.id, question, short_query(fact, lexicon), statement, sep=" | ")
    print(*problems[:200], f"{len(problems)} problems", sep="\n")
    return len(problems)


def main(argv=None) -> int:
    """Write the folder, or check one language. Exit 1 when something is wrong with the lexicon."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--out", type=Path, default=HERE, help="folder to write (default: this one)")
    add("--check", metavar="LANG", choices=LANGS, help="check one language, write nothing")
    add("--sample", type=int, default=10, help="with --check: sentences to print")
    args = parser.parse_args(argv)
    try:
        if args.check is None:
            print(json.dumps(write(args.out)))
        elif print_check(args.check, args.sample) > 0:
            return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
