"""``hub:OWNER/NAME``: a model repository of the Hugging Face Hub with probe, model card, results and report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iceprobe.analysis.files import JSON_NAME as ANALYSIS
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.extras import require
from iceprobe.core.specs import Spec, parse_spec
from iceprobe.exporting.card import BACKBONE, CARD, read_card
from iceprobe.exporting.from_hub import refusals
from iceprobe.exporting.writing import export
from iceprobe.publishing.model_card import (
    HUB,
    base_model_of,
    dataset_of,
    eval_results_file,
    is_local,
    model_card,
)
from iceprobe.publishing.private import paths_in, still_in, without
from iceprobe.publishing.publication import Files, Publication
from iceprobe.reporting import report
from iceprobe.results.files import FILE_NAME as RESULTS
from iceprobe.results.files import write_results
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import leaderboard
from iceprobe.settings import PublishCall, Publishing

_LOADABLE = (
    "timm",
    "transformers",
    "open_clip",
    "torch_hub",
    "diffusers",
)  # kinds with released weights
# Files of a publication that another one may be without.
_OURS = {BACKBONE, ANALYSIS, "report.html", ".eval_results/iceprobe.yaml"}
_README = "README.md"


def on_hub(
    spec: Spec, results: Sequence[FittedResult], call: PublishCall, folder: Path
) -> Publication:
    """The files of a model repository, and how they are sent.

    Raises:
        IceprobeError: without huggingface_hub, for a name that the Hub doesn't take, or a probe that can't be exported.
    """
    hub = require(HUB, "hub", str(spec))
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repo = spec.name
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1 or spec.options:
        raise IceprobeError(f"{str(spec)!r}: write hub:OWNER/NAME, of letters, digits, -, _ and .")
    result = _chosen(results, call.probe)
    notes: list[str] = []
    weights = call.backbone_weights
    if weights is None:
        weights = not _loads(result.backbone)
        if not weights:
            notes.append(
                f"the backbone's weights stay where {result.backbone} has them: --backbone-weights sends them too"
            )
    exported = folder / "export"
    export(result, exported, seed=call.seed, backbone_weights=weights, trust=call.trust)
    card = read_card(exported)
    own = [one for one in results if one.test_of is None]
    write_results(folder, own)
    if call.report:
        report(own, folder / "report.html", trust=call.trust)
    files: dict[str, bytes | Path] = {file.name: file for file in sorted(exported.iterdir())}
    files[_README] = model_card(repo, result, own, card, call.license)
    if call.report:
        files["report.html"] = folder / "report.html"
        notes.append(
            "the report can show test images and names of groups: look at it first, or leave it out with --no-report"
        )
    files[RESULTS] = folder / RESULTS
    if (entry := eval_results_file(result)) is not None:
        files[".eval_results/iceprobe.yaml"] = entry
        notes.append(
            ".eval_results names the data set's configuration as its task: see that it is the one of the benchmark"
        )
    else:
        notes.append(
            f"no .eval_results: {result.dataset} is no data set of the Hub (huggingface:OWNER/NAME)"
        )
    if result.run is not None and (analysis := result.run / ANALYSIS).is_file():
        files[ANALYSIS] = analysis
    if call.license is None:
        notes.append("no licence is stated: --license apache-2.0 states one")
    if (base := base_model_of(result.backbone)) is None:
        notes.append(f"no base model is named: {result.backbone} is no repository of the Hub")
    else:
        notes.append(f"base model: {base}")
    if dataset_of(result.dataset) is None:
        notes.append(f"the data set is named as {result.dataset}")
    lies = [
        str(place) for one in own if one.run is not None for place in (one.run, one.run.resolve())
    ]
    ready = Files(_without_paths(files, [*dict.fromkeys(lies)], call.keep_paths, notes))
    api = hub.HfApi()
    token = hub.get_token()
    return Publication(
        place=f"{api.endpoint}/{repo}",
        files=ready,
        shown=_README,
        notes=tuple(notes),
        missing=""
        if token
        else "no token of the Hub: run `hf auth login`, or set HF_TOKEN, and publish again (nothing was sent)",
        send=lambda: _send(hub, api, repo, ready, call),
    )


def _chosen(results: Sequence[FittedResult], probe: str | None) -> FittedResult:
    """The probe to publish: the named one, or the best that was trained on the frozen backbone."""
    found = [one for one in results if one.test_of is None]
    if probe is not None:
        named = [one for one in found if one.label == probe or one.probe == probe]
        if not named:
            labels = ", ".join(dict.fromkeys(one.label for one in found))
            raise IceprobeError(f"the run has no probe {probe!r}: --probe one of {labels}")
        return named[0]
    trained = [one for one in found if one.method == "trained" and one.adaptation is None]
    if not trained:
        raise IceprobeError(
            "the run has no trained probe on a frozen backbone, and k-NN has no weights to publish"
        )
    return leaderboard(trained)[0]


def _loads(backbone: str) -> bool:
    """Whether anybody's spec loads the same weights."""
    spec = parse_spec(backbone)
    local = is_local(spec) or "checkpoint" in spec.options
    return spec.kind in _LOADABLE and not local and spec.options.get("pretrained") != "false"


def _without_paths(
    files: dict[str, bytes | Path], runs: list[str], keep: bool, notes: list[str]
) -> dict[str, bytes | Path]:
    """The files with the last names of this machine's paths in their place, ``runs`` among them; ``notes`` says which.

    Texts come as their contents; others, weights, stay on the disk.

    Raises:
        IceprobeError: if one could still be read.
    """
    read = Files(files)
    documents = [runs, *(parse_json(read[name]) for name in (RESULTS, CARD))]
    suffixes = (".json", ".html", ".md", ".yaml")
    # Without credentials, whatever is kept.
    texts = {name: without(read[name], ()) for name in files if Path(name).suffix in suffixes}
    files = {**files, **texts}
    paths = [one for one in paths_in(documents) if still_in(texts, [one])]
    if not paths:
        return files
    whole = [one for one in paths if not any(other.startswith(f"{one}/") for other in paths)]
    listed = ", ".join(whole[:5]) + (f" and {len(whole) - 5} more" if len(whole) > 5 else "")
    if keep:
        notes.append(f"paths of this machine are published: {listed}")
        return files
    notes.append(
        f"paths of this machine are published by their last names: {listed} (--keep-paths keeps them)"
    )
    cleaned = {**files, **{name: without(one, paths) for name, one in texts.items()}}
    if left := still_in(cleaned, paths):
        raise IceprobeError(
            f"{', '.join(left)} still has a path of this machine in it: publish with --keep-paths if it may be read"
        )
    return cleaned


def _send(hub: Any, api: Any, repo: str, files: Files, settings: Publishing) -> str:
    """Create the repository, or find it with ``update``, and write all files in one commit.

    What an earlier publication left there and this one doesn't have is taken out.
    """
    try:
        exists = api.repo_exists(repo)
        if exists and not settings.update:
            raise IceprobeError(
                f"{repo} exists on the Hub: choose another name, or replace its files with --update"
            )
        if not exists:
            api.create_repo(repo, private=not settings.public)
        operations = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.held.items()
        ]
        stale = _OURS & set(api.list_repo_files(repo)) - set(files) if exists else set()
        operations += [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
        done = api.create_commit(repo, operations, commit_message="Published by iceprobe")
    except refusals() as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IceprobeError(
            f"{repo}: the Hub refused or didn't answer ({reason}): see that the token may write there, and publish again"
        ) from error
    return str(done.commit_url)
