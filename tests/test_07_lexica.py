"""Rung 7: no synonym is believed on the word of one source.

Builds: data/lexica/prepare.py. Before: rungs 0 and 9 (the words of a text are found there).
Run: pytest tests/test_07_lexica.py
"""

import json
import re
import shutil

import pytest

from attacks import read_dictionary, read_synonyms
from data.lexica import prepare
from data.lexica.prepare import Lexicon
from xlt import Text


def lexicon(lang, synsets, translations=None):
    """A lexicon from synset -> words and word -> its English words (of "en": "de:Hund")."""
    made = Lexicon(lang)
    for synset, words in synsets.items():
        for word in words.split():
            made.synsets.setdefault(word, set()).add(synset)
    for word, others in (translations or {}).items():
        pairs = set()
        for other in others.split():
            language, _, spelled = other.rpartition(":")
            pairs.add((language or "en", spelled))
        made.translations[word] = pairs
    return made


def question(text, lang="en", answer=""):
    """A question with an answer."""
    return Text("q", lang, text, "q", answer=answer)


# ---- rule 1: plain words -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "lang", "plain"),
    [
        ("élite", "es", True),
        ("ice cream", "en", False),
        ("co-op", "en", False),
        ("b2b", "en", False),
        ("ox", "en", True),
        ("x", "en", False),
        ("кино", "en", False),
        ("kino", "ru", False),
        ("बंद", "hi", True),
        ("thủ đô", "vi", True),
        ("thủ", "vi", False),
        ("หมา", "th", False),
        ("อินเดีย", "th", True),
        ("陆地", "zh", True),
        ("陸地", "zh", False),
        ("地", "zh", False),
    ],
)
def test_a_word_is_letters_of_its_script(word, lang, plain):
    """Claim: what a question of that language may hold, and nothing that is likely half a word.

    Number: बंद is two letters and a mark; 陸 is the traditional 陆.
    Catches: isalpha() alone, which lets a Cyrillic word into English and refuses Hindi's marks.
    """
    assert prepare.is_plain(word, lang) == plain


# ---- rule 2: no function words -------------------------------------------------------------------


def test_words_of_many_questions_are_frequent():
    """Claim: more than 1 % of the questions, however often in each.

    Number: of 200 questions 3 hold "city" and 2 hold "lake", once twice: 1 % are 2.
    Catches: occurrences counted for questions; >= for >.
    """
    texts = ["a city"] * 3 + ["a lake", "lake and lake"] + ["nothing"] * 195
    questions = [question(text) for text in texts]
    assert prepare.frequent_words(questions, {"city", "lake", "sea"}) == {"city"}


def test_what_translates_a_frequent_english_word_is_left_out():
    """Claim: "aus" is a function word, since "from" is one; rare here, it is one all the same.

    Number: "hund" translates "dog", which is not frequent; "und" is frequent itself.
    Catches: the frequency of one's own language alone: "out -> fountain".
    """
    german = lexicon("de", {"1-n": "hund aus"}, {"aus": "from", "hund": "dog", "und": "and"})
    questions = [question("und", "de")] + [question("wer", "de")] * 9
    assert prepare.content_words(german, questions, {"from"}) == {"hund"}


# ---- rule 3: no fragments ------------------------------------------------------------------------


def test_a_word_inside_of_a_longer_one_is_a_fragment():
    """Claim: หมา (dog) stands in ความหมาย (meaning); อินเดีย (India) stands alone.

    Number: by eye; each text holds one of the two keys.
    Catches: a dog put into the middle of "meaning".
    """
    questions = [question("ความหมายคืออะไร", "th"), question("อินเดียอยู่ที่ไหน", "th")]
    words = {"หมา", "ความหมาย", "อินเดีย"}
    assert prepare.fragments(questions, {"หมา", "อินเดีย"}, words) == {"หมา"}


def test_a_fragment_that_a_fragment_hides_is_found():
    """Claim: keys are searched again until none is inside of a longer word.

    Number: 合作社员 holds the key 合作社, which holds the key 合作: the longest key is found first.
    Catches: one round, after which 合作 is replaced inside of 合作社员.
    """
    pairs = {"1-n": "合作社 同社", "2-n": "合作 共作", "3-n": "合作社员"}
    table = prepare.synonyms(lexicon("zh", pairs), [question("合作社员", "zh")], set())
    assert set(table) == {"同社", "共作"}


# ---- rule 4: no inflections ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "other", "lang", "variant"),
    [
        ("fee", "fees", "en", True),
        ("control", "controlling", "en", True),
        ("losing", "lose", "en", True),
        ("begin", "start", "en", False),
        ("construct", "construe", "en", True),
        ("größer", "grösser", "de", True),
        ("élite", "elite", "es", True),
        ("السوق", "سوق", "ar", True),
        ("خاصة", "خاص", "ar", True),
        ("قوى", "قوية", "ar", True),
        ("سوق", "بازار", "ar", False),
        ("南美", "南美洲", "zh", False),
        ("giá", "giá cả", "vi", False),
    ],
)
def test_an_inflection_is_no_synonym(word, other, lang, variant):
    """Claim: same beginning, short rest; where words are not inflected, only the same letters.

    Number: "lose" and "losing" share three letters of four and six. "construct" and "construe"
    are the price: no synonyms either, and refused.
    Catches: an attack that is counted though it changed an ending.
    """
    assert prepare.is_variant(word, other, lang) == variant
    assert prepare.is_variant(other, word, lang) == variant


def test_a_verb_does_not_replace_a_noun():
    """Claim: words whose synsets have no class in common are no pair.

    Number: "trip" is 1-n and "travel" 2-v; "walk" is both. "stroll" is in no synset: not known.
    Catches: "the first to trip with a couple".
    """
    english = lexicon("en", {"1-n": "trip walk", "2-v": "travel walk"})
    assert prepare.differ_in_class("trip", "travel", english)
    assert not prepare.differ_in_class("trip", "walk", english)
    assert not prepare.differ_in_class("trip", "stroll", english)
    german = lexicon("de", {"1-n": "reise", "2-v": "fahren"})
    for word in ("reise", "fahren"):
        german.translations[word] = {("en", "trip"), ("en", "journey")}
    assert prepare.synonyms(german, [], set()) == {}


# ---- rules 5 and 6: two witnesses, one sense -----------------------------------------------------


@pytest.mark.parametrize(
    ("synsets", "translations", "count"),
    [
        ({"1-n": "wand mauer"}, {"wand": "wall", "mauer": "wall"}, 2),
        ({"1-n": "wand mauer"}, {"wand": "wall", "mauer": "brick"}, 0),
        ({}, {"wand": "wall", "mauer": "wall"}, 0),
        ({}, {"wand": "wall barrier", "mauer": "wall barrier"}, 2),
        ({}, {"wand": "lie lied", "mauer": "lie lied"}, 0),
        ({"1-n": "wand mauer"}, {"wand": "wall", "mauer": "wall brick stone"}, 0),
        ({"1-n": "wand mauer"}, {"wand": "wall", "mauer": "wall brick"}, 2),
        ({"1-n": "wand mauer"}, {}, 0),
        (
            {"1-n": "wand mauer", "2-n": "wand", "3-n": "wand", "4-n": "wand"},
            {"wand": "wall", "mauer": "wall"},
            0,
        ),
        (
            {"1-n": "wand mauer", "2-n": "wand", "3-n": "wand", "4-n": "wand"},
            {"wand": "wall barrier", "mauer": "wall barrier"},
            3,
        ),
    ],
)
def test_two_witnesses_of_one_sense(synsets, translations, count):
    """Claim: a synset and an English word, or two English words; one alone is not believed.

    Number: one of three English words shared is less than half, one of two is half. "lie" and
    "lied" begin alike: one witness. Four synsets are too many for one English word, not for two.
    Catches: OMW alone ("have -> birth"), MUSE alone, a word with three meanings.
    """
    german = lexicon("de", synsets, translations)
    assert prepare.agree("wand", "mauer", german) == count
    assert prepare.agree("mauer", "wand", german) == count


@pytest.mark.parametrize(
    ("word", "other", "lang", "count"),
    [
        ("入侵", "侵略", "zh", 2),
        ("因素", "成份", "zh", 0),
        ("kẻ thù", "kẻ địch", "vi", 2),
        ("thế giới", "vũ trụ", "vi", 0),
        ("อินเดีย", "ประเทศอินเดีย", "th", 2),
        ("ยุทธวิธี", "กลยุทธ์", "th", 0),
    ],
)
def test_a_part_in_common_is_a_witness(word, other, lang, count):
    """Claim: beside a synset, a Chinese character, a syllable or a whole Thai word is the second.

    Number: by eye; 侵 is in both words. The last two Thai words share letters, not a word.
    Catches: single Vietnamese letters, or Thai ones, taken for a part.
    """
    made = Lexicon(lang, {word: {"1-n"}, other: {"1-n"}})
    assert prepare.agree(word, other, made) == count
    made.synsets[other].add("2-n")  # a second sense, and no English word to tell which
    assert prepare.agree(word, other, made) == 0


def english_pair(translations, synset=False, neighbours=()):
    """good and fine, with what is said of them."""
    made = lexicon("en", {"1-a": "good fine"} if synset else {}, translations)
    made.neighbours = {"good": set(), "fine": set()}
    for word, other in neighbours:
        made.neighbours[word].add(other)
    return made


BOTH_SIDES = (("good", "fine"), ("fine", "good"))
THREE_OF_FOUR = {"good": "de:gut es:bueno ru:ok el:a", "fine": "de:gut es:bueno ru:ok el:b"}
THREE_OF_FIVE = {
    "good": "de:gut es:bueno ru:ok el:a tr:c",
    "fine": "de:gut es:bueno ru:ok el:b tr:d",
}
TWO_OF_TWO = {"good": "de:gut es:bueno", "fine": "de:gut es:bueno"}


@pytest.mark.parametrize(
    ("translations", "synset", "neighbours", "count"),
    [
        (THREE_OF_FOUR, True, (), 3),
        (THREE_OF_FOUR, False, BOTH_SIDES, 3),
        (THREE_OF_FOUR, False, BOTH_SIDES[:1], 0),
        (THREE_OF_FOUR, False, (), 0),
        (THREE_OF_FIVE, True, (), 0),
        (TWO_OF_TWO, True, BOTH_SIDES, 0),
        ({}, True, BOTH_SIDES, 0),
    ],
)
def test_english_words_need_a_source_and_the_dictionaries(translations, synset, neighbours, count):
    """Claim: a synset or neighbours on both sides, and two thirds of the dictionaries, three.

    Number: 3 of 4 are more than two thirds, 3 of 5 are less; 2 of 2 are too few.
    Catches: "had -> took" and "good -> buena", neighbours that no dictionary knows.
    """
    english = english_pair(translations, synset, neighbours)
    assert prepare.agree_in_english("good", "fine", english) == count
    assert prepare.agree_in_english("fine", "good", english) == count


def test_the_best_replacements_come_first_and_eight_are_kept():
    """Claim: in the order of their witnesses, then of the alphabet; spelled as the source has it.

    Number: ten words of one synset share "dog"; "tier" shares "beast" too: three witnesses.
    Catches: a set's order, which differs from run to run; nouns in small letters.
    """
    words = ["hund", "tier", "ba", "be", "bi", "bo", "bu", "da", "de", "di"]
    german = lexicon("de", {"1-n": " ".join(words)}, dict.fromkeys(words, "dog"))
    for word in ("hund", "tier"):
        german.translations[word].add(("en", "beast"))
    german.spelling = {"tier": "Tier", "hund": "Hund"}
    table = prepare.synonyms(german, [], set())
    assert list(table) == ["ba", "be", "bi", "bo", "bu", "da", "de", "di", "hund", "tier"]
    assert table["hund"] == ["Tier", "ba", "be", "bi", "bo", "bu", "da", "de"]
    assert table["ba"] == ["be", "bi", "bo", "bu", "da", "de", "di", "Hund"]


# ---- files to files ------------------------------------------------------------------------------


GERMAN = """# Wiktionary\tdeu\thttp://wiktionary.org/\tCC BY-SA
00000001-n\tdeu:lemma\tMauer
00000001-n\tdeu:lemma\tWand
00000001-n\tdeu:exe\tDie Wand ist weiß
00000002-n\tdeu:lemma\tWand_(Bergsteigen)
"""
ENGLISH = """# Wiktionary\teng\thttp://wiktionary.org/\tCC BY-SA
00000003-v\teng:lemma\tconstruct
00000003-v\teng:lemma\tbuild
"""
NEIGHBOURS = {"build": ["construct", "buena"], "construct": ["build"], "had": ["took"], "br": []}
# Names are the same in both languages and dropped; a TAB and a blank both stand between the words
MUSE_DE = "wall Mauer\nwall\tWand\nbuild bauen\nconstruct bauen\nberlin berlin\n"
MUSE_ES = "build construir\nconstruct construir\n"
MUSE_RU = "build строить\nconstruct строить\n"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with sources of a few rows, in it the data set's folder `into` of three questions."""
    monkeypatch.setattr(prepare, "OMW_CODES", {"de": "deu", "en": "eng", "es": "spa", "ru": "rus"})
    monkeypatch.setattr(prepare, "PUBLISHED_PAIRS", {"de": 4, "es": 2, "ru": 2})
    monkeypatch.setattr(prepare, "MOST_QUESTIONS", 0.5)  # of so few questions
    texts = {
        "omw/wn-wikt-deu.tab": GERMAN,
        "omw/wn-wikt-eng.tab": ENGLISH,
        "omw/wn-wikt-spa.tab": "1-n\tspa:lemma\tperro\n",
        "omw/wn-wikt-rus.tab": "1-n\trus:lemma\tсобака\n",
        f"counterfitted/{prepare.NEIGHBOURS}": json.dumps(NEIGHBOURS),
        "muse/en-de.txt": MUSE_DE,
        "muse/en-es.txt": MUSE_ES,
        "muse/en-ru.txt": MUSE_RU,
        "into/queries.jsonl": "".join(
            json.dumps({"_id": name, "lang": lang, "text": text}) + "\n"
            for name, lang, text in (
                ("1", "de", "Wo ist die Mauer?"),
                ("2", "de", "Wer kam?"),
                ("3", "en", "Who did build it?"),
                ("4", "en", "Who came?"),
            )
        ),
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run(tiny, *flags):
    """The exit code of prepare.py with these sources."""
    return prepare.main(["--into", str(tiny / "into"), "--source", str(tiny), *flags])


def test_a_wordnet_has_lemmas_with_their_synsets(tiny):
    """Claim: rows of the kind LANG:lemma alone, in lower case, without what stands in brackets.

    Number: four rows, one of them an example; Wand is in two synsets.
    Catches: a sentence taken for a lemma; "wand (bergsteigen)", which no question holds.
    """
    german = Lexicon("de")
    prepare.read_wordnet(tiny / "omw/wn-wikt-deu.tab", german)
    assert german.synsets == {"mauer": {"00000001-n"}, "wand": {"00000001-n", "00000002-n"}}
    assert german.spelling == {"mauer": "Mauer", "wand": "Wand"}


def test_of_two_spellings_that_of_the_first_row_stays(tmp_path):
    """Number: Essen and essen, in either order. Catches: the last row's, or one of both, by chance."""
    rows = ["1-n\tdeu:lemma\tEssen\n", "2-v\tdeu:lemma\tessen\n"]
    for order, spelling in ((rows, "Essen"), (rows[::-1], "essen")):
        path = tmp_path / f"{spelling}.tab"
        path.write_text("".join(order))
        german = Lexicon("de")
        prepare.read_wordnet(path, german)
        assert german.spelling == {"essen": spelling}


def test_the_files_are_those_that_attacks_read(tiny):
    """Claim: synonyms/LANG.json and dictionary.tsv, read by read_synonyms and read_dictionary.

    Number: Mauer and Wand share a synset and "wall"; build and construct share a synset and three
    dictionaries. Nothing is said twice of a Spanish or Russian word. Berlin is a name.
    Catches: keys with capitals, lemmas with "(Bergsteigen)", rows of examples taken for lemmas.
    """
    assert run(tiny) == 0
    assert read_synonyms(tiny / "into") == {
        "de": {"mauer": ["Wand"], "wand": ["Mauer"]},
        "en": {"build": ["construct"], "construct": ["build"]},
        "es": {},
        "ru": {},
    }
    tables = read_dictionary(tiny / "into/dictionary.tsv")
    assert tables["de"]["mauer"] == ["wall"]
    assert tables["es"]["construir"] == ["bauen", "build", "строить", "construct"]
    assert "berlin" not in tables["en"]


def test_a_frequent_word_of_the_folder_is_left_out(tiny):
    """Claim: the folder's own questions say what is frequent.

    Number: "Mauer" in two of three German questions is more than the half that is allowed here.
    Catches: questions of another language counted, or none.
    """
    row = {"_id": "5", "lang": "de", "text": "Welche Mauer?"}
    with open(tiny / "into/queries.jsonl", "a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    assert run(tiny) == 0
    assert read_synonyms(tiny / "into")["de"] == {}


def test_what_the_tables_reach_is_printed(tiny, capsys):
    """Claim: words, replacements, share of questions, words a question, for each language.

    Number: one of two German questions holds "Mauer": 50 %, 0.5 a question.
    Catches: questions without a replaceable word left out of the mean.
    """
    run(tiny)
    printed = capsys.readouterr().out
    assert (
        "de: 2 words, 2 replacements; 2 questions, 50.0% have a replaceable word, 0.50" in printed
    )
    assert "es: 0 words, 0 replacements; 0 questions, 0.0%" in printed
    assert "dictionary: 8 pairs" in printed


def test_a_sample_shows_the_word_and_its_replacement_in_place(tiny, capsys):
    """Claim: N questions a language, fewer if fewer can be changed; the same seed, the same lines.

    Number: one question of German and one of English can be changed.
    Catches: a sample that writes files, or that needs the sources.
    """
    run(tiny)
    shutil.rmtree(tiny / "omw")
    capsys.readouterr()
    for _ in range(2):
        assert run(tiny, "--sample", "3", "--seed", "5") == 0
        assert capsys.readouterr().out.splitlines() == [
            "de: Wo ist die [Mauer -> Wand]?",
            "en: Who did [build -> construct] it?",
        ]


def test_an_answer_is_not_replaced(tiny, capsys):
    """Claim: coverage and sample count what an attack may change: not the answer's words.

    Catches: "Wo ist die [Mauer -> Wand]?" where the answer is "die Mauer".
    """
    asked = question("Wo ist die Mauer?", "de", "die Mauer")
    table = {"mauer": ["Wand"]}
    assert prepare.slots_of(asked, table) == []
    assert prepare.sample_lines([asked], table, "de", 1, 0) == []
    line = prepare.coverage_line([asked], table, "de")
    assert "1 questions, 0.0% have a replaceable word" in line


def test_the_same_input_gives_the_same_bytes(tiny):
    """Claim: not even the order of a wordnet's rows or of the neighbours changes a table, but for the
    spelling of a word that has two.

    Number: the same rows from the last to the first.
    Catches: words in the order of a set, which differs from process to process.
    """
    names = ["dictionary.tsv", "synonyms/de.json", "synonyms/en.json"]
    assert run(tiny) == 0
    first = [(tiny / "into" / name).read_bytes() for name in names]
    for path in (tiny / "omw").iterdir():
        rows = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(reversed(rows)), encoding="utf-8")
    turned = dict(reversed(NEIGHBOURS.items()))
    (tiny / "counterfitted" / prepare.NEIGHBOURS).write_text(json.dumps(turned))
    assert run(tiny) == 0
    assert [(tiny / "into" / name).read_bytes() for name in names] == first


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("omw/wn-wikt-deu.tab", None, "wn-wikt-deu.tab: no such file"),
        ("omw/wn-wikt-deu.tab", "1-n\tdeu:lemma\n", "wn-wikt-deu.tab:1: columns of .* 3, found 2"),
        ("omw/wn-wikt-deu.tab", "# empty\n", "wn-wikt-deu.tab: has no row of the kind deu:lemma"),
        ("muse/en-de.txt", None, "en-de.txt: no such file"),
        (
            "muse/en-de.txt",
            "wall Wand\nwall\n",
            "en-de.txt:2: columns of 'wall': expected 2, found 1",
        ),
        (
            "muse/en-de.txt",
            "wall Wand\n",
            "en-de.txt: pairs of different words: expected 4, found 1",
        ),
        (
            f"counterfitted/{prepare.NEIGHBOURS}",
            None,
            "neighbors.json: is not a readable JSON file",
        ),
        (f"counterfitted/{prepare.NEIGHBOURS}", "[]", "neighbors.json: is no JSON object"),
        (f"counterfitted/{prepare.NEIGHBOURS}", '{"a": "b"}', "'a' must have a list of words"),
    ],
)
def test_a_source_that_is_not_as_published_is_refused(tiny, capsys, name, text, message):
    """Claim: exit 1 and one line: file, line, what is wrong, where to have it; nothing is written.

    Number: one file broken at a time.
    Catches: a traceback; half the tables, written before the dictionary was read.
    """
    (tiny / name).unlink()
    if text is not None:
        (tiny / name).write_text(text, encoding="utf-8")
    assert run(tiny) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(message, printed)
    assert "Download https://" in printed
    assert sorted(path.name for path in (tiny / "into").iterdir()) == ["queries.jsonl"]


def test_a_folder_without_questions_is_refused(tiny, capsys):
    """Claim: exit 1, before anything is fetched or read.

    Catches: tables whose frequent words were counted in no question at all.
    """
    (tiny / "into/queries.jsonl").unlink()
    assert run(tiny) == 1
    assert "queries.jsonl: no such file" in capsys.readouterr().err


def test_an_address_that_is_not_there_is_told(tiny, capsys, monkeypatch):
    """Claim: exit 1; the address, and the folder for a file that was fetched by hand.

    Number: port 9 of this machine, where nothing answers.
    Catches: a URLError without a remedy.
    """
    monkeypatch.setattr(prepare, "OMW_URL", "http://127.0.0.1:9")
    assert prepare.main(["--into", str(tiny / "into")]) == 1
    printed = capsys.readouterr().err
    assert "http://127.0.0.1:9/wn-wikt-deu.tab: could not be fetched" in printed
    assert "to DIR/omw" in printed


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--into", "x", "--source", "/nowhere/at/all"],
        ["--into", "x", "--sample", "-1"],
        ["--into", "x", "--sample", "many"],
    ],
)
def test_a_wrong_flag_is_refused(flags):
    """Claim: exit 2, as for any flag that is wrong.

    Catches: twenty files fetched, since the folder was mistyped.
    """
    with pytest.raises(SystemExit, match="2"):
        prepare.main(flags)


def test_the_published_counts_are_all_there():
    """Claim: a dictionary for every language but English, and the counts of DATASETS.

    Number: Thai 9341 and Vietnamese 6997 usable pairs, known from before; 326,657 in all.
    Catches: a typing error in one of ten numbers.
    """
    assert set(prepare.PUBLISHED_PAIRS) == set(prepare.OMW_CODES) - {"en"}
    assert prepare.PUBLISHED_PAIRS["th"] == 9341
    assert prepare.PUBLISHED_PAIRS["vi"] == 6997
    assert sum(prepare.PUBLISHED_PAIRS.values()) == 326657
