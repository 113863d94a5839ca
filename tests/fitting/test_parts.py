"""Clips of a video read each by itself: a fit is that of the clips as examples, and their answers are averaged."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logit, logsumexp
from torch.nn import functional as F

import iceprobe
from iceprobe.analysis.importance import replaced_logits
from iceprobe.analysis.maps import patch_maps
from iceprobe.core.errors import IceprobeError
from iceprobe.cost.phases import forward_flops, training_flops
from iceprobe.fitting.engine import JointTrainer, group_losses, predict
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.fitted_probe import logits_of
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.memory import step_memory
from iceprobe.fitting.pieces import Cutting
from iceprobe.fitting.stacked import Member
from iceprobe.probes import within_budget
from iceprobe.probes.probe import build_for
from iceprobe.protocols.protocol import get_protocol
from iceprobe.store import Store
from iceprobe.store.saving import save
from iceprobe.tasks import get_task
from iceprobe.tokens import JoinedTokens, Tokens, TokenShape
from tests.fitting.layers import SIZES, arrays, store_of
from tests.fitting.test_engine import float64  # noqa: F401

CPU = torch.device("cpu")
CLIPS, TIME, SIDE, DIM, CLASSES = 3, 2, 2, 24, 3
GRID, PART = (CLIPS * TIME, SIDE, SIDE), (TIME, SIDE, SIDE)
EACH = TIME * SIDE * SIDE  # tokens of a clip
PROBES = ["ep4", "ep2?out_dim=12", "aim4", "mhca4", "abmilp", "block4", "slot2", "dsmil2", "delf", "clip4",
          "simpool", "siglip4", "vjepa4", "cae4", "cait4", "coca2", "capi4", "max",
          "ep4?complementarity=0.3&entropy=0.2"]  # fmt: skip
SETTINGS = {"epochs": 3, "seeds": 2, "learning_rates": [0.02], "protocol": "paper"}
TASKS = ("classification", "multilabel", "regression")


def videos(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``(n, C · n', D)``; the class is written into one token of two of the three clips."""
    rng, targets = np.random.default_rng(seed), np.arange(n) % CLASSES
    x = rng.normal(size=(n, CLIPS, EACH, DIM)).astype(np.float32)
    for row, target in enumerate(targets):
        for clip in rng.permutation(CLIPS)[:2]:
            place = rng.integers(EACH)
            x[row, clip, place, 0] += 4
            x[row, clip, place, 1 + target] += 3
    return x.reshape(n, CLIPS * EACH, DIM), targets


def targets_of(task: str, classes: np.ndarray) -> np.ndarray:
    """The classes, a tag of each, or two numbers of them; a few cells aren't known."""
    if task == "classification":
        return classes
    found = np.eye(CLASSES)[classes]
    if task == "regression":
        found = np.stack([100.0 + 5 * classes, -0.01 * classes], 1)
    found[::7, 1] = np.nan
    return found


@functools.cache
def stores(task: str = "classification", n: int = 48) -> tuple[Store, Store]:
    """One of examples in parts, and one whose examples are the clips."""
    together, alone = {}, {}
    for name, count, seed in (("train", n, 0), ("test", 18, 1)):
        x, y = videos(count, seed)
        y = targets_of(task, y)
        together[name] = (x, y)
        alone[name] = (x.reshape(-1, EACH, DIM), np.repeat(y, CLIPS, 0))
    return (
        iceprobe.from_tokens(together, grid=GRID, parts=CLIPS),
        iceprobe.from_tokens(alone, grid=PART),
    )


def feed_of(store: Store, cutting: Cutting | None = None, split: str = "train") -> Feed:
    part = store[split]
    inputs, dtype = {"patches", "mean"}, torch.get_default_dtype()
    return Feed(part, np.arange(len(part)), inputs, CPU, dtype).in_pieces(cutting)


def groups_of(labels: list[str], store: Store, task="classification", scaling=None):
    members = [Member(label, 3e-3, 0.01, seed) for label in labels for seed in (0, 1)]
    return make_groups(
        members, store.shape, len(store.classes), CPU, scaling=scaling, task=get_task(task)
    )


def whole(feed: Feed):
    (batch,) = feed.in_order(len(feed))
    return batch


CUTS = {
    "whole": None,
    "held": Cutting(2 * CLIPS * EACH, 10**9),
    "streamed": Cutting(CLIPS * EACH, 0),
}


IN_PIECES = [
    (label, cut) for label in ("ep4", "aim4", "clip4", PROBES[-1]) for cut in ("held", "streamed")
]


@pytest.mark.parametrize(("label", "cut"), [*((label, "whole") for label in PROBES), *IN_PIECES])
def test_a_step_is_that_of_the_clips_as_examples(label, cut, float64):  # noqa: F811
    found = []
    for store in stores():  # in pieces of the same clips
        (group,) = groups_of([label], store)
        batch = whole(feed_of(store, CUTS[cut]))
        losses = group_losses([group], batch, get_task("classification"))
        losses[0].sum().backward()
        gradients = {name: one.grad for name, one in group.parameters.items()}
        found.append((losses[0].detach(), gradients, group.running_mean, group.running_var))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert any(one is not None and one.abs().max() > 0 for one in found[0][1].values())


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_a_task_is_the_mean_over_the_clips(task, float64):  # noqa: F811
    """By torch, of the fitted module of one clip."""
    together, alone = stores(task)
    learning = get_task(task).learning(
        together["train"].targets, "balanced" if task != "regression" else "none"
    )
    (group,) = groups_of(["ep4?batch_norm=false"], together, task, learning.scaling)
    (found,) = group_losses([group], whole(feed_of(together)), learning)
    for g, module in enumerate(
        groups_of(["ep4?batch_norm=false"], alone, task, learning.scaling)[0].probes()
    ):
        outputs = module(alone["train"].tokens(np.arange(48 * CLIPS)).patches.double())
        expected = learning.loss(outputs, torch.from_numpy(alone["train"].targets))
        torch.testing.assert_close(found[g], expected, rtol=1e-9, atol=1e-12)
        if task == "classification":  # balanced already
            plain = F.cross_entropy(outputs, torch.from_numpy(alone["train"].targets))
            torch.testing.assert_close(found[g], plain, rtol=1e-6, atol=1e-9)


def averaged(task: str, outputs: np.ndarray) -> np.ndarray:
    """``(n · C, K)`` of clips → ``(n, K)`` of videos, from the equation."""
    clips = outputs.reshape(-1, CLIPS, outputs.shape[-1])
    if task == "classification":
        return logsumexp(log_softmax(clips, -1), 1) - np.log(CLIPS)
    if task == "multilabel":
        return logit(expit(clips).mean(1))
    return clips.mean(1)


@pytest.mark.parametrize(
    ("task", "cut"),
    [*((task, "whole") for task in TASKS), *(("classification", cut) for cut in CUTS if CUTS[cut])],
)
def test_outputs_are_the_mean_over_the_clips(task, cut, float64):  # noqa: F811
    """Of the engine's record, of fitted modules, and of modules on tokens, after two steps."""
    labels = ["ep4", "aim4", "clip4", "simpool", "linear?input=mean"]
    together, alone = stores(task)
    learning = get_task(task).learning(together["train"].targets)
    ours, theirs = (groups_of(labels, one, task, learning.scaling) for one in (together, alone))
    trainers = [JointTrainer(groups, "adamw", 6, 2, task=learning) for groups in (ours, theirs)]
    for _ in range(2):
        trainers[0].train_step(whole(feed_of(together, CUTS[cut])))
        trainers[1].train_step(whole(feed_of(alone)))
    records = predict(ours, feed_of(together, CUTS[cut], "test").in_order(7), get_task(task))
    for group, record, same in zip(ours, records, theirs, strict=True):
        if group.input == "mean":  # one vector a video
            assert group.probes()[0].parts == 1
            continue
        modules = group.probes()
        clips = alone["test"].tokens(np.arange(18 * CLIPS)).patches.double()
        expected = np.stack([averaged(task, one(clips).detach().numpy()) for one in same.probes()])
        pieces = whole(feed_of(together, CUTS[cut], "test")).pieces("patches")
        tokens = together["test"].tokens(np.arange(18))
        found = [
            logits_of(modules, pieces),
            torch.stack([one(tokens.patches.double()) for one in modules]),
            torch.stack(
                [one(Tokens(tokens.patches.double(), tokens.prefix.double())) for one in modules]
            ),
        ]
        for outputs in found:
            np.testing.assert_allclose(outputs.detach().numpy(), expected, rtol=1e-7, atol=1e-9)
        wanted = get_task(task).record(
            torch.from_numpy(expected), torch.from_numpy(together["test"].targets)
        )
        for name, field in wanted.items():
            if field.is_floating_point():
                torch.testing.assert_close(record[name], field, rtol=2e-3, atol=2e-3)  # 16 bits
            else:
                assert torch.equal(record[name], field)


def test_a_task_that_says_nothing_has_the_mean_of_its_outputs():
    from tests.tasks.test_ordinal import Ordinal

    outputs = torch.randn(2, 5 * CLIPS, 4, dtype=torch.float64)
    task = Ordinal()
    torch.testing.assert_close(task.averaged(outputs, CLIPS), outputs.view(2, 5, CLIPS, 4).mean(2))
    assert task.averaged(outputs, 1) is outputs


def test_certain_answers_stay_finite():
    task, tags = get_task("classification"), get_task("multilabel")
    outputs = torch.tensor([[300.0, -300.0], [-300.0, 300.0]])
    torch.testing.assert_close(task.averaged(outputs, 2), torch.full((1, 2), np.log(0.5).item()))
    torch.testing.assert_close(tags.averaged(outputs, 2), torch.zeros(1, 2))
    assert tags.averaged(torch.full((2, 1), 300.0), 2).item() == pytest.approx(300)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    together, alone = stores(n=60)
    labels = ["knn", "linear?input=mean", "ep4", "clip4", "delf"]
    output = tmp_path_factory.mktemp("fitted") / "run"
    return together, alone, iceprobe.fit(together, labels, **SETTINGS, output=output)


def test_a_fit_predicts_the_mean_probability_of_its_clips(fitted):
    _, alone, results = fitted
    clips = alone["test"].tokens(np.arange(18 * CLIPS)).patches
    for result in results[2:]:
        (module, _) = result.probes
        one = build_for(alone.shape, result.label, CLASSES)  # of one clip
        one.load_state_dict(module.state_dict())
        with torch.no_grad():
            expected = averaged("classification", one.eval()(clips).double().numpy())
        record = iceprobe.records(result)
        np.testing.assert_allclose(record["logits"][0].astype(float), expected, atol=2e-3)
        assert (record["predicted"][0] == expected.argmax(1)).all()
        assert result.training["parts"] == CLIPS
        assert result.flops.per_image == CLIPS * one.flops(EACH)
        assert result.parameters.total == one.num_parameters()["total"]
        assert result.num_tokens == CLIPS * EACH


def test_vectors_are_those_of_the_whole_example(fitted, tmp_path):
    """k-NN and linear probes read the mean over all clips, as without parts."""
    together, _, results = fitted
    plain = iceprobe.from_tokens({"train": videos(60, 0), "test": videos(18, 1)}, grid=GRID)
    assert torch.equal(plain["test"].mean, together["test"].mean)
    same = iceprobe.fit(plain, ["knn", "linear?input=mean"], **SETTINGS, output=tmp_path / "run")
    for mine, theirs in zip(results[:2], same, strict=True):
        assert mine.top1.values == theirs.top1.values
        for name, field in iceprobe.records(theirs).items():
            np.testing.assert_array_equal(iceprobe.records(mine)[name], field)


def test_a_saved_fit_is_tested_on_examples_in_as_many_parts(tmp_path):
    data = {"train": videos(30, 0), "test": videos(12, 1)}
    store = save(iceprobe.from_tokens(data, grid=GRID, parts=CLIPS), tmp_path / "store")
    assert store.shape.parts == CLIPS
    settings = {**SETTINGS, "output": tmp_path / "run"}
    (result,) = iceprobe.fit(store, ["ep4"], **settings)
    (again,) = iceprobe.fit(store, ["ep4"], **settings, resume=True)
    tokens = store["test"].tokens(np.arange(12))
    assert torch.equal(again.probes[0](tokens), result.probes[0](tokens))
    other = {"test": videos(9, 5), "train": videos(9, 6)}
    (tested,) = iceprobe.test(tmp_path / "run", iceprobe.from_tokens(other, grid=GRID, parts=CLIPS))
    x, y = other["test"]
    answers = result.probes[0](torch.from_numpy(x)).argmax(1).numpy()
    assert tested.top1.values[0] == pytest.approx((answers == y).mean())
    with pytest.raises(
        IceprobeError, match=r"on examples of 3 parts each \(parts=\), and these tok"
    ):
        iceprobe.test(tmp_path / "run", iceprobe.from_tokens(other, grid=GRID), name="whole")


LAYERED = ["ep4?layers=4,5", "ep4?join=width&layers=4,5", "clip4?join=width&layers=4,5", "ep4?layers=5",
           "linear?input=mean&layers=4,5"]  # fmt: skip


@pytest.mark.parametrize("label", LAYERED)
def test_clips_of_several_layers_stay_together(label, float64):  # noqa: F811
    """Two clips of two tokens of each layer: against the clips as examples."""
    shapes = TokenShape(8, 4, 1, (2, 2), True, parts=2), TokenShape(8, 2, 1, (1, 2), True)
    both = []
    for shape in shapes:
        found = []
        for layer in (4, 5):
            tensors = {}
            for name in SIZES:
                patches, prefix = (one.double() for one in arrays(name, layer))
                mean = patches.mean(1)
                if shape.parts == 1:
                    patches = patches.reshape(-1, 2, 8)
                    patches = patches[: len(prefix)]  # the first half of the videos
                tensors[name] = {"patches": patches, "prefix": prefix, "mean": mean}
            found.append(store_of(tensors, shape, layer))
        both.append(Store.joined(found))
    together, alone = both
    module = build_for(together.shape, label, CLASSES, 0, get_task("classification")).eval()
    tokens = together["test"].tokens(np.arange(30))
    feed = Feed(together["test"], np.arange(30), {module.input}, CPU, torch.float64)
    read = logits_of([module], whole(feed).pieces(module.input))[0]
    double = JoinedTokens.of({
        n: Tokens(t.patches.double(), t.prefix.double(), t.grid, t.has_class) for n, t in tokens.layers.items()
    })  # fmt: skip
    torch.testing.assert_close(module(double), read, rtol=1e-6, atol=1e-6)  # means are of 32 bits
    if module.parts == 1:
        return
    one = build_for(alone.shape, label, CLASSES, 0).eval()
    assert one.state_dict().keys() == module.state_dict().keys()
    clips = one(alone["test"].tokens(np.arange(60)))
    expected = clips.softmax(-1).view(30, 2, -1).mean(1).log()
    torch.testing.assert_close(read, expected.to(read), rtol=1e-6, atol=1e-6)
    maps = module.on_patches(module.attention(double), 4)
    single = one.on_patches(one.attention(alone["test"].tokens(np.arange(60))), 2)
    expected = single.view(30, 2, -1, 2).transpose(1, 2).flatten(2) / 2
    torch.testing.assert_close(maps, expected.to(maps), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("label", ["ep4", "clip4", "simpool", "coca2", "mean_value"])
def test_maps_lie_over_all_clips(label, float64):  # noqa: F811
    """Each clip has an equal share of the attention; evidence sums to the mean of the clips' logits."""
    together, alone = stores()
    module = (
        build_for(together.shape, label, CLASSES, 0, get_task("classification")).double().eval()
    )
    one = build_for(alone.shape, label, CLASSES, 0).double().eval()
    x = together["test"].tokens(np.arange(6)).patches.double()
    clips = alone["test"].tokens(np.arange(6 * CLIPS)).patches.double()
    tokens = Tokens(x, x[:, :0], GRID)
    if module.pooling.num_predictors:
        single = one.attention(clips)
        expected = single.view(6, CLIPS, -1, EACH).transpose(1, 2).flatten(2) / CLIPS
        torch.testing.assert_close(module.attention(tokens), expected)
        maps, share = patch_maps(module, tokens)
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(share))
        singles, shares = patch_maps(one, Tokens(clips, clips[:, :0], PART))
        torch.testing.assert_close(share, shares.view(6, CLIPS, -1).mean(1))
        if not share.any():
            wanted = singles.view(6, CLIPS, -1, EACH).transpose(1, 2).flatten(2) / CLIPS
            torch.testing.assert_close(maps, wanted)
    if module.pooling.additive:
        outputs = torch.arange(6)[:, None] % CLASSES
        for asked in (None, outputs):
            found = module.evidence(x, asked).sum(-1)
            logits = (one(clips) - one.classifier.bias).view(6, CLIPS, CLASSES).mean(1)
            torch.testing.assert_close(found, logits if asked is None else logits.gather(1, asked))
    pooled = one.pooling(clips).view(6, CLIPS, -1).mean(1)
    torch.testing.assert_close(module.descriptors(tokens), pooled)


def test_importance_replaces_a_predictor_in_every_clip(float64):  # noqa: F811
    together, alone = stores()
    module = (
        build_for(together.shape, "ep4", CLASSES, 0, get_task("classification")).double().eval()
    )
    one = build_for(alone.shape, "ep4", CLASSES, 0).double().eval()
    x = together["test"].tokens(np.arange(6)).patches.double()
    clips = alone["test"].tokens(np.arange(6 * CLIPS)).patches.double()
    found = replaced_logits(module, Tokens(x, x[:, :0], GRID))
    single = replaced_logits(one, Tokens(clips, clips[:, :0], PART))
    torch.testing.assert_close(found[0], module(x))
    for mine, theirs in zip((found[0], *found[1]), (single[0], *single[1]), strict=True):
        expected = averaged("classification", theirs.detach().numpy())
        np.testing.assert_allclose(mine.detach().numpy(), expected, rtol=1e-9)


def test_a_sample_is_of_all_clips():
    together, _ = stores()
    feed = feed_of(together)
    sample = feed.sample("patches", 0)
    every = together["train"].tokens(np.arange(48)).patches.flatten(0, 1)
    assert torch.equal(sample.sort(0).values, every.sort(0).values)
    pieces = feed.in_pieces(CUTS["held"]).sample("patches", 0)
    assert torch.equal(pieces, sample)


def test_costs_are_those_of_each_clip_times_their_number():
    together, alone = stores()
    for label in PROBES:
        mine, one = (build_for(store.shape, label, CLASSES) for store in (together, alone))
        for cost in (forward_flops, training_flops):
            assert cost(mine, together.shape) == CLIPS * cost(one, alone.shape)
        steps = [
            step_memory(
                {label: 2},
                SimpleNamespace(
                    build=lambda label, store=store: build_for(store.shape, label, CLASSES),
                    protocol=get_protocol("heldout"), device=CPU, dtype=torch.float32,
                    shape=store.shape, max_tokens=None,
                ),
                48, stored,
            )
            for store, stored in ((together, 3000), (alone, 1000))
        ]  # fmt: skip
        assert steps[0].per_image == CLIPS * steps[1].per_image
    (cheapest, *_) = within_budget(DIM, CLASSES, CLIPS * EACH, flops=10**9, parts=CLIPS)
    exact = build_for(together.shape, cheapest, CLASSES).flops(CLIPS * EACH)
    assert cheapest in within_budget(DIM, CLASSES, CLIPS * EACH, flops=exact, parts=CLIPS)
    with pytest.raises(IceprobeError, match=f"the least is {exact:,}"):
        within_budget(DIM, CLASSES, CLIPS * EACH, flops=exact - 1, parts=CLIPS)


@pytest.mark.parametrize("format", ["folder", "onnx"])
def test_an_exported_probe_averages(fitted, tmp_path, format):
    together, _, results = fitted
    result = results[2]
    tokens = together["test"].tokens(np.arange(18)).patches
    expected = result.probes[0](tokens).detach()
    iceprobe.export(result, tmp_path / "model", format=format)
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(tmp_path / "model" / "model.onnx")
        (found,) = session.run(["logits"], {"tokens": tokens.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
        return
    model = iceprobe.load_probe(tmp_path / "model")
    torch.testing.assert_close(model(tokens), expected)
    with pytest.raises(IceprobeError, match="in 3 equal parts got 23 tokens an example"):
        model(tokens[:, :-1])


def test_what_does_not_fit_is_refused():
    x, y = videos(12, 0)
    data = {"train": (x, y), "test": (x, y)}
    for given, options, line in (
        (data, {"parts": 5}, "parts=5: 24 tokens have no 5 equal parts"),
        (data, {"parts": 4, "grid": GRID}, "parts=4: 6 first places of grid="),
        ({"train": (x[:, 0], y)}, {"parts": 3}, "and X has one vector an example: leave it out"),
        (
            {"train": ([x[0], x[1][:5]], y[:2])},
            {"parts": 3},
            "and X has examples of several lengths",
        ),
        (data, {"parts": 0}, "parts=0"),
    ):
        with pytest.raises(IceprobeError, match=line):
            iceprobe.from_tokens(given, **options)
    prefix = dict.fromkeys(data, x[:, :1])
    store = iceprobe.from_tokens(data, parts=CLIPS, prefix=prefix)
    for source in ("class+patches", "prefix+patches"):
        with pytest.raises(
            IceprobeError, match="are one mean over the 3 parts: take input=patches"
        ):
            iceprobe.fit(store, [f"ep4?input={source}"], **SETTINGS)
    with pytest.raises(IceprobeError, match="draw_tokens=4: of the 3 parts of an example"):
        iceprobe.fit(store, ["ep4"], draw_tokens=4, **SETTINGS)
    module = build_for(store.shape, "ep4", CLASSES).eval()
    with pytest.raises(IceprobeError, match="give build_for its task="):
        module(torch.from_numpy(x))
    with pytest.raises(ValueError, match="have no 5 equal parts"):
        TokenShape(DIM, 24, 0, None, False, parts=5)
