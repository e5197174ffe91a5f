"""Similarity-preserving distillation: predictions, and how alike the texts of a step are by them."""

from tutelage.objectives.predictions import HardLabels, SimilarityMatrix, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def similarity(temperature: float = 1.0, weight: float = 1.0, labels: float = 0.5) -> Recipe:
    """``soft + weight * mean_{i != j} (cos(s_i, s_j) - cos(t_i, t_j))^2 + labels * hard``, over the texts of a step.

    The paper compares the activations of a middle layer with the labels' loss alone; here the outputs are compared (ours),
    which for sentence encoders are the vectors that are used.
    """
    return Recipe(
        method="similarity",
        title="Similarity-preserving KD",
        paper=Paper(
            text="after Tung and Mori, ICCV 2019",
            arxiv="1907.09682",
            title="Similarity-Preserving Knowledge Distillation",
            authors="Tung, Frederick and Mori, Greg",
        ),
        student=Copied(),
        stages=[
            Stage(
                name="distill",
                objective=[
                    SoftLabels(temperature=temperature),
                    SimilarityMatrix(weight=weight),
                    HardLabels(weight=labels),
                ],
            )
        ],
    )
