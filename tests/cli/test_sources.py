"""Files, folders, patterns and standard input of `compress`; what is done is not done again."""

import json
import sys

import pytest

from longcompress.cli.common import Failed, VideoOptions, seconds_of
from longcompress.cli.main import main
from longcompress.cli.sources import find_videos
from longcompress.memory import VideoMemory

from videos import write_flash


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    """Two folders with videos of one name, a text file, a broken video."""
    folder = tmp_path_factory.mktemp("cameras")
    for camera in ("cam1", "cam2"):
        (folder / camera).mkdir()
        write_flash(folder / camera / "0001.mp4", [1.0], duration_s=4.0)
    (folder / "cam1" / "notes.txt").write_text("no video")
    (folder / "cam2" / "broken.mkv").write_bytes(b"no video")
    return folder


def test_folders_are_mirrored_and_what_is_done_is_skipped(cameras, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compress", str(cameras), "--out", str(out), "--budget", "40", "--json"]) == 3
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["out"] for r in reports] == [str(out / c / "0001.lcm") for c in ("cam1", "cam2")]
    assert main(["compress", str(cameras), "--out", str(out), "--budget", "40"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "" and "2 of 3 videos are done" in captured.err
    assert "1 files in folders are no videos" in captured.err and "notes.txt" in captured.err
    assert "1 of 3 videos could not be read" in captured.err
    # another budget, another rate: not the same memories
    for words in (["--budget", "41"], ["--budget", "41", "--media.rate_fps", "2"]):
        main(["compress", str(cameras / "cam1"), str(cameras / "cam2"), "--out", str(out), *words])
        assert len(capsys.readouterr().out.splitlines()) == 2
    main(["compress", str(cameras), "--out", str(out), *words, "--overwrite"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_names_that_fall_on_one_get_the_folders_in_which_they_differ(cameras):
    files = [str(cameras / c / "0001.mp4") for c in ("cam1", "cam2")]
    videos, _ = find_videos(files)
    assert [str(path) for path in videos.values()] == ["cam1/0001.lcm", "cam2/0001.lcm"]
    videos, _ = find_videos([str(cameras / "*" / "0001.mp4")])
    assert [str(path) for path in videos.values()] == ["cam1/0001.lcm", "cam2/0001.lcm"]


def test_a_dry_run_lists_and_writes_nothing(cameras, tmp_path, capsys):
    assert main(["compress", str(cameras), "--out", str(tmp_path / "o"), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 and not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["none*.mp4", "EMPTY"])
def test_nothing_found_is_an_error(tmp_path, name):
    (tmp_path / "EMPTY").mkdir()
    with pytest.raises(Failed, match=r"no file matches|no video in this folder"):
        find_videos([str(tmp_path / name)])


def test_standard_input_is_a_video(cameras, tmp_path, monkeypatch, capsys):
    with open(cameras / "cam1" / "0001.mp4", "rb") as file:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
        assert main(["compress", "-", "--out", str(tmp_path / "x.lcm"), "--budget", "40"]) == 0
    assert VideoMemory.load(tmp_path / "x.lcm").num_tokens == 40


def test_a_part_counts_from_its_start(cameras, tmp_path, capsys):
    words = ["compress", str(cameras / "cam1" / "0001.mp4"), "--out", str(tmp_path / "x.lcm")]
    assert main([*words, "--start", "0:01", "--end", "3.5"]) == 0
    memory = VideoMemory.load(tmp_path / "x.lcm")
    assert memory.duration_s == pytest.approx(2.5, abs=0.1)
    assert memory.source["part_s"] == pytest.approx([1.0, 3.5], abs=0.1)
    assert main([*words, "--start", "100"]) == 3
    assert "--start 100 is behind its end" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1:30", 90), ("0:01:30.5", 90.5), ("10:00:00", 36000)]
)
def test_times_as_people_write_them(text, seconds):
    assert seconds_of("--start", text) == seconds


@pytest.mark.parametrize("text", ["x", "-1", "1:2:3:4", "", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="--start must be seconds or h:mm:ss"):
        _ = VideoOptions(start=text)


def test_an_end_before_the_start_is_refused():
    with pytest.raises(ValueError, match="--end must be after --start"):
        VideoOptions(start="9", end="3")
