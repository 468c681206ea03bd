"""Runs the README's two commands of the language model and writes them, with the text they print, into the README.

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
    "rnnfused train --out runs/mine    # Python's help texts; or: rnnfused train my.txt --out runs/mine",
    'rnnfused sample runs/mine --prefix "The " --num-chars 200 --seed 1',
)
SAMPLE = "sample:"  # the training command ends with a sample, which the listing leaves out


def run(command, folder, extra=()):
    """Returns the standard output of a command, run in a folder."""
    words = shlex.split(command, comments=True)
    program = [sys.executable, "-m", "rnnfused_command", *words[1:], *extra]
    result = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{command}: {result.stderr.strip()}")
    return result.stdout


def listing(folder, extra=()):
    """Runs both commands in a folder; returns their output, ``extra`` added to the first command."""
    training, sample = (run(COMMANDS[0], folder, extra), run(COMMANDS[1], folder))
    return training.partition(f"\n{SAMPLE}")[0].strip(), sample.strip()


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
