"""Files of every task, with the metrics that each gives, counted by hand."""

import json
from dataclasses import replace

from longcompress.eval.metrics.meteor import is_available
from longcompress.eval.tasks.synthetic import (
    synthesize_heard,
    synthesize_needles,
    synthesize_places,
    synthesize_qa,
    synthesize_whole,
)
from longcompress.eval.tasks.synthetic_alerts import synthesize_alerts, synthesize_requests
from longcompress.eval.tasks.synthetic_events import synthesize_events
from longcompress.eval.tasks.task import Asker, How

VIDEOS = {
    "v_1": {
        "duration": 100.0,
        "timestamps": [[0, 50], [50.0, 100]],
        "sentences": ["A Dog runs. ", "It naps."],
    },
    "v_2": {"duration": 20, "timestamps": [[5, 5]], "sentences": ["Ein Hund bellt laut: schön."]},
}


def log(video, task, answer, number=None, query=0):
    line = {"video_id": video, "task": task, "query_id": query, "answer": answer}
    return line if number is None else line | {"info": {"sentence_id": number, "iou": 0.0}}


CHARADES = "AAA 0.0 10.0##a dog runs.\nAAA 5 8##ein Hund bellt, schön.\n\nBBB 1.5 2##x##y\n"


ANET = {
    "version": "VERSION 1.0",
    "results": {"v_1": [{"sentence": "a dog runs", "timestamp": [0, 50]}], "v_2": [], "v_9": []},
    "external_data": {"used": False},
}


QVH = [
    {"qid": 7, "query": "a dog", "duration": 10, "vid": "vv_0_10", "relevant_windows": [[2, 6]],
     "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 4, 4], [4, 3, 2]]},
    {"qid": 8, "query": "a cat", "duration": 10, "vid": "ww_0_10", "relevant_windows": [[0, 2], [6, 10]],
     "relevant_clip_ids": [0, 3], "saliency_scores": [[2, 2, 2], [4, 4, 4]]},
]  # fmt: skip


QVH_PRED = [
    {"qid": 7, "query": "a dog", "vid": "vv_0_10", "pred_relevant_windows": [[2, 6, 0.9], [0, 2, 0.1]],
     "pred_saliency_scores": [0.1, 0.9, 0.5, 0, 0]},
    {"qid": 9, "query": "?", "vid": "?", "pred_relevant_windows": [], "pred_saliency_scores": []},
]  # fmt: skip


YOUCOOK = {
    "database": {
        "ab_c": {"subset": "validation", "duration": 60.5, "annotations": [
            {"id": 0, "segment": [0, 10], "sentence": "chop onions"},
            {"id": 1, "segment": [20, 30], "sentence": "fry them"}]},
        "trained": {"subset": "training", "duration": 9.0, "annotations": []},
    }
}  # fmt: skip


MAGQA = [
    {"question_id": 3, "video": "a.mp4", "conversation": [{"role": "user", "content": "what?", "time": 0}],
     "answer": [{"content": "dog", "time": [0, 5.0]}, {"content": "cat", "time": [6, 9]}]},
]  # fmt: skip


MAGQA_PRED = [
    {"question_id": 3, "video_duration": 10, "model_response_list": [
        {"role": "user", "content": "what?", "time": 0}, {"role": "assistant", "content": "dog", "time": 1.5},
        {"role": "assistant", "content": "cow", "time": 7}]},
]  # fmt: skip


AVSD = {"dialogs": [{"image_id": "XYZ", "caption": "c", "summary": "s", "dialog": [
    {"question": "is it day ?", "answer": "yes it is"},
    {"question": "is he alone ?", "answer": "no he is not"}]}]}  # fmt: skip


MUSIC = [
    {"video_id": "00001", "question_id": 11, "type": '["Audio-Visual", "Counting"]', "question_deleted": 0,
     "question_content": "How many <Object> are left of the <Object>?", "templ_values": '["violin", "piano"]',
     "anser": "two"},
    {"video_id": "00002", "question_id": 12, "type": '["Audio", "Existential"]', "question_deleted": 0,
     "question_content": "Is it loud?", "templ_values": "[]", "anser": "yes"},
    {"video_id": "00002", "question_id": 13, "type": '["Audio", "Existential"]', "question_deleted": 1,
     "question_content": "?", "templ_values": "[]", "anser": "yes"},
]  # fmt: skip


TEST_Q = [{"question": "is it day", "video_name": "q1", "question_id": "v_q1_0"},
          {"question": "who ran", "video_name": "q1", "question_id": "v_q1_1"}]  # fmt: skip


TEST_A = [{"answer": "the Dog", "type": 7, "question_id": "v_q1_1"},
          {"answer": "yes", "type": 3, "question_id": "v_q1_0"}]  # fmt: skip


TEST_QA = [{"answer": "dog", "id": 5, "question": "what runs?", "video_id": 61, "category_id": 2},
           {"answer": "two", "id": 6, "question": "how many?", "video_id": 62, "category_id": 2}]  # fmt: skip


GENERIC = [
    {"Q": "what?", "A": "a dog", "video_name": "v_a"},
    {"Q": "what?", "A": "a cat", "video_name": "v_b"},
]


PAIRS = [{"Q1": "what?", "Q2": "which?", "A": "a dog", "video_name": "v_a"}]


MME = [
    {"video_id": "001", "duration": "short", "domain": "Sport", "sub_category": "Ball", "questions": [
        {"question_id": "001-1", "task_type": "OCR", "question": "Which?", "options": ["A. x", "B. y"],
         "answer": "A"},
        {"question_id": "001-2", "task_type": "Count", "question": "How?", "options": ["A. 1", "B. 2"],
         "answer": "B"}]},
    {"video_id": "002", "duration": "long", "domain": "Art", "sub_category": "Dance", "questions": [
        {"question_id": "002-1", "task_type": "OCR", "question": "Who?", "options": ["A. p", "B. q"],
         "answer": "B"}]},
]  # fmt: skip


MME_PRED = [MME[0] | {"questions": [MME[0]["questions"][0] | {"response": "A. x"},
                                    MME[0]["questions"][1] | {"response": "I can't say"}]}]  # fmt: skip


MLVU = [
    {"video": "m_1.mp4", "duration": 246, "question": "Colour?", "candidates": ["red", "blue"],
     "answer": "blue", "question_type": "plotQA"},
    {"video": "m_2.mp4", "duration": 300.5, "question": "Where?", "candidates": ["here", "there"],
     "answer": "here", "question_type": "ego"},
]  # fmt: skip


LVBENCH = [
    {"key": "yt-1", "type": "tv", "video_info": {"duration_minutes": 60}, "qa": [
        {"uid": "1", "question": "Who?\n(A) he\n(B) she", "answer": "B", "question_type": ["reasoning"],
         "time_reference": "00:15-00:19"},
        {"uid": "2", "question": "When?\n(A) now\n(B) then", "answer": "A",
         "question_type": ["reasoning", "summarization"], "time_reference": "01:00:15-01:00:19"}]},
]  # fmt: skip


LONGVIDEO = [
    {"video_id": "lv", "id": "lv_0", "video_path": "lv.mp4", "question": "What?", "duration": 12.5,
     "candidates": ["a", "b", "c"], "correct_choice": 2, "duration_group": 15, "question_category": "S2E",
     "topic_category": "NP"},
    {"video_id": "lw", "id": "lw_0", "video_path": "lw.mp4", "question": "Why?", "duration": 3000,
     "candidates": ["a", "b"], "correct_choice": 0, "duration_group": 3600, "question_category": "T3E",
     "topic_category": "NP"},
]  # fmt: skip


def lines(records):
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in records)


def qa(key, pred):
    return {"id": key, "question": "?", "answer": "the gold", "pred": pred}


SYNTHETIC = {"synthetic": {"minutes": [5.0], "num_videos": 1, "first_video": 0}}


NEEDLES, ASKED = synthesize_needles(0, 300.0)[1], synthesize_qa(0, 300.0)[1]


PLACES = synthesize_places(0, 300.0)[1]
NUM_LETTERS = sum(example.truth.kind == "letter" for example in PLACES)
HEARD = synthesize_heard(0, 300.0)[1]
WHOLE = synthesize_whole(0, 300.0)[1]
NUM_NEVER = sum(example.truth.kind == "never" for example in WHOLE)
NUM_SEEN = sum(needle.truth.kind == "when_seen" for needle in NEEDLES)


SPANS = sum(needle.truth.kind.startswith("when") or needle.truth.kind == "binding" for needle in ASKED)


EVENTS = synthesize_events(0, 300.0)[1][0].truth.events
ALERTS = [example.truth.moments for example in synthesize_alerts(0, 300.0)[1]]
REQUESTS = [example.truth for example in synthesize_requests(0, 300.0)[1]]
NUM_COUNTED = sum(len(due.moments) for due in REQUESTS if due.request.kind == "count")


def played(moments):
    """Replies a second after each start, and the scores of two steps."""
    replies = [{"time": start_s + 1, "content": "now", "role": "assistant"} for start_s, _ in moments]
    steps = [{"time": float(t), "relevance_score": 0.5, "informative_score": 0.25} for t in range(2)]
    return {"model_response_list": replies, "video_duration": 300.0, "debug_data": steps}


def answered(due):
    """Replies two seconds after each start: of counts all are right, of others "now" never is."""
    line = played(due.moments)
    if due.request.kind == "count":
        for number, reply in enumerate(line["model_response_list"], 1):
            reply["content"] = str(number)
    return line


def answer_of(events):
    """What a model answers that lists these events."""
    return json.dumps({"events": [{"start_s": a, "end_s": b, "text": name} for a, b, name in events]})


def drawn_answers(task, examples, kinds, answer=None):
    """The right answers to questions of these kinds, and "?" to the next one."""
    text = [
        {"id": f"{task}-5min-0-{i}", "answer": answer or item.truth.answer}
        for i, item in enumerate(examples)
        if item.truth.kind in kinds
    ]
    return lines([*text, {"id": "x", "answer": "1 to 2"}])


# task: gold files, prediction files, ids, (missing, unknown, unparsed), numbers by hand
CASES = {
    "charades-sta": (
        {"charades_sta_test.txt": CHARADES},
        {"pred.jsonl": lines([{"id": "AAA_0", "answer": "From 0 to 5"}, {"id": "BBB_0", "answer": "?"},
                              {"id": "zzz", "answer": ""}])},
        ["AAA_0", "AAA_1", "BBB_0"], (1, 1, 1),
        {"mIoU": 0.5 / 3, "R@0.3": 1 / 3, "R@0.5": 1 / 3, "R@0.7": 0.0},
    ),
    "activitynet-grounding": (
        {"val_1.json": json.dumps(VIDEOS)},
        {"log.txt": lines([log("v_1", "grounding", "From 00 to 25.", 0), log("v_1", "captioning", "?"),
                           log("v_1", "grounding", "later", 1),
                           log("v_1", "grounding", "50 to 60", 1, query=1)])},
        ["v_1_0", "v_1_1", "v_2_0"], (1, 0, 1), {"mIoU": 0.5 / 3, "R@0.5": 1 / 3},
    ),
    "activitynet-dense": (
        {"val_1.json": json.dumps(VIDEOS)}, {"results.json": json.dumps(ANET)},
        ["v_1", "v_2"], (0, 1, 0), {"precision": 0.5, "recall": 0.25, "F1": 1 / 3},
    ),
    "qvhighlights": (
        {"val.jsonl": lines(QVH)}, {"pred.jsonl": lines(QVH_PRED)}, ["7", "8"], (1, 1, 0),
        {"MR/mAP": 0.5, "MR/R1@0.7": 0.5, "HD/HIT1@VeryGood": 0.5, "HD/mAP@VeryGood": 0.5},
    ),
    "youcook2": (
        {"trainval.json": json.dumps(YOUCOOK)},
        {"pred.json": json.dumps({"ab_c.mp4": [{"caption": "chop onions", "timestamp": [0, 10]}]})},
        ["ab_c"], (0, 0, 0), {"precision": 1.0, "recall": 0.5, "F1": 2 / 3, "num_predictions": 1.0},
    ),
    "magqa": (
        {"magqa_test.json": json.dumps(MAGQA)}, {"pred.jsonl": lines(MAGQA_PRED)}, ["3"], (0, 0, 0),
        {"in_span": (5 + 2) / 2, "turns": 2.0},
    ),
    "longvale-tvg": (
        {"eval.json": json.dumps(VIDEOS)},
        {"log.txt": lines([log("v_1", "grounding", "From 00 to 50.", 0),
                           log("v_2", "grounding", "From 25 to 25.", 0)])},
        ["v_1_0", "v_1_1", "v_2_0"], (1, 0, 0), {"mIoU": 1 / 3, "R@0.7": 1 / 3},
    ),
    "longvale-dvc": (
        {"eval.json": json.dumps(VIDEOS)},
        {"log.txt": lines([log("v_1", "captioning", "From 00 to 49, a dog runs.\nFrom 50 to 99, it naps.")])},
        ["v_1", "v_2"], (1, 0, 0),
        {"precision": 0.5, "recall": 0.5, "SODA_c": 0.5 if is_available() else None},
    ),
    "longvale-sc": (
        {"eval.json": json.dumps(VIDEOS)},
        {"log.txt": lines([log("v_1", "seg_captioning", "A dog runs.", 0),
                           log("v_1", "seg_captioning", " ", 1)])},
        ["v_1_0", "v_1_1", "v_2_0"], (1, 0, 1), {"num": 3, "num_unanswered": 1, "num_empty": 1},
    ),
    "avsd": (
        {"lbl.json": json.dumps(AVSD)},
        {"result.json": json.dumps({"dialogs": [{"image_id": "XYZ", "dialog": [
            {"question": "is it day ?", "answer": "yes it is"},
            {"question": "is he alone ?", "answer": "yes"}]}]})},
        ["XYZ_0", "XYZ_1"], (0, 0, 0), {"exact/accuracy": 0.5, "accuracy": 0.5, "num": 2},
    ),
    "music-avqa": (
        {"avqa-test.json": json.dumps(MUSIC)}, {"pred.json": json.dumps([qa(11, "Two."), qa(12, "")])},
        ["11", "12"], (0, 0, 1), {"exact/accuracy": 0.5, "exact/accuracy/Audio-Visual/Counting": 1.0},
    ),
    "activitynet-qa": (
        {"test_q.json": json.dumps(TEST_Q), "test_a.json": json.dumps(TEST_A)},
        {"pred.json": json.dumps([{"video_name": "q1", "Q": "who ran", "A": "the Dog", "pred": "dog"},
                                  {"video_name": "q1", "Q": "is it day", "A": "yes", "pred": "no"}])},
        ["v_q1_0", "v_q1_1"], (0, 0, 0), {"exact/accuracy": 0.5, "accuracy": 0.0, "score": 2.0},
    ),
    "msvd-qa": (
        {"test_qa.json": json.dumps(TEST_QA)}, {"pred.jsonl": lines([qa(5, "dog"), qa(7, "x")])},
        ["5", "6"], (1, 1, 0), {"exact/accuracy": 0.5, "accuracy": 0.5, "score": 2.5},
    ),
    "msrvtt-qa": (
        {"test_qa.json": json.dumps(TEST_QA)}, {"pred.json": json.dumps([qa(6, "two"), qa(5, "dog")])},
        ["5", "6"], (0, 0, 0), {"exact/accuracy": 1.0, "accuracy": 1.0},
    ),
    "video-chatgpt": (
        {"generic_qa.json": json.dumps(GENERIC)},
        {"generic_pred.json": json.dumps([GENERIC[0] | {"pred": "a dog"}])},
        ["generic_0", "generic_1"], (1, 0, 0),
        {"correctness/score": 2.5, "detail/score": 2.5, "mean": 2.5},
    ),
    "video-mme": (
        {"template.json": json.dumps(MME)}, {"results.json": json.dumps(MME_PRED)},
        ["001-1", "001-2", "002-1"], (1, 0, 1),
        {"accuracy": 1 / 3, "accuracy/length/short": 0.5, "macro_accuracy/task": 0.25},
    ),
    "mlvu": (
        {"1_plotQA.json": json.dumps(MLVU[:1]), "2_ego.json": json.dumps(MLVU[1:])},
        {"test_res.json": json.dumps([{"question_id": "plotQA_0", "question_type": "plotQA", "option": "B"},
                                      {"question_id": "ego_0", "question_type": "ego", "option": "B"}])},
        ["plotQA_0", "ego_0"], (0, 0, 0), {"accuracy": 0.5, "macro_accuracy/task": 0.5},
    ),
    "lvbench": (
        {"video_info.meta.jsonl": lines(LVBENCH)},
        {"answers.json": json.dumps({"1": "B", "2": "(B)", "9": "A"})},
        ["1", "2"], (0, 1, 0),
        {"accuracy": 0.5, "accuracy/task/reasoning": 0.5, "accuracy/task/summarization": 0.0},
    ),
    "longvideobench": (
        {"lvb_val.json": json.dumps(LONGVIDEO)},
        {"answers.json": json.dumps({"lv_0": 2, "lw_0": "A"}, indent=1)},
        ["lv_0", "lw_0"], (0, 0, 0), {"accuracy": 1.0, "accuracy/length/15": 1.0, "accuracy/task/T3E": 1.0},
    ),
    "needle": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": drawn_answers("needle", NEEDLES, ["when_seen"])},
        [f"needle-5min-0-{i}" for i in range(20)], (20 - NUM_SEEN, 1, 0),
        {"recall": 0.25, "recall/kind/video": 1.0, "recall/kind/audio": 0.0, "recall/depth/0.2": 0.25,
         "recall/kind,minutes/video,5": 1.0, "num/minutes/5": 20},
    ),
    "synthetic_places": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": drawn_answers("synthetic_places", PLACES, ["letter"])},
        [f"synthetic_places-5min-0-{i}" for i in range(len(PLACES))], (len(PLACES) - NUM_LETTERS, 1, 0),
        {"score/kind/letter": 1.0, "score/kind/where": 0.0, "num/kind/letter": NUM_LETTERS},
    ),
    "synthetic_places_heard": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": drawn_answers("synthetic_places_heard", HEARD, ["when_heard"])},
        [f"synthetic_places_heard-5min-0-{i}" for i in range(len(HEARD))], (len(PLACES), 1, 0),
        {"score/kind/when_heard": 1.0, "score/kind/letter": 0.0,
         "num/kind/when_heard": len(HEARD) - len(PLACES)},
    ),
    "synthetic_qa": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": drawn_answers("synthetic_qa", ASKED, ["when_seen", "when_heard", "binding"], "when?")},
        [f"synthetic_qa-5min-0-{i}" for i in range(len(ASKED))], (len(ASKED) - SPANS, 1, SPANS),
        {"score": 0.0, "score/kind/when_seen": 0.0, "error_s": None},
    ),
    "synthetic_whole": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": drawn_answers("synthetic_whole", WHOLE, ["never"])},
        [f"synthetic_whole-5min-0-{i}" for i in range(len(WHOLE))], (len(WHOLE) - NUM_NEVER, 1, 0),
        {"score/kind/never": 1.0, "score/kind/count": 0.0, "num/kind/never": NUM_NEVER},
    ),
    "synthetic_events": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": lines([{"id": "synthetic_events-5min-0-0", "answer": answer_of(EVENTS[::2])},
                           {"id": "x", "answer": "?"}])},
        ["synthetic_events-5min-0-0"], (0, 1, 0),
        {"precision": 1.0, "recall": len(EVENTS[::2]) / len(EVENTS), "precision/minutes/5": 1.0,
         "F1": 2 * len(EVENTS[::2]) / (len(EVENTS) + len(EVENTS[::2])), "num_true": len(EVENTS)},
    ),
    "synthetic_alerts": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": lines([
            *({"question_id": f"synthetic_alerts-5min-0-{i}"} | played(moments)
              for i, moments in enumerate(ALERTS) if i % 2 == 0),
            {"question_id": "x"} | played(()),
        ])},
        [f"synthetic_alerts-5min-0-{i}" for i in range(len(ALERTS))], (len(ALERTS) // 2, 1, 0),
        {"precision": 1.0, "recall": sum(map(len, ALERTS[::2])) / sum(map(len, ALERTS)), "delay_s": 1.0,
         "alarms_per_hour": 0.0, "num_due": sum(map(len, ALERTS)), "right": 0.0},
    ),
    "synthetic_requests": (
        {"run.jsonl": json.dumps(SYNTHETIC) + "\n"},
        {"p.jsonl": lines([
            *({"question_id": f"synthetic_requests-5min-0-{i}"} | answered(due)
              for i, due in enumerate(REQUESTS) if due.request.kind in ("count", "happened")),
            {"question_id": "x"} | played(()),
        ])},
        [f"synthetic_requests-5min-0-{i}" for i in range(len(REQUESTS))], (len(REQUESTS) - 5, 1, 0),
        {"f1/count": 1.0, "right/count": 1.0, "f1/happened": 1.0, "right/happened": 0.0, "f1/both": 0.0,
         "right/both": None, "num_replies": NUM_COUNTED + len(REQUESTS[-1].moments)},
    ),
}  # fmt: skip


def reply(prompt):
    """A judge that looks whether the answer is right, to the letter."""
    right, _, rest = prompt.partition("Right answer: ")[2].partition("\n")
    text = rest.partition("nswer: ")[2].partition("\n")[0]
    return "{'pred': 'yes', 'score': 5}" if text == right else "{'pred': 'no', 'score': 2}"


HOW = How(asker=Asker("a line of Python", lambda prompts: [reply(needle) for needle in prompts]))


PAPER = replace(HOW, compat="paper")


def put(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]
