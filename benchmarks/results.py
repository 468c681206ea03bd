"""The results files, one per processor: a record per comparison, with one value per process.

A session's process writes its own records; `join` puts those of several sessions into the processor's file, where they
replace older ones.
"""

import json
import platform
import re
from datetime import date
from pathlib import Path

import torch
from cases import CASES

import rnnfused
from rnnfused.bench.shape import WAYS

CPU = Path(__file__).parent / "results" / "cpu"
# The key of a record in its section. Its other fields are figures: lists with one value per process.
KEYS = {
    "times": ("case", "threads", "way", "against"),
    "memory": ("case", "threads", "side"),
    "growth": ("axis", "size", "threads", "way", "side"),
    "peaks": ("axis", "size", "threads", "way", "side"),
    "limits": ("axis", "size", "threads"),
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


class Session:
    """Collects the measurements of one process."""

    def __init__(self):
        self.measured = {}

    def add(self, section, key, figures):
        """Adds a record, whose figures become lists of one value."""
        key = tuple(key[name] for name in KEYS[section])
        self.measured[section, key] = {name: [rounded(f)] for name, f in figures.items()}

    def records(self, section):
        """Yields the records of a section."""
        for (name, key), figures in self.measured.items():
            if name == section:
                yield {**dict(zip(KEYS[section], key, strict=True)), **figures}

    def write(self, path):
        """Writes all records as JSON."""
        sections = {section: list(self.records(section)) for section in KEYS}
        path.write_text(json.dumps({**machine(), **sections}))


def rounded(figure):
    """A figure with six digits."""
    return float(f"{figure:.6g}") if isinstance(figure, float) else figure


def join(path, sessions):
    """Puts the records of sessions into the file, where they replace older ones. Returns a line about the result.

    Args:
        path: the processor's file.
        sessions: contents of the sessions' files, in the order of measurement.
    """
    file = json.loads(path.read_text()) if path.exists() else {}
    common = machine()
    is_same = all(file.get(name) == value for name, value in common.items())
    sections = {}
    new = 0
    for section, names in KEYS.items():
        joined = {}
        for record in (record for session in sessions for record in session[section]):
            key = tuple(record[name] for name in names)
            known = joined.setdefault(key, {name: record[name] for name in names})
            for name in record:
                if name not in names:
                    known[name] = known.get(name, []) + record[name]
        for record in joined.values():
            record["date"] = date.today().isoformat()
        new += len(joined)
        old = file.get(section, []) if is_same else []
        by_key = {tuple(record[name] for name in names): record for record in old}
        by_key.update(joined)
        sections[section] = sorted(by_key.values(), key=place)
    if not new:
        return f"nothing was measured: {path.name} is unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps({**common, **sections}))
    dropped = "" if is_same or not file else "; dropped those of another machine or version"
    return f"wrote {new} records to {path.name}{dropped}"


def place(record):
    """Sort key of a record in its section: threads, case, way; ties keep the order of measurement."""
    names = [str(case) for case in CASES]
    case = names.index(record["case"]) if record.get("case") in names else len(names)
    return record["threads"], case, WAYS.index(record.get("way", WAYS[0]))


def dumps(file):
    """Returns JSON with one line per record, so that a diff shows the new records."""
    fields = []
    for name, value in file.items():
        if isinstance(value, list):
            records = ",\n".join(f"  {json.dumps(record)}" for record in value)
            fields.append(f' "{name}": [\n{records}\n ]' if value else f' "{name}": []')
        else:
            fields.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"
