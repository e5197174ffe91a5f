"""Objects given in place of paths. They are written to ``OUT/inputs/``, so that a run's config.yaml can repeat it.

File names contain a checksum of the content. Equal objects have equal paths, so a run resumed with equal objects has the same
configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tutelage.data import mapped
from tutelage.data.config import DataConfig, FilePath, Table
from tutelage.data.corpus.building import Documents
from tutelage.data.given import FOLDER, TEMPORARY, file_name
from tutelage.data.readers.files import named
from tutelage.data.readers.table import Cells, shown
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError, last_reason, option
from tutelage.tasks import kind_of

Model = FilePath | tuple[Any, Any]
"""A model: a folder, a hub id, or ``(model, tokenizer)``."""

Splits = Mapping[str, Table]
"""Tables by the name of their split, as in a ``datasets.DatasetDict``."""

EVALUATION = ("dev", "validation", "valid", "val", "eval", "test")
"""Names of the split to evaluate on; the first that exists is used."""
WRAPPERS = ("module", "_orig_mod")
"""Where DataParallel and ``torch.compile`` keep the model that they wrap."""


class Inputs:
    """The objects of one call, written below ``out``. Without ``out`` they go to a folder that is removed at the end. A
    context manager.
    """

    def __init__(self, out: FilePath | None = None) -> None:
        self._out = None if out is None else Path(os.path.expanduser(out))
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Inputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()

    def model(self, given: Model, name: str) -> str:
        """The path of a model; ``(model, tokenizer)`` is written as a checkpoint.

        Raises:
            TutelageError: for an object that is no model with its tokenizer; or for another than that of the run in ``out``.
        """
        if isinstance(given, str | os.PathLike):
            return os.path.expanduser(os.fspath(given))
        model, tokenizer = _pair(given, name)
        digest = hashlib.sha256(_settings_of(model.config).encode())
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
        for key, value in model.state_dict().items():
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(_bytes()).numpy().tobytes())
        place = self._place(file_name(name, digest.hexdigest()), name)
        if not place.exists():
            partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
            except Exception as error:  # each configuration, model and tokenizer checks in its own way
                shutil.rmtree(partial, ignore_errors=True)
                raise TutelageError(
                    f"{name}: the objects cannot be saved ({last_reason(error)}); give a folder that save_pretrained has written"
                ) from None
            if place.exists():  # another process of the same run was faster
                shutil.rmtree(partial)
            else:
                partial.rename(place)
        return str(place)

    def data(self, data: DataConfig | Splits | None, options: Mapping[str, object]) -> dict[str, Any]:
        """The settings of :class:`DataConfig`; tables in memory are written as JSON lines, with the columns that are used.

        Raises:
            TutelageError: for a table without these columns, or another than that of the run in ``out``.
        """
        tree: dict[str, Any] = dict(options)
        if isinstance(data, DataConfig):
            tree = data.model_dump(exclude_unset=True) | tree
        elif data is not None:
            tree = _split(data, tree.get("dev") is not None) | tree
        columns = {
            "text": tree.get("text", "text"),
            "text_pair": tree.get("text_pair"),
            "label": tree.get("label", "label"),
            "predictions.id": _id_of(tree.get("predictions")),
        }
        labelled = tree.get("kind") is None or kind_of(tree["kind"]).learns_labels
        optional = ("predictions.id",) if labelled else ("predictions.id", "text_pair", "label")
        for part in ("train", "dev", "unlabeled"):
            given = tree.get(part)
            if given is not None and not isinstance(given, str | os.PathLike):
                if tree.get("kind") is not None and kind_of(tree["kind"]).own_columns:
                    found, names = _columns(given, part, columns["text"], columns["label"])
                    kept = {name: name for name in names if _unwritable(found[name]) is None}
                    tree[part] = self._table(found, names, part, kept)
                    continue
                wanted = {role: name for role, name in columns.items() if name}
                if part == "unlabeled":
                    del wanted["label"]
                found, names = _columns(given, part, columns["text"], columns["label"], set(wanted.values()))
                tree[part] = self._table(found, names, part, wanted, optional)
        return tree

    def predictions(
        self,
        given: FilePath | Table | None,
        prior: str | Sequence[float] | None,
        data: DataConfig | Splits | None,
        options: Mapping[str, Any],
    ) -> dict[str, Any] | None:
        """The settings of a file of predictions; a table in memory is written as JSON lines, with all columns that JSON can hold.

        Raises:
            TutelageError: as :meth:`data`; or a prior without predictions.
        """
        before = data.predictions if isinstance(data, DataConfig) else None
        tree: dict[str, Any] = {} if before is None else before.model_dump(exclude_unset=True)
        if given is None and before is None:
            if prior is not None:
                raise TutelageError(
                    f"{option('prior')} corrects predictions; give them with {option('teacher_predictions')} FILE"
                )
            return None
        if given is not None:
            if isinstance(given, str | os.PathLike):
                tree["file"] = given
            else:
                names = {"text": "text", "label": "label"}
                if isinstance(data, DataConfig):
                    names = {role: getattr(data, role) for role in names}
                names |= {role: name for role, name in options.items() if role in names}
                found, every = _columns(given, "predictions", names["text"], names["label"])
                # Which of the others are predictions shows when the file is read: none that JSON cannot hold.
                needed = {names["text"], tree.get("id"), *tree.get("columns", ())}
                wanted = {name: name for name in every if name in needed or _unwritable(found[name]) is None}
                tree["file"] = self._table(found, every, "predictions", wanted)
        return tree if prior is None else tree | {"prior": prior}

    def texts(self, given: FilePath | Table, name: str, column: str) -> str:
        """The path of a file of texts; a table in memory is written as JSON lines, with this column alone.

        Raises:
            TutelageError: as :meth:`data`.
        """
        if isinstance(given, str | os.PathLike):
            return os.path.expanduser(os.fspath(given))
        found, names = _columns(given, name, column, "label", {column})
        return self._table(found, names, name, {column: column})

    def _table(
        self,
        columns: Mapping[str, Iterable[Any]],
        every: Sequence[str],
        part: str,
        wanted: Mapping[str, str],
        optional: Sequence[str] = (),
    ) -> str:
        """Write the columns that are ``wanted``, by their role, of a table that has ``every`` column of these names."""
        missing = [(role, name) for role, name in wanted.items() if name not in columns and role not in optional]
        if missing:
            role, name = missing[0]
            raise TutelageError(
                f"{part} has no column {name!r}; its columns are {', '.join(map(repr, every))}: set {role} to one of them"
            )
        names = [name for name in dict.fromkeys(wanted.values()) if name in columns]
        digest = hashlib.sha256()
        with tempfile.SpooledTemporaryFile(mapped.IN_MEMORY, dir=mapped.temporary_folder()) as content:
            for row in zip(*(columns[name] for name in names), strict=True):
                line = _line(dict(zip(names, row, strict=True)), part)
                digest.update(line)
                content.write(line)
            place = self._place(file_name(part, digest.hexdigest(), ".jsonl"), part)
            if not place.exists():
                partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
                content.seek(0)
                with partial.open("wb") as file:
                    shutil.copyfileobj(content, file)
                os.replace(partial, place)
        return str(place)

    def _place(self, name: str, what: str) -> Path:
        """Where something is written; the folder exists."""
        if self._out is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix=TEMPORARY)
            return Path(self._temporary.name) / name
        place = self._out / FOLDER / name
        if (self._out / "config.yaml").exists() and not place.exists():
            raise TutelageError(f"{str(self._out)!r} holds a run with another {what}; give another {option('out')}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TutelageError(
                f"{option('out')} {str(self._out)!r} cannot be written ({error.strerror}); name another folder"
            ) from None
        return place


def tokenizer_in(given: Any) -> Any:
    """A tokenizer of transformers: by the path of its model, alone, or beside its model.

    Raises:
        TutelageError: it is something else, or cannot be loaded.
    """
    if isinstance(given, str | os.PathLike):
        return load_tokenizer(os.path.expanduser(os.fspath(given)))
    found = _pair(given, "tokenizer")[1] if isinstance(given, tuple) else given
    if not (hasattr(found, "save_pretrained") and hasattr(found, "get_vocab")):
        raise TutelageError(
            f"tokenizer={type(found).__name__} is no tokenizer of transformers; give one, a folder or a hub id"
        )
    return found


def documents_in(given: Any) -> Documents:
    """Texts in memory, or the column ``text`` of a table in memory, for a corpus; rows of a ``datasets.Dataset`` are read one after
    the other.

    Raises:
        TutelageError: there is no such column.
    """
    name, column = f"{type(given).__name__} in memory", "text"

    def check(names: Collection[str]) -> None:
        if column not in names:
            raise TutelageError(
                f"{name} has no column {column!r}, only {', '.join(names)}; rename the column of the text"
            )

    def rows(dataset: Any) -> Iterator[Any]:
        for row in dataset:
            check(row)
            yield row[column]

    if hasattr(given, "select_columns"):
        names = getattr(given, "features", None)  # a stream may not know them
        if names is not None:
            check(names)
        return Documents(name, rows(given if names is None else given.select_columns([column])))
    found, every = _columns(given, name, column, "label", {column})
    check(every)
    return Documents(name, found[column])


def _pair(given: Any, name: str) -> tuple[Any, Any]:
    """A model of transformers with its weights, and its tokenizer.

    Raises:
        TutelageError: it is something else.
    """
    import torch

    if not isinstance(given, tuple) or len(given) != 2:
        raise TutelageError(
            f"{name}={type(given).__name__} is not a model; give a folder, a hub id or (model, tokenizer)"
        )
    model, tokenizer = given
    for wrapper in (*WRAPPERS, *WRAPPERS):  # also one within the other
        inner = getattr(model, wrapper, None)
        model = model if inner is None else inner
    if hasattr(model, "get_vocab") and hasattr(tokenizer, "state_dict"):
        raise TutelageError(f"{name}=(tokenizer, model) is turned round; give (model, tokenizer)")
    for one, what, wanted in (
        (model, "PyTorch model", ("save_pretrained", "state_dict", "config")),
        (tokenizer, "tokenizer", ("save_pretrained", "get_vocab")),
    ):
        if not all(hasattr(one, method) for method in wanted):
            raise TutelageError(
                f"{name}: a {type(one).__name__} is no {what} of transformers; give a folder, a hub id or (model, tokenizer)"
            )
    weights = model.state_dict().values()
    if not all(isinstance(one, torch.Tensor) and not one.is_quantized for one in weights):
        raise TutelageError(f"{name}: the model is quantised; give the model that it was made from")
    if any(one.is_meta for one in weights):
        raise TutelageError(f"{name}: the model has no weights (it is on the device meta); load them first")
    return model, tokenizer


def _bytes() -> Any:
    import torch

    return torch.uint8


def _line(row: dict[str, Any], part: str) -> bytes:
    """A row as a line of JSON.

    Raises:
        TutelageError: a value cannot be written so.
    """
    try:
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    except (TypeError, ValueError, RecursionError):
        reasons = {name: _unwritable([name, value]) for name, value in row.items()}
        name, reason = next((name, reason) for name, reason in reasons.items() if reason is not None)
        raise TutelageError(
            f"{part} has a column {name!r} that cannot be written as JSON ({reason}); give texts and plain labels"
        ) from None


def _unwritable(column: list[Any]) -> str | None:
    """Why a column cannot be written as JSON; ``None`` where it can."""
    try:
        json.dumps(column, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    return None


def _settings_of(config: Any) -> str:
    """A configuration without the fields that depend on where it was loaded from."""
    tree = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    return json.dumps(tree, sort_keys=True, default=str)


def _split(splits: Splits, evaluated: bool) -> dict[str, Any]:
    """Tables by the names that :class:`DataConfig` has for them; ``evaluated``: the one to evaluate on is given beside them.

    Raises:
        TutelageError: these are no splits, or none has the name of one to evaluate on where others are there.
    """
    if not isinstance(splits, Mapping):
        raise TutelageError(f"data={type(splits).__name__} is no dict of splits; give it as train, or as dev")
    evaluation = next((name for name in EVALUATION if name in splits), None)
    names = ", ".join(shown(name) for name in splits)
    if "train" not in splits and evaluation is None:
        raise TutelageError(
            f"data has no split 'train', nor one to evaluate on ({', '.join(EVALUATION)}); it has {names}"
        )
    if evaluation is None and not evaluated and set(splits) - {"train", "unlabeled"}:
        raise TutelageError(
            f"data has the splits {names}, none of which has the name of one to evaluate on ({', '.join(EVALUATION)}); give it as "
            "dev=data[NAME], or give train=data['train'] alone"
        )
    found = {"train": splits["train"]} if "train" in splits else {}
    if evaluation is not None:
        found["dev"] = splits[evaluation]
    if "unlabeled" in splits:
        found["unlabeled"] = splits["unlabeled"]
    return found


def _id_of(predictions: Any) -> str | None:
    """The column by which rows are matched with predictions."""
    return predictions.get("id") if isinstance(predictions, Mapping) else getattr(predictions, "id", None)


def _columns(
    given: Table, part: str, text: str, label: str, wanted: Collection[str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """A table's columns as plain lists, those that are ``wanted`` (default: all), and the names of all columns. Columns that are
    wanted of a ``datasets.Dataset`` are :class:`Cells`.

    Raises:
        TutelageError: it is no table, or has columns of different lengths.
    """
    names, values = _opened(given, part, text, label)
    for name in names if wanted is None else wanted:
        if names.count(name) > 1:
            raise TutelageError(f"{part} has several columns {name!r}; rename all but one")
    if wanted is not None and hasattr(given, "select_columns") and hasattr(given, "__len__"):
        return {name: _lazily(given, name, part) for name in names if name in wanted}, names
    columns = {name: _plain(values(name), part) for name in names if wanted is None or name in wanted}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise TutelageError(f"the columns of {part} have different lengths: {lengths}")
    return columns, names


def _opened(given: Table, part: str, text: str, label: str) -> tuple[list[str], Callable[[str], Any]]:
    """The names of a table's columns, and what gives a column's values by its name; rows that have no names are texts.

    Raises:
        TutelageError: it is no table.
    """
    features = getattr(given, "features", None)
    if isinstance(given, tuple) and len(given) == 2:
        return [text, label], lambda name: given[0 if name == text else 1]
    if hasattr(given, "to_parquet") and features is not None:
        return list(features), lambda name: _of_feature(given[name], features[name], part)  # type: ignore[call-overload, index]
    if isinstance(given, Mapping) or (hasattr(given, "to_parquet") and hasattr(given, "items")):
        pairs = [(str(name), values) for name, values in given.items()]
        found, names = dict(pairs), [name for name, _ in pairs]
        if tables := [name for name, values in pairs if isinstance(values, Mapping) or hasattr(values, "to_parquet")]:
            raise TutelageError(
                f"{part} has a table of its own in {shown(tables[0])}; give splits as data, or one of them as {part}"
            )
        return names, found.__getitem__
    rows = _listed(given, part)  # also those of a datasets.IterableDataset that does not know its columns
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return [text], lambda name: rows
    rows = [{str(name): value for name, value in row.items()} for row in rows]
    return list(dict.fromkeys(name for row in rows for name in row)), lambda name: [row.get(name) for row in rows]


def _lazily(dataset: Any, name: str, part: str) -> Cells:
    """A column of a ``datasets.Dataset``, read piece by piece."""
    column, feature = dataset.with_format(None)[name], dataset.features[name]

    def read() -> Iterator[Any]:
        for start in range(0, len(dataset), 1024):
            yield from _plain(_of_feature(column[start : start + 1024], feature, part), part)

    return Cells(read)


def _of_feature(values: Any, feature: Any, part: str) -> Any:
    """A column of a ``datasets.Dataset``; the classes of a ``ClassLabel`` by their names."""
    classes = getattr(getattr(feature, "feature", feature), "names", None)  # of a column, or of its lists
    return values if classes is None else [named(value, classes) for value in _plain(values, part)]


def _listed(values: Any, part: str) -> list[Any]:
    """A column (or rows) as a list.

    Raises:
        TutelageError: it is something else.
    """
    if isinstance(values, str) or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise TutelageError(f"{part} has {shown(values)} in place of a list; give a path, a table, or texts and labels")
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _plain(values: Any, part: str) -> list[Any]:
    """A column as a list of Python's own values, gaps as None, arrays as lists."""
    return [_value(value) for value in _listed(values, part)]


def _value(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, date | time):
        return None if value != value else str(value)  # as cells of Parquet are read
    if isinstance(value, Decimal):
        return None if value.is_nan() else int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, set | frozenset):
        return sorted((_value(one) for one in value), key=str)
    if isinstance(value, Mapping):
        return {str(key): _value(one) for key, one in value.items()}
    if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.number) and not np.isnan(value).any():
        return value.tolist()  # numbers without gaps: nothing in it is to be replaced
    if hasattr(value, "tolist"):  # a number or an array of numpy, a tensor
        return _value(value.tolist())
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    # pandas' NA has no truth value, not even when it is compared.
    return None if type(value).__name__ == "NAType" or value != value else value
