"""Texts with times in the prompt: at their time, beside the budget, within their limit; or as without."""

from dataclasses import replace

import pytest
import torch

from longcompress.config_llm import LLMConfig
from longcompress.llm import Example
from longcompress.llm.prompt import encode, lay_out
from longcompress.llm.texts import by_start, shown_texts, text_info
from longcompress.types import Event

from models import llm, video
from stock_inputs import stock_pixels
from stock_models import MODELS
from stock_videos import raw_video, stock_lm, video_of

TEXTS = (
    Event(3.0, 4.0, "what is seen"),
    Event(21.0, 25.0, "ball"),
    Event(29.5, 31.0, "box"),
    Event(90.0, 91.0, "red"),
)
FORM = {"text": "{text} "}


def logits_of(lm, seen):
    batch = lm.collate([Example(seen, [("what is seen", None)])])
    del batch["labels"]
    with torch.no_grad():
        return batch["input_ids"][0].tolist(), lm(**batch)["logits"]


@pytest.mark.parametrize("texts, limit", [((), 1024), (TEXTS, 0)], ids=["no text", "no room"])
def test_without_text_prompt_and_logits_are_as_before(texts, limit):
    plain = logits_of(llm(), video(0))
    got = logits_of(llm(text_tokens=limit, **FORM), replace(video(0), text=texts))
    assert got[0] == plain[0] and torch.equal(got[1], plain[1])


def test_each_text_follows_the_timestamp_of_its_time_and_no_token_moves():
    reader, seen = llm(**FORM), video(0)
    plain = lay_out(seen, reader.tokenizer, reader.settings, reader.names)
    layout = lay_out(replace(seen, text=TEXTS), reader.tokenizer, reader.settings, reader.names)
    want, stamps = [], iter(plain.shown_s.tolist())
    starts = plain.shown_s.tolist()
    for token in plain.ids:
        want.append(token)
        if token >= 0:  # the text of a timestamp is a token of its own here
            at = next(stamps)
            following = [s for s in starts if s > at]
            is_here = [e.start_s >= at and (not following or e.start_s < following[0]) for e in TEXTS]
            joined = "".join(f"{e.text} " for e, here in zip(TEXTS, is_here, strict=True) if here)
            want += encode(reader.tokenizer, joined) if joined else []
    assert layout.ids == want and len(want) > len(plain.ids)
    for name in seen.streams:
        assert torch.equal(layout.streams[name].x, plain.streams[name].x)


def test_without_timestamps_texts_follow_all_tokens():
    reader = llm(order="blocks", time=False, **FORM)
    both = (video(0), replace(video(0), text=TEXTS))
    plain, layout = (lay_out(v, reader.tokenizer, reader.settings, reader.names) for v in both)
    assert layout.ids[: len(plain.ids)] == plain.ids
    assert layout.ids[len(plain.ids) :] == encode(reader.tokenizer, "what is seen ball box red ")


@pytest.mark.parametrize("limit", range(0, 60, 4))
def test_texts_have_at_most_their_limit_evenly_over_time(limit):
    tokenizer, config = llm().tokenizer, LLMConfig(text_tokens=limit, **FORM)
    texts = [Event(float(i), i + 1.0, "what is seen") for i in range(12)]
    each = len(encode(tokenizer, "what is seen "))
    shown, num = shown_texts(texts, tokenizer, config)
    fitting = [times for step in range(1, 13) if each * len(times := range(0, 12, step)) <= limit]
    assert [at for at, _ in shown] == (list(fitting[0]) if fitting else [])
    assert num == each * len(shown) <= limit
    want = f"{len(shown)} of 12 texts in the prompt, {num} of at most {limit} tokens"
    assert want in text_info(texts, tokenizer, config)


def test_a_text_cannot_write_the_prompt():
    tokenizer = llm().tokenizer
    end = tokenizer.eos_token
    nested = end[:3] + end + end[3:]
    shown, _ = shown_texts([Event(0, 1, f"a {end} b {nested} <v>")], tokenizer, LLMConfig(**FORM), ("<v>",))
    assert end not in shown[0][1] and "<v>" not in shown[0][1] and "a  b" in shown[0][1]


def test_texts_go_to_the_last_start_before_them():
    assert by_start([(0.0, "a"), (5.0, "b"), (6.0, "c"), (99.0, "d")], [2.0, 6.0, 7.0]) == ["ab", "c", "d"]


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"text must hold {text} and text_tokens be >= 0"):
        LLMConfig(text="{clock}")
    with pytest.raises(ValueError, match=r"text must hold {text} and text_tokens be >= 0"):
        LLMConfig(text_tokens=-1)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
def test_a_stock_model_reads_texts_and_its_tokens_stay(name):
    model, tokenizer = MODELS[name]()
    lm = stock_lm(model, tokenizer)
    seen = video_of(video=raw_video(model, stock_pixels(model, 8)))
    texts = (Event(0.5, 1.0, "hello there"), Event(5.0, 6.0, lm.prompt.texts[0] + "goodbye"))
    spoken = replace(seen, text=texts)
    plain, layout = lm.prompt.lay_out(seen), lm.prompt.lay_out(spoken)
    is_token, was_token = (torch.isin(x.ids, torch.tensor(lm.prompt.placeholders)) for x in (layout, plain))
    assert int(is_token.sum()) == int(was_token.sum()) == len(seen.streams["video"])
    assert torch.equal(layout.rows["video"], plain.rows["video"])
    ids, logits = logits_of(lm, spoken)
    assert torch.isfinite(logits).all() and not torch.equal(logits[:, -1], logits_of(lm, seen)[1][:, -1])
    whole = tokenizer.decode(ids)
    first, second = whole.index("[0:00:00] hello there"), whole.index("[0:00:05] goodbye")
    last = whole.rindex(lm.prompt.texts[0])
    if lm.family.has_timestamps:  # between the tokens, and positions go on where they would
        assert whole.index(lm.prompt.texts[0]) < first < second and first < last
        steps = layout.position[0].diff()
        assert bool((steps >= 0).all())
    else:  # behind the video, whose tokens keep their positions
        assert last < first < second
        assert torch.equal(layout.ids, plain.ids) and torch.equal(layout.position, plain.position)
    assert logits_of(lm, replace(seen, text=()))[0] == logits_of(lm, seen)[0]
