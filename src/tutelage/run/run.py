"""One run: check, plan, train, measure, report."""

from __future__ import annotations

from typing import Any

from tutelage.recipes.config import RunConfig
from tutelage.report import corpus as corpus_pages
from tutelage.report.card import card
from tutelage.report.model import CorpusReport
from tutelage.report.page import page
from tutelage.run.assistants import links
from tutelage.run.corpus import CorpusRun
from tutelage.run.origins import read_origins
from tutelage.run.task import TaskRun
from tutelage.run.workspace import check_divided, run_folder, workspace
from tutelage.tasks.load import ReadData, load_data
from tutelage.training.stages import train_stages
from tutelage.training.stopping import handled


def run(config: RunConfig, *, resume: bool = False, quiet: bool = False, read: ReadData = load_data) -> dict[str, Any]:
    """Carry out a run and return its report (also written to ``report.json``).

    The output folder gets ``config.yaml``, ``metrics.jsonl``, ``student/`` (without a teacher the model of a task lies in the
    folder itself), ``projections.safetensors``, ``report.json``, ``report.html`` and ``origins.json``. Teacher assistants are
    trained first, in ``assistants/``; the run's settings name the last one as the teacher. ``read`` reads the texts of a task.

    Raises:
        TutelageError: for every mistake of the user, before anything is written.
        Stopped: after Ctrl-C or SIGTERM; during training when the step is finished and a checkpoint written.
    """
    check_divided(config.recipe)
    config = with_teachers(config)
    if config.recipe.assistants:
        *before, config = links(config)
        run_folder(config, resume)
        for assistant in before:  # finished ones are not repeated
            run(assistant, resume=True, quiet=quiet, read=read)
    with workspace(config, resume=resume, quiet=quiet) as place, handled() as stops:
        leftovers = (CorpusRun if config.recipe.on_corpus else TaskRun).leftovers
        if (finished := place.finished(lambda: read_origins(config, read), leftovers)) is not None:
            return finished
        work = CorpusRun(place, config) if config.recipe.on_corpus else TaskRun(place, config, read=read)
        place.display.say(work.plan())
        place.begin(work.origins())
        work.start(place)
        logs = train_stages(
            work.count,
            work.begin,
            lambda stage, projections: work.end(stage, projections, place),
            place.folder,
            place.accelerator,
            place.display,
            config.seed,
            place.resumed,
            stops,
        )
        if place.resumed is not None and place.resumed["work"] >= len(config.recipe.stages):
            work.reload(place)
        report = work.report(place, logs)
        if isinstance(report, CorpusReport):
            place.end(report, corpus_pages.card(report), corpus_pages.page(report), leftovers)
        else:
            place.end(report, card(report), page(report), leftovers)
    return report.model_dump(mode="json")


def with_teachers(config: RunConfig) -> RunConfig:
    """The settings with all teachers by name, and with the one that student and report refer to.

    Raises:
        TutelageError: when a stage learns from several teachers and none are named, a folder of teachers is damaged, or a
            teacher is named twice.
    """
    for mechanism in (mechanism for stage in config.recipe.stages for mechanism in stage.mechanisms):
        if mechanism.takes_teachers:
            names = mechanism.expanded(config.teachers)
            lead = config.teacher or mechanism.lead(names)
            return config.model_copy(update={"teachers": names, "teacher": lead})
    return config
