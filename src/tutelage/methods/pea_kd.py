"""Pea-KD (Cho and Kang 2022): shared layers that run twice, a first stage on PTP labels, then patient distillation."""

from typing import Literal

from tutelage.mechanisms.ptp.settings import PTPLabels
from tutelage.objectives.hidden import FirstToken
from tutelage.objectives.predictions import PTP, HardLabels, SoftLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Copied, Shared, Student

Ablation = Literal["no_sps", "no_shuffle", "no_ptp", "no_pkd", "no_kd"]
"""What is left out: the second run of the layers, the exchange of query and key in it, the stage on PTP labels, the hidden
states, or all of the teacher in the last stage."""


def pea_kd(
    stored: int = 3,
    ablation: tuple[Ablation, ...] = (),
    alpha: float = 0.7,
    temperature: float = 10.0,
    beta: float = 100 / 768,
) -> Recipe:
    """``(1 - alpha) CE + alpha T^2 KL + beta L_PT`` after a stage on PTP labels (is the teacher correct, is it confident).

    ``L_PT`` is that of BERT-PKD, at the layers where both models end the same share of their depth. The paper's start is the
    pretrained model's first layers: ``--student stored=3,source=bert-base-uncased``; without a source they are the
    teacher's. Several parts may be left out at once: with ``no_sps`` and ``no_ptp`` it is BERT-PKD. The epochs of a stage
    that is left out go to no other. The authors' code averages ``L_PT`` over the hidden size: their beta of 100 is 0.13 here.

    AdamW is ours (``--set stages.*.optimizer=bert_adam`` is theirs), and so is the last epoch on PTP labels (they keep the one with
    the best score on dev) and the head of the last stage, which begins as the teacher's.
    """
    student: Student = Shared(stored=stored, order="paired" if "no_shuffle" in ablation else "shuffled")
    if "no_sps" in ablation:
        student = Copied(layers=stored, choose="first")
    objective: list[AnyTerm] = [
        HardLabels(weight=round(1 - alpha, 6)),
        SoftLabels(temperature=temperature, weight=alpha),
        FirstToken(layers="gcd", weight=beta),
    ]
    if "no_kd" in ablation:
        objective = [HardLabels()]
    elif "no_pkd" in ablation:
        objective.pop()
    ptp = Stage(name="ptp", objective=[PTP()], mechanisms=[PTPLabels()], epochs=4, lr=2e-5, select="last")
    distill = Stage(name="distill", objective=objective, epochs=7, lr=2e-5)
    return Recipe(
        method="pea_kd",
        title=", ".join(["Pea-KD", *ablation]),
        paper=Paper(
            text="Cho and Kang, PLOS ONE 2022",
            arxiv="2009.14822",
            title="{Pea-KD}: Parameter-efficient and Accurate Knowledge Distillation on {BERT}",
            authors="Cho, Ikhyun and Kang, U",
        ),
        student=student,
        stages=[distill] if "no_ptp" in ablation else [ptp, distill],
    )
