"""Questions whose answers are spans of a context: SQuAD 1.1 and 2.0, files in their format, and their windows of tokens."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from tutelage.data.examples import UNASKED, UNKNOWN, Data, Encoded, Examples, Windows
from tutelage.errors import TutelageError

VERSIONS = {"squad": ("v1.1", "rajpurkar/squad"), "squad2": ("v2.0", "rajpurkar/squad_v2")}
"""Version in the names of the files, and name on the Hub."""
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
        parts = {part: read_squad(path, part) for part, path in paths.items()}
    return Data(
        task=version,
        kind="spans",
        labels=(),
        metrics=("f1", "exact_match"),
        train=parts["train"][0],
        dev={"dev": parts["dev"][0]},
        sources={part: source for part, (_, source) in parts.items()},
    )


def own_questions(train: Path, dev: Path | None) -> Data:
    """Questions from files in SQuAD's JSON format; without ``dev`` a tenth of ``train`` is held out.

    Raises:
        TutelageError: as :func:`read_squad`, or when no question of dev has a known answer.
    """
    examples, source = read_squad(train, "train")
    sources = {"train": source}
    if dev is None:
        held = np.random.default_rng(0xDE7).permutation(len(examples)) % 10 == 4
        scored, examples = examples.take(np.flatnonzero(held)), examples.take(np.flatnonzero(~held))
        sources["dev"] = "10% of train, held out"
    else:
        scored, sources["dev"] = read_squad(dev, "dev")
    scored = scored.take(np.flatnonzero(scored.labelled))
    if not len(scored) or not len(examples):
        raise TutelageError(
            f"{dev or train} has no question with a known answer to score on; give a --dev file with some"
        )
    name = train.name.removesuffix(".gz").rpartition(".")[0]
    return Data(name, "spans", (), ("f1", "exact_match"), examples, {"dev": scored}, sources=sources)


def read_squad(path: Path, name: str) -> tuple[Examples, str]:
    """The questions of a JSON file (also with .gz) in SQuAD's format, and in words where they came from.

    Ids are ``"{name}/{question id}"``; labels as in ``Examples`` for spans. A question that ``is_impossible`` has no
    answer in its context; the answers of one without ``answers`` are unknown. An answer that is not at its
    ``answer_start`` is taken from the only place nearby where it is; if there is none it is left out and counted in the
    words, and a question that so loses its last answer counts as unknown.

    Raises:
        TutelageError: the file is missing, cannot be read, is not UTF-8 or JSON, lacks a field, has no questions or an
            id twice.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            tree = json.load(file)
    except UnicodeDecodeError:
        raise TutelageError(f"{path} is not UTF-8; convert it to UTF-8") from None
    except json.JSONDecodeError as error:
        raise TutelageError(f"{path}, line {error.lineno}: not JSON ({error.msg}); correct or fetch it again") from None
    except (OSError, EOFError, zlib.error) as error:
        raise TutelageError(f"{path} cannot be read ({error}); check the path, or fetch it again") from None
    examples, lost = _examples(name, _questions(tree, str(path)), str(path))
    return examples, path.name + lost


def _from_hub(hub: str) -> dict[str, tuple[Examples, str]]:
    import datasets

    try:
        splits = datasets.load_dataset(hub)
    except Exception as error:  # those of datasets, huggingface_hub, httpx and the operating system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TutelageError(
            f"{hub} cannot be had from the Hub ({reason}); pass --data-dir with the folder of SQuAD's JSON files"
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
        f"there is no {name} (or {name}.gz) in {str(folder)!r}; fetch it, or set --data-dir to its folder"
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


def encode_spans(
    examples: Examples, tokenizer: Any, max_length: int = 384, stride: int = 128, max_question: int = 64
) -> Encoded:
    """Questions with their contexts in overlapping windows of at most ``max_length`` tokens, without padding.

    A row is [CLS] question [SEP] window [SEP], as the tokenizer writes it. Neighbouring windows share ``stride`` tokens
    of the context; a question loses its tokens beyond ``max_question`` (then ``cut`` is true for its rows). Asked are
    [CLS] and the tokens of the context. ``labels`` ``(rows, 2)`` are of a question's first answer, and 0 (at [CLS]) also
    where that is not wholly in the window.

    Raises:
        TutelageError: the tokenizer has no [CLS], or ``max_length`` leaves no room for windows that move on.
    """
    assert examples.pairs is not None
    if tokenizer.cls_token_id is None:
        raise TutelageError(
            f"{type(tokenizer).__name__} has no [CLS], which stands for no answer; use the model of a family that has it"
        )
    room = max_length - max_question - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise TutelageError(
            f"max_length={max_length} leaves {room} tokens for the context beside max_question={max_question}, but windows"
            f" that share stride={stride} need more; raise max_length or lower stride"
        )
    has_types = "token_type_ids" in tokenizer.model_input_names
    tokens: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    types: list[npt.NDArray[np.int8]] = [np.empty(0, dtype=np.int8)]
    targets: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    chars: list[npt.NDArray[np.int32]] = [np.empty((0, 2), dtype=np.int32)]
    labels: list[tuple[int, int]] = []
    of: list[int] = []
    cut: list[bool] = []
    for begin in range(0, len(examples), 1024):
        questions, shortened = _questions_to(max_question, examples.texts[begin : begin + 1024], tokenizer)
        output = tokenizer(
            questions,
            list(examples.pairs[begin : begin + 1024]),
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            padding=False,
            return_overflowing_tokens=True,
            return_token_type_ids=False,
            return_attention_mask=False,
        )
        for encoding, place in zip(output.encodings, output["overflow_to_sample_mapping"], strict=True):
            # Of [CLS], the question and the separators the offsets are not those in the context.
            context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            offsets = np.where(context[:, None], np.array(encoding.offsets, dtype=np.int32), np.int32(-1))
            target = np.where(context, np.int32(UNKNOWN), np.int32(UNASKED))
            target[0] = UNKNOWN
            tokens.append(np.array(encoding.ids, dtype=np.int32))
            types.append(np.array(encoding.type_ids if has_types else [], dtype=np.int8))
            targets.append(target)
            chars.append(offsets)
            labels.append(_label(examples.labels[begin + place], offsets[context]))
            of.append(begin + place)
            cut.append(shortened[place])
    return Encoded(
        tokens=np.concatenate(tokens),
        types=np.concatenate(types) if has_types else None,
        offsets=np.cumsum([len(row) for row in tokens], dtype=np.int64),
        cut=np.array(cut, dtype=np.bool_),
        pad_token=int(tokenizer.pad_token_id),
        separator=-1 if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id),
        labels=np.array(labels, dtype=np.int64).reshape(-1, 2),
        targets=np.concatenate(targets),
        windows=Windows(of=np.array(of, dtype=np.int64), chars=np.concatenate(chars)),
    )


def _questions_to(limit: int, questions: Sequence[str], tokenizer: Any) -> tuple[list[str], list[bool]]:
    """The questions with at most ``limit`` tokens each, and which of them were cut."""
    output = tokenizer(list(questions), add_special_tokens=False, truncation=True, max_length=limit + 1)
    kept, cut = list(questions), [len(encoding.ids) > limit for encoding in output.encodings]
    for row in np.flatnonzero(cut):
        offsets = output.encodings[row].offsets
        # Cut where a token ends that ends a character: the tokens before it then stay the same. (The bytes of one
        # character share its place.)
        ends = [offsets[i][1] for i in range(limit) if offsets[i][1] <= offsets[i + 1][0]]
        kept[row] = kept[row][: max(ends, default=0)]
    return kept, cut


def _label(answers: Answers | None, chars: npt.NDArray[np.int32]) -> tuple[int, int]:
    """First and last token of the first answer among a window's tokens with these ``chars``, counted from 1.

    0 where the answer is not wholly in the window, -1 where it is unknown.
    """
    if answers is None:
        return -1, -1
    if not answers or not len(chars):
        return 0, 0
    start, text = answers[0]
    stop = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    if start < chars[0, 0] or stop > chars[-1, 1]:
        return 0, 0
    first = int(np.searchsorted(chars[:, 1], start, side="right")) + 1
    last = int(np.searchsorted(chars[:, 0], stop, side="left"))
    return (first, last) if first <= last else (0, 0)
