"""The folders at the root: three links, one module object each, and a public package that stays reachable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *path: Path) -> str:
    """What `python -c code` prints when run in the repository's root with `path` as PYTHONPATH."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "COV"))}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_transformers_works_from_the_root():
    """`kernels/` lies where transformers looks for the public package of that name."""
    code = "from transformers import LlamaForCausalLM; print(LlamaForCausalLM.__name__)"
    assert python(code) == "LlamaForCausalLM"


def test_the_guard_loads_nothing_of_ours():
    """Without the public package, `kernels` looks like one that is too old, and brings no code of ours."""
    code = "import kernels, sys; print(hasattr(kernels, '__version__'), 'torch' in sys.modules, dir(kernels))"
    answer = python(code)
    assert answer.startswith("True False"), answer
    assert "'plan'" not in answer


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import longcompress.kernels", "pass"])
def test_the_public_package_is_found_behind_ours(tmp_path, first):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("from .part import whose\n__version__ = '9.9'\n")
    (tmp_path / "kernels" / "part.py").write_text("whose = 'public'\n")
    code = f"{first}; import kernels; from kernels.part import whose; print(whose, kernels.__version__)"
    assert python(code, tmp_path) == "public 9.9"


def test_two_checkouts_on_the_path_do_not_look_for_the_package_in_each_other_for_ever(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text((ROOT / "kernels" / "__init__.py").read_text())
    assert python("import kernels; print(kernels.__version__)", tmp_path) == "0.0.0"


@pytest.mark.parametrize("name", ["kernels", "train", "eval"])
def test_the_root_folders_are_linked_into_the_package(name):
    link = ROOT / "longcompress" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.mark.slow
def test_kernels_are_reached_by_one_name():
    code = (
        "import longcompress.kernels, sys;"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('kernels', 'train', 'eval')))"
    )
    assert python(code) == "[]"


@pytest.mark.slow
def test_kernels_import_nothing_heavy():
    code = (
        "import longcompress.kernels, sys;"
        "print([m for m in ('triton', 'transformers', 'av', 'peft', 'matplotlib') if m in sys.modules])"
    )
    assert python(code) == "[]"
