"""Runs the benchmarks in several processes per number of threads, and writes the processor's results file.

``python benchmarks/run.py [--threads 1 2] [--starts 5] [options of pytest]``
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import results
from tqdm import tqdm

FOLDER = Path(__file__).parent
# The end of a line of pytest -v: the outcome of a benchmark, and the share of those done.
DONE = re.compile(r"::(\S+) (PASSED|SKIPPED|FAILED|ERROR).*\[ *(\d+)%\]")


def command(threads, fewest, is_first, records, options):
    """The command line of a session."""
    left_out = [*["one_thread"] * (threads > fewest), *["once"] * (not is_first)]
    marks = " and ".join(f"not {mark}" for mark in left_out)
    fixed = ["-v", "--tb=short", "-p", "no:cacheprovider", "--override-ini=addopts="]
    own = [f"--threads={threads}", f"--records={records}"]
    return [sys.executable, "-m", "pytest", FOLDER, *fixed, *own, "-m", marks, *options]


def run_session(line, describe):
    """Runs a session. Returns its output if a benchmark failed, else null."""
    output = []
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout:
            output.append(text)
            if match := DONE.search(text):
                describe(match[1], int(match[3]))
    # 5: the options of pytest select no benchmark of this session.
    return None if process.returncode in (0, 5) else "".join(output[-60:])


def main():
    """Runs all sessions, and joins their records."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="numbers of threads")
    parser.add_argument("--starts", type=int, default=5, help="processes per number of threads")
    arguments, options = parser.parse_known_args()
    # Numbers of threads take turns, so that a drift of the machine is in all.
    sessions = [(start, n) for start in range(arguments.starts) for n in arguments.threads]
    fewest = min(arguments.threads)
    measured, failed = [], False
    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    bar = tqdm(total=100 * len(sessions), bar_format=form, disable=None)
    with tempfile.TemporaryDirectory() as folder, bar:
        for number, (start, threads) in enumerate(sessions):
            name = f"process {number + 1} of {len(sessions)}, {threads} thread{'s' * (threads > 1)}"
            if bar.disable:
                print(name, flush=True)
            bar.set_description(name)

            def describe(benchmark, percent, number=number):
                bar.set_postfix_str(benchmark, refresh=False)
                bar.update(100 * number + percent - bar.n)

            records = Path(folder) / f"{number}.json"
            is_first = start == 0 and threads == fewest
            line = command(threads, fewest, is_first, records, options)
            if errors := run_session(line, describe):
                failed = True
                bar.write(errors)
            if records.exists():
                measured.append(json.loads(records.read_text()))
        print(results.join(results.cpu_file(), measured))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
