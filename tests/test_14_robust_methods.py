"""Rung 14: what --robust can say, and what it does to a text: edits, noise, random streams, tables.

Builds: train.py, from `parse_robust` to `perturbed_views`. Before: rungs 4, 9 and 11.
Run: pytest tests/test_14_robust_methods.py
"""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from conftest import write_folder
from training_world import write_encoder, write_world

import train
import xlt
from train import Method, parse_robust

# ---- what --robust can say -----------------------------------------------------------------------


def weights_of(text):
    """name -> weight of the perturbations, as parsed."""
    return {method.name: method.weight for method in parse_robust(text).methods}


def test_none_perturbs_nothing():
    """Claim: all of the loss is clean. Catches: a method called "none"."""
    robust = parse_robust("none")
    assert robust.methods == ()
    assert robust.consistency == 0
    assert robust.clean_share == 1


@pytest.mark.parametrize("name", ["rs-rp", "rs-da", "adv", "code-switch", "typos"])
def test_half_of_the_loss_stays_clean_unless_the_text_says_otherwise(name):
    """Number: weight .5 and every text perturbed, whichever the method. Catches: training on
    nothing but perturbed texts, a method with a default of its own."""
    robust = parse_robust(name)
    assert weights_of(name) == {name: 0.5}
    assert robust.methods[0].rate == 1
    assert robust.clean_share == 0.5


def test_settings_in_the_text_win_over_the_usual_ones():
    """Claim: each has its type. Catches: "5" for 5, the default kept."""
    (adv,) = parse_robust("adv:how=pgd,epsilon=0.05,steps=5,weight=0.25").methods
    assert adv.how == "pgd"
    assert adv.epsilon == 0.05
    assert adv.steps == 5
    assert adv.weight == 0.25


def test_several_methods_share_their_usual_weights():
    """Number: each has 1/2 alone, so 1/4 and 1/4 beside each other; 1/2 stays clean, as for one.

    Catches: no clean loss as soon as there are two.
    """
    assert weights_of("rs-da+adv") == {"rs-da": 0.25, "adv": 0.25}
    assert parse_robust("rs-da+adv").clean_share == 0.5


def test_a_weight_in_the_text_is_not_shared():
    """Number: 0.2 stays 0.2, the other has its usual 1/2 over two. Catches: 0.1."""
    assert weights_of("rs-da:weight=0.2+rs-rp") == {"rs-da": 0.2, "rs-rp": 0.25}


def test_beside_self_teaching_a_method_enters_by_the_kl_alone():
    """Claim: as in CharacterBERT-DR the InfoNCE stays clean. Catches: its usual weight."""
    robust = parse_robust("typos+self-teaching:weight=3")
    assert [method.weight for method in robust.methods] == [0]
    assert (robust.consistency, robust.clean_share) == (3, 1)


def test_beside_self_teaching_a_weight_in_the_text_counts():
    """Number: 0.1 of the loss, and KL with its usual 0.5. Catches: 0 whatever the text says."""
    robust = parse_robust("typos:weight=0.1+self-teaching")
    assert [method.weight for method in robust.methods] == [0.1]
    assert (robust.consistency, robust.clean_share) == (0.5, 0.9)


def test_the_query_alone_is_perturbed_unless_both_are_asked_for():
    """Claim: the adversary writes queries. Catches: both towers by default."""
    assert Method("rs-da").towers == ("query",)
    assert Method("rs-da", perturb="both").towers == ("query", "passage")


NEEDED = [
    # --robust, are clean queries encoded, are clean passages
    ("none", True, True),
    ("rs-rp", True, True),
    ("rs-rp:weight=1", False, True),
    ("rs-rp:weight=1,perturb=both", False, False),
    ("rs-rp:weight=0.5,perturb=both+rs-da:weight=0.5", False, True),
    ("rs-rp:perturb=both+self-teaching", True, True),
    ("adv:weight=1", False, True),
    ("adv:weight=1,perturb=both", True, True),
]


@pytest.mark.parametrize(("text", "queries", "passages"), NEEDED)
def test_clean_texts_are_encoded_where_somebody_looks_at_them(text, queries, passages):
    """Claim: for a clean share, a teacher, a query's passages, or a worst case on passages.

    Catches: a pass that nobody needs, and one that is missing.
    """
    robust = parse_robust(text)
    assert robust.needs_clean_queries == queries
    assert robust.needs_clean_passages == passages


REFUSED = [
    ("fgm", "'fgm' is unknown. Take none or of rs-rp, rs-da"),
    ("none+rs-da", "'none' is unknown"),
    ("", "'' is unknown"),
    ("self-teaching", "join different methods, one of them a perturbation"),
    ("rs-da+rs-da", "join different methods"),
    ("rs-rp:epsilon=1", "no setting 'epsilon'. There is weight, perturb, sigma, noise"),
    ("self-teaching:rate=1+rs-da", "no setting 'rate'. There is weight"),
    ("rs-rp:sigma=1,sigma=2", "sigma is given twice"),
    ("rs-da:copies=1.5", "copies is '1.5', no number"),
    ("adv:how=fast", "how is 'fast'; it is one of fgm"),
    ("rs-rp:perturb=passage", "it is one of query, both"),
    ("rs-rp:sigma=nan", "sigma is nan"),
    ("rs-da:rate=1.5", "rate is 1.5; it is at most 1"),
    ("adv:steps=0", "steps is 0; it is at least 1"),
    ("typos:copies=-1", "copies is -1; it is at least 0"),
    ("rs-da:weight=0.7+rs-rp:weight=0.7", "the weights sum to 1.4"),
    ("rs-rp:weight=-0.1", "weight is -0.1; it is at least 0"),
    ("rs-rp:weight=0", "with weight 0 rs-rp does nothing"),
    ("rs-rp+rs-da:weight=0", "with weight 0 rs-da does nothing"),
    ("rs-da+self-teaching:weight=0", "with weight 0 self-teaching does nothing"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_recipe_that_cannot_be_is_refused(text, message):
    """Claim: with the text, the value and what is allowed. Catches: a check that is left out."""
    with pytest.raises(ValueError) as error:
        parse_robust(text)
    assert f"--robust {text}: " in str(error.value)
    assert message in str(error.value)


def test_a_long_recipe_is_refused_in_a_short_line_without_its_colours():
    """Number: an escape code and 900 letters. Catches: the text in the message as it is."""
    with pytest.raises(ValueError, match=r"--robust \\x1b\[31mxxx.* is unknown") as error:
        parse_robust("\x1b[31m" + "x" * 900)
    assert len(str(error.value)) < 400


STRENGTHS = ["rs-rp:sigma", "adv:epsilon", "adv:step_size", "rs-da:rate", "code-switch:words"]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_strength_0_is_refused(strength):
    """Claim: a run that calls itself robust perturbs. Catches: plain training under its name."""
    name = strength.split(":")[1]
    with pytest.raises(ValueError, match=f"{name} is 0; it is above 0"):
        parse_robust(f"{strength}=0")


def test_a_run_is_named_by_its_recipe_without_a_colon():
    """Claim: the settings stand in the name. Catches: two runs in one folder; a ":"."""
    texts = ["none", "rs-da+rs-rp:sigma=0.3", "typos:rate=1+self-teaching"]
    runs = train.single_runs(train.parse(["--robust", *texts]))
    expected = ["hybrid-none", "hybrid-rs-da+rs-rp_sigma=0.3", "hybrid-typos_rate=1+self-teaching"]
    assert [run.recipe for run in runs] == expected


TRAINED_ON = [
    ("rs-da", ["en"]),
    ("typos+self-teaching", ["en"]),
    ("code-switch", ["en", "de"]),
    ("rs-rp+code-switch", ["en", "de"]),
]


@pytest.mark.parametrize(("robust", "langs"), TRAINED_ON)
def test_english_batches_show_other_languages_by_code_switching_alone(robust, langs):
    """Claim: code-switched English holds German words, so German is trained on.

    Catches: German as a zero-shot language of a model that was trained on German words.
    """
    flags = ["--batching", "en-en", "--train-langs", "en", "de", "--robust", robust]
    (run,) = train.single_runs(train.parse(flags))
    assert run.origin({})["train_langs"] == langs


# ---- tables --------------------------------------------------------------------------------------

SYNONYMS = {
    "fast": ["quick"],
    "big": ["large", "huge", "vast"],
    "town": ["city"],
    "rich": ["poor"],
    "1990": ["1991"],
}
DICTIONARY = """\
en de fast schnell
en de big riesig
en de town stadt
en de rich arm
en de 1990 1991
en el big μεγάλο
en vi fast nhanh
en th big ใหญ่
"""
QUERY = "is town or Rich 1990 fast, big"  # its answer is "town"
PASSAGE = "this town knows Rich since 1990 and is fast, big"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One English passage; an English query with the answer "town", a German one with "fast"."""
    folder = tmp_path_factory.mktemp("tiny")
    queries = [
        {"_id": "q.en", "lang": "en", "text": QUERY, "group": "a", "answer": "town"},
        {"_id": "q.de", "lang": "de", "text": "wie", "group": "a", "answer": "fast"},
    ]
    corpus = [{"_id": "p.en", "lang": "en", "text": PASSAGE, "group": "a"}]
    write_folder(folder, corpus, queries, ["q.en\tp.en\t1", "q.de\tp.en\t1"])
    (folder / "synonyms").mkdir()
    (folder / "synonyms/en.json").write_text(json.dumps(SYNONYMS))
    (folder / "dictionary.tsv").write_text(DICTIONARY.replace(" ", "\t"))
    return xlt.load_data(folder)


def flags_of(robust, *more):
    """The flags of one run, trained on English and German."""
    argv = ["--train-langs", "en", "de", "--robust", robust, *more]
    return train.single_runs(train.parse(argv))[0]


def perturber_of(data, robust, *more):
    """What perturbs the texts of a run."""
    return train.make_perturber(flags_of(robust, *more), data)


def test_code_switching_knows_no_word_of_a_zero_shot_language(tiny):
    """Claim: Greek, Vietnamese and Thai words are left out of the table.

    Catches: a dictionary read whole, after which el, vi and th were no zero-shot test.
    """
    tables = perturber_of(tiny, "code-switch").tables["dictionary"]
    assert {*tables} == {"en", "de"}
    assert tables["en"]["big"] == ["riesig"]


def test_a_missing_dictionary_is_refused(folder):
    """Claim: the path is named. Catches: a run that switches nothing."""
    with pytest.raises(ValueError, match=r"dictionary.tsv: no such dictionary"):
        perturber_of(xlt.load_data(folder), "code-switch")


def test_missing_synonyms_are_refused(folder):
    """Claim: the path is named. Catches: a run that edits nothing."""
    with pytest.raises(ValueError, match="synonyms: no such folder"):
        perturber_of(xlt.load_data(folder), "rs-da")


def write_synonyms(folder, **tables):
    """synonyms/ with a table for each language."""
    (folder / "synonyms").mkdir()
    for lang, table in tables.items():
        (folder / "synonyms" / f"{lang}.json").write_text(json.dumps(table))


def test_a_table_without_a_word_of_the_queries_is_refused(folder):
    """Claim: no training query is about a zebra. Catches: robust training that is plain."""
    write_synonyms(folder, en={"zebra": ["horse"]})
    message = r"no training query in \['en', 'de'\] has a word that synonyms could replace"
    with pytest.raises(ValueError, match=message):
        perturber_of(xlt.load_data(folder), "rs-da")


def test_a_word_that_the_method_does_not_cut_out_is_none(folder):
    """Claim: between blanks stands "capital?", which no table has. Catches: words looked for by
    another rule than training's, so that nothing is ever edited."""
    write_synonyms(folder, en={"capital": ["metropolis"]})
    data = xlt.load_data(folder)
    perturber_of(data, "rs-da")
    with pytest.raises(ValueError, match="no training query"):
        perturber_of(data, "rs-da:cut=blanks")


def test_english_batches_need_a_word_in_an_english_query(folder):
    """Claim: "fressen" can be replaced, but no German query is trained on.

    Catches: all training languages looked at, whatever the batches hold.
    """
    write_synonyms(folder, de={"fressen": ["essen"]})
    data = xlt.load_data(folder)
    perturber_of(data, "rs-da")
    with pytest.raises(ValueError, match=r"no training query in \['en'\]"):
        perturber_of(data, "rs-da", "--batching", "en-en")


def refused_before_training(folder, out, *robust):
    """Exit code of train.py; it must have written nothing."""
    argv = ["--data", str(folder), "--out", str(out), "--train-langs", "en", "de"]
    code = train.main([*argv, "--batch-size", "2", "--robust", *robust])
    assert not out.exists()
    return code


def test_a_wrong_recipe_stops_all_runs_before_the_first(folder, tmp_path, capsys):
    """Claim: exit 2, nothing written, not even by "none" before it. Catches: an error at night."""
    assert refused_before_training(folder, tmp_path / "out", "none", "rs-rp:sigma=0") == 2
    assert "sigma is 0" in capsys.readouterr().err


def test_a_missing_table_stops_all_runs_before_the_first(folder, tmp_path, capsys):
    """Claim: exit 1, nothing written. Catches: tables that are opened when their run begins."""
    assert refused_before_training(folder, tmp_path / "out", "none", "code-switch") == 1
    assert "no such dictionary" in capsys.readouterr().err


# ---- edits ---------------------------------------------------------------------------------------


def draw(data, robust, n, tower="query"):
    """The words of the English text in steps 0 to n - 1."""
    perturber = perturber_of(data, robust)
    (method,) = perturber.robust.methods
    texts = []
    for step in range(n):
        text = train.edit_text(perturber, method, step, tower, 0)
        texts.append(text.text.split())
    return texts


DRAWS = 2000


def assert_share(count, p):
    """So many of the draws have probability p: within 5 standard errors.

    For p = 1/2 these are 0.056; one honest test in two million fails.
    """
    standard_error = math.sqrt(p * (1 - p) / DRAWS)
    assert count / DRAWS == pytest.approx(p, abs=5 * standard_error)


def count_with(word, texts):
    """How many texts have the word."""
    return sum(word in words for words in texts)


def count_unchanged(texts):
    """How many texts are the query as it was."""
    return texts.count(QUERY.split())


@pytest.fixture(scope="module")
def redrawn(tiny):
    """Draws of rs-da that edit every text."""
    return draw(tiny, "rs-da:rate=1", DRAWS)


@pytest.mark.parametrize("word", ["big", "large", "huge", "vast"])
def test_rs_da_draws_a_word_from_itself_and_its_synonyms(redrawn, word):
    """Number: "big" has three synonyms, so each of the four is drawn in 1/4.

    Catches: always another word; the first synonym.
    """
    assert_share(count_with(word, redrawn), 1 / 4)


def test_rs_da_changes_a_word_with_one_synonym_in_half_of_the_texts(redrawn):
    """Number: "fast" or "quick", 1/2 each. Catches: every word with one probability, say 3/4."""
    assert_share(count_with("quick,", redrawn), 1 / 2)


def test_rs_da_draws_each_word_by_itself(redrawn):
    """Number: both words stay in 1/2 x 1/4 = 1/8 of the draws. Catches: one draw for both."""
    assert_share(count_unchanged(redrawn), 1 / 8)


def test_rate_is_the_share_of_texts_that_are_drawn(tiny):
    """Number: 0.2 of the texts, of which 7/8 change, so 0.825 stay. Catches: a share of words."""
    texts = draw(tiny, "rs-da:rate=0.2", DRAWS)
    assert_share(count_unchanged(texts), 0.825)


@pytest.fixture(scope="module")
def switched(tiny):
    """Draws of code-switching, of every text."""
    return draw(tiny, "code-switch:words=0.3", DRAWS)


@pytest.mark.parametrize("word", ["schnell,", "riesig"])
def test_code_switching_changes_a_share_of_the_words(switched, word):
    """Number: each of the two words with probability 0.3. Catches: a share of the texts."""
    assert_share(count_with(word, switched), 0.3)


def test_code_switching_draws_each_word_by_itself(switched):
    """Number: both stay in 0.7 x 0.7 = 0.49 of the draws. Catches: one draw for both, 0.7."""
    assert_share(count_unchanged(switched), 0.49)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_typos_hit_the_share_of_texts_that_is_asked_for(tiny, rate):
    """Claim: a text that is drawn really changes. Catches: a typo that changes nothing."""
    texts = draw(tiny, f"typos:rate={rate}", DRAWS)
    assert_share(DRAWS - count_unchanged(texts), rate)


def changed_words(texts, old):
    """For each text, the words of `old` that are other words in it."""
    changed = []
    for words in texts:
        pairs = zip(old.split(), words, strict=True)
        changed.append({before for before, after in pairs if before != after})
    return changed


@pytest.mark.parametrize("word", ["Rich", "fast,", "big"])
def test_a_typo_is_in_one_word_of_three_letters_or_more(tiny, word):
    """Number: three words may have it, names too, each in 1/3 of the texts.

    Catches: the first word; two words; "is", a number, the answer.
    """
    changed = changed_words(draw(tiny, "typos:rate=1", DRAWS), QUERY)
    assert_share(changed.count({word}), 1 / 3)


@pytest.mark.parametrize("robust", ["rs-da:rate=1", "code-switch"])
def test_names_numbers_and_the_answer_of_a_query_stay(tiny, robust):
    """Claim: Rich, 1990 and town are in both tables, and are never replaced.

    Catches: another answer, after which another passage would be relevant.
    """
    changed = changed_words(draw(tiny, robust, 300), QUERY)
    assert set.union(*changed) == {"fast,", "big"}


@pytest.mark.parametrize("robust", ["rs-da:rate=1", "code-switch"])
def test_answers_of_its_queries_stay_in_a_passage(tiny, robust):
    """Claim: "town" stays. "fast" is the answer of a German query: an English text may lose it.

    Catches: the passage's own answer, which it has not; answers of all languages.
    """
    changed = changed_words(draw(tiny, robust, 300, "passage"), PASSAGE)
    assert set.union(*changed) == {"fast,", "big"}


def test_a_typo_spares_answers_and_numbers_of_a_passage(tiny):
    """Number: all words of three letters or more but "town" and "1990"."""
    changed = changed_words(draw(tiny, "typos:rate=1", 300, "passage"), PASSAGE)
    spared = {"town", "1990", "is"}
    assert set.union(*changed) == {*PASSAGE.split()} - spared


def test_an_edited_text_keeps_all_but_its_words(tiny):
    """Claim: id, language, group and answer stay. Catches: a text without its language."""
    perturber = perturber_of(tiny, "typos:rate=1")
    (method,) = perturber.robust.methods
    text = train.edit_text(perturber, method, 0, "query", 0)
    before, after = asdict(tiny.queries[0]), asdict(text)
    assert before.pop("text") != after.pop("text")
    assert before == after


def test_copies_are_drawn_once(tiny):
    """Number: 2 copies are 2 texts in 60 steps, without copies there are many.

    Catches: a copy that is drawn anew in each step; always the same one.
    """
    copies = draw(tiny, "typos:rate=1,copies=2", 60)
    anew = draw(tiny, "typos:rate=1", 60)
    assert len(set(map(tuple, copies))) == 2
    assert len(set(map(tuple, anew))) > 10


def test_copies_leave_the_rate_as_it_is(tiny):
    """Number: 0.3 of the texts are one of the copies, 0.7 are as they were.

    Catches: a copy whatever the rate; a copy that decides it once for all steps (0, 0.5 or 1).
    """
    texts = draw(tiny, "typos:rate=0.3,copies=2", DRAWS)
    assert_share(count_unchanged(texts), 0.7)


# ---- random streams ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The data set of training_world.py."""
    return xlt.load_data(write_world(tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Its encoder, as in training: with dropout."""
    return xlt.load_encoder(write_encoder(tmp_path_factory.mktemp("model"))).train()


def first_number(perturber, method, step, tower, position):
    """The first draw of a text's stream."""
    rng = perturber.rng(method, step, tower, position)
    return float(torch.rand((), generator=rng))


def test_a_stream_has_a_name_of_five_parts(world):
    """Claim: (seed, method, step, tower, text id) give it, and each of the five matters.

    Catches: one left out; a position, which another data set would give to another text.
    """
    perturber = perturber_of(world, "none", "--seed", "3")
    other_seed = perturber_of(world, "none", "--seed", "4")
    rs_da, typos = Method("rs-da"), Method("typos")
    numbers = [
        first_number(perturber, rs_da, 7, "query", 5),
        first_number(other_seed, rs_da, 7, "query", 5),
        first_number(perturber, typos, 7, "query", 5),
        first_number(perturber, rs_da, 8, "query", 5),
        first_number(perturber, rs_da, 7, "passage", 5),
        first_number(perturber, rs_da, 7, "query", 6),
    ]
    assert world.queries[5].id == world.passages[5].id, "the tower is to tell them apart"
    assert len(set(numbers)) == 6
    assert first_number(perturber, rs_da, 7, "query", 5) == numbers[0]


def test_the_stream_of_a_text_goes_by_its_id(world):
    """Claim: it is the same wherever the text stands in the file. Catches: its position."""
    perturber = perturber_of(world, "none")
    before = first_number(perturber, Method("typos"), 1, "query", 5)
    perturber.data = replace(world, queries=world.queries[5:])
    assert first_number(perturber, Method("typos"), 1, "query", 0) == before


def perturb(model, data, robust, positions, step=1):
    """The perturbed views of a batch with the queries and the passages at these positions.

    A worst case is one among passages that point anywhere.
    """
    perturber = train.make_perturber(flags_of(robust), data, model)
    group = torch.arange(len(positions))
    batch = xlt.Batch("mixed", positions, positions, group[:, None], group)
    others = torch.randn(len(positions), 32, generator=xlt.generator(0))
    row_loss = train.RowLoss(others / others.norm(dim=1, keepdim=True), 0.05, None)
    row_losses = {"query": row_loss, "passage": row_loss}
    views = train.perturbed_views(model, batch, perturber, step)
    chunks = train.plan_chunks(model, views, 0, step)
    train.add_noise(model, batch, perturber, step, row_losses, views, chunks)
    return views


def by_text(views, positions, column):
    """(tower, point, position) -> its token ids, or its noise."""
    columns = {}
    for view in views:
        values = view.noise
        if column == "ids":
            values = [row["input_ids"] for row in view.rows]
        for position, value in zip(positions, values, strict=True):
            columns[view.tower, view.point, position] = value
    return columns


ORDER = [3, 20, 7, 11, 30, 14, 5, 28]
SHUFFLED = [28, 7, 3, 14, 20, 5, 11, 30]
FEWER = [28, 3, 20]  # without the longest, so that there is less padding
EDITING = ["rs-da:rate=1", "code-switch", "typos", "typos:copies=2"]


@pytest.mark.parametrize("robust", EDITING)
def test_another_step_has_other_edits(model, world, robust):
    """Claim: and the edits are some: the other tests of this section would not see none.

    Catches: a stream without the step.
    """
    first = by_text(perturb(model, world, robust, ORDER, step=1), ORDER, "ids")
    second = by_text(perturb(model, world, robust, ORDER, step=2), ORDER, "ids")
    assert first != second


@pytest.mark.parametrize("robust", EDITING)
@pytest.mark.parametrize("other", [SHUFFLED, FEWER])
def test_edits_do_not_depend_on_the_order_of_the_batch(model, world, robust, other):
    """Claim: a text has the same edits, wherever it stands and whatever stands beside it.

    Catches: one stream that a batch uses up; a stream by the place in the batch.
    """
    first = by_text(perturb(model, world, robust, ORDER), ORDER, "ids")
    second = by_text(perturb(model, world, robust, other), other, "ids")
    for key, ids in second.items():
        assert first[key] == ids


# FreeLB's first point is random, its others follow a gradient, which sums over the whole batch
NOISY = ["rs-rp:perturb=both", "rs-rp:noise=uniform", "adv:how=freelb,steps=1,perturb=both"]


@pytest.mark.parametrize("robust", NOISY)
@pytest.mark.parametrize("other", [SHUFFLED, FEWER])
def test_noise_does_not_depend_on_the_order_of_the_batch(model, world, robust, other):
    """Claim: to the last bit, although other texts pad a text and share its chunk.

    Catches: one generator for a chunk; noise that is drawn for the padding too.
    """
    first = by_text(perturb(model, world, robust, ORDER), ORDER, "noise")
    second = by_text(perturb(model, world, robust, other), other, "noise")
    for key, noise in second.items():
        assert noise.abs().max() > 0, "there is no noise"
        assert torch.equal(first[key], noise)


@pytest.mark.parametrize("robust", NOISY)
def test_another_step_has_other_noise(model, world, robust):
    """Claim: on every text. Catches: noise that is drawn once for all steps."""
    first = by_text(perturb(model, world, robust, ORDER, step=1), ORDER, "noise")
    second = by_text(perturb(model, world, robust, ORDER, step=2), ORDER, "noise")
    for key, noise in second.items():
        assert not torch.equal(first[key], noise)


SEARCHES = ["adv:how=fgm", "adv:how=pgd", "adv:how=freelb"]


@pytest.mark.parametrize("robust", [*EDITING, "rs-rp", *SEARCHES])
def test_a_perturbation_leaves_dropout_its_random_numbers(model, world, robust):
    """Claim: the random state of torch stays, and the encoder in training mode.

    So a robust run drops what a plain one drops. Catches: torch.randn without a generator; a
    search that draws dropout, or turns it off for good.
    """
    before = torch.get_rng_state()
    perturb(model, world, robust, ORDER)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


@pytest.mark.parametrize("robust", SEARCHES)
def test_a_search_leaves_no_gradient_in_the_weights(model, world, robust):
    """Claim: it goes uphill in the noise alone. Catches: value.backward(), which adds to .grad."""
    model.zero_grad()
    perturb(model, world, robust, ORDER)
    assert all(weight.grad is None for weight in model.parameters())


# ---- noise ---------------------------------------------------------------------------------------


def words_of_noise(views):
    """The noise of all words (n, D): without the special tokens, which are 0 and 2 in XLM-R."""
    rows = []
    for view in views:
        for row, noise in zip(view.rows, view.noise, strict=True):
            rows.append(noise[torch.tensor(row["input_ids"]) > 2])
    return torch.cat(rows)


def unit_of(model):
    """The mean norm of a word embedding, by math alone."""
    weight = model.model.embeddings.word_embeddings.weight.tolist()
    norms = [math.hypot(*row) for row in weight]
    return sum(norms) / len(norms)


def near(expected, tolerance=1e-4):
    """Norms of float32 vectors agree to 1e-4 of themselves, unless another tolerance is derived."""
    return pytest.approx(expected, rel=tolerance)


def test_the_unit_is_the_mean_norm_of_a_word_embedding(model, world):
    """Claim: sigma and epsilon count in it, so that they mean the same for every encoder.

    Catches: the largest norm, or 1.
    """
    unit = train.make_perturber(flags_of("none"), world, model).unit
    assert unit == near(unit_of(model))


def test_gaussian_noise_has_the_norm_sigma_on_average(model, world):
    """Number: the norm of a Gaussian in D = 32 is sigma (1 - 1/128), with a spread of sigma / 8.

    Over 150 words or more that is 0.992 +- 0.051, 5 standard errors. Catches: sigma a coordinate,
    which is sqrt(32) = 5.7 times as much.
    """
    views = perturb(model, world, "rs-rp:sigma=0.3,perturb=both", ORDER)
    norms = words_of_noise(views).norm(dim=1)
    assert len(norms) >= 150
    assert norms.mean().item() == near(0.992 * 0.3 * unit_of(model), tolerance=0.051)


def test_uniform_noise_stays_in_the_ball_of_sigma(model, world):
    """Number: the mean radius in a ball of D = 32 is 32/33 = 0.970, with a spread of 0.029.

    Over 150 words 5 standard errors are 0.012. Catches: a Gaussian under the name of uniform noise,
    half of which lies outside.
    """
    views = perturb(model, world, "rs-rp:sigma=0.3,noise=uniform,perturb=both", ORDER)
    norms, radius = words_of_noise(views).norm(dim=1), 0.3 * unit_of(model)
    assert norms.max() <= radius * (1 + 1e-5)
    assert norms.mean().item() == near(32 / 33 * radius, tolerance=0.012)


@pytest.mark.parametrize("search", ["fgm", "pgd"])
def test_worst_case_noise_on_a_token_has_the_norm_epsilon(model, world, search):
    """Claim: a text's loss is highest at the surface of the ball. Number: 0.2 units, to 1e-4.

    Catches: epsilon in other units, or shared by the tokens of a text.
    """
    views = perturb(model, world, f"adv:how={search},epsilon=0.2", ORDER)
    norms = words_of_noise(views).norm(dim=1)
    assert norms.max().item() == near(0.2 * unit_of(model))
    assert norms.min() > 0


def test_a_sentence_can_have_one_ball(model, world):
    """Number: the norm over all words of a text is 0.2 units. Catches: a ball a token."""
    (view,) = perturb(model, world, "adv:epsilon=0.2,ball=sentence", ORDER)
    radius = 0.2 * unit_of(model)
    for noise in view.noise:
        assert noise.norm().item() == near(radius)


def test_a_cube_lies_inside_the_ball(model, world):
    """Number: D = 32 coordinates of 0.2 / sqrt(32) units have together the norm 0.2.

    Catches: epsilon for each coordinate, an adversary 5.7 times as strong.
    """
    views = perturb(model, world, "adv:epsilon=0.2,norm=max", ORDER)
    noise, radius = words_of_noise(views), 0.2 * unit_of(model)
    assert noise.abs().max().item() == near(radius / math.sqrt(32))
    assert noise.norm(dim=1).max().item() == near(radius)


def test_freelb_has_a_view_for_each_point(model, world):
    """Number: 3 steps are 3 views, numbered 0 to 2; pgd's 3 steps are one.

    Catches: the last point alone.
    """
    freelb = perturb(model, world, "adv:how=freelb,steps=3", ORDER)
    assert [view.point for view in freelb] == [0, 1, 2]
    assert [view.points for view in freelb] == [3, 3, 3]
    (pgd,) = perturb(model, world, "adv:how=pgd,steps=3", ORDER)
    assert pgd.points == 1


def by_hand(*losses):
    """Six digits are given; float32 adds half a millionth at 6."""
    return pytest.approx(losses, abs=2e-6)


def test_a_row_loss_is_the_loss_of_the_rows_that_it_is_given():
    """Number: scores 2 and 1 over tau 0.5, row 0: log(1 + e^-2) = 0.126928; 0 and 3, row 1:
    log(1 + e^-6) = 0.002476. As each other's row: log(1 + e^2) = 2.126928, log(1 + e^6) = 6.002476.

    Catches: rows 0, 1, ... of the chunk for those of the batch.
    """
    v = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    row_loss = train.RowLoss(torch.eye(2), 0.5, None)
    assert row_loss(v, [0, 1]).tolist() == by_hand(0.126928, 0.002476)
    assert row_loss(v, [1, 0]).tolist() == by_hand(2.126928, 6.002476)


def test_a_row_loss_looks_at_no_false_negative():
    """Number: without passage 1, row 0 has no other: 0. Row 1 keeps its 0.002476.

    Catches: the mask of row 0 for each chunk's first row.
    """
    v = torch.tensor([[0.0, 3.0], [2.0, 1.0]])  # of rows 1 and 0
    mask = torch.tensor([[False, True], [False, False]])
    row_loss = train.RowLoss(torch.eye(2), 0.5, mask)
    assert row_loss(v, [1, 0]).tolist() == by_hand(0.002476, 0)


# ---- what is counted -----------------------------------------------------------------------------


def test_texts_and_words_are_counted_since_the_last_line_languages_since_the_start():
    """Number: of two German texts one changed, in 3 words; then a line, then an English text.

    Catches: a rate over the run in the log, or of the last lines in run.json.
    """
    counts = train.EditCounts()
    counts.add_text("de", True, 3)
    counts.add_text("de", False, 0)
    assert train.edit_columns(counts) == {"edited": 0.5, "edits": 1.5}
    counts.start_line()
    counts.add_text("en", True, 1)
    assert train.edit_columns(counts) == {"edited": 1, "edits": 1}
    assert counts.texts_of == {"de": 2, "en": 1}
    assert counts.edited_of == {"de": 1, "en": 1}


def test_noise_is_counted_in_units_a_token_that_has_some():
    """Number: norms 5 and 13 are 18 on two tokens, 9 on each; the third has no noise.

    Catches: a mean over special tokens. (The unit: "how strong the noise was", rung 15.)
    """
    counts = train.EditCounts()
    first, second = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[5.0, 12.0]])
    assert train.noise_counts([first, second]).tolist() == [2, 18]
    counts.tokens, counts.norm = 2, 18.0
    assert train.edit_columns(counts) == {"norm": 9}
