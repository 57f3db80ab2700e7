"""Rows of the benchmark, its clock, and the report of its figures."""

import json
import re
import struct
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from longcompress.cli import main as cli
from longcompress.eval.bench import plot, report
from longcompress.eval.bench.rows import Recorder, Row, load_rows, machine_info, save_rows
from longcompress.eval.bench.timer import in_own_process, timed

pytestmark = pytest.mark.slow

MODEL = {"model": "tiny", "dtype": "float32"}


def row(suite="stages", case="compress", provider="longcompress", metric="time", unit="s", x=10.0, value=2.0,
        **changes):  # fmt: skip
    """A row with a spread of a tenth."""
    row = Row(suite, case, provider, metric, unit, "minutes", x, value, value * 0.9, value * 1.1, 3,
               settings=dict(MODEL), machine=machine_info("cpu"))  # fmt: skip
    return replace(row, **changes)


def rows_of_stages():
    """Videos of 1 and 10 minutes, two budgets and the uncompressed model, alone and in a fresh process."""
    rows = []
    for minutes in (1.0, 10.0):
        rows += [row(case=case, x=minutes) for case in ("decode", "encode video")]
        for provider, budget in (("longcompress", 256), ("longcompress", 1024), ("uncompressed", 10_300)):
            about = {**MODEL, "budget": budget, "tokens": budget - 1}
            same = {"x": minutes, "provider": provider, "settings": about}
            rows += [row(case=case, value=0.25, **same) for case in ("merge", "prefill", "answer")]
            rows.append(row("memory", "compress", **same))
            rows.append(row("memory", "first answer", metric="memory of the process", unit="GB", **same))
            rows.append(
                row("memory", "first answer", metric="memory of the GPU", unit="GB", value=8.0, **same)
            )
    return rows


def rows_of_kernels():
    rows = []
    for case, flop in (("copy", 0), ("pool", 2000)):
        for provider, ms in (("triton", 1.0), ("torch", 4.0)):
            about = {"dtype": "bf16", "flop": flop, "bytes": 1000}
            same = {"x_name": "segments", "settings": about}
            rows.append(row("kernels", case, provider, unit="ms", value=ms, **same))
            rows.append(row("kernels", case, provider, "bandwidth", "GB/s", value=4000 / ms, **same))
    return rows


def rows_of_the_compiler():
    about = {"warps": 8, "stack_bytes": 0, "shared_bytes": 4096, "wide_reads": True, "tensor_cores": False}
    same = {"x_name": "warps", "x": 8.0, "settings": about, "value": 40.0}
    return [row("compile", "match", chip, "registers", "registers", **same) for chip in ("sm_80", "sm_90")]


def all_rows():
    requests_s = row("requests", "ask", "batched", "rate", "requests/s", x=4.0, x_name="clips")
    return [*rows_of_stages(), *rows_of_kernels(), *rows_of_the_compiler(), requests_s]


@pytest.fixture
def figures(tmp_path):
    """A CSV file with figures of several suites."""
    save_rows(tmp_path / "all.csv", all_rows())
    return tmp_path / "all.csv"


class TestRows:
    def test_come_back_as_they_were(self, figures):
        assert load_rows(figures) == all_rows()
        assert {row.machine["device"] for row in load_rows(figures)} == {machine_info("cpu")["device"]}

    def test_a_suite_is_replaced_and_others_stay(self, figures):
        recorder = Recorder(figures, "cpu", ["kernels"])
        recorder.add(row("kernels", value=5.0))
        others = [item for item in all_rows() if item.suite != "kernels"]
        assert load_rows(figures) == [*others, row("kernels", value=5.0)]

    def test_a_failure_is_a_row_and_the_others_go_on(self, tmp_path, capsys):
        def fails(_):
            yield row(case="first")
            raise RuntimeError("out of\nmemory")

        def reads(_, last):
            assert [item.case for item in load_rows(tmp_path / "a.csv")] == [
                "first",
                "second",
            ]  # as they come
            return [row(case=last)]

        recorder = Recorder(tmp_path / "a.csv", "cpu", ["stages"])
        recorder.run(row(case="second", value=float("nan"), runs=0), fails)
        recorder.run(row(case="other"), reads, "third")
        first, failed, third = load_rows(tmp_path / "a.csv")
        assert (failed.case, failed.error, failed.runs) == ("second", "RuntimeError: out of memory", 0)
        assert (first.case, third.case, recorder.num_failed) == ("first", "third", 1)
        assert "FAILED: RuntimeError: out of memory" in capsys.readouterr().out

    def test_other_columns_are_refused_by_name(self, figures):
        figures.write_text(figures.read_text().replace("provider", "who", 1))
        with pytest.raises(ValueError, match=r"all\.csv must have the columns suite, case, provider.*'who'"):
            load_rows(figures)

    def test_a_median_has_its_spread(self):
        row = Row("stages", "a", "b", x_name="minutes", x=1.0).figure([3.0, 1.0, 2.0])
        assert (row.value, row.low, row.high, row.runs) == (2.0, 1.0, 3.0, 3)
        assert "[1, 3]" in str(row)


class TestTimer:
    def test_turns_go_there_and_back(self):
        order = []
        work = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
        took = timed(work, 3, "cpu", warm_up=0)
        assert order == ["a", "b", "b", "a", "a", "b"]
        assert all(len(runs) == 3 and runs[0].result is None for runs in took.values())

    def test_results_are_kept_on_request(self):
        took = timed({"a": partial(next, count())}, 2, "cpu", warm_up=0, calls=3, keep_results=True)
        assert [run.result for run in took["a"]] == [2, 5]
        with pytest.raises(ValueError, match="repeat must be at least 1 run, got 0"):
            timed({}, 0, "cpu")

    def test_a_process_that_fails(self):
        with pytest.raises(ValueError, match=r"dumps failed in a process of its own: TypeError"):
            in_own_process(json.dumps)
        assert in_own_process(json.dumps, [1]) == "[1]"


class TestReport:
    @pytest.fixture
    def readme(self, tmp_path):
        names = dict.fromkeys(row.suite for row in all_rows())
        parts = [f"# {n}\n\n<!-- bench:{n} -->\nold\n<!-- /bench:{n} -->\n" for n in names]
        (tmp_path / "README.md").write_text("".join(parts) + "end\n")
        return tmp_path / "README.md"

    @pytest.fixture
    def run(self, figures, readme, tmp_path):
        def run(*words):
            own = ["--out", str(tmp_path / "new"), "--files", str(figures), "--docs", str(readme)]
            return cli.main(["bench", "report", *own, *words])

        return run

    def test_tables_and_plots(self, run, readme, tmp_path):
        assert run() == 0
        text = readme.read_text()
        assert text.startswith("# stages\n\n<!-- bench:stages -->\n") and text.endswith("-->\nend\n")
        assert "old" not in text
        assert (
            "| pool | bf16 | 10 segments | 1 (0.9 to 1.1) | 4,000 (3,600 to 4,400) | 4 (3.6 to 4.4) |" in text
        )
        quarter = "0.25 (0.225 to 0.275)"
        assert f"| 10 min | 1,023 |  |  | {quarter} | {quarter} | {quarter} |" in text
        assert "| 1 min | all 10,299 | 2 (1.8 to 2.2) | 2 (1.8 to 2.2) | 8 (7.2 to 8.8) |" in text
        assert "| match | 8 | 40, 4,096, 0, 16-byte reads | 40, 4,096, 0, 16-byte reads |" in text
        assert "torch 2." in text and "medians of 3 runs" in text
        paths = sorted((tmp_path / "new").glob("*.png"))
        assert [p.name.split("_cpu")[0].split("_tiny")[0] for p in paths] == sorted(plot.PLOTS)
        for path in paths:
            assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 750)
            assert f"({path.name})" in (tmp_path / "new" / "report.md").read_text()
        assert run("--check") == 0

    def test_check_finds_a_changed_digit(self, run, readme, capsys):
        run()
        readme.write_text(readme.read_text().replace("1 (0.9 to 1.1)", "1 (0.9 to 1.2)", 1))
        assert run("--check") == 1
        assert "its tables differ from the figures" in capsys.readouterr().out
        assert "1.2" in readme.read_text()

    def test_a_failed_case_is_in_the_table(self):
        failed = row("kernels", error="out of memory", value=float("nan"))
        assert "| out" not in report.tables("kernels", rows_of_kernels())
        assert "longcompress: out of memory |" in report.tables("kernels", [*rows_of_kernels(), failed])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nothing", "the file must have <!-- bench:NAME --> with"),
            ("<!-- bench:kernels -->\n", "the file must have <!-- bench:NAME --> with"),
            ("<!-- bench:odd -->\n<!-- /bench:odd -->", "NAME of kernels, compile, stages, .*, got odd"),
            ("<!-- bench:kernels -->\n<!-- /bench:stages -->", "got kernels and /stages"),
            (
                "<!-- bench:features -->\n<!-- /bench:features -->",
                "there are no figures of features; measure",
            ),
        ],
    )
    def test_markers_that_are_wrong(self, text, message):
        with pytest.raises(ValueError, match=message):
            report.with_tables(text, all_rows())

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([row()], "no plot roofline: no figures of kernels"),
            (rows_of_kernels()[4:], r"no plot roofline for cpu \w+: no bandwidth of a copy"),
            (rows_of_kernels()[:4], "no bandwidth of operations with flop and bytes"),
            (
                [row("memory", "load")],
                "no plot compress_time for tiny in float32 on .*: no time of compressing",
            ),
            ([row("memory", "load")], "no peak of memory in a fresh process"),
            ([row()], "no time of single stages"),
        ],
    )
    def test_plots_without_figures_are_named(self, tmp_path, capsys, rows, message):
        plot.plot_all(rows, tmp_path)
        assert re.search(message, capsys.readouterr().out)
