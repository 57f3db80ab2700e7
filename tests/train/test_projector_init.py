"""Projectors start by least squares from shards: numpy on the same tokens, parts, restarts, bad input."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save
from samples import BUDGET, TEXTS, broken, embedding, sample, two_events, write
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

import longcompress as lc
from longcompress.cli.main import main
from longcompress.llm import Example
from longcompress.llm.calibrate import embedding_norm, features_of
from longcompress.llm.projector import Residual
from longcompress.model import LongCompress
from longcompress.serialize import unpack
from longcompress.train import projector_init as module
from longcompress.train import projector_pairs as pairs_module
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.projector_pairs import KINDS, Pairs, Sums
from longcompress.train.records import Turn
from longcompress.train.shards.index import load_index
from longcompress.train.stages import BAD_SAMPLES, StageRecipe, train_stage
from longcompress.types import Event

import models
import ranks
import stages
from helpers import save_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirty videos with events, some with a caption for the seconds without."""
    model = models.model()
    where = tmp_path_factory.mktemp("init") / "shards"
    captions = [(), (TEXTS[4],), ("", TEXTS[5])]
    return write(where, [sample(model, i, two_events(i), captions[i % 3]) for i in range(30)])


def data_of(folder, model, *, rank=0, world=1, on_error="quarantine"):
    sampler = BatchSampler([load_index(folder)], 0, 400, [BUDGET], world)
    kinds = QuestionConfig(kinds={"segment": 1.0, "caption": 0.1, "qa": 0.1})
    return ShardData(sampler, model, kinds, rank=rank, world=world, on_error=on_error)


def start(folder, model, out, *, streams=("video", "audio"), **options):
    out.mkdir(parents=True, exist_ok=True)
    sums, held = module.collect(
        model, data_of(folder, model), BUDGET, streams, out, **{"max_samples": 1000} | options
    )
    return sums, held, module.fit_projectors(model, sums, streams)


def pairs_by_hand(model, folder, numbers, stream):
    """(x (N, C), y (N, D)) of samples, by a loop over tokens and events of the shards' own bytes."""
    index, xs, ys = load_index(folder), [], []
    for number in numbers:
        members = index.read(number)
        record = json.loads(members["json"])
        path = folder / "x.safetensors"
        path.write_bytes(members[f"{stream}.safetensors"])
        tensors = load_file(path)
        captions = [c for c in record["captions"] if c.strip()]
        for x, start_s, end_s in zip(tensors["x"], tensors["start_s"], tensors["end_s"], strict=True):
            texts = []
            for event in record["events"]:
                both = min(float(end_s), event["end_s"]) - max(float(start_s), event["start_s"])
                if both > (float(end_s) - float(start_s)) / 2:
                    texts.append(event["text"])
            texts = texts or captions
            if texts:
                xs.append(x.double().numpy())
                ys.append(np.mean([embedding(model, text) for text in texts], axis=0))
        if stream == "video":  # global tokens are of the whole video
            count = record["features"]["streams"]["video"]["summaries"]
            for x in (tensors["summary"] / count).float().double().numpy():
                xs.append(x)
                about = captions or [event["text"] for event in record["events"]]
                ys.append(np.mean([embedding(model, text) for text in about], axis=0))
        path.unlink()
    return np.array(xs), np.array(ys)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_projector_starts_as_numpys_least_squares_of_the_same_tokens(folder, tmp_path, stream):
    model = models.model()
    before = {n: p.detach().clone() for n, p in model.llm.named_parameters()}
    sums, held, fits = start(folder, model, tmp_path)
    (fit,) = [fit for fit in fits if fit.stream == stream]
    assert sums.done == 30 and len(held) == 3 and not sums.bad
    x, y = pairs_by_hand(model, folder, sorted(set(range(30)) - set(held)), stream)
    assert fit.tokens == len(x) and fit.width == x.shape[1]
    assert fit.rank == np.linalg.matrix_rank(x - x.mean(0), tol=1e-6)
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    added = fit.scores.ridge * np.square(centred_x).sum() / x.shape[1]
    more = np.concatenate([centred_x, np.sqrt(added) * np.eye(x.shape[1])])
    want = np.linalg.lstsq(more, np.concatenate([centred_y, np.zeros((x.shape[1], 32))]), rcond=1e-9)[0]
    mapped = centred_x @ want
    assert fit.scores.explained == pytest.approx(
        1 - np.square(centred_y - mapped).sum() / np.square(centred_y).sum()
    )
    held_x, held_y = pairs_by_hand(model, folder, held, stream)
    error = np.square(held_y - y.mean(0) - (held_x - x.mean(0)) @ want).sum()
    assert fit.scores.held_explained == pytest.approx(1 - error / np.square(held_y - y.mean(0)).sum())
    gain = model.config.llm.token_norm * embedding_norm(model.llm) / np.sqrt(np.square(mapped).sum(1).mean())
    out = model.llm.project[stream](torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(out, gain * mapped, atol=1e-4 * np.abs(out).max())
    changed = {n for n, p in model.llm.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"project.{name}.{leaf}" for name in ("video", "audio") for leaf in ("weight", "bias")}
    assert (
        fit.scores.top_1 > 3 / fit.texts and fit.scores.held_explained > 0.5
    )  # the shards' features are linear in words


def test_the_sums_of_halves_are_those_of_the_whole(folder):
    model = models.model()
    table = model.llm.lm.get_input_embeddings().weight.detach()

    def words(ids):
        return table[list(ids)].double().mean(0)

    def sums_of(numbers):
        sums, pairs = Sums(""), Pairs(data_of(folder, model), BUDGET, ("video", "audio"))
        for number in numbers:
            sums.add(pairs[number], words, 9 if number % 5 == 0 else 0)
        sums.flush()
        return sums

    whole, merged, second = sums_of(range(30)), sums_of(range(0, 30, 2)), sums_of(range(1, 30, 2))
    merged.merge(second)
    assert merged.done == whole.done == 30 and merged.counts == whole.counts
    for part in ("fit", "held"):
        for name, moments in getattr(whole, part).items():
            for key, value in vars(moments).items():
                error = (getattr(getattr(merged, part)[name], key) - value).abs().max() / value.abs().max()
                assert float(error) < 1e-12
    assert sorted(merged.right["audio"]) == sorted(whole.right["audio"])


def sums_in(folder):
    """The bytes of the sums that a pass has left."""
    return (folder / "init.safetensors").read_bytes()


def test_an_interrupted_pass_goes_on_to_the_same_bits_for_any_workers(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs_module, "FLUSH_EVERY", 4)
    results = {}
    for name, workers in (("whole", 0), ("workers", 2)):
        start(folder, models.model(), tmp_path / name, workers=workers)
        results[name] = sums_in(tmp_path / name)
    monkeypatch.setattr(module, "SAVE_EVERY", 4)
    add, calls = Sums.add, []

    def interrupt(self, rows, words, max_texts):
        calls.append(rows.key)
        if len(calls) == 14:
            raise KeyboardInterrupt
        add(self, rows, words, max_texts)

    monkeypatch.setattr(Sums, "add", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(folder, models.model(), tmp_path / "part")
    start(folder, models.model(), tmp_path / "part")
    assert len(calls) == 14 + 30 - 12  # twelve were saved
    results["part"] = sums_in(tmp_path / "part")
    sums, _, fits = start(folder, models.model(), tmp_path / "part")  # nothing is read again
    assert len(calls) == 32 and sums.done == 30 and len(fits) == 2
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["init.safetensors"]
    assert results["part"] == results["workers"] == results["whole"]
    start(folder, models.model(), tmp_path / "part", max_samples=9)  # another run
    assert len(calls) == 41


def recipe_of(folder, **changes):
    recipe = StageRecipe(
        shards=[str(folder)], questions=QuestionConfig(kinds={"segment": 1.0, "caption": 0.1, "qa": 0.1}),
        budgets=[BUDGET], max_tokens=100, min_videos=2, steps=1, save_steps=1, engine=stages.CPU,
    )  # fmt: skip
    return replace(recipe, **changes)


@pytest.mark.slow
def test_two_processes_start_as_one_does(folder, tmp_path):
    save_config(recipe_of(folder), tmp_path / "recipe.json")
    program, here = stages.script(tmp_path / "script.py"), Path(__file__).parents[1]
    for num, name in ((1, "one"), (2, "two")):
        words = [program, tmp_path / "recipe.json", tmp_path / name, here]
        codes, text = ranks.run(*words, num=num, out=tmp_path / f"{name}.log")
        assert codes == [0] * num, text[-8000:]
    alone, both = (unpack(sums_in(tmp_path / name), KINDS) for name in ("one", "two"))
    assert alone.done == both.done == 30 and alone.counts == both.counts
    for part in ("fit", "held"):
        for name, moments in getattr(alone, part).items():
            for key, value in vars(moments).items():
                error = (getattr(getattr(both, part)[name], key) - value).abs().max() / value.abs().max()
                assert float(error) < 1e-12
    assert sorted(both.right["video"]) == sorted(alone.right["video"])


def logits_of(model):
    batch = model.llm.collate([Example(models.video(3), [("what is seen", "the ball")])])
    with torch.no_grad():
        return model.llm.eval()(**batch)["logits"]


@pytest.mark.parametrize("kind", ["linear", "mlp", "residual"])
def test_a_model_that_was_started_loads_with_the_same_logits(folder, tmp_path, kind):
    model = models.model(llm=replace(models.model().config.llm, projector=kind))
    model.save_pretrained(tmp_path / "new", include_base=True)
    new = lc.load(tmp_path / "new", device="cpu")
    assert new.config.llm.projector == kind and new.llm.untrained == {"video", "audio"}
    torch.testing.assert_close(logits_of(new), logits_of(model), rtol=0, atol=0)
    before = logits_of(new)
    start(folder, new, tmp_path / "start", streams=("audio",))
    assert new.llm.untrained == {"video"}
    new.save_pretrained(tmp_path / "started", include_base=True)
    again = lc.load(tmp_path / "started", device="cpu")
    assert again.llm.untrained == {"video"}
    assert again.config.llm.projector == ("linear" if kind == "linear" else "residual")
    assert torch.equal(logits_of(again), logits_of(new)) and not torch.equal(before, logits_of(new))
    x = torch.randn(9, 32)
    torch.testing.assert_close(again.llm.project["video"](x), model.llm.project["video"](x))


def test_beside_an_mlp_the_map_is_linear_at_first_and_the_mlp_learns(folder, tmp_path):
    linear = models.model()
    model = models.model(llm=replace(linear.config.llm, projector="mlp"))
    for built, name in ((linear, "linear"), (model, "mlp")):
        start(folder, built, tmp_path / name)
    project = model.llm.project["video"]
    assert isinstance(project, Residual)
    x = torch.randn(9, 32)
    torch.testing.assert_close(project(x), linear.llm.project["video"](x))
    project(x).square().sum().backward()
    assert bool(project.mlp[-1].weight.grad.any()) and bool(project.skip.weight.grad.any())


def test_a_new_residual_projector_is_as_long_as_words(tmp_path):
    config = models.model().config
    bases = models.published(tmp_path, patch=8)
    config = replace(
        config, video=replace(config.video, base=bases["video"], summary_layers=0),
        audio=replace(config.audio, base=""), memory=replace(config.memory, kind="none"),
        media=replace(config.media, size_px=224), llm=replace(config.llm, base=bases["llm"]),
    )  # fmt: skip
    norms = {}
    for kind in ("linear", "residual"):
        torch.manual_seed(0)
        built = LongCompress.from_config(
            replace(config, llm=replace(config.llm, projector=kind)), device="cpu"
        )
        out = built.llm.project["video"](features_of(built.video, config.media))
        norms[kind] = float(out.detach().square().sum(1).mean().sqrt()) / embedding_norm(built.llm)
    assert norms["linear"] == pytest.approx(norms["residual"], rel=1e-3) == pytest.approx(1.0, rel=1e-3)


def test_a_stage_starts_what_is_new_says_so_and_leaves_the_rest(folder, tmp_path, capsys):
    model = models.model()
    model.llm.untrained = {"audio"}
    video = model.llm.project["video"].weight.detach().clone()
    trained = train_stage(model, recipe_of(folder, train=["lora"]), tmp_path / "auto")
    printed = capsys.readouterr().out
    assert "projectors start by least squares from 30 samples, 3 of them held out" in printed
    assert "audio: " in printed and "video: " not in printed and "own better in" in printed
    assert torch.equal(model.llm.project["video"].weight, video)
    report = json.loads((tmp_path / "auto" / module.REPORT).read_text())
    assert [fit["stream"] for fit in report["fits"]] == ["audio"] and report["signals"]["answers"] >= 3
    assert not lc.load(trained, device="cpu").llm.untrained
    for init, want in (("keep", {}), ("ridge", {"video", "audio"})):
        model = models.model()
        before = {name: model.llm.project[name].weight.detach().clone() for name in ("video", "audio")}
        train_stage(model, recipe_of(folder, train=["lora"], init=init), tmp_path / init)
        assert {n for n, w in before.items() if not torch.equal(w, model.llm.project[n].weight)} == set(want)
        assert model.llm.untrained == ({"video", "audio"} if init == "keep" else set())
    some = recipe_of(folder, train=["projectors.audio"], init="ridge")
    train_stage(models.model(), some, tmp_path / "some")
    report = json.loads((tmp_path / "some" / module.REPORT).read_text())
    assert [fit["stream"] for fit in report["fits"]] == ["audio"]


@pytest.mark.slow
def test_a_resumed_run_starts_from_what_it_started_from(folder, tmp_path):
    lora = {"r": 4, "lora_dropout": 0.0}
    recipe = recipe_of(folder, train=["lora", "projectors.audio"], lora=lora, steps=4, save_steps=2)
    whole = models.model()
    train_stage(whole, recipe, tmp_path / "whole")
    stopped, steps = models.model(), []

    def interrupt(*_):
        steps.append(stopped.llm.training)
        if sum(steps) == 4:
            raise KeyboardInterrupt

    stopped.llm.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_stage(stopped, recipe, tmp_path / "part")
    resumed = models.model()
    train_stage(resumed, recipe, tmp_path / "part", resume=True)
    first, second = whole.llm.state_dict(), resumed.llm.state_dict()
    assert [name for name, value in first.items() if not torch.equal(second[name], value)] == []


@pytest.mark.slow
def test_the_command_starts_projectors_by_least_squares(folder, tmp_path, capsys):
    models.model().save_pretrained(tmp_path / "base", include_base=True)
    words = ["train", "align", "--model", str(tmp_path / "base"), "--shards", str(folder), "--steps", "1"]
    words += ["--engine.report", "--engine.workers", "0", "--out"]
    assert main([*words, str(tmp_path / "run"), "--init", "ridge", "--init-samples", "20"]) == 0
    assert "from 20 samples, 2 of them held out" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "no"), "--init", "guess"]) == 2
    assert "--init must be one of auto, ridge, keep, got guess" in capsys.readouterr().err.replace('"', "")
    stock = ["train", "align", "--model", "tiny", "--shards", str(folder), "--init", "ridge"]
    assert main([*stock, "--engine.report", "--out", str(tmp_path / "tiny")]) == 2
    assert "other encoders" in capsys.readouterr().err


def test_one_sample_and_one_text_for_all_keep_the_random_start(tmp_path):
    model = models.model()
    cases = {
        "alone": [sample(model, 0, [Event(0, 6, "red ball")])],
        "same": [sample(model, i, [Event(0, 6, "red ball")]) for i in range(4)],
        "empty": [sample(model, i, captions=("", "  ")) for i in range(4)],
        "signs": [sample(model, i, captions=("12 ... 3", "?!")) for i in range(4)],
    }
    for name, samples in cases.items():
        shards = write(tmp_path / name / "shards", samples)
        built = models.model()
        before = built.llm.project["audio"].weight.detach().clone()
        recipe = recipe_of(shards, min_videos=1, max_videos=1)
        with pytest.raises(ValueError, match=r"projectors of audio, video can't start by least squares: the"):
            train_stage(built, replace(recipe, init="ridge"), tmp_path / name / "explicit")
        assert torch.equal(built.llm.project["audio"].weight, before)
        report = json.loads((tmp_path / name / "explicit" / module.REPORT).read_text())
        assert report["fits"] == [] and report["samples"] == len(samples)
        want = {"empty": {"texts without a word": 8, "samples without a text": 4}}
        want["signs"] = want["empty"]
        assert report["counts"] == want.get(name, {})
        if name in ("alone", "same"):
            with pytest.warns(UserWarning, match="give --init keep to start as the model is, which is what"):
                train_stage(built, recipe, tmp_path / name / "auto")


def test_one_sample_with_two_texts_is_enough_and_nothing_is_held_out(tmp_path, capsys):
    model = models.model()
    shards = write(tmp_path / "shards", [sample(model, 0, two_events(0))])
    train_stage(model, recipe_of(shards, min_videos=1, max_videos=1), tmp_path / "run")
    printed = capsys.readouterr().out
    assert (
        "from 1 samples, 0 of them held out" in printed
        and "ridge 0.03" in printed
        and "nothing held out" in printed
    )


def test_bad_samples_and_texts_are_counted_and_named_and_the_rest_is_used(tmp_path, capsys):
    model = models.model()
    samples = [sample(model, i, two_events(i)) for i in range(12)]
    samples[5] = (samples[5][0], broken(samples[5][1], "video"))
    samples[7] = sample(
        model, 7, [Event(0, 3, "красный мяч"), Event(3, 6, "red ball")]
    )  # its tokenizer's none
    samples[8] = sample(model, 8, [Event(0, 3, "塞翁失马")])
    samples.append(sample(model, 12, two_events(1), streams=("audio",)))
    answers = (
        Turn("user", "when"),
        Turn("assistant", "<s0>"),
        Turn("user", "what"),
        Turn("assistant", "blue box"),
    )
    dialogue = sample(model, 13, dialogues=(answers,))
    samples.append(dialogue)
    shards = write(tmp_path / "shards", samples)
    sums, _, fits = start(shards, model, tmp_path / "out")
    assert sums.done == 14 and len(fits) == 2
    ((key, reason),) = [(bad.key, bad.reason) for bad in sums.bad]
    assert key == "v005" and "not finite" in reason
    assert sums.counts == {
        "texts that the tokenizer has no word of": 2, "samples without a text": 1, "texts without a word": 1,
    }  # fmt: skip
    assert all(bool(torch.isfinite(p).all()) for p in model.llm.project.parameters())
    train_stage(models.model(), recipe_of(shards, min_videos=1, max_videos=1), tmp_path / "run")
    printed = capsys.readouterr().out
    assert (
        "1 samples that can't be used, such as v005" in printed
        and "2 texts that the tokenizer has no" in printed
    )
    with pytest.raises(ValueError, match=r"v005.*not finite"):
        stop = data_of(shards, model, on_error="stop")
        module.collect(model, stop, BUDGET, ["video"], tmp_path / "out", max_samples=99)


def test_shards_of_another_encoder_are_refused(folder, tmp_path):
    model = models.model()
    with torch.no_grad():
        next(model.video.parameters()).add_(1)
    with pytest.raises(ValueError, match="features of other encoders than model 'test' has"):
        train_stage(model, recipe_of(folder), tmp_path)


def test_global_tokens_that_are_not_finite_are_named(folder, tmp_path):
    model = models.model()
    key, members = sample(model, 0, two_events(0))
    tensors = load(members["video.safetensors"])
    tensors["summary"][0, 0] = torch.inf
    shards = write(tmp_path / "shards", [(key, members | {"video.safetensors": save(tensors)})])
    pairs = Pairs(data_of(shards, model), BUDGET, ["video"])
    assert "global tokens of stream 'video' are not finite" in pairs[0].bad


def test_a_tokenizer_without_digits_trains(folder, tmp_path):
    model = models.model()
    words = ["<unk>", "<end>", *models.WORDS, "red", "blue", "ball", "box"]
    bare = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    bare.pre_tokenizer = WhitespaceSplit()
    bare.add_special_tokens(["<unk>", "<end>"])
    model.llm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", eos_token="<end>")
    trained = train_stage(model, recipe_of(folder, eval_shards=[str(folder)]), tmp_path / "run")
    assert trained.is_dir()
    report = json.loads((tmp_path / "run" / module.REPORT).read_text())
    assert len(report["fits"]) == 2 and "time" not in report["signals"]["kinds"]
    assert not (tmp_path / "run" / BAD_SAMPLES).exists()
