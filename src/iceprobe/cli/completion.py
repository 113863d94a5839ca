"""What the shell completes after an option or in place of an argument; nothing here imports torch.

Typer has the scripts (``iceprobe --install-completion``), which ask ``iceprobe`` itself; registries have the
values. Where there are none, shells complete the names of files.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from iceprobe.adaptation import ADAPTATIONS
from iceprobe.backbones import BACKBONES
from iceprobe.backbones.families import FAMILIES
from iceprobe.cli.ls import LISTS
from iceprobe.core.documents import parse_json
from iceprobe.core.registry import Registry
from iceprobe.datasets import CATALOGUE, DATASETS
from iceprobe.measures.registry import MEASURES
from iceprobe.probes import PROBES, probe_label
from iceprobe.probes.registry import VECTORS
from iceprobe.protocols.protocol import PROTOCOLS
from iceprobe.results.files import FILE_NAME, SEGMENTATIONS
from iceprobe.store.format import MANIFEST
from iceprobe.tasks import TASKS, get_task

Values = Callable[[typer.Context], Iterable[str]]

_RUNS, _STORES = "runs", "features"  # where they are unless an option says so


def completing(name: str, annotation: Any) -> Callable[..., list[str]] | None:
    """What completes the parameter ``name``; ``None``: names of files, or nothing.

    Args:
        name: of an option or argument, alike in all commands.
        annotation: its type; a choice of texts is completed whatever its name.
    """
    if chosen := _choices(annotation):
        return _from(lambda _: chosen)
    return _from(_VALUES[name]) if name in _VALUES else None


@contextlib.contextmanager
def bash_words() -> Iterator[None]:
    """Bash breaks words at ``:`` and ``=`` and replaces the last piece alone: its words are put together, and
    the pieces before the last are cut from the answers."""
    given = os.environ.get("COMP_WORDS", "")
    if os.environ.get("_ICEPROBE_COMPLETE") != "complete_bash" or "\n" not in given:
        yield
        return
    at, words, before = int(os.environ.get("COMP_CWORD", "0")), list[str](), ""
    for word in given.split("\n")[: at + 1]:
        is_break = bool(word) and set(word) <= {":", "="}
        if words and (is_break or words[-1][-1:] in (":", "=")):
            before = words[-1] + word if is_break else words[-1]
            words[-1] += word
        else:
            before = ""
            words.append(word)
    os.environ["COMP_WORDS"] = "\n".join(words)
    os.environ["COMP_CWORD"] = str(len(words) - 1)
    with contextlib.redirect_stdout(io.StringIO()) as written:
        try:
            yield
        finally:
            text = written.getvalue().splitlines()
            os.write(1, "".join(f"{line.removeprefix(before)}\n" for line in text).encode())


def _from(values: Values) -> Callable[..., list[str]]:
    """The same as typer calls it: it has no answer to what goes wrong."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return [one for one in dict.fromkeys(values(context)) if one.startswith(incomplete)]
        return []

    return complete


def _choices(hint: Any) -> list[str]:
    """The texts of a ``Literal`` in a type."""
    found = [one for one in get_args(hint) if isinstance(one, str)] if _is_literal(hint) else []
    return found or [text for one in get_args(hint) for text in _choices(one)]


def _is_literal(hint: Any) -> bool:
    return getattr(getattr(hint, "__origin__", None), "_name", "") == "Literal"


def _sources(registry: Registry[Any]) -> Iterator[str]:
    """``timm:``, and what ships with iceprobe."""
    yield from (f"{name}:" for name in registry)
    yield from registry["bundled"].examples


def _backbones(_: typer.Context) -> Iterator[str]:
    yield from _sources(BACKBONES)
    yield from (family.example for family in FAMILIES)


def _datasets(_: typer.Context) -> Iterator[str]:
    yield from _sources(DATASETS)
    yield from CATALOGUE


def _probes(context: typer.Context) -> Iterator[str]:
    """Of a run those that it has, where one is named; else all."""
    # Behind an option without its value, the parser leaves arguments as they are.
    given = (context.params.get("run"), *(context.params.get("runs") or []), *context.args)
    files = (Path(one) / FILE_NAME for one in given if isinstance(one, str | Path))
    if file := next((file for file in files if file.is_file()), None):
        for one in parse_json(file.read_bytes())["results"]:
            adapted = f"{one['adaptation']} + " if one.get("adaptation") else ""
            yield adapted + one["probe"]
        return
    for name in PROBES:
        yield from (probe_label(name), *PROBES[name].variants)


def _metrics(_: typer.Context) -> Iterator[str]:
    return (metric for name in TASKS for metric in get_task(name).metrics)


def _runs(_: typer.Context) -> Iterator[str]:
    files = (FILE_NAME, SEGMENTATIONS)
    found = {file.parent for name in files for file in Path(_RUNS).glob(f"*/{name}")}
    yield from map(str, sorted(found))


def _stores(_: typer.Context) -> Iterator[str]:
    yield from sorted(str(file.parent) for file in Path(_STORES).glob(f"*/{MANIFEST}"))


def _topics(context: typer.Context) -> Iterator[str]:
    from iceprobe.cli.help import TOPICS

    yield from TOPICS
    yield from context.find_root().command.commands  # type: ignore[attr-defined]


_VALUES: dict[str, Values] = {
    "adapt": lambda _: ADAPTATIONS,
    "against": _probes,
    "backbone": _backbones,
    "data": _datasets,
    "input": lambda _: VECTORS,
    "measures": lambda _: MEASURES,
    "metric": _metrics,
    "places": lambda context: [*_stores(context), *_runs(context)],
    "probe": _probes,
    "protocol": lambda _: PROTOCOLS,
    "run": _runs,
    "runs": _runs,
    "store": _stores,
    "stores": _stores,
    "topic": _topics,
    "what": lambda _: LISTS,
    "format": lambda _: ("folder", "onnx"),
}
