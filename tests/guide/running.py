"""A page's blocks run as a reader would run them, less what `substitutions` puts in their place.

Commands of iceprobe run in this process. What another first word stands for is in `FIRST_WORDS`; a
word that isn't there fails. A runner gives ``"run"``, ``"checked"`` or the test that runs it.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
import yaml

from iceprobe.cli import main
from iceprobe.cli.app import app
from tests.guide import substitutions
from tests.guide.blocks import Block, commands

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))
from refresh_docs import console  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Broken(AssertionError):
    """A block that doesn't do what its page says."""


def substituted(text: str, data: Path) -> str:
    """``text`` with what a test has in place of what a reader has."""
    for pattern, replacement in substitutions.STAND_INS:
        text = re.sub(pattern, replacement.replace("{data}", str(data)), text)
    return text


# --- commands


def run_command(command: str, data: Path) -> str:
    """One command, in the working folder."""
    for pattern, test in substitutions.ELSEWHERE:
        if re.search(pattern, command):
            _check_covered(command, test)
            return test
    words = shlex.split(substituted(command, data))
    run = FIRST_WORDS.get(words[0])
    if run is None:
        raise Broken(f"{command!r}: nobody knows {words[0]!r}, add it to FIRST_WORDS")
    return run(words)


def _check_covered(command: str, test: str) -> None:
    file, _, name = test.partition("::")
    if f"def {name}(" not in (ROOT / file).read_text():
        raise Broken(f"{command!r} is said to be covered by {test}, which isn't there")
    words = shlex.split(command.removesuffix(" …"))
    if words[0] == "iceprobe":
        _parse(words[1:])
    elif words[0] == "sbatch":
        _exists(words[1])
        _parse(["run", *words[2:]])


def _parse(arguments: list[str]) -> None:
    """See that a command and its options exist, without running it."""
    cli: Any = typer.main.get_command(app)
    name, *rest = arguments
    if name not in cli.commands:
        raise Broken(f"iceprobe has no command {name!r}")
    try:
        cli.commands[name].make_context(name, rest)
    except Exception as error:
        raise Broken(f"iceprobe {shlex.join(arguments)}: {error}") from error


def _iceprobe(words: list[str]) -> str:
    table = substitutions.SHORTER
    shorter = table.get(" ".join(words[1:3]), table.get(words[1], ""))
    if words[1] == "plan" and "--images" not in words:
        shorter = "--limit 60"
    call([*_expanded(words[1:]), *("" if words[1] == "demo" else shorter).split()])
    return "run"


def call(arguments: list[str]) -> str:
    """``iceprobe ARGUMENTS`` in this process: what it prints."""
    printed, seen = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["iceprobe", *arguments]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(seen):
            main(arguments)
    except SystemExit as stop:
        if stop.code:
            said = seen.getvalue() or printed.getvalue()
            raise Broken(
                f"iceprobe {shlex.join(arguments)} ended with {stop.code}: {said}"
            ) from None
    finally:
        sys.argv = before
    return printed.getvalue()


def _expanded(words: list[str]) -> list[str]:
    """Words with a star as the shell gives them."""
    found = [(sorted(glob(word)) if "*" in word else []) or [word] for word in words]
    return [word for several in found for word in several]


def _torchrun(words: list[str]) -> str:
    shorter = shlex.split(substitutions.SHORTER["run"])
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:], *shorter]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Broken(f"{shlex.join(words)}: {done.stderr}")
    return "run"


def _make(words: list[str]) -> str:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"{shlex.join(words)}: {done.stderr}")
    return "checked"


def _pip(words: list[str]) -> str:
    """`pip install` and `pip wheel`: that the extras are there, and the files of the repository."""
    if words[1] not in ("install", "wheel"):
        raise Broken(f"{shlex.join(words)}: only pip install and pip wheel are known")
    _check_wanted(words, words[2:])
    return "checked"


def _check_wanted(words: list[str], wanted: list[str]) -> None:
    """That what a command installs is this project with its extras, or torch before it."""
    options = pairwise(wanted)
    values = [value for option, value in options if option in substitutions.TAKE_A_VALUE]
    for constraints in (value for value in values if value.endswith(".txt")):
        _exists(constraints)
    for one in wanted:
        if one.startswith("-") or one in values:
            continue
        name, _, rest = one.partition("[")
        if name not in (".", PROJECT["project"]["name"], "torch", "torchvision"):
            raise Broken(f"{shlex.join(words)}: {name!r} isn't this project")
        extras = set(filter(None, rest.removesuffix("]").split(",")))
        if missing := extras - set(PROJECT["project"]["optional-dependencies"]):
            raise Broken(f"{shlex.join(words)}: pyproject.toml has no extra {missing.pop()!r}")


def _uv(words: list[str]) -> str:
    """`uv pip install` as pip's; of `uv run` the script is looked at, of `uvx` the command."""
    if words[1:3] == ["pip", "install"]:
        _check_wanted(words, words[3:])
    elif words[1] == "run" and "python" in words:
        _exists(words[words.index("python") + 1])
    elif words[0] == "uvx":
        if words[3] != PROJECT["project"]["name"]:
            raise Broken(f"{shlex.join(words)}: {words[3]!r} isn't this project")
    elif words[1] != "venv":
        raise Broken(f"{shlex.join(words)}: only uv venv, run and pip install are known")
    return "checked"


def _python(words: list[str]) -> str:
    """A script of the repository: that it is there, and that its help knows the options shown."""
    module = words[1] == "-m"
    target, options = (words[2], words[3:]) if module else (words[1], words[2:])
    if not module:
        _exists(target)
    known = _help(target, module)
    for option in options:
        if option.startswith("-") and not re.search(
            rf"(?<![\w-]){re.escape(option)}(?![\w-])", known
        ):
            raise Broken(f"{shlex.join(words)}: {target} has no option {option}")
    return "checked"


def _help(target: str, module: bool) -> str:
    before, path = sys.argv, sys.path[:]
    sys.argv = [target, "--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            if module:
                sys.path.insert(0, str(ROOT))
                runpy.run_module(target, run_name="__main__")
            else:
                sys.path.insert(0, str((ROOT / target).parent))
                runpy.run_path(str(ROOT / target), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before, path
    return printed.getvalue()


def _pytest(words: list[str]) -> str:
    known = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    expression = words[words.index("-m") + 1]
    if unknown := set(re.findall(r"\w+", expression)) - {"not", "and", "or", *known}:
        raise Broken(f"{shlex.join(words)}: no marker {unknown.pop()!r}")
    return "checked"


def _script(words: list[str]) -> str:
    _exists(words[0])
    return "checked"


def _exists(name: str) -> None:
    if not (ROOT / name).is_file():
        raise Broken(f"there is no {name}")


FIRST_WORDS: dict[str, Callable[[list[str]], str]] = {
    "iceprobe": _iceprobe,
    "torchrun": _torchrun,
    "make": _make,
    "pip": _pip,
    "uv": _uv,
    "uvx": _uv,
    "python": _python,
    ".venv/bin/pytest": _pytest,
    ".ci/run": _script,
}


# --- blocks


def run_block(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    """Run one block; what became of each of its parts."""
    run = LANGUAGES.get(block.language)
    if run is None:
        raise Broken(
            f"{block.place}: language {block.language!r} is none of {', '.join(LANGUAGES)}"
        )
    try:
        return run(block, names, data)
    except Exception as error:
        raise Broken(f"{block.place}: {error}") from error


def _shell(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    return [run_command(command, data) for command in commands(block)]


def _console(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    """A command with its output: the same to the letter where nothing had to be substituted."""
    prompt = block.text.partition("\n")[0]
    if not prompt.startswith("$ iceprobe "):
        raise Broken(f"{prompt!r} doesn't begin with '$ iceprobe '")
    command = prompt.removeprefix("$ ")
    if substituted(command, data) != command:
        return [run_command(command, data)]
    if console(command.removeprefix("iceprobe ")) != f"```console\n{block.text}```":
        raise Broken(f"{prompt!r} prints something else by now: `make docs` mends it")
    return ["run"]


def _counted(lines: list[str]) -> list[str]:
    return [str(len(lines))]


def _to_a_number(lines: list[str]) -> list[str]:
    """Of prose in lines of one width, whose number hangs on the figures in it: how it begins."""
    return re.split(r"\d", " ".join(lines), maxsplit=1)[:1]


def _run_python(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(substituted(block.text, data), block.place, "exec"), names)
    if block.output is not None:
        printed = [line.rstrip() for line in output.getvalue().splitlines()]
        shown = block.output.splitlines()
        if any(page == block.page and held in block.text for page, held in substitutions.VARYING):
            seen = _to_a_number if "textwrap" in block.text else _counted
            printed, shown = seen(printed), seen(shown)
        if printed != shown:
            raise Broken(f"prints {printed} where the page shows {shown}: `make docs` mends it")
    return ["run"]


def _yaml(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    """A configuration of `iceprobe run`; or, of claims, the keys that change in one."""
    if block.page == "claims.md":
        from benchmarks.claims.claim import Claim, read_claims

        keys = yaml.safe_load(block.text)
        Claim.model_validate({**read_claims()[0].model_dump(), **keys})
        return ["checked"]
    file = Path("config-of-the-page.yaml")
    file.write_text(substituted(block.text, data))
    return [_iceprobe(["iceprobe", "run", str(file)])]


def _nothing(block: Block, names: dict[str, Any], data: Path) -> list[str]:
    return []


LANGUAGES: dict[str, Callable[[Block, dict[str, Any], Path], list[str]]] = {
    "sh": _shell,
    "console": _console,
    "python": _run_python,
    "yaml": _yaml,
    "text": _nothing,
}
