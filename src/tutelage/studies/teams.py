"""Train the teachers of a team, and compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.data.given import FOLDER
from tutelage.data.parts import held_part, part_of
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.evaluation.diversity import diversity
from tutelage.fields import Count, Rate, Seed, Size
from tutelage.mechanisms.team.folders import MANIFEST, TeamManifest, is_store, left_out, members_in, short
from tutelage.mechanisms.team.report import TeamReport
from tutelage.methods.finetune import finetune
from tutelage.progress import Display
from tutelage.recipes.choices import Precision
from tutelage.recipes.config import as_options, validated
from tutelage.recipes.settings import Settings, with_settings
from tutelage.report.teachers import TeacherEntry
from tutelage.run.run import run
from tutelage.run.workspace import new_accelerator
from tutelage.students.load import load_config
from tutelage.students.specs import Checkpoint, Copied, Student
from tutelage.studies.shared_head import check_widths, train_together
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predicted


class Member(BaseModel):
    """How one teacher of a team is trained. Without ``model`` it starts from the common model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    layers: Size | None = None
    """Number of layers to keep, evenly spread."""
    seed: Seed = 0
    epochs: Count | None = None
    lr: Rate | None = None
    only: tuple[int, int] | None = None
    """``k/n``: train on part k of n of the training texts."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of training labels to replace by wrong ones, to get a bad teacher on purpose."""


def member_of(text: str) -> Member:
    """Parse the value of ``--member``: ``layers=4,seed=1,lr=1e-4,only=1/2,noise=0.5``.

    Raises:
        TutelageError: for an unknown key or an invalid value.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign:
            raise TutelageError(
                f"{option('members')} {text!r}: {part!r} has no value; write key=value, such as layers=4,seed=1"
            )
        fields[key] = tuple(value.split("/")) if key == "only" else value
    try:
        member = Member(**fields)
        DataConfig(only=member.only)  # knows which parts there are
        return member
    except ValidationError as error:
        first = error.errors()[0]
        raise TutelageError(
            f"{option('members')} {text!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}; a teacher has "
            f"{', '.join(Member.model_fields)}"
        ) from None


TOGETHER = ("model", "layers")
"""What teachers that train together may differ in."""


def usual_members(depth: int, *, shared_head: bool = False) -> list[str]:
    """The default team: teachers that differ in seed, depth and training texts, or of a shared head in depth alone."""
    if shared_head:
        return [f"layers={max(1, round(depth * sixths / 6))}" for sixths in (6, 5, 4)]
    return [
        "seed=0",
        "seed=1,only=1/2",
        "seed=2,only=2/2",
        f"seed=3,layers={max(1, round(depth * 5 / 6))}",
        f"seed=4,layers={max(1, round(depth * 2 / 3))}",
    ]


def train_team(
    model: str,
    out: str,
    members: Sequence[str],
    data: DataConfig,
    *,
    epochs: int | Literal["auto"],
    lr: float | Literal["auto"],
    mixed_precision: Precision,
    settings: Settings,
    shared_head: bool,
    quiet: bool,
) -> TeamReport:
    """See :func:`tutelage.api.train_team`."""
    for name in ("leave_out", "only", "noise"):
        if getattr(data, name):
            raise TutelageError(
                f"data.{name} cannot be set for a team, which splits the data itself; leave it out, or set it per teacher with "
                f"{option('members')}"
            )
    folder = Path(out)
    specs = list(members) or usual_members(anatomy.shape_of(load_config(model)).layers, shared_head=shared_head)
    if len(specs) < 2:
        raise TutelageError(
            f"a team needs at least two teachers; got {len(specs)}; repeat {option('members')}, or leave it out for five "
            "default teachers"
        )
    made = [member_of(text) for text in specs]
    for text, member in zip(specs, made, strict=True):
        depth = anatomy.shape_of(load_config(member.model or model)).layers
        if (member.layers or 0) > depth:
            raise TutelageError(f"{option('members')} {text!r}: the model has {depth} layers; keep at most as many")
    names = [f"{number:02d}-{_slug(text)}" for number, text in enumerate(specs, start=1)]
    known = load_data(data)
    if shared_head:
        _check_together(specs, made, kind_of(known.kind))
        check_widths([member.model or model for member in made])
    if not kind_of(known.kind).classifies_texts and any(member.noise for member in made):
        raise TutelageError(f"noise replaces classes, and {known.task!r} is of kind {known.kind}; leave it out")
    if shared_head:  # they train together: no score of one alone ends the training or chooses a rate
        epochs, lr = 3 if epochs == "auto" else epochs, 3e-5 if lr == "auto" else lr
    part = held_part(len(known.train))
    common = data.model_copy(update={"leave_out": part})
    manifest = TeamManifest(data=data, members=dict(zip(names, specs, strict=True)), shared_head=shared_head)
    if (folder / MANIFEST).exists() and TeamManifest.read(folder) != manifest:
        raise TutelageError(f"{out!r} holds another team; name another folder")
    if (
        not shared_head
        and folder.is_dir()
        and not (folder / MANIFEST).exists()
        and {p.name for p in folder.iterdir()} - {*names, FOLDER}
    ):
        raise TutelageError(f"{out!r} is not empty and holds no team; give an empty or new folder to {option('out')}")
    configs = []
    for name, member in zip(names, made, strict=True):
        start = member.model or model
        # Which layers are best is tried for each teacher alone, which says little of those that train together.
        choose: Literal["spread", "best"] = "spread" if shared_head else "best"
        student: Student = Checkpoint(name=start)
        if member.layers is not None:
            student = Copied(layers=member.layers, source=start, choose=choose)
        own = common.model_copy(update={"only": member.only, "noise": member.noise})
        with as_options():
            recipe = finetune(student, member.epochs or epochs, member.lr or lr)
        tree = {
            "recipe": recipe.model_dump(mode="json"),
            "data": own.model_dump(mode="json"),
            "out": str(folder / name),
            "seed": member.seed,
            "mixed_precision": mixed_precision,
        }
        configs.append(with_settings(validated(tree), settings))
    if shared_head and not (folder / MANIFEST).exists():
        train_together(configs, folder, manifest.model_dump_json(), quiet=quiet)
    for config in () if shared_head else configs:
        run(config, resume=True, quiet=quiet)
    accelerator = new_accelerator()
    if accelerator.is_main_process:
        manifest.write(folder)
    accelerator.wait_for_everyone()  # others ask next who is in the folder
    return show_team([out], data, quiet=quiet)


def _check_together(texts: Sequence[str], members: Sequence[Member], kind: Kind) -> None:
    """Check that teachers can train together.

    Raises:
        TutelageError: when one differs in what is common to all, or texts have other than one answer.
    """
    if not kind.per_text or not kind.learns_labels:
        raise TutelageError(
            f"a shared head gives one answer for each text, learnt from labels, and kind {kind.name} has none; train the teachers "
            "apart"
        )
    for text, member in zip(texts, members, strict=True):
        own = next((key for key in member.model_fields_set if key not in TOGETHER), None)
        if own is not None:
            raise TutelageError(
                f"{option('members')} {text!r}: teachers with a shared head learn the same texts in the same steps, so {own} "
                "is common to "
                f"all; leave it out (they may differ in {' and '.join(TOGETHER)})"
            )


def _slug(text: str) -> str:
    """The value of ``--member`` as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text.replace("=", "").replace(",", "-"))[:60]


def show_team(team: Sequence[str], data_config: DataConfig, *, quiet: bool = False) -> TeamReport:
    """See :func:`tutelage.api.show_team`."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    names = members_in(tuple(team))
    if len(names) < 2:
        raise TutelageError(
            f"a team needs at least two teachers; got {len(names)}; name another, or a folder of tutelage team train"
        )
    for name in names:
        if is_store(name):
            raise TutelageError(f"{name!r} is a store, which cannot predict other texts; name the teacher itself")
    if data_config.task is None and data_config.train is None:
        if len(team) != 1 or not (Path(team[0]) / MANIFEST).exists():
            raise TutelageError(
                f"there is no data to compare the teachers on; give {option('task')} NAME or {option('train')} FILE"
            )
        said = data_config.model_dump(exclude_defaults=True)
        data_config = TeamManifest.read(Path(team[0])).data.model_copy(update=said)
    accelerator, display = new_accelerator(), Display(quiet)
    with display:
        data = load_data(data_config)
        given = data.labels
        number, parts = held_part(len(data.train))
        held = np.flatnonzero(part_of(data.train, parts) == number)
        kind = kind_of(data.kind)
        data, notes = kind.match(data, Source(names[0], kind.head).config, names[0])
        called = dict(zip(names, short(names), strict=True))
        near = [shown for name, shown in called.items() if not left_out(Path(name), data_config, (number, parts))]
        if near:
            notes = [*notes, f"{', '.join(near)} may have been trained on the examples reported as held-out train"]
        for note in notes:
            display.say(f"note: {note}")
        where = {"held_out": data.train.take(held), **data.dev}
        rows: list[TeacherEntry] = []
        on_dev: list[npt.NDArray[np.float32]] = []
        part = next(iter(data.dev))
        for name, shown in called.items():
            source = Source(name, kind.head)
            places = kind.columns(data, source.config, name, given)
            tokenizer = fitted_tokenizer(source.tokenizer, source.outline)
            limit = anatomy.max_length(source.config)
            length = min(data_config.max_length or kind.longest(limit), limit)
            model = source.model.to(accelerator.device)
            scores = {}
            for place, examples in where.items():
                encoded = kind.encode(examples, tokenizer, length, data_config.stride)
                logits = predicted(model, encoded, accelerator, display, f"{shown} on {place}")[:, places]
                scores[place] = kind.scores(data, logits, Texts(examples, encoded, None))
                if place == part:
                    on_dev.append(logits.numpy())
            parameters = speed.count_parameters(source.outline)
            rows.append(TeacherEntry(name=shown, shape=str(source.shape), parameters=parameters, scores=scores))
            source.release()
    return TeamReport(
        task=data.task,
        metric=data.metrics[0],
        part=part,
        members=rows,
        not_kept_apart=near,
        **(diversity(np.stack(on_dev), data.dev[part].labels, kind.single_label) if kind.per_text else {}),
    )
