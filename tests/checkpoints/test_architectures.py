"""Published models by name, made of small random parts: tokens as in their papers, with and without audio."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

import longcompress as lc
from longcompress.checkpoints.architectures import PUBLISHED, longvale, longvlm, vtimellm
from longcompress.config import VisionConfig
from longcompress.encoders import VisionEncoder
from longcompress.llm import Example
from longcompress.llm.prompt import lay_out
from longcompress.media.reader import read
from longcompress.session import SegmentClosed, Session
from longcompress.videos import compress

from models import published
from videos import Video, write

pytestmark = pytest.mark.slow

TABLE = {  # seconds: tokens as released, and with all that is heard
    5.12: (106, 102), 30.0: (111, 112), 60.0: (123, 124), 200.0: (180, 180), 235.0: (192, 192),
    600.0: (334, 336),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of encoders and a language model."""
    return published(tmp_path_factory.mktemp("base"))


def new_model(name, base, **variant):
    """The model of that name, on the CPU."""
    torch.manual_seed(1)
    parts = base if name == "longvale" else {name: base[name] for name in ("video", "llm")}
    return lc.load(name, base=parts, variant=variant, device="cpu")


@pytest.mark.parametrize("tail", ["released", "kept"])
def test_longvale_has_the_tokens_of_its_table(base, tail):
    model = new_model("longvale", base, tail=tail)
    for seconds, (released, remaining) in TABLE.items():
        got = model.estimate(seconds)
        assert got.tokens == got.prompt_tokens == (released if tail == "released" else remaining)
    assert model.estimate(235.0, audio=False).tokens == 100


def test_vtimellm_has_a_hundred(base):
    model = new_model("vtimellm", base)
    assert model.streams == ("video",)
    assert {model.estimate(seconds).tokens for seconds in TABLE} == {100}


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """The folder of a CLIP encoder with the patches of ViT-L/14."""
    torch.manual_seed(5)
    clip = CLIPVisionConfig(
        hidden_size=64, intermediate_size=16, num_hidden_layers=6, num_attention_heads=1, image_size=224,
        patch_size=14,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("eyes")
    CLIPVisionModel(clip).save_pretrained(folder)
    return str(folder)


def test_longvlm_can_ask_with_the_prompt_of_its_inference_scripts():
    system = longvlm(prompt="inference").llm.system
    assert system.startswith("You are LongVLM, ") and system.endswith("based on the provided video. USER: ")
    assert longvlm().llm.system == vtimellm().llm.system != system
    assert longvlm(prompt="inference", chat=True).llm.system == ""


@pytest.mark.parametrize("local", [300, 200])
def test_longvlm_has_its_305_or_205(base, eyes, tmp_path, local):
    torch.manual_seed(1)
    parts = {"video": eyes, "llm": base["llm"]}
    model = lc.load("longvlm", base=parts, variant={"local": local}, device="cpu")
    assert {model.estimate(seconds).tokens for seconds in TABLE} == {local + 5}
    assert model.estimate(60.0).segments == 10 and model.estimate(60.0).raw_tokens == 25600
    path = write(tmp_path / "video.mkv", Video(audio_codec=None))
    with read(path, model.config.media) as parts_read:
        frames = list(parts_read)
    session = Session(model)
    closed = [messages for part in frames for messages in session.push(part)] + session.close()
    assert [c.tokens_in for c in closed if isinstance(c, SegmentClosed)] == [2560] * 10
    memory = session.memory()
    layout = lay_out(memory.video, model.llm.tokenizer, model.llm.settings, model.llm.names)
    assert layout.ids == [-2] * 5 + [-1] * local  # global first
    assert torch.bincount((memory.streams["video"].time_s / 0.4).long()).tolist() == [local // 10] * 10
    pixels = torch.cat([part.pixels for part in frames])
    with torch.no_grad():
        states = model.video.encoder(
            pixel_values=model.video.normal(pixels[::25]), output_hidden_states=True
        ).hidden_states
        patches, summary = model.video.features(pixels[::25])
    assert torch.equal(patches, states[-2][:, 1:])
    assert torch.equal(summary, torch.stack([state[:, 0] for state in states[-5:]], 1))
    assert memory.globals["video"].shape == (5, 64) and memory.ask("what happens") == memory.ask(
        "what happens"
    )


def test_class_tokens_of_later_layers_and_merging_in_the_encoder_go_together(eyes):
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    config = VisionConfig(layer=-3, summary_layers=2, summary_until=-1, attention="eager")
    plain = VisionEncoder.load(config, eyes, 224)
    x, summary = plain.features(pixels)
    merging = VisionEncoder.load(replace(config, merge_per_layer=1), eyes, 224)
    with torch.no_grad():
        states = plain.encoder(pixel_values=plain.normal(pixels), output_hidden_states=True).hidden_states
    assert torch.equal(x, states[-3][:, 1:]) and torch.equal(summary[:, 1], states[-1][:, 0])
    near, other = merging.features(pixels)
    assert near.shape == x.shape and other.shape == summary.shape


@pytest.mark.parametrize(("video", "want"), [
    (Video(), [-1] * 100 + [-3] + [-5]), (Video(audio_codec=None), [-1] * 100), (Video(codec=None), [-3, -5]),
], ids=["both", "frames", "audio"])  # fmt: skip
def test_longvale_compresses_a_real_video(base, tmp_path, video, want):
    model = new_model("longvale", base)
    memory = compress(model, write(tmp_path / "video.mkv", video), progress=False)
    layout = lay_out(memory.video, model.llm.tokenizer, model.llm.settings, model.llm.names)
    assert layout.ids == want
    assert memory.duration_s == pytest.approx(4.0, abs=0.03)
    assert memory.ask("what happens").text == memory.ask("what happens").text
    again = lc.load_memory(memory.save(tmp_path / "video.lcm"), model)
    assert again.ask("what happens") == memory.ask("what happens")


def test_times_are_hundredths_of_the_video(base, tmp_path, monkeypatch):
    memory = compress(new_model("vtimellm", base), write(tmp_path / "video.mkv", Video()), progress=False)
    end_s = memory.duration_s
    monkeypatch.setattr(
        type(memory.model.llm), "answer", lambda *_, **__: ["From 00 to 25, a dog.\nFrom 50 to 99, a cat."]
    )
    asked = memory.ask("what happens")
    times = [t for event in asked.events for t in (event.start_s, event.end_s)]
    assert times == pytest.approx([0, end_s / 4, end_s / 2, 0.99 * end_s])
    assert {cite.stream for cite in asked.cites} == {"video"}
    messages = memory.events()
    times = [t for event in messages for t in (event.start_s, event.end_s)]
    assert times == pytest.approx([0, 0.26 * end_s, end_s / 2, end_s])
    assert [e.text for e in messages] == ["a dog", "a cat"]


def test_our_mode_takes_any_length_with_marks_and_seconds(base):
    model = new_model("longvale", base, mode="ours")
    session = Session(model)
    for second in range(25):
        session.push_frame(np.full((32, 32, 3), 9 * second, dtype=np.uint8))
        session.push_audio(np.zeros(16000, dtype=np.float32), 16000)
    memory = session.memory()
    assert {name: len(tokens) for name, tokens in memory.streams.items()} == {
        "video": 25,
        "audio": 5,
        "speech": 5,
    }
    layout = lay_out(memory.video, model.llm.tokenizer, model.llm.settings, model.llm.names)
    assert layout.timestamp_start_s.tolist() == list(range(0, 25, 2)) and model.llm.time is not None
    assert memory.ask("what happens").text == memory.ask("what happens").text


def test_its_projectors_and_lora_learn(base, tmp_path):
    model = new_model("longvale", base)
    video = compress(model, write(tmp_path / "video.mkv", Video()), progress=False).video
    batch = model.llm.collate([Example(video, [("what happens", "red ball")])])
    model.requires_grad_(False)
    model.add_lora(r=8)
    model.llm.project.requires_grad_(True)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-2)
    losses = []
    for _ in range(25):
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3  # the head, which is small and random, stays as it is
    model.save_pretrained(tmp_path / "saved")
    again = lc.load(tmp_path / "saved", device="cpu")
    assert float(again(**batch)["loss"]) == pytest.approx(float(model(**batch)["loss"]))
    assert again.identity() == model.identity()


def test_prompts_are_vicunas_or_the_template(base):
    plain, chat = (new_model("vtimellm", base, chat=chat).config.llm for chat in (False, True))
    assert plain.system.endswith("USER: ") and plain.question == "\n{question} ASSISTANT:"
    assert chat.system == "" and chat.question == "\n{question}"


@pytest.mark.parametrize(
    ("call", "message", "kind"),
    [
        (lambda base: vtimellm("fast"), 'mode must be "paper" or "ours", got \'fast\'', ValueError),
        (lambda base: lc.load("longvale", base={"ears": ""}), "base must be of parts of", ValueError),
        (
            lambda base: lc.load("vtimellm", base={"audio": ""}),
            r"which are \['video', 'llm'\]",
            ValueError,
        ),
        (lambda base: lc.load("tiny", base=base), "base and variant are for published models", ValueError),
        (lambda base: lc.load("longvlm2"), "one of .'longvale', 'longvlm', 'mmduet', 'pixels'", ValueError),
        (lambda base: lc.load("longvale", base=base | {"audio": "BEATs.pt"}, device="cpu"),
         "'BEATs.pt': no such folder or file; released files are listed", FileNotFoundError),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(base, call, message, kind):
    with pytest.raises(kind, match=message):
        call(base)


def test_a_preset_is_a_function_with_the_paper_by_default():
    assert PUBLISHED["longvale"]() == longvale() and longvale().media.frames == 100
    assert longvlm("ours").segments.cut == "fixed" and longvlm().merge.schedule[0] == 1280
    assert longvale("ours").media.frames == 0 and longvale("ours").llm.time_format == "seconds"
