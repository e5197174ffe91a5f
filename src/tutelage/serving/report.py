"""``export.json`` as types: what was written, and how it compares with the model that it comes from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tutelage.errors import TutelageError
from tutelage.report.quality import Difference
from tutelage.serving.timing import Latency

REPORT = "export.json"
"""Name of the file in an exported folder."""

CLOSE = 1e-4
"""A float32 file whose outputs differ by more from those of its model is not the same function."""


class _ExportPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Side(_ExportPart):
    """The model itself, or a file that was made of it."""

    name: str
    """``pytorch``; ``onnx``, ``int8`` or ``checkpoint``."""
    file: str
    """The file; of the model itself its name, without the folders above it."""
    bytes: int
    """Size of the weights on disk."""
    exact: bool
    """Whether its outputs must be the model's but for rounding in float32."""
    largest_difference: float | None = None
    """Of any output from the model's."""
    agreement: float | None = None
    """Share of equal answers; of vectors, the mean cosine. Null for numbers and spans."""
    scores: dict[str, float] | None = None
    """The task's metrics, the first of which decides. Null where the texts have no labels."""
    change: Difference | None = None
    """Of the first metric, from the model that the file comes from."""
    tokens_agree: float | None = None
    """Share of the texts that ``serve.py`` turns into the same tokens."""
    latency: list[Latency]


class ExportReport(_ExportPart):
    """What ``tutelage export`` wrote."""

    version: Literal[1] = 1
    tutelage: str
    model: str
    """What was exported: the absolute path of a folder, by which ``tutelage gate`` finds the run, or a hub id."""
    weights: dict[str, str] = {}
    """SHA-256 of each file of weights in that folder."""
    part: str | None = None
    """The sub-network that was cut out of the model, in words. Null for the whole."""
    out: str
    """The folder."""
    activations: Literal["dynamic", "static"] = "dynamic"
    """How the activations of the int8 file are quantised."""
    table_bits: int = 8
    """Bits of the numbers of its largest embedding table."""
    weight_bits: int = 8
    """Bits of the weights of its matrix products."""
    type: str
    """The model's type, as in its configuration."""
    kind: str
    """The kind of task."""
    labels: list[str]
    temperature: float
    opset: int | None
    """Version of ONNX's operators; null for a checkpoint."""
    layers: int
    parameters: int
    texts: int
    """Texts on which the files were checked."""
    pairs: bool = False
    """Whether these are pairs of texts."""
    source: str
    """Where these come from."""
    metric: str | None
    """The metric that decides; null where the texts have no labels."""
    sides: list[Side]
    """The model itself, then each file."""
    notes: list[str]
    """On how the files were checked."""
    flags: list[str]
    """What is wrong with a file: it differs, scores worse or is slower than what it comes from. Empty for a good export."""
    environment: dict[str, str]

    def command(self, script: str = "serve.py") -> str:
        """A command for a POSIX shell by which ``script``, quoted for it, answers a text."""
        if self.pairs:  # two texts have a tab between them, which only some shells can quote
            texts = '"A question or first text." "Its context or second text."'
            return rf"printf '%s\t%s\n' {texts} | python {script}"
        return f'python {script} "A text."'

    def __fspath__(self) -> str:
        """The folder: the result stands for it."""
        return self.out


def load_export(file: Path) -> ExportReport:
    """The report of an export.

    Raises:
        TutelageError: the file cannot be read, or is none.
    """
    try:
        return ExportReport.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise TutelageError(f"{str(file)!r} is not a report of tutelage export ({reason}); repeat the export") from None


def flags_of(sides: list[Side]) -> list[str]:
    """What is wrong with the files, in plain words. The first side is the model; each side comes from the one before it."""
    found = []
    model = sides[0]
    for before, side in pairwise(sides):
        if side.exact and (side.largest_difference or 0) > CLOSE:
            found.append(
                f"{side.file} is not the same function as the model: outputs differ by up to {side.largest_difference:.2g} "
                f"(float32 files may differ by {CLOSE:g})"
            )
        if side.change is not None and side.change.sign < 0:
            interval = " to ".join(f"{100 * end:+.1f}" for end in side.change.ends or ())
            found.append(
                f"{side.file} scores {-100 * side.change.value:.1f} points lower than the model (95 % interval {interval})"
            )
        if side.tokens_agree is not None and side.tokens_agree < 1:
            found.append(
                f"serve.py reads {1 - side.tokens_agree:.1%} of the texts as other tokens than the model was checked on"
            )
        for ours, theirs in zip(side.latency, before.latency, strict=True):
            if ours.p50_ms - theirs.p50_ms > max(ours.spread_ms, theirs.spread_ms):
                whose = "the model" if before is model else before.file
                threads = "1 thread" if ours.threads == 1 else f"{ours.threads} threads"
                found.append(
                    f"{side.file} is slower than {whose} at batch {ours.batch} on {threads}: {ours.p50_ms:.2f} ms against "
                    f"{theirs.p50_ms:.2f} ms"
                )
    return found
