"""`longcompress shards`, as a person types it."""

import json

import pytest
import torch

from longcompress.cli.main import main
from longcompress.train.shards.index import load_index
from longcompress.train.shards.sample import read_sample

import videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two videos and what `make` made of them and of a file that is none, in two shares."""
    where = tmp_path_factory.mktemp("made")
    (where / "in").mkdir()
    for name in ("a.mp4", "b.mp4"):
        videos.write(where / "in" / name, videos.Video())
    words = [
        "shards",
        "make",
        str(where / "in"),
        "--out",
        str(where / "out"),
        "--tokens-per-segment",
        '{"*": 9}',
    ]
    codes = [main([*words, "--shard", f"{i}/2"]) for i in range(2)]
    (where / "in" / "c.mp4").write_bytes(b"none")
    return where, [*codes, main(words)]


def test_shares_then_all_then_the_exit_code_of_a_bad_video(folder, capsys):
    where, codes = folder
    assert codes == [0, 0, 3]
    assert main(["shards", "info", str(where / "out")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["samples"], figures["shards"], figures["features"]["merge"]["tokens_per_segment"]) == (
        2,
        1,
        {"*": 9},
    )
    manifest = (where / "out" / "manifest.jsonl").read_text()
    assert '"key": "c"' in manifest and '"status": "failed"' in manifest


def test_videos_of_which_none_can_be_used_are_unreadable_input(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"none")
    assert main(["shards", "make", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 3
    assert "none of 1 videos could be used; parts/a.failed.json says why" in capsys.readouterr().err


def test_verify_says_what_is_wrong(folder, capsys):
    where, _ = folder
    assert main(["shards", "verify", str(where / "out")]) == 0
    assert "all as it was indexed" in capsys.readouterr().out
    assert main(["shards", "repack", str(where / "out"), "--out", str(where / "new"), "--shard-mb", "1"]) == 0
    path = where / "new" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-2048])
    assert main(["shards", "verify", str(where / "new")]) == 1
    assert "shard-000000.tar" in capsys.readouterr().out


def test_encoders_compute_in_the_dtype_and_threads_that_are_asked_for(folder, tmp_path, capsys):
    where, _ = folder
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes((where / "in" / "a.mp4").read_bytes())
    threads, groups = torch.get_num_threads(), {}
    try:
        for dtype in ("float32", "bfloat16"):
            words = ["shards", "make", str(tmp_path / "in"), "--out", str(tmp_path / dtype)]
            assert main([*words, "--dtype", dtype, "--threads", "1"]) == 0
            assert torch.get_num_threads() == 1
            sample = read_sample(load_index(tmp_path / dtype).read(0), "here")
            groups[dtype] = sample.chunks[0].groups["video"]
    finally:
        torch.set_num_threads(threads)
    wide, narrow = (groups[dtype].metric for dtype in ("float32", "bfloat16"))
    assert not torch.equal(wide, wide.bfloat16().float())
    assert wide.shape == narrow.shape and not torch.equal(wide, narrow)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["make", "nowhere", "--out", "OUT"], 3, "no folder of videos"),
        (["make", "IN"], 2, "out"),
        (["make", "IN", "--out", "OUT", "--shard", "3"], 2, "--shard must be i/N"),
        (["make", "IN", "--out", "OUT", "--shard", "2/2"], 2, "share must be i/N"),
        (["make", "IN", "--out", "OUT", "--threads", "-1"], 2, "--threads must be at least 0, got -1"),
        (["make", "IN", "--out", "OUT", "--dtype", "float8"], 2, "float8"),
        (["info", "nowhere"], 3, "no index"),
        (["index", "IN"], 3, "no tar in it"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folder, tmp_path, capsys, words, code, message):
    where, _ = folder
    swap = {"IN": str(where / "in"), "OUT": str(tmp_path / "out")}
    assert main(["shards", *(swap.get(word, word) for word in words)]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_convert_then_make(folder, tmp_path, capsys):
    where, _ = folder
    annotation = {"duration": 4.0, "timestamps": [[1, 2]], "sentences": ["beep"]}
    (tmp_path / "in.json").write_text(json.dumps({"a": annotation, "absent": annotation}))
    words = ["--format", "events", "--videos", str(where / "in"), "--out", str(tmp_path / "r.jsonl")]
    assert main(["shards", "convert", str(tmp_path / "in.json"), *words]) == 0
    out, err = capsys.readouterr()
    assert "1 records, 1 videos are not in" in out and "no video absent" in err
    assert (
        main(["shards", "make", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "s"), "--kind", "media"])
        == 0
    )
    (tmp_path / "in.json").write_text("{}")
    assert main(["shards", "convert", str(tmp_path / "in.json"), *words]) == 3
    assert "none of 0 videos" in capsys.readouterr().err
