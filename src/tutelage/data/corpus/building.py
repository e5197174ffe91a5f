"""Building a corpus: plain text is tokenised once and written as arrays."""

from __future__ import annotations

import copy
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tutelage.artifacts import MARK, new_folder, sha256_of
from tutelage.data.corpus.packing import Split
from tutelage.data.corpus.reading import Corpus, CorpusManifest, vocabulary_of
from tutelage.data.examples import Rows
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.version import __version__

BUFFER = 2**20
"""Characters that are tokenised together; a longer paragraph is taken whole."""


def build(
    sources: Sequence[str],
    out: Path | str,
    tokenizer: Any,
    *,
    split: Split = "sentences",
    advance: Callable[[int], None] = lambda count: None,
) -> Corpus:
    """Tokenise text into a corpus, which appears in ``out`` when it is whole; ``advance`` hears of tokens written.

    A source is a file in UTF-8 that ends in .txt or .txt.gz, with one paragraph a line and a blank line between documents
    (a file's end is a document's too); or ``hub:OWNER/NAME``, a data set on the Hub each of whose rows is a document and each line
    of it a paragraph, with ``,config=NAME``, ``,split=train`` and ``,column=text`` after the name where they are others. Both are
    read as a stream; only paragraphs must fit into memory. Paragraphs are split by :func:`split_sentences`, unless
    ``split`` says that each line is one sentence already. Text that looks like a special token ("[SEP]") is read as text.

    Raises:
        TutelageError: when a source is missing, cannot be reached or read, or is not UTF-8; there is no text; something
            lies in ``out``, or it cannot be written; or the tokenizer is not a fast one, or cannot pad.
    """
    if not sources:
        raise TutelageError("a corpus of no sources was asked for; name at least one file or data set")
    readers = [_reader(source) for source in sources]
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise TutelageError(f"the tokenizer {name!r} has no fast version, which a corpus needs; choose one that has")
    if tokenizer.pad_token_id is None:
        raise TutelageError(f"the tokenizer {name!r} has no padding token; set one and save it again")
    with new_folder(out) as folder:
        counts = _write(folder, chain.from_iterable(readers), tokenizer, split, advance)
        if not counts["tokens"]:
            raise TutelageError(f"there is no text in {', '.join(map(repr, sources))}; give files with text")
        kept = copy.deepcopy(tokenizer)
        # Not what it was last asked to do, which would make other files of the same text.
        kept.backend_tokenizer.no_padding()
        kept.backend_tokenizer.no_truncation()
        kept.save_pretrained(folder / "tokenizer")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
        CorpusManifest(
            tutelage=__version__,
            split=split,
            sources=tuple(source if source.startswith(HUB) else Path(source).name for source in sources),
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            sha256={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
            **counts,
        ).write(folder)
    return Corpus(out)


def _write(
    folder: Path, paragraphs: Iterator[str], tokenizer: Any, split: Split, advance: Callable[[int], None]
) -> dict[str, Any]:
    """The three arrays; returns how much there is, as the manifest has it."""
    # A copy, whose settings are nobody else's.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    joint = _joint(backend)
    dtype = "uint16" if vocabulary_of(tokenizer) <= 2**16 else "uint32"
    counts: dict[str, Any] = {"documents": 0, "sentences": 0, "tokens": 0, "dtype": dtype}
    with (
        (folder / "tokens.bin").open("wb") as tokens_file,
        (folder / "sentences.bin").open("wb") as sentences_file,
        (folder / "documents.bin").open("wb") as documents_file,
    ):
        last = -1  # the document of the last sentence that had tokens
        for texts, of in _batches(paragraphs, split, joint):
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
            tokens = np.fromiter(
                chain.from_iterable(encoding.ids for encoding in encodings),
                f"<u{np.dtype(dtype).itemsize}",
                lengths.sum(),
            )
            of = of[lengths > 0]
            lengths = lengths[lengths > 0]
            first = np.flatnonzero(np.diff(of, prepend=last))
            tokens_file.write(tokens.data)
            sentences_file.write((counts["tokens"] + np.cumsum(lengths) - lengths).astype("<i8").data)
            documents_file.write((counts["sentences"] + first).astype("<i8").data)
            counts["tokens"] += len(tokens)
            counts["sentences"] += len(lengths)
            counts["documents"] += len(first)
            last = int(of[-1]) if len(of) else last
            advance(len(tokens))
        sentences_file.write(np.array(counts["tokens"], dtype="<i8").data)
        documents_file.write(np.array(counts["sentences"], dtype="<i8").data)
    return counts


def _batches(paragraphs: Iterator[str], split: Split, joint: str) -> Iterator[tuple[list[str], Rows]]:
    """Sentences, and the number of the document that each is of."""
    texts: list[str] = []
    of: list[int] = []
    document, size, begun = 0, 0, False
    for paragraph in paragraphs:
        if not paragraph:
            document, begun = document + 1, False
        else:
            for sentence in split_sentences(paragraph) if split == "sentences" else [paragraph]:
                texts.append(joint + sentence if begun else sentence)
                of.append(document)
                size, begun = size + len(sentence), True
        if size >= BUFFER:
            yield texts, np.array(of)
            texts, of, size = [], [], 0
    if texts:
        yield texts, np.array(of)


def _joint(backend: Any) -> str:
    """What to put before a sentence so that its tokens are those that it has in running text.

    Byte-level tokenizers count the space before a word as part of it: a sentence alone would begin with another token.
    """

    def ids(text: str) -> list[int]:
        return list(backend.encode(text, add_special_tokens=False).ids)

    return "" if ids("a a") == ids("a") * 2 else " "


_BOUNDARY = re.compile(
    r"""[.!?…。！？](?:
        (?<![.!?…])["”’」』）]*(?![。！？])\s*               # ideographic: needs no space after it
      | (?<!\b[^\W\d_]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|cf)\.)(?<!\b(?:Mrs|Rev|Gen)\.)
        ["'”’»)\]]*\s+(?!["'“‘«(\[]*[a-zß-öø-ÿα-ωа-я])      # not before a small letter
    )""",
    re.VERBOSE,
)


def split_sentences(paragraph: str) -> list[str]:
    """Sentences of running text, without the space around them.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` (and quotes or brackets that close after it) before a space that no
    small letter follows, but not after a single letter (``J. Smith``, ``the U.S. Army``) or one of a few abbreviations
    (``Dr. Who``); and at ``。``, ``！`` or ``？`` everywhere.
    """
    ends = [match.end() for match in _BOUNDARY.finditer(paragraph)]
    cuts = [0, *ends, len(paragraph)]
    parts = (paragraph[start:stop].strip() for start, stop in pairwise(cuts))
    return [part for part in parts if part]


# Sources
HUB = "hub:"


def _reader(source: str) -> Iterator[str]:
    """Its paragraphs, none of them empty, and an empty string after each document."""
    if source.startswith(HUB):
        name, *settings = source.removeprefix(HUB).split(",")
        options: dict[str, str | None] = {"config": None, "split": "train", "column": "text"}
        for setting in settings:
            option, sign, value = setting.partition("=")
            if option not in options or not (sign and value):
                raise TutelageError(
                    f"{source!r}: {setting!r} is not among config=.., split=.. and column=..; "
                    "write hub:OWNER/NAME,split=train"
                )
            options[option] = value
        return _from_hub(name, options["config"], options["split"] or "", options["column"] or "")
    path = Path(source)
    if not path.name.lower().endswith((".txt", ".txt.gz")):
        raise TutelageError(f"{source!r} does not end in .txt or .txt.gz and does not begin with hub:; convert it")
    if path.is_dir():
        raise TutelageError(f"{source!r} is a directory; name the files in it")
    if not path.exists():
        raise TutelageError(f"there is no file {source!r}; check the path")
    return _from_file(path)


def _from_file(path: Path) -> Iterator[str]:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            for line in file:
                yield line.strip()
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its ending") from None
    yield ""


def _from_hub(name: str, config: str | None, split: str, column: str) -> Iterator[str]:
    import datasets

    try:
        rows = iter(datasets.load_dataset(name, config, split=split, streaming=True))
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        raise _unreachable(name, error) from None
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            raise _unreachable(name, error) from None
        if row is None:
            return
        if column not in row:
            raise TutelageError(
                f"the data set {name!r} has no column {column!r}: its columns are {', '.join(row)}; add ,column=NAME"
            )
        if not isinstance(row[column] or "", str):
            raise TutelageError(f"the column {column!r} of the data set {name!r} is not text; add another ,column=NAME")
        yield from filter(None, map(str.strip, re.split(r"[\r\n]+", row[column] or "")))
        yield ""


def _unreachable(name: str, error: Exception) -> TutelageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return TutelageError(
        f"the data set {name!r} cannot be had from the Hub ({reason}); check its name, or give text files"
    )
