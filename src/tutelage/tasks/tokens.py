"""Labels for words: encoding, predicted tags, entity scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tutelage.anatomy import Head
from tutelage.data.alignment import Place, places_of
from tutelage.data.config import DataConfig
from tutelage.data.examples import NO_TARGET, UNLABELLED, Data, Encoded, Examples
from tutelage.data.readers.conll import bio, own_sentences
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.tasks.kind import Kind
from tutelage.tasks.order import counted
from tutelage.tasks.reply import Piece, Reply


class TokenClassification(Kind):
    """One class for each word of a text. Labels are ``(n,)`` of int64 arrays, one class for each word. Scores are those of entities
    (F1 first) and of words."""

    name = "tokens"
    head: Head = "tokens"
    pipeline = "token-classification"
    own_columns = True
    single_label = True
    served_as = "tags"

    def read(self, train: Path, dev: Path | None, config: DataConfig) -> Data:
        return own_sentences(train, dev, config)

    def encode(self, examples: Examples, tokenizer: Any, max_length: int, stride: int | None = None) -> Encoded:
        return encode_words(examples, tokenizer, max_length)

    def places(self, examples: Examples, tokenizer: Any, max_length: int) -> Iterator[list[Place]]:
        for begin in range(0, len(examples), 1024):
            sentences = [text.split(" ") for text in examples.texts[begin : begin + 1024]]
            encodings = _encodings(sentences, tokenizer, max_length)
            for sentence, encoding in zip(sentences, encodings, strict=True):
                words = [f" {word}" for word in sentence]  # as they were given to the tokenizer
                start = np.cumsum([0, *map(len, words)])
                parts = [None if number is None else 0 for number in encoding.word_ids]
                of_text = [
                    (int(start[number or 0]) + first, int(start[number or 0]) + last)
                    for number, (first, last) in zip(encoding.word_ids, encoding.offsets, strict=True)
                ]
                yield places_of(of_text, ["".join(words)], parts)

    def scores(self, data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
        tags = best_tags(logits, texts.student, texts.examples, data.labels)
        return tag_scores(tags, texts.examples, data.labels)

    def per_example(self, data: Data, logits: Tensor, texts: Texts) -> npt.NDArray[Any]:
        """Entities that are right, predicted and wanted."""
        tags = best_tags(logits, texts.student, texts.examples, data.labels)
        rows = zip(tags, texts.examples.labels, strict=True)
        return np.array([_counted(row, classes, data.labels)[:3] for row, classes in rows])

    def pooled(self, metric: str, rows: npt.NDArray[Any]) -> float:
        right, predicted, wanted = rows.sum(axis=0).tolist()
        return _share(2 * right, predicted + wanted)

    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        return tag_chance(examples, data.labels)

    def confusion(self, logits: Tensor, texts: Texts, classes: int) -> npt.NDArray[np.int64]:
        return tag_confusion(logits, texts.student, classes)

    def typed(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Examples:
        """Words are what stands between spaces.

        Raises:
            TutelageError: there are second texts.
        """
        if pairs is not None:
            raise TutelageError("this model labels the words of one text; leave out the second text")
        return super().typed([" ".join(text.split()) for text in texts])

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        """The entities with the mean probability of their words; with tags that mark none, each word with its tag."""
        shares = (logits / temperature).softmax(dim=1).max(dim=1).values.tolist()
        marks_entities = any(name.startswith(("B-", "I-")) for name in labels)
        found, begin = [], 0
        tagged = best_tags(logits, texts.student, texts.examples, labels)
        for text, tags, count in zip(texts.examples.texts, tagged, texts.student.logit_rows.tolist(), strict=True):
            spans = entities(tags) if marks_entities else [(tag, i, i) for i, tag in enumerate(tags[:count])]
            pieces = _pieces(text.split(" "), spans, shares[begin : begin + count])
            said = "; ".join(f"{one.label}: {one.text}" for one in pieces if one.label is not None)
            found.append(Reply(said or "no entity", pieces=pieces))
            begin += count
        return found

    def usage(self, model: str) -> str:
        return "\n".join(
            [
                "from transformers import pipeline",
                f'tag = pipeline("token-classification", model={model}, aggregation_strategy="first")',
                'print(tag("Ada Lovelace was born in London."))',
            ]
        )


def encode_words(examples: Examples, tokenizer: Any, max_length: int) -> Encoded:
    """Tokenise word by word without padding; words that do not begin within ``max_length`` tokens are cut off.

    The first piece of each word is predicted; its target is the word's class. So the k-th predicted token of a row belongs to
    its k-th word. Words that do not fit are the last ones of a row (then its ``cut`` is true).
    """
    has_types = "token_type_ids" in tokenizer.model_input_names
    tokens: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    types: list[npt.NDArray[np.int8]] = [np.empty(0, dtype=np.int8)]
    targets: list[npt.NDArray[np.int32]] = [np.empty(0, dtype=np.int32)]
    cut: list[bool] = []
    for begin in range(0, len(examples), 1024):
        encodings = _encodings(
            [text.split(" ") for text in examples.texts[begin : begin + 1024]], tokenizer, max_length
        )
        for encoding, classes in zip(encodings, examples.labels[begin : begin + 1024], strict=True):
            word = np.array([-1 if number is None else number for number in encoding.word_ids])
            first = (word >= 0) & (np.diff(word, prepend=-1) != 0)
            target = np.full(len(word), NO_TARGET, dtype=np.int32)
            target[first] = UNLABELLED if classes is None else classes[word[first]]
            tokens.append(np.array(encoding.ids, dtype=np.int32))
            types.append(np.array(encoding.type_ids if has_types else [], dtype=np.int8))
            targets.append(target)
            cut.append(bool(encoding.overflowing))
    return Encoded(
        tokens=np.concatenate(tokens),
        types=np.concatenate(types) if has_types else None,
        offsets=np.cumsum([len(row) for row in tokens], dtype=np.int64),
        cut=np.array(cut, dtype=np.bool_),
        pad_token=int(tokenizer.pad_token_id),
        separator=-1 if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id),
        labels=examples.labels,
        targets=np.concatenate(targets),
    )


def tag_confusion(logits: Tensor, encoded: Encoded, classes: int) -> npt.NDArray[np.int64]:
    """``(classes, classes)``: how many words of each class (rows) were predicted as each (columns); logits as for best_tags."""
    assert encoded.targets is not None
    return counted(encoded.targets[encoded.targets != NO_TARGET], logits, classes)


def _encodings(sentences: list[list[str]], tokenizer: Any, max_length: int) -> list[Any]:
    """The sentences as the tokenizer encodes them, each word at least one token."""

    def encodings() -> list[Any]:
        # With a space before it a word has the pieces that it has within a text; tokenizers without a sense of spaces
        # ignore it. (RoBERTa's would otherwise take all words for one.)
        words = [[f" {word}" for word in sentence] for sentence in sentences]
        output = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length, padding=False)
        return list(output.encodings)

    result = encodings()
    # Of a word of control characters alone nothing is left; its place must not go to the next word.
    vanished = False
    for sentence, encoding in zip(sentences, result, strict=True):
        there = {number for number in encoding.word_ids if number is not None}
        seen = max(there, default=-1) + 1 if encoding.overflowing else len(sentence)
        for number in set(range(seen)) - there:
            sentence[number] = tokenizer.unk_token
            vanished = True
    return encodings() if vanished else result


def best_tags(
    logits: Tensor | npt.NDArray[Any], encoded: Encoded, examples: Examples, names: Sequence[str]
) -> list[list[str]]:
    """The most likely tag of each word of each of ``examples``.

    ``logits`` is ``(units, classes)``, for the predicted tokens of ``encoded`` (first pieces of words),
    row by row; ``names`` are the classes. Words that were cut off are ``"O"``.
    """
    assert encoded.targets is not None
    tags = [names[number] for number in torch.as_tensor(logits).argmax(dim=1).tolist()]
    bounds = np.concatenate([[0], np.cumsum(encoded.targets != NO_TARGET)])[encoded.offsets]
    result = []
    for text, start, stop in zip(examples.texts, bounds[:-1], bounds[1:], strict=True):
        result.append(tags[start:stop] + ["O"] * (len(text.split(" ")) - (stop - start)))
    return result


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Type, first and last word of each entity, where an ``I-`` that continues nothing starts one (as in conlleval)."""
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(bio(tags)):
        if tag.startswith("B-"):
            found.append((tag[2:], place, place))
        elif tag.startswith("I-"):
            found[-1] = (tag[2:], found[-1][1], place)
    return found


def tag_scores(predictions: Sequence[Sequence[str]], examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` of entities and ``accuracy`` of words, as fractions.

    ``predictions`` has a tag for each word of each of ``examples``, which are all labelled; ``names`` are the classes of
    the labels. An entity is right if type, first and last word are. Words whose class is not known are left out.
    """
    rows = zip(predictions, examples.labels, strict=True)
    counts = np.array([_counted(row, classes, names) for row, classes in rows]).reshape(-1, 5)
    right, predicted, wanted, same, words = counts.sum(axis=0).tolist()
    return {
        "f1": _share(2 * right, predicted + wanted),
        "precision": _share(right, predicted),
        "recall": _share(right, wanted),
        "accuracy": _share(same, words),
    }


def _counted(
    tags: Sequence[str], classes: npt.NDArray[np.int64], names: Sequence[str]
) -> tuple[int, int, int, int, int]:
    """Of one sentence: entities that are right, predicted and wanted; words that are right, and known."""
    known = [(tag, names[number]) for tag, number in zip(tags, classes, strict=True) if number >= 0]
    said, true = entities([tag for tag, _ in known]), entities([tag for _, tag in known])
    return len(set(said) & set(true)), len(said), len(true), sum(tag == name for tag, name in known), len(known)


def tag_chance(examples: Examples, names: Sequence[str]) -> dict[str, float]:
    """The scores that are had for nothing: those of ``"O"`` for every word, so 0 for entities."""
    return tag_scores([["O"] * len(classes) for classes in examples.labels], examples, names)


def _pieces(words: Sequence[str], spans: Sequence[tuple[str, int, int]], shares: Sequence[float]) -> tuple[Piece, ...]:
    """A text in labelled spans, ``(label, first word, last word)`` in order, and what lies between them."""
    found: list[Piece] = []

    def add(piece: Piece) -> None:
        found.extend([Piece(" "), piece] if found else [piece])

    place = 0
    for label, first, last in spans:
        if first > place:
            add(Piece(" ".join(words[place:first])))
        add(Piece(" ".join(words[first : last + 1]), label, float(np.mean(shares[first : last + 1]))))
        place = last + 1
    if place < len(words):
        add(Piece(" ".join(words[place:])))
    return tuple(found)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
