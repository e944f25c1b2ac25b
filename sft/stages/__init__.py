"""Work that takes a while: what is done now, and whether it is still wanted."""
