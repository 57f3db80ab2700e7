"""One writer a file, whoever comes and goes."""

import os
import threading
import time

import pytest

from longcompress.eval.runner.run_file import alone


def test_the_second_is_refused_until_the_first_lets_go(tmp_path):
    out = tmp_path / "a.jsonl"
    with alone(out):
        assert (tmp_path / "a.jsonl.lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(
            ValueError,
            match=rf"a.jsonl is being written by another run \(process {os.getpid()}\); wait for it, or give",
        ), alone(out):  # fmt: skip
            pass
        with alone(tmp_path / "b.jsonl"):
            pass
    with alone(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_one_left_is_no_obstacle_and_an_error_lets_go(tmp_path):
    out = tmp_path / "a.jsonl"
    (tmp_path / "a.jsonl.lock").write_text("4194304\n")
    with pytest.raises(KeyError), alone(out):
        raise KeyError
    with alone(out):
        assert (tmp_path / "a.jsonl.lock").read_text() == f"{os.getpid()}\n"


def test_never_two_at_once(tmp_path):
    """Many that try at the same time, each making and taking away the file that is locked."""
    inside, num_inside, times = [], [], []

    def work():
        for _ in range(60):
            try:
                with alone(tmp_path / "a.jsonl"):
                    inside.append(1)
                    num_inside.append(len(inside))
                    time.sleep(0.0002)
                    inside.pop()
                    times.append(1)
            except ValueError:
                time.sleep(0.0001)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for line in workers:
        line.start()
    for line in workers:
        line.join()
    assert max(num_inside) == 1 and len(times) > 1 and list(tmp_path.iterdir()) == []
