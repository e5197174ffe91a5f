"""A run on a task: everything is loaded, checked and planned first; then stages are trained and the student is measured."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.examples import Data, Examples
from tutelage.data.labels import no_labels
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.mechanisms.scene import Scene, StageScene, TaskScene
from tutelage.objectives.objective import Objective
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.model import TaskReport, Trials, VocabularyEntry
from tutelage.run import checks, measure, task_plan, trials, vocabulary
from tutelage.run import predicted as predictions
from tutelage.run.budget import settled, twin_stage
from tutelage.run.loading import Reader, Split, TaskTexts, gather_texts, load_split
from tutelage.run.origins import origins, texts_of
from tutelage.run.pairing import StageObjectives
from tutelage.run.plan import StagePlan
from tutelage.run.predicted import PredictedTeacher
from tutelage.run.student import StudentFactory, general_projections, with_size
from tutelage.run.teacher import RunTeacher
from tutelage.run.vocabulary import held_out
from tutelage.run.workspace import Bench, Workspace
from tutelage.students.final import final_config, final_network, notes
from tutelage.students.load import config_of, load_model, network_of
from tutelage.students.specs import takes_from_teacher
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.tasks.load import ReadData, load_data
from tutelage.teachers.knowledge import Knowledge
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import Teacher, predict
from tutelage.training import loop
from tutelage.training.stages import StageWork


def _check_settings(config: RunConfig) -> None:
    """See what settings alone can show.

    Raises:
        TutelageError: there is no output folder, a corpus that nothing reads, or a recipe that a file of predictions cannot teach.
    """
    if config.out is None:
        raise TutelageError(f"there is no output folder; give {option('out')} FOLDER")
    if config.corpus is not None:
        raise TutelageError(
            f"{option('corpus')} is for stages on raw text, and this run is on a task; leave it out, or carry out "
            f"{option('stage')} general first and give its student"
        )
    if config.data.predictions is not None:
        predictions.check_recipe(config)


def _source(config: RunConfig, data: Data) -> Source | None:
    """The teacher, if it is a model.

    Raises:
        TutelageError: the method needs a teacher, and there is none.
    """
    if config.teacher is not None:
        return Source(config.teacher, kind_of(data.kind).head, pooling=config.data.pooling)
    if config.recipe.needs_teacher and data.predicted is None:
        raise TutelageError(
            f"the method {config.recipe.method!r} needs a teacher; give {option('teacher')} FOLDER, or its answers "
            f"with {option('teacher_predictions')} FILE"
        )
    return None


def _reader(
    config: RunConfig, kind: Kind, factory: StudentFactory, student: PreTrainedModel, teacher: Source | None
) -> Reader:
    """Reads texts for both models, up to the longest that both take.

    Raises:
        TutelageError: when a setting is beyond that.
    """
    limit = checks.limit_of(config.data, student.config, *([teacher.config] if teacher else []))
    checks.check_padding(config, limit)
    limit = config.data.max_length or kind.longest(min(limit, config.recipe.longest or limit))
    kept = None if factory.vocabulary is None else factory.vocabulary.kept
    tokenizer, by_token = factory.tokenizer(student), checks.by_token(config)
    return Reader(kind, tokenizer, teacher, limit, config.data.stride, by_token, kept)


def _with_recipe(config: RunConfig, recipe: Recipe) -> RunConfig:
    return config.model_copy(update={"recipe": recipe})


class TaskRun:
    """A run on a task, checked and loaded. Nothing is written yet.

    With ``sketch`` no weights are loaded: the student is an outline (device ``meta``), and the teacher predicts nothing. ``read``
    reads the texts.

    Raises:
        TutelageError: for every mistake of the user, with the thing, the value and the remedy.
    """

    leftovers = (trials.START, trials.RATE, trials.TWIN, trials.HALF)
    """Files in the run's folder that are removed when the report is written."""

    def __init__(self, bench: Bench, config: RunConfig, *, sketch: bool = False, read: ReadData = load_data) -> None:
        _check_settings(config)
        self.bench, self.warnings, self._told_constant = bench, list[str](), False
        self._given = given = read(config.data)
        source, named = _source(config, given), config.recipe.student
        if given.predicted is not None:
            self.warnings += predictions.check_labels(config, given)
        config = _with_recipe(config, with_size(config.recipe, source))
        split = load_split(config, given, source, self.warnings)
        data, kind = split.data, kind_of(split.data.kind)
        checks.check_student_head(config.recipe.student, kind, data)
        every, names = gather_texts(config, split, source, self.warnings)
        device, labels = bench.accelerator.device, kind.label_settings(data)
        self.factory = StudentFactory(config, data, kind.head, labels, source, every, device)
        self.starts = trials.candidates(named, self.factory.spec, self.factory.source_shape)
        """The candidates for the student, by name. The trials make it of one of them; until then a rough one stands for it."""
        make = self.factory.outline if sketch else self.factory.rough if self.starts else self.factory.make
        student = make()
        self.warnings += notes(student)
        self.objectives = StageObjectives(
            config, kind, self.factory, student, source, predicted=data.predicted is not None
        )
        self.warnings += self.objectives.warnings
        config = _with_recipe(config, self.objectives.recipe)
        checks.check_unlabelled(config)
        reader = _reader(config, kind, self.factory, student, source)
        self.reader, everything = reader, reader.read(every, learnt=True)
        self.texts = TaskTexts(split, names, everything, reader)
        origin = None if self.factory.own_input is not None else self.factory.origin or config.teacher
        self.warnings += self.texts.check(reader, self.objectives.current, student.config, origin)
        if config.teacher_store is not None:
            checks.check_storable(data)
        self.vocabulary = self._trimmed(reader, everything, student)
        self.tokenizer = fitted_tokenizer(reader.tokenizer, student, reader.limit)  # as it is saved
        self.open_rates = {stage.name for stage in config.recipe.stages if stage.lr == "auto"}
        """The stages whose rate is chosen by trials."""
        hidden = anatomy.shape_of(final_config(student)).hidden
        recipe = settled(config.recipe, lambda stage: len(self.texts.feed(stage).rows(0)), hidden)
        self.config = config = _with_recipe(config, recipe)
        self.teacher: RunTeacher | None = None
        if source is not None:
            knowledge = self._knowledge(source, everything, reader.limit)
            possible = trials.objectives_of_starts(self.starts, self.objectives)
            self.teacher = RunTeacher(config, bench, source, knowledge, self.texts.parts, self.objectives, possible)
        self.answering: RunTeacher | PredictedTeacher | None = self.teacher
        if data.predicted is not None:
            self.answering = PredictedTeacher(data.predicted, self.texts.parts, device)
        self.projections = general_projections(config.recipe.student)
        self.scene = self._scene(split, every, student)
        self.baseline: PreTrainedModel | None = None
        self.tried = trials.Tried()
        self.twin_trials: Trials | None = None
        if not sketch:
            self._load()

    @property
    def student(self) -> PreTrainedModel:
        """The student as far as it is trained; of a sketch an outline."""
        return self.scene.student

    # --------------------------------------------------------------------------------------------- load and check

    def _trimmed(self, reader: Reader, everything: Texts, student: PreTrainedModel) -> VocabularyEntry | None:
        """What a trimmed vocabulary saves and covers."""
        if self.factory.vocabulary is None:
            return None
        parts = held_out([*self.texts.dev.items(), ("validation", self.texts.selection)], everything)
        width = anatomy.word_embeddings_of(final_network(student)).embedding_dim
        entry, warnings = vocabulary.entry(self.factory.vocabulary, reader, parts, width)
        self.warnings += warnings
        return entry

    def _knowledge(self, source: Source, everything: Texts, limit: int) -> Knowledge:
        texts = self.texts
        dev = {name: (part.examples.ids, part.teacher or part.student) for name, part in texts.dev.items()}
        read = everything.teacher or everything.student
        ids, precision = everything.examples.ids, self.config.mixed_precision
        return Knowledge(texts.data.task, source, ids, read, precision, limit, dev)

    def _scene(self, split: Split, every: Examples, student: PreTrainedModel) -> Scene:
        config, teacher, texts = self.config, self.teacher, self.texts
        task = TaskScene(
            data=texts.data,
            given_labels=split.given_labels,
            config=config.data,
            teachers=config.teachers,
            teacher=None if teacher is None else teacher.source,
            knowledge=None if teacher is None else teacher.knowledge,
            teacher_store=config.teacher_store,
            store_dtype=config.store_dtype,
            allow_weak_teacher=config.allow_weak_teacher,
            everything=every,
            parts=texts.parts,
            held=texts.held,
            held_part=split.held_part if split.held else None,
            dev=texts.dev,
            train_logits=self._train_logits,
        )
        stages = [
            StageScene(stage, index, plan, texts.part_of(stage))
            for index, (stage, plan) in enumerate(zip(config.recipe.stages, self.objectives.current, strict=True))
        ]
        accelerator, display, folder = self.bench.accelerator, self.bench.display, Path(str(config.out))
        spec = self.factory.spec
        return Scene(accelerator, display, folder, config.seed, stages, student, spec, self.warnings, task)

    def _train_logits(self, part: str) -> Tensor:
        assert self.answering is not None
        return self.answering.on_train(part)

    def _load(self) -> None:
        """Move the student to its device, find the store, score the teacher on the evaluation set, and prepare the mechanisms."""
        config, texts = self.config, self.texts
        self.bench.rehearse(self.student, self.tokenizer, texts.kind.head)
        if self.teacher is not None and config.teacher_store is not None:
            self.teacher.find_store()
        self.student.to(self.bench.accelerator.device)
        if self.teacher is not None:
            self.teacher.check_weights()
            self.warnings += checks.judged(config, texts, self.teacher, self.bench.anyway)
            if config.data.drop_flipped and "augmented" in texts.parts:
                self.bench.display.say(texts.drop_flipped(self.teacher))
            self.teacher.release()
        self.warnings += checks.learnt_by_others(config, texts, self._given)
        for stage in self.scene.stages:
            for mechanism in stage.stage.mechanisms:
                mechanism.prepare(self.scene, stage)

    # ------------------------------------------------------------------------------------------------------- plan

    @cached_property
    def plans(self) -> list[StagePlan]:
        """The plans of the stages; known once the store has been looked for."""
        return task_plan.stage_plans(self)

    @property
    def wants_baseline(self) -> bool:
        """Whether the run has a baseline. A student that learns only from labels is its own baseline."""
        return self.config.baseline and self.config.taught and self.config.recipe.needs_teacher

    @property
    def trains_baseline(self) -> bool:
        """Whether the baseline is trained. Where there are no labels to learn, it is the student before training."""
        return self.wants_baseline and self.texts.kind.learns_labels

    @property
    def count(self) -> int:
        """How many stages are trained, the twin's included."""
        return len(self.config.recipe.stages) + self.trains_baseline

    def plan(self) -> str:
        """The printed plan."""
        return task_plan.printed(self)

    # ------------------------------------------------------------------------------------------------------ train

    def origins(self) -> dict[str, str]:
        """The fingerprint of each thing that the run learns from."""
        teacher = None if self.teacher is None else self.teacher.source
        return origins(self.config, texts_of(self._given), teacher)

    def start(self, workspace: Workspace) -> None:
        """The run has taken over its folder: write the store that the plan announced."""
        if self.teacher is not None:
            self.teacher.write_store()
        self.tried = trials.choose(self, workspace.folder)
        if workspace.resumed is not None and 0 < workspace.resumed["work"] < len(self.config.recipe.stages):
            # A stage may have made the student smaller than it was made.
            config = config_of(workspace.resumed["config"])
            if anatomy.shape_of(config) != anatomy.shape_of(self.student.config):
                self.scene.student = network_of(config, self.texts.kind.head).to(self.bench.accelerator.device)

    def begin_from(self, factory: StudentFactory) -> None:
        """The trials have chosen a start: make the student of it, and pair its layers anew."""
        spec = factory.spec
        self.factory, self.scene.spec = factory, spec
        self.scene.student = factory.make().to(self.bench.accelerator.device)
        self.objectives.take(spec, self.student)
        stages = zip(self.scene.stages, self.objectives.current, strict=True)
        self.scene.stages = [replace(scene, plan=plan) for scene, plan in stages]
        self.plans = task_plan.stage_plans(self)

    def scale_rates(self, factor: float) -> None:
        """The trials have chosen a rate: this many times that of the stages which leave it open."""
        recipe = self.config.recipe
        stages = [
            stage.model_copy(update={"lr": stage.schedule[1] * factor}) if stage.name in self.open_rates else stage
            for stage in recipe.stages
        ]
        self.config = _with_recipe(self.config, recipe.model_copy(update={"stages": stages}))

    def shapes(self) -> tuple[anatomy.Shape, anatomy.Shape | None]:
        """The shapes of the student and of its teacher."""
        theirs = None if self.teacher is None else self.teacher.source.shape
        return anatomy.shape_of(final_config(self.student)), theirs

    def begin(self, index: int, logs: list[loop.StageLog]) -> StageWork:
        """A stage of the student, ready to be trained; after the last one, the twin's."""
        stages, config, texts = self.config.recipe.stages, self.config, self.texts
        if index == len(stages):
            return self._begin_twin(sum(log.steps for log in logs[config.recipe.begins :]))
        stage, scene, plan = stages[index], self.scene.stages[index], self.objectives.current[index]
        if stage.fresh and index:
            self.scene.student = self.factory.make().to(self.bench.accelerator.device)
        if stage.fresh or index == 0:
            self.prepare(self.student)
        if self.teacher is not None:
            self.teacher.release()  # making a student may have loaded its teacher
        torch.manual_seed(config.seed)  # and has drawn numbers
        shape = anatomy.shape_of(final_config(self.student))
        # A stage before may have removed layers.
        terms = plan.given if shape.layers == plan.student.layers else stage.objective
        objective = Objective(terms, texts.kind, shape, plan.teacher, predicted=plan.predicted, several=plan.several)
        objective.inherit(self.projections)
        self.plans[index] = replace(self.plans[index], objective=objective.plan)
        labels = [found for m in stage.mechanisms if (found := m.labels(self.scene, scene)) is not None]
        brought = {m.kind: m.teacher(self.scene, scene) for m in stage.mechanisms}
        teacher = next((one for one in brought.values() if one is not None), None)
        if texts.data.predicted is not None and not texts.data.predicted.labelled:
            # The labels are the file's own: the twin learns them, the student learns what the file says.
            labels.append(no_labels(texts.data.train.labels, len(texts.parts[texts.part_of(stage)].examples)))
        if teacher is None and self.answering is not None:
            teacher = self.answering.teacher_for(stage, texts.part_of(stage), plan.teacher_needs)

        def hooks() -> list[Any]:
            made = [m.hook(self.scene, scene, brought[m.kind]) for m in stage.mechanisms]
            return [hook for hook in made if hook is not None]

        begun = max((at for at, one in enumerate(stages[: index + 1]) if one.fresh), default=0)
        trained = any(earlier.student_needs.logits for earlier in self.objectives.current[begun:index])
        return self._work("student", stage, self.student, objective, next(iter(labels), None), teacher, hooks, trained)

    def prepare(self, student: PreTrainedModel) -> None:
        if self.teacher is None:
            return
        train = self.texts.parts["train"].student
        note = self.texts.kind.start(
            student,
            lambda: self._train_logits("train"),
            lambda rows: self.bench.predict(student, train.take(rows), "untrained student"),
        )
        if note is not None:
            self.bench.display.say(note)

    def untrained(self) -> PreTrainedModel:
        """The student before training."""
        model = self.factory.make(twin=True)
        self.prepare(model)
        return model.to(self.bench.accelerator.device)

    def _begin_twin(self, steps: int) -> StageWork:
        stage = twin_stage(self.config.recipe.stages[-1], steps)
        self.twin_trials, rate = trials.twin_rate(self, stage, steps)
        stage = stage.model_copy(update={"lr": rate})
        self.baseline = self.factory.make(twin=True)
        if self.teacher is not None:
            self.teacher.release()
        torch.manual_seed(self.config.seed)
        shape = anatomy.shape_of(final_config(self.baseline))
        objective = Objective(stage.objective, self.texts.kind, shape, None)
        return self._work("baseline", stage, self.baseline, objective, None, None, list)

    def _work(
        self,
        who: str,
        stage: Stage,
        model: PreTrainedModel,
        objective: Objective,
        labels: Any,
        teacher: Teacher | None,
        hooks: Any,
        trained: bool = False,
    ) -> StageWork:
        """``trained`` says whether a stage before has trained the head."""
        self._told_constant = False
        # A stage on layers is scored under the teacher's head, where the student has that.
        texts, answers = self.texts, objective.plan.student_needs.logits
        wanted = stage.select == "best" if answers else takes_from_teacher(self.factory.spec)
        wanted = wanted and texts.kind.learns_labels
        score = (lambda: self.score(model)) if wanted else None
        # The predictions of a new head are guesses, of which none is kept.
        starts = wanted and stage.select == "best" and (trained or self.factory.answers)
        floor = texts.kind.selection_floor(texts.data, texts.selection.examples) if starts else None
        return StageWork(who, stage, model, objective, texts.feed(stage, labels=labels), teacher, score, hooks, floor)

    def score(self, model: PreTrainedModel) -> float:
        bench, texts = self.bench, self.texts
        data, kind, selection = texts.data, texts.kind, texts.selection
        logits = predict(model, selection.student, bench.accelerator, say=bench.display.say, divided=True)
        score = kind.selection_score(data, logits, selection)
        if kind.is_constant(logits) and not self._told_constant:
            self._told_constant = True
            metric = data.metrics[0]
            real = kind.scores(data, logits, selection)[metric]
            bench.display.say(
                f"constant answer: the validation split's texts all get the same one ({metric} {real:.4f}), which is scored 0"
            )
        return score

    def end(self, work: StageWork, projections: dict[str, Tensor], workspace: Workspace) -> dict[str, str]:
        """Save the student after a stage; returns the checksums of its files."""
        return workspace.save_student(self.student, self.tokenizer, projections)

    def reload(self, workspace: Workspace) -> None:
        """Load the finished student of a run that was interrupted in the twin's stage.

        Raises:
            TutelageError: if its files are not as they were written.
        """
        workspace.check_student()
        found = load_model(str(workspace.model_folder), self.texts.kind.head)[0]
        self.scene.student = found.to(self.bench.accelerator.device)

    # ----------------------------------------------------------------------------------------------------- report

    def report(self, workspace: Workspace, logs: list[loop.StageLog]) -> TaskReport:
        """Scores, sizes, speed, and how the training went."""
        return measure.task_report(self, workspace, logs)
