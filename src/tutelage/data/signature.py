"""Signatures of functions that take the fields of :class:`~tutelage.data.config.DataConfig` as keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class DataSignature(inspect.Signature):
    """The function's own signature with the fields and their defaults in place of ``**options``.

    The fields are read when somebody looks: pydantic takes a third of the time that `tutelage --help` has.
    """

    __slots__ = ()

    @property
    def parameters(self) -> MappingProxyType[str, inspect.Parameter]:
        from tutelage.data.config import DataConfig, DataOptions

        own = [one for one in super().parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = {name: getattr(hint, "__forward_arg__", hint) for name, hint in DataOptions.__annotations__.items()}
        fields = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[name])
            for name, field in DataConfig.model_fields.items()
        ]
        return MappingProxyType({one.name: one for one in (*own, *fields)})


def takes_data(*options: str) -> Callable[[Function], Function]:
    """Marks a function with ``**options: Unpack[DataOptions]``; the ``options`` named are those of its command."""

    def marked(function: Function) -> Function:
        own = inspect.signature(function)
        signature = DataSignature(list(own.parameters.values()), return_annotation=own.return_annotation)
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.data_options = options  # type: ignore[attr-defined]
        return function

    return marked
