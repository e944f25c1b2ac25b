"""The Tinker API: HTTP, sessions, queues, clock cycles, checkpoints on disk."""
