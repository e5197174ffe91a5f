"""The commands that bring a model to those who use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.api.common import FilePath, Plugin, place, read_plugins, several

if TYPE_CHECKING:
    from tutelage.run.inputs import Model
    from tutelage.run.packed import Packed
    from tutelage.run.push import Push
    from tutelage.serving.server import Server


def serve(
    student: Model,
    *,
    teacher: Model | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    plugins: Sequence[Plugin] = (),
) -> Server:
    """Open a local page on which a model, or a student beside its teacher, answers typed texts.

    In Python the page is served by threads until it is closed: ``with tutelage.serve("runs/a/student") as page: page.wait()``.

    Args:
        student: Model: a folder, a hub id, a folder of `tutelage export`, or one of its files: served/model.onnx.
        teacher: A second model of the same task, shown beside the first.
        host: Address to listen on. Only this machine can reach the default.
        port: Port to listen on; 0 for a free one.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.

    Returns:
        The page; ``address`` is where it is, ``close()`` ends it.

    Raises:
        TutelageError: when a model cannot be loaded, its answers cannot be shown, or the address is taken.

    Example: tutelage serve runs/a/student --teacher teacher/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.serving import serve as served

    read_plugins(plugins)
    with Inputs() as inputs:
        second = None if teacher is None else inputs.model(teacher, "teacher")
        return served(inputs.model(student, "student"), second, host=host, port=port)


def pack(model: Model, out: FilePath) -> Packed:
    """Write a model whose matrices have few values into a small folder, in a Huffman code.

    ``--method deep_compression`` trains such a student. The new folder has the tokenizer and the configuration, too, and ``unpack``
    makes a plain checkpoint of it, equal to the bit. Weights of other models are written as they are.

    Args:
        model: Model: a folder of a run, or of its student.
        out: Folder to write; new or empty.

    Returns:
        The bytes of the plain and of the packed weights.

    Raises:
        TutelageError: when the folder holds no weights, or ``out`` cannot be written.

    Example: tutelage pack runs/a --out small/
    """
    from tutelage.run.inputs import Inputs
    from tutelage.run.packed import pack as packed

    with Inputs() as inputs:
        return packed(Path(inputs.model(model, "model")), Path(place(out)))


def unpack(folder: FilePath, out: FilePath) -> Packed:
    """Make a plain checkpoint of a folder that tutelage pack has written.

    Args:
        folder: The packed folder.
        out: Folder to write; new or empty.

    Returns:
        The bytes of the plain and of the packed weights.

    Raises:
        TutelageError: when the folder holds no packed weights or they are damaged, or ``out`` cannot be written.

    Example: tutelage unpack small/ --out plain/
    """
    from tutelage.run.packed import unpack as plain

    return plain(Path(place(folder)), Path(place(out)))


def push(
    folder: FilePath,
    repo: str,
    *,
    language: Sequence[str] = (),
    license: str | None = None,
    dataset: Sequence[str] = (),
    example: Sequence[str] = (),
    public: bool = False,
    with_report: bool = False,
    plugins: Sequence[Plugin] = (),
    yes: bool = False,
) -> Push:
    """Upload a student or an exported folder to the Hub; without --yes only show what would be uploaded.

    Weights, tokenizer, configuration, ``serve.py`` and the model card are uploaded, and nothing else that lies in the folder. The
    card gets what is given here, and a table of the exported files where ``export.json`` lies beside them.

    Args:
        folder: Folder of a run, a student, or of `tutelage export`.
        repo: Repository on the Hub: OWNER/NAME.
        language: Language of the texts for the card, such as en.
        license: Licence for the card, such as apache-2.0.
        dataset: Data set on the Hub for the card.
        example: Example text for the model's widget, which everybody can read; a tab separates two texts.
        public: Make a new repository public. Default: private.
        with_report: Upload the reports too; they hold texts of the data and names of folders.
        plugins: Python file with kinds of task, terms, mechanisms, students or methods of your own.
        yes: Really upload.

    Returns:
        What is uploaded, or would be: files with sizes, what is left out, and the card.

    Raises:
        TutelageError: when the folder holds no model, a value is no identifier of the Hub, or the Hub refuses.

    Example: tutelage push served/ me/intents-small --language en --license apache-2.0
    """
    from tutelage.run.push import push as pushed

    read_plugins(plugins)
    return pushed(
        Path(place(folder)),
        repo,
        language=several(language),
        license=license,
        datasets=several(dataset),
        examples=several(example),
        public=public,
        with_report=with_report,
        yes=yes,
    )
