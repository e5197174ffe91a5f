"""The objectives of a run's stages for one student: its size and origin say what they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.objectives.mapping import of_origin
from tutelage.objectives.objective import ObjectivePlan
from tutelage.objectives.term import Term
from tutelage.recipes.config import RunConfig
from tutelage.run import checks
from tutelage.run.student import StudentFactory
from tutelage.students.copied import chosen_layers
from tutelage.students.final import final_config
from tutelage.students.specs import Copied, Student
from tutelage.tasks.kind import Kind
from tutelage.teachers.source import Source


class StageObjectives:
    """The objectives of the stages of a run on a task, for the student of its factory.

    Args:
        config: The run.
        kind: The kind of its task.
        factory: Makes its student, and the outline of any other.
        student: The student, which may be an outline.
        teacher: The teacher, if it is a model.
        predicted: Whether a file of predictions stands for the teacher.

    Raises:
        TutelageError: when a term compares layers of several teachers, none of which reads as the student does, or a term is not
            possible with these models.
    """

    def __init__(
        self,
        config: RunConfig,
        kind: Kind,
        factory: StudentFactory,
        student: PreTrainedModel,
        teacher: Source | None,
        *,
        predicted: bool,
    ) -> None:
        self._kind, self._factory, self._predicted = kind, factory, predicted
        self._teacher = None if teacher is None else teacher.shape
        self._spec, self._student = factory.spec, anatomy.shape_of(final_config(student))
        self._several, apart = checks.layer_teachers(config, kind.head, teacher, factory.reads_as)
        self.recipe, left_out = checks.possible(
            config.recipe,
            kind,
            self._student,
            self._teacher,
            predicted=predicted,
            same_tokens=lambda: teacher is None or factory.reads_as(teacher),
            several={name: _shapes(found) for name, found in self._several.items()},
        )
        """The recipe, without the optional terms that these models do not allow."""
        self.current = self.of(self._spec)
        """Those of the run's student."""
        self.warnings = [*apart, *left_out, *self._check(student, teacher)]

    def of(self, spec: Student) -> list[ObjectivePlan]:
        """The objectives for a student: its sizes, and the layers that it is made of, say what terms compare."""
        shape = self._student
        if spec is not self._spec:
            shape = anatomy.shape_of(final_config(self._factory.of(spec).outline()))
        layers = copied_layers(spec, self._factory.source_shape, self._teacher)
        plans = []
        for stage in self.recipe.stages:
            several = _shapes(self.teachers(stage.name))
            terms = paired(stage.objective, None if several else layers, self._teacher.layers if self._teacher else 0)
            plans.append(ObjectivePlan(terms, self._kind, shape, self._teacher, self._predicted, several))
        return plans

    def take(self, spec: Student, student: PreTrainedModel) -> None:
        """``spec`` is now the run's student."""
        self._spec, self._student = spec, anatomy.shape_of(final_config(student))
        self.current = self.of(spec)

    def teachers(self, stage: str) -> Mapping[int, Source]:
        """The teachers whose layers a stage compares, by number, where several teach each step."""
        return self._several.get(stage, {})

    def _check(self, student: PreTrainedModel, teacher: Source | None) -> list[str]:
        """See that both models have the poolers that are read; returns warnings."""
        warnings = []
        for stage, plan in zip(self.recipe.stages, self.current, strict=True):
            checks.check_poolers(plan, student, teacher)
            if stage.patience is not None and not self._kind.learns_labels:
                warnings.append(
                    f"stage {stage.name}: patience={stage.patience} has no effect, because vectors are not scored during training; "
                    "all epochs are trained"
                )
            for part, term, mapped in ((p, *pair) for p in plan.parts for pair in zip(p.terms, p.pairs, strict=True)):
                if part.teacher and not mapped and (note := term.unpaired(self._student, part.teacher)) is not None:
                    warnings.append(f"stage {stage.name} {note}")
        return warnings


def _shapes(teachers: Mapping[int, Source]) -> dict[int, anatomy.Shape]:
    return {number: one.shape for number, one in teachers.items()}


def copied_layers(student: Student, source: anatomy.Shape | None, teacher: anatomy.Shape | None) -> list[int] | None:
    """The teacher's layers that a student's are copies of, from 1. None for another kind of student, and for copies of a model
    (``source``) that is not as deep as the teacher."""
    if not isinstance(student, Copied) or source is None or teacher is None or source.layers != teacher.layers:
        return None
    return chosen_layers(student, source.layers)


def paired(terms: Sequence[Term], layers: list[int] | None, depth: int) -> list[Term]:
    """The terms for a student made of these layers of a teacher of this depth."""
    if layers is None:
        return list(terms)
    mapping = of_origin(layers, depth)
    return [term.model_copy(update={"layers": mapping}) if pairs_by_origin(term) else term for term in terms]


def pairs_by_origin(term: Term) -> bool:
    """Whether the pairs of a term depend on the layers that the student is made of."""
    return getattr(term, "layers", None) == "origin"
