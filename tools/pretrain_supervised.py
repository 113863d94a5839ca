"""Pre-train `bundled:supervised-tiny`: a ViT trained with labels on cluttered Fashion-MNIST.

    python tools/pretrain_supervised.py --output build/supervised-tiny --steps 4000
    python tools/pretrain_supervised.py --output build/supervised-tiny \
        --export src/iceprobe/backbones/bundled

Cross-entropy on the class token, all weights learning. It starts from `bundled:mae-tiny`, as masked
autoencoders are fine-tuned (docs/bundled.md says what came of random weights). Half of the patches
are left out of each training image (Liu et al. 2022, PatchDropout), which halves the cost of a step
and regularises. The classifier is thrown away; `tools/pretraining.py` says what holds for every
bundled backbone.
"""

import torch
from pretraining import MAE, build_encoder, export, parser, start, start_from_mae, train
from torch import Tensor
from torch.nn import functional as F

DROP = 0.5  # of the patches, in training
SHIFT = 3  # pixels, at most, in either direction


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``SHIFT`` pixels; what comes in repeats the edge."""
    b, _, side, _ = images.shape
    offsets = torch.randint(-SHIFT, SHIFT + 1, (2, b, 1), generator=generator)
    rows, columns = (torch.arange(side) + offsets).clamp(0, side - 1)
    return images[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def main() -> None:
    assert __doc__ is not None
    options = parser(__doc__.splitlines()[0], steps=4000, lr=5e-4)
    options.add_argument("--scratch", action="store_true", help="start from random weights")
    options.add_argument("--no-compile", dest="compile", action="store_false")
    args = options.parse_args()
    if args.export:
        settings = {
            "patch_drop": DROP,
            "shift_pixels": SHIFT,
            "init": "random" if args.scratch else MAE.stem,
            "learning_rate": args.lr,
        }
        export(
            args,
            name="supervised-tiny",
            paradigm="supervised",
            prefix="",
            norm=True,
            data="with labels, flipped and shifted",
            settings=settings,
        )
        return
    start(args)
    model = build_encoder(num_classes=10, global_pool="token", patch_drop_rate=DROP)
    if not args.scratch:
        start_from_mae(model)
    model.to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, fused=True)
    if args.compile:
        model.compile()

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(shift(images, generator)).float(), labels)

    train(args, model, optimizer, loss)


if __name__ == "__main__":
    main()
