"""A DiT's tokens against its equations on the library's layers, from a pipeline's folder."""

import diffusers
import pytest
import torch

from iceprobe.backbones import extras, load_backbone
from iceprobe.core.errors import IceprobeError

from .builders import perturbed, pixels, seen

SIDE = 32  # latents of 8 x 8, patches of 2: a grid of 4 x 4
HALF = ((0.5,) * 3, (0.5,) * 3, "bicubic")


@pytest.fixture
def parts(tmp_path):
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_num_groups=2,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
        scaling_factor=0.3,
    )
    perturbed(transformer).save_pretrained(tmp_path / "transformer")
    perturbed(vae).save_pretrained(tmp_path / "vae")
    return transformer, vae, f"diffusers:{tmp_path}"


def hidden_states(transformer, vae, images) -> list[torch.Tensor]:
    """Blocks by hand: with c = 0, adaLN-Zero's six modulations are its linear layer's bias."""
    moments = vae.quant_conv(vae.encoder(images))
    hidden = transformer.pos_embed(0.3 * moments.chunk(2, 1)[0])
    found = []
    for block in transformer.transformer_blocks:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1.linear.bias.chunk(6)
        normed = block.norm1.norm(hidden) * (1 + scale) + shift
        hidden = hidden + gate * block.attn1(normed)
        normed = block.norm3(hidden) * (1 + scale_mlp) + shift_mlp
        hidden = hidden + gate_mlp * block.ff(normed)
        found.append(hidden)
    return found


def test_tokens_are_the_last_blocks_of_the_latents_mode(parts):
    transformer, vae, spec = parts
    backbone = load_backbone(spec)
    with torch.no_grad():
        expected = hidden_states(transformer, vae, pixels(SIDE, *HALF))
    tokens = backbone(seen(backbone))
    torch.testing.assert_close(tokens.patches, expected[-1], atol=1e-4, rtol=1e-4)
    assert tokens.prefix.shape[1] == 0
    assert (backbone.grid, backbone.has_class) == ((4, 4), False)
    assert backbone.paradigm == "unknown"  # a folder may hold any weights
    again = backbone(seen(backbone))
    assert torch.equal(again.patches, tokens.patches)  # nothing is sampled


def test_layers(parts):
    transformer, vae, spec = parts
    several = load_backbone(spec, layer=(0, -2))
    images = pixels(SIDE, *HALF)
    with torch.no_grad():
        expected = hidden_states(transformer, vae, images)
    for tokens, hidden in zip(several.forward_layers(images), expected, strict=False):
        torch.testing.assert_close(tokens.patches, hidden, atol=1e-4, rtol=1e-4)
    assert several.per_layer()[1].identity() == load_backbone(spec, layer=1).identity()


def test_patches_stand_row_by_row(parts):
    """One patch of the latent changed moves its own token, before blocks mix them."""
    transformer, _, _ = parts
    latent = torch.randn(1, 4, 8, 8)
    changed = latent.clone()
    changed[:, :, 2:4, 6:8] += 1
    with torch.no_grad():
        moved = transformer.pos_embed(changed) - transformer.pos_embed(latent)
    assert moved.abs().sum((0, 2)).nonzero().flatten().tolist() == [1 * 4 + 3]


def test_other_sizes_resize_the_position_embeddings(parts):
    _, _, spec = parts
    assert load_backbone(f"{spec}?image_size=48").grid == (6, 6)


def test_what_is_wrong_is_said(parts, tmp_path, monkeypatch):
    _, _, spec = parts
    monkeypatch.setattr(extras, "hub_has_address", lambda: False)
    (tmp_path / "empty").mkdir()
    for wrong, message in [
        ("diffusers:facebook/DiT-XL-2-256-none", r"no network.*pass diffusers:DIR"),
        ("diffusers:/no/where/at/all", "no folder '/no/where/at/all'"),
        (f"diffusers:{tmp_path / 'empty'}", r"transformer can't be loaded.*model_index\.json"),
        (f"{spec}?norm=true", "unknown option .*'norm'"),
        (f"{spec}?image_size=36", "no multiple of the patch size 8 .*take 32 or 40"),
        (f"{spec}?layer=3", r"layer=3 .*out of range \(0 to 2\)"),
    ]:
        with pytest.raises(IceprobeError, match=message) as caught:
            load_backbone(wrong)
        assert "\n" not in str(caught.value)


def test_another_model_and_missing_weights_are_refused(parts, tmp_path):
    from safetensors.torch import load_file, save_file

    _, _, spec = parts
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["proj_out_1.bias"]
    save_file(weights, path)
    with pytest.raises(IceprobeError, match=r"1 weights are missing: proj_out_1\.bias"):
        load_backbone(spec)
    config = tmp_path / "transformer" / "config.json"
    config.write_text(config.read_text().replace("DiTTransformer2D", "PixArtTransformer2D"))
    with pytest.raises(IceprobeError, match="transformer is a PixArtTransformer2DModel"):
        load_backbone(spec)


def test_a_checkpoint_by_the_publications_names(parts, tmp_path):
    """Its own code's layout: one qkv, blocks.N, embedders of timestep and class, a table."""
    transformer, vae, spec = parts
    theirs = {"pos_embed": transformer.pos_embed.pos_embed}
    theirs |= {
        "t_embedder.mlp.0.weight": torch.ones(1),
        "y_embedder.embedding_table.weight": torch.ones(1),
    }
    own = {name: tensor + 0.1 for name, tensor in transformer.state_dict().items()}
    for name in ("weight", "bias"):
        theirs[f"x_embedder.proj.{name}"] = own[f"pos_embed.proj.{name}"]
        theirs[f"final_layer.adaLN_modulation.1.{name}"] = own[f"proj_out_1.{name}"]
        theirs[f"final_layer.linear.{name}"] = own[f"proj_out_2.{name}"]
        for n in range(3):
            at = f"transformer_blocks.{n}"
            theirs[f"blocks.{n}.attn.qkv.{name}"] = torch.cat(
                [own[f"{at}.attn1.to_{letter}.{name}"] for letter in "qkv"]
            )
            theirs[f"blocks.{n}.attn.proj.{name}"] = own[f"{at}.attn1.to_out.0.{name}"]
            theirs[f"blocks.{n}.mlp.fc1.{name}"] = own[f"{at}.ff.net.0.proj.{name}"]
            theirs[f"blocks.{n}.mlp.fc2.{name}"] = own[f"{at}.ff.net.2.{name}"]
            theirs[f"blocks.{n}.adaLN_modulation.1.{name}"] = own[f"{at}.norm1.linear.{name}"]
    path = tmp_path / "DiT.pt"
    torch.save(theirs, path)
    backbone = load_backbone(f"{spec}?checkpoint={path}")
    transformer.load_state_dict(own)
    with torch.no_grad():
        expected = hidden_states(transformer, vae, pixels(SIDE, *HALF))
    torch.testing.assert_close(
        backbone(pixels(SIDE, *HALF)).patches, expected[-1], atol=1e-4, rtol=1e-4
    )
    assert backbone.paradigm == "unknown"
    torch.save({**theirs, "pos_embed": theirs["pos_embed"] * 2}, path)
    with pytest.raises(IceprobeError, match="its table of positions"):
        load_backbone(f"{spec}?checkpoint={path}")
    with pytest.raises(IceprobeError, match=r"weights of a DiT: name its pipeline as diffusers:"):
        load_backbone(f"timm:test_vit?checkpoint={path}")
