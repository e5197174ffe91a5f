"""Logit regression (Ba and Caruana 2014; the loss of Distilled BiLSTM, Tang et al. 2019): no labels, no temperature."""

from tutelage.objectives.predictions import LogitsMSE
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.students.specs import Copied


def logits_mse(epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """``||z_s - z_t||^2``, mean over classes and examples."""
    return Recipe(
        method="logits_mse",
        title="Logit regression",
        paper="Ba and Caruana, NeurIPS 2014, arXiv:1312.6184; Tang et al., 2019, arXiv:1903.12136",
        student=Copied(),
        stages=[Stage(name="distill", objective=[LogitsMSE()], epochs=epochs, lr=lr)],
    )
