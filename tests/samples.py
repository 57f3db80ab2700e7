"""Samples of feature shards without media: their features are a linear map of the words said."""

import numpy as np
import torch
from safetensors.torch import load, save

from longcompress.compression.global_memory import Mean
from longcompress.compression.merging import Group
from longcompress.compression.state import Chunk
from longcompress.train.records import Record
from longcompress.train.shards.index import make_index
from longcompress.train.shards.sample import members_of
from longcompress.train.shards.tar import write_tar
from longcompress.types import Event, Tokens

TEXTS = ("red ball", "blue box", "red box", "blue ball", "the ball", "what is")
SECONDS, BUDGET = 6, 40


def embedding(model, text):
    """Mean embedding of the words of a text, by the table's rows."""
    ids = model.llm.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
    return model.llm.lm.get_input_embeddings().weight[ids].double().mean(0).detach().numpy()


def sample(model, number, events=(), captions=(), dialogues=(), *, streams=("video", "audio"), noise=0.1):
    """(key, members) of a video of a token a second, features a linear map of the words said of it."""
    random = np.random.default_rng(number)
    key, start = f"v{number:03d}", torch.arange(SECONDS, dtype=torch.float64)
    groups, widths = {}, {"video": 32, "audio": 16}
    for stream in streams:
        to = np.random.default_rng(99).normal(size=(32, widths[stream]))
        x = noise * random.normal(size=(SECONDS, widths[stream])) + 3
        for second in range(SECONDS):
            texts = [e.text for e in events if e.start_s <= second and second + 1 <= e.end_s] or captions
            for text in texts:
                if text.strip() and text.isascii():
                    x[second] += 20 * embedding(model, text) @ to
        x = torch.from_numpy(x).bfloat16().float()
        tokens = Tokens(x, torch.ones(SECONDS), start + 0.5, start, start + 1)
        groups[stream] = Group(tokens, torch.randn(SECONDS, 8))
    state = model.merge_state()
    state.chunks, state.duration_s = [Chunk(0.0, float(SECONDS), 1, groups, 1.0)], float(SECONDS)
    if "video" in streams:
        total = torch.from_numpy(random.normal(size=(2, 32)))
        state.memory = {"video": Mean(total, 4)}
    record = Record(key, key, float(SECONDS), tuple(events), tuple(dialogues), tuple(captions))
    return key, members_of(state, model, record.to_json() | {"video": {"name": key}}, float(SECONDS))


def two_events(number):
    """Events of 2 and of 3 seconds."""
    a, b = TEXTS[number % 4], TEXTS[(number // 4 + 1) % 4]
    return [Event(0, 2, a), Event(3, 6, b)]


def write(folder, samples):
    folder.mkdir(parents=True)
    write_tar(folder / "shard-000000.tar", samples)
    make_index(folder, progress=False)
    return folder


def broken(members, stream):
    """Members whose features are not finite in a place."""
    tensors = load(members[f"{stream}.safetensors"])
    tensors["x"][2, 3] = torch.nan
    return members | {f"{stream}.safetensors": save(tensors)}
