"""Sessions: an ONNX file, opened by the backend that the catalog names, behind one interface."""

from worker.models.sessions.session import Port, Session, open_session

__all__ = ("Port", "Session", "open_session")
