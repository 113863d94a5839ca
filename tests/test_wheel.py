"""The built wheel is all that a user needs besides its dependencies."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_BYTES = 25 * 10**6


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *options, str(ROOT)], check=True)
    (path,) = folder.glob("iceprobe-*.whl")
    return path


@pytest.mark.slow
def test_wheel_carries_weights_images_and_licences_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    bundled = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").glob("iceprobe/*/bundled/*")
        if path.is_file()
    }
    assert any(name.endswith(".safetensors") for name in bundled)
    assert bundled <= names
    assert "iceprobe/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_wheel_works_in_a_fresh_environment_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """The dependencies are lent by this environment: torch is too large to install for a test."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)
    # Only the lent packages, not this checkout's editable install: .pth files of a folder that is
    # itself named in a .pth file are not read.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [python, "-I", "-c", "import iceprobe; print(iceprobe.__file__)"]
    where = subprocess.run(command, check=True, capture_output=True, text=True, cwd=elsewhere)
    assert str(site) in where.stdout
    command = [python, "-I", "-m", "iceprobe", "ls"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=elsewhere)
    assert "bundled:mae-tiny" in listed.stdout
    script = (
        "import iceprobe\n"
        "backbone = iceprobe.load_backbone('bundled:mae-tiny')\n"
        "dataset = iceprobe.load_dataset('bundled:fashion')\n"
        "print(backbone.dim, len(dataset.splits['test']))\n"
    )
    loaded = subprocess.run(
        [python, "-I", "-c", script], check=True, capture_output=True, text=True, cwd=elsewhere
    )
    assert loaded.stdout.split() == ["192", "2000"]
