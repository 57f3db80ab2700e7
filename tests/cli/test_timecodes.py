"""EDL: timecodes count at a usual rate from the camera's start, or are refused before the work."""

from fractions import Fraction

import av
import pytest

from longcompress.cli.main import main
from longcompress.events.files import write_events
from longcompress.media import probe
from longcompress.types import Event


def clip(path, rate, num, timecode=""):
    """A video of a constant rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width = stream.height = 32
        if timecode:
            stream.metadata["timecode"] = timecode
        for _ in range(num):
            container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [24, 25, Fraction(30000, 1001), 30, 50])
def test_usual_rates(tmp_path, rate):
    assert probe(clip(tmp_path / "v.mp4", rate, 60)).timecode_fps == pytest.approx(float(rate))


def test_a_phone_video_of_variable_rate_counts_at_its_base_rate(tmp_path):
    """30 frames a second, then 10: the average would move every timecode."""
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "bf": "0"})
        stream.width = stream.height = 32
        for number in [*range(300), *range(300, 900, 3)]:
            frame = av.VideoFrame(32, 32, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.timecode_fps == 30 and info.rate_fps < 20


def test_a_rate_that_timecodes_do_not_count_in_is_refused_before_the_work(tmp_path, capsys):
    path = clip(tmp_path / "slow.mp4", Fraction(2, 11), 5)
    assert main(["events", str(path), "--out", str(tmp_path / "e.edl")]) == 2
    captured = capsys.readouterr()
    assert "give --timecode-fps" in captured.err and not (tmp_path / "e.edl").exists()


def test_timecodes_count_from_the_cameras_start(tmp_path):
    info = probe(clip(tmp_path / "camera.mov", 25, 50, timecode="01:00:00:00"))
    assert info.timecode == "01:00:00:00"
    edl = tmp_path / "e.edl"
    events = [Event(60.0, 61.0, "x")]
    write_events(events, edl, "edl", rate_fps=info.timecode_fps or 0.0, timecode=info.timecode)
    assert "01:01:00:00 01:01:01:00" in edl.read_text()
