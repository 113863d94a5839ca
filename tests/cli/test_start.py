"""What the first seconds with the command line are like: help, lists, and how fast they come."""

import json
import os
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len
from typer.main import get_command

from iceprobe.cli.app import GROUPS, app
from iceprobe.cli.console import console
from iceprobe.probes import PROBES, probe_label

COMMANDS = [name for commands in GROUPS.values() for name in commands]
HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "altair")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["ls", "--help"],
        ["ls"],  # every list, probes among them
        ["ls", "backbones", "timm"],
        ["ls", "datasets"],
        ["ls", "protocols"],
        ["--version"],
    ],
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
        # No folder has a function's name, so that importing one takes none's place.
        "import iceprobe.neighbours.search, iceprobe.reporting.page\n"
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


def test_plain_ls_names_every_probe_and_its_keys(iceprobe):
    out = iceprobe("ls").out
    for name in PROBES:
        assert name in out
    assert "self_attention" in out


def test_ls_probes_counts_at_the_size_asked_for(iceprobe):
    out = iceprobe("ls", "probes").out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["ep32"] == ["32", "614,400", "1,383,400", "22", "M"]
    assert lines["ep12?value=identity"][1:3] == ["9,216", "778,216"]
    assert lines["linear?input=mean"] == ["–", "0", "769,000", "1.54", "M"]
    assert lines["knn"] == ["–", "0", "0", "–"]
    labels = {label for name in PROBES for label in (name, *PROBES[name].variants)}
    assert {probe_label(label) for label in labels} <= set(lines)

    out = iceprobe("ls", "probes", "ep", "--dim", 192, "--classes", 10, "--grid", "8x4").out
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    # 192² + 32·192; with 10·192 + 10; and 2 × (2·32·32·192 + 192² + 192·10) = 864,000
    assert lines["ep32"] == ["32", "43,008", "44,938", "864", "k"]
    assert "mhca12" not in lines
    assert "Attention, Please!" in out


def test_ls_probes_says_what_cannot_be_built_at_a_size(iceprobe):
    out = iceprobe("ls", "probes", "--dim", 100).out
    assert "12 does not divide out_dim=100; the nearest that does is mhca10" in out
    assert "769" not in out
    ended = iceprobe("ls", "probes", "--grid", "14")
    assert (ended.code, ended.out) == (2, "")
    assert "--grid '14': write rows x columns, such as 14x14" in ended.err


@pytest.mark.parametrize("width", [80, 120])
def test_ls_probes_fits_the_terminal(iceprobe, monkeypatch, width):
    monkeypatch.setattr(console, "width", width)
    out = iceprobe("ls", "probes").out
    assert max(map(cell_len, out.splitlines())) <= width
    assert "abmilp?self_attention=true     1   2,951,425    3,720,425   1.28 G" in out


def test_the_shell_completes_commands_and_options():
    def completed(line: str) -> list[str]:
        words = line.split()
        ended = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv = ['iceprobe']\nfrom iceprobe.cli import main\nmain()"],
            env={**os.environ, "_ICEPROBE_COMPLETE": "complete_bash", "COMP_WORDS": line,
                 "COMP_CWORD": str(len(words) - 1)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return ended.stdout.split()

    assert completed("iceprobe se") == ["segment"]
    assert completed("iceprobe run --fi") == ["--fit-dtype"]


FINISHED = {
    "results": [{"probe": "ep8"}, {"probe": "linear?input=mean", "adaptation": "lora?rank=4"}]
}


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("run --probe ep", ["ep32", "ep12?value=identity"]),
        ("run --probe ep32?l", ["ep32?layers=-2,-1"]),
        ("run --backbone bundled:m", ["bundled:mae-tiny"]),
        ("run --backbone tim", ["timm:"]),
        ("fit --live --data cif", ["cifar100"]),
        ("run --data bundled:fashion-c", ["bundled:fashion-clutter"]),
        ("run --protocol ", ["heldout", "folds", "paper"]),
        ("run --metric kap", ["kappa", "kappa_quadratic"]),
        ("run --forward-dtype b", ["bfloat16"]),
        ("adapt --adapt lo", ["lora"]),
        ("measure x --measure ra", ["rankme"]),
        ("ls me", ["metrics", "measures"]),
        ("help tok", ["tokens"]),
        ("report ", ["runs/mine"]),
        ("knn ", ["features/some"]),
        ("analyze runs/mine --probe ", ["ep8", "lora?rank=4 + linear?input=mean"]),
    ],
)
def test_shells_complete_values(tmp_path, line, some):
    for file in ("runs/mine/results.json", "features/some/manifest.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(json.dumps(FINISHED))
    whole, words = f"iceprobe {line}", ["iceprobe", *line.split(" ")]
    pieces = [piece for word in words for piece in re.split("([:=]+)", word) if piece or not word]
    last = pieces[-1]
    cut = words[-1].removesuffix(last) if pieces[-2] in (":", "=") else ""
    if last in (":", "="):
        cut, last = words[-1], ""
    bash = {"COMP_WORDS": "\n".join(pieces), "COMP_CWORD": str(len(pieces) - 1)}
    typed = {"_TYPER_COMPLETE_ARGS": whole}
    fish = {**typed, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    script = (
        "import sys; sys.argv = ['iceprobe']\n"
        "from iceprobe.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules\n"
    )
    found = {}
    for shell, words_of in (("bash", bash), ("zsh", typed), ("fish", fish)):
        paths = os.pathsep.join(sys.path)
        env = {**os.environ, "PYTHONPATH": paths, "_ICEPROBE_COMPLETE": f"complete_{shell}"}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=env | words_of, cwd=tmp_path,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found[shell] = ended.stdout
    in_bash = found["bash"].splitlines()
    assert {one.removeprefix(cut) for one in some} <= set(in_bash)
    assert all(one.startswith(last) for one in in_bash)
    assert set(some) <= set(found["fish"].splitlines())
    assert found["fish"].splitlines() == [cut + one for one in in_bash]
    for one in some:
        assert '"{}"'.format(one.replace(":", "\\\\:")) in found["zsh"]
