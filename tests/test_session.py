"""A session fed in parts is a video compressed at once; memory is bounded; times are true; files are safe."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import longcompress as lc
from longcompress import memory as memories
from longcompress.media.reader import arrays
from longcompress.session import Dropped, Reply, SegmentClosed, Session
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.types import Answer, Audio, Event, Frames
from longcompress.videos import compress

from clips import make_clip, random_parts
from helpers import assert_same_memory
from models import model as make_model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("seconds", [3.0, 33.0])
@pytest.mark.parametrize("seed", range(3))
def test_parts_give_the_memory_of_the_whole(model, seconds, seed):
    frame, sound = make_clip(seconds)
    whole = Session(model, 40)
    for part in (frame, sound):
        whole.push(part)
    whole.close()
    parts = Session(model, 40)
    for part in random_parts(frame, sound, seed):
        parts.push(part)
    parts.close()
    for budget in (6, 40, 1000):
        assert_same_memory(parts.memory(budget), whole.memory(budget))


def test_a_question_in_the_middle_changes_nothing_later(model):
    frame, sound = make_clip(23.0)
    asked, quiet = Session(model, 40), Session(model, 40)
    for part in random_parts(frame, sound, 4):
        asked.push(part)
        quiet.push(part)
        asked.ask("what is seen")
    asked.close()
    quiet.close()
    assert_same_memory(asked.memory(), quiet.memory())


def test_a_memory_in_the_middle_is_that_of_the_video_until_then(model):
    frame, sound = make_clip(30.0)
    until = Session(model, 40)
    until.push(Frames(frame.pixels[:17], frame.time_s[:17], 1.0))
    until.push(Audio(sound.samples[: 17 * 16000], 0.0))
    middle = until.memory()
    until.close()
    assert_same_memory(middle, until.memory())
    assert middle.duration_s == 17.0


def test_a_file_and_its_arrays_are_compressed_alike(model, tmp_path):
    frame, sound = make_clip(12.0)
    from_arrays = compress(model, arrays(frame.pixels, 1.0, sound.samples), budget=30, progress=False)
    pushed = Session(model, 30)
    pushed.push(frame)
    pushed.push(sound)
    pushed.close()
    assert from_arrays.num_tokens == pushed.memory().num_tokens == 30
    path = write_video(make_scene(0, 12.0), tmp_path / "video.mp4", size_px=32)
    memory = compress(model, path, budget=30, progress=False)
    assert memory.num_tokens == 30 and memory.source["name"] == "video.mp4"
    assert set(memory.streams) == {"video", "audio"}
    assert abs(memory.duration_s - 12.0) < 0.2


def test_many_videos_go_on_after_one_that_cannot_be_read(model, tmp_path):
    path = write_video(make_scene(0, 12.0), tmp_path / "video.mp4", size_px=32)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    sources = [path, tmp_path / "broken.mp4", tmp_path / "missing.mp4", path]
    first, broken, missing, last = lc.compress_many(model, sources, budget=30, progress=False)
    assert [r.source for r in (first, broken, missing, last)] == sources
    assert_same_memory(first.memory, last.memory)
    assert first.error is last.error is None
    assert broken.memory is missing.memory is None
    assert isinstance(broken.error, ValueError) and isinstance(missing.error, FileNotFoundError)


@pytest.mark.slow
def test_two_hours_hold_tokens_groups_and_bytes_flat(model):
    session = Session(model, 24, media=["video"])
    generator = torch.Generator().manual_seed(0)
    sizes = []
    with torch.no_grad():
        for minute in range(120):
            if minute % 10 == 0:
                pixels = torch.randint(0, 255, (60, 16, 16, 3), dtype=torch.uint8, generator=generator)
            session.push(Frames(pixels, torch.arange(60, dtype=torch.float64) + 60 * minute, 1.0))
            stats = session.stats()
            sizes.append([stats[name] for name in ("held_tokens", "held_groups", "held_bytes")])
    tokens, groups, num_bytes = np.array(sizes).T
    assert tokens.max() <= 4 * 24 and groups.max() <= 12
    assert num_bytes[60:].max() <= 1.1 * num_bytes[20:60].max()
    session.close()
    assert session.memory().num_tokens == 24


def test_a_session_says_which_segments_closed(model):
    frame, sound = make_clip(12.0)
    session = Session(model, 40)
    events = session.push(frame) + session.push(sound) + session.close()
    closed = [event for event in events if isinstance(event, SegmentClosed)]
    assert [(c.start_s, c.end_s) for c in closed] == [(0.0, 5.0), (5.0, 10.0), (10.0, 12.0)]
    assert sum(c.tokens_in for c in closed) == session.stats()["raw_tokens"] == 12 * 4 + 12


def test_single_frames_and_samples_can_be_pushed(model):
    session = Session(model, 40)
    for k in range(7):
        session.push_frame(np.full((40, 30, 3), 9 * k, dtype=np.uint8), float(k))
        session.push_audio(np.zeros(16000, dtype=np.int16), 16000)
    assert isinstance(session.push_text("what is seen")[0], Reply)
    late = session.push_frame(np.zeros((16, 16, 3), dtype=np.uint8), 2.0)
    assert isinstance(late[0], Dropped) and "late" in late[0].reason
    session.advance(20.0)
    assert session.stats()["pending"] == 0
    assert session.memory().duration_s == 20.0


def test_a_silent_video_and_audio_alone_are_compressed(model):
    frame, sound = make_clip(8.0)
    silent = compress(model, arrays(frame.pixels, 1.0), budget=16, progress=False)
    assert set(silent.streams) == {"video"} and silent.num_tokens == 16
    alone = compress(model, arrays(samples=sound.samples), budget=8, progress=False)
    assert set(alone.streams) == {"audio"} and alone.num_tokens == 8
    assert silent.ask("what is seen").text == silent.ask("what is seen").text


def test_a_memory_file_gives_the_same_answers(model, tmp_path):
    frame, sound = make_clip(15.0)
    memory = compress(model, arrays(frame.pixels, 1.0, sound.samples), budget=40, progress=False)
    path = memory.save(tmp_path / "video.lcm")
    again = lc.load_memory(path, model)
    assert_same_memory(again, memory)
    assert again.num_tokens == 40 == again.budget
    assert again.ask("what is seen") == memory.ask("what is seen")
    assert [p.name for p in tmp_path.iterdir()] == ["video.lcm"]


def test_saving_and_loading_a_model_keeps_its_logits(model, tmp_path):
    frame, sound = make_clip(15.0)
    model.save_pretrained(tmp_path / "saved", include_base=True)
    loaded = lc.load(tmp_path / "saved", device="cpu")
    assert loaded.identity() == model.identity()
    first = compress(model, arrays(frame.pixels, 1.0, sound.samples), budget=40, progress=False)
    second = compress(loaded, arrays(frame.pixels, 1.0, sound.samples), budget=40, progress=False)
    assert_same_memory(second, first)
    from longcompress.llm import Example

    turns = [("what is seen", "the red ball"), ("when does the blue box appear", "3 to 11")]
    with torch.no_grad():
        a = model(**model.llm.collate([Example(first.video, turns)]))
        b = loaded(**loaded.llm.collate([Example(second.video, turns)]))
    assert torch.equal(a["logits"], b["logits"]) and torch.equal(a["loss"], b["loss"])


def test_lora_is_saved_and_loaded(tmp_path):
    base = make_model()
    base.save_pretrained(tmp_path / "base", include_base=True)
    loaded = lc.load(tmp_path / "base", device="cpu")
    loaded.add_lora(r=2)
    for name, value in loaded.llm.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    frame, sound = make_clip(6.0)
    memory = compress(loaded, arrays(frame.pixels, 1.0, sound.samples), budget=20, progress=False)
    from longcompress.llm import Example

    batch = loaded.llm.collate([Example(memory.video, [("what is seen", "the red ball")])])
    with torch.no_grad():
        want = loaded.eval()(**batch)["logits"]
        plain = base(**batch)["logits"]
    assert float((want - plain).abs().max()) > 1e-3
    loaded.llm.lm.save_pretrained(tmp_path / "base" / "adapter")
    loaded.save_pretrained(
        tmp_path / "whole"
    )  # its base lies in its own folder, and is copied without adapter
    for folder in ("base", "whole"):
        again = lc.load(tmp_path / folder, device="cpu")
        with torch.no_grad():
            torch.testing.assert_close(again(**batch)["logits"], want)


@pytest.fixture
def saved(model, tmp_path):
    frame, sound = make_clip(6.0)
    memory = compress(model, arrays(frame.pixels, 1.0, sound.samples), budget=20, progress=False)
    return memory.save(tmp_path / "video.lcm")


def test_a_cut_memory_file_is_refused(model, saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole memory file"):
        lc.load_memory(saved, model)


def test_an_altered_memory_file_is_refused(model, saved):
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(ValueError, match="was altered"):
        lc.load_memory(saved, model)


def test_a_memory_of_other_encoders_is_refused(saved):
    torch.manual_seed(3)
    other = make_model()
    with torch.no_grad():
        next(other.video.parameters()).add_(1.0)
    with pytest.raises(ValueError, match="other encoders"):
        lc.load_memory(saved, other)


def rewrite(path, header=None, tensors=None):
    """Change fields of a memory file's header and some of its tensors, and mend its hash."""
    with safe_open(path, "pt") as file:
        own = json.loads(file.metadata()["longcompress"]) | (header or {})
        values = {name: file.get_tensor(name) for name in file.keys()} | (tensors or {})  # noqa: SIM118
    own["sha256"] = memories._hash(values) if tensors else own["sha256"]
    save_file(values, path, {"longcompress": json.dumps(own)})


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": 99}, "format 99, this version reads 3"),
        ({"streams": 3}, "streams of its header is 3; make it anew"),
        ({"source": {"name": 3}}, "the name of its source must be a text"),
        ({"duration_s": 1e300}, r"a budget of 20 and lasts 1e\+300 s"),
        ({"budget": -1}, "a budget of -1"),
        ({"streams": ["video", "speech"]}, "no memory that can be read: 'speech.x'; make it anew"),
        ({"streams": ["other"]}, r"streams must be of .* got 'other'"),
        ({"streams": [["video"]]}, "no memory that can be read: unhashable"),
    ],
)
def test_a_memory_file_with_another_header_is_refused(model, saved, header, message):
    rewrite(saved, header)
    with pytest.raises(ValueError, match=rf"video\.lcm.*{message}"):
        lc.load_memory(saved, model)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"video.x": torch.zeros(3, 32)}, r"Tokens.size must be \(N,\)"),
        ({"video.x": torch.tensor(1.0)}, r"Tokens.x must be \(N, C\)"),
        ({"video.globals": torch.full((2, 32), torch.nan)}, "tokens of stream 'video' must be finite"),
        ({"video.globals": torch.zeros(2, 31)}, ".*and as wide as the model's encoder"),
        ({"video.assignment": torch.tensor([99])}, "assignment of stream 'video' must be numbers of its"),
    ],
)
def test_a_memory_file_with_other_tensors_is_refused(model, saved, tensors, message):
    rewrite(saved, {"assignment": ["video"]} if "video.assignment" in tensors else None, tensors)
    with pytest.raises(ValueError, match=rf"video\.lcm is no memory that can be read: {message}"):
        lc.load_memory(saved, model)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("end_s", 1e30, "stream 'video': times must be finite, each end after its start"),
        ("end_s", -9.0, "each end after its start"),
        ("time_s", torch.nan, "stream 'video': times must be finite"),
        ("size", 0.0, "stream 'video': sizes must be finite and > 0"),
    ],
)
def test_a_memory_file_with_other_numbers_is_refused(model, saved, field, value, message):
    tensor = getattr(lc.load_memory(saved, model).streams["video"], field).clone()
    tensor[0] = value
    rewrite(saved, tensors={f"video.{field}": tensor})
    with pytest.raises(ValueError, match=message):
        lc.load_memory(saved, model)


def test_events_are_asked_of_windows_up_to_the_last_token(model, saved):
    rewrite(saved, {"duration_s": 9e7})
    long = lc.load_memory(saved, model)
    asked = []
    long.ask_all = lambda questions, **_: asked.extend(questions) or [Answer("nothing") for _ in questions]
    assert long.events(window_s=2.0) == []
    assert len(asked) == 3


def test_answers_without_a_time_are_counted_and_told(model, saved):
    memory = lc.load_memory(saved, model)
    says = iter(["red ball 0 to 1", "I can't tell.", "Nothing happens."])
    memory.ask_all = lambda questions, **_: [Answer(next(says)) for _ in questions]
    with pytest.warns(
        UserWarning, match=r"events: 3 windows .* 1 answers without a time, .*: 0:00:02.* I can't"
    ):
        assert memory.events(window_s=2.0) == [Event(0.0, 2.0, "red ball")]


def test_events_may_have_short_answers(model, saved):
    memory = lc.load_memory(saved, model)
    lengths = []
    memory.ask_all = lambda questions, **options: (
        lengths.append(options) or [Answer("nothing") for _ in questions]
    )
    assert memory.list_events(max_new_tokens=7).num_asked == 1
    assert lengths == [{"max_new_tokens": 7}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: Session(m, 0), "budget must be a whole number of tokens >= 1"),
        (lambda m: Session(m, 3), "budget must be at least 5"),
        (lambda m: Session(m, media=["smell"]), "media must be some of"),
        (lambda m: lc.load("nothing"), "name must be one of"),
        (lambda m: Session(m).memory().events(window_s=0), "window_s must be > 0 seconds, got 0"),
    ],
)
def test_errors_say_what_is_wrong(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_a_closed_session_takes_nothing_more(model):
    session = Session(model, 40)
    session.close()
    with pytest.raises(ValueError, match="session has ended"):
        session.push(make_clip(3.0)[0])


def test_an_interrupted_compress_leaves_nothing_and_can_be_run_again(model, tmp_path, monkeypatch):
    path = write_video(make_scene(0, 12.0), tmp_path / "video.mp4", size_px=32)
    original, calls = Session.push, []

    def push(self, part):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, part)

    monkeypatch.setattr(Session, "push", push)
    with pytest.raises(KeyboardInterrupt):
        compress(model, path, budget=20, progress=False)
    monkeypatch.undo()
    import threading

    assert not [t for t in threading.enumerate() if t.name == "longcompress-media"]
    assert compress(model, path, budget=20, progress=False).num_tokens == 20


def test_a_full_disk_leaves_no_half_written_memory(model, tmp_path, monkeypatch):
    frame, _ = make_clip(6.0)
    memory = compress(model, arrays(frame.pixels, 1.0), budget=16, progress=False)
    from safetensors import SafetensorError

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("longcompress.memory.write", full)
    with pytest.raises(OSError, match="could not be written"):
        memory.save(tmp_path / "video.lcm")
    assert list(tmp_path.iterdir()) == []


def test_frames_that_hardly_change_spare_the_encoder_and_are_counted():
    model = make_model()
    still = torch.full((20, 16, 16, 3), 90, dtype=torch.uint8)
    still[9:] += 1  # less than the limit
    still[15:] = 200  # block of 4: 12..15
    frames_ = Frames(still, torch.arange(20, dtype=torch.float64), 1.0)
    plain, spared = Session(model, 40, media=["video"]), []
    plain.push(frames_)
    model.change({"video": {"reuse_below": 0.02}})
    for cut in (20, 7, 1):
        session = Session(model, 40, media=["video"])
        for at in range(0, 20, cut):
            session.push(Frames(still[at : at + cut], frames_.time_s[at : at + cut], 1.0))
        session.close()
        spared.append(session)
    plain.close()
    assert plain.stats()["reused_frames"] == 0
    # a block is encoded once, and twice where it changes in its middle
    assert [s.stats()["reused_frames"] for s in spared] == [20 - 6] * 3
    for session in spared[1:]:
        assert_same_memory(session.memory(), spared[0].memory())
    assert spared[0].memory().num_tokens == plain.memory().num_tokens


@pytest.mark.parametrize(
    "changes",
    [
        {"audio": {"pool": 1}},
        {"media": {"size_px": 3}},
        {"media": {"colour": 3}},
        {"video": {"batch_size": 1}},
    ],
)
def test_what_the_encoders_compress_cannot_be_changed(changes):
    with pytest.raises(ValueError, match="changes must be fields of"):
        make_model().change(changes)


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("llm", "flash_attention_2", "llm.attention 'flash_attention_2' needs the package flash_attn"),
        ("video", "fast", "video.attention must be one of"),
    ],
)
def test_an_attention_that_does_not_exist_is_refused_at_load(model, tmp_path, section, name, message):
    model.save_pretrained(tmp_path, include_base=True)
    values = json.loads((tmp_path / "config.json").read_text())
    values[section]["attention"] = name
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        lc.load(tmp_path, device="cpu")


def test_eager_and_sdpa_attention_agree(model, tmp_path):
    model.save_pretrained(tmp_path, include_base=True)
    memories = []
    for name in ("eager", "sdpa"):
        values = json.loads((tmp_path / "config.json").read_text())
        values["llm"]["attention"] = values["video"]["attention"] = name
        (tmp_path / "config.json").write_text(json.dumps(values))
        loaded = lc.load(tmp_path, device="cpu")
        assert loaded.llm.lm.config._attn_implementation == name
        session = Session(loaded, 40)
        session.push(make_clip(9.0)[0])
        session.close()
        memories.append(session.memory())
    assert torch.allclose(memories[0].streams["video"].x, memories[1].streams["video"].x, atol=1e-5)


def test_several_videos_and_folders_that_are_not_there_are_told(model, tmp_path):
    with pytest.raises(TypeError, match=r"one video, .*got a list with 'a.mp4'; compress_many takes several"):
        compress(model, ["a.mp4", "b.mp4"], progress=False)
    memory = compress(model, arrays(make_clip(6.0)[0].pixels, 1.0), budget=20, progress=False)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere to write x.lcm into; make it first"):
        memory.save(tmp_path / "nowhere" / "x.lcm")
    with pytest.raises(TypeError, match=r"questions must be texts, or .*, got None"):
        memory.ask(None)
    with pytest.raises(ValueError, match=r"whole characters, got 'what .*a cut emoji"):
        memory.ask("what \ud83d")


def test_the_estimate_of_a_part_is_that_of_a_video_of_its_length(model):
    assert lc.estimate(model, 100.0, 60, start_s=70.0) == lc.estimate(model, 30.0, 60)
    assert lc.estimate(model, 100.0, 60, start_s=70.0, end_s=90.0) == lc.estimate(model, 20.0, 60)
    with pytest.raises(ValueError, match=r"start_s must be before .*100.0 s, got 200"):
        lc.estimate(model, 100.0, 60, start_s=200.0)
