"""The sockets of agents and operators: bytes in, answers out."""
