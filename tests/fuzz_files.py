"""The whole small files that `fuzz_bytes` damages, and what a command may say of a damaged file."""

import contextlib
import io
import json
import re
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

# What binds `load` as it is imported comes first: imported while that is patched, it would keep the patch.
import longcompress.annotate.measure
import longcompress.cli.shards
import longcompress.cli.weights
import longcompress.train.tiny.recipe  # noqa: F401
from longcompress.cli import main as cli
from longcompress.model import LongCompress

from models import model as make_model
from videos import Video, write

SMALL = Video(
    size=(32, 32), stamps=range(0, 1500, 100), beeps=(0.5,), audio_s=1.5, options={"threads": "1"}
)  # fmt: skip
EXACT = {"fflags": "+bitexact"}  # no random numbers in headers
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
MEDIA = {  # name of a file -> video codec, audio codec, pixel format, sample rate
    "mp4": ("libx264", "aac", "yuv420p", 16000), "mkv": ("libx264", "pcm_s16le", "yuv420p", 16000),
    "mov": ("mpeg4", "pcm_s16le", "yuv420p", 16000), "ts": ("libx264", "mp2", "yuv420p", 16000),
    "avi": ("mpeg4", "libmp3lame", "yuv420p", 16000), "webm": ("libvpx", "libopus", "yuv420p", 48000),
    "flv": ("flv", "libmp3lame", "yuv420p", 22050), "mpg": ("mpeg1video", "mp2", "yuv420p", 48000),
    "wmv": ("wmv2", "libmp3lame", "yuv420p", 22050), "nut": ("ffv1", "flac", "yuv420p", 16000),
    "fragments.mp4": ("libx264", "aac", "yuv420p", 16000), "gif": ("gif", None, "rgb8", 16000),
    "ogg": (None, "libopus", "", 48000), "wav": (None, "pcm_s16le", "", 16000),
    "floats.wav": (None, "pcm_f32le", "", 16000), "mp3": (None, "libmp3lame", "", 16000),
    "flac": (None, "flac", "", 16000), "aac": (None, "aac", "", 16000),
    "aiff": (None, "pcm_s16be", "", 16000),
}  # fmt: skip
EVENTS = [
    {"start_s": 0.2, "end_s": 1.0, "text": "red ball"},
    {"start_s": 1, "end_s": 1.4, "text": "blue box"},
]
ANNOTATIONS = {
    "duration_s": 1.5, "events": EVENTS, "captions": ["a red ball"], "source": "test",
    "dialogues": [[{"role": "user", "text": "when <s0>"}, {"role": "assistant", "text": "from 0 to 1"}]],
    "meta": {"token": {"<s0>": 0.5}, "split": [0.0, 1.4]},
}  # fmt: skip


@dataclass
class Bases:
    """The model, and the folder of the whole files that are damaged."""

    model: LongCompress
    folder: Path

    def load(self, *_: object, **__: object) -> LongCompress:
        """The model with its first config: what the commands load, without loading it again."""
        assert self.model.video is not None
        self.model.config = self.model.config.__class__(**self._config)
        self.model.video.config = self.model.config.video
        return self.model

    def __post_init__(self) -> None:
        self._config = dict(self.model.config.__dict__)
        for suffix, (codec, audio_codec, pix_fmt, rate_hz) in MEDIA.items():
            video = Video(**SMALL.__dict__ | {
                "codec": codec, "audio_codec": audio_codec, "pix_fmt": pix_fmt, "audio_hz": rate_hz,
                "container_options": EXACT | (FRAGMENTS if "fragments" in suffix else {}), "layout": "mono",
                "stamps": range(0, 1500, 40) if suffix == "mpg" else SMALL.stamps,
            })  # fmt: skip
            write(self.folder / f"base.{suffix}", video)
        words = ["compress", str(self.folder / "base.mp4"), "--out", str(self.folder / "base.lcm")]
        words += ["--thumbnails", "2"]
        assert not self.faults_of(words, (0,), ""), "the whole files must pass"
        records = self.folder / "records"
        records.mkdir()
        for name in ("v0", "v1"):
            shutil.copy(self.folder / "base.mp4", records / f"{name}.mp4")
            own = ANNOTATIONS | ({} if name == "v0" else {"meta": {"token": {"<s0>": 0.5}}})
            (records / f"{name}.json").write_text(json.dumps(own))
        shards = self.folder / "shards"
        faults = self.faults_of(["shards", "make", str(records), "--out", str(shards)], (0,), "")
        assert not faults, faults
        shutil.rmtree(shards / "parts")

    def faults_of(self, words: Sequence[str], codes: Sequence[int], names: str) -> list[str]:
        """What is wrong with how a command ends: exit code, what it says, what it leaves.

        Args:
            words: of the command.
            codes: exit codes that are fine.
            names: pattern of which an error says something.
        """
        return self.judge(lambda: cli.main(words), " ".join(words[:2]), codes, names)

    def judge(self, command: Callable[[], int], name: str, codes: Sequence[int], names: str) -> list[str]:
        """`faults_of` of a function that ends as a command does."""
        stderr, faults = io.StringIO(), []
        hooks = (mock.patch(f"{place}.load", self.load) for place in (
            "longcompress.presets", "longcompress.cli.shards",
        ))  # fmt: skip
        with contextlib.ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(hook)
            stack.enter_context(mock.patch.object(sys, "unraisablehook", lambda a: faults.append(str(a))))
            stack.enter_context(mock.patch.object(threading, "excepthook", lambda a: faults.append(str(a))))
            stack.enter_context(contextlib.redirect_stderr(stderr))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            try:
                code = command()
            except Exception as error:  # what a person would see as a traceback
                where = re.findall(r'File "[^"]*?([\w/]+\.py)", line (\d+)', _trace(error))
                at = ":".join(where[-1]) if where else ""
                faults.append(f"{type(error).__name__} at {at}: {str(error)[:300]}")
                code = None
        lines = stderr.getvalue().splitlines()
        if code is not None and code not in codes:
            faults.append(f"exit code {code}, wanted one of {codes}: {lines[-1:]}")
        faults += [
            f"no line of ours: {line[:300]}" for line in lines if not line.startswith("longcompress: ")
        ]
        errors = [line for line in lines if line.startswith("longcompress: error: ")]
        if code not in (1, None) and (code == 0) == bool(errors):
            faults.append(f"exit code {code} with {len(errors)} errors")
        if len(errors) > 1 and "make" not in name:  # which names each video that failed
            faults.append(f"{len(errors)} errors: {errors}")
        faults += [f"no file or argument in: {line[:300]}" for line in errors if not re.search(names, line)]
        faults += [f"an error of {len(line)} characters: {line[:200]}" for line in errors if len(line) > 2000]
        return [f"{name}: {fault}" for fault in faults]


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@cache
def make_bases() -> Bases:
    """The whole files, once a process."""
    folder = tempfile.TemporaryDirectory()
    bases = Bases(make_model(), Path(folder.name))
    bases.until_exit = folder  # type: ignore[attr-defined]
    return bases
