"""Sessions: an ONNX file, opened by the backend that the catalog names, behind one interface."""

from worker.models.sessions.session import Port, Session, check_ports, open_session, session_for

__all__ = ("Port", "Session", "check_ports", "open_session", "session_for")
