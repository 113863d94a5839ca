"""What examples of several lengths will take is counted at the length that they have, not at the longest."""

import pytest

import iceprobe
from iceprobe.store import extract
from tests.store.conftest import SMALL, make_dataset
from tests.store.test_ragged import MOST, backbone  # noqa: F401


def test_a_plan_counts_the_tokens_that_it_measured(backbone, tmp_path):  # noqa: F811
    dataset = make_dataset(train=400, test=100)
    plan = iceprobe.plan(backbone, dataset, tmp_path, measure_seconds=1.0, **SMALL)
    store = extract(backbone, dataset, tmp_path, **SMALL)
    mean, size = store.num_tokens, sum(one.bytes for one in store.manifest.files)
    assert mean < 0.8 * MOST  # the bound that the backbone states
    assert plan.tokens_per_image == pytest.approx(mean, rel=0.15)
    assert plan.bytes_to_write == pytest.approx(size, rel=0.15)
    again = iceprobe.plan(backbone, dataset, tmp_path, measure_seconds=0, **SMALL)
    assert again.bytes_to_write == 0
    assert again.tokens_per_image == mean
    assert again.store_bytes == size


def test_images_of_one_length_have_none(tmp_path):
    from tests.store.conftest import make_backbone

    plan = iceprobe.plan(make_backbone(), make_dataset(), tmp_path, measure_seconds=0, **SMALL)
    assert plan.tokens_per_image is None
