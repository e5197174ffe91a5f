"""Options and arguments of a command, read from the signature and the docstring of a function."""

from __future__ import annotations

import builtins
import inspect
import os
import re
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from tutelage import api
from tutelage.errors import TYPED

HELP = {"help_option_names": ["-h", "--help"]}

NAMES = {
    **{name: f"--{typed}" for name, typed in TYPED.items()},
    "filtered": "--filtered/--unfiltered",
}
"""Options whose name is not that of their parameter."""

PANELS = {
    "Teacher": (
        "teacher",
        "teacher_predictions",
        "prior",
        "team",
        "teacher_store",
        "store",
        "store_dtype",
        "allow_weak_teacher",
        "general_teacher",
    ),
    "Student": (
        "student",
        "students",
        "method",
        "methods",
        "against",
        "ablation",
        "stage",
        "baseline",
        "served",
        "through",
    ),
    "Training": (
        "corpus",
        "epochs",
        "lr",
        "seed",
        "mixed_precision",
        "settings",
        "plugins",
        "seeds",
        "steps",
        "trials",
    ),
    "Limits": (
        "max_latency",
        "max_size",
        "max_parameters",
        "min_retention",
        "max_class_drop",
        "min_agreement",
        "vocabulary",
    ),
    "Output": ("out", "format", "int8", "temperature", "strict", "tracker", "resume", "json"),
}
"""Where ``--help`` shows an option; those of data have a panel of their own, others none."""

VALUES = dict.fromkeys(("kind", "metric", "task", "method", "methods", "against", "ablation", "rows"), "<name>")
"""What ``--help`` shows as the value of an option whose names its help lists: a plug-in, or a task, may add others."""

SEVERAL = ("--students", "--methods")
"""Options that take all words up to the next option. (Click's take one word each time they are given.)"""

NOT_SHOWN = ("quiet", "data", "options")
"""Parameters for Python: ``--json`` makes a command quiet, the texts have options of their own."""


class About(NamedTuple):
    """What a docstring says."""

    summary: str
    arguments: dict[str, str]
    example: str


def about(function: Callable[..., Any]) -> About:
    """The first line, the ``Args:`` and the ``Example:`` of a docstring, line breaks taken out."""
    text = inspect.getdoc(function) or ""
    parts = re.split(r"^(Args|Returns|Raises|Example):", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = re.split(r"^ {4}\**(\w+): ", sections.get("Args", ""), flags=re.MULTILINE)
    arguments = {name: " ".join(words.split()) for name, words in zip(found[1::2], found[2::2], strict=True)}
    return About(parts[0].split("\n")[0], arguments, " ".join(sections.get("Example", "").split()))


class Command(TyperCommand):
    """A command that reads its function's signature when its own options are asked for."""

    def __init__(self, name: str, function: str, arguments: tuple[str, ...]) -> None:
        self.function: Callable[..., Any] = getattr(api, function)
        self.arguments = arguments
        said = about(self.function)
        super().__init__(name=name, help=said.summary, epilog=f"Example: {said.example}", context_settings=HELP)

    def get_params(self, ctx: Any) -> Any:
        if self.callback is None:
            app = typer.Typer(add_completion=False)
            app.command()(self._called())
            built = typer.main.get_command(app)
            self.params, self.callback = built.params, built.callback
        return super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        taking = ""
        for place, word in enumerate(args):
            if word.startswith("-"):
                taking = word if word in SEVERAL else ""
            elif taking and args[place - 1] != taking:
                spread.append(taking)
            spread.append(word)
        return super().parse_args(ctx, spread)

    def _called(self) -> Callable[..., None]:
        """A function with typer's annotations, which shows what the command's function returns."""
        own, said = inspect.signature(self.function), about(self.function)
        names = vars(builtins) | self.function.__globals__ | {"Model": api.FilePath, "Table": api.FilePath}
        hints = get_type_hints(self.function, localns=_Known(names))
        parameters: dict[str, inspect.Parameter] = {}

        def add(name: str, hint: Any, default: Any, text: str, panel: str | None, value: str | None) -> None:
            # Objects that Python takes in place of a file, or numbers in place of text, are no options that are given twice.
            kind = str if default is None and option_type(hint) == list[str] else option_type(hint)
            if default in (None, ()) and default is not inspect.Parameter.empty:
                kind, default = kind | None, None
            flag = f"--{name.replace('_', '-')}"
            spelt = [NAMES.get(name, flag)] if name in NAMES or default is False else []
            if name in self.arguments:
                meta = typer.Argument(help=_plain(text))
            else:
                meta = typer.Option(*spelt, help=_plain(text), rich_help_panel=panel, metavar=VALUES.get(name, value))
            place = inspect.Parameter.KEYWORD_ONLY
            parameters[name] = inspect.Parameter(name, place, default=default, annotation=Annotated[kind, meta])

        for name, hint in hints.items():
            if name not in (*NOT_SHOWN, "return"):
                default = own.parameters[name].default
                if default is inspect.Parameter.empty and type(None) in get_args(hint):
                    default = None
                add(name, hint, default, said.arguments[name], _panel(name), value_of(hint))
        for name, (hint, default, text, value) in data_options(self.function).items():
            add(name, hint, default, said.arguments.get(name, text), "Data", value)
        add("json", bool, False, "Print the result as JSON on stdout and nothing else.", "Output", None)

        def called(json: bool, **given: Any) -> None:
            from tutelage.cli import shown

            given = {name: value for name, value in given.items() if value not in (None, [])}
            for (
                name,
                parameter,
            ) in own.parameters.items():  # what may be None has no default, so that Python's callers say so
                if parameter.default is inspect.Parameter.empty and name in parameters:
                    given.setdefault(name, None)
            if "quiet" in own.parameters:
                given["quiet"] = json
            result = self.function(**given)
            shown.show(self.function.__name__, result, json)
            if getattr(result, "passed", True) is False:
                raise typer.Exit(1)

        called.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        called.__annotations__ = {name: one.annotation for name, one in parameters.items()}
        return called


class _Known(dict[str, Any]):
    """Names for annotations; one that only type checkers import stands for anything."""

    def __missing__(self, name: str) -> Any:
        return Any


def option_type(hint: Any) -> Any:
    """What an option takes whose parameter has this type: choices, a number, a flag, a list of strings; else a string."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if (str in kinds or any(get_origin(kind) is Literal for kind in kinds)) and {int, float} & set(kinds):
        return str  # a number or a word, or one with a unit
    for kind in kinds:
        if get_origin(kind) is Literal or kind in (bool, int, float):
            return kind
        if get_origin(kind) is Sequence:
            return list[str]
    return str


def value_of(hint: Any) -> str | None:
    """What ``--help`` shows as the value of an option of this type: a path, a number or a word; ``None`` for its usual words."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    numbers = [kind.__name__ for kind in kinds if kind in (int, float)]
    if words and numbers:
        return f"<{'|'.join([*numbers, *words])}>"
    origins = [get_origin(kind) for kind in kinds]
    return "<path>" if os.PathLike in origins and Sequence not in origins and Any not in kinds else None


def data_options(function: Callable[..., Any]) -> dict[str, tuple[Any, Any, str, str | None]]:
    """Type, default, help and shown value of the options of data that a command has."""
    names: tuple[str, ...] = getattr(function, "data_options", ())
    if not names:
        return {}
    from tutelage.data.config import DataConfig, DataOptions

    hints, fields, taken = get_type_hints(DataConfig), DataConfig.model_fields, get_type_hints(DataOptions)
    return {
        name: (hints[name], fields[name].default, fields[name].description or "", value_of(taken[name]))
        for name in names
    }


def _panel(name: str) -> str | None:
    return next((panel for panel, names in PANELS.items() if name in names), None)


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", "\\[")
