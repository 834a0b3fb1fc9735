"""The dependencies that FastAPI passes to the routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.services import Services


async def _services(request: Request) -> Services:  # a plain def would go to the thread pool
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
