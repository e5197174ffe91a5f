"""What is kept of hidden states: each choice against a slow one written from its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import examples, tiny_model

from tutelage.anatomy import Shape, shape_of
from tutelage.data.batches import step_batches
from tutelage.data.examples import Encoded, encode
from tutelage.errors import TutelageError
from tutelage.knowledge.cuts import Cut, Neurons, Tokens
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.selection import Selected, attention_of_first, choose_tokens, select
from tutelage.knowledge.signals import Tap
from tutelage.objectives import losses
from tutelage.objectives.hidden import Embeddings, Hidden
from tutelage.objectives.hidden_knowledge import HiddenKnowledge
from tutelage.objectives.mapping import topmost
from tutelage.objectives.objective import Objective
from tutelage.tasks import KINDS
from tutelage.teachers.teacher import LiveTeacher

KEYS = torch.arange(100)


def batch_of(tokenizer, count: int = 12, pairs: bool = True):
    data = examples(count, 3, pairs=pairs)
    encoded = encode(data, tokenizer, 40)
    return next(iter(step_batches(encoded.take(np.arange(count)), np.arange(count), 0, 1, 10**6)))


def slow_choice(tokens: Tokens, length: int, separators: set[int], scores: list[float]) -> list[int]:
    eligible = [j for j in range(length) if tokens.separators or j not in separators]
    if tokens.by == "left":
        ranked = sorted(eligible)
    else:
        ranked = sorted(eligible, key=lambda j: (-scores[j], j))
        if tokens.keep_first:
            ranked.remove(0)
            ranked.insert(0, 0)
    return ranked if tokens.count is None else ranked[: tokens.count]


@pytest.mark.parametrize("by", ["left", "attention"])
@pytest.mark.parametrize("separators", [True, False])
@pytest.mark.parametrize("keep_first", [True, False])
@pytest.mark.parametrize("count", [1, 4, 60, None])
def test_tokens_against_brute_force(by, separators: bool, keep_first: bool, count: int | None) -> None:
    """Ties, padding, more wanted than there are, pairs with two [SEP]."""
    tokens = Tokens(count=count, by=by, separators=separators, keep_first=keep_first)
    generator = torch.Generator().manual_seed(0)
    lengths = [3, 9, 14, 20]
    mask = (torch.arange(20) < torch.tensor(lengths)[:, None]).long()
    ends = [{n - 1, n // 2} for n in lengths]
    marks = torch.tensor([[j in end for j in range(20)] for end in ends])
    scores = torch.randint(0, 4, (4, 20), generator=generator).float()  # many ties
    positions, chosen = choose_tokens(tokens, mask, marks, scores, KEYS[:4])
    for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        expected = slow_choice(tokens, length, end, scores[row].tolist())
        assert positions[row][chosen[row]].tolist() == expected
        assert tokens.kept(length, len(end)) == len(expected) == int(chosen[row].sum())


def test_random_tokens_depend_on_content_and_seed_alone() -> None:
    mask = torch.ones(3, 10, dtype=torch.long)
    none = torch.zeros_like(mask, dtype=torch.bool)
    one = choose_tokens(Tokens(count=4, by="random"), mask, none, None, KEYS[:3])[0]
    longer = torch.cat([mask, torch.zeros(3, 5, dtype=torch.long)], dim=1)
    padded = choose_tokens(
        Tokens(count=4, by="random"), longer, torch.zeros_like(longer, dtype=torch.bool), None, KEYS[:3]
    )[0]
    other = choose_tokens(Tokens(count=4, by="random", seed=1), mask, none, None, KEYS[:3])[0]
    assert torch.equal(one, padded) and not torch.equal(one, other)
    assert len({tuple(row) for row in one.tolist()}) == 3
    more = choose_tokens(Tokens(count=7, by="random"), mask, none, None, KEYS[:3])[0]
    assert torch.equal(more[:, :4], one)  # fewer are the beginning of more
    draws = choose_tokens(
        Tokens(count=1, by="random"), mask[:1].expand(4000, 10), none[:1].expand(4000, 10), None, torch.arange(4000)
    )
    counts = torch.bincount(draws[0][:, 0], minlength=10)
    assert counts.min() > 320 and counts.max() < 480


@pytest.mark.parametrize("score", ["probability", "logit"])
def test_attention_of_the_first_token_is_that_of_eager_attention(tokenizer, score: str) -> None:
    batch = batch_of(tokenizer)
    model = tiny_model(spread=1.5)
    with torch.no_grad():
        tap = Tap(model, Needs(attention=frozenset({1, 3})))
        signals = tap(batch.inputs)
        tap.close()
        model.set_attn_implementation("eager")
        maps = model(**batch.inputs, output_attentions=True).attentions
    for layer in (1, 3):
        ours = attention_of_first(signals.queries[layer], signals.keys[layer], batch.mask, signals.scaling, score)
        theirs = maps[layer - 1][:, :, 0].mean(dim=1)
        if score == "probability":
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        else:  # logits are known up to a constant of each head: take the softmax of each head again
            scores = (signals.queries[layer][:, :, :1] @ signals.keys[layer].mT)[:, :, 0] * signals.scaling
            again = scores.masked_fill(batch.mask[:, None] == 0, -torch.inf).softmax(-1)
            torch.testing.assert_close(again, maps[layer - 1][:, :, 0], atol=1e-6, rtol=0)
            torch.testing.assert_close(ours, scores.mean(dim=1))


@pytest.mark.parametrize("by", ["magnitude", "uniform", "random"])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.33, 0.5])
def test_neurons_are_as_many_as_said_and_magnitude_keeps_most(by, share: float) -> None:
    width, vectors = 96, torch.randn(5, 7, 96, generator=torch.Generator().manual_seed(0))
    vectors[0, 0, :50] = 1.0  # ties
    count = max(1, round(share * width))
    cut = Cut(1, Tokens(), Neurons(count=count, by=by))
    mask = torch.ones(5, 7, dtype=torch.long)
    part = select(cut, Selected(vectors, mask), mask, mask < 0, None, KEYS[:5])
    assert part.values.shape == (5, 7, count)
    neurons = part.neurons.expand(5, 7, count)
    assert (neurons.diff(dim=-1) > 0).all() and neurons.max() < width
    assert torch.equal(part.values, vectors.gather(-1, neurons))
    if by == "magnitude":
        for b in range(5):
            for j in range(7):
                best = sorted(range(width), key=lambda i: (-abs(vectors[b, j, i].item()), i))[:count]
                assert neurons[b, j].tolist() == sorted(best)
    elif by == "uniform":
        assert neurons[0, 0].tolist() == [int(i * width / count + 0.5) for i in range(count)]
    energy = part.values.square().sum(-1)
    for seed in range(5):
        other = Neurons(count=count, by="random", seed=seed).mask(width)
        if by == "magnitude":
            assert (energy >= vectors[..., other].square().sum(-1) - 1e-6).all()


TABLE = {  # table of section 3.1 of the specification, as the authors' code rounds
    (4, 8): [0, 2, 4, 6, 8],
    (4, 10): [0, 2, 5, 8, 10],
    (4, 12): [0, 3, 6, 9, 12],
    (6, 8): [0, 1, 3, 4, 5, 7, 8],
    (6, 10): [0, 2, 3, 5, 7, 8, 10],
    (6, 12): [0, 2, 4, 6, 8, 10, 12],
    (3, 8): [0, 3, 5, 8],
    (3, 10): [0, 3, 7, 10],
    (3, 12): [0, 4, 8, 12],
}


@pytest.mark.parametrize(("sizes", "expected"), TABLE.items())
def test_the_table_of_layers(sizes: tuple[int, int], expected: list[int]) -> None:
    m, top = sizes
    assert topmost(None, top, m, 12, "half_even") == list(enumerate(expected))
    up = [int(i * top / m + 0.5) for i in range(m + 1)]
    assert topmost(None, top, m, 12, "half_up") == list(enumerate(up))
    assert topmost(1, top, m, 12, "half_up") == [(m, top)]
    assert topmost(2, top, m, 12, "half_up") == list(enumerate(up))[-2:]
    assert sizes != (4, 10) or up == [0, 3, 5, 8, 10]


def shape(layers: int, hidden: int = 32) -> Shape:
    return Shape("bert", layers, hidden, 4, 48, 45)


def loss_of(term, teacher, student, batch, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    objective = Objective(
        [term] if not isinstance(term, list) else term,
        KINDS["classification"],
        shape_of(student.config),
        shape_of(teacher.config),
    )
    tap, live = (
        Tap(student, objective.plan.student_needs),
        LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True)),
    )
    values = objective(tap(batch.inputs), live.signals(batch), batch)
    tap.close()
    live.close()
    return sum(values.values())


@pytest.mark.parametrize("hidden", [32, 16])
@pytest.mark.parametrize("target", ["ignore", "zero_fill"])
def test_all_of_it_is_the_plain_loss_to_the_bit(tokenizer, hidden: int, target: str) -> None:
    batch, teacher, student = batch_of(tokenizer), tiny_model(), tiny_model(seed=1, hidden=hidden)
    whole = HiddenKnowledge(keep="alll_allt_1h", top=4, width_target=target)
    how = "shared" if hidden != 32 else "none"
    ours = loss_of(whole, teacher, student, batch)
    plain = loss_of([Embeddings(project=how), Hidden(project=how)], teacher, student, batch)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=0)
    each = [loss_of(term, teacher, student, batch) for term in (Embeddings(project=how), Hidden(project=how))]
    inner = HiddenKnowledge(keep="4l_allt_1h", top=4, width_target=target)
    assert loss_of(inner, teacher, student, batch).item() == each[1].item()


@pytest.mark.parametrize("target", ["ignore", "zero_fill"])
@pytest.mark.parametrize("neurons_by", ["magnitude", "uniform", "random"])
@pytest.mark.parametrize(("hidden", "normalize"), [(32, "none"), (16, "none"), (16, "teacher")])
def test_the_loss_against_a_slow_one(tokenizer, target: str, neurons_by: str, hidden: int, normalize: str) -> None:
    batch, teacher, student = batch_of(tokenizer), tiny_model(), tiny_model(seed=1, hidden=hidden, layers=2)
    term = HiddenKnowledge(keep="2l_4t_0.25h", top=3, neurons_by=neurons_by, width_target=target, normalize=normalize)
    ours = loss_of(term, teacher, student, batch)
    torch.manual_seed(0)
    objective = Objective([term], KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    with torch.no_grad():
        theirs = teacher(**batch.inputs, output_hidden_states=True)
        mine = student(**batch.inputs, output_hidden_states=True).hidden_states
        teacher.set_attn_implementation("eager")
        maps = teacher(**batch.inputs, output_attentions=True).attentions
    total = 0.0
    for s, t in [(1, 2), (2, 3)]:
        squares, vectors = 0.0, 0
        for b in range(len(batch.rows)):
            before, kept_of_teacher, first = squares, 0.0, vectors
            ids, mask = batch.inputs["input_ids"][b].tolist(), batch.mask[b].tolist()
            scores = maps[t - 1][b, :, 0].mean(dim=0).tolist()
            eligible = [j for j in range(len(ids)) if mask[j] and ids[j] != tokenizer.sep_token_id]
            for j in sorted(eligible, key=lambda j: -scores[j])[:4]:
                h = theirs.hidden_states[t][b, j]
                x = mine[s][b, j]
                if hidden != 32:
                    x = objective.projections["hidden_knowledge_shared"](x)
                if neurons_by == "magnitude":
                    kept = sorted(range(32), key=lambda i: -abs(h[i].item()))[:8]
                else:
                    kept = Neurons(count=8, by=neurons_by).mask(32).tolist()
                if target == "ignore":
                    squares += sum((x[i] - h[i]).item() ** 2 for i in kept) / 8
                else:
                    squares += sum((x[i] - (h[i] if i in kept else 0)).item() ** 2 for i in range(32)) / 32
                vectors += 1
                kept_of_teacher += sum(h[i].item() ** 2 for i in kept) / (8 if target == "ignore" else 32)
            if normalize == "teacher":
                squares = before + (squares - before) / kept_of_teacher * (vectors - first)
        total += squares / vectors
    assert ours.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("hidden", [32, 16])
@pytest.mark.parametrize("project", ["per_layer", "shared"])
def test_a_term_goes_through_its_own_map_alone(tokenizer, project: str, hidden: int) -> None:
    """Beside a term that maps the same layers, each term has the loss that it has alone with the same map."""
    batch, teacher, student = batch_of(tokenizer), tiny_model(), tiny_model(seed=1, hidden=hidden, layers=2)
    plain, mapped = Hidden(), HiddenKnowledge(keep="2l_allt_1h", top=4, project=project)
    shapes = (KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    both = Objective([plain, mapped], *shapes)
    own = {"per_layer": {"hidden_knowledge_1", "hidden_knowledge_2"}, "shared": {"hidden_knowledge_shared"}}[project]
    assert set(both.projections) == own | ({"1", "2"} if hidden == 16 else set())

    def values(objective: Objective) -> dict[str, float]:
        tap, live = (
            Tap(student, objective.plan.student_needs),
            LiveTeacher(teacher, objective.plan.teacher_needs, None, Accelerator(cpu=True)),
        )
        found = {name: x.item() for name, x in objective(tap(batch.inputs), live.signals(batch), batch).items()}
        tap.close()
        live.close()
        return found

    together = values(both)
    for term in (plain, mapped):
        alone = Objective([term], *shapes)
        alone.projections.load_state_dict(both.projections.state_dict(), strict=False)
        assert values(alone) == {term.kind: pytest.approx(together[term.kind], rel=1e-6)}


def test_terms_that_map_in_opposite_directions_share_no_map() -> None:
    """One term maps the student's vectors to the teacher's width, another the teacher's to the student's."""
    teacher, student = tiny_model(), tiny_model(seed=1, hidden=16, layers=2)
    terms = [Embeddings(project="shared"), Hidden(project="shared", onto="student")]
    both = Objective(terms, KINDS["classification"], shape_of(student.config), shape_of(teacher.config))
    widths = {name: (linear.in_features, linear.out_features) for name, linear in both.projections.items()}
    assert widths == {"shared": (16, 32), "shared_onto_student": (32, 16)}


def test_padding_changes_nothing(tokenizer) -> None:
    data = examples(12, 3)
    encoded = encode(data, tokenizer, 40)
    teacher, student = tiny_model(), tiny_model(seed=1, hidden=16)
    values = []
    for pad_to in (None, 33):
        batch = next(iter(step_batches(encoded.take(np.arange(12)), np.arange(12), 0, 1, 10**6, pad_to)))
        for keep in ("alll_allt_0.3h", "2l_5t_0.1h"):
            values.append(loss_of(HiddenKnowledge(keep=keep), teacher, student, batch).item())
    assert values[:2] == pytest.approx(values[2:], rel=1e-5)


def test_pieces_of_a_step_add_up(tokenizer) -> None:
    data = examples(12, 3)
    encoded = encode(data, tokenizer, 40)
    teacher, student = tiny_model(), tiny_model(seed=1, hidden=16)
    term = HiddenKnowledge(keep="2l_5t_0.1h")
    whole = [
        loss_of(term, teacher, student, b)
        for b in step_batches(encoded.take(np.arange(12)), np.arange(12), 0, 1, 10**6)
    ]
    parts = [
        loss_of(term, teacher, student, b) for b in step_batches(encoded.take(np.arange(12)), np.arange(12), 0, 1, 40)
    ]
    assert len(parts) > 3
    assert sum(parts).item() == pytest.approx(whole[0].item(), rel=1e-5)


def test_what_cannot_be_is_refused() -> None:
    for keep in ("1l", "0l_1t_1h", "1l_1t_2h", "1l_1t_0h", "l_t_h"):
        with pytest.raises(ValueError, match=r"1l_10t_0\.1h"):
            HiddenKnowledge(keep=keep)
    for term, words in [
        (HiddenKnowledge(top=9), "top=9 is no layer"),
        (HiddenKnowledge(keep="4l_1t_1h"), "a student of 2 layers has 3"),
        (HiddenKnowledge(pairs_of_layers=[(3, 1)]), "the pair 3, 1"),
    ]:
        with pytest.raises(TutelageError, match=words):
            Objective([term], KINDS["classification"], shape(2), shape(4))
    with pytest.raises(TutelageError, match="project=shared"):
        Objective([HiddenKnowledge(project="none")], KINDS["classification"], shape(2, 16), shape(4))


def test_content_keys_tell_edits_apart() -> None:
    def keys(*texts: list[int]) -> list[int]:
        tokens = np.concatenate([np.array(t, dtype=np.int32) for t in texts])
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])])
        return Encoded(tokens, None, offsets, np.zeros(len(texts), bool), 0).keys.tolist()

    one = keys([1, 2, 3], [1, 3, 2], [1, 2], [1, 2, 3, 0], [2, 1, 3])
    assert len(set(one)) == 5
    assert keys([9, 9], [1, 2, 3])[1] == one[0]


def test_ignored_neurons_get_no_gradient() -> None:
    hidden = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.long)
    part = select(
        Cut(1, Tokens(), Neurons(count=2)), Selected(torch.randn(2, 3, 8), mask), mask, mask < 0, None, KEYS[:2]
    )
    losses.hidden_mse(hidden.gather(-1, part.neurons), part.values, mask).backward()
    assert ((hidden.grad != 0).sum(-1) == 2).all()
