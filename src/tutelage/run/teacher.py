"""The source of the teacher's signals in a run on a task: the running model, its known logits, or a store. Decided once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.data.examples import Data, Encoded, RowFinder, Rows
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.evaluation.intervals import drawn
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.run.pairing import StageObjectives
from tutelage.run.workspace import Bench
from tutelage.tasks import kind_of
from tutelage.teachers.knowledge import Knowledge, storable, verified
from tutelage.teachers.source import Source
from tutelage.teachers.stored import StoredTeacher
from tutelage.teachers.teacher import KnownLogits, LiveTeacher, Teacher, check_finite

Answers = Literal["none", "running", "known", "store", "mechanism", "file"]
"""The source of the teacher's signals in a stage: ``none`` (not needed), the ``running`` model, its logits computed once
(``known``), a ``store``, a ``mechanism`` of the stage, or a ``file`` of predictions."""


class RunTeacher:
    """The teacher of a run, with its known predictions and its store.

    Args:
        objectives: Those of the stages.
        possible: Those that trials may choose instead.
    """

    def __init__(
        self,
        config: RunConfig,
        bench: Bench,
        source: Source,
        knowledge: Knowledge,
        parts: dict[str, Texts],
        objectives: StageObjectives,
        possible: Sequence[ObjectivePlan] = (),
    ) -> None:
        self.source, self.knowledge = source, knowledge
        self._config, self._bench, self._parts, self._objectives = config, bench, parts, objectives
        self._possible = possible
        self.logits: dict[str, Tensor] = {}
        """The teacher's predictions on each part of the evaluation set, and on the training parts that need them."""
        self.store: Store | None = None
        self.to_write: Scheme | None = None
        """The scheme of the store that this run will write."""
        self._rows: dict[str, Rows] = {}
        self._places = RowFinder(())
        self._stored: Rows = np.empty(0, dtype=np.int64)
        """``(examples,)``: the store's row of each example of the run."""

    def answers(self, stage: Stage, needs: Needs) -> Answers:
        """The source of the teacher's signals in a stage with these needs."""
        if stage.brings_teacher:
            return "mechanism"
        if not needs:
            return "none"
        if not needs.running:
            return "known"
        scheme = self.to_write if self.store is None else self.store.scheme
        return "store" if scheme is not None and scheme.lacks(needs) is None else "running"

    def teacher_for(self, stage: Stage, part: str, needs: Needs) -> Teacher | None:
        """The object that gives the teacher's signals in a stage."""
        texts, device, who = self._parts[part], self._bench.accelerator.device, self.answers(stage, needs)
        if who == "known":
            return KnownLogits(self.on_train(part).to(device), texts.student.logit_rows)
        if who == "store":
            assert self.store is not None
            return StoredTeacher(self.store, self._rows[part], needs, texts.teacher)
        if who == "running":
            return LiveTeacher(self.source.model.to(device), needs, texts.teacher, self._bench.accelerator)
        return None

    def _predicted(self, read: Encoded, name: str, *, divided: bool = False) -> Tensor:
        """The teacher's logits on these texts; ``divided`` as :meth:`Bench.predict`.

        Raises:
            TutelageError: if one is not finite, from which nobody could learn.
        """
        logits = self._bench.predict(self.source.model, read, name, divided=divided)
        check_finite(logits, self.source.name)
        return logits

    def logits_of(self, texts: Texts, name: str) -> Tensor:
        """The teacher's logits on some texts of the run: from the store or the evaluation set's, where they have them all; else
        computed."""
        ids = texts.examples.ids
        if self.store is not None and self.store.scheme.lacks(Needs(logits=True)) is None:
            at = self._places.of(ids)
            if (at >= 0).all():
                return self.store.logits(self._stored[at])
            for part, (known, _) in self.knowledge.dev.items():
                at = RowFinder(known).of(ids)
                if part in self.logits and (at >= 0).all():
                    return self.logits[part][at]
        return self._predicted(texts.teacher or texts.student, name)

    def on_train(self, part: str) -> Tensor:
        """The teacher's logits on a part that stages train on: from the store, or computed once."""
        if part not in self.logits:
            if self.store is not None and self.store.scheme.lacks(Needs(logits=True)) is None:
                self.logits[part] = self.store.logits(self._rows[part])
            else:
                texts = self._parts[part]
                read = texts.teacher or texts.student
                self.logits[part] = self._predicted(read, f"teacher on {part}", divided=True)
        return self.logits[part]

    def confusion_on_train(self, data: Data, most: int) -> npt.NDArray[np.int64]:
        """How the teacher's predictions and the labels of at most so many training texts go together, as ``Kind.confusion``; of a
        teacher without weights none."""
        classes = len(data.labels)
        none = np.zeros((classes, classes), dtype=np.int64)
        train = self._parts["train"]
        rows = np.flatnonzero(train.examples.labelled)
        texts = train.at(rows[drawn(len(rows), most)])
        if not self.source.has_weights or not len(texts.examples):
            return none
        logits = self._predicted(texts.teacher or texts.student, "teacher on labelled texts")
        found = kind_of(data.kind).confusion(logits, texts, classes)
        return none if found is None else found

    def on_evaluation(self) -> None:
        """Predict the parts of the evaluation set, or read the predictions from the store where it has them."""
        store = self.store
        if store is None and not self.source.has_weights:  # the teacher/ folder of a store that is not the run's own
            store, _ = self.knowledge.open(Path(self.source.name).parent, Needs(logits=True))
        if store is not None:
            self.logits |= self.knowledge.evaluation(store)
        for name, (_, encoded) in self.knowledge.dev.items():
            if name not in self.logits:
                self.logits[name] = self._predicted(encoded, f"teacher on {name}", divided=True)

    def keep(self, part: str, rows: Rows) -> None:
        """Keep only these rows of a part, after its texts were cut to them."""
        self.logits[part] = self.logits[part][rows]
        if part in self._rows:
            self._rows[part] = self._rows[part][rows]

    @property
    def needs_weights(self) -> bool:
        """Whether a stage needs the running model, now or for what is computed or written before it."""
        store = self.store
        stages = zip(self._config.recipe.stages, self._objectives.current, strict=True)
        return any(
            self.answers(stage, plan.teacher_needs) in ("running", "known", "store")
            and (store is None or store.scheme.lacks(plan.teacher_needs) is not None)
            for stage, plan in stages
        )

    def check_weights(self) -> None:
        """Check that the teacher has weights if a stage needs them.

        Raises:
            TutelageError: if it has none.
        """
        if not self.source.has_weights and self.needs_weights:
            raise TutelageError(self.source.without_weights)

    def release(self) -> None:
        """Free the weights if no stage needs them any more."""
        if not self.needs_weights:
            self.source.release()

    # ---------------------------------------------------------------------------------------------------- the store

    @property
    def storable_needs(self) -> Needs:
        """What a store for this run holds."""
        return storable([*self._objectives.current, *self._possible])

    def find_store(self) -> None:
        """Open the store that the run names, or one that fits; otherwise plan a new one.

        Raises:
            TutelageError: when the store does not fit, or the place of a new one is taken.
        """
        config, knowledge, needs = self._config, self.knowledge, self.storable_needs
        if config.teacher_store != "auto":
            self._use(*knowledge.open(Path(str(config.teacher_store)), needs))
            return
        self.to_write = knowledge.scheme(needs, config.store_dtype)
        fitting = knowledge.fitting(self.to_write, needs, self._bench.accelerator)
        if fitting is None:
            knowledge.check_free(self.to_write, needs)
        else:
            self._use(*fitting)

    def write_store(self) -> None:
        """Write the planned store, if any, and free the teacher if no stage needs it."""
        if self.to_write is None:
            return
        needs, bench = self.storable_needs, self._bench
        dev = {name: self.logits[name] for name in self.knowledge.dev}
        self._use(*self.knowledge.find_or_write(self.to_write, needs, dev, bench.accelerator, bench.display))
        self.release()

    def _use(self, store: Store, rows: Rows) -> None:
        self._places, self._stored = RowFinder(self.knowledge.ids), rows
        self.store, self.to_write = verified(store, self._bench.display), None
        for part, texts in self._parts.items():
            self._rows[part] = rows[self._places.of(texts.examples.ids)]
