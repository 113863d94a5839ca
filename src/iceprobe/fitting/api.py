"""Stored tokens → fitted probes → results: the two public functions.

:func:`fit` works on a feature store and leaves a run folder; :func:`probe` works on a model and a
data set in memory and leaves nothing, for a look every few epochs of pre-training.
"""

import hashlib
import itertools
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from iceprobe.errors import IceprobeError
from iceprobe.fitting.checkpoint import Checkpoint
from iceprobe.fitting.heldout import heldout_split
from iceprobe.fitting.members import Shape
from iceprobe.fitting.phases import Progress, Setting
from iceprobe.fitting.protocols import Protocol, get_protocol, images_per_step, on_vectors
from iceprobe.fitting.selection import Fitted, peak_rate, run_protocol
from iceprobe.knn import knn
from iceprobe.probes import parse_probe, probe_label
from iceprobe.results.curves import CurveRow, write_curves
from iceprobe.results.files import FILE_NAME as RESULTS_FILE
from iceprobe.results.files import write_atomically, write_results
from iceprobe.results.predictions import write_predictions
from iceprobe.results.provenance import provenance
from iceprobe.results.schema import Files, Flops, Parameters, Result
from iceprobe.specs import unknown
from iceprobe.store.lock import exclusive
from iceprobe.store.reader import Store

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIT_VERSION = 1  # in a checkpoint's fingerprint: raise it when the same settings train otherwise


def fit(
    store: Store,
    probes: Sequence[str],
    *,
    protocol: str = "heldout",
    seeds: int = 3,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    vector_steps: int | None = None,
    output: str | Path | None = None,
    split: str = "test",
    memory: int | None = None,
    device: str | None = None,
    amp: str = "float32",
    run_seed: int = 0,
    resume: bool = True,
    progress: Progress | None = None,
    command: str | None = None,
) -> list[Result]:
    """Fit every probe on the stored tokens, in one pass, and write a run folder.

    Args:
        store: the tokens, with a ``train`` split and the split to report.
        probes: spec strings: ``["knn", "linear", "ep32", "aim12"]``.
        protocol: ``"heldout"`` (default) or ``"paper"``.
        seeds: initialisations of every setting: 0, 1, … seeds − 1.
        epochs, batch_size, learning_rates, weight_decays: in place of the protocol's own.
        vector_steps: steps that probes on pooled vectors train for at least; by default the
            protocol's, and 0 where ``epochs`` is given.
        output: run folder; by default a new one under ``runs/``.
        split: the split to report.
        memory: budget in bytes for tokens held in memory; they are streamed beyond it.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        amp: dtype of the token products: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        run_seed: of the held-out split and of the order of batches.
        resume: go on from where an interrupted fit of this folder stands.
        progress: called with ``(stage, done, total)``.
        command: to be written into the results; by default this process's own.

    Returns:
        One result a probe, in the order asked for; written to ``output`` as well.

    Raises:
        IceprobeError: for what the caller can put right, before anything is written.
    """
    folder = Path(output) if output is not None else _new_run(store, protocol)
    if folder.exists() and not folder.is_dir():
        raise IceprobeError(f"{folder} is a file: give --output a folder")
    with exclusive(folder):
        _check_output(folder)
        results, fitted, rows = _fit(
            store,
            probes,
            get_protocol(
                protocol,
                epochs=epochs,
                batch_size=batch_size,
                learning_rates=learning_rates,
                weight_decays=weight_decays,
                vector_steps=vector_steps,
            ),
            seeds=seeds,
            split=split,
            memory=memory,
            device=device,
            amp=amp,
            run_seed=run_seed,
            folder=folder,
            resume=resume,
            progress=progress,
            command=command,
        )
        _write(folder, results, fitted, rows)
    return results


def probe(
    model: Any,
    dataset: Any,
    probes: Sequence[str],
    *,
    protocol: str = "heldout",
    seeds: int = 1,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rates: Sequence[float] | None = None,
    weight_decays: Sequence[float] | None = None,
    vector_steps: int | None = None,
    split: str = "test",
    limit: int | None = None,
    device: str | None = None,
    amp: str = "float32",
    run_seed: int = 0,
    progress: Progress | None = None,
    **backbone_options: Any,
) -> list[Result]:
    """Probe a model in memory: nothing is written, and the model is as before afterwards.

    (`load_backbone` borrows a module: evaluation mode lasts for each forward pass only.)

    Args:
        model: a :class:`Backbone`, a spec string or any ``nn.Module`` (``backbone_options`` go to
            :func:`iceprobe.load_backbone`: image size, mean, std, …).
        dataset: a :class:`Dataset` or a spec string.
        limit: images of each split to look at.

    The other arguments are those of :func:`fit`.

    Returns:
        One result a probe, its fitted modules and predictions attached.
    """
    from iceprobe.backbones import Backbone, load_backbone
    from iceprobe.datasets import load_dataset
    from iceprobe.store import extract_in_memory

    settings = get_protocol(
        protocol,
        epochs=epochs,
        batch_size=batch_size,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        vector_steps=vector_steps,
    )
    labels = [probe_label(parse_probe(text)) for text in probes]
    if not isinstance(model, Backbone):
        model = load_backbone(model, **backbone_options)
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset
    store = extract_in_memory(model, data, limit=limit, device=device, amp=amp, progress=progress)
    results, _, _ = _fit(
        store,
        labels,
        settings,
        seeds=seeds,
        split=split,
        memory=None,
        device=device,
        amp=amp,
        run_seed=run_seed,
        folder=None,
        resume=False,
        progress=progress,
        command=None,
    )
    return results


def _fit(
    store: Store,
    probes: Sequence[str],
    protocol: Protocol,
    *,
    seeds: int,
    split: str,
    memory: int | None,
    device: str | None,
    amp: str,
    run_seed: int,
    folder: Path | None,
    resume: bool,
    progress: Progress | None,
    command: str | None,
) -> tuple[list[Result], list[Fitted], list[CurveRow]]:
    """Check everything, then k-NN and the trained probes, then results in the order asked for."""
    labels = [probe_label(parse_probe(text)) for text in probes]
    progress = progress or (lambda stage, done, total: None)
    command = command if command is not None else shlex.join(sys.argv)
    trained = _trained(labels)
    shape = Shape(store.dim, len(store.classes), store.grid, store.has_class, store.pooled_class)
    where = _device(device)
    _check(store, labels, shape, protocol, seeds=seeds, split=split, amp=amp, run_seed=run_seed)
    found = {
        label: knn(
            store,
            label,
            protocol=protocol.name,
            split=split,
            seed=run_seed,
            device=where,
            command=command,
            progress=progress,
        )
        for label in labels
        if label not in trained
    }
    fitted: list[Fitted] = []
    rows: list[CurveRow] = []
    for reading in ("vectors", "tokens"):
        mine = [label for label in trained if _reads(label, shape) == reading]
        if not mine:
            continue
        settings = on_vectors(protocol, len(store["train"])) if reading == "vectors" else protocol
        fingerprint = _fingerprint(
            store,
            probes=mine,
            protocol=settings,
            seeds=seeds,
            split=split,
            amp=amp,
            run_seed=run_seed,
            device=str(where),
            torch=torch.__version__,
        )
        path = folder / _state_file(reading) if folder else None
        checkpoint = Checkpoint(path, fingerprint)
        setting = Setting(
            settings, shape, run_seed, where, DTYPES[amp], checkpoint, progress, reading
        )
        part, part_rows = run_protocol(
            store,
            mine,
            setting,
            seeds=range(seeds),
            split=split,
            memory=memory,
            saved=checkpoint.load() if resume else None,
        )
        fitted, rows = fitted + part, rows + part_rows
        found |= {f.label: _result(f, store, setting, seeds, split, command) for f in part}
    return [found[label] for label in labels], fitted, rows


def _result(
    fitted: Fitted, store: Store, setting: Setting, seeds: int, split: str, command: str
) -> Result:
    """A fitted probe with its scores and where it comes from."""
    probe, predictions = fitted.probes[0], fitted.predictions
    result = Result(
        probe=fitted.label,
        method="trained",
        protocol=setting.protocol.name,
        top1=predictions.top1_score(),
        top5=predictions.top5_score(),
        mean_per_class=predictions.mean_per_class_score(),
        last_epoch=fitted.last_epoch,
        selected=fitted.selected,
        selected_on=setting.protocol.selected_on,
        settings_tried=fitted.settings_tried,
        best_minus_median=fitted.best_minus_median,
        parameters=Parameters(**probe.num_parameters()),
        flops=Flops(
            per_image=probe.flops(store.num_tokens, store.num_prefix),
            per_step=2 * probe.pooling.macs_per_step(),
        ),
        seconds=fitted.seconds,
        seeds=list(range(seeds)),
        training=training_record(setting, len(store["train"])),
        variance="initialisation" if seeds > 1 else "none",
        **provenance(store, split, command),
    )
    return result.attach(predictions=predictions, probes=fitted.probes, store=store)


def training_record(setting: Setting, num_images: int) -> dict[str, Any]:
    """How a probe was trained, as far as its own selection doesn't say."""
    protocol = setting.protocol
    rates = [peak_rate(protocol, rate, num_images) for rate in protocol.learning_rates]
    return {
        "optimizer": protocol.optimizer,
        "epochs": protocol.epochs,
        "images_per_step": images_per_step(protocol, num_images),
        "warmup_epochs": protocol.warmup_epochs,
        "learning_rates": rates,
        "weight_decays": list(protocol.weight_decays),
        "run_seed": setting.run_seed,
        "device": setting.device.type,
        "dtype": str(setting.amp).removeprefix("torch."),
    }


def _write(folder: Path, results: list[Result], fitted: list[Fitted], rows: list[CurveRow]) -> None:
    """The run folder; `results.json` last, since its presence says that the run is finished."""
    modules = {f.label: f.probes for f in fitted}
    for result in results:
        files = []
        for seed, probe in zip(result.seeds, modules.get(result.probe, []), strict=True):
            name = f"probes/{_file_name(result.probe)}-seed{seed}.safetensors"
            content = save(probe.state_dict(), metadata={"probe": result.probe})
            write_atomically(folder / name, content)
            files.append(name)
        result.files = Files(probes=files, predictions="predictions.safetensors")
    write_predictions(
        folder / "predictions.safetensors",
        {r.probe: p for r in results if (p := r.predictions()) is not None},
    )
    write_curves(folder, rows)
    write_results(folder, results)
    for reading in ("vectors", "tokens"):
        (folder / _state_file(reading)).unlink(missing_ok=True)


def _trained(labels: list[str]) -> list[str]:
    return [label for label in labels if parse_probe(label).name != "knn"]


def _reads(label: str, shape: Shape) -> str:
    """``"tokens"`` or ``"vectors"``: what a probe is fitted on, each kind in a crowd of its own."""
    return "tokens" if shape.build(label).input.endswith("patches") else "vectors"


def _state_file(reading: str) -> str:
    return f"state-{reading}.safetensors"


def _check(
    store: Store,
    labels: list[str],
    shape: Shape,
    protocol: Protocol,
    *,
    seeds: int,
    split: str,
    amp: str,
    run_seed: int,
) -> None:
    """Refuse what can't be fitted.

    Raises:
        IceprobeError: naming it.
    """
    trained = _trained(labels)
    for label in trained:
        shape.build(label)  # a wrong option ends here
    if not labels:
        raise IceprobeError("no probe was named: give --probe knn --probe linear --probe ep32")
    for label in labels:
        if labels.count(label) > 1:
            raise IceprobeError(f"probe {label!r} stands twice: name it once")
    if seeds < 1:
        raise IceprobeError(f"seeds={seeds}: give at least 1")
    if run_seed < 0:
        raise IceprobeError(f"run_seed={run_seed}: give a number from 0 up")
    if amp not in DTYPES:
        raise IceprobeError(unknown("amp dtype", amp, DTYPES))
    for name in ("train", split):
        if name not in store.splits:
            raise IceprobeError(
                f"store {store.path or store.identity} has no split {name!r}: it has "
                f"{', '.join(store.splits)}"
            )
        if not len(store[name]):
            raise IceprobeError(
                f"split {name!r} has no image that could be read "
                f"({len(store.manifest.skipped)} were skipped): mend the images"
            )
    if not store.has_patches:
        for label in trained:
            if _reads(label, shape) == "tokens":
                raise IceprobeError(
                    f"{label} reads patch tokens and store {store.path} has only pooled vectors: "
                    "extract it with patches"
                )
    missing = set(range(len(store.classes))) - set(np.unique(store["train"].labels).tolist())
    if missing:
        names = ", ".join(repr(store.classes[i]) for i in sorted(missing)[:3])
        record = store.manifest.splits["train"]
        limited = record.images < record.listed
        remedy = (
            f"the limit took {record.images} of {record.listed} training images: raise it"
            if limited
            else f"add some, or remove the class from {split!r}"
        )
        raise IceprobeError(f"no training image of class {names}: {remedy}")
    labels_seen = store["train"].labels
    if protocol.held_out and not len(heldout_split(labels_seen, run_seed, protocol.held_out)[1]):
        raise IceprobeError(
            f"{len(labels_seen)} training images leave none to hold out: give a class two or "
            "more images, or take --protocol paper"
        )


def _check_output(folder: Path) -> None:
    """Refuse a folder whose content a fit would overwrite.

    Raises:
        IceprobeError: for a finished run, or a folder of something else.
    """
    if (folder / RESULTS_FILE).exists():
        raise IceprobeError(
            f"{folder} holds a finished run: give another --output, or remove the folder"
        )
    ours = {_state_file("vectors"), _state_file("tokens"), "config.yaml", "log.txt"}
    found = {path.name for path in folder.iterdir()} - {".lock"}
    if found and not found & ours:
        raise IceprobeError(f"{folder} holds something that is no run: give another --output")


def _fingerprint(store: Store, **settings: Any) -> str:
    """Of everything that a fit's outcome depends on."""
    text = json.dumps({"version": FIT_VERSION, "store": store.identity, **settings}, default=asdict)
    return hashlib.sha256(text.encode()).hexdigest()


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise IceprobeError(f"device {name!r} can't be used here: take --device cpu") from error
    return device


def _new_run(store: Store, protocol: str) -> Path:
    """A readable name under ``runs/`` that isn't taken."""
    manifest = store.manifest
    name = _file_name(f"{manifest.backbone.spec}-{manifest.dataset.spec}-{protocol}")
    taken = (Path("runs") / f"{name}-{i}" for i in itertools.count(2))
    return next(p for p in itertools.chain([Path("runs") / name], taken) if not p.exists())


def _file_name(text: str) -> str:
    """``text`` with what file systems or shells might not take replaced."""
    return re.sub(r"[^\w.=-]+", "-", text).strip("-")
