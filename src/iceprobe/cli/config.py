"""The configuration of a command: options of the command line and keys of a YAML file are the same.

They are the fields of a model in `settings.py`: of `Run` in the ``runs/NAME/config.yaml`` of `run`, of `StoreRun`
in that of `fit` and `knn`. The file has the key ``output`` too, so ``iceprobe run runs/NAME/config.yaml`` shows the
finished run, and ``output=runs/AGAIN`` runs it again. Later sources win: defaults, file, options, ``key=value``
overrides.
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
    """The checked configuration from file, options and overrides; ``output`` has a readable default.

    Raises:
        IceprobeError: for a file that is missing or no YAML mapping, an unknown key (with the
            nearest right ones), or a wrong value.
    """
    values = renamed(schema, {**(read_yaml(file) if file else {}), **options})
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
    place = {}
    if isinstance(config, RunFolderSettings) and config.output is None:
        place = {"output": Path("runs") / readable_name(config)}
    return config.model_copy(update=place)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        IceprobeError: if it is missing, isn't YAML or isn't a mapping.
    """
    what = f"config file {str(file)!r}"
    try:
        with file.open(encoding="utf-8") as opened:
            content = _parse_yaml(opened.read(_LARGEST + 1))
    except OSError as error:
        raise IceprobeError(f"{what}: {error.strerror}; name a YAML file") from error
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start}): name a YAML file"
        raise IceprobeError(f"{what} {reason}") from error
    except ValueError as error:
        raise IceprobeError(f"{what} is not YAML{error}: correct it there") from error
    if not isinstance(content, dict):
        raise IceprobeError(f"{what} has no key: value lines: write some")
    return content


def written(config: Settings) -> dict[str, Any]:
    """The content of ``config.yaml``: all options, without None and implicit ones at their default."""
    values = config.model_dump(mode="json", exclude_none=True)
    fields, options = type(config).model_fields, options_of(type(config))
    late = {key: fields[key].default for key, option in options.items() if option.implicit}
    return {key: v for key, v in values.items() if key not in late or v != late[key]}


def to_yaml(config: RunFolderSettings) -> str:
    """Text from which :func:`read_yaml` and :func:`resolve` make an equal configuration."""
    return yaml.safe_dump(written(config), sort_keys=False)


def differences(config: RunFolderSettings, earlier: Mapping[str, Any]) -> list[str]:
    """Keys that differ from an earlier configuration and can change a result."""
    now, before = written(config), renamed(type(config), earlier)
    keys = [*now, *(key for key in before if key not in now)]
    kept = circumstances(type(config))
    return [key for key in keys if key not in kept and now.get(key) != before.get(key)]


def circumstances(model: type[Settings]) -> set[str]:
    """Options that can't change a result, such as paths and devices: a resumed run may change them."""
    return {name for name, option in options_of(model).items() if not option.changes_numbers}


def readable_name(config: RunFolderSettings) -> str:
    """``mae-tiny-fashion-heldout-1f9a03``: equal for equal requests alone."""
    if isinstance(config, AdaptRun | SegmentRun):
        kind = "adapt" if isinstance(config, AdaptRun) else "segment"
        parts = [_joined([config.backbone]), _joined([config.data]), kind]
    elif isinstance(config, Run):
        parts = [_joined(config.backbone), _joined(config.data), config.protocol]
    else:
        parts = [_of_store(config.store)] if isinstance(config, StoreRun) else []
        parts.append(config.protocol)
    words = "-".join([*parts, digest(config)])
    return short_name(re.sub(r"[^A-Za-z0-9._]+", "-", words).strip("-."))


def digest(config: RunFolderSettings) -> str:
    """Six characters of a hash of the request; options have their first names in it."""
    kept = circumstances(type(config))
    first = {today: was for was, today in type(config).EARLIER.items()}
    values = {first.get(key, key): v for key, v in written(config).items() if key not in kept}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:6]


def _of_store(store: Path | str) -> str:
    """The name of a store's folder, or of the file or folder of tokens."""
    return Path(parse_spec(store).name).stem if isinstance(store, str) else store.name


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
        ValueError: where it isn't YAML; its text says where, and continues " is not YAML".
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
    """A word that has the form of a number or a date and is none, such as ``2001-99-99``."""


class _Loader(yaml.SafeLoader):
    """Safe YAML whose errors of conversion, of ``2001-99-99``, have a line and a column."""

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
        return f"no {key} given: give {option}VALUE, or {key}: VALUE in the file"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"--{key.replace('_', '-')} {shown(first['input'])}: {reason}"
