"""What a run was asked to do: options of the command line and keys of the YAML file are the same.

`RunConfig` is what ``runs/NAME/config.yaml`` holds after `run`, `StoreConfig` after `fit` and `knn`.
The file holds its own output too: ``iceprobe run runs/NAME/config.yaml output=runs/AGAIN`` does it
again (`fit` in place of `run` for the other two), without ``output=`` the finished run is shown.
Later sources win: defaults, file, options, ``key=value`` overrides.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import MOST, check_text, parse_spec, unknown
from iceprobe.core.text import short_name, shown
from iceprobe.machine.object_storage import located

Dtype = Literal["float32", "bfloat16", "float16"]
ON_PAPER = "on paper"  # in place of a data set
TokenDtype = Literal["float32", "bfloat16", "float16", "int8"]
Strength = Literal["paper", "light", "clip"]  # of an augmentation
_LARGEST = 2**20  # characters of a configuration
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_bytes(text: Any) -> Any:
    """``"8GB"``, ``"500 MB"``, ``"4GiB"`` or a number of bytes → bytes.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip().lower())
    if not match:
        raise ValueError("write a size such as 8GB or 500MB")
    return _whole(match[1], match[2] or "")


def _whole(number: str, unit: str) -> int:
    value = float(number) * _UNITS[unit]
    if value >= 2**63:
        raise ValueError("write a number that 64 bits hold")
    return round(value)


def parse_numbers(value: Any) -> Any:
    """``"1e-3,1e-2"`` (the command line's) or one number → a list; lists stay as they are."""
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, int | float) else value


def parse_count(text: Any) -> Any:
    """``"200k"``, ``"1.5M"`` or a number → a whole number.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)", text.strip().lower())
    if not match:
        raise ValueError("write a number such as 200k or 1.5M")
    return _whole(match[1], match[2])


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1, lt=2**63)]
Count = Annotated[int, BeforeValidator(parse_count), Field(ge=1, lt=2**63)]
# Whole numbers from so many on, up to what is counted at all.
From0 = Annotated[int, Field(ge=0, le=MOST)]
From1 = Annotated[int, Field(ge=1, le=MOST)]
From2 = Annotated[int, Field(ge=2, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# A folder, or a URL of object storage as pathlib keeps it (`remote.located` knows it again).
Place = Annotated[Path, PlainSerializer(lambda place: str(located(place)), when_used="json")]
Specs = Annotated[list[str], BeforeValidator(_one_or_several), Field(min_length=1)]
Shots = Annotated[list[From1], BeforeValidator(parse_numbers), Field(min_length=1)]
Fractions = Annotated[
    list[Annotated[float, Field(gt=0, le=1)]], BeforeValidator(parse_numbers), Field(min_length=1)
]
Rates = Annotated[
    list[Annotated[float, Field(gt=0, allow_inf_nan=False)]],
    BeforeValidator(parse_numbers),
    Field(min_length=1),
]
Decays = Annotated[
    list[Annotated[float, Field(ge=0, allow_inf_nan=False)]],
    BeforeValidator(parse_numbers),
    Field(min_length=1),
]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExtractConfig(_Config):
    """An extraction by itself; the fields are those of ``iceprobe.extract``."""

    backbone: str
    data: str
    engine: Literal["local", "ray"] = "local"
    output: Place = Path("features")
    batch_size: From1 = 64  # images a forward pass
    device: str | None = None
    amp: Dtype = "float32"
    tokens: TokenDtype = "float16"
    patches: bool = True
    views: From0 = 0
    augmentation: Strength = "paper"
    workers: From0 = 0
    limit: From1 | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"


class PredictConfig(_Config):
    """What `predict` does; the fields are those of ``iceprobe.export.predict``."""

    images: Path
    output: Path = Path("predictions.csv")
    maps: Path | None = None
    top: From1 = 5
    batch_size: From1 = 64
    device: str | None = None
    amp: Dtype | None = None  # None: the one the features were extracted with
    workers: From0 = 0
    on_bad_image: Literal["fail", "skip"] = "fail"


class FitConfig(_Config):
    """How probes are fitted, whatever the tokens come from."""

    probe: Specs = ["knn", "linear", "ep32"]
    budget: Count | None = None  # parameters; adds the EPs of a grid that stay within it
    budget_flops: Count | None = None
    shots: Shots | None = None  # training images a class: a fit for each number
    fraction: Fractions | None = None  # of the training images: a fit for each
    replicates: From1 | None = None  # complete repetitions, not seeds
    protocol: Literal["heldout", "paper"] = "heldout"
    seeds: From1 | None = None  # None, and no replicates: 5 of these where probes are compared
    epochs: From1 | None = None  # None: the protocol's
    batch_size: From2 | None = None  # images a training step
    learning_rates: Rates | None = None  # the grid
    min_steps: From0 | None = None  # epochs are raised to it
    weight_decays: Decays | None = None
    halving: bool = False  # settings that are clearly beaten stop early
    coordinates: str | None = None  # in which probes learn: standardised or raw
    long: bool = False  # a fit of more than a day may begin
    device: str | None = None
    memory: Bytes | None = None  # of a fit: tokens and what is computed from them
    shuffle: Literal["auto", "rows", "blocks"] = "auto"  # of training images that are streamed
    output: Path | None = None


class StoreConfig(FitConfig):
    """A fit on a feature store that exists."""

    store: Place


class RunConfig(FitConfig):
    """A run from images to report; of several backbones, data sets or layers a campaign."""

    backbone: Specs
    data: Specs
    layers: str | None = None  # of every backbone: 0,5,11 or all
    amp: Dtype = "float32"
    tokens: TokenDtype = "float16"
    views: From0 | None = None  # augmented, of each training image
    live: bool = False  # the backbone in every epoch, nothing stored
    augmentation: Strength | Literal["none"] | None = None  # of views, or of live images
    forward_batch_size: From1 = 64
    workers: From0 = 0
    limit: From1 | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    engine: Literal["local", "ray"] = "local"
    features: Place = Path("features")


class AdaptConfig(_Config):
    """What `adapt` does; the fields are those of ``iceprobe.adapt``."""

    backbone: str
    data: str
    adapt: Specs = ["none", "lora"]
    probe: Specs = ["linear"]
    seeds: From1 = 3
    epochs: From1 = 20
    batch_size: From2 = 64  # images a training step
    learning_rates: Rates | None = None  # the grid
    weight_decays: Decays | None = None
    augmentation: Strength | None = None  # of training images
    amp: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    accumulate: From1 = 1  # micro-batches a step
    long: bool = False  # a training of more than a day may begin
    limit: From1 | None = None
    device: str | None = None
    memory: Bytes | None = None  # for decoded images
    output: Path | None = None


class SegmentConfig(_Config):
    """What `segment` does; the fields are those of ``iceprobe.extract`` and ``iceprobe.segment``."""

    backbone: str
    data: str
    probe: Specs = ["linear", "ep8"]
    seeds: From1 = 3
    epochs: From1 = 10
    batch_size: From2 = 64  # images a training step
    learning_rates: Rates = [1e-2, 3e-2, 1e-1, 3e-1]  # the grid
    long: bool = False  # a training of more than a day may begin
    amp: Dtype = "float32"
    tokens: TokenDtype = "float16"
    forward_batch_size: From1 = 64
    workers: From0 = 0
    limit: From1 | None = None
    on_bad_image: Literal["fail", "skip"] = "fail"
    features: Place = Path("features")
    device: str | None = None
    memory: Bytes | None = None  # for tokens and masks held in memory
    output: Path | None = None


Folders = FitConfig | AdaptConfig | SegmentConfig  # what ends in a run folder


class PlanConfig(RunConfig):
    """What a run would cost, also of images or a machine that one doesn't have."""

    data: Specs = [ON_PAPER]
    images: Count | None = None  # of train, in place of a data set
    classes: Count | None = None  # with them
    device_images_per_second: Positive | None = None  # the backbone's
    device_tflops: Positive | None = None  # that a training step of the probes reaches
    disk_gb_per_second: Positive | None = None
    dollars_per_hour: Positive | None = None  # of the device
    dollars_per_tb_month: Positive | None = None  # of the store


C = TypeVar("C", bound=_Config)

# What a run may be continued with though it was started with something else: where things lie and
# how fast they go. Everything else changes results, and asks for another folder.
CIRCUMSTANCES = {
    "output",
    "features",
    "memory",
    "workers",
    "engine",
    "checkpointing",
    "accumulate",
    "long",
}


def resolve(
    schema: type[C],
    options: Mapping[str, Any],
    file: Path | None = None,
    overrides: Sequence[str] = (),
) -> C:
    """The configuration from file, options (None: not given) and overrides, all checked.

    Raises:
        IceprobeError: for a file that isn't there or isn't a YAML mapping, a key that there isn't
            (with the nearest right ones), or a value that doesn't fit.
    """
    values = read_yaml(file) if file else {}
    values |= {key: value for key, value in options.items() if value not in (None, [])}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise IceprobeError(f"override {shown(override)} is not of the form key=value")
        values[key] = _yaml_value(override, text)
    for key, value in values.items():
        if key not in schema.model_fields:
            raise IceprobeError(unknown("key", str(key), schema.model_fields))
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str | Path):
                check_text(str(text), f"{key}=")
    try:
        config = schema(**values)
    except ValidationError as error:
        raise IceprobeError(_one_line(error)) from error
    return config.model_copy(update=_place(config))


def _place(config: _Config) -> dict[str, Any]:
    """A readable ``output`` where a run folder is wanted and none was named."""
    if not isinstance(config, Folders) or config.output is not None:
        return {}
    return {"output": Path("runs") / readable_name(config)}


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        IceprobeError: if it isn't there, isn't YAML or isn't a mapping.
    """
    try:
        with file.open(encoding="utf-8") as opened:
            text = opened.read(_LARGEST + 1)
    except OSError as error:
        raise IceprobeError(
            f"config file {str(file)!r}: {error.strerror}; name a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise IceprobeError(
            f"config file {str(file)!r} is not UTF-8 text (byte {error.start}): name a YAML file"
        ) from error
    try:
        content = _parse_yaml(text)
    except ValueError as error:
        raise IceprobeError(
            f"config file {str(file)!r} is not YAML{error}: mend it there"
        ) from error
    if not isinstance(content, dict):
        raise IceprobeError(f"config file {str(file)!r} has no key: value lines: write some")
    return content


def to_yaml(config: Folders) -> str:
    """What :func:`read_yaml` and :func:`resolve` read back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)


def differences(config: Folders, earlier: Mapping[str, Any]) -> list[str]:
    """Keys in which an earlier configuration would have given other results."""
    now = config.model_dump(mode="json", exclude_none=True)
    keys = [*now, *(key for key in earlier if key not in now)]
    return [k for k in keys if k not in CIRCUMSTANCES and now.get(k) != earlier.get(k)]


def readable_name(config: Folders) -> str:
    """``mae-tiny-fashion-heldout-1f9a03``: the same for the same request, else another."""
    if isinstance(config, AdaptConfig | SegmentConfig):
        what = "adapt" if isinstance(config, AdaptConfig) else "segment"
        parts = [_joined([config.backbone]), _joined([config.data]), what, digest(config)]
        return short_name(re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-."))
    if isinstance(config, RunConfig):
        parts = [_joined(config.backbone), _joined(config.data)]
    else:
        parts = [config.store.name] if isinstance(config, StoreConfig) else []
    words = "-".join([*parts, config.protocol, digest(config)])
    return short_name(re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-."))


def digest(config: Folders) -> str:
    """Six characters that tell a request from others."""
    values = config.model_dump(mode="json", exclude_none=True, exclude=CIRCUMSTANCES)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]


def _joined(specs: Sequence[str]) -> str:
    first = Path(parse_spec(specs[0]).name).name
    return first if len(specs) == 1 else f"{first}-and-{len(specs) - 1}-more"


def _yaml_value(override: str, text: str) -> Any:
    try:
        return _parse_yaml(text)
    except ValueError as error:
        raise IceprobeError(
            f"override {shown(override)}: the value is not YAML{error}: quote it, 'key=\"value\"'"
        ) from error


def _parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: where it isn't YAML; its text says where, and goes on " is not YAML".
    """
    if len(text) > _LARGEST:
        raise ValueError(f", it has more than {_LARGEST:,} characters")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) if isinstance(error, _Wrong) else None
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        line = "".join(text.splitlines()[mark.line : mark.line + 1]) if mark else ""
        if not reason and "?" in line.lstrip()[1:]:
            reason = 'what has a "?" needs quotes within [ ] and { } (["ep12?value=identity"])'
        raise ValueError(place + (f", {reason}" if reason else "")) from error
    except RecursionError:
        raise ValueError(", it nests too deeply") from None


class _Wrong(yaml.constructor.ConstructorError):
    """A word that looks like a number or a date and is none."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a word that YAML's own types can't read, ``2001-99-99``, has its place."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown(getattr(node, 'value', ''))} is no {kind}"
            raise _Wrong(None, None, problem, node.start_mark) from error


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        option = "store=" if key == "store" else f"--{key} "  # `fit` has no option for its argument
        return f"no {key} given: say {option}VALUE, or {key}: VALUE in the file"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"--{key.replace('_', '-')} {shown(first['input'])}: {reason}"
