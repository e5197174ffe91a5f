"""Sentences with a tag for each word: CoNLL-2003, files in its format, and their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples
from tutelage.data.given import titled
from tutelage.data.readers.files import TABLES, ending_of, read_table
from tutelage.data.readers.table import FileTable, shown
from tutelage.errors import TutelageError, option

HUB = "eriktks/conll2003"


REVISION = "refs/convert/parquet"
"""The Hub's own conversion; what is on the main branch is a script, which datasets no longer runs."""


SPLITS = {"train": "train", "dev": "validation"}


FILES = {"train": ("eng.train", "train.txt"), "dev": ("eng.testa", "valid.txt")}


WORDS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels")
"""Usual names of the columns of tables."""


TAG = "O|[BI]-.+"
SPACES = r"[ \t]+"
NO_BREAK = "\u00a0"
"""Takes the place of a space in a word: the words of a text are separated by spaces."""
Sentence = tuple[list[str], list[str]]
"""Words and their tags, as :func:`bio` gives them."""


def load_conll(data_dir: Path | None) -> Data:
    """Train and dev of CoNLL-2003's named entities, of kind ``"tokens"``.

    ``data_dir`` holds the original files (``eng.train``, ``eng.testa``; also as ``train.txt``, ``valid.txt``); without
    it they come from the Hub.

    Raises:
        TutelageError: the Hub cannot be reached, a file is missing, or as :func:`read_conll`.
    """
    if data_dir is None:
        sentences = _from_hub()
        tags = _tags(sentences["train"])
        train, dev = (_examples(part, sentences[part], tags) for part in FILES)
        sources = {part: f"{HUB} on the Hub: {split}" for part, split in SPLITS.items()}
    else:
        paths = {part: _path(data_dir, names) for part, names in FILES.items()}
        train, tags = read_conll(paths["train"], "train")
        dev, _ = read_conll(paths["dev"], "dev", tags)
        sources = {part: path.name for part, path in paths.items()}
    return Data("conll2003", "tokens", tags, ("f1", "accuracy"), train, {"dev": dev}, sources=sources)


def own_sentences(train: Path, dev: Path | None, config: DataConfig) -> Data:
    """Sentences from files in CoNLL's format, or tables with lists of words and tags; without ``dev`` a tenth of ``train`` is held
    out.

    Args:
        train: The training file.
        dev: The evaluation file.
        config: Names the columns of a table (where they do not exist, words are ``tokens`` or ``words``, tags ``ner_tags``,
            ``tags`` or ``labels``) and the tags that are numbers.

    Raises:
        TutelageError: as :func:`read_conll`, or when too few sentences are left.
    """

    sources, notes = dict[str, str](), list[str]()

    def read(path: Path, name: str, tags: tuple[str, ...] | None = None) -> tuple[Examples, tuple[str, ...]]:
        if ending_of(path) not in TABLES:
            sources[name] = path.name
            return read_conll(path, name, tags)
        table = _table(path)
        found = _from_table(table, name, config, tags)
        sources[name] = table.source
        notes.extend(table.said())
        return found

    examples, tags = read(train, "train")
    if dev is None:
        sources["dev"] = "10% of train, held out"
        held = np.random.default_rng(0xDE7).permutation(len(examples)) % 10 == 4
        scored, examples = examples.take(np.flatnonzero(held)), examples.take(np.flatnonzero(~held))
    else:
        scored, _ = read(dev, "dev", tags)
    if not len(scored) or not len(examples):
        raise TutelageError(
            f"{titled(train)} has too few sentences to hold out some as dev; give a {option('dev')} file"
        )
    name = titled(train).stem
    metrics = ("f1", "accuracy")
    return Data(
        name, "tokens", tags, metrics, examples, {"dev": scored}, sources=sources, notes=tuple(dict.fromkeys(notes))
    )


def read_conll(path: Path, name: str, tags: tuple[str, ...] | None = None) -> tuple[Examples, tuple[str, ...]]:
    """The sentences of a file in CoNLL's format, and the names of their tags.

    Each line has a word in the first column and its tag (``O``, ``B-...``, ``I-...``) in the last, between spaces or tabs; in a
    file whose lines all have as many tabs, between these alone, and a space in a word becomes a no-break space. Blank lines part
    the sentences; -DOCSTART- lines are left out, and comments: lines that begin with ``# `` and end in no tag. An entity that
    starts with ``I-`` (as in IOB1) is made to start with ``B-``. Ids are ``"{name}/{number}"``, texts the words with single
    spaces, labels ``(n,)`` of int64 arrays, one tag a word. The tags are ``tags`` if given, else ``O`` and then, sorted, both tags
    of each type of entity that occurs.

    Raises:
        TutelageError: the file is missing, cannot be read, is not UTF-8, has no sentences, a line without tag or with a
            tag that is not among ``tags`` or of another scheme.
    """
    sentences: list[Sentence] = []
    first_lines: list[int] = []
    inside = False
    for number, columns in _lines(path):
        if columns == [""] or columns[0] == "-DOCSTART-":
            inside = False
            continue
        if len(columns) == 1:
            raise TutelageError(f"{path}, line {number}: {columns[0]!r} has no tag; add one in the last column")
        if not re.fullmatch(TAG, columns[-1]):
            raise TutelageError(
                f"{path}, line {number}: tag {columns[-1]!r} is not O, B-... or I-...; rewrite the file's tags so"
            )
        if not inside:
            sentences.append(([], []))
            first_lines.append(number)
            inside = True
        sentences[-1][0].append(columns[0].replace(" ", NO_BREAK))
        sentences[-1][1].append(columns[-1])
    if not sentences:
        raise TutelageError(f"{path} has no sentences; give a file with some")
    sentences = [(words, bio(raw)) for words, raw in sentences]
    tags = tags or _tags(sentences)
    for first, (_, given) in zip(first_lines, sentences, strict=True):
        for number, tag in enumerate(given, first):
            if tag not in tags:
                raise TutelageError(
                    f"{path}, line {number}: tag {tag!r} is none of {', '.join(tags)}; correct it, or train on sentences"
                    " that have it"
                )
    return _examples(name, sentences, tags), tags


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The numbers and columns of a file's lines that are no comments; ``[""]`` of blank ones.

    Raises:
        TutelageError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [line.strip(" \t\n") for line in file]  # other kinds of space are parts of words
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except OSError as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the path") from None
    found = [(number, line) for number, line in enumerate(lines, 1) if not _is_comment(line)]
    tabs = {line.count("\t") for _, line in found if line and not line.startswith("-DOCSTART-")}
    separator = r" *\t *" if len(tabs) == 1 and min(tabs) else SPACES
    return [(number, re.split(separator, line)) for number, line in found]


def _is_comment(line: str) -> bool:
    return re.match("#[ \\t]", line) is not None and not re.fullmatch(TAG, re.split(SPACES, line)[-1])


def _table(path: Path) -> FileTable:
    if ending_of(path) in (".csv", ".tsv"):
        raise TutelageError(
            f"{path}: sentences with a tag for each word are read from JSON lines or Parquet with lists, or from CoNLL's columns"
            " (a word and its tag a line, in a .txt or .conll file)"
        )
    return read_table(path)


def _from_table(
    table: FileTable, name: str, config: DataConfig, tags: tuple[str, ...] | None
) -> tuple[Examples, tuple[str, ...]]:
    """The sentences of a table whose rows have a list of words and a list of as many tags, or numbers of ``labels``. Ids are
    ``"{name}/{row}"``."""
    columns, labels = [], config.labels
    for given, others, role in ((config.text, WORDS, "text"), (config.label, TAGS, "label")):
        found = next((one for one in (given, *others) if one in table.columns), given)
        columns.append(table.column(found, role))
    sentences: dict[int, Sentence] = {}
    for row, (given_words, given_tags) in enumerate(zip(*columns, strict=True)):
        if row in table.bad:
            continue
        if not isinstance(given_words, list) or not isinstance(given_tags, list) or len(given_words) != len(given_tags):
            table.reject(row, "has no list of words and list of as many tags")
            continue
        if not given_words or not all(isinstance(word, str) and re.fullmatch(r"\S+", word) for word in given_words):
            table.reject(row, "has a word that is empty, has a space or is no string, or no words")
            continue
        named = [labels[one] if labels and type(one) is int and 0 <= one < len(labels) else one for one in given_tags]
        wrong = next((one for one in named if not (isinstance(one, str) and re.fullmatch(TAG, one))), None)
        if wrong is not None:
            remedy = f"; name the numbers with {option('labels')} O,B-...,I-..." if isinstance(wrong, int) else ""
            if labels and isinstance(wrong, int):
                remedy = f"; {option('labels')} names the numbers 0 to {len(labels) - 1}"
                remedy += (
                    ", and -100 stands for pieces of words: give whole words, with a tag each" if wrong == -100 else ""
                )
            table.reject(row, f"has tag {shown(wrong)}, which is not O, B-... or I-...{remedy}")
            continue
        named = bio(named)
        if unknown := [one for one in named if tags is not None and one not in tags]:
            table.reject(row, f"has tag {shown(unknown[0])}, which train lacks")
        else:
            sentences[row] = (given_words, named)
    rows = table.kept(config.skip_bad_rows)
    tags = tags or _tags(sentences.values())
    return _examples(name, list(sentences.values()), tags, rows), tags


def _from_hub() -> dict[str, list[Sentence]]:
    import datasets

    try:
        splits = datasets.load_dataset(HUB, revision=REVISION)
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(
            f"{HUB} cannot be had from the Hub ({reason}); pass {option('data_dir')} with the folder of eng.train and eng.testa"
        ) from None
    sentences = {}
    for part, split in SPLITS.items():
        names = splits[split].features["ner_tags"].feature.names
        rows = zip(splits[split]["tokens"][:], splits[split]["ner_tags"][:], strict=True)
        sentences[part] = [(words, bio([names[tag] for tag in tags])) for words, tags in rows]
    return sentences


def _path(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise TutelageError(
        f"there is no {' or '.join(names)} in {str(folder)!r}; fetch it, or set {option('data_dir')} to its folder"
    )


def _tags(sentences: Iterable[Sentence]) -> tuple[str, ...]:
    types = {tag[2:] for _, tags in sentences for tag in tags if tag != "O"}
    return ("O", *sorted(f"{prefix}-{name}" for prefix in "BI" for name in types))


def _examples(
    part: str, sentences: Sequence[Sentence], names: tuple[str, ...], rows: Sequence[int] | None = None
) -> Examples:
    """The examples, with the numbers ``rows`` in their ids; by default they are counted."""
    number_of = {tag: number for number, tag in enumerate(names)}
    labels = (np.array([number_of[tag] for tag in tags], dtype=np.int64) for _, tags in sentences)
    return Examples(
        ids=[f"{part}/{row}" for row in rows or range(len(sentences))],
        texts=[" ".join(words) for words, _ in sentences],
        pairs=None,
        labels=np.fromiter(labels, dtype=object, count=len(sentences)),
    )


def bio(tags: Sequence[str]) -> list[str]:
    """The tags with ``B-`` at the start of every entity, as conlleval reads them.

    An ``I-`` after ``O``, or after a tag of another type, starts an entity.
    """
    result = []
    before = "O"
    for tag in tags:
        result.append(f"B-{tag[2:]}" if tag.startswith("I-") and tag[2:] != before[2:] else tag)
        before = tag
    return result
