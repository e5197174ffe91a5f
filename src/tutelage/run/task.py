"""A run on a task: everything is loaded, checked and planned first; then stages are trained and the student is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.batches import Feed, Known
from tutelage.data.examples import Data, Encoded, Examples, RowFinder
from tutelage.data.labels import no_labels
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.mechanisms.scene import Scene, StageScene, TaskScene
from tutelage.objectives.objective import Objective, ObjectivePlan
from tutelage.progress import duration
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.report.model import TaskReport, Trials, VocabularyEntry
from tutelage.report.words import listed, vocabulary_lines
from tutelage.run import checks, measure, trials, vocabulary
from tutelage.run import predicted as predictions
from tutelage.run.budget import settled, twin_stage
from tutelage.run.loading import Reader, gather_texts, load_split, truncation_notes
from tutelage.run.origins import origins, texts_of
from tutelage.run.pairing import copied_layers, paired
from tutelage.run.plan import StagePlan, example_flops, mapping_lines, model_line, planned_steps, typical
from tutelage.run.predicted import PredictedTeacher
from tutelage.run.student import StudentFactory, general_projections, inherited_count, with_size
from tutelage.run.teacher import RunTeacher
from tutelage.run.vocabulary import held_out
from tutelage.run.workspace import Bench, Workspace
from tutelage.students.final import final_config, final_network, notes
from tutelage.students.load import config_of, load_model, network_of
from tutelage.students.specs import Student, takes_from_teacher
from tutelage.tasks import kind_of
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
        raise TutelageError("there is no output folder; give --out FOLDER")
    if config.corpus is not None:
        raise TutelageError(
            f"{option('corpus')} is for stages on raw text, and this run is on a task; leave it out, or carry out "
            "--stage general first and give its student"
        )
    if config.data.predictions is not None:
        predictions.check_recipe(config)


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
        self.bench, self.config, self.warnings, self._told_constant = bench, config, list[str](), False
        self._given = given = read(config.data)
        source = None
        if config.teacher is not None:
            source = Source(config.teacher, kind_of(given.kind).head, pooling=config.data.pooling)
        elif config.recipe.needs_teacher and given.predicted is None:
            raise TutelageError(
                f"the method {config.recipe.method!r} needs a teacher; give --teacher FOLDER, or its answers with "
                "--teacher-predictions FILE"
            )
        if given.predicted is not None:
            self.warnings += predictions.check_labels(config, given)
        self._named = config.recipe.student
        config = config.model_copy(update={"recipe": with_size(config.recipe, source)})
        split = load_split(config, given, source, self.warnings)
        self.data: Data = split.data
        self.kind = kind_of(self.data.kind)
        checks.check_student_head(config.recipe.student, self.kind, self.data)
        every, names = gather_texts(config, split, source, self.warnings)
        device = bench.accelerator.device
        self.factory = StudentFactory(
            config, self.data, self.kind.head, self.kind.label_settings(self.data), source, every, device
        )
        self.student = self.factory.outline() if sketch else self.factory.make()
        self.tokenizer = self.factory.tokenizer(self.student)
        self.warnings += notes(self.student)
        self._several, apart = checks.layer_teachers(config, self.kind.head, source, self.factory.reads_as)
        self.warnings += apart
        recipe, left_out = checks.possible(
            config.recipe,
            self.kind,
            anatomy.shape_of(final_config(self.student)),
            None if source is None else source.shape,
            predicted=self.data.predicted is not None,
            same_tokens=lambda: source is None or self.factory.reads_as(source),
            several={name: self._shapes_of(name) for name in self._several},
        )
        self.warnings += left_out
        self.config = config = config.model_copy(update={"recipe": recipe})
        self._source_shape = None if source is None else source.shape
        self.objectives = self.objectives_for(self.factory.spec)
        self._check_objectives(source)
        checks.check_unlabelled(config)
        limit = checks.limit_of(config.data, self.student.config, *([source.config] if source else []))
        checks.check_padding(config, limit)
        limit = config.data.max_length or self.kind.longest(min(limit, config.recipe.longest or limit))
        trimmed, stride = self.factory.vocabulary, config.data.stride
        kept = None if trimmed is None else trimmed.kept
        reader = Reader(self.kind, self.tokenizer, source, limit, stride, checks.by_token(config), kept)
        everything = self._read(reader, every, names, limit)
        self.vocabulary = self._trimmed(reader, everything)
        self.tokenizer = fitted_tokenizer(self.tokenizer, self.student, limit)  # as it is saved
        self.config = config = self._settled(config)
        self.held: Texts | None = None
        if split.held:
            reserved = [name for name in names["train"] if name in split.held]
            self.held = everything.at(RowFinder(every.ids).of(reserved))
        self.teacher: RunTeacher | None = None
        if source is not None:
            knowledge = self._knowledge(source, everything, limit)
            self.teacher = RunTeacher(
                config, bench, source, knowledge, self.parts, self.objectives, trials.objectives_of_starts(self)
            )
        predicted = self.data.predicted
        self.answering: RunTeacher | PredictedTeacher | None = self.teacher
        if predicted is not None:
            self.answering = PredictedTeacher(predicted, self.parts, device)
        self._projections = general_projections(config.recipe.student)
        self.scene = self._scene(split.given_labels, split.held_part if split.held else None, every)
        self.baseline: PreTrainedModel | None = None
        self.tried = trials.Tried()
        self.twin_trials: Trials | None = None
        if not sketch:
            self._load()
            for stage in self.scene.stages:
                for mechanism in stage.stage.mechanisms:
                    mechanism.prepare(self.scene, stage)

    # --------------------------------------------------------------------------------------------- load and check

    def objectives_for(self, spec: Student) -> list[ObjectivePlan]:
        """The objectives for a student: its sizes, and the layers that it is made of, say what terms compare."""
        model = self.student if spec is self.factory.spec else self.factory.of(spec).outline()
        shape, theirs = anatomy.shape_of(final_config(model)), self._source_shape
        predicted = self.data.predicted is not None
        layers = copied_layers(spec, self.factory.source_shape, theirs)
        plans = []
        for stage in self.config.recipe.stages:
            several = self._shapes_of(stage.name)
            terms = paired(stage.objective, None if several else layers, theirs.layers if theirs else 0)
            plans.append(ObjectivePlan(terms, self.kind, shape, theirs, predicted, several))
        return plans

    def _check_objectives(self, source: Source | None) -> None:
        shape = anatomy.shape_of(final_config(self.student))
        for stage, plan in zip(self.config.recipe.stages, self.objectives, strict=True):
            checks.check_poolers(plan, self.student, source)
            if stage.patience is not None and not self.kind.learns_labels:
                self.warnings.append(
                    f"stage {stage.name}: patience={stage.patience} has no effect, because vectors are not scored during training; "
                    "all epochs are trained"
                )
            for part, term, mapped in ((p, *pair) for p in plan.parts for pair in zip(p.terms, p.pairs, strict=True)):
                if part.teacher and not mapped and (note := term.unpaired(shape, part.teacher)) is not None:
                    self.warnings.append(f"stage {stage.name} {note}")

    def begin_from(self, spec: Student) -> None:
        """The trials have chosen a start: make the student of it, and pair its layers anew."""
        self.factory.spec = self.scene.spec = spec
        self.student = self.scene.student = self.factory.make().to(self.bench.accelerator.device)
        self.objectives[:] = self.objectives_for(spec)  # the teacher and its store have the same list
        self.scene.stages = [
            replace(scene, plan=plan) for scene, plan in zip(self.scene.stages, self.objectives, strict=True)
        ]
        self.__dict__.pop("plans", None)

    def _shapes_of(self, stage: str) -> dict[int, anatomy.Shape]:
        """The shapes of the teachers whose layers a stage compares, where several teach each step."""
        return {number: one.shape for number, one in self._several.get(stage, {}).items()}

    def _read(self, reader: Reader, every: Examples, names: dict[str, Sequence[str]], limit: int) -> Texts:
        """Encode all texts for both models; returns those of ``every``."""
        config, data, own_input = self.config, self.data, self.factory.own_input
        assert data.selection is not None
        everything = reader.read(every, learnt=True)
        places = RowFinder(every.ids)
        self.parts = {part: everything.at(places.of(ids)) for part, ids in names.items()}
        self.selection = reader.read(data.selection)
        train = self.parts["train"]
        self.dev = {name: reader.read(part) for name, part in data.dev.items()}
        named = [("train", train), ("validation", self.selection), *self.dev.items()]
        added = [(part, texts) for part, texts in self.parts.items() if part != "train"]
        origin = None if own_input is not None else self.factory.origin or config.teacher
        for part, texts in [*named, *added]:
            self.warnings += reader.check(texts, part, self.student.config, origin)
        self.warnings += truncation_notes(self.kind, limit, named)
        for part, texts in named:  # losses compare the texts of train alone
            checks.check_alignment(texts, part, self.objectives if part == "train" else (), reader.kept)
        pairs = train.examples.pairs is not None and own_input is None
        if pairs and self.tokenizer.num_special_tokens_to_add(pair=True) == 0:
            self.warnings.append(
                "the student's tokenizer has no separator for pairs: the two texts are joined into one"
            )
        if config.teacher_store is not None:
            checks.check_storable(data)
        return everything

    def _settled(self, config: RunConfig) -> RunConfig:
        """The settings with numbers where a stage leaves epochs or rate open."""

        def examples(stage: Stage) -> int:
            return len(self.feed(stage).rows(0))

        self.open_rates = {stage.name for stage in config.recipe.stages if stage.lr == "auto"}
        hidden = anatomy.shape_of(final_config(self.student)).hidden
        return config.model_copy(update={"recipe": settled(config.recipe, examples, hidden)})

    def _trimmed(self, reader: Reader, everything: Texts) -> VocabularyEntry | None:
        """What a trimmed vocabulary saves and covers."""
        if self.factory.vocabulary is None:
            return None
        parts = held_out([*self.dev.items(), ("validation", self.selection)], everything)
        width = anatomy.word_embeddings_of(final_network(self.student)).embedding_dim
        entry, warnings = vocabulary.entry(self.factory.vocabulary, reader, parts, width)
        self.warnings += warnings
        return entry

    def _knowledge(self, source: Source, everything: Texts, limit: int) -> Knowledge:
        dev = {name: (texts.examples.ids, texts.teacher or texts.student) for name, texts in self.dev.items()}
        read = everything.teacher or everything.student
        ids, precision = everything.examples.ids, self.config.mixed_precision
        return Knowledge(self.data.task, source, ids, read, precision, limit, dev)

    def _scene(self, given_labels: tuple[str, ...], held_part: tuple[int, int] | None, every: Examples) -> Scene:
        config, teacher = self.config, self.teacher
        task = TaskScene(
            data=self.data,
            given_labels=given_labels,
            config=config.data,
            teachers=config.teachers,
            teacher=None if teacher is None else teacher.source,
            knowledge=None if teacher is None else teacher.knowledge,
            teacher_store=config.teacher_store,
            store_dtype=config.store_dtype,
            allow_weak_teacher=config.allow_weak_teacher,
            everything=every,
            parts=self.parts,
            held=self.held,
            held_part=held_part,
            dev=self.dev,
            train_logits=self._train_logits,
        )
        stages = [
            StageScene(stage, index, plan, self._part(stage))
            for index, (stage, plan) in enumerate(zip(config.recipe.stages, self.objectives, strict=True))
        ]
        bench, folder = self.bench, Path(str(config.out))
        accelerator, display = bench.accelerator, bench.display
        student, spec = self.student, self.factory.spec
        return Scene(accelerator, display, folder, config.seed, stages, student, spec, self.warnings, task)

    def _train_logits(self, part: str) -> Tensor:
        assert self.answering is not None
        return self.answering.on_train(part)

    def _load(self) -> None:
        """Move the student to its device, find the store, and score the teacher on the evaluation set."""
        teacher, config = self.teacher, self.config
        self.bench.rehearse(self.student, self.tokenizer, self.kind.head)
        if teacher is not None and config.teacher_store is not None:
            teacher.find_store()
        self.student.to(self.bench.accelerator.device)
        if teacher is None:
            return
        teacher.check_weights()
        self.data, doubts = checks.judged(config, self.data, self.dev, teacher, self.bench.anyway)
        self.warnings += doubts
        if config.data.drop_flipped and "augmented" in self.parts:
            self._drop_flipped(teacher)
        teacher.release()

    def _drop_flipped(self, teacher: RunTeacher) -> None:
        """Leave out the variants for which the teacher predicts another class than for their originals."""
        if not self.kind.classifies_texts:
            raise TutelageError(
                f"data.drop_flipped compares predicted classes, and {self.data.task!r} is a {self.data.kind}; leave it out"
            )
        texts = self.parts["augmented"]
        predicted = teacher.on_train("augmented").argmax(dim=1).numpy()
        of = RowFinder(texts.examples.ids).of(name.partition("~")[0] for name in texts.examples.ids)
        kept = np.flatnonzero(predicted == predicted[of])
        self.parts["augmented"] = texts.at(kept)
        teacher.keep("augmented", kept)
        gone = len(of) - len(kept)
        self.bench.display.say(
            f"{gone:,} of {len(of):,} augmented texts change the teacher's prediction and are left out"
        )

    # ------------------------------------------------------------------------------------------------------- plan

    def _part(self, stage: Stage) -> str:
        """The part of the texts that a stage trains on."""
        assert isinstance(stage.data, str)
        reserved = any(mechanism.trains_without_held_out() for mechanism in stage.mechanisms)
        return "search" if reserved else stage.data

    def feed(self, stage: Stage, part: str | None = None, labels: Any = None) -> Feed:
        """The texts that a stage reads (those of its own part), with other labels where a mechanism makes them."""
        encoded = self.parts[part or self._part(stage)].student
        return feed_of(stage, encoded if labels is None else replace(encoded, labels=labels))

    @cached_property
    def plans(self) -> list[StagePlan]:
        """The plans of the stages; known once the store has been looked for."""
        student = self._student_flops()
        teacher = self._teacher_flops()
        plans = []
        for index, (stage, objective) in enumerate(zip(self.config.recipe.stages, self.objectives, strict=True)):
            needs = objective.teacher_needs
            answers = "none" if self.answering is None else self.answering.answers(stage, needs)
            runs = answers == "running" or (answers == "mechanism" and needs.running)
            passes = prod(mechanism.passes(final_network(self.student)) for mechanism in stage.mechanisms)
            steps, flops = planned_steps(stage, self.feed(stage)), 3 * passes * student + (teacher if runs else 0)
            several = [self._several[stage.name][number] for number in objective.members]
            if self.config.teacher_store is None:
                flops += sum(self._flops_of(one) for one in several if one.has_weights)
            plans.append(StagePlan(stage, index, objective, self._part(stage), answers, steps, flops, passes))
        return plans

    def _student_flops(self) -> float:
        return example_flops(self.parts["train"].student, final_network(self.student))

    def _teacher_flops(self) -> float:
        return 0.0 if self.teacher is None else self._flops_of(self.teacher.source)

    def _flops_of(self, teacher: Source) -> float:
        train = self.parts["train"]
        return example_flops(train.teacher or train.student, teacher.outline)

    @property
    def wants_baseline(self) -> bool:
        """Whether the run has a baseline. A student that learns only from labels is its own baseline."""
        return self.config.baseline and self.config.taught and self.config.recipe.needs_teacher

    @property
    def trains_baseline(self) -> bool:
        """Whether the baseline is trained. Where there are no labels to learn, it is the student before training."""
        return self.wants_baseline and self.kind.learns_labels

    @property
    def count(self) -> int:
        """How many stages are trained, the twin's included."""
        return len(self.config.recipe.stages) + self.trains_baseline

    def plan(self) -> str:
        """The printed plan: sizes, what each stage reads, the paired layers, the cost."""
        config, data, plans = self.config, self.data, self.plans
        network, train = final_network(self.student), self.parts["train"].student
        known = " labelled" if data.predicted is None or data.predicted.labelled else " predicted"
        known = known if self.kind.learns_labels else ""
        unlabelled = f" + {len(data.unlabeled):,} unlabelled" if data.unlabeled else ""
        lines = [
            f"{config.recipe.title} on {data.task}: {len(data.train):,}{known}{unlabelled} texts, "
            f"{train.lengths.mean():.1f} tokens on average; {len(self.selection.examples):,} in the validation split, "
            f"{sum(map(len, data.dev.values())):,} in the evaluation set"
        ]
        lines.append(f"labels   {self.kind.about(data)}")
        lines += [f"note: {note}" for note in data.notes]
        if self.teacher is not None:
            lines.append(model_line("teacher", self.teacher.source.shape, self.teacher.source.outline))
            lines += self._store_lines(self.teacher)
        lines += predictions.plan_lines(data) if data.predicted is not None else []
        kinds = {mechanism.kind: mechanism for plan in plans for mechanism in plan.stage.mechanisms}
        lines += [line for mechanism in kinds.values() for line in mechanism.about(self.scene)]
        lines.append(model_line("student", anatomy.shape_of(network.config), network))
        lines += [f"         {line}" for line in vocabulary_lines(self.vocabulary)]
        if new := sorted({name.rpartition(".")[0] for name in self.factory.new}):
            lines.append(
                f"         its start lacks {listed(new)}, which {'is' if len(new) == 1 else 'are'} new and random"
            )
        lines += trials.plan_lines(self.starts)
        inputs, student_flops = typical(train, self.student), self._student_flops()
        trial, _ = speed.latencies({"student": network}, {"student": inputs}, batch_sizes=(32,), repeats=3)
        rate = 32 * student_flops / (trial["student"]["32"].median / 1000)
        tried = trials.passes(self)
        seconds = tried * student_flops / rate
        for plan, stage in zip(plans, self.scene.stages, strict=True):
            seconds += plan.steps * plan.stage.batch_size * plan.flops / rate
            lines.append(plan.line())
            for mechanism in plan.stage.mechanisms:
                lines += mechanism.plan(self.scene, stage, plan.steps)
            if taken := inherited_count(plan.objective, self._projections):
                lines.append(f"  starts from {taken} projections of {self.factory.origin}")
            lines += mapping_lines(plan.objective)
        if self.trains_baseline:
            on = "" if data.predicted is None else f" on the {predictions.baseline_labels(data)}"
            twin = f"{config.recipe.student.twin_words}{on}, for as many steps, at the better of two rates"
            lines.append(f"then {twin} (--no-baseline skips it)")
        lines.append(
            f"expected time on this machine: about {duration(seconds)}{', with the trials' if tried else ''}, without the baseline"
        )
        lines += [f"note: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _store_lines(self, teacher: RunTeacher) -> list[str]:
        """Which store the run uses, and what it will hold."""
        if (store := teacher.store) is not None:
            loaded = "; the teacher is not loaded" if not teacher.source.loaded else ""
            return [f"store    {store.name}, {store.manifest.bytes / 1e6:,.1f} MB{loaded}"]
        if teacher.to_write is None:
            return []
        size = teacher.to_write.record_bytes(teacher.knowledge.encoded.lengths)
        return [
            f"store    will be written to {teacher.knowledge.home(teacher.to_write)}: {len(size):,} examples, "
            f"{size.mean():,.0f} bytes each, {size.sum() / 1e6:,.1f} MB; later runs read it"
        ]

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
                self.student = network_of(config, self.kind.head).to(self.bench.accelerator.device)

    @cached_property
    def starts(self) -> dict[str, Student]:
        """The candidates for the student, by name."""
        return trials.candidates(self._named, self.factory.spec, self.factory.source_shape)

    def shapes(self) -> tuple[anatomy.Shape, anatomy.Shape | None]:
        """The shapes of the student and of its teacher."""
        theirs = None if self.teacher is None else self.teacher.source.shape
        return anatomy.shape_of(final_config(self.student)), theirs

    def begin(self, index: int, logs: list[loop.StageLog]) -> StageWork:
        """A stage of the student, ready to be trained; after the last one, the twin's."""
        stages, config = self.config.recipe.stages, self.config
        if index == len(stages):
            return self._begin_twin(sum(log.steps for log in logs[config.recipe.begins :]))
        stage, scene, plan = stages[index], self.scene.stages[index], self.objectives[index]
        if stage.fresh and index:
            self.student = self.factory.make().to(self.bench.accelerator.device)
        self.scene.student = self.student
        if stage.fresh or index == 0:
            self.prepare(self.student)
        if self.teacher is not None:
            self.teacher.release()  # making a student may have loaded its teacher
        torch.manual_seed(config.seed)  # and has drawn numbers
        shape = anatomy.shape_of(final_config(self.student))
        # A stage before may have removed layers.
        terms = plan.given if shape.layers == plan.student.layers else stage.objective
        objective = Objective(terms, self.kind, shape, plan.teacher, predicted=plan.predicted, several=plan.several)
        objective.inherit(self._projections)
        self.plans[index] = replace(self.plans[index], objective=objective.plan)
        labels = [found for m in stage.mechanisms if (found := m.labels(self.scene, scene)) is not None]
        brought = {m.kind: m.teacher(self.scene, scene) for m in stage.mechanisms}
        teacher = next((one for one in brought.values() if one is not None), None)
        if self.data.predicted is not None and not self.data.predicted.labelled:
            # The labels are the file's own: the twin learns them, the student learns what the file says.
            labels.append(no_labels(self.data.train.labels, len(self.parts[self._part(stage)].examples)))
        if teacher is None and self.answering is not None:
            teacher = self.answering.teacher_for(stage, self._part(stage), plan.teacher_needs)

        def hooks() -> list[Any]:
            made = [m.hook(self.scene, scene, brought[m.kind]) for m in stage.mechanisms]
            return [hook for hook in made if hook is not None]

        begun = max((at for at, one in enumerate(self.config.recipe.stages[: index + 1]) if one.fresh), default=0)
        trained = any(earlier.student_needs.logits for earlier in self.objectives[begun:index])
        return self._work("student", stage, self.student, objective, next(iter(labels), None), teacher, hooks, trained)

    def prepare(self, student: PreTrainedModel) -> None:
        if self.teacher is None:
            return
        train = self.parts["train"].student
        note = self.kind.start(
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
        objective = Objective(stage.objective, self.kind, shape, None)
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
        answers = objective.plan.student_needs.logits
        wanted = stage.select == "best" if answers else takes_from_teacher(self.factory.spec)
        wanted = wanted and self.kind.learns_labels
        score = (lambda: self.score(model)) if wanted else None
        # The predictions of a new head are guesses, of which none is kept.
        starts = wanted and stage.select == "best" and (trained or self.factory.answers)
        floor = self.kind.selection_floor(self.data, self.selection.examples) if starts else None
        return StageWork(who, stage, model, objective, self.feed(stage, labels=labels), teacher, score, hooks, floor)

    def score(self, model: PreTrainedModel) -> float:
        bench = self.bench
        logits = predict(model, self.selection.student, bench.accelerator, say=bench.display.say, divided=True)
        score = self.kind.selection_score(self.data, logits, self.selection)
        if self.kind.is_constant(logits) and not self._told_constant:
            self._told_constant = True
            metric = self.data.metrics[0]
            real = self.kind.scores(self.data, logits, self.selection)[metric]
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
        found = load_model(str(workspace.model_folder), self.kind.head)[0]
        self.student = self.scene.student = found.to(self.bench.accelerator.device)

    # ----------------------------------------------------------------------------------------------------- report

    def report(self, workspace: Workspace, logs: list[loop.StageLog]) -> TaskReport:
        """Scores, sizes, speed, and how the training went."""
        return measure.task_report(self, workspace, logs)


def feed_of(stage: Stage, encoded: Encoded) -> Feed:
    """The texts that a stage reads; texts without a label are left out if the stage needs labels."""
    known = encoded.known > 0
    return Known(encoded, np.flatnonzero(known) if stage.needs_labels and not known.all() else None)
