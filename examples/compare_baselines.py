"""Compare our merging with the baselines at an equal number of tokens, on one synthetic video.

    python examples/compare_baselines.py

`longcompress eval compare` does it with many videos, budgets and intervals.
"""

import numpy as np

import longcompress as lc
from longcompress.compression.baselines import METHODS, spend
from longcompress.encode import segments_of
from longcompress.synthetic.questions import ask, grade
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import CompressedVideo


def main(seconds: float = 300.0, budget: int = 255, num_questions: int = 12) -> dict[str, float]:
    """Method -> mean score of its answers."""
    model = lc.load("tiny")
    scene = make_scene(23, seconds)
    kinds = {"when_seen": 1.0, "when_heard": 1.0}
    rng = np.random.default_rng(0)
    questions = ask(scene.events, scene.duration_s, num=num_questions, generator=rng, kinds=kinds)
    # The video is encoded once. Every method spends its budget on the same raw segments.
    segments, duration_s = segments_of(model, parts_of(scene, model.config.media.rate_fps))

    state = model.merge_state(budget)
    for segment in segments:
        state.add(segment)
    ours = state.compress()
    videos = {"ours": ours}
    room = budget - sum(map(len, ours.globals.values()))  # all methods get the same global tokens
    for method in METHODS:
        streams = spend(method, segments, room, model.config.budget)
        videos[method] = CompressedVideo(streams, ours.globals, budget, duration_s)

    scores = {}
    for method, video in videos.items():
        answers = lc.VideoMemory(video, model).ask_all([question.text for question in questions])
        grades = [grade(q, answer.text)["score"] for q, answer in zip(questions, answers, strict=True)]
        scores[method] = float(np.mean(grades))
        print(f"{method:8} {video.num_tokens:6} tokens  score {scores[method]:.2f}")
    return scores


if __name__ == "__main__":
    main()
