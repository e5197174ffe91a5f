"""The page of the results."""

from __future__ import annotations

from typing import Any

from tutelage.studies.pages import table
from tutelage.studies.script import Results

FINE = ("one line, then the same result", "one line", "had room", "ended")
LIMIT = 240
VERDICTS = ("same", "differ", "not resumed", "left behind")
NOT_RUN = ["Not run yet."]
OUTCOMES = ("one line", "same result", "other result", "traceback", "stuck")


def page(results: Results) -> Results:
    """The fields of ``survival.md``."""
    killed = results.get("kills", {}).get("cases", {})
    harmed, random = results.get("damage", {}), results.get("fuzz", {}).get("kinds", {})
    disks = results.get("disks", {})
    ends = [end for entry in disks.values() for end in entry.values()]
    total = _sums(killed, ("time", "point", "kills", *VERDICTS))
    damaged, inputs = _sums(harmed, OUTCOMES), sum(entry["inputs"] for entry in random.values())
    bad = sum(end not in FINE for end in ends)
    parts = []
    if killed:
        other = total["differ"] + total["not resumed"] + total["left behind"]
        parts.append(
            f"{total['kills']:,} kills in {total['time'] + total['point']:,} runs: {other} differ, do not go on, or leave files"
        )
    if harmed:
        parts.append(
            f"{sum(damaged.values()):,} damaged files: {damaged['other result']} change the result unnoticed, "
            f"{damaged['traceback']} end in a traceback, {damaged['stuck']} do not end"
        )
    if random:
        failed = sum(len(entry["failed"]) for entry in random.values())
        parts.append(f"{inputs:,} random inputs: {failed} neither read nor refused in one line")
    if disks:
        parts.append(f"{len(ends)} commands on disks that fail: {bad} end otherwise than they should")
    return {
        "summary": ["; ".join(parts) + "."],
        "kills": _kills(killed, total) if killed else NOT_RUN,
        "kill_count": total["kills"],
        "failures": _said(killed),
        "damage": _damage(harmed, damaged) if harmed else NOT_RUN,
        "other": _said(harmed),
        "fuzz": table(
            ["input", "tried", "failed"],
            [[name, f"{entry['inputs']:,}", str(len(entry["failed"]))] for name, entry in random.items()],
        )
        if random
        else NOT_RUN,
        "fuzz_count": inputs or 20000,
        "fuzz_failed": [f"* {name}: `{line}`" for name, entry in random.items() for line in entry["failed"]],
        "limit": LIMIT,
        "disks": _disks(disks) if disks else NOT_RUN,
        "disk_failures": [
            f"* {name}, {how}: `{end}`"
            for name, entry in disks.items()
            for how, end in entry.items()
            if end not in FINE
        ],
    }


def _sums(entries: dict[str, Any], names: tuple[str, ...]) -> dict[str, int]:
    return {name: sum(entry[name] for entry in entries.values()) for name in names}


def _said(entries: dict[str, Any]) -> list[str]:
    return [f"* {name}: `{line}`" for name, entry in entries.items() for line in entry["said"]]


def _kills(cases: dict[str, Any], total: dict[str, int]) -> list[str]:
    names = ("time", "point", "kills", *VERDICTS)
    rows = [[name, *(str(entry[one]) for one in names)] for name, entry in sorted(cases.items())]
    rows.append(["**sum**", *(f"**{total[one]}**" for one in names)])
    return table(["case", "runs, by time", "by point", "kills", *VERDICTS], rows)


def _damage(subjects: dict[str, Any], total: dict[str, int]) -> list[str]:
    rows = [[name, str(len(e["files"])), *(str(e[one]) for one in OUTCOMES)] for name, e in subjects.items()]
    rows.append(["**sum**", "", *(f"**{total[one]}**" for one in OUTCOMES)])
    return table(["what", "files", *OUTCOMES], rows)


def _disks(disks: dict[str, Any]) -> list[str]:
    rows = []
    for name, entry in disks.items():
        groups = [
            [end for how, end in entry.items() if how.startswith(word)] for word in ("full", "read-only", "removed")
        ]
        rows.append([name, *(f"{sum(end in FINE for end in ends)} of {len(ends)}" for ends in groups)])
    return table(["command", "full: as it should be", "read-only", "removed meanwhile"], rows)
