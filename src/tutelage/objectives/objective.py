"""The terms of one stage: first what they need of which layers, as plain data; then a module that computes the losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from tutelage.anatomy import Shape, family_named
from tutelage.data.batches import Batch
from tutelage.errors import TutelageError, option
from tutelage.knowledge.cuts import Cut
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.signals import Signals
from tutelage.objectives.mappers import Mapper
from tutelage.objectives.mapping import Pairs
from tutelage.objectives.term import Answers, Comparison, Term


@dataclass(frozen=True)
class ObjectivePlan:
    """What an objective reads and compares, for given shapes. No module is built to learn this.

    Raises:
        TutelageError: a term refuses the kind of task, does not fit the shapes (heads, widths, depths), or needs a teacher
            and there is none.
    """

    given: Sequence[Term]
    kind: Answers
    student: Shape
    teacher: Shape | None
    predicted: bool = False
    """The teacher is a file of predictions: it has logits and no network."""
    several: Mapping[int, Shape] = field(default_factory=dict)
    """Of a team whose teachers all teach each step: by number, the shapes of those whose layers can be compared."""
    terms: list[Term] = field(init=False)
    """The terms with a weight above 0; without those on labels, where the kind of task has none, and without those of
    ``members``."""
    members: dict[int, ObjectivePlan] = field(init=False)
    """The terms on layers for each teacher of ``team``: their losses are summed over the teachers."""
    pairs: list[Pairs] = field(init=False)
    """For each term, the pairs of layers that it compares."""
    cuts: list[list[Cut]] = field(init=False)
    """For each term, what it keeps of the teacher's layer in each pair."""
    maps: list[list[str]] = field(init=False)
    """For each term, the name of the linear map of each pair; empty where it compares without."""
    student_needs: Needs = field(init=False)
    teacher_needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        terms = [term for term in self.given if term.weight > 0]
        if not self.kind.learns_labels:
            terms = [term for term in terms if not term.on_labels]
            if not terms:
                raise TutelageError(
                    f"a task of kind {self.kind.name} has no labels to learn from; use a method with a teacher "
                    "(`tutelage methods`)"
                )
        if not terms:
            raise TutelageError("the objective has no term with a weight above 0; give one at least one")
        layered = [term for term in terms if self.several and not term.teacherless and not term.on_logits]
        members = {
            number: ObjectivePlan(layered, self.kind, self.student, shape)
            for number, shape in self.several.items()
            if layered
        }
        terms = [term for term in terms if term not in layered]
        ours, theirs = Needs(), Needs()
        for term in terms:
            self._check(term)
            needed = term.needs(self.student, self.teacher)
            self._check_attention(term, needed)
            ours, theirs = ours | needed[0], theirs | needed[1]
        for member in members.values():
            ours = ours | member.student_needs
        teacher = self.teacher
        pairs = [[] if teacher is None else term.pairs(self.student, teacher) for term in terms]
        cuts = [[] if teacher is None else term.cuts(self.student, teacher) for term in terms]
        for name, value in (
            ("terms", terms),
            ("members", members),
            ("pairs", pairs),
            ("cuts", cuts),
            ("maps", [[] if teacher is None else term.maps(self.student, teacher) for term in terms]),
            ("student_needs", ours),
            ("teacher_needs", theirs),
        ):
            object.__setattr__(self, name, value)

    @property
    def parts(self) -> list[ObjectivePlan]:
        """This plan and those of ``members``."""
        return [self, *self.members.values()]

    @property
    def linears(self) -> dict[str, tuple[int, bool]]:
        """The projections: by name their number of outputs, and whether they have a bias."""
        found: dict[str, tuple[int, bool]] = {}
        for term in self.terms:
            for name, sizes in term.linears(self.student, self.teacher).items():
                found.setdefault(name, sizes)
        return found

    @property
    def whole_step(self) -> bool:
        """Whether a step must be computed in one piece."""
        return any(term.whole_step for part in self.parts for term in part.terms)

    def _check(self, term: Term) -> None:
        if self.predicted and not term.teacherless and not term.on_logits:
            raise TutelageError(
                f"the objective {term.kind} compares the layers of a teacher, and a file of predictions has none; use a method "
                f"that learns from predictions alone (`tutelage methods`), or give {option('teacher')}"
            )
        if self.teacher is None and not self.predicted and not term.teacherless:
            raise TutelageError(f"the objective {term.kind} needs a teacher; give one with {option('teacher')}")
        for shape in (self.student, None if term.teacherless else self.teacher):
            if shape is not None and not term.on_logits and not family_named(shape.family).layers:
                raise TutelageError(
                    f"the objective {term.kind} reads more than predictions, but a {shape.family} has logits alone; use a "
                    "method that learns from predictions alone (`tutelage methods`)"
                )
        if (reason := term.refusal(self.kind)) is not None:
            raise TutelageError(f"the term {term.kind} {reason}")

    def _check_attention(self, term: Term, needed: tuple[Needs, Needs]) -> None:
        """A tap on a family that it cannot read gives no queries and keys, and no error: the loss would be zero in silence."""
        for shape, needs in zip((self.student, self.teacher), needed, strict=True):
            scored = needs.attention or any(cut.scored_by is not None for cut in needs.cuts)
            if shape is not None and scored and family_named(shape.family).attention is None:
                raise TutelageError(
                    f"the objective {term.kind} reads attention, which cannot be read of a {shape.family}; use a method "
                    "that compares predictions or hidden states (`tutelage methods`)"
                )


class Objective(nn.Module):
    """The losses of one stage, for a student and a teacher of these shapes.

    Owns the projections: linear maps from student to teacher width by the names that terms give them (:meth:`Term.maps`), and
    the modules that terms bring. A term is given its own maps, in the order of its pairs. Each of ``several`` teachers whose layers
    are compared has projections of its own.

    Raises:
        TutelageError: as :class:`ObjectivePlan`.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        kind: Answers,
        student: Shape,
        teacher: Shape | None,
        *,
        predicted: bool = False,
        several: Mapping[int, Shape] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan = ObjectivePlan(terms, kind, student, teacher, predicted, several or {})
        self.projections = nn.ModuleDict()
        for name, (width, bias) in plan.linears.items():
            self.projections[name] = linear = nn.Linear(plan.student.hidden, width, bias=bias)
            nn.init.normal_(linear.weight, std=0.02)
            if bias:
                nn.init.zeros_(linear.bias)
        self._continued: tuple[str, ...] = ()
        for term in plan.terms:
            modules = term.modules(plan.student, plan.teacher)
            self.projections.update(modules)
            self._continued += tuple(f"{name}." for name in modules if term.continues)
        # A plain dictionary: their modules are part of the projections, and of nothing else.
        self._members = {
            number: Objective(member.terms, kind, student, member.teacher) for number, member in plan.members.items()
        }
        for number, objective in self._members.items():
            self.projections[f"teacher{number + 1}"] = objective.projections
            self._continued += tuple(f"teacher{number + 1}.{name}" for name in objective._continued)

    def inherit(self, found: Mapping[str, Tensor]) -> None:
        """Copy projections of another objective into this one's, where names and shapes agree."""
        ours = self.projections.state_dict()
        fitting = {name: x for name, x in found.items() if name in ours and ours[name].shape == x.shape}
        self.projections.load_state_dict({**ours, **fitting})

    def continue_from(self, found: Mapping[str, Tensor]) -> None:
        """:meth:`inherit` what the stages before left, for the terms that continue (:attr:`Term.continues`)."""
        self.inherit({name: x for name, x in found.items() if name.startswith(self._continued)})

    @property
    def _mappers(self) -> Iterator[Mapper]:
        return (module for module in self.projections.modules() if isinstance(module, Mapper))

    def begin_epoch(self, generator: np.random.Generator) -> None:
        """The loop begins an epoch; ``generator`` follows from the seed, the stage and the epoch (:meth:`Mapper.begin_epoch`)."""
        for mapper in self._mappers:
            mapper.begin_epoch(generator)

    def after_step(self) -> None:
        """The loop has made an optimiser step (:meth:`Mapper.after_step`)."""
        for mapper in self._mappers:
            mapper.after_step()

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> dict[str, Tensor]:
        """Each term's weighted loss by name; their sum is the loss. Those on layers are summed over the teachers of a team."""
        plan = self.plan
        seen = [
            Comparison(
                student, teacher, batch, plan.kind, pairs, cuts, self.projections, [self.projections[m] for m in maps]
            )
            for pairs, cuts, maps in zip(plan.pairs, plan.cuts, plan.maps, strict=True)
        ]
        found = {term.kind: term.weight * term.value(x) for term, x in zip(plan.terms, seen, strict=True)}
        assert bool(teacher.members) == bool(self._members)
        for number, theirs in teacher.members.items():
            for name, loss in self._members[number](student, theirs, batch).items():
                found[name] = found.get(name, 0) + theirs.share * loss
        return found
