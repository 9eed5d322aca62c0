"""What the prepare.py scripts share: get published files, refuse what is not as published, write.

    download, take_from_tar, take_from_zip
        ->  read_json, read_lines, field, expect: or one sentence that says what is wrong
        ->  publish

A fault of the source is a SourceError, and `run` ends its message with the script's remedy: where
the file can be had and where to put it. Nothing is written before everything is read and checked.
Where to look next: lareqa.py here reads the JSON of XQuAD-R and MLQA-R, pairs_files.py the tables
of PAWS-X and XNLI; data/NAME/prepare.py use them.
Left out on purpose: resuming a download.
"""

import http.client
import json
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path


class SourceError(ValueError):
    """What was fetched or given is not what was published."""


# ---- getting files -------------------------------------------------------------------------------


def download(url: str, path: Path) -> Path:
    """Fetch one file.

    *Errors*: SourceError for a network or an address that is not there, or a download cut short.
    """
    print(f"fetching {url}", file=sys.stderr)  # stdout is for the result alone
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:  # seconds of silence, not in total
            content = reply.read()
    except (OSError, http.client.HTTPException) as error:  # the second: cut off half-way
        raise SourceError(f"{url}: could not be fetched ({error!r})") from error
    path.write_bytes(content)
    return path


def download_all(address: str, names: list[str], folder: Path) -> Path:
    """Fetch address/NAME for all names into a folder and return it."""
    for name in names:
        download(f"{address}/{name}", folder / name)
    return folder


def take_from_tar(archive: Path, names: list[str], folder: Path) -> Path:
    """Write the named files of a .tar.gz into a folder, under the same names, and return it.

    Only what is asked for leaves the archive, so none of its names can lead out of the folder.
    *Errors*: SourceError for a file that is not in it, or an archive cut short.
    """
    try:
        with tarfile.open(archive, "r:gz") as opened:  # "r" would try all kinds and list them
            for name in names:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.extractfile(name).read())
    except (KeyError, AttributeError) as error:  # the second: a folder, which extracts to None
        raise SourceError(f"{archive}: {name} is not in it") from error
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise SourceError(f"{archive}: is no whole archive ({error})") from error
    return folder


def take_from_zip(archive: Path, names: list[str], folder: Path) -> Path:
    """As `take_from_tar`, of a .zip."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in names:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(name))
    except KeyError as error:
        raise SourceError(f"{archive}: {name} is not in it") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{archive}: is no whole archive ({error})") from error
    return folder


# ---- refusing what is not as published -----------------------------------------------------------


def expect(where: Path | str, subject: str, expected, actual) -> None:
    """Refuse what is not as expected.

    *Errors*: SourceError that names the place and both, unless the two are equal.
    """
    if actual != expected:
        shown = str(actual)[:200]  # a broken file must not fill the screen
        raise SourceError(f"{where}: {subject}: expected {expected}, found {shown}")


def field(row, key: str, kind: type, where: Path | str):
    """row[key], of a row that should be an object.

    *Errors*: SourceError if the key is missing or its value is not of that kind.
    """
    value = None
    if isinstance(row, dict):
        value = row.get(key)
    # SUBTLE: not isinstance: JSON's true would pass for the offset 1
    if type(value) is not kind:
        raise SourceError(f'{where}: "{key}" must be {kind.__name__} in {str(row)[:180]}')
    return value


def read_json(path: Path):
    """The content of a JSON file.

    *Errors*: SourceError for a file that is missing or not JSON.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))  # bytes: no newline translation
        # Half an emoji ("\ud83d") is legal JSON and no legal UTF-8: refuse it while we know where
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets without end
        raise SourceError(f"{path}: is not a readable JSON file ({error})") from error
    return content


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    *Errors*: SourceError for a file that is missing or not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: could not be read ({error.strerror})") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{number}: is not UTF-8 ({error.reason})") from error
    # SUBTLE: not splitlines, for which "\x1c" or "\u2028" inside a sentence ends a line, too
    lines = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


# ---- writing -------------------------------------------------------------------------------------


def json_lines(rows: list[dict]) -> list[str]:
    """Rows of corpus.jsonl or queries.jsonl, unescaped: a reader sees Thai."""
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def publish(out: Path, files: dict[str, list[str]]) -> None:
    """Write all files, name -> lines, aside, then rename them: a full disk leaves no half file."""
    asides = {name: out / f"{name}.part" for name in files}  # same disk: renames cannot leave it
    try:
        for name, aside in asides.items():
            aside.parent.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{line}\n" for line in files[name])
            aside.write_text(text, encoding="utf-8", newline="\n")  # no \r\n
        for name, aside in asides.items():
            aside.replace(out / name)  # corpus first: without qrels nothing evaluates
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)  # gone already if all went well


def run(work: Callable[[], None], remedy: str) -> int:
    """Do the work and return the exit code: 0 done, 1 failed, 130 interrupted."""
    try:
        work()
    except SourceError as error:
        print(f"prepare.py: {error}. {remedy}", file=sys.stderr)  # a sentence, no traceback
        return 1
    except (OSError, ValueError) as error:  # a full disk; anything else keeps its traceback
        print(f"prepare.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # what shells expect after Ctrl-C
    return 0
