"""Draw a study as one page: tables, heat maps, examples, in HTML without any script.

    study (evaluate.make_study) -> render: one .html file; markdown: its two main tables

Where to look next: `render` puts the parts into page.html, which holds all prose and all colours.
Left out on purpose: a plotting library, scripts, anything that is fetched from elsewhere.
"""

import html
import math
import re
from string import Template


def align(lines: list[list[str]]) -> str:
    """Rows of cells -> a Markdown table with aligned columns."""
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (" | ".join(map(str.ljust, line, width)) for line in lines)
    return "\n".join(f"| {row} |" for row in rows)


# ---- the report: numbers and plain tables --------------------------------------------------------

DIGITS = {"rank_distance": 0, "foreign_rank": 1, "minutes": 1, "seconds": 0}  # all others 3
MARKS = {"+": "▲", "-": "▼"}  # significantly above, below the baseline


def digits(value, metric: str = "") -> str:
    """A number as all tables print it: .463, -.012, 1496 for a rank distance, "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    places = DIGITS.get(metric.rpartition(" ")[2], 3)
    text = f"{round(value, places) + 0.0:.{places}f}"  # + 0.0: no "-.000"
    return re.sub(r"^(-?)0\.", r"\1.", text)  # SUBTLE: replace("0.", ".") turns 10.5 into 1.5


def pair(value, metric: str = "") -> str:
    """[mean, standard deviation] or a bare number -> ".463 ±.004", ".463", "-"."""
    mean, spread = value if isinstance(value, (list, tuple)) else (value, None)
    text, more = digits(mean, metric), digits(spread, metric)
    return text if "-" in (text, more) else f"{text} ±{more}"


def main_rows(study: dict) -> list[list[str]]:
    """The main table as text, head first: one row a recipe, attack and set of languages; chance."""
    metrics = list(dict.fromkeys(name for row in study["table"] for name in row["cells"]))
    head = ["recipe", "attack", "languages", "n", *(m.replace("_", " ") for m in metrics)]
    lines = [[*head, "minutes"]]
    for row in study["table"]:
        marks = row.get("marks") or {}
        texts = [pair(row["cells"].get(m), m) + MARKS.get(marks.get(m), "") for m in metrics]
        about = [row["recipe"], row["attack"], row["langs"], str(row.get("n", "-"))]
        lines.append([*about, *texts, digits(row.get("minutes"), "minutes")])
    if "chance" in study.get("about", {}):
        texts = [digits(chance_at(study, m), m) for m in metrics]
        lines.append(["chance", "-", "all", "-", *texts, "-"])
    return lines


def chance_at(study: dict, column: str) -> float | None:
    """What a random ranking gets in a column such as "pool mAP"."""
    view, _, metric = column.partition(" ")
    return study.get("about", {}).get("chance", {}).get(view, {}).get(metric)


def comparison_rows(study: dict) -> list[list[str]]:
    """The comparisons as text, head first."""
    head = "question|a|b|attack|view|metric|a - b|95 % interval|p|p (Holm)|significant|seeds|groups"
    lines = [head.split("|")]
    small = lambda p: "<.001" if p is not None and p < 0.001 else digits(p)
    for c in study.get("comparisons") or ():
        m = c["metric"]
        texts = [c["question"], c["a"], c["b"], c["attack"], c["view"], m.replace("_", " ")]
        texts += [digits(c["difference"], m), f"{digits(c['low'], m)} to {digits(c['high'], m)}"]
        texts += [small(c.get("p")), small(c.get("holm")), "yes" if c["significant"] else "no"]
        lines.append(texts + [str(c.get(k, "-")) for k in ("n_seeds", "n_groups")])
    return lines


def markdown(study: dict) -> str:
    """The main table and the comparisons in Markdown, for a README or an issue."""
    plain = lambda text: re.sub(r"([\\`*_|<>&\[\]])", r"\\\1", " ".join(text.split()))
    tables = [[[*map(plain, row)] for row in f(study)] for f in (main_rows, comparison_rows)]
    found = [align([t[0], ["---"] * len(t[0]), *t[1:]]) for t in tables if t[1:]]
    return "\n\n".join(found) + "\n"


# ---- the report: elements ------------------------------------------------------------------------

RIGHT_TO_LEFT = ("ar", "fa", "he", "ur")
SHADES = ((247, 251, 255), (158, 202, 225), (49, 130, 189), (8, 48, 107))  # RGB, low to high


def safe(text) -> str:
    """Text as XML can hold it: escaped, and no control characters."""
    legal = re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", str(text))
    return html.escape(legal)


def tag(name: str, *content: str, **attributes) -> str:
    """An element; content is markup. Attributes are text: `class_` is class, None is left out."""
    pairs = [(k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None]
    inside = "".join(f' {key}="{safe(value)}"' for key, value in pairs)
    return f"<{name}{inside}>{''.join(content)}</{name}>"


def speech(markup: str, lang: str, name: str = "span", **attributes) -> str:
    """Foreign text, escaped before, with its language and its direction."""
    arabic = re.search("[\u0590-\u08ff]", markup)  # SUBTLE: "+33" alone would turn into "33+"
    side = "rtl" if arabic and lang.split("-")[0] in RIGHT_TO_LEFT else "ltr"
    return tag(name, markup, lang=lang, dir=side, **attributes)


def signed(text: str) -> str:
    """A number whose mark, if any, has its own place: numbers stay below each other."""
    bare = text.rstrip("▲▼")
    kind = {"▲": "sign up", "▼": "sign down"}.get(text[len(bare) :], "sign")
    return safe(bare) + tag("span", text[len(bare) :], class_=kind)


def grid(caption: str, head: list[str], rows: list, kind: str = "w1") -> str:
    """A table in a box that scrolls by itself. Cells are markup; a lone string heads a group.

    The first k columns of kind "wk" hold words, the others numbers.
    """
    lines = []
    for row in rows:
        if isinstance(row, str):
            wide = tag("th", tag("span", row), colspan=len(head), scope="colgroup")
            lines.append(tag("tr", wide, class_="group"))
        else:
            cells = [tag("td", cell) for cell in row[1:]]
            lines.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = tag("table", top, tag("tbody", *lines), class_=kind)
    return tag("figure", tag("figcaption", caption), tag("div", body, class_="wide", tabindex="0"))


def shade(share: float) -> str:
    """CSS of a heat map's cell: its colour, and black or white ink, whichever has more contrast.

    contrast = (L + .05) / .05 in black, 1.05 / (L + .05) in white; equal, 4.58, at L = .179.
    *Source*: WCAG 2.2, relative luminance and contrast ratio (4.5 asked for).
    """
    place = min(max(share, 0), 1) * (len(SHADES) - 1)
    k = min(int(place), len(SHADES) - 2)
    rgb = [round(a + (b - a) * (place - k)) for a, b in zip(SHADES[k], SHADES[k + 1], strict=True)]
    r, g, b = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb)
    ink = "#000" if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 else "#fff"
    return f"background:rgb({rgb[0]},{rgb[1]},{rgb[2]});color:{ink}"


def heats(maps: list, metric: str) -> str:
    """Heat maps [(caption, names down, names across, values)] on one scale, which stands above.

    *Shapes*: values (down, across); None where unknown.
    """
    every = [v for *_, values in maps for row in values for v in row if v is not None] or [0]
    low, width = min(every), max(every) - min(every)
    box = lambda v: tag("span", digits(v, metric), style=None if v is None else ink(v))
    ink = lambda v: shade((v - low) / (width or 1))
    found = []
    for caption, down, across, values in maps:
        upright = " turn" * (max(map(len, across)) > 3)
        rows = [[safe(n), *map(box, row)] for n, row in zip(down, values, strict=True)]
        head = ["", *(tag("span", safe(name)) for name in across)]
        found.append(grid(caption, head, rows, "heat" + upright))
    legend = [box(low + width * k / 4) for k in range(5)]
    return tag("p", *legend, class_="scale") + tag("div", *found, class_="many")


def ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """About `count` round numbers (1, 2 or 5 times a power of ten) in [low, high], with labels."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    values = [k * step for k in range(first, last + 1)]
    return [(v, re.sub(r"^(-?)0\.", r"\1.", f"{v:.6g}")) for v in values]


def strip(low: float, high: float, bar=(None,), dots=(), labels: bool = False) -> str:
    """One row of a forest plot: a bar (from, to), dots [(value, filled)], ticks, a line at zero."""
    x = lambda v: f"{14 + 212 * (v - low) / ((high - low) or 1):.1f}"
    marks = []
    for t, label in ticks(low, high):
        kind = "rule" if abs(t) > 1e-12 else "zero"
        marks.append(tag("line", x1=x(t), x2=x(t), y1=18 if labels else 0, y2=22, class_=kind))
        marks += [tag("text", label, x=x(t), y=13, text_anchor="middle")] * labels
    if None not in bar:
        marks.append(tag("line", x1=x(bar[0]), x2=x(bar[1]), y1=11, y2=11, class_="bar"))
    for value, filled in dots:
        if value is not None:
            kind = "dot" if filled else "dot hollow"
            marks.append(tag("circle", cx=x(value), cy=11, r=4, class_=kind))
    return tag("svg", *marks, viewBox="0 0 240 22", class_="strip", aria_hidden="true")


# ---- the report: its parts, each "" without data -------------------------------------------------

# One table each: recipes down, attacks across; every other number is in the table behind them
MAIN = (("pool mAP", "all"), ("mono mAP", "all"), ("cross mAP", "all"), ("pool mAP", "untrained"))


def part_answer(study: dict) -> str:
    """The answer in sentences, and what it rests on."""
    about = study.get("about", {})
    said = [tag("p", safe(sentence)) for sentence in study.get("answer") or ()]
    forms = {"data": "{}", "split": "{} split", "n_queries": "{:,} queries"}
    forms |= {"n_passages": "{:,} passages", "n_groups": "{:,} groups"}
    facts = [form.format(about[k]) for k, form in forms.items() if about.get(k) is not None]
    facts += ["languages " + " ".join(names) for names in [about.get("languages")] if names]
    facts += [f"{name} {version}" for name, version in about.get("versions", {}).items()]
    notes = [tag("p", safe(t), class_="note") for t in (", ".join(facts), about.get("note")) if t]
    return tag("div", *said, class_="said") * bool(said) + "".join(notes)


def part_table(study: dict) -> str:
    """Recipes down, attacks across, a table a metric; every number in a long table behind them."""
    rank = {name: k for k, name in enumerate([*study["recipes"], *study["attacks"]])}
    order = lambda names: sorted(dict.fromkeys(names), key=lambda n: rank.get(n, len(rank)))
    found = []
    for metric, langs in MAIN:
        rows = [r for r in study["table"] if r["langs"] == langs and metric in r["cells"]]
        recipes, attacks = order(r["recipe"] for r in rows), order(r["attack"] for r in rows)
        texts = {}
        for r in rows:
            mark = MARKS.get((r.get("marks") or {}).get(metric), "")
            texts[r["recipe"], r["attack"]] = pair(r["cells"][metric], metric) + mark
        lines = [[safe(n), *(signed(texts.get((n, a), "-")) for a in attacks)] for n in recipes]
        lines.append(["chance", *[signed(digits(chance_at(study, metric), metric))] * len(attacks)])
        counts = sorted({r.get("n", 1) for r in rows})
        seeds = " to ".join(map(str, dict.fromkeys(counts[:1] + counts[-1:])))
        title = tag("b", safe(metric)) + f", queries of {langs} languages, n = {seeds} seeds"
        found += [grid(title, ["recipe", *map(safe, attacks)], lines)] * bool(rows)
    return "".join(found) * bool(study["table"])


def forests(rows: list) -> str:
    """A forest plot a metric, drawn in the rows of its table, grouped by attack and view."""
    found = []
    for metric in dict.fromkeys(c["metric"] for c, _ in rows):
        mine = [row for row in rows if row[0]["metric"] == metric]
        ends = [c[k] for c, _ in mine for k in ("low", "difference", "high") if c[k] is not None]
        span, groups = (min([0, *ends]), max([0, *ends])), {}
        for c, t in mine:
            dot, strong = [(c["difference"], c["significant"])], "b" if c["significant"] else "span"
            plot = strip(*span, (c["low"], c["high"]), dot)
            name = safe(t[0]) + tag("small", safe(f"{t[1]} minus {t[2]}"))
            cells = [name, tag(strong, safe(t[6])), plot, *map(safe, t[7:10] + t[11:])]
            groups.setdefault(safe(f"{c['attack']}, {c['view']}"), []).append(cells)
        lines = [line for group, members in groups.items() for line in (group, *members)]
        rest = ["95 % interval", "p", "p (Holm)", "seeds", "groups"]
        head = ["comparison", "a - b", strip(*span, labels=True), *rest]
        found.append(grid(tag("b", safe(metric.replace("_", " "))), head, lines, "w1 forest"))
    return "".join(found)


def part_comparisons(study: dict) -> str:
    """Forest plots: batchings under plain training in sight, the many others behind a click."""
    rows = list(zip(study.get("comparisons") or (), comparison_rows(study)[1:], strict=True))
    first = [row for row in rows if row[0]["question"].endswith(", none")] or rows
    rest = [row for row in rows if row not in first]
    more = tag("details", tag("summary", f"{len(rest)} more: robust training"), forests(rest))
    return forests(first) + more * bool(rest)


def part_matrices(study: dict) -> str:
    """Heat maps of query language by passage language, one scale a metric."""
    maps = {}
    for m in study.get("matrices") or ():
        seeds = f", n = {m['n']}" if m.get("n") else ""
        caption = tag("b", safe(m["recipe"])) + safe(f", {m['attack']}, {m['metric']}{seeds}")
        maps.setdefault(m["metric"], []).append((caption, m["langs"], m["langs"], m["values"]))
    return "".join(heats(group, metric) for metric, group in maps.items())


def columns(rows: list[dict], caption: str) -> str:
    """A table of recipes and attacks; columns: whatever numbers the rows hold."""
    names = dict.fromkeys(k for r in rows for k, v in r.items() if v is not None)
    names = [name for name in names if name not in ("recipe", "attack")]
    line = lambda r: [safe(r["recipe"]), safe(r["attack"]), *(pair(r.get(k), k) for k in names)]
    head = ["recipe", "attack", *(safe(name.replace("_", " ")) for name in names)]
    return grid(tag("b", safe(caption)), head, [*map(line, rows)], "w2") * bool(rows)


def part_bias(study: dict) -> str:
    """Does the pool prefer the query's own language?"""
    return columns(study.get("bias") or [], "Pool")


def part_strength(study: dict) -> str:
    """What each attack changed and broke."""
    return columns(study.get("strength") or [], "Attacked queries")


def part_robust(study: dict) -> str:
    """R@1 that no attack of the suite breaks."""
    groups = {}
    for r in study.get("robust_r1") or ():
        ends = [(r[key] or [None])[0] for key in ("robust", "clean")]
        plot = strip(0, 1, ends, [(ends[1], False), (ends[0], True)])
        cells = [safe(r["recipe"]), pair(r["clean"]), pair(r["robust"]), plot]
        groups.setdefault(r["view"], []).append(cells)
    lines = [line for group, members in groups.items() for line in (safe(group), *members)]
    head = ["recipe", "clean (ring)", "robust (dot)", strip(0, 1, labels=True)]
    return grid(tag("b", "R@1") + ", clean and robust", head, lines, "w1 forest") if lines else ""


def change(old: str, new: str) -> str:
    """A word taken out and the word put in, which may be of another script."""
    gone, come = tag("del", safe(old)) * bool(old), tag("ins", safe(new), dir="auto") * bool(new)
    return gone + come


def part_examples(study: dict) -> str:
    """Attacked queries, every edit marked in its place."""
    found = []
    for e in study.get("examples") or ():
        at, pieces = 0, []
        for start, end, new in sorted(e["edits"]):
            assert at <= start <= end, f"{e['id']}: edits overlap: {e['edits']}"
            pieces += [safe(e["text"][at:start]), change(e["text"][start:end], new)]
            at = end
        text = speech("".join(pieces) + safe(e["text"][at:]), e["lang"], "p", class_="query")
        rank = "\xa0→\xa0".join(str(e.get(k) or "-") for k in ("before", "after"))
        about = ", ".join(e[key] for key in ("id", "view", "attack", "recipe"))
        answer = ["; answer: ", speech(safe(e["answer"]), e["lang"])] if e.get("answer") else []
        below = tag("p", f"{safe(about)}; rank\xa0{rank}", *answer, class_="note")
        found.append(tag("article", text, below))
    return "".join(found)


def part_runs(study: dict) -> str:
    """Manifests of the runs, and the commands that give every number again."""
    flat = lambda d: " ".join(f"{k}={v}" for k, v in (d or {}).items())
    keys, lines = ("name", "commit", "device", "versions", "flags", "data_sha256", "seed"), []
    for r in study.get("runs") or ():
        found = [flat(r[k]) if isinstance(r.get(k), dict) else r.get(k, "-") for k in keys]
        found[5] = found[5][:12]
        lines.append([*map(safe, found), digits(r.get("seconds"), "seconds")])
    table = grid(
        "One row a run", [*(k.replace("_", " ") for k in keys), "seconds"], lines, "w6 runs"
    )
    commands = tag("pre", safe("\n".join(study.get("commands") or ())))
    runs = tag("details", tag("summary", f"{len(lines)} runs"), table)
    return runs * bool(lines) + commands * bool(study.get("commands"))


def render(study: dict, template: str) -> str:
    """The study as one HTML page without script or outside reference; the frame is page.html.

    The frame holds the prose: a <section> and a line of the contents for each part. What has no
    data is cut out of both; CSS counts what is left.
    *Errors*: ValueError for a frame that has no place for a part.
    """
    parts = {
        "answer": part_answer, "table": part_table, "comparisons": part_comparisons,
        "matrices": part_matrices, "bias": part_bias, "strength": part_strength,
        "robust": part_robust, "examples": part_examples, "runs": part_runs,
    }  # fmt: skip
    if lost := [name for name in parts if f"${name}" not in template]:
        raise ValueError(f"page.html: no place for {lost}. Write ${lost[0]} in a section.")
    found = {name: part(study) for name, part in parts.items()}
    for name in [name for name, content in found.items() if not content]:
        template = re.sub(rf'<li><a href="#{name}">.*?</li>\s*', "", template)
        template = re.sub(rf'(?s)<section id="{name}">.*?</section>\s*', "", template)
    rule = study.get("about", {}).get("baseline_rule", "the baseline")
    found |= {"title": safe(study["question"]), "baseline": safe(rule)}
    return Template(template).substitute(found)
