"""The command line as such: what is wrong, help, lists of commands, fields and models."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import longcompress as lc
from longcompress.cli import main as cli
from longcompress.cli.common import Failed
from longcompress.cli.parser import Group, documented, find

import ranks

ROOT = Path(__file__).resolve().parents[2]
WRONG = [
    (2, ["foo"], "no command 'foo'; longcompress has compress, ask"),
    (2, ["eval"], "a command is missing; longcompress eval has run, score"),
    (2, ["eval", "foo"], "no command 'foo'; longcompress eval has run, score"),
    (2, ["compress"], "needs FILES and --out; see longcompress compress --help"),
    (2, ["info", "HERE/video.mp4", "--media.rate_fps", "fast"], "--media.rate_fps must be float, got fast"),
    (
        2,
        ["info", "HERE/video.mp4", "--media.decode", "best"],
        "--media.decode must be one of exact, nonref, keyframe, got best; see",
    ),
    (2, ["info", "HERE/video.mp4", "--rate-fps", "8"], "did you mean --media.rate_fps?"),
    (2, ["info", "HERE/video.mp4", "--media.size_px", "8"], "changes must be fields of"),
    (2, ["info", "HERE/video.mp4", "--media.rate_fps", "0"], "rate_fps must be > 0, got 0"),
    (3, ["info", "HERE/video.mp4", "--config", "none.yaml"], "config: no file none.yaml"),
    (2, ["info", "HERE/video.mp4", "--config", "HERE/wrong.yaml"], "media.rate_fps must be float, got fast"),
    (2, ["info", "HERE/video.mp4", "--budget", "2"], "budget must be at least"),
    (2, ["info", "HERE/video.mp4", "--device", "cuda:77"], "--device cuda:77 can't be used"),
    (2, ["compress", "HERE/video.mp4", "--out", "HERE/x.mp4"], "--out must end in .lcm"),
    (2, ["compress", "HERE/video.mp4", "--out", "HERE/x.lcm", "--budget", "2"], "budget must be at least"),
    (
        2,
        ["compress", "HERE/video.mp4", "a.mp4", "--out", "HERE/x.lcm"],
        "--out must be a folder for 2 videos",
    ),
    (2, ["ask", "HERE/video.lcm", "what", "--budget", "9"], "--budget is for videos; the memory file"),
    (3, ["info", "HERE/none.mp4"], "no file "),
    (3, ["info", "HERE/model/config.json"], "config.json"),
    (3, ["info", "https://example.org/a.mp4"], "protocols must have 'https'"),
    (3, ["ask", "HERE/none.lcm", "what"], "no memory file"),
    (3, ["ask", "HERE/broken.lcm", "what"], "is not a whole memory file"),
    (4, ["compress", "HERE/video.mp4", "--out", "HERE/none/x.lcm"], "is no folder that can be written into"),
    (
        4,
        ["compress", "HERE/video.mp4", "--out", "HERE/video.mp4/x.lcm"],
        "is no folder that can be written into",
    ),
    (4, ["synthesize", "--out", "HERE/video.mp4/x"], "can't be written"),
]


@pytest.mark.parametrize(("code", "words", "message"), WRONG, ids=[" ".join(w) for _, w, _ in WRONG])
def test_what_is_wrong_is_one_line_and_a_code(run, here, code, words, message):
    (here / "wrong.yaml").write_text("media: {rate_fps: fast}")
    (here / "broken.lcm").write_bytes((here / "video.lcm").read_bytes()[:-9])
    got, out, err = run(
        *words, model=words[0] in ("info", "ask") or (words[0] == "compress" and len(words) > 1)
    )
    assert (got, out) == (code, ""), err
    assert message in err
    assert err.startswith("longcompress: error: ")
    assert err.count("\n") == 1


def test_no_command_grows_by_a_kernel_for_each_length(run, monkeypatch):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")  # to be set back behind the test
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    run("models", model=False)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


def test_a_model_that_is_not_there(run):
    code, _, err = run("info", "HERE/video.mp4", "--model", "none", model=False)
    assert code == 2
    assert "name must be one of" in err
    assert run("info", "HERE/video.mp4", "--model", "./none", model=False)[0] == 3


def test_a_package_that_is_not_there(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("plot", "HERE/video.lcm", "--out", "HERE")
    assert code == 2
    assert 'pip install "matplotlib>=3.8"' in err


def test_debug_shows_where(run):
    with pytest.raises(Failed, match="no file"):
        run("info", "none.mp4", "--debug")


def test_warnings_are_one_line_each(run, monkeypatch):
    def doctor() -> None:
        """Warns."""
        warnings.warn("something\nodd", stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS.commands, "doctor", doctor)
    code, out, err = run("doctor", model=False)
    assert (code, out, err) == (0, "", "longcompress: warning: something odd\n")


def test_a_warning_about_every_file_of_many_ends_soon(run, monkeypatch):
    def doctor() -> None:
        """Warns of many files, and of two others."""
        for number in range(50):
            warnings.warn(f"v{number}.mp4: no audio track", stacklevel=1)
        warnings.warn("v7.mp4: broken at 3 s", stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS.commands, "doctor", doctor)
    lines = run("doctor", model=False)[2].splitlines()
    want = [f"longcompress: warning: v{number}.mp4: no audio track" for number in range(20)]
    want[-1] += "; more that end so are not printed"
    assert lines == [*want, "longcompress: warning: v7.mp4: broken at 3 s"]


PIPED = """
import os, sys
from longcompress.cli.main import main
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_reader_that_had_enough_is_no_error(here, tmp_path):
    """As in `longcompress info ... | true`, in a process of its own: no bar, no warning, no trace either."""
    (tmp_path / "piped.py").write_text(PIPED)
    words = ["info", here / "video.mp4", "--model", here / "model"]
    assert ranks.run(tmp_path / "piped.py", *words, out=tmp_path / "log") == ([0], "")


def commands_of(group, *words):
    """The words of all commands."""
    for name, command in group.commands.items():
        yield from commands_of(command, *words, name) if isinstance(command, Group) else [(*words, name)]


@pytest.mark.parametrize("words", commands_of(cli.COMMANDS), ids=" ".join)
def test_help_has_a_short_usage_and_every_note(words, capsys):
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: longcompress ") and text.splitlines()[1] == ""
    out = " ".join(text.split())
    for note in documented(find(words, cli.COMMANDS)[1]).values():
        assert note.replace("%%", "%").split(".")[0].split(";")[0][:30] in out
    if "--out OUT" in text.splitlines()[0]:  # what is needed comes first
        assert re.findall(r"^  (--[\w-]+)", text, re.M)[0] == "--out"


def test_groups_list_their_commands(capsys):
    assert cli.main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "\n  kernels " in out and "\n  throughput " in out and "\n  report " in out


def test_config_lists_the_fields_that_can_change(run):
    code, out, _ = run("config", model=False)
    assert code == 0
    for field in ("--media.rate_fps", "--merge.schedule", "--segments.length_s", "--budget.allocation"):
        assert field in out
    assert "size_px" not in out


def test_models_lists_the_families(run):
    code, out, _ = run("models", model=False)
    assert code == 0 and "qwen3_vl" in out and "positions" in out
    code, out, _ = run("models", "--json", model=False)
    family = next(f for f in json.loads(out) if f["model_type"] == "qwen3_omni_moe_thinker")
    assert code == 0
    assert family["model_class"] == "Qwen3OmniMoeThinkerForConditionalGeneration"
    assert (family["time"], family["axes"], family["hears"], family["deepstack"]) == ("positions", 3, True, 3)


def test_nothing_to_do_is_help(capsys):
    assert cli.main([]) == 0
    assert "Exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_the_module_is_the_command_and_starts_light(word):
    """--help and --version import neither torch nor transformers."""
    words = [sys.executable, "-X", "importtime", "-m", "longcompress", word]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    if word == "--version":
        assert done.stdout == f"longcompress {lc.__version__}\n"
    else:
        assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS.commands)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "jsonargparse" in imported
    assert not {"torch", "transformers", "av", "matplotlib"} & imported
