"""Rung 7, continued: pairs of sentences to classify, line i the same pair in every language.

Builds: data/pairs_files.py, data/paws_x/prepare.py, data/xnli/prepare.py.
Before: test_07_xquad_r. Run: pytest tests/test_07_pairs_data.py
(Nothing is fetched: the tests write tiny files and archives of the same layout.)
"""

import tarfile
import zipfile
import zlib

import pytest

from data import pairs_files
from data.paws_x import prepare as paws_x
from data.xnli import prepare as xnli

HEADER = "sentence1\tsentence2\tlabel\n"


def write(path, *lines):
    """A file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")


def written(out):
    """Name -> text, of all that was written."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(out.rglob("*.tsv"))}


# ---- a text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"""Night"" is a film."', '"Night" is a film.'),
        ('"He sang ""Dawn"" and ""Dusk""."', 'He sang "Dawn" and "Dusk".'),
        ('"Night" is as dark as "Day"', '"Night" is as dark as "Day"'),
        ('"Night falls."', '"Night falls."'),
        ('"Night" and ""Day"', '"Night" and ""Day"'),
        ("Night", "Night"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_the_quotes_of_csv_are_undone_and_no_others(cell, text):
    """Claim: outer quotes go where inner ones are doubled, all of them.

    Number: by CSV's rule; the next three cells no CSV writer makes out of any text.
    Catches: strip('"'), which takes the text's own quotes at its end; every '\"\"' halved.
    """
    assert pairs_files.unquoted(cell) == text


def test_a_cell_is_one_line_for_every_reader():
    """Claim: whatever str.splitlines takes for the end of a line becomes a blank.

    Number: the characters of Python's documentation, but for the line feed.
    Catches: "\\x1c" of the Korean file, after which its lines are one behind.
    """
    breaks = [chr(code) for code in range(0x3000) if len(f"a{chr(code)}b".splitlines()) == 2]
    assert sorted(breaks) == sorted(pairs_files.LINE_BREAKS + "\n")
    assert pairs_files.without_breaks("a\x1cb\u2028c\x85") == "a b c "


# ---- groups of sentences, for --from-dev ---------------------------------------------------------


def english_pairs(*sentences):
    """Pairs of these two sentences each."""
    pairs = []
    for number, (sentence1, sentence2) in enumerate(sentences):
        pairs.append(pairs_files.Pair(str(number), sentence1, sentence2, "0", f"x:{number}"))
    return pairs


def test_pairs_that_share_words_are_one_group():
    """Claim: a shared sentence joins pairs, so does its scrambled twin, so does a third pair.

    Number: A-B, C-D, then D-A joins the first two; "cats eat mice" and "Mice eat cats ." are one.
    The name is the first sentence in the file, though D-A makes C the leader of A.
    Catches: groups by sentence 1 alone; a third pair that joins without renaming.
    """
    pairs = english_pairs(
        ("A one", "B one"),
        ("C one", "D one"),
        ("Cats eat mice", "Dogs bark"),
        ("D one", "A one"),
        ("It rains .", "Mice eat cats ."),
        ("E one", "F one"),
    )
    assert pairs_files.group_names(pairs) == [
        "A one", "A one", "Cats eat mice", "A one", "Cats eat mice", "E one",
    ]  # fmt: skip


def test_half_of_the_groups_is_for_training():
    """Number: CRC-32 of the name, from Python's zlib, modulo ten: 3, 5 and 9.

    Catches: hash(), which is another one in every process; train and test exchanged.
    """
    names = [("1", 2212294583, "train"), ("12", 1330857165, "dev"), ("0", 4108050209, "test")]
    for name, crc, split in names:
        assert zlib.crc32(name.encode()) == crc
        assert pairs_files.split_of(name) == split
    splits = [pairs_files.split_of(str(number)) for number in range(4000)]
    for split, tenths in [("train", 5), ("dev", 1), ("test", 4)]:
        share = splits.count(split) / 4000
        assert abs(share - tenths / 10) < 0.025, "three standard deviations of .008"


# ---- PAWS-X as published -------------------------------------------------------------------------

PAWS_HEADER = "id\tsentence1\tsentence2\tlabel"
PAWS_OUTPUT = {
    "train-en.tsv": HEADER + "Rain falls\tIt rains\t1\n" + 'He said "no"\t"No" he said\t1\n',
    "dev-de.tsv": HEADER + "Hund beißt Mann\tMann beißt Hund\t0\n" + '"Nacht" kam\tEs kam\t1\n',
    "dev-en.tsv": HEADER + "Dog bites man\tMan bites dog\t0\n" + "Night came\tIt came\t1\n",
    "test-de.tsv": HEADER + "Sie las\tSie schrieb\t0\n",
    "test-en.tsv": HEADER + "She read\tShe wrote\t0\n",
}


@pytest.fixture
def x_final(tmp_path, monkeypatch):
    """English and German; German in another order, one pair of dev and one of test without text."""
    source = tmp_path / "x-final"
    train = ["7\tRain falls\tIt rains\t1", "8\tNS\tIt snows\t0", '9\tHe said "no"\t"No" he said\t1']
    write(source / "en/train.tsv", PAWS_HEADER, *train)
    write(
        source / "en/dev_2k.tsv",
        PAWS_HEADER,
        "31\tDog bites man\tMan bites dog\t0",
        "35\tShe slept\tShe was asleep\t1",
        "32\tNight came\tIt came\t1",
    )
    write(
        source / "de/dev_2k.tsv",
        PAWS_HEADER,
        '32\t"""Nacht"" kam"\tEs kam\t1',
        "31\tHund beißt Mann\tMann beißt Hund\t0",
        "35\tSie schlief\tns\t0",
    )
    test = ["1\tShe read\tShe wrote\t0", "2\tHe ran\tHe was running\t1", "3\tOne\tTwo\t0"]
    write(source / "en/test_2k.tsv", PAWS_HEADER, *test)
    test = ["1\tSie las\tSie schrieb\t0", "2\t\tEr lief\t1", "3\tWL\tZwei\t0"]
    write(source / "de/test_2k.tsv", PAWS_HEADER, *test)
    monkeypatch.setattr(paws_x, "LANGUAGES", ("de", "en"))
    monkeypatch.setattr(paws_x, "TRAIN_PAIRS", 3)
    monkeypatch.setattr(paws_x, "EVALUATION_PAIRS", 3)
    return source


def test_paws_x_becomes_one_file_a_split_and_language(x_final, tmp_path, capsys):
    """Claim: line i is the same pair, by id; what one language lacks leaves all of them.

    Number: the files above by hand. Pair 35 is "ns" in German, with the label 0 instead of 1.
    Catches: lines by position; "NS" as a sentence; a pair left out in German alone; labels
    compared before the pairs without text are out.
    """
    out = tmp_path / "out"
    assert paws_x.main(["--source", str(x_final), "--out", str(out)]) == 0
    assert written(out) == PAWS_OUTPUT
    printed = capsys.readouterr().out
    assert "dev   de          3         1       0        1" in printed
    assert "test  de          3         0       0        2" in printed
    assert "train en          3         0       0        1" in printed
    assert "dev: 2 pairs in de en; 0 50.0%, 1 50.0%" in printed


def pack(x_final, path, left_out="nothing"):
    """x-final as a .tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(x_final.rglob("*.tsv")):
            if file.name != left_out:
                archive.add(file, f"x-final/{file.relative_to(x_final)}")
    return path


def test_the_archive_of_paws_x_is_fetched_and_opened(x_final, tmp_path, monkeypatch):
    """Claim: without --source the same files. Catches: names that differ inside the archive."""
    archive = pack(x_final, tmp_path / "x.tar.gz")
    monkeypatch.setattr(paws_x, "URL", archive.as_uri())
    assert paws_x.main(["--out", str(tmp_path / "out")]) == 0
    assert written(tmp_path / "out") == PAWS_OUTPUT


def test_an_archive_that_is_not_whole_is_refused(x_final, tmp_path, monkeypatch, capsys):
    """Claim: exit 1, one line, nothing written: cut off, of another kind, a file not in it, no
    network.

    Number: half of the archive; port 9 of this machine, where nothing answers.
    Catches: an EOFError or a KeyError with its traceback.
    """
    whole = pack(x_final, tmp_path / "x.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.tar.gz").write_text("<html>moved</html>")
    pack(x_final, tmp_path / "less.tar.gz", left_out="test_2k.tsv")
    cases = [
        ((tmp_path / "half.tar.gz").as_uri(), "x-final.tar.gz: is no whole archive"),
        ((tmp_path / "page.tar.gz").as_uri(), "x-final.tar.gz: is no whole archive"),
        ((tmp_path / "less.tar.gz").as_uri(), "x-final/de/test_2k.tsv is not in it"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x: could not be fetched"),
    ]
    for url, message in cases:
        monkeypatch.setattr(paws_x, "URL", url)
        assert paws_x.main(["--out", str(tmp_path / "out")]) == 1
        printed = capsys.readouterr().err
        assert message in printed
        assert "Download https://storage.googleapis.com/" in printed
        assert printed.count("\n") == 2, "what is fetched, what is wrong"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("de/dev_2k.tsv", None, None, "de/dev_2k.tsv: could not be read (No such file"),
        ("de/dev_2k.tsv", "\tlabel", "\tgold", "de/dev_2k.tsv:1: columns missing in the header"),
        ("de/dev_2k.tsv", "Hund\t0", "Hund", "de/dev_2k.tsv:3: 3 columns, expected 4"),
        ("de/dev_2k.tsv", "Hund beißt", "Hund\tbeißt", "de/dev_2k.tsv:3: 5 columns, expected 4"),
        ("de/dev_2k.tsv", "Hund beißt", "Hund\nbeißt", "de/dev_2k.tsv:3: 2 columns, expected 4"),
        ("de/dev_2k.tsv", "Hund\t0", "Hund\t2", "de/dev_2k.tsv:3: label '2', expected one of 0, 1"),
        ("de/dev_2k.tsv", "35\tSie schlief\tns\t0\n", "", "de/dev_2k.tsv: pairs: expected 3, fou"),
        ("de/dev_2k.tsv", "35\t", "36\t", "en/dev_2k.tsv:3: pair '35' is not in "),
        ("de/dev_2k.tsv", "35\t", "31\t", "de/dev_2k.tsv:4: pair '31' is already in "),
        ("de/test_2k.tsv", "las\tSie schrieb\t0", "las\tSie schrieb\t1", "label 1, but 0 in "),
    ],
)
def test_a_file_of_paws_x_that_is_not_as_published_is_refused(
    x_final, tmp_path, capsys, name, old, new, message
):
    """Claim: exit 1 and one line: file, line, value, where to have it; nothing is written.

    Number: one thing broken at a time; German pair 31 is in line 3.
    Catches: zip(), which stops at the shorter file; a label 2; a language that is not there.
    """
    path = x_final / name
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if old is not None:
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")
    assert paws_x.main(["--source", str(x_final), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert message in printed
    assert "Download https://" in printed
    assert not (tmp_path / "out").exists()


def test_languages_that_disagree_are_both_named(x_final, tmp_path, capsys):
    """Claim: both files and lines. Number: "Es kam" is line 2 in German, its English line 4.

    Catches: a message from which nobody learns which of the two to look at.
    """
    path = x_final / "de/dev_2k.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("kam\t1", "kam\t0"), encoding="utf-8")
    assert paws_x.main(["--source", str(x_final), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert f"{path}:2: label 0, but 1 in {x_final / 'en/dev_2k.tsv'}:4," in printed


def test_bytes_that_are_no_text_are_refused_with_their_line(x_final, tmp_path, capsys):
    """Number: 0xff, never a byte of UTF-8, in the third line. Catches: "position 31"."""
    path = x_final / "de/dev_2k.tsv"
    path.write_bytes(path.read_bytes().replace(b"Hund", b"\xffund"))
    assert paws_x.main(["--source", str(x_final), "--out", str(tmp_path / "out")]) == 1
    assert f"{path}:3: is not UTF-8" in capsys.readouterr().err


# ---- PAWS-X out of dev ---------------------------------------------------------------------------


def group_of_split(split, start):
    """A sentence, from number `start` on, whose group is in that split; by zlib, not by our code."""
    tenths = {"train": range(5), "dev": range(5, 6), "test": range(6, 10)}
    number = start
    while zlib.crc32(f"Sentence s{number} .".encode()) % 10 not in tenths[split]:
        number += 1
    return f"Sentence s{number} ."


def test_small_splits_share_no_english_sentence(tmp_path, monkeypatch, capsys):
    """Claim: groups stay together; train is English alone and keeps pairs that German lacks.

    Number: the test group has two pairs, by its scrambled twin; of dev's two groups German lacks
    one; "NS" in German leaves train alone.
    Catches: pairs split one by one; a German train file; train without the pair that German lacks.
    """
    train, test = group_of_split("train", 0), group_of_split("test", 100)
    dev, lacking = group_of_split("dev", 200), group_of_split("dev", 300)
    twin = " ".join(reversed(test.split()))
    english = [(test, "It rains"), (train, "It snows"), (dev, "It pours")]
    english += [("It hails", twin), (lacking, "It thaws"), ("It snows", "So cold")]
    german = ["Test1", "NS", "Dev\x1c", "Test2", "NS", "Train2"]
    write(tmp_path / "dev-en.tsv", *[f"{one}\t{two}\t1" for one, two in english])
    write(tmp_path / "dev-de.tsv", *[f'{text}\t"Es ""so"""\t1' for text in german])
    monkeypatch.setattr(paws_x, "LANGUAGES", ("de", "en"))
    monkeypatch.setattr(paws_x, "EVALUATION_PAIRS", 6)
    out = tmp_path / "out"
    assert paws_x.main(["--from-dev", "--source", str(tmp_path), "--out", str(out)]) == 0
    assert written(out) == {
        "train-en.tsv": HEADER + f"{train}\tIt snows\t1\nIt snows\tSo cold\t1\n",
        "dev-en.tsv": HEADER + f"{dev}\tIt pours\t1\n",
        "dev-de.tsv": HEADER + 'Dev \tEs "so"\t1\n',
        "test-en.tsv": HEADER + f"{test}\tIt rains\t1\nIt hails\t{twin}\t1\n",
        "test-de.tsv": HEADER + 'Test1\tEs "so"\t1\nTest2\tEs "so"\t1\n',
    }
    printed = capsys.readouterr().out
    assert "dev   de          6         6       1        2" in printed
    assert "not the published protocol" in printed


def test_files_of_another_run_are_not_mixed_with_new_ones(x_final, tmp_path, capsys):
    """Claim: exit 1; nothing is written and nothing deleted.

    Number: French, which this run does not write; a second run with the same flags is fine.
    Catches: dev-fr.tsv of the published splits beside the others of --from-dev.
    """
    out = tmp_path / "out"
    flags = ["--source", str(x_final), "--out", str(out)]
    assert paws_x.main(flags) == 0
    assert paws_x.main(flags) == 0
    write(out / "pairs/dev-fr.tsv", "old")
    write(out / "pairs/dev-de.tsv", "old")
    assert paws_x.main(flags) == 1
    assert f"{out / 'pairs/dev-fr.tsv'}: is of another run" in capsys.readouterr().err
    assert written(out)["dev-de.tsv"] == "old\n"


# ---- XNLI ----------------------------------------------------------------------------------------

# Columns that nobody needs, in another order than ours, as published
XNLI_HEADER = "language\tgold_label\tparse\tsentence1\tsentence2\tpromptID\tpairID"
XNLI_OUTPUT = {
    "train-en.tsv": HEADER + "He ate\tHe fasted\tcontradiction\nShe sang\tIt was late\tneutral\n",
    "dev-de.tsv": HEADER + "Sie kam\tSie ging\tcontradiction\nSie kam\tEs regnet\tneutral\n",
    "dev-en.tsv": HEADER + "She came\tShe left\tcontradiction\nShe came\tIt rains\tneutral\n",
    "test-de.tsv": HEADER + 'Er "las"\tEr konnte es\tentailment\n',
    "test-en.tsv": HEADER + 'He ""read""\tHe could\tentailment\n',
}


def xnli_row(lang, label, sentence1, sentence2, pair):
    """A line of xnli.dev.tsv."""
    return f"{lang}\t{label}\t(x)\t{sentence1}\t{sentence2}\t{pair}0\t{pair}"


@pytest.fixture
def xnli_source(tmp_path, monkeypatch):
    """English and German, whose pairs stand in another order, in the folders of the archives."""
    source = tmp_path / "source"
    write(
        source / "XNLI-MT-1.0/multinli/multinli.train.en.tsv",
        "premise\thypo\tlabel",
        "He ate\tHe fasted\tcontradictory",
        "She sang\tIt was late\tneutral",
    )
    write(
        source / "XNLI-1.0/xnli.dev.tsv",
        XNLI_HEADER,
        xnli_row("de", "neutral", "Sie kam", "Es regnet", 12),
        xnli_row("en", "contradiction", "She came", "She left", 5),
        xnli_row("en", "neutral", "She came", "It rains", 12),
        xnli_row("de", "contradiction", "Sie kam", "Sie ging", 5),
    )
    write(
        source / "XNLI-1.0/xnli.test.tsv",
        XNLI_HEADER,
        xnli_row("en", "entailment", 'He ""read""', "He could", 1),
        xnli_row("de", "entailment", 'Er "las"', "Er konnte es", 1),
    )
    monkeypatch.setattr(xnli, "LANGUAGES", ("de", "en"))
    monkeypatch.setattr(xnli, "PAIRS", {"train": 2, "dev": 2, "test": 1})
    return source


def test_xnli_becomes_one_file_a_split_and_language(xnli_source, tmp_path, capsys):
    """Claim: pairs meet by pairID, in English order; labels of train are spelled as those of dev.

    Number: the files above by hand; pair 5 comes before 12 although "12" < "5" as a text.
    Catches: position instead of id; "contradictory" as a fourth label; a file for train-de.
    """
    out = tmp_path / "out"
    assert xnli.main(["--source", str(xnli_source), "--out", str(out)]) == 0
    assert written(out) == XNLI_OUTPUT
    assert "dev: 2 pairs in de en; contradiction 50.0%, neutral 50.0%" in capsys.readouterr().out


def zipped(source, folder):
    """The two archives of XNLI."""
    for name in ("XNLI-1.0", "XNLI-MT-1.0"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for file in sorted((source / name).rglob("*.tsv")):
                archive.write(file, file.relative_to(source))
    return folder.as_uri()


def test_the_archives_of_xnli_are_fetched_and_opened(xnli_source, tmp_path, monkeypatch, capsys):
    """Claim: without --source the same files; half an archive is refused in one line.

    Catches: names that differ inside the archives; a BadZipFile with its traceback.
    """
    monkeypatch.setattr(xnli, "URL", zipped(xnli_source, tmp_path))
    assert xnli.main(["--out", str(tmp_path / "out")]) == 0
    assert written(tmp_path / "out") == XNLI_OUTPUT
    whole = (tmp_path / "XNLI-1.0.zip").read_bytes()
    (tmp_path / "XNLI-1.0.zip").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert xnli.main(["--out", str(tmp_path / "second")]) == 1
    printed = capsys.readouterr().err
    assert "XNLI-1.0.zip: is no whole archive" in printed
    assert "Download https://dl.fbaipublicfiles.com/XNLI/XNLI-1.0.zip" in printed
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tpairID", "\tid", "xnli.dev.tsv:1: columns missing in the header"),
        ("de\tneutral", "xx\tneutral", "xnli.dev.tsv:2: language 'xx', expected one of de, en"),
        ("de\tcon", "en\tcon", "xnli.dev.tsv: pairs in de: expected 2, found 1"),
        ("de\tcontradiction", "de\t-", "xnli.dev.tsv:5: label '-', expected one of entailment,"),
        ("de\tcontradiction", "de\tneutral", "xnli.dev.tsv:5: label neutral, but contradiction"),
        ("\t120\t12", "\t120\t5", "xnli.dev.tsv:5: pair '5' is already in "),
        ("\t120\t12", "\t120\t6", "xnli.dev.tsv:4: pair '12' is not in "),
        ("\t50\t5", "\t50", "xnli.dev.tsv:3: 6 columns, expected 7"),
    ],
)
def test_a_file_of_xnli_that_is_not_as_published_is_refused(
    xnli_source, tmp_path, capsys, old, new, message
):
    """Claim: exit 1 and one line: file, line, value, where to have it; nothing is written.

    Number: one thing broken at a time, in its first line of that kind.
    Catches: a language without pairs; labels of another language that nobody compared.
    """
    path = xnli_source / "XNLI-1.0/xnli.dev.tsv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")
    assert xnli.main(["--source", str(xnli_source), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert message in printed
    assert "Download https://" in printed
    assert not (tmp_path / "out").exists()


def test_the_files_of_xnli_are_found_at_any_depth_but_once(xnli_source, tmp_path, capsys):
    """Claim: both unpacked folders, or the bare files; two of a name are refused, so is none.

    Catches: the one that happens to come first.
    """
    flags = ["--source", str(xnli_source), "--out", str(tmp_path / "out")]
    dev = xnli_source / "XNLI-1.0/xnli.dev.tsv"
    moved = dev.rename(xnli_source / "xnli.dev.tsv")
    assert xnli.main(flags) == 0
    dev.write_bytes(moved.read_bytes())
    assert xnli.main(flags) == 1
    assert "expected one xnli.dev.tsv in it or below, found /" in capsys.readouterr().err
    dev.unlink()
    moved.unlink()
    assert xnli.main(flags) == 1
    assert "expected one xnli.dev.tsv in it or below, found none" in capsys.readouterr().err


def test_the_pairs_of_a_premise_stay_together(tmp_path, monkeypatch):
    """Claim: of XNLI's dev, all pairs of a premise are in one split.

    Number: one premise for each split, three pairs each; nine lines of nine hypotheses.
    Catches: pairs split one by one, so that a premise is trained on and tested on.
    """
    premises = [group_of_split(split, 0) for split in ("test", "train", "dev")]
    labels = ["neutral", "contradiction", "entailment"]
    for lang in ("en", "de"):
        lines = []
        for number, premise in enumerate(premises):
            for label in labels:
                lines.append(f"{premise}\tIt is {label} {number} in {lang}\t{label}")
        write(tmp_path / f"dev-{lang}.tsv", *lines)
    monkeypatch.setattr(xnli, "DEV_LANGUAGES", ("de", "en"))
    monkeypatch.setattr(xnli, "PAIRS", {"train": 1, "dev": 9, "test": 1})
    out = tmp_path / "out"
    assert xnli.main(["--from-dev", "--source", str(tmp_path), "--out", str(out)]) == 0
    files = written(out)
    assert sorted(files) == [
        "dev-de.tsv", "dev-en.tsv", "test-de.tsv", "test-en.tsv", "train-en.tsv",
    ]  # fmt: skip
    for number, split in enumerate(("test", "train", "dev")):
        expected = ""
        for label in labels:
            expected += f"{premises[number]}\tIt is {label} {number} in en\t{label}\n"
        assert files[f"{split}-en.tsv"] == HEADER + expected


def test_languages_of_unequal_length_are_both_named(tmp_path, monkeypatch, capsys):
    """Claim: a pair that only one language has is named with both files.

    Number: three English lines, two German ones, and the other way round; the count that was
    published, which would be refused first, is not asked here.
    Catches: the third pair dropped without a word.
    """
    monkeypatch.setattr(xnli, "expect", lambda *arguments: None)
    monkeypatch.setattr(xnli, "DEV_LANGUAGES", ("de", "en"))
    paths = {lang: tmp_path / f"dev-{lang}.tsv" for lang in ("de", "en")}
    for longer, shorter in (("en", "de"), ("de", "en")):
        write(paths[longer], *["a\tb\tneutral"] * 3)
        write(paths[shorter], *["a\tb\tneutral"] * 2)
        flags = ["--from-dev", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
        assert xnli.main(flags) == 1
        printed = capsys.readouterr().err
        expected = f"{paths[longer]}:3: pair '3' is not in {paths[shorter]} (3 pairs here, 2 there)"
        assert expected in printed
        assert "Give dev-LANG.tsv of all eleven languages as --source" in printed


# ---- both ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [paws_x, xnli], ids=["paws_x", "xnli"])
@pytest.mark.parametrize(
    "flags",
    [["--from-dev"], ["--source", "/nowhere/at/all"], ["--from", "--source", "."], ["--seed", "1"]],
)
def test_a_wrong_flag_is_refused(prepare, flags):
    """Claim: exit 2, as for any flag that is wrong.

    Catches: half a gigabyte fetched, since the folder was mistyped.
    """
    with pytest.raises(SystemExit, match="2"):
        prepare.main(flags)


def test_the_published_counts_are_those_of_the_papers():
    """Number: Yang et al. 2019, table 2 and the files; Conneau et al. 2018, section 3.

    Catches: a typing error; a language that is lost.
    """
    assert len(paws_x.LANGUAGES) == 7
    assert (paws_x.TRAIN_PAIRS, paws_x.EVALUATION_PAIRS) == (49401, 2000)
    assert len(xnli.LANGUAGES) == 15
    assert xnli.PAIRS == {"train": 392702, "dev": 2490, "test": 5010}
    assert set(xnli.DEV_LANGUAGES) < set(xnli.LANGUAGES)
    assert len(xnli.DEV_LANGUAGES) == 11
