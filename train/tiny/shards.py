"""Feature shards of drawn videos, with all that is known of them, for self-checks and experiments."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...model import LongCompress
from ...session import Session
from ...synthetic.questions import KINDS, ask
from ...synthetic.scenes import Scene, make_scene, parts_of
from ..data.records import Event, Record, Turn
from ..shards.index import Index, make_index
from ..shards.make import ENDLESS
from ..shards.sample import members_of
from ..shards.tar import write_tar

A_SHARD = 50  # videos
Told = Callable[[Scene, np.random.Generator], Sequence[tuple[str, str]]]


def drawn_shards(
    model: LongCompress, seeds: Sequence[int], seconds: float, out: str | Path, *, told: Told | None = None,
    progress: bool = True,
) -> Index:  # fmt: skip
    """Shards of scenes, compressed as `Session` would watch their videos, but for the codec.

    Args:
        model: whose encoders and merging make the features.
        seeds: of the scenes.
        seconds: length of each.
        out: folder.
        told: (question, answer) pairs about a scene; None: of each kind of `synthetic_qa`.
        progress: show a bar.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for first in tqdm(range(0, len(seeds), A_SHARD), desc="shards", unit="shard", disable=not progress):
        some = seeds[first : first + A_SHARD]
        path = out / f"shard-{first // A_SHARD:06d}.tar"
        write_tar(path, (_sample(model, seed, seconds, told or asked) for seed in some))
    return make_index(out, progress=False)


def asked(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Questions of each kind of `synthetic_qa` about a scene, and their answers."""
    return [
        (q.text, q.answer)
        for kind in KINDS
        for q in ask(
            scene.events, scene.duration_s, num=8, generator=generator, kinds=[kind],
            paraphrase=bool(generator.random() < 0.5),
        )
    ]  # fmt: skip


def _sample(model: LongCompress, seed: int, seconds: float, told: Told) -> tuple[str, dict[str, bytes]]:
    scene = make_scene(seed, seconds)
    session = Session(model, ENDLESS)
    for part in parts_of(scene, model.config.media.rate_fps):
        session.push(part)
    session.close()
    key = f"scene_{seed}"
    record = Record(
        key, key, seconds,
        tuple(Event(h.start_s, h.end_s, h.name) for h in sorted(scene.events, key=lambda h: h.start_s)),
        tuple((Turn("user", q), Turn("assistant", a)) for q, a in told(scene, np.random.default_rng(seed))),
        captions=(", ".join(dict.fromkeys(h.name for h in scene.events)),) if scene.events else (),
    )  # fmt: skip
    told_of = record.to_json() | {"video": {"name": key}}
    return key, members_of(session.held(), model, told_of, seconds)
