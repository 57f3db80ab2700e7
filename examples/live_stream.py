"""Push frames and audio as they come, ask in mid-stream, and go on from a snapshot in another process.

python examples/live_stream.py
"""

import longcompress as lc
from longcompress.session import SegmentClosed
from longcompress.synthetic.scenes import make_scene, parts_of


def main(seconds: float = 120.0, budget: int = 256) -> list[str]:
    """The last answer of the live session, and that of the session restored from its snapshot."""
    model = lc.load("tiny")
    scene = make_scene(26, seconds)
    question = f"When is the {scene.of('video')[0].name} seen?"
    session = lc.Session(model, budget=budget)
    for part in parts_of(scene, model.config.media.rate_fps):  # `Frames` and `Audio`, in time order
        for event in session.push(part):
            if isinstance(event, SegmentClosed):
                # A question never changes the session: it may come at any moment.
                print(
                    f"{event.end_s:5.0f} s: {event.tokens_held:4} tokens held, answer {session.ask(question)}"
                )

    data = session.snapshot()  # bytes, for any process with the same model
    restored = lc.Session.restore(model, data)
    restored.close()  # no more input: the last segment closes
    session.close()
    print(f"{len(data):,} bytes of snapshot; {restored.stats()}")
    return [session.ask(question).text, restored.ask(question).text]


if __name__ == "__main__":
    main()
