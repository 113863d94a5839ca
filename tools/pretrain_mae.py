"""Pre-train `bundled:mae-tiny`: a masked autoencoder (He et al. 2022) on cluttered Fashion-MNIST.

    python tools/pretrain_mae.py --output build/mae-tiny --steps 14000
    python tools/pretrain_mae.py --output build/mae-tiny --export src/iceprobe/backbones/bundled

The first command trains and can be killed: run again, it goes on from its last checkpoint. The
learning rate is constant after the warm-up and falls linearly to 0 over the last quarter, so that
`--steps` may be raised while training is still in its constant part. The second command writes
what ships: the encoder as float16 safetensors and a model card. Only the 60,000 training images
are used, composed anew on clutter each epoch; the decoder is thrown away.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion_idx import DEBIAN, read_idx
from safetensors.torch import load_file, save_file
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from iceprobe.datasets.clutter import PIECES, compose

MEAN, STD = 0.18, 0.31  # of composed training images, pixels in [0, 1], rounded
SHAPE: dict[str, Any] = dict(
    img_size=56, patch_size=4, in_chans=1, num_classes=0, embed_dim=192, depth=6, num_heads=3
)
WARMUP, DECAY = 400, 0.25  # steps; fraction of all steps
CHECKPOINT_EVERY = 200  # steps


class MaskedAutoencoder(nn.Module):
    """The encoder sees a quarter of the patches; a light decoder predicts the pixels of the rest."""

    position: Tensor

    def __init__(self, width: int = 96, depth: int = 2, mask_ratio: float = 0.75):
        super().__init__()
        self.encoder = VisionTransformer(**SHAPE)
        grid, dim = self.encoder.patch_embed.grid_size, self.encoder.embed_dim
        self.num_patches = grid[0] * grid[1]
        self.num_visible = round(self.num_patches * (1 - mask_ratio))
        self.patch = self.encoder.patch_embed.patch_size[0]
        position = build_sincos2d_pos_embed(list(grid), dim)
        assert self.encoder.pos_embed is not None
        self.encoder.pos_embed.data[0, 1:] = position
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", build_sincos2d_pos_embed(list(grid), width)[None])
        self.decoder = nn.Sequential(*[Block(width, 3) for _ in range(depth)], nn.LayerNorm(width))
        self.pixels = nn.Linear(width, self.patch**2)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """Mean squared error over the masked patches.

        Args:
            images: ``(B, 1, S, S)``, normalised.
            order: ``(B, N)``, a random permutation per image; the first quarter is visible.
        """
        encoder, b = self.encoder, len(images)
        visible, masked = order[:, : self.num_visible], order[:, self.num_visible :]
        cls, positions = encoder.cls_token, encoder.pos_embed
        assert cls is not None
        assert positions is not None
        tokens = encoder.patch_embed(images) + positions[:, 1:]
        tokens = torch.gather(tokens, 1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        class_token = (cls + positions[:, :1]).expand(b, -1, -1)
        tokens = encoder.norm(encoder.blocks(torch.cat([class_token, tokens], 1)))

        seen = self.embed(tokens[:, 1:])
        hidden = self.mask_token.expand(b, masked.shape[1], -1).to(seen.dtype)
        position = self.position.expand(b, -1, -1)
        shuffled = torch.cat([seen, hidden], 1) + torch.gather(
            position, 1, order[..., None].expand(-1, -1, position.shape[-1])
        )
        predicted = self.pixels(self.decoder(shuffled)[:, self.num_visible :]).float()

        p, side = self.patch, images.shape[-1] // self.patch
        target = images.reshape(b, side, p, side, p).transpose(2, 3).reshape(b, side * side, p * p)
        target = torch.gather(target, 1, masked[..., None].expand(-1, -1, p * p))
        return (predicted - target).square().mean()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, linear decay to 0 over the last quarter."""
    rise = min(1.0, (step + 1) / WARMUP)
    fall = min(1.0, (steps - step) / (DECAY * steps))
    return peak * rise * fall


def batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless `(images, order)` batches from ``step`` on; each epoch is composed on new clutter."""
    per_epoch = len(images) // batch_size
    epoch = None
    while True:
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            composed = compose(images, labels, seed=1_000_000 + epoch).images
            rows = np.random.default_rng(epoch).permutation(len(images))
        start = step % per_epoch * batch_size
        batch = torch.from_numpy(composed[rows[start : start + batch_size]])[:, None]
        generator = torch.Generator().manual_seed(step)
        flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
        batch = torch.where(flip, batch.flip(-1), batch).float().div(255).sub(MEAN).div(STD)
        yield batch, torch.rand(len(batch), 196, generator=generator).argsort(1)
        step += 1


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    device = torch.device(args.device)
    images, labels = read_idx(args.idx, "train")
    model = MaskedAutoencoder().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    checkpoint = args.output / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
        print(f"resumed at step {state['step']}", flush=True)
    compiled = torch.compile(model) if args.compile else model

    args.output.mkdir(parents=True, exist_ok=True)
    began, recent = time.perf_counter(), []
    for batch, order in batches(images, labels, args.batch_size, state["step"]):
        if state["step"] >= args.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state["step"], args.steps, args.lr)
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(batch.to(device), order.to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.detach())
        state["step"] += 1
        if state["step"] % CHECKPOINT_EVERY == 0 or state["step"] == args.steps:
            state["seconds"] += time.perf_counter() - began
            began = time.perf_counter()
            state["losses"].append([state["step"], float(torch.stack(recent).mean())])
            recent = []
            _save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state},
                checkpoint,
            )
            print(
                f"step {state['step']}/{args.steps}  loss {state['losses'][-1][1]:.4f}  "
                f"{state['seconds']:.0f} s",
                flush=True,
            )


def export(args: argparse.Namespace) -> None:
    """Write the encoder's weights and the model card into ``args.export``."""
    saved = torch.load(args.output / "checkpoint.pt", map_location="cpu", weights_only=True)
    state = saved["state"]
    weights = {
        name.removeprefix("encoder."): tensor.half().contiguous()
        for name, tensor in saved["model"].items()
        if name.startswith("encoder.")
    }
    args.export.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.export / "mae-tiny.safetensors")
    card = {
        "name": "mae-tiny",
        "paradigm": "masked image modelling",
        "architecture": {"timm": "VisionTransformer", **SHAPE},
        "preprocessing": {"image_size": 56, "channels": 1, "mean": [MEAN], "std": [STD]},
        "data": f"60,000 Fashion-MNIST training images on clutter of {PIECES} pieces, flipped",
        "steps": state["step"],
        "images_per_step": args.batch_size,
        "final_loss": round(state["losses"][-1][1], 4),
        "losses": [[step, round(loss, 4)] for step, loss in state["losses"]],
        "seconds": round(state["seconds"]),
        "processor": f"{_processor()}, torch {torch.__version__}",
        "command": f"python tools/pretrain_mae.py --output {args.output} --steps {state['step']}",
        "note": args.note,
        "license": "Apache-2.0",
    }
    (args.export / "mae-tiny.json").write_text(json.dumps(card, indent=1) + "\n")
    assert load_file(args.export / "mae-tiny.safetensors").keys() == weights.keys()


def _save(content: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--idx", type=Path, default=DEBIAN, help="folder of the IDX files")
    parser.add_argument("--steps", type=int, default=14_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--export", type=Path, help="write weights and card here instead")
    parser.add_argument(
        "--note", default="", help="for the card: what the command alone doesn't say"
    )
    args = parser.parse_args()
    export(args) if args.export else train(args)


if __name__ == "__main__":
    main()
