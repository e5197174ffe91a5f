"""The result of a run: report, student, predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tutelage.errors import TutelageError
from tutelage.report.comparison import tables

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    from transformers import PreTrainedModel

    from tutelage.anatomy import Head
    from tutelage.data.examples import Data
    from tutelage.recipes.choices import Precision
    from tutelage.recipes.config import RunConfig
    from tutelage.serving.report import ExportReport
    from tutelage.teachers.source import Source


@dataclass(frozen=True, repr=False)
class Result(os.PathLike[str]):
    """A finished run. It can be passed in place of its folder's path: ``distill(finetune(...), ...)``."""

    folder: Path
    report: dict[str, Any]
    """As in ``report.json``."""

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"<Result of {self.report['method']} in {str(self.folder)!r}>"

    def _repr_html_(self) -> str:
        return "".join(table.html for table in tables(self.report))

    @cached_property
    def student(self) -> PreTrainedModel:
        """The model that was trained, in evaluation mode; loaded once."""
        from tutelage.students.load import load_model

        return load_model(self._model_folder, self._head)[0]

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the student."""
        from tutelage.data.tokenizers import load_tokenizer

        return load_tokenizer(self._model_folder)

    @cached_property
    def config(self) -> RunConfig:
        """The settings of the run, as in ``config.yaml``."""
        from tutelage.recipes.config import from_yaml

        return from_yaml(self.folder / "config.yaml")

    def predictions(self) -> pd.DataFrame:
        """What student and teacher predict on the evaluation set: a row for each text.

        Columns: ``text`` (and ``text_pair``), ``label``, ``student`` and ``teacher`` (the predicted label, or score), and for
        classes the probabilities ``student: LABEL`` and ``teacher: LABEL`` (of multi-label data each by itself): first the
        labels of the data, then those that the model alone knows. The teacher's columns are missing if the run has no teacher,
        or its teacher is a store. Computed on each call.

        Raises:
            TutelageError: for a run on a corpus, or a task whose answers are tokens, spans or vectors.
        """
        import pandas as pd

        from tutelage import anatomy
        from tutelage.tasks import kind_of
        from tutelage.tasks.kind import TextKind
        from tutelage.tasks.load import load_data
        from tutelage.teachers.source import Source

        if self.report.get("general") or not isinstance(kind_of(self.report["kind"]), TextKind):
            what = "a corpus" if self.report.get("general") else f"a task of kind {self.report['kind']}"
            raise TutelageError(f"predictions() needs one label or score per text; this run is on {what}")
        data = load_data(self.config.data)
        kind = kind_of(data.kind)
        examples = next(iter(data.dev.values()))
        columns: dict[str, Any] = {"text": list(examples.texts)}
        if examples.pairs is not None:
            columns["text_pair"] = list(examples.pairs)
        columns["label"] = _labels(examples.labels, data.labels)
        names = {"student": self._model_folder, "teacher": self.config.teacher}
        sources = {who: Source(name, kind.head) for who, name in names.items() if name is not None}
        limit = min(anatomy.max_length(source.config) for source in sources.values())
        length = self.config.data.max_length or kind.longest(min(limit, self.config.recipe.longest or limit))
        for who, source in sources.items():
            if source.has_weights:
                columns |= _predicted(who, source, length, self.config.mixed_precision, data)
        return pd.DataFrame(columns)

    def disagreements(self) -> pd.DataFrame:
        """The rows of :meth:`predictions` for which student and teacher predict different labels.

        Raises:
            TutelageError: as :meth:`predictions`, for a run without a teacher at hand, and for scores.
        """
        found = self.predictions()
        if "teacher" not in found or not self.report["labels"]:
            raise TutelageError(
                "disagreements() compares the labels that student and teacher predict; this run has no teacher, or predicts "
                "scores"
            )
        return found[found["student"] != found["teacher"]]

    def export(
        self, out: str | os.PathLike[str], *, format: Literal["onnx", "checkpoint"] = "onnx", int8: bool = True
    ) -> ExportReport:
        """Write the student as files that serve, checked on the texts of this run: see :func:`tutelage.export`."""
        from tutelage.run.export import export

        return export(self._model_folder, Path(os.path.expanduser(out)), None, form=format, int8=int8, quiet=True)

    @property
    def _model_folder(self) -> str:
        inside = self.folder / "student"
        return str(inside if inside.is_dir() else self.folder)

    @property
    def _head(self) -> Head:
        from tutelage.students.load import head_in

        return head_in(self._model_folder)


def _labels(labels: npt.NDArray[Any], names: Sequence[str]) -> list[Any]:
    """Labels by their names, several of a text as a list; scores as they are; None where there is none."""
    if not names:
        return [float(score) for score in labels]
    if labels.ndim == 2:
        return [[name for name, given in zip(names, row, strict=True) if given == 1] for row in labels]
    return [None if number < 0 else names[number] for number in labels]


def _predicted(who: str, source: Source, length: int, precision: Precision, data: Data) -> dict[str, Any]:
    """The columns of one model: the data's labels in their order, then those that the model alone knows."""
    from tutelage.data.tokenizers import fitted_tokenizer
    from tutelage.run.workspace import bench
    from tutelage.tasks import kind_of

    kind = kind_of(data.kind)
    matched, _ = kind.match(data, source.config, source.name)
    with bench(True, precision) as desk:
        encoded = kind.encode(next(iter(data.dev.values())), fitted_tokenizer(source.tokenizer, source.model), length)
        logits = desk.predict(source.model, encoded, who)
    if not data.labels:
        return {who: logits[:, 0].tolist()}
    ours = [matched.labels.index(label) for label in data.labels]
    order = [*ours, *(place for place in range(len(matched.labels)) if place not in ours)]
    logits, names = logits[:, order], [matched.labels[place] for place in order]
    shares = logits.softmax(dim=1) if kind.single_label else logits.sigmoid()
    answers = logits.argmax(dim=1) if kind.single_label else (logits > 0).int()
    columns = {f"{who}: {label}": shares[:, at].tolist() for at, label in enumerate(names)}
    return {who: _labels(answers.numpy(), names), **columns}
