"""Pre-train `bundled:mae-tiny`: a masked autoencoder (He et al. 2022) on cluttered Fashion-MNIST.

    python tools/pretrain_mae.py --output build/mae-tiny --steps 14000
    python tools/pretrain_mae.py --output build/mae-tiny --export src/iceprobe/backbones/bundled

The first command trains and can be killed: run again, it goes on from its last checkpoint. The
second writes what ships; the decoder is thrown away. `tools/pretraining.py` says what holds for
every bundled backbone.
"""

import torch
from pretraining import build_encoder, export, parser, start, train
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class MaskedAutoencoder(nn.Module):
    """The encoder sees a quarter of the patches; a light decoder predicts the pixels of the rest."""

    position: Tensor

    def __init__(self, width: int = 96, depth: int = 2, mask_ratio: float = 0.75):
        super().__init__()
        self.encoder = build_encoder()
        grid, dim = self.encoder.patch_embed.grid_size, self.encoder.embed_dim
        self.num_patches = grid[0] * grid[1]
        self.num_visible = round(self.num_patches * (1 - mask_ratio))
        self.patch = self.encoder.patch_embed.patch_size[0]
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


def main() -> None:
    assert __doc__ is not None
    options = parser(__doc__.splitlines()[0], steps=14_000)
    options.add_argument("--no-compile", dest="compile", action="store_false")
    args = options.parse_args()
    if args.export:
        export(
            args,
            name="mae-tiny",
            paradigm="masked image modelling",
            prefix="encoder.",
            norm=False,
            data="flipped",
            settings={},
        )
        return
    start(args)
    model = MaskedAutoencoder().to(args.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    if args.compile:
        model.compile()

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.rand(len(images), model.num_patches, generator=generator).argsort(1)
        return model(images, order.to(images.device))

    train(args, model, optimizer, loss)


if __name__ == "__main__":
    main()
