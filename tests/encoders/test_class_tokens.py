"""CLIP's class token after its projection as a stream of one token a frame."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionModel, ViTConfig, ViTModel

from longcompress.config import VisionConfig
from longcompress.encoders import VisionEncoder
from longcompress.types import Frames

from models import class_encoder

CONFIG = VisionConfig(tokens="class", metric_width=8, batch_size=4)


@pytest.fixture
def frames():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return Frames(pixels, torch.arange(3, dtype=torch.float64), 1.0)


def test_a_frame_is_its_projected_class_token(frames):
    encoder = class_encoder()
    eyes = VisionEncoder(encoder, CONFIG, 16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert (eyes.patches, eyes.width, eyes.num_summaries) == (1, 8, 0)
    got = eyes.encode(frames)
    with torch.no_grad():
        states = encoder.vision_model(pixel_values=eyes.normal(frames.pixels)).last_hidden_state[:, 0]
        want = encoder.visual_projection(encoder.vision_model.post_layernorm(states))
    torch.testing.assert_close(got.tokens.x, want)
    assert got.summary is None and got.patches == 1
    assert (got.tokens.x.norm(dim=1) - 1).abs().min() > 1e-3  # not normalised


def test_it_is_loaded_of_a_whole_clip_and_of_its_own_folder(frames, tmp_path):
    encoder = class_encoder()
    clip = CLIPModel(
        CLIPConfig(
            text_config=CLIPTextConfig(
                vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
            ).to_dict(),
            vision_config=encoder.config.to_dict(), projection_dim=8,
        )
    )  # fmt: skip
    clip.vision_model.load_state_dict(encoder.vision_model.state_dict())
    clip.visual_projection.load_state_dict(encoder.visual_projection.state_dict())
    clip.save_pretrained(tmp_path / "clip")
    of_clip = VisionEncoder.load(CONFIG, tmp_path / "clip", 16)
    of_clip.save_pretrained(tmp_path / "own")
    own = VisionEncoder.load(CONFIG, tmp_path / "own", 16)
    assert own.norm == of_clip.norm and of_clip.norm[0][0] == 0.48145466
    want = VisionEncoder(encoder, CONFIG, 16, *own.norm).encode(frames).tokens.x
    for loaded in (of_clip, own):
        assert torch.equal(loaded.encode(frames).tokens.x, want)


def test_other_encoders_and_options_are_refused(tmp_path):
    encoder = class_encoder()
    with pytest.raises(
        ValueError, match=r'"class" needs a CLIP encoder with its projection .* got CLIPVisionModel'
    ):
        VisionEncoder(CLIPVisionModel(encoder.config), CONFIG, 16)
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"\"class\" needs a CLIP model, got one of type 'vit'"):
        VisionEncoder.load(CONFIG, tmp_path / "vit", 16)
    CLIPVisionModel(encoder.config).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"lacks 1 of the model.*visual_projection"):
        VisionEncoder.load(CONFIG, tmp_path / "plain", 16)
    for name in ("merge_per_layer", "summary_layers"):
        with pytest.raises(ValueError, match=f'{name} must be 0 with tokens "class"'):
            VisionConfig(tokens="class", **{name: 1})
