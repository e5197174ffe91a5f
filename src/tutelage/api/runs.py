"""The commands of single runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tutelage.data.signature import takes_data
from tutelage.errors import TutelageError, option
from tutelage.recipes.choices import Dtype, Precision, Tracker

if TYPE_CHECKING:
    from tutelage.data.config import DataConfig, DataOptions, Table
    from tutelage.recipes.config import RunConfig
    from tutelage.recipes.overview import MethodRow
    from tutelage.recipes.recipe import Recipe
    from tutelage.report.results import Evaluation
    from tutelage.run.inputs import Model, Splits
    from tutelage.run.result import Result
    from tutelage.serving.report import ExportReport
    from tutelage.students.specs import Student
from tutelage.api.common import (
    FILES,
    FilePath,
    Plugin,
    carried_out,
    checked_data,
    for_epochs,
    made,
    place,
    read_plugins,
    recipe_for,
    teachers_of,
)


@takes_data(*FILES, "max_train", "max_length")
def finetune(
    model: Model,
    out: FilePath,
    *,
    epochs: int | Literal["auto"] = "auto",
    lr: float | Literal["auto"] = "auto",
    served: bool = True,
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
    """Fine-tune a model on a task: how a teacher is made.

    Args:
        model: Checkpoint to start from: a folder or a hub id.
        out: Output folder; new or empty.
        epochs: Passes over the training set; auto: about 1,200 steps, 3 to 20 passes, fewer where the score stops improving.
        lr: Peak learning rate; auto: the better of two rates that follow from the model's width.
        served: Measure the model in ONNX and int8 too (needs the extra onnx).
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        tracker: Experiment tracker that gets the losses and scores.
        settings: Any setting of the run as path=value: stages.finetune.batch_size=16, data.holdout=0.2.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
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

    read_plugins(plugins)
    with Inputs(out) as inputs:
        start = Checkpoint(name=inputs.model(model, "model"))
        with as_options():
            recipe = recipe_of(start, epochs, lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker, "served": served}
        config = run_config(recipe, inputs.data(data, options), settings, **fields)
        return carried_out(config, resume, quiet)


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
    plugins: Sequence[Plugin] = (),
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
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        tracker: Experiment tracker that gets the losses.
        settings: Any setting of the run as path=value: stages.pretrain.batch_size=64.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
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

    read_plugins(plugins)
    with Inputs(out) as inputs:
        name = inputs.model(model, "model")
        spec: Student = Checkpoint(name=name)
        if student is not None:
            spec = parse(student) if isinstance(student, str) else student
            if not isinstance(spec, Fresh):
                raise TutelageError(
                    f"{option('student')} {student!r} makes no new network; give sizes, such as layers=4,hidden=312"
                )
            spec = spec.model_copy(update={"like": name})
        with as_options():
            recipe = recipe_of(spec, causal=causal, head_only=head_only, epochs=epochs, lr=lr)
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker, "corpus": corpus}
        return carried_out(run_config(recipe, {}, settings, **fields), resume, quiet)


@takes_data(*FILES, "unlabeled", "candidates", "max_train", "max_length")
def distill(
    teacher: Model | None,
    out: FilePath,
    *,
    teacher_predictions: FilePath | Table | None = None,
    prior: str | Sequence[float] | None = None,
    team: FilePath | Sequence[Model] | None = (),
    teacher_store: FilePath | None = None,
    store_dtype: Dtype = "float16",
    allow_weak_teacher: bool = False,
    method: str | Recipe | Callable[[], Recipe] | None = "compact",
    ablation: str | None = None,
    stage: Literal["task", "general"] = "task",
    student: FilePath | Student | tuple[Any, Any] | None = None,
    epochs: int | Literal["auto"] | None = None,
    baseline: bool = True,
    served: bool = True,
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
        teacher: Teacher, fine-tuned on the task: a folder or a hub id. Default: that of the store, or the first of the team.
        out: Output folder; new or empty.
        teacher_predictions: File of predictions in place of a teacher, such as a language model's answers: labels, probabilities,
            log-probabilities or votes. Without --train its texts are the training set; beside labelled rows they are added.
        prior: Class frequencies to correct the predictions to: uniform, data, or numbers with commas. Default: no correction.
        team: Teacher of a team: a folder, hub id or store; or one folder of `tutelage team train` for all. Beside them --teacher is
            the model whose layers the student copies, and with which the report compares it.
        teacher_store: Folder of the teacher's stored knowledge; auto: the store that fits, written if there is none.
        store_dtype: Type of the hidden states that auto writes.
        allow_weak_teacher: Continue even if the teacher scores no better than chance.
        method: Method: compact, kd, pkd, tinybert, minilmv2, minimum_knowledge; `tutelage methods` shows all.
        ablation: Part of the method to leave out, such as no_attn of tinybert; an unknown name lists all.
        stage: Stages to run: those on the task, or the general ones on raw text.
        student: Fields to replace in the method's student (layers=3), a new network (layers=4,hidden=312), or a folder or hub id.
        epochs: Passes over the training set in each stage; auto: by its size. Default: the method's own (of compact: auto).
        baseline: Train the same student without the teacher too, for as many steps.
        served: Measure teacher and student in ONNX and int8 too (needs the extra onnx).
        corpus: Folder of `tutelage corpus build`, for the general stages.
        seed: Seed of all random numbers.
        mixed_precision: Precision of training and evaluation; no is float32, auto is bf16 where it is faster here.
        tracker: Experiment tracker that gets the losses and scores.
        settings: Any setting of the run as path=value: stages.distill.epochs=2, data.holdout=0.2.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: for any mistake in the arguments; then nothing has been written but inputs.

    Example: tutelage distill --teacher teacher/ --task sst2 --method tinybert --student layers=4,hidden=312 --out runs/a
    """
    from tutelage.recipes.settings import run_config, setting
    from tutelage.run.inputs import Inputs

    more = read_plugins(plugins)
    with Inputs(out) as inputs:
        predictions = inputs.predictions(teacher_predictions, prior, data, options)
        texts: dict[str, Any] = dict(options)
        if predictions is not None:  # which columns of tables in memory are needed depends on the setting of the id
            key = setting(settings, "data.predictions.id", predictions.get("id"))
            texts["predictions"] = {**predictions, "id": key}
        fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker, "corpus": corpus}
        fields |= {"store_dtype": store_dtype, "allow_weak_teacher": allow_weak_teacher, "served": served}
        fields |= {"baseline": baseline, **teachers_of(inputs, teacher, team, teacher_store, predictions is not None)}
        tree = inputs.data(data, texts)
        recipe = recipe_for(method, student, inputs, tree.get("task"), ablation, more).part(stage)
        return carried_out(run_config(for_epochs(recipe, epochs), tree, settings, **fields), resume, quiet)


@takes_data(*FILES)
def evaluate(
    model: Model,
    *,
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> Evaluation:
    """Score a model on the evaluation set of a task, or on a file of your own.

    Without a training file the labels are named by the evaluation file. Texts that are longer than the model can read, or than its
    run has read, are cut, and a note says how many.

    Args:
        model: Fine-tuned model: a folder or a hub id.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        dev: Evaluation file, where --task names none.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Returns:
        The scores, ``found.scores["dev"]["accuracy"]``, and notes on what they are worth.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.

    Example: tutelage evaluate runs/a/student --task sst2 --json
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.measure import evaluate as evaluated

    read_plugins(plugins)
    with Inputs() as inputs:
        config = checked_data(inputs, data, options)
        if config is None:
            raise TutelageError(
                f"there are no texts to score the model on; give {option('task')} NAME or {option('dev')} FILE"
            )
        folder = inputs.model(model, "model")
        found = evaluated(folder, config, quiet=quiet)
    if not isinstance(model, tuple):
        return found
    return found.model_copy(update={"model": "model", "notes": [note.replace(folder, "model") for note in found.notes]})


@takes_data(*FILES, "max_length")
def export(
    model: Model,
    out: FilePath,
    *,
    format: Literal["onnx", "checkpoint"] = "onnx",
    int8: bool = True,
    activations: Literal["dynamic", "static"] = "dynamic",
    table_bits: int | None = None,
    weight_bits: int | None = None,
    temperature: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    texts: int = 1000,
    strict: bool = False,
    plugins: Sequence[Plugin] = (),
    quiet: bool = False,
    data: DataConfig | Splits | None = None,
    **options: Unpack[DataOptions],
) -> ExportReport:
    """Write a model as files that serve without this package, and check them against it.

    ``format="onnx"`` writes ``model.onnx`` (float32), ``model.int8.onnx``, the tokenizer and ``serve.py``, which needs onnxruntime,
    tokenizers and numpy alone. ``format="checkpoint"`` makes an ordinary checkpoint of a student with shared layers or fewer heads.
    Outputs, scores and times are compared with the model's on the given texts; without any, on those of the run in whose folder the
    model lies, or on a few sentences of no task. ``export.json`` holds the comparison.

    Args:
        model: Student or teacher: a folder or a hub id.
        out: Folder to write; new or empty.
        format: onnx; or checkpoint, which transformers loads without an import: shared layers are copied, removed heads become
            zeros. With --width or --depth it is that of the sub-network.
        int8: Write a graph with int8 weights too.
        activations: Ranges of the int8 file's activations: dynamic (of each text) or static (of training texts).
        table_bits: Bits of the largest embedding table in the int8 file: 8, or 4 for a smaller one. Default: those that the student
            was trained for (mechanism quantization), else 8.
        weight_bits: Bits of the matrix products' weights in the int8 file: 8, or 4 for a smaller one that is slower. Default: those
            that the student was trained for, else 8.
        temperature: Divides the logits before they become probabilities. Default: the temperature that was fitted in the
            run's report (classifiers in the folder of a run), else 1.
        width: Cut out the sub-network with this share of the heads and neurons; for students of --method dynabert.
        depth: Cut out the sub-network with this share of the layers.
        texts: Texts of the evaluation set to check on, at most; 0 for all.
        strict: Write nothing if a file differs from the model, scores worse or is slower.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        dev: Evaluation file. Default: that of the run in whose folder the model lies, else a few sentences of no task.
        quiet: Print nothing.
        data: The texts as one object.
        **options: The texts by the fields of DataConfig.

    Raises:
        TutelageError: when the model or the data cannot be loaded or exported; with strict, when a file is flagged. Then nothing is
            written.

    Example: tutelage export runs/a/student --out served/
    """
    from tutelage.run.export import Quantisation
    from tutelage.run.export import export as exported
    from tutelage.run.inputs import Inputs

    read_plugins(plugins)
    with Inputs() as inputs:
        return exported(
            inputs.model(model, "model"),
            Path(place(out)),
            checked_data(inputs, data, options),
            form=format,
            int8=int8,
            quantisation=Quantisation(activations, table_bits, weight_bits),
            temperature=temperature,
            width=width,
            depth=depth,
            most=texts,
            strict=strict,
            quiet=quiet,
        )


def methods(*, plugins: Sequence[Plugin] = ()) -> list[MethodRow]:
    """List the methods: where the student starts, and what each stage learns from; computed from the recipes.

    Args:
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.

    Raises:
        TutelageError: when a plug-in cannot be read.

    Example: tutelage methods --json
    """
    from tutelage.methods import METHODS
    from tutelage.recipes.overview import method_row

    return [method_row(make()) for make in {**METHODS, **read_plugins(plugins)}.values()]


def recipe(
    method: str | Recipe | Callable[[], Recipe],
    *,
    teacher: Model | None = None,
    task: str | None = None,
    stage: Literal["task", "general"] | None = None,
    out: FilePath | None = None,
    plugins: Sequence[Plugin] = (),
) -> RunConfig:
    """Print a run of a method as YAML: edit it, then `tutelage run` it.

    A teacher in memory is written into ``out/inputs``, so it needs ``out``.

    Args:
        method: Method: compact, kd, pkd, tinybert, minilmv2, minimum_knowledge or another of `tutelage methods`, or of a
            plug-in.
        teacher: Teacher to write into the run.
        task: Task to write into the run; some methods have numbers of their own for it.
        stage: Stages to write: those on the task, or the general ones. Default: task, if the method has such.
        out: Output folder to write into the run.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.

    Raises:
        TutelageError: for an unknown method, or one without such stages.

    Example: tutelage recipe tinybert > my.yaml
    """
    from tutelage.recipes.settings import run_config

    found = made(method, task, more=read_plugins(plugins))
    on_task = any(not part.on_corpus for part in found.stages)
    found = found.part(stage or ("task" if on_task else "general"))
    if isinstance(teacher, tuple):
        from tutelage.run.inputs import Inputs

        if out is None:
            raise TutelageError(
                "teacher: a model in memory is written into the output folder; give out too, or a folder"
            )
        teacher = Inputs(out).model(teacher, "teacher")
    return run_config(found, {"task": task}, teacher=teacher, out=out, served=True)


def run(
    path: FilePath | RunConfig,
    *,
    out: FilePath | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    plugins: Sequence[Plugin] = (),
    resume: bool = False,
    quiet: bool = False,
) -> Result:
    """Carry out a run that a YAML file describes.

    In Python it is ``tutelage.api.run``: ``tutelage.run`` is a package.

    Args:
        path: YAML file of `tutelage recipe`, or config.yaml of a run.
        out: Output folder; new or empty. Default: the one that the file names.
        settings: Any setting of the run as path=value: teacher=FOLDER, stages.distill.epochs=2.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        resume: Continue the stopped run in the output folder.
        quiet: Print nothing.

    Raises:
        TutelageError: for any mistake in the file or the settings; then nothing has been written.

    Example: tutelage run my.yaml --out runs/b --set teacher=teacher/ --set task=sst2 --set stages.prediction.temperature=2
    """
    from tutelage.recipes.config import RunConfig, from_yaml
    from tutelage.recipes.settings import with_settings

    read_plugins(plugins)
    config = path if isinstance(path, RunConfig) else from_yaml(Path(place(path)))
    if out is not None:
        config = config.model_copy(update={"out": place(out)})
    return carried_out(with_settings(config, settings), resume, quiet)


def demo(out: FilePath = "demo-run", *, quiet: bool = False) -> Result:
    """Fine-tune a pretrained encoder (MiniLM) on real text, distil it and compare: six to ten minutes on two cores, no network.

    Args:
        out: Output folder; new or empty.
        quiet: Print nothing.

    Raises:
        TutelageError: when the package with the pretrained model is not installed.

    Example: tutelage demo --out demo-run
    """
    from tutelage.run.result import Result
    from tutelage.studies.demo import demo as shown

    return Result(Path(place(out)) / "distilled", shown(Path(place(out)), quiet=quiet))
