"""Files of records, a JSON object per line, to which slow experiments add one run after another."""

import json


def load(path):
    """Returns the records of a file; none if there is no file."""
    return json.loads(path.read_text()) if path.exists() else []


def save(path, records, names):
    """Writes the records, a line each, ordered by the fields ``names``, which no two share."""
    by_key = {tuple(record[name] for name in names): record for record in records}
    lines = ",\n".join(f" {json.dumps(by_key[key])}" for key in sorted(by_key))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n")
