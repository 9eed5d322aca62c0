"""Rung 5: the bundled world is what its readme says, and nothing of the test leaks into training.

Builds: data/minifacts/prepare.py, data/tiny_xlmr. Before: rung 0. Run: pytest tests/test_05_world.py
"""

import json
import re
import unicodedata
from collections import Counter

import pytest
from conftest import ROOT

from attacks import find_words, lower, redraw, substitute
from data.minifacts import prepare
from xlt import generator

LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
SCRIPTS = {"ar": "ARABIC", "el": "GREEK", "hi": "DEVANAGARI", "ru": "CYRILLIC", "th": "THAI", "zh": "CJK"}


@pytest.fixture(scope="module")
def facts():
    return prepare.read_facts()


@pytest.fixture(scope="module")
def lexicons():
    return {lang: prepare.read_lexicon(lang) for lang in LANGS}


def test_prepare_writes_the_shipped_files_byte_for_byte(tmp_path):
    """Claim: the folder is a function of lexicon/. Catches: hash(), set order, a forgotten commit."""
    prepare.write(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(made) == 6 + len(LANGS)
    for path in made:
        assert (tmp_path / path).read_bytes() == (ROOT / "data/minifacts" / path).read_bytes(), path


def test_the_world_is_as_large_as_promised(minifacts, facts):
    """Number: at least 12 domains, 400 entities, 40 relations, 1,800 facts, in 11 languages each."""
    assert len({f.relation.split(".")[0] for f in facts}) >= 12
    assert len({f.entity for f in facts}) >= 400
    assert len({f.relation for f in facts}) >= 40
    assert len(facts) >= 1800 and len({f.id for f in facts}) == len(facts)
    assert minifacts.langs() == LANGS
    assert len(minifacts.queries) == len(minifacts.passages) == 11 * len(facts)


def test_every_query_has_one_gold_fact_in_eleven_languages(minifacts):
    """Claim: 11 relevant passages, one a language, all of one group. Catches: a shifted id."""
    for rows in minifacts.qrels.values():
        for query, relevant in rows.items():
            assert sorted(minifacts.passages[p].lang for p in relevant) == LANGS
            assert {minifacts.passages[p].group for p in relevant} == {minifacts.queries[query].group}


def test_no_two_facts_share_a_question(minifacts):
    """Claim: a question text has one gold fact. Catches: homonyms such as Mercury and mercury."""
    asked = {}
    for q in minifacts.queries:
        assert asked.setdefault((q.lang, q.text), q.group) == q.group, q


def test_splits_share_entities_and_relations_but_no_fact(facts):
    """Claim: every held-out fact's entity and relation occur in training. Number: test 200 to 260."""
    by_split = {s: [f for f in facts if f.split == s] for s in ("train", "dev", "test")}
    assert 200 <= len(by_split["test"]) <= 260 and len(by_split["dev"]) >= 120
    for name in ("dev", "test"):
        for field in ("entity", "relation"):
            known = {getattr(f, field) for f in by_split["train"]}
            assert {getattr(f, field) for f in by_split[name]} <= known


def test_no_training_text_tells_a_held_out_fact(minifacts, facts, lexicons):
    """Claim: no statement of a held-out fact, in any wording, is in a training paragraph of its entity.

    Catches: paragraphs that hold all facts of an entity.
    """
    held = {f.id: f for f in facts if f.split != "train"}
    paragraphs = {}
    for query, relevant in minifacts.qrels["train"].items():
        assert minifacts.queries[query].group not in held
        for passage in [minifacts.passages[p] for p in relevant]:
            key = (passage.group.split(".")[0], passage.lang)
            paragraphs.setdefault(key, set()).add(passage.context)
    looked = 0
    for lang, lexicon in lexicons.items():
        for fact in held.values():
            told = [prepare.render(t, fact, lexicon) for t in lexicon.wordings[fact.relation, "s"]]
            for paragraph in paragraphs[fact.entity, lang]:
                looked += 1
                assert not any(text in paragraph for text in told), (fact.id, paragraph)
    assert looked >= 11 * len(held)


def test_pretraining_reads_training_facts_alone(facts, lexicons):
    """Claim: not one rendered text is of a held-out fact. Number: 4 kinds (question, statement, the
    names of entity and value) x training facts."""
    from data.tiny_xlmr.prepare import pretraining_texts

    some = [f for f in facts if f.entity in ("france", "tiger", "gold", "violin")]
    texts = pretraining_texts(some, {k: lexicons[k] for k in ("en", "th")}, seed=0)
    train = {f.id for f in some if f.split == "train"}
    assert {key[0] for key in texts} == train and len(texts) == 4 * len(train) < 4 * len(some)


@pytest.mark.parametrize("lang", sorted(SCRIPTS))
def test_texts_are_in_their_own_script(minifacts, facts, lang):
    """Claim: letters are of the language's script, but for symbols such as Fe and .fr."""
    symbols = {f.id: f.value[1:] for f in facts if f.value[0] == "="}
    for text in [*minifacts.queries, *minifacts.passages]:
        if text.lang == lang:
            rest = text.text.replace(symbols.get(text.group, "\0"), "")
            wrong = [c for c in rest if c.isalpha() and not unicodedata.name(c).startswith(SCRIPTS[lang])]
            assert not wrong, text


def test_paragraphs_hold_their_statement_and_distractors_of_the_same_entity(minifacts):
    """Claim: a candidate is a sentence of its context; most contexts hold others too."""
    assert all(p.text in p.context for p in minifacts.passages)
    assert sum(len(p.context) > len(p.text) for p in minifacts.passages) > 0.9 * len(minifacts.passages)


@pytest.mark.parametrize("lang", LANGS)
def test_each_language_passes_its_own_checks(facts, lexicons, lang):
    """Claim: every slot filled, no placeholder, three wordings, 150 synonyms, no name among them."""
    assert prepare.verify(facts, lexicons[lang]) == []
    assert len(lexicons[lang].synonyms) >= 150


@pytest.mark.parametrize("lang", LANGS)
def test_questions_can_be_attacked_in_every_language(minifacts, lexicons, lang):
    """Claim: three replaceable words a test question on average; nearly none without any."""
    table = lexicons[lang].synonyms
    tests = [minifacts.queries[q] for q in minifacts.qrels["test"] if minifacts.queries[q].lang == lang]
    counts = [len(find_words(q.text, table, lang)) for q in tests]
    assert sum(counts) / len(counts) >= 2.5 and sum(n == 0 for n in counts) <= 0.02 * len(counts)


def test_the_checks_see_planted_mistakes(facts, lexicons):
    """Claim: an empty slot, Latin in Thai, a lost wording and a doubled question are all reported."""
    lexicon = lexicons["th"]
    key = ("country.capital", "q")
    for template, message in (
        ("{e.dative} อะไร", "no column 'dative'"),
        ("capital ของ {e}", "letters ['C"),
        ("เมืองหลวงคืออะไร", "slots"),
    ):
        broken = lexicon._replace(wordings=lexicon.wordings | {key: [template, *lexicon.wordings[key][1:]]})
        assert any(message in p for p in prepare.verify(facts, broken)), message
    fewer = lexicon._replace(wordings=lexicon.wordings | {key: lexicon.wordings[key][:2]})
    assert any("2 wordings, needs 3" in p for p in prepare.verify(facts, fewer))
    same = lexicon._replace(terms=lexicon.terms | {"france": lexicon.terms["spain"]})
    assert any("asks for" in p for p in prepare.verify(facts, same))


def test_choices_and_slots_are_filled():
    """Number: by eye; a choice that holds a slot is chosen first. Catches: the other order."""
    terms = {"cat": {"name": "кошка", "g": "f"}, "fur": {"name": "шерсть"}}
    lexicon = prepare.Lexicon("ru", terms, {}, {}, {})
    fact = prepare.Fact("cat.cover", "cat", "animal.cover", "fur")
    template = "[e.g f:была {e}|*:был {e}] {v} [v 1:нога|*:ног]"
    assert prepare.render(template, fact, lexicon) == "Была кошка шерсть ног"
    with pytest.raises(ValueError, match="has no choice"):
        prepare.render("[e.g m:был] {e}", fact, lexicon)


def test_the_tokenizer_knows_every_character(minifacts, encoder):
    """Claim: not one unknown piece in 40,000 texts. Catches: a tokenizer of the training names alone."""
    unknown = encoder.tokenizer.unk_token_id
    for texts in (minifacts.queries, minifacts.passages):
        for ids in encoder.tokenizer([t.text for t in texts])["input_ids"]:
            assert unknown not in ids


def test_a_tokenizer_trained_twice_is_the_same(minifacts):
    """Claim: same texts in another order, same file. Number: 1,981 questions, 3,000
    pieces. Catches: tokenizers' UnigramTrainer, whose scores differed by up to 0.11 between runs."""
    from data.tiny_xlmr.prepare import train_tokenizer

    lines = [t.text for t in minifacts.queries[::10]]
    pieces = [train_tokenizer(x, 3000).backend_tokenizer.to_str() for x in (lines, lines[::-1])]
    assert pieces[0] == pieces[1] and len(pieces[0]) > 50_000


def test_the_bundled_encoder_is_small_and_ours(encoder):
    """Number: at most 4 million parameters and 8 MB on disk; XLM-R's special ids 0, 1, 2, 3."""
    assert sum(p.numel() for p in encoder.parameters()) <= 4_000_000
    size = sum(p.stat().st_size for p in (ROOT / "data/tiny_xlmr").rglob("*") if p.is_file())
    assert size <= 8_000_000 and encoder.model.config.model_type == "xlm-roberta"
    t = encoder.tokenizer
    assert (t.bos_token_id, t.pad_token_id, t.eos_token_id, t.unk_token_id) == (0, 1, 2, 3)


def test_the_dictionary_has_content_words_of_ten_languages():
    """Number: at least 150 words a language, no word translated by itself."""
    rows = [x.split("\t") for x in (ROOT / "data/minifacts/dictionary.tsv").read_text().splitlines()]
    assert all(len(r) == 4 and r[0] == "en" and r[2] != r[3] for r in rows)
    counts = Counter(r[1] for r in rows)
    assert sorted(counts) == [a for a in LANGS if a != "en"] and min(counts.values()) >= 150


def test_synonyms_are_no_names_and_mostly_new(facts, lexicons):
    """Claim: most replacements occur in no wording, so fine-tuning does not see them."""
    for lang, lexicon in lexicons.items():
        shipped = json.loads((ROOT / f"data/minifacts/synonyms/{lang}.json").read_text())
        assert shipped == lexicon.synonyms
        text = "\n".join(lower(re.sub(r"\{[^}]*\}", "|", t)) for ts in lexicon.wordings.values() for t in ts)
        others = [r for rs in shipped.values() for r in rs]
        assert sum(r not in text for r in others) > len(others) / 2, lang


def test_words_are_found_whole_in_every_script():
    """Number: by eye. Catches: \\w, which ends a Hindi or Thai word at its vowel sign."""
    assert find_words("Capital? The capital's capitals", {"capital": ["x"]}, "en") == [(0, 7), (13, 20)]
    hindi = "राजधानी क्या है"
    assert find_words(hindi, {"राज": ["x"], "क्या": ["x"]}, "hi") == [(8, 12)]
    assert find_words("कीमत", {"मत": ["x"]}, "hi") == [], "before मत stands a vowel sign, no border"
    assert find_words("法国的首都城市", {"首都": ["x"], "首都城市": ["x"]}, "zh") == [(3, 7)]
    assert find_words("ที่ไหน", {"ท": ["x"]}, "th") == [], "a letter is not cut from its marks"
    assert find_words("thủ đô của Pháp", {"thủ đô": ["x"], "đô": ["y"]}, "vi") == [(0, 6)]


def test_substitution_keeps_case_and_the_rest_of_the_text():
    """Number: by eye, with a dotted Turkish capital. Catches: positions that move after the first edit."""
    assert substitute("one two three", {(0, 3): "1", (8, 13): "threefold"}) == "1 two threefold"
    rng = generator(0, "test")
    seen = {redraw("Hangi kent?", {"hangi": ["iyi"], "kent": ["şehir"]}, "tr", rng) for _ in range(64)}
    assert seen == {"Hangi kent?", "İyi kent?", "Hangi şehir?", "İyi şehir?"}
