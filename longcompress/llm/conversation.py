"""Questions and answers in the text of a tokenizer's chat template, and as ids."""

from collections.abc import Sequence
from typing import Any

from ..config import LLMConfig
from ..types import HALF

VIDEO = "\ufffcvideo\ufffc"  # stands for the video while a chat template is applied
ANSWER = "\ufffcanswer {}\ufffc"  # and for an answer


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` alone, no special tokens added; ValueError for half a character."""
    if HALF.search(text):
        raise ValueError(f"text must be whole characters, got {text!r:.60}; a cut emoji leaves half of one")
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def around(tokenizer: Any, config: LLMConfig, question: str) -> tuple[list[int], list[int]]:
    """(ids before the video, ids between the video and the answer)."""
    head, (tail,) = conversation(tokenizer, config, [question])
    return head, tail


def conversation(
    tokenizer: Any, config: LLMConfig, questions: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """(ids before the video, ids before each answer) of questions that follow one another about one video.

    The tokenizer's template is applied to the whole conversation. Its text is cut at the video and after the
    end token of each answer. Spaces that it writes around an answer (Llama 2, Mistral) are left out, or are
    those before the first answer: answers are learned as they are generated. Without a template,
    `LLMConfig.question` and `next_question` are, as they stand after an answer's end token.

    Raises:
        ValueError: for an empty question, or a template that drops, moves or rewrites turns.
    """
    texts = question_texts(config, questions)
    if not getattr(tokenizer, "chat_template", None):
        head = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        head += encode(tokenizer, config.system) if config.system else []
        form, end = config.next_question or config.question, tokenizer.eos_token or ""
        rest = [after_end(tokenizer, end + form.format(question=q)) for q in questions[1:]]
        return head, [encode(tokenizer, texts[0]), *rest]
    before, first, *later = conversation_texts(tokenizer, config, texts)
    return encode(tokenizer, before), [encode(tokenizer, first), *(after_end(tokenizer, x) for x in later)]


def question_texts(config: LLMConfig, questions: Sequence[str]) -> list[str]:
    """The texts of users' turns that ask these questions; ValueError for an empty question."""
    if not all(question.strip() for question in questions):
        raise ValueError("question must not be empty; ask something, e.g. 'What happens first?'")
    return [config.question.format(question=question) for question in questions]


def conversation_texts(
    tokenizer: Any, config: LLMConfig, texts: Sequence[str], media: tuple[str, str] | None = None
) -> list[str]:
    """The template's text before the video and before each answer, of users' turns `texts`.

    Args:
        media: "video" or "audio", and what the template writes for it; None: the template knows none, so the
            video stands before the first text.
    """
    before, first, *later = _cut(_rendered(tokenizer, config, texts, media), texts)
    if later:
        # the first turn must read as it does alone, which is how it is asked
        before_alone, alone = _cut(_rendered(tokenizer, config, texts[:1], media), texts[:1])
        spaces = alone[len(alone.rstrip()) :]
        first, *later = [text.rstrip() + spaces for text in (first, *later)]
        if [before, first] != [before_alone, alone]:
            raise ValueError(
                "the tokenizer's chat template writes the first turn of a dialogue otherwise than one alone; "
                "it would be learned as it is never asked; set another one, or leave the system text empty"
            )
    return [before, first, *later]


def _rendered(tokenizer: Any, config: LLMConfig, texts: Sequence[str], media: tuple[str, str] | None) -> str:
    """The template's text up to the start of the last answer, VIDEO in the place of the video."""
    turns = [("system", config.system)] if config.system else []
    for number, text in enumerate(texts):
        if number:
            turns.append(("assistant", ANSWER.format(number)))
        turns.append(("user", text if number or media else VIDEO + text))
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    if media:  # templates of models that see take lists
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        messages[bool(config.system)]["content"].insert(0, {"type": media[0]})
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return text.replace(media[1], VIDEO) if media else text


def _cut(whole: str, texts: Sequence[str]) -> list[str]:
    """The text before the video, and before each answer."""
    parts, rest = [], whole
    for number in range(len(texts)):
        mark = ANSWER.format(number) if number else VIDEO
        part, match, rest = rest.partition(mark)
        if not match or whole.count(mark) > 1:
            what = f"answer {number} of a dialogue" if number else "the user's content"
            raise ValueError(f"the tokenizer's chat template drops, moves or repeats {what}; set another one")
        parts.append(part)
    parts.append(rest)
    for number, text in enumerate(texts):
        if len(texts) > 1 and text.strip() not in parts[number + 1]:
            raise ValueError(
                "the tokenizer's chat template drops, moves or rewrites "
                f"question {number + 1} of a dialogue; set another one"
            )
    return parts


def after_end(tokenizer: Any, text: str) -> list[int]:
    """Ids of the text behind an answer, less the template's end token: an answer has its own."""
    stripped = text.lstrip()
    if not tokenizer.eos_token or not stripped.startswith(tokenizer.eos_token):
        return encode(tokenizer, text)
    ids = encode(tokenizer, stripped)  # with the end token, which can change the tokens behind it
    if ids[0] == tokenizer.eos_token_id:
        return ids[1:]
    return encode(tokenizer, stripped[len(tokenizer.eos_token) :])
