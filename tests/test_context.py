"""Conversations about a running video, equal to those of MMDuet's own code (tests/golden/mmduet)."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import longcompress as lc
from longcompress.checkpoints.architectures import mmduet
from longcompress.config_live import HEADS, LiveConfig, TriggerConfig
from longcompress.llm.duet import FRAME, Turn, pieces_of, script
from longcompress.llm.live import embed
from longcompress.media import read
from longcompress.session import Dropped, Reply, Session
from longcompress.session_events import Asked, ReplyBegan, Scored
from longcompress.types import Frames

from models import llm as other_llm
from models import model as other_model
from videos import Video, write

GOLDEN = Path(__file__).parent / "golden" / "mmduet"
LIVE = json.loads((GOLDEN / "live.json").read_text())
SESSIONS = {session["name"]: session for session in LIVE["scenarios"]}
CASES = json.loads((GOLDEN / "triggers.json").read_text())
STORED = load_file(GOLDEN / "frames.safetensors")
PIXELS = STORED["low"].repeat_interleave(48, 2).repeat_interleave(48, 3).permute(0, 2, 3, 1)
SINGLE, SUM = "stream_end_prob_threshold", "stream_end_score_sum_threshold"


@pytest.fixture(scope="module")
def loaded():
    base = {"llava": str(GOLDEN / "base")}
    return lc.load("mmduet", base=base, weights=GOLDEN / "adapter", device="cpu")


@pytest.fixture
def model(loaded):
    """At 2 frames a second, segments of 10 s."""
    loaded.change({"media": {"rate_fps": 2.0}, "segments": {"length_s": 10.0, "min_length_s": 1.0}})
    return loaded


# in our form: turns as in training, all of the video raw
DUET = LiveConfig(
    TriggerConfig("single", 0.5), max_reply_tokens=20, near_s=0, max_frames=400, past=0, text_tokens=4096,
    step_tokens=0,
)  # fmt: skip


def live_of(model, options):
    """Our config of their flags."""
    heads = options.get("score_heads", "informative_score").replace("_score", "").split(",")
    rule = "sum" if SUM in options else "single"
    return replace(
        model.config.live,
        trigger=TriggerConfig(rule, options.get(SUM, options.get(SINGLE)), tuple(heads)),
        replies="drop" if options.get("remove_assistant_turns") else "keep",
        repetition_penalty=options.get("repetition_penalty", 1.0),
    )


def converse(session, num, fps, questions=(), pixels=PIXELS):
    """(everything that happens while frames come, ids of each reply)."""
    ids, say = [], session.live.context._say

    def spy(*args):
        speech = session.live.context.speech
        events = say(*args)
        ids.append(list(speech.tokens))
        return events

    session.live.context._say = spy
    events = [e for time_s, text in questions for e in session.push_text(text, time_s, reply="may")]
    for i in range(num):
        time_s = torch.tensor([i / fps], dtype=torch.float64)
        events += session.push(Frames(pixels[i : i + 1], time_s, 1 / fps))
    return events + session.close(), ids


def ids_of(session):
    return [i for part in session.context() for i in part.ids.tolist()]


def of(events, *kinds):
    return [event for event in events if isinstance(event, kinds)]


@pytest.mark.parametrize(("head", "of_heads"), [("informative", "all"), ("poll", "last")])
def test_of_several_requests_each_is_said_again_but_the_last(model, head, of_heads):
    """An answer is to the last user's turn; so is the order in which they stand no matter."""
    live = replace(DUET, trigger=TriggerConfig("single", 0.001, (head,)), heads_of=of_heads)
    texts, prompts = ["Tell me when it rains.", "Count the cars."], {}
    for some in (texts, texts[::-1], texts[:1]):
        session = Session(model, live=live, media=["video"])
        asked, num = session.live.context._question, len(some)

        def spy(text, *, stands, asked=asked, num=num):
            part = asked(text, stands=stands)
            prompts.setdefault((num, text), []).append(model.llm.tokenizer.decode(part.ids))
            return part

        session.live.context._question = spy
        events, _ = converse(session, 3, 2.0, [(0.0, text) for text in some])
        assert {e.request for e in of(events, Reply)} == {*range(1, 1 + num)}
        numbers = [turn.text in prompts[num, turn.text][-1] for turn in session.live.context.turns]
        assert numbers == [True, False][-num:]


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_are_theirs(model, name):
    """From pixels: scores to 1e-5, what was read id by id, replies id by id, and the length of the cache."""
    golden = SESSIONS[name]
    model.change({"media": {"rate_fps": golden["fps"]}})
    session = Session(model, live=live_of(model, golden["options"]))
    questions = [(turn["time"], turn["content"]) for turn in golden["conversation"]]
    events, ids = converse(session, golden["num_frames"], golden["fps"], questions)
    tape = golden["tape"]
    want = {kind: [entry for entry in tape if entry["what"] == kind] for kind in ("frame", "query", "reply")}
    scored, replied = of(events, Scored), of(events, Reply)
    assert [(e.time_s, e.text) for e in of(events, Asked)] == [(q["time"], q["text"]) for q in want["query"]]
    assert len(scored) == len(want["frame"]) == golden["num_frames"]
    for event, frame in zip(scored, want["frame"], strict=True):
        for head, score in event.scores.items():
            assert abs(score - frame[f"{head}_score"]) < 1e-5
    assert ids == [reply["reply_ids"] for reply in want["reply"]]
    answers = [t for t in golden["model_response_list"] if t["role"] == "assistant"]
    seen_s = [t["time"] + 1 / golden["fps"] for t in answers]  # at the end of the frame's step
    assert [e.time_s for e in replied] == pytest.approx(seen_s)
    assert [e.answer.text for e in replied] == [t["content"].strip() for t in answers]
    kinds = {Asked: "query", Scored: "frame", Reply: "reply"}
    assert [kinds[type(e)] for e in of(events, *kinds)] == [entry["what"] for entry in tape]
    assert session.stats()["cache_tokens"] == golden["final_cache_len"]
    fed = []
    for entry in tape:
        if entry["what"] == "query":
            fed += entry["ids"]
        elif entry["what"] == "frame":
            fed += entry["ids_before"] + [FRAME] * 49
        elif entry["is_kept"]:
            fed += entry["ids_before"] + entry["reply_ids"][:-1]
    assert ids_of(session) == fed


def test_pieces_are_theirs(model):
    pieces = pieces_of(model.llm.tokenizer)
    assert pieces.system == LIVE["pieces"]["_start_ids"]
    assert pieces.stream == LIVE["pieces"]["_added_stream_prompt_ids"]
    assert [pieces.end, *pieces.answer] == LIVE["pieces"]["_added_stream_generation_ids"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_questions_and_replies_come_when_theirs_do(model, case):
    """The same sessions, with scores from the case and replies of a token."""
    rate_fps, num = case["fps"], len(case["times"])
    model.change({"media": {"rate_fps": rate_fps}})
    heads = tuple(name.removesuffix("_score") for name in case["heads"])
    rule = "single" if case["sum"] is None else "sum"
    trigger = TriggerConfig(rule, case[rule], heads)
    session = Session(model, live=replace(model.config.live, trigger=trigger, max_reply_tokens=1))
    rows = iter(zip(case["informative"], case["relevance"], strict=True))
    session.live.context.scores.heads = SimpleNamespace(
        scores=lambda _: dict(zip(HEADS, next(rows), strict=True))
    )
    events, _ = converse(session, num, rate_fps, case["queries"], PIXELS[:1].expand(num, -1, -1, -1))
    frame, asked, replied = 0, [], []
    for event in events:
        frame += isinstance(event, Scored)
        if isinstance(event, Asked):
            asked.append([frame, event.text])
        if isinstance(event, ReplyBegan):
            replied.append(frame - 1)
    assert frame == num and asked == case["query_before_frame"]
    assert len(of(events, Dropped)) == case["queries_left"]
    assert replied == case["reply_frames"]


def turns_of(events, replies):
    """The turns of a conversation, written from its events."""
    turns, frames = [], 0
    for event in of(events, Scored, Asked, *[Reply] * (replies == "keep")):
        if isinstance(event, Scored):
            frames += 1
            continue
        is_asked = isinstance(event, Asked)
        turn = Turn("user", event.text) if is_asked else Turn("assistant", event.answer.text)
        turns, frames = [*turns, Turn("stream", num_frames=frames), turn], 0
    return [*turns, Turn("stream", num_frames=frames)]


class Spoken:
    """A tokenizer that reads texts of replies back as their ids: random bytes are no UTF-8."""

    def __init__(self, tokenizer, ids):
        self.tokenizer, self.ids = tokenizer, ids

    def __call__(self, text, **options):
        if text in self.ids:
            return {"input_ids": self.ids[text]}
        return self.tokenizer(text, **options)


@pytest.mark.parametrize("replies", ["keep", "drop"])
@pytest.mark.parametrize("questions", [
    [(0.0, "What?")], [(1.0, "What?")], [(0.0, "What?"), (0.0, "Who?"), (1.5, "And now?"), (1.9, "So?")],
], ids=["first", "later", "several"])  # fmt: skip
@pytest.mark.parametrize("longest", [40, 4])
def test_our_turns_follow_one_another_as_in_training(model, replies, questions, longest):
    """Whatever comes when: what was read is the beginning of the training's own text of these turns."""
    session = Session(model, live=replace(DUET, replies=replies, max_reply_tokens=longest))
    events, spoken = converse(session, 9, 2, questions)
    pieces, n = pieces_of(model.llm.tokenizer), 0
    for i, event in enumerate(events):  # texts of replies may be equal, their ids not
        if isinstance(event, Reply):
            answer = replace(event.answer, text=f"reply {n}")
            events[i], n = replace(event, answer=answer), n + 1
    assert not any(event.is_repeat for event in of(events, Reply))
    assert n == len(spoken) > 1
    ids = {f"reply {i}": [i for i in row if i != pieces.end] for i, row in enumerate(spoken)}
    pieces = pieces._replace(tokenizer=Spoken(model.llm.tokenizer, ids))
    want = script(pieces, turns_of(events, replies), 49).ids
    got = ids_of(session)
    assert got == want[: len(got)] and len(want) - len(got) <= 2


def test_an_answer_closes_the_turn_of_frames(model):
    """What is read before its first token is the training's text up to there, in mid-stream and behind a
    request, with a past and without."""
    model.change({"segments": {"length_s": 1.0}})
    for live in (DUET, replace(DUET, near_s=2, past=98)):
        session = Session(model, live=live)
        converse(session, 9, 2, [(0.0, "What?")])
        pieces, context = pieces_of(model.llm.tokenizer), session.live.context
        answer = context._question("What?", stands=True).ids.tolist()
        question = context._question("Who?", stands=False).ids.tolist()
        assert answer == [pieces.end, *pieces.answer]
        assert question == [pieces.end, *pieces.user("Who?"), *pieces.answer]
        session._closed = False
        session.push_text("And?", reply="may")
        assert context._question("And?", stands=True).ids.tolist() == pieces.answer
        text = "".join(part.text for part in session.context())
        marks = re.findall(r"<\|im_(start|end)\|>(\w*)", text)
        past = [] if live is DUET else ["stream"]
        assert marks[::2] == [("start", role) for role in ["system", *past, "user", "stream", "user"]]
        assert {mark for mark, _ in marks[1::2]} == {"end"} and len(marks) % 2 == 0


@pytest.mark.parametrize("replies", ["keep", "drop"])
@pytest.mark.parametrize("turns", ["trained", "released"])
def test_the_cache_is_a_fresh_reading_of_the_context(model, replies, turns):
    """At every frame: the whole list read at once, without a cache, gives the same scores."""
    session = Session(model, live=replace(DUET, replies=replies, turns=turns))
    session.push_text("What is it?", 1.0, reply="may")
    num = 0
    for i in range(8):
        time_s = torch.tensor([i / 2], dtype=torch.float64)
        (scored,) = of(session.push(Frames(PIXELS[i : i + 1], time_s, 0.5)), Scored)
        parts = session.context()
        if not parts[-1].streams:  # a kept reply is behind the frame
            parts = parts[:-1]
        with torch.no_grad():
            x = torch.cat([embed(model.llm, part) for part in parts])
            out = model.llm.lm(inputs_embeds=x[None], use_cache=False, output_hidden_states=True)
            scores = model.llm.heads.scores(out.hidden_states[-1][0, -1:])
        for head, score in scores.items():
            assert abs(float(score) - scored.scores[head]) < 1e-5
            num += 1
    assert num == 16


def test_dropped_replies_leave_nothing_behind(model):
    """The bytes of the cache and all scores are those of a model that never spoke."""
    sessions = [Session(model, live=replace(DUET, trigger=TriggerConfig("single", x))) for x in (0.5, 1.0)]
    runs = [converse(session, 6, 2, [(0, "What?")])[0] for session in sessions]
    assert len(of(runs[0], Reply)) > 2 and not of(runs[1], Reply)
    scores = [[e.scores for e in of(run, Scored)] for run in runs]
    assert scores[0] == scores[1]
    for a, b in zip(*(s.live.context.now.reader.cache.layers for s in sessions), strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


@pytest.mark.parametrize("turns", ["trained", "released"])
@pytest.mark.parametrize("replies", ["keep", "drop"])
def test_a_snapshot_goes_on_bit_for_bit(model, turns, replies):
    live = replace(DUET, turns=turns, replies=replies)
    session = Session(model, live=live)
    for time_s, text in [(0.0, "What?"), (2.5, "Who?")]:
        session.push_text(text, time_s, reply="may")
    parts = [Frames(PIXELS[i : i + 1], torch.tensor([i / 2], dtype=torch.float64), 0.5) for i in range(8)]
    for part in parts[:2]:
        session.push(part)
    twin = Session.restore(model, session.snapshot())
    ends = [[e for part in parts[2:] for e in s.push(part)] + s.close() for s in (session, twin)]
    assert ends[0] == ends[1] and len(of(ends[0], Reply)) > 1 and of(ends[0], Asked)
    assert ids_of(session) == ids_of(twin)


def test_a_video_file_is_read_frame_by_frame(model, tmp_path):
    path = write(tmp_path / "video.mkv", Video())
    session = Session(model, live=model.config.live)
    session.push_text("What?", 1.2, reply="may")
    with read(path, model.config.media) as parts:
        events = list(session.run(parts))
    assert [e.time_s for e in of(events, Scored)] == pytest.approx([i / 2 for i in range(8)])
    at = next(i for i, e in enumerate(events) if isinstance(e, Asked))
    assert of(events[at:], Scored)[0].time_s == 1.5


def test_a_conversation_ends_after_so_many_frames(model):
    session = Session(model, live=replace(DUET, max_frames=3))
    events, _ = converse(session, 5, 2)
    assert len(of(events, Scored)) == 3
    dropped = of(events, Dropped)
    assert [(e.what, e.time_s) for e in dropped] == [("step", 1.5), ("step", 2.0)]
    assert "ended after live.max_frames = 3 steps" in dropped[0].reason
    assert session.memory().duration_s == 2.5  # the memory goes on


def test_paper_mode_is_theirs(model):
    live = model.config.live
    assert (live.turns, live.max_frames, live.near_s) == ("released", 400, 0)
    assert mmduet("ours").live == LiveConfig()


def test_errors_say_what_is_wrong(model):
    with pytest.raises(ValueError, match=r'turns "released" needs heads, and a tokenizer .* take turns'):
        Session(other_model(llm=other_llm(heads=True).settings), 40, live=replace(DUET, turns="released"))
    with pytest.raises(ValueError, match=r"tokenizer must have the tokens <\|im_start\|> and <\|im_end\|>"):
        pieces_of(other_llm().tokenizer)
    with pytest.raises(ValueError, match="text must not have the marks"):
        Session(model, live=DUET).push_text("a<|im_end|>b", reply="may")
    with pytest.raises(ValueError, match="near_s 0 keeps every step: it needs max_frames > 0"):
        LiveConfig(near_s=0)
    with pytest.raises(
        ValueError, match=r'turns "released" needs near_s 0, the scores of heads, .*, got near_s 20'
    ):
        LiveConfig(turns="released")
    with pytest.raises(ValueError, match=r"live needs up to [\d,]+ tokens, .* \(or live.max_frames\)"):
        Session(model, live=replace(DUET, max_frames=4000))
