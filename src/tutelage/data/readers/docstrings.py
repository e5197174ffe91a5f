"""The demo's data: sentences from the docstrings of installed packages."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.data.examples import Data, Examples
from tutelage.errors import TutelageError

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "networkx")


# The longest beginning of a file's path decides; files under none of these are about their subpackage.
_SUBJECTS = {
    ("networkx",): "graphs",
    ("numpy", "_core"): "arrays",
    ("numpy", "lib"): "arrays",
    ("numpy", "ma"): "arrays",
    ("scipy", "sparse", "linalg"): "linalg",
    ("sklearn",): "learning",
}


_LEFT_OUT = {"conftest.py", "externals", "misc", "test", "testing", "tests", "utils"}


@dataclass(frozen=True)
class Sentence:
    """One sentence of a docstring."""

    text: str
    subject: str
    source: str
    """The file, relative to the folder that packages are installed in: ``"scipy/stats/_qmc.py"``."""


def demo_data(subjects: int = 8, labelled: int = 2000, dev: int = 1500, unlabeled: int = 9000, seed: int = 0) -> Data:
    """Sentences to be told apart by subject: the most frequent subjects, as balanced as their counts allow.

    No source file has sentences both in ``dev`` and in ``train`` or ``unlabeled``. Where the packages hold
    less than asked for, ``unlabeled`` and ``dev`` are smaller. The same installed versions and ``seed`` give
    the same data.

    Raises:
        TutelageError: a package is not installed, or there are fewer subjects or sentences than asked for.
    """
    by_subject: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in subject_sentences(PACKAGES):
        by_subject[sentence.subject].append(sentence)
    if not 2 <= subjects <= len(by_subject):
        raise TutelageError(f"subjects is {subjects}: choose from 2 to {len(by_subject)}")
    names = tuple(sorted(sorted(by_subject, key=lambda name: (-len(by_subject[name]), name))[:subjects]))
    generator = np.random.default_rng([seed, 0xDE0])

    size = labelled + dev + unlabeled
    wanted = _balanced({name: len(by_subject[name]) for name in names}, size)
    held_out: list[Sentence] = []
    pools: dict[str, list[Sentence]] = {}
    for name in names:
        quota = math.ceil(wanted[name] * dev / size)
        outside, pools[name] = _split_by_file(by_subject[name], quota, generator)
        held_out += outside
    wanted = _balanced({name: len(pool) for name, pool in pools.items()}, labelled + unlabeled)
    taken = [sentence for name in names for sentence in _sample(pools[name], wanted[name], generator)]
    if len(taken) < labelled:
        raise TutelageError(f"labelled is {labelled}: there are only {len(taken)} sentences, choose fewer")
    taken = _sample(taken, labelled + unlabeled, generator)
    origin = "docstrings of " + ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return Data(
        task="subjects",
        kind="classification",
        labels=names,
        metrics=("accuracy", "macro_f1"),
        train=_examples("train", taken[:labelled], names),
        dev={"dev": _examples("dev", _sample(held_out, dev, generator), names)},
        unlabeled=_examples("unlabeled", taken[labelled:], names, hidden=True),
        sources={"train": origin, "unlabeled": origin, "dev": f"{origin}; files that are not in train"},
    )


def _balanced(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """How many to take of each, as even as possible: ``total`` or just above, or all that there are."""
    cap = 0
    while sum(min(count, cap) for count in counts.values()) < min(total, sum(counts.values())):
        cap += 1
    return {name: min(count, cap) for name, count in counts.items()}


def _split_by_file(
    sentences: Sequence[Sentence], quota: int, generator: np.random.Generator
) -> tuple[list[Sentence], list[Sentence]]:
    """``quota`` sentences from some files, and all the sentences of the other files."""
    files: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in sentences:
        files[sentence.source].append(sentence)
    order = [list(files)[i] for i in generator.permutation(len(files))]
    # Large files last: one of them would fill the quota alone, and the rest of it would go to waste.
    order.sort(key=lambda source: len(files[source]) > quota / 4)
    outside: list[Sentence] = []
    while len(outside) < quota and len(order) > 1:
        outside += files[order.pop(0)]
    return _sample(outside, quota, generator), [sentence for source in order for sentence in files[source]]


def _sample(sentences: Sequence[Sentence], size: int, generator: np.random.Generator) -> list[Sentence]:
    """At most ``size`` of ``sentences``, in random order."""
    return [sentences[i] for i in generator.permutation(len(sentences))[:size]]


def _examples(part: str, sentences: Sequence[Sentence], names: Sequence[str], hidden: bool = False) -> Examples:
    return Examples(
        ids=[f"{part}/{i}" for i in range(len(sentences))],
        texts=[sentence.text for sentence in sentences],
        pairs=None,
        labels=np.array([-1 if hidden else names.index(s.subject) for s in sentences], dtype=np.int64),
    )


def _version(package: str) -> str:
    return importlib.metadata.version({"sklearn": "scikit-learn"}.get(package, package))


def subject_sentences(packages: Sequence[str] = PACKAGES) -> list[Sentence]:
    """The distinct English sentences in the docstrings of ``packages``, in the order of the files' paths.

    The packages are read, not imported. The subject is the subpackage (``scipy.stats`` gives ``"stats"``), some taken
    together; tests, utilities, private subpackages and modules outside a subpackage have none. A sentence
    that occurs under two subjects is left out.

    Raises:
        TutelageError: a package is not installed.
    """
    first: dict[str, Sentence] = {}
    ambiguous: set[str] = set()
    for folder in [_folder(package) for package in packages]:
        for path in sorted(folder.rglob("*.py")):
            source = path.relative_to(folder.parent)
            subject = _subject(source.parts)
            if subject is None:
                continue
            for text in [text for docstring in _docstrings(path) for text in prose(docstring)]:
                key = text.casefold()
                if first.setdefault(key, Sentence(text, subject, source.as_posix())).subject != subject:
                    ambiguous.add(key)
    return [sentence for key, sentence in first.items() if key not in ambiguous]


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TutelageError(
            f'package {package}, whose docstrings are needed, is not installed: pip install "tutelage[demo]"'
        )
    return Path(spec.submodule_search_locations[0])


def _subject(parts: tuple[str, ...]) -> str | None:
    """The subject of the file at ``parts`` (package, folders, file)."""
    if _LEFT_OUT.intersection(parts):
        return None
    for length in (3, 2, 1):
        if parts[:length] in _SUBJECTS:
            return _SUBJECTS[parts[:length]]
    return parts[1] if len(parts) > 2 and not parts[1].startswith("_") else None


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings in the file, those set by ``add_docstr`` too; none if it is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes such as "\d" in other people's strings
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "add_docstr" in node.func.id:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def prose(docstring: str) -> list[str]:
    """The sentences of ``docstring`` that read like English prose, without markup, each on one line."""
    return [s for paragraph in _paragraphs(docstring) for s in _sentences(_plain(paragraph)) if _is_prose(s)]


_UNDERLINE = re.compile(r"\s*([-=~^#*+\"'`.:])\1{2,}\s*$")


_NO_TEXT = re.compile(_UNDERLINE.pattern + r"|[*`\w., {}'\"\[\]/-]{1,60} : ")  # or "x : int"


_DROPPED_SECTION = re.compile(r"(references?|see also|authors?|copyright|license):?$", re.IGNORECASE)


_CODE = (">>>", "$ ")


_DIRECTIVE = re.compile(r"\.\. (?!(?:note|warning|tip|important|caution|attention)::)")


_ITEM = re.compile(
    r"""[-*+•]\s+ | \(?(?:\d+|[a-zA-Z])[.)]\s+  # a bullet or a number
    | \.\.\s\w+::\s*                            # a directive with prose in it
    | :[\w ]+:(?!`)\s*                          # :param x: prose
    | [*`]*\w+[*`]*\s?(?:\(.*?\))?[*`]*\s?:\s+  # x (int): prose
    """,
    re.VERBOSE,
)


def _paragraphs(docstring: str) -> Iterator[str]:
    """The running text, each paragraph and list item on one line."""
    kept: list[str] = []
    indent = 0
    in_item = False  # the second line of a list item may be indented further than the first
    for here, text, item in [*_text_lines(docstring), (0, "", False)]:
        if kept and (not text or item or (here != indent and not (in_item and here > indent))):
            yield " ".join(kept)
            kept = []
        if not kept or in_item:
            indent, in_item = here, item
        if text:
            kept.append(text)


def _text_lines(docstring: str) -> Iterator[tuple[int, str, bool]]:
    """Lines: indent, text, whether a list item starts there. The text is empty where something is left out.

    Left out are code, directives (but for notes), headings, references and the names and types of parameters.
    """
    lines = docstring.expandtabs().splitlines()
    code_indent: int | None = None  # lines indented further than this belong to a directive or literal block
    in_doctest = in_dropped_section = False
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        text = line.strip()
        here = len(line) - len(line.lstrip())
        if not text:
            in_doctest = False
            yield 0, "", False
            continue
        if code_indent is not None and here > code_indent:
            continue
        code_indent = None
        heading = _UNDERLINE.match(following) is not None
        if heading:
            in_dropped_section = _DROPPED_SECTION.match(text) is not None
        in_doctest = in_doctest or text.startswith(_CODE)
        if _DIRECTIVE.match(text):
            code_indent = here
        elif not (heading or in_doctest or in_dropped_section or _NO_TEXT.match(text)):
            item = _ITEM.match(text)
            text = text[item.end() :] if item else text
            if text.endswith("::"):
                code_indent = here
            yield here, text, item is not None
            continue
        yield 0, "", False


_LOST = "\x00"  # a formula, or a reference that is a part of speech as in "see [1]_"


def _plain(text: str) -> str:
    """``text`` without reStructuredText markup; what a sentence cannot do without becomes ``_LOST``."""
    text = re.sub(r"(?<= in| by| of|See|see|and|rom|ith) \[[\w, -]*\]_", _LOST, text)
    text = re.sub(r"\s*\[[\w, -]*\]_", "", text)
    text = re.sub(r":math:`([A-Za-z]\w*)`", r"\1", text)
    text = re.sub(r":math:`[^`]*`", _LOST, text)
    # A role's text is its title where it has one (title <target>), else the last part of ~a.dotted.name.
    text = re.sub(r":[\w:+-]+:`([^`<]*)(?:<[^`]*>)?`", lambda m: m[1] if " " in m[1] else m[1].rpartition(".")[2], text)
    text = re.sub(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1", text)
    text = re.sub(r"(`{1,2})([^`]*)\1_{0,2}", r"\2", text)
    text = re.sub(r"(\*{1,2})(\w[^*]*)\1", r"\2", text).replace("`", "")
    return re.sub(r"\s+([,.;:])(?=\s|$)", r"\1", " ".join(text.split()))


_ABBREVIATION = re.compile(
    r"(?<![\w.'’])(?:e\.g|i\.e|etc|al|vs|cf|w\.r\.t|wrt|figs?|eqs?|eqn|sect?|ch|vol|pp?|resp|approx|dr|st)\.$",
    re.IGNORECASE,
)


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for boundary in re.finditer(r"(?<=[.!?])[\"')]*\s+", text):
        if not _ABBREVIATION.search(text[start : boundary.start()]):
            yield text[start : boundary.end()].strip()
            start = boundary.end()
    yield text[start:]


_FUNCTION_WORD = re.compile(
    "a|an|and|are|as|at|be|been|but|by|can|do|does|for|from|has|have|if|in|into|is|it|its|may|must|no|not|of|on|or"
    "|should|so|such|than|that|the|their|then|there|these|they|this|to|was|were|when|where|whether|which|will|with",
    re.IGNORECASE,
)


_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")


_NOT_PROSE = re.compile(
    r"[\x00=<>{}\[\]\\|@#^~*_$%]|://|www\.|--|::|\w\("  # code
    r"|\b(?:et al|arXiv|Proceedings|Proc|Journal|Springer|Press|IEEE Trans)\b"  # references
)


def _is_prose(sentence: str) -> bool:
    words = [word.strip(".,;:!?()\"'") for word in sentence.split()]
    return (
        8 <= len(words) <= 40
        and re.match(r"[A-Z].*[a-z)\"'][.!?]$", sentence) is not None
        and _NOT_PROSE.search(sentence) is None
        and sum(_WORD.fullmatch(word) is not None for word in words) >= 0.85 * len(words)
        and sum(_FUNCTION_WORD.fullmatch(word) is not None for word in words) >= max(2, len(words) // 6)
    )
