"""Real photos on real backgrounds, and real sounds, become videos with known events.

Held out are backgrounds, all compositions on them, and names: photos whose name no training video has.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from packages import SCRATCH, STAMPS, unpack
from PIL import Image
from tqdm import tqdm

from longcompress.config import MediaConfig
from longcompress.media import read
from longcompress.media.write import write
from longcompress.types import Audio

SIZE_PX, RATE_HZ, RATE_FPS = 224, 16000, 2
SECONDS, NUM_PHOTOS, NUM_SOUNDS = 24, 4, 2  # of a video with events
HELD_BACKGROUNDS, HELD_NAMES = 10, 30
LEFT_OUT = re.compile(r"symbols/|cartoon|sign|spotlight|stars|chalkboard")  # drawn, or nothing but text
SHORT_NAME = re.compile(r"((A|An|The|Some) )?[A-Za-z'-]+( [A-Za-z'-]+){0,2}\.")
SOUNDS = ("Animal", "Effects", "Human")  # folders of scratch

Image8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Item:
    """A photo or a sound, and the sentence that names it."""

    path: Path
    text: str


@dataclass(frozen=True)
class Material:
    """What videos are composed of."""

    photos: list[Item]
    sounds: list[Item]
    backgrounds: list[Path]


def material(cache: Path) -> dict[str, Material]:
    """ "train", "test" (the same photos and sounds, other backgrounds), "names" (other photos too)."""
    stamps = unpack(STAMPS, cache) / "tuxpaint" / "stamps"
    scratch = unpack(SCRATCH, cache) / "scratch" / "Media"
    photos, sounds = [], []
    for path in sorted(stamps.rglob("*.png")):
        lines = path.with_suffix(".txt")
        if LEFT_OUT.search(str(path.relative_to(stamps))) or not lines.is_file():
            continue
        text = lines.read_text(encoding="utf8", errors="replace").partition("\n")[0].strip()
        if SHORT_NAME.fullmatch(text):
            photos.append(Item(path, text))
            heard = [path.with_suffix(suffix) for suffix in (".ogg", ".wav")]
            sounds += [Item(p, f"The sound of {text[0].lower()}{text[1:]}") for p in heard if p.is_file()]
    for path in sorted(p for folder in SOUNDS for p in (scratch / "Sounds" / folder).iterdir()):
        if path.suffix in (".wav", ".mp3"):
            words = re.findall(
                "[A-Z]?[a-z]+", re.sub(r"male|female", "", path.stem.replace("SeaLion", "Sea lion"))
            )
            sounds.append(Item(path, f"The sound of {' '.join(words).lower()}."))
    backgrounds = [
        path
        for path in sorted((scratch / "Backgrounds").glob("*/*"))
        if path.suffix in (".jpg", ".gif", ".png") and not LEFT_OUT.search(path.name)
    ]
    rng = np.random.default_rng(17)
    backgrounds = [backgrounds[i] for i in rng.permutation(len(backgrounds))]
    names = sorted({item.text for item in photos})
    held = {names[i] for i in rng.permutation(len(names))[:HELD_NAMES]}
    known = [item for item in photos if item.text not in held]
    unknown = [item for item in photos if item.text in held]
    sounds = [
        item
        for item in sounds
        if item.text.removeprefix("The sound of ") not in {t[0].lower() + t[1:] for t in held}
    ]
    test, train = backgrounds[:HELD_BACKGROUNDS], backgrounds[HELD_BACKGROUNDS:]
    return {
        "train": Material(known, sounds, train),
        "test": Material(known, sounds, test),
        "names": Material(unknown, sounds, test),
    }


def composed(photo: Path, background: Path, rng: np.random.Generator) -> Image8:
    """(SIZE_PX, SIZE_PX, 3) a photo of a size, at a place, flipped or not, on a part of a background."""
    ground, image = Image.open(background).convert("RGB"), Image.open(photo).convert("RGBA")
    edge = min(ground.size)
    left, top = (int(rng.integers(0, side - edge + 1)) for side in ground.size)
    ground = ground.crop((left, top, left + edge, top + edge)).resize((SIZE_PX, SIZE_PX))
    image = image.crop(image.getbbox())
    scale = SIZE_PX * rng.uniform(0.5, 0.95) / max(image.size)
    image = image.resize(tuple(max(1, round(side * scale)) for side in image.size))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    place = tuple(int(rng.integers(0, SIZE_PX - side + 1)) for side in image.size)
    ground.paste(image, place, image)
    return np.asarray(ground)


def still(ground: Path, rng: np.random.Generator) -> Image8:
    """(SIZE_PX, SIZE_PX, 3) a part of a background alone."""
    image = Image.open(ground).convert("RGB")
    edge = min(image.size)
    left, top = (int(rng.integers(0, side - edge + 1)) for side in image.size)
    return np.asarray(image.crop((left, top, left + edge, top + edge)).resize((SIZE_PX, SIZE_PX)))


def sound(path: Path, seconds: int) -> NDArray[np.float32]:
    """(n,) so many seconds of a sound, over and over where it is shorter, its peak at 0.8."""
    with read(path, MediaConfig(video=False, rate_hz=RATE_HZ)) as parts:
        samples = np.concatenate([p.samples.numpy() for p in parts if isinstance(p, Audio)])
    samples = np.resize(samples, seconds * RATE_HZ)
    return (0.8 * samples / max(1e-3, np.abs(samples).max())).astype(np.float32)


def photo_videos(part: Material, num: int, out: Path, seed: int) -> Path:
    """records.jsonl of `num` videos of one frame, each with the caption of its photo."""
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for number in tqdm(range(num), desc=out.name, unit="photo", disable=None):
        rng, photo = np.random.default_rng([seed, number]), pick(part.photos, number, seed)
        background, path = (
            part.backgrounds[int(rng.integers(len(part.backgrounds)))],
            out / f"p{number:04d}.mp4",
        )
        records.append({"video": path.name, "captions": [photo.text]})
        if path.is_file():
            continue
        image = composed(photo.path, background, rng)
        write(
            path, lambda times, image=image: image[None].repeat(len(times), 0), None,
            duration_s=1, size_px=SIZE_PX, rate_fps=1, rate_hz=RATE_HZ,
        )  # fmt: skip
    return write_records(records, out)


def event_videos(part: Material, num: int, out: Path, seed: int) -> Path:
    """records.jsonl of `num` videos: four photos and two sounds of 3 or 4 s each, at whole seconds."""
    out.mkdir(parents=True, exist_ok=True)
    records = []
    for number in tqdm(range(num), desc=out.name, unit="video", disable=None):
        rng, path = np.random.default_rng([seed, number]), out / f"v{number:04d}.mp4"
        seen, heard = (
            (spans(each, rng), [pick(items, each * number + i, seed) for i in range(each)])
            for each, items in ((NUM_PHOTOS, part.photos), (NUM_SOUNDS, part.sounds))
        )
        events = [
            {"start_s": start, "end_s": end, "text": item.text}
            for times, items in (seen, heard)
            for (start, end), item in zip(times, items, strict=True)
        ]
        events.sort(key=lambda event: event["start_s"])
        records.append({"video": path.name, "duration_s": SECONDS, "events": events})
        if path.is_file():
            continue
        background = part.backgrounds[int(rng.integers(len(part.backgrounds)))]
        frames = still(background, rng)[None].repeat(SECONDS * RATE_FPS, 0)
        for (start, end), item in zip(*seen, strict=True):
            frames[start * RATE_FPS : end * RATE_FPS] = composed(item.path, background, rng)
        wave = rng.normal(0, 1e-3, SECONDS * RATE_HZ).astype(np.float32)
        for (start, end), item in zip(*heard, strict=True):
            wave[start * RATE_HZ : end * RATE_HZ] += sound(item.path, end - start) * rng.uniform(0.4, 1)
        write(
            path,
            lambda times, frames=frames: frames[np.rint(times * RATE_FPS).astype(int)],
            lambda start, end, wave=wave: wave[round(start * RATE_HZ) : round(end * RATE_HZ)].clip(-1, 1),
            duration_s=SECONDS, size_px=SIZE_PX, rate_fps=RATE_FPS, rate_hz=RATE_HZ,
        )  # fmt: skip
    return write_records(records, out)


def spans(num: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """(start, end) in seconds of `num` events of 3 or 4 s, each in its part of the video."""
    slot_s, lengths = SECONDS // num, rng.integers(3, 5, num).tolist()
    starts = [
        slot * slot_s + int(rng.integers(0, slot_s - length + 1)) for slot, length in enumerate(lengths)
    ]
    return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def pick(items: Sequence[Item], number: int, seed: int) -> Item:
    """The item of that number in an endless order: all in random order, again and again."""
    round_, place = divmod(number, len(items))
    return items[int(np.random.default_rng([seed, 1 << 20, round_]).permutation(len(items))[place])]


def write_records(records: Sequence[dict], out: Path) -> Path:
    """The records as JSON lines, and, where they have events, as ActivityNet's file for `eval`."""
    path = out / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    reference = {
        record["video"].removesuffix(".mp4"): {
            "duration": SECONDS,
            "timestamps": [[e["start_s"], e["end_s"]] for e in record["events"]],
            "sentences": [e["text"] for e in record["events"]],
        }
        for record in records
        if "events" in record
    }
    if reference:
        (out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n", encoding="utf8")
    return path
