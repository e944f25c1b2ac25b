"""What of a conversation a chat template leaves out: pieces, their places, and marks in doubt."""
