"""Words of messages."""

import pytest

from rnnfused.wording import quantity


@pytest.mark.parametrize(("number", "expected"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_one_has_no_plural(number, expected):
    assert quantity(number, "step") == expected
