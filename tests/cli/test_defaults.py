"""Defaults from a file and the environment; completion; how much is spoken."""

import logging
import subprocess
import warnings

import pytest
import yaml

from longcompress.cli import common
from longcompress.cli.defaults import with_defaults
from longcompress.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_a_flag_comes_before_the_environment_and_that_before_the_file(home, monkeypatch):
    values = {"model": "owner/a", "budget": 300, "protocols": ["file", "https"]}
    (home / "longcompress.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("LONGCOMPRESS_BUDGET", "200")
    options = with_defaults(common.VideoOptions)
    assert (options.model, options.budget, options.protocols) == ("owner/a", 200, ["file", "https"])
    assert with_defaults(common.ModelOptions).model == "owner/a"
    other = home / "other.yaml"
    other.write_text("device: cpu\n")
    monkeypatch.setenv("LONGCOMPRESS_DEFAULTS", str(other))
    options = with_defaults(common.VideoOptions)
    assert (options.model, options.budget, options.device) == ("tiny", 200, "cpu")


def test_commands_take_them(home, monkeypatch, capsys):
    monkeypatch.setenv("LONGCOMPRESS_BUDGET", "77")
    assert main(["info", "--help"]) == 0
    assert "[77]" in capsys.readouterr().out
    monkeypatch.setenv("LONGCOMPRESS_MODEL", "nowhere")
    (home / "m.lcm").write_bytes(b"x")
    assert main(["ask", str(home / "m.lcm"), "What?"]) == 2  # no complaint of a budget for a memory file
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("modle: tiny\n", {}, "longcompress.yaml: defaults are model, .*, got modle"),
        ("budget: many\n", {}, "defaults of .*longcompress.yaml: budget: .*many"),
        ("", {"LONGCOMPRESS_BUDGET": "few"}, "defaults of LONGCOMPRESS_BUDGET: budget: .*few"),
        ("", {"LONGCOMPRESS_DEFAULTS": "gone.yaml"}, "no file gone.yaml"),
    ],
)
def test_what_is_wrong_with_them_is_told(home, monkeypatch, text, environment, message):
    if text:
        (home / "longcompress.yaml").write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        with_defaults(common.VideoOptions)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "compress eval completion"),
        (["eval"], "run score merge-quality"),
        (["compress"], "--out --budget --start"),
        (["compress", "a.mp4"], "--out --budget --start"),
        (["train", "align"], "--lr --overfit-check"),
    ],
)
def test_commands_and_flags_are_completed(words, expected, capsys):
    assert main(["--complete", *words]) == 0
    assert set(expected.split()) <= set(capsys.readouterr().out.split())


def test_bash_completes_with_what_is_printed(home, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    lines = [
        "longcompress() { test \"$*\" = '--complete eval' && echo run score compare; }", script,
        "COMP_WORDS=(longcompress eval sc) COMP_CWORD=2", "_longcompress", 'echo "${COMPREPLY[@]}"',
    ]  # fmt: skip
    assert subprocess.check_output(["bash", "-c", "\n".join(lines)], text=True).strip() == "score"


def test_shells_are_named(capsys):
    for shell, sign in (("zsh", "bashcompinit"), ("fish", "complete -c longcompress")):
        assert main(["completion", shell]) == 0
        assert sign in capsys.readouterr().out
    assert main(["completion", "dos"]) == 2
    assert "must be one of bash, zsh, fish" in capsys.readouterr().err


def test_quiet_says_errors_only_and_verbose_what_libraries_say(monkeypatch, capsys):
    from longcompress.cli import main as module

    def talk() -> None:
        """Talk."""
        warnings.warn("odd", stacklevel=1)
        common.complain("note", "by the way")
        common.complain("error", "bad")
        logging.getLogger("transformers").info("loading")

    monkeypatch.setitem(module.COMMANDS.commands, "talk", talk)
    assert main(["talk"]) == 0
    spoken = capsys.readouterr().err
    assert "odd" in spoken and "by the way" in spoken and "bad" in spoken
    assert main(["-q", "talk"]) == 0
    assert capsys.readouterr().err == "longcompress: error: bad\n"
    assert logging.getLogger("transformers").level == logging.ERROR
    assert main(["talk", "--verbose"]) == 0
    assert logging.getLogger("transformers").level == logging.INFO
    assert not common.QUIET.get()


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_the_version_is_asked_for_in_three_ways(word, capsys):
    assert main([word]) == 0
    assert capsys.readouterr().out.startswith("longcompress 0")


def test_help_is_a_word_too(capsys):
    assert main(["help"]) == 0
    assert "usage: longcompress COMMAND" in capsys.readouterr().out
