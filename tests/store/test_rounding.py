"""What storing takes from the tokens is measured, reported and refused."""

import logging

import pytest
import torch
from torch import Tensor, nn

from iceprobe import load_backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.store import Store, extract, extract_in_memory
from iceprobe.store.quantisation import dequantise, quantise, rounding


class Shifted(nn.Module):
    """Random tokens of an image's pixels, the first dimension far from zero."""

    def __init__(self, offset: float):
        super().__init__()
        self.offset = offset
        self.mix = nn.Conv2d(3, 16, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.mix(images).flatten(2).mT
        tokens = tokens + torch.nn.functional.pad(tokens.new_full((1,), self.offset), (0, 15))
        return tokens


def backbone(offset: float):
    torch.manual_seed(0)
    return load_backbone(
        Shifted(offset), image_size=32, mean=[0.5] * 3, std=[0.5] * 3, num_prefix=0
    )


def test_the_share_is_the_variance_of_the_error_over_that_of_the_tokens():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(8, 500, 3, generator=generator, dtype=torch.float64)
    tokens = tokens * torch.tensor([1.0, 10.0, 100.0]) + torch.tensor([0.0, 500.0, 0.0])
    stored = tokens + 0.2 * torch.randn(8, 500, 3, generator=generator, dtype=torch.float64)
    # 0.04/1, 0.04/100, 0.04/10,000
    assert float(rounding(tokens, stored)) == pytest.approx((0.04 + 0.0004 + 4e-6) / 3, rel=0.1)
    assert float(rounding(tokens, tokens + 7)) == pytest.approx(0, abs=1e-12)  # no noise, a shift


def test_int8_with_a_dimension_far_from_zero_is_refused(tmp_path):
    """One scale a token: 1,000 in one dimension leaves steps of 8 for all."""
    tokens = torch.randn(4, 100, 16, generator=torch.Generator().manual_seed(0))
    tokens[..., 0] += 1000
    assert float(rounding(tokens, dequantise(*quantise(tokens), torch.float32))) > 0.9
    with pytest.raises(IceprobeError, match=r"tokens=int8 rounds the tokens by .*tokens=float16"):
        extract(
            backbone(1000),
            "bundled:fashion",
            tmp_path / "s",
            limit=8,
            tokens="int8",
            progress=False,
        )
    with pytest.raises(IceprobeError, match="tokens=float16"):
        extract_in_memory(backbone(1000), "bundled:fashion", limit=8, tokens="int8")
    store = extract(
        backbone(1000), "bundled:fashion", tmp_path / "s", limit=8, tokens="float32", progress=False
    )
    assert {s.rounding for split in store.manifest.splits.values() for s in split.shards} == {0.0}


def test_rounding_that_isnt_small_is_reported_and_kept(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "iceprobe"):
        store = extract(
            backbone(10), "bundled:fashion", tmp_path / "s", limit=8, tokens="int8", progress=False
        )
    (line,) = [r.getMessage() for r in caplog.records if "are rounded by" in r.getMessage()]
    again = Store.open(store.path)
    share = max(shard.rounding for shard in again.manifest.splits["train"].shards)
    assert 0.01 < share < 0.25
    assert line.startswith("assumed: tokens stored as int8 are rounded by ")
    caplog.clear()
    extract(
        backbone(0), "bundled:fashion", tmp_path / "t", limit=8, tokens="float16", progress=False
    )
    assert not [r for r in caplog.records if "are rounded by" in r.getMessage()]
