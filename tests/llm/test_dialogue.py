"""Turns that see each other: the tokenizer's own template, one end token an answer, a loss on each answer."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from longcompress.config_llm import LLMConfig
from longcompress.llm import Example
from longcompress.llm.prompt import IGNORED, VIDEO, conversation, encode

from models import llm, video

TURNS = [("what is seen", "the red ball"), ("when does the red ball appear", "30 to 42"), ("when", "12")]
HEADERS = "{{ 'when ' if m.role == 'user' else 'answer ' }}"
ENDS = {
    "end": f"{{% for m in messages %}}{HEADERS}{{{{ m.content }}}}<end>{{% endfor %}}",
    "space, end": f"{{% for m in messages %}}{HEADERS}{{{{ m.content }}}} <end>{{% endfor %}}",
    "no end": f"{{% for m in messages %}}{HEADERS}{{{{ m.content }}}} and {{% endfor %}}",
}
PROMPT = "{% if add_generation_prompt %}answer {% endif %}"


def reader_with(template, **options):
    reader = llm(**options)
    reader.tokenizer.chat_template = template
    return reader


def ids_of(reader, turns):
    batch = reader.collate([Example(video(1), turns, dialogue=True)])
    return batch["input_ids"][0].tolist(), batch["labels"][0].tolist()


def test_ids_are_the_templates_text_of_the_whole_conversation_in_pieces():
    reader = reader_with(ENDS["end"] + PROMPT)
    ids, labels = ids_of(reader, TURNS)
    messages = []
    for i, (question, _) in enumerate(TURNS):
        text = reader.settings.question.format(question=question)
        messages += [{"role": "user", "content": text if i else VIDEO + text}]
        messages += [{"role": "assistant", "content": f"\ufffc{i}\ufffc"}]
    whole = reader.tokenizer.apply_chat_template(messages, tokenize=False)
    before, *after = re.split(f"{VIDEO}|\ufffc\\d\ufffc", whole)
    first, last = ids.index(-2), max(i for i, t in enumerate(ids) if t < 0)
    assert ids[:first] == encode(reader.tokenizer, before)
    want = encode(reader.tokenizer, after[0])
    for (_, answer), text in zip(TURNS, after[1:], strict=True):
        want += encode(reader.tokenizer, answer) + encode(reader.tokenizer, text)
    assert ids[last + 1 :] == want
    end = reader.tokenizer.eos_token_id
    learned = [i for _, answer in TURNS for i in [*encode(reader.tokenizer, answer), end]]
    assert [i for i in labels if i != IGNORED] == learned


@pytest.mark.parametrize("form", ENDS)
def test_each_answer_has_one_end_token_whatever_the_template_writes(form):
    reader = reader_with(ENDS[form] + PROMPT)
    ids, labels = ids_of(reader, TURNS)
    end = reader.tokenizer.eos_token_id
    after_video = ids[max(i for i, t in enumerate(ids) if t < 0) :]
    assert labels.count(end) == len(TURNS)
    questions = 0 if form == "no end" else len(TURNS)  # a template ends questions too
    assert after_video.count(end) == len(TURNS) + questions
    assert not any(a == b == end for a, b in pairwise(ids))


@pytest.mark.parametrize("template", [None, *(t + PROMPT for t in ENDS.values())])
def test_one_turn_is_what_it_was_alone_and_the_first_of_many_what_is_asked(template):
    reader = reader_with(template)
    alone = reader.collate([Example(video(1), TURNS[:1])])
    same = reader.collate([Example(video(1), TURNS[:1], dialogue=True)])
    assert all(torch.equal(alone[key], same[key]) for key in alone) and set(alone) == set(same)
    many = reader.collate([Example(video(1), TURNS, dialogue=True)])
    length = alone["input_ids"].shape[1]
    for key in ("input_ids", "labels", "position_ids", "branch"):
        assert torch.equal(many[key][:, :length], alone[key])
    head, (tail,) = conversation(reader.tokenizer, reader.settings, [TURNS[0][0]])
    ids = many["input_ids"][0].tolist()
    assert ids[: len(head)] == head
    last = max(i for i, t in enumerate(ids) if t < 0)
    assert ids[last + 1 : last + 1 + len(tail)] == tail


@pytest.mark.parametrize("template", [None, ENDS["end"] + PROMPT])
def test_turns_see_those_before_and_nothing_else_is_special(template):
    reader = reader_with(template)
    batch = reader.collate([Example(video(1), TURNS, dialogue=True)])
    with torch.no_grad():
        got = reader(**batch)["logits"]
        want = reader.lm(inputs_embeds=reader.embed(batch)).logits
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert batch["position_ids"][0].tolist() == list(range(got.shape[1]))
    other = reader.collate([Example(video(1), [(TURNS[0][0], "the blue box"), *TURNS[1:]], dialogue=True)])
    with torch.no_grad():
        assert not torch.allclose(reader(**other)["logits"][0, -1], got[0, -1], atol=1e-4)


@pytest.mark.parametrize("number", [1, 3])
def test_spaces_that_a_template_writes_around_answers_are_not_learned(number):
    plain, spaced = (
        "{% for m in messages %}{{ 'when' if m.role == 'user' else 'answer' }}"
        + f"{{{{ {content} if m.role == 'assistant' else m.content }}}}<end>{{% endfor %}}"
        + "{% if add_generation_prompt %}answer{% endif %}"
        for content in ("m.content", "'  ' + m.content + ' '")
    )
    assert ids_of(reader_with(spaced), TURNS[:number]) == ids_of(reader_with(plain), TURNS[:number])


def test_the_last_answer_may_be_left_to_generate():
    reader = reader_with(ENDS["end"] + PROMPT)
    asked = [*TURNS[:2], ("when", None)]
    batch = reader.collate([Example(video(1), asked, dialogue=True)], left=True)
    learned = reader.collate([Example(video(1), TURNS, dialogue=True)])["input_ids"][0].tolist()
    ids = batch["input_ids"][0].tolist()
    assert ids == learned[: len(ids)] and len(learned) - len(ids) == len(encode(reader.tokenizer, "12")) + 1


FIRST = "{% for m in messages if m.role != 'assistant' %}"
BAD = {
    "answers dropped": (FIRST + "{{ m.content }}<end>{% endfor %}", "or repeats answer 1 of a dialogue"),
    "all but the last dropped": ("{{ messages[-1].content }}", "or repeats the user's content"),
    "repeated": (ENDS["end"] + "{{ messages[0].content }}", "or repeats the user's content"),
    "answers at the end": (
        FIRST + "{{ m.content }}{% endfor %}{% for m in messages if m.role == 'assistant' %}{{ m.content }}"
        "{% endfor %}", "moves or rewrites question 2 of a dialogue",
    ),
    "rewritten": (
        "{% for m in messages %}{{ m.content if loop.last or m.role != 'user' else "
        "m.content.replace('seen', 'heard') }}{% endfor %}", "rewrites question 1 of a dialogue",
    ),
    "another first turn": (
        "{% for m in messages %}{{ 'last ' if loop.last }}{{ m.content }}<end>{% endfor %}",
        "writes the first turn of a dialogue otherwise than one alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", BAD)
def test_a_template_that_loses_turns_is_refused_by_what_it_does(which):
    template, message = BAD[which]
    with pytest.raises(ValueError, match=message):
        ids_of(reader_with(template), TURNS)


def test_errors_say_what_is_wrong():
    reader = llm()
    whole = Example(video(1), TURNS, dialogue=True)
    with pytest.raises(ValueError, match="only the last may be left to generate"):
        reader.collate([replace(whole, turns=[("what", None), ("when", "12")])])
    with pytest.raises(ValueError, match="question must not be empty"):
        reader.collate([replace(whole, turns=[*TURNS, (" ", "12")])])


class Letters:
    """A tokenizer without a chat template: a token a letter."""

    chat_template, bos_token_id, eos_token_id, eos_token = None, None, 0, "\0"

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [ord(letter) for letter in text]}


def test_a_base_model_gets_a_line_break_around_a_question_and_others_none():
    def texts(tokenizer, config):
        head, tails = conversation(tokenizer, config, ["when?", "why?"])
        return "".join(map(chr, head)), ["".join(map(chr, tail)) for tail in tails]

    assert texts(Letters(), LLMConfig()) == ("", ["\nwhen?\n", "\nwhy?\n"])
    assert texts(Letters(), LLMConfig(question="Q: {question} A:")) == ("", ["Q: when? A:", "Q: why? A:"])
    reader = reader_with(ENDS["end"] + PROMPT, question="")
    ids, _ = ids_of(reader, TURNS)
    want = conversation(reader.tokenizer, replace(reader.settings, question="{question}"), [TURNS[0][0]])[1][
        0
    ]
    assert conversation(reader.tokenizer, reader.settings, [TURNS[0][0]])[1] == [want]
    assert len(ids) > len(want)
