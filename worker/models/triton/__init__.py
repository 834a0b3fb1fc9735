"""Models that run in Triton Inference Server, or another of KServe's protocol v2 (gRPC)."""
