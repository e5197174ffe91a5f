"""What a run learns from, by contents: a run that goes on with other data or another teacher would be another run."""

from __future__ import annotations

from pathlib import Path

from tutelage.anatomy import Head
from tutelage.artifacts import checksum_of, sha256_of
from tutelage.data.corpus.reading import Corpus
from tutelage.data.examples import Data, fingerprint
from tutelage.data.tokenizers import tokenizer_fingerprint
from tutelage.recipes.config import RunConfig, with_places
from tutelage.tasks import kind_of
from tutelage.tasks.load import ReadData, load_data
from tutelage.teachers.source import Source
from tutelage.version import __version__

VERSION = "the version of tutelage"
READ = ("data_dir", "train", "dev", "unlabeled")
"""The settings of data whose texts are compared, not their files."""


def contents(place: str) -> str:
    """The checksum of a file, or of all files in a folder."""
    path = Path(place)
    if path.is_file():
        return sha256_of(path)
    return checksum_of({str(one.relative_to(path)): sha256_of(one) for one in path.rglob("*") if one.is_file()})


def contents_of(teacher: Source) -> str:
    """The fingerprint of a teacher's weights, configuration and tokenizer."""
    return f"{teacher.fingerprint} {tokenizer_fingerprint(teacher.tokenizer)}"


def texts_of(data: Data) -> str:
    """The fingerprint of all texts of a task with their labels."""
    parts = {"train": data.train, **({} if data.unlabeled is None else {"unlabeled": data.unlabeled}), **data.dev}
    prints = {name: fingerprint(part, part.labels) for name, part in parts.items()}
    return checksum_of([prints, data.kind, data.metrics, data.labels])


def read_origins(config: RunConfig, read: ReadData = load_data) -> dict[str, str]:
    """The :func:`origins` of a run of which nothing has been read. ``read`` reads its texts."""
    head: Head = "none"
    if config.recipe.on_corpus:
        texts = Corpus(Path(str(config.corpus))).fingerprint
    else:
        data = read(config.data)
        texts, head = texts_of(data), kind_of(data.kind).head
    teacher = None if config.teacher is None else Source(config.teacher, head, pooling=config.data.pooling)
    return origins(config, texts, teacher)


def origins(config: RunConfig, texts: str, teacher: Source | None) -> dict[str, str]:
    """The fingerprint of each thing that a run learns from, by what a message calls it.

    Args:
        config: The run. Its store of the teacher's knowledge is compared with teacher and data whenever it is read.
        texts: The fingerprint of its texts.
        teacher: Its teacher.
    """
    found = {VERSION: __version__, "the data": texts}
    if teacher is not None:
        found[f"the teacher {teacher.name!r}"] = contents_of(teacher)

    def note(place: str) -> str:
        found[repr(place)] = contents(place)
        return place

    read = dict.fromkeys(("out", "teacher", "teacher_store", "corpus"))
    with_places(config.model_copy(update={**read, "data": config.data.model_copy(update=dict.fromkeys(READ))}), note)
    return found
