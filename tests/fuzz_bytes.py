"""Small files with damaged bytes through the commands that read them: a result, or one clear error.

`make fuzz-bytes N=5000 SEED=1` runs many in processes of their own, goes on where it stopped, and prints the
seeds that failed. A seed always makes the same file. No command may hang, die, show a traceback, leave half
an output, or say what is wrong without the name of the file.
"""

import argparse
import faulthandler
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch
import yaml

from longcompress.cli.common import complain
from longcompress.cli.parser import parse
from longcompress.cli.train import RECIPES, recipe_of, train
from longcompress.memory import VideoMemory
from longcompress.model import CHANGEABLE
from longcompress.train.data.dataset import QuestionConfig, ShardData
from longcompress.train.data.sampler import BatchSampler
from longcompress.train.shards.index import load_index
from longcompress.train.shards.tar import members_in, read_members, write_tar

from damage import damaged, damaged_json, damaged_memory, damaged_tensors, damaged_value, text_of
from fuzz_files import ANNOTATIONS, MEDIA, Bases, make_bases

TURNS = ("media", "memory", "media", "shards", "records", "config")  # kind of file, by seed
KINDS = tuple(dict.fromkeys(TURNS))
OPTIONS = (  # of `compress`, by the size of the file
    "", "", "--media.frames 3", "--start 0.3 --end 1.2", "--media.decode keyframe --media.rate_fps 4",
    "--keep-assignment --media.rate_fps 20 --media.fit crop --media.channels first",
)  # fmt: skip
LIMIT_S = 60
MAX_BYTES = 6 << 30  # of addresses of a process
FILES_A_PROCESS = 200


def write_case(seed: int, bases: Bases, folder: Path) -> Path:
    """The damaged file, or folder with it, of a seed."""
    rng = random.Random(seed)
    return WRITERS[TURNS[seed % len(TURNS)]](rng, bases, folder)


def _media(rng: random.Random, bases: Bases, folder: Path) -> Path:
    suffix = rng.choice(list(MEDIA))
    path = folder / f"case.{suffix}"
    path.write_bytes(damaged(rng, (bases.folder / f"base.{suffix}").read_bytes()))
    return path


def _memory(rng: random.Random, bases: Bases, folder: Path) -> Path:
    path = folder / "case.lcm"
    path.write_bytes(damaged_memory(rng, (bases.folder / "base.lcm").read_bytes()))
    return path


def _shards(rng: random.Random, bases: Bases, folder: Path) -> Path:
    where = Path(shutil.copytree(bases.folder / "shards", folder / "case"))
    tar, index = where / "shard-000000.tar", where / "index.json"
    if (what := rng.choice(("tar", "index", "index text", "member", "member"))) == "tar":
        tar.write_bytes(damaged(rng, tar.read_bytes()))
    elif what == "index":
        index.write_bytes(damaged(rng, index.read_bytes()))
    elif what == "index text":
        index.write_bytes(damaged_json(rng, index.read_bytes()))
    else:  # in a tar that is whole
        with open(tar, "rb") as file:
            samples = {key: read_members(file, of) for key, of in members_in(file, str(tar)).items()}
        members = samples[rng.choice(sorted(samples))]
        name = rng.choice(sorted(members))
        if rng.random() < 0.1:
            members[rng.choice(("x", "speech.safetensors", "x.pkl"))] = members.pop(name)
        else:
            members[name] = (damaged_json if name == "json" else damaged_tensors)(rng, members[name])
        write_tar(tar, sorted(samples.items()))
    return where


def _records(rng: random.Random, bases: Bases, folder: Path) -> Path:
    where = Path(shutil.copytree(bases.folder / "records", folder / "case"))
    if rng.random() < 0.3:  # a record beside a video
        path = where / "v0.json"
        path.write_bytes(damaged_json(rng, path.read_bytes()))
        return where
    lines = [json.dumps({"key": n, "video": f"{n}.mp4"} | ANNOTATIONS).encode() for n in ("v0", "v1")]
    lines[0] = damaged_json(rng, lines[0])
    data = b"\n".join(lines)
    path = where / "case.jsonl"
    path.write_bytes(damaged(rng, data) if rng.random() < 0.2 else data)
    return path


def _config(rng: random.Random, bases: Bases, folder: Path) -> Path:
    path = folder / "case.yaml"
    if rng.random() < 0.5:
        recipe = rng.choice(sorted(RECIPES.glob("*.yaml")))
        path, data = folder / "recipe.yaml", recipe.read_bytes()
        values = yaml.safe_load(data)
    else:
        whole = asdict(bases.load().config)
        values = {section: {name: whole[section][name] for name in of} for section, of in CHANGEABLE.items()}
        data = yaml.safe_dump(values).encode()
    as_bytes = rng.random() < 0.3
    path.write_bytes(damaged(rng, data) if as_bytes else text_of(damaged_value(rng, values)).encode())
    return path


WRITERS: dict[str, Callable[[random.Random, Bases, Path], Path]] = {
    "media": _media, "memory": _memory, "shards": _shards, "records": _records, "config": _config,
}  # fmt: skip


def faults_of(seed: int, bases: Bases, folder: Path) -> list[str]:
    """What is wrong with how the commands take the file of a seed."""
    path = write_case(seed, bases, folder)
    faults = READERS[TURNS[seed % len(TURNS)]](path, bases, folder)
    parts = [left.name for left in folder.rglob("*") if ".part" in left.name]
    return faults + [f"{part} was left behind" for part in parts]


def _through_media(path: Path, bases: Bases, folder: Path) -> list[str]:
    out, more = folder / "out.lcm", OPTIONS[path.stat().st_size % len(OPTIONS)].split()
    faults = bases.faults_of(["info", str(path)], (0, 3), path.name)
    faults += bases.faults_of(["compress", str(path), "--out", str(out), *more], (0, 3), path.name)
    return faults + _faults_of_output(out, bases)


def _faults_of_output(out: Path, bases: Bases) -> list[str]:
    """A memory file must be whole."""
    try:
        return (
            [] if not out.exists() or VideoMemory.load(out, bases.model).num_tokens else ["out.lcm is empty"]
        )
    except ValueError as error:
        return [f"out.lcm is no whole output: {error}"]


def _through_memory(path: Path, bases: Bases, folder: Path) -> list[str]:
    faults = bases.faults_of(["ask", str(path), "when is the ball seen"], (0, 3), path.name)
    faults += bases.faults_of(["ask", str(path), "what happens", "--json"], (0, 3), path.name)
    for out in (folder / "out.srt", folder / "out.edl"):
        faults += bases.faults_of(["events", str(path), "--out", str(out)], (0, 3), path.name)
    return faults


def _through_shards(path: Path, bases: Bases, folder: Path) -> list[str]:
    where = f"{path.name}|shard-|error: v[01]: "
    faults = bases.faults_of(["shards", "verify", str(path)], (0, 1, 3), where)
    faults += bases.faults_of(["shards", "info", str(path)], (0, 3), where)
    faults += bases.judge(lambda: _read_batch(path, bases), "reader", (0, 3), where)
    faults += bases.faults_of(["shards", "index", str(path)], (0, 3), where)
    faults += bases.judge(lambda: _read_batch(path, bases), "reader of a new index", (0, 3), where)
    words = ["shards", "repack", str(path), "--out", str(folder / "new")]
    return faults + bases.faults_of(words, (0, 3), f"{where}|new")


def _read_batch(folder: Path, bases: Bases) -> int:
    """The exit code of the training reader's first batch."""
    try:
        batches = BatchSampler([load_index(folder)], 3, 60, (8, 20), min_videos=2)
        model = bases.load()
        for loaded in islice(ShardData(batches, model, QuestionConfig()), 1):
            if loaded.examples:
                with torch.no_grad():
                    model(**model.llm.collate(loaded.examples))
            for sample in loaded.bad:
                complain("error", f"{sample.key}: {sample.reason}")
                return 3
    except (OSError, ValueError) as error:
        complain("error", error)
        return 3
    return 0


def _through_records(path: Path, bases: Bases, folder: Path) -> list[str]:
    out = folder / "out"
    names = r"case|out\b|v0|v1"
    faults = bases.faults_of(["shards", "make", str(path), "--out", str(out)], (0, 3), names)
    if (out / "index.json").exists():
        faults += bases.faults_of(["shards", "verify", str(out)], (0,), names)
        faults += bases.judge(lambda: _read_batch(out, bases), "reader", (0, 3), names)
    return faults


def _through_config(path: Path, bases: Bases, folder: Path) -> list[str]:
    names = rf"{path.name}|--[a-z]|[a-z]+[._][a-z_]+"
    if path.name == "recipe.yaml":
        words = [str(path), "--out", str(folder / "out")]
        return bases.judge(lambda: _parse_recipe(words), "train", (0, 2, 3), names)
    video, out = str(bases.folder / "base.mp4"), folder / "out.lcm"
    faults = bases.faults_of(["info", video, "--config", str(path)], (0, 2, 3), names)
    words = ["compress", video, "--config", str(path), "--out", str(out)]
    return faults + bases.faults_of(words, (0, 2, 3), names) + _faults_of_output(out, bases)


def _parse_recipe(words: list[str]) -> int:
    try:
        parse("longcompress train", train, words, recipe=recipe_of(words))
    except (OSError, ValueError) as error:
        complain("error", error)
        return 2
    return 0


READERS: dict[str, Callable[[Path, Bases, Path], list[str]]] = {
    "media": _through_media, "memory": _through_memory, "shards": _through_shards,
    "records": _through_records, "config": _through_config,
}  # fmt: skip


def run(seeds: Sequence[int], log: Path | None = None) -> dict[int, list[str]]:
    """Seed -> its faults, of the seeds that failed, in this process; `log` is gone on with."""
    bases, done = make_bases(), read_log(log)
    for seed in seeds:
        if seed in done:
            continue
        if log is not None:
            faulthandler.dump_traceback_later(
                LIMIT_S, exit=True
            )  # the process that started this one notes it
        with tempfile.TemporaryDirectory() as folder:
            done[seed] = faults_of(seed, bases, Path(folder))
        if log is not None:
            note(log, seed, done[seed])
    faulthandler.cancel_dump_traceback_later()
    return {seed: done[seed] for seed in seeds if done[seed]}


def read_log(log: Path | None) -> dict[int, list[str]]:
    """Seed -> its faults, of all that ran."""
    if log is None or not log.exists():
        return {}
    return {entry["seed"]: entry["faults"] for entry in map(json.loads, log.read_text().splitlines())}


def note(log: Path, seed: int, faults: Sequence[str]) -> None:
    """Add what came of a seed to the log."""
    with log.open("a") as file:
        file.write(
            json.dumps({"seed": seed, "kind": TURNS[seed % len(TURNS)], "faults": list(faults)}) + "\n"
        )


def run_apart(seeds: Sequence[int], log: Path) -> dict[int, list[str]]:
    """`run` in processes of a number of files each; a process that dies or hangs is a fault of its file."""
    done = read_log(log)
    while batch := [seed for seed in seeds if seed not in done][:FILES_A_PROCESS]:
        words = [f"--seed={batch[0]}", f"--num={batch[-1] - batch[0] + 1}"]
        command = [sys.executable, __file__, "--here", f"--log={log}", *words]
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        done = read_log(log)
        if ended.returncode:
            seed = next((seed for seed in batch if seed not in done), batch[-1])
            how = signal.Signals(-ended.returncode).name if ended.returncode < 0 else ended.returncode
            done[seed] = [f"the process ended with {how}: {ended.stderr[-3000:]}"]
            note(log, seed, done[seed])
        for seed in batch:
            if done.get(seed):
                print(f"seed {seed} ({TURNS[seed % len(TURNS)]}): {'; '.join(done[seed])}", file=sys.stderr)
        print(f"{len(done)} files", file=sys.stderr, flush=True)
    return {seed: done[seed] for seed in seeds if done[seed]}


def seeds_of(kind: str, seeds: range) -> Iterator[int]:
    """Those of a kind of file."""
    return (seed for seed in seeds if TURNS[seed % len(TURNS)] == kind)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, default=Path("fuzz_bytes.jsonl"))
    parser.add_argument("--here", action="store_true", help="in this process, as `run_apart` starts it")
    options = parser.parse_args()
    wanted_seeds = range(options.seed, options.seed + options.num)
    if options.here:
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
        run(wanted_seeds, options.log)
        sys.exit(0)
    failed = run_apart(wanted_seeds, options.log)
    print(f"{options.num} files, {len(failed)} failed: {sorted(failed)}")
    sys.exit(bool(failed))
