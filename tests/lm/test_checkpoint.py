"""Saving and loading: the record, and damaged or hostile files. See test_commit.py for crashes."""

import json
import re

import pytest
import torch
from runs import contents, kept, to_format_1, to_format_2, weights_of

from rnnfused.lm import (
    CharLM,
    CharLMConfig,
    CheckpointError,
    Vocab,
    load_checkpoint,
    save_checkpoint,
)
from rnnfused.lm.checkpoint import _sum
from rnnfused.lm.checkpoint.atomic import remove_temporaries, replacing
from rnnfused.lm.checkpoint.store import content_name


@pytest.fixture
def folder(tmp_path, model, vocab):
    save_checkpoint(tmp_path, model, vocab, settings={"lr": 0.1}, metrics=[{"pass": 1}])
    return tmp_path


def edit(folder, **changes):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | changes))


def seal(folder, **changes):
    """Edit the record and update its sum."""
    edit(folder, **changes)
    record = json.loads((folder / "model.json").read_text())
    vocab = Vocab.from_json(record["vocab"])
    edit(folder, sha256=_sum(record["config"], vocab, weights_of(folder).read_bytes()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_gives_identical_logits(tmp_path, model, vocab, dtype):
    model.to(dtype).eval()
    save_checkpoint(tmp_path, model, vocab)
    loaded = load_checkpoint(tmp_path)
    assert loaded.vocab == vocab
    assert loaded.model.config == model.config
    assert not loaded.model.training
    ids = torch.randint(len(vocab), (2, 30))
    assert torch.equal(loaded.model(ids)[0], model(ids)[0])
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_record(folder):
    record = load_checkpoint(folder).record
    assert record["format"] == 3
    assert sorted(contents(folder)) == kept(folder)
    assert record["weights"] == content_name("weights", weights_of(folder).read_bytes())
    assert record["settings"] == {"lr": 0.1}
    assert record["metrics"] == [{"pass": 1}]
    assert set(record["versions"]) == {"rnnfused", "torch", "python"}


def test_missing(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent': model.json is missing"):
        load_checkpoint(tmp_path / "absent")
    weights_of(folder).unlink()
    with pytest.raises(FileNotFoundError, match=r"model-\w{16}.safetensors is missing"):
        load_checkpoint(folder)


def test_damaged_weights(folder):
    path = weights_of(folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model-\w{16}.safetensors .* is damaged"):
        load_checkpoint(folder)
    path.write_bytes(data[:50])
    with pytest.raises(CheckpointError, match=r"model-\w{16}.safetensors .* is damaged"):
        load_checkpoint(folder)


def test_weights_that_are_not_safetensors(folder):
    weights_of(folder).write_bytes(b"nonsense")
    seal(folder)
    with pytest.raises(CheckpointError, match="does not fit the config"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}"],
    ids=["empty", "open", "bytes", "deep", "digits"],
)
def test_record_that_is_not_json(folder, data):
    (folder / "model.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="model.json' is not JSON"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "data", [b"[]", b"null", b"{}", b'{"format": 4}', b'{"format": true}', b'{"format": 1.0}']
)
def test_record_of_another_format(folder, data):
    (folder / "model.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="must be a checkpoint of format 1 to 3, got"):
        load_checkpoint(folder)


def test_a_newer_format_is_named(folder):
    edit(folder, format=4)
    with pytest.raises(CheckpointError, match="got format 4: a newer rnnfused wrote it; update"):
        load_checkpoint(folder)


def test_which_model_is_one_of_two_words(folder, model):
    with pytest.raises(ValueError, match="which must be 'best' or 'last', got 'first'"):
        load_checkpoint(folder, which="first")
    # A folder with one model has it as both.
    loaded = load_checkpoint(folder, which="last")
    assert torch.equal(loaded.model.head.bias, model.head.bias)


def test_record_with_broken_parts(folder, model, vocab):
    config = model.config.to_json()
    for change, message in (
        ({"config": None}, "config must have the fields"),
        ({"config": config | {"hidden_size": "12"}}, "hidden_size must be an int"),
        ({"config": config | {"hidden_size": 10**30}}, "hidden_size must be at most"),
        ({"config": config | {"num_layers": 10**9}}, "num_layers must be at most"),
        ({"config": config, "vocab": ["a"]}, "tokens must be a list"),
        ({"vocab": vocab.to_json()[:-1]}, "vocab has .* symbols, but config"),
        ({"vocab": vocab.to_json()[:1]}, "vocab has 1 symbol, but config"),
    ):
        edit(folder, **change)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)


def test_weights_of_another_shape(folder, model):
    seal(folder, config=model.config.to_json() | {"hidden_size": 13})
    with pytest.raises(CheckpointError, match="does not fit the config"):
        load_checkpoint(folder)
    # Too large for a tensor even without storage.
    seal(folder, config=model.config.to_json() | {"hidden_size": 2**31 - 1})
    with pytest.raises(CheckpointError, match="does not fit the config"):
        load_checkpoint(folder)
    # Terabytes, if allocated before the comparison.
    seal(folder, config=model.config.to_json() | {"hidden_size": 10**6})
    with pytest.raises(CheckpointError, match="does not fit the config"):
        load_checkpoint(folder)
    seal(folder, config=model.config.to_json() | {"num_layers": 1})
    with pytest.raises(CheckpointError, match="does not fit the config"):
        load_checkpoint(folder)


def test_the_sum_covers_config_and_vocabulary(folder, model, vocab):
    config, tokens = model.config.to_json(), vocab.to_json()
    for change in (
        {"vocab": tokens[:1] + tokens[:0:-1]},
        {"config": config | {"nonlinearity": "relu"}},
        {"config": config | {"dropout": 0.4}},
        {"sha256": None},
    ):
        before = contents(folder)
        edit(folder, **change)
        with pytest.raises(CheckpointError, match="SHA-256 sum of weights, config and vocab"):
            load_checkpoint(folder)
        (folder / "model.json").write_bytes(before["model.json"])
    # The order of the fields and the white space have no effect.
    edit(folder, config=dict(reversed(config.items())))
    load_checkpoint(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_weights_of_another_dtype(folder, model, vocab, dtype):
    from safetensors.torch import save_file

    if dtype is None:
        model.head.float()
    else:
        model.to(dtype)
    before = contents(folder)
    with pytest.raises(ValueError, match="must be float32 or float64, all of the same, got torch"):
        save_checkpoint(folder, model, vocab)
    assert contents(folder) == before
    save_file(model.state_dict(), weights_of(folder))
    seal(folder)
    with pytest.raises(CheckpointError, match="must be float32 or float64, all of the same"):
        load_checkpoint(folder)


def test_files_of_two_runs(folder, tmp_path, vocab):
    other = tmp_path / "other"
    other.mkdir()
    config = CharLMConfig(len(vocab), hidden_size=12, num_layers=2, dropout=0.3)
    save_checkpoint(other, CharLM(config), vocab)
    weights_of(other).replace(weights_of(folder))
    with pytest.raises(CheckpointError, match="not of the same run"):
        load_checkpoint(folder)


def test_save_refuses_values_that_json_cannot_hold(folder, model, vocab):
    before = contents(folder)
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(folder, model, vocab, metrics=[{"loss": float("nan")}])
    assert contents(folder) == before
    with pytest.raises(FileNotFoundError):
        save_checkpoint(folder / "absent", model, vocab)


@pytest.mark.parametrize("format", [1, 2])
def test_earlier_formats_load_and_are_replaced(folder, model, vocab, format):
    name = weights_of(folder).name
    [to_format_1, to_format_2][format - 1](folder)
    assert set(contents(folder)) == {"model.json", ["model.safetensors", name][format - 1]}
    loaded = load_checkpoint(folder)
    assert loaded.record["format"] == format and loaded.record["settings"] == {"lr": 0.1}
    assert torch.equal(loaded.model.head.bias, model.head.bias)
    save_checkpoint(folder, model, vocab)
    assert sorted(contents(folder)) == kept(folder)
    load_checkpoint(folder)


def test_format_1_is_validated_like_format_2(folder):
    to_format_1(folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="model.safetensors or model.json .* is damaged"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "name",
    [
        None,
        1,
        [],
        "",
        ".",
        "../secret",
        "/etc/passwd",
        "model.json",
        "sub/model-0123456789abcdef",
        "../model-0123456789abcdef.safetensors",
        "model-0123456789abcdef.safetensors\n",
        "model-0123456789ABCDEF.safetensors",
        "model-\u0661123456789abcdef.safetensors",
        "x" * 100_000,
    ],
)
def test_a_record_cannot_name_files_elsewhere(folder, name):
    edit(folder, weights=name)
    with pytest.raises(
        CheckpointError, match="weights must be a file name such as model-"
    ) as caught:
        load_checkpoint(folder)
    assert len(str(caught.value)) < 700
    edit(folder, weights=["deep"], format=2)
    with pytest.raises(CheckpointError, match="weights must be a file name"):
        load_checkpoint(folder)


def test_messages_about_hostile_records_are_short(folder, model):
    config = model.config.to_json()
    long = "x" * 100_000
    for change in (
        {"format": long},
        {"config": {long: 1}},
        {"config": config | {"hidden_size": long}},
        {"config": config | {"hidden_size": 10**4000}},
        {"config": config | {"nonlinearity": long}},
        {"config": config | {"dropout": long}},
    ):
        before = contents(folder)
        edit(folder, **change)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder)
        assert len(str(caught.value)) < 700
        (folder / "model.json").write_bytes(before["model.json"])


def test_messages_about_hostile_weights_are_short(folder):
    from safetensors.torch import save_file

    save_file({f"{index}" * 500: torch.zeros(1) for index in range(300)}, weights_of(folder))
    seal(folder)
    with pytest.raises(CheckpointError, match="does not fit the config") as caught:
        load_checkpoint(folder)
    assert len(str(caught.value)) < 900


def test_replacing(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as [new]:
        new.write_text("half")
        raise ZeroDivisionError
    assert contents(tmp_path) == {"a": b"old"}
    with replacing(path) as [new]:
        new.write_text("new")
        assert path.read_text() == "old"
    assert contents(tmp_path) == {"a": b"new"}
    # A block that writes only one of two files replaces neither.
    with pytest.raises(FileNotFoundError), replacing(path, tmp_path / "b") as [new, _]:
        new.write_text("newer")
    assert contents(tmp_path) == {"a": b"new"}


def test_only_our_own_temporaries_are_removed(tmp_path):
    ours = [".a.json.0123abcd.tmp", ".a.json.ffffffff.tmp"]
    others = ["a.json", ".a.json.0123abcd", ".a.json.0123abc.tmp", ".b.json.0123abcd.tmp", ".tmp"]
    for name in [*ours, *others]:
        (tmp_path / name).write_text("x")
    remove_temporaries(tmp_path, re.compile(r"a\.json"), seconds=1000)
    assert sorted(contents(tmp_path)) == sorted([*ours, *others])
    remove_temporaries(tmp_path, re.compile(r"a\.json"))
    assert sorted(contents(tmp_path)) == sorted(others)
    remove_temporaries(tmp_path / "absent", re.compile("a"))
