"""Thumbnails are the frames at the places of the heaviest tokens, stay in the file, and are shown."""

import io
import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save_file

import longcompress as lc
from longcompress import plot
from longcompress.cli import main as cli
from longcompress.config import MergeConfig
from longcompress.media.reader import arrays
from longcompress.media.thumbnails import Thumbnail, pixels_of
from longcompress.memory import _hash
from longcompress.types import Answer, Event

import models
from videos import Video, number_of, write

FPS = 25
SECONDS = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("thumbnails")


@pytest.fixture(scope="module")
def video(root):
    """40 s, 160 x 96, every frame with its number; key frames 2 s apart."""
    stamps = range(0, SECONDS * 1000, 1000 // FPS)
    spec = Video(stamps=stamps, audio_s=SECONDS, options={"g": "50", "sc_threshold": "0"})
    return write(root / "video.mkv", spec)


@pytest.fixture(scope="module")
def model():
    return models.model()


@pytest.fixture(scope="module")
def memory(model, video):
    return compress(model, video, thumbnails=8)


def compress(model, source, budget=60, **options):
    return lc.compress(model, source, budget=budget, progress=False, **options)


def frame_at(path, second):
    """(160, 96) frame on screen at a second, by PyAV alone."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        *_, last = (frame for frame, _ in zip(frames, range(int(second * FPS + 1e-6) + 1), strict=False))
    return last.to_ndarray(format="rgb24")


def numbers_of(thumbnails):
    return [number_of(torch.from_numpy(pixels_of(t.jpeg))) for t in thumbnails]


@pytest.mark.parametrize("place", ["mean", "medoid", "heaviest"])
def test_thumbnails_are_the_frames_of_the_heaviest_tokens(place, video):
    merge = MergeConfig(tokens_per_segment={"video": 12, "*": 5}, place=place)
    memory = compress(models.model(merge=merge), video, thumbnails=8)
    tokens, thumbnails = memory.streams["video"], memory.thumbnails
    assert len(thumbnails) == 8
    assert [t.time_s for t in thumbnails] == sorted({t.time_s for t in thumbnails})
    assert [t.time_s for t in thumbnails] == tokens.place[[t.index for t in thumbnails], 0].tolist()
    assert numbers_of(thumbnails) == [int(t.time_s * FPS + 1e-6) for t in thumbnails]
    if place == "medoid":  # a sampled frame itself
        assert all(t.time_s == round(t.time_s) for t in thumbnails)
    sizes, seconds = tokens.size, {int(t.time_s) for t in thumbnails}
    lightest = min(float(sizes[t.index]) for t in thumbnails)
    for index in (sizes > lightest).nonzero()[:, 0].tolist():  # a heavier one is shown, or its second is
        assert int(float(tokens.place[index, 0]) + 1e-6) in seconds


def test_the_pixels_are_those_of_the_video(memory, video):
    for thumbnail in memory.thumbnails:
        got = pixels_of(thumbnail.jpeg).astype(float)
        assert got.shape == (96, 160, 3)  # the video's own sides
        want = frame_at(video, thumbnail.time_s).astype(float)
        assert np.abs(got - want).mean() < 4


@pytest.mark.parametrize("size_px", [16, 64, 320])
def test_the_longer_side_is_as_asked(size_px, model, video):
    (thumbnail, *_) = compress(model, video, thumbnails=1, thumbnail_px=size_px).thumbnails
    assert pixels_of(thumbnail.jpeg).shape == (round(size_px * 0.3) * 2, size_px, 3)
    assert len(thumbnail.jpeg) < 200 * size_px


def test_a_turned_video_stands_upright(model, root):
    turned = write(root / "turned.mp4", Video(rotation=90))
    (thumbnail,) = compress(model, turned, thumbnails=1).thumbnails
    assert pixels_of(thumbnail.jpeg).shape == (160, 96, 3)


def test_a_part_has_the_frames_of_the_part(model, video):
    memory = compress(model, video, start_s=10.0, end_s=25.0, thumbnails=4)
    assert numbers_of(memory.thumbnails) == [int((t.time_s + 10) * FPS + 1e-6) for t in memory.thumbnails]
    assert max(t.time_s for t in memory.thumbnails) < 15


def test_frames_spread_over_the_video_are_shown_too(video):
    model = models.model()
    model.change({"media": {"frames": 16}})
    memory = compress(model, video, thumbnails=4)
    assert numbers_of(memory.thumbnails) == [int(t.time_s * FPS + 1e-6) for t in memory.thumbnails]


def test_other_sources_that_can_be_read_twice(model, memory, video):
    opened = compress(model, io.BytesIO(video.read_bytes()), thumbnails=8)
    assert opened.thumbnails == memory.thumbnails
    pixels = np.stack([np.full((96, 160, 3), 10 * k, np.uint8) for k in range(20)])
    memory = compress(model, arrays(pixels, 1.0), thumbnails=5)
    assert len(memory.thumbnails) == 5
    for thumbnail in memory.thumbnails:
        shown = pixels_of(thumbnail.jpeg)
        assert shown.shape == (96, 160, 3)
        assert abs(float(shown.mean()) - 10 * int(thumbnail.time_s + 1e-6)) < 2


def test_a_source_that_can_be_read_once_is_refused_before_it_is(model, video):
    class Stream(io.BytesIO):
        def seekable(self):
            return False

    stream = Stream(video.read_bytes())
    with pytest.raises(
        ValueError, match=r"thumbnails need a source that can be read twice, got Stream; save"
    ):
        compress(model, stream, thumbnails=2)
    assert stream.tell() == 0
    live = iter(arrays(np.zeros((4, 16, 16, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"got list_iterator; save it to a file, or give a list of Frames"):
        compress(model, live, thumbnails=2)
    assert len(list(live)) == 1


@pytest.mark.parametrize("num, size_px", [(-1, 160), (1, 15), (1, 5000)])
def test_numbers_that_cannot_be_are_refused(num, size_px, model, video):
    text = rf"at least 0, and thumbnail_px from 16 to 4096, got {num} and {size_px}"
    with pytest.raises(ValueError, match=text):
        compress(model, video, thumbnails=num, thumbnail_px=size_px)


def test_more_than_there_are_is_a_frame_a_second(model, video):
    memory = compress(model, video, thumbnails=10_000)
    seconds = [int(t.time_s + 1e-6) for t in memory.thumbnails]
    assert seconds == sorted({int(s + 1e-6) for s in memory.streams["video"].place[:, 0].tolist()})
    assert len(seconds) <= SECONDS


def test_without_video_there_are_none(model):
    audio = arrays(samples=np.zeros(16000 * 8, np.float32))
    with pytest.warns(UserWarning, match=r"the memory has no video token that a thumbnail could show"):
        memory = compress(model, audio, thumbnails=3)
    assert memory.thumbnails == [] and memory.num_tokens
    assert memory.thumbnails_of(Answer("nothing")) == []


def test_what_is_not_asked_for_is_not_there(model, video, memory):
    plain = compress(model, video)
    assert plain.thumbnails == []
    for name, tokens in plain.streams.items():
        assert torch.equal(tokens.x, memory.streams[name].x)


# --- the file


def test_they_stay_in_the_file(memory, tmp_path):
    path = memory.save(tmp_path / "a.lcm")
    again = lc.load_memory(path, memory.model)
    assert again.thumbnails == memory.thumbnails
    again.save(tmp_path / "b.lcm")
    assert (tmp_path / "b.lcm").read_bytes() == path.read_bytes()


def damage(path, change):
    """The memory file after `change(header, tensors)`, with a hash that fits."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["longcompress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header, tensors)
    header["sha256"] = _hash(tensors)
    save_file(tensors, path, {"longcompress": json.dumps(header)})


def _set(tensors, name, value):
    tensors[name] = value


DAMAGES = {
    "missing": lambda header, tensors: tensors.pop("thumbnail.1"),
    "empty": lambda header, tensors: _set(tensors, "thumbnail.1", tensors["thumbnail.1"][:0]),
    "short": lambda header, tensors: _set(tensors, "thumbnail.1", tensors["thumbnail.1"][:-9].clone()),
    "type": lambda header, tensors: _set(tensors, "thumbnail.1", tensors["thumbnail.1"].int()),
    "shape": lambda header, tensors: _set(tensors, "thumbnail.1", tensors["thumbnail.1"][None].clone()),
    "index": lambda header, tensors: _set(header["thumbnails"][1], 1, 10_000),
    "time": lambda header, tensors: _set(header["thumbnails"][1], 0, -1.0),
    "text": lambda header, tensors: _set(header["thumbnails"][1], 0, "soon"),
    "pair": lambda header, tensors: _set(header["thumbnails"], 1, 7),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_thumbnails_are_one_clear_error(kind, memory, tmp_path):
    path = memory.save(tmp_path / "a.lcm")
    damage(path, DAMAGES[kind])
    with pytest.raises(ValueError, match=r"a\.lcm is no memory that can be read: .*; make it anew"):
        lc.load_memory(path, memory.model)


def test_a_header_without_them_is_refused(memory, tmp_path):
    path = memory.save(tmp_path / "a.lcm")
    damage(path, lambda header, tensors: header.pop("thumbnails"))
    with pytest.raises(ValueError, match=r"thumbnails of its header is None; make it anew"):
        lc.load_memory(path, memory.model)


@pytest.mark.parametrize("read_s", [3, None, {"video": "long"}])
def test_seconds_of_the_source_must_be_numbers(read_s, memory, tmp_path):
    path = memory.save(tmp_path / "a.lcm")
    damage(path, lambda header, tensors: header["source"].update(read_s=read_s))
    with pytest.raises(ValueError, match=r"read_s of its source must be seconds by medium; make it anew"):
        lc.load_memory(path, memory.model)


def test_a_changed_byte_is_found_by_the_hash(memory, tmp_path):
    path = memory.save(tmp_path / "a.lcm")
    data = bytearray(path.read_bytes())
    at = data.find(memory.thumbnails[0].jpeg) + 500
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"was altered"):
        lc.load_memory(path, memory.model)


def test_what_is_no_jpeg_is_named():
    with pytest.raises(
        ValueError, match=r"thumbnail is no JPEG that can be decoded .*; compress the video again"
    ):
        pixels_of(b"\xff\xd8 nothing \xff\xd9")


# --- beside answers


def test_an_answer_is_shown_by_the_frames_nearest_to_its_times(memory):
    times = [t.time_s for t in memory.thumbnails]
    events = (
        Event(times[5] - 0.1, times[5] + 0.1),
        Event(times[1], times[1]),
        Event(0.0, times[0]),
        Event(90, 99),
    )
    got = [t.time_s for t in memory.thumbnails_of(Answer("", events))]
    assert got == [times[0], times[1], times[5], times[-1]]
    sizes = memory.streams["video"].size
    heaviest = memory.thumbnails_of(Answer("nothing"), 2)
    limit = sorted((float(sizes[t.index]) for t in memory.thumbnails), reverse=True)[1]
    assert len(heaviest) == 2 and all(float(sizes[t.index]) >= limit for t in heaviest)


@pytest.fixture(scope="module")
def folder(root, model):
    model.save_pretrained(root / "model", include_base=True)
    return root


@pytest.fixture
def run(folder, capsys):
    def run(*words):
        code = cli.main([*map(str, words), "--model", f"{folder}/model", "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def test_the_commands_keep_show_and_plot_them(run, video, tmp_path):
    path, show = tmp_path / "a.lcm", tmp_path / "shown"
    words = ["compress", video, "--out", path, "--budget", 60, "--thumbnails", 5, "--thumbnail-px", 80]
    assert run(*words)[0] == 0
    thumbnails = {t.jpeg: t.time_s for t in lc.VideoMemory.load(path).thumbnails}
    assert len(thumbnails) == 5
    code, out, _ = run("ask", path, "when is the ball seen", "what happens", "--show", show)
    assert code == 0
    files = sorted(show.iterdir())
    assert {file.name[:9] for file in files} == {"answer_01", "answer_02"}
    for file in files:
        assert f"  {file}: {thumbnails[file.read_bytes()]:.1f} s" in out
    code, out, _ = run("ask", path, "when is the ball seen", "--show", show, "--json")
    answer = json.loads(out)
    assert code == 0 and answer["thumbnails"]
    assert all(thumbnails[Path(t["path"]).read_bytes()] == t["time_s"] for t in answer["thumbnails"])
    assert "thumbnails" not in json.loads(run("ask", path, "when is the ball seen", "--json")[1])
    code, out, _ = run("ask", video, "when is the ball seen", "--show", show, "--json")  # a video itself
    assert code == 0 and json.loads(out)["thumbnails"]
    code, out, _ = run("plot", path, "--out", tmp_path / "plots")
    assert code == 0 and (tmp_path / "plots" / "a.timeline.png").stat().st_size > 1000


def test_the_commands_refuse_in_one_line(run, video, tmp_path):
    path = tmp_path / "a.lcm"
    assert run("compress", video, "--out", path, "--budget", 60)[0] == 0
    code, _, err = run("ask", path, "what happens", "--show", tmp_path / "shown")
    assert code == 3 and "has no thumbnails to --show; compress the video again with --thumbnails" in err
    code, _, err = run("compress", video, "--out", path, "--thumbnails", 3, "--thumbnail-px", 2)
    assert code == 2 and "thumbnail_px from 16 to 4096" in err


def images_of(figure):
    """The images above a timeline, each with its text and the ends of its line."""
    axes = figure.axes[0]
    lines = [line.get_xdata() for line in axes.lines]
    images = [a.offsetbox.get_data() for a in axes.artists]
    return list(zip(images, [text.get_text() for text in axes.texts], lines, strict=True))


def test_the_timeline_has_them_in_a_row_above(memory, tmp_path, monkeypatch):
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **o: figures.append(self) or save(self, *a, **o))
    events = [Event(3.0, 9.0, "a ball")]
    plot.plot_timeline(events, 40.0, tmp_path / "a.png", memory.thumbnails[:3])
    row = images_of(figures[0])
    assert [text for _, text, _ in row] == [plot._clock(t.time_s) for t in memory.thumbnails[:3]]
    for (image, _, line), thumbnail in zip(row, memory.thumbnails, strict=False):
        assert np.array_equal(image, pixels_of(thumbnail.jpeg)) and line[1] == thumbnail.time_s
    many = [replace(memory.thumbnails[0], time_s=float(k)) for k in range(40)]
    plot.plot_timeline(events, 40.0, tmp_path / "b.png", many)
    assert len(images_of(figures[1])) == 8
    plot.plot_timeline(events, 40.0, tmp_path / "c.png")
    assert len(figures[2].axes) == 1
    with pytest.raises(ValueError, match=r"no JPEG"):
        plot.plot_timeline(events, 40.0, tmp_path / "d.png", [Thumbnail(1.0, 0, b"\xff\xd8\xff\xd9")])
