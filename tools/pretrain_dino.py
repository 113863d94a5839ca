"""Pre-train `bundled:dino-tiny`: self-distillation without labels (DINO, Caron et al. 2021).

    python tools/pretrain_dino.py --output build/dino-tiny --steps 2400
    python tools/pretrain_dino.py --output build/dino-tiny --export src/iceprobe/backbones/bundled

A student sees two global crops and a few local ones of each image, a teacher the global ones alone;
the student predicts the teacher's distribution over K prototypes from every *other* crop:

    loss = mean over pairs (g, v), v ≠ g, of  −Σ_k q_gk · log softmax(s_v/τ_s)_k,   q = sinkhorn(t/τ_t)

The teacher is the exponential moving average of the student. Its outputs become targets that use
all prototypes alike over the batch, and few of them for one crop, by Sinkhorn-Knopp (Caron et al.
2020; Oquab et al. 2024 have it in place of DINO's centre), and the prototypes stay as they were
drawn (DINO freezes them for an epoch): otherwise a run this short stays at the uniform output. What
ships is the teacher's encoder; `tools/pretraining.py` says what holds for every bundled one.

Made for one processor core and an hour: it starts from `bundled:mae-tiny` (docs/bundled.md says what
came of random weights), crops are small (64 and 25 patches; positions are interpolated from the
14×14 of whole images), the student sees half of a global crop's patches (Assran et al. 2022), and the
head is small.
"""

import copy
import math

import torch
from fashion_idx import read_idx
from pretraining import (
    MAE,
    build_encoder,
    export,
    normalise,
    parser,
    start,
    start_from_mae,
    train,
)
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.datasets.clutter import compose

GLOBAL, LOCAL = 32, 20  # pixels a side after resizing
GLOBAL_SIDES, LOCAL_SIDES = (32, 52), (14, 28)  # pixels a side of the window in the image
LOCALS = 2  # local crops an image
DROP = 0.5  # of the patches of a global crop, for the student
HIDDEN, BOTTLENECK, PROTOTYPES = 512, 64, 256
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
SINKHORN_ROUNDS = 3
MOMENTUM = 0.99  # of the teacher, rising to 1 by a cosine over all steps
LOOK_EVERY = 200  # steps


class Head(nn.Module):
    """Three linear layers to a unit vector, then cosines to K fixed directions, the prototypes.

    There are more of them than dimensions, so no vector is orthogonal to all: no output is uniform.
    Batch norm (Grill et al. 2020) tells images apart from the first step on, when class tokens are
    still nearly the same for all.
    """

    prototypes: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, BOTTLENECK),
            nn.BatchNorm1d(BOTTLENECK, affine=False),
        )
        self.register_buffer("prototypes", F.normalize(torch.randn(PROTOTYPES, BOTTLENECK), dim=-1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, D) -> (B, K)``."""
        unit = F.normalize(self.layers(tokens).float(), dim=-1)
        with torch.autocast(unit.device.type, enabled=False):
            return F.linear(unit, self.prototypes)


class Branch(nn.Module):
    """An encoder read at its class token, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder(dynamic_img_size=True, patch_drop_rate=DROP)
        self.head = Head(self.encoder.embed_dim)

    def forward(self, crops: Tensor, drop: float = 0.0) -> Tensor:
        """``(B, 1, S, S) -> (B, K)``, read from all patches or without a random part of them."""
        self.encoder.patch_drop.prob = drop
        return self.head(self.encoder(crops))


class SelfDistillation(nn.Module):
    """Student and teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Branch()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The loss over all pairs of crops of ``images (B, 1, S, S)``."""
        b = len(images)
        whole = crops(images, GLOBAL, GLOBAL_SIDES, 2, generator)
        parts = crops(images, LOCAL, LOCAL_SIDES, LOCALS, generator)
        with torch.no_grad():
            targets = balanced(self.teacher(whole).float() / TEACHER_TEMPERATURE).view(2, b, -1)
        views = torch.cat([self.student(whole, DROP), self.student(parts)])
        log_q = (views / STUDENT_TEMPERATURE).log_softmax(-1).view(2 + LOCALS, b, -1)
        losses = -(targets[:, None] * log_q).sum(-1).mean(-1)
        others = ~torch.eye(2, 2 + LOCALS, dtype=torch.bool)
        return losses[others].mean()

    @torch.no_grad()
    def follow(self, done: float) -> None:
        """Move the teacher towards the student; ``done`` is the fraction of the training."""
        momentum = 1 - (1 - MOMENTUM) * (math.cos(math.pi * done) + 1) / 2
        for ours, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            ours.lerp_(theirs, 1 - momentum)


def balanced(scores: Tensor) -> Tensor:
    """Sinkhorn-Knopp: ``(B, K)`` scores to rows that sum to 1, columns to B/K or nearly."""
    log_p = scores
    for _ in range(SINKHORN_ROUNDS):
        log_p = log_p - log_p.logsumexp(0, keepdim=True)
        log_p = log_p - log_p.logsumexp(1, keepdim=True)
    return log_p.exp()


def crops(
    images: Tensor, size: int, sides: tuple[int, int], count: int, generator: torch.Generator
) -> Tensor:
    """``count`` random square windows of each image, resized, flipped, brighter or darker.

    Returns:
        ``(count · B, 1, size, size)``, crop by crop.
    """
    n, full = count * len(images), images.shape[-1]

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    scale = draw(*sides) / full
    flip = draw(-1, 1).sign()
    grid = F.affine_grid(
        torch.stack(
            [
                torch.stack([scale * flip, torch.zeros(n), (1 - scale) * draw(-1, 1)], -1),
                torch.stack([torch.zeros(n), scale, (1 - scale) * draw(-1, 1)], -1),
            ],
            1,
        ),
        [n, 1, size, size],
        align_corners=False,
    )
    windows = F.grid_sample(
        images.repeat(count, 1, 1, 1),
        grid.to(images.device),
        padding_mode="border",
        align_corners=False,
    )
    brightness = draw(0.6, 1.4)[:, None, None, None].to(images.device)
    black = normalise(torch.zeros(1, device=images.device))
    return black + (windows - black) * brightness


def neighbours(encoder: nn.Module, images: Tensor, labels: Tensor, train: int) -> float:
    """Top-1 by 20 neighbours on class tokens: the first ``train`` images vote on the rest."""
    with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16):
        tokens = torch.cat([encoder(part).float() for part in images.split(100)])
    unit = F.normalize(tokens, dim=-1)
    weights, nearest = (unit[train:] @ unit[:train].T).topk(20)
    votes = unit.new_zeros(len(unit) - train, 10)
    votes.scatter_add_(1, labels[:train][nearest], (weights / 0.07).exp())
    return float((votes.argmax(1) == labels[train:]).float().mean())


def main() -> None:
    assert __doc__ is not None
    options = parser(__doc__.splitlines()[0], steps=2400, lr=5e-4)
    options.add_argument("--scratch", action="store_true", help="start from random weights")
    args = options.parse_args()
    if args.export:
        settings = {
            "learning_rate": args.lr,
            "crops": {"global": [2, GLOBAL], "local": [LOCALS, LOCAL], "unit": "pixels a side"},
            "patch_drop": DROP,
            "init": "random" if args.scratch else MAE.stem,
            "head": [HIDDEN, BOTTLENECK, PROTOTYPES],
            "temperatures": {"student": STUDENT_TEMPERATURE, "teacher": TEACHER_TEMPERATURE},
            "momentum": [MOMENTUM, 1.0],
        }
        export(
            args,
            name="dino-tiny",
            paradigm="self-distillation",
            prefix="teacher.encoder.",
            norm=True,
            data="flipped, cropped and brightened or darkened",
            settings=settings,
        )
        return
    start(args)
    model = SelfDistillation()
    if not args.scratch:
        start_from_mae(model.student.encoder)
        start_from_mae(model.teacher.encoder)
    model.to(args.device)
    items, classes = read_idx(args.idx, "train")
    images = normalise(torch.from_numpy(compose(items, classes, 1_000_000).images[:3000])[:, None])
    images = images.to(args.device)
    labels = torch.tensor(classes[:3000], device=args.device).long()
    optimizer = torch.optim.AdamW(model.student.parameters(), weight_decay=0.04, fused=True)

    def look(step: int) -> dict[str, float] | None:
        if step % LOOK_EVERY > 0 and step != args.steps:
            return None
        encoder = model.teacher.encoder.eval()
        return {"knn": neighbours(encoder, images, labels, 2000)}

    train(
        args,
        model,
        optimizer,
        lambda images, labels, generator: model(images, generator),
        after_step=lambda step: model.follow(step / args.steps),
        look=look,
    )


if __name__ == "__main__":
    main()
