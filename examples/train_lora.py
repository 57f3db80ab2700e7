"""Train LoRA from your own videos: records, shards, a stage of training, the trained model.

    python examples/train_lora.py

The videos are synthetic. The model learns a question that it was not trained on: which objects are seen.
"""

import json
from pathlib import Path

import longcompress as lc
from longcompress.synthetic.scenes import Scene, make_scene, write_video
from longcompress.train.data.dataset import QuestionConfig
from longcompress.train.engine import Engine
from longcompress.train.records import read_records
from longcompress.train.shards.make import make, pack
from longcompress.train.stages import StageRecipe, train_stage

QUESTION = "What is seen?"


def objects_of(scene: Scene) -> str:
    """The names of a scene's objects, in the order of their first appearance."""
    return ", ".join(dict.fromkeys(event.name for event in scene.of("video")))


def write_videos(folder: Path, seeds: range, seconds: float) -> None:
    """A video for each seed, and beside it its record: a dialogue about it."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene = make_scene(seed, seconds)
        path = write_video(scene, folder / f"video_{seed}.mp4")
        turns = [{"role": "user", "text": QUESTION}, {"role": "assistant", "text": objects_of(scene)}]
        path.with_suffix(".json").write_text(json.dumps({"dialogues": [turns]}))


def main(out: Path = Path("train_lora_out"), num_videos: int = 24, steps: int = 100) -> tuple[str, str, str]:
    """About a video that was not trained on: the answer before training, the answer after it, the truth."""
    write_videos(out / "videos", range(100, 100 + num_videos), seconds=20.0)
    model = lc.load("tiny", device="cpu")

    # Encode each video once. Training reads the shards, and never a video.
    records = read_records(out / "videos")
    make(records, out / "shards", model, progress=False)
    pack(out / "shards", records, progress=False)

    recipe = StageRecipe(
        shards=[str(out / "shards")],
        questions=QuestionConfig(kinds={"qa": 1.0}),
        budgets=[60, 120], max_tokens=960, train=["lora"], lora={"r": 16, "lora_alpha": 32},
        lr=3e-3, warmup=10, steps=steps, log_steps=20, engine=Engine(device="cpu", report=[]),
    )  # fmt: skip
    trained = lc.load(train_stage(model, recipe, out / "run"), device="cpu")

    scene = make_scene(7, 20.0)
    video = write_video(scene, out / "unseen.mp4")
    answers = [lc.compress(m, video, budget=100, progress=False).ask(QUESTION).text
               for m in (lc.load("tiny", device="cpu"), trained)]  # fmt: skip
    print(f"before: {answers[0]}\nafter:  {answers[1]}\ntruth:  {objects_of(scene)}")
    return answers[0], answers[1], objects_of(scene)


if __name__ == "__main__":
    main()
