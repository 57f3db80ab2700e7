"""The page's files and JSON: what a memory holds, and that nothing of another site can be loaded."""

import base64
import re
import socket
from html.parser import HTMLParser

import numpy as np
import pytest

import longcompress as lc
from longcompress.media.thumbnails import pixels_of
from longcompress.serve.app import listen
from longcompress.serve.limits import Limits
from longcompress.serve.page import FILES, STATIC
from longcompress.synthetic.scenes import make_scene, write_video

from serving import body, data_url, running, video

OWN = {"budget": 48, "thumbnails": 3, "patches": True}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(make_scene(3, 8.0), tmp_path_factory.mktemp("clip") / "clip.mp4", size_px=64)


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def client(model, tmp_path_factory):
    with running(model, tmp_path_factory.mktemp("page"), api_keys=["k" * 16]) as (_, client):
        client.headers["authorization"] = "Bearer " + "k" * 16
        yield client


def test_a_memory_is_shown_as_the_library_has_it(client, clip, model):
    answer = client.post("/v1/chat/completions", json=body(video(data_url(clip)), longcompress=OWN)).json()
    key = answer["longcompress"]["memory_id"]
    content = client.get(f"/v1/longcompress/memories/{key}").json()
    memory = lc.compress(model, clip, budget=48, thumbnails=3, keep_assignment=True, progress=False)
    assert (content["id"], content["budget"], content["tokens"]) == (key, 48, memory.num_tokens)
    assert content["duration_s"] == memory.duration_s and content["grid"] == list(model.video.grid)
    assert content["streams"].keys() == memory.streams.keys()
    for name, tokens in memory.streams.items():
        for column in ("start_s", "end_s", "time_s", "size"):
            assert content["streams"][name][column] == pytest.approx(getattr(tokens, column), abs=1e-3)
    assert [t["time_s"] for t in content["thumbnails"]] == [t.time_s for t in memory.thumbnails]
    for shown, thumbnail in zip(content["thumbnails"], memory.thumbnails, strict=True):
        jpeg = base64.b64decode(shown["url"].removeprefix("data:image/jpeg;base64,"))
        assert jpeg == thumbnail.jpeg and pixels_of(jpeg).ndim == 3
    rows = memory.video.assignment["video"].view(content["frames"], -1)
    assert content["frames"] * content["step_s"] == pytest.approx(8.0)
    for number in (0, content["frames"] - 1):
        frame = client.get(f"/v1/longcompress/memories/{key}/patches/{number}").json()
        assert frame == {"number": number, "tokens": rows[number].tolist()}
        assert len(frame["tokens"]) == np.prod(content["grid"])
    assert client.get(f"/v1/longcompress/memories/{key}/patches/{content['frames']}").status_code == 400


def test_memories_with_and_without_patches_differ(client, clip):
    plain = client.post("/v1/chat/completions", json=body(video(data_url(clip)), longcompress={"budget": 48}))
    whole = client.post("/v1/chat/completions", json=body(video(data_url(clip)), longcompress=OWN))
    keys = [answer.json()["longcompress"]["memory_id"] for answer in (plain, whole)]
    assert keys[0] != keys[1] and plain.json()["choices"] == whole.json()["choices"]
    content = client.get(f"/v1/longcompress/memories/{keys[0]}").json()
    assert content["frames"] == 0 and content["thumbnails"] == []
    refused = body(video(data_url(clip)), longcompress={"thumbnails": 65})
    assert client.post("/v1/chat/completions", json=refused).json()["error"]["param"] == (
        "longcompress.thumbnails"
    )


@pytest.mark.parametrize("key", ["0" * 64, "0" * 63, "..", "%2e%2e%2fx", "A" * 64])
def test_a_memory_that_is_none(client, key):
    for more in ("", "/patches/0"):
        assert client.get(f"/v1/longcompress/memories/{key}{more}").status_code == 404


def test_a_file_comes_back_whole_in_parts_and_to_its_owner(client, clip, model, tmp_path):
    file = client.post("/v1/files", files={"file": clip.open("rb")}, data={"purpose": "user_data"}).json()
    at, data = f"/v1/files/{file['id']}/content", clip.read_bytes()
    assert client.get(at).content == data
    part = client.get(at, headers={"range": "bytes=5-9"})
    assert part.status_code == 206 and part.content == data[5:10]
    keys = ["a" * 16, "b" * 16]
    with running(model, tmp_path, api_keys=keys) as (_, others):
        first, second = ({"authorization": f"Bearer {key}"} for key in keys)
        form = {"files": {"file": b"x"}, "data": {"purpose": "user_data"}}
        own = others.post("/v1/files", **form, headers=first).json()
        assert others.get(f"/v1/files/{own['id']}/content", headers=first).content == b"x"
        assert others.get(f"/v1/files/{own['id']}/content", headers=second).status_code == 404


def test_the_page_needs_no_key_and_loads_nothing_of_another_site(client):
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
    for path, name in FILES.items():
        response = client.get(path, headers={"authorization": ""})
        assert response.status_code == 200 and response.content == (STATIC / name).read_bytes()
        assert response.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        policy = dict(
            rule.strip().split(" ", 1) for rule in response.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy) and "http" not in str(policy) and "*" not in str(policy)
        without_svg = response.text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert not re.search(r"https?:|//[a-z]+\.|@import|eval\(|innerHTML", without_svg)
    assert client.get("/v1/models", headers={"authorization": ""}).status_code == 401


def test_the_page_has_no_script_or_style_in_its_text_and_a_label_for_each_field():
    tags = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Reader().feed((STATIC / "index.html").read_text())
    assert not [t for t in tags if t[0] == "style" or any(a == "style" or a.startswith("on") for a in t[1])]
    assert all(attrs.get("src", "").startswith("/") for tag, attrs in tags if tag == "script")
    labels = {attrs.get("for") for tag, attrs in tags if tag == "label"}
    for tag, attrs in tags:
        if tag in ("input", "select", "textarea") and attrs.get("type") != "checkbox":
            assert attrs["id"] in labels or attrs.get("aria-label")


def test_answers_leave_at_once():
    """Without it the body of each answer waits 40 ms for the client's acknowledgement of its head."""
    with listen(Limits(port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_page_is_installed_with_the_package():
    text = (STATIC.parents[2] / "setup.py").read_text()
    assert '"longcompress.serve": ["static/*"]' in text
    assert {path.name for path in STATIC.iterdir()} == set(FILES.values())
