"""Other processes for tests: one that may be killed, or several that train together.

They are forked from a server that has imported PyTorch once and computed nothing, for autograd does
not survive a fork.
"""

import multiprocessing
import os
import socket

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["reasoning_from_scratch.grpo", "reasoning_from_scratch.sft", "torch._dynamo", "pytest"]
)
PATIENCE = 300  # seconds until a test that hangs fails; a busy machine is slow to start PyTorch


def run_process(function, *arguments, environment=None):
    """Call a function in another process; return (its exit code, what it returned or None)."""
    return finish(start(function, arguments, environment or {}))


def run_ranks(function, *arguments, count=2):
    """Call a function in `count` processes as `torchrun` would; return what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    started = [
        start(function, arguments, group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    results = [finish(process) for process in started]
    assert [code for code, _ in results] == [0] * count
    return [result for _, result in results]


def start(function, arguments, environment):
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(sender, function, arguments, environment))
    process.start()
    sender.close()
    return process, receiver


def finish(started):
    process, receiver = started
    result = None
    try:
        if receiver.poll(PATIENCE):
            result = receiver.recv()
    except EOFError:  # it was killed, or failed
        pass
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"a process still ran after {PATIENCE} s")
    return process.exitcode, result


def work(sender, function, arguments, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    sender.send(function(*arguments))
