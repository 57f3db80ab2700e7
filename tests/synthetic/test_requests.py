"""Standing requests: when a reply is due, held against what the scene shows and plays."""

import numpy as np
import pytest

from longcompress.synthetic.questions import VOCABULARY
from longcompress.synthetic.requests import KINDS, WORDS, joint_labels, pairs_of, request
from longcompress.synthetic.scenes import OBJECTS, SOUNDS, SceneEvent, heard, make_scene, patches
from longcompress.synthetic.tokenizer import add_words, word_tokenizer

EVENTS = [
    SceneEvent(2.4, 8.5, "video", "red ball"), SceneEvent(5.7, 9.2, "audio", "bell"),
    SceneEvent(14.0, 16.0, "video", "red ball"), SceneEvent(15.9, 19.0, "audio", "bell"),
]  # fmt: skip


def curve(asked, head):
    labels = [asked.labels(second)[head] for second in range(22)]
    return "".join("?" if label is None else str(label) for label in labels)


@pytest.mark.parametrize(("kind", "informative", "relevance", "due"), [
    ("seen", "0001100000000011000000", "0001111110000011000000", [(2.4, 8.5), (14.0, 16.0)]),
    ("heard", "00000?110?00000?110000", "00000?111?00000?111000", [(5.7, 9.2), (15.9, 19.0)]),
    ("both", "00000?110?00000??00000", "00000?111?00000??00000", [(5.7, 8.5)]),
    ("happens", "00011?110?000011110000", "000111111?000011111000",
     [(2.4, 8.5), (5.7, 9.2), (14.0, 16.0), (15.9, 19.0)]),
    ("happened", "00000?000110000?110110", "00000?000110000?110110",
     [(8.5, 10.5), (9.2, 11.2), (16.0, 18.0), (19.0, 21.0)]),
])  # fmt: skip
def test_labels_by_hand(kind, informative, relevance, due):
    asked = request(kind, EVENTS, seen="red ball", heard="bell")
    assert (curve(asked, "informative"), curve(asked, "relevance"), asked.due) == (
        informative,
        relevance,
        due,
    )


def test_replies_by_hand():
    def replies(kind, *seconds, offset_s=0):
        asked = request(kind, EVENTS, seen="red ball", heard="bell")
        return [asked.reply(second, offset_s) for second in seconds]

    assert replies("seen", 1, 3, 7, 10, 14) == [
        "nothing",
        "red ball 3",
        "red ball 3",
        "nothing",
        "red ball 14",
    ]
    assert replies("seen", 4, offset_s=120) == ["red ball 123"]
    assert replies("both", 7) == ["red ball, bell 6"]
    assert replies("count", 2, 4, 15, 18) == ["nothing", "1", "2", "nothing"]
    assert replies("happens", 7, 15, 16) == ["bell 6", "red ball 14", "bell 16"]
    assert replies("happened", 9, 11) == ["red ball 3 to 8, bell 6 to 8", "nothing"]
    with pytest.raises(ValueError, match=r"kind must be one of \('seen', .*got 'smelt'"):
        request("smelt", EVENTS)


def test_a_reply_is_right_if_it_names_just_what_is_due_or_says_the_number():
    both, count = (request(kind, EVENTS, seen="red ball", heard="bell") for kind in ("both", "count"))
    assert both.is_right(7, "red ball, bell 6") and both.is_right(7, "bell, red ball 1 2")
    assert not any(
        both.is_right(7, text) for text in ("red ball 6", "bell", "nothing", "", "red ball, siren 6")
    )
    happened = request("happened", EVENTS)
    assert happened.is_right(9, "red ball 1 to 3, bell 6 to 8") and not happened.is_right(9, "bell 6 to 8")
    assert happened.is_right(11, "nothing") and not happened.is_right(9, "nothing")
    assert [count.is_right(15, text) for text in ("2", "1", "nothing", "12")] == [True, False, False, False]


def test_labels_of_all_that_stand():
    seen, heard = request("seen", EVENTS, seen="red ball"), request("heard", EVENTS, heard="bell")
    curve_of = ["".join("?" if (x := joint_labels([seen, heard], k)[head]) is None else str(x)
                        for k in range(22)) for head in ("informative", "relevance")]  # fmt: skip
    assert curve_of == ["00011?110?000011110000", "000111111?000011111000"]
    assert all(joint_labels([seen], k) == seen.labels(k) for k in range(22))


def test_pairs_are_together_for_two_seconds():
    assert pairs_of(EVENTS) == [("red ball", "bell")]  # .1 s of the second time is none
    assert pairs_of(EVENTS[1:]) == []


def test_relevant_seconds_are_those_of_the_scene():
    scene = make_scene(77, 120.0)
    shown = patches(scene, np.arange(120))
    played = heard(scene, np.arange(120), np.arange(120) + 1)
    for name in {event.name for event in scene.events}:
        is_seen = name in OBJECTS
        asked = request("seen" if is_seen else "heard", scene.events, seen=name, heard=name)
        labels = [asked.labels(second)["relevance"] for second in range(120)]
        for second, label in enumerate(labels):
            if is_seen:  # where it is hidden by others the label says that it is there
                assert label == 1 or not (shown[second] == OBJECTS.index(name)).any()
            else:
                share = played[second, SOUNDS.index(name)]
                assert label == (1 if share >= 0.5 else None if share > 0 else 0)
        onsets = [k for k in range(120) if labels[k] == 1 and (k == 0 or labels[k - 1] != 1)]
        assert [asked.labels(k)["informative"] for k in onsets] == [1] * len(asked.moments)


def test_their_words_join_a_vocabulary_that_stays_as_it_is():
    before = word_tokenizer([*VOCABULARY, "answer"], ["red"], ["ball"], num_tens=20)
    after = add_words(before, WORDS)
    assert before.get_vocab().items() <= after.get_vocab().items() and len(after) == len(before) + len(WORDS)
    text = "When does the red ball appear? red ball 123 to 130 answer"
    assert before(text)["input_ids"] == after(text)["input_ids"]
    for kind in KINDS:
        ids = after(request(kind, [], seen="red ball", heard="bell").text)["input_ids"]
        assert after.unk_token_id not in ids and after.decode(ids).strip()
