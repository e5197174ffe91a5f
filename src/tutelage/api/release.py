"""The commands that decide whether and how a student is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.run.gate import Gate
from tutelage.api.common import FilePath


def gate(
    report: FilePath,
    *,
    min_retention: float | None = None,
    max_class_drop: float | None = None,
    min_agreement: float | None = None,
    max_latency_ms: float | None = None,
    max_size_mb: float | None = None,
) -> Gate:
    """Check the numbers of a run or an export against limits: exit code 0 if all are met, 1 if not, 2 for a mistake.

    A limit is compared with the bound of the 95 % interval, so that chance does not pass the gate. Of an exported folder the file
    that serves is checked: int8 where there is one.

    Args:
        report: Folder of a run, its report.json, or a folder of `tutelage export`.
        min_retention: Least share of the teacher's score that the student keeps.
        max_class_drop: Largest drop of the recall of any class against the teacher's.
        min_agreement: Least share of texts with the teacher's class.
        max_latency_ms: Most milliseconds for one text; of an exported file its p95 on one thread.
        max_size_mb: Largest size of the weights on disk, in MB (10^6 bytes).

    Returns:
        ``passed``, and for each condition value, bound and limit.

    Raises:
        TutelageError: when there is no limit, or the report lacks what a limit is about.

    Example: tutelage gate runs/a --min-retention 0.97 --max-class-drop 0.05
    """
    from tutelage.run.gate import gate as checked

    return checked(
        Path(report),
        min_retention=min_retention,
        max_class_drop=max_class_drop,
        min_agreement=min_agreement,
        max_latency_ms=max_latency_ms,
        max_size_mb=max_size_mb,
    )
