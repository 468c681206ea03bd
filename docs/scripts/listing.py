"""Runs the README's commands of the language model, and writes the text that two of them print into the README.

Run it again after a change of the command's output: ``.venv/bin/python docs/scripts/listing.py``.
"""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- begin: docs/scripts/listing.py -->", "<!-- end -->"
COMMANDS = (
    "rnnfused train --out runs/mine           # Python's help texts; or: rnnfused train my.txt --out runs/mine",
    "rnnfused train --out runs/mine --resume  # after Ctrl-C, kill -9 or a power cut: goes on where it was saved",
    "rnnfused eval runs/mine other.txt        # perplexity and bits per character of any text",
    'rnnfused sample runs/mine --prefix "The " --num-chars 200 --seed 1',
    "torchrun --nproc-per-node 2 -m rnnfused train my.txt --out runs/two  # two processes, one model",
)
TRAIN, RESUME, EVAL, SAMPLE_COMMAND, TORCHRUN = range(len(COMMANDS))
PROGRAM = (sys.executable, "-m", "rnnfused_command")
SAMPLE = "sample:"  # the training command ends with a sample, which the listing leaves out


def run(command, folder, extra=()):
    """Returns the standard output of a command, run in a folder."""
    words = shlex.split(command, comments=True)
    program = [*PROGRAM, *words[1:], *extra]
    result = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{command}: {result.stderr.strip()}")
    return result.stdout


def listing(folder, extra=()):
    """Trains and samples in a folder; returns what is shown of the output. ``extra`` is for the training."""
    training, sample = (run(COMMANDS[TRAIN], folder, extra), run(COMMANDS[SAMPLE_COMMAND], folder))
    lines = training.partition(f"\n{SAMPLE}")[0].strip().splitlines()
    if len(lines) > 4:
        lines[2:-1] = ["..."]
    return "\n".join(lines), sample.strip()


def block(training, sample):
    """Markdown: the commands, then the text they print."""
    return "\n".join(
        [BEGIN, "```sh", *COMMANDS, "```", "", "```text", training, "", sample, "```", END]
    )


def shape(text):
    """A text with every number replaced: two runs of one command differ in these alone."""
    return re.sub(r"\d[\d.,]*", "0", text)


def main():
    """Rewrites the README's block."""
    with tempfile.TemporaryDirectory() as folder:
        made = block(*listing(folder))
    text = README.read_text()
    text, found = re.subn(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.S
    )
    if found != 1:
        raise SystemExit(f"README.md must have {BEGIN} once, got it {found} times")
    README.write_text(text)


if __name__ == "__main__":
    main()
