"""Samples of live sessions are what a live session reads, and their loss is of the scores that it gives."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch

import longcompress as lc
from longcompress.config_live import HEADS, LiveConfig, TriggerConfig
from longcompress.llm.live import CausalParts, embed, join_parts
from longcompress.llm.prompt import IGNORED
from longcompress.session import Session
from longcompress.session_events import Scored
from longcompress.synthetic.requests import KINDS, joint_labels, request
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, audio, clip_events, frames, make_scene
from longcompress.train.data.live_samples import LiveSample, LiveTask, collate_live, sample_parts
from longcompress.train.engine import Engine
from longcompress.train.tiny.clips import load_clips, save_clips
from longcompress.train.tiny.duet import DuetConfig, DuetMix, LiveVideos, splice_live, with_heads
from longcompress.train.tiny.encoders import SCENE_PX, half
from longcompress.train.tiny.live_clips import LIVE_CLIP_CLASSES, make_live_clips
from longcompress.train.tiny.recipe import TinyRecipe, train_tiny
from longcompress.train.trainer import run
from longcompress.types import Audio, Frames

import models

SEED, SECONDS, BUDGET = 5, 40, 2000  # a budget that nothing is merged for before the past is
QUIET = LiveConfig(
    TriggerConfig("single", 1.0, ("relevance",)), near_s=8, past=20, text_tokens=60, max_reply_tokens=9
)
TEXT = "when does the red ball appear"


@pytest.fixture(scope="module")
def model():
    return models.with_heads()


@pytest.fixture(scope="module")
def clip(model):
    return make_live_clips(model, [SEED], SECONDS, model.config.merge.tokens_per_segment, progress=False)[0]


def pushed(model, live, texts):
    """(session, its events) after each second of the scene that the clip is of."""
    scene = make_scene(SEED, SECONDS)
    pixels = half(frames(scene, np.arange(SECONDS), size_px=SCENE_PX))
    sound = Audio(torch.from_numpy(audio(scene, 0.0, SECONDS)), 0.0)
    session = Session(model, BUDGET, live=live, patience_s=100.0)
    for second in range(SECONDS):
        for text in texts.get(second, []):
            session.push_text(text, reply="may")
        events = session.push(sound.cut(second * sound.rate_hz, (second + 1) * sound.rate_hz))
        events += session.push(
            Frames(pixels[second : second + 1], torch.tensor([float(second)]).double(), 1.0)
        )
        yield session, events


def spliced(model, clip, start_s, num):
    closed = round(start_s / model.config.segments.length_s)
    past = QUIET.past if start_s else 0
    return splice_live([clip], 0, closed, model.merge_state(BUDGET), past, num)


def sample_of(model, clip, session, texts, read_s=0.0):
    """The sample of what the session has read; texts by second. At read_s it read all anew."""
    context = session.live.context
    start, num = context.now.prefix.start_s, len(context.now.steps)
    video = spliced(model, clip, start, num)
    rows = [text for at, of in texts.items() for text in of if at <= read_s]  # these stand before near
    for second, step in enumerate(video.steps, int(start)):
        rows += [*(texts.get(second, []) if second > read_s else []), step]
    return LiveSample(video.past if start else None, tuple(rows), {})


@torch.no_grad()
def regions(model, parts):
    """(name, ids, input embeddings) of the regions of a context, in its order; a past is read in slices."""
    return [
        (name, torch.cat([p.ids for p in of]), torch.cat([embed(model.llm, p) for p in of]))
        for name, group in groupby(parts, lambda part: part.region)
        for of in [list(group)]
    ]


@pytest.mark.parametrize("texts", [{0: [TEXT]}, {0: [TEXT], 3: ["what is seen"], 17: ["what happens"]}])
def test_a_sample_is_the_context_of_a_session_bit_for_bit(model, clip, texts):
    parts, moved = CausalParts(model.llm), {0.0: 0}  # where near begins, and when it was read
    for second, (session, _) in enumerate(pushed(model, QUIET, texts)):
        read_s = moved.setdefault(session.live.context.now.prefix.start_s, second)
        if second % 4 != 3:
            continue
        want = session.context()
        got = sample_parts(parts, sample_of(model, clip, session, texts, read_s))
        for (region, ids, x), (other, other_ids, other_x) in zip(
            regions(model, got), regions(model, want), strict=True
        ):
            assert region == other and torch.equal(ids, other_ids) and torch.equal(x, other_x)
    assert len(moved) > 3


def test_the_loss_is_of_the_scores_that_a_session_gives(model, clip):
    """Also of steps that aren't the last; and contexts that are joined are embedded as each alone."""
    parts, task, texts, scored = CausalParts(model.llm), LiveTask(model.llm), {0: [TEXT]}, []
    for session, events in pushed(model, QUIET, texts):
        start_s = session.live.context.now.prefix.start_s
        scored += [(start_s, event.scores) for event in events if isinstance(event, Scored)]
        if start_s:
            break
    scores = [row for start, row in scored[:-1] if not start]
    video = spliced(model, clip, 0.0, len(scores))
    labels = {name: [0] * len(scores) for name in HEADS}
    short = LiveSample(None, (TEXT, *video.steps[:4]), {"relevance": [1, 0, IGNORED, 0]}, TEXT, "red ball")
    batch = collate_live([LiveSample(None, (TEXT, *video.steps), labels, TEXT), short], parts)
    with torch.no_grad():
        out = task(**batch)
    for name in HEADS:
        want = torch.tensor([row[name] for row in scores])
        torch.testing.assert_close(out["scores"][name][: len(scores)], want, atol=1e-5, rtol=0)
    assert out["known"]["relevance"][len(scores) :].tolist() == [1, 0, 0]
    assert out["known"]["informative"][len(scores) :].tolist() == [IGNORED] * 3
    rows = [sample_parts(parts, short), sample_parts(parts, sample_of(model, clip, session, texts))]
    with torch.no_grad():
        joined = model.llm.embed(join_parts(rows, model.llm.names, 0))
        for i, row in enumerate(rows):
            alone = torch.cat([embed(model.llm, part) for part in row])
            torch.testing.assert_close(joined[i, : len(alone)], alone, atol=1e-5, rtol=0)


def test_the_reply_is_learned_after_the_question_of_a_session(model, clip):
    parts, tokenizer = CausalParts(model.llm), model.llm.tokenizer
    steps = spliced(model, clip, 0.0, 3).steps
    batch = collate_live([LiveSample(None, (TEXT, *steps), {}, TEXT, "red ball")], parts)
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    learned = labels != IGNORED
    assert ids[learned].tolist() == labels[learned].tolist()
    answer = tokenizer("red ball", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert ids.tolist()[-len(answer) :] == answer and int(learned.sum()) == len(answer)
    ask = parts.ask(TEXT, stands=True)
    assert ids.tolist()[-len(answer) - len(ask) : -len(answer)] == ask
    with pytest.raises(ValueError, match=r"labels\['relevance'\] must be 3, a label a step, got 2"):
        collate_live([LiveSample(None, (TEXT, *steps), {"relevance": [0, 1]})], parts)


def test_heads_without_a_gradient_end_the_training(model, clip, tmp_path):
    """MMDuet's released code trains no head, and doesn't say so."""
    steps = spliced(model, clip, 0.0, 3).steps
    sample = LiveSample(None, (TEXT, *steps), {"relevance": [0, 1, 1]}, TEXT, "red ball")
    parts, engine = CausalParts(model.llm), Engine(device="cpu", workers=0, report=[])
    model.requires_grad_(False)
    model.llm.heads.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"1 parameters of heads got a gradient of zero, such as '.*informative"
    ):
        run(
            LiveTask(model.llm), [[sample]], engine.arguments(tmp_path, steps=1, lr=1e-3),
            collate=lambda items: collate_live(items[0], parts),
        )  # fmt: skip
    with pytest.raises(ValueError, match="llm must have heads, got none"):
        LiveTask(models.model().llm)


def test_both_heads_learn(clip, tmp_path):
    model = models.with_heads()
    steps, labels = spliced(model, clip, 0.0, 6).steps, [0, 1, 1, 0, 0, 1]
    sample = LiveSample(None, (TEXT, *steps), dict.fromkeys(HEADS, labels), TEXT, "red ball")
    parts, task = CausalParts(model.llm), LiveTask(model.llm, positive=2.0)
    engine, before = Engine(device="cpu", workers=0, report=[]), model.llm.heads.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    model.requires_grad_(False)
    model.llm.heads.requires_grad_(True)
    model.llm.lm.requires_grad_(True)
    with torch.no_grad():
        first = task(**collate_live([sample], parts))
    args = engine.arguments(tmp_path, steps=10, lr=3e-3, decay=0.1)
    run(task, [[sample]] * 10, args, collate=lambda items: collate_live(items[0], parts), muon=True)
    with torch.no_grad():
        last = task(**collate_live([sample], parts))
    for name in ("heads_loss", "reply_loss"):
        assert last[name] < 0.9 * first[name], name
    assert all(not torch.equal(value, before[name]) for name, value in model.llm.heads.state_dict().items())


@pytest.fixture(scope="module")
def tiny_clips():
    tiny = lc.load("tiny", device="cpu")
    return make_live_clips(tiny, [7], 20.0, {"video": 48, "*": 10}, progress=False)


MIX = DuetMix(steps=6, videos=2, requests=3, clips=(0, 1), near=8, pasts=(32,), no_past=0.5, silent=0.5)


def test_samples_have_the_labels_of_their_requests(tiny_clips, tmp_path):
    """Of what the scene shows, in both heads; batches are a function of the step."""
    save_clips(tiny_clips, tmp_path / "clips.safetensors", LIVE_CLIP_CLASSES)
    tiny = lc.load("tiny", device="cpu")
    videos, again = (
        LiveVideos(clips, tiny.merge_state(), [MIX], 3)
        for clips in (tiny_clips, load_clips(tmp_path / "clips.safetensors", LIVE_CLIP_CLASSES))
    )
    samples = [sample for number in range(6) for sample in videos.batch(number)]
    assert [s.rows[-1].keys() for s in again.batch(2)] == [s.rows[-1].keys() for s in videos.batch(2)]
    assert [(s.labels, s.request, s.reply) for s in again.batch(2)] == [
        (s.labels, s.request, s.reply) for s in videos.batch(2)
    ]
    known = {name: [label for s in samples for label in s.labels[name]] for name in HEADS}
    assert all({0, 1, IGNORED} == {*labels} for labels in known.values())
    assert {bool(s.past) for s in samples} == {True, False} and {s.reply is None for s in samples} == {
        True,
        False,
    }
    for sample in samples:
        steps = [row for row in sample.rows if not isinstance(row, str)]
        assert sample.request in sample.rows and len(steps) == len(sample.labels["relevance"]) <= 8
    with pytest.raises(ValueError, match=r"duet.kinds must be of \('seen', .*got \['smelt'\]"):
        DuetMix(kinds={"smelt": 1.0})
    with pytest.raises(ValueError, match=r"duet.learned_from must be in \[0, near = 3\), got 4"):
        DuetMix(near=3)


def test_labels_are_of_all_requests_that_stand_and_a_reply_is_to_one(tiny_clips):
    """The last comes in the midst of near in half of the samples; a reply may be that there is nothing."""
    mix = replace(
        MIX, clips=(0,), no_past=1.0, silent=1.0, offset_tens=1, standing=(3,), waiting=0.5, replies=0.6,
        replies_due=0.5, false_replies=0.3,
    )  # fmt: skip
    videos = LiveVideos(tiny_clips, lc.load("tiny", device="cpu").merge_state(), [mix], 4)
    scenes = {}  # second of the clip at which near may begin -> text -> request
    names = [{"seen": seen, "heard": heard} for seen in OBJECTS for heard in SOUNDS]
    for first_s in (0.0, 10.0):
        twice = [
            replace(e, start_s=e.start_s + by_s, end_s=e.end_s + by_s)
            for by_s in (0.0, 20.0)
            for e in tiny_clips[0].events
        ]
        events = clip_events(twice, first_s, 40.0)
        asked = [request(kind, events, form=i, **name) for kind in KINDS for i in range(3) for name in names]
        scenes[first_s] = {item.text: item for item in asked}
    late, replies = 0, set()
    for sample in [sample for number in range(6) for sample in videos.batch(number)]:
        texts, possible = [row for row in sample.rows if isinstance(row, str)], []
        for known in scenes.values():
            want, standing = [], []
            for row in sample.rows:
                if isinstance(row, str):
                    standing.append(known[row])
                    continue
                label = joint_labels(standing, len(want))["informative"]
                want.append(IGNORED if label is None else label)
            possible.append(want)
        assert sample.labels["informative"] in possible and sample.request in texts
        late += len(texts) == 2 or sample.rows[2] != texts[2]
        if sample.reply is not None:
            last = len(sample.labels["informative"]) - 1
            replies.add(sample.reply == "nothing")
            assert sample.reply in [known[sample.request].reply(last) for known in scenes.values()]
    assert 0 < late < 36 and replies == {True, False}
    with pytest.raises(
        ValueError, match=r"duet.standing must be numbers of at least 1, at least one, got \(0, 1\)"
    ):
        DuetMix(standing=(0, 1))


def test_the_recipe_trains_both_heads_and_saves_them(tiny_clips, tmp_path):
    save_clips(tiny_clips, tmp_path / "clips.safetensors", LIVE_CLIP_CLASSES)
    duet = DuetConfig([replace(MIX, no_past=1.0)], rates={"heads": 0.01})
    recipe = TinyRecipe(kind="duet", init="tiny", duet=duet, warmup=1, lr=1e-3, bf16=False, clip_s=20.0)
    folder = train_tiny(tmp_path, recipe, start="lm")
    trained, tiny = lc.load(str(folder), device="cpu"), lc.load("tiny", device="cpu")
    trigger = trained.config.live.trigger
    assert trained.identity() == tiny.identity() and (trigger.rule, trigger.heads) == (
        "single",
        ("informative",),
    )
    new = with_heads(lc.load("tiny", device="cpu"))
    videos, losses = LiveVideos(tiny_clips, tiny.merge_state(), [replace(MIX, no_past=1.0)], 0), []
    for model in (new, trained):
        with torch.no_grad():
            out = LiveTask(model.llm)(**collate_live(videos.batch(0), CausalParts(model.llm)))
        losses.append({name: float(out[name]) for name in ("reply_loss", "heads_loss")})
    assert losses[1]["reply_loss"] < 0.8 * losses[0]["reply_loss"], losses
    for name, value in trained.llm.project.state_dict().items():
        assert torch.equal(value, tiny.llm.project.state_dict()[name])
    # words that tiny knows have the numbers that they had
    words = tiny.llm.tokenizer.get_vocab()
    assert words.items() <= trained.llm.tokenizer.get_vocab().items()
    asked = [
        request(kind, [], seen="red ball", heard="bell", form=i).text for kind in KINDS for i in range(3)
    ]
    for text in asked:
        assert trained.llm.tokenizer.unk_token_id not in trained.llm.tokenizer(text)["input_ids"], text
    with pytest.raises(ValueError, match="init must name the model that a duet is trained from"):
        train_tiny(tmp_path, replace(recipe, init=""))
    # a duet is trained further, and what it hears with
    more = replace(recipe, init=str(folder), duet=replace(duet, projectors=("audio",)))
    (tmp_path / "more").mkdir()
    save_clips(tiny_clips, tmp_path / "more" / "clips.safetensors", LIVE_CLIP_CLASSES)
    further = lc.load(str(train_tiny(tmp_path / "more", more, start="lm")), device="cpu")
    same = dict.fromkeys(("video", "audio"), True)
    for name, value in further.llm.project.state_dict().items():
        same[name.partition(".")[0]] &= torch.equal(value, tiny.llm.project.state_dict()[name])
    assert same == {"video": True, "audio": False}
    unknown = replace(more, duet=replace(duet, projectors=("smell",)))
    with pytest.raises(ValueError, match=r"duet.projectors must be of \['video', 'audio'\], got \['smell'\]"):
        train_tiny(tmp_path / "more", unknown, start="lm")
    with pytest.raises(ValueError, match=r"duration_s must be a multiple of segments.length_s = 10"):
        make_live_clips(tiny, [7], 25.0, {"*": 1}, progress=False)
