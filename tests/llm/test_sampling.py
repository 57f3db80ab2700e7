"""Frames and sizes that a stock model's own processor would take, with numbers worked by hand."""

import json
import re

import pytest

from longcompress.config import MediaConfig
from longcompress.llm.sampling import Sampling, sampling_of

from stock_folders import save

QWEN = Sampling(2.0, 4, 768, 4096, 25165824)  # of Qwen3-VL's checkpoints


@pytest.mark.parametrize(
    ("seconds", "width", "height", "frames", "size_px"),
    [
        (1.0, 640, 352, 4, 448),  # 20 x 11 tokens: a square of 14
        (50.3, 640, 352, 100, 448),  # 100 frames of 640 x 352 pixels are less than the limit
        # 768 frames of 1280 x 720 are 28.125 times the limit: 720 / 5.303 / 32 = 4.2, 1280 / 5.303 / 32 = 7.5
        (3600.0, 1280, 720, 768, 160),  # 4 x 7 tokens: a square of 5
        (384.0, 1280, 720, 768, 160),
        (300.0, 1920, 1080, 600, 160),  # a factor of 49.4: 1080 / 7.03 / 32 = 4.8 and 8.5, so 4 x 8 tokens
        (10.0, 16, 16, 20, 32),  # 16 pixels are half a token
        (1.0, 8, 8, 4, 32),
    ],
)
def test_frames_and_sizes_by_hand(seconds, width, height, frames, size_px):
    media = QWEN.media(MediaConfig(rate_fps=1.0), seconds, width, height, 32)
    assert (media.frames, media.size_px, media.frames_at) == (frames, size_px, "ends")
    assert media.frames * media.size_px**2 <= 25165824


def test_small_frames_grow_to_the_smallest_limit():
    sampling = Sampling(2.0, 4, 768, 4 * 128 * 128, 25165824)
    assert sampling.media(MediaConfig(), 2.0, 32, 32, 32).size_px == 128


def test_a_checkpoint_names_its_limits_and_its_class_the_rest(tmp_path):
    folder = save("qwen3_vl", tmp_path / "qwen3_vl")
    sampling = sampling_of(str(folder))
    assert (sampling.rate_fps, sampling.min_frames, sampling.max_frames) == (2.0, 4, 768)
    size = json.loads((folder / "video_preprocessor_config.json").read_text())["size"]
    assert [sampling.min_pixels, sampling.max_pixels] == [size["shortest_edge"], size["longest_edge"]]
    path = folder / "video_preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fps": 1, "max_frames": 64}))
    assert (sampling_of(str(folder)).rate_fps, sampling_of(str(folder)).max_frames) == (1.0, 64)


@pytest.mark.parametrize("name, kind", [("smolvlm", "none"), ("glm4v", "Glm4vVideoProcessor")])
def test_another_rule_is_refused_by_its_name(name, kind, tmp_path):
    folder = save(name, tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"Qwen3VLVideoProcessor and its limits.*, got ({kind}).*{re.escape(name)}"
    ):
        sampling_of(str(folder))


def test_a_checkpoint_without_limits_is_refused(tmp_path):
    folder = save("qwen3_vl", tmp_path / "qwen3_vl")
    (folder / "video_preprocessor_config.json").write_text(
        '{"video_processor_type": "Qwen3VLVideoProcessor"}'
    )
    with pytest.raises(ValueError, match=r"and its limits of pixels, got Qwen3VLVideoProcessor at"):
        sampling_of(str(folder))
