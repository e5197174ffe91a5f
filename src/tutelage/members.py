"""Teams of teachers: made from one command, and compared with one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import transformers
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from tutelage import anatomy
from tutelage.config import DataConfig, RunConfig, validated, with_settings
from tutelage.disk import write_text
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.methods.finetune import finetune
from tutelage.preflight import predicted
from tutelage.progress import Display
from tutelage.runs import run
from tutelage.students.build import Checkpoint, Copied, Fresh, Pruned, load_config, resolve
from tutelage.teachers.source import Source
from tutelage.team import MANIFEST, Manifest, columns, is_store, left_out, manifest_of, members_in, short
from tutelage.texts import (
    HEADS,
    Texts,
    encoded_as,
    fitted_tokenizer,
    held_part,
    load_data,
    longest,
    match_labels,
    part_of,
    scores_of,
)
from tutelage.workspace import new_accelerator


class Member(BaseModel):
    """How one teacher of a team is made; without ``model`` it starts where the others do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    layers: Annotated[int, Field(ge=1)] | None = None
    """Keep so many of its layers, evenly spread."""
    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[int, Field(ge=1)] | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    only: tuple[int, int] | None = None
    """``k/n``: learn from part k of n of the training texts."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of wrong labels that it learns from: for a teacher that is bad on purpose."""


def member_of(text: str) -> Member:
    """A teacher as it is written: ``layers=4,seed=1,lr=1e-4,only=1/2,noise=0.5``.

    Raises:
        TutelageError: for a key or value that there is not.
    """
    fields: dict[str, Any] = {}
    for part in text.split(","):
        key, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign:
            raise TutelageError(f"--member {text!r}: {part!r} has no value; write key=value, such as layers=4,seed=1")
        fields[key] = tuple(value.split("/")) if key == "only" else value
    try:
        member = Member(**fields)
        DataConfig(only=member.only)  # knows which parts there are
        return member
    except ValidationError as error:
        first = error.errors()[0]
        raise TutelageError(
            f"--member {text!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}; a teacher has "
            f"{', '.join(Member.model_fields)}"
        ) from None


def usual_members(depth: int) -> list[str]:
    """Teachers that differ in seed, learning rate, depth and the texts they learnt from."""
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
    epochs: int,
    lr: float,
    mixed_precision: Literal["no", "bf16", "fp16"],
    settings: Sequence[str],
    quiet: bool,
) -> dict[str, Any]:
    """See :func:`tutelage.api.train_team`."""
    for name in ("leave_out", "only", "noise"):
        if getattr(data, name):
            raise TutelageError(
                f"data.{name} says who learns from what, which a team does itself; leave it out, or see --member"
            )
    folder = Path(out)
    specs = list(members) or usual_members(anatomy.shape_of(load_config(resolve(model))).layers)
    if len(specs) < 2:
        raise TutelageError("a team has at least two teachers; give --member more than once, or not at all for five")
    made = [member_of(text) for text in specs]
    for text, member in zip(specs, made, strict=True):
        depth = anatomy.shape_of(load_config(resolve(member.model or model))).layers
        if (member.layers or 0) > depth:
            raise TutelageError(f"--member {text!r}: the model has {depth} layers; keep at most as many")
    names = [f"{number:02d}-{_slug(text)}" for number, text in enumerate(specs, start=1)]
    known = load_data(data)
    if known.kind != "classification" and any(member.noise for member in made):
        raise TutelageError(f"noise gives wrong classes, and {known.task!r} is of kind {known.kind}; leave it out")
    part = held_part(len(known.train))
    common = data.model_copy(update={"leave_out": part})
    manifest = Manifest(data=data, members=dict(zip(names, specs, strict=True)))
    if (folder / MANIFEST).exists() and manifest_of(folder) != manifest:
        raise TutelageError(f"{out!r} holds another team; name another folder")
    if folder.is_dir() and not (folder / MANIFEST).exists() and {p.name for p in folder.iterdir()} - set(names):
        raise TutelageError(f"{out!r} is not empty and holds no team; give an empty or new folder to --out")
    configs = []
    for name, member in zip(names, made, strict=True):
        start = member.model or model
        student = Checkpoint(name=start) if member.layers is None else Copied(layers=member.layers, source=start)
        own = common.model_copy(update={"only": member.only, "noise": member.noise})
        tree = {
            "recipe": finetune(student).model_dump(mode="json"),
            "data": own.model_dump(mode="json"),
            "out": str(folder / name),
            "seed": member.seed,
            "mixed_precision": mixed_precision,
        }
        ours = [f"stages.finetune.epochs={member.epochs or epochs}", f"stages.finetune.lr={member.lr or lr}"]
        configs.append(with_settings(validated(tree, "the team"), [*ours, *settings]))
    for config in configs:
        run(config, resume=True, quiet=quiet)
    accelerator = new_accelerator()
    if accelerator.is_main_process:
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=1))
    accelerator.wait_for_everyone()  # others ask next who is in the folder
    return show_team([out], data, quiet=quiet)


def _slug(text: str) -> str:
    """A member's own words as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text.replace("=", "").replace(",", "-"))[:60]


def show_team(team: Sequence[str], data_config: DataConfig, *, quiet: bool = False) -> dict[str, Any]:
    """See :func:`tutelage.api.show_team`."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    names = members_in(tuple(team))
    if len(names) < 2:
        raise TutelageError(
            "one teacher has nobody to be compared with; name at least two, or a folder of tutelage team train"
        )
    for name in names:
        if is_store(name):
            raise TutelageError(
                f"{name!r} is a store, which has no predictions on other texts; name the teacher itself"
            )
    if data_config.task is None and data_config.train is None:
        if len(team) != 1 or not (Path(team[0]) / MANIFEST).exists():
            raise TutelageError("there is nothing to compare teachers on; give --task NAME or --train FILE")
        said = data_config.model_dump(exclude_defaults=True)
        data_config = manifest_of(Path(team[0])).data.model_copy(update=said)
    accelerator, display = new_accelerator(), Display(quiet)
    with display:
        data = load_data(data_config)
        given = data.labels
        number, parts = held_part(len(data.train))
        held = np.flatnonzero(part_of(data.train, data.kind, parts) == number)
        data, notes = match_labels(data, Source(names[0], HEADS[data.kind]).config, names[0])
        called = dict(zip(names, short(names), strict=True))
        near = [shown for name, shown in called.items() if not left_out(Path(name), data_config, (number, parts))]
        if near:
            notes = [*notes, f"{', '.join(near)} may have learnt from the examples called held-out train"]
        for note in notes:
            display.say(f"note: {note}")
        where = {"held": data.train.take(held), **data.dev}
        rows: list[dict[str, Any]] = []
        on_dev: list[npt.NDArray[np.float32]] = []
        part = next(iter(data.dev))
        for name, shown in called.items():
            source = Source(name, HEADS[data.kind])
            places = columns(data, source.config, name, given)
            tokenizer = fitted_tokenizer(source.tokenizer, source.outline)
            limit = anatomy.max_length(source.config)
            length = min(longest(data, data_config, limit), limit)
            model = source.model.to(accelerator.device)
            scores = {}
            for place, examples in where.items():
                encoded = encoded_as(data.kind, examples, tokenizer, length, data_config.stride)
                logits = predicted(model, encoded, accelerator, display, f"{shown} on {place}")[:, places]
                scores[place] = scores_of(data, logits, Texts(examples, encoded, None))
                if place == part:
                    on_dev.append(logits.numpy())
            parameters = speed.count_parameters(source.outline)
            rows.append({"name": shown, "shape": str(source.shape), "parameters": parameters, "scores": scores})
            source.release()
    return {
        "task": data.task,
        "metric": data.metrics[0],
        "part": part,
        "members": rows,
        "not_kept_apart": near,
        **(
            {}
            if data.kind in ("tokens", "spans")
            else diversity(np.stack(on_dev), data.dev[part].labels, data.kind == "classification")
        ),
    }


def diversity(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], classes: bool) -> dict[str, Any]:
    """How much teachers differ: of ``logits`` ``(n, examples, classes)``.

    ``agreement`` ``(n, n)`` is the share of examples that two answer alike, for regression and multi-label tasks the
    correlation of their outputs; ``disagreement`` the mean of what is missing to 1. With classes also ``kappa`` ``(n, n)``
    (Cohen's: agreement beyond chance), ``one_right`` and ``all_right`` (the share of examples that at least one, or every
    teacher answers rightly) and ``ensemble`` (the accuracy of the mean probabilities).
    """
    count = len(logits)
    agreement = np.eye(count)
    kappa = np.eye(count)
    answers = logits.argmax(axis=2)
    for i, j in combinations(range(count), 2):
        if classes:
            same = float((answers[i] == answers[j]).mean())
            # Of two that always say the same one thing it is 0/0.
            kappa[i, j] = kappa[j, i] = cohen_kappa_score(answers[i], answers[j]) if same < 1 else 1.0
        else:
            same = float(np.corrcoef(logits[i].ravel(), logits[j].ravel())[0, 1])
        agreement[i, j] = agreement[j, i] = same
    upper = agreement[np.triu_indices(count, 1)]
    found: dict[str, Any] = {"agreement": agreement.tolist(), "disagreement": float(1 - upper.mean())}
    if classes:
        mean = softmax(logits, axis=2).mean(axis=0)
        known = labels >= 0
        right = (answers == labels)[:, known]
        found |= {
            "kappa": kappa.tolist(),
            "one_right": float(right.any(axis=0).mean()),
            "all_right": float(right.all(axis=0).mean()),
            "ensemble": float((mean.argmax(axis=1) == labels)[known].mean()),
        }
    return found


def chain(configs: Sequence[RunConfig], *, quiet: bool = False) -> list[dict[str, Any]]:
    """Teacher assistants (TAKD, Mirzadeh et al., AAAI 2020): each run's student is the teacher of the next.

    Runs that are finished are not repeated, a stopped one goes on.

    Raises:
        TutelageError: when one is to take a layer that its teacher does not have, before any is trained; and as :func:`run`.
    """
    depth = anatomy.shape_of(load_config(resolve(str(configs[0].teacher)))).layers
    for config in configs:
        student, last = config.recipe.student, 0
        if isinstance(student, Checkpoint):
            depth = anatomy.shape_of(load_config(resolve(student.name))).layers
        elif isinstance(student, Copied | Fresh | Pruned):
            named = (student.layers,) if isinstance(student.layers, int) else student.layers
            if isinstance(student, Pruned) or (isinstance(student, Copied) and student.source is None):
                last = max(named)
            if last > depth:
                raise TutelageError(
                    f"layer {last} cannot be taken from a teacher of {depth}; name the assistants from large to small"
                )
            depth = student.layers if isinstance(student.layers, int) else len(student.layers)
    return [run(config, resume=True, quiet=quiet) for config in configs]
