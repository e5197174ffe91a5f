"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import save_file

from tutelage import artifacts
from tutelage.artifacts import (
    Manifest,
    checksum_of,
    draft_of,
    free_place,
    new_folder,
    publish,
    seal,
    sha256_of,
    sync,
    write_text,
)
from tutelage.errors import TutelageError


class Crate(Manifest):
    """A manifest for these tests."""

    WHAT = "crate"
    COMMAND = "tutelage crate"

    format: Literal[1] = 1
    apples: int


def line_of(error: pytest.ExceptionInfo[TutelageError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def fill(folder: Path, apples: int = 3) -> None:
    with new_folder(folder) as place:
        (place / "deep").mkdir()
        write_text(place / "deep" / "apples.txt", "apples")
        Crate(apples=apples).write(place)


def test_a_text_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", "före")
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor)))

    def stop(source: Path, target: Path) -> None:
        assert synced  # on the disk before it gets its name
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_text(tmp_path / "a.txt", "after")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "före"
    write_text(tmp_path / "a.txt", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "after"


def test_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "BLOCK", 4)
    (tmp_path / "a").write_bytes(b"0123456789")
    heard: list[int] = []
    assert sha256_of(tmp_path / "a", heard.append) == hashlib.sha256(b"0123456789").hexdigest()
    assert heard == [4, 4, 2]
    assert checksum_of({"a": 1, "b": [2]}) == checksum_of({"b": [2], "a": 1}) != checksum_of({"a": 1, "b": [3]})


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "crate"
    with new_folder(out) as place:
        (place / "a").touch()
        assert place == draft_of(out) and not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["crate"]


def test_an_empty_folder_is_replaced_and_any_other_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    assert Crate.read(tmp_path / "empty").apples == 3
    (tmp_path / "file").touch()
    for taken in (tmp_path / "empty", tmp_path / "file"):
        with pytest.raises(TutelageError) as error:
            fill(taken)
        assert "already exists; remove it, or name another folder" in line_of(error)
    with pytest.raises(TutelageError, match="cannot be written"):
        free_place(tmp_path / "file" / "crate")
    (tmp_path / "mine.partial").mkdir()  # a store, or the user's own
    (tmp_path / "mine.partial" / "thesis.tex").touch()
    fill(tmp_path / "mine")
    assert (tmp_path / "mine.partial" / "thesis.tex").exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("of the body"), TutelageError("said so")])
def test_a_failure_leaves_nothing(failure: BaseException, tmp_path: Path) -> None:
    def broken() -> None:
        with new_folder(tmp_path / "crate") as place:
            (place / "a").touch()
            raise failure

    with pytest.raises(type(failure)) as error:
        broken()
    assert error.value is failure
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("place", [(os, "fsync"), (Path, "rename")])
def test_a_full_disk_is_said_in_a_line(
    place: tuple[object, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*of: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*place, full)
    with pytest.raises(TutelageError) as error:
        fill(tmp_path / "crate")
    assert "crate' cannot be written (No space left on device); name another folder" in line_of(error)
    assert not any(tmp_path.iterdir())


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = tmp_path / "crate.partial"
    (partial / "deep").mkdir(parents=True)
    (partial / "deep" / "a").touch()
    events: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(artifacts, "sync", lambda place: events.append(place.name))
    monkeypatch.setattr(Path, "rename", lambda one, other: (events.append("named"), rename(one, other))[1])
    publish(partial, tmp_path / "crate")
    assert events == ["crate.partial", "deep", "a", "named", tmp_path.name]


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_weights_may_be_read_by_whom_their_folder_lets_in(tmp_path: Path) -> None:
    """The library that writes them lets their owner alone."""
    for mode, wanted in ((0o755, 0o644), (0o750, 0o640), (0o700, 0o600)):
        folder = tmp_path / oct(mode)
        folder.mkdir()
        folder.chmod(mode)
        for name, write in (("a.safetensors", sync), ("b.tmp", seal)):
            save_file({"x": np.zeros(3, dtype=np.float32)}, folder / name)
            write(folder / name)
            assert (folder / name).stat().st_mode & 0o777 == wanted


@pytest.mark.parametrize("when", ["writes", "before the name", "removes"])
def test_a_killed_writer_leaves_a_folder_that_no_one_takes_for_finished(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*of: object, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        if when == "before the name":
            monkeypatch.setattr(Path, "rename", killed)
        try:
            with new_folder(tmp_path / "crate") as place:
                Crate(apples=1).write(place)
                if when == "removes":
                    monkeypatch.setattr(artifacts.shutil, "rmtree", killed)
                    raise ValueError("of the body")
                if when == "writes":
                    killed()
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "crate").exists()
    with pytest.raises(TutelageError) as error:
        Crate.read(tmp_path / "crate")
    assert "is not finished; run tutelage crate again" in line_of(error)
    fill(tmp_path / "crate", 2)  # what was left is no hindrance
    assert Crate.read(tmp_path / "crate").apples == 2
    assert sorted(path.name for path in (tmp_path / "crate").iterdir()) == ["deep", "manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["crate"]


def test_a_second_writer_waits_outside(tmp_path: Path) -> None:
    """It would remove what the first one has written so far."""
    with new_folder(tmp_path / "crate") as place:
        Crate(apples=1).write(place)
        with pytest.raises(TutelageError) as error:
            fill(tmp_path / "crate", 2)
        assert "another process writes" in line_of(error)
    assert Crate.read(tmp_path / "crate").apples == 1
    assert [path.name for path in tmp_path.iterdir()] == ["crate"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not a crate; tutelage crate makes one"),
        (b"", "is damaged: manifest.json: Invalid JSON"),
        (b'{"format": 1, "apples": ', "is damaged"),
        (b'{"format": 2, "apples": 1}', "format: Input should be 1"),
        (b'{"pears": 1}', "apples: Field required"),
        (b'{"apples": 1, "pears": 1}', "pears: Extra inputs"),
        (b"\xff\xfe", "codec can't decode"),
    ],
)
def test_damaged_and_foreign_manifests_are_refused_in_a_line(content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(TutelageError) as error:
        Crate.read(tmp_path)
    assert words in line_of(error)
    assert content is None or "remove it and make it again with tutelage crate" in line_of(error)
