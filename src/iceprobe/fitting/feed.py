"""Batches of tokens for members that train together: each batch is read once, ahead of its use.

A thread reads the following batch while the members train on this one. For a GPU it reads into
pinned memory and copies on a second stream, which doesn't wait for the members' products.
"""

import copy
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from iceprobe.fitting.pieces import Cutting, Piece, Pieces
from iceprobe.fitting.shuffling import ROWS, Shuffle, block_order
from iceprobe.machine.processes import world
from iceprobe.probes.inputs import PREFIX, Input
from iceprobe.store.split import Buffer, StoredSplit
from iceprobe.tokens import at_layer, without_layer

# Tensors of the store that a part of an input is made of, where their names differ.
STORED_AS = {
    "class": ("prefix",),
    "class+patches": ("prefix", "patches"),
    "prefix+patches": ("prefix", "patches"),
}
MAPS = ("mask", "depth")  # targets of pixels, which the split has of its evaluation view alone
SAMPLED, SAMPLED_IMAGES, SAMPLED_LIVE, SAMPLED_AT_ONCE = 16_384, 2_048, 512, 64


@dataclass(frozen=True)
class Batch:
    """Inputs by name (``patches (B, N, D)``, ``class (B, D)``, …) and targets ``(B, …)``.

    Tokens that come in several pieces (`fitting/pieces.py`) are in ``cut``. If several processes share a
    batch, this is the part of one; ``whole`` counts the images of all and ``everyone`` has their targets.
    Tokens of examples in parts (`TokenShape.parts`) are ``(B · parts, n, D)``; vectors are of whole examples.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    whole: int | None = None
    everyone: Tensor | None = None
    cut: dict[str, Pieces] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of its inputs, in an order that processes share."""
        return sorted([*self.inputs, *self.cut])

    def pieces(self, name: str) -> Pieces:
        """The input ``name``, in one piece or several."""
        return self.cut[name] if name in self.cut else Pieces.whole(self.inputs[name])

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        of_pieces = (tensor for pieces in self.cut.values() for tensor in pieces.tensors)
        return [*self.inputs.values(), *of_pieces, self.labels]

    def targets(self, parts: int) -> tuple[Tensor, ...]:
        """Its targets, each once for each of ``parts``; and those of everyone, if processes share it."""
        found = (self.labels,) if self.everyone is None else (self.labels, self.everyone)
        return found if parts == 1 else tuple(one.repeat_interleave(parts, 0) for one in found)

    @property
    def images(self) -> int:
        """Images of the whole batch."""
        return len(self.labels) if self.whole is None else self.whole


class Feed:
    """Rows of one stored split as batches on the device.

    Where an image is read in K augmented views, a *position* p below K·n is view p // n of the
    feed's row p % n.

    Args:
        split: where labels are, and tokens unless ``views`` are given.
        rows: ``(n,)`` rows of the split that this feed covers, in the split's order.
        inputs: names of the inputs that some member reads; nothing else is read.
        device: of the tensors handed out.
        dtype: of tokens; vectors (class token, mean) are small and stay float32 or wider.
        shuffle: how :meth:`shuffled` orders an epoch.
        views: the split's augmented views, to read tokens there (`StoredSplit.views`).
        groups: ``(n,)`` of the split's examples that aren't independent, if there are any.
    """

    def __init__(
        self,
        split: StoredSplit,
        rows: np.ndarray,
        inputs: set[str],
        device: torch.device,
        dtype: torch.dtype,
        shuffle: Shuffle = ROWS,
        views: StoredSplit | None = None,
        groups: np.ndarray | None = None,
    ):
        self.shuffle = shuffle
        self.split, self.rows, self.inputs = split, np.asarray(rows), inputs
        self.groups = None if groups is None else groups[self.rows]
        self.source = split if views is None else views
        self.copies = len(self.source) // len(split)  # K
        self.measured = 1 if self.source.live else self.copies
        self.device, self.dtype = device, dtype
        self.cutting, self.parts = Cutting.reading(split.shape), split.shape.parts
        self.drawn: int | None = None
        self._draw: tuple[int, int] | None = None  # seed and epoch of the drawn tokens
        self.labels = torch.from_numpy(np.asarray(split.labels)[self.rows]).to(device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> np.ndarray:
        """The examples' targets ``(n, …)``, in order."""
        return self.labels.cpu().numpy()

    def weight(self, images: int) -> int:
        """Weight of a step of so many images in the mean loss of an epoch."""
        return images

    def shuffled(self, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; their order depends on ``(seed, epoch)`` and ``shuffle``.

        With K views each image is read in one of them, in K epochs in each once. Several processes
        read the same batches, each its part of every one.
        """
        rng, rows = np.random.default_rng((seed, epoch)), self._shown(seed, epoch)
        feed = copy.copy(self)
        feed._draw = None if self.drawn is None else (seed, epoch)
        if self.shuffle.by == "rows":
            order = rng.permutation(len(self))
            batches = split_batches(order, batch_size)
            yield from feed._ahead(feed._part(rows, positions) for positions in batches)
        else:
            yield from self._ahead(self._buffered(feed, rows, batch_size, rng))

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Every image, in all its stored views; in one view if tokens are live."""
        views = np.arange(self.measured)[:, None] * len(self.split)
        rows = (views + self.rows).reshape(-1)
        batches = split_batches(np.arange(len(rows)), batch_size)
        yield from self._ahead(self._gather(rows[positions], positions) for positions in batches)

    def sample(self, name: str, seed: int) -> Tensor:
        """Some tokens of the input ``name``, drawn at random: ``(k, D)`` float32, k ≤ `SAMPLED`.

        A few of each of many images; all tokens of all images if they are fewer.
        """
        rng = np.random.default_rng((seed, 2))
        alone = self.reading({name})
        alone.dtype = torch.float32
        if self.source.lengths is not None:
            return alone._sample_of_each(name, rng)
        most = SAMPLED_LIVE if self.source.live else SAMPLED_IMAGES
        drawn = np.sort(rng.permutation(len(self))[:most])
        rows = self.parts * len(drawn)
        large = self.cutting is not None  # one example at a time
        found, done = torch.empty(0, device=self.device), 0
        for positions in split_batches(drawn, SAMPLED_AT_ONCE):
            picked = torch.empty(0)
            for few in np.split(positions, range(1, len(positions))) if large else [positions]:
                tokens = alone._input(name, self.rows[few], {})
                if not len(picked):
                    places = rng.permutation(tokens.shape[1])[: max(1, SAMPLED // rows)]
                    picked = torch.from_numpy(np.sort(places)).to(tokens.device)
                if not done:  # allocated whole, so that no parts are concatenated
                    found = tokens.new_empty(rows * len(picked), tokens.shape[2])
                part = tokens[:, picked].flatten(0, 1)
                found[done : done + len(part)] = part
                done += len(part)
        return found

    def _sample_of_each(self, name: str, rng: np.random.Generator) -> Tensor:
        """As `sample`, where an example may have any number of tokens: one example at a time."""
        drawn = np.sort(rng.permutation(len(self))[:SAMPLED_IMAGES])
        each, parts = max(1, SAMPLED // len(drawn)), []
        for row in self.rows[drawn]:
            tokens = self._input(name, row[None], {})[0]
            picked = np.sort(rng.permutation(len(tokens))[:each])
            parts.append(tokens[torch.from_numpy(picked).to(tokens.device)])
        return torch.cat(parts)

    def in_pieces(self, cutting: Cutting | None, drawn: int | None = None) -> "Feed":
        """The same rows with tokens in other pieces; ``None``: as `Cutting.reading` has them.

        ``drawn``: the most tokens of an example that a training step reads, drawn anew in each; by
        default all.
        """
        feed = copy.copy(self)
        feed.cutting, feed.drawn = cutting or self.cutting, drawn
        return feed

    def reading(self, inputs: set[str]) -> "Feed":
        """The same rows with other inputs."""
        alone = copy.copy(self)
        alone.inputs = inputs
        return alone

    def part(self) -> "Feed":
        """This process's share of the rows, in order; the shares of all are all rows."""
        alone = copy.copy(self)
        mine = world().part(len(self))
        alone.rows, alone.labels = self.rows[mine], self.labels[mine]
        return alone

    def _part(self, rows: np.ndarray, positions: np.ndarray) -> Batch:
        """This process's share of a batch."""
        mine = positions[world().part(len(positions))]
        everyone = None if len(mine) == len(positions) else self._labels(positions)
        batch = self._gather(rows[mine], mine)
        return replace(batch, whole=len(positions), everyone=everyone)

    def _shown(self, seed: int, epoch: int) -> np.ndarray:
        """Rows of the source that an epoch reads, ``(n,)``: views take turns, the first is random;
        neighbours of a block have the same view."""
        together = max(1, self.shuffle.block)
        drawn = np.random.default_rng((seed, 0, 1)).integers(
            self.copies, size=-(-len(self.split) // together)
        )
        view = (drawn[self.rows // together] + epoch) % self.copies
        return view * len(self.split) + self.rows

    def _buffered(
        self, feed: "Feed", rows: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """Batches of ``feed`` drawn from a buffer, into which blocks of neighbours are read."""
        buffer, reading = self._buffer, copy.copy(feed)
        buffer.clear()
        reading.source = buffer.split
        sizes = [len(batch) for batch in split_batches(np.arange(len(self)), batch_size)]
        held, weights = rows < self.shuffle.held, self.source.relative_sizes(rows)
        for load, positions in block_order(held, self.shuffle, sizes, rng, weights):
            buffer.load(rows[load])
            yield reading._part(rows, positions)
            buffer.forget(rows[positions])

    @cached_property
    def _buffer(self) -> Buffer:
        return self.source.buffer(self.shuffle.buffer)

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Each batch is made in a thread while the one before it is in use.

        A caller that does ``del batch`` before the next iteration never has three in memory.
        """
        copies = Copies(self.device) if self.device.type == "cuda" else None
        batches = batches if copies is None else copies.made(batches)
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(next, batches, None)
            while (batch := following.result()) is not None:
                following = reader.submit(next, batches, None)
                if copies is not None:
                    copies.hand_over(batch)
                yield batch

    def _gather(self, rows: np.ndarray, positions: np.ndarray) -> Batch:
        """A batch of these rows of the source, at these positions of the feed."""
        of_tokens = {n for n in self.inputs if self.cutting and Input.parse(n).of_tokens}
        read: dict[str, Tensor] = {}  # each stored tensor once, whichever inputs share it
        inputs = {name: self._input(name, rows, read) for name in self.inputs - of_tokens}
        cut = self._cut(of_tokens, rows) if of_tokens else {}
        return Batch(inputs, self._labels(positions), cut=cut)

    def _cut(self, names: set[str], rows: np.ndarray) -> dict[str, Pieces]:
        """The inputs ``names`` of tokens, in pieces."""
        assert self.cutting is not None
        lengths = self.source.lengths
        each = np.full(len(rows), self.split.shape.num_tokens) if lengths is None else lengths[rows]
        cuts, streamed = self.cutting.pieces(each, None if self._draw is None else self.drawn)

        def read(name: str, places: np.ndarray, shared: dict[str, Tensor] | None = None) -> Piece:
            mine = rows[places]
            return self._input(name, mine, {} if shared is None else shared), self._mask(name, mine)

        parts = self.parts
        if streamed:
            return {name: Pieces(cuts, partial(read, name), self.dtype, parts) for name in names}
        held: dict[str, list[Piece]] = {name: [] for name in names}
        for places in cuts:
            shared: dict[str, Tensor] = {}
            for name in names:
                held[name].append(read(name, places, shared))
        return {name: Pieces(cuts, pieces, self.dtype, parts) for name, pieces in held.items()}

    def _mask(self, name: str, rows: np.ndarray) -> Tensor | None:
        """Which of the tokens of the input ``name`` are some, ``(b, N')``; prefix tokens are."""
        mask = self.source.token_mask(rows, self.device)
        if mask is None:
            return None
        if self._draw is not None:
            mask = mask[:, : self.drawn]
        one, prefix = Input.parse(name), self.split.shape.num_prefix
        before = PREFIX.get(one.names[0], prefix if one.names[0] == "prefix+patches" else 0)
        whole = torch.cat([mask.new_ones(len(mask), before), mask], 1)
        return whole if one.wide else whole.repeat(1, max(1, len(one.layers)))

    def _labels(self, positions: np.ndarray) -> Tensor:
        return self.labels[torch.from_numpy(positions % len(self)).to(self.device)]

    def _input(self, name: str, rows: np.ndarray, read: dict[str, Tensor]) -> Tensor:
        if name in MAPS:
            return self.split.rows(name, rows).to(self.device)
        one = Input.parse(name)
        parts = [self._tensors_of(part, layer, rows, read) for layer, part in one.parts]
        if one.wide:
            return torch.cat([torch.cat(p, 1) if len(p) > 1 else p[0] for p in parts], 2)
        flat = [tensor for part in parts for tensor in part]
        return flat[0] if len(flat) == 1 else torch.cat(flat, 1)

    def _tensors_of(
        self, name: str, layer: int | None, rows: np.ndarray, read: dict[str, Tensor]
    ) -> list[Tensor]:
        """One part of an input, of one layer: a vector, or the tensors whose tokens it has."""

        def small(tensor: str) -> Tensor:
            tensor = at_layer(tensor, layer)
            if tensor not in read:
                read[tensor] = self.source.rows(tensor, rows, self.device.type == "cuda")
            return read[tensor]

        if not name.endswith("patches"):
            vector = small("prefix")[:, 0] if name == "class" else small(name)
            dtype = torch.promote_types(self.dtype, torch.float32)
            return [vector.to(self.device, dtype, non_blocking=True)]
        key = at_layer("patches", layer)
        if key not in read:
            at = {} if layer is None else {"layer": layer}
            patches = self._drawn(self.source.patches(rows, self.device, self.dtype, **at), rows)
            whole = self.parts == 1
            read[key] = patches if whole else patches.unflatten(1, (self.parts, -1)).flatten(0, 1)
        if name == "patches":
            return [read[key]]
        prefix = small("prefix")[:, :1] if name == "class+patches" else small("prefix")
        return [prefix.to(self.device, self.dtype, non_blocking=True), read[key]]

    def _drawn(self, tokens: Tensor, rows: np.ndarray) -> Tensor:
        """Those of the patches ``(b, N, D)`` of ``rows`` that this step reads, in their order."""
        if self._draw is None or self.drawn is None or tokens.shape[1] <= self.drawn:
            return tokens
        lengths = self.source.lengths
        picks = np.zeros((len(rows), self.drawn), np.int64)
        for place, row in enumerate(rows.tolist()):
            length = tokens.shape[1] if lengths is None else lengths[row]
            rng = np.random.default_rng((*self._draw, row))
            picked = np.sort(rng.permutation(length)[: self.drawn])
            picks[place, : len(picked)] = picked
            picks[place, len(picked) :] = length  # padding
        there = torch.from_numpy(picks.clip(max=tokens.shape[1] - 1)).to(tokens.device)
        return tokens.gather(1, there[..., None].expand(-1, -1, tokens.shape[2]))


class Copies:
    """Copies to a GPU that go on while it computes.

    A batch's tensors are made on a second stream. The current stream waits for it, and the allocator
    is informed that both use them. Torch's allocator keeps pinned memory until its copy has ended.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))  # labels may be on their way
        self._made: deque[torch.cuda.Event] = deque()

    def made(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """``batches``, made on the stream of copies by the thread that asks for them."""
        while True:
            with torch.cuda.stream(self.stream):
                batch = next(batches, None)
                self._made.append(self.stream.record_event())
            if batch is None:
                return
            yield batch

    def hand_over(self, batch: Batch) -> None:
        """Let the current stream use ``batch``, the oldest that wasn't handed over."""
        using = torch.cuda.current_stream(self.device)
        using.wait_event(self._made.popleft())
        for tensor in batch.tensors:
            tensor.record_stream(using)


def tensors_read(inputs: set[str]) -> list[str]:
    """Names of the stored tensors that ``inputs`` are made of, the small ones first."""
    found = {
        at_layer(tensor, layer)
        for name in inputs
        for layer, part in Input.parse(name).parts
        for tensor in STORED_AS.get(part, (part,))
    }
    return sorted(found, key=lambda name: (without_layer(name) == "patches", name))


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut ``order`` into batches; a last batch of one image joins the one before it.

    (Batch norm has no variance to take over one image.)
    """
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches
