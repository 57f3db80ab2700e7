"""Stock video LLMs read their own tokens as they do by themselves: the logits are theirs to the last bit."""

import copy

import pytest
import torch

import longcompress as lc
from longcompress.llm import CompressedVideo, Example
from longcompress.llm.packing import has_state

from stock_inputs import stock_inputs, stock_logits, stock_mel, stock_pixels
from stock_models import ALONE, MISSING, MODELS, SEALED, names_of
from stock_videos import raw_audio, raw_video, stock_lm, video_of

QUESTION = "What happens?"
INSIDE = {"text_after": "grid"}  # where transformers 5 puts the text behind a video of Qwen2.5-VL


@pytest.fixture(scope="module")
def models():
    cached_models = {}

    def model_of(name):
        if name not in cached_models:
            cached_models.clear()
            cached_models[name] = MODELS[name]()
        return cached_models[name]

    return model_of


def logits_of(lm, video, question=QUESTION):
    batch = lm.collate([Example(video, [(question, None)])])
    del batch["labels"]
    with torch.no_grad():
        return lm(**batch)["logits"][0], batch["input_ids"][0]


def test_every_family_has_its_law():
    models = [MODELS[name]()[0] for name in MODELS.keys() - MISSING]
    classes = {model.config.model_type: type(model).__name__ for model in models}
    assert classes == {f.model_type: f.model_class for f in lc.families() if f.model_type not in MISSING}
    assert {f.model_type for f in lc.families() if f.model_class is None} == MISSING


@pytest.mark.parametrize("num_frames", [8, 7])
@pytest.mark.parametrize("name", names_of(MODELS, SEALED))
def test_without_merging_the_logits_are_the_stock_models_own(name, num_frames, models):
    model, tokenizer = models(name)
    pixels = stock_pixels(model, num_frames)
    times = (pixels, torch.arange(num_frames, dtype=torch.float64), 1.0, QUESTION)
    lm = stock_lm(model, tokenizer, **(INSIDE if name == "qwen2_5_vl" else {}))
    logits, ids = logits_of(lm, video_of(video=raw_video(model, pixels)))
    assert torch.equal(ids, stock_inputs(name, model, tokenizer, *times)["input_ids"][0])
    assert torch.equal(logits, stock_logits(name, model, tokenizer, *times))


@pytest.mark.parametrize(
    "seconds, num_frames, frame_s", [(8.0, 8, 1.0), (4.0, 8, 0.5), (7.3, 16, 0.5), (9.0, 4, 1.0)]
)
@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
def test_with_audio_the_logits_are_the_stock_models_own(name, seconds, num_frames, frame_s, models):
    model, tokenizer = models(name)
    pixels, audio = stock_pixels(model, num_frames), stock_mel(seconds)
    times = (pixels, torch.arange(num_frames, dtype=torch.float64) * frame_s, frame_s, QUESTION)
    video = video_of(video=raw_video(model, pixels, frame_s), audio=raw_audio(model, *audio))
    logits, ids = logits_of(stock_lm(model, tokenizer, frame_s), video)
    assert torch.equal(ids, stock_inputs(name, model, tokenizer, *times, audio)["input_ids"][0])
    assert torch.equal(logits, stock_logits(name, model, tokenizer, *times, audio))


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_text_behind_a_video_with_a_clock_lies_after_its_time(name, models):
    model, tokenizer = models(name)
    video = video_of(video=raw_video(model, stock_pixels(model, 60)))
    position = {
        after: stock_lm(model, tokenizer, text_after=after).prompt.lay_out(video)
        for after in ("video", "grid")
    }
    last = int(position["video"].position[0].max())
    assert position["video"].next_position == last + 1  # after the last second
    assert position["grid"].next_position < last  # transformers 5: inside the video's own time


@pytest.mark.parametrize("name", names_of(MODELS))
def test_a_question_behind_the_cached_video_is_the_whole_prompt(name, models):
    model, tokenizer = models(name)
    lm = stock_lm(model, tokenizer)
    video = video_of(video=raw_video(model, stock_pixels(model, 8)))
    prefix = lm.prefill(video)
    for question in (QUESTION, "When does she open the window, and who is there?"):
        logits, ids = logits_of(lm, video, question)
        tail = torch.tensor(lm.prompt.tail(prefix.layout, question))
        assert torch.equal(ids[prefix.length :], tail)
        position = lm.prompt.behind(prefix.layout, torch.arange(len(tail)))[None]
        options = {"past_key_values": copy.deepcopy(prefix.cache), "use_cache": True} | lm._position(position)
        with torch.no_grad():
            cached = lm.lm(input_ids=tail[None], **options).logits[0]
        scale = float(logits.abs().max())
        torch.testing.assert_close(cached, logits[prefix.length :], rtol=0, atol=1e-4 * max(1, scale))


@pytest.mark.parametrize("name", names_of(MODELS))
def test_two_questions_at_once_are_answered_as_alone(name, models):
    model, tokenizer = models(name)
    lm = stock_lm(model, tokenizer)
    prefix = lm.prefill(video_of(video=raw_video(model, stock_pixels(model, 8))))
    questions = [QUESTION, "When does she open the window, and who is there?"]
    alone = [lm.answer(prefix, [question], max_new_tokens=8)[0] for question in questions]
    assert lm.answer(prefix, questions, max_new_tokens=8) == alone


@pytest.mark.parametrize("name", names_of(MODELS, ALONE))
def test_examples_that_share_a_row_are_as_alone(name, models):
    model, tokenizer = models(name)
    lm = stock_lm(model, tokenizer)
    videos = [video_of(video=raw_video(model, stock_pixels(model, n, seed=n))) for n in (4, 3, 6)]
    examples = [Example(v, [(QUESTION, f"In {i}.")]) for i, v in enumerate(videos)]
    if has_state(model) or lm.family.token_types:
        with pytest.raises(
            ValueError, match="lets a sample see the one before it in its row; set row_tokens to 0"
        ):
            lm.collate(examples, row_tokens=10_000)
        return
    packed = lm.collate(examples, row_tokens=10_000)
    assert len(packed["input_ids"]) == 1
    with torch.no_grad():
        together = lm(**packed)
        alone = [lm(**lm.collate([example])) for example in examples]
    scale = max(float(output["logits"].abs().max()) for output in alone)
    for i, output in enumerate(alone):
        logits = together["logits"][0, packed["sample"][0] == i]
        torch.testing.assert_close(logits, output["logits"][0], rtol=0, atol=1e-4 * max(1, scale))
    two_rows = lm.collate(examples, row_tokens=int((packed["sample"] != 0).sum()))
    with torch.no_grad():
        loss = lm(**two_rows)["loss"]
    torch.testing.assert_close(loss, together["loss"], rtol=0, atol=1e-4 * max(1, scale))


@pytest.mark.parametrize(
    "name", ["qwen3_vl", "qwen3_5", "qwen2_5_omni", "qwen3_omni", "llava_next_video", "gemma4"]
)
def test_without_a_video_the_model_is_asked_alone(name, models):
    model, tokenizer = models(name)
    lm = stock_lm(model, tokenizer)
    nothing = CompressedVideo({}, {}, 8)
    logits, ids = logits_of(lm, nothing)
    message = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    has_start = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
    want = tokenizer(text, add_special_tokens=not has_start, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, want[0])
    with torch.no_grad():
        torch.testing.assert_close(logits, model(input_ids=want).logits[0], rtol=0, atol=1e-4)
    answers = lm.answer(lm.prefill(nothing), [QUESTION, "Why?"], max_new_tokens=4)
    assert lm.answer_each([nothing] * 2, [QUESTION, "Why?"], max_new_tokens=4) == answers
