"""Files and folders that appear whole or not at all, their manifests and their checksums.

A writer that is killed leaves a folder named ``NAME.partial`` or ``NAME.tutelage-partial``, which no reader takes for a finished
one. What is written is on the disk before it gets its name, so a crash of the machine leaves the old state or the new one as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from tutelage.errors import TutelageError

BLOCK = 2**22
"""Bytes that are read at once."""

MOST_HEADER = 10**8
"""Bytes of the header of a .safetensors file, at most; the format allows no more."""


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file: a reader, or a crash, sees the old content or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, tree: BaseModel | dict[str, Any]) -> None:
    """Write a report, or plain values, as JSON, as :func:`write_text` writes.

    Raises:
        ValueError: a number is infinite or not a number, for which JSON has no word.
    """
    plain = tree.model_dump(mode="json") if isinstance(tree, BaseModel) else tree
    write_text(path, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False))


def sha256_of(path: Path, advance: Callable[[int], None] = lambda count: None) -> str:
    """The SHA-256 of a file, in hexadecimal; ``advance`` is called with the number of bytes after each block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def checksum_of(tree: Any) -> str:
    """The SHA-256 of plain values (as JSON, keys sorted), in hexadecimal."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def signed(tree: dict[str, Any]) -> str:
    """Plain values as JSON, with their checksum; :func:`opened` reads it."""
    plain = json.loads(json.dumps(tree))  # keys are texts from here on
    return json.dumps({**plain, "sha256": checksum_of(plain)}, indent=1)


def opened(text: str) -> dict[str, Any]:
    """The plain values that :func:`signed` wrote.

    Raises:
        ValueError: if the text is not as it was written.
    """
    try:
        tree = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    checksum = tree.pop("sha256", None) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or checksum != checksum_of(tree):
        raise ValueError("it is not as it was written")
    return tree


def read_signed(path: Path) -> dict[str, Any]:
    """The plain values in a file that holds a :func:`signed` text.

    Raises:
        TutelageError: if the file is damaged or missing.
    """
    try:
        return opened(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TutelageError(
            f"{str(path)!r} is damaged ({_reason(error)}); remove the folder {str(path.parent)!r} and repeat the command"
        ) from None


def seal(path: Path) -> None:
    """Write into a .safetensors file a checksum of its tensors and metadata, and wait until the file is on the disk."""
    with path.open("rb") as file:
        header = _header(file)
        tensors = file.read()
    metadata = {**header.get("__metadata__", {}), "sha256": _checksum(header, [tensors])}
    # Sorted: safetensors writes them in another order each time.
    header = {
        "__metadata__": dict(sorted(metadata.items())),
        **{k: v for k, v in header.items() if k != "__metadata__"},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + tensors)
        file.flush()
        os.fsync(file.fileno())
    _share(path)


def _share(path: Path) -> None:
    """Let those read the file who may read its folder: safetensors 0.8 lets its owner alone."""
    path.chmod(path.parent.stat().st_mode & 0o666)


def check_seal(path: Path) -> None:
    """Compare a .safetensors file with the checksum that :func:`seal` wrote; one that was never sealed passes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not as it was written.
    """
    with path.open("rb") as file:
        header = _header(file)
        checksum = header.get("__metadata__", {}).get("sha256")
        if checksum is not None and checksum != _checksum(header, iter(lambda: file.read(BLOCK), b"")):
            raise ValueError("it is not as it was written")


def _header(file: BinaryIO) -> dict[str, Any]:
    """The header of a .safetensors file, which is read up to its tensors."""
    size = int.from_bytes(file.read(8), "little")
    try:
        header = json.loads(file.read(size)) if size <= MOST_HEADER else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise ValueError("it is not as it was written")
    return header


def _checksum(header: dict[str, Any], tensors: Iterable[bytes]) -> str:
    """The checksum of a header without its checksum, and of the tensors, which come in blocks."""
    metadata = {name: text for name, text in header.get("__metadata__", {}).items() if name != "sha256"}
    digest = hashlib.sha256(checksum_of({**header, "__metadata__": metadata}).encode())
    for block in tensors:
        digest.update(block)
    return digest.hexdigest()


def partial_of(folder: Path) -> Path:
    """Where a folder lies until it is finished, if its writer can go on with what a killed one left."""
    return folder.with_name(folder.name + ".partial")


def draft_of(folder: Path) -> Path:
    """Where a folder lies until it is finished, if its writer begins anew. Nobody else has such names, so it may be removed."""
    return folder.with_name(folder.name + ".tutelage-partial")


def unwritable(folder: Path, error: OSError) -> TutelageError:
    """The one-line error for a folder that cannot be written."""
    return TutelageError(f"{str(folder)!r} cannot be written ({error.strerror or error}); name another folder")


def free_place(folder: Path | str) -> Path:
    """The absolute path of a folder that is to be made; an empty folder may lie there.

    Raises:
        TutelageError: if something else lies there, or nothing can be written there.
    """
    folder = Path(os.path.abspath(folder))
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise TutelageError(f"{str(folder)!r} already exists; remove it, or name another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    if not os.access(folder.parent, os.W_OK):
        raise TutelageError(f"{str(folder)!r} cannot be written (no permission); name another folder")
    return folder


def publish(partial: Path, folder: Path) -> None:
    """Give a partial folder its final name, when all that is in it is on the disk; an empty folder there is replaced."""
    places = [partial, *partial.rglob("*")]
    for place in places:
        sync(place)
    if folder.exists():
        folder.rmdir()
    partial.rename(folder)
    sync(folder.parent)


def sync(place: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk. Weights may be read by whom their folder lets in."""
    if place.suffix == ".safetensors":
        _share(place)
    if os.name == "nt":
        return  # Windows flushes nothing that is open for reading
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(lock: Path, message: str, patience: float = 0.0, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """While this lasts, no other process holds the file ``lock``, on this machine or another that shares the disk.

    Raises:
        TutelageError: with ``message``, when another still does after ``patience`` seconds. ``waits`` is called before they begin.
        OSError: the file cannot be made.
    """
    ours = FileLock(lock)
    try:
        try:
            ours.acquire(timeout=0)
        except Timeout:
            if patience:
                waits()
            ours.acquire(timeout=patience)
    except Timeout:
        raise TutelageError(message) from None
    try:
        yield
    finally:
        # Removed while it is held: who opened it before finds, once it has the lock, that the file has no name (filelock looks).
        with suppress(OSError):  # Windows removes it on release
            lock.unlink()
        ours.release()


def sole_writer(folder: Path) -> AbstractContextManager[None]:
    """While this lasts, no other process writes this folder as a partial one.

    Raises:
        TutelageError: when another does.
        OSError: the disk refuses.
    """
    message = f"another process writes {str(folder)!r}; wait until it ends, or name another folder"
    return held(Path(f"{partial_of(folder)}.lock"), message)


@contextmanager
def in_a_line(folder: Path | str) -> Iterator[None]:
    """Turn what the disk refuses in the block into the line about ``folder``."""
    try:
        yield
    except OSError as error:
        raise unwritable(Path(os.path.abspath(folder)), error) from None


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """Make a folder that appears when the block ends, whole; yields the partial folder to write into.

    If the block fails, nothing is left. What a killed writer left is replaced.

    Raises:
        TutelageError: if something lies there already, another process writes there, or the disk refuses.
    """
    folder = free_place(folder)
    partial = draft_of(folder)
    with in_a_line(folder), sole_writer(folder):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            publish(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


class Manifest(BaseModel):
    """What a folder holds, in a JSON file that is written last: a folder without it is unfinished."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    FILE: ClassVar[str] = "manifest.json"
    """Name of the file."""
    WHAT: ClassVar[str]
    """What such a folder is called in messages."""
    COMMAND: ClassVar[str]
    """The command that makes one."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder.

        Raises:
            TutelageError: if there is none, the folder is unfinished, or the file is damaged.
        """
        path = folder / cls.FILE
        if not path.exists():
            if partial_of(folder).exists() or draft_of(folder).exists():
                raise TutelageError(f"the {cls.WHAT} {str(folder)!r} is not finished; run {cls.COMMAND} again")
            raise TutelageError(f"{str(folder)!r} is not a {cls.WHAT}; {cls.COMMAND} makes one")
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise cls.damaged(folder, f"{cls.FILE}: {_reason(error)}") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The manifest that a file's content means.

        Raises:
            ValueError: if it means none.
        """
        return cls.model_validate_json(text)

    @classmethod
    def damaged(cls, folder: Path, reason: str) -> TutelageError:
        """The one-line error for a folder whose content is not what was written."""
        return TutelageError(
            f"the {cls.WHAT} {str(folder)!r} is damaged: {reason}; remove it and make it again with {cls.COMMAND}"
        )

    def write(self, folder: Path) -> None:
        """Write the file into ``folder``, whole or not at all."""
        write_json(folder / self.FILE, self)


def _reason(error: Exception) -> str:
    """A line about an error."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return " ".join(str(error).split())
