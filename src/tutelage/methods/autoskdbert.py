"""AutoSKDBERT (OpenReview csARsNPKgVi) and what it is measured against: one student, a team of teachers."""

from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.methods.kd import HINTON
from tutelage.objectives.hidden import Hidden
from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied


def autoskdbert(
    updates: int = 1000, alpha: float = 0.7, temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5
) -> Recipe:
    """Which teachers help (``search``), those that do not dropped; how much (``refine``); then a student of that team.

    Each stage begins with a new student and draws one teacher a step. The first two take ``updates`` steps (a hundred for
    each teacher, or more) without the examples by which they learn the distribution, and half of their loss is the labels':
    without it bad teachers can keep the student from telling good ones. The outline is the paper's, all numbers are ours, and
    so is what keeps a student that is too sure of itself from rewarding whoever contradicts it (``unseen``, ``calibrated``,
    ``settled``).
    """
    found, learning = Team(weights="found"), Learning(unseen=True, calibrated=True, settled=0.5)
    searching: list[AnyTerm] = [SoftLabels(temperature=temperature, weight=0.5), HardLabels(weight=0.5)]
    search = Stage(
        name="search",
        objective=searching,
        mechanisms=[Team(learning=learning)],
        epochs=updates,
        max_steps=updates,
        lr=lr,
        select="last",
    )
    refine = search.model_copy(
        update={
            "name": "refine",
            "mechanisms": [Team(weights="found", learning=learning.model_copy(update={"keep": None}))],
            "fresh": True,
        }
    )
    return Recipe(
        method="autoskdbert",
        title="AutoSKDBERT",
        paper="AutoSKDBERT, OpenReview csARsNPKgVi (outline; the estimator is ours)",
        student=Copied(),
        stages=[search, refine, _distill(found, alpha, temperature, epochs, lr)],
    )


def skdbert(
    team: Team | None = None, alpha: float = 0.7, temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5
) -> Recipe:
    """One teacher a step, drawn from a distribution that is given (``team.weights``): uniform, by rank, or numbers."""
    return Recipe(
        method="skdbert",
        title="SKDBERT",
        paper=Paper(
            text="SKDBERT, AAAI 2023",
            arxiv="2211.14466",
            title="{SKDBERT}: Compressing {BERT} via Stochastic Knowledge Distillation",
            authors="Ding, Zixiang and Jiang, Guoqing and Zhang, Shuai and Guo, Lin and Lin, Wei",
        ),
        student=Copied(),
        stages=[_distill(team or Team(), alpha, temperature, epochs, lr)],
    )


def ensemble(alpha: float = 0.7, temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """The mean of all teachers' softened probabilities (``team.average=logits``: of their logits, as TextBrewer)."""
    return skdbert(Team(combine="average"), alpha, temperature, epochs, lr).model_copy(
        update={
            "method": "ensemble",
            "title": "Distillation from an ensemble",
            "paper": HINTON,
        }
    )


def mt_bert(temperature: float = 2.0, epochs: int = 3, lr: float = 5e-5) -> Recipe:
    """``sum_i sum_j MSE(h_j, W_ij h_i,map(j)) + sum_i KL_i / (1 + CE_i) + CE``: each teacher ``i`` teaches each layer ``j`` of the
    student, through a map ``W_ij`` that is learnt, and its predictions count less where it is wrong.

    Layers of teachers that read other tokens than the student are not compared. ``tutelage team train --shared-head`` makes the
    paper's teams, fine-tuned together under one head.
    """
    stage = _distill(Team(combine="discounted"), 0.5, temperature, epochs, lr)
    objective: list[AnyTerm] = [
        Hidden(layers="uniform", project="per_layer", onto="student", optional=True),
        SoftLabels(temperature=temperature, scale=False),
        HardLabels(),
    ]
    return Recipe(
        method="mt_bert",
        title="MT-BERT",
        paper=Paper(
            text="Wu et al., 2021",
            arxiv="2106.01023",
            title="One Teacher is Enough? {P}re-trained Language Model Distillation from Multiple Teachers",
            authors="Wu, Chuhan and Wu, Fangzhao and Huang, Yongfeng",
        ),
        student=Copied(),
        stages=[stage.model_copy(update={"objective": objective})],
    )


def _distill(team: Team, alpha: float, temperature: float, epochs: int, lr: float) -> Stage:
    return Stage(
        name="distill",
        objective=[SoftLabels(temperature=temperature, weight=alpha), HardLabels(weight=round(1 - alpha, 6))],
        mechanisms=[team],
        fresh=True,
        epochs=epochs,
        lr=lr,
    )
