"""The application: routes, errors, limits, headers, and its description as OpenAPI."""

from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from ruchu import __version__
from ruchu.api import (
    describing,
    identity,
    problems,
    routes_accounts,
    routes_alarms,
    routes_audit,
    routes_definitions,
    routes_events,
    routes_files,
    routes_identities,
    routes_inventory,
    routes_nodes,
    routes_overview,
    routes_people,
    routes_points,
    routes_policies,
    routes_progress,
    routes_protection,
    routes_recovery,
    routes_resources,
    routes_runs,
    routes_sessions,
    routes_sites,
    routes_storages,
    routes_system,
    shielding,
    transfers,
)
from ruchu.control.server.services import Services

PREFIX = "/api/v1"
_DESCRIPTION = """
Everything that the console and the command line do. Sign in with `POST /api/v1/sessions`, or use
an API token: `Authorization: Bearer …`. Errors are problems (RFC 9457) with a stable `code`.
Lists are pages: `next` of one is `after` of the following. What can be changed has an ETag, and a
change says with `If-Match` which version it is meant for. A POST with an `Idempotency-Key` is
carried out once, however often it is sent. A thing of a resource group that one may not see is
not there (404).
"""
ROUTERS: tuple[APIRouter, ...] = (
    routes_sessions.router,
    routes_identities.router,
    routes_accounts.router,
    routes_people.router,
    routes_audit.router,
    routes_alarms.router,
    routes_nodes.router,
    routes_inventory.router,
    # Before the points of storages: its addresses hold no id of a point.
    routes_points.router,
    routes_storages.router,
    routes_files.router,
    routes_resources.router,
    routes_recovery.router,
    # Its addresses are meant before those that hold the name of a policy.
    routes_protection.router,
    routes_policies.router,
    routes_runs.router,
    routes_progress.router,
    routes_definitions.router,
    routes_sites.router,
    routes_events.router,
    routes_overview.router,
    routes_system.router,
)
# Endpoints that answer without anybody being signed in.
OPEN = frozenset({
    ("POST", f"{PREFIX}/sessions"),
    ("POST", f"{PREFIX}/administrator"),
    ("POST", f"{PREFIX}/password"),
    ("GET", f"{PREFIX}/oidc"),
    ("GET", f"{PREFIX}/oidc/{{provider}}/begin"),
    ("GET", f"{PREFIX}/oidc/callback"),
    ("GET", f"{PREFIX}/openapi.json"),
    ("GET", f"{PREFIX}/authority"),
    ("GET", "/healthz"),
})  # fmt: skip


def create(services: Services, tell: Callable[[str], None]) -> FastAPI:
    """Return the application over the services of a server; `tell` hears of bugs."""
    app = FastAPI(
        title="Ruchu",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation,
    )
    app.state.services = services
    app.state.tell = tell
    app.state.streams = routes_events.Streams()
    app.state.transfers = transfers.Counters()
    problems.install(app)
    sound = [Depends(identity.sound)]
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX, dependencies=sound)
    app.include_router(routes_system.bare)
    describing.install(app)
    shielding.install(app, services)
    return app


def _operation(route: APIRoute) -> str:
    """Return the name of an operation: that of its function, which is its own."""
    return route.name.removesuffix("_")
