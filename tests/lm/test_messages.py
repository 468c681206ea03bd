"""Output and messages of the command: bounded, and without characters that steer a terminal."""

import argparse
import sys

import pytest
import torch
from runs import TINY
from test_cli import error_of

from rnnfused.lm import CheckpointError
from rnnfused.lm.cli import main
from rnnfused.lm.commands.options import name_options, naming_options
from rnnfused.lm.messages import one_line, printable, shorten
from rnnfused.lm.settings import _devices, check_device

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
        (["train", LONG, "--out", "x"], "File name too long"),
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


def test_messages_name_options():
    command = argparse.ArgumentParser()
    command.add_argument("file", metavar="FILE")
    for option in ("--num-steps", "--lr", "--valid", "--text-size"):
        command.add_argument(option)
    command.add_argument("--save-every", dest="save_minutes")
    command.add_argument("--resume", action="store_true")
    for message, expected in (
        ("num_steps must be 1", "--num-steps must be 1"),
        ("use a smaller num_steps", "use a smaller --num-steps"),
        ("lower lr=0.1 or num_steps=3", "lower --lr 0.1 or --num-steps 3"),
        ("save_minutes must be finite", "--save-every must be finite"),
        ("not with valid='a', but valid='b c'", "not with --valid a, but --valid 'b c'"),
        ("go on with resume=True", "go on with --resume"),
        ("text file 'a' is empty", "FILE 'a' is empty"),
        ("valid file 'a' is empty", "--valid file 'a' is empty"),
        ("text must be that of the run", "FILE must be that of the run"),
        # Words, values and names of others stay.
        ("text is too short, not valid", "text is too short, not valid"),
        ("prefix must hold 'lr must', got \"num_steps\"",) * 2,
        ("the model's lr=3 of 'lr=3'", "the model's --lr 3 of 'lr=3'"),
        ("--lr must be 1, max_num_steps and num_steps-1",) * 2,
    ):
        assert name_options(message, command) == expected
    with pytest.raises(ValueError, match="^--lr must be 1$"), naming_options(command):
        raise ValueError("lr must be 1")
    with pytest.raises(CheckpointError, match="^num_steps must be 1$"), naming_options(command):
        raise CheckpointError("num_steps must be 1")


@pytest.mark.parametrize("device", ["xla", "foo", "", "meta"])
def test_a_device_that_this_machine_lacks(capsys, device):
    found = _devices()
    assert found[0] == "cpu" and len(found) == 1 + torch.accelerator.device_count()
    for command in (["train", "--out", "x"], ["eval", "x", "y"], ["sample", "x", "--prefix", "a"]):
        message = error_of(capsys, [*command, "--device", device])
        need = f"--device must be one that works here, {' or '.join(found)}"
        assert message == f"{need}, got {device!r}"


def test_a_device_that_exists_and_fails(monkeypatch):
    with pytest.raises(ValueError, match="works here, cpu.*, got 'cpu:x': Invalid device string"):
        check_device("cpu:x")

    def zeros(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.\nSee its docs.")

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr("rnnfused.lm.settings._devices", lambda: ["cpu", "cuda:0"])
    with pytest.raises(ValueError, match=r"cpu or cuda:0, got 'cuda': CUDA out of memory$"):
        check_device("cuda")


def test_a_message_keeps_head_and_tail():
    assert shorten("short") == "short"
    text = "head" + "-" * 1000 + "tail"
    for most in (10, 100, 501):
        assert len(shorten(text, most)) == most
    assert shorten(text, 20).startswith("head") and shorten(text, 20).endswith("tail")
    assert len(one_line(f"got {LONG!r}")) == 500
