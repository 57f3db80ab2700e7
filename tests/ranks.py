"""Programs as processes of their own, alone or as the ranks of a group, as torchrun would start them.

They are forked from a process that has imported what they need: that takes seconds, and tests start many.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import runpy
import socket
import sys
import traceback
from time import monotonic

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = [SERVER.Pipe() for _ in range(num)]
    ranks = [
        SERVER.Process(target=_main, args=(list(map(str, (program, *words))), k, num, port, str(out), theirs))
        for k, (_, theirs) in enumerate(ends)
    ]
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


def _main(words, rank, num, port, out, others):
    file = os.open(out, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if num > 1:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num}
        group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in group.items()})
    sys.argv = words
    code = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # multiprocessing runs none
    sys.stdout.flush()
    sys.stderr.flush()
    if code == 0:  # what this rank holds, such as the group's store, the others may still talk to
        others.send(None)
        others.poll(None)
    os._exit(code)
