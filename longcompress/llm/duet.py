"""The prompt of a conversation about a running video, in which frames are a role of their own (MMDuet)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .prompt import IGNORED, encode, placeholder

START, END = "<|im_start|>", "<|im_end|>"  # of a turn
# of MMDuet and VideoLLM-online (MIT, Apache-2.0), with which they were trained
SYSTEM = (
    "A multimodal AI assistant is helping users with some activities. Below is their conversation, "
    "interleaved with the list of video frames received by the assistant."
)
FRAME = placeholder(0)  # stands for a token of a frame


class Pieces(NamedTuple):
    """Ids of what stands between frames."""

    tokenizer: Any
    system: list[int]  # the system's turn
    stream: list[int]  # opens a turn of frames
    answer: list[int]  # opens the assistant's turn
    end: int  # closes a turn

    def user(self, text: str) -> list[int]:
        """The user's turn; ValueError for an empty text, or marks of turns in it."""
        if not text.strip():
            raise ValueError("text must not be empty; say what to tell of, e.g. 'Tell me when it rains.'")
        if START in text or END in text:
            raise ValueError(
                f"text must not have the marks {START} and {END} of turns in it, got {text!r:.80}"
            )
        return encode(self.tokenizer, f"\n{START}user\n{text}{END}")


def pieces_of(tokenizer: Any) -> Pieces:
    """The pieces of a tokenizer of Qwen's kind; ValueError for others."""
    if not {START, END} <= set(tokenizer.get_vocab()):
        raise ValueError(
            f"tokenizer must have the tokens {START} and {END} (Qwen's), got {type(tokenizer).__name__}; a "
            "conversation about a running video needs them"
        )
    system = encode(tokenizer, f"{START}system\n{SYSTEM}{END}")
    stream, answer = (encode(tokenizer, f"\n{START}{role}\n") for role in ("stream", "assistant"))
    return Pieces(tokenizer, system, stream, answer, system[-1])


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation.

    Attributes:
        role: who speaks; "stream": frames come.
        text: of the others.
        num_frames: of the stream.
        learned: the assistant's text is learned; of a stream, whether its frames call for it.
        num_positive: of the assistant: frames before it at which it may be said.
    """

    role: Literal["user", "assistant", "stream"]
    text: str = ""
    num_frames: int = 0
    learned: bool = True
    num_positive: int = 1


class Script(NamedTuple):
    """A conversation as ids; those of frames are FRAME."""

    ids: list[int]
    labels: list[int]  # the id itself where it is learned, else IGNORED
    frame_ends: list[int]  # place of each frame's last token


def script(pieces: Pieces, turns: Sequence[Turn], frame_tokens: int) -> Script:
    """The system's turn and these, as MMDuet is trained: a stream without frames is left out. Of the
    assistant's turns text and end are learned."""
    ids, frame_ends = list(pieces.system), list[int]()
    labels = [IGNORED] * len(ids)
    for turn in turns:
        learned = list[int]()
        if turn.role == "user":
            ids += pieces.user(turn.text)
        elif turn.role == "assistant":
            ids += pieces.answer
            learned = [*encode(pieces.tokenizer, turn.text), pieces.end]
        elif turn.num_frames:
            first = len(ids) + len(pieces.stream) - 1
            frame_ends += [first + frame_tokens * (i + 1) for i in range(turn.num_frames)]
            ids += [*pieces.stream, *[FRAME] * (frame_tokens * turn.num_frames), pieces.end]
        labels += [IGNORED] * (len(ids) - len(labels))
        ids += learned
        labels += learned if turn.learned else [IGNORED] * len(learned)
    return Script(ids, labels, frame_ends)
