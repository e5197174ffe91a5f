"""RAIL-KD (Haidar et al. 2022): the student's intermediate layers imitate teacher layers that are drawn anew each epoch."""

from tutelage.objectives.mapped import RandomLayers
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def rail_kd(concatenated: bool = True, width: int | None = None, temperature: float = 10.0, epochs: int = 10) -> Recipe:
    """``1/3 CE + 1/3 T^2 KL + 1/3 L_RAIL``.

    ``L_RAIL`` is the squared distance of normalised mean vectors of the tokens, of concatenated layers or layer by layer.
    ``width`` maps both sides to this width, as published (128).
    """
    third = round(1 / 3, 6)
    return Recipe(
        method="rail_kd",
        title="RAIL-KD",
        paper=Paper(
            text="Haidar et al., Findings of NAACL 2022",
            arxiv="2109.10164",
            title="{RAIL-KD}: {RA}ndom Intermediate Layer Mapping for Knowledge Distillation",
            authors="Haidar, Md Akmal and Anchuri, Nithin and Rezagholizadeh, Mehdi and Ghaddar, Abbas and Langlais, "
            "Philippe and Poupart, Pascal",
        ),
        student=Copied(choose="first"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    HardLabels(weight=third),
                    SoftLabels(temperature=temperature, weight=third),
                    RandomLayers(concatenated=concatenated, width=width, weight=third),
                ],
                epochs=epochs,
                lr=5e-5,
            )
        ],
    )
