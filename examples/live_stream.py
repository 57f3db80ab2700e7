"""Push frames and audio as they come, ask in mid-stream, and go on from a snapshot in another process.

python examples/live_stream.py
"""

import longcompress as lc
from longcompress.session import SegmentClosed
from longcompress.synthetic.scenes import make_scene, parts_of


def main(seconds: float = 120.0) -> list[str]:
    """The answers on the way and at the end."""
    model = lc.load("tiny")
    session = lc.Session(model, budget=256)
    answers = []
    for part in parts_of(make_scene(11, seconds), model.config.media.rate_fps):
        for event in session.push(part):  # closed segments, and input that came too late
            if isinstance(event, SegmentClosed):
                print(f"{event.start_s:5.0f} to {event.end_s:5.0f} s: {event.tokens_in} tokens in, "
                      f"{event.tokens_held} held")  # fmt: skip
        answers.append(session.ask("What happens between 0 and 30?").text)
    restored = lc.Session.restore(model, session.snapshot())  # bytes: any process with the same model
    restored.close()
    answers.append(restored.ask("What happens between 0 and 30?").text)
    print(answers[-1])
    print(restored.stats())
    return answers


if __name__ == "__main__":
    main()
