"""Checks before a run on a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head, Shape
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples
from tutelage.data.labels import label_names, places_of, unnamed
from tutelage.data.texts import Texts, same_pieces
from tutelage.errors import TutelageError, option
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe
from tutelage.run.folder import learnt_by_run, learnt_notes
from tutelage.students.load import load_config
from tutelage.students.specs import Student, origin_of
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.tasks.metrics import no_better
from tutelage.tasks.order import better_order
from tutelage.teachers.source import Source

if TYPE_CHECKING:
    from tutelage.run.loading import TaskTexts
    from tutelage.run.teacher import RunTeacher

MOST_UNKNOWN = 0.4
"""Share of unknown tokens beyond which a tokenizer does not fit the texts."""
ENOUGH = 200
"""Labelled texts that tell the order of a teacher's classes."""


def check_storable(data: Data) -> None:
    """Check that a store can keep the predictions.

    Raises:
        TutelageError: if a text has more than one prediction.
    """
    if not kind_of(data.kind).per_text:
        raise TutelageError(
            f"a store keeps one prediction per text, but the task {data.task!r} has one per token; leave out "
            f"{option('teacher_store')}"
        )


def check_poolers(plan: ObjectivePlan, student: PreTrainedModel, teacher: Source | None) -> None:
    """Check that both models have the poolers that a stage reads.

    Raises:
        TutelageError: if a model has none.
    """
    if plan.student_needs.pooled:
        anatomy.pooler_of(student)
    if plan.teacher_needs.pooled and teacher is not None:
        anatomy.pooler_of(teacher.outline)


def check_student_head(student: Student, kind: Kind, data: Data) -> None:
    """Check that a checkpoint with the classes of the data, whose head the student keeps, answers their kind of task.

    Raises:
        TutelageError: if it answers another.
    """
    name = origin_of(student)
    if name is None or student.random_start:
        return
    config = load_config(name)
    if config.num_labels == len(data.labels) and places_of(data.labels, label_names(config)) is not None:
        try:
            kind.check_problem(data, config, name, "model")
        except TutelageError as error:
            raise TutelageError(
                f"{error}; to start from its weights all the same, take problem_type out of its config.json"
            ) from None


def check_unlabelled(config: RunConfig) -> None:
    """Check that the method can use unlabelled texts.

    Raises:
        TutelageError: if the method learns only from labels.
    """
    if config.data.unlabeled is not None and all(stage.labels_only for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns only from labels and cannot use the unlabelled texts of "
            f"{config.data.unlabeled!r}; use a method with a teacher, or leave out {option('unlabeled')}"
        )


def limit_of(data: DataConfig, *models: Any) -> int:
    """The longest input in tokens that all models take, of their configurations.

    Raises:
        TutelageError: if ``max_length`` exceeds it.
    """
    limit = min(anatomy.max_length(config) for config in models)
    if data.max_length is not None and data.max_length > limit:
        raise TutelageError(
            f"{option('max_length')} {data.max_length} is beyond the model's {limit} positions; use {limit}"
        )
    return limit


def check_padding(config: RunConfig, limit: int) -> None:
    """Check that no stage pads beyond the models' positions.

    Raises:
        TutelageError: if one does.
    """
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")


def check_ids(encoded: Encoded, tokenizer: Any, config: Any, name: str | None, part: str) -> None:
    """See that a model has an embedding for every token of these texts, and for the padding between them.

    Raises:
        TutelageError: when a token was added to the tokenizer and not to the model.
    """
    largest, known = max(int(encoded.tokens.max(initial=0)), encoded.pad_token), anatomy.shape_of(config).vocabulary
    if 0 < known <= largest:  # CANINE reads characters and has no vocabulary
        where = "for padding" if largest == encoded.pad_token else f"of {part}"
        raise TutelageError(
            f"the tokenizer of {name!r} gives the token {tokenizer.convert_ids_to_tokens(largest)!r} {where} the id {largest}, "
            f"but the model has {known} embeddings; save the model's own tokenizer beside it, or resize the embeddings "
            "(resize_token_embeddings) and train them"
        )


def own_limit_notes(encoded: Encoded, tokenizer: Any, name: str, part: str) -> list[str]:
    """A note on texts that are read further than the model's own tokenizer says."""
    own = int(tokenizer.model_max_length)
    count = int((encoded.lengths > own).sum())
    if not count:
        return []
    return [
        f"the tokenizer of {name!r} says model_max_length {own}; {count:,} of {len(encoded):,} texts of {part} are longer and are "
        f"read up to {int(encoded.lengths.max())} tokens"
    ]


def layer_teachers(
    config: RunConfig, head: Head, lead: Source | None, reads_as: Callable[[Source], bool]
) -> tuple[dict[str, dict[int, Source]], list[str]]:
    """By stage in which several teachers teach each step and terms compare layers: by number, the teachers that read the student's
    tokens; and a note on each of the others. ``reads_as`` says whether a teacher cuts texts as the student does.

    Raises:
        TutelageError: when a term that is not optional has no such teacher.
    """
    found: dict[str, dict[int, Source]] = {}
    notes = []
    for stage in config.recipe.stages:
        layered = [t for t in stage.objective if t.weight > 0 and not t.teacherless and not t.on_logits]
        everybody = [one for m in stage.mechanisms for one in m.together(config.teachers, head)] if layered else []
        if not everybody:
            continue
        # Positions of tokens are the first teacher's where it reads others than the student.
        fits = lead is not None and reads_as(lead)
        fitting = {number: one for number, one in enumerate(everybody) if fits and reads_as(one)}
        found[stage.name] = fitting
        if not fitting and any(not term.optional for term in layered):
            first = (
                ""
                if fits or lead is None or not any(map(reads_as, everybody))
                else ", and the first teacher reads others"
            )
            raise TutelageError(
                f"stage {stage.name!r} compares layers, but none of the teachers reads the student's tokens{first}; use a method "
                "that learns from predictions alone, a student of a teacher's family, or name a teacher first that reads as the "
                "student"
            )
        others = [one.name for number, one in enumerate(everybody) if fitting and number not in fitting]
        notes += [f"stage {stage.name} compares no layers of {name!r}: it has another tokenizer" for name in others]
    return found, notes


def possible(
    recipe: Recipe,
    kind: Kind,
    student: Shape,
    teacher: Shape | None,
    *,
    predicted: bool,
    same_tokens: Callable[[], bool],
    several: Mapping[str, Mapping[int, Shape]],
) -> tuple[Recipe, list[str]]:
    """The recipe without the optional terms that these models do not allow, and a note on each. ``same_tokens`` says whether both
    models cut texts alike; it is asked only for an optional term that compares tokens. ``several`` are the teachers whose layers
    are compared, by stage in which more than one teaches each step."""
    notes, stages = [], []
    for stage in recipe.stages:
        kept, shapes = [], several.get(stage.name)
        for term in stage.objective:
            reason = None
            if term.optional and not term.teacherless and not term.on_logits and shapes == {}:
                reason = "none of the teachers reads the student's tokens"
            elif term.optional and term.aligned and teacher is not None and not same_tokens():
                reason = "student and teacher have different tokenizers"
            elif term.optional and term.weight > 0:
                try:
                    ObjectivePlan([term], kind, student, teacher, predicted, shapes or {})
                except TutelageError as error:
                    reason = str(error).partition(";")[0]
            if reason is None:
                kept.append(term)
            else:
                notes.append(f"stage {stage.name} leaves out {term.kind}: {reason}")
        stages.append(stage if len(kept) == len(stage.objective) else stage.model_copy(update={"objective": kept}))
    return recipe.model_copy(update={"stages": stages}), notes


def by_token(config: RunConfig) -> str | None:
    """The first term that compares token by token, in words."""
    terms = ((stage, term) for stage in config.recipe.stages for term in stage.objective)
    return next((f"the term {term.kind} of stage {stage.name!r}" for stage, term in terms if term.aligned), None)


def are_words(encoded: Encoded, tokenizer: Any) -> npt.NDArray[np.bool_]:
    """``(tokens,)``: which tokens stand for text, known or not, and are not special."""
    special = [number for number in tokenizer.all_special_ids if number != tokenizer.unk_token_id]
    return ~np.isin(encoded.tokens, special)


def unknown_share(encoded: Encoded, tokenizer: Any) -> tuple[float, int]:
    """The share of unknown tokens, without special tokens, and the number of texts in which every token is unknown."""
    if tokenizer.unk_token_id is None:
        return 0.0, 0
    known = strange = empty = 0
    for part in encoded.pieces():
        words, unknown = are_words(part, tokenizer), part.tokens == tokenizer.unk_token_id
        of_words, of_unknown = part.sums(words), part.sums(unknown)
        known, strange = known + int(words.sum()), strange + int(unknown.sum())
        empty += int(((of_words > 0) & (of_words == of_unknown)).sum())
    return strange / max(known, 1), empty


def check_words(encoded: Encoded, tokenizer: Any, name: str | None, part: str, *, trains: bool = True) -> list[str]:
    """See that the tokenizer knows the texts' words; returns a note where it knows none of some text, or few of others.

    Args:
        trains: A model learns from these texts.

    Raises:
        TutelageError: when most tokens are unknown to it, and a model would learn from them.
    """
    share, empty = unknown_share(encoded, tokenizer)
    if share <= MOST_UNKNOWN and not empty:
        return []
    line = f"{share:.0%} of the tokens of {part} are unknown to the tokenizer of {name!r}" + (
        f", and in {empty:,} of {len(encoded):,} texts all are" if empty else ""
    )
    if share > MOST_UNKNOWN and trains:
        raise TutelageError(
            f"{line}: it does not fit; save the model's own tokenizer beside it, or use a model for this language"
        )
    return [line]


def check_alignment(
    texts: Texts, part: str, objectives: Sequence[ObjectivePlan], kept: npt.NDArray[np.int64] | None = None
) -> None:
    """Check that both models predict the same tokens, and that padding is compared only if it stands in the same places.

    Args:
        texts: A part of the data as both read it.
        part: Its name.
        objectives: Those of the stages.
        kept: The former id of each piece of a trimmed vocabulary.

    Raises:
        TutelageError: if they do not, or it is not.
    """
    if texts.teacher is None or same_pieces(texts.student, texts.teacher, kept):
        return
    if texts.student.windows is not None and kept is not None:
        raise TutelageError(
            f"the trimmed vocabulary lacks words of {part} and spells them with more pieces, so that student and teacher would "
            "answer from different windows of a context; leave out vocabulary=trimmed"
        )
    if texts.student.windows is not None or not np.array_equal(texts.student.logit_rows, texts.teacher.logit_rows):
        raise TutelageError(
            "student and teacher have different tokenizers and would predict different tokens; use a student of the "
            "teacher's family"
            + ("" if kept is None else " with vocabulary=full")
            + ("" if texts.student.windows else ", or a larger max_length")
        )
    if any(plan.teacher_needs.padding for plan in objectives):
        raise TutelageError(
            "padding=reference compares padded places too, but student and teacher have different tokenizers; use "
            "padding=masked"
        )


def near_chance(data: Data, scores: dict[str, float], part: Examples) -> dict[str, float] | None:
    """The scores of a constant answer, if a model's ``scores`` on a part are no better than these."""
    constant = kind_of(data.kind).constant_scores(data, part)
    return constant if no_better(scores, {name: constant[name] for name in data.metrics}, len(part)) else None


def judged(config: RunConfig, texts: TaskTexts, teacher: RunTeacher, anyway: str | None) -> list[str]:
    """Let the teacher answer the evaluation set, and compare it with a constant answer, and the order of its classes with its
    predictions. ``anyway`` is the option that goes on in spite of it, if there is one.

    Returns a warning if it is no better, or another order fits far better, and that is allowed. A metric that compares with the
    teacher says nothing about the teacher.

    Raises:
        TutelageError: when that is not allowed.
    """
    teacher.on_evaluation()
    texts.answered(teacher.logits)
    data, kind, (name, read) = texts.data, texts.kind, texts.evaluation
    if data.metrics[0] in kind.against_teacher:
        return []
    part, logits = read.examples, teacher.logits[name]
    scores = kind.scores(data, logits, read)
    constant = near_chance(data, scores, part)
    line, remedy = None, ""
    if constant is not None or unnamed(teacher.source.config):
        counts = kind.confusion(logits, read, len(data.labels))
        if counts is not None and len(part) < ENOUGH:
            counts = counts + teacher.confusion_on_train(data, ENOUGH)
        line = None if counts is None else other_order(counts, data, teacher.source)
        remedy = "" if anyway is None else f"; {anyway} goes on with the order as it is"
    if line is None and constant is not None:
        metric = data.metrics[0]
        line = (
            f"the teacher {config.teacher!r} scores {metric} {scores[metric]:.3f} on {name}, no better than a constant answer "
            f"({constant[metric]:.3f})"
        )
        remedy = "; fine-tune it on this task" + ("" if anyway is None else f", or pass {anyway}")
    if line is None:
        return []
    if not config.allow_weak_teacher:
        raise TutelageError(f"{line}{remedy}")
    return [line]


def learnt_by_others(config: RunConfig, texts: TaskTexts, given: Data) -> list[str]:
    """Warnings of evaluation texts on which the run of a teacher, or of the model that the student is made of, has trained: they
    know the answers, and a student of theirs, too. ``given`` is what the run's own settings read."""
    named = (config.first_teacher, config.teacher, *config.teachers)
    teachers = {name: f"the teacher {name!r}" for name in named if name is not None}
    origin = origin_of(config.recipe.student)
    others = ({} if origin is None else {origin: f"{origin!r}, of which the student is made,"}) | teachers
    found = []
    for name, who in others.items():
        learnt = learnt_by_run(name, config.data, given)
        found += [note for part, read in texts.dev.items() for note in learnt_notes(learnt, part, read.examples, who)]
    return found if config.data.train is None else [f"{note} ({option('dev')})" for note in found]


def other_order(counts: npt.NDArray[np.int64], data: Data, source: Source) -> str | None:
    """What to say where another order of a model's classes scores far higher on labelled texts, with the remedy."""
    order = better_order(counts)
    if order is None:
        return None
    names = [data.labels[number] for number in order.classes]
    if unnamed(source.config) and not any("," in name for name in names):
        remedy = f"pass {option('labels')} {','.join(names)}"
    else:
        remedy = f"correct id2label in its config.json to {json.dumps(dict(enumerate(names)), ensure_ascii=False)}"
    return (
        f"the {source.role} {source.name!r} seems to have its classes in another order: it is right about {order.now:.1%} of "
        f"{int(counts.sum()):,} labelled texts, and about {order.then:.1%} if its outputs are {', '.join(names)}; {remedy}"
    )
