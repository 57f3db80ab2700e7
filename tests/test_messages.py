"""A memory's key frames as messages to any model, and `ask --endpoint` against a server that keeps them."""

import base64
import http.server
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.cli.main import main
from longcompress.encoders import PixelEncoder
from longcompress.media.thumbnails import pixels_of
from longcompress.types import Event

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (240, 240, 20)]
STAYS_S = (2, 12, 3, 7)  # seconds that each colour is on screen


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A file whose frame has one colour for some seconds, then the next."""
    pixels = np.concatenate(
        [np.full((s, 64, 64, 3), c, np.uint8) for s, c in zip(STAYS_S, COLOURS, strict=True)]
    )
    path = tmp_path_factory.mktemp("colours") / "colours.mkv"
    return _written(path, pixels)


def _written(path, pixels):
    from longcompress.media import write as media_write

    def frames(times):
        return pixels[np.minimum(times.astype(int), len(pixels) - 1)]

    form = {"size_px": 64, "rate_fps": 8, "rate_hz": 16000}
    return media_write.write(
        path,
        frames,
        lambda a, b: np.zeros(round((b - a) * 16000), np.float32),
        duration_s=len(pixels),
        **form,
    )


@pytest.fixture(scope="module")
def memory(video):
    return lc.compress(lc.load("pixels"), video, budget=256, progress=False, thumbnails=8, thumbnail_px=64)


def test_pixels_are_the_means_of_cells():
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    encoder = PixelEncoder(lc.load("pixels").config.video, 64)
    encoded = encoder.encode(lc.Frames(pixels, torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0))
    assert (len(encoded), encoder.width, encoded.patches) == (128, 48, 64)
    values = pixels.numpy().astype(np.float64) / 255 - 0.5
    for t, row, column in ((0, 0, 0), (1, 3, 5), (1, 7, 7)):
        patch = values[t, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        cells = [patch[2 * a : 2 * a + 2, 2 * b : 2 * b + 2].mean((0, 1)) for a in range(4) for b in range(4)]
        token = 64 * t + 8 * row + column
        assert np.allclose(encoded.tokens.x[token], np.concatenate(cells), atol=1e-6)
        assert encoded.tokens.place[token].tolist() == [t, row, column]
    assert torch.equal(encoded.metric, encoded.tokens.x)
    with pytest.raises(ValueError, match="size_px must be a multiple of 32"):
        PixelEncoder(lc.load("pixels").config.video, 100)


def test_pixels_has_no_language_model(memory):
    for ask in (memory.ask, lambda _: memory.events(), lambda question: lc.ask_each([memory], [question])):
        with pytest.raises(ValueError, match="messages to another one"):
            ask("What is seen?")
    with pytest.raises(TypeError):
        lc.load("pixels", quantization="4bit")


def test_messages_hold_the_frames_of_the_memory(memory):
    """All thumbnails, or of fewer those whose tokens stand for most; each behind its second, as it is."""
    sizes = memory.streams["video"].size
    for num in (1, 3, 16):
        (message,) = memory.messages("What is seen?", num, transcript=[Event(1, 2, "hello")])
        assert message["role"] == "user"
        first, *parts, spoken, question = message["content"]
        assert "24.0 s" in first["text"] and question == {"type": "text", "text": "What is seen?"}
        assert spoken["text"] == "What is said:\n1.0 to 2.0 s: hello"
        heaviest = sorted(memory.thumbnails, key=lambda t: -float(sizes[t.index]))[:num]
        expected = sorted(heaviest, key=lambda t: t.time_s)
        assert [p["text"] for p in parts[::2]] == [f"{t.time_s:.1f} s:" for t in expected]
        urls = [p["image_url"]["url"] for p in parts[1::2]]
        assert [base64.b64decode(u.removeprefix("data:image/jpeg;base64,")) for u in urls] == [
            t.jpeg for t in expected
        ]


def test_text_of_the_memory_is_the_transcript_unless_another_is_passed(video, tmp_path):
    texts, form = [Event(1, 2, "hello"), Event(3, 4, "bye")], {"thumbnails": 2, "thumbnail_px": 64}
    before = lc.compress(lc.load("pixels"), video, budget=64, progress=False, text=texts, **form)
    again = lc.VideoMemory.load(before.save(tmp_path / "a.lcm"))
    for memory in (before, again):
        assert memory.messages("What?") == memory.messages("What?", transcript=texts)
        assert "1.0 to 2.0 s: hello" in str(memory.messages("What?"))
        assert "hello" not in str(memory.messages("What?", transcript=()))


def test_frames_show_what_was_there_at_their_seconds(memory):
    ends = np.cumsum(STAYS_S)
    shown = set()
    for thumbnail in memory.thumbnails:
        colour = int(np.searchsorted(ends, thumbnail.time_s, side="right"))
        middle = pixels_of(thumbnail.jpeg).mean((0, 1))
        assert np.abs(middle - COLOURS[colour]).max() < 40, thumbnail.time_s
        shown.add(colour)
    assert shown == {0, 1, 2, 3}


def test_a_memory_without_frames_says_how_to_get_them(memory):
    bare = lc.VideoMemory(memory.video)
    with pytest.raises(ValueError, match="compress the video with thumbnails=16"):
        bare.messages("What is seen?")
    with pytest.raises(ValueError, match="frames must be at least 1"):
        memory.messages("What is seen?", 0)
    with pytest.raises(ValueError, match="question must not be empty"):
        memory.messages(" ")


@contextmanager
def endpoint(answer=None, status=200, text=None):
    """The address of a server that answers so, and the requests that came."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            data = self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, self.headers["authorization"], json.loads(data)))
            self.send_response(status)
            if status == 307:
                self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            self.end_headers()
            message = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
            self.wfile.write(text if text is not None else json.dumps(message).encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_ask_sends_the_messages_to_an_endpoint(memory, video, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LONGCOMPRESS_ENDPOINT_KEY", "secret")
    path = str(memory.save(tmp_path / "a.lcm"))
    subtitles = tmp_path / "a.srt"
    subtitles.write_bytes("1\n00:00:01,000 --> 00:00:02,500\n<i>h\xe9llo</i>\nyou\n".encode("cp1252"))
    with endpoint("a green box") as (url, requests):
        flags = ["--endpoint", url, "--endpoint-model", "any", "--frames", "2"]
        more = ["--transcript", str(subtitles), "--max-new-tokens", "9"]
        assert main(["ask", path, "What is seen?", "When?", *flags, *more]) == 0
        out, err = capsys.readouterr()
        assert out == "a green box\na green box\n" and "not UTF-8" in err
        expected = [
            memory.messages(q, 2, transcript=[Event(1.0, 2.5, "h\xe9llo you")])
            for q in ("What is seen?", "When?")
        ]
        assert requests == [
            ("/v1/chat/completions", "Bearer secret", {"model": "any", "messages": m, "max_tokens": 9})
            for m in expected
        ]
        requests.clear()
        assert main(["ask", str(video), "What?", *flags, "--model", "pixels", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"question": "What?", "text": "a green box"}
        content = requests[0][2]["messages"][0]["content"]
        assert sum(part["type"] == "image_url" for part in content) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": 500, "text": b"broken"}, "answers 500: broken"),
        ({"status": 307}, "answers 307"),
        ({"text": b"no json"}, "gives no chat completion"),
        ({"text": b"[]"}, "gives no chat completion"),
        ({"text": b'{"choices": []}'}, "gives no chat completion"),
    ],
)
def test_an_endpoint_that_fails_is_told(memory, tmp_path, capsys, options, message):
    path = str(memory.save(tmp_path / "a.lcm"))
    with endpoint(**options) as (url, requests):
        assert main(["ask", path, "What?", "--endpoint", url, "--endpoint-model", "any"]) == 3
    assert message in capsys.readouterr().err and len(requests) == 1


def test_wrong_flags_of_an_endpoint(memory, tmp_path, capsys):
    path = str(memory.save(tmp_path / "a.lcm"))
    down = ["--endpoint", "http://127.0.0.1:1/v1", "--endpoint-model", "any"]
    bare = str(lc.VideoMemory(memory.video).save(tmp_path / "bare.lcm"))
    for words, code, message in [
        ([path, "?", *down], 3, "can't be reached"),
        (
            [path, "?", "--endpoint", "file:///etc/passwd", "--endpoint-model", "a"],
            2,
            "must be a URL of http",
        ),
        ([path, "?", "--endpoint", "http://127.0.0.1:1/v1"], 2, "with --endpoint-model"),
        ([path, "?", *down, "--show", str(tmp_path)], 2, "leave one of them out"),
        ([path, "?", *down, "--transcript", path], 3, "must hold subtitles that pysubs2 reads"),
        ([bare, "?", *down], 2, "compress the video with thumbnails"),
    ]:
        assert main(["ask", *words]) == code, words
        assert message in capsys.readouterr().err
