"""`longcompress train` and `doctor`."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from longcompress.cli import doctor

ROOT = Path(__file__).resolve().parents[2]


class TestTrain:
    @pytest.fixture
    def recipes(self, monkeypatch):
        """The recipes that trainings were called with, and their other arguments; nothing is trained."""
        from longcompress.train import stages
        from longcompress.train.engine import Engine
        from longcompress.train.tiny import recipe as tiny

        calls = []

        def train_tiny(out, recipe, **options):
            calls.append((recipe, options))
            return out / "model"

        def train_stage(model, recipe, out, **options):
            calls.append((recipe, options))
            return out / "model"

        monkeypatch.setattr(tiny, "train_tiny", train_tiny)
        monkeypatch.setattr(stages, "train_stage", train_stage)
        monkeypatch.setattr(Engine, "load", lambda *_: None)
        return calls

    def test_flags_are_fields_of_the_recipe(self, run, tmp_path, recipes):
        words = (
            "train",
            "boundary",
            "--out",
            tmp_path,
            "--shards",
            "a",
            "b",
            "--weights",
            "3",
            "1",
            "--lr",
            "0.5",
        )
        more = ("--engine.workers", "2", "--engine.bf16", "--questions.kinds", '{"qa": 1}', "--engine.report")
        code, out, _ = run(*words, *more, "--resume", "--json", model=False)
        assert (code, json.loads(out)) == (0, {"model": f"{tmp_path}/model"})
        recipe, options = recipes[0]
        assert (recipe.shards, recipe.weights, recipe.lr) == (["a", "b"], [3.0, 1.0], 0.5)
        assert (recipe.engine.workers, recipe.engine.bf16, recipe.engine.report) == (2, True, [])
        assert recipe.questions.kinds == {"qa": 1.0} and recipe.lora["r"] == 16  # from the file
        assert options == {"resume": True}

    def test_a_file_and_a_bool_that_is_false(self, run, tmp_path, recipes):
        (tmp_path / "mine.yaml").write_text("merge_lora: true\nsteps: 7\n")
        words = ("train", tmp_path / "mine.yaml", "--out", tmp_path, "--merge-lora", "false")
        assert run(*words, model=False)[0] == 0
        assert (recipes[0][0].steps, recipes[0][0].merge_lora) == (7, False)

    def test_the_embedded_model(self, run, tmp_path, recipes):
        words = ("train", "tiny", "--out", tmp_path, "--start", "lm", "--clips", "3", "--video.steps=7")
        assert run(*words, model=False)[0] == 0
        recipe, options = recipes[0]
        assert (recipe.clips, recipe.video.steps, options) == (3, 7, {"start": "lm"})
        assert recipe.mixes  # from the file
        code, _, err = run("train", "tiny", "--out", tmp_path, "--resume", model=False)
        assert (code, "it has --start alone" in err) == (2, True)
        code, _, err = run("train", "align", "--out", tmp_path, "--start", "lm", model=False)
        assert (code, "--start is for the embedded model" in err) == (2, True)

    def test_wrong_recipes(self, run, tmp_path):
        (tmp_path / "a.yaml").write_text("lrr: 1\n")
        (tmp_path / "b.yaml").write_text("{")
        for words, code, message in (
            (["nope"], 2, "no recipe 'nope'; give one of align, boundary"),
            (["./nope.yaml"], 3, "no recipe nope.yaml"),
            ([tmp_path / "a.yaml"], 2, "unknown key 'lrr'"),
            ([tmp_path / "b.yaml"], 2, "must be YAML or JSON"),
            (["align", "--lrr", "1"], 2, "unrecognized arguments: --lrr 1; did you mean --lr?"),
            (["align", "--lr", "fast"], 2, "--lr must be float, got fast; see longcompress train --help"),
            (["align", "--engine.workers", "-1"], 2, "workers >= 0"),
        ):
            got, _, err = run("train", *words, "--out", tmp_path, model=False)
            assert (got, message in err) == (code, True), err


class TestDoctor:
    def test_table_and_json(self, run):
        code, out, _ = run("doctor", model=False)
        assert code == 0, out
        assert "FFmpeg" in out
        code, out, _ = run("doctor", "--json", model=False)
        report = {c["name"]: c for c in json.loads(out)["checks"]}
        assert code == 0
        for name in ("python", "torch", "video", "decoder"):
            assert report[name]["status"] == "ok"
        assert report["training attention"]["state"].startswith(("chunked in", "flex in", "flash in"))
        assert {"gpu", "triton", "matplotlib (extra 'plot')"} <= set(report)

    def test_what_is_missing_is_told_with_the_command(self, run, monkeypatch):
        monkeypatch.setattr(doctor, "NEEDED", [*doctor.NEEDED, "no-such-package>=1.2"])
        monkeypatch.setitem(doctor.EXTRAS, "plot", ["matplotlib>=99"])
        code, out, _ = run("doctor", "--json", model=False)
        report = {c["name"]: c for c in json.loads(out)["checks"]}
        assert code == 1
        assert report["no-such-package"]["remedy"] == 'pip install "no-such-package>=1.2"'
        assert report["matplotlib (extra 'plot')"]["status"] == "note"
        assert report["matplotlib (extra 'plot')"]["remedy"] == 'pip install "matplotlib>=99"'

    def test_a_broken_package_is_told(self, monkeypatch):
        for name in ("av", "torch"):
            monkeypatch.setitem(sys.modules, name, None)
        checks = {c.name: c for c in doctor.examine()}
        assert checks["decoder"].remedy == "pip install --force-reinstall av"
        assert checks["gpu"].remedy == "pip install --force-reinstall torch"

    def test_the_attention_of_training_is_told(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("longcompress.llm.attention.find_spec", lambda name: name == "triton")
        for flash, start in ((True, "flash in bfloat16"), (False, "flex in bfloat16, flex in")):
            monkeypatch.setattr(
                "longcompress.llm.attention.is_flash_attn_2_available", lambda flash=flash: flash
            )
            status, state, remedy = doctor._attention()
            assert state.startswith(start) and (status == "ok") == flash
            assert ("flash-attn" in remedy) == (status == "note")

    @pytest.mark.parametrize(
        ("installed", "spec", "status"),
        [
            ("2.13.0+cpu", ">=2.8", "ok"),
            ("2.7.1", ">=2.8", "wrong"),
            ("5.23.0", ">=5.18,<6", "ok"),
            ("6.0", ">=5.18,<6", "wrong"),
            ("3.1rc1", ">=3", "ok"),
        ],
    )
    def test_versions(self, installed, spec, status, monkeypatch):
        monkeypatch.setattr(doctor, "version", lambda _: installed)
        monkeypatch.setattr(doctor, "NEEDED", [f"thing{spec}"])
        (check,) = [c for c in doctor.examine() if c.name == "thing"]
        assert check.status == status

    def test_the_packages_are_those_of_setup(self):
        tree = ast.parse((ROOT / "setup.py").read_text())
        lists = {n.targets[0].id: ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign)}
        call = next(n.value for n in tree.body if isinstance(n, ast.Expr))
        needed = next(ast.literal_eval(k.value) for k in call.keywords if k.arg == "install_requires")

        def split(specs):
            return {re.sub(r"\[\w+\]", "", s) for s in specs}

        assert split(needed) == set(doctor.NEEDED)
        for extra, packages in doctor.EXTRAS.items():
            assert split(lists[extra]) == set(packages)
