"""A script that measures: its options, its results as JSON, and the page that is made of them."""

from __future__ import annotations

import argparse
import csv
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers

from tutelage.artifacts import write_text
from tutelage.errors import TutelageError
from tutelage.studies.pages import filled

Arguments = argparse.Namespace
Results = dict[str, Any]
PLACES = (
    "data_dir",
    "text",
    "vectors",
    "clinc",
    "conll",
    "squad",
    "corpus",
    "models",
    "work",
    "share",
    "finished",
    "out",
    "part",
    "one",
    "front",
    "launcher",
)
"""Options that say where things are and what is run now; they are no settings of the results."""


class Script(argparse.ArgumentParser):
    """The options of a script. :meth:`conduct` runs it.

    ``name`` is the default name of the results, ``places`` says in commands where things are, ``numbers`` are options with their
    defaults. The template of the page lies beside ``file`` (see :func:`~tutelage.studies.pages.filled`).
    """

    def __init__(self, file: str, doc: str | None, name: str, places: str = "", **numbers: float) -> None:
        self.file, self.places, self.constants = Path(file), places, dict[str, Any]()
        self.out = Path(f"results/{name}.json")
        super().__init__(
            prog="/".join(self.file.parts[-2:]), description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        for option, value in numbers.items():
            self.add_argument(f"--{option.replace('_', '-')}", type=type(value), default=value)
        self.add_argument("--finished", action="store_true", help="write the page from the results, run nothing")
        self.add_argument("--out", default=self.out, type=Path, help="file of the results")

    def conduct(
        self,
        measure: Callable[[Arguments], Iterator[Results]],
        page: Callable[[Results], Results],
        *,
        name: str = "{}",
        template: str | None = None,
        pictures: Callable[[Results], dict[str, str]] = lambda results: {},
    ) -> None:
        """Measure, or read the results, and write results, page and pictures.

        ``measure`` yields the results each time there are more. ``page`` returns what the template is filled with, beside ``out``,
        the settings of the results, the command that has them, and the constants of the script (names in capitals). The page of
        ``results/STEM.json`` is ``docs/results/NAME.md`` (``name`` with the stem in it); that of any other file lies beside it.
        """
        arguments = self.parse_args()
        out = self.out = arguments.out
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        folder = Path("docs/results") if out.parent == Path("results") else out.parent
        source = self.file.with_name(template) if template else self.file.with_suffix(".md")
        defined = vars(sys.modules[page.__module__])
        self.constants = {name: value for name, value in defined.items() if name.isupper()}
        try:
            for results in [before(out)] if arguments.finished else measure(arguments):
                if getattr(arguments, "share", None):
                    continue
                if not arguments.finished:
                    write(out, json.dumps(results, indent=1) + "\n")
                given = results.get("settings", {})
                values = {"out": out, "settings": given, "command": self.command(given), **page(results)}
                write(folder / f"{name.format(out.stem)}.md", filled(source, **{**self.constants, **values}))
                for file, picture in pictures(results).items():
                    write(folder / file, picture)
        except TutelageError as error:
            self.exit(1, f"{error}\n")

    def section(self, name: str, **values: Any) -> list[str]:
        """A part of a page that :meth:`conduct` writes: the template ``STEM.NAME.md`` beside the script, filled."""
        return [filled(self.file.with_suffix(f".{name}.md"), **{**self.constants, **values})]

    def command(self, given: Mapping[str, Any], places: str | None = None, **more: Any) -> str:
        """The command that has these settings, and ``more``; options at their defaults are left out."""
        words = [f"python {self.prog}", *([said] if (said := self.places if places is None else places) else [])]
        for name, value in {**given, **more, "out": self.out}.items():
            if value != self.get_default(name) and value is not False:
                words.append(f"--{name.replace('_', '-')}")
                words += [] if value is True else map(quoted, value if isinstance(value, list) else [value])
        return " ".join(words)


def quoted(value: object) -> str:
    """A value as a shell reads it."""
    return shlex.quote(str(value))


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def before(path: Path) -> Results:
    """The results that a file has; none without a file."""
    found: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def once(path: Path, what: Callable[[], Any]) -> Any:
    """What a JSON file has; ``what`` returns it where there is no file yet."""
    if not path.exists():
        write(path, json.dumps(what(), indent=1))
    return before(path)


def write_rows(path: Path, rows: Iterable[Sequence[str]], names: Sequence[str] = ("text", "label")) -> None:
    """Write a CSV file of texts, unless there is one."""
    if not path.exists():
        out = io.StringIO()
        csv.writer(out).writerows([names, *rows])
        write(path, out.getvalue())


def settings(arguments: Arguments) -> Results:
    """The options that belong to the results."""
    return {name: value for name, value in vars(arguments).items() if name not in PLACES}
