"""Corpora and candidates that several processes make together: the bytes of one process, kills, and errors of one of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from processes import KILLED, command, in_processes
from transformers import BertForMaskedLM

from tutelage.data.augmentation import propose
from tutelage.data.corpus import building
from tutelage.errors import TutelageError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def others(folder: Path) -> list[str]:
    """What lies beside the folder of a command under the same name."""
    return sorted(path.name for path in folder.parent.glob(f"{folder.name}.*"))


def counted(work: Callable[..., Any], end: str | None) -> tuple[Callable[..., Any], list[int]]:
    """The function, and a list that grows with each call. In its third call it ends as ``end`` says: ``killed``, or ``failed`` in
    the second process alone."""
    calls: list[int] = []

    def counting(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 3 and end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == 3 and end == "failed" and os.environ.get("RANK") == "1":
            raise TutelageError("the second process has no luck; try again")
        return work(*given)

    return counting, calls


# ---------------------------------------------------------------------------------------------------------------- corpora


def build(words: list[str], end: str | None = None) -> tuple[int, int, str]:
    """``tutelage corpus build`` in blocks of 300 characters: of how many blocks this process, exit code and errors. ``full``: the
    disk of the first process is."""
    building.BUFFER = 300
    if end == "full":
        building._Arrays.add = full
    make, calls = building._tokeniser, list[int]()

    def tokeniser(*given: Any) -> Any:
        nonlocal calls
        tokenise, calls = counted(make(*given), end)
        return tokenise

    building._tokeniser = tokeniser
    code, errors = command(["corpus", "build", *words, "--json"])
    return len(calls), code, errors


def full(*given: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.fixture
def sources(tmp_path: Path, endoftext) -> list[str]:
    """Two files, and a tokenizer whose tokens depend on what stands before. Documents are in one block or in several, and some
    sentences have no tokens where the tokenizer drops control characters."""
    lines = [f"Word{i} is good. It is word{i % 7}!\n" + "\n" * (i % 5 == 0 or 20 < i < 24) for i in range(90)]
    (tmp_path / "a.txt").write_text("".join(lines[:50]) + "\x01\n\n\x02\n\nlast", encoding="utf-8")
    (tmp_path / "b.txt").write_text("".join(lines[50:]) + "\n\x02", encoding="utf-8")
    endoftext.save_pretrained(tmp_path / "words")
    return [str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--tokenizer", str(tmp_path / "words"), "--out"]


def test_processes_build_the_corpus_of_one(sources: list[str], tokenizer, tmp_path: Path) -> None:
    ((blocks, code, errors),) = in_processes(1, build, [*sources, str(tmp_path / "one")])
    assert (code, errors) == (0, "") and blocks > 6
    (tmp_path / "three").mkdir()  # an empty folder is a place for a corpus
    for name, processes in (("two", 2), ("three", 3)):
        ends = in_processes(processes, build, [*sources, str(tmp_path / name)])
        assert ends == [(len(range(rank, blocks, processes)), 0, "") for rank in range(processes)]
        assert contents(tmp_path / name) == contents(tmp_path / "one") and not others(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / "words")  # of words; drops control characters
    for name, processes in (("single", 1), ("pair", 2)):
        in_processes(processes, build, [*sources, str(tmp_path / name), "--split", "lines"])
    assert contents(tmp_path / "single") == contents(tmp_path / "pair") != contents(tmp_path / "one")


def test_a_killed_build_of_two_is_built_anew_by_any_number(sources: list[str], tmp_path: Path) -> None:
    words = [*sources, str(tmp_path / "cut")]
    assert in_processes(2, build, words, "killed") == [KILLED, KILLED]
    assert "cut.tutelage-partial" in others(tmp_path / "cut") and not (tmp_path / "cut").exists()
    assert in_processes(1, build, words)[0][1:] == (0, "")
    in_processes(2, build, [*sources, str(tmp_path / "two")], "killed")
    in_processes(2, build, [*sources, str(tmp_path / "two")])
    assert contents(tmp_path / "cut") == contents(tmp_path / "two") and not others(tmp_path / "cut")


def shortened(words: list[str], short: str) -> tuple[int, int, str]:
    """The second process reads another file than the first one."""
    return build([short if os.environ["RANK"] == "1" else words[0], *words[1:]])


def test_an_error_of_one_process_ends_a_build_in_a_line(sources: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = "tutelage: the second process has no luck; try again\n"
    assert [end[1:] for end in in_processes(2, build, [*sources, str(out)], "failed")] == [(2, line)] * 2
    for content in ("Word1", (tmp_path / "a.txt").read_text(encoding="utf-8").replace("Word9", "Word8")):
        (tmp_path / "short.txt").write_text(content, encoding="utf-8")
        for _, code, error in in_processes(2, shortened, [*sources, str(out)], str(tmp_path / "short.txt")):
            assert code == 2 and error.count("\n") == 1 and "the processes read different texts; give" in error
    for _, code, error in in_processes(2, shortened, [*sources, str(out)], str(tmp_path / "none.txt")):
        assert code == 2 and error.count("\n") == 1 and "none.txt' does not exist; check the path" in error
    line = f"tutelage: '{out}' cannot be written (No space left on device); name another folder\n"
    assert [end[1:] for end in in_processes(2, build, [*sources, str(out)], "full")] == [(2, line)] * 2
    out.mkdir()
    (out / "thesis.tex").touch()
    for _, code, error in in_processes(2, build, [*sources, str(out)]):  # found by the first alone
        assert code == 2 and error.count("\n") == 1 and "already exists; remove it" in error
    assert not others(out) and [path.name for path in out.iterdir()] == ["thesis.tex"]


# ------------------------------------------------------------------------------------------------------------- candidates


def augment(words: list[str], end: str | None = None) -> tuple[int, int, str]:
    """``tutelage augment`` in batches of 300 tokens: of how many batches this process, exit code and errors."""
    propose.CPU_TOKENS = 300
    propose._proposals, calls = counted(propose._proposals, end)
    code, errors = command(["augment", *words, "--json"])
    return len(calls), code, errors


def test_processes_propose_the_candidates_of_one(teacher_folder: Path, tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(tiny_model().config).save_pretrained(tmp_path / "proposer")
    tokenizer.save_pretrained(tmp_path / "proposer")
    train = ["--train", str(teacher_folder / "train.csv"), "--unfiltered"]
    words = ["--proposer", str(tmp_path / "proposer"), *train, "--out"]
    ((batches, code, errors),) = in_processes(1, augment, [*words, str(tmp_path / "one")])
    assert (code, errors) == (0, "") and batches > 6
    (first, *end), second = in_processes(2, augment, [*words, str(tmp_path / "two")])
    assert (first + second[0], *end) == (batches, 0, "") and 0 <= first - second[0] <= 1
    cut = [*words, str(tmp_path / "cut")]
    assert in_processes(2, augment, cut, "killed") == [KILLED, KILLED]
    line = "tutelage: the second process has no luck; try again\n"
    assert [end[1:] for end in in_processes(2, augment, cut, "failed")] == [(2, line)] * 2
    assert not (tmp_path / "cut").exists() and not others(tmp_path / "cut")
    assert in_processes(1, augment, cut) == [(batches, 0, "")]
    for name in ("two", "cut"):
        assert contents(tmp_path / name) == contents(tmp_path / "one") and not others(tmp_path / name)
