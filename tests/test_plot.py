"""Plots show the data they are made of, are whole files of the kind asked for, and say what they need."""

import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.path import Path

import longcompress as lc
from longcompress import files, plot
from longcompress.llm.prompt import lay_out
from longcompress.synthetic import scenes
from longcompress.types import Event
from longcompress.videos import compress

import models
from stock_loaded import small
from stock_models import MODELS

pytestmark = pytest.mark.slow

EVENTS = [Event(1.0, 4.0, "a $ red ball $"), Event(3.0, 3.0, "a beep"), Event(6.0, 9.0, "a $ red ball $")]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return scenes.write_video(
        scenes.make_scene(1, 12.0), tmp_path_factory.mktemp("video") / "a.mp4", size_px=64, rate_fps=4
    )


@pytest.fixture(scope="module")
def memory(video):
    return compress(models.model(), video, budget=40, progress=False, keep_assignment=True)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, in order."""
    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: saved.append(self) or save(self, *args, **options)
    )
    return saved


def png_size(path):
    """(width, height) from the header of a PNG."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def title_of(axes):
    return axes.get_title(loc="left")


def rows_of(axes):
    """Text of each row of a timeline, and the (start_s, end_s) of its bars."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    spans = [
        [(box.x0, box.x1) for box in map(Path.get_extents, bars.get_paths())] for bars in axes.collections
    ]
    return dict(zip(labels, spans, strict=True))


def test_a_timeline_has_a_row_for_each_text(tmp_path):
    few = plot.plot_timeline(EVENTS, 10.0, tmp_path / "few.png")
    many = [Event(float(i), i + 2.0, f"event {i}") for i in range(12)]
    more = plot.plot_timeline(many, 5000.0, tmp_path / "more.png")
    assert png_size(more)[1] > png_size(few)[1] + 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.png", "more.png"]


def test_a_timeline_shows_texts_as_they_are_and_each_event_at_its_time(tmp_path, figures):
    plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.svg")
    (axes,) = figures[0].axes
    rows = rows_of(axes)
    assert rows["a $ red ball $"] == [(1.0, 4.0), (6.0, 9.0)]
    ((start_s, end_s),) = rows["a beep"]  # an instant is as wide as can be seen
    assert start_s == 3.0 and 3.0 < end_s < 3.1
    assert not any(label.get_parse_math() for label in axes.get_yticklabels())  # a dollar sign is one
    assert title_of(axes) == "3 events in 0:10" and axes.get_xlim() == (0, 10)


def test_a_long_timeline_shows_the_longest_and_says_so(tmp_path, figures):
    events = [Event(float(i), i + 1.0 + (i == 77), f"event {i}") for i in range(100)]
    plot.plot_timeline(events, 100.0, tmp_path / "a.svg")
    (axes,) = figures[0].axes
    assert title_of(axes) == "100 events in 1:40; of 100 texts the 40 that last longest"
    assert len(rows_of(axes)) == 40 and rows_of(axes)["event 77"] == [(77.0, 79.0)]


def test_a_timeline_of_nothing_says_so(tmp_path, figures):
    plot.plot_timeline([], 10.0, tmp_path / "a.svg")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["no events"]


def test_every_token_is_in_one_bar_of_its_stream(memory, tmp_path, figures):
    plot.plot_tokens(memory, tmp_path / "a.svg")
    (axes,) = figures[0].axes
    bars = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert list(map(len, bars.values())) == [3, 3]  # of 5 seconds each
    for name, tokens in memory.streams.items():
        assert sum(bars[f"{name}, {len(tokens)} tokens"]) == len(tokens)
    raw = round(sum(float(t.size.sum()) for t in memory.streams.values()))
    assert title_of(axes).startswith(f"40 tokens stand for {raw} in 0:12")
    assert axes.get_ylabel() == "tokens per 5 s"


def test_timestamps_stand_where_the_prompt_has_them(memory, tmp_path, figures):
    plot.plot_tokens(memory, tmp_path / "a.svg")
    llm = memory.model.llm
    want = lay_out(memory.video, llm.tokenizer, llm.settings, llm.names).shown_s
    (line,) = figures[0].axes[0].lines
    assert line.get_xdata().tolist() == list(want)


def test_tokens_without_a_model_have_no_timestamps(video, tmp_path, figures):
    memory = compress(models.model(), video, budget=40, progress=False)
    memory.model = None
    plot.plot_tokens(memory, tmp_path / "a.svg")
    assert not figures[0].axes[0].lines


@pytest.mark.parametrize("num_frames", [1, 5, 100])
def test_merged_patches(memory, video, tmp_path, num_frames, figures):
    path = plot.plot_merged(memory, video, tmp_path / "a.png", num_frames=num_frames)
    wide, high = png_size(path)
    assert wide > 200
    assert high > 200
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert len(figures[0].axes) == min(num_frames, 12)


def test_merged_patches_name_time_and_tokens(memory, video, tmp_path, figures):
    plot.plot_merged(memory, video, tmp_path / "a.svg", num_frames=2)
    number = memory.video.assignment["video"].view(-1, 4)
    for frame, axes in zip((3, 9), figures[0].axes, strict=True):
        num = len(number[frame].unique())
        assert axes.get_title() == f"0:{frame:02d}   {num} token{'' if num == 1 else 's'} for 4 patches"


@pytest.mark.parametrize(
    ("number", "sides"),
    [
        (np.zeros((2, 2), int), 8),  # one square: each outer patch side is a line
        (np.arange(4).reshape(2, 2), 16),  # four tokens
        (
            np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
            20,  # a ring has an inside too: 12 + 4, and the 4 of its middle
        ),
    ],
)
def test_outlines_are_closed(memory, video, tmp_path, monkeypatch, figures, number, sides):
    monkeypatch.setattr(memory.model.video, "patches", number.size)
    monkeypatch.setattr(memory.model.video, "grid", number.shape)
    assignment = torch.from_numpy(np.tile(number.ravel(), 12).astype(np.int32))  # of 12 frames
    monkeypatch.setitem(memory.video.assignment, "video", assignment)
    plot.plot_merged(memory, video, tmp_path / "a.png", num_frames=1)
    lines = figures[0].axes[0].collections[0].get_segments()
    assert len(lines) == sides
    ends = np.round(np.concatenate([line[[0, -1]] for line in lines]), 6)
    _, times = np.unique(ends, axis=0, return_counts=True)
    assert (times == 2).all()  # where a line ends, another begins


@pytest.fixture(scope="module")
def stock(video):
    """A stock model whose tokens are of two frames each, and a memory of it."""
    model = small(lc.from_transformers(*MODELS["qwen3_vl"]()))
    return compress(model, video, budget=4, progress=False, keep_assignment=True)


def test_a_token_of_several_frames_is_shown_on_its_first(stock, video, tmp_path, figures):
    plot.plot_merged(stock, video, tmp_path / "a.svg", num_frames=2)
    per_token, rate = stock.model.video.frames_per_token, stock.model.config.media.rate_fps
    num = len(stock.video.assignment["video"]) // stock.model.video.patches
    assert per_token == 2 and num == 12 * rate / 2
    times = [axes.get_title().split()[0] for axes in figures[0].axes]
    assert times == [f"0:{int((k + 0.5) * num / 2) * per_token / rate:02.0f}" for k in range(2)]


def test_a_stock_model_shows_no_timestamps_of_ours(stock, tmp_path, figures):
    plot.plot_tokens(stock, tmp_path / "a.svg")
    assert not figures[0].axes[0].lines


def test_no_state_of_matplotlib_is_touched(memory, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot.plot_tokens(memory, tmp_path / "a.pdf")
    assert dict(matplotlib.rcParams) == before


def test_a_failed_plot_leaves_nothing(tmp_path, monkeypatch):
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

    def test_tokens_that_lie_in_no_square(self, video, tmp_path):
        model = lc.from_transformers(*MODELS["video_llava"]())
        memory = compress(model, video, budget=40, progress=False, keep_assignment=True)
        with pytest.raises(ValueError, match=r"a frame's tokens in a square, got 1 x \d+"):
            plot.plot_merged(memory, video, tmp_path / "a.png")

    def test_no_matplotlib(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match="pip install"):
            plot.plot_timeline(EVENTS, 10.0, tmp_path / "a.png")
