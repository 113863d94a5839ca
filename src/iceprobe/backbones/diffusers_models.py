"""``diffusers:NAME_OR_DIR``: a diffusion transformer (DiT) read through the VAE of its latents.

    z = scale · mode(VAE(x)),   tokens = blocks of DiT(z, c = 0)

Peebles & Xie, "Scalable Diffusion Models with Transformers" (2023). The latent is the mode of the
VAE's posterior, not a sample: the same image gives the same tokens. The conditioning vector (the
embeddings of timestep and class, summed) is zero (``spec/protocols.md``). Tokens are a block's
output; the final norm of a DiT belongs to its noise prediction and is never applied.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.backbones.base import Backbone
from iceprobe.backbones.block_reader import BlockPaths, BlockReader
from iceprobe.backbones.checkpoints import check_keys, load_saved
from iceprobe.backbones.extras import model_folder, quiet
from iceprobe.backbones.families import family_of
from iceprobe.backbones.options import CheckpointOptions, ImageOptions, LayerOptions
from iceprobe.backbones.preprocessing import Preprocessing, check_image_size
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.foreign import explained, one_line

TRANSFORMER = "DiTTransformer2DModel"
_FETCH = (
    "copy its folder (model_index.json, transformer/, vae/) from a connected machine and pass "
    "diffusers:DIR"
)


def load_diffusers(
    name: str, *, spec: str, tokens: LayerOptions, images: ImageOptions, saved: CheckpointOptions
) -> Backbone:
    """Load ``diffusers:NAME_OR_DIR``, a DiT pipeline; options as :func:`iceprobe.load_backbone`.

    Pixels are scaled to [-1, 1], as in the VAE's training; the default image size is that of the
    transformer's training. With ``checkpoint`` the transformer's weights come from that file, named
    as in diffusers or in the publication's code.

    Raises:
        IceprobeError: if diffusers isn't installed, the folder holds no DiT, or weights are missing.
    """
    diffusers = require("diffusers", "diffusers", spec)
    folder = model_folder(name, spec, "transformer/config.json", _FETCH)
    transformer = _part(diffusers, TRANSFORMER, folder, "transformer", spec)
    vae = _part(diffusers, "AutoencoderKL", folder, "vae", spec)
    model = Conditioned(vae, transformer)
    assumed = load_saved(
        transformer,
        saved,
        convert=lambda weights: _converted(weights, transformer, str(saved.checkpoint)),
    )
    pixels = 2 ** (len(vae.config.block_out_channels) - 1)  # a side, of one latent
    side = images.image_size or transformer.config.sample_size * pixels
    check_image_size(side, transformer.config.patch_size * pixels, name)
    family = family_of("DiT")
    paths = BlockPaths(list(transformer.transformer_blocks), norm=nn.Identity())
    stated = {"image_size": side, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return Backbone(
        BlockReader(model, paths, tokens.layers, norm=False),
        Preprocessing(**{**stated, **images.given}),
        spec=spec,
        name=Path(folder).name if Path(folder).is_dir() else name,
        # A folder states the architecture, not the training.
        paradigm="unknown" if saved.checkpoint or Path(folder).is_dir() else family.paradigm,
        settings={
            "architecture": f"diffusers {TRANSFORMER}",
            "config": {"transformer": _settings(transformer), "vae": _settings(vae)},
            "norm": False,
        },
        assumed=assumed,
    )


class Conditioned(nn.Module):
    """VAE and transformer, with a conditioning vector of zeros: images → predicted noise."""

    def __init__(self, vae: Any, transformer: Any):
        super().__init__()
        self.vae, self.transformer = vae, transformer
        # Every block has its own copy of the same embedders; none is used.
        width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
        for block in transformer.transformer_blocks:
            block.norm1.emb = Zeros(width)
        # Only the VAE's encoder runs.
        vae.decoder, vae.post_quant_conv = nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        latents = self.vae.encode(images).latent_dist.mode() * self.vae.config.scaling_factor
        steps = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return self.transformer(latents, timestep=steps, class_labels=steps).sample


class Zeros(nn.Module):
    """Replaces the embeddings of timestep and class: ``(B,)`` → zeros ``(B, D)``."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, timestep: Tensor, labels: Tensor, hidden_dtype: torch.dtype) -> Tensor:
        return torch.zeros(len(timestep), self.width, dtype=hidden_dtype, device=timestep.device)


# The publication's names → diffusers' names, in the blocks and outside them.
_IN_BLOCKS = {
    "adaLN_modulation.1.": "norm1.linear.",
    "attn.proj.": "attn1.to_out.0.",
    "mlp.fc1.": "ff.net.0.proj.",
    "mlp.fc2.": "ff.net.2.",
}
_AROUND = {
    "x_embedder.proj.": "pos_embed.proj.",
    "final_layer.adaLN_modulation.1.": "proj_out_1.",
    "final_layer.linear.": "proj_out_2.",
}
_CONDITION = ("t_embedder.", "y_embedder.")  # embeddings that are zero here


def _converted(weights: dict[str, Tensor], transformer: Any, path: str) -> dict[str, Tensor]:
    """A checkpoint of the publication's code with diffusers' names; any other unchanged.

    Raises:
        IceprobeError: if its position table differs from the transformer's, which is computed.
    """
    if "x_embedder.proj.weight" not in weights:
        return weights
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            at = f"transformer_blocks.{number}."
            if rest.startswith("attn.qkv."):
                kind = rest.removeprefix("attn.qkv.")
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    found[f"{at}attn1.to_{letter}.{kind}"] = part
            else:
                found[at + _renamed(rest, _IN_BLOCKS)] = tensor
        elif name == "pos_embed":
            own = transformer.pos_embed.pos_embed
            if own.shape != tensor.shape or not torch.allclose(own, tensor.float(), atol=1e-3):
                raise IceprobeError(
                    f"checkpoint {path!r}: its table of positions ({tuple(tensor.shape)}) isn't that "
                    f"of the transformer ({tuple(own.shape)}): name a pipeline of its size"
                )
        elif not name.startswith(_CONDITION):
            found[_renamed(name, _AROUND)] = tensor
    return found


def _renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _part(diffusers: Any, kind: str, folder: str, part: str, spec: str) -> Any:
    """A model of the pipeline, in float32."""
    loads = getattr(diffusers, kind)
    with explained(lambda e: f"{spec}: its {part} can't be loaded ({one_line(e)}): {_FETCH}"):
        stated = loads.load_config(folder, subfolder=part).get("_class_name")
        if stated != kind:
            raise IceprobeError(
                f"{spec}: its {part} is a {stated}; what is read of diffusers is a {TRANSFORMER} "
                "with an AutoencoderKL"
            )
        with quiet(diffusers.utils.logging), torch.random.fork_rng(devices=[]):
            model, info = loads.from_pretrained(
                folder, subfolder=part, output_loading_info=True, low_cpu_mem_usage=False
            )
    check_keys(model, f"{folder}/{part}", sorted(info["missing_keys"]))
    return model.float()


def _settings(part: Any) -> dict[str, Any]:
    return {key: v for key, v in part.config.items() if not key.startswith("_")}
