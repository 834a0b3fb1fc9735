"""A gRPC server of KServe's protocol v2 with one model: what a handler meets that Triton is not
asked to do on purpose.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

Message = Any


class KServe(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`double`: X (FP32 [n]) -> Y, twice as much. Its attributes say how it misbehaves."""

    def __init__(self, port: int = 0, max_batch: int = 8) -> None:
        self.max_batch = max_batch
        self.batches: list[int] = []
        self.fails_with: grpc.StatusCode | None = None
        self.delay = 0.0
        self.short = False
        """Whether it forgets a row."""
        self.broken = False
        """Whether its answers have no numbers, as of a server that is killed meanwhile."""
        self.lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def url(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """At once, with what is under way."""
        self._server.stop(0).wait()

    def ModelMetadata(self, request: Message, context: Message) -> Message:
        if request.name != "double":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        batch = [-1] if self.max_batch else []
        made = service_pb2.ModelMetadataResponse(name="double", versions=["1"])
        made.inputs.add(name="X", datatype="FP32", shape=[*batch, -1])
        made.outputs.add(name="Y", datatype="FP32", shape=[*batch, -1])
        return made

    def ModelConfig(self, _request: Message, _context: Message) -> Message:
        config = model_config_pb2.ModelConfig(name="double", max_batch_size=self.max_batch)
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request: Message, context: Message) -> Message:
        time.sleep(self.delay)
        if self.fails_with is not None:
            context.abort(self.fails_with, "as asked")
        shape = list(request.inputs[0].shape)
        rows = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape)
        if (rows < 0).any():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "negative numbers are not taken")
        with self.lock:
            self.batches.append(shape[0])
        rows = rows[1:] if self.short else rows
        made = service_pb2.ModelInferResponse(model_name="double", id=request.id)
        made.outputs.add(name="Y", datatype="FP32", shape=list(rows.shape))
        made.raw_output_contents.append(b"" if self.broken else (rows * 2).tobytes())
        return made


if __name__ == "__main__":
    import sys

    served = KServe(port=int(sys.argv[1]))
    served.delay = 0.002
    threading.Event().wait()
