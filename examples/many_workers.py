"""Shards by many workers, with bad videos and killed workers: the bytes of a run alone, every video counted.

A stub takes the place of decoding and encoding: what is made of a video are bytes of its key. All else is
what `longcompress shards make --engine ray` runs.

python examples/many_workers.py --out out --num 100000 --workers 4
python examples/many_workers.py --out out --num 100000 --workers 4 --runs alone many fresh
python examples/many_workers.py --out rates --num 2000 --workers 4 --work-s 0.1
"""

import argparse
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from longcompress.train.records import Record
from longcompress.train.shards import make as shards
from longcompress.train.shards import ray as shards_ray
from longcompress.train.shards.tar import sha256_of


def stub(record, folder, model, kind, *, kills=None, work_s=0.0):
    """Make a video's part of bytes of its key, which takes `work_s`; fail, or end this process the first
    time, as its record says."""

    def read():
        time.sleep(work_s)
        if "bad" in record.meta:
            raise ValueError(f"{record.video}: no video")
        if kills and "kill" in record.meta:
            try:
                (Path(kills) / record.key).touch(exist_ok=False)
            except FileExistsError:
                pass  # the second time
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        content = {"key": record.key, "duration_s": 60.0, "video": {"name": record.video}}
        data = b"".join(hashlib.sha256(f"{record.key} {i}".encode()).digest() for i in range(64))
        return {"json": json.dumps(content).encode(), "bin": data}

    return shards.try_sample(record, folder, read)


def records_of(num, bad, killed, seed=0):
    """`num` records; these shares of them are bad, or kill the worker that reads them first."""
    numbers = list(range(num))
    random.Random(seed).shuffle(numbers)
    num_bad, num_killed = round(bad * num), round(killed * num)
    meta = {n: {"bad": True} for n in numbers[:num_bad]}
    meta |= {n: {"kill": True} for n in numbers[num_bad : num_bad + num_killed]}
    return [Record(f"v{n:07d}", f"v{n:07d}.mp4", meta=meta.get(n, {})) for n in range(num)]


def hashes(out):
    """Hash of each file of the result."""
    return {p.name: sha256_of(p) for p in sorted(Path(out).iterdir()) if p.is_file()}


RUNS = ("alone", "many", "again", "fresh")


def simulate(out, num, workers, bad=0.01, killed=0.001, seed=0, progress=False, runs=RUNS[:3]):
    """Counts, rates and hashes of runs: alone, by `workers` with kills, that in the same folder again, and in
    a fresh folder with kills."""
    out = Path(out)
    records = records_of(num, bad, killed, seed)
    alone = shards.each(partial(stub, model=None, kind="features"))
    report = {"samples": num, "workers": workers}
    for name in runs:
        folder = out / ("many" if name == "again" else name)
        kills = out / "kills" / folder.name
        kills.mkdir(parents=True, exist_ok=True)
        start_s = time.monotonic()
        if name == "alone":
            results = shards.make_share(records, folder, alone, progress=progress)
        else:
            part = partial(stub, kills=str(kills.absolute()))
            results = shards_ray.make(
                records, folder, None, kind="media", workers=workers, part=part, progress=progress
            )
        elapsed_s = time.monotonic() - start_s
        assert [r.key for r in results] == [r.key for r in records]  # each once
        index = shards.pack(folder, records, shard_bytes=64 << 20, progress=progress)
        lines = [json.loads(x) for x in (folder / shards.MANIFEST).read_text().splitlines()]
        report[name] = {
            "results": dict(Counter(r.status for r in results)),
            "manifest": dict(Counter(line["status"] for line in lines)),
            "packed": len(index), "samples_per_s": round(num / elapsed_s, 1),
            "killed": len(list(kills.iterdir())), "files": hashes(folder),
        }  # fmt: skip
        if progress:
            print(json.dumps({name: report[name] | {"files": len(report[name]["files"])}}), flush=True)
    return report


def rates(out, num, workers, work_s, progress=False):
    """Samples a second of 1 worker and of `workers`, where a sample takes `work_s`, from the first part on:
    the start of Ray isn't counted."""
    report = {"samples": num, "work_s": work_s}
    for count in (1, workers):
        folder = Path(out) / f"workers-{count}"
        part = partial(stub, work_s=work_s)
        shards_ray.make(
            records_of(num, 0, 0), folder, None, kind="media", workers=count, part=part, progress=progress
        )
        times = [path.stat().st_mtime for path in (folder / shards.PARTS).glob("*.tar")]
        report[f"samples_per_s of {count}"] = round((len(times) - 1) / (max(times) - min(times)), 2)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--work-s", type=float, default=0.0, help="compare rates alone, of samples that take so long"
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS[:3])
    options = parser.parse_args()
    if options.work_s:
        print(json.dumps(rates(options.out, options.num, options.workers, options.work_s, progress=True)))
        raise SystemExit
    report = simulate(options.out, options.num, options.workers, progress=True, runs=options.runs)
    files = [report[name].pop("files") for name in options.runs]
    report["same_bytes"] = all(each == files[0] for each in files)
    print(json.dumps(report))
