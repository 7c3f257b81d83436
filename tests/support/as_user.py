"""The real `avaultd` as an unprivileged user, however deep below root's home the interpreter lies.

``python -P as_user.py UID avaultd's arguments``, as root. Everything is loaded first and root is given up then, since
the other user may not be able to read the interpreter; what is run is ``avault_daemon.main``, from its first statement.
"""

from __future__ import annotations

import codecs
import ctypes
import importlib
import importlib.util
import os
import pkgutil
import sys
from importlib.abc import InspectLoader

MAIN = "avault_daemon.main"
PR_SET_DUMPABLE = 4


def load() -> None:
    """Import all that the daemon is made of, and so what that imports."""
    import avault_daemon

    for module in pkgutil.walk_packages(avault_daemon.__path__, "avault_daemon."):
        importlib.import_module(module.name)
    codecs.lookup("ascii")  # a module, too, and one that is imported when it is first used


def main() -> None:
    uid = int(sys.argv.pop(1))
    load()
    spec = importlib.util.find_spec(MAIN)
    assert spec is not None
    assert isinstance(spec.loader, InspectLoader)
    code = spec.loader.get_code(MAIN)
    assert code is not None
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    # As after an exec by that user: else it would be closed to its equals before the daemon has done anything.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
    exec(code, {"__name__": "__main__", "__package__": "avault_daemon"})


if __name__ == "__main__":
    main()
