"""`avaultd` to which a passphrase costs next to nothing, where no cost is asked for: ``python -P as_cheap.py avaultd's arguments``.

For tests of what people type, again and again; its settings say nothing of ``log_n``.
"""

from __future__ import annotations

from avault_daemon.main import assemble, main
from avault_daemon.settings import Settings

if __name__ == "__main__":
    for function, cost in ((assemble, "min_log_n"), (Settings.__init__, "log_n")):
        assert function.__kwdefaults__ is not None
        function.__kwdefaults__[cost] = 1
    main()
