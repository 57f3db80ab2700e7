"""Programs and commands as processes of their own, alone or as the ranks of a group, as torchrun starts them.

They are forked from a process that has imported what they need: that takes seconds, and tests start many.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import runpy
import sys
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from torch.distributed import TCPStore

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch.distributed.tensor", "longcompress.train.stages", "models"])


def run(program, *words, num=1, out, timeout=300):
    """Exit codes of `num` ranks of a program, which end together, and all that they wrote.

    Args:
        program: a Python file.
        words: its arguments.
        num: ranks; a single one is no group.
        out: a file for what they write.
        timeout: seconds, after which they are killed.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent has it
    ends, ranks = [SERVER.Pipe() for _ in range(num)], []
    for k, (_, theirs) in enumerate(ends):
        group = {"RANK": k, "LOCAL_RANK": k, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
        group |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # no rank has a store of its own
        ranks.append(_process((program, *words), out, out, group if num > 1 else {}, theirs))
    end = monotonic() + timeout
    for rank, (_, theirs) in zip(ranks, ends, strict=True):
        rank.start()
        theirs.close()
    at_work = [ours for ours, _ in ends]
    while at_work and (done := multiprocessing.connection.wait(at_work, max(0.0, end - monotonic()))):
        at_work = [ours for ours in at_work if ours not in done]
    for ours, _ in ends:
        ours.close()
    for rank in ranks:
        rank.join(max(0.0, end - monotonic()))
    for rank in ranks:
        if rank.is_alive():
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks], out.read_text()


@contextmanager
def started(*words, out):
    """A process that runs a Python file, or `longcompress`, with its words, here and with this environment.

    It writes into the file `out`, and its errors into one beside it, with .err, which a test that fails
    prints. At the end it is killed.
    """
    errors = Path(f"{out}.err")
    process = _process(words, out, errors, {})
    process.start()
    try:
        yield process
    except BaseException:
        print(errors.read_text() if errors.exists() else "it wrote nothing")
        raise
    finally:
        process.kill()
        process.join()


def first_line(process, out):
    """The first line that it writes."""
    while "\n" not in (text := out.read_text() if out.exists() else ""):
        assert process.exitcode is None
        sleep(0.01)
    return text.partition("\n")[0]


def _process(words, out, err, more, others=None):
    environment = os.environ | {name: str(value) for name, value in more.items()}
    words = [str(word) for word in words]
    return SERVER.Process(target=_main, args=(words, (str(out), str(err)), os.getcwd(), environment, others))


def _main(words, files, folder, environment, others):
    for number, path in enumerate(files, start=1):
        os.dup2(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv, tempfile.tempdir, code = words, None, 0
    try:
        if words[0] == "longcompress":
            runpy.run_module("longcompress", run_name="__main__")
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # multiprocessing runs none
    sys.stdout.flush()
    sys.stderr.flush()
    if others and code == 0:  # the others may still talk to it
        others.send(None)
        others.poll(None)
    os._exit(code)
