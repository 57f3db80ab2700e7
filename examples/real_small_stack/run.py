"""A real language model learns to see and hear: `python run.py --out FOLDER`. Run again, it goes on.

DINOv2-small, Whisper tiny.en and Gemma 3 270M (or another language model); photos and sounds; from downloads
to answers. Every stage is a command of longcompress, which is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import score  # noqa: E402 - files beside this one
from compose import event_videos, material, photo_videos  # noqa: E402
from weights import dinov2_small, gemma_270m, qwen_05b, whisper_tiny  # noqa: E402

from longcompress import LongCompress  # noqa: E402
from longcompress.config import (  # noqa: E402
    AudioConfig,
    LLMConfig,
    MediaConfig,
    MemoryConfig,
    MergeConfig,
    ModelConfig,
    SegmentConfig,
    VisionConfig,
)

# folder -> (part of the material, videos, what composes them, seed)
VIDEOS: dict[str, tuple[str, int, Callable[..., Path], int]] = {
    "photos_train": ("train", 1554, photo_videos, 1),
    "photos_test": ("test", 160, photo_videos, 2),
    "photos_names": ("names", 62, photo_videos, 3),
    "events_train": ("train", 200, event_videos, 4),
    "events_test": ("test", 32, event_videos, 5),
    "events_names": ("names", 8, event_videos, 6),
}
LMS: dict[str, Callable[[Path], Path]] = {"gemma": gemma_270m, "qwen": qwen_05b}
METHODS = ("full", "ours", "kmeans", "longvlm", "pool", "random")
BUDGETS = ("50%", "25%", "10%")
RESULTS = "results.json"
CORES = str(os.cpu_count() or 1)
SPENT = threading.local()  # .cpu_s: CPU time of the commands that this thread has run


def config(cache: Path, lm: str) -> ModelConfig:
    """16 tokens of frames and 2 of audio a second: 432 tokens of 24 s. A timestamp every 2 s, also beside 48
    tokens: times are answered by what stands in the prompt."""
    return ModelConfig(
        name="real-small-stack",
        media=MediaConfig(size_px=224, rate_fps=1.0),
        video=VisionConfig(base=str(dinov2_small(cache)), layer=-3, pool=4, reuse_below=0.01),
        audio=AudioConfig(base=str(whisper_tiny(cache)), pool=25),
        segments=SegmentConfig(length_s=8.0),
        merge=MergeConfig(tokens_per_segment={"video": 128, "*": 16}),
        memory=MemoryConfig(kind="none"),
        llm=LLMConfig(
            base=str(LMS[lm](cache)), max_new_tokens=16, timestamp="\n{start}s", timestamp_share=1.0
        ),
    )  # fmt: skip


def longcompress(*words: str | Path) -> None:
    """Run a command of longcompress, and print it."""
    print("$ longcompress", *words, flush=True)
    command = [sys.executable, "-m", "longcompress", *map(str, words)]
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    SPENT.cpu_s = getattr(SPENT, "cpu_s", 0.0) + used.ru_utime + used.ru_stime
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def cpu_s() -> float:
    """CPU time of this thread and of the commands that it has run."""
    return time.thread_time() + getattr(SPENT, "cpu_s", 0.0)


class Stages:
    """Runs what is not complete, and keeps how long everything took, on the clock and in CPU time, in
    FOLDER/results.json. Two threads may run stages at a time."""

    def __init__(self, out: Path) -> None:
        self.path, self._lock = out / RESULTS, threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        empty: dict[str, dict] = {"seconds": {}, "cpu_seconds": {}, "figures": {}}
        self.values = json.loads(self.path.read_text()) if self.path.is_file() else empty

    def __call__(self, name: str, is_done: bool, do: Callable[[], object]) -> None:
        """Run a stage unless it is complete. An interrupted run of it counts too."""
        if is_done:
            return
        start = {"seconds": time.monotonic(), "cpu_seconds": cpu_s()}
        try:
            do()
        finally:
            with self._lock:
                for kind, now in (("seconds", time.monotonic()), ("cpu_seconds", cpu_s())):
                    spent = self.values[kind]
                    spent[name] = round(spent.get(name, 0.0) + now - start[kind], 1)
                self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf8")

    def figures(self, name: str, measure: Callable[[], dict]) -> None:
        """Keep what is measured; what has been is not measured again."""

        def do() -> None:
            value = measure()
            with self._lock:
                self.values["figures"][name] = value

        self(f"score {name}", name in self.values["figures"], do)
        print(name, json.dumps(self.values["figures"][name], indent=1), flush=True)


def train(recipe: Path, out: Path, *words: str | Path) -> None:
    """`longcompress train`, which goes on where it was interrupted."""
    resume = ["--resume"] if any(out.glob("checkpoint-*/trainer_state.json")) else []
    longcompress("train", recipe, "--out", out, *words, *resume)


def main(words: Sequence[str] | None = None) -> dict[str, dict]:
    """All stages; the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--cache", type=Path, help="folder of what is fetched; OUT/cache if not given")
    parser.add_argument("--lm", choices=list(LMS), default="gemma", help="language model")
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--data", type=Path, help="OUT of a run whose videos and shards to use")
    parser.add_argument("--photos", type=int, default=VIDEOS["photos_train"][1], help="to train on")
    parser.add_argument("--videos", type=int, default=VIDEOS["events_train"][1], help="of 24 s to train on")
    parser.add_argument("--align-steps", type=int, default=60)
    parser.add_argument("--boundary-steps", type=int, default=150)
    parser.add_argument("--without", nargs="*", default=[], choices=["control", "compare"], help="skip these")
    options = parser.parse_args(words)
    out: Path = options.out
    cache: Path = options.cache or out / "cache"
    stages = Stages(out)
    model, data = out / "model", options.data or out
    media, shards = data / "media", data / "shards"

    def make_model() -> None:
        whole = LongCompress.from_config(config(cache, options.lm), device="cpu", dtype="bfloat16")
        whole.save_pretrained(model)

    stages("fetch and load the models", (model / "config.json").is_file(), make_model)
    nums = {"photos_train": options.photos, "events_train": options.videos}
    for name, (part, whole, compose, seed) in VIDEOS.items():
        num = nums.get(name, whole)
        records = media / name / "records.jsonl"
        stages(
            f"compose {name}", records.is_file(),
            lambda: compose(material(cache)[part], num, media / name, seed),  # noqa: B023 - called at once
        )  # fmt: skip

    def encode(names: Sequence[str]) -> None:
        for name in names:
            stages(
                f"encode {name}", (shards / name / "index.json").is_file(),
                lambda: longcompress(
                    "shards", "make", media / name / "records.jsonl", "--out", shards / name,  # noqa: B023
                    "--model", model, "--device", "cpu", "--dtype", "bfloat16", "--threads", "1",
                ),
            )  # fmt: skip

    def align(arm: str, init: str) -> None:
        """Train on photos with captions, and measure."""
        trained = out / arm / "model"
        stages(
            f"train {arm}", (trained / "config.json").is_file(),
            lambda: train(
                HERE / "align.yaml", out / arm, "--model", model, "--init", init,
                "--shards", shards / "photos_train", "--eval-shards", shards / "photos_test",
                "--steps", str(options.align_steps), "--seed", str(options.seed),
            ),
        )  # fmt: skip
        stages.figures(f"{arm} photos", lambda: score.photos(trained, shards / "photos_test"))

    final = out / "boundary" / "model"

    def measure() -> None:
        """Measure the last model, and the first with names that were never trained."""
        for name in ("events_test", "events_names"):
            stages.figures(f"boundary {name}", lambda: score.events(final, shards / name))  # noqa: B023
        stages.figures("align names", lambda: score.names(out / "align" / "model", shards / "photos_names"))

    def learn(beside: ThreadPoolExecutor) -> None:
        """All stages from encoding on, on two cores: one for this thread, one for what is beside it."""
        events_encoded = beside.submit(encode, [name for name in VIDEOS if name.startswith("events")])
        encode([name for name in VIDEOS if name.startswith("photos")])
        waiting = [events_encoded]
        if "control" not in options.without:
            waiting.append(beside.submit(align, "control", "keep"))
        align("align", "auto")
        events_encoded.result()
        stages(
            "train boundary", (final / "config.json").is_file(),
            lambda: train(
                HERE / "boundary.yaml", out / "boundary", "--model", out / "align" / "model",
                "--shards", shards / "events_train", "--eval-shards", shards / "events_test",
                "--steps", str(options.boundary_steps), "--seed", str(options.seed),
                "--engine.threads", CORES,
            ),
        )  # fmt: skip
        waiting.append(beside.submit(measure))
        if "compare" not in options.without:
            stages(
                "compare", (out / "compare" / "compare.md").is_file(),
                lambda: longcompress(
                    "eval", "compare", "activitynet-grounding", "--videos", media / "events_test",
                    "--reference", media / "events_test" / "reference.json",
                    "--model", final, "--device", "cpu", "--dtype", "bfloat16",
                    "--prompt", "When: {question}", "--times", "whole_seconds",
                    "--methods", *METHODS, "--budgets", *BUDGETS, "--score", "R@0.5",
                    "--out", out / "compare",
                ),
            )  # fmt: skip
        for task in waiting:
            task.result()

    with ThreadPoolExecutor(1) as beside:
        try:
            learn(beside)
        except BaseException:
            beside.shutdown(wait=False, cancel_futures=True)  # what waits beside is not begun
            raise
    print((out / RESULTS).read_text())
    return stages.values


if __name__ == "__main__":
    main()
