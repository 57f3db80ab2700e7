"""What a question costs that isn't the first about its video, and that a server stays as small as it was."""

import ctypes
import gc
from collections import Counter

import pytest
import torch

import longcompress as lc
from longcompress.llm import CausalLM
from longcompress.synthetic.scenes import make_scene, write_video

from serving import QUESTION, body, running, until, video

CHAT = "/v1/chat/completions"
OWN = {"budget": 48}


@pytest.fixture(scope="module")
def model():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(make_scene(3, 8.0), tmp_path_factory.mktemp("clip") / "clip.mp4", size_px=64)


@pytest.fixture
def calls(monkeypatch):
    """How often the language model read a video, and how often its prompt was laid out to count it."""
    calls = Counter()
    prefill, sizes = CausalLM.prefill, CausalLM.sizes.fget

    def counted(self, video):
        calls["prefill"] += 1
        return prefill(self, video)

    def sized(self):
        def size(example):
            calls["sizes"] += 1
            return sizes(self)(example)

        return size

    monkeypatch.setattr(CausalLM, "prefill", counted)
    monkeypatch.setattr(CausalLM, "sizes", property(sized))
    return calls


def send(client, path, text=QUESTION, **own):
    """The answer about an uploaded file."""
    if not isinstance(path, str):
        form = {"files": {"file": path.open("rb")}, "data": {"purpose": "user_data"}}
        path = client.post("/v1/files", **form).json()["id"]
    answer = client.post(CHAT, json=body(video(path), text=text, longcompress=OWN | own))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_further_question_costs_only_itself_also_behind_a_restart(model, clip, tmp_path, calls):
    texts = ["What is seen?", "When is the bell heard?"]
    with running(model, tmp_path) as (app, client):
        first = send(client, clip)
        assert calls == {"prefill": 1, "sizes": 1}
        answers = [send(client, clip, text) for text in texts]
    with running(model, tmp_path) as (app, client):
        until(lambda: app.engine.memories._loaded and calls["prefill"] == 2)  # while nobody asked
        again = [send(client, clip, text) for text in texts]
        assert calls == {"prefill": 2, "sizes": 2}
    assert [a["choices"] for a in again] == [a["choices"] for a in answers]
    assert [a["usage"] for a in again] == [a["usage"] for a in answers]
    for answer in (*answers, *again):
        assert answer["longcompress"]["memory"] == "kept"
        counts, cached = answer["usage"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert first["longcompress"]["tokens"] < cached < counts["prompt_tokens"]


def test_a_restart_restores_memories_with_the_rate_that_they_have(model, clip, tmp_path, calls):
    with running(model, tmp_path) as (_, client):
        send(client, clip, rate_fps=2)
    with running(model, tmp_path) as (app, client):
        until(lambda: calls["prefill"] == 2)
        assert send(client, clip, rate_fps=2)["longcompress"]["memory"] == "kept"
        assert calls["prefill"] == 2
        usual = model.config.media.rate_fps
        assert send(client, clip)["longcompress"]["memory"] == "read"
        assert send(client, clip, rate_fps=usual)["longcompress"]["memory"] == "kept"
        assert app.engine.with_rate(usual) is app.engine.with_rate(None)


def test_memories_of_another_model_and_damaged_ones_are_let_be(model, clip, tmp_path, calls):
    with running(model, tmp_path) as (_, client):
        send(client, clip)
        send(client, clip, budget=40)
    damaged, whole = sorted((tmp_path / "memories").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    other = lc.load("tiny", device="cpu")
    with torch.no_grad():
        next(other.video.parameters()).add_(1)
    assert other.identity() != model.identity()
    before = calls["prefill"]
    with running(other, tmp_path) as (app, client):
        assert client.get("/health").status_code == 200
        until(lambda: app.warming.done())
    assert calls["prefill"] == before and whole.exists() and damaged.exists()
    with running(model, tmp_path) as (app, client):
        until(lambda: app.warming.done())
        assert list(app.engine.memories._loaded) == [whole.stem] and calls["prefill"] == before + 1


def test_a_server_stays_as_small_as_it_was(model, clip, tmp_path):
    """Behind requests of all kinds its containers, files, tasks and types are as many as before them."""
    with running(model, tmp_path, loaded=2, memories_gb=1e-9) as (app, client):
        file = client.post("/v1/files", files={"file": clip.open("rb")}, data={"purpose": "x"}).json()["id"]

        def work(first):
            for number in range(first, first + 5):
                send(client, file, budget=24 + number)
                stream = body(video(file), stream=True, longcompress={"budget": 24 + number})
                assert "[DONE]" in client.post(CHAT, json=stream).text
                assert client.post(CHAT, json={"model": "tiny"}).status_code == 400
                assert client.post(CHAT, json=body(video("data:;base64,AAAA"))).status_code == 400
                other = client.post("/v1/files", files={"file": b"x"}, data={"purpose": "x"}).json()["id"]
                client.delete(f"/v1/files/{other}")
                client.get(f"/v1/longcompress/memories/{number:064x}")

        def sizes():
            until(lambda: app.metrics.active._value.get() == 0)
            gc.collect()
            kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
            own = {
                "loaded": app.engine.memories._loaded, "jobs": app.engine._jobs,
                "questions": app.engine._questions, "active": app.asgi._active,
                "uploads": app.sources.uploads, "clients": app.asgi._begun,
                "incoming": list(app.sources.incoming.iterdir()),
                "memories": list(app.engine.memories.folder.iterdir()),
                "metrics": app.metrics.text().splitlines(), "types": ctypes._pointer_type_cache,
            }  # fmt: skip
            names = ("VideoMemory", "Prefix", "Question", "Job", "Work", "Task", "coroutine", "socket")
            return {name: len(thing) for name, thing in own.items()} | {name: kinds[name] for name in names}

        work(0)
        before = sizes()
        work(5)
        assert sizes() == before
