"""Streams of audio: as many tokens as the tables say, the same for any cuts, those of the whole track."""

import random
from itertools import pairwise

import pytest
import torch

from longcompress.config import AudioConfig, MediaConfig
from longcompress.encoders import AudioEncoder, BeatsEncoder, Stream
from longcompress.encoders.beats import Beats
from longcompress.encoders.fbank import beats_filters, num_frames
from longcompress.encoders.whisper import Means
from longcompress.types import Audio, Encoded, Tokens

from models import hearing, listening

RATE = 16000
MEDIA = MediaConfig()
# seconds: windows of BEATs as released, and all of them; means of Whisper as released, and of what is heard
TABLE = {
    5.12: (1, 1, 5, 1), 30: (6, 6, 5, 6), 60: (12, 12, 11, 12), 200: (39, 40, 41, 40), 235: (46, 46, 46, 46),
    600: (117, 118, 117, 118),
}  # fmt: skip


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    """Audio that grows louder."""
    num = round(seconds * RATE)
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num, generator=generator) * torch.linspace(0.01, 0.3, num)).clamp(-1, 1)


def streamed(encoder, parts: list[Audio]) -> Encoded:
    """All that a stream of the encoder gives of these parts."""
    stream = Stream(encoder)
    encoded = [e for part in parts for e in stream.push(part)] + stream.flush()
    assert stream.num_pending == 0
    return Encoded.join(encoded)


def in_parts(samples: torch.Tensor, num: int, seed: int, start_s: float = 0.0) -> list[Audio]:
    """The samples in `num` parts, cut anywhere."""
    rng = random.Random(seed)
    cuts = [0, *sorted(rng.sample(range(1, len(samples)), num - 1)), len(samples)]
    return [Audio(samples[a:b], start_s + a / RATE) for a, b in pairwise(cuts)]


def same(a: Encoded, b: Encoded) -> bool:
    """Equal to the bit."""
    fields = ("x", "size", "time_s", "start_s", "end_s")
    return torch.equal(a.metric, b.metric) and all(
        torch.equal(getattr(a.tokens, f), getattr(b.tokens, f)) for f in fields
    )


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["kept", "released"])
@pytest.mark.parametrize("seconds", TABLE)
def test_the_number_of_tokens_is_that_of_the_tables(seconds, tail):
    samples = noise(seconds)
    for encoder, (num_released, num_all) in (
        (hearing(tail=tail), TABLE[seconds][:2]),
        (listening(tail=tail), TABLE[seconds][2:]),
    ):
        got = streamed(encoder, [Audio(samples, 0.0)])
        assert (
            len(got)
            == (num_released if tail == "released" else num_all)
            == encoder.num_tokens(seconds, MEDIA)
        )
        assert got.tokens.x.isfinite().all() and (got.tokens.end_s > got.tokens.start_s).all()
        assert float(got.tokens.end_s[-1]) <= seconds + 1e-9
        assert (got.tokens.start_s.diff() >= 0).all()


@pytest.mark.parametrize("tail", ["kept", "released"])
def test_windows_are_those_of_the_whole_track(tail):
    encoder, samples = hearing(tail=tail), noise(17.77)  # three windows and 239 frames
    got = streamed(encoder, [Audio(samples, 3.0)])
    mel = beats_filters(samples)
    assert len(mel) == num_frames(len(samples)) == 1775 == 3 * 512 + 239
    want = [encoder.encoder(mel[None, 512 * k : 512 * (k + 1)]).mean(1) for k in range(3)]
    if tail == "kept":
        want.append(encoder.encoder(mel[None, 1536:]).mean(1))
    torch.testing.assert_close(got.tokens.x, torch.cat(want), rtol=1e-4, atol=1e-4)
    starts = torch.arange(len(want), dtype=torch.float64) * 5.12 + 3
    torch.testing.assert_close(got.tokens.start_s, starts, rtol=0, atol=1e-9)


def test_a_last_window_as_released_ends_in_the_average_audio():
    encoder, samples = hearing(tail="released"), noise(4.0)
    mel = beats_filters(samples)
    want = encoder.encoder(torch.cat([mel, torch.zeros(512 - len(mel), 128)])[None]).mean(1)
    torch.testing.assert_close(streamed(encoder, [Audio(samples, 0.0)]).tokens.x, want)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tail", ["kept", "released"])
@pytest.mark.parametrize("make", [hearing, listening])
def test_tokens_do_not_depend_on_the_cuts(make, tail, seed):
    encoder, samples = make(tail=tail), noise(33.0 + 0.4 * seed, seed)
    whole = streamed(encoder, [Audio(samples, 0.0)])
    assert same(whole, streamed(encoder, in_parts(samples, 9, seed)))


@pytest.mark.parametrize("num", [81919, 81920, 81921, 82159, 82160, 82161, 84320])
def test_samples_around_the_end_of_a_window(num):
    encoder, samples = hearing(), noise(6.0)[:num]
    whole = streamed(encoder, [Audio(samples, 0.0)])
    assert len(whole) == encoder.num_tokens(num / RATE, MEDIA) == 1 + (num_frames(num) >= 512 + 16)
    single = Stream(encoder)
    encoded = [
        e for at in range(0, num, 7919) for e in single.push(Audio(samples[at : at + 7919], at / RATE))
    ]
    assert single.num_pending <= encoder.block + encoder.lookahead
    assert same(whole, Encoded.join(encoded + single.flush()))


def test_audio_that_is_too_short_has_no_window():
    stream = Stream(hearing())
    assert stream.push(Audio(noise(0.1), 0.0)) == []
    assert [len(e) for e in stream.flush()] == [0]
    assert hearing().num_tokens(0.1, MEDIA) == 0 == hearing().num_tokens(0.0, MEDIA)


def test_means_over_the_ends_of_blocks_are_means_of_all_positions():
    encoder, samples = listening(), noise(70.0)
    got = streamed(encoder, [Audio(samples, 0.0)])
    with torch.no_grad():
        x = torch.cat(
            [encoder.features(samples[None, at : at + 480000])[0] for at in range(0, len(samples), 480000)]
        )
    x = x[: 50 * 70]  # positions that hear anything
    want = torch.stack([x[at : at + 256].mean(0) for at in range(0, len(x), 256)])
    torch.testing.assert_close(got.tokens.x, want)
    assert got.tokens.end_s[:-1].tolist() == pytest.approx([5.12 * (k + 1) for k in range(len(want) - 1)])
    released = streamed(listening(tail="released"), [Audio(samples, 0.0)])
    assert len(released) == 17 and same(released.rows(0, 13), got.rows(0, 13))


@pytest.mark.parametrize("make", [hearing, listening])
def test_tokens_begin_anew_behind_a_gap(make):
    encoder = make()
    first, second = noise(7.0, 1), noise(9.0, 2)
    alone = [streamed(encoder, [Audio(first, 0.0)]), streamed(encoder, [Audio(second, 100.0)])]
    both = streamed(encoder, [*in_parts(first, 3, 0), *in_parts(second, 3, 0, 100.0)])
    assert same(Encoded.join(alone), both)


@pytest.mark.parametrize("make", [hearing, listening])
def test_a_copy_and_a_state_go_on_alike(make):
    encoder, samples = make(), noise(41.0)
    parts = in_parts(samples, 12, 3)
    stream = Stream(encoder)
    for part in parts[:7]:
        stream.push(part)
    ended, restored = stream.copy(), Stream(encoder)
    restored.set_state(stream.state())
    ended.flush()
    ends = []
    for twin in (stream, restored):
        ends.append([e for part in parts[7:] for e in twin.push(part)] + twin.flush())
    assert all(same(a, b) for a, b in zip(*ends, strict=True)) and ends[0]


def encoded(num: int, start_s: float, patches: int = 1) -> Encoded:
    """Tokens of a second each that count on from start_s."""
    at = torch.arange(num, dtype=torch.float64) + start_s
    tokens = Tokens(at.float()[:, None], torch.ones(num), at + 0.5, at, at + 1)
    return Encoded(tokens, -at.float()[:, None], at.float()[:, None, None])


def test_means_take_metric_and_summary_along():
    means = Means(4)
    assert means.push(encoded(3, 0.0)) == []
    (got,) = means.push(encoded(6, 3.0))
    assert (
        got.tokens.x[:, 0].tolist()
        == [1.5, 5.5]
        == got.summary[:, 0, 0].tolist()
        == (-got.metric[:, 0]).tolist()
    )
    assert got.tokens.start_s.tolist() == [0, 4] and got.tokens.end_s.tolist() == [4, 8]
    assert got.tokens.time_s.tolist() == [2, 6] and got.tokens.size.tolist() == [1, 1]
    (rest,) = means.push(encoded(2, 20.0))  # behind a gap
    assert rest.tokens.x[:, 0].tolist() == [8] and rest.tokens.end_s.tolist() == [9]
    (last,) = means.flush()
    assert last.tokens.x[:, 0].tolist() == [20.5] and means.flush() == []


def test_encoders_of_audio_are_saved_and_loaded(tmp_path):
    samples = noise(8.0)
    for encoder, kind in ((hearing(), BeatsEncoder), (listening(), AudioEncoder)):
        encoder.save_pretrained(tmp_path / kind.__name__)
        loaded = kind.load(encoder.config, tmp_path / kind.__name__)
        assert same(*(streamed(e, [Audio(samples, 0.0)]) for e in (encoder, loaded)))


def test_a_window_has_a_summary_if_it_is_asked_for():
    got = streamed(hearing(summary=True), [Audio(noise(11.0), 0.0)])
    assert torch.equal(got.summary[:, 0], got.tokens.x) and len(got) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: listening(pool_across=False),
            "pool must divide the encoder's 1500 positions a block, got 256",
        ),
        (lambda: AudioConfig(kind="beats", pool_across=True), 'pool_across and layer are for kind "whisper"'),
        (lambda: AudioConfig(kind="beats", layer=-2), 'pool_across and layer are for kind "whisper"'),
        (
            lambda: BeatsEncoder(Beats(hearing().encoder.config), AudioConfig(kind="beats", metric_width=7)),
            "width of",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
