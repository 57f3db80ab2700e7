"""Each benchmark's files, made up in the published shape: read, scored by hand, written and read again."""

from dataclasses import replace

import pytest

from longcompress.eval.runner.score import score_files
from longcompress.eval.tasks import TASKS
from longcompress.eval.tasks.task import DEFAULT

from task_cases import CASES, HOW, PAPER, put


def test_every_task_has_a_case():
    assert list(CASES) == list(TASKS)


@pytest.mark.parametrize("name", CASES)
def test_scores_by_hand(tmp_path, name):
    reference, pred, ids, (missing, unknown, unparsed), want = CASES[name]
    got = score_files(name, put(tmp_path, reference), put(tmp_path, pred), HOW)
    assert got["num_examples"] == len(ids)
    assert (got["num_missing"], got["num_unknown"], got["num_unparsed"]) == (missing, unknown, unparsed)
    assert set(got["missing"]) <= set(ids) and not set(got["unknown"]) & set(ids)
    assert {key: got["metrics"][key] for key in want} == pytest.approx(want)
    paper = score_files(
        name, [tmp_path / item for item in reference], [tmp_path / item for item in pred], PAPER
    )
    for report in (got, paper):
        for key, item in report["intervals"].items():
            assert item["mean"] == pytest.approx(report["metrics"][key]), key


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_again(tmp_path, name):
    reference, pred, ids, _, _ = CASES[name]
    task = TASKS[name]
    examples = list(task.read(put(tmp_path, reference)))
    first = task.read_predictions(put(tmp_path, pred), examples, HOW)
    folder = tmp_path / "again"
    folder.mkdir()
    is_log = any("video_id" in text for text in pred.values())  # whose answers are in hundredths
    how = replace(HOW, times="hundredths" if is_log else None)
    paths = task.write_predictions(folder, replace(first, how=how))
    again = task.read_predictions(paths, examples, how)
    assert {key: line.value for key, line in again.by_id.items()} == {
        key: line.value for key, line in first.by_id.items() if key in ids
    }
    assert again.duplicates == [] and again.num_other == 0


@pytest.mark.parametrize("name", CASES)
def test_prompts_hold_the_question(tmp_path, name):
    task = TASKS[name]
    examples = list(task.read(put(tmp_path, CASES[name][0])))
    assert [example.id for example in examples] == CASES[name][2]
    assert task.about and task.where and DEFAULT in task.prompts and set(task.times) <= set(task.prompts)
    for prompt in task.prompts.values():
        for example in examples:
            assert example.question.strip(". ").lower() in prompt(example).lower() != ""


@pytest.mark.parametrize("how", [HOW, PAPER], ids=["ours", "paper"])
@pytest.mark.parametrize("name", CASES)
def test_of_nothing_predicted_all_is_missing(tmp_path, name, how):
    reference, pred, ids, _, want = CASES[name]
    got = score_files(name, put(tmp_path, reference), put(tmp_path, {next(iter(pred)): ""}), how)
    assert got["missing"] == ids and got["num_missing"] == len(ids)
    worth = [got["metrics"].get(key) for key in want if "num" not in key and key != "in_span"]
    assert all(value in (0, None) for value in worth), worth


def test_magqa_of_silence_is_one(tmp_path):
    reference, _, _, _, _ = CASES["magqa"]
    got = score_files("magqa", put(tmp_path, reference), put(tmp_path, {"p.jsonl": ""}), HOW)
    assert got["metrics"]["in_span"] == 1.0
