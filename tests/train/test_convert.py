"""Published shapes become records; every value lands where it belongs. The data is made up."""

import json
from dataclasses import replace

import pytest

from longcompress.train.data.convert import SHAPES, convert, save_records
from longcompress.train.records import TimedTurn, Turn, faults, read_records
from longcompress.types import Event


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("AbC-1_x.mp4", "two.mkv", "notes.txt"):
        (folder / name).touch()
    return folder


def records_of(tmp_path, videos, shape, content):
    (tmp_path / "in.json").write_text(json.dumps(content))
    return convert(tmp_path / "in.json", shape, videos)


def test_events(tmp_path, videos):
    content = {
        "AbC-1_x": {"duration": 138.8, "timestamps": [[39.6, 52.0], [4.7, 39.6]], "sentences": ["B. ", "A."]},
        "absent": {"duration": 1.0, "timestamps": [], "sentences": []},
    }
    (record,), missing = records_of(tmp_path, videos, "events", content)
    assert missing == ["absent"] and record.duration_s == 138.8
    assert record.events == (Event(4.7, 39.6, "A."), Event(39.6, 52.0, "B."))
    assert record.key == "AbC-1_x" and record.video.endswith("AbC-1_x.mp4")


def test_dialogues_of_one_video_join_and_their_times_stay_apart(tmp_path, videos):
    def entry(question, answer, token, **meta):
        turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
        return {"id": "two", "conversations": turns, "meta": {"duration": 50.0, "token": token, **meta}}

    content = [
        entry("When?", "From <s0> to <e0>.", {"<s0>": 5.0, "<e0>": 11.2}),
        entry("And from <s0> to <e0>?", "<t0> it is.", {"<s0>": 1.0, "<e0>": 2.0, "<t0>": 9.0}),
        entry("Cut?", "Yes, at <s0>.", {"<s0>": 3.0}, split=[12.0, 62.5]),
    ]
    (whole, cut), missing = records_of(tmp_path, videos, "dialogues", content)
    assert not missing and (whole.key, cut.key) == ("two", "two_12_62p5")
    assert whole.dialogues[0] == (Turn("user", "When?"), Turn("assistant", "From <t0> to <t1>."))
    assert whole.dialogues[1] == (Turn("user", "And from <t2> to <t3>?"), Turn("assistant", "<t4> it is."))
    assert whole.meta == {"token": {"<t0>": 5.0, "<t1>": 11.2, "<t2>": 1.0, "<t3>": 2.0, "<t4>": 9.0}}
    assert cut.meta == {"token": {"<t0>": 3.0}, "split": [12.0, 62.5]} and cut.part == (12.0, 62.5)
    with pytest.raises(ValueError, match=r"entry 0 is not of shape 'dialogues': .*split must be"):
        records_of(tmp_path, videos, "dialogues", [entry("?", "!", {}, split=[9.0, 3.0])])


def test_questions_and_answers(tmp_path, videos):
    content = [
        {"video_id": "two", "q": "What?\n<video>", "a": "A dog."},
        {"video_id": "two", "q": "Who?", "a": "Me."},
    ]
    (record,), _ = records_of(tmp_path, videos, "qa", content)
    assert [[t.text for t in d] for d in record.dialogues] == [["What?", "A dog."], ["Who?", "Me."]]


def test_mmduet(tmp_path, videos):
    caption = {"two.mkv": {"a1": [{"text": " A dog. ", "time": 4, "timespan": [1, 4]}]}}
    (record,), _ = records_of(tmp_path, videos, "mmduet-caption", caption)
    assert record.events == (Event(1.0, 4.0, "A dog."),)
    assert record.duets == ((TimedTurn("assistant", "A dog.", 4.0, 1.0, 4.0),),)
    turns = [
        {"role": "user", "time": 0, "content": "What is built?"},
        {"role": "assistant", "time": 6, "content": "A house.", "timespan": [2, 6]},
        {"role": "assistant", "time": 9, "content": "A boat.", "timespan": [7, 9]},
        {"role": "user", "time": 11, "content": "And burnt?"},
        {"role": "assistant", "time": 14, "content": "Coal.", "timespan": [12, 15], "learn": False},
    ]
    content = [{"video_uid": "two", "conversation": turns}]
    (record,), _ = records_of(tmp_path, videos, "mmduet-magqa", content)
    assert record.dialogues == (
        (Turn("user", "What is built?"), Turn("assistant", "A house. A boat.")),
        (Turn("user", "And burnt?"), Turn("assistant", "Coal.")),
    )
    assert record.events == (Event(2.0, 6.0, "A house."), Event(7.0, 9.0, "A boat."), Event(12, 15, "Coal."))
    assert record.duets == ((
        TimedTurn("user", "What is built?", 0.0, 0.0, 0.0),
        TimedTurn("assistant", "A house.", 6.0, 2.0, 6.0),
        TimedTurn("assistant", "A boat.", 9.0, 7.0, 9.0),
        TimedTurn("user", "And burnt?", 11.0, 11.0, 11.0),
        TimedTurn("assistant", "Coal.", 14.0, 12.0, 15.0, learn=False),
    ),)  # fmt: skip
    save_records([record], tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == [record] and not faults(record)
    backwards = replace(record, duets=(record.duets[0][::-1],))
    assert faults(backwards) == [
        "duets[0] must be turns in the order of their times, each about a start and an end"
    ]
    with pytest.raises(ValueError, match="a conversation begins with a user's question"):
        records_of(tmp_path, videos, "mmduet-magqa", [{"video_uid": "two", "conversation": turns[1:]}])
    grounding = [{"video_uid": "two", "query": "a dog", "timestamps": [[5, 8], [1, 2]]}]
    (record,), _ = records_of(tmp_path, videos, "mmduet-grounding", grounding)
    assert record.events == (Event(1.0, 2.0, "a dog"), Event(5.0, 8.0, "a dog"))


def test_saved_records_read_back_and_name_no_machine(tmp_path, videos):
    content = {"two": {"duration": 9.0, "timestamps": [[1, 2]], "sentences": ["A."]}}
    records, _ = records_of(tmp_path, videos, "events", content)
    save_records(records, tmp_path / "records.jsonl")
    assert str(tmp_path) not in (tmp_path / "records.jsonl").read_text()
    assert read_records(tmp_path / "records.jsonl") == records


@pytest.mark.parametrize("shape", SHAPES)
def test_another_shape_is_refused_with_the_entry(tmp_path, videos, shape):
    wrong = {"two": {"x": [1]}} if shape in ("events", "mmduet-caption") else [{"x": [1]}]
    with pytest.raises(ValueError, match=rf"entry .* is not of shape '{shape}'"):
        records_of(tmp_path, videos, shape, wrong)
    with pytest.raises(ValueError, match=rf"shape '{shape}' is a JSON"):
        records_of(tmp_path, videos, shape, "text")


def test_what_is_not_there_or_does_not_fit(tmp_path, videos):
    with pytest.raises(FileNotFoundError, match="no folder of videos"):
        convert(tmp_path / "in.json", "events", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no file"):
        convert(tmp_path / "none.json", "events", videos)
    with pytest.raises(ValueError, match="shape must be one of"):
        convert(tmp_path / "none.json", "other", videos)
    uneven = {"two": {"duration": 9.0, "timestamps": [[1, 2]], "sentences": []}}
    with pytest.raises(ValueError, match="entry 'two' is not of shape"):
        records_of(tmp_path, videos, "events", uneven)
    turn = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    lengths = [{"id": "two", "conversations": turn, "meta": {"duration": d}} for d in (9.0, 90.0)]
    with pytest.raises(ValueError, match=r"'two' lasts 90.0 s here and 9.0 s before"):
        records_of(tmp_path, videos, "dialogues", lengths)


def test_events_that_end_before_they_start_are_counted_faults(tmp_path, videos):
    content = {"two": {"duration": 9.0, "timestamps": [[1, 2], [5, 3]], "sentences": ["A.", "B."]}}
    (record,), _ = records_of(tmp_path, videos, "events", content)
    assert record.events == (Event(1.0, 2.0, "A."),)
    assert record.faults == ("events[1] 5 to 3 s ends before it starts",) == tuple(faults(record))
    save_records([record], tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl") == [record]


class TestLlava:
    """Lists of samples that name their videos by path, as LLaVA-Video and lmms-style readers have them."""

    def entry(self, video="part/two.mp4", question="Who?", answer="Me.", **more):
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        return {"id": "1", "conversations": turns, "video": video, "data_source": "x"} | more

    @pytest.fixture
    def folder(self, videos):
        (videos / "part").mkdir()
        (videos / "part" / "two.mp4").touch()
        return videos

    def test_videos_are_found_by_path_and_dialogues_join(self, tmp_path, folder):
        content = [
            self.entry(), self.entry(question="Where?", answer="Here."), self.entry("two.mkv"),
            self.entry("part/absent.mp4"), self.entry(video=None),
            {"id": "2", "image": "a.jpg", "conversations": []},
        ]  # fmt: skip
        with pytest.warns(UserWarning, match=r"in\.json: 2 entries without a video are left out"):
            (part, two), missing = records_of(tmp_path, folder, "llava", content)
        assert (two.key, part.key) == ("two", "part_two") and part.video == str(folder / "part" / "two.mp4")
        assert part.dialogues[1] == (Turn("user", "Where?"), Turn("assistant", "Here."))
        assert len(part.dialogues) == 2 and not faults(part) and missing == ["part/absent"]

    def test_lists_of_lists_with_their_strategies(self, tmp_path, folder):
        texts = [str(i) for i in range(10)]
        entries = [self.entry(question=text) for text in texts]
        (tmp_path / "a.json").write_text(json.dumps(entries))
        (tmp_path / "b.jsonl").write_text("".join(json.dumps(e) + "\n" for e in entries))

        def questions(strategy, name="a.json"):
            line = f"datasets:\n  - json_path: {name}\n    sampling_strategy: {strategy}\n"
            (tmp_path / "in.yaml").write_text(line)
            (record,), _ = convert(tmp_path / "in.yaml", "llava", folder)
            return [turns[0].text for turns in record.dialogues]

        assert questions("all") == questions('"all"', "b.jsonl") == texts
        assert questions('"first:3"') == questions('"first:25%"') == texts[:3]
        assert questions('"end:4"') == texts[6:] and questions('"end:99"') == texts
        sampled = questions('"random:40%"')
        assert len(set(sampled)) == 4 and sampled == questions('"random:4"') and set(sampled) < set(texts)
        with pytest.raises(ValueError, match=r"in\.yaml: sampling_strategy must be all.* got 'some:3'"):
            questions('"some:3"')
        with pytest.raises(FileNotFoundError, match=r"json_path: no file .*c\.json"):
            questions("all", "c.json")

    @pytest.mark.parametrize(
        ("name", "text", "match"),
        [
            ("x.yaml", "- 1", r"x\.yaml is no YAML with datasets"),
            ("x.yaml", "datasets: [{", r"x\.yaml is no YAML with datasets"),
            ("x.json", "{}", "is a JSON list of objects, JSON lines, or YAML"),
            ("x.json", "[1]", "is a JSON list of objects"),
            ("x.jsonl", '{"video": "a.mp4"}\n{', r"x\.jsonl is no JSON"),
            ("x.json", '[{"video": ["a.mp4"]}]', "entry 0 is not of shape 'llava': KeyError"),
            (
                "x.json",
                '[{"video": ["a"], "conversations": []}]',
                "entry 0 is not of shape 'llava': TypeError",
            ),
        ],
    )
    def test_what_is_no_such_list(self, tmp_path, folder, name, text, match):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=match):
            convert(tmp_path / name, "llava", folder)

    def test_two_videos_of_one_key(self, tmp_path, folder):
        (folder / "part_two.mp4").touch()
        with pytest.raises(ValueError, match=r"part_two\.mp4 and .*part/two\.mp4 have one key, 'part_two'"):
            records_of(tmp_path, folder, "llava", [self.entry(), self.entry("part_two.mp4")])
