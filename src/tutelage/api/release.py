"""The commands that decide whether and how a student is used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from tutelage.data.signature import takes_data

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions
    from tutelage.report.cascade import CascadeReport
    from tutelage.run.gate import Gate
    from tutelage.run.inputs import Model, Splits
from tutelage.api.common import FILES, FilePath, Plugin, checked_data, megabytes, milliseconds, place, read_plugins


def gate(
    report: FilePath,
    *,
    min_retention: float | None = None,
    max_class_drop: float | None = None,
    min_agreement: float | None = None,
    max_latency: str | float | None = None,
    max_size: str | float | None = None,
    plugins: Sequence[Plugin] = (),
) -> Gate:
    """Check the numbers of a run or an export against limits: exit code 0 if all are met, 1 if not, 2 for a mistake.

    A limit is compared with the bound of the 95 % interval, so that chance does not pass the gate. Of an exported folder the file
    that serves is checked: int8 where there is one.

    Args:
        report: Folder of a run, its report.json, or a folder of `tutelage export`.
        min_retention: Minimum share of the teacher's score that the student keeps.
        max_class_drop: Largest allowed drop in recall of any class, student against teacher, above 0. For 0.05 each class needs
            at least 72 evaluation texts.
        min_agreement: Minimum share of texts on which the student predicts the teacher's class.
        max_latency: Maximum time for one text, in milliseconds: 5ms. For an exported file, the median on one thread.
        max_size: Maximum size of the weights on disk, in megabytes (10^6 bytes): 20MB.

        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.

    Returns:
        ``passed``, and for each condition value, bound and limit.

    Raises:
        TutelageError: when there is no limit, or the report lacks what a limit is about.

    Example: tutelage gate runs/a --min-retention 0.97 --max-class-drop 0.05
    """
    from tutelage.run.gate import gate as checked

    read_plugins(plugins)
    return checked(
        Path(place(report)),
        min_retention=min_retention,
        max_class_drop=max_class_drop,
        min_agreement=min_agreement,
        max_latency_ms=milliseconds(max_latency, "max_latency"),
        max_size_mb=megabytes(max_size, "max_size"),
    )


@takes_data(*FILES, "max_length")
def cascade(
    student: Model,
    teacher: Model,
    out: FilePath,
    *,
    agreement: float = 0.98,
    confidence: float = 0.95,
    per_class: bool = False,
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> CascadeReport:
    """Choose when a student answers and when its teacher is asked, so that its answers agree with the teacher's at a promised rate.

    The student answers where the probability of its class is above a threshold. The threshold is chosen on the evaluation set: that
    of the given texts, or, without any, that of the run in whose folder the student lies. Neither model may have been trained on
    it.
    The promise holds for new texts of the same kind, and for the student as it is given. A file in int8 answers a little otherwise
    than its checkpoint, so give the exported folder if that is what serves. In the folder of the student ``cascade.json`` makes
    ``serve.py`` and ``tutelage serve`` answer, or say that the teacher is to be asked.
    ``cascade.json`` has the threshold, the coverage curve, and the texts on which the student is sure and
    the teacher or the label disagrees.

    Args:
        student: Student: a folder, a hub id, a folder of `tutelage export`, or one of its files: served/model.onnx.
        teacher: Its teacher: a folder or a hub id.
        out: Folder to write: new or empty, or that of the student, which then follows the rule when it serves.
        agreement: Promised share of the student's answers that are the teacher's.
        confidence: Probability that the promise is kept, over draws of the texts.
        per_class: Choose a threshold for each class, with the promise for each.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        dev: Texts that neither model was trained on. Default: the evaluation set of the run of the student.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: when a model or the data cannot be loaded, or there are too few texts for the promise. Then nothing is
            written.

    Example: tutelage cascade served/ --teacher teacher/ --out served/ --agreement 0.98
    """
    from tutelage.run.cascade import cascade as chosen
    from tutelage.run.inputs import Inputs

    read_plugins(plugins)
    with Inputs() as inputs:
        return chosen(
            inputs.model(student, "student"),
            inputs.model(teacher, "teacher"),
            Path(place(out)),
            checked_data(inputs, data, options),
            agreement=agreement,
            confidence=confidence,
            per_class=per_class,
            quiet=quiet,
        )
