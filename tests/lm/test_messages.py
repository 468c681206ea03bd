"""Output and messages of the command: bounded, and without characters that steer a terminal."""

import sys

import pytest
from runs import TINY
from test_cli import error_of

from rnnfused.lm.cli import main
from rnnfused.lm.messages import one_line, printable, shorten

HOSTILE = "a\x1b]0;x\x07b\r\x7f\x9b\u202e\u2066\ufeff\u2028\u200c\u00e9\t\n"
HARMLESS = "a\\x1b]0;x\\x07b\\r\\x7f\\x9b\\u202e\\u2066\\ufeff\\u2028\u200c\u00e9\t\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_control_characters_are_escaped_on_a_terminal_only(tmp_path, capsys, monkeypatch, terminal):
    (tmp_path / "book.txt").write_text(HOSTILE * 60, newline="")
    # Reading turns a lone carriage return into a newline.
    prefix = HOSTILE.replace("\r", "\n")
    expected = HARMLESS.replace("\\r", "\n") if terminal else prefix
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    train = ["train", str(tmp_path / "book.txt"), "--out", str(tmp_path / "run"), *TINY]
    assert main([*train, "--prefix", prefix]) == 0
    assert "sample:\n" + expected in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run"), "--prefix", prefix]) == 0
    out = capsys.readouterr().out
    assert out.startswith(expected)
    assert ("\x1b" in out) != terminal


def test_printable():
    assert printable(HOSTILE) == HARMLESS
    assert printable("plain\n\ttext") == "plain\n\ttext"
    family = "\U0001f468\u200d\U0001f469 \u0645\u06cc\u200c\u062e"
    assert printable(family) == family
    for code in [*range(32), *range(0x7F, 0xA0)]:
        if chr(code) not in "\n\t":
            assert printable(chr(code)).startswith("\\")


LONG = "x" * 83_000


@pytest.mark.parametrize(
    ("arguments", "tail"),
    [
        (["train", LONG, "--out", "x"], "xxx'"),
        (["train", "--out", LONG], "File name too long"),
        (["sample", LONG, "--prefix", "a"], ""),
        (["train", "--out", "x", "--device", LONG], ""),
        (["train", "--out", "x", "--passes", LONG], "(see rnnfused train --help)"),
        (["train", "--out", "x", "--hidden-size", "9" * 4000], "..."),
        ([LONG], "(see rnnfused --help)"),
        (["train", "--out", "x", "--" + LONG], "(see rnnfused --help)"),
        (["fetch-timemachine", "--url", LONG], "xxx'"),
        (["fetch-timemachine", "--url", "http://127.0.0.1:1/" + LONG], "refused"),
        (["fetch-timemachine", "--url", "http://" + LONG], ""),
        (["train", "--out", "x", "a", "\x1b[2J\u202e"], "\\x1b[2J\\u202e (see rnnfused --help)"),
    ],
    ids=range(12),
)
def test_messages_are_short_and_printable(capsys, monkeypatch, tmp_path, arguments, tail):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNNFUSED_CACHE", str(tmp_path))
    message = error_of(capsys, arguments)
    assert len(message) < 600
    assert message.isprintable()
    assert tail == "..." and "..." in message or message.rstrip(")]").endswith(tail.rstrip(")]"))


def test_a_message_keeps_head_and_tail():
    assert shorten("short") == "short"
    text = "head" + "-" * 1000 + "tail"
    for most in (10, 100, 501):
        assert len(shorten(text, most)) == most
    assert shorten(text, 20).startswith("head") and shorten(text, 20).endswith("tail")
    assert len(one_line(f"got {LONG!r}")) == 500
