"""What a trimmed vocabulary saves, and how much of held-out texts it covers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tutelage.data.examples import Encoded
from tutelage.data.texts import Texts
from tutelage.errors import option
from tutelage.report.model import Coverage, VocabularyEntry
from tutelage.run.checks import are_words, unknown_share
from tutelage.run.loading import Reader
from tutelage.students.vocabulary import Vocabulary

POOR = 0.95
"""Share of kept tokens below which held-out texts are too far from those that the vocabulary was made of."""


def held_out(named: Iterable[tuple[str, Texts]], learnt: Texts) -> Iterator[tuple[str, Texts]]:
    """The parts of the data of which the vocabulary was not made, each once."""
    seen = set(learnt.examples.ids)
    for name, texts in named:
        if seen.isdisjoint(texts.examples.ids):
            seen.update(texts.examples.ids)
            yield name, texts


def entry(
    vocabulary: Vocabulary, reader: Reader, parts: Iterable[tuple[str, Texts]], width: int
) -> tuple[VocabularyEntry, list[str]]:
    """What the report says of a trimmed vocabulary, and warnings where it does not cover a part.

    Args:
        vocabulary: What is kept.
        reader: Reads texts for the student.
        parts: Held-out texts.
        width: Of the student's embedding table.
    """
    found: dict[str, Coverage] = {}
    warnings = []
    for name, texts in parts:
        before = reader.kind.encode(texts.examples, vocabulary.whole, reader.limit, reader.stride)
        found[name] = one = _coverage(before, texts.student, vocabulary)
        if one.tokens < POOR:
            more = f" ({option('unlabeled')} FILE)" if reader.kind.takes_unlabelled else ""
            warnings.append(
                f"{1 - one.tokens:.0%} of the tokens of {name} are no pieces of the trimmed vocabulary and are spelled with "
                f"shorter ones; give more texts like them{more}, or leave out vocabulary=trimmed"
            )
    removed = (vocabulary.rows - len(vocabulary.kept)) * width
    return VocabularyEntry(
        kept=len(vocabulary.kept), of=vocabulary.rows, parameters=removed, bytes=4 * removed, held_out=found
    ), warnings


def _coverage(before: Encoded, after: Encoded, vocabulary: Vocabulary) -> Coverage:
    words, kept = are_words(before, vocabulary.whole), np.isin(before.tokens, vocabulary.kept)
    lacking = before.sums(~kept)
    return Coverage(
        tokens=float((words & kept).sum() / max(words.sum(), 1)),
        texts=float((lacking == 0).mean()),
        unknown=unknown_share(after, vocabulary.tokenizer)[0],
        unknown_before=unknown_share(before, vocabulary.whole)[0],
    )
