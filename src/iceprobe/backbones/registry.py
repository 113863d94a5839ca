"""The sources of backbones by name, and ``load_backbone``. This module doesn't import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iceprobe.backbones.families import PARADIGMS
from iceprobe.backbones.options import (
    AnyShapeOptions,
    CheckpointOptions,
    Groups,
    HubOptions,
    ImageOptions,
    LayerOptions,
    OutputOptions,
    Parser,
    PartOptions,
    SoundOptions,
    TokenOptions,
    grouped,
    parse_shape,
    parsers,
)
from iceprobe.core.assumptions import log_assumptions
from iceprobe.core.errors import IceprobeError
from iceprobe.core.foreign import place_of
from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import Spec, boolean, one_of, parse_spec, typed_options, with_options
from iceprobe.tokens import GIVEN

if TYPE_CHECKING:
    from torch import nn

    from iceprobe.backbones.base import Backbone


def _paradigm(text: str) -> str:
    if text not in PARADIGMS:
        raise ValueError(f"write one of {', '.join(PARADIGMS)}")
    return text


OF_IMAGES: Groups = {"images": ImageOptions, "saved": CheckpointOptions}
OF_ANY_SHAPE: Groups = {"images": AnyShapeOptions, "saved": CheckpointOptions}
CHECKPOINT = parsers([CheckpointOptions])


@dataclass(frozen=True)
class SourceEntry(Entry):
    """A source of backbones: ``target(name, *, spec, **arguments) -> Backbone``.

    Attributes:
        examples: spec strings to copy from.
        groups: options shared with other sources, by the keyword of the loader that takes them. Those of
            `PartOptions` are every source's, and a loader takes them if it loads models of clips.
        own: further options, each a keyword of the loader, and their parsers.
        foreign: whether loading always runs code from outside the known libraries.
    """

    examples: tuple[str, ...] = ()
    groups: Groups = field(default_factory=dict)
    own: Mapping[str, Parser] = field(default_factory=dict)
    foreign: bool = False

    @property
    def options(self) -> dict[str, Parser]:
        """Every key of the source, and the parser of its text."""
        groups = [*self.groups.values(), PartOptions]
        return {**parsers(groups), "paradigm": _paradigm, **self.own}

    def runs_code(self, spec: Spec) -> bool:
        """Whether loading runs code that comes with the model."""
        return self.foreign or spec.options.get("trust", "").lower() == "true"


BACKBONES: Registry[SourceEntry] = Registry(
    "backbone source",
    {
        "timm": SourceEntry(
            "iceprobe.backbones.timm_models:load_timm",
            "any model of timm, with its published weights or a checkpoint of yours",
            (
                "timm:vit_base_patch16_224.mae",
                "timm:vit_small_patch14_dinov2.lvd142m?image_size=224&layer=-2",
                "timm:vit_base_patch16_224.mae?checkpoint=last.pth&checkpoint_key=model",
                "timm:naflexvit_base_patch16_siglip.v2_webli?image_size=native&max_tokens=256",
            ),
            {"tokens": TokenOptions, **OF_ANY_SHAPE},
            {"resample": one_of("patch_embed"), "pretrained": boolean},
        ),
        "transformers": SourceEntry(
            "iceprobe.backbones.transformers_models:load_transformers",
            "a model of images, clips or sound of Hugging Face's transformers, by name or folder",
            (
                "transformers:facebook/dinov2-with-registers-base",
                "transformers:google/siglip-base-patch16-224?layer=all",
                "transformers:./my-vit?image_size=224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5",
                "transformers:facebook/vjepa2-vitl-fpc64-256?frames=16&stride=4",
                "transformers:microsoft/wavlm-base-plus?seconds=10&layer=-4",
            ),
            {"tokens": OutputOptions, **OF_ANY_SHAPE, "parts": PartOptions, "sound": SoundOptions},
            {"trust": boolean},
        ),
        "open_clip": SourceEntry(
            "iceprobe.backbones.open_clip_models:load_open_clip",
            "the image tower of a model of open_clip",
            (
                "open_clip:ViT-B-16?pretrained=openai",
                "open_clip:ViT-B-16?pretrained=openai&checkpoint=open_clip_model.safetensors",
                "open_clip:local-dir:./my-clip",
            ),
            {"tokens": TokenOptions, **OF_IMAGES},
            {"pretrained": str},
        ),
        "torch_hub": SourceEntry(
            "iceprobe.backbones.torch_hub_models:load_torch_hub",
            "an entry of a repository with a hubconf.py, on GitHub or in a folder",
            (
                "torch_hub:facebookresearch/dinov2?entry=dinov2_vits14_reg&trust=true"
                "&image_size=224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225",
                "torch_hub:./dinov3?entry=dinov3_vits16&weights=dinov3_vits16.pth&trust=true"
                "&image_size=224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225",
            ),
            {"tokens": OutputOptions, **OF_IMAGES, "hub": HubOptions},
            foreign=True,
        ),
        "diffusers": SourceEntry(
            "iceprobe.backbones.diffusers_models:load_diffusers",
            "a diffusion transformer (DiT) read through its VAE, by name or folder",
            (
                "diffusers:facebook/DiT-XL-2-256",
                "diffusers:./my-dit?layer=13",
                "diffusers:facebook/DiT-XL-2-256?checkpoint=DiT-XL-2-256x256.pt",
            ),
            {"tokens": LayerOptions, **OF_IMAGES},
        ),
        "python": SourceEntry(
            "iceprobe.backbones.python_modules:load_python",
            "a function of yours that returns an nn.Module",
            (
                "python:my_package.models:build_encoder",
                "python:./models.py:build_encoder",
                "python:my_package.models:build_cnn?image_size=64&mean=0.5,0.5,0.5&std=0.5,0.5,0.5",
            ),
            {"tokens": OutputOptions, **OF_ANY_SHAPE},
            foreign=True,
        ),
        "bundled": SourceEntry(
            "iceprobe.backbones.bundled_models:load_bundled",
            "three small real backbones of one shape that ship with iceprobe",
            ("bundled:mae-tiny", "bundled:supervised-tiny", "bundled:dino-tiny"),
            {"tokens": TokenOptions},
        ),
    },
)
OF_MODULES: Groups = {"tokens": OutputOptions, "images": AnyShapeOptions}
OF_PARTS: Groups = {"parts": PartOptions}


# Code that the caller's own specs have run in this process: a file may name the same code again.
_ran: set[tuple[str, ...]] = set()


def has_run(spec: Spec) -> bool:
    """Whether a spec of the caller has run the same code in this process."""
    return _code(spec) in _ran


def _code(spec: Spec) -> tuple[str, ...]:
    """What determines the code that runs for a model, and its arguments."""
    given = (f"{key}={spec.options.get(key)}" for key in ("entry", "weights"))
    return (spec.kind or "", spec.name, place_of(spec.name), *given)


def load_backbone(backbone: "str | nn.Module", **options: Any) -> "Backbone":
    """Load a frozen backbone by its spec string, or wrap a module.

    Args:
        backbone: ``timm:NAME``, ``transformers:NAME_OR_DIR``, ``open_clip:ARCH?pretrained=TAG``,
            ``torch_hub:OWNER/REPO?entry=NAME`` (or a folder), ``diffusers:NAME_OR_DIR``,
            ``python:package.module:factory`` (or ``python:PATH.py:factory``) or ``bundled:NAME``,
            with ``?key=value`` options; or an ``nn.Module``, which is never changed: a model of
            timm, one with a method ``tokens(images) -> Tokens``, or one that returns ``(B, N, D)``
            tokens or a ``(B, D, H, W)`` map.
        **options: the same options as typed keyword arguments.
            ``layer`` (0 is the first block, -1 the last; several as ``0,5,-1`` or a sequence,
            all as ``all``: see :meth:`Backbone.per_layer`), ``norm`` (whether the final norm
            is applied, see :mod:`iceprobe.backbones.readers`; the default is the family's),
            ``image_size`` (pixels a side; of timm: and transformers: also ``native``, with
            ``max_tokens``: images keep their aspect), ``mean`` and ``std`` (per channel, for pixels in
            [0, 1]), ``interpolation``, ``crop_pct`` (224/256), ``resize`` (``shorter`` side, or
            ``squash`` both), ``num_prefix`` and ``has_class`` (of a ``(B, N, D)`` output),
            ``checkpoint``, ``checkpoint_key``, ``strip``, ``ignore`` (see
            :func:`iceprobe.backbones.checkpoints.load_checkpoint`), ``resample``
            (``patch_embed``: resample it if a checkpoint has another patch size), ``paradigm``
            (how it was pre-trained, if neither its name nor its file shows it), ``pretrained``
            (``False``: timm's random initialisation, seeded; a tag for open_clip), ``entry`` and
            ``weights`` (of a torch.hub repository), ``trust`` (whether a model's code may run);
            ``frames``, ``stride``, ``fps``, ``clips``, ``averaged``, ``each`` and ``reads``, by which any
            backbone reads videos, or bags of images (docs/clips.md); ``seconds``, the longest piece of a
            recording that is read (docs/sound.md).

    Raises:
        IceprobeError: for an unknown source, name or option, for weights that aren't available or
            don't fit, and for a module whose image statistics aren't known.
    """
    if not isinstance(backbone, str):
        from iceprobe.backbones.python_modules import wrap_module

        typed = {"image_size": parse_shape, "paradigm": _paradigm, **parsers(OF_PARTS.values())}
        for key, parse in typed.items():
            if options.get(key) is not None:
                try:
                    options[key] = parse(str(options[key]))
                except ValueError as error:
                    raise IceprobeError(f"{key}={options[key]!r}: {error}") from error
        paradigm = options.pop("paradigm", None)
        arguments = grouped({**OF_MODULES, **OF_PARTS}, options)
        asked, used = arguments.pop("parts"), False
        loaded = wrap_module(backbone, **arguments)
        if asked.given and loaded is backbone:
            raise IceprobeError(
                f"backbone {loaded.spec!r} is already loaded: give its options when loading it"
            )
    else:
        from iceprobe.machine.torch_state import own_state

        parsed = parse_spec(backbone)
        if parsed.kind is None:
            examples = " or ".join(BACKBONES[name].examples[0] for name in BACKBONES)
            raise IceprobeError(f"backbone {backbone!r} names no source: write {examples}")
        if parsed.kind == GIVEN:
            raise IceprobeError(
                f"{backbone!r} are tokens that iceprobe.from_tokens was given: there is no backbone "
                "behind them; name the one that made them"
            )
        entry = BACKBONES[parsed.kind]
        parsed = with_options(parsed, options)
        values = typed_options(parsed, entry.options)
        paradigm = values.pop("paradigm", None)
        arguments = grouped({**entry.groups, **OF_PARTS}, values)
        used = "parts" in entry.groups
        asked = arguments["parts"] if used else arguments.pop("parts")
        load = entry.load()
        with own_state():
            loaded = load(parsed.name, spec=str(parsed), **arguments)
        if entry.runs_code(parsed):
            _ran.add(_code(parsed))
    loaded.paradigm = paradigm or loaded.paradigm
    if asked.given and not (used and loaded.preprocessing.kind != "image"):
        from iceprobe.backbones.parts import of_parts

        loaded = of_parts(loaded, asked)
    log_assumptions(loaded.assumed)
    return loaded
