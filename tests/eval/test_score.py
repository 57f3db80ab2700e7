"""`longcompress eval score` as a person types it, and a judge behind an endpoint of this process."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longcompress.cli.main import main
from longcompress.eval.runner.score import score_files
from longcompress.eval.tasks import TASKS, judging
from longcompress.eval.tasks.judging import SYSTEM_ENDS, endpoint
from longcompress.eval.tasks.task import How

from task_cases import CASES, put


def run(capsys, *words):
    code = main(["eval", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_table_and_json_and_a_file(tmp_path, capsys):
    reference, pred = put(tmp_path, CASES["lvbench"][0]), put(tmp_path, CASES["lvbench"][1])
    words = ["score", "lvbench", "--reference", *reference, "--pred", *pred]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "accuracy/task/reasoning" in out and "0.5000" in out and "unknown: 1: 9" in out
    code, out, _ = run(capsys, *words, "--json", "--out", tmp_path / "r.json")
    report = json.loads(out)
    assert code == 0 and report["unknown"] == ["9"] and report["metrics"]["accuracy"] == 0.5
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert report == score_files("lvbench", reference, pred) | {
        "reference": [str(item) for item in reference], "pred": [str(item) for item in pred]
    }  # fmt: skip


def test_several_gold_files_compat_and_meteor(tmp_path, capsys):
    reference, pred = put(tmp_path, CASES["mlvu"][0]), put(tmp_path, CASES["mlvu"][1])
    code, out, _ = run(
        capsys, "score", "mlvu", "--reference", *reference, "--pred", *pred, "--json", "--compat", "paper"
    )
    assert code == 0 and json.loads(out)["compat"] == "paper"
    reference, pred = put(tmp_path, CASES["longvale-sc"][0]), put(tmp_path, CASES["longvale-sc"][1])
    words = ["score", "longvale-sc", "--reference", *reference, "--pred", *pred]
    code, out, _ = run(capsys, *words)
    assert code == 0 and "METEOR" in out and "missing: 1: v_2_0" in out


def test_durations_for_hundredths(tmp_path, capsys):
    (reference,) = put(tmp_path, CASES["charades-sta"][0])
    line = {"video_id": "AAA", "task": "grounding", "query_id": 0, "answer": "From 00 to 50."}
    (pred,) = put(tmp_path, {"log.txt": json.dumps(line | {"info": {"sentence_id": 0}})})
    words = ["score", "charades-sta", "--reference", reference, "--pred", pred, "--json"]
    code, _, err = run(capsys, *words)
    assert code == 2 and "hundredths need the length of 'AAA', got None; give --durations FILE" in err
    lengths = put(tmp_path, {"d.csv": "id,subject,length\nAAA,x,20.0\n", "d.json": '{"AAA": 20}'})
    for path in lengths:
        code, out, _ = run(capsys, *words, "--durations", path)
        assert code == 0 and json.loads(out)["metrics"]["mIoU"] == pytest.approx(1 / 3)
    for text, message in (
        ("id,length\nAAA,long\n", "d.csv:2: 'length' must be seconds, got 'long'"),
        ("a,b\n", "d.csv:1: must have the columns id and length, got ['a', 'b']"),
    ):
        put(tmp_path, {"d.csv": text})
        code, _, err = run(capsys, *words, "--durations", lengths[0])
        assert code == 2 and message in err


def test_wrong_words(tmp_path, capsys):
    code, _, err = run(capsys, "score", "lvbench", "--reference", tmp_path / "none", "--pred", "x")
    assert code == 3 and "none" in err
    code, _, err = run(capsys, "score", "charades", "--reference", "x", "--pred", "x")
    assert code == 2 and "task must be one of charades-sta" in err
    assert run(capsys, "score", "lvbench")[0] == 2
    assert run(capsys, "score", "--help")[0] == 0
    code, _, err = run(capsys, "score", "lvbench", "--reference", "x", "--pred", "x", "--judge-model", "m")
    assert code == 2 and "a judge needs both --judge-url and --judge-model, got None and 'm'" in err
    code, _, err = run(capsys, "score", "lvbench", "--reference", "x", "--pred", "x", "--judge-cache", "c")
    assert code == 2 and "--judge-cache needs --judge-url and --judge-model, got neither" in err


def test_the_list_of_benchmarks(capsys):
    code, out, _ = run(capsys, "tasks", "--json")
    assert code == 0 and list(json.loads(out)) == list(TASKS)
    code, out, _ = run(capsys, "tasks")
    assert code == 0 and "longvale-dvc" in out


# --- the endpoint


@pytest.fixture
def server():
    """An endpoint: `replies` are (status, body), the last one for ever; `asked` is what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append((self.path, self.headers.get("Authorization"), body))
            status, text = served.replies.pop(0) if len(served.replies) > 1 else served.replies[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.asked, served.replies = [], [(200, reply_of("{'pred': 'yes', 'score': 5}"))]
    served.url = f"http://127.0.0.1:{served.server_port}/v1"
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()


def reply_of(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def test_a_judge_over_http_with_a_cache(tmp_path, capsys, server):
    reference, pred = put(tmp_path, CASES["msvd-qa"][0]), put(tmp_path, CASES["msvd-qa"][1])
    (tmp_path / "key").write_text("secret\n")
    words = ["score", "msvd-qa", "--reference", *reference, "--pred", *pred, "--json",
             "--judge-url", server.url, "--judge-model", "judge-1", "--judge-cache", tmp_path / "c.jsonl",
             "--judge-key", tmp_path / "key"]  # fmt: skip
    code, out, _ = run(capsys, *words)
    metrics = json.loads(out)["metrics"]
    assert code == 0 and (metrics["accuracy"], metrics["score"]) == (0.5, 2.5)
    assert metrics["judge"].startswith("judge-1 at 127.0.0.1:") and "{reference}" in metrics["prompt"]
    ((path, key, body),) = server.asked  # asked once, though accuracy and intervals both need it
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["temperature"] == 0
    assert [item["role"] for item in body["messages"]] == ["system", "user"]
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write('{"model": "judge-1", "pro')  # killed while it wrote
    code, again, _ = run(capsys, *words)
    assert code == 0 and json.loads(again) == json.loads(out) and len(server.asked) == 1
    words[words.index("judge-1")] = "judge-2"
    assert run(capsys, *words)[0] == 0 and len(server.asked) == 2


def test_a_busy_judge_is_asked_again(server, monkeypatch):
    server.replies = [(503, "busy"), (429, "slow"), (200, "{"), (200, reply_of("fine"))]
    waited = []
    monkeypatch.setattr(judging.time, "sleep", waited.append)
    asker = endpoint(server.url, "m")
    assert asker.ask(["hello"]) == ["fine"] == asker.ask(["hello"])
    assert waited == [2.0, 4.0, 8.0] and len(server.asked) == 4
    assert server.asked[0][2]["messages"] == [{"role": "user", "content": "hello"}]
    server.replies = [(500, "broken")]
    with pytest.raises(OSError, match=r"did not answer in 6 tries, the last: HTTP 500: broken"):
        endpoint(server.url, "m").ask([f"a{SYSTEM_ENDS}b"])
    assert waited[3:] == [2.0, 4.0, 8.0, 16.0, 32.0]


def test_a_judge_that_refuses_or_says_nothing(server):
    server.replies = [(401, "no key")]
    with pytest.raises(ValueError, match=r"refuses: HTTP 401: no key; see --judge-url, --judge-model"):
        endpoint(server.url, "m").ask(["x"])
    server.replies = [(200, "{}")]
    with pytest.raises(ValueError, match=r"must reply with choices\[0\].message.content, got '{}'"):
        endpoint(server.url, "m").ask(["x"])
    with pytest.raises(ValueError, match=r"judge_url must begin with http:// or https://, got 'file:///x'"):
        endpoint("file:///x", "m")


def test_thousands_of_predictions(tmp_path):
    reference = "".join(f"v{i % 200} 0 10##something {i}\n" for i in range(2000))
    pred = "".join(json.dumps({"id": f"v{i}_0", "answer": "0 to 10"}) + "\n" for i in range(200))
    (first,), (second,) = put(tmp_path, {"g.txt": reference}), put(tmp_path, {"p.jsonl": pred})
    got = score_files("charades-sta", [first], [second], How())
    assert got["metrics"]["mIoU"] == pytest.approx(0.1) and got["num_missing"] == 1800
    assert got["intervals"]["mIoU"]["low"] == pytest.approx(0.1)  # each video has one of its ten
    assert got == score_files("charades-sta", [first], [second], How())
