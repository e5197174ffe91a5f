"""A release gate: whether the numbers of a run, or of an exported folder, meet limits with their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import computed_field

from tutelage.errors import TutelageError, option
from tutelage.evaluation.intervals import fewest_rows, least_share, most_share
from tutelage.report.model import REPORT, TaskReport, load_report
from tutelage.report.quality import Difference
from tutelage.report.section import Block
from tutelage.run.folder import run_of, weights_in
from tutelage.serving import report as exported
from tutelage.serving.report import ExportReport, load_export
from tutelage.tasks import kind_of

CONFIDENCE = 0.975
"""Of a one-sided bound: the lower end of a 95 % interval."""


class Condition(Block):
    """One limit and what was measured."""

    name: str
    """``retention``, ``class drop``, ``agreement``, ``latency_ms`` or ``size_mb``."""
    value: float | None
    """Null where nothing could be measured: a class without texts."""
    bound: float
    """The end of the value's 95 % interval that is compared with the limit. A value without an
    interval is its own bound."""
    limit: float
    at_least: bool
    """Whether the bound must reach the limit, instead of staying within it."""
    of: str
    """What was measured, in words."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        return self.bound >= self.limit if self.at_least else self.bound <= self.limit

    @property
    def line(self) -> str:
        """The condition in one line."""
        value = "not measured" if self.value is None else f"{self.value:.3f}"
        return (
            f"{'passed' if self.passed else 'FAILED'}: {self.name} {value}, bound {self.bound:.3f}, limit "
            f"{'at least' if self.at_least else 'at most'} {self.limit:g} ({self.of})"
        )


class Gate(Block):
    """Whether all conditions are met."""

    version: Literal[1] = 1
    path: str
    """The ``report.json`` or ``export.json`` that was read."""
    passed: bool
    conditions: list[Condition]


def gate(
    path: Path,
    *,
    min_retention: float | None = None,
    max_class_drop: float | None = None,
    min_agreement: float | None = None,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
) -> Gate:
    """See :func:`tutelage.api.gate`."""
    shares = {"min_retention": min_retention, "max_class_drop": max_class_drop, "min_agreement": min_agreement}
    for name, limit in shares.items():
        # A student may have to be better than its teacher.
        if limit is not None and not 0 <= limit <= (2 if name == "min_retention" else 1):
            raise TutelageError(f"{option(name)} {limit:g} is not a share; write 0.97 for 97 %")
    if max_class_drop == 0:
        raise TutelageError(
            f"{option('max_class_drop')} 0 can be shown by no number of texts; give 0.05, which needs "
            f"{fewest_rows(0.95, 1 - CONFIDENCE)} texts of each class or more"
        )
    if all(limit is None for limit in (*shares.values(), max_latency_ms, max_size_mb)):
        raise TutelageError(f"there is no limit to check; give {option('min_retention')} 0.97 or another")
    file = _file(path)
    export = load_export(file) if file.name == exported.REPORT else None
    if export is not None and (max_class_drop is not None or min_agreement is not None):
        name = "max_class_drop" if max_class_drop is not None else "min_agreement"
        raise TutelageError(
            f"{str(file)!r} compares no classes with the teacher; check {option(name)} on the run's folder"
        )
    if export is not None and export.part is not None and min_retention is not None:
        raise TutelageError(
            f"{str(file)!r} is of a sub-network ({export.part}), and the run's {REPORT} compares the whole student with the "
            f"teacher; leave out {option('min_retention')}, and see the section Sub-networks of the report"
        )
    needs_run = export is None or min_retention is not None
    report = _report(file, export) if needs_run else None
    found: list[Condition] = []
    if report is not None:
        if min_retention is not None:
            found.append(_retention(report, export, min_retention))
        if max_class_drop is not None:
            found.append(_class_drop(report, max_class_drop))
        if min_agreement is not None:
            found.append(_agreement(report, min_agreement))
    if max_latency_ms is not None:
        found.append(_latency(report, export, max_latency_ms))
    if max_size_mb is not None:
        found.append(_size(report, export, max_size_mb))
    return Gate(path=str(file), passed=all(one.passed for one in found), conditions=found)


# ---------------------------------------------------------------------------------------------------------------- files


def _file(path: Path) -> Path:
    """The report that a path means.

    Raises:
        TutelageError: there is none.
    """
    names = (REPORT, exported.REPORT)
    if path.name in names and path.is_file():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise TutelageError(
            f"{str(path)!r} holds no {' and no '.join(names)}; name the folder of a finished run, its {REPORT}, or a folder of "
            "tutelage export"
        )
    return found


def _report(file: Path, export: ExportReport | None) -> TaskReport:
    """The report of the run: the file itself, or that of the run which made the exported model.

    Raises:
        TutelageError: there is none, or it is of a run on a corpus.
    """
    folder = file.parent if export is None else run_of(export.model, REPORT)
    if folder is None:
        assert export is not None
        raise TutelageError(
            f"the exported model {export.model!r} lies in the folder of no run, whose {REPORT} compares it with its teacher; check "
            f"{option('min_retention')} on the run's folder"
        )
    if export is not None and export.weights and weights_in(Path(export.model)) != export.weights:
        raise TutelageError(
            f"{export.model!r} holds another model than the one that {str(file)!r} was exported from; repeat the export"
        )
    report = load_report(folder)
    if not isinstance(report, TaskReport):
        raise TutelageError(f"the run in {str(folder)!r} is on a corpus and scores nothing; name a run on a task")
    return report


# ------------------------------------------------------------------------------------------------------------ conditions


def _retention(report: TaskReport, export: ExportReport | None, limit: float) -> Condition:
    """The student's score over the teacher's; its bound is that of the difference (:func:`_low`), over the teacher's score."""
    teacher, over = report.teacher, report.student.over_teacher
    if report.metric in kind_of(report.kind).against_teacher:
        raise TutelageError(
            f"{report.metric} {report.student.score:.3f} compares the student with its teacher already; leave out "
            f"{option('min_retention')}, and read the score in the report"
        )
    if teacher is None:
        raise TutelageError(f"the run has no teacher to compare the student with; leave out {option('min_retention')}")
    if teacher.score <= 0:
        raise TutelageError(
            f"the teacher's {report.metric} is {teacher.score:.3f}, of which no share can be kept; leave out "
            f"{option('min_retention')}"
        )
    if over is None:
        raise TutelageError(
            f"the report is of an older version, without the interval that {option('min_retention')} needs; repeat the run"
        )
    texts = report.data.evaluation // len(report.student.scores)  # the difference is that of one part
    base, value, low, of = (
        teacher.score,
        report.student.score,
        teacher.score + _low(over, texts, "evaluation set"),
        f"{report.metric} of the student over the teacher's, {texts:,} texts",
    )
    if export is not None:
        side = export.sides[-1]
        if side.change is None or export.metric != report.metric:
            raise TutelageError(
                f"the exported files were not scored by {report.metric}; repeat the export with the run's texts, or check "
                f"{option('min_retention')} on the run's folder"
            )
        of = f"{report.metric} of {side.file} over the teacher's, {min(texts, export.texts):,} texts"
        if (measured := _served(report, export)) is not None:
            base, whole = measured
            value, low = base + whole.value, base + _low(whole, export.texts, "evaluation set")
        else:
            # Both ends are those of 95 % intervals: their sum lies below the whole change at least as often.
            value += side.change.value
            low += _low(side.change, export.texts, "set of texts that the export was checked on")
    return Condition(name="retention", value=value / base, bound=low / base, limit=limit, at_least=True, of=of)


def _served(report: TaskReport, export: ExportReport) -> tuple[float, Difference] | None:
    """The teacher's score, and what the exported file has more, if the run itself has measured this file on these texts."""
    served, side = report.served, export.sides[-1]
    if served is None or served.against_teacher is None or served.texts != export.texts:
        return None
    ours, theirs = served.of("student", side.name), served.of("teacher", "onnx")
    if side.name != "int8" or ours is None or theirs is None or ours.scores != side.scores or theirs.score <= 0:
        return None
    return theirs.score, served.against_teacher


def _low(difference: Difference, texts: int, where: str) -> float:
    """The lower end of the interval of a difference on so many texts.

    The bootstrap draws only from the texts that there are. A kind of text that is not among them may have a share of up to
    ``3.7 / texts`` elsewhere (the exact upper bound of a share that was met 0 times), and the student may be wrong on all of it. So
    the end lies at least that far below the difference. Where the models never differ, every resample is 0, and this is the exact
    bound for accuracy.

    Raises:
        TutelageError: there is none.
    """
    if difference.low is None:
        raise TutelageError(f"the {where} has a single example, which has no interval; repeat with more examples")
    return min(difference.low, difference.value - most_share(0, texts, CONFIDENCE))


def _class_drop(report: TaskReport, limit: float) -> Condition:
    """By how much the recall of the class with the worst bound is below the teacher's.

    The drop is the share of the class's texts that only the teacher gets right, minus the share that only the student gets right.
    So it is at most the first share, whose upper bound is exact however few the texts are (Clopper and Pearson, Biometrika 1934). A
    bootstrap of the difference is not: texts on which the models never differ give the same difference in every resample. The gate
    passes only if every class does, so the classes need no correction (intersection-union test; Berger, Technometrics 1982). Of a
    class without texts nothing is shown: its bound is 1.
    """
    bounds = [(one, most_share(one.lost, one.support, CONFIDENCE)) for one in report.classes if one.lost is not None]
    if not bounds:
        raise TutelageError(
            f"the report compares no classes with a teacher's; leave out {option('max_class_drop')}, or repeat the run with this "
            "version"
        )
    worst, bound = max(bounds, key=lambda one: (one[1], -one[0].support))
    over = sum(bound > limit for _, bound in bounds)
    of = f"recall of class {worst.name!r}, {worst.support:,} texts; {over} of {len(bounds)} classes are over the limit"
    if over:
        fewest = fewest_rows(1 - limit, 1 - CONFIDENCE)
        missing = [repr(one.name) for one, _ in bounds if not one.support]
        few = sum(0 < one.support < fewest for one, _ in bounds)
        told = [f"{len(missing)} of them without texts in the evaluation set ({', '.join(missing)})"] if missing else []
        told += [f"{few} of them with too few texts"] if few else []
        if told:
            of += f", {', '.join(told)}: a class without any loss needs {fewest:,}"
    change = worst.recall_difference
    return Condition(
        name="class drop",
        value=None if change is None else 0.0 - change.value,  # no change is 0, and not -0
        bound=bound,
        limit=limit,
        at_least=False,
        of=of,
    )


def _agreement(report: TaskReport, limit: float) -> Condition:
    """The share of texts with the teacher's class; its bound is exact (Clopper-Pearson)."""
    share, texts = report.student.agreement, report.data.evaluation
    if share is None or not kind_of(report.kind).classifies_texts:
        raise TutelageError(f"the report counts no texts with the teacher's class; leave out {option('min_agreement')}")
    bound = least_share(round(share * texts), texts, CONFIDENCE)
    of = f"texts with the teacher's class, of {texts:,}"
    return Condition(name="agreement", value=share, bound=bound, limit=limit, at_least=True, of=of)


def _latency(report: TaskReport | None, export: ExportReport | None, limit: float) -> Condition:
    """Median milliseconds of one text: of the served file on one thread, as ``shrink`` counts them, else of the student in PyTorch.

    The 95th percentile is told and not compared: on a machine that does other work it is that work's.
    """
    if export is not None:
        side = export.sides[-1]
        time = next(one for one in side.latency if one.batch == 1)
        value = time.p50_ms
        threads = "1 thread" if time.threads == 1 else f"{time.threads} threads"
        of = f"{side.file}, one text of {time.tokens} tokens, {threads}; median, p95 is {time.p95_ms:.2f}"
    else:
        assert report is not None
        value = (report.student.latency_ms or {})["1"]
        of = f"the student in PyTorch, one text, median on {report.environment.device}"
    return Condition(name="latency_ms", value=value, bound=value, limit=limit, at_least=False, of=of)


def _size(report: TaskReport | None, export: ExportReport | None, limit: float) -> Condition:
    """Size of the weights on disk in MB (10^6 bytes)."""
    if export is not None:
        size, of = export.sides[-1].bytes / 1e6, export.sides[-1].file
    else:
        assert report is not None
        size, of = report.student.bytes / 1e6, "the student's weights on disk"
    return Condition(name="size_mb", value=size, bound=size, limit=limit, at_least=False, of=of)
