"""Data moves left to right: no room imports one to its right, and no two files import each other.

Imports inside functions and under ``TYPE_CHECKING`` count like any others.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import iceprobe

SOURCE = Path(iceprobe.__file__).parent

# From left to right; a file beside the rooms is a room of its own. `results` stands before what
# writes results: it is the record and its statistics.
ROOMS = (
    "core",
    "machine",
    "settings",
    "tokens",
    "tasks",
    "datasets",
    "backbones",
    "store",
    "probes",
    "results",
    "published",
    "loggers",
    "measures",
    "protocols",
    "neighbours",
    "fitting",
    "cost",
    "adaptation",
    "analysis",
    "reporting",
    "exporting",
    "publishing",
    "dense",
    "integrations",
    "cli",
)
# Files that know everything: the public names, and `python -m iceprobe`.
DOORS = ("__init__", "__main__", "signatures")


def modules() -> dict[str, Path]:
    """Dotted names below ``iceprobe`` and their files; a package has the name of its folder."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """What a file imports of ours, and the lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            named = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in named:
            if name == "iceprobe":
                yield "__init__", node.lineno
            if not name.startswith("iceprobe."):
                continue
            name = name.removeprefix("iceprobe.")
            while name and name not in known:
                name = name.rpartition(".")[0]
            yield name or "__init__", node.lineno


def test_every_room_stands_in_the_row() -> None:
    rooms = {name.partition(".")[0] for name in modules()}
    assert rooms == {*ROOMS, *DOORS}


def test_nothing_imports_to_its_right() -> None:
    place = {room: number for number, room in enumerate(ROOMS)}
    known = modules()
    offenders = []
    for name, path in known.items():
        room = name.partition(".")[0]
        if room in DOORS or room == "cli":
            continue
        for other, line in imports(path, known):
            if other == "__init__" or place[other.partition(".")[0]] > place[room]:
                offenders.append(f"{path.relative_to(SOURCE)}:{line} imports {other}")
    assert not offenders, "\n".join(offenders)


def test_no_two_files_import_each_other() -> None:
    known = modules()
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        if name not in DOORS:
            graph[name] = {other for other, _ in imports(path, known)} - {name, *DOORS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_no_function_has_more_than_eight_parameters() -> None:
    """Kernels of Triton aside: a pointer, a size or a stride each is how they are called."""
    offenders = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            given = node.args
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names += [one.arg for one in (given.vararg, given.kwarg) if one is not None]
            compiled = any("jit" in ast.unparse(one) for one in node.decorator_list)
            if len([name for name in names if name not in ("self", "cls")]) > 8 and not compiled:
                offenders.append(f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}")
    assert not offenders, "\n".join(offenders)
