"""Scenes by PySceneDetect, which LongVALE's pipeline cuts with."""

from typing import Literal

Detector = Literal["novelty", "content", "adaptive"]


def detect_scenes(
    source: str, detector: Detector, part: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """(start_s, end_s) of each scene of a local file, or of a part of it from that part's start, with
    PySceneDetect's thresholds. ImportError without the package, ValueError for what it can't read."""
    try:
        import scenedetect
    except ImportError as error:
        need = "pip install scenedetect opencv-python-headless"
        raise ImportError(f"detector {detector!r} needs PySceneDetect ({error}): {need}") from error
    if "://" in source:
        raise ValueError(f"detector {detector!r} reads files alone, got {source}; use detector 'novelty'")
    kinds = {"content": scenedetect.ContentDetector, "adaptive": scenedetect.AdaptiveDetector}
    start_s, end_s = part or (0.0, None)
    try:
        scenes = scenedetect.detect(
            source, kinds[detector](), start_time=start_s, end_time=end_s, start_in_scene=True
        )
    except scenedetect.VideoOpenFailure as error:
        raise ValueError(
            f"{source}: PySceneDetect can't read it ({error}); use detector 'novelty'"
        ) from error
    return [(first.get_seconds() - start_s, last.get_seconds() - start_s) for first, last in scenes]
