"""MiniLMv2 (Wang et al. 2021): relations between queries, between keys and between values of one layer."""

from tutelage.objectives.mapping import Mapping
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.relations import Relations
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh


def minilmv2(layers: int = 6, hidden: int = 384, heads: int = 12, teacher_layer: int | None = None) -> Recipe:
    """``sum_i KL(R_i^T || R_i^S)`` over query-query, key-key and value-value relations of the last layer.

    The general stage is the paper's: raw text, 48 relation heads where the widths allow, no other loss. ``teacher_layer`` is
    the teacher's last layer by default; the paper takes layer 21 of 24 for a large teacher. On a task, a stage on relations
    comes before predictions and labels (ours: the paper fine-tunes on labels alone).
    """
    mapping: Mapping = "final" if teacher_layer is None else [*[0] * (layers - 1), teacher_layer]
    relations: list[AnyTerm] = [Relations(layers=mapping)]
    general = Stage(
        name="general",
        data=Instances(packing="packed", length=512),
        objective=relations,
        epochs=40,
        max_steps=400_000,
        lr=6e-4,
        eps=1e-6,
        warmup=0.01,
        batch_size=256,
        select="last",
    )
    first = Stage(name="relations", objective=relations, epochs=10, lr=1e-4, select="last")
    last = Stage(name="prediction", objective=[SoftLabels(temperature=2, weight=0.7), HardLabels(weight=0.3)], lr=5e-5)
    return Recipe(
        method="minilmv2",
        title="MiniLMv2",
        paper=Paper(
            text="Wang et al., Findings of ACL 2021",
            arxiv="2012.15828",
            title="{MiniLMv2}: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
            authors="Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu",
        ),
        student=Fresh(layers=layers, hidden=hidden, heads=heads, intermediate=4 * hidden),
        stages=[general, first, last],
    )
