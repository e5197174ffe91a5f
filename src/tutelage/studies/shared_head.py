"""Train the teachers of a team together, under one pooling and prediction layer (MT-BERT, Wu et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Batch
from tutelage.data.examples import Encoded
from tutelage.errors import TutelageError
from tutelage.knowledge.signals import Signals, Tap
from tutelage.objectives.objective import Objective
from tutelage.progress import Display, Event
from tutelage.recipes.config import RunConfig
from tutelage.report.card import card
from tutelage.report.model import REPORT
from tutelage.report.page import page
from tutelage.run.task import TaskRun
from tutelage.run.workspace import Workspace, locked, new_accelerator, run_folder
from tutelage.students.load import load_config
from tutelage.students.specs import origin_of
from tutelage.studies.study import check_folder, take_folder
from tutelage.teachers.teacher import Seen
from tutelage.training import checkpoint, loop
from tutelage.training.stopping import handled

FILE = "shared_head.json"
"""In the folder of a team whose teachers train together: what was asked."""


class Together(loop.TrainedModule):
    """Teachers that learn from the same texts in the same steps; the loss is the sum of theirs, ``sum_i CE(y, y_i)``.

    ``read`` are all training texts as each teacher reads them.
    """

    def __init__(self, members: dict[str, PreTrainedModel], objective: Objective, read: dict[str, Encoded]) -> None:
        super().__init__(nn.ModuleList(members.values()), objective)
        self._read, needs = read, objective.plan.student_needs
        self._taps = {name: Tap(model, needs) for name, model in members.items()}

    def forward(self, batch: Batch, teacher: Signals) -> dict[str, Tensor]:
        """Each teacher's loss by its name. The batch is the first one's; the others read their own tokens of its texts."""
        losses = {}
        for number, (name, tap) in enumerate(self._taps.items()):
            seen = Seen.of(batch, self._read[name] if number else None)
            terms: dict[str, Tensor] = self.objective(tap(seen.inputs, seen.predicted), teacher, batch)
            losses[name] = torch.stack([*terms.values()]).sum()
        return losses

    def frozen(self, train: anatomy.Trained) -> list[nn.Module]:
        return [module for tap in self._taps.values() for module in anatomy.frozen_modules(tap.model, train)]

    def close(self) -> None:
        for tap in self._taps.values():
            tap.close()


def check_widths(models: Sequence[str]) -> None:
    """Check that all models have the same hidden size.

    Raises:
        TutelageError: when two differ.
    """
    first = anatomy.shape_of(load_config(models[0])).hidden
    for name in models[1:]:
        if (hidden := anatomy.shape_of(load_config(name)).hidden) != first:
            raise TutelageError(
                f"teachers with a shared head have one hidden size, but that of {models[0]!r} is {first} and that of {name!r} is "
                f"{hidden}; leave one out, or train them apart"
            )


def train_together(configs: Sequence[RunConfig], folder: Path, asked: str, *, quiet: bool) -> None:
    """Train the models of these runs together and end each run as if it had trained its own. A stopped training continues.

    Raises:
        TutelageError: for every mistake of the user, before anything is written.
        Stopped: after Ctrl-C or SIGTERM during training, when the step is finished and a checkpoint written.
    """
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with locked(str(folder)):
        check_folder(folder, FILE, "team with a shared head", asked)
        accelerator = new_accelerator(configs[0].mixed_precision)
        with Display(quiet or not accelerator.is_main_process) as display:
            places = [Workspace(accelerator, display, one, run_folder(one, True), True) for one in configs]
            if all((place.folder / REPORT).exists() for place in places):
                if accelerator.is_main_process:
                    checkpoint.remove(folder / "checkpoint")
                return
            runs = [TaskRun(place, place.config) for place in places]
            share_head([one.student for one in runs], [str(origin_of(one.recipe.student)) for one in configs])
            names = [place.folder.name for place in places]
            for name, one in zip(names, runs, strict=True):
                others = ", ".join(other for other in names if other != name)
                one.warnings.append(
                    f"trained together with {others} under one head (`tutelage team train --shared-head`); config.yaml alone "
                    "trains "
                    "it without them"
                )
                display.say(one.plan())
            accelerator.wait_for_everyone()  # all have looked at the folder before the first one writes
            if accelerator.is_main_process:
                take_folder(folder, FILE, asked)
            accelerator.wait_for_everyone()
            unfinished = [number for number, place in enumerate(places) if not (place.folder / REPORT).exists()]
            for number in unfinished:
                places[number].begin(runs[number].origins())
            log = _train(dict(zip(names, runs, strict=True)), folder)
            for number in unfinished:
                _end(runs[number], places[number], names[number], log)
            if accelerator.is_main_process:
                checkpoint.remove(folder / "checkpoint")


def share_head(models: Sequence[PreTrainedModel], names: Sequence[str]) -> None:
    """Give all models the parameters of the first one's pooling and prediction layers.

    Raises:
        TutelageError: when two heads do not compute the same of the same hidden states.
    """
    first, *others = models
    ours = _head(first)
    hidden = torch.randn(1, 3, anatomy.shape_of(first.config).hidden, generator=torch.Generator().manual_seed(0))
    for model, name in zip(others, names[1:], strict=True):
        theirs = _head(model)
        shapes = [[p.shape for module in head for p in module.parameters()] for head in (ours, theirs)]
        alike = bool(anatomy.family_of(model.config).layers) and shapes[0] == shapes[1]
        if alike:
            for mine, other in zip(ours, theirs, strict=True):
                for key, parameter in mine.named_parameters():
                    setattr(other, key, parameter)
            alike = torch.allclose(_answers(first, hidden), _answers(model, hidden), atol=1e-4)
        if not alike:
            raise TutelageError(
                f"teachers with a shared head need heads that compute the same, and {names[0]!r} ({first.config.model_type}) and "
                f"{name!r} ({model.config.model_type}) do not; leave one out, or train them apart"
            )


def _head(model: PreTrainedModel) -> list[nn.Module]:
    """The matrices and norms from the last hidden states to the predictions, in the order of use."""
    pooler = anatomy.pooler_of(model) if anatomy.family_of(model.config).reads_pooler else nn.Identity()
    inside = [m for m in pooler.modules() if isinstance(m, nn.Linear)]
    return [*inside, *anatomy.head_modules(model).values()]


@torch.no_grad()
def _answers(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The logits that a model gives if its last layer gives these hidden states ``(1, length, hidden)``."""
    hidden = hidden.to(next(model.parameters()).device)

    def replaced(module: nn.Module, args: Any, output: Any) -> Any:
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = anatomy.layer_outputs_of(model)[-1].register_forward_hook(replaced)
    training = model.training
    try:
        ids = torch.full(hidden.shape[:2], 1 + (model.config.pad_token_id or 0), device=hidden.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return anatomy.answers_of(model.eval(), inputs, None).cpu()
    finally:
        handle.remove()
        model.train(training)


def _train(runs: dict[str, TaskRun], folder: Path) -> loop.StageLog:
    """Train the students of these runs, from the checkpoint in ``folder`` if there is one."""
    first = next(iter(runs.values()))
    (stage,), desk, config = first.config.recipe.stages, first.bench, first.config
    resumed = checkpoint.load(folder / "checkpoint", desk.display.say)
    kind, shape = first.texts.kind, anatomy.shape_of(first.student.config)
    read = {name: one.texts.parts["train"].student for name, one in runs.items()}
    torch.manual_seed(config.seed)
    members = {name: one.student for name, one in runs.items()}
    module = Together(members, Objective(stage.objective, kind, shape, None), read)

    def save(state: checkpoint.State) -> None:
        checkpoint.save(folder / "checkpoint", state)

    def score() -> float:
        return float(np.mean([one.score(one.student) for one in runs.values()]))

    def report(event: Event) -> None:
        desk.display.event("", event)

    if resumed is not None and "trained" in resumed:  # killed while the teachers were saved
        module.student.load_state_dict(resumed["student.safetensors"])
        module.close()
        return loop.StageLog(**resumed["trained"])
    with handled() as stops, stops.steps():
        log = loop.train(
            stage,
            module,
            None,
            first.texts.feed(stage),
            desk.accelerator,
            config.seed,
            score=score if stage.select == "best" else None,
            resumed=resumed,
            save=save,
            report=report,
            say=desk.display.say,
            asked=stops.asked,
        )
    module.close()
    if desk.main:
        save({"trained": vars(log), "student.safetensors": module.student.state_dict()})
    desk.accelerator.wait_for_everyone()
    return log


def _end(run: TaskRun, place: Workspace, name: str, log: loop.StageLog) -> None:
    """Write a teacher and its report, with its own losses."""
    if place.main:
        place.save_student(run.student, run.tokenizer, {})
    place.accelerator.wait_for_everyone()
    own = replace(log, losses={"hard_labels": log.losses[name]}, first_step={})
    report = run.report(place, [own])
    place.end(report, card(report), page(report), run.leftovers)
