"""What is in force, found by trying: of the daemon's process, its sockets, its machine and its units.

One noun a module; each check is a function that returns findings, and takes what it looks at (``root``, the top of the
file system) as a parameter, so that a test can put another in its place. `avault_client.cli.commands.doctor` asks them.
"""
