"""TLS before a server that has none: `python tls_proxy.py CERTIFICATE PORT SERVER SERVERS_PORT`."""

import socket
import ssl
import sys
import threading
from pathlib import Path


def listen(certificate: Path | str, address: tuple[str, int], server: tuple[str, int]) -> socket.socket:
    """Take TLS from each connection to an address and pass it on to a server, until the returned socket is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(address)
    threading.Thread(target=_serve, args=(listener, context, server), daemon=True).start()
    return listener


def _serve(listener: socket.socket, context: ssl.SSLContext, server: tuple[str, int]) -> None:
    while True:
        try:
            connection = context.wrap_socket(listener.accept()[0], server_side=True)
        except (ssl.SSLError, ConnectionError):  # the client refused the certificate
            continue
        except OSError:
            return
        try:
            other = socket.create_connection(server)
        except OSError:
            connection.close()
            continue
        for ends in ((connection, other), (other, connection)):
            threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for one in (source, sink):
        one.close()


if __name__ == "__main__":
    certificate, port, name, servers_port = sys.argv[1:]
    listen(certificate, ("", int(port)), (name, int(servers_port)))
    threading.Event().wait()
