"""The command line, derived from the functions of :mod:`tutelage.api`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer
from typer.core import TyperGroup

from tutelage.cli.options import HELP, Command
from tutelage.errors import Stopped, TutelageError, command_line, of_the_machine
from tutelage.version import __version__


class Derived(NamedTuple):
    """The function of a command, and which of its parameters are typed without a name."""

    function: str
    arguments: tuple[str, ...] = ()


COMMANDS = {
    "finetune": Derived("finetune"),
    "distill": Derived("distill"),
    "evaluate": Derived("evaluate", ("model",)),
    "run": Derived("run", ("path",)),
    "methods": Derived("methods"),
    "recipe": Derived("recipe", ("method",)),
    "demo": Derived("demo"),
    "pretrain": Derived("pretrain"),
    "augment": Derived("augment"),
    "chain": Derived("chain"),
    "crossfit": Derived("crossfit"),
    "export": Derived("export", ("model",)),
    "shrink": Derived("shrink"),
    "gate": Derived("gate", ("report",)),
    "cascade": Derived("cascade", ("student",)),
    "serve": Derived("serve", ("student",)),
    "push": Derived("push", ("folder", "repo")),
    "pack": Derived("pack", ("model",)),
    "unpack": Derived("unpack", ("folder",)),
    "search-knowledge": Derived("search_knowledge"),
    "attention-report": Derived("attention_report", ("teacher", "student", "texts")),
    "compare": Derived("compare", ("plan",)),
    "ablate": Derived("ablate", ("method",)),
    "corpus build": Derived("build_corpus", ("sources",)),
    "corpus inspect": Derived("inspect_corpus", ("path",)),
    "store write": Derived("write_store"),
    "store plan": Derived("plan_store"),
    "store inspect": Derived("inspect_store", ("path",)),
    "store verify": Derived("verify_store", ("path",)),
    "store compact": Derived("compact_store", ("store",)),
    "team train": Derived("train_team"),
    "team show": Derived("show_team", ("team",)),
}

GROUPS = {
    "corpus": "Raw text, tokenised once.",
    "store": "The teacher's knowledge on disk: computed once, read for every student.",
    "team": "Several teachers for one task.",
}


def _app() -> TyperGroup:
    program = typer.Typer(no_args_is_help=True, context_settings=HELP)
    program.callback(help="Distil BERT-family models.")(_program)
    root = typer.main.get_command(program)
    assert isinstance(root, TyperGroup)
    for name, text in GROUPS.items():
        root.add_command(TyperGroup(name=name, help=text, no_args_is_help=True, context_settings=HELP), name)
    for words, (function, arguments) in COMMANDS.items():
        *group, name = words.split()
        parent = root.commands[group[0]] if group else root
        assert isinstance(parent, TyperGroup)
        parent.add_command(Command(name, function, arguments), name)
    return root


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tutelage {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]


def _program(version: Version = False) -> None:
    """What stands before a command."""


app = _app()


def _check_text(word: str) -> None:
    """A name that is not UTF-8, as the system gives it, cannot be written into a run's settings."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise TutelageError(f"{word!r:.200} is not UTF-8 text; rename it") from None


def _as_setting(error: typer.TyperException) -> str:
    """Of an unknown option that is a setting of stages: how it is given."""
    name = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
    context = getattr(error, "ctx", None)
    if not name or context is None or all(one.name != "settings" for one in context.command.params):
        return ""
    from tutelage.recipes.recipe import Stage

    return f"; a setting of the stages: --set stages.*.{name}=VALUE" if name in Stage.model_fields else ""


INTERRUPTED = 130
"""What typer makes of Ctrl-C that no run has handled."""


def main(words: Sequence[str] | None = None) -> None:
    """Run a command line, by default the program's own; mistakes of the user end in one line and exit code 2.

    Raises:
        SystemExit: with the exit code, unless it is 0.
    """
    typed = sys.argv[1:] if words is None else words
    with command_line(typed):
        try:
            for word in typed:
                _check_text(word)
            code = app.main(words, prog_name="tutelage", standalone_mode=False)
        except (TutelageError, typer.TyperException) as error:
            text = (
                f"{error.format_message()}{_as_setting(error)}"
                if isinstance(error, typer.TyperException)
                else str(error)
            )
            print(f"tutelage: {' '.join(text.replace('Value error, ', '').split())}", file=sys.stderr)
            sys.exit(2)
        except Exception as error:
            if (line := of_the_machine(error)) is None:
                raise
            print(f"tutelage: {' '.join(TutelageError(line).args[0].split())}", file=sys.stderr)
            sys.exit(2)
        except Stopped as error:
            print(f"tutelage: {error}", file=sys.stderr)
            sys.exit(error.code)
        if code == INTERRUPTED:
            from tutelage.training.stopping import stopped  # loads torch

            print(f"tutelage: {stopped(signal.SIGINT, 'outside of training')}", file=sys.stderr)
    if code:
        sys.exit(code)
