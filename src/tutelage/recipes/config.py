"""One run as data: the recipe, the teacher, the data and the output folder. One tree = YAML = command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.recipes.recipe import Instances, Recipe


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
