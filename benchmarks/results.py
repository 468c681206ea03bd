"""The results files, one per processor, with a record of each comparison and of each side's memory.

A new measurement replaces the old record.
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
# The key of a record in its section. Its other fields are figures: lists with one value per run.
KEYS = {
    "times": ("case", "threads", "way", "against"),
    "memory": ("case", "threads", "side"),
}


def cpu_name():
    """Returns the machine's name of its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    # Several generations may share a name, so family and model are added.
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in found.items()}
    if not {"model name", "cpu family", "model"} <= known.keys():
        return known.get("model name") or platform.processor() or platform.machine()
    return "{model name} (family {cpu family}, model {model})".format_map(known)


def cpu_file():
    """Returns the path of this processor's results."""
    return CPU / f"{re.sub('[^a-z0-9]+', '-', cpu_name().lower()).strip('-')}.json"


def machine():
    """Returns the fields that all records of a file share."""
    return {
        "cpu": cpu_name(),
        "capability": rnnfused.cpu_capability(),
        "torch": torch.__version__,
        "rnnfused": rnnfused.__version__,
    }


class Results:
    """Collects a session's measurements and writes them to the file."""

    def __init__(self):
        self.measured = {}

    def add(self, section, key, figures):
        """Adds the figures of one run."""
        key = tuple(key[name] for name in KEYS[section])
        record = self.measured.setdefault((section, key), {})
        for name, figure in figures.items():
            rounded = float(f"{figure:.6g}") if isinstance(figure, float) else figure
            record.setdefault(name, []).append(rounded)

    def records(self, section):
        """Yields the records that every run has measured."""
        for (name, key), figures in self.measured.items():
            if name == section and all(len(figure) == RUNS for figure in figures.values()):
                yield {**dict(zip(KEYS[section], key, strict=True)), **figures}

    def write(self, path):
        """Writes the records into the file, where they replace older ones. Returns a line about the result."""
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
            return f"nothing was measured {RUNS} times: {path.name} is unchanged"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dumps({**common, **sections}))
        dropped = "" if is_same or not file else "; dropped those of another machine or version"
        return f"wrote {new} records to {path.name}{dropped}"


def place(record):
    """Sort key of a record in its section: threads, case, way; ties keep the order of measurement."""
    names = [str(case) for case in CASES]
    case = names.index(record["case"]) if record["case"] in names else len(names)
    return record["threads"], case, WAYS.index(record.get("way", WAYS[0]))


def dumps(file):
    """Returns JSON with one line per record, so that a diff shows the new records."""
    fields = []
    for name, value in file.items():
        if isinstance(value, list):
            records = ",\n".join(f"  {json.dumps(record)}" for record in value)
            fields.append(f' "{name}": [\n{records}\n ]')
        else:
            fields.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"
