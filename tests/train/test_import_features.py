"""Features in the files of VTimeLLM, LongVALE and LongVLM, made here of random numbers: each row is where it
belongs in our shards, which then train; files that are none are refused, and nothing in them is run."""

import io
import json
import os
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

import longcompress as lc
from longcompress.cli.main import main
from longcompress.config_values import load_config
from longcompress.llm.prompt import lay_out
from longcompress.train import stages as stages_module
from longcompress.train.data.convert import convert, save_records
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.imports import features as released_features
from longcompress.train.imports.array_files import read_npy, read_pickle
from longcompress.train.records import Record
from longcompress.train.shards import make as shards
from longcompress.train.shards.sample import read_sample
from longcompress.train.stages import StageRecipe, train_stage

import stages
from models import hearing, language_model, listening, tokenizer

pytestmark = pytest.mark.slow

RECIPES = stages_module.Path(stages_module.__file__).parent / "recipes"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of encoders, whose features are 8, 16, 8 and 64 wide, and a language model."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
             "image_size": 224, "patch_size": 112, "projection_dim": 8}  # fmt: skip
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(folder / "video")
    wide = sizes | {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 1}
    CLIPVisionModel(CLIPVisionConfig(**wide)).save_pretrained(folder / "eyes")
    hearing().save_pretrained(folder / "audio")
    listening().save_pretrained(folder / "speech")
    language_model().save_pretrained(folder / "llm")
    tokenizer().save_pretrained(folder / "llm")
    return {name: str(folder / name) for name in ("video", "eyes", "audio", "speech", "llm")}


def load(name, base, **options):
    parts = {"video": base["eyes" if name == "longvlm" else "video"], "llm": base["llm"]}
    if name == "longvale":
        parts |= {"audio": base["audio"], "speech": base["speech"]}
    return lc.load(name, base=parts, device="cpu", **options)


@pytest.fixture(scope="module")
def vtimellm(base):
    return load("vtimellm", base)


@pytest.fixture(scope="module")
def longvale(base):
    return load("longvale", base)


@pytest.fixture(scope="module")
def longvlm(base):
    return load("longvlm", base)


def rows(num, width, seed, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal((num, width)).astype(dtype)


def folder_of(path, **arrays):
    """A folder of .npy files."""
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def sample(record, model, folders, **options):
    """The state that training reads of a record's features, and the members of its sample."""
    folders = {name: stages_module.Path(folder) for name, folder in folders.items()}
    members = released_features.sample_of(record, model, folders, options.get("unknown_s", 0.0))
    return read_sample(members, "test").state(model.merge_state(shards.ENDLESS)), members


def bf16(array):
    return torch.from_numpy(np.asarray(array)).to(torch.bfloat16).float()


# --- VTimeLLM and LongVALE


def test_a_hundred_rows_are_a_hundred_tokens_in_their_order(vtimellm, tmp_path):
    array = rows(100, 8, 1)
    folder = folder_of(tmp_path / "f", v=array)
    state, members = sample(Record("v", "v.npy", 50.0), vtimellm, {"video": folder})
    video = state.compress(100)
    tokens = video.streams["video"]
    assert torch.equal(tokens.x, bf16(array))
    assert torch.allclose(tokens.start_s, torch.arange(100, dtype=torch.float64) / 2)
    assert float(tokens.end_s[-1]) == 50.0 and torch.equal(tokens.size, torch.ones(100))
    layout = lay_out(video, vtimellm.llm.tokenizer, vtimellm.llm.settings, vtimellm.llm.names)
    assert layout.ids == [-1] * 100
    assert json.loads(members["json"])["video"] == {"name": "v.npy"}


def test_three_folders_are_three_blocks_and_a_video_may_lack_audio(longvale, tmp_path):
    frames, audio, speech = rows(100, 8, 1), rows(39, 16, 2, np.float32), rows(41, 8, 3, np.float32)
    folders = {
        "video": folder_of(tmp_path / "p", v=frames, mute=frames, hush=frames),
        "audio": folder_of(tmp_path / "a", v=audio, hush=audio[:0]),
        "speech": folder_of(tmp_path / "s", v=speech),
    }
    video = sample(Record("v", "v.npy", 200.0), longvale, folders)[0].compress(10_000)
    for name, array in (("video", frames), ("audio", audio), ("speech", speech)):
        assert torch.equal(video.streams[name].x, bf16(array))
    assert torch.allclose(video.streams["audio"].start_s, 5.12 * torch.arange(39, dtype=torch.float64))
    heard = video.streams["speech"]  # 41 x 5.12 s are 210 s: what is behind the end has the last one's time
    assert (
        float(heard.start_s[-1]) == float(heard.start_s[-2]) == 39 * 5.12 and float(heard.end_s[-1]) == 200.0
    )
    layout = lay_out(video, longvale.llm.tokenizer, longvale.llm.settings, longvale.llm.names)
    assert layout.ids == [-1] * 100 + [-3] * 39 + [-5] * 41
    for name in ("mute", "hush"):
        video = sample(Record(name, f"{name}.npy", 200.0), longvale, folders)[0].compress(10_000)
        assert set(video.streams) == {"video"}


def test_what_our_encoders_extract_in_their_format_comes_back(longvale, tmp_path):
    """Ours to theirs and back: the same tokens as straight from the video."""
    from longcompress.train.imports import npy as arrays

    import videos

    (tmp_path / "in").mkdir()
    videos.write(tmp_path / "in" / "v.mkv", videos.Video())
    record = Record("v", str(tmp_path / "in" / "v.mkv"))
    assert [
        result.status for result in arrays.make([record], tmp_path / "npy", longvale, progress=False)
    ] == ["made"]
    folders = {
        n: tmp_path / "npy" / f for n, f in (("video", "visual"), ("audio", "audio"), ("speech", "speech"))
    }
    straight = lc.compress(longvale, record.video, progress=False)
    video = sample(replace(record, duration_s=straight.duration_s), longvale, folders)[0].compress(10_000)
    for name, tokens in straight.streams.items():
        got = video.streams[name]
        assert torch.allclose(got.x, tokens.x, rtol=2**-7, atol=1e-3)
        assert torch.allclose(got.start_s, tokens.start_s, atol=0.05) and len(got) == len(tokens)


def test_a_frame_is_one_token_and_parts_share_a_file(vtimellm, tmp_path):
    folder = folder_of(tmp_path / "f", image=rows(1, 8, 1)[0], two=rows(1, 8, 2), cut=rows(100, 8, 3))
    for name in ("image", "two"):
        state, _ = sample(Record(name, f"{name}.npy"), vtimellm, {"video": folder}, unknown_s=1.0)
        assert len(state.compress(100).streams["video"]) == 1
    part = Record("cut_12_62", "cut.npy", 50.0, meta={"split": [12.0, 62.0]})
    assert sample(part, vtimellm, {"video": folder})[0].num_tokens() == 100
    np.save(folder / "cut_12_62.npy", rows(100, 8, 4))  # one of its own goes before
    state, _ = sample(part, vtimellm, {"video": folder})
    assert torch.equal(state.compress(100).streams["video"].x, bf16(rows(100, 8, 4)))


DIALOGUES = [
    {
        "source": "made", "id": name,
        "conversations": [
            {"from": "human", "value": "<video>\nWhen is the ball red?"},
            {"from": "gpt", "value": "From <s0> to <e0>."},
            {"from": "human", "value": "What is seen between <s0> and <e0>?"},
            {"from": "gpt", "value": "red ball"},
        ],
        "meta": {"duration": 50.0, "token": {"<s0>": 5.0, "<e0>": 11.2}} | more,
    }
    for name, more in (("v0", {}), ("v1", {"split": [12.0, 62.0]}), ("gone", {}))
]  # fmt: skip


@pytest.fixture
def stage_2(tmp_path):
    """Records of `stage2.json` in its released shape, and folders of features of longvale."""
    every = {"v0": 1, "v1": 2}
    folders = {
        "video": folder_of(tmp_path / "p", **{n: rows(100, 8, s) for n, s in every.items()}),
        "audio": folder_of(tmp_path / "a", v0=rows(9, 16, 5, np.float32)),
        "speech": folder_of(tmp_path / "s", v0=rows(9, 8, 6, np.float32)),
    }
    (tmp_path / "stage2.json").write_text(json.dumps(DIALOGUES))
    records, missing = convert(tmp_path / "stage2.json", "dialogues", folders["video"])
    assert missing == ["gone"] and [r.key for r in records] == ["v0", "v1_12_62"]
    save_records(records, tmp_path / "stage2.jsonl")
    return records, folders


@pytest.mark.parametrize("name", ["vtimellm", "longvale"])
def test_released_json_and_features_train_a_stage_of_the_preset(base, tmp_path, stage_2, name):
    """Symbols are resolved when a sample is loaded, to hundredths of its cut; the paper's recipe learns."""
    records, folders = stage_2
    model = load(name, base)
    folders_of_model = folders if name == "longvale" else {"video": folders["video"]}
    done = released_features.make(records, tmp_path / "out", model, folders_of_model, progress=False)
    assert [result.status for result in done] == ["made", "made"]
    index = shards.pack(tmp_path / "out", records, progress=False)
    assert shards.verify(tmp_path / "out", progress=False) == []
    recipe = load_config(StageRecipe, RECIPES / f"{name}_boundary.yaml")
    batches = BatchSampler([index], 0, recipe.max_tokens, recipe.budgets, 2, 2)
    data = ShardData(batches, model, recipe.questions)
    loaded = next(iter(data))
    assert not loaded.bad and len(loaded.examples) == 2
    for key, example in zip(loaded.keys, loaded.examples, strict=True):
        assert example.dialogue and list(example.turns) == [
            ("When is the ball red?", "From 10 to 22."),
            ("What is seen between 10 and 22?", "red ball"),
        ]
        heard = {"audio", "speech"} if name == "longvale" and key == "v0" else set()
        assert set(example.video.streams) == {"video"} | heard
        assert len(example.video.streams["video"]) == 100
    recipe = replace(
        recipe, shards=[str(tmp_path / "out")], lora=recipe.lora | {"r": 4}, min_videos=2, max_videos=2,
        lr=0.02, epochs=12, log_steps=1, save_steps=12, engine=replace(stages.CPU, accumulate=1),
    )  # fmt: skip
    train_stage(model, recipe, tmp_path / "trained")
    losses = stages.losses(tmp_path / "trained")
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.1


def test_the_command(base, tmp_path, stage_2, capsys):
    _, folders = stage_2
    encoders = {n: base[n] for n in ("video", "audio", "speech")}
    words = ["shards", "import-features", str(tmp_path / "stage2.jsonl"), "--out", str(tmp_path / "out")]
    words += ["--preset", "longvale", "--base", json.dumps(encoders)]
    words += [w for n, f in folders.items() for w in (f"--{n}", str(f))]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert (
        "2 made" in output
        and "2 samples in 1 shards, by stream {'video': 2, 'audio': 1, 'speech': 1}" in output
    )
    np.save(folders["video"] / "v0.npy", rows(99, 8, 1))
    (tmp_path / "out" / "parts" / "v0.tar").unlink()
    assert main(words) == 3
    assert "v0: " in (err := capsys.readouterr().err) and "99 frames instead of 100" in err
    assert main([*words[:-2], "--speech", str(tmp_path / "gone")]) != 0
    assert "no folder of features" in capsys.readouterr().err
    assert main([*words[:5], "--video", "x"]) == 2
    assert "--model and --preset" in capsys.readouterr().err


# --- LongVLM


def by_numpy_1(array):
    """The bytes of an array's pickle as numpy 1 and Python 3.9 wrote them, instruction by instruction."""

    def text(words):
        return b"\x8c" + bytes([len(words)]) + words.encode()

    def call(module, name):
        return text(module) + text(name) + b"\x93"

    shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in array.shape) + b"t"
    kind = call("numpy", "dtype") + text(array.dtype.str[1:]) + b"\x89\x88\x87R"
    kind += b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    head = call("numpy.core.multiarray", "_reconstruct") + call("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    values = b"B" + struct.pack("<I", array.nbytes) + array.tobytes()
    return b"\x80\x04" + head + b"(K\x01" + shape + kind + b"\x89" + values + b"tb."


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f4"])
def test_a_pickled_array_comes_back(tmp_path, protocol, dtype):
    for array in (rows(30, 16, 1).astype(dtype), np.asfortranarray(rows(30, 16, 2).astype(dtype))):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(array, protocol=protocol))
        got = read_pickle(tmp_path / "x.pkl")
        assert got.dtype == np.dtype(dtype) and np.array_equal(got, array)


def test_an_array_that_numpy_1_pickled_comes_back(tmp_path):
    data = by_numpy_1(rows(300, 16, 1))
    assert np.array_equal(pickle.loads(data), rows(300, 16, 1))  # it is one
    (tmp_path / "x.pkl").write_bytes(data)
    assert np.array_equal(read_pickle(tmp_path / "x.pkl"), rows(300, 16, 1))


@pytest.mark.parametrize("local", [300, 200])
def test_longvlms_pickles_are_its_305_tokens(base, tmp_path, local):
    model = load("longvlm", base, variant={"local": local})
    tokens, memory = rows(local, 64, 1), rows(7, 64, 2)  # a row for each state of 6 layers
    for name, array in (("l", tokens), ("m", memory)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v.pkl").write_bytes(by_numpy_1(array))
    folders = {"local": tmp_path / "l", "memory": tmp_path / "m"}
    state, _ = sample(Record("v", "v.pkl", 100.0), model, folders)
    video = state.compress(local + 5)
    got = video.streams["video"]
    assert torch.equal(got.x, bf16(tokens))
    assert torch.allclose(video.globals["video"], torch.from_numpy(memory[-5:]).float())
    assert torch.equal(got.start_s, (torch.arange(local) // (local // 10) * 10).double())
    assert float(got.size.sum()) == pytest.approx(400)
    layout = lay_out(video, model.llm.tokenizer, model.llm.settings, model.llm.names)
    assert layout.ids == [-2] * 5 + [-1] * local  # global first, segment after segment


def test_longvlms_recipe_reads_them(longvlm, tmp_path):
    (tmp_path / "l").mkdir(), (tmp_path / "m").mkdir()
    for seed, name in enumerate(("v0", "v1")):
        (tmp_path / "l" / f"{name}.pkl").write_bytes(by_numpy_1(rows(300, 64, seed)))
        (tmp_path / "m" / f"{name}.pkl").write_bytes(by_numpy_1(rows(7, 64, seed + 5)))
    asked = [{"q": "What is red?", "a": "The ball.", "video_id": name} for name in ("v0", "v1")]
    (tmp_path / "qa.json").write_text(json.dumps(asked))
    records, missing = convert(tmp_path / "qa.json", "qa", tmp_path / "l")
    assert not missing
    folders = {"local": tmp_path / "l", "memory": tmp_path / "m"}
    failed = released_features.make(records, tmp_path / "out", longvlm, folders, progress=False)
    assert all("doesn't say how long its video is" in result.reason for result in failed)
    released_features.make(records, tmp_path / "out", longvlm, folders, unknown_s=100.0, progress=False)
    index = shards.pack(tmp_path / "out", records, progress=False)
    question_sampling = QuestionConfig(kinds={"qa": 1.0}, max_questions=1)
    data = ShardData(BatchSampler([index], 0, 10_000, [305], 2, 2), longvlm, question_sampling)
    (first, second) = next(iter(data)).examples
    assert list(first.turns) == list(second.turns) == [("What is red?", "The ball.")]
    batch = longvlm.llm.collate([first, second])
    assert torch.isfinite(longvlm(**batch)["loss"])


# --- files that are refused


class Runs:
    """Runs a command when it is unpickled by a reader that doesn't mind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def stacked(*pieces):
    """A hand-written pickle of protocol 4."""
    return b"\x80\x04" + b"".join(pieces) + b"."


def test_code_in_a_pickle_is_refused_and_nothing_of_it_runs(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "x.pkl"
    inside = np.empty(1, dtype=object)
    inside[0] = Runs(ran)
    for value in (Runs(ran), [Runs(ran)], {"x": Runs(ran)}, inside, (rows(2, 2, 1), Runs(ran))):
        for protocol in (2, 4, 5):
            path.write_bytes(pickle.dumps(value, protocol=protocol))
            with pytest.raises(ValueError, match=r"nothing of it was run|no pickle of a numpy array"):
                read_pickle(path)
    glob = b"\x8c\x08builtins\x8c\x04eval\x93"
    text = f"open({str(ran)!r}, 'w')".encode()
    call = glob + b"\x8c" + bytes([len(text)]) + text + b"\x85R"
    for data in (stacked(call), stacked(b"cbuiltins\neval\n", call[len(glob) :])):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"its pickle asks for builtins\.eval; nothing of it was run"):
            read_pickle(path)
    for names in (
        b"cnumpy\ndtype.__init__\n",
        b"cnumpy\nfromfile\n",
        b"cnumpy.core.multiarray\nfromstring\n",
    ):
        path.write_bytes(stacked(names))
        with pytest.raises(ValueError, match="its pickle asks for numpy"):
            read_pickle(path)
    assert not ran.exists()


def test_pickles_of_other_things_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    whole = pickle.dumps(rows(30, 16, 1), protocol=4)
    for cut in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cut off, or no pickle of a numpy array"):
            read_pickle(path)
    objects = np.array([None, 1], dtype=object)
    for value, message in (
        ((1, 2), "must hold a numpy array, got tuple"), ("text", "got str"), (np.arange(4), "got i8"),
        (np.zeros(2, dtype="f2,f4"), "no pickle of a numpy array|of floats"),
        (torch.zeros(2), "nothing of it was run|no pickle"), (objects, "no pickle|objects"),
    ):  # fmt: skip
        path.write_bytes(pickle.dumps(value, protocol=4))
        with pytest.raises(ValueError, match=message):
            read_pickle(path)
    word = b"\x8c\x05numpy\x8c\x05dtype\x93"
    kind = word + b"\x8c\x02f4\x85R"
    frombuffer = b"\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93"
    lies = {
        "has 4 bytes": frombuffer + b"(C\x04abcd" + kind + b"K\x09\x85\x8c\x01CtR",
        "no shape, or no bytes": frombuffer + b"(C\x04abcd" + kind + b"\x8c\x01x\x8c\x01CtR",
        "the pickle's array has no values": frombuffer + b"(C\x04abcdtR",
        "of floats, got NoneType": frombuffer + b"(C\x04abcdNK\x01\x85\x8c\x01CtR",
        "has no values": b"\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct\x93)R",
        "got _Function": word,
        "nothing of it was run": b"\x8c\x05numpy\x8c\x07ndarray\x93)R",
    }
    for message, data in lies.items():
        path.write_bytes(stacked(data))
        with pytest.raises(ValueError, match=message):
            read_pickle(path)
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "gone.pkl")


def test_a_broken_pickle_gives_an_array_or_an_error(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "x.pkl"
    whole = [pickle.dumps(np.ones((3, 4), np.float16), protocol=protocol) for protocol in (2, 3, 4, 5)]
    refused = 0
    for _ in range(120):
        data = bytearray(whole[generator.integers(4)])
        for _ in range(generator.integers(1, 4)):
            at = int(generator.integers(len(data)))
            data[at : at + int(generator.integers(0, 3))] = generator.bytes(int(generator.integers(0, 3)))
        path.write_bytes(data)
        try:
            assert read_pickle(path).dtype.kind == "f"
        except ValueError:
            refused += 1
    assert refused > 30


def test_npy_files_that_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects, which are never read"):
        read_npy(path)
    path.write_bytes(pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"cut off, or no \.npy file"):
        read_npy(path)
    np.save(path, rows(100, 8, 1))
    whole = path.read_bytes()
    assert np.array_equal(read_npy(path), rows(100, 8, 1))
    for cut in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cut off, or no \.npy file"):
            read_npy(path)
    vast = io.BytesIO()
    np.lib.format.write_array_header_1_0(vast, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    path.write_bytes(vast.getvalue())
    with pytest.raises(ValueError, match=r"cut off, or no \.npy file"):
        read_npy(path)
    np.save(path, np.arange(4))
    with pytest.raises(ValueError, match="must hold floats, got int64"):
        read_npy(path)
    np.savez(tmp_path / "y.npz", a=rows(2, 2, 1))
    (tmp_path / "y.npz").rename(path)
    with pytest.raises(ValueError, match="holds several arrays"):
        read_npy(path)
    assert not (tmp_path / "ran").exists()


def test_features_of_another_shape_are_refused_with_the_remedy(vtimellm, longvale, longvlm, tmp_path):
    def refused(model, message, duration_s=50.0, kind=ValueError, **arrays):
        folders = {}
        for name, array in arrays.items():
            folders[name] = tmp_path / f"{len(list(tmp_path.iterdir()))}{name}"
            folders[name].mkdir()
            if array is None:
                continue
            if name in ("local", "memory"):
                (folders[name] / "v.pkl").write_bytes(pickle.dumps(array, protocol=4))
            else:
                np.save(folders[name] / "v.npy", array)
        with pytest.raises(kind, match=message):
            sample(Record("v", "v.npy", duration_s), model, folders)

    frame = rows(100, 8, 1)
    refused(vtimellm, r"must be \(100, 8\), got \(99, 8\): 99 frames instead of 100; extract them anew",
            video=rows(99, 8, 1))  # fmt: skip
    refused(vtimellm, r"stream 'video': features must be \(N, 8\), .* got \(100, 16\); are they another",
            video=rows(100, 16, 1))  # fmt: skip
    refused(vtimellm, r"got \(100, 8, 1\)", video=frame[..., None])
    refused(vtimellm, r"got \(0, 8\)", video=frame[:0])
    refused(vtimellm, r"no features .*v\.npy", video=None, kind=FileNotFoundError)
    refused(vtimellm, "doesn't say how long its video is", video=frame, duration_s=None)
    refused(vtimellm, "x is not finite", video=frame * np.float16(np.inf))
    refused(longvale, r"stream 'audio': features must be \(N, 16\)", video=frame, audio=rows(9, 8, 1))
    refused(longvale, r"40 x 5.12 s are of a longer video than 50 s", video=frame, audio=rows(40, 16, 1))
    local, memory = rows(300, 64, 1), rows(7, 64, 2)
    refused(longvlm, r"= \(300, 64\), got \(200, 64\); it fits longvlm with variant local=200",
            local=local[:200], memory=memory)  # fmt: skip
    refused(longvlm, r"local features must be .*, got \(300, 32\)", local=local[:, :32], memory=memory)
    refused(longvlm, r"must be .*, got \(7, 64\)$", local=memory, memory=local)
    refused(longvlm, r"memory features must be \(25, 64\), 5 rows at least, got \(4, 64\)", local=local,
            memory=memory[:4])  # fmt: skip
    refused(longvlm, "no memory features", local=local, memory=None, kind=FileNotFoundError)
    record = Record("v", "v.npy", 50.0, events=(released_features_event(60.0, 70.0),))
    with pytest.raises(ValueError, match="outside the video of 50 s"):
        sample(record, vtimellm, {"video": folder_of(tmp_path / "f", v=frame)})


def released_features_event(start_s, end_s):
    from longcompress.types import Event

    return Event(start_s, end_s, "late")


def test_folders_that_a_model_has_no_use_for(vtimellm, longvlm, tmp_path):
    def refused(model, message, *names, kind=ValueError):
        with pytest.raises(kind, match=message):
            released_features.check_folders(model, dict.fromkeys(names, tmp_path))

    refused(vtimellm, r"in folders of \('video',\), the video's at least, got \['audio', 'video'\]",
            "video", "audio")  # fmt: skip
    refused(vtimellm, r"got \['local', 'memory'\]", "local", "memory")
    refused(longvlm, r"takes features in folders \('local', 'memory'\), got \['video'\]", "video")
    with pytest.raises(FileNotFoundError, match="no folder of features"):
        released_features.check_folders(vtimellm, {"video": tmp_path / "gone"})
