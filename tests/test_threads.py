"""Small work has one thread, large work all; afterwards there are as many as before, whatever happened."""

import threading

import pytest
import torch
from torch import nn

from longcompress import threads
from longcompress.compression import state
from longcompress.threads import single_thread, threads_for
from longcompress.videos import compress

from clips import make_clip
from models import model as make_model


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("limit", "expected"), [(threads.SMALL_MATRIX, 1), (0, 3)])
def test_small_encoders_and_language_models_have_one_thread_and_large_ones_all(monkeypatch, limit, expected):
    monkeypatch.setattr(threads, "SMALL_MATRIX", limit)
    model = make_model()
    seen: dict[str, set[int]] = {"video": set(), "audio": set(), "lm": set(), "merge": set()}

    def note(name):
        return lambda *_: seen[name].add(torch.get_num_threads())

    for name in ("video", "audio"):
        for child in model.encoders[name].children():
            child.register_forward_pre_hook(note(name))
    model.llm.lm.register_forward_pre_hook(note("lm"))
    merge_segment = state.merge_segment
    monkeypatch.setattr(state, "merge_segment", lambda *a: (note("merge")(), merge_segment(*a))[1])
    memory = compress(model, list(make_clip(8)), budget=64, progress=False)
    memory.ask("What is seen?", max_new_tokens=1)
    model.llm.answer_each([memory.video], ["What is seen?"], max_new_tokens=1)
    assert seen == {"video": {expected}, "audio": {expected}, "lm": {expected}, "merge": {1}}
    assert torch.get_num_threads() == 3


def test_the_typical_matrix_decides_and_what_has_none_is_left_alone():
    def inside(module):
        with threads_for(module):
            return torch.get_num_threads()

    def stack(*widths):
        return nn.Sequential(*(nn.Linear(width, width) for width in widths))

    assert [inside(stack(64)), inside(stack(512))] == [1, 3]
    assert [inside(stack(64, 64, 512)), inside(stack(64, 512, 512))] == [1, 3]
    assert inside(nn.Dropout()) == 3 and inside(lambda x: x) == 3


def test_guards_nest_and_end_with_an_error():
    with pytest.raises(KeyError), single_thread():
        with single_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 3


def test_guards_of_two_threads_that_overlap_leave_the_number_of_both():
    entered, leave, after = threading.Event(), threading.Event(), []

    def other():
        with single_thread():
            entered.set()
            assert leave.wait(60)
        after.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    with single_thread():
        thread.start()
        assert entered.wait(60)
    assert torch.get_num_threads() == 3
    leave.set()
    thread.join()
    assert after == [3] and torch.get_num_threads() == 3
