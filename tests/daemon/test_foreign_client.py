"""A MessagePack-RPC client that we did not write (pynvim's) talks to both sockets of a real daemon."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pynvim.msgpack_rpc as rpc  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest

from support.daemon import running_daemon

PASSPHRASE = b"correct horse battery staple"
VALUE = b"7250119083:AAF-a-token"
_rpc: Any = rpc


@contextmanager
def session(path: Path) -> Generator[Any]:
    # Without its socket_session(), which greets Neovim first, by a method whose name is no string.
    loop = _rpc.EventLoop("socket", str(path))
    session = _rpc.Session(_rpc.AsyncSession(_rpc.MsgpackStream(loop)))
    session.error_wrapper = lambda error: _rpc.ErrorResponse(error["code"] + ": " + error["message"])
    try:
        yield session
    finally:
        session.close()


def test_a_foreign_client_uses_both_sockets(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        with session(daemon.runtime_dir / "operator.sock") as operator:
            assert operator.request("status")["state"] == "uninitialized"
            operator.request("init", {"log_n": 16}, PASSPHRASE)
            items = [{"name": "TOKEN", "size": len(VALUE), "encoding": "text"}]
            assert operator.request("put", {"items": items}, VALUE)["stored"] == [
                {"name": "TOKEN", "version": 1}
            ]
            grant = {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]}
            operator.request("grant", grant)
            assert operator.request("reveal", {"name": "TOKEN"})[1] == VALUE
            with pytest.raises(_rpc.ErrorResponse, match="unknown method"):
                operator.request("no_such_method")
            assert operator.request("list")["secrets"][0]["readers"] == ["cobot/telegram"]
        with session(daemon.runtime_dir / "agent.sock") as agent:
            hello = {"protocol": 1, "plugin": "telegram", "secrets": ["TOKEN"]}
            assert agent.request("hello", hello)["granted"] == ["TOKEN"]
            about, value = agent.request("get_secret", {"name": "TOKEN"})
            assert value == VALUE
            assert about == {"name": "TOKEN", "version": 1, "encoding": "text"}
            with pytest.raises(_rpc.ErrorResponse, match="not_granted"):
                agent.request("get_secret", {"name": "OTHER"})
