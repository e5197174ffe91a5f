"""The default method: predictions, labels and last hidden states, from the best of several starts.

The start and the rate rest on measurements (docs/results/defaults.md), the term on hidden states on those of another method on
STS-B (docs/results/minimum_knowledge.md): it is not shown to beat knowledge distillation (docs/results/methods.md).
"""

from typing import Literal

from tutelage.mechanisms.quantization.settings import Quantization
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.students.specs import Copied


def compact(
    alpha: float = 0.7, temperature: float = 2.0, hidden: float = 1.0, epochs: int | Literal["auto"] = "auto"
) -> Recipe:
    """``alpha T^2 KL(p_t || p_s) + (1 - alpha) CE(z_s, y) + hidden ||h_s - h_t||^2 / ||h_t||^2`` of the last layers' tokens.

    The start is the best of several (:mod:`tutelage.run.trials`), for it decides more than any loss. Where the models or the kind
    of task allow no comparison token by token, the term on hidden states is left out. Epochs and rate follow from the data and
    the student's width (:mod:`tutelage.run.budget`).
    """
    return Recipe(
        method="compact",
        title="Compact distillation",
        paper="this package",
        student=Copied(),
        stages=[
            Stage(
                name="distill",
                objective=[
                    SoftLabels(temperature=temperature, weight=alpha),
                    HardLabels(weight=round(1 - alpha, 6)),
                    Hidden(layers="final", normalize="teacher", weight=hidden, optional=True),
                ],
                epochs=epochs,
                lr="auto",
            )
        ],
    )


def compact_int8(begin: float = 0.5) -> Recipe:
    """``compact``, whose second half computes with the rounding of int8: for a student that is served in int8.

    Args:
        begin: Share of the steps before the first that is rounded.
    """
    recipe = compact()
    last = recipe.stages[-1].model_copy(update={"mechanisms": [Quantization(begin=begin)]})
    return recipe.model_copy(
        update={
            "method": "compact_int8",
            "title": "Compact distillation for int8",
            "stages": [*recipe.stages[:-1], last],
        }
    )
