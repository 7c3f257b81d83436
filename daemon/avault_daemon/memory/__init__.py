"""Memory that holds what is secret, and what is done to it there."""
