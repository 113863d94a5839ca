"""The files that a backbone is loaded from: while they don't change, neither does the backbone.

No files are listed for a backbone that also depends on foreign code or on a server.
"""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from iceprobe.core.specs import Spec


def local_files(spec: Spec) -> list[Path] | None:
    """Every file that ``spec`` is loaded from, except those of libraries.

    Returns:
        ``None`` if it depends on something else too, or if the files aren't on this machine yet.
    """
    if spec.options.get("trust", "").lower() == "true" or spec.kind not in _FILES:
        return None
    files = _FILES[spec.kind](spec)
    if files is not None and "checkpoint" in spec.options:
        files = [*files, Path(spec.options["checkpoint"]).expanduser()]
    return files


def _bundled(spec: Spec) -> list[Path]:
    folder = Path(str(resources.files("iceprobe.backbones"))) / "bundled"
    return [folder / f"{spec.name}{ending}" for ending in (".json", ".safetensors")]


def _timm(spec: Spec) -> list[Path] | None:
    if "checkpoint" in spec.options or spec.options.get("pretrained", "").lower() == "false":
        return []  # the rest is in the library
    import timm

    config = timm.get_pretrained_cfg(spec.name)
    return _of_hub(config.hf_hub_id) if config is not None and config.hf_hub_id else None


def _folder(spec: Spec) -> list[Path] | None:
    folder = Path(spec.name.removeprefix("local-dir:")).expanduser()
    return _within(folder) if folder.is_dir() else None


def _folder_or_hub(spec: Spec) -> list[Path] | None:
    return _folder(spec) or _of_hub(spec.name)


def _of_hub(repository: str) -> list[Path] | None:
    """Files of the revision in the hub's cache, and the reference that names it."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    reference = folder / "refs/main"
    if not reference.is_file():
        return None
    files = _within(folder / "snapshots" / reference.read_text(encoding="utf-8").strip())
    return [reference, *files] if files else None


def _within(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


_FILES: dict[str, Callable[[Spec], list[Path] | None]] = {
    "bundled": _bundled,
    "timm": _timm,
    "transformers": _folder_or_hub,
    "diffusers": _folder_or_hub,
    "open_clip": _folder,
}
