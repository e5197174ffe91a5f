"""BERT-EMD (Li et al. 2020): every student layer learns from every teacher layer, by the transport of least cost."""

from tutelage.data.augmentation.variants import Augmentation
from tutelage.objectives.hidden import Embeddings
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.transport import Transport
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh


def bert_emd(
    layers: int = 4,
    hidden: int = 312,
    intermediate: int = 1200,
    heads: int = 12,
    beta: float = 0.01,
    alpha: float = 1.0,
    temperature: float = 1.0,
) -> Recipe:
    """``beta (L_hidden + L_attention + L_embeddings) + alpha T^2 KL + (1 - alpha) CE``.

    The first two are earth mover's distances between all layers of both models. With ``alpha`` 1 no label is read: so ran the
    authors' code, which never looks up another value.
    """
    return Recipe(
        method="bert_emd",
        title="BERT-EMD",
        paper=Paper(
            text="Li et al., EMNLP 2020",
            arxiv="2010.06133",
            title="{BERT-EMD}: Many-to-Many Layer Mapping for {BERT} Compression with Earth Mover's Distance",
            authors="Li, Jianquan and Liu, Xiaokang and Zhao, Honghong and Xu, Ruifeng and Yang, Min and Jin, Yaohong",
        ),
        student=Fresh(layers=layers, hidden=hidden, intermediate=intermediate, heads=heads),
        augmentation=Augmentation(variants=20),
        stages=[
            Stage(
                name="distill",
                data="augmented",
                objective=[
                    Transport(weight=beta),
                    Embeddings(weight=beta),
                    SoftLabels(temperature=temperature, weight=alpha),
                    HardLabels(weight=round(1 - alpha, 6)),
                ],
                epochs=5,
                lr=3e-5,
            )
        ],
    )
