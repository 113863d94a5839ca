"""Checks before a fit: they refuse it before anything is written."""

from collections.abc import Mapping, Sequence

import torch
from numpy.typing import NDArray
from torch import nn

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.processes import world
from iceprobe.probes.pooling import Pooling
from iceprobe.probes.probe import Probe
from iceprobe.protocols.protocol import Protocol, check_splits
from iceprobe.store.examples import example_noun
from iceprobe.store.reader import Store
from iceprobe.store.request import choose_device
from iceprobe.tasks.registry import pooled_task
from iceprobe.tasks.stratified import heldout_split
from iceprobe.tasks.task import ClassWeight, Task


def check_request(
    store: Store, labels: Sequence[str], trained: Mapping[str, Probe], split: str
) -> None:
    """Refuse probes that don't fit the tokens, and splits that can't be read.

    Raises:
        IceprobeError: naming it.
    """
    check_named(labels, "--probe knn --probe linear --probe ep32")
    check_splits(store.splits, split, store.manifest.dataset.spec, folds=True)
    noun = example_noun(store.manifest)
    for name in ("train", split):
        if not len(store[name]):
            raise IceprobeError(
                f"split {name!r} has no {noun} that could be read "
                f"({len(store.manifest.skipped)} were skipped): mend them"
            )
        store.check_targets(name)
    for label, probe in trained.items():
        check_patches(label, probe, store)


def check_patches(label: str, probe: Probe, store: Store) -> None:
    """Refuse a probe of patch tokens where there are none.

    Raises:
        IceprobeError: naming both.
    """
    for one in [store.layers[layer] for layer in probe.read.layers] or [store]:
        if probe.read.of_tokens and not one.has_patches:
            raise IceprobeError(
                f"{label} reads patch tokens and store {one.path} has only pooled vectors: "
                "extract it with patches"
            )


def check_named(labels: Sequence[str], examples: str) -> None:
    """Refuse to fit no probe, or one probe twice.

    Raises:
        IceprobeError: naming it, or with ``examples``.
    """
    if not labels:
        raise IceprobeError(f"no probe was named: give {examples}")
    for label in labels:
        if labels.count(label) > 1:
            raise IceprobeError(f"probe {label!r} is named twice: name it once")


def check_task(store: Store, name: str | None) -> Task:
    """The task of the store's targets, or the one that the caller names.

    Raises:
        IceprobeError: if that has other targets, or isn't one of whole examples.
    """
    stored = pooled_task(store.task)
    task = stored if name is None else pooled_task(name)
    if (task.target_dtype, task.several) != (stored.target_dtype, stored.several):
        raise IceprobeError(
            f"task={task.name!r}: the targets of {store.path or store.manifest.dataset.spec} are of "
            f"{store.task!r}; leave task out, or give task={task.name} to the data, which is read again"
        )
    return task


def check_class_weight(task: Task, class_weight: ClassWeight) -> None:
    """Refuse class weights of a task without classes or tags.

    Raises:
        IceprobeError: naming it.
    """
    if class_weight != "none" and not task.weighs_classes:
        raise IceprobeError(
            f"class_weight={class_weight}: {task.name} has no classes to weigh; leave it out"
        )


def check_training_images(
    store: Store, task: Task, protocol: Protocol, split: str, run_seed: int, low_shot: bool
) -> None:
    """Refuse a training split without images of a class, or with none to hold out.

    A low-shot fit of one image a class may go without holding any out.

    Raises:
        IceprobeError: naming it.
    """
    targets = store["train"].targets
    listed = store.manifest.splits["train"].listed
    noun = example_noun(store.manifest)
    check_trained(task, targets, store.classes, listed, split, noun, drawn=low_shot)
    if low_shot or not protocol.held_out:
        return
    labels, groups = task.strata(targets), store.groups("train")
    if not len(heldout_split(labels, run_seed, protocol.held_out, groups)[1]):
        several = f"{noun}s" if groups is None else "groups"
        raise IceprobeError(
            f"{len(labels)} training {noun}s leave none to hold out: give a class two or more {several}, "
            "or take --protocol paper"
        )


def check_trained(
    task: Task,
    targets: NDArray,
    names: Sequence[str],
    listed: int,
    split: str,
    noun: str,
    *,
    drawn: bool = False,
) -> None:
    """Refuse training targets of which an output can't be learnt.

    Args:
        targets: of the training images that were taken.
        names: of the outputs.
        listed: how many training images the data set has.
        split: that is reported.
        noun: what an example is called.
        drawn: whether they are a draw of few.

    Raises:
        IceprobeError: naming the outputs.
    """
    if (why := task.check_trained(targets, names)) is None:
        return
    remedy = f"add some, or remove them from {split!r}"
    if not task.weighs_classes:
        remedy = "mend the values, or leave that target out"
    if drawn:
        remedy = "that was drawn: draw more, by --shots or by --fraction"
    elif len(targets) < listed:
        remedy = f"the limit took {len(targets)} of {listed} training {noun}s: raise it"
    raise IceprobeError(f"{why}: {remedy}")


def all_diverged(labels: Sequence[str]) -> str:
    """The message on probes without a member that reached the end."""
    return f"every member of {', '.join(labels)} has diverged: give smaller --learning-rates"


def check_parts(sizes: Sequence[int]) -> None:
    """See that every step of these many images has one at least for each process.

    Raises:
        IceprobeError: with the smallest step.
    """
    if min(sizes) < world().size:
        raise IceprobeError(
            f"{world().size} processes share steps of {max(sizes)} examples, and one of an epoch has "
            f"{min(sizes)}: take another --batch-size, or fewer processes"
        )


def check_norms(poolings: Mapping[str, Pooling]) -> None:
    """Refuse poolings, by label, whose BatchNorm would see one process's part of a batch only.

    Raises:
        IceprobeError: naming the first of them.
    """
    for label, pooling in poolings.items():
        own = any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in pooling.modules())
        if world().size > 1 and own and not pooling.norms_whole:
            raise IceprobeError(
                f"{label} has a BatchNorm that takes no batch shared by {world().size} processes: "
                "fit it in one, or call it by iceprobe.probes.pooling.batch_norm and say "
                "norms_whole = True"
            )


def check_device(name: str | torch.device | None) -> torch.device:
    """The device called ``name``; CUDA where there is one by default.

    Raises:
        IceprobeError: if it can't be used here.
    """
    return world().device(choose_device(name))
