"""How long a stage trains, and at which rate, where its recipe says ``auto``: rules of thumb, not yet tuned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tutelage.objectives.predictions import HardLabels
from tutelage.recipes.recipe import Recipe, Stage

STEPS = 1200
"""Optimiser steps of all open stages of a run together, about."""
FEWEST, MOST = 3, 20
"""Epochs of an open stage, at least and at most."""
PATIENCE = 4
"""Epochs in a row below the best score after which an open stage ends."""
BASE = (768, 3e-5)
"""Width of BERT-base, and the middle of the rates at which it is fine-tuned (Devlin et al. 2019, appendix A.3)."""
RANDOM = 4.0
"""Factor of the rate for a network that starts with random weights."""
LARGEST = 1e-3


def peak_rate(hidden: int, *, random: bool) -> float:
    """The peak learning rate for a student of this width: ``3e-5 (768 / hidden)^2``, more for random weights."""
    width, rate = BASE
    return float(f"{min(rate * (width / hidden) ** 2 * (RANDOM if random else 1.0), LARGEST):.1e}")


def settled(recipe: Recipe, examples: Callable[[Stage], int], hidden: int) -> Recipe:
    """The recipe with numbers in place of ``auto``.

    Args:
        examples: Training examples of a stage.
        hidden: Width of the student.
    """
    still_open = [stage for stage in recipe.stages if stage.epochs == "auto"]

    def with_numbers(stage: Stage) -> Stage:
        update: dict[str, Any] = {}
        if stage.lr == "auto":
            update["lr"] = peak_rate(hidden, random=recipe.student.random_start)
        if stage.epochs == "auto":
            steps = max(-(-examples(stage) // stage.batch_size), 1)
            update["epochs"] = min(max(round(STEPS / len(still_open) / steps), FEWEST), MOST)
            prunes = any(mechanism.keeps_last for mechanism in stage.mechanisms)
            if stage.select == "best" and stage.patience is None and not prunes:
                update["patience"] = PATIENCE
        return stage.model_copy(update=update)

    return recipe.model_copy(update={"stages": [with_numbers(stage) for stage in recipe.stages]})


def twin_stage(last: Stage, steps: int) -> Stage:
    """Fine-tuning on the labels for ``steps`` steps, as many as the student was distilled for; trials choose the rate."""
    # The twin is kept as the student is: a student that is whole only at its end keeps the last epoch.
    keeps_last = any(mechanism.keeps_last for mechanism in last.mechanisms)
    return last.model_copy(
        update={
            "name": "labels",
            "objective": [HardLabels()],
            "epochs": 10**6,
            "max_steps": steps,
            "select": "last" if keeps_last else "best",
            "mechanisms": [],
            "patience": None,
            "pad_to": None,
            "warmup": 0.1,
            "decay": "linear",
        }
    )
