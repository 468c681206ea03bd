"""``rnnfused eval``."""

import json
import math
import os
import sys

import pytest
import torch
from runs import WRONG_TEXTS, run_command
from test_cli import error_of
from test_evaluate import trap

from rnnfused.lm import (
    CharLM,
    CharLMConfig,
    Vocab,
    WordVocab,
    evaluate_text,
    load_checkpoint,
    save_checkpoint,
)
from rnnfused.lm.cli import main

TEXT = "She sells sea shells by the sea shore.\n" * 30


def saved(folder, vocab, **settings):
    """The name of a folder with a random model."""
    torch.manual_seed(0)
    model = CharLM(CharLMConfig(len(vocab), hidden_size=4, num_layers=1))
    folder.mkdir()
    save_checkpoint(folder, model, vocab, settings=settings)
    return str(folder)


@pytest.fixture
def run(tmp_path):
    return saved(tmp_path / "run", Vocab(TEXT))


def result_of(capsys, *arguments):
    """The JSON object that the command prints, alone on its line."""
    assert main(["eval", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return json.loads(captured.out), captured.err


def test_json(run, book, capsys):
    found, err = result_of(capsys, run, book)
    expected = evaluate_text(load_checkpoint(run).model, Vocab(TEXT), TEXT)
    assert err == ""
    assert found == {
        "level": "char",
        "bits_per_character": pytest.approx(expected.bits_per_character),
        "bits_per_symbol": pytest.approx(expected.bits_per_character),
        "perplexity": pytest.approx(expected.perplexity),
        "symbols": len(TEXT) - 1,
        "unknown_symbols": 0,
        "streams": 1,
        "stuck_streams": [],
    }
    assert found["perplexity"] == pytest.approx(2 ** found["bits_per_character"])


def test_a_sentence(run, book, capsys):
    assert main(["eval", run, book]) == 0
    captured = capsys.readouterr()
    expected = evaluate_text(load_checkpoint(run).model, Vocab(TEXT), TEXT)
    assert captured.out == (
        f"perplexity {expected.perplexity:.4f}, {expected.bits_per_character:.4f} bits per "
        f"character, over {len(TEXT) - 1:,} characters (0 unknown); streams: 1\n"
    )
    assert captured.err == ""


def test_options(run, book, capsys):
    assert result_of(capsys, run, book, "--num-streams", "3")[0]["streams"] == 3
    message = error_of(capsys, ["eval", run, book, "--num-streams", "0"])
    assert "--num-streams must lie in 1 .." in message and "got 0" in message
    assert "--device must be" in error_of(capsys, ["eval", run, book, "--device", "toaster"])
    assert "in 1 .. 1024, got 0" in error_of(capsys, ["eval", run, book, "--threads", "0"])


def test_the_word_level(tmp_path, book, capsys):
    run = saved(tmp_path / "words", WordVocab(TEXT))
    found, _ = result_of(capsys, run, book)
    symbols = 9 * 30
    assert found["level"] == "word" and found["symbols"] == symbols - 1
    per_character = math.log2(found["perplexity"]) * symbols / len(TEXT)
    assert found["bits_per_character"] == pytest.approx(per_character)
    assert main(["eval", run, book]) == 0
    assert "over 269 words and line ends (0 unknown)" in capsys.readouterr().out


def test_the_text_is_prepared_as_in_training(tmp_path, book, capsys):
    letters = Vocab("abcdefghijklmnopqrstuvwxyz ")
    plain = saved(tmp_path / "plain", letters)
    prepared = saved(tmp_path / "prepared", letters, letters_only=True)
    assert result_of(capsys, plain, book)[0]["unknown_symbols"] == 3 * 30 - 1
    found = result_of(capsys, prepared, book)[0]
    assert (found["unknown_symbols"], found["symbols"]) == (0, len(TEXT) - 30 - 1)


def test_unknown_symbols(run, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("She sold XYZ.")
    found = result_of(capsys, run, str(tmp_path / "other.txt"))[0]
    assert (found["symbols"], found["unknown_symbols"]) == (12, 4)


def test_a_stuck_stream_is_reported_and_warned_of(tmp_path, capsys):
    model, vocab, text = trap()
    save_checkpoint(tmp_path, model, vocab)
    path = tmp_path / "text.txt"
    path.write_text(text)
    # The text's own beginning keeps the state out of the attractor.
    found, err = result_of(capsys, str(tmp_path), str(path), "--num-streams", "4")
    assert found["stuck_streams"] == [] and err == ""
    path.write_text(text[1:])
    found, err = result_of(capsys, str(tmp_path), str(path), "--num-streams", "2")
    assert [stuck["stream"] for stuck in found["stuck_streams"]] == [0, 1]
    assert err.startswith("rnnfused: warning: 2 of 2 streams of the evaluation are stuck: stream")
    assert err.count("\n") == 1
    assert main(["eval", str(tmp_path), str(path)]) == 0
    assert "streams: 1, 1 of them stuck\n" in capsys.readouterr().out


def test_one_symbol_is_singular(run, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Sh")
    assert main(["eval", run, str(tmp_path / "a.txt")]) == 0
    assert "over 1 character (0 unknown)" in capsys.readouterr().out
    words = saved(tmp_path / "words", WordVocab(TEXT))
    assert main(["eval", words, str(tmp_path / "a.txt")]) == 2
    assert "is too short: 1 word or line end; it needs" in capsys.readouterr().err


def test_a_broken_model(tmp_path, book, capsys):
    model = CharLM(CharLMConfig(len(Vocab(TEXT)), hidden_size=4, num_layers=1))
    torch.nn.init.constant_(model.head.bias, math.nan)
    save_checkpoint(tmp_path, model, Vocab(TEXT))
    message = error_of(capsys, ["eval", str(tmp_path), book])
    assert message == "the model's loss is not finite; its parameters are broken"


def test_wrong_texts_and_folders(run, tmp_path, capsys):
    def message(content):
        (tmp_path / "a.txt").write_bytes(content)
        return error_of(capsys, ["eval", run, str(tmp_path / "a.txt")])

    for content, reason in WRONG_TEXTS:
        assert reason in message(content)
    assert "is too short: 1 character; it needs at least 2" in message(b"a")
    absent = str(tmp_path / "absent")
    assert error_of(capsys, ["eval", run, absent]).startswith(f"FILE {absent!r} cannot be opened")
    assert "is a folder" in error_of(capsys, ["eval", run, str(tmp_path)])
    assert "model.json is missing" in error_of(capsys, ["eval", absent, absent])
    assert "required: FILE" in error_of(capsys, ["eval", run])
    assert "FILE: must name a file" in error_of(capsys, ["eval", run, ""])


def test_standard_input_of_a_process(run):
    script = f"printf '%s' '{TEXT}' | \"$@\""
    done = run_command("eval", run, "-", "--json", prefix=("bash", "-c", script, "bash"))
    assert done.stderr == "" and json.loads(done.stdout)["symbols"] == len(TEXT) - 1
    closed = run_command("eval", run, "-", prefix=("bash", "-c", '"$@" <&-', "bash"))
    assert closed.returncode == 2
    assert closed.stderr == "rnnfused: error: standard input is closed\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_an_output_that_is_full_or_gone(run, book):
    for redirection, code in ((">/dev/full", 2), ("| true; exit ${PIPESTATUS[0]}", 141)):
        script = f'{{ sleep 0.3; "$@"; }} {redirection}'
        done = run_command("eval", run, book, prefix=("bash", "-c", script, "bash"))
        assert done.returncode == code


def test_help_names_the_arguments(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["eval", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("DIR", "FILE", "--json", "--num-streams"))
    assert sys.stdout is not None
