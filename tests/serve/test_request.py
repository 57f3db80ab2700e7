"""A chat completion's JSON: what is asked for, and a defined answer for all that can't be."""

import math

import pytest

from longcompress.serve.limits import ApiError, Limits
from longcompress.serve.request import Generation, parse_chat

from serving import QUESTION, body, video

LIMITS = Limits(max_budget=1000, max_signs=200, max_images=2, max_new_tokens=50)
CLIP = video("data:video/mp4;base64,AAAA")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


def parse(values):
    return parse_chat(values, "tiny", LIMITS)


def own(**fields):
    return body(CLIP, longcompress=fields)


def content(*parts):
    return {"model": "tiny", "messages": [{"role": "user", "content": list(parts)}]}


def messages(*pairs, first=CLIP):
    turns = [{"role": role, "content": text} for role, text in pairs]
    turns[0]["content"] = [{"type": "text", "text": turns[0]["content"]}, first]
    return {"model": "tiny", "messages": turns}


def test_a_request_says_what_is_asked_for():
    chat = parse(
        own(budget=96, rate_fps=2, start_s=1.5, end_s=9, evidence=True, progress=False)
        | {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "n": 1, "user": "me", "tools": []}
        | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert chat.turns == [(QUESTION, None)]
    assert [(part.kind, part.url) for part in chat.parts] == [("video", "data:video/mp4;base64,AAAA")]
    assert (chat.budget, chat.rate_fps, chat.start_s, chat.end_s) == (96, 2, 1.5, 9)
    assert (chat.evidence, chat.progress, chat.stream, chat.usage) == (True, False, True, True)
    assert chat.generation == Generation(7, 0.5, 0.9, 3)
    plain = parse(body(CLIP))
    assert (plain.budget, plain.start_s, plain.end_s, plain.stream) == (None, 0.0, math.inf, False)
    assert plain.generation.temperature == 0.0


def test_a_dialogue_keeps_its_turns_and_a_system_text_comes_first():
    chat = parse(
        messages(("system", "Be short."), ("user", "What?"), ("assistant", "a box"), ("user", "When?"))
    )
    assert chat.turns == [("Be short.\nWhat?", "a box"), ("When?", None)]


def test_media_that_go_together():
    kinds = [part.kind for part in parse(body(IMAGE, IMAGE, AUDIO)).parts]
    assert kinds == ["image", "image", "audio"]
    assert parse(body(AUDIO)).parts[0].url == "data:audio/wav;base64,AAAA"
    assert parse(body({"type": "file", "file": {"file_id": "file-1"}})).parts[0].url == "file-1"
    assert parse(body({"type": "file", "file": {"file_data": "AA=="}})).parts[0].url == "data:;base64,AA=="


BAD = {
    "a list": ([], "body", "must be a JSON object, got list"),
    "no model": ({"messages": []}, "model", "is missing"),
    "another model": (body(CLIP) | {"model": "gpt"}, "model", "'gpt' is not served, but 'tiny' is"),
    "a model that is a number": (body(CLIP) | {"model": 3}, "model", "must be a text, got 3"),
    "no messages": ({"model": "tiny"}, "messages", "is missing"),
    "empty messages": ({"model": "tiny", "messages": []}, "messages", "got none"),
    "messages that are a text": ({"model": "tiny", "messages": "hi"}, "messages", "must be a list"),
    "a message that is a text": ({"model": "tiny", "messages": ["hi"]}, "messages[0]", "must be an object"),
    "a strange role": (messages(("tool", "x")), "messages[0].role", "must be system, user or assistant"),
    "no content": (
        {"model": "tiny", "messages": [{"role": "user"}]},
        "messages[0].content",
        "is missing",
    ),
    "no question": (content(CLIP), "messages", "must have a question"),
    "blanks": (body(CLIP, text=" \n"), "messages", "must have a question"),
    "half a character": (body(CLIP, text="\ud83d"), "messages", "must be whole characters"),
    "too long": (body(CLIP, text="a" * 201), "messages", "must have at most 200 signs"),
    "text alone": (body(), "messages", "must have a video_url"),
    "two videos": (body(CLIP, CLIP), "messages[0].content[2].video_url", "is a second medium"),
    "video and audio": (body(CLIP, AUDIO), "messages[0].content[2].input_audio", "is a second medium"),
    "too many images": (body(*[IMAGE] * 3), "messages", "must have at most 2 images, got 3"),
    "the assistant last": (messages(("user", "a"), ("assistant", "b")), "messages", "must begin and end"),
    "the assistant's video": (
        messages(("assistant", "b"), ("user", "a")),
        "messages[0].content",
        "must be text",
    ),
    "a strange part": (content({"type": "sticker"}), "messages[0].content[0]", "must have a type of text"),
    "a part without a url": (
        content({"type": "video_url", "video_url": {}}),
        "messages[0].content[0].video_url.url",
        "is missing",
    ),
    "a part's unknown field": (
        body(CLIP | {"fps": 1}),
        "messages[0].content[1].fps",
        "is no known field",
    ),
    "a file twice": (
        body({"type": "file", "file": {"file_id": "a", "file_data": "b"}}),
        "messages[0].content[1].file",
        "and not both",
    ),
    "an unknown field": (body(CLIP) | {"fps": 1}, "fps", "is no known field"),
    "an unknown field of ours": (own(fps=1), "longcompress.fps", "is no known field"),
    "ours as a text": (body(CLIP) | {"longcompress": "a"}, "longcompress", "must be an object"),
    "tools": (body(CLIP) | {"tools": [{}]}, "tools", "is not supported"),
    "two answers": (body(CLIP) | {"n": 2}, "n", "is not supported as 2"),
    "stream as a text": (body(CLIP) | {"stream": "yes"}, "stream", "must be true or false, got 'yes'"),
    "budget 0": (own(budget=0), "longcompress.budget", "must be from 1 to 1000, got 0"),
    "budget too large": (own(budget=1001), "longcompress.budget", "must be from 1 to 1000, got 1001"),
    "budget as a text": (own(budget="9"), "longcompress.budget", "must be a whole number, got '9'"),
    "budget as true": (own(budget=True), "longcompress.budget", "must be a whole number, got True"),
    "budget 1.5": (own(budget=1.5), "longcompress.budget", "must be a whole number, got 1.5"),
    "a rate of 0": (own(rate_fps=0), "longcompress.rate_fps", "must be from 1e-06 to 8, got 0"),
    "a rate of 9": (own(rate_fps=9), "longcompress.rate_fps", "must be from 1e-06 to 8, got 9"),
    "an endless start": (own(start_s=math.inf), "longcompress.start_s", "got inf"),
    "no number": (own(start_s=math.nan), "longcompress.start_s", "got nan"),
    "the end first": (own(start_s=5, end_s=5), "longcompress.end_s", "must be after start_s = 5"),
    "a hot temperature": (body(CLIP) | {"temperature": 3}, "temperature", "must be from 0 to 2"),
    "a long answer": (body(CLIP) | {"max_tokens": 51}, "max_tokens", "must be from 1 to 50"),
    "a huge number": (body(CLIP) | {"seed": 1 << 70}, "seed", "must be from"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_by_name(name):
    values, param, message = BAD[name]
    with pytest.raises(ApiError) as caught:
        parse(values)
    error = caught.value.body()["error"]
    assert (caught.value.status, error["param"]) == (404 if name == "another model" else 400, param)
    assert message in error["message"] and error["message"].startswith(param)
    assert error["type"] == "invalid_request_error"
