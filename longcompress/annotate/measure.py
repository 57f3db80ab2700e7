"""`longcompress bench boundaries`: boundaries against known ones, beside windows and other detectors."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from ..presets import load
from ..synthetic.scenes import Scene, make_scene, write_video
from .boundaries import BoundaryConfig, Span, find_boundaries, merged
from .composed import clips_in, compose, recordings_in, write_composition
from .detectors import Detector

TOLERANCES_S = (0.5, 2.0)
KINDS = ("video", "audio", "events")
Times = list[float]  # rising
Truth = tuple[Times, Times, Times]  # of KINDS


def bench_boundaries(
    *, model: str = "tiny", num: int = 20, seconds: float = 120.0, seed: int = 21_000_000,
    clips: str | None = None, recordings: str | None = None, beside: tuple[Detector, ...] = (),
    boundaries: BoundaryConfig,
) -> None:  # fmt: skip
    """Measure the F1 of boundaries where they are known, beside as many windows of equal length.

    Args:
        model: preset, folder or hub name, whose video encoder says what changes.
        num: number of videos.
        seconds: length of each.
        seed: of the first.
        clips: folder of videos without cuts, to cut together; without it, synthetic videos.
        recordings: folder of audio files that are laid under the clips.
        beside: further detectors of scenes, on the same videos.
    """
    loaded = load(model)
    detectors = dict.fromkeys([boundaries.detector, *beside])
    pairs: dict[tuple[str, str], list[tuple[Times, Times]]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        for known, length_s in _videos(path, num, seconds, seed, clips, recordings):
            for detector in detectors:
                bounds = find_boundaries(loaded, str(path), replace(boundaries, detector=detector))
                spans = (bounds.scenes, bounds.sounds, bounds.events(boundaries.max_sound_s))
                for kind, spans_of, of_kind in zip(KINDS, spans, known, strict=True):
                    times = edges(spans_of, length_s)
                    pairs.setdefault((kind, detector), []).append((times, of_kind))
                    if detector == boundaries.detector:
                        even = windows(len(times), length_s)
                        pairs.setdefault((kind, "windows"), []).append((even, of_kind))
    tolerances = " / ".join(f"{t:g} s" for t in TOLERANCES_S)
    print(f"{'boundaries':12}{'by':10}{'true':>6}{'cut':>6}{'F1 at ' + tolerances:>20}")
    for (kind, name), each in sorted(pairs.items(), key=lambda pair: KINDS.index(pair[0][0])):
        if kind == "audio" and name in beside and name != boundaries.detector:
            continue  # the same for all detectors of scenes
        true, cut = (sum(len(pair[i]) for pair in each) for i in (1, 0))
        figures = " / ".join(f"{f1(each, t):.3f}" for t in TOLERANCES_S)
        name = "changes" if kind == "audio" and name != "windows" else name
        print(f"{kind:12}{name:10}{true:6}{cut:6}{figures:>20}")


def _videos(
    path: Path, num: int, seconds: float, seed: int, clips: str | None, recordings: str | None
) -> Iterator[tuple[Truth, float]]:
    """What is known of each video, and its length, while it lies at `path`."""
    if clips is None and recordings is not None:
        raise ValueError(f"--recordings {recordings} are laid under clips; give --clips too")
    shots = {} if clips is None else clips_in(clips)
    sounds = {} if recordings is None else recordings_in(recordings)
    for number in range(seed, seed + num):
        if clips is None:
            scene = make_scene(number, seconds)
            write_video(scene, path)
            yield truth(scene), seconds
        else:
            composition = compose(shots, sounds, seconds, number)
            write_composition(composition, sounds, path)
            seen = [shot.span for shot in composition.shots]
            heard = [sound.span for sound in composition.sounds]
            yield truth_of(seen, heard, composition.duration_s), composition.duration_s


def truth(scene: Scene) -> Truth:
    """Where objects come and go, where sounds do, and the boundaries of both merged as LongVALE does."""
    video, audio = ([(e.start_s, e.end_s) for e in scene.of(kind)] for kind in ("video", "audio"))
    return truth_of(video, audio, scene.duration_s)


def truth_of(video: Sequence[Span], audio: Sequence[Span], length_s: float) -> Truth:
    """The same, of spans that are seen and of such that are heard."""
    scenes = list(pairwise([0.0, *edges(video, length_s), length_s]))
    return edges(video, length_s), edges(audio, length_s), edges(merged(scenes, audio), length_s)


def edges(spans: Iterable[Span], duration_s: float) -> Times:
    """The ends of spans, each once, without those of the video."""
    return sorted({time for span in spans for time in span if 0 < time < duration_s})


def windows(num: int, duration_s: float) -> Times:
    """`num` times that cut a video into equal parts."""
    return [duration_s * (i + 1) / (num + 1) for i in range(num)]


def num_matches(times: Sequence[float], known: Sequence[float], tolerance_s: float) -> int:
    """The most pairs of rising times, each used once, that are at most `tolerance_s` apart."""
    i = j = num = 0
    while i < len(times) and j < len(known):
        if abs(times[i] - known[j]) <= tolerance_s:
            i, j, num = i + 1, j + 1, num + 1
        elif times[i] < known[j]:
            i += 1
        else:
            j += 1
    return num


def f1(pairs: Iterable[tuple[Sequence[float], Sequence[float]]], tolerance_s: float) -> float:
    """F1 of (times, true times) of videos, all counted together."""
    pairs = list(pairs)
    total = sum(len(times) + len(known) for times, known in pairs)
    return 2 * sum(num_matches(*pair, tolerance_s) for pair in pairs) / total if total else 0.0
