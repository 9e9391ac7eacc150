"""A burst engine as a service: control and status over HTTP, metrics for Prometheus. Needs gpu-npu[serve]."""
