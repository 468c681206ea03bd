"""Reading, splitting and simplifying text, and its windows for truncated BPTT."""

import os
import random
import re

import pytest
import torch
from textbook import TIME_MACHINE, parity

from rnnfused.lm import (
    StreamBatches,
    TextError,
    Vocab,
    default_text,
    letters_only,
    read_text,
    split_text,
)


def test_read_text_drops_the_byte_order_mark_and_unifies_line_ends(tmp_path):
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
    for path in ("", "x\0y"):
        with pytest.raises(ValueError, match="must name a text file") as caught:
            read_text(path)
        assert repr(path) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path):
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


@parity
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


def test_batches_by_hand():
    windows = list(StreamBatches(torch.arange(12), batch_size=2, num_steps=2))
    assert [(x.tolist(), y.tolist()) for x, y in windows] == [
        ([[0, 1], [5, 6]], [[1, 2], [6, 7]]),
        ([[2, 3], [7, 8]], [[3, 4], [8, 9]]),
        ([[4], [9]], [[5], [10]]),
    ]


@pytest.mark.parametrize("length", [13, 100, 101, 127])
@pytest.mark.parametrize(("batch_size", "num_steps"), [(1, 1), (1, 12), (3, 4), (4, 3), (12, 1)])
def test_batches_hold_every_symbol_of_a_stream_once_in_order(length, batch_size, num_steps):
    batches = StreamBatches(torch.arange(length), batch_size, num_steps)
    windows = list(batches)
    assert len(windows) == len(batches)
    x = torch.cat([x for x, _ in windows], dim=1)
    y = torch.cat([y for _, y in windows], dim=1)
    assert torch.equal(y, x + 1)
    assert torch.equal(x.flatten(), torch.arange(x.numel()))
    assert x.numel() == batches.num_symbols
    assert length - 1 - batch_size < x.numel() <= length - 1
    assert all(window.shape == (batch_size, num_steps) for window, _ in windows[:-1])
    # A second pass equals the first.
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(windows, batches, strict=True))


def test_batches_keep_integer_dtypes():
    for dtype in (torch.uint8, torch.int32, torch.int64):
        x, y = next(iter(StreamBatches(torch.arange(9, dtype=dtype), 2, 4)))
        assert x.dtype == y.dtype == dtype


def test_batches_need_one_full_window():
    assert len(StreamBatches(torch.arange(13), 3, 4)) == 1
    message = "it has 12 symbols, but batch_size=3 streams of num_steps=4 need 13"
    with pytest.raises(ValueError, match=message):
        StreamBatches(torch.arange(12), 3, 4)
    with pytest.raises(ValueError, match="it has 1 symbol, but batch_size=1 "):
        StreamBatches(torch.arange(1), 1, 1)


def test_batches_refuse_wrong_arguments():
    ids = torch.arange(100)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.float32"):
        StreamBatches(ids.float(), 2, 2)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got torch.bool"):
        StreamBatches(ids.bool(), 2, 2)
    with pytest.raises(TypeError, match="ids must be a tensor of integers, got list"):
        StreamBatches([1, 2, 3], 1, 1)
    with pytest.raises(ValueError, match=r"ids must be 1-D, got shape \(10, 10\)"):
        StreamBatches(ids.view(10, 10), 2, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        StreamBatches(ids, 0, 2)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got -1"):
        StreamBatches(ids, 2, -1)
