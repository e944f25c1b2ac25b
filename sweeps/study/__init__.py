"""The study: its storage, its ledger, and which of its trials are alive."""
