"""minifacts: a parallel question-answering corpus in 11 languages, made from a hand-written
lexicon.

    facts.tsv                france  capital  paris            (entity, relation, value)
    LANG/terms.tsv           france  de: "Frankreich", gen "Frankreichs"
    LANG/wordings.tsv        country.capital  q  "Was ist die Hauptstadt {e.gen}?"
      -> queries.jsonl       "Was ist die Hauptstadt Frankreichs?"     one a fact and language
      -> corpus.jsonl        "Die Hauptstadt Frankreichs ist Paris."   one a fact and language, with its paragraph

Where to look next: lexicon/ is the source, `world()` renders all of it, `verify()` says what a good
world is. Left out on purpose: random numbers. Every choice (split, wording, order) is a hash of its
name, so that the same lexicon gives the same bytes on every machine, and a new fact moves no other.

    python data/minifacts/prepare.py                        write the data-set folder (3 seconds)
    python data/minifacts/prepare.py --check de --sample 9  check one language, print some of its sentences
"""

import argparse
import hashlib
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
# The script that a language's letters must be in; symbols such as Fe and .fr are constants and
# exempt.
SCRIPTS = {
    "ar": "ARABIC",
    "el": "GREEK",
    "hi": "DEVANAGARI",
    "ru": "CYRILLIC",
    "th": "THAI",
    "zh": "CJK",
}
UNSPACED = {
    "th",
    "zh",
}  # written without spaces: a synonym is found by longest match, not between blanks
STATEMENT_ENDS = {"hi": "।", "th": "", "zh": "。"}  # elsewhere "."
QUESTION_ENDS = {"ar": "؟", "el": ";", "th": "", "zh": "？"}  # elsewhere "?"
TEST_SHARE, DEV_SHARE = 0.125, 0.08  # of the facts of each relation, rounded, at least one
MIN_WORDINGS, MIN_SYNONYMS, MIN_WORDS = 3, 150, 150


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
            raise ValueError(
                f"{path}:{number}: {cells[0]!r} needs {len(relations)} values of its own, has "
                f"{len(cells) - 1}{' and is listed twice' if cells[0] in seen else ''}."
            )
        seen.add(cells[0])
        for name, value in zip(relations, cells[1:]):
            if value != "-":  # "-" marks a fact that is disputed, unstable or not unique
                fact = Fact(f"{cells[0]}.{name}", cells[0], f"{domain}.{name}", value)
                facts.append(fact)
    return split(facts)


def split(facts):
    """Assign train, dev and test by fact, so that entity and relation of a held-out fact stay in training."""
    left = {}  # entity -> facts not held out yet
    for fact in facts:
        left[fact.entity] = left.get(fact.entity, 0) + 1
    where = {}
    for relation in dict.fromkeys(fact.relation for fact in facts):
        own = sorted((f for f in facts if f.relation == relation), key=lambda f: pick(f.id))
        wanted = {
            "test": max(1, round(TEST_SHARE * len(own))),
            "dev": max(1, round(DEV_SHARE * len(own))),
        }
        for fact in own:
            name = next((s for s in wanted if wanted[s]), "train")
            # SUBTLE: one fact of each entity stays in training, or the test would ask for an
            # unknown name
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
            raise ValueError(
                f"{folder}/terms.tsv:{number}: {key!r} is listed twice, empty, or wider than the header."
            )
        forms += [""] * (len(header) - 1 - len(forms))
        terms[key] = {name: form or forms[0] for name, form in zip(header[1:], forms)}
    wordings = {}
    for number, cells in rows(folder / "wordings.tsv"):
        if len(cells) != 3 or cells[1] not in ("q", "s"):
            raise ValueError(
                f"{folder}/wordings.tsv:{number}: {cells} is not relation, q or s, template."
            )
        wordings.setdefault((cells[0], cells[1]), []).append(cells[2])
    synonyms = {cells[0]: [c for c in cells[1:] if c] for _, cells in rows(folder / "synonyms.tsv")}
    words = (
        {} if lang == "en" else {c[0]: c[1] for _, c in rows(folder / "words.tsv") if len(c) > 1}
    )
    return Lexicon(lang, terms, wordings, synonyms, words)


# ---- from a template to a sentence ---------------------------------------------------------------


def pick(*names):
    """A number that is the same on every machine: the hash of the names."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:8], "big")


def forms_of(term, lexicon):
    """The forms of a term: a constant is the same in every column, else the lexicon's row."""
    if term[0] in "=#":
        return {}
    if term not in lexicon.terms:
        raise ValueError(
            f"lexicon/{lexicon.lang}/terms.tsv: {term!r} is missing. Every id of en/terms.tsv needs a row."
        )
    return lexicon.terms[term]


def upper(char, lang):
    """The capital of one letter. SUBTLE: Turkish dots its capital i."""
    return "İ" if lang == "tr" and char == "i" else char.upper()


def render(template: str, fact: Fact, lexicon: Lexicon) -> str:
    """Fill one wording for one fact.

        {e} {v}            first column of entity and value        {e.gen}  another column
        [e.g m:был|*:была]  the text whose key is that column's content; * is the rest

    *Errors*: ValueError that names language, relation, template and the slot that cannot be filled.
    """

    def form(match):
        term = fact.entity if match[1] == "e" else fact.value
        forms = forms_of(term, lexicon)
        if not forms:
            return term[1:]
        if match[2] and match[2] not in forms:
            raise ValueError(
                f"{lexicon.lang} {fact.relation}: no column {match[2]!r} in terms.tsv, in {template!r}"
            )
        return forms[match[2]] if match[2] else next(iter(forms.values()))

    def choice(match):
        options = dict(part.split(":", 1) for part in match[3].split("|"))
        key = form(match)
        if key not in options and "*" not in options:
            raise ValueError(
                f"{lexicon.lang} {fact.id}: {key!r} has no choice in {match[0]!r}, in {template!r}"
            )
        return options.get(key, options.get("*", ""))

    text = re.sub(
        r"\[([ev])(?:\.(\w+))? ([^\]]*)\]", choice, template
    )  # first: a choice may hold a slot
    text = re.sub(r"\{([ev])(?:\.(\w+))?\}", form, text)
    at = next((i for i, c in enumerate(text) if c.isalnum()), 0)  # past an opening "¿"
    return text[:at] + upper(text[at], lexicon.lang) + text[at + 1 :]


def sentence(fact, kind, lexicon):
    """The one wording that the data set uses for this fact and language."""
    options = lexicon.wordings.get((fact.relation, kind), [])
    if not options:
        raise ValueError(
            f"lexicon/{lexicon.lang}/wordings.tsv: no {kind!r} wording for {fact.relation!r}"
        )
    return render(options[pick(fact.id, kind, lexicon.lang) % len(options)], fact, lexicon)


def world(facts: list[Fact], lexicon: Lexicon) -> tuple[list[dict], list[dict]]:
    """Render one language: passages with their paragraphs, and queries."""
    lang, passages, queries = lexicon.lang, [], []
    said = {fact.id: sentence(fact, "s", lexicon) for fact in facts}
    gap = "" if lang == "zh" else " "
    by_entity = {}
    for fact in facts:
        by_entity.setdefault(fact.entity, []).append(fact)
    for number, fact in enumerate(facts):
        # SUBTLE: the paragraph of a training fact must not tell a held-out one, so it holds the
        # training
        # facts of the entity; the paragraph of a test fact holds those and the entity's other test
        # facts.
        near = [f for f in by_entity[fact.entity] if f.split in ("train", fact.split)]
        near.sort(key=lambda f: pick("order", f.id, lang))
        context = gap.join(said[f.id] for f in near)
        row = {"_id": f"p{number}.{lang}", "lang": lang, "text": said[fact.id], "context": context}
        passages.append(row | {"group": fact.id})
        value = "{v}" if fact.value[0] not in "=#" else fact.value[1:]
        answer = render(value, fact, lexicon) if value == "{v}" else value
        row = {"_id": f"q{number}.{lang}", "lang": lang, "text": sentence(fact, "q", lexicon)}
        queries.append(row | {"group": fact.id, "answer": answer})
    return passages, queries


# ---- what a good world is ------------------------------------------------------------------------


def lower(text):
    """Lower case without a change of length: Turkish dotted I would become two characters."""
    return "".join(c.lower() if len(c.lower()) == 1 else "i" for c in text)


def in_word(char):
    """Letters, combining marks and digits make words; `\\w` would leave out Hindi's and Thai's vowel signs."""
    return unicodedata.category(char)[0] in "LMN"


def tokens(text):
    """Lower-case words: runs of letters with their combining marks, and digits."""
    return "".join(c if in_word(c) else " " for c in lower(text)).split()


def find_word(word, text, lang):
    """Where the word stands in the text, or -1: anywhere in Thai and Chinese, else between word borders."""
    low, at = lower(text), -1
    while (at := low.find(word, at + 1)) >= 0:
        around = low[at - 1 : at] + low[at + len(word) : at + len(word) + 1]
        if lang in UNSPACED or not any(map(in_word, around)):
            return at
    return -1


def fixed_text(template):
    """A template's words without its slots, choices spelled out, e.g. for looking up synonyms."""
    text = re.sub(
        r"\[[ev](?:\.\w+)? ([^\]]*)\]", lambda m: re.sub(r"(?:^|\|)[^:|]*:", " ", m[1]), template
    )
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
                yield f"{lang} {fact.relation} {kind}: {len(options)} wordings, needs {MIN_WORDINGS}"
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
                symbol = fact.value[1:] if fact.value[0] == "=" else ""
                wrong = foreign(text.replace(symbol, "") if symbol else text, lang)
                if wrong or re.search(r"[{}\[\]|]|  ", text) or not text.endswith(end):
                    yield f"{lang} {fact.id}: foreign letters {wrong}, a placeholder, blanks or no {end!r} in {text!r}"
                if kind == "q" and asked.setdefault(text, fact.id) != fact.id:
                    yield f"{lang}: {text!r} asks for {asked[text]} and for {fact.id}"


def check_words(facts, lexicon):
    """Yield what is wrong with the synonyms and the dictionary words of one language."""
    lang, fixed = lexicon.lang, [fixed_text(t) for ts in lexicon.wordings.values() for t in ts]
    entities = {fact.entity for fact in facts}
    parts = {
        t
        for k, f in lexicon.terms.items()
        if k in entities
        for form in f.values()
        for t in tokens(form)
    }
    names = {form.lower() for forms in lexicon.terms.values() for form in forms.values()}
    replacements = [r for rs in lexicon.synonyms.values() for r in rs]
    if len(lexicon.synonyms) < MIN_SYNONYMS:
        yield f"{lang}: {len(lexicon.synonyms)} synonyms, needs {MIN_SYNONYMS}"
    for word, others in lexicon.synonyms.items():
        if not others or word in others or word != word.lower() or len(set(others)) < len(others):
            yield f"{lang} synonym {word!r}: needs lower case and replacements other than itself, has {others}"
        if not any(find_word(word, text, lang) >= 0 for text in fixed):
            yield f"{lang} synonym {word!r} occurs in no wording"
        if word in names or (lang not in UNSPACED and set(tokens(word)) & parts):
            yield f"{lang} synonym {word!r} is part of a name or a value"
        if wrong := [c for other in others for c in foreign(other, lang)]:
            yield f"{lang} synonym {word!r}: foreign letters {wrong}"
    new = sum(not any(find_word(r, text, lang) >= 0 for text in fixed) for r in replacements)
    if new < 0.6 * len(replacements):
        yield f"{lang}: only {new} of {len(replacements)} replacements occur in no wording"
    if lang != "en" and len(lexicon.words) < MIN_WORDS:
        yield f"{lang}: {len(lexicon.words)} words, needs {MIN_WORDS}"


def verify(facts: list[Fact], lexicon: Lexicon) -> list[str]:
    """All that is wrong with one language, as sentences; an empty list is a good language."""
    english = {cells[0] for _, cells in rows(HERE / "lexicon" / "en" / "terms.tsv")} - {"id"}
    problems = [
        f"{lexicon.lang}: {t!r} is missing in terms.tsv"
        for t in sorted(english - set(lexicon.terms))
    ]
    problems += [
        f"{lexicon.lang}: {t!r} in terms.tsv is unknown"
        for t in sorted(set(lexicon.terms) - english)
    ]
    problems += check_sentences(facts, lexicon)
    return list(dict.fromkeys(problems + list(check_words(facts, lexicon))))


# ---- writing the data-set folder -----------------------------------------------------------------


def dictionary(facts, lexicons):
    """English word -> word of another language: question words, and names that are common nouns."""
    proper = ("country", "city", "planet", "invention", "book", "month")
    nouns = dict.fromkeys(f.entity for f in facts if not f.relation.startswith(proper))
    names = {}
    for term in nouns:
        names.setdefault(lexicons["en"].terms[term]["name"], []).append(term)
    for lang in [code for code in LANGS if code != "en"]:
        table = dict(lexicons[lang].words)
        for name, ids in names.items():
            if (
                len(ids) == 1 and name.islower() and " " not in name
            ):  # two ids are a homonym: leave it out
                table.setdefault(name, next(iter(lexicons[lang].terms[ids[0]].values())))
        for word, other in sorted(table.items()):
            if word != other:
                yield f"en\t{lang}\t{word}\t{other}\n"


def write(out: Path) -> dict:
    """Render, verify and write everything; return the counts.

    *Errors*: ValueError with all problems.
    """
    facts = read_facts()
    lexicons = {lang: read_lexicon(lang) for lang in LANGS}
    problems = [p for lexicon in lexicons.values() for p in verify(facts, lexicon)]
    if problems:
        raise ValueError(
            "\n".join(problems[:50] + [f"{len(problems)} problems in lexicon/, none may stay"])
        )
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
    counts |= {"domains": len({f.relation.split(".")[0] for f in facts}), "languages": len(LANGS)}
    return counts | {
        name: len({getattr(f, name) for f in facts}) for name in ("entity", "relation", "id")
    }


def main(argv=None) -> int:
    """Write the folder, or check one language. Exit 1 when something is wrong with the lexicon."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--out", type=Path, default=HERE, help="folder to write (default: this one)"
    )
    parser.add_argument(
        "--check", metavar="LANG", choices=LANGS, help="check one language, write nothing"
    )
    parser.add_argument("--sample", type=int, default=10, help="with --check: sentences to print")
    args = parser.parse_args(argv)
    try:
        if args.check is None:
            print(json.dumps(write(args.out)))
            return 0
        facts, lexicon = read_facts(), read_lexicon(args.check)
        problems = verify(facts, lexicon)
        if not problems:
            for fact in sorted(facts, key=lambda f: pick("sample", f.id, args.sample))[
                : args.sample
            ]:
                print(
                    fact.id, sentence(fact, "q", lexicon), sentence(fact, "s", lexicon), sep=" | "
                )
        print("\n".join(problems[:200]), f"{len(problems)} problems", sep="\n")
        return 1 if problems else 0
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
