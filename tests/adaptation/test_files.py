"""What is assumed about image files is printed by `adapt` too, and kept in its results."""

import logging

import numpy as np
from PIL import Image

from iceprobe.adaptation.examples import Examples
from iceprobe.backbones.preprocessing import Preprocessing
from iceprobe.datasets import load_dataset
from iceprobe.store.format import DatasetRecord
from iceprobe.store.noted import FirstSeen


def test_a_turned_image_is_reported_once_and_adapted_as_it_is_shown(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "iceprobe")
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif)
    split = load_dataset(f"folder:{tmp_path}").splits["train"]
    record = DatasetRecord(spec="x", name="x", classes=["a", "b"])
    preprocessing = Preprocessing(8, (0.0,), (1.0,), crop_pct=1.0, channels=1)
    images = Examples(split, np.arange(len(split)), preprocessing, FirstSeen(record).note)
    images.hold(lambda *_: None)
    ((batch, _),) = images.batches([np.arange(2)])
    assert np.array_equal(batch[0, 0].numpy(), pixels[::-1, ::-1])
    line = "images turned upright as the EXIF tag says (orientation=ignore leaves them as stored)"
    assert record.assumed == [line]
    assert caplog.messages.count(f"assumed: {line}") == 1
