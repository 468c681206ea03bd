"""Stores what `make coverage` counted in results/coverage.json, and makes its part of docs/evidence.md.

.venv/bin/python benchmarks/coverage_report.py build/coverage
"""

import datetime
import json
import sys
from collections import Counter
from pathlib import Path

from results import cpu_name

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "coverage.json"


def reduced(report, summary):
    """The results, from gcovr's report and its summary: a line counts once, whatever the number of its instances."""
    counts = Counter()
    for file in report["files"]:
        for line in file["lines"]:
            counts[file["file"], line["line_number"]] += line["count"]
    missed = sorted(place for place, count in counts.items() if count == 0)
    sources = {name: (ROOT / name).read_text().splitlines() for name, _ in missed}
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "lines": len(counts),
        "missed": [
            {"file": name, "line": line, "text": sources[name][line - 1].strip()}
            for name, line in missed
        ],
        "branches": summary["branch_total"],
        "branches_reached": summary["branch_covered"],
    }


def load():
    """Returns the results."""
    return json.loads(RESULTS.read_text())


def sentences(results):
    """The figures, and the lines that no test reached."""
    lines, missed = results["lines"], results["missed"]
    return "\n".join(
        [
            f"On an {results['cpu']}, {results['date']}, the tests reached {lines - len(missed):,} of {lines:,} lines "
            f"({1 - len(missed) / lines:.1%}), and {results['branches_reached'] / results['branches']:.1%} of the "
            "branches. The other lines:",
            "",
            "| file | line | code |",
            "|---|---|---|",
            *(
                f"| `{it['file']}` | {it['line']} | `` {it['text'].replace('|', chr(92) + '|')} `` |"
                for it in missed
            ),
        ]
    )


def main():
    """Stores the results of the folder that is named on the command line."""
    folder = Path(sys.argv[1])
    read = [json.loads((folder / f"{name}.json").read_text()) for name in ("report", "summary")]
    RESULTS.write_text(json.dumps(reduced(*read), indent=1) + "\n")


if __name__ == "__main__":
    main()
