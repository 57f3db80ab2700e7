"""Media become steps of fixed length, the same however they were cut."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.media.steps import Step, Steps
from longcompress.types import Audio, Frames

RATE = 100  # samples a second


def frame(time_s, value=0):
    pixels = torch.full((1, 2, 2, 3), value, dtype=torch.uint8)
    return Frames(pixels, torch.tensor([time_s], dtype=torch.float64), 0.5)


def sound(start_s, end_s):
    first, last = round(start_s * RATE), round(end_s * RATE)
    return Audio(torch.arange(first, last).float(), start_s, RATE)


def plain(step: Step):
    """A step in plain values."""
    parts = [
        (p.modality, p.start_s, p.time_s.tolist() if isinstance(p, Frames) else p.samples.tolist())
        for p in step.parts
    ]
    return step.start_s, step.end_s, parts


def steps_of(parts, step_s=1.0, media=("video", "audio"), patience_s=100.0):
    steps, out = Steps(step_s, 0.5, media, patience_s), []
    for part in parts:
        if isinstance(part, Frames):
            part = steps.thin(part)
        num = steps.num_late(part)
        part = part.cut(num, len(part))
        if len(part):
            steps.push(part)
        out += steps.due()
    return [plain(step) for step in [*out, *steps.due(flush=True)]]


def test_a_step_is_what_starts_in_it():
    got = steps_of([frame(0.0), frame(0.5), sound(0, 1.5), frame(1.2), sound(1.5, 2.0)])
    assert [(start, end) for start, end, _ in got] == [(0, 1), (1, 2)]
    assert [(kind, start) for kind, start, _ in got[0][2]] == [("video", 0.0), ("video", 0.5), ("audio", 0.0)]
    assert [(kind, start) for kind, start, _ in got[1][2]] == [("video", 1.2), ("audio", 1.0)]
    assert got[0][2][2][2] == [float(i) for i in range(100)]
    assert got[1][2][1][2] == [float(i) for i in range(100, 200)]  # joined across the pushes


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 390), min_size=0, max_size=8, unique=True), st.sampled_from([0.5, 1.0, 2.0]))
def test_nothing_depends_on_cuts(cuts, step_s):
    frames = [frame(i / 2, i) for i in range(8)]
    edges = [0, *sorted(cuts), 400]
    pieces = [sound(a / RATE, b / RATE) for a, b in pairwise(edges)]
    whole = steps_of([Frames.join(frames), sound(0, 4)], step_s)
    mixed = sorted([*frames, *pieces], key=lambda part: part.start_s)
    assert steps_of(mixed, step_s) == whole and len(whole) == 4 / step_s


def test_frames_are_thinned_to_the_first_of_each_half_second():
    frames = [frame(s) for s in (0.0, 0.1, 0.49, 0.5, 0.9, 1.3, 1.4)]
    got = steps_of([Frames.join(frames)], media=("video",))
    assert [times for _, _, parts in got for _, _, times in parts] == [[0.0], [0.5], [1.3]]


def test_a_step_waits_for_what_lags_until_patience_ends():
    steps = Steps(1.0, 0.5, ("video", "audio"), patience_s=2.0)
    steps.push(sound(0, 1))
    for second in (0.0, 1.0, 2.0):
        steps.push(frame(second))
    assert [step.end_s for step in steps.due()] == [1.0]  # frames came to 2 s, less 2 s of patience
    steps.push(frame(4.0))
    assert [step.end_s for step in steps.due()] == [2.0]
    assert steps.num_late(sound(1.0, 3.0)) == 100  # up to 2 s it was taken to be silent
    assert steps.num_late(frame(1.5)) == 1 and steps.num_late(frame(4.5)) == 0


def test_news_that_nothing_comes_makes_steps_due():
    steps = Steps(1.0, 0.5, ("video", "audio"), patience_s=100.0)
    for second in (0.0, 1.0, 2.0):
        steps.push(frame(second))
    assert list(steps.due()) == []
    steps.reach("audio", 2.0)
    assert [step.end_s for step in steps.due()] == [1.0, 2.0]


def test_a_gap_of_audio_stays_one():
    got = steps_of([sound(0, 0.4), sound(0.6, 1.0)], media=("audio",))
    assert [(start, len(samples)) for _, start, samples in got[0][2]] == [(0.0, 40), (0.6, 40)]


def test_empty_steps_are_left_out_and_an_hour_costs_nothing():
    got = steps_of([frame(0.0), frame(3600.0)], media=("video",))
    assert [start for start, _, _ in got] == [0.0, 3600.0]


def test_a_state_goes_on():
    first, second = (Steps(1.0, 0.5, ("video", "audio"), 100.0) for _ in range(2))
    for part in (frame(0.0), sound(0, 1.7), frame(1.0)):
        first.push(part)
    assert [step.start_s for step in first.due()] == [0.0]
    second.set_state(first.state())
    for steps in (first, second):
        steps.push(sound(1.7, 3.0))
    ends = [[plain(step) for step in steps.due(flush=True)] for steps in (first, second)]
    assert ends[0] == ends[1] and len(ends[0]) == 2


def test_late_samples_are_counted_alone():
    steps = Steps(1.0, 0.5, ("audio",), 100.0)
    steps.push(sound(0, 1))
    assert steps.num_late(sound(0.5, 1.5)) == 50 and steps.num_late(sound(1.0, 1.5)) == 0
    assert steps.num_late(sound(0.0, 0.5)) == 50 == len(sound(0.0, 0.5))
    assert pytest.approx(1.0) == steps.end_of("audio") and steps.end_of("video") == 0.0


def test_audio_that_comes_behind_its_frame_is_not_late():
    """As a camera gives them: a frame, then what is heard until the next, with little patience."""
    steps, num_late = Steps(1.0, 1.0, ("video", "audio"), patience_s=0.5), 0
    for second in range(5):
        part = Frames(frame(0.0).pixels, torch.tensor([float(second)], dtype=torch.float64), 1.0)
        num_late += steps.num_late(part)
        steps.push(part)
        for k in range(10):
            heard = sound(second + k / 10, second + (k + 1) / 10)
            num_late += steps.num_late(heard)
            steps.push(heard)
    assert num_late == 0 and [len(step.parts) for step in steps.due()] == [2] * 5
