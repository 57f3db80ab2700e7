"""Frames are whole files of the kind asked for, and say what they need."""

import struct
import sys
import warnings

import numpy as np
import pytest
import torch

from longcompress import files, plot
from longcompress.session import compress
from longcompress.synthetic import scenes
from longcompress.types import Event

import models

EVENTS = [Event(1.0, 4.0, "a $ red ball $"), Event(3.0, 3.0, "a beep"), Event(6.0, 9.0, "a $ red ball $")]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return scenes.write_video(
        scenes.make_scene(1, 12.0), tmp_path_factory.mktemp("video") / "a.mp4", size_px=64, rate_fps=4
    )


@pytest.fixture(scope="module")
def memory(video):
    return compress(models.model(), video, budget=40, progress=False, keep_assignment=True)


def png_size(path):
    """(width, height) from the header of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def test_a_timeline_has_a_row_for_each_text(tmp_path):
    few = plot.plot_timeline(EVENTS, 10.0, tmp_path / "few.png")
    many = [Event(float(i), i + 2.0, f"event {i}") for i in range(12)]
    more = plot.plot_timeline(many, 5000.0, tmp_path / "more.png")
    assert png_size(more)[1] > png_size(few)[1] + 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.png", "more.png"]


def test_a_timeline_shows_texts_as_they_are(tmp_path):
    svg = plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.svg").read_text()
    assert "<!-- a $ red ball $ -->" in svg
    assert "3 events in 0:10" in svg


def test_a_long_timeline_shows_the_longest_and_says_so(tmp_path):
    events = [Event(float(i), i + 1.0 + (i == 77), f"event {i}") for i in range(100)]
    svg = plot.plot_timeline(events, 100.0, tmp_path / "a.svg").read_text()
    assert "100 events in 1:40; of 100 texts the 40 that last longest" in svg
    assert svg.count("<!-- event ") == 40
    assert "<!-- event 77 -->" in svg


def test_a_timeline_of_nothing_says_so(tmp_path):
    assert "no events" in plot.plot_timeline([], 10.0, tmp_path / "a.svg").read_text()


def test_tokens_are_counted_by_stream_with_marks(memory, tmp_path):
    svg = plot.plot_tokens(memory, tmp_path / "a.svg").read_text()
    for name, tokens in memory.streams.items():
        assert f"<!-- {name}, {len(tokens)} tokens -->" in svg
    raw = round(sum(float(t.size.sum()) for t in memory.streams.values()))
    assert f"40 tokens stand for {raw} in 0:12" in svg
    assert "time marks, " in svg
    assert "tokens per 5 s" in svg


def test_every_token_is_in_one_bar(memory):
    edges = np.array([0.0, 5.0, 10.0, 15.0])
    for tokens in memory.streams.values():
        assert plot._histogram(tokens, edges).sum() == len(tokens)


def test_tokens_without_a_model_have_no_marks(video, tmp_path):
    memory = compress(models.model(), video, budget=40, progress=False)
    memory.model = None
    svg = plot.plot_tokens(memory, tmp_path / "a.svg").read_text()
    assert "time marks" not in svg


@pytest.mark.parametrize("num_frames", [1, 5, 100])
def test_merged_patches(memory, video, tmp_path, num_frames):
    path = plot.plot_merged(memory, video, tmp_path / "a.png", num_frames=num_frames)
    wide, high = png_size(path)
    assert wide > 200
    assert high > 200
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_merged_patches_name_time_and_tokens(memory, video, tmp_path):
    svg = plot.plot_merged(memory, video, tmp_path / "a.svg", num_frames=2).read_text()
    number = memory.video.assignment["video"].view(-1, 4)
    for frame in (3, 9):
        num = len(number[frame].unique())
        assert f"0:{frame:02d}   {num} token{'' if num == 1 else 's'} for 4 patches" in svg


@pytest.mark.parametrize(
    ("number", "sides"),
    [
        (np.zeros((2, 2), int), 8),  # one square: each outer patch side is a line
        (np.arange(4).reshape(2, 2), 16),  # four of their own
        (
            np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
            20,
        ),  # a ring has an inside too: 12 + 4, and the 4 of its middle
    ],
)
def test_outlines_are_closed(number, sides):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set_aspect(1)
    plot._outline(axes, number)
    lines = axes.collections[0].get_segments()
    assert len(lines) == sides
    ends = np.round(np.concatenate([line[[0, -1]] for line in lines]), 6)
    _, times = np.unique(ends, axis=0, return_counts=True)
    assert (times == 2).all()  # where a line ends, another one begins


def test_no_state_of_matplotlib_is_touched(memory, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.plot_tokens(memory, tmp_path / "a.pdf")
    assert dict(matplotlib.rcParams) == before


def test_a_failed_frame_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


class TestRefusals:
    def test_an_unknown_kind(self, tmp_path):
        with pytest.raises(ValueError, match=r"path must end in one of \.png, \.svg, \.pdf, got 'a.bmp'"):
            plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.bmp")

    def test_no_length(self, tmp_path):
        with pytest.raises(ValueError, match="duration_s must be > 0 seconds, got 0"):
            plot.plot_timeline(EVENTS, 0, tmp_path / "a.png")

    def test_no_members(self, video, tmp_path):
        memory = compress(models.model(), video, budget=40, progress=False)
        with pytest.raises(ValueError, match="compress the video with keep_assignment=True"):
            plot.plot_merged(memory, video, tmp_path / "a.png")

    def test_no_model(self, memory, video, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "model", None)
        with pytest.raises(ValueError, match="memory has no model with a video encoder"):
            plot.plot_merged(memory, video, tmp_path / "a.png")

    def test_no_frames(self, memory, video, tmp_path):
        with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
            plot.plot_merged(memory, video, tmp_path / "a.png", num_frames=0)

    def test_another_video(self, memory, tmp_path):
        short = scenes.write_video(scenes.make_scene(1, 4.0), tmp_path / "s.mp4", size_px=64, rate_fps=4)
        with pytest.raises(ValueError, match=r"source must be the video of this memory.* it has 4 frames"):
            plot.plot_merged(memory, short, tmp_path / "a.png")

    def test_a_grid_that_is_not_square(self, memory, video, tmp_path, monkeypatch):
        monkeypatch.setattr(memory.model.video, "patches", 6)
        monkeypatch.setitem(memory.video.assignment, "video", torch.zeros(72, dtype=torch.int32))
        with pytest.raises(ValueError, match="must have a square grid of patches, got 6 patches"):
            plot.plot_merged(memory, video, tmp_path / "a.png")

    def test_no_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match="pip install"):
            plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.png")
