"""`longcompress live calibrate`: when a model speaks, chosen on labelled videos and tested on others."""

import json as jsons
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json
from .common import ModelOptions, check_positive, check_writable, load_model, reading, writing
from .output import print_table

if TYPE_CHECKING:
    from ..config import MediaConfig
    from ..config_live import TriggerConfig
    from ..eval.runner.sources import Source
    from ..media.reader import Reading

REQUEST = "Tell me when this happens: {}"


def calibrate(
    *, out: str, records: str | None = None, minutes: list[float] | None = None, num_videos: int = 4,
    alarms_per_hour: float | None = None, tolerance_s: float = 2.0, limit: int | None = None,
    write: bool = False, json: bool = False, options: ModelOptions,
) -> None:  # fmt: skip
    """Choose the trigger's threshold on every other video, and test it on the rest.

    Args:
        out: FILE.jsonl of what was scored; the same command resumes it.
        records: JSON lines of videos with events: a reply is due at the start of each. Synthetic videos if
            not given.
        minutes: lengths of synthetic videos; 5 if not given.
        num_videos: synthetic videos of each length.
        alarms_per_hour: the most false alarms in a quiet hour; the threshold of the best F1 if not given.
        tolerance_s: how late a reply may come.
        limit: only the first requests.
        write: put the trigger into the config.json of the model, which must be a folder.
        json: one JSON object instead of a table.
    """
    from ..eval.runner.calibrate import choose, curves_of
    from ..eval.runner.live import LiveArms, run_live
    from ..eval.runner.run_file import RunConfig, read_run
    from ..eval.runner.sources import from_scenes
    from ..eval.tasks.synthetic import Synthetic
    from ..eval.tasks.synthetic_alerts import TASK

    check_positive(tolerance_s=tolerance_s)
    folder = Path(options.model)
    if write and not (folder / "config.json").is_file():
        raise ValueError(f"--write needs --model to be a folder with a config.json, got {options.model}")
    if not out.endswith(".jsonl"):
        raise ValueError(f"--out must end in .jsonl, got {out}")
    check_writable(Path(out))
    if records is not None:
        if minutes:
            raise ValueError("--minutes is of synthetic videos; leave it out, or --records")
        with reading():
            source = from_records(records)
    else:
        source = from_scenes(TASK, Synthetic(tuple(minutes or [5.0]), num_videos))
    model = load_model(options)
    trigger = model.config.live.for_heads(getattr(model.llm, "heads", None) is not None).trigger
    run_live(source, model, out, RunConfig(limit=limit), LiveArms(), num_draws=0)
    run = read_run(Path(out))
    assert run is not None
    examples = source.examples[:limit]
    curves = curves_of(examples, run.lines, trigger.heads)
    chosen, report = choose(
        trigger, examples, curves, tolerance_s=tolerance_s, max_alarms_per_hour=alarms_per_hour
    )
    if write:
        with writing(str(folder)):
            write_trigger(folder / "config.json", chosen)
    if json:
        print(jsons.dumps(report))
        return
    for name in ("chosen", "tested"):
        rows = [(key, *_cells(value)) for key, value in report[name].items()]
        print_table(f"{name}: {report[f'num_{name}']} requests", rows)
    print(f"threshold {chosen.threshold} of rule {chosen.rule}, heads {' '.join(chosen.heads)}")
    print(f"written to {folder / 'config.json'}" if write else f"--live.trigger.threshold {chosen.threshold}")


def write_trigger(path: Path, trigger: "TriggerConfig") -> None:
    """Put a trigger into the config.json of a saved model."""
    values = jsons.loads(path.read_text())
    values.setdefault("live", {})["trigger"] = asdict(trigger)
    write_json(path, values, indent=2)


def from_records(path: str) -> "Source":
    """A request for each text of events of records, due whenever an event of that text starts.

    Raises:
        ValueError: no record has an event.
    """
    from ..eval.runner.run_file import file_hash
    from ..eval.runner.sources import Source
    from ..eval.tasks.synthetic_alerts import TASK, Due
    from ..eval.tasks.task import Example
    from ..media import reader as media
    from ..train.records import read_records

    known = {record.key: record for record in read_records(Path(path))}
    examples = []
    for key, record in known.items():
        for number, text in enumerate(dict.fromkeys(event.text for event in record.events)):
            due = tuple((e.start_s, e.end_s) for e in record.events if e.text == text)
            request = REQUEST.format(text)
            examples.append(Example(f"{key}-{number}", key, request, Due(due), record.duration_s))
    if not examples:
        raise ValueError(f"--records {path} must have records with events, got none")

    def read(name: str, config: "MediaConfig", on_warning: Callable[[str], Any]) -> "Reading":
        record = known[name]
        return media.read(record.video, config, part=record.part, on_warning=on_warning)

    def frame_size(name: str) -> tuple[int, int]:
        info = media.probe(known[name].video)
        return info.width, info.height

    pins = {"reference": [Path(path).name], "reference_sha256": [file_hash(Path(path))], "synthetic": None}
    return Source(TASK, examples, pins | {"durations_sha256": None}, read, frame_size)


def _cells(score: dict[str, Any]) -> tuple[str, str]:
    """A score and its interval."""
    mean, low, high = score["mean"], score["low"], score["high"]
    interval = "" if low is None else f"{low:.3f} to {high:.3f}"
    return "" if mean is None else f"{mean:.3f}", interval
