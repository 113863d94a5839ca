"""What the first seconds with the command line are like: help, lists, and how fast they come."""

import subprocess
import sys

import pytest
from typer.main import get_command

from iceprobe.cli.app import GROUPS, app

COMMANDS = [name for commands in GROUPS.values() for name in commands]
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "altair")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["ls"], ["ls", "probes", "ep"], ["--version"]]
)
def test_help_and_lists_import_nothing_heavy(arguments):
    script = (
        "import sys\n"
        "from iceprobe.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_importing_the_package_imports_nothing_heavy_and_names_all_it_promises():
    script = (
        "import sys, iceprobe\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
        "for name in iceprobe.__all__:\n"
        "    getattr(iceprobe, name)\n"
        # Folders of the same name don't take the functions' places, whatever is imported.
        "import iceprobe.knn.search, iceprobe.report\n"
        "assert iceprobe.knn.__name__ == 'knn' and iceprobe.report.__name__ == 'report'\n"
        "assert 'load_backbone' in dir(iceprobe)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_module_and_script_are_the_same_program(iceprobe):
    ended = subprocess.run(
        [sys.executable, "-m", "iceprobe", "--help"], capture_output=True, text=True, check=True
    )
    for group in GROUPS:
        assert group in ended.stdout
    assert ended.stderr == ""
    assert "iceprobe 0." in iceprobe("--version").out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(iceprobe, name):
    text = iceprobe(name, "--help").out
    assert "--debug" in text
    examples = [
        line.split()[1:]
        for line in GROUPS_TEXT[name].splitlines()
        if line.strip().startswith("iceprobe ")
    ]
    assert examples
    for words in examples:
        assert words[0] == name
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        command.make_context(name, words[1:], resilient_parsing=False)


GROUPS_TEXT = {
    name: function.__doc__ or ""
    for commands in GROUPS.values()
    for name, function in commands.items()
}


def test_lists_take_a_word(iceprobe):
    everything, found = iceprobe("ls", "probes").out, iceprobe("ls", "probes", "MULTI-HEAD").out
    assert "abmilp" in everything
    assert "mhca" in found
    assert "abmilp" not in found
    assert "none with 'zzz'" in iceprobe("ls", "probes", "zzz").out
    for word in ("backbones", "datasets", "probes", "protocols", "runs"):
        assert word in iceprobe("ls").out
