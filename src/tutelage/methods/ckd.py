"""CKD (Wu et al. 2020): each student layer imitates a learnt combination of several teacher layers instead of one of them."""

from typing import Literal

from tutelage.objectives.mapped import ConcatenatedLayers
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def ckd(
    layers: Literal["regular", "overlapping", "skipping", "crossed"] = "regular",
    alpha: float = 0.5,
    temperature: float = 4.0,
    beta: float = 0.5,
) -> Recipe:
    """``(1 - alpha) CE + alpha T^2 KL + beta sum_j |s_j/|s_j| - C_j/|C_j||^2`` with ``C_j = W_j [t_i; ...]``.

    The weights are ours, and so are vectors of length 1: the published squared error is 0 for a student and maps that are 0.
    """
    return Recipe(
        method="ckd",
        title="CKD",
        paper=Paper(
            text="Wu et al., EMNLP 2020",
            arxiv="2010.03034",
            title="Why Skip If You Can Combine: A Simple Knowledge Distillation Technique for Intermediate Layers",
            authors="Wu, Yimeng and Passban, Peyman and Rezagholizadeh, Mehdi and Liu, Qun",
        ),
        student=Copied(choose="first"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    HardLabels(weight=round(1 - alpha, 6)),
                    SoftLabels(temperature=temperature, weight=alpha),
                    ConcatenatedLayers(layers=layers, weight=beta),
                ],
                epochs=4,
                lr=5e-5,
            )
        ],
    )
