"""Two runs on the same questions."""

import json

import pytest

from longcompress.eval.bench_pairs import compare, measure, scores


def write(path, values, share=0.1):
    lines = [
        {"video": i // 4, "number": i, "kind": "ab"[i % 2], "share": share, "score": v}
        for i, v in enumerate(values)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_difference_is_paired_and_videos_are_drawn_whole(tmp_path, capsys):
    one = write(tmp_path / "a", [1.0, 0.0] * 40)
    two = write(tmp_path / "b", [0.0, 0.0] * 40)
    rows = {row["kind"]: row for row in compare(scores(one), scores(two))}
    assert rows["a"]["mean"] == 1 and rows["a"]["low"] == rows["a"]["high"] == 1
    assert rows["b"]["mean"] == 0 and rows["all"]["mean"] == 0.5 and rows["all"]["one"] == 0.5
    assert rows["all"]["num"] == 80 and rows["all"]["num_videos"] == 20
    measure(str(one), str(two), out=str(tmp_path / "out"))
    assert len((tmp_path / "out").read_text().splitlines()) == len(capsys.readouterr().out.splitlines()) == 3


def test_questions_or_shares_that_do_not_match(tmp_path):
    one = write(tmp_path / "a", [1.0] * 8)
    with pytest.raises(ValueError, match="must be of the same examples"):
        compare(scores(one), scores(write(tmp_path / "b", [1.0] * 12)))
    with pytest.raises(ValueError, match=r"no answers at share 0\.5"):
        scores(one, 0.5)
    both = tmp_path / "c"
    both.write_text(one.read_text() + write(tmp_path / "d", [1.0] * 8, share=0.3).read_text())
    with pytest.raises(ValueError, match=r"answers at shares \[0.1, 0.3\]; name one"):
        scores(both)
    assert len(scores(both, 0.3)) == 8
