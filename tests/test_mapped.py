"""Large data: texts and tokens in mapped files make the same run as in memory, to the bit."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import LABELS, sentences, write_csv
from processes import KILLED, command, in_process, run_of

from tutelage.data import batches, mapped
from tutelage.data import examples as encodings
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples, RowFinder, encode, fingerprint
from tutelage.data.mapped import MappedTexts, Spool, held, taken
from tutelage.data.readers.files import read_table
from tutelage.data.texts import same_pieces
from tutelage.errors import TutelageError
from tutelage.methods import METHODS
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.run.inputs import Inputs
from tutelage.run.origins import texts_of
from tutelage.students.specs import Fresh
from tutelage.tasks.load import load_data

TEXTS = ["one", "", "zwei Wörter", "三", "line\nbreak\r", "half \ud800", "\0", "one"]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Everything is large; the folder of its files, which must be empty at any time."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    monkeypatch.setattr(encodings, "TOKENS_AT_ONCE", 50)
    return folder


def test_mapped_texts_are_a_sequence_of_strings(on_disk: Path) -> None:
    found = held(iter(TEXTS))
    assert isinstance(found, MappedTexts) and list(found) == TEXTS and len(found) == len(TEXTS)
    assert found == TEXTS and found != TEXTS[1:] and found != [*TEXTS[:-1], "two"] and found != "one"
    assert found[3] == "三" and found[-1] == "one" and found[np.int64(2)] == TEXTS[2]
    assert found[2:5] == TEXTS[2:5] and found[::-1] == TEXTS[::-1]
    with pytest.raises(IndexError):
        found[len(TEXTS)]
    part = taken(taken(found, np.array([5, 2, 2, 0])), [3, 1])
    assert isinstance(part, MappedTexts) and list(part) == ["one", TEXTS[2]]
    assert list(taken(found, [])) == [] and held(()) == [] and list(held(["", ""])) == ["", ""]
    assert taken(TEXTS, np.array([3])) == ["三"]
    assert not list(on_disk.iterdir())


def test_texts_stay_a_list_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "IN_MEMORY", 3 * (mapped.STRING + 1))
    assert isinstance(held("abc"), list) and isinstance(held("abcd"), MappedTexts) and list(held("abcd")) == [*"abcd"]


@pytest.mark.parametrize("limit", [0, 30, 10**6])
def test_a_spool_is_the_concatenation_of_its_pieces(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "IN_MEMORY", limit)
    pieces = [np.arange(count, dtype=np.int32) for count in (3, 0, 4, 9)]
    flat, rows = Spool(np.int32), Spool(np.int32, 2)
    for piece in pieces:
        flat.add(piece)
        rows.add(np.stack([piece, -piece], axis=1))
    numbers = flat.done()
    np.testing.assert_array_equal(numbers, np.concatenate(pieces))
    np.testing.assert_array_equal(rows.done(), np.stack([numbers, -numbers], axis=1))
    assert Spool(np.int8, 3).done().shape == (0, 3) and numbers.dtype == np.int32


def test_a_missing_folder_for_large_files_is_one_line(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch, teacher_folder: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(on_disk / "gone"))
    given = ["finetune", "--model", str(teacher_folder / "random"), "--train", str(teacher_folder / "train.csv")]
    code, line = command([*given, "--out", str(on_disk / "run")])
    assert code == 2 and len(line.strip().splitlines()) == 1 and "gone" in line and not (on_disk / "run").exists()


# ------------------------------------------------------------------------------------------------------------- encodings


def arrays(encoded: Encoded) -> dict[str, object]:
    fields = ("tokens", "types", "offsets", "cut", "targets", "partners", "keys", "separators", "logit_rows", "known")
    found = {name: getattr(encoded, name) for name in fields}
    windows = encoded.windows
    return {**found, "of": windows and windows.of.tolist(), "chars": windows and windows.chars.tolist()}


def assert_equal(ours: Encoded, theirs: Encoded) -> None:
    for name, array in arrays(ours).items():
        np.testing.assert_array_equal(array, arrays(theirs)[name], err_msg=name)


def in_memory(call: Callable[[], Encoded]) -> Encoded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "IN_MEMORY", 2**30)
        patch.setattr(encodings, "TOKENS_AT_ONCE", 2**30)
        found = call()
        arrays(found)
        return found


def test_mapped_tokens_are_those_in_memory(on_disk: Path, tokenizer) -> None:
    texts = sentences(60, 3)[0]
    given = Examples([str(i) for i in range(60)], texts, texts[::-1], np.arange(60))
    ours, theirs = encode(given, tokenizer, 20), in_memory(lambda: encode(given, tokenizer, 20))
    assert ours.types is not None and not ours.tokens.flags.writeable and theirs.tokens.flags.writeable
    more = {
        "targets": np.arange(len(theirs.tokens), dtype=np.int32) % 5 - 2,
        "windows": encodings.Windows(
            np.arange(60) // 2, np.arange(2 * len(theirs.tokens), dtype=np.int32).reshape(-1, 2)
        ),
        "partners": np.arange(len(theirs.tokens), dtype=np.int32) % 3 - 1,
    }
    assert_equal(ours, theirs)
    assert_equal(replace(ours, **more), in_memory(lambda: replace(theirs, **more)))
    assert len(list(ours.pieces())) > 5 and len(list(replace(ours, **more).pieces())) > 5
    for rows in (np.arange(60), np.array([59, 0, 0, 7]), np.arange(0)):
        taken_rows = in_memory(lambda rows=rows: replace(theirs, **more).take(rows))
        assert_equal(replace(ours, **more).take(rows), taken_rows)
    assert same_pieces(ours, theirs, None) and not same_pieces(ours, replace(theirs, tokens=theirs.tokens + 1), None)
    assert same_pieces(ours, replace(theirs, tokens=theirs.tokens + 1), np.arange(1, 100))
    assert not list(on_disk.iterdir())


def test_rows_are_found_by_their_ids() -> None:
    finder = RowFinder(["a/1", "b/1", "a/1", "c/2"])
    assert finder.of(["c/2", "a/1", "a/2", "b/1"]).tolist() == [3, 2, -1, 1]
    assert RowFinder([]).of(["a/1"]).tolist() == [-1] and finder.of([]).tolist() == []


def test_the_fingerprint_of_examples_has_not_changed() -> None:
    """Runs of before go on: it is the checksum of the contents and the answers as one JSON text."""
    from tutelage.artifacts import checksum_of

    for texts in (["one", 'a "quoted" one', "é"], []):
        given = Examples([str(i) for i in range(len(texts))], texts, None, np.arange(len(texts)))
        assert fingerprint(given, given.labels) == checksum_of([encodings.content(given), str(given.labels.tolist())])


# --------------------------------------------------------------------------------------------------------------- readers


def same(ours: Data, theirs: Data) -> None:
    parts = [{"train": one.train, "unlabeled": one.unlabeled, **one.dev} for one in (ours, theirs)]
    assert parts[0].keys() == parts[1].keys()
    for name, part in parts[0].items():
        other = parts[1][name]
        if part is None or other is None:
            assert part is other
            continue
        assert isinstance(part.texts, MappedTexts) and isinstance(other.texts, list)
        assert list(part.ids) == other.ids and list(part.texts) == other.texts
        assert (part.pairs and list(part.pairs)) == other.pairs
        np.testing.assert_array_equal(part.labels, other.labels)
        assert part.labels.dtype == other.labels.dtype
    assert (ours.labels, ours.notes, ours.sources, ours.kind) == (
        theirs.labels,
        theirs.notes,
        theirs.sources,
        theirs.kind,
    )
    assert texts_of(ours) == texts_of(theirs)


def check(monkeypatch: pytest.MonkeyPatch, config: DataConfig) -> None:
    """Read as large and as small data, the data are the same, or the line about them is."""
    found = list[Data | str]()
    for limit in (0, 2**30):
        monkeypatch.setattr(mapped, "IN_MEMORY", limit)
        try:
            found.append(load_data(config))
        except TutelageError as error:
            found.append(str(error))
    if isinstance(found[0], str) or isinstance(found[1], str):
        assert found[0] == found[1]
    else:
        same(found[0], found[1])


def parquet(path: Path, columns: dict[str, object], **features: object) -> Path:
    import datasets

    table = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        table = table.cast_column(name, feature)
    table.to_parquet(path, batch_size=7)
    return path


def test_a_large_parquet_file_is_read_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    texts, numbers = sentences(60, 5)
    other = sentences(60, 6)[0]
    named = datasets.ClassLabel(names=list(LABELS))
    plain = parquet(tmp_path / "a.parquet", {"text": texts, "other": other, "label": numbers}, label=named)
    gaps = parquet(tmp_path / "b.parquet", {"text": [None, *texts[1:]], "label": [*numbers[:-1], None]})
    scores = parquet(tmp_path / "c.parquet", {"text": texts, "label": [number / 7 for number in range(60)]})
    lists = parquet(tmp_path / "d.parquet", {"text": texts, "label": [["x", "y"][: i % 3] for i in range(60)]})
    check(monkeypatch, DataConfig(train=str(plain), unlabeled=str(gaps), skip_bad_rows=True))
    check(monkeypatch, DataConfig(train=str(plain), text_pair="other", dev=str(plain)))
    check(monkeypatch, DataConfig(train=str(gaps)))
    check(monkeypatch, DataConfig(train=str(gaps), skip_bad_rows=True, dev=str(plain)))
    check(monkeypatch, DataConfig(train=str(scores)))
    check(monkeypatch, DataConfig(train=str(lists)))
    check(monkeypatch, DataConfig(train=str(plain), text="texts"))
    check(monkeypatch, DataConfig(train=str(plain), unlabeled=str(plain), dev=str(plain)))
    damaged = bytearray(plain.read_bytes())
    damaged[4:60] = bytes(56)
    plain.write_bytes(damaged)
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    with pytest.raises(TutelageError, match=r"is not a sound \.parquet file"):
        load_data(DataConfig(train=str(plain)))


ROWS = [
    {"text": text, "label": LABELS[number], "n": i}
    for i, (text, number) in enumerate(zip(*sentences(40, 5), strict=True))
]
LINES = [json.dumps(row) for row in ROWS]
FILES = {
    "plain": LINES,
    "blank lines and others": ["\ufeff" + LINES[0], "", " \r", *(f"{line}\r" for line in LINES[1:])],
    "bad rows": [*LINES, "{", "3", '["text", "label"]', '{"text": "no label"}', '{"label": "negative"}', "{]\x1b[0m"],
    "first bad": ["{", *LINES],
    "all bad": ["{", "{", "3"],
    "lists": [json.dumps(list(row.values())) for row in ROWS],
    "mostly lists": [LINES[0], *(json.dumps(list(row.values())) for row in ROWS)],
    "one line": LINES[:1],
    "one list": ["[", *(f"{line}," for line in LINES[:-1]), LINES[-1], "]"],
    "columns": [json.dumps({"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]})],
    "numbers": [json.dumps({"text": i, "label": i % 2, "text ": "é"}, ensure_ascii=False) for i in range(40)],
    "escapes": [*LINES, '{"text": "\x1b$B$3$l", "label": "negative"}'],
    "nothing": ["", " "],
}


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_json_lines_file_is_read_as_a_small_one(
    content: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "\n".join(FILES[content]).encode()
    path = tmp_path / ("train.jsonl.gz" if packed else "train.jsonl")
    path.write_bytes(gzip.compress(whole) if packed else whole)
    for options in ({}, {"skip_bad_rows": True}, {"text": "txt"}, {"header": False, "text": "0", "label": "1"}):
        check(monkeypatch, DataConfig(train=str(path), **options))
    for broken in (whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 :], whole.decode().encode("utf-16")):
        path.write_bytes(gzip.compress(broken) if packed else broken)
        check(monkeypatch, DataConfig(train=str(path)))
    path.write_bytes(gzip.compress(whole)[:-9] if packed else b"PAR1" + whole)
    check(monkeypatch, DataConfig(train=str(path)))


def test_large_lines_of_text_are_read_as_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = parquet(tmp_path / "train.parquet", {"text": sentences(60, 5)[0], "label": sentences(60, 5)[1]})
    lines = sentences(30, 8)[0]
    for number, whole in enumerate(
        [
            "\n".join(["", *lines, "  "]),
            "\ufeff" + "\r\n".join(lines),
            "\r".join(lines),
            lines[0],
            "\n",
            "a\n\x1b$B$3$l\n",
        ]
    ):
        path = tmp_path / f"more{number}.txt"
        for encoding in ("utf-8", "utf-16", "latin-1"):
            path.write_bytes(whole.removeprefix("\ufeff" if encoding == "latin-1" else "").encode(encoding))
            check(monkeypatch, DataConfig(train=str(train), unlabeled=str(path)))
            check(monkeypatch, DataConfig(train=str(path), kind="embedding"))


def test_a_csv_file_has_mapped_texts(on_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, DataConfig(train=str(write_csv(tmp_path / "train.csv", 60, 1))))


def test_a_large_column_is_read_when_it_is_asked_for(on_disk: Path, tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet", {"text": ["a", "b"], "label": [0, 1], "more": [None, None]})
    table = read_table(path, ["text", "label"])
    assert list(table.column("label", "label")) == list(table.column("label", "label")) == [0, 1]
    assert table.columns["more"] == [None, None] and not isinstance(table.columns["text"], list)
    assert read_table(path, ["text"], whole=True).columns["text"] == ["a", "b"]


# --------------------------------------------------------------------------------------------------------------- memory


def anonymous_peak(path: Path, tokenizer: object) -> float:
    """MB that no file backs, at the peak, of reading a file, tokenising it, and batching an epoch; above what was there before."""

    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024

    mapped.IN_MEMORY = 2**20
    begun, seen, ended = now(), list[float](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            seen.append(now())

    watcher = threading.Thread(target=watch)
    watcher.start()
    encoded = encode(load_data(DataConfig(train=str(path))).train, tokenizer, 32)
    for names in batches.steps(encoded.lengths, np.arange(len(encoded)), 32, 0, 0):
        for _ in batches.step_batches(encoded.take(names), names, 0, 1, 16384):
            pass
    ended.set()
    watcher.join()
    return max(seen) - begun


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what memory is of files")
def test_memory_does_not_grow_with_the_data(tmp_path: Path, tokenizer) -> None:
    """A file of 80 MB takes some 10 MB more than one of 20 MB; in memory it takes 200 MB more."""
    peaks = []
    for count in (2_500, 10_000):
        texts = [f"{LABELS[number % 2]} {number} {'x' * 90} good" + " " * 7_900 for number in range(count)]
        path = tmp_path / f"{count}.parquet"
        pq.write_table(pa.table({"text": texts, "label": np.arange(count) % 2}), path, use_dictionary=False)
        peaks.append(in_process(anonymous_peak, path, tokenizer))
    assert peaks[1] - peaks[0] < 40, peaks


# ------------------------------------------------------------------------------------------------------------- whole runs


def large_run(path: Path, resume: bool = False, stop: int | None = None) -> None:
    mapped.IN_MEMORY = 0
    encodings.TOKENS_AT_ONCE = 50
    run_of(path, resume, stop)


def run_files(folder: Path) -> dict[str, bytes]:
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin")]
    return {str(name): (folder / name).read_bytes() for name in sorted(names)}


@pytest.mark.parametrize("method", ["tinybert", "kd"])
def test_a_run_on_large_data_has_the_bits_of_one_in_memory(
    method: str, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its student, its store of the teacher's knowledge, and its scores; killed and resumed, and resumed in memory."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    texts, labels = sentences(150, 11)
    train = parquet(tmp_path / "train.parquet", {"text": texts, "label": [LABELS[number] for number in labels]})
    more = tmp_path / "more.txt"
    more.write_text("\n".join(sentences(60, 12)[0]))
    recipe = METHODS[method]().part("task")
    stages = [stage.model_copy(update={"epochs": 1, "lr": 3e-3, "batch_size": 16}) for stage in recipe.stages]
    student = Fresh(layers=2, hidden=16, heads=4, intermediate=24)
    given = {
        "recipe": recipe.model_copy(update={"student": student, "stages": stages}),
        "data": DataConfig(train=str(train), unlabeled=str(more)),
        "teacher": str(teacher_folder / "teacher"),
        "teacher_store": "auto",
    }
    for name in ("memory", "large", "killed", "mixed"):
        (tmp_path / f"{name}.yaml").write_text(to_yaml(RunConfig(**given, out=str(tmp_path / name))))

    def carry_out(name: str, call: Callable[..., None], *more: object) -> object:
        monkeypatch.setenv("TUTELAGE_STORES", str(tmp_path / f"{name}-stores"))
        return in_process(call, tmp_path / f"{name}.yaml", *more)

    carry_out("memory", run_of)
    carry_out("large", large_run)
    assert carry_out("killed", large_run, False, 6) == KILLED
    carry_out("killed", large_run, True)
    assert carry_out("mixed", large_run, False, 6) == KILLED
    carry_out("mixed", run_of, True)
    assert not list(temporary.iterdir())
    whole, store = run_files(tmp_path / "memory"), run_files(tmp_path / "memory-stores")
    assert "student/model.safetensors" in whole and store
    report = json.loads((tmp_path / "memory" / "report.json").read_text())
    for name in ("large", "killed", "mixed"):
        assert run_files(tmp_path / name) == whole and run_files(tmp_path / f"{name}-stores") == store
        other = json.loads((tmp_path / name / "report.json").read_text())
        for part in ("data", "classes", "disagreements", "mechanisms"):
            assert other.get(part) == report.get(part), part
        for who in ("teacher", "student", "baseline"):
            assert other[who]["scores"] == report[who]["scores"]


def test_a_large_dataset_is_written_as_the_same_rows_in_a_list(on_disk: Path, tmp_path: Path) -> None:
    import datasets

    texts, numbers = sentences(40, 5)
    rows = {"text": texts, "label": [LABELS[number] for number in numbers]}
    names = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(LABELS))})
    dataset = datasets.Dataset.from_dict({"text": texts, "label": numbers}, features=names)
    found = set()
    for number, given in enumerate((rows, dataset, dataset.with_format("numpy"))):
        with Inputs(tmp_path / str(number)) as inputs:
            found.add(Path(inputs.data(None, {"train": given})["train"]).read_bytes())
    assert len(found) == 1 and not list(on_disk.iterdir())
    broken = datasets.Dataset.from_dict({"text": texts, "label": [b"x"] * 40})
    with Inputs(tmp_path / "broken") as inputs, pytest.raises(TutelageError, match="'label' that cannot be written as"):
        inputs.data(None, {"train": broken})
    with Inputs(tmp_path / "broken") as inputs, pytest.raises(TutelageError, match="has no column 'label'"):
        inputs.data(None, {"train": dataset.remove_columns("label")})
