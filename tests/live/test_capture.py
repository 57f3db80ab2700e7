"""What waits for a session has a bound, and the ladder says what is dropped."""

import time

import pytest
import torch

from longcompress.live.capture import Capture
from longcompress.session_events import Dropped
from longcompress.types import Audio, Frames


def parts(num):
    """A frame and its second of audio, again and again."""
    for i in range(num):
        yield Frames(
            torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.tensor([float(i)], dtype=torch.float64), 1.0
        )
        yield Audio(torch.full((16000,), float(i)), float(i))


def read_all(capture):
    capture._thread.join(10)
    return list(capture)


def test_what_fits_comes_as_it_is():
    got = read_all(Capture(parts(3), 5.0, may_drop=True))
    assert [part.start_s for part in got] == [0, 0, 1, 1, 2, 2]


def test_the_ladder_drops_frames_first_then_old_audio():
    got = read_all(Capture(parts(5), 3.0, may_drop=True))  # behind by 5 s: frames alone
    dropped = [item for item in got if isinstance(item, Dropped)]
    assert {item.what for item in dropped} == {"video"} and "behind by 4.0 s" in dropped[0].reason
    assert [part.start_s for part in got if isinstance(part, Frames)] == [4.0]
    assert [part.start_s for part in got if isinstance(part, Audio)] == [0, 1, 2, 3, 4]
    got = read_all(Capture(parts(20), 3.0, may_drop=True))
    dropped = [item for item in got if isinstance(item, Dropped)]
    assert {item.what for item in dropped} == {"video", "audio"}
    heard = [part for part in got if isinstance(part, Audio)]
    assert heard[-1].end_s - heard[0].start_s <= 6.0 + 1 and heard[-1].end_s == 20.0
    lost_s = sum(item.end_s - item.time_s for item in dropped if item.what == "audio")
    assert lost_s + sum(len(part) for part in heard) / 16000 == 20.0  # each second comes or is told of


def test_a_file_waits_instead():
    pulled = []

    def source():
        for part in parts(20):
            pulled.append(part)
            yield part

    capture = Capture(source(), 3.0, may_drop=False)
    time.sleep(0.3)
    assert len(pulled) <= 8 and capture.lag_s <= 4.0
    assert len(list(capture)) == 40


def test_an_error_comes_behind_what_came_before():
    def source():
        yield from parts(2)
        raise OSError("the cable is out")

    capture, got = Capture(source(), 5.0, may_drop=True), []
    with pytest.raises(OSError, match="the cable is out"):
        for part in capture:
            got.append(part)
    assert len(got) == 4 and next(capture, None) is None


def test_a_closed_capture_ends():
    capture = Capture(parts(10_000), 3.0, may_drop=False)
    next(capture)
    capture.close()
    assert next(capture, None) is None
    capture._thread.join(5)
    assert not capture._thread.is_alive()


def test_bad_lag():
    with pytest.raises(ValueError, match="max_lag_s must be > 0 seconds, got 0"):
        Capture(parts(1), 0, may_drop=True)
