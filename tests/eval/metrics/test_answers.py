"""Choices, free answers and MAGQA by hand, with judges that are a line of Python."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcompress.eval.metrics import answers as choice
from longcompress.eval.metrics.answers import Judge, first_digit, plain, rating, replies, verdict


def first(metric):
    """The metrics without those of each example."""
    return lambda *args, **options: metric(*args, **options)[0]


multiple_choice, open_answers, rated_answers = map(
    first, (choice.multiple_choice, choice.open_answers, choice.rated_answers)
)
magqa = first(choice.magqa)


def exact_match(right, predicted, **options):
    return choice.exact_match({key: [text] for key, text in right.items()}, predicted, **options)[0]


PROMPT = "{question} | {reference} | {answer}"


def judge(reply, asked=None, prompt=PROMPT):
    def ask(prompts):
        if asked is not None:
            asked.extend(prompts)
        return [reply(*p.split(" | ")) if callable(reply) else reply for p in prompts]

    return Judge("a line of Python", prompt, ask)


def test_multiple_choice_by_hand():
    reference = {1: "A", 2: "b", 3: "C", 4: "D", 5: "A"}
    predicted = {1: "a", 2: "B ", 3: None, 4: "A", 9: "A"}
    assert multiple_choice(reference, predicted) == {
        "accuracy": 0.4, "num": 5, "num_missing": 1, "num_unparsed": 1, "num_unknown": 1,
    }  # fmt: skip
    assert multiple_choice({}, {})["accuracy"] is None
    assert multiple_choice({1: ""}, {1: ""})["accuracy"] == 0.0


def test_exact_match_by_group_and_with_several_right_answers():
    reference = {1: "A", 2: "b", 3: "C", 4: "D", 5: "A b"}
    predicted = {1: "a A!", 2: "B ", 3: "", 4: "x", 9: "A"}
    right = {key: [text.replace("A", "cat")] for key, text in reference.items()}
    got = choice.by_group(
        choice.exact_match(right, predicted | {1: "Cat"})[1], {"short": [1, 5], "long": [2, 3, 4]}
    )
    assert (got["accuracy/long"], got["accuracy/short"], got["num/long"]) == (pytest.approx(1 / 3), 0.5, 3)
    assert got["macro_accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert choice.exact_match({1: ["two", "2"]}, {1: "2"})[1] == {1: 1.0}


def test_exact_match_by_hand():
    reference = {1: "The dog", 2: "two", 3: "Straße", 4: "..."}
    got = exact_match(reference, {1: "a Dog!", 2: "", 3: "STRASSE", 4: "..."})
    assert got["accuracy"] == 0.5 and got["num_empty"] == 2 and got["num_missing"] == 0
    assert plain(" The  red-ish Dog, a friend. ") == "red ish dog friend"


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("4", 4.0), ("Score: 3.5/5", 3.5), ("{'pred': 'yes', 'score': 4.8}", 4.8), ('{"score": "2"}', 2.0),
        ("Of 100 cases: score 3", 3.0), ("", None), ("none", None), ("7", None), ("-1", None), ("v2x", None),
    ],
)  # fmt: skip
def test_rating(reply, want):
    assert rating(reply, 0, 5) == want


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        ("{'pred': 'no', 'score': 4}", False), ("Yes.", True), ("**No**, it", False), ("pred: yes", True),
        ("not sure", None), ("", None), ("{'Pred': \"Yes\"}", True), ("Nothing", None),
    ],
)  # fmt: skip
def test_verdict(reply, want):
    assert verdict(reply) is want


def test_first_digit():
    assert [first_digit(text, 1, 5) for text in ("4.", "5", "0", "6", " 3", "", "x1")] == [
        4,
        5,
        None,
        None,
        None,
        None,
        None,
    ]


@pytest.mark.slow
@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_reply_can_be_read(reply):
    assert rating(reply, 0, 5) is None or 0 <= rating(reply, 0, 5) <= 5
    assert verdict(reply) in (True, False, None)
    assert first_digit(reply, 1, 5) in (None, 1, 2, 3, 4, 5)


def test_the_judge_is_asked_once_about_equal_cases_and_texts_are_left_as_they_are():
    asked = []
    cases = [("q", "{answer}", "x"), ("q", "{answer}", "x"), ("q", "{reference}", "{'a': 1}")]
    assert replies(judge(lambda q, g, a: a, asked), cases) == ["x", "x", "{'a': 1}"]
    assert asked == ["q | {answer} | x", "q | {reference} | {'a': 1}"]
    assert replies(judge("yes"), []) == []


def test_wrong_judges_are_refused():
    with pytest.raises(
        ValueError, match=r"Judge.prompt must say where texts go, \{answer\} and \{reference\} is missing"
    ):
        Judge("x", "what?", lambda prompts: [])


def test_open_answers_by_hand():
    reference = {1: "a dog", 2: "a cat", 3: "red", 4: "two", 5: "x"}
    predicted = {1: "dog", 2: "dog", 3: "maroon", 4: " ", 8: "y"}
    replies = {"a dog": "{'pred': 'yes', 'score': 5}", "a cat": "{'pred': 'no', 'score': 1}", "red": "maybe"}
    asked = []
    questions = dict.fromkeys(reference, "what?")
    got = open_answers(reference, predicted, questions, judge(lambda q, g, a: replies[g], asked))
    assert got == {
        "accuracy": 0.2, "num": 5, "score": pytest.approx(6 / 5), "num_no_verdict": 1, "num_no_score": 1,
        "num_missing": 1, "num_empty": 1, "num_unknown": 1, "judge": "a line of Python", "prompt": PROMPT,
    }  # fmt: skip
    assert len(asked) == 3
    assert open_answers({}, {}, {}, judge("yes"))["accuracy"] is None


def test_rated_answers_by_hand():
    reference, predicted = {1: "a", 2: "b", 3: "c"}, {1: "a", 2: "?"}
    got = rated_answers(
        reference,
        predicted,
        dict.fromkeys(reference, "q"),
        judge(lambda q, g, a: "4" if a == "a" else "none"),
    )
    assert got["score"] == pytest.approx(4 / 3)
    assert (got["num"], got["num_no_score"], got["num_missing"]) == (3, 1, 1)
    assert got["judge"] and got["prompt"] == PROMPT
    assert rated_answers({}, {}, {}, judge("4"))["score"] is None


# --- MAGQA

REFERENCE = {"q1": [(0, 10, "dog"), (20, 30, "cat")], "q2": [(0, 5, "red")]}
REPLIES = {"q1": [(1.0, "dog"), (2.0, "dog"), (10.0, "cow"), (15.0, "dog")], "q2": []}
ASK = {"q1": "what?", "q2": "which?"}


def points(question, reference, answer):
    return "5" if reference == answer else "2"


def test_magqa_by_hand():
    asked = []
    got = magqa(REFERENCE, REPLIES, ASK, judge(points, asked))
    # q1: (5 + 5 + 2) / 3 in the first span, nothing in the second; q2 is silent.
    assert got["in_span"] == pytest.approx(((4 + 1) / 2 + 1) / 2)
    assert (got["turns"], got["turns_distinct"]) == (2.0, 1.0)
    assert (got["num"], got["num_silent"], got["num_missing"], got["num_judged"]) == (2, 1, 0, 2)
    assert asked == ["what? | dog | dog", "what? | dog | cow"]
    assert got["judge"] == "a line of Python" and got["prompt"] == PROMPT


def test_magqa_for_the_papers_fills_up_and_lets_answers_without_a_time_fit():
    untimed = {"q1": [(None, "dog")]}
    assert magqa(REFERENCE, untimed, ASK, judge(points))["in_span"] == 1.0
    got = magqa(REFERENCE, untimed, ASK, judge(points), compat="paper")
    assert got["in_span"] == pytest.approx(((5 + 2) / 2 + 1 * 1999) / 2000)
    assert got["turns"] == pytest.approx(1 / 2000) and got["num_missing"] == 1
    assert magqa(REFERENCE, REPLIES, ASK, judge("rating 4"), compat="paper")["num_unparsed"] == 2


def test_magqa_of_odd_input():
    got = magqa({"q1": [], "q2": REFERENCE["q2"]}, {"q2": [(1.0, "red")], "q9": []}, ASK, judge("who knows"))
    assert got["in_span"] == 1.0 and got["num_unparsed"] == 1
    assert (got["num"], got["num_without_reference"], got["num_unknown"]) == (1, 1, 1)
    assert magqa({}, {}, {}, judge("1"))["in_span"] is None
