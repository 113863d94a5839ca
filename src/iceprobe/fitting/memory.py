"""Memory of a fit: the least that it takes beside tokens, and which tokens are held in the rest.

    step = parameters + images · (tokens under way + tensors computed of them)

A fit can't do with less: batches keep their size, and all probes train in one pass over them, whose
shared products round by their width. So no number depends on the budget. Tokens that don't fit into it
are read from disk.
"""

import copy
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from rich.filesize import decimal
from torch import Tensor

from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.context import FitContext
from iceprobe.fitting.feed import SAMPLED, tensors_read
from iceprobe.fitting.pieces import Cutting, rows_at_once
from iceprobe.fitting.shuffling import ROWS, Shuffle, choose_shuffle
from iceprobe.machine.free_memory import available_memory
from iceprobe.machine.processes import first, world
from iceprobe.probes.inputs import Input
from iceprobe.probes.pooling import Pooling, QueryPooling
from iceprobe.probes.probe import Probe
from iceprobe.probes.registry import PROBES, parse_probe
from iceprobe.protocols.protocol import images_per_step
from iceprobe.store.split import LOAD_BYTES, StoredSplit
from iceprobe.tokens import without_layer

log = logging.getLogger("iceprobe")
WIDE = 4  # bytes of a float32
FIXED = 4 * WIDE  # of a parameter, its gradient and its two moments
MEASURED = 2_048  # tokens of an example up to which memory is measured on as many
UNEVEN = 1.25  # tokens of a batch, of examples drawn at random, for each expected one


@dataclass(frozen=True)
class StepMemory:
    """In bytes, of one process."""

    fixed: int  # of the members' parameters, gradients and moments, and what is read at once
    per_image: int  # of tokens under way and the tensors that a step computes of them
    images: int  # of a step
    before: int = 0  # of measuring the vectors that probes are whitened by, before the first step
    # images of mean length whose tokens take a piece's rows, where batches come in pieces
    piece: float | None = None

    @property
    def whole(self) -> int:
        """Of a step whose batch is in memory."""
        images = self.images * (1 if self.piece is None else UNEVEN)
        return self.fixed + math.ceil(images * self.per_image)

    def within(self, memory: int | None) -> int:
        """Of a fit that holds no tokens, within a budget: batches are streamed where whole ones don't fit."""
        whole = max(self.before, self.whole)
        return whole if self.piece is None or whole <= _budget(memory) else self.least

    @property
    def bytes(self) -> int:
        """Of a step: of a piece where its batch may be streamed."""
        images = self.images if self.piece is None else min(self.piece, self.images)
        return self.fixed + math.ceil(images * self.per_image)

    @property
    def least(self) -> int:
        """Of a fit that holds no tokens."""
        return max(self.before, self.bytes)


def step_memory(
    counts: Mapping[str, int],
    context: FitContext,
    num_images: int,
    stored_bytes: int,
) -> StepMemory:
    """The memory of a step of ``counts`` members of each probe, trained on ``num_images``.

    ``stored_bytes`` are an image's, of patch tokens as they are stored.
    """
    built = {label: context.build(label) for label in counts}
    inputs = {probe.input for probe in built.values()}
    images = -(-images_per_step(context.protocol, num_images) // world().size)
    shape = context.shape
    sizes = {  # of what is pooled together
        one: (probe.read.count(shape) // probe.parts, probe.read.width(shape))
        for one, probe in built.items()
    }
    rows = rows_at_once(
        shape, max((width for _, width in sizes.values()), default=1), context.max_tokens
    )
    piece = None if rows is None else rows / max(1, shape.num_tokens)
    if context.device.type != "cpu":  # which has another memory to compute with
        return StepMemory(0, 3 * stored_bytes * _read(inputs), images, piece=piece)
    parameters = sum(counts[one] * p.num_parameters()["total"] for one, p in built.items())
    widest = max((p.parts * math.prod(sizes[one]) for one, p in built.items()), default=0)
    parts = {
        one: [probe.parts * size for size in kept(one, probe, *sizes[one])]
        for one, probe in built.items()
    }
    computed = sum(counts[one] * each for one, (each, _) in parts.items())
    computed += max((passing for _, passing in parts.values()), default=0)
    return StepMemory(
        fixed=FIXED * parameters + (LOAD_BYTES if _read(inputs) else 0),
        per_image=WIDE * computed + under_way(inputs, widest, stored_bytes, context.dtype.itemsize),
        images=images,
        before=_before(inputs, context, images),
        piece=piece,
    )


def cutting_of(step: StepMemory, context: FitContext, memory: int | None) -> Cutting | None:
    """How batches come in pieces; those for which the budget is too small are streamed.

    ``None`` where they come whole: examples have as many tokens, and few, and nothing limits them.
    """
    if step.piece is None:
        return None
    tokens = context.shape.num_tokens
    rows = round(step.piece * tokens)
    held = UNEVEN * step.images * tokens if step.within(memory) > step.least else rows
    return Cutting(rows, max(rows, round(held)))


def _budget(memory: int | None) -> int:
    """Bytes that this process may take for tokens and what is computed of them."""
    free, processes = first(available_memory), world().local_size  # one order for all of them
    return (free or 0) // 2 if memory is None else memory // processes


def check_memory(step: StepMemory, members: int, device: torch.device) -> None:
    """Refuse a fit whose step doesn't fit into the memory that is free.

    Raises:
        IceprobeError: with the images per step that would do.
    """
    available = available_memory()
    if device.type != "cpu" or available is None or step.bytes <= available:
        return
    fitting = (available - step.fixed) // max(step.per_image, 1)
    remedy = (
        f"take --batch-size {fitting * world().size}"
        if fitting >= 2
        else "name fewer probes or seeds"
    )
    raise IceprobeError(
        f"a step of {members} members on {step.images} images takes "
        f"{step.bytes / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: {remedy}"
    )


def under_way(inputs: Collection[str], numbers: int, stored_bytes: int, width: int) -> int:
    """Bytes of an image's patch tokens in the batch in use and in the one that is read meanwhile.

    Args:
        inputs: that probes read; each is another tensor.
        numbers: N · D, of the largest of them.
        stored_bytes: of an image as it is stored.
        width: bytes of a number that probes compute with.
    """
    if not _read(inputs):
        return 0
    joined = max(map(_copies, inputs))
    narrow = width < WIDE  # products of which, and sums of codes, are made in float32
    wide = WIDE * (1 + _read(inputs)) if narrow else 0
    converted = max(stored_bytes, (2 * _read(inputs) - 1 + joined) * width * numbers)
    return stored_bytes + converted + (width + wide) * numbers


def kept(spec: str, probe: Probe, num_tokens: int, dim: int) -> tuple[int, int]:
    """Numbers an image that each member keeps of a step, and that one at a time takes going back.

    Of each query the scores and weights of the tokens, its pooled token, and the gradients of these;
    of poolings that share no attention what autograd keeps of a pass, and its gradients; descriptors
    and logits.
    """
    after = 4 * (probe.pooling.out_dim + probe.classifier.out_features)
    if isinstance(probe.pooling, QueryPooling):
        maps = 8 if probe.regularisation else 3  # with logarithms, cosines, their gradients
        return probe.pooling.num_predictors * (maps * num_tokens + 2 * dim) + after, 0
    if num_tokens <= MEASURED or PROBES[parse_probe(spec).name].needs_grid:
        own = kept_for_backward(probe.pooling, num_tokens, dim)
    else:  # in proportion to the tokens, since a measurement takes what it measures
        half, whole = (kept_for_backward(probe.pooling, n, dim) for n in (MEASURED // 2, MEASURED))
        own = whole + round((whole - half) * (num_tokens / MEASURED - 1) * 2)
    return own + after, own + 2 * num_tokens * dim


def kept_for_backward(pooling: Pooling, num_tokens: int, dim: int) -> int:
    """Numbers per image that autograd keeps of a training pass over cached tokens, measured."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # views of one tensor are kept once
        kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    tokens = torch.zeros(2, num_tokens, dim)  # two images: batch norm refuses one of one token
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        descriptors = pooling(tokens)  # held, so that no storage takes the place of another
    for own in (tokens, descriptors, *pooling.parameters(), *pooling.buffers()):
        kept.pop(own.untyped_storage().data_ptr(), None)
    return sum(kept.values()) // 2


def _read(inputs: Collection[str]) -> int:
    """How many of ``inputs`` hold patch tokens."""
    return sum(Input.parse(name).of_tokens for name in inputs)


def _copies(name: str) -> int:
    """Copies of the patches that an input takes: behind prefix tokens, and beside other layers'."""
    one = Input.parse(name)
    behind, beside = name.partition("+patches")[1] != "", len(one.layers) > 1
    return (behind + beside if one.wide else max(behind, beside)) if one.of_tokens else 0


def _before(inputs: Collection[str], context: FitContext, images: int) -> int:
    """Of whitening seven matrices (D, D) and three batches in float64 (`fitting/whitening.py`).

    Of the coordinates of tokens (`probes/coordinates.py`) three arrays as large as the sample.
    """
    read = [Input.parse(name) for name in inputs]
    widths = [one.width(context.shape) for one in read if not one.of_tokens]
    wide = max((one.width(context.shape) for one in read if one.of_tokens), default=0)
    protocol, sampled = context.protocol, WIDE * SAMPLED * wide
    whitened = [8 * (7 * width + 3 * images) * width for width in widths]
    return max(
        0 if protocol.whitening is None else max(whitened, default=0),
        0 if protocol.coordinates == "raw" or not _read(inputs) else 3 * sampled + LOAD_BYTES,
    )


def cache_tokens(
    train: StoredSplit,
    test: StoredSplit,
    inputs: Collection[str],
    memory: int | None,
    shuffle: str | Shuffle,
    *,
    batch_size: int,
    beside: int,
    evaluated: bool,
) -> tuple[StoredSplit, StoredSplit, Shuffle]:
    """The two splits with their held tokens, and how epochs are ordered; the log says both.

    Class token and mean come first in the budget, patch tokens fill it; augmented views, which are
    read again in every epoch, come before the evaluation view.

    Args:
        train, test: to train on and to report.
        inputs: names of the inputs that some probe reads.
        memory: the budget in bytes for held tokens and ``beside``, of all processes on this
            machine together; ``None`` takes half of what is free. If it is less than the fit needs,
            that is taken, and the log says how much it is.
        shuffle: as asked for, or the order of the fit that this one goes on with.
        batch_size: images of a step.
        beside: bytes that this process takes beside held tokens.
        evaluated: whether the reported split is read after every epoch.
    """
    tensors = tensors_read(set(inputs))
    names = [name for name in tensors if without_layer(name) != "patches"]
    names += ["patches"] * (len(names) < len(tensors))  # of all layers together
    free, processes = first(available_memory), world().local_size
    budget = _budget(memory)
    if train.live:
        log.info("training tokens are made by the backbone in every epoch")
        return train, test, ROWS
    room = max(0, budget - beside)
    read = train if train.views is None else train.views  # in every epoch
    read = read.hold(room, [name for name in names if name != "patches"])
    left = room - read.bytes_held
    chosen, each = ROWS, read.patch_bytes // len(read)
    if "patches" in names and not read.held:
        cache = None if free is None else free - budget
        chosen = (
            shuffle
            if isinstance(shuffle, Shuffle)
            else choose_shuffle(shuffle, len(read), each, left, cache, batch_size)
        )
        read = read.hold(each * chosen.held if chosen.by == "blocks" else left)
    left = room - read.bytes_held - each * chosen.buffer
    least = beside + read.bytes_held + each * chosen.buffer  # where it is more than the budget
    if memory is not None and budget < least:
        log.warning(
            "memory=%s is less than this fit can do with: it takes %s, the least for steps of %s "
            "examples; a smaller --batch-size or fewer probes take less",
            decimal(memory), _size(processes * least), f"{batch_size:,}",
        )  # fmt: skip
    if train.views is None:
        train = read
    else:
        train = copy.copy(train.hold(left, names))
        left -= train.bytes_held
        train.views = read
    if evaluated:
        test = test.hold(left, names)
    if "patches" in names:
        _log("training tokens", read, chosen)
        if train.views is not None:
            _log("tokens of their evaluation view", train, ROWS)
    return train, test, chosen


def _size(count: int) -> str:
    """Bytes in words, rounded up, so that a budget of them is enough."""
    return f"{-(-count // 10**6):,} MB" if count < 1e9 else f"{math.ceil(count / 1e8) / 10:,} GB"


def _log(what: str, split: StoredSplit, shuffle: Shuffle) -> None:
    if split.held:
        log.info("%s are in memory", what)
        return
    order = "examples at random"
    if shuffle.by == "blocks":
        order = f"blocks of {shuffle.block:,} examples at random, mixed in a buffer of {shuffle.buffer:,}"
    log.info(
        "%s: %s of %s examples in memory, the rest streamed from disk, %s",
        what,
        f"{int(split.resident.sum()):,}",
        f"{len(split):,}",
        order,
    )
