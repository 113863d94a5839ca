"""What the pre-training scripts of the bundled backbones share: the shape, images, loop and export.

All of them train timm's `VisionTransformer` of one shape on the 60,000 training images of
Fashion-MNIST, composed on new clutter in every epoch; no test image is seen. A run that is killed
goes on from its last checkpoint. The learning rate is constant after the warm-up and falls linearly
to 0 over the last quarter, so that a run may go on with other `--steps` while it is in its constant
part. What ships is the encoder as float16 safetensors and a model card.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fashion_idx import DEBIAN, read_idx
from safetensors.torch import load_file, save_file
from timm.layers import build_sincos2d_pos_embed, set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from iceprobe.core.checksums import list_files
from iceprobe.datasets.clutter import PIECES, compose

MEAN, STD = 0.18, 0.31  # of composed training images, pixels in [0, 1], rounded
SHAPE: dict[str, Any] = dict(
    img_size=56, patch_size=4, in_chans=1, num_classes=0, embed_dim=192, depth=6, num_heads=3
)
MAE = Path(__file__).parents[1] / "src/iceprobe/backbones/bundled/mae-tiny.safetensors"
WARMUP, DECAY = 400, 0.25  # steps; fraction of all steps
CHECKPOINT_EVERY = 200  # steps

Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""``(images (B, 1, S, S), labels (B,), generator of this step) -> scalar``."""


def build_encoder(**overrides: Any) -> VisionTransformer:
    """The bundled shape, its learned positions starting as sines and cosines."""
    encoder = VisionTransformer(**SHAPE | overrides)
    assert encoder.pos_embed is not None
    grid = list(encoder.patch_embed.grid_size)
    encoder.pos_embed.data[0, 1:] = build_sincos2d_pos_embed(grid, encoder.embed_dim)
    return encoder


def start_from_mae(encoder: VisionTransformer) -> None:
    """Weights of ``bundled:mae-tiny``; a classifier, where there is one, stays as it is."""
    loaded = encoder.load_state_dict(load_file(MAE), strict=False)
    assert not loaded.unexpected_keys, loaded
    assert all(key.startswith("head.") for key in loaded.missing_keys), loaded


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, constant, linear decay to 0 over the last quarter."""
    rise = min(1.0, (step + 1) / WARMUP)
    fall = min(1.0, (steps - step) / (DECAY * steps))
    return peak * rise * fall


def normalise(images: Tensor) -> Tensor:
    """``(B, 1, S, S)`` uint8 to what the backbone sees."""
    return images.float().div(255).sub(MEAN).div(STD)


def batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, step: int
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Endless ``(images, labels, generator)`` from ``step`` on, flipped at random and normalised.

    Each epoch is composed on new clutter; everything random follows from the step.
    """
    per_epoch = len(images) // batch_size
    epoch = None
    while True:
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            composed = compose(images, labels, seed=1_000_000 + epoch).images
            rows = np.random.default_rng(epoch).permutation(len(images))
        start = step % per_epoch * batch_size
        chosen = rows[start : start + batch_size]
        batch = torch.from_numpy(composed[chosen])[:, None]
        generator = torch.Generator().manual_seed(step)
        flip = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
        batch = normalise(torch.where(flip, batch.flip(-1), batch))
        yield batch, torch.from_numpy(labels[chosen]).long(), generator
        step += 1


def train(
    args: argparse.Namespace,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    after_step: Callable[[int], None] = lambda step: None,
    look: Callable[[int], dict[str, float] | None] = lambda step: None,
) -> None:
    """Train until ``args.steps``, from the last checkpoint in ``args.output`` if there is one.

    Args:
        args: of :func:`parser`.
        model: all that a checkpoint has to hold.
        optimizer: whose learning rate follows :func:`learning_rate`.
        loss: of one batch, under bfloat16 autocast.
        after_step: called with the number of steps done, after the optimiser's step.
        look: called likewise before a checkpoint; what it returns goes into the model card.
    """
    device = torch.device(args.device)
    images, labels = read_idx(args.idx, "train")
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": [], "looks": []}
    state["processor_seconds"] = 0.0
    checkpoint = args.output / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state |= saved["state"]
        print(f"resumed at step {state['step']}", flush=True)

    args.output.mkdir(parents=True, exist_ok=True)
    began, worked, recent = time.perf_counter(), time.process_time(), []
    for batch, classes, generator in batches(images, labels, args.batch_size, state["step"]):
        if state["step"] >= args.steps:
            break
        torch.manual_seed(state["step"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state["step"], args.steps, args.lr)
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(batch.to(device), classes.to(device), generator)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(value.detach())
        state["step"] += 1
        after_step(state["step"])
        if state["step"] % CHECKPOINT_EVERY == 0 or state["step"] == args.steps:
            state["seconds"] += time.perf_counter() - began
            state["processor_seconds"] += time.process_time() - worked
            state["losses"].append([state["step"], float(torch.stack(recent).mean())])
            found = look(state["step"])
            if found:
                state["looks"].append({"step": state["step"], **found})
            began, worked, recent = time.perf_counter(), time.process_time(), []
            _save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state},
                checkpoint,
            )
            seen = "".join(f"  {name} {number:.4f}" for name, number in (found or {}).items())
            print(
                f"step {state['step']}/{args.steps}  loss {state['losses'][-1][1]:.4f}{seen}  "
                f"{state['seconds']:.0f} s",
                flush=True,
            )


def export(
    args: argparse.Namespace,
    *,
    name: str,
    paradigm: str,
    prefix: str,
    norm: bool,
    data: str,
    settings: dict,
) -> None:
    """Write the encoder's weights as float16 and the model card into ``args.export``.

    Args:
        args: of :func:`parser`; the run to export is in ``args.output``.
        name: of the two files.
        paradigm: how the encoder was pre-trained, in words.
        prefix: of the encoder's names in the checkpoint.
        norm: whether its tokens are read behind the final norm, by default.
        data: what it saw beyond the training images, in words.
        settings: what else the card is to say.
    """
    saved = torch.load(args.output / "checkpoint.pt", map_location="cpu", weights_only=True)
    state = saved["state"]
    encoder = {
        key.removeprefix(prefix): tensor
        for key, tensor in saved["model"].items()
        if key.startswith(prefix)
    }
    wanted = VisionTransformer(**SHAPE).state_dict().keys()
    weights = {key: encoder[key].half().contiguous() for key in wanted}
    args.export.mkdir(parents=True, exist_ok=True)
    save_file(weights, args.export / f"{name}.safetensors")
    looks = {"looks": state["looks"]} if state.get("looks") else {}
    script = f"tools/pretrain_{name.removesuffix('-tiny')}.py"
    card = {
        "name": name,
        "paradigm": paradigm,
        "architecture": {"timm": "VisionTransformer", **SHAPE},
        "preprocessing": {"image_size": 56, "channels": 1, "mean": [MEAN], "std": [STD]},
        "norm": norm,
        "data": f"60,000 Fashion-MNIST training images on clutter of {PIECES} pieces, {data}",
        "steps": state["step"],
        "images_per_step": args.batch_size,
        **settings,
        "final_loss": round(state["losses"][-1][1], 4),
        "losses": [[step, round(loss, 4)] for step, loss in state["losses"]],
        **looks,
        "seconds": round(state["seconds"]),
        "processor_seconds": round(state["processor_seconds"]),
        "processor": f"{_processor()}, torch {torch.__version__}",
        "command": f"python {script} --output build/{args.output.name} --steps {state['step']}",
        "note": args.note,
        "license": "Apache-2.0",
    }
    (args.export / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    assert load_file(args.export / f"{name}.safetensors").keys() == weights.keys()
    list_files(args.export)


def parser(description: str, *, steps: int, lr: float = 1e-3) -> argparse.ArgumentParser:
    """The options that every pre-training script takes."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    options.add_argument("--idx", type=Path, default=DEBIAN, help="folder of the IDX files")
    options.add_argument("--steps", type=int, default=steps)
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--lr", type=float, default=lr, help="peak learning rate")
    options.add_argument("--threads", type=int, help="of the processor; default: torch's")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--export", type=Path, help="write weights and card here instead")
    options.add_argument(
        "--note", default="", help="for the card: what the command alone doesn't say"
    )
    return options


def start(args: argparse.Namespace) -> None:
    """Threads, the seed of the initialisation, and attention by plain matrix products.

    On a processor the fused kernel's backward pass in bfloat16 takes half of a step.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    set_fused_attn(enable=args.device != "cpu")
    torch.manual_seed(0)


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
