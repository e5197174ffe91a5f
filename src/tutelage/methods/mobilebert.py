"""MobileBERT (Sun et al. 2020): a deep, thin student learns its teacher layer by layer on raw text, then the masked words."""

from tutelage.anatomy import Layers
from tutelage.data.masking import Masking
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.relations import Relations
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh


def mobilebert(layers: int = 24, alpha: float = 0.5) -> Recipe:
    """Progressive knowledge transfer: ``MSE(H_l) + KL(A_l^T || A_l^S)``, a stage for each layer ``l``, which alone is
    trained there, in the first with the embeddings; then the whole student by ``alpha MLM + (1 - alpha) KL``.

    The paper's teacher is a MobileBERT with wide bottlenecks, as deep as the student and as wide between its layers. Steps are the
    authors'; rate and batch are ours, who have 2048 and LAMB. Without the prediction of the next sentence.
    """
    data = Instances(packing="segments", length=512, masking=Masking())
    stages = []
    for number in range(1, layers + 1):
        alone = [number if layer == number else 0 for layer in range(1, layers + 1)]
        attention = Relations(of=("queries-keys",), relation_heads="own", layers=alone)
        stages.append(
            Stage(
                name=f"layer_{number}",
                data=data,
                objective=[Hidden(layers=alone), attention],
                train=Layers(layers=[0, 1] if number == 1 else [number]),
                epochs=40,
                max_steps=240_000 // layers,
                lr=5e-4,
                batch_size=256,
                dropout=False,
                select="last",
            )
        )
    words = Stage(
        name="words",
        data=data,
        objective=[HardLabels(weight=alpha), SoftLabels(temperature=1, weight=round(1 - alpha, 6))],
        epochs=40,
        max_steps=500_000,
        lr=5e-4,
        batch_size=256,
        warmup=0.02,
        select="last",
    )
    return Recipe(
        method="mobilebert",
        title="MobileBERT, progressive knowledge transfer",
        paper=Paper(
            text="Sun et al., ACL 2020",
            arxiv="2004.02984",
            title="{MobileBERT}: a Compact Task-Agnostic {BERT} for Resource-Limited Devices",
            authors="Sun, Zhiqing and Yu, Hongkun and Song, Xiaodan and Liu, Renjie and Yang, Yiming and Zhou, Denny",
        ),
        student=Fresh(family="mobilebert", layers=layers, hidden=512, intermediate=512, heads=4),
        stages=[*stages, words],
    )
