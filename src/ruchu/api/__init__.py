"""The HTTP interface of a server, under /api/v1: requests in, calls of services, documents out.

Nothing is decided here but who asks and whether they may; everything else is a service of
`ruchu.control`.
"""
