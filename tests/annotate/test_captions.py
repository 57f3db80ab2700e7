"""Captions: what is sent, what comes back, and every fault of an endpoint by its name."""

import base64
import io
import json
import socket
import time
import wave

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.annotate import captions
from longcompress.annotate.captions import (
    CaptionError,
    Clip,
    Endpoint,
    EndpointDown,
    caption_of,
    function_captioner,
    model_captioner,
)
from longcompress.config import MediaConfig
from longcompress.media import read
from longcompress.media.thumbnails import pixels_of

import videos
from endpoints import chat, serving


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Frames that change at 4 s, and onsets of audio."""
    return str(videos.write(tmp_path_factory.mktemp("v") / "v.mp4", videos.Video()))


@pytest.fixture
def clip(video):
    return Clip(video, 0.5, 1.5, before="A dog sleeps.", speech="Hello.")


def endpoint(url, **more):
    return Endpoint(url, "m", "k", frames=2, size_px=64, wait_s=0.0, **more)


def test_an_endpoint_gets_frames_audio_and_the_words_around(clip):
    with serving(lambda number, body: chat(" A dog\n runs. ")) as (url, requests):
        assert caption_of(endpoint(url, audio=True, prompt="What?"), clip) == "A dog runs."
    (request,) = requests
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer k", "m")
    first, second, audio, text = request["messages"][0]["content"]
    for part in (first, second):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/jpeg;base64" and max(pixels_of(base64.b64decode(data)).shape) == 64
    with wave.open(io.BytesIO(base64.b64decode(audio["input_audio"]["data"]))) as file:
        assert file.getframerate() == 16000 and abs(file.getnframes() - 16000) < 200
    assert text["text"] == "Before it: A dog sleeps.\nSaid in it: Hello.\nWhat?"


def test_frames_are_of_the_middles_of_equal_parts(video):
    jpegs = Clip(video, 0.0, 2.0).jpegs(2, 448)
    shown = [videos.number_of(torch.from_numpy(pixels_of(jpeg))) for jpeg in jpegs]
    with read(video, MediaConfig(audio=False), times=(0.5, 1.5)) as parts:
        assert shown == [videos.number_of(pixels) for part in parts for pixels in part.pixels]


def test_a_file_without_a_track_has_none_of_it(tmp_path):
    mute = Clip(str(videos.write(tmp_path / "m.mp4", videos.Video(audio_codec=None))), 0.0, 1.0)
    assert mute.wav() == b"" and len(mute.jpegs(2, 64)) == 2


def test_parts_of_a_content_are_one_text(clip):
    content = [{"type": "text", "text": "A dog "}, {"type": "text", "text": "runs."}]
    with serving(lambda number, body: chat(content)) as (url, _):
        assert endpoint(url)(clip) == "A dog runs."


NONSENSE = [
    (200, b"<html>it works</html>"), (200, b""), (200, b"{}"), (200, b"[]"), (200, b'{"choices": []}'),
    (200, b'{"choices": [{"message": {"content": null}}]}'), (200, b"\xff\xfe"), (200, b"[" * 100_000),
    (200, b'{"error": "no such model"}'), (200, b'{"choices": [{"message": {"content": "A do'),
]  # fmt: skip


@pytest.mark.parametrize("reply", NONSENSE, ids=range(len(NONSENSE)))
def test_an_answer_that_is_none_is_nonsense_and_is_not_asked_for_again(clip, reply):
    with serving(lambda number, body: reply) as (url, requests):
        with pytest.raises(CaptionError, match="no answer of a chat") as error:
            endpoint(url)(clip)
        assert error.value.kind == "nonsense" and len(requests) == 1


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "empty"), (" .\n", "empty"), ("a\ud83d", "nonsense"), ("so " * 4000, "nonsense"), (7, "nonsense")],
)
def test_a_text_that_is_no_caption_is_named(clip, text, kind):
    with pytest.raises(CaptionError, match="a caption must") as error:
        caption_of(lambda clip: text, clip)
    assert error.value.kind == kind


def test_a_refusal_is_told_with_its_status(clip):
    with serving(lambda number, body: (401, b"who are you")) as (url, requests):
        with pytest.raises(CaptionError, match=r"HTTP 401: b'who are you'") as error:
            endpoint(url)(clip)
        assert error.value.kind == "refused" and len(requests) == 1


def test_a_busy_server_is_asked_again(clip):
    with serving(lambda number, body: (503, b"") if number < 2 else chat("A dog.")) as (url, requests):
        assert endpoint(url)(clip) == "A dog." and len(requests) == 3


def test_a_server_that_closes_or_is_not_there_is_unreachable(clip):
    with serving(lambda number, body: None) as (url, requests):
        with pytest.raises(CaptionError) as error:
            endpoint(url, tries=2)(clip)
        assert error.value.kind == "unreachable" and len(requests) == 2
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(CaptionError, match="refused") as error:
            endpoint(f"http://127.0.0.1:{taken.getsockname()[1]}/v1", tries=1)(clip)
        assert error.value.kind == "unreachable"


@pytest.mark.parametrize("cut", [True, False], ids=["no header", "half a body"])
def test_a_server_that_says_nothing_is_a_timeout(clip, cut):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        if not cut:
            import threading

            def half():
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
                time.sleep(2)
                connection.close()

            threading.Thread(target=half, daemon=True).start()
        with pytest.raises(CaptionError, match=r"no answer in 0.3 s") as error:
            endpoint(f"http://127.0.0.1:{server.getsockname()[1]}/v1", tries=1, timeout_s=0.3)(clip)
    assert error.value.kind == "timeout"


def test_silence_time_after_time_ends_the_run_and_an_answer_between_begins_the_count_anew(clip):
    with serving(lambda number, body: chat("A dog.") if number == 2 else (500, b"")) as (url, _):
        ask = endpoint(url, tries=1, max_failures=3)
        kinds = []
        for _ in range(5):
            try:
                kinds.append(ask(clip))
            except CaptionError as error:
                kinds.append(error.kind)
        assert kinds == ["busy", "busy", "A dog.", "busy", "busy"]
        with pytest.raises(EndpointDown, match=r"3 requests, one after the other, had no answer in 1 tries"):
            ask(clip)


def test_bad_settings_of_an_endpoint_are_refused():
    with pytest.raises(ValueError, match="url must begin with http"):
        Endpoint("localhost:8000")
    with pytest.raises(ValueError, match="tries must be > 0, got 0"):
        Endpoint("http://localhost", tries=0)


def test_a_key_is_in_no_text_of_an_endpoint():
    assert "secret" not in repr(Endpoint("http://localhost", key="secret"))


def test_a_function_is_named_by_its_module(clip):
    assert function_captioner("json:dumps") is json.dumps
    for name in ("no_such_module:f", "json:nothing", "json:__name__", "json"):
        with pytest.raises(ValueError, match="must"):
            function_captioner(name)


def test_a_function_that_fails_gives_no_caption(clip):
    def fail(clip):
        raise OSError("no disk")

    with pytest.raises(CaptionError, match="no disk") as error:
        caption_of(fail, clip)
    assert error.value.kind == "failed"


def test_a_model_is_asked_about_a_memory_of_the_event_alone(clip):
    model = lc.load("tiny", device="cpu")
    want = lc.compress(model, clip.video, budget=60, start_s=0.5, end_s=1.5, progress=False)
    question = captions.prompt_of(clip, "What happens?")
    assert model_captioner(model, "What happens?", 60)(clip) == want.ask(question).text
    assert np.isclose(want.duration_s, 1.0)
