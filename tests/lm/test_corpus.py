"""Texts become ids, in memory or in mapped files, whatever the size of the pieces."""

import gc
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources import markov

from rnnfused.lm import (
    RandomWindows,
    StreamBatches,
    TextError,
    Vocab,
    WordVocab,
    build_corpus,
    encode_text,
    letters_only,
    reading,
)
from rnnfused.lm.mapped import mapped_tensor
from rnnfused.lm.progress import progress_bar
from rnnfused.lm.reading import TextFile, decoded

TEXT = "The cat sat on the mat.\nThe d\u00f6g \U0001f600 did not,\n\nbut it s\u00e4t too.\n" * 12


@pytest.fixture
def file(book):
    return Path(book)


def same(one, other):
    assert one.vocab == other.vocab
    for name in ("train", "valid", "test"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b) and a.dtype == b.dtype
    assert one.num_characters == other.num_characters
    assert one.num_unknown == other.num_unknown


# ---- reading


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 2**20])
def test_a_file_in_pieces_of_any_size(monkeypatch, tmp_path, size):
    monkeypatch.setattr(reading, "_PIECE", size)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffna\u00efve\r\ncaf\u00e9\r\r\n\n\U0001f600 end\r".encode())
    with TextFile(path) as file:
        for _ in range(2):
            seen = []
            pieces = list(file.pieces(seen.append))
            assert "".join(pieces) == "na\u00efve\ncaf\u00e9\n\n\n\U0001f600 end\n"
            assert all(pieces)
            assert sum(seen) == file.size == path.stat().st_size


@pytest.mark.parametrize("size", [1, 2, 3, 2**20])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "text file .* is empty$"),
        (b"\xef\xbb\xbf", "is empty except for a byte order mark$"),
        (b"plain\x00text", "is binary: NUL byte at byte offset 5"),
        (b"caf\xc3\xa9 then \xff", "not UTF-8: byte 0xff at byte offset 11"),
        (b"\xf0\x9f\x98\x80\xf0\x9f\x98", "not UTF-8: byte 0xf0 at byte offset 4"),
        (b"\xf0\x9f\x98\x80\xf0\x9fx", "not UTF-8: byte 0xf0 at byte offset 4"),
        (b"ab\xe2\x82", "not UTF-8: byte 0xe2 at byte offset 2 .unexpected end of data"),
    ],
)
def test_errors_name_the_byte_across_pieces(monkeypatch, tmp_path, size, data, message):
    monkeypatch.setattr(reading, "_PIECE", size)
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(TextError, match=message) as caught:
        build_corpus(path)
    assert str(path) in str(caught.value)


def test_a_mark_within_the_text_stays():
    assert "".join(decoded([b"a\xef\xbb", b"\xbfb"], "x")) == "a\ufeffb"


# ---- corpora


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"letters_only": True},
        {"min_count": 20},
        {"level": "word"},
        {"level": "word", "min_count": 13, "letters_only": True},
        {"validation_fraction": 0.31, "test_fraction": 0.17},
        {"level": "word", "validation_fraction": 0.31, "test_fraction": 0.17},
    ],
    ids=str,
)
def test_files_and_texts_give_the_same_corpus(monkeypatch, file, options):
    whole = build_corpus(TEXT, **options)
    for size in (3, 50, 2**20):
        monkeypatch.setattr(reading, "_PIECE", size)
        monkeypatch.setattr("rnnfused.lm.vocab._PIECE", size)
        same(build_corpus(file, **options), whole)
        same(build_corpus(TEXT, **options), whole)


def test_characters_by_hand():
    corpus = build_corpus(TEXT, validation_fraction=0.25)
    cut = len(TEXT) - len(TEXT) // 4
    assert corpus.vocab == Vocab(TEXT[:cut]) and corpus.vocab.level == "char"
    assert corpus.train.dtype == corpus.valid.dtype == torch.uint8
    assert corpus.vocab.decode(corpus.train) == TEXT[:cut]
    assert corpus.vocab.decode(corpus.valid) == TEXT[cut:]
    assert corpus.test is None
    assert corpus.num_characters == {"train": cut, "valid": len(TEXT) - cut}
    assert corpus.num_unknown == {"train": 0, "valid": 0}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 2**15])
def test_words_by_hand(monkeypatch, size):
    monkeypatch.setattr("rnnfused.lm.vocab._PIECE", size)
    text = "a  b c\n\nd e f\n g h   "
    corpus = build_corpus(text, level="word", validation_fraction=0.3, test_fraction=0.21)
    # Symbols: a b c <eos> <eos> d | e f <eos> | g h. Both fractions are of 11 symbols.
    assert corpus.vocab == WordVocab("a b c\n\nd")
    assert corpus.train.tolist() == [2, 3, 4, 1, 1, 5]
    assert corpus.valid.tolist() == [0, 0, 1]
    assert corpus.test.tolist() == [0, 0]
    # A part ends with its last symbol, the last one with the text.
    assert corpus.num_characters == {"train": 9, "valid": 5, "test": 7}
    assert sum(corpus.num_characters.values()) == len(text)
    assert corpus.num_unknown == {"train": 0, "valid": 2, "test": 2}


def test_further_files(tmp_path, file):
    (tmp_path / "valid.txt").write_text("The cat zat.\n")
    (tmp_path / "test.txt").write_text("It did not.\n")
    for level, symbols in (("char", 13), ("word", 4)):
        corpus = build_corpus(file, valid=tmp_path / "valid.txt", test="It did not.\n", level=level)
        # Nothing is held out of the training text.
        assert corpus.vocab == (Vocab if level == "char" else WordVocab)(TEXT)
        assert corpus.num_characters == {"train": len(TEXT), "valid": 13, "test": 12}
        assert len(corpus.valid) == symbols and corpus.num_unknown["valid"] == 1
    from_file = build_corpus(file, valid="a b", test=tmp_path / "test.txt", level="word")
    assert torch.equal(from_file.test, corpus.test)


def test_letters_only(file):
    corpus = build_corpus(file, letters_only=True)
    letters = letters_only(TEXT)
    text = corpus.vocab.decode(torch.cat([corpus.train, corpus.valid]))
    assert text == letters and "\u00f6" not in corpus.vocab
    assert sum(corpus.num_characters.values()) == len(letters)


def test_rare_symbols_are_unknown():
    corpus = build_corpus("aaabbc" * 3 + "z" + "ab" * 2, min_count=4, validation_fraction=0.2)
    assert corpus.vocab.idx_to_token == ["<unk>", "a", "b"]
    assert corpus.num_unknown == {"train": 4, "valid": 0}


def test_a_given_vocabulary_is_used(file):
    vocab = Vocab("The cat")
    corpus = build_corpus(file, vocab=vocab)
    assert corpus.vocab is vocab and corpus.num_unknown["train"] > 100
    encoded = encode_text(file, vocab)
    assert torch.equal(encoded.ids, torch.cat([corpus.train, corpus.valid]))
    assert encoded.num_unknown == sum(corpus.num_unknown.values())
    assert encoded.num_characters == len(TEXT)
    with pytest.raises(ValueError, match="vocab must have level='word', got one of level 'char'"):
        build_corpus(file, vocab=vocab, level="word")


@pytest.mark.parametrize("level", ["char", "word"])
def test_standard_input(monkeypatch, tmp_path, file, level):
    whole = build_corpus(TEXT, level=level)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    same(build_corpus(Path("-"), level=level, folder=tmp_path), whole)
    for data, message in ((b"", "standard input is empty"), (b"a\xff", "byte offset 1")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        with pytest.raises(TextError, match=message):
            build_corpus(Path("-"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TextError, match="standard input is closed"):
        build_corpus(Path("-"))
    with pytest.raises(ValueError, match="valid must be a file: standard input .* only one of"):
        build_corpus(Path("-"), valid=Path("-"))


def test_standard_input_that_cannot_be_read(monkeypatch):
    class Broken(io.RawIOBase):
        def readinto(self, _):
            raise OSError(5, "Input/output error")

        def readable(self):
            return True

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Broken())))
    with pytest.raises(OSError, match="standard input cannot be read: Input/output error"):
        build_corpus(Path("-"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("abcdefghijkl", {}, "text is too short: 12 characters; .* 11 for train, 1 for valid"),
        ("a", {"valid": "abc"}, "text is too short: 1 character; it needs at least 2"),
        ("abc", {"valid": "a"}, "validation text is too short: 1 character;"),
        ("abc", {"valid": "abc", "test": "a"}, "test text is too short: 1 character;"),
        ("a b\n", {"level": "word"}, "too short: 3 words and line ends; .* 3 for train"),
        (
            "a b c",
            {"level": "word", "valid": "a"},
            "validation text is too short: 1 word or line end;",
        ),
        ("?!", {"valid": "abc", "letters_only": True}, "text is too short: 1 character;"),
    ],
)
def test_texts_too_short(tmp_path, text, options, message):
    with pytest.raises(TextError, match=message):
        build_corpus(text, **options)
    (tmp_path / "a.txt").write_text(text)
    if "validation" not in message and "test text" not in message:
        with pytest.raises(TextError, match="a.txt' is too short"):
            build_corpus(tmp_path / "a.txt", **options)


def test_wrong_arguments(tmp_path, file):
    for name in ("validation_fraction", "test_fraction"):
        for wrong in (1, -0.1, 1.5, float("nan")):
            with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1, got"):
                build_corpus(TEXT, **{name: wrong})
    with pytest.raises(ValueError, match="must leave text to train on, got 0.5 and 0.6"):
        build_corpus(TEXT, validation_fraction=0.5, test_fraction=0.6)
    for options in (
        {"validation_fraction": 0.2, "valid": TEXT},
        {"test_fraction": 0.2, "test": TEXT},
        {"min_count": 2, "vocab": Vocab(TEXT)},
    ):
        name, other = options
        with pytest.raises(ValueError, match=f"{name} must not be given with {other}, where it"):
            build_corpus(TEXT, **options)
    with pytest.raises(ValueError, match="level must be 'char' or 'word', got 'line'"):
        build_corpus(TEXT, level="line")
    for wrong in (b"text", 7):
        with pytest.raises(TypeError, match="text must be a str or a path, got"):
            build_corpus(wrong)
    with pytest.raises(TypeError, match="valid must be a str or a path, got bytes"):
        build_corpus(TEXT, valid=b"text")
    # All are opened before any is read.
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        build_corpus(file, valid=tmp_path / "absent.txt")


def test_a_file_that_grows_or_shrinks_meanwhile(monkeypatch, file):
    counted = WordVocab.from_counts
    for changed in (TEXT + "more", TEXT[:100]):

        def change(*arguments):
            file.write_text(changed)
            return counted(*arguments)

        file.write_text(TEXT)
        monkeypatch.setattr(WordVocab, "from_counts", change)
        with pytest.raises(TextError, match="book.txt' was changed while it was read"):
            build_corpus(file, level="word", letters_only=True)


# ---- mapped files


def open_files():
    return [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc")
def test_mapped_files_have_no_name_and_vanish(tmp_path, file):
    folder = tmp_path / "ids"
    folder.mkdir()

    def used():
        return str(folder) in Path("/proc/self/maps").read_text()

    corpus = build_corpus(file, folder=folder)
    assert used() and os.listdir(folder) == []
    part = corpus.valid
    del corpus
    gc.collect()
    assert used() and part.sum() > 0
    del part
    gc.collect()
    assert not used()
    # Nor is anything left after an error.
    with pytest.raises(TextError):
        build_corpus(file, valid="x", folder=folder)
    gc.collect()
    assert not used() and not [name for name in open_files() if str(folder) in name]
    # A text given as a str stays in memory.
    kept = build_corpus(TEXT, folder=folder)
    assert not used() and len(kept.train) > 0


def test_a_folder_that_cannot_take_the_ids_is_named(monkeypatch, tmp_path, file):
    with pytest.raises(FileNotFoundError) as caught:
        build_corpus(file, folder=tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value.filename)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        build_corpus(file, folder=tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_a_mapped_tensor_without_fallocate(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    for size, dtype in ((1, torch.uint8), (700_000, torch.int32)):
        ids = mapped_tensor(size, dtype, tmp_path)
        assert ids.shape == (size,) and ids.dtype == dtype and not ids.any()
        ids[-1] = 7
        assert ids[-1] == 7


LIMITED = """
import resource, sys
from pathlib import Path
from rnnfused.lm import RandomWindows, StreamBatches, build_corpus

level, small, large = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
build_corpus(small, level=level)
# All memory of the process but for shared mappings of files, in kilobytes.
status = Path("/proc/self/status").read_text().splitlines()
used = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((used + 10_000) * 1024,) * 2)
corpus = build_corpus(large, level=level)
windows = RandomWindows(corpus.train, 16, 1000)
for batches in (StreamBatches(corpus.train, 16, 1000), windows.epoch(0)):
    for x, y in batches:
        assert x.shape == y.shape
print(corpus.num_characters["train"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by a setting of Linux")
@pytest.mark.parametrize("level", ["char", "word"])
def test_memory_does_not_grow_with_the_file(tmp_path, level):
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    text = re.sub("a", " ", markov(num_symbols=8).text(100_000)) + "\n"
    # More than two pieces, so that the memory of one is not counted.
    small.write_text(text * 25)
    # 20 MB, but the limit allows 10 more: even at one byte per character, the ids do not fit.
    large.write_text(text * 200)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, level, small, large],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-300:]
    assert int(done.stdout) == pytest.approx(18e6, rel=0.01)


# ---- progress


def test_a_bar_where_there_is_a_terminal(monkeypatch, capsys):
    import tqdm

    made = []
    real = tqdm.tqdm.__init__

    def init(self, *arguments, **options):
        made.append(options)
        real(self, *arguments, **options)

    monkeypatch.setattr(tqdm.tqdm, "__init__", init)
    for progress in (None, False, True):
        with progress_bar("work", 10, "B", progress) as advance:
            advance(10)
    assert [options["disable"] for options in made] == [None, True, False]
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar("work", 10, "B", None) as advance:
        advance(10)
    assert made[-1]["disable"] is True


def test_files_show_the_bars_of_their_passes(monkeypatch, file):
    from contextlib import contextmanager

    shown = []

    @contextmanager
    def bar(description, total, unit, progress):
        done = []
        try:
            yield done.append
        finally:
            shown.append((description.split()[0], sum(done) == total, progress))

    monkeypatch.setattr("rnnfused.lm.corpus.progress_bar", bar)
    build_corpus(file, progress=True)
    assert [work for work, _, _ in shown] == ["counting", "reading", "encoding"]
    assert shown[0][1] and shown[2][1] and all(progress for _, _, progress in shown)
    shown.clear()
    build_corpus(TEXT, progress=True)
    assert shown == []


# ---- windows of mapped ids


def test_windows_of_mapped_ids(file):
    mapped, kept = build_corpus(file).train, build_corpus(TEXT).train
    for one, other in zip(StreamBatches(mapped, 3, 7), StreamBatches(kept, 3, 7), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        assert one[0].dtype == torch.uint8
    pairs = zip(RandomWindows(mapped, 3, 7).epoch(1), RandomWindows(kept, 3, 7).epoch(1))
    for one, other in pairs:
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
        assert one[0].dtype == torch.uint8
