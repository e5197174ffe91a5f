"""Teacher assistants: a chain of runs in which each student teaches the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tutelage import anatomy
from tutelage.errors import TutelageError
from tutelage.recipes.config import RunConfig
from tutelage.run.run import run
from tutelage.students.load import load_config
from tutelage.students.specs import Checkpoint, Copied, Fresh, Pruned


def chain(configs: Sequence[RunConfig], *, quiet: bool = False) -> list[dict[str, Any]]:
    """Teacher assistants (TAKD, Mirzadeh et al., AAAI 2020): each run's student is the teacher of the next.

    Finished runs are not repeated. A stopped run continues.

    Raises:
        TutelageError: if a student would copy a layer that its teacher does not have (before any is trained), and as :func:`run`.
    """
    depth = anatomy.shape_of(load_config(str(configs[0].teacher))).layers
    for config in configs:
        student, last = config.recipe.student, 0
        if isinstance(student, Checkpoint):
            depth = anatomy.shape_of(load_config(student.name)).layers
        elif isinstance(student, Copied | Fresh | Pruned):
            named = (student.layers or depth,) if not isinstance(student.layers, list) else student.layers
            if isinstance(student, Pruned) or (isinstance(student, Copied) and student.source is None):
                last = max(named)
            if last > depth:
                raise TutelageError(
                    f"layer {last} cannot be taken from a teacher of {depth}; name the assistants from large to small"
                )
            depth = len(student.layers) if isinstance(student.layers, list) else named[0]
    return [run(config, resume=True, quiet=quiet) for config in configs]
