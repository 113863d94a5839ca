"""What a checkpoint file holds, and which of its entries are the weights."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from iceprobe.backbones.checkpoint_files import read_checkpoint
from iceprobe.backbones.plain_pickle import Plain
from iceprobe.core.errors import IceprobeError

# What wrappers add within names: torch.compile, FSDP, activation checkpointing.
INFIX = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_NO_MODEL = re.compile(r"optim|sched|scaler|amp$", re.IGNORECASE)  # entries without a model
_DEPTH = 4


@dataclass(frozen=True)
class Checkpoint:
    """A file that has been read.

    Attributes:
        path: as the user wrote it.
        content: what the file holds.
    """

    path: str
    content: Any

    @classmethod
    def read(cls, path: str) -> "Checkpoint":
        """Raises IceprobeError: as :func:`read_checkpoint`."""
        return cls(path, read_checkpoint(path))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its top-level entries, and the paths of all weights."""
        found = list(map(str, self.content)) if isinstance(self.content, Mapping) else []
        for entry, weights in _entries_with_weights(self.content):
            found += [f"{entry}.{name}" if entry else name for name in weights]
        return tuple(found)

    def weights(self, key: str | None = None) -> dict[str, Tensor]:
        """The weights of one entry, their names without the infixes of wrappers.

        Raises:
            IceprobeError: if ``key`` doesn't exist or is needed, or the weights can't be used.
        """
        weights: dict[str, Tensor] = {}
        for name, tensor in _pick(self.content, self.path, key).items():
            plain = INFIX.sub("", name)
            if plain in weights:
                raise IceprobeError(
                    f"checkpoint {self.path!r} has {plain!r} twice, once as {name!r}: save the "
                    "state_dict() of the module that is wrapped"
                )
            weights[plain] = tensor
        return weights


def _pick(content: Any, path: str, key: str | None) -> dict[str, Tensor]:
    """The tensors of the entry that holds the weights."""
    if key:
        for part in [key] if _has(content, key) else key.split("."):
            if not _has(content, part):
                raise IceprobeError(
                    f"checkpoint {path!r} has no checkpoint_key={key}. {_entries(content)}"
                )
            content = content[part]
        if not _is_weights(content):
            raise IceprobeError(
                f"checkpoint_key={key} of {path!r} holds no weights. {_entries(content)}"
            )
        return _tensors(content)
    found = dict(_entries_with_weights(content))
    most = max(map(len, found.values()), default=0)
    found = {entry: weights for entry, weights in found.items() if 4 * len(weights) > most}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = [name or "the top" for name in found]
        raise IceprobeError(
            f"checkpoint {path!r} holds weights under {' and '.join(names)}: "
            f"choose with checkpoint_key={next(filter(None, found))}"
        )
    raise IceprobeError(f"checkpoint {path!r} holds no weights at its top. {_entries(content)}")


def _has(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and key in content


def _entries_with_weights(
    content: Any, at: str = "", depth: int = _DEPTH
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The path and tensors of every entry that holds weights; ``""`` is the top."""
    if _is_module(content):
        return
    if _is_weights(content):
        yield at, _tensors(content)
    elif isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str) and not _NO_MODEL.search(key) and not _is_module(value):
                yield from _entries_with_weights(value, f"{at}.{key}" if at else key, depth - 1)


def _is_weights(value: Any) -> bool:
    """Whether it holds tensors by name, and no larger mapping of weights inside."""
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and any(isinstance(item, Tensor) for item in value.values())
        and not any(_is_weights(item) and len(item) > 2 for item in value.values())
    )


def _is_module(value: Any) -> bool:
    """Whether it is a whole module that was saved instead of its weights."""
    return isinstance(value, Plain) and "_parameters" in value


def _tensors(value: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: item for name, item in value.items() if isinstance(item, Tensor)}


def _entries(content: Any) -> str:
    if _is_module(content):
        return (
            f"There is a whole {content.of}: load it where you trust it and torch.save() its "
            "state_dict()."
        )
    inside = list(content.values()) if isinstance(content, Mapping) else []
    if any(isinstance(v, Plain) and v.of.startswith("numpy") for v in (content, *inside)):
        return "There are NumPy arrays: make tensors of them with torch.from_numpy."
    if whole := list(filter(_is_module, inside)):
        return _entries(whole[0])
    if isinstance(content, Mapping):
        return f"There are: {first_few(map(str, content))}."
    return f"There is a {type(content).__name__}."


def first_few(names: Iterable[str], count: int = 6) -> str:
    """The first of the names as a text, and how many there are in all."""
    names = [name if len(name) <= 120 else f"{name[:120]}…" for name in names]
    tail = f", … ({len(names)} in all)" if len(names) > count else ""
    return ", ".join(names[:count]) + tail
