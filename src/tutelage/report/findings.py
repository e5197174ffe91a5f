"""What a run's numbers say about its settings: each finding with the setting that mends it. Computed from the report alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tutelage.objectives.terms import title_of
from tutelage.report.model import Finding, Rise, StageEntry, TaskReport, Trials
from tutelage.report.numbers import finite, percent, score_text
from tutelage.report.words import difference, failures, gain, student_stages, words
from tutelage.tasks import kind_of
from tutelage.tasks.metrics import standard_error

ONE_SIDED = 10.0
"""One term's gradient is so many times another's: it decides alone."""
MET = 1e-4
"""A term whose loss is below this share of the largest in the first step is met by the start, as predictions are by a copy of the
teacher."""
CUT = 0.02
"""Share of training texts that are cut, beyond which it is a finding."""
FEW = 1000
"""Training texts below which more unlabelled texts help most."""
DOUBTFUL = 0.05
"""Share of evaluation texts on which student and teacher agree against the label, beyond which it is a finding."""
MORE, FURTHEST = 2000, 3
"""The curve of two trials is drawn on to so many more texts, but to no more than so many times those there are."""
KEPT = 0.95
"""Share of the teacher's score from which a poor start is no finding."""
POOR = 0.5
"""A start is poor that scores, untrained, less than this share of the teacher's score."""
DISTANT = 0.1
"""A trial's best candidate is ahead of the worst by so much of the worst's loss: the choice mattered."""


def findings(report: TaskReport) -> list[Finding]:
    """The findings of a report that is complete but for them."""
    return [*_scores(report), *_training(report), *_data(report)]


def _scores(report: TaskReport) -> Iterator[Finding]:
    for line in failures(report):
        yield Finding(
            kind="constant answer",
            text=line,
            remedy=f"Check labels{' and teacher' if report.teacher else ''} with `tutelage evaluate`; then raise epochs (--set "
            "stages.*.epochs=20) or the learning rate.",
        )
    added, teacher, unlabelled = gain(report), report.teacher, kind_of(report.kind).takes_unlabelled
    weak = teacher is not None and report.baseline is not None and teacher.score < report.baseline.score
    within = difference(report.student.over_baseline)
    if report.baseline is not None and added is not None and added < 0:
        yield Finding(
            kind="twin is better",
            text=f"Without distillation the same student reaches {score_text(report.baseline.score)}"
            + (f"{within}." if within else f", {-added:.3f} more."),
            remedy=(
                "Use"
                if report.data.unlabeled or weak or not unlabelled
                else "Give unlabelled texts (--unlabeled FILE), use"
            )
            + " a better teacher"
            + (", or fine-tune this student." if kind_of(report.kind).learns_labels else "."),
        )
    if teacher is not None and weak:
        yield Finding(
            kind="weak teacher",
            text=f"The teacher's {words(report.metric)} of {score_text(teacher.score)} is below that of the student without it.",
            remedy="Train the teacher for more epochs (tutelage finetune --epochs N) or on more labelled texts, or use another.",
        )
    if (rise := report.teacher_rise) is not None:
        yield Finding(
            kind="teacher still improving",
            text=f"The teacher was still improving in the last of {rise.epochs} epochs of its own training: by {rise.by:.3f} on "
            "its validation split.",
            remedy=f"Train it longer before it teaches: tutelage finetune --epochs {2 * rise.epochs}.",
        )
    yield from _rival(report)
    retention = report.student.retention
    if finite(retention) and retention < 0.9 and not failures(report):
        yield Finding(
            kind="capacity",
            text=f"The student keeps {percent(retention)} of the teacher's {words(report.metric)}.",
            remedy="Use a deeper or wider student"
            + (", or more unlabelled texts (--unlabeled FILE)." if unlabelled else "."),
        )


def _rival(report: TaskReport) -> Iterator[Finding]:
    """The quantised teacher, which costs no training."""
    if report.served is None:
        return
    rival, ours = report.served.of("teacher", "int8"), report.served.of("student", "int8")
    gap = report.served.against_int8_teacher
    if rival is None or ours is None or gap is None:
        return
    if gap.sign < 0 and rival.ms <= ours.ms:
        yield Finding(
            kind="quantised teacher is better",
            text=f"In int8 the teacher scores {-gap.value:.3f} more than the student and is as fast ({rival.ms:.2f} and "
            f"{ours.ms:.2f} ms).",
            remedy="Export the teacher (tutelage export), or distil a student that keeps its depth (--student flops=0.5).",
        )
    elif rival.ms < report.served.pytorch_ms["student"] and gap.value < 0:
        yield Finding(
            kind="quantised teacher is faster than PyTorch",
            text=f"The teacher in int8 takes {rival.ms:.2f} ms and scores {score_text(rival.score)}; the student takes "
            f"{report.served.pytorch_ms['student']:.2f} ms in PyTorch and {ours.ms:.2f} ms in int8.",
            remedy="Serve the student in int8: tutelage export.",
        )


def _training(report: TaskReport) -> Iterator[Finding]:
    for number, stage in enumerate(report.stages):
        whose = "student" if number < len(student_stages(report)) else "twin"
        if (rise := rise_of(stage, report.data.validation)) is not None:
            yield Finding(
                kind="still improving",
                text=f"The {whose} was still improving in the last of {stage.epochs} epochs of stage {stage.name}: "
                f"by {rise.by:.3f} on the validation split.",
                remedy=f"Train longer: --set stages.{stage.name}.epochs={2 * stage.epochs}."
                if whose == "student"
                else None,
            )
        if stage.best is not None and not stage.best.epoch:
            later = max(score for epoch, score in stage.scores if epoch)
            yield Finding(
                kind="training did not help",
                text=f"The {whose} scored {score_text(stage.best.score)} on the validation split before stage {stage.name}, and "
                f"at most {score_text(later)} after its epochs: its start was kept.",
                remedy=f"Lower the learning rate (--set stages.{stage.name}.lr=RATE); or, if the teacher learnt texts of the "
                f"validation split, keep the last epoch (--set stages.{stage.name}.select=last)."
                if whose == "student"
                else None,
            )
        if found := one_sided(stage.name, {name: first.model_dump() for name, first in stage.first_step.items()}):
            yield found
    if report.start is not None:
        yield from _start(report, report.start)


def rise_of(stage: StageEntry, texts: int) -> Rise | None:
    """How a stage was still improving at its end, by more than chance on so many texts of the validation split; else None."""
    # Without the start: what the first epoch adds to it says nothing of the last one.
    scores = [score for epoch, score in stage.scores if epoch]
    if stage.best is None or len(scores) < 2 or stage.best.epoch != stage.epochs:
        return None
    by = scores[-1] - max(scores[:-1])
    return Rise(stage=stage.name, epochs=stage.epochs, by=by) if by > standard_error(texts) / 2 else None


def _start(report: TaskReport, tried: Trials) -> Iterator[Finding]:
    losses = {one.name: one.loss for one in tried.tried if one.loss is not None}
    named = tried.chosen.partition(": ")[2].split()
    layers = "+".join(named) + "+" * (len(named) == 1)  # layers=6 is six layers, and layers=6+ the sixth
    worst = max(losses, key=lambda name: losses[name], default=tried.chosen)
    if tried.chosen in losses and losses[worst] - losses[tried.chosen] > DISTANT * abs(losses[worst]):
        elsewhere = f" A method that has a start of its own takes it with --student layers={layers}." if layers else ""
        yield Finding(
            kind="start",
            text=f"The start matters: after {tried.steps} steps the held-out loss from {tried.chosen} is "
            f"{losses[tried.chosen]:.3f}, from {worst} {losses[worst]:.3f}.",
            remedy=f"This run took the best.{elsewhere}",
        )
    taken, teacher = next(one for one in tried.tried if one.name == tried.chosen), report.teacher
    kept = report.student.retention
    if (
        teacher is None
        or taken.untrained_score is None
        or not finite(kept)
        or kept >= KEPT
        or report.teacher_layers is None
    ):
        return
    if taken.untrained_score < POOR * teacher.score:
        share = report.student_layers / report.teacher_layers
        remedy = (
            "Keep the teacher's depth at the same cost, with fewer heads and neurons in each layer (--student "
            f"flops={share:.2g}), or more layers (--student layers={report.student_layers + 1})."
        )
        gain = "" if taken.score is None else f", and {score_text(taken.score)} after {tried.steps} steps"
        yield Finding(
            kind="poor start",
            text=f"Without training the best start scores {score_text(taken.untrained_score)} on the validation split{gain}; the "
            f"teacher has {score_text(teacher.score)} on the evaluation set.",
            remedy=remedy if share < 1 else "Keep more of the teacher: a larger --student flops=SHARE.",
        )


Terms = Mapping[str, Mapping[str, float | None]]
"""Of each term in the first step of a stage: ``loss`` and ``gradient`` (its norm)."""


def one_sided(stage: str, terms: Terms) -> Finding | None:
    """The finding that one term decides alone, by the norms of the terms' gradients in the first step of a stage. A term that the
    start already meets has no gradient to compare."""
    most = max((abs(one["loss"] or 0.0) for one in terms.values()), default=0.0)
    norms = {
        name: norm for name, one in terms.items() if (norm := one["gradient"]) and abs(one["loss"] or 0.0) > MET * most
    }
    if len(norms) < 2:
        return None
    largest, smallest = max(norms, key=lambda name: norms[name]), min(norms, key=lambda name: norms[name])
    ratio = norms[largest] / norms[smallest]
    if ratio <= ONE_SIDED:
        return None
    weight = terms[largest].get("weight")
    value = "WEIGHT" if weight is None else f"{weight / ratio:.2g}"
    return Finding(
        kind="one term decides",
        text=f"In the first step of stage {stage} the gradient of {title_of(largest)} is {ratio:.0f} times that of "
        f"{title_of(smallest)}.",
        remedy=f"Try a lower weight of {title_of(largest)}: with --set stages.{stage}.{largest}.weight={value} both gradients are "
        "equal.",
    )


def first_step_lines(stage: str, terms: Terms) -> list[str]:
    """The loss and gradient of each term in the first step of a stage, as they are shown when it is done, and a warning if one
    decides alone; nothing of a single term."""
    shown = [
        f"{title_of(name)} loss {one['loss']:.3g}, gradient "
        + ("overflows" if one["gradient"] is None else f"{one['gradient']:.3g}")
        for name, one in terms.items()
    ]
    if not shown:
        return []
    lines = [f"first step of stage {stage}: {'; '.join(shown)}"]
    found = one_sided(stage, terms)
    return lines if found is None else [*lines, f"warning: {found.text} {found.remedy}"]


def _curve(half: Trials, selection: int) -> str | None:
    """What half of the texts lacks against all of them, and what more of them would give; None where that is little."""
    fewer, every = half.tried
    if fewer.loss is None or every.loss is None or fewer.loss - every.loss < DISTANT * abs(fewer.loss):
        return None
    line = f"After {half.steps} steps on {fewer.name} the held-out loss is {fewer.loss:.3f}, on {every.name} {every.loss:.3f}"
    if fewer.score is None or every.score is None or not fewer.examples or not every.examples:
        return f"{line}; more texts would lower it further."
    rise = every.score - fewer.score
    line += f", and the validation score {score_text(fewer.score)} and {score_text(every.score)}."
    error = 2**0.5 * standard_error(selection)
    noise = f"the standard error of their difference on {selection:,} validation texts is up to {error:.3f}"
    if rise <= 0:
        return f"{line} The loss says that more texts would help, the score does not ({noise})."
    more = min(MORE, (FURTHEST - 1) * every.examples)
    gain = rise * math.log2(1 + more / every.examples) / math.log2(every.examples / fewer.examples)
    return (
        f"{line} If each doubling adds as much, {more:,} more texts would give about +{gain:.3f}. This is a line through two short "
        f"trials, each made once, and {noise}: {'take it as a direction' if rise < 2 * error else 'the rise is more than chance'}."
    )


def _data(report: TaskReport) -> Iterator[Finding]:
    data = report.data
    cut, learnt = data.truncated.get("train", 0), max(data.train + data.unlabeled, 1)
    if cut > CUT * learnt:
        yield Finding(
            kind="texts are cut",
            text=f"{percent(cut / learnt)} of the training texts are longer than the model reads.",
            remedy="Raise --max-length where the model allows it, or split the texts.",
        )
    curve = None if report.half is None else _curve(report.half, data.validation)
    if report.teacher is not None and (curve or (not data.unlabeled and data.train < FEW)):
        yield Finding(
            kind="few texts",
            text=f"The student learnt from {learnt:,} texts." + (f" {curve}" if curve else ""),
            remedy="Give unlabelled texts of the same kind (--unlabeled FILE): the teacher's predictions are their labels."
            if kind_of(report.kind).takes_unlabelled
            else "Give more texts.",
        )
    doubtful = report.student.against_label
    if doubtful is not None and doubtful > DOUBTFUL and report.teacher is not None and not failures(report):
        yield Finding(
            kind="doubtful labels",
            text=f"On {percent(doubtful)} of the evaluation texts student and teacher agree against the label.",
            remedy="Read these texts in report.html: either both are wrong, or the label is."
            if report.doubtful is not None
            else "Look at these texts: either both are wrong, or the label is.",
        )
