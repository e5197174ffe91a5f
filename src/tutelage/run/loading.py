"""The data of a run on a task: matched with the teacher's labels, split, augmented, and read by both models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.alignment import align
from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.augmentation.rules import Lexicon, Rules, rule_variants
from tutelage.data.augmentation.variants import variants
from tutelage.data.batches import Feed, Known
from tutelage.data.examples import TOKENS_AT_ONCE, Data, Encoded, Examples, RowFinder, Rows, hashed_keys
from tutelage.data.mapped import held, taken
from tutelage.data.parts import held_part, part_of
from tutelage.data.texts import Texts, same_pieces
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.run.checks import check_alignment, check_ids, check_words, own_limit_notes
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.teachers.source import Source

if TYPE_CHECKING:
    from tutelage.run.teacher import RunTeacher


@dataclass(frozen=True)
class Split:
    """A task's data, split for one run."""

    data: Data
    given_labels: tuple[str, ...]
    """The classes in the order of the data, before they follow the teacher's order."""
    whole: Examples
    """The whole training set. A store covers it, so that runs with other splits can use it."""
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
    warnings += evaluated_notes(data)
    whole = data.train
    if not kind_of(data.kind).learns_labels:
        data = replace(data, selection=data.train.take([]))
    elif config.data.holdout:
        data = data.hold_out(config.data.holdout, config.seed)
    if data.selection is None:
        first = next(iter(data.dev))
        data = replace(data, selection=data.dev[first], sources={**data.sources, "validation": f"{first}, as reported"})
        warnings.append(
            f"the best checkpoint is selected on {first}, which is also the evaluation set: the reported scores are optimistic"
        )
    return Split(data, given_labels, whole, held, part)


def evaluated_notes(data: Data) -> list[str]:
    """How many texts of the evaluation set training sees."""
    learnt, parts = hashed_keys(data.train), [hashed_keys(part) for part in data.dev.values()]
    count = sum(int(np.isin(keys, learnt).sum()) for keys in parts)
    if not count:
        return []
    unit = kind_of(data.kind).unit
    return [f"{count:,} of the {sum(map(len, parts)):,} {unit} of the evaluation set are also in the training set"]


def gather_texts(
    config: RunConfig, split: Split, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, dict[str, Sequence[str]]]:
    """All texts that a teacher may predict during training, and the ids of each part that stages train on.

    Raises:
        TutelageError: if no stage uses the given candidates, or they cover none of these texts.
    """
    data, stages = split.data, config.recipe.stages
    more: Sequence[str] = () if data.unlabeled is None else data.unlabeled.ids
    learnt = held(chain(data.train.ids, more))
    every = split.whole if data.unlabeled is None else split.whole.join(data.unlabeled)
    names = {"train": learnt}
    if any(mechanism.trains_without_held_out() for stage in stages for mechanism in stage.mechanisms):
        names["search"] = held(name for name in learnt if name not in split.held)
    if all(stage.data != "augmented" for stage in stages):
        if config.data.candidates is not None or config.data.drop_flipped:
            raise TutelageError(
                f"the method {config.recipe.method!r} has no stage on augmented texts; leave out "
                f"{option('candidates')} and data.drop_flipped"
            )
        return every, names
    augmented, of = _augmented(config, kind_of(data.kind), every, teacher, warnings)
    kept = RowFinder(learnt).of(every.ids) >= 0
    names["augmented"] = held(chain(learnt, taken(augmented.ids, np.flatnonzero(kept[of]))))
    return every.join(augmented), names


def _augmented(
    config: RunConfig, kind: Kind, examples: Examples, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, Rows]:
    """Augmented texts for the examples, as the recipe describes them, and the row of each one's original."""
    how, data = config.recipe.augmentation, config.data
    if data.predictions is not None:
        warnings.append(
            f"the method {config.recipe.method!r} trains on augmented texts, which have no predictions in "
            f"{data.predictions.file!r}; it trains on the texts as they are"
        )
        return examples.take([]), np.empty(0, dtype=np.int64)
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
                f"the candidates in {data.candidates!r} cover none of these texts; compute them from the same data with "
                f"tutelage augment"
            )
        return more, of
    warnings.append(
        f"the method {config.recipe.method!r} trains on augmented texts, but no candidates were given "
        f"({option('candidates')}, made by tutelage augment); it trains on the original texts only"
    )
    return examples.take([]), np.empty(0, dtype=np.int64)


APART = 0.01
"""Up to this share of a student's tokens may have no counterpart in the teacher's text; they are not compared. It leaves room
for odd characters, which tokenizers of one vocabulary treat differently."""


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


@dataclass(frozen=True)
class Reader:
    """Encodes texts for the student, and for the teacher where that differs."""

    kind: Kind
    tokenizer: Any
    """The student's."""
    teacher: Source | None
    limit: int
    stride: int | None
    by_token: str | None = None
    """The first term of the recipe that compares token by token, in words."""
    kept: npt.NDArray[np.int64] | None = None
    """``(pieces,)``: the former id of each piece of the student's, if its vocabulary is trimmed."""

    def read(self, examples: Examples, *, learnt: bool = False) -> Texts:
        """The texts as both models read them. Of texts that stages learn from (``learnt``) the tokens of both are paired, if a
        term compares them.

        Raises:
            TutelageError: when the tokenizers cut the texts differently.
        """
        ours = self.kind.encode(examples, self.tokenizer, self.limit, self.stride)
        if self.teacher is None or self.tokenizer is self.teacher.tokenizer:
            return Texts(examples, ours, None)
        fitted = fitted_tokenizer(self.teacher.tokenizer, self.teacher.outline)
        theirs = self.kind.encode(examples, fitted, self.limit, self.stride)
        if same_pieces(ours, theirs, self.kept):
            shared = self.kept is None and _same_types(ours, theirs)
            return Texts(examples, ours, None if shared else theirs)
        if learnt and self.by_token is not None and ours.windows is None:
            ours = replace(ours, partners=self._partners(examples, fitted, ours.cut | theirs.cut))
        return Texts(examples, ours, theirs)

    def _partners(self, examples: Examples, teacher: object, cut: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """The teacher's token for each of the student's, by the characters that they stand for."""
        ours, theirs = (self.kind.places(examples, one, self.limit) for one in (self.tokenizer, teacher))
        found = align(ours, theirs, cut)
        if found.apart > APART:
            row = examples.take([found.example])
            text = f"{row.texts[0]} {row.pairs[0] if row.pairs else ''}".strip()
            raise TutelageError(
                f"{self.by_token} compares token by token, but student and teacher have different tokenizers, which cut "
                f"{found.apart:.0%} of the student's tokens differently (as in {shortened(text)!r}); use a method "
                "that learns from predictions alone (`tutelage methods`) or a student with the teacher's tokenizer"
            )
        return found.partners

    def check(self, texts: Texts, part: str, student: Any, name: str | None) -> list[str]:
        """See that both models know the tokens of a part; returns notes on texts of unknown words.

        Args:
            student: The student's configuration.
            name: The checkpoint that its tokenizer comes from; ``None`` where it was made of the training texts.

        Raises:
            TutelageError: for a token beyond the vocabulary, or training texts of unknown words.
        """
        found: list[str] = []
        if name is not None:
            check_ids(texts.student, self.tokenizer, student, name, part)
            found += check_words(texts.student, self.tokenizer, name, part, trains=part == "train")
            if self.teacher is None:
                found += own_limit_notes(texts.student, self.tokenizer, name, part)
        if self.teacher is not None:
            theirs, tokenizer, whose = texts.teacher or texts.student, self.teacher.tokenizer, self.teacher.name
            check_ids(theirs, tokenizer, self.teacher.config, whose, part)
            found += own_limit_notes(theirs, tokenizer, whose, part)
            if texts.teacher is not None or name is None:
                found += check_words(theirs, tokenizer, whose, part, trains=part == "train")
        return found


def _same_types(one: Encoded, other: Encoded) -> bool:
    if one.types is None or other.types is None:
        return one.types is other.types
    spans = [slice(start, start + TOKENS_AT_ONCE) for start in range(0, len(one.types), TOKENS_AT_ONCE)]
    return all(np.array_equal(one.types[span], other.types[span]) for span in spans)


def truncation_notes(kind: Kind, limit: int, texts: Sequence[tuple[str, Texts]]) -> list[str]:
    """Which texts are longer than the limit."""
    return [
        f"{read.student.truncated:,} {kind.unit} of {name} are longer than {limit} tokens and are cut"
        for name, read in texts
        if read.student.truncated
    ]


class TaskTexts:
    """The data of a run on a task, and its texts as both models read them.

    Args:
        split: The data.
        names: The ids of each part that stages train on.
        everything: All texts that a teacher may predict during training.
        reader: Reads the others.
    """

    def __init__(self, split: Split, names: Mapping[str, Sequence[str]], everything: Texts, reader: Reader) -> None:
        assert split.data.selection is not None
        rows = RowFinder(everything.examples.ids)
        self.data, self.kind = split.data, reader.kind
        self.parts = {part: everything.at(rows.of(ids)) for part, ids in names.items()}
        """What stages train on: ``train``; ``augmented`` (with the augmented texts); ``search`` (train without ``held``)."""
        self.selection = reader.read(split.data.selection)
        """The validation split."""
        self.dev = {name: reader.read(part) for name, part in split.data.dev.items()}
        """The parts of the evaluation set."""
        self.held: Texts | None = None
        """Training examples that are held out for mechanisms that compare several teachers."""
        if split.held:
            self.held = everything.at(rows.of([name for name in names["train"] if name in split.held]))

    @property
    def evaluation(self) -> tuple[str, Texts]:
        """The part of the evaluation set that the report leads with, by its name."""
        return next(iter(self.dev.items()))

    def part_of(self, stage: Stage) -> str:
        """The part of the texts that a stage trains on."""
        assert isinstance(stage.data, str)
        reserved = any(mechanism.trains_without_held_out() for mechanism in stage.mechanisms)
        return "search" if reserved else stage.data

    def feed(self, stage: Stage, part: str | None = None, labels: Any = None) -> Feed:
        """The texts that a stage reads (those of its own part), with other labels where a mechanism makes them."""
        encoded = self.parts[part or self.part_of(stage)].student
        return feed_of(stage, encoded if labels is None else replace(encoded, labels=labels))

    def check(self, reader: Reader, objectives: Sequence[ObjectivePlan], student: Any, name: str | None) -> list[str]:
        """See that both models can read the texts; returns warnings.

        Args:
            objectives: Those of the stages.
            student: The student's configuration.
            name: As :meth:`Reader.check`.

        Raises:
            TutelageError: as there, and as :func:`tutelage.run.checks.check_alignment`.
        """
        named = [("train", self.parts["train"]), ("validation", self.selection), *self.dev.items()]
        added = [(part, texts) for part, texts in self.parts.items() if part != "train"]
        warnings = [note for part, texts in [*named, *added] for note in reader.check(texts, part, student, name)]
        warnings += truncation_notes(self.kind, reader.limit, named)
        for part, texts in named:  # losses compare the texts of train alone
            check_alignment(texts, part, objectives if part == "train" else (), reader.kept)
        pairs = self.parts["train"].examples.pairs is not None and name is not None
        if pairs and reader.tokenizer.num_special_tokens_to_add(pair=True) == 0:
            warnings.append("the student's tokenizer has no separator for pairs: the two texts are joined into one")
        return warnings

    def answered(self, logits: Mapping[str, Tensor]) -> None:
        """Take what of a teacher's answers to the evaluation set is a label."""
        for name, texts in self.dev.items():
            texts.examples = self.kind.answered(texts.examples, logits[name])
        self.data = replace(self.data, dev={name: texts.examples for name, texts in self.dev.items()})

    def drop_flipped(self, teacher: RunTeacher) -> str:
        """Leave out the variants for which the teacher predicts another class than for their originals; returns how many they are,
        in words.

        Raises:
            TutelageError: of a kind of task without classes of texts.
        """
        if not self.kind.classifies_texts:
            raise TutelageError(
                f"data.drop_flipped compares predicted classes, and {self.data.task!r} is a {self.data.kind}; leave it out"
            )
        texts = self.parts["augmented"]
        predicted = teacher.on_train("augmented").argmax(dim=1).numpy()
        of = RowFinder(texts.examples.ids).of(name.partition("~")[0] for name in texts.examples.ids)
        kept = np.flatnonzero(predicted == predicted[of])
        self.parts["augmented"] = texts.at(kept)
        teacher.keep("augmented", kept)
        return (
            f"{len(of) - len(kept):,} of {len(of):,} augmented texts change the teacher's prediction and are left out"
        )


def feed_of(stage: Stage, encoded: Encoded) -> Feed:
    """The texts that a stage reads; texts without a label are left out if the stage needs labels."""
    known = encoded.known > 0
    return Known(encoded, np.flatnonzero(known) if stage.needs_labels and not known.all() else None)
