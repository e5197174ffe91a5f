"""TinyBERT (Jiao et al. 2020): imitate the layers on raw text, then on the task's augmented texts, then the predictions."""

from typing import Literal

from tutelage.data.augmentation.variants import Augmentation
from tutelage.data.masking import Masking
from tutelage.objectives.attention import AttentionScores
from tutelage.objectives.hidden import Embeddings, Hidden, Pooled
from tutelage.objectives.mapping import Mapping
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh

Ablation = Literal["no_gd", "no_td", "no_da", "no_embd", "no_pred", "no_trm", "no_attn", "no_hidn"]
"""What a row of the paper's tables 2 and 3 leaves out (section 4.4): general distillation, task distillation,
augmentation, the loss of embeddings, of predictions, of the layers, of attention, of hidden states."""

EPOCHS = {"cola": 50, "mnli": 10, "qqp": 10, "qnli": 10}
"""Of the intermediate stage; 20 for the other tasks (section 4.2)."""
VARIANTS = {"cola": 30, "mrpc": 30, "rte": 30, "stsb": 30, "mnli": 10, "qqp": 10}
"""Augmented texts for each text in the authors' code, which has 20 for the other tasks; the paper has 20 for all."""
LENGTHS = {"cola": 64, "sst2": 64, **dict.fromkeys(("mrpc", "stsb", "rte", "wnli", "qnli", "qqp", "mnli"), 128)}
"""Longest input in tokens (section 4.2)."""


def tinybert(
    task: str | None = None,
    layers: int = 4,
    hidden: int = 312,
    intermediate: int = 1200,
    heads: int = 12,
    mapping: Mapping = "origin",
    ablation: Ablation | None = None,
    pooler: bool = False,
) -> Recipe:
    """Embeddings + attention scores + hidden states (eq. 7-9) in two stages, then soft cross-entropy at temperature 1 (eq. 10).

    The stages follow one another and no label enters any loss. All terms have weight 1, and each is divided by the teacher's
    own squares: as published (``--set stages.*.normalize=none``) the attention scores outweigh the hidden states many times over.
    Layers are paired uniformly; those of a student that is copied from the teacher, which the paper does not have, with the layers
    that they were copied from. The projections to the teacher's width are learnt in the general stage and inherited by the next.
    ``task`` brings the paper's numbers for it; the last stage of STS-B and SQuAD is on the original texts. ``ablation`` leaves out
    what a row of the paper's tables does: the labels then stand for what is missing where something must (``no_td`` on augmented
    texts, ``no_pred`` on the original ones). ``pooler`` lets the general stage teach the pooler, which the paper's leaves random.
    """
    task = "".join(filter(str.isalnum, (task or "").lower()))  # in any spelling, as DataConfig takes it
    layer_terms: list[AnyTerm] = []
    if ablation != "no_embd":
        layer_terms.append(Embeddings(normalize="teacher"))
    if ablation not in ("no_hidn", "no_trm"):
        layer_terms.append(Hidden(layers=mapping, normalize="teacher"))
    if ablation not in ("no_attn", "no_trm"):
        layer_terms.append(AttentionScores(layers=mapping, normalize="teacher"))
    texts: Literal["train", "augmented"] = "train" if ablation == "no_da" else "augmented"
    last = texts if task not in ("stsb", "squad", "squad2") and ablation != "no_pred" else "train"
    general = Stage(
        name="general",
        data=Instances(packing="pairs", length=128),
        objective=[*layer_terms, *([Pooled()] if pooler else [])],
        epochs=3,
        lr=1e-4,
        batch_size=256,
        select="last",
    )
    layers_stage = Stage(
        name="intermediate",
        data=texts,
        objective=layer_terms,
        epochs=EPOCHS.get(task, 20),
        lr=5e-5,
        select="last",
    )
    predictions: list[AnyTerm] = [HardLabels()] if ablation in ("no_td", "no_pred") else [SoftLabels(temperature=1)]
    prediction = Stage(name="prediction", data=last, objective=predictions, epochs=3, lr=3e-5)
    stages = [general, layers_stage, prediction]
    if ablation in ("no_gd", "no_td"):
        stages.remove(general if ablation == "no_gd" else layers_stage)
    return Recipe(
        method="tinybert",
        title="TinyBERT"
        + (f", {ablation}" if ablation else "")
        + ("" if mapping == "origin" else f", mapping {mapping}"),
        paper=Paper(
            text="Jiao et al., Findings of EMNLP 2020",
            arxiv="1909.10351",
            title="{TinyBERT}: Distilling {BERT} for Natural Language Understanding",
            authors="Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and Li, Linlin and "
            "Wang, Fang and Liu, Qun",
        ),
        student=Fresh(layers=layers, hidden=hidden, intermediate=intermediate, heads=heads),
        augmentation=Augmentation(variants=20),
        longest=LENGTHS.get(task),
        stages=stages,
    )


def tinybert_reference(task: str | None = None) -> Recipe:
    """The authors' code: padding takes part, one projection for all layers, constant lr first, KL averaged over classes.

    Not as there: the teacher has no dropout, the head no ReLU, and STS-B learns the teacher's score, not the gold one.
    """
    recipe, name = tinybert(task), "".join(filter(str.isalnum, (task or "").lower()))
    general, first, second = recipe.stages
    terms: list[AnyTerm] = [
        Embeddings(project="shared", padding="reference"),
        Hidden(layers="uniform", project="shared", padding="reference"),
        AttentionScores(layers="uniform", padding="reference"),
    ]
    # The code hides one word of each instance even at probability 0.
    one_masked = Instances(packing="pairs", length=128, masking=Masking(probability=0.0, at_least_one=True))
    as_coded = {"objective": terms, "pad_to": 128, "optimizer": "bert_adam"}
    stages = [
        general.model_copy(update={**as_coded, "lr": 5e-5, "data": one_masked}),
        first.model_copy(update={**as_coded, "warmup": 0.0, "decay": "constant", "epochs": 10}),
        second.model_copy(update={**as_coded, "objective": [SoftLabels(reduction="mean")]}),
    ]
    assert isinstance(recipe.augmentation, Augmentation)
    augmentation = recipe.augmentation.model_copy(update={"retries": 0, "variants": VARIANTS.get(name, 20)})
    return recipe.model_copy(
        update={
            "method": "tinybert_reference",
            "title": "TinyBERT, as its code",
            "augmentation": augmentation,
            "longest": 128,
            "stages": stages,
        }
    )
