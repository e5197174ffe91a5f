"""What each method uses, computed from its recipe."""

from __future__ import annotations

from typing import Any

from tutelage.objectives.terms import AnyTerm
from tutelage.recipes.recipe import Recipe

KNOWLEDGE_COLUMNS = {
    "embeddings": ("embeddings",),
    "attention": ("attention_scores",),
    "hidden": ("hidden", "first_token", "hidden_knowledge", "pooled"),
    "predictions": ("soft_labels", "logits_mse"),
    "labels": ("hard_labels", "verdict"),
}
"""What a stage may learn from, and the terms that are about it."""


def method_row(recipe: Recipe) -> dict[str, Any]:
    """What a recipe uses, for the table of methods: computed from the recipe, never typed.

    Keys: ``method``, ``init``, and for each stage its ``data`` and the knowledge (``embeddings``, ``attention``,
    ``hidden``, ``predictions``, ``labels``) with the loss that compares it.
    """
    student = recipe.student
    init = {"fresh": "random"}.get(student.init, student.init)
    if student.init == "copied" and isinstance(student.layers, int):
        init += f", {student.choose}"
    stages = []
    for stage in recipe.stages:
        row = {"stage": stage.name, "data": stage.data if isinstance(stage.data, str) else "corpus"}
        for column, kinds in KNOWLEDGE_COLUMNS.items():
            row[column] = ", ".join(_words(term) for term in stage.objective if term.kind in kinds and term.weight > 0)
        stages.append(row)
    return {"method": recipe.method, "title": recipe.title, "paper": recipe.paper, "init": init, "stages": stages}


def _words(term: AnyTerm) -> str:
    if term.kind == "hard_labels":
        return "CE"
    if term.kind == "verdict":
        return "CE of the teacher's verdicts"
    if term.kind == "soft_labels":
        return f"KL, T={term.temperature:g}"
    if term.kind == "first_token":
        return f"MSE of [CLS], {term.layers}"
    if term.kind == "hidden":
        return f"{'cosine' if term.loss == 'cosine' else 'MSE'}, {term.layers}"
    if term.kind == "hidden_knowledge":
        return f"MSE, {term.keep}, {term.neurons_by}"
    if term.kind == "pooled":
        return "MSE of pooled"
    if term.kind == "attention_scores":
        return f"MSE of scores, {term.layers}"
    return "MSE"
