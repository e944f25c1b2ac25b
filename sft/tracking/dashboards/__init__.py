"""Dashboards beside MLflow: TensorBoard, Weights & Biases, Trackio; and the outbox to them."""
