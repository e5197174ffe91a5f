import re
import sys
from collections import Counter

import numpy as np
import pytest

from tutelage.data.readers import docstrings
from tutelage.data.readers.docstrings import Sentence, demo_data, prose, subject_sentences
from tutelage.errors import TutelageError

STATS = '''"""Statistics of the small numbers that nobody else wants to count.

This sentence is about everything and so it is about nothing.
"""
raise RuntimeError("nobody imports this")


class Mean:
    """
    The *mean* of a sample is its sum over its ``size``.

    >>> Mean([1, 2]).value  # This is code and it must not be taken for prose.
    1.5

    Parameters
    ----------
    x : array_like
        The sample whose mean is to be computed by this class.
    """

    def value(self):
        """Short."""

    async def later(self):
        """The mean of a sample is its sum over its size."""
'''
SIGNAL = '"""This sentence is about everything and so it is about nothing."""\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    files = {
        "__init__.py": "raise RuntimeError",
        "stats/_mean.py": STATS,
        "signal/wave.py": SIGNAL + 'add_docstr(wave, r"""\nA wave is what the sea sends to the shore all day.\n""")\n',
        "stats/tests/test_mean.py": '"""This sentence is in a test and so it is not wanted."""\n',
        "_private/code.py": '"""This sentence is in a private package and so it is not wanted."""\n',
        "top.py": '"""This sentence is in no subpackage and so it has no subject."""\n',
        "stats/broken.py": "def (",
    }
    for name, code in files.items():
        path = tmp_path / "fakepackage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "fakepackage"


def test_subject_sentences(package):
    assert subject_sentences([package]) == [
        Sentence("A wave is what the sea sends to the shore all day.", "signal", "fakepackage/signal/wave.py"),
        Sentence(
            "Statistics of the small numbers that nobody else wants to count.", "stats", "fakepackage/stats/_mean.py"
        ),
        Sentence("The mean of a sample is its sum over its size.", "stats", "fakepackage/stats/_mean.py"),
        Sentence("The sample whose mean is to be computed by this class.", "stats", "fakepackage/stats/_mean.py"),
    ]
    assert package not in sys.modules


def test_missing_package():
    with pytest.raises(TutelageError, match=r'no_such_package.* pip install "tutelage\[demo\]"'):
        subject_sentences(["no_such_package"])


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (
            "See :class:`~torch.nn.Linear` or :ref:`the notes <notes>` for what a `layer <https://x.y>`_ may do.",
            ["See Linear or the notes for what a layer may do."],
        ),
        ("The mean is denoted by :math:`m` and it is finite.", ["The mean is denoted by m and it is finite."]),
        ("The mean is denoted by :math:`\\mu_1` and it is always finite.", []),
        (
            "This is used, e.g. in signals, as it is\nin images [1]_. It was described at length in [2]_ by them.",
            ["This is used, e.g. in signals, as it is in images."],
        ),
        (
            "Use it as it is used in the example here::\n\n    This is code and it must not be taken for prose.\n\n"
            "The rest of it is prose and it is kept.",
            ["The rest of it is prose and it is kept."],
        ),
        (
            ".. code-block:: python\n\n    This is code and it must not be taken for prose.\n\n"
            ".. note::\n    This is a note and it is kept as it stands.",
            ["This is a note and it is kept as it stands."],
        ),
        (
            "References\n----------\n.. [1] This is a book that is not in the text at all.\n\n"
            "   The second part of it is not in the text either.\n\n"
            "Notes\n-----\nThis is a note and it is kept as it stands.",
            ["This is a note and it is kept as it stands."],
        ),
        (
            "Args:\n    x (int): The number of things that are to\n        be counted by this function.\n"
            "    y: The number of things that are not to be counted.",
            [
                "The number of things that are to be counted by this function.",
                "The number of things that are not to be counted.",
            ],
        ),
        (
            "- The first item of the list goes on\n  over a second line of it.\n"
            "- The second item of the list is on one line.",
            [
                "The first item of the list goes on over a second line of it.",
                "The second item of the list is on one line.",
            ],
        ),
        ("the first word of this has no capital and it goes.", []),
        ("Parse, convert, check, normalise, cache, return values quickly.", []),
        ("", []),
    ],
)
def test_prose(docstring, expected):
    assert prose(docstring) == expected


def fake_sentences(packages):
    sizes = {"stats": (4, 50), "signal": (40, 3), "linalg": (30, 4), "rare": (2, 5)}
    return [
        Sentence(f"{subject} {file} {i}", subject, f"numpy/{subject}/{file}.py")
        for subject, (files, each) in sizes.items()
        for file in range(files)
        for i in range(each)
    ]


def test_demo_data(monkeypatch):
    monkeypatch.setattr(docstrings, "subject_sentences", fake_sentences)
    data = demo_data(subjects=3, labelled=60, dev=30, unlabeled=150, seed=1)
    dev = data.dev["dev"]
    assert data.unlabeled is not None
    assert data.labels == ("linalg", "signal", "stats")
    assert (len(data.train), len(dev), len(data.unlabeled)) == (60, 30, 150)
    assert data.train.ids[0] == "train/0"
    assert dev.ids[-1] == "dev/29"
    assert data.unlabeled.ids[0] == "unlabeled/0"
    assert set(data.unlabeled.labels) == {-1}
    assert data.train.labels.dtype == np.int64
    for part in (data.train, dev):
        assert [data.labels[i] for i in part.labels] == [text.split()[0] for text in part.texts]
    texts = [*data.train.texts, *dev.texts, *data.unlabeled.texts]
    assert len(set(texts)) == len(texts)
    counts = Counter(text.split()[0] for text in texts)
    assert max(counts.values()) - min(counts.values()) <= 4

    def file(text):
        return text.rsplit(" ", 1)[0]

    assert not {file(text) for text in dev.texts} & {file(text) for text in [*data.train.texts, *data.unlabeled.texts]}
    again = demo_data(subjects=3, labelled=60, dev=30, unlabeled=150, seed=1)
    assert (again.train.texts, again.dev["dev"].texts) == (data.train.texts, dev.texts)
    assert demo_data(subjects=3, labelled=60, dev=30, unlabeled=150, seed=2).train.texts != data.train.texts


def test_demo_data_refuses_what_there_is_not(monkeypatch):
    monkeypatch.setattr(docstrings, "subject_sentences", fake_sentences)
    with pytest.raises(TutelageError, match="subjects is 5: choose from 2 to 4"):
        demo_data(subjects=5)
    with pytest.raises(TutelageError, match="labelled is 2000: there are only"):
        demo_data(subjects=3)


@pytest.mark.slow
def test_installed_packages():
    data = demo_data()
    dev = data.dev["dev"]
    assert data.unlabeled is not None
    assert len(data.labels) == 8
    assert {"graphs", "optimize", "stats"} <= set(data.labels)
    assert (len(data.train), len(dev)) == (2000, 1500)
    assert len(data.unlabeled) >= 6000
    for part in (data.train, dev):
        share = np.bincount(part.labels, minlength=8) / len(part)
        assert share.min() > 0.05
        assert share.max() < 0.25
    texts = [*data.train.texts, *dev.texts, *data.unlabeled.texts]
    assert len(set(texts)) == len(texts)
    assert all(8 <= len(text.split()) <= 40 and re.match(r"[A-Z]", text) and text[-1] in ".!?" for text in texts)
    assert not any(mark in text for text in texts for mark in ("`", ">>>", "::", "\x00", "\n"))
