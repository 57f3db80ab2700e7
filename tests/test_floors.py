"""Imports keep to the design's table: lower floors, no circle, packages at home, one name a module."""

import ast
import os
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kernels", "longcompress", "train", "eval")

# The table of the design, section 2. A room is a folder (with all below it) or some files; rooms of one floor
# never import each other. A file that no room names stands in none and is a fault.
FLOORS: dict[int, list[tuple[str, ...]]] = {
    1: [
        ("kernels/*",),
        ("longcompress/types.py",),
        ("longcompress/config.py", "longcompress/config_*.py"),
        ("longcompress/files.py",),
        ("longcompress/heap.py",),
        ("longcompress/serialize.py",),
        ("longcompress/threads.py",),
    ],
    2: [
        ("longcompress/media/*",),
        ("longcompress/encoders/*",),
        ("longcompress/compression/*",),
        ("longcompress/events/*",),
    ],
    3: [("longcompress/llm/*",), ("longcompress/synthetic/*",)],
    4: [("longcompress/model.py",)],
    5: [
        ("longcompress/encode.py",),
        ("longcompress/memory.py",),
        ("longcompress/checkpoints/*",),
        (
            "longcompress/context.py",
            "longcompress/live_bound.py",
            "longcompress/live_prefix.py",
            "longcompress/live_reading.py",
            "longcompress/live_scores.py",
            "longcompress/speech.py",
            "longcompress/session_events.py",
        ),
    ],
    6: [
        (
            "longcompress/session.py",
            "longcompress/videos.py",
            "longcompress/live_feed.py",
            "longcompress/live_steps.py",
        ),
        ("longcompress/presets.py",),
        ("longcompress/plot.py",),
        ("longcompress/export.py",),
    ],
    7: [
        ("longcompress/__init__.py",),
        ("train/*",),
        ("eval/*",),
        ("longcompress/live/*",),
    ],
    8: [("longcompress/serve/*",), ("longcompress/annotate/*",)],  # annotate writes the records of train
    9: [("longcompress/cli/*", "longcompress/__main__.py")],
}
ROOMS = {pattern: (floor, room) for floor, rooms in FLOORS.items() for room in rooms for pattern in room}

# An outside package and the only files that may import it.
HOMES = {
    "triton": ("kernels/gpu/*", "eval/bench/compile.py"),  # compile.py times the compiler itself
    "scenedetect": ("longcompress/annotate/detectors.py",),
    "num2words": ("longcompress/llm/stock_prompt.py",),  # SmolVLM's prompt writes a number in words
    "xformers": ("kernels/gpu/attend_xformers.py", "longcompress/llm/varlen.py"),
    "flash_attn": ("longcompress/llm/varlen.py",),
    "safetensors": (
        "longcompress/serialize.py",
        "longcompress/encoders/checks.py",  # the error of a file that is cut
        # Each of these owns a file format, and reads it entry by entry.
        "longcompress/encoders/beats.py",
        "longcompress/encoders/projector.py",
        "longcompress/model.py",
        "longcompress/memory.py",
        "longcompress/export.py",
        "longcompress/checkpoints/*",
        "train/*",
        "eval/runner/merge_quality.py",
    ),
    # eval's two commands parse their own words until they are mounted in cli/
    "jsonargparse": (
        "longcompress/config_values.py",
        "longcompress/cli/*",
        "eval/bench/__init__.py",
        "eval/runner/merge_quality.py",
    ),
    # a model card begins with YAML
    "yaml": (
        "longcompress/cli/defaults.py",
        "longcompress/config_values.py",
        "train/data/convert.py",  # lmms-style lists of lists
        "train/model_card.py",
    ),
    "av": ("longcompress/media/*",),
    "imageio_ffmpeg": ("eval/bench/media.py",),
    "fsspec": ("longcompress/media/*", "train/shards/remote.py"),  # shards below a URL
    "aiohttp": ("longcompress/media/*", "train/shards/remote.py"),  # its errors come through fsspec
    "botocore": ("train/shards/remote.py",),  # so do these
    "transformers": (
        "longcompress/encoders/*",
        "longcompress/llm/*",
        "longcompress/synthetic/tokenizer.py",
        "longcompress/model.py",
        "longcompress/presets.py",  # a preset names the classes of its encoders
        "train/engine.py",
        "train/stages.py",
        "train/tiny/vl.py",  # a small model of a stock class
        "eval/bench/attention.py",  # a random language model
        "train/tiny/omni.py",  # likewise, that hears
        "train/trainer.py",
    ),
    "tokenizers": ("longcompress/llm/*", "longcompress/synthetic/tokenizer.py"),
    "sentencepiece": ("longcompress/llm/tokenizer.py",),
    "pysubs2": ("longcompress/events/*",),
    "peft": (
        "longcompress/model.py",
        "longcompress/checkpoints/apply.py",
        "train/engine.py",
        "eval/bench/attention.py",  # times a LoRA step
    ),  # apply merges a LoRA
    "huggingface_hub": ("longcompress/model.py", "longcompress/llm/backbone.py", "train/shards/remote.py"),
    "matplotlib": ("longcompress/plot.py", "eval/bench/plot.py", "eval/runner/compare_table.py"),
    "accelerate": ("train/engine.py", "train/trainer.py"),  # what its Trainer makes of sharding
    "deepspeed": ("train/trainer.py",),
    "liger_kernel": ("train/engine.py",),
    "webdataset": ("train/shards/*", "train/bench_read.py"),
    "ray": ("train/shards/ray.py",),
    "lmms_eval": ("eval/lmms/*",),
    "pycocoevalcap": ("eval/metrics/*",),
    "scipy": (
        "eval/metrics/*",
        "eval/runner/merge_quality.py",
    ),
    "rich": ("longcompress/cli/*",),
    "packaging": ("longcompress/cli/doctor.py",),
    "starlette": ("longcompress/serve/*",),
    "uvicorn": ("longcompress/serve/*",),
    "httpx": ("longcompress/serve/*", "longcompress/endpoint.py", "eval/bench/serve.py"),
    "prometheus_client": ("longcompress/serve/metrics.py",),
}
EVERYWHERE = {"torch", "numpy", "einops", "tqdm"}


class Import(NamedTuple):
    """One imported name: `from .a import b` in longcompress/x.py is longcompress.a.b of longcompress.a."""

    name: str
    module: str
    line: int


def sources(*folders: str) -> list[str]:
    """Paths of all Python files of these folders, relative to the root; links are not followed."""
    walks = (walk for folder in folders for walk in os.walk(ROOT / folder))
    paths = (Path(here) / name for here, _, names in walks for name in names if name.endswith(".py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


FILES = sources(*FOLDERS)


def module_name(path: str) -> str:
    """The only name a file is imported by: kernels/plan.py is longcompress.kernels.plan."""
    parts = list(Path(path).with_suffix("").parts)
    if parts[0] != "longcompress":
        parts.insert(0, "longcompress")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PARENTS = {folder for path in FILES for folder in Path(path).parent.parents}
PATHS = {module_name(path): path for path in FILES}


@cache
def tree_of(path: str) -> ast.Module:
    """The file, parsed once."""
    return ast.parse((ROOT / path).read_text())


def imports(path: str, source: str | None = None) -> Iterator[Import]:
    """Every name that the file imports, inside functions too, but not for types alone."""
    package = module_name(path).split(".")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    for node in _code(tree_of(path) if source is None else ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(name.name, name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                yield Import(f"{module}.{name.name}", module, node.lineno)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below this one but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _code(child)


def target(imported: Import) -> str | None:
    """The file of ours that an import reads, None if it is not ours or does not exist."""
    return PATHS.get(imported.name) or PATHS.get(imported.module)


def room_of(path: str) -> tuple[int, tuple[str, ...]] | None:
    """(floor, room) of a file."""
    return next((ROOMS[pattern] for pattern in ROOMS if fnmatch(path, pattern)), None)


def floor_fault(path: str, imported: Import) -> str | None:
    """What is wrong with the floor of this import in `path`, if anything."""
    other = target(imported)
    if other is None and imported.module.split(".")[0] == "longcompress":
        return f"{imported.module} does not exist"
    if other is None:
        return None
    mine, theirs = room_of(path), room_of(other)
    if mine is None or theirs is None:
        return f"{path if mine is None else other} has no floor: add it to FLOORS and to the design's table"
    if theirs[0] > mine[0]:
        return f"floor {mine[0]} imports {other} of floor {theirs[0]}"
    if theirs[0] == mine[0] and theirs != mine:
        return f"{other} is on the same floor {mine[0]}, in another room"
    return None


def package_fault(path: str, imported: Import) -> str | None:
    """What is wrong with importing this outside package in `path`, if anything."""
    package = imported.module.split(".")[0]
    if package in {"longcompress", *FOLDERS, *EVERYWHERE} or package in sys.stdlib_module_names:
        return None
    if package not in HOMES:
        return f"{package} has no home: add it to HOMES"
    if not any(fnmatch(path, home) for home in HOMES[package]):
        return f"{package} is at home in {', '.join(HOMES[package])}"
    return None


def name_fault(path: str, imported: Import) -> str | None:
    """What is wrong with the name of an import in `path`: `import train` would be a second module."""
    package = imported.module.split(".")[0]
    if package in FOLDERS and package != "longcompress":
        return f"the only name is longcompress.{imported.module}"
    return None


def faults_of(path: str, check: Callable[[str, Import], str | None], source: str | None = None) -> list[str]:
    """What `check` says against the imports of a file, each fault once, with its line."""
    checked = [(imported.line, check(path, imported)) for imported in imports(path, source)]
    return list(dict.fromkeys(f"{path}:{line}: {fault}" for line, fault in checked if fault))


def no_faults(check: Callable[[str, Import], str | None], paths: list[str]) -> None:
    """Fails with all faults of all these files."""
    faults = [fault for path in paths for fault in faults_of(path, check)]
    assert not faults, "\n".join(faults)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The groups of names that reach each other along arrows."""
    reached = {name: others - {name} for name, others in arrows.items()}
    size = -1
    while size != (size := sum(map(len, reached.values()))):  # until nothing new is reached
        for others in reached.values():
            others |= {far for other in others for far in reached[other]}
    groups = {tuple(sorted(o for o in others if name in reached[o])) for name, others in reached.items()}
    return [list(group) for group in sorted(groups) if group]


def arrows_between(node_of: Callable[[str], str]) -> dict[str, set[str]]:
    """The imports of all files as arrows between the nodes that the files belong to."""
    arrows: dict[str, set[str]] = {node_of(path): set() for path in FILES}
    for path in FILES:
        arrows[node_of(path)] |= {node_of(other) for other in map(target, imports(path)) if other}
    return arrows


def folder_of(path: str) -> str:
    """The file's folder; the file itself where folders lie beside it (train/stages.py beside train/data)."""
    folder = Path(path).parent
    return path if folder in PARENTS else str(folder)


def test_imports_come_from_lower_floors():
    no_faults(floor_fault, FILES)


def test_outside_packages_are_imported_at_home():
    no_faults(package_fault, FILES)


def test_modules_have_one_name():
    no_faults(name_fault, [*FILES, *sources("tests", "examples"), "setup.py"])


def test_kernels_import_their_own_files_relatively():
    """The folder is also found as `kernels`: see the guard in kernels/__init__.py."""
    absolute = [
        f"{path}: {line}"
        for path in sources("kernels")
        for line in (ROOT / path).read_text().splitlines()
        if line.lstrip().startswith(("from longcompress", "import longcompress"))
    ]
    assert not absolute, absolute


def test_no_circle_of_files():
    left = circles(arrows_between(str))
    assert not left, f"these import each other: {left}"


def test_no_circle_of_folders():
    left = circles(arrows_between(folder_of))
    assert not left, f"these import each other: {left}"


# --- the checks themselves, on lines that must not pass

WRONG_FLOOR = [
    ("longcompress/types.py", "from .session import x", "floor 1 imports longcompress/session.py of floor 6"),
    ("longcompress/files.py", "from .types import Tokens", "on the same floor 1"),
    (
        "train/stages.py",
        "from longcompress.eval import tasks",
        "eval/tasks/__init__.py is on the same floor 7",
    ),
    (
        "eval/runner/run.py",
        "def f():\n    from ...train import stages",
        "train/stages.py is on the same floor 7",
    ),
    ("longcompress/events/parse.py", "from .. import session", "of floor 6"),
    ("longcompress/strange.py", "from .types import Tokens", "longcompress/strange.py has no floor"),
    ("longcompress/plot.py", "from .strange import x", "longcompress.strange does not exist"),
]


@pytest.mark.parametrize(("path", "source", "message"), WRONG_FLOOR)
def test_a_wrong_import_is_found(path, source, message):
    faults = faults_of(path, floor_fault, source)
    assert any(message in fault for fault in faults), faults


RIGHT_FLOOR = [
    (
        "longcompress/compression/state.py",
        "from longcompress.kernels import plan\nfrom ..types import Tokens",
    ),
    ("kernels/plan.py", "from .pool import Plan"),
    ("train/stages.py", "from longcompress import types\nfrom .data import records"),
    ("longcompress/__main__.py", "from .cli.main import main"),
    ("longcompress/types.py", "if TYPE_CHECKING:\n    from .session import Session"),
]


@pytest.mark.parametrize(("path", "source"), RIGHT_FLOOR)
def test_a_right_import_passes(path, source):
    assert not faults_of(path, floor_fault, source)


@pytest.mark.parametrize(
    ("path", "source", "check", "message"),
    [
        (
            "longcompress/session.py",
            "from transformers import AutoModel",
            package_fault,
            "transformers is at home in",
        ),
        ("longcompress/encoders/vision.py", "import av.video", package_fault, "av is at home in"),
        ("kernels/plan.py", "import triton.language as tl", package_fault, "triton is at home in"),
        ("longcompress/plot.py", "import seaborn", package_fault, "seaborn has no home"),
        ("train/trainer.py", "import eval.metrics", name_fault, "the only name is longcompress.eval.metrics"),
        (
            "eval/runner/run.py",
            "from kernels import pool",
            name_fault,
            "the only name is longcompress.kernels",
        ),
    ],
)
def test_a_package_away_from_home_is_found(path, source, check, message):
    faults = faults_of(path, check, source)
    assert any(message in fault for fault in faults), faults


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}) == [
        ["a", "b", "c"],
        ["d", "e"],
    ]
    assert not circles({"a": {"a", "b", "c"}, "b": {"c"}, "c": set()})
