"""A file imports only from lower floors, or from files above it on its own (the table of the design)."""

import ast
import os
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Row by row, in the order of the table: a file or a whole folder, and its floor. Files of one row (a folder,
# or an operation with its Triton half) may import each other, but not in a circle at import time.
FLOORS = {
    "kernels/_dispatch.py": 0,
    "kernels/_means.py": 0,
    "kernels/plan*.py": 0,
    "kernels/pool*.py": 0,
    "kernels/attend*.py": 0,
    "kernels/novelty*.py": 0,
    "kernels/metric*.py": 0,
    "kernels/__init__.py": 0,
    "longcompress/types.py": 1,
    "longcompress/files.py": 1,
    "longcompress/pack.py": 1,
    "longcompress/config.py": 1,
    "longcompress/budget.py": 2,
    "longcompress/media_*.py": 2,
    "longcompress/media.py": 2,
    "longcompress/segments.py": 2,
    "longcompress/scenes_*.py": 2,
    "longcompress/scenes.py": 2,
    "longcompress/events.py": 2,
    "longcompress/event_files.py": 2,
    "longcompress/synthetic_qa.py": 2,
    "longcompress/hold.py": 2,
    "longcompress/encoders/*": 3,
    "longcompress/compress.py": 3,
    "longcompress/llms/*": 3,
    "longcompress/model.py": 4,
    "longcompress/published.py": 4,
    "longcompress/released_files.py": 4,
    "longcompress/delta.py": 4,
    "longcompress/released.py": 4,
    "longcompress/presets.py": 4,
    "longcompress/memory.py": 5,
    "longcompress/session.py": 5,
    "longcompress/methods.py": 5,
    "longcompress/plot.py": 6,
    "longcompress/__init__.py": 6,
    "longcompress/demo.py": 6,
    "train/*": 6,
    "eval/metrics/*": 6,
    "eval/*": 6,
    "longcompress/doctor.py": 6,
    "longcompress/cli_*.py": 7,
    "longcompress/cli.py": 7,
    "longcompress/__main__.py": 7,
}

# An outside package and the only files that may import it.
HOMES = {
    "transformers": (
        "longcompress/encoders/*",
        "longcompress/llms/*",
        "longcompress/model.py",
        "longcompress/presets.py",
        "train/engine.py",
        "train/stages.py",
        "train/trainer.py",
        "train/compressing.py",
    ),
    "tokenizers": ("longcompress/llms/*", "longcompress/presets.py"),
    "huggingface_hub": ("longcompress/model.py", "longcompress/presets.py", "train/store.py"),
    "peft": ("longcompress/model.py", "longcompress/released.py", "train/engine.py"),
    "accelerate": ("train/engine.py",),
    "liger_kernel": ("train/engine.py",),
    "av": ("longcompress/media*.py", "longcompress/scenes.py"),
    "fsspec": ("longcompress/media*.py", "train/store.py"),
    "aiohttp": ("longcompress/media*.py", "train/store.py"),
    "triton": ("kernels/*_triton.py", "eval/bench/compile.py"),
    "webdataset": ("train/bench_read.py",),
    "xformers": ("kernels/attend_xformers.py",),
    "matplotlib": ("longcompress/plot.py", "eval/bench/plot.py", "eval/compare_table.py"),
    "jsonargparse": ("longcompress/cli*.py", "longcompress/config.py", "train/*", "eval/*"),
    "yaml": ("longcompress/config.py", "train/card.py"),
    "packaging": ("longcompress/doctor.py",),
    "pysubs2": ("longcompress/event_files.py",),
    "ray": ("train/shards_ray.py",),
    "scipy": ("eval/metrics/bootstrap.py",),
    "lmms_eval": ("eval/lmms_*.py",),
    "safetensors": (
        "longcompress/delta.py",
        "longcompress/encoders/beats.py",
        "longcompress/pack.py",
        "longcompress/memory.py",
        "longcompress/model.py",
        "longcompress/released_files.py",
        "train/*",
        "eval/*",
    ),
    "rich": ("longcompress/cli*.py", "longcompress/demo.py", "eval/*"),
    "PIL": ("longcompress/scenes.py", "longcompress/plot.py"),
}
EVERYWHERE = {"torch", "numpy", "einops", "tqdm"}


class Import(NamedTuple):
    """One imported name: `from .a import b` in longcompress/x.py is longcompress.a.b of longcompress.a."""

    name: str
    module: str
    line: int


def sources(*folders: str) -> list[str]:
    """Paths of all Python files of these folders, relative to the root; links are not followed."""
    found = []
    for folder in folders:
        for here, _, names in os.walk(ROOT / folder):
            found += [str((Path(here) / n).relative_to(ROOT)) for n in names if n.endswith(".py")]
    return sorted(found)


FILES = sources("kernels", "longcompress", "train", "eval")


def module_name(path: str) -> str:
    """The one name a file is imported by: kernels/plan.py is longcompress.kernels.plan."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[0] != "longcompress":
        parts.insert(0, "longcompress")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in FILES}


def imports(path: str, source: str | None = None, top_level_only: bool = False) -> Iterator[Import]:
    """Every name the file imports, anywhere in it or only where it runs at import."""
    tree = ast.parse((ROOT / path).read_text() if source is None else source)
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in _at_import(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                yield Import(f"{module}.{name.name}", module, node.lineno)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the file is imported: none inside functions or under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _at_import(child)


def target(imported: Import) -> str | None:
    """The file of ours that an import reads, None if it is somebody else's or not there."""
    return PATHS.get(imported.name) or PATHS.get(imported.module)


def row(path: str) -> int | None:
    """Number of the file's row in FLOORS; a file named in full goes before a pattern."""
    rows = list(FLOORS)
    if path in FLOORS:
        return rows.index(path)
    return next((i for i, pattern in enumerate(rows) if fnmatch(path, pattern)), None)


def floor_fault(path: str, imported: Import) -> str | None:
    """What is wrong with this import in `path`, if anything."""
    other = target(imported)
    if other is None and imported.module.split(".")[0] == "longcompress":
        return f"{path} imports {imported.module}, which is not there"
    if other is None or other == path:
        return None
    mine, theirs = row(path), row(other)
    if mine is None or theirs is None:
        return f"{path if mine is None else other} has no floor: add it to FLOORS and to the design's table"
    floors = list(FLOORS.values())
    if {path.split("/")[0], other.split("/")[0]} == {"train", "eval"}:
        return f"{path} imports {other}: train and eval never import each other"
    if floors[theirs] > floors[mine]:
        return f"{path} (floor {floors[mine]}) imports {other} (floor {floors[theirs]})"
    if floors[theirs] == floors[mine] and theirs > mine:
        return f"{path} imports {other}, which stands below it on floor {floors[mine]}"
    return None


def package_fault(path: str, imported: Import) -> str | None:
    """What is wrong with `path` importing from this outside package, if anything."""
    package = imported.module.split(".")[0]
    if package in ("kernels", "train", "eval"):
        return f"{path} imports top-level {package}: the only name is longcompress.{package}"
    if package == "longcompress" or package in EVERYWHERE or package in sys.stdlib_module_names:
        return None
    if package not in HOMES:
        return f"{path} imports {package}, which has no home: add it to HOMES"
    if not any(fnmatch(path, home) for home in HOMES[package]):
        return f"{path} imports {package}, whose home is {', '.join(HOMES[package])}"
    return None


def faults_of(path: str, check: Callable[[str, Import], str | None], source: str | None = None) -> list[str]:
    """What `check` finds wrong with the imports of a file, each once, with its line."""
    found = [(one.line, check(path, one)) for one in imports(path, source)]
    return list(dict.fromkeys(f"line {line}: {fault}" for line, fault in found if fault))


def test_every_file_has_a_floor():
    lost = [path for path in FILES if row(path) is None]
    assert not lost, f"no floor for {lost}: add them to FLOORS and to the design's table"


def test_rows_stand_in_the_order_of_their_floors():
    assert list(FLOORS.values()) == sorted(FLOORS.values())


@pytest.mark.parametrize("path", FILES)
def test_imports_come_from_lower_floors(path):
    faults = faults_of(path, floor_fault)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", FILES)
def test_outside_packages_are_imported_at_home(path):
    faults = faults_of(path, package_fault)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", sources("kernels"))
def test_kernels_import_their_own_files_relatively(path):
    """The folder is also found as `kernels`: see the guard in kernels/__init__.py."""
    absolute = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            absolute += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            absolute.append(node.module or "")
    assert not [name for name in absolute if name.split(".")[0] == "longcompress"]


def test_nobody_uses_the_short_names():
    """`import train` and `import longcompress.train` would be two modules."""
    others = sources("tests", "docs") + [p.name for p in ROOT.glob("*.py")]
    faults = []
    for path in others:
        for one in imports(path):
            if one.module.split(".")[0] in ("kernels", "train", "eval"):
                faults.append(f"{path}, line {one.line}: the only name is longcompress.{one.module}")
    assert not faults, "\n".join(faults)


def test_no_circles_at_import():
    needs = {}
    for path in FILES:
        found = {target(one) for one in imports(path, top_level_only=True)}
        needs[path] = {other for other in found if other and other != path and other in FILES}
    while free := [path for path in needs if not needs[path]]:
        for path in free:
            del needs[path]
        for path in needs:
            needs[path] -= set(free)
    circle = {path: sorted(others) for path, others in needs.items()}
    assert not circle, f"these import each other, or one that does: {circle}"


# --- the checks themselves, on lines that must not pass

WRONG_FLOOR = [
    ("longcompress/types.py", "from .compress import x", "longcompress/compress.py"),
    ("train/data.py", "from longcompress.eval import run", "never import each other"),
    ("eval/run.py", "from ..train.data import x", "never import each other"),
    (
        "longcompress/compress.py",
        "def f():\n    from longcompress.llm import x",
        "stands below it on floor 3",
    ),
    ("kernels/plan.py", "from .pool import pool", "stands below it on floor 0"),
    ("longcompress/events.py", "from . import session", "floor 5"),
    ("longcompress/strange.py", "from .types import Tokens", "has no floor"),
    ("longcompress/plot.py", "from .strange import x", "longcompress.strange, which is not there"),
]


@pytest.mark.parametrize(("path", "source", "message"), WRONG_FLOOR)
def test_a_wrong_import_is_found(monkeypatch, path, source, message):
    ours = ("longcompress/compress.py", "longcompress/session.py", "longcompress/llms/__init__.py")
    for made in (*ours, "eval/__init__.py", "eval/run.py", "train/__init__.py", "train/data.py"):
        monkeypatch.setitem(PATHS, module_name(made), made)
    faults = faults_of(path, floor_fault, source)
    assert any(message in fault for fault in faults), faults


RIGHT_FLOOR = [
    ("longcompress/compress.py", "from longcompress.kernels import plan\nfrom .types import Tokens"),
    ("kernels/pool.py", "def f():\n    from .pool_triton import pool_triton"),
    ("kernels/pool.py", "from .plan import Plan"),
    ("train/data.py", "from longcompress import types\nfrom .stages import x"),
]


@pytest.mark.parametrize(("path", "source"), RIGHT_FLOOR)
def test_a_right_import_is_left_alone(monkeypatch, path, source):
    for made in ("kernels/pool_triton.py", "train/__init__.py", "train/stages.py"):
        monkeypatch.setitem(PATHS, module_name(made), made)
    assert not faults_of(path, floor_fault, source)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("longcompress/memory.py", "from transformers import AutoModel", "transformers, whose home is"),
        ("longcompress/encoders/video.py", "import av.video", "av, whose home is"),
        ("kernels/plan.py", "import triton.language as tl", "triton, whose home is"),
        ("longcompress/plot.py", "import seaborn", "has no home"),
        ("train/trainer.py", "import eval.metrics", "top-level eval"),
        ("eval/run.py", "from kernels import pool", "top-level kernels"),
    ],
)
def test_a_package_away_from_home_is_found(path, source, message):
    faults = faults_of(path, package_fault, source)
    assert any(message in fault for fault in faults), faults
