"""Logit regression (Ba and Caruana 2014; the loss of Distilled BiLSTM, Tang et al. 2019): no labels, no temperature."""

from tutelage.methods.bilstm import TANG
from tutelage.objectives.predictions import LogitsMSE
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def logits_mse(epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """``||z_s - z_t||^2``, mean over classes and examples."""
    return Recipe(
        method="logits_mse",
        title="Logit regression",
        paper=[
            Paper(
                text="Ba and Caruana, NeurIPS 2014",
                arxiv="1312.6184",
                title="Do Deep Nets Really Need to be Deep?",
                authors="Ba, Lei Jimmy and Caruana, Rich",
            ),
            TANG,
        ],
        student=Copied(),
        stages=[Stage(name="distill", objective=[LogitsMSE()], epochs=epochs, lr=lr)],
    )
