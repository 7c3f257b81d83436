"""The operating system's keyring, reached through a helper."""
