"""Every script of examples/ runs from end to end, and its result holds what its docstring promises."""

from pathlib import Path
from types import ModuleType

import pytest

from longcompress.compression.baselines import METHODS
from longcompress.synthetic.scenes import OBJECTS

import helpers

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples"
TESTED = {"compress_a_video", "live_stream", "train_lora", "compare_baselines", "custom_encoder"}
TESTED |= {
    "train_webdataset",
    "many_workers",
    "energon",
}  # the last two in test_ray_faults.py, test_energon.py


def example(name: str) -> ModuleType:
    return helpers.program(FOLDER / f"{name}.py")


def test_every_example_has_a_test():
    assert {path.stem for path in FOLDER.glob("*.py")} == TESTED


def test_a_saved_memory_answers_alike(tmp_path):
    before, after = example("compress_a_video").main(out=tmp_path, seconds=40.0)
    assert before and before == after
    assert (tmp_path / "video.srt").read_text().startswith("1\n00:00:")


def test_a_restored_session_answers_alike():
    live, restored = example("live_stream").main(seconds=40.0)
    assert live and live == restored


def test_a_custom_encoder_keeps_the_budget_and_all_patches():
    memory = example("custom_encoder").main(seconds=30.0, budget=50)
    assert memory.num_tokens == 50
    assert float(memory.streams["video"].size.sum()) == 30 * 16


@pytest.mark.slow
def test_baselines_are_compared_at_equal_tokens():
    scores = example("compare_baselines").main(seconds=60.0, budget=100, num_questions=4)
    assert set(scores) == {"ours", *METHODS}
    assert all(0 <= score <= 1 for score in scores.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_videos"), [("train_lora", 16), ("train_webdataset", 40)])
def test_a_new_question_is_learned(tmp_path, name, num_videos):
    before, after, truth = example(name).main(tmp_path, num_videos, steps=40)
    assert set(after.split(", ")) <= set(OBJECTS) and not set(before.split(", ")) <= set(OBJECTS)
    assert set(after.split(", ")) & set(truth.split(", "))
