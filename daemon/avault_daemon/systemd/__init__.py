"""What is systemd's: sockets, notifications, journal, credentials, units."""
