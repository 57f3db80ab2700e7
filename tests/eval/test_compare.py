"""`eval compare`: baselines at equal token budgets, on synthetic videos of a minute."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch

import longcompress as lc
from longcompress.cli.main import main as command
from longcompress.eval.runner.compare import (
    ALL,
    MEMORIES,
    NAMES,
    SHOWN,
    Arm,
    CompareConfig,
    compare,
    raw_video,
    sampled_media,
    selected,
    stock_sampling,
)
from longcompress.eval.runner.compare_table import ABOUT, markdown, plot, rows_of, trained_with
from longcompress.eval.runner.run import run
from longcompress.eval.runner.run_file import RunConfig, pairs, read_run
from longcompress.eval.runner.sources import from_scenes
from longcompress.eval.tasks.synthetic import Synthetic
from longcompress.eval.tasks.task import Example, How
from longcompress.llm import CausalLM
from longcompress.llm.sampling import sampling_of
from longcompress.media import Reading
from longcompress.synthetic.scenes import make_scene, parts_of, write_video

from stock_folders import save

pytestmark = pytest.mark.slow

VIDEOS = Synthetic((1.0,), 2)
HOW = How(times="whole_seconds")
CONFIG = CompareConfig(
    budgets=("60", "10%"), methods=("full", "random", "ours", "no-audio"), max_new_tokens=6
)
FEW = replace(CONFIG, budgets=("60",), methods=("full", "random", "ours"), limit=3)


@pytest.fixture(scope="module")
def tiny():
    return lc.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def source():
    return from_scenes("synthetic_qa", VIDEOS)


@pytest.fixture(scope="module")
def whole(tiny, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, compare(source, tiny, folder, CONFIG, HOW)


def lines(path):
    """Header and lines of a run, without what a clock says."""
    values = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in item.items() if key != "seconds"} for item in values]


def answers(path):
    return {line["id"]: line["answer"] for line in lines(path)[1:]}


@pytest.mark.slow
def test_each_arm_asks_every_question_once(whole, source):
    folder, arms = whole
    assert [arm.name for arm in arms] == [
        "full_all", "random_60", "ours_60", "no-audio_60", "random_10pc", "ours_10pc", "no-audio_10pc",
    ]  # fmt: skip
    ids = [example.id for example in source.examples]
    for arm in arms:
        header, *each = lines(folder / f"{arm.name}.jsonl")
        assert (header["method"], header["budget"]) == (arm.method, arm.budget)
        assert [example["id"] for example in each] == ids
        for example in each:
            raw = 60 * 16 + 60
            want = {"60": 60, "10%": raw // 10}.get(arm.budget)
            assert example["tokens"] == want or (arm.budget == ALL and example["tokens"] >= raw)
            assert example["prompt"] and set(example["score"]) >= {"score"}


def test_ours_is_what_a_run_with_that_budget_says(tiny, source, whole, tmp_path):
    run(source, tiny, tmp_path / "run.jsonl", RunConfig(budgets=("60",), max_new_tokens=6))
    mine, same = (lines(path)[1:] for path in (whole[0] / "ours_60.jsonl", tmp_path / "run.jsonl"))
    assert mine == same and len({line["answer"] for line in mine}) > 3
    run(source, tiny, tmp_path / "deaf.jsonl",
              RunConfig(budgets=("60",), max_new_tokens=6, media="video"))  # fmt: skip
    assert answers(whole[0] / "no-audio_60.jsonl") == answers(tmp_path / "deaf.jsonl")
    assert answers(whole[0] / "random_60.jsonl") != answers(whole[0] / "ours_60.jsonl")


def test_cut_anywhere_and_gone_on_with_it_is_the_same(tiny, source, whole, tmp_path):
    folder, arms = whole
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    (again / "full_all.jsonl").unlink()
    for name, share in {"random_60": 0.4, "ours_60": 0.02, "ours_10pc": 0.999}.items():
        path = again / f"{name}.jsonl"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
    path = again / "no-audio_60.jsonl"
    header, first, second, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + second + b"".join(others[:-2]))
    assert compare(source, tiny, again, CONFIG, HOW) == arms
    for arm in arms:
        got, want = lines(again / f"{arm.name}.jsonl"), lines(folder / f"{arm.name}.jsonl")
        if arm.name == path.stem:
            assert json.loads(first)["id"] == got[-3]["id"]  # what was missing in the middle comes at the end
            got, want = ([item[0], *sorted(item[1:], key=lambda line: line["id"])] for item in (got, want))
        assert got == want, arm.name
    before = {p.name: p.read_bytes() for p in again.iterdir() if p.suffix == ".jsonl"}
    compare(source, tiny, again, CONFIG, HOW)  # nothing is left to do
    assert before == {p.name: p.read_bytes() for p in again.iterdir() if p.suffix == ".jsonl"}


def test_another_comparison_in_the_same_folder_is_refused(tiny, source, whole, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(whole[0], again)
    for other, name in ((replace(CONFIG, seed=1), "seed"), (replace(CONFIG, limit=2), "limit")):
        with pytest.raises(ValueError, match=rf"full_all.jsonl was started with {name} = .*resume"):
            compare(source, tiny, again, other, HOW)


def test_any_two_can_be_compared(whole):
    got = pairs(whole[0] / "ours_60.jsonl", whole[0] / "random_60.jsonl")
    ours, other = (lines(whole[0] / f"{method}_60.jsonl")[1:] for method in ("ours", "random"))
    gained = [a["score"]["score"] - b["score"]["score"] for a, b in zip(ours, other, strict=True)]
    assert got["num"] == len(ours) and got["differs"]["method"] == ["ours", "random"]
    assert got["differences"]["score"]["mean"] == pytest.approx(sum(gained) / len(gained))


def test_a_video_that_can_not_be_read_is_lost_with_its_reason(tiny, source, tmp_path):
    bad = next(reversed([example.video for example in source.examples]))

    def opened(name, config, on_warning):
        if name == bad:
            raise OSError(f"{name} is no video")
        return source.open(name, config, on_warning)

    some = replace(source, examples=[e for e in source.examples if e.id.endswith(("-0", "-1"))], open=opened)
    config = replace(FEW, limit=None)
    arms = compare(some, tiny, tmp_path, config, HOW)
    for arm in arms:
        runs = read_run(tmp_path / f"{arm.name}.jsonl")
        want = {e.id: {"id": e.id, "video": bad, "failed": f"{bad} is no video"} for e in some.examples[2:]}
        assert runs.failed == list(want.values()) and len(runs.answered) == 2
    rows = rows_of(tmp_path, arms, some.examples, "kind")
    assert {row["num_failed"] for row in rows} == {2} and {r["num"] for r in rows if not r["group"]} == {2}


def test_what_is_too_long_for_the_language_model_is_lost_with_its_reason(tiny, source, tmp_path, monkeypatch):
    monkeypatch.setattr(CausalLM, "context", property(lambda llm: 200))
    arms = compare(source, tiny, tmp_path, FEW, HOW)
    runs = {arm.method: read_run(tmp_path / f"{arm.name}.jsonl") for arm in arms}
    assert len(runs["full"].failed) == 3 and not runs["full"].answered
    assert all("tokens are more than the 200 positions" in line["failed"] for line in runs["full"].failed)
    assert not runs["ours"].failed and not runs["random"].failed
    rows = rows_of(tmp_path, arms, selected(source.examples, FEW), "kind")
    text = markdown(rows, "title", "note")
    assert "nan" not in text.lower() and "None" not in text
    assert "Uncompressed: no question could be answered." in text and "Uncompressed, " not in text
    assert plot(rows, tmp_path / "a.svg", "title").stat().st_size > 1000


def test_a_number_of_tokens_that_is_too_small_is_lost_with_its_reason(tiny, source, tmp_path):
    config = replace(FEW, budgets=("1", "60"), limit=2)
    arms = compare(source, tiny, tmp_path, config, HOW)
    for arm in arms:
        runs = read_run(tmp_path / f"{arm.name}.jsonl")
        assert len(runs.failed) == (2 if arm.budget == "1" else 0), arm
        assert all("budget must be" in line["failed"] for line in runs.failed)
    text = markdown(rows_of(tmp_path, arms, selected(source.examples, config), ""), "title", "note")
    assert "| method | 1 | 60 (60 tokens) |" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("ours", "best")}, r"methods must be of full, .*no-audio, .*, got 'best'"),
        ({"budgets": ("10%", "0%")}, r"budgets must be numbers, or shares such as 10%, got '0%'"),
        ({"budgets": ("x",)}, r"budgets must be .*got 'x'"),
        ({"budgets": ("1.5",)}, r"budgets must be .*got '1.5'"),
        ({"budgets": ("-4",)}, r"budgets must be .*got '-4'"),
        ({"budgets": ("inf%",)}, r"budgets must be .*got 'inf%'"),
        ({"budgets": ("nan%",)}, r"budgets must be .*got 'nan%'"),
        ({"budgets": ("10%", "10%")}, r"budgets must be different, got '10%' twice"),
        ({"methods": ("ours", "ours")}, r"methods must be different, got 'ours' twice"),
    ],
)
def test_what_can_not_be_compared(change, message):
    with pytest.raises(ValueError, match=message):
        CompareConfig(**change)


def test_what_leaves_nothing_to_ask(tiny, source, tmp_path):
    for only in (("kind=smell",), ("colour=red",)):
        with pytest.raises(ValueError, match=r"only must leave an example, got .*; known are .*kind=between"):
            compare(source, tiny, tmp_path, replace(FEW, only=only), HOW)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        compare(source, tiny, tmp_path, replace(FEW, limit=0), HOW)
    with pytest.raises(
        ValueError, match=r"prompt must be one of default, explained, or a text with .*, got 'mine'"
    ):
        compare(source, tiny, tmp_path, replace(FEW, prompt="mine"), HOW)
    with pytest.raises(ValueError, match="task must be one that scores each example, magqa doesn't without"):
        compare(replace(source, task="magqa"), tiny, tmp_path, FEW, HOW)
    some = selected(source.examples, replace(FEW, only=("kind=count", "kind=while"), limit=None))
    assert {dict(example.groups)["kind"] for example in some} == {"count", "while"}
    assert [example.id for example in some] == [
        example.id for example in source.examples if dict(example.groups)["kind"] in ("count", "while")
    ]
    assert not list(tmp_path.glob("*.jsonl"))


# --- rows and tables


def put(folder, arm, scores, sizes, failed=()):
    """A run by hand: scores by example "VIDEO-NUMBER", tokens by video."""
    values = [{"format": 2, "task": "synthetic_qa"}]
    for key, score in scores.items():
        video = key.split("-")[0]
        values.append({"id": key, "video": video, "score": {"score": score, "other": 1 - score},
                       "tokens": sizes[video]})  # fmt: skip
    values += [{"id": key, "video": key.split("-")[0], "failed": "missing"} for key in failed]
    (folder / f"{arm.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in values))


def made_up(folder):
    """Three arms, by hand, of two videos with three questions."""
    full, ours, random = Arm("full", ALL), Arm("ours", "10%"), Arm("random", "10%")
    put(folder, full, {"a-0": 1.0, "a-1": 1.0, "b-0": 0.5}, {"a": 100, "b": 300})
    put(folder, ours, {"a-0": 1.0, "a-1": 0.5, "b-0": 0.5}, {"a": 10, "b": 30})
    put(folder, random, {"a-0": 0.0, "a-1": 0.25}, {"a": 10, "b": 30}, failed=["b-0"])
    kinds = {"a-0": "when", "a-1": "count", "b-0": "when"}
    examples = [
        Example(key, key[0], "?", None, groups=(("kind", kind), ("minutes", "1")))
        for key, kind in kinds.items()
    ]
    return [full, ours, random], examples


def test_rows_by_hand(tmp_path):
    arms, examples = made_up(tmp_path)
    rows = {(row["method"], row["group"]): row for row in rows_of(tmp_path, arms, examples, "kind")}
    assert len(rows) == 9 and {group for _, group in rows} == {"", "when", "count"}
    full, ours, random = (rows[method, ""] for method in ("full", "ours", "random"))
    assert (full["budget"], full["num_tokens"], full["num"], full["num_videos"]) == (ALL, 200, 3, 2)
    assert full["mean"] == pytest.approx(2.5 / 3) and full["relative"] is None
    assert ours["relative"]["mean"] == pytest.approx(2 / 2.5) and ours["gain"] is None
    assert ours["relative"]["low"] == pytest.approx(0.75) and ours["relative"]["high"] == pytest.approx(1)
    assert (random["num"], random["num_failed"], random["num_tokens"]) == (2, 1, 10)
    assert random["mean"] == 0.125 and random["relative"]["mean"] == pytest.approx(0.25 / 2)
    assert random["gain"] == {"mean": pytest.approx(0.625), "low": None, "high": None}
    assert full["gain"] is None  # ours at that many tokens isn't there
    when = rows["ours", "when"]
    assert (when["mean"], when["num"], when["num_videos"]) == (0.75, 2, 2)
    assert rows["random", "when"]["gain"]["mean"] == 1.0
    others = rows_of(tmp_path, arms, examples, "", "other")
    assert [row["group"] for row in others] == [""] * 3
    assert others[1]["mean"] == pytest.approx(1 / 3)


def test_rows_of_what_has_no_score(tmp_path):
    arms, examples = made_up(tmp_path)
    with pytest.raises(ValueError, match=r"full_all.jsonl: 'a-0' has no score best, it has .*; compare"):
        rows_of(tmp_path, arms, examples, "kind", "best")


def test_tables_say_what_the_rows_say(tmp_path):
    arms, examples = made_up(tmp_path)
    put(tmp_path, arms[2], {"a-0": 0.0, "a-1": 0.25, "b-0": 0.0}, {"a": 10, "b": 30})
    rows = rows_of(tmp_path, arms, examples, "kind")
    text = markdown(rows, "A title", "A note.")
    assert text.startswith("# A title\n\nA note.\n\n## All questions\n\nUncompressed, 200 tokens: 0.833 (")
    tables = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert tables[0] == ["| method", "10% (20 tokens) |"] and tables[2][0] == f"| {ABOUT['ours']}"
    assert tables[2][1].startswith("0.667 (0.50 to 0.75)") and tables[3][1].startswith("0.083 (0.00 to 0.12)")
    assert f"| {ABOUT['random']} | **+0.583 (+0.500 to +0.625)** |" in text
    assert f"| {ABOUT['random']} | 0.100 (0.00 to 0.12) |" in text
    for name in ("a.png", "a.svg"):
        assert plot(rows, tmp_path / name, "A title").stat().st_size > 5000
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    alone = markdown(rows_of(tmp_path, arms[:1], examples, ""), "A title", "A note.")
    assert "Uncompressed, 200 tokens" in alone
    plot(rows_of(tmp_path, arms[:1], examples, ""), tmp_path / "alone.png", "A title")
    assert set(ABOUT) == {*NAMES, *SHOWN, *MEMORIES}


def test_what_a_model_was_trained_with(tmp_path):
    class Model:
        folder = tmp_path

    assert "not known" in trained_with(Model())
    mixes = [{"methods": {"ours": 8.0, "evs": 1.5}}, {"steps": 3}]
    (tmp_path / "training.json").write_text(json.dumps({"recipe": {"mixes": mixes}}))
    assert trained_with(Model()).endswith("with weights: ours 8, evs 1.5.")


# --- the command


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "eval", "compare", "synthetic_qa", "--model", "tiny", "--device", "cpu", "--out", str(out),
        "--minutes", "1",
        "--num-videos", "2", "--budgets", "60", "--methods", "ours", "pool", "--only", "kind=count",
        "--max-new-tokens", "4", "--times", "whole_seconds",
    ]  # fmt: skip
    assert command(words) == 0
    printed = capsys.readouterr().out
    assert (
        out / "compare.md"
    ).read_text() in printed and f"0 questions failed; all of it in {out}" in printed
    rows = [json.loads(line) for line in (out / "compare.jsonl").read_text().splitlines()]
    assert [(row["method"], row["group"]) for row in rows] == [
        ("ours", ""), ("ours", "count"), ("pool", ""), ("pool", "count")
    ]  # fmt: skip
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert command([*words, "--json"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert json.loads(first) == rows
    header = json.loads((out / "ours_60.jsonl").read_text().partition("\n")[0])
    assert header["times"] == "whole_seconds" and header["prompt"] == "default"
    assert command([*words, "--seed", "3"]) == 2
    assert "was started with seed = 0, this run has 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "best"], "methods must be of"),
        (["--budgets", "0%"], "budgets must be numbers, or shares such as 10%, got '0%'"),
        (["--budgets", "x"], "got 'x'"),
        (["--only", "kind=smell"], "only must leave an example"),
        (["--only", "smell"], "only must be KIND=NAME, got 'smell'"),
        (["--prompt", "mine"], "prompt must be one of default, explained, or a text with {question}, got"),
        (["--reference", "a.json"], "the videos of synthetic_qa are synthetic; leave out --reference"),
    ],
)
def test_flags_that_say_nothing(tmp_path, capsys, flags, message):
    words = [
        "eval",
        "compare",
        "synthetic_qa",
        "--model",
        "tiny",
        "--device",
        "cpu",
        "--minutes",
        "0.2",
        "--num-videos",
    ]
    assert command([*words, "1", "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_ours_by_what_a_merged_token_shows(tiny):
    parts = Reading(iter(list(parts_of(make_scene(2, 40.0), 1.0))))
    memory = raw_video(tiny, "a", parts, 0)
    mean, medoid, mixed = (
        memory(Arm(name, "10%")).streams for name in ("ours", "medoid-medoid", "mean-medoid")
    )
    raw = memory(Arm("full", ALL)).streams
    for name in raw:
        assert torch.equal(mean[name].size, medoid[name].size) and torch.equal(mean[name].x, mixed[name].x)
        assert torch.equal(medoid[name].place, mixed[name].place)
        for field in ("x", "place"):  # those of raw tokens
            rows, known = getattr(medoid[name], field), getattr(raw[name], field)
            assert (rows[:, None] == known[None]).all(-1).any(1).all()
    with pytest.raises(ValueError, match=r"methods must be of .*medoid-heaviest, got 'mean-mean'"):
        CompareConfig(methods=("mean-mean",))


def test_other_global_tokens_are_paid_for_by_the_budget(tiny):
    parts = Reading(iter(list(parts_of(make_scene(2, 40.0), 1.0))))
    memory = raw_video(tiny, "a", parts, 0)
    ours, none, coarse, scales = (memory(Arm(n, "60")).video for n in ("ours", "no-memory", *MEMORIES))
    assert [v.num_tokens for v in (ours, none, coarse, scales)] == [60] * 4
    assert [sum(map(len, v.globals.values())) for v in (ours, none, coarse, scales)] == [2, 0, 8, 8]
    for name, rows in scales.globals.items():  # the mean of all raw tokens, then two parts, then the rest
        raw = memory(Arm("full", ALL)).streams[name].x
        torch.testing.assert_close(rows[0], raw.float().mean(0), rtol=1e-3, atol=1e-3)
        assert not torch.equal(rows, coarse.globals[name])


def test_a_stock_model_as_its_own_processor_samples(tmp_path):
    folder = save("qwen3_vl", tmp_path / "qwen3_vl")
    model = lc.load(folder, device="cpu")
    model.change({"media": {"size_px": 32}})
    before = model.config
    source = from_scenes("synthetic_qa", Synthetic((0.2,), 2))
    config = CompareConfig(budgets=("20",), methods=("stock", "ours", "full"), limit=3, max_new_tokens=2)
    arms = compare(source, model, tmp_path / "out", config, HOW)
    assert [arm.name for arm in arms] == ["full_all", "stock_all", "ours_20"]
    assert model.config == before and model.video.size_px == 32
    full, stock, ours = (lines(tmp_path / "out" / f"{arm.name}.jsonl") for arm in arms)
    # 12 s at 2 frames a second, of 128 pixels: 12 steps of 16 x 16 tokens; ours are of 32 pixels
    assert {line["tokens"] for line in stock[1:]} == {12 * 16 * 16}
    assert {line["tokens"] for line in full[1:]} == {12 * 4 * 4}
    assert {line["tokens"] for line in ours[1:]} == {20}
    assert stock[0]["sampling"] == asdict(sampling_of(str(folder)))
    assert stock[0]["size_px"] is None and full[0]["size_px"] == 32 and "sampling" not in full[0]
    rows = rows_of(tmp_path / "out", arms, selected(source.examples, config), "")
    text = markdown(rows, "A title", "A note.")
    assert f"{ABOUT['stock'].capitalize()}, 3072 tokens: " in text and "Uncompressed, 192 tokens: " in text
    assert plot(rows, tmp_path / "a.png", "A title").stat().st_size > 5000
    compare(source, model, tmp_path / "out", config, HOW)  # nothing is left to do
    assert lines(tmp_path / "out" / "stock_all.jsonl") == stock


def test_a_file_is_read_as_its_own_processor_samples(tmp_path):
    write_video(make_scene(3, 6.0), tmp_path / "a.mp4", size_px=64, rate_fps=10)
    model = lc.load(save("qwen3_vl", tmp_path / "qwen3_vl"), device="cpu")
    pins = {"reference": []}
    source = replace(
        from_scenes("synthetic_qa", Synthetic((0.2,), 1)), pins=pins,
        open=lambda name, config, warn: lc.media.read(tmp_path / "a.mp4", config, on_warning=warn),
        frame_size=lambda name: (64, 64),
    )  # fmt: skip
    media = sampled_media(source, model, stock_sampling(model), "a")
    assert (media.frames, media.size_px) == (12, 64)
    with lc.media.read(tmp_path / "a.mp4", media) as parts:
        times = torch.cat([part.time_s for part in parts if part.modality == "video"])
    assert len(times) == 12 and float(times[0]) == 0 and abs(float(times[-1]) - 5.9) < 0.01


def test_others_have_no_processor_of_their_own(tiny, source, tmp_path):
    with pytest.raises(ValueError, match=r"method stock needs a stock video LLM, got 'tiny'; leave it out"):
        compare(source, tiny, tmp_path, replace(FEW, methods=("stock", "ours")), HOW)
    assert not list(tmp_path.glob("*.jsonl"))
