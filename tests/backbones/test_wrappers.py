"""Modules inside wrappers of training; and a caller whose torch is set otherwise."""

import peft
import pytest
import timm
import torch
from timm.utils import ModelEma, ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

import iceprobe
from iceprobe.backbones import load_backbone
from iceprobe.backbones.wrappers import unwrapped
from iceprobe.core.errors import IceprobeError

STATED = {"image_size": 160, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0)


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, images):
        return self.conv(images)


WRAPPERS = {
    "compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "ModelEma": ModelEma,
    "ModelEmaV2": ModelEmaV2,
    "ModelEmaV3": ModelEmaV3,
    "twice": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("name", list(WRAPPERS))
def test_wrappers_are_taken_off(name):
    images = torch.randn(1, 3, 160, 160)
    for model in (vit(), Cells()):
        plain = load_backbone(model, **STATED)
        wrapped = load_backbone(WRAPPERS[name](model), **STATED)
        assert torch.equal(wrapped(images).patches, plain(images).patches)
        assert wrapped.identity() == plain.identity()


def test_ddp_and_fsdp(tmp_path):
    from torch.distributed.fsdp import fully_shard

    file = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=file, rank=0, world_size=1)
    try:
        model = vit()
        plain = load_backbone(model, **STATED)
        images = torch.randn(1, 3, 160, 160)
        parallel = nn.parallel.DistributedDataParallel(model)
        assert torch.equal(load_backbone(parallel, **STATED)(images).patches, plain(images).patches)
        sharded = vit()
        fully_shard(sharded, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        with pytest.raises(IceprobeError, match=r"fully_shard.*full_state_dict=True") as caught:
            load_backbone(sharded, **STATED)
        assert "\n" not in str(caught.value)
    finally:
        torch.distributed.destroy_process_group()


def test_peft_adapters_act_and_prompts_are_named():
    model = vit()
    images = torch.randn(1, 3, 160, 160)
    before = load_backbone(model, **STATED)(images).patches
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv"], r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    backbone = load_backbone(adapted, **STATED)
    with torch.no_grad():
        expected = adapted.eval().base_model.model.forward_features(images)
    torch.testing.assert_close(backbone(images).patches, expected[:, 1:])
    assert not torch.allclose(backbone(images).patches, before)


def test_prompts_are_named():
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    prompted = peft.PeftModel.__new__(peft.PeftModel)
    nn.Module.__init__(prompted)
    prompted._is_prompt_learning = True
    prompted.active_adapter = "default"
    prompted.peft_config = {"default": config}
    with pytest.raises(IceprobeError, match="PROMPT_TUNING, whose prompts act outside"):
        unwrapped(prompted)


class FullyShardedDataParallel(nn.Module):
    """Known by its name."""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FullyShardedDataParallel(), r"wrapped by FSDP .*full_state_dict=True"),
        ({"weight": torch.ones(1)}, "a backbone is a spec string or an nn.Module, not a dict"),
        (3, "not a int"),
        (nn.Conv2d(3, 4, 4, device="meta"), "weight of Conv2d is on the meta device"),
    ],
)
def test_what_cant_be_taken_off_is_named(model, message):
    with pytest.raises(IceprobeError, match=message):
        load_backbone(model, **STATED)


def test_a_class_of_the_users_own_with_such_a_name_is_left():
    class EMA(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = self.ema_model = Cells()

    mine = EMA()
    assert unwrapped(mine) is mine


def test_pretraining_of_a_model_handed_over_isnt_guessed():
    """timm's tag is there with random weights too."""
    for name in ("vit_tiny_patch16_224.augreg_in21k", "vit_base_patch16_224.mae"):
        model = timm.create_model(name, num_classes=0, depth=1, embed_dim=24, num_heads=2)
        backbone = load_backbone(model)
        assert backbone.paradigm == "unknown"
        loaded = load_backbone(model, paradigm="supervised")
        assert loaded.paradigm == "supervised"
    assert "without its final norm, as MAE is" in backbone.assumed[0]
    with pytest.raises(IceprobeError, match="paradigm='clever': write one of masked"):
        load_backbone(model, paradigm="clever")


@pytest.fixture(scope="module")
def plain():
    return _scores()


def _scores() -> list:
    torch.manual_seed(3)
    model = Cells()
    return iceprobe.probe(
        model,
        "bundled:fashion",
        ["linear?input=mean", "ep2"],
        image_size=56,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        limit=40,
        epochs=1,
        learning_rates=[0.1],
    )


@pytest.mark.parametrize("state", ["no_grad", "inference_mode", "float64", "autocast", "bfloat16"])
def test_probe_works_in_any_state_of_torch_and_leaves_it(plain, state):
    contexts = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    }
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(state, torch.float32)
    with contexts.get(state, torch.enable_grad)():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        cast = torch.is_autocast_enabled("cpu")
        if state in ("float64", "bfloat16"):
            torch.manual_seed(3)
            model = Cells()
            torch.set_default_dtype(dtype)
            try:
                found = iceprobe.probe(
                    model,
                    "bundled:fashion",
                    ["linear?input=mean", "ep2"],
                    image_size=56,
                    mean=(0.5,) * 3,
                    std=(0.25,) * 3,
                    limit=40,
                    epochs=1,
                    learning_rates=[0.1],
                )
                assert torch.get_default_dtype() == dtype
            finally:
                torch.set_default_dtype(torch.float32)
        else:
            found = _scores()
        assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        assert torch.is_autocast_enabled("cpu") == cast
    assert [r.label for r in found] == [r.label for r in plain]
    for one, other in zip(found, plain, strict=True):
        assert one.top1 == other.top1
