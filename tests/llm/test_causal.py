"""Splice, loss and generation of a causal language model, against the plain language model."""

from dataclasses import replace

import pytest
import torch

from longcompress.llm import CompressedVideo, Example
from longcompress.llm.prompt import IGNORED, encode, lay_out

from models import llm, tokens, video

KINDS = ("llama", "qwen2")


def test_a_video_is_marks_and_tokens_in_time_order():
    reader, seen = llm(), video(0)
    layout = lay_out(seen, reader.tokenizer, reader.settings, reader.names)
    assert layout.ids[:2] == [-2, -2]  # global tokens first
    assert sum(i == -1 for i in layout.ids) == 20 and sum(i == -3 for i in layout.ids) == 6
    marks = [i for i in layout.ids if i >= 0]
    want = [encode(reader.tokenizer, f"{int(m) // 10}:")[0] for m in layout.timestamp_start_s.tolist()]
    assert marks == want == sorted(want, key=want.index)
    for name, stream in layout.streams.items():
        bounds = layout.offsets[name].tolist()
        for k, start_s in enumerate(layout.timestamp_start_s.tolist()):
            part = stream.take(slice(bounds[k], bounds[k + 1]))
            assert bool(((part.start_s >= start_s) & (part.start_s < start_s + 10)).all())
            assert bool((part.time_s.diff() >= 0).all())


def test_marks_take_at_most_an_eighth_of_the_budget():
    reader = llm()
    long = CompressedVideo({"video": tokens(300, 32, 3, duration_s=590.0)}, {}, 64)
    layout = lay_out(long, reader.tokenizer, reader.settings, reader.names)
    assert sum(i >= 0 for i in layout.ids) <= 64 // 8
    assert len(set(layout.timestamp_start_s.diff().tolist())) == 1


def test_one_text_stands_for_several_marks_and_each_token_keeps_its_own():
    reader = llm()
    streams = {"video": tokens(300, 32, 3, duration_s=590.0), "audio": tokens(40, 16, 4, duration_s=590.0)}
    few, many = (
        lay_out(CompressedVideo(streams, {}, budget), reader.tokenizer, reader.settings, reader.names)
        for budget in (64, 4000)
    )
    stretches = sorted({float(s) // 10 * 10 for t in streams.values() for s in t.start_s})
    for layout in (few, many):  # whatever stands in the prompt as text
        assert layout.timestamp_start_s.tolist() == stretches
        want = [encode(reader.tokenizer, f"{int(m) // 10}:") for m in stretches]
        assert layout.timestamp_ids.tolist() == want
        for name, stream in layout.streams.items():
            own = torch.repeat_interleave(layout.timestamp_start_s, layout.offsets[name].long().diff())
            assert torch.equal(own, (stream.start_s / 10).floor() * 10)
            assert torch.equal(stream.x, many.streams[name].x)
    assert many.shown_s.tolist() == stretches
    assert few.shown_s.tolist() == [80.0 * i for i in range(8)]
    want = []  # the text of a mark, then what begins before the next one, stream after stream
    for start_s in few.shown_s.tolist():
        want += encode(reader.tokenizer, f"{int(start_s) // 10}:")
        for place, name in ((-1, "video"), (-3, "audio")):
            start = streams[name].start_s
            want += [place] * int(((start >= start_s) & (start < start_s + 80)).sum())
    assert few.ids == want


def test_what_a_token_looks_like_does_not_depend_on_how_many_marks_are_said():
    reader = llm()
    streams = {"video": tokens(50, 32, 3, duration_s=400.0), "audio": tokens(20, 16, 4, duration_s=400.0)}
    seen = []
    for budget in (16, 4000):
        batch = reader.collate([Example(CompressedVideo(streams, {}, budget), [("what is seen", "nothing")])])
        x, ids = reader.embed(batch)[0], batch["input_ids"][0]
        seen.append([x[ids == -1], x[ids == -3]])
    for few, many in zip(*seen, strict=True):
        assert torch.equal(few, many)


def test_without_marks_none_is_said():
    reader = llm(order="blocks", time=False)
    layout = lay_out(video(0), reader.tokenizer, reader.settings, reader.names)
    assert not len(layout.shown_s) and not len(layout.timestamp_start_s)


def test_blocks_are_streams_one_after_the_other_without_marks():
    reader, seen = llm(order="blocks", time=False), video(0)
    layout = lay_out(seen, reader.tokenizer, reader.settings, reader.names)
    assert layout.ids == [-2] * 2 + [-1] * 20 + [-3] * 6 and not len(layout.timestamp_start_s)
    silent = CompressedVideo({"video": seen.streams["video"]}, {}, 400)
    assert lay_out(silent, reader.tokenizer, reader.settings, reader.names).ids == [-1] * 20
    turns = [("when does the red ball appear", "30 to 42")]
    batch = reader.collate([Example(seen, turns), Example(silent, turns)])
    x, ids = reader.embed(batch), batch["input_ids"]
    assert torch.equal(x[0][ids[0] == -3], reader.project["audio"](seen.streams["audio"].x))
    torch.testing.assert_close(x[1][ids[1] == -1], reader.project["video"](seen.streams["video"].x))
    question = ["when does the red ball appear"]
    assert reader.answer(reader.prefill(seen), question) == reader.answer_each([seen], question)
    with pytest.raises(ValueError, match='time must be False with order "blocks"'):
        llm(order="blocks")


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_projections_with_time_in_their_places(kind):
    reader, seen = llm(kind), video(2)
    batch = reader.collate([Example(seen, [("when does the red ball appear", "30 to 42")])])
    x = reader.embed(batch)[0]
    table = reader.lm.get_input_embeddings()
    ids = batch["input_ids"][0]
    assert torch.equal(x[ids >= 0], table(ids[ids >= 0]))
    layout = lay_out(seen, reader.tokenizer, reader.settings, reader.names)
    audio = layout.streams["audio"]
    start_s = (audio.start_s / 10).floor() * 10
    mark = torch.stack(
        [table(torch.tensor(encode(reader.tokenizer, f"{int(m) // 10}:"))).mean(0) for m in start_s]
    )
    number = [
        table(torch.tensor(encode(reader.tokenizer, str(int(s))))[-1:])[0] for s in audio.start_s - start_s
    ]
    last = [
        table(torch.tensor(encode(reader.tokenizer, str(int(s) - 1)))[-1:])[0] for s in audio.end_s - start_s
    ]
    time, at = reader.time, (audio.start_s - start_s).long()
    want = (
        reader.project["audio"](audio.x) + time.gain[0] * mark + time.gain[1] * torch.stack(number)
        + time.gain[2] * torch.stack(last) + time.table[0, at] + time.table[1, at]
        + audio.size.log2()[:, None] * time.size
    )  # fmt: skip
    torch.testing.assert_close(x[ids == -3], want)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_a_batch_is_the_token_weighted_mean_of_its_members(kind):
    reader = llm(kind)
    examples = [
        Example(
            video(1),
            [("when does the red ball appear", "30 to 42"), ("what is seen", "the red ball, blue box")],
        ),
        Example(video(4, 33, 2), [("what happens between 10 and 20", "nothing")]),
        Example(video(6, 5, 9), [("when is the blue box seen", "1 to 559")]),
    ]
    with torch.no_grad():
        whole = reader(**reader.collate(examples))["loss"]
        total, count = 0.0, 0
        for example in examples:
            for turn in example.turns:  # every question alone: no branch, no padding
                batch = reader.collate([Example(example.video, [turn])])
                learned = int((batch["labels"] != IGNORED).sum())
                total += float(reader(**batch)["loss"]) * learned
                count += learned
    assert abs(float(whole) - total / count) < 1e-5


def test_only_answers_are_learned():
    reader = llm()
    batch = reader.collate([Example(video(1), [("when does the red ball appear", "30 to 42")])])
    learned = batch["labels"][0][batch["labels"][0] != IGNORED].tolist()
    assert learned == [*encode(reader.tokenizer, "30 to 42"), reader.tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_change_nothing(kind):
    reader = llm(kind)
    item, other = (
        Example(video(1), [("what is seen", "nothing")]),
        Example(video(4, 60, 9), [("when", "12 to 40")]),
    )
    with torch.no_grad():
        alone = reader(**reader.collate([item]))["logits"][0]
        both = reader(**reader.collate([item, other]))["logits"][0, : len(alone)]
        left = reader.collate(
            [Example(item.video, [("what is seen", None)]), Example(other.video, [("when", None)])], left=True
        )
        padded = reader(**left)["logits"][0]
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)
    asked = reader.collate([Example(item.video, [("what is seen", None)])])
    with torch.no_grad():
        want = reader(**asked)["logits"][0]
    torch.testing.assert_close(padded[-len(want) :], want, rtol=1e-4, atol=1e-5)


def greedy(reader, seen, question, num):
    """The answer by whole forwards, no cache."""
    answer: list[int] = []
    batch = reader.collate([Example(seen, [(question, None)])])
    x = reader.embed(batch)
    table = reader.lm.get_input_embeddings()
    for _ in range(num):
        more = torch.cat([x, table(torch.tensor([answer], dtype=torch.int64))], 1) if answer else x
        token = int(reader.lm(inputs_embeds=more).logits[0, -1].argmax())
        if token == reader.tokenizer.eos_token_id:
            break
        answer.append(token)
    return reader.tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_from_the_cache_are_those_of_whole_forwards(kind):
    reader, seen = llm(kind), video(8)
    questions = [
        "when does the red ball appear",
        "what",
        "what happens between 10 and 20",
        "when is the blue box seen",
    ]
    with torch.no_grad():
        want = [greedy(reader, seen, q, 6) for q in questions]
    prefix = reader.prefill(seen)
    one_by_one = [reader.answer(prefix, [q])[0] for q in questions]
    assert one_by_one == want
    assert reader.answer(prefix, questions) == want  # together, and the prefix is as it was
    assert reader.answer_each([seen, video(9, 3, 3)], [questions[0], "what"])[0] == want[0]


def test_text_streams_as_it_is_made():
    reader = llm()
    pieces: list[str] = []
    text = reader.answer(reader.prefill(video(8)), ["what is seen"], stream=pieces.append)[0]
    assert "".join(pieces).strip() == text


def test_a_chat_template_goes_around_the_video():
    reader = llm()
    reader.tokenizer.chat_template = (
        "{% for m in messages %}the {{ m.content }} and {% endfor %}"
        "{% if add_generation_prompt %}answer{% endif %}"
    )
    batch = reader.collate([Example(video(1), [("what is seen", None)])])
    ids = batch["input_ids"][0].tolist()
    first, last = ids.index(-2), max(i for i, t in enumerate(ids) if t < 0)
    assert reader.tokenizer.decode(ids[:first]).strip() == "the"
    assert reader.tokenizer.decode(ids[last + 1 :]).endswith("what is seen answer and answer")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: h.collate([Example(video(1), [("  ", None)])]), "question must not be empty"),
        (lambda h: h.collate([]), "examples must hold at least one video"),
        (lambda h: h.collate([Example(video(1), [])]), "turns must hold at least one question"),
        (
            lambda h: h.collate([Example(video(1), [("what", None), ("when", None)])], left=True),
            "turns must be one",
        ),
        (lambda h: h.answer_each([video(1)], []), "questions must be as many as videos = 1"),
        (
            lambda h: h.collate([Example(CompressedVideo({"smell": tokens(3, 4, 0)}, {}, 9), [("a", None)])]),
            "video has stream 'smell'",
        ),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(llm())


def test_a_question_longer_than_the_context_is_refused_and_answers_end_with_it():
    reader, seen = llm(), video(1)
    prefix = reader.prefill(seen)
    with pytest.raises(ValueError, match=r"context of 4,096, got 5,\d+ with the question; shorten"):
        reader.answer(prefix, ["what " * 5000])
    with pytest.raises(ValueError, match="smaller budget"):
        reader.answer_each([seen], ["what " * 5000])
    num = 4096 - prefix.length - 10
    reader.settings = replace(reader.settings, max_new_tokens=100)
    pieces = []
    reader.answer(prefix, ["what " * num], stream=pieces.append, min_new_tokens=1)
    assert 0 < len(pieces) <= 10


def test_a_token_without_a_place_is_an_error():
    reader = llm()
    batch = reader.collate([Example(video(1), [("what", None)])])
    batch["input_ids"][batch["input_ids"] == -2] = 0
    with pytest.raises(ValueError, match="has 0 places for stream 'video', got 2 tokens"):
        reader.embed(batch)


def test_the_order_of_streams_is_the_models_whatever_the_order_of_a_dict():
    reader, seen = llm(), video(0)
    turned = replace(seen, streams=dict(reversed(seen.streams.items())))
    assert list(turned.streams) == ["audio", "video"] and reader.names == ("video", "audio")
    first, second = (reader.collate([Example(v, [("what", "nothing")])]) for v in (seen, turned))
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("pad", "want"), [(0, 0), (None, 1)])
def test_padding_is_the_pad_token_even_if_it_is_0(pad, want, monkeypatch):
    reader, seen = llm(), video(0)
    if pad is None:
        reader.tokenizer.pad_token = None
    assert (reader.tokenizer.pad_token_id, reader.tokenizer.eos_token_id) == (pad, 1)
    options = {}
    monkeypatch.setattr(reader.lm, "generate", lambda **o: options.update(o) or o["input_ids"])
    reader.answer(reader.prefill(seen), ["what", "when is the red ball seen"])
    assert options["pad_token_id"] == want and options["input_ids"][0, 0] == want
    batch = reader.collate([Example(seen, [("what", "nothing")]), Example(seen, [("what", "the red ball")])])
    assert set(batch["input_ids"][batch["attention_mask"] == 0].tolist()) == {want}


def test_the_head_gets_rows_side_by_side_in_bfloat16():
    reader, seen = llm().to(torch.bfloat16), []
    reader.lm.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        x = torch.zeros(2, 5, reader.lm.config.hidden_size, dtype=torch.bfloat16)
        reader.lm(inputs_embeds=x, logits_to_keep=1)  # a slice, whose rows lie five apart
    reader.answer(reader.prefill(video(0)), ["what", "when is the red ball seen"], max_new_tokens=2)
    assert len(seen) >= 3
    for x in seen:
        assert x.stride() == (x.shape[1] * x.shape[2], x.shape[2], 1)
