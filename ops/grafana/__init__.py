"""Dashboards as code: what is committed under dashboards/ is what `python -m ops.grafana` writes."""
