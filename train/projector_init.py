"""New projectors start by least squares: a video token comes out near the words that are said of its time.

A random projector is a cold start that an optimizer needs thousands of videos to leave. A linear map between
two spaces of meanings is had in closed form (Mikolov et al., arXiv 1309.4168); that frozen language models
read linear maps of features: Merullo et al., arXiv 2209.15162.

x is a token as the shards give it, a global token too. y is the mean embedding of the texts said of it: of
events that hold for more than half of its time (a transcript is such events); without any, of the captions;
without captions, of the answers of its dialogues. The embedding of a text is the mean over its tokens. The
map is `ridge.Solution.weight`, its ridge chosen on held-out videos by retrieval. Its images are centred, and
as long as the language model's embeddings.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..llm.calibrate import embedding_norm
from ..llm.causal import CausalLM
from ..llm.projector import Residual, zero
from ..model import LongCompress
from .data.dataset import ShardData
from .data.words import Ids
from .projector_pairs import Pairs, Sums
from .ridge import Moments, Scores, choose, scaled
from .shards.sample import read_sample
from .signals import signals_of
from .trainer import plain_errors

MAX_HELD, HELD_PART = 512, 10  # videos held out: at most, and a tenth of all
MAX_TEXTS = 2048  # of them, to be told apart
NUM_EXAMPLES = 32  # held-out videos that are asked about before any step
SAVE_EVERY = 256  # samples; a multiple of FLUSH_EVERY
REPORT = "init.json"
MIN_SPREAD = 1e-12  # of texts, against their mean: below they are all the same


@dataclass(frozen=True)
class Fit:
    """How a projector starts.

    Attributes:
        stream: whose.
        tokens, rank, width: pairs solved from; directions in which x varies, of C.
        texts, asked: different texts of held-out videos; means of tokens to find them for.
        scores: of the map before it is scaled.
    """

    stream: str
    tokens: int
    rank: int
    width: int
    texts: int
    asked: int
    scores: Scores

    def __str__(self) -> str:
        scores = self.scores
        text = f"{self.stream}: {self.tokens:,} tokens, rank {self.rank} of {self.width}, ridge "
        text += f"{scores.ridge:g}, R^2 {scores.explained:.3f}"
        if not self.asked:
            return f"{text}; nothing held out"
        return (
            f"{text}, held out {scores.held_explained:.3f}; right text first {scores.top_1:.3f}, in five "
            f"{scores.top_5:.3f}, of {self.asked:,} ({self.texts:,} texts, chance {1 / self.texts:.3f})"
        )


def sampled(total: int, max_samples: int, seed: int) -> tuple[list[int], list[int]]:
    """(numbers of samples to use, those of them that are held out), rising; a function of its arguments."""
    order = np.random.default_rng([seed, total]).permutation(total)[:max_samples]
    num_held = min(MAX_HELD, max(1, len(order) // HELD_PART)) if len(order) > 1 else 0
    return sorted(order.tolist()), sorted(order[:num_held].tolist())


def collect(
    model: LongCompress, data: ShardData, budget: int, streams: Sequence[str], out: Path, *, max_samples: int,
    workers: int = 0,
) -> tuple[Sums, list[int]]:  # fmt: skip
    """(sums of the shards' samples, numbers of those held out). An interrupted pass goes on from where it
    wrote last, to the same bits; a complete one is read. All ranks call it together and get the same."""
    rank, world, pairs = data.rank, data.world, Pairs(data, budget, streams)
    numbers, held = sampled(len(pairs.numbers), max_samples, data.batches.seed)
    indexes = data.batches.indexes
    of_run: list[Any] = [
        [shard.sha256 for index in indexes for shard in index.shards],
        model.identity(),
        list(streams),
    ]
    of_run += [embedding_norm(model.llm), budget, max_samples, data.batches.seed]
    run = hashlib.sha256(json.dumps(of_run).encode()).hexdigest()
    whole, parts = out / "init.safetensors", [out / f"init-{i}-of-{world}.safetensors" for i in range(world)]
    sums = Sums.load(whole, run)
    if sums.done == len(numbers):
        return sums, held
    sums, out_of, words = Sums.load(parts[rank], run), set(held), lru_cache(4096)(partial(embedding, model))
    rest, max_texts = numbers[rank::world][sums.done :], max(1, MAX_TEXTS // max(1, len(held)))
    loader = DataLoader(pairs, batch_size=None, sampler=rest, num_workers=workers)
    with plain_errors():
        for at, rows in zip(rest, tqdm(loader, "projectors", unit="video", disable=None), strict=True):
            sums.add(rows, words, max_texts if at in out_of else 0)
            if sums.done % SAVE_EVERY == 0:
                sums.save(parts[rank])
    sums.save(parts[rank])
    _wait()
    sums = Sums(run)
    for part in parts:
        sums.merge(Sums.load(part, run))
    _wait()
    if rank == 0:
        sums.save(whole)
        for part in parts:
            part.unlink()
    _wait()
    return sums, held


@torch.no_grad()
def embedding(model: LongCompress, ids: Ids) -> Tensor:
    """(D,) float64 mean embedding of a text's tokens, on the CPU."""
    table = model.llm.lm.get_input_embeddings()
    rows: Tensor = table(torch.tensor(ids, device=table.weight.device))
    return rows.double().mean(0).cpu()


@torch.no_grad()
def fit_projectors(model: LongCompress, sums: Sums, streams: Sequence[str]) -> list[Fit]:
    """Start the projectors of these streams from sums; those without enough pairs keep what they have."""
    llm = model.llm
    assert isinstance(llm, CausalLM)
    fits = []
    for name in streams:
        moments = sums.fit.get(name)
        if moments is None or moments.yy <= MIN_SPREAD * moments.count * moments.mean_y.square().sum():
            continue
        solution = moments.solve()
        if not solution.rank:
            continue
        asked = sums.right.get(name, [])
        number = {ids: i for i, ids in enumerate(dict.fromkeys(asked))}
        x = torch.stack(sums.x[name]) if asked else torch.zeros(0, len(moments.xx))
        texts = torch.stack([embedding(model, ids) for ids in number]) if asked else x
        right = torch.tensor([number[ids] for ids in asked], dtype=torch.int64)
        held = sums.held.get(name, Moments.zero(*moments.xy.shape))
        chosen, scores = choose(moments, solution, held, x, texts, right)
        norm = (llm.settings.token_norm or 1.0) * embedding_norm(llm)
        weight, bias = scaled(solution, chosen, moments, norm)
        layer = linear_of(model, name)
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        sizes = (int(moments.count), solution.rank, len(moments.xx), len(number), len(asked))
        fits.append(Fit(name, *sizes, scores))
    llm.untrained -= {fit.stream for fit in fits}
    return fits


def linear_of(model: LongCompress, name: str) -> nn.Linear:
    """The linear map of a stream's projector, which an MLP gets beside it; the MLP's last layer is zeroed."""
    llm: Any = model.llm
    if llm.settings.projector == "mlp":  # every stream gets one; where it stays zero, the MLP is as before
        for stream, mlp in llm.project.items():
            skip = nn.Linear(mlp[0].in_features, mlp[-1].out_features).to(mlp[0].weight)
            zero(skip)
            llm.project[stream] = Residual(skip, mlp)
        llm.settings = replace(llm.settings, projector="residual")
        model.config = replace(model.config, llm=replace(model.config.llm, projector="residual"))
    project = llm.project[name]
    if not isinstance(project, Residual):
        return project
    zero(project.mlp[-1])
    return project.skip


def report(
    model: LongCompress, data: ShardData, budget: int, sums: Sums, held: Sequence[int], fits: Sequence[Fit],
    streams: Sequence[str], out: Path,
) -> None:  # fmt: skip
    """Print how the projectors start, before any step, and write it to out/init.json."""
    examples, keys, pairs = [], [], Pairs(data, budget, streams)
    for at in held:
        which, number = pairs.numbers[at]
        index = data.batches.indexes[which]
        generator = np.random.default_rng([data.batches.seed, which, number])
        with suppress(ValueError, OSError):  # it is among sums.bad, or nothing can be asked about it
            sample = read_sample(index.read(number), str(index.folder))
            examples.append(data.examples.example(sample, budget, generator)[0])
            keys.append(index.entries[number].key)
        if len(examples) == NUM_EXAMPLES:
            break
    signals = signals_of(model, examples, keys) if fits and examples else None
    text = json.dumps({
        "fits": [asdict(fit) for fit in fits], "signals": signals and asdict(signals), "samples": sums.done,
        "held_out": len(held), "counts": sums.counts, "bad": [asdict(bad) for bad in sums.bad],
    })  # fmt: skip
    content = json.loads(text, parse_constant=lambda _: None)  # JSON knows no nan
    (out / REPORT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    lines = [f"projectors start by least squares from {sums.done:,} samples, {len(held):,} of them held out"]
    lines += [f"  {fit}" for fit in fits]
    if signals:
        lines.append(f"  before any step, {len(examples)} held-out videos: {signals.text()}")
    left = [f"{num:,} {what}" for what, num in sorted(sums.counts.items())]
    left += [
        f"{len(sums.bad):,} samples that can't be used, such as {b.key}: {b.reason}" for b in sums.bad[:1]
    ]
    lines += [f"  left out: {'; '.join(left)}"] if left else []
    print("\n".join(lines), flush=True)


def _wait() -> None:
    if distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.barrier()
