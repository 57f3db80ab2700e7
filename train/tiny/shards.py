"""Feature shards of synthetic videos with all that is known of them, for checks and experiments."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...model import LongCompress
from ...session import Session
from ...synthetic.questions import KINDS, ask
from ...synthetic.scenes import Scene, make_scene, parts_of
from ...types import Event
from ..records import Record, Turn
from ..shards.index import Index, make_index
from ..shards.make import ENDLESS
from ..shards.sample import members_of
from ..shards.tar import write_tar

SHARD_VIDEOS = 50
Questions = Callable[[Scene, np.random.Generator], Sequence[tuple[str, str]]]
"""(question, answer) pairs about a scene."""


def synthetic_shards(
    model: LongCompress, seeds: Sequence[int], seconds: float, out: str | Path, *,
    questions: Questions | None = None, progress: bool = True,
) -> Index:  # fmt: skip
    """Shards in `out` of scenes, encoded as their videos would be, but for the codec.

    Without `questions` a scene has some of each kind of `synthetic_qa`.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for first in tqdm(range(0, len(seeds), SHARD_VIDEOS), desc="shards", unit="shard", disable=not progress):
        path = out / f"shard-{first // SHARD_VIDEOS:06d}.tar"
        chunk = seeds[first : first + SHARD_VIDEOS]
        write_tar(path, (_sample(model, seed, seconds, questions or all_questions) for seed in chunk))
    return make_index(out, progress=False)


def all_questions(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Questions of each kind of `synthetic_qa` about a scene, and their answers."""
    pairs = []
    for kind in KINDS:
        options: dict[str, Any] = {"num": 8, "kinds": [kind], "paraphrase": bool(generator.random() < 0.5)}
        asked = ask(scene.events, scene.duration_s, generator=generator, **options)
        pairs += [(q.text, q.answer) for q in asked]
    return pairs


def _sample(
    model: LongCompress, seed: int, seconds: float, questions: Questions
) -> tuple[str, dict[str, bytes]]:
    scene = make_scene(seed, seconds)
    session = Session(model, ENDLESS)
    for _ in session.run(parts_of(scene, model.config.media.rate_fps)):
        pass
    key = f"scene_{seed}"
    events = tuple(Event(h.start_s, h.end_s, h.name) for h in scene.events)
    pairs = questions(scene, np.random.default_rng(seed))
    dialogues = tuple((Turn("user", question), Turn("assistant", answer)) for question, answer in pairs)
    captions = (", ".join(dict.fromkeys(event.text for event in events)),) if events else ()
    record = Record(key, key, seconds, events, dialogues, captions)
    return key, members_of(session.state(), model, record.to_json() | {"video": {"name": key}}, seconds)
