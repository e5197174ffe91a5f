"""Unions that stay open: a specification by its ``kind`` (a student's is ``init``), among all defined subclasses of a base."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tutelage.errors import option

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


_describing: ContextVar[frozenset[type[BaseModel]]] = ContextVar("describing", default=frozenset())
"""The bases whose subclasses a JSON schema is being written of."""


@dataclass(frozen=True)
class ByKind:
    """Validates a tree as the subclass of ``base`` that its field ``key`` names, wherever that class is defined. A JSON schema
    shows all subclasses that are defined when it is made."""

    base: type[BaseModel]
    what: str
    """What messages call it."""
    key: str = "kind"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if self.base in _describing.get():  # a part of itself, as in a plug-in's student that is made of another
            return {"type": "object", "required": [self.key]}
        choices = {kind: TypeAdapter(one).core_schema for kind, one in kinds_of(self.base, self.key).items()}
        token = _describing.set(_describing.get() | {self.base})
        try:
            found = handler(core_schema.tagged_union_schema(choices, self.key))
        finally:
            _describing.reset(token)
        return {**found, "required": [self.key]}  # it has a default in each of them, but a tree has to name it

    def _validate(self, value: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, self.base):
            return value
        if not isinstance(value, dict):
            return handler(value)
        known = kinds_of(self.base, self.key)
        kind = value.get(self.key)
        if kind not in known:
            raise ValueError(
                f"there is no {self.what} {kind!r} (there are {', '.join(known)}); if a plug-in defines it, give "
                f"{option('plugins')} FILE"
            )
        return known[kind].model_validate(value)
