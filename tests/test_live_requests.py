"""The laws of requests that stand in a live session, and of replies to them, with small random models."""

from dataclasses import replace
from itertools import pairwise

import pytest
from live_sessions import ALWAYS, POLLED, QUIET, TEXT, fresh_logits, of, run, session_of, steps_of

from longcompress.config_live import TriggerConfig
from longcompress.session import Dropped, Reply, SegmentClosed, Session
from longcompress.session_events import Asked, ReplyBegan, ReplyPart, Scored

from models import with_heads


@pytest.fixture(scope="module")
def model():
    return with_heads()


def test_requests_stand_until_they_are_withdrawn(model):
    session = session_of(model, replace(ALWAYS, step_tokens=1))
    (asked,) = session.push_text(TEXT, reply="may")
    parts = list(steps_of(8.0))
    events = [e for part in parts[:6] for e in session.push(part)]
    assert of(events, ReplyBegan)[0].request == asked.request == 1
    assert any("red ball" in part.text for part in session.context())
    (dropped,) = session.withdraw(1)
    assert (dropped.what, dropped.reason) == ("reply", "its request was withdrawn")
    assert not any("red ball" in part.text for part in session.context())
    events = [e for part in parts[6:] for e in session.push(part)]
    assert not of(events, ReplyBegan) and of(events, Scored) and not any(e.fired for e in of(events, Scored))
    with pytest.raises(ValueError, match=r"request must be one of \[\], which stand, got 1"):
        session.withdraw(1)


def test_each_request_has_its_own_poll_and_trigger(model):
    session = session_of(
        model, replace(POLLED, trigger=TriggerConfig("single", 0.5, ("poll",), release=True))
    )
    events = session.push_text(TEXT, reply="may") + session.push_text("what is seen", reply="may")
    for part in steps_of(5.0):
        events += session.push(part)
    scored = of(events, Scored)
    assert [e.request for e in scored] == [1, 2] * 5 and all(set(e.scores) == {"poll"} for e in scored)
    assert len({e.scores["poll"] for e in scored[:2]}) == 2


ALL = replace(ALWAYS, trigger=TriggerConfig("single", 0.01, ("relevance",), release=True), heads_of="all")


def test_heads_score_about_all_requests_and_each_is_asked(model):
    """Released, each has its one reply: the score never falls. What repeats itself has not spoken."""
    texts = ((0.0, TEXT, "may"), (5.0, "what is seen", "may"))
    _, events = run(model, replace(ALL, step_tokens=0), steps_of(12.0), texts)
    scored = of(events, Scored)
    assert [(e.time_s, e.request) for e in scored] == [(t, 1) for t in range(5)] + [
        (t, request) for t in range(5, 12) for request in (1, 2)
    ]
    assert all(a.scores == b.scores for a, b in zip(scored[5::2], scored[6::2], strict=True))
    for request, since_s in ((1, 0.0), (2, 5.0)):
        replies = [e for e in of(events, Reply) if e.request == request]
        assert replies[0].time_s == since_s + 1
        # after a repeat it is asked again at once
        for before, reply in pairwise(replies):
            assert before.is_repeat or reply.time_s > before.time_s + 1
        fired = [e.time_s + 1 for e in scored if e.request == request and e.fired]
        assert fired == [reply.time_s for reply in replies]


@pytest.mark.parametrize("step_tokens", [0, 1])
def test_a_reply_of_nothing_is_not_said_and_its_request_may_be_asked_again(model, step_tokens):
    live = replace(ALL, step_tokens=step_tokens, max_reply_tokens=3)
    _, events = run(model, live, steps_of(14.0))
    silence = of(events, Reply)[0].answer.text
    _, quiet = run(model, replace(live, nothing=silence), steps_of(14.0))
    texts = [e.answer.text for e in of(quiet, Reply)]
    assert silence not in texts and silence not in [e.text.strip() for e in of(quiet, ReplyPart)]
    assert len(of(quiet, ReplyBegan)) == len(texts)
    again_at = {0: 1, 1: 3}[step_tokens]  # at the step behind its end
    assert [i for i, e in enumerate(of(quiet, Scored)) if e.fired] == [0, again_at]
    # a word more than what it says: it is said, and whole
    _, again = run(model, replace(live, nothing=f"{silence} x"), steps_of(14.0))
    for kind in (Reply, Scored):
        assert of(again, kind) == of(events, kind)
    for some in (again, events):
        assert "".join(e.text for e in of(some, ReplyPart)).split() == silence.split()


@pytest.mark.parametrize("step_tokens", [0, 1])
def test_what_begins_likely_enough_as_nothing_does_is_not_said(model, step_tokens):
    """The probability is that of the printed context; a request that isn't answered is asked at each step."""
    rows, session = [], session_of(model, replace(ALL, step_tokens=step_tokens))
    session.push_text(TEXT, reply="may")
    for part in steps_of(7.0):
        if of(session.push(part), Scored):
            context = session.live.context
            question = context.parts.text("answer", [*context.now.closing, *context.parts.ask(TEXT, True)])
            rows.append(fresh_logits(model, [*session.context(), question])[1].softmax(0))
    words = {word: model.llm.tokenizer.encode(word)[0] for word in (TEXT + " red_box blue_box").split()}
    word = max(words, key=lambda w: float(rows[0][words[w]] - rows[3][words[w]]))  # its probability falls
    chances = [float(row[words[word]]) for row in rows]
    falls = [i for i, chance in enumerate(chances) if i and chance < min(chances[:i])]
    live = replace(ALL, step_tokens=step_tokens, nothing=word)
    limit = (chances[falls[0]] + min(chances[: falls[0]])) / 2
    _, events = run(model, replace(live, nothing_at=limit), steps_of(7.0))
    assert [e.fired for e in of(events, Scored)][: falls[0] + 1] == [True] * (falls[0] + 1)
    assert of(events, ReplyBegan)[0].time_s == falls[0] + 1
    _, silent = run(model, replace(live, nothing_at=min(chances) / 2), steps_of(7.0))
    assert all(e.fired for e in of(silent, Scored))
    assert not any(of(silent, kind) for kind in (Reply, ReplyBegan, ReplyPart))


def test_a_probability_of_nothing_is_one(model):
    for wrong in ({"nothing_at": 0.0}, {"nothing_at": 1.5}, {"nothing_at": 0.5, "nothing": ""}):
        with pytest.raises(ValueError, match="nothing_at must be a probability"):
            replace(ALL, **{"nothing": TEXT} | wrong)


def test_what_may_be_nothing_goes_on_from_a_snapshot(model):
    _, events = run(model, replace(ALL, step_tokens=1), steps_of(8.0))
    live = replace(ALL, step_tokens=1, nothing=of(events, Reply)[0].answer.text)
    session = session_of(model, live)
    session.push_text(TEXT, reply="may")
    parts, held = list(steps_of(16.0)), 0
    for i, part in enumerate(parts[:20]):
        session.push(part)
        speech = session.live.context.speech
        held += speech is not None and not speech.is_told
        twin = Session.restore(model, session.snapshot())
        other = Session.restore(model, session.snapshot())
        rest = [[e for p in parts[i + 1 : i + 9] for e in s.push(p)] for s in (twin, other)]
        assert rest[0] == rest[1]
        if speech is not None and not speech.is_told:
            assert Session.restore(model, session.snapshot()).cancel() == []
    assert held > 2


@pytest.mark.parametrize("live", [
    replace(ALL, step_tokens=1),
    replace(ALL, step_tokens=1, heads_of="last"),
    replace(POLLED, trigger=TriggerConfig("single", 0.01, ("poll",), release=True), step_tokens=1),
])  # fmt: skip
def test_a_question_before_a_reply_was_told_loses_no_reply(model, live):
    """It goes on behind the answer, and says what it would have said."""
    _, events = run(model, live, steps_of(14.0))
    want = of(events, Reply)[0]
    # a word more: what it says is held back to its end
    session = session_of(model, replace(live, nothing=f"{want.answer.text} x"))
    session.push_text(TEXT, reply="may")
    parts, events = steps_of(14.0), []
    for part in parts:
        events += session.push(part)
        if session.live.context.speech is not None:
            break
    assert not session.live.context.speech.is_told and not of(events, ReplyBegan)
    assert session.cancel() == [] and session.live.context.speech is not None
    assert of(session.push_text("what is seen"), Reply) and session.live.context.speech is None
    events += [e for part in parts for e in session.push(part)]
    assert not of(events, Dropped)
    first = of(events, Reply)[0]
    assert (first.answer, first.time_s, first.request) == (want.answer, want.time_s, 1)


@pytest.mark.parametrize("live", [
    ALL, replace(POLLED, trigger=TriggerConfig("single", 0.01, ("poll",), release=True))
])  # fmt: skip
def test_requests_that_wait_are_answered_from_where_they_were_asked(model, live):
    """However slow the one before is said: what each says of a time is what it says at once; and from
    snapshots, too."""
    texts = [(0.0, text, "may") for text in (TEXT, "what is seen", "the blue box")]
    replies = {}
    for num in (0, 1, 2):
        _, events = run(model, replace(live, step_tokens=num), steps_of(40.0), texts)
        replies[num] = {(e.request, e.time_s): e.answer.text for e in of(events, Reply)}
        assert [e.request for e in of(events, Reply)][:3] == [1, 2, 3]
    for num in (1, 2):
        firsts = {key: text for key, text in replies[num].items() if key[1] == 1.0}
        assert len(firsts) == 3 and replies[num].items() <= replies[0].items()
    session = session_of(model, replace(live, step_tokens=1))
    for _, text, _ in texts:
        session.push_text(text, reply="may")
    parts = list(steps_of(20.0))
    for part in parts[:4]:
        session.push(part)
    assert len(session.live.context.due) == 2
    data = session.snapshot()
    twin = Session.restore(model, data)
    other = Session.restore(model, data)
    assert twin.snapshot() == data
    rest = [[e for part in parts[4:] for e in s.push(part)] for s in (twin, other)]
    assert rest[0] == rest[1] and len(of(rest[0], Reply)) >= 3
    session.withdraw(3)
    assert [speech.request for speech in session.live.context.due] == [2]


def test_what_was_not_said_takes_back_its_own_firing(model, monkeypatch):
    """A request that fires again while an answer of nothing is being said is not released by that."""
    live = replace(ALL, step_tokens=1, trigger=replace(ALL.trigger, threshold=0.5))
    end, numbers = model.llm.tokenizer.eos_token_id, []
    says = [model.llm.tokenizer.encode(text) for text in ("red blue red blue red", "blue", "red")]

    def pick(logits, penalty, seen):
        numbers.append(0) if not seen else None
        return [*says[min(len(numbers), len(says)) - 1], end][len(seen)]

    monkeypatch.setattr("longcompress.speech.pick", pick)
    for nothing in ("", "red blue red blue red"):
        numbers.clear()
        session = session_of(model, replace(live, nothing=nothing))
        scores = iter([0.9, 0.1, *[0.9] * 12])
        session.live.context.scores.of = lambda read, reader, standing, before, now_s, scores=scores: [
            (number, {"relevance": next(scores)}) for number, _ in standing
        ]
        events = session.push_text(TEXT, reply="may")
        events += [e for part in steps_of(14.0) for e in session.push(part)]
        assert [e.time_s for e in of(events, Scored) if e.fired] == [0.0, 2.0]
        want = [(3.0, "blue")] if nothing else [(1.0, "red blue red blue red"), (3.0, "blue")]
        assert [(e.time_s, e.answer.text) for e in of(events, Reply)] == want


def test_nothing_is_compared_without_half_a_character(model, monkeypatch):
    """Tokens of bytes: where a step ends in the middle of a letter, the reply may still be nothing."""
    letters = "ничего".encode()
    tokenizer = model.llm.tokenizer
    monkeypatch.setattr(
        tokenizer, "decode", lambda ids, **_: letters[: len(ids)].decode(errors="replace"), raising=False
    )
    end = model.llm.tokenizer.eos_token_id
    ids = [*[tokenizer.encode("red")[0]] * len(letters), end]

    def pick(logits, penalty, seen):
        return ids[min(len(seen), len(ids) - 1)]

    monkeypatch.setattr("longcompress.speech.pick", pick)
    for num in (0, 1, 3):
        live = replace(ALL, step_tokens=num, nothing="ничего", max_reply_tokens=40)
        _, events = run(model, live, steps_of(16.0))
        assert any(e.fired for e in of(events, Scored))
        assert not any(of(events, kind) for kind in (Reply, ReplyBegan, ReplyPart))
    _, events = run(model, replace(ALL, step_tokens=1, max_reply_tokens=40), steps_of(16.0))
    assert of(events, Reply)[0].answer.text == "ничего"


@pytest.mark.parametrize("num", [0, 1, 3])
def test_what_names_a_second_of_long_ago_or_of_later_is_not_said(model, monkeypatch, num):
    """And its request may be asked again at once; a number alone is no second."""
    second = {"blue ball 1": 1, "3": None, "red 2": 2, "red box 2 to 5": 5}
    says, tokenizer, texts = iter([*second, *["red 2"] * 99]), model.llm.tokenizer, []

    def pick(logits, penalty, seen):
        texts.append(next(says)) if not seen else None
        return [*tokenizer.encode(texts[-1]), tokenizer.eos_token_id][len(seen)]

    monkeypatch.setattr("longcompress.speech.pick", pick)
    trigger = TriggerConfig("single", 0.01, ("relevance",), refractory_s=10.0)
    live = replace(ALL, trigger=trigger, step_tokens=num, late_s=2.0, max_reply_tokens=40)
    _, events = run(model, live, steps_of(40.0))
    asked, want = [e.time_s + 1 for e in of(events, Scored) if e.fired], []
    assert asked[:3] == [1.0, 11.0, 21.0] and asked[3] < 31.0
    for seen_s, text in zip(asked, texts, strict=True):
        if second[text] is None or 0 <= seen_s - second[text] <= 2.0:
            want.append((seen_s, text))
    assert [(e.time_s, e.answer.text) for e in of(events, Reply)] == want and len(want) == len(second) - 2
    assert len(of(events, ReplyBegan)) == len(of(events, ReplyPart)) == len(want)
    if num == 0:
        assert [(e.time_s, e.request) for e in of(events, ReplyBegan)] == [(seen_s, 1) for seen_s, _ in want]


def test_words_of_nothing_and_the_poll_are_checked():
    with pytest.raises(ValueError, match="nothing must have no white space around it, got ' nothing'"):
        replace(POLLED, nothing=" nothing")
    for poll in (
        "{request} {now:.1f}",
        "{request!z}",
        "{request:d}",
        "{request} {",
        "{now}",
        "{request} {x}",
    ):
        with pytest.raises(ValueError, match=r"poll must hold \{request\} and no other field but \{now\}"):
            replace(POLLED, poll=poll)
    assert replace(POLLED, poll="{request} {{now}} {now}").poll


def test_a_poll_is_the_models_own_answer(model):
    """The probability of the first word of yes against no, or of all but no."""
    session = session_of(model, QUIET)
    for part in steps_of(3.0):
        session.push(part)
    context = session.live.context
    question = context.parts.text("answer", context.parts.ask(TEXT, False))
    logits = fresh_logits(model, [*session.context(), question])[1]
    red, blue = (model.llm.tokenizer.encode(word)[0] for word in ("red", "blue"))
    for live, want in (
        (POLLED, logits[[red, blue]].softmax(0)[0]),
        (replace(POLLED, poll_yes=""), 1 - logits.softmax(0)[blue]),
    ):
        other = session_of(model, live)
        other.push_text(TEXT, 2.0, reply="may")
        events = [e for part in steps_of(3.0) for e in other.push(part)]
        first = session_of(model, live)  # the request stands in the context of `other`: poll without it
        for part in steps_of(3.0):
            first.push(part)
        context = first.live.context
        assert context.scores.poll(context.now.reader, TEXT, [], 3.0) == pytest.approx(float(want), abs=1e-5)
        assert of(events, Scored)[-1].scores["poll"] != pytest.approx(float(want), abs=1e-9)


def test_a_question_ends_what_is_being_said(model):
    session = session_of(model, replace(ALWAYS, step_tokens=1))
    session.push_text(TEXT, reply="may")
    parts = list(steps_of(6.0))
    for part in parts[:4]:
        session.push(part)
    assert session.live.context.speech is not None
    dropped, reply = session.push_text("what is seen")
    assert (dropped.what, dropped.reason) == ("reply", "a question came")
    quiet = session_of(model, QUIET)
    quiet.push_text(TEXT, reply="may")
    for part in parts[:4]:
        quiet.push(part)
    assert quiet.push_text("what is seen") == [reply] and reply.request is None and reply.time_s == 2.0
    assert session.cancel() == []
    session.push(parts[4]), session.push(parts[5])
    (cancelled,) = session.cancel()
    assert (cancelled.what, cancelled.reason) == ("reply", "cancelled") and session.cancel() == []


def test_the_same_answer_again_is_marked_and_never_kept(model):
    live = replace(POLLED, trigger=TriggerConfig("single", 0.01, ("poll",)), step_tokens=0, replies="keep")
    _, events = run(model, live, steps_of(14.0), [(0.0, "what is seen", "may")])
    replies = of(events, Reply)
    for before, reply in pairwise(replies):
        assert reply.is_repeat == (reply.answer.text == before.answer.text)
    assert any(reply.is_repeat for reply in replies)
    session = session_of(model, live)
    session.push_text("what is seen", reply="may")
    for part in steps_of(14.0):
        events = session.push(part)
        if of(events, Reply):
            assert session.context()[-1].streams != {} or not of(events, Reply)[-1].is_repeat


def test_texts_come_at_their_time(model):
    _, events = run(
        model,
        QUIET,
        steps_of(5.0),
        [(2.5, TEXT, "may"), (3.0, "what is seen", "must"), (60.0, "what", "must")],
    )
    kinds = [type(event) for event in events if not isinstance(event, SegmentClosed)]
    assert kinds[:6] == [Scored, Scored, Scored, Asked, Reply, Scored]
    (dropped,) = of(events, Dropped)
    assert (dropped.what, dropped.time_s, dropped.reason) == ("turn", 60.0, "the video ended before it")


def test_requests_have_a_bound_and_what_was_said_leaves_first(model):
    live = replace(POLLED, trigger=TriggerConfig("single", 0.01, ("poll",)), replies="keep", step_tokens=0)
    session = session_of(model, live)
    session.push_text(TEXT, reply="may")
    events = [e for part in steps_of(30.0) for e in session.push(part)]
    dropped = [e for e in of(events, Dropped) if e.what == "turn"]
    assert dropped and "more than live.text_tokens = 60 of text" in dropped[0].reason
    with pytest.raises(ValueError, match="withdraw a request"):
        for _ in range(10_000):
            session.push_text(TEXT, reply="may")
    assert session.stats()["cache_tokens"] <= session.stats()["max_cache_tokens"]
