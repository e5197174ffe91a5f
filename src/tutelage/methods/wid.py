"""Weight-inherited distillation (Wu et al. 2024): the teacher's weights, mixed and made narrower while they learn."""

from tutelage.data.masking import Masking
from tutelage.mechanisms.pruning.settings import PruningSchedule
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Inherited


def wid(hidden: int = 384, *, causal: bool = False) -> Recipe:
    """Compactors at both sides of every weight, and the plain loss: of masked (or next) words, or of the task's labels.

    The two stages are two uses: of a pretrained teacher on raw text, whose student is then fine-tuned on any task, or of a
    fine-tuned teacher on its task. No signal of the teacher enters either. 12 heads of 32 for a BERT-base: half as wide.

    The general stage has the paper's numbers. The task's are ours: three factors of a weight learn at once, so a rate that suits
    one weight is too high for them. Of 2e-5, 5e-5 and 1e-4 the second was best for a MiniLM on SST-2 and STS-B (``tuning`` in
    ``results/wid.json``).
    """
    instances = Instances(packing="packed") if causal else Instances(packing="segments", masking=Masking())
    general = Stage(
        name="general",
        data=instances,
        objective=[HardLabels()],
        epochs=40,
        max_steps=400_000,
        lr=5e-5,
        warmup=0.01,
        batch_size=960,
        select="last",
        mechanisms=[PruningSchedule(share=0.02)],
    )
    task = Stage(
        name="task",
        objective=[HardLabels()],
        epochs=5,
        lr=5e-5,
        select="last",
        mechanisms=[PruningSchedule(share=0.3, weights_lr=1.0)],
    )
    return Recipe(
        method="wid",
        title="WID",
        paper=Paper(
            text="Wu et al., Findings of NAACL 2024",
            arxiv="2305.09098",
            title="Weight-Inherited Distillation for Task-Agnostic {BERT} Compression",
            authors="Wu, Taiqiang and Hou, Cheng and Lao, Shanshan and Li, Jiayi and Wong, Ngai and Zhao, Zhe and Yang, "
            "Yujiu",
        ),
        student=Inherited(hidden=hidden),
        stages=[general, task],
    )


def wid_causal() -> Recipe:
    """WID of a model of next words (GPT-2), on raw text."""
    recipe = wid(causal=True)
    return recipe.model_copy(
        update={"method": "wid_causal", "title": "WID of next words", "stages": [recipe.stages[0]]}
    )


def wid55() -> Recipe:
    """The paper's student of half of BERT-base's parameters: 516 wide, 12 heads of 43."""
    return wid(516).model_copy(update={"method": "wid55", "title": "WID-55M"})


def wid11() -> Recipe:
    """The paper's student of a tenth of BERT-base's parameters: 192 wide, 12 heads of 16."""
    return wid(192).model_copy(update={"method": "wid11", "title": "WID-11M"})


def wid_kd(hidden: int = 384) -> Recipe:
    """WID on a task, then distillation: the teacher's predictions, beside the labels, for the student that has inherited."""
    recipe = wid(hidden)
    distil = Stage(name="prediction", objective=[SoftLabels(temperature=2), HardLabels(weight=0.5)], epochs=3, lr=1e-4)
    return recipe.model_copy(
        update={"method": "wid_kd", "title": "WID, then distillation", "stages": [recipe.stages[1], distil]}
    )


def wid_reference(hidden: int = 192) -> Recipe:
    """The authors' code: the penalty inside Adam's moment, one compactor that decides for its group, a free output matrix.

    Not as there: queries are scaled for their narrower heads when they are merged, gradients of biases and norms are
    those of the loss, compactors do not decay, nothing shrinks before the first mask, masks only grow.
    """
    recipe = wid(hidden)
    how = PruningSchedule(penalty="adam_l2", selection="norm", scope="master", schedule="reference", interval=500)
    general = recipe.stages[0].model_copy(update={"mechanisms": [how], "clip": 1e9, "optimizer": "bert_adam"})
    student = recipe.student.model_copy(update={"decoder": "untied"})
    return recipe.model_copy(
        update={"method": "wid_reference", "title": "WID, as its code", "student": student, "stages": [general]}
    )
