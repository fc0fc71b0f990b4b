"""The programs that are compared: each is one script that runs as one process."""
