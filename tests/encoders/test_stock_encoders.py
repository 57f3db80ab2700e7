"""Encoders of stock models give, block by block and however the media is cut, what the model itself gives."""

import random
from itertools import pairwise

import pytest
import torch
from transformers import WhisperFeatureExtractor

from longcompress.config import AudioConfig, MediaConfig, VisionConfig
from longcompress.encoders import StockAudio, StockVision, Stream
from longcompress.encoders.families import FAMILIES, patchify
from longcompress.encoders.stock import encoder_state
from longcompress.types import Audio, Encoded, Frames

from helpers import assert_within, normal
from stock_inputs import stock_mel
from stock_models import MODELS, names_of

SQUARE = {"llava_onevision": 28, "smolvlm": 32, "internvl": 32, "video_llava": 32, "llava_next_video": 32}
HEARS = ("qwen2_5_omni", "qwen3_omni")
BLOCKS = (2, 4, 8, 16)
RATE = 16000
STEP_S = 0.5


@pytest.fixture(scope="module")
def models():
    cached = {}

    def model_of(name):
        if name not in cached:
            cached.clear()
            cached[name] = MODELS[name]()[0]
        return cached[name]

    return model_of


def vision_of(model, name, batch_size=8, **config):
    size = SQUARE.get(name, 32)
    family = FAMILIES[model.config.model_type]
    return StockVision(model, family, VisionConfig(batch_size=batch_size, **config), size)


def audio_of(model, **config):
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=30)
    return StockAudio(model, FAMILIES[model.config.model_type], AudioConfig(**config), extractor)


def clip(num, size, seed=0):
    """`num` random frames a step apart, from 3 s on."""
    random_ = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num, size, size, 3), dtype=torch.uint8, generator=random_)
    return Frames(pixels, 3.0 + torch.arange(num, dtype=torch.float64) * STEP_S, STEP_S)


def noise(seconds, seed=0):
    """Audio that grows louder."""
    num = round(seconds * RATE)
    return (normal(num, seed=seed) * torch.linspace(0.01, 0.3, num)).clamp(-1, 1)


def streamed(encoder, parts):
    """All that a stream of the encoder gives of these parts."""
    stream = Stream(encoder)
    encoded = [e for part in parts for e in stream.push(part)] + stream.flush()
    assert stream.num_pending == 0
    return Encoded.join(encoded)


def cut_anywhere(part, num, seed):
    """The frames or audio in `num` parts."""
    cuts = sorted(random.Random(seed).sample(range(1, len(part)), num - 1))
    return [part.cut(a, b) for a, b in pairwise([0, *cuts, len(part)])]


def assert_same(got, want):
    """Fails unless equal to the bit."""
    assert torch.equal(got.metric, want.metric)
    for field in ("x", "size", "time_s", "start_s", "end_s", "place"):
        assert torch.equal(getattr(got.tokens, field), getattr(want.tokens, field)), field


def whole_clip(encoder, pixels):
    """The features of the whole clip, as the model itself makes them at once.

    The last frame stands twice behind an odd number of frames: the sums of a matrix product with an odd
    number of rows differ in the last bit.
    """
    pixels = torch.cat([pixels, pixels[-1:]])[: len(pixels) + len(pixels) % 2]
    mean, std = (torch.tensor(value)[:, None, None] for value in encoder.norm)
    x = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        return encoder.family.features(encoder.model, x)


@pytest.mark.parametrize("num", [22, 19], ids="{} frames".format)
@pytest.mark.parametrize("name", names_of(MODELS))
def test_blocks_give_the_bits_of_the_whole_clip(name, num, models):
    model = models(name)
    frames = clip(num, SQUARE.get(name, 32))
    want = whole_clip(vision_of(model, name), frames.pixels)
    for batch_size in BLOCKS:
        encoder = vision_of(model, name, batch_size)
        got = streamed(encoder, [frames])
        assert torch.equal(got.tokens.x, want[: len(got)]), batch_size
        assert len(got) == encoder.num_tokens(num * STEP_S, MediaConfig(rate_fps=1 / STEP_S))


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl", "llava_onevision", "smolvlm", "gemma4"])
def test_cuts_of_a_video_change_nothing(name, models):
    encoder = vision_of(models(name), name, 4)
    frames = clip(13, encoder.size_px)
    whole = streamed(encoder, [frames])
    for seed, num in enumerate((2, 5, 13)):
        assert_same(streamed(encoder, cut_anywhere(frames, num, seed)), whole)


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm"])
def test_a_token_has_the_time_and_the_place_of_its_patch(name, models):
    encoder = vision_of(models(name), name, 4)
    num, step = 7, encoder.frames_per_token
    tokens = streamed(encoder, [clip(num, encoder.size_px)]).tokens
    steps = -(-num // step)
    rows, columns = encoder.grid
    assert len(tokens) == steps * rows * columns
    first = torch.arange(steps, dtype=torch.float64) * step
    last = (first + step).clamp_max(num)  # the last token of an odd video has one frame
    for got, want in ((tokens.start_s, first), (tokens.end_s, last)):
        assert torch.equal(got, (3 + want * STEP_S).repeat_interleave(rows * columns))
    assert torch.equal(tokens.time_s, (tokens.start_s + tokens.end_s) / 2)
    assert torch.equal(tokens.place[:, 0], tokens.start_s)
    grid = tokens.place[:, 1:].view(steps, rows, columns, 2)
    assert (grid[..., 0] == torch.arange(rows)[:, None]).all()
    assert (grid[..., 1] == torch.arange(columns)).all()


def test_a_token_changes_with_its_own_patch_most(models):
    """Rows and columns are not mixed up: another patch of the frame changes the token at its place most."""
    encoder = vision_of(models("qwen3_vl"), "qwen3_vl", 4)
    frames = clip(4, 32)
    before = encoder.encode(frames).tokens
    edge = encoder.size_px // encoder.grid[0]
    for row, column in ((0, 3), (2, 1)):
        pixels = frames.pixels.clone()
        pixels[2:, row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] ^= 255
        after = encoder.encode(Frames(pixels, frames.time_s, STEP_S)).tokens
        index = int((after.x - before.x).abs().sum(1).argmax())
        assert after.place[index].tolist() == [4.0, row, column]


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_omni"])
def test_features_of_later_layers_lie_in_the_same_row(name, models):
    model = models(name)
    encoder = vision_of(model, name)
    frames = clip(8, 32)
    x = encoder.encode(frames).tokens.x
    assert x.shape[1] == encoder.width == 4 * encoder.llm_width
    mean, std = (torch.tensor(value)[:, None, None] for value in encoder.norm)
    pixels = (frames.pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        out = model.get_video_features(*patchify(pixels, 4, 2, 2))
    deep = [torch.cat(list(part)) for part in out.deepstack_features]
    for got, want in zip(
        x.split(encoder.llm_width, 1), [torch.cat(list(out.pooler_output)), *deep], strict=True
    ):
        assert torch.equal(got, want)


def test_the_metric_is_of_the_features_that_enter_first(models):
    encoder = vision_of(models("qwen3_vl"), "qwen3_vl", metric_width=16)
    encoded = encoder.encode(clip(4, 32))
    heads = encoded.tokens.x[:, : encoder.llm_width].unflatten(1, (-1, 16))
    assert encoded.metric.shape == (len(encoded), 16)
    assert_within("metric", encoded.metric, heads.mean(1), 1e-6)


@pytest.mark.parametrize("name", HEARS)
def test_audio_in_blocks_is_the_whole_on_the_same_mel(name, models):
    encoder = audio_of(models(name))
    hop = encoder.extractor.hop_length
    assert encoder.block % hop == 0 and 20 * RATE <= encoder.block <= 30 * RATE
    mel, mask = stock_mel(71.3)
    mel = mel[:, :, mask[0].bool()]

    def features(part):
        with torch.no_grad():
            return encoder.features(part, torch.ones(1, part.shape[2], dtype=torch.long))

    want = features(mel)
    got = torch.cat([features(part) for part in mel.split(encoder.block // hop, 2)])
    assert_within("features", got, want, 2e-6)


@pytest.mark.parametrize("name", HEARS)
@pytest.mark.parametrize("seconds", [61.3, 0.03])
def test_cuts_of_audio_change_nothing(name, seconds, models):
    encoder = audio_of(models(name))
    audio = Audio(noise(seconds), 2.0)
    whole = streamed(encoder, [audio])
    for seed, num in enumerate((2, 9)):
        assert_same(streamed(encoder, cut_anywhere(audio, num, seed)), whole)
    tokens = whole.tokens
    assert float(tokens.start_s[0]) == 2.0 and (tokens.start_s.diff() >= 0).all()
    assert (tokens.end_s > tokens.start_s).all() and float(tokens.end_s.max()) <= 2.0 + seconds + 1e-9
    assert abs(len(tokens) - encoder.num_tokens(seconds, MediaConfig())) <= 2


@pytest.mark.parametrize("name", HEARS)
def test_audio_in_the_last_second_changes_the_last_tokens_alone(name, models):
    encoder = audio_of(models(name))
    samples = noise(330.0)  # others cut at the 300 s of their mel
    before = streamed(encoder, [Audio(samples, 0.0)]).tokens
    samples = samples.clone()
    samples[-RATE // 2 :] = 0.2 * torch.sin(torch.arange(RATE // 2) * 0.3)
    after = streamed(encoder, [Audio(samples, 0.0)]).tokens
    moved = (after.x - before.x).abs().amax(1) > 1e-3
    assert bool(moved[-1]) and float(after.start_s[moved][0]) > 300  # the block that it is in


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_omni", "smolvlm", "gemma4"])
def test_views_own_no_parameter_and_name_those_of_the_encoders(name, models):
    model = models(name)
    encoder = vision_of(model, name)
    assert not list(encoder.parameters()) and not encoder.state_dict()
    of_text = {id(p) for p in model.get_decoder().parameters()}
    state = encoder_state(model)
    assert state and not of_text & {id(value) for value in state.values()}
    rest = {id(p) for p in model.parameters()} - {id(value) for value in state.values()}
    head = model.get_output_embeddings()
    assert rest <= of_text | {id(p) for p in head.parameters()}


def test_sizes_that_a_model_cannot_take_are_refused(models):
    with pytest.raises(ValueError, match=r"media.size_px must be a multiple of 8 pixels .*got 30"):
        vision_of(models("qwen3_vl"), "qwen3_vl").set_size(30)
    with pytest.raises(
        ValueError, match=r"video.batch_size must be a multiple of 2, the frames of a token, got 3"
    ):
        vision_of(models("qwen3_vl"), "qwen3_vl", 3)
    with pytest.raises(ValueError, match=r"media.size_px must be 32 pixels for this model, got 64"):
        vision_of(models("smolvlm"), "smolvlm").set_size(64)


def test_metrics_of_other_kinds_leave_the_tokens_as_they_are(models):
    model = models("qwen3_vl")
    frames = clip(7, 32)
    heads, random_, states = (
        streamed(vision_of(model, "qwen3_vl", metric=metric), [frames])
        for metric in ("heads", "random", "states")
    )
    for encoded in (random_, states):
        assert torch.equal(encoded.tokens.x, heads.tokens.x)
        assert encoded.metric.shape[0] == len(heads) and encoded.metric.std() > 0
    first = heads.tokens.x[:, :64].double()
    near, far = torch.cdist(first, first), torch.cdist(random_.metric.double(), random_.metric.double())
    ratio = (far / near)[near > 1e-3]
    assert ratio.min() > 0.4 and ratio.max() < 2  # a random projection keeps distances, about


def test_states_are_means_over_the_patches_of_a_token(models):
    model = models("qwen3_vl")
    encoder = vision_of(model, "qwen3_vl")
    frames = clip(2, 32)
    mean, std = (torch.tensor(value)[:, None, None] for value in encoder.norm)
    x = (frames.pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
    vision = model.config.vision_config
    with torch.no_grad():
        output = model.get_video_features(*patchify(x, vision.patch_size, vision.spatial_merge_size, 2))
    want = output.last_hidden_state.unflatten(0, (-1, 4)).mean(1)
    encoded = vision_of(model, "qwen3_vl", 2, metric="states").encode(frames)
    assert_within("metric", encoded.metric, want, 1e-6)


def test_states_in_another_order_are_refused(models):
    with pytest.raises(
        ValueError, match=r"video.metric must be .heads. or .random. for Qwen2_5_VL.*got .states."
    ):
        vision_of(models("qwen2_5_vl"), "qwen2_5_vl", metric="states")


def test_frames_that_hardly_change_take_the_features_before(models):
    model = models("qwen3_vl")
    frames = clip(8, 32)
    pixels = frames.pixels.clone()
    pixels[4:6] = pixels[2:4]  # the third pair is the second again
    still = Frames(pixels, frames.time_s, frames.step_s)
    every = streamed(vision_of(model, "qwen3_vl"), [still])
    encoder = vision_of(model, "qwen3_vl", reuse_below=1e-6)
    encoded = encoder.encode(still)
    assert encoded.reused == 2
    assert_within("x", encoded.tokens.x, every.tokens.x, 1e-5)
    assert torch.equal(encoded.tokens.place, every.tokens.place)
    rows = encoded.tokens.x.unflatten(0, (4, -1))
    assert torch.equal(rows[1], rows[2])
