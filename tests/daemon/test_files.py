"""The system calls of a write, put together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from avault_daemon.files import ANEW, Files, beside


class OneByteAtATime(Files):
    """A disk that takes as little as it may."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        return super().write(fd, data[:1])


def test_short_writes_are_carried_on(tmp_path: Path) -> None:
    path = tmp_path / "file"
    OneByteAtATime().write_whole(path, b"the whole of it")
    assert path.read_bytes() == b"the whole of it"


def test_a_whole_write_leaves_nothing_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something much longer")
    Files().write_whole(path, b"short")
    assert path.read_bytes() == b"short"


def test_what_is_written_over_has_the_new_length_and_its_place(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something much longer")
    before = path.stat().st_ino
    for text in (b"short", b"longer than that"):
        OneByteAtATime().write_over(path, text)
        assert (path.read_bytes(), path.stat().st_ino) == (text, before)


def test_names_are_exchanged_where_there_are_two(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    assert not Files().exchange(one, other)
    other.write_bytes(b"2")
    assert Files().exchange(one, other)
    assert (one.read_bytes(), other.read_bytes()) == (b"2", b"1")


def test_an_exchange_that_fails_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="one"):
        Files().exchange(tmp_path / "file" / "one", tmp_path / "file" / "one")


def test_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    assert beside(path) == tmp_path / "file.json.new"
    Files().write_whole(beside(path), b"new")
    assert path.read_bytes() == b"old"
    Files().put_in_place(beside(path), path)
    assert path.read_bytes() == b"new"
    assert not beside(path).exists()


def test_files_are_for_their_owner_alone_and_not_inherited(tmp_path: Path) -> None:
    fd = Files().open(tmp_path / "file", ANEW)
    assert os.fstat(fd).st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Files().open(tmp_path / "link", ANEW)
    assert not (tmp_path / "elsewhere").exists()


def test_descriptors_are_given_back_when_a_write_fails(tmp_path: Path) -> None:
    class Full(Files):
        def write(self, fd: int, data: bytes | memoryview) -> int:
            raise OSError(28, "no space left on device")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no space"):
        Full().write_whole(tmp_path / "file", b"x")
    assert len(os.listdir("/proc/self/fd")) == before
