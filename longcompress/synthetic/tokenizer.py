"""A tokenizer for small closed vocabularies, in which 187 is two tokens: its tens and its last digit."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
SPACE = "\u2581"


def add_words(tokenizer: PreTrainedTokenizerFast, words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows more words; those that it knew have the numbers that they had."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(SPACE + word.lower(), len(vocabulary))
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    more = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=more, clean_up_tokenization_spaces=False, **names)


def word_tokenizer(
    words: Iterable[str], firsts: Sequence[str], seconds: Sequence[str], *, num_tens: int, timestamps: int = 0
) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of `words`, numbers below 10 * num_tens, and "first second" pairs as one token.
    Of the timestamps "<12.5 seconds>" those below `timestamps` are one token each, without their tenths.

    The last digit of a number is a token of its own ("187" -> "18", "7"), so times can be copied from
    timestamps that count tens: "18:" is the tens alone, the text of a timestamp. All is in lower case,
    punctuation is known anyway.
    """
    pairs = [f"{a}_{b}" for a in firsts for b in seconds]
    single = {w for word in words for w in word.lower().split()} - set(",.?!")
    known = [PAD, END, UNKNOWN, *",.?!", *map(str, range(10)), SPACE]
    known += [f"{SPACE}{t}" for t in range(1, num_tens)]
    known += [f"{SPACE}<{t}>" for t in range(timestamps)]
    known += [SPACE + w for w in sorted({*single, *firsts, *seconds} | set(pairs))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(known))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    joint = Regex(f"(?<=\\b({'|'.join(firsts)})) (?=({'|'.join(seconds)})\\b)")
    no_tens, tenths = Regex(r"(?<!\d)0:"), Regex(r"(?<=\d)\.\d seconds>")
    replaced = [(joint, "_"), (no_tens, ":"), *([(tenths, ">")] if timestamps else [])]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *(normalizers.Replace(text, by) for text, by in replaced)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[,.?!]"), "isolated"),
            pre_tokenizers.Split(Regex(rf"(?<=[\d\u2581])\d(?![\d:{'>' * bool(timestamps)}])"), "isolated"),
            pre_tokenizers.Split(Regex(r"(?<=[\d\u2581]):"), "removed"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(replacement=SPACE), decoders.Replace("_", " ")])
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
