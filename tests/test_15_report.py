"""Rung 15: a study becomes one page that anybody can open, and the page says what was measured.

Builds: data/report/page.py. Before: rung 6. Run: pytest tests/test_15_report.py
"""

import re
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT

from data.report.page import latex, markdown, pair, render, shade

PAGE = (ROOT / "data/report/page.html").read_text(encoding="utf-8")
ARABIC, SWAPS = "أي رمز نطلبه أولا", [[13, 17, "قبل"], [3, 6, "شفرة"]]  # not in reading order
COMPARISON = {
    "question": "hybrid against x-y", "a": "hybrid-none", "b": "x-y-none", "attack": "greedy",
    "view": "pool", "metric": "mAP", "difference": 0.02, "low": 0.01, "high": 0.04, "p": 0.0001,
    "holm": 0.012, "significant": True, "n_seeds": 5, "n_groups": 227,
}  # fmt: skip
STUDY = {
    "question": 'Is it <b>& "$baseline"?', "answer": ["Hybrid keeps .262 [.25, .27] & more."],
    "about": {"data": "minifacts", "chance": {"pool": {"mAP": 0.001, "rank_distance": 16510}}},
    "recipes": ["x-y-none", "hybrid-none"], "attacks": ["clean", "greedy"],
    "table": [
        {"recipe": r, "attack": a, "langs": "all", "n": 5, "minutes": 10.5, "marks": {"pool mAP": m},
         "cells": {"pool mAP": [x, 0.004], "mono R@1": [x + 0.3, None], "pool rank_distance": d}}
        for r, a, x, d, m in [
            ("x-y-none", "clean", 0.521, [646.4, 14.2], ""),
            ("x-y-none", "greedy", 0.279, [1496.0, 76.0], "-"),
            ("hybrid-none", "clean", 0.505, None, "+"),
            ("hybrid-none", "greedy", 0.262, [758.0, None], "")]
    ],
    "comparisons": [
        COMPARISON, COMPARISON | {"attack": "clean", "difference": -0.02, "low": -0.03, "high": 0.0},
        COMPARISON | {"difference": 0.0, "low": -0.01, "high": 0.02, "significant": False},
    ],
    "matrices": [{"recipe": "x-y-none", "attack": "clean", "metric": "mAP", "langs": ["ar", "de"],
                  "values": [[0.9, 0.41], [0.52, None]]}],
    "bias": [{"recipe": "x-y-none", "attack": "clean", "own_share": 0.31, "uniformity": None}],
    "curves": [{"title": '"<&>', "x": "words", "y": "pool mAP", "series": [
        {"recipe": r, "points": [[0, 0.5, 0.01], [1, 0.4 - k / 999, 0.03], [2, 0.3, None]]}
        for k, r in enumerate(("x-y-none", "hybrid-none", "x-x-none"))]}],
    "robust_r1": [{"recipe": "x-y-none", "view": "mono", "clean": [0.7, 0.1], "robust": [0.2, 0.1]}],
    "training": [{"run": "x-y-none-seed0", "recipe": "x-y-none", "points": [[1, 4.0], [2, 2.5]]}],
    "words": [{"attack": "x", "lang": "ar", "old": "رمز", "new": "شفرة", "broken": 3, "used": 4}],
    "examples": [
        {"recipe": "x-y-none", "attack": "greedy", "view": "pool", "lang": lang, "id": f"q.{lang}",
         "text": text, "edits": edits, "answer": "+33", "before": 1, "after": 17}
        for lang, text, edits in [("ar", ARABIC, SWAPS), ("en", "a <b>& \x00 code", [[10, 14, "<i>"]])]
    ],
    "transfer": [{"attack": "greedy", "from": "x", "onto": "hybrid", "view": "pool", "mAP": 0.3}],
    "runs": [{"name": "x-y-none-seed0", "seconds": 30.1}], "commands": ["python train.py > log"],
}  # fmt: skip


def tree(study):
    """The page as a tree, parsed strictly."""
    return ET.fromstring(render(study, PAGE).removeprefix("<!DOCTYPE html>\n"))


def text(element):
    """All text of an element."""
    return "".join(element.itertext())


def printed(row):
    """Every number of a row of STUDY's table as it must be printed, by another way than the code's."""
    pool, mono, rank = row["cells"].values()
    small = [f"{v:.3f}".lstrip("0") for v in (*pool, mono[0])]
    return [*small, *(f"{v:.0f}" for v in rank or [] if v is not None), "10.5"]


def test_the_page_is_well_formed_and_needs_nothing_from_outside():
    """Claim: strict XML; no script, no outside reference; every link in it leads somewhere.
    Number: none. Catches: an open <br>, a named entity, a font or a script from the network."""
    root = tree(STUDY)  # a strict parser
    assert not {e.tag for e in root.iter()} & {"script", "link", "img", "iframe", "object", "use"}
    assert not re.search(r"url\(|@import|http", text(root.find("head/style")))
    targets = {e.get("id") for e in root.iter()}
    for key, value in (item for e in root.iter() for item in e.attrib.items()):
        assert key not in ("src", "srcset", "data") and not re.search("http|url|script:", value)
        assert key != "href" or (value[0] == "#" and value[1:] in targets)


@pytest.mark.parametrize("value, expected", [
    ([0.4629, 0.0041], ".463 ±.004"), ([10.5, 0.5], "10.500 ±.500"), (-0.0131, "-.013"),
    (-0.0001, ".000"), ([0.5, None], ".500"), (None, "-"), ([None, None], "-"),
])  # fmt: skip
def test_one_helper_formats_every_number(value, expected):
    """Claim: mean ±sd as in the README. Number: by hand. Catches: replace("0.", "."), which
    prints 10.5 as 1.5; "-.000"; a rank distance with three decimals; "None"."""
    assert pair(value, "pool mAP") == expected
    assert pair([1496.4, 75.6], "pool rank_distance") == "1496 ±76"


def test_every_mean_of_the_study_stands_in_its_row_and_column():
    """Claim: the page shows the study's numbers, with ▲ or ▼ where marked. Number: STUDY's table; only
    .279 is marked ▼. Catches: columns in another order than their head, a mark on its neighbour."""
    root = tree(STUDY)
    cells = lambda table: [[text(cell) for cell in row] for row in table.iter("tr")]
    short, *_, long = map(cells, root.find(".//section[@id='table']").iter("table"))
    assert short == [
        ["recipe", "clean", "greedy"], ["x-y-none", ".521 ±.004", ".279 ±.004▼"],
        ["hybrid-none", ".505 ±.004▲", ".262 ±.004"], ["chance", ".001", ".001"],
    ]  # fmt: skip
    assert long[0][4:] == ["pool mAP", "mono R@1", "pool rank distance", "minutes"]
    for row, line in zip(STUDY["table"], long[1:-1], strict=True):
        assert line[:4] == [row["recipe"], row["attack"], "all", "5"]
        assert re.findall(r"[\d.]+", " ".join(line[4:])) == printed(row)
    assert long[-1][4:] == [".001", "-", "16510", "-"]
    matrix = root.find(".//section[@id='matrices']//table")
    assert cells(matrix) == [["", "ar", "de"], ["ar", ".900", ".410"], ["de", ".520", "-"]]


def test_markdown_and_latex_hold_the_numbers_of_the_page():
    """Claim: one table, three forms. Number: STUDY's. Catches: a form with its own rounding, a bare
    % or _ that LaTeX reads as a comment or an index, a "[" after a line's end, a | that splits."""
    odd = COMPARISON | {"question": r"[50 %] of a_b & {c} | <d> \e^~$#"}
    study = STUDY | {"comparisons": [odd, *STUDY["comparisons"][1:]]}
    for form, end, head in ((markdown(study), " |", 2), (latex(study), r"\\", 0)):
        tables = [t.split("\n") for t in form.strip().split("\n\n")]
        main, compared = ([line for line in t if line.endswith(end)][head:] for t in tables)
        for row, line in zip(STUDY["table"], main[:-1], strict=True):
            numbers = re.split(r" +\| | & ", line, maxsplit=4)[4]
            assert re.findall(r"\d*\.?\d+", numbers) == printed(row), line
        assert re.findall(r"\.\d+", compared[0]) == [".020", ".010", ".040", ".001", ".012"]
        bars = [len(re.findall(r"(?<!\\)[|&]", line.replace("$|$", ""))) for line in compared]
        assert bars == [14 if head else 12] * 3
    escaped = r"{[}50 \%{]} of a\_b \& \{c\} $|$ $<$d$>$ \textbackslash{}e\^{}\~{}\$\# & "
    assert escaped in latex(study)


def test_each_edit_is_marked_in_its_place_and_foreign_text_runs_its_way():
    """Claim: without <ins> the original, without <del> the attacked query; Arabic from the right, not
    "+33". Number: two edits, last first. Catches: offsets that move with an edit; dir on none."""
    root = tree(STUDY)
    query, english = (article.find("p[@class='query']") for article in root.iter("article"))
    assert [e.tag + text(e) for e in query] == ["delرمز", "insشفرة", "delأولا", "insقبل"]
    for kind, expected in (("ins", ARABIC), ("del", "أي شفرة نطلبه قبل")):
        left = [text(e) * (e.tag != kind) + (e.tail or "") for e in query]
        assert query.text + "".join(left) == expected
    sides = {text(e): e.get("dir") for e in root.iter() if e.get("lang") == "ar"}
    assert sides == {"رمزشفرة": "rtl", "أي رمزشفرة نطلبه أولاقبل": "rtl", "+33": "ltr"}
    assert {e.get("dir") for e in query.iter("ins")} == {"auto"} and english.get("dir") == "ltr"


def test_text_is_shown_and_never_read_as_markup():
    """Claim: < & " $ and U+0000 survive or are replaced. Number: none. Catches: a title that closes
    its attribute, a $baseline in the data that the frame fills in, a query that turns bold."""
    root = tree(STUDY)
    assert text(root.find(".//h1")) == text(root.find("head/title")) == STUDY["question"]
    assert root.find(".//svg[@role='img']").get("aria-label") == STUDY["curves"][0]["title"]
    assert text(root.findall(".//p[@class='query']")[1]) == "a <b>& \ufffd code<i>"


def test_a_part_without_data_is_left_out_with_its_line_of_contents():
    """Claim: an empty part leaves no trace, all others stay. Number: 11 parts, 10 without one.
    Catches: a heading over nothing; a cut that takes the next part; a frame without a place."""
    every = [e.get("id") for e in tree(STUDY).iter("section")]
    assert len(every) == 11
    with pytest.raises(ValueError, match="no place for .*transfer"):
        render(STUDY, PAGE.replace("$transfer", ""))
    for name in ("comparisons", "bias", "words", "examples", "transfer", "matrices", "training"):
        for study in (STUDY | {name: []}, {k: v for k, v in STUDY.items() if k != name}):
            parts = [e for e in tree(study).iter() if e.tag in ("section", "a")]
            shown = [e.get("id") or e.get("href")[1:] for e in parts]
            assert shown == [n for n in every if n != name] * 2
    least = {key: STUDY[key] for key in ("question", "recipes", "attacks", "table")}
    assert [e.get("id") for e in tree(least).iter("section")] == ["table"]


def test_ink_on_every_shade_has_a_contrast_of_at_least_four_and_a_half():
    """Claim: a heat map's numbers can be read in both schemes. Number: WCAG's 4.5, on 1001 shades.
    Catches: white ink from the middle of the scale on, ink that follows the scheme."""
    for k in range(1001):
        rgb = map(int, re.findall(r"\d+", shade(k / 1000))[:3])
        linear = [((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        light = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
        contrast = {"#fff": 1.05 / light, "#000": light / 0.05}[shade(k / 1000).split("color:")[1]]
        assert contrast >= 4.5, k


def test_pictures_draw_the_numbers_and_tell_lines_apart_without_colour():
    """Claim: a dot at the difference, a ring where not significant; dash, marker, name for each line.
    Number: .01, .02, .04: a third of the bar; sd 1 : 3. Catches: a dot amid, variance, hue alone."""
    rows = [tr for tr in tree(STUDY).iter("tr") if tr.find(".//circle") is not None][:3]
    bars = [(tr.find(".//line[@class='bar']"), tr.find(".//circle")) for tr in rows]
    ends = [(float(b.get("x1")), float(dot.get("cx")), float(b.get("x2"))) for b, dot in bars]
    assert [(b - a) / (c - a) for a, b, c in ends] == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.01)
    assert [dot.get("class") for _, dot in bars] == ["dot", "dot hollow", "dot"]
    assert [text(tr[1]) for tr in rows] == [".020", ".000", "-.020"], "greedy, then clean"
    svg = tree(STUDY).find(".//section[@id='curves']//svg[@role='img']")
    kinds = lambda name: [e for e in svg.iter() if (e.get("class") or "").split(" ")[0] == name]
    assert len({e.get("class").split()[-1] for e in kinds("line")}) == 3
    assert len({e.get("d") for e in kinds("dot")}) == 3
    first, second = (float(e.get("y1")) - float(e.get("y2")) for e in kinds("bar")[:2])
    assert second / first == pytest.approx(3, abs=0.05)  # places are rounded to 0.1
    first, second, third = (float(e.get("y")) for e in svg.iter("text") if "-none" in text(e))
    assert min(second - first, third - second) > 13.9, "the names of equal lines touch"
