"""The report's parts: the finding, the front, names beside points, groups of maps, pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from iceprobe.reporting.answers import spread
from iceprobe.reporting.attention import columns_of, spherical_kmeans
from iceprobe.reporting.charts import colours
from iceprobe.reporting.cost_chart import pareto
from iceprobe.reporting.finding import display_name, find
from iceprobe.reporting.pictures import colour, image_uri, map_uri
from iceprobe.reporting.training_charts import learning_rates
from iceprobe.results import CurveRow, compare_pair, paired_difference
from iceprobe.results.tables import signed_points, span
from tests.reporting.conftest import make_result


def made(*pairs: tuple[str, float]):
    """Results with predictions attached."""
    found = []
    for number, (label, accuracy) in enumerate(pairs):
        one, predictions = make_result(label, accuracy, seed=number)
        found.append(one.replaced(predictions=predictions))
    return found


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("ep12", "EP12"),
        ("knn", "k-NN"),
        ("linear?input=mean", "linear (mean)"),
        ("ep48?out_dim=96", "EP48 (out_dim=96)"),
        ("ep12?query=sliced", "EP12 (sliced queries)"),
        ("ep12?value=identity", "EP12 (without Wᵥ)"),
    ],
)
def test_names(label, shown):
    assert display_name(label) == shown


def test_the_finding_tells_the_numbers_it_has():
    results = made(("linear?input=mean", 0.5), ("knn", 0.4), ("ep4", 0.8))
    found = find(results)
    linear, _, ep = results
    expected = f"EP4 reads {100 * ep.top1.mean:.1f}% where a linear probe reads "
    assert found.sentence == f"{expected}{100 * linear.top1.mean:.1f}%."
    assert found.strong == f"+{100 * (ep.top1.mean - linear.top1.mean):.1f} points"
    paired = paired_difference(ep.predictions().correct, linear.predictions().correct)
    assert f"+{100 * paired.interval[0]:.1f} to +{100 * paired.interval[1]:.1f}" in found.detail


def test_the_finding_claims_no_difference_where_none_is_clear():
    results = made(("linear", 0.70), ("ep4", 0.70))
    assert find(results).sentence.endswith("no clear difference.")


def test_the_headline_takes_the_best_ep():
    results = made(("linear", 0.5), ("ep1", 0.6), ("ep16", 0.8))
    found = find(results)
    assert found.sentence.startswith(f"EP16 reads {100 * results[2].top1.mean:.1f}% where")
    assert "EP16 being the best of 2 EPs on these images" in found.detail


def test_the_headline_claims_no_order_of_an_undertrained_fit():
    results = made(("linear", 0.8), ("ep16", 0.3))
    assert "where a linear probe reads" in find(results).sentence
    results[1] = results[1].replaced(undertrained=["3 training steps", "its loss still falls"])
    found = find(results)
    numbers = [f"{100 * one.top1.mean:.1f}%" for one in results]
    assert found.sentence == (
        f"EP16 reads {numbers[1]} and a linear probe {numbers[0]}, but EP16 is undertrained: that "
        "shows no order."
    )
    assert (found.strong, found.comparison) == (None, None)
    assert found.detail == (
        "EP16: 3 training steps, its loss still falls. To compare them leave --epochs out, or raise it"
    )


def test_warnings_stand_below_the_headline():
    linear, ep = made(("linear", 0.5), ("ep16", 0.8))
    found = find([linear, ep.replaced(warnings=["4 training steps, fewer than 200", "it falls"])])
    assert found.sentence.endswith(f"{100 * linear.top1.mean:.1f}%, with warnings.")
    assert found.detail.endswith("). Warnings: ep16: 4 training steps, fewer than 200, it falls")


def test_the_pill_is_the_tables_number():
    """Every reader of one pair: the same mean, the interval mirrored."""
    linear, ep = made(("linear", 0.70), ("ep4", 0.72))
    found, mirrored = find([linear, ep]), compare_pair(linear, ep).difference
    ours = found.comparison.difference
    assert found.strong == f"{signed_points(ours.mean)} points"
    assert span(ours.interval, signed=True) in found.detail
    assert mirrored.interval == (-ours.interval[1], -ours.interval[0])
    assert signed_points(0.0725 + 1e-16) == signed_points(0.0725 - 1e-16) == "+7.2"


def test_the_finding_without_ep_without_baseline_without_predictions():
    assert find(made(("linear", 0.5), ("aim4", 0.7))).sentence.startswith("AIM4 reads")
    assert "k-NN" in find(made(("knn", 0.5), ("ep4", 0.7))).sentence
    alone = find(made(("ep4", 0.7)))
    assert alone.strong is None
    assert alone.sentence.startswith("EP4 reads")
    bare = [make_result("linear", 0.5)[0], make_result("ep4", 0.7)[0]]
    assert find(bare).comparison is None
    assert "where" not in find(bare).sentence  # no interval, no order
    assert find(bare).strong is None
    assert "no paired interval" in find(bare).detail


def test_pareto_front():
    points = [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.6), (0.5, 0.5), (9, 0.7)]
    assert pareto(points) == [4, 2]


def test_every_probe_has_its_own_colour_and_keeps_it():
    results = made(("linear?input=mean", 0.5), ("linear?input=class", 0.5), ("ep4", 0.7),
                   ("ep32", 0.7), ("aim4", 0.7), ("knn", 0.3))  # fmt: skip
    palette = colours(results)
    assert len(set(palette.values())) == len(results)


def test_images_are_spread_over_classes_in_the_order_of_the_split():
    labels = np.array([2, 0, 0, 1, 2, 1, 0])
    assert spread(labels, 5).tolist() == [1, 3, 0, 2, 5]
    assert spread(labels, 99).tolist() == [1, 3, 0, 2, 5, 4, 6]
    assert spread(np.arange(100), 3).tolist() == [0, 50, 99]


def test_groups_of_maps_are_the_groups_there_are():
    torch.manual_seed(0)
    kinds = torch.eye(8, 20).repeat_interleave(3, 0) + 0.02 * torch.rand(24, 20)
    order = torch.randperm(24)
    assigned = spherical_kmeans(kinds[order], 8)
    truth = (torch.arange(24) // 3)[order]
    same = assigned[:, None] == assigned[None]
    assert torch.equal(same, truth[:, None] == truth[None])
    assert torch.equal(assigned, spherical_kmeans(kinds[order], 8))


def test_columns_are_means_of_their_groups():
    torch.manual_seed(0)
    weights = torch.softmax(torch.randn(3, 12, 16), -1)
    maps, titles = columns_of(weights)
    assert maps.shape[1] == len(titles) <= 8
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:2]))
    counts = [int(title.split(": ")[1].split()[0]) for title in titles]
    assert sum(counts) == 12
    together = (maps * torch.tensor(counts)[:, None]).sum(1) / 12
    assert torch.allclose(together, weights.mean(1), atol=1e-6)
    untouched, names = columns_of(weights[:, :3])
    assert torch.equal(untouched, weights[:, :3])
    assert names[2] == "predictor 3"


def opened(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_a_map_lights_up_where_the_weights_are_and_only_there():
    weights = np.full((4, 4), 0.01 / 15)
    weights[1, 2] = 0.99
    picture = opened(map_uri(Image.new("L", (56, 56), 0), weights))
    side = picture.shape[0]
    bright = picture.sum(-1)
    row, column = np.unravel_index(bright.argmax(), bright.shape)
    assert abs(row / side - 1.5 / 4) < 0.08
    assert abs(column / side - 2.5 / 4) < 0.08
    assert bright[: side // 8, : side // 8].mean() < 60
    flat = opened(map_uri(Image.new("L", (56, 56), 0), np.full((4, 4), 1 / 16)))
    assert flat.max() < 40  # no preference, no colour


def test_the_box_is_drawn_in_the_pixels_of_the_crop():
    picture = opened(image_uri(Image.new("L", (50, 50), 0), np.array([10, 20, 30, 45])))
    scale = picture.shape[0] / 50
    yellow = (picture[..., 0] > 150) & (picture[..., 2] < 110)
    rows, columns = np.nonzero(yellow)
    ends = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / scale
    assert ends == pytest.approx([10, 20, 30, 45], abs=0.8)
    assert opened(image_uri(Image.new("L", (50, 50), 0))).max() < 10


def test_the_ramp_gets_lighter_all_the_way():
    luminance = colour(np.linspace(0, 1, 50)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all()


@pytest.mark.parametrize(
    ("protocol", "drawn"), [("heldout", [60.0, 50.0]), ("paper", [60.0, 90.0])]
)
def test_rates_are_drawn_by_the_epoch_that_chose(protocol, drawn):
    """Rate 2 was better once, in the middle: what `paper` takes, and `heldout` doesn't."""
    one = make_result("ep8", 0.5)[0].replaced(protocol=protocol)
    table = [
        CurveRow(
            probe="ep8", seed=0, learning_rate=rate, weight_decay=0, epoch=epoch, train_loss=1,
            phase="select", eval_accuracy=accuracy,
        )
        for rate, found in ((1, [0.3, 0.4, 0.6]), (2, [0.3, 0.9, 0.5]))
        for epoch, accuracy in enumerate(found, 1)
    ]  # fmt: skip
    spec = learning_rates([one], [table], colours([one]))
    assert [row["score"] for row in spec["data"]["values"]] == pytest.approx(drawn)
