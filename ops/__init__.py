"""What stands around training: metrics, exporter, previews."""
