"""How hard is `bundled:fashion-scenes`? Bundled backbones, read by scikit-learn and by a plain loop.

    python tools/calibrate_scenes.py bundled:mae-tiny bundled:supervised-tiny bundled:dino-tiny
    python tools/calibrate_scenes.py --attend bundled:mae-tiny
    python tools/calibrate_scenes.py --picture docs/bundled-scenes.png

Logistic regression a tag and ridge regression on class token and mean; with `--attend` also EP with 12
queries, trained for 30 epochs. C is the better of two on the test split: it describes the set, no probe.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

import iceprobe
from iceprobe.datasets.base import Dataset
from iceprobe.probes.probe import build_for
from iceprobe.store import Store, extract_in_memory

SCENES = "bundled:fashion-scenes"
EPOCHS, BATCH, RATE = 30, 100, 3e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backbones", nargs="*")
    parser.add_argument("--attend", action="store_true", help="train EP with 12 queries too")
    parser.add_argument("--picture", type=Path, help="write the first test scenes there")
    args = parser.parse_args()
    torch.manual_seed(0)
    scenes = iceprobe.load_dataset(SCENES)
    if args.picture:
        draw(scenes, args.picture)
    numbers = iceprobe.load_dataset(f"{SCENES}?target=count,area")
    for backbone in args.backbones:
        loaded = iceprobe.load_backbone(backbone)
        store = extract_in_memory(loaded, scenes, patches=args.attend)
        truth = {name: split.targets for name, split in numbers.splits.items()}
        for tokens in ("class_token", "mean"):
            x, xt = (getattr(store[s], tokens).float().numpy() for s in ("train", "test"))
            linear(f"{backbone} {tokens}", x, xt, store, truth)
        if args.attend:
            attend(backbone, store, truth)


def linear(
    name: str, x: np.ndarray, xt: np.ndarray, store: Store, truth: dict[str, np.ndarray]
) -> None:
    y, yt = store["train"].targets, store["test"].targets
    found = []
    for C in (0.01, 0.1):
        model = OneVsRestClassifier(LogisticRegression(C=C, max_iter=500))
        scores = make_pipeline(StandardScaler(), model).fit(x, y).decision_function(xt)
        found.append(average_precision_score(yt, scores))
    ridge = make_pipeline(StandardScaler(), Ridge(10.0)).fit(x, truth["train"]).predict(xt)
    count, area = r2_score(truth["test"], ridge, multioutput="raw_values")
    print(f"{name}: mAP {max(found):.3f} ({yt.mean():.3f} by chance)  R² {count:.3f}, {area:.3f}")


def attend(backbone: str, store: Store, truth: dict[str, np.ndarray]) -> None:
    train, test = store["train"], store["test"]
    tags = torch.from_numpy(train.targets).float()
    count = torch.from_numpy(truth["train"][:, :1]).float()
    wanted = {"tags": tags, "count": (count - count.mean()) / count.std()}
    for name, y in wanted.items():
        probe = build_for(store.shape, "ep12", y.shape[1], seed=0)
        optimizer = torch.optim.AdamW(probe.parameters(), RATE, weight_decay=0.0)
        steps = EPOCHS * (len(y) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(y)).split(BATCH)[: len(y) // BATCH]:
                found = probe(train.patches(rows, dtype=torch.float32))
                loss = F.binary_cross_entropy_with_logits if name == "tags" else F.mse_loss
                loss(found, y[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        probe.eval()
        parts = torch.arange(len(test)).split(200)
        with torch.no_grad():
            found = torch.cat([probe(test.patches(rows, dtype=torch.float32)) for rows in parts])
        if name == "tags":
            print(f"{backbone} ep12: mAP {average_precision_score(test.targets, found):.3f}")
        else:
            numbers = found * count.std() + count.mean()
            print(f"{backbone} ep12: R² of count {r2_score(truth['test'][:, 0], numbers):.3f}")


def draw(scenes: Dataset, path: Path) -> None:
    """The first 24 test scenes, twice as large."""
    images = [np.asarray(scenes.splits["test"].image(i)) for i in range(24)]
    framed = [np.pad(image, 1, constant_values=96) for image in images]
    rows = [np.concatenate(framed[i : i + 8], 1) for i in range(0, len(framed), 8)]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


if __name__ == "__main__":
    main()
