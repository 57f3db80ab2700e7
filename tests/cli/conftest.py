"""A small random model, seconds of video, and a run of a command in this process through `main`."""

import pytest
from transformers.utils import logging

from longcompress.cli import main as cli
from longcompress.synthetic import scenes

import models


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a video, a model, and a memory that knows its members; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("cli")
    scenes.write_video(scenes.make_scene(2, 12.0), folder / "video.mp4", size_px=64, rate_fps=4)
    models.model().save_pretrained(folder / "model", include_base=True)
    words = ["compress", f"{folder}/video.mp4", "--out", f"{folder}/video.lcm", "--keep-assignment"]
    assert cli.main([*words, "--model", f"{folder}/model", "--budget", "40"]) == 0
    return folder


@pytest.fixture
def run(here, capsys):
    """Runs a command with the small model: (exit code, stdout, stderr)."""

    def run(*words, model=True):
        typed = [str(w).replace("HERE", str(here)) for w in words]
        code = cli.main([*typed, "--model", f"{here}/model"] if model else typed)
        out, err = capsys.readouterr()
        return code, out, err

    logging.disable_progress_bar()
    capsys.readouterr()
    return run
