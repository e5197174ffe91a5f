"""The commands as functions: ``from tutelage import finetune, distill, evaluate``.

This is the only place where an option of a command is declared: its name, its type and its default in the signature, its help
under ``Args:``. The command line is derived from it (:mod:`tutelage.cli`).

The texts are the fields of :class:`~tutelage.data.config.DataConfig` as keyword arguments (``task="sst2"``, or
``train="mine.csv"``, ``dev=...``, ``text=...``, ``label=...``), or ``data=DataConfig(...)``. ``train``, ``dev`` and
``unlabeled`` may be in memory: a ``datasets.Dataset``, a pandas ``DataFrame``, a dict of lists, ``(texts, labels)``; ``data`` may
be a ``datasets.DatasetDict``. A model is a folder, a hub id, a :class:`~tutelage.run.result.Result`, or ``(model, tokenizer)``.
Objects are written into ``OUT/inputs``, and the run's config.yaml names them there.

Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tutelage.data.signature import takes_data
from tutelage.errors import TutelageError
from tutelage.recipes.choices import Dtype, Precision, Tracker

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions
    from tutelage.recipes.config import RunConfig
    from tutelage.recipes.recipe import Recipe
    from tutelage.report.attention import AttentionReport
    from tutelage.report.search import Search
    from tutelage.run.inputs import Inputs, Model, Splits
    from tutelage.run.result import Result
    from tutelage.students.specs import Student
    from tutelage.studies.ablation import Ablation

FilePath = str | os.PathLike[str]
Plugin = str | os.PathLike[str] | ModuleType

FILES = ("task", "data_dir", "train", "dev", "text", "text_pair", "label", "kind")
"""The options of data that every command on a task has."""


@takes_data(*FILES, "max_train", "max_length")
def finetune(
    model: Model,
    out: FilePath,
    *,
    epochs: int = 3,
    lr: float = 3e-5,
    seed: int = 0,
    mixed_precision: Precision = "no",
    tracker: Tracker | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Result:
    """Fine-tune a model on a task: how a teacher is made.

    Args:
        model: Checkpoint to start from: a folder or a hub id.
        out: Output folder; new or empty.
        epochs: Passes over the training set.
        lr: Peak learning rate.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32.
        tracker: Experiment tracker that gets the losses and scores.
        settings: Any setting of the run as path=value: stages.finetune.batch_size=16, data.holdout=0.2.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage finetune --model bert-base-uncased --task sst2 --out teacher/
    """
    from tutelage.methods.finetune import finetune as recipe_of
    from tutelage.recipes.config import as_options
    from tutelage.recipes.settings import run_config
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Checkpoint

    with Inputs(out) as inputs:
        start = Checkpoint(name=inputs.model(model, "model"))
        with as_options():
            recipe = recipe_of(start, epochs, lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker}
        config = run_config(recipe, inputs.data(data, options), settings, **fields)
        return _carried_out(config, resume, quiet)


def pretrain(
    model: Model,
    corpus: FilePath,
    out: FilePath,
    *,
    student: str | Student | None = None,
    causal: bool = False,
    head_only: bool = False,
    epochs: int = 1,
    lr: float = 1e-4,
    seed: int = 0,
    mixed_precision: Precision = "no",
    tracker: Tracker | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Train a language model on raw text without a teacher: a language-model head, or a small BERT to compare with.

    Args:
        model: Checkpoint to continue from; with a student the model whose family and vocabulary it gets.
        corpus: Folder of `tutelage corpus build`.
        out: Output folder; new or empty.
        student: Sizes of a new network, such as layers=4,hidden=312. Default: train the model itself.
        causal: Predict the next words instead of masked words.
        head_only: Train the language-model head and leave the body as it is.
        epochs: Passes over the corpus.
        lr: Peak learning rate.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32.
        tracker: Experiment tracker that gets the losses.
        settings: Any setting of the run as path=value: stages.pretrain.batch_size=64.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage pretrain --model bert-base-uncased --student layers=4,hidden=312,intermediate=1200,heads=12 --corpus corpus/
        --out small/
    """
    from tutelage.methods.pretrain import pretrain as recipe_of
    from tutelage.recipes.config import as_options
    from tutelage.recipes.settings import run_config
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Checkpoint, Fresh, parse

    with Inputs(out) as inputs:
        name = inputs.model(model, "model")
        spec: Student = Checkpoint(name=name)
        if student is not None:
            spec = parse(student) if isinstance(student, str) else student
            if not isinstance(spec, Fresh):
                raise TutelageError(
                    f"--student {student!r} makes no new network; give sizes, such as layers=4,hidden=312"
                )
            spec = spec.model_copy(update={"like": name})
        with as_options():
            recipe = recipe_of(spec, causal=causal, head_only=head_only, epochs=epochs, lr=lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker, "corpus": corpus}
        return _carried_out(run_config(recipe, {}, settings, **fields), resume, quiet)


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def distill(
    teacher: Model | None,
    out: FilePath,
    *,
    team: FilePath | Sequence[Model] = (),
    teacher_store: FilePath | None = None,
    store_dtype: Dtype = "float16",
    allow_weak_teacher: bool = False,
    method: str | Recipe | Callable[[], Recipe] = "kd",
    ablation: str | None = None,
    stage: Literal["task", "general"] = "task",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    baseline: bool = True,
    corpus: FilePath | None = None,
    seed: int = 0,
    mixed_precision: Precision = "no",
    tracker: Tracker | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    resume: bool = False,
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Result:
    """Distil a teacher into a student, and report what the student retains and saves.

    Args:
        teacher: Teacher: a folder or a hub id, fine-tuned on the task. Default: the teacher of the store, or the first of the
            team. Beside a team: the model that the student's layers are copied from and that the report compares with.
        out: Output folder; new or empty.
        team: Teacher of a team: a folder, hub id or store; or one folder of `tutelage team train` for all.
        teacher_store: Folder of the teacher's stored knowledge; auto: the store that fits, written if there is none.
        store_dtype: Type of the hidden states that auto writes.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        method: Method: one of `tutelage methods`, or of a plug-in.
        ablation: Part of the method to leave out: no_gd, no_td, no_da, no_embd, no_pred, no_trm, no_attn or no_hidn of TinyBERT;
            no_sps, no_shuffle, no_ptp, no_pkd, no_kd of Pea-KD (several with commas).
        stage: Stages to run: those on the task, or the general ones on raw text.
        student: Fields of the method's student to replace (layers=3), sizes of a new network (layers=4,hidden=312), or a
            checkpoint: a folder or a hub id. Default: the method's student.
        baseline: Train the same student without the teacher too, for as many steps.
        corpus: Folder of `tutelage corpus build`, for the general stages.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32.
        tracker: Experiment tracker that gets the losses and scores.
        settings: Any setting of the run as path=value: stages.distill.epochs=2, data.holdout=0.2.
        plugins: Python file with terms, mechanisms or methods of your own.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage distill --teacher teacher/ --task sst2 --method tinybert
        --student layers=4,hidden=312,intermediate=1200,heads=12 --out runs/a
    """
    from tutelage.recipes.settings import run_config
    from tutelage.run.inputs import Inputs

    with Inputs(out) as inputs:
        members = (team,) if isinstance(team, str | os.PathLike) else tuple(team)
        names = tuple(inputs.model(one, "team") for one in members)
        if teacher is None and not names:
            teacher = _stored_teacher(teacher_store)
        fields = {
            "teacher": None if teacher is None else inputs.model(teacher, "teacher"),
            "teachers": names,
            "teacher_store": teacher_store,
            "store_dtype": store_dtype,
            "out": out,
            "seed": seed,
            "baseline": baseline,
            "allow_weak_teacher": allow_weak_teacher,
            "mixed_precision": mixed_precision,
            "tracker": tracker,
            "corpus": corpus,
        }
        tree = inputs.data(data, options)
        recipe = _recipe(method, student, inputs, tree.get("task"), ablation, plugins).part(stage)
        return _carried_out(run_config(recipe, tree, settings, **fields), resume, quiet)


@takes_data(*FILES)
def evaluate(
    model: Model, *, quiet: bool = False, data: DataConfig | Splits | None = None, **options: Unpack[DataOptions]
) -> dict[str, Any]:
    """Score a model on the evaluation set of a task, or on a file of your own.

    Without a training file the labels are named by the evaluation file.

    Args:
        model: Fine-tuned model: a folder or a hub id.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Returns:
        ``{"scores": {"dev": {"accuracy": ...}}, "model": ..., "task": ..., "metric": ...}``.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.

    Example: tutelage evaluate runs/a/student --task sst2 --json
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.measure import evaluate as evaluated

    with Inputs() as inputs:
        tree = inputs.data(data, options)
        if tree.get("task") is None and tree.get("train") is None:
            tree["train"] = tree.get("dev")
        return evaluated(inputs.model(model, "model"), _data_config(tree), quiet=quiet)


@takes_data(*(name for name in FILES if name != "dev"), "unlabeled", "max_train")
def augment(
    proposer: Model,
    out: FilePath,
    *,
    vectors: FilePath | None = None,
    k: int = 15,
    context: Literal["masked_only", "masked_plus_original"] = "masked_only",
    filtered: bool = True,
    mixed_precision: Precision = "no",
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Compute substitution candidates for every word of the training texts, from which augmentation samples.

    ``distill(..., candidates=out)`` uses them. See :func:`tutelage.data.augmentation.propose.propose`.

    Args:
        proposer: Masked language model that proposes words: a folder or a hub id.
        out: Folder for the candidates; must be new.
        vectors: Word vectors for words of several pieces: GloVe's text format, or .npz with words and vectors. Default: such
            words stay as they are.
        k: Candidates for each word.
        context: What the proposer reads: the masked text, or also the original text, as TinyBERT's code does.
        filtered: Leave out stop words, punctuation and the word itself.
        mixed_precision: Precision of the proposer; no is float32.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage augment --proposer bert-base-uncased --vectors glove.6B.300d.txt --task mrpc --out words/mrpc
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies.augmentation import augment as augmented

    with Inputs() as inputs:
        return augmented(
            inputs.model(proposer, "proposer"),
            os.fspath(out),
            _data_config(inputs.data(data, options)),
            vectors=_path(vectors),
            k=k,
            context=context,
            filtered=filtered,
            mixed_precision=mixed_precision,
            quiet=quiet,
        )


@takes_data(*FILES, "candidates", "max_train", "max_length")
def ablate(
    method: Literal["tinybert"],
    out: FilePath,
    *,
    teacher: FilePath,
    general_teacher: FilePath,
    corpus: FilePath,
    student: str = "layers=4,hidden=312,intermediate=1200,heads=12",
    rows: Sequence[str] = (),
    seeds: int = 3,
    general: FilePath | None = None,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Ablation:
    """Run a method with one part left out at a time: the tables of its paper.

    Args:
        method: Method that has such tables.
        out: Folder of the runs; a stopped command continues when it is repeated.
        teacher: Teacher fine-tuned on the task: a folder or a hub id.
        general_teacher: Pretrained teacher of the general stage: a folder or a hub id.
        corpus: Folder of `tutelage corpus build`.
        student: Sizes of the student.
        rows: Rows of the tables to run, with commas between them: full,no_gd,no_attn. Default: all.
        seeds: Runs of each row.
        general: Folder of the general students, to share them between tasks. Default: OUT/general.
        mixed_precision: Precision of training and evaluation; no is float32.
        settings: Any setting of the runs as path=value; a row without the stage that it names ignores it.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage ablate tinybert --task mrpc --teacher teacher/ --general-teacher bert-base-uncased --corpus corpus/
        --candidates words/mrpc --out runs/ablation
    """
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Fresh, parse
    from tutelage.studies import ablation

    if method != "tinybert":
        raise TutelageError(f"there are no ablation tables of {method!r}; use tinybert")
    spec = parse(student)
    if not isinstance(spec, Fresh):
        raise TutelageError(f"--student {student!r} makes no new network; give sizes, such as layers=4,hidden=312")
    with Inputs(out) as inputs:
        return ablation.ablate(
            os.fspath(out),
            teacher=os.fspath(teacher),
            general_teacher=os.fspath(general_teacher),
            corpus=os.fspath(corpus),
            student=spec,
            data=_data_config(inputs.data(data, options)),
            arms=[row.strip() for text in rows for row in text.split(",")] or ablation.ARMS,
            seeds=range(seeds),
            general=_path(general),
            mixed_precision=mixed_precision,
            settings=settings,
            quiet=quiet,
        )


@takes_data(*FILES, "max_train", "max_length")
def crossfit(
    model: Model,
    out: FilePath,
    *,
    folds: int = 5,
    epochs: int = 3,
    lr: float = 3e-5,
    seed: int = 0,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Write out-of-fold predictions for the training set (k-fold cross-fitting); Pea-KD can build its PTP labels from them.

    ``distill(..., method="pea_kd", settings={"stages.ptp.ptp_labels.source": out})`` reads them.

    Args:
        model: Checkpoint that each fold starts from: a folder or a hub id.
        out: Folder of the folds; a stopped command continues when it is repeated.
        folds: Parts of the training set.
        epochs: Passes over the training set.
        lr: Peak learning rate.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and prediction; no is float32.
        settings: Any setting of the runs as path=value: stages.finetune.batch_size=16.
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
    from tutelage.run.inputs import Inputs
    from tutelage.students.specs import Checkpoint
    from tutelage.studies.crossfit import crossfit as crossfitted

    if folds < 2:
        raise TutelageError(f"--folds {folds} leaves nothing to learn from; give at least 2")
    with Inputs(out) as inputs:
        start = Checkpoint(name=inputs.model(model, "model"))
        with as_options():
            recipe = recipe_of(start, epochs, lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision}
        config = run_config(recipe, inputs.data(data, options), settings, **fields)
        found = crossfitted(config, folds, quiet=quiet)
    return found.model_dump(mode="json", exclude={"contents"}) | {"examples": len(found.contents)}


@takes_data(*FILES, "max_train", "max_length")
def train_team(
    model: Model,
    out: FilePath,
    *,
    members: Sequence[str] = (),
    epochs: int = 3,
    lr: float = 3e-5,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Fine-tune several different teachers on a task; autoskdbert, skdbert and ensemble distil from them.

    No teacher learns from the tenth of the training set (about 300 to 2,000 examples) on which :func:`distill` learns the
    sampling weights. Returns how the teachers compare, as :func:`show_team`.

    Args:
        model: Checkpoint that each teacher starts from: a folder or a hub id.
        out: Folder of the teachers; a stopped command continues when it is repeated.
        members: How one teacher differs: model, layers, seed, epochs, lr, only=1/2 (a part of the training set), noise=0.5
            (share of wrong labels), with commas between them. Default: five teachers of usual kinds.
        epochs: Passes over the training set.
        lr: Peak learning rate.
        mixed_precision: Precision of training and evaluation; no is float32.
        settings: Any setting of the runs as path=value: stages.finetune.batch_size=16.
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

    with Inputs(out) as inputs:
        return teams.train_team(
            inputs.model(model, "model"),
            os.fspath(out),
            members,
            _data_config(inputs.data(data, options)),
            epochs=epochs,
            lr=lr,
            mixed_precision=mixed_precision,
            settings=settings,
            quiet=quiet,
        )


@takes_data(*FILES, "max_train", "max_length")
def show_team(
    team: FilePath | Sequence[Model],
    *,
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Compare teachers: scores on the evaluation set and on held-out training examples, agreement, diversity.

    See :func:`tutelage.evaluation.diversity.diversity` for the measures. ``not_kept_apart`` names the teachers that may have
    been trained on the held-out examples.

    Args:
        team: Folder of `tutelage team train`, or a list of teachers. A folder brings its own data settings; options given here
            override them. A list needs data to compare the teachers on.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage team show team/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies import teams

    with Inputs() as inputs:
        members = [team] if isinstance(team, str | os.PathLike) else team
        names = [inputs.model(one, "team") for one in members]
        return teams.show_team(names, _data_config(inputs.data(data, options)), quiet=quiet)


@takes_data(*FILES, "unlabeled", "max_train", "max_length")
def chain(
    teacher: Model,
    out: FilePath,
    *,
    through: Sequence[str | Student],
    student: FilePath | Student | tuple[Any, Any] = "layers=3",
    method: str | Recipe | Callable[[], Recipe] = "kd",
    seed: int = 0,
    allow_weak_teacher: bool = False,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> list[Result]:
    """Distil through teacher assistants (TAKD): each student is the teacher of the next.

    Returns the results of all runs, the student's last. The runs lie in ``out``, numbered.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder of the runs; a stopped command continues when it is repeated.
        through: Teacher assistant, as a student; name them from large to small.
        student: Fields of the method's student to replace (layers=3), sizes of a new network (layers=4,hidden=312), or a
            checkpoint.
        method: Method: one of `tutelage methods`, or of a plug-in.
        seed: Seed of all random numbers.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        mixed_precision: Precision of training and evaluation; no is float32.
        settings: Any setting of the runs as path=value: stages.distill.epochs=2.
        plugins: Python file with terms, mechanisms or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage chain --teacher teacher/ --through layers=9 --through layers=6 --student layers=3 --task mrpc --out runs/chain
    """
    from tutelage.recipes.settings import run_config
    from tutelage.run.inputs import Inputs
    from tutelage.run.result import Result
    from tutelage.studies.chain import chain as carry_out

    if not through:
        raise TutelageError(
            "there is no assistant between teacher and student; give --through layers=5, or use distill"
        )
    with Inputs(out) as inputs:
        tree = inputs.data(data, options)
        configs: list[RunConfig] = []
        for number, link in enumerate([*through, student], start=1):
            fields = {
                "teacher": configs[-1].out if configs else inputs.model(teacher, "teacher"),
                "out": Path(out) / f"{number}-{'student' if number > len(through) else 'assistant'}",
                "seed": seed,
                "baseline": number > len(through),
                "allow_weak_teacher": allow_weak_teacher,
                "mixed_precision": mixed_precision,
            }
            recipe = _recipe(method, link, inputs, tree.get("task"), None, plugins).part("task")
            configs.append(run_config(recipe, tree, settings, **fields))
        reports = carry_out(configs, quiet=quiet)
    return [Result(Path(str(config.out)), report) for config, report in zip(configs, reports, strict=True)]


@takes_data(*FILES, "unlabeled", "max_train", "max_length")
def search_knowledge(
    teacher: Model,
    out: FilePath,
    *,
    student: FilePath | Student | tuple[Any, Any] | None = None,
    trials: int = 24,
    seeds: int = 3,
    under: float | None = None,
    hidden_epochs: int = 3,
    prediction_epochs: int = 2,
    lr: float | None = None,
    dtype: Dtype = "float16",
    seed: int = 0,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Search:
    """Search the smallest part of a teacher's hidden states that is enough: score against bytes per example.

    The grid is 1, 2, 3 or all pairs of layers, 1 to 50 or all tokens, a twentieth to all neurons, up to the teacher's layer at
    8, 10 or 12 twelfths of its depth. Configurations are compared on the validation split, never on the evaluation set. See
    :mod:`tutelage.studies.search` for the files that are written.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder of the search; must be new. A stopped command continues when it is repeated; with more trials or seeds,
            finished runs are not repeated.
        student: Fields of the method's student to replace, sizes of a new network, or a checkpoint. Default: ROSITA6.
        trials: Configurations to try; the first rung trains all of them, each later one the best third.
        seeds: Runs of each configuration in the last rung; earlier rungs have one.
        under: Bytes per example; the best configuration of at most so many is named.
        hidden_epochs: Epochs on hidden states in the last rung; a third of it in the rung before, and so on.
        prediction_epochs: Epochs on predictions in the last rung; a third of it in the rung before, and so on.
        lr: Peak learning rate of both stages. Default: the method's.
        dtype: Type of the stored hidden states, in which bytes per example are counted.
        seed: Seed of the draw, and of the first run.
        mixed_precision: Precision of training and evaluation; no is float32.
        settings: Any setting of the runs as path=value; epochs are those of the last rung.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage search-knowledge --teacher teacher/ --task sst2 --student layers=3 --out search/ --under 10000
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies import search

    with Inputs(out) as inputs:
        return search.search_knowledge(
            inputs.model(teacher, "teacher"),
            os.fspath(out),
            student=_student(student, inputs),
            trials=trials,
            seeds=seeds,
            seed=seed,
            under=under,
            hidden_epochs=hidden_epochs,
            prediction_epochs=prediction_epochs,
            lr=lr,
            mixed_precision=mixed_precision,
            dtype=dtype,
            quiet=quiet,
            settings=settings,
            data=inputs.data(data, options),
        )


def build_corpus(
    sources: Sequence[FilePath],
    out: FilePath,
    *,
    tokenizer: FilePath,
    split: Literal["sentences", "lines"] = "sentences",
    quiet: bool = False,
) -> dict[str, Any]:
    """Tokenise plain text once into a corpus, for general distillation and pretraining.

    Args:
        sources: Text files (.txt, .txt.gz) with a paragraph a line and a blank line between documents; or data sets on the Hub:
            hub:OWNER/NAME,config=..,split=train,column=text.
        out: Folder for the corpus; must be new.
        tokenizer: Tokenizer of the teacher: a folder or a hub id.
        split: What a line is: a paragraph of sentences to split, or one sentence.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage corpus build wiki.txt.gz hub:wikitext,config=wikitext-103-raw-v1 --tokenizer bert-base-uncased --out corpus/
    """
    from tutelage.data.corpus import building, reading
    from tutelage.data.tokenizers import load_tokenizer
    from tutelage.progress import Display
    from tutelage.students.load import resolve

    display = Display(quiet)
    with display:
        texts, known = [os.fspath(source) for source in sources], load_tokenizer(resolve(os.fspath(tokenizer)))
        corpus = building.build(texts, Path(out), known, split=split, advance=display.count)
    return reading.describe(corpus)


def inspect_corpus(path: FilePath) -> dict[str, Any]:
    """Describe the content of a corpus.

    Args:
        path: Folder of `tutelage corpus build`.

    Raises:
        TutelageError: when it is no corpus.

    Example: tutelage corpus inspect corpus/ --json
    """
    from tutelage.data.corpus.reading import Corpus, describe

    return describe(Corpus(os.fspath(path)))


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def write_store(
    teacher: Model,
    out: FilePath,
    *,
    method: str | Recipe | Callable[[], Recipe] = "kd",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    whole: bool = False,
    dtype: Dtype = "float16",
    allow_weak_teacher: bool = False,
    mixed_precision: Precision = "no",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Run a teacher once over the data and store what a method needs of it.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        out: Folder for the store; must be new. A stopped command continues when it is repeated.
        method: Method whose needs are stored: one of `tutelage methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            stored. Default: the method's student.
        whole: Store all layers that the method could pair, at all tokens and neurons: a store for every smaller configuration.
        dtype: Type of the stored hidden states.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        mixed_precision: Precision of the teacher; no is float32.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with terms, mechanisms or methods of your own.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments, or a folder that holds something else.

    Example: tutelage store write --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3 --whole
        --out stores/sst2
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    with Inputs(Path(out).with_name(f"{Path(out).name}-inputs")) as inputs:
        fields = {
            "teacher": inputs.model(teacher, "teacher"),
            "out": out,
            "store_dtype": dtype,
            "mixed_precision": mixed_precision,
            "allow_weak_teacher": allow_weak_teacher,
        }
        config = _store_config(method, student, inputs, inputs.data(data, options), settings, plugins, fields)
        return stores.write(config, whole, quiet=quiet)


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def plan_store(
    teacher: Model,
    *,
    method: str | Recipe | Callable[[], Recipe] = "minimum_knowledge",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    whole: bool = False,
    dtype: Dtype = "float16",
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> dict[str, Any]:
    """Compute what a store would cost and save, before anything runs: bytes, operations, epochs until it pays.

    Args:
        teacher: Fine-tuned teacher: a folder or a hub id.
        method: Method whose needs are stored: one of `tutelage methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            stored. Default: the method's student.
        whole: Store all layers that the method could pair, at all tokens and neurons: a store for every smaller configuration.
        dtype: Type of the stored hidden states.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with terms, mechanisms or methods of your own.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments.

    Example: tutelage store plan --teacher teacher/ --task sst2 --method minimum_knowledge --student layers=3
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    with Inputs() as inputs:
        fields = {"teacher": inputs.model(teacher, "teacher"), "out": "unused", "store_dtype": dtype}
        config = _store_config(method, student, inputs, inputs.data(data, options), settings, plugins, fields)
        return stores.estimate(config, whole)


def compact_store(
    store: FilePath,
    out: FilePath,
    *,
    method: str | Recipe | Callable[[], Recipe] = "minimum_knowledge",
    student: FilePath | Student | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Cut a store down to what a method needs; the same bytes as if the teacher had run again.

    Args:
        store: Folder of a larger store.
        out: Folder for the smaller store; must be new.
        method: Method whose needs are kept: one of `tutelage methods`, or of a plug-in.
        student: Fields of the method's student to replace (layers=3), sizes, or a checkpoint; its depth decides which layers are
            kept. Default: the method's student.
        settings: Any setting of the method as path=value: hidden.keep=1l_10t_0.1h.
        plugins: Python file with terms, mechanisms or methods of your own.
        quiet: Print nothing.

    Raises:
        TutelageError: when the larger store lacks something.

    Example: tutelage store compact stores/sst2 --student layers=3 --set hidden.keep=1l_10t_0.1h --out stores/small
    """
    from tutelage.run import stores
    from tutelage.run.inputs import Inputs

    with Inputs() as inputs:
        config = _store_config(method, student, inputs, {}, settings, plugins, {})
    return stores.cut(config.recipe, Path(store), Path(out), quiet=quiet)


def inspect_store(path: FilePath) -> dict[str, Any]:
    """Describe the content of a store, and which teacher wrote it.

    Args:
        path: Folder of a store.

    Raises:
        TutelageError: when it is no store.

    Example: tutelage store inspect stores/sst2 --json
    """
    from tutelage.knowledge.store.reading import Store
    from tutelage.teachers.knowledge import describe

    return describe(Store(os.fspath(path)))


def verify_store(path: FilePath, *, teacher: FilePath | None = None) -> dict[str, Any]:
    """Compare every byte of a store with its checksums.

    Args:
        path: Folder of a store.
        teacher: Teacher that must have written it: a folder or a hub id.

    Returns:
        The description of the store, as :func:`inspect_store`.

    Raises:
        TutelageError: when a byte differs, or another teacher wrote it.

    Example: tutelage store verify stores/sst2 --teacher teacher/
    """
    from tutelage.run.stores import verify

    verify(Path(path), _path(teacher))
    return inspect_store(path)


def export(model: FilePath, out: FilePath) -> dict[str, Any]:
    """Convert a student with shared layers into a standard checkpoint by copying each shared layer.

    The checkpoint computes the same function and loads without this package. Returns what was written.

    Args:
        model: Student with shared layers: a folder or a hub id.
        out: Folder for the checkpoint; must be new.

    Raises:
        TutelageError: when the model shares no layers, or the folder exists.

    Example: tutelage export runs/pea/student --out plain/
    """
    from tutelage.run.export import export as exported

    return exported(os.fspath(model), Path(out))


def attention_report(
    teacher: Model,
    student: Model,
    texts: FilePath,
    out: FilePath | None = None,
    *,
    text: str = "text",
    max_texts: int = 256,
    max_length: int | None = None,
    quiet: bool = False,
) -> AttentionReport:
    """Compare the attention of a student with its teacher's, head by head: divergence and cosine similarity.

    See :mod:`tutelage.studies.attention` for what is measured.

    Args:
        teacher: Teacher, with any head or none: a folder or a hub id.
        student: Student with the teacher's tokenizer: a folder or a hub id.
        texts: Texts that were not trained on: .txt, one a line, or CSV, TSV, JSONL, Parquet.
        out: File for a page with pictures and tables; ends in .html. Default: no page.
        text: Column of the text.
        max_texts: Number of texts to draw if there are more.
        max_length: Longest input in tokens. Default: 128, or the positions of the models.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written.

    Example: tutelage attention-report teacher/ runs/a/student texts.txt --out attention.html
    """
    from tutelage.run.inputs import Inputs
    from tutelage.studies.attention import compare_models

    with Inputs() as inputs:
        return compare_models(
            inputs.model(teacher, "teacher"),
            inputs.model(student, "student"),
            os.fspath(texts),
            _path(out),
            text=text,
            max_texts=max_texts,
            max_length=max_length,
            quiet=quiet,
        )


def methods(*, plugins: Sequence[Plugin] = ()) -> list[dict[str, Any]]:
    """List the methods: where the student starts, and what each stage learns from; computed from the recipes.

    Args:
        plugins: Python file with methods of your own.

    Raises:
        TutelageError: when a plug-in cannot be read.

    Example: tutelage methods --json
    """
    from tutelage.methods import METHODS
    from tutelage.recipes.table import method_row

    return [method_row(make()) for make in {**METHODS, **_read(plugins)}.values()]


def recipe(
    method: str,
    *,
    teacher: FilePath | None = None,
    task: str | None = None,
    stage: Literal["task", "general"] | None = None,
    out: FilePath | None = None,
    plugins: Sequence[Plugin] = (),
) -> RunConfig:
    """Print a run of a method as YAML: edit it, then `tutelage run` it.

    Args:
        method: Method: one of `tutelage methods`, or of a plug-in.
        teacher: Teacher to write into the run.
        task: Task to write into the run; some methods have numbers of their own for it.
        stage: Stages to write: those on the task, or the general ones. Default: task, if the method has such.
        out: Output folder to write into the run.
        plugins: Python file with terms, mechanisms or methods of your own.

    Raises:
        TutelageError: for an unknown method, or one without such stages.

    Example: tutelage recipe tinybert > my.yaml
    """
    from tutelage.methods.named import method_recipe
    from tutelage.recipes.settings import run_config

    found = method_recipe(method, task, more=_read(plugins))
    on_task = any(not part.on_corpus for part in found.stages)
    found = found.part(stage or ("task" if on_task else "general"))
    return run_config(found, {"task": task}, teacher=teacher, out=out)


def run(
    path: FilePath | RunConfig,
    *,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Carry out a run that a YAML file describes.

    In Python it is ``tutelage.api.run``: ``tutelage.run`` is a package.

    Args:
        path: YAML file of `tutelage recipe`, or config.yaml of a run.
        settings: Any setting of the run as path=value: teacher=FOLDER, stages.distill.epochs=2.
        plugins: Python file with the terms, mechanisms or methods that the file names.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the file or the settings; then nothing has been written.

    Example: tutelage run my.yaml --set teacher=teacher/ --set task=sst2 --set out=runs/b --set stages.prediction.temperature=2
    """
    from tutelage.recipes.config import from_yaml
    from tutelage.recipes.settings import with_settings

    _read(plugins)
    config = from_yaml(Path(path)) if isinstance(path, str | os.PathLike) else path
    return _carried_out(with_settings(config, settings), resume, quiet)


def demo(out: FilePath = "demo-run", *, quiet: bool = False) -> Result:
    """Fine-tune a real BERT on real text, distil it and compare: about five minutes on two cores, no network.

    Args:
        out: Output folder; new or empty.
        quiet: Print nothing.

    Raises:
        TutelageError: when the package with the pretrained model is not installed.

    Example: tutelage demo --out demo-run
    """
    from tutelage.run.result import Result
    from tutelage.studies.demo import demo as shown

    return Result(Path(out) / "distilled", shown(Path(out), quiet=quiet))


def _carried_out(config: RunConfig, resume: bool, quiet: bool) -> Result:
    from tutelage.run.result import Result
    from tutelage.run.run import run as carry_out

    report = carry_out(config, resume=resume, quiet=quiet)
    return Result(Path(str(config.out)), report)


def _read(plugins: Sequence[Plugin]) -> dict[str, Callable[..., Recipe]]:
    """The methods of the plug-ins, by name; their terms and mechanisms are known from here on."""
    from tutelage.recipes.plugins import load

    return {name: make for plugin in plugins for name, make in load(plugin).items()}


def _recipe(
    method: str | Recipe | Callable[[], Recipe],
    student: FilePath | Student | tuple[Any, Any] | None,
    inputs: Inputs,
    task: str | None = None,
    ablation: str | None = None,
    plugins: Sequence[Plugin] = (),
) -> Recipe:
    """The recipe of a method with the student that was asked for."""
    from tutelage.methods.named import method_recipe
    from tutelage.students.specs import parse

    more = _read(plugins)
    recipe = method_recipe(method, task, ablation, more) if isinstance(method, str) else method
    if callable(recipe):
        recipe = recipe()
    spec = _student(student, inputs)
    if spec is None:
        return recipe
    return recipe.model_copy(update={"student": parse(spec, recipe.student) if isinstance(spec, str) else spec})


def _student(student: FilePath | Student | tuple[Any, Any] | None, inputs: Inputs) -> str | Student | None:
    """A student as text or as its specification; a checkpoint for paths and models."""
    from tutelage.students.specs import Checkpoint

    if isinstance(student, os.PathLike | tuple):
        return Checkpoint(name=inputs.model(student, "student"))
    return student


def _store_config(
    method: str | Recipe | Callable[[], Recipe],
    student: FilePath | Student | tuple[Any, Any] | None,
    inputs: Inputs,
    data: dict[str, Any],
    settings: Mapping[str, Any] | Sequence[str],
    plugins: Sequence[Plugin],
    fields: dict[str, Any],
) -> RunConfig:
    from tutelage.recipes.settings import run_config

    recipe = _recipe(method, student, inputs, data.get("task"), plugins=plugins).part("task")
    return run_config(recipe, data, settings, **fields)


def _stored_teacher(store: FilePath | None) -> str:
    """What a store keeps of its teacher."""
    from tutelage.knowledge.store.reading import Store

    if store is None or os.fspath(store) == "auto":
        raise TutelageError("there is no teacher; give --teacher FOLDER, a --teacher-store FOLDER of one, or a --team")
    Store(os.fspath(store))  # says so if it is none
    return str(Path(store) / "teacher")


def _data_config(data: Mapping[str, Any]) -> DataConfig:
    from tutelage.data.config import DataConfig
    from tutelage.recipes.config import as_options

    with as_options():
        return DataConfig.model_validate(dict(data))


def _path(given: FilePath | None) -> str | None:
    return None if given is None else os.fspath(given)
