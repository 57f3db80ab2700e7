"""What the papers' scripts do otherwise, odd forms of files, and files that are wrong."""

import json

import pytest

from longcompress.eval.metrics.captions import caption_scores
from longcompress.eval.metrics.meteor import is_available
from longcompress.eval.runner.score import score_files
from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.task import How

from task_cases import CASES, HOW, LVBENCH, MLVU, MME, VIDEOS, lines, log, put

PAPER = How(compat="paper", asker=HOW.asker)


def scored(folder, name, pred, how, reference=None):
    return score_files(name, put(folder, reference or CASES[name][0]), put(folder, pred), how)


def test_the_papers_round_iou_and_leave_out_what_has_no_entry(tmp_path):
    reference = {
        "g.json": json.dumps(
            {"v": {"duration": 1000, "timestamps": [[0, 505], [0, 1]], "sentences": ["a", "b"]}}
        )
    }
    pred = {"log.txt": lines([log("v", "grounding", "From 00 to 25.", 0)])}
    ours, paper = (scored(tmp_path, "longvale-tvg", pred, how, reference) for how in (HOW, PAPER))
    assert ours["metrics"]["mIoU"] == pytest.approx(250 / 505 / 2) and ours["metrics"]["R@0.5"] == 0.0
    assert paper["metrics"]["mIoU"] == 0.5 and paper["metrics"]["R@0.5"] == 1.0  # .495 is .5
    assert ours["missing"] == paper["missing"] == ["v_1"]


def test_the_papers_leave_videos_out_that_were_not_predicted(tmp_path):
    pred = {
        "log.txt": lines([log("v_1", "captioning", "From 00 to 49, a dog runs.\nFrom 50 to 99, it naps.")])
    }
    ours, paper = (scored(tmp_path, "longvale-dvc", pred, how) for how in (HOW, PAPER))
    if is_available():
        assert (ours["metrics"]["SODA_c"], paper["metrics"]["SODA_c"]) == pytest.approx((0.5, 1.0))
    assert paper["metrics"]["num"] == 1
    if is_available():
        assert "arguments swapped" in paper["metrics"]["scorer"]


def test_two_annotators(tmp_path):
    second = {"v_1": {"duration": 100.0, "timestamps": [[0, 100]], "sentences": ["A dog runs and naps."]}}
    reference = {"val_1.json": json.dumps(VIDEOS), "val_2.json": json.dumps(second)}
    results = {"results": {"v_1": [{"sentence": "a dog runs and naps", "timestamp": [0, 100]}]}}
    got = scored(tmp_path, "activitynet-dense", {"p.json": json.dumps(results)}, HOW, reference)
    assert got["metrics"]["recall@0.9"] == pytest.approx(
        0.5
    )  # 1 of the second annotator, 0 of the other video


def test_mmduets_streams_of_youcook2(tmp_path):
    replies = [{"time": 10.0, "content": "chop onions", "role": "assistant"},
            {"time": 20.0, "content": "wait", "role": "assistant"},
            {"time": 30.0, "content": "fry them", "role": "assistant"}]  # fmt: skip
    pred = {"p.jsonl": lines([{"question_id": "ab_c", "model_response_list": replies}])}
    ours, paper = (scored(tmp_path, "youcook2", pred, how)["metrics"] for how in (HOW, PAPER))
    assert (ours["precision"], ours["recall"]) == (pytest.approx(2 / 3), 1.0)
    assert (paper["precision"], paper["recall"]) == (0.5, 0.5)  # the first reply has no start


def test_mmduets_frames_of_qvhighlights(tmp_path):
    scores = [float(i in (4, 5)) for i in range(10)]
    frames = [{"time": i, "relevance_score": score} for i, score in enumerate(scores)]
    older = [{"video_time": i, "relevance_score": [0.1, score]} for i, score in enumerate(scores[:9])]
    older += [{"time": 9}]
    for data in (frames, older):
        pred = {"p.jsonl": lines([{"question_id": 7, "debug_data": data}])}
        got = scored(tmp_path, "qvhighlights", pred, HOW)
        assert got["metrics"]["HD/HIT1@VeryGood"] == 0.5 and got["missing"] == ["8"]
        assert "MR/mAP" not in got["metrics"]
    pred = {"p.jsonl": lines([{"question_id": 7, "debug_data": [{"time": 0}, {"time": 5}]}])}
    with pytest.raises(ValueError, match=r"p.jsonl:1: 'debug_data' must have frames at an even rate"):
        scored(tmp_path, "qvhighlights", pred, HOW)


def test_timechats_youcook2(tmp_path):
    video = {
        "image_id": "val/ab_c.mp4",
        "segments": [[0, 10], [20, 30]],
        "pure_cap": "chop onions. fry them.",
    }
    reference = {"val.json": json.dumps({"annotations": [video]})}
    got = scored(tmp_path, "youcook2", CASES["youcook2"][1], HOW, reference)
    assert got["metrics"]["F1"] == pytest.approx(2 / 3)
    video["pure_cap"] = "chop onions."
    with pytest.raises(ValueError, match=r"entry|annotations 1: 'pure_cap' must have a sentence for each"):
        scored(
            tmp_path,
            "youcook2",
            CASES["youcook2"][1],
            HOW,
            {"val.json": json.dumps({"annotations": [video]})},
        )


def test_magqa_answers_at_the_end(tmp_path):
    at_end = {
        "question_id": 3,
        "video_duration": 10.0,
        "model_response": ["From 00 to 20, dog\nFrom 60 to 80, cat"],
    }
    got = scored(tmp_path, "magqa", {"p.jsonl": lines([at_end])}, How(times="hundredths", asker=HOW.asker))
    assert got["metrics"]["in_span"] == 5.0
    untimed = {"question_id": 3, "model_response": ["dog"]}
    assert scored(tmp_path, "magqa", {"p.jsonl": lines([untimed])}, HOW)["metrics"]["in_span"] == 1.0


def test_the_judge_is_needed_and_named(tmp_path):
    for name in ("magqa", "video-chatgpt"):
        with pytest.raises(ValueError, match=rf"{name} is scored by a judge, got none; give --judge-url"):
            scored(tmp_path, name, CASES[name][1], How())
    got = scored(tmp_path, "msvd-qa", CASES["msvd-qa"][1], How())
    assert got["metrics"]["exact/accuracy"] == 0.5 and "accuracy" not in got["metrics"]
    mine = How(asker=HOW.asker, judge_prompt="{reference}? {answer}")
    got = scored(tmp_path, "msvd-qa", CASES["msvd-qa"][1], mine)["metrics"]
    assert (got["judge"], got["prompt"]) == ("a line of Python", "{reference}? {answer}")


def test_pairs_of_questions_and_the_papers_slip(tmp_path):
    pair = {"Q1": "what?", "Q2": "which?", "A": "a dog", "video_name": "v_a"}
    asked = []

    def judge(prompts):
        asked.extend(prompts)
        return ["{'score': 4}"] * len(prompts)

    for compat in (None, "paper"):
        how = How(compat=compat, asker=type(HOW.asker)("j", judge))
        pred = {"consistency_p.json": json.dumps([pair | {"pred1": "dog", "pred2": "cat"}])}
        got = scored(tmp_path, "video-chatgpt", pred, how, {"consistency_qa.json": json.dumps([pair])})
        assert got["metrics"]["consistency/score"] == got["metrics"]["mean"] == 4.0
    assert "Question 2: which?" in asked[0] and "Question 2: what?" in asked[1]
    assert "Answer to question 2: cat" in asked[0]
    task = TASKS["video-chatgpt"]
    (tmp_path / "consistency_qa.json").write_text(json.dumps([pair]))
    (example,) = task.read([tmp_path / "consistency_qa.json"])
    assert (
        task.parse("dog\n\ncat", example, HOW) == ("dog", "cat") and task.parse("dog", example, HOW) is None
    )
    with pytest.raises(ValueError, match=r"which of Video-ChatGPT's files it is must show by its name"):
        list(task.read([tmp_path / "qa.json"]))


def test_hidden_turns_of_avsd(tmp_path):
    def dialogue(answer):
        turns = [{"question": "day ?", "answer": "yes"}, {"question": "alone ?", "answer": answer}]
        return json.dumps({"dialogs": [{"image_id": "XYZ", "dialog": turns}]})

    reference = {"test.json": dialogue("__UNDISCLOSED__"), "labels.json": dialogue("no he is not")}
    got = scored(tmp_path, "avsd", {"p.json": dialogue("no he is not")}, How(), reference)
    assert got["num_examples"] == 1 and got["num_other"] == 1 and got["metrics"]["exact/accuracy"] == 1.0
    with pytest.raises(ValueError, match=r"dialog 2: the answer is hidden; give the labelled file after it"):
        scored(tmp_path, "avsd", {"p.json": "{}"}, HOW, {"test.json": reference["test.json"]})


def test_several_right_answers_of_avsd(tmp_path):
    def dialogue(*answers):
        turns = [{"question": "day ?", "answer": "yes"}, {"question": "alone ?", "answer": "no"}]
        turns += [{"question": "who ?", "answer": item} for item in answers]
        return json.dumps({"dialogs": [{"image_id": "XYZ", "dialog": turns}]})

    several = ["a red dog runs", "it is a dog"]
    pred = {"p.json": dialogue("it is a dog")}
    hidden = {"test.json": dialogue("__UNDISCLOSED__"), "labels.json": dialogue(several)}
    more = {
        "test.json": dialogue("__UNDISCLOSED__"),
        "a.json": dialogue(several[0]),
        "b.json": dialogue(several[1]),
    }
    for reference in (hidden, more, {"multiref.json": dialogue(several)}):
        got = scored(tmp_path, "avsd", pred, How(), reference)
        assert got["num_examples"] == 1 and got["num_other"] == 2
        metrics = got["metrics"]
        assert metrics["exact/accuracy"] == metrics["ROUGE-L"] == 1.0
        assert metrics["METEOR"] == (1.0 if is_available() else None)
        want, _ = caption_scores({"": several}, {"": "it is a dog"}, {"": ""})
        assert {name: metrics[name] for name in want} == want
    item = scored(tmp_path, "avsd", pred, How(), {"g.json": dialogue(several[0])})
    assert item["num_examples"] == 3 and item["metrics"]["exact/accuracy"] == pytest.approx(2 / 3)
    asked = []

    def judge(prompts):
        asked.extend(prompts)
        return ["{'pred': 'yes', 'score': 4}"] * len(prompts)

    how = How(asker=type(HOW.asker)("j", judge))
    got = scored(tmp_path, "avsd", pred, how, hidden)
    assert (got["metrics"]["score"], got["intervals"]["score"]["mean"]) == (4.0, 4.0)
    assert "a red dog runs" in asked[0]
    with pytest.raises(ValueError, match=r"dialog 3: 'answer' must have a text at least; got \(\)"):
        scored(tmp_path, "avsd", pred, HOW, {"g.json": dialogue([])})


def test_templates_of_music_avqa(tmp_path):
    examples = list(TASKS["music-avqa"].read(put(tmp_path, CASES["music-avqa"][0])))
    assert examples[0].question == "How many violin are left of the piano?"
    wrong = '[{"video_id": "1", "question_id": 1, "type": "?", "templ_values": "[]", "question_content": ""}]'
    with pytest.raises(
        ValueError, match=r"entry 1: 'type' must be a list of words, written as text; got '\?'"
    ):
        list(TASKS["music-avqa"].read(put(tmp_path, {"m.json": wrong})))


def test_letters_as_each_papers_script_reads_them(tmp_path):
    video = MME[0] | {"questions": [MME[0]["questions"][1] | {"response": "Answer: B"}]}
    for how, want in ((HOW, 1 / 3), (PAPER, 0.0)):  # the A of "Answer" is the quirk
        got = scored(tmp_path, "video-mme", {"p.json": json.dumps([video])}, how)
        assert got["metrics"]["accuracy"] == pytest.approx(want)
    for how, want in ((HOW, 1.0), (PAPER, 0.5)):
        got = scored(tmp_path, "lvbench", {"p.json": json.dumps({"1": "(B)", "2": "A"})}, how)
        assert got["metrics"]["accuracy"] == want
    dev = {"acc_dict": {}, "res_list": [
        {"pred": "B) blue", "gt": "(B) blue", "question": "Question: Colour?\nOptions:\n(A) red\n(B) blue",
         "question_type": "plotQA", "video": "/x/m_1.mp4"}]}  # fmt: skip
    for how in (HOW, PAPER):
        got = scored(tmp_path, "mlvu", {"p.json": json.dumps(dev, indent=1)}, how)
        assert got["metrics"]["accuracy"] == 0.5 and got["missing"] == ["ego_0"]


def test_video_mmes_rows(tmp_path):
    rows = [
        {"video_id": "001", "videoID": "yt", "duration": "short", **example}
        for example in MME[0]["questions"]
    ]
    reference = {"rows.jsonl": lines(rows)}
    pred = {"p.jsonl": lines([{"question_id": "001-1", "response": "A"}])}
    assert scored(tmp_path, "video-mme", pred, HOW, reference)["metrics"]["accuracy/length/short"] == 0.5
    task = TASKS["video-mme"]
    examples = list(task.read([tmp_path / "rows.jsonl"]))
    assert {example.video for example in examples} == {"yt"}  # what the video's file is called
    replies = task.read_predictions([tmp_path / "p.jsonl"], examples, HOW)
    (path,) = task.write_predictions(tmp_path, replies)
    (video,) = json.loads(path.read_text())
    assert video["video_id"] == "001" and video["questions"][0]["options"] == ["A. x", "B. y"]


def test_what_came_first_counts_and_the_rest_is_listed(tmp_path):
    pred = {"p.json": '{"1": "B", "1": "A", "2": "A"}'}
    got = scored(tmp_path, "lvbench", pred, HOW)
    assert got["duplicate"] == ["1"] and got["metrics"]["accuracy"] == 1.0
    pred = {"p.jsonl": lines([{"id": "AAA_0", "answer": "0 to 10"}, {"id": "AAA_0", "answer": "9 to 10"}])}
    got = scored(tmp_path, "charades-sta", pred, HOW)
    assert (got["num_duplicate"], got["duplicate"]) == (1, ["AAA_0"])
    assert got["metrics"]["mIoU"] == pytest.approx(1 / 3)


WRONG_GOLD = [
    ("charades-sta", "g.txt", "AAA 0.0 1.0##x\nAAA 1.0##y\n",
     r"g\.txt:2: must be 'VIDEO START END##sentence'"),
    ("charades-sta", "g.txt", "\n", r"--reference must hold examples of charades-sta, got none in .*g\.txt"),
    ("activitynet-dense", "g.json", '{\n"v_1": {"duration": 1,,}}', r"g\.json:2: must be JSON; .* at column"),
    ("activitynet-dense", "g.json", '{"v": {"duration": 1, "timestamps": [[0]], "sentences": ["a"]}}',
     r"g\.json, video 'v': timestamps 1 must be \[start, end\] in seconds; got \[0\]"),
    ("activitynet-dense", "g.json", '{"v": {"duration": "1", "timestamps": [], "sentences": []}}',
     r"video 'v': 'duration' must be a finite number; got '1'"),
    ("longvale-sc", "g.json", '{"v": {"duration": 1, "timestamps": [], "sentences": ["a"]}}',
     r"'timestamps' and 'sentences' must be as many; got '0 and 1'"),
    ("longvale-tvg", "g.json", '{"v": {}, "v": {}}', r"g\.json: each video must be there once; got \['v'\]"),
    ("qvhighlights", "g.jsonl", '{"qid": 1}\n', r"g\.jsonl:1: needs the field 'duration'; got \['qid'\]"),
    ("qvhighlights", "g.jsonl", '{"qid": 1,\n"duration": 2}\n',
     r"g\.jsonl:1: each line must be a JSON object"),
    ("magqa", "g.json", '[{"question_id": true}]', r"entry 1: needs the field 'conversation'"),
    ("lvbench", "g.jsonl", lines([LVBENCH[0] | {"qa": [LVBENCH[0]["qa"][0] | {"answer": "E"}]}]),
     r"g\.jsonl:1, qa 1: the right answer must be the letter of one of 2 options; got 'E'"),
    ("mlvu", "g.json", json.dumps([MLVU[0] | {"answer": "green"}]),
     r"entry 1: 'answer' must be one of 'candidates'"),
    ("longvideobench", "g.json", '[{"candidates": ["a"], "id": "x"}]',
     r"needs 'correct_choice'; the test set has none"),
    ("activitynet-qa", "g.json", "[1]", r"entry 1 must be an object \{\.\.\.\}; got 1"),
    ("youcook2", "g.json", "[]", r"g\.json: must hold one JSON object \{\.\.\.\}, got list"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "text", "message"), WRONG_GOLD)
def test_wrong_gold_is_named(tmp_path, name, file, text, message):
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, name, CASES[name][1], HOW, {file: text})


WRONG_PRED = [
    ("charades-sta", '{"id": "AAA_0"}\n', r"p\.jsonl:1: needs the field 'answer' or 'pred' or 'text'"),
    ("charades-sta", '{"id": "AAA_0", "answer": 3}\n', r"p\.jsonl:1: 'answer' must be text; got 3"),
    ("charades-sta", '\n"x"\n', r"p\.jsonl:2: must be a JSON object \{\.\.\.\}, got '\"x\"'"),
    ("longvale-tvg", lines([log("v_1", "grounding", "x")]), r"p\.jsonl:1: needs the field 'info'"),
    ("longvale-tvg", lines([log("v_1", "grounding", "x", 0.5)]),
     r"'sentence_id' must be a whole number from 0"),
    ("activitynet-dense", '{"results": {"v_1": [{"sentence": "a", "timestamp": [0, null]}]}}',
     r"p\.jsonl, results, v_1 1: 'timestamp' must be a finite number; got None"),
    ("qvhighlights", '{"qid": 7, "pred_relevant_windows": [[1]]}\n',
     r"p\.jsonl:1: pred_relevant_windows 1 must be \[start, end, score\]; got \[1\]"),
    ("longvideobench", '{"lv_0": {}}', r"'lv_0' must be a letter, words, or the number of an option from 0"),
    ("magqa", '{"question_id": 3, "model_response": ["a", "b"]}\n', r"'model_response' must be \[text\]"),
    ("magqa", '{"question_id": 3, "model_response_list": [{"role": "assistant", "time": "1"}]}\n',
     r"model_response_list 1: 'time' must be a finite number; got '1'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), WRONG_PRED)
def test_wrong_predictions_are_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, name, {"p.jsonl": text}, HOW)


def test_files_that_are_no_text_or_too_many(tmp_path):
    (tmp_path / "g.txt").write_bytes(b"AAA 0 1##\xff")
    with pytest.raises(ValueError, match=r"g\.txt: must be UTF-8 text; byte 9 is not"):
        score_files("charades-sta", [tmp_path / "g.txt"], [tmp_path / "g.txt"], HOW)
    with pytest.raises(ValueError, match=r"--reference must be one file for this task, got 2"):
        score_files("charades-sta", ["a", "b"], ["c"], HOW)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score_files("charades-sta", ["nowhere"], ["c"], HOW)
    with pytest.raises(ValueError, match=r"task must be one of charades-sta, .*; got 'x'"):
        score_files("x", ["a"], ["c"])
    with pytest.raises(ValueError, match=r"--reference and --pred need a file each, got 0 and 1"):
        score_files("mlvu", [], ["c"])
    double = put(tmp_path, {"a.json": json.dumps([MLVU[0] | {"question_id": "x"}] * 2)})
    with pytest.raises(ValueError, match=r"a\.json: each id must be there once, 'x' comes again"):
        score_files("mlvu", double, ["c"])


def test_other_modes_than_the_papers_are_refused():
    with pytest.raises(ValueError, match="compat must be None or 'paper', got 'gpt'"):
        How(compat="gpt")
