"""minifacts: a parallel question-answering corpus in 11 languages, from a hand-written lexicon.

    facts.tsv            france  capital  paris            entity, relation, value
    LANG/terms.tsv       france  Frankreich  Frankreichs   a name and its inflected forms
    LANG/wordings.tsv    country.capital  q  "Was ist die Hauptstadt {e.gen}?"
      -> queries.jsonl   "Was ist die Hauptstadt Frankreichs?"     one a fact and language
      -> corpus.jsonl    "Die Hauptstadt Frankreichs ist Paris."   one a fact and language

Where to look next: lexicon/ is the source, `world` renders it, `check_sentences` and `check_words`
say what a good world is.
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
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from attacks import find_words, lower, match_case

LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
# A language's letters must be in its script; symbols such as Fe and .fr are constants and exempt
SCRIPTS = {"ar": "ARABIC", "el": "GREEK", "hi": "DEVANAGARI", "ru": "CYRILLIC"}
SCRIPTS |= {"th": "THAI", "zh": "CJK"}  # the others are written in Latin letters
STATEMENT_ENDS = {"hi": "।", "th": "", "zh": "。"}  # elsewhere "."
QUESTION_ENDS = {"ar": "؟", "el": ";", "th": "", "zh": "？"}  # elsewhere "?"
SHARES = {"test": 0.125, "dev": 0.08}  # of the facts of each relation, rounded, at least one
MIN_WORDINGS, MIN_SYNONYMS = 3, 150


class Fact(NamedTuple):
    id: str  # entity.relation, the group that ties all languages together
    entity: str
    relation: str  # domain.relation
    value: str  # a term id, or =constant, or #number
    split: str = ""


class Lexicon(NamedTuple):
    lang: str
    terms: dict  # id -> {column: form}
    wordings: dict  # (relation, "q" or "s") -> templates
    synonyms: dict  # word -> replacements
    words: dict  # English word -> translation


# ---- reading the lexicon -------------------------------------------------------------------------


def rows(path):
    """Yield (line number, cells) of a tab-separated file without comments and empty lines."""
    if not path.exists():
        raise ValueError(
            f"{path}: no such file. Every language needs it: see data/minifacts/readme.md"
        )
    # Only "\n" ends a line: splitlines() would also cut at U+2028 and friends inside a text.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [cell.strip() for cell in line.split("\t")]


def read_facts(path: Path = HERE / "lexicon" / "facts.tsv") -> list[Fact]:
    """Read the domain tables and give every fact its split.

    *Errors*: ValueError for a ragged row or an entity that is listed twice.
    """
    facts, seen, domain, relations = [], set(), "", []
    for number, cells in rows(path):
        if cells[0].startswith("@"):
            domain, relations = cells[0][1:].strip(), cells[1:]
            continue
        if len(cells) != len(relations) + 1 or cells[0] in seen:
            raise ValueError(f"{path}:{number}: {cells[0]!r} stands twice or has not {relations}.")
        seen.add(cells[0])
        for name, value in zip(relations, cells[1:]):
            if value != "-":  # "-" marks a fact that is disputed, unstable or not unique
                facts.append(Fact(f"{cells[0]}.{name}", cells[0], f"{domain}.{name}", value))
    return split(facts)


def split(facts):
    """Assign train, dev and test by fact; the entity of a held-out fact stays in training."""
    left = Counter(fact.entity for fact in facts)  # facts of an entity that are not held out yet
    where = {}
    for relation in dict.fromkeys(fact.relation for fact in facts):
        own = sorted((f for f in facts if f.relation == relation), key=lambda f: pick(f.id))
        wanted = {name: max(1, round(share * len(own))) for name, share in SHARES.items()}
        for fact in own:
            name = next((s for s in wanted if wanted[s]), "train")
            # SUBTLE: an entity keeps one fact in training, or the test asks for an unknown name
            if name != "train" and left[fact.entity] > 1:
                wanted[name] -= 1
                left[fact.entity] -= 1
                where[fact.id] = name
    return [fact._replace(split=where.get(fact.id, "train")) for fact in facts]


def read_lexicon(lang: str) -> Lexicon:
    """Read one language's four files; an empty cell of terms.tsv repeats the first column."""
    folder = HERE / "lexicon" / lang
    table = list(rows(folder / "terms.tsv"))
    header = table[0][1]
    terms = {}
    for number, (key, *forms) in table[1:]:
        if key in terms or not forms or not forms[0] or len(forms) >= len(header):
            raise ValueError(f"{folder}/terms.tsv:{number}: {key!r} is double, empty or too wide.")
        forms += [""] * (len(header) - 1 - len(forms))
        terms[key] = {name: form or forms[0] for name, form in zip(header[1:], forms)}
    wordings = {}
    for number, cells in rows(folder / "wordings.tsv"):
        if len(cells) != 3 or cells[1] not in ("q", "s"):
            raise ValueError(f"{folder}/wordings.tsv:{number}: {cells} is not relation, q|s, text.")
        wordings.setdefault((cells[0], cells[1]), []).append(cells[2])
    synonyms = {cells[0]: [c for c in cells[1:] if c] for _, cells in rows(folder / "synonyms.tsv")}
    words = [] if lang == "en" else rows(folder / "words.tsv")
    return Lexicon(lang, terms, wordings, synonyms, {c[0]: c[1] for _, c in words})


# ---- from a template to a sentence ---------------------------------------------------------------


def pick(*names):
    """A number that is the same on every machine: the hash of the names."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big")


def form(letter, column, fact, lexicon):
    """What a slot stands for: a constant as it is, else the lexicon's form (default: the first)."""
    term = fact.entity if letter == "e" else fact.value
    if term[0] in "=#":
        return term[1:]
    forms = lexicon.terms.get(term, {})
    if not forms or (column and column not in forms):
        raise ValueError(f"{lexicon.lang}/terms.tsv: {term!r} has no column {column!r}.")
    return forms[column] if column else next(iter(forms.values()))


def render(template: str, fact: Fact, lexicon: Lexicon) -> str:
    """Fill one wording for one fact.

        {e} {v}            first column of entity and value        {e.gen}  another column
        [e.g m:был|*:была]  the text whose key is that column's content; * is the rest

    *Errors*: ValueError that names language, relation, template and the slot that cannot be filled.
    """

    def choice(match):
        options = dict(part.split(":", 1) for part in match[3].split("|"))
        key = form(match[1], match[2], fact, lexicon)
        if key not in options and "*" not in options:
            raise ValueError(f"{lexicon.lang} {fact.id}: {key!r} has no choice in {template!r}")
        return options.get(key, options.get("*", ""))

    text = re.sub(r"\[([ev])(?:\.(\w+))? ([^\]]*)\]", choice, template)  # first: may hold a slot
    text = re.sub(r"\{([ev])(?:\.(\w+))?\}", lambda m: form(m[1], m[2], fact, lexicon), text)
    at = next((i for i, c in enumerate(text) if c.isalnum()), 0)  # past an opening "¿"
    return text[:at] + match_case("A", text[at:], lexicon.lang)


def sentence(fact, kind, lexicon):
    """The one wording that the data set uses for this fact and language."""
    options = lexicon.wordings[fact.relation, kind]
    return render(options[pick(fact.id, kind, lexicon.lang) % len(options)], fact, lexicon)


def world(facts: list[Fact], lexicon: Lexicon) -> tuple[list[dict], list[dict]]:
    """Render one language: passages with their paragraphs, and queries."""
    lang, passages, queries = lexicon.lang, [], []
    said = {fact.id: sentence(fact, "s", lexicon) for fact in facts}
    by_entity = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    for number, fact in enumerate(facts):
        # SUBTLE: a training fact's paragraph must not tell a held-out one: it holds the entity's
        # training facts alone, that of a test fact those and the entity's other test facts
        near = [f for f in by_entity[fact.entity] if f.split in ("train", fact.split)]
        near.sort(key=lambda f: pick("order", f.id, lang))
        context = ("" if lang == "zh" else " ").join(said[f.id] for f in near)
        row = {"_id": f"p{number}.{lang}", "lang": lang, "text": said[fact.id], "context": context}
        passages.append(row | {"group": fact.id})
        row = {"_id": f"q{number}.{lang}", "lang": lang, "text": sentence(fact, "q", lexicon)}
        queries.append(row | {"group": fact.id, "answer": form("v", "", fact, lexicon)})
    return passages, queries


# ---- what a good world is ------------------------------------------------------------------------


def fixed_text(template):
    """A template's words without its slots, choices spelled out, e.g. for looking up synonyms."""
    spell = lambda m: re.sub(r"(?:^|\|)[^:|]*:", " ", m[1])
    text = re.sub(r"\[[ev](?:\.\w+)? ([^\]]*)\]", spell, template)
    return re.sub(r"\{[^}]*\}", " | ", text)  # a bar, so that no word is found across a slot


def foreign(text, lang):
    """The letters of a text that are not in the language's script."""
    script = SCRIPTS.get(lang, "LATIN")
    return [c for c in text if c.isalpha() and not unicodedata.name(c, "?").startswith(script)]


def check_sentences(facts, lexicon):
    """Render every wording of every fact; yield what is wrong with it."""
    asked, lang = {}, lexicon.lang
    for fact in facts:
        for kind in "qs":
            options = lexicon.wordings.get((fact.relation, kind), [])
            if len(options) < MIN_WORDINGS:
                yield f"{lang} {fact.relation}: {len(options)} wordings, needs {MIN_WORDINGS}"
            end = QUESTION_ENDS.get(lang, "?") if kind == "q" else STATEMENT_ENDS.get(lang, ".")
            for template in options:
                slots = sorted(re.findall(r"\{([ev])[.\w]*\}", re.sub(r"\[[^\]]*\]", "", template)))
                if slots != (["e"] if kind == "q" else ["e", "v"]):
                    yield f"{lang} {fact.relation} {kind}: slots {slots} in {template!r}"
                try:
                    text = render(template, fact, lexicon)
                except ValueError as error:
                    yield str(error)
                    continue
                symbol = fact.value[1:] if fact.value[0] == "=" else "\0"
                wrong = foreign(text.replace(symbol, ""), lang)
                if wrong or re.search(r"[{}\[\]|]|  ", text) or not text.endswith(end):
                    yield f"{lang} {fact.id}: letters {wrong}, a {{, blanks or no {end!r}: {text!r}"
                if kind == "q" and asked.setdefault(text, fact.id) != fact.id:
                    yield f"{lang}: {text!r} asks for {asked[text]} and for {fact.id}"


def check_words(facts, lexicon):
    """Yield what is wrong with the synonyms and the dictionary words of one language."""
    lang, templates = lexicon.lang, [t for ts in lexicon.wordings.values() for t in ts]
    entities = {fact.entity for fact in facts} & set(lexicon.terms)
    parts = lower(" | ".join(text for k in entities for text in lexicon.terms[k].values()))
    names = {lower(text) for forms in lexicon.terms.values() for text in forms.values()}
    texts = [lower(fixed_text(t)) for t in templates]
    found = lambda word: any(word in t and find_words(t, {word: []}, lang) for t in texts)
    replacements = [r for rs in lexicon.synonyms.values() for r in rs]
    if len(lexicon.synonyms) < MIN_SYNONYMS:
        yield f"{lang}: {len(lexicon.synonyms)} synonyms, needs {MIN_SYNONYMS}"
    for word, others in lexicon.synonyms.items():
        if not others or word in others or word != lower(word) or len(set(others)) < len(others):
            yield f"{lang} synonym {word!r}: not lower case, or bad replacements {others}"
        if not found(word):
            yield f"{lang} synonym {word!r} occurs in no wording"
        if word in names or (word in parts and find_words(parts, {word: []}, lang)):
            yield f"{lang} synonym {word!r} is part of a name or a value"
        if wrong := [c for other in others for c in foreign(other, lang)]:
            yield f"{lang} synonym {word!r}: foreign letters {wrong}"
    new = sum(not found(r) for r in replacements)
    if new < 0.6 * len(replacements):
        yield f"{lang}: only {new} of {len(replacements)} replacements occur in no wording"
    if lang != "en" and len(lexicon.words) < MIN_SYNONYMS:
        yield f"{lang}: {len(lexicon.words)} words, needs {MIN_SYNONYMS}"


def verify(facts: list[Fact], lexicon: Lexicon) -> list[str]:
    """All that is wrong with one language, as sentences; an empty list is a good language."""
    english = {cells[0] for _, cells in rows(HERE / "lexicon" / "en" / "terms.tsv")} - {"id"}
    differ = sorted(english ^ set(lexicon.terms))
    problems = [f"{lexicon.lang}: {t!r} is missing in terms.tsv or in en/terms.tsv" for t in differ]
    problems += check_sentences(facts, lexicon)
    return list(dict.fromkeys(problems + list(check_words(facts, lexicon))))


# ---- writing the data-set folder -----------------------------------------------------------------


def dictionary(facts, lexicons):
    """English word -> word of another language: question words, and names that are common nouns."""
    proper = ("country", "city", "planet", "invention", "book", "month")
    names = {}
    for term in dict.fromkeys(f.entity for f in facts if not f.relation.startswith(proper)):
        names.setdefault(lexicons["en"].terms[term]["name"], []).append(term)
    for lang in [code for code in LANGS if code != "en"]:
        table = dict(lexicons[lang].words)
        for name, ids in names.items():
            if len(ids) == 1 and name.islower() and " " not in name:  # two ids are a homonym
                table.setdefault(name, next(iter(lexicons[lang].terms[ids[0]].values())))
        for word, other in sorted(table.items()):
            if word != other:
                yield f"en\t{lang}\t{word}\t{other}\n"


def write(out: Path) -> dict:
    """Render, verify, write; return counts. *Errors*: ValueError with all problems."""
    facts = read_facts()
    lexicons = {lang: read_lexicon(lang) for lang in LANGS}
    problems = [p for lexicon in lexicons.values() for p in verify(facts, lexicon)]
    if problems:
        raise ValueError("\n".join([*problems[:50], f"{len(problems)} problems in lexicon/"]))
    files = {"corpus.jsonl": [], "queries.jsonl": [], "dictionary.tsv": dictionary(facts, lexicons)}
    for lang, lexicon in lexicons.items():
        passages, queries = world(facts, lexicon)
        files["corpus.jsonl"] += [json.dumps(row, ensure_ascii=False) + "\n" for row in passages]
        files["queries.jsonl"] += [json.dumps(row, ensure_ascii=False) + "\n" for row in queries]
        text = json.dumps(lexicon.synonyms, ensure_ascii=False, indent=1, sort_keys=True)
        files[f"synonyms/{lang}.json"] = [text + "\n"]
    for name in ("train", "dev", "test"):
        ids = [i for i, f in enumerate(facts) if f.split == name]
        pairs = [f"q{i}.{a}\tp{i}.{b}\t1\n" for i in ids for a in LANGS for b in LANGS]
        files[f"qrels/{name}.tsv"] = ["query-id\tcorpus-id\tscore\n"] + pairs
    for name, lines in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("".join(lines), encoding="utf-8", newline="\n")
    counts = {name: sum(f.split == name for f in facts) for name in ("train", "dev", "test")}
    counts |= {"domains": len({f.relation.split(".")[0] for f in facts})}
    fields = {"entities": "entity", "relations": "relation", "facts": "id"}
    return counts | {name: len({getattr(f, x) for f in facts}) for name, x in fields.items()}


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
            return print(json.dumps(write(args.out))) or 0
        facts, lexicon = read_facts(), read_lexicon(args.check)
        problems = verify(facts, lexicon)
        if not problems:
            for fact in sorted(facts, key=lambda f: pick(args.sample, f.id))[: args.sample]:
                print(fact.id, *(sentence(fact, kind, lexicon) for kind in "qs"), sep=" | ")
        print(*problems[:200], f"{len(problems)} problems", sep="\n")
        return 1 if problems else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
