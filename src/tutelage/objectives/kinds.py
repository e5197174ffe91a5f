"""Unions that stay open: a specification by its ``kind``, among all subclasses of a base that have been defined."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidatorFunctionWrapHandler, WrapValidator


def kinds_of(base: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The subclasses of ``base``, of any depth, by their ``kind``.

    Of two with one kind it is the package's own; of a plug-in that was changed and read again, the later one.
    """
    found: dict[str, type[BaseModel]] = {}
    for one in base.__subclasses__():
        kind = one.model_fields["kind"].default if "kind" in one.model_fields else None
        more = ({kind: one} if isinstance(kind, str) else {}) | kinds_of(one)
        found |= {name: more[name] for name in more if name not in found or not ours(found[name])}
    return found


def ours(kind: type[BaseModel]) -> bool:
    """Whether the package itself defines it."""
    return kind.__module__.startswith("tutelage.")


def by_kind(base: type[BaseModel], what: str) -> WrapValidator:
    """Validates a tree as the subclass of ``base`` that its ``kind`` names, wherever that class is defined."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, base):
            return value
        if not isinstance(value, dict):
            return handler(value)
        known = kinds_of(base)
        kind = value.get("kind")
        if kind not in known:
            raise ValueError(
                f"there is no {what} {kind!r} (there are {', '.join(known)}); if a plug-in defines it, give --plugin FILE"
            )
        return known[kind].model_validate(value)

    return WrapValidator(validate)
