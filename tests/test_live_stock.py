"""A live session of stock backbones: Qwen3-VL's real classes, small and random; the shipped tiny-vl."""

import pytest
import torch

import longcompress as lc
from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.session import Reply, Session
from longcompress.session_events import Scored

from stock_loaded import loading, random_clip

LIVE = LiveConfig(
    TriggerConfig("single", 0.01, ("poll",)), near_s=8, past=24, slice_tokens=30, text_tokens=200,
    max_reply_tokens=6, step_tokens=2, replies="keep",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loading(tmp_path_factory.mktemp("stock"))[1]


def fresh_logits(llm, parts):
    """Logits after a single forward of parts, by the model's own classes, without a cache."""
    starts, start = [], 0.0
    for part in parts:
        starts.append(start)
        start += part.length
    position = torch.cat([p.position + int(s) for p, s in zip(parts, starts, strict=True)], -1)
    x = torch.cat([part.streams["video_x"] for part in parts if part.streams])
    ids = torch.cat([part.ids for part in parts])[None]
    with torch.no_grad():
        out = llm(
            ids, torch.ones_like(ids), position[None], video_x=x, video_counts=torch.tensor([len(x)])
        )  # fmt: skip
    return out["logits"][0, -1]


def run(model, seconds, live=LIVE, check=True, atol=2e-5):
    session = Session(model, 60, media=["video"], live=live)
    events, context = session.push_text("Is it red?", reply="may"), session.live.context
    question = context.parts.text("answer", context.parts.ask("What now?", False))
    for whole in random_clip(model, seconds, audio=False):
        for i in range(len(whole)):
            events += session.push(whole.cut(i, i + 1))
            if check and context.now.chunks and i % 3 == 0:
                got = context.now.reader.fork().read([question]).logits
                want = fresh_logits(model.llm, [*session.context(), question])
                torch.testing.assert_close(got, want, atol=atol, rtol=1e-4)
            stats = session.stats()
            assert stats["cache_tokens"] <= stats["max_cache_tokens"]
    return session, events + session.close()


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "glm4v", "internvl"])
def test_the_cache_is_a_fresh_reading_of_the_context(model, name):
    # the delta rule of Qwen3.5 is worked in float32, step by step here and by chunks there
    session, events = run(model(name), 24.0, atol=5e-4 if name == "qwen3_5" else 2e-5)
    assert len([e for e in events if isinstance(e, Scored)]) >= 12
    assert [e for e in events if isinstance(e, Reply)] and session.stats()["rebuilds"] > 1


def test_tiny_vl_answers_from_the_live_cache():
    model = lc.load("tiny-vl", device="cpu")
    words = {"poll_yes": "red", "poll_no": "blue"}  # it knows no Yes
    live = LiveConfig(LIVE.trigger, near_s=10, past=100, max_reply_tokens=6, **words)
    session, _ = run(model, 30.0, live)
    assert session.stats()["rebuilds"] > 1
    (reply,) = session.push_text("What happens between 20 and 30 seconds?")
    assert reply.time_s == 30.0 and isinstance(reply.answer.text, str)
    assert [part.region for part in session.context()[:2]] == ["past", "turns"]


def test_a_family_without_timestamps_is_refused(model):
    with pytest.raises(ValueError, match="live needs a model that writes a timestamp before each frame"):
        Session(model("qwen2_vl"), 60, live=LIVE)
