"""MLflow as a view of a run: the hook, its writer, the mirror of a run, the store."""

from sft.tracking.hook import MlflowHook, check_uri, flush, sync

__all__ = ["MlflowHook", "check_uri", "flush", "sync"]
