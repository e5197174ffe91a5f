"""Build a corpus: tokenise plain text once and write it as arrays."""

from __future__ import annotations

import copy
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tutelage.artifacts import in_a_line, new_folder, sha256_of
from tutelage.data.corpus.packing import Split
from tutelage.data.corpus.reading import Corpus, CorpusManifest, vocabulary_of
from tutelage.data.processes import ALONE, Processes
from tutelage.data.readers.files import switching
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.errors import TutelageError, command
from tutelage.version import __version__

BUFFER = 2**20
"""Characters of a block, which is tokenised in one call. A longer paragraph is not split."""


class Documents(NamedTuple):
    """Texts in memory as a source: each is a document."""

    name: str
    """What the manifest calls the source."""
    texts: Iterable[Any]


class _Block(NamedTuple):
    """Consecutive paragraphs, and what their tokens depend on."""

    paragraphs: list[str]
    documents: list[int]
    """The number of each paragraph's document."""
    before: int
    """The document of the paragraph before these; -1 for the first block."""


class _Tokenised(NamedTuple):
    """The sentences of a block, but for those without tokens."""

    tokens: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]
    """Tokens of each sentence."""
    documents: npt.NDArray[np.int64]
    """The number of each sentence's document."""


def build(
    sources: Sequence[str | Documents],
    out: Path | str,
    tokenizer: Any,
    *,
    split: Split = "sentences",
    advance: Callable[[int], None] = lambda count: None,
    processes: Processes = ALONE,
) -> Corpus:
    """Tokenise text into a corpus. ``out`` appears only when the corpus is complete.

    A source is one of:

    * a UTF-8 file that ends in .txt or .txt.gz: one paragraph per line, a blank line between documents. A document also
      ends where its file ends.
    * ``hub:OWNER/NAME``, a data set on the Hub: each row is a document, each of its lines a paragraph. Append
      ``,config=NAME``, ``,split=NAME`` (default ``train``) or ``,column=NAME`` (default ``text``).
    * :class:`Documents`: each text is a document, each of its lines a paragraph.

    Sources are streamed; each process holds as many blocks of paragraphs as there are processes. :func:`split_sentences` splits
    the paragraphs, unless ``split="lines"`` declares each line a sentence. Text that looks like a special token ("[SEP]") is read
    as ordinary text.

    Several processes make the corpus that one would make. Each reads all of the sources and tokenises every n-th block; the first
    process writes them all.

    Args:
        sources: files, data sets and texts in memory, in order.
        out: the folder to write.
        tokenizer: a fast tokenizer with a padding token.
        split: ``sentences`` or ``lines``.
        advance: called, in the first process, with the number of tokens written since the last call.
        processes: the processes that build the corpus.

    Raises:
        TutelageError: if a source is missing, unreachable, unreadable or not UTF-8; if the sources contain no text; if
            the processes read different texts; if ``out`` exists or cannot be written; if the tokenizer is not a fast one or has no
            padding token.
    """
    readers = processes.each(lambda: _checked(sources, tokenizer))
    dtype: Literal["uint16", "uint32"] = "uint16" if vocabulary_of(tokenizer) <= 2**16 else "uint32"
    tokenise = _tokeniser(tokenizer, split, f"<u{np.dtype(dtype).itemsize}")
    with ExitStack() as place:
        folder = processes.first(lambda: place.enter_context(new_folder(out)))
        written = _Arrays(folder)

        @in_a_line(out)  # for the other processes, in which the folder is not being made
        def write(block: _Tokenised) -> None:
            written.add(block)
            advance(len(block.tokens))

        @in_a_line(out)
        def finish() -> None:
            written.end()
            if not written.tokens:
                names = [one if isinstance(one, str) else one.name for one in sources]
                raise TutelageError(f"there is no text in {', '.join(map(repr, names))}; name sources with text")
            kept = copy.deepcopy(tokenizer)
            # Padding and truncation settings of earlier calls would change the saved files.
            kept.backend_tokenizer.no_padding()
            kept.backend_tokenizer.no_truncation()
            kept.save_pretrained(folder / "tokenizer")
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            CorpusManifest(
                tutelage=__version__,
                split=split,
                sources=tuple(map(_name_of, sources)),
                tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
                sha256={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
                dtype=dtype,
                documents=written.documents,
                sentences=written.sentences,
                tokens=written.tokens,
            ).write(folder)
            place.close()  # the folder gets its name

        _tokenise_all(_blocks(chain.from_iterable(readers)), tokenise, write, processes)
        processes.first(finish)
    return Corpus(out)


def _checked(sources: Sequence[str | Documents], tokenizer: Any) -> list[Iterator[str]]:
    """The paragraphs of each source, which are read later."""
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
    return readers


def _blocks(paragraphs: Iterable[str]) -> Iterator[_Block]:
    texts: list[str] = []
    documents: list[int] = []
    document, size, before = 0, 0, -1
    for paragraph in paragraphs:
        if not paragraph:
            document += 1
            continue
        texts.append(paragraph)
        documents.append(document)
        size += len(paragraph)
        if size >= BUFFER:
            yield _Block(texts, documents, before)
            texts, documents, size, before = [], [], 0, document
    if texts:
        yield _Block(texts, documents, before)


def _tokeniser(tokenizer: Any, split: Split, dtype: str) -> Callable[[_Block], _Tokenised]:
    """The function that splits a block into sentences and tokenises them."""
    # A copy: the changes below must not reach the caller's tokenizer.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    joint = _joint(backend)

    def tokenise(block: _Block) -> _Tokenised:
        sentences: list[str] = []
        documents: list[int] = []
        last = block.before
        for paragraph, document in zip(block.paragraphs, block.documents, strict=True):
            for sentence in split_sentences(paragraph) if split == "sentences" else [paragraph]:
                sentences.append(joint + sentence if document == last else sentence)
                documents.append(document)
                last = document
        encodings = backend.encode_batch_fast(sentences, add_special_tokens=False)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype, lengths.sum())
        return _Tokenised(tokens, lengths[lengths > 0], np.array(documents)[lengths > 0])

    return tokenise


def _tokenise_all(
    blocks: Iterator[_Block],
    tokenise: Callable[[_Block], _Tokenised],
    write: Callable[[_Tokenised], None],
    processes: Processes,
) -> None:
    """Tokenise the blocks, one in each process at a time; the first process calls ``write`` on all of them, in order.

    Raises:
        TutelageError: if the blocks are not the same in all processes.
    """
    read, tokenised = 0, list[_Tokenised]()

    def go_on() -> _Tokenised | None:
        nonlocal read
        if processes.rank == 0:
            for one in tokenised:
                write(one)
        ours = list(islice(blocks, processes.count))
        for block in ours:
            read = zlib.crc32("\n".join(block.paragraphs).encode(), read)
        return tokenise(ours[processes.rank]) if processes.rank < len(ours) else None

    while True:
        # Before the exchange: an error of one process must reach those that wait.
        block = processes.each(go_on)
        found = processes.exchange((read, block))
        if len({checksum for checksum, _ in found}) > 1:
            raise TutelageError(
                "the processes read different texts; give each of them the same sources in the same order"
            )
        tokenised = [block for _, block in found if block is not None]
        if not tokenised:
            return


class _Arrays:
    """The three arrays of a corpus on disk, to which blocks are added."""

    def __init__(self, folder: Path) -> None:
        self.documents = self.sentences = self.tokens = 0
        self._folder = folder
        self._last = -1  # document of the last sentence that has tokens

    def add(self, block: _Tokenised) -> None:
        """Write a block after those before it."""
        tokens, lengths, documents = block
        first = np.flatnonzero(np.diff(documents, prepend=self._last))
        self._append("tokens", tokens)
        self._append("sentences", (self.tokens + np.cumsum(lengths) - lengths).astype("<i8"))
        self._append("documents", (self.sentences + first).astype("<i8"))
        self.tokens += len(tokens)
        self.sentences += len(lengths)
        self.documents += len(first)
        self._last = int(documents[-1]) if len(documents) else self._last

    def end(self) -> None:
        """Write where the last sentence and the last document end."""
        self._append("sentences", np.array(self.tokens, dtype="<i8"))
        self._append("documents", np.array(self.sentences, dtype="<i8"))

    def _append(self, name: str, values: npt.NDArray[Any]) -> None:
        with (self._folder / f"{name}.bin").open("ab") as file:
            file.write(values.data)


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
