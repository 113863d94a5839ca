"""What surrounds the code agrees with it: changelog, citation, workflows, hooks, Dockerfile, extras of the guide."""

import re
import tomllib
from datetime import date
from pathlib import Path

import pytest
import typer
import yaml
from packaging.version import Version

import iceprobe
from iceprobe.cli.app import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
WORKFLOWS = {file.name: file for file in (ROOT / ".github" / "workflows").glob("*.yml")}
PINNED = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
)
KINDS = ("Numbers", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def releases() -> list[tuple[str, str]]:
    """Each release's heading with what stands below it."""
    _, *parts = re.split(r"^## (.+)$", CHANGELOG, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def test_the_changelog_has_the_current_version_and_is_newest_first():
    first, *released = releases()
    assert first[0] == "[Unreleased]"
    found = [re.fullmatch(r"\[(.+)\] - (\d{4}-\d\d-\d\d)", heading) for heading, _ in released]
    assert all(found)
    versions = [Version(one[1]) for one in found]
    dates = [date.fromisoformat(one[2]) for one in found]
    assert versions == sorted(versions, reverse=True)
    assert dates == sorted(dates, reverse=True)
    assert str(versions[0]) == iceprobe.__version__ == PROJECT["project"]["version"]


def test_the_changelog_groups_what_changed():
    for heading, text in releases():
        kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
        assert set(kinds) <= set(KINDS), heading
        assert len(kinds) == len(set(kinds)), heading


def test_commands_and_flags_of_the_changelog_exist():
    commands = typer.main.get_command(app).commands
    flags = {flag for one in commands.values() for item in one.params for flag in item.opts}
    quoted = re.findall(r"`([^`]+)`", CHANGELOG)
    named = {flag for text in quoted for flag in re.findall(r"(?<!\S)--[a-z-]+", text)}
    assert named
    assert named <= flags
    called = {found[1] for text in quoted if (found := re.match(r"iceprobe ([a-z]+)", text))}
    assert called
    assert called <= set(commands)


def test_the_citation_is_of_the_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # What the schema of the Citation File Format 1.2.0 requires.
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == iceprobe.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert len(paper["authors"]) == 9
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
    assert paper["identifiers"][0]["value"] == "arXiv:2506.10178"


def steps(file: Path) -> list[dict]:
    jobs = yaml.safe_load(file.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_continuous_integration_runs_the_script_on_every_python_that_is_named():
    assert {"run": ".ci/run"} in steps(WORKFLOWS["ci.yml"])
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    named = {
        entry.removeprefix("Programming Language :: Python :: ")
        for entry in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", entry)
    }
    for name, job in (("ci.yml", "test"), ("wheels.yml", "install")):
        matrix = yaml.safe_load(WORKFLOWS[name].read_text())["jobs"][job]["strategy"]["matrix"]
        assert set(matrix["python"]) == named, name
    assert f">={min(named, key=Version)}" == PROJECT["project"]["requires-python"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_pin_their_actions_hold_no_secret_and_write_nothing(name):
    text = WORKFLOWS[name].read_text()
    assert "secrets." not in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    for action in (step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step):
        assert re.fullmatch(r"(actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1)", action)


def test_only_a_tag_publishes():
    jobs = yaml.safe_load(WORKFLOWS["wheels.yml"].read_text())["jobs"]
    writing = {name: job for name, job in jobs.items() if "permissions" in job}
    assert set(writing) == {"publish"}
    assert writing["publish"]["permissions"] == {"id-token": "write"}
    assert "refs/tags/v" in writing["publish"]["if"]
    assert writing["publish"]["needs"] == "install"


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda file: file.name
)
def test_a_form_of_issues_asks_what_it_says(file):
    form = yaml.safe_load(file.read_text())
    if file.name == "config.yml":
        return
    assert {"name", "description", "body"} <= set(form)
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in asked}) == len(asked)
    assert all(field["attributes"]["label"] for field in asked)
    if file.name != "feature.yml":
        assert "iceprobe --version" in file.read_text()


def test_hooks_have_the_pinned_ruff_and_come_from_no_repository():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [entry["repo"] for entry in config["repos"]] == ["local"]
    hooks = {hook["id"]: hook for hook in config["repos"][0]["hooks"]}
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [f"ruff=={PINNED['ruff']}"]


def test_the_dockerfile_copies_what_is_there_and_ends_as_a_plain_user():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [
        name
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    sent = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert set(copied) == sent
    assert all((ROOT / name).exists() for name in sent)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    assert lines[-2:] == ['ENTRYPOINT ["iceprobe"]', 'CMD ["demo"]']
    assert {"torch", "torchvision"} <= set(PINNED)  # which it reads from constraints.txt


def test_the_guide_lists_every_extra():
    page = (ROOT / "docs" / "install.md").read_text()
    table = page[page.index("| extra |") :].partition("\n\n")[0]
    named = {
        name for row in table.splitlines()[2:] for name in re.findall("`(.+?)`", row.split("|")[1])
    }
    assert named == set(PROJECT["project"]["optional-dependencies"])


def test_the_guide_states_the_formats_that_are_written():
    from iceprobe.analysis.files import FORMAT_VERSION as ANALYSIS
    from iceprobe.exporting.card import FORMAT_VERSION as EXPORTED
    from iceprobe.results.files import FORMAT_VERSION as RESULTS
    from iceprobe.results.segmentation_files import FORMAT_VERSION as SEGMENTATION
    from iceprobe.store.format import FORMAT_VERSION as STORE

    rows = re.findall(
        r"^\| ([^|]*`[^|]+`[^|]*) \| (\d) \|", (ROOT / "docs" / "versions.md").read_text(), re.M
    )
    written = {name.replace("`", ""): int(version) for name, version in rows}
    assert ANALYSIS == SEGMENTATION == EXPORTED
    assert list(written.values()) == [STORE, RESULTS, EXPORTED]


def test_a_source_distribution_has_all_of_it():
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert all((ROOT / name).exists() for name in included)
    kept = {
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "Dockerfile",
        "docs",
        "tests",
        ".github",
    }
    assert kept <= set(included)
