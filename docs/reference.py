"""Write ``docs/api.md``, the Python interface, from the docstrings of the public names.

python docs/reference.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import tutelage

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Python

Written by `python docs/reference.py` from the docstrings. `import tutelage` has these names. The functions are the commands of
`tutelage --help` with the same options; they take objects (models, tokenizers, `datasets`, pandas frames) as well as paths. Where
a signature ends in `**options`, the fields of [DataConfig](#dataconfig) say where the texts are.
"""
WIDTH = 110


def text_of(docstring: str) -> str:
    """A docstring as Markdown: sections as lists, names of code in backticks."""
    lines = inspect.cleandoc(docstring).replace("``", "`").splitlines()
    found: list[str] = []
    within = False
    for line in lines:
        if line in ("Args:", "Raises:", "Returns:", "Attributes:", "Yields:"):
            within = True
            found += ["", f"**{line[:-1]}**", ""]
        elif within and re.match(r" {4}\S", line):
            name, colon, rest = line.strip().partition(": ")
            found.append(f"* `{name}`: {rest}" if colon else f"* {name}")
        elif within and line.startswith("     "):
            found.append(f"  {line.strip()}")
        else:
            within = within and not line
            found.append(line)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", "\n".join(found))
    return re.sub(r"\n{3,}", "\n\n", text)


def signature_of(function: Any, name: str) -> str:
    """The signature, a parameter a line where it is long; the fields of ``DataConfig`` are ``**options``."""
    from tutelage.data.config import DataConfig

    known = inspect.signature(function).parameters
    own = [one for one in known.values() if one.name not in DataConfig.model_fields or "data" not in known]
    parts, named = [], False
    for one in own:
        if one.kind is one.KEYWORD_ONLY and not named:
            named = True
            parts.append("*")
        shown = one.replace(annotation=inspect.Parameter.empty)
        if callable(one.default) and one.default is not inspect.Parameter.empty:  # would show its address
            shown = shown.replace(default=...)
        parts.append(str(shown).replace(" = ", "=").replace("=Ellipsis", "=..."))
    if len(own) < len(known):
        parts.append("**options")
    line = f"{name}({', '.join(parts)})"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def fields_of(model: type[BaseModel]) -> list[str]:
    """The fields of a part of a recipe or of the settings, with their defaults."""
    rows = []
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True, validated_data={})
        shown = f"{type(value).__name__}()" if isinstance(value, BaseModel) else repr(value)
        about = [" ".join(text_of(field.description or "").split())]
        if get_origin(field.annotation) is Literal and len(choices := get_args(field.annotation)) > 1:
            about.append(f"One of {', '.join(f'`{choice!r}`' for choice in choices)}.")
        head = f"* `{name}`" if value is PydanticUndefined else f"* `{name} = {shown}`"
        rows.append(": ".join(filter(None, [head, " ".join(filter(None, about))])))
    return rows


def entry(name: str) -> str:
    """The part of the page on one name."""
    value = getattr(tutelage, name)
    parts = [f"### {name}"]
    if inspect.isfunction(value):
        parts.append(f"```python\n{signature_of(value, name)}\n```")
    parts.append(text_of(value.__doc__ or ""))
    if isinstance(value, type) and issubclass(value, BaseModel):
        parts.append("\n".join(fields_of(value)))
    elif isinstance(value, type):
        for method, one in vars(value).items():
            about = one.fget if isinstance(one, property) else one
            if not method.startswith("_") and inspect.isfunction(about) and about.__doc__:
                call = (
                    method
                    if isinstance(one, property)
                    else signature_of(about, method).replace("self, ", "").replace("self", "")
                )
                parts.append(f"* `{call}`: {' '.join(text_of(about.__doc__).split(chr(10) * 2)[0].split())}")
    return "\n\n".join(part for part in parts if part)


def page() -> str:
    """The whole page."""
    names = [name for name in dir(tutelage) if name not in ("__version__", "METHODS")]
    functions = [name for name in names if inspect.isfunction(getattr(tutelage, name))]
    classes = [name for name in names if name not in functions]
    parts = [HEAD, "## Functions", *map(entry, functions), "## Classes", *map(entry, classes)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
