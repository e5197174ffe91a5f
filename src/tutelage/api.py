"""The commands as functions, with the same names: ``from tutelage import finetune, distill, evaluate``.

Which texts to use is said in the words of :class:`tutelage.data.config.DataConfig`: ``task="sst2"``, or ``train="mine.csv"``,
``dev=...``, ``text=...``, ``label=...``, ``unlabeled=...``.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import transformers

from tutelage import anatomy
from tutelage.artifacts import free_place, new_folder, write_text
from tutelage.data.augmentation.candidates import Context
from tutelage.data.augmentation.propose import propose
from tutelage.data.augmentation.wordvectors import WordVectors
from tutelage.data.config import DataConfig
from tutelage.data.corpus import building, reading
from tutelage.data.corpus.packing import Split
from tutelage.data.readers.files import read_texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.store.reading import Store
from tutelage.methods import METHODS
from tutelage.methods.finetune import finetune as finetune_recipe
from tutelage.methods.pretrain import pretrain as pretrain_recipe
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig, validated
from tutelage.recipes.recipe import Recipe
from tutelage.recipes.settings import with_settings
from tutelage.report.attention import AttentionReport
from tutelage.report.attention import page as attention_page
from tutelage.run import stores
from tutelage.run.measure import evaluate as evaluate_model
from tutelage.run.run import run
from tutelage.run.workspace import new_accelerator
from tutelage.students.load import load_config, load_model, resolve
from tutelage.students.sharing import expanded
from tutelage.students.specs import Checkpoint, Fresh, Inherited, Student, parse
from tutelage.studies import ablation, attention, teams
from tutelage.studies.chain import chain as carry_out_chain
from tutelage.studies.crossfit import crossfit as crossfitted
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source


def method_recipe(method: str, task: str | None = None, without: str | None = None) -> Recipe:
    """The recipe of a method by name, with its numbers for a task where it has any, or without a part of itself.

    Raises:
        TutelageError: for an unknown name or part, with the nearest that there is.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METHODS)}"
        raise TutelageError(f"there is no method {method!r}; {hint}")
    make: Callable[..., Recipe] = METHODS[method]
    known = inspect.signature(make).parameters
    choices: dict[str, Any] = {}
    if task is not None and "task" in known:
        choices["task"] = task
    if without is not None:
        kind = get_type_hints(make).get("ablation")  # a Literal of names or None, or a tuple of such
        several = get_origin(kind) is tuple
        names = get_args(get_args(kind)[0]) if kind is not None else ()
        given = tuple(without.split(",")) if several else (without,)
        unknown = [name for name in given if name not in names]
        if unknown:
            hint = f"it knows {', '.join(names)}" if names else "tinybert and pea_kd know some"
            raise TutelageError(f"the method {method!r} has no ablation {unknown[0]!r}; {hint}")
        choices["ablation"] = given if several else without
    return make(**choices)


def run_config(recipe: Recipe, data: dict[str, Any], settings: Sequence[str] = (), **fields: Any) -> RunConfig:
    """A run from its parts, checked; ``settings`` are ``path=value`` as ``--set`` takes them.

    Raises:
        TutelageError: for a field or value that a run does not have.
    """
    tree = {"recipe": recipe.model_dump(mode="json"), "data": data, **fields}
    return with_settings(validated(tree, "the run"), list(settings))


def finetune(
    model: str,
    out: str,
    *,
    epochs: int = 3,
    lr: float = 3e-5,
    seed: int = 0,
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Fine-tune a checkpoint (folder or hub id) on a task: how a teacher is made. Returns the run's report.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker}
    recipe = finetune_recipe(Checkpoint(name=model))
    settings = [f"stages.finetune.epochs={epochs}", f"stages.finetune.lr={lr}", *settings]
    return run(run_config(recipe, data, settings, **fields), resume=resume, quiet=quiet)


def pretrain(
    model: str,
    corpus: str,
    out: str,
    *,
    student: str | None = None,
    causal: bool = False,
    head_only: bool = False,
    epochs: int = 1,
    lr: float = 1e-4,
    seed: int = 0,
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train on the masked (or with ``causal`` the next) words of a corpus, without a teacher; returns the run's report.

    It goes on from ``model``, which gets a language-model head if it has none; ``head_only`` trains nothing else. With the
    sizes of a ``student`` (``"layers=4,hidden=312"``) a new network is made, of the model's family and vocabulary.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    spec: Student = Checkpoint(name=model)
    if student is not None:
        spec = parse(student)
        if not isinstance(spec, Fresh):
            raise TutelageError(f"--student {student!r} makes no new network; give sizes, such as layers=4,hidden=312")
        spec = spec.model_copy(update={"like": model})
    recipe = pretrain_recipe(spec, causal=causal, head_only=head_only)
    fields = {"out": out, "seed": seed, "mixed_precision": mixed_precision, "tracker": tracker, "corpus": corpus}
    settings = [f"stages.pretrain.epochs={epochs}", f"stages.pretrain.lr={lr}", *settings]
    return run(run_config(recipe, {}, settings, **fields), resume=resume, quiet=quiet)


def build_corpus(
    sources: Sequence[str], out: str, *, tokenizer: str, split: Split = "sentences", quiet: bool = False
) -> dict[str, Any]:
    """Tokenise plain text once into a corpus; returns what was written.

    A source is a text file (.txt, .txt.gz) with one paragraph a line and a blank line between documents, or
    ``hub:OWNER/NAME,config=..,split=train,column=text``, a data set on the Hub.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    display = Display(quiet)
    with display:
        corpus = building.build(
            sources, Path(out), load_tokenizer(resolve(tokenizer)), split=split, advance=display.count
        )
    return reading.describe(corpus)


def augment(
    proposer: str,
    out: str,
    *,
    vectors: str | None = None,
    k: int = 15,
    context: Context = "masked_only",
    filtered: bool = True,
    mixed_precision: str = "no",
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Find what may stand for the words of a task's training texts, and keep it as a table in ``out``.

    ``proposer`` is a masked language model; ``vectors`` (GloVe's text format, or ``.npz`` with ``words`` and ``vectors``)
    serve words of several pieces, which else stay as they are. Training draws variants from the table, any number of them
    and as many as it likes: ``distill(..., candidates=out)``. See :func:`tutelage.data.augmentation.propose.propose`.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    if Path(out).exists():
        raise TutelageError(f"{out!r} exists already; remove it, or name another folder")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    accelerator, display = new_accelerator(mixed_precision), Display(quiet)
    with display:
        source = Source(proposer, "words")
        words = None if vectors is None else WordVectors.read(Path(vectors))
        texts = load_data(_data_config(data))
        parts = [texts.train, *([texts.unlabeled] if texts.unlabeled else [])]
        if data.get("train") and not data.get(
            "dev"
        ):  # a run may be given a dev file, and then trains on all of this one
            parts += texts.dev.values()
        kind = kind_of(texts.kind)
        strings = [
            text for part in parts for text in (*part.texts, *(() if kind.answers_in_pair else part.pairs or ()))
        ]
        fitted = fitted_tokenizer(source.tokenizer, source.model)
        with accelerator.autocast():
            found = propose(
                strings,
                source.model.to(accelerator.device),
                fitted,
                words,
                proposer=proposer,
                k=k,
                context=context,
                filtered=filtered,
                advance=lambda count, total: display.advance("words", total, count),
            )
        found.save(Path(out))
    return found.manifest.model_dump(mode="json")


def ablate(
    out: str,
    *,
    teacher: str,
    general_teacher: str,
    corpus: str,
    student: str = "layers=4,hidden=312,intermediate=1200,heads=12",
    arms: Sequence[str] = ablation.ARMS,
    seeds: int = 3,
    general: str | None = None,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> ablation.Ablation:
    """TinyBERT's tables of what each part earns, on one task: see :func:`tutelage.studies.ablation.ablate`.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    spec = parse(student)
    if not isinstance(spec, Fresh):
        raise TutelageError(f"--student {student!r} makes no new network; give sizes, such as layers=4,hidden=312")
    config = _data_config(data)
    return ablation.ablate(
        out,
        teacher=teacher,
        general_teacher=general_teacher,
        corpus=corpus,
        student=spec,
        data=config,
        arms=arms,
        seeds=range(seeds),
        general=general,
        mixed_precision=mixed_precision,
        settings=settings,
        quiet=quiet,
    )


def distill(
    teacher: str | None,
    out: str,
    *,
    team: str | Sequence[str] = (),
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    stage: Literal["task", "general"] = "task",
    without: str | None = None,
    corpus: str | None = None,
    seed: int = 0,
    baseline: bool = True,
    allow_weak_teacher: bool = False,
    teacher_store: str | None = None,
    store_dtype: str = "float16",
    mixed_precision: str = "no",
    tracker: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Distil a fine-tuned teacher into a student and return the run's report.

    ``method`` is a name or a recipe of your own; ``student`` replaces the recipe's (``"layers=3"``, a checkpoint, or an
    object). ``stage="general"`` carries out the method's stages on a ``corpus``, from a pretrained teacher; the student of
    such a run is then the ``student`` of one on a task. ``without`` leaves out a part of TinyBERT, by the name in the
    paper's tables (``"no_gd"``); ``candidates`` is a folder of :func:`augment`. ``teacher_store`` is a folder of
    :func:`write_store`, in which case ``teacher`` may be left out, or ``"auto"``: the store that fits is used, and
    written if there is none.

    A ``team`` is a folder of :func:`train_team`, or teachers by name (folders, hub ids, stores), for the methods that ask one
    (autoskdbert, skdbert, ensemble, mt_bert); ``teacher`` is then the one that the student's layers come from and that the
    report compares with, without it the first of them.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    members = (team,) if isinstance(team, str) else tuple(team)
    if teacher is None and not members:
        if teacher_store in (None, "auto"):
            raise TutelageError(
                "there is no teacher; give --teacher FOLDER, a --teacher-store FOLDER of one, or a --team"
            )
        Store(str(teacher_store))  # says so if it is none
        teacher = str(Path(str(teacher_store)) / "teacher")
    fields = {
        "teacher": teacher,
        "teachers": members,
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
    recipe = _recipe(method, student, data.get("task"), without).part(stage)
    return run(run_config(recipe, data, settings, **fields), resume=resume, quiet=quiet)


def _recipe(
    method: str | Recipe, student: str | Student | None, task: str | None = None, without: str | None = None
) -> Recipe:
    recipe = method_recipe(method, task, without) if isinstance(method, str) else method
    if student is None:
        return recipe
    usual = recipe.student.init if isinstance(recipe.student, Inherited) else None
    return recipe.model_copy(update={"student": parse(student, usual) if isinstance(student, str) else student})


def write_store(
    teacher: str,
    out: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    whole: bool = False,
    dtype: str = "float16",
    allow_weak_teacher: bool = False,
    mixed_precision: str = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Run a teacher once over the data and keep what ``method`` needs of it in ``out``; returns what was written.

    ``whole`` keeps all layers that the method could pair, at all tokens, in all neurons, with every ranking of tokens: a
    store for every smaller configuration. A killed call goes on when it is repeated.

    Raises:
        TutelageError: for anything wrong with what was given, or a folder that holds something else.
    """
    config = _store_config(teacher, out, method, student, dtype, mixed_precision, settings, data)
    config = config.model_copy(update={"allow_weak_teacher": allow_weak_teacher})
    return stores.write(config, whole, quiet=quiet)


def plan_store(
    teacher: str,
    *,
    method: str | Recipe = "kd",
    student: str | Student | None = None,
    whole: bool = False,
    dtype: str = "float16",
    settings: Sequence[str] = (),
    **data: Any,
) -> dict[str, Any]:
    """What a store would cost and earn, before anything runs: bytes, operations, after how many epochs it has paid.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    return stores.estimate(_store_config(teacher, "unused", method, student, dtype, "no", settings, data), whole)


def compact_store(
    store: str,
    out: str,
    *,
    method: str | Recipe = "minimum_knowledge",
    student: str | Student | None = None,
    settings: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Cut a larger store down to what ``method`` needs; the same bytes as if the teacher had been asked again.

    Raises:
        TutelageError: when the larger store lacks something.
    """
    config = run_config(_recipe(method, student).part("task"), {}, settings)
    return stores.cut(config.recipe, Path(store), Path(out), quiet=quiet)


def _store_config(
    teacher: str,
    out: str,
    method: str | Recipe,
    student: str | Student | None,
    dtype: str,
    mixed_precision: str,
    settings: Sequence[str],
    data: dict[str, Any],
) -> RunConfig:
    fields = {"teacher": teacher, "out": out, "store_dtype": dtype, "mixed_precision": mixed_precision}
    recipe = _recipe(method, student, data.get("task")).part("task")
    return run_config(recipe, data, settings, **fields)


def crossfit(
    model: str,
    out: str,
    *,
    folds: int = 5,
    epochs: int = 3,
    lr: float = 3e-5,
    seed: int = 0,
    mixed_precision: str = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Fine-tune a checkpoint ``folds`` times, each time without one part of train, and keep what each thinks of its part.

    ``distill(..., method="pea_kd", settings=["stages.ptp.ptp_labels.source=OUT"])`` makes the verdicts of these predictions.
    A call that was stopped goes on when it is repeated.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    recipe = finetune_recipe(Checkpoint(name=model))
    settings = [f"stages.finetune.epochs={epochs}", f"stages.finetune.lr={lr}", *settings]
    config = run_config(recipe, data, settings, out=out, seed=seed, mixed_precision=mixed_precision)
    found = crossfitted(config, folds, quiet=quiet)
    return found.model_dump(mode="json", exclude={"contents"}) | {"examples": len(found.contents)}


def train_team(
    model: str,
    out: str,
    *,
    members: Sequence[str] = (),
    epochs: int = 3,
    lr: float = 3e-5,
    mixed_precision: Literal["no", "bf16", "fp16"] = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> dict[str, Any]:
    """Fine-tune several teachers for one task into folders of ``out``; returns how they compare (:func:`show_team`).

    Each of ``members`` says how one differs from the others: ``"layers=4,seed=1,lr=1e-4,only=1/2,noise=0.5"`` keeps four
    layers, learns from the first half of the training texts, and of these half with wrong labels (a teacher that is bad on
    purpose); ``model=...`` starts elsewhere. Without any, five of usual kinds are made. All keep away from the tenth of train
    (about 300 to 2,000 examples) on which :func:`distill` learns their weights. A call that was stopped goes on when it is
    repeated.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    return teams.train_team(
        model,
        out,
        members,
        _data_config(data),
        epochs=epochs,
        lr=lr,
        mixed_precision=mixed_precision,
        settings=settings,
        quiet=quiet,
    )


def show_team(team: str | Sequence[str], *, quiet: bool = False, **data: Any) -> dict[str, Any]:
    """Compare teachers: scores on dev and on held-out training examples, agreement, diversity.

    ``team``: a folder written by :func:`train_team`, or a list of teachers. A folder brings its own data settings; arguments
    given here override them. A list needs data to compare the teachers on. See :func:`tutelage.evaluation.diversity.diversity`
    for the measures. ``not_kept_apart`` names the teachers that may have been trained on the held-out examples.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    return teams.show_team([team] if isinstance(team, str) else team, _data_config(data), quiet=quiet)


def chain(
    teacher: str,
    out: str,
    *,
    through: Sequence[str],
    student: str | Student = "layers=3",
    method: str = "kd",
    seed: int = 0,
    allow_weak_teacher: bool = False,
    mixed_precision: str = "no",
    settings: Sequence[str] = (),
    quiet: bool = False,
    **data: Any,
) -> list[dict[str, Any]]:
    """Distil through teacher assistants (TAKD): the teacher teaches the first of ``through``, this one the next, the last
    the student; returns the reports of all runs, the student's last.

    ``through`` are students as :func:`distill` takes them, from large to small (``["layers=5", "layers=4"]``). Runs lie in
    ``out``, numbered; a call that was stopped goes on when it is repeated.

    Raises:
        TutelageError: for anything wrong with what was given.
    """
    if not through:
        raise TutelageError(
            "there is no assistant between teacher and student; give --through layers=5, or use distill"
        )
    configs: list[RunConfig] = []
    for number, link in enumerate([*through, student], start=1):
        fields = {
            "teacher": configs[-1].out if configs else teacher,
            "out": str(Path(out) / f"{number}-{'student' if number > len(through) else 'assistant'}"),
            "seed": seed,
            "baseline": number > len(through),
            "allow_weak_teacher": allow_weak_teacher,
            "mixed_precision": mixed_precision,
        }
        recipe = _recipe(method, link, data.get("task")).part("task")
        configs.append(run_config(recipe, data, settings, **fields))
    return carry_out_chain(configs, quiet=quiet)


def export(model: str, out: str) -> dict[str, Any]:
    """Write a student with shared layers as an ordinary checkpoint: the same function, every layer as often as it is run.

    Returns what was written. ``out`` gets the model and its tokenizer, which need nothing of this package.

    Raises:
        TutelageError: when the model shares no layers, or the folder exists.
    """
    path, folder = resolve(model), free_place(out)
    transformers.utils.logging.disable_progress_bar()
    config = load_config(path)
    stored = load_model(path, anatomy.head_named((config.architectures or [""])[0]))[0]
    plain = expanded(stored)
    with new_folder(folder) as partial:
        plain.save_pretrained(partial)
        load_tokenizer(path).save_pretrained(partial)
    shape = anatomy.shape_of(plain.config)
    return {
        "model": model,
        "out": out,
        "type": shape.family,
        "layers": shape.layers,
        "stored_layers": anatomy.shape_of(stored.config).stored,
        "parameters": speed.count_parameters(plain),
        "stored_parameters": speed.count_parameters(stored),
        "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }


def evaluate(model: str, *, quiet: bool = False, **data: Any) -> dict[str, Any]:
    """Score a fine-tuned model on every part of dev: ``{"scores": {"dev": {"accuracy": ...}}, ...}``.

    Raises:
        TutelageError: when the model or the data cannot be loaded, or their labels differ.
    """
    return evaluate_model(model, _data_config(data), quiet=quiet)


def attention_report(
    teacher: str,
    student: str,
    texts: str,
    out: str | None = None,
    *,
    column: str = "text",
    max_texts: int = 256,
    max_length: int | None = None,
    quiet: bool = False,
) -> AttentionReport:
    """How much of a teacher's attention a student shows on the texts of a file: see :mod:`tutelage.studies.attention`.

    The models are folders or hub ids, with any head or none. ``texts`` is a .txt file, one text a line, or a table with a
    ``column`` of texts (each also with .gz); ``out`` is an .html file, which gets pictures and tables.

    Raises:
        TutelageError: for anything wrong with what was given; then nothing has been written.
    """
    page = None if out is None else Path(out)
    if page is not None and page.suffix != ".html":
        raise TutelageError(f"--out {out!r} does not end in .html, and a page is what is written; name it so")
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise TutelageError(f"{out!r} cannot be written: it is a folder, or lies in none that exists")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    sources = []
    for name in (teacher, student):
        # A family of our own is known with its head alone.
        derived = anatomy.family_of(load_config(resolve(name))).derived
        sources.append(Source(name, "classes" if derived else "none"))
    attention.check(sources[0].config, sources[1].config)
    if len({tokenizer_fingerprint(source.tokenizer) for source in sources}) > 1:
        raise TutelageError(
            f"{teacher!r} and {student!r} have different tokenizers, so that their attention is between different tokens; "
            "compare models that share one"
        )
    strings = read_texts(Path(texts), column)
    accelerator, display = new_accelerator(), Display(quiet)
    with display:
        found = attention.attention_report(
            sources[0].model.to(accelerator.device),
            sources[1].model.to(accelerator.device),
            sources[0].tokenizer,
            strings,
            max_texts=max_texts,
            max_length=max_length,
            advance=lambda count, total: display.advance("texts", total, count),
        )
    if page is not None:
        try:
            write_text(page, attention_page(found))
        except OSError as error:
            raise TutelageError(f"{out!r} cannot be written: {error.strerror}") from None
    return found


def _data_config(data: dict[str, Any]) -> DataConfig:
    return validated({"recipe": finetune_recipe().model_dump(mode="json"), "data": data}, "the data").data
