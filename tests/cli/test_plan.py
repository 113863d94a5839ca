"""`iceprobe plan` on paper, against numbers worked out by hand; and what it refuses."""

import re
import tracemalloc

import pytest

from tests.cli.conftest import BACKBONE

PAPER = ["--images", "1.28M", "--classes", "1000"]
DEVICE = ["--device-images-per-second", "2500", "--device-tflops", "40"]


def table(text: str) -> dict[str, str]:
    """Name → value of the printed table, lines put together again."""
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        row = re.fullmatch(r"(\S.*?)?\s{3,}(\S.*?)\s*", line)
        if row and (row[1] or last):
            last = row[1] or last
            found[last] = f"{found.get(last, '')} {row[2]}".strip()
    return found


def test_imagenet_on_a_machine_that_one_does_not_have(iceprobe, tmp_path):
    """ViT-B/16: 196 patches and a class token of 768, in float16; EP32, whose 1.38 M parameters are
    tried with two decays: 3 rates · 2 decays · 3 seeds = 18 members.

    store    1.28e6 · (197 · 768 · 2 + 768 · 4 + 24) = 391.3 GB
    live     1.28e6 / 2500 = 512 s of the backbone
    read     1.28e6 · 196 · 768 · 2 B / 5 GB/s = 77.07 s an epoch
    EP32     tokens meet queries: 2 · 2 · 196 · 32 · 768 = 19.27 MFLOP, the rest 2 · 768 · 1768
             = 2.716 MFLOP; a training image 2 · 19.27 + 3 · 2.716 = 46.68, a look 21.98
    epoch    18 · (1.152e6 · 46.68e6 + 0.128e6 · 21.98e6) / 40e12 = 25.46 s: less than reading
    fit      40 epochs of 77.07 s: 3082.8 s, and nothing to report on
    live     20 · 25.46 + 20 · (3/40e12 · 1.28e6 · 46.68e6 = 4.48) + 40 · 512 = 21 079 s
    """
    backbone = ["--backbone", "timm:vit_base_patch16_224?pretrained=false", "--probe", "ep32"]
    ended = iceprobe("plan", *backbone, *PAPER, *DEVICE, "--disk-gb-per-second", "5")
    assert (ended.code, ended.err) == (0, "")
    rows = table(ended.out)
    assert rows["images"] == "train 1,280,000"
    assert rows["disk"] == "391.3 GB, 391.3 GB still to write"
    assert rows["memory, to hold all patch tokens"].startswith("385.4 GB")
    assert rows["time, extraction"] == "about 8 min 32 s at 2,500 images/s"
    assert rows["time, an epoch cached"] == "about 1 min 17 s, tokens streamed at 5.0 GB/s"
    assert rows["time, an epoch live"].startswith("about 8 min 57 s")
    assert rows["time, fit"].startswith("about 51 min 23 s, select 20 × 18 members")
    assert "cached (8 min 32 s once, then 1 min 17 s an epoch) takes 59 min 55 s" in rows["cheaper"]
    assert "live (8 min 57 s an epoch) 5 h 51 min" in rows["cheaper"]
    assert "from epoch 2 of 40 on" in rows["cheaper"]
    assert not any(name.startswith("cost") for name in rows)
    assert list(tmp_path.iterdir()) == []


def test_money_is_time_and_bytes_at_the_prices_given(iceprobe):
    """As above: 512 s / 3600 · 3 $ = 0.43 $, 3082.8 s = 2.57 $, 0.3913 TB · 20 $ = 7.83 $."""
    backbone = ["--backbone", "timm:vit_base_patch16_224?pretrained=false", "--probe", "ep32"]
    prices = ["--dollars-per-hour", "3", "--dollars-per-tb-month", "20"]
    rows = table(
        iceprobe("plan", *backbone, *PAPER, *DEVICE, "--disk-gb-per-second", "5", *prices).out
    )
    assert rows["cost, extraction"] == "$0.43 at $3 an hour"
    assert rows["cost, fit"] == "$2.6 at $3 an hour"
    assert rows["cost, store"] == "$7.8 a month at $20 a terabyte"


def test_a_thousand_million_images_are_counted_and_not_listed(iceprobe):
    """4 patches and a class token of 12, in float16, their mean, label, place and checks: 192 B an
    image, 4 KiB a shard.

    10⁹ · 192 B + ⌈10⁹ / 1024⌉ · 4096 B = 196.0 GB. A label each would take 8 GB of memory.
    """
    asked = ["--backbone", BACKBONE, "--probe", "ep4", "--images", "1G", "--classes", "10"]
    tracemalloc.start()
    try:
        ended = iceprobe("plan", *asked, "--shots", "5", *DEVICE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (ended.code, ended.err) == (0, "")
    rows = table(ended.out)
    assert rows["images"] == "train 1,000,000,000"
    assert rows["disk"] == "196.0 GB, 196.0 GB still to write"
    assert peak < 1e9


def test_knn_of_imagenet_on_paper(iceprobe):
    """A tenth is held out of 1.28e6 and looked for among the rest; nothing to report on.

    128,000 · 1,152,000 = 1.475e11 comparisons of 768 numbers, 226.5 TFLOP: 5.66 s at 40 TFLOP/s.
    The answer is 128,000 · 200 · 16 B = 409.6 MB, the tiles 8192 · (8 · 512 + 20 · 768) = 159.4 MB.
    """
    backbone = ["--backbone", "timm:vit_base_patch16_224?pretrained=false", "--probe", "knn"]
    rows = table(iceprobe("plan", *backbone, *PAPER, *DEVICE).out)
    assert rows["time, k-NN"] == (
        "about 5.7 s, 147,456,000,000 comparisons, 226 TFLOP, 569.0 MB beside the vectors"
    )
    assert rows["time, fit"] == "no probe is trained"


def test_a_slow_disk_makes_live_cheaper(iceprobe):
    """Tokens of Tiny: 4 · 12 · 2 = 96 bytes an image, 96 kB an epoch of 1,000."""
    options = ["--images", "1k", "--classes", "4", "--probe", "ep2", *DEVICE]
    ended = iceprobe("plan", "--backbone", BACKBONE, *options, "--disk-gb-per-second", "1e-6")
    rows = table(ended.out)
    assert rows["time, an epoch cached"].startswith("about 1 min 36 s")
    assert rows["cheaper"].startswith("live")
    assert rows["cheaper"].endswith("it never pays for itself")


def test_steps_that_are_not_given_are_measured_and_said(iceprobe):
    options = ["--images", "64", "--classes", "3", "--probe", "ep2", "--epochs", "1", *DEVICE[:2]]
    ended = iceprobe("plan", "--backbone", BACKBONE, *options, "--seeds", "1")
    assert "at the speed of this machine" in " ".join(table(ended.out)["time, fit"].split())
    assert "give --disk-gb-per-second" in table(ended.out)["time, an epoch cached"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no data given"),
        ([*PAPER, "--data", "bundled:fashion"], "--images 1280000 and --data bundled:fashion"),
        (["--images", "1.28M"], "--images 1280000 has no classes"),
        (["--data", "bundled:fashion", "--classes", "3"], "--classes 3"),
        (["--images", "many"], "--images 'many': write a number"),
        ([*PAPER, "--device-tflops", "0"], "--device-tflops '0': should be greater than 0"),
        ([*PAPER, "--disk-gb-per-second", "fast"], "--disk-gb-per-second 'fast'"),
        ([*PAPER, "--dollars-per-hour", "-3"], "--dollars-per-hour '-3': should be greater than 0"),
    ],
)
def test_wrong_numbers_end_in_one_line(iceprobe, options, message):
    ended = iceprobe("plan", "--backbone", BACKBONE, *options)
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
