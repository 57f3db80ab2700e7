"""Benchmarks end to end: rows, tables and plots; and no wrong result is timed."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from longcompress.cli import main as cli
from longcompress.eval.bench import (
    attention,
    features,
    gpu_report,
    kernels,
    media,
    requests,
    sharded,
    stages,
    stock,
)
from longcompress.eval.bench.rows import Row, load_rows
from longcompress.eval.bench.throughput import bench_throughput
from longcompress.llm import CausalLM
from longcompress.presets import load
from longcompress.synthetic import scenes
from longcompress.videos import compress

import videos

pytestmark = pytest.mark.slow

MINUTES = 1 / 3
TWO_CLIPS = Row("requests", "all cases", x_name="clips", x=2)
EXTRACT = Row("features", "all cases")
SMALL = {"device": "cpu", "segments": 2, "tokens": 96, "channels": 128, "repeat": 2}
OPERATIONS = {
    "copy", "metric", "pool", "pool, backward", "medoid", "novelty", "attend", "plan, published",
    "plan, default", "plan, blocks", "plan, tree", "merge, published", "merge, default", "merge, blocks",
    "merge, tree",
}  # fmt: skip


def never(*_, **__):
    pytest.fail("was timed")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a video of 20 s under the name that `bench throughput` looks for."""
    folder = tmp_path_factory.mktemp("work")
    video = folder / f"video_{MINUTES:g}min.mp4"
    scenes.write_video(scenes.make_scene(3, 20.0), video, size_px=64, rate_fps=4)
    return folder


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


class TestStock:
    def test_encoders_of_families_are_timed_as_they_are_and_merging(self, tmp_path, capsys):
        path, families = tmp_path / "new" / "s.csv", ["qwen3_vl", "smolvlm"]
        sizes = {"layers": 4, "width": 64, "size_px": 224, "frames": 4, "repeat": 1, "device": "cpu"}
        assert stock.bench_stock(str(path), families, pairs=[3], **sizes) == 0
        rows = load_rows(path)
        cases = ("as it is", "3 pairs a layer", "half of the frames reused")
        assert {(row.provider, row.case) for row in rows} == {(f, c) for f in families for c in cases}
        assert all(row.value > 0 and not row.error for row in rows)
        near = {(row.provider, row.case): row.settings["relative_rms"] for row in rows}
        for family in families:
            exact, merged, reused = (near[family, case] for case in cases)
            assert exact == 0 and reused < 1e-5 < 0.01 < merged

    def test_a_family_that_cannot_merge_is_a_failed_case(self, tmp_path):
        path = tmp_path / "s.csv"
        sizes = {"layers": 4, "width": 64, "size_px": 224, "frames": 4, "repeat": 1, "device": "cpu"}
        assert stock.bench_stock(str(path), ["no_such"], **sizes) == 1
        assert "families must be of qwen2_vl," in load_rows(path)[0].error
        with pytest.raises(ValueError, match="frames must be a multiple of 4, got 6"):
            stock.bench_stock(str(path), frames=6)


class TestKernels:
    @pytest.mark.slow
    def test_every_operation_is_checked_timed_and_written(self, tmp_path, capsys):
        path = tmp_path / "new" / "k.csv"
        assert (
            kernels.bench_kernels(str(path), encoder_px=28, pairs=[1], dtypes=["fp16", "fp32"], **SMALL) == 0
        )
        rows = load_rows(path)
        encoders = {"encoder, stock", "encoder, 1 pairs a layer"}
        assert {row.case for row in rows} == OPERATIONS | encoders
        assert {row.provider for row in rows} == {"torch", "step by step"}
        assert {row.settings["dtype"] for row in rows} == {"fp16", "fp32"}
        assert all(0 < row.low <= row.value <= row.high and not row.error for row in rows)
        near = {row.case: row.settings["relative_rms"] for row in rows if row.case in encoders}
        assert near["encoder, stock"] == 0 < near["encoder, 1 pairs a layer"]
        out, err = capsys.readouterr()
        assert "merge, default" in out and "no GPU" in err

    def test_a_wrong_result_is_not_timed(self, monkeypatch, tmp_path):
        right = kernels.ops.pool
        monkeypatch.setattr(kernels.ops, "pool", lambda x, merge: right(x, merge) * 1.01)
        path = tmp_path / "k.csv"
        assert kernels.bench_kernels(str(path), cases=["pool", "novelty"], dtypes=["bf16"], **SMALL) == 1
        by_case = {(row.case, row.metric): row for row in load_rows(path)}
        assert re.search(r"pool by torch \(bf16\) is wrong by 1.*nothing is timed", by_case["pool", ""].error)
        assert by_case["novelty", "time"].value > 0

    def test_a_wrong_gradient_is_found(self, monkeypatch):
        module = sys.modules["longcompress.kernels.pool"]
        right = module._Pool.backward
        wrong = staticmethod(lambda ctx, dy: (2 * right(ctx, dy)[0], *[None] * 5))
        monkeypatch.setattr(module._Pool, "backward", wrong)
        errors = {c.case: c.error() for c in kernels.pools(kernels.make_inputs("cpu", 2, 96, 128, "fp32"))}
        assert errors["pool"] < 1e-6 and errors["pool, backward"] > 0.5

    def test_an_operation_that_can_not_be_set_up(self, monkeypatch, tmp_path):
        def broken(*_, **__):
            raise RuntimeError("no kernel image")

        monkeypatch.setattr(kernels.ops, "start_state", broken)
        path = tmp_path / "k.csv"
        assert kernels.bench_kernels(str(path), cases=["attend", "novelty"], dtypes=["fp32"], **SMALL) == 1
        assert {(row.case, row.error) for row in load_rows(path)} == {
            ("attends, fp32", "RuntimeError: no kernel image"), ("novelty", ""),
        }  # fmt: skip

    def test_an_encoder_whose_parts_differ_is_not_timed(self, monkeypatch, tmp_path):
        from longcompress.eval.bench import encoder

        model = encoder.random_dinov2(28)
        model.encoder.layer[0].register_forward_hook(lambda _, __, output: output * 1.5)
        monkeypatch.setattr(encoder, "random_dinov2", lambda _: model)
        monkeypatch.setattr(encoder, "timed", never)
        path = tmp_path / "k.csv"
        options = {"cases": ["encoder"], "dtypes": ["fp32"], "encoder_px": 28}
        assert kernels.bench_kernels(str(path), **options, **SMALL) == 1
        assert "parts of this 'dinov2' encoder" in load_rows(path)[0].error

    def test_an_unknown_type_is_refused(self):
        with pytest.raises(ValueError, match="dtypes must be of fp32, fp16, bf16, got 'int8'"):
            kernels.bench_kernels(dtypes=["int8"], **SMALL)


class TestThroughput:
    @pytest.mark.slow
    def test_stages_and_a_fresh_process(self, work, tmp_path):
        options = {"minutes": [MINUTES], "budgets": [32], "repeat": 1, "device": "cpu", "work": str(work)}
        path = tmp_path / "t.csv"
        assert bench_throughput(str(path), ["stages", "memory"], **options) == 0
        rows = load_rows(path)
        times = {(r.suite, r.case, r.provider): r.value for r in rows if r.metric == "time"}
        for provider in (stages.OURS, stages.UNCOMPRESSED):
            for case in ("merge", "layout", "prefill", "answer", "compress"):
                assert times["stages", case, provider] > 0
            for case in ("start", "load", "compress", "first answer", "second answer"):
                assert times["memory", case, provider] > 0
        assert {("stages", f"encode {n}", stages.OURS) for n in ("video", "audio")} <= times.keys()
        assert all(r.low <= r.value <= r.high and r.x == MINUTES for r in rows)
        tokens = {r.provider: r.settings["tokens"] for r in rows if "tokens" in r.settings}
        assert tokens[stages.OURS] == 32 and tokens[stages.UNCOMPRESSED] > 300
        peaks = {r.case: r.value for r in rows if r.metric == "memory of the process"}
        assert 0.1 < peaks["load"] < peaks["compress"] < 5

    def test_another_memory_is_not_timed(self, work, tiny, monkeypatch):
        def other(model, source, budget, **options):
            memory = compress(model, source, budget=budget, **options)
            memory.streams["video"].x[0, 0] += 1e-3
            return memory

        monkeypatch.setattr(stages, "compress", other)
        rows = stages.stage_rows(Row("stages", ""), tiny, media.video_of(work, MINUTES), [32], 1)
        match = rf"video_{MINUTES:g}min.mp4, longcompress, budget 32: .* different video.x; nothing is timed"
        with pytest.raises(ValueError, match=match):
            list(rows)

    def test_another_answer_is_not_timed(self, work, tiny, monkeypatch):
        parts, kinds = stages.decode(tiny, media.video_of(work, MINUTES))
        memory = stages.merge(tiny, *stages.segments_of(tiny, parts, kinds), 32)
        monkeypatch.setattr(stages, "LENGTH", {"max_new_tokens": 3})
        answer = CausalLM.answer
        first = iter([["no"]])
        monkeypatch.setattr(CausalLM, "answer", lambda *a, **b: next(first, None) or answer(*a, **b))
        with pytest.raises(ValueError, match=r"budget 32: the stages answer 'no', ask answers '.*'; nothing"):
            stages.check(tiny, media.video_of(work, MINUTES), (stages.OURS, 32), memory)

    def test_the_uncompressed_model_merges_nothing(self, work, tiny, monkeypatch):
        video = media.video_of(work, MINUTES)
        provider = stages.providers_of(tiny, video, [32])[1]
        segments, seconds = stages.segments_of(tiny, *stages.decode(tiny, video))
        whole = stages.uncompressed(tiny)
        memory = stages.merge(whole, segments, seconds, provider[1])
        stages.check(whole, video, provider, memory)
        assert all((tokens.size == 1).all() for tokens in memory.streams.values())
        monkeypatch.setattr(stages, "NO_MERGING", {"*": 1})
        merging = stages.uncompressed(tiny)
        memory = stages.merge(merging, segments, seconds, provider[1])
        with pytest.raises(ValueError, match=r"uncompressed, .* tokens were merged and none should be"):
            stages.check(merging, video, provider, memory)

    def test_a_context_that_is_too_short(self, work, tiny, monkeypatch, capsys):
        monkeypatch.setattr(CausalLM, "context", 400)
        assert stages.providers_of(tiny, media.video_of(work, MINUTES), [32]) == [(stages.OURS, 32)]
        assert "the uncompressed model is left out: its 374 raw tokens need" in capsys.readouterr().out

    def test_videos_that_can_not_be_had(self, work, tmp_path, monkeypatch):
        (tmp_path / "video_7min.mp4").write_bytes((work / f"video_{MINUTES:g}min.mp4").read_bytes())
        with pytest.raises(
            ValueError, match=r"must last 7 min, got 20\.\d s; above 5 minutes give multiples"
        ):
            media.video_of(tmp_path, 7)
        monkeypatch.setattr("shutil.which", lambda _: None)
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        with pytest.raises(ValueError, match=r"ffmpeg command is needed .* pip install imageio-ffmpeg"):
            media.video_of(tmp_path / "new", 5)
        assert not (tmp_path / "new").exists()

    def test_wrong_numbers(self):
        with pytest.raises(ValueError, match="repeat and clips must be at least 1, got 0 and 1"):
            bench_throughput(repeat=0)
        with pytest.raises(ValueError, match="repeat and clips must be at least 1, got 3 and 0"):
            bench_throughput(clips=[2, 0])


class TestRequests:
    @pytest.fixture(scope="class")
    def two(self, work):
        return requests.make_requests(work, 2, 12.0)

    @pytest.mark.slow
    def test_every_provider_has_its_figures(self, tiny, two):
        rows = list(requests.serve(TWO_CLIPS, tiny, two, 40, 2))
        assert len({request.video for request in two}) == 2
        figures = {(r.provider, r.case, r.metric): r for r in rows}
        for name in requests.PROVIDERS:
            assert figures[name, "compress and ask", "rate"].unit == "requests/s"
            p50, p95 = (figures[name, "compress and ask", metric].value for metric in ("p50", "p95"))
            assert p50 < p95 if name == "one by one" else p50 == p95
        assert all(r.value > 0 and (r.x, r.x_name) == (2, "clips") for r in rows)
        assert figures["batched", "compress and ask", "memory of the process"].unit == "GB"

    def test_a_provider_that_differs_is_not_timed(self, tiny, two, monkeypatch):
        def other(*arguments):
            served = requests.batched(*arguments)
            return served._replace(answers=[served.answers[0], "no"], memories=[*served.memories[::-1]])

        monkeypatch.setitem(requests.PROVIDERS, "threads", other)
        rows = list(requests.serve(TWO_CLIPS, tiny, two, 40, 1))
        failed = next(r for r in rows if r.error)
        assert failed.provider == "threads"
        assert re.search(
            r"2 of 2 clips differ: .*000\.mp4 \(another memory: .*\); .*'no', alone", failed.error
        )
        assert {r.provider for r in rows if not r.error} == {"one by one", "batched"}

    @pytest.mark.slow
    def test_through_the_command(self, work, tmp_path, capsys):
        words = "--cases requests --clips 1 --seconds 12 --budgets 40 --repeat 1 --device cpu".split()  # noqa: SIM905
        out = tmp_path / "new" / "a.csv"
        assert cli.main(["bench", "throughput", "--out", str(out), *words, "--work", str(work)]) == 0
        assert capsys.readouterr().out.count("clips=1") == len(load_rows(out)) == 16


class TestFeatures:
    @pytest.fixture(scope="class")
    def model(self):
        return features.random_model("longvale", "small")

    @pytest.mark.parametrize("seconds", [5.0, 11.0])
    def test_both_have_the_same_features(self, model, tmp_path, seconds):
        stamps = range(0, round(1000 * seconds), 200)
        path = str(videos.write(tmp_path / "video.mp4", videos.Video(stamps=stamps, audio_s=seconds)))
        ours, (expected, took) = features.extract(model, path)[0], features.extract_separately(model, path)
        features.check(ours, expected, 1e-4)
        assert [len(x) for x in expected.values()] == [100, *([1, 1] if seconds == 5 else [3, 3])]
        assert list(took) == ["decode", "video", "audio", "speech"] and all(s > 0 for s in took.values())
        expected["speech"] = expected["speech"] * 1.001
        with pytest.raises(
            ValueError, match=r"stream 'speech': features .* are 1\.0e-03 apart, at most 1e-04"
        ):
            features.check(ours, expected, 1e-4)

    @pytest.mark.slow
    def test_figures_of_a_short_run(self, tmp_path):
        path = str(videos.write(tmp_path / "video.mp4", videos.Video()))
        rows = list(features.features_rows(EXTRACT, path, "vtimellm", "small", 2, "cpu", None))
        figures = {(r.case, r.provider, r.metric): r for r in rows}
        memory = [figures[case, features.OURS, "memory"].value for case in ("load", "extract")]
        assert 0 < memory[0] <= memory[1]
        for metric in ("time", "time of all cores"):
            times = [figures["extract", name, metric] for name in (features.OURS, features.SEPARATE)]
            assert all(r.runs == 2 and r.value > 0 for r in times)
            assert figures["extract", features.SEPARATE, f"{metric}, ratio"].unit == "x"

    def test_wrong_words(self):
        with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"):
            next(features.features_rows(EXTRACT, "none.mp4", "longvale", "small", 1, "cpu", "int8"))
        with pytest.raises(ValueError, match="size must be one of small, middle, paper, got 'huge'"):
            features.random_model("longvale", "huge")


class TestMedia:
    @pytest.mark.parametrize("frames", [20, 30])
    def test_frames_must_be_as_many_as_ffmpegs(self, work, monkeypatch, frames):
        monkeypatch.setattr(media, "read_with_ffmpeg", lambda *_: frames)
        rows = media.media_rows(Row("media", "all cases"), media.video_of(work, MINUTES), 1)
        if frames == 30:
            with pytest.raises(ValueError, match=r": 20 frames, ffmpeg has 30; nothing is timed"):
                list(rows)
        else:
            cases = {media.OURS: {*media.READS}, media.FFMPEG: {*list(media.READS)[:3]}}
            assert {(r.provider, r.case) for r in rows} == {(p, c) for p in cases for c in cases[p]}

    def test_ffmpeg_reads_the_same_frames_and_samples(self, work):
        video = media.video_of(work, MINUTES)
        frames = [media.read_with_ffmpeg(video, words) for words in media.WRITES.values()]
        assert frames == [20, 0, 20]
        assert [media.count_frames(video, media.READS[name]) for name in media.WRITES] == frames
        with pytest.raises(ValueError, match=r"\.mp4: ffmpeg ended with code \d+"):
            media.read_with_ffmpeg(video, ["-map", "0:9", "-f", "null", "-"])


class TestGpuReport:
    @pytest.mark.slow
    def test_runs_where_only_torch_and_transformers_are(self, tmp_path):
        missing = ("av", "jsonargparse", "webdataset", "xformers", "matplotlib")
        code = (
            f"import sys\nfor name in {missing}: sys.modules[name] = None\n"
            "from longcompress.eval.bench import gpu_report\nfrom pathlib import Path\n"
            "for name in ('device', 'profile', 'operations-bf16', 'encoder', 'ncu'):\n"
            "    assert gpu_report.SECTIONS[name][1](Path(sys.argv[1]), 'cpu') == 0, name"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads((tmp_path / "profile.json").read_text())["default"]["launches"] > 0
        assert {r.case for r in load_rows(tmp_path / "bf16-copy.csv")} == OPERATIONS

    def test_attention_of_rows_is_measured_where_it_can_be(self, tmp_path, monkeypatch):
        assert attention.time_attention(tmp_path, "cpu") == 0
        figures = json.loads((tmp_path / "attention.json").read_text())
        assert list(figures) == ["chunked", "flex", "xformers", "flash"]
        chunked = figures["chunked"]
        assert chunked["state"] == "done" and max(chunked["errors"].values()) <= 1e-5
        assert [row["tokens"] for row in chunked["attention"]] == list(attention.CPU_LENGTHS)
        assert all(row["tokens_per_s"] > 0 for row in chunked["attention"])
        assert all(row["8 questions"]["step_s"] > 0 for row in chunked["lora"])
        monkeypatch.setattr(attention, "LIMIT", -1.0)
        assert attention.time_attention(tmp_path, "cpu") == 1
        figures = json.loads((tmp_path / "attention.json").read_text())
        assert figures["chunked"]["state"] == "failed: an error is above -1.0"

    @pytest.mark.parametrize(("section", "work"), [("ncu", "large merge"), ("racecheck", "small merge")])
    def test_tools_of_cuda_get_a_merge_to_look_into(self, tmp_path, monkeypatch, section, work):
        for tool in ("ncu", "compute-sanitizer"):
            stub = tmp_path / tool
            stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/words"\nexit 3\n')
            stub.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert gpu_report.SECTIONS[section][1](tmp_path, "cuda") == 3
        words = (tmp_path / "words").read_text().splitlines()
        assert words[-2:] == ["--section", work] and work in gpu_report.WORK
        assert (f"{tmp_path}/ncu" if section == "ncu" else "racecheck") in words

    def test_engines_are_compared_with_one_process_and_what_fails_is_named(self, tmp_path, monkeypatch):
        """The commands by a stub: engines' own runs are in tests/train/test_sharded.py."""
        flags = (Path(__file__).parents[1] / "cli" / "flags.txt").read_text().split()
        commands = []

        def run(words, **_):
            commands.append(words)
            if "synthesize" in words:
                return subprocess.CompletedProcess(words, 0)
            out = Path(words[words.index("--out") + 1])
            (out / "checkpoint-2").mkdir(parents=True)
            loss = 2.5 if out.name == "zero3" else 2.0
            lines = [{"loss": loss, "tokens_per_s": x, "memory_gib": x} for x in (1.0, 3.0)]
            log = json.dumps({"log_history": [*lines, {"train_loss": 2.0}]})
            (out / "checkpoint-2" / "trainer_state.json").write_text(log)
            return subprocess.CompletedProcess(words, int(out.name == "zero2"))

        monkeypatch.setattr(sharded.subprocess, "run", run)
        monkeypatch.setattr(sharded, "find_spec", lambda name: name)
        assert sharded.time_sharded(tmp_path, "cpu") == 1
        rows = json.loads((tmp_path / "sharded.json").read_text())
        done = {"state": "done", "losses": [2.0, 2.0], "tokens_per_s": 3.0, "memory_gib": 3.0, "apart": 0.0}
        assert rows["fsdp"].items() >= {**done, "processes": 2}.items() and rows["alone"]["processes"] == 1
        assert rows["zero2"]["state"] == "failed with exit code 1"
        assert rows["zero3"]["state"] == "failed: its losses are above 0.1 from those of one process"
        known = {*flags, "--standalone", "--nproc-per-node"}
        assert len(commands) == 5 and all(word in known for c in commands for word in c if word[:2] == "--")
        stage = json.loads((tmp_path / "zero3-engine.json").read_text())["zero_optimization"]["stage"]
        assert stage == 3 and str(tmp_path / "zero3-engine.json") in commands[-1]
        monkeypatch.setattr(sharded, "find_spec", lambda name: None)
        monkeypatch.setattr(sharded.torch.cuda, "device_count", lambda: 1)
        shutil.rmtree(tmp_path / "alone")
        assert sharded.time_sharded(tmp_path, "cuda") == 0
        states = {
            kind: row["state"] for kind, row in json.loads((tmp_path / "sharded.json").read_text()).items()
        }
        assert states["fsdp"] == "left out: FSDP needs two GPUs, this machine has 1"
        assert states["zero2"] == states["zero3"] == "left out: pip install deepspeed"

    def test_a_section_that_fails_leaves_the_others(self, tmp_path, monkeypatch):
        monkeypatch.setitem(gpu_report.SECTIONS, "profile", (0.1, gpu_report.profile_kernels))
        assert gpu_report.report(tmp_path, "cpu", ["profile", "device"]) == 1
        states = json.loads((tmp_path / "report.json").read_text())
        assert states["profile"]["state"] == "stopped after 0 s" and states["device"]["state"] == "done"
        assert json.loads((tmp_path / "device.json").read_text())["copy_tb_per_s"] > 0
