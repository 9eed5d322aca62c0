"""Rung 5: the bundled sentence pairs have the right labels, and no shortcut to them.

Checks: data/minifacts/make_pairs.py, and the files pairs/ and nli/pairs/ that it writes. Before:
test_05_world.py. Run: pytest tests/test_05_pairs_world.py
"""

from collections import Counter, defaultdict

import pytest
from conftest import ROOT

from attacks import lower
from data.minifacts import make_pairs, prepare

WORLD = ROOT / "data/minifacts"
LANGS = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
FOLDERS = ["paraphrases/pairs", "pairs"]
COUNTS = {"train": 2400, "dev": 90, "test": 252}


@pytest.fixture(scope="module")
def facts():
    """All facts, each with its split."""
    return prepare.read_facts()


@pytest.fixture(scope="module")
def lexicons():
    """Language -> its lexicon."""
    return {lang: prepare.read_lexicon(lang) for lang in LANGS}


@pytest.fixture(scope="module")
def pairs(facts, lexicons):
    """Folder -> split -> the pairs, as facts."""
    return make_pairs.make_pairs(facts, lexicons)


def shipped_rows(folder, split, lang):
    """sentence1, sentence2, label of each line."""
    text = (WORLD / folder / f"{split}-{lang}.tsv").read_text(encoding="utf-8")
    header, *lines = text.removesuffix("\n").split("\n")
    assert header == "sentence1\tsentence2\tlabel"
    return [line.split("\t") for line in lines]


def told(statements):
    """What is said, without how: {(entity, relation, value)}."""
    return {(item.fact.entity, item.fact.relation, item.fact.value) for item in statements}


# ---- what is shipped -----------------------------------------------------------------------------


def test_the_shipped_files_are_what_the_generator_writes(pairs, lexicons, tmp_path):
    """Claim: the folders are a function of lexicon/; these bytes are from another process.

    Number: two folders of train in English, dev and test in 11 languages: 2 * 23 files.
    Catches: hash(), the order of a set, a lexicon that was mended without writing the pairs.
    """
    make_pairs.write(tmp_path, make_pairs.pair_files(pairs, lexicons))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 46
    for path in files:
        name = path.relative_to(tmp_path)
        assert path.read_bytes() == (WORLD / name).read_bytes(), name


def test_a_lexicon_or_a_folder_that_is_broken_is_one_line(tmp_path, monkeypatch, capsys):
    """Claim: exit 1 and one line, with the remedy. Catches: a traceback; pairs half written."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(make_pairs, "make_pairs", lambda facts, lexicons: {})
    monkeypatch.setattr(make_pairs, "pair_files", lambda pairs, lexicons: {"pairs/x.tsv": ["a"]})
    assert make_pairs.main(["--out", str(blocked)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{blocked}/pairs/x.tsv: ")
    assert message.endswith("--out needs a writable folder.\n")

    def broken(lang):
        """A lexicon whose row cannot be read."""
        raise ValueError("lexicon/en.tsv:3: no value. Mend the row.")

    monkeypatch.setattr(make_pairs, "read_lexicon", broken)
    assert make_pairs.main(["--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "lexicon/en.tsv:3: no value. Mend the row.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_line_has_the_same_label_in_every_language(folder, split):
    """Claim: files of a split can be joined line by line.

    Number: 90 and 252 lines of three cells; no text is in two languages' columns by mistake, as
    fewer than 1 % of the first sentences of two languages are equal.
    Catches: a shuffle that depends on the language.
    """
    english = shipped_rows(folder, split, "en")
    assert len(english) == COUNTS[split]
    labels = [label for _, _, label in english]
    for lang in LANGS:
        rows = shipped_rows(folder, split, lang)
        assert [len(row) for row in rows] == [3] * COUNTS[split]
        assert [label for _, _, label in rows] == labels
        if lang != "en":
            equal = [row for row, other in zip(rows, english, strict=True) if row[0] == other[0]]
            assert len(equal) < 0.01 * len(rows)


def test_the_pairs_are_small():
    """Claim: both tasks together.

    Number: below 2.5 MB, as the readme says.
    Catches: training pairs in eleven languages.
    """
    files = [path for folder in FOLDERS for path in (WORLD / folder).glob("*.tsv")]
    assert 2_000_000 < sum(path.stat().st_size for path in files) < 2_500_000


@pytest.mark.parametrize("split", list(COUNTS))
def test_labels_are_balanced(split):
    """Claim: halves, and thirds.

    Number: 2400, 90 and 252 are multiples of 6.
    Catches: a neutral pair that is left out where an entity has no other fact.
    """
    paraphrase = Counter(label for _, _, label in shipped_rows("paraphrases/pairs", split, "en"))
    inference = Counter(label for _, _, label in shipped_rows("pairs", split, "en"))
    half, third = COUNTS[split] // 2, COUNTS[split] // 3
    assert paraphrase == {"0": half, "1": half}
    assert inference == {"entailment": third, "neutral": third, "contradiction": third}


def test_no_line_stands_twice():
    """Claim: all pairs differ, in every file.

    Number: two sentences and a label.
    Catches: a second turn through the facts that draws what the first drew.
    """
    for folder in FOLDERS:
        for split in COUNTS:
            for lang in ["en"] if split == "train" else LANGS:
                rows = [tuple(row) for row in shipped_rows(folder, split, lang)]
                assert len(set(rows)) == len(rows), (folder, split, lang)


# ---- splits and leaks ----------------------------------------------------------------------------


def test_training_pairs_are_about_training_facts(pairs, facts):
    """Claim: entity and relation of no dev or test fact, with any value.

    Number: 4,800 pairs; a made-up value does not change a fact's id.
    Catches: an exchange between facts of two splits.
    """
    split_of = {fact.id: fact.split for fact in facts}
    for folder in FOLDERS:
        for pair in pairs[folder]["train"]:
            for statement in [*pair.first, *pair.second]:
                assert split_of[statement.fact.id] == "train", statement


@pytest.mark.parametrize("split", ["dev", "test"])
def test_held_out_pairs_ask_about_held_out_facts(pairs, facts, split):
    """Claim: of a paraphrase all facts are the split's; of an inference what is asked is, and the
    premise adds training facts at most, as a test passage's paragraph does.

    Number: all pairs.
    Catches: test pairs that training has seen; a dev fact in a test pair.
    """
    split_of = {fact.id: fact.split for fact in facts}
    for pair in pairs["paraphrases/pairs"][split]:
        for statement in [*pair.first, *pair.second]:
            assert split_of[statement.fact.id] == split
    for pair in pairs["pairs"][split]:
        assert split_of[pair.second[0].fact.id] == split
        for statement in pair.first:
            assert split_of[statement.fact.id] in ("train", split)


# ---- labels --------------------------------------------------------------------------------------


def test_label_1_says_the_same_and_label_0_does_not(pairs):
    """Claim: the same facts in another form, or the same two facts with their values exchanged.

    Number: 2,742 pairs of two statements a sentence.
    Catches: labels the wrong way round; a swap of equal values; a pair of one and the same text.
    """
    for split in COUNTS:
        for pair in pairs["paraphrases/pairs"][split]:
            first, second = told(pair.first), told(pair.second)
            assert len(first) == len(second) == 2
            assert (first == second) == (pair.label == "1")
            assert pair.first != pair.second
            for position in (0, 1, 2):  # the same entities, relation and values
                parts = sorted(key[position] for key in first)
                assert parts == sorted(key[position] for key in second)


def test_a_hypothesis_is_told_denied_or_left_open(pairs):
    """Claim: entailment: the premise tells the fact. Contradiction: with another value, and the
    relation has one value an entity. Neutral: the premise is silent on that relation.

    Number: 2,742 pairs.
    Catches: a hypothesis in the wording of its premise; a premise about another entity.
    """
    for split in COUNTS:
        for pair in pairs["pairs"][split]:
            (asked,) = pair.second
            values = []
            for statement in pair.first:
                assert statement.fact.entity == asked.fact.entity
                if statement.fact.relation == asked.fact.relation:
                    values.append(statement.fact.value)
                    assert statement.wording != asked.wording
            assert asked.fact.relation in make_pairs.FUNCTIONAL
            if pair.label == "entailment":
                assert values == [asked.fact.value]
            elif pair.label == "contradiction":
                assert len(values) == 1
                assert values != [asked.fact.value]
            else:
                assert values == []


def test_values_that_are_exchanged_differ_in_every_language(pairs, lexicons):
    """Claim: a label is right in all languages, and no month follows itself.

    Number: by the first column of terms.tsv.
    Catches: krone and krona, both 克朗 in Chinese; "After February comes February".
    """
    krone, krona = lexicons["zh"].terms["krone"], lexicons["zh"].terms["krona"]
    assert krone["name"] == krona["name"], "no such pair: the test is vacuous"
    for split in COUNTS:
        rivals = []
        for pair in pairs["paraphrases/pairs"][split]:
            rivals.append([statement.fact.value for statement in pair.first])
        for pair in pairs["pairs"][split]:
            asked = pair.second[0].fact
            for statement in pair.first:
                if pair.label == "contradiction" and statement.fact.id == asked.id:
                    rivals.append([statement.fact.value, asked.value])
        for one, other in rivals:
            assert one != other
            if one[0] not in "=#":
                for lexicon in lexicons.values():
                    names = [next(iter(lexicon.terms[value].values())) for value in (one, other)]
                    assert names[0].lower() != names[1].lower(), (lexicon.lang, names)
        for folder in FOLDERS:
            for pair in pairs[folder][split]:
                for statement in [*pair.first, *pair.second]:
                    assert statement.fact.entity != statement.fact.value


def test_months_that_would_follow_themselves_are_not_exchanged(facts, lexicons):
    """Claim: January and February keep what comes next; January and March may exchange it.

    Number: exchanged, February would come after February; April after January is only false.
    Catches: a check of the two values alone.
    """
    names = make_pairs.names_of_values(facts, lexicons)
    january = prepare.Fact("", "january", "month.next", "february")
    february = prepare.Fact("", "february", "month.next", "march")
    march = prepare.Fact("", "march", "month.next", "april")
    assert not make_pairs.exchangeable(january, february, names)
    assert not make_pairs.exchangeable(february, january, names)
    assert make_pairs.exchangeable(january, march, names)


def forms_of(term, lexicon):
    """All that a term may be called, in lower case."""
    if term[0] in "=#":
        return [term[1:].lower()]
    return [lower(form) for form in lexicon.terms[term].values()]


def test_english_clauses_tell_the_facts_behind_them(pairs, lexicons):
    """Claim: cut at ", and ", a shipped sentence names entity and value of one fact in each half.

    Number: 252 test pairs, four halves each.
    Catches: an exchange in the records that the text does not show, or the other way round.
    """
    rows = shipped_rows("paraphrases/pairs", "test", "en")
    for pair, (first, second, _) in zip(pairs["paraphrases/pairs"]["test"], rows, strict=True):
        for statements, text in ((pair.first, first), (pair.second, second)):
            halves = lower(text).split(", and ")
            assert len(halves) == 2, text
            for statement, half in zip(statements, halves, strict=True):
                for term in (statement.fact.entity, statement.fact.value):
                    assert any(form in half for form in forms_of(term, lexicons["en"])), half


@pytest.mark.parametrize("lang", LANGS)
def test_every_text_names_its_entities_and_values(pairs, lexicons, lang):
    """Claim: in each language some form of each entity and value stands in the shipped text.

    Number: 252 test pairs of either task.
    Catches: a synonym in place of a name; files of two languages exchanged; lines shifted by one.
    """
    for folder in FOLDERS:
        rows = shipped_rows(folder, "test", lang)
        for pair, (first, second, label) in zip(pairs[folder]["test"], rows, strict=True):
            assert label == pair.label
            for statements, text in ((pair.first, first), (pair.second, second)):
                lowered = lower(text)
                for statement in statements:
                    for term in (statement.fact.entity, statement.fact.value):
                        forms = forms_of(term, lexicons[lang])
                        assert any(form in lowered for form in forms), (term, text)


# ---- shortcuts -----------------------------------------------------------------------------------


def test_word_overlap_does_not_tell_paraphrases(lexicons):
    """Claim: the best cut of the English word overlap, fitted to the pairs that it judges.

    Number: at most 0.60; at chance the best of many cuts through 252 pairs comes to 0.55.
    Catches: a swap with other words around it than a paraphrase has.
    """
    points = []
    for first, second, label in shipped_rows("paraphrases/pairs", "test", "en"):
        one = set(first.lower().strip(".").replace(",", "").split())
        other = set(second.lower().strip(".").replace(",", "").split())
        points.append((len(one & other) / len(one | other), label))
    best = 0
    for cut, _ in points:
        above = Counter(label for overlap, label in points if overlap >= cut)
        below = Counter(label for overlap, label in points if overlap < cut)
        best = max(best, above["1"] + below["0"], above["0"] + below["1"])
    assert 0.5 <= best / len(points) <= 0.60


@pytest.mark.parametrize(
    ("folder", "side", "labels"),
    [
        ("paraphrases/pairs", 0, ["0", "1"]),
        ("pairs", 1, ["contradiction", "entailment", "neutral"]),
    ],
)
def test_one_sentence_stands_with_every_label(folder, side, labels):
    """Claim: a first sentence has both labels, a hypothesis all three, equally often.

    Number: so that guessing from it alone is at 1/2 and at 1/3, exactly.
    Catches: a hypothesis that is true in the world more often where it is entailed.
    """
    for split in COUNTS:
        labels_of = defaultdict(Counter)
        for row in shipped_rows(folder, split, "en"):
            labels_of[row[side]][row[2]] += 1
        for text, counts in labels_of.items():
            assert sorted(counts) == labels, text
            assert len(set(counts.values())) == 1, text


def test_knowing_the_world_does_not_tell_a_label(pairs, facts):
    """Claim: half of all second sentences are true under either label, and so are half of the
    premises under all three.

    Number: n 1,200 and 800 of training; five sd of a share are 0.072 and 0.088.
    Catches: sentence 1 always the true one; premises that are false only if they contradict.
    """
    value_of = {fact.id: fact.value for fact in facts}
    truths = defaultdict(list)
    for pair in pairs["paraphrases/pairs"]["train"]:
        is_true = all(item.fact.value == value_of[item.fact.id] for item in pair.second)
        truths[pair.label].append(is_true)
    for pair in pairs["pairs"]["train"]:
        is_true = all(item.fact.value == value_of[item.fact.id] for item in pair.first)
        truths[pair.label].append(is_true)
    assert len(truths) == 5
    for label, values in truths.items():
        assert abs(sum(values) / len(values) - 0.5) < 0.088, label


def test_the_length_of_a_premise_tells_nothing(pairs):
    """Claim: one or two statements, equally often under each label.

    Number: exactly, as the three premises of a hypothesis are of one length.
    Catches: neutral premises that lack a statement.
    """
    for split in COUNTS:
        lengths = Counter((len(pair.first), pair.label) for pair in pairs["pairs"][split])
        for length in (1, 2):
            assert lengths[length, "entailment"] > 0
            assert lengths[length, "neutral"] == lengths[length, "entailment"]
            assert lengths[length, "contradiction"] == lengths[length, "entailment"]


def test_the_printed_measures_are_near_chance(pairs, lexicons):
    """Claim: what the readme tells.

    Number: overlap at most 0.60; the hypothesis alone 1/3, the premise alone within 5 sd of it
    for 252 pairs (0.148).
    Catches: a relation that only neutral premises are about.
    """
    accuracies = make_pairs.measures(pairs, lexicons["en"])
    assert accuracies["paraphrases/pairs: word overlap"] <= 0.60
    assert accuracies["pairs: hypothesis alone"] == pytest.approx(1 / 3, abs=1e-6)
    assert accuracies["pairs: premise alone"] < 1 / 3 + 0.148


def test_the_best_cut_works_in_either_direction():
    """Claim: the accuracy of the best threshold.

    Number: by hand: of 0.2 no, 0.8 yes, 0.9 no, "yes from 0.8 on" is right twice of three; of
    0.1 yes, 0.2 yes, 0.7 no, 0.8 no, "yes below 0.7" is always right.
    Catches: only high overlap taken for a yes.
    """
    assert make_pairs.best_threshold([0.2, 0.8, 0.9], [False, True, False]) == 2 / 3
    assert make_pairs.best_threshold([0.1, 0.2, 0.7, 0.8], [True, True, False, False]) == 1.0


def test_word_overlap_counts_words_once():
    """Claim: the share of the words of two texts that are in both.

    Number: {the, cat, eats, meat} and {meat, eats, the, dog}: 3 of 5.
    Catches: counting tokens, or capitals and full stops.
    """
    assert make_pairs.word_overlap("The cat eats the meat.", "Meat eats the dog.", "en") == 0.6


# ---- from facts to sentences ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lang", "sentence"),
    [
        ("ar", "عاصمة إيطاليا هي أوسلو، وعاصمة النرويج هي روما."),
        ("de", "Die Hauptstadt Italiens ist Oslo, und die Hauptstadt Norwegens ist Rom."),
        ("en", "The capital of Italy is Oslo, and the capital of Norway is Rome."),
        ("hi", "इटली की राजधानी ओस्लो है और नॉर्वे की राजधानी रोम है।"),
        ("th", "เมืองหลวงของประเทศอิตาลีคือออสโล และเมืองหลวงของประเทศนอร์เวย์คือโรม"),
        ("tr", "İtalya'nın başkenti Oslo'dur; Norveç'in başkenti Roma'dır."),
        ("zh", "意大利的首都是奥斯陆；挪威的首都是罗马。"),
    ],
)
def test_two_statements_become_one_sentence(lexicons, lang, sentence):
    """Claim: joined in each language's way, one end, no capital inside but that of a name.

    Number: two false statements, by hand.
    Catches: "..., and The capital"; a full stop inside; Arabic's "and" as a word of its own.
    """
    statements = [
        make_pairs.Statement(prepare.Fact("", "italy", "country.capital", "oslo"), 0),
        make_pairs.Statement(prepare.Fact("", "norway", "country.capital", "rome"), 0),
    ]
    assert make_pairs.joined(statements, lexicons[lang]) == sentence


def test_german_nouns_keep_their_capital_inside_of_a_sentence(lexicons):
    """Claim: "die" is written small, "Biologen" is not.

    Number: both orders of two wordings.
    Catches: "..., und biologen zählen".
    """
    tiger = prepare.Fact("", "tiger", "animal.class", "mammal")
    eagle = prepare.Fact("", "eagle", "animal.class", "bird")
    statements = [make_pairs.Statement(tiger, 1), make_pairs.Statement(eagle, 1)]
    text = make_pairs.joined(statements, lexicons["de"])
    assert text == (
        "Biologen zählen den Tiger zu den Säugetieren, und Biologen zählen den Adler zu den Vögeln."
    )


def test_a_synonym_replaces_no_name(lexicons):
    """Claim: one word of the wording changes, slots and choices stay.

    Number: "wrote" is the only word of the first wording with synonyms: three. In the second,
    "grows" and "grow" have some, but both stand in a choice.
    Catches: a replacement inside of a title, or of a form that depends on the entity.
    """
    template = "{v} wrote {e}."
    texts = {make_pairs.reword(template, lexicons["en"], number) for number in range(40)}
    assert texts == {"{v} penned {e}.", "{v} authored {e}.", "{v} composed {e}."}
    choice = "{e} [e.n sg:grows|pl:grow] {v}."
    assert make_pairs.reword(choice, lexicons["en"], 0) == choice


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    """Claim: one line that names the file and what to do, exit code 1.

    Number: a file stands where the folder should be.
    Catches: a traceback after a minute of work.
    """
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert make_pairs.main(["--out", str(blocked)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(blocked) in lines[0]
    assert "--out needs a writable folder" in lines[0]


def test_a_split_with_too_few_facts_is_refused(lexicons, facts):
    """Claim: no split is silently smaller than it should be.

    Number: the facts of three entities.
    Catches: files of unequal length.
    """
    few = [fact for fact in facts if fact.entity in ("france", "spain", "tiger")]
    with pytest.raises(ValueError, match="pairs train: .* pairs, needs 2400: see COUNTS"):
        make_pairs.make_pairs(few, lexicons)
