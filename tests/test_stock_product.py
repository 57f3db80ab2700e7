"""All of the product works on stock video LLMs, loaded from folders as released checkpoints are."""

import json
import random
import re
from dataclasses import fields, replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    Qwen3OmniMoeForConditionalGeneration,
    WhisperFeatureExtractor,
)

import longcompress as lc
from longcompress import media
from longcompress.encoders import StockVision
from longcompress.llm import StockLM
from longcompress.llm.backbone import encoder_names, quantization_config, read_config
from longcompress.media.reader import arrays
from longcompress.model import LongCompress
from longcompress.synthetic.scenes import make_scene, write_video
from longcompress.types import Tokens

from helpers import assert_same_memory, normal
from stock_folders import save, save_whole_omni
from stock_loaded import RATE, SIZE, loading, random_clip, small
from stock_models import MODELS

QUESTION, OTHER = "What happens?", "When does it end, and who is there?"
ANY = ("qwen3_vl", "qwen3_5", "qwen2_5_vl", "gemma4", "qwen2_5_omni", "qwen3_omni")  # frames of any size
FAMILIES = (*ANY, "llava_onevision", "smolvlm")
HEARS = ("qwen2_5_omni", "qwen3_omni")
NEWLINE = 198  # id in the tests' tokenizers; the small Gemma would write nothing else
LONG = {"max_new_tokens": 8, "min_new_tokens": 8, "bad_words_ids": [[NEWLINE]]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stock")


@pytest.fixture(scope="module")
def loaded(root):
    return loading(root)


@pytest.fixture(scope="module")
def folder_of(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def model_of(loaded):
    return loaded[1]


@pytest.fixture(scope="module")
def video_file(root):
    return write_video(make_scene(3, 22.0), root / "video.mp4", size_px=64, rate_fps=4)


def compress(model, source, budget):
    return lc.compress(model, source, budget=budget, progress=False)


def texts(memory):
    """The answers to both questions, one by one."""
    return [memory.ask(question, **LONG).text for question in (QUESTION, OTHER)]


def in_pieces(parts, seed):
    """The parts cut again, and in time order as a live source gives them."""
    rng, pieces = random.Random(seed), []
    for part in parts:
        cuts = sorted(rng.sample(range(1, len(part)), min(2, len(part) - 1))) if len(part) > 1 else []
        pieces += [part.cut(a, b) for a, b in pairwise([0, *cuts, len(part)])]
    return sorted(pieces, key=lambda piece: piece.start_s)


def test_a_loaded_model_is_of_views_of_a_stock_model(model_of):
    model = model_of("qwen3_omni")
    assert isinstance(model, LongCompress) and isinstance(model.llm, StockLM)
    assert isinstance(model.video, StockVision) and model.video.model is model.llm.lm
    assert model.streams == ("video", "audio")
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.llm.lm.parameters()}


@pytest.mark.parametrize("seconds", [7.5, 33.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_budget_is_exact(name, seconds, model_of):
    model = model_of(name)
    session = lc.Session(model, 1000)
    parts = random_clip(model, seconds)
    for part in parts:
        session.push(part)
    session.close()
    stats = session.stats()
    assert stats["held_tokens"] >= (64 if seconds < 10 else 192)  # what closed segments keep
    for budget in (3, 50, 77, 1000):
        memory = session.memory(budget)
        assert (
            memory.num_tokens == sum(map(len, memory.streams.values())) == min(budget, stats["held_tokens"])
        )
        assert sum(float(t.size.sum()) for t in memory.streams.values()) == stats["raw_tokens"]
        for tokens in memory.streams.values():
            assert tokens.x.isfinite().all() and (tokens.time_s.diff() >= 0).all()
            assert float(tokens.end_s.max()) <= max(part.end_s for part in parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_the_same_by_every_way_to_it(name, model_of, tmp_path):
    model = model_of(name)
    memory = compress(model, random_clip(model, 21.5), 60)
    answers = texts(memory)
    assert answers[0] != answers[1] or name == "gemma4"  # which writes bytes that are no text
    assert texts(memory) == answers  # a question changes nothing
    assert [a.text for a in memory.ask_all([QUESTION, OTHER], **LONG)] == answers
    loaded = lc.load_memory(memory.save(tmp_path / "video.lcm"), model)
    assert_same_memory(loaded, memory)
    assert texts(loaded) == answers
    both = lc.ask_each([memory, loaded], [OTHER, QUESTION], **LONG)
    assert [a.text for a in both] == answers[::-1]


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_and_a_snapshot_give_the_memory_of_the_whole(name, model_of):
    model = model_of(name)
    parts = random_clip(model, 21.5)
    whole = compress(model, parts, 60)
    for seed in range(2):
        session = lc.Session(model, 60)
        pieces = in_pieces(parts, seed)
        for number, piece in enumerate(pieces):
            if number == len(pieces) // 2:
                session.ask(QUESTION, max_new_tokens=2)
                session = lc.Session.restore(model, session.snapshot())
            session.push(piece)
        assert_same_memory(session.memory(), whole)


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "qwen2_5_omni"])
def test_a_file_is_its_parts_pushed(name, model_of, video_file):
    model = model_of(name)
    memory = compress(model, video_file, 60)
    session = lc.Session(model, 60)
    with media.read(video_file, model.config.media) as reading:
        for part in list(reading):
            session.push(part)
    assert_same_memory(session.memory(), memory)
    assert set(memory.streams) == ({"video", "audio"} if name in HEARS else {"video"})
    assert abs(memory.duration_s - 22.0) < 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_three_tokens_can_be_asked(name, model_of):
    model = model_of(name)
    memory = compress(model, random_clip(model, 12.0), 3)
    assert memory.num_tokens == 3
    assert all(texts(memory))


@pytest.mark.parametrize("name", HEARS)
@pytest.mark.parametrize("medium", ["video", "audio"])
def test_a_model_that_hears_takes_one_medium_alone(name, medium, model_of):
    model = model_of(name)
    parts = [part for part in random_clip(model, 12.5) if part.modality == medium]
    memory = compress(model, parts, 40)
    assert list(memory.streams) == [medium] and memory.num_tokens == 40
    alone, both = texts(memory), texts(compress(model, random_clip(model, 12.5), 40))
    assert alone != both
    session = lc.Session(model, 40, media=[medium])
    for part in parts:
        session.push(part)
    assert_same_memory(session.memory(), memory)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "llava_onevision", "gemma4", "qwen2_5_omni"])
def test_a_saved_model_is_the_same_model(name, model_of, tmp_path):
    model = model_of(name)
    memory = compress(model, random_clip(model, 12.0), 30)
    memory.save(tmp_path / "video.lcm")
    model.save_pretrained(tmp_path / "whole", include_base=True)
    model.save_pretrained(tmp_path / "light")
    assert not (tmp_path / "light" / "lm").exists()
    for kind in ("whole", "light"):
        again = lc.load(tmp_path / kind, device="cpu")
        assert again.config.media == model.config.media
        assert again.identity() == model.identity()
        assert texts(lc.load_memory(tmp_path / "video.lcm", again)) == texts(memory)
        assert_same_memory(compress(again, random_clip(model, 12.0), 30), memory)


def test_a_chat_template_may_be_in_json_alone(folder_of, model_of, tmp_path):
    name = "llava_onevision"
    model = lc.load(save(name, tmp_path, template="chat_template.json"), device="cpu")
    want = model_of(name)
    assert texts(compress(model, random_clip(model, 9.0), 30)) == texts(
        compress(want, random_clip(model, 9.0), 30)
    )


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_omni"])
def test_without_a_preprocessor_file_the_published_numbers_are_told(name, model_of, tmp_path):
    folder = save(name, tmp_path, preprocessor=False)
    norm = model_of(name).video.family.norm
    with pytest.warns(UserWarning, match=r"no preprocessor file") as caught:
        model = small(lc.load(folder, device="cpu"))
    messages = [str(warning.message) for warning in caught]
    assert any(f"{norm[0]} and {norm[1]}" in text for text in messages)
    assert (name in HEARS) == any("Whisper's numbers are taken, 16 mels" in text for text in messages)
    want = model_of(name)
    parts = random_clip(want, 9.0)
    assert model.video.norm == norm
    got, want = (compress(m, parts, 40).streams["video"].x for m in (model, want))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)  # the folder's numbers have more digits


def test_the_pixel_numbers_of_a_file_may_be_one_for_all_colours(tmp_path):
    folder = save("muse_glimmer", tmp_path)
    file = folder / "video_preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_mean": 0.4, "image_std": 0.25}))
    assert lc.load(folder, device="cpu").video.norm == ((0.4,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", HEARS)
def test_a_whole_omni_checkpoint_is_its_thinker(name, model_of, tmp_path):
    folder = save_whole_omni(name, tmp_path)
    whole, thinker = small(lc.load(folder, device="cpu")), model_of(name)
    assert type(whole.llm.lm) is type(thinker.llm.lm)
    assert whole.identity() == thinker.identity()
    assert {n for n, _ in whole.named_parameters()} == {n for n, _ in thinker.named_parameters()}
    memories = [compress(m, random_clip(thinker, 9.0), 40) for m in (whole, thinker)]
    assert_same_memory(*memories)
    assert texts(memories[0]) == texts(memories[1])


def test_a_whole_omni_model_of_a_script_is_its_thinker(model_of, tmp_path):
    folder = save_whole_omni("qwen3_omni", tmp_path)
    whole = Qwen3OmniMoeForConditionalGeneration.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    thinker = model_of("qwen3_omni")
    part = SimpleNamespace(image_mean=thinker.video.norm[0], image_std=thinker.video.norm[1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=part, feature_extractor=extractor)
    ours = lc.from_transformers(whole, processor, size_px=SIZE)
    assert ours.llm.lm is whole.thinker and ours.identity() == thinker.identity()
    memories = [compress(m, random_clip(thinker, 9.0), 40) for m in (ours, thinker)]
    assert_same_memory(*memories)
    assert texts(memories[0]) == texts(memories[1])


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "gemma4", "smolvlm", *HEARS])
def test_encoders_alone_need_no_layer_of_the_language_model(name, model_of):
    whole = model_of(name)
    alone = LongCompress.from_config(whole.config, device="cpu", llm=False)
    layers = alone.video.model.get_decoder().layers
    assert len(layers) == 0
    assert alone.identity() == whole.identity()
    parts = random_clip(whole, 9.0)
    assert_same_memory(compress(alone, parts, 40), compress(whole, parts, 40))
    assert lc.estimate(alone, 9.0, 40).tokens == 40
    with pytest.raises(ValueError, match="memory has no model to answer with"):
        compress(alone, parts, 40).ask(QUESTION)


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "qwen2_5_omni"])
def test_a_model_that_is_loaded_already_is_the_same(name, folder_of, model_of, tmp_path):
    model, _ = MODELS[name]()
    tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
    want = model_of(name)
    mean, std = want.video.norm
    part = SimpleNamespace(image_mean=list(mean), image_std=list(std))
    extractor = WhisperFeatureExtractor.from_pretrained(folder_of(name)) if name in HEARS else None
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=part, feature_extractor=extractor)
    size = {} if want.video.family.fixed else {"size_px": SIZE}
    got = lc.from_transformers(model, processor, **size)
    assert got.llm.lm is model
    assert got.identity() == want.identity()
    assert replace(got.config.media) == want.config.media
    memories = [compress(m, random_clip(want, 9.0), 40) for m in (got, want)]
    assert_same_memory(*memories)
    assert texts(memories[0]) == texts(memories[1])
    got.save_pretrained(tmp_path)  # with the model, which has no folder of its own
    again = lc.load(tmp_path, device="cpu")
    assert again.identity() == got.identity()
    assert texts(compress(again, random_clip(want, 9.0), 40)) == texts(memories[0])
    with pytest.warns(UserWarning, match=r"published numbers are taken"):
        plain = lc.from_transformers(model, tokenizer, **size)
    assert texts(compress(plain, random_clip(want, 9.0), 40))


def test_a_template_of_the_processor_alone_is_taken(folder_of, model_of):
    model, tokenizer = MODELS["smolvlm"]()
    template, tokenizer.chat_template = tokenizer.chat_template, None
    part = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor=part, chat_template=template)
    got = lc.from_transformers(model, processor)
    want = model_of("smolvlm")
    assert texts(compress(got, random_clip(want, 9.0), 40)) == texts(
        compress(want, random_clip(want, 9.0), 40)
    )


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma4", "qwen2_5_omni"])
def test_half_precision_loads_and_answers(name, folder_of):
    model = small(lc.load(folder_of(name), device="cpu", dtype="bfloat16"))
    assert {p.dtype for p in model.parameters() if p.dim() > 1} == {torch.bfloat16}
    memory = compress(model, random_clip(model, 9.0), 40)
    assert memory.num_tokens == 40 and all(texts(memory))
    again = lc.Session(model, 40)
    for piece in in_pieces(random_clip(model, 9.0), 1):
        again.push(piece)
    assert_same_memory(again.memory(), memory)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "gemma4", "qwen2_5_omni", "qwen3_omni"])
def test_quantization_leaves_encoders_and_projectors_alone(name, bits, folder_of):
    model, _ = MODELS[name]()
    names = encoder_names(type(model), read_config(folder_of(name)))
    config = quantization_config(bits, [*names, "lm_head"])
    assert isinstance(config, BitsAndBytesConfig)
    assert (config.load_in_4bit, config.load_in_8bit) == (bits == "4bit", bits == "8bit")
    skipped = config.llm_int8_skip_modules

    def is_left(module):  # as transformers matches names of modules
        return any(f".{skip}." in f".{module}." for skip in skipped)

    decoder = model.get_decoder()
    of_text = {id(module) for module in decoder.modules()}
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert any(id(m) in of_text for m in linear.values())
    for module_name, module in linear.items():
        assert is_left(module_name) == (id(module) not in of_text), module_name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_estimate_is_what_happens(name, model_of):
    model = model_of(name)
    for seconds, budget in ((21.5, 60), (61.0, 301), (4.0, 5000)):
        parts = random_clip(model, seconds)
        memory, expected = compress(model, parts, budget), lc.estimate(model, seconds, budget)
        assert expected.frames == sum(len(part) for part in parts if part.modality == "video")
        assert expected.tokens == memory.num_tokens
        for stream, tokens in memory.streams.items():
            assert abs(expected.stream_tokens[stream] - len(tokens)) <= 0.06 * len(tokens)
        num_prompt = memory.num_tokens + num_text(memory)
        assert abs(expected.prompt_tokens - num_prompt) <= model.llm.timestamp_tokens(seconds)
        assert expected.context == 32768 and expected.fits
        num_bytes = sum(getattr(t, f.name).nbytes for t in memory.streams.values() for f in fields(Tokens))
        assert 0.8 < expected.memory_bytes / num_bytes < 1.2


def num_text(memory):
    """Ids of text of the timestamps in a memory's prompt."""
    llm = memory.model.llm
    ids = llm.prompt.lay_out(memory.video).ids
    is_token = torch.isin(ids, torch.tensor(llm.prompt.placeholders))
    text = llm.tokenizer.decode(ids[~is_token])
    pattern = {"qwen": r"<[\d.]+ seconds>", "smol": r"Frame from [\d:]+", "gemm": r"\d\d:\d\d "}
    num = len(re.findall(pattern.get(memory.model.llm.config.model_type[:4], "$^"), text))
    return num * llm.timestamp_tokens(memory.duration_s)


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "smolvlm", "gemma4"])
def test_the_text_of_timestamps_has_its_share_of_the_budget(name, model_of):
    model = model_of(name)
    session = lc.Session(model, 1000)
    for part in random_clip(model, 61.0):
        session.push(part)
    share, num_step = model.config.llm.timestamp_share, model.llm.timestamp_tokens(61.0)
    assert share == 1 / 8
    budgets = (3, 50, 400, 1000)
    for count, budget in zip([num_text(session.memory(budget)) for budget in budgets], budgets, strict=True):
        assert num_step <= count <= max(share * budget, num_step, min(12 * num_step, budget / 2))
    model.change({"llm": {"min_timestamps": 0}})
    counts = [num_text(session.memory(budget)) for budget in budgets]
    model.change({"llm": {"min_timestamps": 12}})
    for count, budget in zip(counts, budgets, strict=True):
        assert num_step <= count <= max(share * budget, num_step)
    assert counts[-1] > 3 * counts[0]  # a larger budget has more of them


def test_what_a_user_changes_changes_the_prompt(folder_of, model_of):
    model = small(lc.load(folder_of("qwen3_vl"), device="cpu"))
    memory = compress(model, random_clip(model, 21.5), 200)
    before = model.llm.prompt.lay_out(memory.video)
    model.change({"llm": {"timestamp_share": 0.9}})
    after = model.llm.prompt.lay_out(memory.video)
    assert len(after.ids) > len(before.ids)
    model.change({"llm": {"system": "Be brief."}})
    assert len(model.llm.prompt.lay_out(memory.video).ids) > len(after.ids)
    assert texts(memory) != texts(compress(model_of("qwen3_vl"), random_clip(model, 21.5), 200))


def test_events_of_a_stock_model_are_listed_or_told(model_of):
    model = model_of("qwen3_vl")
    memory = compress(model, random_clip(model, 12.0), 40)
    listed = memory.list_events(max_new_tokens=8)
    assert listed.events or listed.unparsed


def test_a_snapshot_of_other_frames_is_refused(model_of):
    model = model_of("qwen3_vl")
    session = lc.Session(model, 40)
    for piece in in_pieces(random_clip(model, 9.0), 2):
        session.push(piece)
    data = session.snapshot()
    rate = model.config.media.rate_fps
    model.change({"media": {"rate_fps": 2 * rate}})
    try:
        with pytest.raises(
            ValueError, match=r"data has other frames than model .*; its frames are of .*rate_fps"
        ):
            lc.Session.restore(model, data)
    finally:
        model.change({"media": {"rate_fps": rate}})
    assert lc.Session.restore(model, data).memory(40).num_tokens == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", HEARS)
def test_a_needle_in_the_last_minute_of_six_is_represented(name, model_of):
    """Others cut audio at 300 s without a word."""
    model = model_of(name)
    noise = normal(360 * RATE, seed=3).mul(0.01)
    needle = noise.clone()
    needle[340 * RATE : 342 * RATE] += 0.5 * torch.sin(torch.arange(2 * RATE) * 0.3)
    without, heard = (compress(model, arrays(samples=samples), 200) for samples in (noise, needle))
    for memory in (without, heard):
        seconds = memory.coverage["audio"]
        assert seconds == pytest.approx({"duration_s": 360.0, "read_s": 360.0, "represented_s": 360.0})
    tokens = heard.streams["audio"]
    at = (tokens.start_s < 342) & (tokens.end_s > 340)
    assert at.any()
    # the nearest of the tokens without a needle is far away from what stands at its time
    away = torch.cdist(tokens.x.double(), without.streams["audio"].x.double()).amin(1)
    assert at[away.argmax()] and away[at].max() > 2 * away[(tokens.end_s < 300)].max()
