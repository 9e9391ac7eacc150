"""A burst engine as a service: control and status over HTTP, metrics for Prometheus. Needs the extra `serve`."""
