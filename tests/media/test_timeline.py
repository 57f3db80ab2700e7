"""Stamps of files that were put together go on, tracks together; wrong ones are left out; packets in step."""

from dataclasses import dataclass
from fractions import Fraction

import pytest

from longcompress.media.timeline import Placed, Timeline, in_step


@dataclass
class Packet:
    """What the timeline sees of a packet, in ms."""

    stream_index: int
    pts: int | None
    dts: int | None
    duration: int = 40
    size: int = 1
    time_base: Fraction = Fraction(1, 1000)
    is_discard: bool = False


def packets(video, audio):
    """Packets of both tracks, by stamp."""
    both = [Packet(0, t, t) for t in video] + [Packet(1, t, t, 20) for t in audio]
    return sorted(both, key=lambda p: (p.dts, -p.stream_index))


def placed(pieces, may_restart=True):
    """((track, ms) of every packet, the timeline)."""
    timeline = Timeline(0.0, may_restart)
    out = [timeline.place(packet) for piece in pieces for packet in piece]
    return [(p.packet.stream_index, p.packet.pts, round(p.time_s * 1000)) for p in out], timeline


@pytest.mark.parametrize("may_restart", [True, False])
@pytest.mark.parametrize("audio_ms", [11000, 12000, 12740])
def test_a_restart_moves_both_tracks_by_the_length_of_the_longer(may_restart, audio_ms):
    piece = [(range(0, 12000, 40), range(0, audio_ms, 20))] * 5
    out, timeline = placed([packets(*p) for p in piece], may_restart)
    length = max(12000, audio_ms)
    for index, step, end in ((0, 40, 12000), (1, 20, audio_ms)):
        want = [n * length + t for n in range(5) for t in range(0, end, step)]
        assert [pts for i, pts, _ in out if i == index] == want
    assert timeline.num_restarts == 4 and timeline.num_wrong == 0
    assert timeline.warning().startswith(f"time stamps: 4 restarts, the first at {length / 1000:.1f} s")


@pytest.mark.parametrize("clock_ms", [0, 3_000_000])
def test_a_packet_of_the_piece_before_that_comes_late_pushes_the_new_piece_back(clock_ms):
    """MPEG-TS gives a track's last packet only when the track goes on."""
    first = packets(range(0, 12000, 40), range(0, 11000, 20))
    last = next(p for p in reversed(first) if p.stream_index == 0)
    first.remove(last)
    second = packets(range(clock_ms, clock_ms + 12000, 40), range(clock_ms, clock_ms + 11000, 20))
    second.insert(1, last)
    out, timeline = placed([first, second])
    video = [pts for i, pts, _ in out if i == 0]
    assert video == [n * 12000 + t for n in range(2) for t in range(0, 12000, 40)]
    audio = [pts for i, pts, _ in out if i == 1]  # also what was placed before the late packet
    assert audio == [n * 12000 + t for n in range(2) for t in range(0, 11000, 20)]
    assert timeline.num_restarts == 1 and all(pts == time for _, pts, time in out)


def test_a_late_packet_of_a_track_that_ended_minutes_before_is_no_restart():
    first = packets(range(0, 12000, 40), range(0, 200_000, 20))
    last = [p for p in first if p.stream_index == 0][-1]
    first.remove(last)
    second = packets(range(900_000, 912_000, 40), range(900_000, 912_000, 20))
    second.insert(1, last)
    out, timeline = placed([first, second])
    video = [pts for i, pts, _ in out if i == 0]
    assert video == [*range(0, 12000, 40), *range(200_000, 212_000, 40)]
    assert timeline.num_restarts == 1 and timeline.num_wrong == 0


@pytest.mark.parametrize("begin_s", [89.5, 95_400.0])
def test_a_33_bit_clock_that_turns_or_restarts_at_0(begin_s):
    """FFmpeg adds a turn to stamps that are a minute or more before the first, also after a restart at 0."""
    turn = 1 << 33
    first_s = int(begin_s * 25) / 25
    whole = [first_s + k / 25 for k in range(3000)]  # turns after 43 s, in the second case
    pieces = [whole] if begin_s > 1000 else [whole, [k / 25 for k in range(3000)]]
    timeline = Timeline(first_s, may_restart=True)
    times = []
    for piece in pieces:
        for second in piece:
            ticks = round(second * 90000) % turn
            ticks += turn if ticks < (first_s - 60) * 90000 else 0
            packet = Packet(0, ticks, ticks, 3600, time_base=Fraction(1, 90000))
            times.append(round(25 * timeline.place(packet).time_s, 3))
            assert packet.pts == pytest.approx((first_s + times[-1] / 25) * 90000, abs=2)
    assert times == list(range(3000 * len(pieces)))
    assert timeline.num_restarts == len(pieces) - 1 and timeline.num_wrong == 0


def test_a_jump_ahead_of_everything_is_closed_where_the_clock_may_restart():
    pieces = [packets(range(0, 5000, 40), range(0, 5000, 20))]
    pieces.append(packets(range(1_805_000, 1_810_000, 40), range(1_805_000, 1_810_000, 20)))
    out, timeline = placed(pieces)
    assert max(pts for _, pts, _ in out) == 9980 and timeline.num_restarts == 1
    pieces = [packets(range(0, 5000, 40), range(0, 5000, 20))]
    pieces.append(packets(range(1_805_000, 1_810_000, 40), range(1_805_000, 1_810_000, 20)))
    out, timeline = placed(pieces, may_restart=False)  # there stamps are what they say
    assert max(pts for _, pts, _ in out) == 1_809_980 and timeline.warning() is None


@pytest.mark.parametrize("may_restart", [True, False])
def test_a_track_that_paused_is_no_restart(may_restart):
    out, timeline = placed(
        [packets(range(0, 300_000, 40), [*range(0, 5000, 20), *range(250_000, 300_000, 20)])], may_restart
    )
    assert timeline.warning() is None
    assert all(pts == time for _, pts, time in out)


@pytest.mark.parametrize("may_restart", [True, False])
@pytest.mark.parametrize("wrong", [9_000_000, -8000])
def test_a_single_wrong_stamp_moves_nothing_else(may_restart, wrong):
    piece = packets(range(0, 10_000, 40), range(0, 10_000, 20))
    bad = next(p for p in piece if p.stream_index == 0 and p.dts == 4000)
    bad.pts = bad.dts = wrong
    out, timeline = placed([piece], may_restart)
    others = [(pts, time) for (i, pts, time), p in zip(out, piece, strict=True) if p is not bad]
    assert all(pts == time for pts, time in others) and max(pts for pts, _ in others) == 9980
    assert timeline.num_restarts == 0 and timeline.num_wrong == 1


def test_a_header_that_begins_too_late_moves_nothing_to_before_the_start():
    timeline = Timeline(0.404, may_restart=False)
    piece = packets(range(0, 2000, 40), range(404, 2400, 20))
    times = [timeline.place(packet).time_s for packet in piece]
    assert times == pytest.approx([packet.dts / 1000 - 0.404 for packet in piece])
    assert min(times) == 0 and timeline.warning() is None


def test_without_a_start_in_the_header_the_media_begins_with_its_first_packet():
    timeline = Timeline(None, may_restart=False)
    stamps = [2635, 3635, 3735]
    assert [round(1000 * timeline.place(Packet(0, t, t)).time_s) for t in stamps] == [0, 1000, 1100]
    assert timeline.num_restarts == timeline.num_wrong == 0


def test_packets_without_stamps_follow():
    piece = packets(range(0, 2000, 40), range(0, 2000, 20))
    for packet in piece[5:40:3]:
        packet.pts = packet.dts = None
    _, timeline = placed([piece])
    assert timeline.warning() is None and timeline.end_s == pytest.approx(2.0)


def test_packets_come_in_the_order_of_their_times():
    video = [Placed(Packet(0, t, t), t / 1000) for t in range(0, 5000, 40)]
    audio = [Placed(Packet(1, t, t), t / 1000) for t in range(0, 5000, 20)]
    times = [p.time_s for p in in_step([*audio, *video], [0, 1], 1000)]
    assert times == sorted(p.time_s for p in video + audio)


def test_a_track_that_pauses_is_waited_for_up_to_a_number_of_bytes():
    video = [Placed(Packet(0, t, t), float(t)) for t in range(100)]
    audio = [Placed(Packet(1, 0, 0), 0.0), Placed(Packet(1, 90, 90), 90.0)]
    source = iter([*video[:1], audio[0], *video[1:90], audio[1], *video[90:]])
    packets_in_step = in_step(source, [0, 1], 20)
    seen = [next(packets_in_step) for _ in range(60)]
    assert [p.time_s for p in seen] == [0.0, 0.0, *map(float, range(1, 59))]
    assert len(list(packets_in_step)) == 42
