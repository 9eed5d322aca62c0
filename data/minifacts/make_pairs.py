"""Sentence pairs of the bundled world, for a classifier: inference, and paraphrases.

    pairs              The currency of Norway is the yen. In Norway, people drive on the right.
      entailment       The yen is the money used in Norway.
      contradiction    The euro is the money used in Norway.
      neutral          The dialing code for Norway is +47.

    paraphrases/pairs  Rome is the capital of Italy, and Oslo is the capital of Norway.
      1                The capital of Norway is Oslo, and the capital of Italy is Rome.
      0                The capital of Norway is Rome, and the capital of Italy is Oslo.

Where to look next: `paraphrases` and `inferences` build the pairs from facts, without a word of any
language; `joined` and `paragraph` say them; `measures` asks what gives a label away.
Left out on purpose: pairs across languages. Line i is the same pair in every language: join them.
Differs from PAWS, which exchanges words of found sentences and asks people for labels: here facts
are exchanged and each is said anew, so that the grammar is right and the label known. Differs from
XNLI: a premise is made up half of the time, and each hypothesis stands with all three labels, so
that neither knowing the world nor reading the hypothesis alone helps.

    python data/minifacts/make_pairs.py          write both folders (5 seconds)
"""

import argparse
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from attacks import find_words, lower, match_case, overlaps_any, substitute, words_of
from data.minifacts.prepare import (
    CHOICE,
    LANGS,
    SLOT,
    STATEMENT_ENDS,
    Fact,
    Lexicon,
    capitalize,
    fill,
    first_form,
    read_facts,
    read_lexicon,
    stable_hash,
)

# Pairs of a task; multiples of 6: paraphrases come by 2, inferences by 3. All files: 2.4 MB
COUNTS = {"train": 2400, "dev": 90, "test": 252}
WORDINGS = 3  # statements of a relation that every language has
MOST_TURNS = 100  # through the facts of a split, until there are enough pairs

# What stands between two statements of one sentence. Arabic's "and" is written to the next word
JOINERS = {
    "ar": "، و",
    "de": ", und ",
    "el": ", ενώ ",
    "en": ", and ",
    "es": ", mientras que ",
    "hi": " और ",
    "ru": ", а ",
    "th": " และ",
    "tr": "; ",
    "vi": "; ",
    "zh": "；",
}
# Words at the beginning of a wording that keep their capital inside of a sentence
KEPT_CAPITALS = {
    "de": {
        "Astronomen",
        "Autofahrer",
        "Biologen",
        "Chemiker",
        "Fabriken",
        "Instrumentenbauer",
        "Landwirte",
        "Läden",
        "Musiker",
        "Telefonnummern",
        "Vereine",
        "Webadressen",
        "Wettkämpfe",
    },
}
# Currencies that several countries share by name: Chinese says whose they are by the entity
SHARED_CURRENCIES = ("dollar", "pound")

# Relations of which an entity has one value, and which of the values exclude each other for sure;
# () is all of them. Nothing is both fruit and vegetable in the kitchen, but a nut may be a fruit,
# and fish is meat to some
FUNCTIONAL = {
    "country.capital": (),
    "country.continent": (),
    "country.currency": (),
    "country.phone": (),
    "country.domain": (),
    "country.drive": (),
    "animal.class": (),
    "animal.diet": ("plants", "meat"),
    "animal.legs": (),
    "animal.cover": ("fur", "feathers", "scales"),
    "animal.birth": (),
    "animal.keeping": (),
    "produce.group": ("fruit", "vegetable"),
    "produce.color": (),
    "produce.grows": ("on_tree", "on_bush", "underground"),
    "element.symbol": (),
    "element.number": (),
    "element.state": (),
    "element.kind": ("metal", "nonmetal", "metalloid"),
    "element.period": (),
    "planet.order": (),
    "planet.kind": ("rocky", "gas_giant"),
    "planet.hue": (),
    "instrument.family": ("strings", "winds", "percussion"),
    "instrument.material": ("wood_material", "brass_material"),
    "book.written_in": (),
    "book.published": (),
    "month.place_in_year": (),
    "month.days": (),
    "month.next": (),
    "month.season": (),
}
# Relations of which one hints at the other: what has feathers is a bird, who pays in euros is in
# Europe. They are not neutral
RELATED = [
    ("country.continent", "country.capital"),
    ("country.continent", "country.currency"),
    ("country.continent", "country.language"),
    ("country.continent", "country.phone"),
    ("animal.class", "animal.legs", "animal.cover", "animal.birth", "animal.habitat"),
    ("animal.habitat", "animal.keeping"),
    ("produce.group", "produce.grows"),
    ("element.number", "element.period"),
    ("element.number", "element.kind"),
    ("element.number", "element.state"),
    ("element.kind", "element.state"),
    ("instrument.family", "instrument.played"),
    ("book.author", "book.written_in"),
    ("book.author", "book.published"),
    ("month.place_in_year", "month.next", "month.season"),
]


@dataclass(frozen=True)
class Statement:
    """A fact, true or not, and how it is said."""

    fact: Fact
    wording: int  # 0 to WORDINGS - 1
    reworded: bool = False  # a synonym replaces one of its words, where the language has one


@dataclass(frozen=True)
class Pair:
    """Two sentences or paragraphs of one to three statements each."""

    first: tuple[Statement, ...]
    second: tuple[Statement, ...]
    label: str


@dataclass(frozen=True)
class Form:
    """How a sentence of two statements is built."""

    exchanged: bool  # the second statement stands first
    wordings: tuple[int, int]  # of the first fact and of the second


# ---- choices without random numbers --------------------------------------------------------------


def draw(options, *names):
    """One of the options, by a hash of the names."""
    return options[stable_hash(*names) % len(options)]


def toss(*names) -> bool:
    """A coin, by a hash of the names."""
    return draw((False, True), *names)


def shuffled(items, *names):
    """The items in an order of hashes: the same for the same names."""
    hashes = {number: stable_hash(number, *names) for number in range(len(items))}
    return [items[number] for number in sorted(hashes, key=hashes.get)]


def names_of_values(facts, lexicons) -> dict[str, list[str]]:
    """Value -> what it is called in each language; a constant or number is called what it is."""
    names = {}
    for fact in facts:
        value = fact.value
        if value[0] in "=#":
            names[value] = [value[1:]] * len(lexicons)
        else:
            terms = [lexicon.terms[value] for lexicon in lexicons.values()]
            names[value] = [lower(first_form(forms)) for forms in terms]
    return names


def same_somewhere(value, other, names):
    """Do two values have one name in some language? Krone and krona have, in Chinese."""
    return any(name == rival for name, rival in zip(names[value], names[other], strict=True))


def exchangeable(fact, other, names):
    """May two facts of one relation swap values, and does it change what is said, everywhere?

    A month is no value of its own: it does not come after itself.
    """
    if same_somewhere(fact.value, other.value, names):
        return False
    return fact.entity != other.value and other.entity != fact.value


def sayable(facts):
    """The facts without SHARED_CURRENCIES: Chinese would name the wrong country with the value."""
    kept = []
    for fact in facts:
        shared = fact.relation == "country.currency" and fact.value in SHARED_CURRENCIES
        if not shared:
            kept.append(fact)
    return kept


# ---- paraphrases: two facts, or the two with their values exchanged ------------------------------


def all_forms():
    """Two orders times the wordings of either fact."""
    forms = []
    for exchanged in (False, True):
        for one in range(WORDINGS):
            for other in range(WORDINGS):
                forms.append(Form(exchanged, (one, other)))
    return forms


FORMS = all_forms()


def swap_values(facts):
    """Each of two facts with the value of the other: if both are true, neither is now."""
    one, other = facts
    return (one._replace(value=other.value), other._replace(value=one.value))


def in_form(facts, form, reworded=(False, False)):
    """Two facts as the statements of a sentence."""
    statements = []
    for fact, wording, edited in zip(facts, form.wordings, reworded, strict=True):
        statements.append(Statement(fact, wording, edited))
    if form.exchanged:
        statements.reverse()
    return tuple(statements)


def twins(facts, *names):
    """A pair of either label, with the same first sentence and the same changes in the second.

    Whether the first sentence tells the truth is a coin. So neither sentence alone tells the label,
    and words cannot: the second sentences of twins differ only in who has which value.
    """
    told = facts
    if toss("swapped", *names):
        told = swap_values(facts)
    form = draw(FORMS, "form", *names)
    other_form = draw([other for other in FORMS if other != form], "other form", *names)
    reworded = draw([(False, False), (True, False), (False, True)], "reworded", *names)
    first = in_form(told, form)
    same = in_form(told, other_form, reworded)
    swapped = in_form(swap_values(told), other_form, reworded)
    return [Pair(first, same, "1"), Pair(first, swapped, "0")]


def paraphrases(facts: list[Fact], split: str, count: int, names) -> list[Pair]:
    """So many pairs of a split's facts, half of them with label 1.

    names: from `names_of_values`.
    """
    members = defaultdict(list)
    for fact in sayable(facts):
        if fact.split == split:
            members[fact.relation].append(fact)
    candidates = {}
    for fact in chain(*members.values()):
        partners = []
        for other in members[fact.relation]:
            if exchangeable(fact, other, names):
                partners.append(other)
        if partners:  # the only dev fact about months' days has none
            candidates[fact] = partners
    pairs = []
    seen = set()
    for turn in range(MOST_TURNS):
        for fact in shuffled(list(candidates), "paraphrase", turn):
            partner = draw(candidates[fact], "partner", fact.id, turn)
            both = twins((fact, partner), fact.id, turn)
            if len(pairs) < count and both[0].first not in seen:
                pairs += both
                seen.add(both[0].first)
        if len(pairs) >= count:
            break
    return shuffled(pairs, "paraphrase", split)


# ---- inference: what a paragraph about an entity tells -------------------------------------------


def hint(relation, other):
    """Does the value of one relation hint at that of the other?"""
    if relation == other:
        return True
    return any(relation in group and other in group for group in RELATED)


def is_functional(fact):
    """Would another value of the fact's relation contradict it?"""
    exclusive = FUNCTIONAL.get(fact.relation)
    if exclusive is None:
        return False
    return exclusive == () or fact.value in exclusive


def exclusive_values(facts):
    """Functional relation -> its values that exclude each other."""
    values = {}
    for fact in facts:
        if is_functional(fact):
            members = values.setdefault(fact.relation, [])
            if fact.value not in members:
                members.append(fact.value)
    return values


def rivals(fact, values, names):
    """The values of the fact's relation that exclude the fact's own."""
    found = []
    for value in values[fact.relation]:
        # Not the entity itself: no month comes after itself. The fact's own value has its own name
        if value != fact.entity and not same_somewhere(fact.value, value, names):
            found.append(value)
    return found


@dataclass(frozen=True)
class Setting:
    """A fact to ask about, one that does not help, and what else may be said of the entity."""

    fact: Fact
    rivals: list[str]  # values that exclude the fact's
    neutral: Fact  # functional, too: the kind of fact in a premise tells no label
    neutral_rivals: list[str]
    fillers: list[Fact]  # these do not hint at the fact either


def surroundings(fact, facts):
    """What else may be said of a fact's entity without a hint at the fact.

    Of a dev or test fact these are facts of its split and of training, as in its paragraph in the
    corpus.
    """
    others = []
    for other in facts:
        told = other.entity == fact.entity and other.split in ("train", fact.split)
        if told and not hint(fact.relation, other.relation):
            others.append(other)
    return others


def settings_of(facts, split, names):
    """Each fact of the split that can be contradicted, with each fact that is neutral to it."""
    usable = sayable(facts)
    values = exclusive_values(usable)
    found = []
    for fact in usable:
        if fact.split != split or not is_functional(fact):
            continue
        others = surroundings(fact, usable)
        for neutral in others:
            if is_functional(neutral):
                fillers = [other for other in others if other != neutral]
                own_rivals = rivals(fact, values, names)
                neutral_rivals = rivals(neutral, values, names)
                if own_rivals and neutral_rivals:
                    found.append(Setting(fact, own_rivals, neutral, neutral_rivals, fillers))
    return found


def made_up(fact, values, *names):
    """The fact, or with a coin the same with another value."""
    if toss("made up", *names):
        return fact._replace(value=draw(values, "value", *names))
    return fact


def premise(fact, wording, fillers, *names):
    """A paragraph that tells the fact, in this wording, somewhere among the fillers."""
    statements = []
    for told in shuffled([fact, *fillers], "order", *names):
        told_wording = wording
        if told is not fact:
            told_wording = draw(range(WORDINGS), "wording", told.id, *names)
        statements.append(Statement(told, told_wording))
    return tuple(statements)


def triplets(setting, *names):
    """A hypothesis with a premise of each label; the premises are of the same length.

    Whether the hypothesis is true in the world is a coin, and so is whether the neutral premise is.
    The contradicting value is the true one if the hypothesis is made up, so that an entailing and
    a contradicting premise are true equally often, too.
    """
    fact = setting.fact
    asked = made_up(fact, setting.rivals, *names)
    if asked == fact:
        contradicting = fact._replace(value=draw(setting.rivals, "rival", *names))
    else:
        contradicting = fact
    fillers = []
    if setting.fillers and toss("filler", *names):
        fillers = [draw(setting.fillers, "filler", *names)]
    wording, other_wording = shuffled(range(WORDINGS), "wordings", *names)[:2]
    hypothesis = (Statement(asked, other_wording),)
    told_of = {
        "entailment": asked,
        "neutral": made_up(setting.neutral, setting.neutral_rivals, "neutral", *names),
        "contradiction": contradicting,
    }
    pairs = []
    for label, told in told_of.items():
        pairs.append(Pair(premise(told, wording, fillers, *names), hypothesis, label))
    return pairs


def inferences(facts: list[Fact], split: str, count: int, names) -> list[Pair]:
    """So many pairs about a split's facts, a third of them with each label.

    names: from `names_of_values`.
    """
    settings = settings_of(facts, split, names)
    pairs = []
    seen = set()
    for turn in range(MOST_TURNS):
        for setting in shuffled(settings, "inference", turn):
            three = triplets(setting, setting.fact.id, setting.neutral.id, turn)
            hypothesis = three[0].second
            if len(pairs) < count and hypothesis not in seen:
                pairs += three
                seen.add(hypothesis)
        if len(pairs) >= count:
            break
    return shuffled(pairs, "inference", split)


# ---- from statements to text ---------------------------------------------------------------------


def reword(template: str, lexicon: Lexicon, *names) -> str:
    """A wording with one of its words replaced by a synonym; slots stay, and so do its choices.

    "The {e} eats {v}." -> "The {e} consumes {v}."
    """
    kept = [match.span() for match in chain(SLOT.finditer(template), CHOICE.finditer(template))]
    spans = []
    for span in find_words(template, lexicon.synonyms, lexicon.lang):
        if not overlaps_any(span, kept):
            spans.append(span)
    if not spans:
        return template
    start, end = draw(spans, "span", lexicon.lang, *names)
    word = template[start:end]
    other = draw(lexicon.synonyms[lower(word, lexicon.lang)], "synonym", lexicon.lang, *names)
    return substitute(template, {(start, end): match_case(word, other, lexicon.lang)})


def say(statement: Statement, lexicon: Lexicon) -> str:
    """A statement without its end and with the first letter that it has inside of a sentence."""
    fact = statement.fact
    template = lexicon.wordings[fact.relation, "s"][statement.wording]
    opener = template.split()[0]
    if statement.reworded:
        template = reword(template, lexicon, fact.id, fact.value)
    text = fill(template, fact, lexicon)
    begins_with_name = opener[0] in "{[„«"
    if not begins_with_name and opener not in KEPT_CAPITALS.get(lexicon.lang, ()):
        text = text[0].lower() + text[1:]
    return text.removesuffix(STATEMENT_ENDS.get(lexicon.lang, "."))


def joined(statements, lexicon: Lexicon) -> str:
    """One sentence of several statements."""
    text = JOINERS[lexicon.lang].join(say(statement, lexicon) for statement in statements)
    return capitalize(text, lexicon.lang) + STATEMENT_ENDS.get(lexicon.lang, ".")


def paragraph(statements, lexicon: Lexicon) -> str:
    """One sentence a statement."""
    blank = " "
    if lexicon.lang == "zh":
        blank = ""
    return blank.join(joined([statement], lexicon) for statement in statements)


# ---- what gives a label away ---------------------------------------------------------------------


def word_overlap(first: str, second: str, lang: str) -> float:
    """How many of the words of two texts are in both (Jaccard). *Units*: 0 to 1."""
    bags = []
    for text in (first, second):
        text = lower(text, lang)
        bags.append({text[start:end] for start, end in words_of(text, lang)})
    return len(bags[0] & bags[1]) / len(bags[0] | bags[1])


def best_threshold(scores, positive) -> float:
    """The accuracy of the best cut, in either direction, that says "positive" on one side of it.

    best_threshold([0.2, 0.8, 0.9], [False, True, False]) -> 0.6667
    *Units*: 0.5 to 1 for balanced labels; the cut is fitted to the very pairs that it judges.
    """
    best = 0
    for cut in set(scores):  # the lowest says "positive" everywhere, the other way round nowhere
        right = sum((score >= cut) == label for score, label in zip(scores, positive, strict=True))
        best = max(best, right, len(scores) - right)
    return best / len(scores)


def fact_keys(statements):
    """What a reader of one side sees: each fact's relation and value."""
    return sorted((statement.fact.relation, statement.fact.value) for statement in statements)


def one_side_accuracy(train: list[Pair], test: list[Pair], side: str) -> float:
    """How often the labels of the training facts' relations and values guess a test label.

    side is "first" or "second". Each fact votes with the shares of its training labels.
    """
    counts = defaultdict(Counter)
    for pair in train:
        for key in fact_keys(getattr(pair, side)):
            counts[key][pair.label] += 1
    labels = sorted({pair.label for pair in train})
    right = 0.0
    for pair in test:
        votes = Counter(dict.fromkeys(labels, 0.0))
        for key in fact_keys(getattr(pair, side)):
            for label, number in counts[key].items():
                votes[label] += number / counts[key].total()
        most = max(votes.values())
        winners = [label for label in labels if votes[label] > most - 1e-9]
        if pair.label in winners:
            right += 1 / len(winners)
    return right / len(test)


def overlap_accuracy(pairs, positive, say_side, lexicon):
    """`best_threshold` of the word overlap, label `positive` against all others."""
    scores = []
    for pair in pairs:
        first, second = say_side(pair.first, lexicon), say_side(pair.second, lexicon)
        scores.append(word_overlap(first, second, lexicon.lang))
    return best_threshold(scores, [pair.label == positive for pair in pairs])


def measures(pairs: dict[str, dict[str, list[Pair]]], english: Lexicon) -> dict[str, float]:
    """What is printed and told in the readme: accuracies on English test pairs, by shortcuts."""
    paraphrase, inference = pairs["paraphrases/pairs"], pairs["pairs"]
    decided = [pair for pair in inference["test"] if pair.label != "neutral"]
    return {
        "paraphrases/pairs: word overlap": overlap_accuracy(
            paraphrase["test"], "1", joined, english
        ),
        "paraphrases/pairs: sentence 1 alone": one_side_accuracy(
            paraphrase["train"], paraphrase["test"], "first"
        ),
        "paraphrases/pairs: sentence 2 alone": one_side_accuracy(
            paraphrase["train"], paraphrase["test"], "second"
        ),
        "pairs: hypothesis alone": one_side_accuracy(
            inference["train"], inference["test"], "second"
        ),
        "pairs: premise alone": one_side_accuracy(inference["train"], inference["test"], "first"),
        "pairs: word overlap, entailment or contradiction": overlap_accuracy(
            decided, "entailment", paragraph, english
        ),
    }


# ---- writing the files ---------------------------------------------------------------------------


def make_pairs(facts: list[Fact], lexicons: dict[str, Lexicon]) -> dict[str, dict[str, list[Pair]]]:
    """Folder -> split -> its pairs.

    *Errors*: ValueError for a split whose facts do not give so many.
    """
    names = names_of_values(facts, lexicons)
    pairs = {"paraphrases/pairs": {}, "pairs": {}}
    for split, count in COUNTS.items():
        pairs["paraphrases/pairs"][split] = paraphrases(facts, split, count, names)
        pairs["pairs"][split] = inferences(facts, split, count, names)
        for folder in pairs:
            made = len(pairs[folder][split])
            if made != count:
                raise ValueError(f"{folder} {split}: {made} pairs, needs {count}: see COUNTS.")
    return pairs


def pair_lines(pairs, say_side, lexicon):
    """The lines of one file."""
    lines = ["sentence1\tsentence2\tlabel\n"]
    for pair in pairs:
        first, second = say_side(pair.first, lexicon), say_side(pair.second, lexicon)
        lines.append(f"{first}\t{second}\t{pair.label}\n")
    return lines


def pair_files(pairs, lexicons: dict[str, Lexicon]) -> dict[str, list[str]]:
    """File name -> its lines; training is in English alone."""
    files = {}
    for folder, splits in pairs.items():
        say_side = joined
        if folder == "pairs":
            say_side = paragraph
        for split, members in splits.items():
            for lang, lexicon in lexicons.items():
                if split != "train" or lang == "en":
                    name = f"{folder}/{split}-{lang}.tsv"
                    files[name] = pair_lines(members, say_side, lexicon)
    return files


def write(out: Path, files: dict[str, list[str]]) -> None:
    """Write the files.

    *Errors*: ValueError for a folder that cannot be written.
    """
    for name, lines in files.items():
        path = out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8", newline="\n")
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}. --out needs a writable folder.") from None


def main(argv=None) -> int:
    """Write the pairs; print how many there are and what gives their labels away."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (default: this)")
    args = parser.parse_args(argv)
    try:
        lexicons = {lang: read_lexicon(lang) for lang in LANGS}
        pairs = make_pairs(read_facts(), lexicons)
        files = pair_files(pairs, lexicons)
        write(args.out, files)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    for folder, splits in pairs.items():
        for split, members in splits.items():
            labels = Counter(pair.label for pair in members)
            print(f"{folder:10} {split:6} {len(members):5} pairs {dict(sorted(labels.items()))}")
    size = sum(len("".join(lines).encode()) for lines in files.values())
    print(f"{len(files)} files, {size / 1e6:.2f} MB")
    for name, accuracy in measures(pairs, lexicons["en"]).items():
        print(f"{accuracy:.3f} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
