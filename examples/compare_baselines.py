"""The same video, the same number of tokens, other methods: what each baseline still answers.

python examples/compare_baselines.py
"""

import numpy as np

import longcompress as lc
from longcompress.compression.baselines import METHODS, spend
from longcompress.encode import segments_of
from longcompress.memory import VideoMemory
from longcompress.synthetic.questions import ask, grade
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.types import CompressedVideo


def main(seconds: float = 120.0, budget: int = 200, num_questions: int = 8) -> dict[str, float]:
    """Method -> mean score of its answers."""
    model = lc.load("tiny")
    scene = make_scene(23, seconds)
    questions = ask(
        scene.events,
        scene.duration_s,
        num=num_questions,
        generator=np.random.default_rng(0),
        kinds={"when_seen": 1.0, "when_heard": 1.0},
    )
    segments, duration_s = segments_of(model, parts_of(scene, model.config.media.rate_fps))

    state = model.merge_state(budget)  # ours
    for segment in segments:
        state.add(segment)
    ours = state.compress()
    num_globals = sum(map(len, ours.globals.values()))
    videos = {"ours": ours}
    for method in METHODS:
        streams = spend(method, segments, budget - num_globals, model.config.budget)
        videos[method] = CompressedVideo(streams, ours.globals, budget, duration_s)

    scores = {}
    for method, video in videos.items():
        answers = VideoMemory(video, model).ask_all([question.text for question in questions])
        grades = [grade(q, answer.text)["score"] for q, answer in zip(questions, answers, strict=True)]
        scores[method] = float(np.mean(grades))
        print(f"{method:8} {video.num_tokens:6} tokens  score {scores[method]:.2f}")
    return scores


if __name__ == "__main__":
    main()
