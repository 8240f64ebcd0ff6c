"""Door: how bytes come in: ports, TLS, WebSocket, the first byte that decides."""
