"""How hard is `bundled:fashion-clutter`? Train the bundled backbone's shape with labels and see.

    python tools/calibrate_clutter.py --init build/mae-tiny/checkpoint.pt --steps 1400

The amount of clutter (`PIECES` in datasets/clutter.py) is set so that this reaches 80 to 95% on
composed test images; no probe is involved. Trained on the 60,000 training images composed on
clutter, tested on the 10,000 test images composed the same way. With `--init` the encoder starts
from a pre-training checkpoint, which saves hours on a small processor; without it, from scratch.
"""

import argparse
import time
from pathlib import Path

import torch
from fashion_idx import DEBIAN, read_idx
from pretraining import SHAPE, learning_rate, normalise
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from iceprobe.datasets.clutter import PIECES, compose

BATCH = 64


def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 on ``images (n, 1, S, S)`` uint8."""
    model.eval()
    right = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for batch, truth in zip(images.split(250), labels.split(250), strict=True):
            logits = model(normalise(batch))
            right += int((logits.argmax(1) == truth).sum())
    model.train()
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idx", type=Path, default=DEBIAN, help="folder of the IDX files")
    parser.add_argument("--init", type=Path, help="checkpoint of tools/pretrain_mae.py")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--drop", type=float, default=0.5, help="patches left out in training")
    parser.add_argument("--pieces", type=int, default=PIECES)
    args = parser.parse_args()
    torch.manual_seed(0)

    shape = SHAPE | {"num_classes": 10, "global_pool": "avg", "patch_drop_rate": args.drop}
    model = VisionTransformer(**shape)
    if args.init:
        saved = torch.load(args.init, map_location="cpu", weights_only=True)["model"]
        weights = {k.removeprefix("encoder."): v for k, v in saved.items() if "encoder." in k}
        weights = {k: v for k, v in weights.items() if not k.startswith("norm.")}
        missing = model.load_state_dict(weights, strict=False).missing_keys
        print("starts new:", ", ".join(missing))
    test_items, test_classes = read_idx(args.idx, "t10k")
    test = compose(test_items, test_classes, seed=7, pieces=args.pieces).images
    test_images, test_labels = torch.from_numpy(test)[:, None], torch.tensor(test_classes).long()

    items, classes = read_idx(args.idx, "train")
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, fused=True)
    began, step = time.perf_counter(), 0
    for epoch in range(-(-args.steps * BATCH // len(items))):
        composed = torch.from_numpy(
            compose(items, classes, 2_000_000 + epoch, pieces=args.pieces).images
        )
        for rows in torch.randperm(len(items)).split(BATCH):
            if step == args.steps:
                break
            images = normalise(composed[rows][:, None])
            flip = torch.rand(len(images), 1, 1, 1) < 0.5
            images = torch.where(flip, images.flip(-1), images)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args.steps, args.lr)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images), torch.from_numpy(classes[rows]).long())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % 1000 == 0:
                found = accuracy(model, test_images[:2000], test_labels[:2000])
                spent = time.perf_counter() - began
                print(
                    f"step {step}  loss {loss.item():.3f}  top-1 {found:.3f}  {spent:.0f} s",
                    flush=True,
                )
    found = accuracy(model, test_images, test_labels)
    print(f"{args.pieces} pieces: top-1 {found:.4f} on {len(test_labels)} composed test images")


if __name__ == "__main__":
    main()
