"""One run as data: the recipe, the teacher, the texts and where the result goes. One tree = YAML = command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.data.examples import Kind
from tutelage.errors import TutelageError
from tutelage.recipe import Instances, Recipe


class DataConfig(BaseModel):
    """Which texts: a GLUE task by name, or files with columns.

    ``holdout`` is the share of train that is kept out of training to choose checkpoints on; 0 chooses them on dev, and
    the report then says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str | None = None
    data_dir: str | None = None
    """Folder of GLUE's original TSV files; without it the task comes from the Hub."""
    train: str | None = None
    dev: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    kind: Kind | None = None
    """Taken from the labels where it is not given."""
    unlabeled: str | None = None
    """A file of text without labels, which the teacher labels softly."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_train: Annotated[int, Field(ge=1)] | None = None
    """Use only so many training examples, drawn with seed 0."""
    leave_out: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: do not learn from part k (from 1) of n, which are drawn with seed 0 (``tutelage crossfit``)."""
    only: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: learn from part k (from 1) of n alone, drawn with seed 0 from what is not left out."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Give so large a share of train another label, drawn with seed 0: to make a teacher that is bad on purpose."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """For questions: tokens that neighbouring windows of a long context share; 128, or a third of short windows."""
    candidates: str | None = None
    """A folder of ``tutelage augment``: the words that may stand for others in augmented texts."""
    drop_flipped: bool = False
    """Leave out the augmented texts of which the teacher predicts another class than of their originals."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens; the model's positions where it is not given."""

    @model_validator(mode="after")
    def _parts_exist(self) -> DataConfig:
        for name, given in (("leave_out", self.leave_out), ("only", self.only)):
            if given is not None and given[0] > given[1]:
                raise ValueError(f"{name} names part {given[0]} of {given[1]}; count from 1 to {given[1]}")
        return self


class RunConfig(BaseModel):
    """Everything that determines a run; ``config.yaml`` of a run is this, and repeats it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    teacher: str | None = None
    """The teacher; beside a team the one that the student's layers are copied from, and that the report compares with."""
    team: tuple[str, ...] = ()
    """Teachers of stages that have a team: folders, hub ids, or stores."""
    data: DataConfig = DataConfig()
    corpus: str | None = None
    """A folder of ``tutelage corpus build``, for the stages on raw text."""
    out: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    baseline: bool = True
    """Train the same student without the teacher too, for as many steps, and show it beside."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    allow_weak_teacher: bool = False
    teacher_store: str | None = None
    """A folder with the teacher's stored knowledge, or ``auto``: the one that fits, written if there is none."""
    store_dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float16"
    """In which ``auto`` writes hidden states."""
    tracker: Literal["tensorboard", "trackio", "wandb", "mlflow"] | None = None

    @model_validator(mode="after")
    def _one_part(self) -> RunConfig:
        general = [isinstance(stage.data, Instances) for stage in self.recipe.stages]
        if any(general) and not all(general):
            raise ValueError("stages on a corpus and stages on a task are two runs; take one part of the recipe")
        return self

    @model_validator(mode="after")
    def _team_is_asked(self) -> RunConfig:
        asked = [stage.name for stage in self.recipe.stages if stage.team is not None]
        if self.team and not asked:
            raise ValueError(
                f"the method {self.recipe.method!r} has one teacher and cannot ask a team; use autoskdbert, skdbert or "
                "ensemble"
            )
        return self


def to_yaml(config: RunConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def from_yaml(path: Path) -> RunConfig:
    """Read a run from a YAML file.

    Raises:
        TutelageError: when the file is missing, is not YAML, or does not describe a run.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TutelageError(f"there is no file {str(path)!r}; `tutelage recipe METHOD > {path}` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise TutelageError(f"{str(path)!r} is not a YAML file: {' '.join(str(error).split())}") from None
    return validated(tree, str(path))


def validated(tree: Any, name: str) -> RunConfig:
    """A tree of plain values as a run; every mistake becomes one line that names its place."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top level"
        given = "" if isinstance(first["input"], dict | list) else f" (given: {first['input']!r})"
        raise TutelageError(f"{name}: {place}: {first['msg']}{given}") from None


def with_settings(config: RunConfig, settings: list[str]) -> RunConfig:
    """The run with ``path=value`` settings applied, as ``--set`` takes them.

    A path names parts on the way to a value, in order: ``stages.prediction.temperature`` finds
    ``recipe.stages.prediction.objective.soft_labels.temperature``. Stages go by their name, terms by their kind, and
    ``*`` stands for all at its place (``stages.*.epochs=2``). Values are YAML.

    Raises:
        TutelageError: when a path finds nothing, or more than one place.
    """
    tree = config.model_dump(mode="json")
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign:
            raise TutelageError(f"--set {setting!r} has no value; write path=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise TutelageError(f"--set {setting!r}: {text!r} is no YAML value; quote it") from None
        wanted = path.strip().split(".")
        found = [place for place in _places(tree, ()) if _fits(wanted, [name for name, _ in place])]
        # The whole path given beats a path in which it is only hidden.
        found = [p for p in found if len(p) == len(wanted)] or found
        if not found:
            names = sorted({place[-1][0] for place in _places(tree, ())})
            raise TutelageError(f"--set {path}: there is no such setting; the last part may be {', '.join(names)}")
        if len(found) > 1 and "*" not in wanted:
            options = ", ".join(".".join(name for name, _ in place) for place in found)
            raise TutelageError(f"--set {path} fits several settings ({options}); name one, or use * for all")
        for place in found:
            node = tree
            for _, key in place[:-1]:
                node = node[key]
            node[place[-1][1]] = value
    return validated(tree, "--set")


def _places(node: Any, before: tuple[tuple[str, Any], ...]) -> list[tuple[tuple[str, Any], ...]]:
    """Every value of the tree, as the (name, key) pairs that lead to it; inner nodes too."""
    items: list[tuple[str, Any, Any]] = []
    if isinstance(node, dict):
        items = [(key, key, value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [
            (str(value.get("name") or value.get("kind")), key, value)
            for key, value in enumerate(node)
            if isinstance(value, dict)
        ]
    places = []
    for name, key, value in items:
        places.append((*before, (name, key)))
        places += _places(value, (*before, (name, key)))
    return places


def _fits(wanted: list[str], names: list[str]) -> bool:
    """Whether ``wanted`` is hidden in ``names`` in order, and both end alike; ``*`` fits one name."""
    if wanted[-1] != names[-1]:
        return False
    remaining = iter(names)
    return all(any(part in ("*", name) for name in remaining) for part in wanted)
