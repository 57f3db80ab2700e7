"""Train LoRA from a plain webdataset pipeline: tars anywhere, in webdataset's order, without an index.

    python examples/train_webdataset.py

The tars are synthetic feature shards. The model learns a question that it was not trained on.
"""

from pathlib import Path

import webdataset

import longcompress as lc
from longcompress.synthetic.scenes import OBJECTS, make_scene, write_video
from longcompress.train import decode
from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.engine import Engine
from longcompress.train.stages import StageRecipe, train_stage
from longcompress.train.tiny.shards import synthetic_shards

QUESTION = "Which things appear?"


def things(scene, generator=None):
    """The question and its answer about a scene: its objects, in the order of OBJECTS."""
    seen = {event.name for event in scene.of("video")}
    return [(QUESTION, ", ".join(name for name in OBJECTS if name in seen))]


def main(
    out: Path = Path("train_webdataset_out"), num_videos: int = 60, steps: int = 100
) -> tuple[str, str, str]:
    """About a video that was not trained on: the answer before training, the answer after it, the truth."""
    model = lc.load("tiny", device="cpu")
    synthetic_shards(
        model, range(100, 100 + num_videos), 20.0, out / "shards", questions=things, progress=False
    )
    urls = [str(path.absolute()) for path in sorted((out / "shards").glob("*.tar"))]
    recipe = StageRecipe(
        questions=QuestionConfig(kinds={"qa": 1.0}),
        budgets=[60, 120], max_tokens=960, train=["lora"], lora={"r": 16, "lora_alpha": 32},
        lr=3e-3, warmup=10, steps=steps, log_steps=20, engine=Engine(device="cpu", report=[]),
    )  # fmt: skip

    pipeline = webdataset.WebDataset(urls, shardshuffle=100, seed=0).shuffle(64, seed=0).map(decode)
    folder = train_stage(model, recipe, out / "run", samples=pipeline)
    trained = lc.load(folder, device="cpu")

    scene = make_scene(7, 20.0)
    video = write_video(scene, out / "unseen.mp4")
    answers = [lc.compress(m, video, budget=100, progress=False).ask(QUESTION).text
               for m in (lc.load("tiny", device="cpu"), trained)]  # fmt: skip
    print(f"before: {answers[0]}\nafter:  {answers[1]}\ntruth:  {things(scene)[0][1]}")
    return answers[0], answers[1], things(scene)[0][1]


if __name__ == "__main__":
    main()
