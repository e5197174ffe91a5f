"""ALP-KD (Passban et al. 2021): each student layer imitates a mean of teacher layers, weighted by attention."""

from typing import Literal

from tutelage.objectives.mapped import AttendedLayers
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def alp_kd(
    layers: Literal["all", "regular", "overlapping"] = "all",
    hard: float = 0.1,
    soft: float = 0.7,
    attended: float = 0.2,
    temperature: float = 20.0,
) -> Recipe:
    """``hard CE + soft T^2 KL + attended sum_j MSE(s_j, sum_i softmax_i(<s_j, t_i>) t_i)`` with [CLS] vectors s and t.

    The weights and the temperature are those of GLMKD's re-implementation; the authors published no code.
    """
    return Recipe(
        method="alp_kd",
        title="ALP-KD",
        paper=Paper(
            text="Passban et al., AAAI 2021",
            arxiv="2012.14022",
            title="{ALP-KD}: Attention-Based Layer Projection for Knowledge Distillation",
            authors="Passban, Peyman and Wu, Yimeng and Rezagholizadeh, Mehdi and Liu, Qun",
        ),
        student=Copied(choose="first"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    HardLabels(weight=hard),
                    SoftLabels(temperature=temperature, weight=soft),
                    AttendedLayers(layers=layers, weight=attended),
                ],
                epochs=4,
                lr=5e-5,
            )
        ],
    )
