"""Compress a video once, ask it, list its events, save the memory, and ask again without the video.

    python examples/compress_a_video.py [VIDEO]

Without VIDEO it makes a synthetic video of the world that the bundled model knows.
"""

import sys
from pathlib import Path

import longcompress as lc
from longcompress.events.files import write_events
from longcompress.synthetic.scenes import make_scene, write_video


def main(video: str | None = None, out: Path = Path("example_out"), seconds: float = 120.0) -> list[str]:
    """The answers to one question, before saving and after loading."""
    out.mkdir(parents=True, exist_ok=True)
    scene = make_scene(7, seconds)
    video = video or str(write_video(scene, out / "video.mp4"))
    model = lc.load("tiny")

    estimate = lc.estimate(model, video, budget=512)  # from the header, before anything is decoded
    print(
        f"{estimate.raw_tokens:,} raw tokens will become {estimate.tokens}, {estimate.memory_bytes:,} bytes"
    )
    memory = lc.compress(model, video, budget=512)
    for name, tokens in memory.streams.items():
        print(f"{name}: {len(tokens)} tokens, the largest stands for {int(tokens.size.max())} raw tokens")

    questions = [f"When is the {event.name} seen?" for event in scene.of("video")[:2]]
    answers = memory.ask_all(questions)  # the language model reads the video once for all questions
    for question, answer in zip(questions, answers, strict=True):
        print(question, answer, answer.events)
    events = memory.events()
    write_events(events, out / "video.srt", "srt")  # or vtt, ass, csv, jsonl, edl
    print(*events, sep="\n")

    memory.save(out / "video.lcm")
    again = lc.load_memory(out / "video.lcm", model)
    return [answers[0].text, again.ask(questions[0]).text]


if __name__ == "__main__":
    main(*sys.argv[1:2])
