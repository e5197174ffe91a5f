"""A student as a checkpoint that needs nothing of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from tutelage import anatomy
from tutelage.anatomy.checkpoints import resolve
from tutelage.artifacts import free_place, new_folder
from tutelage.data.tokenizers import load_tokenizer
from tutelage.evaluation import speed
from tutelage.students.load import head_in, load_model
from tutelage.students.sharing import expanded


def export(model: str, folder: Path) -> dict[str, Any]:
    """See :func:`tutelage.api.export`."""
    path, place = resolve(model), free_place(folder)
    transformers.utils.logging.disable_progress_bar()
    stored = load_model(path, head_in(path))[0]
    plain = expanded(stored)
    with new_folder(place) as partial:
        plain.save_pretrained(partial)
        load_tokenizer(path).save_pretrained(partial)
    shape = anatomy.shape_of(plain.config)
    return {
        "model": model,
        "out": str(folder),
        "type": shape.family,
        "layers": shape.layers,
        "stored_layers": anatomy.shape_of(stored.config).stored,
        "parameters": speed.count_parameters(plain),
        "stored_parameters": speed.count_parameters(stored),
        "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }
