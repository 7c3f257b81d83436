from __future__ import annotations

import pytest

from avault_daemon.confine import landlock

ALL_FILES_OF_1 = 0x1FFF


@pytest.mark.parametrize(
    ("abi", "files", "tcp", "scopes", "size"),
    [
        (1, ALL_FILES_OF_1, 0, 0, 8),
        (2, 0x3FFF, 0, 0, 8),
        (3, 0x7FFF, 0, 0, 8),
        (4, 0x7FFF, 3, 0, 16),
        (5, 0xFFFF, 3, 0, 16),
        (6, 0xFFFF, 3, 3, 24),
        (7, 0xFFFF, 3, 3, 24),
        (99, 0xFFFF, 3, 3, 24),
    ],
)
def test_each_version_is_asked_for_all_that_it_knows_and_no_more(
    abi: int, files: int, tcp: int, scopes: int, size: int
) -> None:
    assert landlock.handled(abi, network=False) == (files, tcp, scopes)
    assert landlock._size(abi) == size  # pyright: ignore[reportPrivateUsage]


def test_with_network_only_listening_is_handled() -> None:
    assert landlock.handled(7, network=True)[1] == landlock.BIND_TCP
    assert landlock.handled(3, network=True)[1] == 0


def test_nothing_may_be_run_nor_made_but_files_directories_and_sockets() -> None:
    never = (
        landlock.EXECUTE | landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.MAKE_FIFO | landlock.MAKE_SYM
    )
    assert (landlock.WRITE | landlock.READ) & (never | landlock.IOCTL_DEV) == 0
    assert landlock.WRITE & landlock.READ == landlock.READ
