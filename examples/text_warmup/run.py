"""A language model that knows videos only as text learns to see and hear: `python run.py --out FOLDER`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from longcompress import Session
from longcompress.config_values import load_config
from longcompress.presets import load, new_tiny
from longcompress.synthetic.questions import ask, grade
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.train.data.sampler import Batches
from longcompress.train.engine import Engine
from longcompress.train.shards.index import load_index
from longcompress.train.stages import StageRecipe, last_checkpoint, steps_done, train_stage
from longcompress.train.tiny.recipe import init_as_matcher
from longcompress.train.tiny.shards import synthetic_shards
from longcompress.train.trainer import run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from text_videos import NAMES, Spelled, TextMix, TextVideos  # noqa: E402 - a file beside this one

FINDING = {"when_seen": 4.0, "when_heard": 2.0, "binding": 1.0}
ALL = {
    "when_seen": 4.0, "when_heard": 2.0, "binding": 3.0, "while": 0.5, "first_after": 0.5, "count": 0.5,
    "between": 1.0,
}  # fmt: skip
MIXES = (
    TextMix(300, 24, (20,), 8, FINDING),
    TextMix(300, 14, (60,), 10, FINDING),
    TextMix(1500, 12, (60, 120), 12, ALL),
)
ENGINE = Engine(device="cpu", bf16=True, report=[])
TRAIN_SEED, TEST_SEED = 5_000_000, 10_000_000  # of scenes
KINDS = ("when_seen", "when_heard", "binding", "count", "between")
BUDGET = 0.1  # of the raw tokens


def train_on_text(out: Path, mixes: Sequence[TextMix] = MIXES, *, seed: int = 0, warmup: int = 60) -> Path:
    """Train a language model on videos in words, from its last checkpoint if it has any; save it with tiny's
    encoders in out/model."""
    model = new_tiny(seed)
    tiny = load("tiny", device="cpu")
    model.video, model.audio = tiny.video, tiny.audio
    projectors = dict(model.llm.project.items())
    table = model.llm.lm.get_input_embeddings()
    for stream, names in NAMES.items():  # names of what is seen and heard, in place of features
        model.llm.project[stream] = Spelled(table, model.llm.tokenizer, names)
    init_as_matcher(model)
    model.requires_grad_(False)
    model.llm.requires_grad_(True)
    steps = sum(mix.steps for mix in mixes)
    args = ENGINE.arguments(
        out / "lm", steps=steps, lr=2e-3, warmup=warmup, decay=0.3, save_steps=250, seed=seed
    )
    checkpoint = last_checkpoint(out / "lm")
    data = Batches(TextVideos(mixes, seed).batch, steps_done(checkpoint))
    done = run(
        model.llm, data, args, collate=lambda items: model.llm.collate(items[0]), muon=True, resume=checkpoint
    )
    if done is None:
        raise KeyboardInterrupt(f"{out}: stopped; the same command goes on from the last checkpoint")
    for stream, projector in projectors.items():
        model.llm.project[stream] = projector
    model.eval().save_pretrained(out / "model", include_base=True)
    return out / "model"


def evaluate(folder: Path, videos: int, seconds: float) -> dict[str, float]:
    """Mean score of each kind of question about unseen scenes, at a tenth of the tokens."""
    model = load(str(folder), device="cpu")
    scores: dict[str, list[float]] = {}
    for number in range(videos):
        scene = make_scene(TEST_SEED + number, seconds)
        session = Session(model, round(BUDGET * model.estimate(seconds, 1 << 40).raw_tokens))
        for _ in session.run(parts_of(scene, model.config.media.rate_fps)):
            pass
        memory, random = session.memory(), np.random.default_rng([7, number])
        questions = [
            question
            for kind in KINDS
            for question in ask(scene.events, seconds, num=12, generator=random, kinds={kind: 1.0})
        ]
        for question in questions:
            score = grade(question, memory.ask(question.text).text)["score"]
            scores.setdefault(question.kind, []).append(score)
    return {kind: round(float(np.mean(values)), 3) for kind, values in scores.items()}


def main(words: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """All stages; stages that are complete are not run again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the models and the shards")
    parser.add_argument("--steps", type=int, help="of every stage, to try the command")
    parser.add_argument("--videos", type=int, default=400, help="synthetic videos to train on")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each")
    parser.add_argument("--test-videos", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    out: Path = options.out
    model = out / "text" / "model"
    if not model.is_dir():
        mixes = [replace(mix, steps=options.steps, videos=2) for mix in MIXES] if options.steps else MIXES
        train_on_text(out / "text", mixes)
    shards = out / "shards"
    if not (shards / "index.json").is_file():
        seeds = range(TRAIN_SEED, TRAIN_SEED + options.videos)
        synthetic_shards(load(str(model), device="cpu"), seeds, options.seconds, shards)
    load_index(shards)
    results = {"text": evaluate(model, options.test_videos, options.seconds)}
    for name in ("learn_align", "learn_instruct"):
        stage = out / name
        if not (stage / "model").is_dir():
            recipe = load_config(StageRecipe, HERE / f"{name}.yaml")
            engine = replace(ENGINE, bf16=False, threads=options.threads)
            changes = {"steps": options.steps, "save_steps": options.steps} if options.steps else {}
            recipe = replace(recipe, model=str(model), shards=[str(shards)], engine=engine, **changes)
            train_stage(engine.load(recipe.model), recipe, stage, resume=last_checkpoint(stage) is not None)
        model = stage / "model"
        results[name] = evaluate(model, options.test_videos, options.seconds)
        print(json.dumps({name: results[name]}), flush=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    main()
