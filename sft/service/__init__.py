"""The local service as a child process: its address, its key, its end."""
