"""What must hold of the real small stack: `make test-learns` runs examples/real_small_stack, then this."""

import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "real_small_stack" / "results.json"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def figures():
    if not FILE.is_file():
        pytest.skip(f"no {FILE}: `make test-learns` makes it")
    return json.loads(FILE.read_text())["figures"]


def test_photos_are_seen(figures):
    photos = figures["align photos"]
    assert photos["photos"] == 160
    assert photos["swapped_less_own"] >= 1.5 and photos["own_better"] >= 0.9
    assert photos["exact"] >= 0.15 > photos["exact_of_best_constant"]
    assert photos["exact_of_another"] <= photos["exact_of_best_constant"]


def test_a_random_start_learns_nothing_of_it_in_as_many_steps(figures):
    assert figures["control photos"]["swapped_less_own"] < 0.1


def test_times_are_learned_of_what_is_seen_and_heard(figures):
    events = figures["boundary events_test"]
    recall = events["all"]["R@0.5"]
    assert events["videos"] == 32 and events["all"]["questions"] == 192
    assert recall["mean"] >= recall["constant"] + 0.15 and recall["low"] > recall["constant"]
    for part in ("seen", "heard"):
        assert events[part]["R@0.5"]["mean"] > events[part]["R@0.5"]["constant"]
    another = events["another_video"]["R@0.5"]
    assert another["mean"] < recall["low"]  # so times are read off the video
    assert events["when"]["own_better"] >= 0.75 and events["tell"]["swapped_less_own"] >= 1.0


def test_names_that_were_never_trained_are_reported_beside_chance(figures):
    names = figures["align names"]
    trained, asked = captions("photos_train"), captions("photos_names")
    assert len(asked) == 62 and len({*asked}) == 30 and not {*asked} & {*trained}
    assert names["names"] == 30 and names["chance"] == pytest.approx(1 / 30)
    assert sorted(name for name, _ in names["ranks"]) == sorted(asked)
    for top, share in ((1, names["top_1"]), (5, names["top_5"])):
        assert share["mean"] == pytest.approx(sum(rank < top for _, rank in names["ranks"]) / 62)
        assert share["low"] <= share["mean"] <= share["high"]
    assert names["top_5"]["low"] > 5 * names["chance"]
    assert names["answers"] == 62 and names["swapped_less_own"] == names["swapped"] - names["own"]


@pytest.mark.usefixtures("figures")
def test_our_tokens_are_better_than_random_ones_beside_each_other():
    lines = (FILE.parent / "compare" / "compare.jsonl").read_text().splitlines()
    rows = {(row["method"], row["budget"]): row for row in map(json.loads, lines)}
    methods, budgets = ("ours", "kmeans", "longvlm", "pool", "random"), ("50%", "25%", "10%")
    assert {*rows} == {("full", "all"), *((method, budget) for method in methods for budget in budgets)}
    assert all(row["num"] == 192 and row["num_failed"] == 0 for row in rows.values())
    for (method, budget), row in rows.items():
        if method not in ("full", "ours"):
            assert row["gain"]["low"] <= row["gain"]["mean"] <= row["gain"]["high"]
            assert row["num_tokens"] <= rows["ours", budget]["num_tokens"]
    for method in ("pool", "random"):  # by paired intervals over videos
        assert rows[method, "25%"]["gain"]["low"] > 0 and rows[method, "10%"]["gain"]["low"] > 0
    assert rows["ours", "25%"]["mean"] > rows["full", "all"]["mean"] - 0.1


def captions(part):
    """The captions of a part's photos."""
    lines = (FILE.parent / "media" / part / "records.jsonl").read_text().splitlines()
    return [caption for line in lines for caption in json.loads(line)["captions"]]
