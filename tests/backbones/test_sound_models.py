"""Tokens of transformers' models of sound against the library's own extractors and forward passes."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from iceprobe.backbones import Backbone, load_backbone
from iceprobe.backbones.kinds import batched
from iceprobe.core.errors import IceprobeError

from ..datasets.sounds import recording, tone
from .builders import perturbed

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

RATE = 16_000
WAVES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
}
GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
CASES = {
    "wav2vec 2.0": ("Wav2Vec2", WAVES | GROUP),
    "wav2vec 2.0, layer norm": ("Wav2Vec2", WAVES | LAYER),
    "wav2vec 2.0, layer norm, norm in blocks": (
        "Wav2Vec2",
        WAVES | LAYER | {"do_stable_layer_norm": False},
    ),
    "HuBERT": ("Hubert", WAVES | GROUP),
    "HuBERT, layer norm": ("Hubert", WAVES | LAYER),
    "HuBERT, batch norm of positions": ("Hubert", WAVES | LAYER | {"conv_pos_batch_norm": True}),
    "WavLM": ("WavLM", WAVES | GROUP),
    "WavLM, layer norm": ("WavLM", WAVES | LAYER),
}
LENGTHS = (900, 2400, 1600, 900)


def saved(folder: Path, name: str, fields: dict[str, Any], extractor: Any) -> tuple[str, Any]:
    """A model of random weights, as ``save_pretrained`` of it and its extractor leave a folder."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**fields)
    kind = "ClapAudioModelWithProjection" if name == "ClapAudio" else f"{name}Model"
    model = perturbed(getattr(transformers, kind)(config)).eval()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return f"transformers:{folder}", model


def waves(folder: Path, name: str) -> tuple[str, Any, Any]:
    kind, fields = CASES[name]
    extractor = transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=fields["feat_extract_norm"] == "layer"
    )
    return *saved(folder, kind, fields, extractor), extractor


def inputs(backbone: Backbone, folder: Path, sounds: list[np.ndarray], rate: int = RATE) -> Any:
    """The batch that the backbone makes of sounds in files."""
    reads = backbone.preprocessing.transform
    return batched(
        [reads(recording(folder / f"{k}.wav", one, rate)) for k, one in enumerate(sounds)]
    )


@pytest.mark.parametrize("name", CASES)
def test_tokens_of_samples_are_the_librarys_own_however_they_are_batched(
    name: str, tmp_path: Path
) -> None:
    spec, model, extractor = waves(tmp_path, name)
    backbone = load_backbone(spec)
    sounds = [tone(length, 300 + 100 * k) for k, length in enumerate(LENGTHS)]
    tokens = backbone(inputs(backbone, tmp_path, sounds))
    assert tokens.mask is not None
    assert tokens.coords is not None
    assert tokens.grid is None
    assert tokens.prefix.shape[1] == 0
    for row, sound in enumerate(sounds):
        alone = extractor(sound, sampling_rate=RATE, return_tensors="pt")["input_values"]
        with torch.no_grad():
            expected = model(alone).last_hidden_state[0]
        assert int(tokens.mask[row].sum()) == len(expected)
        torch.testing.assert_close(
            tokens.patches[row, tokens.mask[row]], expected, atol=2e-5, rtol=1e-5
        )
    # Kernels (10, 3, 2), strides (5, 4, 4): a frame is of 40 samples, the next begins 80 later.
    assert backbone.preprocessing.shortest == 40  # type: ignore[attr-defined]
    places = (np.arange(tokens.patches.shape[1]) * 80 + 39 / 2) / RATE
    np.testing.assert_allclose(tokens.coords[0, :, 0].numpy(), places, rtol=1e-5)


@pytest.mark.parametrize("name", ["wav2vec 2.0", "WavLM, layer norm"])
def test_layers_are_the_blocks_outputs(name: str, tmp_path: Path) -> None:
    spec, model, extractor = waves(tmp_path, name)
    stable = model.config.do_stable_layer_norm
    backbone = load_backbone(spec, layer=(2, 0), **({"norm": False} if stable else {}))
    sounds = [tone(1200)]
    found = backbone.forward_layers(inputs(backbone, tmp_path, sounds))
    values = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_values"]
    blocks: list[torch.Tensor] = []
    for block in model.encoder.layers:
        block.register_forward_hook(
            lambda _, __, out: blocks.append(out if isinstance(out, torch.Tensor) else out[0])
        )
    with torch.no_grad():
        model(values)
    for tokens, block in zip(found, (2, 0), strict=True):
        torch.testing.assert_close(tokens.patches, blocks[block], atol=1e-5, rtol=1e-5)
    if not stable:
        with pytest.raises(IceprobeError, match=r"has no final norm: drop norm=false"):
            load_backbone(spec, norm=False)


AST = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "patch_size": 8, "frequency_stride": 6, "time_stride": 7, "max_length": 64, "num_mel_bins": 32,
}  # fmt: skip


def test_ast_lies_on_bands_and_time(tmp_path: Path) -> None:
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    spec, model = saved(tmp_path, "AST", AST, extractor)
    backbone = load_backbone(spec)
    sounds = [tone(6_000), tone(20_000, 900)]  # shorter and longer than the window of 10,480
    values = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_values"]
    made = inputs(backbone, tmp_path, sounds)
    torch.testing.assert_close(made, values, atol=1e-6, rtol=0)
    tokens = backbone(made)
    with torch.no_grad():
        output = model(values)
    assert tokens.grid == backbone.grid == (5, 9)  # (32 - 8) // 6 + 1, (64 - 8) // 7 + 1
    assert tokens.mask is None
    both = torch.cat([tokens.prefix, tokens.patches], 1)
    torch.testing.assert_close(both, output.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.vectors["pooled"], output.pooler_output, atol=1e-5, rtol=1e-5)
    assert tokens.has_class
    assert tokens.prefix.shape[1] == 2
    assert "padded to 0.655 s" in backbone.assumed[0]
    # A band and a column of it are where the convolution's own output has them.
    embedded = model.embeddings.patch_embeddings.projection(values[:, None].transpose(2, 3))
    assert embedded.shape[2:] == tokens.grid


def whisper(folder: Path) -> tuple[str, Any, Any]:
    fields = {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 16, "num_mel_bins": 8,
        "max_source_positions": 50, "vocab_size": 20, "pad_token_id": 0, "decoder_start_token_id": 1,
    }  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    return *saved(folder, "Whisper", fields, extractor), extractor


def test_whispers_tokens_end_with_the_recording(tmp_path: Path) -> None:
    spec, model, extractor = whisper(tmp_path)
    backbone = load_backbone(spec, layer=(0, 1))
    sounds = [tone(3_200), tone(16_000, 700), tone(20_000, 500), tone(3_201)]
    values = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_features"]
    made = inputs(backbone, tmp_path, sounds)
    torch.testing.assert_close(made[:, :-1], values, atol=1e-6, rtol=0)
    first, last = backbone.forward_layers(made)
    with torch.no_grad():
        expected = model.encoder(values, output_hidden_states=True)
    assert last.mask is not None
    assert last.mask.sum(1).tolist() == [10, 50, 50, 11]  # 320 samples a token
    own = last.mask
    torch.testing.assert_close(
        last.patches[own], expected.last_hidden_state[own], atol=1e-5, rtol=1e-5
    )
    normed = model.encoder.layer_norm(expected.hidden_states[1])
    torch.testing.assert_close(first.patches[own], normed[own], atol=1e-5, rtol=1e-5)
    assert last.coords is not None
    np.testing.assert_allclose(last.coords[0, :3, 0], [0.01, 0.03, 0.05], rtol=1e-6)
    assert "tokens beyond their end are left out" in backbone.assumed[0]
    assert not any("decoder" in name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize("fusion", [False, True])
def test_claps_map_is_the_librarys_own(fusion: bool, tmp_path: Path) -> None:
    fields = {
        "window_size": 2, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2],
        "hidden_size": 16, "projection_dim": 8, "enable_fusion": fusion, "aff_block_r": 1,
    }  # fmt: skip
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8_000, hop_length=80, max_length_s=2, fft_window_size=256,
        frequency_max=4_000, truncation="fusion" if fusion else "rand_trunc",
    )  # fmt: skip
    spec, model = saved(tmp_path, "ClapAudio", fields, extractor)
    backbone = load_backbone(spec, layer=(0, 1))
    sounds = [tone(6_000, rate=8_000), tone(16_000, 900, rate=8_000)]
    values = extractor(sounds, sampling_rate=8_000, return_tensors="pt")["input_features"]
    made = inputs(backbone, tmp_path, sounds, 8_000)
    torch.testing.assert_close(made, values.float(), atol=1e-5, rtol=0)
    stage, tokens = backbone.forward_layers(made)
    with torch.no_grad():
        longer = torch.zeros(2, 1, dtype=torch.bool)
        output = model.audio_model(values.float(), is_longer=longer)
    bands, columns = output.last_hidden_state.shape[2:]
    assert tokens.grid == (bands, columns) == (2, 32)
    torch.testing.assert_close(
        tokens.patches.transpose(1, 2).unflatten(2, tokens.grid),
        output.last_hidden_state,
        atol=1e-5,
        rtol=1e-5,
    )
    torch.testing.assert_close(tokens.vectors["pooled"], output.pooler_output, atol=1e-5, rtol=1e-5)
    assert stage.grid == (4, 64)
    # Longer recordings are cut, never cropped at random.
    long = [tone(30_000, 900, rate=8_000)]
    cut = inputs(backbone, tmp_path, long, 8_000)
    kept = extractor(long[0][:16_000], sampling_rate=8_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(cut, kept.float(), atol=1e-5, rtol=0)


def test_a_clap_model_with_its_text_tower_gives_the_same(tmp_path: Path) -> None:
    audio = {
        "window_size": 2, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2],
        "hidden_size": 16, "projection_dim": 8,
    }  # fmt: skip
    text = {
        "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "projection_dim": 8,
    }  # fmt: skip
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8_000, hop_length=80, max_length_s=2, fft_window_size=256,
        frequency_max=4_000, truncation="rand_trunc",
    )  # fmt: skip
    spec, whole = saved(
        tmp_path,
        "Clap",
        {"audio_config": audio, "text_config": text, "projection_dim": 8},
        extractor,
    )
    backbone = load_backbone(spec)
    made = inputs(backbone, tmp_path, [tone(6_000, rate=8_000)], 8_000)
    with torch.no_grad():
        output = whole.audio_model(made, is_longer=torch.zeros(1, 1, dtype=torch.bool))
    found = backbone(made).patches.transpose(1, 2)
    torch.testing.assert_close(found, output.last_hidden_state.flatten(2), atol=1e-5, rtol=1e-5)
    assert not any("text" in name for name, _ in backbone.named_parameters())


def test_options_of_other_kinds_are_refused(tmp_path: Path) -> None:
    spec, _, extractor = waves(tmp_path, "wav2vec 2.0")
    for option, value, reason in (
        ("image_size", 32, "image_size is of images or clips"),
        ("frames", 8, "frames is of images or clips"),
        ("num_prefix", 1, "num_prefix doesn't apply"),
        ("seconds", 0.001, r"seconds=0.001 are 16 samples .* take seconds=0.0025 or more"),
        ("seconds", 0.0, "write a number above 0|take a number above 0"),
    ):
        with pytest.raises(IceprobeError, match=reason):
            load_backbone(spec, **{option: value})
    # another extractor, noise, none
    other = transformers.ASTFeatureExtractor()
    other.save_pretrained(tmp_path)
    with pytest.raises(IceprobeError, match=r"is of a ASTFeatureExtractor, .* Wav2Vec2FeatureExt"):
        load_backbone(spec)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(IceprobeError, match=r"no preprocessor_config.json says how its recordings"):
        load_backbone(spec)
    extractor.save_pretrained(tmp_path)
    assert load_backbone(spec, seconds=0.5).preprocessing.most == 8_000  # type: ignore[attr-defined]


def test_noise_in_an_extractor_is_refused(tmp_path: Path) -> None:
    spec, _, extractor = whisper(tmp_path)
    noisy = copy.copy(extractor)
    noisy.dither = 0.1
    noisy.save_pretrained(tmp_path)
    with pytest.raises(IceprobeError, match=r"adds noise \(dither=0.1\).*set it to 0.0"):
        load_backbone(spec)


def test_seconds_of_a_model_of_images_are_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16,
        patch_size=8,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(IceprobeError, match=r"seconds=2 is of models of sound, and this is a vit"):
        load_backbone(f"transformers:{tmp_path}?seconds=2")
