"""QVHighlights: windows of a video that a query describes, and how well each 2 s clip shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..metrics.bootstrap import means_of
from ..metrics.highlights import (
    LENGTHS,
    Window,
    clip_ratings,
    highlights,
    highlights_of_each,
    moments,
    moments_of_each,
    of_length,
)
from ..metrics.intervals import FloatArray, Interval
from ..metrics.relevance import Curve, clip_scores
from .answers import events_of
from .files import Record, one_file, read_records, write_lines
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task

CLIP_S = 2.0


@dataclass(frozen=True)
class Relevant:
    """What is right for a query: windows, and (clips, raters) ratings, None where there are none."""

    windows: tuple[Interval, ...]
    ratings: FloatArray | None


@dataclass(frozen=True)
class Found:
    """What was said of a query; None where the file has nothing of that kind."""

    windows: tuple[Window, ...] | None
    ratings: tuple[float, ...] | None


def read_queries(paths: Sequence[Path]) -> list[Example[Relevant]]:
    """highlight_val_release.jsonl and the like."""
    out = []
    for record in read_records(one_file(paths, "gold")):
        duration_s = record.number("duration")
        windows = tuple(
            record.span(one, f"relevant_windows {i}")
            for i, one in enumerate(record.items("relevant_windows"), 1)
        )
        ratings = None
        if record.has("saliency_scores"):
            try:
                ratings = clip_ratings(
                    duration_s, record.items("relevant_clip_ids"), record.items("saliency_scores")
                )
            except (ValueError, TypeError) as error:
                raise record.fault(
                    "'relevant_clip_ids' and 'saliency_scores' must be as many, 3 ratings each", str(error)
                ) from error
        out.append(
            Example(
                record.name("qid"),
                record.name("vid"),
                record.text("query"),
                Relevant(windows, ratings),
                duration_s,
            )
        )
    return out


def found_in(text: str, example: Example[Relevant], how: How) -> Found | None:
    """All windows that an answer names, the best first; clips whose middle is in one are rated 1, others 0.

    That is how the papers score models that can't rate clips.
    """
    events = events_of(text, example, how, last_included=False)
    if not events:
        return None
    windows = tuple((start_s, end_s, 1.0) for start_s, end_s, _ in events)
    middles = [CLIP_S * (i + 0.5) for i in range(int((example.duration_s or 0.0) / CLIP_S))]
    ratings = tuple(
        float(any(start_s <= middle < end_s for start_s, end_s, _ in windows)) for middle in middles
    )
    return Found(windows, ratings)


def read_found(paths: Sequence[Path], examples: Sequence[Example[Relevant]], how: How) -> Predictions[Found]:
    """The official lines: {"qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"}.

    MMDuet's, {"question_id", "debug_data": [{"time", "relevance_score"}]}, rate clips by their frames.
    """
    known = {one.id: one for one in examples}
    said: dict[str, Said[Found]] = {}
    twice = []
    for record in read_records(one_file(paths, "pred")):
        key = record.name("qid", "id", "question_id")
        if key in said:
            twice.append(key)
        elif record.has("pred_relevant_windows", "pred_saliency_scores"):
            said[key] = Said("", Found(_windows(record), _ratings(record)))
        elif record.has("debug_data"):
            said[key] = Said("", Found(None, _streamed(record)))
        else:
            text = record.text("answer", "pred")
            said[key] = Said(text, found_in(text, known[key], how) if key in known else None)
    return Predictions(said, tuple(twice))


def _windows(record: Record) -> tuple[Window, ...] | None:
    if not record.has("pred_relevant_windows"):
        return None
    out: list[Window] = []
    for i, one in enumerate(record.items("pred_relevant_windows"), 1):
        name = f"pred_relevant_windows {i}"
        if not isinstance(one, list) or len(one) not in (2, 3):
            raise record.fault(f"{name} must be [start, end, score]", one)
        start_s, end_s, score = (record.as_number(value, name) for value in [*one, 1.0][:3])
        out.append((start_s, end_s, score))
    return tuple(out)


def _ratings(record: Record) -> tuple[float, ...] | None:
    if not record.has("pred_saliency_scores"):
        return None
    return tuple(
        record.as_number(one, "pred_saliency_scores") for one in record.items("pred_saliency_scores")
    )


def _streamed(record: Record) -> tuple[float, ...]:
    """Ratings of clips from a relevance score a frame; what has none counts 0, as in MMDuet's script."""
    frames = record.records("debug_data")
    times = [one.number("time", "video_time") for one in frames]
    scores = []
    for one in frames:
        score = one.value.get("relevance_score", 0.0)
        scores.append(one.as_number(score[-1] if isinstance(score, list) else score, "'relevance_score'"))
    try:
        return tuple(clip_scores(Curve(times, scores), clip_s=CLIP_S))
    except ValueError as error:
        raise record.fault("'debug_data' must have frames at an even rate", str(error)) from error


def write_found(path: Path, examples: Sequence[Example[Relevant]], said: Mapping[str, Said[Found]]) -> None:
    """The official lines; an answer that could not be read has no windows."""
    lines = []
    for one in examples:
        if one.id not in said:
            continue
        found = said[one.id].value or Found((), ())
        line: dict[str, object] = {
            "qid": int(one.id) if one.id.isdecimal() else one.id,
            "query": one.question,
            "vid": one.video,
        }
        if found.windows is not None:
            line["pred_relevant_windows"] = [list(window) for window in found.windows]
        if found.ratings is not None:
            line["pred_saliency_scores"] = list(found.ratings)
        lines.append(line)
    write_lines(path, lines)


def score_found(examples: Sequence[Example[Relevant]], said: Mapping[str, Said[Found]], how: How) -> Scored:
    """Moment retrieval as "MR/...", highlights as "HD/..."; what the file has nothing of is left out."""
    windows = {one.id: one.truth.windows for one in examples}
    ratings = {one.id: one.truth.ratings for one in examples if one.truth.ratings is not None}
    unread = Found((), ())
    found = {key: one.value or unread for key, one in said.items()}
    our_windows = {key: one.windows for key, one in found.items() if one.windows is not None}
    our_ratings = {key: one.ratings for key, one in found.items() if one.ratings is not None}
    metrics: dict[str, object] = {}
    each: dict[str, dict[str, float]] = {}
    tables: dict[str, Mapping[str, Mapping[str, float]]] = {}
    if our_windows or not our_ratings:
        metrics |= {f"MR/{name}": value for name, value in moments(windows, our_windows).items()}
        of_each = moments_of_each(windows, our_windows)
        for name in ("mAP", "R1@0.5", "R1@0.7", "mIoU"):
            each[f"MR/{name}"] = {key: one[name] for key, one in of_each.items()}
        tables["MR/"] = of_each
        for name in LENGTHS:
            tables[f"MR/{name}/"] = moments_of_each(of_length(windows, name), our_windows)
    if ratings and (our_ratings or not our_windows):
        metrics |= {f"HD/{name}": value for name, value in highlights(ratings, our_ratings).items()}
        clips = highlights_of_each(ratings, our_ratings)
        for name in ("mAP@VeryGood", "HIT1@VeryGood"):
            each[f"HD/{name}"] = {key: one[name] for key, one in clips.items()}
        tables["HD/"] = clips
    videos = {one.id: one.video for one in examples}
    return Scored(metrics, each, lambda: [means_of(_columns(tables), videos)])


def _columns(tables: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Each number of each query, by its name first."""
    out: dict[str, dict[str, float]] = {}
    for begin, of_each in tables.items():
        for key, numbers in of_each.items():
            for name, value in numbers.items():
                out.setdefault(f"{begin}{name}", {})[key] = value
    return out


QVHIGHLIGHTS = Task(
    about="windows for a query and ratings of 2 s clips, in videos of 150 s; mAP, R1, HIT@1",
    where="highlight_val_release.jsonl of github.com/jayleicn/moment_detr, data CC BY-NC-SA 4.0",
    read=read_queries,
    prompts={
        DEFAULT: lambda example: (
            f"Which parts of the video show this: {example.question.rstrip('.')}? List them, the best first, "
            "with start and end in seconds, like this: From 12.0 to 15.5 seconds."
        )
    },
    parse=found_in,
    read_predictions=read_found,
    write_predictions=write_found,
    score=score_found,
)
