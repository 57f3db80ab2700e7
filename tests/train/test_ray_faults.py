"""Ray's workers that die, a full disk, a poisoned video, a cluster that isn't there: each has its end.

The unit of work is examples/many_workers.py's: a stub in the place of decoding and encoding.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import ray

from longcompress.train.shards import make as shards
from longcompress.train.shards import ray as shards_ray

import helpers

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "many_workers.py"


many = helpers.program(SCRIPT)  # Ray's workers get its functions by value


@pytest.fixture(scope="module")
def running():
    """A Ray of three cores, which several tests use."""
    with shards_ray._running(2) as running:
        yield running
    assert not ray.is_initialized()


@pytest.fixture
def alone(tmp_path):
    """Forty records, the first of which is bad, and the hashes of what is made of them without Ray."""
    records = many.records_of(40, 0.025, 0)
    unit = shards.each(partial(many.stub, model=None, kind="media"))
    shards.make_share(records, tmp_path / "alone", unit, progress=False)
    shards.pack(tmp_path / "alone", records, progress=False)
    return records, many.hashes(tmp_path / "alone")


def by_ray(records, out, part=many.stub, workers=2):
    return shards_ray.make(records, out, None, kind="media", workers=workers, part=part, progress=False)


def statuses(results):
    return sorted(r.status for r in results)


def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for prefix in ("", "ray://"):
            monkeypatch.setenv("RAY_ADDRESS", prefix + address)
            with pytest.raises(
                ConnectionError, match=rf"no cluster of Ray answers at {prefix}{address}.*ray start"
            ):
                by_ray(many.records_of(2, 0, 0), tmp_path / "out")


def test_bad_videos_and_killed_workers_change_no_byte_and_each_video_is_counted_once(running, tmp_path):
    report = many.simulate(tmp_path / "out", num=300, workers=2, bad=0.02, killed=0.01)
    counts = Counter(["made"] * 294 + ["failed"] * 6)
    assert report["many"]["killed"] == 3
    for name in ("alone", "many", "again"):
        assert report[name]["manifest"] == counts and report[name]["packed"] == 294
        assert report[name]["files"] == report["alone"]["files"]
    assert report["many"]["results"] == counts
    assert report["again"]["results"] == {"exists": 294, "failed": 6}
    left = [p.name for p in (tmp_path / "out/many/parts").iterdir() if p.name[:6] in (".seen-", ".v0000")]
    assert not left


def test_a_video_that_ends_each_worker_fails_by_name_and_the_others_are_made(running, tmp_path, alone):
    records, _ = alone

    def poisoned(record, folder, model, kind):
        if record.key == "v0000007":
            os.kill(os.getpid(), signal.SIGSEGV)
        return many.stub(record, folder, model, kind)

    results = {r.key: r for r in by_ray(records, tmp_path / "out", poisoned)}
    assert statuses(results.values()) == ["failed"] * 2 + ["made"] * 38
    assert results["v0000007"].reason == "v0000007.mp4: it ended 3 workers that read it"
    index = shards.pack(tmp_path / "out", records, progress=False)
    assert len(index) == 38 and "ended 3 workers" in (tmp_path / "out/manifest.jsonl").read_text()


def test_a_full_disk_ends_the_work_and_with_space_it_goes_on_to_the_same_bytes(running, tmp_path, alone):
    records, want = alone

    def full(record, folder, model, kind):
        def write(path, *_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        # as `write_tar` fails; the module is the worker's own
        from longcompress.train.shards import make

        before, make.write_tar = make.write_tar, write if record.key == "v0000020" else make.write_tar
        try:
            return many.stub(record, folder, model, kind)
        finally:
            make.write_tar = before

    with pytest.raises(OSError, match=r"v0000020\.tar") as error:
        by_ray(records, tmp_path / "out", full)
    assert error.value.errno == errno.ENOSPC
    assert not list((tmp_path / "out/parts").glob("*20.failed.json"))  # it's no fault of the video
    with pytest.raises(ValueError, match=r"videos aren't made yet"):
        shards.pack(tmp_path / "out", records, progress=False)
    assert "exists" in statuses(by_ray(records, tmp_path / "out"))
    shards.pack(tmp_path / "out", records, progress=False)
    assert many.hashes(tmp_path / "out") == want


def test_workers_that_do_not_see_the_files_are_named(running, tmp_path, monkeypatch):
    records = many.records_of(2, 0, 0)
    with monkeypatch.context() as patched:
        patched.setattr(shards_ray.os, "getcwd", lambda: "/no/such/folder")
        with pytest.raises(
            FileNotFoundError, match=r"on .* doesn't see /no/such/folder; all machines must see"
        ):
            by_ray(records, tmp_path / "out")
    assert not list((tmp_path / "out/parts").glob("v*"))


def test_workers_that_die_before_they_are_ready_end_the_work(running, tmp_path):
    def dying(device):
        os._exit(1)

    with pytest.raises(OSError, match=r"workers of Ray ended before they were ready; is there memory"):
        shards_ray.make(many.records_of(1, 0, 0), tmp_path, dying, part=many.stub, progress=False)


def test_a_module_that_workers_lack_is_named_at_the_first_of_them(running, tmp_path, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def part(record, folder, model, kind): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(OSError, match=r"can't take what it is given; are the modules .*(?s:.)*only_here"):
        by_ray(many.records_of(2, 0, 0), tmp_path, module.part)


def test_more_workers_than_the_cluster_has_cores_are_refused(running, tmp_path):
    num = int(running.cluster_resources()["CPU"])
    with pytest.raises(
        ValueError, match=rf"workers must be at most the cluster's CPUs, {num}, got {num + 1}"
    ):
        by_ray(many.records_of(num + 1, 0, 0), tmp_path, workers=num + 1)


def test_a_second_master_on_a_folder_is_refused_and_the_first_goes_on(running, tmp_path, alone):
    records, want = alone
    arriving = iter(())

    def first(own, folder):
        nonlocal arriving
        with pytest.raises(ValueError, match="another process makes this share here"):
            by_ray(records, tmp_path / "out")
        yield from shards.each(partial(many.stub, model=None, kind="media"))(own, folder)

    shards.make_share(records, tmp_path / "out", first, progress=False)
    shards.pack(tmp_path / "out", records, progress=False)
    assert many.hashes(tmp_path / "out") == want


def children(pid):
    """The processes below one."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[1]) == pid:
            child = int(path.parent.name)
            yield child
            yield from children(child)


def test_after_a_killed_head_the_run_ends_and_the_next_goes_on_to_the_same_bytes(tmp_path, alone):
    records, want = alone
    script = f"""
import sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
import many_workers as many
from longcompress.train.shards import ray as shards_ray

def slow(record, folder, model, kind):
    from many_workers import stub
    if record.key > "v0000010":
        time.sleep(600)
    return stub(record, folder, model, kind)

records = many.records_of(40, 0.025, 0)
shards_ray.make(records, sys.argv[1], None, kind="media", workers=2, part=slow, progress=False)
"""
    out = tmp_path / "out"
    path = os.pathsep.join([str(SCRIPT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=env, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while len(list(out.glob("parts/v*"))) < 11 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.1)
        heads = [p for p in children(process.pid) if "gcs_server" in Path(f"/proc/{p}/comm").read_text()]
        assert heads, "the head of Ray runs"
        os.kill(heads[0], signal.SIGKILL)
        assert process.wait(120) != 0
    finally:
        for pid in [*children(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    unit = shards.each(partial(many.stub, model=None, kind="media"))
    assert "exists" in statuses(shards.make_share(records, out, unit, progress=False))
    shards.pack(out, records, progress=False)
    assert many.hashes(out) == want
