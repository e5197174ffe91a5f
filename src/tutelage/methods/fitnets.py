"""FitNets (Romero et al. 2015): the student's lower half learns the teacher's middle layer, then the whole learns predictions."""

from tutelage.anatomy import Layers
from tutelage.objectives.hidden import Hint
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh


def fitnets(layers: int = 6, hidden: int = 256, heads: int = 4, temperature: float = 2.0, alpha: float = 0.7) -> Recipe:
    """``1/2 ||u_h - r(v_g)||^2`` for the embeddings and the layers up to the guided one, then ``alpha T^2 KL + (1 - alpha) CE``.

    A thin, deep new network, as in the paper; its regressor is convolutional, that of tokens is linear. Weight and temperature of
    the predictions are ours: the paper has a temperature of 3, and a weight that falls from 4 to 1.
    """
    return Recipe(
        method="fitnets",
        title="FitNets",
        paper=Paper(
            text="Romero et al., ICLR 2015",
            arxiv="1412.6550",
            title="{FitNets}: Hints for Thin Deep Nets",
            authors="Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and Gatta, "
            "Carlo and Bengio, Yoshua",
        ),
        student=Fresh(layers=layers, hidden=hidden, heads=heads, intermediate=4 * hidden),
        stages=[
            Stage(
                name="hint", objective=[Hint()], train=Layers(layers="lower_half"), epochs=10, lr=1e-4, select="last"
            ),
            Stage(
                name="distill",
                objective=[SoftLabels(temperature=temperature, weight=alpha), HardLabels(weight=round(1 - alpha, 6))],
                epochs=5,
                lr=1e-4,
            ),
        ],
    )
