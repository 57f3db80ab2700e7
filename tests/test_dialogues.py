"""Dialogues about a memory: an answer is what the language model gives for the whole prompt at once."""

import pytest
import torch

import longcompress as lc
from longcompress.llm import Example
from longcompress.media import arrays

DIALOGUES = [
    "When is the red ball seen?",
    [("When is the red ball seen?", "3 to 5"), ("Where?", "left"), ("And the bell?  ", None)],
    [("What happens first?", "the bell"), ("When?", None)],
]


@pytest.fixture(scope="module", params=["tiny", "tiny-vl"])
def memory(request):
    pixels = torch.randint(
        0, 255, (6, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return lc.compress(lc.load(request.param, device="cpu"), arrays(pixels), budget=24, progress=False)


def greedy(memory, turns, num):
    """The next `num` tokens by whole forward passes without a cache."""
    llm, answer = memory.model.llm, ""
    ids = []
    for _ in range(num):
        example = Example(memory.video, turns, dialogue=True)
        batch = llm.collate([example])
        batch.pop("labels")
        if ids:
            more = torch.tensor([ids])
            last = batch["position_ids"][..., -1:] + torch.arange(1, len(ids) + 1)
            batch["position_ids"] = torch.cat([batch["position_ids"], last], -1)
            batch["input_ids"] = torch.cat([batch["input_ids"], more], -1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            batch["branch"] = torch.cat([batch["branch"], torch.ones_like(more)], -1)
        with torch.no_grad():
            logits = memory.model(**batch)["logits"][0, -1].clone()
        logits[getattr(getattr(llm, "prompt", None), "placeholders", [])] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] == llm.tokenizer.eos_token_id:
            break
        answer = llm.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return answer


def test_answers_are_those_of_the_whole_prompt(memory):
    expected = []
    for dialogue in DIALOGUES:
        turns = [(dialogue, None)] if isinstance(dialogue, str) else dialogue
        expected.append(greedy(memory, [(q.rstrip(), a) for q, a in turns], 4))
    assert [memory.ask_all([d], max_new_tokens=4)[0].text for d in DIALOGUES] == expected
    assert [a.text for a in memory.ask_all(DIALOGUES, max_new_tokens=4)] == expected
    answers = lc.ask_each([memory] * len(DIALOGUES), DIALOGUES, max_new_tokens=4)
    assert [a.text for a in answers] == expected


def test_what_is_no_dialogue(memory):
    for wrong in (None, 3, [("What?", "a", "b")], [(3, None)], ["What?"], {"What?": None}):
        with pytest.raises(TypeError, match="questions must be texts, or lists of"):
            memory.ask_all([wrong])
    with pytest.raises(ValueError, match="only the last may be left to generate"):
        memory.ask_all([[("What?", None), ("When?", None)]])
    with pytest.raises(ValueError, match="question must not be empty"):
        memory.ask_all([[("What?", "a"), (" ", None)]])


def test_a_twin_shares_weights_and_leaves_the_model_as_it_is(memory):
    model = memory.model
    before = model.config, model.llm.settings, getattr(model.llm, "prompt", None)
    twin = model.twin({"media": {"rate_fps": 4}})
    assert twin.config.media.rate_fps == 4 and twin.identity() == model.identity()
    assert (model.config, model.llm.settings, getattr(model.llm, "prompt", None)) == before
    assert all(a is b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="changes of a twin must leave the encoders"):
        model.twin({"media": {"size_px": 32}})
    with pytest.raises(ValueError, match="changes of a twin must leave the encoders"):
        model.twin({"video": {"reuse_below": 0.5}})
