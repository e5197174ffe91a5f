"""ROSITA (Liu et al. 2021): depth, then width are reduced step by step while the student learns; each student teaches the next."""

from typing import Literal

from tutelage.data.augmentation.variants import Augmentation
from tutelage.mechanisms.reduction.settings import Reduction
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.predictions import SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Assistant, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied, Reduced

SIZES = Reduced(layers=8, heads=2, intermediate=512, rank=128)
"""The paper's student: 14.5 M parameters from BERT-base."""

EPOCHS = {"cola": (5, 10, 50), "sst2": (5, 5, 10), "mnli": (3, 2, 5), "qnli": (3, 3, 7), "qqp": (3, 2, 5)}
"""Epochs at the full size, of depth and of width in the authors' code; 3, 3 and 10 for other tasks are ours."""
RATES = {"cola": (2e-5, 1e-5, 1e-5), "sst2": (2e-5, 2e-5, 1e-5), "mnli": (5e-5, 2e-5, 5e-5), "qqp": (2e-5, 2e-5, 3e-5)}
"""The learning rates there; those of QNLI (2e-5, 3e-5 and 3e-5) for other tasks, too."""
LENGTHS = {"cola": 64, "sst2": 64, **dict.fromkeys(("mrpc", "rte", "stsb", "mnli", "qnli", "qqp"), 128)}
"""Longest input in tokens in the authors' code."""


def rosita(pretrained: str | None = None, task: str | None = None) -> Recipe:
    """``KL(p_t || p_s)`` while layers go, from the top, one by one; then, taught by that student, ``KL + sum_l MSE(H_l)`` with the
    embeddings while heads, neurons and the rank of the embeddings go together, one head at a time.

    Each reduction takes the first epoch of its student, the others train what is left; temperature 1, no label. ``task`` brings the
    authors' epochs, rates and longest input. With ``pretrained``, a checkpoint of the teacher's sizes, that one learns first, from
    the fine-tuned teacher on the augmented texts, and teaches the others: the paper's best setting.
    """
    task = "".join(filter(str.isalnum, (task or "").lower()))  # in any spelling, as DataConfig takes it
    epochs = EPOCHS.get(task, (3, 3, 10))
    rates = RATES.get(task, (2e-5, 3e-5, 3e-5))
    predictions = SoftLabels(temperature=1)
    whole = Stage(name="whole", data="augmented", objective=[predictions], epochs=epochs[0], lr=rates[0])
    assistants = [Assistant(stages=_reduced("depth", [predictions], epochs[1], rates[1]))]
    if pretrained is not None:
        assistants.insert(0, Assistant(student=Copied(layers="all", source=pretrained), stages=[whole]))
    return Recipe(
        method="rosita",
        title="ROSITA",
        paper=Paper(
            text="Liu et al., AAAI 2021",
            arxiv="2103.11367",
            title="{ROSITA}: Refined {BERT} cOmpreSsion with InTegrAted techniques",
            authors="Liu, Yuanxin and Lin, Zheng and Yuan, Fengcheng",
        ),
        student=SIZES,
        assistants=assistants,
        augmentation=Augmentation(variants=20),
        longest=LENGTHS.get(task),
        stages=_reduced("width", [predictions, Embeddings(), Hidden(layers="uniform")], epochs[2], rates[2]),
    )


def _reduced(reduces: Literal["depth", "width"], objective: list[AnyTerm], epochs: int, lr: float) -> list[Stage]:
    """An epoch in which a student becomes smaller, and the others."""
    first = Stage(
        name=reduces,
        data="augmented",
        objective=objective,
        mechanisms=[Reduction(reduces=reduces)],
        epochs=1,
        lr=lr,
        warmup=0.0,
        decay="constant",
        select="last",
    )
    rest = {"name": f"after_{reduces}", "mechanisms": [], "epochs": epochs - 1, "select": "best", "patience": 10}
    return [first, first.model_copy(update=rest)]
