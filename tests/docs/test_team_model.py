"""The table of team sizes in docs/cpu-kernel.md follows from the model and its constants in csrc/cpu/tuning.h."""

import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CORES = (2, 4, 8, 16, 64)


@pytest.fixture(scope="module")
def constants():
    """The constants of tuning.h, by name, where they are plain numbers."""
    text = (ROOT / "csrc" / "cpu" / "tuning.h").read_text()
    found = re.findall(r"constexpr int(?:64_t)? (k\w+) = ([\d']+);", text)
    return {name: int(value.replace("'", "")) for name, value in found}


@pytest.mark.parametrize("hidden_size", [256, 512, 1024, 2048])
def test_the_table_has_the_numbers_of_the_model(constants, hidden_size):
    rate, own = constants["kTeamWorkPerNs"], constants["kMeetingNsPerMember"]
    work = hidden_size**2
    most = min(
        work // constants["kMinWorkPerMeeting"],
        int(math.sqrt(work // (rate * own))),
        constants["kMaxMembers"],
    )
    cells = []
    for cores in CORES:
        members = min(most, cores)
        time = work / (members * rate) + constants["kMeetingNs"] + members * own
        cells.append(f"{members}, {work / rate / time:.1f}")
    page = (ROOT / "docs" / "cpu-kernel.md").read_text()
    assert f"| {hidden_size} | {' | '.join(cells)} |" in page
    assert f"`w / {rate}n + {constants['kMeetingNs']} + {own}n`" in page
