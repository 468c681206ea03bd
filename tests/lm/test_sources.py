"""The random texts with a known entropy."""

import math
import re

import pytest
from sources import Edge, Source, embedded_reber, markov, reber


def test_entropy_by_hand():
    fair = Source({0: [Edge("a", 0, 0.5), Edge("b", 0, 0.5)]})
    assert fair.entropy == pytest.approx(math.log(2))
    # After "a" a fair draw, after "b" always "a": states in the ratio 2 to 1.
    source = Source({0: [Edge("a", 0, 0.5), Edge("b", 1, 0.5)], 1: [Edge("a", 0, 1.0)]})
    assert source.entropy == pytest.approx(2 / 3 * math.log(2))


@pytest.mark.parametrize("make", [markov, reber, embedded_reber])
def test_a_long_text_has_the_entropy(make):
    source = make()
    text = source.text(200_000, seed=1)
    assert source.nats(text) == pytest.approx(source.entropy, rel=0.01)
    assert text[:500] == source.text(500, seed=1) != source.text(500, seed=2)


def test_reber_strings_belong_to_the_grammar():
    tail = "(?:XT*VP)*(?:S|XT*VV)"
    inner = f"B(?:TS*X{tail}|PT*V(?:V|P{tail}))E"
    strings = reber().text(5000).split("E")[:-1]
    assert len(set(strings)) > 50
    assert all(re.fullmatch(inner, string + "E") for string in strings)
    assert {"BTXS", "BPVV", "BTXXVV", "BPVPS"} <= set(strings)
    whole = re.compile(f"(?:B(?:T{inner}T|P{inner}P)E)+")
    text = embedded_reber().text(5000)
    matched = whole.match(text)
    assert matched and len(text) - matched.end() < 100
