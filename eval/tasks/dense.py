"""Everything that happens, told with its times: ActivityNet Captions, and the scorer that LongVALE shares."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ..metrics.bootstrap import Corpus, means_of
from ..metrics.captions import meteor, meteor_of_pairs
from ..metrics.dense import dense_captions, dense_corpus
from ..metrics.soda import Captioned, soda_c, soda_of_each
from ..metrics.words import ascii_only
from .answers import events_of
from .event_references import whole_videos
from .files import Record, is_lines, one_file, read_object, write_json
from .spoken import read_spoken
from .task import DEFAULT, Example, How, Predictions, Said, Scored, Task, asked

Events: TypeAlias = tuple[Captioned, ...]
Annotated: TypeAlias = tuple[Events, ...]  # of each annotator

# huangb23/VTimeLLM, vtimellm/eval/eval.py, CC BY-NC-ND 4.0: three sentences, quoted for comparison.
VTIMELLM = (
    "Could you please describe the events in the video in detail? Be specific about the activities of "
    "individuals, their surroundings, and interactions with others. The output should be in JSON format, "
    'structured as follows: {"event": "xx", "timestamps": "from xx to xx"}.'
)
DEFAULT_PROMPT = (
    "List what happens in the video, in order of time, one event a line, each with its start and end in "
    "seconds, like this: From 12.0 to 15.5 seconds, a dog jumps over a fence."
)


class PairScores:
    """METEOR of pairs of texts, each asked once."""

    def __init__(self, how: How) -> None:
        self._how = how
        self._known: dict[tuple[str, str], float] = {}
        swapped = ", arguments swapped" if how.compat == "paper" else ""
        self.__name__ = meteor(how.meteor).name + swapped

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        scores = meteor_of_pairs(new, self._how.meteor, swapped=self._how.compat == "paper")
        self._known |= dict(zip(new, scores, strict=True))
        return [self._known[pair] for pair in pairs]


def score_events(
    examples: Sequence[Example[Annotated]], said: Mapping[str, Said[Events]], how: How
) -> Scored:
    """SODA_c (of the first annotator) and the ActivityNet protocol; no events that could be read score 0."""
    predicted = {key: list(one.value or ()) for key, one in said.items()}
    most = max((len(one.truth) for one in examples), default=1)
    gold = [
        {one.id: list(one.truth[i]) for one in examples if len(one.truth) > i} for i in range(max(most, 1))
    ]
    scorer = PairScores(how)
    story = soda_c(gold[0], predicted, scorer=scorer, compat=how.compat)
    protocol = dense_captions(gold, predicted, which_meteor=how.meteor, compat=how.compat)
    plain = ascii_only if how.compat == "paper" else str
    kept = {one.id for one in asked(examples, said, how)}
    each = soda_of_each(
        {key: _in(plain, some) for key, some in gold[0].items() if key in kept},
        {key: _in(plain, some) for key, some in predicted.items()},
        scorer,
    )
    metrics = {name: story[name] for name in ("SODA_c", "SODA_c_precision", "SODA_c_recall", "scorer")}

    def corpora() -> list[Corpus]:
        sides = {
            "SODA_c_precision": {key: one.precision for key, one in each.items()},
            "SODA_c_recall": {key: one.recall for key, one in each.items()},
        }
        told = dense_corpus(gold, predicted, which_meteor=how.meteor, compat=how.compat)
        return [means_of(sides, {key: key for key in each}), told]

    return Scored(metrics | protocol, {"SODA_c": {key: one.f1 for key, one in each.items()}}, corpora)


def _in(plain: type[str] | object, events: Sequence[Captioned]) -> list[Captioned]:
    assert callable(plain)
    return [(start_s, end_s, plain(text)) for start_s, end_s, text in events]


def read_results(whole: Record, twice: Sequence[str]) -> Predictions[Events]:
    """The official form: {"results": {video: [{"sentence", "timestamp": [start, end]}]}}."""
    results = whole.within(whole.get("results"), "results")
    said: dict[str, Said[Events]] = {}
    for video in results.value:
        told = tuple(
            (*one.span(one.get("timestamp"), "'timestamp'"), one.text("sentence", "caption"))
            for one in results.records(video)
        )
        said[video] = Said("", told)
    return Predictions(said, tuple(key for key in twice if key in said))


def read_told(paths: Sequence[Path], examples: Sequence[Example[Annotated]], how: How) -> Predictions[Events]:
    """The official form, VTimeLLM's or LongVALE's log, or our own lines."""
    if is_lines(one_file(paths, "pred")):
        return read_spoken(paths, examples, how, task="captioning", parse=events_of)
    return read_results(*read_object(paths[0]))


def write_results(
    path: Path, examples: Sequence[Example[Annotated]], said: Mapping[str, Said[Events]]
) -> None:
    """The official form; a video whose answer could not be read has an empty list."""
    results = {
        one.id: [
            {"sentence": text, "timestamp": [start_s, end_s]}
            for start_s, end_s, text in said[one.id].value or ()
        ]
        for one in examples
        if one.id in said
    }
    write_json(
        path, {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}
    )


ACTIVITYNET_DENSE = Task(
    about="all that happens in a video of 2 min, with times; SODA_c, CIDEr, METEOR, ROUGE-L, BLEU, F1",
    where="val_1.json (and val_2.json, a second annotator) of ActivityNet Captions, as activitynet-grounding",
    read=whole_videos,
    prompts={DEFAULT: lambda example: DEFAULT_PROMPT, "vtimellm": lambda example: VTIMELLM},
    times={"vtimellm": "hundredths"},
    parse=events_of,
    read_predictions=read_told,
    write_predictions=write_results,
    score=score_events,
)
