"""Records: what is wrong is told with file, line and field, and nothing is ever learned as "None"."""

import json

import pytest

from longcompress.train.records import faults, read_records, slug


def lines_of(path, *records, encoding="utf8", head=b""):
    text = "\n".join(json.dumps(record) if not isinstance(record, str) else record for record in records)
    path.write_bytes(head + text.encode(encoding))
    return path


BAD = [
    ({"captions": [None]}, r"line 2: captions\[0\] must be a text, got None"),
    ({"captions": "a dog"}, r"line 2: captions must be a list, got 'a dog'"),
    ({"events": "a dog"}, "line 2: events must be a list"),
    ({"events": [{"start_s": 1, "end_s": float("nan"), "text": "x"}]}, r"events\[0\] end_s must be a number"),
    ({"events": [{"start_s": 1, "end_s": float("inf"), "text": "x"}]}, r"events\[0\] end_s must be a number"),
    ({"events": [{"start_s": 1, "end_s": 2, "text": None}]}, r"events\[0\] text must be a text, got None"),
    ({"events": [{"start_s": 1, "text": "x"}]}, r"events\[0\] must be an object with 'end_s'"),
    ({"events": [3]}, r"events\[0\] must be an object with 'start_s'"),
    ({"events": [{"start_s": 1000, "end_s": 3000, "text": "x"}]}, "is outside the video of 10 s"),
    ({"captions": ["cut \ud83d"]}, r"captions\[0\] has half of a sign \(a lone surrogate\)"),
    ({"captions": [" "]}, r"captions\[0\] has no text"),
    ({"dialogues": ["hello"]}, r"dialogues\[0\] must be a list"),
    ({"dialogues": [[{"role": "user", "text": None}]]}, r"dialogues\[0\]\[0\] text must be a text, got None"),
    ({"dialogues": [[{"role": "bot", "text": "x"}]]}, r"dialogues\[0\]\[0\] role must be one of"),
    (
        {"duets": [[{"role": "assistant", "text": "x", "time_s": 1, "learn": "false"}]]},
        r"duets\[0\]\[0\] learn must be true or false, got 'false'",
    ),
    (
        {"dialogues": [[{"role": "user", "text": "From <s0>?"}, {"role": "assistant", "text": "<e0>"}]],
         "meta": {"token": {"<s0>": 5000.0}}},
        r"<s0> stands for 5000 s, which is outside the video; dialogues\[0\]: <e0> stands for no time",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("record", "message"), BAD)
def test_a_fault_is_of_its_record_alone_and_names_line_and_field(tmp_path, record, message):
    import re

    good = {"key": "good", "video": "a.mp4", "duration_s": 10.0, "captions": ["A dog."]}
    bad = {"key": "bad", "video": "b.mp4", "duration_s": 10.0} | record
    read = {r.key: r for r in read_records(lines_of(tmp_path / "r.jsonl", good, bad))}
    assert faults(read["good"]) == []
    assert re.search(message, "; ".join(faults(read["bad"]))), faults(read["bad"])
    assert "None" not in str(read["bad"].captions) and "nan" not in str(read["bad"].events)


def test_a_byte_order_mark_is_no_part_of_a_record(tmp_path):
    path = lines_of(tmp_path / "r.jsonl", {"video": "a.mp4", "captions": ["x"]}, head=b"\xef\xbb\xbf")
    assert read_records(path)[0].captions == ("x",)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused_by_name(tmp_path, encoding):
    path = tmp_path / "r.jsonl"
    path.write_bytes('{"video": "a.mp4", "captions": ["café"]}'.encode(encoding))
    with pytest.raises(ValueError, match=r"r\.jsonl must be UTF-8, got .* save it as UTF-8"):
        read_records(path)


def test_keys_of_names_in_any_script_are_unique_and_stable(tmp_path):
    names = [
        "视频",
        "影片",
        "视频1",
        "影片1",
        "фильм1",
        "\u043a\u0438\u043d\u043e1",
        "\u0641\u064a\u0644\u0645",
        "비디오",
        "café",
        "cafe\u0301",
    ]
    keys = [slug(name) for name in names]
    assert len(set(keys)) == len(names) - 1 and keys[-1] != keys[0]  # the same word, composed or not
    assert slug("视频") == slug("视频") and all(key.isascii() for key in keys)
    assert slug("a b.c") == "a_b_c"
    for name in names[:8]:
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    assert len(read_records(tmp_path)) == 8
