"""A MessagePack-RPC client that we did not write (pynvim's) talks to both sockets of a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.daemon import running_daemon

# In a process of its own, as any client is.
CLIENT = """
import os, sys
import pynvim.msgpack_rpc as rpc

PASSPHRASE, VALUE = b"correct horse battery staple", b"7250119083:AAF-a-token"

def connect(path):
    # Without its socket_session(), which greets Neovim first, by a method whose name is no string.
    loop = rpc.EventLoop("socket", path)
    session = rpc.Session(rpc.AsyncSession(rpc.MsgpackStream(loop)))
    session.error_wrapper = lambda error: rpc.ErrorResponse(error["code"])
    return session

def refused(session, code, *call):
    try:
        session.request(*call)
    except rpc.ErrorResponse as error:
        assert str(error) == code, error
    else:
        raise AssertionError(call)

operator = connect(sys.argv[1] + "/operator.sock")
assert operator.request("status")["state"] == "uninitialized"
operator.request("init", {"log_n": 16}, PASSPHRASE)
items = [{"name": "TOKEN", "size": len(VALUE), "encoding": "text"}]
assert operator.request("put", {"items": items}, VALUE)["stored"] == [{"name": "TOKEN", "version": 1}]
operator.request("grant", {"agent": "cobot", "plugin": "telegram", "secrets": ["TOKEN"], "uids": [os.getuid()]})
assert operator.request("reveal", {"name": "TOKEN"})[1] == VALUE
refused(operator, "bad_request", "no_such_method")
refused(operator, "not_found", "rm", {"name": "NOWHERE"})
assert operator.request("list")["secrets"][0]["readers"] == ["cobot/telegram"]

agent = connect(sys.argv[1] + "/agent.sock")
assert agent.request("hello", {"protocol": 1, "plugin": "telegram", "secrets": ["TOKEN"]})["granted"] == ["TOKEN"]
about, value = agent.request("get_secret", {"name": "TOKEN"})
assert (about, value) == ({"name": "TOKEN", "version": 1, "encoding": "text"}, VALUE)
refused(agent, "not_granted", "get_secret", {"name": "OTHER"})
refused(agent, "bad_request", "lock")
print("all as specified")
"""


def test_a_foreign_client_uses_both_sockets(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        said = subprocess.run(
            [sys.executable, "-c", CLIENT, daemon.runtime_dir],
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
        )
        assert said.stdout == "all as specified\n", said.stderr
