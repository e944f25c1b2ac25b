"""Every key of a run: its schema, checking, composing, the saved config and `train.Config`."""
