"""`longcompress bench boundaries`: boundaries against the truth of synthetic videos, beside fixed windows."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from ..presets import load
from ..synthetic.scenes import Scene, make_scene, write_video
from .boundaries import BoundaryConfig, Span, find_boundaries, merged

TOLERANCES_S = (0.5, 2.0)
KINDS = ("video", "audio", "events")
Times = list[float]  # rising


def bench_boundaries(
    *, model: str = "tiny", num: int = 20, seconds: float = 120.0, seed: int = 21_000_000,
    boundaries: BoundaryConfig,
) -> None:  # fmt: skip
    """Measure the F1 of boundaries on synthetic videos, beside as many windows of equal length.

    Args:
        model: preset, folder or hub name, whose video encoder says what changes.
        num: number of videos.
        seconds: length of each.
        seed: of the first.
    """
    loaded = load(model)
    pairs: dict[str, list[tuple[Times, Times]]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as folder:
        for number in range(num):
            scene = make_scene(seed + number, seconds)
            path = write_video(scene, Path(folder) / "video.mp4")
            bounds = find_boundaries(loaded, str(path), boundaries)
            spans = (bounds.scenes, bounds.sounds, bounds.events(boundaries.max_sound_s))
            for kind, spans_of, known in zip(KINDS, spans, truth(scene), strict=True):
                pairs[kind].append((edges(spans_of, seconds), known))
    print(f"{'boundaries':12}{'F1 at ' + ' / '.join(f'{t:g} s' for t in TOLERANCES_S):>20}{'windows':>16}")
    for kind, each in pairs.items():
        fixed = [(windows(len(times), seconds), known) for times, known in each]
        figures = [" / ".join(f"{f1(some, t):.3f}" for t in TOLERANCES_S) for some in (each, fixed)]
        print(f"{kind:12}{figures[0]:>20}{figures[1]:>16}")


def truth(scene: Scene) -> tuple[Times, Times, Times]:
    """Where objects come and go, where sounds do, and the boundaries of both merged as LongVALE does."""
    video, audio = ([(e.start_s, e.end_s) for e in scene.of(kind)] for kind in ("video", "audio"))
    length_s = scene.duration_s
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
