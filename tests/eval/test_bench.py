"""Benchmarks end to end: rows, tables and frames; and nothing is timed that is not right."""

import re
import struct
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args, get_type_hints

import pytest

from longcompress.cli import main as cli
from longcompress.eval import bench_concurrency, bench_pipeline, bench_plot, bench_rows, bench_table, stages
from longcompress.eval.bench_rows import Row
from longcompress.llm import CausalLM
from longcompress.presets import load
from longcompress.session import compress
from longcompress.synthetic import scenes

MINUTES = 1 / 3
SETTINGS = {"model": "tiny", "dtype": "float32"}


def never(*_, **__):
    pytest.fail("was timed")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a video of 20 s under the name that the pipeline looks for."""
    folder = tmp_path_factory.mktemp("work")
    video = folder / f"video_{MINUTES:g}min.mp4"
    scenes.write_video(scenes.make_scene(3, 20.0), video, size_px=64, rate_fps=4)
    return folder


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


def row(suite="pipeline", what="compress", metric="time", unit="s", x=10.0, value=2.0, **changes):
    """A row with a spread of a tenth."""
    names = {"pipeline": "video_min", "concurrency": "clips", "kernels": "segments", "compile": "warps"}
    made = Row(suite, what, "longcompress", "warm", metric, unit, names[suite], x, value, value * 0.9,
               value * 1.1, 3, SETTINGS)  # fmt: skip
    return replace(made, **changes)


def pipeline_rows():
    """Videos of 1 and 10 minutes, two budgets and none; figures of a GPU's memory beside the process's."""
    rows = []
    for minutes in (1.0, 10.0):
        for what in stages.SHARED:
            rows.append(row(what=what, x=minutes, settings={**SETTINGS, "new_tokens": 32}))
        for provider, budget in ((stages.OURS, 256), (stages.OURS, 1024), (stages.WHOLE, 10_300)):
            told = {**SETTINGS, "new_tokens": 32, "budget": budget, "tokens": budget - 1}
            same = {"x": minutes, "provider": provider, "settings": told}
            rows += [row(what=what, value=0.25, **same) for what in stages.STAGES[3:]]
            rows += [row(what=what, mode="cold", **same) for what in ("start", "load", "compress", "ask")]
            rows += [row(metric="speed", unit="x real time", mode="cold", **same), row(what="ask", **same)]
            for of, value in (("process", 0.5), ("GPU", 8.0)):
                same["settings"] = {**told, "of": of}
                rows.append(row(what="ask", mode="cold", metric="memory", unit="GB", value=value, **same))
    return rows


def kernel_rows():
    rows = []
    for what, flop in (("copy", 0), ("pool", 2000)):
        for provider, ms in (("triton", 1.0), ("torch", 4.0)):
            told = {"dtype": "bf16", "flop": flop, "bytes": 1000}
            same = {"what": what, "provider": provider, "mode": "forward", "settings": told}
            rows.append(row("kernels", metric="time", unit="ms", value=ms, **same))
            rows.append(row("kernels", metric="bandwidth", unit="GB/s", value=4000 / ms, **same))
    return rows


def concurrency_rows():
    told = {**SETTINGS, "seconds": 30.0, "budget": 256}
    same = {"suite": "concurrency", "provider": "batched", "x": 4.0, "settings": told}
    rows = [
        row(what=what, mode="all", metric="rate", **same) for what in ("watch and ask", "compress", "ask")
    ]
    return rows + [row(what="watch and ask", mode=mode, metric="latency", **same) for mode in ("p50", "p95")]


def compile_rows():
    told = {"warps": 8, "stack_bytes": 0, "shared_bytes": 4096, "wide_reads": True, "tensor_cores": False}
    same = {"suite": "compile", "metric": "registers", "unit": "registers", "settings": told, "x": 8.0}
    return [
        row(what=what, mode=chip, value=40.0, **same)
        for chip in ("sm_80", "sm_90")
        for what in ("match", "tail")
    ]


def all_rows():
    return pipeline_rows() + kernel_rows() + concurrency_rows() + compile_rows()


@pytest.fixture
def figures(tmp_path):
    """A CSV file with figures of all benchmarks."""
    bench_rows.save(tmp_path / "all.csv", all_rows(), "cpu")
    return tmp_path / "all.csv"


class TestRows:
    def test_come_back_as_they_were(self, figures):
        got = bench_table.read_figures([figures])
        assert [one.row for one in got] == all_rows()
        assert {one.machine["device"] for one in got} == {bench_rows.machine("cpu")["device"]}

    def test_a_suite_is_replaced_and_others_stay(self, figures):
        bench_rows.save(figures, [row(value=5.0)], "cpu")
        assert [one.row for one in bench_table.read_figures([figures], "pipeline")] == [row(value=5.0)]
        assert [one.row for one in bench_table.read_figures([figures], "kernels")] == kernel_rows()

    def test_other_columns_are_refused_by_name(self, figures, tmp_path):
        text = figures.read_text()
        (tmp_path / "odd.csv").write_text(text.replace("provider", "who", 1))
        with pytest.raises(ValueError, match=r"odd\.csv must have the columns suite, what, provider.*'who'"):
            bench_table.read_figures([figures, tmp_path / "odd.csv"])

    def test_a_median_has_its_spread(self):
        assert bench_rows.median([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
        assert "[1.8, 2.2]" in bench_rows.line(row())


class TestTable:
    @pytest.fixture
    def readme(self, tmp_path):
        parts = [f"# {n}\n\n<!-- bench:{n} -->\nold\n<!-- /bench:{n} -->\n" for n in bench_table.TABLES]
        (tmp_path / "README.md").write_text("".join(parts) + "end\n")
        return tmp_path / "README.md"

    @pytest.fixture
    def table(self, figures, readme):
        def table(*words):
            return cli.main(["bench", "table", str(figures), "--readme", str(readme), *words])

        return table

    def test_is_written_between_the_markers(self, table, readme):
        assert table() == 0
        text = readme.read_text()
        assert text.startswith("# kernels\n\n<!-- bench:kernels -->\n") and text.endswith("-->\nend\n")
        assert "old" not in text
        assert "| pool, forward | bf16 | 10 | 1 (0.9 to 1.1) | 4 (3.6 to 4.4) | 4,000 | 100% |" in text
        spread = "2 (1.8 to 2.2)"
        assert f"| 10 min | 1,023 | {' | '.join([spread] * 3 + ['0.25 (0.225 to 0.275)'] * 4)} |" in text
        assert f"| 1 min | all 10,299 | {' | '.join([spread] * 6)} | 8 (7.2 to 8.8) |" in text
        assert "peak of the GPU, GB" in text
        assert f"| 4 | batched | {' | '.join([spread] * 5)} |" in text  # no column for memory: there is none
        assert "torch 2." in text and "medians of 3 runs" in text
        assert table() == 0
        assert readme.read_text() == text

    def test_check_finds_a_changed_digit(self, table, readme, capsys):
        table()
        assert table("--check") == 0
        text = readme.read_text()
        readme.write_text(text.replace("1 (0.9 to 1.1)", "1 (0.9 to 1.2)", 1))
        assert table("--check") == 1
        assert "the tables of kernels are not those of the figures" in capsys.readouterr().out
        assert "1.2" in readme.read_text()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nothing", "the file must have <!-- bench:NAME --> with"),
            ("<!-- bench:kernels -->\n", "the file must have <!-- bench:NAME --> with"),
            (
                "<!-- bench:odd -->\n<!-- /bench:odd -->",
                "NAME of kernels, compile, pipeline, concurrency, got odd",
            ),
            ("<!-- bench:kernels -->\n<!-- /bench:pipeline -->", "got kernels and /pipeline"),
        ],
    )
    def test_markers_that_are_wrong(self, figures, text, message):
        with pytest.raises(ValueError, match=message):
            bench_table.written(text, [figures])

    def test_no_figures_for_a_marker(self, tmp_path):
        bench_rows.save(tmp_path / "a.csv", kernel_rows(), "cpu")
        with pytest.raises(ValueError, match=r"no figures of pipeline in .*a\.csv; run bench pipeline --out"):
            bench_table.written("<!-- bench:pipeline -->\n<!-- /bench:pipeline -->", [tmp_path / "a.csv"])


class TestPlot:
    def test_frames_are_whole_and_of_one_size(self, figures, tmp_path):
        assert cli.main(["bench", "plot", str(figures), "--out", str(tmp_path / "new")]) == 0
        paths = sorted((tmp_path / "new").iterdir())
        assert [p.name.split("_cpu")[0].split("_tiny")[0] for p in paths] == sorted(bench_plot.PLOTS)
        for path in paths:
            data = path.read_bytes()
            assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
            assert struct.unpack(">II", data[16:24]) == (1200, 750)
            assert len(data) > 10_000

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (concurrency_rows(), "no frame roofline: no figures of kernels"),
            (kernel_rows()[4:], r"no frame roofline for cpu \w+: no bandwidth of a copy"),
            (kernel_rows()[:4], "no bandwidth of operations with flop and bytes"),
            (
                [row()],
                "no frame compress_time for tiny in float32 on .*: no time of compressing in a fresh process",
            ),
            ([row()], "no peak of memory in a fresh process"),
            ([row()], "no time of single stages"),
        ],
    )
    def test_what_can_not_be_drawn_is_said(self, tmp_path, capsys, rows, message):
        bench_rows.save(tmp_path / "a.csv", rows, "cpu")
        bench_plot.draw([tmp_path / "a.csv"], tmp_path / "new")
        assert re.search(message, capsys.readouterr().out)


class TestPipeline:
    def test_every_stage_has_a_time(self, work, capsys, monkeypatch):
        def in_process(module, words):  # one process of its own is enough for a test
            if stages.OURS in words:
                return in_own_process(module, words)
            method = stages.Method(stages.WHOLE, int(words[words.index("--budgets") + 1]))
            return bench_pipeline.once(words[1], "tiny", method, "cpu", time.time())

        in_own_process = bench_pipeline.in_own_process
        monkeypatch.setattr(bench_pipeline, "in_own_process", in_process)
        rows = bench_pipeline.measure("tiny", [MINUTES], [32], repeat=1, cold=1, device="cpu", work=str(work))
        times = {(r.what, r.mode, r.provider): r for r in rows if r.metric == "time"}
        for provider in (stages.OURS, stages.WHOLE):
            for what in (*stages.STAGES[len(stages.SHARED) :], "compress", "ask"):
                assert times[what, "warm", provider].settings["budget"] >= 32
            for what in ("start", "load", "compress", "ask", "whole"):
                assert times[what, "cold", provider].value > 0
        assert {(what, "warm", stages.OURS) for what in stages.SHARED} <= set(times)
        assert all(r.value > 0 and r.low <= r.value <= r.high for r in rows)
        assert {r.x for r in rows} == {MINUTES}
        tokens = {r.provider: r.settings["tokens"] for r in rows if "tokens" in r.settings}
        assert tokens[stages.OURS] == 32
        assert tokens[stages.WHOLE] > 300
        peaks = {(r.provider, r.what): r.value for r in rows if r.metric == "memory"}
        assert 0.1 < peaks[stages.OURS, "load"] < peaks[stages.OURS, "compress"] < 5
        by_unit = {r.unit for r in rows}
        assert by_unit == {"s", "GB", "frames/s", "tokens/s", "x real time"}
        assert capsys.readouterr().out.count("\n") == len(rows)

    def test_red_is_no_figure(self, work, monkeypatch):
        def other(model, source, budget, **options):
            memory = compress(model, source, budget, **options)
            if budget == 32:
                memory.streams["video"].x[0, 0] += 1e-3
            return memory

        monkeypatch.setattr(stages, "compress", other)
        monkeypatch.setattr(bench_pipeline, "warm_rows", never)
        match = rf"video_{MINUTES:g}min.mp4, longcompress, budget 32: .* different frame.x; nothing is timed"
        with pytest.raises(ValueError, match=match):
            bench_pipeline.measure("tiny", [MINUTES], [64, 32], device="cpu", work=str(work))

    def test_another_answer_is_no_figure(self, work, tiny, monkeypatch):
        video = bench_pipeline.video_of(work, MINUTES)
        monkeypatch.setattr(stages, "_answered", lambda *_: (9, "no"))
        with pytest.raises(ValueError, match=r"budget 32: the stages answer 'no', ask answers '.*'; nothing"):
            stages.check(tiny, video, [stages.Method(stages.OURS, 32)])

    def test_the_whole_must_be_whole(self, work, tiny, monkeypatch):
        video = bench_pipeline.video_of(work, MINUTES)
        ours, whole = stages.ways_of(tiny, video, [32])
        config, compressor = tiny.config, tiny.compressor
        run = stages.check(tiny, video, [ours, whole])
        assert (tiny.config, tiny.compressor) == (config, compressor)
        assert all((tokens.size == 1).all() for tokens in run.memories[whole].streams.values())
        monkeypatch.setattr(stages, "NO_MERGING", {"*": 1})
        with pytest.raises(ValueError, match=r"uncompressed, .* tokens were merged and none should be"):
            stages.check(tiny, video, [whole])

    def test_a_context_that_is_too_short_is_said(self, work, tiny, monkeypatch, capsys):
        monkeypatch.setattr(CausalLM, "context", 400)
        methods = stages.ways_of(tiny, bench_pipeline.video_of(work, MINUTES), [32])
        assert [method.budget for method in methods] == [32]
        assert (
            "no figures of the uncompressed language model: its 374 raw tokens need"
            in capsys.readouterr().out
        )

    def test_videos_that_can_not_be_had(self, work, tmp_path, monkeypatch):
        (tmp_path / "video_7min.mp4").write_bytes((work / f"video_{MINUTES:g}min.mp4").read_bytes())
        with pytest.raises(
            ValueError, match=r"must last 7 min, got 20\.\d s; above 5 minutes give multiples"
        ):
            bench_pipeline.video_of(tmp_path, 7)
        monkeypatch.setattr("shutil.which", lambda _: None)
        with pytest.raises(ValueError, match="ffmpeg command is needed to make the videos"):
            bench_pipeline.video_of(tmp_path, 5)

    def test_wrong_words(self, work):
        with pytest.raises(ValueError, match="repeat must be at least 1 run, got 0"):
            bench_pipeline.measure("tiny", [MINUTES], [32], repeat=0)
        with pytest.raises(
            ValueError, match=r"bench_none failed in a process of its own, saying .*No module"
        ):
            bench_pipeline.in_own_process("longcompress.eval.bench_none", [])


class TestConcurrency:
    @pytest.fixture(scope="class")
    def requests(self, work):
        return bench_concurrency.requests_of(work, 2, 12.0)

    def test_every_way_has_its_figures(self, tiny, requests):
        rows, left_out = bench_concurrency.serve(tiny, requests, 40, 2, {"seconds": 12.0})
        assert left_out == ""
        assert len({request.video for request in requests}) == 2
        found = {(r.provider, r.what, r.mode, r.metric): r for r in rows}
        for method in bench_concurrency.METHODS:
            assert found[method, "watch and ask", "all", "rate"].unit == "requests/s"
            p50, p95 = (found[method, "watch and ask", mode, "latency"].value for mode in ("p50", "p95"))
            assert p50 < p95 if method == "one by one" else p50 == p95
        assert all(r.value > 0 and (r.x, r.x_name) == (2, "clips") for r in rows)
        assert found["batched", "watch and ask", "all", "memory"].settings["of"] == "process"

    def test_red_is_no_figure(self, tiny, requests, monkeypatch):
        def other(memories, questions):
            answers = ask_each(memories, questions)
            return [answers[0], replace(answers[1], text="no")]

        ask_each = bench_concurrency.ask_each
        monkeypatch.setattr(bench_concurrency, "ask_each", other)
        monkeypatch.setattr(bench_concurrency, "timed", never)
        with pytest.raises(
            ValueError, match=r"1 of 2 clips differ in a batch: clip_12s_001\.mp4 \(.*'no', alone"
        ):
            bench_concurrency.serve(tiny, requests, 40, 1, {})

    def test_threads_that_differ_are_left_out(self, tiny, requests, monkeypatch):
        def other(*given):
            served = bench_concurrency.batched(*given)
            return replace(served, held=[{}, served.held[1]])

        monkeypatch.setattr(bench_concurrency, "threads", other)
        rows, left_out = bench_concurrency.serve(tiny, requests, 40, 1, {})
        assert left_out == "2 clips: threads are left out, they differ for clip_12s_000.mp4 (another memory)"
        assert {r.provider for r in rows} == {"one by one", "batched"}

    def test_through_the_command(self, work, tmp_path, capsys):
        words = ["--clips", "1", "--seconds", "12", "--budget", "40", "--repeat", "1", "--device", "cpu"]
        out = tmp_path / "new" / "a.csv"
        assert cli.main(["bench", "concurrency", *words, "--work", str(work), "--out", str(out)]) == 0
        rows = bench_table.read_figures([out])
        assert capsys.readouterr().out.count("clips=1") == len(rows) == 16

    def test_wrong_numbers(self):
        with pytest.raises(ValueError, match="repeat and clips must be at least 1, got 3 and 0"):
            bench_concurrency.measure(clips=[2, 0])


def test_every_word_is_a_module():
    for name in get_args(get_type_hints(cli.bench)["what"]):
        assert find_spec(f"longcompress.eval.bench_{name}") is not None
