"""Subtitle tracks inside files, on the clock of the frames."""

import av
import pytest

from longcompress.media import read
from longcompress.media.text_track import read_text_track
from longcompress.types import Frames

import videos

SRT = "1\n00:00:01,000 --> 00:00:02,500\nHello\n\n2\n00:00:03,000 --> 00:00:03,500\nÜber, alles\n"


def with_track(tmp_path, spec, srt=SRT, shift_s=0.0):
    """A Matroska file with a text track, all stamps later by `shift_s`."""
    video = videos.write(tmp_path / "v.mkv", spec)
    (tmp_path / "x.srt").write_text(srt)
    with (
        av.open(str(video)) as whole, av.open(str(tmp_path / "x.srt")) as text,
        av.open(str(tmp_path / "out.mkv"), "w") as out,
    ):  # fmt: skip
        pairs = [(stream, out.add_stream_from_template(stream)) for stream in (*whole.streams, *text.streams)]
        for source, streams in ((whole, pairs[:-1]), (text, pairs[-1:])):
            for packet in source.demux():
                if packet.size:
                    packet.pts += round(shift_s / packet.time_base)
                    packet.dts += round(shift_s / packet.time_base)
                    packet.stream = dict(streams)[packet.stream]
                    out.mux(packet)
    return str(tmp_path / "out.mkv")


@pytest.mark.parametrize("shift_s", [0.0, 5.0])
def test_cues_are_on_the_clock_of_the_frames(tmp_path, shift_s):
    path = with_track(tmp_path, videos.Video(audio_codec=None, options={"bf": "0"}), shift_s=shift_s)
    cues, wrong = read_text_track(path)
    assert wrong == "" and [text for _, _, text in cues] == ["Hello", "Über, alles"]
    assert [t for cue in cues for t in cue[:2]] == pytest.approx([1.0, 2.5, 3.0, 3.5], abs=2e-3)
    with read(
        path, times=[cues[0][0] + 0.01]
    ) as parts:  # the frame shown then is the 26th, wherever stamps begin
        assert [videos.number_of(part.pixels[0]) for part in parts if isinstance(part, Frames)] == [25]


def test_a_file_without_a_track_has_no_cues(tmp_path):
    assert read_text_track(videos.write(tmp_path / "v.mp4", videos.Video())) == ([], "")


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"v\.mp4"):
        read_text_track(tmp_path / "v.mp4")
