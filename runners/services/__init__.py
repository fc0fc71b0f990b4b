"""The servers of the local stack: one module a server, each a real server in a process of its own."""
