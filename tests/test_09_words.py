"""Rung 9: a word is found in eleven languages, replaced, misspelt; what must stay, stays.

Builds: sections 1 and 2 of attacks.py. Before: rungs 0 and 5. Run: pytest tests/test_09_words.py
"""

import json
import math
import random
import re
import unicodedata
from collections import Counter
from types import SimpleNamespace

import pytest
from conftest import ROOT

import attacks
from attacks import Attack, draw, find_slots, find_words, lower, parse_attack, substitute, typo
from xlt import Text, generator

LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
WORDS = ["capital", "İzmir", "cafe\u0301s", "añadir", "столица", "μεγαλο", "عاصمة", "राजधानी",
         "क्या", "ที่ไหน", "เมืองหลวง", "首都在哪"]  # fmt: skip
SHIPPED = ROOT / "data/minifacts/synonyms"
BESIDE = {"g": "fhtyvb", "l": "kop", "o": "ipkl", "w": "qeas"}  # read off a keyboard


def clusters(word):
    """The test's own: each letter with its marks."""
    starts = [i for i, c in enumerate(word) if unicodedata.category(c)[0] != "M"]
    return [word[a:b] for a, b in zip(starts, [*starts[1:], len(word)], strict=True)]


def kind_of(old, new, beside):
    """Which one edit leads from old to new, on clusters; None if no single one does."""
    a, b = clusters(old), clusters(new)
    if len(a) != len(b):
        long, short, kind = (b, a, "insert") if len(b) > len(a) else (a, b, "delete")
        return kind if short in [long[:i] + long[i + 1 :] for i in range(len(long))] else None
    i, *rest = [i for i in range(len(a)) if a[i] != b[i]]
    if not rest:
        return "neighbour" if b[i] in beside.get(a[i], ()) else "substitute"
    return "swap" if rest == [i + 1] and a[i : i + 2] == b[i : i + 2][::-1] else None


def dev_queries(data, lang):
    return [data.queries[q] for q in sorted(data.qrels["dev"]) if data.queries[q].lang == lang]


def test_an_attack_has_its_name_s_defaults_and_settings_of_their_own_type():
    """Number: k 8 is Robust-XLT's, 1000 samples are CertDR's; typos change one word.
    Catches: one default for all names; k as text or float; a label without the settings."""
    assert parse_attack("greedy") == Attack("greedy", "greedy", 0, 8, 1, "scores")
    assert (parse_attack("beam").width, parse_attack("hotflip").order) == (4, "gradient")
    assert parse_attack("typos").edits == parse_attack("typos-greedy").edits == 1
    assert parse_attack("smoothed").samples == 1000 and parse_attack("pgd:epsilon=0").epsilon == 0
    found = parse_attack(text := "beam:edits=2,k=3,order=gradient,width=2")
    assert found == Attack("beam", text, edits=2.0, k=3, width=2, order="gradient")
    assert (found.label, type(found.k), type(found.edits)) == (text, int, float)


def test_words_are_runs_of_letters_marks_and_digits_or_stretches_of_four():
    """Number: by eye; Thai in fours of letters with marks: ที่ ไ ห น | ค รั บ.
    Catches: \\w, which ends क्या after its first letter; fours of characters, which cut ที่."""
    assert attacks.words_of("It's 3 km!", "en") == [(0, 2), (3, 4), (5, 6), (7, 9)]
    assert attacks.words_of("क्या है?", "hi") == [(0, 4), (5, 7)]
    assert attacks.words_of("法国的首都在哪？里", "zh") == [(0, 4), (4, 7), (8, 9)]
    assert attacks.words_of("ที่ไหนครับ", "th") == [(0, 6), (6, 10)]
    assert attacks.letters_of("राe\u0301t") == ["रा", "e\u0301", "t"]


def test_a_table_word_is_found_whole_and_the_longest_key_wins():
    """Number: น in น้ำ carries a tone mark, so it is found in the second word alone; "thành phố"
    (0 to 9) beats "thành", then "cổ"; "thủ đôi" is not "thủ đô". Catches: a mark left behind on
    the replacement; word by word, which finds no Vietnamese word of two syllables."""
    assert find_words("น้ำนก", {"น": ["x"]}, "th") == [(3, 4)]
    assert find_words("पानी में पान", {"पान": ["x"]}, "hi") == [(9, 12)]
    assert find_words("cafe\u0301 cafe", {"cafe": ["x"]}, "en") == [(6, 10)]
    table = {key: ["x"] for key in ("thành", "thành phố", "phố cổ", "cổ", "thủ đô")}
    assert find_words("Thành phố cổ, thủ đôi", table, "vi") == [(0, 9), (10, 12)]
    assert find_words("Thủ đô!", table, "vi") == [(0, 6)]


def test_turkish_i_keeps_its_dot_or_has_none():
    """Number: I is ı, İ is i, one character each. Catches: str.lower, which makes İ two."""
    assert lower("ISLAK İZMİR", "tr") == "ıslak izmir" and lower("ISLAK İ", "en") == "islak i"
    assert find_words("İzmir Irmak", {"ırmak": ["x"], "izmir": ["y"]}, "tr") == [(0, 5), (6, 11)]
    upper = [attacks.match_case("Kent", other, "tr") for other in ("il", "ırmak", "", "İl")]
    assert upper == ["İl", "Irmak", "", "İl"] and attacks.match_case("A", "il", "en") == "Il"


def test_numbers_names_and_fixed_words_stay_and_case_alone_is_no_option():
    """Number: "Big" is a name in the middle of a sentence, but for German; "Which" begins it; of
    BIG, big, large, huge k=1 leaves large. Catches: a changed answer, name or year, with which
    another passage would be relevant; k counted before the no-ops are dropped."""
    table = {"which": ["what"], "city": ["town"], "21st": ["first"], "river": ["stream"]}
    table["big"], fixed = ["large", "Big", "BIG"], frozenset({"river"})
    text, what = "Which Big city has 21st big river?", (0, 5, ["What"])
    common, named = [(10, 14, ["town"]), (24, 27, ["large"])], (6, 9, ["Large"])
    assert find_slots(text, table, "en", fixed) == [what, *common]
    assert find_slots(text, table, "de", fixed) == [what, named, *common]
    assert find_slots("¿Big?", table, "es") == [(1, 4, ["Large"])]
    table = {"big": ["BIG", "big", "large", "large", "huge"], "ılık": ["ILIK"]}
    assert find_slots("a big", table, "en", k=1) == [(2, 5, ["large"])]
    assert find_slots("a big", table, "en") == [(2, 5, ["large", "huge"])]
    assert find_slots("ılık", table, "tr") == []


@pytest.mark.parametrize(("lang", "text", "answer", "word"), [
    ("en", "Is it a town or a lake?", "a town", "town"),
    ("vi", "Nơi này là thủ đô hay làng?", "thủ đô", "thủ đô"),
    ("zh", "这里是首都还是村庄？", "法国的首都", "首都"),
    ("th", "ที่นี่คือเมืองหลวงหรือหมู่บ้าน", "คือเมืองหลวง", "เมืองหลวง"),
], ids=["en", "vi", "zh", "th"])  # fmt: skip
def test_a_word_of_the_answer_stays_in_every_script(lang, text, answer, word):
    """Catches: keys of two syllables, or unspaced, looked up among syllables and letters' fours."""
    data = SimpleNamespace(queries=[Text("q", lang, text, "q", answer=answer)])
    tables = {lang: {word: ["x"]}}
    assert find_slots(text, tables[lang], lang), "the word is not even found"
    items = attacks.make_items(data, [0], ["mono"], parse_attack("random"), tables, 0)
    assert items[0].slots == []


def test_tables_are_read_ours_counter_fitted_and_wordnet(tmp_path):
    """Number: "Big" and "big" are one key; patate is in two synsets, 3-n holds one word.
    Catches: keys in capitals; an underscore, a comment or a definition left in; a word as its own.
    """
    rows = {"Big": ["large"], "big": ["huge"], "lonely": [], "IRMAK": ["çay"]}
    (tmp_path / "t.json").write_text(json.dumps(rows), encoding="utf-8")
    english = {"big": ["large", "huge"], "lonely": [], "irmak": ["çay"]}
    assert attacks.read_table(tmp_path / "t.json", "en") == english
    assert "ırmak" in attacks.read_table(tmp_path / "t.json", "tr")
    (tmp_path / "t.tab").write_text(
        "# 9-n\tfra:lemma\tnote\n# 9-n\tfra:lemma\tmot\n3-n\tfra:lemma\tseul\n"
        "1-n\tfra:lemma\tpomme_de_terre\n1-n\tfra:lemma\tpatate\n1-n\tfra:exe\tdes frites\n"
        "1-n\tfra:def\t0\tun tubercule\n2-n\tfra:lemma\tpatate\n2-n\tfra:lemma\tTubercule\n"
    )
    patate = {"patate": ["pomme de terre", "Tubercule"]}
    french = {"pomme de terre": ["patate"], **patate, "tubercule": ["patate"]}
    assert attacks.read_table(tmp_path / "t.tab", "fr") == french


def test_english_is_the_pivot_between_two_other_languages(tmp_path):
    """Number: Bank is bank and bench, both banco: each other word once. Catches: English pairs
    alone; the last meaning of a word over the first; doubles."""
    rows = ("de\tbank\tBank", "es\tbank\tbanco", "de\tbench\tBank", "es\tbench\tbanco")
    (tmp_path / "d.tsv").write_text("".join(f"en\t{row}\n" for row in rows))
    found = attacks.read_dictionary(tmp_path / "d.tsv")
    assert {a: {w: sorted(o) for w, o in t.items()} for a, t in found.items()} == {
        "en": {"bank": ["Bank", "banco"], "bench": ["Bank", "banco"]},
        "de": {"bank": ["banco", "bank", "bench"]},
        "es": {"banco": ["Bank", "bank", "bench"]},
    }


@pytest.mark.parametrize(("char", "keys"), [
    ("g", "fhtyvb"), ("q", "wa"), ("p", "ol"), ("m", "njk"), ("п", "аренми"), ("й", "цф"),
    ("β", "γηων"), ("σ", "ςεαδζχ"), ("س", "صثشيئء"), ("ت", "عهانىة"), ("ก", ""), ("首", ""),
])  # fmt: skip
def test_the_keys_beside_a_letter_are_those_of_its_keyboard(char, keys):
    """Number: read off xkb's us, ru, gr, ara: the Greek Q is a semicolon, so that σ lies below ς
    and ε; the Arabic B is لا, so that ت lies above ى and ة. Catches: a shifted row."""
    assert sorted(attacks.near_keys(char)) == sorted(keys)


def test_neighbours_agree_with_a_slow_loop(encoder):
    """Claim: cosines of mean piece embeddings, of one's own language, never oneself. Number: 3 of
    14 words, fp32 to 1e-6. Catches: special tokens in the mean, no norm, a mixed pool."""
    english = "which city is the capital of france near a river called rhine with geographically"
    own = {"en": english.split(), "de": ["capital", "die", "hauptstadt", "rhine"]}
    weight, vectors = encoder.model.get_input_embeddings().weight.detach().numpy(), {}
    for word in {*own["en"], *own["de"]}:
        ids = encoder.tokenizer(word, add_special_tokens=False)["input_ids"]
        mean = [math.fsum(c) / len(ids) for c in zip(*weight[ids].tolist(), strict=True)]
        vectors[word] = [x / math.hypot(*mean) for x in mean]
    cosine = lambda a, b: math.fsum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))
    texts = [Text("1", "en", english.title() + "?", ""), Text("2", "de", " ".join(own["de"]), "")]
    for lang, table in attacks.neighbours(encoder, texts, 3).items():
        assert sorted(table) == sorted(own[lang])
        for word, near in table.items():
            best = sorted((cosine(word, o) for o in own[lang] if o != word), reverse=True)[:3]
            assert word not in near and len({*near} & {*own[lang]}) == 3
            assert [cosine(word, o) for o in near] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("lang", ["en", "th"])
def test_words_are_found_as_a_regular_expression_finds_them(lang):
    """Claim: 300 random texts and tables: the spans that `re` finds with the longest key first.
    Catches: a border forgotten; a search that goes on one place too far after a match."""
    rng = random.Random(1)
    for _ in range(300):
        keys = {"".join(rng.choices("ab", k=rng.randint(1, 3))) for _ in range(4)} | {"a b"}
        text = "".join(rng.choices("aabb -", k=30))
        pattern = "|".join(sorted(keys, key=len, reverse=True))
        pattern = f"(?<![ab])(?:{pattern})(?![ab])" if lang == "en" else pattern
        expected = [m.span() for m in re.finditer(pattern, text)]
        assert find_words(text, {key: ["x"] for key in keys}, lang) == expected, (text, keys)


@pytest.mark.parametrize("lang", LANGS)
def test_random_edits_really_change_the_questions_of_every_language(minifacts, lang):
    """Claim: no language is robust because it was not attacked. Number: 148 dev questions; 1 / (n +
    1) of three words leaves 1 to 4 % unchanged: over 0.9. Catches: \\w, words between spaces."""
    table, changed = attacks.read_table(SHIPPED / f"{lang}.json", lang), 0
    for q in (queries := dev_queries(minifacts, lang)):
        edits = draw(find_slots(q.text, table, lang), None, generator(0, "test", q.id))
        changed += substitute(q.text, edits).casefold() != q.text.casefold()
    assert len(queries) == 148 and changed / len(queries) > 0.9


@pytest.mark.parametrize("lang", ["th", "zh"])
def test_a_question_without_spaces_is_edited_by_the_table(minifacts, lang):
    """Claim: one edit replaces one key of the shipped file and leaves the rest of the text.
    Number: 3 keys or more: 40 seeds give 3 texts or more. Catches: the line taken for one word."""
    question = next(q.text for q in dev_queries(minifacts, lang) if q.id == f"q14.{lang}")
    raw = json.loads((SHIPPED / f"{lang}.json").read_text(encoding="utf-8"))
    allowed = {question.replace(word, o, 1) for word, others in raw.items() for o in others}
    slots = find_slots(question, attacks.read_table(SHIPPED / f"{lang}.json", lang), lang)
    texts = {substitute(question, draw(slots, 1, generator(seed, "test"))) for seed in range(40)}
    assert len(texts) >= 3 and texts <= allowed - {question}


def test_each_word_is_redrawn_from_itself_and_its_replacements():
    """Number: 3 replacements: each of four has 1/4, so 3/4 change. 4000 seeds, within 0.032, 4.6
    standard deviations: 8 shares, a false alarm in 4 * 10^4. Catches: 1/3 each; a coin of 1/2."""
    table, counts = {"big": ["large", "huge", "vast"]}, Counter()
    for seed in range(4000):
        counts[attacks.redraw("Big!", table, "en", generator(seed, "test"))] += 1
        counts[substitute("w", draw([(0, 1, [*"xyz"])], None, generator(seed, "test")))] += 1
    assert set(counts) == {"Big!", "Large!", "Huge!", "Vast!", *"wxyz"}
    assert [n / 4000 for n in counts.values()] == pytest.approx([1 / 4] * 8, abs=0.032)


@pytest.mark.parametrize("edits", [0, 1, 3, 5, 9])
def test_a_number_of_edits_changes_exactly_that_many_words(edits):
    """Number: five slots, so that 9 are 5. Catches: the word among its options; always the first
    words (60 seeds miss one of five places at one edit with probability 8e-6)."""
    slots, seen = [(i, i + 1, ["x", "y"]) for i in range(5)], set()
    for seed in range(60):
        new = substitute("abcde", draw(slots, edits, generator(seed, "test")))
        apart = {i for i in range(5) if new[i] != "abcde"[i]}
        assert len(apart) == min(edits, 5) and len(new) == 5
        seen |= apart
    assert len(seen) == (5 if edits else 0)


@pytest.mark.parametrize("name", ["random", "typos:k=1,edits=8"])
def test_seed_and_query_id_alone_decide_the_draw(name):
    """Claim: the same twice and in all views; another seed or query, another text.
    Number: eight words of four letters. Catches: one generator for all queries; the view in it."""
    text, attack = "abba cddc effe ghhg ijji kllk mnnm oppo", parse_attack(name)
    data = SimpleNamespace(queries=[Text(i, "en", text, i) for i in ("q1.en", "q2.en")])
    tables = {"en": {word: ["x", "y", "z"] for word in text.split()}}

    def attacked(seed, queries):
        items = attacks.make_items(data, queries, ["mono", "pool"], attack, tables, seed)
        attacks.attack_words(items, None, None, attack, seed)
        return [item.text for item in items]

    first = attacked(0, [0, 1])
    assert first == attacked(0, [0, 1]) and first[2:] == attacked(0, [1])
    assert first[0] == first[1] and first[2] == first[3]
    assert len({text, first[0], first[2], *attacked(1, [0])}) == 4


@pytest.mark.parametrize("word", WORDS)
def test_a_typo_is_one_edit_and_never_none(word):
    """Claim: one letter more, less or other, or two swapped; letters of the word's script, marks on
    their letters. Number: 200 seeds. Catches: list(word), which puts a mark first; two edits."""
    old, script = clusters(word), unicodedata.name(word[0]).split()[0]
    lone = script in ("DEVANAGARI", "THAI", "CJK")  # no keyboard: letters of the word itself
    for seed in range(200):
        new = typo(word, generator(seed, "test"))
        assert "".join(clusters(new)) == new != word and kind_of(word, new, {}), (word, new)
        for letter in set(clusters(new)) - set(old):
            assert not lone and unicodedata.name(letter[0]).split()[0] == script, (word, new)
            assert letter[1:] in ("", "\u0301")
    assert typo("ก", generator(0, "test")) == "กก", "one letter: nothing but a second one is left"


def test_all_five_kinds_of_typo_occur():
    """Number: 2000 seeds on "glow". Swaps at its end become others: 0.15 or more each, 0.1 asked.
    Neighbours are 17 % of other letters by chance, 58 % with the fifth kind (s.d. 1.7 %): 45 %."""
    kinds = Counter(kind_of("glow", typo("glow", generator(i, "t")), BESIDE) for i in range(2000))
    assert len(kinds) == 5 and None not in kinds and min(kinds.values()) / 2000 > 0.1
    assert kinds["neighbour"] / (kinds["neighbour"] + kinds["substitute"]) > 0.45
    marked = {c for i in range(200) for c in clusters(typo("e\u0301te", generator(i, "t")))}
    assert marked & {c + "\u0301" for c in "wrsd"}, "a key beside keeps the letter's marks"


@pytest.mark.parametrize("stays", ["ab", "क्या", "2024", "a1b2", "५००", "ⅩⅧⅠ", "River", "IRMAK"])
def test_typos_spare_short_words_numbers_and_fixed_ones(stays):
    """Number: क्या has four characters, two letters. Catches: len(word); isdigit, False for Ⅷ."""
    text, fixed = f"{stays} lake", frozenset({"river", "ırmak"})
    found = attacks.typo_slots(text, "tr", generator(0, "test"), fixed, 8)
    assert [(a, b) for a, b, _ in found] == [(len(stays) + 1, len(text))]
    assert 1 < len(found[0][2]) <= 8 and "lake" not in found[0][2]


@pytest.mark.parametrize("lang", ["hi", "th", "zh"])
def test_typos_find_places_in_other_scripts_and_split_no_letter(minifacts, lang):
    """Claim: all 148 dev questions have a place; letters with marks stay whole, none is made up.
    Catches: isalpha, which is False for a word with marks; list(word)."""
    for q in dev_queries(minifacts, lang):
        slots = attacks.typo_slots(q.text, lang, generator(0, "test", q.id))
        new = substitute(q.text, draw(slots, 1, generator(0, "test", q.id)))
        assert slots and new != q.text, q
        assert set(clusters(new)) <= set(clusters(q.text)), (q.text, new)


@pytest.mark.parametrize(("text", "message"), [
    ("gready", "'gready' is unknown. Take one of identity, random"),
    ("greedy:kk=1", "no setting 'kk'"), ("greedy:name=pgd", "no setting 'name'"),
    ("pgd:epsilon=-0.1", "epsilon is at least 0"), ("pgd:epsilon=nan", "epsilon is at least 0"),
    ("greedy:k=0", "k is at least 1"), ("greedy:k=2.5", "k is '2.5', no number"),
    ("greedy:edits=many", "edits is 'many', no number"), ("pgd:norm=l1", "norm is one of l2, max"),
    ("smoothed:confidence=1", "0 < confidence < 1"),
])  # fmt: skip
def test_a_wrong_attack_is_refused(text, message):
    """Claim: the message names attack and setting. Catches: a typo that runs with the default."""
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_attack(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("file", "content", "message"), [
    *(("t.json", x, ": not JSON of") for x in ("{", '["a"]', '{"a": "bc"}', '{"a": [1]}')),
    ("t.json", '{"a": [""]}', ": not JSON of"), ("t.tab", "big\tlarge\n", ""),
    ("d.tsv", "en\tde\tdog\tHund\nen\tde\tcat\n", ":2: "),
    ("d.tsv", "\nde\ten\tHund\tdog\n", ":2: "), ("d.tsv", "en\tde\tcat\t\n", ":1: "),
])  # fmt: skip
def test_a_missing_or_broken_file_is_refused_by_name(tmp_path, file, content, message):
    """Catches: "bc" read as two replacements; a table of no words, which attacks nothing."""
    path, table = tmp_path / file, lambda path: attacks.read_table(path, "en")
    read = attacks.read_dictionary if file == "d.tsv" else table
    with pytest.raises(ValueError, match=re.escape(f"{path}: no such")):
        read(path)
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}{message}")):
        read(path)
