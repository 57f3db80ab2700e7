"""The real evaluator of lmms-eval on tasks written here, answered by the embedded model.

Needs an environment of its own: `make test-lmms`.
"""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"  # before datasets reads them

from lmms_eval import evaluator
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

import longcompress as lc
from longcompress.eval.lmms.model import LongCompressModel
from longcompress.llm import Example
from longcompress.media import reader as media
from longcompress.synthetic.questions import ask
from longcompress.synthetic.scenes import OBJECTS, make_scene, write_video
from longcompress.videos import compress

from stock_folders import save

BUDGET = 96
ARGS = f"pretrained=tiny,budget={BUDGET},device=cpu"
FUNCTIONS = """
from PIL import Image

def video(doc):
    return [doc["video"]]

def frames(doc):
    return [Image.open(path) for path in doc["frames"]]

def nothing(doc):
    return []

def same(doc, results):
    return {"same": float(results[0].strip() == doc["answer"])}
"""
GENERATE = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/{data}.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function functions.{visual}
doc_to_text: "question"
doc_to_target: "answer"
process_results: !function functions.same
generation_kwargs:
  max_new_tokens: 24
  until: ["\\n\\n"]
metric_list:
  - metric: same
    aggregation: mean
    higher_is_better: true
"""
CHOOSE = """
task: choose
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/choices.jsonl
test_split: test
output_type: multiple_choice
doc_to_visual: !function functions.video
doc_to_text: "question"
doc_to_target: "right"
doc_to_choice: "choices"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks, and three videos with their questions, two or more of each video one behind another."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, data, visual in (
        ("videos", "videos", "video"),
        ("alone", "videos", "nothing"),
        ("album", "album", "frames"),
    ):
        text = GENERATE.format(name=name, data=data, visual=visual, folder=folder)
        (folder / f"{name}.yaml").write_text(text)
    (folder / "choose.yaml").write_text(CHOOSE.format(folder=folder))
    videos, choices, album = [], [], []
    for number in range(3):
        scene = make_scene(10_000_700 + number, 40.0)
        video = str(write_video(scene, folder / f"video{number}.mp4"))
        generator = np.random.default_rng(number)
        kinds = ("when_seen", "when_heard", "count", "between")
        asked = ask(scene.events, scene.duration_s, num=4, generator=generator, kinds=kinds)
        videos += [{"video": video, "question": q.text, "answer": q.answer} for q in asked]
        for q in asked:
            if q.kind.startswith("when"):
                low, high = (int(part) for part in q.answer.split(" to "))
                wrong = [f"{low + d} to {high + d}" for d in (-20, 20) if low + d >= 0]
                some = [q.answer, *wrong]
                generator.shuffle(some)
                reference = some.index(q.answer)
                choices.append({"video": video, "question": q.text, "choices": some, "right": reference})
    from PIL import Image

    for number, colour in enumerate([(200, 30, 30), (30, 30, 200)]):
        Image.new("RGB", (80 + 20 * number, 64), colour).save(folder / f"{number}.png")
    album.append({
        "frames": [str(folder / f"{number}.png") for number in range(2)],
        "question": f"When does the {OBJECTS[0]} appear?", "answer": "0 to 0",
    })  # fmt: skip
    for name, rows in (("videos", videos), ("choices", choices), ("album", album)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tiny():
    return lc.load("tiny", device="cpu")


def evaluated(folder, tasks, args=ARGS, **options):
    torch.set_num_threads(1)
    return evaluator.simple_evaluate(
        "longcompress", args, tasks=tasks, task_manager=TaskManager(include_path=str(folder)),
        log_samples=True, bootstrap_iters=0, **options,
    )  # fmt: skip


def answers_of(samples):
    """The answers; in a log each is text, in a result a list of one."""
    results = [sample["filtered_resps"] for sample in sorted(samples, key=lambda s: s["doc_id"])]
    return [line if isinstance(line, str) else line[0] for line in results]


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_the_entry_point_gives_our_class():
    assert get_model("longcompress") is LongCompressModel


@pytest.fixture(scope="module")
def videos(folder):
    """The evaluator's result on videos, and how often each was opened."""
    opened = Counter()
    read = media.read

    def counting(source, *args, **options):
        opened[str(source)] += 1
        return read(source, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "read", counting)
        return evaluated(folder, ["videos"]), opened


def test_answers_are_those_of_the_model_and_the_score_is_their_mean(folder, videos, tiny):
    results, samples = videos[0]["results"], videos[0]["samples"]["videos"]
    want, right = [], []
    for video in dict.fromkeys(row["video"] for row in rows(folder, "videos")):
        memory = compress(tiny, video, budget=BUDGET, progress=False)
        assert memory.num_tokens == BUDGET
        for row in rows(folder, "videos"):
            if row["video"] == video:
                want.append(memory.ask(row["question"], max_new_tokens=24).text)
                right.append(want[-1] == row["answer"])
    assert answers_of(samples) == want
    assert results["videos"]["same,none"] == pytest.approx(sum(right) / len(right))
    assert sum(right) > 0  # the embedded model knows this world


def test_a_video_is_compressed_once_for_all_its_questions(folder, videos):
    assert videos[1] == dict.fromkeys({row["video"] for row in rows(folder, "videos")}, 1)


def test_a_second_run_on_the_command_line_is_the_same(folder, videos, tmp_path):
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "longcompress", "--model_args", ARGS,
        "--tasks", "videos", "--include_path", str(folder), "--log_samples", "--output_path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.rglob("*_samples_videos.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert answers_of(lines) == answers_of(videos[0]["samples"]["videos"])
    assert sum(line["same"] for line in lines) / len(lines) == videos[0]["results"]["videos"]["same,none"]
    assert {count["input_tokens"] for line in lines for count in line["token_counts"]} == {BUDGET}


def test_questions_asked_together_have_the_answers_of_each(folder, videos):
    assert answers_of(evaluated(folder, ["videos"], batch_size=4)["samples"]["videos"]) == answers_of(
        videos[0]["samples"]["videos"]
    )


def test_a_choice_is_the_one_of_least_loss(folder, tiny):
    results = evaluated(folder, ["choose"])
    samples = sorted(results["samples"]["choose"], key=lambda s: s["doc_id"])
    right = []
    for sample, row in zip(samples, rows(folder, "choices"), strict=True):
        video = compress(tiny, row["video"], budget=BUDGET, progress=False).video
        want = []
        for choice in row["choices"]:
            with torch.no_grad():
                batch = tiny.llm.collate([Example(video, [(row["question"], choice)])])
                want.append(float(tiny.llm(**batch)["loss"]))
        got = [response[0][0] for response in sample["resps"]]
        assert [float(loss) for loss in got] == pytest.approx(want, rel=1e-4)
        right.append(int(np.argmin(want)) == row["right"])
    assert results["results"]["choose"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert sum(right) > len(right) / 2


def test_frames_and_no_visuals_are_asked_too(folder, tiny):
    results = evaluated(folder, ["album", "alone"])["samples"]
    assert len(answers_of(results["album"])) == 1 and len(answers_of(results["alone"])) == len(
        rows(folder, "videos")
    )
    adapter = LongCompressModel("tiny", BUDGET, device="cpu")
    from PIL import Image

    row = rows(folder, "album")[0]
    frames = adapter._compressed([Image.open(path) for path in row["frames"]])
    times = frames.streams["video"].time_s
    assert frames.duration_s == 2.0 and set(frames.streams) == {"video"}
    assert int((times < 1).sum()) == int((times > 1).sum()) == tiny.video.patches  # one behind the other
    assert answers_of(results["album"]) == [frames.ask(row["question"], max_new_tokens=24).text]
    assert adapter._compressed(row["frames"][:1]).duration_s == 1.0  # a frame's path is read as well
    nothing, questions = adapter._compressed([]), [row["question"] for row in rows(folder, "videos")]
    assert nothing.num_tokens == 0
    assert answers_of(results["alone"]) == [nothing.ask(q, max_new_tokens=24).text for q in questions]


def test_videos_and_sounds_lie_one_behind_another(folder):
    adapter = LongCompressModel("tiny", 400, device="cpu")
    first, second = (str(folder / f"video{number}.mp4") for number in range(2))
    both = adapter._compressed([first, {"path": second, "video_start": 5.0, "video_end": 15.0}])
    assert both.duration_s == pytest.approx(50.0, abs=0.2)
    audio = {"array": np.random.default_rng(0).standard_normal(24_000) / 10, "sampling_rate": 8000}
    heard = adapter._compressed([audio])
    assert set(heard.streams) == {"audio"} and heard.duration_s == pytest.approx(3.0, abs=0.05)
    seen = LongCompressModel("tiny", 400, "video", device="cpu")._compressed([first])
    assert set(seen.streams) == {"video"}
    with pytest.raises(ValueError, match="visuals have no video that could be read"):
        LongCompressModel("tiny", 400, "video", device="cpu")._compressed([audio])
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        adapter._compressed([str(folder / "none.mp4")])
    with pytest.raises(ValueError, match=r"video_end must both be given or left out, got 5\.0 and None"):
        adapter._compressed([{"path": second, "video_start": 5.0}])
    with pytest.raises(TypeError, match="a visual must be the path of a video or frame"):
        adapter._compressed([3])


def test_answers_end_where_the_task_says():
    adapter = LongCompressModel("tiny", BUDGET, device="cpu", max_new_tokens=7)
    options = {"until": "\n", "max_new_tokens": 40, "temperature": 0, "top_p": None, "num_beams": 1}
    assert adapter._how(options) == (["\n"], {"do_sample": False, "num_beams": 1, "max_new_tokens": 7})
    adapter.max_new_tokens = 0
    assert adapter._how(options)[1]["max_new_tokens"] == 0  # as it is said, not the task's 40
    adapter.max_new_tokens = 7
    with pytest.warns(UserWarning, match=r"\['colour'\] are not heeded"):
        adapter._how({"colour": 1})
    adapter.task_dict = {"t": {"test": [{}]}}
    plain = ("When does the red ball appear?", {"max_new_tokens": 40}, lambda _: [], 0, "t", "test")
    cut = (plain[0], {"max_new_tokens": 40, "until": [" to"]}, *plain[2:])
    about = {"task": "t", "doc_id": 0, "repeats": 1}
    requests = [Instance("generate_until", arguments, 0, about) for arguments in (plain, cut)]
    whole, part = (item.text for item in adapter.generate_until(requests))
    assert " to" in whole and part == whole.partition(" to")[0].strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": "speech"}, "streams must be 'both' or of video, audio"),
        ({"batch_size": "auto"}, "batch_size must be a whole number"),
        ({"budget": 1}, "budget"),
    ],
)
def test_what_cannot_be_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        LongCompressModel("tiny", device="cpu", **options)


def test_what_tasks_may_not_ask():
    adapter = LongCompressModel("tiny", device="cpu")
    with pytest.raises(NotImplementedError, match="tasks of several rounds"):
        adapter.generate_until_multi_round([])
    bare = Instance("loglikelihood", ("", "red"), 0, {"task": "t", "doc_id": 0, "repeats": 1})
    with pytest.raises(ValueError, match="leave that metric out"):
        adapter.loglikelihood([bare])


def test_a_stock_model_answers_and_chooses(folder, tmp_path):
    model = lc.load(save("qwen3_vl", tmp_path / "qwen3_vl"), device="cpu")
    model.change({"media": {"size_px": 32}})
    model.save_pretrained(tmp_path / "small", include_base=True)
    args = f"pretrained={tmp_path / 'small'},budget={BUDGET},device=cpu"
    results = evaluated(folder, ["videos", "choose", "alone"], args, limit=2)["samples"]
    row = rows(folder, "videos")[0]
    memory = compress(model, row["video"], budget=BUDGET, progress=False)
    assert answers_of(results["videos"])[0] == memory.ask(row["question"], max_new_tokens=24).text.strip()
    assert len(answers_of(results["alone"])) == len(results["choose"]) == 2
