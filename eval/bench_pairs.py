"""Whether one model answers better than another: the same questions, paired, videos drawn anew.

`longcompress bench synthetic_qa --model A --answers a.jsonl`, the same for B, then
`longcompress bench pairs a.jsonl b.jsonl`
"""

import json
from pathlib import Path
from typing import Any

from .metrics.bootstrap import difference

Key = tuple[int, int, str]


def scores(path: str | Path, share: float | None = None) -> dict[Key, float]:
    """(video, number, kind) -> score of the answers in a file, of one share of the tokens.

    Raises:
        ValueError: the file has answers of several shares and none is named, or none of that share.
    """
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf8").splitlines()]
    shares = sorted({line["share"] for line in lines})
    if share is None and len(shares) > 1:
        raise ValueError(f"{path} has answers at shares {shares}; name one of them")
    found = {
        (line["video"], line["number"], line["kind"]): float(line["score"])
        for line in lines
        if share is None or line["share"] == share
    }
    if not found:
        raise ValueError(f"{path} has no answers at share {share}; it has {shares}")
    return found


def compare(one: dict[Key, float], two: dict[Key, float]) -> list[dict[str, Any]]:
    """For each kind and for "all": one minus two with its 95 % interval, and both means."""
    rows = []
    for kind in [*sorted({key[2] for key in one}), "all"]:
        mine = {k: v for k, v in one.items() if kind in (k[2], "all")}
        others = {k: v for k, v in two.items() if kind in (k[2], "all")}
        found = difference(mine, others, {k: k[0] for k in mine})
        means = {"one": sum(mine.values()) / len(mine), "two": sum(others.values()) / len(others)}
        rows.append({"kind": kind} | means | found)
    return rows


def measure(one: str, two: str, share: float | None = None, out: str = "") -> None:
    """Print, and with --out append as JSON lines, the paired difference of two files of answers.

    Args:
        one: file of `longcompress bench synthetic_qa --answers`.
        two: another, of the same videos and kinds.
        share: of the tokens, where the files have several.
        out: JSON lines are added to this file.
    """
    for row in compare(scores(one, share), scores(two, share)):
        line = json.dumps({"files": [Path(one).name, Path(two).name], "share": share} | row)
        print(line, flush=True)
        if out:
            with open(out, "a", encoding="utf8") as file:
                file.write(line + "\n")


def main() -> None:
    """`measure` with the flags of the command line."""
    from jsonargparse import auto_cli

    auto_cli(measure)


if __name__ == "__main__":
    main()
