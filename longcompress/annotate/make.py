"""Videos to records with events: a restartable unit of work a video, then files of all and a report.

A folder has `parts/KEY.json` of each finished video. While captions are written it has `KEY.draft.json`, so
that an interrupted video goes on with the next event. `KEY.failed.json` says why a video can't be used.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..events.subtitles import SUFFIXES, Cues, read_subtitles
from ..files import parse_json, write_json
from ..llm.transcriber import Transcriber
from ..media import probe
from ..media.text_track import read_text_track
from ..model import LongCompress
from ..train.data.convert import save_records
from ..train.records import Record, faults, parse_record
from ..train.shards.make import PARTS, Result, each, make_share, try_part
from ..train.shards.remote import STORES, Remote, ends_work, fetched, place_of
from ..types import Event
from .boundaries import BoundaryConfig, find_boundaries
from .captions import Captioner, CaptionError, Clip, caption_of
from .report import report_of, seconds_of
from .transcripts import transcribe

SETTINGS = "settings.json"


@dataclass(frozen=True)
class FilterConfig:
    """Which videos are left out, each with its reason in the report. LongVALE takes 30 to 600 s, 360 lines.

    Attributes:
        min_duration_s: of a video.
        max_duration_s: likewise; 0: any.
        min_height_px: of its shorter side, where it has frames.
        max_still: share of frames that repeat the one before, as in a slide show; 1: any.
        max_speech: share of the time that subtitles cover; 1: any. LongVALE takes 0.95.
    """

    min_duration_s: float = 0.0
    max_duration_s: float = 0.0
    min_height_px: int = 0
    max_still: float = 1.0
    max_speech: float = 1.0

    def reason(self, duration_s: float, still: float, height_px: int, speech: float) -> str:
        """Why a video is left out; "" where it isn't."""
        if duration_s < self.min_duration_s:
            return f"shorter than {self.min_duration_s:g} s"
        if 0 < self.max_duration_s < duration_s:
            return f"longer than {self.max_duration_s:g} s"
        if 0 < height_px < self.min_height_px:
            return f"fewer than {self.min_height_px} lines"
        if speech > self.max_speech:
            return f"more than {self.max_speech:g} of it is speech"
        return f"more than {self.max_still:g} of it is still" if still > self.max_still else ""


@dataclass(frozen=True)
class Annotator:
    """All that makes a record of a video.

    Attributes:
        model: its video encoder says what changes.
        captioner: None: events keep empty texts.
        on_failure: of a caption. "again": the video stays unfinished, and another run asks for the missing
            captions alone. "drop": the event is left out and counted.
        subtitles: "auto": those beside a video, else those in it; "none".
        transcriber: what is said becomes text where a record and its video have none; None: it doesn't.
        protocols: where videos may come from.
    """

    model: LongCompress
    captioner: Captioner | None
    boundaries: BoundaryConfig = field(default_factory=BoundaryConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    on_failure: Literal["again", "drop"] = "again"
    subtitles: Literal["auto", "none"] = "auto"
    transcriber: Transcriber | None = None
    protocols: tuple[str, ...] = ("file",)


def annotate(
    records: Sequence[Record], out: str | Path, annotator: Annotator, **options: Any
) -> list[Result]:
    """Make the parts of some videos; parts that exist are left alone.

    Args:
        records: of all videos. The events of a record that has some are left as they are.
        out: folder.
        annotator: what makes them.
        options: of `make_share`.

    Raises:
        ValueError: the folder was begun with other settings, or as `make_share`.
        EndpointDown: the captioner's; what was finished stays.
        OSError: the disk is full, or a store is down; likewise.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    listener, path = annotator.transcriber, out / SETTINGS
    text = {"transcribe": listener and listener.name, "language": listener and listener.language}
    settings = {**asdict(annotator.boundaries), **asdict(annotator.filters), **text}
    if path.is_file():
        before = parse_json(path.read_bytes(), str(path))
        if other := [name for name in settings if settings[name] != before.get(name)]:
            was, now = before.get(other[0]), settings[other[0]]
            raise ValueError(f"{out} was begun with {other[0]} {was}, got {now}; take another folder")
    write_json(path, settings)
    return make_share(records, out, each(partial(make_part, annotator=annotator)), **options)


def make_part(record: Record, folder: Path, annotator: Annotator) -> Result:
    """The unit of work: a video to folder/KEY.json, whole or not at all; or the reason to KEY.failed.json."""
    path, draft = folder / f"{record.key}.json", folder / f"{record.key}.draft.json"

    def write(content: dict[str, Any]) -> None:
        _save(path, content)
        draft.unlink(missing_ok=True)

    return try_part(record, folder, path, partial(_annotated, record, annotator, draft), write)


def finish(out: str | Path, records: Sequence[Record]) -> dict[str, Any]:
    """The report; writes it to report.json, records to records.jsonl and longvale.json. A pure function of
    the parts, of which some may be missing: these are counted."""
    out, contents, annotated = Path(out), {}, []
    for record in sorted(records, key=lambda r: r.key):
        status, path = "missing", out / PARTS / f"{record.key}.json"
        failed = path.with_name(f"{record.key}.failed.json")
        content: dict[str, Any] = {}
        if path.is_file():
            content = parse_json(path.read_bytes(), str(path))
            status = "filtered" if content["filtered"] else "annotated"
            if status == "annotated":
                annotated.append(parse_record(content["record"], Path(), str(path)))
        elif failed.is_file():
            content, status = parse_json(failed.read_bytes(), str(failed)), "failed"
        contents[record.key] = content | {"status": status}
    report = report_of(contents, annotated)
    save_records(annotated, out / "records.jsonl")
    write_json(out / "longvale.json", longvale(annotated), ensure_ascii=False)
    _save(out / "report.json", report)
    return report


def longvale(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Records as LongVALE writes its annotations: by the video's name, or by key where two have the same."""
    names = Counter(Path(record.video).stem for record in records)
    return {
        stem if names[stem := Path(record.video).stem] == 1 else record.key: {
            "duration": record.duration_s,
            "timestamps": [[event.start_s, event.end_s] for event in record.events],
            "sentences": [event.text for event in record.events],
        }
        for record in records
    }


def _annotated(record: Record, annotator: Annotator, draft: Path) -> dict[str, Any]:
    """The content of a finished part; ValueError where captions are missing, which the draft has in part."""
    with fetched(record.video, annotator.protocols) as video:
        if draft.is_file():
            content = parse_json(draft.read_bytes(), str(draft))
        else:
            content = _begun(record, video, annotator)
        if content["filtered"] or record.events or annotator.captioner is None:
            return content
        return _captioned(content, video, annotator, annotator.captioner, draft)


def _begun(record: Record, video: str, annotator: Annotator) -> dict[str, Any]:
    """A part whose events have no captions yet. `video` is where its video can be read."""
    protocols = annotator.protocols
    info = probe(video, protocols=protocols)
    bounds = find_boundaries(
        annotator.model, video, annotator.boundaries, part=record.part, protocols=protocols
    )
    height_px = min(info.width, info.height) if info.has_video else 0
    cues = Cues(list(record.text))
    if not record.text and annotator.subtitles == "auto":
        first_s = record.part[0] if record.part else 0.0
        cues = _cues_of(record.video, video, protocols).within(first_s, first_s + bounds.duration_s)
    known = partial(annotator.filters.reason, bounds.duration_s, bounds.still, height_px)
    listener = annotator.transcriber
    is_transcribed = listener is not None and info.has_audio and not cues.events and not known(0.0)
    if listener is not None and is_transcribed:
        spoken = transcribe(listener, video, part=record.part, protocols=protocols)
        spoken = spoken.within(0.0, bounds.duration_s)
        cues = Cues(spoken.events, cues.faults + spoken.faults, cues.places + spoken.places)
    reason = known(seconds_of(cues.events) / bounds.duration_s)
    spans = bounds.events(annotator.boundaries.max_sound_s)
    events = record.events or tuple(Event(round(a, 3), round(b, 3)) for a, b in spans)
    begun = replace(record, duration_s=bounds.duration_s, events=events, text=tuple(cues.events))
    if lines := faults(replace(begun, events=record.events)):
        raise ValueError("; ".join(lines))
    return {
        "record": _plain(begun), "filtered": reason, "failures": {}, "still": bounds.still,
        "scenes": bounds.scenes, "sounds": bounds.sounds, "transcribed": is_transcribed,
        "text_faults": dict(cues.faults), "text_places": cues.places,
    }  # fmt: skip


def _cues_of(name: str, video: str, protocols: Sequence[str]) -> Cues:
    """The subtitles beside a video or in it; a file that can't be read is a fault of theirs alone.

    Args:
        name: the video's path or URL.
        video: where it can be read.
        protocols: where it may come from.
    """
    cues = Cues()
    try:
        if (path := _beside(name, video)) is not None:
            return read_subtitles(path)
        track, wrong = read_text_track(video, protocols=protocols)
        for start_s, end_s, text in track:
            cues.add(start_s, end_s, text, f"{start_s:g} s")
    except (ValueError, OSError) as error:
        if ends_work(error):
            raise
        wrong = str(error).replace(str(Path(video).with_suffix("")), name.rpartition(".")[0])
    if wrong:
        cues.fault("can't be read", wrong)
    return cues


def _beside(name: str, video: str) -> Path | None:
    """The file of subtitles of a video's name beside it, of which the first kind counts; a store's is copied
    beside `video`."""
    if "://" in name and name.partition("://")[0] not in STORES:
        return None
    stem = name.removesuffix(Path(name).suffix)
    place = next((place for suffix in SUFFIXES if (place := place_of(stem + suffix)).is_file()), None)
    if not isinstance(place, Remote):
        return place
    path = Path(video).with_suffix(Path(str(place)).suffix)
    place.fetch(path)
    return path


def _captioned(
    content: dict[str, Any], video: str, annotator: Annotator, captioner: Captioner, draft: Path
) -> dict[str, Any]:
    """The content with the captions that came. ValueError: some are missing, and another run asks again."""
    begun = parse_record(content["record"], Path(), str(draft))
    events, first_s = list(begun.events), begun.part[0] if begun.part else 0.0
    failures: Counter[str] = Counter()
    reasons = []
    for i, event in enumerate(events):
        _save(draft, content | {"record": _plain(replace(begun, events=tuple(events)))})
        if event.text:
            continue
        cues = [cue.text for cue in begun.text if cue.start_s < event.end_s and cue.end_s > event.start_s]
        clip = Clip(
            video, first_s + event.start_s, first_s + event.end_s, " ".join(cues),
            events[i - 1].text if i else "", annotator.protocols,
        )  # fmt: skip
        try:
            events[i] = replace(event, text=caption_of(captioner, clip))
        except CaptionError as error:
            failures[error.kind] += 1
            reasons.append(f"event {i} at {event.start_s:g} s: {error.kind}: {error}")
    finished = replace(begun, events=tuple(event for event in events if event.text))
    if reasons and annotator.on_failure == "again":
        _save(draft, content | {"record": _plain(replace(begun, events=tuple(events)))})
        counts = ", ".join(f"{num} {kind}" for kind, num in sorted(failures.items()))
        raise ValueError(
            f"{len(reasons)} of {len(events)} events have no caption ({counts}), the first: {reasons[0]}; "
            "run again to ask for these alone"
        )
    return content | {"record": _plain(finished), "failures": dict(failures)}


def _plain(record: Record) -> dict[str, Any]:
    """The record as JSON, its video by its whole path."""
    video = record.video if "://" in record.video else str(Path(record.video).resolve())
    return record.to_json() | {"video": video}


def _save(path: Path, content: dict[str, Any]) -> None:
    write_json(path, content, ensure_ascii=False, sort_keys=True)
