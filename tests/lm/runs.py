"""Small training runs that several tests start, and the folders that they leave."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from forks import COMMAND, forked

from rnnfused.lm import TrainSettings, load_checkpoint

# The next letter depends on the last two, so that a bigram model cannot predict it.
TEXT = "aabbacbccacb" * 60
SMALL = TrainSettings(hidden_size=24, num_layers=1, num_steps=16, batch_size=4, epochs=3, lr=0.02)
# Options of an even smaller run by the command.
TINY = "--hidden-size 8 --num-layers 1 --num-steps 8 --batch-size 4 --epochs 1".split()
# Contents of files that are no texts, and the reasons.
WRONG_TEXTS = (
    (b"", "is empty"),
    (b"a\0b", "NUL byte at byte offset 1"),
    (b"ab\xff", "not UTF-8: byte 0xff at byte offset 2"),
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and flock")


def run_command(*arguments, prefix=(), input=None, module=None, **environment):
    """The finished process of the command ``rnnfused``, started through ``prefix`` if given.

    It is a fork of a process that has imported torch. With a module it is a new process, ``python -m module``;
    so it is with environment variables, as Python and torch read theirs at their start.
    """
    if module is None and not environment:
        start = forked(COMMAND)
    else:
        start = [sys.executable, "-m", module or "rnnfused_command"]
    return subprocess.run(
        [*prefix, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
        input=input,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def weights_of(folder):
    """The file of weights that the record names."""
    return folder / json.loads((folder / "model.json").read_text())["weights"]


def kept(folder):
    """The names in a folder that holds only its checkpoint."""
    record = json.loads((folder / "model.json").read_text())
    named = {record[field] for field in ("weights", "last", "training") if field in record}
    return sorted(["model.json", *named])


def files(folder):
    """The names in the folder of a finished run."""
    return sorted([*kept(folder), "loss.png", "metrics.jsonl", "perplexity.png"])


def to_format_2(folder):
    """Convert the checkpoint of ``save_checkpoint`` to the format of earlier versions."""
    record = json.loads((folder / "model.json").read_text())
    for name in ("embedding_size", "tied"):
        del record["config"][name]
    # The sum as they wrote it.
    described = {"config": record["config"], "vocab": record["vocab"]}
    line = json.dumps(described, sort_keys=True, separators=(",", ":")) + "\n"
    summed = hashlib.sha256(line.encode() + weights_of(folder).read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(record | {"format": 2, "sha256": summed}))


def to_format_1(folder):
    """Convert the checkpoint to the format of the package's first version."""
    to_format_2(folder)
    weights_of(folder).rename(folder / "model.safetensors")
    record = json.loads((folder / "model.json").read_text())
    del record["weights"]
    (folder / "model.json").write_text(json.dumps(record | {"format": 1}))


def loaded(folder):
    """The number of the model in the folder, of the fixture ``models``."""
    checkpoint = load_checkpoint(folder)
    value = checkpoint.model.head.bias[0].item()
    assert checkpoint.record["settings"] in ({}, {"value": value})
    return value


def fork(function, *arguments):
    """The id of a child that runs ``function``; exit code 3 if it raises, 0 if it returns."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
            os._exit(0)
        except BaseException:
            os._exit(3)
    return child
