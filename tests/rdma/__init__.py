"""Tests of transport.rdma."""
