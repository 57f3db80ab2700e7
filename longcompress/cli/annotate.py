"""`longcompress annotate`: videos without labels to records with events, their captions and times."""

import json as to_json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..annotate import make
from ..annotate.boundaries import BoundaryConfig
from ..annotate.captions import PROMPT, Captioner, Endpoint, EndpointDown, function_captioner, model_captioner
from ..llm.transcriber import Transcriber
from ..model import LongCompress
from .common import Failed, ModelOptions, complain, folder_of, load_model, reading
from .shards import JobOptions, _records_of, with_protocol


@dataclass(frozen=True)
class CaptionOptions:
    """Who writes captions.

    Attributes:
        captions: "model": that whose encoder finds the boundaries; "none": nobody; the URL of a server with
            OpenAI's protocol, as http://localhost:8000/v1; or a function, module:function.
        prompt: what is asked of each event.
        caption_budget: tokens of an event, for "model"; the model's own number if not given.
        served_model: name of the model at a URL.
        key_env: environment variable with the key of a URL.
        frames: of an event that are sent to a URL.
        send_audio: send a URL the event's audio too.
        timeout_s: wait for a URL.
        tries: of a request to a URL.
        on_failure: of a caption: "again" leaves the video to another run; "drop" leaves the event out.
        subtitles: "auto": NAME.srt, .vtt, ... beside a video, else its first text track; "none".
        transcribe: folder or hub name of a Whisper: what is said becomes text where there are no subtitles.
        language: that is spoken, as en; else the Whisper says it of each window.
    """

    captions: str = "model"
    prompt: str = PROMPT
    caption_budget: int | None = None
    served_model: str = ""
    key_env: str = "OPENAI_API_KEY"
    frames: int = 8
    send_audio: bool = False
    timeout_s: float = 120.0
    tries: int = 3
    on_failure: Literal["again", "drop"] = "again"
    subtitles: Literal["auto", "none"] = "auto"
    transcribe: str | None = None
    language: str | None = None

    def transcriber(self, model: LongCompress) -> Transcriber | None:
        """What writes what is said, beside the model."""
        if self.transcribe is None:
            if self.language is not None:
                raise ValueError(f"--language {self.language} is of --transcribe; give both")
            return None
        weight = next(model.parameters())
        transcriber = Transcriber.load(self.transcribe, self.language, dtype=weight.dtype)
        transcriber.model.to(weight.device)
        return transcriber

    def captioner(self, model: LongCompress) -> Captioner | None:
        """The function that writes them."""
        if self.captions == "none":
            return None
        if self.captions == "model":
            return model_captioner(model, self.prompt, self.caption_budget)
        if "://" not in self.captions:
            return function_captioner(self.captions)
        return Endpoint(
            self.captions, self.served_model, os.environ.get(self.key_env, ""), self.prompt, self.frames,
            audio=self.send_audio, timeout_s=self.timeout_s, tries=self.tries,
        )  # fmt: skip


def annotate(
    source: str, *, out: str, json: bool = False, caption: CaptionOptions, boundaries: BoundaryConfig,
    filters: make.FilterConfig, job: JobOptions, options: ModelOptions,
    protocols: tuple[str, ...] = ("file",),
) -> int:  # fmt: skip
    """Cut videos into events and caption them. Run again it goes on; run without --shard it reports.

    Args:
        source: folder of videos (NAME.json beside NAME.mp4 is its record) or JSONL file of records, here
            or in a bucket: s3://BUCKET/NAME.
        out: folder of records.jsonl, longvale.json and report.json.
        json: the whole report as JSON instead of a few lines.
        protocols: where videos may come from: file https s3 hf; that of the source may.
    """
    records, folder = _records_of(source), folder_of(out)
    model = load_model(options)
    annotator = make.Annotator(
        model, caption.captioner(model), boundaries, filters, caption.on_failure, caption.subtitles,
        caption.transcriber(model), with_protocol(protocols, source),
    )  # fmt: skip
    try:
        results = make.annotate(records, folder, annotator, **job.options())
    except EndpointDown as error:
        raise Failed(3, str(error)) from error
    for result in results:
        if result.status == "failed":
            complain("error", f"{result.key}: {result.reason}")
    if int(job.shard.split("/")[1]) == 1:
        with reading():
            report = make.finish(folder, records)
        print(to_json.dumps(report) if json else lines_of(report, folder))
    return 3 if any(result.status == "failed" for result in results) else 0


def lines_of(report: dict[str, Any], folder: Path) -> str:
    """A report in a few lines."""
    counts = ", ".join(f"{num} {name}" for name, num in report["videos"].items())
    lines = [
        f"{folder}: {counts}; {report['events']} events in {report['hours']:.2f} hours",
        f"coverage {report['coverage']:.1%}; {report['overlapping']} events overlap "
        f"({report['overlap_s']:.1f} s), {report['duplicates']} repeat a caption of their video, "
        f"{report['empty']} have none",
    ]
    lines += [f"left out: {num} videos {reason}" for reason, num in report["filtered"].items()]
    if report["cues"] or report["text_faults"]:
        wrong = ", ".join(f"{num} {kind}" for kind, num in report["text_faults"].items()) or "none"
        lines.append(f"{report['cues']} texts, {report['transcribed']} videos transcribed; faults: {wrong}")
    lines += [f"events dropped: {num} {kind}" for kind, num in report["dropped_events"].items()]
    return "\n".join(lines)
