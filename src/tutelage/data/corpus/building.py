"""Build a corpus: tokenise plain text once and write it as arrays."""

from __future__ import annotations

import copy
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from tutelage.artifacts import MARK, new_folder, sha256_of
from tutelage.data.corpus.packing import Split
from tutelage.data.corpus.reading import Corpus, CorpusManifest, vocabulary_of
from tutelage.data.examples import Rows
from tutelage.data.readers.files import switching
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError, command
from tutelage.version import __version__

BUFFER = 2**20
"""Characters tokenised in one call. A longer paragraph is not split."""


class Documents(NamedTuple):
    """Texts in memory as a source: each is a document."""

    name: str
    """What the manifest calls the source."""
    texts: Iterable[Any]


def build(
    sources: Sequence[str | Documents],
    out: Path | str,
    tokenizer: Any,
    *,
    split: Split = "sentences",
    advance: Callable[[int], None] = lambda count: None,
) -> Corpus:
    """Tokenise text into a corpus. ``out`` appears only when the corpus is complete.

    A source is one of:

    * a UTF-8 file that ends in .txt or .txt.gz: one paragraph per line, a blank line between documents. A document also
      ends where its file ends.
    * ``hub:OWNER/NAME``, a data set on the Hub: each row is a document, each of its lines a paragraph. Append
      ``,config=NAME``, ``,split=NAME`` (default ``train``) or ``,column=NAME`` (default ``text``).
    * :class:`Documents`: each text is a document, each of its lines a paragraph.

    Sources are streamed; only one block of paragraphs is in memory. :func:`split_sentences` splits the paragraphs, unless
    ``split="lines"`` declares each line a sentence. Text that looks like a special token ("[SEP]") is read as ordinary text.

    Args:
        sources: files, data sets and texts in memory, in order.
        out: the folder to write.
        tokenizer: a fast tokenizer with a padding token.
        split: ``sentences`` or ``lines``.
        advance: called with the number of tokens written since the last call.

    Raises:
        TutelageError: if a source is missing, unreachable, unreadable or not UTF-8; if the sources contain no text; if
            ``out`` exists or cannot be written; if the tokenizer is not a fast one or has no padding token.
    """
    if not sources:
        raise TutelageError("a corpus needs at least one source; got none; name a text file or a data set")
    readers = [_reader(source) for source in sources]
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise TutelageError(
            f"the tokenizer {name!r} has no fast version, and a corpus needs one; choose another tokenizer"
        )
    if tokenizer.pad_token_id is None:
        raise TutelageError(f"the tokenizer {name!r} has no padding token; set one and save it again")
    with new_folder(out) as folder:
        counts = _write(folder, chain.from_iterable(readers), tokenizer, split, advance)
        if not counts["tokens"]:
            names = [one if isinstance(one, str) else one.name for one in sources]
            raise TutelageError(f"{', '.join(map(repr, names))} contain no text; name sources with text")
        kept = copy.deepcopy(tokenizer)
        # Padding and truncation settings of earlier calls would change the saved files.
        kept.backend_tokenizer.no_padding()
        kept.backend_tokenizer.no_truncation()
        kept.save_pretrained(folder / "tokenizer")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
        CorpusManifest(
            tutelage=__version__,
            split=split,
            sources=tuple(map(_name_of, sources)),
            tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
            sha256={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
            **counts,
        ).write(folder)
    return Corpus(out)


def _write(
    folder: Path, paragraphs: Iterator[str], tokenizer: Any, split: Split, advance: Callable[[int], None]
) -> dict[str, Any]:
    """Write the three arrays. Returns the manifest's counts (documents, sentences, tokens) and dtype."""
    # A copy: the changes below must not reach the caller's tokenizer.
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
        last = -1  # document of the last sentence that has tokens
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
    """Yield blocks of sentences with the document number of each."""
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
    """The prefix (a space or nothing) that gives a sentence the tokens it has in running text.

    Byte-level tokenizers include the space before a word in its token. Without the space, the first token would differ.
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
    """Split running text into sentences, without surrounding space.

    A sentence ends

    * at ``.``, ``!``, ``?`` or ``…``, with closing quotes or brackets, before a space, unless a lower-case letter follows.
      A full stop after a single letter (``J. Smith``, ``the U.S. Army``) or a known abbreviation (``Dr. Who``) does not
      end a sentence.
    * at ``。``, ``！`` or ``？``, with or without a space.
    """
    ends = [match.end() for match in _BOUNDARY.finditer(paragraph)]
    cuts = [0, *ends, len(paragraph)]
    parts = (paragraph[start:stop].strip() for start, stop in pairwise(cuts))
    return [part for part in parts if part]


# Sources
HUB = "hub:"


def _name_of(source: str | Documents) -> str:
    if isinstance(source, Documents):
        return source.name
    return source if source.startswith(HUB) else Path(source).name


def _reader(source: str | Documents) -> Iterator[str]:
    """Yield the paragraphs of a source. An empty string marks the end of a document."""
    if isinstance(source, Documents):
        return _from_memory(source)
    if source.startswith(HUB):
        name, *settings = source.removeprefix(HUB).split(",")
        options: dict[str, str | None] = {"config": None, "split": "train", "column": "text"}
        for setting in settings:
            option, sign, value = setting.partition("=")
            if option not in options or not (sign and value):
                raise TutelageError(
                    f"{source!r}: {setting!r} is not one of config=.., split=.. and column=..; "
                    "write hub:OWNER/NAME,split=train"
                )
            options[option] = value
        return _from_hub(name, options["config"], options["split"] or "", options["column"] or "")
    path = Path(source)
    if not path.name.lower().endswith((".txt", ".txt.gz")):
        # In Python a list of texts looks like one of paths.
        remedy = "convert it to text" if command() else "convert it to text, or give texts in memory as sources=[texts]"
        raise TutelageError(f"{source!r:.200} is neither a .txt or .txt.gz file nor hub:OWNER/NAME; {remedy}")
    if path.is_dir():
        raise TutelageError(f"{source!r} is a folder; name the files in it")
    if not path.exists():
        raise TutelageError(f"the file {source!r} does not exist; check the path")
    return _from_file(path)


def _from_file(path: Path) -> Iterator[str]:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
            for line in file:
                if (name := switching(line)) is not None:
                    raise TutelageError(f"{path} is in {name}, not in UTF-8; convert it to UTF-8")
                yield line.strip()
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the file and its extension") from None
    yield ""


def _from_hub(name: str, config: str | None, split: str, column: str) -> Iterator[str]:
    import datasets

    try:
        rows = iter(datasets.load_dataset(name, config, split=split, streaming=True))
    except Exception as error:  # datasets, huggingface_hub, httpx and the operating system each raise their own
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
                f"the data set {name!r} has no column {column!r}, only {', '.join(row)}; append ,column=NAME"
            )
        if not isinstance(row[column] or "", str):
            raise TutelageError(
                f"the column {column!r} of the data set {name!r} is not text; append another ,column=NAME"
            )
        yield from _paragraphs(row[column])


def _from_memory(source: Documents) -> Iterator[str]:
    for number, text in enumerate(source.texts):
        if not isinstance(text or "", str):
            raise TutelageError(
                f"{source.name}: entry {number} is {type(text).__name__}, not text; give texts, or a table with a column 'text'"
            )
        yield from _paragraphs(text)


def _paragraphs(document: str | None) -> Iterator[str]:
    yield from filter(None, map(str.strip, re.split(r"[\r\n]+", document or "")))
    yield ""


def _unreachable(name: str, error: Exception) -> TutelageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return TutelageError(
        f"the data set {name!r} cannot be loaded from the Hub ({reason}); check its name, or use text files"
    )
