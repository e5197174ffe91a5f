"""Unions that stay open: a specification by its ``kind`` (a student's is ``init``), among all defined subclasses of a base."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidatorFunctionWrapHandler, WrapValidator

Base = TypeVar("Base", bound=BaseModel)


def kinds_of(base: type[Base], key: str = "kind") -> dict[str, type[Base]]:
    """The subclasses of ``base``, of any depth, by the default of their field ``key``.

    Of two with one kind it is the package's own; of a plug-in that was changed and read again, the later one.
    """
    found: dict[str, type[Base]] = {}
    for one in base.__subclasses__():
        kind = one.model_fields[key].default if key in one.model_fields else None
        more = ({kind: one} if isinstance(kind, str) else {}) | kinds_of(one, key)
        found |= {name: more[name] for name in more if name not in found or not ours(found[name])}
    return found


def ours(kind: type[BaseModel]) -> bool:
    """Whether the package itself defines it."""
    return kind.__module__.startswith("tutelage.")


def by_kind(base: type[BaseModel], what: str, key: str = "kind") -> WrapValidator:
    """Validates a tree as the subclass of ``base`` that its field ``key`` names, wherever that class is defined."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict):
            return handler(value)
        known = kinds_of(base, key)
        kind = value.get(key)
        if kind not in known:
            raise ValueError(
                f"there is no {what} {kind!r} (there are {', '.join(known)}); if a plug-in defines it, give --plugin FILE"
            )
        return known[kind].model_validate(value)

    return WrapValidator(validate)
