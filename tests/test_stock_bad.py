"""What can't be a stock model, or be asked of it, is refused with what it is, what is needed, what helps."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import InstructBlipVideoConfig, LlamaConfig, SiglipConfig

import longcompress as lc
from longcompress.cli.main import main
from longcompress.config import MediaConfig, ModelConfig, VisionConfig
from longcompress.config_llm import LLMConfig
from longcompress.llm import Example
from longcompress.llm.backbone import backbone_of, take_apart
from longcompress.model import LongCompress

from models import language_model
from stock_loaded import SIZE, loading, memory_of, small
from stock_models import MODELS


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return loading(tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="module")
def folder_of(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def model_of(loaded):
    return loaded[1]


@pytest.fixture
def copy_of(folder_of, tmp_path):
    """A copy of a family's folder, to be damaged."""

    def copy(name):
        return shutil.copytree(folder_of(name), tmp_path / "copy")

    return copy


def edit(path, **changes):
    """Change fields of a JSON file; None takes a field out."""
    values = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(values))


def load(folder, **options):
    return lc.load(folder, device="cpu", **options)


class TestKinds:
    def test_an_unknown_model_type_lists_the_known(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "brand_new_vl"}))
        with pytest.raises(
            ValueError, match=r"'brand_new_vl' is too new or unknown; families are .*qwen3_vl"
        ):
            load(tmp_path)

    def test_a_class_without_a_family_is_told_how_to_add_one(self, tmp_path):
        SiglipConfig().save_pretrained(tmp_path)
        with pytest.raises(
            ValueError,
            match=r"'siglip': families are .*qwen3_vl.*; docs/models.md says how to add another",
        ):
            load(tmp_path)

    def test_a_text_model_is_no_video_model(self, tmp_path):
        LlamaConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"model_type 'llama': it is a language model without video"):
            load(tmp_path)

    def test_features_that_depend_on_the_question_are_none_to_keep(self, tmp_path):
        InstructBlipVideoConfig().save_pretrained(tmp_path)
        with pytest.raises(
            ValueError, match=r"'instructblipvideo': its video features depend on the question"
        ):
            load(tmp_path)

    def test_code_of_a_checkpoint_is_never_run(self, tmp_path, monkeypatch):
        code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        (tmp_path / "configuration_mine.py").write_text(code)
        values = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
        (tmp_path / "config.json").write_text(json.dumps(values))
        monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
        with pytest.raises(ValueError, match=r"'mine' brings code of its own, which is never run"):
            load(tmp_path)
        assert not (tmp_path / "ran").exists()

    def test_a_known_class_runs_no_code_of_its_folder(self, copy_of, tmp_path):
        folder = copy_of("llava_onevision")
        (folder / "modeling_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        edit(folder / "config.json", auto_map={"AutoConfig": "modeling_mine.MineConfig"})
        assert memory_of(load(folder)).num_tokens == 40
        assert not (tmp_path / "ran").exists()

    def test_a_model_of_a_script_is_checked_too(self):
        with pytest.raises(ValueError, match=r"model_type 'llama': it is a language model without video"):
            lc.from_transformers(language_model(), None)

    def test_a_processor_must_be_given(self):
        model, _ = MODELS["smolvlm"]()
        with pytest.raises(
            TypeError, match=r"processor must be the model's processor or its tokenizer, got NoneType"
        ):
            lc.from_transformers(model, None)

    def test_arguments_of_published_models_are_for_these(self, folder_of):
        with pytest.raises(ValueError, match=r"base and variant are for published models"):
            load(folder_of("smolvlm"), base={"video": "x"})


class TestFolders:
    @pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "/nowhere"])
    def test_a_folder_that_is_not_there_is_named(self, name):
        with pytest.raises(FileNotFoundError, match=rf"no folder {name}; give a preset's name"):
            load(name)

    def test_a_folder_without_a_config_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"config.json"):
            load(tmp_path)

    def test_a_base_that_moved_is_named(self, folder_of, copy_of, tmp_path):
        model = load(copy_of("smolvlm"))
        model.save_pretrained(tmp_path / "light")
        shutil.rmtree(tmp_path / "copy")
        with pytest.raises(FileNotFoundError, match=r"no folder .*copy; give a folder"):
            load(tmp_path / "light")

    @pytest.mark.parametrize("text", ["", "{", '{"model_type": "qwen3_vl"', "\x00\x01"])
    def test_a_damaged_config_is_named(self, text, copy_of):
        folder = copy_of("qwen3_vl")
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"copy/config.json is no JSON"):
            load(folder)

    @pytest.mark.parametrize("text", ["[]", "3", '"qwen3_vl"'])
    def test_a_config_that_is_no_object_is_named(self, text, copy_of):
        folder = copy_of("qwen3_vl")
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"copy/config.json must hold an object, got"):
            load(folder)

    def test_fields_of_another_type_are_named(self, copy_of):
        folder = copy_of("qwen3_vl")
        vision = json.loads((folder / "config.json").read_text())["vision_config"]
        edit(folder / "config.json", vision_config=vision | {"patch_size": "large"})
        with pytest.raises(ValueError, match=r"copy': its config.json can't be read: .*patch_size"):
            load(folder)

    def test_a_damaged_preprocessor_file_is_named(self, copy_of):
        folder = copy_of("qwen3_vl")
        (folder / "video_preprocessor_config.json").write_text('{"image_mean": [0.5')
        with pytest.raises(ValueError, match=r"video_preprocessor_config.json is no JSON"):
            load(folder)

    @pytest.mark.parametrize("mean", [[0.5], "0.5", ["a", "b", "c"]])
    def test_pixel_numbers_must_be_three(self, mean, copy_of):
        folder = copy_of("qwen3_vl")
        edit(folder / "video_preprocessor_config.json", image_mean=mean)
        with pytest.raises(ValueError, match=r"config.json: image_mean .* must be a number or three"):
            load(folder)

    def test_weights_that_are_cut_are_named(self, copy_of):
        folder = copy_of("smolvlm")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"copy.* cut or damaged"):
            load(folder)

    def test_parameters_that_are_missing_are_not_made_up(self, copy_of):
        folder = copy_of("smolvlm")
        values = load_file(folder / "model.safetensors")
        name = next(name for name in values if "vision" in name and name.endswith("weight"))
        save_file(
            {k: v for k, v in values.items() if k != name}, folder / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(ValueError, match=rf"copy' lacks 1 of .* such as \['{name}'\]"):
            load(folder)

    def test_a_folder_without_weights_is_named(self, copy_of):
        folder = copy_of("smolvlm")
        (folder / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"no file named model.safetensors"):
            load(folder)

    def test_a_tokenizer_must_have_a_chat_template(self, copy_of):
        folder = copy_of("qwen3_vl")
        (folder / "chat_template.jinja").unlink()
        with pytest.raises(ValueError, match=r"must have a chat template, got none; copy the checkpoint's"):
            load(folder)

    def test_a_template_that_drops_the_video_is_refused(self, copy_of):
        folder = copy_of("qwen3_vl")
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}{% endfor %}")
        model = small(load(folder))
        with pytest.raises(ValueError, match=r"chat template drops, moves or repeats the user's content"):
            memory_of(model).ask("What happens?")

    def test_a_base_of_ours_must_be_a_stock_model(self, tmp_path):
        LlamaConfig().save_pretrained(tmp_path)
        config = ModelConfig(llm=LLMConfig(base=str(tmp_path), kind="stock", time=False))
        with pytest.raises(ValueError, match=r"it is a language model without video"):
            LongCompress.from_config(config, device="cpu")


class TestOptions:
    @pytest.mark.parametrize("quantization", ["3bit", 4, "int8"])
    def test_an_unknown_quantization_is_refused(self, quantization, folder_of):
        with pytest.raises(ValueError, match=rf'quantization must be "4bit", .*, got {quantization!r}'):
            load(folder_of("smolvlm"), quantization=quantization)

    @pytest.mark.parametrize("quantization", ["4bit", "8bit"])
    def test_quantization_says_what_to_install(self, quantization, folder_of, monkeypatch):
        monkeypatch.setattr(
            "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda *_: False
        )
        monkeypatch.setattr(
            "transformers.quantizers.quantizer_bnb_8bit.is_bitsandbytes_available", lambda *_: False
        )
        with pytest.raises(ImportError, match=r"pip install .*bitsandbytes"):
            load(folder_of("smolvlm"), quantization=quantization)

    def test_an_unknown_dtype_is_refused(self, folder_of):
        with pytest.raises(ValueError, match=r"dtype must be one of torch, .*, got 'float61'"):
            load(folder_of("smolvlm"), dtype="float61")

    def test_quantized_encoders_are_told(self):
        model, tokenizer = MODELS["qwen3_vl"]()
        layer = model.model.visual.blocks[0].attn.qkv
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
        backbone = backbone_of(model, tokenizer)
        config = ModelConfig(
            media=MediaConfig(size_px=SIZE), llm=LLMConfig(base="mine", kind="stock", time=False)
        )
        with pytest.warns(UserWarning, match=r"'mine' is quantized with its encoder: tokens differ"):
            take_apart(backbone, config)

    @pytest.mark.parametrize("name, size", [("qwen3_vl", 30), ("qwen2_5_vl", 7), ("gemma4", 33)])
    def test_a_size_must_fit_patches(self, name, size, model_of, folder_of):
        model = model_of(name)
        before = model.config
        with pytest.raises(ValueError, match=rf"size_px must be a multiple of \d+ pixels .*, got {size}"):
            model.change({"media": {"size_px": size}})
        assert model.config is before and memory_of(model).num_tokens == 40  # as it was
        with pytest.raises(ValueError, match=rf"media.size_px must be a multiple of .*, got {size}"):
            lc.from_transformers(*MODELS[name](), size_px=size)

    @pytest.mark.parametrize("name, size", [("smolvlm", 64), ("llava_onevision", 32)])
    def test_a_model_of_one_size_takes_no_other(self, name, size, model_of):
        with pytest.raises(ValueError, match=rf"media.size_px must be \d+ pixels for this model, got {size}"):
            model_of(name).change({"media": {"size_px": size}})

    def test_a_block_must_hold_whole_tokens(self, model_of):
        model = model_of("qwen3_vl")
        with pytest.raises(ValueError, match=r"batch_size must be a multiple of 2, .*, got 5"):
            model.change({"video": {"batch_size": 5}})
        assert model.video.config == model.config.video == VisionConfig()

    def test_fields_that_weights_depend_on_cannot_change(self, model_of):
        with pytest.raises(ValueError, match=r"changes must be fields of .*got 'llm': \['projector'\]"):
            model_of("qwen3_vl").change({"llm": {"projector": "mlp"}})

    @pytest.mark.parametrize(
        "name, budget, smallest", [("qwen3_vl", 0, 1), ("qwen3_omni", 1, 2), ("smolvlm", -4, 1)]
    )
    def test_a_budget_holds_a_token_of_each_stream(self, name, budget, smallest, model_of):
        with pytest.raises(ValueError, match=rf"budget must be .*{smallest}.*got {budget}"):
            lc.Session(model_of(name), budget)


class TestMemories:
    def test_a_memory_of_another_size_of_the_family_is_refused(self, model_of, copy_of, tmp_path):
        path = memory_of(model_of("qwen3_vl")).save(tmp_path / "video.lcm")
        model, tokenizer = MODELS["qwen3_vl"]()
        larger = type(model.config).from_dict(
            model.config.to_dict()
            | {"text_config": model.config.text_config.to_dict() | {"hidden_size": 128}}
            | {"vision_config": model.config.vision_config.to_dict() | {"out_hidden_size": 128}}
        )
        other = lc.from_transformers(type(model)(larger), tokenizer, size_px=SIZE)
        with pytest.raises(ValueError, match=r"was made by other encoders than model .*; compress"):
            lc.load_memory(path, other)

    @pytest.mark.parametrize("what", ["encoder", "projector", "size", "norm"])
    def test_a_memory_of_other_weights_is_refused(self, what, model_of, tmp_path):
        memory = memory_of(model_of("smolvlm" if what != "size" else "qwen3_vl"))
        path = memory.save(tmp_path / "video.lcm")
        model, tokenizer = MODELS["smolvlm" if what != "size" else "qwen3_vl"]()
        with torch.no_grad():
            if what == "encoder":
                model.model.vision_model.encoder.layers[1].mlp.fc1.weight.mul_(1.1)
            if what == "projector":
                model.model.connector.modality_projection.proj.weight.mul_(1.1)
        options = {"size_px": 2 * SIZE} if what == "size" else {}
        mean, std = memory.model.video.norm
        norm = SimpleNamespace(image_mean=[0.4, *mean[1:]] if what == "norm" else mean, image_std=std)
        processor = SimpleNamespace(tokenizer=tokenizer, image_processor=norm)
        other = lc.from_transformers(model, processor, **options)
        with pytest.raises(ValueError, match=r"was made by other encoders"):
            lc.load_memory(path, other)
        session = lc.Session(memory.model, 30)
        with pytest.raises(ValueError, match=r"data was made by other encoders"):
            lc.Session.restore(other, session.snapshot())

    def test_a_memory_of_other_language_weights_is_read(self, model_of, tmp_path):
        memory = memory_of(model_of("smolvlm"))
        path = memory.save(tmp_path / "video.lcm")
        model, _ = MODELS["smolvlm"]()
        with torch.no_grad():
            model.get_decoder().layers[0].mlp.up_proj.weight.mul_(1.1)
        mean, std = model_of("smolvlm").video.norm
        other = lc.from_transformers(model, MODELS["smolvlm"]()[1])
        assert (mean, std) == other.video.norm
        read = lc.load_memory(path, other)
        assert torch.equal(read.streams["video"].x, memory.streams["video"].x)
        assert read.model is other and read.num_tokens == memory.num_tokens

    def test_another_family_is_refused(self, model_of, tmp_path):
        path = memory_of(model_of("qwen3_vl")).save(tmp_path / "video.lcm")
        with pytest.raises(ValueError, match=r"was made by other encoders"):
            lc.load_memory(path, model_of("qwen2_5_vl"))


class TestQuestions:
    @pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "gemma4", "qwen2_5_omni"])
    def test_a_question_holds_no_placeholder(self, name, model_of):
        model = model_of(name)
        memory = memory_of(model)
        for text in model.llm.prompt.texts:
            with pytest.raises(
                ValueError, match=r"questions and answers must not hold the model's placeholders"
            ):
                memory.ask(f"What is {text} here?")
        tail = model.llm.prompt.tail(model.llm.prompt.lay_out(memory.video), "What is here?")
        assert not set(tail) & set(model.llm.prompt.placeholders)

    def test_an_answer_holds_no_placeholder(self, model_of):
        model = model_of("qwen3_vl")
        for dialogue in (False, True):
            turns = [("What is here?", "A <|video_pad|>."), ("And then?", "Nothing.")]
            with pytest.raises(ValueError, match=r"answers must not hold the model's placeholders"):
                model.llm.collate([Example(memory_of(model).video, turns, dialogue=dialogue)])

    @pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_vl", "qwen2_5_omni"])
    def test_a_clock_past_the_trained_range_is_told(self, name):
        model, tokenizer = MODELS[name]()
        model.config.get_text_config().max_position_embeddings = 250
        ours = small(lc.from_transformers(model, tokenizer))
        memory = memory_of(ours, seconds=300.0, budget=30, audio=False)
        with pytest.warns(
            UserWarning, match=r"end at [\d,]+, past the 250 that .* trained for; lower llm.clock_scale"
        ):
            memory.ask("What happens?", max_new_tokens=2)

    @pytest.mark.parametrize("name", ["qwen3_vl", "llava_onevision", "smolvlm"])
    def test_more_tokens_than_the_context_are_refused(self, name):
        model, tokenizer = MODELS[name]()
        model.config.get_text_config().max_position_embeddings = 50
        ours = small(lc.from_transformers(model, tokenizer))
        memory = memory_of(ours, seconds=20.0, budget=60)
        with pytest.raises(ValueError, match=r"context of 50, got \d+ .* compress to a smaller budget"):
            memory.ask("What happens?", max_new_tokens=2)
        expected = lc.estimate(ours, 20.0, 60)
        assert expected.context == 50 and not expected.fits

    def test_a_slower_clock_stays_inside_the_trained_range(self, recwarn):
        model, tokenizer = MODELS["qwen2_5_omni"]()
        model.config.get_text_config().max_position_embeddings = 800
        ours = small(lc.from_transformers(model, tokenizer))
        memory = memory_of(ours, seconds=60.0, budget=60, audio=False)
        last = ours.llm.prompt.lay_out(memory.video).next_position
        assert last > 1400
        ours.change({"llm": {"clock_scale": 0.25}})
        assert ours.llm.prompt.lay_out(memory.video).next_position < 0.4 * last
        recwarn.clear()
        memory.ask("What happens?", max_new_tokens=2)
        assert not [w for w in recwarn if "past the" in str(w.message)]


class TestFrames:
    def test_a_memory_of_other_frames_is_told_what_to_change(self, folder_of, tmp_path):
        model = small(load(folder_of("qwen2_vl")))
        memory = memory_of(model)
        path = memory.save(tmp_path / "video.lcm")
        answer = memory.ask("What happens?", max_new_tokens=8).text
        other = small(load(folder_of("qwen2_vl")))
        other.change({"media": {"rate_fps": 1.0}})
        with pytest.raises(ValueError, match=r"has other frames than .*'rate_fps': 2.0.* which model.change"):
            lc.load_memory(path, other)
        other.change({"media": memory.source["media"]})
        assert lc.load_memory(path, other).ask("What happens?", max_new_tokens=8).text == answer
        other.change({"media": {"size_px": 2 * SIZE}})
        with pytest.raises(ValueError, match=r"made by other encoders .*'size_px': 32.* which model.change"):
            lc.load_memory(path, other)

    def test_the_command_line_takes_the_frames_of_the_memory(self, folder_of, tmp_path, capsys):
        model = load(folder_of("qwen2_vl"))
        model.change({"media": {"size_px": SIZE, "rate_fps": 1.0}})
        memory = memory_of(model)
        path = memory.save(tmp_path / "video.lcm")
        words = ["ask", str(path), "What happens?", "--model", str(folder_of("qwen2_vl")), "--json"]
        assert main([*words, "--device", "cpu", "--max-new-tokens", "8"]) == 0
        answer = json.loads(capsys.readouterr().out)["text"]
        assert answer == memory.ask("What happens?", max_new_tokens=8).text
