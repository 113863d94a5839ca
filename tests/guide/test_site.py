"""The built guide: no warnings, nothing from elsewhere, every public name in its reference."""

import html
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import iceprobe

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^::: (\S+)\n    options:\n      heading: (\S+)$", re.MULTILINE)
#: Public spelling → where the object is defined, as the reference says.
REFERENCE = {
    public: home
    for page in sorted((ROOT / "docs").glob("reference*.md"))
    for home, public in ENTRY.findall(page.read_text())
}


def find(path: str):
    """The object at ``package.module.Name``."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    for page in pages:
        assert (site / f"{page.stem}.html").exists()
    for file in site.rglob("*.html"):
        text = file.read_text()
        assert not re.findall(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="?(?:https?:)?//', text)
        assert not re.findall(r'<link\b[^>]*\shref="?(?:https?:)?//', text), file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", file.read_text()), file


@pytest.mark.slow
def test_functions_show_their_settings_and_settings_their_options(site):
    page = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text())
    text = html.unescape(" ".join(page.split()))
    assert "settings: Fitting | None = None, **options: Any, ) -> list[FittedResult]" in text
    assert "budget (Count | None) – Add the EPs with at most this many parameters" in text
    assert "call:" not in text
    assert "Annotated[" not in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_search_works_from_disk(site, tmp_path):
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu",
            f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom",
            f"file://{site}/index.html?q=checkpoint_key",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    found = re.findall(r'href="([^"]*)" class="md-search-result__link"', done.stdout)
    assert any("load_backbone" in link for link in found), found


@pytest.mark.parametrize(("public", "home"), REFERENCE.items(), ids=REFERENCE)
def test_the_reference_names_the_object_that_is_imported(public, home):
    assert find(public) is find(home)


def test_every_public_name_is_in_the_reference():
    assert {f"iceprobe.{name}" for name in iceprobe.__all__} - {
        "iceprobe.probes",
        "iceprobe.settings",
    } <= set(REFERENCE)
    probes = {f"iceprobe.probes.{name}" for name in iceprobe.probes.__all__}
    assert probes <= set(REFERENCE)
