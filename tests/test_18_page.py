"""Rung 18: a study becomes one page that anybody can open, and the page says what was measured.

Builds: study.py, its page; data/report. Before: rung 17.
Run: pytest tests/test_18_page.py
"""

import contextlib
import copy
import json
import re
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT

import study

FRAME = (ROOT / "data/report/frame.html").read_text(encoding="utf-8")
BODY = (ROOT / "data/report/page.html").read_text(encoding="utf-8")
PARTS = [
    "answer",
    "table",
    "comparisons",
    "matrices",
    "bias",
    "strength",
    "robust",
    "examples",
    "runs",
]

# Two words of a question were changed; the edits are not in reading order
ARABIC = "أي رمز نطلبه أولا"
ARABIC_EDITS = [[13, 17, "قبل"], [3, 6, "شفرة"]]
ARABIC_ATTACKED = "أي شفرة نطلبه قبل"
HOSTILE = '</p><script>x</script> & "$answer" \x00'
SHOWN = HOSTILE.replace("\x00", "\ufffd")  # XML has no way to write U+0000

CLEAN = {"attack": "clean", "settings": {}, "control": False, "attack_seed": 0, "lir": 0}
GREEDY = CLEAN | {"attack": "greedy", "settings": {"edits": 2}}


# ---- a study by hand -----------------------------------------------------------------------------


def table_row(recipe, condition, mono, pool, mark="", langs="all"):
    """A row of the main table; mono has a mean alone, cross was not measured."""
    nothing = [None, None]
    return condition | {
        "recipe": recipe,
        "langs": langs,
        "n": 5,
        "minutes": 10.5,
        "marks": {"pool": mark},
        "cells": {
            "mono": {"mAP": [mono, None], "R@1": nothing},
            "cross": {"mAP": nothing, "R@1": nothing},
            "pool": {"mAP": [pool, 0.0041], "R@10": nothing, "rank_distance": [1496.4, 76.0]},
        },
    }


def comparison(kind, fixed, condition, difference, low, high, significant):
    """A row of the comparisons."""
    return condition | {
        "kind": kind,
        "fixed": fixed,
        "a": "hybrid-none",
        "b": "x-y-none",
        "view": "pool",
        "metric": "mAP",
        "difference": difference,
        "low": low,
        "high": high,
        "p": 0.0001,
        "holm": 0.0123,
        "significant": significant,
        "n_seeds": 5,
        "n_groups": 227,
    }


def example(lang, text, edits, answer=""):
    """An attacked query."""
    return GREEDY | {
        "view": "pool",
        "lang": lang,
        "id": f"q.{lang}",
        "text": text,
        "edits": edits,
        "answer": answer,
        "before": 1,
        "after": 17,
        "recipe": "hybrid-none",
    }


MATRIX = {
    "recipe": "x-y-none",
    "n": 5,
    "metric": "mAP",
    "langs": ["ar", "de"],
    "values": [[0.9, 0.41], [0.52, None]],
}
ROBUST = {
    "recipe": "x-y-none",
    "view": "mono",
    "n": 5,
    "attacks": 2,
    "clean": [0.7, 0.1],
    "robust": [0.2, 0.05],
}
STRENGTH = {
    "recipe": "x-y-none",
    "n": 5,
    "broken_mono": 0.25,
    "broken_pool": None,
    "edits": 1.75,
    "norm": 0.02,
    "calls": 12.5,
    "least_changed": 0.5,
}
BIAS = {
    "recipe": "x-y-none",
    "n": 5,
    "own_share@10": 0.31,
    "expected_share": 0.091,
    "foreign_rank": 12.25,
    "rank_distance": 1496.4,
    "own_preferred": 0.91,
    "right_own": 0.5,
    "right_foreign": 0.25,
    "wrong_own": 0.15,
    "wrong_foreign": 0.1,
}
RUN = {
    "name": "x-y-none-seed0",
    "seed": 0,
    "device": "cpu",
    "seconds": 630.4,
    "commit": "c0ffee",
    "data_sha256": "0123456789abcdef",
    "versions": {},
    "flags": {"steps": 7, "tau": 0.05},
}
STUDY = {
    "question": "Is hybrid better than the $baseline?",
    "summary": ["Hybrid is above < x-y in one of two."],
    "answer": ["Clean: hybrid keeps .262 & more.", "Hybrid is above < x-y in one of two."],
    "about": {
        "data": "minifacts",
        "split": "test",
        "languages": ["ar", "de"],
        "n_queries": 2497,
        "n_passages": 990,
        "n_groups": 227,
        "versions": {"python": "3.11"},
        "chance": {"mono": {"mAP": 0.07}, "cross": {}, "pool": {"mAP": 0.001}},
        "note": "Differences are in mAP.",
    },
    "recipes": [
        {"name": "hybrid-none", "batching": "hybrid", "robust": "none", "suffix": ""},
        {"name": "x-y-none", "batching": "x-y", "robust": "none", "suffix": " (w)"},
    ],
    "conditions": [CLEAN, GREEDY],
    "table": [
        table_row("x-y-none", CLEAN, 0.7, 0.5214),
        table_row("x-y-none", GREEDY, 0.4, 0.2786, "-"),
        table_row("hybrid-none", GREEDY, 0.5, 0.3, "+"),
        table_row("hybrid-none", GREEDY, 0.45, 0.25, langs="untrained"),
    ],
    "comparisons": [
        comparison("batching", "none", GREEDY, 0.02, 0.01, 0.04, True),
        comparison("batching", "none", CLEAN, -0.01, -0.02, 0.01, False),
        comparison("robust", "hybrid", CLEAN, 0.03, -0.01, 0.07, False),
    ],
    "matrices": [CLEAN | MATRIX],
    "bias": [CLEAN | BIAS],
    "strength": [GREEDY | STRENGTH],
    "robust_r1": [ROBUST],
    "examples": [
        example("ar", ARABIC, ARABIC_EDITS, answer="+33"),
        example("en", "a red code", [[2, 5, "blue"]], answer="Paris"),
    ],
    "runs": [RUN],
    "commands": ["python train.py > log"],
}


def changed(**parts):
    """STUDY with other parts."""
    return copy.deepcopy(STUDY) | parts


def tree_of(page):
    """The page as a tree; the parser is strict."""
    return ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def page_of(content):
    """A study drawn and parsed."""
    return tree_of(study.render(content, BODY))


def text_of(element):
    """All text of an element."""
    return "".join(element.itertext())


def section(page, name):
    """One part of the page."""
    return page.find(f".//section[@id='{name}']")


def tables(page, name):
    """The tables of a part as lists of rows of text."""
    texts = []
    for table in section(page, name).iter("table"):
        rows = []
        for row in table.iter("tr"):
            rows.append([text_of(cell) for cell in row])
        texts.append(rows)
    return texts


@pytest.fixture(scope="module")
def page():
    """STUDY drawn and parsed."""
    return page_of(STUDY)


# ---- a page of its own ---------------------------------------------------------------------------


def test_the_page_is_well_formed_and_holds_every_part(page):
    """Claim: a strict parser reads it. Catches: an open <br>, &nbsp;, an unquoted attribute."""
    assert [part.get("id") for part in page.iter("section")] == PARTS


def test_the_page_has_no_script_and_fetches_nothing(page):
    """Claim: it opens offline, and nobody hears of it. Catches: a script, a picture, a style sheet
    of another server."""
    tags = {element.tag for element in page.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "use", "base", "form"}


def test_the_style_sheet_fetches_nothing(page):
    """Catches: a font from the network, @import."""
    css = text_of(page.find("head/style"))
    assert "body" in css
    assert not re.search(r"url\(|@import|@font-face|http|//", css)


def test_no_attribute_leads_elsewhere(page):
    """Claim: links lead to a part of this page. Catches: href="https:...", src, onclick, a line
    of the contents whose part has another id."""
    targets, links = {element.get("id") for element in page.iter()}, 0
    for element in page.iter():
        for key, value in element.attrib.items():
            assert key not in ("src", "srcset", "data", "action")
            assert not key.startswith("on")
            assert not re.search(r"http|url\(|script:", value)
            if key == "href":
                links += 1
                assert value.startswith("#")
                assert value[1:] in targets
    assert links == len(PARTS)


# ---- text is shown and never read as markup ------------------------------------------------------


def test_a_question_is_shown_as_it_is():
    """Number: "<", "&", quotes, "$answer", U+0000. Catches: a title that ends in the middle, a
    $answer of the data that the frame fills in."""
    page = page_of(changed(question=HOSTILE))
    assert text_of(page.find(".//h1")) == SHOWN
    assert text_of(page.find("head/title")) == SHOWN


def test_hostile_names_are_shown_in_every_part():
    """Number: a recipe (a model's path may hold anything), a setting, a language, a command.

    Catches: one table that is filled without escaping.
    """
    content = changed(answer=[HOSTILE], commands=[HOSTILE])
    odd = {"recipe": HOSTILE, "settings": {"key": HOSTILE}}
    for part in ("table", "bias", "strength", "robust_r1", "matrices", "examples"):
        content[part] = [row | odd for row in content[part]]
    names = {"a": HOSTILE, "settings": {"key": HOSTILE}}
    content["comparisons"] = [row | names for row in content["comparisons"]]
    content["recipes"][0]["name"] = HOSTILE  # or no picture would be drawn
    content["about"]["data"] = content["about"]["note"] = HOSTILE
    content["matrices"][0]["langs"] = [HOSTILE, "de"]
    content["runs"][0]["name"] = HOSTILE
    page = page_of(content)
    assert SHOWN in text_of(section(page, "answer").find("figure"))
    for name in PARTS:
        assert SHOWN in text_of(section(page, name)), name
    assert page.find(".//script") is None


def test_hostile_queries_and_edits_are_shown():
    """Claim: the text before, in and after an edit, what was put in, the answer and the id.

    Catches: a query that turns bold, a part of it that goes unescaped.
    """
    query = example("en", "<a> <b> <c>", [[4, 7, "<i>"]], answer=HOSTILE)
    page = page_of(changed(examples=[query | {"id": "<q>"}]))
    article = page.find(".//article")
    assert text_of(article.find("p[@class='query']")) == "<a> <b><i> <c>"
    assert "<q>" in text_of(article)
    assert SHOWN in text_of(article)


def test_a_language_cannot_leave_its_attribute():
    """Catches: a quote in a language's code that ends lang="..."."""
    page = page_of(changed(examples=[example('en" onclick="x', "a code", [])]))
    assert page.find(".//p[@class='query']/span").get("lang") == 'en" onclick="x'


# ---- numbers -------------------------------------------------------------------------------------


def test_recipes_stand_down_and_conditions_across(page):
    """Number: the table of the pool; .5214 and .2786 to three digits. What was not measured is "-".

    Catches: columns in another order than their head, a row of half the languages among those of
    all, a mark on the neighbour.
    """
    pool, *_ = tables(page, "table")
    assert pool == [
        ["recipe", "n", "clean", "greedy:edits=2"],
        ["x-y-none", "5", ".521 ±.004", ".279 ±.004▼"],
        ["hybrid-none", "5", "-", ".300 ±.004▲"],
    ]


def test_every_view_has_a_table_of_its_own_and_untrained_languages_too(page):
    """Number: mono .7, .4, .5 without a spread; untrained .25; cross was not measured.

    Catches: an empty table, numbers of another view, one row of both kinds of languages.
    """
    _, mono, untrained = tables(page, "table")
    assert mono[1] == ["x-y-none", "5", ".700", ".400"]
    assert mono[2] == ["hybrid-none", "5", "-", ".500"]
    assert untrained[1:] == [["hybrid-none", "5", ".250 ±.004"]]


def test_a_table_says_which_view_it_is_of_and_what_luck_would_give(page):
    """Number: a random ranking has .001 in the pool, .070 in mono. Catches: another view's."""
    captions = [text_of(caption) for caption in section(page, "table").iter("figcaption")]
    assert captions == [
        "pool mAP, queries of all languages; a random ranking has .001",
        "mono mAP, queries of all languages; a random ranking has .070",
        "pool mAP, queries of untrained languages; a random ranking has .001",
    ]


def test_a_matrix_shows_its_values(page):
    """Number: query languages down. Catches: a transposed matrix, "None"."""
    (matrix,) = tables(page, "matrices")
    assert matrix == [["", "ar", "de"], ["ar", ".900", ".410"], ["de", ".520", "-"]]


def test_strength_shows_its_values(page):
    """Catches: a column under another head."""
    (table,) = tables(page, "strength")
    head, row = table
    assert head[3:] == ["broken mono", "broken pool", "edits", "norm", "calls", "least changed"]
    assert row[:3] == ["x-y-none", "greedy:edits=2", "5"]
    assert row[3:] == [".250", "-", "1.750", ".020", "12.500", ".500"]


def test_bias_shows_its_values(page):
    """Number: a rank distance has no decimals, a rank one. Catches: a column under another head."""
    (table,) = tables(page, "bias")
    head, row = table
    assert head[3:7] == ["own share@10", "expected share", "foreign rank", "rank distance"]
    assert head[7:] == ["own preferred", "right own", "right foreign", "wrong own", "wrong foreign"]
    assert row[3:7] == [".310", ".091", "12.2", "1496"]
    assert row[7:] == [".910", ".500", ".250", ".150", ".100"]


def test_robust_shows_its_values(page):
    """Catches: clean and robust exchanged."""
    (table,) = tables(page, "robust")
    assert table[1] == ["x-y-none", "mono", "5", "2", ".700 ±.100", ".200 ±.050"]


def test_the_picture_shows_hybrid_against_its_parent_under_each_condition(page):
    """Number: two comparisons of batchings in the pool; the one of robust training is no row. The
    first is significant: a full dot, right of zero.

    Catches: a picture of all comparisons; a dot on the wrong side.
    """
    figure = section(page, "answer").find("figure")
    head, *rows = figure.iter("tr")
    assert text_of(head).startswith("hybridminus x-y (w)")
    assert "x-x-mono" not in text_of(head)
    assert [text_of(row.find("th")) for row in rows] == ["greedy:edits=2", "clean"]
    dots = [row.find(".//circle") for row in rows]
    assert [dot.get("class") for dot in dots] == ["dot", "dot hollow"]
    zero = float(rows[0].find(".//line[@class='zero']").get("x1"))
    assert float(dots[1].get("cx")) < zero < float(dots[0].get("cx"))


def test_each_parent_has_a_column_of_its_own():
    """Number: .02 above x-y, .01 below x-x-mono, which is not significant. Catches: the columns
    exchanged."""
    mono = {"name": "mono", "batching": "x-x-mono", "robust": "none", "suffix": ""}
    rows = [
        comparison("batching", "none", CLEAN, 0.02, 0.01, 0.04, True),
        comparison("batching", "none", CLEAN, -0.01, -0.02, 0.01, False) | {"b": "mono"},
    ]
    content = changed(recipes=[*STUDY["recipes"], mono], comparisons=rows)
    head, row = section(page_of(content), "answer").find("figure").iter("tr")
    names = [text_of(cell) for cell in head]
    assert names[1].startswith("minus x-x-mono")
    assert names[2].startswith("minus x-y (w)")
    dots = [cell.find(".//circle").get("class") for cell in row.findall("td")]
    assert dots == ["dot hollow", "dot"]


def test_a_single_seed_is_told_in_sight():
    """Catches: the caveat of the whole page behind a click; told twice, or of five seeds."""
    answer = [*STUDY["answer"], study.ONE_SEED]
    part = section(page_of(STUDY | {"answer": answer}), "answer")
    assert text_of(part).count(study.ONE_SEED) == 1
    assert study.ONE_SEED not in text_of(part.find("details"))
    assert study.ONE_SEED not in text_of(section(page_of(STUDY), "answer"))


def test_without_hybrid_there_is_no_picture():
    """Catches: an empty frame, an error at the smallest of no numbers."""
    assert section(page_of(STUDY | {"recipes": []}), "answer").find("figure") is None


def test_the_number_of_seeds_is_that_of_each_condition():
    """Number: five seeds clean, one attacked. Catches: "5" beside a number of one seed."""
    rows = [table_row("x-y-none", CLEAN, 0.7, 0.5), table_row("x-y-none", GREEDY, 0.4, 0.3)]
    rows[1]["n"] = 1
    (_, row) = study.map_table(rows, "pool")
    assert row[1] == "1 or 5"


def test_runs_show_their_manifest_and_the_commands(page):
    """Catches: flags left out, the whole hash, seconds with three decimals."""
    ((_, row),) = tables(page, "runs")
    assert row[1:5] == ["c0ffee", "cpu", "0123456789ab", "steps=7 tau=0.05"]
    assert row[5:] == ["0", "630"]
    assert text_of(section(page, "runs").find("pre")) == "python train.py > log"


def test_the_answer_says_what_it_rests_on(page):
    """Claim: the summary in sight, the other sentences behind a click.

    Catches: an answer without its data, or without the note on intervals and p; a sentence twice.
    """
    answer = section(page, "answer")
    text = text_of(answer)
    assert text.count(STUDY["summary"][0]) == 1
    (details,) = answer.iter("details")
    assert text_of(details) == "1 more sentence" + STUDY["answer"][0]
    assert "2,497 queries of 227 questions" in text
    assert STUDY["about"]["note"] in text


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        ([0.4629, 0.0041], ".463 ±.004"),
        ([10.5, 0.5], "10.500 ±.500"),
        ([-0.0131, None], "-.013"),
        ([-0.0001, None], ".000"),
        ([None, None], "-"),
    ],
)
def test_a_mean_is_shown_with_its_spread(pair, text):
    """Catches: "- ±-", "-.000", 10.5 as 1.5."""
    assert study.pair_text(pair) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0123, ".012"), (0.0009, "<.001"), (0.001, ".001"), (1, "1.000")]
)
def test_a_small_p_is_not_shown_as_zero(p, text):
    """Catches: .000, a certainty that no test gives."""
    assert study.p_text(p) == text


# ---- comparisons ---------------------------------------------------------------------------------


def test_a_comparison_shows_its_numbers(page):
    """Number: STUDY's first. Catches: p before the correction, bounds of another row."""
    row = tables(page, "comparisons")[0][1]
    assert row[0] == "hybrid-none minus x-y-nonegreedy:edits=2, pool"
    assert row[2:] == [".020", ".010 to .040", ".012", "5"]


def test_a_comparison_that_is_certain_can_be_drawn():
    """Claim: "<.001" is text. Catches: a tag that nobody closes."""
    row = comparison("batching", "none", CLEAN, 0.02, 0.01, 0.04, True)
    page = page_of(changed(comparisons=[row | {"holm": 0.0001}]))
    assert tables(page, "comparisons")[0][1][4] == "<.001"


def test_batchings_of_plain_training_are_in_sight_and_all_else_behind_a_click(page):
    """Number: 2 rows and 1. Catches: dozens of rows before those that answer the question."""
    assert [len(table) - 1 for table in tables(page, "comparisons")] == [2, 1]
    behind = section(page, "comparisons").find("details")
    assert text_of(behind.find("summary")) == "1 more: robust training"
    assert len(list(behind.iter("table"))) == 1


def test_comparisons_with_a_model_as_it_is_are_called_so():
    """Number: one, against the model. Catches: "robust training" over what has none."""
    rows = [
        *STUDY["comparisons"][:2],
        comparison("training", "none", CLEAN, 0.03, 0.01, 0.07, True),
    ]
    behind = section(page_of(changed(comparisons=rows)), "comparisons").find("details")
    assert text_of(behind.find("summary")) == "1 more: models as they are, robust training"


def test_without_plain_batchings_the_others_are_in_sight():
    """Catches: a part whose only content is hidden."""
    page = page_of(changed(comparisons=STUDY["comparisons"][2:]))
    assert section(page, "comparisons").find("details") is None
    assert len(tables(page, "comparisons")) == 1


def test_a_significant_difference_is_bold_and_has_a_full_dot(page):
    """Claim: seen without colour. Number: the first of two. Catches: dots exchanged."""
    first, second = section(page, "comparisons").find(".//tbody")
    assert text_of(first.find(".//b")) == ".020"
    assert first.find(".//circle").get("class") == "dot"
    assert second.find(".//b") is None
    assert second.find(".//circle").get("class") == "dot hollow"


def test_a_dot_stands_at_its_difference_on_the_bar(page):
    """Number: .02 between .01 and .04, and -.01 between -.02 and .01: a third of both bars; places
    are rounded to .1 of about 100.

    Catches: a dot amid the bar (1 / 2), a bar of the standard error.
    """
    rows = section(page, "comparisons").find(".//tbody")
    for row in rows:
        bar = row.find(".//line[@class='bar']")
        start, end = float(bar.get("x1")), float(bar.get("x2"))
        dot = float(row.find(".//circle").get("cx"))
        assert (dot - start) / (end - start) == pytest.approx(1 / 3, abs=0.005)


def test_all_rows_of_a_picture_share_one_scale_with_its_zero(page):
    """Number: from -.02 to .04 on 14 to 226: 0 at 14 + 212 / 3 = 84.7, .01 at 120, .04 at 226.

    Catches: a scale a row, which makes all intervals equally wide.
    """
    first, second = section(page, "comparisons").find(".//tbody")
    for row in (first, second):
        assert row.find(".//line[@class='zero']").get("x1") == "84.7"
    assert first.find(".//line[@class='bar']").get("x1") == "120.0"
    assert first.find(".//line[@class='bar']").get("x2") == "226.0"
    assert second.find(".//line[@class='bar']").get("x1") == "14.0"


def test_a_picture_shows_zero_where_all_intervals_are_above_it():
    """Number: .01 to .04 on 0 to .04: 0 stands at 14, .01 at 14 + 212 / 4 = 67. Catches: a scale
    of the intervals alone, on which "far from 0" cannot be seen."""
    row = comparison("batching", "none", CLEAN, 0.02, 0.01, 0.04, True)
    page = page_of(changed(comparisons=[row]))
    (drawn,) = section(page, "comparisons").find(".//tbody")
    assert drawn.find(".//line[@class='zero']").get("x1") == "14.0"
    assert drawn.find(".//line[@class='bar']").get("x1") == "67.0"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.025, 0.055, [-0.02, 0, 0.02, 0.04]),
        (0.0, 1.0, [0, 0.5, 1]),
        (-3.0, 0.0, [-3, -2, -1, 0]),
        (0.0, 0.0004, [0, 0.0001, 0.0002, 0.0003, 0.0004]),
    ],
)
def test_ticks_stand_at_round_numbers(low, high, expected):
    """Number: a step of 1, 2 or 5 times a power of ten, a quarter of the range or the next larger:
    .02 for .08, .5 for 1, 1 for 3. Catches: quarters (.25), a tick outside, the last one lost."""
    assert study.Scale(low, high).ticks() == pytest.approx(expected, abs=1e-12)


def test_a_picture_of_nothing_but_zeros_can_be_drawn():
    """Number: two recipes that differ in nothing: all 0. Catches: a division by a range of 0."""
    row = comparison("batching", "none", CLEAN, 0.0, 0.0, 0.0, False)
    page = page_of(changed(comparisons=[row]))
    assert tables(page, "comparisons")[0][1][2] == ".000"


# ---- attacked queries ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def query(page):
    """The Arabic query of the page: text with <del> and <ins> in it."""
    return page.find(".//p[@class='query']/span")


def test_every_edit_is_marked_in_its_place(query):
    """Number: two edits, the last one first. Catches: offsets that move with the first edit, an
    edit that is marked alone, words put in before those taken out."""
    marked = [(element.tag, text_of(element)) for element in query]
    assert marked == [("del", "رمز"), ("ins", "شفرة"), ("del", "أولا"), ("ins", "قبل")]


def text_without(query, kind):
    """The text of a query that is left when all <ins> or all <del> are taken out."""
    texts = [query.text]
    for element in query:
        if element.tag != kind:
            texts.append(text_of(element))
        if element.tail:
            texts.append(element.tail)
    return "".join(texts)


def test_without_what_was_put_in_the_original_is_left(query):
    """Catches: a letter lost beside an edit."""
    assert text_without(query, "ins") == ARABIC


def test_without_what_was_taken_out_the_attacked_query_is_left(query):
    """Catches: a blank too many around a new word."""
    assert text_without(query, "del") == ARABIC_ATTACKED


@pytest.mark.parametrize(
    ("edit", "markup"),
    [
        ([2, 5, ""], "a <del>red</del> code"),
        ([5, 5, "dish"], 'a red<ins dir="auto">dish</ins> code'),
        ([2, 5, "blue"], 'a <del>red</del><ins dir="auto">blue</ins> code'),
    ],
)
def test_letters_left_out_or_added_are_marked_as_such(edit, markup):
    """Number: what typos do. Catches: an empty <ins></ins> or <del></del>, drawn as a stroke."""
    assert study.marked_query(example("en", "a red code", [edit])) == markup


def test_edits_that_overlap_are_a_bug_of_ours():
    """Catches: a word shown twice."""
    with pytest.raises(AssertionError, match="edits overlap"):
        study.marked_query(example("en", "a red code", [[2, 5, "x"], [4, 7, "y"]]))


def test_a_query_runs_in_the_direction_of_its_language(page):
    """Number: Arabic from the right, English from the left. Catches: dir on neither, on both."""
    arabic, english = page.findall(".//p[@class='query']/span")
    assert (arabic.get("lang"), arabic.get("dir")) == ("ar", "rtl")
    assert (english.get("lang"), english.get("dir")) == ("en", "ltr")


def test_a_number_that_answers_an_arabic_question_runs_from_the_left(page):
    """Number: "+33" has no Arabic letter; from the right it would read "33+"."""
    answer = page.find(".//article/p[@class='note']/span")
    assert text_of(answer) == "+33"
    assert answer.get("dir") == "ltr"


def test_a_word_put_in_runs_its_own_way(page):
    """Claim: it may be of another script. Catches: a Latin word inside Arabic, turned around."""
    inserted = list(page.iter("ins"))
    in_queries = [element for element in inserted if element.get("dir")]
    assert {element.get("dir") for element in in_queries} == {"auto"}
    assert len(in_queries) == 3


def test_an_example_says_what_happened_to_its_rank(page):
    """Catches: ranks exchanged, the recipe or the attack left out."""
    note = text_of(page.find(".//article/p[@class='note']"))
    assert note == "q.ar, pool, greedy:edits=2, hybrid-none; rank 1 → 17; answer: +33"


# ---- parts without data --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("table", "table"),
        ("comparisons", "comparisons"),
        ("matrices", "matrices"),
        ("bias", "bias"),
        ("strength", "strength"),
        ("robust_r1", "robust"),
        ("examples", "examples"),
    ],
)
def test_a_part_without_data_vanishes_with_its_line_of_the_contents(key, name):
    """Claim: all others stay. Catches: a heading over nothing, a link to nothing, a cut that
    takes the next part as well."""
    page = page_of(changed(**{key: []}))
    others = [part for part in PARTS if part != name]
    assert [part.get("id") for part in page.iter("section")] == others
    assert [link.get("href") for link in page.iter("a")] == [f"#{part}" for part in others]


def test_runs_and_commands_are_one_part():
    """Claim: commands alone keep it, as for models. Catches: a table of no runs."""
    page = page_of(changed(runs=[]))
    assert section(page, "runs").find("pre") is not None
    assert section(page, "runs").find("details") is None
    assert section(page_of(changed(runs=[], commands=[])), "runs") is None


@pytest.mark.parametrize("name", PARTS)
def test_a_frame_without_a_place_for_a_part_is_refused(name):
    """Claim: whoever edits the prose hears of it. Catches: a part that is lost in silence."""
    with pytest.raises(ValueError, match=rf"no place for {name}. Write \${name}"):
        study.render(STUDY, BODY.replace(f"${name}", ""))


# ---- contrast ------------------------------------------------------------------------------------


def luminance(red, green, blue):
    """Relative luminance of 8-bit channels, as WCAG 2.2 defines it."""
    total = 0.0
    for channel, weight in ((red, 0.2126), (green, 0.7152), (blue, 0.0722)):
        share = channel / 255
        if share <= 0.04045:
            total += weight * share / 12.92
        else:
            total += weight * ((share + 0.055) / 1.055) ** 2.4
    return total


def contrast(ink, paper):
    """The contrast ratio of two colours (r, g, b): 1 to 21."""
    dark, light = sorted([luminance(*ink), luminance(*paper)])
    return (light + 0.05) / (dark + 0.05)


INKS = {"#000": (0, 0, 0), "#fff": (255, 255, 255)}


def test_the_oracle_of_contrast_agrees_with_printed_values():
    """Number: WCAG's own: black on white 21, #767676 on white 4.54."""
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.005)


def test_every_number_of_a_heat_map_can_be_read():
    """Number: WCAG asks for 4.5; 1,001 shades. Catches: white ink from the middle of the scale
    on, ink that follows the scheme."""
    inks = set()
    for k in range(1001):
        css = study.shade(k / 1000)
        paper = [int(channel) for channel in re.findall(r"\d+", css)[:3]]
        ink = css.partition(";color:")[2]
        inks.add(ink)
        assert contrast(INKS[ink], paper) >= 4.5, css
    assert len(inks) == 2


def test_a_heat_map_uses_its_whole_scale(page):
    """Number: the lowest of its numbers, .41, on the palest colour, the highest on the darkest.

    Catches: a scale from 0 on, which leaves half of the colours unused.
    """
    styles = {}
    for span in section(page, "matrices").iter("span"):
        styles[text_of(span)] = span.get("style")
    assert styles[".410"] == "background:rgb(247,251,255);color:#000"
    assert styles[".900"] == "background:rgb(8,48,107);color:#fff"
    assert styles["-"] is None


def schemes():
    """The colours of the light and of the dark scheme: name -> (r, g, b)."""
    palettes = []
    for block in re.findall(r":root \{(.*?)\}", FRAME, re.DOTALL):
        palette = {}
        for name, digits in re.findall(r"--([\w-]+): #(\w+);", block):
            if len(digits) == 3:
                digits = "".join(2 * digit for digit in digits)
            palette[name] = tuple(bytes.fromhex(digits))
        palettes.append(palette)
    return palettes


@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("ink", "page"),
        ("soft", "page"),
        ("ink", "tint"),
        ("out", "page"),
        ("in", "page"),
        ("in", "in-tint"),
    ],
)
def test_every_text_of_the_frame_can_be_read_in_both_schemes(ink, paper):
    """Number: WCAG's 4.5. Catches: a dark scheme with the inks of the light one."""
    light, dark = schemes()
    assert contrast(light[ink], light[paper]) >= 4.5
    assert contrast(dark[ink], dark[paper]) >= 4.5


# ---- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """STUDY written; the folder."""
    folder = tmp_path_factory.mktemp("report")
    study.write_report(folder / "x.html", STUDY)
    return folder


def test_a_report_is_three_files(report):
    """Catches: a file that is left half written."""
    assert sorted(path.name for path in report.iterdir()) == [
        "x.html",
        "x.study.json",
        "x.study.md",
    ]


def test_the_json_beside_the_page_is_the_study(report):
    """Catches: rounded numbers, a part that only the page holds."""
    written = json.loads((report / "x.study.json").read_text(encoding="utf-8"))
    assert written == STUDY | {"made_by": "written by study.py as a report"}


def test_the_page_that_is_written_is_the_one_that_is_drawn(report):
    """Catches: another encoding than the one that the page names."""
    page = tree_of((report / "x.html").read_bytes().decode("utf-8"))
    assert page.find("head/meta").get("charset") == "utf-8"
    assert text_of(page.find(".//p[@class='query']/span/ins")) == "شفرة"


def markdown_lines(report):
    """The cells of each line of the .md file."""
    lines = []
    for line in (report / "x.study.md").read_text(encoding="utf-8").splitlines():
        cells = line.split("|")[1:-1]
        lines.append([cell.strip() for cell in cells])
    return lines


def test_the_markdown_holds_all_metrics_of_the_main_table(report):
    """Number: x-y under greedy. Catches: a rank distance with three decimals, a lost mark."""
    lines = markdown_lines(report)
    assert lines[0][:6] == ["recipe", "condition", "languages", "n", "mono mAP", "cross mAP"]
    (row,) = [line for line in lines if line[:2] == ["x-y-none", "greedy:edits=2"]]
    assert row[2:7] == ["all", "5", ".400", "-", ".279 ±.004▼"]
    assert row[-2:] == ["1496 ±76", "10.5"]


def test_the_markdown_holds_the_comparisons(report):
    """Number: STUDY's first two. Catches: p and Holm's p exchanged, "True" for yes."""
    lines = markdown_lines(report)
    rows = [line for line in lines if line[:2] == ["hybrid-none", "x-y-none"]]
    assert rows[0][2:5] == ["greedy:edits=2", "pool", "mAP"]
    assert rows[0][5:] == [".020", ".010 to .040", "<.001", ".012", "yes", "5", "227"]
    assert rows[1][5:7] == ["-.010", "-.020 to .010"]
    assert rows[1][-3] == "no"


def test_the_markdown_of_a_single_recipe_has_one_table(tmp_path):
    """Catches: the head of a table of no comparisons."""
    study.write_report(tmp_path / "x.html", changed(comparisons=[]))
    assert "95 % interval" not in (tmp_path / "x.study.md").read_text(encoding="utf-8")


def test_a_bar_in_a_name_does_not_split_a_cell_of_the_markdown(tmp_path):
    """Number: a model's path with "|". Catches: a line with one cell more than its head."""
    row = table_row("a|b", CLEAN, 0.7, 0.5)
    study.write_report(tmp_path / "x.html", changed(table=[row], comparisons=[]))
    lines = (tmp_path / "x.study.md").read_text(encoding="utf-8").splitlines()
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert len(bars) == 1


def test_a_missing_folder_is_made(tmp_path):
    """Catches: a study of minutes that is lost at its last step."""
    study.write_report(tmp_path / "new/x.html", STUDY)
    assert (tmp_path / "new/x.html").exists()


@pytest.mark.parametrize(
    ("page", "file"),
    [("README.html", "README.md"), ("run.html", "run.json"), ("README.html", "README.html")],
)
def test_a_report_replaces_no_file_that_is_none(tmp_path, page, file):
    """Claim: the companions have names of their own; somebody's page of this name is refused.

    Catches: a README or a run's manifest that is lost to a table.
    """
    (tmp_path / file).write_text("all my work")
    with contextlib.suppress(ValueError):
        study.write_report(tmp_path / page, STUDY)
    assert (tmp_path / file).read_text() == "all my work"


def test_a_companion_that_no_report_made_is_refused(tmp_path):
    """Claim: before the page is written. Catches: a page without its numbers."""
    (tmp_path / "x.study.md").write_text("all my work")
    with pytest.raises(ValueError, match="x.study.md: no report of study.py"):
        study.write_report(tmp_path / "x.html", STUDY)
    assert not (tmp_path / "x.html").exists()


def test_a_report_replaces_an_earlier_one(tmp_path):
    """Catches: a report that can be written once only."""
    study.write_report(tmp_path / "x.html", STUDY)
    study.write_report(tmp_path / "x.html", changed(comparisons=[]))
    assert "95 % interval" not in (tmp_path / "x.study.md").read_text(encoding="utf-8")
