"""Reading, splitting and simplifying text."""

import os
import random
import re
from pathlib import Path

import pytest

from rnnfused.lm import TextError, Vocab, default_text, letters_only, read_text, split_text

TIME_MACHINE = Path(__file__).parents[3] / "shared" / "data" / "timemachine.txt"


def test_reads_utf8_drops_the_mark_and_unifies_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\ncaf\xc3\xa9\rend\n")
    assert read_text(path) == "naïve\ncafé\nend\n"
    assert read_text(str(path)) == "naïve\ncafé\nend\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "empty except for a byte order mark"),
        (b"plain\x00text", "NUL byte at byte offset 5"),
        (b"caf\xc3\xa9 then \xff", "not UTF-8: byte 0xff at byte offset 11"),
        (b"cut short \xc3", "not UTF-8: byte 0xc3 at byte offset 10"),
    ],
)
def test_unusable_content_is_named(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=message) as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_unusable_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_text(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TextError, match="not a regular file"):
        read_text(tmp_path / "pipe")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read anything"
)
def test_unreadable_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0)
    with pytest.raises(PermissionError, match="a.txt"):
        read_text(path)


def test_default_text_is_long_english():
    text = default_text()
    assert len(text) > 300_000
    assert text.count(" the ") > 2_000
    assert text == default_text()


def test_split_keeps_order_and_every_character():
    training, validation = split_text("0123456789", 0.3)
    assert (training, validation) == ("0123456", "789")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_split_refuses_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        split_text("0123456789", fraction)


def test_split_refuses_texts_too_short_for_two_parts():
    with pytest.raises(TextError, match="12 characters .* leave 11 to train on and 1 to validate"):
        split_text("abcdefghijkl", 0.1)
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        split_text(b"0123456789", 0.3)


def test_letters_only():
    assert letters_only("The Time-Machine,\n\n by H. G. Wells [1898]!") == (
        "the time machine by h g wells "
    )


@pytest.mark.parity
@pytest.mark.skipif(not TIME_MACHINE.is_file(), reason="no ../shared/data/timemachine.txt")
def test_letters_only_gives_the_textbook_s_counts():
    # Section 9.2 of the book: a corpus of 173,428 characters, a vocabulary of 28 with <unk>.
    letters = letters_only(read_text(TIME_MACHINE))
    assert len(letters) == 173_428
    assert len(Vocab(letters)) == 28


def test_letters_only_in_pieces(monkeypatch):
    text = "".join(random.Random(0).choices("aB,. \n\u00e9", k=300)) + "," * 30 + "z"
    expected = re.sub("[^a-z]+", " ", text.lower())
    for piece in (1, 2, 3, 7, 331, 332):
        monkeypatch.setattr("rnnfused.lm.vocab._PIECE", piece)
        assert letters_only(text) == expected
    assert letters_only("") == "" and letters_only("??") == " "
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        letters_only(b"a")
