"""Live sessions of small random models, for the tests of their laws."""

from dataclasses import replace

import torch

from longcompress.config_live import LiveConfig, TriggerConfig
from longcompress.llm.live import embed
from longcompress.session import Session

from clips import make_clip

POLLED = LiveConfig(
    TriggerConfig("single", 0.5, ("poll",)), near_s=8, past=20, slice_tokens=7, text_tokens=60,
    max_reply_tokens=9, poll="{request}", poll_yes="red", poll_no="blue", step_tokens=2,
)  # fmt: skip
ALWAYS = replace(POLLED, trigger=TriggerConfig("single", 0.01, ("relevance",)))
QUIET = replace(POLLED, trigger=TriggerConfig("single", 1.0, ("relevance",)))
TEXT = "when does the red ball appear"


def session_of(model, live, **options):
    return Session(model, 40, live=live, **{"patience_s": 100.0} | options)


def steps_of(seconds, seed=0):
    """A frame and its second of audio, one after the other."""
    frames, sound = make_clip(seconds, seed)
    rate = sound.rate_hz
    for i in range(len(frames)):
        yield frames.cut(i, i + 1)
        yield sound.cut(i * rate, (i + 1) * rate)


def run(model, live, parts, texts=((0.0, TEXT, "may"),), **options):
    session, events = session_of(model, live, **options), []
    for time_s, text, reply in texts:
        events += session.push_text(text, time_s, reply=reply)
    for part in parts:
        events += session.push(part)
    return session, events + session.close()


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def fresh_logits(model, parts):
    """Logits after a single forward of parts, without a cache."""
    x = torch.cat([embed(model.llm, part) for part in parts])
    with torch.no_grad():
        out = model.llm.lm(inputs_embeds=x[None], use_cache=False, output_hidden_states=True)
    return out.hidden_states[-1][0, -1:], out.logits[0, -1]
