"""DistilBERT (Sanh et al. 2019) at the task stage: every-other-layer start, soft labels, aligned hidden states."""

from tutelage.objectives.terms import HardLabels, Hidden, SoftLabels
from tutelage.recipe import Recipe, Stage
from tutelage.students.build import Copied


def distilbert(
    soft: float = 5.0,
    hard: float = 2.0,
    cosine: float = 1.0,
    temperature: float = 2.0,
    epochs: int = 3,
    lr: float = 5e-5,
) -> Recipe:
    """The triple loss with the weights of the authors' command, 5 / 2 / 1; the task's labels stand for the masked words."""
    return Recipe(
        method="distilbert",
        title="DistilBERT, task stage",
        paper="Sanh et al., 2019, arXiv:1910.01108",
        student=Copied(choose="spread"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    SoftLabels(temperature=temperature, weight=soft),
                    HardLabels(weight=hard),
                    Hidden(layers="final", loss="cosine", weight=cosine),
                ],
                epochs=epochs,
                lr=lr,
            )
        ],
    )
