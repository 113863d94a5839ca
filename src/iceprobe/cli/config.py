"""What a run was asked to do: options of the command line and keys of the YAML file are the same.

The options are those of `settings.py`: `Run` is what ``runs/NAME/config.yaml`` holds after `run`, `StoreRun` after
`fit` and `knn`.
The file holds its own output too: ``iceprobe run runs/NAME/config.yaml output=runs/AGAIN`` does it
again (`fit` in place of `run` for the other two), without ``output=`` the finished run is shown.
Later sources win: defaults, file, options, ``key=value`` overrides.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from iceprobe.core.errors import IceprobeError
from iceprobe.core.options import Settings, options_of, renamed
from iceprobe.core.specs import check_text, parse_spec, unknown
from iceprobe.core.text import short_name, shown
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.settings import AdaptRun, FitRun, Run, SegmentRun, StoreRun

_LARGEST = 2**20  # characters of a configuration
RunFolderSettings = FitRun | AdaptRun | SegmentRun  # what ends in a run folder

C = TypeVar("C", bound=Settings)


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
    values = renamed(schema, values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise IceprobeError(f"override {shown(override)} is not of the form key=value")
        values[schema.EARLIER.get(key, key)] = _yaml_value(override, text)
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
    protocol = getattr(config, "protocol", None)
    if protocol is not None and protocol not in PROTOCOLS:
        raise IceprobeError(unknown("--protocol", protocol, PROTOCOLS))
    return config.model_copy(update=_place(config))


def _place(config: Settings) -> dict[str, Any]:
    """A readable ``output`` where a run folder is wanted and none was named."""
    if not isinstance(config, RunFolderSettings) or config.output is not None:
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


def written(config: Settings) -> dict[str, Any]:
    """What ``config.yaml`` holds: all that is set; an option that came later only where it isn't its default."""
    values = config.model_dump(mode="json", exclude_none=True)
    late = {name for name, option in options_of(type(config)).items() if option.implicit}
    defaults = {name: type(config).model_fields[name].default for name in late}
    return {key: v for key, v in values.items() if key not in late or v != defaults[key]}


def to_yaml(config: RunFolderSettings) -> str:
    """What :func:`read_yaml` and :func:`resolve` read back to an equal configuration."""
    return yaml.safe_dump(written(config), sort_keys=False)


def differences(config: RunFolderSettings, earlier: Mapping[str, Any]) -> list[str]:
    """Keys in which an earlier configuration would have given other results."""
    now, before = written(config), renamed(type(config), earlier)
    keys = [*now, *(key for key in before if key not in now)]
    kept = circumstances(type(config))
    return [key for key in keys if key not in kept and now.get(key) != before.get(key)]


def circumstances(model: type[Settings]) -> set[str]:
    """Where things lie and how fast they go: what a run may be continued with otherwise."""
    return {name for name, option in options_of(model).items() if not option.changes_numbers}


def readable_name(config: RunFolderSettings) -> str:
    """``mae-tiny-fashion-heldout-1f9a03``: the same for the same request, else another."""
    if isinstance(config, AdaptRun | SegmentRun):
        what = "adapt" if isinstance(config, AdaptRun) else "segment"
        parts = [_joined([config.backbone]), _joined([config.data]), what, digest(config)]
        return short_name(re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-."))
    if isinstance(config, Run):
        parts = [_joined(config.backbone), _joined(config.data)]
    else:
        parts = [config.store.name] if isinstance(config, StoreRun) else []
    words = "-".join([*parts, config.protocol, digest(config)])
    return short_name(re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-."))


def digest(config: RunFolderSettings) -> str:
    """Six characters that tell a request from others; options under their first names."""
    kept = circumstances(type(config))
    first = {today: was for was, today in type(config).EARLIER.items()}
    values = {first.get(key, key): v for key, v in written(config).items() if key not in kept}
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
