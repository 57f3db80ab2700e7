"""`bench live` gives its figures on a small random model, in seconds and in hours."""

import math

from longcompress.config_llm import LLMConfig
from longcompress.eval.bench.live import bench_live
from longcompress.eval.bench.rows import load_rows

import models


def test_figures_of_a_session_and_of_minutes(tmp_path):
    words = {"timestamp_s": 5.0, "timestamp": "{start}", "question": "{question} answer", "max_offset_s": 16}
    model = models.model(llm=LLMConfig(base="./lm", max_new_tokens=6, **words))
    model.save_pretrained(tmp_path / "model", include_base=True)
    out, options = str(tmp_path / "live.csv"), {"model": str(tmp_path / "model"), "near_s": 8, "past": 20}
    assert bench_live(out, seconds=20, **options) == 0
    assert bench_live(out, hours=0.02, **options) == 0
    rows = {(row.suite, row.case, row.metric): row.value for row in load_rows(out)}
    assert all(math.isfinite(value) for value in rows.values()), rows
    for case in ("heads", "poll"):
        busy, rate = (rows["live", case, name] for name in ("real time factor, one thread", "steps"))
        assert 0 < busy < 1 and rate > 1 and rows["live", case, "question to first token"] > 0
        # what is quickest and slowest belongs to the same steps
        assert rows["live", case, "a step, median"] <= rows["live", case, "frame to score, p99"]
    assert rows["live hours", "heads", "memory"] > 10 and rows["live hours", "heads", "snapshot"] > 1000
