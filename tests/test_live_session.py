"""The laws of a live session, with small random models; those of its requests are in test_live_requests.py,
those of stock models in test_live_stock.py."""

import threading
from dataclasses import replace

import pytest
import torch
from live_sessions import ALWAYS, POLLED, QUIET, TEXT, fresh_logits, of, run, session_of, steps_of

from longcompress.compression.triggers import fires
from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.llm.live import LiveReader
from longcompress.session import Dropped, Reply, Session
from longcompress.session_events import Asked, ReplyBegan, ReplyPart, Scored
from longcompress.types import Audio, Frames

from clips import make_clip, random_parts
from models import model as make_model
from models import with_heads


@pytest.fixture(scope="module")
def model():
    return with_heads()


@pytest.mark.parametrize("live", [POLLED, replace(ALWAYS, replies="keep"), replace(ALWAYS, replies="log")])
def test_events_are_the_same_for_any_cut_of_the_pushes(model, live):
    texts = [(0.0, TEXT, "may"), (7.5, "what is seen", "must"), (11.0, "what happens", "may")]
    clip = make_clip(33.0)
    first, want = run(model, live, [*clip], texts)
    assert len(of(want, Reply)) > 3 and len(of(want, Scored)) >= 33 and len(of(want, Asked)) == 2
    for seed in range(3):
        session, events = run(model, live, random_parts(*clip, seed), texts)
        assert events == want
        assert [part.ids.tolist() for part in session.context()] == [p.ids.tolist() for p in first.context()]


@pytest.mark.parametrize("replies", ["drop", "keep", "log"])
def test_the_cache_is_a_fresh_reading_of_the_printed_context(model, replies):
    session = session_of(model, replace(ALWAYS, replies=replies, step_tokens=3))
    session.push_text(TEXT, reply="may")
    num, parts = 0, session.live.context.parts
    question = parts.text("answer", parts.ask("what is seen", False))
    for part in steps_of(33.0):
        rebuilds = session.stats()["rebuilds"]
        events = session.push(part)
        if not of(events, Scored):
            continue
        context = session.context()
        got = session.live.context.now.reader.fork().read([question]).logits
        torch.testing.assert_close(got, fresh_logits(model, [*context, question])[1], atol=1e-5, rtol=1e-4)
        assert sum(len(part.ids) for part in context) == session.live.context.now.reader.count
        last = context[-1]
        # no kept reply behind it, and it is still the context in which was scored
        if last.streams and last.region == "near" and session.stats()["rebuilds"] == rebuilds:
            for head, score in model.llm.heads.scores(fresh_logits(model, context)[0]).items():
                assert abs(float(score) - of(events, Scored)[-1].scores[head]) < 1e-5
                num += 1
        assert context[0].region == "past" and all(part.text for part in context if len(part.ids))
    assert num > 12 and session.stats()["rebuilds"] > 2
    assert sorted({part.region for part in session.context()}) == ["near", "past", "turns"]


def test_a_context_is_printed_with_its_text(model):
    session, _ = run(model, QUIET, steps_of(6.0))
    texts = [part.text for part in session.context()]
    assert texts[0] == "" and "does the red ball" in texts[1]
    assert texts[2] == "0[5 tokens]" and texts[3] == "[5 tokens]"  # 4 patches, a second of audio


def test_the_past_is_read_once(model):
    """Sizes over past and near are all the tokens that came, whenever one looks."""
    session, num = session_of(model, QUIET), 0
    for seconds, part in enumerate(steps_of(41.0)):
        session.push(part)
        if seconds % 2 == 0:
            continue
        num += 5  # 4 patches, a second of audio
        context = session.live.context
        video = context.now.prefix.past
        past = 0 if video is None else sum(float(t.size.sum()) for t in video.streams.values())
        near = sum(float(t.size.sum()) for row in context.now.steps for t in row.values())
        assert past + near == pytest.approx(num)
    assert video is not None and video.num_tokens == 20


def test_nothing_depends_on_what_comes_later(model):
    frames, sound = make_clip(24.0)
    other_frames, other_sound = make_clip(24.0, seed=5)
    at = 14
    mixed = [
        Frames(torch.cat([frames.pixels[:at], other_frames.pixels[at:]]), frames.time_s, 1.0),
        Audio(torch.cat([sound.samples[: at * 16000], other_sound.samples[at * 16000 :]]), 0.0),
    ]
    _, first = run(model, POLLED, [frames, sound])
    _, second = run(model, POLLED, mixed)

    scored = [[e for e in of(events, Scored) if e.time_s < at] for events in (first, second)]
    assert scored[0] == scored[1] and len(scored[0]) == at
    assert of(first, Scored)[at:] != of(second, Scored)[at:]
    early = [
        [e for e in events if isinstance(e, ReplyBegan | ReplyPart) and e.time_s <= at]
        for events in (first, second)
    ]
    assert early[0] == early[1] and early[0]


def test_early_audio_is_in_the_scores_at_once(model):
    """A sound changes the scores of its own second, though its block of 4 s is not full."""
    frames, sound = make_clip(3.0)
    loud = Audio(sound.samples.clone(), 0.0)
    loud.samples[16000:32000] = torch.sin(torch.arange(16000) * 0.3)
    scores = []
    for audio in (sound, loud):
        session, events = session_of(model, QUIET), []
        for part in (frames, audio):
            events += session.push(part)
        scores.append([event.scores for event in of(events, Scored)])
    assert scores[0][0] == scores[1][0] and scores[0][1] != scores[1][1] and len(scores[0]) == 3


def test_dropped_replies_leave_nothing_behind(model):
    sessions = [session_of(model, live) for live in (ALWAYS, QUIET)]
    for session in sessions:
        session.push_text(TEXT, reply="may")
    events = [[e for part in steps_of(9.0) for e in session.push(part)] for session in sessions]
    assert len(of(events[0], Reply)) > 0 and not of(events[1], Reply)
    assert [e.scores for e in of(events[0], Scored)] == [e.scores for e in of(events[1], Scored)]
    for a, b in zip(*(s.live.context.now.reader.cache.layers for s in sessions), strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


def test_what_is_said_between_steps_is_what_is_said_at_once(model):
    texts = {}
    for num in (1, 2, 3, 0):
        _, events = run(model, replace(ALWAYS, step_tokens=num), steps_of(16.0))
        replies = of(events, Reply)
        texts[num] = {r.time_s: r.answer.text for r in replies}
        assert num or all(r.done_s is None for r in replies)
        parts = [e for e in events if isinstance(e, ReplyPart | ReplyBegan)]
        assert isinstance(parts[0], ReplyBegan)
        spoken = "".join(e.text for e in of(events, ReplyPart))
        assert spoken.replace(" ", "") == "".join(r.answer.text for r in replies).replace(" ", "")
    for num in (1, 2, 3):
        assert len(texts[num]) > 1 and texts[num].items() <= texts[0].items()


def test_a_sweep_of_the_trigger_is_the_session(model):
    for trigger in (
        TriggerConfig("sum", 1.3, ("informative",)),
        TriggerConfig("rise", 0.001, ("relevance",), window=5, warmup=2, refractory_s=3.0),
    ):
        # heads score about the last request: each has a trigger of its own
        texts = ((0.0, TEXT, "may"), (12.0, "what is seen", "may"))
        _, events = run(model, replace(POLLED, trigger=trigger), steps_of(20.0), texts)
        for request, num in ((1, 12), (2, 8)):
            scored = [e for e in of(events, Scored) if e.request == request]
            curves = {name: [e.scores[name] for e in scored] for name in ("informative", "relevance")}
            want = fires(trigger, curves, [e.time_s for e in scored])
            assert [i for i, e in enumerate(scored) if e.fired] == want and len(scored) == num > len(want) > 1


@pytest.mark.parametrize("replies", ["drop", "keep"])
def test_a_snapshot_goes_on_bit_for_bit_in_mid_reply(model, replies):
    live = replace(ALWAYS, replies=replies, step_tokens=1)
    session = session_of(model, live)
    session.push_text(TEXT, reply="may")
    session.push_text("what is seen", 17.5)
    parts, speaking = list(steps_of(22.0)), 0
    for i, part in enumerate(parts):
        session.push(part)
        if i not in (3, 11, 22, 30):
            continue
        speaking += session.live.context.speech is not None
        data = session.snapshot()
        twin, other = Session.restore(model, data), Session.restore(model, data)
        assert twin.snapshot() == data
        events = [[e for p in parts[i + 1 : i + 13] for e in s.push(p)] for s in (twin, other)]
        assert events[0] == events[1] and of(events[0], Scored)
    assert speaking == 4


def test_a_restored_session_ends_as_the_first(model):
    live, parts, caught_up = replace(ALWAYS, replies="keep", step_tokens=1), list(steps_of(36.0)), 0
    for at in (7, 21, 33, 37, 38, 39, 40, 41, 42):
        session = session_of(model, live)
        session.push_text(TEXT, reply="may")
        for part in parts[:at]:
            session.push(part)
        caught_up += session.live.context.next is not None
        twin = Session.restore(model, session.snapshot())
        ends = [[e for p in parts[at:] for e in s.push(p)] + s.close() for s in (session, twin)]
        assert ends[0] == ends[1] and len(of(ends[0], Reply)) > 1
    assert caught_up


def test_no_forward_reads_more_than_a_slice(model, monkeypatch):
    """Near moves on bit by bit: all of it has more tokens than a slice."""
    read, sizes = LiveReader.read, []
    monkeypatch.setattr(LiveReader, "read", lambda self, parts: sizes.append(parts) or read(self, parts))
    session, _ = run(model, replace(QUIET, near_s=20, slice_tokens=40), steps_of(75.0))
    sizes = [sum(len(part.ids) for part in parts) for parts in sizes]
    assert 30 < max(sizes) <= 40 and session.stats()["rebuilds"] > 3
    assert session.stats()["max_cache_tokens"] > session.live.context.now.reader.count > 100


def test_two_sessions_dont_touch(model):
    _, want = run(model, POLLED, steps_of(12.0))
    first, second = session_of(model, POLLED), session_of(model, replace(POLLED, replies="keep"))
    events = first.push_text(TEXT, reply="may")
    second.push_text("what happens", reply="may")
    for part, other in zip(steps_of(12.0), steps_of(12.0, seed=4), strict=True):
        events += first.push(part)
        second.push(other)
    assert events + first.close() == want


def test_two_threads_share_a_model(model):
    _, want = run(model, POLLED, steps_of(10.0))
    results = [None, None]

    def work(i):
        results[i] = run(model, POLLED, steps_of(10.0))[1]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [want, want]


def test_without_a_past_nothing_older_than_near_counts(model):
    live = replace(QUIET, past=0)
    frames, sound = make_clip(30.0)
    changed = frames.pixels.clone()
    changed[:8] = 255 - changed[:8]
    tails = []
    for pixels in (frames.pixels, changed):
        _, events = run(model, live, [Frames(pixels, frames.time_s, 1.0), sound])
        tails.append([e.scores for e in of(events, Scored)])
    assert tails[0][:8] != tails[1][:8] and tails[0][20:] == tails[1][20:]


def test_the_memory_is_that_of_a_session_that_is_not_live(model):
    clip = make_clip(23.0)
    session, _ = run(model, QUIET, random_parts(*clip, 1))
    plain = Session(model, 40)
    for part in clip:
        plain.push(part)
    plain.close()
    for name, tokens in plain.memory().streams.items():
        torch.testing.assert_close(session.memory().streams[name].x, tokens.x, atol=1e-4, rtol=1e-4)
        assert torch.equal(session.memory().streams[name].size, tokens.size)
    assert session.memory().duration_s == 23.0


def test_a_memory_in_the_middle_has_what_waits_for_its_step(model):
    frames, sound = make_clip(9.0)
    session = session_of(model, QUIET)
    session.push(frames)
    session.push(sound.cut(0, 70_000))
    assert session.stats()["steps"] == 4
    assert float(session.memory(40).streams["video"].size.sum()) == 36


def test_bounded_for_ever(model):
    live = replace(ALWAYS, replies="keep", trigger=TriggerConfig("sum", 2.0))
    session, sizes, counts = session_of(model, live, media=["video"]), [], []
    session.push_text(TEXT, reply="may")
    generator = torch.Generator().manual_seed(0)
    for minute in range(8):
        pixels = torch.randint(0, 255, (60, 16, 16, 3), dtype=torch.uint8, generator=generator)
        for i in range(60):
            time_s = torch.tensor([60.0 * minute + i], dtype=torch.float64)
            session.push(Frames(pixels[i : i + 1], time_s, 1.0))
            stats = session.stats()
            assert stats["cache_tokens"] <= stats["max_cache_tokens"]
            assert stats["text_tokens"] <= live.text_tokens
            counts.append(stats["cache_bytes"])
            if i % 7 == 0:  # while near is caught up with, and not
                sizes.append(len(session.snapshot()))
    half = len(sizes) // 2
    assert max(counts[240:]) <= 1.05 * max(counts[60:240])
    assert max(sizes[half:]) <= 1.1 * max(sizes[half // 4 : half])
    assert stats["replies"] > 50 and stats["rebuilds"] > 40


def test_silence_of_a_source_moves_no_clock_but_its_own(model):
    """Frames go on where audio ends; after patience each step is read without it."""
    frames, sound = make_clip(12.0)
    session, events = session_of(model, QUIET, patience_s=2.0), []
    events += session.push(sound.cut(0, 4 * 16000))
    for i in range(12):
        events += session.push(frames.cut(i, i + 1))
    assert [e.time_s for e in of(events, Scored)] == [float(i) for i in range(9)]
    late = session.push(sound.cut(4 * 16000, 6 * 16000))
    assert [(e.what, e.time_s) for e in late] == [("audio", 4.0)]


def test_frames_at_a_higher_rate_are_thinned(model):
    frames, _ = make_clip(5.0)
    session, events = session_of(model, QUIET, media=["video"]), []
    for i in range(50):
        events += session.push_frame(frames.pixels[i // 10], i / 10)
    assert [e.time_s for e in of(events, Scored)] == [0.0, 1.0, 2.0, 3.0, 4.0] and not of(events, Dropped)
    assert of(session.push_frame(frames.pixels[0], 2.05), Dropped)[0].what == "video"
    events = session.push_frame(frames.pixels[0], 3600.0)  # an hour later
    assert [e.time_s for e in of(events, Scored)] == [3600.0]


def test_errors_say_what_is_wrong(model):
    with pytest.raises(ValueError, match=r"live.trigger.heads \('informative',\) need a model with heads"):
        session_of(make_model(), LiveConfig(past=20))
    session = session_of(model, POLLED)
    with pytest.raises(ValueError, match="session holds no token: nothing has come"):
        session.push_text("what is seen")
    for reply in ("may", "must"):
        session.push(make_clip(2.0)[0]), session.push(make_clip(2.0)[1])
        with pytest.raises(ValueError, match="must not be empty"):
            session.push_text(" ", reply=reply)
    with pytest.raises(
        ValueError, match=r"text has \d+ tokens, and the requests that stand 0: together at most"
    ):
        session.push_text("red " * 70, reply="may")
    with pytest.raises(
        ValueError, match=r"text has \d+ tokens as a question, and the language model's context"
    ):
        session.push_text("red " * 5000)
    with pytest.raises(ValueError, match="time_s must be a number of seconds"):
        session.push_text("what", float("nan"))
    with pytest.raises(
        ValueError, match=r"live needs up to [\d,]+ tokens, the language model's context has 4,096"
    ):
        session_of(model, replace(POLLED, near_s=1000.0))
    with pytest.raises(ValueError, match="budget must be at least"):
        session_of(model, replace(POLLED, past=2))
    with pytest.raises(ValueError, match="poll_yes and poll_no must begin with different tokens"):
        session_of(model, replace(POLLED, poll_yes="blue"))
    plain = Session(model, 40)
    for call in (lambda: plain.withdraw(1), plain.cancel, plain.context):
        with pytest.raises(ValueError, match="session must be live"):
            call()
    with pytest.raises(ValueError, match='reply "may" needs a live session'):
        plain.push_text("what", reply="may")
    with pytest.raises(ValueError, match="audio must come at 16000 samples a second, got 8000"):
        session.push_audio(torch.zeros(100), 8000)


def test_a_score_that_is_no_number_is_named_and_the_session_lives(model):
    session = session_of(model, ALWAYS)
    session.push_text(TEXT, reply="may")
    parts = list(steps_of(3.0))
    weight = model.llm.heads.get_submodule("relevance").weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
        events = session.push(parts[0]) + session.push(parts[1])
        weight.copy_(before)
    (dropped,) = of(events, Dropped)
    assert dropped.what == "score" and "score 'relevance' must be in [0, 1], got nan" in dropped.reason
    events = session.push(parts[2]) + session.push(parts[3])
    assert of(events, ReplyBegan)


def test_audio_that_comes_with_its_frame_is_not_late(model):
    """As a camera gives them: a frame at its second, and what is heard until the next in short stretches."""
    frames, sound = make_clip(6.0)
    session, events = session_of(model, QUIET, patience_s=0.3), []
    for i in range(6):
        events += session.push(frames.cut(i, i + 1))
        for part in range(10):
            start = 16000 * i + 1600 * part
            events += session.push(sound.cut(start, start + 1600))
    assert not of(events, Dropped) and [e.time_s for e in of(events, Scored)] == [
        0.0,
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
    ]
