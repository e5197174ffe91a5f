"""The sentences of a report, made from its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tutelage.report.mechanisms import BaselineWords, TeachersEntry
from tutelage.report.model import ModelEntry, StudentEntry, TaskReport, TaskStage, Trial, Trials, VocabularyEntry
from tutelage.report.numbers import (
    NBSP,
    bytes_text,
    count_text,
    finite,
    milliseconds,
    percent,
    score_text,
    signed,
    times,
)
from tutelage.report.quality import Difference
from tutelage.tasks import kind_of, metric_words
from tutelage.tasks.kind import TextKind
from tutelage.tasks.metrics import no_better, standard_error

MOST_NAMES = 8


def words(name: str) -> str:
    """A metric's name for people."""
    return metric_words(name)


def one_line(text: Any) -> str:
    """Text with every run of white space as one space."""
    return " ".join(str(text).split())


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; the first of very many."""
    if len(names) > MOST_NAMES:
        names = [*names[: MOST_NAMES - 1], f"{len(names) - MOST_NAMES + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def stages_text(names: Sequence[str]) -> str:
    """``stages a and b``."""
    return f"stage{'s' if len(names) > 1 else ''} {listed(names)}"


CARD_FOLDER = "path/to/this/folder"
"""The model in a card's lines of Python. ``tutelage push`` puts the repository there."""


def folder_name(name: str) -> str:
    """The last part of an absolute path, whose other parts tell others nothing; any other name as it is."""
    return Path(name).name if Path(name).is_absolute() else one_line(name)


def entries(report: TaskReport) -> list[tuple[str, ModelEntry]]:
    """Those of teacher, student and baseline that the report has, in this order."""
    found = (("teacher", report.teacher), ("student", report.student), ("baseline", report.baseline))
    return [(who, entry) for who, entry in found if entry is not None]


def names(report: TaskReport) -> dict[str, str]:
    """Column headings for teacher, student and baseline."""
    if len(entries(report)) == 1:
        return {"student": "Model"}
    return {"teacher": "Teacher", "student": "Student", "baseline": baseline_words(report).heading}


def baseline_words(report: TaskReport) -> BaselineWords:
    """What the baseline is called: a mechanism may make it another model."""
    return next((one.baseline for one in report.mechanisms.values() if one.baseline), BaselineWords())


def teachers_of(report: TaskReport) -> TeachersEntry | None:
    """The teachers, where a mechanism brings several."""
    return next((one.teachers for one in report.mechanisms.values() if one.teachers), None)


def lead(report: TaskReport) -> tuple[str, bool] | None:
    """With several teachers: the one that the student is compared with, and whether it is one of them."""
    several = teachers_of(report)
    if several is None or report.teacher is None:
        return None
    name = report.teacher.name
    for one in several.shares:
        # The teacher of a store lies within it.
        if name in (one.folder, str(Path(one.folder) / "teacher")):
            return one.name, True
    return folder_name(name), False


def through(report: TaskReport) -> str:
    """The teacher assistants between teacher and student, for a sentence; nothing where there are none."""
    one = [f"a student of {each.shape} ({words(report.metric)} {score_text(each.score)})" for each in report.assistants]
    return f"through {' and '.join(one)}" if one else ""


def vocabulary_lines(entry: VocabularyEntry | None) -> list[str]:
    """What the student keeps of its tokenizer's vocabulary, and how it reads held-out texts with it."""
    if entry is None:
        return []
    lines = [
        f"{entry.kept:,} of {entry.of:,} pieces are kept; {count_text(entry.parameters)} parameters "
        f"({bytes_text(entry.bytes)}) are left out"
    ]
    return lines + [
        f"of {part}, {percent(one.tokens)} of the tokens are kept pieces, and {percent(one.texts)} of the texts are read as with "
        f"the whole vocabulary; {percent(one.unknown)} of the tokens are unknown, {percent(one.unknown_before)} with it"
        for part, one in entry.held_out.items()
    ]


def with_interval(difference: Difference) -> str:
    """``+0.013 (−0.002 to +0.028)``: a difference of scores with its interval, where there is one."""
    ends = "" if difference.ends is None else f" ({' to '.join(map(signed, difference.ends))})"
    return signed(difference.value) + ends


def called(report: TaskReport) -> str:
    """The teacher that the student is compared with; of several by its name."""
    found = lead(report)
    return f"the teacher {found[0]}" if found else "the teacher"


def student_stages(report: TaskReport) -> list[TaskStage]:
    """The stages that trained the student: all but the last, the baseline's own, where a baseline was trained."""
    trained = report.baseline is not None and kind_of(report.kind).learns_labels
    return report.stages[:-1] if trained else report.stages


def named_stages(report: TaskReport) -> list[TaskStage]:
    """All stages; the baseline's says in its name whose it is."""
    ours = student_stages(report)
    whose = names(report).get("baseline", "").lower()
    theirs = [stage.model_copy(update={"name": f"{stage.name} ({whose})"}) for stage in report.stages[len(ours) :]]
    return [*ours, *theirs]


def baseline_text(report: TaskReport) -> str:
    """What the baseline is."""
    who = baseline_words(report).model
    last = [stage.name for stage in student_stages(report) if not stage.discarded]
    as_many = f" as {stages_text(last)}" if any(stage.discarded for stage in report.stages) else ""
    rate = ", at the better of two learning rates" if report.twin_rates else ""
    if not kind_of(report.kind).learns_labels:
        return f"{who}, before training"
    on = "labels" if report.predictions is None else report.predictions.baseline
    return f"{who}, trained on the {on} alone for as many steps{as_many}{rate}"


def gain(report: TaskReport) -> float | None:
    """The student's score minus the baseline's, to three digits."""
    if report.baseline is None or not (finite(report.baseline.score) and finite(report.student.score)):
        return None
    return round(report.student.score - report.baseline.score, 3)


def paid(report: TaskReport) -> bool:
    """Whether distillation raised the score, or no baseline was trained; never of a model at the level of a constant answer."""
    added = gain(report)
    return (added is None or added > 0) and not failures(report)


def failures(report: TaskReport) -> list[str]:
    """A sentence for the student and for the teacher, if they are no better than a constant answer."""
    chance, metric = report.chance.get(report.metric), words(report.metric)
    who = {"student": "student" if report.teacher else "model", "teacher": "teacher"}
    return [
        f"The {who[name]} is no better than a constant answer: its {metric} on {report.data.evaluation:,} examples is "
        f"{score_text(entry.score)}, that of the best constant answer {score_text(chance)} (standard error up to "
        f"{standard_error(report.data.evaluation):.3f})."
        for name, entry in (("student", report.student), ("teacher", report.teacher))
        if entry is not None
        and report.chance
        and no_better(next(iter(entry.scores.values()), {}), report.chance, report.data.evaluation)
    ]


def verdict(report: TaskReport) -> str:
    """The result of the run in one sentence, or of a run that failed in two."""
    if failed := failures(report):
        return " ".join(failed)
    student, teacher, metric = report.student, report.teacher, words(report.metric)
    if teacher is None:
        how = "Trained without a teacher, the model"
        if report.predictions is not None:
            how = f"Distilled from the predictions in {folder_name(report.predictions.file)}, the student"
        text = (
            f"{how} reaches {metric} {score_text(student.score)} with "
            f"{count_text(student.parameters)} parameters and takes {milliseconds(latency_of(student, '1'))} for one example"
        )
    else:
        text = f"{_retained(report, teacher)} {_smaller(student, teacher)}{_faster(student)}"
    return f"{text}{_undistilled(report)}."


def _retained(report: TaskReport, teacher: ModelEntry) -> str:
    student, metric = report.student, words(report.metric)
    retention, ours, theirs = student.retention, score_text(student.score), score_text(teacher.score)
    whose = f"{called(report)}'s"
    if not finite(retention) or teacher.score <= 0:
        return f"The student reaches {metric} {ours} against {whose} {theirs},"
    change = student.over_teacher
    if change is not None and change.value > 0:
        verb = "beats" if change.sign > 0 else "is level with"
        return f"The student {verb} {whose} {metric} ({ours} against {theirs}; {interval(change)})"
    text = f"The student keeps {'only ' if retention < 0.9 else ''}{percent(retention)} of {whose} {metric}"
    return text + difference(change)


def difference(change: Difference | None) -> str:
    """After two scores: `` (difference −0.021, 95 % interval −0.041 to −0.010)``; empty where it is not known."""
    return "" if change is None else f" (difference {signed(change.value)}, {interval(change)})"


def interval(change: Difference) -> str:
    """The interval of a difference: ``95 % interval −0.041 to −0.010``."""
    if change.ends is None:
        return "no interval of a single example"
    return f"95{NBSP}% interval {' to '.join(map(signed, change.ends))}"


def _smaller(student: ModelEntry, teacher: ModelEntry) -> str:
    return f"with {factor(teacher.parameters, student.parameters, 'fewer', 'more') or 'as many'} parameters"


def _faster(student: StudentEntry) -> str:
    speedup = student.speedup
    if not finite(speedup) or speedup <= 0:
        return ""
    ratio = factor(speedup, 1.0, "faster", "slower")
    joint = " but runs" if speedup < 1 and ratio else " and runs"
    return f"{joint} {ratio or 'as fast'} at batch size 32"


def factor(over: Any, under: Any, down: str, up: str) -> str:
    """``2.1x fewer`` if ``over`` is the larger, ``1.3x more`` if ``under`` is; empty if they differ by less than 5 %."""
    if not (finite(over) and finite(under)) or over <= 0 or under <= 0:
        return ""
    ratio = over / under
    if 0.95 < ratio < 1.05:
        return ""
    return f"{times(ratio)} {down}" if ratio > 1 else f"{times(1 / ratio)} {up}"


def _undistilled(report: TaskReport) -> str:
    added = gain(report)
    if added is None or report.baseline is None:
        return ""
    called = baseline_words(report)
    reached = f"{called.reaches} {score_text(report.baseline.score)}"
    within = difference(report.student.over_baseline)
    if added > 0:
        return f"; {reached}{within or f', {added:.3f} less'}"
    more = within or f", {-added:.3f} more" if added < 0 else ", the same"
    return f"; {called.effect} did not pay here: {reached}{more}"


def caution(report: TaskReport) -> str | None:
    """A remark if the interval of the gain includes 0, or there is none."""
    added, change = gain(report), report.student.over_baseline
    if not added or change is None or change.sign:
        return None
    why = "it has no interval" if change.ends is None else f"its {interval(change)} includes 0"
    chance = f"The difference of {abs(added):.3f} may be chance: on {report.data.evaluation:,} examples {why}."
    return f"{chance} Another seed may reverse it."


def selection(report: TaskReport) -> str:
    """How the checkpoint of each of the student's stages was selected."""
    source = report.data.sources.get("validation", "validation split")
    discarded = [stage.name for stage in report.stages if stage.discarded]
    kept = [stage for stage in student_stages(report) if not stage.discarded]
    scored = [stage.name for stage in kept if stage.best]
    others = [stage.name for stage in kept if not stage.best]
    sentences = []
    if scored:
        starts = [stage.name for stage in kept if stage.best and any(not epoch for epoch, _ in stage.scores)]
        when = f"after each epoch of {stages_text(scored)}"
        if starts:
            when = (
                f"at the start and {when}" if starts == scored else f"{when} and at the start of {stages_text(starts)}"
            )
        sentences.append(
            f"The student was scored {when}, on the validation split of {report.data.validation:,} examples ({source}), and the "
            f"best {'of these' if starts else 'epoch'} was kept."
        )
    if others:
        sentences.append(f"The last epoch of {stages_text(others)} was kept.")
    if discarded:
        each = "The student" if len(discarded) == 1 else "Each student"
        sentences.append(f"{each} of {stages_text(discarded)} was replaced by a new one.")
    return " ".join(sentences)


def as_constant(kind: str, scores: Iterable[float]) -> bool:
    """Whether one of the scores on the validation split is 0 because all texts get the same answer: where the task's kind looks for
    that. Elsewhere 0 is the metric."""
    return isinstance(kind_of(kind), TextKind) and not all(scores)


def constant_note(kind: str, scores: Iterable[float]) -> str:
    """What a score of 0 on the validation split means, where there is one that is no metric."""
    if not as_constant(kind, scores):
        return ""
    return "On the validation split the same answer to all texts is scored 0, whatever its metric."


def outcome(report: TaskReport, stage: TaskStage) -> str:
    """What was kept of a stage."""
    if stage.discarded:
        return next((one.kept[stage.name] for one in report.mechanisms.values() if stage.name in one.kept), "nothing")
    if stage.best:
        which = epoch_words(stage.best.epoch)
        if as_constant(report.kind, [stage.best.score]):
            return f"{which}, scored 0, as a constant answer is"
        return f"{which}, {selector(report)} {score_text(stage.best.score)}"
    return "last epoch"


def epoch_words(epoch: float) -> str:
    """``epoch 3``; ``the start`` for 0."""
    return f"epoch {epoch:.0f}" if epoch else "the start"


def selector(report: TaskReport) -> str:
    """The score on the validation split that chose the epoch."""
    names = [words(name) for name in report.selected_by or [report.metric]]
    return names[0] if len(names) == 1 else f"mean of {listed(names)}"


def latency_of(entry: ModelEntry, batch: str) -> float | None:
    """Milliseconds at a batch size, if the model was timed."""
    return (entry.latency_ms or {}).get(batch)


# ------------------------------------------------------------------------------------------------------------- trials


def trained_words(trials: Trials) -> str:
    """Which candidates were trained, and for how long."""
    count, every = sum(one.trained for one in trials.tried), len(trials.tried)
    which = "Each was" if count == every else f"The {count} with the lowest loss untrained were"
    return f"{which} trained for {count_text(trials.steps)} steps"


def after_trial(one: Trial) -> str:
    """A candidate's loss after its trial."""
    if not one.trained:
        return "not trained"
    return "diverged" if one.loss is None else f"{one.loss:.4f}"


def trial_lines(what: str, trials: Trials) -> list[str]:
    """The table of the candidates, as the terminal shows it."""
    heads = ["", "loss untrained", "agreement", "score", "loss trained", "score"]
    table = [heads] + [
        [
            one.name + (" (taken)" if one.name == trials.chosen else ""),
            f"{one.untrained_loss:.4f}",
            *("" if x is None else score_text(x) for x in (one.untrained_agreement, one.untrained_score)),
            after_trial(one),
            "" if one.score is None else score_text(one.score),
        ]
        for one in trials.tried
    ]
    kept = [place for place in range(len(heads)) if place == 0 or any(row[place] for row in table[1:])]
    widths = [max(len(row[place]) for row in table) for place in kept]
    lines = [
        "  ".join(row[p].ljust(w) if p == 0 else row[p].rjust(w) for p, w in zip(kept, widths, strict=True))
        for row in table
    ]
    return [f"{what}: {trials.chosen} is taken. {trained_words(trials)}.", *(f"  {line.rstrip()}" for line in lines)]
