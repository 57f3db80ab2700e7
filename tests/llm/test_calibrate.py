"""What fresh models begin with: norms beside the language model's words, numbers whose digits have places."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

import longcompress as lc
from longcompress.checkpoints.architectures import longvale
from longcompress.config import (
    AudioConfig,
    BudgetConfig,
    MediaConfig,
    MemoryConfig,
    ModelConfig,
    VisionConfig,
)
from longcompress.config_llm import LLMConfig
from longcompress.config_values import from_dict
from longcompress.llm import CausalLM, Example
from longcompress.llm.calibrate import embedding_norm, time_norm
from longcompress.llm.causal import together
from longcompress.llm.prompt import encode
from longcompress.model import LongCompress
from longcompress.presets import tiny
from longcompress.synthetic.scenes import make_scene, parts_of
from longcompress.videos import compress

from models import hearing, language_model, listening

FIRST = {"numbers": "mean", "token_norm": 0.0, "time_norm": 0.0}


def digits():
    """A tokenizer that writes every digit with a token of its own."""
    known = ["<pad>", "<end>", *"0123456789:", "when", "does", "it", "happen", "now"]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[\d:]"), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<end>")


def reader(**options):
    """A language model of a random language model with that tokenizer."""
    torch.manual_seed(3)
    config = LLMConfig(question="{question}", max_offset_s=40, **options)
    return CausalLM(language_model(vocabulary=len(digits())), digits(), config, {"video": 8})


def gemma():
    """A random Gemma 3, whose embeddings are scaled as they are read."""
    torch.manual_seed(9)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=32, hidden_size=48, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip


def eyes(kind, loud):
    """A random video encoder whose features are `loud` times as long as they were."""
    torch.manual_seed(11)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"image_size": 32, "patch_size": 8}
    if kind == "clip":
        encoder = CLIPVisionModel(CLIPVisionConfig(**shape, intermediate_size=48))
        torch.nn.init.normal_(encoder.embeddings.patch_embedding.weight, std=0.05)
        encoder.pre_layrnorm.weight.data.mul_(loud)
    else:
        encoder = Dinov2Model(Dinov2Config(**shape, mlp_ratio=1))
        encoder.embeddings.patch_embeddings.projection.weight.data.mul_(20 * loud)
    return encoder


LOUD = {"clip-whisper-llama": 0.03, "dino-beats-qwen2": 10.0, "clip-whisper-gemma": 1.0}


@pytest.fixture(scope="module", params=LOUD)
def model(request, tmp_path_factory):
    """A fresh model of real classes, from folders, by `from_config`."""
    folder = tmp_path_factory.mktemp(request.param)
    seen, heard, read = request.param.split("-")
    eyes(seen, LOUD[request.param]).save_pretrained(folder / "eyes")
    if heard == "beats":
        audio = replace(hearing().config, base="./ears")
        hearing().save_pretrained(folder / "ears")
    else:
        audio = AudioConfig(base="./ears", pool=50, metric_width=8)
        listening().encoder.save_pretrained(folder / "ears")
        WhisperFeatureExtractor(feature_size=8).save_pretrained(folder / "ears")
    (gemma() if read == "gemma" else language_model(read, 32)).save_pretrained(folder / "lm")
    digits().save_pretrained(folder / "lm")
    config = ModelConfig(
        media=MediaConfig(size_px=32),
        video=VisionConfig(base="./eyes", layer=-1, metric_width=32), audio=audio,
        memory=MemoryConfig(kind="none"), budget=BudgetConfig(tokens=60),
        llm=LLMConfig(
            base="./lm", question="{question}", projector="mlp" if read == "gemma" else "linear",
            timestamp="{start}",
        ),
    )  # fmt: skip
    torch.manual_seed(1)
    return LongCompress.from_config(config, folder=folder, device="cpu")


def rms(x):
    return float(x.detach().float().square().sum(-1).mean().sqrt())


def test_tokens_are_as_long_as_words_and_time_is_the_stated_share(model):
    scene = make_scene(4, 30.0)  # not the one that was measured
    memory = compress(model, list(parts_of(scene, 1.0)), budget=60, progress=False)
    table = model.llm.lm.get_input_embeddings()
    words = float(table(torch.arange(32)).detach().norm(dim=1).median())
    assert embedding_norm(model.llm) == pytest.approx(words, rel=0.05)
    assert time_norm(model.llm) == pytest.approx(0.4 * words, rel=1e-3)
    for name, tokens in memory.streams.items():
        x = model.llm.project[name](tokens.x.float())
        assert 1 / 3 < rms(x - x.mean(0)) / words < 3, name  # what a token shows, of another video
        assert rms(x) / words < 4
    bare = model.llm.embed(model.llm.collate([Example(memory.video, [("when", None)])]))
    time = model.llm.time
    model.llm.time = None
    without = model.llm.embed(model.llm.collate([Example(memory.video, [("when", None)])]))
    model.llm.time = time
    added = (bare - without)[0]
    added = added[added.norm(dim=1) > 0]
    assert len(added) == memory.num_tokens
    assert 0.2 < rms(added) / words < 0.6


def test_what_was_chosen_is_saved_and_a_loaded_model_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path / "new", include_base=True)
    again = LongCompress.from_pretrained(tmp_path / "new", device="cpu")
    values = json.loads((tmp_path / "new" / "config.json").read_text())
    assert values["format"] == 2
    assert {k: values["llm"][k] for k in FIRST} == {"numbers": "places", "token_norm": 1.0, "time_norm": 0.4}
    for name, value in model.llm.project.state_dict().items():
        assert torch.equal(again.llm.project.state_dict()[name], value)
    assert torch.equal(again.llm.time.gain, model.llm.time.gain)


def test_paper_presets_and_the_embedded_model_begin_as_they_did(model):
    assert longvale().llm.token_norm == 0 and not longvale().llm.time
    assert longvale("ours").llm.token_norm == 1 and longvale("ours").llm.time_norm == 0.4
    assert {k: getattr(tiny().llm, k) for k in FIRST} == FIRST
    config = replace(model.config, llm=replace(model.config.llm, token_norm=0.0, time_norm=0.0))
    torch.manual_seed(1)
    plain = LongCompress.from_config(config, folder=model.folder, device="cpu")
    torch.manual_seed(1)
    widths = {name: encoder.width for name, encoder in model.encoders.items()}
    want = CausalLM(plain.llm.lm, plain.llm.tokenizer, config.llm, widths)
    for name, value in want.project.state_dict().items():
        assert torch.equal(plain.llm.project.state_dict()[name], value)
    assert torch.equal(plain.llm.time.gain.abs(), torch.ones_like(want.time.gain))


def test_no_two_numbers_are_one():
    numbers = reader().numbers().detach()
    apart = torch.cdist(numbers, numbers) + torch.eye(len(numbers))
    assert float(apart.min()) > 0.1 * float(numbers.norm(dim=1).mean())
    mean = reader(numbers="mean").numbers().detach()
    torch.testing.assert_close(mean[12], mean[21])  # what it is there against
    torch.testing.assert_close(mean[11], mean[1])
    table = reader().lm.get_input_embeddings()
    assert torch.equal(numbers[:10], table(torch.tensor([encode(digits(), str(k))[0] for k in range(10)])))
    lengths = numbers[10:].norm(dim=1)
    assert float(lengths.min() / lengths.mean()) > 0.5 and float(lengths.max() / lengths.mean()) < 2


def test_no_two_marks_are_one():
    table = reader().lm.get_input_embeddings()
    texts = [f"{k // 3600}:{k // 60 % 60:02d}:{k % 60:02d}" for k in range(0, 7200, 70)]
    ids = torch.tensor([encode(digits(), text) for text in texts])
    marks = together(table, ids, "places").detach()
    apart = torch.cdist(marks, marks) + torch.eye(len(marks))
    assert float(apart.min()) > 0.1 * float(marks.norm(dim=1).mean())
    # a shorter one beside longer ones is what it is alone
    ragged = torch.tensor([[2, 3, -1], [4, 5, 6]])
    alone = together(table, torch.tensor([[2, 3]]), "places")
    torch.testing.assert_close(together(table, ragged, "places")[:1], alone)
    assert not together(table, torch.tensor([[-1, -1]]), "places").any()


def test_the_signs_of_places_are_orthogonal():
    table = torch.nn.Embedding.from_pretrained(torch.ones(1, 64))
    sums = [together(table, torch.zeros(1, n, dtype=torch.int64), "places")[0] * n**0.5 for n in range(1, 8)]
    signs = torch.stack([sums[0], *(b - a for a, b in pairwise(sums))])
    torch.testing.assert_close(signs @ signs.t() / 64, torch.eye(7), atol=1e-5, rtol=0)
    assert bool((signs[0] == 1).all())


def test_the_embedded_model_averages_digits_as_it_was_trained():
    assert lc.load("tiny", device="cpu").llm.settings.numbers == "mean"
    assert LLMConfig().numbers == "places"


def test_values_that_no_model_has():
    with pytest.raises(ValueError, match="format must be 2, got 3; upgrade longcompress"):
        from_dict(ModelConfig, {"format": 3})
    with pytest.raises(ValueError, match=r"token_norm must be >= 0 norms of embeddings, got -1"):
        LLMConfig(token_norm=-1)


def test_a_llm_without_time_has_no_norm_of_it():
    with pytest.raises(ValueError, match="language model must have a time embedding"):
        time_norm(reader(time=False))
