"""MiniLM (Wang et al. 2020): attention and relations between values of the last layer, if needed through an assistant."""

from tutelage.objectives.predictions import HardLabels, SoftLabels
from tutelage.objectives.relations import Relations
from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Assistant, Instances, Recipe, Stage
from tutelage.report.references import Paper
from tutelage.students.specs import Fresh


def minilm(layers: int = 6, hidden: int = 384, heads: int = 12) -> Recipe:
    """``KL(A^T || A^S) + KL(VR^T || VR^S)``, mean over heads and tokens, ``A = softmax(Q K^T / sqrt(d_h))`` the attention of the
    last layer and ``VR = softmax(V V^T / sqrt(d_h))``.

    Heads are compared one by one: the student needs as many as the teacher. The general stage is the paper's: raw text, no
    other loss; its numbers are recalled, not checked there. On a task, a stage on relations comes before predictions and labels
    (ours: the paper fine-tunes on labels alone).
    """
    relations: list[AnyTerm] = [Relations(of=("queries-keys", "values"), relation_heads="own")]
    general = Stage(
        name="general",
        data=Instances(packing="packed", length=512),
        objective=relations,
        epochs=40,
        max_steps=400_000,
        lr=4e-4,
        warmup=0.01,
        batch_size=256,
        select="last",
    )
    first = Stage(name="relations", objective=relations, epochs=10, lr=1e-4, select="last")
    last = Stage(name="prediction", objective=[SoftLabels(temperature=2, weight=0.7), HardLabels(weight=0.3)], lr=5e-5)
    return Recipe(
        method="minilm",
        title="MiniLM",
        paper=Paper(
            text="Wang et al., NeurIPS 2020",
            arxiv="2002.10957",
            title="{MiniLM}: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
            authors="Wang, Wenhui and Wei, Furu and Dong, Li and Bao, Hangbo and Yang, Nan and Zhou, Ming",
        ),
        student=Fresh(layers=layers, hidden=hidden, heads=heads, intermediate=4 * hidden),
        stages=[general, first, last],
    )


def minilm_assistant(layers: int = 6, hidden: int = 384, heads: int = 12, depth: int = 12) -> Recipe:
    """MiniLM through a teacher assistant as deep as the teacher (``depth``) and as wide as the student.

    The paper trains one for a student of at most half of the teacher's layers and half of its width.
    """
    assistant = Assistant(student=Fresh(layers=depth, hidden=hidden, heads=heads, intermediate=4 * hidden))
    named = {"method": "minilm_assistant", "title": "MiniLM with a teacher assistant"}
    return minilm(layers, hidden, heads).model_copy(update={**named, "assistants": [assistant]})
