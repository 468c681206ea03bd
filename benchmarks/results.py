"""The results files, one a processor: a record of each comparison and of each side's memory, replaced when measured
again.
"""

import json
import platform
import re
from datetime import date
from pathlib import Path

import torch
from cases import CASES, WAYS

import rnnfused

CPU = Path(__file__).parent / "results" / "cpu"
RUNS = 2
# What tells the records of a section apart; the rest of a record is its figures, a list with one of each run.
KEYS = {
    "times": ("case", "threads", "way", "against"),
    "memory": ("case", "threads", "side"),
}


def cpu_name():
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    # A name alone may be that of several generations.
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in found.items()}
    if not {"model name", "cpu family", "model"} <= known.keys():
        return known.get("model name") or platform.processor() or platform.machine()
    return "{model name} (family {cpu family}, model {model})".format_map(known)


def cpu_file():
    """Where the results of this machine's processor are."""
    return CPU / f"{re.sub('[^a-z0-9]+', '-', cpu_name().lower()).strip('-')}.json"


def machine():
    """What all records of a file have in common."""
    return {
        "cpu": cpu_name(),
        "capability": rnnfused.cpu_capability(),
        "torch": torch.__version__,
        "rnnfused": rnnfused.__version__,
    }


class Results:
    """What a session measures, until it goes to the file."""

    def __init__(self):
        self.measured = {}

    def add(self, section, key, figures):
        """Takes what one run of a comparison found."""
        key = tuple(key[name] for name in KEYS[section])
        record = self.measured.setdefault((section, key), {})
        for name, figure in figures.items():
            rounded = float(f"{figure:.6g}") if isinstance(figure, float) else figure
            record.setdefault(name, []).append(rounded)

    def records(self, section):
        """The records of what was measured in every run."""
        for (of, key), figures in self.measured.items():
            if of == section and all(len(figure) == RUNS for figure in figures.values()):
                yield {**dict(zip(KEYS[of], key, strict=True)), **figures}

    def write(self, path):
        """Puts the records into the file, in the place of older ones, and says what became of it."""
        file = json.loads(path.read_text()) if path.exists() else {}
        common = machine()
        is_same = all(file.get(name) == value for name, value in common.items())
        sections = {}
        new = 0
        for section, names in KEYS.items():
            by_key = {}
            dated = [{**r, "date": date.today().isoformat()} for r in self.records(section)]
            new += len(dated)
            for record in (file.get(section, []) if is_same else []) + dated:
                by_key[tuple(record[name] for name in names)] = record
            sections[section] = sorted(by_key.values(), key=place)
        if not new:
            return f"nothing was measured {RUNS} times: {path.name} stays as it is"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumps({**common, **sections}))
        older = (
            ""
            if is_same or not file
            else "; older ones were of another machine or version, and went"
        )
        return f"{new} records into {path.name}{older}"


def place(record):
    """Where a record belongs in its section: by threads, case and way, then in the order it was measured."""
    names = [str(case) for case in CASES]
    case = names.index(record["case"]) if record["case"] in names else len(names)
    return record["threads"], case, WAYS.index(record.get("way", WAYS[0]))


def dumps(file):
    """JSON with a line for each record, so that a difference shows what was measured again."""
    fields = []
    for name, value in file.items():
        if isinstance(value, list):
            records = ",\n".join(f"  {json.dumps(record)}" for record in value)
            fields.append(f' "{name}": [\n{records}\n ]')
        else:
            fields.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"
