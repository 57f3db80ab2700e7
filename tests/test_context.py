"""Conversations about a running video, equal to those of MMDuet's own code (tests/golden/mmduet)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import longcompress as lc
from longcompress.checkpoints.architectures import mmduet
from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.context import Asked, Context, Replied, Scored, converse, frames_of
from longcompress.llm.duet import FRAME, Turn, script
from longcompress.media import read

from models import llm as other_llm
from videos import Video, write

GOLDEN = Path(__file__).parent / "golden" / "mmduet"
LIVE = json.loads((GOLDEN / "live.json").read_text())
SESSIONS = {session["name"]: session for session in LIVE["scenarios"]}
TOKENS = load_file(GOLDEN / "frames.safetensors")["frame_tokens"]
SINGLE, SUM = "stream_end_prob_threshold", "stream_end_score_sum_threshold"
DUET = LiveConfig(TriggerConfig("single", 0.5), max_reply_tokens=20)  # in our form


@pytest.fixture(scope="module")
def model():
    base = {"llava": str(GOLDEN / "base")}
    return lc.load("mmduet", base=base, weights=GOLDEN / "adapter", device="cpu")


def live_of(options):
    """Our config of their flags."""
    heads = options.get("score_heads", "informative_score").replace("_score", "").split(",")
    rule = "sum" if SUM in options else "single"
    return LiveConfig(
        trigger=TriggerConfig(rule, options.get(SUM, options.get(SINGLE)), tuple(heads)),
        replies="drop" if options.get("remove_assistant_turns") else "keep",
        turns="released",
        repetition_penalty=options.get("repetition_penalty", 1.0),
    )


def steps(num, fps):
    """(second, tokens) of the golden frames."""
    return [(i / fps, TOKENS[i]) for i in range(num)]


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_are_theirs(model, name):
    """Scores to 1e-5, what was read id by id, replies id by id, and the length of the cache."""
    session = SESSIONS[name]
    context = Context(model.llm, live_of(session["options"]))
    questions = [(turn["time"], turn["content"]) for turn in session["conversation"]]
    events = list(converse(context, steps(session["num_frames"], session["fps"]), questions))
    tape = session["tape"]
    want = {kind: [entry for entry in tape if entry["what"] == kind] for kind in ("frame", "query", "reply")}
    scored, replied, asked = ([e for e in events if isinstance(e, kind)] for kind in (Scored, Replied, Asked))
    assert [(e.time_s, e.text) for e in asked] == [(q["time"], q["text"]) for q in want["query"]]
    assert len(scored) == len(want["frame"])
    for event, frame in zip(scored, want["frame"], strict=True):
        for head, score in event.scores.items():
            assert abs(score - frame[f"{head}_score"]) < 1e-5
    assert [event.ids for event in replied] == [reply["reply_ids"] for reply in want["reply"]]
    answers = [t for t in session["model_response_list"] if t["role"] == "assistant"]
    assert [e.time_s for e in replied] == pytest.approx([t["time"] for t in answers])
    assert [e.text for e in replied] == [t["content"] for t in answers]
    assert context.reader.count == session["final_cache_len"] == len(context.ids)
    read = []
    for entry in tape:
        if entry["what"] == "query":
            read += entry["ids"]
        elif entry["what"] == "frame":
            read += entry["ids_before"] + [FRAME] * 49
        elif entry["is_kept"]:
            read += entry["ids_before"] + entry["reply_ids"][:-1]
    assert context.ids == read


def test_pieces_are_theirs(model):
    pieces = Context(model.llm, DUET).pieces
    assert pieces.system == LIVE["pieces"]["_start_ids"]
    assert pieces.stream == LIVE["pieces"]["_added_stream_prompt_ids"]
    assert [pieces.end, *pieces.answer] == LIVE["pieces"]["_added_stream_generation_ids"]


def turns_of(context, events, questions):
    """The turns of a conversation, written from its events."""
    turns, frames = [], 0
    for event in events:
        if isinstance(event, Scored):
            frames += 1
            continue
        if frames:
            turns.append(Turn("stream", num_frames=frames))
            frames = 0
        if isinstance(event, Asked):
            turns.append(Turn("user", event.text))
        elif context.config.replies == "keep":
            turns.append(Turn("assistant", event.text))
    return [*turns, Turn("stream", num_frames=frames)] if frames else turns


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
    [], [(0.0, "What?")], [(1.0, "What?")], [(0.0, "What?"), (0.0, "Who?"), (1.5, "And now?"), (1.9, "So?")],
], ids=["none", "first", "later", "several"])  # fmt: skip
@pytest.mark.parametrize("longest", [40, 4])
def test_our_turns_follow_one_another_as_in_training(model, replies, questions, longest):
    """Whatever comes when: what was read is the beginning of the training's own text of these turns."""
    config = replace(DUET, replies=replies, max_reply_tokens=longest)
    context = Context(model.llm, config)
    events = [  # texts of replies may be equal, their ids not
        replace(event, text=f"reply {n}") if isinstance(event, Replied) else event
        for n, event in enumerate(converse(context, steps(9, 2), questions))
    ]
    end = context.pieces.end
    ids = {e.text: [i for i in e.ids if i != end] for e in events if isinstance(e, Replied)}
    assert len(ids) > 1
    pieces = context.pieces._replace(tokenizer=Spoken(model.llm.tokenizer, ids))
    if replies == "drop":
        events = [e for e in events if not isinstance(e, Replied)]
    want = script(pieces, turns_of(context, events, questions), 49)
    assert context.ids == want.ids[: len(context.ids)] and len(want.ids) - len(context.ids) <= 2


@pytest.mark.parametrize("replies", ["keep", "drop"])
@pytest.mark.parametrize("turns", ["trained", "released"])
def test_the_cache_is_a_fresh_reading_of_the_context(model, replies, turns):
    """At every frame: the whole list read at once, without a cache, gives the same scores."""
    context = Context(model.llm, replace(DUET, replies=replies, turns=turns))
    frames, num = steps(8, 2), 0
    for event in converse(context, frames, [(1.0, "What is it?")]):
        if not isinstance(event, Scored):
            continue
        num += 1
        ids = torch.tensor(context.ids)
        x = model.llm.lm.get_input_embeddings()(ids.clamp_min(0)).detach()
        x[ids == FRAME] = TOKENS[:num].reshape(-1, 48)
        with torch.no_grad():
            out = model.llm.lm(inputs_embeds=x[None], use_cache=False, output_hidden_states=True)
        for head, score in model.llm.heads.scores(out.hidden_states[-1][0, -1:]).items():
            assert abs(float(score) - event.scores[head]) < 1e-5
    assert num == 8


def test_dropped_replies_leave_nothing_behind(model):
    """The bytes of the cache and all scores are those of a model that never spoke."""
    quiet = replace(DUET, trigger=TriggerConfig("single", 1.0))
    contexts = [Context(model.llm, config) for config in (DUET, quiet)]
    runs = [list(converse(c, steps(6, 2), [(0, "What?")])) for c in contexts]
    assert sum(isinstance(e, Replied) for e in runs[0]) > 2
    scores = [[e.scores for e in run if isinstance(e, Scored)] for run in runs]
    assert scores[0] == scores[1]
    for a, b in zip(*(c.reader.cache.layers for c in contexts), strict=True):
        assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


def test_two_conversations_dont_touch(model):
    alone = list(converse(Context(model.llm, DUET), steps(6, 2), [(0, "What?")]))
    both = [converse(Context(model.llm, DUET), steps(6, 2), [(0, text)]) for text in ("What?", "Who is it?")]
    mixed = [next(both[i % 2], None) for i in range(60)]
    assert [event for event in mixed[::2] if event] == alone


def test_a_video_file_is_read_frame_by_frame(model, tmp_path):
    path = write(tmp_path / "video.mkv", Video())
    with read(path, model.config.media) as parts:
        frames = list(frames_of(model, parts))
    assert [time_s for time_s, _ in frames] == pytest.approx([i / 2 for i in range(8)])
    assert {tuple(x.shape) for _, x in frames} == {(49, 48)}
    events = list(converse(Context(model.llm, DUET), frames, [(1.2, "What?")]))
    at = next(i for i, e in enumerate(events) if isinstance(e, Asked))
    assert next(e for e in events[at:] if isinstance(e, Scored)).time_s == 1.5
    limited = Context(model.llm, replace(DUET, max_frames=3))
    assert sum(isinstance(e, Scored) for e in converse(limited, frames)) == 3


def test_paper_mode_is_theirs(model):
    assert model.config.live.turns == "released" and model.config.live.max_frames == 400
    assert mmduet("ours").live == LiveConfig()


def test_errors_say_what_is_wrong(model):
    with pytest.raises(ValueError, match="llm must have heads"):
        Context(other_llm(), DUET)
    with pytest.raises(ValueError, match=r"tokenizer must have the tokens <\|im_start\|> and <\|im_end\|>"):
        Context(other_llm(heads=True), DUET)
    with pytest.raises(ValueError, match="text must not be empty"):
        Context(model.llm, DUET).ask(" ")
    with pytest.raises(ValueError, match="text must not have the marks"):
        Context(model.llm, DUET).ask("a<|im_end|>b")
    with pytest.raises(ValueError, match="questions must be in order of time"):
        next(converse(Context(model.llm, DUET), steps(1, 2), [(2, "a"), (1, "b")]))
    with pytest.raises(
        ValueError, match=r"frame 1 at 0\.5 s: score 'informative' must be in \[0, 1\], got nan"
    ):
        list(converse(Context(model.llm, DUET), [(0, TOKENS[0]), (0.5, TOKENS[1] * float("nan"))]))
    model.llm.lm.config.max_position_embeddings, limit = 300, model.llm.lm.config.max_position_embeddings
    try:
        with pytest.raises(
            ValueError, match=r"tokens, and \d+ more pass the language model's context of 300"
        ):
            list(converse(Context(model.llm, DUET), steps(9, 2)))
    finally:
        model.llm.lm.config.max_position_embeddings = limit
