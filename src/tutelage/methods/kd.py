"""Knowledge distillation (Hinton et al. 2015): the teacher's softened predictions beside the labels."""

from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied

HINTON = Paper(
    text="Hinton et al., 2015",
    arxiv="1503.02531",
    title="Distilling the Knowledge in a Neural Network",
    authors="Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
)


def kd(alpha: float = 0.7, temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """``alpha T^2 KL(p_t || p_s) + (1 - alpha) CE(z_s, y)``; the hard term is always at temperature 1."""
    return Recipe(
        method="kd",
        title="Knowledge distillation",
        paper=HINTON,
        student=Copied(),
        stages=[
            Stage(
                name="distill",
                objective=[SoftLabels(temperature=temperature, weight=alpha), HardLabels(weight=round(1 - alpha, 6))],
                epochs=epochs,
                lr=lr,
            )
        ],
    )
