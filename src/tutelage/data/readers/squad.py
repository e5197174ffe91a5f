"""Questions whose answers are spans of a context: SQuAD 1.1 and 2.0, files in their format, and their windows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tutelage.data.examples import Data, Examples
from tutelage.data.given import task_name, titled
from tutelage.data.readers.files import TABLES, ending_of, read_table, read_text
from tutelage.data.readers.rows import parsed, read_rows
from tutelage.data.readers.table import FileTable, shown
from tutelage.errors import TutelageError, option

VERSIONS = {"squad": ("v1.1", "rajpurkar/squad"), "squad2": ("v2.0", "rajpurkar/squad_v2")}
"""Version in the names of the files, and name on the Hub."""


COLUMNS = ("question", "context")
"""Those that a table of questions has besides ``id`` and ``answers``."""


NEARBY = 32
"""Characters beside its start within which an answer is looked for."""


Answers = Sequence[tuple[int, str]]


Question = tuple[str, str, str, Answers | None]
"""Id, question, context and answers; no answers where the context has none, ``None`` where they are unknown."""


T = TypeVar("T")


def load_squad(version: Literal["squad", "squad2"], data_dir: Path | None) -> Data:
    """Train and dev of SQuAD 1.1 (``"squad"``) or 2.0 (``"squad2"``), of kind ``"spans"``.

    ``data_dir`` holds the original files (``train-v1.1.json``, ``dev-v1.1.json``; ``v2.0`` likewise; each also with .gz);
    without it they come from the Hub.

    Raises:
        TutelageError: the Hub cannot be reached, a file is missing, or as :func:`read_squad`.
    """
    name, hub = VERSIONS[version]
    if data_dir is None:
        parts = _from_hub(hub)
    else:
        paths = {part: _path(data_dir, f"{part}-{name}.json") for part in ("train", "dev")}
        parts = {part: read_squad(path, part)[:2] for part, path in paths.items()}
    return Data(
        task=version,
        kind="spans",
        labels=(),
        metrics=("f1", "exact_match"),
        train=parts["train"][0],
        dev={"dev": parts["dev"][0]},
        sources={part: source for part, (_, source) in parts.items()},
    )


def own_questions(train: Path, dev: Path | None, skip: bool = False) -> Data:
    """Questions from files in SQuAD's JSON format; without ``dev`` a tenth of ``train``'s contexts is held out. With
    ``skip`` bad rows of a table are left out.

    Raises:
        TutelageError: as :func:`read_squad`, or when no question of dev has a known answer.
    """
    examples, source, notes = read_squad(train, "train", skip)
    sources = {"train": source}
    if dev is None:
        held = _held_contexts(examples)
        scored, examples = examples.take(np.flatnonzero(held)), examples.take(np.flatnonzero(~held))
        sources["dev"] = "10% of the contexts of train, held out"
    else:
        scored, sources["dev"], more = read_squad(dev, "dev", skip)
        notes += more
    scored = scored.take(np.flatnonzero(scored.labelled))
    if not len(scored) or not len(examples):
        raise TutelageError(
            f"{titled(dev or train)} has no question with a known answer to score on; give a {option('dev')} file with some"
        )
    metrics = ("f1", "exact_match")
    return Data(
        task_name(train),
        "spans",
        (),
        metrics,
        examples,
        {"dev": scored},
        sources=sources,
        notes=tuple(dict.fromkeys(notes)),
    )


def _held_contexts(examples: Examples) -> npt.NDArray[np.bool_]:
    """``(n,)``: the questions on a tenth of the contexts, drawn with a fixed seed. No context is read in training and scored."""
    _, context_of = np.unique(np.array(examples.pairs, dtype=object), return_inverse=True)
    drawn = np.random.default_rng(0xDE7).permutation(int(context_of.max()) + 1)
    held = drawn[: max(round(len(drawn) / 10), 1)]
    return np.isin(context_of, held)


def read_squad(path: Path, name: str, skip: bool = False) -> tuple[Examples, str, list[str]]:
    """The questions of a JSON file (also with .gz) in SQuAD's format, where they came from in words, and notes. Read is also a
    table (JSON, JSON lines, Parquet) with a question a row, as the Hub has SQuAD: ``id``, ``question``, ``context``, ``answers``.

    Ids are ``"{name}/{question id}"``, in a table without ``id`` ``"{name}/{row}"``; labels as in ``Examples`` for spans. A
    question that ``is_impossible`` has no answer in its context; the answers of one without ``answers`` are unknown. An answer that
    is not at its ``answer_start`` is taken from the only place nearby where it is; if there is none it is left out and counted in
    the words, and a question that so loses its last answer counts as unknown.

    Raises:
        TutelageError: the file is missing, cannot be read, is not UTF-8 or JSON, lacks a field, has no questions or an
            id twice.
    """
    table, tree = None, None
    if ending_of(path) in TABLES and ending_of(path) != ".json":
        table = read_table(path, COLUMNS, whole=True)
    else:
        text = read_text(path)[0]
        with suppress(ValueError):  # then it is an object a line, or the reader of rows says what is wrong
            tree = parsed(text)
        if not isinstance(tree, dict) or _is_flat(tree.get("data", [tree])):
            table = read_rows(path, text, COLUMNS, header=True)
    questions = _questions(tree, str(path)) if table is None else _rows(table, skip)
    examples, lost = _examples(name, questions, str(titled(path)))
    return examples, (path.name if table is None else table.source) + lost, [] if table is None else table.said()


def _is_flat(rows: Any) -> bool:
    """Whether these are single questions with their contexts."""
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and "context" in rows[0]


def _rows(table: FileTable, skip: bool) -> Iterator[Question]:
    """Questions from a table with a row for each, as the Hub has them."""
    questions, contexts = table.texts("question", "question"), table.texts("context", "context")
    kept = set(table.kept(skip))
    ids = table.columns.get("id", range(table.count))
    answers = table.columns.get("answers", [None] * table.count)
    for row, (key, question, context, given) in enumerate(zip(ids, questions, contexts, answers, strict=True)):
        if row not in kept:
            continue
        yield str(key), question, context, None if given is None else _given(given, f"{table.path}, {table.place(row)}")


def _given(given: Any, where: str) -> Answers:
    """Answers as a dict of two lists, or as a list of dicts."""
    if isinstance(given, dict):
        texts, starts = _field(given, "text", list, where), _field(given, "answer_start", list, where)
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=False)]
    if not isinstance(given, list):
        raise TutelageError(f"{where}: its answers are {shown(given)}; write them as SQuAD's own files do")
    return [(_field(one, "answer_start", int, where), _field(one, "text", str, where)) for one in given]


def _from_hub(hub: str) -> dict[str, tuple[Examples, str]]:
    import datasets

    try:
        splits = datasets.load_dataset(hub)
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(
            f"{hub} cannot be had from the Hub ({reason}); pass {option('data_dir')} with the folder of SQuAD's JSON files"
        ) from None
    parts = {}
    for part, split in {"train": "train", "dev": "validation"}.items():
        columns = (splits[split][column][:] for column in ("id", "question", "context", "answers"))
        questions = (
            (key, question, context, list(zip(answers["answer_start"], answers["text"], strict=True)))
            for key, question, context, answers in zip(*columns, strict=True)
        )
        examples, lost = _examples(part, questions, f"{hub}, {split}")
        parts[part] = examples, f"{hub} on the Hub: {split}{lost}"
    return parts


def _path(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise TutelageError(
        f"there is no {name} (or {name}.gz) in {str(folder)!r}; fetch it, or set {option('data_dir')} to its folder"
    )


def _questions(tree: Any, where: str) -> Iterator[Question]:
    for a, article in enumerate(_field(tree, "data", list, where), 1):
        for p, paragraph in enumerate(_field(article, "paragraphs", list, f"{where}, article {a}"), 1):
            place = f"{where}, article {a}, paragraph {p}"
            context = _field(paragraph, "context", str, place)
            for q, entry in enumerate(_field(paragraph, "qas", list, place), 1):
                here = f"{place}, question {q}"
                answers: Answers | None = None
                key, question = _field(entry, "id", str, here), _field(entry, "question", str, here)
                if entry.get("is_impossible"):
                    answers = ()
                elif entry.get("answers"):
                    answers = [
                        (_field(answer, "answer_start", int, here), _field(answer, "text", str, here))
                        for answer in _field(entry, "answers", list, here)
                    ]
                yield key, question, context, answers


def _field(entry: Any, key: str, kind: type[T], where: str) -> T:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        wanted = {list: "list", str: "string", int: "whole number"}[kind]
        raise TutelageError(f"{where}: no {wanted} {key!r}; write it as SQuAD's own files do")
    return value


def _examples(part: str, questions: Iterable[Question], where: str) -> tuple[Examples, str]:
    """The examples, and how many answers they lack, in words."""
    rows: dict[str, tuple[str, str, tuple[tuple[int, str], ...] | None]] = {}
    lost = 0
    for key, question, context, answers in questions:
        if key in rows:
            raise TutelageError(f"{where}: several questions have the id {key!r}; give each its own")
        label = None
        if answers is not None:
            label = tuple((at, text) for start, text in answers if (at := _find(context, text, start)) >= 0)
            lost += len(answers) - len(label)
        rows[key] = question, context, None if answers and not label else label
    if not rows:
        raise TutelageError(f"{where} has no questions; give a file with some")
    texts, contexts, labels = zip(*rows.values(), strict=True)
    examples = Examples(
        ids=[f"{part}/{key}" for key in rows],
        texts=list(texts),
        pairs=list(contexts),
        labels=np.fromiter(labels, dtype=object, count=len(labels)),
    )
    return examples, f" without {lost} answers that are not in their contexts" if lost else ""


def _find(context: str, text: str, start: int) -> int:
    """Where ``text`` is: at ``start``, else at the only place near it; -1 if there is no or more than one."""
    if not text.strip():
        return -1
    if start >= 0 and context.startswith(text, start):
        return start
    stop = max(start + NEARBY + len(text), 0)
    found = context.find(text, max(start - NEARBY, 0), stop)
    return -1 if found < 0 or context.find(text, found + 1, stop) >= 0 else found
