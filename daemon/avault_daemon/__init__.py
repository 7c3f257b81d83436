"""The avault daemon: unlocks a vault, keeps it in memory that nobody reads, answers who may ask."""

__version__ = "0.1.0"
