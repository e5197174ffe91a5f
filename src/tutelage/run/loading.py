"""The data of a run on a task: loaded, matched with the teacher's labels, split, augmented, and read by both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.augmentation.rules import Lexicon, Rules, rule_variants
from tutelage.data.augmentation.variants import variants
from tutelage.data.examples import Data, Encoded, Examples, Rows
from tutelage.data.parts import held_part, part_of
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError
from tutelage.recipes.config import RunConfig
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.teachers.source import Source


@dataclass(frozen=True)
class Split:
    """A task's data, split for one run."""

    data: Data
    given_labels: tuple[str, ...]
    """The classes in the order of the data, whatever the teacher's order."""
    whole: Examples
    """All of train: a store covers it, so that it serves runs with other splits."""
    held: frozenset[str]
    """Ids of the examples of train that are held out for mechanisms that compare several teachers."""
    held_part: tuple[int, int]
    """``(k, n)``: which part of train these are, before the validation split is taken."""


def load_split(config: RunConfig, data: Data, teacher: Source | None, warnings: list[str]) -> Split:
    """Number the labels as the teacher does, and take the validation split and the held-out part from train.

    Raises:
        TutelageError: when the teacher has other labels than the data.
    """
    given_labels, part = data.labels, held_part(len(data.train))
    held: frozenset[str] = frozenset()
    if config.teachers:  # before labels are numbered as the teacher numbers them
        numbers = part_of(data.train, part[1])
        held = frozenset(name for name, number in zip(data.train.ids, numbers, strict=True) if number == part[0])
    if teacher is not None:
        data, notes = kind_of(data.kind).match(data, teacher.config, str(config.teacher))
        warnings += notes
    whole = data.train
    if not kind_of(data.kind).learns_labels:
        data = replace(data, selection=data.train.take([]))
    elif config.data.holdout:
        data = data.hold_out(config.data.holdout, config.seed)
    if data.selection is None:
        first = next(iter(data.dev))
        data = replace(data, selection=data.dev[first], sources={**data.sources, "selection": f"{first}, as reported"})
        warnings.append(f"checkpoints are selected on {first}, which the report scores: its scores are optimistic")
    return Split(data, given_labels, whole, held, part)


def gather_texts(
    config: RunConfig, split: Split, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, dict[str, list[str]]]:
    """All texts that a teacher may be asked about in training, and the ids of each part that stages train on.

    Raises:
        TutelageError: when candidates are given that no stage uses, or that know none of these texts.
    """
    data, stages = split.data, config.recipe.stages
    learnt = data.train if data.unlabeled is None else data.train.join(data.unlabeled)
    every = split.whole if data.unlabeled is None else split.whole.join(data.unlabeled)
    names = {"train": list(learnt.ids)}
    if any(mechanism.trains_without_held_out() for stage in stages for mechanism in stage.mechanisms):
        names["search"] = [name for name in learnt.ids if name not in split.held]
    if all(stage.data != "augmented" for stage in stages):
        if config.data.candidates is not None or config.data.drop_flipped:
            raise TutelageError(
                f"the method {config.recipe.method!r} has no stage on augmented texts; leave out --candidates and "
                "data.drop_flipped"
            )
        return every, names
    more, of = _augmented(config, kind_of(data.kind), every, teacher, warnings)
    kept = set(learnt.ids)
    added = [name for name, row in zip(more.ids, of, strict=True) if every.ids[row] in kept]
    names["augmented"] = [*learnt.ids, *added]
    return every.join(more), names


def _augmented(
    config: RunConfig, kind: Kind, examples: Examples, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, Rows]:
    """Variants of the examples as the recipe wants them, and which example each is a variant of."""
    how, data = config.recipe.augmentation, config.data
    if isinstance(how, Rules):
        if teacher is not None and teacher.tokenizer.mask_token is not None:
            how = how.model_copy(update={"mask_token": teacher.tokenizer.mask_token})
        return rule_variants(examples, Lexicon([*examples.texts, *(examples.pairs or [])]), how, config.seed)
    if how is not None and data.candidates is not None:
        if kind.answers_in_pair:
            how = how.model_copy(update={"fields": "text"})
        more, of = variants(examples, Candidates.load(Path(data.candidates)), how, config.seed)
        if not len(more):
            raise TutelageError(
                f"the candidates in {data.candidates!r} know none of these texts; make them with the same data: tutelage "
                "augment"
            )
        return more, of
    warnings.append(
        f"the method {config.recipe.method!r} trains on augmented texts, but no candidates were given (--candidates, made by "
        "tutelage augment); it trains on the texts as they are"
    )
    return examples.take([]), np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Reader:
    """Encodes texts for the student, and for the teacher where that differs."""

    kind: Kind
    tokenizer: object
    """The student's."""
    teacher: Source | None
    limit: int
    stride: int | None

    def read(self, examples: Examples) -> Texts:
        """The texts as both models read them."""
        ours = self.kind.encode(examples, self.tokenizer, self.limit, self.stride)
        if self.teacher is None or self.tokenizer is self.teacher.tokenizer:
            return Texts(examples, ours, None)
        fitted = fitted_tokenizer(self.teacher.tokenizer, self.teacher.outline)
        theirs = self.kind.encode(examples, fitted, self.limit, self.stride)
        same = np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.offsets, theirs.offsets)
        return Texts(examples, ours, None if same and _same_types(ours, theirs) else theirs)


def _same_types(one: Encoded, other: Encoded) -> bool:
    if one.types is None or other.types is None:
        return one.types is other.types
    return np.array_equal(one.types, other.types)


def truncation_notes(kind: Kind, limit: int, texts: Sequence[tuple[str, Texts]]) -> list[str]:
    """Which texts are longer than the limit."""
    return [
        f"{read.student.truncated:,} {kind.unit} of {name} are longer than {limit} tokens and are cut"
        for name, read in texts
        if read.student.truncated
    ]
