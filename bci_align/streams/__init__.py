"""Transports: LSL and ZeroMQ on one contract."""
