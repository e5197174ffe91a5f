"""The commands that train and compare several teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tutelage.data.signature import takes_data
from tutelage.errors import TutelageError, option
from tutelage.recipes.choices import Precision

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions
    from tutelage.mechanisms.team.report import TeamReport
    from tutelage.report.results import Crossfit
    from tutelage.run.inputs import Model, Splits
from tutelage.api.common import FILES, FilePath, Plugin, data_config, place, read_plugins, several


@takes_data(*FILES, "max_train", "max_length")
def crossfit(
    model: Model,
    out: FilePath,
    *,
    folds: int = 5,
    epochs: int | Literal["auto"] = "auto",
    lr: float | Literal["auto"] = "auto",
    seed: int = 0,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Crossfit:
    """Write out-of-fold predictions for the training set (k-fold cross-fitting), to teach with or for Pea-KD's PTP labels.

    ``distill(None, ..., teacher_predictions="OUT/predictions.jsonl", student="layers=3,source=teacher/")`` learns from them;
    ``distill(..., method="pea_kd", settings={"stages.ptp.ptp_labels.source": out})`` makes PTP labels of them.

    Args:
        model: Checkpoint that each fold starts from: a folder or a hub id.
        out: Folder of the folds; a stopped command continues when it is repeated.
        folds: Number of parts of the training set; each is predicted by a model trained on the others.
        epochs: Passes over the training set; auto: as `tutelage finetune`, for each fold.
        lr: Peak learning rate; auto: as `tutelage finetune`.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and prediction; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the runs as path=value: stages.finetune.batch_size=16.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage crossfit --model bert-base-uncased --task mrpc --folds 5 --out folds/mrpc
    """
    from tutelage.methods.finetune import finetune as recipe_of
    from tutelage.recipes.config import as_options
    from tutelage.recipes.settings import run_config
    from tutelage.report.results import Crossfit
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Checkpoint
    from tutelage.studies.crossfit import crossfit as crossfitted

    if folds < 2:
        raise TutelageError(f"{option('folds')} {folds} leaves nothing to learn from; give at least 2")
    read_plugins(plugins)
    with Inputs(out) as inputs:
        start = Checkpoint(name=inputs.model(model, "model"))
        with as_options():
            recipe = recipe_of(start, epochs, lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision}
        config = run_config(recipe, inputs.data(data, options), settings, **fields)
        found = crossfitted(config, folds, quiet=quiet)
    return Crossfit(**found.model_dump(exclude={"contents"}), examples=len(found.contents))


@takes_data(*FILES, "max_train", "max_length")
def train_team(
    model: Model,
    out: FilePath,
    *,
    members: Sequence[str] = (),
    epochs: int | Literal["auto"] = "auto",
    lr: float | Literal["auto"] = "auto",
    shared_head: bool = False,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> TeamReport:
    """Fine-tune several different teachers on a task; autoskdbert, skdbert, ensemble and mt_bert distil from them.

    No teacher learns from the tenth of the training set (about 300 to 2,000 examples) on which :func:`distill` learns the
    sampling weights. Returns how the teachers compare, as :func:`show_team`.

    Args:
        model: Checkpoint that each teacher starts from: a folder or a hub id.
        out: Folder of the teachers; a stopped command continues when it is repeated.
        members: How one teacher differs: model, layers, seed, epochs, lr, only=1/2 (a part of the training set), noise=0.5
            (share of wrong labels), with commas between them. Default: five teachers of usual kinds.
        epochs: Passes over the training set; auto: as `tutelage finetune`, for each teacher; 3 with a shared head.
        lr: Peak learning rate; auto: as `tutelage finetune`; 3e-5 with a shared head.
        shared_head: Train all teachers together, with one pooling and prediction layer (MT-BERT). They may differ in model and
            layers; their hidden sizes and the kind of their heads must agree. Default: three teachers of different depths.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        settings: Any setting of the runs as path=value: stages.finetune.batch_size=16.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage team train --model bert-base-uncased --task mrpc --member seed=0 --member layers=6,seed=1,lr=1e-4
        --member only=1/2,seed=2 --out team/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies import teams

    read_plugins(plugins)
    with Inputs(out) as inputs:
        return teams.train_team(
            inputs.model(model, "model"),
            place(out),
            several(members),
            data_config(inputs.data(data, options)),
            epochs=epochs,
            lr=lr,
            mixed_precision=mixed_precision,
            settings=settings,
            shared_head=shared_head,
            quiet=quiet,
        )


@takes_data(*FILES, "max_train", "max_length")
def show_team(
    team: FilePath | Sequence[Model],
    *,
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> TeamReport:
    """Compare teachers: scores on the evaluation set and on held-out training examples, agreement, diversity.

    See :func:`tutelage.evaluation.diversity.diversity` for the measures. ``not_kept_apart`` names the teachers that may have
    been trained on the held-out examples.

    Args:
        team: Folder of `tutelage team train`, or a list of teachers. A folder brings its own data settings; options given here
            override them. A list needs data to compare the teachers on.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage team show team/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies import teams

    read_plugins(plugins)
    with Inputs() as inputs:
        names = [inputs.model(one, "team") for one in several(team)]
        return teams.show_team(names, data_config(inputs.data(data, options)), quiet=quiet)
