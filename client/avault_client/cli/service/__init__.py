"""avault as a service of systemd: its units, the files that they become, the manager that runs them."""
