"""The command ``rnnfused``: exit codes, messages and files."""

import builtins
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from runs import TINY, WRONG_TEXTS, run_command

import rnnfused
from rnnfused.lm import TrainSettings, load_checkpoint
from rnnfused.lm.checkpoint import lock, run_folder
from rnnfused.lm.checkpoint.lock import LOCK
from rnnfused.lm.cli import main
from rnnfused.lm.commands import train as train_command

TEXT = "She sells sea shells by the sea shore. " * 30


@pytest.fixture
def run(tmp_path, book, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", book, "--out", folder, *TINY]) == 0
    capsys.readouterr()
    return folder


def error_of(capsys, arguments):
    """The single line on stderr, without its prefix."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    head, _, message = captured.err.strip().partition("rnnfused: error: ")
    assert head == ""
    return message


def test_train_and_sample(tmp_path, book, capsys):
    folder = str(tmp_path / "run")
    assert main(["train", book, "--out", folder, *TINY, "--seed", "3", "--prefix", "sea"]) == 0
    captured = capsys.readouterr()
    assert "epoch 1/1" in captured.out and "\nsample:\nsea" in captured.out
    assert captured.err == ""
    record = load_checkpoint(folder).record
    assert record["settings"]["source"] == book
    assert record["settings"]["seed"] == 3
    assert record["config"]["hidden_size"] == 8

    sample = ["sample", folder, "--prefix", "She ", "--num-chars", "20", "--seed", "0"]
    assert main(sample) == 0
    first = capsys.readouterr().out
    assert first.startswith("She ") and len(first) == 25
    assert main(sample) == 0
    assert capsys.readouterr().out == first


def test_every_setting_reaches_the_run(monkeypatch, tmp_path, book):
    calls = []
    monkeypatch.setattr(
        train_command, "train", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    wanted = {
        "level": "word",
        "min_count": 2,
        "hidden_size": 5,
        "num_layers": 3,
        "nonlinearity": "relu",
        "embedding_size": 5,
        "dropout": 0.125,
        "recurrent_init": "uniform",
        "num_steps": 6,
        "batch_size": 7,
        "sampler": "random",
        "epochs": 9,
        "optimizer": "adam",
        "lr": 0.25,
        "schedule": "constant",
        "clip": 2.5,
        "average": 0.75,
        "precision": "bfloat16",
        "eval_steps": 12,
        "patience": 13,
        "save_steps": 14,
        "seed": 11,
        "device": "cpu",
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in wanted.items()]
    flags += ["--letters-only", "--tied", "--betas", "0.5", "0.25", "--save-every", "1.5"]
    files = ["--valid", "v.txt", "--test", "t.txt"]
    files += ["--tensorboard", "--profile-gradients", "--overwrite"]
    assert main(["train", book, "--out", "x", *flags, *files, "--threads", "2"]) == 0
    (text, out, settings), keywords = calls[0]
    wanted |= {"letters_only": True, "tied": True, "betas": [0.5, 0.25], "save_minutes": 1.5}
    # Without effect beside those, or beside --valid.
    others = {
        "validation_fraction": 0.25,
        "reset_probability": 0.5,
        "weight_decay": 0.5,
        "warmup": 0.5,
        "final_lr": 0.25,
        "minutes": 2.5,
    }
    defaults = TrainSettings().to_json()
    assert settings.to_json() == defaults | wanted
    # None of them is a default, which would pass without its option.
    every = wanted | others
    assert [name for name in defaults if defaults[name] == every.get(name, defaults[name])] == [
        "device"
    ]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in others.items()]
    assert main(["train", "--out", "x", *flags]) == 0
    assert calls[1][0][2].to_json() == defaults | others
    assert out == "x" and text == Path(book)
    assert keywords == {
        "prefix": None,
        "source": book,
        "valid": Path("v.txt"),
        "test": Path("t.txt"),
        "resume": False,
        "overwrite": True,
        "tensorboard": True,
        "profile_gradients": True,
    }
    assert torch.get_num_threads() == 2


def test_the_length_of_a_run(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(train_command, "train", lambda *args, **_: calls.append(args[2]))
    assert main(["train", "--out", "x", "--minutes", "2.5"]) == 0
    assert calls[0].minutes == 2.5
    # The older name.
    assert main(["train", "--out", "x", "--passes", "3"]) == 0
    assert calls[1].epochs == 3 and calls[1].minutes is None
    message = error_of(capsys, ["train", "--out", "x", "--epochs", "3", "--minutes", "2"])
    assert "--minutes: not allowed with argument --epochs" in message


@pytest.mark.parametrize(
    "pair", ["--resume --overwrite", "--valid a --validation-fraction 0.2"], ids=str
)
def test_options_that_exclude_each_other(capsys, pair):
    message = error_of(capsys, ["train", "--out", "x", *pair.split()])
    first, second = (word for word in pair.split() if word.startswith("--"))
    assert f"argument {second}: not allowed with argument {first}" in message


def test_resume_takes_text_and_settings_from_the_run(tmp_path, book, run, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(train_command, "train", lambda *args, **kw: calls.append((args, kw)))
    assert main(["train", "--out", run, "--resume", "--save-steps", "5"]) == 0
    (text, _, settings), keywords = calls[0]
    assert text == Path(book) and keywords["resume"] and keywords["valid"] is None
    assert settings.hidden_size == 8 and settings.epochs == 1 and settings.save_steps == 5
    absent = str(tmp_path / "absent")
    message = error_of(capsys, ["train", "--out", absent, "--resume"])
    assert message == f"nothing to resume: no checkpoint in {absent!r}: model.json is missing"
    assert not os.path.exists(absent)


def test_a_run_on_standard_input_is_resumed_with_it(tmp_path):
    out = tmp_path / "run"
    options = ["train", "-", "--out", out, *TINY]
    assert run_command(*options, input=TEXT).returncode == 0
    assert load_checkpoint(out).record["settings"]["source"] == "-"
    done = run_command("train", "--out", out, "--resume")
    assert done.returncode == 2 and "FILE must be - again" in done.stderr
    done = run_command("train", "-", "--out", out, "--resume", input=TEXT)
    assert done.returncode == 0 and "the run is finished" in done.stdout


def test_another_text_is_named_as_the_user_named_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("a", TEXT), ("b", TEXT[::-1]), ("v", TEXT[:300])):
        (tmp_path / f"{name}.txt").write_text(text)
    need = "FILE must be that of the run that is resumed"
    assert main(["train", "a.txt", "--out", "run", *TINY]) == 0
    resume = ["train", "--resume", "--out", "run"]
    assert error_of(capsys, [*resume, "b.txt"]) == f"{need}, 'a.txt', got 'b.txt'"
    assert error_of(capsys, [*resume, "--valid", "v.txt"]) == (
        f"{need}, 'a.txt', got 'a.txt' with validation text 'v.txt'"
    )
    (tmp_path / "a.txt").write_text(TEXT[::-1])
    assert error_of(capsys, resume) == f"{need}, but it has changed: 'a.txt'"
    monkeypatch.setattr(sys, "stdin", open("v.txt", encoding="utf-8"))
    with sys.stdin:
        assert error_of(capsys, [*resume, "-"]) == f"{need}, 'a.txt', got standard input"


def test_as_a_module_of_the_package():
    done = run_command("--version", module="rnnfused")
    assert (done.returncode, done.stdout) == (0, f"rnnfused {rnnfused.__version__}\n")


def test_default_text(monkeypatch):
    texts = []
    monkeypatch.setattr(train_command, "train", lambda text, *_, **__: texts.append(text))
    assert main(["train", "--out", "x"]) == 0
    assert len(texts[0]) > 300_000


def test_letters_only_holds_for_the_sample_too(tmp_path, book, capsys):
    folder = str(tmp_path / "run")
    # "B" and ",": the text has them in another form, or not at all.
    train = ["train", book, "--out", folder, *TINY, "--letters-only", "--prefix", "By, the"]
    assert main(train) == 0
    assert "sample:\nby the" in capsys.readouterr().out
    assert main(["sample", folder, "--prefix", "By, the", "--num-chars", "3"]) == 0
    assert capsys.readouterr().out.startswith("by the")
    assert "at least one character" in error_of(capsys, ["sample", folder, "--prefix", ""])


@pytest.mark.parametrize("settings", [None, [], {}, {"letters_only": "yes"}])
def test_a_record_without_the_setting_has_its_prefix_as_it_is(run, capsys, settings):
    path = os.path.join(run, "model.json")
    record = json.loads(open(path).read())
    with open(path, "w") as file:
        json.dump(record | {"settings": settings}, file)
    assert main(["sample", run, "--prefix", "She", "--num-chars", "3"]) == 0
    assert capsys.readouterr().out.startswith("She")


def test_version_and_help(capsys):
    for arguments, expected in (
        (["--version"], f"rnnfused {rnnfused.__version__}\n"),
        (["--help"], "fetch-timemachine"),
        (["train", "--help"], "--validation-fraction"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert expected in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_says_how_a_prefix_is_read(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "unknown words are read as <unk>" in " ".join(capsys.readouterr().out.split())


def test_help_without_docstrings(capsys, monkeypatch):
    # As under python -OO, which would have to compile all of torch for this test.
    ours = [name for name in sys.modules if name.partition(".")[0] == "rnnfused"]
    assert "rnnfused.lm.cli" in ours
    for name in ours:
        monkeypatch.setattr(sys.modules[name], "__doc__", None)
    for arguments in ([], ["train"], ["sample"], ["fetch-timemachine"]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith("usage: rnnfused")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["dance"], "invalid choice: 'dance'"),
        (["train"], "the following arguments are required: --out"),
        (["train", "--out", "x", "--passes", "many"], "--passes: invalid int value: 'many'"),
        (["train", "--out", "x", "--hidden-size", "0"], "--hidden-size must be at least 1, got 0"),
        (["train", "--out", "x", "--lr", "nan"], "--lr must be above 0 and at most 1, got nan"),
        (
            ["train", "--out", "x", "--device", "toaster"],
            "--device must be one that works here, ",
        ),
        (["train", "--out", "x", "--hidden-size", "1" + "0" * 23], "at most 2147483647, got 1000"),
        (["train", "--out", "x", "--num-layers", "1" * 5000], "--num-layers: invalid int value"),
        (["train", "--out", "x", "--threads", "0"], "--threads must lie in 1 .. 1024, got 0"),
        (["sample", "x", "--prefix", "a", "--threads", "200000"], "in 1 .. 1024, got 200000"),
        (["train", "--out", ""], "--out: must name a folder, without NUL characters, got ''"),
        (
            ["train", "--out", "x\0y"],
            r"--out: must name a folder, without NUL characters, got 'x\x00",
        ),
        (["train", "", "--out", "x"], "FILE: must name a file, without NUL characters, got ''"),
        (
            ["sample", "", "--prefix", "a"],
            "DIR: must name a folder, without NUL characters, got ''",
        ),
        (["fetch-timemachine", "--timeout", "inf"], "at most 86400 seconds, got inf"),
        (["sample", "x"], "the following arguments are required: --prefix"),
        (["fetch-timemachine", "--url", "ftp://x"], "--url must begin with http:// or https://"),
        (
            ["fetch-timemachine", "--url", "http://[::1"],
            "--url must be an address such as http://host/path, got 'http://[::1': Invalid IPv6 URL",
        ),
    ],
)
def test_wrong_command_lines(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNNFUSED_CACHE", str(tmp_path))
    assert message in error_of(capsys, arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--schedule constant --warmup 0.1",
            "--warmup must not be given with --schedule constant, where it has no effect: it "
            "needs --schedule cosine",
        ),
        ("--schedule constant --final-lr 0.5", "--final-lr must not be given with --schedule "),
        (
            "--optimizer sgd --betas 0.5 0.9",
            "--betas must not be given with --optimizer sgd, where it has no effect: it needs "
            "--optimizer adam or --optimizer adamw",
        ),
        ("--optimizer sgd --weight-decay 0.1", "--weight-decay must not be given with --optim"),
        ("--optimizer adam --weight-decay 0.1", "it needs --optimizer adamw"),
        (
            "--sampler random --reset-probability 0.1",
            "--reset-probability must not be given with --sampler random, where it has no effect:"
            " it needs --sampler streams",
        ),
        ("--sampler uniform --reset-probability 0.1", "with --sampler uniform, where it has no"),
        # Their defaults have no effect either.
        ("--schedule constant --warmup 0.05", "--warmup must not be given with --schedule "),
        ("--optimizer sgd --betas 0.9 0.999", "--betas must not be given with --optimizer "),
    ],
)
def test_options_without_effect_are_refused(tmp_path, book, capsys, options, message):
    out = tmp_path / "run"
    assert message in error_of(capsys, ["train", book, "--out", str(out), *options.split()])
    assert not out.exists()


def test_wrong_texts(tmp_path, book, capsys):
    def message(content, *more):
        (tmp_path / "a.txt").write_bytes(content)
        return error_of(
            capsys, ["train", str(tmp_path / "a.txt"), "--out", str(tmp_path / "run"), *more]
        )

    for content, reason in WRONG_TEXTS:
        assert reason in message(content)
    assert "too short: 3 characters" in message(b"abc")
    assert "--batch-size 16 streams of --num-steps 64 need 1025" in message(b"abc " * 100)
    assert "got 'Z' at position 0" in message(TEXT.encode(), "--prefix", "Z", *TINY)
    absent = str(tmp_path / "absent.txt")
    out = ["--out", str(tmp_path / "run")]
    reason = f"file {absent!r} cannot be opened: No such file or directory"
    assert error_of(capsys, ["train", absent, *out]) == reason.replace("file", "FILE", 1)
    for option in ("--valid", "--test"):
        assert error_of(capsys, ["train", book, option, absent, *out]) == f"{option} {reason}"
    assert "FILE" in error_of(capsys, ["train", str(tmp_path), *out])
    assert error_of(capsys, ["train", book, "--valid", "-", "--test", "-", *out]) == (
        "--test must be a file: standard input ('-') can be only one of the texts"
    )
    if os.path.exists("/proc/self/mem"):
        reason = "FILE '/proc/self/mem' cannot be read: Input/output error"
        assert error_of(capsys, ["train", "/proc/self/mem", *out]) == reason
    assert not (tmp_path / "run").exists()


def test_a_model_too_large_for_the_memory(tmp_path, book, capsys):
    size = ["--hidden-size", str(2**31 - 1)]
    arguments = ["train", book, "--out", str(tmp_path / "run"), *TINY, *size]
    assert error_of(capsys, arguments).startswith("out of memory: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("book.txt", "out must name a folder, but 'book.txt' is a file"),
        ("book.txt/run", "out must name a folder, but 'book.txt' is a file"),
        ("link", "but 'link' is a symbolic link that points nowhere: to 'absent'"),
        ("link/run", "but 'link' is a symbolic link that points nowhere: to 'absent'"),
        ("loop", "but 'loop' is a symbolic link that points nowhere: to 'loop'"),
    ],
)
def test_out_that_is_no_folder(tmp_path, book, capsys, monkeypatch, out, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("absent")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir())
    assert message in error_of(capsys, ["train", book, "--out", out, *TINY])
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "name",
    [
        "model.json",
        "metrics.jsonl",
        "loss.png",
        "gradients.json",
        LOCK,
        "model-0123456789abcdef.safetensors",
    ],
)
def test_a_folder_with_the_name_of_an_output_is_refused_before_training(
    tmp_path, book, capsys, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rnnfused.lm.model.CharLM.forward", None)  # is not reached
    (tmp_path / "run" / name).mkdir(parents=True)
    message = error_of(capsys, ["train", book, "--out", "run", *TINY])
    assert message.startswith(f"'run/{name}' is a folder, but a run writes a file of that name")
    assert os.listdir("run") == [name]


def test_a_lock_that_is_a_link_is_named(tmp_path, book, capsys):
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / LOCK
    link.symlink_to(book)
    message = error_of(capsys, ["train", book, "--out", str(tmp_path / "run"), *TINY])
    assert message.startswith(f"out folder {str(tmp_path / 'run')!r} cannot be written to: ")
    assert message.endswith(f": {str(link)!r}")


def test_a_folder_that_is_removed_during_the_run_is_named(tmp_path, book, capsys, monkeypatch):
    out, real = tmp_path / "run", run_folder.describe

    def describe(*arguments):
        shutil.rmtree(out)
        return real(*arguments)

    for function in (lock.fcntl, None):
        monkeypatch.setattr(lock, "fcntl", function)
        monkeypatch.setattr(run_folder, "describe", describe)
        message = error_of(capsys, ["train", book, "--out", str(out), *TINY])
        assert f"folder {str(out)!r} is no longer locked by this run" in message
        assert message.endswith("it was removed or moved")
        assert not out.exists()


def test_wrong_samples(run, tmp_path, capsys):
    sample = ["sample", run, "--prefix", "She"]
    assert "model.json is missing" in error_of(
        capsys, ["sample", str(tmp_path / "absent"), "--prefix", "She"]
    )
    assert "prefix must hold at least one" in error_of(capsys, ["sample", run, "--prefix", ""])
    assert "got 'Z' at position 2" in error_of(capsys, ["sample", run, "--prefix", "aaZ"])
    assert "--num-chars must be at least 0" in error_of(capsys, [*sample, "--num-chars", "-1"])
    message = error_of(capsys, [*sample, "--num-chars", "99999999999999"])
    assert message.startswith("--num-chars must be smaller: 1 x 99999999999999 symbols")
    assert "--temperature must be finite" in error_of(capsys, [*sample, "--temperature", "-1"])
    assert "--device must be" in error_of(capsys, [*sample, "--device", "toaster"])
    assert "seed" in error_of(capsys, [*sample, "--seed", str(2**70)])
    weights = load_checkpoint(run).record["weights"]
    with open(os.path.join(run, weights), "ab") as file:
        file.write(b"!")
    assert f"{weights} or model.json" in error_of(capsys, sample)


def test_options_of_sample(run, capsys):
    def sample(*options):
        assert main(["sample", run, "--prefix", "She", "--num-chars", "30", *options]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    greedy = sample("--greedy")
    assert len(greedy) == 34 and greedy == sample("--temperature", "0") == sample("--top-k", "1")
    assert greedy == sample("--top-p", "0.000001")
    warm = sample("--temperature", "3", "--seed", "5")
    assert warm not in (greedy, sample("--temperature", "3", "--seed", "6"))
    many = sample("--temperature", "3", "--seed", "5", "--num-samples", "20")
    parts = re.split(r"--- sample (\d+) ---\n", many)
    assert parts[1::2] == [str(number) for number in range(1, 21)]
    assert parts[2] == warm and len(set(parts[2::2])) == 20
    assert {len(part) for part in parts[2::2]} == {34}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--temperature", "1"], "not allowed with argument --greedy"),
        (["--greedy", "--top-k", "3"], "--top-k must not be given with --greedy, which does not"),
        (["--greedy", "--seed", "3"], "--seed must not be given with --greedy, which does not"),
        (
            ["--temperature", "0", "--top-p", "0.5"],
            "--top-p must not be given with --temperature 0, which does not draw",
        ),
        (["--top-k", "0"], "--top-k must be at least 1, got 0"),
        (["--top-p", "1.5"], "--top-p must lie in (0, 1], got 1.5"),
        (["--num-samples", "0"], "--num-samples must be at least 1, got 0"),
    ],
)
def test_wrong_options_of_sample(run, capsys, options, message):
    assert message in error_of(capsys, ["sample", run, "--prefix", "She", *options])
    assert capsys.readouterr().out == ""


def test_a_sample_is_shown_as_it_comes(run):
    # The reader closes the pipe after a few characters of a text without end.
    endless = ["sample", run, "--prefix", "She", "--num-chars", str(10**8)]
    done = shell('"$@" | head -c 1000; exit ${PIPESTATUS[0]}', *endless)
    assert (done.returncode, done.stderr) == (141, "")
    assert len(done.stdout) == 1000 and done.stdout.startswith("She")


@pytest.mark.parametrize("library", ["tqdm", "matplotlib", "safetensors"])
def test_missing_library_names_the_extra(tmp_path, book, capsys, monkeypatch, library):
    real_import = builtins.__import__

    def without(name, *arguments):
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    message = error_of(capsys, ["train", book, "--out", str(tmp_path / "run"), *TINY])
    assert library in message and message.endswith("pip install 'rnnfused[lm]'")
    assert not (tmp_path / "run").exists()


def test_other_missing_modules_are_bugs_and_propagate(monkeypatch):
    def broken(*_):
        raise ModuleNotFoundError("No module named 'rnnfused.absent'", name="rnnfused.absent")

    monkeypatch.setattr(train_command, "run", broken)
    with pytest.raises(ModuleNotFoundError):
        main(["train", "--out", "x"])


def test_an_interrupt_before_training_leaves_the_earlier_run(run, book, capsys, monkeypatch):
    def contents():
        return {entry.name: open(entry.path, "rb").read() for entry in os.scandir(run)}

    def interrupted(*_):
        raise KeyboardInterrupt

    before = contents()
    monkeypatch.setattr("rnnfused.lm.run.windows_of", interrupted)
    assert main(["train", book, "--out", run, *TINY]) == 130
    assert capsys.readouterr().err == "rnnfused: interrupted\n"
    assert contents() == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FloatingPointError("diverged"), "diverged"),
        (RuntimeError("can't allocate\nmemory"), "out of memory: can't allocate memory"),
        (RuntimeError("Storage size calculation overflowed"), "out of memory: Storage size"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(28, "No space left on device", "a"), "No space left on device: 'a'"),
    ],
)
def test_external_failures_are_one_line(capsys, monkeypatch, error, message):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(train_command, "train", failing)
    assert error_of(capsys, ["train", "--out", "x"]).startswith(message)


def test_a_bug_is_not_reported_as_a_user_error(monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(train_command, "train", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["train", "--out", "x"])


def test_as_a_program_with_ascii_output_and_no_terminal(tmp_path):
    (tmp_path / "book.txt").write_text("naïve café — " * 100, encoding="utf-8")
    arguments = ["train", tmp_path / "book.txt", "--out", tmp_path / "run", *TINY]
    done = run_command(*arguments, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "sample:\nna\\xefve" in done.stdout
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["epoch"] == 1


def shell(script, *arguments, **options):
    """Run a line of bash in which ``$@`` is the command ``rnnfused`` with ``arguments``."""
    return run_command(*arguments, prefix=("bash", "-c", script, "bash"), **options)


@pytest.mark.parametrize(
    ("redirection", "silent"), [(">&-", True), ("2>&-", False), (">&- 2>&-", True)]
)
def test_closed_streams(tmp_path, book, redirection, silent):
    done = shell(f'"$@" {redirection}', "train", book, "--out", str(tmp_path / "run"), *TINY)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("epoch 1/1" in done.stdout) != silent
    load_checkpoint(tmp_path / "run")


def test_errors_do_not_go_to_stdout_when_stderr_is_closed():
    done = shell('"$@" 2>&-', "dance")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_broken_pipe_is_not_a_success(tmp_path, book, run):
    train = ["train", book, "--out", str(tmp_path / "new"), *TINY]
    # The reader is gone before the first byte.
    to_nobody = '{ sleep 0.5; "$@"; } | true; exit ${PIPESTATUS[0]}'
    for arguments in (train, ["sample", run, "--prefix", "She"], ["--help"], ["--version"]):
        done = shell(to_nobody, *arguments)
        assert (done.returncode, done.stderr) == (141, ""), arguments
    # So is an error message that nobody reads.
    done = shell(to_nobody.replace('"$@"', '"$@" 2>&1'), "dance")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_output_is_reported(run, book):
    sample = ["sample", run, "--prefix", "She"]
    for unbuffered, arguments in (
        ("", sample),
        ("1", sample),
        ("", ["--help"]),
        ("", ["train", book, "--out", run, *TINY]),
    ):
        done = shell(f'PYTHONUNBUFFERED={unbuffered} "$@" >/dev/full', *arguments)
        assert done.returncode == 2
        reason = "stdout cannot be written to: No space left on device"
        assert done.stderr == f"rnnfused: error: {reason}\n"
    assert shell('"$@" >/dev/full 2>&1', "sample", run, "--prefix", "She").returncode == 2


def test_a_wrong_instruction_set_is_one_line(run):
    sample = ["sample", str(run), "--prefix", "t"]
    done = run_command(*sample, RNNFUSED_CPU_CAPABILITY="none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and 'RNNFUSED_CPU_CAPABILITY is "none"' in done.stderr
