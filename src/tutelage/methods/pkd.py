"""BERT-PKD (Sun et al. 2019): besides the predictions, imitate the teacher's [CLS] vectors layer by layer."""

from typing import Literal

from tutelage.objectives.hidden import FirstToken
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def pkd(
    alpha: float = 0.5,
    temperature: float = 4.0,
    beta: float = 100 / 768,
    layers: Literal["skip", "last"] = "skip",
    epochs: int = 4,
    lr: float = 5e-5,
) -> Recipe:
    """``(1 - alpha) CE + alpha T^2 KL + beta L_PT``.

    ``L_PT`` is the squared distance of normalised [CLS] vectors, mean over examples and pairs of layers; the student's
    last layer has no pair. The authors' code averages over the hidden size too, so its beta is larger by that factor:
    100 for a hidden size of 768 is 0.13 here. ``alpha`` and ``temperature`` are ours: the authors choose them for each task, among
    0.2, 0.5 and 0.7, and 5, 10 and 20.
    """
    return Recipe(
        method="pkd",
        title="BERT-PKD",
        paper=Paper(
            text="Sun et al., EMNLP 2019",
            arxiv="1908.09355",
            title="Patient Knowledge Distillation for {BERT} Model Compression",
            authors="Sun, Siqi and Cheng, Yu and Gan, Zhe and Liu, Jingjing",
        ),
        student=Copied(choose="first"),
        stages=[
            Stage(
                name="distill",
                objective=[
                    HardLabels(weight=round(1 - alpha, 6)),
                    SoftLabels(temperature=temperature, weight=alpha),
                    FirstToken(layers=layers, weight=beta),
                ],
                epochs=epochs,
                lr=lr,
            )
        ],
    )


def pkd_reference(alpha: float = 0.5, temperature: float = 10.0, beta: float = 100.0) -> Recipe:
    """The authors' code: KL averaged over classes, patient loss averaged over the hidden size, Adam without bias correction.

    Its start is the pretrained model's first layers: ``--student layers=6,choose=first,source=bert-base-uncased``; without a source
    they are the teacher's.
    """
    recipe = pkd(alpha, temperature, beta)
    stage = recipe.stages[0].model_copy(
        update={
            "objective": [
                HardLabels(weight=round(1 - alpha, 6)),
                SoftLabels(temperature=temperature, weight=alpha, reduction="mean"),
                FirstToken(weight=beta, reduction="mean"),
            ],
            "optimizer": "bert_adam",
        }
    )
    return recipe.model_copy(update={"method": "pkd_reference", "title": "BERT-PKD, as its code", "stages": [stage]})
