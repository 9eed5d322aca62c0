"""Rung 5: the bundled world is what its readme says, and nothing of the test leaks into training.

Checks: data/minifacts (its files, and prepare.py, which writes them) and data/tiny_xlmr. Before:
rung 0. Run: pytest tests/test_05_world.py
"""

import json
import re
import unicodedata
from collections import Counter
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from attacks import find_words, lower, redraw, substitute
from data.minifacts import prepare
from data.tiny_xlmr.prepare import (
    all_replacements,
    all_texts,
    mask_tokens,
    pretrain,
    pretraining_texts,
    train_tokenizer,
)
from xlt import TrainingPairs, generator

WORLD = ROOT / "data/minifacts"
LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
SCRIPTS = {
    "ar": "ARABIC",
    "el": "GREEK",
    "hi": "DEVANAGARI",
    "ru": "CYRILLIC",
    "th": "THAI",
    "zh": "CJK",
}


@pytest.fixture(scope="module")
def facts():
    """All facts, each with its split."""
    return prepare.read_facts()


@pytest.fixture(scope="module")
def lexicons():
    """Language -> its lexicon."""
    return {lang: prepare.read_lexicon(lang) for lang in LANGS}


@pytest.fixture(scope="module")
def form_of():
    """Query id -> "question" or "short": `load_data` passes over this key of queries.jsonl."""
    forms = {}
    for line in (WORLD / "queries.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        forms[row["_id"]] = row["form"]
    return forms


# ---- what is shipped -----------------------------------------------------------------------------


def test_prepare_writes_the_shipped_files_byte_for_byte(tmp_path):
    """Claim: the folder is a function of lexicon/, which passes its own checks in 11 languages.

    Number: corpus, queries, dictionary, three splits, synonyms and fillers of 11 languages: 28.
    Catches: hash(), the order of a set, a lexicon that was mended without writing the folder.
    """
    prepare.write(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 28
    for path in files:
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (WORLD / name).read_bytes(), name


def test_the_world_is_as_large_as_its_readme_says(facts):
    """Claim: the table in data/minifacts/readme.md.

    Number: 15 domains, 483 entities, 54 relations, 1787 facts.
    Catches: a table that was not read to its end, a readme of an older world.
    """
    domains = {fact.relation.split(".")[0] for fact in facts}
    assert len(domains) == 15
    assert len({fact.entity for fact in facts}) == 483
    assert len({fact.relation for fact in facts}) == 54
    assert len({fact.id for fact in facts}) == len(facts) == 1787


def test_every_fact_has_queries_and_a_passage_in_every_language(minifacts):
    """Claim: a passage a fact and language; four queries if it is for training, else two.

    Number: 11 * 1787 = 19,657 and 11 * (4 * 1415 + 2 * 372) = 70,444, as the readme says.
    Catches: a language that lacks a fact.
    """
    assert len(minifacts.queries) == 70444
    assert len(minifacts.passages) == 19657
    assert Counter(query.lang for query in minifacts.queries) == dict.fromkeys(LANGS, 6404)
    assert Counter(passage.lang for passage in minifacts.passages) == dict.fromkeys(LANGS, 1787)


def forms_of_facts(minifacts, form_of, split):
    """(fact, language) -> how often it is asked in a question and in a short query."""
    forms = {}
    for position in minifacts.qrels[split]:
        query = minifacts.queries[position]
        forms.setdefault((query.group, query.lang), Counter())[form_of[query.id]] += 1
    return forms


@pytest.mark.parametrize(
    ("split", "facts_of_split", "questions"),
    [("train", 1415, 3), ("dev", 147, 1), ("test", 225, 1)],
)
def test_training_asks_in_three_wordings(minifacts, form_of, split, facts_of_split, questions):
    """Claim: three questions a training fact and language, one of any other; a short query each.

    Number: every fact of the split in 11 languages.
    Catches: a test that weighs one fact three times; a short query that stands for a question.
    """
    forms = forms_of_facts(minifacts, form_of, split)
    assert len(forms) == 11 * facts_of_split
    for key, counts in forms.items():
        assert counts == {"question": questions, "short": 1}, key


def test_short_queries_are_told_apart(minifacts, form_of):
    """Claim: by "form" and by the id; they end in no question mark, questions do, but in Thai.

    Number: 70,444 queries, and the first fact's in English by eye.
    Catches: a question that is called short; a template of the wrong kind.
    """
    texts = {}
    for query in minifacts.queries:
        is_short = form_of[query.id] == "short"
        assert is_short == query.id.startswith("k")
        if query.lang != "th":
            assert is_short != query.text.endswith(("?", ";", "؟", "？")), query
        texts[query.id] = query.text
    assert texts["k0.en"] == "capital of France"
    assert texts["k0.de"] == "Hauptstadt Frankreich"
    wordings = {texts[f"q0{suffix}.en"] for suffix in ("", "b", "c")}
    assert len(wordings) == 3
    assert "What is the official capital of France?" in wordings


@pytest.mark.parametrize("lang", LANGS)
def test_short_queries_are_short(minifacts, form_of, lang):
    """Claim: what one types, in every language.

    Number: at most 0.75 of the letters of a question, on average (chance 1).
    Catches: a question without its mark.
    """
    lengths = {"question": [], "short": []}
    for query in minifacts.queries:
        if query.lang == lang:
            lengths[form_of[query.id]].append(len(query.text))
    means = {form: sum(counts) / len(counts) for form, counts in lengths.items()}
    assert means["short"] < 0.75 * means["question"]


def test_every_query_has_its_answer_in_eleven_languages(minifacts):
    """Claim: one relevant passage a language; of the further training queries that in their own.

    Number: of 70,444 queries 11 * 1787 = 19,657 questions and 11 * 372 = 4,092 held-out short
    queries have eleven, the rest, 46,695 of training, one.
    Catches: an answer in the query's own language alone; a short query without judgements.
    """
    counts = Counter()
    for split, relevant_of in minifacts.qrels.items():
        for position, relevant in relevant_of.items():
            query = minifacts.queries[position]
            langs = sorted(minifacts.passages[passage].lang for passage in relevant)
            is_further = not re.fullmatch(r"q[0-9]+\.[a-z]+", query.id)
            if split == "train" and is_further:
                assert langs == [query.lang], query
            else:
                assert langs == LANGS, query
            counts[len(langs)] += 1
    assert counts == {11: 19657 + 4092, 1: 46695}


def test_training_pairs_every_wording_with_every_language(minifacts):
    """Claim: what answers a fact's question answers its other queries, too, by their group.

    Number: France's capital: four English queries, and a passage in each of 11 languages.
    Catches: a short query that is trained with passages of its own language alone.
    """
    pairs = TrainingPairs(minifacts, LANGS)
    queries = [minifacts.queries[i].id for i in pairs.queries["france.capital"]["en"]]
    assert sorted(queries) == ["k0.en", "q0.en", "q0b.en", "q0c.en"]
    passages = pairs.passages["france.capital"]
    assert {lang: len(positions) for lang, positions in passages.items()} == dict.fromkeys(LANGS, 1)


def test_every_answer_tells_the_fact_that_is_asked_for(minifacts):
    """Claim: the group of a relevant passage is that of its query.

    Number: 11 * 23,749 + 46,695 pairs.
    Catches: ids that are shifted by one.
    """
    for relevant_of in minifacts.qrels.values():
        for query, relevant in relevant_of.items():
            groups = {minifacts.passages[passage].group for passage in relevant}
            assert groups == {minifacts.queries[query].group}


def test_no_two_facts_share_a_question(minifacts):
    """Claim: a question has one gold fact.

    Number: all texts of all languages.
    Catches: homonyms, such as Mercury and mercury.
    """
    group_of = {}
    for query in minifacts.queries:
        key = (query.lang, query.text)
        assert group_of.setdefault(key, query.group) == query.group, query


@pytest.mark.parametrize("lang", sorted(SCRIPTS))
def test_texts_are_in_their_own_script(minifacts, facts, lang):
    """Claim: letters are of the language's script, but for symbols such as Fe and .fr.

    Number: Unicode's name of each letter.
    Catches: an English name that nobody translated.
    """
    symbols = {fact.id: fact.value[1:] for fact in facts if fact.value[0] == "="}
    letters = set()
    for text in [*minifacts.queries, *minifacts.passages]:
        if text.lang == lang:
            letters.update(text.text.replace(symbols.get(text.group, "\0"), ""))
    names = [unicodedata.name(letter) for letter in letters if letter.isalpha()]
    assert len(names) > 20, "no letters: the test is vacuous"
    assert [name for name in names if not name.startswith(SCRIPTS[lang])] == []


def test_a_passage_stands_in_its_paragraph(minifacts):
    """Claim: a candidate is a sentence of its context.

    Number: all passages.
    Catches: the paragraph of another fact or language.
    """
    for passage in minifacts.passages:
        assert passage.text in passage.context, passage


def test_most_paragraphs_hold_other_sentences_too(minifacts):
    """Claim: with context, a passage has something around it.

    Number: more than nine of ten.
    Catches: paragraphs of one sentence.
    """
    longer = [p for p in minifacts.passages if len(p.context) > len(p.text)]
    assert len(longer) > 0.9 * len(minifacts.passages)


# ---- what it says of the world -------------------------------------------------------------------


def test_nothing_is_counted_to_zero(facts):
    """Claim: nobody asks how many legs a fish has, or how many wheels a ship.

    Number: 50 animals with legs and 6 vehicles with wheels.
    Catches: a snake that "has 0 legs".
    """
    counts = [fact.value for fact in facts if fact.relation in ("animal.legs", "vehicle.wheels")]
    assert len(counts) == 56
    assert "#0" not in counts


def test_who_eats_fish_or_insects_does_not_eat_meat(facts):
    """Claim: what people say of the animal.

    Number: nine animals, by hand.
    Catches: a dolphin that "mainly eats meat".
    """
    diets = {fact.entity: fact.value for fact in facts if fact.relation == "animal.diet"}
    for animal in ("dolphin", "seal", "penguin", "shark", "salmon", "tuna"):
        assert diets[animal] == "fish_food"
    for animal in ("frog", "spider", "scorpion"):
        assert diets[animal] == "insects_food"
    assert diets["tiger"] == "meat"


def test_hindi_answers_how_an_animal_is_born(minifacts, facts):
    """Claim: "by giving birth to live young", or "by laying eggs", as the question asks.

    Number: all answers end in देकर, "by giving".
    Catches: "eggs", an answer to "what".
    """
    births = {fact.id for fact in facts if fact.relation == "animal.birth"}
    answers = set()
    for query in minifacts.queries:
        if query.lang == "hi" and query.group in births:
            answers.add(query.answer)
    assert answers == {"जीवित बच्चे देकर", "अंडे देकर"}


# ---- splits and leaks ----------------------------------------------------------------------------


def test_splits_are_as_large_as_the_readme_says(facts):
    """Claim: by fact, about 8 % dev and 12.5 % test.

    Number: 1415, 147 and 225.
    Catches: a share that is rounded otherwise.
    """
    counts = Counter(fact.split for fact in facts)
    assert counts == {"train": 1415, "dev": 147, "test": 225}


def test_splits_share_no_fact(minifacts):
    """Claim: a fact's queries are all in one split.

    Number: three sets of groups, no two of which meet.
    Catches: a split by query, with which the German question trains for the English one.
    """
    groups = {}
    for split, relevant_of in minifacts.qrels.items():
        groups[split] = {minifacts.queries[query].group for query in relevant_of}
    assert groups["train"].isdisjoint(groups["dev"])
    assert groups["train"].isdisjoint(groups["test"])
    assert groups["dev"].isdisjoint(groups["test"])


def test_entities_of_held_out_facts_occur_in_training(facts):
    """Claim: a test question is about somebody whom training knows.

    Number: all held-out facts.
    Catches: an entity all of whose facts are held out.
    """
    trained = {fact.entity for fact in facts if fact.split == "train"}
    assert {fact.entity for fact in facts} == trained


def test_relations_of_held_out_facts_occur_in_training(facts):
    """Claim: a test question asks what training has asked of others.

    Number: all relations.
    Catches: a relation with few facts, all held out.
    """
    trained = {fact.relation for fact in facts if fact.split == "train"}
    assert {fact.relation for fact in facts} == trained


def training_paragraphs(minifacts):
    """(entity, language) -> the paragraphs around its training passages."""
    paragraphs = {}
    for relevant in minifacts.qrels["train"].values():
        for position in relevant:
            passage = minifacts.passages[position]
            entity = passage.group.split(".")[0]
            paragraphs.setdefault((entity, passage.lang), set()).add(passage.context)
    return paragraphs


def test_no_training_paragraph_tells_a_held_out_fact(minifacts, facts, lexicons):
    """Claim: no statement of a held-out fact, in any wording, is in a paragraph of its entity.

    Number: 372 facts in 11 languages and 3 wordings or more, so at least 12,276 statements.
    Catches: paragraphs that hold all facts of an entity.
    """
    paragraphs = training_paragraphs(minifacts)
    statements = 0
    for fact in facts:
        if fact.split == "train":
            continue
        for lang, lexicon in lexicons.items():
            for template in lexicon.wordings[fact.relation, "s"]:
                statement = prepare.render(template, fact, lexicon)
                statements += 1
                for paragraph in paragraphs[fact.entity, lang]:
                    assert statement not in paragraph, (fact, lang)
    assert statements >= 12276


def test_pretraining_reads_training_facts_alone(facts, lexicons):
    """Claim: no text of a held-out fact is rendered.

    Number: the facts of four entities, some of which are held out.
    Catches: a tiny_xlmr that has read the test's answers.
    """
    four_entities = [fact for fact in facts if fact.entity in ("france", "tiger", "gold", "violin")]
    trained = {fact.id for fact in four_entities if fact.split == "train"}
    assert len(trained) < len(four_entities), "nothing held out: the test is vacuous"
    texts = pretraining_texts(four_entities, {"en": lexicons["en"], "th": lexicons["th"]}, seed=0)
    assert {key.fact_id for key in texts} == trained


def test_pretraining_reads_five_kinds_of_text(facts, lexicons):
    """Claim: question, short query, statement, the entity's name and the value's.

    Number: the first fact, which is France's capital; its Thai names by hand from terms.tsv.
    Catches: names that the model has never seen alone.
    """
    texts = pretraining_texts(facts[:1], {"en": lexicons["en"], "th": lexicons["th"]}, seed=0)
    assert sorted(texts) == [("france.capital", kind) for kind in "ekqsv"]
    assert texts["france.capital", "e"] == {"en": ["France"], "th": ["ฝรั่งเศส"]}
    assert texts["france.capital", "v"] == {"en": ["Paris"], "th": ["ปารีส"]}
    assert "The capital of France is Paris." in texts["france.capital", "s"]["en"]
    assert "capital of France" in texts["france.capital", "k"]["en"]


def test_replacements_are_synonyms_and_fillers():
    """Claim: of a word in both lists both, of a word in one list that list's.

    Number: by hand.
    Catches: fillers that push the synonyms of the same word out of the texts.
    """
    synonyms, fillers = {"which": ["what"], "big": ["large"]}, {"which": ["exactly which"]}
    lexicon = prepare.Lexicon("en", {}, {}, synonyms, fillers, {})
    merged = all_replacements(lexicon)
    assert merged == {"which": ["what", "exactly which"], "big": ["large"]}
    assert synonyms == {"which": ["what"], "big": ["large"]}, "the lexicon itself has changed"


# ---- synonyms, fillers and dictionary ------------------------------------------------------------


def shipped_table(folder, lang):
    """word -> replacements, as attacks read them."""
    return json.loads((WORLD / f"{folder}/{lang}.json").read_text(encoding="utf-8"))


def shipped_synonyms(lang):
    """word -> replacements of the same meaning."""
    return shipped_table("synonyms", lang)


@pytest.mark.parametrize("lang", LANGS)
def test_there_are_enough_synonyms_in_every_language(lang):
    """Claim: a table to attack with.

    Number: at least 150 words, each with a replacement.
    Catches: a language that seems robust because nothing can be replaced.
    """
    table = shipped_synonyms(lang)
    assert len(table) >= 150
    assert min(len(replacements) for replacements in table.values()) >= 1


FILLERS = {
    "ar": ["بالضبط", "تحديدا", "يا ترى"],
    "de": ["eigentlich", "genau", "denn"],
    "el": ["ακριβώς", "άραγε"],
    "en": ["exactly", "precisely", "just"],
    "es": ["exactamente", "precisamente"],
    "hi": ["आख़िर क", "कुल मिलाकर"],
    "ru": ["именно", " же"],
    "th": ["กันแน่", "ก็คือ"],
    "tr": ["acaba", "tam olarak"],
    "vi": ["chính xác", "là gì thế"],
    "zh": ["究竟", "到底"],
}


@pytest.mark.parametrize("lang", LANGS)
def test_fillers_are_no_synonyms(lang):
    """Claim: an attack by synonyms replaces words; "what exactly" for "what" is another table's.

    Number: two or three fillers a language by hand, each of which fillers/ has and synonyms/ not.
    Catches: a robustness to "acaba" that counts as one to synonyms.
    """
    synonyms = shipped_synonyms(lang)
    fillers = shipped_table("fillers", lang)
    assert len(fillers) >= 4
    for filler in FILLERS[lang]:
        assert any(filler in text for text in chain(*fillers.values())), filler
        for word, replacements in synonyms.items():
            added = [text for text in replacements if filler in text and filler not in word]
            assert added == [], (word, filler)
    for word, replacements in fillers.items():
        assert set(replacements).isdisjoint(synonyms.get(word, []))


def test_german_questions_can_do_without_fillers(minifacts, form_of):
    """Claim: "eigentlich" is rare.

    Number: in fewer than 5 % of the German questions.
    Catches: templates that all begin "Was ist eigentlich".
    """
    questions = []
    for query in minifacts.queries:
        if query.lang == "de" and form_of[query.id] == "question":
            questions.append(query.text)
    assert len(questions) == 3 * 1415 + 372
    assert sum("eigentlich" in text for text in questions) < 0.05 * len(questions)


@pytest.mark.parametrize("lang", LANGS)
def test_most_replacements_occur_in_no_wording(lexicons, lang):
    """Claim: fine-tuning does not see them, so an attack is news to the model.

    Number: more than half, by a plain look at all templates.
    Catches: synonyms that are taken from the other wordings.
    """
    templates = []
    for options in lexicons[lang].wordings.values():
        templates += [re.sub(r"\{[^}]*\}", "|", template) for template in options]
    everything = lower("\n".join(templates))
    replacements = list(chain(*shipped_synonyms(lang).values()))
    unseen = [word for word in replacements if lower(word) not in everything]
    assert len(unseen) > len(replacements) / 2


@pytest.mark.parametrize("lang", LANGS)
def test_questions_can_be_attacked_in_every_language(minifacts, form_of, lang):
    """Claim: test questions have words to replace, nearly all of them.

    Number: 2.5 a question on average, and at most 2 % of the 225 without any. (A short query has
    0.9 to 1.3, and up to 16 % of them have none.)
    Catches: a table of one language whose words the questions do not use.
    """
    table = shipped_synonyms(lang)
    counts = []
    for position in minifacts.qrels["test"]:
        query = minifacts.queries[position]
        if query.lang == lang and form_of[query.id] == "question":
            counts.append(len(find_words(query.text, table, lang)))
    assert len(counts) == 225
    assert sum(counts) / 225 >= 2.5
    assert counts.count(0) <= 0.02 * 225


def dictionary_rows():
    """The rows of dictionary.tsv: en, language, word, translation."""
    lines = (WORLD / "dictionary.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


def test_the_dictionary_has_enough_words_of_ten_languages():
    """Claim: English to each of the others.

    Number: at least 150 words a language.
    Catches: a language that code-switching cannot use.
    """
    counts = Counter(lang for _, lang, _, _ in dictionary_rows())
    assert sorted(counts) == ["ar", "de", "el", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    assert min(counts.values()) >= 150


def test_no_word_of_the_dictionary_is_translated_by_itself():
    """Claim: a translation changes the text.

    Number: all rows; they begin with "en".
    Catches: international words, with which an attack would do nothing.
    """
    for source, _, word, translation in dictionary_rows():
        assert source == "en"
        assert word != translation


# ---- from tables to facts ------------------------------------------------------------------------


def test_a_domain_table_becomes_facts(tmp_path):
    """Claim: a row and a column make a fact, "-" makes none, the next "@" begins a new table.

    Number: a country without a phone code, and a cat, by eye.
    Catches: columns of the first table used for the second; disputed facts taken along.
    """
    path = tmp_path / "facts.tsv"
    path.write_text("@ country\tcapital\tphone\nfrance\tparis\t-\n@ animal\tlegs\ncat\t#4\n")
    facts = prepare.read_facts(path)
    assert [fact[:4] for fact in facts] == [
        ("france.capital", "france", "country.capital", "paris"),
        ("cat.legs", "cat", "animal.legs", "#4"),
    ]


def test_a_fact_is_held_out_only_if_its_entity_has_another(tmp_path):
    """Claim: every entity keeps a fact in training.

    Number: three entities of one fact each: nothing is held out, though each relation should give
    one to the test.
    Catches: a test that asks for a name that training never saw.
    """
    path = tmp_path / "facts.tsv"
    path.write_text("@ animal\tlegs\ncat\t#4\nant\t#6\nhen\t#2\n")
    assert [fact.split for fact in prepare.read_facts(path)] == ["train", "train", "train"]


@pytest.mark.parametrize("row", ["cat\t#4\t#5", "ant\t#8"])
def test_a_broken_table_is_refused(tmp_path, row):
    """Claim: a row with a cell too many, and an entity that stands twice.

    Number: line 3.
    Catches: cells shifted into the wrong column.
    """
    path = tmp_path / "facts.tsv"
    path.write_text(f"@ animal\tlegs\nant\t#6\n{row}\n")
    with pytest.raises(ValueError, match="facts.tsv:3: .* stands twice or has not"):
        prepare.read_facts(path)


@pytest.mark.parametrize(
    ("read", "row"),
    [
        (prepare.read_synonyms, "big\tlarge"),
        (prepare.read_words, "big\tgroß"),
        (prepare.read_words, "where"),
    ],
)
def test_a_broken_lexicon_is_refused(tmp_path, read, row):
    """Number: big stands in line 1; "where" has no TAB. Catches: the first row lost in silence; an
    IndexError with its traceback.
    """
    path = tmp_path / "table.tsv"
    path.write_text(f"big\thuge\n{row}\n")
    with pytest.raises(ValueError, match="table.tsv:2: "):
        read(path)


# ---- from a template to a sentence ---------------------------------------------------------------


CAT = prepare.Fact("cat.cover", "cat", "animal.cover", "fur")
RUSSIAN = prepare.Lexicon(
    lang="ru",
    terms={"cat": {"name": "кошка", "g": "f"}, "fur": {"name": "шерсть", "g": "m"}},
    wordings={},
    synonyms={},
    fillers={},
    words={},
)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{e}: {v}", "Кошка: шерсть"),
        ("«{e.name}»", "«Кошка»"),
        ("[e.g m:был|f:была] {e}", "Была кошка"),
        ("[v 1:нога|*:ног]", "Ног"),
        ("[e.g f:была {e}|*:был {v.gen}]", "Была кошка"),  # fur has no "gen", and needs none
    ],
)
def test_slots_and_choices_are_filled(template, sentence):
    """Claim: slots, columns, choices by a column, the rest "*", a slot within a choice.

    Number: by eye; the first letter is a capital, also behind a quotation mark.
    Catches: entity and value exchanged; slots filled first, so that no choice holds one.
    """
    assert prepare.render(template, CAT, RUSSIAN) == sentence


def test_a_constant_stands_for_itself():
    """Claim: a value =.fr or #8 is the same in every language.

    Number: by eye.
    Catches: the sign left in the sentence.
    """
    fact = prepare.Fact("cat.legs", "cat", "animal.legs", "#4")
    assert prepare.render("{e} {v}", fact, RUSSIAN) == "Кошка 4"


def test_a_choice_that_fits_nothing_is_refused():
    """Claim: language, fact and template are named.

    Number: a masculine form alone, for a feminine noun.
    Catches: an empty word.
    """
    with pytest.raises(ValueError, match="ru cat.cover: 'f' has no choice in"):
        prepare.render("[e.g m:был] {e}", CAT, RUSSIAN)


# ---- the checks of prepare.py see planted mistakes -----------------------------------------------


FRANCE = prepare.Fact("france.capital", "france", "country.capital", "paris", "train")
SPAIN = prepare.Fact("spain.capital", "spain", "country.capital", "madrid", "test")
QUESTIONS = ["What is the capital of {e}?", "Which city rules {e}?", "Where is {e} ruled from?"]
SYNONYMS = {"capital": ["seat"]}
FILLED = {
    "what": ["exactly what"],
    "which": ["exactly which"],
    "where": ["exactly where"],
    "is": ["actually is"],
}
STATEMENTS = ["{v} is the capital of {e}.", "{v} rules {e}.", "{e} is ruled from {v}."]
SHORT = ["capital of {e}"]


def english(questions=QUESTIONS, short=SHORT, synonyms=SYNONYMS, fillers=FILLED, spain="Spain"):
    """A lexicon of two countries without a mistake, unless one is given."""
    names = {"france": "France", "spain": spain, "paris": "Paris", "madrid": "Madrid"}
    wordings = {"q": questions, "s": STATEMENTS, "k": short}
    return prepare.Lexicon(
        lang="en",
        terms={term: {"name": name} for term, name in names.items()},
        wordings={("country.capital", kind): texts for kind, texts in wordings.items()},
        synonyms=synonyms,
        fillers=fillers,
        words={},
    )


def test_the_checks_have_nothing_to_say_about_a_good_lexicon():
    """Claim: no sentence is complained about; of the words, only that one is not 150.

    Number: one synonym.
    Catches: a check that always complains, with which the tests below would be vacuous.
    """
    assert list(prepare.check_sentences([FRANCE, SPAIN], english())) == []
    complaints = list(prepare.check_words([FRANCE, SPAIN], english()))
    assert complaints == ["en: 1 synonyms, needs 150"]


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ("What is the capital?", "slots [] in"),
        ("What is {v} of {e}?", "slots ['e', 'v'] in"),
        ("What is the capital of {e.dative}?", "'france' has no column 'dative'"),
        ("What is the столица of {e}?", "letters ['с', 'т', 'о', 'л', 'и', 'ц', 'а']"),
        ("What is the  capital of {e}?", "blanks"),
        ("What is the capital of {e}", "no '?'"),
        ("What is the [capital of {e}?", "a {, blanks"),
    ],
)
def test_a_mistake_in_a_question_is_seen(question, complaint):
    """Claim: a missing slot, the answer in the question, an unknown form, a foreign letter, two
    blanks, a missing question mark, a bracket that is left open.

    Number: one mistake in one of three questions.
    Catches: a check that is left out.
    """
    broken = english(questions=[*QUESTIONS[:2], question])
    complaints = "\n".join(prepare.check_sentences([FRANCE], broken))
    assert complaint in complaints


def test_a_wording_too_few_is_seen():
    """Claim: each relation needs three questions and a short query.

    Number: two, and none.
    Catches: a relation that was begun and not finished.
    """
    complaints = list(prepare.check_sentences([FRANCE], english(QUESTIONS[:2], short=[])))
    assert complaints == [
        "en country.capital q: 2 wordings, needs 3",
        "en country.capital k: 0 wordings, needs 1",
    ]


@pytest.mark.parametrize(
    ("short", "complaint"),
    [
        ("capital", "slots [] in"),
        ("{e} {v}", "slots ['e', 'v'] in"),
        ("capital of {e}?", "a short query ends in '?'"),
        ("Which city rules {e}.", "a short query ends in '.'"),
    ],
)
def test_a_mistake_in_a_short_query_is_seen(short, complaint):
    """Claim: it names the entity, not the answer, and is no sentence.

    Number: one mistake.
    Catches: a question or a statement that is marked "k".
    """
    complaints = "\n".join(prepare.check_sentences([FRANCE], english(short=[short])))
    assert complaint in complaints


def test_a_short_query_keeps_its_first_letter():
    """Claim: people type "capital of France"; questions begin with a capital.

    Number: by eye.
    Catches: `render`, with which every short query looks like a title.
    """
    assert prepare.short_query(FRANCE, english()) == "capital of France"


def test_two_facts_with_one_question_are_seen():
    """Claim: homonyms are told apart, or refused.

    Number: Spain, under the name of France.
    Catches: a question with two gold facts, of which one counts as wrong.
    """
    complaints = list(prepare.check_sentences([FRANCE, SPAIN], english(spain="France")))
    assert len(complaints) == 4, "one a wording, one for the short query"
    assert "asks for france.capital and for spain.capital" in complaints[0]


@pytest.mark.parametrize(
    ("synonyms", "complaint"),
    [
        ({"Capital": ["seat"]}, "synonym 'Capital': not lower case"),
        ({"capital": []}, "bad replacements []"),
        ({"capital": ["capital"]}, "bad replacements ['capital']"),
        ({"capital": ["seat", "seat"]}, "bad replacements ['seat', 'seat']"),
        ({"river": ["stream"]}, "'river' occurs in no wording"),
        ({"spain": ["iberia"]}, "'spain' is part of a name or a value"),
        ({"capital": ["столица"]}, "foreign letters"),
        ({"capital": ["city"]}, "only 0 of 1 replacements occur in no wording"),
    ],
)
def test_a_mistake_in_the_synonyms_is_seen(synonyms, complaint):
    """Claim: what cannot be found, changes nothing, changes the answer or is no news.

    Number: one mistake.
    Catches: a check that is left out.
    """
    complaints = "\n".join(prepare.check_words([FRANCE, SPAIN], english(synonyms=synonyms)))
    assert complaint in complaints


@pytest.mark.parametrize(
    ("fillers", "complaint"),
    [
        ({"what": ["exactly what"]}, "en: 1 words with a filler, needs 4"),
        ({"Capital": ["exactly capital"]}, "filler 'Capital': not lower case"),
        ({"river": ["river exactly"]}, "filler 'river' occurs in no wording"),
        ({"capital": ["seat"]}, "filler 'capital': ['seat'] are synonyms, too"),
    ],
)
def test_a_mistake_in_the_fillers_is_seen(fillers, complaint):
    """Claim: as in the synonyms; and none stands in both tables.

    Number: one mistake.
    Catches: a check that is left out.
    """
    complaints = "\n".join(prepare.check_words([FRANCE, SPAIN], english(fillers=fillers)))
    assert complaint in complaints


def test_a_term_that_a_language_lacks_is_seen(lexicons):
    """Claim: every language names what English names.

    Number: one of the terms is taken out of Thai.
    Catches: a fact that fails in one language only.
    """
    terms = dict(lexicons["th"].terms)
    del terms["violin"]
    complaints = prepare.verify([], lexicons["th"]._replace(terms=terms))
    assert "th: 'violin' is missing in terms.tsv or in en/terms.tsv" in complaints


def test_nothing_is_written_of_a_world_with_a_mistake(tmp_path, monkeypatch):
    """Claim: all complaints at once, and no file.

    Number: one complaint in each of 11 languages.
    Catches: a folder that is written although its lexicon is broken.
    """

    def complain(facts, lexicon):
        """Instead of `verify`."""
        return [f"{lexicon.lang} is broken"]

    monkeypatch.setattr(prepare, "verify", complain)
    with pytest.raises(ValueError, match="de is broken(.|\n)*11 problems in lexicon/"):
        prepare.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_language_can_be_checked_and_sampled(capsys):
    """Claim: --check prints so many facts, with their texts, and the number of problems.

    Number: two facts, no problem, exit code 0.
    Catches: a check that writes, or that says nothing.
    """
    assert prepare.main(["--check", "zh", "--sample", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert [line.count(" | ") for line in lines] == [3, 3, 0]
    assert lines[2] == "0 problems"


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lang", "text", "words", "spans"),
    [
        # Whole words, whatever their case; "capitals" is another word
        ("en", "Capital? The capital's capitals", {"capital"}, [(0, 7), (13, 20)]),
        # The longest match, also over a blank
        ("vi", "thủ đô của Pháp", {"thủ đô", "đô"}, [(0, 6)]),
        ("zh", "法国的首都城市", {"首都", "首都城市"}, [(3, 7)]),
        # \\w would end a word at its vowel sign, and begin one behind it
        ("hi", "राजधानी क्या है", {"राज", "क्या"}, [(8, 12)]),
        ("hi", "कीमत", {"मत"}, []),
        # Where no spaces are written, a word begins anywhere but ends at no mark
        ("th", "ที่ไหน", {"ท"}, []),
        ("th", "ที่ไหน", {"ไหน"}, [(3, 6)]),
    ],
)
def test_words_are_found_whole_in_every_script(lang, text, words, spans):
    """Claim: spans of the table's words, the longest first, whole in each language's way.

    Number: by eye.
    Catches: \\w and split(), with which half of the languages are not attacked.
    """
    assert find_words(text, words, lang) == spans


def test_a_substitution_leaves_the_rest_of_the_text():
    """Claim: each span is replaced where it was.

    Number: the first replacement is shorter, the second longer than its word.
    Catches: positions that move after the first edit.
    """
    edits = {(0, 3): "1", (8, 13): "threefold"}
    assert substitute("one two three", edits) == "1 two threefold"


def test_redrawn_words_keep_their_capital():
    """Claim: each word is itself or its replacement, with the capital that the word has.

    Number: two words, four texts; 64 draws miss one of them with chance 4 * (3/4)^64 < 1e-7.
    Catches: "Iyi" for the Turkish capital "İyi"; the word itself, which is never drawn.
    """
    table = {"hangi": ["iyi"], "kent": ["şehir"]}
    rng = generator(0, "test")
    texts = {redraw("Hangi kent?", table, "tr", rng) for _ in range(64)}
    assert texts == {"Hangi kent?", "İyi kent?", "Hangi şehir?", "İyi şehir?"}


# ---- how the bundled encoder is made -------------------------------------------------------------


def test_tokens_are_masked_as_bert_does():
    """Claim: of 15 % of the tokens 80 % become <mask>, 10 % another token, 10 % stay.

    Number: n 100,000 tokens of id 50 in a vocabulary of 1,000; five sd are 0.0057 for the chosen
    share, 0.0164 and 0.0123 for those among 15,000. (A random token is 50 again in one of 995.)
    Catches: 80 % of all tokens; the shares exchanged.
    """
    ids = torch.full((100, 1000), 50)
    corrupted, chosen = mask_tokens(ids, 4, 1000, generator(0, "test"))
    values = corrupted[chosen]
    assert abs(chosen.float().mean() - 0.15) < 0.0057
    assert abs((values == 4).float().mean() - 0.8) < 0.0164
    assert abs((values == 50).float().mean() - 0.1) < 0.0123
    assert torch.equal(corrupted[~chosen], ids[~chosen])


def test_special_tokens_are_never_masked():
    """Claim: <s>, padding and </s> stay.

    Number: the five ids below 5, a thousand times.
    Catches: a model that learns to predict padding.
    """
    special = torch.arange(5).repeat(1000, 1)
    corrupted, chosen = mask_tokens(special, 4, 1000, generator(0, "test"))
    assert not chosen.any()
    assert torch.equal(corrupted, special)


def test_no_token_becomes_a_special_one_but_the_mask():
    """Claim: the random tokens are ordinary ones.

    Number: 5,000 tokens in a vocabulary of ten, 75 of them random: any of 5 to 9. The mask is 4.
    Catches: random tokens from the whole vocabulary, half of which would be special here.
    """
    corrupted, _ = mask_tokens(torch.full((1000, 5), 7), 4, 10, generator(0, "test"))
    assert corrupted.unique().tolist() == [4, 5, 6, 7, 8, 9]


def test_pretraining_twice_gives_the_same_weights(facts, lexicons):
    """Claim: bit for bit, from the seed alone.

    Number: three steps of a model of 16 dimensions on the facts of four entities.
    Catches: weights drawn before the seed is set.
    """
    four_entities = [fact for fact in facts if fact.entity in ("france", "tiger", "gold", "violin")]
    texts = pretraining_texts(four_entities, lexicons, seed=0)
    tokenizer = train_tokenizer(all_texts(texts), 600)
    args = SimpleNamespace(
        seed=0, dim=16, layers=1, steps=3, batch_size=4, pairs=4, lr=0.01, tau=0.1, aligned=0.5
    )
    first = pretrain(texts, tokenizer, args).state_dict()
    torch.rand(100)
    for name, weight in pretrain(texts, tokenizer, args).state_dict().items():
        assert torch.equal(weight, first[name]), name


# ---- the bundled encoder -------------------------------------------------------------------------


def test_the_tokenizer_knows_every_character(minifacts, encoder):
    """Claim: no word of the world has an unknown piece.

    Number: all words between blanks of 90,101 texts; more than 20,000 are distinct.
    Catches: a tokenizer of the training texts alone.
    """
    words = set()
    for text in [*minifacts.queries, *minifacts.passages]:
        words.update(text.text.split())
    assert len(words) > 20000
    pieces = set()
    for ids in encoder.tokenizer(sorted(words))["input_ids"]:
        pieces.update(ids)
    assert encoder.tokenizer.unk_token_id not in pieces


def test_a_tokenizer_trained_twice_is_the_same(minifacts):
    """Claim: the same texts in another order give the same file.

    Number: 497 queries, 1,500 pieces.
    Catches: tokenizers' UnigramTrainer, whose scores differ by up to 0.1 from run to run.
    """
    lines = [query.text for query in minifacts.queries[::142]]
    first = train_tokenizer(lines, 1500)
    second = train_tokenizer(lines[::-1], 1500)
    assert len(first) == 1500, "no pieces: the test is vacuous"
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_the_bundled_encoder_is_small(encoder):
    """Claim: it fits a repository and trains on a laptop.

    Number: at most 4 million parameters, 8 MB on disk.
    Catches: weights saved in fp32, or a second copy of them.
    """
    assert sum(parameter.numel() for parameter in encoder.parameters()) <= 4_000_000
    files = [path for path in (ROOT / "data/tiny_xlmr").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000


def test_the_bundled_encoder_is_an_xlm_r(encoder):
    """Claim: architecture and special tokens are XLM-R's.

    Number: <s> 0, <pad> 1, </s> 2, <unk> 3.
    Catches: code that is right for this encoder and wrong for the real one.
    """
    tokenizer = encoder.tokenizer
    assert encoder.model.config.model_type == "xlm-roberta"
    assert tokenizer.bos_token_id == 0
    assert tokenizer.pad_token_id == 1
    assert tokenizer.eos_token_id == 2
    assert tokenizer.unk_token_id == 3


def test_the_bundled_encoder_knows_translations(minifacts, encoder):
    """Claim: it is pre-trained: a statement is nearer to its translation than to other statements.

    Number: 100 English statements and their German ones: at least 50 are nearest, chance is 1.
    Catches: weights that are lost or read in the wrong order.
    """
    by_id = {passage.id: passage for passage in minifacts.passages}
    english_texts = [by_id[f"p{number}.en"] for number in range(0, 1800, 18)]
    german_texts = [by_id[f"p{number}.de"] for number in range(0, 1800, 18)]
    english_vectors = encoder.encode(english_texts, "passage")
    german_vectors = encoder.encode(german_texts, "passage")
    nearest = (english_vectors @ german_vectors.T).argmax(dim=1)
    assert int((nearest == torch.arange(100)).sum()) >= 50
