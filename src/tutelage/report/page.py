"""``report.html``: the results of a run as one page without external resources.

Python makes words, numbers and geometry; ``page.html.jinja`` draws them and escapes everything that comes from data or names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.objectives.terms import title_of
from tutelage.report import predictions, quality_page
from tutelage.report.model import ModelEntry, Report, StageEntry, TaskReport, Trials
from tutelage.report.numbers import (
    bytes_text,
    count_text,
    device_text,
    finite,
    flops_text,
    label_list,
    milliseconds,
    percent,
    score_text,
    seconds_text,
    signed,
)
from tutelage.report.section import (
    Bar,
    BarChart,
    Cell,
    Column,
    Fact,
    LayerLinks,
    LayerMap,
    Line,
    LineChart,
    Picture,
    Row,
    Section,
    Table,
)
from tutelage.report.served import Served
from tutelage.report.templates import render
from tutelage.report.words import (
    after_trial,
    baseline_text,
    called,
    caution,
    constant_note,
    entries,
    epoch_words,
    factor,
    folder_name,
    interval,
    latency_of,
    lead,
    named_stages,
    names,
    outcome,
    paid,
    selection,
    selector,
    teachers_of,
    trained_words,
    verdict,
    vocabulary_lines,
    with_interval,
    words,
)
from tutelage.tasks import kind_of

WARNINGS = "Warnings and environment"
STAGES = "Training stages"


def page(report: TaskReport) -> str:
    """The report as a self-contained HTML page."""
    return draw(
        title=f"{report.title} on {report.task}",
        verdict=verdict(report),
        poor=not paid(report),
        asides=[*_on_teachers(report), *filter(None, [caution(report)])],
        warnings=len(report.warnings),
        sections=[
            scores_and_cost(report),
            found(report),
            served(report),
            predictions.section(report),
            *quality_page.sections(report),
            tried(report.start, "Start: the teacher's layers that the student is made of", "Layers"),
            curves(report),
            *report.sections,
            training(report),
            tried(report.rates, "Learning rate", "Peak rate"),
            tried(report.twin_rates, "Learning rate of the student without distillation", "Peak rate"),
            _environment(report),
            REPEAT,
        ],
    )


def draw(*, title: str, verdict: str, asides: Sequence[str], sections: Iterable[Section | None], **more: Any) -> str:
    """A page with a headline, the result in one sentence, remarks, and those of the sections that there are."""
    return render(
        "page.html.jinja",
        title=title,
        verdict=verdict,
        asides=asides,
        sections=[section for section in sections if section is not None],
        **more,
    )


REPEAT = Section(
    title="Repeat this run",
    paragraphs=["In the folder of this report:"],
    command="tutelage run config.yaml --out NEW-FOLDER",
)


def found(report: TaskReport) -> Section | None:
    """The findings, with their remedies."""
    if not report.findings:
        return None
    return Section(title="Findings", items=[f"{one.text} {one.remedy or ''}".strip() for one in report.findings])


FORMS = {"pytorch": "PyTorch", "onnx": "ONNX, float32", "int8": "ONNX, int8"}


def served(report: TaskReport) -> Section | None:
    """Teacher, student and twin in the forms in which they would be served."""
    found, who = report.served, names(report)
    if found is None:
        return None
    slowest = found.pytorch_ms.get("teacher")
    rows = []
    for entry in found.entries:
        change = entry.change
        rows.append(
            Row(
                name=f"{who[entry.model]}, {FORMS[entry.form]}",
                cells=[
                    score_text(entry.score),
                    "" if change is None else with_interval(change),
                    bytes_text(entry.bytes),
                    milliseconds(entry.ms),
                    "" if slowest is None else f"{slowest / entry.ms:.1f}x",
                ],
                lead=(entry.model, entry.form) == ("student", "int8"),
            )
        )
    remarks = [
        f"In int8 the student's score minus {whose} is {with_interval(difference)}."
        for whose, difference in (
            ("the teacher's in float32", found.against_teacher),
            ("the teacher's in int8", found.against_int8_teacher),
            ("that of the student without distillation", found.against_baseline),
        )
        if difference is not None
    ]
    columns = [Column(title=words(report.metric)), Column(title="Change by int8"), Column(title="Size")]
    columns += [Column(title="Latency"), Column(title="Speed")]
    speed = "" if slowest is None else f" Speed is relative to the teacher in PyTorch ({milliseconds(slowest)})."
    return Section(
        title="As they would be served",
        table=Table(
            caption=f"Scores on {count_text(found.texts)} examples of {found.part}; latency is the median for one text of "
            f"{found.tokens} tokens on one thread of the CPU, the models in turn.{speed}",
            head="Model",
            columns=columns,
            rows=rows,
        ),
        remarks=remarks,
        pictures=[served_front(report.metric, found, who)] if len(found.pytorch_ms) > 1 else [],
        notes=["Differences have 95 % intervals: paired bootstrap over the examples.", *found.notes],
        command="tutelage export student --out served" if report.teacher else "",
    )


def served_front(metric: str, found: Served, who: dict[str, str]) -> LineChart:
    """Score against latency: a line from each model in int8 to the same in float32."""
    lines, told = [], []
    for style, model in enumerate(name for name in who if name in found.pytorch_ms):
        forms = sorted((one for one in found.entries if one.model == model), key=lambda one: one.ms)
        lines.append(Line(name=who[model], points=[(one.ms, one.score) for one in forms], style=style))
        told += [f"{who[model]}, {FORMS[one.form]}: {score_text(one.score)} at {milliseconds(one.ms)}" for one in forms]
    return LineChart(
        title="Score against latency, ONNX in int8 and float32",
        summary="; ".join(told),
        x="ms",
        y=words(metric),
        lines=lines,
        zero=False,
        dots=True,
    )


def tried(trials: Trials | None, title: str, head: str) -> Section | None:
    """Candidates that were tried before training."""
    if trials is None:
        return None

    def cell(value: float | None) -> str:
        return "" if value is None else score_text(value)

    agree = any(one.untrained_agreement is not None for one in trials.tried)
    titles = ["Loss untrained", *(["Agreement with the teacher untrained"] if agree else []), "Score untrained"]
    rows = [
        Row(
            name=one.name + (" (taken)" if one.name == trials.chosen else ""),
            cells=[
                f"{one.untrained_loss:.4f}",
                *([cell(one.untrained_agreement)] if agree else []),
                cell(one.untrained_score),
                after_trial(one),
                cell(one.score),
            ],
            lead=one.name == trials.chosen,
        )
        for one in trials.tried
    ]
    return Section(
        title=title,
        table=Table(
            caption="Before the trial and after it",
            head=head,
            columns=[Column(title=one) for one in (*titles, "Loss tried", "Score tried")],
            rows=rows,
        ),
        notes=[
            f"{trained_words(trials)}; the lowest loss on {count_text(trials.texts)} held-out texts was taken. The score is "
            "that on the validation split."
        ],
    )


def _on_teachers(report: TaskReport) -> list[str]:
    several = teachers_of(report)
    if several is None:
        return []
    found = lead(report)
    which = "" if found is None else f" The one it is compared with is {found[0]}"
    which += "" if found is None else "." if found[1] else ", which is not one of them."
    return [f"The student was trained by {len(several.shares)} teachers.{which}"]


# ------------------------------------------------------------------------------------------------- scores and cost


@dataclass(frozen=True)
class Measure:
    """A measure: ``cells`` by who, ``ratio`` to the teacher and ``gain`` over the baseline, as text."""

    label: str
    cells: dict[str, str]
    ratio: str = ""
    gain: str = ""


SPREAD = ", in brackets the distance of the quartiles"


def scores_and_cost(report: TaskReport) -> Section:
    """What teacher, student and baseline score, and what they cost."""
    found, who = entries(report), names(report)
    columns = [Column(title=who[name], strong=name == "student") for name, _ in found]
    columns += [Column(title="Student to teacher")] if report.teacher else []
    columns += [Column(title="Gain")] if report.baseline else []
    rows = []
    for number, one in enumerate(comparison(report)):
        cells: list[str | Cell] = [one.cells.get(name, "") for name, _ in found]
        cells += [Cell(text=one.ratio, style="faint")] if report.teacher else []
        cells += [Cell(text=one.gain, style="faint")] if report.baseline else []
        rows.append(Row(name=one.label, cells=cells, lead=not number))
    source = report.data.sources.get("evaluation", "dev")
    return Section(
        title="Scores and cost",
        table=Table(
            caption=f"Scores on {count_text(report.data.evaluation)} examples of the evaluation set ({source}). Latency is the "
            f"median of one forward pass on {device_text(report.environment.device)}{SPREAD}."
            + (f" Gain is the student minus {who['baseline']!r}." if report.baseline else ""),
            head="Measure",
            columns=columns,
            rows=rows,
        ),
        remarks=differences(report),
        facts=[
            Fact(name=who[name], text=f"{baseline_text(report)}, {entry.shape}")
            if name == "baseline"
            else Fact(name=who[name], code=folder_name(entry.name), text=entry.shape)
            for name, entry in found
        ]
        + [
            Fact(
                name=f"Teacher assistant {number}",
                code=folder_name(one.name),
                text=f"{one.shape}; {words(report.metric)} {score_text(one.score)}",
            )
            for number, one in enumerate(report.assistants, start=1)
        ],
        pictures=bar_charts(report),
    )


def differences(report: TaskReport) -> list[str]:
    """The first score's differences with their intervals, in a sentence."""
    student, who = report.student, names(report)
    found = [("teacher", student.over_teacher), ("baseline", student.over_baseline)]
    told = [
        f"student minus {who[name]!r} {signed(one.value)} ({interval(one)})" for name, one in found if one is not None
    ]
    if not told:
        return []
    what = f"{words(report.metric)}, {next(iter(student.scores))}"
    return [f"Differences in {what}: {'; '.join(told)}. Intervals are those of a paired bootstrap over the examples."]


def comparison(report: TaskReport) -> list[Measure]:
    """The rows of the table of scores and cost; the first is the task's metric."""
    found, student = entries(report), report.student
    rows = [
        _score_row(found, part, metric, kind_of(report.kind).against_teacher)
        for part, scores in student.scores.items()
        for metric in sorted(scores, key=lambda name: name != report.metric)
    ]
    rows += [
        _cost_row(found, "Parameters", {who: e.parameters for who, e in found}, count_text, ("fewer", "more")),
        _cost_row(found, "FLOPs per example", {who: e.flops for who, e in found}, flops_text, ("less", "more")),
    ]
    for batch in ("1", "32"):
        values = {who: latency_of(entry, batch) for who, entry in found}
        row = _cost_row(found, f"Latency, batch size {batch}", values, milliseconds, ("faster", "slower"))
        rows.append(replace(row, cells={who: row.cells[who] + _spread(entry, batch) for who, entry in found}))
    sizes = {who: entry.bytes for who, entry in found}
    saved = [(who, entry) for who, entry in found if entry.bytes is not None]
    rows.append(_cost_row(saved, "Size on disk", sizes, bytes_text, ("smaller", "larger")))
    if student.agreement is not None:
        rows.append(Measure(f"Agreement with {called(report)}", {"student": percent(student.agreement)}))
    return rows


def _spread(entry: ModelEntry, batch: str) -> str:
    """`` (0.3)`` after a median, if it was measured."""
    found = (entry.latency_spread_ms or {}).get(batch)
    return f" ({milliseconds(found).split()[0]})" if finite(found) else ""


def _score_row(found: list[tuple[str, ModelEntry]], part: str, metric: str, own: tuple[str, ...]) -> Measure:
    """A row of scores; metrics in ``own`` compare with the teacher already, and have no share of its score."""
    values = {who: entry.scores.get(part, {}).get(metric) for who, entry in found}
    ours, theirs, other = values["student"], values.get("teacher"), values.get("baseline")
    ratio = percent(ours / theirs) if metric not in own and finite(ours) and finite(theirs) and theirs > 0 else ""
    added = signed(round(ours - other, 3)) if finite(ours) and finite(other) else ""
    cells = {who: score_text(value) for who, value in values.items()}
    return Measure(f"{words(metric)}, {part}", cells, ratio, added)


def _cost_row(
    found: list[tuple[str, ModelEntry]],
    label: str,
    values: dict[str, Any],
    form: Callable[[Any], str],
    ways: tuple[str, str],
) -> Measure:
    ratio = ""
    if "teacher" in values and finite(values["teacher"]) and finite(values["student"]):
        ratio = factor(values["teacher"], values["student"], *ways) or "the same"
    return Measure(label, {who: form(values[who]) for who, _ in found}, ratio)


def bar_charts(report: TaskReport) -> list[BarChart]:
    """Scores and latencies, if there are several models."""
    found, who = entries(report), names(report)
    if len(found) < 2:
        return []

    def chart(title: str, values: dict[str, float | None], form: Callable[[Any], str], least: float) -> BarChart:
        bars = [
            Bar(name=who[name], value=value, text=form(value), style=name)
            for name, value in values.items()
            if finite(value)
        ]
        return BarChart(title=title, bars=bars, least=least)

    charts = [chart(f"Score: {words(report.metric)}", {name: e.score for name, e in found}, score_text, 1.0)]
    for batch, what in (("1", "one example"), ("32", "a batch of 32")):
        values = {name: latency_of(entry, batch) for name, entry in found}
        charts.append(chart(f"Latency of {what}", values, milliseconds, 0.0))
    return [one for one in charts if one.bars]


# ----------------------------------------------------------------------------------------------------------- curves


def curves(report: TaskReport) -> Section | None:
    """Which layers were compared, and how losses and scores moved."""
    losses, scores = loss_charts(named_stages(report)), score_charts(report)
    pictures: list[Picture] = [*layer_maps(report), *losses, *scores]
    if not pictures:
        return None
    notes = [LOSSES] if losses else []
    if scores:
        starts = any(not epoch for stage in report.stages for epoch, _ in stage.scores)
        notes.append(
            f"The ring marks the epoch that was kept{'; epoch 0 is the start of the stage' if starts else ''}."
        )
    notes += filter(None, [constant_note(report.kind, (score for stage in report.stages for _, score in stage.scores))])
    return Section(title="Training curves", pictures=pictures, notes=[" ".join(notes)] if notes else [])


LOSSES = "Each point of a loss is the mean over the steps since the point before. Every chart has its own scale."


def loss_charts(stages: Sequence[StageEntry]) -> list[LineChart]:
    """One chart for each term of each stage."""
    charts = []
    for stage in stages:
        for term, values in stage.losses.items():
            points = _points(values)
            if len(points) > 1:
                first, last = points[0], points[-1]
                charts.append(
                    LineChart(
                        title=f"{stage.name}: {title_of(term)} loss",
                        summary=f"from {first[1]:.4g} at step {first[0]:,.0f} to {last[1]:.4g} at step {last[0]:,.0f}",
                        x="step",
                        y="loss",
                        lines=[Line(points=points)],
                    )
                )
    return charts


def score_charts(report: TaskReport) -> list[LineChart]:
    """The score on the validation split by epoch, for each stage that was scored."""
    charts, metric = [], selector(report)
    for stage in named_stages(report):
        points = _points(stage.scores)
        if len(points) > 1:
            best = stage.best
            summary = ", ".join(f"{epoch_words(x)} {y:.3f}" for x, y in points[:50])
            charts.append(
                LineChart(
                    title=f"{stage.name}: {metric} on the validation split",
                    summary=summary + (f"; the best, {epoch_words(best.epoch)}, was kept" if best else ""),
                    x="epoch",
                    y=metric,
                    lines=[Line(points=points)],
                    start=points[0][0],
                    mark=(float(best.epoch), best.score) if best else points[-1],
                    dots=len(points) <= 40,
                )
            )
    return charts


def _points(values: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in values if finite(x) and finite(y)]


def layer_maps(report: TaskReport) -> list[LayerMap]:
    """One picture for each stage that compares layers, and for each teacher where several teach each step."""
    if not report.student_layers or not report.teacher_layers:
        return []
    drawn: dict[tuple[str, int, int], list[LayerLinks]] = {}
    for entry in report.mapping:
        title = f"{entry.stage}: layers that are compared" + (f" with teacher {entry.teacher}" if entry.teacher else "")
        depths = entry.student_layers or report.student_layers, entry.teacher_layers or report.teacher_layers
        links = drawn.setdefault((title, *depths), [])
        links.append(LayerLinks(name=title_of(entry.knowledge), pairs=entry.pairs))
    return [
        LayerMap(title=title, student_layers=ours, teacher_layers=theirs, links=links)
        for (title, ours, theirs), links in drawn.items()
    ]


# -------------------------------------------------------------------------------------------------- other sections


def training(report: TaskReport) -> Section:
    """The stages and the data."""
    data, sources = report.data, report.data.sources
    columns = [
        Column(title="Losses", align="text"),
        *(Column(title=title) for title in ("Epochs", "Steps", "Time")),
        Column(title="Kept", align="text"),
    ]
    rows = [
        Row(
            name=stage.name,
            cells=[
                ", ".join(map(title_of, stage.losses)),
                count_text(stage.epochs),
                count_text(stage.steps),
                seconds_text(stage.seconds),
                outcome(report, stage),
            ],
        )
        for stage in named_stages(report)
    ]

    def examples(part: str, count: int) -> str:
        return f"{count_text(count)} examples" + (f" ({sources[part]})" if part in sources else "")

    unlabeled = f", and {examples('unlabeled', data.unlabeled)} without labels" if data.unlabeled else ""
    augmented = f", and {count_text(data.augmented)} augmented ones" if data.augmented else ""
    facts = [
        Fact(name="Task", text=f"{report.task}, {report.kind}, scored by {words(report.metric)}"),
        Fact(name="Labels", text=label_list(report.labels)),
        Fact(name="Files", text="; ".join(data.notes)),
        Fact(name="Training", text=examples("train", data.train) + augmented + unlabeled),
        Fact(name="Validation split", text=examples("validation", data.validation)),
        Fact(name="Evaluation set", text=examples("evaluation", data.evaluation)),
        Fact(name="Mean length", text=f"{data.mean_length:.1f} tokens"),
        Fact(
            name="Truncated texts",
            text=", ".join(
                f"{count_text(n)} of {'the evaluation set' if part == 'evaluation' else part}"
                for part, n in data.truncated.items()
            ),
        ),
        Fact(name="Vocabulary", text="; ".join(vocabulary_lines(report.vocabulary))),
    ]
    return Section(
        title="How it was trained",
        paragraphs=[f"{report.title} ({report.method}): {report.paper}."],
        table=Table(caption=STAGES, head="Stage", columns=columns, rows=rows),
        remarks=[f"{selection(report)} The evaluation set is only used for the scores above."],
        facts=[fact for fact in facts if fact.text],
    )


def _environment(report: TaskReport) -> Section:
    return Section(
        title=WARNINGS,
        paragraphs=[] if report.warnings else ["No warnings."],
        items=report.warnings,
        facts=environment(report),
    )


def environment(report: Report) -> list[Fact]:
    """What the run was computed with, and how long it took."""
    values = [("tutelage", report.tutelage)]
    values += [
        (words(name), str(value)) for name, value in report.environment if name != "command" and value is not None
    ]
    values += [("seed", str(report.seed))]
    if isinstance(report, TaskReport) and report.store is not None:
        values += [("teacher store", f"{report.store.keeps}; {bytes_text(report.store.bytes)}")]
    facts = [Fact(name=name, text=text) for name, text in [*values, ("whole run", seconds_text(report.seconds))]]
    command = report.environment.command
    facts += [] if command is None else [Fact(name="command", code=command)]
    return facts + [Fact(name=f"fingerprint of {name}", code=found) for name, found in report.origins.items()]
