"""Evaluation: metrics and the scoring of bundles on sessions."""
