"""The ledger: what the five papers claim, and what the committed results say about each claim.

    python experiments/ledger.py

trains nothing. It reads the files that the other experiments and benchmarks have written into ``results`` and writes
``results/ledger.json`` and ``docs/results/ledger.md``. Each claim stands with the paper's figure and setting, what was found here,
the page with the command that repeats it, and a verdict: of differences it follows from their intervals, of ratios and counts from
the published figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import autoskdbert
import common
import knowledge_of_mpnet
import minimum_knowledge
import tinybert
import wid

from tutelage.studies.pages import judgement, listed, shown, tabled
from tutelage.studies.script import Arguments, Results, Script, before
from tutelage.studies.study import paired

FOLDER = Path("results")
PAPERS = {
    "WID": "Wu et al. 2024, arXiv:2305.09098",
    "minimum knowledge": "Liu et al. 2021, ACL, arXiv:2106.05691",
    "AutoSKDBERT": "AutoSKDBERT, OpenReview csARsNPKgVi, and SKDBERT, AAAI 2023, arXiv:2211.14466",
    "TinyBERT": "Jiao et al. 2019, arXiv:1909.10351, tables 2, 3, 5, 6 and 7 of an earlier version; in the last one "
    "TinyBERT4 has 77.0 on the test sets and 75.6 in the ablations",
    "Pea-KD": "Cho and Kang 2022, PLOS ONE, arXiv:2009.14822",
}
HELD, PARTLY, MIXED, FAILED, OPEN, MISSING = (
    "held",
    "held in part",
    "held and failed",
    "did not hold",
    "not decidable here",
    "not measured",
)
LOST = {arm: scores[-1] - tinybert.PUBLISHED["full"][-1] for arm, scores in tinybert.PUBLISHED.items()}
"""What a row of the paper's ablations lacks of the whole method, in the mean of four tasks."""
SINGLE = "best single"
"""In each seed the student of the teacher whose student is best on the validation split."""
Differences = Mapping[str, Sequence[float]]
"""By setting, differences paired by seed; positive ones speak for the claim."""


@dataclass(frozen=True)
class Claim:
    """What a paper says (``says``) by which figures in which setting (``theirs``).

    ``ours`` reads the differences from the results, or the words and the verdict where the measure is no difference; ``None`` where
    nothing was measured. ``limits`` is why the runs here cannot decide it, or what they leave open. A claim of being as good as
    something is counted as one of being better than ``margin`` below it.
    """

    paper: str
    says: str
    theirs: str
    ours: Callable[[], Differences | tuple[str, str]] | None
    evidence: str
    limits: str = ""
    margin: float = 0.0


def result(name: str) -> Results:
    return before(FOLDER / f"{name}.json")


Scores = Mapping[str, Mapping[str, Mapping[int, float]]]
"""By setting, arm and seed."""


def gains(read: Callable[[], Scores], ours: str, theirs: str) -> Callable[[], Differences]:
    """How much higher one arm scores than another, in each setting."""

    def found() -> Differences:
        return {setting: paired(by.get(ours, {}), by.get(theirs, {})) for setting, by in read().items()}

    return found


def of_words(**arms: str) -> Callable[[], Differences]:
    """How much higher the losses of arms are than WID's, in nats; each arm with its name in the setting, which may be empty."""

    def read() -> Differences:
        kinds = result("wid")["words"]["kinds"]
        return {
            f"{wid.KINDS[name].title}{', ' if words else ''}{words}, nats": wid.behind_wid(kinds[name]["arms"])[arm]
            for name in kinds
            for arm, words in arms.items()
        }

    return read


def attention_of_words() -> Scores:
    """Cosine with the teacher's same head."""
    kinds = result("wid")["words"]["kinds"].items()
    return {
        f"{wid.KINDS[name].title}, cosine": {
            arm: {seed: one["same_head"]["cosine"] for seed, one in enumerate(of["attention"])}
            for arm, of in kind["arms"].items()
        }
        for name, kind in kinds
    }


def of_wid_tasks() -> Scores:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for run in result("wid")["tasks"]["runs"]:
        arms = found.setdefault(f"{run['task']} at {run['width']}", {})
        arms.setdefault(run["arm"], {})[run["seed"]] = run["score"]
    return found


def of_knowledge() -> Scores:
    results, large = result("minimum_knowledge"), result("knowledge_of_mpnet")
    found = {task: minimum_knowledge.scores_of(results, task) for task in results["teachers"]}
    students = {(one["task"], one["student"]) for one in large["runs"]}
    of_mpnet = {
        f"{task}, {student} from MPNet": knowledge_of_mpnet.scores_of(large, task, student)
        for task, student in sorted(students)
    }
    return found | of_mpnet


def of_teams() -> Scores:
    return {name: autoskdbert.scores_of(team, runs) for name, team, runs in teams()}


def of_tinybert() -> Scores:
    return {task: common.by_arm(runs, "accuracy") for task, runs in result("tinybert")["runs"].items()}


def of_pea() -> Scores:
    found = {}
    for start, results in result("pea_kd")["tasks"].items():
        places = dict.fromkeys((run["task"], run["stored"]) for run in results["runs"])
        for task, stored in places:
            words = f"{task}, {stored} stored" + ("" if start == "teacher" else f", from {start}")
            found[words] = common.by_arm(results["runs"], "accuracy", task=task, stored=stored)
    return found


def of_glue() -> Scores:
    results = result("glue")
    metrics = {task: next(iter(common.flat(teacher["scores"]))) for task, teacher in results["teachers"].items()}
    return {task: common.by_arm(results["runs"], metric, "method", task=task) for task, metric in metrics.items()}


def held(found: Iterable[bool]) -> str:
    """The verdict on a claim that is true or not in each setting."""
    return MIXED if len(seen := set(found)) == 2 else HELD if seen == {True} else FAILED


def speed_of_stores() -> tuple[str, str]:
    """Steps with a running teacher and all hidden states over steps from a small store: seconds, no seeds. Of the paper's pairs."""
    ratios = {
        f"{rows['title']}, {rows['length']} tokens": rows["step_ms"]["live full"] / rows["step_ms"]["stored small"]
        for rows in result("offline").values()
        if rows["title"].startswith("BERT-base")
    }
    words = "; ".join(f"{name}: {ratio:.2f}x" for name, ratio in ratios.items())
    return words, held(ratio >= 2.7 for ratio in ratios.values())


def sizes_of_students() -> tuple[str, str]:
    """Times that a student of the paper's shape is as fast as BERT-base."""
    model = result("sizes")["models"]["4 x 312"]
    words = f"{model['speedup']:.1f}x, {model['without_pooler'] / 1e6:.1f} M parameters without the pooler"
    return words, held([model["speedup"] >= 9.4])


def bad_teachers_dropped() -> tuple[str, str]:
    """In how many runs the first phase drops the teacher that was trained on wrong labels."""
    found = {}
    for name, team, runs in teams():
        for _, stages, bad, count in autoskdbert.searches(team, common.of(runs, arm="phase1")):
            found[name] = count, len(bad) * len(stages)
    words = "; ".join(f"{name}: {count} of {total} runs" for name, (count, total) in found.items())
    return words, held(count == total for count, total in found.values())


def teams() -> Iterator[tuple[str, Results, common.Runs]]:
    """The results on real teams, by task; the one whose task another file has, too, has a name of its own."""
    for file, words in (("autoskdbert", ""), ("autoskdbert_cola", ""), ("autoskdbert_sst2", "all of sst2")):
        results = result(file)
        for task, team in results["teams"].items():
            yield words or task, team, common.of(results["runs"], task=task)


CLAIMS = (
    Claim(
        "WID", "Inherited weights beat a student of the size that is trained from scratch, also with the teacher's predictions",
        "GPT: training curves of vanilla, KD and WID students", of_words(kd="", scratch="labels alone"), "wid",
        "KD's best rate on next words is the highest that was tried.",
    ),
    Claim(
        "WID", "Mixing coordinates beats keeping some of them", "the text contrasts WID with pruning",
        of_words(slice_norm=""), "wid", "WID takes 1.4 to 2.4 times as long for as many steps.",
    ),
    Claim(
        "WID", "The student is better on tasks than one made of slices", "no such row in what we have read",
        gains(of_wid_tasks, "wid_dim", "slice_norm"), "wid",
        "240 to 340 steps. On stsb at 96 nothing learns; at 192 the slices do not.",
    ),
    Claim(
        "WID", "The student has more of the teacher's attention than one trained by KD, without a loss on it",
        "figure of attention patterns", gains(attention_of_words, "wid", "kd"), "wid", "Cosine with the same head.",
    ),
    Claim(
        "WID", "It has more of the teacher's attention than one made of slices", "no such row in what we have read",
        gains(attention_of_words, "wid", "slice_norm"), "wid",
        "With one compactor a group WID has 0.78 on masked words, and slices have 0.67.",
    ),
    Claim(
        "WID", "Fewer whole heads are as good as smaller ones", "both named as ways; no figure in what we have read",
        gains(of_wid_tasks, "wid_head", "wid_dim"), "wid", "Within 0.02.", margin=0.02,
    ),
    Claim(
        "WID", "WID 55 M keeps 98.9 % of BERT-base", "83.4 of 84.3 in the mean, dev", None, "wid",
        "Needs a pretrained teacher with its masked-language head and days.",
    ),
    Claim(
        "WID", "WID 55 M is better than TinyBERT (GD) and DistilBERT after fine-tuning",
        "average 83.4 against 81.2 (TinyBERT, 54.9 M) and 80.1 (DistilBERT, 67.5 M); BERT-base 84.3; dev", None, "wid",
        "Needs a general stage of each from one teacher of BERT-base's size.",
    ),
    Claim(
        "WID", "WID 11 M is better than TinyBERT (GD) of its size", "average 76.7 against 75.6, dev", None, "wid",
        "Needs the same.",
    ),
    Claim(
        "minimum knowledge", "Hidden states help over soft labels alone", "abstract; BERT-base, 4 x 312 and ROSITA6",
        gains(of_knowledge, "full", "none"), "minimum_knowledge", "On sst2 the teacher is 0.03 above plain fine-tuning: no room.",
    ),
    Claim(
        "minimum knowledge", "A tiny fraction of the hidden states is as good as all of them",
        "abstract; about 1 % as a reader reports",
        gains(of_knowledge, minimum_knowledge.WIDTH_AT, "full"), "minimum_knowledge",
        "1.5 % (stsb) and 3 % (sst2) of the bytes; within 0.01.", margin=0.01,
    ),
    Claim(
        "minimum knowledge", "A tiny fraction of the hidden states does better than none", "not compared in what we have read",
        gains(of_knowledge, minimum_knowledge.WIDTH_AT, "none"), "minimum_knowledge", "1.5 % (stsb) and 3 % (sst2) of the bytes.",
    ),
    Claim(
        "minimum knowledge", "Some part of the knowledge beats all of it", "abstract",
        gains(of_knowledge, "alll_allt_0.1h", "full"), "minimum_knowledge",
        "All neurons' largest tenth; no arm is beyond its interval.",
    ),
    Claim(
        "minimum knowledge", "Which part is kept matters", "crucial knowledge is in few places (abstract)",
        gains(of_knowledge, minimum_knowledge.WIDTH_AT, "1l_1t_1h"), "minimum_knowledge",
        "10 tokens' tenths against one whole token.",
    ),
    *(
        Claim(
            "minimum knowledge", f"Neurons by magnitude are better than {theirs} ones",
            "as a reader reports, not checked in the paper",
            gains(of_knowledge, *(f"{minimum_knowledge.WIDTH_AT}, {by}, zero_fill" for by in ("magnitude", theirs))),
            "minimum_knowledge", "With the other neurons set to zero, as in the authors' code; ignoring them most of it goes.",
        )
        for theirs in ("uniform", "random")
    ),
    *(
        Claim(
            "minimum knowledge", f"Tokens by attention without [SEP] are better than {words}",
            "as a reader reports, not checked in the paper",
            gains(of_knowledge, minimum_knowledge.LENGTH_AT, f"{minimum_knowledge.LENGTH_AT}, {theirs}"), "minimum_knowledge",
            "Five tokens of each text.",
        )
        for theirs, words in (("attention with [SEP]", "with it"), ("left", "the first ones"))
    ),
    *(
        Claim("minimum knowledge", says, "as a reader reports, not checked in the paper", None, "minimum_knowledge", why)
        for says, why in (
            ("Each further part of the knowledge gains less", "Six of the ten amounts were not run."),
            ("The narrow student bears less knowledge better than the pruned one", "One student was run."),
        )
    ),
    Claim(
        "minimum knowledge", "Layer 10 of 12 as the topmost is better than 12", "as a reader reports, not checked in the paper",
        gains(of_knowledge, knowledge_of_mpnet.FULL, knowledge_of_mpnet.LAST), "knowledge_of_mpnet",
        "Too few seeds for a difference of this size.",
    ),
    Claim(
        "minimum knowledge", "Training from a store is at least 2.7 times as fast as with a running teacher",
        "2.7 to 3.4 times, two students of BERT-base, two kinds of device (abstract)",
        speed_of_stores, "store_speed",
        "Medians of a step on a CPU, no seeds. From MiniLM, a small teacher, to 3 x 384: 1.66x and 1.52x.",
    ),
    Claim(
        "AutoSKDBERT", "It is better than other methods of distillation", "MRPC 93.2/90.7, RTE 76.9: +0.6/+1.2 and +2.9 over the "
        "best before (split and size unknown)", None, "autoskdbert", "MRPC and RTE were not run.",
    ),
    Claim(
        "AutoSKDBERT", "A learned distribution is better than uniform draws", "no figure in what we have read",
        gains(of_teams, "learned", "uniform"), "autoskdbert",
        "Students copy layers 1, 4 and 6; on cola they have 0.10 to 0.15 MCC, which separates no teachers.",
    ),
    Claim(
        "AutoSKDBERT", "A learned distribution is better than the best single teacher", "no figure in what we have read",
        gains(of_teams, "learned", SINGLE), "autoskdbert",
        "The best on the validation split, found in as many runs as there are teachers.",
    ),
    Claim(
        "AutoSKDBERT", "The best single teacher is better than the ensemble", "table 1: so on some tasks",
        gains(of_teams, SINGLE, "ensemble"), "autoskdbert",
    ),
    Claim(
        "AutoSKDBERT", "The first phase drops teachers that teach nothing", "stated outline", bad_teachers_dropped, "autoskdbert",
        "With simulated teams none of 35 is kept ([page](planted_teams.md)).",
    ),
    Claim(
        "AutoSKDBERT", "A learned distribution is better than the ensemble", "no figure in what we have read",
        gains(of_teams, "learned", "ensemble"), "autoskdbert", "Teachers are variants of one 22 M model.",
    ),
    Claim(
        "AutoSKDBERT", "Updating the drawn teacher's weight alone is better than all weights at each step", "stated purpose",
        gains(of_teams, "phase1", "joint"), "autoskdbert",
    ),
    Claim(
        "AutoSKDBERT", "The second phase helps", "stated outline", gains(of_teams, "learned", "phase1"), "autoskdbert",
    ),
    Claim(
        "TinyBERT", "4 x 312 is 9.4 times as fast as BERT-base", "table 3: 19.9 s against 188 s on a K80, 14.5 M parameters",
        sizes_of_students, "sizes", "Batch 128, 128 tokens, CPU, random weights.",
    ),
    *(
        Claim(
            "TinyBERT", f"{what} helps", f"without it {LOST[arm]:+.1f} in the mean of MNLI-m, MNLI-mm, MRPC and CoLA (dev)",
            gains(of_tinybert, "full", arm), "tinybert", why,
        )
        for arm, what, why in (
            ("no_gd", "General distillation", ""),
            ("no_td", "Task distillation", "Without it there are half as many steps."),
            ("no_da", "Augmentation", "Without it there are a third to a half as many steps."),
            ("no_trm", "The loss on transformer layers", ""),
            ("no_attn", "The loss on attention", ""),
            ("no_pred", "The loss on predictions", "Labels stand in their place; mrpc's teacher is right on 81 %."),
        )
    ),
    *(
        Claim(
            "TinyBERT", f"The uniform map is better than the {arm} layers",
            f"{LOST[arm]:+.1f} with the {arm} ones in the mean of four (dev)",
            gains(of_tinybert, "full", arm), "tinybert",
        )
        for arm in ("top", "bottom")
    ),
    Claim(
        "TinyBERT", "The student is better than plain training of its shape", "76.5 against 70.2 in the mean (GLUE test)",
        gains(of_tinybert, "full", "plain"), "tinybert", "Random start for both; the paper's small BERT is pretrained.",
    ),
    Claim(
        "TinyBERT", "The task stages are better than PKD", "the whole method: 76.5 against 72.6 in the mean (GLUE test)",
        gains(of_glue, "tinybert", "pkd"), "glue",
        "No general stage, no augmentation; its last stage has a third of the steps.",
    ),
    *(
        Claim("TinyBERT", says, theirs, None, "tinybert", "Not run.")
        for says, theirs in (
            ("The loss on embeddings helps", f"without it {LOST['no_embd']:+.1f} in the mean of four (dev)"),
            ("The loss on hidden states helps", f"without it {LOST['no_hidn']:+.1f} in the mean of four (dev)"),
            ("The student is better than DistilBERT", "76.5 against 71.9 in the mean (GLUE test)"),
            ("Six layers are level with BERT-base", "79.4 against 79.5 in the mean (GLUE test, last version)"),
        )
    ),
    Claim(
        "Pea-KD", "Pea-KD is better than PKD", "the student gains 4.4 % in the mean of four tasks (abstract)",
        gains(of_pea, "full", "pkd"), "pea_kd",
        "A 6-layer teacher of 22 M; 3 and 6 stored layers were not run.",
    ),
    Claim(
        "Pea-KD", "Layers that run twice are better than once", "the tables were not at hand",
        gains(of_pea, "paired", "pkd"), "pea_kd", "Twice the time of the student.",
    ),
    Claim(
        "Pea-KD", "Exchanged queries and keys are better than the same layers again", "the tables were not at hand",
        gains(of_pea, "shuffled", "paired"), "pea_kd",
    ),
    Claim(
        "Pea-KD", "A first stage on PTP labels helps", "the tables were not at hand", gains(of_pea, "ptp", "pkd"), "pea_kd",
        "The teacher is nearly always right on what it was trained on; labels of held-out folds were not tried.",
    ),
    Claim(
        "Pea-KD", "PTP labels say more than the same in random order", "the tables were not at hand",
        gains(of_pea, "full", "full, verdicts at random"), "pea_kd",
    ),
)  # fmt: skip


def verdict(found: Differences) -> str:
    """What the intervals say of a claim in all its settings."""
    if not any(found.values()):
        return MISSING
    judged = {judgement(values) for values in found.values() if len(values) > 1}  # one seed decides nothing
    if "did not hold" in judged:
        return MIXED if "held" in judged else FAILED
    if "held" in judged:
        return HELD if judged == {"held"} else PARTLY
    return OPEN


def measure(arguments: Arguments) -> Iterator[Results]:
    rows = []
    for claim in CLAIMS:
        found = claim.ours() if claim.ours else {}
        if isinstance(found, tuple):
            words, said = found
        else:
            said = verdict({name: [value + claim.margin for value in values] for name, values in found.items()})
            words = "; ".join(
                f"{name}: {shown(values, '+')} ({len(values)})" for name, values in found.items() if values
            )
        rows.append(
            {"paper": claim.paper, "claim": claim.says, "published": claim.theirs, "measured": words, "verdict": said}
            | {"evidence": claim.evidence, "limits": claim.limits}
        )
    yield {"claims": rows}


COLUMNS = {
    "claim": "{claim}",
    "published": "{published}",
    "measured here": lambda row: row["measured"] or "-",
    "verdict": "**{verdict}**",
    "evidence": "[page]({evidence}.md)",
    "what limits it": "{limits}",
}


def page(results: Results) -> Results:
    rows, lines = results["claims"], []
    counts = Counter(row["verdict"] for row in rows)
    for paper, source in PAPERS.items():
        lines += [f"## {paper}", "", f"{source}.", "", *tabled(COLUMNS, common.of(rows, paper=paper))]
    verdicts = (HELD, PARTLY, MIXED, FAILED, OPEN, MISSING)
    said = listed([f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict]])
    return {"count": len(rows), "tally": said, "papers": lines}


SCRIPT = Script(__file__, __doc__, "ledger")

if __name__ == "__main__":
    SCRIPT.conduct(measure, page)
