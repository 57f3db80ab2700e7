"""Tokens of shards, and the texts that are said of them, as sums that merge: pairs for `projector_init`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..files import replacing
from ..serialize import pack, unpack
from .data.dataset import BadSample, ShardData, record_of
from .data.sampler import enter_worker
from .data.words import Ids, are_said_of, text_ids, whole_texts
from .ridge import Moments
from .shards.index import Index
from .shards.sample import read_sample

FLUSH_EVERY = 16  # samples: sums of many rows at once take less time


@dataclass
class Rows:
    """Pairs of a sample: stream -> x (n, C), and which of K texts are said of each (n, K) bool."""

    key: str
    streams: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    texts: list[Ids] = field(default_factory=list)  # tokens
    counts: Counter[str] = field(default_factory=Counter)  # of what was left out
    bad: str = ""  # why the sample can't be used


@dataclass
class Sums:
    """All that is kept of the samples so far.

    Attributes:
        run: what it is of: shards, models, settings.
        done: samples that went in.
        fit, held: stream -> moments of pairs to solve from, and of held-out videos.
        x, right: stream -> (C,) mean of the held-out tokens that a text is said of, for each; its tokens.
        counts: what was left out, and samples.
        bad: samples that can't be used.
        rows: (is held out, stream, x (n, C), y (n, D)) that are not in the moments yet.
    """

    run: str
    done: int = 0
    fit: dict[str, Moments] = field(default_factory=dict)
    held: dict[str, Moments] = field(default_factory=dict)
    x: dict[str, list[Tensor]] = field(default_factory=dict)
    right: dict[str, list[Ids]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)
    rows: list[tuple[bool, str, Tensor, Tensor]] = field(default_factory=list)

    def add(self, rows: Rows, words: Callable[[Ids], Tensor], max_texts: int = 0) -> None:
        """Take a sample; `words` is the embedding of a text. max_texts: of a held-out video, that are looked
        for, evenly spread; 0: it is not held out."""
        self.done += 1
        self.counts = dict(Counter(self.counts) + rows.counts)
        if rows.bad:
            self.bad.append(BadSample(rows.key, rows.bad))
        num = len(rows.texts)
        embedded = torch.stack([words(ids) for ids in rows.texts]) if rows.streams else torch.zeros(0)
        for name, (x, holds) in rows.streams.items():
            texts = holds.double()
            self.rows.append((max_texts > 0, name, x, texts @ embedded / texts.sum(1, keepdim=True)))
            for number in sorted({i * num // max_texts for i in range(max_texts)}):
                if bool(holds[:, number].any()):
                    self.x.setdefault(name, []).append(x[holds[:, number]].double().mean(0))
                    self.right.setdefault(name, []).append(rows.texts[number])
        if self.done % FLUSH_EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Add the rows to the moments."""
        for is_held, name in sorted({(is_held, name) for is_held, name, _, _ in self.rows}):
            parts = [(x, y) for held, stream, x, y in self.rows if (held, stream) == (is_held, name)]
            moments = Moments.of(*(torch.cat(part) for part in zip(*parts, strict=True)))
            to = self.held if is_held else self.fit
            to[name] = to[name] + moments if name in to else moments
        self.rows.clear()

    def merge(self, other: "Sums") -> None:
        """Take what another rank has."""
        self.done += other.done
        self.counts = dict(Counter(self.counts) + Counter(other.counts))
        self.bad += other.bad
        for own, others in ((self.fit, other.fit), (self.held, other.held)):
            for name, moments in others.items():
                own[name] = own[name] + moments if name in own else moments
        for name, rows in other.x.items():
            self.x.setdefault(name, []).extend(rows)
            self.right.setdefault(name, []).extend(other.right[name])

    def save(self, path: Path) -> None:
        """Write it."""
        self.flush()
        with replacing(path) as part:
            part.write_bytes(pack(self, KINDS))

    @classmethod
    def load(cls, path: Path, run: str) -> "Sums":
        """What `save` wrote of the same run; empty where there is nothing of it."""
        sums = unpack(path.read_bytes(), KINDS) if path.is_file() else cls(run)
        assert isinstance(sums, cls)
        return sums if sums.run == run else cls(run)


KINDS = (Sums, Moments, BadSample)


class Pairs(Dataset[Rows]):
    """Samples by their number among all of the data's shards, at a budget."""

    def __init__(self, data: ShardData, budget: int, streams: Sequence[str]) -> None:
        self.data, self.make, self.budget, self.streams = data, data.examples, budget, streams
        self.numbers = [(i, n) for i, index in enumerate(data.batches.indexes) for n in range(len(index))]

    def __getitem__(self, at: int) -> Rows:
        enter_worker()
        which, number = self.numbers[at]
        index: Index = self.data.batches.indexes[which]
        rows = Rows(index.entries[number].key)
        where = f"{index.folder}: sample {rows.key!r}"
        try:
            self._fill(rows, index.read(number), where)
        except (ValueError, OSError) as error:
            if self.data.on_error == "stop":
                raise
            rows.bad = str(error)
        return rows

    def _fill(self, rows: Rows, members: dict[str, bytes], where: str) -> None:
        sample = read_sample(members, where)
        video = self.make.compressed(sample.state(self.make.empty), where, self.budget)
        record = record_of(sample)
        events = [(e, ids) for e in record.events if (ids := self._ids(e.text, rows.counts))]
        whole = [ids for text in whole_texts(record) if (ids := self._ids(text, rows.counts))]
        rows.texts = [*(ids for _, ids in events), *whole]
        if not rows.texts:
            rows.counts["samples without a text"] += 1
            return
        for name in self.streams:
            parts = []
            if name in video.streams:
                tokens = video.streams[name]
                over = are_said_of(tokens, [event for event, _ in events])
                rest = ~over.any(1, keepdim=True).expand(-1, len(whole))
                parts.append((tokens.x, torch.cat([over, rest], 1)))
            if name in video.globals:
                x, about = video.globals[name], torch.zeros(len(rows.texts), dtype=torch.bool)
                about[len(events) if whole else 0 :] = True
                parts.append((x, about.expand(len(x), -1)))
            if parts:
                x, holds = (torch.cat(part) for part in zip(*parts, strict=True))
                if bool(holds.any()):
                    rows.streams[name] = x[holds.any(1)], holds[holds.any(1)]

    def _ids(self, text: str, counts: Counter[str]) -> Ids:
        """`text_ids`, with a count of the texts that have none."""
        if not any(map(str.isalpha, text)):
            counts["texts without a word"] += 1
            return ()
        ids = text_ids(self.make.tokenizer, text)
        counts.update(() if ids else ["texts that the tokenizer has no word of"])
        return ids
