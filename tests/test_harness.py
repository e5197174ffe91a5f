"""The harness that kills runs and damages files: its page, and that it sees what it looks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from harness import pages
from harness.damage import DAMAGE
from harness.kills import _verdict
from harness.work import Ended, left, names
from safetensors.numpy import save_file

from tutelage.studies.pages import filled

ROOT = Path(__file__).parents[1]


def test_the_page_is_made_of_the_results() -> None:
    out = Path("results/harness.json")
    results = json.loads((ROOT / out).read_text())
    page = filled(Path(pages.__file__).with_name("survival.md"), out=out, settings=None, **pages.page(results))
    assert page == (ROOT / "docs/results/survival.md").read_text()


def test_the_harness_sees_what_an_interruption_changed(tmp_path: Path) -> None:
    path = tmp_path / "student" / "model.safetensors"
    path.parent.mkdir()
    save_file({"x": np.arange(8.0)}, path)
    (tmp_path / "report.json").write_text(json.dumps({"student": {"scores": {"dev": 0.5}}, "seconds": 1}))
    whole = {"left": left(tmp_path), "names": names(tmp_path)}
    good = Ended(0, "", 1.0)
    (tmp_path / "report.json").write_text(json.dumps({"student": {"scores": {"dev": 0.5}}, "seconds": 2}))
    assert _verdict(good, whole, tmp_path) == ("same", "")
    assert _verdict(Ended(2, "one\nline", 1.0), whole, tmp_path) == ("not resumed", "line")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").touch()
    assert _verdict(good, whole, tmp_path) == ("left behind", "checkpoint/state.json")
    for latency in (1, 2):  # a measured time is no result
        (tmp_path / "arms.csv").write_text(f'method,latency_ms,mean\n"a, b",{latency},0.5\n')
        whole.setdefault("left", {}).setdefault("arms.csv", left(tmp_path)["arms.csv"])
        assert left(tmp_path)["arms.csv"] == whole["left"]["arms.csv"]
    (tmp_path / "arms.csv").write_text('method,latency_ms,mean\n"a, b",2,0.6\n')
    assert left(tmp_path)["arms.csv"] != whole["left"].pop("arms.csv")
    (tmp_path / "arms.csv").unlink()
    content = path.read_bytes()
    for harm in DAMAGE.values():
        harmed = harm(content, [content, b"other"])
        path.unlink(missing_ok=True)
        if harmed is not None:
            path.write_bytes(harmed)
        assert _verdict(good, whole, tmp_path) == ("differ", "student/model.safetensors")
