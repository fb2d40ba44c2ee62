"""The channel between server and nodes: messages, certificates, enrolment, bulk streams.

One port with TLS 1.3 that nodes dial. What the messages mean, and when which is sent, belongs to
`ruchu.control` and `ruchu.nodes`; here they are carried.
"""
