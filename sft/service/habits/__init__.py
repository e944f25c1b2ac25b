"""Other servers' habits: a proxy on this machine that speaks today's API for a server that does not
quite, and the probes that find out what such a server does."""
