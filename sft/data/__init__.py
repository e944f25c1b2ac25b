"""From a file or the Hub to conversations."""
