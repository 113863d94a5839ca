"""The authors' released EP heads: their file format, and the logits that its tensors give by the paper's equation."""

import argparse
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from iceprobe.core.errors import IceprobeError
from iceprobe.probes import load_published
from iceprobe.tokens import Tokens

M, D, K, N, B = 4, 24, 5, 9, 3
META = {
    "method": "MAE", "arch": "ViT-B/16", "pretrain": "IN-1K", "image_size": 224, "model": "vit_base_patch16",
    "loader": "", "pretrain_tag": "", "finetune": "vit_base_patch16_224.mae", "extra_flags": "", "cls_features": "ep",
    "ep_queries": M, "d_out": 1, "head_epoch": 85, "val_acc1_at_head_epoch": 75.4, "table_best_acc1": 75.46,
    "note": "final-epoch head", "training_log": "logs/mae_base/ep.txt",
}  # fmt: skip


def head(out_dim: int = D, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a head, in the order and with the names of the authors' module."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return {
        "0.cls_token": draw(1, M, D),
        "0.v.weight": draw(out_dim, D),
        "1.running_mean": draw(out_dim),
        "1.running_var": draw(out_dim).exp(),
        "1.num_batches_tracked": torch.tensor(1000),
        "2.weight": draw(K, out_dim),
        "2.bias": draw(K),
    }


def logits(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> np.ndarray:
    """y_j = W_Vj X a_j with a_j = softmax(X u_j/√D), batch norm in evaluation with ε = 1e-6, linear; float64."""
    s = {name: one.double().numpy() for name, one in state.items()}
    values = s["0.v.weight"].reshape(M, -1, D)
    found = []
    for x in tokens.double().numpy():
        scores = s["0.cls_token"][0] @ x.T / np.sqrt(D)
        a = np.exp(scores - scores.max(1, keepdims=True))
        a /= a.sum(1, keepdims=True)
        y = np.concatenate([values[j] @ (x.T @ a[j]) for j in range(M)])
        y = (y - s["1.running_mean"]) / np.sqrt(s["1.running_var"] + 1e-6)
        found.append(s["2.weight"] @ y + s["2.bias"])
    return np.stack(found)


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("out_dim", [D, D // 2])
def test_a_released_head_gives_the_logits_of_its_tensors(tmp_path, out_dim):
    state = head(out_dim)
    torch.save({"state_dict": state, "meta": META}, tmp_path / "ep_head.pth")
    probe = load_published(tmp_path / "ep_head.pth")
    assert not probe.training
    found = probe.double()(tokens().double()).detach().numpy()
    assert found == pytest.approx(logits(state, tokens()), abs=1e-10)
    attention = probe.attention(tokens().double()).detach()
    assert attention.shape == (B, M, N)
    assert attention.sum(-1).allclose(torch.ones(B, M, dtype=torch.float64))


def test_what_the_file_says_of_its_head_is_kept(tmp_path):
    torch.save({"state_dict": head(), "meta": META}, tmp_path / "a.pth")
    said = load_published(tmp_path / "a.pth").published
    assert (said.encoder, said.image_size, said.epoch) == ("MAE ViT-B/16", 224, 85)
    assert (said.top1, said.table_top1) == (pytest.approx(0.754), pytest.approx(0.7546))
    assert said.reads == "patches, without the backbone's final norm, at 224 pixels"


@pytest.mark.parametrize(
    ("changes", "input", "words"),
    [
        (dict(cls_features="ep_all", loader="hub"), "class+patches", "class+patches, at 224 pixels"),
        (dict(loader="openclip", model="EVA02-E-14"), "class+patches", "before the image projection"),
        (dict(loader="openclip", model="PE-Core-L-14-336"), "class+patches", "before the image projection"),
        (dict(loader="openclip", model="ViT-L-14"), "patches", "before the image projection"),
        (dict(loader="openclip", cls_features="ep_all"), "class+patches", "both after the image projection"),
        (dict(loader="timm", model="eva02_large_patch14_224.mim_in22k"), "patches", "patches, at 224 pixels"),
    ],
)  # fmt: skip
def test_the_head_reads_the_tokens_that_it_was_trained_on(tmp_path, changes, input, words):
    torch.save({"state_dict": head(), "meta": META | changes}, tmp_path / "a.pth")
    probe = load_published(tmp_path / "a.pth")
    assert probe.input == input
    assert words in probe.published.reads
    prefix, patches = tokens(2)[:, :1], tokens()
    read = torch.cat([prefix, patches], 1) if input == "class+patches" else patches
    given = Tokens(patches, prefix, (3, 3), has_class=True)
    assert probe(given).detach().numpy() == pytest.approx(logits(head(), read), abs=1e-4)


def test_a_checkpoint_of_their_training_script_is_read_as_data(tmp_path):
    content = {
        "saved_module": "head", "model": head(), "optimizer": {"state": {}, "param_groups": []}, "epoch": 3,
        "scaler": {}, "args": argparse.Namespace(data_path="/x"), "test_stats": {"test_acc1": 50.0},
    }  # fmt: skip
    torch.save(content, tmp_path / "checkpoint-best.pth")
    probe = load_published(tmp_path / "checkpoint-best.pth")
    assert probe(tokens()).detach().numpy() == pytest.approx(logits(head(), tokens()), abs=1e-4)
    assert probe.published.reads == "patches; the file doesn't say of which backbone"


def test_a_file_without_metadata_is_read_and_says_that_it_has_none(tmp_path):
    state = {name: one for name, one in head().items() if name != "1.num_batches_tracked"}
    save_file(state, tmp_path / "a.safetensors")
    probe = load_published(tmp_path / "a.safetensors")
    assert probe(tokens()).detach().numpy() == pytest.approx(logits(head(), tokens()), abs=1e-4)
    assert probe.published.encoder == ""


def wrong(name: str):
    state = head()
    if name == "another head":
        return {"linear.weight": torch.zeros(3, 3)}
    if name == "part of it":
        return {k: v for k, v in state.items() if k != "2.bias"}
    if name == "keys of another":
        return state | {"0.kv.weight": torch.zeros(3, 3)}
    if name == "other widths":
        return state | {"0.v.weight": torch.zeros(D, D + 1)}
    if name == "other outputs":
        return state | {"2.weight": torch.zeros(K + 1, D)}
    return state | {"0.v.weight": torch.zeros(D + 1, D)}  # M doesn't divide it


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another head", "has linear.weight: an EP head"),
        ("part of it", "lacks 2.bias: an EP head"),
        ("keys of another", "has 0.kv.weight"),
        ("other widths", "queries (1, 4, 24) and values (24, 25) don't fit"),
        ("other outputs", "classifier.weight is (6, 24) where (5, 24) fits"),
        ("not divided", "4 does not divide out_dim=25"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, name, words):
    torch.save({"state_dict": wrong(name), "meta": META}, tmp_path / "a.pth")
    with pytest.raises(IceprobeError, match=re.escape(words)) as caught:
        load_published(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)


def test_no_such_file_and_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(IceprobeError, match="no checkpoint"):
        load_published(tmp_path / "none.pth")
    (tmp_path / "config.json").write_text(json.dumps(META))
    with pytest.raises(IceprobeError, match=r"config\.json"):
        load_published(tmp_path / "config.json")
