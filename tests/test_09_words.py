"""Rung 9: a word is found in eleven languages, replaced, misspelt; what must stay, stays.

Builds: sections 1 to 4 of attacks.py. Before: rungs 0 and 5. Run: pytest tests/test_09_words.py
"""

import json
import math
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import attacks
from attacks import (
    Attack,
    Slot,
    attack_queries,
    draw_edits,
    draw_freely,
    draw_translations,
    find_slots,
    find_words,
    lower,
    make_attacked,
    match_case,
    parse_attack,
    read_dictionary,
    read_settings,
    read_synonyms,
    read_table,
    setting,
    substitute,
    typo,
    typo_places,
    typo_slots,
    words_of,
)
from xlt import DataSet, Settings, Text, generator

LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
SYNONYMS = ROOT / "data/minifacts/synonyms"


# ---- settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lamp:
    """Settings like those of an attack, with limits of all kinds."""

    shade: str = setting("red", choices=("red", "blue"))
    watts: int = setting(40, least=1, most=60)
    height: float = setting(1.5, above=0, below=3)
    owner: str = "nobody"


LAMP = Lamp()


def read_lamp(text, start=LAMP):
    """A lamp from its settings; its owner is none."""
    return read_settings(start, text, ["shade", "watts", "height"], "the lamp")


def test_settings_replace_those_of_the_start_and_no_others():
    """Number: the start has a blue shade and 25 watts, the text 30 watts and the height 2.

    Catches: a start that is forgotten, so that the shade is red again.
    """
    start = Lamp(shade="blue", watts=25)
    assert read_lamp("height=2,watts=30", start) == Lamp(shade="blue", watts=30, height=2.0)
    assert start == Lamp(shade="blue", watts=25), "the start itself is left alone"


def test_a_setting_gets_the_type_of_its_default():
    """Claim: a whole number stays one, and 2 is read as 2.0 where 1.5 stood.

    Catches: all values as texts; all numbers as floats, with which no slice can be cut.
    """
    lamp = read_lamp("watts=30,height=2,shade=blue")
    assert [type(lamp.watts), type(lamp.height), type(lamp.shade)] == [int, float, str]


def test_an_empty_text_holds_no_settings():
    """Catches: "" split into one assignment, whose key is then unknown."""
    assert read_lamp("", Lamp(watts=25)) == Lamp(watts=25)


@pytest.mark.parametrize("text", ["watts=1", "watts=60", "height=0.001", "height=2.999"])
def test_a_value_at_its_limit_is_allowed(text):
    """Claim: "at least 1" and "at most 60" hold the limit itself. Catches: < for <=."""
    assert read_lamp(text) != Lamp()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("watts=0", "watts is 0; it is at least 1"),
        ("watts=61", "watts is 61; it is at most 60"),
        ("height=0", "height is 0; it is above 0"),
        ("height=3", "height is 3; it is below 3"),
        ("height=nan", "height is nan; it is a finite number"),
        ("height=-inf", "height is -inf; it is a finite number"),
        ("shade=green", "shade is 'green'; it is one of red, blue"),
        ("watts=2.5", "watts is '2.5', no number of type int"),
        ("watts=many", "watts is 'many', no number of type int"),
        ("height=", "height is '', no number of type float"),
        ("height", "height is '', no number of type float"),
        ("hue=2", "no setting 'hue'. There is shade, watts, height"),
        ("owner=me", "no setting 'owner'"),
        ("watts=3,height=2,watts=3", "watts is given twice"),
        ("watts=" + "9" * 400, "watts is 999999999"),
        ("watts=" + "9" * 5000, "watts is '99999999"),
        ("height=" + "9" * 400, "height is 9999999"),
        ("hue\x1b[31m" + "e" * 900, "no setting 'hue\\x1b[31meee"),
    ],
)
def test_a_wrong_setting_is_refused(text, message):
    """Claim: the message begins with the place and says what is allowed. Number: of each rule one.

    Catches: nan, which is neither below nor above anything; a key that is no setting; the first of
    two values dropped without a word; above and below that let the limit itself in; an
    OverflowError for 400 digits; a message as long as the text, or with its control characters.
    """
    with pytest.raises(ValueError, match=f"^the lamp: {re.escape(message)}") as caught:
        read_lamp(text)
    assert len(str(caught.value)) < 200


def test_what_differs_from_the_start_is_told_in_the_order_of_the_fields():
    """Number: both lamps have 25 watts. Catches: a comparison with the defaults of the class."""
    lamp = Lamp(height=2.0, watts=25, shade="blue")
    changed = attacks.settings_of(lamp, Lamp(watts=25))
    assert list(changed.items()) == [("shade", "blue"), ("height", 2.0)]


def test_settings_are_written_as_they_are_read():
    """Claim: 2.0 is written 2, and no settings are no text. Catches: "height=2.0"."""
    assert attacks.settings_text({"watts": 30, "height": 2.0}) == "watts=30,height=2"
    assert attacks.settings_text({"height": 0.25}) == "height=0.25"
    assert attacks.settings_text({}) == ""


def test_an_attack_has_the_strength_of_the_papers_unless_told_otherwise():
    """Number: Robust-XLT's tables hold 8 replacements a word, CertDR draws 1000 texts; all words
    may change (0), one text is kept, and the scores say which word is first.

    Catches: another default, with which no number of the README is reproduced.
    """
    attack = parse_attack("greedy")
    assert (attack.edits, attack.k, attack.width, attack.order) == (0, 8, 1, "scores")
    assert parse_attack("smoothed").samples == 1000


def test_a_name_has_defaults_of_its_own():
    """Number: beam keeps 4 texts, typos change 1 word. Catches: one default for all names."""
    assert parse_attack("beam").width == 4
    assert parse_attack("hotflip").order == "gradient"
    assert parse_attack("typos").edits == parse_attack("typos-greedy").edits == 1


def test_an_attack_is_read_with_all_its_settings():
    """Number: each differs from beam's own. Catches: a setting of the name over one of the text."""
    attack = parse_attack("beam:edits=2,k=3,order=gradient,width=2")
    assert attack == Attack("beam", edits=2.0, k=3, width=2, order="gradient")
    assert parse_attack("pgd:epsilon=0").epsilon == 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("greedy", "greedy"),
        ("greedy:edits=2,k=4", "greedy:edits=2,k=4"),
        ("greedy:k=4,edits=2", "greedy:edits=2,k=4"),
        ("greedy:edits=2.0", "greedy:edits=2"),
        ("greedy:k=8", "greedy"),
        ("beam:width=4", "beam"),
        ("beam:width=1", "beam:width=1"),
        ("typos:edits=1", "typos"),
        ("typos:edits=0", "typos:edits=0"),
        ("hotflip:order=gradient", "hotflip"),
        ("pgd:step_size=0.5,norm=max", "pgd:norm=max,step_size=0.5"),
    ],
)
def test_an_attack_has_one_label_however_it_was_written(text, label):
    """Claim: in the order of the fields, without what its name says already; it reads back.

    Number: width 1 is a default of Attack, but not of beam. Catches: the text itself for a label,
    by which the same attack stands in the tables twice; a default of Attack taken for beam's.
    """
    attack = parse_attack(text)
    assert attack.label == label
    assert parse_attack(label) == attack


def test_attacks_that_differ_have_labels_that_differ():
    """Number: two radii that differ in their seventh digit. Catches: "{:g}", which ends before it,
    so that one of two records overwrites the other.
    """
    first, second = parse_attack("pgd:epsilon=0.01234561"), parse_attack("pgd:epsilon=0.01234562")
    assert first != second
    assert parse_attack("pgd:epsilon=0.01234567").label == "pgd:epsilon=0.01234567"
    assert first.label != second.label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gready", "'gready' is unknown. Take one of identity, random"),
        ("greedy:kk=1", "'greedy:kk=1': no setting 'kk'"),
        ("greedy:name=pgd", "'greedy:name=pgd': no setting 'name'"),
        ("greedy:k=0", "'greedy:k=0': k is 0; it is at least 1"),
        ("greedy:edits=-1", "edits is -1; it is at least 0"),
        ("pgd:epsilon=-0.1", "epsilon is -0.1; it is at least 0"),
        ("pgd:norm=l1", "norm is 'l1'; it is one of l2, max"),
        ("smoothed:confidence=1", "confidence is 1; it is below 1"),
        ("smoothed:samples=0", "samples is 0; it is at least 1"),
        ("uniform:norm=max", "no setting 'norm'. There is epsilon, ball."),
        ("fgm:steps=10", "no setting 'steps'. There is epsilon, ball, norm."),
        ("greedy:epsilon=1", "no setting 'epsilon'. There is edits, k, width, order, budget."),
        ("pgd:edits=2", "no setting 'edits'"),
        ("random:budget=9", "no setting 'budget'. There is edits, k."),
        ("smoothed:order=gradient", "no setting 'order'"),
        ("identity:edits=1", "no setting 'edits'. There is none."),
    ],
)
def test_a_wrong_attack_is_refused(text, message):
    """Claim: the message names the attack and the setting. Catches: a typo that runs on with the
    default; a certificate of confidence 1, which no number of samples can give; a setting that the
    attack does not use, which would only change its label and its random streams.
    """
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_attack(text)
    assert str(caught.value).startswith(f"attack {text!r}")


# ---- words are found -----------------------------------------------------------------------------


def test_words_are_runs_of_letters_and_digits():
    """Number: by eye. Catches: a split at blanks, which leaves the mark of exclamation on "km"."""
    assert words_of("It's 3 km!", "en") == [(0, 2), (3, 4), (5, 6), (7, 9)]


def test_a_vowel_sign_belongs_to_its_word():
    """Number: क्या has four characters, है two. Catches: \\w, which ends क्या after its first."""
    assert words_of("क्या है?", "hi") == [(0, 4), (5, 7)]


def test_text_without_spaces_is_cut_into_stretches_of_four_letters():
    """Number: seven letters and one more behind the mark; ที่ ไ ห น | ค รั บ in Thai.

    Catches: one word a line; fours of characters, which cut ที่ in two.
    """
    assert words_of("法国的首都在哪？里", "zh") == [(0, 4), (4, 7), (8, 9)]
    assert words_of("ที่ไหนครับ", "th") == [(0, 6), (6, 10)]


@pytest.mark.parametrize("lang", ["zh", "en", "und"])
def test_words_without_spaces_are_known_by_their_script(lang):
    """Claim: whatever the language is called, a key may match anywhere in Chinese text, and in the
    Latin words of the same text between borders only.

    Number: 首都 is 2 to 4, "is" 6 to 8; "this" in the other text hides an "is".
    Catches: borders that hang on a code of two letters, and an "is" found in "this".
    """
    assert find_words("法国首都在哪is吗", {"首都", "is"}, lang) == [(2, 4), (6, 8)]
    assert find_words("什么是this吗", {"is"}, lang) == []


def test_azerbaijani_has_the_letters_of_turkish():
    """Claim: I is ı, İ is i in Azerbaijani as well. Catches: a rule for "tr" alone."""
    assert lower("IŞIQ İL", "az") == "ışıq il"


def test_a_letter_keeps_its_marks():
    """Number: राe\u0301t are five characters. Catches: list(word), which tears the marks off."""
    assert attacks.letters_of("राe\u0301t") == ["रा", "e\u0301", "t"]


def test_lower_case_is_as_long_as_the_text():
    """Claim: the positions of the lower text are those of the text. Number: İ is one character.

    Catches: str.lower, which makes two of it.
    """
    assert lower("ISLAK İ", "en") == "islak i"
    assert lower("ISLAK İZMİR", "tr") == "ıslak izmir", "in Turkish, I has no dot in lower case"


def test_a_part_in_lower_case_is_a_part_of_the_lower_case():
    """Number: str.lower makes "μασ'α" of ΜΑΣ'Α, but "μας" of ΜΑΣ alone, with a final sigma.

    Catches: str.lower, by which a word that was found is missing in its table.
    """
    assert find_slots("ΜΑΣ'Α", {"μασ": ["x"]}, "el") == [Slot(0, 3, ("X",))]


def test_a_word_is_found_whole_with_its_marks():
    """Number: น in น้ำ carries a tone mark, so it stands in the second word alone; पान is no part
    of पानी, nor "cafe" of "cafe\u0301".

    Catches: a mark left behind on the replacement.
    """
    assert find_words("น้ำนก", {"น"}, "th") == [(3, 4)]
    assert find_words("पानी में पान", {"पान"}, "hi") == [(9, 12)]
    assert find_words("cafe\u0301 cafe", {"cafe"}, "en") == [(6, 10)]


def test_a_word_without_spaces_may_follow_a_letter_with_a_mark():
    """Number: 中国 begins at 1 after x, at 2 after x with an accent. Catches: the script of the
    letter under the mark, looked up in the place of the word's own.
    """
    assert find_words("x中国", {"中国"}, "zh") == [(1, 3)]
    assert find_words("x\u0301中国", {"中国"}, "zh") == [(2, 4)]


def test_the_longest_key_wins_and_its_words_are_spent():
    """Number: "thành phố" (0 to 9) beats "thành"; its "phố" is no longer there for "phố cổ".

    Catches: word by word, which finds no Vietnamese word of two syllables.
    """
    table = {"thành", "thành phố", "phố cổ", "cổ"}
    assert find_words("Thành phố cổ", table, "vi") == [(0, 9), (10, 12)]


def test_a_key_of_two_words_ends_at_a_border():
    """Number: "thủ đôi" is not "thủ đô". Catches: a key that is looked for as a mere substring."""
    assert find_words("Thủ đô! thủ đôi", {"thủ đô"}, "vi") == [(0, 6)]


def test_turkish_words_are_found_with_and_without_their_dot():
    """Claim: I is ı, İ is i. Catches: i for every I, which finds neither of the two."""
    assert find_words("İzmir Irmak", {"ırmak", "izmir"}, "tr") == [(0, 5), (6, 11)]


NFD = pytest.mark.parametrize(
    ("lang", "word", "text"),
    [
        ("vi", "thủ đô", "Thủ đô của Việt Nam"),
        ("tr", "izmir", "İzmir nerede"),
        ("ko", "수도", "수도 서울"),
    ],
)


@NFD
def test_a_text_in_another_form_has_the_same_words(lang, word, text):
    """Claim: taken apart (NFD), a text has the slots of its usual form (NFC), in its own places.

    Number: "Thủ đô" has 6 characters in NFC and 8 in NFD; Korean syllables fall into two or three.
    Catches: a comparison as they stand, by which the same text is attacked in one form and not in
    the other; places of the NFC text, which cut the NFD one in the middle of a letter.
    """
    composed = unicodedata.normalize("NFC", text)
    apart = unicodedata.normalize("NFD", text)
    assert apart != composed
    table = {lower(word, lang): ["x"]}
    spans = []
    for version in (composed, apart):
        (slot,) = find_slots(version, table, lang)
        spans.append(unicodedata.normalize("NFC", version[: slot.end]))
        rest = substitute(version, {slot.span: "x"})
        assert rest == "x" + version[slot.end :]
    assert spans[0] == spans[1]


def test_a_letter_that_unicode_takes_apart_is_found():
    """Number: U+0958 is one character, in NFC it is two (क and a dot), so what follows moves by 1.

    Catches: places counted in the compared form.
    """
    assert find_words("\u0958लम पान", {"पान"}, "hi") == [(4, 7)]
    assert find_words("\u0958लम पान", {lower("\u0958लम")}, "hi") == [(0, 3)]


def test_a_table_in_another_form_is_read_as_ours(tmp_path):
    """Catches: keys as they stand in the file, which no text has."""
    path = tmp_path / "vi.json"
    path.write_text(json.dumps({unicodedata.normalize("NFD", "Thủ đô"): ["x"]}))
    assert read_table(path, "vi") == {"thủ đô": ["x"]}


def test_an_answer_is_protected_in_both_forms():
    """Number: "chó" has three letters in both forms, four characters in NFD.

    Catches: an answer in NFD that does not protect the word of an NFC text; lengths counted in
    characters, by which "chó" is a longer word of the answer in NFD alone.
    """
    apart = unicodedata.normalize("NFD", "Con chó Việt")
    words = attacks.answer_words(apart, {}, "vi")
    assert words == attacks.answer_words("Con chó Việt", {}, "vi") == {"con chó việt", "việt"}
    assert find_slots("ở Việt", {"việt": ["x"]}, "vi", words) == []


def test_a_joiner_belongs_to_its_word():
    """Number: Persian "کتاب\u200cها" (books) is one word of 7 characters, with a ZWNJ; Hindi writes
    ZWJ after a virama.

    Catches: a word cut at the joiner, so that the plural's ending is left on the replacement.
    """
    assert words_of("کتاب\u200cها اینجا", "fa") == [(0, 7), (8, 13)]
    assert find_words("کتاب\u200cها کتاب", {"کتاب"}, "fa") == [(8, 12)]
    assert find_words("کتاب\u200cها", {"کتاب\u200cها"}, "fa") == [(0, 7)]
    assert words_of("क्\u200dया", "hi") == [(0, 5)]


def test_a_mark_on_an_emoji_is_no_word():
    """Number: U+FE0F behind the heart, ZWJ between the two heads. Catches: a word that consists of
    a mark alone, which no tokenizer has a piece for; "love" not found because a mark precedes it.
    """
    assert words_of("I \u2764\ufe0flove \U0001f468\u200d\U0001f469", "en") == [(0, 1), (4, 8)]
    assert find_words("\u2764\ufe0flove", {"love"}, "en") == [(2, 6)]


def slow_find(text, keys, lang):
    """The spans that `re` finds with the longest key first; in English not inside of a word."""
    pattern = "|".join(sorted(keys, key=len, reverse=True))
    if lang == "en":
        pattern = f"(?<![ab])(?:{pattern})(?![ab])"
    return [match.span() for match in re.finditer(pattern, text)]


@pytest.mark.parametrize("lang", ["en", "th"])
def test_words_are_found_as_a_regular_expression_finds_them(lang):
    """Number: 300 texts of 30 characters, up to five keys each, of the letters ab or กข.

    Catches: a border forgotten; a search that goes on one place too far after a match.
    """
    rng, total = random.Random(1), 0
    first, second = {"en": "ab", "th": "กข"}[lang]
    for _ in range(300):
        keys = {f"{first} {second}"}
        for _ in range(4):
            keys.add("".join(rng.choices(first + second, k=rng.randint(1, 3))))
        text = "".join(rng.choices(2 * first + 2 * second + " -", k=30))
        expected = slow_find(text, keys, lang)
        assert find_words(text, keys, lang) == expected, (text, keys)
        total += len(expected)
    assert total > 300, "nothing was there to be found"


class CountedWords(set):
    """Words that count how often they are looked up."""

    lookups = 0

    def __contains__(self, word):
        self.lookups += 1
        return super().__contains__(word)


class Spelled:
    """An encoder that reads a's and b's: (1, 2) and (2, 1); of no other letter it knows a piece."""

    device = torch.device("cpu")

    def tokenizer(self, words, add_special_tokens):
        assert not add_special_tokens
        return {
            "input_ids": [["ab".index(char) for char in word if char in "ab"] for word in words]
        }

    def word_embeddings(self, ids):
        return torch.tensor([[1.0, 2.0], [2.0, 1.0]])[ids]


def test_a_word_without_pieces_has_no_neighbours():
    """Number: "x" has no piece; where it is the only word, or a mark is, there is no table.

    Catches: an embedding of no pieces: a crash, or NaN, which is nearer than all others.
    """
    texts = [Text("1", "en", "a b \u2764\ufe0f x", ""), Text("2", "de", "x", "")]
    texts.append(Text("3", "fr", "\u2764\ufe0f", ""))
    tables = attacks.neighbours(Spelled(), texts)
    assert tables == {"de": {}, "en": {"a": ["b"], "b": ["a"]}}
    assert attacks.mean_embeddings(["ab", "x"], Spelled()).tolist() == [[1.5, 1.5], [0.0, 0.0]]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_long_key_costs_no_lookups_of_all_shorter_lengths(lang):
    """Number: keys of two lengths, 9 and 40,000 characters: two look-ups a place at most.

    Catches: every length up to the longest key's, by which an answer of 40,000 characters keeps
    the search busy for hours.
    """
    answer = "dark lake " * 4000
    table = CountedWords({"dark lake", answer.strip()})
    spans = find_words(answer + "x", table, lang)
    assert spans == [(0, 39999)]
    spans = find_words("dark lake " * 300, table, lang)
    assert len(spans) == 300
    assert table.lookups < 2 * 3001


# ---- words are replaced --------------------------------------------------------------------------


def test_edits_are_put_into_the_text_where_their_words_stood():
    """Number: the first replacement is longer than its word, so that all others move.

    Catches: from left to right, with the second span four characters off.
    """
    edits = {(0, 3): "crimson", (8, 11): ""}
    assert substitute("red big old", edits) == "crimson big "


@pytest.mark.parametrize(
    ("word", "other", "lang", "expected"),
    [
        ("Big", "huge", "en", "Huge"),
        ("big", "huge", "en", "huge"),
        ("Kent", "il", "tr", "İl"),
        ("Kent", "ırmak", "tr", "Irmak"),
        ("Kent", "", "tr", ""),
        ("A", "il", "en", "Il"),
    ],
)
def test_a_replacement_takes_the_capital_of_its_word(word, other, lang, expected):
    """Catches: a Turkish i that loses its dot; an empty replacement with no first letter."""
    assert match_case(word, other, lang) == expected


def test_a_word_has_its_replacements_for_options():
    """Number: "Which" begins the sentence, "big" stands at 10. Catches: the case of the table."""
    table = {"which": ["what"], "big": ["large", "vast"]}
    slots = find_slots("Which has big lakes?", table, "en")
    assert slots == [Slot(0, 5, ("What",)), Slot(10, 13, ("large", "vast"))]


def test_a_replacement_that_changes_nothing_or_case_alone_is_none():
    """Number: of BIG, big, large, large and huge two are left; ILIK is ılık in Turkish.

    Catches: an edit that is counted, but changes no text.
    """
    table = {"big": ["BIG", "big", "large", "large", "huge"]}
    assert find_slots("a big", table, "en") == [Slot(2, 5, ("large", "huge"))]
    assert find_slots("ılık", {"ılık": ["ILIK"]}, "tr") == []


def test_at_most_k_real_replacements_are_left():
    """Number: k = 1 leaves large, the first that changes the word.

    Catches: k counted before the others are dropped, which leaves none.
    """
    table = {"big": ["BIG", "large", "huge"]}
    assert find_slots("a big", table, "en", k=1) == [Slot(2, 5, ("large",))]


def test_numbers_stay():
    """Number: 21st holds a digit. Catches: another year, to which another passage is relevant."""
    assert find_slots("the 21st", {"21st": ["last"]}, "en") == []


CAPITALS = {"is": ["was"], "capital": ["seat"], "city": ["town"], "carver": ["cutter"]}


@pytest.mark.parametrize(
    ("text", "lang", "count"),
    [
        ("WHICH CITY IS THE CAPITAL OF FRANCE?", "en", 3),
        ("IN 1990 THE CAPITAL", "en", 1),
        ("What Is The Capital Of France?", "en", 2),
        ("What Is the Capital of France?", "en", 2),
        ("What is the Capital of France?", "en", 1),
        ("Who was George Washington Carver?", "en", 0),
        ("Is George Carver British?", "en", 1),
        ("When did George Washington Carver die?", "en", 0),
        ("最大的NBA在哪", "zh", 0),
    ],
)
def test_where_every_word_has_a_capital_it_tells_no_name(text, lang, count):
    """Number: how many words of the table may be changed; "the" and "of" stay small in a title.

    Catches: a query in capitals that is not attacked because all of it is a "name"; and, with too
    little asked of a title, the name in a question that is made of it.
    """
    table = CAPITALS | {"nba": ["x"]}
    assert len(find_slots(text, table, lang)) == count


def test_a_name_stays_but_a_german_noun_or_the_first_word_is_none():
    """Claim: a capital in the middle of a sentence makes a name; not so in German.

    Number: ¿ does not begin the sentence. Catches: "Big Ben" made "Large Ben"; German questions
    that no attack can change, as every noun has a capital.
    """
    table = {"big": ["large"]}
    assert find_slots("a Big big lake", table, "en") == [Slot(6, 9, ("large",))]
    assert find_slots("ein Big See", table, "de") == [Slot(4, 7, ("Large",))]
    assert find_slots("¿Big?", table, "es") == [Slot(1, 4, ("Large",))]


def test_a_fixed_word_stays():
    """Number: "river" is fixed. Catches: protection that is asked for and not given."""
    table = {"river": ["stream"], "city": ["town"]}
    slots = find_slots("a city, a River, a river", table, "en", frozenset({"river"}))
    assert [slot.span for slot in slots] == [(2, 6)]


def test_a_word_inside_of_a_fixed_one_stays_where_no_spaces_are_written():
    """Number: 首都 (capital) is part of the fixed 法国的首都, 国 (country) alone is too short.

    Catches: a part of the answer that is replaced; every letter of it protected everywhere.
    """
    fixed = frozenset({"法国的首都"})
    assert find_slots("首都", {"首都": ["x"]}, "zh", fixed) == []
    assert find_slots("中国", {"国": ["x"]}, "zh", fixed) == [Slot(1, 2, ("x",))]


def test_the_long_words_of_an_answer_are_protected():
    """Number: of "the Nile" the whole and nile; of "a bay" also the table's own "bay".

    Catches: "the" protected in every question.
    """
    assert attacks.answer_words("the Nile", {}, "en") == {"the nile", "nile"}
    words = attacks.answer_words("a bay", {"bay": ["x"]}, "en")
    assert words == {"a bay", "bay"}, "short, but the table would change it"


def one_query(text, lang, answer=""):
    """A data set of one query."""
    return DataSet(Path(), [Text("q", lang, text, "q", answer=answer)], [], {})


@pytest.mark.parametrize(
    ("lang", "text", "answer", "word"),
    [
        ("en", "Is it a town or a lake?", "a town", "town"),
        ("vi", "Nơi này là thủ đô hay làng?", "thủ đô", "thủ đô"),
        ("zh", "这里是首都还是村庄？", "法国的首都", "首都"),
        ("th", "ที่นี่คือเมืองหลวงหรือหมู่บ้าน", "คือเมืองหลวง", "เมืองหลวง"),
    ],
    ids=["en", "vi", "zh", "th"],
)
def test_a_word_of_the_answer_stays_in_every_script(lang, text, answer, word):
    """Claim: with the answer known, the query has no slot; without it, it has one.

    Catches: keys of two syllables, or unspaced, looked up among syllables and fours of letters.
    """
    attack, tables = parse_attack("random"), {lang: {word: ["x"]}}
    (free,) = make_attacked(one_query(text, lang), [0], ["mono"], attack, tables, 0)
    assert len(free.slots) == 1, "the word is not even found"
    (item,) = make_attacked(one_query(text, lang, answer), [0], ["mono"], attack, tables, 0)
    assert item.slots == []


# ---- words are drawn -----------------------------------------------------------------------------


def test_each_word_is_drawn_from_itself_and_its_replacements():
    """Number: with 3 replacements each of four words has 1/4. 4000 seeds, within 0.032, which is
    4.6 standard deviations: a false alarm in 10^5 seeds.

    Catches: 1/3 each, which leaves no word as it was; a coin of 1/2 before the draw.
    """
    slots, counts = [Slot(0, 1, ("x", "y", "z"))], Counter()
    for seed in range(4000):
        counts[substitute("w", draw_freely(slots, generator(seed, "test")))] += 1
    assert set(counts) == set("wxyz")
    shares = [count / 4000 for count in counts.values()]
    assert shares == pytest.approx([0.25] * 4, abs=0.032)


def test_a_redrawn_text_has_each_word_of_the_table_drawn():
    """Number: as above; "Big" has three replacements, in capitals like itself.

    Catches: a protected name, which data augmentation does not spare.
    """
    table, counts = {"big": ["large", "huge", "vast"]}, Counter()
    for seed in range(4000):
        counts[attacks.redraw("A Big!", table, "en", generator(seed, "test"))] += 1
    assert set(counts) == {"A Big!", "A Large!", "A Huge!", "A Vast!"}
    shares = [count / 4000 for count in counts.values()]
    assert shares == pytest.approx([0.25] * 4, abs=0.032)


FIVE_SLOTS = [Slot(i, i + 1, ("x", "y")) for i in range(5)]


def changed_places(seed, count):
    """Where "abcde" differs after so many edits."""
    text = substitute("abcde", draw_edits(FIVE_SLOTS, count, generator(seed, "test")))
    assert len(text) == 5
    return {i for i in range(5) if text[i] != "abcde"[i]}


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_a_number_of_edits_changes_exactly_so_many_words(count, expected):
    """Number: five slots, so that 9 are 5. Catches: the word itself among its options."""
    for seed in range(60):
        assert len(changed_places(seed, count)) == expected


def test_one_edit_may_fall_on_any_word():
    """Number: 60 seeds miss one of five places with probability 5 * 0.8^60 = 8e-6.

    Catches: always the first words.
    """
    places = set()
    for seed in range(60):
        places |= changed_places(seed, 1)
    assert places == {0, 1, 2, 3, 4}


def test_translations_are_drawn_for_a_share_of_the_words():
    """Number: of 5 * 400 slots at a share of 0.2, 400 change, s.d. 18; within 75, 4 of them. With
    the share 0 none, with 1 all.

    Catches: the share that stays; each word drawn from itself as well, which leaves two thirds.
    """
    count = 0
    for seed in range(400):
        count += len(draw_translations(FIVE_SLOTS, 0.2, generator(seed, "test")))
    assert abs(count - 400) < 75
    assert draw_translations(FIVE_SLOTS, 0.0, generator(0, "test")) == {}
    assert len(draw_translations(FIVE_SLOTS, 1.0, generator(0, "test"))) == 5


EIGHT_WORDS = "abba cddc effe ghhg ijji kllk mnnm oppo"


class Blind:
    """An encoder that looks at no text."""

    settings = Settings()

    def encode(self, texts, tower, bar=""):
        return torch.zeros(len(texts), 2)


def random_texts(attack_text, seed, queries):
    """The texts of a random attack on queries of eight words, in two views each."""
    data = one_query(EIGHT_WORDS, "en")
    data.queries.append(Text("another", "en", EIGHT_WORDS, "q"))
    table = {word: ["x", "y", "z"] for word in EIGHT_WORDS.split()}
    attack = parse_attack(attack_text)
    items = make_attacked(data, queries, ["mono", "pool"], attack, {"en": table}, seed)
    attack_queries(items, Blind(), None, attack, seed)
    return [item.text for item in items]


RANDOM_ATTACKS = pytest.mark.parametrize("name", ["random", "random:edits=3", "typos:edits=8,k=1"])


@RANDOM_ATTACKS
def test_a_draw_is_the_same_in_all_views_and_beside_other_queries(name):
    """Claim: seed, label and query id alone decide. Number: two queries, then the second alone.

    Catches: the view in the seed; one generator for all queries.
    """
    mono, pool, *others = random_texts(name, 0, [0, 1])
    assert mono == pool
    assert others == random_texts(name, 0, [1])


@RANDOM_ATTACKS
def test_another_seed_or_query_has_another_draw(name):
    """Number: at least 3^3 * 56 texts, so that two are equal by chance once in 1500.

    Catches: a seed that is not passed on; the same words changed in all queries.
    """
    first, _, another, _ = random_texts(name, 0, [0, 1])
    reseeded = random_texts(name, 1, [0])[0]
    assert len({EIGHT_WORDS, first, another, reseeded}) == 4


def test_two_spellings_of_an_attack_draw_the_same_words():
    """Claim: the label, not the text, names the random stream. Catches: a table that depends on
    the order in which two settings were typed.
    """
    first = random_texts("random:edits=2,k=3", 0, [0, 1])
    assert first == random_texts("random:k=3,edits=2.0", 0, [0, 1])
    assert first != random_texts("random:edits=3", 0, [0, 1]), "the draw is always the same"


def dev_queries(data, lang):
    """The 147 dev questions of a language, without the short queries."""
    queries = [data.queries[i] for i in sorted(data.qrels["dev"])]
    queries = [query for query in queries if (query.lang, query.form) == (lang, "question")]
    assert len(queries) == 147
    return queries


@pytest.mark.parametrize("lang", LANGS)
def test_random_edits_really_change_the_questions_of_every_language(minifacts, lang):
    """Claim: no language is robust because it was not attacked: every question has a word that may
    be replaced, and as many change as the draw promises.

    Number: a word stays with 1 / (options + 1), a question with the product over its words; the sum
    over 147 questions, within 4 standard deviations (one false alarm in 1,400 sets of languages).
    Catches: borders asked for where no spaces are written, as in Thai and Chinese; a draw that
    favours the word itself.
    """
    table = read_table(SYNONYMS / f"{lang}.json", lang)
    changed, expected, variance = 0, 0.0, 0.0
    for query in dev_queries(minifacts, lang):
        slots = find_slots(query.text, table, lang)
        assert slots, f"nothing to replace: {query.text}"
        text = substitute(query.text, draw_freely(slots, generator(0, "test", query.id)))
        changed += text.casefold() != query.text.casefold()
        stays = math.prod(1 / (len(slot.options) + 1) for slot in slots)
        expected += 1 - stays
        variance += stays * (1 - stays)
    assert abs(changed - expected) < 4 * math.sqrt(variance)


@pytest.mark.parametrize("lang", ["th", "zh"])
def test_a_question_without_spaces_is_edited_by_the_table(minifacts, lang):
    """Claim: one edit replaces one key of the shipped file and leaves the rest of the text.

    Number: the question holds 3 keys or more, so that 40 seeds give 3 texts or more.
    Catches: the line taken for one word.
    """
    by_id = {query.id: query.text for query in dev_queries(minifacts, lang)}
    question = by_id[f"q14.{lang}"]
    allowed = set()
    raw = json.loads((SYNONYMS / f"{lang}.json").read_text(encoding="utf-8"))
    for word, others in raw.items():
        allowed |= {question.replace(word, other, 1) for other in others}
    slots = find_slots(question, read_table(SYNONYMS / f"{lang}.json", lang), lang)
    texts = set()
    for seed in range(40):
        texts.add(substitute(question, draw_edits(slots, 1, generator(seed, "test"))))
    assert len(texts) >= 3
    assert texts <= allowed - {question}


# ---- tables --------------------------------------------------------------------------------------


def test_a_json_table_has_keys_in_lower_case(tmp_path):
    """Number: "Big" and "big" are one key, with both rows' words; I is ı in Turkish.

    Catches: keys in capitals, which no text in lower case holds; the second row over the first.
    """
    path = tmp_path / "table.json"
    path.write_text('{"Big": ["large"], "big": ["huge"], "lonely": [], "IRMAK": ["nehir"]}')
    expected = {"big": ["large", "huge"], "lonely": [], "irmak": ["nehir"]}
    assert read_table(path, "en") == expected
    assert "ırmak" in read_table(path, "tr")


WORDNET = """# 9-n	fra:lemma	mot
# 9-n	fra:lemma	parole
3-n	fra:lemma	seul
1-n	fra:lemma	pomme_de_terre
1-n	fra:lemma	patate
1-n	fra:exe	des frites
1-n	fra:def	0	un tubercule
2-n	fra:lemma	patate
2-n	fra:lemma	Tubercule
"""


def test_a_wordnet_table_joins_the_words_of_a_synset(tmp_path):
    """Number: "patate" is in two synsets; 3-n holds one word alone, 9-n is a comment.

    Catches: an underscore, a comment, a definition or an example left in; a word as its own.
    """
    (tmp_path / "french.tab").write_text(WORDNET)
    assert read_table(tmp_path / "french.tab", "fr") == {
        "pomme de terre": ["patate"],
        "patate": ["pomme de terre", "Tubercule"],
        "tubercule": ["patate"],
    }


@pytest.mark.parametrize(
    ("lemma", "word"),
    [
        ("Ｔ形+的", "Ｔ形的"),
        ("+的", "的"),
        ("维生素+C", "维生素C"),
        ("C++", "C++"),
        (" \u0634\u0623\u0646", "\u0634\u0623\u0646"),
        ("preobrat_v_mišljenju_", "preobrat v mišljenju"),
        ("a  b\u00a0c", "a b c"),
        ("tempo (meteorologia)", "tempo"),
        ("[[eerste]] [[verdieping]]", ""),
        ("cour|cours", ""),
        ("GAP!", ""),
        ("_", ""),
    ],
)
def test_a_lemma_is_cleaned(lemma, word):
    """Number: what the public wordnets hold: Chinese +, Arabic leading blanks, Slovene underscores,
    Italian gaps. Catches: an adversary that writes "+" or two blanks into a question.
    """
    assert attacks.clean_lemma(lemma) == word


def test_tables_of_both_kinds_hold_clean_words(tmp_path):
    """Number: the gap and the blank drop out. Catches: the raw lemma as key or as replacement."""
    rows = ["1-a\tcmn:lemma\tＴ形+的", "1-a\tcmn:lemma\t丁+字形", "1-a\tcmn:lemma\tGAP!"]
    (tmp_path / "zh.tab").write_text("\n".join(rows), encoding="utf-8")
    table = read_table(tmp_path / "zh.tab", "zh")
    assert table == {"ｔ形的": ["丁字形"], "丁字形": ["Ｔ形的"]}
    (tmp_path / "ar.json").write_text(
        json.dumps({" big": [" huge_thing", " ", "vast"], "_": ["x"]})
    )
    assert read_table(tmp_path / "ar.json", "ar") == {"big": ["huge thing", "vast"]}


def write_dictionary(folder, *rows):
    """Write a dictionary; a row is a text of language, English word and translation."""
    path = folder / "dictionary.tsv"
    lines = ["en\t" + row.replace(" ", "\t") + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


BANKS = ["de bank Bank", "es bank banco", "de bench Bank", "es bench banco"]


def test_english_is_the_pivot_between_two_other_languages(tmp_path):
    """Number: Bank is bank and bench, both are banco: each other word once, in order of the file.

    Catches: English pairs alone; the last meaning of a word over the first; doubles.
    """
    assert read_dictionary(write_dictionary(tmp_path, *BANKS)) == {
        "en": {"bank": ["Bank", "banco"], "bench": ["Bank", "banco"]},
        "de": {"bank": ["bank", "banco", "bench"]},
        "es": {"banco": ["Bank", "bank", "bench"]},
    }


def test_a_word_may_have_two_translations(tmp_path):
    """Claim: both are options, and both have the English word for theirs.

    Number: Bank and Ufer. Catches: the second row put over the first.
    """
    rows = ["en\tde\tbank\tBank", "en\tde\tbank\tUfer", "eng\tspa\tbank\tbanco"]
    path = tmp_path / "dictionary.tsv"
    path.write_text("\n".join(rows))
    assert read_dictionary(path) == {
        "en": {"bank": ["Bank", "Ufer", "banco"]},
        "de": {"bank": ["bank", "banco"], "ufer": ["bank", "banco"]},
        "es": {"banco": ["Bank", "Ufer", "bank"]},
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["zho", "zh-cn"], "is of 'zh', too. Leave one out"),
        (["notes"], "unknown language 'notes'"),
        (["d\x1b[31me"], r"/d\\x1b\[31me.json: unknown language"),
    ],
)
def test_tables_of_a_folder_have_one_language_each(tmp_path, names, message):
    """Claim: a table's name is the code of a language. Catches: one of two that is never used; a
    name that colours the terminal."""
    (tmp_path / "synonyms").mkdir()
    for name in names:
        (tmp_path / f"synonyms/{name}.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        read_synonyms(tmp_path)


def test_a_dictionary_of_some_languages_holds_no_word_of_the_others(tmp_path):
    """Claim: German and Spanish meet through English, which is not kept itself.

    Catches: training texts that hold words of a zero-shot language.
    """
    path = write_dictionary(tmp_path, *BANKS)
    expected = {"de": {"bank": ["banco"]}, "es": {"banco": ["Bank"]}}
    assert read_dictionary(path, ["de", "es"]) == expected


def test_synonyms_are_those_of_the_folder_unless_files_are_given(tmp_path):
    """Number: two files lie in the folder, a third beside it. Catches: both of them at once."""
    (tmp_path / "synonyms").mkdir()
    (tmp_path / "synonyms/en.json").write_text('{"big": ["huge"]}')
    (tmp_path / "synonyms/de.json").write_text('{"see": ["teich"]}')
    (tmp_path / "given.json").write_text('{"big": ["vast"]}')
    assert read_synonyms(tmp_path) == {"de": {"see": ["teich"]}, "en": {"big": ["huge"]}}
    given = read_synonyms(tmp_path, {"en": str(tmp_path / "given.json")})
    assert given == {"en": {"big": ["vast"]}}


NEIGHBOURHOOD = {
    "en": "which city is the capital of france near a river called rhine with geographically",
    "de": "capital die hauptstadt von frankreich rhine",
}


class TwoLetters:
    """A fake encoder whose word pieces are two letters long. Rows 0 and 1 are special tokens."""

    device = "cpu"

    def __init__(self):
        self.row_of = {}  # piece -> row of its embedding
        self.weight = torch.randn(80, 4, generator=generator(0, "test"))

    def rows(self, word):
        """The rows of a word's pieces."""
        rows = []
        for i in range(0, len(word), 2):
            new_row = len(self.row_of) + 2
            rows.append(self.row_of.setdefault(word[i : i + 2], new_row))
        return rows

    def tokenizer(self, words, add_special_tokens=True):
        rows = [self.rows(word) for word in words]
        if add_special_tokens:
            rows = [[0, *row, 1] for row in rows]
        return {"input_ids": rows}

    def word_embeddings(self, ids):
        return self.weight[ids]


def slow_vector(word, encoder):
    """The mean of the word's piece embeddings, of length 1, by hand."""
    rows = encoder.weight[encoder.rows(word)].tolist()
    mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    length = math.sqrt(math.fsum(x * x for x in mean))
    return [x / length for x in mean]


@pytest.fixture(scope="module")
def cosines():
    """(word, other) -> cosine of two words of NEIGHBOURHOOD, and the tables of `neighbours`."""
    encoder, vectors, texts = TwoLetters(), {}, []
    for lang, sentence in NEIGHBOURHOOD.items():
        texts.append(Text(lang, lang, sentence.title() + "?", ""))
        for word in sentence.split():
            vectors[word] = slow_vector(word, encoder)
    cosine = {}
    for word, x in vectors.items():
        for other, y in vectors.items():
            cosine[word, other] = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return cosine, attacks.neighbours(encoder, texts, 3)


@pytest.mark.parametrize("lang", ["en", "de"])
def test_neighbours_agree_with_a_slow_loop(cosines, lang):
    """Claim: the 3 words of the own language with the largest cosines, never oneself. To 1e-6.

    Number: the languages share "capital" and "rhine". Catches: special tokens in the mean, a dot
    product without norm, neighbours from the other language.
    """
    cosine, tables = cosines
    words = NEIGHBOURHOOD[lang].split()
    assert sorted(tables[lang]) == sorted(words)
    for word, nearest in tables[lang].items():
        others = [other for other in words if other != word]
        best = sorted([cosine[word, other] for other in others], reverse=True)[:3]
        assert set(nearest) <= set(others) and len(set(nearest)) == 3
        assert [cosine[word, other] for other in nearest] == pytest.approx(best, abs=1e-6)


OTHER_FORMS = ["{", '["a"]', '{"a": "bc"}', '{"a": [1]}', '{"a": [""]}']
OTHER_FORMS += ['{"a": ["b\\ud83d"]}', '{"a": ["b"], "a": ["c"]}', '{"a": "%s"}' % ("b" * 900)]


@pytest.mark.parametrize("content", OTHER_FORMS, ids=range(8))
def test_a_json_table_of_another_form_is_refused_by_name(tmp_path, content):
    """Number: no JSON, a list, a text or a number for a list, an empty word, half a character, a
    word that stands twice, a long text.

    Catches: "bc" read as the two replacements b and c; a traceback that names no file; a word that
    no tokenizer takes; the first of two entries lost; a message as long as the file.
    """
    path = tmp_path / "table.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: not JSON of the form")) as caught:
        read_table(path, "en")
    assert len(str(caught.value)) < 300


def test_a_table_without_words_is_refused_by_name(tmp_path):
    """Catches: a file of another format read as a wordnet of no words, which attacks nothing."""
    path = tmp_path / "words.tab"
    path.write_text("big\tlarge\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}: no row with synset")):
        read_table(path, "en")


@pytest.mark.parametrize("name", ["table.json", "words.tab"])
def test_a_table_that_is_not_utf_8_is_refused_by_name(tmp_path, name):
    """Number: ß is one byte in Latin-1. Catches: an error without the name of its file."""
    path = tmp_path / name
    path.write_bytes('{"Stra\xdfe": ["Weg"]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        read_table(path, "de")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("en\tde\tdog\tHund\nen\tde\tcat\n", 2),
        ("\nde\ten\tHund\tdog\n", 2),
        ("en\tde\tcat\t\n", 1),
        ("en\tde\tcat\tKatze\tx\n", 1),
    ],
    ids=["three columns", "not from English", "an empty one", "five columns"],
)
def test_a_row_of_a_dictionary_is_refused_by_its_number(tmp_path, content, line):
    """Number: a blank line counts. Catches: German as the pivot; no word for a translation."""
    path = tmp_path / "dictionary.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: ")):
        read_dictionary(path)


def test_a_dictionary_holds_clean_words(tmp_path):
    """Number: blanks, _ for a blank, + beside a Chinese character; a row of signs is passed over.

    Catches: " Hund " with its blanks put into a question; a replacement that shows nothing.
    """
    path = tmp_path / "dictionary.tsv"
    path.write_text("en\tde\t dog \tgroßer_Hund\nen\tzh\tdog\t小+狗\nen\tde\t...\t   \n")
    assert read_dictionary(path) == {
        "en": {"dog": ["großer Hund", "小狗"]},
        "de": {"großer hund": ["dog", "小狗"]},
        "zh": {"小狗": ["großer Hund", "dog"]},
    }


def test_a_long_row_of_a_dictionary_is_refused_in_a_short_line(tmp_path):
    """Number: 100,000 letters without a tab. Catches: a message as long as the row."""
    path = tmp_path / "dictionary.tsv"
    path.write_text("a" * 100_000)
    with pytest.raises(ValueError, match="dictionary.tsv:1: ") as caught:
        read_dictionary(path)
    assert len(str(caught.value)) < 300


def test_a_table_with_a_byte_order_mark_has_no_word_less(tmp_path):
    """Number: the first of two rows of a synset. Catches: the mark as a part of its name."""
    path = tmp_path / "fr.tab"
    path.write_text("\ufeff7-n\tfra:lemma\tpomme\n7-n\tfra:lemma\tpatate\n")
    assert read_table(path, "fr") == {"pomme": ["patate"], "patate": ["pomme"]}


def test_a_dictionary_that_is_not_utf_8_is_refused_by_name(tmp_path):
    """Number: ß is one byte in Latin-1. Catches: an error without the name of its file."""
    path = tmp_path / "dictionary.tsv"
    path.write_bytes("en\tde\tstreet\tStra\xdfe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
        read_dictionary(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    """Catches: a traceback, or a table of no words, which attacks nothing."""
    path = tmp_path / "file.json"
    with pytest.raises(ValueError, match=re.escape(f"{path}: no such table")):
        read_table(path, "en")
    with pytest.raises(ValueError, match=re.escape(f"{path}: no such dictionary")):
        read_dictionary(path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/synonyms: no such folder")):
        read_synonyms(tmp_path)


# ---- typos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "keys"),
    [
        ("g", "fhtyvb"),
        ("q", "wa"),
        ("p", "ol"),
        ("m", "njk"),
        ("п", "аренми"),
        ("й", "цф"),
        ("β", "γηων"),
        ("α", "ςσζ"),
        ("σ", "ςεαδζχ"),
        ("س", "صثشيئء"),
        ("ت", "عهانىة"),
        ("ل", "فغبار"),
        ("ก", ""),
        ("首", ""),
    ],
)
def test_the_keys_beside_a_letter_are_those_of_its_keyboard(letter, keys):
    """Number: read off xkb's us, ru, gr and ara: the Greek Q is a semicolon, so that α lies below ς
    alone, σ below ς and ε; the Arabic B is لا, so that ل lies above ر alone, ت above ى and ة.

    Catches: a row that is shifted by one; a blank for a key.
    """
    assert sorted(attacks.near_keys(letter)) == sorted(keys)


def clusters(word):
    """The test's own letters: each with its marks."""
    starts = [i for i, char in enumerate(word) if unicodedata.category(char)[0] != "M"]
    ends = [*starts[1:], len(word)]
    return [word[start:end] for start, end in zip(starts, ends, strict=True)]


def without_one(letters):
    """All that is left of a word when one of its letters is gone."""
    return [letters[:i] + letters[i + 1 :] for i in range(len(letters))]


BESIDE = {"g": "fhtyvb", "l": "kop", "o": "ipkl", "w": "qeas"}  # read off a keyboard


def kind_of(old, new):
    """Which single edit leads from one word to the other; "" if none does."""
    a, b = clusters(old), clusters(new)
    if a in without_one(b):
        return "insert"
    if b in without_one(a):
        return "delete"
    if len(a) != len(b):
        return ""
    apart = [i for i in range(len(a)) if a[i] != b[i]]
    first, last = apart[0], apart[-1]
    if first == last:
        near = BESIDE.get(a[first], "")
        return "neighbour" if b[first] in near else "substitute"
    if last == first + 1 and a[first] == b[last] and a[last] == b[first]:
        return "swap"
    return ""


WORDS = [
    "capital",
    "İzmir",
    "cafe\u0301s",
    "añadir",
    "столица",
    "μεγαλο",
    "عاصمة",
    "राजधानी",
    "क्या",
    "ที่ไหน",
    "เมืองหลวง",
    "首都在哪",
]


def script_of(char):
    """LATIN, GREEK, THAI, ...: the first word of a letter's name."""
    return unicodedata.name(char).split()[0]


@pytest.mark.parametrize("word", WORDS)
def test_a_typo_is_one_edit(word):
    """Claim: one letter more, less or other, or two swapped; never none. Number: 200 seeds.

    Catches: list(word), which puts a mark before its letter; two edits; the word itself.
    """
    for seed in range(200):
        new = typo(word, generator(seed, "test"))
        assert new != word
        assert not unicodedata.category(new[0]).startswith("M")
        assert kind_of(word, new), new


@pytest.mark.parametrize("word", WORDS)
def test_a_typo_brings_letters_of_the_word_s_script(word):
    """Claim: those of its keyboard; without one (Thai, Hindi, Chinese), its own letters alone.

    Number: 200 seeds. Catches: English letters in a Russian word, which no reader would type.
    """
    new_letters = set()
    for seed in range(200):
        new_letters |= set(clusters(typo(word, generator(seed, "test")))) - set(clusters(word))
    if script_of(word[0]) in ("DEVANAGARI", "THAI", "CJK"):
        assert new_letters == set()
    else:
        assert len(new_letters) > 5, "no other letter was ever typed"
        beside = {key for letter in word for key in attacks.near_keys(letter.lower())}
        assert {letter[0] for letter in new_letters} - beside, "only keys beside its letters"
        assert {script_of(letter[0]) for letter in new_letters} == {script_of(word[0])}


def test_all_five_kinds_of_typo_occur():
    """Number: 2000 seeds on "glow". Of the swaps 1/4 have no letter to the right and become another
    kind, so that each has a share of 0.15 or more; 0.1 is asked.

    Catches: a kind that is never drawn.
    """
    kinds = Counter(kind_of("glow", typo("glow", generator(i, "test"))) for i in range(2000))
    assert set(kinds) == {"insert", "delete", "substitute", "swap", "neighbour"}
    assert min(kinds.values()) > 200


def test_the_key_beside_is_a_kind_of_its_own():
    """Number: "glow" has 17 keys beside its letters, so that 17 % of 4 * 25 other letters are one
    by chance; with the fifth kind it is 58 %, standard deviation 1.7 %. 45 % are asked.

    Catches: a key beside that is any key.
    """
    kinds = Counter(kind_of("glow", typo("glow", generator(i, "test"))) for i in range(2000))
    assert kinds["neighbour"] > 0.45 * (kinds["neighbour"] + kinds["substitute"])


def test_a_key_beside_keeps_the_marks_of_its_letter():
    """Number: w, r, s and d lie beside e. Catches: an accent that is lost with its letter."""
    letters = set()
    for seed in range(200):
        letters |= set(clusters(typo("e\u0301te", generator(seed, "test"))))
    assert letters & {"w\u0301", "r\u0301", "s\u0301", "d\u0301"}


def test_a_word_of_one_letter_without_keyboard_is_doubled():
    """Number: deleted it would be no word, and there is no other letter. Catches: no word."""
    for seed in range(20):
        assert typo("ก", generator(seed, "test")) == "กก"


@pytest.mark.parametrize("stays", ["ab", "क्या", "2024", "a1b2", "५००", "ⅩⅧⅠ", "River", "IRMAK"])
def test_typos_spare_short_words_numbers_and_fixed_ones(stays):
    """Number: क्या has four characters, but two letters. Catches: len(word); isdigit, which is False
    for Ⅷ; a fixed word with a capital.
    """
    text, fixed = f"{stays} lake", frozenset({"river", "ırmak"})
    (slot,) = typo_slots(text, "tr", generator(0, "test"), fixed, 8)
    assert slot.span == (len(stays) + 1, len(text))


def test_a_word_has_up_to_k_different_typos():
    """Number: of 8 draws a few are equal. Catches: doubles; k ignored."""
    (slot,) = typo_slots("lake", "en", generator(0, "test"), frozenset(), 8)
    assert 4 < len(slot.options) <= 8
    assert len(set(slot.options)) == len(slot.options)
    (slot,) = typo_slots("lake", "en", generator(0, "test"), frozenset(), 1)
    assert len(slot.options) == 1


@pytest.mark.parametrize("lang", ["hi", "th", "zh"])
def test_typos_find_places_in_other_scripts_and_split_no_letter(minifacts, lang):
    """Claim: all 147 dev questions have a place; letters with marks stay whole, none is made up.

    Number: three in Hindi have none, as none of their words has three letters.
    Catches: isalpha, which is False for a word with marks; list(word).
    """
    questions = dev_queries(minifacts, lang)
    attackable = [query for query in questions if typo_places(query.text, lang)]
    assert len(questions) - len(attackable) == {"hi": 3}.get(lang, 0)
    for query in attackable:
        slots = typo_slots(query.text, lang, generator(0, "test", query.id))
        new = substitute(query.text, draw_edits(slots, 1, generator(0, "test", query.id)))
        assert new != query.text
        assert set(clusters(new)) <= set(clusters(query.text)), new


# ---- the examples in the docstrings --------------------------------------------------------------


def says(thing, example):
    """Does the docstring hold this example, however its lines are broken?"""
    return " ".join(example.split()) in " ".join(thing.__doc__.split())


def test_the_picture_of_the_module_is_true():
    """Number: counted by hand. Catches: a picture that the code has left behind."""
    assert says(attacks, 'edits: {(0, 5): "What", (6, 10): "town"}')
    text = "Which city is the capital of France?"
    table = {"which": ["what"], "city": ["town"], "capital": ["seat"]}
    slots = find_slots(text, table, "en")
    assert slots == [Slot(0, 5, ("What",)), Slot(6, 10, ("town",)), Slot(18, 25, ("seat",))]
    edits = {(0, 5): "What", (6, 10): "town"}
    assert substitute(text, edits) == "What town is the capital of France?"


def test_the_examples_of_settings_are_true():
    """Number: typed from the docstrings. Catches: one that the code has left behind."""
    assert says(attacks.Limits.broken_rule, '-1.0 breaks "at least 0", where least is 0')
    assert attacks.Limits(least=0).broken_rule(-1.0) == "at least 0"
    assert says(attacks.settings_text, '{"edits": 2.0, "k": 4} -> "edits=2,k=4"')
    assert attacks.settings_text({"edits": 2.0, "k": 4}) == "edits=2,k=4"
    assert says(Attack.label.fget, '"greedy" or "greedy:edits=2"')
    assert Attack("greedy").label == "greedy"
    assert Attack("greedy", edits=2.0).label == "greedy:edits=2"
    assert says(parse_attack, '"pgd:epsilon=0.5,steps=10"')
    attack = parse_attack("pgd:epsilon=0.5,steps=10")
    assert (attack.name, attack.epsilon, attack.steps) == ("pgd", 0.5, 10)


def test_the_examples_of_words_are_true():
    """Number: typed from the docstrings. Catches: one that the code has left behind."""
    assert says(find_words, 'find_words("Thủ đô của Pháp", {"thủ đô"}, "vi") -> [(0, 6)]')
    assert find_words("Thủ đô của Pháp", {"thủ đô"}, "vi") == [(0, 6)]
    assert says(attacks.letters_of, '"ที่ไหน" -> ["ที่", "ไ", "ห", "น"]')
    assert attacks.letters_of("ที่ไหน") == ["ที่", "ไ", "ห", "น"]
    assert says(match_case, 'match_case("Big", "huge", "en") -> "Huge"')
    assert match_case("Big", "huge", "en") == "Huge"
    example = 'find_slots("a Big big lake", {"big": ["BIG", "huge", "vast"]}, "en", k=1)'
    assert says(find_slots, example + ' -> [Slot(6, 9, ("huge",))]')
    slots = find_slots("a Big big lake", {"big": ["BIG", "huge", "vast"]}, "en", k=1)
    assert slots == [Slot(6, 9, ("huge",))]


def test_the_example_of_a_draw_is_true():
    """Number: with two options, a third of 3000 draws is empty; within 0.04, 4.6 s.d."""
    example = 'draw_freely([Slot(0, 3, ("huge", "vast"))], rng) -> {(0, 3): "vast"}'
    assert says(draw_freely, example + ", or {} for one in three")
    counts = Counter()
    for seed in range(3000):
        edits = draw_freely([Slot(0, 3, ("huge", "vast"))], generator(seed, "test"))
        counts[edits.get((0, 3))] += 1
    assert set(counts) == {None, "huge", "vast"}
    assert counts[None] / 3000 == pytest.approx(1 / 3, abs=0.04)


def test_the_examples_of_tables_are_true():
    """Number: typed from the docstrings. Catches: one that the code has left behind."""
    example = '{"pomme de terre": ["patate"], "patate": ["pomme de terre"]}'
    assert says(attacks.read_wordnet, example)
    content = "7-n\tfra:lemma\tpomme_de_terre\n7-n\tfra:lemma\tpatate"
    table = {"pomme de terre": ["patate"], "patate": ["pomme de terre"]}
    assert attacks.read_wordnet(content, "fr") == table


def test_the_example_of_a_dictionary_is_true(tmp_path):
    """Number: typed from the docstring. Catches: one that the code has left behind."""
    assert says(read_dictionary, '"en<TAB>de<TAB>dog<TAB>Hund" -> {"de": {"hund": ["dog"]}')
    assert says(read_dictionary, '"en": {"dog": ["Hund"]}}')
    assert read_dictionary(write_dictionary(tmp_path, "de dog Hund")) == {
        "de": {"hund": ["dog"]},
        "en": {"dog": ["Hund"]},
    }


def test_the_example_of_keys_is_true():
    """Number: typed from the docstring. Catches: one that the code has left behind."""
    assert says(attacks.near_keys, 'near_keys("s") -> ["a", "d", "w", "e", "z", "x"]')
    assert attacks.near_keys("s") == ["a", "d", "w", "e", "z", "x"]


def test_the_example_of_a_typo_is_true():
    """Number: glop, another letter for w; torch's generator is the same on every machine."""
    assert typo("glow", generator(0, "typo")) == "glop"
    assert says(typo, 'typo("glow", generator(0, "typo")) -> "glop"')
