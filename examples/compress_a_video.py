"""Compress a video once, ask it, list its events, keep it on disk, and ask again without the video.

    python examples/compress_a_video.py [VIDEO]

Without VIDEO a synthetic one is made, whose world the bundled model knows.
"""

import sys
from pathlib import Path

import longcompress as lc
from longcompress.synthetic.scenes import make_scene, write_video


def main(video: str | None = None, out: Path = Path("example_out"), seconds: float = 120.0) -> list[str]:
    """The answers, before saving and after."""
    out.mkdir(parents=True, exist_ok=True)
    scene = make_scene(7, seconds)
    video = video or str(write_video(scene, out / "video.mp4"))
    model = lc.load("tiny")

    print(lc.estimate(model, video, budget=512))  # all sizes, before anything is decoded
    memory = lc.compress(model, video, budget=512)
    print(f"{memory.stats['raw_tokens']:,.0f} raw tokens became {memory.num_tokens}")

    questions = [f"When is the {event.name} seen?" for event in scene.of("video")[:2]]
    answers = memory.ask_all(questions)  # the video is read once, each question costs only itself
    for question, answer in zip(questions, answers, strict=True):
        print(question, answer, answer.events)
    for event in memory.events():
        print(event)

    memory.save(out / "video.lcm")
    again = lc.load_memory(out / "video.lcm", model)
    return [answers[0].text, again.ask(questions[0]).text]


if __name__ == "__main__":
    main(*sys.argv[1:2])
