"""The commands that bring a model to those who use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.run.inputs import Model
    from tutelage.serving.server import Server


def serve(student: Model, *, teacher: Model | None = None, host: str = "127.0.0.1", port: int = 0) -> Server:
    """Open a local page on which a model, or a student beside its teacher, answers typed texts.

    In Python the page is served by threads until it is closed: ``with tutelage.serve("runs/a/student") as page: page.wait()``.

    Args:
        student: Model: a folder, a hub id, a folder of `tutelage export`, or one of its files: served/model.onnx.
        teacher: A second model of the same task, shown beside the first.
        host: Address to listen on. Only this machine can reach the default.
        port: Port to listen on; 0 for a free one.

    Returns:
        The page; ``address`` is where it is, ``close()`` ends it.

    Raises:
        TutelageError: when a model cannot be loaded, its answers cannot be shown, or the address is taken.

    Example: tutelage serve runs/a/student --teacher teacher/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.serving import serve as served

    with Inputs() as inputs:
        second = None if teacher is None else inputs.model(teacher, "teacher")
        return served(inputs.model(student, "student"), second, host=host, port=port)
