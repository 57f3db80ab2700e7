"""QVHighlights: windows of a video that a query describes, and how well each 2 s clip shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.bootstrap import means_of
from ..metrics.highlights import CLIP_S, clip_ratings, clip_scores, highlights, moments
from .answers import events_of
from .files import Record, one_file, read_records
from .forms import each_record, lines_file, number_or_text, question_prompt
from .task import DEFAULT, Answers, Entries, Example, How, Paths, Prediction, Scored, Task

PROMPT = (
    "Which parts of the video show this: {}? List them, the best first, with start and end in seconds, like "
    "this: From 12.0 to 15.5 seconds."
)
MAIN = ("MR/mAP", "MR/R1@0.5", "MR/R1@0.7", "MR/mIoU", "HD/mAP@VeryGood", "HD/HIT1@VeryGood")


@dataclass(frozen=True)
class Relevance:
    """Windows for a query and ratings of clips; None where a file has nothing of that kind."""

    windows: Sequence[Any] | None = ()
    ratings: Any = ()


@each_record
def read_queries(record: Record) -> Iterator[Example]:
    """highlight_val_release.jsonl and the like."""
    duration_s, ratings, windows = record.number("duration"), None, record.spans("relevant_windows")
    if record.has("saliency_scores"):
        clips, scores = record.items("relevant_clip_ids"), record.items("saliency_scores")
        try:
            ratings = clip_ratings(duration_s, clips, scores)
        except (ValueError, TypeError) as error:
            needed = "'relevant_clip_ids' and 'saliency_scores' must be as many, 3 ratings each"
            raise record.fault(needed, str(error)) from error
    key, video, query = record.name("qid"), record.name("vid"), record.text("query")
    yield Example(key, video, query, Relevance(windows, ratings), duration_s)


def relevance_in(text: str, example: Example, how: How) -> Relevance | None:
    """All windows that an answer names, the best first; clips whose middle is in one are rated 1, others 0.

    That is how the papers score models that can't rate clips.
    """
    events = events_of(text, example, how, last_included=False)
    if not events:
        return None
    middles = [CLIP_S * (i + 0.5) for i in range(int((example.duration_s or 0.0) / CLIP_S))]
    ratings = tuple(float(any(start <= middle < end for start, end, _ in events)) for middle in middles)
    return Relevance(tuple((start_s, end_s, 1.0) for start_s, end_s, _ in events), ratings)


def read_relevance(paths: Paths, examples: Sequence[Example], how: How) -> Entries:
    """The official lines: {"qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"}.

    MMDuet's, {"question_id", "debug_data": [{"time", "relevance_score"}]}, rate clips by their frames.
    """
    for record in read_records(one_file(paths, "pred")):
        key = record.name("qid", "id", "question_id")
        if record.has("pred_relevant_windows", "pred_saliency_scores"):
            yield key, Prediction("", _official(record))
        elif record.has("debug_data"):
            yield key, Prediction("", Relevance(None, _streamed(record)))
        else:
            yield key, record.text("answer", "pred")


def _official(record: Record) -> Relevance:
    """Windows and ratings of an official line."""
    windows = ratings = None
    if record.has(name := "pred_saliency_scores"):
        ratings = tuple(record.as_number(item, name) for item in record.items(name))
    if record.has(name := "pred_relevant_windows"):
        windows = []
        for i, item in enumerate(record.items(name), 1):
            if not isinstance(item, list) or len(item) not in (2, 3):
                raise record.fault(f"{name} {i} must be [start, end, score]", item)
            start_s, end_s, score = (record.as_number(value, f"{name} {i}") for value in [*item, 1.0][:3])
            windows.append((start_s, end_s, score))
    return Relevance(None if windows is None else tuple(windows), ratings)


def _streamed(record: Record) -> tuple[float, ...]:
    """Ratings of clips from a relevance score a frame; what has none counts 0, as in MMDuet's script."""
    times, scores = [], []
    for frame in record.records("debug_data"):
        times.append(frame.number("time", "video_time"))
        score = frame.value.get("relevance_score", 0.0)
        scores.append(frame.as_number(score[-1] if isinstance(score, list) else score, "'relevance_score'"))
    try:
        return tuple(clip_scores(times, scores))
    except ValueError as error:
        raise record.fault("'debug_data' must have frames at an even rate", str(error)) from error


def line_of(example: Example, prediction: Prediction) -> dict[str, object]:
    """The official line; an answer that could not be read has no windows."""
    value = prediction.value or Relevance()
    line = {"qid": number_or_text(example.id), "query": example.question, "vid": example.video}
    lists = {"pred_relevant_windows": value.windows, "pred_saliency_scores": value.ratings}
    return line | {name: values for name, values in lists.items() if values is not None}


def score_relevance(answers: Answers) -> Scored:
    """Moment retrieval as "MR/...", highlights as "HD/..."; a kind that the file lacks is left out."""
    truths, values = answers.column("truth"), answers.values(Relevance())
    windows = {key: truth.windows for key, truth in truths.items()}
    ratings = {key: truth.ratings for key, truth in truths.items() if truth.ratings is not None}
    our_windows = {key: value.windows for key, value in values.items() if value.windows is not None}
    our_ratings = {key: value.ratings for key, value in values.items() if value.ratings is not None}
    scores = {}
    if our_windows or not our_ratings:
        scores["MR"] = moments(windows, our_windows)
    if ratings and (our_ratings or not our_windows):
        scores["HD"] = highlights(ratings, our_ratings)
    metrics: dict[str, Any] = {}
    columns: dict[str, dict[str, float]] = {}
    for kind, (of_all, of_each) in scores.items():
        metrics |= {f"{kind}/{name}": value for name, value in of_all.items()}
        columns |= {f"{kind}/{name}": column for name, column in of_each.items()}
    each = {name: columns[name] for name in MAIN if name in columns}
    return Scored(metrics, each, [means_of(columns, answers.column("video"))])


QVHIGHLIGHTS = Task(
    about="windows for a query and ratings of 2 s clips, in videos of 150 s; mAP, R1, HIT@1",
    where="highlight_val_release.jsonl of github.com/jayleicn/moment_detr, data CC BY-NC-SA 4.0",
    read=read_queries,
    prompts={DEFAULT: question_prompt(PROMPT)},
    parse=relevance_in,
    entries=read_relevance,
    write=lines_file("predictions.json", line_of),
    score=score_relevance,
    request=lambda example: example.question,
)
